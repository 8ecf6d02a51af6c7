//! A quarter of the acceptance matrix, and `adit-lab` itself: that it lists, draws, plays, enters, and
//! cannot report what was not so.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use netns_tests::matrix::{Row, Suite, Verdict, rows, sabotage, select};
use netns_tests::{LabError, binaries, preflight};
use tempfile::TempDir;

type Outcome = Result<(), LabError>;

/// One of each kind of gateway, way out, fault and line: what a change is most likely to break, and what is
/// over in three minutes. The whole is `adit-lab run`.
const QUARTER: &[&str] = &[
    "port-restricted",
    "symmetric",
    "full-cone/tcp/inwards",
    "restricted-cone/udp/inwards",
    "address-dependent/udp/outwards",
    "port-block/tcp/outwards",
    "arbitrary-pooling/tcp/inwards",
    "arbitrary-pooling/udp/inwards",
    "firewall-only/tcp/inwards",
    "double-symmetric-symmetric/tcp/inwards",
    "double-port-restricted-port-block/udp/outwards",
    "double-full-cone-full-cone/tcp/outwards",
    "v6-routed/tcp/inwards",
    "v6-masquerade/udp/inwards",
    "v6-prefix/tcp/outwards",
    "443-only/tcp/inwards",
    "443-only/udp/inwards",
    "tls-only/tcp/outwards",
    "port-exhaustion/tcp/inwards",
    "proxy-connect/tcp/inwards",
    "proxy-connect/udp/outwards",
    "proxy-socks5-login",
    "proxy-407",
    "blocked-silently",
    "blocked-icmp-net",
    "idle-3s",
    "forgets-and-resets",
    "half-open-inward",
    "one-sided-reset-relay",
    "syns-blocked",
    "pooling",
    "mtu-black-hole",
    "loss-1/tcp/inwards",
    "rate-10-rtt-40/tcp/outwards",
];
/// How many rows at once.
const JOBS: usize = 6;

fn row(name: &str) -> Row {
    let found = select(&[name.to_owned()]);
    let [row] = found[..] else { panic!("'{name}' means {found:?}") };
    row
}

/// The selection is about a quarter, and every name in it means something.
#[test]
fn the_quarter_is_a_quarter() {
    let chosen: Vec<_> = QUARTER.iter().flat_map(|name| select(&[(*name).to_owned()])).collect();
    assert!(QUARTER.iter().all(|name| !select(&[(*name).to_owned()]).is_empty()));
    let all = rows().len();
    assert!((all / 5..=all / 3).contains(&chosen.len()), "{} of {all}", chosen.len());
}

