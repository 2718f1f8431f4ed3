//! Plays kubelet for all Pods there are: gives each an address of the namespace that the suite runs in and a real upstream
//! there, says of it in the API what a kubelet would, and lets it serve on for a while once it is to be deleted. What it
//! does with the Pods of an image can be changed at any time.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
    runtime::watcher::{self, Event},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::HASH;
use crate::support::backend::{Backend, Seen};

/// What upstreams say of themselves beside [`COLOUR`](crate::support::COLOUR), which here is the hash.
pub const POD: &str = "x-pod";
/// The node's own address.
const NODE: &str = "10.77.0.1";
/// The image of the first container.
pub const IMAGE: &str = "x-image";

/// What becomes of the Pods of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conduct {
    /// They are ready as soon as they run and as the gates they name allow.
    #[default]
    Serve,
    /// They run, and answer, and are not ready.
    NeverReady,
    /// They end as soon as they have begun: nothing listens at their address.
    Crash,
}

/// The one node.
pub struct Node {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    pods: Api<Pod>,
    client: Client,
    tenants: Mutex<BTreeMap<String, Tenant>>,
    conduct: Mutex<BTreeMap<String, Conduct>>,
    grace: Mutex<Duration>,
    given: AtomicU32,
    /// Addresses that lead nowhere.
    cut_off: Mutex<Vec<IpAddr>>,
}

/// A Pod that has been here, under its UID.
struct Tenant {
    name: String,
    hash: &'static str,
    addresses: Vec<IpAddr>,
    upstreams: Vec<Backend>,
    /// Its process has died, and is not started again.
    dead: bool,
    /// It is to be deleted, and serves on for the while of its grace.
    leaving: bool,
}

impl Node {
    /// Starts to care for every Pod that the API knows.
    pub fn start(client: Client) -> Self {
        let shared = Arc::new(Shared {
            pods: Api::all(client.clone()),
            client,
            tenants: Mutex::default(),
            conduct: Mutex::default(),
            grace: Mutex::new(Duration::from_secs(2)),
            given: AtomicU32::new(0),
            cut_off: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(Arc::clone(&shared)));
        Self { shared, _tasks: tasks }
    }

    /// Says what becomes of the Pods of this image, those that are there and those to come.
    pub async fn conduct(&self, image: &str, conduct: Conduct) {
        lock(&self.shared.conduct).insert(image.to_owned(), conduct);
        let pods = self.shared.pods.list(&kube::api::ListParams::default()).await.expect("pods");
        for pod in pods.items.iter().filter(|pod| self::image(pod) == image) {
            care(&self.shared, pod).await;
        }
    }

    /// How long a Pod serves on once it is to be deleted, if its own grace is not shorter; 2 s unless said otherwise.
    pub fn grace(&self, grace: Duration) {
        *lock(&self.shared.grace) = grace;
    }

    /// Whether Pods have addresses of IPv6 here.
    pub fn speaks_v6(&self) -> bool {
        self.shared.addresses().iter().any(IpAddr::is_ipv6)
    }

    /// The process in this Pod dies and stays dead, and the API is told nothing.
    pub fn kill(&self, pod: &str) {
        self.each(|tenant| {
            if tenant.name == pod {
                tenant.end();
            }
        });
    }

    /// Its address leads nowhere from now on: what is sent there is gone without a word, as if the machine below it had lost
    /// its power.
    pub fn cut_off(&self, pod: &str) {
        let mut addresses = Vec::new();
        self.each(|tenant| {
            if tenant.name == pod {
                addresses.extend(tenant.addresses.iter().filter(|address| address.is_ipv4()).copied());
            }
        });
        addresses.iter().for_each(|address| lead(*address, "add"));
        lock(&self.shared.cut_off).append(&mut addresses);
    }

    /// All requests that have started on this Pod, in order.
    pub fn seen_by(&self, pod: &str) -> Vec<Seen> {
        let mut seen = Vec::new();
        self.each(|tenant| {
            if tenant.name == pod {
                seen.extend(tenant.upstreams.iter().flat_map(Backend::seen));
            }
        });
        seen
    }

    /// All requests that have started on Pods of this hash, dead ones too, in order.
    pub fn seen(&self, hash: &str) -> Vec<Seen> {
        let mut seen = Vec::new();
        self.each(|tenant| {
            if tenant.hash == hash {
                seen.extend(tenant.upstreams.iter().flat_map(Backend::seen));
            }
        });
        seen.sort_by_key(|seen| seen.at);
        seen
    }

    /// How many requests Pods of this hash have begun, dead ones too.
    pub fn begun(&self, hash: &str) -> usize {
        let mut begun = 0;
        self.each(|tenant| {
            if tenant.hash == hash {
                begun += tenant.upstreams.iter().map(Backend::begun).sum::<usize>();
            }
        });
        begun
    }

    fn each(&self, see: impl FnMut(&mut Tenant)) {
        lock(&self.shared.tenants).values_mut().for_each(see);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The next node gives out the same ones.
        lock(&self.shared.cut_off).drain(..).for_each(|address| lead(address, "del"));
    }
}

/// Leads an address into the hole that tests/cluster/run has dug, or back.
fn lead(address: IpAddr, change: &str) {
    let route = format!("route {change} {address}/32 dev hole src {NODE} table local");
    let done = std::process::Command::new("ip").args(route.split(' ')).status().expect("ip runs");
    assert!(done.success(), "ip {route}: {done}");
}

async fn follow(shared: Arc<Shared>) {
    let mut events = watcher::watcher(shared.pods.clone(), watcher::Config::default()).boxed();
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod)) => care(&shared, &pod).await,
            Ok(Event::InitApply(pod)) => {
                listed.extend(pod.uid());
                care(&shared, &pod).await;
            }
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitDone) => {
                let gone = |uid: &String| !listed.contains(uid);
                let gone: Vec<_> = lock(&shared.tenants).keys().filter(|uid| gone(uid)).cloned().collect();
                gone.iter().for_each(|uid| shared.evict(uid));
            }
            Ok(Event::Delete(pod)) => shared.evict(&pod.uid().unwrap_or_default()),
            // The API server is away, and will be back.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Brings a Pod one step on; what this writes comes back as an event, and leads to the next.
