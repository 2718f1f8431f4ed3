//! Who sees the candidate. Any way in leads to it: a host of its own or a preview listener (the route knows those), a
//! header, a signed cookie. Every restriction must then hold, whatever the way: networks, credentials. What does not lead
//! in, such as a wrong header or an expired cookie, is as if it were not there: no end user ever sees an error for it.
//!
//! A cookie holds a [`Pass`], in clear text, signed with the app's secret (HMAC-SHA256, RFC 2104). It is good for one app
//! and until its end. Several secrets may be in force at once, the first to sign and all to check, so that one can be
//! replaced without ending what was given out.

use std::{fmt, net::IpAddr, time::Duration};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, hmac};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use ipnet::IpNet;
use jiff::Timestamp;

use super::{
    name::{AppName, Subject},
    reader::RequestKey,
};

/// Where an app's testers come in by a link, below each of the app's path prefixes.
pub const DOOR: &str = "/.tealgate/preview";

/// The longest pass that is looked at, in octets; ours are shorter.
const LONGEST_PASS: usize = 512;

/// Keeps signatures of passes apart from whatever else a secret may have signed.
const PURPOSE: &[u8] = b"tealgate preview pass 1\0";

/// Who sees an app's candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreviewAccess {
    /// Networks whose clients may see it; none means every client.
    pub allow: Vec<IpNet>,
    /// Whoever may see it must know one of these; none means everybody.
    pub credentials: Vec<Credential>,
    /// A request with this header asks for it.
    pub header: Option<PreviewHeader>,
    /// So does one with a signed cookie.
    pub cookie: Option<PreviewCookie>,
    /// What testers get while there is no candidate that is ready.
    pub fallback: Fallback,
}

/// A header that asks for the candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviewHeader {
    /// Its name, in lower case.
    pub name: String,
    /// The value it must have; without one any will do.
    pub value: Option<Secret>,
}

/// The signed cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviewCookie {
    /// Its name.
    pub name: String,
    /// What signs (the first) and checks (all); at least one.
    pub secrets: Vec<Secret>,
    /// How long a pass is good if nothing else is said.
    pub ttl: Duration,
}

/// What somebody must know to see the candidate, as sent in `Authorization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The user of HTTP Basic (RFC 7617); without one it is a bearer token (RFC 6750).
    pub user: Option<String>,
    /// The SHA-256 of the password, or of the token.
    pub sha256: [u8; 32],
}

/// What testers get while there is no candidate that is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// An answer that says so: a tester never sees the live revision unawares.
    #[default]
    None,
    /// The active revision.
    Active,
}

/// Why somebody may not see the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// He comes from none of the networks.
    FromAfar,
    /// He does not say who he is, or nobody by that name and secret is known.
    Unknown {
        /// Whether a user and password may do (HTTP Basic).
        basic: bool,
        /// Whether a token may do (bearer).
        bearer: bool,
    },
}

impl PreviewAccess {
    /// Whether a request on a live host asks for the candidate by header or cookie.
    pub(super) fn is_asked_for(&self, app: &AppName, key: &impl RequestKey) -> bool {
        let by_header = |header: &PreviewHeader| {
            let given = key.field(&header.name);
            given.is_some_and(|given| header.value.as_ref().is_none_or(|value| value.is(given)))
        };
        let by_cookie = |cookie: &PreviewCookie| {
            let given = key.cookie(&cookie.name);
            given.is_some_and(|given| cookie.check(given, app, Timestamp::now()).is_ok())
        };
        self.header.as_ref().is_some_and(by_header) || self.cookie.as_ref().is_some_and(by_cookie)
    }

    /// Refuses who may not see the candidate, whatever way he came.
    pub fn admit(&self, key: &impl RequestKey) -> Result<(), Stranger> {
        let near = |ip: IpAddr| self.allow.iter().any(|net| net.contains(&ip.to_canonical()));
        if !self.allow.is_empty() && !key.client().is_some_and(near) {
            return Err(Stranger::FromAfar);
        }
        if !self.credentials.is_empty() && !key.field("authorization").is_some_and(|given| self.knows(given)) {
            let basic = self.credentials.iter().any(|credential| credential.user.is_some());
            let bearer = self.credentials.iter().any(|credential| credential.user.is_none());
            return Err(Stranger::Unknown { basic, bearer });
        }
        Ok(())
    }

