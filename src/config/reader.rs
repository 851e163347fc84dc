//! Reads one TOML file as a tree that knows its places, and takes typed values out of it. Every
//! wrong thing is reported and reading goes on, so that one look shows all mistakes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Problem, Sources, did_you_mean};
use super::env::{Environment, PREFIX};
use super::{Located, Place};

/// Collects problems and the texts they point into.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) list: Vec<Problem>,
    pub(super) sources: Sources,
}

impl Report {
    /// A problem at a stretch of a file.
    pub(super) fn at(&mut self, file: &Path, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.list.push(self.sources.problem_at(file, span, message, hint));
    }

    /// A problem with a file as a whole.
    pub(super) fn file(&mut self, file: &Path, message: impl Into<String>, hint: impl Into<String>) {
        self.list.push(Problem { file: file.to_owned(), line: 0, column: 0, message: message.into(), hint: hint.into(), span: None });
    }

    /// A problem with a value, wherever it came from.
    pub(super) fn value(&mut self, origin: &Origin, message: impl Into<String>, hint: impl Into<String>) {
        match origin {
            Origin::File(place) => self.at(&place.file, place.span.clone(), message, hint),
            Origin::Variable(name) => {
                let message = format!("environment variable `{name}`: {}", message.into());
                self.list.push(self.sources.problem(None, message, hint));
            }
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    File(Place),
    Variable(String),
}

/// A value and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Value<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

impl<T> Value<T> {
    pub(super) fn located(self) -> Located<T> {
        let place = match self.origin {
            Origin::File(place) => Some(place),
            Origin::Variable(_) => None,
        };
        Located { value: self.value, place }
    }
}

/// The variables that may stand over one file, and which of them mean something.
#[derive(Debug)]
pub(super) struct Overrides<'a> {
    pub(super) environment: &'a Environment,
    pub(super) known: BTreeSet<String>,
}

/// A parsed file.
pub(super) struct Document<'a> {
    file: PathBuf,
    text: &'a str,
    root: Spanned<DeTable<'a>>,
    /// Some of the file could not be read: what seems to be missing may only be unreadable.
    pub(super) broken: bool,
}

impl<'a> Document<'a> {
    /// Parses; reports every syntax error and goes on with what could be read.
    pub(super) fn parse(file: &Path, text: &'a str, report: &mut Report) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            report.at(file, span, error.message().trim().replace('\n', ", "), syntax_hint(error.message()));
        }
        Document { file: file.to_owned(), text, root, broken: !errors.is_empty() }
    }

    /// The top level.
    pub(super) fn root(&self) -> Section<'_> {
        Section {
            document: self,
            name: String::new(),
            variables: String::new(),
            listed: false,
            table: Some(self.root.get_ref()),
            span: None,
            asked: Vec::new(),
        }
    }
}

fn syntax_hint(message: &str) -> &'static str {
    if message.contains("duplicate") {
        "a key may stand once in its table: remove one of the two"
    } else if message.contains("string") || message.contains("quote") {
        "text stands in double quotes: `key = \"text\"`"
    } else {
        "a line reads `key = value` or `[table]`; text stands in double quotes"
    }
}

/// One table of a file, and the keys that were asked for.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    /// `site`; empty for the top level.
    name: String,
    /// What its variables are called by, `SITE`; empty for the top level.
    variables: String,
    /// One of several tables of its name: `[[relay]]`.
    listed: bool,
    table: Option<&'a DeTable<'a>>,
    /// The table's header, for pointing at what is missing in it.
    span: Option<Range<usize>>,
    asked: Vec<String>,
}

/// A value as written.
pub(super) enum Raw<'a> {
    File(&'a Spanned<DeValue<'a>>, Place),
    Variable(String, String),
}

impl<'a> Section<'a> {
    /// Whether the table is there.
    pub(super) fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// Whether a key stands in the table.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Where the table starts.
    pub(super) fn place(&self) -> Option<Place> {
        self.span.clone().map(|span| Place { file: self.document.file.clone(), span })
    }

