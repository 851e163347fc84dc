//! The command line at its boundary: names, options, exit codes, JSON keys, and what a person sees.

use crate::support::process::{Output, command};
use crate::support::{Instance, TestDatabase, databases, free_port, on_each_database, optin, smtp};

/// Every command that has a help page.
const COMMANDS: &[&str] = &[
    "",
    "init",
    "check",
    "import",
    "import contacts",
    "import orders",
    "import events",
    "import suppressions",
    "contact",
    "contact show",
    "contact merge",
    "contact unmerge",
    "contact merges",
    "contact duplicates",
    "contact identity",
    "contact identity list",
    "contact identity add",
    "contact identity remove",
    "consent",
    "consent grant",
    "consent withdraw",
    "consent history",
    "consent verify",
    "suppression",
    "suppression list",
    "suppression add",
    "suppression remove",
    "suppression check",
    "suppression export",
    "consent rebuild",
    "consent checkpoint",
    "consent export",
    "coupon",
    "coupon import",
    "coupon list",
    "coupon show",
    "segment",
    "segment list",
    "segment count",
    "segment members",
    "segment refresh",
    "segment changes",
    "segment freeze",
    "segment lists",
    "segment thaw",
    "segment fmt",
    "segment schema",
    "lint",
    "preview",
    "test",
    "send",
    "run",
    "run list",
    "run show",
    "run pause",
    "run resume",
    "run cancel",
    "run release-doubtful",
    "inbound",
    "inbound deliver",
    "report",
    "tracking",
    "tracking judge",
    "tracking verify",
    "message",
    "message send",
    "message show",
    "message list",
    "message release",
    "token",
    "token create",
    "token list",
    "token revoke",
    "serve",
    "demo",
];

const CUSTOMERS: &str = "email,first_name,locale,city,vip,interests,Ort\n\
    mei@tea.example,美玲,zh-Hant-TW,Taipei,yes,oolong;teaware,\n\
    olive@tea.example,Olive,en-GB,London,no,black,\n\
    not an address,Bo,en,Leeds,no,,\n";

/// What differs from run to run: ids, ports, tokens, times.
fn steady(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && !":-.".contains(c)) {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let date = word.len() >= 10 && word.as_bytes()[4] == b'-' && word.as_bytes()[7] == b'-';
        let time = word.len() >= 8 && word.as_bytes()[2] == b':' && word.as_bytes()[5] == b':';
        let hash = word.trim_end().len() == 12 && word.trim_end().bytes().all(|c| c.is_ascii_hexdigit());
        let tail = &word[word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len()..];
        match () {
            () if date => out.push_str("<date>"),
            () if time => out.push_str("<time>"),
            () if digits > 15 => out.push_str("<id>"),
            () if hash => out.push_str("<hash>"),
            () => {
                out.push_str(word);
                continue;
            }
        }
        out.push_str(tail);
    }
    out
}

/// A command line with what a person sees of it.
fn shown(call: &str, output: &Output) -> String {
    let error = if output.stderr.is_empty() { String::new() } else { format!("--- standard error\n{}", output.stderr) };
    format!("$ optin {call}\n{}{error}[exit code {}]\n", output.stdout, output.code)
}

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[track_caller]
fn has_keys(value: &serde_json::Value, expected: &[&str]) {
    let keys = keys(value);
    for key in expected {
        assert!(keys.contains(key), "no key `{key}` in {value:#}");
    }
}

fn shop(database: &TestDatabase, sink: &smtp::Sink) -> Instance {
    let shop = Instance::example(database).with_smtp(sink);
    std::fs::write(shop.root().join("customers.csv"), CUSTOMERS).unwrap();
    shop
}

const IMPORT: &[&str] = &["import", "contacts", "customers.csv", "--topic", "tea-letter", "--consent", "confirmed", "--source", "till"];

#[test]
fn every_command_has_help_with_an_example() {
    let mut all = String::new();
    for name in COMMANDS {
        let words: Vec<&str> = std::iter::once("help").chain(name.split_whitespace()).collect();
        let output = optin(&words).exits(0);
        let group = output.stdout.contains("Commands:") && !name.is_empty();
        assert!(group || output.stdout.contains("Example"), "`optin help {name}` has no example\n{output}");
        assert_eq!(output.stderr, "", "help is data");
        for line in output.stdout.lines() {
            assert!(line.chars().count() <= 100, "too wide: {line}");
        }
        all.push_str(&format!("==== optin help {name}\n{}\n", output.stdout));
    }
    insta::assert_snapshot!("help", all);
}

