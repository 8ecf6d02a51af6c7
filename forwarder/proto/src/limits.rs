//! Every bound of the protocol and of the data plane, by name, and their sum.
//!
//! Sizes are bytes unless the name says otherwise.

use std::time::Duration;

/// The protocol's version; `HELLO` and `WELCOME` carry it and must agree.
pub const VERSION: u16 = 1;

/// The most content that a TLS 1.3 record holds (RFC 8446 §5.1).
pub const CONTENT_MAX: usize = 16_384;
/// A TLS record's header in front of the content (RFC 8446 §5.2).
pub const RECORD_HEADER: usize = 5;
/// The content type and the AEAD tag behind the content.
pub const RECORD_TRAILER: usize = 1 + 16;
/// The longest record on the wire that we send.
pub const RECORD_MAX: usize = RECORD_HEADER + CONTENT_MAX + RECORD_TRAILER;
/// The longest record that RFC 8446 §5.2 lets a peer send.
pub const RECORD_ACCEPTED_MAX: usize = RECORD_HEADER + CONTENT_MAX + 256;

/// A frame's header: kind, flags, length, flow.
pub const FRAME_HEADER: usize = 8;
/// The most payload that one `DATA` frame, alone in its record, carries.
pub const PAYLOAD_MAX: usize = CONTENT_MAX - FRAME_HEADER;
/// What a slot keeps free in front of a payload, so that it can be sealed where it landed.
pub const SLOT_HEADROOM: usize = RECORD_HEADER + FRAME_HEADER;
/// Payloads up to this size are gathered by copy into one record: a record costs more than that.
pub const GATHERED_MAX: usize = 1_024;

/// The longest name of an internal peer.
pub const NAME_MAX: usize = 64;
/// The longest text in `REFUSED`, `REGISTERED` and `GOAWAY`.
pub const TEXT_MAX: usize = 256;

/// The secret of a datagram path.
pub const PATH_SECRET: usize = 32;
/// Packets that one key of a datagram path seals, as a power of two: a sixth of what AES-GCM allows
/// (RFC 8446 §5.5), and more than a line carries in the time that the loss of a path takes to be
/// noticed, so that the receiver is never two keys behind.
pub const PATH_GENERATION_BITS: u32 = 22;
/// Forged packets after which a datagram path opens nothing more: from there on ChaCha20-Poly1305
/// does not promise enough (RFC 9001 §6.6). AES-GCM bears more.
pub const PATH_FORGED_MAX: u64 = 1 << 36;
/// How far packets may overtake each other on a datagram path: an older one is dropped.
pub const PATH_WINDOW: u64 = 2_048;
/// The UDP payload that any line is expected to carry (RFC 8899 §5.1.2) …
pub const PATH_PACKET_BASE: usize = 1_200;
/// … and what is tried beyond: IPv6's least MTU, tunnels and PPPoE, Ethernet under IPv6 and IPv4,
/// jumbo frames.
pub const PATH_PACKET_CANDIDATES: [usize; 7] = [1_232, 1_372, 1_392, 1_432, 1_452, 1_472, 8_972];
/// The longest packet of a datagram path.
pub const PATH_PACKET_MAX: usize = 8_972;
/// How often a size is tried.
pub const PATH_SEARCH_TRIES: usize = 3;
/// How long after a search the next begins.
pub const PATH_SEARCH_AGAIN: Duration = Duration::from_secs(600);
/// How often a datagram path in use is probed, and the least time between two probes.
pub const PATH_PROBE_BUSY: Duration = Duration::from_millis(500);
/// How often an idle one is: NATs forget a UDP mapping after 30 s.
pub const PATH_PROBE_IDLE: Duration = Duration::from_secs(15);
/// How often a closed one is that flows wait for.
pub const PATH_PROBE_WANTED: Duration = Duration::from_secs(2);
/// The longest wait for a probe's answer, on a line that is known to be slow.
pub const PATH_ANSWER_MAX: Duration = Duration::from_secs(1);
/// Unanswered probes that close a datagram path for sending.
pub const PATH_MISSED_MAX: u32 = 2;
/// Probes whose answers are still taken.
pub const PATH_UNANSWERED_MAX: usize = 8;
/// Answers that may wait to be sent.
pub const PATH_ANSWERS_MAX: usize = 8;
/// How often the relay challenges an address that it has not heard again in between.
pub const PATH_CHALLENGES_MAX: u32 = 3;
/// How long the relay probes an address that is silent.
pub const PATH_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Flows that one session may have at once, both sides' together.
pub const FLOWS_MAX: usize = 65_536;
/// Contact points that one session may have at once.
pub const CONTACTS_MAX: usize = 4_096;
/// Control frames that may wait for the carrier. Each flow may owe a `CREDIT`, an `ACCEPT` and a
/// `RESET`; a peer that makes us owe more than this is not reading and loses its session.
pub const CONTROL_QUEUED_MAX: usize = 4 * FLOWS_MAX;
/// Frames that change nothing that a peer may send at once: when flows end, what was said of them
/// crosses their end, a few frames for each …
pub const FUTILE_FRAMES_MAX: u64 = 4 * FLOWS_MAX as u64;
/// … and in a second, without an end: probes, and acknowledgements of what was known already.
pub const FUTILE_FRAMES_PER_S: u64 = 1_024;
/// Each frame that changes something makes up for so many.
pub const FUTILE_FRAMES_REDEEMED: u64 = 4;

