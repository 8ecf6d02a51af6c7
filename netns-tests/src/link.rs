//! Impaired links: what netem would do, without netem.
//!
//! ```text
//!   gw ── wan0 (TAP) ══ lab-link ══ p-gw (TAP) ── br0, the segment's bridge
//! ```
//!
//! [`Lab::link`] takes a host's veth pair away and puts two TAP devices in its place. One process,
//! `lab-link`, holds both and passes each frame on: later, never, twice, or in another order.
//!
//! Order of calls: [`Lab::link`], [`Cable::verify`] before anything is concluded from the link, then
//! [`Cable::counts`] as evidence that it did what it promises. [`Cable::pull`] and [`Cable::plug`]
//! stop and start it: addresses and routes stay, as on a real host whose cable was pulled.
//!
//! Deliberately absent: links that differ by direction (two labs' worth of care for no test yet), and
//! a change of a running link (pull it and plug another in).

mod impairment;
mod pump;

pub use pump::{Counters, Counts, open, pump};

use clap::Args;

use crate::lab::Plug;
use crate::tunnel::is_gone;
use crate::{Lab, LabError, Process, SHORT, helper, wait_until};

/// How many frames a TAP device holds until the pump comes: it must not lose what the link does not.
const DEVICE_QUEUE_FRAMES: u32 = 20_000;
/// Pings of one check; enough to see a loss of one in a hundred.
const PINGS: u32 = 400;
/// By how much the processors may delay a ping's best time.
const SCHEDULING_MS: f64 = 4.0;

/// What a link does to frames, in each direction alike.
///
/// Frames are as big as the hosts' offloads make them (up to 64 KiB) while the link has neither
/// loss, duplication, reordering nor a rate; otherwise each is cut to the MTU first, so that one loss is
/// one packet's.
#[derive(Debug, Clone, Copy, PartialEq, Args)]
pub struct Link {
    /// Milliseconds one way.
    #[arg(long, default_value_t = 0.0)]
    pub delay_ms: f64,
    /// Up to so many milliseconds more, at random; the order stays.
    #[arg(long, default_value_t = 0.0)]
    pub jitter_ms: f64,
    /// The share of frames that is lost, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// The share of frames that comes twice.
    #[arg(long, default_value_t = 0.0)]
    pub duplication: f64,
    /// The share of frames that is held back, so that later ones overtake it.
    #[arg(long, default_value_t = 0.0)]
    pub reordering: f64,
    /// Mbit/s; without it as fast as the machine.
    #[arg(long)]
    pub rate_mbit: Option<f64>,
    /// How long a frame may wait for the rate; what would wait longer is dropped.
    #[arg(long, default_value_t = 50.0)]
    pub queue_ms: f64,
    /// The seed of all chances.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Link {
    /// A link that does nothing to frames.
    pub const CLEAR: Self = Self {
        delay_ms: 0.0,
        jitter_ms: 0.0,
        loss: 0.0,
        duplication: 0.0,
        reordering: 0.0,
        rate_mbit: None,
        queue_ms: 50.0,
        seed: 1,
    };

    /// Whether frames may pass in the size that offloads give them.
    #[must_use]
    pub fn keeps_offload(&self) -> bool {
        let spared = |share: f64| share <= 0.0;
        spared(self.loss)
            && spared(self.duplication)
            && spared(self.reordering)
            && self.rate_mbit.is_none()
    }

    /// The command line of `lab-link` that means this link.
    fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = [
            ("--delay-ms", self.delay_ms),
            ("--jitter-ms", self.jitter_ms),
            ("--loss", self.loss),
            ("--duplication", self.duplication),
            ("--reordering", self.reordering),
            ("--queue-ms", self.queue_ms),
        ]
        .iter()
        .flat_map(|(name, value)| [(*name).to_owned(), value.to_string()])
        .collect();
        if let Some(rate) = self.rate_mbit {
            arguments.extend(["--rate-mbit".to_owned(), rate.to_string()]);
        }
        arguments.extend(["--seed".to_owned(), self.seed.to_string()]);
        arguments
    }
}

/// A link that stands in a lab. Dropping it pulls the cable.
#[derive(Debug)]
pub struct Cable {
    host: String,
    plug: Plug,
    link: Link,
    process: Option<Process>,
    /// How often its counts were asked for; each answer carries its number.
    asked: u64,
}

