//! Which addresses may use something.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Networks that are let in and networks that are kept out; what is in both is kept out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// Without a list everybody is let in.
    allow: Option<Vec<IpNet>>,
    deny: Vec<IpNet>,
}

impl Sources {
    /// Lets everybody in.
    pub fn any() -> Self {
        Self { allow: None, deny: Vec::new() }
    }

    /// Lets nobody in.
    pub fn none() -> Self {
        Self { allow: Some(Vec::new()), deny: Vec::new() }
    }

    /// Lets in who is in `allow`, or everybody where there is no such list, but nobody in `deny`.
    pub fn new(allow: Option<Vec<IpNet>>, deny: Vec<IpNet>) -> Self {
        Self { allow, deny }
    }

    /// Lets in these addresses alone.
    pub fn only(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let hosts = addresses.into_iter().map(|address| IpNet::from(address.to_canonical()));
        Self { allow: Some(hosts.collect()), deny: Vec::new() }
    }

    /// Whether `source` is let in. An IPv4 address is one in whatever form it comes.
    pub fn accepts(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&source));
        !is_in(&self.deny) && self.allow.as_deref().is_none_or(is_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn accepts(sources: &Sources, address: &str) -> bool {
        sources.accepts(address.parse().unwrap())
    }

    /// Nobody slips in by the other spelling of an IPv4 address, nor out of the denied ones.
    #[test]
    fn an_address_is_judged_in_its_canonical_form() {
        let sources = Sources::new(Some(nets(&["203.0.113.0/24"])), nets(&["203.0.113.66/32"]));
        for outside in ["203.0.114.1", "::1", "::ffff:203.0.113.66", "203.0.113.66"] {
            assert!(!accepts(&sources, outside), "{outside}");
        }
        for inside in ["203.0.113.1", "::ffff:203.0.113.1"] {
            assert!(accepts(&sources, inside), "{inside}");
        }
    }

    /// An empty list of those let in lets nobody in; no list, everybody.
    #[test]
    fn an_empty_list_is_not_no_list() {
        for address in ["127.0.0.1", "203.0.113.1", "2001:db8::1"] {
            assert!(!accepts(&Sources::none(), address), "{address}");
            assert!(accepts(&Sources::any(), address), "{address}");
            let denied = Sources::new(None, nets(&["0.0.0.0/0", "::/0"]));
            assert!(!accepts(&denied, address), "{address}");
        }
        assert!(accepts(&Sources::only(["::ffff:10.0.0.1".parse().unwrap()]), "10.0.0.1"));
    }
}
