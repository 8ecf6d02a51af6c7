//! A relay on the gateway, and an inside host that borrows one of its ports: who answers, and what
//! helps. `docs/security.md` says what it means, and gives the rules that are tried here.
//!
//! The inside host connects out from source port P, where the relay on the gateway listens. The NAT
//! keeps the port, so that from then on whatever comes to the gateway's P from that one external
//! address and port is, to the connection tracker, an answer to the inside host.
//!
//! ```text
//!   ext :40000 ◀── gw :8080 ◀── NAT ◀── peer5 :8080     goes out, and is not answered
//!   ext :40000 ──▶ gw :8080 ─?▶ the relay, or peer5?
//! ```

use netns_tests::{
    Lab, LabError, Process, SHORT, Topology, Tunnel, helper, nginx, page, wait_until,
};

type Outcome = Result<(), LabError>;

/// The contact point's port.
const CONTACT: u16 = 8080;
/// The tunnel's port, where forwarders of other places may come in from outside.
const TUNNEL: u16 = 443;

/// The external peer's port, from which it calls the gateway's `port`: the inside host has guessed it.
fn guessed(port: u16) -> u16 {
    40_000 + port
}

/// Another, of which the inside host does not know.
fn unguessed(port: u16) -> u16 {
    50_000 + port
}

/// The page's rules that keep what comes from the relay's ports from passing.
fn drop_borrowed() -> Result<String, LabError> {
    Ok(page::block("security.md", "gateway drop")?.text)
}

/// The page's rules that give inside hosts other ports at the gateway.
fn masquerade_elsewhere() -> Result<String, LabError> {
    Ok(page::block("security.md", "gateway elsewhere")?.text)
}

/// A gateway that lets the relay's ports in, and follows `rules`.
fn build(name: &str, rules: &str) -> Result<Lab, LabError> {
    let lab = Topology::STANDARD.build_paced(name)?;
    lab.gateway().shell(&format!(
        "for protocol in tcp udp; do
             iptables -I INPUT -i wan0 -p $protocol -m multiport --dports 8080,443 -j ACCEPT
         done
         {rules}"
    ))?;
    // As many hosts do, the external peer ignores what comes unasked. If it refused, the gateway
    // would soon forget the attempt.
    lab.host("ext").shell("iptables -A INPUT -p tcp --syn -j DROP")?;
    Ok(lab)
}

/// An internal peer behind a relay on the gateway.
struct Served<'a> {
    lab: &'a Lab,
    tunnel: Tunnel<'a>,
    _nginx: Process,
}

impl<'a> Served<'a> {
    fn start(lab: &'a Lab) -> Result<Self, LabError> {
        let peer3 = lab.host("peer3");
        peer3.shell("mkdir /run/www; printf internal-peer > /run/www/who")?;
        let nginx = nginx(&peer3, 80, "/run/www".as_ref())?;
        let plan = Tunnel::builder().on("icp", "gw").peer("web", "192.168.50.3:80", CONTACT);
        Ok(Self { lab, tunnel: plan.start(lab)?, _nginx: nginx })
    }

    /// Who answers curl at the gateway's `port`, when it calls from its own port `from`; nobody, if
    /// the answer is no HTTP.
    fn answers(&self, from: u16, port: u16) -> Result<String, LabError> {
        let (from, to) = (from.to_string(), format!("http://203.0.113.1:{port}/who"));
        let curl = ["curl", "-sS", "-m", "3", "--local-port", &from, &to];
        let output = self.lab.host("ext").run(curl)?;
        // 52: connected, and the other end said nothing.
        assert!(output.success() || output.status.code() == Some(52), "{}", output.stderr);
        Ok(output.stdout)
    }

    /// The relay's own word that curl has reached the tunnel's port.
    fn relay_refuses_curl(&self) -> Outcome {
        wait_until(SHORT, "the relay to refuse curl", || {
            self.tunnel.refused("not_tls").is_ok_and(|count| count == 1)
        })
    }

