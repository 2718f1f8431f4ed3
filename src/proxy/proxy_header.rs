//! The PROXY header that a load balancer writes before all else (versions 1 and 2): it names the client it speaks for. The
//! octets are taken off the socket one header's worth and no more, so that whatever follows, TLS or HTTP, finds its own
//! beginning there. What may be read is bounded; for how long is the caller's to say.

use std::{io, net::SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;

use super::connection::Socket;

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const LONGEST_V1: usize = 107;
/// What stands before the addresses in version 2: signature, command, family and length.
const PREFIX_V2: usize = 16;
/// The longest header of version 2 that is read, with whatever it says besides addresses (TLVs).
const LONGEST_V2: usize = 4096;

/// Why a connection has no client.
#[derive(Debug)]
pub(super) enum Failure {
    /// It ended before the header did.
    Gone,
    /// What it began with is no header.
    Malformed,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Reads the header, and answers the client it names; `None` if it says that the sender speaks for itself, or for somebody
/// it cannot name.
pub(super) async fn read(socket: &Socket) -> Result<Option<SocketAddr>, Failure> {
    let mut header = Vec::new();
    loop {
        let lacking = match lacking(&header) {
            Some(0) => return client(&mut header),
            Some(octets) => octets,
            None => return Err(Failure::Malformed),
        };
        let begun = header.len();
        header.resize(begun + lacking, 0);
        let there = receive(socket, &mut header[begun..], RecvFlags::PEEK).await?;
        if there == 0 {
            return Err(Failure::Gone);
        }
        header.truncate(ours(&header[..begun + there]));
        // They are there: it was just looked.
        let taken = receive(socket, &mut header[begun..], RecvFlags::empty()).await?;
        header.truncate(begun + taken);
    }
}

/// How many octets a header that began like this may go on for; 0 if it is whole, `None` if it is none.
fn lacking(header: &[u8]) -> Option<usize> {
    let begins = |signature: &[u8]| header.iter().zip(signature).all(|(one, other)| one == other);
    if begins(SIGNATURE_V2) {
        let Some(length) = header.get(PREFIX_V2 - 2..PREFIX_V2) else { return Some(PREFIX_V2 - header.len()) };
        let whole = PREFIX_V2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        return (whole <= LONGEST_V2).then(|| whole - header.len());
    }
    if !begins(SIGNATURE_V1) {
        return None;
    }
    match LONGEST_V1 - header.len() {
        _ if header.ends_with(b"\n") => Some(0),
        0 => None,
        more => Some(more),
    }
}

/// How many of the octets there are the header's: a line of version 1 may be followed by anything.
fn ours(there: &[u8]) -> usize {
    let end = there.iter().position(|octet| *octet == b'\n').filter(|_| there.starts_with(&SIGNATURE_V1[..1]));
    end.map_or(there.len(), |end| end + 1)
}

fn client(header: &mut [u8]) -> Result<Option<SocketAddr>, Failure> {
    const COMMAND: usize = 12;
    const LOCAL: u8 = 0x20;
    if header.starts_with(SIGNATURE_V2) && header[COMMAND] == LOCAL {
        // Whatever family and addresses stand there count for nothing: the parser would check them.
        header[COMMAND + 1] = 0;
    }
    // The parser takes a sign before a port.
    if header.starts_with(SIGNATURE_V1) && header.contains(&b'+') {
        return Err(Failure::Malformed);
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (parsed, length) = ProxyHeader::parse(header, config).map_err(|_| Failure::Malformed)?;
    let address = parsed.proxied_address();
    if length != header.len() || address.is_some_and(|address| address.protocol != Protocol::Stream) {
        return Err(Failure::Malformed);
    }
    Ok(address.map(|address| address.source))
}

async fn receive(socket: &Socket, octets: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    let (_, received) = match socket {
        Socket::Tcp(socket) => socket.async_io(Interest::READABLE, || Ok(recv(socket, &mut *octets, flags)?)).await?,
        Socket::Unix(socket) => socket.async_io(Interest::READABLE, || Ok(recv(socket, &mut *octets, flags)?)).await?,
    };
    Ok(received)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;

    /// What is read of these octets, and what is left of them.
    async fn outcome(octets: &[u8]) -> (Result<Option<SocketAddr>, Failure>, Vec<u8>) {
        let (mut theirs, ours) = UnixStream::pair().expect("a pair");
        let socket = Socket::Unix(ours);
        let write = async {
            // Piece by piece: no header may depend on how it was cut.
            for piece in octets.chunks(octets.len().div_ceil(60).max(1)) {
                theirs.write_all(piece).await.ok();
                tokio::task::yield_now().await;
            }
            drop(theirs);
        };
        let (read, ()) = tokio::join!(read(&socket), write);
        let Socket::Unix(mut ours) = socket else { panic!("a Unix socket") };
        let mut left = Vec::new();
        ours.read_to_end(&mut left).await.ok();
        (read, left)
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [SIGNATURE_V2, &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 0x12, 0x34, 0, 80];

    #[tokio::test]
    async fn the_client_is_read_and_what_follows_is_left() {
        let v6 = ProxiedAddress::stream("[2001:db8::1]:443".parse().unwrap(), "[::1]:80".parse().unwrap());
        let mut encoded = [0; 200];
        let length = ProxyHeader::with_address(v6).encode_to_slice_v2(&mut encoded).expect("a header");
        for (header, client) in [
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 4660 80\r\n".to_vec(), Some("1.2.3.4:4660")),
            (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(), Some("[2001:db8::1]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &V4), Some("1.2.3.4:4660")),
            (v2(0x21, 0x11, &[&V4[..], &[4, 0, 2, 0, 0]].concat()), Some("1.2.3.4:4660")),
            (v2(0x21, 0x11, &[&V4[..], &[b'\n'; 4000]].concat()), Some("1.2.3.4:4660")),
            (encoded[..length].to_vec(), Some("[2001:db8::1]:443")),
            (v2(0x20, 0, &[]), None),
            (v2(0x20, 0x11, &[]), None),
            (v2(0x20, 0x11, &V4), None),
            (v2(0x21, 0, &[]), None),
            (v2(0x21, 0x31, &[b'/'; 216]), None),
        ] {
            let (read, left) = outcome(&[&header[..], b"PROXY \r\n\x16"].concat()).await;
            assert_eq!(read.expect("a header"), client.map(|client| client.parse().unwrap()), "{header:?}");
            assert_eq!(left, b"PROXY \r\n\x16", "{header:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_before_it_is_read_to_its_end() {
        for junk in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"PROXYxTCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 +2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            b"PROXY TCP4 ::1 ::2 1 2\r\n",
            b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY \r\n",
            b"\r\n\r\n\0\r\nQUIT\r",
        ] {
            let (read, _) = outcome(junk).await;
            assert!(matches!(read, Err(Failure::Malformed)), "{}", String::from_utf8_lossy(junk));
        }
        let endless = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
        let (read, left) = outcome(&endless).await;
        assert!(matches!(read, Err(Failure::Malformed)));
        assert_eq!(left.len(), endless.len() - LONGEST_V1);
        for (command, family, rest) in [
            (0x11, 0x11, &V4[..]),
            (0x22, 0x11, &V4),
            (0x21, 0x11, &V4[..11]),
            (0x21, 0x12, &V4),
            (0x21, 0x21, &V4),
            (0x21, 0x41, &V4),
            (0x21, 0x11, &[0; 5000]),
        ] {
            let (read, left) = outcome(&v2(command, family, rest)).await;
            assert!(matches!(read, Err(Failure::Malformed)), "{command:x} {family:x}");
            assert!(rest.len() < 4096 || left.len() == rest.len(), "nothing of what is too long is read");
        }
        for cut in [&b""[..], b"PROXY TCP4 1.2.3", &v2(0x21, 0x11, &V4)[..20]] {
            assert!(matches!(outcome(cut).await.0, Err(Failure::Gone)), "{cut:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_comes_it_ends_and_is_not_read_beyond_its_bounds(
            begin in prop_oneof![Just(&b""[..]), Just(SIGNATURE_V1), Just(SIGNATURE_V2), Just(&b"PROXY TCP4 "[..])],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let octets = [begin, &rest].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (_, left) = runtime.block_on(outcome(&octets));
            prop_assert!(octets.ends_with(&left));
        }
    }
}