    /// All credentials are looked at, whichever fits, so that the time it takes tells nothing.
    fn knows(&self, authorization: &[u8]) -> bool {
        let Some((user, secret)) = presented(authorization) else { return false };
        let given = digest::digest(&digest::SHA256, &secret);
        self.credentials.iter().fold(false, |known, credential| {
            let same = verify_slices_are_equal(given.as_ref(), &credential.sha256).is_ok();
            known | (same & (credential.user.as_deref().map(str::as_bytes) == user.as_deref()))
        })
    }
}

/// The user, if it is HTTP Basic, and the password or token of an `Authorization` value.
fn presented(authorization: &[u8]) -> Option<(Option<Vec<u8>>, Vec<u8>)> {
    let space = authorization.iter().position(|octet| *octet == b' ')?;
    let (scheme, rest) = authorization.split_at(space);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some((None, rest.to_vec()));
    }
    let pair = scheme.eq_ignore_ascii_case(b"basic").then(|| BASE64_STANDARD.decode(rest).ok())??;
    let colon = pair.iter().position(|octet| *octet == b':')?;
    Some((Some(pair[..colon].to_vec()), pair[colon + 1..].to_vec()))
}

impl PreviewCookie {
    /// Writes a pass down, signed.
    pub(super) fn sign(&self, pass: &Pass) -> Option<String> {
        let text = pass.to_string();
        let tag = hmac::sign(&self.secrets.first()?.key, &signed(&text));
        Some(format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag)))
    }

    /// Reads a pass for this app. Nothing of it is believed before its signature has been found good.
    pub fn check(&self, given: &[u8], app: &AppName, now: Timestamp) -> Result<Pass, NoPass> {
        let given = std::str::from_utf8(given).ok().filter(|given| given.len() <= LONGEST_PASS);
        let (text, tag) = given.and_then(|given| given.rsplit_once('.')).ok_or(NoPass::Foreign)?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).map_err(|_| NoPass::Foreign)?;
        let message = signed(text);
        let good = |secret: &Secret| hmac::verify(&secret.key, &message, &tag).is_ok();
        let pass = Pass::read(text).filter(|_| self.secrets.iter().any(good));
        match pass {
            Some(pass) if pass.app != *app => Err(NoPass::Foreign),
            Some(pass) if pass.expires <= now => Err(NoPass::Expired),
            Some(pass) => Ok(pass),
            None => Err(NoPass::Foreign),
        }
    }
}

fn signed(text: &str) -> Vec<u8> {
    [PURPOSE, text.as_bytes()].concat()
}

/// The right to see one app's candidate until its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The app.
    pub app: AppName,
    /// When it ends, to the second.
    pub expires: Timestamp,
    /// Whom it was made for, if that was said.
    pub subject: Option<Subject>,
}

/// Why something is no pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPass {
    /// It was one, and its time is over.
    Expired,
    /// It was not made here, or for another app.
    Foreign,
}

impl Pass {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let expires = Timestamp::from_second(parts.next()?.parse().ok()?).ok()?;
        let app = parts.next()?.parse().ok()?;
        let subject = match parts.next()? {
            "" => None,
            subject => Some(subject.parse().ok()?),
        };
        Some(Self { app, expires, subject })
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.subject.as_ref().map_or("", Subject::as_str);
        write!(f, "{}:{}:{subject}", self.expires.as_second(), self.app)
    }
}

/// What must not be shown: it signs, or it is a password by itself.
#[derive(Clone)]
pub struct Secret {
    octets: Box<[u8]>,
    key: hmac::Key,
}

impl Secret {
    /// These octets as a secret.
    pub fn new(octets: &[u8]) -> Self {
        Self { octets: octets.into(), key: hmac::Key::new(hmac::HMAC_SHA256, octets) }
    }

    /// The secret itself, for whoever has to send it.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    fn is(&self, given: &[u8]) -> bool {
        verify_slices_are_equal(&self.octets, given).is_ok()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.octets)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Whether a path, with or without a query, is where testers of an app with these prefixes come in.
