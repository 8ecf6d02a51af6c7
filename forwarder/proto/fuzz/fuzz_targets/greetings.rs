//! Any first record of a carrier is a greeting or one typed error; a greeting is what it was when it
//! is written and read again; and whatever a session is greeted with, one carrier after the other, its
//! epoch and its counts never go back.
#![no_main]

use adit_proto::frame::Frame;
use adit_proto::id::{SessionId, Side, Time};
use adit_proto::limits::GRACE;
use adit_proto::session::{Session, parse_greeting};
use libfuzzer_sys::fuzz_target;

/// As long as a `HELLO` without a path is.
const HELLO: usize = 72;

fuzz_target!(|bytes: &[u8]| {
    for from in [Side::Forwarder, Side::Relay] {
        let Ok(hello) = parse_greeting(bytes, from) else { continue };
        let frame = match from {
            Side::Forwarder => Frame::Hello(hello.clone()),
            Side::Relay => Frame::Welcome(hello.clone()),
        };
        let mut written = Vec::new();
        frame.encode(&mut written);
        assert_eq!(parse_greeting(&written, from), Ok(hello));
    }

    let mut relay: Session<Box<[u8]>> =
        Session::new(Side::Relay, SessionId([1; 16]), GRACE, Time(0));
    let (mut now, mut epoch) = (Time(1), 0);
    for content in bytes.chunks(HELLO) {
        now = Time(now.0 + 1_000_000);
        let Ok(hello) = parse_greeting(content, Side::Forwarder) else { continue };
        if let Ok(welcome) = relay.handle_hello(&hello, now) {
            assert!(welcome.epoch >= epoch, "an older carrier took over");
            epoch = welcome.epoch;
        }
        relay.handle_carrier_lost(now);
        relay.handle_timeout(now).ok();
    }
});
