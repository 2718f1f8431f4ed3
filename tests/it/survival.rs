//! What outlives a kill, a signal, a dead endpoint and a bad file: the real binary, and load that goes on.

use std::{collections::HashSet, time::Duration};

use serde_json::json;

use crate::support::{
    admin::Admin,
    backend::Backend,
    client::{Client, Protocol},
    eventually,
    load::{Lane, Load},
    process::Process,
    proxy::Proxy,
    setup::{APP, Setup},
    within,
};

async fn active(admin: &Admin) -> String {
    admin.status(APP).await["active"]["revision"].as_str().expect("a revision").to_owned()
}

/// Makes whichever of the two is not active the candidate, and waits until it is ready.
async fn prepare_candidate(admin: &Admin, one: &Backend, other: &Backend) -> &'static str {
    let candidate = if active(admin).await == one.colour() { other } else { one };
    admin.deploy(APP, candidate.colour(), &[candidate.address()]).await;
    eventually("the candidate to be ready", async || admin.status(APP).await["preview"]["ready"] == 1).await;
    candidate.colour()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_flip_survives_sigkill() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut process = Process::between(&blue, &green).await;
    for _ in 0..4 {
        let candidate = prepare_candidate(&process.admin, &blue, &green).await;
        let generation = process.admin.promote(APP).await["generation"].clone();
        process.start_again().await;
        let state = process.admin.status(APP).await;
        assert_eq!((&state["active"]["revision"], &state["generation"]), (&json!(candidate), &generation), "{state:#}");
        let mut client = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
        assert_eq!(within("an answer", client.get("/")).await.expect("an answer").colour(), candidate);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_leaves_the_state_before_or_the_state_asked_for() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut process = Process::between(&blue, &green).await;
    for round in 0..12 {
        let candidate = prepare_candidate(&process.admin, &blue, &green).await;
        let before = process.admin.status(APP).await;
        let admin = process.admin.clone();
        let asked = tokio::spawn(async move { admin.try_call("POST", "/apps/shop/promote", Some(json!({}))).await });
        // Somewhere in the life of the request: before, while or after it is written and synced.
        let delay = Duration::from_micros(fastrand::u64(0..4000));
        tokio::time::sleep(delay).await;
        process.kill();
        let acknowledged = asked.await.expect("a task").is_ok_and(|(status, _)| status.is_success());
        process.start_again().await;
        let state = process.admin.status(APP).await;
        let found = (&state["active"]["revision"], state["generation"].as_u64());
        let old = (&before["active"]["revision"], before["generation"].as_u64());
        let new = (&json!(candidate), before["generation"].as_u64().map(|generation| generation + 1));
        let told = format!("round {round}, killed after {delay:?}, acknowledged: {acknowledged}\n{state:#}");
        assert!(found == new || (found == old && !acknowledged), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_everybody_finish() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut process = Process::between(&blue, &green).await;
    // A download and an upload are in the middle, and idle connections wait, when the signal comes.
    let mut slow = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    let mut stream = Client::connect(Protocol::H2, process.live).await.expect("it accepts");
    let begun = [slow.get_later("/slow?ms=20&chunks=50"), stream.get_later("/slow?ms=20&chunks=50")];
    eventually("both to begin", async || blue.seen().len() == 2).await;
    let idle = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    let mut ready = Client::connect(Protocol::H1, process.health).await.expect("it accepts");

    process.signal("TERM");
    eventually("/readyz to answer 503", async || {
        within("/readyz", ready.get("/readyz")).await.is_ok_and(|answer| answer.status == 503)
    })
    .await;
    for answer in begun {
        let answer = within("a download", answer).await.expect("a task").expect("it finishes");
        assert_eq!(answer.text(), "a piece\n".repeat(50));
    }
    drop(idle);
    assert!(process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_honour_goodbyes_see_no_error_at_sigterm() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut process = Process::between(&blue, &green).await;
    let load = Load::of(&[Lane::KeepAlive, Lane::H2Streams, Lane::Downloads], process.live);
    load.reached("blue").await;
    process.signal("TERM");
    let ended = process.ended().await;
    let report = load.stop().await;
    assert!(ended.success(), "{ended}");
    // What failed was never taken: nobody accepted the connection any more, or GOAWAY came before the stream was opened.
    let begun: HashSet<_> = blue.seen().into_iter().map(|seen| seen.id).collect();
    for (lane, tally) in &report.lanes {
        let lost: Vec<_> = tally.lost.iter().filter(|id| begun.contains(*id)).collect();
        assert!(lost.is_empty(), "{lane:?} lost {lost:?}\n{report}");
        let refused = |reason: &String| reason.contains("Connection refused") || *lane == Lane::H2Streams;
        assert!(tally.reasons.iter().all(refused), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_an_endpoint_dies_only_what_it_had_begun_to_answer_fails() {
    let (mut dying, lasting, green) = (Backend::spawn("blue"), Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&dying, &green);
    let endpoints = json!([dying.address(), lasting.address()]);
    setup.app()["source"]["static"]["revisions"]["blue"]["endpoints"] = endpoints;
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    // Small answers, each begun and ended in one piece: it is never half-way through one.
    let load = Load::of(&[Lane::KeepAlive, Lane::NewConnections, Lane::H2Streams], proxy.live);
    load.reached("blue").await;
    eventually("load on the one that dies", async || dying.seen().len() > 50).await;
    dying.stop();
    let before = lasting.seen().len();
    eventually("load on the one that lasts", async || lasting.seen().len() > before + 200).await;
    let report = load.stop().await;
    report.assert_no_request_failed();
    eventually("its probes to notice", async || proxy.admin.status(APP).await["active"]["ready"] == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_is_told_and_changes_nothing_and_a_good_one_takes_over() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut process = Process::between(&blue, &green).await;
    let load = Load::of(&Lane::REQUESTS, process.live);
    load.reached("blue").await;

    let good = process.setup().config.clone();
    process.setup().app()["balanse"] = json!({ "policy": "random" });
    process.rewrite();
    let (status, problem) = process.admin.call("POST", "/reload", None).await;
    assert!(status.is_client_error(), "{status}: {problem:#}");
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(detail.contains("balanse") && detail.contains("balance"), "{detail}");
    assert_eq!(active(&process.admin).await, "blue");

    process.setup().config = good;
    let wanted = &mut process.setup().app()["source"]["static"];
    wanted["active"] = json!("green");
    wanted.as_object_mut().expect("a mapping").remove("preview");
    process.rewrite();
    process.signal("HUP");
    load.reached("green").await;
    load.stop().await.assert_no_request_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_closes_no_unrelated_connection_and_rebinds_no_listener() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut process = Process::between(&blue, &green).await;
    let mut kept = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    kept.get("/").await.expect("an answer");
    let mut open = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    let streaming = open.get_later("/slow?ms=20&chunks=40");
    eventually("the stream to begin", async || blue.seen().len() == 2).await;
    process.setup().listener("live")["timeouts"] = json!({ "idle": "60s" });
    process.setup().app()["expose_revision"] = json!(true);
    process.rewrite();
    let (status, answer) = process.admin.call("POST", "/reload", None).await;
    assert!(status.is_success(), "{answer:#}");
    let answer = kept.get("/").await.expect("the same connection still serves");
    assert_eq!(answer.header("x-tealgate-revision"), "blue", "and by the new policy");
    let whole = within("the stream", streaming).await.expect("a task").expect("it goes on");
    assert_eq!(whole.text(), "a piece\n".repeat(40));
}
