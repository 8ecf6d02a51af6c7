//! `adit doctor` names the cause of what is wrong with a gateway, and leaves a forwarder that runs
//! alone.

#[path = "doctor/connections.rs"]
mod connections;
#[path = "doctor/ward.rs"]
mod ward;

use std::fs;

use netns_tests::proxy::{connect_proxy, socks_proxy};
use netns_tests::{
    Daemon, Firewall, LabError, Nat, Nat6, Process, SHORT, STOPPED_MS, Topology, Tunnel,
};

use ward::{Case, INSERT, Ward, play_all};

type Outcome = Result<(), LabError>;

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