/// A flow's credit at its opening.
pub const FLOW_WINDOW: u64 = 256 * 1024;
/// How far a flow's credit may grow: 8 Gbit/s over 40 ms.
pub const FLOW_WINDOW_MAX: u64 = 40 * 1024 * 1024;
/// Credit is given when a quarter of the window was taken, or this: what was taken and is not said
/// yet is missing on the line.
pub const CREDIT_STEP_MAX: u64 = 1024 * 1024;
/// The round trip that credit reckons with at the least. On a short line the time in both
/// daemons' turns is longer than the line's own, and a window cut to that would hold the flow back.
/// Much more would let a bulk flow fill the carrier's kernel buffers ahead of everybody else.
pub const ROUND_TRIP_MIN: Duration = Duration::from_micros(400);
/// Stream bytes that a session may hold on the receiving side: the `POLL` grant.
pub const SESSION_WINDOW: u64 = 64 * 1024 * 1024;
/// Reliable records that may wait for the peer's `POLL`. With the grant it bounds the retention:
/// full records reach the grant first, gathered ones this.
pub const RETAINED_RECORDS_MAX: usize = 8_192;
/// The longest datagram: what UDP over IPv4 takes.
pub const DATAGRAM_MAX: usize = 65_507;
/// Bytes of datagrams that wait to be sent, with [`DATAGRAM_COST`] for each batch; beyond it the
/// oldest is dropped.
pub const DATAGRAMS_QUEUED_MAX: usize = 1024 * 1024;
/// What a batch of datagrams in the queue counts beyond its bytes, so that empty ones are bounded.
pub const DATAGRAM_COST: usize = 32;
/// A datagram that has waited longer is dropped: whoever sent it has sent it again, or needs it no
/// more.
pub const DATAGRAM_AGE_MAX: Duration = Duration::from_millis(250);
/// The most datagrams in one batch: what Linux takes in one send (`UDP_MAX_SEGMENTS` of kernels
/// before 6.9).
pub const DATAGRAM_SEGMENTS_MAX: usize = 64;
/// What stands in front of the payload of a `DATAGRAM` that has whole datagrams …
pub const DATAGRAM_WHOLE_HEADER: usize = FRAME_HEADER + 2;
/// … and of one that has a part.
pub const DATAGRAM_PART_HEADER: usize = FRAME_HEADER + 6;
/// The least payload that a part has, unless it is the last: less is not worth its header.
pub const DATAGRAM_PART_MIN: usize = 256;
/// Datagrams of one session that may wait for their parts …
pub const JOINS_MAX: usize = 16;
/// … how long each may …
pub const JOIN_TIME_MAX: Duration = Duration::from_secs(1);
/// … how many may be cut after it, so that its number cannot come round again …
pub const JOIN_BEHIND_MAX: u16 = 1_024;
/// … and in how many parts: the longest is cut into 57 on the narrowest path.
pub const JOIN_PARTS_MAX: usize = 128;
/// Flows of datagrams that one end may open: whoever floods it from many sources leaves as much to
/// streams.
pub const DATAGRAM_FLOWS_MAX: usize = FLOWS_MAX / 2;
/// Control frames that may wait when a datagram flow is opened. Any packet from a new source opens
/// one: a flood of them must leave room for what other flows owe.
pub const DATAGRAM_OPENS_QUEUED_MAX: usize = CONTROL_QUEUED_MAX / 4;
/// Packets that are sealed at once for one send on the datagram path …
pub const PACKETS_MAX: usize = 64;
/// … and their bytes: the kernel takes one send of less than 64 KiB.
pub const PACKETS_BYTES_MAX: usize = 64_000;

