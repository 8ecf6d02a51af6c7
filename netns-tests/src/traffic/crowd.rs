//! Many flows of datagrams at once: each of known bytes, there and back, and none taken for
//! another's.
//!
//! A flow sends one datagram after another, each again until its answer has come; whatever comes that is
//! neither that answer nor an earlier one ends it badly.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::datagrams::{is_silence, towards};
use super::fill;

/// What every path takes whole.
const DATAGRAM: usize = 1_200;
/// Before the pattern: the flow and the datagram's number.
const HEADER: usize = 16;
/// When a datagram, or its answer, counts as lost.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How long a flow may go without any answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends `bytes` of known data on each of `flows` flows to an echo, and has all of it back. Prints
/// `crowd flows N bytes N datagrams N again N`.
///
/// # Errors
/// When something else comes back, or nothing.
pub fn crowd(to: SocketAddr, flows: usize, bytes: u64) -> io::Result<()> {
    let count = bytes.div_ceil((DATAGRAM - HEADER) as u64);
    let workers: Vec<_> =
        (0..flows as u64).map(|flow| thread::spawn(move || carry(to, flow, count))).collect();
    let mut again = 0;
    for (flow, worker) in workers.into_iter().enumerate() {
        let carried = worker.join().map_err(|_panic| io::Error::other("a flow panicked"))?;
        again += carried.map_err(|error| io::Error::other(format!("flow {flow}: {error}")))?;
    }
    let datagrams = count * flows as u64;
    println!("crowd flows {flows} bytes {bytes} datagrams {datagrams} again {again}");
    Ok(())
}

/// Returns how many datagrams had to be sent again.
fn carry(to: SocketAddr, flow: u64, count: u64) -> io::Result<u64> {
    let socket = towards(to)?;
    socket.set_read_timeout(Some(AGAIN_AFTER))?;
    let (mut got, mut again) = (vec![0; DATAGRAM + 1], 0);
    for number in 0..count {
        let sent = datagram(flow, number);
        let end = Instant::now() + PATIENCE;
        let mut tries = 0_u64;
        'answered: loop {
            match socket.send(&sent) {
                Ok(_) => {}
                Err(error) if is_silence(&error) => {}
                Err(error) => return Err(error),
            }
            tries += 1;
            loop {
                match socket.recv(&mut got) {
                    Ok(length) if got[..length] == sent => break 'answered,
                    Ok(length) if is_earlier(&got[..length], flow, number) => {}
                    Ok(length) => {
                        let what = format!("{length} bytes that are no answer to {number}");
                        return Err(io::Error::other(what));
                    }
                    Err(error) if is_silence(&error) => break,
                    Err(error) => return Err(error),
                }
            }
            if Instant::now() >= end {
                return Err(io::Error::other(format!("no answer to datagram {number}")));
            }
        }
        again += tries - 1;
    }
    Ok(again)
}

fn datagram(flow: u64, number: u64) -> Vec<u8> {
    let mut datagram = vec![0; DATAGRAM];
    datagram[..8].copy_from_slice(&flow.to_be_bytes());
    datagram[8..HEADER].copy_from_slice(&number.to_be_bytes());
    fill(&mut datagram[HEADER..], (flow << 32) + number * DATAGRAM as u64);
    datagram
}

/// A late answer to a datagram that was sent twice.
fn is_earlier(got: &[u8], flow: u64, number: u64) -> bool {
    let earlier = got.get(8..HEADER).and_then(|bytes| bytes.try_into().ok());
    let earlier = earlier.map(u64::from_be_bytes).filter(|earlier| *earlier < number);
    earlier.is_some_and(|earlier| got == datagram(flow, earlier))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another flow's answer, and one with a wrong byte, are not this flow's earlier ones.
    #[test]
    fn only_whole_answers_of_the_same_flow_are_its_earlier_ones() {
        let mut answer = datagram(3, 7);
        assert!(is_earlier(&answer, 3, 8) && !is_earlier(&answer, 3, 7));
        assert!(!is_earlier(&answer, 4, 8));
        answer[HEADER + 5] ^= 1;
        assert!(!is_earlier(&answer, 3, 8) && !is_earlier(&answer[..4], 3, 8));
    }
}
