//! The signals we answer to, listened for in one place. From then on they no longer kill the process: whoever listens has
//! to act on them.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Exit, Failure};

/// The signals, each from the moment this was made.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Signal,
}

impl Signals {
    /// Starts to listen.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::new(Exit::Failed, "cannot listen for signals").detail(error.to_string()))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Somebody wants us to end: INT, TERM or QUIT.
    pub(crate) async fn end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    /// Somebody at the terminal is impatient: INT.
    pub(crate) async fn interrupt(&mut self) {
        self.interrupt.recv().await;
    }

    /// Somebody wants a reload (HUP, `true`), or the end (`false`).
    pub(crate) async fn reload(&mut self) -> bool {
        tokio::select! {
            _ = self.hangup.recv() => true,
            _ = self.interrupt.recv() => false,
            _ = self.terminate.recv() => false,
            _ = self.quit.recv() => false,
        }
    }
}