/// Bytes that one flow may have read ahead of the scheduler.
pub const FLOW_QUEUED_MAX: usize = 512 * 1024;

/// The same while a flow that says little stands beside others that say much: what was read ahead,
/// and the turn that reads it, are what its next message waits for.
pub const FLOW_QUEUED_SHARED_MAX: usize = 64 * 1024;
/// What such a flow sends at the most in [`SHARED_FOR`].
pub const SHARED_FLOW_MAX: u64 = 64 * 1024;
/// How long a carrier counts as shared after such a message.
pub const SHARED_FOR: Duration = Duration::from_millis(50);

/// Bytes that a session's flows together may have read ahead; beyond it a flow that already waits
/// is not read.
pub const SESSION_QUEUED_MAX: usize = 16 * 1024 * 1024;

/// A `POLL` is due after this many stream bytes …
pub const POLL_BYTES: u64 = 256 * 1024;
/// … or this many records …
pub const POLL_RECORDS: u64 = 64;
/// … or this long after a record that none has acknowledged.
pub const POLL_DELAY: Duration = Duration::from_millis(25);

/// Silence after which the other end is probed. Below a NAT's idle timeout of 30 s with room
/// for two lost probes.
pub const PING_IDLE: Duration = Duration::from_secs(5);
/// How often the round trip is measured while flows move.
pub const PING_BUSY: Duration = Duration::from_millis(500);
/// Silence after a probe that makes a carrier suspect, or four round trips if that is more.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(1);
/// How long a probe may stay unanswered before the next one.
pub const PING_RETRY: Duration = Duration::from_secs(2);
/// Unanswered probes after which the carrier is dead.
pub const PING_MISSED_MAX: u32 = 3;
/// How long a record may stay unacknowledged while the other end answers probes: it withholds.
pub const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);
/// Flows that have not earned more share this part of what is left of the session's grant.
pub const GRANT_SHARES: u64 = 8;
/// The least that a flow may have under way: 10,000 flows that nobody reads take 20 MiB.
pub const FLOW_SHARE_MIN: u64 = 2 * 1024;
/// Bytes that a flow's reader must have taken to get a full share of a grant that runs short.
pub const FLOW_SHARE_PROVEN: u64 = 8 * 1024 * 1024;
/// Flows that try again when the grant has grown: each `POLL` wakes so many.
pub const THROTTLED_WAKE_MAX: usize = 8;
/// Flows that are gone and may still stand in such a line, beside as many as there are flows.
pub const WAITING_GONE_MAX: usize = 64;
/// How long a session outlives the loss of a carrier, unless the relay's configuration says
/// otherwise …
pub const GRACE: Duration = Duration::from_secs(60);
/// … the shortest …
pub const GRACE_MIN: Duration = Duration::from_secs(1);
/// … and the longest that it can.
pub const GRACE_MAX: Duration = Duration::from_secs(3_600);
/// How long flows that have ended at both ends may take to hand out the rest after their session.
pub const FLUSH_MAX: Duration = Duration::from_secs(30);
/// Pieces that may wait for a flow's turn before small ones are joined.
pub const FLOW_PIECES: usize = 64;
/// Flows that one end may open while there is no carrier: they wait for the next.
pub const DETACHED_FLOWS_MAX: usize = 1_024;
/// How long `HELLO` or `WELCOME` may take to come.
pub const OPENING_MAX: Duration = Duration::from_secs(5);

