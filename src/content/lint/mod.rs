//! What should be looked at before a campaign is sent: what the law wants of it, and what its readers would miss.
//!
//! A rule is an entry of a table: a name, how severe a finding is, and a function that looks at what there is and
//! answers what it found. [`campaign::RULES`] look at one campaign and some mails of it, written for people of its
//! audience; [`instance::RULES`] look at what all campaigns share.

pub mod campaign;
pub mod instance;

use std::collections::BTreeMap;

use super::Mail;
use crate::campaign::Definition;
use crate::config::{Campaign, Config, Localised, Place};
use crate::text::i18n::Languages;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Do not send it like this.
    Error,
    /// Look at it.
    Warning,
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Severity::Error { "error" } else { "warning" })
    }
}

/// What a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Where, where it can be told.
    pub place: Option<Place>,
}

impl Found {
    fn new(message: impl Into<String>, hint: impl Into<String>, place: Option<Place>) -> Self {
        Found { message: message.into(), hint: hint.into(), place }
    }
}

/// A finding with its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The campaign; `None` for what all share.
    pub campaign: Option<String>,
    /// The rule's name.
    pub rule: &'static str,
    /// How severe.
    pub severity: Severity,
    /// What, and where.
    pub found: Found,
}

/// One rule; `F` is the function that finds.
#[derive(Debug)]
pub struct Rule<F> {
    /// Its name, as scripts know it.
    pub id: &'static str,
    /// How severe its findings are.
    pub severity: Severity,
    /// What it finds.
    pub find: F,
}

/// A rule of campaigns.
pub type CampaignRule = Rule<fn(&CampaignView<'_>) -> Vec<Found>>;
/// A rule of the instance.
pub type InstanceRule = Rule<fn(&InstanceView<'_>) -> Vec<Found>>;

/// Who reads: locales as stored (empty where none is known) and how many people have each.
pub type Readers = [(String, i64)];

/// A mail written for somebody of the audience.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Their locale.
    pub locale: String,
    /// Their unsubscribe link.
    pub unsubscribe: String,
    /// The mail, or why it cannot be written.
    pub mail: Result<Mail, String>,
}

/// What rules of campaigns look at.
#[derive(Debug)]
pub struct CampaignView<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The campaign as written.
    pub campaign: &'a Campaign,
    /// The campaign as it would be frozen.
    pub definition: &'a Definition,
    /// The languages of mails.
    pub languages: &'a Languages,
    /// Its audience now.
    pub audience: &'a Readers,
    /// Mails of it, one a locale.
    pub samples: &'a [Sample],
}

/// What rules of the instance look at.
#[derive(Debug)]
pub struct InstanceView<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The languages of mails and pages.
    pub languages: &'a Languages,
    /// All contacts.
    pub people: &'a Readers,
}

/// Runs all rules over one campaign.
pub fn campaign(view: &CampaignView<'_>) -> Vec<Finding> {
    let name = &view.campaign.name;
    campaign::RULES.iter().flat_map(|rule| findings(rule.id, rule.severity, Some(name), (rule.find)(view))).collect()
}

/// Runs all rules over the instance.
pub fn instance(view: &InstanceView<'_>) -> Vec<Finding> {
    instance::RULES.iter().flat_map(|rule| findings(rule.id, rule.severity, None, (rule.find)(view))).collect()
}

fn findings(rule: &'static str, severity: Severity, campaign: Option<&String>, found: Vec<Found>) -> Vec<Finding> {
    found.into_iter().map(|found| Finding { campaign: campaign.cloned(), rule, severity, found }).collect()
}

/// How many people read each language we write; those whose locale is not known, or whose language we lack, are
/// left out.
fn languages_of<'a>(readers: &Readers, languages: &'a Languages) -> BTreeMap<&'a str, i64> {
    let mut counts = BTreeMap::new();
    for (locale, people) in readers {
        if let Some(lang) = languages.find(locale) {
            *counts.entry(lang.tag()).or_default() += people;
        }
    }
    counts
}

/// The languages that people read and a text lacks. A text in no particular language counts for one of them: where
/// only one has none of its own, it is that one's.
fn missing_languages(text: &Localised, read: &BTreeMap<&str, i64>) -> Vec<String> {
    let missing: Vec<String> = read.keys().filter(|tag| !text.by_language.contains_key(**tag)).map(|tag| (*tag).to_owned()).collect();
    if text.is_empty() || missing.len() < 2 { Vec::new() } else { missing }
}

/// `en`, `zh-Hans` and `zh-Hant`.
fn listed(tags: &[String]) -> String {
    match tags {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [start @ .., last] => {
            format!("{} and `{last}`", start.iter().map(|tag| format!("`{tag}`")).collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_may_leave_one_language_to_its_plain_form() {
        let read = BTreeMap::from([("en", 3), ("zh-Hans", 2), ("zh-Hant", 1)]);
        let text = |tags: &[&str]| Localised {
            text: "Tea".to_owned(),
            by_language: tags.iter().map(|tag| ((*tag).to_owned(), "茶".to_owned())).collect(),
        };
        assert_eq!(missing_languages(&text(&[]), &read).len(), 3);
        assert_eq!(missing_languages(&text(&["zh-Hant"]), &read), ["en", "zh-Hans"]);
        assert!(missing_languages(&text(&["zh-Hant", "zh-Hans"]), &read).is_empty());
        assert!(missing_languages(&text(&[]), &BTreeMap::from([("zh-Hant", 9)])).is_empty());
        assert!(missing_languages(&Localised::default(), &read).is_empty());
    }

    #[test]
    fn every_rule_has_a_name_of_its_own() {
        let mut ids: Vec<&str> = campaign::RULES.iter().map(|rule| rule.id).chain(instance::RULES.iter().map(|rule| rule.id)).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
