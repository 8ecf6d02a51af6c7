//! What the daemon alone knows of what a probe asks: whether contact points could be had, and where
//! datagrams go. Nothing is registered, and no session is touched.

use std::net::IpAddr;
use std::time::Instant;

use adit::exit::Failed;
use adit::handoff::{Command, PathEcho};
use adit::key::PublicKey;
use adit::net;
use adit::probe::{Asked, PathPort, Token};
use adit_proto::frame::Registration;
use adit_proto::limits::PROBES_MAX;
use tokio::sync::oneshot;

use super::Daemon;
use super::registration::can_open;

/// Something that a probe asks.
#[derive(Debug)]
pub(crate) enum Probing {
    Look(Look),
    Ways(Ways),
    /// Some that had [`Ways`] have ended.
    Ended,
}

/// Who the key is, and which of these contact points it could have.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) key: PublicKey,
    pub(crate) asked: Vec<Asked>,
    pub(crate) reply: oneshot::Sender<Judged>,
}

/// The answer to [`Look`].
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) name: String,
    /// Why not, of each.
    pub(crate) verdicts: Vec<Option<String>>,
}

/// Where datagrams of this probe may go.
#[derive(Debug)]
pub(crate) struct Ways {
    pub(crate) key: PublicKey,
    pub(crate) token: Token,
    /// The address that the probe's connection leads to.
    pub(crate) local: IpAddr,
    /// Anything: it chooses the pump.
    pub(crate) number: u32,
    pub(crate) reply: oneshot::Sender<Way>,
}

/// The answer to [`Ways`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    /// The socket of the datagram paths.
    pub(crate) path: Option<PathPort>,
    /// Another address at which this relay listens.
    pub(crate) other: Option<IpAddr>,
}

impl Daemon {
    pub(super) fn handle_probe(&mut self, probing: Probing, now: Instant) -> Result<(), Failed> {
        match probing {
            Probing::Look(Look { key, asked, reply }) => {
                // A key that was removed a moment ago gets no answer.
                if let Some(judged) = self.judge(key, &asked) {
                    reply.send(judged).ok();
                }
            }
            Probing::Ways(Ways { key, token, local, number, reply }) => {
                if !self.policies.contains_key(&key) {
                    return Ok(());
                }
                let other = self.other_address(local, now);
                let has_room = self.echoes.len() < PROBES_MAX && !self.echoes.contains(&number);
                let port = self.path_port.filter(|_| has_room);
                let path = port.map(|port| PathPort { port, id: number });
                if path.is_some() {
                    self.echoes.insert(number);
                    self.tell(
                        self.echo_pump(number),
                        Command::Echo(PathEcho { id: number, token }),
                    )?;
                }
                reply.send(Way { path, other }).ok();
            }
            // Each turn of the loop ends their echoes.
            Probing::Ended => {}
        }
        Ok(())
    }

    /// Packets of probes that have ended are sent back no more.
    pub(super) fn end_echoes(&mut self) -> Result<(), Failed> {
        let ended = self.probes.borrow_mut().take_ended();
        for number in ended {
            if self.echoes.remove(&number) {
                self.tell(self.echo_pump(number), Command::EndEcho(number))?;
            }
        }
        Ok(())
    }

    /// The pump that takes packets with this number in front.
    fn echo_pump(&self, number: u32) -> usize {
        let count = u32::try_from(self.pumps.len()).unwrap_or(1).max(1);
        usize::try_from(number % count).unwrap_or(0)
    }

    fn judge(&self, key: PublicKey, asked: &[Asked]) -> Option<Judged> {
        let policy = self.policies.get(&key)?;
        let at = self.config.contact_address;
        let verdict = |asked: &Asked| {
            let (protocol, name) = (asked.protocol(), asked.name.clone());
            let registration = Registration { protocol, port: asked.port, name };
            let open = |port, protocol| can_open(at, port, protocol);
            let judged = self.registrar.judge(key, policy, &registration, open);
            judged.err().map(|refusal| refusal.to_string())
        };
        let verdicts = asked.iter().map(verdict).collect();
        Some(Judged { name: policy.name.to_string(), verdicts })
    }

    /// An address that forwarders might dial as well: one that is listed, or one of the host's where
    /// all are listened on. Of private ones only what is listed: a bridge of containers has one, too,
    /// and leads nowhere from there. It is of the same kind as `local`, or it would lead nowhere from there.
    fn other_address(&mut self, local: IpAddr, now: Instant) -> Option<IpAddr> {
        let listen = &self.config.listen;
        let is_alike = |ip: &IpAddr| *ip != local && Kind::of(*ip) == Kind::of(local);
        let listed = listen.iter().map(|address| address.ip()).find(is_alike);
        if listed.is_some() {
            return listed;
        }
        if let Kind::Private4 | Kind::Private6 = Kind::of(local) {
            return None;
        }
        let is_any = |ip: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || local.is_ipv4());
        if !listen.iter().any(|address| is_any(address.ip())) {
            return None;
        }
        let own = self.own.at(now, net::own_addresses).ok()?;
        own.iter().copied().find(is_alike)
    }
}

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unspecified,
    Loopback,
    Link,
    Private4,
    Private6,
    Public4,
    Public6,
}

impl Kind {
    fn of(ip: IpAddr) -> Self {
        match ip {
            _ if ip.is_unspecified() => Self::Unspecified,
            _ if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(ip) if ip.is_link_local() => Self::Link,
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Self::Link,
            IpAddr::V4(ip) if ip.is_private() => Self::Private4,
            IpAddr::V6(ip) if ip.is_unique_local() => Self::Private6,
            IpAddr::V4(_) => Self::Public4,
            IpAddr::V6(_) => Self::Public6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A management address is no second way to a public one.
    #[test]
    fn addresses_are_compared_by_where_they_lead() {
        let kind = |text: &str| Kind::of(text.parse().unwrap());
        assert_eq!(kind("203.0.113.20"), kind("198.51.100.7"));
        assert_eq!(kind("10.0.0.1"), kind("192.168.50.1"));
        for (one, other) in [
            ("203.0.113.20", "10.0.0.1"),
            ("203.0.113.20", "127.0.0.1"),
            ("203.0.113.20", "169.254.1.1"),
            ("203.0.113.20", "2001:db8::1"),
            ("2001:db8::1", "fe80::1"),
            ("2001:db8::1", "fd00::1"),
            ("2001:db8::1", "::"),
        ] {
            assert_ne!(kind(one), kind(other), "{one} {other}");
        }
    }
}
