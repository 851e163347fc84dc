//! Nobody is mailed without permission, and the ledger shows every tampering.

use std::time::Duration;

use optin::args;
use serde_json::Value;

use crate::send::{header, import, people, per_person, send, shop};
use crate::support::smtp::{Script, Sink};
use crate::support::{Instance, http, on_each_database};

fn standing(shop: &Instance, email: &str) -> String {
    let contact = shop.optin(&["contact", "show", email, "--json"]).exits(0).json();
    contact["topics"][0]["standing"].as_str().unwrap().to_owned()
}

fn withdraw(shop: &Instance, email: &str, topic: Option<&str>) {
    let mut args = vec!["consent", "withdraw", email, "--source", "phone call"];
    args.extend(topic.into_iter().flat_map(|topic| ["--topic", topic]));
    shop.optin(&args).exits(0);
}

fn grant(shop: &Instance, email: &str, topic: &str, more: &[&str]) -> i32 {
    shop.optin(&[&["consent", "grant", email, "--topic", topic, "--source", "paper form"], more].concat()).code
}

on_each_database!(
    async fn without_permission_nobody_is_mailed_and_the_report_says_why(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        import(&shop, "email\nyes@customer.example\nleft@customer.example\nblocked@customer.example\n", "confirmed");
        import(&shop, "email\npending@customer.example\n", "pending");
        import(&shop, "email\nstranger@customer.example\n", "none");
        withdraw(&shop, "left@customer.example", Some("tea-letter"));
        shop.write("../blocked.csv", "email\nBlocked@Customer.example\n");
        shop.optin(&["import", "suppressions", "blocked.csv"]).exits(0);
        // An import overrides neither a withdrawal nor a suppression.
        import(&shop, "email\nleft@customer.example\nblocked@customer.example\n", "confirmed");
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!(sent["excluded"], serde_json::json!({ "pending": 1, "suppressed": 1, "unsubscribed": 1 }), "{sent}");
        assert_eq!((&sent["audience"], &sent["sent"]), (&1.into(), &1.into()));
        assert_eq!(per_person(&sink.received()).keys().collect::<Vec<_>>(), ["yes@customer.example"]);
    }
);

on_each_database!(
    async fn only_a_fresh_confirmation_brings_somebody_back(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        import(&shop, "email\nmei@customer.example\n", "confirmed");
        withdraw(&shop, "mei@customer.example", Some("tea-letter"));
        assert_eq!(grant(&shop, "mei@customer.example", "tea-letter", &[]), 1);
        assert_eq!(standing(&shop, "mei@customer.example"), "unsubscribed");
        assert_eq!(grant(&shop, "mei@customer.example", "tea-letter", &["--confirmed"]), 0);
        assert_eq!(standing(&shop, "mei@customer.example"), "subscribed");
        // From everything: also from what they never had.
        withdraw(&shop, "mei@customer.example", None);
        assert_eq!(grant(&shop, "mei@customer.example", "offers", &[]), 1);
        assert_eq!(send(&shop, &[]).exits(0).json()["sent"], 0);
        let history = shop.optin(&["consent", "history", "mei@customer.example", "--json"]).exits(0).json();
        let events = history["events"].as_array().unwrap();
        let actions: Vec<&str> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["granted", "withdrawn", "confirmed", "withdrawn", "withdrawn"], "{history}");
        assert_eq!(events[0]["source"], "spring fair, line 2");
        assert!(events.iter().all(|event| event["proof"]["hash"].as_str().unwrap().len() == 64));
        assert_eq!(shop.optin(&["consent", "verify", "--json"]).exits(0).json()["events"], 5);
    }
);

on_each_database!(
    async fn a_withdrawal_after_the_audience_was_written_still_counts(database) {
        let mut sink = Sink::down(Script::default());
        let shop = shop(&database, &sink);
        people(&shop, 3);
        send(&shop, &["--wait", "0"]).exits(1);
        withdraw(&shop, "p1@customer.example", Some("tea-letter"));
        sink.come_up();
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!((&sent["audience"], &sent["sent"], &sent["skipped"]["unsubscribed"]), (&3.into(), &2.into(), &1.into()), "{sent}");
        assert!(!per_person(&sink.received()).contains_key("p1@customer.example"));
    }
);

