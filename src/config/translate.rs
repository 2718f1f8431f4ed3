//! From the file to what each part of the program takes: every value read, every default filled in, every reference
//! followed. Defaults are those of the parts' own options; only what no part owns has its default here.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use serde_saphyr::Location;

use super::{
    Config,
    address::{EndpointAddress, SocketPath},
    claims::Claims,
    error::Wrong,
    file::{self, File},
    node::{Named, Placed},
    not_yet,
    notation::Workers,
    pass::{FileKind, Pass},
    places,
};
use crate::{
    admin,
    proxy::{
        Bind, CertificateFiles, ListenerLimits, ListenerOptions, ListenerRole, ListenerTimeouts, TlsOptions, TlsVersion,
    },
    switch::{
        Address, AppName, ClientIdentity, Desired, EndpointSpec, Matching, Policy, Protocol, Revision, Roots,
        Transport, UpstreamTls, Wanted,
    },
    telemetry,
};

const HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7181);
const UNKNOWN_HOST: u16 = 421;
const MOST_WORKERS: usize = 256;

impl Pass<'_> {
    /// The configuration. It is sound only if the pass found nothing wrong.
    pub(super) fn config(&mut self, file: &File) -> Config {
        if let Some(version) = file.version.get() {
            self.read(version);
        }
        let mut claims = Claims::default();
        Config {
            workers: self.workers(file),
            log: self.log(&file.log),
            listeners: self.listeners(&file.listeners, &mut claims),
            admin: self.admin(&file.admin, &mut claims),
            health: self.health_listener(&file.health, &mut claims),
            state_dir: Some(self.state_dir(&file.state)),
            desired: self.desired(&file.apps, &mut claims),
            secret_files: std::mem::take(&mut self.secret_files),
        }
    }

    fn workers(&mut self, file: &File) -> usize {
        let mut workers = Workers::Auto;
        self.set(&mut workers, &file.workers);
        match workers {
            Workers::Auto => std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_WORKERS)),
            Workers::Count(count) => count.into(),
        }
    }

    fn log(&mut self, log: &file::Log) -> telemetry::Options {
        let mut options = telemetry::Options::default();
        self.set(&mut options.level, &log.level);
        self.set(&mut options.format, &log.format);
        self.set(&mut options.access, &log.access);
        options
    }

    fn listeners(&mut self, listeners: &Placed<Vec<file::Listener>>, claims: &mut Claims) -> Vec<ListenerOptions> {
        if listeners.value.is_empty() {
            self.wrong(listeners.place, Wrong::new("no listener, so no way in").hint("name at least one"));
        }
        listeners.value.iter().filter_map(|listener| self.listener(listener, claims)).collect()
    }

    fn listener(&mut self, listener: &file::Listener, claims: &mut Claims) -> Option<ListenerOptions> {
        let name = self.read(&listener.name);
        let bind = self.read(&listener.bind).map(|bind| match bind {
            Bind::Unix(path) => Bind::Unix(self.path(&path)),
            tcp @ Bind::Tcp(_) => tcp,
        });
        if let Some(name) = &name {
            claims.name(self, &name.0, listener.name.place);
        }
        if let Some(bind) = &bind {
            claims.bind(self, bind, "another listener", listener.bind.place);
        }

        let mut role = ListenerRole::default();
        self.set(&mut role, &listener.role);
        let mut timeouts = ListenerTimeouts::default();
        self.set(&mut timeouts.handshake, &listener.timeouts.handshake);
        self.set(&mut timeouts.head, &listener.timeouts.head);
        self.set(&mut timeouts.body, &listener.timeouts.body);
        self.set(&mut timeouts.idle, &listener.timeouts.idle);
        let mut limits = ListenerLimits::default();
        self.set(&mut limits.head_size, &listener.limits.head_size);
        self.set(&mut limits.connections, &listener.limits.connections);
        self.set(&mut limits.connections_per_client, &listener.limits.connections_per_client);
        let mut unknown_host = UNKNOWN_HOST;
        self.set(&mut unknown_host, &listener.unknown_host);
        let tls = listener.tls.value().map(|tls| self.tls(tls));
        Some(ListenerOptions { name: name?.0, bind: bind?, role, tls, timeouts, limits, unknown_host })
    }

    fn tls(&mut self, tls: &file::Tls) -> TlsOptions {
        let Placed { value: files, place } = &tls.certificates;
        if files.is_empty() {
            self.wrong(*place, Wrong::new("TLS without a certificate").hint("name at least one, or leave `tls` out"));
        }
        let mut certificates = Vec::new();
        for file::Certificate { cert, key } in files {
            let cert = self.file(cert, FileKind::Certificate);
            let key = self.file(key, FileKind::Key);
            certificates.extend(cert.zip(key).map(|(cert, key)| CertificateFiles { cert, key }));
        }
        let mut min_version = TlsVersion::default();
        self.set(&mut min_version, &tls.min_version);
        TlsOptions { certificates, min_version }
    }

    fn admin(&mut self, admin: &file::Admin, claims: &mut Claims) -> admin::Options {
        let bind = admin.bind.get().and_then(|bind| Some((self.read(bind)?, bind.place)));
        if let Some((bind, place)) = bind {
            claims.address(self, bind, "the admin API", place);
            if admin.tokens.get().is_none() {
                let wrong = Wrong::new("the admin API on TCP wants `tokens`, or anybody could flip traffic");
                let hint = "`tealgate token new` prints a token and its entry for a token file; name that file as \
                            `tokens`, or leave `bind` out and use the Unix socket";
                self.wrong(place, wrong.hint(hint));
            }
        }
        let socket = admin.socket.get().and_then(|socket| {
            let SocketPath(path) = self.read(socket)?;
            let path = self.path(&path);
            claims.socket(self, &path, "the admin API", socket.place);
            Some(path)
        });
        let tokens = admin.tokens.get().and_then(|tokens| self.file(tokens, FileKind::Tokens));
        let socket = Some(socket.unwrap_or_else(places::default_socket));
        admin::Options { socket, bind: bind.map(|(bind, _)| bind), tokens }
    }

    fn health_listener(&mut self, health: &file::HealthListener, claims: &mut Claims) -> SocketAddr {
        let mut bind = HEALTH;
        self.set(&mut bind, &health.bind);
        match health.bind.get() {
            Some(given) => claims.address(self, bind, "the health listener", given.place),
            None => claims.address_by_default(self, bind, "the health listener", "health.bind"),
        }
        bind
    }

    fn state_dir(&mut self, state: &file::State) -> PathBuf {
        let given = state.dir.get().and_then(|dir| self.read(dir)).map(|dir| self.path(&dir));
        given.unwrap_or_else(|| places::default_state_dir(self.document.file))
    }

    fn desired(&mut self, apps: &Placed<Named<file::App>>, claims: &mut Claims) -> Desired {
        if apps.value.is_empty() {
            self.wrong(apps.place, Wrong::new("no app, so nothing to serve").hint("name at least one"));
        }
        let mut desired = Desired::default();
        for (key, app) in apps.value.iter() {
            for (place, wrong) in not_yet::asked_for(app) {
                self.wrong(place, wrong);
            }
            let name = self.name::<AppName>(key);
            let matching = self.matching(app, name.as_ref().map(|name| (name, key.place)), claims);
            let policy = Arc::new(self.policy(app));
            let wanted = self.wanted(&app.source, matching, policy);
            desired.apps.extend(name.zip(wanted));
        }
        desired
    }

    /// A name that is a key, which variables do not change.
    fn name<T: std::str::FromStr<Err: Into<Wrong>>>(&mut self, key: &Placed<String>) -> Option<T> {
        key.value.parse().map_err(|error: T::Err| self.wrong(key.place, error.into())).ok()
    }

    fn matching(&mut self, app: &file::App, name: Option<(&AppName, Location)>, claims: &mut Claims) -> Matching {
        let (hosts, mut places): (Vec<_>, Vec<_>) = self.read_all(&app.hosts).into_iter().unzip();
        let (preview_hosts, preview_places): (Vec<_>, Vec<_>) = self.read_all(&app.preview.hosts).into_iter().unzip();
        places.extend(preview_places);
        let matching = Matching {
            hosts,
            paths: self.read_all(&app.paths).into_iter().map(|(path, _)| path.into()).collect(),
            preview_hosts,
            preview: self.preview_access(&app.preview),
        };
        // If a host could not be read, the app only seems to have none.
        let hosts_known = app.hosts.get().is_none() || !matching.hosts.is_empty();
        if let Some(name) = name.filter(|_| hosts_known) {
            claims.routes(self, name, &matching, &places);
        }
        matching
    }

    fn policy(&mut self, app: &file::App) -> Policy {
        let mut policy = Policy::default();
        self.set(&mut policy.promotion.auto, &app.promotion.auto);
        self.set(&mut policy.promotion.min_ready, &app.promotion.min_ready);
        self.set(&mut policy.keep_previous.0, &app.rollback.keep_previous);
        self.set(&mut policy.drain.timeout, &app.drain.timeout);
        self.set(&mut policy.drain.streams, &app.drain.streams);
        self.set(&mut policy.balance, &app.balance.policy);

        policy.transport = Arc::new(self.transport(&app.upstream));
        self.set(&mut policy.traffic.host, &app.upstream.host);
        self.set(&mut policy.lookup.interval, &app.upstream.resolve);
        self.set(&mut policy.lookup.family, &app.upstream.family);

        policy.health.path = app.health.path.get().and_then(|path| self.read(path)).map(Into::into);
        self.set(&mut policy.health.interval, &app.health.interval);
        self.set(&mut policy.health.timeout, &app.health.timeout);
        self.set(&mut policy.health.rise, &app.health.rise);
        self.set(&mut policy.health.fall, &app.health.fall);

        self.set(&mut policy.traffic.connect, &app.timeouts.connect);
        self.set(&mut policy.traffic.response, &app.timeouts.response);
        self.set(&mut policy.traffic.upgrade_idle, &app.timeouts.upgrade_idle);
        self.set(&mut policy.traffic.request, &app.timeouts.request);
        self.set(&mut policy.traffic.body_size, &app.limits.body_size);
        self.set(&mut policy.traffic.attempts, &app.retries.attempts);
        self.set(&mut policy.traffic.per_try, &app.retries.per_try);
        self.set(&mut policy.traffic.expose_revision, &app.expose_revision);
        policy.split = self.split(&app.weight, &app.ab);
        policy
    }

    fn transport(&mut self, upstream: &file::Upstream) -> Transport {
        let proxy_protocol = upstream.proxy_protocol.get().and_then(|version| self.read(version));
        let mut protocol = Protocol::default();
        self.set(&mut protocol, &upstream.protocol);
        Transport { protocol, tls: upstream.tls.value().map(|tls| self.upstream_tls(tls)), proxy_protocol }
    }

    fn upstream_tls(&mut self, written: &file::UpstreamTls) -> UpstreamTls {
        let mut tls = UpstreamTls::default();
        if let Some(placed) = written.roots.get() {
            match self.read(placed) {
                Some(Roots::File(path)) => {
                    tls.roots = Roots::File(self.checked(&path, placed.place, FileKind::Certificate));
                }
                Some(Roots::System) | None => {}
            }
        }
        let identity = (written.cert.get(), written.key.get());
        if let (Some(alone), None) | (None, Some(alone)) = identity {
            let wrong = Wrong::new("a certificate is of no use without its key, nor a key without its certificate");
            self.wrong(alone.place, wrong.hint("name both `cert` and `key`, or neither"));
        }
        let cert = identity.0.and_then(|cert| self.file(cert, FileKind::Certificate));
        let key = identity.1.and_then(|key| self.file(key, FileKind::Key));
        tls.identity = cert.zip(key).map(|(cert, key)| ClientIdentity { cert, key });
        // One that cannot be read is there all the same: its endpoints do not lack it.
        tls.server_name = written.server_name.get().map(|name| self.read(name).map(|name| name.0).unwrap_or_default());
        self.set(&mut tls.min_version, &written.min_version);
        tls
    }

    fn wanted(&mut self, source: &Placed<file::Source>, matching: Matching, policy: Arc<Policy>) -> Option<Wanted> {
        let Some(fixed) = source.value.r#static.value() else {
            // Another source is refused with its own words (`not_yet`).
            if !source.value.names_another() {
                self.wrong(source.place, Wrong::new("the app has no source").hint("name one: `static`"));
            }
            return None;
        };
        let mut revisions = BTreeMap::new();
        for (key, revision) in fixed.revisions.iter() {
            let endpoints = self.endpoints(&revision.endpoints, &policy.transport);
            revisions.extend(self.name(key).map(|name: Revision| (name, endpoints)));
        }
        let active = self.read(&fixed.active);
        let preview = fixed.preview.get().and_then(|preview| Some((self.read(preview)?, preview.place)));
        self.known(active.as_ref(), fixed.active.place, fixed);
        self.known(preview.as_ref().map(|(name, _)| name), preview.as_ref().map_or(fixed.active.place, |p| p.1), fixed);
        let active = active?;
        if let Some((_, place)) = preview.as_ref().filter(|(name, _)| *name == active) {
            let wrong = Wrong::new(format!("`{active}` is active already, so it is no candidate"));
            self.wrong(*place, wrong.hint("name another revision, or leave `preview` out"));
        }
        let endpoints = fixed.revisions.iter().find(|(key, _)| key.value == active.as_str()).map(|(_, r)| &r.endpoints);
        if let Some(Placed { place, .. }) = endpoints.filter(|e| e.value.is_empty()) {
            self.wrong(
                *place,
                Wrong::new(format!("`{active}` is active and has no endpoint")).hint("name at least one"),
            );
        }
        Some(Wanted { matching, revisions, active, preview: preview.map(|(name, _)| name), policy })
    }

    /// Takes note if the file has no such revision.
    fn known(&mut self, name: Option<&Revision>, place: Location, fixed: &file::Static) {
        let Some(name) = name.map(Revision::as_str) else { return };
        let known: Vec<&str> = fixed.revisions.iter().map(|(key, _)| key.value.as_str()).collect();
        if !known.contains(&name) {
            self.wrong(place, Wrong::unknown(format!("there is no revision `{name}`"), name, known));
        }
    }

    fn endpoints(&mut self, endpoints: &Placed<Vec<file::Endpoint>>, transport: &Transport) -> Vec<EndpointSpec> {
        let mut specs = Vec::new();
        let mut seen = HashMap::new();
        for endpoint in &endpoints.value {
            let place = endpoint.address.place;
            let mut weight = EndpointSpec::default_weight();
            self.set(&mut weight, &endpoint.weight);
            let address = match self.read(&endpoint.address) {
                None => continue,
                Some(EndpointAddress::Elsewhere(address)) => address,
                // Kept in the journal, where it must mean the same whatever the working directory.
                Some(EndpointAddress::Socket(path)) => match std::path::absolute(self.path(&path)) {
                    Ok(path) => Address::Unix(path.into()).into(),
                    Err(error) => {
                        self.wrong(place, Wrong::new(format!("{} cannot be found: {error}", path.display())));
                        continue;
                    }
                },
            };
            if let Some(first) = seen.insert(address.clone(), place) {
                let wrong = Wrong::new(format!("{address} is given twice in this revision"));
                self.wrong(
                    place,
                    wrong.hint(format!("the first is in line {}; to send it more, use weights", first.line())),
                );
            }
            if transport.lacks_name_of(&address) {
                let wrong = Wrong::new(format!("{address} has no name that its certificate could be checked against"));
                self.wrong(
                    place,
                    wrong.hint("set `upstream.tls.server_name`, or give the endpoint by its host's name"),
                );
            }
            specs.push(EndpointSpec { address, weight });
        }
        specs
    }
}
