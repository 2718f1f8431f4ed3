//! What must survive a restart: an append-only file of checksummed JSON lines, one per change of an app's state.
//!
//! A thread owns the file; everybody else sends it records and awaits the answer. A record that was acknowledged is found
//! again by the next [`Journal::open`], whole; one that was refused leaves the file as it was. What a crash tore off the
//! last line is cut and told; damage anywhere else is refused, for nobody can know what it said (`line`, `writer`).

mod disk;
#[cfg(test)]
pub(super) mod faults;
mod line;
mod writer;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use thiserror::Error;
use tokio::sync::oneshot;

use self::{
    disk::{Disk, Medium},
    line::Payload,
    writer::{Request, Writer},
};

/// A handle to the journal's writer. The last one dropped waits for what is queued, then lets go of the directory.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    /// Taken when dropped: the writer ends when nobody can ask any more.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    size: Arc<AtomicU64>,
    /// Held for as long as the writer may write.
    _lock: File,
}

/// What was found in the journal when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The payloads of all whole records, oldest first.
    pub records: Vec<String>,
    /// A torn last line that was cut off: where it began and how many octets it had.
    pub torn: Option<(u64, u64)>,
}

/// What can go wrong with the journal.
#[derive(Clone, Debug, Error)]
pub enum JournalError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why; shared by all who waited for the same write.
        source: Arc<io::Error>,
    },
    /// Another process holds the directory.
    #[error("{dir}: in use by another tealgate; stop that one, or set `state.dir` to a directory of its own")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The file is damaged before its end, so what it says after that cannot be trusted.
    #[error(
        "{path}: damaged at byte {offset} (line {line}): {reason}. To keep only what is before: \
         `head -c {offset} {path} > {path}.kept && mv {path}.kept {path}`. \
         To start afresh from the configuration file: move {path} away."
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged line begins, in octets from the start.
        offset: u64,
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The record cannot be a line of the journal; nothing was written.
    #[error("not a record: {reason}")]
    Unfit {
        /// Why not.
        reason: String,
    },
}

impl Journal {
    /// Opens, or creates, the journal in `dir`, checks every record, and starts its writer. The directory (mode 0700) is
    /// made if need be, and held against other processes until the last handle is dropped. Blocks on the disk.
    pub fn open(dir: &Path) -> Result<(Self, Recovered), JournalError> {
        disk::make_dir(dir).map_err(|e| JournalError::io(dir, e))?;
        let lock = disk::lock(dir)?;
        let path = dir.join("journal.jsonl");

        Self::on(Disk::new(path.clone()), path, lock)
    }

    fn on(medium: impl Medium + 'static, path: PathBuf, lock: File) -> Result<(Self, Recovered), JournalError> {
        let size = Arc::default();
        let mut writer = Writer::new(medium, path.clone(), Arc::clone(&size));
        let recovered = writer.recover()?;

        let (requests, queue) = mpsc::channel();
        let writer = thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run(&queue))
            .map_err(|e| JournalError::io(&path, e))?;
        let inner = Inner { requests: Some(requests), writer: Some(writer), size, _lock: lock };
        Ok((Self { inner: Arc::new(inner) }, recovered))
    }

    /// Appends one record, `payload` being a JSON value on one line, at most 16 MiB of it. The answer comes once it is
    /// written, so that it outlives the process; with `durable`, once it is on disk, so that it outlives the machine. After
    /// an error the record is not in the journal, and the next append tries to mend what the failure left behind.
    pub fn append(&self, payload: String, durable: bool) -> oneshot::Receiver<Result<(), JournalError>> {
        let (reply, answer) = oneshot::channel();
        match Payload::parse(payload) {
            Ok(payload) => self.inner.send(Request::Append { payload, durable, reply }),
            Err(unfit) => _ = reply.send(Err(unfit)),
        }
        answer
    }

    /// Replaces all records by these, at once and durably: after an error or a crash either the old ones are there or the
    /// new. Sequence numbers go on.
    pub fn compact(&self, payloads: Vec<String>) -> oneshot::Receiver<Result<(), JournalError>> {
        let (reply, answer) = oneshot::channel();
        match payloads.into_iter().map(Payload::parse).collect() {
            Ok(payloads) => self.inner.send(Request::Compact { payloads, reply }),
            Err(unfit) => _ = reply.send(Err(unfit)),
        }
        answer
    }

    /// Lets go of it once all that is queued is written, in a thread of its own: a disk that hangs holds up its caller no
    /// longer than `within`, and the process not at all.
    pub async fn close(self, within: Duration) {
        let (closed, answer) = oneshot::channel::<()>();
        thread::spawn(move || {
            drop(self);
            drop(closed);
        });
        if tokio::time::timeout(within, answer).await.is_err() {
            tracing::error!("the disk did not take the last of the journal in time");
        }
    }

    /// How many octets of good records the file holds: what tells when to [`Self::compact`].
    pub fn size(&self) -> u64 {
        self.inner.size.load(Ordering::Relaxed)
    }
}

impl Inner {
    /// Were the writer gone, the request is dropped here, and the answer's receiver says that nobody answers.
    fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            requests.send(request).ok();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(writer) = self.writer.take() {
            writer.join().ok();
        }
    }
}

