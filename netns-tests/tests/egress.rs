//! Out through gateways that let little out: by proxies, under another name, by another way, in small
//! packets. Each gateway is shown first to keep what it should: the plain way fails there, and its
//! counter moves.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use netns_tests::proxy::{CONNECT_PORT, SOCKS_PORT, connect_proxy, socks_proxy};
use netns_tests::{Firewall, binaries, wait_until};
use netns_tests::{Gateway, Host, Lab, LabError, Nat, Nat6, Process, SHORT, Topology, Tunnel};

type Outcome = Result<(), LabError>;

/// How long an attempt takes at most; a busy machine adds to it.
const ATTEMPT: Duration = Duration::from_secs(20);
/// Round trips of more than a packet: `lab-peer rtt`.
const ROUNDS: &[&str] = &["--count", "20", "--size", "4000"];
/// Where what is let in is reached.
const CONTACT: u16 = 8003;
/// The host of the proxies, the only one that the gateway lets out.
const PROXY_HOST: &str = "192.168.50.5";
/// A login, whose parts no log may show.
const LOGIN: (&str, &str) = ("jo", "pa55word");

/// The comment of the rule that a lab's gateway keeps the plain way shut with.
const SHUT: &str = "lab-shut";

/// A relay with a server behind the tunnel, and a forwarder that leaves as it is told.
struct Way<'a> {
    lab: &'a Lab,
    tunnel: Tunnel<'a>,
    forwarder: Option<Process>,
    _echo: Process,
}

impl<'a> Way<'a> {
    fn open(lab: &'a Lab) -> Result<Self, LabError> {
        let echo = lab.host("peer3").serve("echo", 7, &[])?;
        let at = format!("{}:7", lab.host("peer3").address());
        let mut tunnel = Tunnel::builder().peer("echo", &at, CONTACT).prepare(lab)?;
        tunnel.start_relay()?;
        Ok(Self { lab, tunnel, forwarder: None, _echo: echo })
    }

    /// Starts the forwarder in place of any other, with this `[gateway]` and environment, after
    /// `change` of its file.
    fn start(
        &mut self,
        gateway: &str,
        environment: &[&str],
        change: impl Fn(String) -> String,
    ) -> Outcome {
        self.forwarder = None;
        let socket = self.lab.path().join("adit.sock");
        wait_until(SHORT, "the forwarder before to be gone", || {
            UnixStream::connect(&socket).is_err()
        })?;
        let file = self.lab.path().join("adit.toml");
        let text = fs::read_to_string(&file).expect("the forwarder's file");
        let egress = self.lab.path().join("egress.toml");
        fs::write(&egress, format!("{}\n[gateway]\n{gateway}\n", change(text))).expect("a file");
        let adit = binaries()?.adit;
        let mut command = vec!["env".into()];
        command.extend(environment.iter().map(Into::into));
        command.extend([adit.into_os_string(), "run".into(), "-c".into(), egress.into_os_string()]);
        self.forwarder = Some(self.lab.host("icp").spawn(command)?);
        Ok(())
    }

    fn forwarder(&mut self) -> &mut Process {
        self.forwarder.as_mut().expect("a forwarder")
    }

    /// The forwarder says why it has no tunnel, and none of its login.
    fn fails(&mut self, gateway: &str, environment: &[&str], why: &str) -> Outcome {
        self.start(gateway, environment, |text| text)?;
        self.forwarder().wait_for_log(why, ATTEMPT)?;
        self.keeps_secrets();
        Ok(())
    }

    /// The tunnel comes up, and bytes go there and back through it.
    fn passes(&mut self, gateway: &str, environment: &[&str]) -> Outcome {
        self.start(gateway, environment, |text| text)?;
        self.carries()
    }

    fn carries(&mut self) -> Outcome {
        self.forwarder().wait_for_log("registered peer=echo", ATTEMPT)?;
        self.keeps_secrets();
        let contact = self.tunnel.contact(CONTACT);
        self.lab.host("ext").play("rtt", &contact, ROUNDS).map(|_| ())
    }

