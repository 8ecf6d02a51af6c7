//! `cargo demo`: the whole of Adit in a lab, told as a short story. Ends with an error if anything
//! failed; leaves nothing behind.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use netns_tests::{
    Congestion, Daemon, LONG, Lab, LabError, SHORT, Spinners, Topology, Tunnel, binaries, helper,
    nginx, preflight,
};

type Outcome = Result<(), Box<dyn Error>>;

/// What the demo fetches through the tunnel.
const DOWNLOAD_BYTES: u64 = 512 << 20;
/// Connections at once.
const CONNECTIONS: usize = 60;

const PICTURE: &str = "
      outside                     │ gateway: NAT + firewall │           inside
                                  │ (nothing gets in)       │
  ext    203.0.113.10             │                         │   peer3  192.168.50.3  web, port 80
    │ curl :8080                  │                         │     ▲
    │ echo :8007                  │                         │     │        peer4  .4  echo, port 7
    ▼                             │                         │     │          ▲
  relay  203.0.113.20:443  ◀══════╪═ one TCP connection ════╪═  icp  192.168.50.2
         adit-relay               │ TLS 1.3, inside out     │        adit (the forwarder)
";

/// Shows a tunnel through a NAT and a firewall, on this machine, in network namespaces.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Keeps the logs, and a recording of the gateway's outside.
    #[arg(long)]
    keep: bool,
    /// Round trips to time.
    #[arg(long, default_value_t = 20_000)]
    round_trips: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match tell(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tell(arguments: &Arguments) -> Outcome {
    println!("Checking the tools, building the daemons …");
    preflight::ensure()?;
    binaries()?;
    helper("lab-peer")?;
    let started = Instant::now();
    let mut lab = Topology::STANDARD.build("demo")?;
    if arguments.keep {
        lab.keep();
    }
    let outcome = scenes(&lab, arguments);
    if outcome.is_err() {
        lab.keep();
    }
    outcome?;
    drop(lab);
    println!(
        "\nAll of it is gone again. {:.1} s after the build.",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn scenes(lab: &Lab, arguments: &Arguments) -> Outcome {
    println!("{PICTURE}");
    println!(
        "Six hosts, a gateway, all in namespaces of their own ({}{}).",
        if lab.rootless() { "without root's rights" } else { "as root" },
        match lab.congestion() {
            Congestion::Cubic => String::new(),
            Congestion::Kept(name) => format!(
                "; congestion control {name}: this machine does not let namespaces choose cubic"
            ),
        }
    );
    let _capture = if arguments.keep { Some(lab.gateway().capture("wan0")?) } else { None };
    firewall(lab)?;
    let (web, echo) = (lab.host("peer3"), lab.host("peer4"));
    web.shell(&format!(
        "mkdir /run/www; echo 'Hello from the inside.' > /run/www/index.html; \
         head -c {DOWNLOAD_BYTES} /dev/urandom > /run/www/large"
    ))?;
    let _nginx = nginx(&web, 80, "/run/www".as_ref())?;
    let _echo = echo.serve("echo", 7, &[])?;
    let tunnel = adit(lab)?;
    fetch(lab, &tunnel)?;
    many(lab, &tunnel)?;
    latency(lab, &tunnel, arguments.round_trips)
}

/// The direct way is shut, by the gateway's own count.
fn firewall(lab: &Lab) -> Outcome {
    println!("\n1. The direct way is shut.");
    lab.verify_nat("icp", "ext", "relay")?;
    if let Some(promised) = lab.promised() {
        println!("   The NAT, probed: {promised}.");
    }
    let (ext, gateway) = (lab.host("ext"), lab.gateway());
    ext.route("192.168.50.0/24", gateway.address())?;
    for (what, target) in [("the web server", "192.168.50.3:80"), ("the gateway", "203.0.113.1:80")]
    {
        let before = gateway.dropped_packets()? + gateway.dropped_input()?;
        let reached = ext.play("connect", target, &["--within-ms=400"]).is_ok();
        let dropped = gateway.dropped_packets()? + gateway.dropped_input()? - before;
        if reached || dropped == 0 {
            return Err(format!("{target} was not blocked by the gateway").into());
        }
        println!("   ext → {what} ({target}): no answer; the firewall dropped {dropped} packets.");
    }
    Ok(())
}

/// Starts both daemons.
fn adit(lab: &Lab) -> Result<Tunnel<'_>, LabError> {
    println!("\n2. A relay outside, a forwarder inside.");
    let started = Instant::now();
    let mut tunnel = Tunnel::builder()
        .peer("web", "192.168.50.3:80", 8080)
        .peer("echo", "192.168.50.4:7", 8007)
        .start(lab)?;
    println!("   Both up, both peers registered, after {} ms.", started.elapsed().as_millis());
    let forwarder = tunnel.process_mut(Daemon::Forwarder)?;
    for line in forwarder.log().lines().filter(|line| line.contains("registered")) {
        println!("   {line}");
    }
    Ok(tunnel)
}

/// curl, small and large.
fn fetch(lab: &Lab, tunnel: &Tunnel<'_>) -> Outcome {
    println!("\n3. curl, from outside.");
    let (ext, url) = (lab.host("ext"), format!("http://{}", tunnel.contact(8080)));
    let page = ext.run_ok(["curl", "-sSf", &format!("{url}/index.html")])?.stdout;
    println!("   curl {url}/index.html\n   {}", page.trim());
    let report = ext.run_ok([
        "curl",
        "-sSf",
        "-o",
        "/run/copy",
        "-w",
        "%{speed_download} %{time_total}",
        &format!("{url}/large"),
    ])?;
    let numbers: Vec<f64> =
        report.stdout.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [bytes_per_second, seconds] = numbers[..] else {
        return Err(format!("curl said '{}'", report.stdout).into());
    };
    let sums = ext.shell("sha256sum < /run/www/large; sha256sum < /run/copy")?.stdout;
    let sums: Vec<_> = sums.lines().collect();
    if sums.len() != 2 || sums[0] != sums[1] {
        return Err("the download differs from what was served".into());
    }
    println!(
        "   {} MiB in {seconds:.2} s, {:.2} Gbit/s; SHA-256 right: {}…",
        DOWNLOAD_BYTES >> 20,
        bytes_per_second * 8.0 / 1e9,
        sums[0].chars().take(16).collect::<String>()
    );
    Ok(())
}

/// Many connections, one tunnel.
fn many(lab: &Lab, tunnel: &Tunnel<'_>) -> Outcome {
    println!("\n4. {CONNECTIONS} connections at once, one through the gateway.");
    let ext = lab.host("ext");
    let mut hold = ext.play_on("hold", &tunnel.contact(8007), &[&CONNECTIONS.to_string()])?;
    hold.wait_for_log(&format!("holding {CONNECTIONS}"), SHORT)?;
    println!("   {:<26} {:<22} {:>8} {:>8}", "contact point", "internal peer", "outside", "inside");
    for (port, peer, inside) in [(8080, "peer3", 80), (8007, "peer4", 7)] {
        let outside = established(lab, "relay", port)?;
        let within = established(lab, peer, inside)?;
        let target = format!("{}:{inside}", lab.host(peer).address());
        println!("   {:<26} {target:<22} {outside:>8} {within:>8}", tunnel.contact(port));
        if outside != within {
            return Err(format!("{outside} connections outside, {within} inside").into());
        }
    }
    let crossing = lab.gateway().crossing_connections()?;
    println!("   The gateway's conntrack lists {}:", crossing.len());
    for line in &crossing {
        println!("   {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    hold.finish(SHORT)?;
    if crossing.len() == 1 { Ok(()) } else { Err("not exactly one connection".into()) }
}

/// How many connections are established at `port` of `host`.
fn established(lab: &Lab, host: &str, port: u16) -> Result<usize, LabError> {
    let filter = format!("sport = :{port}");
    let listing = lab.host(host).run_ok(["ss", "-Htn", "state", "established", &filter])?.stdout;
    Ok(listing.lines().count())
}

/// Round trips through the tunnel.
fn latency(lab: &Lab, tunnel: &Tunnel<'_>, round_trips: usize) -> Outcome {
    println!(
        "\n5. {round_trips} round trips of 64 bytes, ext → tunnel → echo and back, one at a time."
    );
    println!(
        "   (An idle-priority spinner on each core keeps this machine from sleeping between.)"
    );
    let ext = lab.host("ext");
    let _spinners = Spinners::start(&ext)?;
    let count = format!("--count={round_trips}");
    let mut rtt = ext.play_on("rtt", &tunnel.contact(8007), &[&count])?;
    let histogram = rtt.finish(LONG)?;
    println!();
    print!("{histogram}");
    for (daemon, name) in [(Daemon::Forwarder, "adit"), (Daemon::Relay, "adit-relay")] {
        let status = tunnel.status(daemon)?;
        let carrier = &status["carrier"];
        if !carrier.is_null() {
            println!("   {name}: carrier {carrier}, flows {}", status["flows"]);
        }
    }
    fs::write(lab.path().join("latency.txt"), histogram)?;
    Ok(())
}
