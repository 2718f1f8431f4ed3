//! The file, field for field. An unknown key is refused here; what the values mean, and what they default to, is settled
//! in `translate`. The comments are the descriptions in the JSON Schema, so they speak to whoever writes the file.

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    duration::Time,
    node::{Given, Named, Placed, Text},
    not_yet::NotYet,
    notation::{CheckPath, ListenerName, SocketPath, UnknownHost, UrlPath, Version, Whole, Workers},
    size::Octets,
};
use crate::{
    proxy::{Bind, ListenerRole, TlsVersion},
    switch::{AutoPromotion, Balance, HostPattern, MinReady, Revision, Streams},
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
    /// The oldest protocol version accepted: "1.2" or "1.3".
    #[serde(default)]
    pub(super) min_version: Given<Text<TlsVersion>>,
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
    /// From accept to the end of the TLS handshake.
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
    /// Connections at once from one client address; 0 for no limit.
    pub(super) connections_per_client: Given<Text<Whole<0, { u32::MAX }>>>,
}

/// The admin API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    /// Its Unix socket (mode 0660): whoever may open it is admin. Left out: `admin.sock` in systemd's runtime directory,
    /// else in `/run/tealgate`, else in the user's runtime directory.
    pub(super) socket: Given<Text<SocketPath>>,
    /// A TCP address as well; it wants `tokens`.
    pub(super) bind: Given<Text<SocketAddr>>,
    /// The token file, as `tealgate token new` describes it. It is read anew when it changes.
    pub(super) tokens: Given<Text<PathBuf>>,
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

/// One app: what is fronted and rolled out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct App {
    /// The hosts whose requests are for this app, each exact or `*.` for all below; left out: every host that no other
    /// app names.
    #[serde(default)]
    pub(super) hosts: Given<Vec<Placed<Text<HostPattern>>>>,
    /// Path prefixes under those hosts; left out: all paths.
    #[serde(default)]
    pub(super) paths: Given<Vec<Placed<Text<UrlPath>>>>,
    /// How the candidate is reached.
    #[serde(default)]
    pub(super) preview: Preview,
    /// Where the app's revisions come from.
    pub(super) source: Placed<Source>,
    /// How one endpoint of a pool is chosen.
    #[serde(default)]
    pub(super) balance: BalanceBlock,
    /// How endpoints are probed.
    #[serde(default)]
    pub(super) health: Health,
    /// What must hold before a promotion, and whether it happens by itself.
    #[serde(default)]
    pub(super) promotion: Promotion,
    /// What happens after a promotion.
    #[serde(default)]
    pub(super) rollback: Rollback,
    /// How long a request may take.
    #[serde(default)]
    pub(super) timeouts: Timeouts,
    /// How much a request may bring.
    #[serde(default)]
    pub(super) limits: Limits,
    /// How often a request is tried.
    #[serde(default)]
    pub(super) retries: Retries,
    /// What becomes of requests in flight on a pool that was replaced.
    #[serde(default)]
    pub(super) drain: DrainBlock,
    /// Whether live clients too are told which revision and generation answered.
    #[serde(default)]
    pub(super) expose_revision: Given<Text<bool>>,
    #[serde(default)]
    #[schemars(skip)]
    pub(super) guard: NotYet,
    #[serde(default)]
    #[schemars(skip)]
    pub(super) weight: NotYet,
    #[serde(default)]
    #[schemars(skip)]
    pub(super) mirror: NotYet,
    #[serde(default)]
    #[schemars(skip)]
    pub(super) hold: NotYet,
}

/// How the candidate is reached: by its own hosts, and by listeners of role `preview`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Preview {
    /// Hosts that show the candidate on every listener.
    pub(super) hosts: Given<Vec<Placed<Text<HostPattern>>>>,
    /// Networks whose clients may see the candidate; left out: every client.
    pub(super) allow: Given<Vec<Placed<Text<IpNet>>>>,
}

/// Where an app's revisions come from: one of these.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Source {
    /// From this file, changed at run time by `deploy`, `promote` and `rollback`.
    pub(super) r#static: Given<Static>,
    #[schemars(skip)]
    pub(super) kubernetes: NotYet,
    #[schemars(skip)]
    pub(super) etcd: NotYet,
}

impl Source {
    /// Whether it names a source that is not in force.
    pub(super) fn names_another(&self) -> bool {
        self.kubernetes.is_given() || self.etcd.is_given()
    }
}

/// Revisions and roles to start with. What is changed at run time is kept in `state.dir`, never in this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Static {
    /// The revision that carries live traffic.
    pub(super) active: Placed<Text<Revision>>,
    /// The candidate; left out: none.
    #[serde(default)]
    pub(super) preview: Given<Text<Revision>>,
    /// The revisions by name.
    pub(super) revisions: Named<RevisionBlock>,
}

/// One version of the application.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevisionBlock {
    /// Where it is served.
    pub(super) endpoints: Placed<Vec<Endpoint>>,
}

/// One address that serves a revision: `IP:PORT`, or `{ address: IP:PORT, weight: N }`.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: Placed<Text<SocketAddr>>,
    pub(super) weight: Given<Text<Whole<1, 256>>>,
}