    fn keeps_secrets(&mut self) {
        let log = self.forwarder().log();
        let (user, password) = LOGIN;
        let basic = "am86cGE1NXdvcmQ";
        assert!(!log.contains(password) && !log.contains(basic), "{log}");
        assert!(!log.contains(&format!("{user}:")), "{log}");
    }
}

/// What the rule of `SHUT` has kept.
fn kept(lab: &Lab) -> Result<u64, LabError> {
    lab.gateway().rule_packets("FORWARD", SHUT)
}

/// Shuts the way for all TCP that matches `rule`, and says so to who tries.
fn shut(gateway: &Host<'_>, rule: &str) -> Outcome {
    let reject = "-j REJECT --reject-with tcp-reset";
    gateway
        .shell(&format!(
            "iptables -I FORWARD -i lan0 -o wan0 -p tcp {rule} -m comment --comment {SHUT} {reject}"
        ))
        .map(|_| ())
}

/// A lab whose gateway lets nobody out but the host of the proxies. The control: the plain way
/// is refused there, and the rule that refuses it counts.
fn behind_proxies(name: &str) -> Result<Lab, LabError> {
    let lab = Topology::STANDARD.build_paced(name)?;
    shut(&lab.gateway(), &format!("! -s {PROXY_HOST}"))?;
    Ok(lab)
}

fn plain_way_is_shut(way: &mut Way<'_>) -> Outcome {
    way.fails("proxy = \"none\"", &[], "cannot connect to 203.0.113.20:443")?;
    assert!(kept(way.lab)? > 0, "the gateway kept nothing");
    Ok(())
}

/// An HTTP proxy without a login leads out, whether the file or the environment names it; what
/// NO_PROXY excepts, and "none", are dialled directly.
#[test]
fn http_proxy_leads_out() -> Outcome {
    let lab = behind_proxies("http-proxy")?;
    let _proxy = connect_proxy(&lab.host("peer5"), None)?;
    let mut way = Way::open(&lab)?;
    plain_way_is_shut(&mut way)?;
    let proxy = format!("http://{PROXY_HOST}:{CONNECT_PORT}");
    way.passes(&format!("proxy = \"{proxy}\""), &[])?;
    way.passes("", &[&format!("HTTPS_PROXY={proxy}")])?;
    way.forwarder().wait_for_log("named by HTTPS_PROXY", SHORT)?;
    let (except, named) = ("NO_PROXY=203.0.113.0/24", format!("ALL_PROXY={proxy}"));
    way.fails("", &[except, &named], "cannot connect to 203.0.113.20:443")?;
    way.fails("proxy = \"none\"", &[&named], "cannot connect to 203.0.113.20:443")?;
    // The file comes first.
    way.passes(&format!("proxy = \"{proxy}\""), &[except, "ALL_PROXY=http://192.0.2.1:1"])
}

/// An HTTP proxy with a login asks for it (407), and is given it; the wrong one is told apart.
#[test]
fn http_proxy_with_a_login_leads_out() -> Outcome {
    let lab = behind_proxies("http-login")?;
    let _proxy = connect_proxy(&lab.host("peer5"), Some(LOGIN))?;
    let mut way = Way::open(&lab)?;
    plain_way_is_shut(&mut way)?;
    let at = format!("{PROXY_HOST}:{CONNECT_PORT}");
    let (user, password) = LOGIN;
    way.fails(&format!("proxy = \"http://{at}\""), &[], "it wants a user and a password (407")?;
    let wrong = format!("proxy = \"http://{user}:{password}x@{at}\"");
    way.fails(&wrong, &[], "it does not accept this user and password (40")?;
    way.passes(&format!("proxy = \"http://{user}:{password}@{at}\""), &[])
}

