//! What a segment costs: the SQL that optin makes of a rule, and SQL written by hand for the same question,
//! on the database and the rules of `SEGMENTS` (a JSON document). `benches/segments.py` starts it.

#![expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a measurement is told where its database is, and prints")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use optin::clock::Time;
use optin::config::Environment;
use optin::db::{Db, OpenOptions};
use optin::instance;
use optin::segment::{self, Catalog};
use serde::Deserialize;
use serde_json::json;

/// What is to be measured.
#[derive(Deserialize)]
struct Task {
    url: String,
    config: PathBuf,
    now: i64,
    rounds: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    rule: String,
    /// The same question by hand; asked first where `hand_first` says so (the first is the cold one).
    sql: String,
    hand_first: bool,
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` and `cargo bench` without the script come here without a database.
    let Ok(task) = std::env::var("SEGMENTS") else {
        println!("nothing to measure: run `benches/run segments`");
        return;
    };
    let task: Task = serde_json::from_str(&task).expect("what to measure, as JSON");
    let variables = BTreeMap::from([("OPTIN_DATABASE__URL", task.url.as_str()), ("OPTIN_SECRET", "a-secret-for-benches-0123456789")]);
    let config = instance::load_checked(&task.config, &Environment::from_pairs(variables)).expect("the files are right");
    let catalog = Catalog::new(&config);
    let db = Db::open(&task.url, OpenOptions::default()).await.expect("the database opens");
    let now = Time::from_millis(task.now);
    for case in &task.cases {
        let rule = segment::rule(&case.rule, &catalog).unwrap_or_else(|errors| panic!("`{}`: {errors:?}", case.rule));
        let mut times = [Vec::new(), Vec::new()];
        let mut counts = [0, 0];
        // One more than asked for: the first of each is not a warm one.
        for _ in 0..=task.rounds {
            for hand in [case.hand_first, !case.hand_first] {
                let start = Instant::now();
                counts[usize::from(hand)] = if hand {
                    db.fetch_one(&case.sql, Vec::new()).await.expect("the SQL by hand").get(0).expect("a count")
                } else {
                    segment::ops::count(&db, &rule, now).await.expect("the rule's SQL")
                };
                times[usize::from(hand)].push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        let condition = segment::ops::condition(&db, &rule, now, 1).await.expect("compiles");
        println!(
            "{}",
            json!({ "rule": case.rule, "ours": times[0], "hand": times[1], "counts": counts, "sql": condition.text, "args": format!("{:?}", condition.args) })
        );
    }
}
