//! A reply that asks to leave: "unsubscribe", "stop", 退订, 取消訂閱 as a new subject or as the first line that its
//! writer wrote.
//!
//! Whose reply it is, a link of ours in the text tells (quoted or not: it is signed, and whoever has it may
//! leave), or the Message-ID of a mail of ours together with the address it went to. Neither a
//! Message-ID alone (ids of one run stand side by side, so they can be guessed) nor a From alone (anybody can
//! write it) is enough: such a mail is left to a person.

use mail_parser::{HeaderValue, Message};

use crate::token::{Keys, Purpose};

/// What people write. Compared in lower case, without marks around it.
const TOPIC_WORDS: &[&str] = &[
    "unsubscribe",
    "unsubscribe me",
    "please unsubscribe",
    "please unsubscribe me",
    "stop",
    "remove",
    "remove me",
    "opt out",
    "opt-out",
    "optout",
    "cancel subscription",
    "退订",
    "退訂",
    "我要退订",
    "我要退訂",
    "请退订",
    "請退訂",
    "取消订阅",
    "取消訂閱",
    "请取消订阅",
    "請取消訂閱",
    "td",
];
/// The same for everything.
const ALL_WORDS: &[&str] = &[
    "unsubscribe all",
    "unsubscribe from all",
    "unsubscribe from everything",
    "stop all",
    "remove me from all lists",
    "全部退订",
    "全部退訂",
    "退订全部",
    "退訂全部",
    "退订所有",
    "退訂所有",
    "取消所有订阅",
    "取消所有訂閱",
    "取消全部订阅",
    "取消全部訂閱",
];
/// How a line begins (lower case) below which programs put the mail that is answered.
const QUOTES: &[&str] = &[
    "-----original message",
    "----- original message",
    "________________________________",
    "-----原始邮件",
    "-----原始郵件",
    "------------------ 原始",
    "from:",
    "发件人",
    "寄件者",
    "寄件人",
    "發件人",
];
/// Lines that are looked at: a person who wants to leave says so at once.
const MAX_LINES: usize = 200;

/// What a reply asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// No more of this topic.
    Topic,
    /// No more of anything.
    All,
}

/// Who wrote it, as far as the mail tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Writer {
    /// A link of ours: contact, topic, delivery.
    Link(i64, i64, i64),
    /// Deliveries whose Message-IDs it answers, the nearest first; true only for whose address is `from`.
    Answers {
        /// Ids of deliveries.
        deliveries: Vec<i64>,
        /// The address in From.
        from: String,
    },
}

/// What a mail asks for, where a person wrote it.
pub(super) fn wish(message: &Message<'_>) -> Option<Wish> {
    if is_automatic(message) {
        return None;
    }
    let subject = message.subject().unwrap_or_default();
    // A subject after "Re:" is ours, whatever it says.
    let text = message.body_text(0).unwrap_or_default();
    first_own_line(&text).and_then(word).or_else(|| word(subject))
}

/// Mails that programs write (RFC 3834, and what was there before it).
fn is_automatic(message: &Message<'_>) -> bool {
    let header = |name: &str| message.header_raw(name.to_owned()).map(|value| value.trim().to_ascii_lowercase());
    header("Auto-Submitted").is_some_and(|value| value != "no")
        || header("Precedence").is_some_and(|value| matches!(value.as_str(), "bulk" | "junk" | "list" | "auto_reply"))
        || header("Return-Path").is_some_and(|value| value == "<>")
        || ["X-Autoreply", "X-Autorespond", "X-Auto-Response-Suppress", "List-Id"].iter().any(|name| header(name).is_some())
        || header("Content-Type").is_some_and(|value| value.starts_with("multipart/report"))
}

/// The first line that is neither empty nor quoted, nor says what is quoted.
fn first_own_line(text: &str) -> Option<&str> {
    let lines: Vec<&str> = text.lines().take(MAX_LINES).map(str::trim).collect();
    for (at, line) in lines.iter().enumerate() {
        let lower = line.to_lowercase();
        if QUOTES.iter().any(|quote| lower.starts_with(quote)) {
            return None;
        }
        let next_is_quoted = lines[at + 1..].iter().find(|line| !line.is_empty()).is_some_and(|line| line.starts_with('>'));
        let introduces = next_is_quoted && (line.ends_with(':') || line.ends_with('：'));
        if !line.is_empty() && !line.starts_with('>') && !introduces {
            return Some(line);
        }
    }
    None
}

fn word(line: &str) -> Option<Wish> {
    let marks =
        |c: char| c.is_whitespace() || matches!(c, '.' | '!' | ',' | '"' | '\'' | '“' | '”' | '「' | '」' | '。' | '！' | '，' | '*');
    let said = line.trim_matches(marks).to_lowercase();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let one_of = |words: &[&str]| words.contains(&said.as_str());
    if one_of(ALL_WORDS) {
        Some(Wish::All)
    } else if one_of(TOPIC_WORDS) {
        Some(Wish::Topic)
    } else {
        None
    }
}

