//! The path is open exactly while the wire carries it.

use std::time::Duration;

use adit_proto::frame::PathCipher;
use adit_proto::id::Time;

use super::ends::{ELSEWHERE, NAT, RELAY, at, pair, settle};
use super::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// However long the wire was gone, both ends are back within 3 s of its return.
#[test]
fn opens_within_three_seconds_of_the_wires_return() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        world.wire.is_up = [false; 2];
        world.run(SECOND * (seed as u32 * 7) + Duration::from_millis(seed * 131));
        assert!(!world.forwarder.is_open() && !world.relay.is_open());
        world.wire.is_up = [true; 2];
        world.wait(3 * SECOND, World::both_open);
        world.run(10 * SECOND);
        assert!(world.both_open() && world.relay.counters().falls_back == 0);
    }
}

/// A wire that carries one way only is no path: both ends that use it notice within 3 s.
#[test]
fn closes_within_three_seconds_of_any_loss() {
    for is_up in [[false, false], [true, false], [false, true]] {
        for seed in 0..40 {
            let mut world = World::new(seed);
            world.wire.delay_ms = (5, 5 + seed as usize * 10);
            world.wait(5 * SECOND, World::both_open);
            world.run(Duration::from_millis(5_000 + seed * 97));
            world.wait(5 * SECOND, World::both_open);
            world.wire.is_up = is_up;
            world.wait(3 * SECOND, |w| !w.forwarder.is_open() && !w.relay.is_open());
            world.run(90 * SECOND);
            assert!(!world.forwarder.is_open() && !world.relay.is_open());
            world.wire.is_up = [true; 2];
            world.wait(3 * SECOND, World::both_open);
        }
    }
}

/// On a lossy, reordering wire the path closes now and then and returns; most datagrams go over.
#[test]
fn a_bad_wire_is_used_as_far_as_it_goes() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        world.wire.loss_percent = 10;
        world.wire.delay_ms = (10, 200);
        world.run(120 * SECOND);
        let [at_relay, at_forwarder] = world.arrived;
        assert!(at_relay > 2_000 && at_forwarder > 2_000, "{:?} {world}", world.arrived);
        assert_eq!((world.relay.counters().forged, world.forwarder.counters().forged), (0, 0));
    }
}

/// The forwarder's NAT forgets it and gives it another address: the relay follows.
#[test]
fn the_relay_follows_a_rebinding() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.run(Duration::from_millis(5_000 + seed * 53));
        assert!(world.both_open());
        world.wire.nat = at("203.0.113.7:50001");
        world.wait(SECOND / 2, |w| w.relay.remote() == Some(w.wire.nat));
        assert!(world.both_open());
        let before = world.arrived;
        world.run(5 * SECOND);
        assert!(world.both_open() && world.arrived[1] > before[1] + 100);
        assert_eq!(world.forwarder.counters().falls_back, 0);
    }
}

/// Who copies packets and is faster than the line does not get the datagrams, nor more bytes than
/// he sent.
#[test]
fn the_relay_never_follows_a_copy() {
    let mut world = World::new(3);
    world.run(5 * SECOND);
    world.wire.is_copied = true;
    for _ in 0..3_000 {
        world.run(Duration::from_millis(10));
        assert_ne!(world.relay.remote(), Some(at(ELSEWHERE)));
        let [received, sent] = world.elsewhere;
        assert!(sent <= received, "{sent} B sent for {received} B");
    }
    assert!(world.elsewhere[1] > 0, "the other address was never challenged");
    world.wire.is_copied = false;
    world.wait(3 * SECOND, World::both_open);
}

/// An idle path stays open with a packet or two each quarter of a minute, and answers.
#[test]
fn an_idle_path_costs_little() {
    let mut world = World::new(4);
    world.every = None;
    world.run(10 * SECOND);
    assert!(world.both_open());
    let before = world.own;
    world.run(300 * SECOND);
    assert!(world.both_open());
    for (after, before) in world.own.into_iter().zip(before) {
        assert!((38..=42).contains(&(after - before)), "{} packets", after - before);
    }
}

/// A forwarder that is gone is not probed for ever, and a relay that is gone not often.
#[test]
fn a_lost_end_costs_nothing() {
    let mut world = World::new(5);
    world.run(10 * SECOND);
    world.wire.is_up = [false; 2];
    world.forwarder.set_wanted(false);
    world.run(100 * SECOND);
    let before = world.own;
    world.run(150 * SECOND);
    assert_eq!([world.own[0] - before[0], world.own[1] - before[1]], [10, 0]);
    assert_eq!(world.relay.poll_timeout(), Time(u64::MAX));
    world.wire.is_up = [true; 2];
    world.wait(16 * SECOND, World::both_open);
}

/// A refusal closes the path at once, without a storm of probes; one answer reopens it.
#[test]
fn a_refusal_closes_and_an_answer_reopens() {
    let mut world = World::new(6);
    world.run(5 * SECOND);
    for _ in 0..10 {
        let own = world.own[0];
        world.forwarder.handle_unreachable(world.now);
        assert!(!world.forwarder.is_open() && world.forwarder.remote().is_none());
        world.forwarder.handle_unreachable(world.now);
        world.wait(SECOND, World::both_open);
        assert!(world.own[0] - own <= 4, "{}", world.own[0] - own);
        world.run(3 * SECOND);
    }
    let counters = world.forwarder.counters();
    assert_eq!((counters.falls_back, counters.returns), (10, 11));
}

/// An answer that was under way when the refusal came does not reopen: only a later probe's does.
#[test]
fn an_older_answer_does_not_reopen() {
    let (mut forwarder, mut relay) = pair(PathCipher::Aes256Gcm, 22);
    settle(&mut forwarder, &mut relay, NAT, Time(1));
    let (mut probe, mut answer, mut now) = (Vec::new(), Vec::new(), Time(1));
    for is_older in [true, false] {
        now = now + 20 * SECOND;
        forwarder.poll_own(5, now, &mut probe).unwrap();
        relay.handle_packet(&mut probe, at(NAT), 6, now).unwrap();
        relay.poll_own(7, now, &mut answer).unwrap();
        // However long the probe was, the answer is short.
        assert_eq!((probe.len(), answer.len()), (8_972, 44));
        if is_older {
            forwarder.handle_unreachable(now);
        }
        forwarder.handle_packet(&mut answer, at(RELAY), 8, now).unwrap();
        assert_eq!(forwarder.is_open(), !is_older);
        probe.clear();
        answer.clear();
    }
}
