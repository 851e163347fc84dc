//! The beacon: who is recorded, who is not, and what stays in a browser. Over HTTP, and in a real one.

use std::process::Command;

use optin::args;
use optin::clock::{Clock, DAY};
use optin::db::Db;
use optin::token::{Keys, Purpose};
use serde_json::{Value, json};

use crate::prefs::serve;
use crate::support::http::{Response, get, request};
use crate::support::instance::SECRET;
use crate::support::process::repository;
use crate::support::smtp::{Received, Sink};
use crate::support::{self, Instance, TestDatabase, free_port, on_each_database};

const SHOP: &str = "http://shop.example";
/// Bytes of the script at most.
const SCRIPT_BYTES: usize = 2_048;

fn stage(database: &TestDatabase, sink: &Sink, origin: &str, beacon: bool) -> Instance {
    let optin = format!(
        "[site]\nurl = \"http://127.0.0.1:8080\"\n[sender]\nname = \"Tea House\"\nemail = \"letters@tea.example\"\n\
         postal_address = \"1 Leaf Street, Taipei\"\n[behaviour]\nbeacon = {beacon}\nbeacon_origins = [\"{origin}\"]\n"
    );
    let campaign = "topic = \"letter\"\nsubject = \"Spring\"\nlayout = \"newsletter\"\nbody = \"weekly.md\"\n";
    let body = format!("# Fresh\n\n[Oolong]({origin}/oolong?a=%2F+b&c#leaf?x=1) and [elsewhere](http://other.example/green?a=1).\n");
    let files = [
        ("optin.toml", optin.as_str()),
        ("topics.toml", "[letter]\nname = \"Tea letter\"\n"),
        ("campaigns/weekly.toml", campaign),
        ("campaigns/weekly.md", body.as_str()),
    ];
    let instance = support::instance(database, &files).with_smtp(sink);
    instance.write("../people.csv", "email\nmei@tea.example\nanna@tea.example\nshy@tea.example\n");
    let import = ["import", "contacts", "people.csv", "--topic", "letter", "--consent", "confirmed", "--source", "fair"];
    instance.optin(&import).exits(0);
    instance.optin(&["consent", "tracking", "shy@tea.example", "anonymous", "--source", "x"]).exits(0);
    instance.optin(&["send", "weekly", "--json"]).exits(0);
    sink.wait_for(3, 20);
    instance
}

/// The tracked links of somebody's mail, in order.
fn clicks(mails: &[Received], email: &str) -> Vec<String> {
    let mail = mails.iter().find(|mail| mail.to == [email]).unwrap();
    let html = mail_parser::MessageParser::default().parse(&mail.data).unwrap().body_html(0).unwrap().replace("&#x2f;", "/");
    html.split('"').filter(|word| word.starts_with("http") && word.contains("/c/")).map(str::to_owned).collect()
}

fn leads_to(click: &str) -> String {
    let answer = get(click);
    assert_eq!(answer.status, 302, "{}", answer.text());
    answer.header("location").unwrap().to_owned()
}

fn token(click: &str) -> String {
    let target = leads_to(click);
    target.split("oc=").nth(1).unwrap_or_else(|| panic!("no token in {target}")).split('#').next().unwrap().to_owned()
}

fn send_with(site: &Instance, origin: &str, more: &[(&str, &str)], visit: &Value) -> Response {
    let headers = [&[("Origin", origin), ("Content-Type", "text/plain;charset=UTF-8")], more].concat();
    request("POST", &site.url("/b"), &headers, visit.to_string().as_bytes())
}

fn send(site: &Instance, visit: &Value) -> Response {
    send_with(site, SHOP, &[], visit)
}

/// Whose each visit is, its page, title and referrer, in the order in which they came.
async fn visits(db: &Db) -> Vec<(String, Option<String>, Option<String>, Option<String>)> {
    let sql = "SELECT c.email, v.t_page, v.t_title, v.t_referrer FROM did_visit v JOIN contact c ON c.id = v.contact_id ORDER BY v.id";
    let rows = db.fetch_all(sql, args![]).await.unwrap();
    rows.iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap(), row.get(3).unwrap())).collect()
}

