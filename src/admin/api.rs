//! The bodies of the admin API: what a caller sends and what is answered, besides the states and receipts of
//! [`crate::switch`]. The server and the CLI both stand on these types, so they cannot drift apart. Requests refuse
//! unknown keys; answers may grow new ones.

mod door;

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, value::MapAccessDeserializer},
};
use utoipa::ToSchema;

pub use self::door::{HoldFirst, HoldRequest, HoldTerms, MaintenanceRequest, Period};
use crate::switch::{AppStatus, EndpointSpec, Event, Gate, Revision, Subject, Weight, Whereabouts};

/// Where every call of this version begins.
pub const ROOT: &str = "/api/v1";

/// The media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// `PUT /apps/{app}/revisions/{rev}`: makes the revision the candidate, or updates it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeployRequest {
    /// Its endpoints, each address once.
    #[schema(min_items = 1, max_items = 4096)]
    pub endpoints: Vec<EndpointRequest>,
    /// Free labels, shown with the revision.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Why; it goes into the journal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// An endpoint as it is sent: `{"address": "127.0.0.1:9001", "weight": 1}`, or just `"127.0.0.1:9001"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct EndpointRequest(pub EndpointSpec);

/// `POST /apps/{app}/promote`: makes the preview active.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PromoteRequest {
    /// Only if the preview is this revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub revision: Option<Revision>,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
    /// Sets the gates aside. It needs the role `admin` and a reason.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_gates: bool,
    /// Why; it goes into the journal.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// What the answer waits for.
    #[serde(skip_serializing_if = "Wait::is_default")]
    pub wait: Wait,
    /// How long to wait until traffic has moved, where another authority moves it (Argo Rollouts): `1s` to `1h`, `25s` if
    /// left out. Where the flip is the proxy's own it comes at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// For changes where old and new must not overlap: holds new requests, waits until the old pool is empty, flips, and
    /// lets them in, as one action. Where the pool does not empty in time nothing has moved (`not-drained`).
    #[serde(skip_serializing_if = "HoldFirst::is_default")]
    pub hold: HoldFirst,
}

/// What the answer to a promotion waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Traffic has moved.
    #[default]
    Flipped,
    /// Besides, nothing is in flight on the replaced pool any more, or its drain deadline has come.
    Drained,
    /// Besides, the guard's watch over the new pool has ended. Not offered by this version.
    Baked,
}

/// `POST /apps/{app}/rollback`: brings an earlier revision back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RollbackRequest {
    /// Which; the previous one if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub to: Option<Revision>,
    /// Why; it goes into the journal.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// `POST /apps/{app}/pin`: keeps the active revision active whatever the source says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinRequest {
    /// The revision; it must be the active one.
    #[schema(value_type = String)]
    pub revision: Revision,
    /// Why; it is shown with the pin and goes into the journal.
    #[schema(min_length = 1, max_length = 1000)]
    pub reason: String,
    /// When the pin ends by itself; never if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// `POST /apps/{app}/weight`: sends a share of live traffic to the candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightRequest {
    /// The share: a percentage such as `"5%"`, or its number; 0 takes all live traffic back.
    pub weight: Share,
    /// Why; it goes into the journal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// A share of live traffic: a whole percentage as text, `"5%"`, or its number, `5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub Weight);

/// `POST /apps/{app}/preview-link`: makes a link that shows the preview on the live host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PreviewLinkRequest {
    /// How long the link and what it opens are good, in seconds, up to 30 days; the app's `preview.cookie.ttl` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2592000)]
    pub ttl_seconds: Option<u64>,
    /// The live host it leads to: `HOST`, `HOST:PORT`, or `http://HOST:PORT` where there is no TLS. The app's first host if
    /// left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "shop.example.com")]
    pub host: Option<String>,
    /// The path that the tester is led on to; the app's first if left out.
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    #[schema(example = "/cart")]
    pub return_to: Option<String>,
    /// Whom it is for: 1 to 63 letters, digits, `-`, `_` or `.`. It is shown with the event, and when the link is opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub subject: Option<Subject>,
}

/// A link that shows the preview to whoever opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewLink {
    /// The app.
    pub app: String,
    /// The link. It is a key: whoever has it sees the preview.
    pub url: String,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
}

/// `POST /apps/{app}/smoke`: sends the checks of the candidate's smoke test, again if it has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SmokeRequest {
    /// Only if the candidate is this revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub revision: Option<Revision>,
    /// Why; it goes into the journal.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
    /// What the answer waits for.
    #[serde(skip_serializing_if = "SmokeWait::is_default")]
    pub wait: SmokeWait,
}

