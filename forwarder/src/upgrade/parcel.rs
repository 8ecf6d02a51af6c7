//! What one process leaves to another: items in a file that has no name, and sockets.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::vec;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// The most bytes that one item may have: a session whose window is retained and queued, several
/// times over.
pub const ITEM_BYTES_MAX: u64 = 1 << 30;

/// Items and sockets, packed.
#[derive(Debug)]
pub struct Parcel {
    pub(super) items: OwnedFd,
    pub(super) sockets: Vec<OwnedFd>,
}

/// Packs a [`Parcel`].
#[derive(Debug)]
pub struct Packer {
    items: BufWriter<File>,
    sockets: Vec<OwnedFd>,
}

/// Unpacks one, in the order in which it was packed.
#[derive(Debug)]
pub struct Unpacker {
    items: BufReader<File>,
    sockets: vec::IntoIter<OwnedFd>,
}

fn invalid(text: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_string())
}

impl Packer {
    /// Nothing yet.
    ///
    /// # Errors
    /// When the process has no descriptor or the host no memory left.
    pub fn new() -> io::Result<Self> {
        let items = File::from(memfd_create("adit-upgrade", MFdFlags::MFD_CLOEXEC)?);
        Ok(Self { items: BufWriter::new(items), sockets: Vec::new() })
    }

    /// Adds an item.
    ///
    /// # Errors
    /// When it is too long, or the host has no memory left.
    pub fn put(&mut self, item: &impl Serialize) -> io::Result<()> {
        // There may be keys in it.
        let bytes = Zeroizing::new(postcard::to_allocvec(item).map_err(invalid)?);
        let len = bytes.len() as u64;
        if len > ITEM_BYTES_MAX {
            return Err(invalid(format!("an item of {len} bytes is too long to be passed on")));
        }
        self.items.write_all(&len.to_be_bytes())?;
        self.items.write_all(&bytes)
    }

    /// Adds another handle of a socket.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn put_socket(&mut self, socket: &impl AsFd) -> io::Result<()> {
        self.sockets.push(socket.as_fd().try_clone_to_owned()?);
        Ok(())
    }

    /// All that was added.
    ///
    /// # Errors
    /// When the host has no memory left.
    pub fn finish(self) -> io::Result<Parcel> {
        let items = self.items.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Parcel { items: items.into(), sockets: self.sockets })
    }
}

impl Parcel {
    /// Unpacks it from its beginning.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn unpack(self) -> io::Result<Unpacker> {
        let mut items = File::from(self.items);
        items.seek(SeekFrom::Start(0))?;
        Ok(Unpacker { items: BufReader::new(items), sockets: self.sockets.into_iter() })
    }
}

impl Unpacker {
    /// The next item.
    ///
    /// # Errors
    /// When there is none, or it is another than was expected.
    pub fn take<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut len = [0; 8];
        self.items.read_exact(&mut len)?;
        let len = u64::from_be_bytes(len);
        if len > ITEM_BYTES_MAX {
            return Err(invalid(format!("an item of {len} bytes is too long")));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        self.items.by_ref().take(len).read_to_end(&mut bytes)?;
        postcard::from_bytes(&bytes).map_err(invalid)
    }

    /// The next socket.
    ///
    /// # Errors
    /// When there is none.
    pub fn take_socket(&mut self) -> io::Result<OwnedFd> {
        self.sockets.next().ok_or_else(|| invalid("a socket is missing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was packed comes out in its order, and what was not is missed, not made up.
    #[test]
    fn a_parcel_has_what_was_packed() {
        let mut packer = Packer::new().unwrap();
        packer.put(&("first", 1_u32)).unwrap();
        packer.put(&vec![7_u8; 100_000]).unwrap();
        packer.put_socket(&std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let mut unpacker = packer.finish().unwrap().unpack().unwrap();
        assert_eq!(unpacker.take::<(String, u32)>().unwrap(), ("first".to_owned(), 1));
        assert_eq!(unpacker.take::<Vec<u8>>().unwrap(), vec![7; 100_000]);
        assert!(unpacker.take_socket().is_ok());
        assert!(unpacker.take::<u32>().is_err() && unpacker.take_socket().is_err());
    }

    /// Mutants of a parcel are unpacked or refused, and none takes more memory than it has bytes.
    #[test]
    fn mutants_of_a_parcel_are_unpacked_or_refused() {
        const MUTANTS: u64 = 2_000;
        let mut packer = Packer::new().unwrap();
        packer.put(&(vec!["office".to_owned(), "web".to_owned()], 7_u64)).unwrap();
        let Parcel { items, .. } = packer.finish().unwrap();
        let mut seed = Vec::new();
        let mut items = File::from(items);
        items.rewind().unwrap();
        items.read_to_end(&mut seed).unwrap();
        let mut taken = 0;
        for number in 0..MUTANTS {
            let mut random = fastrand::Rng::with_seed(number);
            let mut bytes = seed.clone();
            let at = random.usize(..bytes.len());
            match random.u8(..3) {
                0 => bytes[at] = random.u8(..),
                1 => bytes.truncate(at),
                _ => bytes[at..].fill(0xff),
            }
            let mut file = File::from(memfd_create("mutant", MFdFlags::empty()).unwrap());
            file.write_all(&bytes).unwrap();
            let parcel = Parcel { items: file.into(), sockets: Vec::new() };
            let item = parcel.unpack().unwrap().take::<(Vec<String>, u64)>();
            taken += usize::from(item.is_ok());
        }
        assert!(taken > 0 && taken < 2_000, "{taken} were taken");
    }
}
