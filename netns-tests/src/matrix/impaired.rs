//! A line with loss, delay or little room: byte for byte the same, and hardly slower than plain TCP on
//! the same line, in the same direction, between the same programs; datagrams get lost no more than plain
//! ones do.

use std::time::{Duration, Instant};

use super::{Direction, Protocol, Row, claim};
use crate::link::{Cable, Counts};
use crate::{LONG, Lab, LabError, Link, Process, SHORT, Tunnel, TunnelBuilder, wait_until};

/// The share of plain TCP's speed that the tunnel must have, in percent.
const SHARE_MIN: u64 = 80;
/// How often each is timed, in turns; their medians are compared. On a line of chances one time says
/// little, on others all are alike.
const TURNS: usize = 3;
const TURNS_OF_CHANCE: usize = 9;
/// By how much plain TCP may seem faster than the line, in percent: its first bytes are counted, though
/// the clock begins with the connection, and the line's own clock is coarse.
const RATE_SLACK_PERCENT: f64 = 5.0;
/// How many plain datagrams are compared, and by how many percent of them the tunnel's may be more lost.
const BEATS: u64 = 1_000;
const BEAT_SLACK_PERCENT: u64 = 3;
/// How long they may take at fifty a second.
const BEATS_MAX: Duration = Duration::from_secs(40);
/// Where the servers are outside, and where they are found inside.
const SOURCE: Path = Path { name: "source", outside: 9000, inside: 9001 };
const SINK: Path = Path { name: "sink", outside: 9002, inside: 9003 };
/// Of datagrams: the contact point, its peer, and a plain echo.
const CONTACT: u16 = 8003;
const PEER_PORT: u16 = 7;

/// A server outside, and the listener that leads to it.
#[derive(Debug, Clone, Copy)]
struct Path {
    name: &'static str,
    outside: u16,
    inside: u16,
}

/// How much to carry each time.
fn bytes(link: &Link) -> u64 {
    const KILO: u64 = 1_000;
    // So many seconds that it is not slow start that is compared.
    let times = if link.delay_ms > 50.0 { 4 } else { 1 };
    match (link.rate_mbit, link.loss) {
        (Some(rate), _) if rate < 5.0 => times * 250 * KILO,
        (Some(rate), _) if rate < 50.0 => times * 2_500 * KILO,
        (Some(_), _) => times * 25_000 * KILO,
        (None, loss) if loss > 0.1 => 100 * KILO,
        (None, loss) if loss > 0.02 => 500 * KILO,
        (None, loss) if loss > 0.0 => 2_000 * KILO,
        (None, _) => 4_000 * KILO,
    }
}

fn is_of_chance(link: &Link) -> bool {
    link.loss > 0.0 || link.reordering > 0.0 || link.duplication > 0.0
}

/// Plays the row; returns what was seen.
pub(super) fn play(row: Row, link: &Link, lab: &Lab) -> Result<String, LabError> {
    let mut cable = lab.link("gw", *link)?;
    cable.verify(lab, "ext")?;
    let before = cable.counts()?;
    let seen = match (row.protocol, row.direction) {
        (Protocol::Tcp, direction) => streams(direction, link, lab)?,
        (Protocol::Udp, _) => datagrams(lab)?,
    };
    let counts = did(link, before, &mut cable)?;
    Ok(format!("{seen}; {counts}"))
}

/// The line did what it promises while the row's own traffic was on it.
fn did(link: &Link, before: [Counts; 2], cable: &mut Cable) -> Result<String, LabError> {
    let [out, back] = cable.counts()?;
    let both = [out.since(&before[0]), back.since(&before[1])];
    let sum = |of: fn(&Counts) -> u64| both.iter().map(of).sum::<u64>();
    let mut seen = vec![format!("{} frames on the line", sum(|counts| counts.offered))];
    for (share, count, what) in [
        (link.loss, sum(|counts| counts.lost), "lost"),
        (link.reordering, sum(|counts| counts.reordered), "overtaken"),
        (link.duplication, sum(|counts| counts.duplicated), "twice"),
    ] {
        if share > 0.0 {
            claim(count > 0, || format!("of the row's own frames none came {what}: {both:?}"))?;
            seen.push(format!("{count} {what}"));
        }
    }
    Ok(seen.join(", "))
}

