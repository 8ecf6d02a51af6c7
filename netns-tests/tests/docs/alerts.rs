//! The alert rules, read as strictly as they are written: a line that is not where it belongs is an error.

use std::collections::{BTreeMap, BTreeSet};

use super::metrics::{Shape, all, labels_grouped};
use super::read;

/// One rule.
#[derive(Debug, Default)]
pub(super) struct Rule {
    name: String,
    /// What is asked of Prometheus.
    pub(super) expression: String,
    pause: Option<String>,
    severity: String,
    /// What people are told.
    texts: BTreeMap<String, String>,
}

/// A value of one line, as YAML has it: in quotation marks, or plain.
fn scalar(value: &str) -> Result<String, String> {
    if value.starts_with('"') {
        return serde_json::from_str(value).map_err(|error| format!("{value}: {error}"));
    }
    let means_more = |letter: char| "{}[]&*!|>'%@`#,?:-".contains(letter);
    if value.is_empty()
        || value.starts_with(means_more)
        || [": ", " #"].iter().any(|m| value.contains(m))
    {
        return Err(format!("{value:?} wants quotation marks"));
    }
    Ok(value.to_owned())
}

/// The rules of `text`, or the line that is none of a rule.
fn parsed(text: &str) -> Result<Vec<Rule>, String> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let head: Vec<_> = lines.by_ref().take(3).collect();
    if head != ["groups:", "  - name: adit", "    rules:"] {
        return Err(head.join("\n"));
    }
    let (mut rules, mut table) = (Vec::<Rule>::new(), "");
    for line in lines {
        if let Some(name) = line.strip_prefix("      - alert: ") {
            rules.push(Rule { name: scalar(name)?, ..Rule::default() });
            table = "";
            continue;
        }
        let rule = rules.last_mut().ok_or(line)?;
        let words = line.trim_start();
        let (key, value) = words.split_once(':').unwrap_or((words, ""));
        match (line.len() - words.len(), table, key, value.trim_start()) {
            (8, _, "expr", ">-") => table = "expr",
            (8, _, "labels" | "annotations", "") => table = key,
            (8, _, "expr", value) => (rule.expression, table) = (scalar(value)?, ""),
            (8, _, "for", value) => (rule.pause, table) = (Some(scalar(value)?), ""),
            (10, "expr", ..) => rule.expression = format!("{} {words}", rule.expression),
            (10, "labels", "severity", value) => rule.severity = scalar(value)?,
            (10, "annotations", "summary" | "description", value) => {
                rule.texts.insert(key.to_owned(), scalar(value)?);
            }
            _ => return Err(line.to_owned()),
        }
    }
    Ok(rules)
}

pub(super) fn rules() -> Vec<Rule> {
    parsed(&read("docs/prometheus/alerts.yml")).unwrap_or_else(|line| panic!("no rule: {line}"))
}

/// Whether every bracket is closed by its like.
fn is_balanced(expression: &str) -> bool {
    let (mut open, mut is_text) = (Vec::new(), false);
    for letter in expression.chars() {
        match letter {
            '"' => is_text = !is_text,
            _ if is_text => {}
            '(' | '[' | '{' => open.push(letter),
            ')' | ']' | '}' => {
                let like = match letter {
                    ')' => '(',
                    ']' => '[',
                    _ => '{',
                };
                if open.pop() != Some(like) {
                    return false;
                }
            }
            _ => {}
        }
    }
    open.is_empty() && !is_text
}

/// Whether all that an expression may answer has `label`.
fn has_label(expression: &str, label: &str, all: &BTreeMap<String, Shape>) -> bool {
    // What stands behind `and` only chooses.
    let answer = expression.split(" and on (").next().unwrap_or_default();
    answer.split(" or ").all(|part| {
        let is_its = |(name, _): &(&String, &Shape)| part.contains(name.as_str());
        let mut metrics = all.iter().filter(is_its);
        let grouped = part.contains(" by (").then(|| labels_grouped(part));
        match grouped {
            Some(labels) => labels.contains(label),
            None => label == "instance" || metrics.any(|(_, (_, labels))| labels.contains(label)),
        }
    })
}

/// What a text has filled in, between its double braces.
fn filled_in(text: &str) -> BTreeSet<&str> {
    let parts = text.split("{{").skip(1);
    parts.map(|part| part.split("}}").next().unwrap_or_default().trim()).collect()
}

/// Every rule is whole: it asks something, says how grave that is and what has happened, and fills in
/// nothing that the answer does not have.
#[test]
fn every_rule_is_whole() {
    let (rules, all) = (rules(), all());
    let names: BTreeSet<_> = rules.iter().map(|rule| &rule.name).collect();
    assert!(rules.len() > 10 && names.len() == rules.len(), "{names:?}");
    for rule in &rules {
        let Rule { name, expression, pause, severity, texts } = rule;
        assert!(!expression.is_empty() && is_balanced(expression), "{name}: {expression}");
        assert!(["critical", "warning", "info"].contains(&severity.as_str()), "{name}: {severity}");
        let is_time = |time: &String| {
            time.strip_suffix('m').is_some_and(|minutes| minutes.parse::<u32>().is_ok())
        };
        assert!(pause.as_ref().is_none_or(is_time), "{name}: {pause:?}");
        assert!(texts.contains_key("summary"), "{name}");
        for filled in texts.values().flat_map(|text| filled_in(text)).filter(|it| *it != "$value") {
            let label =
                filled.strip_prefix("$labels.").unwrap_or_else(|| panic!("{name}: {filled}"));
            assert!(has_label(expression, label, &all), "{name}: {label}");
        }
    }
}

/// The controls: lines that are out of place, values that YAML takes for something else, brackets that stay
/// open, labels that nothing has.
#[test]
fn rules_that_are_broken_are_noticed() {
    let good = read("docs/prometheus/alerts.yml");
    let out_of_place = good.replacen("        expr:", "       expr:", 1);
    assert!(parsed(&good).is_ok() && parsed(&out_of_place).is_err());
    let unquoted = good.replacen("summary: \"", "summary: a: \"", 1);
    assert!(parsed(&unquoted).is_err());
    assert!(!is_balanced("increase(adit_up[5m) > 0") && !is_balanced("(adit_up == \"}\""));
    assert!(!has_label("adit_up == 0", "peer", &all()));
    assert!(!has_label("sum by (cause) (adit_relay_refused_total)", "instance", &all()));
}
