//! What is asked of the switchboard: orders, notes of what another authority has done, and invitations. Each is answered, be
//! it with a refusal.

use jiff::{SignedDuration, Timestamp, Unit};
use tokio::sync::oneshot;

use super::{
    super::{
        authority::Note,
        control::{Command, Invitation, Invited, Order, Refusal, RefusalCode},
        name::{AppName, Role, Subject},
        preview::{DOOR, Pass},
        rollout::{Input, Step},
        status::{Happening, Receipt},
    },
    Switchboard,
};

impl Switchboard {
    pub(super) async fn order(&mut self, order: Order, reply: oneshot::Sender<Result<Receipt, Refusal>>) {
        // Whoever is refused finds on the board why.
        self.flush();
        let (name, action, by) = (order.app.clone(), order.command.action(), order.by.clone());
        let dry_run = order.dry_run;
        let decided = self.decide(order);
        let refusal = match decided {
            Ok(step) if dry_run => {
                reply.send(Ok(Receipt { dry_run: true, ..self.receipt(&name, &step, &step.deeds[0]) })).ok();
                return;
            }
            Ok(step) => match self.carry_out(&name, step, Some(reply)).await {
                Ok(()) => return,
                Err((refusal, reply)) => {
                    if let Some(reply) = reply {
                        reply.send(Err(refusal.clone())).ok();
                    }
                    refusal
                }
            },
            Err(refusal) => {
                reply.send(Err(refusal.clone())).ok();
                refusal
            }
        };
        // A dry run only asks; nothing has happened to the app.
        if dry_run {
            return;
        }
        self.tell_refused(&name, action, by, &refusal);
    }

    pub(super) async fn note(&mut self, note: Note, reply: oneshot::Sender<Result<Receipt, Refusal>>) {
        let name = note.app.clone();
        let step = match self.apps.get(&name) {
            Some(app) => app.rollout.handle(Input::Noted(note), Timestamp::now()),
            None => Err(self.unknown_app(&name)),
        };
        let refused = match step {
            Ok(step) => self.carry_out(&name, step, Some(reply)).await,
            Err(refusal) => Err((refusal, Some(reply))),
        };
        if let Err((refusal, Some(reply))) = refused {
            reply.send(Err(refusal)).ok();
        }
        self.refresh(&name).await;
    }

    fn decide(&self, order: Order) -> Result<Step, Refusal> {
        let Order { app: name, mut command, by, reason, if_generation, dry_run } = order;
        if let Command::PromoteHeld { revision, skip_gates, .. } = &mut command
            && dry_run
        {
            // What would happen is the promotion; the hold is how.
            command = Command::Promote { revision: revision.take(), skip_gates: *skip_gates };
        }
        let app = self.apps.get(&name).ok_or_else(|| self.unknown_app(&name))?;
        let skips = matches!(
            command,
            Command::Promote { skip_gates: true, .. } | Command::PromoteHeld { skip_gates: true, .. }
        );
        if skips && reason.trim().is_empty() {
            let detail = "skipping gates wants a reason";
            return Err(Refusal::new(RefusalCode::Invalid, detail, "say why; it goes into the journal"));
        }
        app.rollout.handle(Input::Order { command, by, reason, if_generation }, Timestamp::now())
    }

    /// Makes what a link for a tester is made of: only the switch has the secrets.
    pub(super) fn invite(&mut self, invitation: Invitation) -> Result<Invited, Refusal> {
        let Invitation { app: name, by, subject, ttl, host } = invitation;
        let app = self.apps.get(&name).ok_or_else(|| self.unknown_app(&name))?;
        let invalid = |detail: String, hint: &str| Refusal::new(RefusalCode::Invalid, detail, hint);
        let Some(cookie) = &app.matching.preview.cookie else {
            let hint = "set preview.cookie.secret in the configuration, and reload";
            return Err(invalid(format!("{name} has no preview cookie"), hint));
        };
        let hint = "say which live host of the app the link is for";
        let Some(host) = host.or_else(|| app.matching.first_host()) else {
            return Err(invalid(format!("{name} names no host that a link could lead to"), hint));
        };
        let path = format!("{}{DOOR}", app.matching.paths.first().map_or("", |prefix| prefix.trim_end_matches('/')));
        if !self.leads_to(&name, &host, &path) {
            return Err(invalid(format!("{host} is not a live host of {name}"), hint));
        }
        let ttl = SignedDuration::try_from(ttl.unwrap_or(cookie.ttl)).unwrap_or(SignedDuration::MAX);
        let expires = Timestamp::now().checked_add(ttl).and_then(|at| at.round(Unit::Second)).ok();
        let pass = expires.map(|expires| Pass { app: name.clone(), expires, subject });
        let token = pass.as_ref().and_then(|pass| Some((cookie.sign(pass)?, pass)));
        let Some((token, Pass { expires, subject, .. })) = token else {
            return Err(invalid("the link would never end".to_owned(), "give it a shorter time"));
        };
        let (expires, subject) = (*expires, subject.as_ref().map(Subject::to_string));
        self.tell(&name, Happening::Invited { by, subject, expires });
        Ok(Invited { host, path, token, expires })
    }

    /// Whether live requests with this host and path are the app's.
    fn leads_to(&self, name: &AppName, host: &str, path: &str) -> bool {
        let view = self.shared.current.view();
        let found = view.value.find(host, path);
        found.is_some_and(|(index, role)| role == Role::Active && view.value.routes()[index].app == *name)
    }

    fn unknown_app(&self, name: &AppName) -> Refusal {
        let known: Vec<_> = self.apps.keys().map(AppName::as_str).collect();
        let hint = match known.as_slice() {
            [] => "the configuration names no app".to_owned(),
            known => format!("known are: {}", known.join(", ")),
        };
        Refusal::new(RefusalCode::UnknownApp, format!("there is no app {name}"), hint)
    }
}
