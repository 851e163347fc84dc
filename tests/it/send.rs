//! A campaign from a file of people to the relay, through the program itself.

use std::collections::{BTreeMap, BTreeSet};

use mail_parser::{MessageParser, MimeHeaders as _};
use serde_json::Value;

use crate::support::process::Output;
use crate::support::smtp::{Received, Script, Sink};
use crate::support::{Instance, TestDatabase, instance, on_each_database};

/// Retries at once, so that no test waits; short patience.
const OPTIN: &str = r#"[site]
url = "http://127.0.0.1:8080"
[smtp]
connections = 4
timeout_seconds = 3
[sender]
name = "茶屋 Tea House"
email = "letters@tea.example"
postal_address = "1 Leaf Street, Taipei"
[delivery]
retry_seconds = [1]
retry_hours = 1
[attributes]
city = "text"
"#;
const TOPICS: &str = r#"[tea-letter]
name = "Tea letter"
description = "What is fresh, every Tuesday"
[offers]
name = "Offers"
description = "Now and then"
"#;
pub(crate) const WEEKLY: &str = r#"topic = "tea-letter"
subject = "{{ contact.first_name | default('Tea lover') }}, 春茶到了 — this week's leaves"
preheader = "Three new oolongs"
layout = "newsletter"
body = "weekly.md"
"#;
const BODY: &str = "# Fresh\n\nDear {{ contact.first_name | default('tea lover') }},\n\n[Three new oolongs](https://tea.example/oolong) came in. 三種新烏龍。\n\n.dots and\nFrom the hills\n";

/// An instance with the campaign `weekly`, wired to `sink`.
pub(crate) fn shop(database: &TestDatabase, sink: &Sink) -> Instance {
    instance(database, &[("optin.toml", OPTIN), ("topics.toml", TOPICS), ("campaigns/weekly.toml", WEEKLY), ("campaigns/weekly.md", BODY)])
        .with_smtp(sink)
}

/// Imports `count` people, `p0@customer.example` and on, subscribed to the tea letter.
pub(crate) fn people(shop: &Instance, count: usize) {
    let lines: String = (0..count).map(|i| format!("p{i}@customer.example,Person {i}\n")).collect();
    import(shop, &format!("email,first_name\n{lines}"), "confirmed");
}

pub(crate) fn import(shop: &Instance, csv: &str, consent: &str) -> Value {
    shop.write("../people.csv", csv);
    let args = ["import", "contacts", "people.csv", "--topic", "tea-letter", "--consent", consent, "--source", "spring fair", "--json"];
    shop.optin(&args).exits(0).json()
}

pub(crate) fn send(shop: &Instance, more: &[&str]) -> Output {
    let patience: &[&str] = if more.contains(&"--wait") { &[] } else { &["--wait", "1"] };
    shop.optin(&[&["send", "weekly", "--json"], patience, more].concat())
}

/// How often each address got a mail.
pub(crate) fn per_person(received: &[Received]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for mail in received {
        assert_eq!(mail.to.len(), 1, "one person a mail");
        *counts.entry(mail.to[0].clone()).or_default() += 1;
    }
    counts
}

#[track_caller]
pub(crate) fn each_once(received: &[Received], count: usize) {
    let counts = per_person(received);
    assert_eq!(counts.len(), count, "people who got a mail");
    let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "{} mailed more than once: {:?}", doubled.len(), &doubled[..doubled.len().min(5)]);
}

pub(crate) fn header(text: &str, name: &str) -> Vec<String> {
    let head = &text[..text.find("\r\n\r\n").unwrap_or(text.len())];
    let unfolded = head.replace("\r\n ", " ");
    let wanted = format!("{}: ", name.to_ascii_lowercase());
    let found: Vec<String> = unfolded
        .split("\r\n")
        .filter(|line| line.to_ascii_lowercase().starts_with(&wanted))
        .map(|line| line[wanted.len()..].to_owned())
        .collect();
    found
}

fn one(text: &str, name: &str) -> String {
    let mut found = header(text, name);
    assert_eq!(found.len(), 1, "{name} in {text}");
    found.remove(0)
}

/// The part between the brackets, without what differs in every mail: tokens, ids, dates.
fn without_tokens(text: &str) -> String {
    text.split(['"', '<', '>', ' ', '\n', '(', ')', '[', ']'])
        .filter(|word| !word.contains("http://127.0.0.1"))
        .collect::<Vec<_>>()
        .join(" ")
}

