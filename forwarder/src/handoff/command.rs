//! What the control plane tells a pump.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use adit_proto::frame::{ControlFrame, Destination, GoawayReason, Open, Protocol, ResetReason};
use adit_proto::id::{ContactId, FlowId, Side};
use adit_proto::record::RecordLayer;
use adit_ring::Target;
use serde::{Deserialize, Serialize};

use super::{Asked, Filter};

use crate::key::PublicKey;
use crate::probe::Token;
use crate::sources::Sources;
use crate::upgrade::Parcel;

/// The control plane's name for a session on a pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub u64);

/// A TCP connection whose TLS handshake is done, with the record layer that continues it.
#[derive(Debug)]
pub struct Carrier {
    /// The connection.
    pub stream: OwnedFd,
    /// Seals and opens its records.
    pub records: RecordLayer,
    /// Bytes that came behind the handshake: the record layer's first input.
    pub leftover: Vec<u8>,
    /// The other end's address, for logs.
    pub remote: SocketAddr,
    /// Who has proved to be there.
    pub peer: PublicKey,
}

/// An internal peer as its distributor needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it listens.
    pub target: Target,
    /// Which external peers may reach it.
    pub sources: Arc<Sources>,
    /// Whether it is told who calls, by a header in front of the bytes.
    pub proxy: Option<ProxyHeader>,
    /// How much all that call it may use together.
    pub quota: Quota,
}

/// How an internal peer is told who calls (the PROXY protocol, `haproxy.org/download/1.8/doc/proxy-protocol.txt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Which form.
    pub version: ProxyVersion,
    /// The contact address that is called, once it is known.
    pub contact: Option<SocketAddr>,
}

/// A form of the PROXY protocol's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// What a caller is told, in bytes of its own protocol, before those of the flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replies {
    /// When the flow is connected at its far end.
    pub accepted: Vec<u8>,
    /// When it is not: one for each reason, in their order.
    refused: Vec<Vec<u8>>,
}

impl Replies {
    /// What is said when there is a far end, and when there is none for some reason.
    pub fn new(accepted: Vec<u8>, refused: impl Fn(ResetReason) -> Vec<u8>) -> Self {
        Self { accepted, refused: ResetReason::ALL.into_iter().map(refused).collect() }
    }

    /// What is said when there is no far end.
    pub fn refused(&self, reason: ResetReason) -> &[u8] {
        let at = ResetReason::ALL.into_iter().position(|known| known == reason);
        at.and_then(|at| self.refused.get(at)).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Who waits to hear whether a flow's far end is there.
#[derive(Clone, Debug)]
pub enum Listening {
    /// The caller itself.
    Caller(Replies),
    /// The control plane, by an [`Event::Heard`](super::Event::Heard) with this number.
    ControlPlane(u64),
}

/// What becomes of a flow that the other end opened to a [`Destination`] that the control plane
/// judges.
#[derive(Debug)]
pub enum Answer {
    /// It is dialled.
    Dial(Target),
    /// It goes on in a connected socket.
    Join(OwnedFd),
    /// Nothing.
    Refuse(ResetReason),
}

/// How much of something a session's owner may use; without a figure as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Flows at once.
    pub flows_max: Option<usize>,
    /// New flows in a second.
    pub flows_per_s: Option<u32>,
    /// Stream bytes in a second, both directions together.
    pub bytes_per_s: Option<u64>,
}

/// How an owner stands with its volume of the month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Volume {
    /// It has none, and what it moves is not counted.
    #[default]
    Unlimited,
    /// Some is left: what it moves is counted.
    Left,
    /// It is used up: nothing more may move, whatever the quota says.
    Spent,
}

/// A carrier's owner, and what a session that begins on it would be.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The name that later commands and events use.
    pub session: SessionKey,
    /// Who is at the other end; at the relay the owner of the session.
    pub key: PublicKey,
    /// Whom it is with, for logs: the forwarder's name at the relay, the relay's address at the
    /// forwarder.
    pub name: Arc<str>,
    /// How long the session is to outlive the loss of a carrier; the relay decides.
    pub grace: Duration,
    /// How many sessions the key may have at once, at the relay. Where that is one, a session that
    /// begins takes the older one's place.
    pub sessions_max: usize,
    /// What all sessions of the key together may use.
    pub quota: Quota,
    /// How they stand with their volume, at the relay.
    pub volume: Volume,
    /// Whether datagrams may have a path of their own, at the forwarder; the relay offers one or none.
    pub has_path: bool,
}

/// A socket of a contact address.
#[derive(Debug)]
pub enum ContactSocket {
    /// It listens; each connection becomes a flow.
    Tcp(TcpListener),
    /// It is bound; each source's datagrams are a flow.
    Udp(UdpSocket),
}

impl ContactSocket {
    /// A second handle of the same socket.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Udp(socket) => socket.try_clone().map(Self::Udp),
        }
    }
}

impl From<(Protocol, OwnedFd)> for ContactSocket {
    fn from((protocol, socket): (Protocol, OwnedFd)) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp(socket.into()),
            Protocol::Udp => Self::Udp(socket.into()),
        }
    }
}

impl AsFd for ContactSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// The relay's socket for the datagram paths of one pump's sessions.
#[derive(Debug)]
pub struct PathSocket {
    /// Bound at the port that sessions are offered; with several pumps one of as many that share it.
    pub socket: UdpSocket,
    /// Which pump this is, and of how many: a path's id, modulo the count, is the pump.
    pub pump: (u32, u32),
}

