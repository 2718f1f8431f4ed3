//! The proxy in front of the testbed's Pods, with no more rights than it needs, and live load through it, judged at the
//! Pods: which revision each request started on, and whether one that was sent after a flip still went to the old one.

use std::{net::SocketAddr, time::Instant};

use serde_json::{Value, json};

use super::{
    bed::{Bed, NAMESPACE},
    manifests::rules,
    node::Node,
    patiently,
};
use crate::support::{
    client::{Client, Protocol},
    load::{Load, Report},
    proxy::Proxy,
    setup::Setup,
};

/// The manifests of a proxy that follows and acts.
const MANIFESTS: &str = "tealgate.yaml";

/// To follow the Rollout, and to act on it: what the shipped manifests grant.
pub fn rights() -> Value {
    rules(MANIFESTS)
}

impl Bed {
    /// What a proxy that follows the Rollout `shop` here is run by. Streams without end stay where they are.
    pub async fn following(&self) -> Setup {
        self.following_objects(json!({ "namespace": NAMESPACE, "rollout": "shop" })).await
    }

    /// The same for other objects.
    pub async fn following_objects(&self, objects: Value) -> Setup {
        let mut setup = Setup::following(objects, &self.installs(MANIFESTS).await);
        setup.app()["drain"] = json!({ "timeout": "1h", "streams": "keep" });
        setup
    }
}

/// Which revision answers at this address; empty for an answer of the proxy itself.
pub async fn revision_at(address: SocketAddr) -> String {
    let mut client = Client::connect(Protocol::H1, address).await.expect("it accepts");
    client.get("/").await.map(|answer| answer.colour().to_owned()).unwrap_or_default()
}

/// Waits until this revision answers at this address.
pub async fn answers_at(address: SocketAddr, hash: &str) {
    patiently(&format!("{hash} to answer at {address}"), async || revision_at(address).await == hash).await;
}

/// Live load, and the flips it has seen.
pub struct Traffic<'a> {
    node: &'a Node,
    load: Load,
    on: String,
    flips: Vec<Flip>,
}

/// Live traffic changed hands.
struct Flip {
    left: String,
    /// Whoever caused it had not begun to.
    asked: Instant,
    /// A request had started on the new pool: from here on none that is sent may go to the old one.
    seen: Instant,
}

impl<'a> Traffic<'a> {
    /// Starts the load once live requests are answered by this revision.
    pub async fn on(node: &'a Node, proxy: &Proxy, hash: &str) -> Self {
        answers_at(proxy.live, hash).await;
        let traffic = Self { node, load: Load::start(proxy.live), on: hash.to_owned(), flips: Vec::new() };
        traffic.goes_on().await;
        traffic
    }

    /// Waits for more requests on the revision that is live.
    pub async fn goes_on(&self) {
        let begun = self.node.begun(&self.on);
        patiently(&format!("load on {}", self.on), async || self.node.begun(&self.on) > begun + 50).await;
    }

    /// Has something done that makes this revision live, and waits until it is.
    pub async fn moves_to<T>(&mut self, hash: &str, cause: impl Future<Output = T>) -> T {
        let (begun, asked) = (self.node.begun(hash), Instant::now());
        let done = cause.await;
        patiently(&format!("live requests on {hash}"), async || self.node.begun(hash) > begun).await;
        let seen = self.node.seen(hash).iter().map(|seen| seen.at).find(|at| *at > asked).expect("it has begun");
        self.flips.push(Flip { left: std::mem::replace(&mut self.on, hash.to_owned()), asked, seen });
        self.goes_on().await;
        done
    }

    /// Stops the load. No request may have failed, and none gone astray.
    pub async fn ends_well(self) -> Report {
        let report = self.load.stop().await;
        report.assert_no_request_failed();
        let until = self.flips.iter().skip(1).map(|flip| flip.asked).chain([Instant::now()]);
        for (n, (Flip { left, seen, .. }, until)) in self.flips.iter().zip(until).enumerate() {
            let astray = report.started_between(&self.node.seen(left), *seen, until);
            assert!(astray.is_empty(), "flip {n}: after the first request on the new pool, on {left}: {astray:?}");
        }
        report
    }
}
