//! A socket that stays open until its last operation has completed.

#![expect(unsafe_code, reason = "takes over descriptors whose runtime gives none up")]

use std::cell::OnceCell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use nix::libc;
use socket2::SockRef;

/// A socket. Clones share the descriptor, the operations in flight hold one each, and the last to
/// go closes it.
#[derive(Clone, Debug)]
pub struct Socket(Rc<Descriptor>);

#[derive(Debug)]
struct Descriptor {
    own: OwnedFd,
    /// Whether it is an IPv6 socket, once that was asked.
    is_v6: OnceCell<bool>,
}

impl From<OwnedFd> for Socket {
    fn from(descriptor: OwnedFd) -> Self {
        Self(Rc::new(Descriptor { own: descriptor, is_v6: OnceCell::new() }))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.own.as_fd()
    }
}

impl Socket {
    /// Gives the kernel a few bytes at once, all of them or none that count: for a word or two on a
    /// socket whose buffer is still empty.
    ///
    /// # Errors
    /// When the socket does not take them all.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<()> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let sent = self.reference().send_with_flags(bytes, flags)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn reference(&self) -> SockRef<'_> {
        SockRef::from(&self.0.own)
    }

    /// Small segments go at once (`TCP_NODELAY`, tcp(7)).
    ///
    /// # Errors
    /// When it is no TCP socket.
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.reference().set_tcp_nodelay(true)
    }

    /// How many unsent bytes the kernel may hold (`TCP_NOTSENT_LOWAT`, tcp(7)).
    ///
    /// # Errors
    /// When it is no TCP socket.
    pub fn set_notsent_lowat(&self, bytes: u32) -> io::Result<()> {
        self.reference().set_tcp_notsent_lowat(bytes)
    }

    /// How many bytes a second the kernel may send, [`u32::MAX`] for no limit (`SO_MAX_PACING_RATE`,
    /// socket(7)).
    ///
    /// # Errors
    /// When it is no socket.
    pub fn set_pace_max(&self, bytes_per_second: u32) -> io::Result<()> {
        let value = bytes_per_second.cast_signed();
        self.set_number(libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, value)
    }

    /// How the kernel reckons what may be in flight (`TCP_CONGESTION`, tcp(7)).
    ///
    /// # Errors
    /// When the kernel has no such algorithm, or allows it to nobody but root.
    pub fn set_congestion_control(&self, name: &str) -> io::Result<()> {
        self.reference().set_tcp_congestion(name.as_bytes())
    }

    /// How long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`, tcp(7)).
    ///
    /// # Errors
    /// When it is no TCP socket.
    pub fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.reference().set_tcp_user_timeout(Some(timeout))
    }

    /// Sends FIN. Called directly: as an operation it always goes through a worker thread.
    ///
    /// # Errors
    /// When it is not connected any more.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.reference().shutdown(Shutdown::Write)
    }

    /// Ends both directions; operations that wait complete.
    ///
    /// # Errors
    /// When it is not connected any more.
    pub fn shutdown_both(&self) -> io::Result<()> {
        self.reference().shutdown(Shutdown::Both)
    }

    /// Closing it sends RST instead of FIN (`SO_LINGER` of 0, socket(7)).
    ///
    /// # Errors
    /// When it is no socket.
    pub fn set_reset_on_close(&self) -> io::Result<()> {
        self.reference().set_linger(Some(Duration::ZERO))
    }

    /// Closing it sends FIN, if that was not sent before: undoes [`Socket::set_reset_on_close`].
    ///
    /// # Errors
    /// When it is no socket.
    pub fn set_orderly_close(&self) -> io::Result<()> {
        self.reference().set_linger(None)
    }

    /// The other end's address.
    ///
    /// # Errors
    /// When it is not connected any more.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.reference().peer_addr()?.as_socket().ok_or_else(not_internet)
    }

    /// This end's address.
    ///
    /// # Errors
    /// When it is no internet socket.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.reference().local_addr()?.as_socket().ok_or_else(not_internet)
    }

    /// What the kernel has found out about the line (`TCP_INFO`, tcp(7)).
    ///
    /// # Errors
    /// When it is no TCP socket.
    pub fn line(&self) -> io::Result<LineSample> {
        Ok(LineSample::read(&self.info()?))
    }

    /// What the kernel has found out about what the path carries (`TCP_INFO`, tcp(7)).
    ///
    /// # Errors
    /// When it is no TCP socket.
    pub fn path(&self) -> io::Result<PathSample> {
        Ok(PathSample::read(&self.info()?))
    }

    fn info(&self) -> io::Result<Info> {
        let mut info = [0_u8; TCP_INFO_LEN];
        let mut len = libc::socklen_t::try_from(TCP_INFO_LEN).unwrap_or(0);
        // SAFETY: the kernel writes at most `len` bytes, which is the array's length, and the
        // descriptor is ours.
        let result = unsafe {
            libc::getsockopt(
                self.raw(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Info(info))
    }

    /// Lets the kernel put together datagrams of one source and one size (`UDP_GRO`, udp(7)).
    ///
    /// # Errors
    /// When it is no UDP socket, or the kernel is older than 5.0.
    pub fn set_gro(&self) -> io::Result<()> {
        self.set_number(libc::SOL_UDP, libc::UDP_GRO, 1)
    }

    /// Lets datagrams say to which address they came (`IP_PKTINFO`, ip(7); `IPV6_RECVPKTINFO`, ipv6(7)).
    ///
    /// # Errors
    /// When it is no internet socket.
    pub fn set_packet_info(&self) -> io::Result<()> {
        if self.is_v6() {
            return self.set_number(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
        }
        self.set_number(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }

    /// Forbids fragments, and lets us find out ourselves what the path takes (`IP_MTU_DISCOVER`
    /// `IP_PMTUDISC_PROBE`, ip(7)).
    ///
    /// # Errors
    /// When it is no internet socket.
    pub fn set_path_mtu_probing(&self) -> io::Result<()> {
        if self.is_v6() {
            let probe = libc::IPV6_PMTUDISC_PROBE;
            self.set_number(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
        }
        // A socket of both families has both.
        self.set_number(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    }

    /// How many bytes the kernel may hold in each direction: as many as asked for where that is allowed
    /// (`CAP_NET_ADMIN`), else as the system's limits let it (`SO_RCVBUF`, socket(7)).
    ///
    /// # Errors
    /// When it is no socket.
    pub fn set_buffers(&self, receive: usize, send: usize) -> io::Result<()> {
        let set = |forced, plain, bytes: usize| {
            let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
            self.set_number(libc::SOL_SOCKET, forced, bytes)
                .or_else(|_not_allowed| self.set_number(libc::SOL_SOCKET, plain, bytes))
        };
        set(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive)?;
        set(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send)
    }

    /// Datagrams that found the socket's buffer full (`SO_MEMINFO`, since Linux 4.12); 0 where the kernel
    /// does not say.
    pub fn drops(&self) -> u32 {
        const DROPS: usize = 8;
        let mut info = [0_u32; DROPS + 1];
        let mut len = libc::socklen_t::try_from(size_of_val(&info)).unwrap_or(0);
        // SAFETY: the kernel writes at most `len` bytes, which is the array's length, and the
        // descriptor is ours.
        let result = unsafe {
            libc::getsockopt(
                self.raw(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result == 0 { info[DROPS] } else { 0 }
    }

    /// Of as many sockets that share a port (`SO_REUSEPORT`), lets each get the datagrams whose first
    /// word, modulo `count`, is its place among them in the order in which they were bound
    /// (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)). One of them is told for all.
    ///
    /// # Errors
    /// When it shares no port.
    pub fn steer(&self, count: u32) -> io::Result<()> {
        let step = |code: u32, k: u32| {
            let code = u16::try_from(code).unwrap_or(0);
            libc::sock_filter { code, jt: 0, jf: 0, k }
        };
        // The kernel lets the program begin at the payload.
        let mut program = [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
            step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, count),
            step(libc::BPF_RET | libc::BPF_A, 0),
        ];
        let filter = libc::sock_fprog { len: 3, filter: program.as_mut_ptr() };
        let len = libc::socklen_t::try_from(size_of_val(&filter)).unwrap_or(0);
        // SAFETY: the kernel reads `len` bytes of `filter` and the three steps that it points to, all
        // of which live until it returns; the descriptor is ours.
        let result = unsafe {
            libc::setsockopt(
                self.raw(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const filter).cast(),
                len,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether it is an IPv6 socket, which may serve both families.
    pub(crate) fn is_v6(&self) -> bool {
        *self
            .0
            .is_v6
            .get_or_init(|| self.reference().local_addr().is_ok_and(|local| local.is_ipv6()))
    }

    fn set_number(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
        // SAFETY: the kernel reads `len` bytes of `value`, which lives until it returns; the
        // descriptor is ours.
        let result =
            unsafe { libc::setsockopt(self.raw(), level, option, (&raw const value).cast(), len) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.own.as_raw_fd()
    }
}

/// `SO_MEMINFO` of asm-generic/socket.h.
const SO_MEMINFO: i32 = 55;

/// `struct tcp_info` of linux/tcp.h up to `tcpi_snd_wnd`.
const TCP_INFO_LEN: usize = 232;

/// A connection's line, as its acknowledgements show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineSample {
    /// Bytes that the kernel has and has not sent.
    pub unsent: u32,
    /// The smoothed round trip.
    pub round_trip: Duration,
    /// The shortest round trip of the last minutes.
    pub round_trip_min: Duration,
    /// Bytes that have arrived since the connection was made. Those behind a gap are counted by whole
    /// segments, and may be a little fewer a moment later.
    pub arrived: u64,
}

/// The bytes of `struct tcp_info` (linux/tcp.h). Fields that an older kernel does not write are 0.
struct Info([u8; TCP_INFO_LEN]);

impl Info {
    fn word(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    fn long(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }
}

impl LineSample {
    fn read(info: &Info) -> Self {
        let microseconds = |at| Duration::from_micros(info.word(at).into());
        Self {
            // tcpi_notsent_bytes.
            unsent: info.word(144),
            // tcpi_rtt, tcpi_min_rtt.
            round_trip: microseconds(68),
            round_trip_min: microseconds(148),
            // tcpi_bytes_acked, tcpi_sacked, tcpi_snd_mss.
            arrived: info.long(120) + u64::from(info.word(28)) * u64::from(info.word(16)),
        }
    }
}

/// What of a connection's segments gets through, as their acknowledgements show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathSample {
    /// The longest segment that is sent.
    pub segment_bytes: u32,
    /// What the kernel takes the path to carry in one packet.
    pub packet_bytes: u32,
    /// Times in a row that the oldest unacknowledged segment was sent again in vain.
    pub repeats: u8,
    /// Segments sent again since the connection was made.
    pub resent: u32,
    /// Bytes that the other end has, up to the first gap.
    pub acknowledged: u64,
    /// Segments on their way, or lost.
    pub unacknowledged: u32,
    /// Those of them that the other end has, behind one that it has not.
    pub arrived_behind_a_gap: u32,
    /// Segments that came to us behind one that did not.
    pub received_behind_a_gap: u32,
    /// Bytes received, in order.
    pub received: u64,
}

impl PathSample {
    fn read(info: &Info) -> Self {
        Self {
            // tcpi_snd_mss, tcpi_pmtu.
            segment_bytes: info.word(16),
            packet_bytes: info.word(60),
            // tcpi_retransmits, tcpi_total_retrans.
            repeats: info.0.get(2).copied().unwrap_or(0),
            resent: info.word(100),
            // tcpi_bytes_acked, tcpi_unacked, tcpi_sacked.
            acknowledged: info.long(120),
            unacknowledged: info.word(24),
            arrived_behind_a_gap: info.word(28),
            // tcpi_rcv_ooopack, tcpi_bytes_received.
            received_behind_a_gap: info.word(224),
            received: info.long(128),
        }
    }
}

fn not_internet() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not an internet socket")
}

/// A second descriptor of the same file (fcntl(2), `F_DUPFD_CLOEXEC`), for a runtime that lends its
/// descriptors but gives none up.
///
/// # Errors
/// When the process has no descriptor left, or it is no descriptor.
pub fn duplicate(descriptor: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl reads the number alone, whatever it is.
    let copy = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
