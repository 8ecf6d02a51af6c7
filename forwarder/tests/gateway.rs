//! The gateway interface on the real kernel: a relay among addresses that are not the relay.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit::config::{Place, Places};
use adit::gateway::{DialError, Ended, Gateway};
use adit::handoff::Carrier;
use adit::key::{PrivateKey, PublicKey};
use adit::net::{self, Listener, Stream};
use adit::tls::{Handshake, ServerTls, Trust};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

struct TrustAll;

impl Trust for TrustAll {
    fn accepts(&self, _: &PublicKey) -> bool {
        true
    }
}

/// A relay that does handshakes and no more, until the runtime ends.
fn relay(key: &PrivateKey) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let tls = ServerTls::new(key, Arc::new(TrustAll)).unwrap();
    let listener = Listener::bind(address, false).unwrap();
    net::spawn(async move {
        let mut carriers = Vec::new();
        while let Ok(stream) = listener.accept().await {
            let shaken = net::shake_hands(stream, Handshake::server(&tls).unwrap()).await;
            carriers.extend(shaken.ok());
        }
    });
    address
}

/// Accepts, as a captive portal does, and says nothing.
fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn gateway(addresses: &[SocketAddr], relay: PublicKey) -> Gateway {
    let place = |at: &SocketAddr| Place { host: at.ip().to_string(), port: at.port() };
    let places = Places::from(addresses.iter().map(place).collect::<Vec<_>>());
    Gateway::new(places, &PrivateKey::generate().unwrap(), relay).unwrap()
}

async fn dial(gateway: &Gateway) -> Result<Carrier, DialError> {
    timeout(DEADLINE, gateway.dial()).await.unwrap()
}

/// Neither who refuses, nor who says nothing, nor another relay keeps the forwarder from its own.
#[test]
fn relay_is_found_among_strangers() {
    net::run(async {
        let key = PrivateKey::generate().unwrap();
        let (gone, refusing) = silent();
        drop(gone);
        let (_open, mute) = silent();
        let other = relay(&PrivateKey::generate().unwrap());
        let wanted = relay(&key);
        let gateway = gateway(&[refusing, other, mute, wanted], key.public());
        let started = Instant::now();
        assert_eq!(dial(&gateway).await.unwrap().remote, wanted);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        // The next attempt remembers who was of no use, and leaves them for later.
        let started = Instant::now();
        assert_eq!(dial(&gateway).await.unwrap().remote, wanted);
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    });
}

/// Another relay's key is told from a relay that is out of reach, and both are named.
#[test]
fn every_address_has_its_reason() {
    net::run(async {
        let (gone, refusing) = silent();
        drop(gone);
        let (expected, found) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let other = relay(&found);
        let error = dial(&gateway(&[other], expected.public())).await.unwrap_err();
        assert_eq!(error.ended(), Ended::Denied);
        let error = dial(&gateway(&[refusing, other], expected.public())).await.unwrap_err();
        assert_eq!(error.ended(), Ended::Failed);
        let text = error.to_string();
        assert!(text.contains(&format!("cannot connect to {refusing}: ")), "{text}");
        assert!(text.contains(&found.public().to_string()), "{text}");
    });
}

/// An attempt that is given up leaves no connection behind, neither half open nor open.
#[test]
fn what_does_not_win_is_closed() {
    net::run(async {
        let (listener, mute) = silent();
        let gateway = gateway(&[mute], PrivateKey::generate().unwrap().public());
        let given_up = timeout(Duration::from_millis(100), gateway.dial()).await;
        assert!(given_up.is_err(), "nobody answered");
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.set_read_timeout(Some(DEADLINE)).unwrap();
        // A greeting, and then the end.
        std::io::Read::read_to_end(&mut accepted, &mut Vec::new()).unwrap();

        let _full = fill(&listener).await;
        let attempt = Stream::connect(mute, Duration::from_millis(100)).await;
        assert_eq!(attempt.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        assert_eq!(half_open(mute), 0);
    });
}

/// Fills the queue of `listener`, so that the kernel answers no further `SYN`.
async fn fill(listener: &TcpListener) -> Vec<Stream> {
    socket2::SockRef::from(listener).listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut streams = Vec::new();
    while let Ok(stream) = Stream::connect(address, Duration::from_millis(200)).await {
        streams.push(stream);
    }
    streams
}

/// How many sockets have sent a `SYN` to `address` and wait for its answer.
fn half_open(address: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let remote = format!(":{:04X} 02 ", address.port());
    table.lines().filter(|line| line.contains(&remote)).count()
}
