//! What one key may do at this relay: which contact points it may have, whom it may call, what is
//! dialled for it, who may come to it, and how much it may use. Checked at every `REGISTER`, at
//! every `OPEN` that reaches the relay, and again for what is registered when the configuration is
//! reloaded. What is not allowed in so many words is forbidden.

mod guard;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use adit::config::{Admitted, Dial, NamePattern, Ports, Role};
use adit::handoff::Quota;
use adit::sources::Sources;
use adit_proto::frame::{Protocol, Registration};

use crate::contact::Contact;

pub(crate) use guard::{Guarded, OwnPlaces};

/// The policy for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// The key's name, for logs.
    pub(crate) name: Arc<str>,
    /// On which side it is.
    pub(crate) role: Role,
    /// Who may use its contact points.
    pub(crate) sources: Arc<Sources>,
    /// How much it may use.
    pub(crate) quota: Quota,
    /// How many bytes it may move in a month.
    pub(crate) bytes_per_month: Option<u64>,
    ports: Ports,
    udp_ports: Ports,
    names: Vec<NamePattern>,
    calls: Vec<NamePattern>,
    dials: Vec<Dial>,
    udp_dials: Vec<Dial>,
}

/// What a policy forbids, and the setting that would allow it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Forbidden {
    #[error("an external peer has no public ports: ask for a private name")]
    NoPorts,
    #[error(
        "port {port} is not allowed to this forwarder: at the relay, add it to ports of \
         [[forwarder]] {name} and reload"
    )]
    Port { port: u16, name: Arc<str> },
    #[error(
        "UDP port {port} is not allowed to this forwarder: at the relay, add it to udp_ports of \
         [[forwarder]] {name} and reload"
    )]
    UdpPort { port: u16, name: Arc<str> },
    #[error(
        "the private name {asked} is not allowed to this {role}: at the relay, add it to names of \
         [[{role}]] {name} and reload"
    )]
    Name { asked: String, role: Role, name: Arc<str> },
}

/// How many sessions an external peer may have at once: one for each `adit connect` of its.
pub(crate) const EXTERNAL_SESSIONS_MAX: usize = 16;

impl From<Admitted> for Policy {
    fn from(admitted: Admitted) -> Self {
        let is_udp = |dial: &Dial| dial.protocol == Protocol::Udp;
        let (udp_dials, dials) = admitted.dials.into_iter().partition(is_udp);
        Self {
            name: admitted.name.into(),
            role: admitted.role,
            sources: Arc::new(Sources::new(admitted.allow, admitted.deny)),
            quota: admitted.quota,
            bytes_per_month: admitted.bytes_per_month,
            ports: admitted.ports,
            udp_ports: admitted.udp_ports,
            names: admitted.names,
            calls: admitted.calls,
            dials,
            udp_dials,
        }
    }
}

impl Policy {
    /// How many sessions the key may have at once. A forwarder is one process; a second one with
    /// its key takes its place.
    pub(crate) fn sessions_max(&self) -> usize {
        match self.role {
            Role::Forwarder => 1,
            Role::External => EXTERNAL_SESSIONS_MAX,
        }
    }

    /// Whether what the key moves in a month is counted.
    pub(crate) fn has_volume(&self) -> bool {
        self.bytes_per_month.is_some()
    }

    /// The contact point that is asked for, if it may be had.
    pub(crate) fn may_register(&self, asked: &Registration) -> Result<Contact, Forbidden> {
        let contact = match asked {
            Registration { port: 0, name, .. } => Contact::Private(name.clone()),
            Registration { port, protocol, .. } => Contact::Public(*port, *protocol),
        };
        self.may_have(&contact).map(|()| contact)
    }

    /// Whether a contact point may stand.
    pub(crate) fn may_have(&self, contact: &Contact) -> Result<(), Forbidden> {
        match contact {
            Contact::Public(..) if self.role == Role::External => Err(Forbidden::NoPorts),
            Contact::Public(port, protocol) => {
                let (port, name) = (*port, Arc::clone(&self.name));
                match protocol {
                    Protocol::Tcp if self.ports.contain(port) => Ok(()),
                    Protocol::Udp if self.udp_ports.contain(port) => Ok(()),
                    Protocol::Tcp => Err(Forbidden::Port { port, name }),
                    Protocol::Udp => Err(Forbidden::UdpPort { port, name }),
                }
            }
            Contact::Private(name) if is_listed(&self.names, name) => Ok(()),
            Contact::Private(asked) => {
                let (asked, role, name) = (asked.clone(), self.role, Arc::clone(&self.name));
                Err(Forbidden::Name { asked, role, name })
            }
        }
    }

    /// Whether a private name may be called.
    pub(crate) fn may_call(&self, name: &str) -> bool {
        is_listed(&self.calls, name)
    }

    /// Whether `host` may lead to anything that is dialled; only then is it resolved.
    pub(crate) fn may_resolve(&self, protocol: Protocol, host: &str, port: u16) -> bool {
        guard::may_lead_to_listed(self.dials(protocol), host, port)
    }

    /// Whether `host` itself is among what is dialled: only then is it told that it cannot be found.
    pub(crate) fn is_listed_by_name(&self, protocol: Protocol, host: &str, port: u16) -> bool {
        guard::is_listed_by_name(self.dials(protocol), host, port)
    }

    /// The address to dial for `host`, when `found` is one that it resolves to.
    pub(crate) fn may_dial(
        &self,
        protocol: Protocol,
        host: &str,
        found: SocketAddr,
        own: OwnPlaces<'_>,
    ) -> Result<SocketAddr, Guarded> {
        guard::judge(self.dials(protocol), host, found, own)
    }

    fn dials(&self, protocol: Protocol) -> &[Dial] {
        match protocol {
            Protocol::Tcp => &self.dials,
            Protocol::Udp => &self.udp_dials,
        }
    }
}

fn is_listed(patterns: &[NamePattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

/// A forwarder with these ports, and the private names `db` and `office-*`.
#[cfg(test)]
pub(crate) fn policy(name: &str, ports: &[&str]) -> Policy {
    use adit::config::PortRange;
    let mut admitted = Admitted::new(name.into(), [1; 32].into(), Role::Forwarder);
    admitted.ports = ports.iter().map(|text| text.parse::<PortRange>().unwrap()).collect();
    admitted.names = vec!["db".parse().unwrap(), "office-*".parse().unwrap()];
    admitted.into()
}
