//! A member that has a key and no manners: its records are sealed as they should be, and what is in
//! them is nonsense. The relay ends its session, and nobody else notices.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use adit::key::PrivateKey;
use adit_proto::frame::{Credit, Frame, Frames, Poll};
use adit_proto::id::{ContactId, FlowId, SessionId, Side, Time};
use adit_proto::limits::GRACE;
use adit_proto::record::{ContentType, HEADROOM, Opened, Opener, RecordLayer, TAILROOM};
use adit_proto::session::{Session, seal_greeting};

#[path = "../../../forwarder/proto/tests/session/corpus.rs"]
mod corpus;

use corpus::{corpus, encode, mutant};

use super::relay::{DEADLINE, Member, Relay, echo_service, echoes};

/// Carriers of mutants; `ADIT_MUTANTS` makes it more.
const CARRIERS: u64 = 100;
/// Records on each.
const RECORDS: usize = 20;
/// What a probe among the nonsense is known by.
const PROBE: u64 = 0x00c0_ffee;

/// A carrier on which anything may be said.
struct Hostile {
    stream: TcpStream,
    records: RecordLayer,
    unread: Vec<u8>,
}

impl Hostile {
    /// Begins a session; returns all that was said for it, too.
    fn greet(relay: &Relay, key: &PrivateKey) -> (Self, Vec<u8>) {
        let (mut handshake, mut stream) = relay.call_on(key);
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            while let Some(bytes) = handshake.poll_transmit() {
                stream.write_all(&bytes).unwrap();
                said.extend(bytes);
            }
            if handshake.is_done() {
                break;
            }
            let len = stream.read(&mut buffer).unwrap();
            handshake.handle_bytes(&buffer[..len]).unwrap();
        }
        let mut done = handshake.finish().unwrap();
        let mut session: Session<Box<[u8]>> =
            Session::new(Side::Forwarder, SessionId::NONE, GRACE, Time(0));
        let hello = Frame::Hello(session.hello());
        let record = seal_greeting(&hello, &mut done.records.sealer).unwrap();
        stream.write_all(&record).unwrap();
        said.extend(record);
        (Self { stream, records: done.records, unread: done.leftover }, said)
    }

    /// Whether the relay still takes what is said.
    fn say(&mut self, content: &[u8]) -> bool {
        let mut record = [&[0; HEADROOM], content, &[0; TAILROOM]].concat();
        let kind = ContentType::ApplicationData;
        self.records.sealer.seal(kind, &mut record, content.len()).unwrap();
        self.stream.write_all(&record).is_ok()
    }

    /// Whether the session is still up: a probe is answered.
    fn is_heard(&mut self) -> bool {
        if !self.say(&encode(&[Frame::Ping(PROBE)])) {
            return false;
        }
        let mut buffer = [0; 16 * 1024];
        loop {
            while let Ok(Some(len)) = Opener::record_len(&self.unread) {
                if self.unread.len() < len {
                    break;
                }
                let mut record: Vec<u8> = self.unread.drain(..len).collect();
                match self.records.open(&mut record) {
                    Ok(Opened::Data(content)) => {
                        let said = Frames::new(&record[content]).map_while(Result::ok);
                        if said.into_iter().any(|frame| frame == Frame::Pong(PROBE)) {
                            return true;
                        }
                    }
                    Ok(Opened::KeyUpdated | Opened::Ignored) => {}
                    _ => return false,
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return false,
                Ok(len) => self.unread.extend_from_slice(&buffer[..len]),
            }
        }
    }
}

