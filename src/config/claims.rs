//! What only one may have: a listener its name and address, an app its hosts and paths. Each is claimed in the order of
//! the file; the second claim is the error, and names the first.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_saphyr::Location;

use super::{error::Wrong, pass::Pass};
use crate::{
    proxy::Bind,
    switch::{AppName, HostPattern, Matching, Role},
};

/// Everything claimed so far.
#[derive(Default)]
pub(super) struct Claims {
    names: HashMap<String, Location>,
    addresses: HashMap<SocketAddr, (&'static str, Location)>,
    sockets: HashMap<PathBuf, (&'static str, Location)>,
    routes: HashMap<(Option<HostPattern>, String), (AppName, Role, Location)>,
}

impl Claims {
    /// A listener's name.
    pub(super) fn name(&mut self, pass: &mut Pass<'_>, name: &str, place: Location) {
        match self.names.get(name) {
            Some(first) => {
                let wrong = Wrong::new(format!("two listeners are named `{name}`"));
                pass.wrong(place, wrong.hint(format!("the first is in line {}", first.line())));
            }
            None => {
                self.names.insert(name.to_owned(), place);
            }
        }
    }

    /// An address to listen on, by one who calls itself `owner`. Port 0 is for the system to choose, so never taken.
    pub(super) fn bind(&mut self, pass: &mut Pass<'_>, bind: &Bind, owner: &'static str, place: Location) {
        match bind {
            Bind::Tcp(address) => self.address(pass, *address, owner, place),
            Bind::Unix(path) => self.socket(pass, path, owner, place),
        }
    }

    /// A TCP address to listen on.
    pub(super) fn address(&mut self, pass: &mut Pass<'_>, address: SocketAddr, owner: &'static str, place: Location) {
        if address.port() == 0 {
            return;
        }
        match self.addresses.get(&address) {
            Some(first) => pass.wrong(place, taken(&address.to_string(), *first)),
            None => {
                self.addresses.insert(address, (owner, place));
            }
        }
    }

    /// The address of one who named none, after all others: if it is taken, the taker's place is the only one to show.
    pub(super) fn address_by_default(&mut self, pass: &mut Pass<'_>, address: SocketAddr, owner: &str, key: &str) {
        if let Some((_, place)) = self.addresses.get(&address) {
            let wrong = Wrong::new(format!("{address} is taken"));
            pass.wrong(*place, wrong.hint(format!("{owner} has it by default; use another, or set `{key}`")));
        }
    }

    /// A Unix socket to listen on.
    pub(super) fn socket(&mut self, pass: &mut Pass<'_>, path: &Path, owner: &'static str, place: Location) {
        match self.sockets.get(path) {
            Some(first) => pass.wrong(place, taken(&path.display().to_string(), *first)),
            None => {
                self.sockets.insert(path.to_owned(), (owner, place));
            }
        }
    }

    /// All that leads to an app, with the places of its hosts, live ones first. `app_place` is where the app is named.
    pub(super) fn routes(
        &mut self,
        pass: &mut Pass<'_>,
        (app, app_place): (&AppName, Location),
        matching: &Matching,
        places: &[Location],
    ) {
        let live = matching.hosts.iter().map(|host| (host, Role::Active));
        let preview = matching.preview_hosts.iter().map(|host| (host, Role::Preview));
        for ((host, role), place) in live.chain(preview).zip(places) {
            self.route(pass, Some(host), matching, (app.clone(), role, *place));
        }
        if matching.hosts.is_empty() {
            self.route(pass, None, matching, (app.clone(), Role::Active, app_place));
        }
    }

    fn route(
        &mut self,
        pass: &mut Pass<'_>,
        host: Option<&HostPattern>,
        matching: &Matching,
        owner: (AppName, Role, Location),
    ) {
        let all = [String::from("/")];
        let paths = if matching.paths.is_empty() { &all[..] } else { &matching.paths };
        for path in paths {
            match self.routes.get(&(host.cloned(), path.clone())) {
                // One error for a host is enough, however many paths it shares.
                Some(first) => return pass.wrong(owner.2, shared(host, path, &owner.0, first)),
                None => {
                    self.routes.insert((host.cloned(), path.clone()), owner.clone());
                }
            }
        }
    }
}

fn taken(address: &str, (owner, first): (&'static str, Location)) -> Wrong {
    Wrong::new(format!("{address} is taken")).hint(format!("{owner} has it, in line {}", first.line()))
}

fn shared(
    host: Option<&HostPattern>,
    path: &str,
    app: &AppName,
    (other, role, first): &(AppName, Role, Location),
) -> Wrong {
    let line = first.line();
    let path = if path == "/" { "" } else { path };
    let host = match host {
        Some(HostPattern::Exact(host)) => host.clone(),
        Some(HostPattern::Below(suffix)) => format!("*{suffix}"),
        None if path.is_empty() => {
            return Wrong::new(format!("app `{app}` names no host, and neither does app `{other}` in line {line}"))
                .hint("one app only can take the hosts that nobody names; give one `hosts`, or each its own `paths`");
        }
        None => String::from("every other host, "),
    };
    let whose = match role {
        Role::Active => "live traffic",
        Role::Preview => "preview",
    };
    Wrong::new(format!("{host}{path} leads elsewhere already")).hint(format!(
        "in line {line} it is for the {whose} of app `{other}`; a host and path can lead to one place only"
    ))
}
