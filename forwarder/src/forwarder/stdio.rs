//! Standard input and output as the near end of a flow: two threads between them and a socket.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use socket2::SockRef;
use tokio::sync::mpsc;

use super::daemon::Input;
use crate::handoff::{Replies, ResetReason};
use crate::net;

/// The first byte from the pump: whether the far end is there.
const THERE: u8 = 1;
const NOT_THERE: u8 = 0;

/// What the pump says first; the threads take it off again.
pub(super) fn replies() -> Replies {
    Replies::new(vec![THERE], |reason| vec![NOT_THERE, code(reason)])
}

fn code(reason: ResetReason) -> u8 {
    match reason {
        ResetReason::NoContact | ResetReason::Forbidden => 1,
        ResetReason::Limit => 2,
        _ => 3,
    }
}

/// Joins standard input and output to a socket, the other end of which is returned. When the far
/// end has no more to say, or there is none, that comes as an input.
pub(super) fn join(name: &str, inbox: mpsc::Sender<Input>) -> io::Result<OwnedFd> {
    let (pump, own) = net::pair()?;
    // What was said last is not to be cut off by the end of this process.
    SockRef::from(&own).set_linger(None)?;
    let name = name.to_owned();
    thread::Builder::new().name("stdout".into()).spawn(move || {
        let outcome = pass(&own, &name);
        // The other direction has nobody to speak to.
        own.shutdown(Shutdown::Both).ok();
        // The loop has ended by itself.
        inbox.blocking_send(Input::StdioEnded(outcome)).ok();
    })?;
    Ok(pump.into())
}

fn pass(mut own: &TcpStream, name: &str) -> Result<(), String> {
    let cut = |error| format!("the connection to {name} was cut: {error}");
    let mut first = [0; 1];
    own.read_exact(&mut first).map_err(cut)?;
    if first != [THERE] {
        let mut why = [0; 1];
        own.read_exact(&mut why).map_err(cut)?;
        return Err(match why {
            [1] => format!(
                "there is no private contact point {name} at the relay, or this key may not call it"
            ),
            [2] => "the relay's limits for this key are reached: try again later".to_owned(),
            _ => format!("{name} cannot be reached"),
        });
    }
    let input = own.try_clone().map_err(cut)?;
    thread::Builder::new().name("stdin".into()).spawn(move || feed(&input)).map_err(cut)?;
    copy(&mut own, &mut io::stdout().lock()).map_err(cut)
}

fn feed(mut own: &TcpStream) {
    // Whoever reads no more ends the other direction, too, and that is where it is said.
    copy(&mut io::stdin().lock(), &mut own).ok();
    own.shutdown(Shutdown::Write).ok();
}

/// Passes on at once what comes, since somebody may be typing.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(buffer.get(..len).unwrap_or_default())?;
        to.flush()?;
    }
}
