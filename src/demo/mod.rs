//! `tealgate demo`: the whole product in one process, needing nothing. Two coloured upstreams, the very proxy that `serve`
//! runs between them and a light load, and its admin API for whoever wants to flip. Nothing here has a way of its own into
//! the switch: the demo flips as anybody does, through the API.

mod load;
mod news;
mod screen;
mod setup;
mod upstream;

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use http::Method;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use self::{
    load::{Counts, Load},
    news::News,
    screen::Screen,
    setup::{Door, Home},
    upstream::Upstream,
};
use crate::{
    admin::api::{PromoteRequest, RollbackRequest},
    cli::{Address, BAD, BOLD, Call, Client, DIM, Exit, Failure, GOOD, Output, Signals, duration, start, use_crypto},
    server::{Addresses, Server},
    switch::{AppStatus, Receipt},
    telemetry,
};

/// The demo's app.
const APP: &str = "demo";

/// The admin API's usual TCP address.
const ADMIN: SocketAddr = loopback(7180);

/// How long the endpoints may take to be found healthy.
const WARM_UP: Duration = Duration::from_secs(10);

/// How long the proxy may take to end.
const ENDING: Duration = Duration::from_secs(2);

/// `tealgate demo`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Two revisions of a small web application, blue and green, run in this process, each with two endpoints; nothing is written \
to disk but a temporary directory, which goes at the end. Blue is live, green is the candidate. A load of 50 requests a \
second goes through the live address, and each is counted by the colour that answered. Ends with 1 if any failed.

Examples:
  tealgate demo
  tealgate demo --flip-every 3s
  tealgate demo --flip-every 500ms --for 30s
  tealgate demo --live 127.0.0.1:9080 --preview 127.0.0.1:9081")]