impl Lab {
    /// Replaces the cable between `host` (of a gateway: its outside) and its segment by `link`.
    ///
    /// # Errors
    /// When TAP devices are not allowed, or the host has such a link already.
    pub fn link(&self, host: &str, link: Link) -> Result<Cable, LabError> {
        let plug = self.plug(host).clone();
        let kept = Kept::of(self, host, &plug.device)?;
        self.sandbox().script(&format!("ip -n {host} link del {}", plug.device))?;
        let mut cable = Cable { host: host.to_owned(), plug, link, process: None, asked: 0 };
        cable.plug(self, link)?;
        self.sandbox().script(&cable.set_up(&kept))?;
        Ok(cable)
    }
}

impl Cable {
    /// Stops the link: the devices stay, without a carrier.
    pub fn pull(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        process.kill();
        // Until then it holds the devices, and moves frames.
        let pid = process.pid();
        if let Err(error) = wait_until(SHORT, "the link to let go of its devices", || is_gone(pid))
        {
            eprintln!("lab: {error}");
        }
    }

    /// Starts the link again, as the one before or as another.
    ///
    /// # Errors
    /// When `lab-link` does not start; or when one of both links keeps offload and the other does
    /// not, since a device cannot change that.
    pub fn plug(&mut self, lab: &Lab, link: Link) -> Result<(), LabError> {
        if link.keeps_offload() != self.link.keeps_offload() {
            return Err(LabError::Unexpected {
                what: format!("the link of {}", self.host),
                text: "a link with offload cannot become one without".to_owned(),
            });
        }
        self.pull();
        let Plug { device, owner, far_device, .. } = &self.plug;
        // A link is no slower because the hosts are busy. Who may not be so nice is warned by `nice`,
        // and runs all the same.
        let mut arguments: Vec<String> = ["nice", "-n", "-10"].map(str::to_owned).into();
        arguments.extend([
            helper("lab-link")?.display().to_string(),
            format!("{}:{device}", self.host),
            format!("{owner}:{far_device}"),
        ]);
        arguments.extend(link.arguments());
        let mut process = lab.host(&self.host).spawn_console(arguments)?;
        process.wait_for_log("ready", SHORT)?;
        self.process = Some(process);
        (self.link, self.asked) = (link, 0);
        Ok(())
    }

    /// What the link did since it was plugged in: from the host outwards, and to it.
    ///
    /// # Errors
    /// When the cable is pulled, or the process gone.
    pub fn counts(&mut self) -> Result<[Counts; 2], LabError> {
        self.asked += 1;
        let process = self.process.as_mut().ok_or_else(|| LabError::Unexpected {
            what: format!("the counts of the link of {}", self.host),
            text: "the cable is pulled".to_owned(),
        })?;
        process.say("counts")?;
        let begin = format!("counts {} ", self.asked);
        let line = process.wait_for_line(&begin, SHORT, |line| line.starts_with(&begin))?;
        let both = line[begin.len()..].split_once(" | ").and_then(|(outwards, inwards)| {
            Some([Counts::parse(outwards)?, Counts::parse(inwards)?])
        });
        both.ok_or(LabError::Unexpected { what: "the counts of a link".to_owned(), text: line })
    }

    /// Pings `neighbour` from the link's own host, and compares round-trip time, loss, duplication and
    /// reordering with what the link promises. Returns the best round trip in milliseconds.
    ///
    /// # Errors
    /// When the link behaves otherwise.
    pub fn verify(&mut self, lab: &Lab, neighbour: &str) -> Result<f64, LabError> {
        self.verify_as(self.link, lab, neighbour)
    }

    /// The same, but compares with what `told` promises: a control for the check itself.
    ///
    /// # Errors
    /// When the link behaves otherwise.
    pub fn verify_as(&mut self, told: Link, lab: &Lab, neighbour: &str) -> Result<f64, LabError> {
        let before = self.counts()?;
        let to = lab.host(neighbour).address();
        let count = PINGS.to_string();
        // Lost pings are an exit code, which is not asked for.
        let printed = lab.host(&self.host).run(["ping", "-q", "-c", &count, "-i", "0.002", to])?;
        let best_ms = best_round_trip_ms(&printed.stdout).ok_or_else(|| LabError::Unexpected {
            what: "ping".to_owned(),
            text: format!("{}{}", printed.stdout, printed.stderr),
        })?;
        let promised_ms = 2.0 * told.delay_ms;
        let most_ms = promised_ms + 2.0 * told.jitter_ms + SCHEDULING_MS;
        if best_ms < promised_ms || best_ms > most_ms {
            return Err(misbehaves(told, format!("a round trip takes {best_ms} ms")));
        }
        for (before, after) in before.iter().zip(self.counts()?) {
            let seen = after.since(before);
            if !is_share(told.loss, seen.lost, seen.offered) {
                return Err(misbehaves(told, format!("{} of {} lost", seen.lost, seen.offered)));
            }
            let Counts { duplicated, reordered, .. } = seen;
            let rest = seen.offered - seen.lost - seen.overflowed;
            for (share, count, what) in [
                (told.duplication, duplicated, "came twice"),
                (told.reordering, reordered, "were held back"),
            ] {
                if !is_share(share, count, rest) {
                    return Err(misbehaves(told, format!("{count} of {rest} {what}")));
                }
            }
        }
        Ok(best_ms)
    }

