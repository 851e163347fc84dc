//! Are the sums what the rows say (`optin tracking verify`)? Mails whose hits may have been removed by age are
//! left out: of them only the sums are left.

use std::collections::{BTreeMap, BTreeSet};

use super::rollup::{Sums, Truth, links_of, put_due, set_totals};
use super::{Kind, Verdict};
use crate::args;
use crate::clock::Time;
use crate::db::{Db, DbError, Dialect, Row, Rows, Tx};

/// Rows of `hit_total` compared at a time.
const BLOCK: i64 = 5_000;
/// Differences named at most.
const NAMED: usize = 1_000;

/// A sum that is not what the rows say.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// `hit_total` or `run_total`.
    pub table: &'static str,
    /// Its delivery, or run.
    pub id: i64,
    /// Its link; -1 are opens, -2 clicks on all links.
    pub link: i64,
    /// What stands there.
    pub found: String,
    /// What the rows say.
    pub expected: String,
}

/// What was compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Sums of mails.
    pub mails: u64,
    /// Sums of runs.
    pub runs: u64,
    /// How many differ.
    pub differences: u64,
    /// The first of them.
    pub named: Vec<Difference>,
    /// They were set right.
    pub repaired: bool,
}

/// What one sum says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Total {
    run_id: i64,
    contact_id: i64,
    sums: Sums,
    first_at: Option<Time>,
    last_at: Option<Time>,
    /// Some of its rows are several put together: they do not say when the first one was.
    compacted: bool,
}

impl Total {
    fn agrees(&self, other: &Total) -> bool {
        self.sums == other.sums && self.last_at == other.last_at && (self.compacted || other.compacted || self.first_at == other.first_at)
    }

    fn text(&self) -> String {
        let Sums { human, machine, unknowable } = self.sums;
        let moment = |at: Option<Time>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        format!("human {human}, machine {machine}, unknowable {unknowable}, from {} to {}", moment(self.first_at), moment(self.last_at))
    }
}

/// Compares sums with rows, of mails whose id is at least `from` (younger ones, see [`first_id_since`]), and sets
/// them right where `repair` is set.
pub async fn verify(db: &Db, from: i64, repair: bool, now: Time) -> Result<Verified, DbError> {
    let mut verified = Verified { repaired: repair, ..Verified::default() };
    let mut after = from - 1;
    loop {
        let mut tx = begin(db, repair).await?;
        let to = block_end(&mut tx, after).await?;
        mails(&mut tx, after, to, repair, now, &mut verified).await?;
        if repair {
            tx.commit().await?
        } else {
            tx.rollback().await?
        }
        let Some(to) = to else { break };
        after = to;
    }
    let mut tx = begin(db, repair).await?;
    runs(&mut tx, from, repair, &mut verified).await?;
    if repair {
        tx.commit().await?
    } else {
        tx.rollback().await?
    }
    Ok(verified)
}

/// The smallest id that was made since then.
pub fn first_id_since(at: Time) -> i64 {
    crate::entropy::first_id(at)
}

async fn begin(db: &Db, repair: bool) -> Result<Tx, DbError> {
    if !repair {
        return db.begin_read().await;
    }
    let mut tx = db.begin().await?;
    if tx.dialect() == Dialect::Postgres {
        // Whoever writes hits changes these in the same transaction: nobody is half done while we look.
        tx.execute("LOCK TABLE hit_total, run_total IN SHARE ROW EXCLUSIVE MODE", Vec::new()).await?;
    }
    Ok(tx)
}

/// The last delivery of the next block; nothing where the rest fits into it.
async fn block_end(tx: &mut Tx, after: i64) -> Result<Option<i64>, DbError> {
    let rows = tx
        .fetch_all(
            "SELECT delivery_id FROM hit_total WHERE delivery_id > $1 ORDER BY delivery_id, link LIMIT 1 OFFSET $2",
            args![after, BLOCK - 1],
        )
        .await?;
    rows.first().map(|row| row.get(0)).transpose()
}

