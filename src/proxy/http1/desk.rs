//! What a request under way needs of memory, lent by the worker: a connection at rest holds none of it, and one that waits
//! for its upstream none for the answer. What is lent is what was given back last, so that it is mostly still in the caches
//! when somebody else needs it. The octets of a buffer are written once when it is made, and never again but by the sockets.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::super::h1::Lines;

/// What a buffer holds, in octets: a 16 KiB body with its head, and room to spare, in one read.
const ROOM: usize = 32 * 1024;

/// The memory of one request.
pub(in super::super) struct Desk {
    /// From the client: the head, and behind it what is to be read on.
    pub(in super::super) incoming: Buffer,
    /// Where the lines of the request's head stand, and those of its trailers.
    pub(super) lines: Lines,
    pub(super) trailer_lines: Lines,
    /// Framed for the upstream; or for the client, where no upstream's answer is passed on.
    pub(super) outgoing: Vec<u8>,
}

impl Desk {
    pub(in super::super) fn new() -> Box<Self> {
        Box::new(Self {
            incoming: Buffer::new(),
            lines: Lines::roomy(),
            trailer_lines: Lines::default(),
            outgoing: Vec::with_capacity(2048),
        })
    }

    /// Makes it as good as new; `false` if it grew too large to be kept.
    pub(in super::super) fn clear(&mut self) -> bool {
        self.incoming.clear();
        self.outgoing.clear();
        self.incoming.octets.len() == ROOM && self.outgoing.capacity() <= 2 * ROOM
    }
}

/// The memory of an answer, lent when some of it has come.
pub(in super::super) struct Tray {
    /// From the upstream.
    pub(super) answer: Buffer,
    /// Where the lines of its head stand, and those of its trailers.
    pub(super) lines: Lines,
    /// Framed for the client.
    pub(super) reply: Vec<u8>,
}

impl Tray {
    pub(in super::super) fn new() -> Box<Self> {
        Box::new(Self { answer: Buffer::new(), lines: Lines::roomy(), reply: Vec::with_capacity(2048) })
    }

    /// Makes it as good as new; `false` if it grew too large to be kept.
    pub(in super::super) fn clear(&mut self) -> bool {
        self.answer.clear();
        self.reply.clear();
        self.reply.capacity() <= 2 * ROOM
    }
}

/// Octets that came and were not consumed, behind a head that is kept for as long as it is needed.
pub(in super::super) struct Buffer {
    octets: Box<[u8]>,
    /// How many octets from the front are the head's.
    head: usize,
    start: usize,
    end: usize,
    /// Whether anything behind the head was consumed.
    begun: bool,
}

impl Buffer {
    pub(super) fn new() -> Self {
        Self { octets: vec![0; ROOM].into(), head: 0, start: 0, end: 0, begun: false }
    }

    pub(super) fn clear(&mut self) {
        (self.head, self.start, self.end, self.begun) = (0, 0, 0, false);
    }

    /// What came and was not consumed.
    pub(in super::super) fn rest(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether nothing behind the head was consumed: then the rest begins where the head's body does.
    pub(super) fn is_untouched(&self) -> bool {
        !self.begun
    }

    /// Consumes this many octets of the rest.
    pub(super) fn consume(&mut self, octets: usize) {
        self.begun |= octets > 0;
        self.start = (self.start + octets).min(self.end);
    }

    /// Keeps this many octets of the rest as the head; they are consumed.
    pub(super) fn keep_head(&mut self, octets: usize) {
        self.head = 0;
        self.move_to_front();
        self.head = octets.min(self.end);
        self.start = self.head;
        self.begun = false;
    }

    /// The head that is kept.
    pub(super) fn head(&self) -> &[u8] {
        &self.octets[..self.head]
    }

    /// The head that is kept, and apart from it the room behind.
    pub(super) fn split(&mut self) -> (&[u8], Behind<'_>) {
        let (head, octets) = self.octets.split_at_mut(self.head);
        (head, Behind { octets, from: self.head, start: &mut self.start, end: &mut self.end })
    }

    /// The head is needed no more.
    pub(super) fn drop_head(&mut self) {
        self.head = 0;
    }

    /// Whether anything more can come.
    pub(super) fn has_room(&self) -> bool {
        self.end < self.octets.len() || self.start > self.head
    }

    /// Makes room for a head of up to this many octets.
    pub(super) fn grow(&mut self, to: usize) {
        let room = self.octets.len();
        if self.has_room() || room >= to {
            return;
        }
        let mut octets = std::mem::take(&mut self.octets).into_vec();
        octets.resize((2 * room).min(to), 0);
        self.octets = octets.into();
    }

    /// Adds octets that came in another way, as far as there is room.
    #[cfg(test)]
    pub(super) fn add(&mut self, octets: &[u8]) -> usize {
        self.move_to_front();
        let here = octets.len().min(self.octets.len() - self.end);
        self.octets[self.end..self.end + here].copy_from_slice(&octets[..here]);
        self.end += here;
        here
    }

    /// Reads some more, 0 octets at the end. There must be room.
    pub(in super::super) fn poll_fill(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.move_to_front();
        let mut room = ReadBuf::new(&mut self.octets[self.end..]);
        ready!(Pin::new(from).poll_read(cx, &mut room))?;
        let octets = room.filled().len();
        self.end += octets;
        Poll::Ready(Ok(octets))
    }

    /// Has the rest follow the head at once, where that is free or needed.
    fn move_to_front(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (self.head, self.head);
        } else if self.start > self.head && (self.end == self.octets.len() || self.head == 0) {
            self.octets.copy_within(self.start..self.end, self.head);
            (self.start, self.end) = (self.head, self.head + self.end - self.start);
        }
    }
}

