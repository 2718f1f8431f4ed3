//! The part of the file that is about one app.

use std::{borrow::Cow, fmt, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::audience::{Ab, Preview};
use crate::{
    config::{
        address::{EndpointAddress, SentHost},
        duration::Time,
        node::{Given, Named, Placed, Text},
        not_yet::NotYet,
        notation::{CheckPath, ServerName, UrlPath, Whole},
        size::Octets,
    },
    switch::{
        AutoPromotion, Balance, Family, HostPattern, MinReady, Protocol, ProxyVersion, Revision, Roots, Streams,
        TlsVersion, Weight,
    },
};

/// One app: what is fronted and rolled out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct App {
    /// The hosts whose requests are for this app, each exact or `*.` for all below; left out: every host that no other
    /// app names.
    #[serde(default)]
    pub(in crate::config) hosts: Given<Vec<Placed<Text<HostPattern>>>>,
    /// Path prefixes under those hosts; left out: all paths.
    #[serde(default)]
    pub(in crate::config) paths: Given<Vec<Placed<Text<UrlPath>>>>,
    /// How the candidate is reached.
    #[serde(default)]
    pub(in crate::config) preview: Preview,
    /// The share of live traffic that each new candidate starts with, as soon as it is ready: a percentage such as "5%".
    /// `tealgate weight` sets it for the candidate of the day.
    #[serde(default)]
    pub(in crate::config) weight: Given<Text<Weight>>,
    /// Which live traffic goes to the candidate besides, and how it stays there.
    #[serde(default)]
    pub(in crate::config) ab: Ab,
    /// Where the app's revisions come from.
    pub(in crate::config) source: Placed<Source>,
    /// How one endpoint of a pool is chosen.
    #[serde(default)]
    pub(in crate::config) balance: BalanceBlock,
    /// How connections to endpoints are made.
    #[serde(default)]
    pub(in crate::config) upstream: Upstream,
    /// How endpoints are probed.
    #[serde(default)]
    pub(in crate::config) health: Health,
    /// What must hold before a promotion, and whether it happens by itself.
    #[serde(default)]
    pub(in crate::config) promotion: Promotion,
    /// What happens after a promotion.
    #[serde(default)]
    pub(in crate::config) rollback: Rollback,
    /// How long a request may take.
    #[serde(default)]
    pub(in crate::config) timeouts: Timeouts,
    /// How much a request may bring.
    #[serde(default)]
    pub(in crate::config) limits: Limits,
    /// How often a request is tried.
    #[serde(default)]
    pub(in crate::config) retries: Retries,
    /// What becomes of requests in flight on a pool that was replaced.
    #[serde(default)]
    pub(in crate::config) drain: DrainBlock,
    /// Whether live clients too are told which revision and generation answered.
    #[serde(default)]
    pub(in crate::config) expose_revision: Given<Text<bool>>,
    #[serde(default)]
    #[schemars(skip)]
    pub(in crate::config) guard: NotYet,
    #[serde(default)]
    #[schemars(skip)]
    pub(in crate::config) mirror: NotYet,
    #[serde(default)]
    #[schemars(skip)]
    pub(in crate::config) hold: NotYet,
}

/// Where an app's revisions come from: one of these.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Source {
    /// From this file, changed at run time by `deploy`, `promote` and `rollback`.
    pub(in crate::config) r#static: Given<Static>,
    #[schemars(skip)]
    pub(in crate::config) kubernetes: NotYet,
    #[schemars(skip)]
    pub(in crate::config) etcd: NotYet,
}

impl Source {
    /// Whether it names a source that is not in force.
    pub(in crate::config) fn names_another(&self) -> bool {
        self.kubernetes.is_given() || self.etcd.is_given()
    }
}

/// Revisions and roles to start with. What is changed at run time is kept in `state.dir`, never in this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Static {
    /// The revision that carries live traffic.
    pub(in crate::config) active: Placed<Text<Revision>>,
    /// The candidate; left out: none.
    #[serde(default)]
    #[schemars(extend("examples" = ["green"]))]
    pub(in crate::config) preview: Given<Text<Revision>>,
    /// The revisions by name.
    pub(in crate::config) revisions: Named<RevisionBlock>,
}

/// One version of the application.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RevisionBlock {
    /// Where it is served.
    pub(in crate::config) endpoints: Placed<Vec<Endpoint>>,
}

/// Where a revision is served: an address, or `{ address: ADDRESS, weight: N }`.
#[derive(Debug)]
pub(in crate::config) struct Endpoint {
    pub(in crate::config) address: Placed<Text<EndpointAddress>>,
    pub(in crate::config) weight: Given<Text<Whole<1, 256>>>,
}

/// An endpoint with its weight.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WeightedEndpoint {
    /// Where it is: `IP:PORT`, `unix:/PATH`, or `NAME:PORT`, which stands for every address that the name has.
    address: Placed<Text<EndpointAddress>>,
    /// Its share relative to the others of its pool, 1 to 256.
    #[serde(default)]
    weight: Given<Text<Whole<1, 256>>>,
}

/// How one endpoint of a pool is chosen.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct BalanceBlock {
    /// `least_request`: the less busy of two drawn at random; `round_robin`: each in its turn; `random`: any. All mind
    /// the weights.
    pub(in crate::config) policy: Given<Text<Balance>>,
}

