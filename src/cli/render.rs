//! How states, receipts, plans and events read for people.

use std::time::Duration;

use clap::builder::styling::Style;
use serde::Serialize;
use serde_json::Value;

use super::output::{BAD, BOLD, DIM, GOOD, Page, Show, WAITING, clean, moment, short};
use crate::{
    admin::api::{EventMessage, Plan, Version},
    switch::{
        Action, AppStatus, EndpointStatus, Gate, GateState, Happening, Health, HoldStatus, Maintenance, Phase, Pin,
        PoolStatus, Receipt, SmokeReport, SourceStatus,
    },
    telemetry::mirror::{Difference, MirrorReport},
};

impl Show for AppStatus {
    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    fn text(&self, page: &mut Page) {
        let name = page.paint(BOLD, &self.name);
        let phase = page.paint(phase_style(self.phase), phase(self.phase));
        page.line(format!("{name}  {phase}  generation {}", self.generation));
        page.line(clean(&self.message));
        page.line("");
        pools(self, page);
        page.line("");
        gates(&self.gates, page);
        if let Some(pin) = &self.pin {
            page.line(pin_line(pin));
        }
        if let Some(hold) = &self.hold {
            page.line(hold_line(hold));
        }
        if let Some(maintenance) = &self.maintenance {
            page.line(maintenance_line(maintenance));
        }
        if self.weight > 0 {
            page.line(format!("weight: {} % of live traffic goes to the preview", self.weight));
        }
        source(&self.source, page);
    }
}

impl Show for Vec<AppStatus> {
    fn names(&self) -> Vec<String> {
        self.iter().map(|app| app.name.clone()).collect()
    }

    fn text(&self, page: &mut Page) {
        if self.is_empty() {
            page.line("no apps");
        }
        let rows = self.iter().map(|app| {
            let [active, preview, previous] = [&app.active, &app.preview, &app.previous].map(revision);
            let generation = app.generation.to_string();
            [app.name.clone(), phase(app.phase).to_owned(), generation, active, preview, previous, app.message.clone()]
        });
        let rows = rows.collect();
        page.table(["APP", "PHASE", "GENERATION", "ACTIVE", "PREVIEW", "PREVIOUS", "MESSAGE"], rows);
    }
}

impl Show for Receipt {
    fn names(&self) -> Vec<String> {
        vec![self.app.clone()]
    }

    fn text(&self, page: &mut Page) {
        let done = page.paint(GOOD, if self.dry_run { "would be done" } else { "done" });
        page.line(format!("{done}: {}", receipt_line(self)));
        if matches!(self.action, Action::Promote | Action::Rollback) && !self.dry_run {
            let from = clean(self.from.as_deref().unwrap_or("nothing"));
            page.line(format!("every worker had it after {} µs", self.barrier_micros));
            page.line(format!("in flight on {from}: {} (they finish there)", self.in_flight_on_old));
        }
        if self.action == Action::Promote {
            gates(&self.gates, page);
        }
        for call in &self.calls {
            let label = page.paint(DIM, if self.dry_run { "would send:" } else { "sent:" });
            page.line(format!("{label} {}", clean(call)));
        }
        for warning in &self.warnings {
            let label = page.paint(WAITING, "warning:");
            page.line(format!("{label} {}", clean(warning)));
        }
    }
}

impl Show for Vec<Receipt> {
    fn names(&self) -> Vec<String> {
        self.iter().map(|receipt| format!("{}@{}", receipt.app, receipt.generation)).collect()
    }

    fn text(&self, page: &mut Page) {
        if self.is_empty() {
            page.line("nothing has been done yet");
        }
        let rows = self.iter().map(|receipt| {
            let revision = |revision: &Option<String>| revision.clone().unwrap_or_else(|| "-".to_owned());
            [
                moment(receipt.published_at),
                receipt.generation.to_string(),
                receipt.action.as_str().to_owned(),
                revision(&receipt.from),
                revision(&receipt.to),
                receipt.by.clone(),
                receipt.reason.clone(),
            ]
        });
        let rows = rows.collect();
        page.table(["AT", "GENERATION", "ACTION", "FROM", "TO", "BY", "REASON"], rows);
    }
}

impl Show for MirrorReport {
    fn names(&self) -> Vec<String> {
        vec![self.app.clone()]
    }