async fn mails(tx: &mut Tx, after: i64, to: Option<i64>, repair: bool, now: Time, verified: &mut Verified) -> Result<(), DbError> {
    let span = args![after, to.unwrap_or(i64::MAX)];
    let stored: BTreeMap<(i64, i64), Total> = tx
        .fetch_all(
            "SELECT delivery_id, link, run_id, contact_id, human, machine, unknowable, first_at, last_at
             FROM hit_total WHERE delivery_id > $1 AND delivery_id <= $2",
            span.clone(),
        )
        .await?
        .iter()
        .map(read_total)
        .collect::<Result<_, _>>()?;
    let expected = count(tx, span).await?;
    let keys: BTreeSet<(i64, i64)> = stored.keys().chain(expected.keys()).copied().collect();
    verified.mails += keys.len() as u64;
    let mut wrong: Vec<Truth> = Vec::new();
    for key in keys {
        let found = stored.get(&key).copied().unwrap_or_default();
        let truth = expected.get(&key).copied().unwrap_or_default();
        if found.agrees(&truth) {
            continue;
        }
        note(verified, Difference { table: "hit_total", id: key.0, link: key.1, found: found.text(), expected: truth.text() });
        let (run_id, contact_id) = if truth.run_id == 0 { (found.run_id, found.contact_id) } else { (truth.run_id, truth.contact_id) };
        wrong.push((key, run_id, contact_id, truth.sums, truth.first_at, truth.last_at));
    }
    if repair && !wrong.is_empty() {
        set_totals(tx, &wrong).await?;
        let people: BTreeSet<i64> = existing(tx, wrong.iter().map(|truth| truth.2).filter(|id| *id != 0).collect()).await?;
        put_due(tx, people.into_iter(), now).await?;
    }
    Ok(())
}

async fn existing(tx: &mut Tx, contacts: BTreeSet<i64>) -> Result<BTreeSet<i64>, DbError> {
    let found = tx
        .bulk_fetch(
            "SELECT COALESCE(c.merged_into, c.id) FROM {rows} JOIN contact c ON c.id = v.id",
            Vec::new(),
            Rows::new().i64("id", contacts),
        )
        .await?;
    found.iter().map(|row| row.get(0)).collect()
}

fn read_total(row: &Row) -> Result<((i64, i64), Total), DbError> {
    let sums = Sums { human: row.get(4)?, machine: row.get(5)?, unknowable: row.get(6)? };
    let total = Total { run_id: row.get(2)?, contact_id: row.get(3)?, sums, first_at: row.get(7)?, last_at: row.get(8)?, compacted: false };
    Ok(((row.get(0)?, row.get(1)?), total))
}

/// Adds up the rows of these deliveries.
async fn count(tx: &mut Tx, span: crate::db::Args) -> Result<BTreeMap<(i64, i64), Total>, DbError> {
    let rows = tx
        .fetch_all(
            "SELECT delivery_id, kind, link, verdict, CAST(SUM(times) AS BIGINT), MAX(times), MIN(at), MAX(at), MIN(run_id), MIN(contact_id)
             FROM hit WHERE delivery_id > $1 AND delivery_id <= $2 AND delivery_id <> 0 AND NOT looked
             GROUP BY delivery_id, kind, link, verdict",
            span,
        )
        .await?;
    let mut out: BTreeMap<(i64, i64), Total> = BTreeMap::new();
    for row in rows {
        let (kind, verdict) = (Kind::from_stored(&row.get::<String>(1)?), Verdict::from_stored(&row.get::<String>(3)?));
        let (times, most): (i64, i64) = (row.get(4)?, row.get(5)?);
        let (first, last): (Time, Time) = (row.get(6)?, row.get(7)?);
        for link in links_of(kind, row.get(2)?, false) {
            let total = out.entry((row.get(0)?, link)).or_default();
            (total.run_id, total.contact_id) = (row.get(8)?, row.get(9)?);
            total.sums.add(verdict, times);
            if verdict == Verdict::Human {
                total.first_at = Some(total.first_at.map_or(first, |known| known.min(first)));
                total.last_at = total.last_at.max(Some(last));
                total.compacted |= most > 1;
            }
        }
    }
    Ok(out)
}

