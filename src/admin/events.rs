//! What happens, as it happens: server-sent events. The first one is the full state, so a reader needs nothing else; one
//! who falls behind is given the full state again in place of what he missed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State},
    response::sse::{Event as Sent, Sse},
};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::Instant,
};
use utoipa::IntoParams;

use super::{
    action::AppPath,
    api::{EventMessage, StateMessage},
    caller::Caller,
    problem::{AppProblems, Error},
    routes::Admin,
};
use crate::switch::{AppName, Event, Happening};

/// How long the stream is silent before a comment shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events are wanted.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only this app's; all that the caller may see if left out.
    app: Option<String>,
}

/// What happens from now on, as server-sent events.
///
/// The first event is named `state` and carries the full state: an `AppStatus` with `?app=`, a list of them without. Each
/// later event is named after its `type` and carries what happened with the app's state by then. A reader who falls behind
/// gets a new `state` event instead of those he missed. A comment every 15 seconds keeps the connection alive.
#[utoipa::path(
    get, path = "/api/v1/events", operation_id = "events", tag = "views", params(Filter),
    responses(
        (status = 200, body = StateMessage, content_type = "text/event-stream",
            description = "`event: state` with a `StateMessage`, then events with an `EventMessage`."),
        AppProblems,
    ),
)]
pub(super) async fn events(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Error> {
    let app = filter.app.map(|app| AppPath { app }.seen_by(&caller)).transpose()?;
    if let Some(app) = &app {
        admin.known(app)?;
    }
    Ok(Sse::new(stream::unfold(Reader::new(admin, caller, app), |mut reader| async {
        let sent = reader.next().await?;
        reader.silent_since = Instant::now();
        Some((Ok(sent), reader))
    })))
}

/// One reader of the stream.
struct Reader {
    admin: Arc<Admin>,
    caller: Caller,
    app: Option<AppName>,
    events: Receiver<Arc<Event>>,
    /// Whether the full state is due.
    behind: bool,
    silent_since: Instant,
}

impl Reader {
    fn new(admin: Arc<Admin>, caller: Caller, app: Option<AppName>) -> Self {
        // Subscribed before the state is read: what happens in between is told twice rather than never.
        let events = admin.api.viewer.events();
        Self { admin, caller, app, events, behind: true, silent_since: Instant::now() }
    }

    /// The next event; `None` at the end, when the server stops or the caller's token does.
    async fn next(&mut self) -> Option<Sent> {
        if std::mem::take(&mut self.behind) {
            return Some(self.state());
        }
        loop {
            let admin = Arc::clone(&self.admin);
            let received = tokio::select! {
                () = admin.closing.cancelled() => return None,
                () = tokio::time::sleep_until(self.silent_since + KEEP_ALIVE) => None,
                received = self.events.recv() => Some(received),
            };
            if !self.caller.still_welcome(&admin).await {
                return None;
            }
            match received {
                None => return Some(Sent::default().comment("")),
                Some(Ok(event)) if self.wants(&event) => return Some(self.message(&event)),
                Some(Ok(_)) => {}
                Some(Err(RecvError::Lagged(_))) => {
                    self.events = admin.api.viewer.events();
                    return Some(self.state());
                }
                Some(Err(RecvError::Closed)) => return None,
            }
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let app = event.app.parse::<AppName>();
        app.is_ok_and(|app| self.caller.sees(&app) && self.app.as_ref().is_none_or(|wanted| *wanted == app))
    }

    fn state(&self) -> Sent {
        let message = match &self.app {
            None => StateMessage::All(self.admin.states(&self.caller)),
            Some(app) => match self.admin.known(app) {
                Ok(app) => StateMessage::One(Box::new(app.status())),
                Err(_) => StateMessage::All(Vec::new()),
            },
        };
        sent("state", &message)
    }

    fn message(&self, event: &Event) -> Sent {
        let app = event.app.parse().ok().and_then(|app| self.admin.known(&app).ok());
        sent(name(&event.what), &EventMessage { event: event.clone(), state: app.map(|app| app.status()) })
    }
}

fn sent(name: &str, message: &impl Serialize) -> Sent {
    // Strings, numbers and maps with string keys: there is nothing in it that JSON could not say.
    Sent::default().event(name).json_data(message).unwrap_or_default()
}

/// The event's name: its `type`.
fn name(what: &Happening) -> &'static str {
    match what {
        Happening::Acted { .. } => "acted",
        Happening::Refused { .. } => "refused",
        Happening::Changed { .. } => "changed",
        Happening::Invited { .. } => "invited",
        Happening::Drained { .. } => "drained",
        Happening::Added => "added",
        Happening::Removed => "removed",
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        admin::tests::Fixture,
        switch::{Command, Order},
    };

    #[tokio::test]
    async fn a_reader_who_fell_behind_is_given_the_state_anew() {
        let f = Fixture::start().await;
        let admin = Arc::new(Admin::new(f.api.clone(), CancellationToken::new(), Default::default()));
        let shop: AppName = "shop".parse().unwrap();
        let mut reader = Reader::new(admin, Caller::of_socket(0), Some(shop.clone()));
        let first = format!("{:?}", reader.next().await.unwrap());
        assert!(first.contains("event: state"), "{first}");
        for _ in 0..2000 {
            let (command, by, reason) = (Command::Unpin, "ann".to_owned(), String::new());
            let order = Order { app: shop.clone(), command, by, reason, if_generation: None, dry_run: false };
            f.switch.control.submit(order).await.unwrap_err();
        }
        let next = format!("{:?}", reader.next().await.unwrap());
        assert!(next.contains("event: state"), "{next}");
        assert!(reader.events.is_empty());
    }
}