    /// Gives the new devices what the old ones had.
    fn set_up(&self, kept: &Kept) -> String {
        let Plug { device, owner, far_device, bridge } = &self.plug;
        let host = &self.host;
        let mut lines = vec![
            format!(
                "ip -n {owner} link set {far_device} mtu 1500 txqueuelen {DEVICE_QUEUE_FRAMES}"
            ),
            format!("ip -n {owner} link set {far_device} master {bridge} up"),
            format!("ip -n {host} link set {device} address {}", kept.hardware),
            format!("ip -n {host} link set {device} mtu 1500 txqueuelen {DEVICE_QUEUE_FRAMES}"),
        ];
        let add = |address: &String| format!("ip -n {host} addr add {address} dev {device}");
        lines.extend(kept.addresses.iter().map(add));
        lines.push(format!("ip -n {host} link set {device} up"));
        let add = |route: &String| format!("ip -n {host} route add {route} dev {device}");
        lines.extend(kept.routes.iter().map(add));
        lines.join("\n")
    }
}

fn misbehaves(told: Link, seen: String) -> LabError {
    LabError::Misbehaved { preset: format!("{told:?}"), seen }
}

/// What a device had, and its successor must have: neighbours remember the hardware address.
#[derive(Debug)]
struct Kept {
    hardware: String,
    addresses: Vec<String>,
    routes: Vec<String>,
}

impl Kept {
    fn of(lab: &Lab, host: &str, device: &str) -> Result<Self, LabError> {
        let host = lab.host(host);
        let shown =
            host.run_ok(["ip", "-o", "addr", "show", "dev", device, "scope", "global"])?.stdout;
        let after = |line: &str, word: &str| {
            line.split_whitespace().skip_while(|at| *at != word).nth(1).map(str::to_owned)
        };
        let v4 = |line: &str| after(line, "inet");
        // The address is known to be nobody else's.
        let v6 = |line: &str| after(line, "inet6").map(|address| address + " nodad");
        let addresses = shown.lines().filter_map(|line| v4(line).or_else(|| v6(line))).collect();
        let shown = host.run_ok(["ip", "-o", "link", "show", "dev", device])?.stdout;
        let hardware = after(&shown, "link/ether").ok_or_else(|| LabError::Unexpected {
            what: format!("the device {device}"),
            text: shown.clone(),
        })?;
        let mut shown = host.run_ok(["ip", "route", "show", "dev", device])?.stdout;
        shown += &host.run_ok(["ip", "-6", "route", "show", "dev", device])?.stdout;
        let own = |line: &&str| !line.contains("proto kernel");
        let routes = shown.lines().filter(own).map(str::to_owned).collect();
        Ok(Self { hardware, addresses, routes })
    }
}

/// The least of `rtt min/avg/max/mdev = 40.1/40.3/41.0/0.1 ms`.
fn best_round_trip_ms(printed: &str) -> Option<f64> {
    let line = printed.lines().find(|line| line.starts_with("rtt "))?;
    line.split_once("= ")?.1.split('/').next()?.parse().ok()
}

/// Whether `seen` of `all` may come of chances of `share`: within five standard deviations.
fn is_share(share: f64, seen: u64, all: u64) -> bool {
    let number = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let expected = number(all) * share;
    let deviation = (expected * (1.0 - share)).sqrt();
    (number(seen) - expected).abs() <= 5.0 * deviation
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link without loss may not lose a single frame; one with loss must lose some.
    #[test]
    fn share_is_exact_without_chance_and_has_five_deviations_with_it() {
        assert!(is_share(0.0, 0, 1_000) && !is_share(0.0, 1, 1_000));
        assert!(is_share(0.1, 110, 1_000) && !is_share(0.1, 0, 1_000));
    }

    /// What `ping -q` prints in the end.
    #[test]
    fn best_round_trip_is_the_first_of_four() {
        let printed = "10 packets\nrtt min/avg/max/mdev = 40.125/40.3/41.0/0.1 ms\n";
        assert_eq!(best_round_trip_ms(printed), Some(40.125));
        assert_eq!(best_round_trip_ms("100% packet loss"), None);
    }
}
