//! The one place on a live host where the proxy answers for itself: `/.tealgate/preview`, of apps that have a preview
//! cookie. `?token=…` is the link a tester was given: it sets the cookie; `?off` takes it away. Either leads on to the app,
//! to `return` if that is a path, and never to another origin.

use std::time::Duration;

use bytes::Bytes;
use form_urlencoded::parse;
use http::{HeaderMap, HeaderValue, StatusCode, header, response};
use jiff::Timestamp;

use super::{error::ProxyError, headers::append_lines};
use crate::switch::{Door, NoPass, PreviewCookie, RequestKey, SetCookie};

/// An answer of the proxy's own.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    /// Its head and its body.
    pub(super) fn into_parts(self) -> (response::Parts, Bytes) {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        let text = Bytes::from(self.text);
        (parts.status, parts.headers) = (self.status, self.headers);
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        (parts, text)
    }
}

/// What a request that came to the door is told: an answer, or why it may not come in.
pub(super) fn answer(door: &Door, visitor: &impl RequestKey) -> ProxyError {
    let query = visitor.path().split_once('?').map_or("", |(_, query)| query);
    let asked = |name: &str| parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value);
    let Some(cookie) = &door.matching.preview.cookie else { return ProxyError::BadLink(NO_LINK) };
    let back = asked("return").filter(|path| is_own_path(path));
    let back = back.as_deref().or(door.matching.paths.first().map(String::as_str)).unwrap_or("/");
    let leads_on = |value: &str, keep, text| {
        let set = SetCookie { name: &cookie.name, value, keep: Some(keep), secure: visitor.is_secure() };
        redirect(back, &set.lines(&door.matching.paths), text)
    };
    if asked("off").is_some() {
        return leads_on("", Duration::ZERO, format!("you see {} as everybody does\n", door.app));
    }
    let Some(token) = asked("token") else { return ProxyError::BadLink(NO_LINK) };
    match open(door, cookie, &token, visitor) {
        Ok(left) => leads_on(&token, left, format!("you see the preview of {}\n", door.app)),
        Err(refused) => refused,
    }
}

const NO_LINK: &str = "this is no link to a preview";

/// How long the pass is good for. Whoever may not see the preview at all is told here, and not on every page from then on.
fn open(door: &Door, cookie: &PreviewCookie, token: &str, visitor: &impl RequestKey) -> Result<Duration, ProxyError> {
    let now = Timestamp::now();
    let pass = cookie.check(token.as_bytes(), &door.app, now).map_err(|why| match why {
        NoPass::Expired => ProxyError::BadLink("this link to a preview has expired"),
        NoPass::Foreign => ProxyError::BadLink(NO_LINK),
    })?;
    door.matching.preview.admit(visitor).map_err(|stranger| ProxyError::of_stranger(door.app.clone(), stranger))?;
    let subject = pass.subject.as_ref().map(tracing::field::display);
    tracing::info!(app = %door.app, subject, client = ?visitor.client(), "a preview link was opened");
    Ok(Duration::try_from(pass.expires.duration_since(now)).unwrap_or_default())
}

/// A path, and nothing that a browser could take for another host: it reads `//`, and `\` for `/`, as the beginning of one,
/// and passes over tabs and line ends on its way there.
fn is_own_path(path: &str) -> bool {
    let plain = path.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'\\');
    plain && path.starts_with('/') && !path.starts_with("//")
}

fn redirect(to: &str, lines: &str, text: String) -> ProxyError {
    let mut headers = HeaderMap::new();
    let location = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    headers.insert(header::LOCATION, location);
    append_lines(&mut headers, lines);
    // The link is a key: neither a cache nor the next page is to learn it.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    ProxyError::Own(Box::new(Answer { status: StatusCode::SEE_OTHER, headers, text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_back_is_a_path_on_the_same_origin() {
        for good in ["/", "/cart?id=1&x=//y", "/a//b", "/%5C%5Cevil.example"] {
            assert!(is_own_path(good), "{good}");
        }
        for bad in [
            "",
            "cart",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "https://evil.example/",
            "javascript:alert(1)",
            "/é",
            "/a b",
        ] {
            assert!(!is_own_path(bad), "{bad:?}");
        }
    }

    #[test]
    fn lines_become_fields_each_by_itself() {
        let mut headers = HeaderMap::new();
        append_lines(&mut headers, "set-cookie: a=b; Path=/\r\nset-cookie: c=d: e\r\n");
        let values: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(values, ["a=b; Path=/", "c=d: e"]);
        append_lines(&mut headers, "");
        assert_eq!(headers.len(), 2);
    }
}
