//! The languages of recipients' pages and mails: which one a person reads, and its words.
//!
//! Each language is one file of texts. Three come with optin (`languages/*.toml` of its source); a file of
//! the same form in the instance's `languages/` folder says something otherwise, or adds a language.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use toml::de::{DeTable, DeValue};

pub use super::words::Words;
use crate::config::diagnostics::did_you_mean;
use crate::config::{BUILT_IN_LANGUAGES, SourceText};

/// The files that come with optin, in the order of [`BUILT_IN_LANGUAGES`].
const FILES: [&str; 3] =
    [include_str!("../../languages/en.toml"), include_str!("../../languages/zh-Hans.toml"), include_str!("../../languages/zh-Hant.toml")];

/// Scripts (ISO 15924) and languages (BCP 47) that run from right to left; a language file may bring them.
const RIGHT_TO_LEFT_SCRIPTS: [&str; 6] = ["Arab", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm"];
const RIGHT_TO_LEFT_LANGUAGES: [&str; 10] = ["ar", "ckb", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"];

/// A language that pages and mails are written in. Its texts live as long as the process: they are read once,
/// at its start.
#[derive(Debug, Clone, Copy)]
pub struct Lang(&'static Language);

#[derive(Debug)]
struct Language {
    tag: String,
    name: String,
    words: Words,
}

impl PartialEq for Lang {
    fn eq(&self, other: &Lang) -> bool {
        self.0.tag == other.0.tag
    }
}

impl Eq for Lang {}

impl Lang {
    /// BCP 47 tag, for `lang` attributes and `?lang=`.
    pub fn tag(self) -> &'static str {
        &self.0.tag
    }

    /// Its name in itself.
    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// Whether it is written from right to left, for `dir` attributes: by its script where the tag names one.
    pub fn right_to_left(self) -> bool {
        let mut parts = self.tag().split('-');
        let language = parts.next().unwrap_or_default().to_ascii_lowercase();
        match parts.find(|part| part.len() == 4) {
            Some(script) => RIGHT_TO_LEFT_SCRIPTS.iter().any(|known| script.eq_ignore_ascii_case(known)),
            None => RIGHT_TO_LEFT_LANGUAGES.contains(&language.as_str()),
        }
    }

    /// Its words.
    pub fn words(self) -> &'static Words {
        &self.0.words
    }
}

/// The languages of an instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Languages(Arc<[Lang]>);

/// What is wrong with a file of an instance's `languages/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanguageProblem {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub span: Range<usize>,
    /// What.
    pub message: String,
    /// The next step.
    pub hint: String,
}

static BUILT_IN: LazyLock<Languages> = LazyLock::new(|| {
    let languages = BUILT_IN_LANGUAGES.iter().zip(FILES).map(|(tag, text)| {
        let texts = read(text).expect("our own files are TOML");
        let texts = texts.into_iter().map(|(key, (text, _))| (key, text)).collect();
        make(tag, texts).unwrap_or_else(|missing| panic!("languages/{tag}.toml lacks {missing:?}"))
    });
    Languages(languages.collect())
});

/// A colon, and what stands after it, in a language (a BCP 47 tag).
pub fn colon(tag: &str) -> &'static str {
    if tag.split('-').next().is_some_and(|language| matches!(language, "zh" | "ja")) { "：" } else { ": " }
}

impl Languages {
    /// Those that come with optin.
    pub fn built_in() -> Languages {
        BUILT_IN.clone()
    }

