//! How addresses, networks and hosts are written in the file.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;
use schemars::{Schema, json_schema};

use super::{
    error::{Wrong, quoted},
    notation::Notation,
};
use crate::{
    proxy::Bind,
    switch::{HostPattern, NotAnAddress, Whereabouts},
};

impl Notation for SocketAddr {
    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = Wrong::new(format!("{} is not an address", quoted(text)));
        let form = "write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080";
        text.parse().map_err(|_| match text.rsplit_once(':') {
            Some((host, port)) if is_host(host) && host.parse::<IpAddr>().is_err() && port.parse::<u16>().is_ok() => {
                wrong.hint(format!("host names are not looked up; {form}"))
            }
            _ => wrong.hint(form),
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^([0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$" })
    }
}

/// The longest path of a Unix socket, in octets: `sun_path` of Linux without its end mark.
const LONGEST_SOCKET: usize = 107;

/// The path of a Unix socket. The kernel takes no long ones.
#[derive(Clone, Debug)]
pub(super) struct SocketPath(pub(super) PathBuf);

impl Notation for SocketPath {
    fn read(text: &str) -> Result<Self, Wrong> {
        match text.len() {
            0 => Err(Wrong::new("the path of the socket is missing")),
            1..=LONGEST_SOCKET => Ok(Self(text.into())),
            _ => Err(Wrong::new("the path of the socket is too long").hint("the system takes 107 octets at most")),
        }
    }
}

/// Where an endpoint is: a Unix socket's path may start at the configuration's directory.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum EndpointAddress {
    Socket(PathBuf),
    Elsewhere(Whereabouts),
}

impl From<NotAnAddress> for Wrong {
    fn from(not: NotAnAddress) -> Self {
        Self::new(format!("{} is not an address", quoted(&not.given))).hint(not.hint)
    }
}

impl Notation for EndpointAddress {
    fn read(text: &str) -> Result<Self, Wrong> {
        match text.strip_prefix("unix:") {
            Some(path) => SocketPath::read(path).map(|path| Self::Socket(path.0)),
            None => Ok(Self::Elsewhere(text.parse()?)),
        }
    }

    fn schema() -> Schema {
        let named = json_schema!({ "type": "string", "pattern": r"^[0-9A-Za-z_][-0-9A-Za-z_.]*:[0-9]{1,5}$" });
        json_schema!({ "anyOf": [Bind::schema(), named] })
    }
}

impl Notation for Bind {
    fn read(text: &str) -> Result<Self, Wrong> {
        match text.strip_prefix("unix:") {
            Some(path) => SocketPath::read(path).map(|path| Self::Unix(path.0)),
            None => SocketAddr::read(text).map(Self::Tcp).map_err(|wrong| match wrong.hint {
                Some(ref hint) => Wrong { hint: Some(format!("{hint}, or unix:/PATH")), ..wrong },
                None => wrong,
            }),
        }
    }

    fn schema() -> Schema {
        let socket = json_schema!({ "type": "string", "pattern": "^unix:.+$" });
        json_schema!({ "anyOf": [SocketAddr::schema(), socket] })
    }
}

/// The `Host` that upstreams are sent; `None` for the client's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SentHost(pub(super) Option<String>);

impl From<SentHost> for Option<String> {
    fn from(host: SentHost) -> Self {
        host.0
    }
}

impl Notation for SentHost {
    fn read(text: &str) -> Result<Self, Wrong> {
        if text == "pass" {
            return Ok(Self(None));
        }
        let (host, port) = text.rsplit_once(':').filter(|(_, port)| !port.contains(']')).unwrap_or((text, "80"));
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_good = bare.map_or_else(|| is_host(host), |bare| bare.parse::<std::net::Ipv6Addr>().is_ok());
        if is_good && port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Ok(Self(Some(text.to_ascii_lowercase())));
        }
        let wrong = Wrong::new(format!("{} is not a host", quoted(text)));
        Err(wrong.hint("write pass for the host that the client asked for, or NAME or NAME:PORT to send instead"))
    }
}

impl Notation for IpNet {
    fn read(text: &str) -> Result<Self, Wrong> {
        // A lone address is a network of one.
        let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(Self::from));
        let wrong = |_| Wrong::new(format!("{} is not a network", quoted(text)));
        net.map_err(wrong).map_err(|wrong| wrong.hint("write ADDRESS/BITS, such as 10.0.0.0/8 or fd00::/8"))
    }
}

