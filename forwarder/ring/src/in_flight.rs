//! Operations that the kernel has: what each borrowed stays here until its last completion.

#![expect(unsafe_code, reason = "builds message headers that point into their own entry")]

use std::ptr;

use nix::libc;
use socket2::SockAddr;

use crate::completion::Token;
use crate::group::Group;
use crate::message::{CONTROL, CONTROL_WORDS, Envelope, NAME};
use crate::slice::SliceList;
use crate::socket::Socket;

/// What an operation does; the top byte of its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    Accept = 1,
    Connect,
    Receive(Group),
    Send,
    Writable,
    Wake,
    Cancel,
    Messages(Group),
}

impl Operation {
    fn code(self) -> u8 {
        match self {
            Self::Accept => 1,
            Self::Connect => 2,
            Self::Receive(_) => 3,
            Self::Send => 4,
            Self::Writable => 5,
            Self::Wake => 6,
            Self::Cancel => 7,
            Self::Messages(_) => 8,
        }
    }
}

/// User data as the kernel carries it: operation 8 bits, generation 24, slot 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserData(pub(crate) u64);

/// Room for pieces that a free place keeps; more would weigh on idle connections.
const PIECES_KEPT: usize = 64;

const GENERATION_MASK: u32 = (1 << 24) - 1;

impl UserData {
    fn new(operation: Operation, generation: u32, slot: u32) -> Self {
        let operation = u64::from(operation.code()) << 56;
        Self(operation | u64::from(generation) << 32 | u64::from(slot))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the fields are cut out by width")]
    fn parts(self) -> (u8, u32, usize) {
        let generation = (self.0 >> 32) as u32 & GENERATION_MASK;
        ((self.0 >> 56) as u8, generation, self.0 as u32 as usize)
    }
}

/// What the kernel reads while it sends: boxed, so that it stays where it is.
struct Message {
    header: libc::msghdr,
    pieces: Vec<libc::iovec>,
    address: Option<SockAddr>,
    control: Option<Box<[u64; CONTROL_WORDS]>>,
}

/// One operation in flight, or a place for one.
struct Entry {
    generation: u32,
    /// `None` marks a free place.
    operation: Option<Operation>,
    token: Token,
    socket: Option<Socket>,
    slices: SliceList,
    message: Box<Message>,
}

impl Entry {
    fn free() -> Self {
        // SAFETY: a zeroed msghdr is valid: null pointers and zero lengths.
        let header = unsafe { std::mem::zeroed() };
        let message =
            Box::new(Message { header, pieces: Vec::new(), address: None, control: None });
        let (token, slices) = (Token(0), SliceList::new());
        Self { generation: 0, operation: None, token, socket: None, slices, message }
    }
}

/// What a completion gets back from its entry.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) operation: Operation,
    pub(crate) token: Token,
    pub(crate) slices: SliceList,
}

/// All operations in flight, by slot.
#[derive(Default)]
pub(crate) struct InFlight {
    entries: Vec<Entry>,
    free: Vec<u32>,
    count: usize,
}

