//! What every mail must say by law, in the language of the person who reads it: who writes and from where, why they
//! get it (GDPR 13(2), CASL 6(2)), that they may leave and object (GDPR 21(4), Taiwan's PDPA 20(3)); and the label of
//! advertising where a country wants one (China: order 38 of 2006, art. 13).
//!
//! The right to object stands in each mail, in a line of its own, and not only in the first: nobody has to know
//! which mail was the first that arrived.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::tz::TimeZone;

use super::context::without_controls;
use crate::clock::Time;
use crate::config::{Config, Localised};
use crate::consent::Grounds;
use crate::contact::{AttributeValue, Contact};
use crate::text::i18n::{Lang, Languages, fill};

const SHIPPED: &str = include_str!("../../data/advertising.toml");

/// Longest place shown, in characters: what an import declares may be a sentence.
const PLACE_CHARACTERS: usize = 120;

/// What frames need to know of the instance.
#[derive(Debug, Clone, Default)]
pub struct FrameSettings {
    languages: Languages,
    country_attribute: Option<String>,
    /// Host of the site.
    site: String,
    /// Address of the site.
    site_url: String,
    /// Titles of forms, by name.
    forms: BTreeMap<String, Localised>,
}

impl FrameSettings {
    /// From the configuration.
    pub fn new(config: &Config, languages: &Languages) -> Self {
        let host = url::Url::parse(&config.site.url.value).ok().and_then(|url| url.host_str().map(str::to_owned));
        FrameSettings {
            languages: languages.clone(),
            country_attribute: config.consent.country_attribute.as_ref().map(|name| name.value.clone()),
            site: host.unwrap_or_default(),
            site_url: config.site.url.value.clone(),
            forms: config.forms.iter().map(|(name, form)| (name.clone(), form.title.clone())).collect(),
        }
    }

    /// The site's address, without a slash at its end.
    pub(super) fn site_url(&self) -> &str {
        &self.site_url
    }

    /// The languages that mails are written in.
    pub fn languages(&self) -> &Languages {
        &self.languages
    }

    /// The language of a person; English where we lack theirs.
    pub fn language(&self, locale: Option<&str>) -> Lang {
        locale.and_then(|tag| self.languages.find(tag)).unwrap_or(self.languages.english())
    }

    /// Why somebody gets a mail on the topic of this name, in a sentence.
    pub(super) fn why(&self, lang: Lang, topic: &str, grounds: Option<&Grounds>, timezone: Option<&str>) -> String {
        let words = lang.words();
        let Some(grounds) = grounds else { return fill(words.mail_because, &[("topic", topic)]) };
        let date = date(lang, grounds.since, timezone);
        let Some(place) = self.place(lang, &grounds.source) else {
            return fill(words.mail_because_on, &[("topic", topic), ("date", &date)]);
        };
        let sentence = if grounds.double { words.mail_because_confirmed } else { words.mail_because_at };
        fill(sentence, &[("topic", topic), ("date", &date), ("place", &place)])
    }

    /// Where somebody subscribed, as they know it. Nothing where only we know it by that name.
    fn place(&self, lang: Lang, source: &str) -> Option<String> {
        let words = lang.words();
        let source = without_controls(source);
        let (way, name) = source.split_once(' ').unwrap_or((&source, ""));
        match way {
            "form" if self.forms.contains_key(name) => {
                let title = self.forms[name].in_language(lang.tag());
                let title = if title.is_empty() { name } else { title };
                Some(fill(words.mail_place_form, &[("form", title), ("site", &self.site)]))
            }
            "page" => Some(fill(words.mail_place_page, &[("site", &self.site)])),
            "api" if !name.is_empty() => Some(name.to_owned()),
            "" | "api" | "cli" | "mail" | "one_click" => None,
            _ => Some(source.chars().take(PLACE_CHARACTERS).collect()),
        }
    }

    /// The rule for advertising that holds for a person.
    pub(super) fn advertising(&self, contact: &Contact) -> Option<&'static AdRule> {
        let known = self.country_attribute.as_ref().and_then(|name| contact.attributes.get(name));
        let country = match known {
            Some(AttributeValue::Text(country)) => country.trim(),
            _ => "",
        };
        rule_for(country, contact.locale.as_deref())
    }
}

/// A day in somebody's zone and language.
fn date(lang: Lang, time: Time, timezone: Option<&str>) -> String {
    let words = lang.words();
    let zone = timezone.and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC);
    let day = time.timestamp().to_zoned(zone).date();
    let month = words.mail_months.split(',').nth(day.month() as usize - 1).map_or("", str::trim);
    fill(words.mail_date, &[("year", &day.year().to_string()), ("month", month), ("day", &day.day().to_string())])
}

/// What a country wants of advertising mail.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdRule {
    label: String,
    #[serde(default)]
    label_in: BTreeMap<String, String>,
    names: Vec<String>,
    languages: Vec<String>,
    pub(super) refuse_by_mail: bool,
}

static RULES: LazyLock<BTreeMap<String, AdRule>> =
    LazyLock::new(|| toml::from_str(SHIPPED).expect("data/advertising.toml is part of this program and tested"));

