//! What a person may demand: a copy of everything, erasure from everywhere, correction; the register; and
//! that only a fresh mail gives any of it away.

use std::sync::LazyLock;

use optin::db::{Db, Dialect};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::smtp::{Script, Sink};
use crate::support::{self, Instance, http, on_each_database};

const EMAIL: &str = "Meilinguniq.Wangx@Teauniq.example";
const PHONE: &str = "+886-2-5550-4711";
const IP: &str = "203.0.113.77";
const AGENT: &str = "UniqAgent/7.1";
const FORM: &str = "application/x-www-form-urlencoded";

const FILES: &[(&str, &str)] = &[
    (
        "optin.toml",
        "[site]\nurl = \"http://127.0.0.1:8080\"\n[sender]\nname = \"Tea House\"\nemail = \"letters@tea.example\"\npostal_address = \"1 Leaf Street, Taipei\"\n\
         [attributes]\ncity = \"text\"\ntags = \"list\"\nvisits = \"number\"\nborn = \"date\"\n",
    ),
    ("topics.toml", "[letter]\nname = \"Letter\"\ndescription = \"Weekly\"\n\n[offers]\nname = \"Offers\"\n"),
    ("campaigns/hello.toml", "topic = \"letter\"\nsubject = \"Hello {{ contact.first_name }}\"\nbody = \"hello.md\"\n"),
    ("campaigns/hello.md", "Hello [shop](https://shop.example/tea)\n"),
    ("campaigns/second.toml", "topic = \"letter\"\nsubject = \"Second\"\nbody = \"hello.md\"\n"),
    ("campaigns/third.toml", "topic = \"letter\"\nsubject = \"Third\"\nbody = \"hello.md\"\n"),
    ("messages/order.toml", "subject = \"Order\"\nbody = \"order.md\"\n"),
    ("messages/order.md", "Dear {{ data.name }}\n"),
];

/// The same fact in every form in which it might lie about.
fn forms(text: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let mut out = Vec::new();
    for text in [text.to_owned(), text.to_lowercase(), text.to_uppercase()] {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let encoded: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        out.push(encoded.into_bytes());
        // The ends of base64 depend on what stands beside it.
        let base64 = base64::engine::general_purpose::STANDARD.encode(&text);
        out.push(base64.trim_end_matches('=').as_bytes()[..base64.trim_end_matches('=').len() - 2].to_vec());
        out.push(hex(text.as_bytes()).into_bytes());
        out.push(hex(&Sha256::digest(text.as_bytes())).into_bytes());
        out.push(text.into_bytes());
    }
    out
}

/// What names the person, and every form of it in lower case.
static NEEDLES: LazyLock<Vec<(&str, Vec<String>)>> = LazyLock::new(|| {
    let facts = [EMAIL, "Meilinguniq", "Wangx", PHONE, IP, AGENT, "Tainanuniq", "CRM-uniq-17", "new.uniqaddress@leafuniq.example"];
    let lower = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).to_lowercase();
    facts.map(|text| (text, forms(text).into_iter().map(lower).collect())).to_vec()
});

/// What of the person stands there. In lower case all around: what is found so and not otherwise would be chance.
fn find(haystack: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(haystack).to_lowercase();
    NEEDLES.iter().find(|(_, forms)| forms.iter().any(|form| text.contains(form.as_str()))).map(|(name, _)| *name)
}

/// Every text and blob of every table, with its table and column.
async fn everything(db: &Db) -> Vec<(String, Vec<u8>)> {
    let list = match db.dialect() {
        Dialect::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table'",
        Dialect::Postgres => "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema()",
    };
    let mut out = Vec::new();
    for table in db.fetch_all(list, vec![]).await.unwrap() {
        let table: String = table.get(0).unwrap();
        for row in db.fetch_all(&format!("SELECT * FROM {table}"), vec![]).await.unwrap() {
            for column in 0..row.len() {
                let bytes = match row.get::<Option<String>>(column) {
                    Ok(text) => text.map(String::into_bytes),
                    Err(_) => row.get::<Option<Vec<u8>>>(column).ok().flatten(),
                };
                out.extend(bytes.map(|bytes| (format!("{table}.{}", row.column_name(column)), bytes)));
            }
        }
    }
    out
}