/// How long an internal peer's connect, or the judgement on a flow, may take.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long whoever waits to hear of the far end is kept waiting: as long as the other end may take,
/// and what an outage may take on top.
pub const ANNOUNCED_MAX: Duration = Duration::from_secs(30);
/// Flows of one session that may wait to be judged at once.
pub const JUDGED_MAX: usize = 1_024;
/// What one session may tell the control plane while that is behind.
pub const EVENTS_WAITING_MAX: usize = HANDOFF_MAX / 4;
/// How long an association may be silent: RFC 4787 recommends five minutes.
pub const ASSOCIATION_IDLE: Duration = Duration::from_secs(300);
/// The same for one whose source has not been heard since it was answered.
pub const ASSOCIATION_UNANSWERED: Duration = Duration::from_secs(30);
/// Associations of one UDP contact point …
pub const ASSOCIATIONS_PER_CONTACT_MAX: usize = 4_096;
/// … and of one source prefix among them (a /24 of IPv4, a /56 of IPv6).
pub const ASSOCIATIONS_PER_PREFIX_MAX: usize = 512;
/// New associations of one contact point in a second, and in a burst: each costs a socket at the other
/// end, and a crowd of forged sources is not to keep those busy that serve the others.
pub const ASSOCIATIONS_PER_S: u64 = 2_000;
/// Datagrams that may wait until it is judged where their flow leads.
pub const ASSOCIATION_WAITING_MAX: usize = 8;
/// … and their bytes: one of the longest.
pub const ASSOCIATION_WAITING_BYTES_MAX: usize = 65_536;

/// How long a TLS handshake may take, from the first byte to the last.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes under way at once on a relay …
pub const HANDSHAKES_MAX: usize = 1_024;
/// … and from one source prefix (a /24 of IPv4, a /56 of IPv6).
pub const HANDSHAKES_PER_PREFIX_MAX: usize = 64;
/// Probes (`adit doctor`) that a relay answers at once …
pub const PROBES_MAX: usize = 64;
/// … and of one key: one that talks, and one for each time that an idle connection is to live.
pub const PROBES_PER_KEY_MAX: usize = 20;
/// How long one may take: longer than the longest idle time that is measured.
pub const PROBE_MAX: Duration = Duration::from_secs(660);
/// Its requests: enough to ask for every contact point, and to move the bytes of a transfer.
pub const PROBE_REQUESTS_MAX: usize = 2_048;
/// Contact points in one request: so many refusals fit into one message.
pub const PROBE_CONTACTS_MAX: usize = 16;
/// Bytes that it may move in each direction …
pub const PROBE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// … by messages of so many.
pub const PROBE_FILL: usize = 8_000;
/// Its datagrams that are answered, by all sockets together and again by the path's.
pub const PROBE_DATAGRAMS_MAX: usize = 256;
/// Its sources of datagrams that are kept.
pub const PROBE_SOURCES_MAX: usize = 64;
/// How long the relay keeps a contact point for a key whose session ended.
pub const CONTACT_LEASE: Duration = Duration::from_secs(60);