/// What comes behind a head that somebody reads meanwhile.
pub(super) struct Behind<'a> {
    octets: &'a mut [u8],
    /// Where it begins in its buffer.
    from: usize,
    start: &'a mut usize,
    end: &'a mut usize,
}

impl Behind<'_> {
    /// Whether anything more can come.
    pub(super) fn has_room(&self) -> bool {
        *self.end < self.from + self.octets.len() || *self.start > self.from
    }

    /// Reads some more, 0 octets at the end. There must be room.
    pub(super) fn poll_fill(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let came = *self.end - *self.start;
        if came == 0 || *self.end == self.from + self.octets.len() {
            self.octets.copy_within(*self.start - self.from..*self.end - self.from, 0);
            (*self.start, *self.end) = (self.from, self.from + came);
        }
        let mut room = ReadBuf::new(&mut self.octets[*self.end - self.from..]);
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        let octets = room.filled().len();
        *self.end += octets;
        Poll::Ready(Ok(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_stays_where_it_is_while_what_follows_comes_and_goes() {
        let mut buffer = Buffer::new();
        buffer.add(b"xxHEADbody");
        buffer.consume(2);
        buffer.keep_head(4);
        assert_eq!((buffer.head(), buffer.rest()), (&b"HEAD"[..], &b"body"[..]));
        assert!(buffer.is_untouched());
        buffer.consume(2);
        assert!(!buffer.is_untouched());
        let more = vec![b'a'; 2 * ROOM];
        let came = buffer.add(&more);
        assert!(came > 0 && buffer.rest().starts_with(b"dya"));
        buffer.consume(100);
        assert!(buffer.has_room() && buffer.add(&more) > 0 && !buffer.has_room());
        assert_eq!((buffer.head(), buffer.rest().len()), (&b"HEAD"[..], ROOM - 4));
    }

    #[test]
    fn behind_a_head_that_is_being_read_more_can_come() {
        let mut buffer = Buffer::new();
        buffer.add(b"HEADbo");
        buffer.keep_head(4);
        let (head, mut behind) = buffer.split();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut stream: &[u8] = b"dy";
        assert!(behind.has_room() && matches!(behind.poll_fill(&mut stream, &mut cx), Poll::Ready(Ok(2))));
        assert!(matches!(behind.poll_fill(&mut stream, &mut cx), Poll::Ready(Ok(0))));
        assert_eq!(head, b"HEAD");
        assert_eq!(buffer.rest(), b"body");
        buffer.consume(4);
        let (_, mut behind) = buffer.split();
        let mut stream: &[u8] = &vec![b'a'; 2 * ROOM];
        assert!(matches!(behind.poll_fill(&mut stream, &mut cx), Poll::Ready(Ok(octets)) if octets == ROOM - 4));
        assert!(!behind.has_room());
        assert_eq!((buffer.head(), buffer.rest().len()), (&b"HEAD"[..], ROOM - 4));
    }

    #[test]
    fn a_buffer_grows_for_a_head_and_no_further() {
        let mut buffer = Buffer::new();
        buffer.add(&vec![b'a'; ROOM]);
        buffer.grow(ROOM + 10);
        assert_eq!(buffer.add(&[b'b'; 100]), 10);
        buffer.grow(ROOM + 10);
        assert!(!buffer.has_room());
    }
}
