//! The names the core works with: apps, revisions, generations and roles. They are parsed once, at the edge (file, API,
//! cluster); inside, a name is always a valid one.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most characters a name may have: the limit of a DNS label (RFC 1035 §2.3.4), so that every name fits a
/// Kubernetes label and a metric label.
pub const MAX_NAME: usize = 63;

/// Why a string is no name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{given:?} is not a name: use 1 to {MAX_NAME} letters, digits, '-', '_' or '.', with a letter or digit at both ends"
)]
pub struct NotAName {
    given: String,
}

fn check(given: &str) -> Result<(), NotAName> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bytes = given.as_bytes();
    let edges = [bytes.first(), bytes.last()].iter().all(|b| b.is_some_and(u8::is_ascii_alphanumeric));
    if edges && bytes.len() <= MAX_NAME && bytes.iter().all(|b| inner(*b)) {
        return Ok(());
    }
    let given = given.chars().take(MAX_NAME + 1).collect();
    Err(NotAName { given })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NotAName;

            fn from_str(given: &str) -> Result<Self, NotAName> {
                check(given)?;
                Ok(Self(given.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAName;

            fn try_from(given: String) -> Result<Self, NotAName> {
                given.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// What is fronted and rolled out.
    AppName
}

name! {
    /// One version of the application: a pod-template hash in Kubernetes, a free name elsewhere.
    Revision
}

name! {
    /// Whom a preview pass was made for.
    Subject
}

/// How often an app's roles have changed. It only ever grows, also across restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of an app's pools a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The pool that production traffic goes to.
    Active,
    /// The candidate, reached by its own rule.
    Preview,
}

impl Role {
    /// The role as it stands in labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Preview => "preview",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_plain_and_have_no_loose_ends() {
        for good in ["a", "shop", "6d4f9c-1", "v1.2_3", &"x".repeat(MAX_NAME)] {
            assert!(good.parse::<AppName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a/b", "é", "a\n", &"x".repeat(MAX_NAME + 1)] {
            assert!(bad.parse::<Revision>().is_err(), "{bad}");
        }
    }
}
