//! A relay as a process, and members of its network as pumps of this one.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit::handoff::{
    Arrival, Command, ContactSocket, ControlFrame, Destination, Event, EventReceiver, GoawayReason,
    Listening, Open, PumpHandle, Quota, Replies, Service, SessionKey, Volume, events,
};
use adit::key::{PrivateKey, PublicKey};
use adit::pump;
use adit::sources::Sources;
use adit::tls::{ClientTls, Handshake};
use adit_proto::frame::{Protocol, Refused, Registration};
use adit_proto::id::{ContactId, Side};
use adit_proto::limits::GRACE;
use tempfile::TempDir;

#[path = "../../../forwarder/tests/tunnel/shake.rs"]
mod shake;

use shake::shake;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const SESSION: SessionKey = SessionKey(1);

/// Waits until `take` has something.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut take: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(found) = take() {
            return found;
        }
        thread::yield_now();
    }
    panic!("no {what} within {DEADLINE:?}");
}

/// A port that was free a moment ago. It lies below those that the kernel gives to connections, and no
/// other test of this process is given it: whoever waits for it to listen meets nobody else, himself
/// included.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    let next = || first + NEXT.fetch_add(1, Ordering::Relaxed);
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(next).take(100).find(is_free).unwrap()
}

/// The program `adit-relay`, until it is dropped.
pub(crate) struct Relay {
    dir: TempDir,
    child: Child,
    pub(crate) port: u16,
    key: PublicKey,
}

