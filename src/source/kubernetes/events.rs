//! What was done, as Events on the Rollout, for those who look with `kubectl describe`: flips, rollbacks, holds, and what
//! was refused, with who asked. Best effort: what cannot be said goes unsaid.
//!
//! Every replica sees a flip, and one Event is enough. Its name is made of what happened, and the API server takes each name
//! once; who knows who asked speaks first. What happens again has another name: that of a flip is made of the version of the
//! Service that moved, or of when a rollback was ordered. kube's recorder would not do: it takes all Events of one reason for one, and
//! keeps the first one's words.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tracing::{debug, warn};

use super::{
    agree::BY_ITSELF,
    call::{Call, Failed, Object},
    commands::{Commander, is_flip},
};
use crate::switch::{Action, AppBoard, AppName, Authority, Event, Happening, Receipt, Returned};

/// How long those who do not know who asked leave it to those who do.
const AFTER: Duration = Duration::from_secs(2);
/// The most octets of an Event's words.
const LONGEST: usize = 1000;

/// The reasons that are told apart.
const ALARM: &str = "TealgateAlarm";
const NOT_AGREED: &str = "TealgateNotAgreed";

/// Something to be said on a Rollout.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Notice {
    app: AppName,
    at: Timestamp,
    /// What happened, in one word, as Events have it.
    reason: &'static str,
    warning: bool,
    words: String,
    /// What makes it the same Event at every replica.
    same: String,
    mark: Mark,
    /// Whether somebody else may know better who asked.
    waits: bool,
}

/// What makes it another Event than the last of the same words.
#[derive(Clone, Debug, PartialEq)]
enum Mark {
    /// The minute in which it happened.
    Minute,
    /// The version of the app's active Service, to be asked for at once.
    OfService,
    /// This.
    Known(String),
}

/// Says what happens to the apps, and what it is handed, until nobody can hand it anything any more.
pub(super) async fn say(commander: Commander, mut notices: mpsc::Receiver<Notice>) {
    let listening = listen(&commander);
    let saying = async {
        let mut failing = false;
        let mut not_agreed = BTreeMap::new();
        while let Some(notice) = notices.recv().await {
            match notice.reason {
                NOT_AGREED => _ = not_agreed.insert(notice.app.clone(), notice.words.clone()),
                // It comes back as an alarm of the app.
                ALARM if not_agreed.get(&notice.app) == Some(&notice.words) => continue,
                _ => {}
            }
            let said = publish(&commander, &notice).await;
            match said {
                Ok(()) => failing = false,
                Err(failed) if !std::mem::replace(&mut failing, true) => {
                    let why = failed.refusal();
                    warn!(app = %notice.app, why = why.detail, hint = why.hint, "Events cannot be written");
                }
                Err(_) => debug!(app = %notice.app, reason = notice.reason, "an Event went unsaid"),
            }
        }
    };
    tokio::join!(listening, saying);
}