    /// Those and the ones of an instance, by tag.
    ///
    /// # Errors
    /// Every text that is unknown, missing (in a language that optin does not speak), or fills in other values
    /// than the English one.
    pub fn load(files: &BTreeMap<String, SourceText>) -> Result<Languages, Vec<LanguageProblem>> {
        let mut languages = BUILT_IN.0.to_vec();
        let english: BTreeMap<String, String> = languages[0].texts();
        let mut problems = Vec::new();
        for (tag, source) in files {
            let known = languages.iter().position(|lang| lang.tag() == tag);
            let problem =
                |span: Range<usize>, message: String, hint: String| LanguageProblem { file: source.file.clone(), span, message, hint };
            let found = match read(&source.text) {
                Ok(found) => found,
                Err((span, message)) => {
                    problems.push(problem(span, message, "a line reads `key = \"text\"`".to_owned()));
                    continue;
                }
            };
            let mut texts = known.map(|at| languages[at].texts()).unwrap_or_default();
            let before = problems.len();
            for (key, (text, span)) in found {
                let Some(original) = english.get(&key) else {
                    let hint = match did_you_mean(&key, english.keys().map(String::as_str)) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => "remove this line".to_owned(),
                    };
                    problems.push(problem(span, format!("no page or mail has a text `{key}`"), hint));
                    continue;
                };
                if key == "mail_months" && text.split(',').filter(|month| !month.trim().is_empty()).count() != 12 {
                    let hint = "write the twelve names of months with commas between them".to_owned();
                    problems.push(problem(span.clone(), "`mail_months` does not name twelve months".to_owned(), hint));
                }
                if places(original) != places(&text) {
                    let message = format!("`{key}` does not fill in what the English text does");
                    problems.push(problem(span, message, format!("the English text is: {original}")));
                }
                texts.insert(key, text);
            }
            if problems.len() > before {
                continue;
            }
            match make(tag, texts) {
                Ok(lang) => match known {
                    Some(at) => languages[at] = lang,
                    None => languages.push(lang),
                },
                Err(missing) => {
                    let message = format!("the language `{tag}` lacks {} text{}", missing.len(), if missing.len() == 1 { "" } else { "s" });
                    let listed: Vec<String> = missing.iter().take(20).map(|key| format!("`{key}`")).collect();
                    problems.push(problem(0..0, message, format!("translate {}", listed.join(", "))));
                }
            }
        }
        if problems.is_empty() { Ok(Languages(languages.into())) } else { Err(problems) }
    }

    /// All, in the order of the language switch.
    pub fn all(&self) -> impl Iterator<Item = Lang> {
        self.0.iter().copied()
    }

    /// English: also for everybody whose language we do not have.
    pub fn english(&self) -> Lang {
        self.0[0]
    }

    /// The language of a tag such as `zh-TW`, `zh_Hant_HK`, `en-GB` or `zh_TW.UTF-8`; `None` when we lack it.
    /// Chinese without a script is told by region (RFC 5646 leaves it open): Taiwan, Hong Kong and Macau
    /// write traditional characters.
    pub fn find(&self, tag: &str) -> Option<Lang> {
        let lower = tag.trim().to_ascii_lowercase().replace('_', "-");
        let lower = lower.split(['.', '@']).next().unwrap_or_default();
        let by_tag = |wanted: &str| self.all().find(|lang| lang.tag().eq_ignore_ascii_case(wanted));
        if let Some(lang) = by_tag(lower) {
            return Some(lang);
        }
        let mut parts = lower.split('-');
        match parts.next()? {
            "zh" | "cmn" | "yue" => {
                let rest: Vec<&str> = parts.collect();
                let traditional =
                    rest.contains(&"hant") || (!rest.contains(&"hans") && rest.iter().any(|part| matches!(*part, "tw" | "hk" | "mo")));
                by_tag(if traditional { "zh-hant" } else { "zh-hans" })
            }
            primary => {
                let is_primary = |lang: &Lang| lang.tag().split('-').next().is_some_and(|first| first.eq_ignore_ascii_case(primary));
                by_tag(primary).or_else(|| self.all().find(is_primary))
            }
        }
    }

    /// The best language of an `Accept-Language` header (RFC 9110, 12.5.4).
    pub fn of_accept_language(&self, header: &str) -> Option<Lang> {
        let mut best: Option<(f32, Lang)> = None;
        for range in header.split(',') {
            let (tag, parameters) = range.split_once(';').unwrap_or((range, ""));
            let quality: f32 = match parameters.trim().strip_prefix("q=") {
                Some(text) => text.trim().parse().unwrap_or(0.0),
                None => 1.0,
            };
            if quality <= 0.0 {
                continue;
            }
            if let Some(lang) = self.find(tag)
                && best.is_none_or(|(highest, _)| quality > highest)
            {
                best = Some((quality, lang));
            }
        }
        best.map(|(_, lang)| lang)
    }

    /// What the person chose on the page, else what we know of them, else what their browser says.
    pub fn negotiate(&self, chosen: Option<&str>, contact_locale: Option<&str>, accept_language: Option<&str>) -> Lang {
        chosen
            .and_then(|tag| self.find(tag))
            .or_else(|| contact_locale.and_then(|tag| self.find(tag)))
            .or_else(|| accept_language.and_then(|header| self.of_accept_language(header)))
            .unwrap_or(self.english())
    }
}

