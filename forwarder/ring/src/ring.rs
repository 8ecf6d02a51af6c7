//! The ring: operations in, completions out.

#![expect(unsafe_code, reason = "hands memory to the kernel; `InFlight` and pools keep it")]

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;
use nix::libc;

use crate::completion::{Completion, Token};
use crate::group::{Group, Provided};
use crate::in_flight::{InFlight, Landed, Operation, UserData};
use crate::message::{self, Envelope};
use crate::pool::{Layout, Pool};
use crate::probe::Features;
use crate::refusal::Refusal;
use crate::slice::SliceList;
use crate::socket::Socket;
use crate::target::Target;
use crate::waker::Waker;

/// Operations that one submission may carry, and completions that may wait unread (the kernel
/// keeps what overflows, at a cost). The smaller ones are for hosts with little locked memory.
const SIZES: [(u32, u32); 4] = [(256, 4096), (256, 1024), (64, 256), (64, 128)];
/// `IORING_RECVSEND_BUNDLE`: one receive may fill several buffers.
const RECEIVE_BUNDLE: u16 = 1 << 4;
/// How long a ring that is dropped waits for the kernel to let go of everything.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How a send treats a socket that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendHow {
    /// Completes when all is taken (`MSG_WAITALL`). One at a time per socket.
    Whole,
    /// Takes what the socket takes at once; `WouldBlock` when that is nothing.
    Now,
}

/// One io_uring. It belongs to the thread that made it.
#[derive(Debug)]
pub struct Ring {
    /// Dropped by hand, after the kernel has let go of what it was lent.
    parts: ManuallyDrop<Parts>,
    features: Features,
    waker: Waker,
    /// Entries that found the submission queue full.
    backlog: VecDeque<squeue::Entry>,
}

/// In the order in which they are dropped: the ring first, then what the kernel was lent.
struct Parts {
    io: IoUring,
    groups: Vec<Provided>,
    in_flight: InFlight,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, {} groups", self.in_flight, self.groups.len())
    }
}

impl Ring {
    /// A ring of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses, with the cure.
    pub fn new(features: Features) -> Result<Self, Refusal> {
        let io = build().map_err(Refusal::from_setup)?;
        let parts = Parts { io, groups: Vec::new(), in_flight: InFlight::default() };
        let parts = ManuallyDrop::new(parts);
        let (waker, backlog) = (Waker::new()?, VecDeque::new());
        let mut ring = Self { parts, features, waker, backlog };
        ring.arm_wake();
        Ok(ring)
    }

    /// What the kernel offers.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Wakes this ring from anywhere.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Operations that the kernel has.
    pub fn in_flight(&self) -> usize {
        self.parts.in_flight.len()
    }

    /// A pool, and the ring of provided buffers from which receives are filled.
    ///
    /// # Errors
    /// When the kernel maps or registers no more memory.
    pub fn add_group(&mut self, layout: Layout) -> Result<Group, Refusal> {
        let mut provided = Provided::new(layout)?;
        let id = u16::try_from(self.parts.groups.len()).expect("invariant: few groups");
        let submitter = self.parts.io.submitter();
        // SAFETY: the mapping has room for `capacity` entries, and `Parts` drops it only after
        // the ring, with which the registration ends.
        unsafe {
            submitter.register_buf_ring_with_flags(provided.address(), provided.capacity(), id, 0)
        }
        .map_err(Refusal::from_setup)?;
        provided.refill();
        self.parts.groups.push(provided);
        Ok(Group(id))
    }

    /// The pool behind a group.
    pub fn pool(&self, group: Group) -> &Pool {
        &self.parts.groups[usize::from(group.0)].pool
    }

    /// Accepts connections until it fails or is cancelled (multishot).
    pub fn accept(&mut self, socket: &Socket, token: Token) {
        let flags = libc::SOCK_CLOEXEC;
        let entry = opcode::AcceptMulti::new(Fd(socket.raw())).flags(flags).build();
        let socket = Some(socket.clone());
        let user_data =
            self.parts.in_flight.launch(Operation::Accept, token, socket, SliceList::new());
        self.push(entry, user_data);
    }

