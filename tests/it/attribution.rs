//! Orders attributed to mails: the same rows give the same shares in whatever order they came, sums equal rows,
//! and what retention does changes nothing.

use std::collections::BTreeMap;

use optin::args;
use optin::clock::{DAY, HOUR, Time};
use optin::config::{Attribution, AttributionModel};
use optin::db::Db;
use optin::tracking::attribution::{Touch, WHOLE, share, worth};
use optin::tracking::engagement_ops as engagement;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::engagement::{Hit, NOW, add_up, hit, person, rules, run, settle};
use crate::support::{self, on_each_database};

async fn order(db: &Db, id: i64, contact: i64, at: Time, amount: i64) {
    let mut tx = db.begin().await.unwrap();
    tx.execute(
        "INSERT INTO orders (id, order_key, contact_id, known_as, at, amount, refunded, void, currency, rate, digest, revision,
           recorded_at)
         VALUES ($1, $2, $3, $3, $4, $5, 0, FALSE, 'EUR', 1, '', 1, $4)
         ON CONFLICT (id) DO UPDATE SET at = excluded.at, amount = excluded.amount, void = FALSE",
        args![id, format!("o{id}"), contact, at, amount],
    )
    .await
    .unwrap();
    engagement::touch(&mut tx, &[contact], NOW).await.unwrap();
    tx.commit().await.unwrap();
}

async fn refund(db: &Db, id: i64, contact: i64, left: i64) {
    let mut tx = db.begin().await.unwrap();
    let sql = "UPDATE orders SET refunded = refunded + amount - $2, amount = $2, void = $3 WHERE id = $1";
    tx.execute(sql, args![id, left, left == 0]).await.unwrap();
    engagement::touch(&mut tx, &[contact], NOW).await.unwrap();
    tx.commit().await.unwrap();
}

/// Order, mail, link, run, person, share, amount.
type Row = (i64, i64, i64, i64, i64, i64, i64);

async fn conversions(db: &Db) -> Vec<Row> {
    let sql = "SELECT order_id, delivery_id, link, run_id, contact_id, share, amount FROM conversion ORDER BY order_id, delivery_id, link";
    let rows = db.fetch_all(sql, args![]).await.unwrap();
    let get = |row: &optin::db::Row, at: usize| row.get::<i64>(at).unwrap();
    rows.iter().map(|row| (get(row, 0), get(row, 1), get(row, 2), get(row, 3), get(row, 4), get(row, 5), get(row, 6))).collect()
}

/// `revenue_total` equals the rows.
async fn totals_equal_rows(db: &Db) {
    let mut sums: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    for row in conversions(db).await {
        let sum = sums.entry((row.3, row.2)).or_default();
        *sum = (sum.0 + row.5, sum.1 + row.6);
    }
    let stored = db.fetch_all("SELECT run_id, link, shares, amount FROM revenue_total", args![]).await.unwrap();
    let stored: BTreeMap<(i64, i64), (i64, i64)> =
        stored.iter().map(|row| ((row.get(0).unwrap(), row.get(1).unwrap()), (row.get(2).unwrap(), row.get(3).unwrap()))).collect();
    assert_eq!(sums, stored);
}

