//! The one form in which the proxy asks a browser to keep something: `Set-Cookie` field lines (RFC 6265 §4.1).

use std::{fmt::Write, time::Duration};

/// A cookie of the proxy's own. No script reads it, and other sites' pages do not send it.
pub struct SetCookie<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a str,
    /// How long it is kept, in whole seconds: zero takes it away, `None` keeps it as long as the browser runs.
    pub keep: Option<Duration>,
    /// Whether it is for TLS connections only.
    pub secure: bool,
}

impl SetCookie<'_> {
    /// Its lines, each with its line end: one for each of these path prefixes, so that apps which share a host do not take
    /// each other's; or one for all paths.
    pub fn lines(&self, paths: &[String]) -> Box<str> {
        let all = [String::from("/")];
        let paths = if paths.is_empty() { &all } else { paths };
        let Self { name, value, .. } = self;
        let mut lines = String::new();
        for path in paths {
            // Such a path cannot be said in a cookie (RFC 6265 §4.1.1).
            let path = if path.contains(';') { "/" } else { path };
            // Writing to a string cannot fail.
            write!(lines, "set-cookie: {name}={value}; Path={path}; HttpOnly; SameSite=Lax").ok();
            if let Some(keep) = self.keep {
                write!(lines, "; Max-Age={}", keep.as_secs()).ok();
            }
            lines.push_str(if self.secure { "; Secure\r\n" } else { "\r\n" });
        }
        lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_other_sites_are_kept_away_from_a_cookie() {
        let cookie = SetCookie { name: "a", value: "b:1", keep: None, secure: false };
        assert_eq!(&*cookie.lines(&[]), "set-cookie: a=b:1; Path=/; HttpOnly; SameSite=Lax\r\n");
    }

    #[test]
    fn a_cookie_is_kept_for_the_apps_own_paths() {
        let cookie = SetCookie { name: "a", value: "b", keep: Some(Duration::from_secs(60)), secure: true };
        assert_eq!(
            &*cookie.lines(&["/api", "/odd;path"].map(str::to_owned)),
            "set-cookie: a=b; Path=/api; HttpOnly; SameSite=Lax; Max-Age=60; Secure\r\n\
             set-cookie: a=b; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure\r\n"
        );
    }
}
