//! Ways out and down: less instead of nothing, reasons, the preference centre, replies, commands; all of it at
//! once, also in a send that is under way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use optin::args;
use optin::db::{Db, Dialect};
use optin::token::{Keys, Purpose};

use crate::support::http::{Response, get, head, post, request};
use crate::support::instance::SECRET;
use crate::support::process::Running;
use crate::support::smtp::{Script, Sink};
use crate::support::{self, Instance, TestDatabase, on_each_database, wait_until};

const OPTIN: &str = r#"[site]
url = "http://127.0.0.1:8080"
[smtp]
connections = 4
[sender]
name = "Tea House"
email = "letters@tea.example"
postal_address = "1 Leaf Street, Taipei"
[attributes]
city = "text"
country = "text"
[consent]
country_attribute = "country"
[consent.tracking_by_country]
FR = "none"
"#;
const TOPICS: &str = r#"[letter]
name = "Tea letter"
description = "Every Tuesday"
[letter.zh-Hant]
name = "茶訊"
[offers]
name = "Offers"
[news]
name = "News"
"#;
const PROFILE: &str = "[first_name]\nlabel = \"First name\"\n[city]\nlabel = \"City\"\n[country]\nlabel = \"Country\"\neditable = false\n";
const FORM: &str = "application/x-www-form-urlencoded";
const BODY: &str = "# Fresh\n\n[Oolong](https://tea.example/oolong) and [green](https://tea.example/green) came in.\n";

pub(crate) fn shop(database: &TestDatabase, sink: &Sink) -> Instance {
    let campaign = "topic = \"letter\"\nsubject = \"Spring\"\nlayout = \"newsletter\"\nbody = \"weekly.md\"\n";
    let files = [
        ("optin.toml", OPTIN),
        ("topics.toml", TOPICS),
        ("profile.toml", PROFILE),
        ("campaigns/weekly.toml", campaign),
        ("campaigns/weekly.md", BODY),
    ];
    support::instance(database, &files).with_smtp(sink)
}

pub(crate) fn serve(shop: &Instance, only: &[&str]) -> Running {
    let mut serving = shop.command(&[&["serve"], only].concat()).spawn();
    serving.wait_for_line("optin is ready", 20);
    serving
}

fn grant(shop: &Instance, email: &str, topic: &str) {
    shop.optin(&["consent", "grant", email, "--topic", topic, "--source", "form 17"]).exits(0);
}

/// The first address in the text part that holds `part`.
pub(crate) fn link(mail: &[u8], part: &str) -> String {
    let mail = mail_parser::MessageParser::default().parse(mail).unwrap();
    let text = mail.body_text(0).unwrap().into_owned();
    let mut words = text.split(['<', '>', ' ', '\n', '\r', '(', ')', '"']);
    words.find(|word| word.contains(part)).unwrap_or_else(|| panic!("no {part} in {text}")).to_owned()
}

fn ok(response: Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("set-cookie"), None);
    response.text()
}

/// Standing, frequency and whether there is an end of a pause, of each topic of a person.
async fn stands(db: &Db, email: &str) -> BTreeMap<String, (String, Option<String>, bool)> {
    let sql = "SELECT t.name, s.standing, s.frequency, s.until FROM subscription s
               JOIN topic t ON t.id = s.topic_id JOIN contact c ON c.id = s.contact_id WHERE c.email_key = $1";
    let rows = db.fetch_all(sql, args![email]).await.unwrap();
    rows.iter()
        .map(|row| {
            let until: Option<i64> = row.get(3).unwrap();
            (row.get(0).unwrap(), (row.get(1).unwrap(), row.get(2).unwrap(), until.is_some()))
        })
        .collect()
}

fn stand(standing: &str, frequency: Option<&str>, until: bool) -> (String, Option<String>, bool) {
    (standing.to_owned(), frequency.map(str::to_owned), until)
}

async fn count(db: &Db, sql: &str) -> i64 {
    db.fetch_one(sql, Vec::new()).await.unwrap().get(0).unwrap()
}