/// What the answer to a smoke test waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SmokeWait {
    /// It has passed or failed.
    #[default]
    Finished,
    /// It goes on.
    Started,
}

impl SmokeWait {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// `POST /apps/{app}/retry`: takes a rollout up again that was aborted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetryRequest {
    /// Also where Argo Rollouts would promote it at once, without pause and analysis (`gate-failed`). It needs the role
    /// `admin` and a reason.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_gates: bool,
    /// Why; it goes into the journal.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// `POST /apps/{app}/abort` and `/reject`: gives the candidate up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GiveUpRequest {
    /// Only if the candidate is this revision: otherwise `overtaken`, `already-active`, or `no-candidate` if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub revision: Option<Revision>,
    /// The same by its image, as the revision's label `image` has it: `NAME:TAG`, or its digest (`sha256:…`). Not with
    /// `revision`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub image: Option<String>,
    /// Why; it goes into the journal.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// What the actions without parameters of their own take (`pause`, `unpause`, `DELETE` of a pin or a revision).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PlainRequest {
    /// Why; it goes into the journal.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// `POST /apps/{app}/keep`: keeps the previous revision's endpoints longer, so that a rollback stays possible.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeepRequest {
    /// How long from now, `1m` to `720h`; what it is kept for already is not made shorter.
    #[serde(rename = "for")]
    pub period: Period,
    /// Why; it goes into the journal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// `GET /apps/{app}/plan`: what a promotion would do now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The app.
    pub app: String,
    /// Its generation, for `ifGeneration`.
    pub generation: u64,
    /// The active revision.
    pub from: Option<String>,
    /// The candidate.
    pub to: Option<String>,
    /// Whether a promotion would be carried out now.
    pub possible: bool,
    /// What is in the way, if anything.
    pub refusal: Option<PlanRefusal>,
    /// The gates as they stand.
    pub gates: Vec<Gate>,
    /// Requests in flight on the active pool: they would finish there.
    pub in_flight_on_old: u64,
}

/// Why a promotion would be refused now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanRefusal {
    /// The stable code the action would answer.
    pub code: String,
    /// What is in the way.
    pub detail: String,
    /// What would help.
    pub hint: String,
}

/// The first event of `GET /events`, named `state`, and again whenever a reader has fallen behind: with `?app=` that
/// app's state, otherwise all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum StateMessage {
    /// One app.
    One(Box<AppStatus>),
    /// All apps the caller may see, by name.
    All(Vec<AppStatus>),
}

/// Every later event of `GET /events`; the event's name is its `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventMessage {
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// The app's state by now; null once it is removed.
    pub state: Option<AppStatus>,
}

/// What a caller may do. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Act on apps.
    Operator,
    /// Reload, and set gates aside.
    Admin,
}

impl Role {
    /// The role as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// `GET /whoami`: who the proxy takes the caller for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WhoAmI {
    /// The name that goes into the journal.
    pub name: String,
    /// What the caller may do.
    pub role: Role,
    /// How the caller is known: `socket` or `token`.
    pub via: String,
    /// The apps the caller is limited to; null for all.
    pub apps: Option<Vec<String>>,
    /// When the caller's token ends; null for never.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
}

/// `GET /version`: what is running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The program.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The version of this API.
    pub api: String,
}

impl Version {
    /// This build's.
    pub fn of_this_build() -> Self {
        Self { name: env!("CARGO_PKG_NAME").into(), version: env!("CARGO_PKG_VERSION").into(), api: "v1".into() }
    }
}

/// An error (RFC 9457), sent as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A URN made of `code`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `code` in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, in a sentence.
    pub detail: String,
    /// The stable name of the error, for programs.
    pub code: String,
    /// What would help.
    pub hint: String,
    /// The gates as they stand, if a gate is in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
}