impl InFlight {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Keeps `socket` and `slices` for an operation, until [`InFlight::land`].
    pub(crate) fn launch(
        &mut self,
        operation: Operation,
        token: Token,
        socket: Option<Socket>,
        slices: SliceList,
    ) -> UserData {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::free());
            u32::try_from(self.entries.len() - 1).expect("invariant: < 2^32 operations")
        });
        let entry = &mut self.entries[slot as usize];
        entry.generation = entry.generation.wrapping_add(1) & GENERATION_MASK;
        entry.operation = Some(operation);
        entry.token = token;
        entry.socket = socket;
        entry.slices = slices;
        self.count += 1;
        UserData::new(operation, entry.generation, slot)
    }

    /// The header for a send of the entry's slices. It stays in place until the entry lands.
    pub(crate) fn message(&mut self, user_data: UserData) -> *const libc::msghdr {
        let entry = &mut self.entries[user_data.parts().2];
        let message = &mut *entry.message;
        message.pieces.clear();
        message.pieces.extend(entry.slices.iter().map(|slice| libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        }));
        message.header.msg_iov = message.pieces.as_mut_ptr();
        message.header.msg_iovlen = message.pieces.len() as _;
        message.header.msg_name = ptr::null_mut();
        message.header.msg_namelen = 0;
        message.header.msg_control = ptr::null_mut();
        message.header.msg_controllen = 0;
        ptr::from_ref(&message.header)
    }

    /// The same with an envelope, on a socket of either family.
    pub(crate) fn enveloped(
        &mut self,
        user_data: UserData,
        envelope: Envelope,
        is_v6: bool,
    ) -> *const libc::msghdr {
        self.message(user_data);
        let message = &mut *self.entries[user_data.parts().2].message;
        if let Some(name) = envelope.name(is_v6) {
            let name = message.address.insert(name);
            message.header.msg_namelen = name.len();
            message.header.msg_name = name.as_ptr().cast_mut().cast();
        }
        let control = envelope.control(is_v6);
        if !control.is_empty() {
            // Words, since the kernel wants the messages aligned.
            let words = message.control.get_or_insert_with(Default::default);
            for (word, bytes) in words.iter_mut().zip(control.chunks_exact(8)) {
                *word = bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            }
            message.header.msg_controllen = control.len() as _;
            message.header.msg_control = words.as_mut_ptr().cast();
        }
        ptr::from_ref(&message.header)
    }

    /// The header for receiving messages: only what room they are to have.
    pub(crate) fn room(&mut self, user_data: UserData) -> *const libc::msghdr {
        let message = &mut *self.entries[user_data.parts().2].message;
        message.pieces.clear();
        message.header.msg_iov = ptr::null_mut();
        message.header.msg_iovlen = 0;
        message.header.msg_name = ptr::null_mut();
        message.header.msg_control = ptr::null_mut();
        message.header.msg_namelen = libc::socklen_t::try_from(NAME).unwrap_or(0);
        message.header.msg_controllen = CONTROL as _;
        ptr::from_ref(&message.header)
    }

    /// The address to connect to, in place until the entry lands.
    pub(crate) fn address(
        &mut self,
        user_data: UserData,
        address: SockAddr,
    ) -> (*const libc::sockaddr, libc::socklen_t) {
        let message = &mut *self.entries[user_data.parts().2].message;
        let address = message.address.insert(address);
        (address.as_ptr().cast(), address.len())
    }

    /// The entry of a completion. With `more` the operation goes on and keeps what it has.
    ///
    /// `None` when there is no such operation: a completion is believed only by slot, generation
    /// and operation together.
    pub(crate) fn land(&mut self, user_data: UserData, more: bool) -> Option<Landed> {
        let (code, generation, slot) = user_data.parts();
        let entry = self.entries.get_mut(slot)?;
        let operation = entry.operation?;
        if entry.generation != generation || operation.code() != code {
            return None;
        }
        let token = entry.token;
        if more {
            return Some(Landed { operation, token, slices: SliceList::new() });
        }
        entry.operation = None;
        if entry.message.pieces.capacity() > PIECES_KEPT {
            entry.message.pieces = Vec::new();
        }
        // The last clone closes the descriptor.
        entry.socket = None;
        let slices = std::mem::take(&mut entry.slices);
        self.free.push(u32::try_from(slot).expect("invariant: < 2^32 operations"));
        self.count -= 1;
        Some(Landed { operation, token, slices })
    }
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InFlight({})", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A completion that comes twice, or late, lands nowhere.
    #[test]
    fn a_late_completion_finds_no_new_operation() {
        let mut in_flight = InFlight::default();
        let first = in_flight.launch(Operation::Send, Token(1), None, SliceList::new());
        assert!(in_flight.land(first, false).is_some());
        assert!(in_flight.land(first, false).is_none());
        let second = in_flight.launch(Operation::Send, Token(2), None, SliceList::new());
        assert_ne!(first, second);
        assert!(in_flight.land(first, false).is_none());
        assert_eq!(in_flight.land(second, false).map(|landed| landed.token), Some(Token(2)));
        assert_eq!(in_flight.len(), 0);
    }
}
