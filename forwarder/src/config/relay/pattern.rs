//! Which private names a key may have or call.

use std::fmt;
use std::str::FromStr;

use adit_proto::frame::is_name;
use adit_proto::limits::NAME_MAX;

/// One private name, or all that begin alike: `db`, `office-*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern {
    stem: String,
    is_prefix: bool,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no private name: use 1 to {NAME_MAX} letters, digits, '-', '_' and '.', and a '*' at \
     the end for all that begin so"
)]
pub struct BadPattern(String);

impl NamePattern {
    /// Whether `name` is one of those meant.
    pub fn matches(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&self.stem) } else { name == self.stem }
    }
}

impl FromStr for NamePattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let prefix = text.strip_suffix('*');
        let is_every_name = text == "*";
        let stem = prefix.unwrap_or(text);
        if !is_name(stem) && !is_every_name {
            return Err(BadPattern(text.to_owned()));
        }
        Ok(Self { stem: stem.to_owned(), is_prefix: prefix.is_some() })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stem, if self.is_prefix { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A star stands at the end or nowhere, and what is no name names nothing.
    #[test]
    fn malformed_patterns_are_refused() {
        for text in ["", "a b", "*-office", "of*ce", "office-**", "db/", "ä"] {
            assert!(text.parse::<NamePattern>().is_err(), "{text}");
        }
    }

    /// A pattern means what it says and nothing that looks like it.
    #[test]
    fn patterns_match_no_more_than_they_say() {
        for (pattern, name, matches) in [
            ("db", "db", true),
            ("db", "db2", false),
            ("db", "DB", false),
            ("office-*", "office-", true),
            ("office-*", "office-web", true),
            ("office-*", "office", false),
            ("office-*", "my-office-web", false),
            ("*", "anything", true),
        ] {
            let parsed: NamePattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(name), matches, "{pattern} {name}");
            assert_eq!(parsed.to_string(), pattern);
        }
    }
}
