//! `adit doctor` names the cause of what is wrong with a gateway, and leaves a forwarder that runs
//! alone.

use std::fs;
use std::thread;

use netns_tests::proxy::{connect_proxy, socks_proxy};
use netns_tests::{
    Daemon, Firewall, Host, Lab, LabError, Nat, Nat6, Process, SHORT, STOPPED_MS, Topology, Tunnel,
    binaries, nginx,
};

type Outcome = Result<(), LabError>;

/// What the doctor said.
#[derive(Debug)]
struct Said {
    works: bool,
    text: String,
    diagnosis: String,
}

/// A broken gateway, or a healthy one.
struct Case {
    name: &'static str,
    topology: Topology,
    /// Whether the relay is dialled over IPv6.
    v6: bool,
    /// Breaks it; what it returns lives until the doctor is done.
    spoil: fn(&Ward<'_>) -> Result<Vec<Process>, LabError>,
    /// The doctor's options.
    options: &'static [&'static str],
    /// Whether the tunnel works all the same.
    works: bool,
    /// What the diagnosis says …
    diagnosis: &'static [&'static str],
    /// … and the lines before it.
    lines: &'static [&'static str],
}

impl Default for Case {
    fn default() -> Self {
        Self {
            name: "",
            topology: Topology::STANDARD,
            v6: false,
            spoil: |_| Ok(Vec::new()),
            options: &[],
            works: false,
            diagnosis: &[],
            lines: &[],
        }
    }
}

/// A lab in which the doctor is called.
struct Ward<'a> {
    lab: &'a Lab,
    tunnel: Tunnel<'a>,
}

impl Ward<'_> {
    fn icp(&self) -> Host<'_> {
        self.lab.host("icp")
    }

    fn gateway(&self, script: &str) -> Result<Vec<Process>, LabError> {
        self.lab.gateway().shell(script).map(|_| Vec::new())
    }

    /// Changes a file of the lab's folder.
    fn edit(&self, file: &str, from: &str, to: &str) -> Outcome {
        let path = self.lab.path().join(file);
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.contains(from), "no '{from}' in {text}");
        fs::write(&path, text.replace(from, to)).expect("a file");
        Ok(())
    }

    /// Asks the doctor; names are resolved by what `resolver` says, if it says anything.
    fn ask(&self, options: &[&str]) -> Result<Said, LabError> {
        let adit = binaries()?.adit.display().to_string();
        let config = self.lab.path().join("adit.toml").display().to_string();
        let resolver = self.lab.path().join("resolv.conf").display().to_string();
        let script = format!(
            "test ! -e {resolver} || mount --bind {resolver} /etc/resolv.conf; exec \"$@\""
        );
        let mut command = vec!["unshare", "-m", "sh", "-e", "-c", &script, "sh"];
        command.extend([adit.as_str(), "doctor", "-c", &config]);
        command.extend(options);
        let output = self.icp().run(command)?;
        let (works, text) = (output.success(), output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("diagnosis: "));
        let diagnosis = line.unwrap_or_default().to_owned();
        assert!(text.contains("\ncure: ") && !diagnosis.is_empty(), "{text}{}", output.stderr);
        Ok(Said { works, text, diagnosis })
    }
}

/// Plays one case; the text of what it did not show.
fn play(case: &Case) -> Result<(), String> {
    let name = case.name;
    let failed = |error: LabError| format!("{name}: {error}");
    let lab = case.topology.draw(&format!("doctor-{name}")).paced().build().map_err(failed)?;
    let tunnel = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003);
    let tunnel = tunnel.prepare(&lab).map_err(failed)?;
    let mut ward = Ward { lab: &lab, tunnel };
    if case.v6 {
        ward.edit("relay.toml", "0.0.0.0:443", "[::]:443").map_err(failed)?;
        ward.edit("adit.toml", &ward.tunnel.tunnel_address(), "[2001:db8::20]:443")
            .map_err(failed)?;
    }
    ward.tunnel.start_relay().map_err(failed)?;
    let _processes = (case.spoil)(&ward).map_err(failed)?;
    let said = ward.ask(case.options).map_err(failed)?;
    println!("== {name}\n{}", said.text);
    let mut missing: Vec<_> =
        case.diagnosis.iter().filter(|words| !said.diagnosis.contains(**words)).collect();
    missing.extend(case.lines.iter().filter(|words| !said.text.contains(**words)));
    if !missing.is_empty() || said.works != case.works {
        return Err(format!(
            "{name}: no {missing:?}, or works = {}, in\n{}",
            said.works, said.text
        ));
    }
    Ok(())
}

