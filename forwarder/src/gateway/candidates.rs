//! The relay's addresses that an attempt has not tried yet, in the order in which it will.
//!
//! The order is the configuration's, and within a place the resolver's, with the families taking
//! turns (RFC 8305 §4): a family that is dead costs one delay and not one for each address.

use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Addresses of one place that an attempt tries.
pub(super) const ADDRESSES_MAX: usize = 8;

/// One of the relay's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    /// The place that it was found at, as an index into the configuration's list.
    pub(super) place: usize,
}

/// What comes first is tried first: what failed last time goes behind the rest, so that in the end
/// every address has its turn, however many of them use up an attempt's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_doubtful: bool,
    place: usize,
    position: usize,
}

#[derive(Debug, Default)]
pub(super) struct Candidates {
    waiting: Vec<(Rank, Candidate)>,
    /// Every address that ever waited here: none is tried twice …
    seen: BTreeSet<(SocketAddr, Option<usize>)>,
    /// … but for those of a proxy, which lead to other places as well.
    apart: BTreeSet<usize>,
    doubtful: BTreeSet<SocketAddr>,
    was_v6: Option<bool>,
}

impl Candidates {
    /// No addresses yet; those in `doubtful` failed last time.
    pub(super) fn new(doubtful: BTreeSet<SocketAddr>) -> Self {
        Self { doubtful, ..Self::default() }
    }

    /// The addresses of `place` are a proxy's: the same ones of another place lead elsewhere.
    pub(super) fn keep_apart(&mut self, place: usize) {
        self.apart.insert(place);
    }

    /// Adds what is new among the addresses of `place`.
    pub(super) fn add(&mut self, place: usize, addresses: &[SocketAddr]) {
        for (position, address) in addresses.iter().take(ADDRESSES_MAX).enumerate() {
            let address = canonical(*address);
            let apart = self.apart.contains(&place).then_some(place);
            if self.seen.insert((address, apart)) {
                let is_doubtful = self.doubtful.contains(&address);
                let rank = Rank { is_doubtful, place, position };
                self.waiting.push((rank, Candidate { address, place }));
            }
        }
        self.waiting.sort_by_key(|(rank, _)| *rank);
    }

    /// The next address to try.
    pub(super) fn pop(&mut self) -> Option<Candidate> {
        let (first, _) = self.waiting.first()?;
        let is_turn = |(rank, candidate): &(Rank, Candidate)| {
            rank.is_doubtful == first.is_doubtful
                && self.was_v6.is_none_or(|was_v6| was_v6 != candidate.address.is_ipv6())
        };
        let index = self.waiting.iter().position(is_turn).unwrap_or(0);
        let (_, candidate) = self.waiting.remove(index);
        self.was_v6 = Some(candidate.address.is_ipv6());
        Some(candidate)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// An IPv4 address in IPv6's clothes is the same address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, address.port()),
        // As it is: it may have a scope.
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| format!("{text}:443").parse().unwrap()).collect()
    }

    fn drain(mut candidates: Candidates) -> Vec<SocketAddr> {
        std::iter::from_fn(|| candidates.pop()).map(|candidate| candidate.address).collect()
    }

    /// Many addresses of a dead family do not stand before the first of the other.
    #[test]
    fn families_take_turns() {
        let mut candidates = Candidates::default();
        candidates.add(0, &addresses(&["[2001:db8::1]", "[2001:db8::2]", "[2001:db8::3]"]));
        candidates.add(1, &addresses(&["192.0.2.1", "192.0.2.2"]));
        let expected = addresses(&[
            "[2001:db8::1]",
            "192.0.2.1",
            "[2001:db8::2]",
            "192.0.2.2",
            "[2001:db8::3]",
        ]);
        assert_eq!(drain(candidates), expected);
    }

    /// The same address under two names, or in two notations, is one address.
    #[test]
    fn no_address_is_tried_twice() {
        let mut candidates = Candidates::default();
        candidates.add(0, &addresses(&["192.0.2.1", "[::ffff:192.0.2.1]"]));
        assert!(candidates.pop().is_some());
        candidates.add(1, &addresses(&["192.0.2.1"]));
        assert_eq!(drain(candidates), []);
    }

    /// A proxy is asked for each place that it leads to.
    #[test]
    fn a_proxys_address_is_tried_for_each_place() {
        let mut candidates = Candidates::default();
        candidates.keep_apart(0);
        candidates.keep_apart(1);
        candidates.add(0, &addresses(&["192.0.2.1"]));
        candidates.add(1, &addresses(&["192.0.2.1", "192.0.2.1"]));
        assert_eq!(drain(candidates), addresses(&["192.0.2.1", "192.0.2.1"]));
    }

    /// A place listed first is tried first, whenever its name was resolved.
    #[test]
    fn the_configurations_order_stands() {
        let mut candidates = Candidates::default();
        candidates.add(1, &addresses(&["192.0.2.2"]));
        candidates.add(0, &addresses(&["192.0.2.1"]));
        assert_eq!(drain(candidates), addresses(&["192.0.2.1", "192.0.2.2"]));
    }

    /// Addresses that used up the last attempt let the others go first.
    #[test]
    fn what_failed_last_time_goes_last() {
        let doubtful = addresses(&["192.0.2.1", "[2001:db8::1]"]);
        let mut candidates = Candidates::new(doubtful.into_iter().collect());
        let all = ["192.0.2.1", "[2001:db8::1]", "192.0.2.2", "192.0.2.3"];
        candidates.add(0, &addresses(&all));
        let expected = addresses(&["192.0.2.2", "192.0.2.3", "[2001:db8::1]", "192.0.2.1"]);
        assert_eq!(drain(candidates), expected);
    }

    /// A name with a hundred addresses does not make an attempt endless.
    #[test]
    fn addresses_of_one_place_are_bounded() {
        let mut candidates = Candidates::default();
        let many: Vec<_> =
            (0..100).map(|last| SocketAddr::from(([192, 0, 2, last], 443))).collect();
        candidates.add(0, &many);
        assert_eq!(drain(candidates), many[..ADDRESSES_MAX]);
    }
}
