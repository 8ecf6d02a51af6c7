//! Messages and datagrams of a probe, right ones and wrong ones.

use super::*;

fn asked(name: &str) -> Asked {
    Asked { name: name.to_owned(), is_udp: false, port: 8080 }
}

fn requests() -> Vec<Request> {
    vec![
        Request::Look(vec![asked("web"), asked("ssh")]),
        Request::Open,
        Request::Heard,
        Request::Send { socket: 1, number: 7 },
        Request::Fill(vec![0; PROBE_FILL]),
        Request::Filled,
        Request::Give(64_000),
        Request::Still,
    ]
}

fn answers() -> Vec<Answer> {
    let observed = "203.0.113.1:4242".parse().unwrap();
    let token = Token::generate().unwrap();
    let sockets = vec![
        Place { ip: None, port: 4_000 },
        Place { ip: None, port: 4_001 },
        Place { ip: "2001:db8::1".parse().ok(), port: 4_002 },
    ];
    let verdicts = vec![None, Some("port 80 is not allowed".to_owned())];
    vec![
        Answer::Looked(Looked { name: "office".to_owned(), observed, verdicts }),
        Answer::Opened(Opened { token, sockets, path: Some(PathPort { port: 443, id: 9 }) }),
        Answer::Heard(vec![Heard { number: 7, socket: 0, source: observed }]),
        Answer::Sent(true),
        Answer::Fill(vec![0; PROBE_FILL]),
        Answer::Filled(64_000),
        Answer::Still,
        Answer::Refused("ending".to_owned()),
    ]
}

/// What is sent is what is received, and nothing that is cut short or goes on is taken for it.
#[test]
fn messages_are_read_whole_or_not_at_all() {
    for request in requests() {
        let bytes = request.to_bytes();
        assert_eq!(Request::from_bytes(&bytes), Ok(request));
        for cut in 0..bytes.len().min(100) {
            assert!(Request::from_bytes(&bytes[..cut]).is_err(), "{cut} of {bytes:?}");
        }
        assert_eq!(Request::from_bytes(&[&bytes[..], &[0]].concat()), Err(BadMessage::Trailing(1)));
    }
    for answer in answers() {
        let bytes = answer.to_bytes();
        assert_eq!(Answer::from_bytes(&bytes), Ok(answer));
        for cut in 0..bytes.len().min(100) {
            assert!(Answer::from_bytes(&bytes[..cut]).is_err(), "{cut} of {bytes:?}");
        }
        assert_eq!(Answer::from_bytes(&[&bytes[..], &[0]].concat()), Err(BadMessage::Trailing(1)));
    }
}

/// Every list, text and number has a bound, and beyond it an error of its own.
#[test]
fn what_is_more_than_agreed_is_refused() {
    let many = PROBE_CONTACTS_MAX + 1;
    let refused = |request: Request| Request::from_bytes(&request.to_bytes()).unwrap_err();
    assert_eq!(refused(Request::Look(vec![asked("web"); many])), BadMessage::List(many));
    assert_eq!(refused(Request::Look(vec![asked("two words")])), BadMessage::Text);
    assert_eq!(refused(Request::Look(vec![asked("")])), BadMessage::Text);
    let long = PROBE_FILL + 1;
    assert_eq!(refused(Request::Fill(vec![0; long])), BadMessage::List(long));
    let huge = vec![0; MESSAGE_BYTES_MAX + 1];
    assert_eq!(Request::from_bytes(&huge), Err(BadMessage::TooLong(huge.len())));
    assert_eq!(Request::from_bytes(&[]), Err(BadMessage::Malformed));
    // A list that says that it has four billion entries.
    assert_eq!(Request::from_bytes(&[0, 255, 255, 255, 255, 15]), Err(BadMessage::Malformed));

    let refused = |answer: Answer| Answer::from_bytes(&answer.to_bytes()).unwrap_err();
    let observed = "203.0.113.1:4242".parse().unwrap();
    let verdicts = vec![None; many];
    let looked = Looked { name: "office".to_owned(), observed, verdicts };
    assert_eq!(refused(Answer::Looked(looked.clone())), BadMessage::List(many));
    let nameless = Looked { name: "\x1b[2J".to_owned(), verdicts: Vec::new(), ..looked };
    assert_eq!(refused(Answer::Looked(nameless)), BadMessage::Text);
    let token = Token::generate().unwrap();
    let sockets = vec![Place { ip: None, port: 0 }];
    assert_eq!(refused(Answer::Opened(Opened { token, sockets, path: None })), BadMessage::Port);
    let heard = Heard { number: 0, socket: 0, source: observed };
    let many = PROBE_SOURCES_MAX + 1;
    assert_eq!(refused(Answer::Heard(vec![heard; many])), BadMessage::List(many));
}

/// The longest answer to the longest request fits into one message.
#[test]
fn the_longest_answers_fit() {
    let observed = "[2001:db8::ffff:ffff:ffff]:65535".parse().unwrap();
    let name = "n".repeat(adit_proto::limits::NAME_MAX);
    let verdicts = vec![Some("t".repeat(TEXT_MAX)); PROBE_CONTACTS_MAX];
    let looked = Answer::Looked(Looked { name: name.clone(), observed, verdicts });
    let heard = Heard { number: u16::MAX, socket: 2, source: observed };
    let heard = Answer::Heard(vec![heard; PROBE_SOURCES_MAX]);
    for answer in [looked, heard, Answer::Fill(vec![255; PROBE_FILL])] {
        assert!(answer.to_bytes().len() <= MESSAGE_BYTES_MAX);
    }
    let asked = Asked { name, is_udp: true, port: u16::MAX };
    let look = Request::Look(vec![asked; PROBE_CONTACTS_MAX]);
    assert!(look.to_bytes().len() <= MESSAGE_BYTES_MAX);
}

/// A relay's words cannot do anything to a terminal.
#[test]
fn texts_are_fit_to_be_shown() {
    let rude = Answer::Refused(format!("\x1b[2Jgo {}", "away ".repeat(1_000)));
    let Ok(Answer::Refused(text)) = Answer::from_bytes(&rude.to_bytes()) else { panic!() };
    assert!(text.starts_with("[2Jgo away") && text.len() <= TEXT_MAX, "{text}");
}

/// A datagram is taken with the right token and length alone.
#[test]
fn datagrams_need_the_token() {
    let [token, other] = [(); 2].map(|()| Token::generate().unwrap());
    let ping = Ping { token, number: 513 };
    let bytes = ping.to_bytes();
    assert_eq!(Ping::from_bytes(&bytes, token), Ok(ping));
    assert_eq!(Ping::from_bytes(&bytes, other), Err(BadPing::Token));
    for len in [0, 1, PING_LEN - 1] {
        assert_eq!(Ping::from_bytes(&bytes[..len], token), Err(BadPing::Length(len)));
    }
    let long = [&bytes[..], &[0]].concat();
    assert_eq!(Ping::from_bytes(&long, token), Err(BadPing::Length(PING_LEN + 1)));
    let path = ping.to_path_bytes(7);
    assert_eq!(path[..4], [0, 0, 0, 7]);
    assert!(token.is_before(&path[4..]) && !other.is_before(&path[4..]));
    assert_eq!(format!("{token:?}"), "Token");
}
