//! Probes of the datagram paths' socket: packets that carry a probe's id and token are sent back as
//! they came, so that whoever probes sees whether the way is open that a path would take.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use adit_proto::id::Time;
use adit_proto::limits::{PROBE_DATAGRAMS_MAX, PROBE_MAX, PROBES_MAX};
use adit_ring::{Envelope, Slice, SliceList};

use super::Pump;
use super::slots::{Purpose, Slot};
use crate::handoff::PathEcho;
use crate::probe::{PING_LEN, Token};

/// Whose packets are sent back.
#[derive(Debug, Default)]
pub(super) struct Echoes(HashMap<u32, Echo>);

#[derive(Debug)]
struct Echo {
    token: Token,
    until: Time,
    packets_left: usize,
}

impl Echoes {
    /// Takes a probe in. Whoever tells us keeps count of them, and offers no more than there may be.
    fn add(&mut self, PathEcho { id, token }: &PathEcho, now: Time) {
        self.0.retain(|_, echo| now < echo.until);
        if self.0.len() < PROBES_MAX {
            let until = now + PROBE_MAX;
            let echo = Echo { token: *token, until, packets_left: PROBE_DATAGRAMS_MAX };
            self.0.insert(*id, echo);
        }
    }

    /// Forgets a probe.
    fn remove(&mut self, id: u32) {
        self.0.remove(&id);
    }

    /// Whether `packet` is to be sent back.
    fn takes(&mut self, packet: &[u8], now: Time) -> bool {
        let Some((id, rest)) = packet.split_first_chunk() else { return false };
        let Some(echo) = self.0.get_mut(&u32::from_be_bytes(*id)) else { return false };
        let is_ours = rest.len() == PING_LEN && echo.token.is_before(rest);
        if !is_ours || now >= echo.until || echo.packets_left == 0 {
            return false;
        }
        echo.packets_left -= 1;
        true
    }
}

impl Pump {
    /// From now on packets of the probe are sent back.
    pub(super) fn echo_packets(&mut self, echo: &PathEcho) {
        self.paths.echoes.add(echo, self.now);
    }

    /// From now on they are not.
    pub(super) fn end_echo(&mut self, id: u32) {
        self.paths.echoes.remove(id);
    }

    /// Sends `packet` back to `source`, if it is a probe's; whether it was.
    pub(super) fn echo(
        &mut self,
        slot: Slot,
        packet: &[u8],
        source: SocketAddr,
        local: Option<IpAddr>,
    ) -> bool {
        if !self.paths.echoes.takes(packet, self.now) {
            return false;
        }
        let Some(path) = self.paths.sockets.get(slot) else { return false };
        let envelope = Envelope { to: Some(source), from: local, segment: None };
        let slices: SliceList = vec![Slice::from(packet.to_vec())];
        // Nobody waits to hear that it was sent.
        let token = Slot::NOWHERE.token(Purpose::PathSend);
        self.ring.send_message(path.socket(), envelope, slices, token);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Ping;

    /// Only a probe's own packets come back, only so many, and only for a while.
    #[test]
    fn what_is_sent_back_is_bounded() {
        let now = Time::default();
        let token = Token::generate().unwrap();
        let mut echoes = Echoes::default();
        let packet = Ping { token, number: 1 }.to_path_bytes(7);
        assert!(!echoes.takes(&packet, now));
        echoes.add(&PathEcho { id: 7, token }, now);
        let stranger = Token::generate().unwrap();
        for wrong in [
            Ping { token, number: 1 }.to_path_bytes(8),
            Ping { token: stranger, number: 1 }.to_path_bytes(7),
            [&packet[..], &[0]].concat(),
            packet[..packet.len() - 1].to_vec(),
            Vec::new(),
        ] {
            assert!(!echoes.takes(&wrong, now), "{wrong:?}");
        }
        assert!(!echoes.takes(&packet, now + PROBE_MAX));
        for _ in 0..PROBE_DATAGRAMS_MAX {
            assert!(echoes.takes(&packet, now));
        }
        assert!(!echoes.takes(&packet, now));
        for id in 0..10 * u32::try_from(PROBES_MAX).unwrap() {
            echoes.add(&PathEcho { id, token }, now);
        }
        assert_eq!(echoes.0.len(), PROBES_MAX);
        echoes.add(&PathEcho { id: 7, token }, now + PROBE_MAX);
        assert_eq!(echoes.0.len(), 1);
        assert!(echoes.takes(&packet, now + PROBE_MAX));
        echoes.remove(7);
        assert!(!echoes.takes(&packet, now + PROBE_MAX));
    }
}
