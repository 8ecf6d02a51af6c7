//! Rules put before a gateway's own, whose counters show what they struck.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Host, LabError};

/// Makes every rule's comment its own.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Rules of one fault on one gateway.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    gateway: Host<'a>,
    /// Chain, comment, and all of the rule but the comment.
    rules: Vec<(&'static str, String, String)>,
}

impl<'a> Rules<'a> {
    /// Puts `rules`, each a chain and what it does there, before all others.
    pub(super) fn insert(
        gateway: Host<'a>,
        rules: &[(&'static str, String)],
    ) -> Result<Self, LabError> {
        let mut inserted = Self { gateway, rules: Vec::new() };
        let mut script = String::new();
        for (chain, rule) in rules {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            // Ends with a letter: rule 1 must not be found where rule 12 is meant.
            let comment = format!("fault-{number}-x");
            script += &line("-I", chain, &comment, rule);
            inserted.rules.push((chain, comment, rule.clone()));
        }
        gateway.shell(&script)?;
        Ok(inserted)
    }

    /// How many packets they have struck so far.
    pub(super) fn packets(&self) -> Result<u64, LabError> {
        let mut sum = 0;
        for (chain, comment, _) in &self.rules {
            sum += self.gateway.rule_packets(chain, comment)?;
        }
        Ok(sum)
    }

    /// Takes them away; returns how many packets they struck.
    pub(super) fn remove(self) -> Result<u64, LabError> {
        let packets = self.packets()?;
        let lines = self.rules.iter();
        let script: String =
            lines.map(|(chain, comment, rule)| line("-D", chain, comment, rule)).collect();
        self.gateway.shell(&script)?;
        Ok(packets)
    }
}

fn line(operation: &str, chain: &str, comment: &str, rule: &str) -> String {
    format!("iptables -w {operation} {chain} -m comment --comment {comment} {rule}\n")
}
