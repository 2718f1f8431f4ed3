//! The way to disk. Every wait for it is bounded, and a disk that does not answer is asked nothing more until it has: a
//! promotion is then refused at once, and a rollback goes ahead (G5). What could not be written is written anew, whole,
//! as soon as the disk is back, over whatever it made of the first try.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::{Instant, timeout},
};

use super::{
    journal::{Journal, JournalError},
    memory::{History, Memory, Record},
    name::AppName,
    rollout::{Kept, Rollout},
    status::Receipt,
};

/// The journal is left to grow to this many octets before it is rewritten.
const COMPACT_FROM: u64 = 1 << 20;
/// How long until what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the retry may hold up everything else.
const RETRY_PATIENCE: Duration = Duration::from_millis(250);
/// How long a stopping process waits for the last writes.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

type Answer = oneshot::Receiver<Result<(), JournalError>>;

/// What is remembered, and its way to disk.
pub(super) struct Archive {
    memory: Memory,
    journal: Option<Journal>,
    /// The write that the disk has not answered in time.
    overdue: Option<Answer>,
    /// Apps whose last state is not known to be on disk.
    unsaved: BTreeSet<AppName>,
    retry_at: Option<Instant>,
    /// The size, in octets, at which the journal is rewritten to what still matters.
    compact_at: u64,
}

impl Archive {
    pub(super) fn new(memory: Memory, journal: Option<Journal>) -> Self {
        let compact_at = COMPACT_FROM;
        Self { memory, journal, overdue: None, unsaved: BTreeSet::new(), retry_at: None, compact_at }
    }

    /// An app as it was last known, its health unknown.
    pub(super) fn rollout(&self, name: &AppName) -> Option<Rollout> {
        self.memory.rollout(name)
    }

    /// An app's receipts, newest last.
    pub(super) fn history(&self, name: &AppName) -> Arc<History> {
        self.memory.history(name)
    }

    /// When [`Self::retry`] is due.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Makes a state durable, with the receipts of what leads to it, and says why not where that fails. Nothing is to be
    /// written where only health differs.
    pub(super) async fn save(&mut self, kept: &Kept, receipts: &[Receipt], patience: Duration) -> Result<(), String> {
        if self.memory.amounts_to(kept) {
            return Ok(());
        }
        let record = Record::State { kept: Box::new(kept.clone()), receipts: receipts.to_vec() };
        let written = self.write(&record, patience).await;
        match &written {
            Ok(()) => _ = self.unsaved.remove(kept.app()),
            Err(problem) => {
                tracing::error!(app = %kept.app(), %problem, "the journal cannot be written");
                self.unsaved.insert(kept.app().clone());
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
        written
    }

    /// Takes note of the state that is now in force.
    pub(super) fn keep(&mut self, kept: Kept) {
        self.memory.keep(kept);
    }

    /// Adds a complete receipt to the history. Nobody waits for the disk: should it be lost, the history shows the receipt
    /// without its measurements.
    pub(super) fn remember(&mut self, name: &AppName, receipt: Receipt) {
        let record = Record::Measured { receipt: Box::new(receipt.clone()) };
        self.memory.remember(name, receipt);
        if self.answered()
            && let Some(journal) = &self.journal
        {
            drop(journal.append(record.to_json(), false));
        }
        self.compact_if_grown();
    }

    /// Writes what is not on disk yet, until that fails again.
    pub(super) async fn retry(&mut self) {
        self.retry_at = None;
        while let Some(name) = self.unsaved.first().cloned() {
            let Some(record) = self.memory.whole(&name) else {
                self.unsaved.remove(&name);
                continue;
            };
            match self.write(&record, RETRY_PATIENCE).await {
                Ok(()) => tracing::info!(app = %name, "what could not be written to the journal is on disk now"),
                Err(problem) => {
                    tracing::error!(app = %name, %problem, "the journal still cannot be written");
                    self.retry_at = Some(Instant::now() + RETRY);
                    return;
                }
            }
            self.unsaved.remove(&name);
        }
    }

    /// Writes what is left, and lets go of the journal; a disk that hangs does not keep the process.
    pub(super) async fn close(mut self) {
        self.retry().await;
        if let Some(journal) = self.journal {
            journal.close(CLOSE_PATIENCE).await;
        }
    }

    async fn write(&mut self, record: &Record, patience: Duration) -> Result<(), String> {
        if !self.answered() {
            return Err("the disk has not answered the last write".to_owned());
        }
        let Some(journal) = &self.journal else { return Ok(()) };
        let mut answer = journal.append(record.to_json(), true);
        match timeout(patience, &mut answer).await {
            Ok(Ok(written)) => written.map_err(|problem| problem.to_string()),
            Ok(Err(_)) => Err("its writer has ended".to_owned()),
            Err(_) => {
                self.overdue = Some(answer);
                Err(format!("the disk did not answer within {patience:?}"))
            }
        }
    }

    /// Whether the disk owes us no answer.
    fn answered(&mut self) -> bool {
        let owed = |answer: &mut Answer| matches!(answer.try_recv(), Err(TryRecvError::Empty));
        self.overdue.take_if(|answer| !owed(answer));
        self.overdue.is_none()
    }

    /// Rewrites the journal once it has outgrown what it says, so that it stays small and the cost is seldom paid.
    fn compact_if_grown(&mut self) {
        let Some(journal) = self.journal.as_ref().filter(|journal| journal.size() > self.compact_at) else { return };
        let records = self.memory.records();
        let size: usize = records.iter().map(String::len).sum();
        // Should it fail, the longer journal says the same, and it is tried again when that has doubled.
        self.compact_at = COMPACT_FROM.max(4 * size as u64).max(2 * journal.size());
        let answer = journal.compact(records);
        tokio::spawn(async move {
            if let Ok(Err(problem)) = answer.await {
                tracing::error!(%problem, "the journal could not be rewritten and stays as long as it is");
            }
        });
    }
}
