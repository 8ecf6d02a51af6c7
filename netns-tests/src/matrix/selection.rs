//! Which rows a pattern means.

use super::{Row, rows};

/// The rows that one of `patterns` means, all of them without any; in the table's order.
///
/// A pattern that is a gateway's name, or a whole row's, means exactly that. Any other means every row
/// whose name contains it, in which `*` stands for anything.
#[must_use]
pub fn select(patterns: &[String]) -> Vec<Row> {
    let mut rows = rows();
    if patterns.is_empty() {
        return rows;
    }
    let patterns: Vec<_> = patterns.iter().map(|pattern| pattern.to_lowercase()).collect();
    let is_name = |pattern: &str| {
        super::rows().iter().any(|row| row.gateway == pattern || row.to_string() == pattern)
    };
    let exact: Vec<_> = patterns.iter().map(|pattern| is_name(pattern)).collect();
    rows.retain(|row| {
        patterns.iter().zip(&exact).any(|(pattern, &exact)| {
            let name = row.to_string();
            if exact { row.gateway == *pattern || name == *pattern } else { means(pattern, &name) }
        })
    });
    rows
}

/// Whether `name` contains the parts of `pattern` in their order.
fn means(pattern: &str, name: &str) -> bool {
    let mut rest = name;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A star stands for anything, and the parts keep their order.
    #[test]
    fn stars_stand_for_anything() {
        assert!(means("sym*inw", "symmetric/tcp/inwards"));
        assert!(means("/udp/", "symmetric/udp/outwards"));
        assert!(!means("inw*sym", "symmetric/tcp/inwards"));
    }

    /// The name of one gateway does not mean those whose names contain it.
    #[test]
    fn a_whole_name_means_itself_alone() {
        let found = select(&["symmetric".to_owned()]);
        assert!(!found.is_empty() && found.iter().all(|row| row.gateway == "symmetric"));
        assert!(select(&["symm".to_owned()]).len() > found.len());
        assert!(select(&["no such thing".to_owned()]).is_empty());
    }
}