on_each_database!(
    async fn a_campaign_reaches_everybody_once_with_every_header_it_must_have(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        let imported = import(
            &shop,
            "email,first_name,city\nmei@customer.example,美,Taipei\nJoe@Customer.Example,\"Joe\r\nBcc: eve@evil.example\",\n\
             a+b@customer.example,,\nlong@customer.example,Lóng,Tainan\n",
            "confirmed",
        );
        assert_eq!((&imported["added"], &imported["rejected"]), (&4.into(), &0.into()), "{imported}");
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!((&sent["state"], &sent["audience"], &sent["sent"]), (&"done".into(), &4.into(), &4.into()), "{sent}");
        for zero in ["deferred", "bounced", "failed", "in_doubt"] {
            assert_eq!(sent[zero], 0, "{zero}");
        }
        let mails = sink.received();
        each_once(&mails, 4);
        assert_eq!(sink.breaches(), Vec::<String>::new());
        let mut ids = BTreeSet::new();
        let mut links = BTreeSet::new();
        for mail in &mails {
            let text = mail.text();
            assert_eq!(one(&text, "To"), mail.to[0]);
            assert!(one(&text, "Date").ends_with(" +0000"));
            let id = one(&text, "Message-ID");
            assert!(id.starts_with('<') && id.ends_with(".optin@tea.example>") && !id.contains("customer"), "{id}");
            ids.insert(id);
            assert_eq!(one(&text, "List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");
            let unsubscribe = one(&text, "List-Unsubscribe");
            let targets: Vec<&str> = unsubscribe.split(", ").collect();
            assert!(targets.len() == 2 && targets.iter().all(|target| target.starts_with('<') && target.ends_with('>')), "{unsubscribe}");
            assert!(targets[0].starts_with(&format!("<{}", shop.url("/u/"))) && targets[1].starts_with("<mailto:"), "{unsubscribe}");
            links.insert(targets[0].to_owned());
            assert_eq!(one(&text, "List-Id").split_once('<').unwrap().1, "tea-letter.tea.example>");
            assert_eq!(one(&text, "List-Post"), "NO");
            let feedback = one(&text, "Feedback-ID");
            assert!(feedback.split(':').count() <= 4 && (5..=15).contains(&feedback.rsplit(':').next().unwrap().len()), "{feedback}");
            assert!(header(&text, "Bcc").is_empty() && header(&text, "From").len() == 1);
            assert!(!text.contains("customer%40") && text.lines().all(|line| line.len() <= 998));
            let parsed = MessageParser::default().parse(&mail.data).unwrap();
            let from = parsed.from().and_then(|from| from.first()).unwrap();
            assert_eq!((from.name(), from.address()), (Some("茶屋 Tea House"), Some("letters@tea.example")));
            assert!(parsed.subject().unwrap().ends_with(", 春茶到了 — this week's leaves"), "{:?}", parsed.subject());
            let kinds: Vec<_> = parsed.parts.iter().filter_map(|part| part.content_type()).map(|kind| kind.subtype().unwrap().to_owned()).collect();
            assert_eq!(kinds, ["alternative", "plain", "html"]);
            assert!(parsed.body_text(0).unwrap().contains("/u/"), "the text part can be unsubscribed from");
            assert!(parsed.body_html(0).unwrap().contains("三種新烏龍"));
        }
        assert_eq!((ids.len(), links.len()), (4, 4), "everybody's own");
        let report = shop.optin(&["report", "weekly", "--json"]).exits(0).json();
        assert_eq!((&report["sent"], &report["delivered"], &report["bounced"]), (&4.into(), &4.into(), &0.into()));
        let run = sent["run"].to_string();
        let list = shop.optin(&["run", "list", "--json"]).exits(0).json();
        assert_eq!((list["runs"].as_array().unwrap().len(), &list["runs"][0]["sent"]), (1, &4.into()));
        let shown = shop.optin(&["run", "show", &run, "--json"]).exits(0).json();
        assert_eq!((&shown["sent"], &shown["campaign"]), (&4.into(), &"weekly".into()));
        let contact = shop.optin(&["contact", "show", "joe@customer.example", "--json"]).exits(0).json();
        assert_eq!((&contact["topics"][0]["standing"], &contact["recent"][0]["what"]), (&"subscribed".into(), &"sent".into()), "{contact}");
    }
);

on_each_database!(
    async fn a_preview_is_what_is_sent_and_a_test_counts_nowhere(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        import(&shop, "email,first_name\nmei@customer.example,美\n", "confirmed");
        let preview = shop.optin(&["preview", "weekly", "--to", "mei@customer.example", "--format", "eml"]).exits(0);
        shop.optin(&["test", "weekly", "--to", "me@tea.example", "--as", "mei@customer.example"]).exits(0);
        let before = shop.optin(&["report", "weekly", "--json"]).exits(0).json();
        assert_eq!(before["sent"], 0);
        assert_eq!(shop.optin(&["run", "list", "--json"]).exits(0).json()["runs"], Value::Array(Vec::new()));
        send(&shop, &[]).exits(0);
        let mails = sink.received();
        assert_eq!(mails.iter().map(|mail| mail.to[0].as_str()).collect::<Vec<_>>(), ["me@tea.example", "mei@customer.example"]);
        let parser = MessageParser::default();
        let (test, real) = (parser.parse(&mails[0].data).unwrap(), parser.parse(&mails[1].data).unwrap());
        let shown = parser.parse(preview.stdout.as_bytes()).unwrap();
        assert_eq!(shown.subject(), real.subject());
        assert_ne!(test.subject(), real.subject());
        assert!(test.subject().unwrap().ends_with(real.subject().unwrap()));
        assert_eq!(without_tokens(&shown.body_text(0).unwrap()), without_tokens(&real.body_text(0).unwrap()));
        assert_eq!(without_tokens(&shown.body_html(0).unwrap()), without_tokens(&real.body_html(0).unwrap()));
    }
);

on_each_database!(
    async fn a_finished_run_is_not_repeated_but_again_makes_a_new_one(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, 10);
        let first = send(&shop, &[]).exits(0).json();
        let second = send(&shop, &[]).exits(0).json();
        assert_eq!((&first["run"], sink.received().len()), (&second["run"], 10));
        let third = send(&shop, &["--again"]).exits(0).json();
        assert_ne!(first["run"], third["run"]);
        let counts = per_person(&sink.received());
        assert!(counts.len() == 10 && counts.values().all(|count| *count == 2), "{counts:?}");
        let ids: BTreeSet<String> = sink.received().iter().map(|mail| one(&mail.text(), "Message-ID")).collect();
        assert_eq!(ids.len(), 20);
    }
);