pub struct Options {
    /// Where live traffic goes; port 0 takes any that is free
    #[arg(long, value_name = "IP:PORT", default_value_t = loopback(8080))]
    live: SocketAddr,
    /// Where testers see the candidate
    #[arg(long, value_name = "IP:PORT", default_value_t = loopback(8081))]
    preview: SocketAddr,
    /// Where the admin API is, besides its Unix socket
    #[arg(long, value_name = "IP:PORT", default_value_t = ADMIN)]
    admin: SocketAddr,
    /// Where /livez, /readyz and /metrics are
    #[arg(long, value_name = "IP:PORT", default_value_t = loopback(7181))]
    health: SocketAddr,
    /// Flip by itself, back and forth, this often, e.g. 3s; 100ms or more. Default: you flip
    #[arg(long, value_name = "DURATION", value_parser = pace)]
    flip_every: Option<Duration>,
    /// End after this time, e.g. 10s. Default: when interrupted
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    length: Option<Duration>,
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn pace(given: &str) -> Result<Duration, String> {
    let pace = duration(given)?;
    if pace < Duration::from_millis(100) { Err("use 100ms or more".to_owned()) } else { Ok(pace) }
}

/// Runs the demo until its time is over or it is interrupted.
pub(crate) async fn run(options: Options, output: Output) -> Result<Exit, Failure> {
    use_crypto();
    setup::check_ports(&options)?;
    // From here on there is something to clean up.
    let mut signals = Signals::listen()?;
    let home = Home::make().map_err(|error| cannot("make a temporary directory", error))?;
    let (blue, green) = (endpoints("blue").await?, endpoints("green").await?);
    let door = home.door(&options)?;
    let config = setup::config(&options, &door, &blue, &green)?;
    telemetry::init(&config.log).map_err(|error| cannot("start the log", error))?;
    let server = start(config, None).await?;

    let client = Client::new(Address::Unix(door.socket.clone()), None, WARM_UP);
    let (told, mut news) = watch::channel(News::default());
    let follower = tokio::spawn(news::follow(client.clone(), told));
    tokio::select! {
        () = signals.end() => return Ok(Exit::Done),
        ready = timeout(WARM_UP, news::all_ready(&client)) => {
            ready.map_err(|_| Failure::new(Exit::Failed, "the demo's endpoints were not found healthy in time"))??;
        }
    }

    let live = address(server.addresses(), "live", options.live);
    let mut screen = Screen::new(output);
    screen.news(&invitation(&options, &door, server.addresses()))?;
    let began = Instant::now();
    let load = Load::start(live);
    let flipper = options.flip_every.map(|pace| tokio::spawn(flip_back_and_forth(client, pace)));
    watch_until_end(&options, &mut signals, &mut screen, &load, &mut news, began).await?;

    // The load first, so that what is asked is answered; then who flips; then the proxy.
    let counts = load.stop().await;
    let elapsed = began.elapsed();
    let flipping = end(flipper).await;
    let flips = news.borrow().flips.len();
    screen.clear()?;
    screen.news(&summary(elapsed, &counts, flips, flipping.as_ref().err()))?;
    follower.abort();
    shut_down(server).await;
    Ok(if counts.failed == 0 && flipping.is_ok() { Exit::Done } else { Exit::Failed })
}

/// Shows how it goes, until the time is over or somebody interrupts.
async fn watch_until_end(
    options: &Options,
    signals: &mut Signals,
    screen: &mut Screen,
    load: &Load,
    news: &mut watch::Receiver<News>,
    began: Instant,
) -> Result<(), Failure> {
    let end = async {
        match options.length {
            Some(length) => sleep(length).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let mut ticks = interval(screen.pace());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = 0;
    loop {
        let on_time = tokio::select! {
            () = &mut end => return Ok(()),
            () = signals.end() => return Ok(()),
            changed = news.changed() => {
                if changed.is_err() {
                    return Err(Failure::new(Exit::Failed, "the demo's server has ended"));
                }
                false
            }
            _ = ticks.tick() => true,
        };
        let known = news.borrow_and_update().clone();
        for flip in &known.flips[shown..] {
            screen.news(&flipped(flip))?;
        }
        shown = known.flips.len();
        if on_time || screen.is_live() {
            screen.refresh(began.elapsed(), &load.counts(), &known.roles())?;
        }
    }
}

/// Promotes the candidate if there is one, else rolls back: that goes on for ever.
async fn flip_back_and_forth(client: Client, pace: Duration) -> Result<(), Failure> {
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let status: AppStatus = client.get("cannot see the demo", &format!("/apps/{APP}")).await?;
        let post = |action: &str| Call::new("cannot flip", Method::POST, &format!("/apps/{APP}/{action}"));
        let reason = "tealgate demo --flip-every".to_owned();
        let call = if status.preview.is_some() {
            post("promote").body(&PromoteRequest { reason, ..PromoteRequest::default() })
        } else {
            post("rollback").body(&RollbackRequest { reason, ..RollbackRequest::default() })
        };
        client.call::<Receipt>(call).await?;
    }
}

/// Ends the flipper; an error only if it had ended by itself.
async fn end(flipper: Option<JoinHandle<Result<(), Failure>>>) -> Result<(), Failure> {
    let Some(flipper) = flipper else { return Ok(()) };
    flipper.abort();
    flipper.await.unwrap_or(Ok(()))
}

async fn shut_down(server: Server) {
    // A browser may hold a stream open; nobody waits for that at the end of a demo.
    timeout(ENDING * 2, server.shutdown(ENDING)).await.ok();
}

async fn endpoints(revision: &'static str) -> Result<[Upstream; 2], Failure> {
    let failed = |error| cannot("start an upstream", error);
    Ok([Upstream::spawn(revision).await.map_err(failed)?, Upstream::spawn(revision).await.map_err(failed)?])
}

fn cannot(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("the demo cannot {what}")).detail(error.to_string())
}

/// Where a listener really is: with port 0 the system has chosen.
fn address(addresses: &Addresses, listener: &str, asked: SocketAddr) -> SocketAddr {
    let bound = addresses.listeners.iter().find(|(name, _)| name == listener);
    bound.and_then(|(_, address)| address.parse().ok()).unwrap_or(asked)
}

/// What is where, and what to try next.
fn invitation(options: &Options, door: &Door, addresses: &Addresses) -> String {
    let live = address(addresses, "live", options.live);
    let preview = address(addresses, "preview", options.preview);
    let tcp = addresses.admin.iter().find(|address| address.starts_with("http:")).cloned().unwrap_or_default();
    let (socket, token, health) = (door.socket.display(), &door.token, addresses.health);
    let name_it = alias().map(|exe| format!("\n  alias tealgate='{exe}'")).unwrap_or_default();
    let find_it = if door.is_default { String::new() } else { format!("\n  export TEALGATE_SERVER=unix:{socket}") };
    format!(
        "\
{BOLD}Tealgate demo{BOLD:#}: blue is live, green is the candidate, and a light load runs through the live address.

  live      http://{live}     open it in a browser, and flip
  preview   http://{preview}     the candidate, for testers
  admin     {tcp}     and unix:{socket}
  health    http://{health}     /livez /readyz /metrics

{BOLD}Try in another terminal{BOLD:#}{name_it}{find_it}
  tealgate status {APP}
  tealgate promote {APP} --yes           {DIM}# all live traffic to the candidate, at once{DIM:#}
  tealgate rollback {APP} --yes          {DIM}# and back{DIM:#}
  tealgate history {APP}
  curl http://{live}/api

{BOLD}Or with curl alone{BOLD:#}
  curl --unix-socket {socket} http://localhost/api/v1/apps/{APP}
  export TEALGATE_TOKEN={token}
  curl -X POST -H \"Authorization: Bearer $TEALGATE_TOKEN\" -H 'Content-Type: application/json' -d '{{}}' \\
    {tcp}/api/v1/apps/{APP}/promote

ctrl-c ends it.
"
    )
}

/// This program's file, if a shell would not find it by its name.
fn alias() -> Option<String> {
    let exe = env::current_exe().ok()?;
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|directory| directory.join("tealgate")).find(|file| file.is_file());
    let is_this = |file: PathBuf| file.canonicalize().ok() == exe.canonicalize().ok();
    (!found.is_some_and(is_this)).then(|| exe.display().to_string())
}

fn flipped(flip: &Receipt) -> String {
    let (action, generation, by) = (flip.action.as_str(), flip.generation, &flip.by);
    let (from, to) = (flip.from.as_deref().unwrap_or("-"), flip.to.as_deref().unwrap_or("-"));
    let (micros, in_flight) = (flip.barrier_micros, flip.in_flight_on_old);
    format!(
        "{BOLD}{action}{BOLD:#}: {from} → {to}, generation {generation}, by {by}; every worker had it after {micros} µs, \
         {in_flight} in flight on {from}"
    )
}

fn summary(elapsed: Duration, counts: &Counts, flips: usize, flipping: Option<&Failure>) -> String {
    let Counts { blue, green, failed, .. } = counts;
    let style = if *failed == 0 { GOOD } else { BAD };
    let (seconds, total, slowest) = (elapsed.as_secs_f64(), counts.total(), counts.slowest.as_secs_f64() * 1000.0);
    let mut text = format!(
        "{BOLD}{flips} flips{BOLD:#}, {style}{failed} failed requests{style:#} of {total} in {seconds:.1} s \
         (blue {blue}, green {green}; slowest {slowest:.1} ms)"
    );
    if let Some(first) = &counts.first_failure {
        text += &format!("\nthe first failure: {first}");
    }
    if let Some(failure) = flipping {
        text += &format!("\nthe flipping stopped: {failure}");
    }
    text
}
