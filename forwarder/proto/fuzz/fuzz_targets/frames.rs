//! Any content is frames or one typed error; what was read can be written and read again; and a
//! session that is up takes it or ends, typed.
#![no_main]

use adit_proto::frame::{Frame, Frames};
use adit_proto::id::{SessionId, Side, Time};
use adit_proto::limits::GRACE;
use adit_proto::session::{Session, parse_greeting};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|content: &[u8]| {
    let frames: Vec<_> = Frames::new(content).map_while(Result::ok).collect();
    let mut written = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut written));
    let again: Result<Vec<Frame<'_>>, _> = Frames::new(&written).collect();
    assert_eq!(again.as_deref(), Ok(&frames[..]));

    for from in [Side::Forwarder, Side::Relay] {
        if let Ok(hello) = parse_greeting(content, from) {
            let (mut forwarder, mut relay) = pair();
            relay.handle_hello(&hello, Time(1)).ok();
            forwarder.handle_welcome(&hello, Time(1)).ok();
        }
    }
    let (mut forwarder, mut relay) = pair();
    for session in [&mut forwarder, &mut relay] {
        session.handle_record(content, Time(1), &mut Vec::new()).ok();
        session.handle_carrier_lost(Time(2));
        session.handle_timeout(Time(3)).ok();
    }
});

/// Both ends of a session that is up.
fn pair() -> (Session<Box<[u8]>>, Session<Box<[u8]>>) {
    let mut forwarder = Session::new(Side::Forwarder, SessionId::NONE, GRACE, Time(0));
    let mut relay = Session::new(Side::Relay, SessionId([1; 16]), GRACE, Time(0));
    let welcome = relay.handle_hello(&forwarder.hello(), Time(0));
    let welcome = welcome.expect("a first HELLO is taken");
    forwarder.handle_welcome(&welcome, Time(0)).expect("its answer is taken");
    (forwarder, relay)
}
