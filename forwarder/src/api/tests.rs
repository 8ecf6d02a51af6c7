use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use axum::routing::post;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::*;
use crate::status::Condition;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
enum Input {
    Ask(Ask),
    Double(u32, Reply<u32>),
}

impl From<Ask> for Input {
    fn from(ask: Ask) -> Self {
        Self::Ask(ask)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Doubled {
    number: u32,
}

async fn double(
    State(inbox): State<Inbox<Input>>,
    Json(doubled): Json<Doubled>,
) -> Result<Json<u32>, Refusal> {
    inbox.ask(|reply| Input::Double(doubled.number, reply)).await.map(Json)
}

/// A daemon whose status is empty, and which doubles small numbers.
fn daemon(path: &Path) -> Result<SocketFile, SocketError> {
    let (inbox, mut inputs) = mpsc::channel(4);
    let file = serve(path, inbox, routes().route("/v1/double", post(double)))?;
    thread::spawn(move || {
        while let Some(input) = inputs.blocking_recv() {
            match input {
                Input::Ask(Ask::Status(reply)) => reply.send(Ok("{}".to_owned())),
                Input::Ask(Ask::Condition(reply)) => reply.send(Ok(Condition::default())),
                Input::Double(number, reply) => {
                    let large = || Refusal::new(StatusCode::CONFLICT, "too large");
                    reply.send(number.checked_mul(2).ok_or_else(large));
                }
            }
        }
    });
    Ok(file)
}

fn running() -> (tempfile::TempDir, PathBuf, SocketFile) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub/adit.sock");
    let file = daemon(&path).unwrap();
    (dir, path, file)
}

#[track_caller]
fn refused(answer: Result<String, ClientError>) -> (u16, String) {
    match answer {
        Err(ClientError::Refused { status, text }) => (status.as_u16(), text),
        other => panic!("{other:?}"),
    }
}

/// A daemon that runs keeps its socket.
#[test]
fn a_socket_that_answers_is_not_replaced() {
    let (_dir, path, _file) = running();
    assert!(matches!(daemon(&path), Err(SocketError::Taken(_))));
    assert_eq!(Client::new(&path).get("/v1/status").unwrap(), "{}");
}

/// A daemon that was killed leaves its socket behind, and the next one starts all the same.
#[test]
fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adit.sock");
    drop(UnixListener::bind(&path).unwrap());
    let client = Client::new(&path);
    assert!(matches!(client.get("/v1/status"), Err(ClientError::Unreachable { .. })));
    let file = daemon(&path).unwrap();
    assert_eq!(client.get("/v1/status").unwrap(), "{}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(file);
    assert!(!path.exists());
}

/// What is refused, whoever refuses it, has a status code and says why in `error`.
#[test]
fn refusals_have_a_code_and_a_reason() {
    let (_dir, path, _file) = running();
    let client = Client::new(&path);
    assert_eq!(client.post("/v1/double", &Doubled { number: 21 }).unwrap(), "42");
    let large = refused(client.post("/v1/double", &Doubled { number: u32::MAX }));
    assert_eq!(large, (409, "too large".to_owned()));
    assert_eq!(refused(client.get("/v1/peer")).0, 404);
    assert_eq!(refused(client.delete("/v1/status")).0, 405);
    let (status, text) = refused(client.post("/v1/double", &serde_json::json!({"numbr": 1})));
    assert_eq!(status, 422);
    assert!(text.contains("unknown field `numbr`"), "{text}");
    let (status, _) = refused(client.post("/v1/double", &"x".repeat(64 * 1024)));
    assert_eq!(status, 413);
}

/// Whoever connects and says nothing, or never ends, neither stops the others nor stays for ever.
#[test]
fn silent_connections_do_not_stay() {
    let (_dir, path, _file) = running();
    let mut silent: Vec<_> = (0..100).map(|_| UnixStream::connect(&path).unwrap()).collect();
    silent[0].write_all(b"GET /v1/status HTTP/1.1\r\n").unwrap();
    // Those that there is no room for wait until the first ones are turned out.
    assert_eq!(Client::new(&path).get("/v1/status").unwrap(), "{}");
    for stream in &mut silent {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}

/// A daemon that ends tells those who wait, instead of leaving them.
#[test]
fn an_ending_daemon_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adit.sock");
    let (inbox, inputs) = mpsc::channel::<Input>(1);
    let _file = serve(&path, inbox, routes()).unwrap();
    let waiting = thread::spawn({
        let path = path.clone();
        move || refused(Client::new(&path).get("/v1/status"))
    });
    drop(inputs);
    assert_eq!(waiting.join().unwrap(), (503, "the daemon is ending".to_owned()));
}

/// Asks over the LAN from `source`, and says what is answered: nothing, when it is turned away.
fn ask_over_lan(source: [u8; 4], address: SocketAddr) -> String {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = "POST /v1/double HTTP/1.1\r\nHost: adit\r\nContent-Type: application/json\r\n";
    let mut answer = String::new();
    // Whoever is turned away may find the connection reset.
    stream.write_all(format!("{head}Content-Length: 12\r\n\r\n{{\"number\":4}}").as_bytes()).ok();
    stream.read_to_string(&mut answer).ok();
    answer
}

/// Nobody on the LAN can keep the others out by having many requests under way.
#[test]
fn one_source_has_a_bounded_number_of_connections() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (inbox, mut inputs) = mpsc::channel::<Input>(32);
    serve_lan(address, inbox, routes().route("/v1/double", post(double))).unwrap();
    let (sender, answers) = std::sync::mpsc::channel();
    let ask = |source| {
        let sender = sender.clone();
        thread::spawn(move || sender.send(ask_over_lan(source, address)).unwrap());
    };
    (0..20).for_each(|_| ask([127, 0, 0, 1]));
    for _ in 0..12 {
        assert_eq!(answers.recv_timeout(DEADLINE).unwrap(), "", "turned away");
    }
    ask([127, 0, 0, 2]);
    // Nine are under way: eight of the one source, and that of the other.
    let mut waiting: Vec<_> = (0..9).map(|_| inputs.blocking_recv().unwrap()).collect();
    let Some(Input::Double(4, reply)) = waiting.pop() else { panic!("it was asked to double 4") };
    reply.send(Ok(8));
    let answer = answers.recv_timeout(DEADLINE).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n8"), "{answer}");
    drop(waiting);
    for _ in 0..8 {
        assert!(answers.recv_timeout(DEADLINE).unwrap().starts_with("HTTP/1.1 503"));
    }
}

