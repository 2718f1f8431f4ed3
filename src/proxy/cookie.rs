//! Finding one cookie in a `Cookie` field (RFC 6265 §5.4). It comes from a client, so anything may stand there: what is no
//! `name=value` is passed over, nothing is decoded, and nothing is allocated; the cost is one walk over a field whose size
//! the listener has limited.

/// The value of the first cookie of this name, without white space around it. Names are compared with their case.
pub(super) fn cookie<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = field;
    while !rest.is_empty() {
        let end = memchr::memchr(b';', rest).unwrap_or(rest.len());
        let pair = rest[..end].trim_ascii_start();
        rest = rest.get(end + 1..).unwrap_or_default();
        if let Some(after) = pair.strip_prefix(name.as_bytes())
            && let Some(value) = after.trim_ascii_start().strip_prefix(b"=")
        {
            return Some(value.trim_ascii());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_cookie_of_a_name_is_found_wherever_it_stands() {
        for (field, expected) in [
            ("user=7", Some("7")),
            ("a=b; user=7", Some("7")),
            ("a=b;user=7;c=d", Some("7")),
            ("a=b; user=7; user=8", Some("7")),
            (" \tuser = 7 \t", Some("7")),
            ("user=", Some("")),
            ("user=a=b==", Some("a=b==")),
            ("user=\"7\"", Some("\"7\"")),
            ("", None),
            ("user", None),
            ("User=7", None),
            ("superuser=7", None),
            ("username=7", None),
            ("user name=7", None),
            ("a=user=7", None),
            (";;; ; =; =user; user", None),
        ] {
            let found = cookie(field.as_bytes(), "user");
            assert_eq!(found, expected.map(str::as_bytes), "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_without_harm(field: Vec<u8>, value in "[!#-+.-:<-~]{0,40}") {
            cookie(&field, "user");
            let mut field: Vec<_> = field.into_iter().filter(|octet| *octet != b'u').collect();
            field.extend_from_slice(b";user=");
            field.extend_from_slice(value.as_bytes());
            prop_assert_eq!(cookie(&field, "user"), Some(value.as_bytes()));
        }
    }
}
