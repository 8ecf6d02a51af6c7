//! Private names, calls, and what the relay dials: the program, and members that speak to it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use adit::handoff::{Destination, ProxyHeader, ProxyVersion, Service};

#[path = "calls/hostile.rs"]
mod hostile;
#[path = "calls/relay.rs"]
mod relay;

use relay::{Member, Relay, echo_server, echo_service, echoes, free_port, is_reset, wait_for};

/// An office that has `db`, and a laptop that may call it.
struct Network {
    office: Member,
    laptop: Member,
    relay: Relay,
}

fn network(office_lists: &str, laptop_lists: &str) -> Network {
    let (office, laptop) = (Member::new(), Member::new());
    let tables = office.table("forwarder", "office", office_lists)
        + &laptop.table("external", "laptop", laptop_lists);
    let relay = Relay::start(&tables);
    office.join(&relay);
    Network { office, laptop, relay }
}

impl Network {
    fn reload(&self, office_lists: &str, laptop_lists: &str) {
        let tables = self.office.table("forwarder", "office", office_lists)
            + &self.laptop.table("external", "laptop", laptop_lists);
        self.relay.reload(&tables);
    }
}

/// A connection that is refused is reset; one that is not yet must not be waited for.
fn wait_until_refused(connect: impl Fn() -> TcpStream) {
    wait_for("refusal", || (!echoes(&mut connect(), b"still there?")).then_some(()));
    assert!(is_reset(connect()));
}

const HAS_DB: &str = "names = [\"db\"]";
const CALLS: &str = "calls = [\"db\", \"nothing\"]";

/// A call carries bytes and half-closes both ways, and the owner hears from where the caller's
/// tunnel comes.
#[test]
fn a_call_reaches_what_has_the_name() {
    let net = network(HAS_DB, CALLS);
    let proxy =
        Some(ProxyHeader { version: ProxyVersion::V1, contact: Some(([127, 0, 0, 1], 9).into()) });
    let address = net.office.register("db", 0, Service { proxy, ..echo_service() });
    assert_eq!(address.unwrap(), "db");
    assert_eq!(net.relay.contacts("office"), ["db"]);
    let caller = net.laptop.join(&net.relay);
    let mut stream = net.laptop.call("db");
    let sent = vec![b'x'; 1_000_000];
    let mut writer = stream.try_clone().unwrap();
    let mut received = String::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_string(&mut received).unwrap();
    });
    let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} 9\r\n", caller.port());
    assert!(received.starts_with(&header), "{}", &received[..80.min(received.len())]);
    assert_eq!(received.len(), header.len() + sent.len());
}

/// Names that nobody has and names that are forbidden are refused alike and at one beat, and each
/// is counted.
#[test]
fn unknown_and_forbidden_names_are_refused_alike() {
    let net = network("names = [\"db\", \"secret\"]", CALLS);
    net.office.register("secret", 0, echo_service()).unwrap();
    net.laptop.join(&net.relay);
    let names = ["secret", "nobody", "nothing"];
    let mut times = names.map(|_| Vec::new());
    for _ in 0..15 {
        for (name, times) in names.iter().zip(&mut times) {
            let begun = Instant::now();
            assert!(is_reset(net.laptop.call(name)), "{name}");
            times.push(begun.elapsed());
        }
    }
    let medians = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    let spread = medians.iter().max().unwrap().saturating_sub(*medians.iter().min().unwrap());
    assert!(spread < Duration::from_millis(15), "{medians:?}");
    assert_eq!(net.relay.refused("call_forbidden"), 30);
    assert_eq!(net.relay.refused("call_unknown"), 15);
}

/// The owner's sources are for callers with a key too.
#[test]
fn a_caller_that_the_owner_does_not_let_in_is_refused() {
    let net = network(&format!("{HAS_DB}\ndeny = [\"127.0.0.0/8\"]"), CALLS);
    net.office.register("db", 0, echo_service()).unwrap();
    net.laptop.join(&net.relay);
    assert!(is_reset(net.laptop.call("db")));
    assert_eq!(net.relay.refused("call_forbidden"), 1);
    net.reload(HAS_DB, CALLS);
    wait_for("change of sources", || echoes(&mut net.laptop.call("db"), b"hello").then_some(()));
}

