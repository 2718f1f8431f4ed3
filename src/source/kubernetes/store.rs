//! The objects of one kind as their watch tells of them. A list that begins anew replaces what is there once it is whole,
//! and not before: nobody ever sees half of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use kube::runtime::watcher::Event;

use super::objects::{Pod, ReplicaSet, Rollout, Service, Shape};

/// What is kept in a [`Store`].
pub(super) trait Object: PartialEq {
    fn name(&self) -> &str;

    /// By what an app knows that the object is its business.
    fn concerns(&self) -> &str {
        self.name()
    }
}

impl Object for Rollout {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

impl Object for Service {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Object for ReplicaSet {
    fn name(&self) -> &str {
        &self.name
    }

    fn concerns(&self) -> &str {
        self.owner.as_deref().unwrap_or_default()
    }
}

impl Object for Pod {
    fn name(&self) -> &str {
        &self.name
    }
}

/// The objects of one kind, by name.
#[derive(Debug)]
pub(super) struct Store<T> {
    objects: BTreeMap<String, Arc<T>>,
    /// A list that is not whole yet.
    listing: BTreeMap<String, Arc<T>>,
    whole: bool,
}

/// Whose business an event is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Touched {
    /// Nobody's: nothing has changed that is kept.
    Nothing,
    /// Those whom the named concern (see [`Object::concerns`]).
    Some(BTreeSet<String>),
    /// Everybody's.
    All,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listing: BTreeMap::new(), whole: false }
    }
}

impl<T: Object> Store<T> {
    pub(super) fn take(&mut self, event: Event<T>) -> Touched {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => _ = self.listing.insert(object.name().to_owned(), Arc::new(object)),
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.listing);
                self.whole = true;
                return Touched::All;
            }
            Event::Apply(object) => {
                let object = Arc::new(object);
                let before = self.objects.insert(object.name().to_owned(), Arc::clone(&object));
                if before.as_ref() == Some(&object) {
                    return Touched::Nothing;
                }
                // What changes hands is the business of both.
                let both = before.into_iter().chain([object]);
                return Touched::Some(both.map(|object| object.concerns().to_owned()).collect());
            }
            Event::Delete(object) => {
                let gone = self.objects.remove(object.name());
                return match gone {
                    Some(gone) => Touched::Some(BTreeSet::from([gone.concerns().to_owned()])),
                    None => Touched::Nothing,
                };
            }
        }
        Touched::Nothing
    }

    /// Whether a list has been whole since the start.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.objects.get(name)
    }

    /// All, in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.objects.values().map(|object| &**object)
    }
}

/// The shapes that pods share.
#[derive(Debug, Default)]
pub(super) struct Shapes(HashSet<Arc<Shape>>);

impl Shapes {
    /// The same pod, with the shape that others like it have.
    pub(super) fn share(&mut self, mut pod: Pod) -> Pod {
        match self.0.get(&pod.shape) {
            Some(known) => pod.shape = Arc::clone(known),
            None => {
                // A new one comes with a new template, which is when old ones may have gone.
                self.0.retain(|shape| Arc::strong_count(shape) > 1);
                self.0.insert(Arc::clone(&pod.shape));
            }
        }
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, sticky: bool) -> Service {
        Service { name: name.to_owned(), sticky, ..Service::default() }
    }

    fn names(store: &Store<Service>) -> Vec<&str> {
        store.iter().map(|service| &*service.name).collect()
    }

    fn some(names: &[&str]) -> Touched {
        Touched::Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_list_replaces_what_is_there_once_it_is_whole() {
        let mut store = Store::default();
        assert_eq!(store.take(Event::Init), Touched::Nothing);
        store.take(Event::InitApply(service("a", false)));
        assert!(!store.is_whole());
        assert!(names(&store).is_empty());
        assert_eq!(store.take(Event::InitDone), Touched::All);
        assert!(store.is_whole());
        store.take(Event::Apply(service("b", false)));
        assert_eq!(names(&store), ["a", "b"]);
        store.take(Event::Init);
        store.take(Event::InitApply(service("c", false)));
        assert_eq!(names(&store), ["a", "b"]);
        // And one that breaks off leaves nothing behind.
        store.take(Event::Init);
        store.take(Event::InitApply(service("d", false)));
        store.take(Event::InitDone);
        assert_eq!(names(&store), ["d"]);
    }

    #[test]
    fn what_does_not_change_what_is_kept_is_nobodys_business() {
        let mut store = Store::default();
        assert_eq!(store.take(Event::Apply(service("a", false))), some(&["a"]));
        assert_eq!(store.take(Event::Apply(service("a", false))), Touched::Nothing);
        assert_eq!(store.take(Event::Apply(service("a", true))), some(&["a"]));
        assert_eq!(store.take(Event::Delete(service("a", false))), some(&["a"]));
        assert_eq!(store.take(Event::Delete(service("a", false))), Touched::Nothing);
    }

    #[test]
    fn what_changes_hands_is_the_business_of_both() {
        let owned = |owner: &str| ReplicaSet { owner: Some(owner.to_owned()), ..ReplicaSet::default() };
        let mut store = Store::default();
        store.take(Event::Apply(owned("one")));
        assert_eq!(store.take(Event::Apply(owned("other"))), some(&["one", "other"]));
    }
}
