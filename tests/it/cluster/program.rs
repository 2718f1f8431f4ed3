//! One of the real programs: where it lies, its process, its log. It is killed when dropped, and its log is shown once a
//! test has failed.

use std::{
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

/// So much of the end of a log is shown.
const SHOWN: usize = 3_000;
/// Where the logs of the last failed test are kept.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/cluster");

/// A program and how it is started.
pub struct Program {
    name: &'static str,
    args: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
}

impl Program {
    /// Starts it; `dir` takes its log.
    pub fn start(name: &'static str, dir: &Path, args: &[String]) -> Self {
        let args = args.iter().map(OsString::from).collect();
        let mut program = Self { name, args, log: dir.join(format!("{name}.log")), child: None };
        program.start_again();
        program
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Starts it by the same arguments as before; one that runs is killed first.
    pub fn start_again(&mut self) {
        self.kill();
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a file");
        let mut command = Command::new(place(self.name));
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        self.child = Some(command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.name)));
    }

    /// It holds its sockets and does nothing, as a program does on a machine that hangs.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Panics with the end of its log if it has ended by itself.
    pub fn assert_running(&mut self) {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child"));
        assert!(ended.is_none(), "{} ended with {ended:?}", self.name);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running program");
        kill_process(Pid::from_child(child), signal).expect("a child");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = fs::read(&self.log).unwrap_or_default();
            let end = String::from_utf8_lossy(&log[log.len().saturating_sub(SHOWN)..]).into_owned();
            eprintln!("--- the end of {}'s log; the whole is in {KEPT}\n{end}", self.name);
            let kept = Path::new(KEPT).join(format!("{}.log", self.name));
            fs::create_dir_all(KEPT).and_then(|()| fs::copy(&self.log, kept)).ok();
        }
    }
}

/// Where a program lies: in the folder of those who have theirs, else where tests/cluster/install has put it.
pub fn place(name: &str) -> PathBuf {
    let theirs = env::var_os("KUBEBUILDER_ASSETS").map(|folder| Path::new(&folder).join(name));
    theirs.filter(|path| path.exists()).unwrap_or_else(|| installed(name))
}

/// A file in the folder of tests/cluster/install.
pub fn installed(name: &str) -> PathBuf {
    let folder = env::var_os("TEALGATE_CLUSTER").expect("TEALGATE_CLUSTER names a folder: use tests/cluster/run");
    Path::new(&folder).join(name)
}
