//! The thread that owns the file. What it keeps: between two requests the file holds exactly the records that were
//! acknowledged, or the writer knows that it may not, and mends that before it writes anything else.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use tokio::sync::oneshot;

use super::{
    JournalError, Recovered,
    disk::Medium,
    line::{self, Payload, Unreadable},
};

/// How many records may share one write and one sync.
const MAX_BATCH: usize = 64;
/// How many octets may wait for a sync: they are kept in memory until then.
const MAX_UNSYNCED: usize = 1024 * 1024;

type Reply = oneshot::Sender<Result<(), JournalError>>;

/// What the writer is asked.
pub(super) enum Request {
    Append { payload: Payload, durable: bool, reply: Reply },
    Compact { payloads: Vec<Payload>, reply: Reply },
}

pub(super) struct Writer<M> {
    medium: M,
    path: PathBuf,
    next_seq: u64,
    /// Where the last synced record ends.
    synced: u64,
    /// The records after it: acknowledged as written, not yet as durable. A failed sync may have lost them for good
    /// (the kernel then takes them for clean), so they are written again from here.
    unsynced: Vec<u8>,
    state: State,
    size: Arc<AtomicU64>,
}

/// What the file holds.
enum State {
    /// The acknowledged records, and nothing else.
    Sound,
    /// Perhaps less on disk than in memory, perhaps more than was acknowledged.
    Doubtful,
    /// The records of before or after a compaction.
    Unknown,
}

impl<M: Medium> Writer<M> {
    pub(super) fn new(medium: M, path: PathBuf, size: Arc<AtomicU64>) -> Self {
        Self { medium, path, next_seq: 1, synced: 0, unsynced: Vec::new(), state: State::Unknown, size }
    }

    /// Reads the file from the start, cuts a torn last line, and goes on from there.
    pub(super) fn recover(&mut self) -> Result<Recovered, JournalError> {
        let contents = self.medium.reopen().map_err(Unreadable::Io).and_then(line::read_all);
        let contents = contents.map_err(|unreadable| match unreadable {
            Unreadable::Io(e) => JournalError::io(&self.path, e),
            Unreadable::Damaged { offset, line, reason } => {
                JournalError::Damaged { path: self.path.clone(), offset, line, reason }
            }
        })?;
        if contents.torn > 0 {
            self.attempt(|medium| medium.truncate(contents.len))?;
        }
        // Also without a cut: what was found may have been written by a process that died before its sync.
        self.attempt(Medium::sync)?;
        // An emptied file does not tell how far the numbers were.
        self.sound(contents.len, contents.next_seq.max(self.next_seq));
        Ok(Recovered { records: contents.records, torn: (contents.torn > 0).then_some((contents.len, contents.torn)) })
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(mut self, requests: &mpsc::Receiver<Request>) {
        let mut next = requests.recv().ok();
        while let Some(request) = next.take() {
            match request {
                Request::Compact { payloads, reply } => _ = reply.send(self.compact(&payloads)),
                Request::Append { payload, durable, reply } => {
                    let mut batch = Batch { payloads: vec![payload], durable, replies: vec![reply] };
                    next = batch.fill(requests);
                    let outcome = self.append(&batch.payloads, batch.durable);
                    for reply in batch.replies {
                        reply.send(outcome.clone()).ok();
                    }
                }
            }
            next = next.or_else(|| requests.recv().ok());
        }
    }

    /// Writes these records, all or none.
    pub(super) fn append(&mut self, payloads: &[Payload], durable: bool) -> Result<(), JournalError> {
        self.mend()?;
        let (lines, next_seq) = self.encode(payloads)?;
        let end = self.synced + self.unsynced.len() as u64;

        self.state = State::Doubtful;
        self.attempt(|medium| medium.write(end, &lines))?;
        if durable || self.unsynced.len() + lines.len() > MAX_UNSYNCED {
            self.attempt(Medium::sync)?;
            self.unsynced.clear();
            self.sound(end + lines.len() as u64, next_seq);
        } else {
            self.unsynced.extend_from_slice(&lines);
            self.sound(self.synced, next_seq);
        }
        Ok(())
    }

    /// Puts these records in the place of all others.
    pub(super) fn compact(&mut self, payloads: &[Payload]) -> Result<(), JournalError> {
        // With nothing unsynced left, whichever file is in place after a failure is on disk as a whole.
        self.append(&[], true)?;
        let (lines, next_seq) = self.encode(payloads)?;

        self.state = State::Unknown;
        self.attempt(|medium| medium.replace(&lines))?;
        self.sound(lines.len() as u64, next_seq);
        Ok(())
    }

    /// Brings the file back to what was acknowledged, if a failure has left it otherwise.
    fn mend(&mut self) -> Result<(), JournalError> {
        match self.state {
            State::Sound => Ok(()),
            State::Unknown => self.recover().map(|_| ()),
            State::Doubtful => {
                let (synced, unsynced) = (self.synced, std::mem::take(&mut self.unsynced));
                let end = synced + unsynced.len() as u64;
                // Cut first, and only what was refused: a crash in between must not lose what was acknowledged.
                let mended = self.attempt(|medium| {
                    medium.truncate(end)?;
                    medium.write(synced, &unsynced)?;
                    medium.sync()
                });
                if mended.is_err() {
                    self.unsynced = unsynced;
                    return mended;
                }
                self.sound(end, self.next_seq);
                Ok(())
            }
        }
    }

    fn encode(&self, payloads: &[Payload]) -> Result<(Vec<u8>, u64), JournalError> {
        let mut lines = Vec::new();
        let mut seq = self.next_seq;
        for payload in payloads {
            payload.encode(seq, &mut lines)?;
            seq += 1;
        }
        Ok((lines, seq))
    }

    #[cfg(test)]
    pub(super) fn medium(&mut self) -> &mut M {
        &mut self.medium
    }

    fn sound(&mut self, synced: u64, next_seq: u64) {
        self.synced = synced;
        self.next_seq = next_seq;
        self.state = State::Sound;
        self.size.store(synced + self.unsynced.len() as u64, Ordering::Relaxed);
    }

    fn attempt(&mut self, act: impl FnOnce(&mut M) -> std::io::Result<()>) -> Result<(), JournalError> {
        act(&mut self.medium).map_err(|e| JournalError::io(&self.path, e))
    }
}

/// Appends that waited together: they are written, synced and answered together.
struct Batch {
    payloads: Vec<Payload>,
    durable: bool,
    replies: Vec<Reply>,
}

impl Batch {
    /// Takes in what else waits to be appended; answers the request that ended it, if one did.
    fn fill(&mut self, requests: &mpsc::Receiver<Request>) -> Option<Request> {
        while self.payloads.len() < MAX_BATCH {
            match requests.try_recv().ok()? {
                Request::Append { payload, durable, reply } => {
                    self.payloads.push(payload);
                    self.durable |= durable;
                    self.replies.push(reply);
                }
                compact @ Request::Compact { .. } => return Some(compact),
            }
        }
        None
    }
}
