//! A line with loss, delay or little room: byte for byte the same, and hardly slower than plain TCP on
//! the same line, in the same direction, between the same programs.

use std::time::Duration;

use super::claim;
use crate::{LONG, Lab, LabError, Link, Tunnel};

/// The share of plain TCP's speed that the tunnel must have, in percent.
const SHARE_MIN: u64 = 80;
/// How often each is timed, in turns: on a line with loss one time says little.
const TURNS: usize = 3;
/// Where the source serves outside, and where it is found inside.
const OUTSIDE_PORT: u16 = 9000;
const LISTENER_PORT: u16 = 9001;

/// How much to fetch: a few seconds of such a line.
fn bytes(link: &Link) -> u64 {
    const KILO: u64 = 1_000;
    match (link.rate_mbit, link.loss, link.delay_ms) {
        (Some(rate), ..) if rate < 5.0 => 250 * KILO,
        (Some(rate), ..) if rate < 50.0 => 2_500 * KILO,
        (Some(_), ..) => 25_000 * KILO,
        (None, loss, _) if loss > 0.1 => 150 * KILO,
        (None, loss, _) if loss > 0.02 => 3_000 * KILO,
        (None, loss, _) if loss > 0.0 => 10_000 * KILO,
        (None, _, delay) if delay > 50.0 => 150_000 * KILO,
        _ => 100_000 * KILO,
    }
}

/// Fetches through both in turns; returns what was seen.
pub(super) fn play(link: &Link, lab: &Lab) -> Result<String, LabError> {
    let mut cable = lab.link("gw", *link)?;
    cable.verify(lab, "ext")?;
    let bytes = bytes(link).to_string();
    let _source = lab.host("ext").serve("source", OUTSIDE_PORT, &[&bytes])?;
    let (from, to) = (lab.host("icp").at(LISTENER_PORT), lab.host("ext").at(OUTSIDE_PORT));
    let listener =
        format!("[[listener]]\nname = \"outside\"\nlisten = \"{from}\"\nto = \"address:{to}\"\n");
    let tunnel = Tunnel::builder()
        .peer("peer3", &lab.host("peer3").at(7), 8003)
        .tail(&listener)
        .policy(&format!("dials = [\"{to}\"]\n"))
        .start(lab)?;
    let (mut plain, mut tunnelled) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..TURNS {
        plain += fetch(lab, &to, &bytes)?;
        tunnelled += fetch(lab, &from, &bytes)?;
    }
    let resumed = tunnel.resumptions()?;
    let seen = cable.counts()?.map(|counts| format!("{counts:?}"));
    let share = plain.as_micros() * 100 / tunnelled.as_micros().max(1);
    let times = format!(
        "{share} % of plain TCP's speed ({:.2} s beside {:.2} s for {TURNS} × {bytes} bytes), resumed \
         {resumed} times",
        tunnelled.as_secs_f64(),
        plain.as_secs_f64()
    );
    claim(share >= u128::from(SHARE_MIN), || format!("{times}; the line: {}", seen.join(" | ")))?;
    Ok(format!("{times}; every byte right"))
}

fn fetch(lab: &Lab, from: &str, bytes: &str) -> Result<Duration, LabError> {
    let mut fetching = lab.host("peer3").play_on("fetch", from, &[bytes])?;
    let said = fetching.finish(LONG)?;
    let mut words = said.split_whitespace().skip_while(|word| *word != "in").skip(1);
    let milliseconds = words.next().and_then(|number| number.parse().ok());
    milliseconds
        .map(Duration::from_millis)
        .ok_or(LabError::Unexpected { what: "fetch".to_owned(), text: said })
}
