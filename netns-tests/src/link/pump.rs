//! Moves frames from one TAP device to the other.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, setns};
use nix::sys::time::TimeSpec;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::Link;
use super::impairment::{Fate, Impairment};

/// A virtio header, an Ethernet header with a VLAN's tag, and the longest packet.
const FRAME_BYTES_MAX: usize = 10 + 18 + 65_535;
/// Frames that are read before those that are due are looked at again.
const BATCH: usize = 64;
/// What may wait for its time; a link of 10 Gbit/s and 400 ms.
const WAITING_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Buffers that are kept for reuse.
const SPARE_MAX: usize = 1024;

/// What one direction of a link did, in frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Came in.
    pub offered: u64,
    /// Came out, copies included.
    pub passed: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped for want of room.
    pub overflowed: u64,
    /// Came out twice.
    pub duplicated: u64,
    /// Were held back.
    pub reordered: u64,
    /// Found the other device down, as the first do while the link is set up.
    pub refused: u64,
}

impl Counts {
    /// Reads what its `Display` wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            offered: next()?,
            passed: next()?,
            lost: next()?,
            overflowed: next()?,
            duplicated: next()?,
            reordered: next()?,
            refused: next()?,
        })
    }

    /// What came to these counts after `before` was taken.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            offered: self.offered - before.offered,
            passed: self.passed - before.passed,
            lost: self.lost - before.lost,
            overflowed: self.overflowed - before.overflowed,
            duplicated: self.duplicated - before.duplicated,
            reordered: self.reordered - before.reordered,
            refused: self.refused - before.refused,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offered, passed, lost, overflowed, duplicated, reordered, refused } = self;
        write!(f, "{offered} {passed} {lost} {overflowed} {duplicated} {reordered} {refused}")
    }
}

/// [`Counts`] that a pump adds to while others read.
#[derive(Debug, Default)]
pub struct Counters {
    offered: AtomicU64,
    passed: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    /// As they are now; a frame under way may be in some and not yet in others.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            offered: self.offered.load(Relaxed),
            passed: self.passed.load(Relaxed),
            lost: self.lost.load(Relaxed),
            overflowed: self.overflowed.load(Relaxed),
            duplicated: self.duplicated.load(Relaxed),
            reordered: self.reordered.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

/// Enters the namespace of `end` (`gw:wan0`) and opens that TAP device, or makes it. The device
/// outlives this process: without one it has no carrier.
///
/// # Errors
/// When there is no such namespace, or TAP devices are not allowed.
pub fn open(end: &str, link: &Link) -> io::Result<SyncDevice> {
    let Some((namespace, device)) = end.split_once(':') else {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("'{end}' is not NAME:DEVICE")));
    };
    setns(File::open(format!("/run/netns/{namespace}"))?, CloneFlags::CLONE_NEWNET)?;
    let builder = DeviceBuilder::new().name(device).layer(Layer::L2).inherit_enable_state();
    let device = builder.offload(link.keeps_offload()).build_sync()?;
    device.persist()?;
    device.set_nonblocking(true)?;
    Ok(device)
}

/// A frame that waits for its time. Those of one moment leave as they came.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    due: Duration,
    number: u64,
    frame: Vec<u8>,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Moves frames in the direction number `direction` for ever.
///
/// # Errors
/// When a device fails.
pub fn pump(
    from: &SyncDevice,
    to: &SyncDevice,
    link: Link,
    direction: u64,
    counters: &Counters,
) -> io::Result<()> {
    let mut line = Line {
        to,
        counters,
        impairment: Impairment::new(link, direction),
        begun: Instant::now(),
        number: 0,
        waiting: BinaryHeap::new(),
        waiting_bytes: 0,
        spare: Vec::new(),
    };
    let mut frame = vec![0; FRAME_BYTES_MAX];
    loop {
        let until_due = line.pass_due();
        let mut readable = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut readable, until_due.map(TimeSpec::from), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        for _ in 0..BATCH {
            match from.recv(&mut frame) {
                Ok(length) => line.take(&frame[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The device is down at the moment: nothing comes from it, and poll says so at once.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

struct Line<'a> {
    to: &'a SyncDevice,
    counters: &'a Counters,
    impairment: Impairment,
    begun: Instant,
    /// Of the next frame.
    number: u64,
    waiting: BinaryHeap<Reverse<Waiting>>,
    waiting_bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Line<'_> {
    /// Passes on what is due, and says when the next will be.
    fn pass_due(&mut self) -> Option<Duration> {
        loop {
            let now = self.begun.elapsed();
            let Reverse(next) = self.waiting.peek()?;
            if next.due > now {
                return Some(next.due - now);
            }
            let Reverse(next) = self.waiting.pop()?;
            self.waiting_bytes -= next.frame.len();
            self.pass(&next.frame);
            if self.spare.len() < SPARE_MAX {
                self.spare.push(next.frame);
            }
        }
    }

    fn take(&mut self, frame: &[u8]) {
        self.counters.offered.fetch_add(1, Relaxed);
        let now = self.begun.elapsed();
        match self.impairment.fate(now, frame.len()) {
            Fate::Lost => add(&self.counters.lost),
            Fate::Overflowed => add(&self.counters.overflowed),
            Fate::Passes { due, twice, late } => {
                if late {
                    add(&self.counters.reordered);
                }
                if twice {
                    add(&self.counters.duplicated);
                    self.keep(due, frame);
                }
                if due <= now && self.waiting.is_empty() {
                    self.pass(frame);
                } else {
                    self.keep(due, frame);
                }
            }
        }
    }

    fn keep(&mut self, due: Duration, frame: &[u8]) {
        if self.waiting_bytes + frame.len() > WAITING_BYTES_MAX {
            add(&self.counters.overflowed);
            return;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        self.waiting_bytes += copy.len();
        self.waiting.push(Reverse(Waiting { due, number: self.number, frame: copy }));
        self.number += 1;
    }

    fn pass(&self, frame: &[u8]) {
        match self.to.send(frame) {
            Ok(_) => add(&self.counters.passed),
            // To the sender this is a link that swallows.
            Err(_) => add(&self.counters.refused),
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