/// What an HTTP proxy forbids (403) is named, with the place that it does not allow.
#[test]
fn http_proxy_that_forbids_is_named() -> Outcome {
    let lab = behind_proxies("http-403")?;
    let _proxy = connect_proxy(&lab.host("peer5"), None)?;
    let mut way = Way::open(&lab)?;
    plain_way_is_shut(&mut way)?;
    let gateway = format!("proxy = \"http://{PROXY_HOST}:{CONNECT_PORT}\"");
    way.start(&gateway, &[], |text| text.replace("203.0.113.20:443", "203.0.113.20:8443"))?;
    let said = "it does not allow connections to 203.0.113.20:8443 (403";
    way.forwarder().wait_for_log(said, ATTEMPT)?;
    // And a proxy that is not there.
    let gone = format!("proxy = \"http://{PROXY_HOST}:3129\"");
    way.fails(&gone, &[], "cannot connect to the proxy http://192.168.50.5:3129")
}

/// A SOCKS5 proxy leads out, with a login and without; the wrong one, and none, are told apart.
#[test]
fn socks_proxy_leads_out() -> Outcome {
    let lab = behind_proxies("socks-proxy")?;
    let mut way = Way::open(&lab)?;
    plain_way_is_shut(&mut way)?;
    let at = format!("{PROXY_HOST}:{SOCKS_PORT}");
    let (user, password) = LOGIN;
    {
        let _open = socks_proxy(&lab.host("peer5"), None)?;
        way.passes(&format!("proxy = \"socks5://{at}\""), &[])?;
        way.passes("", &[&format!("all_proxy=socks5h://{at}")])?;
    }
    let _strict = socks_proxy(&lab.host("peer5"), Some(LOGIN))?;
    way.fails(&format!("proxy = \"socks5://{at}\""), &[], "it wants a user and a password")?;
    let wrong = format!("proxy = \"socks5://{user}:{password}x@{at}\"");
    way.fails(&wrong, &[], "it does not accept this user and password")?;
    way.passes(&format!("proxy = \"socks5://{user}:{password}@{at}\""), &[])
}

/// Who has no resolver for the outside leaves the name to the proxy.
#[test]
fn names_are_the_proxys_to_resolve() -> Outcome {
    let lab = Topology::STANDARD.draw("proxy-names").paced().own_everything().build()?;
    shut(&lab.gateway(), &format!("! -s {PROXY_HOST}"))?;
    lab.host("peer5").shell("echo 203.0.113.20 relay.test >> /etc/hosts")?;
    let _http = connect_proxy(&lab.host("peer5"), None)?;
    let _socks = socks_proxy(&lab.host("peer5"), None)?;
    let mut way = Way::open(&lab)?;
    let named = |text: String| text.replace("203.0.113.20:443", "relay.test:443");
    way.start("proxy = \"none\"", &[], named)?;
    way.forwarder().wait_for_log("cannot resolve relay.test", ATTEMPT)?;
    for proxy in ["http://192.168.50.5:3128", "socks5://192.168.50.5:1080"] {
        way.start(&format!("proxy = \"{proxy}\""), &[], named)?;
        way.carries()?;
    }
    Ok(())
}

/// A gateway that reads the relay's name in the handshake, and resets it, passes another name.
#[test]
fn a_chosen_name_passes_where_the_relays_is_read() -> Outcome {
    let lab = Topology::STANDARD.draw("sni").paced().own_everything().build()?;
    let rule = "--dport 443 -m string --algo bm --string relay.blocked.test";
    shut(&lab.gateway(), rule)?;
    lab.host("icp").shell("echo 203.0.113.20 relay.blocked.test >> /etc/hosts")?;
    let mut way = Way::open(&lab)?;
    let named = |text: String| text.replace("203.0.113.20:443", "relay.blocked.test:443");
    way.start("", &[], named)?;
    way.forwarder().wait_for_log("during the TLS handshake", ATTEMPT)?;
    assert!(kept(&lab)? > 0, "the gateway read nothing");
    way.start("sni = \"www.example.org\"", &[], named)?;
    way.carries()
}

