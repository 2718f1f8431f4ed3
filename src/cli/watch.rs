//! `status -w`: the state as it changes. On a terminal it is redrawn in place; in a pipe each change is a line, and only
//! a change is.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{interval, sleep, timeout};

use super::{
    client::Events,
    failure::{Exit, Failure},
    output::{Output, control, print, size},
    render::{Line, status_line},
    session::Session,
    signals::Signals,
    sse::Message,
};
use crate::{
    admin::api::{EventMessage, StateMessage},
    switch::{AppName, AppStatus},
};

/// How often what moves without an event is drawn again, and a lost server is asked for.
const TICK: Duration = Duration::from_secs(1);

/// Shows the apps: a row each, or an only one in full. Programs get a list in any case, so that they need not change on the
/// day a second app comes.
pub(crate) fn show(session: &Session, apps: &Vec<AppStatus>) -> Result<(), Failure> {
    match apps.as_slice() {
        [only] if session.output.is_text() => session.output.show(only),
        _ => session.output.show(apps),
    }
}

/// Shows the state of `app`, or of all, until it is interrupted.
pub(crate) async fn run(session: &Session, app: Option<AppName>) -> Result<Exit, Failure> {
    let query = app.as_ref().map(|app| format!("?app={app}")).unwrap_or_default();
    let path = format!("/events{query}");
    // A server that is not there, or an app that does not exist, is an error at the start only.
    let events = session.client.events(&path).await?;
    if session.output.is_live() {
        redraw(session, app.as_ref(), events, &path).await
    } else {
        print_changes(session, app.as_ref(), events, &path).await
    }
}

async fn print_changes(
    session: &Session,
    app: Option<&AppName>,
    mut events: Events,
    path: &str,
) -> Result<Exit, Failure> {
    let (mut apps, mut printed) = (Apps::default(), BTreeMap::new());
    let mut tick = interval(TICK);
    loop {
        loop {
            tokio::select! {
                message = events.next() => match message {
                    Ok(Some(message)) => apps.take(&message),
                    Ok(None) | Err(_) => break,
                },
                // Some of what a line shows, such as how many endpoints are ready, can change without an event.
                _ = tick.tick() => apps.refresh(session, app).await,
            }
            for app in apps.0.values() {
                let line = status_line(app);
                if printed.get(&app.name) != Some(&line) {
                    session.output.show_next(&Line(app))?;
                    printed.insert(app.name.clone(), line);
                }
            }
        }
        events = again(session, path).await;
    }
}

async fn redraw(session: &Session, app: Option<&AppName>, mut events: Events, path: &str) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let mut tick = interval(TICK);
    let mut apps = Apps::default();
    let screen = Screen::enter()?;
    loop {
        tokio::select! {
            () = signals.end() => break,
            message = events.next() => match message {
                Ok(Some(message)) => apps.take(&message),
                Ok(None) | Err(_) => {
                    screen.draw(&apps.text(session.output)?, "the server does not answer; trying again")?;
                    tokio::select! {
                        () = signals.end() => break,
                        again = again(session, path) => events = again,
                    }
                }
            },
            _ = tick.tick() => apps.refresh(session, app).await,
        }
        screen.draw(&apps.text(session.output)?, "")?;
    }
    drop(screen);
    show(session, &apps.list())?;
    Ok(Exit::Done)
}

/// A new stream, as soon as there is one.
async fn again(session: &Session, path: &str) -> Events {
    loop {
        sleep(TICK).await;
        if let Ok(events) = session.client.events(path).await {
            return events;
        }
    }
}

/// The last known state of each app.
#[derive(Default)]
struct Apps(BTreeMap<String, AppStatus>);

impl Apps {
    fn take(&mut self, message: &Message) {
        if message.event == "state" {
            match serde_json::from_str(&message.data) {
                Ok(StateMessage::One(app)) => self.replace(vec![*app]),
                Ok(StateMessage::All(apps)) => self.replace(apps),
                Err(_) => {}
            }
        } else if let Ok(EventMessage { event, state }) = serde_json::from_str(&message.data) {
            match state {
                Some(state) => self.0.insert(event.app, state),
                None => self.0.remove(&event.app),
            };
        }
    }

    /// In-flight counts and drains move without an event.
    async fn refresh(&mut self, session: &Session, app: Option<&AppName>) {
        let look = async {
            match app {
                Some(app) => session.status(app).await.map(|status| vec![status]),
                None => session.apps().await,
            }
        };
        // A server that is slow to answer must not hold up the keyboard.
        if let Ok(Ok(apps)) = timeout(TICK, look).await {
            self.replace(apps);
        }
    }

    fn replace(&mut self, apps: Vec<AppStatus>) {
        self.0 = apps.into_iter().map(|app| (app.name.clone(), app)).collect();
    }

    fn list(&self) -> Vec<AppStatus> {
        self.0.values().cloned().collect()
    }

    fn text(&self, output: Output) -> Result<String, Failure> {
        match self.list() {
            apps if apps.len() == 1 => output.render(&apps[0], false),
            apps => output.render(&apps, false),
        }
    }
}

/// The terminal's other screen, without a cursor, where a line too long ends at the edge; all is put back when this is
/// dropped.
pub(super) struct Screen(());

impl Screen {
    pub(super) fn enter() -> Result<Self, Failure> {
        control("\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        Ok(Self(()))
    }

    /// Draws a text, and a note below it.
    #[expect(clippy::unused_self, reason = "only who has entered the screen may draw on it")]
    pub(super) fn draw(&self, text: &str, note: &str) -> Result<(), Failure> {
        // Home, then each line over the old one and the rest of it cleared: no flicker, as nothing is blank in between.
        control("\x1b[H")?;
        // More than fits would scroll; two lines are for what stands below.
        let fitting = size().map_or(usize::MAX, |(_, lines)| usize::from(lines).saturating_sub(2));
        for line in text.lines().take(fitting) {
            print(line)?;
            control("\x1b[K\n")?;
        }
        control(&format!("{note}\x1b[K\n(ctrl-c ends it)\x1b[J"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal is gone if this fails.
        control("\x1b[?7h\x1b[?25h\x1b[?1049l").ok();
    }
}
