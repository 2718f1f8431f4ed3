//! Who asks, and what they may do. On the Unix socket the kernel says who it is, and the socket's mode who may come at
//! all: its callers are `admin`. On TCP a bearer token says it, of the token file or of a cluster. Every call under the API's root passes here first.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header, request::Parts};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use super::{
    api::{ROOT, Role, WhoAmI},
    problem::Error,
    review::Reviewed,
    routes::Admin,
    tokens::{Digest, NotAccepted, TokenEntry, Tokens, sha256},
};
use crate::switch::AppName;

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// A process on this machine, by its user.
    Unix {
        /// The user's number.
        uid: u32,
    },
    /// An address.
    Tcp(SocketAddr),
}

/// A caller who is known.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    name: Arc<str>,
    role: Role,
    apps: Option<Arc<BTreeSet<AppName>>>,
    via: Via,
}

/// How a caller is known.
#[derive(Clone)]
enum Via {
    /// By the socket that he could open.
    Socket,
    /// By a token of the token file, which may end.
    Token(Digest, Option<Timestamp>),
    /// By a token that the cluster vouched for.
    Cluster(Arc<str>),
}

impl fmt::Debug for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Via {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Token(..) => "token",
            Self::Cluster(_) => "kubernetes",
        }
    }
}

impl Caller {
    /// The name that goes into the journal.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the app is one of the caller's.
    pub(super) fn sees(&self, app: &AppName) -> bool {
        self.apps.as_ref().is_none_or(|apps| apps.contains(app))
    }

    /// Refuses an app that is not one of the caller's, whether it exists or not.
    pub(super) fn must_see(&self, app: &AppName) -> Result<(), Error> {
        if self.sees(app) {
            return Ok(());
        }
        self.refuse(format!("{} may not use the app {app:?}", self.name), "ask for a token with this app in its `apps`")
    }

    /// Refuses what the caller's role does not include.
    pub(super) fn must_be(&self, least: Role, to: &str) -> Result<(), Error> {
        if self.role >= least {
            return Ok(());
        }
        let (least, role) = (least.as_str(), self.role.as_str());
        self.refuse(format!("{} is {role}; to {to} takes {least}", self.name), "ask somebody with that role")
    }

    /// Refuses what concerns every app if the caller is limited to some.
    pub(super) fn must_see_all(&self, to: &str) -> Result<(), Error> {
        if self.apps.is_none() {
            return Ok(());
        }
        self.refuse(format!("{} is limited to some apps, and may not {to}", self.name), "ask somebody who is not")
    }

    /// Whether the token the caller came with is still good; it may end, or be struck out, during a long answer.
    pub(super) async fn still_welcome(&self, admin: &Admin) -> bool {
        match &self.via {
            Via::Socket => true,
            Via::Token(digest, _) => admin.api.tokens.as_ref().is_some_and(|tokens| tokens.holder(digest).is_ok()),
            Via::Cluster(token) => match &admin.reviews {
                Some(reviews) => reviews.of(token).await.is_ok_and(|reviewed| reviewed.role >= self.role),
                None => false,
            },
        }
    }

    /// What `GET /whoami` answers.
    pub(super) fn describe(&self) -> WhoAmI {
        WhoAmI {
            name: self.name.to_string(),
            role: self.role,
            via: self.via.as_str().into(),
            apps: self.apps.as_ref().map(|apps| apps.iter().map(ToString::to_string).collect()),
            expires: match self.via {
                Via::Token(_, expires) => expires,
                Via::Socket | Via::Cluster(_) => None,
            },
        }
    }

    fn refuse(&self, detail: String, hint: &str) -> Result<(), Error> {
        warn!(actor = &*self.name, detail, "forbidden");
        Err(Error::forbidden(detail, hint))
    }

    /// A process on this machine, by its user.
    pub(super) fn of_socket(uid: u32) -> Self {
        Self { name: user_name(uid).into(), role: Role::Admin, apps: None, via: Via::Socket }
    }

    fn of_token(digest: Digest, entry: TokenEntry) -> Self {
        Self {
            name: entry.name.into(),
            role: entry.role,
            apps: entry.apps.map(Arc::new),
            via: Via::Token(digest, entry.expires),
        }
    }

    fn of_cluster(token: &str, reviewed: Reviewed) -> Self {
        let Reviewed { name, role, apps } = reviewed;
        Self { name: name.into(), role, apps: apps.map(Arc::new), via: Via::Cluster(token.into()) }
    }
}

/// Finds out who asks, for every call under the API's root; the rest is for everybody.
pub(super) async fn identify(State(admin): State<Arc<Admin>>, mut request: Request, next: Next) -> Response {
    if request.uri().path().strip_prefix(ROOT).is_none_or(|rest| !rest.is_empty() && !rest.starts_with('/')) {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().copied();
    let caller = match peer {
        Some(Peer::Unix { uid }) => Ok(Caller::of_socket(uid)),
        Some(Peer::Tcp(_)) | None => of_bearer(request.headers(), &admin).await,
    };
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(why) => {
            admin.unwelcome.say(peer, &why);
            Error::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                why,
                "send `Authorization: Bearer <token>`; `tealgate token new` makes one",
            )
            .into_response()
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parts.extensions.get().cloned().ok_or_else(|| {
            Error::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "nobody is known to ask",
                "use a path under the API root",
            )
        })
    }
}

