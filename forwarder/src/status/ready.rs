//! When each daemon is ready.

use super::{ForwarderStatus, Ready, RelayStatus};

/// Peers that are named in one answer.
const NAMED_MAX: usize = 8;

impl Ready for ForwarderStatus {
    /// Its tunnel is up, and every peer of its file is registered. Those with a lease come and go.
    fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.is_ending {
            reasons.push("the forwarder is ending".to_owned());
        }
        if self.carrier.state != "up" {
            let why = self.carrier.last_error.as_ref();
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            reasons.push(format!("the tunnel is not up ({}){why}", self.carrier.state));
        }
        let is_missing = |peer: &&super::PeerStatus| peer.lease_s.is_none() && !peer.registered;
        let missing: Vec<_> = self.peers.iter().filter(is_missing).collect();
        if !missing.is_empty() {
            let named = missing.iter().take(NAMED_MAX);
            let named: Vec<_> =
                named.map(|peer| format!("{} ({})", peer.name, peer.state)).collect();
            let count = missing.len();
            reasons.push(format!("{count} peer(s) are not registered: {}", named.join(", ")));
        }
        reasons
    }
}

impl Ready for RelayStatus {
    /// It listens wherever its file says.
    fn unready(&self) -> Vec<String> {
        if self.is_ending {
            return vec!["the relay is ending".to_owned()];
        }
        let wanted = self.listen.len();
        if self.listening < wanted {
            return vec![format!("the relay listens at {} of {wanted} addresses", self.listening)];
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{CarrierStatus, PeerStatus};

    /// A forwarder is ready with a tunnel and all peers of its file, and with nothing less.
    #[test]
    fn a_forwarder_is_ready_when_all_of_its_file_stands() {
        let peer =
            PeerStatus { name: "web".into(), state: "registered".into(), ..PeerStatus::default() };
        let registered = PeerStatus { registered: true, ..peer.clone() };
        let leased = PeerStatus { lease_s: Some(9), ..peer.clone() };
        let carrier = CarrierStatus { state: "up".into(), ..CarrierStatus::default() };
        let status = ForwarderStatus {
            carrier,
            peers: vec![registered, leased],
            ..ForwarderStatus::default()
        };
        assert_eq!(status.unready(), [""; 0]);
        let less = [
            ForwarderStatus { is_ending: true, ..status.clone() },
            ForwarderStatus { peers: vec![peer], ..status.clone() },
            ForwarderStatus { carrier: CarrierStatus::default(), ..status.clone() },
        ];
        for less in less {
            assert_eq!(less.unready().len(), 1, "{less:?}");
        }
    }

    /// A relay is ready while it listens everywhere that it should.
    #[test]
    fn a_relay_is_ready_while_it_listens() {
        let listen = vec!["0.0.0.0:443".into(), "[::]:443".into()];
        let status = RelayStatus { listen, listening: 2, ..RelayStatus::default() };
        assert_eq!(status.unready(), [""; 0]);
        assert_eq!(RelayStatus { listening: 1, ..status.clone() }.unready().len(), 1);
        assert_eq!(RelayStatus { is_ending: true, ..status }.unready().len(), 1);
    }
}
