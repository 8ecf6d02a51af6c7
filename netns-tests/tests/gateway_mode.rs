//! The gateway and Adit: daemons that run on it, and gateways that only filter, or only translate.
//!
//! That many peers' flows cross any gateway on one connection is the claim of `flows.rs`; here it
//! stands beside each transfer.

use netns_tests::{Host, LabError, Process, SHORT, Topology, Tunnel, helper, nginx, page};

type Outcome = Result<(), LabError>;

/// What a transfer moves, each way.
const BYTES: u64 = 4 << 20;

/// The gateway answers nobody, but to what it asked itself.
const CLOSED_INPUT: &str = "iptables -P INPUT DROP
    iptables -I INPUT -i lo -j ACCEPT
    iptables -I INPUT -i lan0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT";

/// An internal peer that serves a file of random bytes, and takes files.
struct Web {
    root: String,
    _nginx: Process,
}

impl Web {
    fn start(host: &Host<'_>) -> Result<Self, LabError> {
        // /run is the lab's own, in memory, and shared by its hosts.
        let root = format!("/run/www-{}", host.name());
        host.shell(&format!("mkdir {root}; head -c {BYTES} /dev/urandom > {root}/down"))?;
        Ok(Self { _nginx: nginx(host, 80, root.as_ref())?, root })
    }

