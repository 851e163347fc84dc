//! Where rooms meet: people who were merged, people who are being erased, hits and computations at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use optin::args;
use optin::behaviour::merge;
use optin::clock::{DAY, Time};
use optin::config::AttributionModel;
use optin::consent::tracking::TrackingRules;
use optin::consent::{ALL_TOPICS, Action, NewEvent, Tracking};
use optin::contact::{self, Contact, Schema};
use optin::db::Db;
use optin::entropy::Entropy;
use optin::rights::erase::{Erasure, erase};
use optin::rights::retention::{self, Housekeeping, Rule};
use optin::token::Keys;
use optin::tracking::engagement_ops::{self as engagement, KnownRuns};
use optin::tracking::{Hit, ops};
use serde_json::json;

use crate::engagement::{NOW, person, rules, run, settle};
use crate::support::on_each_database;

const SAFARI: &str =
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15";

/// What is kept for good, but for people of whom nothing is heard.
const KEPT: optin::config::Retention = optin::config::Retention {
    client_days: 0,
    compact_days: 0,
    hit_days: 800,
    message_days: 0,
    event_days: 0,
    unconfirmed_days: 0,
    inactive_months: 12,
};
const SITE: &str = "[site]\nurl = \"http://127.0.0.1:8080\"\n[sender]\nname = \"Tea House\"\nemail = \"letters@tea.example\"\npostal_address = \"1 Leaf Street, Taipei\"\n";

/// A mail that went to somebody a hundred days ago.
async fn mail(db: &Db, delivery: i64, run: i64, contact: i64) {
    db.execute(
        "INSERT INTO delivery (id, run_id, contact_id, state, due_at, attempts, changed_at, provider) VALUES ($1, $2, $3, 'sent', 0, 1, $4, '')",
        args![delivery, run, contact, NOW.plus(-100 * DAY)],
    )
    .await
    .unwrap();
}

/// A run with three links.
async fn run_with_links(db: &Db, id: i64) {
    run(db, id, 40, None).await;
    for link in 0..3_i64 {
        let sql = "INSERT INTO run_link (run_id, position, url, name) VALUES ($1, $2, 'https://a.example', 'A')";
        db.execute(sql, args![id, link]).await.unwrap();
    }
}

fn click(id: i64, delivery: i64, link: i64, at: Time) -> Hit {
    let hit = Hit::click(delivery, link, at, Some("198.51.100.7".to_owned()), Some(SAFARI.to_owned()));
    Hit { id, ..hit.seen_as(false, Some("lang,html,user".to_owned())) }
}

async fn write(db: &Db, hits: &[Hit]) -> usize {
    ops::write_group(db, &TrackingRules::default().into(), hits, None).await.unwrap()
}

async fn contact(db: &Db, id: i64) -> Contact {
    contact::sql::by_ids(&mut db.clone(), &Schema::default(), &[id]).await.unwrap().pop().unwrap()
}

async fn merged(db: &Db, number: i64, kept: i64, gone: i64, at: Time) {
    let (kept, gone) = (contact(db, kept).await, contact(db, gone).await);
    let mut tx = db.begin().await.unwrap();
    merge::merge(&mut tx, &Schema::default(), &TrackingRules::default(), number, &kept, &gone, "a letter", at).await.unwrap();
    tx.commit().await.unwrap();
}

async fn number(db: &Db, sql: &str) -> i64 {
    db.fetch_one(sql, args![]).await.unwrap().get(0).unwrap()
}

async fn tracked(db: &Db, contact_id: i64, tracking: Tracking) {
    let mut tx = db.begin().await.unwrap();
    let event = NewEvent::new(contact_id, ALL_TOPICS, Action::Changed, "x");
    optin::consent::ops::set_tracking(&mut tx, &event, Some(tracking), NOW).await.unwrap();
    tx.commit().await.unwrap();
}

