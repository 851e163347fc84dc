//! Coming back by the preference page: one confirmation mail, and only its button subscribes. Leaving
//! by mail.

use crate::support::smtp::Sink;
use crate::support::{self, http, on_each_database};

const FILES: &[(&str, &str)] = &[
    (
        "topics.toml",
        "[letter]\nname = \"Letter\"\ndescription = \"Weekly\"\nopt_in = \"double\"\n\n[offers]\nname = \"Offers\"\ndescription = \"Now and then\"\nopt_in = \"double\"\n\n[news]\nname = \"News\"\nopt_in = \"single\"\n",
    ),
    ("campaigns/hello.toml", "topic = \"letter\"\nsubject = \"Hello\"\nbody = \"hello.md\"\n"),
    ("campaigns/hello.md", "Hello\n"),
];

fn link<'a>(text: &'a str, part: &str) -> &'a str {
    text.split(['<', '>', ' ', '\n', '\r', '(', ')', '"']).find(|word| word.contains(part)).unwrap_or_else(|| panic!("no {part} in {text}"))
}

fn text_part(raw: &[u8]) -> String {
    let mail = mail_parser::MessageParser::default().parse(raw).unwrap();
    mail.body_text(0).unwrap().into_owned()
}

fn standing(instance: &support::Instance, topic: &str) -> String {
    let shown = instance.optin(&["contact", "show", "mei@tea.example", "--json"]).exits(0).json();
    let topics = shown["topics"].as_array().unwrap();
    topics
        .iter()
        .find(|entry| entry["topic"] == topic)
        .map_or_else(|| "none".to_owned(), |entry| entry["standing"].as_str().unwrap().to_owned())
}

on_each_database! {

    async fn only_the_button_in_the_confirmation_mail_subscribes(database) {
        let sink = Sink::start();
        let instance = support::instance(&database, FILES).with_smtp(&sink);
        instance.optin(&["consent", "grant", "mei@tea.example", "--topic", "letter", "--source", "form 17"]).exits(0);
        instance.optin(&["send", "hello", "--json"]).exits(0);
        let mail = sink.wait_for(1, 20).remove(0);
        let body = text_part(&mail.data);
        let mut serving = instance.command(&["serve"]).spawn();
        serving.wait_for_line("optin is ready", 20);

        let preferences = link(&body, "/p/").to_owned();
        let page = http::get(&preferences).text();
        let form: Vec<String> = page
            .split("<input ")
            .skip(1)
            .filter_map(|input| {
                let name = input.split("name=\"").nth(1)?.split('"').next()?;
                let value = input.split("value=\"").nth(1)?.split('"').next()?;
                Some(format!("{name}={value}"))
            })
            .collect();
        for _ in 0..3 {
            let saved = http::post(&preferences, "application/x-www-form-urlencoded", form.join("&").as_bytes());
            assert_eq!(saved.status, 200, "{}", saved.text());
        }
        assert_eq!(standing(&instance, "offers"), "pending");
        assert_eq!(standing(&instance, "news"), "subscribed", "single opt-in needs no mail");

        let mails = sink.wait_for(2, 20);
        let question = String::from_utf8_lossy(&mails[1].data).into_owned();
        assert!(question.contains("Auto-Submitted: auto-generated"), "{question}");
        let confirm = link(&text_part(&mails[1].data), "/s/").to_owned();
        // A scanner follows the link twice: nothing is confirmed, nothing is spent.
        assert_eq!((http::get(&confirm).status, http::head(&confirm).status), (200, 200));
        assert_eq!(standing(&instance, "offers"), "pending");
        assert_eq!(http::post(&confirm, "application/x-www-form-urlencoded", b"").status, 200);
        assert_eq!(standing(&instance, "offers"), "subscribed");

        // Leaving and pressing the old button again brings nobody back.
        instance.optin(&["consent", "withdraw", "mei@tea.example", "--topic", "offers", "--source", "phone"]).exits(0);
        http::post(&confirm, "application/x-www-form-urlencoded", b"");
        assert_eq!(standing(&instance, "offers"), "unsubscribed");
        // Nor does it after somebody asked again: that question has a mail of its own, a day later.
        assert_eq!(http::post(&preferences, "application/x-www-form-urlencoded", form.join("&").as_bytes()).status, 200);
        http::post(&confirm, "application/x-www-form-urlencoded", b"");
        assert_eq!(standing(&instance, "offers"), "unsubscribed");
        let db = database.open().await;
        let waits = "SELECT COUNT(*) FROM confirmation WHERE sent_at IS NULL AND message_id IS NULL AND due_at > asked_at";
        assert_eq!(db.fetch_one(waits, vec![]).await.unwrap().get::<i64>(0).unwrap(), 1, "the second question waits for its day");
        db.execute("UPDATE confirmation SET due_at = asked_at WHERE sent_at IS NULL", vec![]).await.unwrap();
        let second = sink.wait_for(3, 20).remove(2);
        http::post(link(&text_part(&second.data), "/s/"), "application/x-www-form-urlencoded", b"");
        assert_eq!(standing(&instance, "offers"), "subscribed");
        serving.signal("TERM");
        assert_eq!(serving.wait(20).0, 0);
        assert_eq!(sink.received().len(), 3, "asking three times sends one confirmation mail");
        instance.optin(&["consent", "verify", "--json"]).exits(0);
    }
}

