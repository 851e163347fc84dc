//! What is forgotten by itself: a dry run counts what a run removes, and nothing else goes.

use optin::clock::Time;
use optin::db::Db;
use serde_json::Value;

use crate::support::{self, on_each_database};

const NOW: &str = "2026-12-01T09:00:00Z";
const RULES: &str = "[site]\nurl = \"http://127.0.0.1:8080\"\n[sender]\nname = \"Tea House\"\nemail = \"letters@tea.example\"\npostal_address = \"1 Leaf Street, Taipei\"\n\
     [retention]\nclient_days = 10\ncompact_days = 0\nhit_days = 800\nmessage_days = 20\ninactive_months = 12\nunconfirmed_days = 30\n";
const FILES: &[(&str, &str)] = &[
    ("optin.toml", RULES),
    ("topics.toml", "[letter]\nname = \"Letter\"\nopt_in = \"double\"\n"),
    ("messages/order.toml", "subject = \"Order\"\nbody = \"order.md\"\n"),
    ("messages/order.md", "Dear {{ data.name }}\n"),
];

fn counts(found: &Value) -> Vec<(String, i64)> {
    found["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| (rule["rule"].as_str().unwrap().to_owned(), rule["count"].as_i64().unwrap()))
        .collect()
}

async fn number(db: &Db, sql: &str) -> i64 {
    db.fetch_one(sql, vec![]).await.unwrap().get(0).unwrap()
}

/// People and traces of many ages, by a small generator of numbers.
async fn fill(db: &Db, instance: &support::Instance, seed: u64) {
    let now = Time::parse(NOW).unwrap();
    let mut state = seed;
    let mut roll = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut list = "email\n".to_owned();
    (0..40).for_each(|person| list.push_str(&format!("p{person}@tea.example\n")));
    instance.write("../list.csv", list);
    let path = instance.root().join("list.csv");
    let import = ["import", "contacts", path.to_str().unwrap(), "--topic", "letter", "--consent", "pending", "--source", "a fair"];
    instance.command(&import).clock("2023-01-01T09:00:00Z").run().exits(0);
    for person in 0..40 {
        let email = format!("p{person}@tea.example");
        let age = roll(1_100) as i64;
        let at = now.plus(-age * optin::clock::DAY - 1_000);
        if roll(3) > 0 {
            instance
                .command(&["consent", "grant", &email, "--topic", "letter", "--source", "x", "--confirmed"])
                .clock(&at.to_string())
                .run()
                .exits(0);
        }
        let contact = number(db, &format!("SELECT id FROM contact WHERE email_key = '{email}'")).await;
        for hit in 0..roll(4) {
            let at = now.plus(-(roll(1_200) as i64) * optin::clock::DAY - 1_000).millis();
            let verdict = if roll(2) == 0 { "human" } else { "machine" };
            let id = person * 10 + hit as i64 + 1;
            let sql = format!(
                "INSERT INTO hit (id, at, kind, delivery_id, run_id, contact_id, verdict, signals, ip, agent)
                 VALUES ({id}, {at}, 'open', 1, 1, {contact}, '{verdict}', '', '198.51.100.1', 'Agent')"
            );
            db.execute(&sql, vec![]).await.unwrap();
        }
        if roll(4) == 0 {
            let at = now.plus(-(roll(60) as i64) * optin::clock::DAY).to_string();
            let send = ["message", "send", "--to", &email, "--template", "order", "--data", "{\"name\": \"Mei\"}"];
            instance.command(&send).clock(&at).run().exits(0);
        }
    }
    db.execute("UPDATE delivery SET state = 'sent'", vec![]).await.unwrap();
}

on_each_database! {
    async fn a_dry_run_tells_what_the_run_removes(database) {
        let instance = support::instance(&database, FILES);
        let db = database.open().await;
        {
            fill(&db, &instance, 7).await;
            let people = number(&db, "SELECT COUNT(*) FROM contact").await;
            let hits = number(&db, "SELECT COUNT(*) FROM hit").await;
            let dry = instance.command(&["retention", "run", "--dry-run", "--json"]).clock(NOW).run().exits(0).json();
            assert_eq!((number(&db, "SELECT COUNT(*) FROM contact").await, number(&db, "SELECT COUNT(*) FROM hit").await), (people, hits));
            let done = instance.command(&["retention", "run", "--json"]).clock(NOW).run().exits(0).json();
            assert_eq!(counts(&dry), counts(&done));
            let of = |rule: &str| counts(&done).into_iter().find(|(name, _)| name == rule).unwrap().1;
            for rule in ["hit_clients", "hits", "message_data", "unconfirmed", "inactive"] {
                assert!(of(rule) > 0, "nothing to do for {rule}: {done:#}");
            }
            assert_eq!(number(&db, "SELECT COUNT(*) FROM contact").await, people - of("unconfirmed") - of("inactive"));
            assert_eq!(number(&db, "SELECT COUNT(*) FROM hit").await, hits - of("hits"));
            for example in done["rules"].as_array().unwrap().iter().flat_map(|rule| rule["examples"].as_array().unwrap()) {
                assert!(example.as_str().unwrap().contains("***@"), "{example}");
            }
            let again = instance.command(&["retention", "run", "--json"]).clock(NOW).run().exits(0).json();
            assert!(counts(&again).iter().all(|(_, count)| *count == 0), "{again:#}");
            assert_eq!(number(&db, "SELECT COUNT(*) FROM retention_run").await, 6);
            instance.optin(&["consent", "verify", "--json"]).exits(0);
        }
    }
}

on_each_database! {
    async fn nobody_is_inactive_because_their_hits_were_removed(database) {
        let instance = support::instance(&database, FILES);
        instance.write("optin.toml", RULES.replace("hit_days = 800", "hit_days = 30"));
        instance.command(&["consent", "grant", "mei@tea.example", "--topic", "letter", "--source", "x"]).clock("2023-01-01T09:00:00Z").run().exits(0);
        let done = instance.command(&["retention", "run", "--json"]).clock(NOW).run().exits(0).json();
        assert!(done["left_out"].as_str().unwrap().contains("hit_days = 30"), "{done:#}");
        instance.optin(&["contact", "show", "mei@tea.example"]).exits(0);
    }
}
