//! What one forwarder may have at this relay. Checked at every `REGISTER`, and again for what is
//! registered when the configuration is reloaded.

use adit::config::{Admitted, Ports};
use adit_proto::frame::{Protocol, Registration};

/// The policy for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// The forwarder's name, for logs.
    pub(crate) name: String,
    ports: Ports,
}

/// What a policy forbids, and the setting that would allow it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Forbidden {
    #[error("UDP contact points are not offered by this relay")]
    Udp,
    #[error("private contact points are not offered by this relay: ask for a public port")]
    Private,
    #[error(
        "port {port} is not allowed to this forwarder: at the relay, add it to ports of \
         [[forwarder]] {name} and reload"
    )]
    Port { port: u16, name: String },
}

impl From<Admitted> for Policy {
    fn from(admitted: Admitted) -> Self {
        Self { name: admitted.name, ports: admitted.ports }
    }
}

impl Policy {
    /// Whether what is asked for may be had.
    pub(crate) fn check(&self, asked: &Registration) -> Result<(), Forbidden> {
        match asked {
            Registration { protocol: Protocol::Udp, .. } => Err(Forbidden::Udp),
            Registration { port: 0, .. } => Err(Forbidden::Private),
            Registration { port, .. } => self.check_port(*port),
        }
    }

    /// Whether a contact point may have this port.
    pub(crate) fn check_port(&self, port: u16) -> Result<(), Forbidden> {
        if self.ports.contain(port) {
            return Ok(());
        }
        Err(Forbidden::Port { port, name: self.name.clone() })
    }
}

#[cfg(test)]
pub(crate) fn policy(name: &str, ports: &[&str]) -> Policy {
    use adit::config::PortRange;
    let ports = ports.iter().map(|text| text.parse::<PortRange>().unwrap()).collect();
    Policy { name: name.into(), ports }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(protocol: Protocol, port: u16) -> Registration {
        Registration { protocol, port, name: "web".into() }
    }

    /// What is not allowed in so many words is forbidden, and the text names the setting.
    #[test]
    fn ports_outside_the_list_are_forbidden() {
        let policy = policy("office", &["2222", "8000-8100"]);
        for port in [1, 80, 2221, 2223, 7999, 8101, 65_535] {
            let forbidden = policy.check(&asked(Protocol::Tcp, port)).unwrap_err().to_string();
            assert!(forbidden.contains(&port.to_string()), "{forbidden}");
            assert!(forbidden.contains("ports of [[forwarder]] office"), "{forbidden}");
        }
    }

    /// Without a list nothing is allowed.
    #[test]
    fn an_empty_list_forbids_everything() {
        let policy = policy("office", &[]);
        assert!([1, 80, 8080].iter().all(|p| policy.check(&asked(Protocol::Tcp, *p)).is_err()));
    }

    /// A kind of contact point that is not there is refused even on an allowed port.
    #[test]
    fn what_is_not_offered_is_forbidden() {
        let policy = policy("office", &["1-65535"]);
        assert_eq!(policy.check(&asked(Protocol::Udp, 53)), Err(Forbidden::Udp));
        assert_eq!(policy.check(&asked(Protocol::Tcp, 0)), Err(Forbidden::Private));
        assert_eq!(policy.check(&asked(Protocol::Tcp, 53)), Ok(()));
    }
}
