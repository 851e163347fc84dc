//! Texts that recipients read, in several languages: the text itself, and `[name.zh-Hant]` tables below
//! it for languages that say it otherwise.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{self, Complaint};
use super::reader::{Report, Section, Value};
use super::settings::checked;

/// Languages that optin speaks itself; a file `languages/TAG.toml` adds one.
pub const BUILT_IN_LANGUAGES: [&str; 3] = ["en", "zh-Hans", "zh-Hant"];

/// A text and its translations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Localised {
    /// For every language that has none of its own.
    pub text: String,
    /// By language tag, as its file is called.
    pub by_language: BTreeMap<String, String>,
}

impl Localised {
    /// The same in all languages.
    pub fn plain(text: impl Into<String>) -> Self {
        Localised { text: text.into(), by_language: BTreeMap::new() }
    }

    /// In the language of a tag.
    pub fn in_language(&self, tag: &str) -> &str {
        self.by_language.get(tag).map_or(self.text.as_str(), String::as_str)
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

/// The texts `keys` of a table and of the tables of languages in it. A key that is missing is empty.
pub(super) fn texts<const N: usize>(
    section: &mut Section<'_>,
    keys: [&str; N],
    languages: &BTreeSet<String>,
    report: &mut Report,
) -> [Localised; N] {
    let mut out = keys.map(|key| {
        let text = checked(section, key, None, |text| fits(key, text), report).map(|text| text.value).unwrap_or_default();
        Localised::plain(text)
    });
    for tag in languages {
        if !section.has(tag) {
            continue;
        }
        let mut translated = section.section(tag, report);
        for (key, localised) in keys.iter().zip(&mut out) {
            if let Some(text) = checked(&mut translated, key, None, |text| fits(key, text), report) {
                localised.by_language.insert(tag.clone(), text.value);
            }
        }
        translated.finish(report);
    }
    out
}

/// Names stand in headers and buttons: one line.
fn fits(key: &str, text: &str) -> Result<(), Complaint> {
    if matches!(key, "name" | "title" | "label") { check::line(text) } else { check::lines(text) }
}

/// A list of texts, each checked; empty where it is missing.
pub(super) fn names(
    section: &mut Section<'_>,
    key: &str,
    check: impl Fn(&str) -> Result<(), Complaint>,
    report: &mut Report,
) -> Vec<Value<String>> {
    let Some(raw) = section.raw(key, None) else { return Vec::new() };
    let members = raw.members(report).unwrap_or_default();
    let texts: Vec<Value<String>> = members.iter().filter_map(|member| member.text(report)).collect();
    texts.into_iter().filter(|text| super::settings::pass(check(&text.value), text, report).is_some()).collect()
}
