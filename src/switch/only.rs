//! Which candidate is meant by whoever gives one up: what is named is given up, or nothing is.

use super::{
    control::{Refusal, RefusalCode},
    name::{AppName, Revision},
};

/// The label that says which images a revision is made of, with commas between.
pub const IMAGE: &str = "image";

/// The one candidate that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Only {
    /// The one of this name.
    Revision(Revision),
    /// The one made of this image: `NAME:TAG`, or its digest (`sha256:…`).
    Image(String),
}

impl Only {
    /// By what was said: the revision's name, or else its image; `None` where neither was.
    pub fn of(revision: Option<Revision>, image: Option<String>) -> Option<Self> {
        revision.map(Self::Revision).or(image.map(Self::Image))
    }

    /// Whether a revision, made of these images, is meant.
    pub fn is(&self, revision: &str, images: &str) -> bool {
        match self {
            Self::Revision(meant) => meant.as_str() == revision,
            Self::Image(meant) => is_made_of(images, meant),
        }
    }

    /// What is meant, in words.
    pub fn in_words(&self) -> String {
        match self {
            Self::Revision(revision) => revision.to_string(),
            Self::Image(image) => format!("a revision of {image}"),
        }
    }

    /// The answer to whoever means what carries live traffic.
    pub fn is_live(&self, app: &AppName) -> Refusal {
        let detail = format!("{} is active in {app} already", self.in_words());
        Refusal::new(RefusalCode::AlreadyActive, detail, "to take live traffic from it, roll back")
    }

    /// The answer to whoever means none of these.
    pub fn is_no_candidate(&self, app: &AppName, candidate: Option<&str>) -> Refusal {
        let meant = self.in_words();
        match candidate {
            Some(candidate) => {
                let detail = format!("{meant} is no candidate of {app}; the candidate is {candidate}");
                Refusal::new(RefusalCode::Overtaken, detail, "that one was left alone; to give it up, name it")
            }
            None => {
                let detail = format!("{meant} is no candidate of {app}: there is none");
                Refusal::new(RefusalCode::NoCandidate, detail, "there is nothing to do")
            }
        }
    }
}

/// Whether one of these images, with commas between, is the wanted one: by name and tag, or by its digest.
pub fn is_made_of(images: &str, wanted: &str) -> bool {
    let digest = |image: &str| match image.split_once('@') {
        Some((_, digest)) => Some(digest.to_owned()),
        None => image.starts_with("sha256:").then(|| image.to_owned()),
    };
    let same = |image: &str| {
        let tagged = image.split_once('@').map_or(image, |(tagged, _)| tagged);
        image == wanted || tagged == wanted || digest(image).is_some_and(|its| digest(wanted) == Some(its))
    };
    images.split(',').map(str::trim).any(same)
}