    /// A table in this table (an empty one where it is missing).
    pub(super) fn section(&mut self, key: &str, report: &mut Report) -> Section<'a> {
        self.asked.push(key.to_owned());
        let mut section = self.child(key);
        if let Some((name, value)) = self.entry(key) {
            section.span = Some(header_span(self.document.text, name.span(), value.span()));
            match value.get_ref() {
                DeValue::Table(table) => section.table = Some(table),
                other => report.at(
                    &self.document.file,
                    value.span(),
                    format!("`{}` must be a table, not {}", self.path(key), kind(other)),
                    format!("write `[{}]` on a line of its own and its keys below", self.path(key)),
                ),
            }
        }
        section
    }

    /// The tables of a list of tables, `[[relay]]`.
    pub(super) fn sections(&mut self, key: &str, report: &mut Report) -> Vec<Section<'a>> {
        self.asked.push(key.to_owned());
        let file = &self.document.file;
        let hint = format!("write `[[{}]]` on a line of its own and its keys below, once for each", self.path(key));
        let Some((_, value)) = self.entry(key) else { return Vec::new() };
        let DeValue::Array(members) = value.get_ref() else {
            report.at(file, value.span(), format!("`{}` must be a list of tables, not {}", self.path(key), kind(value.get_ref())), hint);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for member in members.iter() {
            match member.get_ref() {
                DeValue::Table(table) => {
                    let span = header_span(self.document.text, member.span(), member.span());
                    sections.push(Section { listed: true, table: Some(table), span: Some(span), ..self.child(key) });
                }
                other => {
                    let message = format!("`{}` must be a list of tables, not of {}", self.path(key), kind(other));
                    report.at(file, member.span(), message, hint.clone());
                }
            }
        }
        sections
    }

    /// Gives one of several tables the name by which variables reach it: `OPTIN_RELAY__SES__URL`.
    pub(super) fn call(&mut self, name: &str) {
        self.variables = format!("{}__{}", self.variables, variable_part(name));
    }

    fn child(&self, key: &str) -> Section<'a> {
        let variables = if self.variables.is_empty() { variable_part(key) } else { format!("{}__{}", self.variables, variable_part(key)) };
        Section { document: self.document, name: self.path(key), variables, listed: false, table: None, span: None, asked: Vec::new() }
    }

    /// Every key with its place.
    pub(super) fn keys(&self) -> Vec<(String, Place)> {
        let file = &self.document.file;
        let entries = self.table.iter().flat_map(|table| table.iter());
        let mut keys: Vec<_> =
            entries.map(|(key, _)| (key.get_ref().to_string(), Place { file: file.clone(), span: key.span() })).collect();
        keys.sort_by_key(|(_, place)| place.span.start);
        keys
    }

    /// The value of a key, an override from the environment first.
    pub(super) fn raw(&mut self, key: &str, overrides: Option<&mut Overrides<'_>>) -> Option<Raw<'a>> {
        self.asked.push(key.to_owned());
        if let Some(overrides) = overrides {
            let name = variable_name(&self.variables, key);
            overrides.known.insert(name.clone());
            if let Some(value) = overrides.environment.get(&name) {
                return Some(Raw::Variable(name, value.to_owned()));
            }
        }
        let (_, value) = self.entry(key)?;
        let mut span = value.span();
        if value.get_ref().is_str() {
            span = inner_span(self.document.text, span);
        }
        Some(Raw::File(value, Place { file: self.document.file.clone(), span }))
    }

    /// Reports a required key that is not there.
    pub(super) fn missing(&self, key: &str, hint: &str, report: &mut Report) {
        if self.document.broken {
            return;
        }
        let message = format!("`{}` is missing", self.path(key));
        match &self.span {
            Some(span) => report.at(&self.document.file, span.clone(), message, hint),
            None => report.file(&self.document.file, message, hint),
        }
    }

    /// Reports every key nobody asked for. Call it last.
    pub(super) fn finish(self, report: &mut Report) {
        for (key, place) in self.keys() {
            if self.asked.contains(&key) {
                continue;
            }
            let hint = match did_you_mean(&key, self.asked.iter().map(String::as_str)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: {}", list(self.asked.iter().map(String::as_str))),
            };
            let message = match (self.name.as_str(), self.listed) {
                ("", _) => format!("unknown key `{key}`"),
                (name, false) => format!("unknown key `{key}` in `[{name}]`"),
                (name, true) => format!("unknown key `{key}` in `[[{name}]]`"),
            };
            report.at(&place.file, place.span, message, hint);
        }
    }

    fn entry(&self, key: &str) -> Option<(&'a Spanned<toml::de::DeString<'a>>, &'a Spanned<DeValue<'a>>)> {
        self.table?.iter().find(|(name, _)| name.get_ref() == key)
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

impl Raw<'_> {
    /// Where it stands.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Raw::File(_, place) => Origin::File(place.clone()),
            Raw::Variable(name, _) => Origin::Variable(name.clone()),
        }
    }

    fn found(&self) -> &'static str {
        match self {
            Raw::File(value, _) => kind(value.get_ref()),
            Raw::Variable(..) => "text",
        }
    }

    fn wrong<T>(&self, expected: &str, hint: &str, report: &mut Report) -> Option<T> {
        report.value(&self.origin(), format!("expected {expected}, found {}", self.found()), hint);
        None
    }

    /// Text.
    pub(super) fn text(&self, report: &mut Report) -> Option<Value<String>> {
        let value = match self {
            Raw::Variable(_, value) => value.clone(),
            Raw::File(value, _) => match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => return self.wrong("text", &format!("write it in quotes: `\"{}\"`", number.as_str()), report),
                _ => return self.wrong("text", "text stands in double quotes: `\"..\"`", report),
            },
        };
        Some(Value { value, origin: self.origin() })
    }

    /// Text, or a TOML date and time as text.
    pub(super) fn text_or_time(&self, report: &mut Report) -> Option<Value<String>> {
        match self {
            Raw::File(value, _) => match value.get_ref() {
                DeValue::Datetime(time) => Some(Value { value: time.to_string(), origin: self.origin() }),
                _ => self.text(report),
            },
            Raw::Variable(..) => self.text(report),
        }
    }

    /// A whole number within `range`.
    pub(super) fn number(&self, range: std::ops::RangeInclusive<u32>, report: &mut Report) -> Option<u32> {
        let hint = format!("write a whole number from {} to {}, without quotes", range.start(), range.end());
        let number = match self {
            Raw::Variable(_, value) => value.trim().parse::<i64>().ok(),
            Raw::File(value, _) => match value.get_ref() {
                DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
                _ => return self.wrong("a whole number", &hint, report),
            },
        };
        let fitting = number.and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number));
        if fitting.is_none() {
            let shown = match self {
                Raw::Variable(_, value) => value.clone(),
                Raw::File(..) => number.map_or_else(|| "this number".to_owned(), |number| number.to_string()),
            };
            report.value(&self.origin(), format!("`{shown}` is not a whole number from {} to {}", range.start(), range.end()), hint);
        }
        fitting
    }

    /// A finite number, with or without a point.
    pub(super) fn decimal(&self, report: &mut Report) -> Option<f64> {
        let hint = "write a number such as `32.1`, without quotes";
        let number = match self {
            Raw::Variable(_, value) => value.trim().parse::<f64>().ok(),
            Raw::File(value, _) => match value.get_ref() {
                DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number as f64),
                DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
                _ => None,
            },
        };
        number.filter(|number| number.is_finite()).or_else(|| self.wrong("a number", hint, report))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, report: &mut Report) -> Option<bool> {
        let hint = "write `true` or `false`, without quotes";
        match self {
            Raw::Variable(_, value) => match value.trim() {
                "true" => Some(true),
                "false" => Some(false),
                _ => self.wrong("`true` or `false`", hint, report),
            },
            Raw::File(value, _) => match value.get_ref() {
                DeValue::Boolean(boolean) => Some(*boolean),
                _ => self.wrong("`true` or `false`", hint, report),
            },
        }
    }

    /// The members of a list; a variable's are separated by commas.
    pub(super) fn members(&self, report: &mut Report) -> Option<Vec<Raw<'_>>> {
        match self {
            Raw::Variable(name, value) => {
                let members = value.split(',').map(str::trim).filter(|member| !member.is_empty());
                Some(members.map(|member| Raw::Variable(name.clone(), member.to_owned())).collect())
            }
            Raw::File(value, place) => match value.get_ref() {
                DeValue::Array(members) => {
                    Some(members.iter().map(|member| Raw::File(member, Place { file: place.file.clone(), span: member.span() })).collect())
                }
                _ => self.wrong("a list", "write `[first, second]`", report),
            },
        }
    }
}

