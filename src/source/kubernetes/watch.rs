//! One watch: the objects of one kind in one namespace, listed and then followed, taken up again where it broke off, and
//! listed anew where that is not possible. What comes of it is cut down to what is kept before anybody stores it.

use std::{pin::pin, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Client, Resource,
    core::NamespaceResourceScope,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{chain, client::Pulse};

/// How long the API server lets one watch go on before it is taken up again, in seconds; a connection that died unnoticed
/// costs five more. Bookmarks see to it that nothing is listed anew.
const LENGTH: u32 = 30;
/// The wait before the first try after a failure, and the longest one.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// So much time without a failure, and the waits begin anew.
const QUIET: Duration = Duration::from_secs(15);

/// What a watch tells.
#[derive(Debug)]
pub(super) enum News<T> {
    /// What happened to the objects.
    Event(Event<T>),
    /// It does not get through. It tries again by itself.
    Failed(Failure),
    /// It gets through again.
    Recovered,
}

/// Why a watch does not get through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// In a sentence that says what to do.
    pub(super) why: String,
    /// Whether another try as good as certainly ends the same way.
    pub(super) lasting: bool,
    /// Whether our credentials are no good (any more).
    pub(super) unknown_caller: bool,
}

/// Which objects to watch.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) namespace: String,
    /// A label selector; empty for all.
    pub(super) labels: String,
}

/// Watches, in a task of its own that ends with the handle. `cut` makes of each object what is kept of it, if anything, and
/// `tell` addresses the news.
pub(super) fn watch<K, T, M>(
    client: &Client,
    range: Range,
    mut cut: impl FnMut(K) -> Option<T> + Send + 'static,
    news: mpsc::Sender<M>,
    tell: impl Fn(News<T>) -> M + Send + Sync + 'static,
) -> AbortOnDropHandle<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send,
    K: 'static,
    T: Send + 'static,
    M: Send + 'static,
{
    let pulse = Pulse::default();
    let api: Api<K> = Api::namespaced(pulse.of(client), &range.namespace);
    let config = watcher::Config::default().timeout(LENGTH).labels(&range.labels);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut events = pin!(watcher(api, config).backoff(Waits::default()));
        loop {
            let told = tokio::select! {
                biased;
                event = events.next() => match event {
                    None => return,
                    Some(Ok(event)) => match map(event, &mut cut) {
                        Some(event) => News::Event(event),
                        None => continue,
                    },
                    Some(Err(error)) => {
                        let Some(failure) = Failure::of::<K>(&error, &range.namespace) else { continue };
                        pulse.fails();
                        News::Failed(failure)
                    }
                },
                () = pulse.recovers() => News::Recovered,
            };
            if news.send(tell(told)).await.is_err() {
                return;
            }
        }
    }))
}

fn map<K, T>(event: Event<K>, cut: &mut impl FnMut(K) -> Option<T>) -> Option<Event<T>> {
    Some(match event {
        Event::Apply(object) => Event::Apply(cut(object)?),
        Event::Delete(object) => Event::Delete(cut(object)?),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(cut(object)?),
        Event::InitDone => Event::InitDone,
    })
}

impl Failure {
    /// `None` for what is none: that the watch has to begin with a new list, which it does by itself.
    fn of<K: Resource<DynamicType = ()>>(error: &watcher::Error, namespace: &str) -> Option<Self> {
        use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
        let (verb, status) = match error {
            InitialListFailed(kube::Error::Api(status)) => ("list", Some(status)),
            WatchStartFailed(kube::Error::Api(status)) | WatchFailed(kube::Error::Api(status)) | WatchError(status) => {
                ("watch", Some(status))
            }
            InitialListFailed(_) | WatchStartFailed(_) | WatchFailed(_) | NoResourceVersion => ("", None),
        };
        let (plural, group) = (K::plural(&()), K::group(&()));
        let resource = if group.is_empty() { plural.into_owned() } else { format!("{plural}.{group}") };
        let Some(status) = status else {
            let why = match error {
                InitialListFailed(kube::Error::SerdeError(error)) | WatchFailed(kube::Error::SerdeError(error)) => {
                    format!("what the API server says of {resource} in namespace {namespace} makes no sense: {error}")
                }
                _ => format!("the API server cannot be reached to watch {resource}: {}", chain(error)),
            };
            return Some(Self { why, lasting: false, unknown_caller: false });
        };
        let said = &status.message;
        let why = match status.code {
            410 => return None,
            401 => format!("the API server does not know us: {said}; look at our token or certificate"),
            403 => format!(
                "we may not {verb} {resource} in namespace {namespace}: {said}; grant get, list and watch, as the \
                 chart's `rbac.create` does for the namespaces of its `apps`"
            ),
            404 if group == "argoproj.io" => format!(
                "the cluster does not know {resource}: install Argo Rollouts, at least its CustomResourceDefinitions \
                 (`kubectl create -k https://github.com/argoproj/argo-rollouts/manifests/crds`)"
            ),
            code => format!("the API server answers {code} to {verb} {resource} in namespace {namespace}: {said}"),
        };
        let lasting = matches!(status.code, 401 | 403 | 404);
        Some(Self { why, lasting, unknown_caller: status.code == 401 })
    }
}

/// The waits between tries: twice as long each time, with chance in them so that replicas do not come all at once.
///
/// A watch says that it begins with a list before it knows whether it may; so what is heard starts nothing anew, only time
/// without a failure does.
#[derive(Debug, Default)]
struct Waits {
    last: Option<(Instant, Duration)>,
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let (shortest, longest) = WAITS;
        let recent = self.last.filter(|(failed, wait)| now.duration_since(*failed) < *wait + QUIET);
        let wait = recent.map_or(shortest, |(_, wait)| (wait * 2).min(longest));
        self.last = Some((now, wait));
        Some(wait.mul_f64(0.75 + 0.5 * fastrand::f64()))
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {}
}

/// What is known of how a watch fares.
#[derive(Debug, Default)]
pub(super) struct Fare {
    failures: u32,
    trouble: Option<String>,
}

impl Fare {
    /// Whether what is to be said of it has changed. One failure that may pass at once is not worth a word.
    pub(super) fn fails(&mut self, failure: Failure) -> bool {
        self.failures += 1;
        let worth_it = failure.lasting || self.failures > 1;
        let news = worth_it && self.trouble.as_ref() != Some(&failure.why);
        if news {
            self.trouble = Some(failure.why);
        }
        news
    }

    /// It gets through. Whether that is news.
    pub(super) fn is_well(&mut self) -> bool {
        self.failures = 0;
        self.trouble.take().is_some()
    }

    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_up_to_the_longest_and_begin_anew_after_a_quiet_time() {
        let mut waits = Waits::default();
        let mut next = || waits.next().expect("it never gives up").as_secs_f64();
        for expected in [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0] {
            let wait = next();
            assert!((0.75 * expected..=1.25 * expected).contains(&wait), "{wait} is not about {expected}");
        }
        tokio::time::advance(QUIET + WAITS.1).await;
        assert!(next() < 0.2);
    }
}
