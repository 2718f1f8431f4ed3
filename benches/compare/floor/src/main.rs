//! The least that a proxy on sockets can cost: octets from a client's connection to an upstream's of its own and back, by two
//! reads and two writes a request, and by nothing else. It understands nothing of what it passes, and so is no proxy to
//! use; what another costs beyond it is what that one does itself, and what it costs is the kernel's.
//!
//! `compare-floor WORKERS PORT UPSTREAM UPSTREAM`, all but the first of them ports.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    thread,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use socket2::{Domain, Socket, Type};

/// What one read may take: a body of 16 KiB with its head, and room to spare.
const ROOM: usize = 64 * 1024;
const LISTENER: Token = Token(0);

/// A worker's connections: a client's at every odd token, and its upstream's behind it.
struct Worker {
    poll: Poll,
    listener: TcpListener,
    upstreams: [SocketAddr; 2],
    connections: Vec<Option<TcpStream>>,
    free: Vec<usize>,
    taken: usize,
    octets: Vec<u8>,
}

fn main() -> io::Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if given.first().is_some_and(|first| first == "--version") {
        println!("floor: octets passed, nothing read");
        return Ok(());
    }
    let number = |at: usize| given.get(at).and_then(|text| text.parse::<u16>().ok()).ok_or(ErrorKind::InvalidInput);
    let local = |at| io::Result::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, number(at)?)));
    let (listen, upstreams) = (local(1)?, [local(2)?, local(3)?]);
    let workers: Vec<_> = (0..number(0)?)
        .map(|_| Worker::new(listen, upstreams).map(|worker| thread::spawn(|| worker.run())))
        .collect::<io::Result<_>>()?;
    workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())))
}

impl Worker {
    fn new(listen: SocketAddr, upstreams: [SocketAddr; 2]) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&listen.into())?;
        socket.listen(4096)?;
        let (poll, mut listener) = (Poll::new()?, TcpListener::from_std(socket.into()));
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let octets = vec![0; ROOM];
        Ok(Self { poll, listener, upstreams, connections: vec![None], free: Vec::new(), taken: 0, octets })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(at) if self.pass(at).is_err() => self.close(at),
                    Token(_) => {}
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let client = match self.listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.taken += 1;
            // Made at once: it is on loopback.
            let upstream = std::net::TcpStream::connect(self.upstreams[self.taken % 2])?;
            upstream.set_nonblocking(true)?;
            let at = self.free.pop().unwrap_or_else(|| {
                self.connections.extend([None, None]);
                self.connections.len() - 2
            });
            for (at, mut stream) in [(at, client), (at + 1, TcpStream::from_std(upstream))] {
                stream.set_nodelay(true)?;
                self.poll.registry().register(&mut stream, Token(at), Interest::READABLE)?;
                self.connections[at] = Some(stream);
            }
        }
    }

    /// Passes on what has come; it fails if either side has ended or does not take it all. A short read has emptied the socket.
    fn pass(&mut self, at: usize) -> io::Result<()> {
        let Some(from) = &mut self.connections[at] else { return Ok(()) };
        let octets = match from.read(&mut self.octets) {
            Ok(octets @ 1..ROOM) => octets,
            Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        match &mut self.connections[other(at)] {
            Some(to) => to.write_all(&self.octets[..octets]),
            None => Ok(()),
        }
    }

    fn close(&mut self, at: usize) {
        for at in [at, other(at)] {
            self.connections[at] = None;
        }
        self.free.push(at.min(other(at)));
    }
}

fn other(at: usize) -> usize {
    if at % 2 == 1 { at + 1 } else { at - 1 }
}