on_each_database! {
    async fn what_a_person_chose_holds_for_the_mails_of_every_address_of_theirs(database) {
        let db = database.open().await;
        run_with_links(&db, 1).await;
        for id in [7, 8, 9] {
            person(&db, id, None).await;
            mail(&db, id * 10, 1, id).await;
        }
        // 9 is 8, and 8 is 7.
        merged(&db, 1, 8, 9, NOW).await;
        merged(&db, 2, 7, 8, NOW).await;
        assert_eq!(write(&db, &[click(1, 90, 0, NOW)]).await, 1);
        assert_eq!(number(&db, "SELECT COUNT(*) FROM hit WHERE contact_id = 9").await, 1);
        tracked(&db, 7, Tracking::Anonymous).await;
        assert_eq!(write(&db, &[click(2, 90, 1, NOW), click(3, 80, 1, NOW)]).await, 2);
        assert_eq!(number(&db, "SELECT COUNT(*) FROM hit WHERE id > 1 AND contact_id = 0 AND delivery_id = 0 AND ip IS NULL").await, 2);
        tracked(&db, 7, Tracking::None).await;
        assert_eq!(write(&db, &[click(4, 90, 1, NOW), click(5, 80, 1, NOW), click(6, 70, 1, NOW)]).await, 0);
        // What the other address said holds for itself, also where the person is tracked.
        tracked(&db, 9, Tracking::None).await;
        tracked(&db, 7, Tracking::Full).await;
        assert_eq!(write(&db, &[click(7, 90, 2, NOW), click(8, 70, 2, NOW)]).await, 1);
    }
}

on_each_database! {
    async fn who_is_being_erased_leaves_no_hit(database) {
        let db = database.open().await;
        run_with_links(&db, 1).await;
        person(&db, 7, None).await;
        mail(&db, 70, 1, 7).await;
        let (keys, entropy) = (Keys::new("a secret", &[]), Entropy::seeded(3));
        let whom = contact(&db, 7).await;
        let mut tx = db.begin().await.unwrap();
        let erasure = Erasure { source: "cli", note: None, keep_out: false, demanded: false, days: 0 };
        erase(&mut tx, &keys, &entropy, &whom, &erasure, NOW).await.unwrap();
        let other = db.clone();
        let writing = tokio::spawn(async move { write(&other, &[click(1, 70, 0, NOW)]).await });
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        tx.commit().await.unwrap();
        assert_eq!(writing.await.unwrap(), 0);
        for table in ["hit", "hit_total", "engagement_due"] {
            assert_eq!(number(&db, &format!("SELECT COUNT(*) FROM {table} WHERE contact_id = 7")).await, 0, "{table}");
        }
        settle(&db, &rules(AttributionModel::LastClick), NOW).await;
    }
}

on_each_database! {
    async fn who_reads_at_an_address_that_was_merged_is_not_inactive(database) {
        let db = database.open().await;
        run_with_links(&db, 1).await;
        for id in [7, 8, 9, 17, 18] {
            person(&db, id, None).await;
            mail(&db, id * 10, 1, id).await;
        }
        // 9 is 8 and 8 is 7; 18 is 17: long ago.
        let long_ago = NOW.plus(-500 * DAY);
        for (number, kept, gone) in [(1, 8, 9), (2, 7, 8), (3, 17, 18)] {
            merged(&db, number, kept, gone, long_ago).await;
        }
        assert_eq!(write(&db, &[click(1, 90, 0, NOW.plus(-DAY))]).await, 1);
        assert_eq!(number(&db, "SELECT COUNT(*) FROM hit WHERE verdict = 'human'").await, 1);
        let kept = KEPT;
        let with = Housekeeping { db: &db, schema: &Schema::default(), keys: &Keys::new("a secret", &[]), entropy: &Entropy::seeded(3), kept: &kept };
        let mut found = retention::run(&with, true, NOW).await.unwrap();
        found.extend(retention::run(&with, false, NOW).await.unwrap());
        let counts: Vec<u64> = found.iter().filter(|found| found.rule == Rule::Inactive).map(|found| found.count).collect();
        assert_eq!(counts, [1, 1]);
        let rows = db.fetch_all("SELECT id FROM contact ORDER BY id", args![]).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.get::<i64>(0).unwrap()).collect::<Vec<_>>(), [7, 8, 9]);
    }
}