/// How connections to endpoints are made.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Upstream {
    /// `http1`: HTTP/1.1; `h2`: HTTP/2, over plain text by prior knowledge (h2c); `auto`: over TLS what the endpoint chooses,
    /// HTTP/2 if it can, over plain text HTTP/1.1.
    pub(in crate::config) protocol: Given<Text<Protocol>>,
    /// TLS towards endpoints; `{}` trusts whom the system trusts. Left out: plain text.
    pub(in crate::config) tls: Given<UpstreamTls>,
    /// Begin each connection with the client's address, in version `v1` or `v2` of the PROXY protocol; each is then closed
    /// with its request.
    #[schemars(extend("examples" = ["v2"]))]
    pub(in crate::config) proxy_protocol: Given<Text<ProxyVersion>>,
    /// The `Host` that endpoints are sent: `pass` for the one the client asked for, or a NAME or NAME:PORT of its own.
    pub(in crate::config) host: Given<Text<SentHost>>,
    /// Time between two lookups of an endpoint's name.
    pub(in crate::config) resolve: Given<Text<Time<100>>>,
    /// Which addresses of a name are endpoints: `any`, `ipv4` or `ipv6` alone.
    pub(in crate::config) family: Given<Text<Family>>,
}

/// TLS towards endpoints. Files are loaded anew when they change.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct UpstreamTls {
    /// Who may vouch for an endpoint: `system` for whom the system trusts, or the PEM file of authorities to trust alone.
    pub(in crate::config) roots: Given<Text<Roots>>,
    /// The file of our own certificate, for endpoints that ask for one: the chain, leaf first, in PEM.
    pub(in crate::config) cert: Given<Text<PathBuf>>,
    /// The file of its key, in PEM.
    pub(in crate::config) key: Given<Text<PathBuf>>,
    /// The name that certificates must be for, also sent as SNI; left out: the name each endpoint is given by.
    pub(in crate::config) server_name: Given<Text<ServerName>>,
    /// The oldest protocol version spoken: "1.2", as when left out, or "1.3".
    pub(in crate::config) min_version: Given<Text<TlsVersion>>,
}

/// How endpoints are probed: the active, the candidate's and the previous ones.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Health {
    /// The path to GET, expecting a 2xx or 3xx; left out: a TCP connect is enough.
    pub(in crate::config) path: Given<Text<CheckPath>>,
    /// Time between the starts of two probes of an endpoint.
    pub(in crate::config) interval: Given<Text<Time<10>>>,
    /// How long a probe may take.
    pub(in crate::config) timeout: Given<Text<Time<1>>>,
    /// How many good probes in a row make an endpoint healthy; the first verdict of a new one takes one.
    pub(in crate::config) rise: Given<Text<Whole<1, 100>>>,
    /// How many bad probes in a row make an endpoint unhealthy.
    pub(in crate::config) fall: Given<Text<Whole<1, 100>>>,
}

/// What must hold before a promotion, and whether it happens by itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Promotion {
    /// `false`: only on request; `true`: as soon as the gates pass; "after 10m": once they have passed for so long.
    pub(in crate::config) auto: Given<Text<AutoPromotion>>,
    /// How many endpoints of the candidate must be ready: a number, or a share such as "60%".
    pub(in crate::config) min_ready: Given<Text<MinReady>>,
    #[schemars(skip)]
    pub(in crate::config) approval: NotYet,
    #[schemars(skip)]
    pub(in crate::config) smoke: NotYet,
    #[schemars(skip)]
    pub(in crate::config) bake: NotYet,
    #[schemars(skip)]
    pub(in crate::config) warm: NotYet,
}

/// What happens after a promotion.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Rollback {
    /// How long the revision that was replaced is kept ready for a rollback.
    pub(in crate::config) keep_previous: Given<Text<Time<0>>>,
}

/// How long a request may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Timeouts {
    /// How long a connect to an endpoint may take, its TLS handshake included.
    pub(in crate::config) connect: Given<Text<Time<1>>>,
    /// From the end of the request to the response's head.
    pub(in crate::config) response: Given<Text<Time<1>>>,
    /// How long a tunnel (WebSocket) may be silent in both directions.
    pub(in crate::config) upgrade_idle: Given<Text<Time<1>>>,
    /// The whole request, from its head to the last octet of its answer; 0s for no limit.
    pub(in crate::config) request: Given<Text<Time<0>>>,
}

/// How much a request may bring.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Limits {
    /// The largest request body; 0 for no limit.
    pub(in crate::config) body_size: Given<Text<Octets<0, { u64::MAX }>>>,
    #[schemars(skip)]
    pub(in crate::config) in_flight: NotYet,
    #[schemars(skip)]
    pub(in crate::config) queue: NotYet,
    #[schemars(skip)]
    pub(in crate::config) rate: NotYet,
}

/// How often a request is tried.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Retries {
    /// How often a request may be tried at most, the first try included; 1 for no retries.
    pub(in crate::config) attempts: Given<Text<Whole<1, 10>>>,
    /// How long one try may take to the response's head while another is still allowed.
    pub(in crate::config) per_try: Given<Text<Time<1>>>,
    #[schemars(skip)]
    pub(in crate::config) budget: NotYet,
}

/// What becomes of requests in flight on a pool that was replaced.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct DrainBlock {
    /// How long ordinary requests may go on before they are cut.
    pub(in crate::config) timeout: Given<Text<Time<0>>>,
    /// What long-lived streams (tunnels) do: `keep` until one side ends them, `drain` until the timeout, `cut` at once.
    pub(in crate::config) streams: Given<Text<Streams>>,
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

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an endpoint: IP:PORT, NAME:PORT or unix:/PATH, or { address: ADDRESS, weight: N }")
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
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<Text<EndpointAddress>>();
        let long = generator.subschema_for::<WeightedEndpoint>();
        json_schema!({
            "description": "Where a revision is served: IP:PORT, unix:/PATH, or NAME:PORT, which stands for every address that the name \
                            has; or { address: ADDRESS, weight: N }.",
            "anyOf": [short, long],
        })
    }
}
