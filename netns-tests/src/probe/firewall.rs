//! A firewall's refusals, with its counters as evidence. Each check has its control: beside what is
//! blocked something like it passes, so that blocking says something.

use nix::errno::Errno;

use super::misbehaved;
use crate::nat::{marks, rules};
use crate::{Firewall, Gateway, Host, Lab, LabError, Process, SHORT};

/// The allowed port, and one that strict firewalls do not allow.
const ALLOWED: u16 = 443;
const OTHER: u16 = 80;
/// A proxy's port on the gateway, and one that is none.
const PROXY: u16 = 3128;
const NO_PROXY: u16 = 3129;
/// For what must not come: silence is taken for a refusal after so long.
const SILENCE: &str = "--within-ms=250";
/// For what must come; only a broken lab waits for it.
const ANSWER: &str = "--within-ms=10000";
/// How many ports [`Firewall::PortExhaustion`] has.
const PORTS: u32 = 10;

/// How a client fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Served,
    Silence,
    Refused(i32),
}

/// See [`Lab::verify_firewall`].
pub(crate) fn verify_firewall(
    lab: &Lab,
    inside: &Host<'_>,
    outside: &Host<'_>,
) -> Result<(), LabError> {
    for gateway in lab.gateways() {
        Check { lab, preset: gateway, gateway: lab.host(&gateway.name), inside, outside }.run()?;
    }
    forget(lab, inside, outside)
}

/// As if nobody had been here. What a check left unsent would be sent again and again, and counted by
/// the rules when a test already relies on them.
fn forget(lab: &Lab, inside: &Host<'_>, outside: &Host<'_>) -> Result<(), LabError> {
    for (host, side) in [(inside, "dport"), (outside, "sport")] {
        let filter = format!("( {side} = :{ALLOWED} or {side} = :{OTHER} )");
        host.run_ok(["ss", "-HtnK", &filter])?;
    }
    lab.gateways().iter().try_for_each(|gateway| {
        let host = lab.host(&gateway.name);
        host.run_ok(["conntrack", "-F"])?;
        host.shell(&rules(gateway)).map(|_| ())
    })
}

struct Check<'a> {
    lab: &'a Lab,
    preset: &'a Gateway,
    gateway: Host<'a>,
    inside: &'a Host<'a>,
    outside: &'a Host<'a>,
}

