//! Stored sums equal the rows behind them, after every kind of change; reports read the sums.

use std::collections::BTreeMap;
use std::sync::Arc;

use optin::args;
use optin::clock::{DAY, HOUR, MINUTE};
use optin::config::AttributionModel;
use optin::db::Db;
use optin::delivery::{State, ops as deliveries};
use optin::entropy::Entropy;
use serde_json::json;

use crate::engagement::{Hit, NOW, hit, person, rules, run, settle};
use crate::support::{instance, on_each_database};

/// What the counts say, which must be what the rows say.
async fn counts(db: &Db, run: i64) -> BTreeMap<(String, String), i64> {
    let rows = db.fetch_all("SELECT state, COALESCE(reason, ''), COUNT(*) FROM delivery WHERE run_id = $1 GROUP BY 1, 2", args![run]);
    let rows: BTreeMap<(String, String), i64> =
        rows.await.unwrap().iter().map(|row| ((row.get(0).unwrap(), row.get(1).unwrap()), row.get(2).unwrap())).collect();
    let counted = deliveries::counts(&mut db.clone(), run).await.unwrap();
    let counted: BTreeMap<(String, String), i64> =
        counted.into_iter().map(|(state, reason, count)| ((state.as_str().to_owned(), reason.unwrap_or_default()), count)).collect();
    assert_eq!(counted, rows);
    rows
}

async fn is_stored(db: &Db, run: i64) -> bool {
    let rows = db.fetch_all("SELECT count FROM run_count WHERE run_id = $1 AND state = ''", args![run]).await.unwrap();
    rows[0].get::<i64>(0).unwrap() == 1
}

on_each_database! {
    async fn counts_of_a_run_that_is_over_are_stored_and_never_differ_from_its_rows(database) {
        let db = database.open().await;
        let entropy = Entropy::seeded(7);
        run(&db, 1, 40, None).await;
        let people: Vec<(i64, Arc<str>)> = (1..=8).map(|id| (id, Arc::from("other"))).collect();
        let mut tx = db.begin().await.unwrap();
        deliveries::enqueue(&mut tx, 1, &people, NOW, &entropy, NOW).await.unwrap();
        tx.commit().await.unwrap();
        for (contact, state, reason) in [
            (1, "sent", None),
            (2, "sent", None),
            (3, "bounced", Some("unknown_user")),
            (4, "in_doubt", Some("reply_lost")),
            (5, "skipped", Some("withdrawn")),
            (6, "claimed", None),
        ] {
            let sql = "UPDATE delivery SET state = $1, reason = $2, worker = CASE WHEN $1 = 'claimed' THEN 3 END WHERE contact_id = $3";
            db.execute(sql, args![state, reason, contact]).await.unwrap();
        }
        db.execute("UPDATE delivery SET tracking = 'anonymous' WHERE contact_id IN (2, 3)", args![]).await.unwrap();
        // Not while a worker has one of them, nor while the run is under way or was cancelled a moment ago.
        assert!(!deliveries::store_counts(&db, 1).await.unwrap());
        assert!(!is_stored(&db, 1).await);
        counts(&db, 1).await;
        db.execute("UPDATE delivery SET state = 'sent', worker = NULL WHERE contact_id = 6", args![]).await.unwrap();
        db.execute("UPDATE run SET state = 'sending'", args![]).await.unwrap();
        assert_eq!(deliveries::counts_to_store(&mut db.clone(), NOW).await.unwrap(), [0_i64; 0]);
        db.execute("UPDATE run SET state = 'cancelled', finished_at = $1", args![NOW]).await.unwrap();
        assert_eq!(deliveries::counts_to_store(&mut db.clone(), NOW.plus(MINUTE)).await.unwrap(), [0_i64; 0]);
        let later = NOW.plus(HOUR);
        assert_eq!(deliveries::counts_to_store(&mut db.clone(), later).await.unwrap(), [1]);
        assert!(deliveries::store_counts(&db, 1).await.unwrap());
        assert!(is_stored(&db, 1).await);
        let rows = counts(&db, 1).await;
        assert_eq!(rows[&("sent".to_owned(), String::new())], 3);
        assert_eq!(deliveries::tracked_less(&mut db.clone(), 1).await.unwrap(), [("anonymous".to_owned(), 1)]);

        // Somebody who waits is erased; a doubtful mail is settled.
        let mut tx = db.begin().await.unwrap();
        optin::delivery::forget::forget_contact(&mut tx, 7, &entropy, later).await.unwrap();
        tx.commit().await.unwrap();
        assert!(!is_stored(&db, 1).await);
        assert_eq!(counts(&db, 1).await[&("skipped".to_owned(), "erased".to_owned())], 1);
        assert!(deliveries::store_counts(&db, 1).await.unwrap());
        assert_eq!(counts(&db, 1).await[&("skipped".to_owned(), "erased".to_owned())], 1);
        for resend in [false, true] {
            let mut tx = db.begin().await.unwrap();
            assert_eq!(deliveries::release_doubtful(&mut tx, 1, resend, later).await.unwrap(), u64::from(!resend));
            tx.commit().await.unwrap();
            assert!(!is_stored(&db, 1).await);
            counts(&db, 1).await;
            assert!(deliveries::store_counts(&db, 1).await.unwrap());
            counts(&db, 1).await;
        }
        assert!(!deliveries::store_counts(&db, 1).await.unwrap(), "they hold already");
        let all = deliveries::counts(&mut db.clone(), 1).await.unwrap();
        assert!(all.contains(&(State::Sent, Some("released".to_owned()), 1)), "{all:?}");
    }
}

