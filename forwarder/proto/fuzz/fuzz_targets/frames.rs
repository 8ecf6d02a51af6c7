//! Any content is frames or one typed error; what was read can be written and read again; and a
//! session that is up takes it or ends, typed.
#![no_main]

use adit_proto::frame::{Frame, Frames};
use adit_proto::id::{SessionId, Side, Time};
use adit_proto::session::Session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|content: &[u8]| {
    let frames: Vec<_> = Frames::new(content).map_while(Result::ok).collect();
    let mut written = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut written));
    let again: Result<Vec<Frame<'_>>, _> = Frames::new(&written).collect();
    assert_eq!(again.as_deref(), Ok(&frames[..]));

    for side in [Side::Forwarder, Side::Relay] {
        let mut session = Session::<Box<[u8]>>::new(side, SessionId([1; 16]), Time(0));
        session.handle_record(content, Time(1), &mut Vec::new()).ok();
    }
});
