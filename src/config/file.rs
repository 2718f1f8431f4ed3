//! The file, field for field. An unknown key is refused here; what the values mean, and what they default to, is settled
//! in `translate`. The comments are the descriptions in the JSON Schema, so they speak to whoever writes the file.

mod app;
mod audience;
mod limits;
mod mirror;
mod smoke;

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use self::{app::*, audience::*, limits::*, mirror::*, smoke::*};
use super::{
    address::SocketPath,
    duration::Time,
    kubernetes::ContextName,
    node::{Given, Named, Placed, Text},
    notation::{ListenerName, UnknownHost, Version, Whole, Workers},
    size::Octets,
};
use crate::{
    proxy::{Alpn, Bind, ClientAuthMode, ForwardingField, ListenerRole, TlsVersion},
    switch::HostPattern,
    telemetry::{AccessFormat, Format, Level},
};

/// The configuration of Tealgate.
///
/// In any value `${NAME}` stands for the environment variable of that name, and `$${` for `${`. Relative paths are
/// relative to the file's directory.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tealgate configuration")]
pub(super) struct File {
    /// The version of the file's format.
    #[serde(default)]
    pub(super) version: Given<Text<Version>>,
    /// Data-plane threads: `auto` for one per CPU the process may use, or 1 to 256.
    #[serde(default)]
    pub(super) workers: Given<Text<Workers>>,
    /// What is logged, and how.
    #[serde(default)]
    pub(super) log: Log,
    /// Where traffic is accepted.
    pub(super) listeners: Placed<Vec<Listener>>,
    /// The admin API.
    #[serde(default)]
    pub(super) admin: Admin,
    /// The listener of `/livez`, `/readyz` and `/metrics`.
    #[serde(default)]
    pub(super) health: HealthListener,
    /// Where run-time state is kept.
    #[serde(default)]
    pub(super) state: State,
    /// The cluster that apps follow.
    #[serde(default)]
    pub(super) kubernetes: Cluster,
    /// The apps by name.
    pub(super) apps: Placed<Named<App>>,
}

/// What is logged, and how.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    /// The least severe level shown of the program's own log.
    pub(super) level: Given<Text<Level>>,
    /// How the program's own log is written: `text` for people, `json` for machines.
    pub(super) format: Given<Text<Format>>,
    /// The access log on standard output: `json`, `combined`, or `off`.
    pub(super) access: Given<Text<AccessFormat>>,
}

/// One address where traffic is accepted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// Its name in logs and metrics, unique among the listeners.
    pub(super) name: Placed<Text<ListenerName>>,
    /// Where it listens: `IP:PORT`, or `unix:/PATH`.
    pub(super) bind: Placed<Text<Bind>>,
    /// What it shows: `live` traffic (and previews by their own hosts), or the `preview` of whatever app matches.
    #[serde(default)]
    pub(super) role: Given<Text<ListenerRole>>,
    /// TLS; left out: plain HTTP.
    #[serde(default)]
    pub(super) tls: Given<Tls>,
    /// The PROXY protocol, versions 1 and 2, of a load balancer before us; left out: clients come by themselves.
    #[serde(default)]
    pub(super) proxy_protocol: Given<ProxyProtocol>,
    /// Networks of the HTTP proxies before us whose word about clients counts; left out: nobody's.
    #[serde(default)]
    pub(super) trusted_proxies: Given<Vec<Placed<Text<IpNet>>>>,
    /// The field they tell in whom they speak for: `x-forwarded-for`, or `forwarded` (RFC 7239).
    #[serde(default)]
    pub(super) trusted_field: Given<Text<ForwardingField>>,
    /// Settings of its TCP sockets.
    #[serde(default)]
    pub(super) tcp: Tcp,
    /// How long a client may take.
    #[serde(default)]
    pub(super) timeouts: ListenerTimeouts,
    /// How much a client may send, and how many may come.
    #[serde(default)]
    pub(super) limits: ListenerLimits,
    /// The status for a host that no app answers to: 421 or 404.
    #[serde(default)]
    pub(super) unknown_host: Given<Text<UnknownHost>>,
}

/// A listener's TLS. Certificates are loaded anew when their files change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// The certificates, chosen by the name the client asks for; the first is for clients that ask for none, or for an
    /// unknown one.
    pub(super) certificates: Placed<Vec<Certificate>>,
    /// The oldest protocol version accepted: "1.2", as when left out, or "1.3".
    #[serde(default)]
    pub(super) min_version: Given<Text<TlsVersion>>,
    /// The protocols offered in the handshake, the best first: `h2` and `http/1.1`, as when left out, or one of them.
    #[serde(default)]
    pub(super) alpn: Given<Vec<Placed<Text<Alpn>>>>,
    /// Client certificates; left out: none are asked for.
    #[serde(default)]
    pub(super) client_auth: Given<ClientAuth>,
}