async fn listen(commander: &Commander) {
    let mut events = commander.viewer.events();
    let mut known = BTreeMap::new();
    loop {
        match events.recv().await {
            Ok(event) => {
                let Ok(app) = event.app.parse::<AppName>() else { continue };
                let board = commander.board(&app).filter(|board| board.rollout.authority() == Authority::ArgoRollouts);
                let Some(board) = board else {
                    known.remove(&app);
                    continue;
                };
                for notice in notices_of(&app, &event, &board, known.entry(app.clone()).or_default()) {
                    hand_in(commander, notice);
                }
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Has a notice said: at once, or after who may know better who asked. Its mark is looked up now in any case.
fn hand_in(commander: &Commander, mut notice: Notice) {
    if !notice.waits && notice.mark != Mark::OfService {
        commander.notices.try_send(notice).ok();
        return;
    }
    let commander = commander.clone();
    tokio::spawn(async move {
        if notice.mark == Mark::OfService {
            let version = version_of_service(&commander, &notice.app).await;
            notice.mark = version.map_or(Mark::Minute, Mark::Known);
        }
        if notice.waits {
            tokio::time::sleep(AFTER).await;
        }
        commander.notices.try_send(notice).ok();
    });
}

/// The version of the app's active Service, if there is one, and it can be asked for.
async fn version_of_service(commander: &Commander, app: &AppName) -> Option<String> {
    let home = commander.home(app).await.ok()??;
    let seen = commander.look(&home).await.ok()?;
    let service = Object::service(&home.namespace, &seen.blue_green()?.active_service);
    let service = commander.server.get(&service).await.ok()?;
    service.pointer("/metadata/resourceVersion")?.as_str().map(str::to_owned)
}

/// What of this is worth an Event; of what is amiss, what was not known before.
fn notices_of(app: &AppName, event: &Event, board: &AppBoard, known: &mut BTreeSet<String>) -> Vec<Notice> {
    match &event.what {
        Happening::Acted { receipt } => {
            Notice::acted(app, event.at, receipt, board.rollout.returned()).into_iter().collect()
        }
        Happening::Refused { action, by, code, detail } => {
            vec![Notice { at: event.at, ..Notice::refused(app, *action, by, code, detail) }]
        }
        Happening::Changed { .. } => {
            let troubles: BTreeMap<_, _> =
                board.rollout.troubles().into_iter().map(|words| (without_figures(&words), words)).collect();
            let before = std::mem::replace(known, troubles.keys().cloned().collect());
            let new = troubles.into_iter().filter(|(same, _)| !before.contains(same));
            new.map(|(same, words)| Notice { at: event.at, same, ..Notice::amiss(app, words) }).collect()
        }
        Happening::Invited { .. } | Happening::Drained { .. } | Happening::Added | Happening::Removed => Vec::new(),
    }
}

/// What is amiss stays the same while it goes from one count to another.
fn without_figures(words: &str) -> String {
    words.split(' ').filter(|word| word.chars().any(char::is_alphabetic)).collect::<Vec<_>>().join(" ")
}

async fn publish(commander: &Commander, notice: &Notice) -> Result<(), Failed> {
    let Some(home) = commander.home(&notice.app).await? else { return Ok(()) };
    let rollout = commander.server.get(&Object::rollout(&home.namespace, &home.rollout)).await?;
    let name = notice.name(&home.rollout);
    let reference = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
        "namespace": home.namespace, "name": home.rollout, "uid": rollout.pointer("/metadata/uid"),
    });
    let body = notice.body(&name, &home.namespace, reference);
    match commander.server.send(&Call::create(Object::event(&home.namespace, &name), body)).await {
        // Another replica has said it.
        Ok(_) | Err(Failed::Changed) => Ok(()),
        Err(failed) => Err(failed),
    }
}

impl Notice {
    fn new(app: &AppName, reason: &'static str, words: String) -> Self {
        let (app, same) = (app.clone(), words.clone());
        Self { app, at: Timestamp::now(), reason, warning: false, words, same, mark: Mark::Minute, waits: false }
    }

    fn warning(self) -> Self {
        Self { warning: true, ..self }
    }

    fn acted(app: &AppName, at: Timestamp, receipt: &Receipt, told: Option<&Returned>) -> Option<Self> {
        let Receipt { by, .. } = receipt;
        let because = if receipt.reason.is_empty() { String::new() } else { format!(": {}", receipt.reason) };
        let of = |revision: &Option<String>| revision.clone().unwrap_or_else(|| "nothing".to_owned());
        let (from, to) = (of(&receipt.from), of(&receipt.to));
        let of_authority = by == Authority::ArgoRollouts.as_str();
        let notice = match receipt.action {
            Action::Rollback => {
                let words = format!("live traffic was returned from {from} to {to} by {by}{because}");
                Self::new(app, "TealgateRolledBack", words).warning()
            }
            _ if is_flip(receipt) && of_authority => {
                Self::new(app, "TealgateFlipped", format!("live traffic went from {from} to {to}"))
            }
            _ if is_flip(receipt) => {
                Self::new(app, "TealgateFlipped", format!("live traffic went from {from} to {to}, by {by}{because}"))
            }
            _ if of_authority => return None,
            Action::Hold => Self::new(app, "TealgateHeld", format!("new requests are held by {by}{because}")),
            Action::Resume => Self::new(app, "TealgateResumed", format!("requests are let in, by {by}{because}")),
            Action::Maintenance => Self::new(
                app,
                "TealgateMaintenance",
                format!("live traffic gets the maintenance page, by {by}{because}"),
            )
            .warning(),
            Action::Reopen => {
                Self::new(app, "TealgateReopened", format!("live traffic is served again, by {by}{because}"))
            }
            Action::Pin => Self::new(app, "TealgatePinned", format!("{to} is pinned by {by}{because}")),
            Action::Unpin => Self::new(app, "TealgateUnpinned", format!("{to} is no longer pinned, by {by}{because}")),
            Action::Abort => Self::new(app, "TealgateAborted", format!("{from} was given up by {by}{because}")),
            Action::Reject => Self::new(app, "TealgateRejected", format!("{from} was rejected by {by}{because}")),
            Action::Retry => Self::new(app, "TealgateRetried", format!("{to} was taken up again by {by}{because}")),
            Action::Pause => Self::new(app, "TealgatePaused", format!("the rollout was paused by {by}{because}")),
            Action::Unpause => Self::new(app, "TealgateUnpaused", format!("the rollout goes on, by {by}{because}")),
            Action::Keep => Self::new(app, "TealgateKept", format!("{to} is kept longer, by {by}{because}")),
            Action::Weight => {
                Self::new(app, "TealgateStepped", format!("the canary of {to} goes on, by {by}{because}"))
            }
            Action::Smoke => Self::new(app, "TealgateTested", format!("{to} is tested again, by {by}{because}")),
            Action::Promote | Action::Source | Action::Deploy | Action::Discard => return None,
        };
        // A flip is the same whoever is known to have asked for it.
        let same = if is_flip(receipt) { format!("{from} {to}") } else { notice.same };
        let mark = match receipt.action {
            // A replica that was told of it has its own time of the flip.
            Action::Rollback => {
                let told = told.filter(|told| told.to.as_str() == to && told.from.as_str() == from);
                Mark::Known(told.map_or(receipt.published_at, |told| told.at).to_string())
            }
            _ if is_flip(receipt) => Mark::OfService,
            _ => Mark::Minute,
        };
        Some(Self { at, same, mark, waits: is_flip(receipt) && of_authority, ..notice })
    }

    /// Something is held back from live traffic, or wrong in the cluster, or was made active though a gate did not hold.
    fn amiss(app: &AppName, words: String) -> Self {
        Self { mark: Mark::OfService, ..Self::new(app, ALARM, words).warning() }
    }

    fn refused(app: &AppName, action: Action, by: &str, code: &str, detail: &str) -> Self {
        let words = format!("{} by {by} was refused ({code}): {detail}", action.as_str());
        let same = format!("{} {by} {code}", action.as_str());
        Self { same, ..Self::new(app, "TealgateRefused", words).warning() }
    }

    /// The cluster agrees with a rollback.
    pub(super) fn agreed(app: &AppName, told: &Returned) -> Self {
        let Returned { to, by, .. } = told;
        Self::new(
            app,
            "TealgateAgreed",
            format!("the active Service selects {to}, which {by} returned live traffic to"),
        )
    }

    /// It does not, and a person has to do something.
    pub(super) fn not_agreed(app: &AppName, why: &str) -> Self {
        Self::new(app, NOT_AGREED, why.to_owned()).warning()
    }

    /// A rollback has ended by itself.
    pub(super) fn ended(app: &AppName, why: &str) -> Self {
        Self::new(app, "TealgateRollbackEnded", format!("{BY_ITSELF}: {why}")).warning()
    }

    /// The same for the same.
    fn name(&self, rollout: &str) -> String {
        let what = crc32fast::hash(format!("{}\n{}", self.reason, self.same).as_bytes());
        let when = match &self.mark {
            Mark::Known(mark) => format!("m{:08x}", crc32fast::hash(mark.as_bytes())),
            Mark::Minute | Mark::OfService => format!("{:x}", self.at.as_second().div_euclid(60)),
        };
        format!("{rollout}.tealgate-{what:08x}-{when}")
    }

    fn body(&self, name: &str, namespace: &str, rollout: Value) -> Value {
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": self.at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            "reportingController": "tealgate.dev/tealgate",
            "reportingInstance": instance(),
            "regarding": rollout,
            "reason": self.reason,
            "action": self.reason.strip_prefix("Tealgate").unwrap_or(self.reason),
            "type": if self.warning { "Warning" } else { "Normal" },
            "note": cut(&self.words),
        })
    }
}

