//! The engine's own mails: a question of double opt-in, its reminder, a collection of letters, a notice.
//! Each is a [`SystemText`]: a heading, paragraphs, lists, one button. What it says is settled when it is
//! asked for, so that every attempt says the same after the files have changed.

use askama::Template;
use serde::{Deserialize, Serialize};

use super::{LinkMaker, Mail, frame};
use crate::config::Sender;
use crate::text::i18n::{Lang, colon};

/// What one of the engine's own mails says, in one language.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemText {
    /// BCP 47 tag of the language it is written in.
    pub lang: String,
    /// The subject line.
    pub subject: String,
    /// Above all; may be empty.
    pub heading: String,
    /// Before the lists.
    pub paragraphs: Vec<String>,
    /// A plain list, such as the topics of a request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// A list of things to look at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<Entry>,
    /// The one thing to do.
    pub button: Option<Button>,
    /// Below the button.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Stands above the button's bare address.
    pub fallback: String,
    /// Of a mail that people subscribed to: the topic's name, and its name in `List-Id`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub topic: String,
    /// See `topic`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub list: String,
    /// Words of the foot of a mail that people subscribed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave: Option<LeaveWords>,
}

/// A line of a list that leads somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub title: String,
    /// When, or whatever else is worth saying quietly.
    pub note: String,
    /// An address of the web.
    pub link: String,
}

/// A button.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Button {
    /// What it does.
    pub label: String,
    /// An address of the web.
    pub link: String,
}

/// Why somebody gets this, and how to leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveWords {
    /// Why they get it.
    pub because: String,
    /// The link to leave.
    pub unsubscribe: String,
    /// The link to choose.
    pub preferences: String,
}

impl SystemText {
    /// An empty mail in a language.
    pub fn new(lang: Lang, subject: impl Into<String>) -> Self {
        SystemText {
            lang: lang.tag().to_owned(),
            subject: subject.into(),
            fallback: lang.words().mail_button_fallback.to_owned(),
            ..SystemText::default()
        }
    }

    /// With a heading.
    pub fn heading(mut self, text: impl Into<String>) -> Self {
        self.heading = text.into();
        self
    }

    /// With one more paragraph; line breaks in it stay.
    pub fn paragraph(mut self, text: impl Into<String>) -> Self {
        self.paragraphs.push(text.into());
        self
    }

    /// With the one button.
    pub fn button(mut self, label: impl Into<String>, link: impl Into<String>) -> Self {
        self.button = Some(Button { label: label.into(), link: link.into() });
        self
    }

    /// With one more paragraph below the button.
    pub fn after(mut self, text: impl Into<String>) -> Self {
        self.after.push(text.into());
        self
    }

    /// Writes it. `links` are those of a mail that people subscribed to: its foot says how to leave.
    pub fn write(&self, sender: &Sender, links: Option<&dyn LinkMaker>) -> Mail {
        let clean = |text: &str| super::context::without_controls(text);
        let text = SystemText {
            subject: super::render::one_line(&self.subject),
            heading: clean(&self.heading),
            paragraphs: self.paragraphs.iter().map(|text| clean(text)).collect(),
            names: self.names.iter().map(|text| clean(text)).collect(),
            entries: self.entries.iter().map(|entry| Entry { title: clean(&entry.title), ..entry.clone() }).collect(),
            after: self.after.iter().map(|text| clean(text)).collect(),
            ..self.clone()
        };
        let leave = text.leave.as_ref().zip(links).map(|(words, links)| Leave {
            because: &words.because,
            unsubscribe: &words.unsubscribe,
            unsubscribe_url: links.unsubscribe(),
            preferences: &words.preferences,
            preferences_url: links.preferences(),
        });
        let fonts = format!("-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,{},sans-serif", frame::fonts(&text.lang));
        let plain = plain(&text, sender, leave.as_ref());
        let page = Page { text: &text, sender, leave, fonts: &fonts };
        let html = page.render().expect("writing into memory does not fail");
        Mail { subject: text.subject.clone(), preheader: String::new(), html, text: plain }
    }
}

struct Leave<'a> {
    because: &'a str,
    unsubscribe: &'a str,
    unsubscribe_url: String,
    preferences: &'a str,
    preferences_url: String,
}

#[derive(Template)]
#[template(path = "email/system.html")]
struct Page<'a> {
    text: &'a SystemText,
    sender: &'a Sender,
    leave: Option<Leave<'a>>,
    fonts: &'a str,
}

/// The text part.
fn plain(text: &SystemText, sender: &Sender, leave: Option<&Leave<'_>>) -> String {
    let mut blocks: Vec<String> = Vec::new();
    blocks.extend((!text.heading.is_empty()).then(|| text.heading.clone()));
    blocks.extend(text.paragraphs.iter().cloned());
    if !text.names.is_empty() {
        blocks.push(text.names.iter().map(|name| format!("- {name}")).collect::<Vec<_>>().join("\n"));
    }
    blocks.extend(text.entries.iter().map(|entry| format!("{}\n{}\n{}", entry.title, entry.note, entry.link)));
    blocks.extend(text.button.iter().map(|button| format!("{}{}\n{}", button.label, colon(&text.lang).trim_end(), button.link)));
    blocks.extend(text.after.iter().cloned());
    let mut foot = vec!["-- ".to_owned()];
    if let Some(leave) = leave {
        foot.push(leave.because.to_owned());
        foot.push(format!("{}{}{}", leave.unsubscribe, colon(&text.lang), leave.unsubscribe_url));
        foot.push(format!("{}{}{}", leave.preferences, colon(&text.lang), leave.preferences_url));
    }
    foot.push(format!("{}, {}", sender.name, sender.postal_address));
    blocks.push(foot.join("\n"));
    format!("{}\n", blocks.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::i18n::Languages;

    fn sender() -> Sender {
        Sender {
            name: "Tea <House>".to_owned(),
            email: "a@b.example".to_owned(),
            reply_to: None,
            postal_address: "1 Leaf Street".to_owned(),
        }
    }

    #[test]
    fn it_is_laid_out_in_its_language_and_escapes_what_people_wrote() {
        let lang = Languages::built_in().find("zh-TW").expect("built in");
        let text = SystemText::new(lang, "請確認\r\nBcc: x")
            .heading("<b>")
            .paragraph("一\u{1}二")
            .button("好", "https://news.example/s/x?a=1&b=2");
        let mail = text.write(&sender(), None);
        assert_eq!(mail.subject, "請確認 Bcc: x");
        for part in ["lang=\"zh-Hant\"", "Tea &#60;House&#62;", "&#60;b&#62;", "PingFang TC", "一二", "x?a=1&#38;b=2"] {
            assert!(mail.html.contains(part), "{part} in {}", mail.html);
        }
        assert!(mail.text.contains("好：\nhttps://news.example/s/x?a=1&b=2\n"), "{}", mail.text);
        assert!(!mail.html.contains("{{") && !mail.text.contains("<b>\n<"), "{}", mail.text);
    }

    #[test]
    fn what_is_stored_reads_back() {
        let text = SystemText::new(Languages::built_in().english(), "Hello").paragraph("Text");
        let stored = serde_json::to_value(&text).expect("plain data");
        assert_eq!(serde_json::from_value::<SystemText>(stored).expect("reads back"), text);
    }
}
