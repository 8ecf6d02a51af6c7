//! What pumps measure of the bytes that pass them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use adit::handoff::{Command, Event, Filter, GoawayReason, Measure, SessionKey, Times, Way};

#[path = "tunnel/pumps.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod pumps;

use pumps::{DEADLINE, End, connect, echo, exchange, internal_peer, pattern, tunnel};

/// Messages that are sent one after the other, each after the answer to the one before.
const MESSAGES: u64 = 200;
/// How long a peer keeps its caller's bytes waiting before it reads.
const STALL: Duration = Duration::from_millis(50);

fn measure(end: &End) -> Vec<Times> {
    end.pump.send(Command::Measure(Default::default(), Filter::default())).unwrap();
    let times = |event| match event {
        Event::Report(report) => report.times,
        _ => None,
    };
    end.wait_for("times", times)
}

fn look(all: &[Times], measure: Measure, way: Option<Way>) -> Option<&Times> {
    all.iter().find(|times| times.of.measure == measure && times.of.way == way)
}

fn find(all: &[Times], measure: Measure, way: Option<Way>) -> &Times {
    look(all, measure, way).expect("a histogram")
}

fn count(end: &End, what: Measure, way: Way) -> u64 {
    look(&measure(end), what, Some(way)).map_or(0, |times| times.histogram.len())
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

/// Bytes that wait until their peer reads show it at the end where they wait; those of a peer that
/// reads at once, the control, do not.
#[test]
fn a_reader_that_waits_is_measured() {
    let begins = Arc::new(Barrier::new(2));
    let begins_to_read = Arc::clone(&begins);
    let slow = move |mut stream: TcpStream| {
        begins_to_read.wait();
        std::io::copy(&mut stream, &mut std::io::sink()).ok();
    };
    let (slow, quick) = (tunnel(internal_peer(slow)), tunnel(internal_peer(echo)));
    let mut stream = connect(&slow);
    // More than the kernel's buffers take.
    let writer = thread::spawn(move || stream.write_all(&pattern(64 << 20, 1)).unwrap());
    wait_until_stuck(&slow.forwarder);
    begins.wait();
    writer.join().unwrap();
    for _ in 0..MESSAGES {
        assert_eq!(exchange(&mut connect(&quick), b"message"), b"message");
    }
    let longest = |end: &End| {
        let times = measure(end);
        let times = look(&times, Measure::Inside, Some(Way::FromTunnel));
        Duration::from_nanos(times.map_or(0, |times| times.histogram.max()))
    };
    let deadline = Instant::now() + DEADLINE;
    while longest(&slow.forwarder) < STALL && Instant::now() < deadline {}
    assert!(longest(&slow.forwarder) >= STALL, "{:?}", longest(&slow.forwarder));
    let times = measure(&quick.forwarder);
    let quick = &find(&times, Measure::Inside, Some(Way::FromTunnel)).histogram;
    let median = Duration::from_nanos(quick.value_at_quantile(0.5));
    assert!(median < STALL, "{median:?}");
}

/// Waits until the same bytes have waited for their socket for a while.
fn wait_until_stuck(end: &End) {
    let waiting = || {
        let report = end.report();
        (report.sessions[0].bytes_received, report.sessions[0].bytes_waiting)
    };
    let deadline = Instant::now() + DEADLINE;
    let (mut before, mut since) = (waiting(), Instant::now());
    // A little longer, since times are kept to two digits.
    while since.elapsed() < STALL * 11 / 10 {
        assert!(Instant::now() < deadline, "the reader takes everything");
        let now = waiting();
        if now != before || now.1 == 0 {
            (before, since) = (now, Instant::now());
        }
    }
}

/// The loss of a carrier is a stall until the next one brings something, and round trips are
/// measured on each; without a loss there is no stall.
#[test]
fn a_lost_carrier_is_a_stall() {
    let mut tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    assert_eq!(exchange(&mut stream, b"before"), b"before");
    assert!(look(&measure(&tunnel.forwarder), Measure::Stall, None).is_none());
    tunnel.cut();
    tunnel.forwarder.wait_until_lost();
    tunnel.relay.wait_until_lost();
    let lost = Instant::now();
    hold(&tunnel.forwarder, lost);
    tunnel.carry();
    assert!(tunnel.forwarder.wait_until_up() && tunnel.relay.wait_until_up());
    assert_eq!(exchange(&mut stream, b"after"), b"after");
    for end in [&tunnel.forwarder, &tunnel.relay] {
        let times = measure(end);
        let stall = &find(&times, Measure::Stall, None).histogram;
        assert_eq!(stall.len(), 1);
        // It was lost a little before it was heard of here.
        let longest = Duration::from_nanos(stall.max());
        assert!(longest >= STALL && longest < lost.elapsed() + DEADLINE, "{longest:?}");
        let has_round_trip = |times: &[Times]| look(times, Measure::RoundTrip, None).is_some();
        let deadline = Instant::now() + DEADLINE;
        while !has_round_trip(&measure(end)) {
            assert!(Instant::now() < deadline, "no round trip was measured");
        }
    }
}

/// Lets an outage last a little longer than [`STALL`].
fn hold(end: &End, lost: Instant) {
    while lost.elapsed() < STALL * 11 / 10 {
        end.report();
    }
}

/// A stall that ends with its session is one of its own length.
#[test]
fn a_stall_that_ends_the_session_is_measured() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    assert_eq!(exchange(&mut stream, b"before"), b"before");
    assert!(look(&measure(&tunnel.relay), Measure::Stall, None).is_none());
    tunnel.cut();
    tunnel.relay.wait_until_lost();
    let lost = Instant::now();
    hold(&tunnel.relay, lost);
    let (session, why) = (SessionKey(tunnel.relay.report().sessions[0].key), String::new());
    tunnel.relay.pump.send(Command::Close { session, reason: GoawayReason::Ending, why }).unwrap();
    let times = measure(&tunnel.relay);
    let stall = &find(&times, Measure::Stall, None).histogram;
    let longest = Duration::from_nanos(stall.max());
    assert!(stall.len() == 1 && longest >= STALL, "{longest:?}");
}