    /// Connects.
    ///
    /// # Errors
    /// When `target` is a path too long for the kernel.
    pub fn connect(&mut self, socket: &Socket, target: &Target, token: Token) -> io::Result<()> {
        let address = target.address()?;
        let in_flight = &mut self.parts.in_flight;
        let kept = Some(socket.clone());
        let user_data = in_flight.launch(Operation::Connect, token, kept, SliceList::new());
        let (pointer, len) = in_flight.address(user_data, address);
        let entry = opcode::Connect::new(Fd(socket.raw()), pointer, len).build();
        self.push(entry, user_data);
        Ok(())
    }

    /// Receives once, into buffers of `group` that the kernel picks when bytes have come: one, or
    /// up to `buffers_max` where the kernel has bundles.
    pub fn recv(&mut self, socket: &Socket, group: Group, buffers_max: usize, token: Token) {
        let is_bundle = self.features.bundles && buffers_max > 1;
        let payload = self.pool(group).0.layout().payload;
        // One byte more than whole buffers: a kernel that would otherwise append whatever else has
        // come (since 6.15) stops at the buffer that it would have to cut.
        let len = if is_bundle { buffers_max * payload + 1 } else { payload };
        self.receive(socket, group, len, if is_bundle { RECEIVE_BUNDLE } else { 0 }, token);
    }

    /// Receives once, at most `bytes_max` bytes into one buffer of `group`.
    pub fn recv_few(&mut self, socket: &Socket, group: Group, bytes_max: usize, token: Token) {
        let len = bytes_max.min(self.pool(group).0.layout().payload);
        self.receive(socket, group, len, 0, token);
    }

    fn receive(&mut self, socket: &Socket, group: Group, len: usize, how: u16, token: Token) {
        let len = u32::try_from(len).expect("invariant: a receive is < 4 GiB");
        let entry = opcode::Recv::new(Fd(socket.raw()), std::ptr::null_mut(), len)
            .buf_group(group.0)
            .ioprio(how)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        let operation = Operation::Receive(group);
        let socket = Some(socket.clone());
        let user_data = self.parts.in_flight.launch(operation, token, socket, SliceList::new());
        self.push(entry, user_data);
    }

    /// Sends the slices as one message. At most 1,024 of them (`UIO_MAXIOV`).
    pub fn send(&mut self, socket: &Socket, slices: SliceList, how: SendHow, token: Token) {
        let in_flight = &mut self.parts.in_flight;
        let user_data = in_flight.launch(Operation::Send, token, Some(socket.clone()), slices);
        let message = in_flight.message(user_data);
        let how = match how {
            SendHow::Whole => libc::MSG_WAITALL,
            SendHow::Now => libc::MSG_DONTWAIT,
        };
        let flags = (how | libc::MSG_NOSIGNAL).cast_unsigned();
        let entry = opcode::SendMsg::new(Fd(socket.raw()), message).flags(flags).build();
        self.push(entry, user_data);
    }

    /// Receives datagrams into buffers of `group`, which has [`MESSAGE_ROOM`](crate::MESSAGE_ROOM) in
    /// each of them, until it fails or is cancelled (multishot).
    pub fn recv_messages(&mut self, socket: &Socket, group: Group, token: Token) {
        let in_flight = &mut self.parts.in_flight;
        let operation = Operation::Messages(group);
        let kept = Some(socket.clone());
        let user_data = in_flight.launch(operation, token, kept, SliceList::new());
        let room = in_flight.room(user_data);
        let entry = opcode::RecvMsgMulti::new(Fd(socket.raw()), room, group.0).build();
        self.push(entry, user_data);
    }

