//! The built-in layouts and the words in them: the few things every mail must say, in the language
//! of the person who reads it.

use std::collections::BTreeMap;

use askama::Template;
use minijinja::Value;

use super::vault::Vault;
use crate::text::i18n::Lang;

/// The layouts that come with optin.
pub const LAYOUTS: &[&str] = &["newsletter", "promotion", "plain"];
/// The one for messages: no way to unsubscribe (there is nothing to unsubscribe from), but who writes
/// and from where.
pub const MESSAGE_LAYOUT: &str = "transactional";

/// Fonts for Chinese letters, on Apple's systems, Windows and others. The same letter is drawn
/// differently in the two scripts, so each language has its own list.
const SIMPLIFIED: &str = "PingFang SC, Microsoft YaHei, Noto Sans CJK SC, Noto Sans SC";
/// See [`SIMPLIFIED`].
const TRADITIONAL: &str = "PingFang TC, Microsoft JhengHei, Noto Sans CJK TC, Noto Sans TC";

/// Names under `frame` that a marketer's own layout may place by itself. What it leaves out, we add.
pub(super) const FRAME_FIELDS: &[&str] = &["lang", "view", "unsubscribe", "preferences", "why", "notice"];

/// Fonts for the letters of a language.
pub(super) fn fonts(tag: &str) -> &'static str {
    if tag.eq_ignore_ascii_case("zh-Hant") { TRADITIONAL } else { SIMPLIFIED }
}

/// The words of a language, as a template sees them under `frame`: those that are the same for everybody.
pub(super) fn words(lang: Lang) -> BTreeMap<&'static str, Value> {
    let words = lang.words();
    let values = [
        ("lang", lang.tag()),
        ("view", words.mail_view),
        ("unsubscribe", words.mail_unsubscribe),
        ("preferences", words.mail_preferences),
        ("fonts", fonts(lang.tag())),
    ];
    values.into_iter().map(|(name, text)| (name, Value::from(text))).collect()
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
    why: String,
    notice: String,
    sender: String,
    postal_address: String,
    /// What of the frame is said here.
    says: Says,
}

/// Parts of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Says {
    /// Why the person gets the mail.
    pub why: bool,
    /// That they may object.
    pub notice: bool,
    /// How to leave.
    pub leave: bool,
    /// Who writes and from where.
    pub sender: bool,
}

impl Says {
    /// The whole frame.
    pub const ALL: Says = Says { why: true, notice: true, leave: true, sender: true };

    /// Whether there is nothing to say.
    pub fn is_nothing(self) -> bool {
        !(self.why || self.notice || self.leave || self.sender)
    }
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
            why: keep("frame.why"),
            notice: keep("frame.notice"),
            sender: keep("sender.name"),
            postal_address: keep("sender.postal_address"),
            says: Says::ALL,
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

/// What a marketer's own layout does not say itself, at its end.
pub(super) fn what_is_missing(says: Says, vault: &mut Vault) -> String {
    let places = Places { says, ..Places::new(vault) };
    Footer { places }.render().expect("writing to a string does not fail")
}

/// The same for a message: who writes, and with `leave` why it comes and how to leave its topic.
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
