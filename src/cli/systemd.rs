//! What a service manager is told (sd_notify(3)), for units of `Type=notify-reload`: ready, reloading, stopping, and that
//! we are alive. Without one, or with one that does not ask, all of this does nothing.

use sd_notify::NotifyState;
use tokio::time::interval;
use tracing::warn;

/// We serve: after the start, and after each reload.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// We read our configuration again. The time tells this reload from an earlier one.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// We drain and end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that we are alive twice per period, for as long as this is polled, if the manager wants to know.
pub(super) async fn stay_alive() {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else { return };
    let mut ticks = interval(period / 2);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager could not be told");
    }
}
