//! What pumps measure of the bytes that pass them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use adit::handoff::{Command, Event, Measure, Times, Way};

#[path = "tunnel/pumps.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod pumps;

use pumps::{DEADLINE, End, connect, echo, exchange, internal_peer, pattern, tunnel};

/// Messages that are sent one after the other, each after the answer to the one before.
const MESSAGES: u64 = 200;
/// How long the peer keeps its caller waiting before it reads: its own time, not a wait for
/// anything.
const STALL: Duration = Duration::from_millis(50);

fn measure(end: &End) -> Vec<Times> {
    end.pump.send(Command::Measure).unwrap();
    let times = |event| match event {
        Event::Report(report) => report.times,
        _ => None,
    };
    end.wait_for("times", times)
}

fn find(all: &[Times], measure: Measure, way: Option<Way>) -> &Times {
    let found = all.iter().find(|times| times.of.measure == measure && times.of.way == way);
    found.expect("a histogram")
}

fn count(end: &End, what: Measure, way: Way) -> u64 {
    find(&measure(end), what, Some(way)).histogram.len()
}

/// The last send's completion may come a little after its bytes.
fn wait_for_count(end: &End, what: Measure, way: Way, least: u64) -> u64 {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let count = count(end, what, way);
        if count >= least || Instant::now() > deadline {
            return count;
        }
    }
}

/// Every message is measured once at each end and on each way, under the name of its peer; a reset
/// lets everything begin anew.
#[test]
fn each_message_is_measured_once() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    for _ in 0..MESSAGES {
        assert_eq!(exchange(&mut stream, b"message"), b"message");
    }
    for end in [&tunnel.relay, &tunnel.forwarder] {
        for (what, way) in [
            (Measure::Inside, Way::ToTunnel),
            (Measure::Inside, Way::FromTunnel),
            (Measure::Queue, Way::ToTunnel),
        ] {
            assert_eq!(wait_for_count(end, what, way, MESSAGES), MESSAGES, "{what} {way:?}");
        }
        let times = measure(end);
        let inside = &find(&times, Measure::Inside, Some(Way::ToTunnel));
        assert_eq!(inside.of.contact.as_deref(), Some("peer"));
        assert_eq!(&*inside.of.session, "test");
        assert!(inside.histogram.max() < u64::try_from(DEADLINE.as_nanos()).unwrap());
        end.pump.send(Command::ResetTimes).unwrap();
        assert_eq!(count(end, Measure::Inside, Way::ToTunnel), 0);
    }
}

/// Bytes that wait until their peer reads have waited in the forwarder, and not in the relay's
/// queue: the first is what the control shows, a peer that reads at once.
#[test]
fn a_reader_that_waits_shows_at_its_own_end() {
    let slow = |mut stream: TcpStream| {
        std::thread::sleep(STALL);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
    };
    let (slow, quick) = (tunnel(internal_peer(slow)), tunnel(internal_peer(echo)));
    // More than the kernel's buffers take.
    let sent = pattern(16 << 20, 1);
    let mut stream = connect(&slow);
    stream.write_all(&sent).unwrap();
    drop(stream);
    for _ in 0..MESSAGES {
        assert_eq!(exchange(&mut connect(&quick), b"message"), b"message");
    }
    let longest = |end: &End| {
        wait_for_count(end, Measure::Inside, Way::FromTunnel, 1);
        Duration::from_nanos(
            find(&measure(end), Measure::Inside, Some(Way::FromTunnel)).histogram.max(),
        )
    };
    let deadline = Instant::now() + DEADLINE;
    while longest(&slow.forwarder) < STALL / 2 && Instant::now() < deadline {}
    assert!(longest(&slow.forwarder) >= STALL / 2, "{:?}", longest(&slow.forwarder));
    let median = find(&measure(&quick.forwarder), Measure::Inside, Some(Way::FromTunnel));
    let median = Duration::from_nanos(median.histogram.value_at_quantile(0.5));
    assert!(median < STALL / 2, "{median:?}");
}

/// The loss of a carrier is a stall until the next one brings something, and round trips are
/// measured on each; without a loss there is no stall.
#[test]
fn a_lost_carrier_is_a_stall() {
    let mut tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    assert_eq!(exchange(&mut stream, b"before"), b"before");
    assert!(find(&measure(&tunnel.forwarder), Measure::Stall, None).histogram.is_empty());
    tunnel.cut();
    tunnel.forwarder.wait_until_lost();
    tunnel.relay.wait_until_lost();
    let lost = Instant::now();
    tunnel.carry();
    assert!(tunnel.forwarder.wait_until_up() && tunnel.relay.wait_until_up());
    assert_eq!(exchange(&mut stream, b"after"), b"after");
    for end in [&tunnel.forwarder, &tunnel.relay] {
        let times = measure(end);
        let stall = &find(&times, Measure::Stall, None).histogram;
        assert_eq!(stall.len(), 1);
        // It was lost a little before it was heard of here.
        assert!(Duration::from_nanos(stall.max()) < lost.elapsed() + DEADLINE);
        assert!(!find(&times, Measure::RoundTrip, None).histogram.is_empty());
    }
}
