//! From the workers to one writer, without anybody waiting. Each worker has two buffers of its own; the writer takes one
//! at a time, so that the worker always finds the other one free. Where neither has room, the line is dropped and
//! counted. The writer sleeps until a buffer gets its first line, gathers for a moment, and takes what is there.

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use crossbeam_utils::CachePadded;

use super::{
    AccessFormat,
    access_line::{Line, Seconds},
};

/// How much one of a worker's two buffers holds, in octets.
const ROOM: usize = 512 * 1024;

/// How full a buffer wakes the writer before its time.
const URGENT: usize = 64 * 1024;

/// How long the writer gathers after the first line.
const GATHER: Duration = Duration::from_millis(100);

/// How long [`AccessLog::close`] waits for an output that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// The access log: one for all workers. Clones are the same log.
#[derive(Clone)]
pub struct AccessLog {
    format: AccessFormat,
    shared: Arc<Shared>,
    /// Ends when the writer has.
    ended: Arc<Mutex<mpsc::Receiver<()>>>,
}

struct Shared {
    lanes: Box<[CachePadded<Lane>]>,
    writer: OnceLock<Thread>,
    /// A buffer fills faster than the writer's pace.
    urgent: AtomicBool,
    closing: AtomicBool,
    /// Lines that were taken but could not be written.
    unwritten: AtomicU64,
}

#[derive(Default)]
struct Lane {
    halves: [Mutex<Vec<u8>>; 2],
    dropped: AtomicU64,
}

impl AccessLog {
    /// Starts the writer for `workers` workers; `None` if the log is off. Lines appear on `out` within 200 ms.
    pub fn start(format: AccessFormat, workers: usize, out: Box<dyn Write + Send>) -> io::Result<Option<Self>> {
        if format == AccessFormat::Off {
            return Ok(None);
        }
        let shared = Arc::new(Shared {
            lanes: (0..workers).map(|_| CachePadded::default()).collect(),
            writer: OnceLock::new(),
            urgent: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            unwritten: AtomicU64::new(0),
        });
        let (alive, ended) = mpsc::channel();
        let mut writer = Writer { shared: Arc::clone(&shared), out, spare: Vec::new(), failing: false };
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run();
            drop(alive);
        })?;
        shared.writer.get_or_init(|| thread.thread().clone());
        Ok(Some(Self { format, shared, ended: Arc::new(Mutex::new(ended)) }))
    }

    /// Writes what is left and ends the writer. To be called once the workers have stopped; waits two seconds at most
    /// for an output that takes nothing. Closing again does nothing.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.wake();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the access log's output takes no more lines; what was left is lost");
        }
    }

    /// Lines that were lost because the output was too slow or failed.
    pub(super) fn dropped(&self) -> u64 {
        let by_lanes: u64 = self.shared.lanes.iter().map(|lane| lane.dropped.load(Ordering::Relaxed)).sum();
        by_lanes + self.shared.unwritten.load(Ordering::Relaxed)
    }

    /// The pen of one worker, numbered from 0.
    pub(super) fn pen(&self, worker: usize) -> Pen {
        Pen { format: self.format, shared: Arc::clone(&self.shared), worker, line: RefCell::default() }
    }
}

/// One worker's access to the log.
pub(super) struct Pen {
    format: AccessFormat,
    shared: Arc<Shared>,
    worker: usize,
    /// Where lines are put together.
    line: RefCell<(Vec<u8>, Seconds)>,
}

impl Pen {
    pub(super) fn write(&self, line: &Line<'_>) {
        let (text, seconds) = &mut *self.line.borrow_mut();
        text.clear();
        line.write(self.format, seconds, text);
        self.shared.append(self.worker, text);
    }
}

impl Shared {
    fn append(&self, worker: usize, line: &[u8]) {
        let lane = &self.lanes[worker];
        for half in &lane.halves {
            let mut half = match half.try_lock() {
                Ok(half) => half,
                Err(TryLockError::Poisoned(half)) => half.into_inner(),
                Err(TryLockError::WouldBlock) => continue,
            };
            let before = half.len();
            if before + line.len() > ROOM {
                continue;
            }
            half.extend_from_slice(line);
            let after = half.len();
            drop(half);
            if before < URGENT && after >= URGENT {
                self.urgent.store(true, Ordering::Release);
                self.wake();
            } else if before == 0 {
                self.wake();
            }
            return;
        }
        lane.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    out: Box<dyn Write + Send>,
    /// The buffer to leave in place of one that is taken.
    spare: Vec<u8>,
    failing: bool,
}

impl Writer {
    fn run(&mut self) {
        while !self.shared.closing.load(Ordering::SeqCst) {
            // Whoever puts a first line into a buffer unparks us after that. If this happens during a sweep, the token
            // it leaves makes this return at once: no line stays behind.
            thread::park();
            self.gather();
            self.sweep();
        }
        self.sweep();
    }

