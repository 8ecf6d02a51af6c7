//! What the running kernel offers, found by trying.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, Probe, opcode};

use crate::completion::{Completion, Token};
use crate::pool::Layout;
use crate::refusal::Refusal;
use crate::ring::Ring;
use crate::socket::Socket;

/// What the running kernel offers beyond the floor, Linux 6.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// One receive may fill several buffers, and they come in order (6.10; some 6.13 and 6.14
    /// kernels mix them up, which is why it is tried and not looked up).
    pub bundles: bool,
}

/// Bytes that the self-test of bundles carries.
const TEST_BYTES: usize = 1 << 20;
const TEST_MAX: Duration = Duration::from_secs(5);

/// Tries a ring, the operations that the data plane is built on, and bundles.
///
/// # Errors
/// When io_uring cannot be used here, with the cure.
pub fn probe() -> Result<Features, Refusal> {
    // A ring belongs to its thread; this one is gone with it.
    let probing = thread::Builder::new().name("probe".into()).spawn(|| {
        check_operations()?;
        // Without bundles it must work in any case: that is the floor.
        if !carries_in_order(Features { bundles: false })? {
            return Err(Refusal::kernel("provided buffers that work"));
        }
        let with_bundles = Features { bundles: true };
        Ok(Features { bundles: offers_bundles() && carries_in_order(with_bundles)? })
    });
    let probing = probing.map_err(Refusal::Other)?;
    probing.join().unwrap_or_else(|_| Err(Refusal::Other(io::ErrorKind::Other.into())))
}

fn check_operations() -> Result<(), Refusal> {
    let ring = IoUring::new(8).map_err(Refusal::from_setup)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(Refusal::from_setup)?;
    let needed = [
        (opcode::AcceptMulti::CODE, "accept"),
        (opcode::Connect::CODE, "connect"),
        (opcode::Recv::CODE, "receive"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::PollAdd::CODE, "poll"),
        (opcode::AsyncCancel2::CODE, "cancel"),
    ];
    match needed.into_iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(Refusal::kernel(name)),
        None => Ok(()),
    }
}

fn offers_bundles() -> bool {
    IoUring::new(8).is_ok_and(|ring| ring.params().is_feature_recvsend_bundle())
}

/// Whether every byte of a stream arrives in order through bundles.
fn carries_in_order(features: Features) -> Result<bool, Refusal> {
    let (mut writer, reader) = pair()?;
    let writing = thread::spawn(move || writer.write_all(&pattern(TEST_BYTES)));
    let mut ring = Ring::new(features)?;
    let layout = Layout { headroom: 8, payload: 4096, tailroom: 8, buffers: 64, published: 16 };
    let group = ring.add_group(layout)?;
    let deadline = Instant::now() + TEST_MAX;
    let mut received = Vec::with_capacity(TEST_BYTES);
    ring.recv(&reader, group, 8, Token(0));
    while received.len() < TEST_BYTES && Instant::now() < deadline {
        ring.submit_and_wait(Some(Duration::from_millis(100)))?;
        while let Some((_, completion)) = ring.next_completion() {
            let Completion::Received(result) = completion else { continue };
            for buffer in result.iter().flatten() {
                received.extend_from_slice(&buffer.bytes()[buffer.payload()]);
            }
            ring.recv(&reader, group, 8, Token(0));
        }
    }
    reader.shutdown_both().ok();
    writing.join().ok();
    Ok(received == pattern(TEST_BYTES))
}

fn pattern(len: usize) -> Vec<u8> {
    // A prime period, so that swapped buffers never look alike.
    (0..len).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect()
}

/// A connected pair: TCP over loopback, or a socket pair where loopback is down.
fn pair() -> Result<(Box<dyn Write + Send>, Socket), Refusal> {
    match tcp_pair() {
        Ok((writer, reader)) => Ok((Box::new(writer), OwnedFd::from(reader).into())),
        Err(_) => {
            let (writer, reader) = UnixStream::pair().map_err(Refusal::Other)?;
            Ok((Box::new(writer), OwnedFd::from(reader).into()))
        }
    }
}

fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let writer = TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(1))?;
    let (reader, _) = listener.accept()?;
    Ok((writer, reader))
}
