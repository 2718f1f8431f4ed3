//! A person or a pipeline at a shell: the real binary with a line of arguments, what it printed and what it ended with.

use std::{
    env, fmt,
    path::Path,
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
    variables: Vec<(String, String)>,
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
        Self::default().with("TEALGATE_SERVER", server)
    }

    /// The same with one more variable.
    pub fn with(&self, name: &str, value: impl fmt::Display) -> Self {
        let mut shell = self.clone();
        shell.variables.push((name.to_owned(), value.to_string()));
        shell
    }

    /// The same with `TEALGATE_TOKEN`.
    pub fn with_token(&self, token: &str) -> Self {
        self.with("TEALGATE_TOKEN", token)
    }

    /// Runs `tealgate` with these arguments, split at blanks, to its end.
    pub async fn run(&self, line: &str) -> Done {
        self.run_words(line.split_whitespace()).await
    }

    /// Runs it with these arguments, whatever is in them.
    pub async fn run_words<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Done {
        let words: Vec<_> = words.into_iter().collect();
        self.end(self.command(BINARY).args(&words), &words.join(" ")).await
    }

    /// Has a real shell run a script, in which `tealgate` is the binary.
    pub async fn script(&self, script: &str) -> Done {
        let here = Path::new(BINARY).parent().expect("a directory").display();
        let path = format!("{here}:{}", env::var("PATH").unwrap_or_default());
        self.end(self.command("sh").args(["-euc", script]).env("PATH", path), script).await
    }

    async fn end(&self, command: &mut Command, line: &str) -> Done {
        let output = within(line, command.output()).await.expect("it runs");
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
        let words = line.split_whitespace();
        let mut child = self.command(BINARY).args(words).stdout(Stdio::piped()).spawn().expect("the binary runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Running { lines, child }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).kill_on_drop(true);
        for variable in ["TEALGATE_SERVER", "TEALGATE_TOKEN"] {
            command.env_remove(variable);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Done {
    /// What was run.
    pub fn line(&self) -> &str {
        &self.line
    }

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
