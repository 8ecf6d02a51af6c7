//! Invitations against a relay that runs: who is let in, who is not, and what is left on disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod enrolment {
    pub(crate) mod relay;
}

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;

use adit::config::ForwarderConfig;
use adit::forwarder;
use adit::gateway::Gateway;
use adit::invitation::{Invitation, Request, UnixTime};
use adit::join::{JoinError, Joined, join};
use adit::key::PrivateKey;
use adit::net::{self, Exchange};
use adit_proto::id::Side;
use adit_proto::limits::HANDSHAKE_MAX;
use enrolment::relay::{Relay, eventually};

fn join_now(line: &str, dir: &Path) -> Result<Joined, JoinError> {
    join(line, dir, UnixTime::now())
}

/// Runs a forwarder to the end of the test's process.
fn run(joined: &Joined) {
    let config = joined.config.clone();
    thread::spawn(move || forwarder::run(&config));
}

#[track_caller]
fn refused(result: Result<Joined, JoinError>, expected: &str) {
    let error = result.unwrap_err();
    assert!(error.to_string().contains(expected), "{error}\nexpected: {expected}");
}

#[track_caller]
fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

/// What the relay answers to one who has the line, and `key`.
fn ask(line: &str, key: &PrivateKey) -> String {
    let Invitation { relay, relay_key, request, .. } = line.parse().unwrap();
    let gateway = Gateway::joining(relay, key, relay_key).unwrap();
    net::run(async {
        let mut exchange = Exchange::new(Side::Forwarder, gateway.dial().await.unwrap());
        exchange.send(&serde_json::to_vec(&request).unwrap()).await.unwrap();
        String::from_utf8(exchange.receive().await.unwrap()).unwrap()
    })
}

/// A line is used up by the first; whoever comes later, or with a guess, is told so, is counted,
/// and keeps an empty folder.
#[test]
fn an_invitation_is_good_once_and_a_guess_never() {
    let relay = Relay::start("");
    let line = relay.invite(&["office", "--ports", "2222"]);
    let dir = tempfile::tempdir().unwrap();
    let mut guess: Invitation = line.parse().unwrap();
    guess.request = Request { id: guess.request.id, ..Request::generate().unwrap() };
    refused(join_now(&guess.line(), dir.path()), "does not know this invitation");
    assert!(is_empty(dir.path()));
    assert!(!fs::exists(relay.dir.path().join("state/enrolled.toml")).unwrap());

    let office = tempfile::tempdir().unwrap();
    join_now(&line, office.path()).unwrap();
    refused(join_now(&line, dir.path()), "was used at ");
    assert!(is_empty(dir.path()));
    assert_eq!(relay.refused("invitation"), 2);
}

/// Who came to join and says nothing, or nothing that makes sense, is turned out and counted; the
/// relay waits for it no longer than for a handshake.
#[test]
fn who_comes_to_join_and_does_not_is_turned_out() {
    let relay = Relay::start("");
    let invitation: Invitation = relay.invite(&["office", "--ports", "2222"]).parse().unwrap();
    let key = PrivateKey::generate().unwrap();
    let (place, pinned) = (invitation.relay, invitation.relay_key);
    let gateway = Gateway::joining(place, &key, pinned).unwrap();
    net::run(async {
        let mut silent = Exchange::new(Side::Forwarder, gateway.dial().await.unwrap());
        let mut senseless = Exchange::new(Side::Forwarder, gateway.dial().await.unwrap());
        senseless.send(b"{\"id\":7}").await.unwrap();
        let since = Instant::now();
        senseless.receive().await.unwrap_err();
        assert!(since.elapsed() < HANDSHAKE_MAX / 2, "{:?}", since.elapsed());
        silent.receive().await.unwrap_err();
        assert!(since.elapsed() < 2 * HANDSHAKE_MAX, "{:?}", since.elapsed());
    });
    eventually(|| relay.refused("protocol") == 1 && relay.refused("handshake_timeout") == 1);
}

