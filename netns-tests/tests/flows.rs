//! Many flows share one connection through the gateway, and each ends as its ends end it.

use std::time::Duration;

use netns_tests::{Daemon, Lab, LabError, SHORT, STOPPED_MS, Topology, Tunnel};

type Outcome = Result<(), LabError>;

/// The milliseconds in `reset in 12 ms`.
fn milliseconds(line: &str) -> u64 {
    let number = line.split_whitespace().rev().nth(1).and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no time in '{line}'"))
}

fn standard(name: &str) -> Result<Lab, LabError> {
    Topology::STANDARD.build_verified(name)
}

/// Three internal peers and 300 connections at once need exactly one connection on the gateway.
#[test]
fn three_hundred_flows_cross_the_gateway_on_one_connection() -> Outcome {
    let lab = standard("one")?;
    let mut echoes = Vec::new();
    let mut plan = Tunnel::builder();
    for (host, port) in [("peer3", 8003), ("peer4", 8004), ("peer5", 8005)] {
        let host = lab.host(host);
        echoes.push(host.serve("echo", 7, &[])?);
        plan = plan.peer(host.name(), &format!("{}:7", host.address()), port);
    }
    let tunnel = plan.start(&lab)?;
    let mut holds = Vec::new();
    for port in [8003, 8004, 8005] {
        holds.push(lab.host("ext").play_on("hold", &tunnel.contact(port), &["100"])?);
    }
    for hold in &mut holds {
        hold.wait_for_log("holding 100", SHORT)?;
    }
    let crossing = lab.gateway().crossing_connections()?;
    assert_eq!(crossing.len(), 1, "{crossing:#?}");
    assert!(crossing[0].contains("dport=443"), "{crossing:?}");
    for hold in &mut holds {
        assert!(hold.finish(SHORT)?.contains("released 100"));
    }
    Ok(())
}

/// An external peer that has ended its side still hears the answer; so does an internal one.
#[test]
fn half_close_leaves_the_other_direction_open() -> Outcome {
    let lab = standard("half-close")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let mut farewell = lab.host("peer4").serve("farewell", 7, &[])?;
    let tunnel = Tunnel::builder()
        .peer("echo", "192.168.50.3:7", 8003)
        .peer("farewell", "192.168.50.4:7", 8004)
        .start(&lab)?;
    let ext = lab.host("ext");
    for bytes in ["0", "1", "8000000"] {
        ext.play("half-close", &tunnel.contact(8003), &[bytes])?;
    }
    ext.play("hear-out", &tunnel.contact(8004), &["3000000"])?;
    farewell.wait_for_log("heard 3000000", SHORT)?;
    Ok(())
}

/// A reset travels through the tunnel as a reset, in both directions.
#[test]
fn reset_arrives_as_a_reset() -> Outcome {
    let lab = standard("reset")?;
    let _reset = lab.host("peer3").serve("reset", 7, &[])?;
    let mut watch = lab.host("peer4").serve("watch", 7, &[])?;
    let tunnel = Tunnel::builder()
        .peer("reset", "192.168.50.3:7", 8003)
        .peer("watch", "192.168.50.4:7", 8004)
        .start(&lab)?;
    let said = lab.host("ext").play("provoke", &tunnel.contact(8003), &[])?;
    assert!(said.starts_with("reset"), "{said}");
    lab.host("ext").play("abort", &tunnel.contact(8004), &[])?;
    watch.wait_for_log("ended reset", SHORT)?;
    Ok(())
}

/// A closed internal port is a prompt reset outside, and a line of the log that names the peer.
#[test]
fn refused_internal_port_is_a_prompt_reset_and_a_log_line() -> Outcome {
    let lab = standard("refused")?;
    let mut tunnel = Tunnel::builder().peer("shut-door", "192.168.50.3:9", 8003).start(&lab)?;
    let said = lab.host("ext").play("provoke", &tunnel.contact(8003), &[])?;
    assert!(said.starts_with("reset") && milliseconds(&said) < 2_000, "{said}");
    let forwarder = tunnel.process_mut(Daemon::Forwarder)?;
    forwarder.wait_for_line("shut-door … refused", SHORT, |line| {
        line.contains("shut-door") && line.to_lowercase().contains("refused")
    })?;
    Ok(())
}

/// A peer that does not exist resets its own flows and disturbs no other's.
#[test]
fn peer_that_is_down_takes_no_other_with_it() -> Outcome {
    let lab = standard("down")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let mut tunnel = Tunnel::builder()
        .peer("up", "192.168.50.3:7", 8003)
        .peer("down", "192.168.50.99:7", 8004)
        .start(&lab)?;
    let ext = lab.host("ext");
    let mut pulse = ext.play_on("pulse", &tunnel.contact(8003), &[])?;
    pulse.wait_for_log("beating", SHORT)?;
    for _ in 0..3 {
        let said = ext.play("provoke", &tunnel.contact(8004), &[])?;
        assert!(said.starts_with("reset"), "{said}");
    }
    let said = pulse.finish(SHORT)?;
    let slowest = said.trim().rsplit(' ').next().and_then(|word| word.parse::<u64>().ok());
    assert!(slowest.is_some_and(|slowest| slowest < STOPPED_MS), "{said}");
    assert!(tunnel.process_mut(Daemon::Forwarder)?.runs());
    Ok(())
}

/// Flows that open and close a thousand times leave none behind.
#[test]
fn closed_flows_are_forgotten() -> Outcome {
    let lab = standard("forgotten")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let tunnel = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003).start(&lab)?;
    for _ in 0..5 {
        let mut hold = lab.host("ext").play_on("hold", &tunnel.contact(8003), &["200"])?;
        hold.wait_for_log("holding 200", SHORT)?;
        hold.finish(SHORT)?;
    }
    netns_tests::wait_until(Duration::from_secs(10), "both daemons to count no flow", || {
        [Daemon::Forwarder, Daemon::Relay].iter().all(|&daemon| {
            tunnel.status(daemon).is_ok_and(|status| {
                let flows = &status["flows"];
                flows.as_u64() == Some(0) || flows.as_array().is_some_and(Vec::is_empty)
            })
        })
    })
}
