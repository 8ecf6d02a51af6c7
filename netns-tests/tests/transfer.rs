//! Large transfers by ordinary programs, through every NAT preset.

use netns_tests::{LabError, Topology, Tunnel, iperf3_server, nginx};

type Outcome = Result<(), LabError>;

/// The size that a transfer must survive.
const BYTES: u64 = 1 << 30;

/// curl fetches 1 GiB from an nginx inside, and uploads it to the same; both sums are right.
fn gibibyte_arrives_both_ways(topology: Topology, name: &str) -> Outcome {
    let lab = topology.build_verified(name)?;
    let (peer, ext) = (lab.host("peer3"), lab.host("ext"));
    // /run is the lab's own, in memory, and shared by its hosts.
    peer.shell(&format!("mkdir /run/www; head -c {BYTES} /dev/urandom > /run/www/down"))?;
    let _nginx = nginx(&peer, 80, "/run/www".as_ref())?;
    let tunnel = Tunnel::builder().peer("web", "192.168.50.3:80", 8080).start(&lab)?;
    let url = format!("http://{}", tunnel.contact(8080));
    let expected = peer.shell("sha256sum < /run/www/down")?.stdout;
    let fetched = ext.shell(&format!("curl -sSf {url}/down > /run/copy; sha256sum < /run/copy"))?;
    assert_eq!(fetched.stdout, expected, "the download differs");
    ext.shell(&format!("curl -sSf -H 'Expect:' -T /run/www/down {url}/up"))?;
    let uploaded = peer.shell("sha256sum < /run/www/up")?.stdout;
    assert_eq!(uploaded, expected, "the upload differs");
    assert_eq!(lab.gateway().crossing_connections()?.len(), 1, "it went another way");
    Ok(())
}

/// Through a port-restricted cone.
#[test]
fn gibibyte_arrives_through_a_port_restricted_cone() -> Outcome {
    gibibyte_arrives_both_ways(Topology::STANDARD, "cone")
}

/// Through a symmetric NAT.
#[test]
fn gibibyte_arrives_through_a_symmetric_nat() -> Outcome {
    gibibyte_arrives_both_ways(Topology::SYMMETRIC, "symmetric")
}

/// Through a full cone.
#[test]
fn gibibyte_arrives_through_a_full_cone() -> Outcome {
    gibibyte_arrives_both_ways(Topology::FULL_CONE, "full-cone")
}

/// Through a NAT at home behind the provider's.
#[test]
fn gibibyte_arrives_through_a_double_nat() -> Outcome {
    gibibyte_arrives_both_ways(Topology::DOUBLE, "double")
}

/// Through a firewall that lets TCP to port 443 out and nothing else.
#[test]
fn gibibyte_arrives_through_port_443_only() -> Outcome {
    gibibyte_arrives_both_ways(Topology::TCP_443_ONLY, "only-443")
}

/// iperf3 runs both ways, with one and with eight streams, and moves data on each.
#[test]
fn iperf3_runs_both_ways_with_one_and_eight_streams() -> Outcome {
    let lab = Topology::STANDARD.build_verified("iperf3")?;
    let _server = iperf3_server(&lab.host("peer3"), 5201)?;
    let tunnel = Tunnel::builder().peer("iperf", "192.168.50.3:5201", 8001).start(&lab)?;
    let address = tunnel.contact(8001);
    let (host, port) = address.split_once(':').expect("a port");
    for (streams, direction) in [("1", ""), ("8", ""), ("1", "-R"), ("8", "-R")] {
        let mut arguments = vec!["iperf3", "-c", host, "-p", port, "-t", "2", "-P", streams, "-J"];
        arguments.extend(Some(direction).filter(|direction| !direction.is_empty()));
        let report = lab.host("ext").run_ok(arguments)?.stdout;
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        let received = |stream: &serde_json::Value| stream["receiver"]["bytes"].as_u64();
        let streams = report["end"]["streams"].as_array().expect("streams");
        let moved: Vec<_> = streams.iter().filter_map(received).collect();
        assert!(!moved.is_empty() && moved.iter().all(|&bytes| bytes > 100_000), "{moved:?}");
    }
    Ok(())
}