/// Two who have the same line at the same time: one of them is let in.
#[test]
fn of_two_joins_at_once_one_wins() {
    let relay = Relay::start("");
    let line = relay.invite(&["office", "--ports", "2222"]);
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let results = thread::scope(|scope| {
        let joins = dirs.each_ref().map(|dir| scope.spawn(|| join_now(&line, dir.path())));
        joins.map(|join| join.join().unwrap().is_ok())
    });
    assert_eq!(results.iter().filter(|is_in| **is_in).count(), 1, "{results:?}");
    for (dir, is_in) in dirs.iter().zip(results) {
        assert_eq!(is_empty(dir.path()), !is_in);
    }
    assert_eq!(relay.everybody()["admitted"].as_array().unwrap().len(), 1);
}

/// A relay that dies after it has let a key in, and before it has noted that the line is used, does
/// not let a second key in with it; the first may ask again, and the line is used then.
#[test]
fn a_relay_that_dies_half_way_lets_one_key_in() {
    let mut relay = Relay::start("");
    let line = relay.invite(&["office", "--ports", "2222"]);
    let file = relay.dir.path().join("state/invitations.json");
    let unused = fs::read(&file).unwrap();
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    join_now(&line, first.path()).unwrap();
    relay.stop();
    fs::write(&file, unused).unwrap();
    relay.run();
    refused(join_now(&line, second.path()), "somebody else has the name office");
    assert!(is_empty(second.path()));
    assert_eq!(relay.everybody()["admitted"].as_array().unwrap().len(), 1);

    let key = PrivateKey::load(&first.path().join("adit.key")).unwrap();
    let answer = ask(&line, &key);
    assert!(answer.starts_with("{\"joined\":{\"name\":\"office\""), "{answer}");
    refused(join_now(&line, second.path()), "was used at ");
}

/// An external peer is let in as one; limits that were added by hand meanwhile are kept, and what
/// cannot be read is not written over.
#[test]
fn edits_of_the_enrolled_keys_are_kept() {
    let relay = Relay::start("");
    let office = tempfile::tempdir().unwrap();
    join_now(&relay.invite(&["office", "--ports", "2222"]), office.path()).unwrap();
    let file = relay.dir.path().join("state/enrolled.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}flows_max = 7\n")).unwrap();
    let line = relay.invite(&["laptop", "--external", "--calls", "db"]);
    let laptop = tempfile::tempdir().unwrap();
    let joined = join_now(&line, laptop.path()).unwrap();
    run(&joined);
    eventually(|| relay.is_connected("laptop"));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("flows_max = 7") && text.contains("[[external]]"), "{text}");

    let line = relay.invite(&["garage", "--ports", "2223"]);
    fs::write(&file, format!("{text}flows_mux = 7\n")).unwrap();
    let garage = tempfile::tempdir().unwrap();
    refused(join_now(&line, garage.path()), "it cannot keep the key");
    assert!(relay.fails(&["revoke", "laptop"]).contains("did you mean \"flows_max\"?"));
    fs::write(&file, text).unwrap();
    join_now(&line, garage.path()).unwrap();
    assert!(relay.is_connected("laptop"));
}

/// Another state folder in the file is for the next start: until then who is enrolled keeps its
/// session, whatever the other folder has.
#[test]
fn another_state_folder_ends_no_session_at_a_reload() {
    let relay = Relay::start("");
    let office = tempfile::tempdir().unwrap();
    let joined = join_now(&relay.invite(&["office", "--ports", "2222"]), office.path()).unwrap();
    run(&joined);
    eventually(|| relay.is_connected("office"));
    let key = PrivateKey::generate().unwrap().public();
    relay.reload(|text| {
        let text = text.replace("state = \"state\"", "state = \"elsewhere\"");
        format!("{text}\n[[forwarder]]\nname = \"garage\"\nkey = \"{key}\"\n")
    });
    eventually(|| relay.everybody()["admitted"].as_array().unwrap().len() == 2);
    assert!(relay.is_connected("office"));
    assert_eq!(relay.refused("unknown_key"), 0);
}

