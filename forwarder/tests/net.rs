//! The control plane's sockets on the real kernel.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use adit::net::{self, Listener, Stream, stop_listening};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);

fn loopback() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A silent peer keeps no connection open: a read that was given up ends with its stream.
#[test]
fn dropping_a_stream_closes_it_under_a_pending_read() {
    let (listener, address) = loopback();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.read(&mut [0; 1]).map_err(|error| error.kind())
    });
    net::run(async {
        let stream = Stream::connect(address, DEADLINE).await.unwrap();
        let read = timeout(Duration::from_millis(50), stream.read(vec![0; 16])).await;
        assert!(read.is_err(), "nothing was sent");
        drop(stream);
        let seen = async {
            while !peer.is_finished() {
                tokio::task::yield_now().await
            }
        };
        timeout(DEADLINE, seen).await.unwrap();
    });
    assert_eq!(peer.join().unwrap(), Ok(0));
}

/// What was read of a connection before the stream was made of it is read first, however much fits.
#[test]
fn what_was_read_early_is_read_first() {
    let (listener, address) = loopback();
    net::run(async {
        let plain = net::connect(address, None, None, DEADLINE).await.unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        theirs.write_all(b"late").unwrap();
        let stream = Stream::from_tokio(plain, address, b"early".to_vec()).unwrap();
        let mut read = Vec::new();
        while read.len() < 9 {
            let (len, buffer) = timeout(DEADLINE, stream.read(vec![0; 2])).await.unwrap();
            read.extend_from_slice(&buffer[..len.unwrap()]);
        }
        assert_eq!(read, b"earlylate");
    });
}

/// The descriptor that goes to a pump is the connection, whole and still open.
#[test]
fn a_descriptor_that_is_given_up_stays_connected() {
    let (listener, address) = loopback();
    let descriptor: OwnedFd = net::run(async {
        let stream = Stream::connect(address, DEADLINE).await.unwrap();
        assert_eq!(stream.remote(), address);
        stream.write_all(b"one".to_vec()).await.unwrap();
        stream.into_fd().unwrap()
    });
    let mut ours = TcpStream::from(descriptor);
    net::prepare_carrier(&ours.try_clone().unwrap().into()).unwrap();
    ours.write_all(b"two").unwrap();
    drop(ours);
    let (mut theirs, _) = listener.accept().unwrap();
    theirs.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut received = Vec::new();
    theirs.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"onetwo");
}

/// Stopping ends a pending accept, and gives the port to the next one at once.
#[test]
fn a_stopped_listener_leaves_its_port() {
    let (listener, address) = loopback();
    drop(listener);
    net::run(async {
        let listener = Listener::bind(address, false).unwrap();
        assert_eq!(net::bind(address, 1, false).unwrap_err().kind(), ErrorKind::AddrInUse);
        let handle = listener.handle().unwrap();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        net::spawn(async move {
            let accepted = listener.accept().await;
            sender.send(accepted.map(|_| ()).map_err(|error| error.kind())).unwrap();
        });
        tokio::task::yield_now().await;
        stop_listening(&handle);
        let ended = timeout(DEADLINE, receiver).await.unwrap().unwrap();
        assert_eq!(ended, Err(ErrorKind::InvalidInput));
        net::bind(address, 1, false).unwrap();
    });
}

/// Nobody answers, or nobody is there: both are errors in time.
#[test]
fn connecting_to_nobody_fails() {
    let (listener, address) = loopback();
    drop(listener);
    net::run(async {
        let error = Stream::connect(address, DEADLINE).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

/// No event is lost between a pump's thread and the inbox, though the inbox is small and some
/// events came before anybody looked.
#[test]
fn every_event_of_a_pump_arrives() {
    use adit::handoff::{Command, Event, events};
    const REPORTS: usize = 1_000;
    let (sender, receiver) = events().unwrap();
    let pump = adit::pump::spawn(adit::pump::probe().unwrap(), sender).unwrap();
    net::run(async {
        for _ in 0..REPORTS {
            pump.send(Command::Report(Default::default())).unwrap();
        }
        let (inbox, mut inputs) = tokio::sync::mpsc::channel::<Event>(4);
        net::forward_events(receiver, inbox).unwrap();
        for _ in 0..REPORTS {
            let event = timeout(DEADLINE, inputs.recv()).await.unwrap();
            assert!(matches!(event, Some(Event::Report(_))));
        }
    });
    pump.send(Command::Stop).unwrap();
}
