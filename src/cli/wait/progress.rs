//! How a verb that waits shows how it gets on: on a terminal by a screen that is redrawn, in a pipe by a line for each
//! change, and to programs not at all.

use tokio::time::{Instant, timeout_at};

use crate::cli::{
    failure::{Exit, Failure},
    output::{Output, Show, clean, print_next},
    signals::Signals,
    watch::Screen,
};

/// What is shown while a verb waits.
pub(crate) struct Progress {
    output: Output,
    /// On a terminal; there, ctrl-c must put it back in order.
    screen: Option<(Screen, Signals)>,
    last: String,
}

/// What came of a wait.
pub(crate) enum Waited<T> {
    Came(T),
    InVain,
}

impl Progress {
    /// Nothing is shown before there is something to show.
    pub(crate) fn new(output: Output) -> Result<Self, Failure> {
        Ok(Self { output, screen: None, last: String::new() })
    }

    /// Shows where things are: as a whole where there is a screen, else in a line, if that is another than the last.
    pub(crate) fn show(&mut self, whole: &impl Show, line: &str) -> Result<(), Failure> {
        if self.output.is_live() {
            if self.screen.is_none() {
                self.screen = Some((Screen::enter()?, Signals::listen()?));
            }
            let screen = self.screen.as_ref().map(|(screen, _)| screen);
            return screen.map_or(Ok(()), |screen| screen.draw(&self.output.render(whole, false)?, ""));
        }
        if self.output.is_text() && self.last != line {
            print_next(&format!("{}\n", clean(line)))?;
            line.clone_into(&mut self.last);
        }
        Ok(())
    }

    /// Waits for what is to come.
    pub(crate) async fn wait<T>(
        &mut self,
        what: impl Future<Output = T>,
        deadline: Instant,
    ) -> Result<Waited<T>, Failure> {
        let interrupted = async {
            match &mut self.screen {
                Some((_, signals)) => signals.end().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            came = timeout_at(deadline, what) => Ok(came.map_or(Waited::InVain, Waited::Came)),
            () = interrupted => Err(Failure::new(Exit::Failed, "interrupted; what was waited for goes on")),
        }
    }
}