/// Whose reply it is.
pub(super) fn writer(keys: &Keys, message: &Message<'_>) -> Option<Writer> {
    let text = message.body_text(0).unwrap_or_default();
    let html = message.body_html(0).unwrap_or_default();
    if let Some((contact_id, topic_id, delivery_id)) = link(keys, &text).or_else(|| link(keys, &html)) {
        return Some(Writer::Link(contact_id, topic_id, delivery_id));
    }
    let ids = |value: &HeaderValue<'_>| -> Vec<i64> {
        let texts: Vec<String> = match value {
            HeaderValue::Text(text) => vec![text.to_string()],
            HeaderValue::TextList(texts) => texts.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        texts.iter().filter_map(|id| delivery_of(id)).collect()
    };
    let mut deliveries = ids(message.in_reply_to());
    deliveries.extend(ids(message.references()).into_iter().rev());
    let from = message.from()?.first()?.address()?.to_owned();
    (!deliveries.is_empty()).then_some(Writer::Answers { deliveries, from })
}

/// The person of the first genuine unsubscribe link in a text.
fn link(keys: &Keys, text: &str) -> Option<(i64, i64, i64)> {
    text.match_indices("/u/").find_map(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').unwrap_or(rest.len());
        let fields =
            [Purpose::UnsubscribeBody, Purpose::UnsubscribeHeader].iter().find_map(|purpose| keys.verify(*purpose, &rest[..end]).ok())?;
        <[i64; 3]>::try_from(fields).ok().map(|[contact_id, topic_id, delivery_id]| (contact_id, topic_id, delivery_id))
    })
}

/// The delivery of a Message-ID of ours: `1f.optin@tea.example`.
fn delivery_of(id: &str) -> Option<i64> {
    let (local, _) = id.trim().trim_matches(['<', '>']).split_once('@')?;
    i64::from_str_radix(local.strip_suffix(".optin")?, 16).ok().filter(|id| *id > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::MessageParser;

    fn asked(headers: &str, body: &str) -> Option<Wish> {
        let mail = format!("From: Mei <mei@tea.example>\r\n{headers}Content-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n");
        wish(&MessageParser::default().parse(mail.as_bytes()).expect("a mail"))
    }

    #[test]
    fn whoever_asks_in_the_first_own_line_or_a_new_subject_is_heard() {
        for (headers, body, expected) in [
            ("Subject: Re: Spring\r\n", "Unsubscribe!\r\n\r\nOn Tuesday Tea House wrote:\r\n> Fresh", Wish::Topic),
            ("Subject: Re: Spring\r\n", "On Tuesday Tea House wrote:\r\n> Fresh\r\n> leaves\r\n\r\nSTOP", Wish::Topic),
            ("Subject: Re: Spring\r\n", "退订", Wish::Topic),
            ("Subject: Re: Spring\r\n", "「取消訂閱」。", Wish::Topic),
            ("Subject: Unsubscribe  all\r\n", "", Wish::All),
            ("Subject: hello\r\n", "全部退訂\r\n-----Original Message-----\r\nFrom: x", Wish::All),
            ("Subject: =?utf-8?B?6YCA6K6i?=\r\n", "\r\n", Wish::Topic),
        ] {
            assert_eq!(asked(headers, body), Some(expected), "{headers} {body}");
        }
    }

    #[test]
    fn quotes_programs_and_other_talk_are_not() {
        for (headers, body) in [
            ("Subject: Re: Stop\r\n", "What do you mean?"),
            ("Subject: Re: Spring\r\n", "> unsubscribe\r\n> stop"),
            ("Subject: Re: Spring\r\n", "How do I unsubscribe?"),
            ("Subject: Re: Spring\r\n", "Thanks!\r\nunsubscribe"),
            ("Subject: Re: Spring\r\n", "-----Original Message-----\r\nunsubscribe"),
            ("Subject: Re: Spring\r\n", "发件人：Tea House\r\n退订"),
            ("Subject: Re: x\r\nAuto-Submitted: auto-replied\r\n", "stop"),
            ("Subject: stop\r\nPrecedence: bulk\r\n", "stop"),
            ("Subject: stop\r\nX-Autoreply: yes\r\n", "stop"),
            ("Return-Path: <>\r\nSubject: stop\r\n", "stop"),
            ("", ""),
        ] {
            assert_eq!(asked(headers, body), None, "{headers} {body}");
        }
    }

    #[test]
    fn a_genuine_link_tells_who_wrote_and_message_ids_only_with_the_address() {
        let keys = Keys::new("a secret of this test", &[]);
        let token = keys.sign(Purpose::UnsubscribeBody, &[1, 2, 3]);
        let of = |mail: &str| writer(&keys, &MessageParser::default().parse(mail.as_bytes()).expect("a mail"));
        let quoted = format!("From: a@b.example\r\n\r\nstop\r\n> leave: http://tea.example/u/{token}?lang=en\r\n");
        assert_eq!(of(&quoted), Some(Writer::Link(1, 2, 3)));
        let answer = "From: A <a@b.example>\r\nIn-Reply-To: <ff.optin@tea.example>\r\nReferences: <x@y> <1.optin@tea.example> <ff.optin@tea.example>\r\n\r\nstop";
        assert_eq!(of(answer), Some(Writer::Answers { deliveries: vec![255, 255, 1], from: "a@b.example".to_owned() }));
        assert_eq!(of("From: a@b.example\r\nIn-Reply-To: <zz.optin@tea.example>\r\n\r\nstop /u/abc"), None);
        assert_eq!(of("In-Reply-To: <ff.optin@tea.example>\r\n\r\nstop"), None);
    }
}
