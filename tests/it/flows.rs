//! The engine's own mails: the question of double opt-in for all that was asked for, its one reminder, the welcome,
//! and that what somebody waits for goes first.

use std::collections::BTreeMap;
use std::time::Duration;

use optin::args;
use serde_json::Value;

use crate::support::process::Running;
use crate::support::smtp::{Received, Script, Sink};
use crate::support::{self, Instance, TestDatabase, http, on_each_database, wait_until};

const FILES: &[(&str, &str)] = &[
    (
        "topics.toml",
        "[letter]\nname = \"Letter\"\nopt_in = \"double\"\nwelcome = \"hello\"\ncoupons = \"spring\"\n[letter.zh-Hant]\nname = \"茶信\"\n\n\
         [offers]\nname = \"Offers\"\nopt_in = \"double\"\n",
    ),
    ("messages/hello.toml", "subject = \"Welcome to {{ data.topic }}\"\nbody = \"hello.md\"\n"),
    ("messages/hello.md", "Thank you. {% if data.coupon %}Your code is **{{ data.coupon }}**.{% endif %}\n"),
];

pub fn shop(database: &TestDatabase, sink: &Sink) -> Instance {
    support::instance(database, FILES).with_smtp(sink)
}

pub fn serve(shop: &Instance, clock: &str) -> Running {
    let mut serving = shop.command(&["serve"]).clock(clock).spawn();
    serving.wait_for_line("optin is ready", 30);
    serving
}

pub fn stop(serving: Running) {
    serving.signal("TERM");
    assert_eq!(serving.wait(30).0, 0);
}

pub fn import(shop: &Instance, rows: &str, topics: &[&str], consent: &str, clock: &str) {
    shop.write("../people.csv", format!("email,locale\n{rows}"));
    let mut args = vec!["import", "contacts", "people.csv", "--consent", consent, "--source", "fair"];
    topics.iter().for_each(|topic| args.extend(["--topic", topic]));
    shop.command(&args).clock(clock).run().exits(0);
}

pub fn link(mail: &Received, part: &str) -> String {
    let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
    let text = parsed.body_text(0).unwrap().into_owned();
    text.split([' ', '\n', '\r', '(', ')', '<', '>', '：'])
        .find(|word| word.contains(part))
        .unwrap_or_else(|| panic!("no {part} in {text}"))
        .to_owned()
}

pub fn subject(mail: &Received) -> String {
    mail_parser::MessageParser::default().parse(&mail.data).unwrap().subject().unwrap().to_owned()
}

fn standing(shop: &Instance, email: &str, topic: &str) -> Value {
    let shown = shop.optin(&["contact", "show", email, "--json"]).exits(0).json();
    let topics = shown["topics"].as_array().unwrap().clone();
    topics.iter().find(|entry| entry["topic"] == topic).map_or(Value::Null, |entry| entry["standing"].clone())
}

const MORNING: &str = "2026-03-02T08:00:00Z";

