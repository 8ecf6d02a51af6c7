//! The search for the longest packet.

use std::time::Duration;

use adit_proto::limits::{PATH_PACKET_BASE, PATH_PACKET_CANDIDATES, PATH_SEARCH_AGAIN};

use super::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// The greatest size to be tried that a wire takes.
fn greatest(mtu: usize) -> usize {
    PATH_PACKET_CANDIDATES.into_iter().filter(|c| *c <= mtu).max().unwrap_or(PATH_PACKET_BASE)
}

fn sizes(world: &World) -> [usize; 2] {
    [world.forwarder.counters().mtu, world.relay.counters().mtu]
}

/// Whatever the wire takes, both ends find it within seconds.
#[test]
fn the_search_finds_the_wires_size() {
    for mtu in [1_200, 1_231, 1_232, 1_400, 1_440, 1_472, 8_971, 8_972, 65_507] {
        let mut world = World::new(mtu as u64);
        world.wire.mtu = mtu;
        world.run(10 * SECOND);
        assert_eq!((sizes(&world), world.both_open()), ([greatest(mtu); 2], true));
        assert_eq!(world.relay.counters().falls_back, 0);
    }
}

/// Lost probes do not end a search at once.
#[test]
fn the_search_survives_losses() {
    let found = (0..50).filter(|seed| {
        let mut world = World::new(*seed);
        world.wire.loss_percent = 2;
        world.run(8 * SECOND);
        sizes(&world) == [1_472; 2]
    });
    assert!(found.count() >= 48);
}

/// A wire that shrinks silently is noticed within 3 s, the path returns with packets that fit, and
/// the greater size is found again later.
#[test]
fn a_shrinking_wire_is_survived() {
    for mtu in [1_200, 1_300, 1_400, 1_452] {
        let mut world = World::new(mtu as u64);
        world.run(10 * SECOND);
        assert_eq!(sizes(&world), [1_472; 2]);
        world.wire.mtu = mtu;
        world.wait(3 * SECOND, |w| w.both_open() && sizes(w).iter().all(|size| *size <= mtu));
        world.run(10 * SECOND);
        assert_eq!((sizes(&world), world.both_open()), ([greatest(mtu); 2], true));
        world.wire.mtu = 1_472;
        world.run(PATH_SEARCH_AGAIN + 10 * SECOND);
        assert_eq!((sizes(&world), world.both_open()), ([1_472; 2], true));
    }
}

/// A wire that takes less than the base is no path.
#[test]
fn a_wire_below_the_base_never_opens() {
    let mut world = World::new(1);
    world.wire.mtu = PATH_PACKET_BASE - 1;
    world.run(30 * SECOND);
    assert!(!world.forwarder.is_open() && !world.relay.is_open());
}
