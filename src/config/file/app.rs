//! The part of the file that is about one app.

use std::{borrow::Cow, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::{Ab, ErrorBlock, Limits, Mirror, Preview, SmokeCheck};
use crate::{
    config::{
        address::{EndpointAddress, SentHost},
        balancing::{Balancing, BoundedLoad, CheckHost, Percent, Token},
        duration::Time,
        kubernetes::{NamespaceName, ObjectName},
        node::{Given, LongForm, Named, Placed, ShortOr, Text},
        not_yet::NotYet,
        notation::{CheckPath, ServerName, Share, UrlPath, Whole},
        size::Octets,
    },
    source::PortName,
    switch::{
        AutoPromotion, Family, HoldBounds, HostPattern, MinReady, Protocol, ProxyVersion, Revision, Roots, Statuses,
        Streams, TlsVersion, Weight,
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
    /// When an endpoint rests because requests fail on it; left out: never. `{}` for what the keys in it default to.
    #[serde(default)]
    pub(in crate::config) ejection: Given<EjectionBlock>,
    /// What must hold before a promotion, and whether it happens by itself.
    #[serde(default)]
    pub(in crate::config) promotion: Promotion,
    /// What happens after a promotion.
    #[serde(default)]
    pub(in crate::config) rollback: Rollback,
    /// How long a request may take.
    #[serde(default)]
    pub(in crate::config) timeouts: Timeouts,
    /// How much of the app's traffic is let in.
    #[serde(default)]
    pub(in crate::config) limits: Limits,
    /// How often a request is tried.
    #[serde(default)]
    pub(in crate::config) retries: Retries,
    /// What becomes of requests in flight on a pool that was replaced.
    #[serde(default)]
    pub(in crate::config) drain: DrainBlock,
    /// Pages in place of our short texts, by the status they stand for.
    #[serde(default)]
    pub(in crate::config) errors: Named<ErrorBlock>,
    /// Whether live clients too are told which revision and generation answered.
    #[serde(default)]
    pub(in crate::config) expose_revision: Given<Text<bool>>,
    #[serde(default)]
    #[schemars(skip)]
    pub(in crate::config) guard: NotYet,
    /// Copies a share of safe live requests to the candidate, and compares the answers; left out: none.
    #[serde(default)]
    pub(in crate::config) mirror: Given<Mirror>,
    /// How far a hold goes that does not say so itself.
    #[serde(default)]
    pub(in crate::config) hold: HoldBlock,
}

/// Where an app's revisions come from: one of these.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Source {
    /// From this file, changed at run time by `deploy`, `promote` and `rollback`.
    pub(in crate::config) r#static: Given<Static>,
    /// From a cluster: either a `rollout`, or an `active_service` with a `preview_service`. Their flips are followed.
    pub(in crate::config) kubernetes: Given<Kubernetes>,
    #[schemars(skip)]
    pub(in crate::config) etcd: NotYet,
}

/// The objects of a cluster that say what is active: a Rollout of Argo Rollouts, or two Services.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Kubernetes {
    /// Their namespace; left out: our own, in a cluster the pod's, outside that of the kubeconfig's context.
    pub(in crate::config) namespace: Given<Text<NamespaceName>>,
    /// The Rollout's name. Blue-green or canary, as it says itself.
    pub(in crate::config) rollout: Given<Text<ObjectName>>,
    /// Without a Rollout: the Service whose selector says which pods carry live traffic.
    pub(in crate::config) active_service: Given<Text<ObjectName>>,
    /// And the Service whose selector says which pods are the candidate's.
    pub(in crate::config) preview_service: Given<Text<ObjectName>>,
    /// Which port of the Service, by name or number; left out: its only one.
    #[schemars(extend("examples" = ["http"]))]
    pub(in crate::config) port: Given<Text<PortName>>,
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
    /// `least_request`: the less busy of two drawn at random; `round_robin`: each in its turn; `random`: any;
    /// `consistent_hash`: the same one for the same `hash`. All mind the weights.
    pub(in crate::config) policy: Given<Text<Balancing>>,
    /// What `consistent_hash` tells requests apart by: one of `cookie`, `header`, `client_ip`.
    pub(in crate::config) hash: Given<HashBlock>,
    /// With `consistent_hash`: how far above the average an endpoint's requests in flight may be, as a factor from 1.05 to
    /// 10; over that, the next endpoint on the ring takes the request. `off` for no bound.
    #[schemars(extend("default" = 1.25))]
    pub(in crate::config) bounded_load: Given<Text<BoundedLoad>>,
    /// How long an endpoint that has become healthy takes to its full share, from a tenth of it on; 0s for none.
    pub(in crate::config) slow_start: Given<Text<Time<0>>>,
}