/// An endpoint with its weight.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WeightedEndpoint {
    /// Where it listens: `IP:PORT`.
    address: Placed<Text<SocketAddr>>,
    /// Its share relative to the others of its pool, 1 to 256.
    #[serde(default)]
    weight: Given<Text<Whole<1, 256>>>,
}

/// How one endpoint of a pool is chosen.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BalanceBlock {
    /// `least_request`: the less busy of two drawn at random; `round_robin`: each in its turn; `random`: any. All mind
    /// the weights.
    pub(super) policy: Given<Text<Balance>>,
}

/// How endpoints are probed: the active, the candidate's and the previous ones.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Health {
    /// The path to GET, expecting a 2xx or 3xx; left out: a TCP connect is enough.
    pub(super) path: Given<Text<CheckPath>>,
    /// Time between the starts of two probes of an endpoint.
    pub(super) interval: Given<Text<Time<10>>>,
    /// How long a probe may take.
    pub(super) timeout: Given<Text<Time<1>>>,
    /// How many good probes in a row make an endpoint healthy; the first verdict of a new one takes one.
    pub(super) rise: Given<Text<Whole<1, 100>>>,
    /// How many bad probes in a row make an endpoint unhealthy.
    pub(super) fall: Given<Text<Whole<1, 100>>>,
}

/// What must hold before a promotion, and whether it happens by itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Promotion {
    /// `false`: only on request; `true`: as soon as the gates pass; "after 10m": once they have passed for so long.
    pub(super) auto: Given<Text<AutoPromotion>>,
    /// How many endpoints of the candidate must be ready: a number, or a share such as "60%".
    pub(super) min_ready: Given<Text<MinReady>>,
    #[schemars(skip)]
    pub(super) approval: NotYet,
    #[schemars(skip)]
    pub(super) smoke: NotYet,
    #[schemars(skip)]
    pub(super) bake: NotYet,
    #[schemars(skip)]
    pub(super) warm: NotYet,
}

/// What happens after a promotion.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Rollback {
    /// How long the revision that was replaced is kept ready for a rollback.
    pub(super) keep_previous: Given<Text<Time<0>>>,
}

/// How long a request may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timeouts {
    /// How long a connect to an endpoint may take.
    pub(super) connect: Given<Text<Time<1>>>,
    /// From the end of the request to the response's head.
    pub(super) response: Given<Text<Time<1>>>,
    /// How long a tunnel (WebSocket) may be silent in both directions.
    pub(super) upgrade_idle: Given<Text<Time<1>>>,
    /// The whole request, from its head to the last octet of its answer; 0s for no limit.
    pub(super) request: Given<Text<Time<0>>>,
}

/// How much a request may bring.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    /// The largest request body; 0 for no limit.
    pub(super) body_size: Given<Text<Octets<0, { u64::MAX }>>>,
    #[schemars(skip)]
    pub(super) in_flight: NotYet,
    #[schemars(skip)]
    pub(super) queue: NotYet,
    #[schemars(skip)]
    pub(super) rate: NotYet,
}

/// How often a request is tried.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retries {
    /// How often a request may be tried at most, the first try included; 1 for no retries.
    pub(super) attempts: Given<Text<Whole<1, 10>>>,
    /// How long one try may take to the response's head while another is still allowed.
    pub(super) per_try: Given<Text<Time<1>>>,
    #[schemars(skip)]
    pub(super) budget: NotYet,
}

/// What becomes of requests in flight on a pool that was replaced.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DrainBlock {
    /// How long ordinary requests may go on before they are cut.
    pub(super) timeout: Given<Text<Time<0>>>,
    /// What long-lived streams (tunnels) do: `keep` until one side ends them, `drain` until the timeout, `cut` at once.
    pub(super) streams: Given<Text<Streams>>,
}

impl<'de> Deserialize<'de> for Endpoint {
    /// By hand, because serde's untagged enums lose the places.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        enum Form {
            Short(String),
            Long(WeightedEndpoint),
        }

        impl<'de> Visitor<'de> for Either {
            type Value = Form;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an endpoint: IP:PORT, or { address: IP:PORT, weight: N }")
            }

            fn visit_str<E>(self, text: &str) -> Result<Form, E> {
                Ok(Form::Short(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Form, E> {
                Ok(Form::Short(number.to_string()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Form, M::Error> {
                WeightedEndpoint::deserialize(MapAccessDeserializer::new(map)).map(Form::Long)
            }
        }

        struct AnyForm(Form);

        impl<'de> Deserialize<'de> for AnyForm {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Either).map(AnyForm)
            }
        }

        let Placed { value: AnyForm(form), place } = Placed::deserialize(deserializer)?;
        Ok(match form {
            Form::Short(text) => Self { address: Placed { value: Text::new(text), place }, weight: Given::default() },
            Form::Long(WeightedEndpoint { address, weight }) => Self { address, weight },
        })
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let short = generator.subschema_for::<Text<SocketAddr>>();
        let long = generator.subschema_for::<WeightedEndpoint>();
        schemars::json_schema!({
            "description": "One address that serves a revision: IP:PORT, or { address: IP:PORT, weight: N }.",
            "anyOf": [short, long],
        })
    }
}
