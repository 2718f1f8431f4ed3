//! Upstreams without manners. One sends the very octets it was given, whatever they mean, and keeps the octets it received:
//! for what a well-behaved HTTP library would refuse to send. The other is played by the test itself.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use socket2::SockRef;
use tokio::io::AsyncReadExt;

use super::{client::Raw, within};

/// A running scripted upstream. It serves until the process ends; connections idle for 20 s are closed.
pub struct RawBackend {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// What becomes of the connection once the answer is sent.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// It waits for the next request head.
    Keep,
    /// It is closed in good order.
    Close,
    /// It is reset.
    Reset,
}

impl RawBackend {
    /// Answers every request head with these octets.
    pub fn spawn(answer: impl Into<Vec<u8>>, then: Then) -> Self {
        let answer = answer.into();
        Self::script(move |_| (answer.clone(), then))
    }

    /// Answers each request head as the script says.
    pub fn script(script: impl Fn(&str) -> (Vec<u8>, Then) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("an address");
        let received = Arc::default();
        let (script, heads) = (Arc::new(script), Arc::clone(&received));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, heads) = (Arc::clone(&script), Arc::clone(&heads));
                thread::spawn(move || serve(stream, &*script, &heads));
            }
        });
        Self { address, received }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came so far: one entry for each request head, with what of its body came in the same read.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, script: &dyn Fn(&str) -> (Vec<u8>, Then), heads: &Mutex<Vec<Vec<u8>>>) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok();
    while let Some(head) = read_head(&mut stream) {
        let (answer, then) = script(&String::from_utf8_lossy(&head));
        heads.lock().unwrap().push(head);
        if stream.write_all(&answer).is_err() {
            return;
        }
        match then {
            Then::Keep => {}
            Then::Close => _ = stream.shutdown(Shutdown::Write),
            Then::Reset => {
                // A close with no lingering is a reset.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
                return;
            }
        }
    }
}

fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while !head.windows(4).any(|octets| octets == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(octets) => head.extend_from_slice(&buffer[..octets]),
        }
    }
    Some(head)
}

/// An upstream that does nothing but what the test makes it do.
pub struct ByHand {
    listener: tokio::net::TcpListener,
}

impl ByHand {
    pub async fn listen() -> Self {
        Self { listener: tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port") }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    /// The next connection that has something to say: probes connect and leave.
    pub async fn accept(&self) -> Raw {
        within("a connection at the upstream", async {
            loop {
                let (stream, _) = self.listener.accept().await.expect("a connection");
                if matches!(stream.peek(&mut [0]).await, Ok(1)) {
                    return Raw { stream };
                }
            }
        })
        .await
    }

    /// The next connection, and the head of the first request on it.
    pub async fn request(&self) -> (Raw, String) {
        let mut raw = self.accept().await;
        let head = raw.read_head().await;
        (raw, head)
    }
}

/// Waits until the other side closes or resets, whatever it sends before.
pub async fn closed(raw: &mut Raw) {
    let mut buffer = [0; 4096];
    within("the connection to be closed", async { while matches!(raw.stream.read(&mut buffer).await, Ok(1..)) {} })
        .await;
}
