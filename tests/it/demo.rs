//! The demo, as a newcomer runs it: it needs nothing, loses nothing, and what it proposes to try works as it is printed.

use std::{net::TcpListener, path::Path};

use crate::support::{admin::Admin, shell::Shell};

const ANYWHERE: &str = "--live 127.0.0.1:0 --preview 127.0.0.1:0 --admin 127.0.0.1:0 --health 127.0.0.1:0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_flips_under_load_and_loses_nothing() {
    let line = format!("demo {ANYWHERE} --for 3s --flip-every 300ms");
    let done = Shell::default().run(&line).await.ends_with(0).says(" 0 failed requests of ");
    assert!(!done.out.contains('\x1b') && done.err.is_empty(), "{done}");
    let summary = done.out.lines().last().expect("a summary");
    let flips: u32 = summary.split(' ').next().and_then(|flips| flips.parse().ok()).expect("a number of flips");
    assert!(flips >= 5, "{done}");
    let answered = |colour: &str| summary.split_once(colour).is_some_and(|(_, rest)| !rest.starts_with(" 0"));
    assert!(answered("blue") && answered("green"), "{done}");
    let progress = done.out.lines().filter(|line| line.starts_with("t=") && line.contains(" failed=0 ")).count();
    assert!(progress >= 2, "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_demo_proposes_works_as_it_is_printed() {
    let mut demo = Shell::default().start(&format!("demo {ANYWHERE}"));
    let mut printed = Vec::new();
    while printed.last().is_none_or(|line: &String| !line.starts_with("ctrl-c")) {
        printed.push(demo.line().await);
    }
    let after = |mark: &str| {
        let rest =
            printed.iter().find_map(|line| line.split_once(mark)).unwrap_or_else(|| panic!("{mark}: {printed:#?}"));
        rest.1.split([' ', '\'']).find(|word| !word.is_empty()).expect("a word").to_owned()
    };
    assert_eq!(Path::new(&after("alias tealgate=")), Path::new(crate::support::process::BINARY));
    let server = after("export TEALGATE_SERVER=");
    let shell = Shell::at(&server);
    let proposed: Vec<_> = printed.iter().filter_map(|line| line.trim().strip_prefix("tealgate ")).collect();
    assert!(proposed.len() >= 4, "{printed:#?}");
    for line in proposed {
        let line = line.split('#').next().expect("a command");
        shell.run(line).await.ends_with(0);
    }
    // With the token, over TCP: there and back is where it began.
    let over_tcp = Shell::at(after("admin     ")).with_token(&after("export TEALGATE_TOKEN="));
    over_tcp.run("promote --wait drained").await.ends_with(0).says("blue → green");
    let admin = Admin { socket: server.strip_prefix("unix:").expect("a socket").into() };
    assert_eq!(admin.status("demo").await["active"]["revision"], "green");

    demo.interrupt();
    let (rest, status) = demo.rest().await;
    assert!(status.success(), "{rest:#?}");
    assert!(rest.last().is_some_and(|summary| summary.starts_with("3 flips, 0 failed requests")), "{rest:#?}");
    assert!(!admin.socket.exists(), "it cleans up after itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_port_is_named_with_the_way_out() {
    let busy = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = busy.local_addr().expect("an address");
    let line = format!("demo {}", ANYWHERE.replacen("127.0.0.1:0", &address.to_string(), 1));
    let done = Shell::default().run(&line).await.ends_with(1);
    done.says(&format!("{address} is in use")).says("tealgate demo --live 127.0.0.1:0");
}
