//! When the world is at rest, and what holds at every moment.

use adit_proto::id::Side;
use adit_proto::limits::{FLOWS_MAX, PAYLOAD_MAX, RETAINED_RECORDS_MAX, SESSION_WINDOW};
use adit_proto::session::Session;

use crate::end::End;
use crate::oracle::{Outcome, index};
use crate::world::World;

impl World {
    /// Whether both ends have one session, carried, with the same flows, and all has arrived.
    pub(crate) fn check_settled(&self) -> Outcome {
        let [Some(forwarder), Some(relay)] = self.ends.each_ref().map(|end| end.session.as_ref())
        else {
            return Err("an end has no session".to_owned());
        };
        if !forwarder.is_carried() || !relay.is_carried() || forwarder.id() != relay.id() {
            return Err("the ends have no session in common".to_owned());
        }
        if forwarder.flows() != relay.flows() {
            return Err(format!("{} flows and {}", forwarder.flows(), relay.flows()));
        }
        for session in [forwarder, relay] {
            if (session.records_retained(), session.bytes_held(), session.bytes_waiting())
                != (0, 0, 0)
            {
                return Err(format!("something is left: {session:?}"));
            }
        }
        for socket in self.ends.iter().flat_map(|end| end.sockets.values()) {
            if socket.read != socket.written || !socket.is_connected {
                return Err(format!("a socket was not read: {socket:?}"));
            }
        }
        self.check_datagrams()?;
        self.oracle.check_complete(forwarder.id())
    }

    /// Whether all is over and nothing is left.
    pub(crate) fn check_empty(&self) -> Outcome {
        self.check_settled()?;
        self.oracle.check_over()?;
        let flows = |end: &End| end.session.as_ref().map(|session| session.flows());
        let sockets = self.ends.each_ref().map(|end| (flows(end), end.sockets.len()));
        if sockets == [(Some(0), 0); 2] {
            return Ok(());
        }
        Err(format!("flows and sockets are left: {sockets:?}"))
    }

    pub(crate) fn check_bounds(&self, side: Side) -> Outcome {
        let end = &self.ends[index(side)];
        let Some(session) = &end.session else { return Ok(()) };
        check(session).map_err(|error| format!("{side:?}: {error}"))
    }
}

/// What a session may hold, at any moment.
fn check(session: &Session<Box<[u8]>>) -> Outcome {
    // The last turn may add a gathered record and a full one.
    let records = session.records_retained();
    if records > RETAINED_RECORDS_MAX + 2 {
        return Err(format!("{records} records are retained"));
    }
    let held = session.bytes_held() - records * PAYLOAD_MAX;
    if held as u64 > SESSION_WINDOW {
        return Err(format!("{held} bytes are queued"));
    }
    let waiting = session.bytes_waiting();
    if waiting > SESSION_WINDOW {
        return Err(format!("{waiting} bytes wait for sockets"));
    }
    let flows = session.flows();
    if flows > FLOWS_MAX { Err(format!("{flows} flows")) } else { Ok(()) }
}