/// Unsent bytes that the kernel may hold for a carrier (`TCP_NOTSENT_LOWAT`): a scheduler above
/// a deep kernel queue decides nothing.
pub const CARRIER_NOTSENT: u32 = 128 * 1024;
/// The same on a slow line: two segments.
pub const CARRIER_NOTSENT_MIN: u32 = 3 * 1024;
/// The most that one vectored send on a carrier gathers.
pub const CARRIER_SEND_MAX: usize = 512 * 1024;
/// The same on a carrier that is shared: a message waits for the send that is under way.
pub const CARRIER_SEND_SHARED_MAX: usize = 64 * 1024;
/// The most pieces that it has: the kernel takes 1,024 (`UIO_MAXIOV`), and a few come on top.
pub const CARRIER_SEND_PIECES: usize = 1_000;
/// The least that it is cut down to on a slow line: one record.
pub const CARRIER_SEND_MIN: usize = RECORD_MAX;
/// A carrier's send gathers what the line takes in this time, and the kernel holds no more unsent.
pub const CARRIER_SEND_TIME: Duration = Duration::from_millis(2);
/// A record has no more payload than what the line takes in this time …
pub const CARRIER_RECORD_TIME: Duration = Duration::from_millis(1);
/// … but so much, or its header and tag weigh too much.
pub const RECORD_PAYLOAD_MIN: usize = 2 * 1024;
/// What a narrow line's queues may hold beyond what is on its way, in time.
pub const LINE_QUEUE_TIME: Duration = Duration::from_millis(3);
/// Below this rate, in bytes a second, a line is narrow: the kernel's in-flight data are felt …
pub const LINE_NARROW: u64 = 12_500_000;
/// … and from this one on it is no more.
pub const LINE_WIDE: u64 = 25_000_000;
/// How long sent bytes may stay unacknowledged by the kernel's peer (`TCP_USER_TIMEOUT`).
pub const CARRIER_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Payload of a carrier's receive buffer.
pub const CARRIER_BUFFER: usize = 256 * 1024;
/// Receive buffers of the carriers of one pump.
pub const CARRIER_BUFFERS: u16 = 64;
/// Of those, how many the kernel may hold at once. Few, so that they stay in the L2 cache.
pub const CARRIER_BUFFERS_PUBLISHED: u16 = 4;
/// When fewer than this many are free, what waits for a slow socket is copied out of them.
pub const CARRIER_BUFFERS_LOW: usize = 32;
/// Slots for the flows of one pump: one session's retention and what its flows read ahead.
pub const FLOW_SLOTS: u16 = 8_192;
/// Of those, how many the kernel may hold at once: 512 KiB, within the L2 cache.
pub const FLOW_SLOTS_PUBLISHED: u16 = 32;
/// When fewer than this many are free, sessions that hold much take no more.
pub const FLOW_SLOTS_LOW: usize = 2_048;
/// How often memory that no buffer has needed since is given back …
pub const POOL_TRIM_EVERY: Duration = Duration::from_secs(5);
/// … and how much of each pool at once: it takes the kernel less than a millisecond.
pub const POOL_TRIM_MAX: usize = 16 * 1024 * 1024;
/// What a session may hold then, in bytes.
pub const SESSION_HELD_WHEN_LOW: usize = 4 * 1024 * 1024;
/// Slots that one receive of a busy flow may fill.
pub const FLOW_RECEIVE_SLOTS: usize = 16;
/// Pieces that one send to a flow's socket gathers (`UIO_MAXIOV` is 1,024).
pub const FLOW_SEND_PIECES: usize = 64;

/// What a UDP socket's receive may bring at once: several datagrams that the kernel has put together.
pub const MESSAGE_BYTES_MAX: usize = 65_536;
/// Buffers for what UDP sockets bring …
pub const MESSAGE_BUFFERS: u16 = 128;
/// … and how many of them the kernel may hold at once.
pub const MESSAGE_BUFFERS_PUBLISHED: u16 = 64;
/// Bytes that the kernel may hold for a UDP socket in each direction.
pub const DATAGRAM_SOCKET_BYTES: usize = 4 * 1024 * 1024;

