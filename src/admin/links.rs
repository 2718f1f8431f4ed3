//! Links that show an app's preview to whoever opens them. The switch signs what they are made of; here they become URLs.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use form_urlencoded::Serializer;
use http::uri::Authority;
use tracing::info;

use super::{
    action::{Action, AppPath},
    api::{PreviewLink, PreviewLinkRequest},
    problem::{Error, LinkProblems},
    routes::Admin,
};
use crate::switch::{Invitation, Invited};

/// The longest that a link may be good, in seconds: 30 days.
const LONGEST: u64 = 30 * 24 * 3600;

/// Makes a link that shows the preview on the live host.
///
/// Whoever opens it gets a signed cookie, and from then on sees the candidate there, until the link ends or
/// `/.tealgate/preview?off` is opened. The app must have `preview.cookie` in its configuration.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/preview-link", operation_id = "previewLink", tag = "actions",
    params(AppPath), request_body = Option<PreviewLinkRequest>,
    responses((status = 200, description = "The link.", body = PreviewLink), LinkProblems),
)]
pub(super) async fn preview_link(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<PreviewLinkRequest>,
) -> Result<Json<PreviewLink>, Error> {
    terms.must_be_none()?;
    let PreviewLinkRequest { ttl_seconds, host, return_to, subject } = body;
    if ttl_seconds.is_some_and(|ttl| !(1..=LONGEST).contains(&ttl)) {
        return Err(Error::invalid("ttlSeconds is out of bounds", format!("use 1 to {LONGEST}")));
    }
    let origin = host.as_deref().map(Origin::read).transpose()?;
    let (app, actor) = (terms.app, terms.caller.name().to_owned());
    let invitation = Invitation {
        app: app.clone(),
        by: actor.clone(),
        subject: subject.clone(),
        ttl: ttl_seconds.map(Duration::from_secs),
        host: origin.as_ref().map(|origin| origin.host.clone()),
    };
    let invited = admin.api.control.invite(invitation).await?;
    let expires = invited.expires;
    info!(actor, %app, subject = subject.as_ref().map(tracing::field::display), %expires, "preview link");
    let url = url(origin, &invited, return_to.as_deref());
    Ok(Json(PreviewLink { app: app.to_string(), url, expires }))
}

/// Where a link leads to.
struct Origin {
    scheme: &'static str,
    /// With its port.
    authority: String,
    /// In lower case, without port.
    host: String,
}

impl Origin {
    fn read(given: &str) -> Result<Self, Error> {
        let (scheme, rest) = match given.split_once("://") {
            Some(("http", rest)) => ("http", rest),
            Some(("https", rest)) => ("https", rest),
            Some(_) => ("", ""),
            None => ("https", given),
        };
        let authority = rest.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(|| {
            let hint = "write HOST, HOST:PORT, or http://HOST:PORT where there is no TLS";
            Error::invalid(format!("{given:?} is not a host that a link could lead to"), hint)
        })?;
        let host = authority.host().to_ascii_lowercase();
        Ok(Self { scheme, authority: authority.to_string(), host })
    }
}

fn url(origin: Option<Origin>, invited: &Invited, return_to: Option<&str>) -> String {
    let Invited { host, path, token, .. } = invited;
    let (scheme, authority) = origin.map_or(("https", host.clone()), |origin| (origin.scheme, origin.authority));
    let mut query = Serializer::new(String::new());
    query.append_pair("token", token);
    if let Some(path) = return_to {
        query.append_pair("return", path);
    }
    format!("{scheme}://{authority}{path}?{}", query.finish())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_host_may_come_with_a_port_and_a_scheme() {
        let read = |given| Origin::read(given).map(|o| (o.scheme, o.authority, o.host)).map_err(|error| error.code);
        let is = |scheme, authority: &str, host: &str| Ok((scheme, authority.to_owned(), host.to_owned()));
        assert_eq!(read("Shop.test"), is("https", "Shop.test", "shop.test"));
        assert_eq!(read("http://127.0.0.1:8080"), is("http", "127.0.0.1:8080", "127.0.0.1"));
        assert_eq!(read("https://[::1]:8443"), is("https", "[::1]:8443", "[::1]"));
        for bad in ["", "ftp://shop.test", "shop.test/x", "ann@shop.test", "a b", "https://"] {
            assert_eq!(read(bad), Err("invalid"), "{bad}");
        }
    }

    #[test]
    fn what_is_in_a_link_comes_out_of_it_again() {
        let invited = Invited {
            host: "shop.test".into(),
            path: "/.tealgate/preview".into(),
            token: "1:shop:ann.a-b_c".into(),
            expires: Timestamp::UNIX_EPOCH,
        };
        let url = url(None, &invited, Some("/cart?id=1&x=a b"));
        let (place, query) = url.split_once('?').unwrap();
        assert_eq!(place, "https://shop.test/.tealgate/preview");
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let expected = [("token", "1:shop:ann.a-b_c"), ("return", "/cart?id=1&x=a b")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