on_each_database! {
    async fn less_is_offered_below_leaving_and_why_is_asked_afterwards(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        grant(&shop, "mei@tea.example", "letter");
        grant(&shop, "mei@tea.example", "offers");
        shop.optin(&["send", "weekly", "--json"]).exits(0);
        let mail = sink.wait_for(1, 20).remove(0);
        let leave = link(&mail.data, "/u/");
        let _serving = serve(&shop, &[]);
        let db = database.open().await;

        let page = ok(get(&leave));
        assert!(page.find("value=\"topic\"").unwrap() < page.find("value=\"weekly\"").unwrap(), "leaving stands first: {page}");
        assert!(!page.contains("name=\"reason\"") && page.contains("name=\"day\""));
        // A reason before a withdrawal is no withdrawal, and is not kept.
        ok(post(&leave, FORM, b"left=topic&reason=too_many"));
        assert_eq!(count(&db, "SELECT COUNT(*) FROM withdrawal_reason").await, 0);

        assert!(ok(post(&leave, FORM, b"often=weekly")).contains("Once a week"));
        assert_eq!(stands(&db, "mei@tea.example").await["letter"], stand("subscribed", Some("weekly"), false));
        assert_eq!(post(&leave, FORM, b"pause=day&day=2001-01-01").status, 422);
        assert_eq!(request("POST", &leave, &[("Sec-Fetch-Site", "cross-site"), ("Content-Type", FORM)], b"pause=14").status, 403);
        assert_eq!(stands(&db, "mei@tea.example").await["letter"], stand("subscribed", Some("weekly"), false));
        assert!(ok(post(&leave, FORM, b"pause=14")).contains("pauses until"));
        assert_eq!(stands(&db, "mei@tea.example").await["letter"], stand("paused", Some("weekly"), true));
        assert_eq!(stands(&db, "mei@tea.example").await["offers"], stand("subscribed", None, false));

        // One click leaves from anywhere, whatever a browser says about it.
        let headers = [("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.example"), ("Content-Type", FORM)];
        assert_eq!(request("POST", &leave, &headers, b"List-Unsubscribe=One-Click").status, 200);
        assert_eq!(stands(&db, "mei@tea.example").await["letter"].0, "unsubscribed");
        assert!(ok(post(&leave, FORM, b"often=monthly")).contains("not subscribed"), "less brings nobody back");

        let done = ok(post(&leave, FORM, b"leave=all"));
        assert!(done.contains("name=\"reason\"") && done.contains("value=\"all\""), "{done}");
        ok(post(&leave, FORM, b"left=topic&reason=never_signed_up&comment=Who%00+are%0Ayou%3F"));
        let row = db.fetch_one("SELECT reason, comment, run_id FROM withdrawal_reason", Vec::new()).await.unwrap();
        let (reason, comment): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
        assert_eq!((reason.as_str(), comment.as_str(), row.get::<Option<i64>>(2).unwrap().is_some()), ("never_signed_up", "Who  are you?", true));
        // Sent again: one answer, and one objection.
        ok(post(&leave, FORM, b"left=topic&reason=never_signed_up"));
        assert_eq!(count(&db, "SELECT COUNT(*) FROM consent_event WHERE action = 'objected' AND detail = 'reason=never_signed_up'").await, 1);
        let report = shop.optin(&["report", "weekly", "--json"]).exits(0).json();
        assert_eq!((&report["unsubscribed"], &report["reasons"]), (&1.into(), &serde_json::json!({ "never_signed_up": 1 })));
        shop.optin(&["consent", "verify", "--json"]).exits(0);
    }
}

