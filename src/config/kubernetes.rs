//! What the file says of a cluster, and of the objects there that apps follow. Whose word counts is settled here too: what
//! Argo Rollouts decides, the file must not decide as well.

use std::sync::Arc;

use schemars::{Schema, json_schema};
use serde_saphyr::Location;

use super::{
    error::{Wrong, quoted},
    file,
    node::{Given, Placed, Text},
    notation::Notation,
    pass::Pass,
};
use crate::{
    source::{Cluster, Objects, PortName, Target},
    switch::{AutoPromotion, Followed, Matching, Policy, Weight},
};

/// The name of a namespace (RFC 1123 label).
#[derive(Clone, Debug)]
pub(super) struct NamespaceName(pub(super) String);

impl Notation for NamespaceName {
    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("{} is no name of a namespace", quoted(text)));
        let sound = is_label(text) && text.len() <= 63;
        let hint = "use up to 63 lower-case letters, digits and `-`, with a letter or digit at both ends";
        if sound { Ok(Self(text.to_owned())) } else { Err(wrong().hint(hint)) }
    }
}

/// The name of an object in a cluster (RFC 1123 subdomain).
#[derive(Clone, Debug)]
pub(super) struct ObjectName(pub(super) String);

impl Notation for ObjectName {
    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("{} is no name of an object in a cluster", quoted(text)));
        let sound = text.split('.').all(is_label) && text.len() <= 253;
        let hint = "use lower-case letters, digits, `-` and `.`, with a letter or digit at both ends; its namespace is a key \
                    of its own";
        if sound { Ok(Self(text.to_owned())) } else { Err(wrong().hint(hint)) }
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

impl Notation for PortName {
    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("{} is no port of a Service", quoted(text)));
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let number = text.parse().ok().filter(|number| *number > 0);
            return number.map(Self::Number).ok_or_else(|| wrong().hint("use 1 to 65535, or the port's name"));
        }
        let sound = is_label(text) && text.len() <= 63;
        if sound { Ok(Self::Name(text.to_owned())) } else { Err(wrong().hint("use its name, or its number")) }
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "integer"] })
    }
}

/// The name of a context in a kubeconfig, which may be anything.
#[derive(Clone, Debug)]
pub(super) struct ContextName(String);

impl Notation for ContextName {
    fn read(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() { Err(Wrong::new("the context's name is missing")) } else { Ok(Self(text.to_owned())) }
    }
}

impl From<NamespaceName> for Option<String> {
    fn from(NamespaceName(name): NamespaceName) -> Self {
        Some(name)
    }
}

impl From<ContextName> for Option<String> {
    fn from(ContextName(name): ContextName) -> Self {
        Some(name)
    }
}

impl Pass<'_> {
    pub(super) fn cluster(&mut self, written: &file::Cluster) -> Cluster {
        let kubeconfig = written.kubeconfig.get().and_then(|path| self.read(path)).map(|path| self.path(&path));
        let mut cluster = Cluster { kubeconfig, context: None };
        self.set(&mut cluster.context, &written.context);
        cluster
    }

    /// What an app follows in the cluster.
    pub(super) fn target(&mut self, Placed { value: written, place }: &Placed<file::Kubernetes>) -> Option<Target> {
        if !cfg!(feature = "kubernetes") {
            let wrong = Wrong::new("this program was built without Kubernetes");
            self.wrong(
                *place,
                wrong.hint("use one that was built with its feature `kubernetes`, which is the default"),
            );
        }
        let objects = self.objects(written, *place)?;
        let mut target = Target { namespace: None, objects, port: None };
        self.set(&mut target.namespace, &written.namespace);
        target.port = written.port.get().and_then(|port| self.read(port));
        Some(target)
    }

    fn objects(&mut self, written: &file::Kubernetes, place: Location) -> Option<Objects> {
        let mut name = |given: &Given<Text<ObjectName>>| Some(self.read(given.get()?)?.0);
        let (rollout, active, preview) =
            (name(&written.rollout), name(&written.active_service), name(&written.preview_service));
        let services = (written.active_service.get(), written.preview_service.get());
        match (written.rollout.get(), services) {
            (Some(_), (None, None)) => Some(Objects::Rollout(rollout?)),
            (Some(_), (Some(service), _) | (None, Some(service))) => {
                let wrong = Wrong::new("a Rollout names its Services itself");
                self.wrong(
                    service.place,
                    wrong.hint("remove this, or follow the two Services alone, without `rollout`"),
                );
                None
            }
            (None, (Some(_), Some(second))) => {
                let (active, preview) = active.zip(preview)?;
                if active == preview {
                    let wrong = Wrong::new("one Service cannot stand for live traffic and for the candidate as well");
                    self.wrong(
                        second.place,
                        wrong.hint("make a second one, whose selector finds the candidate's pods"),
                    );
                }
                Some(Objects::Services { active, preview })
            }
            (None, (Some(service), None) | (None, Some(service))) => {
                let wrong = Wrong::new("one of the two Services is missing");
                self.wrong(service.place, wrong.hint("name both `active_service` and `preview_service`"));
                None
            }
            (None, (None, None)) => {
                let wrong = Wrong::new("it is not said what to follow");
                self.wrong(place, wrong.hint("name a `rollout`, or `active_service` and `preview_service`"));
                None
            }
        }
    }

    /// The app that follows this target.
    pub(super) fn followed(
        &mut self,
        app: &file::App,
        target: &Target,
        matching: Matching,
        policy: Arc<Policy>,
    ) -> Followed {
        let source = app.source.value.kubernetes.get().map_or(app.source.place, |written| written.place);
        if let Some(auto) = app.promotion.auto.get().filter(|_| policy.promotion.auto != AutoPromotion::Never) {
            let (wrong, hint) = match target.objects {
                Objects::Rollout(_) => (
                    "Argo Rollouts decides when this app is promoted",
                    "remove this; the Rollout has `autoPromotionEnabled` and `autoPromotionSeconds`",
                ),
                Objects::Services { .. } => (
                    "whoever moves the selector of the active Service promotes this app",
                    "remove this, and have the selector moved when the time has come",
                ),
            };
            self.wrong(auto.place, Wrong::new(wrong).hint(hint));
        }
        let by_rollout = matches!(target.objects, Objects::Rollout(_));
        if let Some(weight) = app.weight.get().filter(|_| by_rollout && policy.split.weight != Weight::ZERO) {
            let wrong = Wrong::new("Argo Rollouts decides the candidate's share of this app's live traffic");
            self.wrong(
                weight.place,
                wrong.hint("remove this; a Rollout with the canary strategy has `setWeight` steps"),
            );
        }
        if policy.transport.tls.as_ref().is_some_and(|tls| tls.server_name.is_none()) {
            let wrong = Wrong::new("pods have no name that their certificates could be checked against");
            self.wrong(source, wrong.hint("set `upstream.tls.server_name`"));
        }
        Followed { matching, policy, authority: target.authority() }
    }
}