#[test]
fn wrong_use_exits_with_2_and_says_so_in_json_too() {
    let dir = tempfile::tempdir().unwrap();
    for call in [
        &["frobnicate"][..],
        &["check", "extra"],
        &["import", "contacts"],
        &["import", "contacts", "x.csv", "--consent", "confirmed", "--topic", "tea-letter"],
        &["import", "contacts", "x.csv", "--consent", "perhaps"],
        &["preview", "weekly"],
        &["send"],
        &["--config", "nowhere", "send", "weekly"],
        &["--config", "nowhere", "serve"],
    ] {
        let output = command(call).dir(dir.path()).run().exits(2);
        assert_eq!(output.stdout, "", "talk belongs on standard error: {call:?}");
        assert!(output.stderr.contains("error: "), "{call:?}\n{output}");
        let json = command(&[call, &["--json"]].concat()).dir(dir.path()).run().exits(2).json();
        assert!(json["error"].as_str().is_some_and(|text| !text.is_empty() && !text.contains('\n')), "{call:?}: {json}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
}

#[test]
fn a_folder_without_an_instance_leads_to_init() {
    let dir = tempfile::tempdir().unwrap();
    let output = command(&["--config", "shop", "check"]).dir(dir.path()).run().exits(1);
    insta::assert_snapshot!("no_instance", shown("--config shop check", &output));
    command(&["init", "shop"]).dir(dir.path()).run().exits(0);
    command(&["--config", "shop", "check"]).dir(dir.path()).run().exits(0);
    command(&["check"]).env("OPTIN_CONFIG", "shop").dir(dir.path()).run().exits(0);
    let before = std::fs::read_to_string(dir.path().join("shop/optin.toml")).unwrap();
    let output = command(&["init", "shop", "--json"]).dir(dir.path()).run().exits(1);
    assert!(output.json()["error"].as_str().unwrap().contains("not empty"), "{output}");
    assert_eq!(std::fs::read_to_string(dir.path().join("shop/optin.toml")).unwrap(), before, "each secret is kept");
}

#[test]
fn mistakes_are_shown_all_at_once_and_nothing_starts() {
    let database = TestDatabase::sqlite();
    let shop = shop(&database, &smtp::Sink::start());
    let spoil = |file: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(shop.dir().join(file)).unwrap();
        assert!(text.contains(from), "{file}");
        shop.write(file, text.replace(from, to));
    };
    spoil("optin.toml", "\nconnections =", "\nconections =");
    spoil("campaigns/first-flush-offer.toml", "topic = \"tea-letter\"", "topic = \"tea-leter\"");
    let output = shop.optin(&["check"]).exits(1);
    insta::assert_snapshot!("check_with_mistakes", shown("check", &output));
    let problems = shop.optin(&["check", "--json"]).exits(1).json();
    assert_eq!(problems["problems"].as_array().unwrap().len(), 2);
    has_keys(&problems["problems"][0], &["file", "line", "column", "message", "hint"]);
    for call in [&["send", "spring-leaves"][..], &["serve"], &["segment", "list"], &["report", "spring-leaves"]] {
        let output = shop.optin(call).exits(2);
        assert!(output.stdout.is_empty() && output.stderr.contains("conections") && output.stderr.contains("tea-leter"), "{output}");
        let json = shop.optin(&[call, &["--json"]].concat()).exits(2).json();
        assert_eq!(json["problems"], problems["problems"]);
    }
}

#[test]
fn an_import_that_would_subscribe_nobody_or_has_no_source_is_refused() {
    let database = TestDatabase::sqlite();
    let shop = shop(&database, &smtp::Sink::start());
    let output = shop.optin(&["import", "contacts", "customers.csv", "--topic", "tea-letter"]).exits(2);
    assert!(output.stderr.contains("hint: add `--consent confirmed"), "{output}");
    let output = shop.optin(&["import", "contacts", "customers.csv", "--consent", "confirmed", "--source", "till"]).exits(2);
    assert!(output.stderr.contains("--topic"), "{output}");
    let output = shop.optin(&["import", "contacts", "customers.csv", "--topic", "tea-leter", "--consent", "pending", "--source", "x"]);
    assert!(output.exits(2).stderr.contains("did you mean `tea-letter`?"));
    // Data alone needs neither.
    let counts = shop.optin(&["import", "contacts", "customers.csv", "--json"]).exits(0).json();
    assert_eq!((&counts["added"], &counts["rejected"]), (&2.into(), &1.into()));
    assert_eq!(shop.optin(&["segment", "count", "subscribed('tea-letter')"]).exits(0).stdout, "0\n");
}

on_each_database!(
    async fn a_marketers_day_answers_with_the_promised_keys(database) {
        let sink = smtp::Sink::start();
        let shop = shop(&database, &sink);
        let counts = ["read", "added", "updated", "unchanged", "rejected", "suppressed"];

        let dry = shop.optin(&[IMPORT, &["--dry-run", "--map", "Ort=city", "--json"]].concat()).exits(0).json();
        has_keys(&dry, &counts);
        assert_eq!(shop.optin(&["segment", "count", "city is set"]).exits(0).stdout, "0\n", "a dry run writes nothing");
        let import = shop.optin(&[IMPORT, &["--rejects", "rejects.csv", "--json"]].concat()).exits(0);
        assert_eq!(counts.map(|key| import.json()[key].as_i64().unwrap()), [3, 2, 0, 0, 1, 0]);
        let rejects = std::fs::read_to_string(shop.root().join("rejects.csv")).unwrap();
        assert!(rejects.lines().nth(1).is_some_and(|line| line.starts_with("4,email,")), "{rejects}");
        std::fs::write(shop.root().join("gone.txt"), "gone@tea.example\ngone@tea.example\n").unwrap();
        let gone = shop.optin(&["import", "suppressions", "gone.txt", "--source", "old system", "--json"]).exits(0).json();
        assert_eq!(counts.map(|key| gone[key].as_i64().unwrap()), [2, 1, 0, 1, 0, 1]);

        assert_eq!(shop.optin(&["segment", "count", "city = 'Taipei'", "--json"]).exits(0).json(), serde_json::json!({ "count": 1 }));
        let members = shop.optin(&["segment", "members", "city is set", "--limit", "1", "--json"]).exits(0).json();
        assert_eq!(members["members"].as_array().unwrap().len(), 1);
        has_keys(&members["members"][0], &["email"]);
        has_keys(&shop.optin(&["segment", "list", "--json"]).exits(0).json()["segments"][0], &["segment", "count", "where"]);
        let wrong = shop.optin(&["segment", "count", "citty = 'x'", "--json"]).exits(2);
        assert_eq!(wrong.json()["problems"][0]["hint"], "did you mean `city`?");

        for format in ["eml", "html", "text"] {
            let mail = shop.optin(&["preview", "spring-leaves", "--to", "mei@tea.example", "--format", format]).exits(0);
            assert!(mail.stdout.len() > 500 && mail.stderr.is_empty(), "{format}\n{mail}");
        }
        has_keys(
            &shop.optin(&["preview", "spring-leaves", "--to", "mei@tea.example", "--json"]).exits(0).json(),
            &["subject", "html", "text", "eml"],
        );
        shop.optin(&["test", "spring-leaves", "--to", "me@tea.example", "--as", "olive@tea.example", "--json"]).exits(0).json();
        assert!(sink.wait_for(1, 10)[0].text().contains("[TEST]"));

        let sent = shop.optin(&["send", "spring-leaves", "--json"]).exits(0).json();
        has_keys(&sent, &["run", "state", "audience", "sent", "deferred", "bounced", "failed", "in_doubt", "skipped"]);
        assert_eq!((&sent["sent"], &sent["state"]), (&2.into(), &"done".into()));
        let again = shop.optin(&["send", "spring-leaves", "--json"]).exits(0).json();
        assert_eq!((&again["run"], sink.wait_for(3, 10).len()), (&sent["run"], 3), "a finished run is not repeated");
        let run = sent["run"].to_string();
        let runs = shop.optin(&["run", "list", "--json"]).exits(0).json();
        has_keys(&runs["runs"][0], &["run", "campaign", "state"]);
        has_keys(&shop.optin(&["run", "show", &run, "--json"]).exits(0).json(), &["run", "campaign", "state", "in_doubt_mails"]);
        let refused = shop.optin(&["run", "pause", &run, "--json"]).exits(1).json();
        assert!(refused["error"].is_string(), "{refused}");
        assert!(shop.optin(&["run", "show", "1", "--json"]).exits(1).json()["error"].is_string());
        let report = shop.optin(&["report", "spring-leaves", "--json"]).exits(0).json();
        has_keys(&report, &["sent", "delivered", "bounced", "complained", "unsubscribed", "opens", "clicks"]);
        has_keys(&report["opens"], &["human", "machine", "unknowable", "unique", "anonymous"]);
        has_keys(&report["clicks"], &["human", "machine", "unique", "by_link"]);

        let contact = shop.optin(&["contact", "show", "mei@tea.example", "--json"]).exits(0).json();
        has_keys(&contact, &["email", "attributes", "topics", "suppressed", "scores", "recent"]);
        has_keys(&contact["topics"][0], &["topic", "standing", "since"]);
        shop.optin(&["consent", "withdraw", "mei@tea.example", "--topic", "tea-letter", "--source", "by telephone"]).exits(0);
        let grant = ["consent", "grant", "mei@tea.example", "--topic", "tea-letter", "--source", "a list", "--json"];
        let refused = shop.optin(&grant).exits(1).json();
        assert!(refused["hint"].as_str().unwrap().contains("--confirmed"), "{refused}");
        shop.optin(&[&grant[..], &["--confirmed"]].concat()).exits(0);
        let history = shop.optin(&["consent", "history", "mei@tea.example", "--json"]).exits(0).json();
        has_keys(&history["events"][0], &["at", "topic", "action", "source", "wording", "proof"]);
        assert_eq!(history["events"].as_array().unwrap().len(), 3);
        assert_eq!(shop.optin(&["consent", "verify", "--json"]).exits(0).json()["valid"], true);

        for call in [&["contact", "show", "nobody@tea.example"][..], &["consent", "history", "nobody@tea.example"]] {
            assert!(shop.optin(&[call, &["--json"]].concat()).exits(1).json()["error"].is_string());
        }
        let unknown = shop.optin(&["send", "spring-leafs", "--json"]).exits(2).json();
        assert!(unknown.to_string().contains("did you mean `spring-leaves`?"), "{unknown}");
    }
);

#[test]
fn a_person_sees_the_same_on_both_databases() {
    let mut seen = Vec::new();
    for database in databases() {
        let sink = smtp::Sink::start();
        let shop = shop(&database, &sink);
        let mut text = String::new();
        for call in [
            IMPORT,
            &["segment", "list"],
            &["segment", "members", "interests contains 'oolong' or vip"],
            &["report", "spring-leaves"],
            &["send", "spring-leaves"],
            &["send", "spring-leaves"],
            &["run", "list"],
            &["report", "tuesday-letter"],
            &["consent", "withdraw", "olive@tea.example", "--source", "by telephone"],
            &["consent", "history", "olive@tea.example"],
            &["contact", "show", "olive@tea.example"],
            &["contact", "show", "nobody@tea.example"],
            &["segment", "count", "citty = 'x' and age > 'old'"],
            &["send", "spring-leafs"],
        ] {
            let said = shown(&call.join(" "), &shop.optin(call)).replace(&format!(":{}", shop.port()), ":<port>");
            text.push_str(&steady(&said));
            text.push('\n');
        }
        seen.push(text);
    }
    insta::assert_snapshot!("a_day", &seen[0]);
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn the_inbox_of_serve_takes_the_place_of_a_relay_on_this_machine() {
    let database = TestDatabase::sqlite();
    let relay = format!("smtp://127.0.0.1:{}", free_port());
    let shop = Instance::example(&database).with_env("OPTIN_SMTP__URL", &relay);
    std::fs::write(shop.root().join("customers.csv"), CUSTOMERS).unwrap();
    shop.optin(IMPORT).exits(0);
    // Nobody listens yet: nothing is lost, and the same command goes on later.
    let waiting = shop.optin(&["send", "spring-leaves", "--wait", "0", "--json"]).exits(1);
    assert_eq!(waiting.json()["sent"], 0, "{waiting}");
    let mut serve = shop.command(&["serve", "--dev-inbox", "--only", "web"]).spawn();
    serve.wait_for_line("optin is ready at http://127.0.0.1:", 20);
    let sent = shop.optin(&["send", "spring-leaves", "--json"]).exits(0).json();
    assert_eq!((&sent["sent"], &sent["state"]), (&2.into(), &"done".into()));
    let inbox = crate::support::http::get(&shop.url("/inbox")).text();
    assert!(inbox.contains("mei@tea.example") && inbox.contains("olive@tea.example"), "{inbox}");
    serve.signal("TERM");
    assert_eq!(serve.wait(20).0, 0);
}

#[test]
fn the_inbox_of_serve_finds_another_port_when_its_own_is_taken() {
    let database = TestDatabase::sqlite();
    let sink = smtp::Sink::start();
    let shop = shop(&database, &sink);
    let mut serve = shop.command(&["serve", "--dev-inbox", "--only", "web", "--json"]).spawn();
    serve.wait_for_line(&format!("127.0.0.1:{} is taken", sink.port()), 20);
    serve.wait_for_line("\"ready\": true", 20);
    serve.signal("TERM");
    assert_eq!(serve.wait(20).0, 0);
    assert_eq!(sink.received().len(), 0);
}