impl Default for Languages {
    fn default() -> Self {
        Languages::built_in()
    }
}

impl Lang {
    fn texts(self) -> BTreeMap<String, String> {
        let mut texts: BTreeMap<String, String> =
            self.words().all().into_iter().map(|(key, text)| (key.to_owned(), text.to_owned())).collect();
        texts.insert("name".to_owned(), self.name().to_owned());
        texts
    }
}

/// The texts of a file and where they stand, or the first place that is not understood.
type Texts = BTreeMap<String, (String, Range<usize>)>;

fn read(text: &str) -> Result<Texts, (Range<usize>, String)> {
    let table = DeTable::parse(text).map_err(|error| (error.span().unwrap_or(0..0), error.message().replace('\n', ", ")))?;
    let mut texts = BTreeMap::new();
    for (key, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => {
                texts.insert(key.get_ref().to_string(), (text.to_string(), value.span()));
            }
            _ => return Err((value.span(), format!("`{}` is not a text", key.get_ref()))),
        }
    }
    Ok(texts)
}

fn make(tag: &str, mut texts: BTreeMap<String, String>) -> Result<Lang, Vec<&'static str>> {
    let name = texts.remove("name");
    let mut texts: BTreeMap<String, &'static str> = texts.into_iter().map(|(key, text)| (key, &*text.leak())).collect();
    let words = Words::from_texts(|key| texts.remove(key));
    match (words, name) {
        (Ok(words), Some(name)) => Ok(Lang(Box::leak(Box::new(Language { tag: tag.to_owned(), name, words })))),
        (Err(missing), Some(_)) => Err(missing),
        (words, None) => Err(std::iter::once("name").chain(words.err().unwrap_or_default()).collect()),
    }
}

/// The names of the values that a text fills in.
fn places(text: &str) -> BTreeSet<&str> {
    text.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name).collect()
}