/// `OPTIN_SITE__URL`; `OPTIN_SECRET` at the top level.
fn variable_name(section: &str, key: &str) -> String {
    let key = variable_part(key);
    if section.is_empty() { format!("{PREFIX}{key}") } else { format!("{PREFIX}{section}__{key}") }
}

/// A name as part of a variable's: shells know no `-` in one.
pub(super) fn variable_part(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// Words as a person lists them: `a`, `b`.
pub(super) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The span between the quotes of a string. An offset in the value may be added to its start when
/// the string has no escapes; behind an escape it points a little too far to the left, never
/// outside the file. The line break that TOML drops after `"""` is left out too.
fn inner_span(text: &str, span: Range<usize>) -> Range<usize> {
    let written = text.get(span.clone()).unwrap_or("");
    let quotes = ["\"\"\"", "'''", "\"", "'"]
        .into_iter()
        .find(|quotes| written.len() >= 2 * quotes.len() && written.starts_with(quotes) && written.ends_with(quotes));
    let Some(quotes) = quotes else { return span };
    let (mut start, end) = (span.start + quotes.len(), span.end - quotes.len());
    if quotes.len() == 3 {
        let dropped = if text[start..end].starts_with("\r\n") { 2 } else { usize::from(text[start..end].starts_with('\n')) };
        start += dropped;
    }
    start..end
}

/// The line that opens a table: `[site]` where it is a table of its own, else its key.
fn header_span(text: &str, key: Range<usize>, value: Range<usize>) -> Range<usize> {
    match text.get(value.clone()) {
        Some(written) if written.starts_with('[') && value.start <= key.start => {
            let end = written.find('\n').map_or(value.end, |at| value.start + at);
            value.start..end
        }
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_of_a_string_is_the_text_between_its_quotes() {
        for (text, inner) in [
            ("a = \"tea\"", "tea"),
            ("a = 'tea'", "tea"),
            ("a = \"\"\"\ntea\nleaf\"\"\"", "tea\nleaf"),
            ("a = '''tea'''", "tea"),
            ("a = \"\"", ""),
            ("a = \"茶 \\\"\"", "茶 \\\""),
        ] {
            let span = inner_span(text, 4..text.len());
            assert_eq!(&text[span], inner, "{text}");
        }
    }

    #[test]
    fn variables_are_named_by_section_and_key() {
        assert_eq!(variable_name("SMTP", "timeout_seconds"), "OPTIN_SMTP__TIMEOUT_SECONDS");
        assert_eq!(variable_name("", "secret"), "OPTIN_SECRET");
    }
}