impl Notation for HostPattern {
    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = |hint: &str| Err(Wrong::new(format!("{} is not a host", quoted(text))).hint(hint));
        if text == "*" {
            return wrong("to take every host that no other app names, leave `hosts` out");
        }
        let lower = text.to_ascii_lowercase();
        let (host, below) = match lower.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (lower.as_str(), false),
        };
        let address =
            host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).is_some_and(|h| h.parse::<IpAddr>().is_ok());
        match () {
            () if address && !below => Ok(Self::Exact(lower)),
            () if is_host(host) && below => Ok(Self::Below(format!(".{host}"))),
            () if is_host(host) => Ok(Self::Exact(lower)),
            () if !host.is_ascii() => wrong("write an international name in its xn-- form"),
            () if host.contains("://") || host.contains('/') => wrong("write the host alone, without scheme or path"),
            () if host.contains(':') => wrong("write the host alone, without port"),
            () if host.contains('*') => wrong("a `*` may only stand for all labels below: `*.example.com`"),
            () => wrong("use letters, digits, '-' and '_' in labels of 1 to 63, joined by dots"),
        }
    }
}

/// RFC 1123 §2.1, and the underscore that names in use have.
fn is_host(text: &str) -> bool {
    let octet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label =
        |l: &str| (1..=63).contains(&l.len()) && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(octet);
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn reads<T: Notation + PartialEq + Debug>(text: &str, expected: T) {
        assert_eq!(T::read(text).unwrap(), expected, "{text}");
    }

    #[track_caller]
    fn refuses<T: Notation + Debug>(texts: &[&str]) {
        for text in texts {
            assert!(T::read(text).is_err(), "{text:?} was read");
        }
    }

    #[test]
    fn addresses_are_ip_and_port_or_a_socket() {
        reads("[::1]:80", Bind::Tcp("[::1]:80".parse().unwrap()));
        reads("unix:/run/x.sock", Bind::Unix("/run/x.sock".into()));
        let hint = SocketAddr::read("localhost:9001").unwrap_err().hint.unwrap();
        assert!(hint.starts_with("host names are not looked up"), "{hint}");
        refuses::<Bind>(&["", "8080", ":8080", "127.0.0.1", "127.0.0.1:65536", "unix:", "::1:80"]);
        refuses::<Bind>(&[&format!("unix:/{}", "x".repeat(107))]);
    }

    #[test]
    fn the_host_sent_is_the_clients_or_a_name_of_its_own() {
        reads("pass", SentHost(None));
        for host in ["app.internal", "app.internal:8443", "10.0.0.1:80", "[::1]", "[::1]:80"] {
            reads(host, SentHost(Some(host.to_owned())));
        }
        refuses::<SentHost>(&["", "a b", "a:", "a:0", "a:x", "::1", "[a]:1", "http://a", "a/b", "a\r\nb: c"]);
    }

    #[test]
    fn networks_and_lone_addresses_can_be_allowed() {
        reads("10.0.0.0/8", "10.0.0.0/8".parse::<IpNet>().unwrap());
        reads("::1", "::1/128".parse::<IpNet>().unwrap());
        refuses::<IpNet>(&["", "10.0.0.0/33", "10.0.0", "lan"]);
    }

    #[test]
    fn hosts_are_lowered_and_wildcards_only_lead() {
        reads("Shop.Example.com", HostPattern::Exact("shop.example.com".into()));
        reads("*.Example.com", HostPattern::Below(".example.com".into()));
        reads("[::1]", HostPattern::Exact("[::1]".into()));
        reads("127.0.0.1", HostPattern::Exact("127.0.0.1".into()));
        refuses::<HostPattern>(&[
            "", "*", "*.", "a.*.b", "a:80", "http://a", "a/b", "é.test", "a..b", ".a", "a.", "-a",
        ]);
        refuses::<HostPattern>(&[&"x".repeat(64), &["a"; 128].join(".")]);
    }
}