/// By the relay's clock, too, an invitation ends; a changed line of its own does not help.
#[test]
fn the_relays_clock_counts() {
    let mut relay = Relay::start("");
    let line = relay.invite(&["office", "--ports", "2222", "--expires", "10min"]);
    relay.stop();
    let file = relay.dir.path().join("state/invitations.json");
    let text = fs::read_to_string(&file).unwrap();
    let mut kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    kept[0]["expires_at"] = (UnixTime::now().seconds() - 1).into();
    fs::write(&file, kept.to_string()).unwrap();
    relay.run();
    let dir = tempfile::tempdir().unwrap();
    refused(join_now(&line, dir.path()), "and the relay's clock says");
    assert!(is_empty(dir.path()));
}

/// What is in the way in the folder is found before the line is used, and stays as it was.
#[test]
fn a_folder_that_will_not_do_costs_no_invitation() {
    let relay = Relay::start("");
    let line = relay.invite(&["office", "--ports", "2222"]);
    for name in ["adit.toml", "adit.key"] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        fs::write(&file, "mine").unwrap();
        refused(join_now(&line, dir.path()), &format!("{name} exists already"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        refused(join_now(&line, &file.join("below")), "cannot write in ");
    }
    let dir = tempfile::tempdir().unwrap();
    join_now(&line, &dir.path().join("new/folder")).unwrap();
    assert!(dir.path().join("new/folder/adit.key").exists());
}

/// With a file of the state folder that cannot be read a relay does not start, and a check says so
/// beforehand. The control: without the file it is well.
#[test]
fn a_check_finds_what_a_start_would_fail_with() {
    let mut relay = Relay::start("");
    relay.stop();
    let state = relay.dir.path().join("state");
    fs::create_dir_all(&state).unwrap();
    for name in ["invitations.json", "volumes.json"] {
        let file = state.join(name);
        fs::write(&file, "{").unwrap();
        for command in ["check", "run"] {
            let output = relay.output(&[command, "-c", "relay.toml"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains(name), "{command}: {said}");
        }
        fs::remove_file(file).unwrap();
    }
    relay.program(&["check", "-c", "relay.toml"]);
}

/// The line alone makes a forwarder that runs at once, and still does when the relay was started
/// again; a revocation ends its tunnel, and it is not let in any more.
#[test]
fn who_joins_is_let_in_until_revoked() {
    let mut relay = Relay::start("");
    let line = relay.invite(&["office", "--ports", "2222,8000-8100", "--names", "db"]);
    assert_eq!(relay.everybody()["invited"][0]["grant"]["name"], "office");
    let dir = tempfile::tempdir().unwrap();
    let joined = join_now(&line, dir.path()).unwrap();
    assert_eq!(joined.grant.to_string(), "ports 2222, 8000-8100; names db");
    assert!(relay.everybody()["invited"].as_array().unwrap().is_empty());
    run(&joined);
    eventually(|| relay.is_connected("office"));
    relay.stop();
    relay.run();
    eventually(|| relay.is_connected("office"));

    let output = relay.command(&["revoke", "office"]);
    assert!(output.contains("office is let in no more: ed25519:"), "{output}");
    assert!(relay.everybody()["admitted"].as_array().unwrap().is_empty());
    eventually(|| relay.refused("unknown_key") > 0);
    let again = relay.fails(&["revoke", "office"]);
    assert!(again.contains("nobody is let in as office"), "{again}");
}

/// Who stands in the relay's own file is removed there; a revocation says where, and an invitation
/// that is revoked is not good any more.
#[test]
fn a_revocation_says_what_it_cannot_do() {
    let key = PrivateKey::generate().unwrap().public();
    let relay = Relay::start(&format!(
        "[[external]]\nname = \"laptop\"\nkey = \"{key}\"\ncalls = [\"db\"]\n"
    ));
    let refusal = relay.fails(&["revoke", "laptop"]);
    for part in ["remove its [[external]] from", "relay.toml"] {
        assert!(refusal.contains(part), "{refusal}");
    }
    let refusal = relay.fails(&["invite", "laptop", "--external"]);
    assert!(refusal.contains("laptop is let in already"), "{refusal}");

    let line = relay.invite(&["office", "--ports", "2222"]);
    assert!(relay.command(&["revoke", "office"]).contains("invitation of office is withdrawn"));
    let dir = tempfile::tempdir().unwrap();
    refused(join_now(&line, dir.path()), "does not know this invitation");
    let shown = relay.command(&["forwarders"]);
    assert!(shown.contains("laptop") && !shown.contains("office"), "{shown}");
}

/// An invitation has to say where the relay is, and only the relay's operator knows.
#[test]
fn without_an_address_there_is_no_invitation() {
    let relay = Relay::start_without_address();
    let refusal = relay.fails(&["invite", "office", "--ports", "2222"]);
    for part in ["--relay relay.example.net:443", "address = ", "relay.toml"] {
        assert!(refusal.contains(part), "{refusal}");
    }
    relay.reload_with("address = \"[2001:db8::1]:443\"");
    eventually(|| relay.output(&["invite", "attic", "-s", "relay.sock"]).status.success());
    let line = relay.invite(&["office", "--relay", "192.0.2.1:443,relay.example.net:443"]);
    let invitation: Invitation = line.parse().unwrap();
    assert_eq!(invitation.relay.to_string(), "192.0.2.1:443, relay.example.net:443");
    for (asked, expected) in [
        (&["invite", "garage", "--relay", "nowhere"][..], "\"nowhere\" is no address"),
        (&["invite", "garage", "--expires", "1s"], "60 s to 30 days"),
        (&["invite", "a b"], "is no name"),
        (&["invite", "laptop", "--external", "--ports", "1"], "an external peer has no ports"),
        (&["invite", "office", "--ports", "1"], "`adit-relay revoke office`"),
    ] {
        let relay_is = ["--relay", "192.0.2.1:443"];
        let is_placed = asked.contains(&"--relay");
        let asked = [asked, if is_placed { &[] } else { &relay_is }].concat();
        let refusal = relay.fails(&asked);
        assert!(refusal.contains(expected), "{refusal}\nexpected: {expected}");
    }
}

/// While the relay's key is being changed, a forwarder that lets both in stays served.
#[test]
fn a_relay_changes_its_key_step_by_step() {
    let mut relay = Relay::start("");
    let dir = tempfile::tempdir().unwrap();
    let line = relay.invite(&["office", "--ports", "2222"]);
    let joined = join_now(&line, dir.path()).unwrap();
    let present = ForwarderConfig::load(&joined.config).unwrap().relay_keys.first().to_string();
    let file = relay.dir.path().join("relay.toml");
    let next = relay.program(&["rotate", "--config", file.to_str().unwrap()]);
    assert_eq!(next, relay.program(&["rotate", "-c", file.to_str().unwrap()]), "asked again");
    let text = fs::read_to_string(&joined.config).unwrap();
    let both = format!("[\"{present}\", \"{}\"]", next.trim());
    fs::write(&joined.config, text.replace(&format!("\"{present}\""), &both)).unwrap();
    run(&joined);
    eventually(|| relay.is_connected("office"));

    relay.stop();
    let [key, next] = ["relay.key", "relay.key.next"].map(|name| relay.dir.path().join(name));
    fs::rename(next, key).unwrap();
    relay.run();
    eventually(|| relay.is_connected("office"));
    let invitation: Invitation = relay.invite(&["garage", "--ports", "1"]).parse().unwrap();
    assert_ne!(invitation.relay_key.to_string(), present);
}

/// Who is invited, joins, comes too late and is shut out is written down, in this order, and no secret is.
#[test]
fn enrolments_are_audited_without_secrets() {
    let relay = Relay::start("[audit]\nfile = \"audit.log\"\n");
    let line = relay.invite(&["office", "--ports", "2222"]);
    let [dir, late] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    join_now(&line, dir.path()).unwrap();
    refused(join_now(&line, late.path()), "was used at ");
    relay.command(&["revoke", "office"]);
    let log = fs::read_to_string(relay.dir.path().join("audit.log")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let events: Vec<_> = lines.map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events, ["started", "invited", "joined", "refused", "revoked"], "{log}");
    let invitation: Invitation = line.parse().unwrap();
    let request = serde_json::to_value(&invitation.request).unwrap();
    let secret = request["secret"].as_str().unwrap();
    assert!(secret.len() == 64 && !log.contains(secret) && !log.contains(line.trim()));
}
