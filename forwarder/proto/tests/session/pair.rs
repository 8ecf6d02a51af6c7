//! Two sessions with a record layer each, a carrier that loses nothing, and a virtual clock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use adit_proto::frame::{Destination, Open, Protocol};
use adit_proto::id::{ContactId, FlowId, SessionId, Side, Time};
use adit_proto::limits::{CARRIER_SEND_MAX, GRACE, PAYLOAD_MAX};
use adit_proto::record::{Opened, RecordLayer};
use adit_proto::session::{Event, Greeted, Sealed, Session, SessionError};

use crate::keys::{chunk, records};

/// One end: the session, what each flow's socket got, and what else happened.
pub(crate) struct End {
    pub(crate) session: Session<Box<[u8]>>,
    pub(crate) records: RecordLayer,
    pub(crate) delivered: BTreeMap<FlowId, Vec<u8>>,
    /// Bytes that a stalled socket has not taken.
    pub(crate) untaken: BTreeMap<FlowId, usize>,
    pub(crate) stalled: bool,
    /// Datagrams, each with its flow.
    pub(crate) datagrams: Vec<(FlowId, Vec<u8>)>,
    pub(crate) events: Vec<Event>,
}

impl End {
    pub(crate) fn new(side: Side) -> Self {
        Self::with_id(side, id(side))
    }

    pub(crate) fn with_id(side: Side, id: SessionId) -> Self {
        let (tx, rx) = if side == Side::Relay { (1, 2) } else { (2, 1) };
        Self {
            session: Session::new(side, id, GRACE, Time(0)),
            records: records(tx, rx),
            delivered: BTreeMap::new(),
            untaken: BTreeMap::new(),
            stalled: false,
            datagrams: Vec::new(),
            events: Vec::new(),
        }
    }

    pub(crate) fn transmit(&mut self, now: Time) -> Vec<Vec<u8>> {
        self.transmit_up_to(CARRIER_SEND_MAX, now)
    }

    pub(crate) fn transmit_up_to(&mut self, bytes: usize, now: Time) -> Vec<Vec<u8>> {
        let mut sealed: Vec<Sealed<Box<[u8]>>> = Vec::new();
        self.session.poll_records(bytes, now, &mut self.records.sealer, &mut sealed).unwrap();
        sealed.iter().map(|record| record.memory[..record.len].to_vec()).collect()
    }

    pub(crate) fn receive(&mut self, mut record: Vec<u8>, now: Time) -> Result<(), SessionError> {
        let Opened::Data(content) = self.records.open(&mut record).unwrap() else {
            panic!("not data")
        };
        self.receive_content(&record[content], now)
    }

    pub(crate) fn receive_content(
        &mut self,
        content: &[u8],
        now: Time,
    ) -> Result<(), SessionError> {
        let mut events = Vec::new();
        self.session.handle_record(content, now, &mut events)?;
        for event in events {
            if let Event::Data(flow, range) = &event {
                let bytes = &content[range.clone()];
                self.delivered.entry(*flow).or_default().extend_from_slice(bytes);
                if self.stalled {
                    *self.untaken.entry(*flow).or_default() += bytes.len();
                } else {
                    self.session.handle_taken(*flow, bytes.len(), now);
                }
            }
            self.take_datagrams(&event, content);
            self.events.push(event);
        }
        Ok(())
    }

    /// Keeps the datagrams that an event has, or that lie in `content`.
    pub(crate) fn take_datagrams(&mut self, event: &Event, content: &[u8]) {
        match event {
            Event::Joined(flow, datagram) => self.datagrams.push((*flow, datagram.clone())),
            Event::Datagrams { flow, segment, range } => {
                let payload = &content[range.clone()];
                if *segment == 0 {
                    return self.datagrams.push((*flow, payload.to_vec()));
                }
                let each = payload.chunks(usize::from(*segment));
                self.datagrams.extend(each.map(|datagram| (*flow, datagram.to_vec())));
            }
            _ => {}
        }
    }

    pub(crate) fn take_what_waits(&mut self, now: Time) {
        self.stalled = false;
        for (flow, len) in std::mem::take(&mut self.untaken) {
            self.session.handle_taken(flow, len, now);
        }
    }

    /// What waits for one socket is taken.
    pub(crate) fn take_of(&mut self, flow: FlowId, now: Time) {
        if let Some(len) = self.untaken.remove(&flow) {
            self.session.handle_taken(flow, len, now);
        }
    }