/// What requests are told apart by: one of `cookie`, `header`, `client_ip`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct HashBlock {
    /// A cookie, by its name. A client without one is given one with its answer.
    pub(in crate::config) cookie: Given<Text<Token>>,
    /// How long a client keeps the cookie; left out: until it ends its session.
    pub(in crate::config) ttl: Given<Text<Time<1000>>>,
    /// A header, by its name. Requests without it are balanced by least request.
    pub(in crate::config) header: Given<Text<Token>>,
    /// The client's address.
    pub(in crate::config) client_ip: Given<Text<bool>>,
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
    /// The path to GET; left out: a TCP connect is enough.
    pub(in crate::config) path: Given<Text<CheckPath>>,
    /// The statuses that are good: single ones and ranges, such as 200-399 or "200,204".
    #[schemars(extend("default" = "200-399"))]
    pub(in crate::config) status: Given<Text<Statuses>>,
    /// The `Host` of the GET; left out: the endpoint's address.
    pub(in crate::config) host: Given<Text<CheckHost>>,
    /// The port that is probed, on the endpoint's own address; left out: the endpoint's port.
    pub(in crate::config) port: Given<Text<Whole<1, 65535>>>,
    /// Time between the starts of two probes of an endpoint.
    pub(in crate::config) interval: Given<Text<Time<10>>>,
    /// By how much of itself the interval varies, so that probes do not march in step: 0% to 50%.
    pub(in crate::config) jitter: Given<Text<Percent<0, 50>>>,
    /// How long a probe may take.
    pub(in crate::config) timeout: Given<Text<Time<1>>>,
    /// How many good probes in a row make an endpoint healthy; the first verdict of a new one takes one.
    pub(in crate::config) rise: Given<Text<Whole<1, 100>>>,
    /// How many bad probes in a row make an endpoint unhealthy.
    pub(in crate::config) fall: Given<Text<Whole<1, 100>>>,
}

/// When an endpoint rests because requests fail on it, whatever its probes say. A failure is a connect that fails, a
/// connection that ends before the head of an answer, an answer that takes too long, or one of 502, 503 or 504.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct EjectionBlock {
    /// So many failures in a row eject; 0 turns this off.
    #[schemars(extend("default" = 5))]
    pub(in crate::config) consecutive_failures: Given<Text<Whole<0, 1000>>>,
    /// A share of failures this large within `window` ejects; left out: no share does.
    pub(in crate::config) error_ratio: Given<Text<Percent<1, 100>>>,
    /// How far back `error_ratio` looks.
    #[schemars(extend("default" = "10s"))]
    pub(in crate::config) window: Given<Text<Time<1000>>>,
    /// How many requests within `window` it takes to judge by `error_ratio`.
    #[schemars(extend("default" = 20))]
    pub(in crate::config) min_requests: Given<Text<Whole<1, 1_000_000>>>,
    /// How long an ejection lasts; the second one twice as long, and so on up to ten times.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) r#for: Given<Text<Time<1000>>>,
    /// At most this share of a pool's endpoints rests at once, rounded down.
    #[schemars(extend("default" = "50%"))]
    pub(in crate::config) max_share: Given<Text<Percent<1, 100>>>,
    /// Whether an answer of 502, 503 or 504 is a failure too.
    #[schemars(extend("default" = true))]
    pub(in crate::config) gateway_errors: Given<Text<bool>>,
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
    /// Requests that the candidate must answer as expected before it may be promoted, sent by the proxy itself, in this
    /// order; left out: none.
    pub(in crate::config) smoke: Given<Vec<SmokeCheck>>,
    /// For how long a smoke test that fails is tried again before it has failed; 0s: once is enough.
    pub(in crate::config) smoke_within: Given<Text<Time<0>>>,
    #[schemars(skip)]
    pub(in crate::config) bake: NotYet,
    /// How many connections each worker opens to each ready endpoint of the candidate before it may be promoted, up to
    /// 100; 0 for none. They are of the version that requests will use.
    pub(in crate::config) warm: Given<Text<Whole<0, 100>>>,
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

/// How often a request is tried.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Retries {
    /// How often a request may be tried at most, the first try included; 1 for no retries.
    pub(in crate::config) attempts: Given<Text<Whole<1, 10>>>,
    /// How long one try may take to the response's head while another is still allowed.
    pub(in crate::config) per_try: Given<Text<Time<1>>>,
    /// How many retries the requests of the last ten seconds may cause, as a share of them; a few a second are always
    /// granted, and what was never sent (a refused connection) counts for nothing.
    pub(in crate::config) budget: Given<Text<Share>>,
}

/// What becomes of requests in flight on a pool that was replaced.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct DrainBlock {
    /// How long ordinary requests may go on before they are cut.
    pub(in crate::config) timeout: Given<Text<Time<0>>>,
    /// What long-lived streams (tunnels, event streams, gRPC calls whose answer goes on) do: `keep` until one side ends
    /// them, `drain` until the timeout, `cut` at once.
    pub(in crate::config) streams: Given<Text<Streams>>,
    /// How many of those are closed in a second at most when their time has come, so that their clients do not all come
    /// back at once.
    pub(in crate::config) close_rate: Given<Text<Whole<1, 100_000>>>,
}

impl LongForm for WeightedEndpoint {
    const FORMS: &str = "an endpoint: IP:PORT, NAME:PORT or unix:/PATH, or { address: ADDRESS, weight: N }";
}

/// How far a hold goes that does not say so itself: new requests wait, so that the old pool can empty before a flip.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct HoldBlock {
    /// How long it lasts at most; then all that wait are let in. Up to 1h.
    pub(in crate::config) max_age: Given<Text<Time<1>>>,
    /// How many requests may wait; beyond, they are answered 503.
    pub(in crate::config) max_requests: Given<Text<Whole<1, { HoldBounds::MOST_REQUESTS }>>>,
    /// How much memory their heads may take; beyond, they are answered 503. Bodies are not read meanwhile.
    pub(in crate::config) max_bytes: Given<Text<Octets<{ HoldBounds::LEAST_BYTES }, { HoldBounds::MOST_BYTES }>>>,
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Placed { value: form, place } = Placed::deserialize(deserializer)?;
        Ok(match form {
            ShortOr::Short(text) => {
                Self { address: Placed { value: Text::new(text), place }, weight: Given::default() }
            }
            ShortOr::Long(WeightedEndpoint { address, weight }) => Self { address, weight },
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