/// The same by silence is told from a matter of size.
#[test]
fn a_filter_that_drops_the_name_is_named() -> Outcome {
    let lab = Topology::STANDARD.draw("sni-drop").paced().own_everything().build()?;
    lab.gateway().shell(&format!(
        "iptables -I FORWARD -i lan0 -o wan0 -p tcp --dport 443 -m string --algo bm \
         --string relay.blocked.test -m comment --comment {SHUT} -j DROP"
    ))?;
    // One packet is one segment, as on a cable.
    lab.host("icp").shell(
        "ethtool -K eth0 tso off gso off
         echo 203.0.113.20 relay.blocked.test >> /etc/hosts",
    )?;
    let mut way = Way::open(&lab)?;
    let named = |text: String| text.replace("203.0.113.20:443", "relay.blocked.test:443");
    way.start("", &[], named)?;
    way.forwarder().wait_for_log("choose another name with `sni`", ATTEMPT)?;
    assert!(kept(&lab)? > 0, "the gateway read nothing");
    way.start("sni = \"www.example.org\"", &[], named)?;
    way.carries()
}

/// A host with two ways out leaves by the address, or by the device, that it is told.
#[test]
fn the_way_out_is_chosen_by_address_or_device() -> Outcome {
    // A second gateway beside the first, and the forwarder's host on both of their networks.
    let second = Gateway {
        name: "gw2".to_owned(),
        nat: Nat::PortRestricted,
        nat6: Nat6::None,
        firewall: Firewall::Outbound,
        outside: "wan".to_owned(),
        outside_addresses: vec!["203.0.113.2/24".to_owned()],
        inside: "lan2".to_owned(),
        inside_addresses: vec!["192.168.60.1/24".to_owned()],
    };
    let lab = Topology::STANDARD.draw("two-ways").gateway(second).paced().build()?;
    let (first, icp) = (lab.host("gw"), lab.host("icp"));
    lab.host("gw2").shell(
        "ip link add p-icp2 type veth peer name to-icp
         ip link set p-icp2 master lan0 up
         ip link set to-icp netns icp name eth1",
    )?;
    icp.shell(
        "ip addr add 192.168.60.2/24 dev eth1
         ip link set eth1 up
         ip route add default via 192.168.60.1 dev eth1 metric 200
         ip rule add from 192.168.60.2 lookup 60
         ip route add default via 192.168.60.1 dev eth1 table 60
         sysctl -qw net.ipv4.conf.all.rp_filter=2",
    )?;
    shut(&first, "--dport 443")?;
    let mut way = Way::open(&lab)?;
    way.fails("", &[], "cannot connect to 203.0.113.20:443")?;
    assert!(first.rule_packets("FORWARD", SHUT)? > 0, "the first gateway kept nothing");
    let crossing = || lab.host("gw2").crossing_connections().map(|lines| lines.len());
    for bind in ["192.168.60.2", "eth1"] {
        way.passes(&format!("bind = \"{bind}\""), &[])?;
        assert!(crossing()? > 0, "nothing crosses the second gateway");
    }
    way.fails("bind = \"192.168.70.2\"", &[], "this host does not have it; `ip address`")?;
    way.fails("bind = \"eth7\"", &[], "this host does not have it; `ip link`")
}

/// Makes the lab's hosts have IPv6 addresses, and icp and the relay no others.
fn only_ipv6(lab: &Lab) -> Outcome {
    let add = |host: &str, device: &str, address: &str| {
        lab.host(host).shell(&format!("ip addr add {address} dev {device} nodad"))
    };
    add("relay", "eth0", "2001:db8::20/64")?;
    add("ext", "eth0", "2001:db8::10/64")?;
    add("gw", "wan0", "2001:db8::1/64")?;
    add("gw", "lan0", "fd00:1::1/64")?;
    add("icp", "eth0", "fd00:1::2/64")?;
    add("peer3", "eth0", "fd00:1::3/64")?;
    lab.gateway().shell(
        "sysctl -qw net.ipv6.conf.all.forwarding=1
         ip6tables -t nat -A POSTROUTING -o wan0 -j MASQUERADE",
    )?;
    for host in ["icp", "relay"] {
        lab.host(host).shell("ip -4 addr flush dev eth0")?;
    }
    lab.host("icp").shell("ip -6 route add default via fd00:1::1").map(|_| ())
}