fn link(text: &str, part: &str) -> String {
    text.split(['<', '>', ' ', '\n', '\r', '(', ')', '"'])
        .find(|word| word.contains(part))
        .unwrap_or_else(|| panic!("no {part} in {text}"))
        .to_owned()
}

fn text_part(raw: &[u8]) -> String {
    mail_parser::MessageParser::default().parse(raw).unwrap().body_text(0).unwrap().into_owned()
}

fn visit(method: &str, url: &str, body: &[u8]) -> http::Response {
    let headers = [("X-Forwarded-For", IP), ("User-Agent", AGENT), ("Content-Type", FORM)];
    http::request(method, url, &headers, body)
}

/// A program of the shop saves what it knows; the same request each time.
fn saved_by_program(site: &str, token: &str) -> http::Response {
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json"), ("Idempotency-Key", "for Meilinguniq")];
    let body = format!(r#"{{"email": "{EMAIL}", "attributes": {{"city": "Tainanuniq"}}}}"#);
    http::request("POST", &format!("{site}/api/v1/contacts"), &headers, body.as_bytes())
}

fn site_of(letter: &str) -> String {
    link(letter, "/p/").split("/p/").next().unwrap().to_owned()
}

/// A person of whom everything is known. Answers the text of the letter they got, and all that was logged.
async fn somebody(instance: &Instance, sink: &Sink, db: &Db) -> (String, Vec<String>) {
    instance.optin(&["consent", "grant", EMAIL, "--topic", "letter", "--source", "paper form of Meilinguniq Wangx"]).exits(0);
    let phone = format!("phone={PHONE}");
    let fields = [
        "first_name=Meilinguniq",
        "last_name=Wangx",
        &phone,
        "external_id=CRM-uniq-17",
        "city=Tainanuniq",
        "tags=oolong;Tainanuniq",
        "visits=3",
        "born=1990-05-01",
    ];
    let mut change = vec!["contact", "change", EMAIL, "--source", "Meilinguniq by telephone"];
    fields.iter().for_each(|field| change.extend(["--set", field]));
    instance.optin(&change).exits(0);
    // Two addresses in the proof.
    instance.optin(&["contact", "change", EMAIL, "--email", "new.uniqaddress@leafuniq.example"]).exits(0);
    instance.optin(&["contact", "change", "new.uniqaddress@leafuniq.example", "--email", EMAIL]).exits(0);
    instance.optin(&["send", "hello", "--json"]).exits(0);
    let letter = text_part(&sink.wait_for(1, 20)[0].data);
    let html = sink.received()[0].text();
    sink.script(|script| {
        *script = Script::refusing("Meilinguniq", "550 5.1.1 <Meilinguniq.Wangx@Teauniq.example>: no Meilinguniq here");
    });
    instance.optin(&["send", "second", "--json"]).exits(0);
    sink.script(|script| *script = Script::default());
    let mut serving = instance.command(&["serve"]).env("OPTIN_LOG__LEVEL", "debug").spawn();
    serving.wait_for_line("optin is ready", 20);
    let data = r#"{"name": "Meilinguniq Wangx", "street": "Tainanuniq 4"}"#;
    instance
        .optin(&["message", "send", "--to", EMAIL, "--template", "order", "--data", data, "--idempotency-key", "for Meilinguniq"])
        .exits(0);
    sink.wait_for(2, 20);
    let click = link(&letter, "/c/");
    assert_eq!(visit("GET", &click, b"").status, 302);
    let open = html.replace("=\r\n", "").replace("=3D", "=");
    if let Some(pixel) = open.split('"').find(|part| part.contains("/o/")) {
        visit("GET", pixel, b"");
    }
    let page = link(&letter, "/p/");
    visit("POST", &format!("{page}/data"), b"action=export");
    sink.wait_for(3, 20);
    instance.optin(&["rights", "add", "rectification", EMAIL, "--note", "Meilinguniq wrote"]).exits(0);
    let token = instance.optin(&["token", "create", "--name", "shop", "--scope", "contacts", "--json"]).exits(0).json();
    std::fs::write(instance.root().join("token"), token["token"].as_str().unwrap()).unwrap();
    assert_eq!(saved_by_program(&site_of(&letter), token["token"].as_str().unwrap()).status, 200);
    let contact: i64 = db.fetch_one("SELECT id FROM contact", vec![]).await.unwrap().get(0).unwrap();
    let statements = [
        format!("INSERT INTO coupon (pool, code, contact_id, given_at) VALUES ('welcome', 'TEA-1', {contact}, 5)"),
        format!(
            "INSERT INTO withdrawal_reason (id, at, contact_id, topic_id, reason, comment) VALUES (7, 5, {contact}, 0, 'other', 'Meilinguniq is bored')"
        ),
        format!(
            "INSERT INTO confirmation (topic_id, contact_id, asked_at, due_at, tries, sent_at, profile)
             SELECT id, {contact}, 5, 5, 1, 5, '{{\"last_name\":\"Wangx typed\"}}' FROM topic WHERE name = 'offers'"
        ),
        "INSERT INTO suppression_rule (kind, value, reason, source, at) VALUES ('domain', '*.teauniq.example', 'manual', 'a list', 5)"
            .to_owned(),
        format!(
            "INSERT INTO digest (topic_id, contact_id, frequency, since, next_at) SELECT id, {contact}, 'weekly', 5, 6 FROM topic WHERE name = 'letter'"
        ),
    ];
    for statement in statements {
        db.execute(&statement, vec![]).await.unwrap();
    }
    // Leaves one topic by the page, so that address and agent stand in the ledger.
    visit("POST", &link(&letter, "/u/"), b"leave=topic");
    support::wait_until("the click is written", 10, || {
        let shown = instance.optin(&["contact", "show", EMAIL, "--json"]).exits(0).json();
        shown["recent"].as_array().unwrap().iter().any(|recent| recent["what"] == "click").then_some(())
    });
    serving.signal("TERM");
    let (code, lines) = serving.wait(20);
    assert_eq!(code, 0, "{lines:?}");
    (letter, lines)
}

on_each_database! {
    async fn an_erased_person_is_nowhere_and_everything_else_is_as_it_was(database) {
        let sink = Sink::start();
        let instance = support::instance(&database, FILES).with_smtp(&sink);
        let db = database.open().await;
        let (letter, logged) = somebody(&instance, &sink, &db).await;
        let logged = logged.join("\n");
        assert_eq!(find(logged.as_bytes()), None, "the log: {logged}");

        // A copy of everything, before.
        let data = instance.optin(&["contact", "export", EMAIL, "--json"]).exits(0).json();
        for key in ["topics", "consent_history", "mails", "opens_and_clicks", "messages", "coupons", "reasons_for_leaving", "collections", "requests", "confirmations", "suppression", "api_answers"] {
            assert!(!data[key].as_array().unwrap().is_empty(), "{key}: {data:#}");
        }
        let all = data.to_string();
        for part in [EMAIL, PHONE, IP, AGENT, "Tainanuniq", "TEA-1", "is bored", "no Meilinguniq here", "paper form", "Tainanuniq 4", "shop.example/tea", "Wangx typed", "*.teauniq.example"] {
            assert!(all.contains(part), "the copy lacks {part}: {data:#}");
        }
        db.execute("DELETE FROM suppression_rule", vec![]).await.unwrap();
        assert!(everything(&db).await.iter().any(|(_, bytes)| find(bytes).is_some()), "the search finds what is there");

        let before: Vec<Value> = ["hello", "second"].map(|name| instance.optin(&["report", name, "--json"]).exits(0).json()).to_vec();
        assert!(before[0]["clicks"]["unique"].as_i64().unwrap() + before[0]["clicks"]["machine"].as_i64().unwrap() > 0, "{before:?}");
        let named = instance.optin(&["contact", "erase", EMAIL, "--yes", "--source", "letter of meilinguniq"]).exits(1);
        assert!(named.stderr.contains("names the person"), "{}", named.stderr);
        instance.optin(&["contact", "erase", EMAIL]).exits(1);
        let dry = instance.optin(&["contact", "erase", EMAIL, "--dry-run", "--json"]).exits(0).json();
        assert_eq!((&dry["erased"], &dry["suppressed"]), (&Value::from(false), &Value::from("withdrawn")));
        instance.optin(&["contact", "show", EMAIL]).exits(0);
        let erased = instance.command(&["contact", "erase", EMAIL, "--yes", "--source", "letter of 3 May", "--json"]).env("OPTIN_LOG__LEVEL", "debug").run().exits(0);
        assert_eq!(find(erased.stderr.as_bytes()), None, "{}", erased.stderr);
        assert_eq!(erased.json()["suppressed"], "withdrawn");

        for (place, bytes) in everything(&db).await {
            assert_eq!(find(&bytes), None, "{place}: {}", String::from_utf8_lossy(&bytes));
        }
        let after: Vec<Value> = ["hello", "second"].map(|name| instance.optin(&["report", name, "--json"]).exits(0).json()).to_vec();
        assert_eq!(before, after, "reports say what they said");
        instance.optin(&["consent", "verify", "--json"]).exits(0);
        let requests = instance.optin(&["rights", "list", "--all", "--json"]).exits(0).json();
        let erasure = requests["requests"].as_array().unwrap().iter().find(|request| request["kind"] == "erasure").unwrap().clone();
        assert_eq!((erasure["state"].as_str(), erasure["note"].as_str()), (Some("done"), Some("letter of 3 May")));

        // Links of old mails still answer, tell nothing, and leave nothing.
        let mut serving = instance.command(&["serve"]).env("OPTIN_LOG__LEVEL", "debug").spawn();
        serving.wait_for_line("optin is ready", 20);
        for (method, part, body) in [("POST", "/u/", &b"List-Unsubscribe=One-Click"[..]), ("GET", "/u/", b""), ("GET", "/p/", b""), ("GET", "/c/", b"")] {
            let answer = visit(method, &link(&letter, part), body);
            assert!(answer.status < 400, "{method} {part}: {}", answer.status);
            assert!(!answer.text().contains("Meilinguniq") && !answer.text().contains("m***"), "{}", answer.text());
        }
        let token = std::fs::read_to_string(instance.root().join("token")).unwrap();
        assert_eq!(saved_by_program(&site_of(&letter), &token).status, 410, "a program that tries again brings nobody back");
        let asked = visit("POST", &format!("{}/data", link(&letter, "/p/")), b"action=export");
        assert!(asked.status < 400, "{}", asked.status);
        serving.signal("TERM");
        let (_, lines) = serving.wait(20);
        assert_eq!(find(lines.join("\n").as_bytes()), None, "{lines:?}");
        for (place, bytes) in everything(&db).await {
            assert_eq!(find(&bytes), None, "after visits, {place}: {}", String::from_utf8_lossy(&bytes));
        }
        assert_eq!(sink.received().len(), 3, "no mail after the erasure");

        // The file itself, free pages and all.
        if let Some(path) = database.url.strip_prefix("sqlite://") {
            db.close().await;
            for file in [path.to_owned(), format!("{path}-wal")] {
                let bytes = std::fs::read(&file).unwrap_or_default();
                assert_eq!(find(&bytes), None, "{file}");
            }
        }

        // Brought in again, she stays out.
        instance.write("../again.csv", format!("email\n{EMAIL}\nother@tea.example\n"));
        let list = instance.root().join("again.csv");
        instance
            .optin(&["import", "contacts", list.to_str().unwrap(), "--topic", "letter", "--consent", "confirmed", "--source", "old list"])
            .exits(0);
        let again = instance.optin(&["send", "third", "--json"]).exits(0).json();
        assert_eq!(again["sent"], 1, "{again:#}");
        assert_eq!(sink.wait_for(4, 20)[3].to, ["other@tea.example"]);
    }
}