/// What packets of a probe look like that come to the socket of the datagram paths.
#[derive(Clone, Debug)]
pub struct PathEcho {
    /// What stands in front, as a session's id does: modulo the count of pumps it is the pump.
    pub id: u32,
    /// What has to follow.
    pub token: Token,
}

/// What the control plane tells a pump.
#[derive(Debug)]
pub enum Command {
    /// For a while, packets of a probe are sent back as they came.
    Echo(PathEcho),
    /// The probe of this [`PathEcho::id`] has ended: its packets are strangers again.
    EndEcho(u32),
    /// From now on sessions that begin at this relay are offered a datagram path.
    OfferPaths(PathSocket),
    /// Brings a carrier: for a session that begins, or for one that is to be resumed.
    ///
    /// At the forwarder its session says which. At the relay the other end's `HELLO` does: the session
    /// then is the one that begins, should `HELLO` not name one that the key has.
    Carry {
        /// Which end this is.
        side: Side,
        /// Whose it is.
        arrival: Arrival,
        /// What carries it.
        carrier: Box<Carrier>,
    },
    /// The network of this host has changed: probes the session's carrier, and lets it be replaced
    /// unless it answers.
    Doubt {
        /// Which session.
        session: SessionKey,
    },
    /// Sends a registrar's frame to the other end.
    Send {
        /// Which session.
        session: SessionKey,
        /// The frame.
        frame: ControlFrame,
    },
    /// From now on a flow that the other end opens to `contact` is dialled to `target`.
    Serve {
        /// Which session.
        session: SessionKey,
        /// The contact point.
        contact: ContactId,
        /// The internal peer's name, for logs.
        peer: Arc<str>,
        /// Where it listens, and for whom.
        service: Service,
    },
    /// From now on what comes to `socket` is opened as flows, which count to `contact`.
    Listen {
        /// Which session.
        session: SessionKey,
        /// The contact point.
        contact: ContactId,
        /// The internal peer's name, for logs.
        peer: Arc<str>,
        /// A socket of the contact address.
        socket: ContactSocket,
        /// Where the flows lead.
        to: Destination,
        /// Who may connect.
        sources: Arc<Sources>,
    },
    /// From now on these may connect to a listener that the pump has.
    Admit {
        /// Which session.
        session: SessionKey,
        /// The contact point that the listener's flows count to.
        contact: ContactId,
        /// Who may connect.
        sources: Arc<Sources>,
    },
    /// Opens a flow for a connection that the control plane has: a TCP connection, or a connected UDP
    /// socket.
    Open {
        /// Which session.
        session: SessionKey,
        /// Where it is to lead, and who it is.
        open: Open,
        /// The peer's name, for logs.
        peer: Arc<str>,
        /// The connection.
        stream: OwnedFd,
        /// Who waits to hear of the far end; until then the connection is not read.
        listening: Option<Listening>,
    },
    /// Answers an [`Event::Opened`](super::Event::Opened).
    Answer {
        /// Which session.
        session: SessionKey,
        /// Which flow; nothing happens when it has gone meanwhile.
        flow: FlowId,
        /// What becomes of it.
        answer: Answer,
    },
    /// What all sessions of the session's owner together may use from now on.
    Limit {
        /// Which session.
        session: SessionKey,
        /// How much.
        quota: Quota,
        /// How they stand with their volume. Where it is used up flows that are open are reset, and no
        /// others are opened.
        volume: Volume,
    },
    /// Asks for an [`Event::Moved`](super::Event::Moved), which comes unless nothing was
    /// counted since.
    Moved,
    /// No new flows through `contact`; those that run go on.
    Withdraw {
        /// Which session.
        session: SessionKey,
        /// The contact point.
        contact: ContactId,
    },
    /// No new flows in the session; it ends, with [`Event::Down`](super::Event::Down), when the last one has ended.
    Drain {
        /// Which session.
        session: SessionKey,
    },
    /// Ends the session now: its flows are reset, its carrier closed; [`Event::Down`](super::Event::Down) follows.
    Close {
        /// Which session.
        session: SessionKey,
        /// Why, told to the other end in `GOAWAY` …
        reason: GoawayReason,
        /// … and in words.
        why: String,
    },
    /// Asks for an [`Event::Pulse`](super::Event::Pulse): whether the pump's loop turns.
    Pulse(Asked),
    /// Asks for an [`Event::Report`](super::Event::Report).
    Report(Asked),
    /// Asks for one that has the [`Times`](super::Times) that the filter selects, too.
    Measure(Asked, Filter),
    /// Lets all histograms begin anew.
    ResetTimes,
    /// Stands still: gives the kernel nothing more. An [`Event::Quiet`](super::Event::Quiet)
    /// follows when the kernel has nothing of the pump's any more.
    Freeze,
    /// Packs all that a pump has that stands still, for another process: an
    /// [`Event::Packed`](super::Event::Packed) with this number of the pump follows. No other command but
    /// [`Command::Thaw`] may come behind it.
    Pack(usize),
    /// Takes over what a pump of another process has left, standing still, with its carriers or without: an
    /// [`Event::Restored`](super::Event::Restored) follows.
    Restore {
        /// What it has left.
        parcel: Parcel,
        /// Whether to go on with its carriers.
        keeps_carriers: bool,
    },
    /// Goes on with what is there.
    Thaw,
    /// Ends every session and then the pump's thread.
    Stop,
}
