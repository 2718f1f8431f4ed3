//! The PROXY protocol towards endpoints: a connection says, before anything else, whose it is. It is then of no use to
//! anybody else.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader};

use crate::switch::ProxyVersion;

/// Whose a connection is: the client, and where it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) client: SocketAddr,
    pub(crate) listener: SocketAddr,
}

/// The header. A connection of our own says that it speaks for nobody.
pub(super) fn write(version: ProxyVersion, origin: Option<Origin>) -> Vec<u8> {
    let header = match origin {
        Some(origin) => ProxyHeader::with_address(origin.in_one_family()),
        None => ProxyHeader::with_local(),
    };
    let mut octets = Vec::with_capacity(128);
    let written = match version {
        ProxyVersion::V1 => header.encode_v1(&mut octets),
        ProxyVersion::V2 => header.encode_v2(&mut octets),
    };
    written.expect("both addresses are of one family, the protocol is TCP, and nothing is attached");
    octets
}

impl Origin {
    /// Both addresses as IPv4 if they are, else both as IPv6: the protocol has no other way.
    fn in_one_family(self) -> ProxiedAddress {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        let (client, listener) = (canonical(self.client), canonical(self.listener));
        if client.is_ipv4() == listener.is_ipv4() {
            ProxiedAddress::stream(client, listener)
        } else {
            ProxiedAddress::stream(mapped(client), mapped(listener))
        }
    }
}

#[cfg(test)]
mod tests {
    use proxy_header::ParseConfig;

    use super::*;

    fn origin(client: &str, listener: &str) -> Option<Origin> {
        Some(Origin { client: client.parse().unwrap(), listener: listener.parse().unwrap() })
    }

    #[test]
    fn a_header_says_who_came_to_whom() {
        let text = |client, listener| String::from_utf8(write(ProxyVersion::V1, origin(client, listener))).unwrap();
        assert_eq!(text("192.0.2.7:4711", "10.0.0.1:80"), "PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n");
        assert_eq!(text("[2001:db8::1]:1", "[::]:80"), "PROXY TCP6 2001:db8::1 :: 1 80\r\n");
        assert_eq!(text("[::ffff:192.0.2.7]:1", "0.0.0.0:80"), "PROXY TCP4 192.0.2.7 0.0.0.0 1 80\r\n");
        assert_eq!(text("192.0.2.7:1", "[::]:80"), "PROXY TCP6 ::ffff:192.0.2.7 :: 1 80\r\n");
        assert_eq!(write(ProxyVersion::V1, None), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn the_binary_form_says_the_same() {
        for (client, listener) in [("192.0.2.7:4711", "10.0.0.1:80"), ("[2001:db8::1]:1", "[::1]:80")] {
            let octets = write(ProxyVersion::V2, origin(client, listener));
            let (header, length) = ProxyHeader::parse(&octets, ParseConfig::default()).unwrap();
            let said = header.proxied_address().unwrap();
            assert_eq!((said.source, said.destination), (client.parse().unwrap(), listener.parse().unwrap()));
            assert_eq!(length, octets.len());
        }
        let octets = write(ProxyVersion::V2, None);
        assert!(ProxyHeader::parse(&octets, ParseConfig::default()).unwrap().0.proxied_address().is_none());
    }
}
