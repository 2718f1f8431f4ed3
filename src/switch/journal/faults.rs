//! A disk that fails, for the writer's tests: it keeps apart what a process sees of a file and what a power loss leaves of
//! it, and fails when it is told to, half-way where there is a half.

use std::{
    collections::BTreeSet,
    io::{self, BufRead},
    mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use proptest::prelude::*;

use super::{
    Journal,
    disk::Medium,
    line::{self, Payload},
    writer::Writer,
};

/// One file: its octets as read back, as on the platter, and which the kernel still means to write.
#[derive(Clone, Debug, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Default)]
struct FaultyDisk {
    inode: Inode,
    /// The file of that name after a power loss, while a rename is not on the platter.
    named: Option<Inode>,
    faults: Faults,
    syncs: Arc<AtomicUsize>,
}

#[derive(Clone, Debug, Default)]
enum Faults {
    #[default]
    None,
    /// All goes well for so many steps (an octet written, any other call), and then nothing ever again.
    DeadAfter(usize),
    /// Each call fails after so many steps, or does not.
    Each(std::vec::IntoIter<Option<usize>>),
    /// Every call fails while this is false.
    Unless(Arc<AtomicBool>),
    /// No call returns while this is true.
    HangsWhile(Arc<AtomicBool>),
}

/// A journal for the switchboard's tests, whose disk can be told to fail and to work again.
pub(in crate::switch) fn journal_that_works_while(works: Arc<AtomicBool>) -> Journal {
    journal_on(FaultyDisk { faults: Faults::Unless(works), ..FaultyDisk::default() })
}

/// One whose disk does not answer while it is told so.
pub(in crate::switch) fn journal_that_hangs_while(hangs: Arc<AtomicBool>) -> Journal {
    journal_on(FaultyDisk { faults: Faults::HangsWhile(hangs), ..FaultyDisk::default() })
}

/// One whose disk counts how often it is waited for.
pub(in crate::switch) fn journal_that_counts(syncs: Arc<AtomicUsize>) -> Journal {
    journal_on(FaultyDisk { syncs, ..FaultyDisk::default() })
}

fn journal_on(disk: FaultyDisk) -> Journal {
    let lock = tempfile::tempfile().expect("a temporary file");
    Journal::on(disk, PathBuf::from("journal.jsonl"), lock).expect("the disk works at first").0
}

impl FaultyDisk {
    /// Of the steps an operation has, how many are done, and whether it then fails.
    fn fate(&mut self, steps: usize) -> (usize, io::Result<()>) {
        let error = || Err(io::Error::other("fault"));
        match &mut self.faults {
            Faults::None => (steps, Ok(())),
            Faults::DeadAfter(left) if *left >= steps => {
                *left -= steps;
                (steps, Ok(()))
            }
            Faults::DeadAfter(left) => (mem::take(left), error()),
            Faults::Unless(works) if works.load(Ordering::SeqCst) => (steps, Ok(())),
            Faults::Unless(_) => (0, error()),
            Faults::HangsWhile(hangs) => {
                while hangs.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                (steps, Ok(()))
            }
            Faults::Each(faults) => match faults.next().flatten() {
                Some(after) => (after % steps.max(1), error()),
                None => (steps, Ok(())),
            },
        }
    }

    fn after_kill(&self) -> Vec<String> {
        line::read_all(&*self.inode.cached).unwrap().records
    }

    fn after_power_loss(&self) -> Vec<String> {
        line::read_all(&*self.named.as_ref().unwrap_or(&self.inode).durable).unwrap().records
    }
}

impl Medium for FaultyDisk {
    fn reopen(&mut self) -> io::Result<Box<dyn BufRead + '_>> {
        self.fate(1).1?;
        self.named = None;
        Ok(Box::new(&*self.inode.cached))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (done, outcome) = self.fate(bytes.len());
        let (from, to) = (offset as usize, offset as usize + done);
        let cached = &mut self.inode.cached;
        cached.resize(cached.len().max(to), 0);
        cached[from..to].copy_from_slice(&bytes[..done]);
        self.inode.dirty.extend(from..to);
        outcome
    }

    fn sync(&mut self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        let outcome = self.fate(1).1;
        let Inode { cached, durable, dirty } = &mut self.inode;
        durable.resize(cached.len(), 0);
        // As on Linux: what a sync failed to write is taken for clean, and no later sync tries again.
        for at in mem::take(dirty).into_iter().filter(|at| *at < cached.len() && outcome.is_ok()) {
            durable[at] = cached[at];
        }
        outcome
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.fate(1).1?;
        self.inode.cached.truncate(len as usize);
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Write and sync aside, rename, sync the directory.
        let (done, outcome) = self.fate(3);
        if done > 1 {
            let new = Inode { cached: bytes.to_vec(), durable: bytes.to_vec(), dirty: BTreeSet::new() };
            self.named = Some(mem::replace(&mut self.inode, new));
        }
        if done > 2 {
            self.named = None;
        }
        outcome
    }
}

