//! The gateway's outside link, where it is not a plain veth pair: far away, lossy, or narrow.

use clap::Args;
use netns_tests::{Cable, Lab, Link};

use crate::bed::{EXTERNAL, PEER};
use crate::error::BenchError;

/// What every narrow link may queue, in milliseconds: a home router's, kept short.
const QUEUE_MS: u32 = 50;
/// Both ends of the cable between the gateway and what is outside.
const NEAR: (&str, &str) = ("gw", "wan0");
const FAR: (&str, &str) = ("wan", "p-gw");

/// A long way, as the command line says it.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Far {
    /// Milliseconds one way on the gateway's outside link.
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    delay_ms: f64,
    /// The share of packets lost there, each way: 0.01 is one in a hundred.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    loss: f64,
    /// What sockets may buffer on such a link, in every namespace.
    #[arg(long, default_value_t = 64, value_name = "MIB")]
    window_mib: u32,
}

/// A link to stand in place of the gateway's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Path {
    /// The lab's own veth pair.
    Veth,
    /// A pair of TAP devices with delay, loss and rate, and large socket buffers everywhere.
    Link {
        /// What it does.
        link: Link,
        /// The most that a socket buffers.
        window_mib: u32,
    },
    /// The veth pair behind a token bucket at either end; packets of the MTU's size.
    Bucket {
        /// Its rate.
        rate_mbit: f64,
    },
}

impl Far {
    /// The path; with `rate_mbit` it is narrow too.
    pub(crate) fn path(&self, rate_mbit: Option<f64>) -> Path {
        let Self { delay_ms, loss, window_mib } = *self;
        match rate_mbit {
            None if !self.is_far() => Path::Veth,
            Some(rate_mbit) if !self.is_far() => Path::Bucket { rate_mbit },
            _ => {
                let queue_ms = f64::from(QUEUE_MS);
                let link = Link { delay_ms, loss, rate_mbit, queue_ms, ..Link::CLEAR };
                Path::Link { link, window_mib }
            }
        }
    }

    /// Whether it is anything but the lab's own link.
    pub(crate) fn is_far(&self) -> bool {
        self.delay_ms > 0.0 || self.loss > 0.0
    }
}

/// A path as it stands in a lab.
#[derive(Debug)]
pub(crate) struct Laid {
    path: Path,
    cable: Option<Cable>,
    /// The best of many round trips over the link alone.
    best_round_trip_ms: f64,
}

impl Path {
    /// Puts the path into the lab, before anything connects, and checks that it does what it should.
    pub(crate) fn lay(self, lab: &Lab) -> Result<Laid, BenchError> {
        let mut laid = Laid { path: self, cable: None, best_round_trip_ms: 0.0 };
        match self {
            Self::Veth => {}
            Self::Link { link, window_mib } => {
                widen_buffers(lab, window_mib)?;
                let mut cable = lab.link(NEAR.0, link)?;
                laid.best_round_trip_ms = cable.verify(lab, EXTERNAL)?;
                laid.cable = Some(cable);
            }
            Self::Bucket { rate_mbit } => {
                keep_packets_small(lab)?;
                for (host, device) in [NEAR, FAR] {
                    lab.host(host).shell(&format!(
                        "tc qdisc replace dev {device} root tbf \
                         rate {rate_mbit}mbit burst 32kb latency {QUEUE_MS}ms"
                    ))?;
                }
            }
        }
        Ok(laid)
    }
}

impl Laid {
    /// For the conditions of a report: what the link is, and what it did.
    pub(crate) fn condition(&mut self) -> Result<Option<(String, String)>, BenchError> {
        let text = match self.path {
            Path::Veth => return Ok(None),
            Path::Bucket { rate_mbit } => format!(
                "{rate_mbit} Mbit/s each way (tbf, burst 32 KiB, {QUEUE_MS} ms of queue), \
                 segmentation offloads off on all hosts"
            ),
            Path::Link { link, window_mib } => {
                let counts = self.cable.as_mut().map(Cable::counts).transpose()?;
                let did = counts.unwrap_or_default().map(|counts| {
                    let seen = counts.lost + counts.overflowed;
                    format!("{seen} of {} frames", counts.offered)
                });
                format!(
                    "{} ms each way (best round trip seen {:.1} ms), loss {} %, {}; frames {}; \
                     dropped inside to outside {}, outside to inside {}; \
                     socket buffers up to {window_mib} MiB",
                    link.delay_ms,
                    self.best_round_trip_ms,
                    link.loss * 100.0,
                    link.rate_mbit.map_or("no rate limit".to_owned(), |rate| format!(
                        "{rate} Mbit/s with {QUEUE_MS} ms of queue"
                    )),
                    if link.keeps_offload() { "of up to 64 KiB" } else { "of the MTU's size" },
                    did[0],
                    did[1],
                )
            }
        };
        Ok(Some(("gateway's outside link".to_owned(), text)))
    }
}

/// A delay at a high rate takes more buffer than the usual limits allow.
fn widen_buffers(lab: &Lab, window_mib: u32) -> Result<(), BenchError> {
    let bytes = u64::from(window_mib) * 1024 * 1024;
    for host in [EXTERNAL, "relay", "icp", PEER] {
        let receive = format!("net.ipv4.tcp_rmem=4096 131072 {bytes}");
        let send = format!("net.ipv4.tcp_wmem=4096 16384 {bytes}");
        lab.host(host).run_ok(["sysctl", "-q", "-w", &receive, &send])?;
    }
    Ok(())
}

/// A token bucket would let packets that offloads made big pass as one.
fn keep_packets_small(lab: &Lab) -> Result<(), BenchError> {
    let ends = [EXTERNAL, "relay", "icp", PEER].map(|host| (host, "eth0"));
    for (host, device) in ends.into_iter().chain([NEAR, FAR]) {
        lab.host(host)
            .run_ok(["ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "off"])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rate alone is a bucket on the lab's own link; with a delay it is the link's own.
    #[test]
    fn narrow_and_far_is_one_link() {
        let far = |delay_ms| Far { delay_ms, loss: 0.0, window_mib: 64 };
        assert_eq!(far(0.0).path(None), Path::Veth);
        assert_eq!(far(0.0).path(Some(20.0)), Path::Bucket { rate_mbit: 20.0 });
        let Path::Link { link, .. } = far(20.0).path(Some(20.0)) else { panic!("not a link") };
        assert_eq!((link.delay_ms, link.rate_mbit), (20.0, Some(20.0)));
    }
}