/// Plays all cases, as many at once as the machine has room for.
fn play_all(cases: &[Case]) {
    let failures: Vec<_> = thread::scope(|scope| {
        let played: Vec<_> = cases.iter().map(|case| scope.spawn(|| play(case))).collect();
        played.into_iter().filter_map(|case| case.join().expect("no panic").err()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

const INSERT: &str = "iptables -w -I FORWARD -i lan0";

/// Where nothing is wrong the doctor says so, and which kind of gateway it is.
#[test]
fn healthy_gateways_are_told_apart() {
    let healthy = |name, topology, diagnosis| Case {
        name,
        topology,
        works: true,
        diagnosis,
        lines: &[
            "ok   tcp: ",
            "ok   key: the relay lets us in as office",
            "ok   udp: ",
            "ok   contact: ",
        ],
        ..Case::default()
    };
    play_all(&[
        healthy("port-restricted", Topology::STANDARD, &["port-restricted cone", "ports are kept"]),
        healthy("symmetric", Topology::SYMMETRIC, &["a symmetric NAT"]),
        healthy("full-cone", Topology::FULL_CONE, &["full or restricted cone"]),
        healthy("routed", Topology::FIREWALL_ONLY, &["a firewall without NAT"]),
        healthy("double", Topology::DOUBLE, &["a symmetric NAT"]),
        healthy("port-block", single(Nat::PortBlock), &["a port-restricted cone", "ports change"]),
        healthy("pooling", single(Nat::ArbitraryPooling), &["outside address changes"]),
        healthy("address-dependent", single(Nat::AddressDependent), &["cannot be told apart"]),
        Case { v6: true, ..healthy("v6-nat", v6(Nat6::Symmetric), &["a symmetric NAT"]) },
        Case { v6: true, ..healthy("v6-routed", v6(Nat6::Routed), &["a firewall without NAT"]) },
        // The relay has a second address: what depends on addresses shows.
        Case {
            spoil: second_address,
            ..healthy(
                "full-cone-2",
                Topology::FULL_CONE,
                &["a full cone", "mapping: endpoint-independent)"],
            )
        },
        Case {
            spoil: second_address,
            ..healthy(
                "restricted-cone-2",
                single(Nat::RestrictedCone { inside: "192.168.50.2" }),
                &["a restricted cone", "filtering: address-dependent"],
            )
        },
        Case {
            spoil: |ward| {
                ward.gateway(
                    "iptables -w -t nat -I POSTROUTING -o wan0 -p udp -d 203.0.113.21 -j SNAT \
                     --to-source 203.0.113.1:50000-50999",
                )?;
                second_address(ward)
            },
            ..healthy(
                "address-dependent-2",
                single(Nat::AddressDependent),
                &["address-dependent mapping"],
            )
        },
    ]);
}

fn single(nat: Nat) -> Topology {
    Topology::Single(nat, Firewall::Outbound)
}

fn v6(nat: Nat6) -> Topology {
    Topology::V6 { nat, v4: true }
}

fn second_address(ward: &Ward<'_>) -> Result<Vec<Process>, LabError> {
    ward.lab.host("relay").shell("ip addr add 203.0.113.21/24 dev eth0").map(|_| Vec::new())
}

/// What a proxy says is told, and what comes of it.
#[test]
fn proxies_are_heard() {
    /// Nothing gets out but by the proxy on the gateway.
    fn behind(ward: &Ward<'_>, url: &str) -> Outcome {
        ward.gateway(&format!("{INSERT} -j REJECT --reject-with icmp-admin-prohibited"))?;
        let path = ward.lab.path().join("adit.toml");
        let text = fs::read_to_string(&path).expect("a file");
        fs::write(&path, format!("{text}\n[gateway]\nproxy = \"{url}\"\n")).expect("a file");
        Ok(())
    }
    play_all(&[
        Case {
            name: "proxy",
            spoil: |ward| {
                behind(ward, "http://203.0.113.1:3128")?;
                Ok(vec![connect_proxy(&ward.lab.gateway(), None)?])
            },
            works: true,
            lines: &["ok   proxy: http://203.0.113.1:3128", "datagrams ride the carrier"],
            ..Case::default()
        },
        Case {
            name: "proxy-socks",
            spoil: |ward| {
                behind(ward, "socks5://jo:secret@203.0.113.1:1080")?;
                Ok(vec![socks_proxy(&ward.lab.gateway(), Some(("jo", "secret")))?])
            },
            works: true,
            lines: &["ok   proxy: socks5://203.0.113.1:1080"],
            ..Case::default()
        },
        Case {
            name: "proxy-407",
            spoil: |ward| {
                behind(ward, "http://203.0.113.1:3128")?;
                Ok(vec![connect_proxy(&ward.lab.gateway(), Some(("jo", "secret")))?])
            },
            diagnosis: &["the proxy http://203.0.113.1:3128", "407"],
            lines: &["cure: write user and password"],
            ..Case::default()
        },
        Case {
            name: "proxy-403",
            spoil: |ward| {
                behind(ward, "http://203.0.113.1:3128")?;
                ward.edit("adit.toml", "203.0.113.20:443", "203.0.113.20:8443")?;
                Ok(vec![connect_proxy(&ward.lab.gateway(), None)?])
            },
            diagnosis: &["the proxy http://203.0.113.1:3128", "403", "does not allow"],
            ..Case::default()
        },
        Case {
            name: "proxy-off",
            spoil: |ward| {
                behind(ward, "http://203.0.113.1:3128")?;
                Ok(Vec::new())
            },
            diagnosis: &["the proxy http://203.0.113.1:3128 does not accept connections"],
            ..Case::default()
        },
    ]);
}

/// What stands in the way of packets is named by what it does.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn blocked_ways_are_named() {
    play_all(&[
        Case {
            name: "dropped",
            spoil: |ward| ward.gateway(&format!("{INSERT} -p tcp --dport 443 -j DROP")),
            diagnosis: &["nothing comes back from 203.0.113.20:443", "drops"],
            ..Case::default()
        },
        Case {
            name: "reset",
            spoil: |ward| {
                ward.gateway(&format!("{INSERT} -p tcp -j REJECT --reject-with tcp-reset"))
            },
            diagnosis: &["is refused", "reset"],
            ..Case::default()
        },
        Case {
            name: "icmp-port",
            spoil: |ward| ward.gateway(&format!("{INSERT} -j REJECT")),
            diagnosis: &["is refused", "a firewall rejects it", "port unreachable", "192.168.50.1"],
            ..Case::default()
        },
        Case {
            name: "icmp-host",
            spoil: |ward| {
                ward.gateway(&format!("{INSERT} -j REJECT --reject-with icmp-host-unreachable"))
            },
            diagnosis: &["rejects the connection", "host unreachable", "192.168.50.1"],
            ..Case::default()
        },
        Case {
            name: "icmp-net",
            spoil: |ward| {
                ward.gateway(&format!("{INSERT} -j REJECT --reject-with icmp-net-unreachable"))
            },
            diagnosis: &["rejects the connection", "network unreachable", "192.168.50.1"],
            ..Case::default()
        },
        Case {
            name: "icmp-admin",
            spoil: |ward| {
                ward.gateway(&format!("{INSERT} -j REJECT --reject-with icmp-admin-prohibited"))
            },
            diagnosis: &["rejects the connection", "administratively prohibited", "192.168.50.1"],
            ..Case::default()
        },
        Case {
            name: "off",
            spoil: |ward| ward.lab.host("relay").shell("ip link set eth0 down").map(|_| Vec::new()),
            diagnosis: &["203.0.113.20:443"],
            ..Case::default()
        },
        Case {
            name: "443-only",
            topology: Topology::TCP_443_ONLY,
            spoil: |ward| {
                ward.edit("adit.toml", "203.0.113.20:443", "203.0.113.20:8443")?;
                Ok(Vec::new())
            },
            diagnosis: &["port 8443", "port 443 out"],
            lines: &["cure: let the relay listen on port 443"],
            ..Case::default()
        },
        Case {
            name: "no-route",
            spoil: |ward| ward.icp().shell("ip route del default").map(|_| Vec::new()),
            diagnosis: &["no route to 203.0.113.20:443"],
            ..Case::default()
        },
        Case {
            name: "v6-only",
            spoil: |ward| {
                ward.icp().shell(
                    "ip route del default; ip addr flush dev eth0 scope global
                     ip addr add fd00:1::2/64 dev eth0 nodad; ip -6 route add default dev eth0",
                )?;
                Ok(Vec::new())
            },
            diagnosis: &["IPv6 only", "IPv4 only"],
            ..Case::default()
        },
    ]);
}

/// What a name server does, or does not, is told apart.
#[test]
fn name_servers_are_told_apart() {
    fn named(ward: &Ward<'_>, server: &str) -> Result<Vec<Process>, LabError> {
        fs::write(ward.lab.path().join("resolv.conf"), format!("nameserver {server}\n"))
            .expect("a file");
        ward.edit("adit.toml", "203.0.113.20:443", "relay.lab.test:443")?;
        let dns = ward.lab.host("peer3").spawn([
            "dnsmasq",
            "--no-daemon",
            "--user=root",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--listen-address=192.168.50.3",
            "--local=/test/",
            "--address=/relay.lab.test/203.0.113.20",
        ])?;
        netns_tests::wait_until(SHORT, "the name server", || {
            let dig = ["dig", "@192.168.50.3", "+short", "+time=1", "relay.lab.test"];
            ward.icp().run(dig).is_ok_and(|output| output.stdout.contains("203.0.113.20"))
        })?;
        Ok(vec![dns])
    }
    play_all(&[
        Case {
            name: "named",
            spoil: |ward| named(ward, "192.168.50.3"),
            works: true,
            lines: &["ok   dns: relay.lab.test is 203.0.113.20"],
            ..Case::default()
        },
        Case {
            name: "dns-silent",
            spoil: |ward| named(ward, "192.168.50.77"),
            diagnosis: &["names are not resolved here", "no DNS server answers"],
            ..Case::default()
        },
        Case {
            name: "dns-unknown",
            spoil: |ward| {
                let servers = named(ward, "192.168.50.3")?;
                ward.edit("adit.toml", "relay.lab.test", "relay.lab-typo.test")?;
                Ok(servers)
            },
            diagnosis: &["relay.lab-typo.test", "does not exist"],
            ..Case::default()
        },
        Case {
            name: "sni",
            spoil: |ward| {
                let servers = named(ward, "192.168.50.3")?;
                ward.gateway(&format!(
                    "{INSERT} -p tcp --dport 443 -m string --algo bm --string relay.lab.test \
                     --to 1500 -j REJECT --reject-with tcp-reset"
                ))?;
                Ok(servers)
            },
            diagnosis: &["server name (SNI) relay.lab.test"],
            lines: &["cure: write sni ="],
            ..Case::default()
        },
    ]);
}

/// What accepts the connection and is not the relay, or does not let it live, is named.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn spoiled_connections_are_named() {
    play_all(&[
        Case {
            name: "tls-reset",
            spoil: |ward| {
                ward.gateway(&format!(
                    "{INSERT} -p tcp --dport 443 -m length --length 200: -j REJECT --reject-with tcp-reset"
                ))
            },
            diagnosis: &["resets the connection as soon as TLS begins"],
            ..Case::default()
        },
        Case {
            name: "tls-swallowed",
            spoil: |ward| {
                ward.gateway(&format!(
                    "{INSERT} -p tcp --dport 443 -m length --length 200: -j DROP"
                ))
            },
            diagnosis: &["accepts connections and then says nothing"],
            ..Case::default()
        },
        Case {
            name: "portal",
            spoil: |ward| {
                let root = ward.lab.path().join("www");
                fs::create_dir_all(&root).expect("a folder");
                let portal = nginx(&ward.lab.gateway(), 8080, &root)?;
                ward.gateway(
                    "iptables -w -t nat -I PREROUTING -i lan0 -p tcp --dport 443 -j DNAT \
                     --to-destination 203.0.113.1:8080",
                )?;
                Ok(vec![portal])
            },
            diagnosis: &["something else answers", "captive portal"],
            ..Case::default()
        },
        Case {
            name: "other-tls",
            spoil: |ward| {
                let folder = ward.lab.path().display();
                let gateway = ward.lab.gateway();
                gateway.shell(&format!(
                    "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=inspection -days 2 \
                     -keyout {folder}/tls.key -out {folder}/tls.crt 2>/dev/null
                     iptables -w -t nat -I PREROUTING -i lan0 -p tcp --dport 443 -j REDIRECT --to-ports 8443"
                ))?;
                let (key, cert) = (format!("{folder}/tls.key"), format!("{folder}/tls.crt"));
                let server = gateway.spawn([
                    "openssl", "s_server", "-accept", "8443", "-key", &key, "-cert", &cert,
                    "-quiet",
                ])?;
                netns_tests::wait_until(SHORT, "the other server", || {
                    gateway
                        .run(["ss", "-Hltn", "sport = :8443"])
                        .is_ok_and(|o| !o.stdout.is_empty())
                })?;
                Ok(vec![server])
            },
            diagnosis: &["something else answers", "no Adit relay"],
            ..Case::default()
        },
        Case {
            name: "other-relay",
            spoil: |ward| {
                let key = &ward.tunnel.relay_key;
                let forwarder = &ward.tunnel.forwarder_key;
                ward.edit("adit.toml", key, forwarder)?;
                Ok(Vec::new())
            },
            diagnosis: &["another relay answers", "the relay's key is"],
            ..Case::default()
        },
        Case {
            name: "stranger",
            spoil: |ward| {
                let adit = binaries()?.adit.display().to_string();
                let file = ward.lab.path().join("stranger.key").display().to_string();
                ward.icp().run_ok([adit.as_str(), "keygen", "--out", &file])?;
                ward.edit("adit.toml", "adit.key", "stranger.key")?;
                Ok(Vec::new())
            },
            diagnosis: &["does not know this host's key"],
            lines: &["cure: at the relay, add a [[forwarder]]"],
            ..Case::default()
        },
        Case {
            name: "port-not-allowed",
            spoil: |ward| {
                ward.edit("adit.toml", "public:8003", "public:9003")?;
                Ok(Vec::new())
            },
            diagnosis: &["the contact point of echo (public:9003)", "is not allowed"],
            lines: &["ok   udp: "],
            ..Case::default()
        },
        Case {
            name: "port-taken",
            spoil: |ward| Ok(vec![ward.lab.host("relay").serve("echo", 8003, &[])?]),
            diagnosis: &["the contact point of echo (public:8003)", "another program"],
            ..Case::default()
        },
        Case {
            name: "quota",
            spoil: |ward| {
                ward.gateway(
                    "iptables -w -I FORWARD -i wan0 -p tcp -j DROP
                     iptables -w -I FORWARD -i wan0 -p tcp -m quota --quota 300000 -j ACCEPT",
                )
            },
            options: &["--transfer"],
            diagnosis: &["the connection dies after about", "limits how much"],
            ..Case::default()
        },
        Case {
            name: "connbytes",
            spoil: |ward| {
                ward.gateway(
                    "sysctl -qw net.netfilter.nf_conntrack_acct=1
                     iptables -w -I FORWARD -p tcp -m connbytes --connbytes 500000: --connbytes-dir both \
                     --connbytes-mode bytes -j REJECT --reject-with tcp-reset",
                )
            },
            options: &["--transfer"],
            diagnosis: &["the connection dies after about", "limits how much"],
            ..Case::default()
        },
        Case {
            name: "missing-file",
            spoil: |ward| {
                fs::remove_file(ward.lab.path().join("adit.toml")).expect("a file");
                Ok(Vec::new())
            },
            diagnosis: &["adit.toml", "cannot be read"],
            ..Case::default()
        },
    ]);
}

/// What the tunnel survives is told, and is no failure.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn handicaps_are_told_and_are_no_failure() {
    play_all(&[
        Case {
            name: "udp-blocked",
            spoil: |ward| ward.gateway(&format!("{INSERT} -p udp -j DROP")),
            works: true,
            diagnosis: &["the tunnel works", "UDP does not get through"],
            ..Case::default()
        },
        Case {
            name: "quic-blocked",
            spoil: |ward| ward.gateway(&format!("{INSERT} -p udp --dport 443 -j DROP")),
            works: true,
            diagnosis: &["the tunnel works", "UDP port 443 is blocked"],
            ..Case::default()
        },
        Case {
            name: "udp-one-way",
            spoil: |ward| ward.gateway("iptables -w -I FORWARD -i wan0 -p udp -j DROP"),
            works: true,
            diagnosis: &["the tunnel works", "no answer comes in"],
            ..Case::default()
        },
        Case {
            name: "mtu",
            spoil: |ward| {
                ward.lab.host("relay").shell("ethtool -K eth0 tso off gso off gro off")?;
                ward.icp().shell("ethtool -K eth0 tso off gso off gro off")?;
                ward.gateway("iptables -w -I FORWARD -m length --length 1301:65535 -j DROP")
            },
            works: true,
            diagnosis: &["MTU black hole"],
            ..Case::default()
        },
        Case {
            name: "connlimit",
            spoil: |ward| {
                ward.gateway(&format!(
                    "{INSERT} -p tcp --syn -m connlimit --connlimit-above 2 --connlimit-mask 32 \
                     -j REJECT --reject-with tcp-reset"
                ))
            },
            works: true,
            diagnosis: &["only 2 of 4 connections are made", "limit on connections"],
            ..Case::default()
        },
        Case {
            name: "port-exhaustion",
            spoil: |ward| {
                ward.gateway(
                    "iptables -w -t nat -I POSTROUTING -o wan0 -p tcp -j SNAT --to-source 203.0.113.1:50000-50002",
                )
            },
            works: true,
            diagnosis: &["of 4 connections are made", "run out of ports"],
            ..Case::default()
        },
        Case {
            name: "idle",
            spoil: |ward| {
                ward.gateway(
                    "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established=2 \
                     net.netfilter.nf_conntrack_udp_timeout=2 \
                     net.netfilter.nf_conntrack_udp_timeout_stream=2",
                )
            },
            options: &["--idle", "5"],
            works: true,
            diagnosis: &[
                "forgets idle TCP connections between 0 and 3 s",
                "idle UDP flows between 0 and 3 s",
            ],
            ..Case::default()
        },
        Case {
            name: "idle-long",
            options: &["--idle", "5"],
            works: true,
            lines: &["TCP connections are remembered for 5 s", "UDP flows are remembered for 5 s"],
            ..Case::default()
        },
    ]);
}

/// A forwarder keeps its session and its connection while the doctor works, and so do its flows; the
/// doctor says that it runs.
#[test]
fn a_running_forwarder_is_not_disturbed() -> Outcome {
    let lab =
        Topology::Single(Nat::PortRestricted, Firewall::Outbound).build_paced("doctor-beside")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let tunnel = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003).start(&lab)?;
    let mut pulse = lab.host("ext").play_on("pulse", &tunnel.contact(8003), &[])?;
    pulse.wait_for_log("beating", SHORT)?;
    let session = tunnel.session()?;
    let mut ward = Ward { lab: &lab, tunnel };
    for options in [&[][..], &["--transfer"], &["--idle", "3"]] {
        let said = ward.ask(options)?;
        assert!(said.works, "{}", said.text);
        assert!(said.text.contains("`adit run` runs: its tunnel is up"), "{}", said.text);
    }
    assert_eq!(ward.tunnel.session()?, session);
    assert_eq!(ward.tunnel.resumptions()?, 0);
    let slowest = pulse.finish(SHORT)?;
    let slowest = slowest.trim().rsplit(' ').next().and_then(|word| word.parse::<u64>().ok());
    assert!(slowest.is_some_and(|slowest| slowest < STOPPED_MS), "{slowest:?}");
    assert!(ward.tunnel.process_mut(Daemon::Relay)?.log().contains("a probe looks at the way"));
    Ok(())
}