impl JournalError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source: Arc::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tempfile::TempDir;

    use super::*;

    fn open(dir: &TempDir) -> (Journal, Recovered) {
        Journal::open(dir.path()).unwrap()
    }

    fn append(journal: &Journal, payload: &str) {
        journal.append(payload.into(), true).blocking_recv().unwrap().unwrap();
    }

    fn file(dir: &TempDir) -> PathBuf {
        dir.path().join("journal.jsonl")
    }

    #[test]
    fn what_was_appended_is_there_after_reopening() {
        let dir = TempDir::new().unwrap();
        let (journal, recovered) = open(&dir);
        assert!(recovered.records.is_empty() && recovered.torn.is_none());
        // Asked for at once, so that some share a write.
        let answers: Vec<_> = (0..200).map(|n| journal.append(n.to_string(), n % 3 == 0)).collect();
        for answer in answers {
            answer.blocking_recv().unwrap().unwrap();
        }
        drop(journal);
        let (journal, recovered) = open(&dir);
        assert_eq!(recovered.records, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(journal.size(), fs::metadata(file(&dir)).unwrap().len());
    }

    #[test]
    fn a_file_cut_at_any_octet_opens_with_its_whole_records_and_goes_on() {
        let dir = TempDir::new().unwrap();
        let (journal, _) = open(&dir);
        for payload in ["{\"app\":\"shop\"}", "2", "\"ü\""] {
            append(&journal, payload);
        }
        drop(journal);
        let whole = fs::read(file(&dir)).unwrap();
        for cut in 0..=whole.len() {
            fs::write(file(&dir), &whole[..cut]).unwrap();
            let (journal, recovered) = open(&dir);
            let kept = whole[..cut].iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
            let records = whole[..kept].iter().filter(|b| **b == b'\n').count();
            assert_eq!(recovered.records.len(), records, "cut at {cut}");
            assert_eq!(recovered.torn, (kept < cut).then_some((kept as u64, (cut - kept) as u64)), "cut at {cut}");
            append(&journal, "\"next\"");
            drop(journal);
            let (_, recovered) = open(&dir);
            assert_eq!((recovered.records.len(), recovered.torn), (records + 1, None), "cut at {cut}");
        }
    }

    #[test]
    fn damage_before_the_last_line_is_refused_and_says_what_to_do() {
        let dir = TempDir::new().unwrap();
        let (journal, _) = open(&dir);
        (1..=3).for_each(|n| append(&journal, &n.to_string()));
        drop(journal);
        let damaged = fs::read_to_string(file(&dir)).unwrap().replace("\"record\":2", "\"record\":7");
        fs::write(file(&dir), &damaged).unwrap();
        let error = Journal::open(dir.path()).err().unwrap();
        let second = damaged.find('\n').unwrap() + 1;
        assert!(matches!(error, JournalError::Damaged { offset, line: 2, .. } if offset == second as u64), "{error}");
        let shown = error.to_string();
        assert!(shown.contains("journal.jsonl: damaged at byte") && shown.contains("its checksum is"), "{shown}");
        assert!(shown.contains(&format!("head -c {second} ")) && shown.contains("move "), "{shown}");
        assert_eq!(fs::read_to_string(file(&dir)).unwrap(), damaged, "what was refused is left alone");
    }

    #[test]
    fn a_second_tealgate_is_refused_while_the_first_lives() {
        let dir = TempDir::new().unwrap();
        let (first, _) = open(&dir);
        let clone = first.clone();
        drop(first);
        let refused = Journal::open(dir.path()).err().unwrap();
        assert!(matches!(refused, JournalError::Locked { .. }), "{refused}");
        assert!(refused.to_string().contains("state.dir"), "{refused}");
        drop(clone);
        open(&dir);
    }

    #[test]
    fn a_compaction_replaces_all_and_the_numbers_go_on() {
        let dir = TempDir::new().unwrap();
        let (journal, _) = open(&dir);
        (1..=50).for_each(|n| append(&journal, &n.to_string()));
        let before = journal.size();
        journal.compact(vec!["\"sum\"".into()]).blocking_recv().unwrap().unwrap();
        assert!(journal.size() < before);
        append(&journal, "\"more\"");
        drop(journal);
        let (_, recovered) = open(&dir);
        assert_eq!(recovered.records, ["\"sum\"", "\"more\""]);
        assert!(fs::read_to_string(file(&dir)).unwrap().starts_with("{\"seq\":51,"));
    }

    #[test]
    fn an_unfit_record_is_refused_and_changes_nothing() {
        let dir = TempDir::new().unwrap();
        let (journal, _) = open(&dir);
        let answer = journal.append("{\n}".into(), true).blocking_recv().unwrap();
        assert!(matches!(answer, Err(JournalError::Unfit { .. })));
        let answer = journal.compact(vec!["1".into(), "{".into()]).blocking_recv().unwrap();
        assert!(matches!(answer, Err(JournalError::Unfit { .. })));
        assert_eq!(fs::read(file(&dir)).unwrap(), b"");
    }

    #[test]
    fn only_the_owner_may_look() {
        let dir = TempDir::new().unwrap();
        let state = dir.path().join("made/here");
        let (journal, _) = Journal::open(&state).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        assert_eq!((mode(&state.join("journal.jsonl")), mode(&state.join("lock"))), (0o600, 0o600));
        journal.compact(vec!["1".into()]).blocking_recv().unwrap().unwrap();
        assert_eq!(mode(&state.join("journal.jsonl")), 0o600);
    }

    #[test]
    fn what_a_dead_compaction_left_behind_is_swept() {
        let dir = TempDir::new().unwrap();
        let aside = dir.path().join(".journal.jsonl.a1B2c3");
        fs::write(&aside, "half").unwrap();
        open(&dir);
        assert!(!aside.exists());
    }
}