/// Mutants of every frame, under a key that is let in, end their own sessions and nothing else: a call
/// between others is whole after each. The control: the same frames unaltered, as far as a forwarder
/// may send them, end no session.
#[test]
fn mutants_under_an_authentic_key_harm_nobody() {
    let (office, laptop, hostile) = (Member::new(), Member::new(), PrivateKey::generate().unwrap());
    let tables = office.table("forwarder", "office", "names = [\"db\"]")
        + &laptop.table("external", "laptop", "calls = [\"db\"]")
        + &format!("[[forwarder]]\nname = \"hostile\"\nkey = \"{}\"\n", hostile.public());
    let relay = Relay::start(&tables);
    office.join(&relay);
    office.register("db", 0, echo_service()).unwrap();
    laptop.join(&relay);
    let mut call = laptop.call("db");
    let carriers = std::env::var("ADIT_MUTANTS").ok().and_then(|text| text.parse().ok());
    let carriers: u64 = carriers.unwrap_or(CARRIERS);
    let (frames, mut heard) = (corpus(FlowId(1_001)), 0);
    for seed in 0..carriers {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut carrier, _said) = Hostile::greet(&relay, &hostile);
        // Most sessions end at their first mutant: the more of them begin anew.
        let records = if seed % 4 == 0 { RECORDS } else { 1 };
        let taken = (0..records).all(|_| carrier.say(&mutant(&frames, &mut random)));
        heard += u64::from(taken && carrier.is_heard());
        if seed % 25 == 0 {
            assert!(echoes(&mut call, format!("after {seed}").as_bytes()), "seed {seed}");
        }
    }
    println!("{heard} of {carriers} sessions went on");
    assert!(heard > 0 && heard < carriers, "{heard} of {carriers} sessions went on");
    assert!(echoes(&mut call, &[7; 1_000_000]));

    let (mut control, _said) = Hostile::greet(&relay, &hostile);
    let fair = [
        Frame::Ping(7),
        Frame::Pong(7),
        Frame::Pad(9),
        Frame::Accept(FlowId(2)),
        Frame::Blocked(FlowId(2)),
        Frame::Unregister(ContactId(1)),
    ];
    for frame in fair {
        assert!(control.say(&encode(&[frame])));
    }
    assert!(control.is_heard());
}

/// Who claims to have more records than it was sent loses its session. The controls: a claim that is true,
/// and of a flow, where too much counts for what was sent.
#[test]
fn a_claim_beyond_what_was_sent_ends_the_session() {
    let key = PrivateKey::generate().unwrap();
    let table = format!("[[forwarder]]\nname = \"office\"\nkey = \"{}\"\n", key.public());
    let relay = Relay::start(&table);
    let poll = |records| Frame::Poll(Poll { records, bytes: 1 << 20 });
    let credit = Frame::Credit(FlowId(2), Credit { limit: 1 << 20, taken: 7 });
    for (claim, is_fair) in [(poll(0), true), (credit, true), (poll(1 << 20), false)] {
        let (mut carrier, _said) = Hostile::greet(&relay, &key);
        assert!(carrier.is_heard());
        // What is closed may be so before all of it is said.
        let is_heard = carrier.say(&encode(std::slice::from_ref(&claim))) && carrier.is_heard();
        assert_eq!(is_heard, is_fair, "{claim:?}");
    }
}

/// What was once said for a session, said again from elsewhere, begins none, and does not disturb the
/// one that it was said for. The control: the same key, with a handshake of its own, takes it over.
#[test]
fn a_replayed_connection_is_refused() {
    let key = PrivateKey::generate().unwrap();
    let table = format!("[[forwarder]]\nname = \"office\"\nkey = \"{}\"\n", key.public());
    let relay = Relay::start(&table);
    let (mut owner, said) = Hostile::greet(&relay, &key);
    assert!(owner.is_heard());
    for _ in 0..20 {
        let mut replay = TcpStream::connect(("127.0.0.1", relay.port)).unwrap();
        replay.set_read_timeout(Some(DEADLINE)).unwrap();
        // The relay may close before all of it is said.
        replay.write_all(&said).ok();
        let closed = replay.read_to_end(&mut Vec::new());
        let is_closed = match closed {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(is_closed, "a replay is put up with");
        assert!(owner.is_heard(), "a replay ended the session");
    }
    let (mut newer, _said) = Hostile::greet(&relay, &key);
    assert!(newer.is_heard());
    assert!(!owner.is_heard(), "two sessions of one key");
}
