//! Proxies that answer as they are told.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// What a proxy answers to each thing that it is told, in turn.
async fn asked(
    proxy: &str,
    place: &str,
    script: &[&[u8]],
) -> (Result<Tunnelled, ProxyError>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy: Proxy = proxy.replace("HERE", &address.to_string()).parse().unwrap();
    let place: Place = place.parse().unwrap();
    let script: Vec<Vec<u8>> = script.iter().map(|answer| answer.to_vec()).collect();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut said, mut buffer) = (Vec::new(), vec![0; 4096]);
        for answer in script {
            let len = stream.read(&mut buffer).await.unwrap();
            said.extend_from_slice(&buffer[..len]);
            stream.write_all(&answer).await.unwrap();
        }
        stream.shutdown().await.ok();
        said
    });
    let stream = TcpStream::connect(address).await.unwrap();
    let asked = tunnel(stream, &proxy, &place).await;
    (asked, served.await.unwrap())
}

async fn refusal(proxy: &str, script: &[&[u8]]) -> ProxyError {
    asked(proxy, "relay.example.net:443", script).await.0.unwrap_err()
}

/// The name goes to the proxy as it is written, with the login; what comes behind the answer is kept.
#[tokio::test]
async fn connect_leads_through_and_loses_no_byte() {
    let answer: &[u8] = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nearly";
    let (tunnelled, said) = asked("http://jo:pass@HERE", "relay.example.net:443", &[answer]).await;
    let (mut stream, mut received) = tunnelled.unwrap();
    stream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"early");
    let said = String::from_utf8(said).unwrap().to_lowercase();
    assert!(said.starts_with("connect relay.example.net:443 http/1.1\r\n"), "{said}");
    assert!(said.contains("host: relay.example.net:443\r\n"), "{said}");
    assert!(said.contains("proxy-authorization: basic am86cgfzcw==\r\n"), "{said}");
}

/// Each refusal of an HTTP proxy is told from the others, and none shows the login.
#[tokio::test]
async fn refusals_of_http_proxies_are_told_apart() {
    let refused = |status: &'static str, proxy: &'static str| async move {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nno!");
        refusal(proxy, &[answer.as_bytes()]).await
    };
    let anonymous = "http://HERE";
    let needed = refused("407 Proxy Authentication Required", anonymous).await;
    assert!(matches!(needed, ProxyError::LoginNeeded { .. }), "{needed}");
    let wrong = refused("407 Nope", "http://jo:secret@HERE").await;
    assert!(matches!(wrong, ProxyError::LoginRefused { .. }), "{wrong}");
    assert!(wrong.is_denial() && !wrong.to_string().contains("secret"), "{wrong}");
    let forbidden = refused("403 Forbidden", anonymous).await;
    assert!(matches!(forbidden, ProxyError::Forbidden { .. }), "{forbidden}");
    assert!(forbidden.to_string().contains("relay.example.net:443 (403 Forbidden)"), "{forbidden}");
    let unreached = refused("502 Bad Gateway", anonymous).await;
    assert!(matches!(unreached, ProxyError::Unreached { .. }), "{unreached}");
    let refused = refused("405 Method Not Allowed", anonymous).await;
    assert!(matches!(refused, ProxyError::Refused { .. }), "{refused}");
}

/// Who is no HTTP proxy, says nothing whole, or too much, is told so.
#[tokio::test]
async fn strangers_in_a_proxys_place_are_named() {
    let stranger = refusal("http://HERE", &[b"SSH-2.0-OpenSSH\r\n\r\n"]).await;
    assert!(matches!(stranger, ProxyError::Stranger { expected: "HTTP" }), "{stranger}");
    let closed = refusal("http://HERE", &[b""]).await;
    assert!(matches!(closed, ProxyError::Closed), "{closed}");
    let cut = refusal("http://HERE", &[b"HTTP/1.1 200 O"]).await;
    assert!(matches!(cut, ProxyError::Closed), "{cut}");
    let endless = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 2 * ANSWER_BYTES_MAX]].concat();
    let endless = refusal("http://HERE", &[&endless]).await;
    assert!(matches!(endless, ProxyError::Stranger { .. }), "{endless}");
    let stranger = refusal("socks5://HERE", &[b"HTTP/1.1 400 Bad Request\r\n\r\n"]).await;
    assert!(matches!(stranger, ProxyError::Stranger { expected: "SOCKS5" }), "{stranger}");
    let closed = refusal("socks5://HERE", &[b""]).await;
    assert!(matches!(closed, ProxyError::Closed), "{closed}");
}

/// SOCKS5 is told the name, too, with the login if it asks; what comes behind its answer is kept.
#[tokio::test]
async fn socks_leads_through_and_loses_no_byte() {
    let answers: [&[u8]; 3] = [&[5, 2], &[1, 0], b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50early"];
    let (tunnelled, said) = asked("socks5://jo:pass@HERE", "relay.example.net:443", &answers).await;
    let (mut stream, mut received) = tunnelled.unwrap();
    stream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"early");
    let expected =
        [&[5, 2, 0, 2, 1, 2][..], b"jo\x04pass", &[5, 1, 0, 3, 17], b"relay.example.net\x01\xbb"];
    assert_eq!(said, expected.concat());
}

