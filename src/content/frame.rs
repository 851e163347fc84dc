//! The built-in layouts and the words in them: the few things every mail must say, in the language
//! of the person who reads it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use askama::Template;
use minijinja::Value;

use super::vault::Vault;

/// The layouts that come with optin.
pub const LAYOUTS: &[&str] = &["newsletter", "promotion", "plain"];
/// The one for messages: no way to unsubscribe (there is nothing to unsubscribe from), but who writes
/// and from where.
pub const MESSAGE_LAYOUT: &str = "transactional";

/// A language recipients are addressed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English, also for every language not listed here.
    English,
    /// 简体中文
    SimplifiedChinese,
    /// 繁體中文
    TraditionalChinese,
}

/// One row per language: tag, view in browser, unsubscribe, preferences, the words before and after
/// the topic's name, fonts.
const WORDS: [[&str; 7]; 3] = [
    ["en", "View in browser", "Unsubscribe", "Email preferences", "You receive this email because you subscribed to ", ".", SIMPLIFIED],
    ["zh-Hans", "在浏览器中查看", "退订", "邮件偏好设置", "您收到这封邮件，是因为您订阅了「", "」。", SIMPLIFIED],
    ["zh-Hant", "在瀏覽器中檢視", "取消訂閱", "電子報偏好設定", "您收到這封信，是因為您訂閱了「", "」。", TRADITIONAL],
];
/// The names of those columns in a template.
const NAMES: [&str; 7] = ["lang", "view", "unsubscribe", "preferences", "because", "because_end", "fonts"];
/// Fonts for Chinese letters, on Apple's systems, Windows and others. The same letter is drawn
/// differently in the two scripts, so each language has its own list.
const SIMPLIFIED: &str = "PingFang SC, Microsoft YaHei, Noto Sans CJK SC, Noto Sans SC";
/// See [`SIMPLIFIED`].
const TRADITIONAL: &str = "PingFang TC, Microsoft JhengHei, Noto Sans CJK TC, Noto Sans TC";

impl Language {
    /// From a contact's locale: `zh_TW`, `zh-Hant`, `zh-HK`, `zh_MO` are traditional Chinese, every
    /// other `zh` is simplified, anything else English.
    pub fn of(locale: Option<&str>) -> Self {
        let tag = locale.unwrap_or_default().trim().to_ascii_lowercase().replace('_', "-");
        let tag = tag.split(['.', '@']).next().unwrap_or_default();
        let mut subtags = tag.split('-');
        if !matches!(subtags.next(), Some("zh" | "cmn" | "yue")) {
            return Language::English;
        }
        let subtags: Vec<&str> = subtags.collect();
        let traditional = match () {
            () if subtags.contains(&"hans") => false,
            () if subtags.contains(&"hant") => true,
            () => subtags.iter().any(|subtag| matches!(*subtag, "tw" | "hk" | "mo")),
        };
        if traditional { Language::TraditionalChinese } else { Language::SimplifiedChinese }
    }

    /// Its BCP 47 tag.
    pub fn tag(self) -> &'static str {
        WORDS[self as usize][0]
    }

    /// The fonts that draw its letters.
    pub(super) fn fonts(self) -> &'static str {
        WORDS[self as usize][6]
    }

    /// The words of a mail's foot: before and after the topic's name, leaving, choosing.
    pub fn foot(self) -> [&'static str; 4] {
        let [_, _, unsubscribe, preferences, because, because_end, _] = WORDS[self as usize];
        [because, because_end, unsubscribe, preferences]
    }

    /// Its words, as a template sees them under `frame`.
    pub(super) fn words(self) -> Value {
        static VALUES: OnceLock<[Value; 3]> = OnceLock::new();
        VALUES.get_or_init(|| WORDS.map(|row| Value::from(NAMES.into_iter().zip(row).collect::<BTreeMap<_, _>>())))[self as usize].clone()
    }
}

/// The places of a layout; each holds a kept tag of the vault, so that the layout goes through the
/// CSS inliner and the link rewriter like everything else.
#[derive(Debug)]
struct Places {
    lang: String,
    fonts: String,
    subject: String,
    view: String,
    view_url: String,
    unsubscribe: String,
    unsubscribe_url: String,
    preferences: String,
    preferences_url: String,
    because: String,
    because_end: String,
    topic: String,
    sender: String,
    postal_address: String,
}