on_each_database!(
    async fn one_click_while_the_send_runs_keeps_the_mail_back(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, 200);
        // Last week's mail to each of them, with its link.
        send(&shop, &[]).exits(0);
        let links: std::collections::BTreeMap<String, String> = sink
            .received()
            .iter()
            .map(|mail| {
                let header = header(&mail.text(), "List-Unsubscribe").remove(0);
                (mail.to[0].clone(), header[1..header.find('>').unwrap()].to_owned())
            })
            .collect();
        let mut serving = shop.command(&["serve", "--only", "web"]).spawn();
        serving.wait_for_line("ready", 20);
        sink.script(|script| script.reply_delay = Duration::from_millis(15));
        let sending = shop.command(&["send", "weekly", "--json", "--again"]).spawn();
        sink.wait_for(220, 30);
        let had: Vec<String> = sink.received().iter().skip(200).map(|mail| mail.to[0].clone()).collect();
        let late: Vec<&String> = links.keys().filter(|email| !had.contains(email)).rev().take(20).collect();
        let mut withdrawn = Vec::new();
        for email in late {
            let answer = http::post(&links[email], "application/x-www-form-urlencoded", b"List-Unsubscribe=One-Click");
            assert_eq!(answer.status, 200);
            let received = sink.received();
            withdrawn.push((email.clone(), received.len()));
        }
        let (code, output) = sending.wait(60);
        assert_eq!(code, 0, "{output:#?}");
        let received = sink.received();
        for (email, seen) in &withdrawn {
            // Not in what came after our answer, but for the one a session was handing over just then.
            let after = received.iter().skip(seen + 4).any(|mail| mail.to[0] == *email);
            assert!(!after, "{email} was mailed after the withdrawal was answered");
        }
        let run = shop.optin(&["run", "list", "--json"]).exits(0).json()["runs"][0].clone();
        let skipped = run["skipped"]["unsubscribed"].as_u64().unwrap_or(0);
        assert!(skipped > 0 && run["sent"].as_u64().unwrap() + skipped == 200, "{run}");
        serving.signal("TERM");
        assert_eq!(serving.wait(20).0, 0);
    }
);

on_each_database!(
    async fn the_ledger_shows_every_tampering_and_names_the_first_entry(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, 20);
        withdraw(&shop, "p3@customer.example", Some("tea-letter"));
        let verify = || shop.optin(&["consent", "verify", "--json"]);
        let whole = verify().exits(0).json();
        assert_eq!((&whole["valid"], &whole["events"]), (&true.into(), &21.into()));
        let copy = "seq, at, contact_id, topic_id, action, source, source_line, wording_hash, evidence, evidence_digest, hash, version, \
                    channel, purpose, basis, frequency, until, detail, origin, origin_digest";
        let attacks: [(&str, Vec<String>, i64); 8] = [
            ("edited", vec!["UPDATE consent_event SET action = 'granted' WHERE seq = 21".into()], 21),
            ("another source", vec!["UPDATE consent_event SET source = 'x' WHERE seq = 7".into()], 7),
            ("another time", vec!["UPDATE consent_event SET at = at + 1 WHERE seq = 1".into()], 1),
            ("deleted", vec!["DELETE FROM consent_event WHERE seq = 9".into()], 9),
            ("truncated", vec!["DELETE FROM consent_event WHERE seq = 21".into()], 21),
            (
                "inserted at the end",
                vec![format!("INSERT INTO consent_event (seq, at, contact_id, topic_id, action, source, hash) SELECT 22, at, contact_id, topic_id, action, source, hash FROM consent_event WHERE seq = 21")],
                22,
            ),
            (
                "swapped",
                vec![
                    "UPDATE consent_event SET seq = 100 WHERE seq = 4".into(),
                    "UPDATE consent_event SET seq = 4 WHERE seq = 5".into(),
                    "UPDATE consent_event SET seq = 5 WHERE seq = 100".into(),
                ],
                4,
            ),
            ("a proof added", vec!["UPDATE consent_event SET evidence = '{}' WHERE seq = 2".into()], 2),
        ];
        let db = database.open().await;
        let backup = "CREATE TABLE backup_of_events AS SELECT * FROM consent_event";
        db.execute(backup, args![]).await.unwrap();
        for (name, statements, first_broken) in attacks {
            for statement in &statements {
                db.execute(statement, args![]).await.unwrap();
            }
            let found = verify().exits(1);
            assert_eq!((&found.json()["valid"], &found.json()["first_broken"]), (&false.into(), &Value::from(first_broken)), "{name}: {found}");
            assert!(found.stderr.contains(&format!("entry {first_broken}")), "{name}: {found}");
            db.execute("DELETE FROM consent_event", args![]).await.unwrap();
            db.execute(&format!("INSERT INTO consent_event ({copy}) SELECT {copy} FROM backup_of_events"), args![]).await.unwrap();
            verify().exits(0);
        }
    }
);
