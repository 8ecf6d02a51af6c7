//! The local API of a running forwarder, from outside: over its socket and over the LAN.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use adit::api::{Client, ClientError, NewPeer, hash};
use adit::status::PeerStatus;

const DEADLINE: Duration = Duration::from_secs(30);
const TOKEN: &str = "adit-token-of-the-printer";

/// A forwarder without a relay, which is all that can be had in one process.
struct Forwarder {
    dir: tempfile::TempDir,
    child: Child,
    lan: SocketAddr,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Forwarder {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let adit = env!("CARGO_BIN_EXE_adit");
        let keygen = Command::new(adit).current_dir(dir.path()).arg("keygen").output().unwrap();
        let key = String::from_utf8(keygen.stdout).unwrap();
        let lan = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "key = \"adit.key\"\nrelay = \"127.0.0.1:9\"\nrelay_key = \"{}\"\nsocket = \"adit.sock\"\n\
             [api]\nlisten = \"{lan}\"\n\
             [[token]]\npeer = \"printer\"\nsha256 = \"{}\"\ncontacts = \"8000-8010\"\n\
             [[peer]]\nname = \"web\"\ntcp = \"192.168.50.3:80\"\ncontact = \"public:8080\"\n",
            key.trim(),
            hash(TOKEN)
        );
        fs::write(dir.path().join("adit.toml"), config).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new(adit)
            .current_dir(dir.path())
            .args(["run", "-c", "adit.toml", "--log-level", "trace"])
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let forwarder = Self { dir, child, lan };
        let until = Instant::now() + DEADLINE;
        // A port that nobody listens on yet may connect to itself, when it is the next one that is free.
        let is_served =
            || TcpStream::connect(lan).is_ok_and(|stream| stream.local_addr().unwrap() != lan);
        while !is_served() {
            assert!(Instant::now() < until, "{}", forwarder.log());
            std::thread::yield_now();
        }
        forwarder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Asks over the LAN; returns the status code and the answer.
    fn ask(&self, request: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.lan).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let token =
            token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let len = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: adit\r\n{token}Content-Type: application/json\r\n\
             Content-Length: {len}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let code = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
        (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

fn peers(socket: &Path) -> Vec<PeerStatus> {
    serde_json::from_str(&Client::new(socket).get("/v1/peers").unwrap()).unwrap()
}

/// A token opens its own peer's door and no other; no token opens none.
#[test]
fn the_lan_is_let_in_by_token_alone() {
    let forwarder = Forwarder::start();
    let peer = |name: &str, ip: &str, port: u16| {
        format!("{{\"name\":\"{name}\",\"tcp\":\"{ip}:80\",\"contact\":\"public:{port}\"}}")
    };
    let own = peer("printer", "127.0.0.1", 8000);
    let cases = [
        ("GET /v1/peers", None, "", 401),
        ("GET /v1/peers", Some("adit-token-of-the-printeR"), "", 401),
        ("POST /v1/peers", None, own.as_str(), 401),
        ("DELETE /v1/peers/printer", None, "", 401),
        ("GET /v1/status", Some(TOKEN), "", 403),
        ("POST /v1/peers", Some(TOKEN), &peer("web", "127.0.0.1", 8000), 403),
        ("POST /v1/peers", Some(TOKEN), &peer("printer", "127.0.0.2", 8000), 403),
        ("POST /v1/peers", Some(TOKEN), &peer("printer", "127.0.0.1", 8080), 403),
        ("POST /v1/peers/web/renew", Some(TOKEN), "{}", 403),
        ("DELETE /v1/peers/web", Some(TOKEN), "", 403),
        ("DELETE /v1/peers/printer", Some(TOKEN), "", 404),
        ("POST /v1/peers", Some(TOKEN), "{", 400),
        // There is no tunnel, and there will be none.
        ("POST /v1/peers", Some(TOKEN), own.as_str(), 503),
    ];
    for (request, token, body, expected) in cases {
        let (code, answer) = forwarder.ask(request, token, body);
        assert_eq!(code, expected, "{request} {body}: {answer}");
        assert!(answer.starts_with("{\"error\":"), "{answer}");
    }
    let shown = forwarder.ask("GET /v1/peers", Some(TOKEN), "");
    assert_eq!(shown, (200, "[]".to_owned()), "other peers are none of its business");
    assert!(!forwarder.log().contains(TOKEN), "the token is in the log");
}

/// Without a tunnel nothing is registered, and that is said in time.
#[test]
fn a_registration_without_a_tunnel_is_refused_in_words() {
    let forwarder = Forwarder::start();
    let socket = forwarder.path("adit.sock");
    let tcp = Some("192.168.50.4:22".to_owned());
    let peer = NewPeer { name: "ssh".to_owned(), tcp, ..NewPeer::default() };
    let error = Client::new(&socket).post("/v1/peers", &peer).unwrap_err();
    let is_refused =
        matches!(&error, ClientError::Refused { status, .. } if status.as_u16() == 503);
    assert!(is_refused, "{error:?}");
    assert!(error.to_string().contains("no tunnel to the relay"), "{error}");
    let names: Vec<_> = peers(&socket).into_iter().map(|peer| peer.name).collect();
    assert_eq!(names, ["web"]);
}