impl Relay {
    /// Starts one that lets in whoever is in `tables`.
    pub(crate) fn start(tables: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate().unwrap();
        key.save(&dir.path().join("relay.key")).unwrap();
        let port = free_port();
        write(&dir, port, tables);
        let child = program(&dir, &["run", "-c", "relay.toml"]).stderr(Stdio::null()).spawn();
        let relay = Self { dir, child: child.unwrap(), port, key: key.public() };
        wait_for("relay", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        relay
    }

    /// Changes who is let in, and to what; what follows from it comes a moment later.
    pub(crate) fn reload(&self, tables: &str) {
        write(&self.dir, self.port, tables);
        let pid = self.child.id().to_string();
        assert!(Program::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// A connection, and the handshake that it is to have.
    pub(crate) fn call_on(&self, key: &PrivateKey) -> (Handshake, TcpStream) {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let client = ClientTls::new(key, self.key).unwrap();
        (Handshake::client(&client, "localhost").unwrap(), stream)
    }

    fn status(&self) -> serde_json::Value {
        let output =
            program(&self.dir, &["status", "--json", "-c", "relay.toml"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// How often something was refused for `cause`.
    pub(crate) fn refused(&self, cause: &str) -> u64 {
        self.status()["refused"][cause].as_u64().unwrap()
    }

    /// Whether a key has a session with a carrier.
    pub(crate) fn is_connected(&self, name: &str) -> bool {
        self.entry(name)["connected"].as_bool().unwrap()
    }

    /// The flows that are open in the sessions of a key.
    pub(crate) fn flows(&self, name: &str) -> u64 {
        self.entry(name)["flows"].as_u64().unwrap()
    }

    fn entry(&self, name: &str) -> serde_json::Value {
        let status = self.status();
        let all = status["forwarders"].as_array().unwrap();
        all.iter().find(|entry| entry["name"] == name).unwrap().clone()
    }

    /// The contact points of a key, as its peers' names.
    pub(crate) fn contacts(&self, name: &str) -> Vec<String> {
        let entry = self.entry(name);
        let contacts = entry["contacts"].as_array().unwrap();
        contacts.iter().map(|contact| contact["peer"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn write(dir: &TempDir, port: u16, tables: &str) {
    let top = format!(
        "key = \"relay.key\"\nlisten = \"127.0.0.1:{port}\"\ncontact_address = \"127.0.0.1\"\n\
         socket = \"relay.sock\"\nstate = \"state\"\n"
    );
    fs::write(dir.path().join("relay.toml"), top + tables).unwrap();
}

fn program(dir: &TempDir, args: &[&str]) -> Program {
    let mut program = Program::new(PathBuf::from(env!("CARGO_BIN_EXE_adit-relay")));
    program.current_dir(dir.path()).args(args);
    program
}

/// A key of the relay's configuration, and a pump that has its session.
pub(crate) struct Member {
    key: PrivateKey,
    pump: PumpHandle,
    events: EventReceiver,
    contacts: AtomicU32,
}

impl Member {
    pub(crate) fn new() -> Self {
        Self::with_key(PrivateKey::generate().unwrap())
    }

    /// Another process with the same key.
    pub(crate) fn twin(&self) -> Self {
        Self::with_key(self.key.clone())
    }

    fn with_key(key: PrivateKey) -> Self {
        let (sender, events) = events().unwrap();
        let pump = pump::spawn(pump::probe().unwrap(), sender).unwrap();
        Self { key, pump, events, contacts: AtomicU32::new(0) }
    }

    /// Its table in the relay's configuration.
    pub(crate) fn table(&self, role: &str, name: &str, lists: &str) -> String {
        format!("[[{role}]]\nname = \"{name}\"\nkey = \"{}\"\n{lists}\n", self.key.public())
    }

    /// Brings the tunnel up; returns its own end's address.
    pub(crate) fn join(&self, relay: &Relay) -> SocketAddr {
        let (handshake, stream) = relay.call_on(&self.key);
        let own = stream.local_addr().unwrap();
        let carrier = Box::new(shake(handshake, stream));
        let (session, side, key) = (SESSION, Side::Forwarder, relay.key);
        let (name, grace, sessions_max) = ("relay".into(), GRACE, 1);
        let (quota, volume, has_path) = (Quota::default(), Volume::default(), true);
        let arrival = Arrival { session, key, name, grace, sessions_max, quota, volume, has_path };
        self.pump.send(Command::Carry { side, arrival, carrier }).unwrap();
        self.wait_for("Up", |event| matches!(event, Event::Up { .. }).then_some(()));
        own
    }

    /// Ends the session, as a daemon that ends does.
    pub(crate) fn leave(&self) {
        let (reason, why) = (GoawayReason::Ending, "it leaves".to_owned());
        self.pump.send(Command::Close { session: SESSION, reason, why }).unwrap();
        self.wait_for("Down", |event| matches!(event, Event::Down { .. }).then_some(()));
    }

    /// Waits until the connections so far have been opened as flows.
    pub(crate) fn wait_until_opened(&self) {
        wait_for("flow", || {
            self.pump.send(Command::Report(Default::default())).unwrap();
            self.wait_for("Report", |event| match event {
                Event::Report(report) => Some((report.sessions[0].flows > 0).then_some(())),
                _ => None,
            })
        });
    }

    pub(crate) fn wait_for<T>(&self, what: &str, take: impl Fn(Event) -> Option<T>) -> T {
        wait_for(what, || self.events.poll_event().and_then(&take))
    }

    fn next_contact(&self) -> ContactId {
        ContactId(self.contacts.fetch_add(1, Ordering::Relaxed))
    }

    /// Registers `service`; port 0 asks for a private name.
    pub(crate) fn register(
        &self,
        name: &str,
        port: u16,
        service: Service,
    ) -> Result<String, Refused> {
        let (session, contact, peer) = (SESSION, self.next_contact(), name.into());
        self.pump.send(Command::Serve { session, contact, peer, service }).unwrap();
        let asked = Registration { protocol: Protocol::Tcp, port, name: name.into() };
        let frame = ControlFrame::Register(contact, asked);
        self.pump.send(Command::Send { session, frame }).unwrap();
        self.wait_for("answer to REGISTER", |event| match event {
            Event::Frame { frame: ControlFrame::Registered(id, registered), .. }
                if id == contact =>
            {
                Some(Ok(registered.address))
            }
            Event::Frame { frame: ControlFrame::Refused(id, refused), .. } if id == contact => {
                Some(Err(refused))
            }
            _ => None,
        })
    }

    /// What the relay says when it takes something back.
    pub(crate) fn wait_refused(&self) -> Refused {
        self.wait_for("REFUSED", |event| match event {
            Event::Frame { frame: ControlFrame::Refused(_, refused), .. } => Some(refused),
            _ => None,
        })
    }

    /// A connection whose flow leads to `to`.
    pub(crate) fn open(&self, to: Destination) -> TcpStream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let (session, contact, peer) = (SESSION, self.next_contact(), "inside".into());
        let sources = Arc::new(Sources::any());
        let listen = Command::Listen {
            session,
            contact,
            peer,
            socket: ContactSocket::Tcp(listener),
            to,
            sources,
        };
        self.pump.send(listen).unwrap();
        stream
    }

    /// Why a flow that leads to `to` is refused.
    pub(crate) fn refusal(&self, to: Destination) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let (far, source) = listener.accept().unwrap();
        let (session, contact, peer) = (SESSION, self.next_contact(), "inside".into());
        let refused = |reason| format!("{reason:?}\n").into_bytes();
        let listening = Some(Listening::Caller(Replies::new(b"accepted\n".to_vec(), refused)));
        let (open, far) = (Open { contact, source, protocol: Protocol::Tcp, to }, far.into());
        self.pump.send(Command::Open { session, open, peer, stream: far, listening }).unwrap();
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn call(&self, name: &str) -> TcpStream {
        self.open(Destination::Name(name.into()))
    }

    pub(crate) fn dial(&self, address: impl Into<String>) -> TcpStream {
        self.open(Destination::Address(address.into()))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.pump.send(Command::Stop).ok();
    }
}

/// A server on loopback that sends back what it hears.
pub(crate) fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                std::io::copy(&mut reader, &mut stream).ok();
                stream.shutdown(Shutdown::Write).ok();
            });
        }
    });
    address
}

/// What everybody may reach.
pub(crate) fn echo_service() -> Service {
    let (sources, quota) = (Arc::new(Sources::any()), Quota::default());
    Service { target: echo_server().into(), sources, proxy: None, quota }
}

/// Whether `stream` leads to an echo.
pub(crate) fn echoes(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    let mut received = vec![0; bytes.len()];
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(bytes).ok());
        stream.read_exact(&mut received).is_ok() && received == bytes
    })
}

#[track_caller]
pub(crate) fn is_reset(mut stream: TcpStream) -> bool {
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}
