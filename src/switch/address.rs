//! Where endpoints listen. A source may give a host's name; what a connection goes to is always an address, found out by
//! looking the name up. Both are written, stored and shown as one string.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// What the address of a Unix socket begins with.
const UNIX: &str = "unix:";
/// The longest path of a Unix socket, in octets: `sun_path` of Linux without its end mark.
const LONGEST_SOCKET: usize = 107;
/// The most characters of something wrong that are repeated.
const MOST_REPEATED: usize = 64;

/// Where an endpoint listens: `IP:PORT` or `unix:/PATH`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A TCP port.
    Ip(SocketAddr),
    /// A Unix socket, by its absolute path.
    Unix(Arc<Path>),
}

/// Where a source says that an endpoint is: an address, or `NAME:PORT`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whereabouts {
    /// There.
    At(Address),
    /// At every address that this name has, each an endpoint of its own.
    Named(HostPort),
}

/// A host by its name, in lower case, and a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: Arc<str>,
    port: u16,
}

/// Why a string says of no endpoint where it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{given:?} is not an address: {hint}")]
pub struct NotAnAddress {
    /// What was given, or its beginning.
    pub given: String,
    /// What to write instead.
    pub hint: &'static str,
}

impl HostPort {
    /// The host's name, in lower case, as it is to be looked up.
    pub fn host(&self) -> &Arc<str> {
        &self.host
    }

    /// The port, not 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Address {
    /// Where connections go over IP; `None` for a Unix socket.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl Whereabouts {
    /// The name to look up, if it is one.
    pub fn name(&self) -> Option<&HostPort> {
        match self {
            Self::At(_) => None,
            Self::Named(name) => Some(name),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl<A: Into<Address>> From<A> for Whereabouts {
    fn from(address: A) -> Self {
        Self::At(address.into())
    }
}

impl FromStr for Whereabouts {
    type Err = NotAnAddress;

    fn from_str(given: &str) -> Result<Self, NotAnAddress> {
        let wrong = |hint| Err(NotAnAddress { given: given.chars().take(MOST_REPEATED).collect(), hint });
        if let Some(path) = given.strip_prefix(UNIX) {
            return match Path::new(path) {
                path if path.is_relative() => wrong("write the socket's whole path: unix:/PATH"),
                _ if path.len() > LONGEST_SOCKET => wrong("the system takes paths of 107 octets at most"),
                path => Ok(Self::At(Address::Unix(path.into()))),
            };
        }
        let form = "write IP:PORT, NAME:PORT or unix:/PATH, such as 127.0.0.1:9001";
        match (given.parse::<SocketAddr>(), given.rsplit_once(':')) {
            (Ok(address), _) if address.port() == 0 => wrong("it has no port to connect to"),
            (Ok(address), _) => Ok(Self::At(Address::Ip(address))),
            (Err(_), Some((host, port))) if is_name(host) => match port.parse() {
                Ok(0) => wrong("it has no port to connect to"),
                Ok(port) => Ok(Self::Named(HostPort { host: host.to_ascii_lowercase().into(), port })),
                Err(_) => wrong(form),
            },
            (Err(_), _) => wrong(form),
        }
    }
}

/// RFC 1123 §2.1, and the underscore that names in use have; a dot at the end says that nothing is to be appended. What
/// ends in a number is an address gone wrong.
fn is_name(text: &str) -> bool {
    let octet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label =
        |l: &str| (1..=63).contains(&l.len()) && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(octet);
    let name = text.strip_suffix('.').unwrap_or(text);
    let number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && !number && name.parse::<IpAddr>().is_err() && name.split('.').all(label)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Named(name) => name.fmt(f),
        }
    }
}

macro_rules! debug_as_written {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )+};
}

debug_as_written!(Address, HostPort, Whereabouts);

impl Serialize for Whereabouts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Whereabouts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_a_socket_and_a_name_are_told_apart_and_written_as_they_were_read() {
        for (given, is_name) in [
            ("127.0.0.1:9001", false),
            ("[::1]:9001", false),
            ("unix:/run/app.sock", false),
            ("localhost:9001", true),
            ("app-1.my_net.internal:9001", true),
            ("app.internal.:9001", true),
        ] {
            let read: Whereabouts = given.parse().expect(given);
            assert_eq!(read.name().is_some(), is_name, "{given}");
            assert_eq!(read.to_string(), given);
            let json = serde_json::to_string(&read).expect("a string");
            assert_eq!(json, format!("{given:?}"));
            assert_eq!(serde_json::from_str::<Whereabouts>(&json).expect("as written"), read);
        }
        let shouted: Whereabouts = "APP.Internal:80".parse().expect("a name");
        assert_eq!(shouted.to_string(), "app.internal:80", "names know no case");
    }

    #[test]
    fn what_nobody_can_connect_to_is_refused_with_a_hint() {
        let long = format!("unix:/{}", "x".repeat(LONGEST_SOCKET));
        for (given, hint) in [
            ("", "write IP:PORT"),
            ("9001", "write IP:PORT"),
            ("127.0.0.1", "write IP:PORT"),
            ("::1:80", "write IP:PORT"),
            ("10.0.0:80", "write IP:PORT"),
            ("300.0.0.1:80", "write IP:PORT"),
            ("a..b:80", "write IP:PORT"),
            ("-a:80", "write IP:PORT"),
            ("http://a:80", "write IP:PORT"),
            ("a:http", "write IP:PORT"),
            ("a:65536", "write IP:PORT"),
            ("127.0.0.1:0", "it has no port"),
            ("a:0", "it has no port"),
            ("unix:", "write the socket's whole path"),
            ("unix:app.sock", "write the socket's whole path"),
            (&long, "107 octets"),
        ] {
            let wrong = given.parse::<Whereabouts>().expect_err(given);
            assert!(wrong.hint.contains(hint), "{given}: {wrong}");
        }
    }
}
