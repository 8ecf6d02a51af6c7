//! Paths that lose large packets and say nothing: they are told by what of a handshake arrives, and
//! passed by smaller segments.
//!
//! A handshake begins with more than a packet holds comfortably (the post-quantum key share), so that
//! it is the first to get stuck. A filter that reads the name in it shows the same picture at first; but
//! it lets all other segments of the same size pass.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::net::{PathSample, Watch};

/// How long a handshake may be stuck before its segments are looked at, and how often after that.
/// The kernel has sent the first one again twice by then, unless the round trip is long.
const LOOK_AFTER: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Repeats in vain that are no bad luck any more.
const REPEATS_MIN: u8 = 2;

/// What is tried in place of what gets lost: what every IPv6 path must carry (1,280 bytes with headers
/// of 60), then what every IPv4 host must take (576 with headers of 40; RFC 9293 §3.7.1).
pub(crate) const SMALLER: [u32; 2] = [1_220, 536];
/// The headers of IP and TCP without options.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;

/// How long the smaller segments are remembered: the path may be another one by then.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Addresses remembered: those of all places, once over.
const REMEMBERED_MAX: usize = 64;

/// What is known of a path that gets stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The segments' fate.
    pub sample: PathSample,
    /// The size that packets were held to, headers included; none when the kernel chose.
    pub held_to: Option<u32>,
}

impl Stuck {
    /// The longest packet that was sent.
    pub(super) fn packet_bytes(&self) -> u32 {
        self.held_to.map_or(self.sample.packet_bytes, |held| held.min(self.sample.packet_bytes))
    }

    /// Small segments arrived, large ones did not.
    pub(super) fn is_of_size(&self) -> bool {
        let PathSample { arrived_behind_a_gap, received_behind_a_gap, .. } = self.sample;
        // What comes is counted each time that it comes again; and it is sealed, so nobody reads it.
        let is_inward = arrived_behind_a_gap == 0 && received_behind_a_gap > 0;
        !self.is_of_content() && (is_inward || arrived_behind_a_gap == 1)
    }

    /// A segment was lost, and one of full size arrived: before it, or behind it, where only the last
    /// of a handshake's is short. Once the other end has answered, what it has acknowledged is an
    /// earlier flight, and says nothing about this one.
    fn is_of_content(&self) -> bool {
        let PathSample { acknowledged, segment_bytes, received, .. } = self.sample;
        if received > 0 {
            return false;
        }
        let has_gap = self.sample.unacknowledged > 0;
        let is_before = acknowledged >= u64::from(segment_bytes);
        has_gap && (is_before || self.sample.arrived_behind_a_gap > 1)
    }
}

/// Waits until the segments of a handshake are stuck; for ever if they never are.
pub(super) async fn stuck(watch: &Watch) -> PathSample {
    let first = watch.sample().unwrap_or_default();
    sleep(LOOK_AFTER).await;
    loop {
        if let Some(sample) = watch.sample().map(|sample| since(&first, sample))
            && is_stuck(&sample)
        {
            return sample;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What has come since `first`: a proxy's answer may have come before.
fn since(first: &PathSample, sample: PathSample) -> PathSample {
    let behind = sample.received_behind_a_gap.saturating_sub(first.received_behind_a_gap);
    let received = sample.received.saturating_sub(first.received);
    let acknowledged = sample.acknowledged.saturating_sub(first.acknowledged);
    PathSample { received_behind_a_gap: behind, received, acknowledged, ..sample }
}

fn is_stuck(sample: &PathSample) -> bool {
    let outward = sample.unacknowledged > 0 && sample.repeats >= REPEATS_MIN;
    outward || (sample.received_behind_a_gap > 0 && sample.received == 0)
}

/// The way down from segments as they come to ever smaller ones.
#[derive(Debug, Default)]
pub(super) struct Descent {
    stuck: Vec<Stuck>,
    has_repeated: bool,
}

/// What a descent tries next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The same once more: nothing tells the size from an outage yet.
    Again,
    /// Segments of so many bytes.
    Smaller(u32),
}

/// What a descent has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Large packets get lost.
    Size(Stuck),
    /// Certain packets get lost, whatever their size.
    Content,
    /// All of them may.
    Unknown,
}

impl Descent {
    /// What to try next; none when there are no smaller segments.
    pub(super) fn next(&mut self, stuck: Stuck) -> Option<Step> {
        self.stuck.push(stuck);
        if stuck.is_of_content() {
            return None;
        }
        // The control: small segments that pass after an outage would pass for the cure, and slow the
        // carrier down for as long as it lives.
        if !stuck.is_of_size() && !self.has_repeated {
            self.has_repeated = true;
            return Some(Step::Again);
        }
        let smaller = SMALLER.into_iter().find(|bytes| *bytes < stuck.sample.segment_bytes);
        smaller.map(Step::Smaller)
    }

    /// The last that got stuck before what passed.
    pub(super) fn last(&self) -> Option<Stuck> {
        self.stuck.last().copied()
    }

    /// Why nothing passed.
    pub(super) fn verdict(&self) -> Verdict {
        if self.stuck.iter().any(Stuck::is_of_content) {
            return Verdict::Content;
        }
        let of_size = self.stuck.iter().any(Stuck::is_of_size);
        let smallest = self.stuck.iter().min_by_key(|stuck| stuck.packet_bytes());
        smallest.filter(|_| of_size).map_or(Verdict::Unknown, |stuck| Verdict::Size(*stuck))
    }
}

/// A packet with a full segment of this size.
pub(crate) fn packet_bytes(segment_bytes: u32, address: SocketAddr) -> u32 {
    segment_bytes + if address.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 }
}

