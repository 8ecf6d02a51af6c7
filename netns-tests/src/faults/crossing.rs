//! The connections that cross a gateway, by its own account.

use crate::{Host, LabError};

/// One TCP connection in a gateway's `conntrack`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Crossing {
    /// The port inside.
    pub(super) inside_port: u16,
    /// The address inside.
    pub(super) inside: String,
    /// The port addressed.
    pub(super) remote_port: u16,
    /// The gateway's own address that stands for the inside one.
    pub(super) outside: String,
}

impl Crossing {
    /// Reads one line; what is not translated as all others are is none.
    fn read(line: &str) -> Option<Self> {
        let values = |key: &str| {
            line.split_whitespace()
                .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        Some(Self {
            inside_port: values("sport").first()?.parse().ok()?,
            inside: values("src").first()?.clone(),
            remote_port: values("dport").first()?.parse().ok()?,
            outside: values("dst").get(1)?.clone(),
        })
    }
}

/// The established connections.
pub(super) fn crossing(gateway: &Host<'_>) -> Result<Vec<Crossing>, LabError> {
    let lines = gateway.crossing_connections()?;
    Ok(lines.iter().filter_map(|line| Crossing::read(line)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of conntrack names the inside first and the gateway's address last.
    #[test]
    fn conntrack_lines_are_understood() {
        let line = "tcp 6 431999 ESTABLISHED src=192.168.50.2 dst=203.0.113.20 sport=45678 \
            dport=443 src=203.0.113.20 dst=203.0.113.1 sport=443 dport=45679 [ASSURED] mark=0";
        let expected = Crossing {
            inside_port: 45678,
            inside: "192.168.50.2".to_owned(),
            remote_port: 443,
            outside: "203.0.113.1".to_owned(),
        };
        assert_eq!(Crossing::read(line), Some(expected));
    }
}