    /// An inside host that connects out from `port` to the guessed one until it gets through, and then
    /// answers as if it were a web server. Returned when its attempt has left it.
    fn borrow(&self, port: u16) -> Result<Process, LabError> {
        let peer5 = self.lab.host("peer5");
        peer5.shell("printf 'HTTP/1.0 200 OK\\r\\n\\r\\nborrower' > /run/answer")?;
        let to = format!("TCP:203.0.113.10:{},sourceport={port},reuseaddr", guessed(port));
        let borrower = peer5.spawn(["socat", "-u", "FILE:/run/answer", &to])?;
        let filter = format!("sport = :{port}");
        wait_until(SHORT, "the inside host to have sent its SYN", || {
            let sockets = peer5.run(["ss", "-Hnt", "state", "syn-sent", &filter]);
            sockets.is_ok_and(|output| !output.stdout.is_empty())
        })?;
        Ok(borrower)
    }
}

/// Without a cure the inside host answers in the place of the contact point, and of the tunnel's port:
/// to the one address and port that it has guessed, and to no other.
#[test]
fn tcp_port_of_the_gateway_is_borrowed_from_inside() -> Outcome {
    let lab = build("borrowed", "")?;
    let served = Served::start(&lab)?;
    let _borrower = served.borrow(CONTACT)?;
    assert_eq!(served.answers(unguessed(CONTACT), CONTACT)?, "internal-peer");
    assert_eq!(served.answers(guessed(CONTACT), CONTACT)?, "borrower");
    let _borrower = served.borrow(TUNNEL)?;
    assert_eq!(served.answers(guessed(TUNNEL), TUNNEL)?, "borrower");
    // curl does not speak what the tunnel's port does.
    assert_eq!(served.answers(unguessed(TUNNEL), TUNNEL)?, "");
    served.relay_refuses_curl()
}

/// With a cure the contact point answers, whatever the inside host tries.
fn tcp_cure(name: &str, rules: &str) -> Outcome {
    let lab = build(name, rules)?;
    let served = Served::start(&lab)?;
    for (port, answer) in [(CONTACT, "internal-peer"), (TUNNEL, "")] {
        let _borrower = served.borrow(port)?;
        assert_eq!(served.answers(guessed(port), port)?, answer);
    }
    served.relay_refuses_curl()
}

/// A gateway that forwards nothing from the relay's ports.
#[test]
fn tcp_port_is_not_borrowed_where_its_packets_are_dropped() -> Outcome {
    tcp_cure("dropped-tcp", &drop_borrowed()?)
}

/// A gateway that gives inside hosts other ports.
#[test]
fn tcp_port_is_not_borrowed_where_the_nat_keeps_off_it() -> Outcome {
    tcp_cure("elsewhere-tcp", &masquerade_elsewhere()?)
}

/// A UDP service on the gateway's contact port, an inside host that borrows it, and who gets what an
/// external peer sends there.
fn udp_receiver(name: &str, rules: &str) -> Result<&'static str, LabError> {
    let lab = build(name, rules)?;
    let probe = helper("lab-probe")?.display().to_string();
    let console = |host: &str, port: u16| -> Result<Process, LabError> {
        let arguments: [&str; 4] = [&probe, "console", "4", &port.to_string()];
        let mut process = lab.host(host).spawn_console(arguments)?;
        process.wait_for_log("ready", SHORT)?;
        Ok(process)
    };
    let from = guessed(CONTACT);
    let (mut gateway, mut inside) = (console("gw", CONTACT)?, console("peer5", CONTACT)?);
    let mut ext = console("ext", from)?;
    inside.say(&format!("send {CONTACT} 203.0.113.10:{from} borrowing"))?;
    if rules.contains("-j DROP") {
        inside.wait_for_log("borrowing", SHORT)?;
    } else {
        ext.wait_for_log("borrowing", SHORT)?;
    }
    ext.say(&format!("send {from} 203.0.113.1:{CONTACT} letter"))?;
    wait_until(SHORT, "somebody to get the letter", || {
        [&gateway, &inside].iter().any(|process| process.log().contains("letter"))
    })?;
    gateway.finish(SHORT)?;
    inside.finish(SHORT)?;
    Ok(if gateway.log().contains("letter") { "gateway" } else { "inside host" })
}

/// The control, long known: a UDP port is borrowed in the same way, and saved by the same cures.
#[test]
fn udp_port_is_borrowed_and_saved_likewise() -> Outcome {
    assert_eq!(udp_receiver("borrowed-udp", "")?, "inside host");
    assert_eq!(udp_receiver("dropped-udp", &drop_borrowed()?)?, "gateway");
    assert_eq!(udp_receiver("elsewhere-udp", &masquerade_elsewhere()?)?, "gateway");
    Ok(())
}