/// Fields of the preference form as a browser would send them, with changes.
fn filled(page: &str, changes: &[(&str, &str)]) -> String {
    let form = page.split("class=\"centre\">").nth(1).unwrap().split("</form>").next().unwrap();
    let attribute = |tag: &str, name: &str| Some(tag.split(&format!(" {name}=\"")).nth(1)?.split('"').next()?.to_owned());
    let mut pairs: Vec<(String, String)> = Vec::new();
    for tag in form.split('<').filter(|tag| tag.starts_with("input ")) {
        let tag = tag.split('>').next().unwrap();
        let kind = attribute(tag, "type").unwrap();
        if !matches!(kind.as_str(), "checkbox" | "radio") || tag.ends_with(" checked") {
            pairs.push((attribute(tag, "name").unwrap(), attribute(tag, "value").unwrap()));
        }
    }
    for select in form.split("<select ").skip(1) {
        let name = attribute(&format!(" {select}"), "name").unwrap();
        let chosen = select.split("<option ").find(|option| option.split('>').next().unwrap().ends_with(" selected")).unwrap_or_default();
        pairs.push((name, attribute(&format!(" {chosen}"), "value").unwrap_or_default()));
    }
    for (name, value) in changes {
        let (name, value) = ((*name).to_owned(), (*value).to_owned());
        match name.strip_prefix('-') {
            Some(name) => pairs.retain(|pair| *pair != (name.to_owned(), value.clone())),
            None if name == "topic" => pairs.push((name, value)),
            None => {
                pairs.retain(|pair| pair.0 != name);
                pairs.push((name, value));
            }
        }
    }
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

async fn topic_id(db: &Db, name: &str) -> String {
    db.fetch_one("SELECT id FROM topic WHERE name = $1", args![name]).await.unwrap().get::<i64>(0).unwrap().to_string()
}

on_each_database! {
    async fn the_preference_centre_saves_what_was_touched_and_says_what(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        for topic in ["letter", "offers"] {
            grant(&shop, "mei@tea.example", topic);
        }
        shop.optin(&["send", "weekly", "--json"]).exits(0);
        let centre = link(&sink.wait_for(1, 20)[0].data, "/p/");
        let _serving = serve(&shop, &[]);
        let db = database.open().await;
        let page = ok(get(&centre));
        for part in ["Tea letter", "Offers", "News", "m***@tea.example", "holds for everybody", "/data\"", "Send me the link"] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("mei@tea.example"));
        let events = count(&db, "SELECT COUNT(*) FROM consent_event").await;
        assert!(ok(post(&centre, FORM, filled(&page, &[]).as_bytes())).contains("Nothing had to be changed"));
        assert_eq!(count(&db, "SELECT COUNT(*) FROM consent_event").await, events);

        let (letter, offers, news) = (topic_id(&db, "letter").await, topic_id(&db, "offers").await, topic_id(&db, "news").await);
        let often = format!("often.{letter}");
        let changes =
            [(often.as_str(), "monthly"), ("topic", &news), ("-topic", &offers), ("language", "zh-Hant"), ("tracking", "none"), ("profiling", "refused")];
        let saved = ok(post(&centre, FORM, filled(&page, &changes).as_bytes()));
        for part in ["<html lang=\"zh-Hant\">", "已儲存", "「茶訊」：每月一封", "不再收到「Offers」", "「News」", "完全不記錄", "不再對您進行分析"] {
            assert!(saved.contains(part), "{part} in {saved}");
        }
        let now = stands(&db, "mei@tea.example").await;
        assert_eq!((&now["letter"], &now["offers"].0, &now["news"].0), (&stand("subscribed", Some("monthly"), false), &"unsubscribed".into(), &"pending".into()));
        let choice = db.fetch_one("SELECT tracking, profiling FROM consent_choice", Vec::new()).await.unwrap();
        assert_eq!((choice.get::<String>(0).unwrap().as_str(), choice.get::<String>(1).unwrap().as_str()), ("none", "refused"));
        let locale: String = db.fetch_one("SELECT locale FROM contact", Vec::new()).await.unwrap().get(0).unwrap();
        assert_eq!(locale, "zh-Hant");

        // A day that is none: nothing is saved, and what was chosen stands there still.
        let english = format!("{centre}?lang=en");
        let page = ok(get(&english));
        let pause = format!("pause.{letter}");
        let wrong = post(&english, FORM, filled(&page, &[(&pause, "day"), (&often, "daily")]).as_bytes());
        assert_eq!(wrong.status, 422);
        assert!(wrong.text().contains("day after today") && wrong.text().contains("value=\"daily\" selected"), "{}", wrong.text());
        assert_eq!(stands(&db, "mei@tea.example").await["letter"], stand("subscribed", Some("monthly"), false));
        ok(post(&english, FORM, filled(&wrong.text(), &[("day", "2027-11-30")]).as_bytes()));
        assert_eq!(stands(&db, "mei@tea.example").await["letter"], stand("paused", Some("daily"), true));

        // A form from another website, and an old page: neither undoes what was chosen since.
        let headers = [("Origin", "https://evil.example"), ("Content-Type", FORM)];
        assert_eq!(request("POST", &centre, &headers, b"leave=all").status, 403);
        ok(post(&english, FORM, filled(&page, &[]).as_bytes()));
        assert_eq!(stands(&db, "mei@tea.example").await["letter"], stand("paused", Some("daily"), true));
        let page = ok(get(&english));
        ok(post(&english, FORM, filled(&page, &[(&pause, "none"), (&often, "every")]).as_bytes()));
        assert_eq!(stands(&db, "mei@tea.example").await["letter"], stand("subscribed", None, false));
        assert!(ok(post(&english, FORM, b"leave=all")).contains("no longer receive any"));
        shop.optin(&["consent", "verify", "--json"]).exits(0);
    }
}

