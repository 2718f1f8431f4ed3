//! Where each pod is reached, and how it stands.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::super::{
    PortName,
    objects::{IpFamily, Pod, Service, ServicePort, TargetPort},
};
use crate::switch::{Address, EndpointSpec, Standing};

/// On which port and which of its addresses a pod is reached.
#[derive(Debug)]
pub(super) struct Door {
    port: TargetPort,
    /// The best first; empty for whichever a pod has first.
    families: Vec<IpFamily>,
}

impl Door {
    /// The door behind a Service's port: the one that was chosen, or the only one.
    pub(super) fn of(service: &Service, chosen: Option<&PortName>) -> Result<Self, String> {
        let Service { name, ports, families, .. } = service;
        let fits = |port: &&_| chosen.is_none_or(|chosen| is_chosen(port, chosen));
        let fitting: Vec<_> = ports.iter().filter(fits).collect();
        let port = match (&fitting[..], chosen) {
            ([port], _) => *port,
            ([], None) => return Err(format!("the Service `{name}` has no TCP port")),
            ([], Some(chosen)) => {
                return Err(format!("the Service `{name}` has no TCP port {}; it has {}", word(chosen), list(ports)));
            }
            (_, _) => {
                return Err(format!(
                    "the Service `{name}` has several TCP ports, {}; choose one as `port`",
                    list(ports)
                ));
            }
        };
        Ok(Self { port: port.target.clone(), families: families.clone() })
    }

    /// The door of pods with no Service before them: the port itself is chosen.
    pub(super) fn of_pods(chosen: &PortName) -> Self {
        let port = match chosen {
            PortName::Name(name) => TargetPort::Name(name.clone()),
            PortName::Number(number) => TargetPort::Number(*number),
        };
        Self { port, families: Vec::new() }
    }

    fn port(&self, pod: &Pod) -> Option<u16> {
        match &self.port {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => pod.shape.port(name),
        }
    }

    fn address(&self, pod: &Pod) -> Option<IpAddr> {
        let of_family = |family: &IpFamily| pod.addresses.iter().find(|address| family.holds(**address));
        if self.families.is_empty() {
            return pod.addresses.first().copied();
        }
        self.families.iter().find_map(of_family).copied()
    }
}

fn is_chosen(port: &ServicePort, chosen: &PortName) -> bool {
    match chosen {
        PortName::Name(name) => port.name == *name,
        PortName::Number(number) => port.number == *number,
    }
}

fn word(chosen: &PortName) -> String {
    match chosen {
        PortName::Name(name) => format!("`{name}`"),
        PortName::Number(number) => number.to_string(),
    }
}

fn list(ports: &[ServicePort]) -> String {
    let words: Vec<_> = ports.iter().map(|port| format!("{} ({})", port.number, port.name)).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// The pods of one revision.
#[derive(Debug, Default)]
pub(super) struct Pool {
    endpoints: BTreeMap<SocketAddr, Standing>,
    /// How many pods have no port of the name that is asked for.
    without_port: usize,
}

impl Pool {
    /// Puts a pod in. One that has ended, or that has no address of a wanted family yet, is none.
    pub(super) fn add(&mut self, pod: &Pod, door: &Door) {
        if pod.over {
            return;
        }
        let Some(port) = door.port(pod) else {
            self.without_port += 1;
            return;
        };
        let Some(address) = door.address(pod) else { return };
        let standing = standing(pod);
        // An address may be given to a new pod before the old one is gone.
        let kept = self.endpoints.entry(SocketAddr::new(address, port)).or_insert(standing);
        *kept = standing.min(*kept);
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.endpoints.values().filter(|standing| **standing == Standing::Ready).count()
    }

    /// What is wrong with it.
    pub(super) fn alarm(&self, revision: &str, door: &Door) -> Option<String> {
        let TargetPort::Name(name) = &door.port else { return None };
        let lacking = self.endpoints.is_empty() && self.without_port > 0;
        lacking.then(|| format!("no pod of {revision} has a TCP port that is called `{name}`"))
    }

    pub(super) fn into_endpoints(self) -> Vec<EndpointSpec> {
        let spec = |(address, standing)| EndpointSpec { standing, ..Address::from(address).into() };
        self.endpoints.into_iter().map(spec).collect()
    }
}

/// A pod that was told to end still takes what nobody else can, as long as it says it is ready.
fn standing(pod: &Pod) -> Standing {
    match (pod.ready, pod.leaving) {
        (true, false) => Standing::Ready,
        (true, true) => Standing::Leaving,
        (false, _) => Standing::Unready,
    }
}