/// A client of this host may ask again on the same connection.
#[test]
fn a_local_connection_is_kept() {
    let (_dir, path, _file) = running();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: adit\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n{}") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    // Until it is idle for too long.
    stream.read_to_end(&mut Vec::new()).unwrap();
}

/// A daemon whose thread of the data plane is silent is not well, and one whose loop is silent neither; each
/// is said within the time that is promised. A daemon that is well and ready, the control, is said to be so.
#[test]
fn who_does_not_answer_is_not_well() {
    let (_dir, path, _file) = running();
    let client = Client::new(&path);
    for well in ["/v1/health", "/v1/ready"] {
        assert_eq!(client.get(well).unwrap(), r#"{"ok":true}"#);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adit.sock");
    let (inbox, mut inputs) = mpsc::channel(4);
    let _file = serve(&path, inbox, routes::<Input>()).unwrap();
    thread::spawn(move || {
        let Some(Input::Ask(ask)) = inputs.blocking_recv() else { panic!("nobody asks") };
        let up = crate::status::RelayStatus::default();
        Ask::answer(vec![ask], &up, 1);
        // And from now on it keeps what it is asked for.
        let kept: Vec<_> = std::iter::from_fn(|| inputs.blocking_recv()).collect();
        drop(kept);
    });
    let client = Client::new(&path);
    let (status, text) = refused(client.get("/v1/health"));
    assert!(status == 503 && text.contains("1 thread(s) of the data plane"), "{text}");
    let start = std::time::Instant::now();
    let silent = loop {
        let (status, text) = refused(client.get("/v1/ready"));
        assert_eq!(status, 503);
        if text.contains("loop has not answered") {
            break text;
        }
        assert!(start.elapsed() < DEADLINE, "{text}");
        thread::sleep(Duration::from_millis(50));
    };
    assert!(silent.contains("in 2 s"));
}
