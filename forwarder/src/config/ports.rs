//! The ports that a forwarder may have at the relay.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::place::parse_port;

/// One port, or a range with both ends in it: `2222`, `8000-8100`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(RangeInclusive<u16>);

/// Why a text names no ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPorts {
    /// A port is no port.
    #[error("{0}")]
    Port(#[from] super::BadPlace),
    /// The range ends before it begins.
    #[error("{0:?} ends before it begins: write the lower port first")]
    Reversed(String),
}

impl PortRange {
    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = BadPorts;

    fn from_str(text: &str) -> Result<Self, BadPorts> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (parse_port(first.trim())?, parse_port(last.trim())?);
        if first > last {
            return Err(BadPorts::Reversed(text.to_owned()));
        }
        Ok(Self(first..=last))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.start() == self.0.end() {
            write!(f, "{}", self.0.start())
        } else {
            write!(f, "{}-{}", self.0.start(), self.0.end())
        }
    }
}

/// A list of ports and ranges; what is not in it is forbidden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<PortRange>);

impl Ports {
    /// Whether `port` is in the list.
    pub fn contain(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(port))
    }

    /// The ports and ranges in the order of the list.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }
}

impl FromIterator<PortRange> for Ports {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        Self(ranges.into_iter().collect())
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{range}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(texts: &[&str]) -> Ports {
        texts.iter().map(|text| text.parse::<PortRange>().unwrap()).collect()
    }

    /// Neither port 0 nor what lies beyond the last one is a port, and ranges run upwards.
    #[test]
    fn malformed_ranges_are_refused() {
        for text in ["", "0", "-", "80-", "-80", "0-80", "65536", "1-65536", "a", "1-2-3", "+1"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
        assert!(matches!("90-80".parse::<PortRange>(), Err(BadPorts::Reversed(_))));
    }

    /// The list is an allow-list: an empty one allows nothing, and no range reaches past its ends.
    #[test]
    fn nothing_outside_the_list_is_contained() {
        assert!(!ports(&[]).contain(80));
        let ports = ports(&["2222", "8000-8100"]);
        for port in [0, 1, 2221, 2223, 7999, 8101, 65_535] {
            assert!(!ports.contain(port), "{port}");
        }
        for port in [2222, 8000, 8050, 8100] {
            assert!(ports.contain(port), "{port}");
        }
    }
}
