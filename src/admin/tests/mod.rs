//! The admin API over real sockets, on a real switch: what a caller is promised, status by status.

/// Who may do what, and what a stranger learns.
mod access;
/// What each action does, and its guards.
mod actions;
/// Who is shown which revision.
mod audience;
/// The OpenAPI document against the route table.
mod description;
/// What keeps live requests out.
mod doors;
/// The event stream.
mod events;
/// Sockets: whose they are, how they start and end.
mod listeners;
/// Rollouts that another authority runs.
mod rollouts;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::watch,
};

use super::{
    AdminServer, Api, HealthServer, Options, Readiness, ReloadError, StartError, Tokens,
    api::{Problem, Role, Version},
    mint,
};
use crate::switch::{Desired, Matching, Phase, Plain, Policy, Reader, Switch, SwitchOptions, Wanted};

/// A switch with the apps `shop` and `blog`, each with blue active and green its ready candidate, behind an admin API.
pub(super) struct Fixture {
    pub(super) switch: Switch,
    pub(super) api: Api,
    pub(super) server: AdminServer,
    pub(super) viewer: String,
    pub(super) operator: String,
    pub(super) admin: String,
    pub(super) shopkeeper: String,
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Fixture {
    pub(super) async fn start() -> Self {
        let options = SwitchOptions { workers: 1, replica: "r1".into(), journal: None };
        let switch = Switch::start(options).unwrap();
        switch.feed.desired(two_apps()).await.unwrap();
        for app in ["shop", "blog"] {
            for (revision, port) in [("blue", 9001), ("green", 9011)] {
                switch.feed.observed(app.parse().unwrap(), revision.parse().unwrap(), address(port), true).await;
            }
        }
        let mut viewer = switch.viewer.clone();
        while viewer.board().apps.values().any(|app| app.rollout.phase() != Phase::Previewing) {
            viewer.changed().await;
        }
        let (mut entries, mut secrets) = (Vec::new(), Vec::new());
        let only_shop = BTreeSet::from(["shop".parse().unwrap()]);
        for (name, role, apps) in [
            ("vera", Role::Viewer, None),
            ("olaf", Role::Operator, None),
            ("ada", Role::Admin, None),
            ("shopkeeper", Role::Operator, Some(only_shop)),
        ] {
            let (secret, entry) = mint(name, role, apps, None).unwrap();
            entries.push(entry);
            secrets.push(secret);
        }
        let reload = Arc::new(|| async { Ok(json!({"changed": ["shop"]})) }.boxed());
        let api = Api {
            control: switch.control.clone(),
            viewer: switch.viewer.clone(),
            authorities: None,
            mirrors: Arc::default(),
            reload,
            tokens: Some(Arc::new(Tokens::fixed(entries))),
            review: None,
            version: Version::of_this_build(),
        };
        let options = Options { bind: Some(address(0)), ..Options::default() };
        let server = AdminServer::start(&options, api.clone()).await.unwrap();
        let [viewer, operator, admin, shopkeeper] = secrets.try_into().unwrap();
        Self { switch, api, server, viewer, operator, admin, shopkeeper }
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path, &self.viewer, Value::Null)).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(request(Method::POST, path, &self.operator, body)).await
    }

    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Reply {
        let address = self.server.address().unwrap();
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", address.to_string().parse().unwrap());
        }
        exchange(TcpStream::connect(address).await.unwrap(), request).await
    }
}

pub(super) fn two_apps() -> Desired {
    let app = |name: &str, host: &str| {
        let wanted = Wanted {
            matching: Matching { hosts: vec![crate::switch::HostPattern::Exact(host.into())], ..Matching::default() },
            revisions: [("blue", 9001), ("green", 9011)]
                .map(|(name, port)| (name.parse().unwrap(), vec![address(port).into()]))
                .into(),
            active: "blue".parse().unwrap(),
            preview: Some("green".parse().unwrap()),
            policy: Arc::new(Policy::default()),
        };
        (name.parse().unwrap(), wanted)
    };
    Desired { apps: [app("shop", "shop.test"), app("blog", "blog.test")].into(), ..Desired::default() }
}

pub(super) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A request as a well-behaved client sends it; a null body is none.
pub(super) fn request(method: Method, path: &str, token: &str, body: Value) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
    match body {
        Value::Null => request.body(Full::default()).unwrap(),
        body => request.header("content-type", "application/json").body(Full::from(body.to_string())).unwrap(),
    }
}

pub(super) fn with(mut request: Request<Full<Bytes>>, name: &'static str, value: &str) -> Request<Full<Bytes>> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

pub(super) async fn exchange(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Reply {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let octets = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&octets)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&octets).into_owned()));
    Reply { status: parts.status, headers: parts.headers, body }
}

/// A request for the shop.
pub(super) const KEY: Plain = Plain("shop.test");

/// What a worker does beside its requests, until `asked` is answered.
pub(super) async fn while_adopting<T>(reader: &Reader, asked: impl Future<Output = T>) -> T {
    let adopting = async {
        loop {
            reader.changed().await;
            reader.acknowledge(&reader.adopt());
        }
    };
    tokio::select! {
        answer = asked => answer,
        () = adopting => unreachable!("it goes on for ever"),
    }
}

impl Reply {
    /// The stable code of the problem this must be, with its status.
    pub(super) fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{} {}", self.status, self.body);
        let problem: Problem = serde_json::from_value(self.body.clone()).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        assert!(!problem.detail.is_empty() && !problem.hint.is_empty(), "{problem:?}");
        (problem.status, problem.code)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}
