//! Metrics, their causes, the dashboard and the alert rules.

use std::collections::{BTreeMap, BTreeSet};

use adit::audit::Event;
use adit::handoff::{ContactReport, DatagramReport, Limit, Measure, Times, TimesOf, Way};
use adit::histogram::exposition;
use adit::status::{AdmittedStatus, ForwarderStatus, PeerStatus, RelayStatus, VolumeStatus};
use hdrhistogram::Histogram;

use super::alerts::rules;
use super::{pages, read, rows, sources, spans};

/// A metric's type and labels.
pub(super) type Shape = (String, BTreeSet<String>);

fn one(name: &str) -> BTreeMap<String, u64> {
    BTreeMap::from([(name.to_owned(), 1)])
}

/// What both daemons answer when each thing has happened once.
fn answers() -> [String; 2] {
    let datagrams = DatagramReport {
        dropped: one("cut"),
        packets_refused: one("forged"),
        ..DatagramReport::default()
    };
    let limited = Limit::ALL.map(|limit| (limit.name().to_owned(), 1)).into_iter().collect();
    let contacts = vec![ContactReport { limited, ..ContactReport::default() }];
    let forwarder = ForwarderStatus {
        peers: vec![PeerStatus::default()],
        datagrams: datagrams.clone(),
        contacts: contacts.clone(),
        events: one("started"),
        ..ForwarderStatus::default()
    };
    let volume = Some(VolumeStatus::default());
    let relay = RelayStatus {
        forwarders: vec![AdmittedStatus { datagrams, volume, ..AdmittedStatus::default() }],
        contacts,
        refused: one("not_tls"),
        events: one("started"),
        ..RelayStatus::default()
    };
    let times: Vec<_> = Measure::ALL.into_iter().map(times).collect();
    [
        exposition("adit", &forwarder.figures(), &times),
        exposition("adit_relay", &relay.figures(), &times),
    ]
}

fn times(measure: Measure) -> Times {
    let mut histogram = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 2).expect("bounds");
    histogram.record(1_000_000).expect("a time");
    let is_of_contact = matches!(measure, Measure::Inside | Measure::Queue);
    let (contact, way) =
        (is_of_contact.then(|| "web".into()), is_of_contact.then_some(Way::ToTunnel));
    Times { of: TimesOf { measure, session: "office".into(), contact, way }, histogram }
}

/// The metrics of an answer.
fn exposed(text: &str) -> BTreeMap<String, Shape> {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let shape = |(name, kind): (&str, &str)| {
        let sample = match kind {
            "counter" => format!("{name}_total"),
            "histogram" => format!("{name}_count"),
            _ => name.to_owned(),
        };
        let is_it = |line: &&str| line.split(['{', ' ']).next() == Some(&sample);
        let line = text.lines().find(is_it).unwrap_or_else(|| panic!("{name} has no value"));
        let name = if kind == "histogram" { name.to_owned() } else { sample.clone() };
        (name, (kind.to_owned(), labels(line)))
    };
    kinds.map(shape).collect()
}

/// The names before the `=` in the braces.
fn labels(text: &str) -> BTreeSet<String> {
    let inside = text.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let pairs = inside.map_or("", |(inside, _)| inside).split("\",");
    let names = pairs.filter_map(|pair| pair.split(['=', '!']).next());
    let names = names.map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty() && name != "le").collect()
}

pub(super) fn all() -> BTreeMap<String, Shape> {
    answers().iter().flat_map(|text| exposed(text)).collect()
}

/// The page has each metric of both daemons, with its type and labels, and no other.
#[test]
fn metrics_are_on_the_page_as_they_are() {
    let page = read("docs/metrics.md");
    let of_metric = |row: &Vec<String>| row[0].starts_with("`adit_");
    let listed: BTreeMap<String, Shape> = rows(&page)
        .into_iter()
        .filter(of_metric)
        .map(|row| (row[0].trim_matches('`').to_owned(), (row[1].clone(), spans(&row[2]))))
        .collect();
    let exposed = all();
    assert!(exposed.len() > 40, "both daemons answered");
    for (name, shape) in &exposed {
        assert_eq!(listed.get(name), Some(shape), "{name}");
    }
    let unknown: Vec<_> = listed.keys().filter(|name| !exposed.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "only on the page: {unknown:?}");
    let explained: BTreeSet<_> = page
        .lines()
        .filter_map(|line| {
            let name = line.strip_prefix("| `")?.split('`').next()?;
            Some(name.to_owned())
        })
        .collect();
    for label in exposed.values().flat_map(|(_, labels)| labels) {
        assert!(explained.contains(label), "the label {label} is not explained");
    }
}

/// The names of metrics in a text; such that only begin like one end with an underscore.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("adit_")).map(str::to_owned).collect()
}

