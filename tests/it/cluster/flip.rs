//! Time to flip: from the API server's answer to a patch of the active Service until the first request is answered by the
//! pool it now selects, through Tealgate, which watches the Service itself, and in turns through Traefik's Ingress
//! provider, which waits for the slices that a controller makes of it. Figures are printed and never judged; for those worth
//! telling, `TEALGATE_PROFILE=quick tests/cluster/run cluster::flip` on a machine that does nothing else.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::Notify};

use super::{
    bed::{Bed, NAMESPACE, Shop},
    follower::answers_at,
    in_good_time, patiently,
    program::{Program, installed},
};
use crate::support::{
    client::{Client, Protocol},
    proxy::Proxy,
    setup::free,
};

/// So many flips are measured through each.
const FLIPS: usize = 60;
/// So many requests must follow the first on the new pool, and none of them go back.
const FOLLOWING: usize = 20;

/// One of those that are measured.
struct Contender {
    name: &'static str,
    address: SocketAddr,
    /// Milliseconds, one for each flip; less than none where a request arrived before the API server had answered.
    took: Vec<f64>,
    asked: usize,
    failed: usize,
    /// Requests on the old pool after the first on the new one.
    astray: usize,
}

/// What requests back to back on one connection have seen of a flip.
struct Watched {
    arrived: Instant,
    asked: usize,
    failed: usize,
    astray: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_flip_arrives_and_loses_nothing_however_often_the_service_is_patched() {
    let mut bed = Bed::start().await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    // From here on nobody but this test patches the Service.
    bed.argo.kill();

    let proxy = Proxy::start(bed.following().await).await;
    let mut contenders = vec![Contender::new("tealgate", proxy.live)];
    let traefik = start_traefik(&bed).await;
    contenders.extend(traefik.as_ref().map(|(_, address)| Contender::new("traefik", *address)));
    for contender in &contenders {
        answers_at(contender.address, &v1).await;
    }
    answers_at(proxy.preview, &v2).await;

    for n in 0..FLIPS * contenders.len() {
        let to = if n % 2 == 0 { &v2 } else { &v1 };
        // Each is asked at both kinds of flips, there and back.
        let turn = n / 2 % contenders.len();
        let contender = &mut contenders[turn];
        let begun = Arc::new(Notify::new());
        let watching = tokio::spawn(watch(contender.address, to.clone(), Arc::clone(&begun)));
        begun.notified().await;
        shop.point("shop-active", to).await;
        let answered = Instant::now();
        let what = format!("flip {n} to arrive through {}", contender.name);
        contender.add(in_good_time(&what, watching).await.expect("a watch that ends"), answered);
        for contender in &contenders {
            answers_at(contender.address, to).await;
        }
    }

    let build = if cfg!(debug_assertions) { "a DEBUG build of Tealgate" } else { "an optimised build" };
    println!("time to flip, ms from the API server's answer to the first answer of the new pool; {build}");
    println!(
        "{:<10}{:>7}{:>9}{:>9}{:>9}{:>10}{:>8}{:>8}",
        "", "flips", "p50", "p99", "max", "requests", "failed", "astray"
    );
    contenders.iter_mut().for_each(Contender::print);
    let tealgate = &contenders[0];
    assert_eq!((tealgate.took.len(), tealgate.failed, tealgate.astray), (FLIPS, 0, 0));
}

impl Contender {
    fn new(name: &'static str, address: SocketAddr) -> Self {
        Self { name, address, took: Vec::new(), asked: 0, failed: 0, astray: 0 }
    }

    fn add(&mut self, watched: Watched, answered: Instant) {
        let after = watched.arrived.saturating_duration_since(answered).as_secs_f64();
        let before = answered.saturating_duration_since(watched.arrived).as_secs_f64();
        self.took.push((after - before) * 1e3);
        self.asked += watched.asked;
        self.failed += watched.failed;
        self.astray += watched.astray;
    }

    fn print(&mut self) {
        self.took.sort_by(f64::total_cmp);
        let Self { name, took, asked, failed, astray, .. } = self;
        let at = |share: usize| took[(took.len() * share).div_ceil(100).saturating_sub(1)];
        let (flips, p50, p99, max) = (took.len(), at(50), at(99), at(100));
        println!("{name:<10}{flips:>7}{p50:>9.1}{p99:>9.1}{max:>9.1}{asked:>10}{failed:>8}{astray:>8}");
    }
}

/// Asks back to back until this revision answers, and some more; `begun` hears once the first has been answered.
async fn watch(address: SocketAddr, to: String, begun: Arc<Notify>) -> Watched {
    let mut client = Client::connect(Protocol::H1, address).await.expect("it accepts");
    let (mut arrived, mut asked, mut failed, mut astray, mut following) = (None, 0, 0, 0, 0);
    loop {
        let answer = client.get("/").await;
        asked += 1;
        begun.notify_one();
        match (&answer, arrived) {
            (Ok(answer), None) if answer.colour() == to => arrived = Some(Instant::now()),
            (Ok(answer), Some(_)) if answer.status == StatusCode::OK && answer.colour() != to => astray += 1,
            (Ok(answer), _) if answer.status == StatusCode::OK => {}
            (Ok(_), _) => failed += 1,
            (Err(_), _) => {
                failed += 1;
                client = Client::connect(Protocol::H1, address).await.expect("it accepts");
            }
        }
        if let Some(arrived) = arrived {
            following += 1;
            if following > FOLLOWING {
                return Watched { arrived, asked, failed, astray };
            }
        }
    }
}

/// Traefik before the active Service, by its Ingress provider and without the two seconds that it else lets pass between
/// two changes; `None` where no wheel of it is to be had.
async fn start_traefik(bed: &Bed) -> Option<(Program, SocketAddr)> {
    if !installed("traefik").exists() {
        return None;
    }
    let rbac = "rbac.authorization.k8s.io";
    bed.account_with("traefik", json!([])).await;
    bed.apply(json!({
        "apiVersion": format!("{rbac}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "traefik" },
        "roleRef": { "apiGroup": rbac, "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "name": "traefik", "namespace": NAMESPACE }],
    }))
    .await;
    let backend = json!({ "service": { "name": "shop-active", "port": { "number": 80 } } });
    bed.apply(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": { "name": "shop", "namespace": NAMESPACE },
        "spec": { "rules": [{ "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] } }] },
    }))
    .await;
    let admin = fs::read(&bed.plane.admin_config).expect("a file");
    let admin: Value = serde_json::from_slice(&admin).expect("JSON");
    let cluster = &admin["clusters"][0]["cluster"];
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let token = bed.plane.token(NAMESPACE, "traefik", Duration::from_secs(3600)).await;
    let address = free();
    let args = [
        format!("--entrypoints.web.address={address}"),
        "--providers.providersthrottleduration=1ms".to_owned(),
        "--providers.kubernetesingress=true".to_owned(),
        format!("--providers.kubernetesingress.endpoint={}", text(&cluster["server"])),
        format!("--providers.kubernetesingress.certauthfilepath={}", text(&cluster["certificate-authority"])),
        format!("--providers.kubernetesingress.token={token}"),
        "--global.checknewversion=false".to_owned(),
        "--global.sendanonymoususage=false".to_owned(),
        "--log.level=WARN".to_owned(),
    ];
    let traefik = Program::start("traefik", &bed.plane.path(""), &args);
    patiently("traefik to listen", async || TcpStream::connect(address).await.is_ok()).await;
    Some((traefik, address))
}
