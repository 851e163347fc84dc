//! What every mail says by law, as it arrives and as its page shows it.

use mail_parser::MessageParser;

use crate::send::{header, send, shop};
use crate::support::smtp::{Received, Sink};
use crate::support::{Instance, http, on_each_database};

const TOPICS: &str = r#"[tea-letter]
name = "Tea letter"
description = "What is fresh, every Tuesday"
advertising = true
[tea-letter.zh-Hant]
name = "茶訊"
[tea-letter.zh-Hans]
name = "茶讯"
"#;

/// Imports people at noon of 1 December 2026, UTC.
fn import(shop: &Instance, csv: &str, consent: &str) {
    shop.write("../people.csv", csv);
    let args = ["import", "contacts", "people.csv", "--topic", "tea-letter", "--consent", consent, "--source", "spring fair"];
    shop.command(&args).clock("2026-12-01T20:00:00Z").run().exits(0);
}

/// Subject, text and HTML of the mail to an address.
fn parts(received: &[Received], to: &str) -> (String, String, String) {
    let mail = received.iter().find(|mail| mail.to[0] == to).unwrap_or_else(|| panic!("no mail to {to}"));
    let raw = mail.text();
    let message = MessageParser::default().parse(raw.as_bytes()).unwrap();
    let text = message.body_text(0).unwrap().replace("\r\n", "\n");
    (message.subject().unwrap().to_owned(), text, message.body_html(0).unwrap().into_owned())
}

on_each_database!(
    async fn a_mail_says_why_it_comes_in_its_readers_language(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        shop.write("topics.toml", TOPICS);
        let people = "email,first_name,locale,timezone\nana@one.test,Ana,en-GB,\nming@one.test,小明,zh-TW,Asia/Taipei\nhong@one.test,小红,zh-CN,Asia/Shanghai\n";
        import(&shop, people, "confirmed");
        send(&shop, &[]).exits(0);
        let mails = sink.received();
        let frames = [
            ("ana@one.test", "You receive this email because you subscribed to Tea letter on 1 December 2026 at spring fair.", "You have the right to object"),
            ("ming@one.test", "您收到這封信，是因為您於2026年12月2日透過「spring fair」訂閱了「茶訊」。", "您有權隨時免費拒絕"),
            ("hong@one.test", "您收到这封邮件，是因为您于2026年12月2日通过“spring fair”订阅了“茶讯”。", "您有权随时免费拒绝"),
        ];
        for (to, why, notice) in frames {
            let (_, text, html) = parts(&mails, to);
            for part in [&text, &html] {
                for expected in [why, notice, "茶屋 Tea House", "1 Leaf Street, Taipei", "/u/"] {
                    assert!(part.contains(expected), "{to}: {expected} not in\n{part}");
                }
            }
        }
        let (subject, text, _) = parts(&mails, "hong@one.test");
        assert!(subject.starts_with("广告 小红, 春茶到了"), "{subject}");
        assert!(text.contains("您也可以发送邮件至 letters@tea.example 拒绝接收。"), "{text}");
        // The label stands in an encoded word, and nothing of it in clear.
        let raw = mails.iter().find(|mail| mail.to[0] == "hong@one.test").unwrap().text();
        assert!(header(&raw, "Subject")[0].starts_with("=?utf-8?"), "{raw}");
        assert!(parts(&mails, "ming@one.test").0.starts_with("小明, 春茶"));
        assert!(!parts(&mails, "ming@one.test").1.contains("letters@tea.example"));
        // Preview and page say the same.
        let preview = shop.optin(&["preview", "weekly", "--to", "hong@one.test", "--json"]).exits(0).json();
        assert_eq!(preview["subject"], subject);
        assert!(preview["text"].as_str().unwrap().contains(frames[2].1), "{preview}");
        let html = parts(&mails, "ming@one.test").2;
        let view = html.split("href=\"").find(|rest| rest.contains("/v/") && rest.find("/v/") < rest.find('"')).unwrap();
        let path = &view[view.find("/v/").unwrap()..view.find('"').unwrap()];
        let mut serving = shop.command(&["serve", "--only", "web"]).spawn();
        serving.wait_for_line("ready", 20);
        let page = http::get(&shop.url(path));
        assert_eq!(page.status, 200, "{path}");
        assert!(page.text().contains(frames[1].1), "{}", page.text());
        serving.signal("TERM");
        serving.wait(20);
    }
);

on_each_database!(
    async fn double_opt_in_is_named_with_the_place_where_it_was_asked(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        import(&shop, "email\nana@one.test\n", "pending");
        shop.optin(&["consent", "grant", "ana@one.test", "--topic", "tea-letter", "--source", "letter of hers", "--confirmed"]).exits(0);
        send(&shop, &[]).exits(0);
        let (_, text, _) = parts(&sink.received(), "ana@one.test");
        assert!(text.contains("because you subscribed to Tea letter at spring fair and confirmed it by email on "), "{text}");
        assert!(!text.contains("letter of hers"), "an operator's words are not for the mail: {text}");
    }
);

on_each_database!(
    async fn the_country_decides_about_the_label_and_words_may_be_ones_own(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        shop.write("topics.toml", TOPICS);
        let settings = std::fs::read_to_string(shop.dir().join("optin.toml")).unwrap();
        shop.write("optin.toml", format!("{settings}country = \"text\"\n[consent]\ncountry_attribute = \"country\"\n"));
        shop.write("languages/en.toml", "mail_because_at = \"{topic}: since {date}, {place}.\"\n");
        import(&shop, "email,locale,country\na@one.test,en,CN\nb@one.test,zh-CN,US\nc@one.test,en,China\nd@one.test,ko,\n", "confirmed");
        send(&shop, &[]).exits(0);
        let mails = sink.received();
        let subject = |to: &str| parts(&mails, to).0.split(',').next().unwrap().to_owned();
        assert_eq!(
            ["a@one.test", "b@one.test", "c@one.test", "d@one.test"].map(subject),
            ["AD Tea lover", "Tea lover", "AD Tea lover", "(광고) Tea lover"]
        );
        let text = parts(&mails, "a@one.test").1;
        assert!(text.contains("Tea letter: since 1 December 2026, spring fair."), "{text}");
        shop.write("languages/en.toml", "mail_months = \"Jan, Feb\"\nmail_date = \"{day}\"\n");
        let wrong = shop.optin(&["check"]).exits(1);
        assert!(wrong.stdout.contains("twelve months") && wrong.stdout.contains("does not fill in"), "{wrong}");
    }
);