    fn text(&self, page: &mut Page) {
        let name = page.paint(BOLD, &self.app);
        match self.share {
            0.0 => page.line(format!("{name}  no mirror is configured")),
            share => page.line(format!("{name}  {share} % of live requests, {} copies under way", self.in_flight)),
        }
        let compared = self.compared.iter().map(|(result, count)| format!("{result} {count}"));
        page.line(clean(&compared.collect::<Vec<_>>().join("  ")));
        for difference in &self.differences {
            let Difference { at, method, path, differs, live, candidate, .. } = difference;
            let (live, candidate) = (&live.revision, &candidate.revision);
            page.line("");
            page.line(format!(
                "{}  {}",
                moment(*at),
                clean(&format!("{method} {path}  live {live}, candidate {candidate}"))
            ));
            differs.iter().for_each(|words| page.line(format!("  {}", clean(words))));
        }
    }
}

impl Show for SmokeReport {
    fn names(&self) -> Vec<String> {
        self.checks.iter().map(|check| check.name.clone()).collect()
    }

    fn text(&self, page: &mut Page) {
        let (style, state) = gate_state(self.state);
        let (app, state) = (page.paint(BOLD, &self.app), page.paint(style, state));
        let revision = clean(&self.revision);
        page.line(format!("{app}: the smoke test of {revision}: {state}, round {}", self.rounds));
        let rows = self.checks.iter().map(|check| {
            let number = |number: Option<u64>, unit| number.map_or_else(|| "-".to_owned(), |n| format!("{n}{unit}"));
            [
                check.name.clone(),
                format!("{} {}", check.method, check.path),
                gate_state(check.state).1.to_owned(),
                number(check.status.map(u64::from), ""),
                number(check.millis, " ms"),
                check.message.clone(),
            ]
        });
        let rows = rows.collect();
        page.table(["CHECK", "REQUEST", "RESULT", "STATUS", "TOOK", "WHY"], rows);
    }
}

impl Show for Plan {
    fn names(&self) -> Vec<String> {
        vec![self.app.clone()]
    }

    fn text(&self, page: &mut Page) {
        let verdict = if self.possible { page.paint(GOOD, "possible") } else { page.paint(BAD, "refused") };
        let to = clean(self.to.as_deref().unwrap_or("-"));
        let from = clean(self.from.as_deref().unwrap_or("-"));
        page.line(format!("promote {}: {from} → {to} (generation {}): {verdict}", clean(&self.app), self.generation));
        page.line(format!("in flight on {from}: {} (they would finish there)", self.in_flight_on_old));
        gates(&self.gates, page);
        if let Some(refusal) = &self.refusal {
            page.line(format!("{}: {}", refusal.code, clean(&refusal.detail)));
            page.line(format!("hint: {}", clean(&refusal.hint)));
        }
    }
}

impl Show for EventMessage {
    fn names(&self) -> Vec<String> {
        vec![self.event.app.clone()]
    }

    fn text(&self, page: &mut Page) {
        let at = page.paint(DIM, &moment(self.event.at));
        let app = page.paint(BOLD, &self.event.app);
        let what = clean(&happening(&self.event.what));
        page.line(format!("{at}  {app}  {what}"));
    }
}

/// Answers without a shape of their own here, such as that of `reload`: member by member.
impl Show for Value {
    fn names(&self) -> Vec<String> {
        self.as_object().map(|members| members.keys().cloned().collect()).unwrap_or_default()
    }

    fn text(&self, page: &mut Page) {
        let plain = |value: &Self| match value {
            Self::String(text) => clean(text),
            Self::Array(items) if items.is_empty() => "-".to_owned(),
            Self::Array(items) => {
                let items = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), clean));
                items.collect::<Vec<_>>().join(", ")
            }
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Object(_) => value.to_string(),
        };
        match self {
            Self::Object(members) => members.iter().for_each(|(key, value)| {
                page.line(format!("{key}: {}", plain(value)));
            }),
            Self::Null => page.line("done"),
            Self::Bool(_) | Self::Number(_) | Self::String(_) | Self::Array(_) => page.line(plain(self)),
        }
    }
}

impl Show for Version {
    fn names(&self) -> Vec<String> {
        vec![self.version.clone()]
    }

    fn text(&self, page: &mut Page) {
        page.line(format!("{} {}", self.name, self.version));
    }
}

