//! What is known of the names that stand for endpoints. A source gives names; whoever looks them up reports what was found
//! (`Feed::looked_up`), and each address becomes an endpoint of its own. A lookup that fails takes nothing away: the last
//! good addresses stay.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    address::{Address, HostPort, Whereabouts},
    desired::{EndpointSpec, Standing},
    policy::Transport,
    pool::{Destination, Site},
    status::NameStatus,
};

/// What is known of the names of one app.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<HostPort, Known>);

/// What is known of one name; at first nothing.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The addresses it had when it was last found.
    addresses: BTreeSet<SocketAddr>,
    since: Option<Timestamp>,
    /// Why the last lookup failed, if it did.
    problem: Option<String>,
}

impl Names {
    /// Keeps what is known of the names among these endpoints, forgets the rest, and takes note of those that are new.
    pub(super) fn follow<'a>(&mut self, specs: impl Iterator<Item = &'a EndpointSpec>) {
        let before = std::mem::take(&mut self.0);
        let names = specs.filter_map(|spec| spec.address.name());
        self.0 = names.map(|name| (name.clone(), before.get(name).cloned().unwrap_or_default())).collect();
    }

    /// Takes what a lookup came to. Whether that is news.
    pub(super) fn learn(&mut self, name: &HostPort, found: Result<Vec<SocketAddr>, String>, now: Timestamp) -> bool {
        let Some(known) = self.0.get_mut(name) else { return false };
        let found =
            found.and_then(|found| if found.is_empty() { Err("it has no address".to_owned()) } else { Ok(found) });
        match found {
            Ok(addresses) => {
                let addresses: BTreeSet<_> = addresses.into_iter().collect();
                let others = known.addresses != addresses;
                if others {
                    (known.addresses, known.since) = (addresses, Some(now));
                }
                known.problem.take().is_some() || others
            }
            Err(problem) => known.problem.replace(problem.clone()) != Some(problem),
        }
    }

    /// Where requests may go of these endpoints, each address once: in the order of the source, a name's addresses in
    /// their own. One on its way out counts only where none is ready.
    pub(super) fn sites(&self, specs: &[EndpointSpec], transport: &Arc<Transport>) -> Vec<Site> {
        let mut sites: Vec<Site> = Vec::with_capacity(specs.len());
        let mut taken = HashSet::with_capacity(specs.len());
        let ready = specs.iter().any(|spec| spec.standing == Standing::Ready);
        let serving = if ready { Standing::Ready } else { Standing::Leaving };
        for EndpointSpec { address, weight, .. } in specs.iter().filter(|spec| spec.standing == serving) {
            let (name, addresses): (_, Vec<Address>) = match address {
                Whereabouts::At(address) => (None, vec![address.clone()]),
                Whereabouts::Named(name) => (Some(name), self.addresses(name).map(Address::from).collect()),
            };
            for address in addresses {
                if taken.insert(address.clone()) {
                    let destination = Destination { address, name: name.cloned(), transport: Arc::clone(transport) };
                    sites.push(Site { destination, weight: *weight });
                }
            }
        }
        sites
    }

    fn addresses(&self, name: &HostPort) -> impl Iterator<Item = SocketAddr> {
        self.0.get(name).into_iter().flat_map(|known| &known.addresses).copied()
    }

    /// How many of these endpoints cannot be in a pool: those that their source calls unready, and names that no address is
    /// known of; and how many of the names cannot be looked up.
    pub(super) fn missing(&self, specs: &[EndpointSpec]) -> (usize, usize) {
        let unready = specs.iter().filter(|spec| spec.standing == Standing::Unready).count();
        let named = specs.iter().filter_map(|spec| self.0.get(spec.address.name()?));
        let missing: Vec<_> = named.filter(|known| known.addresses.is_empty()).collect();
        (unready + missing.len(), missing.iter().filter(|known| known.problem.is_some()).count())
    }

    /// The names, to be looked up.
    pub fn iter(&self) -> impl Iterator<Item = &HostPort> {
        self.0.keys()
    }

    /// Whether nobody has said anything of this name yet.
    pub fn is_unheard_of(&self, name: &HostPort) -> bool {
        self.0.get(name).is_none_or(|known| known.since.is_none() && known.problem.is_none())
    }

    /// Each name, and whether it was found when it was looked up last.
    pub fn found(&self) -> impl Iterator<Item = (&HostPort, bool)> {
        self.0.iter().map(|(name, known)| (name, known.since.is_some() && known.problem.is_none()))
    }

    /// For the status, in the order of the names.
    pub(super) fn status(&self) -> Vec<NameStatus> {
        let status = |(name, known): (&HostPort, &Known)| NameStatus {
            name: name.to_string(),
            addresses: known.addresses.iter().map(SocketAddr::to_string).collect(),
            since: known.since,
            problem: known.problem.clone(),
        };
        self.0.iter().map(status).collect()
    }

    /// Which names could not be looked up last time, in a sentence.
    pub(super) fn in_words(&self) -> Option<String> {
        let failing = self.0.iter().filter_map(|(name, known)| Some((name, known, known.problem.as_ref()?)));
        let words = failing.map(|(name, known, problem)| match known.addresses.len() {
            0 => format!("{name} cannot be looked up ({problem}) and has no endpoints yet"),
            _ => format!("{name} cannot be looked up ({problem}); its last addresses stay"),
        });
        let words: Vec<_> = words.collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(addresses: &[&str]) -> Vec<EndpointSpec> {
        let spec = |(index, text): (usize, &&str)| {
            let address: Whereabouts = text.parse().expect("an address");
            EndpointSpec { weight: 1 + index as u32, ..address.into() }
        };
        addresses.iter().enumerate().map(spec).collect()
    }

    fn learn(names: &mut Names, found: &[&str]) -> bool {
        let name = names.iter().next().expect("a name").clone();
        let found = found.iter().map(|address| address.parse().expect("an address")).collect();
        names.learn(&name, Ok(found), Timestamp::now())
    }

    #[test]
    fn an_address_that_is_found_twice_is_one_endpoint_with_the_weight_of_the_first() {
        let specs = specs(&["10.0.0.1:80", "app.test:80", "unix:/run/app.sock"]);
        let mut names = Names::default();
        names.follow(specs.iter());
        assert!(learn(&mut names, &["10.0.0.2:80", "10.0.0.1:80"]));
        assert!(!learn(&mut names, &["10.0.0.1:80", "10.0.0.2:80"]), "the order of an answer says nothing");
        let sites = names.sites(&specs, &Arc::default());
        let found: Vec<_> = sites.iter().map(|site| (site.destination.address.to_string(), site.weight)).collect();
        let expected = [("10.0.0.1:80", 1), ("10.0.0.2:80", 2), ("unix:/run/app.sock", 3)];
        assert_eq!(found, expected.map(|(address, weight)| (address.to_owned(), weight)));
    }

    #[test]
    fn a_name_that_no_endpoint_has_any_more_is_forgotten() {
        let mut names = Names::default();
        names.follow(specs(&["app.test:80"]).iter());
        learn(&mut names, &["10.0.0.1:80"]);
        names.follow(specs(&["app.test:81"]).iter());
        names.follow(specs(&["app.test:80"]).iter());
        assert_eq!(names.missing(&specs(&["app.test:80"])), (1, 0), "it is looked up anew");
    }
}