on_each_database!(
    async fn two_senders_started_together_reach_each_person_once(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, 600);
        let args = ["send", "weekly", "--json", "--wait", "10"];
        let both = [shop.command(&args).spawn(), shop.command(&args).spawn()];
        for running in both {
            let (code, output) = running.wait(60);
            assert_eq!(code, 0, "{output:#?}");
        }
        each_once(&sink.received(), 600);
        let runs = shop.optin(&["run", "list", "--json"]).exits(0).json();
        assert_eq!((runs["runs"].as_array().unwrap().len(), &runs["runs"][0]["sent"]), (1, &600.into()), "{runs}");
    }
);

on_each_database!(
    async fn pause_stops_at_once_resume_goes_on_cancel_ends(database) {
        let sink = Sink::with(Script { reply_delay: std::time::Duration::from_millis(15), ..Script::default() });
        let shop = shop(&database, &sink);
        people(&shop, 400);
        let sending = shop.command(&["send", "weekly", "--json"]).spawn();
        sink.wait_for(20, 30);
        let run = shop.optin(&["run", "list", "--json"]).exits(0).json()["runs"][0]["run"].to_string();
        let paused = shop.optin(&["run", "pause", &run, "--json"]).exits(0).json();
        assert_eq!(paused["state"], "paused");
        let (code, output) = sending.wait(10);
        assert_eq!(code, 1, "{output:#?}");
        let shown = shop.optin(&["run", "show", &run, "--json"]).exits(0).json();
        let so_far = sink.received().len();
        assert!(so_far < 400 && shown["in_doubt"] == 0, "{shown}");
        assert_eq!(shown["sent"].as_u64().unwrap() as usize, so_far, "{shown}");
        send(&shop, &[]).exits(1);
        assert_eq!(sink.received().len(), so_far, "a paused run stays paused");
        shop.optin(&["run", "resume", &run]).exits(0);
        sink.script(|script| script.reply_delay = std::time::Duration::ZERO);
        assert_eq!(send(&shop, &[]).exits(0).json()["sent"], 400);
        each_once(&sink.received(), 400);
        shop.optin(&["run", "cancel", &run]).exits(1);
    }
);

