//! What this part promises, shown on the program as it runs: one-click as RFC 8058 has it, whatever became of the
//! mail's campaign, topic, secret and person; and scanners that follow every link of every kind of mail.

use std::collections::BTreeMap;
use std::time::Duration;

use optin::args;
use optin::db::Db;

use crate::flows::{import, stop, subject};
use crate::prefs::everything;
use crate::support::http::{Response, get, head, post, request};
use crate::support::process::Running;
use crate::support::smtp::{Received, Sink};
use crate::support::{self, Instance, on_each_database, wait_until};

const FORM: &str = "application/x-www-form-urlencoded";
const ONE_CLICK: &[u8] = b"List-Unsubscribe=One-Click";
/// RFC 8058 8.3 as printed: its delimiters lack two hyphens, so that a strict parser finds no part.
const PRINTED: &[u8] =
    b"---FormBoundaryjWmhtjORrn\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n---FormBoundaryjWmhtjORrn--";
const PROPER: &[u8] = b"------FormBoundaryjWmhtjORrn\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n------FormBoundaryjWmhtjORrn--\r\n";
const LETTER: &str = "[letter]\nname = \"Tea letter\"\n";
const OFFERS: &str = "[offers]\nname = \"Offers\"\n";

/// A way in which a mail provider may post: headers and body.
type Way = (&'static str, Vec<(&'static str, String)>, &'static [u8]);

fn ways() -> Vec<Way> {
    let kind = |text: &str| ("Content-Type", text.to_owned());
    let agent = |text: &str| ("User-Agent", text.to_owned());
    vec![
        ("form, no agent", vec![kind(FORM)], ONE_CLICK),
        ("form, empty agent", vec![kind(FORM), agent("")], ONE_CLICK),
        ("multipart", vec![kind("multipart/form-data; boundary=----FormBoundaryjWmhtjORrn"), agent("Mozilla/5.0")], PROPER),
        ("RFC 8058 8.3", vec![kind("multipart/form-data; boundary=---FormBoundaryjWmhtjORrn")], PRINTED),
        ("no content type", vec![agent("curl/8.5.0")], ONE_CLICK),
        ("an agent of 4 KB", vec![kind(FORM), agent(&"x".repeat(4_096))], ONE_CLICK),
        ("an agent that is no ASCII", vec![kind(FORM), agent("茶/1.0 \u{0}".trim_end_matches('\u{0}'))], ONE_CLICK),
        (
            "a browser of another site",
            vec![kind(FORM), ("Origin", "https://mail.example".into()), ("Sec-Fetch-Site", "cross-site".into()), ("Cookie", "a=b".into())],
            ONE_CLICK,
        ),
    ]
}

fn web(shop: &Instance, more: &[(&str, &str)]) -> Running {
    let call = more.iter().fold(shop.command(&["serve", "--only", "web"]), |call, (name, value)| call.env(name, value));
    let mut serving = call.spawn();
    serving.wait_for_line("optin is ready", 20);
    serving
}

/// The one HTTPS address of `List-Unsubscribe`, in a mail whose two fields are as RFC 8058 3.1 wants them.
fn header_link(mail: &Received) -> String {
    let text = mail.text().replace("\r\n ", " ").replace("\r\n\t", " ");
    let head = text.split("\r\n\r\n").next().unwrap();
    let fields = |name: &str| head.lines().filter(|line| line.to_ascii_lowercase().starts_with(name)).collect::<Vec<_>>();
    assert_eq!(fields("list-unsubscribe-post:"), ["List-Unsubscribe-Post: List-Unsubscribe=One-Click"]);
    let [field] = fields("list-unsubscribe:")[..] else { panic!("one field: {head}") };
    let links: Vec<&str> = field.split(['<', '>']).filter(|part| part.starts_with("http")).collect();
    assert_eq!(links.len(), 1, "{field}");
    links[0].to_owned()
}

/// What a mail provider must get: 2xx from the address itself, and nothing about anybody.
fn conforms(what: &str, response: &Response) {
    assert!((200..300).contains(&response.status), "{what}: {} {}", response.status, response.text());
    for name in ["location", "set-cookie", "www-authenticate", "refresh"] {
        assert_eq!(response.header(name), None, "{what}");
    }
    let text = response.text();
    assert!(text.len() < 200 && !text.contains('@') && !text.contains("Meiuniq") && !text.contains("Tea letter"), "{what}: {text}");
}

