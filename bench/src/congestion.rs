//! Lets the lab's namespaces choose the congestion control that figures are published under.
//!
//! A namespace other than the machine's own may choose only among what the machine allows, and keeps
//! what it has chosen: the machine's setting is changed for that moment, so that whatever ends this
//! program later finds it as it was.

use std::fs;
use std::io;

use crate::machine::WANTED_CONGESTION;

const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// What was allowed before, to be put back.
#[derive(Debug)]
pub(crate) struct Allowed {
    before: Option<String>,
}

impl Allowed {
    /// Allows it until dropped, if it is not allowed anyway. Where that cannot be done, a line says
    /// what can, and the conditions will show what the ends have.
    pub(crate) fn until_dropped() -> Self {
        match allow() {
            Ok(before) => Self { before },
            Err(error) => {
                eprintln!(
                    "cannot allow {WANTED_CONGESTION} here ({error}); in the machine's own network \
                     namespace do `sysctl net.ipv4.tcp_allowed_congestion_control=\"reno bbr \
                     {WANTED_CONGESTION}\"`"
                );
                Self { before: None }
            }
        }
    }

    /// For the conditions of a report.
    pub(crate) fn condition(&self) -> Option<(String, String)> {
        let before = self.before.as_ref()?;
        let text = format!(
            "`{before}` on this machine; {WANTED_CONGESTION} was added for the moment in which the \
             lab chose it"
        );
        Some(("congestion control allowed".to_owned(), text))
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        let Some(before) = &self.before else { return };
        if let Err(error) = fs::write(ALLOWED, before) {
            eprintln!(
                "cannot put {ALLOWED} back ({error}): do \
                 `sysctl net.ipv4.tcp_allowed_congestion_control=\"{before}\"`"
            );
        }
    }
}

/// Returns what was allowed before, if anything had to be changed.
fn allow() -> io::Result<Option<String>> {
    let before = fs::read_to_string(ALLOWED)?.trim().to_owned();
    let Some(more) = with(&before, WANTED_CONGESTION) else { return Ok(None) };
    fs::write(ALLOWED, more)?;
    Ok(Some(before))
}

/// The list with `wanted` in it, unless it is there already.
fn with(list: &str, wanted: &str) -> Option<String> {
    let known = list.split_whitespace().any(|word| word == wanted);
    (!known).then(|| format!("{list} {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is allowed already is not touched, nor put back.
    #[test]
    fn allowed_list_grows_only_where_it_must() {
        assert_eq!(with("reno bbr", "cubic").as_deref(), Some("reno bbr cubic"));
        assert_eq!(with("reno cubic", "cubic"), None);
    }
}
