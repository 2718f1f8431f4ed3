//! The real binary as a process of its own: for signals, exit codes, and what must survive a kill.

use std::{
    fs::{self, OpenOptions},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    admin::Admin,
    backend::Backend,
    client::{Client, Protocol},
    eventually,
    setup::Setup,
    within,
};

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_tealgate");

/// Where its standard output goes.
const ACCESS_LOG: &str = "access.log";

/// Where its standard error goes: of interest once a test has failed.
const LOG: &str = "tealgate.log";

/// A running `tealgate serve`, killed when dropped.
pub struct Process {
    pub live: SocketAddr,
    pub preview: SocketAddr,
    pub health: SocketAddr,
    pub admin: Admin,
    setup: Setup,
    child: Child,
}

impl Process {
    /// Starts it between two upstreams, and waits until it is ready.
    pub async fn between(blue: &Backend, green: &Backend) -> Self {
        Self::start(Setup::between(blue, green)).await
    }

    /// Starts it by this setup, and waits until it is ready.
    pub async fn start(mut setup: Setup) -> Self {
        let [live, preview, health] = setup.settle();
        let (admin, child) = (setup.admin(), spawn(&setup));
        let mut process = Self { live, preview, health, admin, setup, child };
        process.wait_until_ready().await;
        process
    }

    /// Ends it with SIGKILL: nothing in it gets a word in.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Starts it again, by the same file, on the same ports and directory.
    pub async fn start_again(&mut self) {
        self.kill();
        self.child = spawn(&self.setup);
        self.wait_until_ready().await;
    }

    /// Sends it a signal by name, e.g. `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} not sent");
    }

    /// The most memory it has held so far, in octets.
    pub fn peak_memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running process");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|kib| kib.parse::<usize>().ok()).expect("VmHWM in kB") * 1024
    }

    /// The processor time it has used so far, in ticks of 10 ms.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a running process");
        // After the name, which may hold anything: fields 14 and 15 are user and system time.
        let fields = stat.rsplit(") ").next().expect("fields").split(' ').skip(11).take(2);
        Duration::from_millis(fields.map(|ticks| ticks.parse::<u64>().expect("ticks") * 10).sum())
    }

    /// Waits for its own end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the process to end", async || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        })
        .await;
        status.expect("it has ended")
    }

    /// The lines of its access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.setup.path(ACCESS_LOG)).expect("a file");
        // A last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        whole.lines().map(line).collect()
    }

    /// The file it runs by, to be changed while it runs.
    pub fn setup(&mut self) -> &mut Setup {
        &mut self.setup
    }

    /// Writes the file anew, whole, as a careful editor does.
    pub fn rewrite(&self) {
        let aside = self.setup.path("tealgate.yaml.new");
        fs::write(&aside, self.setup.yaml()).expect("a file");
        fs::rename(aside, self.setup.path("tealgate.yaml")).expect("a file");
    }

    async fn wait_until_ready(&mut self) {
        let health = self.health;
        eventually("/readyz to answer 200", async || {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("it ended with {status} before it was ready, of\n{}", self.setup.yaml());
            }
            let Ok(mut client) = Client::connect(Protocol::H1, health).await else { return false };
            within("/readyz", client.get("/readyz")).await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.setup.path(LOG)).unwrap_or_default());
        }
    }
}

fn spawn(setup: &Setup) -> Child {
    let path = setup.path("tealgate.yaml");
    fs::write(&path, setup.yaml()).expect("a file");
    let mut command = Command::new(BINARY);
    let open = |name| OpenOptions::new().create(true).append(true).open(setup.path(name)).expect("a file");
    command.args(["serve", "-c"]).arg(path).stdin(Stdio::null()).stdout(open(ACCESS_LOG)).stderr(open(LOG));
    command.spawn().expect("the binary runs")
}