async fn pages(db: &Db) -> Vec<(String, String)> {
    visits(db).await.into_iter().map(|visit| (visit.0, visit.1.unwrap_or_default())).collect()
}

fn seen(email: &str, page: &str) -> (String, String) {
    (email.to_owned(), page.to_owned())
}

on_each_database! {
    async fn a_click_brings_a_token_and_its_visit_is_the_persons(database) {
        let sink = Sink::start();
        let site = stage(&database, &sink, SHOP, true);
        let mails = sink.received();
        let _serving = serve(&site, &[]);
        let db = database.open().await;
        let links = clicks(&mails, "mei@tea.example");
        let led = leads_to(&links[0]);
        let (before, after) = led.split_once("&oc=").unwrap();
        assert_eq!((before, after.split_once('#').unwrap().1), ("http://shop.example/oolong?a=%2F+b&c", "leaf?x=1"));
        assert_eq!(leads_to(&links[1]), "http://other.example/green?a=1", "other sites get no token");
        assert!(clicks(&mails, "shy@tea.example").iter().all(|click| !leads_to(click).contains("oc=")), "nor do people who are only counted");

        let script = get(&site.url("/b.js"));
        assert_eq!((script.status, script.header("content-type")), (200, Some("text/javascript; charset=utf-8")));
        assert!(script.body.len() < SCRIPT_BYTES && script.header("set-cookie").is_none(), "{} bytes", script.body.len());

        let oc = token(&links[0]);
        let visit = json!({ "v": "visit0001", "t": oc, "p": "/oolong?secret=1", "n": " Oolong\u{7} 烏龍 ", "r": "https://search.example/a?q=me" });
        let answer = send(&site, &visit);
        assert_eq!((answer.status, answer.header("access-control-allow-origin"), answer.header("vary")), (204, Some(SHOP), Some("Origin")));
        assert_eq!(answer.header("set-cookie"), None);
        // Once more, and under another title: one visit.
        send(&site, &visit);
        let mei = "mei@tea.example".to_owned();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(visits(&db).await, [(mei, text("/oolong"), text("Oolong 烏龍"), text("https://search.example/a"))]);

        // Nobody in particular, altered, expired, of another purpose, of nobody: the same answer, and no row.
        let keys = Keys::new(SECRET, &[]);
        let now = Clock::system().now();
        let expired = keys.sign(Purpose::Visit, &[1, now.plus(-1).millis()]);
        let unknown = keys.sign(Purpose::Visit, &[1, now.plus(DAY).millis()]);
        let other = keys.sign(Purpose::View, &[1, now.plus(DAY).millis()]);
        for visit in [
            json!({ "v": "visit0002", "p": "/a" }),
            json!({ "v": "visit0003", "p": "/a", "t": format!("{oc}AAAA") }),
            json!({ "v": "visit0004", "p": "/a", "t": expired }),
            json!({ "v": "visit0005", "p": "/a", "t": other }),
            json!({ "v": "visit0006", "p": "/a", "t": unknown }),
            json!({ "v": "visit0007", "p": "/a", "d": "0123456789abcdef0123456789abcdef" }),
            json!({ "v": "", "p": "/a", "t": oc }),
        ] {
            assert_eq!((send(&site, &visit).status, pages(&db).await.len()), (204, 1), "{visit}");
        }
        // Who does not want it, on the way of browsers that say so.
        for (header, count) in [("Sec-GPC", 1), ("DNT", 1)] {
            send_with(&site, SHOP, &[(header, "1")], &json!({ "v": "visit0008", "p": "/a", "t": oc }));
            assert_eq!(pages(&db).await.len(), count);
        }
        // What a person chose since holds.
        site.optin(&["consent", "tracking", "mei@tea.example", "anonymous", "--source", "x"]).exits(0);
        send(&site, &json!({ "v": "visit0009", "p": "/a", "t": oc }));
        assert_eq!(pages(&db).await.len(), 1);
    }
}