on_each_database!(
    async fn cancelled_and_sent_again_everybody_has_it_once(database) {
        let sink = Sink::with(Script { reply_delay: std::time::Duration::from_millis(10), ..Script::default() });
        let shop = shop(&database, &sink);
        people(&shop, 200);
        let sending = shop.command(&["send", "weekly", "--json"]).spawn();
        sink.wait_for(20, 30);
        let run = shop.optin(&["run", "list", "--json"]).exits(0).json()["runs"][0]["run"].to_string();
        shop.optin(&["run", "cancel", &run]).exits(0);
        // At once, while the last conversations of the cancelled run may still go on.
        sink.script(|script| script.reply_delay = std::time::Duration::ZERO);
        let rest = send(&shop, &["--wait", "10"]).exits(0).json();
        assert_eq!(sending.wait(20).0, 1);
        assert_ne!(rest["run"].to_string(), run);
        each_once(&sink.received(), 200);
        let before = rest["excluded"]["already_in_run"].as_u64().unwrap();
        assert_eq!(rest["sent"].as_u64().unwrap() + before, 200, "{rest}");
        // Asked for expressly, it goes to all of them again.
        assert_eq!(send(&shop, &["--again"]).exits(0).json()["sent"], 200);
    }
);

on_each_database!(
    async fn a_template_that_fails_for_one_skips_one_and_for_all_fails_the_run(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        import(&shop, "email,first_name,city\na@customer.example,A,7\nb@customer.example,B,Taipei\nc@customer.example,C,8\n", "confirmed");
        shop.write("campaigns/weekly.toml", WEEKLY.replace("{{ contact.first_name | default('Tea lover') }}", "{{ contact.city | int }}"));
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!((&sent["sent"], &sent["skipped"]["render_failed"]), (&2.into(), &1.into()), "{sent}");
        let shown = shop.optin(&["run", "show", &sent["run"].to_string(), "--json"]).exits(0).json();
        assert_eq!(shown["skipped_mails"][0]["email"], "b@customer.example");
        assert!(shown["skipped_mails"][0]["reply"].as_str().unwrap().contains("subject"), "{shown}");
        shop.write("campaigns/weekly.toml", WEEKLY.replace("{{ contact.first_name | default('Tea lover') }}", "{{ contact.first_name | int }}"));
        let failed = send(&shop, &["--again"]).exits(1);
        assert_eq!((&failed.json()["state"], &failed.json()["sent"]), (&"failed".into(), &0.into()), "{failed}");
        assert!(failed.json()["reason"].as_str().unwrap().contains("anybody"), "{failed}");
        assert_eq!(sink.received().len(), 2);
    }
);

on_each_database!(
    async fn a_run_scheduled_by_hand_is_sent_by_serve_and_not_twice(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, 5);
        let at = |time: &str| shop.command(&["send", "weekly", "--json", "--at", time]).clock("2026-12-01T08:00:00Z").run();
        assert_eq!(at("2026-12-01T09:00:00Z").exits(0).json()["state"], "scheduled");
        let second = at("2026-12-02T09:00:00Z").exits(1);
        assert!(second.stderr.contains("cancel"), "{second}");
        let mut serving = shop.command(&["serve", "--only", "worker"]).clock("2026-12-01T08:59:58Z").spawn();
        serving.wait_for_line("ready", 20);
        sink.wait_for(5, 20);
        serving.signal("TERM");
        let (code, output) = serving.wait(20);
        assert_eq!(code, 0, "{output:#?}");
        each_once(&sink.received(), 5);
        let runs = shop.optin(&["run", "list", "--json"]).exits(0).json();
        assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs}");
    }
);

on_each_database!(
    async fn serve_fires_a_cron_schedule_once_and_stops_on_sigterm(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, 5);
        shop.write("campaigns/weekly.toml", format!("{WEEKLY}[schedule]\ncron = \"0 9 * * TUE\"\ntimezone = \"Asia/Taipei\"\n"));
        for _ in 0..2 {
            // 09:00 in Taipei is 01:00 UTC; the second time nothing is due any more.
            let mut serving = shop.command(&["serve", "--only", "worker"]).clock("2026-12-01T00:59:58Z").spawn();
            serving.wait_for_line("ready", 20);
            sink.wait_for(5, 20);
            std::thread::sleep(std::time::Duration::from_millis(700));
            serving.signal("TERM");
            assert_eq!(serving.wait(20).0, 0);
        }
        each_once(&sink.received(), 5);
        let runs = shop.optin(&["run", "list", "--json"]).exits(0).json();
        assert_eq!((&runs["runs"][0]["state"], &runs["runs"][0]["scheduled_at"]), (&"done".into(), &"2026-12-01T01:00:00.000Z".into()), "{runs}");
    }
);
