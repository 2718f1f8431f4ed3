//! The way to disk. Every wait for it is bounded, and a disk that does not answer is asked nothing more until it has: a
//! promotion is then refused at once, and a rollback goes ahead (G5). What could not be written is written anew, whole,
//! as soon as the disk is back, over whatever it made of the first try.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::{Instant, timeout_at},
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
/// How many records may be written within the time that is given for one; many more are given more.
const TOGETHER: usize = 1024;
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

/// States on their way to disk.
#[must_use = "nobody knows yet whether they arrive"]
pub(super) struct Writing {
    apps: Vec<AppName>,
    answers: Result<VecDeque<Answer>, String>,
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

    /// Makes the states of some apps durable, each with the receipts of what leads to it, and says why not where that fails.
    /// Nothing is to be written where only health differs.
    pub(super) async fn save<'a>(
        &mut self,
        states: impl IntoIterator<Item = (&'a Kept, &'a [Receipt])>,
        patience: Duration,
    ) -> Result<(), String> {
        let writing = self.begin(states);
        self.finish(writing, patience).await
    }

    /// Sends the states of some apps on their way to disk, as [`Self::save`] does, without a wait: that is for
    /// [`Self::finish`].
    pub(super) fn begin<'a>(&mut self, states: impl IntoIterator<Item = (&'a Kept, &'a [Receipt])>) -> Writing {
        let news: Vec<_> = states.into_iter().filter(|(kept, _)| !self.memory.amounts_to(kept)).collect();
        let record = |(kept, receipts): &(&Kept, &[Receipt])| Record::State {
            kept: Box::new((*kept).clone()),
            receipts: receipts.to_vec(),
        };
        let answers = self.send(news.iter().map(record));
        Writing { apps: news.iter().map(|(kept, _)| kept.app().clone()).collect(), answers }
    }

    /// Waits until what has begun is durable, and says why not where that fails.
    pub(super) async fn finish(&mut self, writing: Writing, patience: Duration) -> Result<(), String> {
        let Writing { apps, answers } = writing;
        let written = match answers {
            Ok(answers) => self.wait(answers, patience).await,
            Err(problem) => Err(problem),
        };
        match &written {
            Ok(()) => apps.iter().for_each(|name| _ = self.unsaved.remove(name)),
            Err(problem) => {
                tracing::error!(apps = %listed(apps.iter()), %problem, "the journal cannot be written");
                self.unsaved.extend(apps);
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
        written
    }

    /// Whether an app's last state is not known to be on disk.
    pub(super) fn is_unsaved(&self, name: &AppName) -> bool {
        self.unsaved.contains(name)
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
        while !self.unsaved.is_empty() {
            let names: Vec<_> = self.unsaved.iter().take(TOGETHER).cloned().collect();
            let records: Vec<_> = names.iter().filter_map(|name| self.memory.whole(name)).collect();
            let apps = listed(names.iter());
            if let Err(problem) = self.write(records, RETRY_PATIENCE).await {
                tracing::error!(%apps, %problem, "the journal still cannot be written");
                self.retry_at = Some(Instant::now() + RETRY);
                return;
            }
            tracing::info!(%apps, "what could not be written to the journal is on disk now");
            names.iter().for_each(|name| _ = self.unsaved.remove(name));
        }
    }

    /// Writes what is left, and lets go of the journal; a disk that hangs does not keep the process.
    pub(super) async fn close(mut self) {
        self.retry().await;
        if let Some(journal) = self.journal {
            journal.close(CLOSE_PATIENCE).await;
        }
    }

    /// Writes records, and waits for the disk once: what makes the last of them durable makes them all.
    async fn write(&mut self, records: impl IntoIterator<Item = Record>, patience: Duration) -> Result<(), String> {
        let answers = self.send(records)?;
        self.wait(answers, patience).await
    }

    fn send(&mut self, records: impl IntoIterator<Item = Record>) -> Result<VecDeque<Answer>, String> {
        if !self.answered() {
            return Err("the disk has not answered the last write".to_owned());
        }
        let Some(journal) = &self.journal else { return Ok(VecDeque::new()) };
        let mut records = records.into_iter().peekable();
        let mut answers = VecDeque::new();
        while let Some(record) = records.next() {
            answers.push_back(journal.append(record.to_json(), records.peek().is_none()));
        }
        Ok(answers)
    }

    async fn wait(&mut self, mut answers: VecDeque<Answer>, patience: Duration) -> Result<(), String> {
        let patience = patience.saturating_mul(1 + (answers.len() / TOGETHER) as u32);
        let deadline = Instant::now() + patience;
        while let Some(answer) = answers.front_mut() {
            match timeout_at(deadline, answer).await {
                Ok(Ok(Ok(()))) => _ = answers.pop_front(),
                Ok(Ok(Err(problem))) => return Err(problem.to_string()),
                Ok(Err(_)) => return Err("its writer has ended".to_owned()),
                Err(_) => {
                    self.overdue = answers.pop_back();
                    return Err(format!("the disk did not answer within {patience:?}"));
                }
            }
        }
        Ok(())
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

/// The names as a log line has them: a few of many.
fn listed<'a>(names: impl ExactSizeIterator<Item = &'a AppName>) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let shown: Vec<_> = names.take(SHOWN).map(AppName::as_str).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}
