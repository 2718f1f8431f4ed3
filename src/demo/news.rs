//! What happens to the demo's app, as its event stream tells it: who is active, and how often traffic has moved, whoever
//! moved it.

use std::time::Duration;

use tokio::{sync::watch, time::interval};

use super::APP;
use crate::{
    admin::api::{EventMessage, StateMessage},
    cli::{Client, Failure},
    switch::{Action, AppStatus, Happening, Receipt},
};

/// Who is active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Roles {
    pub(super) generation: u64,
    pub(super) active: String,
}

/// All that is known so far.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    /// The app's state; `None` before the first message.
    pub(super) state: Option<AppStatus>,
    /// The receipts of all flips, oldest first.
    pub(super) flips: Vec<Receipt>,
}

impl News {
    /// Who is active by now.
    pub(super) fn roles(&self) -> Roles {
        let of = |state: &AppStatus| Roles {
            generation: state.generation,
            active: state.active.as_ref().map(|pool| pool.revision.clone()).unwrap_or_default(),
        };
        self.state.as_ref().map(of).unwrap_or_default()
    }

    fn take(&mut self, data: &str) {
        if let Ok(EventMessage { event, state }) = serde_json::from_str(data) {
            if let Happening::Acted { receipt } = event.what
                && matches!(receipt.action, Action::Promote | Action::Rollback)
            {
                self.flips.push(*receipt);
            }
            self.state = state;
        } else if let Ok(StateMessage::One(state)) = serde_json::from_str(data) {
            self.state = Some(*state);
        }
    }
}

/// Returns when every endpoint of both revisions is healthy.
pub(super) async fn all_ready(client: &Client) -> Result<(), Failure> {
    // Endpoints that become healthy are an event only if the app's phase or message changes with them.
    let mut looks = interval(Duration::from_millis(50));
    loop {
        looks.tick().await;
        let state: AppStatus = client.get("cannot see the demo", &format!("/apps/{APP}")).await?;
        let pools = [&state.active, &state.preview];
        if pools.iter().all(|pool| pool.as_ref().is_some_and(|pool| pool.ready == pool.total)) {
            return Ok(());
        }
    }
}

/// Follows the app's events until the server ends.
pub(super) async fn follow(client: Client, news: watch::Sender<News>) -> Result<(), Failure> {
    let mut events = client.events(&format!("/events?app={APP}")).await?;
    while let Some(message) = events.next().await? {
        news.send_modify(|news| news.take(&message.data));
    }
    Ok(())
}