/// Puts values into a sentence: `{name}` becomes the value of that name. Values are not looked at
/// again, so a value that holds braces stays what it is.
pub fn fill(sentence: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(sentence.len() + 32);
    let mut rest = sentence;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        let Some(close) = rest[open..].find('}') else { break };
        let name = &rest[open + 1..open + close];
        match values.iter().find(|(key, _)| *key == name) {
            Some((_, value)) => out.push_str(value),
            None => out.push_str(&rest[open..=open + close]),
        }
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(files: &[(&str, &str)]) -> Result<Languages, Vec<LanguageProblem>> {
        let source = |tag: &str, text: &str| SourceText { file: format!("languages/{tag}.toml").into(), text: text.to_owned() };
        Languages::load(&files.iter().map(|(tag, text)| ((*tag).to_owned(), source(tag, text))).collect())
    }

    #[test]
    fn tags_lead_to_the_right_script() {
        let languages = Languages::built_in();
        for (tag, found) in [
            ("en", Some("en")),
            ("en-GB", Some("en")),
            ("zh", Some("zh-Hans")),
            ("zh-CN", Some("zh-Hans")),
            ("zh-SG", Some("zh-Hans")),
            ("zh_TW", Some("zh-Hant")),
            ("zh_TW.UTF-8", Some("zh-Hant")),
            ("zh-HK", Some("zh-Hant")),
            ("zh-Hant-CN", Some("zh-Hant")),
            ("zh-Hans-TW", Some("zh-Hans")),
            ("ZH-HANT", Some("zh-Hant")),
            ("de", None),
            ("", None),
            ("english", None),
        ] {
            assert_eq!(languages.find(tag).map(Lang::tag), found, "{tag}");
        }
    }

    #[test]
    fn the_browsers_order_and_weights_are_followed() {
        let languages = Languages::built_in();
        for (header, found) in [
            ("de-DE,de;q=0.9,zh-TW;q=0.8,en;q=0.7", Some("zh-Hant")),
            ("en;q=0.5, zh-CN", Some("zh-Hans")),
            ("zh;q=0, en;q=0.1", Some("en")),
            ("fr", None),
            ("*", None),
            ("en;q=nonsense", None),
            (",,;;q=,", None),
        ] {
            assert_eq!(languages.of_accept_language(header).map(Lang::tag), found, "{header}");
        }
    }

    #[test]
    fn a_choice_beats_the_contact_and_the_contact_beats_the_browser() {
        let languages = Languages::built_in();
        let tag = |chosen, locale, header| languages.negotiate(chosen, locale, header).tag();
        assert_eq!(tag(Some("en"), Some("zh-TW"), Some("zh-CN")), "en");
        assert_eq!(tag(None, Some("zh-TW"), Some("zh-CN")), "zh-Hant");
        assert_eq!(tag(Some("xx"), Some("fr"), Some("zh-CN")), "zh-Hans");
        assert_eq!(tag(None, None, None), "en");
    }

    #[test]
    fn all_languages_fill_in_the_same_values_and_none_is_english_by_mistake() {
        let [en, hans, hant] = Languages::built_in().all().collect::<Vec<_>>()[..] else { panic!("three languages") };
        for ((name, en), (hans, hant)) in en.words().all().into_iter().zip(hans.words().all().into_iter().zip(hant.words().all())) {
            for other in [hans.1, hant.1] {
                assert_eq!(places(en), places(other), "{name}");
            }
            assert_ne!(en, hans.1, "{name} is not translated");
            assert_ne!(en, hant.1, "{name} is not translated");
        }
    }

    #[test]
    fn a_file_says_something_otherwise_and_the_rest_stays() {
        let languages = own(&[("zh-Hant", "unsubscribe_button = \"退出\"")]).expect("fine");
        let lang = languages.find("zh-TW").expect("there");
        assert_eq!(lang.words().unsubscribe_button, "退出");
        assert_eq!(lang.words().preferences_save, Languages::built_in().find("zh-TW").expect("there").words().preferences_save);
    }

    #[test]
    fn a_language_of_ones_own_is_whole_or_an_error() {
        let problems = own(&[("de", "name = \"Deutsch\"")]).expect_err("texts are missing");
        assert!(problems[0].message.contains("lacks") && problems[0].hint.contains("`unsubscribe_title`"), "{problems:?}");
        let whole: String = Languages::built_in()
            .english()
            .texts()
            .iter()
            .map(|(key, text)| format!("{key} = {}\n", toml::Value::from(text.as_str())))
            .collect();
        let languages = own(&[("de-AT", &whole)]).expect("whole");
        assert_eq!(languages.find("de").map(Lang::tag), Some("de-AT"));
        assert_eq!(languages.find("de-CH").map(Lang::tag), Some("de-AT"));
    }

    #[test]
    fn languages_written_from_right_to_left_are_known_by_script_or_language() {
        let languages = Languages::built_in();
        let whole: String =
            languages.english().texts().iter().map(|(key, text)| format!("{key} = {}\n", toml::Value::from(text.as_str()))).collect();
        let languages = own(&[("ar", &whole), ("he-IL", &whole), ("uz-Arab", &whole), ("ar-Latn", &whole)]).expect("whole");
        let found: Vec<&str> = languages.all().filter(|lang| lang.right_to_left()).map(Lang::tag).collect();
        assert_eq!(found, ["ar", "he-IL", "uz-Arab"]);
    }

    #[test]
    fn slips_in_a_file_have_their_place() {
        let text = "unsubscribe_buton = \"x\"\ndone_now = \"{topic}\"\n";
        let problems = own(&[("en", text)]).expect_err("two slips");
        let said: Vec<_> = problems.iter().map(|problem| (problem.span.start, problem.hint.as_str())).collect();
        assert_eq!(said.len(), 2, "{problems:?}");
        assert!(problems.iter().any(|problem| problem.hint == "did you mean `unsubscribe_button`?"), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.message.contains("`done_now`")), "{problems:?}");
        assert!(own(&[("en", "a b")]).is_err() && own(&[("en", "unsubscribe_button = 3")]).is_err());
    }

    #[test]
    fn values_are_filled_in_once() {
        assert_eq!(fill("“{topic}” to {address}{x", &[("topic", "{address}"), ("address", "a")]), "“{address}” to a{x");
    }
}
