//! The command line: `serve`, `check` and `demo` run the proxy here; all other verbs are clients of a running server's
//! admin API. `verbs` is what can be typed, with its manual; then there is one file per kind of verb. Everything ends in an
//! exit code (`failure`), and everything printed goes through one place (`output`).

mod act;
mod client;
mod door;
mod failure;
mod look;
mod output;
mod packaging;
mod parse;
mod preview;
mod render;
mod serve;
mod session;
mod signals;
mod smoke;
mod sse;
mod systemd;
mod token;
mod verbs;
mod wait;
mod watch;

use std::{ffi::OsString, io::Write as _, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser as _};
use tokio::runtime;

pub(crate) use self::{
    client::{Address, Call, Client},
    failure::{Exit, Failure},
    output::{BAD, BOLD, DIM, GOOD, Output, control, print_next},
    parse::duration,
    serve::{start, use_crypto},
    signals::Signals,
};
use self::{
    output::clean,
    session::Session,
    verbs::{Cli, Global, Remote, Verb},
};
use crate::{config::default_socket, demo};

/// How long to wait for an answer if `--timeout` does not say.
const ANSWER: Duration = Duration::from_secs(30);

/// Does what the command line says, and returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // Help and version are "errors" that go to standard output.
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            error.print().ok();
            return exit.into();
        }
    };
    match cli.run() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if failure.exit != Exit::Done {
                report(&failure);
            }
            failure.exit.into()
        }
    }
}

/// Tells a person why it went wrong; the last thing a command does.
fn report(failure: &Failure) {
    let text = failure.to_string();
    let lines: Vec<_> = text.lines().map(clean).collect();
    // If even this cannot be written, the exit code has to do.
    writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {}", lines.join("\n")).ok();
}

impl Cli {
    fn run(self) -> Result<Exit, Failure> {
        let output = Output::new(self.global.output);
        match self.verb {
            Verb::Serve(verb) => block_on(verb.run(), Threads::Two),
            Verb::Demo(options) => block_on(demo::run(options, output), Threads::Two),
            Verb::Check(verb) => verb.run(output),
            Verb::Schema => serve::schema(),
            Verb::Token(verb) => verb.run(output),
            Verb::Completion(verb) => verb.run(&mut Self::command()),
            Verb::Man(verb) => verb.run(Self::command()),
            Verb::Version => packaging::version(output),
            Verb::Healthcheck(verb) => block_on(verb.run(self.global.timeout), Threads::One),
            Verb::Remote(verb) => block_on(verb.run(self.global, output), Threads::One),
        }
    }
}

impl Remote {
    async fn run(self, global: Global, output: Output) -> Result<Exit, Failure> {
        let session = &global.session(output).await?;
        match self {
            Self::Status(verb) => verb.run(session).await,
            Self::Deploy(verb) => verb.run(session).await,
            Self::Promote(verb) => verb.run(session).await,
            Self::Rollback(verb) => verb.run(session).await,
            Self::Abort(verb) => verb.abort(session).await,
            Self::Reject(verb) => verb.reject(session).await,
            Self::Retry(verb) => verb.run(session).await,
            Self::Pause(verb) => verb.pause(session).await,
            Self::Unpause(verb) => verb.unpause(session).await,
            Self::Keep(verb) => verb.run(session).await,
            Self::Weight(verb) => verb.run(session).await,
            Self::Preview(verb) => verb.run(session).await,
            Self::Plan(verb) => verb.run(session).await,
            Self::Pin(verb) => verb.run(session).await,
            Self::Unpin(verb) => verb.unpin(session).await,
            Self::Hold(verb) => verb.run(session).await,
            Self::Resume(verb) => verb.resume(session).await,
            Self::Maintenance(verb) => verb.run(session).await,
            Self::Wait(verb) => verb.run(session).await,
            Self::Smoke(verb) => verb.run(session).await,
            Self::Mirror(verb) => verb.run(session).await,
            Self::History(verb) => verb.run(session).await,
            Self::Events(verb) => verb.run(session).await,
            Self::Discard(verb) => verb.run(session).await,
            Self::Reload => act::reload(session).await,
        }
    }
}

impl Global {
    async fn session(self, output: Output) -> Result<Session, Failure> {
        let token = client::token(self.token_file.as_ref())?;
        let answer = self.timeout.unwrap_or(ANSWER);
        let client = match self.server {
            Some(address) => Client::new(address, token, answer),
            None => Client::nearby(default_socket(), token, answer).await?,
        };
        Ok(Session { client, output, timeout: self.timeout })
    }
}

/// The threads for what is not the data plane, which has its own.
#[derive(Clone, Copy)]
enum Threads {
    /// A client's.
    One,
    /// A server's: a slow write of one task does not hold up the others.
    Two,
}

fn block_on(verb: impl Future<Output = Result<Exit, Failure>>, threads: Threads) -> Result<Exit, Failure> {
    let mut builder = match threads {
        Threads::One => runtime::Builder::new_current_thread(),
        Threads::Two => runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, "cannot start").detail(error.to_string()))?;
    let result = runtime.block_on(verb);
    // What still runs has been told to end, or is to be left behind; it must not hold up the exit.
    runtime.shutdown_background();
    result
}