fn is_known(name: &str, all: &BTreeMap<String, Shape>) -> bool {
    let of_histogram =
        ["_bucket", "_count", "_sum"].iter().filter_map(|end| name.strip_suffix(end));
    let is_histogram = |name: &str| all.get(name).is_some_and(|(kind, _)| kind == "histogram");
    let is_beginning = name.ends_with('_') && all.keys().any(|known| known.starts_with(name));
    is_beginning || all.contains_key(name) || of_histogram.into_iter().any(is_histogram)
}

/// The dashboard, the alert rules and all pages use metrics that exist.
#[test]
fn what_is_used_exists() {
    let all = all();
    let mut used = vec!["docs/grafana/adit.json", "docs/prometheus/alerts.yml"]
        .into_iter()
        .map(|path| (path.to_owned(), read(path)))
        .collect::<Vec<_>>();
    for (path, text) in &used {
        assert!(named(text).len() > 10, "{path} uses some");
    }
    used.extend(pages());
    // A module and a folder are no metrics.
    let others = ["adit_proto", "adit_ring", "adit_bench"];
    for (path, text) in &used {
        for name in named(text).iter().filter(|name| !others.contains(&name.as_str())) {
            assert!(is_known(name, &all), "{path}: {name} does not exist");
        }
    }
    assert!(!is_known("adit_speed", &all), "the control");
}

/// Every query of the dashboard and every rule selects and groups by labels that its metric has.
#[test]
fn labels_that_are_used_exist() {
    let all = all();
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("docs/grafana/adit.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut queries: Vec<String> =
        targets.filter_map(|target| Some(target["expr"].as_str()?.to_owned())).collect();
    queries.extend(rules().into_iter().map(|rule| rule.expression));
    assert!(queries.len() > 30, "{queries:#?}");
    for query in queries {
        let metrics: Vec<_> =
            all.iter().filter(|(name, _)| query.contains(name.as_str())).collect();
        let has = |label: &String| {
            label == "instance" || metrics.iter().any(|(_, (_, labels))| labels.contains(label))
        };
        let mut used: BTreeSet<String> = labels_selected(&query);
        used.extend(labels_grouped(&query));
        let unknown: Vec<_> = used.iter().filter(|label| !has(label)).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {query}");
    }
}

fn labels_selected(query: &str) -> BTreeSet<String> {
    let parts = query.split('{').skip(1);
    parts.flat_map(|part| labels(&format!("{{{part}"))).collect()
}

pub(super) fn labels_grouped(query: &str) -> BTreeSet<String> {
    let groups = query.split("by (").skip(1).chain(query.split("on (").skip(1));
    let names = groups.filter_map(|group| group.split(')').next()).flat_map(|list| list.split(','));
    names.map(|name| name.trim().to_owned()).filter(|name| name != "le").collect()
}

/// The first texts of the pairs, or what is behind the arrows, between two marks of a source.
fn names_between(source: &str, start: &str, end: &str, before: &str) -> BTreeSet<String> {
    let part = source.split_once(start).and_then(|(_, rest)| rest.split_once(end));
    let part = part.unwrap_or_else(|| panic!("{start} has moved")).0;
    let names = part.split(before).skip(1).filter_map(|rest| rest.split('"').next());
    names.map(str::to_owned).collect()
}

/// The names in the table behind a sentence of the page.
fn table_after(page: &str, sentence: &str) -> BTreeSet<String> {
    let (_, rest) = page.split_once(sentence).unwrap_or_else(|| panic!("no {sentence}"));
    let table = rest.lines().skip_while(|line| !line.starts_with('|'));
    let table: Vec<_> = table.take_while(|line| line.starts_with('|')).collect();
    rows(&table.join("\n")).iter().flat_map(|row| spans(&row[0])).collect()
}

/// Every cause and every event has its line on a page, and no others have.
#[test]
fn causes_and_events_are_on_the_page() {
    let page = read("docs/metrics.md");
    let refused = sources("relay/src");
    let refused = names_between(&refused, "fn name(self) -> &'static str {", "}\n    }", "=> \"");
    assert_eq!(table_after(&page, "Of `adit_relay_refused_total`"), refused);
    let sessions = read("forwarder/src/pump/sessions.rs");
    let dropped = names_between(&sessions, "let dropped = [", "];", "(\"");
    assert_eq!(table_after(&page, "Of `adit_datagrams_dropped_total`"), dropped);
    let packets = names_between(&sessions, "let refused = [", "];", "(\"");
    assert_eq!(table_after(&page, "Of `adit_packets_refused_total`"), packets);
    let events: BTreeSet<_> = Event::OF_RELAY.iter().map(|event| event.name().to_owned()).collect();
    let listed = table_after(&read("docs/operations.md"), "### Audit log");
    assert_eq!(listed, events);
    assert!(dropped.len() > 5 && packets.len() > 2 && refused.len() > 10);
}
