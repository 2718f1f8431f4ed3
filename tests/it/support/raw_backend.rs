//! An upstream without manners: it sends the very octets it was given, whatever they mean, and keeps the octets it received.
//! For what a well-behaved HTTP library would refuse to send.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use socket2::SockRef;

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
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("an address");
        let received = Arc::default();
        let (answer, heads) = (Arc::new(answer.into()), Arc::clone(&received));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, heads) = (Arc::clone(&answer), Arc::clone(&heads));
                thread::spawn(move || serve(stream, &answer, then, &heads));
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

fn serve(mut stream: TcpStream, answer: &[u8], then: Then, heads: &Mutex<Vec<Vec<u8>>>) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok();
    while let Some(head) = read_head(&mut stream) {
        heads.lock().unwrap().push(head);
        if stream.write_all(answer).is_err() {
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