on_each_database! {
    async fn who_asked_to_be_confirmed_keeps_those_who_are_one_with_them(database) {
        let db = database.open().await;
        let entropy = Entropy::seeded(3);
        for id in [7, 8, 9] {
            person(&db, id, None).await;
        }
        let long_ago = NOW.plus(-100 * DAY);
        let topic = optin::consent::ops::ensure_topic(&db, "letter", &entropy, long_ago).await.unwrap();
        for (id, action) in [(7, Action::Requested), (8, Action::Granted), (9, Action::Requested)] {
            optin::consent::ops::record(&db, NewEvent::new(id, topic, action, "x"), long_ago).await.unwrap();
        }
        merged(&db, 1, 7, 8, long_ago).await;
        let kept = optin::config::Retention { inactive_months: 0, unconfirmed_days: 30, ..KEPT };
        let with = Housekeeping { db: &db, schema: &Schema::default(), keys: &Keys::new("a secret", &[]), entropy: &entropy, kept: &kept };
        let found = retention::run(&with, false, NOW).await.unwrap();
        assert_eq!(found.iter().filter(|found| found.rule == Rule::Unconfirmed).map(|found| found.count).collect::<Vec<_>>(), [1]);
        assert_eq!(number(&db, "SELECT COUNT(*) FROM contact WHERE id IN (7, 8)").await, 2);
    }
}