/// A name has one owner: another key that may have it too is refused as long as it is held, and
/// calls go on reaching the first.
#[test]
fn a_name_that_is_held_is_not_taken_over() {
    let (office, garage) = (Member::new(), Member::new());
    let tables = office.table("forwarder", "office", "names = [\"db\"]\ncalls = [\"db\"]")
        + &garage.table("forwarder", "garage", "names = [\"*\"]");
    let relay = Relay::start(&tables);
    office.join(&relay);
    garage.join(&relay);
    office.register("db", 0, echo_service()).unwrap();
    for _ in 0..50 {
        let refused = garage.register("db", 0, echo_service()).unwrap_err();
        assert_eq!(refused.text, "the private name db is held by another key");
    }
    assert_eq!(relay.refused("name_taken"), 50);
    assert_eq!((relay.contacts("office").len(), relay.contacts("garage").len()), (1, 0));
    assert!(echoes(&mut office.call("db"), b"still there"));
}

/// A call that comes while the owner is between two sessions waits for it.
#[test]
fn a_call_waits_for_an_owner_that_comes_back() {
    let net = network(HAS_DB, CALLS);
    net.office.register("db", 0, echo_service()).unwrap();
    net.laptop.join(&net.relay);
    net.office.leave();
    wait_for("end of the session", || (!net.relay.is_connected("office")).then_some(()));
    let mut waiting = net.laptop.call("db");
    net.laptop.wait_until_opened();
    net.office.join(&net.relay);
    net.office.register("db", 0, echo_service()).unwrap();
    assert!(echoes(&mut waiting, b"it was worth the wait"));
}

/// A reload takes a name back and says which setting did it; calls of it are refused from then on.
#[test]
fn a_reload_takes_names_and_calls_back() {
    let net = network(HAS_DB, CALLS);
    net.office.register("db", 0, echo_service()).unwrap();
    net.laptop.join(&net.relay);
    let mut running = net.laptop.call("db");
    assert!(echoes(&mut running, b"before"));
    net.reload(HAS_DB, "calls = []");
    wait_until_refused(|| net.laptop.call("db"));
    net.reload("names = []", CALLS);
    let refused = net.office.wait_refused();
    assert!(refused.text.contains("names of [[forwarder]] office"), "{}", refused.text);
    assert!(is_reset(net.laptop.call("db")));
    assert!(net.relay.contacts("office").is_empty());
    assert!(echoes(&mut running, b"flows that run go on"));
}

/// Of two processes with the key of an external peer, the first keeps its name as long as it is
/// there: the other is refused, may ask again, and is called when the first has left.
#[test]
fn a_name_is_not_taken_from_a_session_of_the_same_key() {
    let net = network("calls = [\"laptop-web\"]", "names = [\"laptop-web\"]");
    net.laptop.join(&net.relay);
    net.laptop.register("laptop-web", 0, echo_service()).unwrap();
    let twin = net.laptop.twin();
    twin.join(&net.relay);
    let refused = twin.register("laptop-web", 0, echo_service()).unwrap_err();
    assert!(refused.may_retry);
    assert_eq!(refused.text, "private:laptop-web is held by another session of this key");
    assert!(echoes(&mut net.office.call("laptop-web"), b"the first"));
    net.laptop.leave();
    wait_for("the name", || twin.register("laptop-web", 0, echo_service()).ok());
    assert!(echoes(&mut net.office.call("laptop-web"), b"the other"));
}

/// The flows of an external peer are those of all its sessions, and it is there as long as one of
/// them is.
#[test]
fn all_sessions_of_a_key_are_reported() {
    let net = network(HAS_DB, CALLS);
    net.office.register("db", 0, echo_service()).unwrap();
    let twin = net.laptop.twin();
    for member in [&net.laptop, &twin] {
        member.join(&net.relay);
    }
    let mut calls = [net.laptop.call("db"), twin.call("db")];
    for call in &mut calls {
        assert!(echoes(call, b"hello"));
    }
    assert_eq!(net.relay.flows("laptop"), 2);
    twin.leave();
    wait_for("the older one's flow alone", || (net.relay.flows("laptop") == 1).then_some(()));
    assert!(net.relay.is_connected("laptop") && echoes(&mut calls[0], b"still there"));
}

