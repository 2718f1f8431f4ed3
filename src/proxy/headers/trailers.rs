//! What a trailer section may not say, and so what is taken out of it on its way, be it lines or a map.

use http::{HeaderMap, HeaderName, header};

use super::{
    super::h1::{Line, Lines, Names},
    HTTP2_SETTINGS, Head, KEEP_ALIVE, OURS, PROXY_CONNECTION, X_REQUEST_ID,
};

/// Writes the lines of a trailer section that may go on, whichever way they go.
pub(in crate::proxy) fn write_trailers(into: &mut Vec<u8>, section: &[u8], lines: &Lines) {
    let fit = |line: Line| HeaderName::from_bytes(line.name_in(section)).is_ok_and(|name| !is_for_heads(&name));
    Head { octets: section, lines }.copy(into, None, Names::default(), fit);
}

/// Takes out of a trailer section, whichever way it goes, what no trailer may say (RFC 9110 §6.5.1): fields that frame,
/// route, authenticate or modify their message, or describe its content. Whoever merged them into the head would act on
/// what nobody has checked.
pub(in crate::proxy) fn clean_trailers(trailers: &mut HeaderMap) {
    let unfit: Vec<HeaderName> = trailers.keys().filter(|name| is_for_heads(name)).cloned().collect();
    for name in unfit {
        trailers.remove(name);
    }
}

fn is_for_heads(name: &HeaderName) -> bool {
    const UNFIT: [HeaderName; 35] = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::UPGRADE,
        HTTP2_SETTINGS,
        header::TE,
        header::TRAILER,
        header::HOST,
        header::VIA,
        X_REQUEST_ID,
        header::AUTHORIZATION,
        header::WWW_AUTHENTICATE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
        header::EXPECT,
        header::MAX_FORWARDS,
        header::CACHE_CONTROL,
        header::PRAGMA,
        header::AGE,
        header::EXPIRES,
        header::DATE,
        header::VARY,
        header::LOCATION,
        header::RETRY_AFTER,
        header::RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
    ];
    let text = name.as_str();
    UNFIT.contains(name) || text == "forwarded" || text.starts_with("x-forwarded-") || text.starts_with(OURS)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_trailer_says_nothing_that_is_for_heads() {
        let unfit = [
            "content-length",
            "transfer-encoding",
            "connection",
            "host",
            "te",
            "trailer",
            "authorization",
            "cookie",
            "set-cookie",
            "x-forwarded-for",
            "x-forwarded-port",
            "forwarded",
            "x-tealgate-revision",
            "x-request-id",
            "content-type",
            "expect",
            "max-forwards",
            "cache-control",
        ];
        let mut trailers = HeaderMap::new();
        for name in unfit.into_iter().chain(["grpc-status", "server-timing", "digest"]) {
            trailers.append(name, HeaderValue::from_static("1"));
            trailers.append(name, HeaderValue::from_static("2"));
        }
        clean_trailers(&mut trailers);
        let mut left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["digest", "grpc-status", "server-timing"]);
        assert_eq!(trailers.len(), 6, "each with all its lines");
    }
}