on_each_database! {
    async fn one_mail_asks_for_all_topics_and_the_welcome_comes_once(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        shop.write("../codes.txt", "SPRING-1\nSPRING-2\n\nSPRING-1\n");
        let imported = shop.optin(&["coupon", "import", "spring", "codes.txt", "--json"]).exits(0).json();
        assert_eq!(imported["added"], 2, "{imported}");
        import(&shop, "mei@tea.example,zh_TW\n", &["letter", "offers"], "pending", MORNING);
        let serving = serve(&shop, MORNING);
        let question = sink.wait_for(1, 20).remove(0);
        assert_eq!(subject(&question), "請確認您的訂閱");
        let text = question.text();
        assert!(text.contains("Auto-Submitted: auto-generated") && !text.contains("List-Unsubscribe"), "{text}");
        let page = link(&question, "/s/");
        // A scanner follows it twice: nothing is confirmed, nothing is spent.
        assert_eq!((http::get(&page).status, http::head(&page).status), (200, 200));
        assert!(http::get(&page).text().contains("Offers"));
        assert_eq!(standing(&shop, "mei@tea.example", "letter"), "pending");
        assert_eq!(http::post(&page, "application/x-www-form-urlencoded", b"confirm=1").status, 200);
        assert_eq!(standing(&shop, "mei@tea.example", "letter"), "subscribed");
        assert_eq!(standing(&shop, "mei@tea.example", "offers"), "subscribed");
        let welcome = sink.wait_for(2, 20).remove(1);
        assert_eq!(subject(&welcome), "Welcome to 茶信");
        let text = welcome.text();
        assert!(text.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click") && text.contains("letter."), "{text}");
        let parsed = mail_parser::MessageParser::default().parse(&welcome.data).unwrap();
        let (body, html) = (parsed.body_text(0).unwrap().into_owned(), parsed.body_html(0).unwrap().into_owned());
        assert!(body.contains("SPRING-1"), "{body}");
        assert!(html.contains("取消訂閱") && html.contains("/u/"), "{html}");
        let shown = shop.optin(&["contact", "show", "mei@tea.example", "--json"]).exits(0).json();
        assert_eq!(shown["coupons"][0]["code"], "SPRING-1", "{shown}");
        assert_eq!(shop.optin(&["coupon", "list", "--json"]).exits(0).json()["pools"][0]["left"], 1);
        shop.optin(&["coupon", "list", "--low", "2"]).exits(1);

        // Leaving by the welcome's own link, and coming back: no second one.
        let leave = link(&welcome, "/u/");
        assert_eq!(http::post(&leave, "application/x-www-form-urlencoded", b"List-Unsubscribe=One-Click").status, 200);
        assert_eq!(standing(&shop, "mei@tea.example", "letter"), "unsubscribed");
        let db = database.open().await;
        let mut tx = db.begin().await.unwrap();
        let person: i64 = tx.fetch_one("SELECT id FROM contact WHERE email = 'mei@tea.example'", args![]).await.unwrap().get(0).unwrap();
        let topic: i64 = tx.fetch_one("SELECT id FROM topic WHERE name = 'letter'", args![]).await.unwrap().get(0).unwrap();
        let now = optin::clock::Time::parse("2026-03-02T09:00:00Z").unwrap();
        let event = optin::consent::NewEvent::new(person, topic, optin::consent::Action::Confirmed, "test");
        optin::consent::ledger::append(&mut tx, &[event], now).await.unwrap();
        tx.commit().await.unwrap();
        std::thread::sleep(Duration::from_secs(2));
        stop(serving);
        assert_eq!(sink.received().len(), 2, "welcomed once for good");
        shop.optin(&["consent", "verify", "--json"]).exits(0);
    }
}

on_each_database! {
    async fn one_reminder_to_whoever_has_not_answered_and_never_a_second(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        import(&shop, "mei@tea.example,en\nlin@tea.example,zh_CN\n", &["offers"], "pending", MORNING);
        let serving = serve(&shop, MORNING);
        let mails = sink.wait_for(2, 20);
        assert!(mails.iter().any(|mail| subject(mail) == "请确认订阅：Offers"));
        shop.command(&["consent", "withdraw", "lin@tea.example", "--topic", "offers", "--source", "phone"]).clock(MORNING).run().exits(0);
        // The outcome of the delivery says when it was sent, and so when to remind.
        let db = database.open().await;
        let mut left = 100;
        while db.fetch_all("SELECT contact_id FROM confirmation WHERE sent_at IS NOT NULL AND remind_at IS NOT NULL", args![]).await.unwrap().len() < 2 {
            left -= 1;
            assert!(left > 0, "the outcomes are taken over");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop(serving);
        let serving = serve(&shop, "2026-03-04T07:00:00Z");
        std::thread::sleep(Duration::from_secs(1));
        stop(serving);
        assert_eq!(sink.received().len(), 2, "48 hours are not over");
        let serving = serve(&shop, "2026-03-04T09:00:00Z");
        let mails = sink.wait_for(3, 20);
        assert_eq!((subject(&mails[2]).as_str(), mails[2].to[0].as_str()), ("Do you still want “Offers”?", "mei@tea.example"));
        stop(serving);
        let serving = serve(&shop, "2026-03-20T09:00:00Z");
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(sink.received().len(), 3, "one reminder, and none for whoever withdrew");
        // The reminder's own link is over by then; that of the right time confirms.
        assert_eq!(http::get(&link(&mails[2], "/s/")).status, 410);
        stop(serving);
        let serving = serve(&shop, "2026-03-05T09:00:00Z");
        http::post(&link(&mails[2], "/s/"), "application/x-www-form-urlencoded", b"confirm=1");
        assert_eq!(standing(&shop, "mei@tea.example", "offers"), "subscribed");
        stop(serving);
    }
}

on_each_database! {
    async fn a_list_of_requests_lets_a_receipt_go_first(database) {
        let sink = Sink::with(Script { reply_delay: Duration::from_millis(15), ..Script::default() });
        let shop = shop(&database, &sink);
        let rows: String = (0..700).map(|n| format!("p{n}@tea.example,en\n")).collect();
        import(&shop, &rows, &["offers"], "pending", MORNING);
        let serving = serve(&shop, MORNING);
        sink.wait_for(30, 30);
        let args = ["message", "send", "--to", "mei@tea.example", "--template", "hello", "--data", "{\"topic\": \"tea\"}", "--json"];
        shop.command(&args).clock(MORNING).run().exits(0);
        let before = wait_until("the receipt", 20, || {
            let mails = sink.received();
            mails.iter().position(|mail| mail.to[0] == "mei@tea.example")
        });
        assert!(before < 600, "{before} mails went before it");
        let mails = sink.wait_for(701, 120);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        mails.iter().for_each(|mail| *counts.entry(mail.to[0].clone()).or_default() += 1);
        assert!(counts.len() == 701 && counts.values().all(|count| *count == 1));
        stop(serving);
    }
}

on_each_database! {
    async fn a_worker_that_is_killed_asks_nobody_twice(database) {
        let sink = Sink::with(Script { reply_delay: Duration::from_millis(10), ..Script::default() });
        let shop = shop(&database, &sink);
        let rows: String = (0..120).map(|n| format!("p{n}@tea.example,en\n")).collect();
        import(&shop, &rows, &["offers"], "pending", MORNING);
        for seen in [20, 60] {
            let serving = serve(&shop, MORNING);
            sink.wait_for(seen, 30);
            serving.signal("KILL");
            serving.wait(10);
        }
        let serving = serve(&shop, MORNING);
        let db = database.open().await;
        let count = async |state: &str| -> i64 {
            let sql = "SELECT COUNT(*) FROM message m JOIN delivery d ON d.id = m.delivery_id WHERE d.state = $1";
            db.fetch_one(sql, args![state]).await.unwrap().get(0).unwrap()
        };
        let mut left = 600;
        while count("sent").await + count("in_doubt").await < 120 {
            left -= 1;
            assert!(left > 0, "all are settled");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop(serving);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        sink.received().iter().for_each(|mail| *counts.entry(mail.to[0].clone()).or_default() += 1);
        assert!(counts.values().all(|count| *count == 1), "nobody twice");
        let doubtful = count("in_doubt").await;
        assert!(counts.len() as i64 + doubtful >= 120, "{} and {doubtful} in doubt", counts.len());
        let sql = "SELECT m.id FROM message m JOIN delivery d ON d.id = m.delivery_id WHERE d.state = 'in_doubt' ORDER BY m.id";
        for row in db.fetch_all(sql, args![]).await.unwrap() {
            let shown = shop.optin(&["message", "show", &row.get::<i64>(0).unwrap().to_string(), "--json"]).exits(0).json();
            assert_eq!((&shown["state"], &shown["kind"]), (&"in_doubt".into(), &"confirmation".into()), "{shown}");
        }
    }
}
