//! Status as tables for a terminal.

use std::fmt;

use super::{ForwarderStatus, PeerStatus, RelayStatus, Traffic};

/// Rows of text in columns as wide as they have to be.
#[derive(Debug)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with these headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self(vec![headings.map(str::to_owned).to_vec()])
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.to_vec());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.0.first().map_or(0, Vec::len)).map(width).collect();
        for row in &self.0 {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A number of bytes, to three digits.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        // From 1,000 on, so that 1,023 KiB does not need a fourth digit.
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

fn round_trip(microseconds: u64) -> String {
    match microseconds {
        0 => "-".to_owned(),
        us => format!("{}.{:03} ms", us / 1_000, us % 1_000),
    }
}

fn or_dash(text: Option<&str>) -> &str {
    text.unwrap_or("-")
}

/// The internal peers, one a line.
pub fn peers_table(peers: &[PeerStatus]) -> Table {
    let mut table =
        Table::new(["PEER", "ADDRESS", "CONTACT", "STATE", "LEASE", "HEALTH", "REASON"]);
    for peer in peers {
        table.row([
            peer.name.clone(),
            peer.address.clone(),
            peer.contact.clone(),
            peer.state.clone(),
            peer.lease_s.map_or("-".to_owned(), |left| format!("{left} s")),
            or_dash(peer.health.as_deref()).to_owned(),
            or_dash(peer.reason.as_deref()).to_owned(),
        ]);
    }
    table
}

fn traffic(traffic: &Traffic) -> String {
    format!(
        "{} opened, {} failed, {} sent, {} received, {} waiting",
        traffic.flows_opened,
        traffic.flows_failed,
        bytes(traffic.bytes_sent),
        bytes(traffic.bytes_received),
        bytes(traffic.bytes_waiting),
    )
}

fn memory(memory: super::Memory) -> String {
    format!("{} held, {} at most", bytes(memory.held as u64), bytes(memory.max as u64))
}

/// A forwarder's status for a terminal.
pub fn forwarder_table(status: &ForwarderStatus) -> String {
    let carrier = &status.carrier;
    let remote = carrier.remote.as_ref().map_or(String::new(), |remote| format!(" to {remote}"));
    let mut lines = vec![
        format!("adit      {}, key {}", status.version, status.key),
        format!("relay     {}", status.relay),
        format!(
            "carrier   {}{remote}, round trip {}",
            carrier.state,
            round_trip(carrier.round_trip_us)
        ),
        format!(
            "session   {}, resumed {} times",
            or_dash(status.session.as_deref()),
            carrier.resumptions
        ),
        format!("flows     {} open; {}", status.flows, traffic(&status.traffic)),
        format!("memory    {}", memory(status.memory)),
    ];
    if let Some(path) = &status.datagrams.path {
        let packet = status.datagrams.packet_bytes;
        lines.push(format!("datagrams on their own path to {path}, {packet} bytes a packet"));
    }
    if let Some(error) = &carrier.last_error {
        lines.push(format!("last lost {error}"));
    }
    format!("{}\n\n{}", lines.join("\n"), peers_table(&status.peers))
}

/// A relay's status for a terminal.
pub fn relay_table(status: &RelayStatus) -> String {
    let lines = [
        format!("adit-relay  {}, key {}", status.version, status.key),
        format!("listen      {}", status.listen.join(", ")),
        format!("flows       {} open", status.flows),
        format!("handshakes  {} under way", status.handshakes),
        format!("memory      {}", memory(status.memory)),
    ];
    let mut forwarders = Table::new([
        "FORWARDER",
        "REMOTE",
        "ROUND TRIP",
        "FLOWS",
        "SENT",
        "RECEIVED",
        "THIS MONTH",
        "CONTACTS",
    ]);
    for forwarder in &status.forwarders {
        let contact = |contact: &super::ContactStatus| {
            let place = match contact.port {
                Some(port) if contact.protocol == "udp" => format!("{}:{port}/udp", contact.peer),
                Some(port) => format!("{}:{port}", contact.peer),
                None => format!("{} (private)", contact.peer),
            };
            contact.lease_s.map_or(place.clone(), |left| format!("{place} (kept {left} s)"))
        };
        let contacts: Vec<_> = forwarder.contacts.iter().map(contact).collect();
        forwarders.row([
            forwarder.name.clone(),
            or_dash(forwarder.remote.as_deref()).to_owned(),
            round_trip(forwarder.round_trip_us),
            forwarder.flows.to_string(),
            bytes(forwarder.traffic.bytes_sent),
            bytes(forwarder.traffic.bytes_received),
            forwarder.volume.map_or("-".to_owned(), |volume| {
                format!("{} of {}", bytes(volume.moved), bytes(volume.max))
            }),
            contacts.join(" "),
        ]);
    }
    let mut refused = Table::new(["REFUSED", "TIMES"]);
    for (cause, count) in status.refused.iter().filter(|(_, count)| **count > 0) {
        refused.row([cause.clone(), count.to_string()]);
    }
    format!("{}\n\n{forwarders}\n{refused}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three digits, whatever the size, also where rounding reaches the next one.
    #[test]
    fn bytes_are_shown_with_three_digits() {
        let shown = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_235, "10.0 KiB"),
            (1_048_575, "1.00 MiB"),
            (64 << 20, "64.0 MiB"),
            (160 << 20, "160 MiB"),
        ];
        for (count, text) in shown {
            assert_eq!(bytes(count), text);
        }
    }

    /// Columns line up, and no line ends in blanks.
    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["A", "LONG"]);
        table.row(["wide".into(), "x".into()]);
        assert_eq!(table.to_string(), "A     LONG\nwide  x\n");
    }
}