on_each_database! {
    async fn whoever_left_everything_is_asked_by_mail_also_about_a_topic_they_never_had(database) {
        let sink = Sink::start();
        let instance = support::instance(&database, FILES).with_smtp(&sink);
        instance.optin(&["consent", "grant", "mei@tea.example", "--topic", "letter", "--source", "form 17"]).exits(0);
        instance.optin(&["send", "hello", "--json"]).exits(0);
        let body = text_part(&sink.wait_for(1, 20)[0].data);
        let preferences = link(&body, "/p/").to_owned();
        let db = database.open().await;
        // Nothing is known of any topic any more, only that she left everything: as after an import of the data alone.
        instance.optin(&["consent", "withdraw", "mei@tea.example", "--source", "phone"]).exits(0);
        db.execute("DELETE FROM subscription WHERE topic_id <> 0", vec![]).await.unwrap();
        let mut serving = instance.command(&["serve"]).spawn();
        serving.wait_for_line("optin is ready", 20);
        let page = http::get(&preferences).text();
        let (before, _) = page.split_once("News").unwrap();
        let topic = before.rsplit("name=\"topic\" value=\"").next().unwrap().split('"').next().unwrap();
        let saved = http::post(&preferences, "application/x-www-form-urlencoded", format!("shown={topic}&topic={topic}").as_bytes());
        assert!(saved.text().contains("once you follow the link"), "{}", saved.text());
        let question = sink.wait_for(2, 20).remove(1);
        assert_eq!(standing(&instance, "news"), "unsubscribed");
        http::post(link(&text_part(&question.data), "/s/"), "application/x-www-form-urlencoded", b"");
        assert_eq!(standing(&instance, "news"), "subscribed");
        serving.signal("TERM");
        assert_eq!(serving.wait(20).0, 0);
    }
}

on_each_database! {
    async fn a_mail_to_the_unsubscribe_address_unsubscribes(database) {
        let sink = Sink::start();
        let instance = support::instance(&database, FILES).with_smtp(&sink);
        instance.optin(&["consent", "grant", "mei@tea.example", "--topic", "letter", "--source", "form 17"]).exits(0);
        instance.optin(&["send", "hello", "--json"]).exits(0);
        let sent = String::from_utf8_lossy(&sink.wait_for(1, 20)[0].data).into_owned();
        let token = sent.split("subject=unsubscribe%20").nth(1).unwrap().split('>').next().unwrap();
        let reply = format!("From: Other <other@elsewhere.example>\r\nSubject: unsubscribe {token}\r\n\r\n");
        let first = instance.command(&["inbound", "deliver", "--json"]).stdin(reply.clone()).run().exits(0).json();
        assert_eq!((first["kind"].as_str(), first["changed"].as_bool()), (Some("unsubscribe"), Some(true)));
        assert_eq!(standing(&instance, "letter"), "unsubscribed");
        let again = instance.command(&["inbound", "deliver", "--json"]).stdin(reply).run().exits(0).json();
        assert_eq!(again["changed"].as_bool(), Some(false));
        assert_eq!(instance.optin(&["report", "hello", "--json"]).exits(0).json()["unsubscribed"], 1);
        let forged = instance.command(&["inbound", "deliver", "--json"]).stdin("Subject: unsubscribe abc\r\n\r\n").run().exits(1).json();
        assert_eq!(forged["kind"], "other");
    }
}