async fn care(shared: &Arc<Shared>, pod: &Pod) {
    while let Err(e) = shared.step(pod).await {
        if let kube::Error::Api(status) = &e {
            // Somebody else was faster, and his event is on its way.
            if [404, 409].contains(&status.code) {
                return;
            }
            eprintln!("the node: {}: {e}", pod.name_any());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Shared {
    async fn step(self: &Arc<Self>, pod: &Pod) -> kube::Result<()> {
        let name = pod.name_any();
        let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        if pod.metadata.deletion_timestamp.is_some() {
            self.take_leave(pod, pods);
            return Ok(());
        }
        if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) {
            let target = ObjectReference { kind: Some("Node".into()), name: Some("node".into()), ..Default::default() };
            let metadata = ObjectMeta { name: Some(name.clone()), ..Default::default() };
            let binding = Binding { metadata, target };
            let create = PostParams::default();
            pods.create_subresource::<_, Value>("binding", &name, &create, &binding).await?;
            return Ok(());
        }
        let conduct = lock(&self.conduct).get(image(pod)).copied().unwrap_or_default();
        let addresses = self.house(pod, conduct);
        let (status, now) = (status(pod, &addresses, conduct), serde_json::to_value(&pod.status).expect("JSON"));
        if !holds(&now, &status) {
            pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(json!({ "status": status }))).await?;
        }
        Ok(())
    }

    /// Sees to it that the Pod's upstreams run or do not, and answers its addresses.
    fn house(&self, pod: &Pod, conduct: Conduct) -> Vec<IpAddr> {
        let mut tenants = lock(&self.tenants);
        let tenant = tenants.entry(pod.uid().unwrap_or_default()).or_insert_with(|| Tenant {
            name: pod.name_any(),
            // There are few of them, and upstreams want theirs for as long as they like.
            hash: revision(pod).to_owned().leak(),
            addresses: self.addresses(),
            upstreams: Vec::new(),
            dead: false,
            leaving: false,
        });
        if tenant.upstreams.is_empty() && conduct != Conduct::Crash {
            let mut marks = HeaderMap::new();
            marks.extend([(POD, tenant.name.as_str()), (IMAGE, image(pod))].map(|(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_str(value).expect("a field value"))
            }));
            let at = |address: &IpAddr| ports(pod).map(|port| SocketAddr::new(*address, port)).collect::<Vec<_>>();
            let places: Vec<_> = tenant.addresses.iter().flat_map(at).collect();
            tenant.upstreams = places.iter().map(|place| Backend::at(*place, tenant.hash, marks.clone())).collect();
        }
        for upstream in &mut tenant.upstreams {
            match (conduct == Conduct::Crash || tenant.dead, upstream.runs()) {
                (true, true) => upstream.stop(),
                (false, false) => upstream.start(),
                (true, false) | (false, true) => {}
            }
        }
        tenant.addresses.clone()
    }

    /// The next address that nobody has had, of IPv6 too where the namespace has any.
    fn addresses(&self) -> Vec<IpAddr> {
        let [_, upper, middle, lower] = (self.given.fetch_add(1, Relaxed) + 256).to_be_bytes();
        assert_eq!(upper, 0, "no address is left");
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, middle.into(), lower.into());
        let both = [IpAddr::from(Ipv4Addr::new(10, 77, middle, lower)), v6.into()];
        both.into_iter().filter(|address| std::net::TcpListener::bind((*address, 0)).is_ok()).collect()
    }

    /// Serves on for the grace, then ends the Pod, in the API too.
    fn take_leave(self: &Arc<Self>, pod: &Pod, pods: Api<Pod>) {
        let uid = pod.uid().unwrap_or_default();
        let leaving = lock(&self.tenants).get_mut(&uid).map(|tenant| std::mem::replace(&mut tenant.leaving, true));
        if leaving == Some(true) {
            return;
        }
        let asked = pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let most = Duration::from_secs(asked.unwrap_or_default());
        let grace = if leaving.is_some() { most.min(*lock(&self.grace)) } else { Duration::ZERO };
        let (shared, name) = (Arc::clone(self), pod.name_any());
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            shared.evict(&uid);
            let precisely = Preconditions { uid: Some(uid), ..Default::default() };
            let delete = DeleteParams::default().grace_period(0).preconditions(precisely);
            while let Err(e) = pods.delete(&name, &delete).await {
                if matches!(&e, kube::Error::Api(status) if [404, 409].contains(&status.code)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }

    /// Its processes end; what they have seen is kept.
    fn evict(&self, uid: &str) {
        if let Some(tenant) = lock(&self.tenants).get_mut(uid) {
            tenant.end();
        }
    }
}

impl Tenant {
    fn end(&mut self) {
        self.dead = true;
        self.upstreams.iter_mut().for_each(Backend::stop);
    }
}

/// What a kubelet says of a Pod that conducts itself so.
fn status(pod: &Pod, addresses: &[IpAddr], conduct: Conduct) -> Value {
    let since = pod.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    let now: Vec<_> = pod.status.iter().flat_map(|status| status.conditions.iter().flatten()).collect();
    let is = |kind: &str, holds: &str| now.iter().any(|it| it.type_ == kind && it.status == holds);
    let spec = pod.spec.as_ref().expect("a spec");
    let serves = conduct == Conduct::Serve;
    let ready = serves && spec.readiness_gates.iter().flatten().all(|gate| is(&gate.condition_type, "True"));
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        let mut condition = json!({ "type": kind, "status": status });
        if !is(kind, status) {
            condition["lastTransitionTime"] = json!(jiff::Timestamp::now().to_string());
        }
        condition
    };
    let containers = spec.containers.iter().map(|container| {
        let state = match conduct {
            Conduct::Crash => json!({ "waiting": { "reason": "CrashLoopBackOff" } }),
            Conduct::Serve | Conduct::NeverReady => json!({ "running": { "startedAt": since } }),
        };
        json!({
            "name": container.name, "image": container.image, "imageID": "", "ready": serves, "started": true,
            "restartCount": if conduct == Conduct::Crash { 3 } else { 0 }, "state": state,
        })
    });
    json!({
        "phase": "Running",
        "startTime": since,
        "hostIP": NODE,
        "podIP": addresses[0].to_string(),
        "podIPs": addresses.iter().map(|address| json!({ "ip": address.to_string() })).collect::<Vec<_>>(),
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", serves),
            condition("Ready", ready),
        ],
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}

/// Whether all that `wanted` says is so already; entries of lists are told by their type or their name.
fn holds(now: &Value, wanted: &Value) -> bool {
    match (now, wanted) {
        (Value::Object(now), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| now.get(key).is_some_and(|now| holds(now, wanted)))
        }
        (Value::Array(now), Value::Array(wanted)) => wanted.iter().all(|wanted| {
            let same = |now: &&Value| ["type", "name", "ip"].iter().all(|key| now.get(key) == wanted.get(key));
            now.iter().find(same).is_some_and(|now| holds(now, wanted))
        }),
        _ => now == wanted,
    }
}

/// The hash, or what else tells revisions apart where there are no Rollouts.
fn revision(pod: &Pod) -> &str {
    [HASH, "version"].iter().find_map(|label| pod.labels().get(*label)).map_or("", String::as_str)
}

/// The image of the first container.
fn image(pod: &Pod) -> &str {
    let first = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    first.and_then(|container| container.image.as_deref()).unwrap_or_default()
}

/// Every port that a container names, once.
fn ports(pod: &Pod) -> impl Iterator<Item = u16> + '_ {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let named = containers.flat_map(|container| container.ports.iter().flatten());
    let distinct: std::collections::BTreeSet<_> =
        named.filter_map(|port| u16::try_from(port.container_port).ok()).collect();
    distinct.into_iter()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
