//! Who sees which revision: how the file writes names of fields, secrets and shares, and what its blocks `preview`,
//! `weight` and `ab` come to.

use std::{path::PathBuf, time::Duration};

use http::HeaderName;
use schemars::{Schema, json_schema};

use super::{
    error::{Wrong, quoted},
    file::{self, Ab},
    node::{Given, Placed, Text},
    notation::Notation,
    pass::{Pass, read_file},
};
use crate::switch::{
    self, Fallback, Mark, PreviewAccess, PreviewCookie, PreviewHeader, Secret, SplitPolicy, SplitRule, Sticky, Weight,
};

const COOKIE: &str = "tealgate-preview";
const TTL: Duration = Duration::from_secs(8 * 3600);

/// The longest that a link may be good: what lasts longer is forgotten.
const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// What signs a cookie must not be guessed (RFC 2104 §3 wants the digest's length; half of it is out of anybody's reach).
const SHORTEST_SECRET: usize = 16;

impl Pass<'_> {
    /// Who sees an app's candidate.
    pub(super) fn preview_access(&mut self, preview: &file::Preview) -> PreviewAccess {
        let mut fallback = Fallback::default();
        self.set(&mut fallback, &preview.fallback);
        PreviewAccess {
            allow: self.read_all(&preview.allow).into_iter().map(|(net, _)| net).collect(),
            credentials: self.credentials(&preview.credentials),
            header: preview.header.value().and_then(|header| self.preview_header(header)),
            cookie: preview.cookie.value().and_then(|cookie| self.preview_cookie(cookie)),
            fallback,
        }
    }

    fn credentials(&mut self, given: &Given<Vec<file::Credential>>) -> Vec<switch::Credential> {
        let Some(Placed { value, place }) = given.get() else { return Vec::new() };
        if value.is_empty() {
            let wrong = Wrong::new("this list is empty, so nobody would be let in");
            self.wrong(*place, wrong.hint("leave the key out, or name at least one"));
        }
        let read = |credential: &file::Credential| {
            let user = credential.user.get().map(|user| self.read(user));
            let Digest(sha256) = self.read(&credential.sha256)?;
            match user {
                Some(user) => Some(switch::Credential { user: Some(user?.0), sha256 }),
                None => Some(switch::Credential { user: None, sha256 }),
            }
        };
        value.iter().filter_map(read).collect()
    }

    fn preview_header(&mut self, header: &file::PreviewHeader) -> Option<PreviewHeader> {
        let name = self.read(&header.name);
        let value = header.value.get().map(|value| self.secret(value, 1));
        let value = match value {
            Some(value) => Some(value?),
            None => None,
        };
        Some(PreviewHeader { name: name?.0, value })
    }

    fn preview_cookie(&mut self, cookie: &file::PreviewCookie) -> Option<PreviewCookie> {
        let Placed { value: secrets, place } = cookie.secret.placed();
        if secrets.is_empty() {
            self.wrong(*place, Wrong::new("this list is empty").hint("name at least one secret"));
        }
        let secrets = secrets.iter().filter_map(|secret| self.secret(secret, SHORTEST_SECRET)).collect();
        let mut name = CookieName(COOKIE.to_owned());
        self.set(&mut name, &cookie.name);
        let mut ttl = TTL;
        self.set(&mut ttl, &cookie.ttl);
        if let Some(given) = cookie.ttl.get().filter(|_| ttl > LONGEST_TTL) {
            let wrong = Wrong::new(format!("{} is too long", quoted(&given.value.written)));
            self.wrong(given.place, wrong.hint("use 720h or less"));
        }
        Some(PreviewCookie { name: name.0, secrets, ttl })
    }

    /// A secret, from where it is. Nothing of it goes into a message.
    pub(super) fn secret(&mut self, given: &Placed<Text<SecretText>>, shortest: usize) -> Option<Secret> {
        let octets = match self.read(given)? {
            SecretText::Here(text) => text.into_bytes(),
            SecretText::In(path) => self.secret_in(&path, given)?,
        };
        if octets.len() < shortest {
            let wrong = Wrong::new(format!("this secret is too short; it wants {shortest} octets or more"));
            self.wrong(given.place, wrong.hint("`openssl rand -hex 32` makes a good one"));
            return None;
        }
        Some(Secret::new(&octets))
    }

    fn secret_in(&mut self, path: &std::path::Path, given: &Placed<Text<SecretText>>) -> Option<Vec<u8>> {
        let path = self.path(path);
        self.secret_files.push(path.clone());
        if !self.open_files {
            // Nobody is to know what stands in for it.
            return Some((0..32).map(|_| fastrand::alphanumeric() as u8).collect());
        }
        let octets = read_file(&path).map_err(|error| Wrong::new(format!("cannot read {}: {error}", path.display())));
        let octets = octets.map_err(|wrong| self.wrong(given.place, wrong)).ok()?;
        Some(octets.trim_ascii_end().to_vec())
    }

    /// Which live traffic goes to the candidate.
    pub(super) fn split(&mut self, weight: &Given<Text<Weight>>, ab: &Ab) -> SplitPolicy {
        let mut split = SplitPolicy::default();
        self.set(&mut split.weight, weight);
        if let Some(sticky) = ab.sticky.get() {
            split.sticky = self.sticky(sticky).unwrap_or_default();
        }
        if let Some(Placed { value: rules, place }) = ab.rules.get() {
            if rules.is_empty() {
                self.wrong(*place, Wrong::new("this list is empty").hint("leave the key out, or name at least one"));
            }
            split.rules = rules.iter().filter_map(|rule| self.rule(rule)).collect();
        }
        split
    }

    fn sticky(&mut self, sticky: &Placed<file::Sticky>) -> Option<Sticky> {
        let Placed { value: file::Sticky { cookie, header, client_ip }, place } = sticky;
        let mut by_ip = false;
        self.set(&mut by_ip, client_ip);
        let given = [cookie.get().is_some(), header.get().is_some(), by_ip];
        if given.iter().filter(|given| **given).count() != 1 {
            let wrong = Wrong::new("a user is known by one thing");
            self.wrong(
                *place,
                wrong.hint("use one of cookie, header, client_ip; leave `sticky` out for our own cookie"),
            );
            return None;
        }
        if by_ip { Some(Sticky::ClientIp) } else { self.mark(header, cookie).map(Sticky::Mark) }
    }

    fn rule(&mut self, rule: &Placed<file::Rule>) -> Option<SplitRule> {
        let Placed { value: file::Rule { header, cookie, equals }, place } = rule;
        if header.get().is_some() == cookie.get().is_some() {
            self.wrong(*place, Wrong::new("a rule looks at one thing").hint("use one of header, cookie"));
            return None;
        }
        let equals = match equals.get() {
            Some(equals) => Some(self.read(equals)?.0),
            None => None,
        };
        Some(SplitRule { mark: self.mark(header, cookie)?, equals })
    }

    fn mark(&mut self, header: &Given<Text<FieldName>>, cookie: &Given<Text<CookieName>>) -> Option<Mark> {
        match header.get() {
            Some(header) => self.read(header).map(|name| Mark::Header(name.0)),
            None => self.read(cookie.get()?).map(|name| Mark::Cookie(name.0)),
        }
    }
}

