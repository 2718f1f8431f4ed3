//! The one form in which the proxy asks a browser to keep something: a `Set-Cookie` field line (RFC 6265 §4.1). It is kept
//! for the app's own paths only, so that apps which share a host do not take each other's.

use std::time::Duration;

/// A cookie of the proxy's own. No script reads it, and other sites' pages do not send it.
pub struct SetCookie<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a str,
    /// How long it is kept, in whole seconds; zero takes it away.
    pub keep: Duration,
    /// Whether it is for TLS connections only.
    pub secure: bool,
}

impl SetCookie<'_> {
    /// Adds its lines, each with its line end, to `lines`: one for each of these path prefixes, or one for all paths.
    pub fn write(&self, paths: &[String], lines: &mut String) {
        let all = [String::from("/")];
        let paths = if paths.is_empty() { &all } else { paths };
        let Self { name, value, .. } = self;
        let (seconds, secure) = (self.keep.as_secs(), if self.secure { "; Secure" } else { "" });
        for path in paths {
            // Such a path cannot be said in a cookie (RFC 6265 §4.1.1).
            let path = if path.contains(';') { "/" } else { path };
            lines.push_str(&format!(
                "set-cookie: {name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}\r\n"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_kept_for_the_apps_own_paths() {
        let cookie = SetCookie { name: "a", value: "b:1", keep: Duration::from_secs(60), secure: false };
        let written = |cookie: &SetCookie<'_>, paths: &[&str]| {
            let (paths, mut lines) = (paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>(), String::new());
            cookie.write(&paths, &mut lines);
            lines
        };
        assert_eq!(written(&cookie, &[]), "set-cookie: a=b:1; Path=/; Max-Age=60; HttpOnly; SameSite=Lax\r\n");
        let two = written(&SetCookie { secure: true, ..cookie }, &["/api", "/odd;path"]);
        assert_eq!(
            two,
            "set-cookie: a=b:1; Path=/api; Max-Age=60; HttpOnly; SameSite=Lax; Secure\r\n\
             set-cookie: a=b:1; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure\r\n"
        );
    }
}