impl Places {
    fn new(vault: &mut Vault) -> Self {
        let mut keep = |expression: &str| vault.keep_expression(expression);
        Places {
            lang: keep("frame.lang"),
            fonts: keep("frame.fonts"),
            subject: keep("subject"),
            view: keep("frame.view"),
            view_url: keep("links.view"),
            unsubscribe: keep("frame.unsubscribe"),
            unsubscribe_url: keep("links.unsubscribe"),
            preferences: keep("frame.preferences"),
            preferences_url: keep("links.preferences"),
            because: keep("frame.because"),
            because_end: keep("frame.because_end"),
            topic: keep("topic.name"),
            sender: keep("sender.name"),
            postal_address: keep("sender.postal_address"),
        }
    }
}

#[derive(Template)]
#[template(path = "email/newsletter.html")]
struct Newsletter<'a> {
    places: Places,
    content: &'a str,
}

#[derive(Template)]
#[template(path = "email/promotion.html")]
struct Promotion<'a> {
    places: Places,
    content: &'a str,
}

#[derive(Template)]
#[template(path = "email/plain.html")]
struct Plain<'a> {
    places: Places,
    content: &'a str,
}

#[derive(Template)]
#[template(path = "email/transactional.html")]
struct Transactional<'a> {
    places: Places,
    leave: bool,
    content: &'a str,
}

#[derive(Template)]
#[template(path = "email/signature.html")]
struct Signature {
    places: Places,
    leave: bool,
}

#[derive(Template)]
#[template(path = "email/strip.html")]
struct Strip {
    places: Places,
}

#[derive(Template)]
#[template(path = "email/footer.html")]
struct Footer {
    places: Places,
}

/// Puts a protected body into a built-in layout; `None` for a layout that is not built in.
/// `leave`: the foot of a message says how to leave its topic.
pub(super) fn layout(name: &str, content: &str, leave: bool, vault: &mut Vault) -> Option<String> {
    let places = Places::new(vault);
    let rendered = match name {
        "newsletter" => Newsletter { places, content }.render(),
        "promotion" => Promotion { places, content }.render(),
        "plain" => Plain { places, content }.render(),
        MESSAGE_LAYOUT => Transactional { places, leave, content }.render(),
        _ => return None,
    };
    Some(rendered.expect("writing to a string does not fail"))
}

/// What a body that is a whole document gets before and after its own content.
pub(super) fn around_document(vault: &mut Vault) -> (String, String) {
    let strip = Strip { places: Places::new(vault) }.render();
    let footer = Footer { places: Places::new(vault) }.render();
    (strip.expect("writing to a string does not fail"), footer.expect("writing to a string does not fail"))
}

/// The same for a message: who writes, and with `leave` how to leave its topic.
pub(super) fn after_message(leave: bool, vault: &mut Vault) -> String {
    let signature = Signature { places: Places::new(vault), leave }.render();
    signature.expect("writing to a string does not fail")
}

/// Invisible letters after a preheader, so that the list of mails does not show the body's first
/// words behind it. Most lists show 90 to 140 letters.
const PREHEADER_PADDING: usize = 100;

/// The hidden preview text.
pub(super) fn preheader(vault: &mut Vault) -> String {
    let text = vault.keep_expression("preheader");
    let padding = "&zwnj;&nbsp;".repeat(PREHEADER_PADDING);
    format!(
        "<div style=\"display:none;font-size:1px;line-height:1px;max-height:0;max-width:0;opacity:0;overflow:hidden;mso-hide:all\">{text}{padding}</div>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales_find_their_language() {
        use Language::*;
        for (locale, language) in [
            ("zh_TW", TraditionalChinese),
            ("zh-TW", TraditionalChinese),
            ("zh-Hant", TraditionalChinese),
            ("zh_HK", TraditionalChinese),
            ("zh_TW.UTF-8", TraditionalChinese),
            ("zh-Hant-TW", TraditionalChinese),
            ("zh-Hans-HK", SimplifiedChinese),
            ("zh", SimplifiedChinese),
            ("zh_CN", SimplifiedChinese),
            ("ZH-HANS", SimplifiedChinese),
            ("en-GB", English),
            ("de", English),
            ("", English),
        ] {
            assert_eq!(Language::of(Some(locale)), language, "{locale}");
        }
        assert_eq!(Language::of(None), English);
    }

    #[test]
    fn every_language_has_every_word() {
        assert!(WORDS.iter().flatten().all(|word| !word.is_empty()));
    }
}
