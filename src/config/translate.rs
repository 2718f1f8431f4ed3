//! From the file to what each part of the program takes: every value read, every default filled in, every reference
//! followed. Defaults are those of the parts' own options; only what no part owns has its default here.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde_saphyr::Location;

use super::{
    Config,
    address::{EndpointAddress, SocketPath},
    claims::Claims,
    error::{Wrong, quoted},
    file::{self, File},
    mirror::Ignored,
    node::{Given, Named, Placed, ShortOr, Text},
    not_yet,
    notation::{ShortRate, Workers},
    pass::{FileKind, Pass},
    places,
};
use crate::{
    admin,
    proxy::{
        Alpn, Bind, CertificateFiles, ClientAuth, ClientAuthMode, ForwardingField, ListenerOptions, ProxyProtocol,
        TlsOptions, TlsVersion, TrustedProxies,
    },
    source::Targets,
    switch::{
        Address, AppName, ClientIdentity, Desired, EndpointSpec, ErrorPage, ErrorPages, HoldBounds, InFlightLimit,
        Limits, Matching, Mirror, Policy, Protocol, Rate, RateBy, Revision, Roots, Transport, UpstreamTls, Wanted,
    },
    telemetry,
};

const HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7181);
const MOST_WORKERS: usize = 256;
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// The statuses of answers of ours that may be about one app (see `proxy::error`).
const ANSWERED_BY_US: [u16; 8] = [400, 403, 408, 413, 429, 502, 503, 504];

