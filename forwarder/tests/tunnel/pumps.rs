//! Two pumps and real carriers between them, over loopback, in one process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use adit::handoff::{
    Arrival, Carrier, Command, ContactSocket, Destination, Down, Event, EventReceiver, PumpHandle,
    Quota, Report, Service, SessionKey, Target, Volume, events,
};
use adit::key::{PrivateKey, PublicKey};
use adit::pump;
use adit::sources::Sources;
use adit::tls::{ClientTls, Handshake, ServerTls, Trust};
use adit_proto::id::{ContactId, SessionId, Side};
use adit_proto::limits::GRACE;

mod shake;

use shake::shake;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const SESSION: SessionKey = SessionKey(1);
pub(crate) const CONTACT: ContactId = ContactId(5);

#[derive(Debug)]
struct TrustAll;

impl Trust for TrustAll {
    fn accepts(&self, _: &PublicKey) -> bool {
        true
    }
}

/// A carrier's two ends, the forwarder's and the relay's, and a hand on the connection to cut it.
pub(crate) fn carriers() -> (Carrier, Carrier, TcpStream) {
    let (relay_key, key) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let server = ServerTls::new(&relay_key, Arc::new(TrustAll)).unwrap();
    let client = ClientTls::new(&key, relay_key.public()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let cut = stream.try_clone().unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let relay = thread::spawn(move || shake(Handshake::server(&server).unwrap(), accepted));
    let forwarder = shake(Handshake::client(&client, "localhost").unwrap(), stream);
    (forwarder, relay.join().unwrap(), cut)
}

/// A daemon's pump and its events.
pub(crate) struct End {
    pub(crate) pump: PumpHandle,
    events: EventReceiver,
    pub(crate) side: Side,
    /// Whom the sessions of this end are with.
    pub(crate) key: PublicKey,
    pub(crate) grace: Duration,
    /// At the relay: how many sessions a key may have.
    pub(crate) sessions_max: usize,
    /// The session's wire name, once it is up.
    id: OnceLock<SessionId>,
}

impl End {
    pub(crate) fn new(side: Side) -> Self {
        let (sender, receiver) = events().unwrap();
        let pump = pump::spawn(pump::probe().unwrap(), sender).unwrap();
        let key = PrivateKey::generate().unwrap().public();
        let (grace, id) = (GRACE, OnceLock::new());
        Self { pump, events: receiver, side, key, grace, sessions_max: 1, id }
    }

    pub(crate) fn carry(&self, session: SessionKey, carrier: Carrier) {
        self.carry_of(self.key, session, carrier);
    }

    /// Brings a carrier of the owner of `key`.
    pub(crate) fn carry_of(&self, key: PublicKey, session: SessionKey, carrier: Carrier) {
        let (side, carrier) = (self.side, Box::new(carrier));
        let (name, grace, sessions_max) = ("test".into(), self.grace, self.sessions_max);
        let (quota, volume, has_path) = (Quota::default(), Volume::default(), true);
        let arrival = Arrival { session, key, name, grace, sessions_max, quota, volume, has_path };
        self.pump.send(Command::Carry { side, arrival, carrier }).unwrap();
    }

    /// Opens connections to `listener` as flows to `to`.
    pub(crate) fn listen(&self, listener: TcpListener, to: Destination, sources: Sources) {
        self.listen_at(CONTACT, listener, to, sources);
    }

    /// The same for another contact point.
    pub(crate) fn listen_at(
        &self,
        contact: ContactId,
        listener: TcpListener,
        to: Destination,
        sources: Sources,
    ) {
        let (session, peer, sources) = (SESSION, "peer".into(), Arc::new(sources));
        let listen = Command::Listen {
            session,
            contact,
            peer,
            socket: ContactSocket::Tcp(listener),
            to,
            sources,
        };
        self.pump.send(listen).unwrap();
    }

    pub(crate) fn wait_for<T>(&self, what: &str, mut take: impl FnMut(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            match self.events.poll_event() {
                Some(event) => {
                    if let Some(found) = take(event) {
                        return found;
                    }
                }
                None => thread::yield_now(),
            }
        }
        panic!("no {what} within {DEADLINE:?}");
    }

    /// Whether the session was resumed.
    pub(crate) fn wait_until_up(&self) -> bool {
        self.wait_for("Up", |event| match event {
            Event::Up { is_resumed, id, .. } => {
                self.id.get_or_init(|| id);
                Some(is_resumed)
            }
            _ => None,
        })
    }

    /// The first session's wire name.
    pub(crate) fn id(&self) -> Option<SessionId> {
        self.id.get().copied()
    }

    pub(crate) fn wait_until_lost(&self) -> Down {
        self.wait_for("Lost", |event| match event {
            Event::Lost { why, .. } => Some(why),
            _ => None,
        })
    }

    pub(crate) fn wait_until_down(&self) -> Down {
        self.wait_for("Down", |event| match event {
            Event::Down { why, .. } => Some(why),
            _ => None,
        })
    }

    pub(crate) fn wait_until_dropped(&self) -> Down {
        self.wait_for("Dropped", |event| match event {
            Event::Dropped { why, .. } => Some(why),
            _ => None,
        })
    }

    /// Commands are taken in order: once this is answered, so are the earlier ones.
    pub(crate) fn report(&self) -> Report {
        self.pump.send(Command::Report(Default::default())).unwrap();
        self.wait_for("Report", |event| match event {
            Event::Report(report) => Some(report),
            _ => None,
        })
    }
}

pub(crate) struct Tunnel {
    pub(crate) relay: End,
    pub(crate) forwarder: End,
    /// Where external peers connect.
    pub(crate) contact: SocketAddr,
    /// The present carrier.
    pub(crate) cut: TcpStream,
    carriers: u64,
}

/// A tunnel that leads to `target`.
pub(crate) fn tunnel(target: SocketAddr) -> Tunnel {
    tunnel_with(target, GRACE)
}

/// A tunnel that leads to `target`, with the relay's grace.
pub(crate) fn tunnel_with(target: SocketAddr, grace: Duration) -> Tunnel {
    tunnel_over(carriers(), target, grace)
}

/// The same over this carrier.
pub(crate) fn tunnel_over(
    (for_forwarder, for_relay, cut): (Carrier, Carrier, TcpStream),
    target: SocketAddr,
    grace: Duration,
) -> Tunnel {
    let (forwarder, mut relay) = (End::new(Side::Forwarder), End::new(Side::Relay));
    relay.grace = grace;
    forwarder.carry(SESSION, for_forwarder);
    relay.carry(SESSION, for_relay);
    assert!(!forwarder.wait_until_up());
    assert!(!relay.wait_until_up());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let contact = listener.local_addr().unwrap();
    let tunnel = Tunnel::over(relay, forwarder, contact, cut);
    tunnel.serve(target);
    tunnel.relay.listen(listener, Destination::Contact, Sources::any());
    tunnel
}

/// What everybody may reach at `target`.
pub(crate) fn service(target: impl Into<Target>) -> Service {
    let (sources, quota) = (Arc::new(Sources::any()), Quota::default());
    Service { target: target.into(), sources, proxy: None, quota }
}

impl Tunnel {
    /// What is up already; `contact` is where external peers come.
    pub(crate) fn over(relay: End, forwarder: End, contact: SocketAddr, cut: TcpStream) -> Self {
        Self { relay, forwarder, contact, cut, carriers: 1 }
    }

    /// Leads the contact point to `target`.
    pub(crate) fn serve(&self, target: SocketAddr) {
        self.serve_at(CONTACT, service(target));
    }

    /// Leads a contact point to `service`.
    pub(crate) fn serve_at(&self, contact: ContactId, service: Service) {
        let (session, peer) = (SESSION, "peer".into());
        let serve = Command::Serve { session, contact, peer, service };
        self.forwarder.pump.send(serve).unwrap();
        self.forwarder.report();
    }

    /// Brings another carrier, as the gateway interface would; both ends learn of it.
    pub(crate) fn carry(&mut self) {
        let (for_forwarder, for_relay, cut) = carriers();
        self.carriers += 1;
        self.cut = cut;
        self.relay.carry(SessionKey(self.carriers), for_relay);
        self.forwarder.carry(SESSION, for_forwarder);
    }

    /// Cuts the present carrier; both ends notice.
    pub(crate) fn cut(&self) {
        self.cut.shutdown(Shutdown::Both).unwrap();
    }
}

/// An internal peer that handles each connection with `handle`.
pub(crate) fn internal_peer(handle: impl Fn(TcpStream) + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let handle = handle.clone();
            thread::spawn(move || handle(stream.unwrap()));
        }
    });
    address
}

pub(crate) fn echo(mut stream: TcpStream) {
    let mut reader = stream.try_clone().unwrap();
    std::io::copy(&mut reader, &mut stream).ok();
    stream.shutdown(Shutdown::Write).ok();
}

pub(crate) fn connect(tunnel: &Tunnel) -> TcpStream {
    let stream = TcpStream::connect(tunnel.contact).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

pub(crate) fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from((n * 7 + seed) % 251).unwrap()).collect()
}

/// Writes `bytes` and reads as many back; both at once, so that no buffer has to hold them.
pub(crate) fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    let mut received = vec![0; bytes.len()];
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(bytes).unwrap());
        stream.read_exact(&mut received).unwrap();
    });
    received
}