impl Wait {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl<A: Into<Whereabouts>> From<A> for EndpointRequest {
    fn from(address: A) -> Self {
        Self(EndpointSpec::from(address))
    }
}

// By hand, not `untagged`: that would swallow the name of an unknown key.
impl<'de> Deserialize<'de> for EndpointRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = EndpointRequest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"ADDRESS\" or {\"address\": \"ADDRESS\", \"weight\": 1}, where ADDRESS is IP:PORT, NAME:PORT or unix:/PATH")
            }

            fn visit_str<E: de::Error>(self, given: &str) -> Result<Self::Value, E> {
                given.parse::<Whereabouts>().map(EndpointRequest::from).map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let given = EndpointObject::deserialize(MapAccessDeserializer::new(map))?;
                let address: Whereabouts = given.address.parse().map_err(de::Error::custom)?;
                Ok(EndpointRequest(EndpointSpec { weight: given.weight, ..address.into() }))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}%", self.0.percent()))
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole percentage: \"5%\", or 5")
            }

            fn visit_str<E: de::Error>(self, given: &str) -> Result<Share, E> {
                given.parse().map(Share).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, given: u64) -> Result<Share, E> {
                self.visit_str(&given.to_string())
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl utoipa::PartialSchema for Share {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::{ObjectBuilder, OneOfBuilder, Type};

        OneOfBuilder::new()
            .item(ObjectBuilder::new().schema_type(Type::String).examples(["5%"]))
            .item(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(100)))
            .into()
    }
}

impl ToSchema for Share {}

/// The long form of an endpoint.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EndpointObject {
    /// Where it is: `IP:PORT`, `unix:/PATH`, or `NAME:PORT`, which stands for every address that the name has.
    #[schema(example = "127.0.0.1:9001")]
    address: String,
    /// Its share relative to the others of its pool.
    #[serde(default = "EndpointSpec::default_weight")]
    #[schema(minimum = 1, maximum = 256, default = 1)]
    weight: u32,
}

impl utoipa::PartialSchema for EndpointRequest {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::{ObjectBuilder, OneOfBuilder, Type};

        OneOfBuilder::new()
            .item(EndpointObject::schema())
            .item(ObjectBuilder::new().schema_type(Type::String).examples([
                "127.0.0.1:9001",
                "app.internal:9001",
                "unix:/run/app.sock",
            ]))
            .into()
    }
}

impl ToSchema for EndpointRequest {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_string_or_an_object() {
        let given = r#"{"endpoints": ["127.0.0.1:1", {"address": "[::1]:2"}, "unix:/run/a.sock", {"address": "app:3", "weight": 7}]}"#;
        let body: DeployRequest = serde_json::from_str(given).unwrap();
        let seen: Vec<_> = body.endpoints.iter().map(|e| (e.0.address.to_string(), e.0.weight)).collect();
        assert_eq!(
            seen,
            [("127.0.0.1:1", 1), ("[::1]:2", 1), ("unix:/run/a.sock", 1), ("app:3", 7)].map(|(a, w)| (a.to_owned(), w))
        );
    }

    #[test]
    fn an_unknown_key_is_named_at_every_depth() {
        let deploy = |text| serde_json::from_str::<DeployRequest>(text).unwrap_err().to_string();
        assert!(deploy(r#"{"endpoints": [], "lables": {}}"#).contains("`lables`"));
        assert!(deploy(r#"{"endpoints": [{"address": "127.0.0.1:1", "wieght": 2}]}"#).contains("`wieght`"));
        assert!(deploy(r#"{"endpoints": ["localhost"]}"#).contains("IP:PORT, NAME:PORT"));
        let promote = serde_json::from_str::<PromoteRequest>(r#"{"skipGate": true}"#).unwrap_err().to_string();
        assert!(promote.contains("`skipGate`"), "{promote}");
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let promote = PromoteRequest {
            revision: Some("green".parse().unwrap()),
            if_generation: Some(12),
            skip_gates: true,
            reason: "hotfix".into(),
            wait: Wait::Drained,
            timeout: None,
            hold: HoldFirst(Some(HoldTerms::default())),
        };
        let text = serde_json::to_string(&promote).unwrap();
        assert_eq!(
            text,
            r#"{"revision":"green","ifGeneration":12,"skipGates":true,"reason":"hotfix","wait":"drained","hold":true}"#
        );
        assert_eq!(serde_json::from_str::<PromoteRequest>(&text).unwrap(), promote);
        assert_eq!(serde_json::to_string(&PromoteRequest::default()).unwrap(), "{}");
        let deploy = DeployRequest {
            endpoints: vec!["127.0.0.1:1".parse::<Whereabouts>().unwrap().into()],
            ..Default::default()
        };
        let text = serde_json::to_string(&deploy).unwrap();
        assert_eq!(text, r#"{"endpoints":[{"address":"127.0.0.1:1","weight":1}]}"#);
        assert_eq!(serde_json::from_str::<DeployRequest>(&text).unwrap(), deploy);
    }
}
