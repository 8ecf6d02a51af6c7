//! Descriptors on their way from one process to another, over a socket that keeps packets apart
//! (`SCM_RIGHTS`, unix(7)).

#![expect(unsafe_code, reason = "takes over descriptors that the kernel has just made")]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};

/// Descriptors that one packet may carry (the kernel's `SCM_MAX_FD`).
pub const PASSED_MAX: usize = 253;
/// Bytes that one packet may have; well below what a socket's buffer takes.
pub const PACKET_MAX: usize = 64 * 1024;

/// Two ends of a connection between processes that keeps packets apart. Neither is inherited.
///
/// # Errors
/// When the process has no descriptor left.
pub fn passage() -> io::Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    Ok(socketpair(AddressFamily::Unix, kind, None, flags)?)
}

/// Sends one packet with its descriptors, which stay this process's as well. It waits for room.
///
/// # Errors
/// When the other end is gone, or there is more than a packet may have.
pub fn pass(socket: &impl AsFd, bytes: &[u8], descriptors: &[impl AsFd]) -> io::Result<()> {
    if descriptors.len() > PASSED_MAX || bytes.len() > PACKET_MAX || bytes.is_empty() {
        return Err(Errno::EMSGSIZE.into());
    }
    let raw: Vec<RawFd> = descriptors.iter().map(|one| one.as_fd().as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[_] = if raw.is_empty() { &[] } else { &rights };
    let (iov, flags) = ([IoSlice::new(bytes)], MsgFlags::MSG_NOSIGNAL);
    loop {
        match sendmsg::<()>(socket.as_fd().as_raw_fd(), &iov, control, flags, None) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            // A packet goes as a whole.
            Ok(_) => return Ok(()),
        }
    }
}

/// Waits for the next packet; nothing when the other end has closed.
///
/// # Errors
/// When the socket fails, or a packet came cut short.
pub fn receive_passed(socket: &impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET_MAX];
    let mut control = cmsg_space!([RawFd; PASSED_MAX]);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let raw = socket.as_fd().as_raw_fd();
    let received = loop {
        match recvmsg::<()>(raw, &mut iov, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            received => break received?,
        }
    };
    // First: of a list that was cut nothing can be had but an error that names no cure.
    if received.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a packet came without all of its descriptors: is the limit on open files too low?",
        ));
    }
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(passed) = message {
            // SAFETY: the kernel has just made these descriptors, for this packet's one reader.
            descriptors.extend(passed.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    let len = received.bytes;
    bytes.truncate(len);
    Ok((len > 0).then_some((bytes, descriptors)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom, Write};

    use super::*;

    /// A descriptor that was passed is of the same file, and outlives that of the sender.
    #[test]
    fn a_passed_descriptor_is_of_the_same_file() {
        let (near, far) = passage().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"the same").unwrap();
        let many: Vec<_> = (0..PASSED_MAX).map(|_| file.try_clone().unwrap()).collect();
        pass(&near, b"here", &many).unwrap();
        drop((file, many));
        let (bytes, mut passed) = receive_passed(&far).unwrap().unwrap();
        assert_eq!((&*bytes, passed.len()), (&b"here"[..], PASSED_MAX));
        let mut file = File::from(passed.pop().unwrap());
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "the same");
    }

    /// Who waits for a packet of an end that is gone hears of it, and what is too much is refused.
    #[test]
    fn the_end_of_a_passage_is_heard() {
        let (near, far) = passage().unwrap();
        let few: [File; 0] = [];
        assert!(pass(&near, &[], &few).is_err());
        assert!(pass(&near, &[0; PACKET_MAX + 1], &few).is_err());
        pass(&near, b"last", &few).unwrap();
        drop(near);
        assert_eq!(receive_passed(&far).unwrap().unwrap().0, b"last");
        assert!(receive_passed(&far).unwrap().is_none());
        assert!(pass(&far, b"nobody", &few).is_err());
    }
}
