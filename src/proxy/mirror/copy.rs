//! A copy on its way: sent to the candidate by a task of its own, its answer compared with the live one and forgotten. It
//! holds a ticket of the candidate's tenure, so that a drain knows of it, and leaves as soon as that tenure is retired.

use std::{future::poll_fn, rc::Rc, sync::Arc};

use http::{HeaderName, HeaderValue, Uri};
use jiff::Timestamp;
use tokio::{sync::oneshot, task::spawn_blocking, time::timeout};

use super::{
    super::{
        h1::{FailureKind, Framing},
        outgoing::{Lines, Message, Outgoing, OutgoingBody},
        replay::Replay,
        upload::UploadBody,
        upstream::Reuse,
        worker::Worker,
    },
    Copied,
    compare::{self, Answer},
};
use crate::{
    switch::{AppName, Mirror, Policy, Revision, Share, Stage, Ticket, Whose},
    telemetry::mirror::{AnswerHead, Compared, Difference, Place},
};

/// What tells a copy from a live request, at the candidate.
const MARK: (HeaderName, HeaderValue) = (HeaderName::from_static("x-tealgate-mirror"), HeaderValue::from_static("1"));

/// What is to be sent, where, and what it is to be compared with.
pub(super) struct Order {
    app: AppName,
    /// Who gave the live answer, and who is to give the other.
    live_revision: Revision,
    candidate: Revision,
    policy: Arc<Policy>,
    copied: Copied,
    live: oneshot::Receiver<Answer>,
    place: Place,
}

impl Order {
    pub(super) fn new(
        ticket: &Ticket,
        candidate: &Revision,
        copied: Copied,
        live: oneshot::Receiver<Answer>,
        place: Place,
    ) -> Self {
        Self {
            app: ticket.app().clone(),
            live_revision: ticket.revision().clone(),
            candidate: candidate.clone(),
            policy: Arc::clone(ticket.policy()),
            copied,
            live,
            place,
        }
    }
}

/// Sends the copy, and takes note of what came of it.
pub(super) async fn run(worker: Rc<Worker>, order: Order) {
    let Order { app, live_revision, candidate, policy, copied, live, place } = order;
    let Some(mirror) = &policy.mirror else { return };
    let whose = Whose::Live(Share::Outside);
    let Ok(ticket) = worker.reader.admit_to((&app, &candidate), whose, &copied, &[]) else {
        return place.compared(Compared::Dropped, None);
    };
    let (method, path) = (copied.method.to_string(), path(&copied.uri));
    let answered = {
        let mut stage = ticket.tenure().stage();
        tokio::select! {
            answered = timeout(mirror.timeout, answer(&worker, &ticket, copied, mirror)) => answered,
            _ = stage.wait_for(|stage| *stage != Stage::Serving) => return place.compared(Compared::Dropped, None),
        }
    };
    // The candidate has done its part: nothing that follows keeps it.
    drop(ticket);
    let Ok(Some(candidate_answer)) = answered else { return place.compared(Compared::Failed, None) };
    let Ok(Ok(live_answer)) = timeout(mirror.timeout, live).await else {
        return place.compared(Compared::Dropped, None);
    };
    // Bodies take their time, which is not the worker's.
    let comparing = spawn_blocking(move || {
        let Some(mirror) = &policy.mirror else { return };
        let differs = compare::differences(&live_answer, &candidate_answer, &mirror.compare);
        let result = differs.first().map_or(Compared::Equal, |(result, _)| *result);
        let difference = (result != Compared::Equal).then(|| Difference {
            at: Timestamp::now(),
            method,
            path,
            result: result.as_str().to_owned(),
            differs: differs.into_iter().map(|(_, words)| words).collect(),
            live: shown(&live_revision, &live_answer),
            candidate: shown(&candidate, &candidate_answer),
        });
        place.compared(result, difference);
    });
    comparing.await.ok();
}

/// The candidate's answer; `None` where there is no whole one. What a connection that was there loses is asked for once more.
async fn answer(worker: &Worker, ticket: &Ticket, copied: Copied, mirror: &Mirror) -> Option<Answer> {
    let mut reuse = Reuse::Any;
    loop {
        let message = Outgoing::Any(Box::new(copied.message()));
        let (mut exchange, reused) =
            worker.upstream.begin(ticket.endpoint(), message, None, reuse, mirror.timeout).await.ok()?;
        let mut answer = Answer::default();
        (answer.status, answer.fields) = match poll_fn(|cx| exchange.poll_head(cx)).await {
            Ok(head) => head,
            Err(FailureKind::Closed { answering: false }) if reused && reuse == Reuse::Any => {
                reuse = Reuse::NewerThan(worker.upstream.newest());
                continue;
            }
            Err(_) => return None,
        };
        while let Some(frame) = poll_fn(|cx| exchange.poll_body(cx)).await {
            let frame = frame.ok()?;
            answer.add(frame.data_ref().map_or(&[], |data| data), mirror.max_body);
            if answer.is_cut() {
                // The rest is of no use; the connection goes with it.
                return Some(answer);
            }
        }
        if let Some(connection) = exchange.into_connection() {
            worker.upstream.keep(ticket.endpoint(), connection);
        }
        return Some(answer);
    }
}

impl Copied {
    /// The request, marked as a copy.
    fn message(&self) -> Message<OutgoingBody> {
        let mut fields = self.fields.clone();
        fields.extend([MARK]);
        Message {
            method: self.method.clone(),
            uri: self.uri.clone(),
            authority: self.authority.clone(),
            fields,
            lines: Lines { forwarded: self.lines.clone(), request_id: None },
            framing: Framing::Empty,
            body: Replay::new(UploadBody::Empty),
            ask: None,
        }
    }
}

fn path(uri: &Uri) -> String {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    compare::clipped(path)
}

fn shown(revision: &Revision, answer: &Answer) -> AnswerHead {
    AnswerHead {
        revision: revision.to_string(),
        status: answer.status.as_u16(),
        headers: compare::shown(&answer.fields),
    }
}
