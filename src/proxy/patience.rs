//! How long one request is waited for: for its body to come, for the head of its answer, for its answer to be taken, and
//! for all of it together. One timer of the worker's clock serves them all, since only one of them is running at a time.

use std::{
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    clock::{Alarm, TICK, Timer},
    upload::{State, Upload},
};
use crate::switch::{Tenure, Ticket};

/// The patience with one request.
pub(super) struct Patience {
    timer: Timer,
    /// Between two pieces of an answer that the client is to take.
    take: Duration,
    /// Between two pieces of a request's body that the client is to send.
    send: Duration,
    /// Pieces of the answer count for those of the request: a conversation in which one side is silent gets on.
    conversing: bool,
    /// When the whole request is to end.
    whole: Option<Instant>,
    upload: Option<Rc<Upload>>,
}

/// With whom it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Impatience {
    /// The client does not send, or does not take.
    Client,
    /// The upstream does not answer, or does not take the request's body.
    Upstream,
    /// It all took too long.
    Whole,
    /// The tenure it runs on was cut.
    Cut,
    /// It is a stream, the tenure it runs on was retired, and its app has streams end then.
    Retired,
}

impl Impatience {
    fn of(alarm: Alarm) -> Self {
        match alarm {
            Alarm::Due => Self::Whole,
            Alarm::Cut => Self::Cut,
            Alarm::Retired => Self::Retired,
        }
    }
}

impl Patience {
    /// With a request whose client may take so long between two pieces of a `body`, and for the `whole` of it.
    pub(super) fn new(timer: Timer, body: Duration, whole: Option<Duration>, upload: Option<Rc<Upload>>) -> Self {
        let whole = whole.and_then(|whole| timer.clock().now().checked_add(whole.checked_add(TICK)?));
        Self { timer, take: body, send: body, conversing: false, whole, upload }
    }

    /// With a request that is one side of a conversation, in which there may be silence for so long.
    pub(super) fn conversing(self, silence: Duration) -> Self {
        Self { send: silence, conversing: true, ..self }
    }

    /// The timer, for another request.
    pub(super) fn into_timer(self) -> Timer {
        self.timer.renew();
        self.timer
    }

    pub(super) fn upload(&self) -> Option<&Upload> {
        self.upload.as_deref()
    }

    /// Ends when this tenure is cut.
    pub(super) fn follow(&self, tenure: &Tenure) {
        self.timer.follow(tenure);
    }

    /// The answer is a stream that may never end: what becomes of it when its pool is retired is the app's policy.
    pub(super) fn with_stream(&self, ticket: &Ticket) {
        self.timer.is_for_stream(ticket.tenure(), ticket.policy().drain);
    }

    /// Lets it go on for so much longer, whatever was to end it now.
    pub(super) fn grant(&mut self, within: Duration) {
        self.timer.go_on();
        let end = self.timer.clock().now() + within + TICK;
        self.whole = Some(self.whole.map_or(end, |whole| whole.min(end)));
    }

    /// Awaits the head of an answer, which `poll` asks for: `within` so much from now, or from the end of the request's body,
    /// as long as that gets on.
    pub(super) fn head<T>(
        &self,
        within: Duration,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> impl Future<Output = Result<T, Impatience>> {
        let began = self.timer.clock().now();
        self.look_again(self.next(began, within).0);
        std::future::poll_fn(move |cx| match poll(cx) {
            Poll::Ready(head) => Poll::Ready(Ok(head)),
            Poll::Pending => self.poll_overdue(cx, began, within).map(Err),
        })
    }

    /// To be asked whenever the upstream gives nothing: watches over the rest of the request's body, and the whole.
    pub(super) fn poll_download(&self, cx: &mut Context<'_>) -> Poll<Impatience> {
        // How long an answer's body may pause is not ours to say; only what the client owes is.
        const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
        let began = self.timer.clock().now();
        self.look_again(self.next(began, FOREVER).0);
        self.poll_overdue(cx, began, FOREVER)
    }

    /// To be said whenever a piece of the answer was handed on: the client has so long to take it.
    pub(super) fn client_to_take(&self) {
        if self.conversing {
            self.upload.iter().for_each(|upload| upload.touch());
        }
        let due = self.timer.clock().now().checked_add(self.take.saturating_add(TICK));
        self.timer.set(due.into_iter().chain(self.whole).min());
    }

    /// To be asked while the client does not take what there is.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Impatience> {
        Poll::Ready(match ready!(self.timer.poll(cx)) {
            Alarm::Due => self.is_over().unwrap_or(Impatience::Client),
            alarm @ (Alarm::Cut | Alarm::Retired) => Impatience::of(alarm),
        })
    }

    /// Whether it is over at once, however much there is to hand on.
    pub(super) fn is_over(&self) -> Option<Impatience> {
        if let Some(alarm) = self.timer.over() {
            return Some(Impatience::of(alarm));
        }
        self.whole.filter(|whole| *whole <= self.timer.clock().now()).map(|_| Impatience::Whole)
    }

    fn poll_overdue(&self, cx: &mut Context<'_>, began: Instant, within: Duration) -> Poll<Impatience> {
        loop {
            match ready!(self.timer.poll(cx)) {
                Alarm::Due => {}
                alarm @ (Alarm::Cut | Alarm::Retired) => return Poll::Ready(Impatience::of(alarm)),
            }
            // The body may have got on since the timer was set.
            let (due, whose) = self.next(began, within);
            if due <= self.timer.clock().now() {
                return Poll::Ready(whose);
            }
            self.look_again(due);
        }
    }

    /// Sets the timer for what is due next. While a body is on its way, whose turn it is changes in between.
    fn look_again(&self, due: Instant) {
        let due = match self.upload {
            Some(_) => due.min(self.timer.clock().now() + self.take.min(self.send) + TICK),
            None => due,
        };
        self.timer.set(Some(due));
    }

    /// What is due next, and whose fault it is then.
    fn next(&self, began: Instant, within: Duration) -> (Instant, Impatience) {
        let after = |from: Instant, wait: Duration| from + wait + TICK;
        let (due, whose) = match self.upload.as_deref().map(|upload| (upload.state(), upload.moved())) {
            None => (after(began, within), Impatience::Upstream),
            Some((State::Clients, moved)) => (after(moved, self.send), Impatience::Client),
            Some((_, moved)) => (after(began.max(moved), within), Impatience::Upstream),
        };
        match self.whole {
            Some(whole) if whole < due => (whole, Impatience::Whole),
            _ => (due, whose),
        }
    }
}