/// An address goes as an address.
#[tokio::test]
async fn socks_is_told_addresses_as_such() {
    let answers: [&[u8]; 2] = [&[5, 0], &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]];
    let (asked, said) = asked("socks5://HERE", "192.0.2.7:443", &answers).await;
    let error = asked.unwrap_err();
    assert!(matches!(error, ProxyError::Unreached { .. }), "{error}");
    assert_eq!(said, [5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 7, 1, 0xbb]);
}

/// Each refusal of a SOCKS proxy is told from the others.
#[tokio::test]
async fn refusals_of_socks_proxies_are_told_apart() {
    let needed = refusal("socks5://HERE", &[&[5, 0xff], b""]).await;
    assert!(matches!(needed, ProxyError::LoginNeeded { .. }), "{needed}");
    let wrong = refusal("socks5://jo:secret@HERE", &[&[5, 2], &[1, 1]]).await;
    assert!(matches!(wrong, ProxyError::LoginRefused { .. }), "{wrong}");
    assert!(!wrong.to_string().contains("secret") && !wrong.to_string().contains("jo"), "{wrong}");
    let forbidden = refusal("socks5://HERE", &[&[5, 0], &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]]).await;
    assert!(matches!(forbidden, ProxyError::Forbidden { .. }), "{forbidden}");
}

/// Codes that no RFC names, which the other end chooses, are refusals like others.
#[tokio::test]
async fn unknown_codes_of_socks_proxies_are_refusals() {
    for code in 0x09..=0xff {
        let answer = [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
        let refused = refusal("socks5://HERE", &[&[5, 0], &answer]).await;
        assert!(matches!(refused, ProxyError::Unreached { .. }), "{refused}");
        assert!(refused.to_string().contains(&format!("{code:#04x}")), "{refused}");
    }
}

/// An answer is read to its end whatever address it has, and one without an end, or with none that
/// is known, is none.
#[tokio::test]
async fn answers_of_socks_proxies_are_read_to_the_byte() {
    let v6 = [&[5, 0, 0, 4][..], &[0; 18], b"early"].concat();
    let name = [&[5, 0, 0, 3, 255][..], &[b'x'; 257], b"early"].concat();
    for answer in [v6, name] {
        let script: [&[u8]; 2] = [&[5, 0], &answer];
        let (tunnelled, _) = asked("socks5://HERE", "relay.example.net:443", &script).await;
        let (mut stream, mut received) = tunnelled.unwrap();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"early");
    }
    let cut = refusal("socks5://HERE", &[&[5, 0], &[5, 0, 0, 3, 255, 0]]).await;
    assert!(matches!(cut, ProxyError::Closed), "{cut}");
    let kind = refusal("socks5://HERE", &[&[5, 0], &[5, 0, 0, 2, 0, 0, 0, 0, 0, 0]]).await;
    assert!(matches!(kind, ProxyError::Stranger { expected: "SOCKS5" }), "{kind}");
    let version = refusal("socks5://HERE", &[&[5, 0], &[4, 0, 0, 1, 0, 0, 0, 0, 0, 0]]).await;
    assert!(matches!(version, ProxyError::Stranger { expected: "SOCKS5" }), "{version}");
}

/// A proxy that accepts and says nothing does not hold an attempt for ever.
#[tokio::test(start_paused = true)]
async fn a_silent_proxy_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy: Proxy = format!("http://{address}").parse().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let place = "192.0.2.7:443".parse().unwrap();
    let silent = tunnel(stream, &proxy, &place).await.unwrap_err();
    assert!(matches!(silent, ProxyError::Silent), "{silent}");
}

/// Mutants of what a proxy answers, said in one breath: each leads through or is refused in time, and no
/// refusal shows the login.
#[tokio::test]
async fn mutants_of_answers_lead_through_or_are_refused() {
    const MUTANTS: u64 = 500;
    let http: &[u8] =
        b"HTTP/1.1 200 Connection established\r\nVia: 1.1 x\r\nContent-Length: 0\r\n\r\n";
    let socks: &[u8] = b"\x05\x02\x01\x00\x05\x00\x00\x03\x04name\x00\x50";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let place: Place = "relay.example.net:443".parse().unwrap();
    for (scheme, answer) in [("http", http), ("socks5", socks)] {
        let proxy: Proxy = format!("{scheme}://jo:secret@{address}").parse().unwrap();
        let mut led_through = 0;
        for seed in 0..MUTANTS {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut answer = answer.to_vec();
            (0..random.usize(..3)).for_each(|_| alter(&mut answer, &mut random));
            let answered = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
                // Whoever has heard enough may be gone.
                stream.write_all(&answer).await.ok();
                stream.shutdown().await.ok();
                stream.read_to_end(&mut Vec::new()).await.ok();
            };
            let asked = async {
                let stream = TcpStream::connect(address).await.unwrap();
                tunnel(stream, &proxy, &place).await.map(drop)
            };
            match tokio::join!(asked, answered).0 {
                Ok(()) => led_through += 1,
                Err(ProxyError::Silent) => panic!("mutant {seed} holds an attempt up: {answer:?}"),
                Err(refused) => assert!(!refused.to_string().contains("secret"), "{refused}"),
            }
        }
        assert!(led_through > 0 && led_through < MUTANTS, "{scheme}: {led_through}");
    }
}

fn alter(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = random.usize(..bytes.len());
    match random.u8(..5) {
        0 => bytes[at] ^= 1 << random.u8(..8),
        1 => bytes[at] = random.u8(..),
        2 => bytes.truncate(at),
        3 => bytes.insert(at, random.u8(..)),
        _ => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
    }
}