/// The token file first: it needs nobody. Then whoever the cluster knows.
async fn of_bearer(headers: &HeaderMap, admin: &Admin) -> Result<Caller, String> {
    let token = bearer(headers)?;
    match (of_file(token, admin.api.tokens.as_deref()), &admin.reviews) {
        (Err(NotAccepted::Unknown), Some(reviews)) => {
            let reviewed = reviews.of(token).await;
            reviewed.map(|reviewed| Caller::of_cluster(token, reviewed)).map_err(|not| not.to_string())
        }
        (Ok(caller), _) => Ok(caller),
        (Err(NotAccepted::Unknown), None) => Err("the token is not known".into()),
        (Err(NotAccepted::Expired { name }), _) => Err(format!("the token of {name} has expired")),
    }
}

fn of_file(token: &str, tokens: Option<&Tokens>) -> Result<Caller, NotAccepted> {
    let entry = tokens.ok_or(NotAccepted::Unknown)?.authenticate(token)?;
    Ok(Caller::of_token(sha256(token), entry))
}

/// The one bearer token that was sent.
fn bearer(headers: &HeaderMap) -> Result<&str, String> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let line = match (lines.next(), lines.next()) {
        (None, _) => return Err("no token was sent".into()),
        (Some(line), None) => line,
        (Some(_), Some(_)) => return Err("more than one Authorization header was sent".into()),
    };
    let token = line.to_str().ok().and_then(|text| text.split_once(' ')).and_then(|(scheme, token)| {
        let token = token.trim_start_matches(' ');
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    });
    token.ok_or_else(|| "the Authorization header holds no bearer token".into())
}

/// Logs who was turned away, at most once a second, with the number of those it kept quiet about.
#[derive(Default)]
pub(super) struct Unwelcome {
    last: Mutex<(Option<Instant>, u64)>,
}

impl Unwelcome {
    const EVERY: Duration = Duration::from_secs(1);

    fn say(&self, peer: Option<Peer>, why: &str) {
        if let Some(more) = self.turn() {
            warn!(?peer, why, more, "a call to the admin API was not authorised");
        }
    }

    /// Whether it is time for a line; then how many were left out since the last.
    fn turn(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_some_and(|at| at.elapsed() < Self::EVERY) {
            last.1 += 1;
            return None;
        }
        last.0 = Some(Instant::now());
        Some(std::mem::take(&mut last.1))
    }
}

/// The name of a user as `/etc/passwd` has it, or `uid:<number>`.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(&passwd, uid).map_or_else(|| format!("uid:{uid}"), str::to_owned)
}

/// `name:password:uid:gid:…` (passwd(5)).
fn name_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tokens::mint;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|v| (header::AUTHORIZATION, v.parse().unwrap())).collect()
    }

    #[test]
    fn a_user_has_the_name_the_machine_gives_him() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\n# odd\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_in(passwd, 1000), Some("ann"));
        assert_eq!(name_in(passwd, 1), None);
        assert_eq!(user_name(u32::MAX - 7), "uid:4294967288");
    }

    #[test]
    fn only_one_well_formed_bearer_token_counts() {
        let (secret, entry) = mint("ann", Role::Viewer, None, None).unwrap();
        let tokens = Tokens::fixed([entry]);
        let asks = |values: &[&str]| {
            let headers = headers(values);
            let caller =
                bearer(&headers).and_then(|token| of_file(token, Some(&tokens)).map_err(|not| format!("{not:?}")));
            caller.map(|caller| caller.name().to_owned())
        };
        assert_eq!(asks(&[&format!("Bearer {secret}")]).unwrap(), "ann");
        assert_eq!(asks(&[&format!("bearer  {secret}")]).unwrap(), "ann");
        assert!(asks(&[]).unwrap_err().contains("no token"));
        assert!(asks(&[&secret]).is_err());
        assert!(asks(&["Bearer "]).is_err());
        assert!(asks(&[&format!("Basic {secret}")]).is_err());
        assert!(asks(&[&format!("Bearer {secret}"), "Bearer x"]).is_err());
        assert!(of_file(&secret, None).is_err());
    }

    #[test]
    fn a_role_includes_those_below_and_apps_limit_it() {
        let apps = Some(BTreeSet::from(["shop".parse().unwrap()]));
        let (secret, entry) = mint("ann", Role::Operator, apps, None).unwrap();
        let ann = Caller::of_token(sha256(&secret), entry);
        assert!(ann.must_be(Role::Viewer, "look").is_ok());
        assert_eq!(ann.must_be(Role::Admin, "reload").unwrap_err().status, 403);
        assert!(ann.must_see(&"shop".parse().unwrap()).is_ok());
        assert_eq!(ann.must_see(&"blog".parse().unwrap()).unwrap_err().code, "forbidden");
        assert!(ann.must_see_all("reload").is_err());
        assert!(Caller::of_socket(0).must_see_all("reload").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn those_turned_away_fill_no_log() {
        let unwelcome = Unwelcome::default();
        assert_eq!(unwelcome.turn(), Some(0));
        assert_eq!((unwelcome.turn(), unwelcome.turn()), (None, None));
        tokio::time::advance(Unwelcome::EVERY).await;
        assert_eq!(unwelcome.turn(), Some(2));
    }
}