/// A state as one of a series: one line for people, the whole of it for programs.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Line<'a>(pub(crate) &'a AppStatus);

impl Show for Line<'_> {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn text(&self, page: &mut Page) {
        page.line(status_line(self.0));
    }
}

/// What `wait` ends with.
#[derive(Serialize)]
pub(crate) struct Reached {
    pub(crate) app: String,
    pub(crate) message: String,
}

impl Show for Reached {
    fn names(&self) -> Vec<String> {
        vec![self.app.clone()]
    }

    fn text(&self, page: &mut Page) {
        let app = page.paint(BOLD, &self.app);
        page.line(format!("{app}: {}", clean(&self.message)));
    }
}

/// A state in one line, without what moves all the time: two states with the same line look the same to a pipeline.
pub(crate) fn status_line(app: &AppStatus) -> String {
    let [active, preview, previous] = [&app.active, &app.preview, &app.previous].map(revision);
    let draining = app.draining.iter().map(|pool| pool.revision.as_str()).collect::<Vec<_>>().join(",");
    let draining = if draining.is_empty() { "-" } else { &draining };
    clean(&format!(
        "{} phase={} generation={} active={active} preview={preview} previous={previous} draining={draining} {}",
        app.name,
        phase(app.phase),
        app.generation,
        app.message
    ))
}

fn pools(app: &AppStatus, page: &mut Page) {
    let roles = [("active", &app.active), ("preview", &app.preview), ("previous", &app.previous)];
    let roles = || roles.iter().filter_map(|(role, pool)| pool.as_ref().map(|pool| (*role, pool)));

    let held = roles().map(|(role, pool)| {
        let until = pool.rollback_until.map(|until| format!("rollback until {}", moment(until)));
        let note = until.into_iter().chain(pool.labels.iter().map(|(key, value)| format!("{key}={value}")));
        let note = note.collect::<Vec<_>>().join(" ");
        let ready = format!("{}/{}", pool.ready, pool.total);
        [role.to_owned(), pool.revision.clone(), ready, pool.in_flight.to_string(), page.ago(pool.since), note]
    });
    let draining = app.draining.iter().map(|pool| {
        let since = format!("{:.0}s", pool.oldest_seconds);
        let note = format!("cut at {}", moment(pool.deadline));
        ["draining".to_owned(), pool.revision.clone(), "-".to_owned(), pool.in_flight.to_string(), since, note]
    });
    let rows = held.chain(draining).collect();
    page.table(["ROLE", "REVISION", "READY", "IN FLIGHT", "FOR", "NOTE"], rows);

    let endpoint = |pool: &PoolStatus, endpoint: &EndpointStatus| {
        let health = match endpoint.health {
            Health::Unknown => "unknown",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
            Health::Ejected => "ejected",
        };
        let address = match &endpoint.name {
            Some(name) => format!("{} ({name})", endpoint.address),
            None => endpoint.address.clone(),
        };
        let revision = pool.revision.clone();
        [address, revision, endpoint.weight.to_string(), health.to_owned(), endpoint.in_flight.to_string()]
    };
    let rows = roles().flat_map(|(_, pool)| pool.endpoints.iter().map(move |e| endpoint(pool, e))).collect();
    page.line("");
    page.table(["ENDPOINT", "REVISION", "WEIGHT", "HEALTH", "IN FLIGHT"], rows);
}

fn gates(gates: &[Gate], page: &mut Page) {
    for gate in gates {
        let (style, state) = gate_state(gate.state);
        let state = page.paint(style, state);
        page.line(format!("gate {}: {state}  {}", clean(&gate.name), clean(&gate.message)));
    }
}

fn gate_state(state: GateState) -> (Style, &'static str) {
    match state {
        GateState::Pending => (WAITING, "pending"),
        GateState::Running => (WAITING, "running"),
        GateState::Passed => (GOOD, "passed"),
        GateState::Failed => (BAD, "failed"),
        GateState::Skipped => (DIM, "skipped"),
    }
}

fn pin_line(pin: &Pin) -> String {
    let expires = pin.expires.map(|at| format!(" until {}", moment(at))).unwrap_or_default();
    clean(&format!("pinned to {} by {}{expires}: {}", pin.revision, pin.by, pin.reason))
}