    /// Sends the slices as one datagram, or as several as the envelope says; `WouldBlock` when the
    /// socket is full.
    pub fn send_message(
        &mut self,
        socket: &Socket,
        envelope: Envelope,
        slices: SliceList,
        token: Token,
    ) {
        let in_flight = &mut self.parts.in_flight;
        let user_data = in_flight.launch(Operation::Send, token, Some(socket.clone()), slices);
        let message = in_flight.enveloped(user_data, envelope, socket.is_v6());
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).cast_unsigned();
        let entry = opcode::SendMsg::new(Fd(socket.raw()), message).flags(flags).build();
        self.push(entry, user_data);
    }

    /// Completes once when the socket can be written to, or has failed.
    pub fn poll_writable(&mut self, socket: &Socket, token: Token) {
        let mask = u32::from(libc::POLLOUT.cast_unsigned());
        let entry = opcode::PollAdd::new(Fd(socket.raw()), mask).build();
        let socket = Some(socket.clone());
        let user_data =
            self.parts.in_flight.launch(Operation::Writable, token, socket, SliceList::new());
        self.push(entry, user_data);
    }

    /// Cancels every operation on the socket; each completes with `ECANCELED`, or as it would have.
    pub fn cancel(&mut self, socket: &Socket) {
        let builder = CancelBuilder::fd(Fd(socket.raw())).all();
        let entry = opcode::AsyncCancel2::new(builder).build();
        let socket = Some(socket.clone());
        let user_data =
            self.parts.in_flight.launch(Operation::Cancel, Token(0), socket, SliceList::new());
        self.push(entry, user_data);
    }

    /// Cancels every operation of this ring; each completes with `ECANCELED`, or as it would have.
    pub fn cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        let user_data =
            self.parts.in_flight.launch(Operation::Cancel, Token(0), None, SliceList::new());
        self.push(entry, user_data);
    }

    /// Whether the kernel has nothing of this ring but its own wake-up call.
    pub fn is_quiet(&self) -> bool {
        self.parts.in_flight.len() <= 1 && self.backlog.is_empty()
    }

    fn arm_wake(&mut self) {
        let descriptor = Fd(self.waker.0.as_raw_fd());
        let mask = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(descriptor, mask).build();
        let user_data =
            self.parts.in_flight.launch(Operation::Wake, Token(0), None, SliceList::new());
        self.push(entry, user_data);
    }

    fn push(&mut self, entry: squeue::Entry, user_data: UserData) {
        let entry = entry.user_data(user_data.0);
        if !self.backlog.is_empty() || !self.push_now(&entry) {
            // The queue is full: make room. Should the kernel take nothing just now, the entry
            // waits for the next turn.
            self.flush_backlog();
            if !self.backlog.is_empty() || !self.push_now(&entry) {
                self.backlog.push_back(entry);
            }
        }
    }

    fn push_now(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: whatever the entry points to is kept by the in-flight table or a group until
        // the operation's last completion, and an entry that is not pushed is not seen at all.
        unsafe { self.parts.io.submission().push(entry) }.is_ok()
    }

    /// Submits what is queued, and queues what did not fit.
    fn flush_backlog(&mut self) {
        self.parts.groups.iter_mut().for_each(Provided::refill);
        while self.parts.io.submit().is_ok_and(|submitted| submitted > 0) {
            while let Some(entry) = self.backlog.pop_front() {
                if !self.push_now(&entry) {
                    self.backlog.push_front(entry);
                    break;
                }
            }
            if self.backlog.is_empty() {
                return;
            }
        }
    }

    /// Publishes free buffers, submits what was asked, and waits for a completion or the timeout.
    /// `None` waits for ever.
    ///
    /// # Errors
    /// When the ring has failed for good.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.backlog.is_empty() {
            self.parts.groups.iter_mut().for_each(Provided::refill);
        } else {
            self.flush_backlog();
        }
        let timespec = timeout.map(Timespec::from);
        let mut arguments = SubmitArgs::new();
        if let Some(timespec) = &timespec {
            arguments = arguments.timespec(timespec);
        }
        match self.parts.io.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                // Time is up, a signal came, or completions wait to be read first.
                Some(Errno::ETIME | Errno::EINTR | Errno::EBUSY | Errno::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The next completion; call until `None`.
    pub fn next_completion(&mut self) -> Option<(Token, Completion)> {
        loop {
            let entry = self.reap()?;
            let more = cqueue::more(entry.flags());
            let Some(landed) = self.parts.in_flight.land(UserData(entry.user_data()), more) else {
                continue;
            };
            let token = landed.token;
            if let Some(completion) = self.complete(landed, &entry, more) {
                return Some((token, completion));
            }
        }
    }

    fn reap(&mut self) -> Option<cqueue::Entry> {
        self.parts.io.completion().next()
    }

    fn complete(
        &mut self,
        landed: Landed,
        entry: &cqueue::Entry,
        more: bool,
    ) -> Option<Completion> {
        let result = outcome(entry.result());
        Some(match landed.operation {
            Operation::Accept => Completion::Accepted(result.map(|_| accepted(entry)), more),
            Operation::Connect => Completion::Connected(result.map(drop)),
            Operation::Receive(group) => {
                let first = cqueue::buffer_select(entry.flags());
                let groups = &mut self.parts.groups;
                let provided = &mut groups[usize::from(group.0)];
                Completion::Received(match (result, first) {
                    (Ok(len), Some(first)) if len > 0 => provided.take(first, len),
                    // The end of the stream; a buffer that came with it goes straight back.
                    (Ok(_), first) => first
                        .map_or(Ok(()), |first| provided.take(first, 0).map(drop))
                        .map(|()| Vec::new()),
                    (Err(error), first) => {
                        // A buffer that came with an error holds nothing; it goes straight back.
                        first.map(|first| provided.take(first, 0).map(drop));
                        Err(error)
                    }
                })
            }
            Operation::Messages(group) => {
                let provided = &mut self.parts.groups[usize::from(group.0)];
                let buffer = cqueue::buffer_select(entry.flags())
                    .map(|first| provided.take(first, result.as_ref().map_or(0, |len| *len)));
                let received = match (result, buffer) {
                    // A buffer that came with an error holds nothing; it goes straight back.
                    (Err(error), _) | (Ok(_), Some(Err(error))) => Err(error),
                    (Ok(_), None) => Err(io::ErrorKind::UnexpectedEof.into()),
                    (Ok(_), Some(Ok(buffers))) => buffers
                        .into_iter()
                        .next()
                        .and_then(message::read)
                        .ok_or_else(|| io::ErrorKind::InvalidData.into()),
                };
                Completion::Message { result: received, more }
            }
            Operation::Send => Completion::Sent { result, slices: landed.slices },
            Operation::Writable => Completion::Writable(result.map(drop)),
            Operation::Wake => {
                self.waker.reset();
                self.arm_wake();
                Completion::Woken
            }
            Operation::Cancel => return None,
        })
    }

    /// Cancels everything and waits until the kernel holds nothing of ours.
    fn drain(&mut self) -> io::Result<()> {
        let deadline = std::time::Instant::now() + DRAIN_MAX;
        let everything = CancelBuilder::any();
        let timeout = Some(Timespec::from(DRAIN_MAX));
        self.parts.io.submitter().submit()?;
        match self.parts.io.submitter().register_sync_cancel(timeout, everything) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        while self.in_flight() > 0 && std::time::Instant::now() < deadline {
            while let Some(entry) = self.reap() {
                let more = cqueue::more(entry.flags());
                if let Some(landed) = self.parts.in_flight.land(UserData(entry.user_data()), more)
                    && landed.operation == Operation::Accept
                    && entry.result() >= 0
                {
                    drop(accepted(&entry));
                }
            }
            if self.in_flight() > 0 {
                self.submit_and_wait(Some(Duration::from_millis(10)))?;
            }
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let is_drained = self.drain().is_ok() && self.in_flight() == 0;
        if is_drained {
            // SAFETY: dropped once, here; `parts` is not used again.
            unsafe { ManuallyDrop::drop(&mut self.parts) };
        }
        // Otherwise the kernel may still write to our memory: leaking it is safe, freeing is not.
    }
}

/// The largest ring that the limit on locked memory allows.
fn build() -> io::Result<IoUring> {
    let mut result = Err(io::Error::from(Errno::ENOMEM));
    for (submissions, completions) in SIZES {
        result = build_sized(submissions, completions);
        let is_short = |error: &io::Error| error.raw_os_error() == Some(Errno::ENOMEM as i32);
        if !result.as_ref().is_err_and(is_short) {
            break;
        }
    }
    result
}

fn build_sized(submissions: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        // One thread submits and reaps, and the kernel's deferred work runs when it asks for
        // completions: no interrupts in the middle of a turn, and better batches.
        .setup_single_issuer()
        .setup_defer_taskrun()
        // Tells in shared memory that such work waits.
        .setup_taskrun_flag()
        // One bad entry does not keep the rest of a batch back.
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(completions)
        .build(submissions)
}

/// The kernel's convention: a negative result is an error number.
fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_negative| io::Error::from_raw_os_error(-result))
}

/// The socket of a successful accept. Call once per completion.
fn accepted(entry: &cqueue::Entry) -> Socket {
    // SAFETY: accept made this descriptor for the one completion that names it; the callers turn
    // each completion into a socket once.
    Socket::from(unsafe { OwnedFd::from_raw_fd(entry.result()) })
}
