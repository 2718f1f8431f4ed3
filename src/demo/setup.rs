//! What the demo needs before it can start: free ports, a place for the admin socket and the token, and a configuration
//! like any other.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use serde_json::json;

use super::{ADMIN, APP, Options, upstream::Upstream};
use crate::{
    admin::{TokenEntry, api::Role, mint},
    cli::{Exit, Failure},
    config::{Config, default_socket},
};

/// A directory of the demo's own, for nobody else's eyes; it goes when this is dropped.
pub(super) struct Home(PathBuf);

/// How to reach the admin API.
pub(super) struct Door {
    pub(super) socket: PathBuf,
    /// Whether `tealgate` finds the socket without being told.
    pub(super) is_default: bool,
    pub(super) token: String,
    tokens: PathBuf,
}

/// Makes sure that the addresses are free: the operating system's own words do not say which option would help.
pub(super) fn check_ports(options: &Options) -> Result<(), Failure> {
    let addresses =
        [("live", options.live), ("preview", options.preview), ("admin", options.admin), ("health", options.health)];
    for (name, address) in addresses {
        TcpListener::bind(address).map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    format!("{address} is in use, and the demo wants it for its {name} address")
                }
                _ => format!("the demo cannot listen on {address}, its {name} address: {error}"),
            };
            let elsewhere = SocketAddr::new(address.ip(), 0);
            Failure::new(Exit::Failed, what)
                .hint(format!("move it: tealgate demo --{name} {elsewhere} (port 0 takes any that is free)"))
        })?;
    }
    Ok(())
}

impl Home {
    /// Makes the directory.
    pub(super) fn make() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tealgate-demo-{:08x}", fastrand::u32(..)));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Makes a token, and decides where the socket is: in its usual place if this is an ordinary demo and no server is
    /// there, so that a second terminal needs no setting; else in here.
    pub(super) fn door(&self, options: &Options) -> Result<Door, Failure> {
        let unmade = |error: String| Failure::new(Exit::Failed, "cannot make a token for the demo").detail(error);
        let (token, entry) = mint("demo", Role::Admin, None, None).map_err(|error| unmade(error.to_string()))?;
        let tokens = self.0.join("tokens.yaml");
        write_tokens(&tokens, entry).map_err(|error| unmade(error.to_string()))?;
        let usual = default_socket();
        // Only one demo can have the usual admin port: two at once do not take each other's socket.
        let is_default = options.admin == ADMIN && UnixStream::connect(&usual).is_err() && can_hold(&usual);
        let socket = if is_default { usual } else { self.0.join("admin.sock") };
        Ok(Door { socket, is_default, token, tokens })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What cannot be removed stays for the system to clean up, as with all temporary files.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Whether a socket can be put there; its directory is made if need be.
fn can_hold(socket: &Path) -> bool {
    socket.parent().is_some_and(|parent| {
        let made = DirBuilder::new().recursive(true).mode(0o750).create(parent);
        made.is_ok() && access(parent, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    })
}

fn write_tokens(file: &Path, entry: TokenEntry) -> io::Result<()> {
    let text = serde_json::to_string(&json!({"tokens": [entry]}))?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?.write_all(text.as_bytes())
}

/// The demo's configuration: what a user would write, with blue active and green the candidate.
pub(super) fn config(options: &Options, door: &Door, blue: &[Upstream], green: &[Upstream]) -> Result<Config, Failure> {
    let addresses = |endpoints: &[Upstream]| endpoints.iter().map(|endpoint| endpoint.address()).collect::<Vec<_>>();
    let file = json!({
        "version": 1,
        "log": {"level": "error", "access": "off"},
        "listeners": [
            {"name": "live", "bind": options.live},
            {"name": "preview", "bind": options.preview, "role": "preview"},
        ],
        "admin": {"socket": door.socket, "bind": options.admin, "tokens": door.tokens},
        "health": {"bind": options.health},
        "apps": {APP: {
            // Nobody but the demo's owner knows the token, so it serves here as well.
            "preview": {"cookie": {"secret": door.token}},
            "source": {"static": {
                "active": "blue",
                "preview": "green",
                "revisions": {
                    "blue": {"endpoints": addresses(blue)},
                    "green": {"endpoints": addresses(green)},
                },
            }},
            "health": {"path": "/healthz", "interval": "1s"},
            "expose_revision": true,
        }},
    });
    let config = Config::parse(&file.to_string(), Path::new("(demo)"));
    let mut config =
        config.map_err(|error| Failure::usage("the demo's options do not fit").detail(error.to_string()))?;
    // The demo forgets: each begins with blue.
    config.state_dir = None;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Line::parse_from([&["demo"], arguments].concat()).options
    }

    #[test]
    fn a_busy_port_is_named_with_the_option_that_moves_it() {
        let busy = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = busy.local_addr().expect("it is bound").to_string();
        let preview = format!("--preview={address}");
        let options = options(&["--live=127.0.0.1:0", &preview, "--admin=127.0.0.1:0", "--health=127.0.0.1:0"]);
        let failure = check_ports(&options).expect_err("the port is taken").to_string();
        assert!(failure.contains(&address) && failure.contains("--preview 127.0.0.1:0"), "{failure}");
    }
}
