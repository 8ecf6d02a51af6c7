//! The sockets for a probe's datagrams. Each answers what carries the probe's token, with as many bytes
//! as came, and notes where it came from.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use adit::invitation::NoRandomness;
use adit::net::{self, Task};
use adit::probe::{Heard, PING_LEN, Ping, Place, Token, random_number};
use adit_proto::limits::{PROBE_DATAGRAMS_MAX, PROBE_SOURCES_MAX};
use tokio::net::UdpSocket;

/// Two at the address that the probe came to: what a NAT makes of them shows how it maps.
const AT_ADDRESS: usize = 2;

/// The token of a new probe, and the id of its packets at the paths' socket.
pub(super) fn secrets() -> Result<(Token, u32), NoRandomness> {
    Ok((Token::generate()?, random_number()?))
}

/// The sockets; they are closed when this is dropped.
pub(super) struct Ears {
    token: Token,
    sockets: Vec<(Place, Rc<UdpSocket>)>,
    notes: Rc<RefCell<Notes>>,
    _tasks: Vec<Task>,
}

#[derive(Debug, Default)]
struct Notes {
    heard: Vec<Heard>,
    datagrams: usize,
}

impl Notes {
    /// Notes a datagram; whether it is answered.
    fn take(&mut self, heard: Heard) -> bool {
        if self.datagrams >= PROBE_DATAGRAMS_MAX {
            return false;
        }
        self.datagrams += 1;
        if self.heard.contains(&heard) {
            return true;
        }
        if self.heard.len() >= PROBE_SOURCES_MAX {
            return false;
        }
        self.heard.push(heard);
        true
    }
}

impl Ears {
    /// Opens them: at `local`, and at `other` where there is such an address.
    pub(super) fn open(token: Token, local: IpAddr, other: Option<IpAddr>) -> io::Result<Self> {
        let mut places: Vec<_> = (0..AT_ADDRESS).map(|_| (local, None)).collect();
        places.extend(other.map(|other| (other, Some(other))));
        let notes: Rc<RefCell<Notes>> = Rc::default();
        let (mut sockets, mut tasks) = (Vec::new(), Vec::new());
        for (index, (ip, shown)) in (0..).zip(places) {
            let socket = net::bind_datagrams(SocketAddr::new(ip, 0), true, false);
            let socket = match socket {
                Ok(socket) => socket,
                // An address that went away meanwhile: the probe has the two others.
                Err(_) if shown.is_some() => continue,
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            let port = socket.local_addr()?.port();
            let socket = Rc::new(UdpSocket::from_std(socket)?);
            let listening = listen(Rc::clone(&socket), token, index, Rc::clone(&notes));
            tasks.push(net::spawn_until_dropped(listening));
            sockets.push((Place { ip: shown, port }, socket));
        }
        Ok(Self { token, sockets, notes, _tasks: tasks })
    }

    pub(super) fn places(&self) -> Vec<Place> {
        self.sockets.iter().map(|(place, _)| *place).collect()
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.notes.borrow().heard.clone()
    }

    /// Sends one datagram from a socket to where datagram `number` came from: nobody else is ever
    /// sent anything.
    pub(super) async fn send(&self, socket: u8, number: u16) -> bool {
        let Some((_, socket)) = self.sockets.get(usize::from(socket)) else { return false };
        let source = {
            let mut notes = self.notes.borrow_mut();
            if notes.datagrams >= PROBE_DATAGRAMS_MAX {
                return false;
            }
            notes.datagrams += 1;
            notes.heard.iter().find(|heard| heard.number == number).map(|heard| heard.source)
        };
        let Some(source) = source else { return false };
        let ping = Ping { token: self.token, number }.asked();
        socket.send_to(&ping.to_bytes(), source).await.is_ok()
    }
}

async fn listen(socket: Rc<UdpSocket>, token: Token, index: u8, notes: Rc<RefCell<Notes>>) {
    // One byte more than there may be: what is longer is seen to be.
    let mut buffer = [0; PING_LEN + 1];
    loop {
        // An error is one of an earlier answer: somebody who asked has gone.
        let Ok((len, source)) = socket.recv_from(&mut buffer).await else { continue };
        let bytes = buffer.get(..len).unwrap_or_default();
        let Ok(ping) = Ping::from_bytes(bytes, token) else { continue };
        let heard = Heard { number: ping.number, socket: index, source };
        if notes.borrow_mut().take(heard) {
            socket.send_to(bytes, source).await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flood with the right token costs a bounded table and a bounded number of answers.
    #[test]
    fn what_is_noted_and_answered_is_bounded() {
        let mut notes = Notes::default();
        let from = |port| SocketAddr::from(([203, 0, 113, 1], port));
        let heard = |port| Heard { number: 1, socket: 0, source: from(port) };
        let answered = (1..2_000).filter(|port| notes.take(heard(*port))).count();
        assert_eq!((answered, notes.heard.len()), (PROBE_SOURCES_MAX, PROBE_SOURCES_MAX));
        let mut notes = Notes::default();
        let answered = (1..2_000).filter(|_| notes.take(heard(1))).count();
        assert_eq!((answered, notes.heard.len()), (PROBE_DATAGRAMS_MAX, 1));
    }
}