pub(super) fn is_door(path: &str, prefixes: &[String]) -> bool {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    match path.strip_suffix(DOOR) {
        Some("") if prefixes.is_empty() => true,
        Some(before) => prefixes.iter().any(|prefix| prefix.trim_end_matches('/') == before),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn app(name: &str) -> AppName {
        name.parse().expect("a name")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn cookie(secrets: &[&str]) -> PreviewCookie {
        let secrets = secrets.iter().map(|secret| Secret::new(secret.as_bytes())).collect();
        PreviewCookie { name: "tealgate-preview".to_owned(), secrets, ttl: Duration::from_secs(60) }
    }

    fn pass(expires: i64) -> Pass {
        Pass { app: app("shop"), expires: at(expires), subject: Some("ann".parse().expect("a name")) }
    }

    #[test]
    fn a_pass_is_good_for_its_app_until_its_end() {
        let cookie = cookie(&["first secret of the shop"]);
        let token = cookie.sign(&pass(1000)).expect("a secret");
        assert!(token.starts_with("1000:shop:ann."), "{token}");
        assert_eq!(cookie.check(token.as_bytes(), &app("shop"), at(999)), Ok(pass(1000)));
        assert_eq!(cookie.check(token.as_bytes(), &app("shop"), at(1000)), Err(NoPass::Expired));
        assert_eq!(cookie.check(token.as_bytes(), &app("blog"), at(0)), Err(NoPass::Foreign));
        let nobodys = Pass { subject: None, ..pass(1000) };
        let token = cookie.sign(&nobodys).expect("a secret");
        assert_eq!(cookie.check(token.as_bytes(), &app("shop"), at(0)), Ok(nobodys));
    }

    #[test]
    fn no_octet_of_a_pass_can_be_changed() {
        let cookie = cookie(&["first secret of the shop"]);
        let token = cookie.sign(&pass(1000)).expect("a secret").into_bytes();
        for index in 0..token.len() {
            for flip in [1, 2, 4, 32] {
                let mut forged = token.clone();
                forged[index] ^= flip;
                let checked = cookie.check(&forged, &app("shop"), at(0));
                assert_eq!(checked, Err(NoPass::Foreign), "{}", String::from_utf8_lossy(&forged));
            }
        }
        for length in 0..token.len() {
            assert_eq!(cookie.check(&token[..length], &app("shop"), at(0)), Err(NoPass::Foreign));
        }
        for odd in [&b""[..], b".", b"1000:shop:ann.", b"\xff.\xff", &[b'a'; 10_000]] {
            assert_eq!(cookie.check(odd, &app("shop"), at(0)), Err(NoPass::Foreign));
        }
    }

    #[test]
    fn secrets_are_replaced_without_ending_what_was_given_out() {
        let (old, both, new) =
            (cookie(&["the old one"]), cookie(&["the new one", "the old one"]), cookie(&["the new one"]));
        let [by_old, by_both] = [&old, &both].map(|cookie| cookie.sign(&pass(1000)).expect("a secret"));
        let good = |cookie: &PreviewCookie, token: &str| cookie.check(token.as_bytes(), &app("shop"), at(0)).is_ok();
        assert!(good(&both, &by_old) && good(&both, &by_both) && good(&new, &by_both));
        assert!(!good(&new, &by_old) && !good(&old, &by_both));
    }

    #[test]
    fn a_secret_does_not_show() {
        let shown = format!("{:?}", cookie(&["hunter2"]));
        assert!(!shown.contains("hunter2") && shown.contains("Secret"), "{shown}");
    }

    /// A request with these fields and cookies.
    struct Asks(&'static [(&'static str, String)], Option<IpAddr>);

    impl RequestKey for Asks {
        fn host(&self) -> &str {
            "shop.test"
        }
        fn path(&self) -> &str {
            "/"
        }
        fn on_preview_listener(&self) -> bool {
            false
        }
        fn client(&self) -> Option<IpAddr> {
            self.1
        }
        fn field(&self, name: &str) -> Option<&[u8]> {
            self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes())
        }
        fn cookie(&self, name: &str) -> Option<&[u8]> {
            self.field(name)
        }
    }

    fn asks(fields: &[(&'static str, &str)]) -> Asks {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Asks(fields.leak(), Some([10, 0, 0, 1].into()))
    }

    #[test]
    fn what_does_not_lead_in_is_as_if_it_were_not_there() {
        let named = |value: Option<&str>| PreviewHeader {
            name: "x-preview".to_owned(),
            value: value.map(|value| Secret::new(value.as_bytes())),
        };
        let access = PreviewAccess { header: Some(named(Some("s3cret"))), ..PreviewAccess::default() };
        let shop = app("shop");
        assert!(access.is_asked_for(&shop, &asks(&[("x-preview", "s3cret")])));
        for wrong in ["", "s3cre", "S3cret", "s3cret2"] {
            assert!(!access.is_asked_for(&shop, &asks(&[("x-preview", wrong)])), "{wrong}");
        }
        let any = PreviewAccess { header: Some(named(None)), ..PreviewAccess::default() };
        assert!(any.is_asked_for(&shop, &asks(&[("x-preview", "")])) && !any.is_asked_for(&shop, &asks(&[])));

        let cookie = cookie(&["first secret of the shop"]);
        let token = |after| {
            let expires = Timestamp::now() + SignedDuration::from_secs(after);
            cookie.sign(&Pass { expires, ..pass(0) }).expect("a secret")
        };
        let access = PreviewAccess { cookie: Some(cookie.clone()), ..PreviewAccess::default() };
        assert!(access.is_asked_for(&shop, &asks(&[("tealgate-preview", &token(60))])));
        assert!(!access.is_asked_for(&shop, &asks(&[("tealgate-preview", &token(-1))])));
        assert!(!access.is_asked_for(&app("blog"), &asks(&[("tealgate-preview", &token(60))])));
        assert!(!PreviewAccess::default().is_asked_for(&shop, &asks(&[("tealgate-preview", &token(60))])));
    }

    #[test]
    fn every_restriction_must_hold() {
        let sha256 = |secret: &str| {
            let mut sha256 = [0; 32];
            sha256.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
            sha256
        };
        let access = PreviewAccess {
            allow: vec!["10.0.0.0/8".parse().expect("a network")],
            credentials: vec![
                Credential { user: Some("ann".to_owned()), sha256: sha256("pass:word") },
                Credential { user: None, sha256: sha256("a-token") },
            ],
            ..PreviewAccess::default()
        };
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        for good in
            [basic("ann:pass:word"), "bearer  a-token".to_owned(), basic("ann:pass:word").replace("Basic", "BASIC")]
        {
            assert_eq!(access.admit(&asks(&[("authorization", &good)])), Ok(()), "{good}");
        }
        for bad in [
            basic("ann:a-token"),
            basic("bob:pass:word"),
            basic(":pass:word"),
            basic("ann"),
            "Bearer pass:word".to_owned(),
            "Bearer".to_owned(),
            "Basic ???".to_owned(),
            "a-token".to_owned(),
            String::new(),
        ] {
            let refused = access.admit(&asks(&[("authorization", &bad)]));
            assert_eq!(refused, Err(Stranger::Unknown { basic: true, bearer: true }), "{bad}");
        }
        let known = asks(&[("authorization", "Bearer a-token")]);
        for far in [None, Some([11, 0, 0, 1].into())] {
            let refused = access.admit(&Asks(known.0, far));
            assert_eq!(refused, Err(Stranger::FromAfar));
        }
    }

    #[test]
    fn the_door_is_below_each_prefix_and_nowhere_else() {
        let prefixes = ["/api", "/v2/"].map(str::to_owned);
        for (path, none, some) in [
            ("/.tealgate/preview", true, false),
            ("/.tealgate/preview?token=x", true, false),
            ("/api/.tealgate/preview", false, true),
            ("/v2/.tealgate/preview?off", false, true),
            ("/.tealgate/preview/", false, false),
            ("/.tealgate/previews", false, false),
            ("/x/.tealgate/preview", false, false),
            ("/x?/.tealgate/preview", false, false),
        ] {
            assert_eq!((is_door(path, &[]), is_door(path, &prefixes)), (none, some), "{path}");
        }
    }
}