/// Entries of a person in the ledger as (topic, action, time), in order.
async fn ledger(db: &Db, email: &str) -> Vec<(String, String, i64)> {
    let sql = "SELECT COALESCE(t.name, '*'), e.action, e.at FROM consent_event e LEFT JOIN topic t ON t.id = e.topic_id
               JOIN contact c ON c.id = e.contact_id WHERE c.email_key = $1 ORDER BY e.seq";
    let rows = db.fetch_all(sql, args![email]).await.unwrap();
    rows.iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap())).collect()
}

on_each_database! {
    async fn one_click_works_in_every_form_whatever_became_of_the_mail(database) {
        let sink = Sink::start();
        let files = [
            ("topics.toml", [LETTER, OFFERS].concat()),
            ("campaigns/weekly.toml", "topic = \"letter\"\nsubject = \"Spring\"\nbody = \"weekly.md\"\n".to_owned()),
            ("campaigns/weekly.md", "Dear {{ contact.first_name }}, oolong.\n".to_owned()),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let shop = support::instance(&database, &files).with_smtp(&sink);
        let ways = ways();
        assert_eq!((ONE_CLICK.len(), PRINTED.len()), (26, 124));
        let lives = ["fresh", "campaign and topic gone", "secret changed", "400 days old, and all of that", "erased"];
        let people = lives.len() * ways.len();
        let lines: String = (0..people).map(|n| format!("p{n}@tea.example,Meiuniq\n")).collect();
        shop.write("../people.csv", format!("email,first_name\n{lines}"));
        let topics = ["--topic", "letter", "--topic", "offers"];
        shop.optin(&[&["import", "contacts", "people.csv", "--consent", "confirmed", "--source", "fair"], &topics[..]].concat()).exits(0);
        shop.optin(&["send", "weekly", "--json"]).exits(0);
        let links: BTreeMap<String, String> = sink.wait_for(people, 30).iter().map(|mail| (mail.to[0].clone(), header_link(mail))).collect();
        let db = database.open().await;
        let (mut posts, mut silent) = (0, String::new());
        for (life, name) in lives.iter().enumerate() {
            if life == 1 {
                std::fs::remove_file(shop.dir().join("campaigns/weekly.toml")).unwrap();
                shop.write("topics.toml", OFFERS);
            }
            let rotated = [("OPTIN_SECRET", "another-secret-for-tests-0123456789ab")];
            if life == 2 {
                let text = std::fs::read_to_string(shop.dir().join("optin.toml")).unwrap();
                shop.write("optin.toml", format!("retired_secrets = [\"{}\"]\n{text}", support::instance::SECRET));
            }
            let later = [rotated[0], ("OPTIN_CLOCK", "2029-01-05T09:00:00Z")];
            let environment: &[(&str, &str)] = match life { 0 | 1 => &[], 2 => &rotated, _ => &later };
            let serving = web(&shop, environment);
            for (at, (way, headers, body)) in ways.iter().enumerate() {
                let what = format!("{name}, {way}");
                let email = format!("p{}@tea.example", life * ways.len() + at);
                let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let link = &links[&email];
                if *name == "erased" {
                    shop.command(&["contact", "erase", &email, "--yes", "--source", "letter"]).env("OPTIN_SECRET", rotated[0].1).run().exits(0);
                    let before = everything(&db).await;
                    for _ in 0..2 {
                        let response = request("POST", link, &headers, body);
                        conforms(&what, &response);
                        assert_eq!(response.text(), silent, "{what}: who was erased is told from nobody");
                    }
                    assert!(before == everything(&db).await, "{what}: something was written about nobody");
                    posts += 2;
                    continue;
                }
                let before = ledger(&db, &email).await;
                let first = request("POST", link, &headers, body);
                conforms(&what, &first);
                let after = ledger(&db, &email).await;
                assert_eq!(after.len(), before.len() + 1, "{what}: {after:?}");
                assert_eq!((after.last().unwrap().0.as_str(), after.last().unwrap().1.as_str()), ("letter", "withdrawn"), "{what}");
                // Again, ten at once for one of them: the ledger stays as it was, first time and all.
                let again = if at == 0 { 10 } else { 1 };
                std::thread::scope(|scope| {
                    for _ in 0..again {
                        scope.spawn(|| conforms(&what, &request("POST", link, &headers, body)));
                    }
                });
                assert_eq!(ledger(&db, &email).await, after, "{what}: the second time changed something");
                silent = first.text();
                posts += 1 + again;
            }
            stop(serving);
        }
        let sql = "SELECT COUNT(*) FROM subscription s JOIN topic t ON t.id = s.topic_id WHERE t.name = $1 AND s.standing = 'subscribed'";
        let left = people - ways.len();
        let still: i64 = db.fetch_one(sql, args!["offers"]).await.unwrap().get(0).unwrap();
        assert_eq!(still as usize, left, "only the topic of the mail");
        assert_eq!(db.fetch_one(sql, args!["letter"]).await.unwrap().get::<i64>(0).unwrap(), 0);
        shop.command(&["consent", "verify", "--json"]).env("OPTIN_SECRET", "another-secret-for-tests-0123456789ab").run().exits(0);
        support::say(format!("{}: RFC 8058: {posts} posts in {} ways and {} lives of a mail, {left} withdrawals in the ledger", database.name, ways.len(), lives.len()));
    }
}

const FILES: &[(&str, &str)] = &[
    (
        "topics.toml",
        "[letter]\nname = \"Letter\"\nopt_in = \"double\"\nwelcome = \"hello\"\n\n[offers]\nname = \"Offers\"\nopt_in = \"double\"\n",
    ),
    ("profile.toml", "[first_name]\nlabel = \"First name\"\n"),
    ("messages/hello.toml", "subject = \"Welcome\"\nbody = \"hello.md\"\n"),
    ("messages/hello.md", "Thank you. [Our shop](https://tea.example/shop)\n"),
    ("campaigns/spring.toml", "topic = \"letter\"\nsubject = \"Spring\"\nlayout = \"newsletter\"\nbody = \"spring.md\"\n"),
    ("campaigns/spring.md", "# Fresh\n\n[Oolong](https://tea.example/oolong) came in.\n"),
    ("campaigns/first.toml", "topic = \"offers\"\nsubject = \"First\"\nbody = \"first.md\"\n"),
    ("campaigns/first.md", "[Cups](https://tea.example/cups)\n"),
];

fn served(shop: &Instance, clock: &str, only: &[&str]) -> Running {
    let mut serving = shop.command(&[&["serve"], only].concat()).clock(clock).spawn();
    serving.wait_for_line("optin is ready", 30);
    serving
}

/// Every address of ours in a mail: in its header, its text, its HTML.
fn links(mail: &Received) -> Vec<String> {
    let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
    let header = |name: &str| parsed.header_raw(name).unwrap_or_default().to_owned();
    let body = |text: Option<std::borrow::Cow<'_, str>>| text.map(std::borrow::Cow::into_owned).unwrap_or_default();
    let all = [header("List-Unsubscribe"), header("List-Help"), body(parsed.body_text(0)), body(parsed.body_html(0))];
    let all = all.join("\n").replace("&#x2f;", "/").replace("&#47;", "/");
    let mut out: Vec<String> = all
        .split(['"', '<', '>', ' ', '\n', '\r', '(', ')'])
        .filter(|word| word.starts_with("http://127.0.0.1"))
        .map(str::to_owned)
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

fn link(mail: &Received, part: &str) -> String {
    links(mail).into_iter().find(|link| link.contains(part)).unwrap_or_else(|| panic!("no {part} in {}", mail.text()))
}

async fn until(db: &Db, what: &str, sql: &str, count: usize) {
    for _ in 0..400 {
        if db.fetch_all(sql, args![]).await.unwrap().len() >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain: {what}");
}

on_each_database! {
    async fn a_scanner_of_every_kind_of_mail_changes_nothing(database) {
        let sink = Sink::start();
        let shop = support::instance(&database, FILES).with_smtp(&sink);
        let db = database.open().await;
        let mut kinds: Vec<(&str, Received)> = Vec::new();
        let mut take = |kind: &'static str, to: &str, part: &str| {
            let known: Vec<_> = kinds.iter().map(|(_, mail)| mail.data.clone()).collect();
            let found = wait_until(kind, 20, || {
                let all = sink.received();
                all.into_iter().find(|mail| mail.to == [to] && !known.contains(&mail.data) && links(mail).iter().any(|link| link.contains(part)))
            });
            kinds.push((kind, found.clone()));
            found
        };
        let morning = "2026-03-02T08:00:00Z";
        import(&shop, "mei@tea.example,en\nlin@tea.example,en\n", &["letter", "offers"], "pending", morning);
        let serving = served(&shop, morning, &[]);
        let question = take("confirmation", "mei@tea.example", "/s/");
        take("confirmation", "lin@tea.example", "/s/");
        assert_eq!(post(&link(&question, "/s/"), FORM, b"confirm=1").status, 200);
        take("welcome", "mei@tea.example", "/u/");
        until(&db, "the questions were sent", "SELECT contact_id FROM confirmation WHERE remind_at IS NOT NULL", 2).await;
        shop.command(&["consent", "frequency", "mei@tea.example", "weekly", "--topic", "offers", "--source", "phone"]).clock(morning).run().exits(0);
        until(&db, "the digest is known", "SELECT contact_id FROM digest", 1).await;
        stop(serving);
        shop.command(&["send", "spring", "--json"]).clock("2026-03-03T09:00:00Z").run().exits(0);
        let letter = take("campaign", "mei@tea.example", "/c/");
        assert_eq!(subject(&letter), "Spring");
        shop.command(&["send", "first", "--json"]).clock("2026-03-03T10:00:00Z").run().exits(0);
        let serving = served(&shop, "2026-03-04T09:00:00Z", &[]);
        let reminder = take("reminder", "lin@tea.example", "/s/");
        let page = link(&letter, "/p/");
        for (action, kind, part) in [("export", "copy", "/r/"), ("erase", "erasure", "/r/")] {
            assert_eq!(post(&format!("{page}/data"), FORM, format!("action={action}").as_bytes()).status, 200);
            take(kind, "mei@tea.example", part);
        }
        assert_eq!(post(&page, FORM, b"action=profile").status, 200);
        take("profile", "mei@tea.example", "/p/");
        stop(serving);
        let serving = served(&shop, "2026-03-09T08:10:00Z", &[]);
        take("digest", "mei@tea.example", "/v/");
        stop(serving);

        // A moment at which no link is over yet, and no worker, which has work of its own to write down.
        let _serving = served(&shop, "2026-03-04T10:00:00Z", &["--only", "web"]);
        let before = everything(&db).await;
        let mut looks = 0;
        for _ in 0..2 {
            for (kind, mail) in &kinds {
                for link in links(mail) {
                    for response in [get(&link), head(&link), get(&format!("{link}?lang=zh-Hans")), request("OPTIONS", &link, &[], b"")] {
                        assert!(response.status < 400 || response.status == 405 || link.contains("/c/"), "{kind} {link}: {}", response.status);
                        looks += 1;
                    }
                }
            }
        }
        let after = everything(&db).await;
        let changed: Vec<&String> = after.iter().filter(|row| !before.contains(row)).collect();
        assert!(changed.is_empty() && after.len() == before.len(), "{changed:#?}");
        let letters: Vec<&str> = ["/u/", "/p/", "/v/", "/c/", "/o/", "/s/", "/r/"]
            .into_iter()
            .filter(|part| !kinds.iter().any(|(_, mail)| links(mail).iter().any(|link| link.contains(part))))
            .collect();
        assert!(letters.is_empty(), "no link of {letters:?} was followed");
        // The links are as good as before: nothing was spent.
        assert_eq!(post(&link(&reminder, "/s/"), FORM, b"confirm=1").status, 200);
        assert_eq!(ledger(&db, "lin@tea.example").await.iter().filter(|entry| entry.1 == "confirmed").count(), 2);
        let copy = post(&link(&kinds.iter().find(|(kind, _)| *kind == "copy").unwrap().1, "/r/"), FORM, b"");
        assert_eq!((copy.status, copy.header("content-type")), (200, Some("application/zip")));
        let names: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
        support::say(format!("{}: {looks} looks at the links of {} mails ({}): nothing changed", database.name, kinds.len(), names.join(", ")));
    }
}
