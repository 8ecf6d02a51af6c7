//! What a gateway does to addresses, from what was seen of it; in RFC 4787's words.

use std::net::{IpAddr, SocketAddr};

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    /// Our own end, as we know it.
    pub(super) local: SocketAddr,
    /// How the relay sees it at each of its sockets.
    pub(super) first: Option<SocketAddr>,
    pub(super) second: Option<SocketAddr>,
    /// At another address of the relay.
    pub(super) elsewhere: Option<SocketAddr>,
    /// From where datagrams came in: what had been sent to the first alone.
    pub(super) let_in: Option<LetIn>,
}

/// Who may answer a datagram that was sent to one port of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LetIn {
    /// Another port of the same address.
    pub(super) other_port: bool,
    /// Another address, where the relay has one.
    pub(super) other_address: Option<bool>,
}

/// What the gateway is, for people: "a symmetric NAT: …".
pub(super) fn describe(seen: &Sighting) -> Option<String> {
    let first = seen.first?;
    let filtering = filtering(seen.let_in);
    if first == seen.local && seen.second.is_none_or(|second| second == first) {
        let kind = match seen.let_in {
            Some(LetIn { other_port: false, .. }) => "a firewall without NAT",
            _ => "a router without NAT",
        };
        return Some(format!("{kind}: {} is seen as it is; {filtering}", first.ip()));
    }
    let kept = if first.port() == seen.local.port() { "ports are kept" } else { "ports change" };
    let is_pooling = [seen.second, seen.elsewhere]
        .into_iter()
        .flatten()
        .any(|other| other.ip() != first.ip() && is_alike(other.ip(), first.ip()));
    let pooling =
        if is_pooling { "; its outside address changes from one flow to the next" } else { "" };
    let (kind, mapping) = match (seen.second, seen.elsewhere) {
        (Some(second), _) if second != first => (
            "a symmetric NAT",
            "another outside port for each address and port (mapping: address- and port-dependent)",
        ),
        (Some(_), Some(elsewhere)) if elsewhere != first => {
            ("a NAT with address-dependent mapping", "another outside port for each address")
        }
        (Some(_), Some(_)) => (
            cone(seen.let_in),
            "one outside port for each inside port (mapping: endpoint-independent)",
        ),
        (Some(_), None) => (
            cone(seen.let_in),
            "one outside port for each inside port (mapping: endpoint-independent or \
             address-dependent: the relay has one address only, so that these cannot be told apart)",
        ),
        (None, _) => ("a NAT", "mapping unknown"),
    };
    Some(format!(
        "{kind}: {} is seen as {first}, {mapping}, {kept}; {filtering}{pooling}",
        seen.local
    ))
}

fn is_alike(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}

/// What a NAT with one outside port for each inside port is usually called.
fn cone(let_in: Option<LetIn>) -> &'static str {
    match let_in {
        Some(LetIn { other_address: Some(true), .. }) => "a full cone NAT",
        Some(LetIn { other_port: true, other_address: Some(false) }) => "a restricted cone NAT",
        Some(LetIn { other_port: true, other_address: None }) => "a full or restricted cone NAT",
        Some(LetIn { other_port: false, .. }) => "a port-restricted cone NAT",
        None => "a cone NAT",
    }
}

fn filtering(let_in: Option<LetIn>) -> &'static str {
    match let_in {
        Some(LetIn { other_address: Some(true), .. }) => {
            "anybody may send in (filtering: endpoint-independent)"
        }
        Some(LetIn { other_port: true, other_address: Some(false) }) => {
            "only an address that was sent to may send in (filtering: address-dependent)"
        }
        Some(LetIn { other_port: true, other_address: None }) => {
            "other ports of an address that was sent to may send in (filtering: \
             endpoint-independent or address-dependent)"
        }
        Some(LetIn { other_port: false, .. }) => {
            "only an address and port that was sent to may send in (filtering: address- and \
             port-dependent)"
        }
        None => "filtering unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn seen(first: &str, second: &str, elsewhere: Option<&str>, let_in: LetIn) -> String {
        let sighting = Sighting {
            local: at("192.168.50.2:4000"),
            first: Some(at(first)),
            second: Some(at(second)),
            elsewhere: elsewhere.map(at),
            let_in: Some(let_in),
        };
        describe(&sighting).unwrap()
    }

    /// Each kind of gateway has its name, and what cannot be known is not claimed.
    #[test]
    fn gateways_are_named_by_what_was_seen() {
        let (one, two) = ("203.0.113.1:4000", "203.0.113.1:4001");
        let nobody = LetIn { other_port: false, other_address: None };
        let sibling = LetIn { other_port: true, other_address: None };
        let cases = [
            (seen(one, two, None, nobody), "a symmetric NAT"),
            (seen(one, one, None, nobody), "a port-restricted cone NAT"),
            (seen(one, one, None, nobody), "cannot be told apart"),
            (seen(one, one, None, nobody), "ports are kept"),
            (seen(two, two, None, nobody), "ports change"),
            (seen(one, one, None, sibling), "a full or restricted cone NAT"),
            (seen(one, one, Some(two), nobody), "address-dependent mapping"),
            (
                seen(one, one, Some(one), LetIn { other_address: Some(true), ..sibling }),
                "a full cone NAT",
            ),
            (
                seen(one, one, Some(one), LetIn { other_address: Some(false), ..sibling }),
                "a restricted cone NAT",
            ),
            (seen(one, "203.0.113.2:4000", None, nobody), "outside address changes"),
            (
                seen("192.168.50.2:4000", "192.168.50.2:4000", None, nobody),
                "a firewall without NAT",
            ),
            (seen("192.168.50.2:4000", "192.168.50.2:4000", None, sibling), "a router without NAT"),
        ];
        for (text, expected) in cases {
            assert!(text.contains(expected), "{text}\nexpected: {expected}");
        }
        let nothing = Sighting {
            local: at("192.168.50.2:4000"),
            first: None,
            second: None,
            elsewhere: None,
            let_in: None,
        };
        assert_eq!(describe(&nothing), None);
    }
}