    fn gather(&self) {
        let until = Instant::now() + GATHER;
        while !self.shared.urgent.swap(false, Ordering::Acquire) && !self.shared.closing.load(Ordering::SeqCst) {
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::park_timeout(left),
                _ => return,
            }
        }
    }

    fn sweep(&mut self) {
        let shared = Arc::clone(&self.shared);
        for half in shared.lanes.iter().flat_map(|lane| &lane.halves) {
            let spare = std::mem::take(&mut self.spare);
            let mut taken = std::mem::replace(&mut *half.lock().unwrap_or_else(PoisonError::into_inner), spare);
            if !taken.is_empty() {
                let outcome = self.out.write_all(&taken).and_then(|()| self.out.flush());
                self.note(outcome, &taken);
                taken.clear();
            }
            self.spare = taken;
        }
    }

    /// A broken output is said once, not at each sweep; it may also come back (a full disk).
    fn note(&mut self, outcome: io::Result<()>, lines: &[u8]) {
        let failed = outcome.is_err();
        if let Err(error) = outcome {
            let lost = lines.iter().filter(|octet| **octet == b'\n').count();
            self.shared.unwritten.fetch_add(lost as u64, Ordering::Relaxed);
            if !self.failing {
                tracing::warn!(%error, "the access log cannot be written; its lines are dropped and counted");
            }
        } else if self.failing {
            tracing::info!("the access log is written again");
        }
        self.failing = failed;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;

    use super::*;

    /// An output that can be held back, and told to fail.
    #[derive(Clone, Default)]
    struct Output(Arc<(Mutex<OutputState>, Condvar)>);

    #[derive(Default)]
    struct OutputState {
        text: Vec<u8>,
        held: bool,
        waiting: bool,
        broken: bool,
    }

    impl Output {
        fn set(&self, change: impl FnOnce(&mut OutputState)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        fn wait_until(&self, holds: impl Fn(&OutputState) -> bool) -> Vec<u8> {
            let patience = Duration::from_secs(10);
            let state = self.0.0.lock().unwrap();
            let (state, out) = self.0.1.wait_timeout_while(state, patience, |state| !holds(state)).unwrap();
            assert!(!out.timed_out(), "waited in vain");
            state.text.clone()
        }
    }

    impl Write for Output {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock().unwrap();
            state.waiting = true;
            self.0.1.notify_all();
            let mut state = self.0.1.wait_while(state, |state| state.held).unwrap();
            state.waiting = false;
            if state.broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            state.text.extend_from_slice(octets);
            self.0.1.notify_all();
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(output: &Output) -> AccessLog {
        AccessLog::start(AccessFormat::Json, 2, Box::new(output.clone())).unwrap().unwrap()
    }

    #[test]
    fn a_quiet_log_is_written_without_another_request() {
        let output = Output::default();
        let log = start(&output);
        log.shared.append(0, b"one\n");
        output.wait_until(|state| state.text == b"one\n");
        log.shared.append(1, b"two\n");
        output.wait_until(|state| state.text == b"one\ntwo\n");
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn closing_writes_what_is_left_and_may_be_repeated() {
        let output = Output::default();
        let log = start(&output);
        let line = vec![b'x'; 1000];
        for _ in 0..300 {
            log.shared.append(0, &line);
            log.shared.append(1, &line);
        }
        log.close();
        log.close();
        assert_eq!(output.wait_until(|_| true).len() + 1000 * usize::try_from(log.dropped()).unwrap(), 600_000);
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_stuck_output_costs_lines_and_no_time_and_each_is_counted() {
        let output = Output::default();
        output.set(|state| state.held = true);
        let log = start(&output);
        log.shared.append(0, b"first\n");
        output.wait_until(|state| state.waiting);
        let line = [b'x'; 1024];
        let fits = 2 * (ROOM / line.len());
        for _ in 0..fits + 7 {
            log.shared.append(0, &line);
        }
        assert_eq!(log.dropped(), 7);
        output.set(|state| state.held = false);
        log.close();
        assert_eq!(output.wait_until(|_| true).len(), 6 + fits * line.len());
    }

    #[test]
    fn a_broken_output_loses_lines_but_not_the_writer() {
        let output = Output::default();
        output.set(|state| state.broken = true);
        let log = start(&output);
        log.shared.append(0, b"lost\nlost too\n");
        while log.dropped() < 2 {
            thread::yield_now();
        }
        output.set(|state| state.broken = false);
        log.shared.append(0, b"back\n");
        log.close();
        assert_eq!(output.wait_until(|_| true), b"back\n");
    }
}