/// Addresses on the way to which large packets got lost.
#[derive(Clone, Debug, Default)]
pub(super) struct Small(BTreeMap<SocketAddr, (u32, Instant)>);

impl Small {
    pub(super) fn segment_bytes(&self, address: SocketAddr, now: Instant) -> Option<u32> {
        let (bytes, since) = self.0.get(&address)?;
        (now.duration_since(*since) < REMEMBERED).then_some(*bytes)
    }

    pub(super) fn insert(&mut self, address: SocketAddr, bytes: u32, now: Instant) {
        if self.0.len() >= REMEMBERED_MAX {
            self.0.clear();
        }
        self.0.insert(address, (bytes, now));
    }

    pub(super) fn remove(&mut self, address: SocketAddr) {
        self.0.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(segment_bytes: u32, arrived_behind_a_gap: u32) -> PathSample {
        PathSample {
            segment_bytes,
            packet_bytes: 1_500,
            repeats: 3,
            unacknowledged: 2,
            arrived_behind_a_gap,
            ..PathSample::default()
        }
    }

    /// `arrived` is for each size; one that is tried again fares as before.
    fn descend(arrived: [u32; 3]) -> (Vec<Option<Step>>, Verdict) {
        let mut descent = Descent::default();
        let sizes = [1_448, 1_208, 524];
        let held = [None, Some(1_260), Some(576)];
        let mut tried = Vec::new();
        for ((size, held_to), arrived) in sizes.into_iter().zip(held).zip(arrived) {
            let stuck = Stuck { sample: sample(size, arrived), held_to };
            let mut next = descent.next(stuck);
            tried.push(next);
            if next == Some(Step::Again) {
                next = descent.next(stuck);
                tried.push(next);
            }
            if next.is_none() {
                break;
            }
        }
        (tried, descent.verdict())
    }

    /// Where the short end of a handshake arrives and the rest does not, it is the size.
    #[test]
    fn large_packets_that_get_lost_are_named() {
        let (tried, verdict) = descend([1, 1, 1]);
        assert_eq!(tried, [Some(Step::Smaller(1_220)), Some(Step::Smaller(536)), None]);
        assert!(matches!(verdict, Verdict::Size(stuck) if stuck.packet_bytes() == 576));
    }

    /// Where nothing tells the size, the same size has a second chance, and only one.
    #[test]
    fn an_outage_is_not_taken_for_a_matter_of_size() {
        let (tried, _) = descend([0, 0, 0]);
        let (smaller, smallest) = (Step::Smaller(1_220), Step::Smaller(536));
        assert_eq!(tried, [Some(Step::Again), Some(smaller), Some(smallest), None]);
    }

    /// What the relay has answered was the first flight: of the second nothing is known.
    #[test]
    fn an_earlier_flight_is_not_taken_for_what_arrived_of_this_one() {
        let first = PathSample { acknowledged: 1_700, ..sample(1_448, 0) };
        let second = PathSample { received: 1_200, ..first };
        assert!(Stuck { sample: first, held_to: None }.is_of_content());
        let mut descent = Descent::default();
        assert_eq!(descent.next(Stuck { sample: second, held_to: None }), Some(Step::Again));
        assert_eq!(descent.verdict(), Verdict::Unknown);
    }

    /// Where full segments arrive beside the lost one, it is what that one says.
    #[test]
    fn a_filter_that_reads_is_no_matter_of_size() {
        assert_eq!(descend([1, 1, 2]).1, Verdict::Content);
        let mut descent = Descent::default();
        let sample = PathSample { acknowledged: 524, ..sample(524, 1) };
        assert_eq!(descent.next(Stuck { sample, held_to: Some(576) }), None);
        assert_eq!(descent.verdict(), Verdict::Content);
    }

    /// Where nothing arrives, nothing is claimed.
    #[test]
    fn a_dead_path_is_no_matter_of_size() {
        assert_eq!(descend([0, 0, 0]).1, Verdict::Unknown);
        assert!(!is_stuck(&PathSample { unacknowledged: 1, repeats: 1, ..sample(1_448, 0) }));
    }

    /// A path is not held to small segments for ever.
    #[test]
    fn small_segments_are_forgotten_in_time() {
        let (mut small, now) = (Small::default(), Instant::now());
        let address = SocketAddr::from(([192, 0, 2, 1], 443));
        small.insert(address, 536, now);
        assert_eq!(small.segment_bytes(address, now), Some(536));
        assert_eq!(small.segment_bytes(address, now + REMEMBERED), None);
    }
}