fn hold_line(hold: &HoldStatus) -> String {
    let HoldStatus { by, reason, deadline, waiting, max_requests, .. } = hold;
    let reason = if reason.is_empty() { "" } else { &format!(": {reason}") };
    clean(&format!("held by {by} until {}, {waiting} of {max_requests} waiting{reason}", moment(*deadline)))
}

fn maintenance_line(maintenance: &Maintenance) -> String {
    let Maintenance { since, by, reason, retry_after_seconds } = maintenance;
    let reason = if reason.is_empty() { "" } else { &format!(": {reason}") };
    let since = moment(*since);
    clean(&format!("maintenance by {by} since {since}, clients come back after {retry_after_seconds} s{reason}"))
}

fn source(source: &SourceStatus, page: &mut Page) {
    let stale = if source.stale { ", stale: the last known state serves" } else { "" };
    let authority =
        if source.authority == "tealgate" { "" } else { &format!(", flips decided by {}", source.authority) };
    page.line(clean(&format!("source: {}{authority}{stale}", source.kind)));
    if let Some(drift) = &source.drift {
        let label = page.paint(WAITING, "drift:");
        page.line(format!("{label} {}", clean(drift)));
    }
}

fn receipt_line(receipt: &Receipt) -> String {
    let revision = |revision: &Option<String>| revision.clone().unwrap_or_else(|| "-".to_owned());
    let (from, to) = (revision(&receipt.from), revision(&receipt.to));
    let roles = match receipt.action {
        Action::Promote | Action::Rollback => format!("{from} → {to}"),
        Action::Abort => format!("{from} dropped, {to} stays active"),
        Action::Smoke => format!("the checks are sent to {to}"),
        Action::Unpin => format!("{to} no longer pinned"),
        Action::Deploy => format!("{to} is the candidate"),
        Action::Weight => format!("{} % of live traffic to {to}", receipt.weight.unwrap_or_default()),
        Action::Hold => format!("new requests wait; {} in flight on {to}", receipt.in_flight_on_old),
        Action::Resume => format!("requests are let in to {to}"),
        Action::Maintenance => "live traffic gets the maintenance page".to_owned(),
        Action::Reopen => format!("live traffic is served by {to}"),
        Action::Retry => format!("the rollout of {to} goes on"),
        Action::Reject => format!("{from} rejected, {to} stays active"),
        Action::Pause => "the rollout stands where it is".to_owned(),
        Action::Unpause => "the rollout goes on".to_owned(),
        Action::Keep => format!("{to} is kept for a rollback"),
        Action::Discard | Action::Pin | Action::Source => to,
    };
    clean(&format!("{} {}: {roles}, generation {}", receipt.action.as_str(), receipt.app, receipt.generation))
}

fn happening(what: &Happening) -> String {
    match what {
        Happening::Acted { receipt } => format!("{} by {}  {}", receipt_line(receipt), receipt.by, receipt.reason),
        Happening::Refused { action, by, code, detail } => {
            format!("{} by {by} refused: {code}: {detail}", action.as_str())
        }
        Happening::Changed { phase: now, message } => format!("{}: {message}", phase(*now)),
        Happening::Invited { by, subject, expires } => {
            let whom = subject.as_ref().map(|subject| format!(" for {subject}")).unwrap_or_default();
            format!("preview link made by {by}{whom}, good until {}", moment(*expires))
        }
        Happening::Drained { revision, seconds, cut } => {
            format!(
                "{revision} drained in {}, {cut} cut",
                short(Duration::try_from_secs_f64(*seconds).unwrap_or_default())
            )
        }
        Happening::Added => "added".to_owned(),
        Happening::Removed => "removed".to_owned(),
    }
}

/// A pool's revision with what of it is ready: `green 2/2`.
fn revision(pool: &Option<PoolStatus>) -> String {
    pool.as_ref().map_or_else(|| "-".to_owned(), |pool| format!("{} {}/{}", pool.revision, pool.ready, pool.total))
}

/// A phase as it stands in JSON.
pub(crate) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Steady => "steady",
        Phase::Starting => "starting",
        Phase::Previewing => "previewing",
        Phase::Promoted => "promoted",
        Phase::Aborted => "aborted",
    }
}

fn phase_style(phase: Phase) -> Style {
    match phase {
        Phase::Steady | Phase::Promoted => GOOD,
        Phase::Starting | Phase::Previewing => WAITING,
        Phase::Aborted => BAD,
    }
}
