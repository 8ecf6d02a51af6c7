//! One file of TOML with its lines: what is said about a value is said with its line.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, SeqAccess, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Problem, is_blank};

/// How alike two keys must be for one to be offered in place of the other (Jaro-Winkler): `adress`
/// and `address` are 0.96 alike, `tcp` and `udp` 0.56.
const LIKENESS_MIN: f64 = 0.75;

/// Entries that one list may have.
const LIST_MAX: usize = 1_024;

/// The keys that a file may have.
pub(super) struct Schema {
    /// At the top.
    pub(super) top: &'static [&'static str],
    /// In the `[table]`, or in each `[[table]]`, of a name.
    pub(super) tables: &'static [(&'static str, &'static [&'static str])],
}

impl Schema {
    /// Every key, with its table.
    pub(super) fn keys(&'static self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let is_table = |key: &&str| self.tables.iter().any(|(table, _)| table == key);
        let top = self.top.iter().filter(move |key| !is_table(key)).map(|key| ("", *key));
        let of = |(table, keys): &(&'static str, &'static [&'static str])| {
            let table = *table;
            keys.iter().map(move |key| (table, *key))
        };
        top.chain(self.tables.iter().flat_map(of))
    }
}

/// What must be unique, with the file and the line of each.
pub(super) type Seen<K> = BTreeMap<K, (PathBuf, usize)>;

/// A file's text, under the name it was asked for.
pub(super) struct File {
    pub(super) path: PathBuf,
    text: String,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self { path: path.into(), text }),
            Err(error) => Err(ConfigError {
                file: path.into(),
                line: None,
                problem: Problem::Unreadable(error),
            }),
        }
    }

    /// Refuses a file that says nothing, with the cure: otherwise the first key would be said to be missing.
    pub(super) fn refuse_blank(&self, cure: &'static str) -> Result<(), ConfigError> {
        if !is_blank(&self.text) {
            return Ok(());
        }
        Err(ConfigError { file: self.path.clone(), line: None, problem: Problem::Blank(cure) })
    }

    /// The file's values, once all of its keys are known ones.
    pub(super) fn parse<T: DeserializeOwned>(&self, schema: &Schema) -> Result<T, ConfigError> {
        let table = DeTable::parse(&self.text).map_err(|e| self.syntax(&e))?;
        self.check_keys(table.get_ref(), schema.top)?;
        for (name, keys) in schema.tables {
            match table.get_ref().get(*name).map(Spanned::get_ref) {
                Some(DeValue::Table(entry)) => self.check_keys(entry, keys)?,
                Some(DeValue::Array(entries)) => {
                    for entry in entries.iter().filter_map(|entry| entry.get_ref().as_table()) {
                        self.check_keys(entry, keys)?;
                    }
                }
                _ => {}
            }
        }
        toml::from_str(&self.text).map_err(|e| self.syntax(&e))
    }

    fn check_keys(
        &self,
        table: &DeTable<'_>,
        valid: &'static [&'static str],
    ) -> Result<(), ConfigError> {
        let unknown = |key: &&Spanned<_>| !valid.contains(&AsRef::<str>::as_ref(key.get_ref()));
        // The first in the file, not in the alphabet: that is where the reader begins.
        let Some(key) = table.keys().filter(unknown).min_by_key(|key| key.span().start) else {
            return Ok(());
        };
        let text = key.get_ref().to_string();
        let problem = Problem::UnknownKey { nearest: nearest(&text, valid), key: text, valid };
        Err(self.error(key.span(), problem))
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let problem = Problem::Syntax(error.message().trim().replace('\n', ", "));
        self.error(error.span().unwrap_or(0..0), problem)
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    pub(super) fn error(&self, span: Range<usize>, problem: Problem) -> ConfigError {
        ConfigError { file: self.path.clone(), line: Some(self.line(&span)), problem }
    }

    /// The value of `key` as what it means.
    pub(super) fn value<T: FromStr<Err: Display>>(
        &self,
        key: &'static str,
        text: &Spanned<String>,
    ) -> Result<T, ConfigError> {
        text.get_ref().parse().map_err(|error: T::Err| {
            self.error(text.span(), Problem::Value { key, reason: error.to_string() })
        })
    }

    /// The value of a `key` that need not be there.
    pub(super) fn optional<T: FromStr<Err: Display>>(
        &self,
        key: &'static str,
        text: Option<&Spanned<String>>,
    ) -> Result<Option<T>, ConfigError> {
        text.map(|text| self.value(key, text)).transpose()
    }

    /// The items of a list that need not be there, as what they mean.
    pub(super) fn list<T: FromStr<Err: Display>>(
        &self,
        key: &'static str,
        raw: Option<&Spanned<OneOrMany>>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(raw) = raw else { return Ok(Vec::new()) };
        let values = raw.get_ref().values::<T>(self, key, raw.span())?;
        if let Some(one_too_many) = values.get(LIST_MAX) {
            let reason = format!("more than {LIST_MAX} entries: join them into ranges");
            return Err(self.error(one_too_many.span(), Problem::Value { key, reason }));
        }
        Ok(values.into_iter().map(Spanned::into_inner).collect())
    }

    /// Refuses what `seen` has already, with both lines.
    pub(super) fn unique<K: Ord + Display + Clone>(
        &self,
        seen: &mut Seen<K>,
        (what, cure): (&'static str, &'static str),
        value: &K,
        span: Range<usize>,
    ) -> Result<(), ConfigError> {
        let here = (self.path.clone(), self.line(&span));
        let Some((file, line)) = seen.insert(value.clone(), here) else {
            return Ok(());
        };
        let is_here = file == self.path;
        let first =
            if is_here { format!("line {line}") } else { format!("{}:{line}", file.display()) };
        Err(self.error(span, Problem::Duplicate { what, value: value.to_string(), first, cure }))
    }
}

fn nearest(key: &str, valid: &[&str]) -> Option<String> {
    let alike = |known: &&str| strsim::jaro_winkler(key, known);
    let best = valid.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(&best) >= LIKENESS_MIN).then(|| best.to_owned())
}

/// One value or a list of them; a number counts as its text, since `ports = [22]` is plain.
pub(super) struct OneOrMany(Vec<Item>);

impl OneOrMany {
    /// The items as what they mean; what is wrong is said with the item's line, or with `whole`.
    pub(super) fn values<T: FromStr<Err: Display>>(
        &self,
        file: &File,
        key: &'static str,
        whole: Range<usize>,
    ) -> Result<Vec<Spanned<T>>, ConfigError> {
        let parse = |item: &Item| {
            let span = item.span.clone().unwrap_or_else(|| whole.clone());
            match item.text.parse() {
                Ok(value) => Ok(Spanned::new(span, value)),
                Err(error) => {
                    Err(file.error(span, Problem::Value { key, reason: T::Err::to_string(&error) }))
                }
            }
        };
        self.0.iter().map(parse).collect()
    }
}

struct Item {
    text: String,
    /// Only items of a list have their own.
    span: Option<Range<usize>>,
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemsVisitor)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany(vec![Item { text: text.to_owned(), span: None }]))
    }

    fn visit_i64<E>(self, number: i64) -> Result<OneOrMany, E> {
        Ok(OneOrMany(vec![Item { text: number.to_string(), span: None }]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<Text>>()? {
            let span = Some(item.span());
            items.push(Item { text: item.into_inner().0, span });
        }
        Ok(OneOrMany(items))
    }
}

/// A string, or a number as it is written.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a number")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.to_owned()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }
}