    /// curl on `client` fetches the file from `contact`, and takes it back there; the sums agree.
    fn exchanges(&self, client: &Host<'_>, contact: &str) -> Outcome {
        let Self { root, .. } = self;
        let sums = client.shell(&format!(
            "curl -sSf --max-time 10 http://{contact}/down > /run/copy
             curl -sSf --max-time 10 -H Expect: -T /run/copy http://{contact}/up
             cat {root}/down | sha256sum; sha256sum < /run/copy; sha256sum < {root}/up"
        ))?;
        let sums: Vec<_> = sums.stdout.lines().collect();
        assert!(sums.len() == 3 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
        Ok(())
    }
}

/// Whether `from` can connect to `to`.
fn reaches(from: &Host<'_>, to: &str) -> Result<bool, LabError> {
    let peer = helper("lab-peer")?.display().to_string();
    Ok(from.run([&peer, "connect", to, "--within-ms=300"])?.success())
}

/// How many connections the gateway tracks to the tunnel's port.
fn tunnel_connections(gateway: &Host<'_>) -> Result<usize, LabError> {
    let crossing = gateway.crossing_connections()?;
    Ok(crossing.iter().filter(|line| line.contains("dport=443 ")).count())
}

/// The gateway itself is the relay, and the forwarder inside polls it: an external peer reaches an
/// internal peer through the ports that the gateway lets in, by the rules of `docs/operations.md`,
/// and reaches nothing else.
#[test]
fn relay_on_the_gateway_is_reached_at_its_contact_ports_alone() -> Outcome {
    let lab = Topology::STANDARD.build_paced("relay-on-gateway")?;
    let (gateway, ext) = (lab.gateway(), lab.host("ext"));
    gateway.shell(CLOSED_INPUT)?;
    let rules = page::block("operations.md", "gateway relay")?.text;
    let (let_tunnel_in, let_contacts_in) = rules.split_once('\n').expect("two rules");
    gateway.shell(let_tunnel_in)?;
    let web = Web::start(&lab.host("peer3"))?;
    let _echo = lab.host("peer4").serve("echo", 7, &[])?;
    let tunnel = Tunnel::builder()
        .on("icp", "gw")
        .peer("web", "192.168.50.3:80", 8080)
        .peer("echo", "192.168.50.4:7", 8003)
        .start(&lab)?;
    // The controls: neither the contact point while its port is shut, nor the direct way.
    ext.route("192.168.50.0/24", gateway.address())?;
    let (input, forwarded) = (gateway.dropped_input()?, gateway.dropped_packets()?);
    assert!(!reaches(&ext, &tunnel.contact(8080))?, "a port that is shut was reached");
    assert!(!reaches(&ext, "192.168.50.3:80")?, "the internal peer was reached directly");
    assert!(gateway.dropped_input()? > input && gateway.dropped_packets()? > forwarded);

    gateway.shell(let_contacts_in)?;
    let mut hold = ext.play_on("hold", &tunnel.contact(8003), &["50"])?;
    hold.wait_for_log("holding 50", SHORT)?;
    web.exchanges(&ext, &tunnel.contact(8080))?;
    assert_eq!(tunnel_connections(&gateway)?, 1);
    hold.finish(SHORT)?;
    assert!(!reaches(&ext, &tunnel.tunnel_address())?, "the tunnel's port is open outside");
    assert!(!reaches(&ext, "192.168.50.3:80")?);
    Ok(())
}

/// The forwarder runs on the gateway, which dials the relay itself and lets nothing in.
#[test]
fn forwarder_on_the_gateway_opens_nothing_there() -> Outcome {
    let lab = Topology::STANDARD.build_paced("forwarder-on-gateway")?;
    let (gateway, ext) = (lab.gateway(), lab.host("ext"));
    gateway.shell(CLOSED_INPUT)?;
    let web = Web::start(&lab.host("peer3"))?;
    let _echo = lab.host("peer4").serve("echo", 7, &[])?;
    let tunnel = Tunnel::builder()
        .on("gw", "relay")
        .peer("web", "192.168.50.3:80", 8080)
        .peer("echo", "192.168.50.4:7", 8003)
        .start(&lab)?;
    let mut hold = ext.play_on("hold", &tunnel.contact(8003), &["50"])?;
    hold.wait_for_log("holding 50", SHORT)?;
    web.exchanges(&ext, &tunnel.contact(8080))?;
    assert_eq!(tunnel_connections(&gateway)?, 1);
    hold.finish(SHORT)?;
    // The controls: the gateway has not opened, and neither has the way through it.
    ext.route("192.168.50.0/24", gateway.address())?;
    let (input, forwarded) = (gateway.dropped_input()?, gateway.dropped_packets()?);
    assert!(!reaches(&ext, &format!("{}:8080", gateway.address()))?);
    assert!(!reaches(&ext, "192.168.50.3:80")?);
    assert!(gateway.dropped_input()? > input && gateway.dropped_packets()? > forwarded);
    Ok(())
}

/// A gateway that `topology` describes is crossed by one connection, which serves two peers.
fn crosses(topology: Topology, name: &str, direct: impl FnOnce(&Host<'_>) -> Outcome) -> Outcome {
    let lab = topology.build_paced(name)?;
    let (peer3, peer4, ext) = (lab.host("peer3"), lab.host("peer4"), lab.host("ext"));
    let web = Web::start(&peer3)?;
    let _echo = peer4.serve("echo", 7, &[])?;
    let tunnel = Tunnel::builder()
        .peer("web", &format!("{}:80", peer3.address()), 8080)
        .peer("echo", &format!("{}:7", peer4.address()), 8003)
        .start(&lab)?;
    let mut hold = ext.play_on("hold", &tunnel.contact(8003), &["50"])?;
    hold.wait_for_log("holding 50", SHORT)?;
    web.exchanges(&ext, &tunnel.contact(8080))?;
    let crossing = lab.gateway().crossing_connections()?;
    assert_eq!(crossing.len(), 1, "{crossing:#?}");
    hold.finish(SHORT)?;
    direct(&peer3)
}

/// A firewall without NAT: the inside has public addresses, which everybody outside routes, and yet
/// only the tunnel leads in.
#[test]
fn firewall_without_nat_is_crossed_by_the_tunnel_alone() -> Outcome {
    crosses(Topology::FIREWALL_ONLY, "firewall-only", |peer| {
        let (ext, gateway) = (peer.lab().host("ext"), peer.lab().gateway());
        let dropped = gateway.dropped_packets()?;
        assert!(!reaches(&ext, &format!("{}:80", peer.address()))?);
        assert!(gateway.dropped_packets()? > dropped, "the firewall did not stop it");
        // Nothing is translated: the relay's neighbour sees the tunnel come from inside.
        let crossing = gateway.crossing_connections()?;
        let untranslated = "src=198.51.100.2 dst=203.0.113.20";
        assert!(crossing.iter().any(|line| line.contains(untranslated)), "{crossing:?}");
        assert!(crossing.iter().any(|line| line.contains("dst=198.51.100.2")), "{crossing:?}");
        Ok(())
    })
}

/// A NAT without a firewall: the inside is hidden by its addresses alone, and the tunnel leads in.
#[test]
fn nat_without_firewall_is_crossed_by_the_tunnel() -> Outcome {
    crosses(Topology::NAT_ONLY, "nat-only", |peer| {
        let (ext, gateway) = (peer.lab().host("ext"), peer.lab().gateway());
        let inside = format!("{}:80", peer.address());
        assert!(!reaches(&ext, &inside)?, "somebody routes the inside's addresses");
        assert!(!reaches(&ext, &format!("{}:80", gateway.address()))?, "the NAT leads in");
        // What a NAT is not: a neighbour of the gateway that has a route does get in.
        ext.route("192.168.50.0/24", gateway.address())?;
        assert!(reaches(&ext, &inside)?, "something filters after all");
        Ok(())
    })
}

/// A NAT with a firewall: even a neighbour with a route is stopped, and the tunnel leads in.
#[test]
fn nat_with_firewall_is_crossed_by_the_tunnel_alone() -> Outcome {
    crosses(Topology::STANDARD, "nat-and-firewall", |peer| {
        let (ext, gateway) = (peer.lab().host("ext"), peer.lab().gateway());
        ext.route("192.168.50.0/24", gateway.address())?;
        let dropped = gateway.dropped_packets()?;
        assert!(!reaches(&ext, &format!("{}:80", peer.address()))?);
        assert!(gateway.dropped_packets()? > dropped, "the firewall did not stop it");
        Ok(())
    })
}