on_each_database! {
    async fn a_browser_is_somebodys_only_after_they_agreed(database) {
        let sink = Sink::start();
        let site = stage(&database, &sink, SHOP, true);
        let mails = sink.received();
        let _serving = serve(&site, &[]);
        let db = database.open().await;
        let (mei, anna) = (token(&clicks(&mails, "mei@tea.example")[0]), token(&clicks(&mails, "anna@tea.example")[0]));
        let agreed = send(&site, &json!({ "v": "visit0001", "p": "/one", "t": mei, "c": 1 }));
        assert_eq!(agreed.status, 200);
        let device = serde_json::from_slice::<Value>(&agreed.body).unwrap()["device"].as_str().unwrap().to_owned();
        // Without a letter nobody agrees to anything.
        assert_eq!(send(&site, &json!({ "v": "visit0002", "p": "/two", "c": 1 })).status, 204);
        send(&site, &json!({ "v": "visit0003", "p": "/three", "d": device }));
        // The browser follows the latest letter.
        send(&site, &json!({ "v": "visit0004", "p": "/four", "t": anna, "d": device }));
        send(&site, &json!({ "v": "visit0005", "p": "/five", "d": device }));
        let expected = [
            seen("mei@tea.example", "/one"),
            seen("mei@tea.example", "/three"),
            seen("anna@tea.example", "/four"),
            seen("anna@tea.example", "/five"),
        ];
        assert_eq!(pages(&db).await, expected);
        let known = site.optin(&["contact", "identity", "list", "anna@tea.example", "--json"]).exits(0).json();
        assert_eq!((&known["identities"][1]["kind"], &known["identities"][1]["source"]), (&"device".into(), &"beacon".into()), "{known}");
        // What is merged is one person.
        site.optin(&["contact", "merge", "mei@tea.example", "anna@tea.example", "--source", "same"]).exits(0);
        send(&site, &json!({ "v": "visit0006", "p": "/six", "d": device }));
        assert_eq!(pages(&db).await[2..], [seen("mei@tea.example", "/four"), seen("mei@tea.example", "/five"), seen("mei@tea.example", "/six")]);
        site.optin(&["contact", "unmerge", "anna@tea.example"]).exits(0);
        assert_eq!(pages(&db).await[4], seen("anna@tea.example", "/six"));
        // Taking back is heard from everybody.
        send_with(&site, SHOP, &[("Sec-GPC", "1")], &json!({ "d": device, "x": 1 }));
        send(&site, &json!({ "v": "visit0007", "p": "/seven", "d": device }));
        assert_eq!(pages(&db).await.len(), 5);
        assert_eq!(db.fetch_one("SELECT COUNT(*) FROM identity", vec![]).await.unwrap().get::<i64>(0).unwrap(), 0);
        // Who chooses not to be tracked has no browser any more.
        let again = send(&site, &json!({ "v": "visit0008", "p": "/eight", "t": mei, "c": 1 }));
        let device = serde_json::from_slice::<Value>(&again.body).unwrap()["device"].clone();
        site.optin(&["consent", "tracking", "mei@tea.example", "none", "--source", "x"]).exits(0);
        send(&site, &json!({ "v": "visit0009", "p": "/nine", "d": device }));
        assert_eq!(pages(&db).await.len(), 6);
        assert_eq!(db.fetch_one("SELECT COUNT(*) FROM identity", vec![]).await.unwrap().get::<i64>(0).unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_listed_sites_send_visits_and_not_without_end() {
    let database = TestDatabase::sqlite();
    let sink = Sink::start();
    let site = stage(&database, &sink, SHOP, true);
    let _serving = serve(&site, &[]);
    let visit = json!({ "v": "visit0001", "p": "/a" });
    for origin in ["https://shop.example", "http://shop.example:8080", "http://shop.example.evil.example", "null"] {
        let answer = send_with(&site, origin, &[], &visit);
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None), "{origin}");
    }
    assert_eq!(request("POST", &site.url("/b"), &[], visit.to_string().as_bytes()).status, 403);
    assert_eq!(get(&site.url("/b")).status, 405);
    let asked = request("OPTIONS", &site.url("/b"), &[("Origin", SHOP), ("Access-Control-Request-Method", "POST")], b"");
    assert_eq!((asked.status, asked.header("access-control-allow-headers")), (204, Some("content-type")));
    assert_eq!(request("POST", &site.url("/b"), &[("Origin", SHOP)], b"not json").status, 400);
    assert_eq!(request("POST", &site.url("/b"), &[("Origin", SHOP)], &vec![b' '; 70_000]).status, 413);
    let refused = (0..300).map(|_| send(&site, &visit).status).find(|status| *status != 204);
    assert_eq!(refused, Some(429));
    // Another household is not to blame.
    assert_eq!(send_with(&site, SHOP, &[("X-Forwarded-For", "203.0.113.9")], &visit).status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_off_there_is_no_beacon_and_links_lead_as_they_did() {
    let database = TestDatabase::sqlite();
    let sink = Sink::start();
    let site = stage(&database, &sink, SHOP, false);
    let mails = sink.received();
    let _serving = serve(&site, &[]);
    assert_eq!(get(&site.url("/b.js")).status, 404);
    assert_eq!(send(&site, &json!({ "v": "visit0001" })).status, 404);
    assert_eq!(leads_to(&clicks(&mails, "mei@tea.example")[0]), "http://shop.example/oolong?a=%2F+b&c#leaf?x=1");
}

fn play(stage: &std::path::Path, phase: &str) {
    let browser = repository().join("tests/browser");
    assert!(
        browser.join("node_modules").is_dir(),
        "the browser tests' packages are missing: run `./test`, or `npm ci --ignore-scripts` in tests/browser"
    );
    let home = tempfile::tempdir().unwrap();
    let mut call = Command::new("node");
    call.arg(browser.join("beacon.mjs")).arg(stage).arg(phase).current_dir(&browser).env("HOME", home.path());
    let output = call.output().unwrap_or_else(|error| panic!("cannot run `node` ({error}): run `./test`, which installs it"));
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the browser found problems:\n{said}{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_browser_nothing_stays_before_consent_and_it_works_after_on_the_second_day() {
    let database = TestDatabase::sqlite();
    let sink = Sink::start();
    let shop_port = free_port();
    let origin = format!("http://127.0.0.1:{shop_port}");
    let site = stage(&database, &sink, &origin, true);
    let mails = sink.received();
    let profile = tempfile::tempdir().unwrap();
    let file = site.root().join("beacon.json");
    let told = json!({
        "site": site.url(""),
        "shop": origin,
        "shop_port": shop_port,
        "profile": profile.path(),
        "click": { "quiet": clicks(&mails, "mei@tea.example")[0], "agreeing": clicks(&mails, "anna@tea.example")[0] },
    });
    std::fs::write(&file, told.to_string()).unwrap();
    let db = database.open().await;
    let serving = serve(&site, &[]);
    let stage = file.clone();
    tokio::task::spawn_blocking(move || play(&stage, "first")).await.unwrap();
    serving.signal("TERM");
    assert_eq!(serving.wait(20).0, 0);
    let first = [seen("mei@tea.example", "/oolong"), seen("mei@tea.example", "/pushed"), seen("anna@tea.example", "/oolong")];
    assert_eq!(pages(&db).await, first);
    let mut serving = site.command(&["serve"]).clock(&Clock::system().now().plus(DAY).to_string()).spawn();
    serving.wait_for_line("optin is ready", 20);
    tokio::task::spawn_blocking(move || play(&file, "second")).await.unwrap();
    assert_eq!(pages(&db).await[3..], [seen("anna@tea.example", "/green")]);
    let span = "SELECT MAX(at) - MIN(at) FROM did_visit";
    assert!(db.fetch_one(span, vec![]).await.unwrap().get::<i64>(0).unwrap() > DAY - 60_000);
    assert_eq!(db.fetch_one("SELECT COUNT(*) FROM identity", vec![]).await.unwrap().get::<i64>(0).unwrap(), 0);
}