on_each_database! {
    async fn reports_name_what_came_of_campaigns_links_and_audiences(database) {
        let db = database.open().await;
        let shop = instance(&database, &[("topics.toml", "[letter]\nname = \"Tea letter\"\n")]).with_env("OPTIN_BEHAVIOUR__CURRENCY", "TWD");
        for id in [7, 8] {
            person(&db, id, None).await;
        }
        for id in [1, 2] {
            run(&db, id, 40, Some(r#"{"model":"linear"}"#)).await;
            let link = "INSERT INTO run_link (run_id, position, url, name) VALUES ($1, 0, 'https://tea.example/oolong', 'Oolong')";
            db.execute(link, args![id]).await.unwrap();
        }
        db.execute("UPDATE run SET definition = REPLACE(definition, '\"audience\":null', '\"audience\":\"segment(''loyal'')\"') WHERE id = 2", args![])
            .await
            .unwrap();
        let sql = "INSERT INTO delivery (id, run_id, contact_id, state, due_at, attempts, changed_at) VALUES ($1, $2, $3, 'sent', 1, 1, 1)";
        for (delivery, run, contact) in [(71, 1, 7), (72, 2, 7), (81, 1, 8)] {
            db.execute(sql, args![delivery, run, contact]).await.unwrap();
        }
        for (id, delivery, run) in [(1, 71, 1), (2, 72, 2)] {
            hit(&db, Hit { id, contact: 7, delivery, run, link: Some(0), at: NOW.plus(-DAY + id), human: true }).await;
        }
        let orders = "INSERT INTO orders (id, order_key, contact_id, known_as, at, amount, refunded, void, currency, rate, digest, revision,
               recorded_at)
             VALUES (1, 'a', 7, 7, $1, 250000, 0, FALSE, 'TWD', 1, '', 1, 1), (2, 'b', 7, 7, $2, 9990000, 0, FALSE, 'TWD', 1, '', 1, 1)";
        db.execute(orders, args![NOW, NOW.plus(30 * DAY)]).await.unwrap();
        settle(&db, &rules(AttributionModel::LastClick), NOW).await;

        let report = shop.optin(&["report", "c1", "--json"]).exits(0).json();
        assert_eq!((&report["conversions"], &report["revenue"], &report["currency"]), (&json!(0.5), &json!(12.5), &json!("TWD")));
        let link = &report["clicks"]["by_link"][0];
        assert_eq!((&link["name"], &link["conversions"], &link["revenue"]), (&json!("Oolong"), &json!(0.5), &json!(12.5)));
        let segments = |report: &serde_json::Value| report["by_segment"][0]["segment"].clone();
        assert_eq!(segments(&report), "everybody");
        assert_eq!(segments(&shop.optin(&["report", "c2", "--json"]).exits(0).json()), "loyal");
        let words = shop.optin(&["report", "c1"]).exits(0).stdout;
        assert!(words.contains("12.50 TWD") && words.contains("orders"), "{words}");

        let all = shop.optin(&["report", "--json"]).exits(0).json();
        assert_eq!((&all["total"]["conversions"], &all["total"]["revenue"], &all["total"]["sent"]), (&json!(1), &json!(25), &json!(3)));
        assert_eq!(all["rows"].as_array().unwrap().len(), 2);
        let by = |what: &str, since: &str| shop.optin(&["report", "--by", what, "--since", since, "--json"]).exits(0).json();
        let segments = by("segment", "1970-01-01");
        let names: Vec<&str> = segments["rows"].as_array().unwrap().iter().map(|row| row["segment"].as_str().unwrap()).collect();
        assert!(names.contains(&"loyal") && names.contains(&"everybody"), "{segments}");
        let links = by("link", "1970-01-01");
        assert_eq!((&links["rows"][0]["link"], &links["rows"][0]["revenue"]), (&json!("Oolong"), &json!(12.5)), "{links}");
        assert_eq!(by("campaign", "2030-01-01")["total"]["revenue"], json!(0));
        let words = shop.optin(&["report", "--by", "segment"]).exits(0).stdout;
        assert!(words.contains("loyal") && words.contains("12.50 TWD") && words.lines().count() == 4, "{words}");
        let wrong = shop.optin(&["report", "--since", "soon"]).exits(2);
        assert!(wrong.stderr.contains("is no date"), "{}", wrong.stderr);
    }
}
