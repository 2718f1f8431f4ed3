//! The verbs for those who package and run containers: `completion`, `man`, `version`, `healthcheck`.

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man as Page;

use super::{
    client::{Address, Client},
    failure::{Exit, Failure},
    output::{Output, print},
};
use crate::admin::api::Version;

/// How long `healthcheck` waits.
const HEALTH: Duration = Duration::from_secs(3);

/// `tealgate completion`
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

/// `tealgate man`
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write tealgate.1 and a page for each verb into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// `tealgate healthcheck`
#[derive(Debug, Args)]
pub(crate) struct Healthcheck {
    /// What to ask for
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7181/readyz")]
    url: String,
}

impl Completion {
    /// Prints the script.
    pub(crate) fn run(self, command: &mut Command) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "tealgate", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Done)
    }
}

impl Man {
    /// Prints the page, or writes all.
    pub(crate) fn run(self, command: Command) -> Result<Exit, Failure> {
        match self.dir {
            Some(dir) => {
                fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(command, &dir)).map_err(|error| {
                    Failure::new(Exit::Failed, format!("cannot write to {}: {error}", dir.display()))
                })?;
            }
            None => {
                let mut page = Vec::new();
                Page::new(command).render(&mut page)?;
                print(&String::from_utf8_lossy(&page))?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Healthcheck {
    /// Asks, and judges by the status alone.
    pub(crate) async fn run(self, timeout: Option<Duration>) -> Result<Exit, Failure> {
        let wrong = || Failure::usage(format!("{:?} is not a URL: write http://HOST:PORT/PATH", self.url));
        let url: http::Uri = self.url.parse().map_err(|_| wrong())?;
        let authority = url.authority().filter(|_| url.scheme_str() == Some("http")).ok_or_else(wrong)?;
        let port = authority.port_u16().unwrap_or(80);
        let address = Address::Tcp(format!("{}:{port}", authority.host()));
        let path = url.path_and_query().map_or("/", |path| path.as_str());

        let answer = Client::new(address, None, timeout.unwrap_or(HEALTH)).status(path).await;
        // Docker knows only 0 and 1 here.
        let status = answer.map_err(|failure| Failure { exit: Exit::Failed, hint: String::new(), ..failure })?;
        if status.is_success() {
            return Ok(Exit::Done);
        }
        Err(Failure::new(Exit::Failed, "not healthy").detail(format!("{} answered {status}", self.url)))
    }
}

/// Prints this program's version.
pub(crate) fn version(output: Output) -> Result<Exit, Failure> {
    let version = Version::of_this_build();
    output.show(&version)?;
    Ok(Exit::Done)
}