/// Client certificates. Upstreams are told of one in `X-Forwarded-Client-Cert`: `Hash=<SHA-256>;Subject="<RFC 4514 name>"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientAuth {
    /// The PEM file of the authorities that sign them.
    pub(super) roots: Placed<Text<PathBuf>>,
    /// Whether a client must have one: `required`, as when left out, or `optional`.
    #[serde(default)]
    pub(super) mode: Given<Text<ClientAuthMode>>,
    /// The PEM file of what those authorities have revoked: a list by each that signs, intermediate ones included.
    #[serde(default)]
    pub(super) crl: Given<Text<PathBuf>>,
}

/// The PROXY protocol.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyProtocol {
    /// Networks of the load balancers. Each connection from them must begin with a PROXY header; any other is closed. On a
    /// Unix socket it is left out: whoever may open that is trusted.
    #[serde(default)]
    pub(super) trusted: Given<Vec<Placed<Text<IpNet>>>>,
    /// How long the header may take to come; left out: as long as a handshake.
    #[serde(default)]
    pub(super) timeout: Given<Text<Time<1>>>,
}

/// Settings of a listener's TCP sockets.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tcp {
    /// Silence before the system asks whether the client is still there; 0s: it does not.
    pub(super) keepalive: Given<Text<Time<0>>>,
    /// How long octets sent may stay unacknowledged; 0s: as long as the system likes.
    pub(super) user_timeout: Given<Text<Time<0>>>,
    /// Connections that may wait to be accepted by one worker.
    pub(super) backlog: Given<Text<Whole<1, 65_535>>>,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    /// The file of the chain, leaf first.
    pub(super) cert: Placed<Text<PathBuf>>,
    /// The file of the key.
    pub(super) key: Placed<Text<PathBuf>>,
}

/// How long a client may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListenerTimeouts {
    /// From accept, or the end of a PROXY header, to the end of the TLS handshake.
    pub(super) handshake: Given<Text<Time<1>>>,
    /// From the first octet of a request's head to its end.
    pub(super) head: Given<Text<Time<1>>>,
    /// Between two pieces of a request's body.
    pub(super) body: Given<Text<Time<1>>>,
    /// Between two requests on a connection.
    pub(super) idle: Given<Text<Time<1>>>,
}

/// How much a client may send, and how many may come.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListenerLimits {
    /// The largest request head, 1KiB to 1MiB.
    pub(super) head_size: Given<Text<Octets<1_024, 1_048_576>>>,
    /// Connections at once on this listener; 0 for no limit.
    pub(super) connections: Given<Text<Whole<0, { u32::MAX }>>>,
    /// Connections at once from one client address, of IPv6 from one /64 network; 0 for no limit.
    pub(super) connections_per_client: Given<Text<Whole<0, { u32::MAX }>>>,
    /// TLS handshakes and PROXY headers awaited at once by one worker; the oldest gives way. 0 for no limit.
    pub(super) handshakes: Given<Text<Whole<0, { u32::MAX }>>>,
}

/// The admin API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    /// Its Unix socket (mode 0660): whoever may open it is admin. Left out: `admin.sock` in systemd's runtime directory,
    /// else in `/run/tealgate`, else in the user's runtime directory.
    pub(super) socket: Given<Text<SocketPath>>,
    /// A TCP address as well; it wants `tokens` or `kubernetes_auth`.
    pub(super) bind: Given<Text<SocketAddr>>,
    /// Names by which the TCP address is asked for, each exact or `*.` for all below; left out: its IP address and
    /// `localhost` alone. Requests for any other name are turned away, as web pages send them (DNS rebinding).
    pub(super) hosts: Given<Vec<Placed<Text<HostPattern>>>>,
    /// The token file, as `tealgate token new` describes it. It is read anew when it changes.
    pub(super) tokens: Given<Text<PathBuf>>,
    /// Also lets in, on TCP, whom the cluster vouches for: the token by a TokenReview, and what he may do by
    /// SubjectAccessReviews on `apps` of `tealgate.dev`: `get` to look, `update` to act, `manage` for the rest.
    pub(super) kubernetes_auth: Given<Text<bool>>,
}

/// The listener of `/livez`, `/readyz` and `/metrics`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HealthListener {
    /// Its address. It asks for no credentials, so keep it on loopback or a private network.
    pub(super) bind: Given<Text<SocketAddr>>,
}

/// Where run-time state is kept: which revision is active, and what was flipped when.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct State {
    /// A directory for this configuration alone. Left out: one named after this file, in systemd's state directory, else
    /// in `/var/lib/tealgate`, else in the user's state directory.
    pub(super) dir: Given<Text<PathBuf>>,
}

/// The cluster that apps with `source.kubernetes` follow. Left out, it is found as `kubectl` finds it: by the file that
/// `KUBECONFIG` names, or `~/.kube/config`; in a pod with neither, it is the pod's own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cluster {
    /// A kubeconfig file to use in place of those.
    pub(super) kubeconfig: Given<Text<PathBuf>>,
    /// The context in that file; left out: its current one.
    pub(super) context: Given<Text<ContextName>>,
}