on_each_database! {
    async fn orders_go_to_the_mails_clicked_before_them_and_refunds_take_them_back(database) {
        let db = database.open().await;
        let rules = rules(AttributionModel::LastClick);
        person(&db, 7, None).await;
        run(&db, 1, 40, None).await;
        run(&db, 2, 40, Some(r#"{"model":"linear","within_days":3}"#)).await;
        let ago = |days: i64| NOW.plus(-days * DAY);
        let click = |id: i64, delivery: i64, run: i64, link: i64, at: Time| Hit { id, contact: 7, delivery, run, link: Some(link), at, human: true };
        hit(&db, click(1, 71, 1, 0, ago(6))).await;
        order(&db, 500, 7, ago(5), 1_000_000).await;
        order(&db, 501, 7, ago(1), 100_001).await;
        settle(&db, &rules, NOW).await;
        let first = (500, 71, 0, 1, 7, WHOLE, 1_000_000);
        assert_eq!(conversions(&db).await, [first, (501, 71, 0, 1, 7, WHOLE, 100_001)]);
        totals_equal_rows(&db).await;

        // A click that comes in late, of a campaign that shares alike.
        hit(&db, click(2, 72, 2, 3, ago(2))).await;
        settle(&db, &rules, NOW).await;
        let shared = [first, (501, 71, 0, 1, 7, WHOLE / 2, 50_001), (501, 72, 3, 2, 7, WHOLE / 2, 50_000)];
        assert_eq!(conversions(&db).await, shared);
        totals_equal_rows(&db).await;
        settle(&db, &rules, NOW).await;
        assert_eq!(conversions(&db).await, shared);

        // A part is given back, then all of it; and one turns out to be a machine's.
        refund(&db, 501, 7, 40_000).await;
        refund(&db, 500, 7, 0).await;
        settle(&db, &rules, NOW).await;
        assert_eq!(conversions(&db).await, [(501, 71, 0, 1, 7, WHOLE / 2, 20_000), (501, 72, 3, 2, 7, WHOLE / 2, 20_000)]);
        totals_equal_rows(&db).await;
        db.execute("UPDATE hit SET verdict = 'machine' WHERE id = 1", args![]).await.unwrap();
        add_up(&db, 71, 7).await;
        settle(&db, &rules, NOW).await;
        assert_eq!(conversions(&db).await, [(501, 72, 3, 2, 7, WHOLE, 40_000)]);
        totals_equal_rows(&db).await;
        refund(&db, 501, 7, 0).await;
        settle(&db, &rules, NOW).await;
        assert_eq!(conversions(&db).await, []);
        totals_equal_rows(&db).await;
    }
}

on_each_database! {
    async fn retention_changes_no_conversion(database) {
        let db = database.open().await;
        let rules = rules(AttributionModel::LastClick);
        person(&db, 7, None).await;
        run(&db, 1, 40, None).await;
        let days = |days: i64| NOW.plus(days * DAY);
        let click = |id: i64, delivery: i64, link: i64, at: Time| Hit { id, contact: 7, delivery, run: 1, link: Some(link), at, human: true };
        // The first link is followed before, between and long after the order: the one in between is the last one.
        hit(&db, click(1, 71, 0, days(-40))).await;
        hit(&db, click(2, 71, 1, days(-34))).await;
        hit(&db, click(3, 71, 0, days(-33))).await;
        hit(&db, click(4, 71, 0, days(-5))).await;
        order(&db, 500, 7, days(-32), 100).await;
        settle(&db, &rules, NOW).await;
        let sold = vec![(500, 71, 0, 1, 7, WHOLE, 100)];
        assert_eq!(conversions(&db).await, sold);
        // Hits older than a week are put together, then they go.
        for change in ["UPDATE hit SET times = 2 WHERE id = 1", "DELETE FROM hit WHERE id = 3", "DELETE FROM hit"] {
            db.execute(change, args![]).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            engagement::touch(&mut tx, &[7], NOW).await.unwrap();
            tx.commit().await.unwrap();
            settle(&db, &rules, NOW).await;
            assert_eq!(conversions(&db).await, sold, "{change}");
        }
        // Its amount still follows refunds; and what comes now is shared by what is left: first and last clicks.
        refund(&db, 500, 7, 60).await;
        order(&db, 501, 7, days(-4), 70).await;
        order(&db, 502, 7, days(-32), 80).await;
        settle(&db, &rules, NOW).await;
        assert_eq!(
            conversions(&db).await,
            [(500, 71, 0, 1, 7, WHOLE, 60), (501, 71, 0, 1, 7, WHOLE, 70), (502, 71, 1, 1, 7, WHOLE, 80)]
        );
        totals_equal_rows(&db).await;
    }
}

on_each_database! {
    async fn an_erasure_keeps_what_a_campaign_earned_and_not_whose_order_it_was(database) {
        let db = database.open().await;
        let rules = rules(AttributionModel::LastClick);
        person(&db, 7, None).await;
        run(&db, 1, 40, None).await;
        hit(&db, Hit { id: 1, contact: 7, delivery: 71, run: 1, link: Some(0), at: NOW.plus(-HOUR), human: true }).await;
        order(&db, 500, 7, NOW, 100).await;
        settle(&db, &rules, NOW).await;
        let mut tx = db.begin().await.unwrap();
        optin::tracking::forget::forget_contact(&mut tx, 7, &[(71, 9_000)]).await.unwrap();
        tx.execute("DELETE FROM contact WHERE id = 7", args![]).await.unwrap();
        engagement::touch(&mut tx, &[7], NOW).await.unwrap();
        tx.commit().await.unwrap();
        settle(&db, &rules, NOW).await;
        assert_eq!(conversions(&db).await, [(500, 71, 0, 1, 9_000, WHOLE, 100)]);
        totals_equal_rows(&db).await;
    }
}

/// What may happen to somebody.
#[derive(Debug, Clone)]
enum Change {
    Click {
        person: i64,
        mail: i64,
        link: i64,
        hour: i64,
    },
    /// Judged to be a machine's.
    Machine {
        nth: usize,
    },
    Order {
        person: i64,
        hour: i64,
        amount: i64,
    },
    Refund {
        nth: usize,
        left: i64,
    },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let click =
        (1_i64..=3, 1_i64..=4, 0_i64..3, 0_i64..480).prop_map(|(person, mail, link, hour)| Change::Click { person, mail, link, hour });
    let order = (1_i64..=3, 0_i64..480, 1_i64..1_000_000).prop_map(|(person, hour, amount)| Change::Order { person, hour, amount });
    let machine = (0_usize..20).prop_map(|nth| Change::Machine { nth });
    let refund = (0_usize..10, 0_i64..3).prop_map(|(nth, left)| Change::Refund { nth, left });
    proptest::collection::vec(prop_oneof![5 => click, 3 => order, 1 => machine, 1 => refund], 1..40)
}

#[derive(Debug, Clone, Copy)]
struct Sold {
    id: i64,
    person: i64,
    at: Time,
    amount: i64,
}

/// What is so in the end, and steps that lead there in the order of `at`.
fn end_of(changes: &[Change]) -> (Vec<Hit>, Vec<Sold>) {
    let (mut hits, mut orders): (Vec<Hit>, Vec<Sold>) = (Vec::new(), Vec::new());
    for change in changes {
        match *change {
            Change::Click { person, mail, link, hour } => {
                let (id, run) = (1 + i64::try_from(hits.len()).unwrap(), mail % 3 + 1);
                hits.push(Hit {
                    id,
                    contact: person,
                    delivery: person * 10 + mail,
                    run,
                    link: Some(link),
                    at: NOW.plus(hour * HOUR),
                    human: true,
                });
            }
            Change::Machine { nth } => {
                let count = hits.len().max(1);
                hits.get_mut(nth % count).into_iter().for_each(|hit| hit.human = false);
            }
            Change::Order { person, hour, amount } => {
                orders.push(Sold { id: 500 + i64::try_from(orders.len()).unwrap(), person, at: NOW.plus(hour * HOUR), amount });
            }
            Change::Refund { nth, left } => {
                let count = orders.len().max(1);
                orders.get_mut(nth % count).into_iter().for_each(|order| order.amount = order.amount * left / 3);
            }
        }
    }
    (hits, orders)
}

fn rule_of(run: i64) -> Attribution {
    match run {
        1 => Attribution { model: AttributionModel::FirstClick, within_days: 7 },
        2 => Attribution { model: AttributionModel::Linear, within_days: 4 },
        _ => Attribution { model: AttributionModel::LastClick, within_days: 2 },
    }
}

fn expected(hits: &[Hit], orders: &[Sold]) -> Vec<Row> {
    let mut rows = Vec::new();
    for order in orders.iter().filter(|order| order.amount > 0) {
        let touches: Vec<Touch> = hits
            .iter()
            .filter(|hit| hit.human && hit.contact == order.person)
            .map(|hit| Touch { at: hit.at, delivery_id: hit.delivery, link: hit.link.unwrap(), run_id: hit.run })
            .collect();
        let parts = share(order.at, &touches, &rule_of);
        let shares: Vec<i64> = parts.iter().map(|part| part.share).collect();
        assert!(parts.is_empty() || shares.iter().sum::<i64>() == WHOLE);
        let amounts = worth(order.amount, &shares);
        rows.extend(
            parts
                .iter()
                .zip(amounts)
                .map(|(part, amount)| (order.id, part.delivery_id, part.link, part.run_id, order.person, part.share, amount)),
        );
    }
    rows.sort_unstable();
    rows
}

/// All of it happens as hits and orders would be recorded: in a random order, computed again now and then.
async fn happen(db: &Db, hits: &[Hit], orders: &[Sold], mut seed: u64) -> Vec<Row> {
    for table in ["hit", "hit_total", "orders", "engagement_due", "engagement", "conversion", "revenue_total"] {
        db.execute(&format!("DELETE FROM {table}"), args![]).await.unwrap();
    }
    let rules = rules(AttributionModel::LastClick);
    let mut next = |count: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % count
    };
    let mut steps: Vec<usize> = (0..hits.len() + orders.len()).collect();
    for at in (1..steps.len()).rev() {
        steps.swap(at, next(at + 1));
    }
    for step in steps {
        match hits.get(step) {
            Some(click) => {
                // At first it looks like a person's, or a machine's; it is judged anew later.
                hit(db, Hit { human: next(2) == 0, ..*click }).await;
                if next(3) == 0 {
                    settle(db, &rules, NOW).await;
                }
                let verdict = if click.human { "human" } else { "machine" };
                db.execute("UPDATE hit SET verdict = $1 WHERE id = $2", args![verdict, click.id]).await.unwrap();
                add_up(db, click.delivery, click.contact).await;
            }
            None => {
                let sold = orders[step - hits.len()];
                order(db, sold.id, sold.person, sold.at.plus(HOUR), sold.amount + 77).await;
                if next(3) == 0 {
                    settle(db, &rules, NOW).await;
                }
                // Corrected, and given back.
                order(db, sold.id, sold.person, sold.at, sold.amount + 5).await;
                refund(db, sold.id, sold.person, sold.amount).await;
            }
        }
    }
    settle(db, &rules, NOW).await;
    totals_equal_rows(db).await;
    conversions(db).await
}

#[test]
fn the_order_in_which_things_arrive_changes_no_conversion() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let homes = support::databases();
    for home in &homes {
        let db = runtime.block_on(home.open());
        runtime.block_on(async {
            for id in 1..=3 {
                person(&db, id, None).await;
            }
            run(&db, 1, 40, Some(r#"{"model":"first_click"}"#)).await;
            run(&db, 2, 40, Some(r#"{"model":"linear","within_days":4}"#)).await;
            run(&db, 3, 41, Some(r#"{"within_days":2}"#)).await;
        });
        let mut runner = TestRunner::new(Config { cases: 12, failure_persistence: None, ..Config::default() });
        let mut sold = 0;
        let outcome = runner.run(&(changes(), any::<u64>()), |(changes, seed)| {
            let (hits, orders) = end_of(&changes);
            let expected = expected(&hits, &orders);
            let found = runtime.block_on(happen(&db, &hits, &orders, seed));
            prop_assert_eq!(&found, &expected);
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{}: {error}", home.name);
        }
        // Random histories that sell nothing would agree by accident.
        let (hits, orders) = end_of(&[
            Change::Click { person: 1, mail: 1, link: 0, hour: 0 },
            Change::Click { person: 1, mail: 4, link: 1, hour: 10 },
            Change::Order { person: 1, hour: 11, amount: 100 },
        ]);
        sold += runtime.block_on(happen(&db, &hits, &orders, 3)).len();
        assert_eq!(sold, 2, "the campaign clicked last shares alike");
    }
}
