//! The confirmation mail of double opt-in: a question and a button, nothing that advertises.

use askama::Template;

use super::Mail;
use crate::config::Sender;
use crate::text::i18n::Languages;

/// Subject, question, button, and what happens otherwise; `{}` is the topic's name.
const WORDS: [[&str; 4]; 3] = [
    [
        "Please confirm: {}",
        "Somebody, hopefully you, asked us to send “{}” to this address. Do you want it?",
        "Yes, subscribe me",
        "If not, you need not do anything: without your confirmation we send nothing. The link works for seven days.",
    ],
    [
        "请确认订阅：{}",
        "有人（希望就是您）请我们把“{}”寄到这个邮箱。您想订阅吗？",
        "是的，我要订阅",
        "如果不想，什么都不用做：没有您的确认，我们不会寄任何邮件。链接七天内有效。",
    ],
    [
        "請確認訂閱：{}",
        "有人（希望就是您）請我們把「{}」寄到這個信箱。您想訂閱嗎？",
        "是的，我要訂閱",
        "如果不想，什麼都不用做：沒有您的確認，我們不會寄任何郵件。連結七天內有效。",
    ],
];

#[derive(Template)]
#[template(path = "email/confirmation.html")]
struct Page<'a> {
    lang: &'a str,
    subject: &'a str,
    question: &'a str,
    link: &'a str,
    button: &'a str,
    otherwise: &'a str,
    sender: &'a str,
    postal_address: &'a str,
}

/// Writes it in the language of `locale`. `link` leads to the page with the button that confirms.
pub fn write(locale: Option<&str>, topic_name: &str, sender: &Sender, link: &str) -> Mail {
    let languages = Languages::built_in();
    let lang = locale.and_then(|tag| languages.find(tag)).unwrap_or(languages.english());
    let at = languages.all().position(|known| known == lang).unwrap_or_default();
    let [subject, question, button, otherwise] = WORDS[at];
    let (subject, question) = (subject.replace("{}", topic_name), question.replace("{}", topic_name));
    let page = Page {
        lang: lang.tag(),
        subject: &subject,
        question: &question,
        link,
        button,
        otherwise,
        sender: &sender.name,
        postal_address: &sender.postal_address,
    };
    let html = page.render().expect("writing into memory does not fail");
    let text = format!("{question}\n\n{button}: {link}\n\n{otherwise}\n\n-- \n{}, {}\n", sender.name, sender.postal_address);
    Mail { subject, preheader: String::new(), html, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_in_the_readers_language_and_escapes_names() {
        let sender = Sender {
            name: "Tea <House>".to_owned(),
            email: "a@b.example".to_owned(),
            reply_to: None,
            postal_address: "1 Leaf Street".to_owned(),
        };
        let mail = write(Some("zh_TW"), "茶信", &sender, "https://news.example/s/x");
        assert_eq!(mail.subject, "請確認訂閱：茶信");
        assert!(mail.html.contains("lang=\"zh-Hant\"") && mail.html.contains("Tea &#60;House&#62;"), "{}", mail.html);
        assert!(mail.text.contains("https://news.example/s/x"));
    }
}
