//! What a reload has changed: the difference of two configurations, by name.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What is otherwise since a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file that was read.
    pub file: String,
    /// Who is there that was not: peers at the forwarder, keys at the relay.
    pub added: Vec<String>,
    /// Who has the same name and something else changed.
    pub changed: Vec<String>,
    /// Who is there no more.
    pub removed: Vec<String>,
    /// Other settings that are in force now.
    pub in_force: Vec<String>,
    /// Settings that have changed in the file, and stay as they were until an upgrade or a restart.
    pub at_restart: Vec<String>,
}

impl Reloaded {
    /// Of `file`, in which nothing has changed.
    pub fn new(file: &std::path::Path) -> Self {
        Self { file: file.display().to_string(), ..Self::default() }
    }

    /// Takes both lists of what has names.
    pub fn compare<T: PartialEq>(&mut self, old: &[T], new: &[T], name: impl Fn(&T) -> &str) {
        let named = |list| -> BTreeMap<_, _> {
            let named = |one| (name(one), one);
            <[T]>::iter(list).map(named).collect()
        };
        let (before, after) = (named(old), named(new));
        for (&name, one) in &after {
            match before.get(name) {
                None => self.added.push(name.to_owned()),
                Some(before) if before != one => self.changed.push(name.to_owned()),
                Some(_) => {}
            }
        }
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        self.removed.extend(gone.map(|name| (*name).to_owned()));
    }

    /// Takes which other settings have changed: those that are in force now, and those that wait.
    pub fn settings(&mut self, in_force: &[(&str, bool)], at_restart: &[(&str, bool)]) {
        let changed = |settings: &[(&str, bool)]| -> Vec<String> {
            let changed = settings.iter().filter(|(_, has_changed)| *has_changed);
            changed.map(|(setting, _)| (*setting).to_owned()).collect()
        };
        self.in_force.extend(changed(in_force));
        self.at_restart.extend(changed(at_restart));
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
            ("in force", &self.in_force),
            ("needs an upgrade or a restart", &self.at_restart),
        ];
        let said = parts.into_iter().filter(|(_, names)| !names.is_empty());
        let said: Vec<_> =
            said.map(|(what, names)| format!("{what}: {}", names.join(", "))).collect();
        if said.is_empty() {
            f.write_str("nothing has changed")
        } else {
            f.write_str(&said.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ForwarderConfig, RelayConfig};
    use crate::key::PrivateKey;

    /// Every setting that has changed is named: those of `[audit]` wait for another process, as all
    /// that is opened at the start does.
    #[test]
    fn a_changed_audit_log_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adit.toml");
        let key = PrivateKey::generate().unwrap().public();
        let forwarder =
            format!("key = \"k\"\nrelay = \"relay.example.net:443\"\nrelay_key = \"{key}\"\n");
        let relay = "key = \"k\"\nlisten = \"0.0.0.0:443\"\nstate = \"s\"\n";
        let write = |text: &str, audit: &str| {
            std::fs::write(&path, format!("{text}{audit}")).unwrap();
            path.clone()
        };
        for (changed, expected) in
            [("", &[][..]), ("[audit]\nfile = \"a\"\n", &["[audit]".to_owned()][..])]
        {
            let mut old = ForwarderConfig::load(&write(&forwarder, "")).unwrap();
            let new = ForwarderConfig::load(&write(&forwarder, changed)).unwrap();
            assert_eq!(old.reload(&path, new).at_restart, expected);
            let mut old = RelayConfig::load(&write(relay, "")).unwrap();
            let new = RelayConfig::load(&write(relay, changed)).unwrap();
            assert_eq!(old.reload(&path, new).at_restart, expected);
        }
    }

    /// What is new, gone or otherwise is said by name, and what is the same is not.
    #[test]
    fn a_difference_is_said_by_name() {
        fn name(one: &(String, u8)) -> &str {
            &one.0
        }
        let list = |all: &[(&str, u8)]| -> Vec<_> {
            all.iter().map(|(name, what)| ((*name).to_owned(), *what)).collect()
        };
        let old = list(&[("web", 1), ("db", 1), ("ssh", 1)]);
        let mut reloaded = Reloaded::new("adit.toml".as_ref());
        reloaded.compare(&old, &old, name);
        assert_eq!(reloaded.to_string(), "nothing has changed");
        reloaded.compare(&old, &list(&[("ssh", 1), ("web", 2), ("mail", 1)]), name);
        reloaded.settings(&[("log_level", true), ("relay_key", false)], &[("socket", true)]);
        assert_eq!(
            reloaded.to_string(),
            "added: mail; changed: web; removed: db; in force: log_level; \
             needs an upgrade or a restart: socket"
        );
    }
}
