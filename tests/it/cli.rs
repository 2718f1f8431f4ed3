//! The command line as people and pipelines use it: the real binary on both sides, judged by exit codes, by what it prints,
//! and by where traffic goes.

use std::{collections::BTreeSet, net::SocketAddr};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    client::{Client, Protocol},
    eventually, full,
    process::Process,
    setup::{APP, Setup},
    shell::{Minted, Shell},
};

/// A shell beside this server's Unix socket.
fn beside(process: &Process) -> Shell {
    Shell::at(format_args!("unix:{}", process.admin.socket.display()))
}

async fn answers(live: SocketAddr) -> String {
    let mut client = Client::connect(Protocol::H1, live).await.expect("it accepts");
    client.get("/").await.expect("an answer").colour().to_owned()
}

async fn ready(process: &Process) -> Shell {
    let shell = beside(process);
    shell.run("wait --for preview-ready --timeout 20s").await.ends_with(0);
    shell
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_carried_out_from_the_first_check_to_the_last_signal_by_the_command_line_alone() {
    let (blue, green, teal) = (Backend::spawn("blue"), Backend::spawn("green"), Backend::spawn("teal"));
    let mut process = Process::between(&blue, &green).await;
    let (shell, live, teal_at) = (beside(&process), process.live, teal.address());
    let file = process.setup().path("tealgate.yaml");
    shell.run(&format!("check -c {}", file.display())).await.ends_with(0).says("ok").says("preview");
    shell.run("status").await.ends_with(0).says("shop").says("blue");
    let mut events = shell.start("events --app shop -o json");
    let first: Value = serde_json::from_str(&events.line().await).expect("JSON");
    assert_eq!(first["active"]["revision"], "blue", "{first:#}");

    let deploy = format!("deploy shop --revision teal --endpoint {teal_at} --label commit=6d4f9c --reason ship-it");
    shell.run(&deploy).await.ends_with(0).says("teal is the candidate, generation 2");
    shell.run("wait shop --for preview-ready --revision teal --timeout 20s").await.ends_with(0).says("teal is ready");
    shell.run("plan shop").await.ends_with(0).says("blue → teal").says("possible");
    assert_eq!((answers(live).await, answers(process.preview).await), ("blue".into(), "teal".into()));
    let promoted = shell.run("promote shop --revision teal --if-generation 2 --wait drained").await.ends_with(0);
    promoted.says("promote shop: blue → teal, generation 3").says("nothing is in flight on a replaced pool");
    assert_eq!(answers(live).await, "teal");
    shell.run("wait --for promoted --revision teal").await.ends_with(0);
    shell.run("wait --for drained").await.ends_with(0);

    shell.run("rollback --reason checkout-is-slow").await.ends_with(0).says("teal → blue, generation 4");
    assert_eq!(answers(live).await, "blue");
    shell.run("abort --reason give-it-up").await.ends_with(0).says("teal dropped, blue stays active");
    shell.run("wait --for steady").await.ends_with(0).says("blue is active, and steady");
    shell.run("status").await.ends_with(0).says("aborted").says("the candidate was dropped");

    // The revision of the file is known still; forgetting the replaced one ends the rollout.
    shell.run("promote --revision green").await.ends_with(0);
    let mut over = shell.start("wait --for steady -o name");
    shell.run("discard --revision blue").await.ends_with(0);
    assert_eq!(over.line().await, APP);

    shell.run("pin --revision green --reason sale --expires 1h").await.ends_with(0);
    shell.run("promote --revision blue").await.ends_with(5).says("pinned to green").says("sale");
    shell.run("rollback --to blue").await.ends_with(5);
    shell.run("unpin").await.ends_with(0);
    shell.run("rollback --to blue").await.ends_with(0);

    let history = shell.run("history --limit 3").await.ends_with(0);
    let actions: Vec<_> = history.out.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(actions, ["rollback", "unpin", "pin"], "{history}");
    shell.run("history").await.ends_with(0).says("ship-it").says("checkout-is-slow").says("give-it-up");
    shell.run("reload").await.ends_with(0);

    let mut told = Vec::new();
    while told.last().is_none_or(|action| action != "unpin") {
        let event: Value = serde_json::from_str(&events.line().await).expect("JSON");
        told.extend(event["receipt"]["action"].as_str().map(str::to_owned));
    }
    assert_eq!(told, ["deploy", "promote", "rollback", "abort", "promote", "discard", "pin", "unpin"]);

    let healthcheck = format!("healthcheck --url http://{}/readyz", process.health);
    shell.run(&healthcheck).await.ends_with(0);
    process.signal("TERM");
    assert_eq!(process.ended().await.code(), Some(0));
    shell.run(&healthcheck).await.ends_with(1);
    shell.run("status").await.ends_with(8).says("is it running?");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_fail_has_its_exit_code_and_leaves_live_traffic_alone() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    green.unhealthy(true);
    let mut setup = Setup::between(&blue, &green);
    setup.app()["promotion"] = json!({ "min_ready": "100%" });
    let process = Process::start(setup).await;
    let shell = beside(&process);
    let table = [
        ("status nobody", 1, "`tealgate status` shows the apps there are"),
        ("promote --revision red", 1, "the candidate of shop is green, not red"),
        ("rollback --to red", 1, "known are: blue, green"),
        ("rollback", 1, "keeps no previous revision"),
        ("discard --revision blue", 1, "carries the live traffic"),
        ("stauts", 2, "'status'"),
        ("deploy --revision red --endpoint localhost", 2, "write IP:PORT"),
        ("deploy --revision red --endpoint 127.0.0.1:1 --endpoint 127.0.0.1:1", 2, "comes twice"),
        ("promote --skip-gates", 2, "--reason"),
        ("pin --revision blue", 2, "--reason"),
        ("pin --revision green --reason r", 2, "not active"),
        ("wait --for promoted --timeout soon", 2, "500ms"),
        ("check -c nowhere.yaml", 2, "nowhere.yaml"),
        ("serve -c nowhere.yaml", 2, "nowhere.yaml"),
        ("--token-file nowhere status", 2, "nowhere"),
        ("promote", 3, "0 of 1 endpoints ready"),
        ("promote --skip-gates --reason hotfix", 3, "0 of 1 endpoints ready"),
        ("rollback --to green", 3, "0 of 1 endpoints ready"),
        ("plan", 3, "refused"),
        ("wait --for preview-ready --timeout 200ms", 4, "did not get there within 0.2 s"),
        ("promote --if-generation 7", 5, "generation 1, not 7"),
        ("rollback --to blue", 5, "active revision of shop already"),
        ("--server unix:nowhere.sock status", 8, "nowhere.sock"),
        ("--server http://127.0.0.1:1 promote", 8, "127.0.0.1:1"),
    ];
    for (line, code, said) in table {
        let done = shell.run(line).await.ends_with(code).says(said);
        assert!(done.err.starts_with("error: ") || line == "plan", "{done}");
    }
    // What is no admin API says so.
    let live = format!("--server http://{} status", process.live);
    shell.run(&live).await.ends_with(1).says("is this a Tealgate admin API?");
    let state = process.admin.status(APP).await;
    assert_eq!((&state["generation"], &state["active"]["revision"]), (&json!(1), &json!("blue")), "{state:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_that_is_rolled_back_while_it_is_waited_for_ends_with_6() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let process = Process::between(&blue, &green).await;
    let shell = ready(&process).await;
    // Something in flight on blue, for the drain to wait for.
    let mut slow = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    let slow = slow.get_later("/hang");
    eventually("it to begin", async || blue.seen().len() == 1).await;

    // An earlier rollback, with another reason, is not to be taken for it.
    shell.run("promote").await.ends_with(0);
    shell.run("rollback --reason rehearsal").await.ends_with(0);

    let waiting = shell.clone();
    let waiting = tokio::spawn(async move { waiting.run("promote --wait drained").await });
    shell.run("wait --for promoted --revision green").await.ends_with(0);
    shell.run("rollback --reason errors-at-checkout").await.ends_with(0);
    let done = waiting.await.expect("a task").ends_with(6);
    done.says("green was active, and blue is now").says("rollback by").says(": errors-at-checkout");
    slow.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_promotions_at_once_exactly_one_ends_with_0() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let process = Process::between(&blue, &green).await;
    let shell = ready(&process).await;
    let promotions = (0..6).map(|_| shell.run("promote shop --revision green"));
    let mut codes: Vec<_> = join_all(promotions).await.into_iter().map(|done| done.code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 5, 5, 5, 5, 5]);
    assert_eq!(process.admin.status(APP).await["generation"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_output_is_read_by_what_it_is_for_and_a_pipe_gets_no_colours() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let process = Process::between(&blue, &green).await;
    let shell = ready(&process).await;
    let file = format!("check -c {}", env!("CARGO_MANIFEST_DIR").to_owned() + "/config/full.yaml");
    let looks = ["status", "status shop", "plan", "promote --dry-run", "history", "version", &file];
    for line in looks {
        let json: Value = shell.run(&format!("{line} -o json")).await.ends_with(0).json();
        let yaml = shell.run(&format!("{line} -o yaml")).await.ends_with(0);
        let yaml: Value = serde_saphyr::from_str(&yaml.out).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
        assert_eq!(shape(&json), shape(&yaml), "{line}");
        let names = shell.run(&format!("{line} -o name")).await.ends_with(0);
        assert!(names.out.lines().all(|name| !name.contains([' ', '"', '{'])), "{names}");
        let text = shell.run(line).await.ends_with(0);
        assert!(!text.out.is_empty() && !text.out.contains(['\x1b', '│']) && text.err.is_empty(), "{text}");
    }
    assert_eq!(shell.run("status -o name").await.out, "shop\n");
    let one: Value = shell.run("status shop -o json").await.json();
    assert_eq!((&one["name"], &one["phase"]), (&json!("shop"), &json!("previewing")));
    let all: Value = shell.run("status -o json").await.json();
    assert_eq!(all[0]["name"], "shop", "{all:#}");
    assert_eq!(one["generation"], 1, "a dry run does nothing");

    let receipt: Value = shell.run("promote --wait drained -o json").await.ends_with(0).json();
    assert_eq!(
        (&receipt["from"], &receipt["to"], &receipt["generation"]),
        (&json!("blue"), &json!("green"), &json!(2))
    );
    assert_eq!(shell.run("history -o name").await.out, "shop@2\n");
}

/// The keys, all the way down: times and counts change between two looks.
fn shape(value: &Value) -> BTreeSet<String> {
    let below = |key: &str, value: &Value| -> Vec<_> {
        shape(value).into_iter().map(|rest| format!("{key}.{rest}")).chain([key.to_owned()]).collect()
    };
    match value {
        Value::Object(members) => members.iter().flat_map(|(key, value)| below(key, value)).collect(),
        Value::Array(items) => items.iter().flat_map(|item| below("[]", item)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => BTreeSet::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_in_a_pipe_is_a_line_for_each_change_and_for_nothing_else() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let process = Process::between(&blue, &green).await;
    let shell = ready(&process).await;
    let mut watch = shell.start("status shop -w");
    let mut lines = vec![watch.line().await];
    for (generation, verb) in [(2, "promote"), (3, "rollback"), (4, "abort")] {
        shell.run(verb).await.ends_with(0);
        let generation = format!(" generation={generation} ");
        while lines.last().is_none_or(|line| !line.contains(&generation)) {
            lines.push(watch.line().await);
        }
    }
    for phase in ["previewing", "promoted", "aborted"] {
        assert!(lines.iter().any(|line| line.starts_with(&format!("shop phase={phase} generation="))), "{lines:#?}");
    }
    assert!(lines.windows(2).all(|two| two[0] != two[1]), "a line without a change: {lines:#?}");
    assert!(!lines.concat().contains('\x1b'), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_made_by_the_command_line_opens_what_its_role_allows_until_it_ends() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let anywhere = Shell::default();
    let vera = anywhere.mint("--name vera --role viewer").await;
    let olaf = anywhere.mint("--name olaf --role operator --app shop --expires 90d").await;
    let mut setup = Setup::between(&blue, &green);
    let address = setup.open_to(&[&vera, &olaf]);
    let mut process = Process::start(setup).await;
    ready(&process).await;

    let stranger = Shell::at(format_args!("http://{address}"));
    stranger.run("status").await.ends_with(7).says("TEALGATE_TOKEN");
    let holder = |minted: &Minted| stranger.with_token(&minted.token);
    holder(&vera).run("status").await.ends_with(0).says("shop");
    holder(&vera).run("promote").await.ends_with(7).says("vera is viewer; to act on an app takes operator");
    holder(&olaf).run("promote --skip-gates --reason hotfix").await.ends_with(7).says("admin");
    holder(&olaf).run("reload").await.ends_with(7);
    holder(&olaf).run("promote").await.ends_with(0).says("blue → green");
    holder(&olaf).run("history").await.ends_with(0).says("olaf");

    // The file is read anew when it changes; a token for a moment works for a moment.
    let eve = anywhere.mint("--name eve --role viewer --expires 2s").await;
    process.setup().write_tokens(&[&olaf, &eve]);
    holder(&eve).run("status").await.ends_with(0);
    holder(&vera).run("status").await.ends_with(7).says("not known");
    let expired = async || {
        let done = holder(&eve).run("status").await;
        done.code == 7 && done.err.contains("expired")
    };
    eventually("the token to end", expired).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_packagers_need_is_printed() {
    let shell = Shell::default();
    shell.run("version").await.ends_with(0).says(concat!("tealgate ", env!("CARGO_PKG_VERSION")));
    shell.run("man").await.ends_with(0).says(".TH tealgate");
    for name in ["bash", "zsh", "fish"] {
        let script = shell.run(&format!("completion {name}")).await.ends_with(0);
        assert!(script.out.contains("tealgate") && script.out.contains("preview-ready"), "{name}");
    }
    shell.run("help promote").await.ends_with(0).says("--if-generation").says("Examples:");
    shell.run("").await.ends_with(2).says("Exit codes:");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_well_when_its_reader_has_had_enough() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let process = Process::between(&blue, &green).await;
    let shell = ready(&process).await;
    // Leaving after a line is what `| head -1` does; what is written next finds nobody.
    for stream in ["events -o json", "status -w"] {
        let mut stream = shell.start(stream);
        stream.line().await;
        let end = stream.leave();
        shell.run("promote --revision green").await.ends_with(0);
        assert!(end.await.success());
        shell.run("rollback").await.ends_with(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_requests_are_held_closed_out_and_copied_by_the_command_line() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["mirror"] = json!({ "share": "100%" });
    let process = Process::start(setup).await;
    let shell = ready(&process).await;

    shell.run("hold shop --max-age 5m --max-requests 10 --max-bytes 64MiB --reason schema").await.ends_with(0);
    shell.run("hold shop").await.ends_with(5).says("held already");
    shell.run("status").await.ends_with(0).says("new requests are held until").says("0 of 10 waiting: schema");
    let waiting = tokio::spawn(answers(process.live));
    eventually("it to be held", async || process.admin.status(APP).await["hold"]["waiting"] == 1).await;
    shell.run("promote shop").await.ends_with(0);
    shell.run("resume shop").await.ends_with(0).says("requests are let in to green");
    assert_eq!(waiting.await.expect("it ends well"), "green");
    shell.run("resume").await.ends_with(1).says("no request of shop is held");
    shell.run("hold --max-bytes much").await.ends_with(2).says("not a size");
    shell.run("hold --max-age 2h").await.ends_with(2).says("1ms to 1h");

    shell.run("rollback").await.ends_with(0);
    shell.run("wait --for steady --timeout 1s").await;
    shell.run("promote --max-age 5s").await.ends_with(2).says("add --hold");
    let promoted = shell.run("promote --revision green --hold --max-age 20s").await.ends_with(0);
    promoted.says("promote shop: blue → green");
    shell.run("rollback").await.ends_with(0);
    let mut client = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    let stuck = client.send(client.request("GET", "/hang").body(full("")).expect("a request"));
    let stuck = tokio::spawn(stuck);
    eventually("it to hang", async || process.admin.status(APP).await["active"]["inFlight"] == 1).await;
    shell.run("promote --hold --max-age 50ms").await.ends_with(1).says("not-drained").says("was not empty");
    stuck.abort();

    shell.run("maintenance shop on --retry-after 2m --reason upgrade").await.ends_with(0).says("maintenance page");
    shell.run("status").await.ends_with(0).says("live traffic gets the maintenance page").says("after 120 s: upgrade");
    let mut client = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    assert_eq!(client.get("/").await.expect("an answer").status, 503);
    shell.run("maintenance off").await.ends_with(0).says("live traffic is served by blue");
    shell.run("maintenance off").await.ends_with(1).says("not under maintenance");
    shell.run("maintenance shop sometimes").await.ends_with(2).says("neither on nor off");

    assert_eq!(client.get("/").await.expect("an answer").colour(), "blue");
    let report = async || -> Value { shell.run("mirror shop -o json").await.ends_with(0).json() };
    eventually("a difference", async || report().await["compared"]["body"].as_u64() > Some(0)).await;
    shell
        .run("mirror")
        .await
        .ends_with(0)
        .says("100 % of live requests")
        .says("live blue, candidate green")
        .says("body:");
}