on_each_database! {
    async fn a_forwarded_link_shows_no_profile_and_allows_nothing_more(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        shop.write("../people.csv", "email,first_name,city,country\nmei@tea.example,Měi-Secret,Tainan,FR\n");
        let import = ["import", "contacts", "people.csv", "--topic", "letter", "--consent", "confirmed", "--source", "fair", "--json"];
        shop.optin(&import).exits(0);
        shop.optin(&["send", "weekly", "--json"]).exits(0);
        let centre = link(&sink.wait_for(1, 20)[0].data, "/p/");
        let _serving = serve(&shop, &[]);
        let db = database.open().await;
        let page = ok(get(&centre));
        assert!(!page.contains("Secret") && !page.contains("Tainan"), "{page}");
        assert!(page.contains("people in FR"), "{page}");
        // Fields sent anyway change nothing; being tracked needs the owner of the address.
        let more = ok(post(&centre, FORM, filled(&page, &[("profile", "1"), ("f.city", "Paris"), ("tracking", "full")]).as_bytes()));
        assert!(more.contains("just mailed to"), "{more}");
        assert_eq!(count(&db, "SELECT COUNT(*) FROM contact WHERE t_city = 'Tainan'").await, 1);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM consent_choice WHERE tracking IS NOT NULL").await, 0);
        ok(post(&centre, FORM, b"action=profile"));
        let mails = sink.wait_for(2, 20);
        assert_eq!(mails[1].to, ["mei@tea.example"]);
        let fresh = link(&mails[1].data, "/p/");
        let page = ok(get(&fresh));
        assert!(page.contains("Měi-Secret") && page.contains("Tainan") && !page.contains("name=\"f.country\""), "{page}");
        let saved = ok(post(&fresh, FORM, filled(&page, &[("f.city", "Taipei"), ("f.first_name", ""), ("tracking", "full")]).as_bytes()));
        assert!(saved.contains("profile is saved") && saved.contains("Recorded with me"), "{saved}");
        assert_eq!(count(&db, "SELECT COUNT(*) FROM contact WHERE t_city = 'Taipei' AND first_name IS NULL").await, 1);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM consent_choice WHERE tracking = 'full'").await, 1);
        // After its day the link is as good as any.
        let contact: i64 = count(&db, "SELECT id FROM contact").await;
        let late = shop.url(&format!("/p/{}", Keys::new(SECRET, &[]).sign(Purpose::Profile, &[contact, 1])));
        let page = ok(get(&late));
        assert!(page.contains("has expired") && !page.contains("Taipei\""), "{page}");
        assert_eq!(sink.received().len(), 2, "one link an hour");
    }
}