/// Neither side has what the other's role or lists would be needed for.
#[test]
fn what_is_not_in_the_lists_is_not_registered() {
    let net = network(HAS_DB, "names = [\"laptop-web\"]");
    net.laptop.join(&net.relay);
    let refused = net.office.register("web", 0, echo_service()).unwrap_err();
    assert!(!refused.may_retry && refused.text.contains("names of [[forwarder]] office"));
    let refused = net.laptop.register("web", 8080, echo_service()).unwrap_err();
    assert!(refused.text.contains("an external peer has no public ports"), "{}", refused.text);
    assert_eq!(net.laptop.register("laptop-web", 0, echo_service()).unwrap(), "laptop-web");
    assert_eq!(net.relay.refused("name_not_allowed"), 1);
}

/// The relay dials what is named, and neither itself nor what only a host's name leads to.
#[test]
fn the_relay_dials_what_is_named_and_nothing_else() {
    let (named, hidden) = (echo_server(), echo_server());
    let office = Member::new();
    let table = |relay_port: u16| {
        let lists = format!(
            "dials = [\"{named}\", \"localhost:{}\", \"127.0.0.0/8:{relay_port}\"]",
            hidden.port()
        );
        office.table("forwarder", "office", &lists)
    };
    let relay = Relay::start(&table(1));
    relay.reload(&table(relay.port));
    office.join(&relay);
    assert!(echoes(&mut office.dial(named.to_string()), b"out and back"));
    assert!(echoes(&mut office.dial(format!("localhost:{}", named.port())), b"by name"));
    let mapped = format!("[::ffff:127.0.0.1]:{}", named.port());
    assert!(echoes(&mut office.dial(mapped), b"in other clothes"));
    let forbidden = [
        hidden.to_string(),
        format!("localhost:{}", hidden.port()),
        format!("127.0.0.1:{}", relay.port),
        format!("127.0.0.2:{}", relay.port),
        "192.0.2.1:80".to_owned(),
        "no place".to_owned(),
        String::new(),
    ];
    for address in &forbidden {
        assert!(is_reset(office.dial(address.clone())), "{address}");
    }
    assert_eq!(relay.refused("dial_forbidden"), forbidden.len() as u64);
    relay.reload(&office.table("forwarder", "office", "dials = []"));
    wait_until_refused(|| office.dial(named.to_string()));
}

/// A network among the dials does not make the relay tell which names its resolver knows: one that
/// leads elsewhere and one that leads nowhere are refused alike, and each is counted as what it is.
#[test]
fn names_that_are_not_listed_tell_nothing() {
    let net = network("dials = [\"192.0.2.0/24:80\", \"listed.invalid:80\"]", CALLS);
    for (host, reason) in [
        ("localhost", "NoContact"),
        ("nowhere.invalid", "NoContact"),
        ("listed.invalid", "ConnectFailed"),
    ] {
        let to = Destination::Address(format!("{host}:80"));
        assert_eq!(net.office.refusal(to), reason, "{host}");
    }
    assert_eq!(net.relay.refused("dial_forbidden"), 1);
    assert_eq!(net.relay.refused("dial_unresolved"), 2);
}

/// Sources and limits of public contact points are those of the file, also after a reload.
#[test]
fn sources_and_limits_follow_the_file() {
    let port = free_port();
    let ports = format!("ports = [{port}]");
    let net = network(&format!("{ports}\nflows_max = 1"), CALLS);
    net.office.register("web", port, echo_service()).unwrap();
    let connect = || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(relay::DEADLINE)).unwrap();
        stream
    };
    let mut first = connect();
    assert!(echoes(&mut first, b"one flow"));
    assert!(is_reset(connect()), "and no more");
    net.reload(&ports, CALLS);
    wait_for("lifted limit", || echoes(&mut connect(), b"another").then_some(()));
    net.reload(&format!("{ports}\nallow = [\"192.0.2.0/24\"]"), CALLS);
    wait_until_refused(connect);
    assert!(echoes(&mut first, b"flows that run go on"));
}