/// Sums of a run: by verdict, people, anonymous.
type RunSums = (Sums, i64, i64);

async fn runs(tx: &mut Tx, from: i64, repair: bool, verified: &mut Verified) -> Result<(), DbError> {
    let stored =
        run_sums(tx, "SELECT run_id, link, human, machine, unknowable, people, anonymous FROM run_total WHERE run_id >= $1", from).await?;
    let mut expected = run_sums(
        tx,
        "SELECT run_id, link, CAST(SUM(human) AS BIGINT), CAST(SUM(machine) AS BIGINT), CAST(SUM(unknowable) AS BIGINT),
                COUNT(*) FILTER (WHERE human > 0), CAST(0 AS BIGINT)
         FROM hit_total WHERE run_id >= $1 GROUP BY run_id, link",
        from,
    )
    .await?;
    let anonymous = tx
        .fetch_all(
            "SELECT run_id, kind, link, verdict, CAST(SUM(times) AS BIGINT) FROM hit
             WHERE delivery_id = 0 AND run_id >= $1 AND NOT looked GROUP BY run_id, kind, link, verdict",
            args![from],
        )
        .await?;
    for row in anonymous {
        let (kind, verdict, times) = (Kind::from_stored(&row.get::<String>(1)?), Verdict::from_stored(&row.get::<String>(3)?), row.get(4)?);
        for link in links_of(kind, row.get(2)?, false) {
            let sums = expected.entry((row.get(0)?, link)).or_default();
            sums.0.add(verdict, times);
            sums.2 += if verdict == Verdict::Human { times } else { 0 };
        }
    }
    let keys: BTreeSet<(i64, i64)> = stored.keys().chain(expected.keys()).copied().collect();
    verified.runs += keys.len() as u64;
    for key in keys {
        let found = stored.get(&key).copied().unwrap_or_default();
        let truth = expected.get(&key).copied().unwrap_or_default();
        if found == truth {
            continue;
        }
        note(verified, Difference { table: "run_total", id: key.0, link: key.1, found: run_text(&found), expected: run_text(&truth) });
        if repair {
            let (Sums { human, machine, unknowable }, people, anonymous) = truth;
            tx.execute(
                "INSERT INTO run_total (run_id, link, human, machine, unknowable, people, anonymous) VALUES ($1, $2, $3, $4, $5, $6, $7)
                 ON CONFLICT (run_id, link) DO UPDATE SET human = excluded.human, machine = excluded.machine,
                   unknowable = excluded.unknowable, people = excluded.people, anonymous = excluded.anonymous",
                args![key.0, key.1, human, machine, unknowable, people, anonymous],
            )
            .await?;
        }
    }
    Ok(())
}

async fn run_sums(tx: &mut Tx, sql: &str, from: i64) -> Result<BTreeMap<(i64, i64), RunSums>, DbError> {
    let read = |row: &Row| -> Result<_, DbError> {
        let sums = Sums { human: row.get(2)?, machine: row.get(3)?, unknowable: row.get(4)? };
        Ok(((row.get(0)?, row.get(1)?), (sums, row.get(5)?, row.get(6)?)))
    };
    tx.fetch_all(sql, args![from]).await?.iter().map(read).collect()
}

fn run_text((Sums { human, machine, unknowable }, people, anonymous): &RunSums) -> String {
    format!("human {human}, machine {machine}, unknowable {unknowable}, people {people}, anonymous {anonymous}")
}

fn note(verified: &mut Verified, difference: Difference) {
    verified.differences += 1;
    if verified.named.len() < NAMED {
        verified.named.push(difference);
    }
}
