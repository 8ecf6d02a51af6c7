//! The lab's impaired links do what they promise: nothing that is tested over them means anything
//! otherwise.

use netns_tests::link::Counts;
use netns_tests::{Lab, LabError, Link, SHORT, Topology, iperf3_server, wait_until};

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// Mbit/s of one TCP connection from `ext` to `gw`'s inside, by way of the gateway's link.
fn mbit_through(lab: &Lab, seconds: &str) -> std::result::Result<f64, Box<dyn std::error::Error>> {
    let _server = iperf3_server(&lab.host("ext"), 5201)?;
    let to = lab.host("ext").address();
    let said = lab.host("icp").run_ok(["iperf3", "-J", "-t", seconds, "-c", to])?.stdout;
    let report: serde_json::Value = serde_json::from_str(&said)?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.ok_or("iperf3 says no rate")? / 1e6)
}

/// A round trip takes twice the delay, and the promised share of frames is lost, not more.
#[test]
fn link_has_the_delay_and_the_loss_that_it_was_given() -> Result {
    let lab = Topology::STANDARD.build("link-delay")?;
    let mut cable = lab.link("gw", Link { delay_ms: 10.0, loss: 0.05, ..Link::CLEAR })?;
    cable.verify(&lab, "ext")?;
    let [outwards, inwards] = cable.counts()?;
    assert!(outwards.lost > 0 && inwards.lost > 0, "{outwards:?} {inwards:?}");
    Ok(())
}

/// What promises nothing loses nothing, also under load, and keeps what offloads made big.
#[test]
fn clear_link_loses_nothing_at_full_speed() -> Result {
    let lab = Topology::STANDARD.build("link-clear")?;
    let mut cable = lab.link("gw", Link { delay_ms: 1.0, ..Link::CLEAR })?;
    cable.verify(&lab, "ext")?;
    let before = cable.counts()?;
    let mbit = mbit_through(&lab, "1")?;
    let after = cable.counts()?;
    for (before, after) in before.iter().zip(after) {
        let Counts { lost, overflowed, refused, .. } = after.since(before);
        assert_eq!((lost, overflowed, refused), (0, 0, 0), "{after:?}");
    }
    let frames = f64::from(u32::try_from(after[0].since(&before[0]).offered)?);
    let bytes_each = mbit * 1e6 / 8.0 / frames;
    assert!(bytes_each > 3_000.0, "{bytes_each:.0} bytes a frame at {mbit:.0} Mbit/s");
    Ok(())
}

/// The rate is the rate, and what the queue cannot hold is dropped and counted.
#[test]
fn narrow_link_passes_its_rate_and_drops_what_its_queue_cannot_hold() -> Result {
    let lab = Topology::STANDARD.build("link-rate")?;
    let link = Link { rate_mbit: Some(20.0), queue_ms: 20.0, delay_ms: 5.0, ..Link::CLEAR };
    let mut cable = lab.link("gw", link)?;
    cable.verify(&lab, "ext")?;
    let mbit = mbit_through(&lab, "3")?;
    assert!((14.0..20.0).contains(&mbit), "{mbit:.1} Mbit/s");
    let [outwards, _] = cable.counts()?;
    assert!(outwards.overflowed > 0, "{outwards:?}");
    Ok(())
}

/// Frames come twice and out of order, as told.
#[test]
fn link_duplicates_and_reorders() -> Result {
    let lab = Topology::STANDARD.build("link-order")?;
    let link = Link { duplication: 0.1, reordering: 0.1, delay_ms: 1.0, ..Link::CLEAR };
    let mut cable = lab.link("gw", link)?;
    cable.verify(&lab, "ext")?;
    for counts in cable.counts()? {
        assert!(counts.duplicated > 0 && counts.reordered > 0, "{counts:?}");
    }
    Ok(())
}

/// Jitter makes round trips differ, by no more than was told; without it they hardly do.
#[test]
fn jitter_spreads_round_trips_and_nothing_else_does() -> Result {
    let lab = Topology::STANDARD.build("link-jitter")?;
    let mut spread_ms = Vec::new();
    let mut cable = lab.link("gw", Link { delay_ms: 5.0, ..Link::CLEAR })?;
    for jitter_ms in [0.0, 100.0] {
        cable.plug(&lab, Link { delay_ms: 5.0, jitter_ms, ..Link::CLEAR })?;
        cable.verify(&lab, "ext")?;
        let to = lab.host("ext").address();
        let said = lab.host("gw").run_ok(["ping", "-q", "-c", "20", "-i", "0.1", to])?.stdout;
        // `rtt min/avg/max/mdev = 10.1/10.3/11.0/0.1 ms`; the deviation, which one straggler of a busy
        // machine does not spoil.
        let mdev = said.rsplit('/').next().and_then(|rest| rest.split(' ').next());
        spread_ms.push(mdev.ok_or("no deviation")?.parse::<f64>()?);
    }
    assert!(spread_ms[1] > 20.0 && spread_ms[1] > 1.5 * spread_ms[0], "{spread_ms:?}");
    Ok(())
}

/// A link carries IPv6 as well, with the addresses and routes that were there.
#[test]
fn link_carries_ipv6_with_its_addresses_and_routes() -> Result {
    let lab = Topology::V6_ONLY.draw("link-v6").paced().build()?;
    let mut cable = lab.link("gw", Link { delay_ms: 5.0, loss: 0.05, ..Link::CLEAR })?;
    cable.verify(&lab, "ext")?;
    let mut inner = lab.link("icp", Link { delay_ms: 1.0, ..Link::CLEAR })?;
    let _echo = lab.host("ext").serve("echo", 7, &[])?;
    lab.host("icp").play("connect", &lab.host("ext").at(7), &[])?;
    let [outwards, inwards] = inner.counts()?;
    assert!(outwards.passed > 0 && inwards.passed > 0, "{outwards:?} {inwards:?}");
    Ok(())
}

/// A check knows its link: one that delays and loses less than it is said to does not pass.
#[test]
fn check_refuses_a_link_that_does_less_than_promised() -> Result {
    let lab = Topology::STANDARD.draw("link-false").paced().build()?;
    let told = Link { delay_ms: 10.0, loss: 0.1, ..Link::CLEAR };
    for done in [Link { delay_ms: 0.0, ..told }, Link { loss: 0.01, ..told }] {
        let mut cable = lab.link(if done.loss < 0.1 { "icp" } else { "peer3" }, done)?;
        let neighbour = if done.loss < 0.1 { "peer4" } else { "peer5" };
        cable.verify(&lab, neighbour)?;
        let verdict = cable.verify_as(told, &lab, neighbour);
        assert!(matches!(verdict, Err(LabError::Misbehaved { .. })), "{verdict:?}");
    }
    Ok(())
}

/// Nothing passes a pulled cable; plugged in again it works, with all addresses where they were.
#[test]
fn pulled_cable_passes_nothing_until_it_is_plugged_in_again() -> Result {
    let lab = Topology::DOUBLE.build("link-pulled")?;
    let link = Link { delay_ms: 2.0, ..Link::CLEAR };
    let mut cable = lab.link("gw", link)?;
    let ext = lab.host("ext").address();
    let reaches = || {
        let ping = lab.host("icp").run(["ping", "-q", "-c", "1", "-W", "1", ext]);
        ping.is_ok_and(|ping| ping.success())
    };
    wait_until(SHORT, "the link to pass a ping", reaches)?;
    cable.pull();
    assert!(!reaches(), "a pulled cable passes a ping");
    cable.plug(&lab, link)?;
    wait_until(SHORT, "the link to pass a ping again", reaches)?;
    Ok(())
}
