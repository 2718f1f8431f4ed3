//! What upstreams are told of a client's certificate: one `X-Forwarded-Client-Cert` line in Envoy's format,
//! `Hash=<SHA-256 of the certificate, in hexadecimal>;Subject="<RFC 4514 name>"`, made once for a connection. It is plain
//! ASCII without control characters, whatever the certificate holds, and what clients send under that name never passes.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    der_parser::{asn1_rs::ToDer, oid::Oid},
    oid_registry::{
        OID_DOMAIN_COMPONENT, OID_PKCS9_EMAIL_ADDRESS, OID_USERID, OID_X509_COMMON_NAME, OID_X509_COUNTRY_NAME,
        OID_X509_LOCALITY_NAME, OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT, OID_X509_SERIALNUMBER,
        OID_X509_STATE_OR_PROVINCE_NAME, OID_X509_STREET_ADDRESS,
    },
    prelude::{FromDer, X509Certificate},
    x509::{AttributeTypeAndValue, X509Name},
};

/// A longer subject is left out, so that it cannot make heads too large for upstreams; the hash names the certificate.
const LONGEST_SUBJECT: usize = 2048;

/// The field line that tells of this certificate, if that can be read and is valid now. A resumed session does not show the
/// certificate again, so its end is looked at here.
pub(super) fn line(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    if !certificate.validity().is_valid() {
        return None;
    }
    let mut line = "x-forwarded-client-cert: Hash=".to_owned();
    write_hex(&mut line, digest(&SHA256, leaf).as_ref());
    let subject = name(certificate.subject());
    if subject.len() <= LONGEST_SUBJECT {
        line.extend([";Subject=\"", &subject, "\""]);
    }
    line.push_str("\r\n");
    Some(line)
}

/// RFC 4514: the most specific part first.
fn name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for (index, part) in parts.iter().rev().enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        for (index, attribute) in part.iter().enumerate() {
            text.push_str(if index == 0 { "" } else { "+" });
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    match (short(attribute.attr_type()), attribute.as_str()) {
        (Some(short), Ok(value)) => {
            text.extend([short, "="]);
            write_escaped(text, value);
        }
        // RFC 4514 §2.4: whatever it is, its encoding says it.
        _ => {
            text.extend([attribute.attr_type().to_id_string().as_str(), "=#"]);
            write_hex(text, &attribute.attr_value().to_der_vec().unwrap_or_default());
        }
    }
}

/// The names of RFC 4514 §3, and two more that everybody writes.
fn short(kind: &Oid<'_>) -> Option<&'static str> {
    let known = [
        (OID_X509_COMMON_NAME, "CN"),
        (OID_X509_LOCALITY_NAME, "L"),
        (OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
        (OID_X509_ORGANIZATION_NAME, "O"),
        (OID_X509_ORGANIZATIONAL_UNIT, "OU"),
        (OID_X509_COUNTRY_NAME, "C"),
        (OID_X509_STREET_ADDRESS, "STREET"),
        (OID_DOMAIN_COMPONENT, "DC"),
        (OID_USERID, "UID"),
        (OID_PKCS9_EMAIL_ADDRESS, "emailAddress"),
        (OID_X509_SERIALNUMBER, "serialNumber"),
    ];
    known.into_iter().find(|(known, _)| known == kind).map(|(_, short)| short)
}

fn write_escaped(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, octet) in value.bytes().enumerate() {
        match octet {
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b'#' if at == 0 => text.push_str("\\#"),
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => text.extend(['\\', char::from(octet)]),
            b' '..=b'~' => text.push(char::from(octet)),
            _ => {
                text.push('\\');
                write_hex(text, &[octet]);
            }
        }
    }
}

fn write_hex(text: &mut String, octets: &[u8]) {
    for octet in octets {
        // Writing to a string does not fail.
        write!(text, "{octet:02x}").ok();
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, date_time_ymd, string::BmpString};

    use super::*;

    fn made(name: &[(DnType, &str)], change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in name {
            params.distinguished_name.push(kind.clone(), *value);
        }
        change(&mut params);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").into()
    }

    #[test]
    fn the_line_names_the_certificate_and_its_subject() {
        let parts = [(DnType::CountryName, "DE"), (DnType::OrganizationName, "Shop"), (DnType::CommonName, "till 7")];
        let leaf = made(&parts, |_| {});
        let line = line(&leaf).expect("a line");
        let (hash, subject) = line.split_once(';').expect("two parts");
        assert_eq!(subject, "Subject=\"CN=till 7,O=Shop,C=DE\"\r\n");
        let hash = hash.strip_prefix("x-forwarded-client-cert: Hash=").expect("a hash");
        assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
        assert_ne!(super::line(&made(&parts, |_| {})).expect("a line"), line, "another key, another hash");
    }

    #[test]
    fn whatever_the_subject_holds_the_line_is_one_line_and_its_quotes_are_two() {
        for (value, written) in [
            ("a\"b;c,d=e", r#"a\"b\;c\,d=e"#),
            (" #a\r\nX-Evil: 1 ", r"\ #a\0d\0aX-Evil: 1\ "),
            ("#a\\", r"\#a\\"),
            ("é\0", r"\c3\a9\00"),
            ("", ""),
        ] {
            let leaf = made(&[(DnType::CommonName, value)], |_| {});
            let line = line(&leaf).expect("a line");
            assert!(line.ends_with(&format!(";Subject=\"CN={written}\"\r\n")), "{line}");
            assert_eq!(line.matches("\r\n").count(), 1, "{line}");
        }
        let long = made(&[(DnType::CommonName, &"x".repeat(3000))], |_| {});
        assert!(line(&long).is_some_and(|line| !line.contains("Subject")));
        let odd = made(&[(DnType::CustomDnType(vec![1, 2, 3, 4]), "A")], |params| {
            let wide = BmpString::try_from("é").expect("a string");
            params.distinguished_name.push(DnType::CommonName, DnValue::BmpString(wide));
        });
        assert!(line(&odd).is_some_and(|line| line.contains("Subject=\"2.5.4.3=#1e0200e9,1.2.3.4=#0c0141\"")));
    }

    #[test]
    fn a_certificate_that_has_ended_says_nothing() {
        let ended = made(&[], |params| params.not_after = date_time_ymd(2020, 1, 1));
        assert_eq!(line(&ended), None);
        assert_eq!(line(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
