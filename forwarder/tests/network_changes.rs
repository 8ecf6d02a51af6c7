//! Changes of the network, in a network namespace of the test's own.
//!
//! Each test runs itself again under `unshare`, where it may change what it likes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::process::Command;
use std::time::Duration;

use adit::net::{self, NetworkChanged, forward_network_changes};
use tokio::sync::mpsc;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);
/// Far longer than a burst, and than any change takes to be told of.
const SILENCE: Duration = Duration::from_millis(700);
const INSIDE: &str = "ADIT_TEST_NAMESPACE";

/// Whether this is the namespace; otherwise the test `name` has just run in one, and passed.
fn is_inside(name: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}\n{why}");
    false
}

/// Runs `ip` with the words of each line, one process for all, so that it is one burst.
fn ip(lines: &str) {
    use std::io::Write;
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "{lines}");
}

struct Changes(mpsc::Receiver<NetworkChanged>);

impl Changes {
    /// Begins to listen, when the links have settled.
    async fn begin() -> Self {
        let (inbox, mut changes) = mpsc::channel(16);
        forward_network_changes(&inbox).unwrap();
        let settled = async { while timeout(SILENCE, changes.recv()).await.is_ok() {} };
        timeout(DEADLINE, settled).await.unwrap();
        Self(changes)
    }

    /// Does what the lines say; expects to hear of it once.
    async fn expect_one(&mut self, lines: &str) {
        ip(lines);
        let told = timeout(DEADLINE, self.0.recv()).await;
        assert_eq!(told.unwrap(), Some(NetworkChanged), "{lines}");
        self.expect_silence(lines).await;
    }

    async fn expect_none(&mut self, lines: &str) {
        ip(lines);
        self.expect_silence(lines).await;
    }

    async fn expect_silence(&mut self, after: &str) {
        let told = timeout(SILENCE, self.0.recv()).await;
        assert!(told.is_err(), "told of once more after: {after}");
    }
}

const PREPARE: &str = "link add up0 type veth peer name far0\nlink set far0 up\nlink set up0 up\n\
                       address add 192.0.2.1/24 dev up0\n\
                       address add 2001:db8::1/64 dev up0 nodad valid_lft 600 preferred_lft 600\n";

/// What a tunnel could notice is told of once, however many messages the kernel has for it.
#[test]
fn each_burst_is_one_change() {
    if !is_inside("each_burst_is_one_change") {
        return;
    }
    ip(PREPARE);
    net::run(async {
        let mut changes = Changes::begin().await;
        changes.expect_one("address add 192.0.2.2/24 dev up0\n").await;
        changes.expect_one("address delete 192.0.2.2/24 dev up0\n").await;
        changes.expect_one("address add 2001:db8::2/64 dev up0 nodad\n").await;
        changes.expect_one("route add default via 192.0.2.254\n").await;
        changes.expect_one("route replace default via 192.0.2.253\n").await;
        changes.expect_one("route replace default via 192.0.2.254\n").await;
        changes.expect_one("route delete default\n").await;
        changes.expect_one("route add default via 192.0.2.254\n").await;
        changes.expect_one("link set up0 down\n").await;
        changes.expect_one("link set up0 up\n").await;
        // The kernel has dropped it with the link, without a word.
        changes.expect_one("route add default via 192.0.2.254\n").await;
        changes.expect_one("link delete up0\n").await;
    });
}

/// What a tunnel cannot notice is not told of.
#[test]
fn noise_is_not_a_change() {
    if !is_inside("noise_is_not_a_change") {
        return;
    }
    ip(PREPARE);
    net::run(async {
        let mut changes = Changes::begin().await;
        changes.expect_none("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev up0\n").await;
        changes.expect_none("route add 198.51.100.0/24 via 192.0.2.254 table 77\n").await;
        changes.expect_none("link set up0 alias upstream\nlink set up0 txqueuelen 99\n").await;
        changes.expect_none("link add idle0 type veth peer name idle1\n").await;
        let longer = "address change 2001:db8::1/64 dev up0 valid_lft 1200 preferred_lft 1200\n";
        changes.expect_none(longer).await;
        changes.expect_none("address add fe80::77/64 dev up0 nodad\n").await;
        let route = "route replace 2001:db8:77::/48 via 2001:db8::ff expires";
        changes.expect_one(&format!("{route} 100\n")).await;
        changes.expect_none(&format!("{route} 300\n")).await;
        std::fs::write("/proc/sys/net/ipv4/conf/up0/rp_filter", "2").unwrap();
        changes.expect_silence("a setting").await;
    });
}

/// A storm is a handful of changes, and the last of it is not lost.
#[test]
fn storm_is_a_few_changes_a_second() {
    if !is_inside("storm_is_a_few_changes_a_second") {
        return;
    }
    ip(PREPARE);
    net::run(async {
        let mut changes = Changes::begin().await;
        let route = |index: u32| {
            format!("route add 10.{}.{}.0/24 via 192.0.2.254\n", index / 256, index % 256)
        };
        let started = std::time::Instant::now();
        ip(&(0..20_000).map(route).collect::<String>());
        let mut told = 0;
        while timeout(SILENCE, changes.0.recv()).await.is_ok() {
            told += 1;
        }
        let seconds = started.elapsed().as_secs_f64();
        assert!(told >= 1 && f64::from(told) <= 5.0 * seconds + 1.0, "{told} in {seconds} s");
        changes.expect_one("route add 172.16.0.0/12 via 192.0.2.254\n").await;
    });
}