on_each_database! {
    async fn two_nodes_that_compute_people_while_they_click_miss_nothing(database) {
        let db = database.open().await;
        let rules = rules(AttributionModel::Linear);
        run_with_links(&db, 1).await;
        for id in 1..=6 {
            person(&db, id, None).await;
            mail(&db, id * 10, 1, id).await;
        }
        merged(&db, 1, 1, 2, NOW).await;
        let done = Arc::new(AtomicBool::new(false));
        let mut nodes = Vec::new();
        for _ in 0..2 {
            let (db, rules, done) = (db.clone(), rules.clone(), done.clone());
            nodes.push(tokio::spawn(async move {
                let mut known = KnownRuns::default();
                while !done.load(Ordering::Relaxed) {
                    engagement::refresh(&db, &rules, &mut known, NOW).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }));
        }
        let mut writers = Vec::new();
        for writer in 0..2_i64 {
            let db = db.clone();
            writers.push(tokio::spawn(async move {
                for step in 0..40_i64 {
                    let id = writer * 1_000 + step + 1;
                    let delivery = (1 + (step * 7 + writer * 3) % 6) * 10;
                    write(&db, &[click(id, delivery, step % 3, NOW.plus(-60 * DAY + step * 3_600_000 + writer))]).await;
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for node in nodes {
            node.await.unwrap();
        }
        settle(&db, &rules, NOW).await;
        let shown = async || {
            let sql = "SELECT topic_id, contact_id, opens, clicks, last_click_at, hours FROM engagement ORDER BY topic_id, contact_id";
            let rows = db.fetch_all(sql, args![]).await.unwrap();
            let of = |row: &optin::db::Row| -> (i64, i64, i64, i64, Option<i64>, String) {
                (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap(), row.get(3).unwrap(), row.get(4).unwrap(), row.get(5).unwrap())
            };
            let sums = db.fetch_all("SELECT topic_id, place, weight FROM engagement_prior WHERE weight <> 0 ORDER BY topic_id, place", args![]);
            let sums: Vec<(i64, i64, i64)> =
                sums.await.unwrap().iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap())).collect();
            (rows.iter().map(of).collect::<Vec<_>>(), sums)
        };
        let computed = shown().await;
        assert_eq!(computed.0.len(), 10, "five people, a topic and all: {computed:?}");
        let mut tx = db.begin().await.unwrap();
        engagement::touch(&mut tx, &[1, 2, 3, 4, 5, 6], NOW).await.unwrap();
        tx.commit().await.unwrap();
        settle(&db, &rules, NOW).await;
        assert_eq!(shown().await, computed);
        assert_eq!(number(&db, "SELECT CAST(SUM(times) AS BIGINT) FROM hit").await, 80);
    }
}

on_each_database! {
    async fn an_order_that_cannot_be_added_up_harms_no_other(database) {
        let world = crate::behaviour::World::new(&database).await;
        let line = json!({ "amount": 1e10 });
        let huge = json!({ "type": "order", "id": "huge", "email": "mei@tea.example", "at": "2026-09-01", "currency": "USD", "lines": [line, line] });
        let fine = json!({ "type": "order", "id": "fine", "email": "mei@tea.example", "at": "2026-09-01", "amount": 5 });
        // A container of tea in dong.
        let large = json!({ "type": "order", "id": "large", "email": "mei@tea.example", "at": "2026-09-01", "amount": 9_000_000_000_i64 });
        let verdicts = world.verdicts(&[huge, fine, large]).await;
        assert!(matches!(&verdicts[..], [optin::behaviour::Verdict::Rejected { field: "amount", .. }, optin::behaviour::Verdict::Added, optin::behaviour::Verdict::Added]), "{verdicts:?}");
        assert_eq!(world.number("SELECT amount FROM order_total").await, 90_000_000_050_000);
    }
}

on_each_database! {
    async fn a_folder_that_takes_no_log_is_told_at_the_start(database) {
        let shop = crate::support::instance(&database, &[("optin.toml", SITE), ("topics.toml", "[letter]\nname = \"Letter\"\n")]);
        shop.write("../file", "");
        let mut serving = shop.command(&["serve"]).env("OPTIN_TRACKING__LOG_DIR", shop.root().join("file")).spawn();
        let told = serving.wait_for_line("log_dir", 20);
        assert!(told.contains("ERROR") && told.contains("/file"), "{told}");
        serving.wait_for_line("optin is ready", 20);
        serving.signal("TERM");
        assert_eq!(serving.wait(20).0, 0);
    }
}

on_each_database! {
    async fn a_product_with_a_long_name_harms_no_other(database) {
        let world = crate::behaviour::World::new(&database).await;
        let entropy = Entropy::seeded(5);
        // Nothing that a database could make smaller.
        let name = |length: usize| (0..length).filter_map(|_| char::from_u32(0x2_0000 + entropy.below(0xa000) as u32)).collect::<String>();
        let order = |id: &str, length: usize| {
            json!({ "type": "order", "id": id, "email": "mei@tea.example", "at": "2026-09-01", "amount": 5, "product": name(length) })
        };
        let verdicts = world.verdicts(&[order("1", 500), order("2", 3)]).await;
        assert_eq!(verdicts, [optin::behaviour::Verdict::Added, optin::behaviour::Verdict::Added]);
        let faults = world.faults(order("3", 501));
        assert!(faults.len() == 1 && faults[0].contains("longer than 500 characters"), "{faults:?}");
    }
}

on_each_database! {
    async fn kinds_of_events_may_be_called_as_they_like(database) {
        let db = database.open().await;
        let events = ["call", "call_at", "call_contact", "call_key"].map(|name| {
            (name.to_owned(), optin::behaviour::EventSchema { name: name.to_owned(), properties: std::collections::BTreeMap::new() })
        });
        optin::behaviour::ops::ensure_tables(&db, &events.into(), NOW).await.unwrap();
        assert_eq!(number(&db, "SELECT COUNT(*) FROM event_type").await, 4);
    }
}
