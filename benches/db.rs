//! What the dynamic layer of `db/` costs: five real statements through it, and typed through sqlx, on
//! the database of each URL given in `DB_URLS`. `benches/run db` starts it.

#![expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a measurement is told where its database is, and prints")]

#[path = "db/ours.rs"]
mod ours;
#[path = "db/typed.rs"]
mod typed;

use std::time::Instant;

use optin::args;
use optin::db::{Db, OpenOptions, Rows};
use sqlx::{PgPool, SqlitePool};

/// Contacts and deliveries in the database.
const PEOPLE: i64 = 100_000;
/// Rows of one transaction of single writes.
const WRITES: i64 = 5_000;
/// Deliveries of one claim, as a sender takes them.
const CLAIM: i64 = 500;
/// Each measurement is the median of so many.
const ROUNDS: usize = 9;

const UPSERT: &str =
    "INSERT INTO contact (id, email, email_key, first_name, locale, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $6)
     ON CONFLICT (email_key) DO UPDATE SET first_name = excluded.first_name, updated_at = excluded.updated_at RETURNING id";
const APPEND: &str = "INSERT INTO consent_event (seq, at, contact_id, topic_id, action, source, source_line, wording_hash, evidence, hash)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const CLAIM_SQL: &str = "UPDATE delivery SET state = 'claimed', worker = $1, attempts = attempts + 1, changed_at = $2
     WHERE id IN (SELECT id FROM delivery WHERE run_id = $3 AND state IN ('due', 'deferred') AND due_at <= $2 ORDER BY due_at, id LIMIT $4)
     RETURNING id, contact_id, attempts, state, reason";
const COUNT: &str = "SELECT COUNT(*) FROM contact c WHERE c.locale = $1 AND c.first_name IS NOT NULL
     AND EXISTS (SELECT 1 FROM delivery d WHERE d.contact_id = c.id AND d.run_id = $2)";
const REPORT: &str = "SELECT state, reason, COUNT(*), CAST(SUM(attempts) AS BIGINT) FROM delivery WHERE run_id = $1 GROUP BY state, reason
     ORDER BY state, reason";

/// Runs `ours` and `typed` in turns and prints the medians in milliseconds, and their ratio.
macro_rules! compare {
    ($engine:expr, $what:expr, $ours:expr, $typed:expr) => {{
        let (mut ours, mut typed) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let a = $ours;
            ours.push(start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            let b = $typed;
            typed.push(start.elapsed().as_secs_f64() * 1e3);
            assert_eq!(a, b, "{} on {}: both must answer alike", $what, $engine);
        }
        ours.sort_by(f64::total_cmp);
        typed.sort_by(f64::total_cmp);
        let (ours, typed) = (ours[ROUNDS / 2], typed[ROUNDS / 2]);
        println!("| {} | {} | {ours:.2} | {typed:.2} | {:.2} |", $engine, $what, ours / typed);
    }};
}

macro_rules! compare_all {
    ($engine:ident, $db:ident, $pool:ident) => {{
        use typed::$engine as typed;
        let engine = stringify!($engine);
        let mut round = 0;
        compare!(
            engine,
            format!("upsert a contact, {WRITES} in one transaction"),
            {
                round += 1;
                ours::upsert(&$db, WRITES, round).await.expect("ours")
            },
            typed::upsert(&$pool, WRITES, round).await.expect("typed")
        );
        compare!(
            engine,
            format!("append a consent event, {WRITES} in one transaction"),
            ours::append(&$db, WRITES).await.expect("ours"),
            typed::append(&$pool, WRITES).await.expect("typed")
        );
        compare!(
            engine,
            format!("claim {CLAIM} deliveries, 20 times"),
            ours::claim(&$db, CLAIM, 20).await.expect("ours"),
            typed::claim(&$pool, CLAIM, 20).await.expect("typed")
        );
        compare!(
            engine,
            format!("count a segment of {PEOPLE}"),
            ours::count(&$db).await.expect("ours"),
            typed::count(&$pool).await.expect("typed")
        );
        compare!(
            engine,
            format!("report on {PEOPLE} deliveries"),
            ours::report(&$db).await.expect("ours"),
            typed::report(&$pool).await.expect("typed")
        );
    }};
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` and `cargo bench` without the script come here without a database.
    let Ok(urls) = std::env::var("DB_URLS") else {
        println!("nothing to measure: run `benches/run db`");
        return;
    };
    println!("| engine | statement | ours, ms | typed sqlx, ms | ratio |\n|---|---|---|---|---|");
    for url in urls.split_whitespace() {
        let db = Db::open(url, OpenOptions { relaxed: true, ..OpenOptions::default() }).await.expect("the database opens");
        fill(&db).await;
        if url.starts_with("sqlite") {
            let options = sqlx::sqlite::SqliteConnectOptions::new()
                .filename(url.trim_start_matches("sqlite://"))
                .synchronous(sqlx::sqlite::SqliteSynchronous::Normal)
                .busy_timeout(std::time::Duration::from_secs(5))
                .pragma("cache_size", "-65536")
                .pragma("mmap_size", "268435456");
            let pool = SqlitePool::connect_with(options).await.expect("the same database opens");
            compare_all!(sqlite, db, pool);
        } else {
            let pool = PgPool::connect(url).await.expect("the same database opens");
            compare_all!(postgres, db, pool);
        }
    }
}

async fn fill(db: &Db) {
    let mut tx = db.begin().await.expect("a transaction");
    let ids = 1..=PEOPLE;
    let rows = Rows::new().i64("id", ids.clone()).text("email", ids.clone().map(|id| format!("reader-{id}@example.com")));
    tx.bulk(
        "INSERT INTO contact (id, email, email_key, first_name, locale, created_at, updated_at)
         SELECT v.id, v.email, v.email, 'Mei', 'zh-TW', 1, 1 FROM {rows}",
        args![],
        rows,
    )
    .await
    .expect("contacts");
    let rows = Rows::new().i64("id", ids);
    let sql = "INSERT INTO delivery (id, run_id, contact_id, state, due_at, attempts, changed_at) SELECT v.id, 1, v.id, 'due', 1, 0, 1 FROM {rows}";
    tx.bulk(sql, args![], rows).await.expect("deliveries");
    tx.commit().await.expect("a commit");
    if db.dialect() == optin::db::Dialect::Postgres {
        db.execute("ANALYZE", args![]).await.expect("statistics");
    }
}