/// By the country, else by the region of the locale, else by its language.
fn rule_for(country: &str, locale: Option<&str>) -> Option<&'static AdRule> {
    if !country.is_empty() {
        let fits = |(code, rule): &(&String, &AdRule)| {
            code.eq_ignore_ascii_case(country) || rule.names.iter().any(|name| name.to_lowercase() == country.to_lowercase())
        };
        return RULES.iter().find(fits).map(|(_, rule)| rule);
    }
    let tag = locale?.trim().to_ascii_lowercase().replace('_', "-");
    let tag = tag.split(['.', '@']).next().unwrap_or_default();
    // A region has two letters and stands behind the language and the script (RFC 5646, 2.2.4).
    let region = tag.split('-').skip(1).find(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_alphabetic()));
    if let Some(region) = region {
        return RULES.iter().find(|(code, _)| code.eq_ignore_ascii_case(region)).map(|(_, rule)| rule);
    }
    RULES.values().find(|rule| rule.languages.iter().any(|language| language == tag))
}

impl AdRule {
    /// The subject with the label at its front, once.
    pub(super) fn label(&self, subject: &str, lang: Lang) -> String {
        if self.is_labelled(subject) {
            return subject.to_owned();
        }
        let primary = lang.tag().split('-').next().unwrap_or_default();
        let label = self.label_in.get(primary).unwrap_or(&self.label);
        format!("{label} {subject}").trim_end().to_owned()
    }

    fn is_labelled(&self, subject: &str) -> bool {
        std::iter::once(&self.label).chain(self.label_in.values()).any(|label| begins_with(subject, label))
    }
}

/// Whether a subject begins with a label as a word of its own, also in brackets: `AD:`, `【广告】`, but not `Advent`.
fn begins_with(subject: &str, label: &str) -> bool {
    const BRACKETS: &[char] = &['(', ')', '[', ']', '<', '>', '（', '）', '【', '】', '［', '］', '〔', '〕', '「', '」', '<', '>'];
    let bare = label.trim_matches(BRACKETS);
    let text = subject.trim_start_matches(|c: char| BRACKETS.contains(&c) || c.is_whitespace());
    let Some(rest) = text.get(..bare.len()).filter(|start| start.eq_ignore_ascii_case(bare)).map(|_| &text[bare.len()..]) else {
        return false;
    };
    !rest.starts_with(char::is_alphanumeric)
}

/// Whether a subject template says itself that it advertises: it would be labelled twice for nobody, and for
/// everybody instead of those whose country wants it.
pub(super) fn labels_itself(subject: &str) -> Option<&'static str> {
    RULES
        .values()
        .flat_map(|rule| std::iter::once(&rule.label).chain(rule.label_in.values()))
        .map(String::as_str)
        .find(|label| begins_with(subject, label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(country: &str, locale: Option<&str>) -> Option<&'static str> {
        rule_for(country, locale).map(|rule| rule.label.as_str())
    }

    #[test]
    fn the_country_decides_and_the_locale_where_it_is_not_known() {
        for (country, locale, expected) in [
            ("CN", Some("en"), Some("AD")),
            ("cn", None, Some("AD")),
            ("中国", None, Some("AD")),
            ("TW", Some("zh-CN"), None),
            ("", Some("zh-CN"), Some("AD")),
            ("", Some("zh_CN.UTF-8"), Some("AD")),
            ("", Some("zh-Hans"), Some("AD")),
            ("", Some("zh"), Some("AD")),
            ("", Some("zh-Hans-SG"), None),
            ("", Some("zh-Hant"), None),
            ("", Some("zh-TW"), None),
            ("", Some("en-CN"), Some("AD")),
            ("", Some("ko"), Some("(광고)")),
            ("KR", None, Some("(광고)")),
            ("", Some("en"), None),
            ("", None, None),
        ] {
            assert_eq!(label(country, locale), expected, "{country} {locale:?}");
        }
    }

    #[test]
    fn a_label_stands_once_at_the_front() {
        let languages = Languages::built_in();
        let [english, simplified] = ["en", "zh-Hans"].map(|tag| languages.find(tag).expect("built in"));
        let china = rule_for("CN", None).expect("China");
        assert_eq!(china.label("Spring tea", english), "AD Spring tea");
        assert_eq!(china.label("春茶", simplified), "广告 春茶");
        for subject in ["AD Spring", "ad: spring", "[AD] x", "【广告】春茶", "广告：春茶", "（广告）春茶", "广告", "AD"]
        {
            assert_eq!(china.label(subject, simplified), subject);
        }
        assert_eq!(china.label("Advent tea", english), "AD Advent tea");
        assert_eq!(china.label("广告人必读", simplified), "广告 广告人必读");
        assert_eq!(china.label("", simplified), "广告");
        assert_eq!(rule_for("KR", None).expect("Korea").label("봄 차", english), "(광고) 봄 차");
    }

    #[test]
    fn dates_are_written_in_each_language_and_zone() {
        let languages = Languages::built_in();
        let date = |tag: &str, zone| {
            let time = Time::parse("2026-11-30T18:00:00Z").expect("a time");
            super::date(languages.find(tag).expect("built in"), time, zone)
        };
        assert_eq!(date("en", None), "30 November 2026");
        assert_eq!(date("zh-Hant", Some("Asia/Taipei")), "2026年12月1日");
        assert_eq!(date("zh-Hans", Some("nowhere")), "2026年11月30日");
    }
}
