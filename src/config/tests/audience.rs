//! Who sees which revision, as the file says it.

use super::*;
use crate::switch::{Fallback, Mark, SplitRule, Sticky};

#[test]
fn every_way_to_the_candidate_and_every_restriction_reaches_its_place() {
    let digest = "0123456789abcdef".repeat(4);
    let access = shop(&format!(
        r#"    preview:
      header: {{ name: X-Preview, value: "${{APP_HOST}}" }}
      cookie: {{ name: peek, secret: ["0123456789abcdef", "fedcba9876543210"], ttl: 30m }}
      credentials: [{{ user: ann, sha256: {digest} }}, {{ sha256: {digest} }}]
      fallback: active"#
    ))
    .matching
    .preview;
    let header = access.header.unwrap();
    assert_eq!((header.name.as_str(), header.value), ("x-preview", Some(Secret::new(b"shop.test"))));
    let cookie = access.cookie.unwrap();
    assert_eq!((cookie.name.as_str(), cookie.ttl.as_secs()), ("peek", 1800));
    assert_eq!(cookie.secrets, [Secret::new(b"0123456789abcdef"), Secret::new(b"fedcba9876543210")]);
    let users: Vec<_> = access.credentials.iter().map(|credential| credential.user.as_deref()).collect();
    assert_eq!(users, [Some("ann"), None]);
    assert_eq!(access.credentials[0].sha256[..4], [0x01, 0x23, 0x45, 0x67]);
    assert_eq!(access.fallback, Fallback::Active);

    let cookie = shop("    preview: { cookie: { secret: 0123456789abcdef } }").matching.preview.cookie.unwrap();
    assert_eq!((cookie.name.as_str(), cookie.ttl.as_secs(), cookie.secrets.len()), ("tealgate-preview", 8 * 3600, 1));
}

#[test]
fn shares_and_rules_reach_their_place() {
    let split = |more: &str| shop(more).policy.split.clone();
    assert_eq!(split("    weight: 5%").weight.percent(), 5);
    assert_eq!(split("    weight: 0").weight.percent(), 0);
    let rules = split(r#"    ab: { rules: [{ header: X-Beta, equals: "1" }, { cookie: Beta }] }"#).rules;
    let rule = |mark, equals: Option<&str>| SplitRule { mark, equals: equals.map(str::to_owned) };
    let expected = [rule(Mark::Header("x-beta".into()), Some("1")), rule(Mark::Cookie("Beta".into()), None)];
    assert_eq!(rules, expected);
    for (written, sticky) in [
        ("cookie: session", Sticky::Mark(Mark::Cookie("session".into()))),
        ("header: X-User", Sticky::Mark(Mark::Header("x-user".into()))),
        ("client_ip: true", Sticky::ClientIp),
    ] {
        assert_eq!(split(&format!("    ab: {{ sticky: {{ {written} }} }}")).sticky, sticky);
    }
    assert_eq!(split("    weight: 5%").sticky, Sticky::OwnCookie);
}

#[test]
fn mistakes_about_who_sees_what_are_told_and_no_secret_with_them() {
    for (more, expected) in [
        (
            "    preview: { cookie: { secret: hunter2 } }",
            &["6:34: this secret is too short; it wants 16 octets or more; `openssl rand -hex 32` makes a good one"][..],
        ),
        ("    preview: { cookie: { secret: [] } }", &["6:34: this list is empty; name at least one secret"]),
        ("    preview: { cookie: { ttl: 1h } }", &["6:26: `secret` is missing"]),
        (
            "    preview: { cookie: { secret: 0123456789abcdef, ttl: 1000h, name: a=b } }",
            &[
                "6:57: \"1000h\" is too long; use 720h or less",
                "6:70: \"a=b\" is not the name of a cookie; use letters, digits, '-' and '_'",
            ],
        ),
        (
            "    preview: { header: { name: \"X Preview\", value: \"\" } }",
            &[
                "6:32: \"X Preview\" is not the name of a header; write it like X-Preview",
                "6:52: this secret is too short; it wants 1 octets or more; `openssl rand -hex 32` makes a good one",
            ],
        ),
        (
            "    preview: { credentials: [{ user: \"a:b\", sha256: hunter2 }] }",
            &[
                "6:38: \"a:b\" is not a user's name; it has no `:` and no control character",
                "6:53: this is not a SHA-256 in hexadecimal; `printf %s PASSWORD | sha256sum` prints it",
            ],
        ),
        (
            "    preview: { credentials: [] }",
            &["6:29: this list is empty, so nobody would be let in; leave the key out, or name at least one"],
        ),
        (
            "    preview: { fallback: live }",
            &["6:26: \"live\" is not something testers can get instead; use one of none, active"],
        ),
        ("    weight: 0.5%", &["6:13: \"0.5%\" is not a share: write a whole percentage from 0% to 100%, such as 5%"]),
        (
            "    ab: { sticky: { cookie: a, client_ip: true }, rules: [{ equals: x }, { header: a, cookie: b }] }",
            &[
                "6:19: a user is known by one thing; use one of cookie, header, client_ip; leave `sticky` out for our own \
                 cookie",
                "6:59: a rule looks at one thing; use one of header, cookie",
                "6:74: a rule looks at one thing; use one of header, cookie",
            ],
        ),
        (
            "    ab: { sticky: {} }",
            &[
                "6:19: a user is known by one thing; use one of cookie, header, client_ip; leave `sticky` out for our own cookie",
            ],
        ),
    ] {
        assert_eq!(told(with_shop(more)), expected, "{more}");
    }
}

#[test]
fn a_secret_may_be_in_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tealgate.yaml");
    std::fs::write(&file, format!("{SHOP}    preview: {{ cookie: {{ secret: \"file:keys/preview\" }} }}\n")).unwrap();
    let errors = Config::load(&file).unwrap_err();
    assert!(errors.summary().contains("keys/preview: No such file"), "{errors}");
    std::fs::create_dir(dir.path().join("keys")).unwrap();
    let secret = dir.path().join("keys/preview");
    std::fs::write(&secret, "0123456789abcdef\n").unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.files(), [secret]);
    let cookie = config.desired.apps.values().next().unwrap().matching.preview.cookie.clone().unwrap();
    assert_eq!(cookie.secrets, [Secret::new(b"0123456789abcdef")], "without the line's end");
    // Where files are not opened, nobody knows what stands in for the secret.
    let guess = || shop("    preview: { cookie: { secret: \"file:keys/preview\" } }").matching.preview.cookie;
    assert_ne!(guess(), guess());
}
