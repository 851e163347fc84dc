//! Limits that hold for all nodes together, whatever happens at the same time.

use std::collections::BTreeSet;

use optin::args;
use optin::clock::{DAY, Time};
use optin::config::Config;
use optin::db::Db;
use optin::delivery::limit::{self, Limits, Returned, Wish};

use crate::support::{TestDatabase, instance, on_each_database};

const SETTINGS: &str = r#"
[limits]
per_day = 300
[[relay]]
name = "one"
url = "smtp://one.example"
rate = "200/s"
[[relay]]
name = "two"
url = "smtp://two.example"
warm_up = { start = 2026-12-01, per_day = [60, 500] }
[provider.gmail]
per_day = 40
"#;

/// What the files of a test say, with `settings` at the end of its `optin.toml`.
fn limits(database: &TestDatabase, settings: &str) -> Limits {
    let shop = instance(database, &[("topics.toml", "[tea]\nname = \"Tea\"\n")]);
    let file = shop.dir().join("optin.toml");
    shop.write("optin.toml", std::fs::read_to_string(&file).unwrap() + settings);
    let config: Config = shop.load().unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    Limits::new(&config).unwrap()
}

fn noon() -> Time {
    Time::parse("2026-12-01T12:00:00Z").unwrap()
}

fn wish(provider: &'static str, relay: &'static str, run: Option<i64>) -> Wish<'static> {
    let run_limit = optin::config::Limit { rate: None, per_day: Some(90) };
    Wish { run: run.map(|run| (run, run_limit)), provider, relay, asked: None }
}

/// One claim: a transaction of its own.
async fn claim(db: &Db, limits: &Limits, wish: Wish<'_>, wanted: u64, now: Time) -> u64 {
    let mut tx = db.begin().await.unwrap();
    let mut buckets = limit::load(&mut tx, &limits.names(&[wish], now)).await.unwrap();
    let granted = limits.take(&mut buckets, &wish, wanted, now);
    buckets.store(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    granted
}

on_each_database!(
    async fn nodes_that_claim_at_the_same_time_debit_exactly(database) {
        let limits = limits(&database, SETTINGS);
        let nodes = [database.open().await, database.open().await];
        // Wishes that share some of their limits, in every order: whoever locked crosswise would hang.
        let wishes = [
            wish("gmail", "one", Some(1)),
            wish("gmail", "two", Some(2)),
            wish("qq", "two", Some(1)),
            wish("other", "one", None),
            wish("qq", "two", Some(3)),
            wish("other", "two", Some(2)),
        ];
        let tasks: Vec<_> = (0..12)
            .map(|task: usize| {
                let (db, limits) = (nodes[task % 2].clone(), limits.clone());
                tokio::spawn(async move {
                    let mut sent = Vec::new();
                    for round in 0..12 {
                        let wish = wishes[(task * 5 + round) % wishes.len()];
                        sent.push((wish, claim(&db, &limits, wish, 1 + (task + round) as u64 % 7, noon()).await));
                    }
                    sent
                })
            })
            .collect();
        let mut sent = Vec::new();
        for task in tasks {
            sent.extend(task.await.unwrap());
        }
        let sum = |counts: &dyn Fn(&Wish<'_>) -> bool| sent.iter().filter(|(wish, _)| counts(wish)).map(|(_, mails)| mails).sum::<u64>();
        let buckets = limit::read(&mut nodes[0].clone()).await.unwrap();
        for (name, granted) in [
            ("all", sum(&|_| true)),
            ("provider:gmail", sum(&|wish| wish.provider == "gmail")),
            ("relay:one", sum(&|wish| wish.relay == "one")),
            ("relay:two/provider:qq", sum(&|wish| (wish.relay, wish.provider) == ("two", "qq"))),
            ("campaign:1", sum(&|wish| wish.run.is_some_and(|(run, _)| run == 1))),
        ] {
            assert_eq!(buckets.get(name).used, granted, "{name}");
        }
        // There was demand for more than each of these: they are used to the last mail.
        assert_eq!(sum(&|wish| wish.provider == "gmail"), 40);
        assert_eq!(sum(&|wish| (wish.relay, wish.provider) == ("two", "qq")), 60);
        // 200/s: a quarter of a second and one, at one moment.
        assert_eq!(sum(&|wish| wish.relay == "one"), 51);
        let shown: Vec<String> = limits.waits(&buckets, &wishes, noon()).iter().map(ToString::to_string).collect();
        assert!(shown.contains(&"gmail: 40 a day reached, goes on at 00:00 UTC".to_owned()), "{shown:?}");
    }
);

on_each_database!(
    async fn a_claim_that_is_undone_debits_nothing_and_one_that_comes_back_is_credited(database) {
        let limits = limits(&database, SETTINGS);
        let db = database.open().await;
        let gmail = wish("gmail", "one", Some(1));
        let mut tx = db.begin().await.unwrap();
        let mut buckets = limit::load(&mut tx, &limits.names(&[gmail], noon())).await.unwrap();
        assert_eq!(limits.take(&mut buckets, &gmail, 30, noon()), 30);
        buckets.store(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(claim(&db, &limits, gmail, 30, noon()).await, 30);
        assert_eq!(claim(&db, &limits, gmail, 30, noon()).await, 10);

        let mut tx = db.begin().await.unwrap();
        limits.give_back(&mut tx, &[Returned { wish: gmail, mails: 25, claimed_at: noon() }]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(limit::read(&mut db.clone()).await.unwrap().get("campaign:1").used, 15);
        assert_eq!(claim(&db, &limits, gmail, 30, noon()).await, 25);

        let tomorrow = noon().plus(DAY);
        assert_eq!(claim(&db, &limits, gmail, 50, tomorrow).await, 40);
        // What was claimed today is nothing that tomorrow gets back.
        let mut tx = db.begin().await.unwrap();
        limits.give_back(&mut tx, &[Returned { wish: gmail, mails: 5, claimed_at: noon() }]).await.unwrap();
        assert_eq!(limit::forget(&mut tx, tomorrow).await.unwrap(), 0);
        tx.commit().await.unwrap();
        assert_eq!(claim(&db, &limits, gmail, 1, tomorrow).await, 0);
        let mut tx = db.begin().await.unwrap();
        assert_eq!(limit::forget(&mut tx, tomorrow.plus(4 * DAY)).await.unwrap(), 4);
        tx.commit().await.unwrap();
    }
);

on_each_database!(
    async fn where_nothing_is_limited_nothing_is_written(database) {
        let limits = limits(&database, "");
        let db = database.open().await;
        let free = Wish { run: Some((1, Default::default())), provider: "gmail", relay: "default", asked: None };
        assert_eq!(limits.names(&[free], noon()), BTreeSet::new());
        assert_eq!(claim(&db, &limits, free, 1_000, noon()).await, 1_000);
        let mut tx = db.begin().await.unwrap();
        limits.give_back(&mut tx, &[Returned { wish: free, mails: 5, claimed_at: noon() }]).await.unwrap();
        tx.commit().await.unwrap();
        let rows: i64 = db.fetch_one("SELECT COUNT(*) FROM bucket", args![]).await.unwrap().get(0).unwrap();
        assert_eq!(rows, 0);
    }
);