impl Pass<'_> {
    /// The configuration. It is sound only if the pass found nothing wrong.
    pub(super) fn config(&mut self, file: &File) -> Config {
        if let Some(version) = file.version.get() {
            self.read(version);
        }
        let mut claims = Claims::default();
        let mut kubernetes = Targets { cluster: self.cluster(&file.kubernetes), apps: BTreeMap::new() };
        Config {
            workers: self.workers(file),
            log: self.log(&file.log),
            listeners: self.listeners(&file.listeners, &mut claims),
            admin: self.admin(&file.admin, &mut claims),
            health: self.health_listener(&file.health, &mut claims),
            state_dir: Some(self.state_dir(&file.state)),
            desired: self.desired(&file.apps, &mut kubernetes, &mut claims),
            kubernetes,
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

        // Whatever is wrong with these two, the rest is looked through as well.
        let on_tcp = !matches!(bind, Some(Bind::Unix(_)));
        let anywhere = || Bind::Tcp(HEALTH);
        let known = name.is_some() && bind.is_some();
        let mut options =
            ListenerOptions::new(name.map_or_else(String::new, |name| name.0), bind.unwrap_or_else(anywhere));
        self.set(&mut options.role, &listener.role);
        let timeouts = &mut options.timeouts;
        self.set(&mut timeouts.handshake, &listener.timeouts.handshake);
        self.set(&mut timeouts.head, &listener.timeouts.head);
        self.set(&mut timeouts.body, &listener.timeouts.body);
        self.set(&mut timeouts.idle, &listener.timeouts.idle);
        let limits = &mut options.limits;
        self.set(&mut limits.head_size, &listener.limits.head_size);
        self.set(&mut limits.connections, &listener.limits.connections);
        self.set(&mut limits.connections_per_client, &listener.limits.connections_per_client);
        self.set(&mut limits.handshakes, &listener.limits.handshakes);
        self.set(&mut options.unknown_host, &listener.unknown_host);
        options.tls = listener.tls.value().map(|tls| self.tls(tls));
        let handshake = options.timeouts.handshake;
        let proxy_protocol = listener.proxy_protocol.get();
        options.proxy_protocol = proxy_protocol.map(|proxy| self.proxy_protocol(proxy, on_tcp, handshake));
        options.trusted_proxies = self.trusted_proxies(listener);
        self.set(&mut options.tcp.keepalive, &listener.tcp.keepalive);
        self.set(&mut options.tcp.user_timeout, &listener.tcp.user_timeout);
        self.set(&mut options.tcp.backlog, &listener.tcp.backlog);
        known.then_some(options)
    }

    fn proxy_protocol(
        &mut self,
        proxy: &Placed<file::ProxyProtocol>,
        on_tcp: bool,
        timeout: Duration,
    ) -> ProxyProtocol {
        let trusted = self.networks(&proxy.value.trusted);
        match proxy.value.trusted.get() {
            None if on_tcp => {
                let wrong = Wrong::new("nobody is trusted to name clients in a PROXY header, so nobody could connect");
                self.wrong(proxy.place, wrong.hint("name the load balancers' networks as `trusted`"));
            }
            Some(given) if !on_tcp => {
                let wrong = Wrong::new("connections on a Unix socket have no address to be trusted by");
                self.wrong(given.place, wrong.hint("leave `trusted` out: whoever may open the socket is trusted"));
            }
            _ => {}
        }
        let mut options = ProxyProtocol { trusted, timeout };
        self.set(&mut options.timeout, &proxy.value.timeout);
        options
    }

    fn trusted_proxies(&mut self, listener: &file::Listener) -> TrustedProxies {
        let mut trusted = TrustedProxies { networks: self.networks(&listener.trusted_proxies), ..Default::default() };
        self.set(&mut trusted.field, &listener.trusted_field);
        if let Some(field) = listener.trusted_field.get().filter(|_| listener.trusted_proxies.get().is_none())
            && trusted.field != ForwardingField::default()
        {
            let wrong = Wrong::new("`trusted_field` without `trusted_proxies` has no effect");
            self.wrong(field.place, wrong.hint("name the proxies' networks as `trusted_proxies`"));
        }
        trusted
    }

    fn networks(&mut self, given: &Given<Vec<Placed<Text<IpNet>>>>) -> Vec<IpNet> {
        self.read_all(given).into_iter().map(|(network, _)| network).collect()
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
        let mut alpn: Vec<Alpn> = self.read_all(&tls.alpn).into_iter().map(|(protocol, _)| protocol).collect();
        if tls.alpn.get().is_none() {
            alpn = Alpn::ALL.to_vec();
        }
        let client_auth = tls.client_auth.value().and_then(|auth| self.client_auth(auth));
        TlsOptions { certificates, min_version, alpn, client_auth }
    }

    fn client_auth(&mut self, auth: &file::ClientAuth) -> Option<ClientAuth> {
        let roots = self.file(&auth.roots, FileKind::Certificate);
        let mut mode = ClientAuthMode::default();
        self.set(&mut mode, &auth.mode);
        let crl = auth.crl.get().and_then(|crl| self.file(crl, FileKind::RevocationList));
        Some(ClientAuth { roots: roots?, mode, crl })
    }

    fn admin(&mut self, admin: &file::Admin, claims: &mut Claims) -> admin::Options {
        let bind = admin.bind.get().and_then(|bind| Some((self.read(bind)?, bind.place)));
        let by_cluster = self.kubernetes_auth(admin);
        if let Some((bind, place)) = bind {
            claims.address(self, bind, "the admin API", place);
            if admin.tokens.get().is_none() && !by_cluster {
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
        let hosts = self.read_all(&admin.hosts).into_iter().map(|(host, _)| host).collect();
        if let Some(given) = admin.hosts.get().filter(|_| admin.bind.get().is_none()) {
            let wrong = Wrong::new("`hosts` without `bind` has no effect");
            self.wrong(given.place, wrong.hint("name the TCP address as `bind`; the Unix socket takes any name"));
        }
        let tokens = admin.tokens.get().and_then(|tokens| self.file(tokens, FileKind::Tokens));
        let socket = Some(socket.unwrap_or_else(places::default_socket));
        admin::Options { socket, bind: bind.map(|(bind, _)| bind), hosts, tokens, kubernetes_auth: by_cluster }
    }

    fn kubernetes_auth(&mut self, admin: &file::Admin) -> bool {
        let Some(given) = admin.kubernetes_auth.get() else { return false };
        let wanted = self.read(given) == Some(true);
        if wanted && !cfg!(feature = "kubernetes") {
            let wrong = Wrong::new("this program was built without Kubernetes");
            let hint = "use one that was built with its feature `kubernetes`, which is the default";
            self.wrong(given.place, wrong.hint(hint));
        } else if wanted && admin.bind.get().is_none() {
            let wrong = Wrong::new("`kubernetes_auth` is for the admin API on TCP, which is off");
            self.wrong(given.place, wrong.hint("set `bind`; whoever may open the Unix socket is admin anyway"));
        }
        wanted
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

    fn desired(&mut self, apps: &Placed<Named<file::App>>, kubernetes: &mut Targets, claims: &mut Claims) -> Desired {
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
            if let Some(written) = self.only_source(&app.source).value.kubernetes.get() {
                let target = self.target(written);
                let followed = target.as_ref().map(|target| self.followed(app, target, matching, policy));
                kubernetes.apps.extend(name.clone().zip(target));
                desired.followed.extend(name.zip(followed));
            } else {
                let wanted = self.wanted(&app.source, matching, policy);
                desired.apps.extend(name.zip(wanted));
            }
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
        self.set(&mut policy.promotion.warm, &app.promotion.warm);
        policy.promotion.smoke = self.smoke(&app.promotion);
        self.set(&mut policy.keep_previous.0, &app.rollback.keep_previous);
        self.set(&mut policy.drain.timeout, &app.drain.timeout);
        self.set(&mut policy.drain.streams, &app.drain.streams);
        self.set(&mut policy.drain.close_rate, &app.drain.close_rate);
        policy.balance = self.balance(&app.balance);
        policy.health = self.health_check(&app.health);
        policy.ejection = app.ejection.value().map(|block| self.ejection(block));

        policy.transport = Arc::new(self.transport(&app.upstream));
        self.set(&mut policy.traffic.host, &app.upstream.host);
        if let (Some(warm), Some(_)) = (app.promotion.warm.get(), app.upstream.proxy_protocol.get())
            && policy.promotion.warm > 0
        {
            let wrong = Wrong::new("with `upstream.proxy_protocol` no connection can be opened ahead");
            self.wrong(warm.place, wrong.hint("each is begun with its client's address; set this to 0"));
        }
        self.set(&mut policy.lookup.interval, &app.upstream.resolve);
        self.set(&mut policy.lookup.family, &app.upstream.family);

        self.set(&mut policy.traffic.connect, &app.timeouts.connect);
        self.set(&mut policy.traffic.response, &app.timeouts.response);
        self.set(&mut policy.traffic.upgrade_idle, &app.timeouts.upgrade_idle);
        self.set(&mut policy.traffic.request, &app.timeouts.request);
        self.set(&mut policy.traffic.body_size, &app.limits.body_size);
        self.set(&mut policy.traffic.attempts, &app.retries.attempts);
        self.set(&mut policy.traffic.per_try, &app.retries.per_try);
        self.set(&mut policy.traffic.retry_budget, &app.retries.budget);
        self.set(&mut policy.traffic.expose_revision, &app.expose_revision);
        policy.split = self.split(&app.weight, &app.ab);
        policy.limits = self.limits(&app.limits);
        policy.errors = self.error_pages(&app.errors);
        policy.hold = self.hold(&app.hold);
        policy.mirror = app.mirror.value().map(|mirror| Arc::new(self.mirror(mirror)));
        policy
    }

    fn limits(&mut self, limits: &file::Limits) -> Limits {
        let mut in_flight = InFlightLimit { most: 0, queue: 0, queue_timeout: QUEUE_TIMEOUT };
        let most = limits.in_flight.get().map(|most| self.read(most));
        in_flight.most = most.flatten().map_or(0, Into::into);
        self.set(&mut in_flight.queue, &limits.queue);
        self.set(&mut in_flight.queue_timeout, &limits.queue_timeout);
        let unlimited = in_flight.most == 0 && most != Some(None);
        if let Some(queue) = limits.queue.get().filter(|_| unlimited && in_flight.queue > 0) {
            let wrong = Wrong::new("a queue without a limit of requests in flight: nobody would ever wait in it");
            self.wrong(queue.place, wrong.hint("set `in_flight`, or leave `queue` out"));
        }
        Limits { in_flight: (in_flight.most > 0).then_some(in_flight), rate: self.rate(&limits.rate) }
    }

    fn rate(&mut self, given: &Given<file::RateForm>) -> Option<Rate> {
        let Placed { value: file::RateForm(form), place } = given.get()?;
        match form {
            ShortOr::Short(text) => {
                self.read(&Placed { value: Text::<ShortRate>::new(text.clone()), place: *place })?.into()
            }
            ShortOr::Long(block) => {
                let requests = self.read(&block.requests).and_then(|requests| NonZeroU32::new(requests.into()))?;
                let mut rate = Rate { requests, per: Duration::from_secs(1), burst: requests, by: RateBy::ClientIp };
                self.set(&mut rate.per, &block.per);
                self.set(&mut rate.by, &block.by);
                let burst = block.burst.get().and_then(|burst| self.read(burst));
                rate.burst = burst.and_then(|burst| NonZeroU32::new(burst.into())).unwrap_or(requests);
                Some(rate)
            }
        }
    }

    fn error_pages(&mut self, errors: &Named<file::ErrorBlock>) -> ErrorPages {
        let mut pages = ErrorPages::default();
        for (key, block) in errors.iter() {
            let status = key.value.parse().ok().filter(|status| ANSWERED_BY_US.contains(status));
            if status.is_none() {
                let all = ANSWERED_BY_US.map(|status| status.to_string()).join(", ");
                let wrong = Wrong::new(format!("{} is not a status that we answer ourselves", quoted(&key.value)));
                self.wrong(key.place, wrong.hint(format!("use one of {all}")));
            }
            let mut content_type = "text/html; charset=utf-8".to_owned();
            self.set(&mut content_type, &block.content_type);
            let read = self.page(&block.file);
            pages.0.extend(
                status.zip(read).map(|(status, (file, body))| {
                    (status, Arc::new(ErrorPage { file, content_type, body: body.into() }))
                }),
            );
        }
        pages
    }

    fn hold(&mut self, given: &file::HoldBlock) -> HoldBounds {
        let mut hold = HoldBounds::default();
        self.set(&mut hold.max_age, &given.max_age);
        self.set(&mut hold.max_requests, &given.max_requests);
        self.set(&mut hold.max_bytes, &given.max_bytes);
        if let Some(Placed { place, .. }) = given.max_age.get().filter(|_| hold.max_age > HoldBounds::LONGEST) {
            self.wrong(
                *place,
                Wrong::new("a hold of more than an hour").hint("use 1h or less; to close the app, use maintenance"),
            );
        }
        hold
    }

    fn mirror(&mut self, given: &file::Mirror) -> Mirror {
        let mut mirror = Mirror::default();
        mirror.share = self.read(&given.share).map_or(mirror.share, Into::into);
        if given.methods.get().is_some() {
            mirror.methods = self.read_all(&given.methods).into_iter().map(|(method, _)| method).collect();
        }
        self.set(&mut mirror.max_in_flight, &given.max_in_flight);
        self.set(&mut mirror.max_body, &given.max_body);
        self.set(&mut mirror.timeout, &given.timeout);
        let compare = &mut mirror.compare;
        self.set(&mut compare.status, &given.compare.status);
        self.set(&mut compare.body, &given.compare.body);
        if given.compare.headers.get().is_some() {
            let named = self.read_all(&given.compare.headers);
            compare.headers = named.into_iter().map(|(field, _)| field.into()).collect();
        }
        for (ignored, _) in self.read_all(&given.compare.ignore) {
            match ignored {
                Ignored::Field(name) => compare.ignore_headers.push(name),
                Ignored::Json(path) => compare.ignore_json.push(path),
            }
        }
        mirror
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

    /// Takes note if an app has no source, or several.
    fn only_source<'a>(&mut self, source: &'a Placed<file::Source>) -> &'a Placed<file::Source> {
        let file::Source { r#static, kubernetes, etcd } = &source.value;
        match (r#static.get().is_some(), kubernetes.get()) {
            // Another source is refused with its own words (`not_yet`).
            (false, None) if !etcd.is_given() => {
                self.wrong(
                    source.place,
                    Wrong::new("the app has no source").hint("name one: `static` or `kubernetes`"),
                );
            }
            (true, Some(second)) => {
                let wrong = Wrong::new("the app has two sources, and they may not agree");
                self.wrong(second.place, wrong.hint("keep one of `static` and `kubernetes`"));
            }
            _ => {}
        }
        source
    }

    fn wanted(&mut self, source: &Placed<file::Source>, matching: Matching, policy: Arc<Policy>) -> Option<Wanted> {
        let fixed = source.value.r#static.value()?;
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
            specs.push(EndpointSpec { weight, ..address.into() });
        }
        specs
    }
}