    /// Reads as much of `bytes` as the session has room for; returns how much.
    pub(crate) fn write(&mut self, flow: FlowId, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            let len = self.session.room(flow).min(PAYLOAD_MAX).min(bytes.len() - written);
            if len == 0 {
                break;
            }
            self.session.handle_input(flow, chunk(&bytes[written..written + len]));
            written += len;
        }
        written
    }
}

pub(crate) struct Pair {
    pub(crate) forwarder: End,
    pub(crate) relay: End,
    pub(crate) now: Time,
    /// Whether the last [`Pair::exchange_up_to`] lost anything, downwards and upwards.
    pub(crate) lost: (bool, bool),
    keys: u32,
}

fn id(side: Side) -> SessionId {
    if side == Side::Relay { SessionId([7; 16]) } else { SessionId::NONE }
}

impl Pair {
    /// A pair that is up.
    pub(crate) fn new() -> Self {
        Self::of(End::new(Side::Forwarder), End::new(Side::Relay))
    }

    /// These ends, as a pair that is up.
    pub(crate) fn of(forwarder: End, relay: End) -> Self {
        let mut pair = Self { forwarder, relay, now: Time(0), lost: (false, false), keys: 0 };
        pair.greet().unwrap();
        pair.exchange();
        assert!(pair.forwarder.session.is_up() && pair.relay.session.is_up());
        pair
    }

    /// A new carrier with keys of its own: `HELLO` one way, `WELCOME` the other.
    pub(crate) fn greet(&mut self) -> Result<Greeted, SessionError> {
        self.renew();
        let hello = self.forwarder.session.hello();
        let welcome = self.relay.session.handle_hello(&hello, self.now)?;
        self.forwarder.session.handle_welcome(&welcome, self.now)
    }

    /// The keys of another carrier.
    pub(crate) fn renew(&mut self) {
        self.keys += 2;
        self.forwarder.records = records(self.keys, self.keys + 1);
        self.relay.records = records(self.keys + 1, self.keys);
    }

    /// Both ends find the carrier gone.
    pub(crate) fn lose(&mut self) {
        self.forwarder.session.handle_carrier_lost(self.now);
        self.relay.session.handle_carrier_lost(self.now);
    }

    /// As [`Pair::exchange`], but of the bytes downwards and upwards only so many arrive; returns
    /// how many did, in whole records.
    pub(crate) fn exchange_up_to(&mut self, down_max: usize, up_max: usize) -> (usize, usize) {
        let (mut down, mut up) = (0, 0);
        self.lost = (false, false);
        loop {
            let (from_relay, from_forwarder) =
                (self.relay.transmit(self.now), self.forwarder.transmit(self.now));
            if from_relay.is_empty() && from_forwarder.is_empty() {
                return (down, up);
            }
            self.now = self.now + Duration::from_millis(1);
            for record in from_relay {
                self.lost.0 |= down + record.len() > down_max;
                if !self.lost.0 {
                    down += record.len();
                    self.forwarder.receive(record, self.now).unwrap();
                }
            }
            for record in from_forwarder {
                self.lost.1 |= up + record.len() > up_max;
                if !self.lost.1 {
                    up += record.len();
                    self.relay.receive(record, self.now).unwrap();
                }
            }
        }
    }

    /// Carries records both ways until neither end has more; a millisecond each way.
    pub(crate) fn exchange(&mut self) {
        loop {
            let down = self.relay.transmit(self.now);
            let up = self.forwarder.transmit(self.now);
            if down.is_empty() && up.is_empty() {
                return;
            }
            self.now = self.now + Duration::from_millis(1);
            down.into_iter().for_each(|r| self.forwarder.receive(r, self.now).unwrap());
            up.into_iter().for_each(|r| self.relay.receive(r, self.now).unwrap());
        }
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.forwarder.session.handle_timeout(self.now).unwrap();
        self.relay.session.handle_timeout(self.now).unwrap();
        self.exchange();
    }

    /// A flow that the relay opened and the forwarder connected.
    pub(crate) fn open(&mut self) -> FlowId {
        let flow = self.relay.session.open_flow(open(), self.now).unwrap();
        self.exchange();
        assert!(self.forwarder.events.contains(&Event::Opened(flow, open())));
        self.forwarder.session.accept_flow(flow);
        self.exchange();
        flow
    }
}

/// As [`open`], of datagrams.
pub(crate) fn open_udp() -> Open {
    Open { protocol: Protocol::Udp, ..open() }
}

pub(crate) fn open() -> Open {
    let source = SocketAddr::from(([203, 0, 113, 10], 40_000));
    Open { contact: ContactId(3), source, protocol: Protocol::Tcp, to: Destination::Contact }
}