/// The name of a header, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FieldName(pub(super) String);

impl Notation for FieldName {
    fn read(text: &str) -> Result<Self, Wrong> {
        let name = HeaderName::from_bytes(text.as_bytes());
        let wrong = || Wrong::new(format!("{} is not the name of a header", quoted(text)));
        name.map(|name| Self(name.as_str().to_owned())).map_err(|_| wrong().hint("write it like X-Preview"))
    }
}

/// The name of a cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CookieName(String);

impl Notation for CookieName {
    fn read(text: &str) -> Result<Self, Wrong> {
        // RFC 6265 §4.1.1: a token, like the name of a header; but its case counts.
        let wrong = || Wrong::new(format!("{} is not the name of a cookie", quoted(text)));
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(wrong().hint("use letters, digits, '-' and '_'")),
        }
    }
}

/// What a header or a cookie may hold, without white space at its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldValue(pub(super) String);

impl Notation for FieldValue {
    fn read(text: &str) -> Result<Self, Wrong> {
        if text.trim() == text && !text.contains(char::is_control) {
            return Ok(Self(text.to_owned()));
        }
        Err(Wrong::new(format!("{} cannot be the value of a header or a cookie", quoted(text)))
            .hint("leave out white space at its ends, and control characters"))
    }
}

/// A user's name; HTTP Basic ends it with a colon (RFC 7617 §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserName(String);

impl Notation for UserName {
    fn read(text: &str) -> Result<Self, Wrong> {
        if !text.is_empty() && !text.contains(|c: char| c == ':' || c.is_control()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Wrong::new(format!("{} is not a user's name", quoted(text))).hint("it has no `:` and no control character"))
    }
}

/// A SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest([u8; 32]);

impl Notation for Digest {
    fn read(text: &str) -> Result<Self, Wrong> {
        // Not quoted: somebody may have written the password itself.
        let wrong =
            || Wrong::new("this is not a SHA-256 in hexadecimal").hint("`printf %s PASSWORD | sha256sum` prints it");
        let mut octets = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (octet, at) in octets.iter_mut().zip((0..64).step_by(2)) {
            *octet = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(octets))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" })
    }
}

/// A secret, or the file that holds it.
#[derive(Clone, Debug)]
pub(super) enum SecretText {
    Here(String),
    In(PathBuf),
}

impl Notation for SecretText {
    fn read(text: &str) -> Result<Self, Wrong> {
        Ok(match text.strip_prefix("file:") {
            Some("") => return Err(Wrong::new("the path of the secret's file is missing")),
            Some(path) => Self::In(path.into()),
            None => Self::Here(text.to_owned()),
        })
    }
}

impl Notation for Weight {
    fn read(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|error: switch::NotAWeight| Wrong::new(error.to_string()))
    }

    fn schema() -> Schema {
        let number = json_schema!({ "type": "integer", "minimum": 0, "maximum": 100 });
        json_schema!({ "anyOf": [number, { "type": "string", "pattern": "^([1-9]?[0-9]|100)%$" }] })
    }
}
