//! The connection between the old process and the new one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use adit_ring::{PASSED_MAX, pass, receive_passed};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::Parcel;

/// What the processes say to each other. New words come last: the older ones keep their numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// The old process's first: the form of what it will pass, and how many pumps it has.
    Hello { form: u32, pumps: u32 },
    /// The new process has all that it needs but what is to be passed.
    Ready,
    /// It has taken over all of it.
    Restored,
    /// It takes nothing over, and why.
    Refused(String),
    /// The old process touches nothing any more.
    Go,
    /// A parcel: its items come with this, and so many sockets after it.
    Parcel { sockets: u32 },
    /// Some of those sockets.
    Sockets,
}

/// One end.
#[derive(Debug)]
pub(super) struct Passage(OwnedFd);

impl From<OwnedFd> for Passage {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

fn unexpected(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Passage {
    /// Whoever waits for the other end does so for this long at the most.
    pub(super) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        let socket = SockRef::from(&self.0);
        socket.set_read_timeout(patience)?;
        socket.set_write_timeout(patience)
    }

    pub(super) fn send(&self, word: &Word) -> io::Result<()> {
        let none: [OwnedFd; 0] = [];
        self.send_with(word, &none)
    }

    fn send_with(&self, word: &Word, descriptors: &[impl AsFd]) -> io::Result<()> {
        let bytes = postcard::to_allocvec(word).map_err(io::Error::other)?;
        pass(&self.0, &bytes, descriptors)
    }

    pub(super) fn receive(&self) -> io::Result<Word> {
        let (word, descriptors) = self.receive_with()?;
        if descriptors.is_empty() { Ok(word) } else { Err(unexpected(format!("{word:?}"))) }
    }

    fn receive_with(&self) -> io::Result<(Word, Vec<OwnedFd>)> {
        let (bytes, descriptors) = receive_passed(&self.0)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let word = postcard::from_bytes(&bytes).map_err(|_other| {
            unexpected("the other process says what this one does not know".into())
        })?;
        Ok((word, descriptors))
    }

    /// Waits for this word and no other.
    pub(super) fn expect(&self, expected: &Word) -> io::Result<()> {
        match self.receive()? {
            word if word == *expected => Ok(()),
            Word::Refused(why) => Err(io::Error::other(why)),
            word => Err(unexpected(format!("{word:?} came where {expected:?} was due"))),
        }
    }

    /// Takes what comes until the other end is gone, or silent for too long.
    pub(super) fn drain(&self) {
        loop {
            match receive_passed(&self.0) {
                Ok(Some(_)) => {}
                // It was cut, but it was taken.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    pub(super) fn send_parcel(&self, parcel: &Parcel) -> io::Result<()> {
        let sockets = u32::try_from(parcel.sockets.len()).map_err(io::Error::other)?;
        self.send_with(&Word::Parcel { sockets }, std::slice::from_ref(&parcel.items))?;
        let mut rest = parcel.sockets.chunks(PASSED_MAX);
        rest.try_for_each(|some| self.send_with(&Word::Sockets, some))
    }

    pub(super) fn receive_parcel(&self) -> io::Result<Parcel> {
        let (word, descriptors) = self.receive_with()?;
        let count = match word {
            Word::Parcel { sockets } => sockets as usize,
            word => return Err(unexpected(format!("{word:?} came in place of a parcel"))),
        };
        let items = descriptors.into_iter().next();
        let items = items.ok_or_else(|| unexpected("a parcel without items".into()))?;
        let mut sockets = Vec::new();
        while sockets.len() < count {
            match self.receive_with()? {
                (Word::Sockets, some) if !some.is_empty() => sockets.extend(some),
                (word, _) => return Err(unexpected(format!("{word:?} came in place of sockets"))),
            }
        }
        Ok(Parcel { items, sockets })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::upgrade::Packer;

    /// More sockets than one packet carries come over, in their order.
    #[test]
    fn a_parcel_comes_over_with_all_its_sockets() {
        let (near, far) = adit_ring::passage().unwrap();
        let (near, far) = (Passage::from(near), Passage::from(far));
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut packer = Packer::new().unwrap();
        packer.put(&"items").unwrap();
        for n in 0..300 {
            packer.put_socket(&listeners[n % 3]).unwrap();
        }
        let sending = std::thread::spawn(move || {
            near.send_parcel(&packer.finish().unwrap()).unwrap();
            near.send(&Word::Go).unwrap();
        });
        let mut unpacker = far.receive_parcel().unwrap().unpack().unwrap();
        assert!(far.expect(&Word::Ready).is_err());
        sending.join().unwrap();
        assert_eq!(unpacker.take::<String>().unwrap(), "items");
        for n in 0..300 {
            let listener = TcpListener::from(unpacker.take_socket().unwrap());
            assert_eq!(listener.local_addr().unwrap(), listeners[n % 3].local_addr().unwrap());
        }
        assert!(far.receive().is_err(), "the other end is gone");
    }
}
