use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::*;
use crate::api::{Client, ClientError, SocketFile, serve};
use crate::config::Metrics;
use crate::handoff::{Command, Measure, Report, Times, TimesOf, Way};
use crate::histogram::{Figure, Live};
use crate::status::Condition;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

fn times(measure: Measure, contact: Option<&str>, count: u64) -> Times {
    let mut histogram = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 2).unwrap();
    histogram.record_n(42_000, count).unwrap();
    let (contact, way) = (contact.map(Into::into), contact.map(|_| Way::ToTunnel));
    Times { of: TimesOf { measure, session: "office".into(), contact, way }, histogram }
}

#[derive(Debug)]
enum Input {
    Times(TimesRequest),
    Ask(Ask),
}

impl From<TimesRequest> for Input {
    fn from(request: TimesRequest) -> Self {
        Self::Times(request)
    }
}

impl From<Ask> for Input {
    fn from(ask: Ask) -> Self {
        Self::Ask(ask)
    }
}

/// A daemon that is well and not ready, with two pumps, each of which has measured something of the same peer.
fn daemon(path: &Path) -> (SocketFile, SocketAddr) {
    let (inbox, mut inputs) = mpsc::channel::<Input>(4);
    let file = serve(path, inbox.clone(), histogram_routes()).unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    serve_metrics(address, inbox).unwrap();
    thread::spawn(move || {
        let mut live = Live::new("adit", 2, &Metrics::default(), Instant::now());
        let mut count = 5;
        while let Some(input) = inputs.blocking_recv() {
            let now = Instant::now();
            let request = match input {
                Input::Times(request) => request,
                Input::Ask(Ask::Condition(reply)) => {
                    let unready = vec!["the tunnel is not up".to_owned()];
                    reply.send(Ok(Condition { unwell: None, unready }));
                    continue;
                }
                Input::Ask(Ask::Status(_)) => continue,
            };
            for (_, command) in live.handle_request(request, now) {
                match command {
                    Command::ResetTimes => count = 0,
                    Command::Measure(asked, _) => {
                        let all = vec![
                            times(Measure::Inside, Some("web"), count),
                            times(Measure::RoundTrip, None, 1),
                        ];
                        live.handle_report(Report { asked, times: Some(all), ..Report::default() });
                    }
                    other => panic!("{other:?}"),
                }
            }
            if let Some((answer, _)) = live.poll_answer(now) {
                live.answer(answer, &[Figure::gauge("flows", "Flows", 7)], now);
            }
        }
    });
    (file, address)
}

fn ask(client: &Client, path: &str) -> Histograms {
    serde_json::from_str(&client.get(path).unwrap()).unwrap()
}

/// What all pumps have measured is one; a query chooses; a reset begins anew; nonsense is refused.
#[test]
fn histograms_are_shown_and_reset() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adit.sock");
    let (_file, _) = daemon(&path);
    let client = Client::new(&path);
    let all = ask(&client, "/v1/histograms");
    assert_eq!((all.unit.as_str(), all.histograms.len()), ("ns", 2));
    let web = ask(&client, "/v1/histograms?name=inside&contact=web");
    assert_eq!(web.histograms.len(), 1);
    assert_eq!(web.histograms[0].count, 10);
    assert_eq!(web.histograms[0].times().unwrap().histogram.len(), 10);
    let tunnel = ask(&client, "/v1/histograms?contact=tunnel");
    assert_eq!(tunnel.histograms[0].name, Measure::RoundTrip);
    client.post("/v1/histograms/reset", &()).unwrap();
    assert_eq!(ask(&client, "/v1/histograms?contact=web").histograms[0].count, 0);
    for nonsense in ["name=insight", "peer=web"] {
        match client.get(&format!("/v1/histograms?{nonsense}")) {
            Err(ClientError::Refused { status, text }) => {
                assert_eq!(status.as_u16(), 400);
                assert!(text.contains("unknown"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Prometheus gets its text, and nothing else is there.
#[test]
fn prometheus_is_answered_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let (_file, address) = daemon(&dir.path().join("adit.sock"));
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: adit\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let metrics = get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("application/openmetrics-text"));
    assert!(metrics.contains("adit_flows 7\n"));
    let count =
        "adit_inside_seconds_count{session=\"office\",contact=\"web\",way=\"to_tunnel\"} 10\n";
    assert!(metrics.contains(count), "{metrics}");
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    let unready = get("/readyz");
    assert!(unready.starts_with("HTTP/1.1 503") && unready.contains("the tunnel is not up"));
    assert!(get("/v1/status").starts_with("HTTP/1.1 404"));
    assert!(get("/v1/histograms").starts_with("HTTP/1.1 404"));
}