/// Pieces of flows that one send measures: as many as it has where they are not tiny.
pub const DEPARTED_MAX: usize = 1_024;
/// … and how many of them keep their memory when there are fewer.
pub const DEPARTED_KEPT: usize = 32;
/// The memory of each, …
pub const DEPARTED_BYTES: usize = 16;
/// … and the lists of them that a session has: of its streams, its datagrams, its carrier's send, and
/// its packets.
pub const DEPARTED_LISTS: usize = 4;
/// Receives whose bytes one flow's socket may have yet to take, each measured apart; what comes on
/// top is measured with the last of them.
pub const ARRIVALS_MAX: usize = 8;
/// A flow that waits for nothing has no memory for them; so many that had are kept for the next.
pub const ARRIVALS_SPARE: usize = 64;
/// Contact points whose times one pump keeps apart; what comes on top counts to one more …
pub const MEASURED_CONTACTS_MAX: usize = 128;
/// … of which a session that has fewer takes them from those that have more, …
pub const MEASURED_CONTACTS_SHARE: usize = 32;
/// … and the same of sessions.
pub const MEASURED_SESSIONS_MAX: usize = 64;
/// What was not used for so long leaves its place to what comes.
pub const MEASURED_QUIET: Duration = Duration::from_secs(600);
/// Times are told apart from so much on, …
pub const MEASURED_TIME_MIN: Duration = Duration::from_micros(1);
/// … up to as long as a session may wait for a carrier, …
pub const MEASURED_TIME_MAX: Duration = GRACE_MAX;
/// … to so many decimal digits.
pub const MEASURED_DIGITS: u8 = 2;
/// The memory of one histogram: 27 powers of two of 128 counts each.
pub const HISTOGRAM_BYTES: usize = 27 * 128 * 8;
/// Characters of one text in the audit log.
pub const AUDIT_TEXT_CHARS_MAX: usize = 300;
/// Lines of the audit log about strangers that one cause may have at once …
pub const AUDIT_STRANGERS_AT_ONCE: u32 = 10;
/// … and how long until it may have one more: with ten causes and 700 bytes a line, some 10 MB a day.
pub const AUDIT_STRANGERS_EVERY: Duration = Duration::from_secs(60);
/// The same about those who are let in: an operator can shut out who abuses it.
pub const AUDIT_KNOWN_AT_ONCE: u32 = 1_000;
/// … and how long until one more.
pub const AUDIT_KNOWN_EVERY: Duration = Duration::from_secs(1);
/// The same of all else, by event: a relay that starts may have all of its forwarders' contact points
/// registered at once …
pub const AUDIT_CHANGES_AT_ONCE: u32 = 100_000;
/// … and how long until one more: with 300 bytes a line some 250 MB a day.
pub const AUDIT_CHANGES_EVERY: Duration = Duration::from_millis(100);
/// How often it is said that the audit log cannot be written.
pub const AUDIT_COMPLAINT_EVERY: Duration = Duration::from_secs(60);

/// Flows whose beginning is told of in the log in a second, where that is asked for, by one thread of the
/// data plane; as many lines again tell of their ends.
pub const STORIES_PER_S: u64 = 500;

/// Histograms of a contact point …
pub const HISTOGRAMS_PER_CONTACT: usize = 3;
/// … and of a session.
pub const HISTOGRAMS_PER_SESSION: usize = 2;

/// Completions that a pump handles in one turn.
pub const TURN_COMPLETIONS_MAX: usize = 1_024;

/// Commands that may wait for a pump, and events for the control plane.
pub const HANDOFF_MAX: usize = 16_384;

/// The most memory that one pump's pools may take.
pub const POOL_BYTES_MAX: usize = CARRIER_BUFFERS as usize
    * (RECORD_ACCEPTED_MAX + CARRIER_BUFFER + 64)
    + FLOW_SLOTS as usize * (SLOT_HEADROOM + PAYLOAD_MAX + RECORD_TRAILER + 64)
    + MESSAGE_BUFFERS as usize * (MESSAGE_BYTES_MAX + 512);

// The pools together stay within what the documentation promises: 160 MiB a pump, of which only
// what was touched at once is ever resident.
const _: () = assert!(POOL_BYTES_MAX <= 160 * 1024 * 1024);
// What a session's bytes under way are measured by stays within 64 KiB, and within 4 KiB at rest.
const _: () = assert!(DEPARTED_LISTS * DEPARTED_MAX * DEPARTED_BYTES <= 64 * 1024);
const _: () = assert!(DEPARTED_LISTS * 2 * DEPARTED_KEPT * DEPARTED_BYTES <= 4 * 1024);
// All histograms of a pump together stay within 16 MiB.
const _: () = assert!(
    HISTOGRAM_BYTES
        * ((MEASURED_CONTACTS_MAX + 1) * HISTOGRAMS_PER_CONTACT
            + (MEASURED_SESSIONS_MAX + 1) * HISTOGRAMS_PER_SESSION)
        <= 16 * 1024 * 1024
);
// A session that is granted its whole window can be retained in slots.
const _: () =
    assert!(FLOW_SLOTS as u64 * PAYLOAD_MAX as u64 >= SESSION_WINDOW + FLOW_QUEUED_MAX as u64);
// A flow that has all of its credit back can fill at least one slot, or it would never be read.
const _: () = assert!(FLOW_WINDOW >= 4 * PAYLOAD_MAX as u64);
