//! The smallest fair proxy on Pingora: two upstreams in turn, kept connections, `X-Forwarded-For` added, over HTTP/1.1 and TLS to
//! HTTP/1.1 upstreams, and over h2c to h2c upstreams.
//!
//! `compare-pingora WORKERS PORT TLS_PORT H2C_PORT DIRECTORY UPSTREAM UPSTREAM H2_UPSTREAM H2_UPSTREAM`, all of them ports but the directory,
//! which holds `tls.crt` and `tls.key`.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use pingora::{
    Result,
    apps::HttpServerOptions,
    http::RequestHeader,
    listeners::tls::TlsSettings,
    protocols::ALPN,
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};

struct InTurn {
    peers: [HttpPeer; 2],
    turn: AtomicUsize,
}

impl InTurn {
    fn new(ports: &[String], alpn: ALPN) -> Self {
        let peer = |port: &String| {
            let mut peer = HttpPeer::new(format!("127.0.0.1:{port}"), false, String::new());
            peer.options.alpn = alpn.clone();
            peer
        };
        Self { peers: [peer(&ports[0]), peer(&ports[1])], turn: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl ProxyHttp for InTurn {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.peers[self.turn.fetch_add(1, Ordering::Relaxed) % 2].clone()))
    }

    async fn upstream_request_filter(&self, session: &mut Session, request: &mut RequestHeader, _: &mut ()) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            request.insert_header("X-Forwarded-For", client.ip().to_string())?;
        }
        Ok(())
    }
}

fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if given.first().is_some_and(|first| first == "--version") {
        println!("pingora 0.9.1");
        return;
    }
    let [workers, port, tls_port, h2c_port, directory, upstreams @ ..] = given.as_slice() else {
        panic!("see the top of main.rs for the arguments");
    };
    let threads = workers.parse().expect("a number of workers");
    let conf = ServerConf { threads, upstream_keepalive_pool_size: 256, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();

    let mut live = http_proxy_service(&server.configuration, InTurn::new(&upstreams[..2], ALPN::H1));
    live.add_tcp(&format!("127.0.0.1:{port}"));
    let mut tls = TlsSettings::intermediate(&format!("{directory}/tls.crt"), &format!("{directory}/tls.key")).expect("a certificate");
    tls.enable_h2();
    live.add_tls_with_settings(&format!("127.0.0.1:{tls_port}"), None, tls);
    server.add_service(live);

    let mut grpc = http_proxy_service(&server.configuration, InTurn::new(&upstreams[2..4], ALPN::H2));
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    grpc.app_logic_mut().expect("it was just made").server_options = Some(options);
    grpc.add_tcp(&format!("127.0.0.1:{h2c_port}"));
    server.add_service(grpc);

    server.run_forever();
}
