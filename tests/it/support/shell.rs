//! A person or a pipeline at a shell: the real binary with a line of arguments, what it printed and what it ended with.

use std::{
    fmt,
    process::{ExitStatus, Stdio},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::{process::BINARY, within};

/// A shell with the variables that say where the server is, and who asks.
#[derive(Clone, Debug, Default)]
pub struct Shell {
    variables: Vec<(&'static str, String)>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
    line: String,
}

/// A new token.
#[derive(Clone, Debug, Deserialize)]
pub struct Minted {
    pub token: String,
    pub entry: Value,
}

/// A command that goes on, with its standard output line by line; killed when dropped.
pub struct Running {
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Shell {
    /// Where `TEALGATE_SERVER` says this.
    pub fn at(server: impl fmt::Display) -> Self {
        Self { variables: vec![("TEALGATE_SERVER", server.to_string())] }
    }

    /// The same with `TEALGATE_TOKEN`.
    pub fn with_token(&self, token: &str) -> Self {
        let mut shell = self.clone();
        shell.variables.push(("TEALGATE_TOKEN", token.to_owned()));
        shell
    }

    /// Runs `tealgate` with these arguments, split at blanks, to its end.
    pub async fn run(&self, line: &str) -> Done {
        let output = within(line, self.command(line).output()).await.expect("the binary runs");
        let text = |octets| String::from_utf8(octets).expect("UTF-8");
        let code = output.status.code().expect("not killed by a signal");
        Done { code, out: text(output.stdout), err: text(output.stderr), line: line.to_owned() }
    }

    /// Makes a token with these arguments of `token new`: the token, and its entry for a token file.
    pub async fn mint(&self, arguments: &str) -> Minted {
        self.run(&format!("token new -o json {arguments}")).await.ends_with(0).json()
    }

    /// Runs it, and lets it go on.
    pub fn start(&self, line: &str) -> Running {
        let mut child = self.command(line).stdout(Stdio::piped()).spawn().expect("the binary runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Running { lines, child }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(BINARY);
        command.args(line.split_whitespace()).stdin(Stdio::null()).kill_on_drop(true);
        for variable in ["TEALGATE_SERVER", "TEALGATE_TOKEN"] {
            command.env_remove(variable);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Done {
    /// It ended with this code.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// It printed this, on either output.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text) || self.err.contains(text), "not said: {text}\n{self}");
        self
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}\n{self}"))
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, out, err, line } = self;
        write!(f, "$ tealgate {line}\n{out}{err}[exit {code}]")
    }
}

impl Running {
    /// Its next line.
    pub async fn line(&mut self) -> String {
        let line = within("a line of output", self.lines.next_line()).await.expect("UTF-8");
        line.expect("it goes on")
    }

    /// Presses ctrl-c.
    pub fn interrupt(&self) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = std::process::Command::new("kill").args(["-INT", &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIGINT not sent");
    }

    /// The rest of its lines, and how it ended.
    pub async fn rest(mut self) -> (Vec<String>, ExitStatus) {
        let mut rest = Vec::new();
        while let Some(line) = within("the rest of its output", self.lines.next_line()).await.expect("UTF-8") {
            rest.push(line);
        }
        (rest, within("its end", self.child.wait()).await.expect("a child"))
    }

    /// Reads no more; waits for its end when awaited.
    pub fn leave(self) -> impl Future<Output = ExitStatus> {
        let Self { lines, mut child } = self;
        drop(lines);
        async move { within("its end", child.wait()).await.expect("a child") }
    }
}
