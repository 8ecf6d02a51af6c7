//! What is not allowed stays undone, however often and in whatever spelling it is asked for, and
//! whoever is in the right notices nothing.

use std::time::Duration;

use netns_tests::{Daemon, Lab, LabError, SHORT, Topology, Tunnel, wait_until};

type Outcome = Result<(), LabError>;

/// A port that nothing in these labs uses but what the relay would dial.
const TARGET_PORT: u16 = 7777;
/// How long a thousand attempts may take.
const ATTEMPTS_MAX: Duration = Duration::from_secs(60);

/// Loopback, the relay's neighbours, metadata services, the inside, and the relay itself, in every
/// spelling.
const FORBIDDEN: [&str; 29] = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "0.1.2.3",
    "localhost",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "169.254.169.254",
    "169.254.0.1",
    "[::ffff:169.254.169.254]",
    "[fe80::1]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.50.3",
    "192.168.1.1",
    "100.64.0.1",
    "[fd00::1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::c0a8:101]",
    "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::]",
    "224.0.0.1",
    "255.255.255.255",
    "203.0.113.20",
    "rebind.test",
];

fn standard(name: &str) -> Result<Lab, LabError> {
    Topology::STANDARD.build_verified(name)
}

/// Another key that asks for a taken port and a taken name, five hundred times each, during a
/// transfer, gets neither, and each attempt is counted; the owner's transfer is whole.
#[test]
fn a_thousand_hijacks_leave_the_owner_untouched() -> Outcome {
    let lab = standard("hijack")?;
    let (ext, icp) = (lab.host("ext"), lab.host("peer4"));
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let tunnel = Tunnel::builder()
        .peer("db", "192.168.50.3:7", 8003)
        .tail("[[peer]]\nname = \"secret\"\ntcp = \"192.168.50.3:7\"\ncontact = \"private\"\n")
        .policy("names = [\"secret\"]\n")
        // The rival is allowed the very same: that they are taken is all that stands against it.
        .rival("rival", "ports = [\"8003\"]\nnames = [\"secret\"]\n")
        .external("friend", "calls = [\"secret\"]\n")
        .start(&lab)?;
    let (mut rival, socket) = tunnel.start_rival_of(&icp, "rival", "")?;
    rival.wait_for_log("tunnel up", SHORT)?;
    let contact = tunnel.contact(8003);
    let mut transfer = ext.play_on("pulse", &contact, &[])?;
    transfer.wait_for_log("beating", SHORT)?;
    let adit = netns_tests::binaries()?.adit.display().to_string();
    let attempts = format!(
        "for n in $(seq 500); do \
           {adit} register secret tcp 192.168.50.4:7 --contact private --socket {socket} 2>/dev/null && exit 1; \
           {adit} register web tcp 192.168.50.4:7 --contact public:8003 --socket {socket} 2>/dev/null && exit 1; \
         done; echo done"
    );
    let mut hijack = icp.spawn(["sh", "-c", &attempts])?;
    assert!(hijack.finish(ATTEMPTS_MAX)?.contains("done"), "a hijack went through");
    assert!(tunnel.refused("port_taken")? >= 500);
    assert!(tunnel.refused("name_taken")? >= 500);
    // The owner's contact points lead where they did.
    ext.play("half-close", &contact, &["8000000"])?;
    let listen = ["secret", "--listen", "127.0.0.1:7000"];
    let mut friend = tunnel.connect(&ext, "friend", &listen)?;
    friend.wait_for_log("tunnel up", SHORT)?;
    ext.play("half-close", "127.0.0.1:7000", &["1000000"])?;
    let beats = transfer.finish(SHORT)?;
    assert!(beats.contains("slowest"), "{beats}");
    Ok(())
}

/// None of these is dialled by the relay for a forwarder whose policy names a host outside, names
/// that lead inside, and the whole of the internet, but nothing of the relay's own surroundings: not
/// one packet leaves for any of them.
#[test]
fn the_relay_dials_nothing_that_is_not_named() -> Outcome {
    let lab = standard("ssrf")?;
    let (relay, peer3) = (lab.host("relay"), lab.host("peer3"));
    let dials = format!(
        "dials = [\"203.0.113.10:{TARGET_PORT}\", \"localhost:{TARGET_PORT}\", \"rebind.test:{TARGET_PORT}\", \
         \"0.0.0.0/0:{TARGET_PORT}\", \"[::/0]:{TARGET_PORT}\"]\n"
    );
    let _allowed = lab.host("ext").serve("echo", TARGET_PORT, &[])?;
    let _own = relay.shell(&format!(
        "ip addr add 192.168.1.1/32 dev lo; ip -6 addr add fd00::1/128 dev lo; echo {TARGET_PORT}"
    ))?;
    let tunnel = Tunnel::builder()
        .peer("three", "192.168.50.3:7", 8003)
        .tail("[socks]\nlisten = \"192.168.50.2:1080\"\n")
        .policy(&dials)
        .start(&lab)?;
    // Whatever is dialled has this port, and is seen here, on loopback, too.
    for tables in ["iptables", "ip6tables"] {
        relay.shell(&format!("{tables} -I OUTPUT -p tcp --dport {TARGET_PORT} --syn"))?;
    }
    let dialled = || -> Result<u64, LabError> {
        let mut packets = 0;
        for tables in ["iptables", "ip6tables"] {
            let list = relay.shell(&format!("{tables} -L OUTPUT -v -x -n"))?.stdout;
            let rule = list.lines().find(|line| line.contains(&TARGET_PORT.to_string()));
            let count = rule.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            packets += count.expect("the rule that counts");
        }
        Ok(packets)
    };
    let ask = |host: &str| {
        let url = format!("telnet://{host}:{TARGET_PORT}");
        let words =
            ["curl", "-sS", "--max-time", "5", "--socks5-hostname", "192.168.50.2:1080", &url];
        peer3.run(words)
    };
    wait_until(SHORT, "the peer to be let out", || {
        tunnel
            .ask(Daemon::Forwarder, &["peers"])
            .is_ok_and(|peers| peers.stdout.contains("registered"))
    })?;
    for host in FORBIDDEN {
        let output = ask(host)?;
        assert!(!output.success(), "{host}: {}", output.stdout);
    }
    assert_eq!(dialled()?, 0, "something was dialled");
    // The control: what is named is dialled, and the counter sees it.
    ask("203.0.113.10")?;
    assert!(dialled()? >= 1);
    let refused = tunnel.refused("dial_forbidden")? + tunnel.refused("dial_unresolved")?;
    assert!(refused >= 26, "{refused}");
    Ok(())
}