/// Every row of the quarter passes; none is skipped on a machine that runs the tests.
#[test]
fn the_quarter_passes() {
    let names: Vec<_> = QUARTER.iter().map(|&name| name.to_owned()).collect();
    let suite = Suite { rows: select(&names), jobs: JOBS, rules: None };
    let examined = suite.run(|_| ());
    assert_eq!(examined.len(), suite.rows.len());
    let mut broken = Vec::new();
    for examined in examined {
        println!("{}: {:?}", examined.row, examined.finding);
        if examined.finding.verdict != Verdict::Pass {
            broken.push(examined);
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// What a row says when its gateway has been given `rules`.
fn sabotaged(name: &str, rules: &str) -> String {
    match sabotage(&row(name), rules).verdict {
        Verdict::Fail(reason) => reason,
        other => panic!("{name} with {rules}: {other:?}"),
    }
}

/// A gateway that does not translate as it says, one that filters nothing, and one that hides
/// nothing: each makes its row fail, though the tunnel works through all of them.
#[test]
fn a_gateway_that_is_not_what_it_says_fails() {
    let translation = "iptables -t nat -F POSTROUTING; \
        iptables -t nat -A POSTROUTING -o wan0 -j MASQUERADE";
    let reason = sabotaged("symmetric/tcp/inwards", translation);
    assert!(reason.contains("does not behave as promised"), "{reason}");
    let open = "iptables -P FORWARD ACCEPT; iptables -F FORWARD";
    sabotaged("port-restricted/tcp/inwards", open);
    sabotaged("443-only/tcp/outwards", open);
}

/// A gateway that breaks what the tunnel carries makes the row fail, and nothing else does: the
/// same row without the rule passes.
#[test]
fn a_tunnel_that_cannot_fails() {
    // The probes' packets are smaller, and pass.
    let cut = "iptables -I FORWARD -p tcp --dport 443 -j DROP";
    let reason = sabotaged("port-restricted/tcp/inwards", cut);
    assert!(reason.contains("tunnel up"), "{reason}");
    let nothing = "iptables -I FORWARD -p tcp --dport 4 -j DROP";
    let finding = sabotage(&row("port-restricted/tcp/inwards"), nothing);
    assert_eq!(finding.verdict, Verdict::Pass);
}

/// A fault that does not strike makes its row fail.
#[test]
fn a_fault_that_strikes_nothing_fails() {
    // Whatever comes later is not reached by the fault's rule, which is put into FORWARD.
    let reason = sabotaged(
        "blocked-tcp-reset",
        "iptables -t nat -A PREROUTING -i lan0 -p tcp --dport 443 -j REDIRECT --to-ports 443; \
         iptables -P INPUT ACCEPT; iptables -F INPUT",
    );
    assert!(reason.contains("has met no packet"), "{reason}");
}

/// Rules that this machine cannot have make the row fail: only presets are skipped.
#[test]
fn rules_that_cannot_be_had_fail() {
    let reason = sabotaged("port-restricted/tcp/inwards", "iptables -A FORWARD -j NOSUCHTARGET");
    assert!(reason.contains("NOSUCHTARGET"), "{reason}");
}

/// `adit-lab` as it is packaged: beside the programs that it needs, in a folder of its own.
fn packaged() -> Result<TempDir, LabError> {
    preflight::ensure()?;
    // Beside the programs, so that they need not be copied.
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let copy = |from: &Path| {
        let to = folder.path().join(from.file_name().expect("a program's name"));
        fs::hard_link(from, &to).or_else(|_elsewhere| fs::copy(from, &to).map(|_| ()))
    };
    let daemons = binaries()?;
    let lab = Path::new(env!("CARGO_BIN_EXE_adit-lab"));
    let helpers = [
        env!("CARGO_BIN_EXE_lab-peer"),
        env!("CARGO_BIN_EXE_lab-probe"),
        env!("CARGO_BIN_EXE_lab-link"),
    ];
    for program in [lab, &daemons.adit, &daemons.relay].into_iter().chain(helpers.map(Path::new)) {
        copy(program).expect("a copy of a program");
    }
    Ok(folder)
}

/// Runs the packaged `adit-lab`, with nothing of a workspace in its environment.
fn adit_lab(arguments: &[&str]) -> Result<Output, LabError> {
    let folder = packaged()?;
    let mut command = Command::new(folder.path().join("adit-lab"));
    command.args(arguments).env_remove("ADIT_BIN_DIR").current_dir("/");
    Ok(command.output().expect("adit-lab runs"))
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// `list` names every row, and those that a pattern means; a pattern that means none is an error.
#[test]
fn list_names_the_rows() -> Outcome {
    let all = said(&adit_lab(&["list"])?);
    assert!(rows().iter().all(|row| all.contains(&row.to_string())), "{all}");
    let some = said(&adit_lab(&["list", "symmetric/udp"])?);
    assert!(some.contains("symmetric/udp/inwards") && !some.contains("full-cone/"), "{some}");
    let none = adit_lab(&["list", "no-such-gateway"])?;
    assert!(!none.status.success() && said(&none).contains("no-such-gateway"));
    Ok(())
}

/// `draw` shows the hosts, and writes a picture.
#[test]
fn draw_draws() -> Outcome {
    let folder = TempDir::new().expect("a folder");
    let picture = folder.path().join("picture.svg");
    let path = picture.display().to_string();
    let output = adit_lab(&["draw", "double-symmetric-port-block", "--svg", &path])?;
    assert!(output.status.success(), "{}", said(&output));
    for shown in ["203.0.113.20", "100.64.0.1", "192.168.50.2", "PortBlock", "Symmetric"] {
        assert!(said(&output).contains(shown), "{shown}: {}", said(&output));
    }
    assert!(fs::read_to_string(picture).expect("a picture").starts_with("<svg"));
    assert!(!adit_lab(&["draw", "nowhere"])?.status.success());
    Ok(())
}

/// `run` plays what it is asked for and writes its report; it succeeds when all pass, and not when one
/// fails, which stands in the report as it was.
#[test]
fn run_reports_what_it_found() -> Outcome {
    let folder = TempDir::new().expect("a folder");
    let (good, bad) = (folder.path().join("good.json"), folder.path().join("bad.json"));
    let rows = ["run", "port-restricted/tcp/inwards", "blocked-icmp-port"];
    let report = |path: &Path| format!("--report={}", path.display());
    let output = adit_lab(&[&rows[..], &[&report(&good)]].concat())?;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("2 passed, 0 failed, 0 skipped"), "{}", said(&output));
    let found = read(&good);
    assert_eq!((&found["passed"], &found["failed"]), (&2.into(), &0.into()), "{found}");
    for fact in ["version", "kernel", "iptables", "date"] {
        assert!(found["machine"][fact].as_str().is_some_and(|fact| !fact.is_empty()), "{found}");
    }

    let rules = folder.path().join("rules.sh");
    fs::write(&rules, "iptables -I FORWARD -p tcp --dport 443 -j DROP\n").expect("a file");
    let rules = format!("--rules={}", rules.display());
    let output = adit_lab(&[&rows[..2], &[&report(&bad), &rules]].concat())?;
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("FAIL"), "{}", said(&output));
    let found = read(&bad);
    assert_eq!((&found["passed"], &found["failed"]), (&0.into(), &1.into()), "{found}");
    assert_eq!(found["rows"][0]["verdict"], "fail");
    assert!(found["machine"]["rules"].as_str().is_some_and(|rules| rules.contains("443")));
    Ok(())
}

fn read(report: &Path) -> serde_json::Value {
    let text = fs::read_to_string(report).expect("a report");
    serde_json::from_str(&text).expect("JSON")
}

/// `shell` runs a command on a host of a lab in which both daemons run, and ends as it does.
#[test]
fn shell_runs_a_command_in_a_lab() -> Outcome {
    let page = adit_lab(&["shell", "symmetric", "--", "curl", "-sS", "http://203.0.113.20:8080/"])?;
    assert!(page.status.success(), "{}", said(&page));
    assert_eq!(String::from_utf8_lossy(&page.stdout), "Hello from the inside.\n");
    let inside =
        ["shell", "v6-routed", "--on", "gw", "--", "sh", "-c", "on ext ip -o addr; exit 7"];
    let addresses = adit_lab(&inside)?;
    assert_eq!(addresses.status.code(), Some(7), "{}", said(&addresses));
    assert!(said(&addresses).contains("2001:db8::10/64"), "{}", said(&addresses));
    Ok(())
}