/// What a test asks of the writer.
#[derive(Clone, Debug)]
enum Step {
    Append { count: usize, durable: bool },
    Compact { count: usize },
}

/// What a journal may hold, and how much of it at the least.
#[derive(Debug, Default)]
struct History {
    records: Vec<String>,
    /// After the process was killed.
    written: usize,
    /// After a power loss.
    durable: usize,
}

impl History {
    fn allows(&self, found: &[String], at_least: usize) -> bool {
        self.records.starts_with(found) && found.len() >= at_least
    }
}

/// A writer on a failing disk, with what it has promised so far.
struct Trial {
    writer: Writer<FaultyDisk>,
    serial: usize,
    /// By what was acknowledged.
    promised: History,
    /// As if the last step had gone the other way, when that step was refused: nobody was told which way it went.
    otherwise: Option<History>,
}

impl Trial {
    fn new(faults: Faults) -> Self {
        let mut writer = Writer::new(FaultyDisk::default(), PathBuf::from("journal.jsonl"), Arc::default());
        writer.recover().unwrap();
        writer.medium().faults = faults;
        Self { writer, serial: 0, promised: History::default(), otherwise: None }
    }

    fn take(&mut self, step: &Step) -> bool {
        let (Step::Append { count, .. } | Step::Compact { count }) = *step;
        let texts: Vec<_> = (0..count).map(|n| format!("\"record {}\"", self.serial + n)).collect();
        self.serial += count;
        let payloads: Vec<_> = texts.iter().map(|text| Payload::parse(text.clone()).unwrap()).collect();
        match *step {
            Step::Append { durable, .. } => {
                let done = self.writer.append(&payloads, durable).is_ok();
                let records = [&self.promised.records[..], &texts].concat();
                let written = if done { records.len() } else { self.promised.written };
                let durable = if done && durable { records.len() } else { self.promised.durable };
                self.settle(done, History { records, written, durable })
            }
            Step::Compact { .. } => {
                let done = self.writer.compact(&payloads).is_ok();
                let replaced = done || self.writer.medium().after_kill() == texts;
                self.settle(replaced, History { written: count, durable: count, records: texts }) && done
            }
        }
    }

    fn settle(&mut self, happened: bool, after: History) -> bool {
        if happened {
            self.otherwise = Some(mem::replace(&mut self.promised, after));
        } else {
            self.otherwise = Some(after);
        }
        happened
    }

    fn assert_kept(&mut self, done: bool) {
        let (killed, lost) = (self.writer.medium().after_kill(), self.writer.medium().after_power_loss());
        let otherwise = self.otherwise.take().filter(|_| !done);
        let allowed = || [Some(&self.promised), otherwise.as_ref()].into_iter().flatten();
        assert!(allowed().any(|h| h.allows(&killed, h.written)), "killed: {killed:?} of {:?}", self.promised);
        assert!(allowed().any(|h| h.allows(&lost, h.durable)), "power lost: {lost:?} of {:?}", self.promised);
    }
}

#[test]
fn whenever_the_process_or_the_machine_dies_what_was_acknowledged_is_there() {
    use Step::{Append, Compact};
    let script = [
        Append { count: 1, durable: true },
        Append { count: 2, durable: false },
        Append { count: 1, durable: false },
        Append { count: 3, durable: true },
        Compact { count: 2 },
        Append { count: 1, durable: true },
        Append { count: 1, durable: false },
        Compact { count: 1 },
        Append { count: 1, durable: true },
    ];
    for steps in 0.. {
        let mut trial = Trial::new(Faults::DeadAfter(steps));
        let survived = script.iter().all(|step| trial.take(step));
        trial.assert_kept(survived);
        if survived {
            assert!(steps > 300, "every octet has been a last one: {steps}");
            break;
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..4_usize, any::<bool>()).prop_map(|(count, durable)| Step::Append { count, durable }),
        1 => (0..3_usize).prop_map(|count| Step::Compact { count }),
    ];
    prop::collection::vec(step, 1..20)
}

fn faults() -> impl Strategy<Value = Vec<Option<usize>>> {
    prop::collection::vec(prop::option::weighted(0.4, 0..200_usize), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_failing_disk_loses_nothing_acknowledged_and_once_well_again_holds_nothing_else(
        steps in steps(),
        faults in faults(),
    ) {
        let mut trial = Trial::new(Faults::Each(faults.into_iter()));
        for step in &steps {
            trial.take(step);
            let killed = trial.writer.medium().after_kill();
            prop_assert!(trial.promised.records.starts_with(&killed) || killed.starts_with(&trial.promised.records));
            prop_assert!(killed.len() >= trial.promised.written);
        }
        trial.writer.medium().faults = Faults::None;
        let last = Step::Append { count: 1, durable: true };
        prop_assert!(trial.take(&last), "it mends what is left of the failures");
        let disk = trial.writer.medium();
        prop_assert_eq!(&disk.after_kill(), &trial.promised.records);
        prop_assert_eq!(&disk.after_power_loss(), &trial.promised.records);
    }
}