fn deliver(shop: &Instance, mail: &str) -> (Option<String>, bool) {
    let output = shop.command(&["inbound", "deliver", "--json"]).stdin(mail).run();
    let answer = output.json();
    (answer["kind"].as_str().map(str::to_owned), answer["changed"].as_bool().unwrap())
}

on_each_database! {
    async fn a_reply_that_says_so_leaves_and_nobody_elses_does(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        for (email, topic) in [("mei@tea.example", "letter"), ("joe@tea.example", "letter"), ("mei@tea.example", "offers")] {
            grant(&shop, email, topic);
        }
        shop.optin(&["send", "weekly", "--json"]).exits(0);
        let mails = sink.wait_for(2, 20);
        let of = |email: &str| mails.iter().find(|mail| mail.to == [email]).unwrap();
        let id = |email: &str| of(email).text().split("Message-ID: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
        let db = database.open().await;
        let reply = |from: &str, id: &str, more: &str, body: &str| {
            format!("From: {from}\r\nSubject: Re: Spring\r\nIn-Reply-To: {id}\r\n{more}Content-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n")
        };
        let other = (Some("other".to_owned()), false);
        // Somebody else's address, a guess, a robot, a question.
        for mail in [
            reply("eve@evil.example", &id("mei@tea.example"), "", "unsubscribe"),
            reply("mei@tea.example", &id("joe@tea.example"), "", "unsubscribe"),
            reply("mei@tea.example", &id("mei@tea.example"), "Auto-Submitted: auto-replied\r\n", "unsubscribe"),
            reply("mei@tea.example", &id("mei@tea.example"), "", "> unsubscribe\r\nWhat is this?"),
            "From: mei@tea.example\r\nSubject: unsubscribe\r\n\r\n".to_owned(),
        ] {
            assert_eq!(deliver(&shop, &mail), other, "{mail}");
        }
        assert_eq!(stands(&db, "mei@tea.example").await["letter"].0, "subscribed");
        let left = (Some("unsubscribe".to_owned()), true);
        assert_eq!(deliver(&shop, &reply("Mei <MEI@tea.example>", &id("mei@tea.example"), "", "取消訂閱\r\n\r\n> Fresh")), left);
        let now = stands(&db, "mei@tea.example").await;
        assert_eq!((now["letter"].0.as_str(), now["offers"].0.as_str()), ("unsubscribed", "subscribed"));
        // From another address, but with the signed link of the mail quoted below.
        let quoted = format!("Unsubscribe all.\r\n\r\n> {}", link(&of("mei@tea.example").data, "/u/"));
        assert_eq!(deliver(&shop, &reply("mei@office.example", "<x@office.example>", "", &quoted)), left);
        assert_eq!(stands(&db, "mei@tea.example").await["offers"].0, "unsubscribed");
        assert_eq!(stands(&db, "joe@tea.example").await["letter"].0, "subscribed");
        assert_eq!(shop.optin(&["report", "weekly", "--json"]).exits(0).json()["unsubscribed"], 1);
    }
}

on_each_database! {
    async fn operators_write_choices_down(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        grant(&shop, "mei@tea.example", "letter");
        let db = database.open().await;
        let run = |args: &[&str]| {
            let args = [&["consent"], args, &["--source", "by telephone", "--json"]].concat();
            shop.optin(&args).exits(0).json()["changed"].as_bool().unwrap()
        };
        assert!(run(&["pause", "mei@tea.example", "--topic", "letter", "--until", "2099-01-01"]));
        assert!(!run(&["pause", "mei@tea.example", "--topic", "letter", "--until", "2099-01-01"]));
        assert_eq!(stands(&db, "mei@tea.example").await["letter"], stand("paused", None, true));
        assert!(run(&["resume", "mei@tea.example"]));
        assert!(run(&["frequency", "mei@tea.example", "weekly"]));
        assert_eq!(stands(&db, "mei@tea.example").await["letter"], stand("subscribed", Some("weekly"), false));
        assert!(run(&["tracking", "mei@tea.example", "none"]) && run(&["tracking", "mei@tea.example", "default"]));
        assert!(run(&["profiling", "mei@tea.example", "refused"]) && !run(&["profiling", "mei@tea.example", "refused"]));
        shop.optin(&["consent", "pause", "mei@tea.example", "--until", "2001-01-01", "--source", "x"]).exits(2);
        shop.optin(&["consent", "pause", "nobody@tea.example", "--source", "x"]).exits(1);
        shop.optin(&["consent", "verify", "--json"]).exits(0);
    }
}

/// Every row of every table but hits with what is added up of them, and what workers write to stay alive, as text.
pub(crate) async fn everything(db: &Db) -> Vec<String> {
    let tables = match db.dialect() {
        Dialect::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name",
        Dialect::Postgres => {
            "SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY table_name"
        }
    };
    let mut out = Vec::new();
    for table in db.fetch_all(tables, Vec::new()).await.unwrap() {
        let table: String = table.get(0).unwrap();
        let of_hits = ["hit", "hit_log", "hit_total", "run_total", "agent", "domain_hits", "network_touch", "engagement_due"];
        if of_hits.contains(&table.as_str()) || matches!(table.as_str(), "worker" | "lease") || table.starts_with("sqlite_") {
            continue;
        }
        let sql = match db.dialect() {
            Dialect::Postgres => format!("SELECT CAST(t AS TEXT) FROM {table} t ORDER BY 1"),
            Dialect::Sqlite => {
                let columns =
                    db.fetch_all(&format!("SELECT 'quote(' || name || ')' FROM pragma_table_info('{table}')"), Vec::new()).await.unwrap();
                let columns: Vec<String> = columns.iter().map(|row| row.get(0).unwrap()).collect();
                format!("SELECT {} FROM {table} ORDER BY 1", columns.join(" || ',' || "))
            }
        };
        for row in db.fetch_all(&sql, Vec::new()).await.unwrap() {
            out.push(format!("{table}: {}", row.get::<String>(0).unwrap()));
        }
    }
    out
}

on_each_database! {
    async fn a_scanner_that_follows_every_link_twice_changes_nothing(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        for topic in ["letter", "offers", "news"] {
            grant(&shop, "mei@tea.example", topic);
        }
        shop.optin(&["send", "weekly", "--json"]).exits(0);
        let mail = sink.wait_for(1, 20).remove(0);
        // Without a worker, which has work of its own to write down.
        let _serving = serve(&shop, &["--only", "web"]);
        let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
        let headers = ["List-Unsubscribe", "List-Help"].map(|name| parsed.header_raw(name).unwrap().to_owned()).join(" ");
        let all = [headers, parsed.body_text(0).unwrap().into_owned(), parsed.body_html(0).unwrap().into_owned()].join("\n").replace("&#x2f;", "/");
        let mut links: Vec<&str> = all.split(['"', '<', '>', ' ', '\n', '\r', '(', ')']).filter(|word| word.starts_with("http://127.0.0.1")).collect();
        links.sort_unstable();
        links.dedup();
        for letter in ["/u/", "/p/", "/v/", "/c/", "/o/"] {
            assert!(links.iter().any(|link| link.contains(letter)), "{letter} in {links:?}");
        }
        let db = database.open().await;
        let before = everything(&db).await;
        assert!(before.iter().any(|row| row.starts_with("subscription: ")));
        for _ in 0..2 {
            for link in &links {
                for response in [get(link), head(link), get(&format!("{link}?lang=zh-Hans"))] {
                    assert!(response.status < 400 || link.contains("/c/") || link.contains("/o/"), "{link}: {}", response.status);
                }
            }
        }
        let after = everything(&db).await;
        let changed: Vec<&String> = after.iter().filter(|row| !before.contains(row)).collect();
        assert!(changed.is_empty() && after.len() == before.len(), "{changed:#?}");
    }
}

/// People of the send below: 2,000, or as many as `OPTIN_TEST_RECIPIENTS` says (100,000 for the figures of a
/// release).
fn recipients() -> usize {
    #[expect(clippy::disallowed_methods, reason = "a rehearsal in full size is asked for by hand")]
    let asked = std::env::var("OPTIN_TEST_RECIPIENTS").ok();
    asked.map_or(2_000, |text| text.parse().unwrap())
}

on_each_database! {
    async fn whoever_chose_during_a_send_is_not_mailed_after_it(database) {
        let recipients = recipients();
        let choosers = (recipients / 5).min(2_000);
        // A few people are mailed slowly, so that there is a send to meet.
        let reply_delay = if recipients > 10_000 { Duration::ZERO } else { Duration::from_millis(4) };
        let sink = Sink::with(Script { reply_delay, ..Script::default() });
        let shop = shop(&database, &sink);
        let lines: String = (0..recipients).map(|i| format!("p{i}@customer.example\n")).collect();
        shop.write("../people.csv", format!("email\n{lines}"));
        let import = ["import", "contacts", "people.csv", "--topic", "letter", "--consent", "confirmed", "--source", "fair", "--json"];
        shop.optin(&import).exits(0);
        let db = database.open().await;
        let keys = Keys::new(SECRET, &[]);
        let letter: i64 = topic_id(&db, "letter").await.parse().unwrap();
        let every = (recipients / choosers) as i64;
        let rows = db.fetch_all("SELECT id, email FROM contact ORDER BY id DESC", Vec::new()).await.unwrap();
        let people: Vec<(i64, String)> = rows.iter().step_by(every as usize).map(|row| (row.get(0).unwrap(), row.get(1).unwrap())).collect();
        let _serving = serve(&shop, &["--only", "web"]);
        let started = Instant::now();
        let sending = shop.command(&["send", "weekly", "--json", "--wait", "600"]).spawn();
        wait_until("the send is under way", 60, || (sink.received().len() > 20).then_some(()));
        // From the end of the queue and from its middle, so that they meet the send.
        let half = people.len() / 2;
        let mut committed: BTreeMap<String, Instant> = BTreeMap::new();
        for (index, (contact, email)) in people[half..].iter().rev().zip(people.iter()).flat_map(|(one, other)| [one, other]).enumerate() {
            let token = keys.sign(Purpose::UnsubscribeBody, &[*contact, letter, 0]);
            let body: &[u8] = [b"List-Unsubscribe=One-Click".as_slice(), b"pause=30", b"often=weekly"][index % 3];
            assert_eq!(post(&shop.url(&format!("/u/{token}")), FORM, body).status, 200);
            committed.insert(email.clone(), Instant::now());
            // In full size the choices keep step with the send, so that they meet it all along.
            if recipients > 10_000 {
                std::thread::sleep(Duration::from_millis(45));
            }
        }
        let chose_until = started.elapsed();
        let (code, output) = sending.wait(600);
        assert_eq!(code, 0, "{output:#?}");
        let took = started.elapsed();
        let received = sink.received();
        let mut late: Vec<(Duration, &str)> = Vec::new();
        let mut mailed = 0;
        for mail in &received {
            if let Some(at) = committed.get(&mail.to[0]) {
                mailed += 1;
                late.push((mail.at.saturating_duration_since(*at), &mail.to[0]));
            }
        }
        let latest = late.iter().map(|(after, _)| *after).max().unwrap_or_default();
        let report = shop.optin(&["report", "weekly", "--json"]).exits(0).json();
        let skipped: i64 = report["skipped"].as_object().unwrap().values().map(|count| count.as_i64().unwrap()).sum();
        crate::support::say(format!(
            "{}: {recipients} recipients in {took:?}, {} chose until {chose_until:?}; {mailed} of them had been mailed before, {skipped} were skipped {}; latest mail after a choice: {latest:?}",
            database.name, committed.len(), report["skipped"]
        ));
        // What was handed over before the choice may still be on its way for as long as one mail takes.
        assert!(latest < Duration::from_millis(500), "mailed {latest:?} after the choice: {late:?}");
        assert_eq!(mailed + skipped as usize, committed.len());
        assert_eq!((received.len() + skipped as usize, report["audience"].as_u64().unwrap() as usize), (recipients, recipients));
        assert!(skipped > 0, "nobody met the send: {report}");
    }
}
