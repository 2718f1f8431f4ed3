//! What is read off the switch's board at the moment of a scrape. Nothing is kept, so nothing can drift.

use jiff::Timestamp;

use super::{
    metrics::{
        APP_GENERATION, EJECTIONS, ENDPOINT_EJECTED, ENDPOINT_NAME_UP, ENDPOINT_UP, GATE_STATE, HELD_ENDED,
        HELD_REQUESTS, MAINTENANCE, POOL_ENDPOINTS, POOL_INFO, REQUESTS_WAITING, ROLLBACK_READY, ROLLBACK_WINDOW,
        SOURCE_LAST_EVENT, SOURCE_STALE, WEIGHT,
    },
    sheet::Sheet,
};
use crate::switch::{AppBoard, Board, EjectionReason, GateState, Health, HeldOutcome, Pool, Revision};

pub(super) fn put_board(board: &Board, now: Timestamp, sheet: &mut Sheet) {
    for (app, state) in &board.apps {
        put_app(app.as_str(), state, now, sheet);
    }
}

fn put_app(app: &str, state: &AppBoard, now: Timestamp, sheet: &mut Sheet) {
    let rollout = &state.rollout;
    sheet.gauge(&APP_GENERATION, &[app], rollout.generation().0 as f64);
    if let Some(capacity) = &state.capacity {
        sheet.gauge(&REQUESTS_WAITING, &[app], capacity.waiting().requests as f64);
    }
    for pool in state.pools.values() {
        for endpoint in pool.endpoints() {
            let (address, up) = (endpoint.address().to_string(), endpoint.health() == Health::Healthy);
            let labels = [app, pool.revision().as_str(), &address];
            sheet.gauge(&ENDPOINT_UP, &labels, up.into());
            sheet.gauge(&ENDPOINT_EJECTED, &labels, (endpoint.health() == Health::Ejected).into());
        }
        for reason in EjectionReason::ALL {
            let labels = [app, pool.revision().as_str(), reason.as_str()];
            sheet.counter(&EJECTIONS, &labels, pool.ejections().of(reason));
        }
    }
    sheet.gauge(&WEIGHT, &[app], rollout.weight().percent().into());
    for (name, found) in state.names.found() {
        sheet.gauge(&ENDPOINT_NAME_UP, &[app, &name.to_string()], found.into());
    }
    for (role, revision) in roles(state) {
        sheet.gauge(&POOL_INFO, &[app, role, revision.as_str()], 1.0);
        if let Some(pool) = state.pools.get(revision) {
            put_endpoints(app, role, pool, sheet);
        }
    }
    let ready = rollout.previous().and_then(|previous| state.pools.get(&previous.revision)).is_some_and(|pool| {
        let least = state.policy.promotion.min_ready.of(pool.endpoints().len());
        pool.ready() >= least
    });
    sheet.gauge(&ROLLBACK_READY, &[app], ready.into());
    let window = rollout.previous().map_or(0.0, |previous| previous.until.duration_since(now).as_secs_f64());
    sheet.gauge(&ROLLBACK_WINDOW, &[app], window.max(0.0));
    sheet.gauge(&HELD_REQUESTS, &[app], state.hold.as_ref().map_or(0, |hold| hold.waiting().requests) as f64);
    for outcome in HeldOutcome::ALL {
        sheet.counter(&HELD_ENDED, &[app, outcome.as_str()], state.held.count(outcome));
    }
    sheet.gauge(&MAINTENANCE, &[app], rollout.maintenance().is_some().into());
    for gate in rollout.gates() {
        sheet.gauge(&GATE_STATE, &[app, &gate.name], number(gate.state));
    }
    sheet.gauge(&SOURCE_STALE, &[app], state.source.stale.into());
    if let Some(last) = state.source.last_event {
        sheet.gauge(&SOURCE_LAST_EVENT, &[app], now.duration_since(last).as_secs_f64().max(0.0));
    }
}

/// Who has which role.
fn roles(state: &AppBoard) -> impl Iterator<Item = (&'static str, &Revision)> {
    let rollout = &state.rollout;
    let preview = rollout.preview().map(|(revision, _)| ("preview", revision));
    let previous = rollout.previous().map(|previous| ("previous", &previous.revision));
    [("active", rollout.active())].into_iter().chain(preview).chain(previous)
}

fn put_endpoints(app: &str, role: &str, pool: &Pool, sheet: &mut Sheet) {
    for (state, health) in [
        ("healthy", Health::Healthy),
        ("unhealthy", Health::Unhealthy),
        ("unknown", Health::Unknown),
        ("ejected", Health::Ejected),
    ] {
        let count = pool.endpoints().iter().filter(|endpoint| endpoint.health() == health).count();
        sheet.gauge(&POOL_ENDPOINTS, &[app, role, state], count as f64);
    }
}

/// The value of `gate_state`; its help says the same.
fn number(state: GateState) -> f64 {
    match state {
        GateState::Pending => 0.0,
        GateState::Running => 1.0,
        GateState::Passed => 2.0,
        GateState::Failed => 3.0,
        GateState::Skipped => 4.0,
    }
}