/// Where there is no IPv4 anywhere, the tunnel comes up over IPv6; a family that the relay does not
/// have is named.
#[test]
fn ipv6_alone_is_enough() -> Outcome {
    let lab = Topology::STANDARD.draw("ipv6-only").paced().build()?;
    only_ipv6(&lab)?;
    let relay = lab.path().join("relay.toml");
    let _echo = lab.host("peer3").spawn([
        netns_tests::helper("lab-peer")?.into_os_string(),
        "echo".into(),
        "[fd00:1::3]:7".into(),
    ])?;
    let mut tunnel = Tunnel::builder().peer("echo", "[fd00:1::3]:7", CONTACT).prepare(&lab)?;
    let text = fs::read_to_string(&relay).expect("the relay's file");
    fs::write(&relay, text.replace("0.0.0.0:443", "[::]:443")).expect("a file");
    tunnel.start_relay()?;
    let echo = lab.host("peer4").serve("echo", 9, &[])?;
    let mut way = Way { lab: &lab, tunnel, forwarder: None, _echo: echo };
    let v6 = |text: String| text.replace("203.0.113.20:443", "[2001:db8::20]:443");
    way.start("family = \"ipv4\"", &[], v6)?;
    way.forwarder().wait_for_log("has no IPv4 address", ATTEMPT)?;
    way.start("family = \"ipv6\"", &[], v6)?;
    way.forwarder().wait_for_log("registered peer=echo", ATTEMPT)?;
    let contact = format!("[2001:db8::20]:{CONTACT}");
    lab.host("ext").play("rtt", &contact, ROUNDS).map(|_| ())
}

/// A gateway whose way out carries packets of `mtu` bytes at most, and says so to nobody.
fn black_hole(name: &str, mtu: u32) -> Result<Lab, LabError> {
    let lab = Topology::STANDARD.build_paced(name)?;
    lab.gateway().shell(&format!(
        "ip link set wan0 mtu {mtu}
         ip link set lan0 mtu {mtu}
         iptables -I OUTPUT -p icmp -m comment --comment {SHUT} -j DROP"
    ))?;
    // The controls: a small packet arrives, a large one does not, and what would say so is kept.
    let ping = |bytes: u32| {
        let payload = (bytes - 28).to_string();
        lab.host("icp").run(["ping", "-c1", "-W2", "-Mdo", "-s", &payload, "203.0.113.20"])
    };
    assert!(ping(mtu)?.success(), "packets of {mtu} bytes do not pass");
    assert!(!ping(1_400.max(mtu + 1))?.success(), "larger packets pass");
    assert!(lab.gateway().rule_packets("OUTPUT", SHUT)? > 0, "the gateway kept nothing");
    Ok(lab)
}

/// Where large packets get lost and nobody says so, the tunnel comes up with small ones, and says why.
#[test]
fn mtu_black_hole_is_passed_by_small_segments() -> Outcome {
    let lab = black_hole("mtu-1300", 1_300)?;
    let mut way = Way::open(&lab)?;
    way.passes("", &[])?;
    let said = "packets larger than 1260 bytes";
    way.forwarder().wait_for_log(said, SHORT).map(|_| ())
}

/// Where not even the smallest segments pass, the failure says so, within one attempt.
#[test]
fn mtu_black_hole_that_nothing_passes_is_named() -> Outcome {
    let lab = black_hole("mtu-560", 560)?;
    let mut way = Way::open(&lab)?;
    let started = Instant::now();
    way.fails("", &[], "packets larger than 575 bytes get lost on the way: MTU black hole")?;
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    Ok(())
}
