//! Lines that are not as they were made, clocks that are wrong, and answers that are strange.

use super::*;

const NOW: UnixTime = UnixTime::new(1_800_000_000);
const HOUR: u64 = 3_600;
const YEAR: u64 = 365 * 24 * HOUR;

fn invitation(places: &[&str]) -> Invitation {
    Invitation {
        relay: places.iter().map(|place| place.parse().unwrap()).collect::<Vec<_>>().into(),
        relay_key: [7; PUBLIC_KEY_LEN].into(),
        request: Request::generate().unwrap(),
        issued_at: NOW,
        expires_at: NOW.plus(HOUR),
    }
}

/// One character that is changed, wherever it stands and into whatever, is found.
#[test]
fn every_changed_character_is_found() {
    let line = invitation(&["relay.example.net:443"]).line();
    for position in 0..line.len() {
        for other in "AQgwZ09-_aZ1: =.\n+/".chars().filter(|c| !line[position..].starts_with(*c)) {
            let mut changed: Vec<char> = line.chars().collect();
            changed[position] = other;
            let changed: String = changed.into_iter().collect();
            if changed.trim() == line {
                continue;
            }
            let refused = changed.parse::<Invitation>().unwrap_err();
            let expected = match position {
                0..6 => BadLine::NoInvitation,
                _ => BadLine::Damaged,
            };
            assert_eq!(refused, expected, "position {position}, {other:?}");
        }
    }
}

/// A character that is missing, or too much, is found as well, and so is a line from elsewhere.
#[test]
fn lines_that_are_not_whole_are_refused() {
    let line = invitation(&["192.0.2.1:443"]).line();
    for position in 0..line.len() {
        let shorter = format!("{}{}", &line[..position], &line[position + 1..]);
        assert!(shorter.parse::<Invitation>().is_err(), "without {position}");
        let longer = format!("{}A{}", &line[..position], &line[position..]);
        assert!(longer.parse::<Invitation>().is_err(), "with one at {position}");
    }
    assert!(format!("{line}A").parse::<Invitation>().is_err());
    for text in ["", "adit1:", "adit2:AAAA", "relay.example.net:443", &"adit1:A".repeat(9_999)] {
        assert!(text.parse::<Invitation>().is_err(), "{text}");
    }
}

/// What was never an invitation is refused though its checksum is right.
#[test]
fn bodies_that_make_no_sense_are_refused() {
    let line = |places: &[&str], tail: &[u8]| {
        let body = Body {
            relay: places.iter().map(ToString::to_string).collect(),
            relay_key: [0; PUBLIC_KEY_LEN],
            id: [0; ID_LEN],
            secret: [0; SECRET_LEN],
            issued_at: 0,
            expires_at: u64::MAX,
        };
        let mut bytes = [&postcard::to_allocvec(&body).unwrap(), tail].concat();
        bytes.extend(checksum(&bytes));
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    };
    let good: Invitation = line(&["a:1"], &[]).parse().unwrap();
    assert_eq!(good.expires_at.to_string(), "9999-12-31T23:59:59Z");
    for (places, tail) in [
        (&[][..], &[][..]),
        (&["a"], &[]),
        (&["a\nb:1"], &[]),
        (&["a:1"; PLACES_MAX + 1], &[]),
        (&["a:1"], &[0]),
    ] {
        assert_eq!(line(places, tail).parse::<Invitation>().unwrap_err(), BadLine::Damaged);
    }
}

/// A clock that is wrong by a year, either way, is named with both times; minutes are forgiven.
#[test]
fn wrong_clocks_are_named() {
    let invitation = invitation(&["relay.example.net:443"]);
    let slow = UnixTime::new(NOW.seconds() - YEAR);
    let error = invitation.check(slow).unwrap_err();
    assert_eq!(error, Untimely::NotYet { issued_at: NOW, now: slow });
    let text = error.to_string();
    for part in ["2027-01-15T08:00:00Z", "2026-01-15T08:00:00Z", "look at this host's clock"] {
        assert!(text.contains(part), "{text}");
    }
    let fast = NOW.plus(YEAR);
    let error = invitation.check(fast).unwrap_err();
    assert_eq!(error, Untimely::Expired { expires_at: NOW.plus(HOUR), now: fast });
    let text = error.to_string();
    for part in ["2027-01-15T09:00:00Z", "2028-01-15T08:00:00Z", "set this host's clock"] {
        assert!(text.contains(part), "{text}");
    }
    invitation.check(UnixTime::new(NOW.seconds() - SKEW_S_MAX)).unwrap();
    invitation.check(UnixTime::new(NOW.seconds() - SKEW_S_MAX - 1)).unwrap_err();
    invitation.check(NOW.plus(HOUR - 1)).unwrap();
    invitation.check(NOW.plus(HOUR)).unwrap_err();
}

/// A line says all that it was made with, blanks around it or not, and stays within its bound.
#[test]
fn lines_say_what_they_were_made_with() {
    let longest = format!("{}:65535", "a".repeat(253));
    for places in [&["192.0.2.1:443", "[2001:db8::1]:443"][..], &[longest.as_str(); PLACES_MAX]] {
        let made = invitation(places);
        let line = made.line();
        assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
        let read: Invitation = format!("  {line}\n").parse().unwrap();
        assert_eq!(read.relay, made.relay);
        assert_eq!((read.relay_key, read.request.id), (made.relay_key, made.request.id));
        assert_eq!(read.request.secret.digest(), made.request.secret.digest());
        assert_eq!((read.issued_at, read.expires_at), (made.issued_at, made.expires_at));
    }
}

/// Neither a log line nor an error shows a secret.
#[test]
fn secrets_are_not_shown() {
    let request = Request::generate().unwrap();
    let hex = serde_json::to_string(&request.secret).unwrap();
    assert!(!format!("{request:?}").contains(hex.trim_matches('"')));
    let malformed = request.to_bytes().repeat(2);
    let error = Request::from_bytes(&malformed).unwrap_err();
    assert!(!error.to_string().contains(&hex[1..9]), "{error}");
    let read = Request::from_bytes(&request.to_bytes()).unwrap();
    assert_eq!((read.id, read.secret.digest()), (request.id, request.secret.digest()));
}

/// What a relay says reaches a terminal and a file: nothing in it steers either.
#[test]
fn strange_answers_are_refused() {
    let grant = Grant { name: "office".into(), ports: vec!["2222".into()], ..Grant::default() };
    let joined = Answer::Joined(grant.clone());
    assert_eq!(Answer::from_bytes(&joined.to_bytes()).unwrap(), joined);
    let strange = [
        Grant { name: "a b".into(), ..grant.clone() },
        Grant { ports: vec!["1\n[[peer]]".into()], ..grant.clone() },
        Grant { names: vec!["\u{1b}[2J".into()], ..grant },
    ];
    for grant in strange {
        let answer = Answer::Joined(grant);
        assert!(Answer::from_bytes(&answer.to_bytes()).is_err(), "{answer:?}");
    }
    let long = Answer::Refused(format!("no\u{1b}{}", "!".repeat(9_999)));
    let Answer::Refused(text) = Answer::from_bytes(&long.to_bytes()).unwrap() else {
        panic!("it was a refusal");
    };
    assert!(text.starts_with("no!!") && text.len() == 512, "{text}");
    assert!(Answer::from_bytes(b"").is_err());
}