impl Check<'_> {
    fn run(&self) -> Result<(), LabError> {
        let _servers =
            [self.outside.serve("echo", ALLOWED, &[])?, self.outside.serve("echo", OTHER, &[])?];
        match self.preset.firewall {
            Firewall::Open | Firewall::Outbound => {
                self.expect("all ports", Fate::Served, &self.connect(OTHER, ANSWER))
            }
            Firewall::Tcp443Only => self.only_443(marks::DROP_FORWARD, Fate::Silence),
            Firewall::Tcp443Reject(reject) => {
                self.only_443(marks::REJECT, Fate::Refused(reject.errno()))
            }
            Firewall::TlsOnly => self.tls_only(),
            Firewall::SniBlocked { name } => self.sni_blocked(name),
            Firewall::ProxyOnly => self.proxy_only(),
            Firewall::Quota { bytes } => self.cut(bytes, Fate::Silence),
            Firewall::Connbytes { bytes } => {
                self.cut(bytes, Fate::Refused(Errno::ECONNRESET as i32))
            }
            Firewall::Connlimit { above } => {
                self.crowd(above, marks::LIMIT, Fate::Refused(Errno::ECONNREFUSED as i32))
            }
            Firewall::PortExhaustion => self.crowd(PORTS, marks::PORTS, Fate::Silence),
            Firewall::StripOptions => self.strips_options(),
            Firewall::MtuBlackHole => self.swallows_big_packets(),
        }
    }

    /// Port 443 and nothing else, by any protocol.
    fn only_443(&self, mark: &str, refusal: Fate) -> Result<(), LabError> {
        self.expect("port 443", Fate::Served, &self.connect(ALLOWED, ANSWER))?;
        self.counted(mark, || self.expect("port 80", refusal, &self.connect(OTHER, SILENCE)))?;
        // dig says nothing of the refusal, but the rule's counter does.
        let dig = ["dig", "+tries=1", "+timeout=1", "-p", "443"];
        let at = format!("@{}", self.outside.address());
        self.counted(mark, || {
            let asked = self.inside.run(dig.iter().chain(&[at.as_str(), "a.test"]))?;
            if asked.success() { Err(self.wrong("UDP to port 443", &asked.stdout)) } else { Ok(()) }
        })
    }

    fn tls_only(&self) -> Result<(), LabError> {
        let reset = Fate::Refused(Errno::ECONNRESET as i32);
        self.counted(marks::TLS, || {
            let tls = self.say(ALLOWED, "hello", &["--tls", "--pad=100", ANSWER]);
            self.expect("TLS on port 443", Fate::Served, &tls)
        })?;
        self.counted(marks::NOT_TLS, || {
            let ssh = self.say(ALLOWED, "SSH-2.0-OpenSSH_9.2p1 Debian-2", &[ANSWER]);
            self.expect("SSH on port 443", reset, &ssh)
        })?;
        self.counted(marks::DROP_FORWARD, || {
            self.expect("port 80", Fate::Silence, &self.connect(OTHER, SILENCE))
        })
    }

    fn sni_blocked(&self, name: &str) -> Result<(), LabError> {
        let reset = Fate::Refused(Errno::ECONNRESET as i32);
        let other = self.say(ALLOWED, "another.example.test", &["--tls", ANSWER]);
        self.expect("another name", Fate::Served, &other)?;
        self.counted(marks::SNI, || {
            self.expect("the blocked name", reset, &self.say(ALLOWED, name, &["--tls", ANSWER]))
        })
    }

    fn proxy_only(&self) -> Result<(), LabError> {
        self.counted(marks::DROP_FORWARD, || {
            self.expect("the direct way", Fate::Silence, &self.connect(ALLOWED, SILENCE))
        })?;
        let inner = self.preset.inside_v4().and_then(|address| address.split('/').next());
        let inner = inner.unwrap_or_default();
        let serve = |port: u16| -> Result<Process, LabError> {
            let peer = crate::helper("lab-peer")?.display().to_string();
            let mut server = self.gateway.spawn([&peer, "echo", &format!("{inner}:{port}")])?;
            server.wait_for_log("listening", SHORT)?;
            Ok(server)
        };
        let _servers = [serve(PROXY)?, serve(NO_PROXY)?];
        let connect =
            |port: u16| fate(self.inside.play("connect", &format!("{inner}:{port}"), &[ANSWER]));
        self.counted(marks::PROXY, || self.expect("a proxy", Fate::Served, &connect(PROXY)))?;
        let prohibited = Fate::Refused(Errno::EHOSTUNREACH as i32);
        self.counted(marks::REJECT, || self.expect("no proxy", prohibited, &connect(NO_PROXY)))
    }

    /// A download of less passes, one of more does not.
    fn cut(&self, bytes: u64, end: Fate) -> Result<(), LabError> {
        // Headers and the echo's way back count too, hence a quarter.
        let (little, much) = (bytes / 4, bytes + bytes / 4 + 100_000);
        let pad = |bytes: u64| format!("--pad={bytes}");
        let short = self.say(OTHER, "", &[&pad(little), ANSWER]);
        self.expect(&format!("{little} bytes"), Fate::Served, &short)?;
        self.counted(marks::CUT, || {
            let within = if end == Fate::Silence { "--within-ms=500" } else { ANSWER };
            let long = self.say(OTHER, "", &[&pad(much), within]);
            self.expect(&format!("{much} bytes"), end, &long)
        })
    }

    /// So many connections at once, and one more.
    fn crowd(&self, most: u32, mark: &str, refusal: Fate) -> Result<(), LabError> {
        let before = self.gateway.packets_of(mark)?;
        let mut hold =
            self.inside.play_on("hold", &self.outside.at(OTHER), &[&most.to_string()])?;
        hold.wait_for_log(&format!("holding {most}"), SHORT)?;
        let another = self.connect(OTHER, SILENCE);
        self.expect(&format!("connection {}", most + 1), refusal, &another)?;
        hold.finish(SHORT)?;
        let seen = self.gateway.packets_of(mark)?.saturating_sub(before);
        // Of a NAT's rule each connection's first packet is seen, also of those that find no port.
        let least = if mark == marks::PORTS { u64::from(most) + 1 } else { 1 };
        if seen < least {
            return Err(self.wrong(mark, &format!("{seen} packets counted")));
        }
        Ok(())
    }

    /// A connection through the gateway has no options, one to a neighbour has.
    fn strips_options(&self) -> Result<(), LabError> {
        let neighbour = self.lab.neighbour_of(self.inside.name()).unwrap_or(*self.inside);
        let _near = neighbour.serve("echo", OTHER, &[])?;
        let options = |server: &Host<'_>| -> Result<bool, LabError> {
            let mut hold = self.inside.play_on("hold", &server.at(OTHER), &["1"])?;
            hold.wait_for_log("holding 1", SHORT)?;
            let filter = format!("( dst {} and dport = :{OTHER} )", server.address());
            let arguments = ["ss", "-Htin", "state", "established", filter.as_str()];
            let told = self.inside.run_ok(arguments)?.stdout;
            hold.finish(SHORT)?;
            if !told.contains("cwnd") {
                return Err(self.wrong("ss", &told));
            }
            let has = |option: &str| told.split_whitespace().any(|word| word.starts_with(option));
            Ok(has("wscale") || has("sack") || told.split_whitespace().any(|word| word == "ts"))
        };
        if !options(&neighbour)? {
            return Err(self.wrong("a neighbour's connection", "no options, so nothing is shown"));
        }
        self.counted(marks::STRIP, || {
            if options(self.outside)? {
                return Err(self.wrong("a connection through the gateway", "it has options"));
            }
            Ok(())
        })
    }

    fn swallows_big_packets(&self) -> Result<(), LabError> {
        let small = self.say(OTHER, "small", &[ANSWER]);
        self.expect("small packets", Fate::Served, &small)?;
        self.counted(marks::MTU, || {
            let big = self.say(OTHER, "big", &["--pad=5000", SILENCE]);
            self.expect("big packets", Fate::Silence, &big)
        })
    }

    fn connect(&self, port: u16, within: &str) -> Result<Fate, LabError> {
        fate(self.inside.play("connect", &self.outside.at(port), &[within]))
    }

    fn say(&self, port: u16, words: &str, more: &[&str]) -> Result<Fate, LabError> {
        fate(self.inside.play("say", &self.outside.at(port), &[&[words], more].concat()))
    }

    /// Does something that the rules marked `mark` must count.
    fn counted(
        &self,
        mark: &str,
        act: impl FnOnce() -> Result<(), LabError>,
    ) -> Result<(), LabError> {
        let before = self.gateway.packets_of(mark)?;
        act()?;
        if self.gateway.packets_of(mark)? > before {
            return Ok(());
        }
        Err(self.wrong(mark, "it counted nothing"))
    }

    fn expect(
        &self,
        what: &str,
        fate: Fate,
        seen: &Result<Fate, LabError>,
    ) -> Result<(), LabError> {
        match seen {
            Ok(seen) if *seen == fate => Ok(()),
            other => Err(self.wrong(what, &format!("{other:?} instead of {fate:?}"))),
        }
    }

    fn wrong(&self, what: &str, seen: &str) -> LabError {
        misbehaved(self.lab, format!("{what}: {seen}"))
    }
}

/// What a client's end says.
fn fate(played: Result<String, LabError>) -> Result<Fate, LabError> {
    let said = match played {
        Ok(_) => return Ok(Fate::Served),
        Err(LabError::Command { output, .. }) => output,
        Err(other) => return Err(other),
    };
    let errno = said.split("os error ").nth(1).and_then(|rest| rest.split(')').next());
    match errno.and_then(|errno| errno.parse().ok()) {
        // What a read says after its time.
        Some(errno) if errno == Errno::EAGAIN as i32 => Ok(Fate::Silence),
        Some(errno) => Ok(Fate::Refused(errno)),
        None if said.contains("timed out") => Ok(Fate::Silence),
        None => Err(LabError::Unexpected { what: "how a client ended".to_owned(), text: said }),
    }
}
