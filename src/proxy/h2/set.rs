//! A worker's connections to one endpoint, and who gets which. A request takes the oldest connection that has a place, so
//! that those opened for a rush fall idle after it. If none has, one request opens another and the rest wait for it, as
//! many as will find a place there.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::{sync::Notify, time::Instant};

use super::connection::{Connection, MOST_STREAMS, Place};

/// The most connections to one endpoint. Beyond, requests wait for a place.
const MOST_CONNECTIONS: usize = 1024;

/// The connections to one endpoint.
#[derive(Default)]
pub(in super::super) struct Set {
    connections: RefCell<Vec<Connection>>,
    /// Rung when there may be a place.
    places: Rc<Notify>,
    /// Connections being opened.
    opening: Cell<usize>,
    /// Requests without a place, those who open a connection included.
    seeking: Cell<usize>,
    /// How many streams the last connection took; 0 while there was none.
    capacity: Cell<usize>,
    /// The endpoint, when it was last asked, chose HTTP/1.
    speaks_h1: Cell<bool>,
    /// Since when the last one had been idle that was let go of because its peer had closed it.
    closed: Cell<Option<Instant>>,
}

/// What came of opening a connection.
pub(in super::super) enum Opened<O> {
    H2(Connection),
    /// The endpoint chose another protocol.
    Other(O),
}

/// What a request gets.
pub(in super::super) enum Found<O> {
    /// A place, and whether its connection had been there before.
    Place(Place, bool),
    Other(O),
}

impl Set {
    /// Rung when there may be a place.
    pub(in super::super) fn places(&self) -> &Rc<Notify> {
        &self.places
    }

    /// A place on a connection that is there, of those with a higher number than `after`.
    pub(in super::super) fn take(&self, after: u64) -> Option<Place> {
        self.connections.borrow().iter().filter(|connection| connection.number() > after).find_map(Connection::place)
    }

    /// A place on a connection that is there, or is being opened, or which `open` opens. Only the caller knows how long to
    /// wait.
    pub(in super::super) async fn seek<O, E>(
        &self,
        after: u64,
        open: impl AsyncFn() -> Result<Opened<O>, E>,
    ) -> Result<Found<O>, E> {
        let _seeking = Counted::one_more(&self.seeking, None);
        loop {
            let places = self.places.notified();
            if let Some(place) = self.take(after) {
                return Ok(Found::Place(place, true));
            }
            if self.wants_another() {
                let opening = Counted::one_more(&self.opening, Some(&self.places));
                let opened = open().await?;
                self.speaks_h1.set(matches!(opened, Opened::Other(_)));
                let connection = match opened {
                    Opened::Other(other) => return Ok(Found::Other(other)),
                    Opened::H2(connection) => connection,
                };
                let place = connection.place();
                self.capacity.set(connection.capacity());
                self.add(connection);
                drop(opening);
                if let Some(place) = place {
                    return Ok(Found::Place(place, false));
                }
            } else {
                places.await;
            }
        }
    }

    /// Whether those being opened will not do for all who seek a place.
    fn wants_another(&self) -> bool {
        let there = self.connections.borrow().iter().filter(|connection| connection.is_open()).count();
        if there + self.opening.get() >= MOST_CONNECTIONS {
            return false;
        }
        let each = match self.capacity.get() {
            0 => MOST_STREAMS,
            capacity => capacity,
        };
        self.speaks_h1.get() || self.seeking.get() > self.opening.get() * each
    }

    /// Keeps a connection that nobody has asked for yet.
    pub(in super::super) fn keep(&self, connection: Connection) {
        self.capacity.set(connection.capacity());
        self.add(connection);
    }

    /// How many are open, those left out that have been idle since `long_ago`; and since when the last one had been idle
    /// that was found closed since this was last asked.
    pub(in super::super) fn lasting(&self, long_ago: Option<Instant>) -> (usize, Option<Instant>) {
        self.let_go_of_closed();
        let lasts = |connection: &&Connection| !long_ago.is_some_and(|then| connection.is_idle_since(then));
        (self.connections.borrow().iter().filter(lasts).count(), self.closed.take())
    }

    fn add(&self, connection: Connection) {
        self.let_go_of_closed();
        self.connections.borrow_mut().push(connection);
    }

    /// Lets go of what is closed or takes no more streams, which ends with the last of those it has, and of what has been
    /// idle since `long_ago`.
    pub(in super::super) fn sweep(&self, long_ago: Option<Instant>) {
        self.let_go_of_closed();
        if let Some(then) = long_ago {
            self.connections.borrow_mut().retain(|connection| !connection.is_idle_since(then));
        }
    }

    fn let_go_of_closed(&self) {
        self.connections.borrow_mut().retain(|connection| {
            if !connection.is_open() {
                self.closed.set(self.closed.get().max(connection.idle_since()));
            }
            connection.is_open()
        });
    }
}

/// One more, until dropped.
struct Counted<'a> {
    count: &'a Cell<usize>,
    /// Rung with the drop.
    bell: Option<&'a Notify>,
}

impl<'a> Counted<'a> {
    fn one_more(count: &'a Cell<usize>, bell: Option<&'a Notify>) -> Self {
        count.set(count.get() + 1);
        Self { count, bell }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        self.bell.into_iter().for_each(Notify::notify_waiters);
    }
}