/// The name of this replica, which is the pod's.
fn instance() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { BY_ITSELF.to_owned() } else { name.chars().take(128).collect() }
}

fn cut(words: &str) -> &str {
    let mut end = words.len().min(LONGEST);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    &words[..end]
}

#[cfg(test)]
mod tests {
    use super::{
        super::fake::{Fake, Following, shop, sight_amiss},
        *,
    };
    use crate::switch::{Command, HoldBounds, Order};

    fn receipt(action: Action, by: &str) -> Receipt {
        serde_json::from_value(json!({
            "app": "shop", "action": action, "generation": 3, "from": "h1", "to": "h2", "by": by, "reason": "",
            "publishedAt": "2026-01-01T00:00:10Z", "barrierMicros": 1, "inFlightOnOld": 0, "gates": [], "replicas": [],
        }))
        .expect("a receipt")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).expect("a time")
    }

    fn acted(second: i64, action: Action, by: &str) -> Option<Notice> {
        Notice::acted(&shop(), at(second), &receipt(action, by), None)
    }

    #[test]
    fn who_knows_the_asker_speaks_first_and_what_only_follows_is_no_news() {
        let asked = acted(10, Action::Promote, "ann").expect("worth it");
        let followed = acted(11, Action::Source, "argo-rollouts").expect("worth it");
        assert!(!asked.waits && followed.waits);
        assert!(asked.words.contains("by ann"), "{asked:?}");
        assert_eq!(acted(10, Action::Deploy, "argo-rollouts"), None);
        assert_eq!(acted(10, Action::Abort, "argo-rollouts"), None);
    }

    #[test]
    fn a_flip_has_one_name_at_every_replica_and_the_next_of_the_same_another() {
        let named = |notice: &Notice, version: &str| {
            let mark = Mark::Known(version.to_owned());
            Notice { mark, ..notice.clone() }.name("shop")
        };
        let asked = acted(59, Action::Promote, "ann").expect("worth it");
        let followed = acted(61, Action::Source, "argo-rollouts").expect("worth it");
        assert_eq!((&asked.mark, &followed.mark), (&Mark::OfService, &Mark::OfService));
        assert_eq!(named(&asked, "7"), named(&followed, "7"));
        assert_ne!(named(&asked, "7"), named(&asked, "9"));
        // A rollback is known by when it was ordered, whenever a replica hears of it.
        let ordered = acted(59, Action::Rollback, "ann").expect("worth it");
        let later = Receipt { published_at: at(61), ..receipt(Action::Rollback, "ann") };
        let (to, from, by) = ("h2".parse().expect("a name"), "h1".parse().expect("a name"), "ann".to_owned());
        let ordered_at = receipt(Action::Rollback, "ann").published_at;
        let told = Returned { to, from, at: ordered_at, by, reason: String::new(), released: false };
        let joined = Notice::acted(&shop(), at(61), &later, Some(&told)).expect("worth it");
        assert_eq!(ordered.name("shop"), joined.name("shop"));
        let again = Notice::acted(&shop(), at(61), &later, None).expect("worth it");
        assert!(ordered.warning && again.name("shop") != ordered.name("shop"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_back_is_said_on_the_rollout_once_whatever_its_figures() {
        let (fake, following) = (Fake::paused(), Following::start().await);
        let two = [following.attended(&fake), following.attended(&fake)];
        let alarms = tokio::sync::watch::Sender::default();
        let tasks: Vec<_> = two.into_iter().map(|(c, d)| tokio::spawn(c.attend(d, alarms.clone()))).collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let lost = "Service shop-active selects no revision";
        for words in [vec![format!("{lost} (1 of 2)")], vec![format!("{lost} (1 of 3)")], Vec::new()] {
            sight_amiss(&following.feed, words).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // It comes back with another version of the Service.
        fake.objects().change(super::super::fake::SERVICE, json!({}));
        sight_amiss(&following.feed, vec![format!("{lost} (1 of 2)")]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let objects = fake.objects();
        let said: Vec<_> = objects.written.iter().filter(|(path, _)| path.ends_with("/events")).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!((&said[0].1["reason"], &said[0].1["type"]), (&json!(ALARM), &json!("Warning")));
        assert!(said[0].1["note"].as_str().expect("words").starts_with(lost), "{said:?}");
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[test]
    fn an_event_is_what_the_api_server_takes() {
        let at = "2026-01-01T00:00:10.5Z".parse().expect("a time");
        let words = "ä".repeat(2000);
        let notice = Notice { at, ..Notice::new(&shop(), "TealgateHeld", words) };
        let body = notice.body(&notice.name("shop"), "demo", json!({"kind": "Rollout"}));
        assert_eq!(body["eventTime"], "2026-01-01T00:00:10.500000Z");
        assert!(body["note"].as_str().expect("words").len() <= 1024);
        assert_eq!((&body["action"], &body["type"]), (&json!("Held"), &json!("Normal")));
        assert!(body["metadata"]["name"].as_str().expect("a name").starts_with("shop.tealgate-"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_people_do_is_said_on_the_rollout_once() {
        let (fake, following) = (Fake::paused(), Following::start().await);
        let (commander, desk) = following.attended(&fake);
        let (commander2, desk2) = following.attended(&fake);
        let alarms = tokio::sync::watch::Sender::default();
        let two = [(commander, desk), (commander2, desk2)];
        let tasks: Vec<_> = two.into_iter().map(|(c, d)| tokio::spawn(c.attend(d, alarms.clone()))).collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let bounds = HoldBounds { max_age: Duration::from_secs(3600), max_requests: 1, max_bytes: 4096 };
        let (by, reason) = ("ann".to_owned(), "schema".to_owned());
        let command = Command::Hold { bounds };
        let order = Order { app: shop(), command, by, reason, if_generation: None, dry_run: false };
        following.control.submit(order.clone()).await.expect("it holds");
        following.control.submit(order).await.expect_err("it holds already");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let events: Vec<_> =
            fake.objects().written.iter().filter(|(path, _)| path.ends_with("/events")).cloned().collect();
        let reasons: Vec<_> = events.iter().map(|(_, event)| event["reason"].as_str().expect("a reason")).collect();
        assert_eq!(reasons, ["TealgateHeld", "TealgateRefused"]);
        assert_eq!(events[0].1["regarding"]["uid"], "u1");
        assert!(events[0].1["note"].as_str().expect("words").contains("by ann: schema"));
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