/// Fetches (inwards) or uploads (outwards), plain and through the tunnel in turns.
fn streams(direction: Direction, link: &Link, lab: &Lab) -> Result<String, LabError> {
    let bytes = bytes(link);
    let length = bytes.to_string();
    let ext = lab.host("ext");
    let (path, role) = match direction {
        Direction::Inwards => (SOURCE, "fetch"),
        Direction::Outwards => (SINK, "upload"),
    };
    let more: &[&str] = if direction == Direction::Inwards { &[&length] } else { &[] };
    let _server = ext.serve(path.name, path.outside, more)?;
    let (from, to) = (lab.host("icp").at(path.inside), ext.at(path.outside));
    let tunnel = plan(path, lab).start(lab)?;
    let carry = |to: &str| -> Result<Duration, LabError> {
        let begun = Instant::now();
        lab.host("peer3").play_on(role, to, &[&length])?.finish(LONG)?;
        Ok(begun.elapsed())
    };
    let turns = if is_of_chance(link) { TURNS_OF_CHANCE } else { TURNS };
    let (mut plain, mut tunnelled) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        plain.push(carry(&to)?);
        tunnelled.push(carry(&from)?);
    }
    let (plain, tunnelled) = (median(plain), median(tunnelled));
    let share = plain.as_micros() * 100 / tunnelled.as_micros().max(1);
    let times = format!(
        "{role}: {share} % of plain TCP's speed (medians of {turns}: {:.2} s beside {:.2} s for {bytes} \
         bytes), resumed {} times",
        tunnelled.as_secs_f64(),
        plain.as_secs_f64(),
        tunnel.resumptions()?
    );
    if let Some(rate) = link.rate_mbit {
        let least = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) * 8.0 / (rate * 1e6);
        let is_held = plain.as_secs_f64() * (1.0 + RATE_SLACK_PERCENT / 100.0) >= least;
        claim(is_held, || format!("plain TCP is faster than {rate} Mbit/s: {times}"))?;
    }
    claim(share >= u128::from(SHARE_MIN), || times.clone())?;
    Ok(format!("{times}; every byte right"))
}

fn plan(path: Path, lab: &Lab) -> TunnelBuilder {
    let (from, to) = (lab.host("icp").at(path.inside), lab.host("ext").at(path.outside));
    let listener =
        format!("[[listener]]\nname = \"outside\"\nlisten = \"{from}\"\nto = \"address:{to}\"\n");
    // Only who is registered is let out.
    Tunnel::builder()
        .peer("peer3", &lab.host("peer3").at(PEER_PORT), CONTACT)
        .tail(&listener)
        .policy(&format!("dials = [\"{to}\"]\n"))
}

/// Numbered datagrams there and back, in through the tunnel and plain ones out beside it.
fn datagrams(lab: &Lab) -> Result<String, LabError> {
    let (peer, ext) = (lab.host("peer3"), lab.host("ext"));
    let _inside = peer.serve("datagram-echo", PEER_PORT, &[])?;
    let _outside = ext.serve("datagram-echo", SOURCE.outside, &[])?;
    let builder = Tunnel::builder().udp_peer("peer3", &peer.at(PEER_PORT), CONTACT);
    let tunnel = builder.start(lab)?;
    let mut plain = peer.play_on("datagram-beat", &ext.at(SOURCE.outside), &[])?;
    let mut tunnelled = ext.play_on("datagram-beat", &tunnel.contact(CONTACT), &[])?;
    for beat in [&mut plain, &mut tunnelled] {
        beat.wait_for_log("beating", SHORT)?;
    }
    // As many as are worth comparing, at the beat's own pace of fifty a second.
    let begun = Instant::now();
    wait_until(BEATS_MAX, "enough datagrams", || {
        begun.elapsed().as_millis() >= u128::from(BEATS * 20)
    })?;
    let share = |beat: &mut Process| -> Result<(u64, u64), LabError> {
        let said = beat.finish(SHORT)?;
        let words: Vec<_> = said.split_whitespace().collect();
        let number = |what: &str| {
            let pair = words.windows(2).rev().find(|pair| pair[0] == what);
            pair.and_then(|pair| pair[1].parse::<u64>().ok())
        };
        let counted = number("sent").zip(number("answered"));
        counted
            .ok_or_else(|| LabError::Unexpected { what: "a beat".to_owned(), text: said.clone() })
    };
    let ((sent, answered), (by_tunnel, through)) = (share(&mut plain)?, share(&mut tunnelled)?);
    let seen =
        format!("{through} of {by_tunnel} datagrams answered, {answered} of {sent} plain ones");
    claim(answered < sent, || format!("no plain datagram was lost: {seen}"))?;
    let percent = |part: u64, all: u64| part * 100 / all.max(1);
    let is_alike = percent(through, by_tunnel) + BEAT_SLACK_PERCENT >= percent(answered, sent);
    claim(is_alike, || format!("the tunnel loses more: {seen}"))?;
    Ok(seen)
}

/// The one in the middle.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
