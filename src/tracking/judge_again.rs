//! All hits that are kept raw, judged by the rules of today (`optin tracking judge`).

use std::collections::BTreeMap;

use super::Verdict;
use super::judge_gather::{Turned, judge_stored};
use super::rollup::Changes;
use super::sql;
use crate::args;
use crate::clock::Time;
use crate::db::{Db, DbError, Tx};

/// Hits of one transaction: it holds up other writers for some tens of milliseconds.
const BLOCK: i64 = 2_000;

/// Which hits are judged again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    /// Those since then.
    pub since: Option<Time>,
    /// Those of mails of this campaign.
    pub campaign: Option<&'a str>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Again {
    /// Hits that were looked at.
    pub judged: u64,
    /// Hits whose signals or score differ now.
    pub changed: u64,
    /// From which verdict to which.
    pub turned: Vec<TurnedCount>,
}

/// Hits that turned.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TurnedCount {
    /// Open or click.
    pub kind: &'static str,
    /// What they were taken for.
    pub from: &'static str,
    /// What they are taken for.
    pub to: &'static str,
    /// How many.
    pub hits: u64,
}

/// Judges hits again, a block at a time, with the sums they are added to; or only looks. Hits that were put
/// together, and those that are nobody's, stay as they are. What is gone with time (address and agent) counts as
/// it was noted then.
pub async fn judge_again(db: &Db, machine_from: i64, scope: Scope<'_>, dry: bool, now: Time) -> Result<Again, DbError> {
    let mut again = Again::default();
    let mut turned: BTreeMap<(&'static str, Verdict, Verdict), u64> = BTreeMap::new();
    let mut after = 0;
    loop {
        let mut tx = if dry { db.begin_read().await? } else { db.begin().await? };
        let block = block(&mut tx, scope, after).await?;
        let Some(last) = block.last() else {
            tx.rollback().await?;
            break;
        };
        after = last.0;
        let (changed, mails) = judge_stored(&mut tx, machine_from, &block).await?;
        again.judged += block.len() as u64;
        again.changed += changed.len() as u64;
        for Turned { stored, judged } in changed.iter().filter(|turned| turned.judged.verdict != turned.stored.judged.verdict) {
            *turned.entry((stored.seen.kind.text(), stored.judged.verdict, judged.verdict)).or_default() += 1;
        }
        if dry {
            tx.rollback().await?;
            continue;
        }
        let mut changes = Changes::default();
        mails.follow(&changed, &mut changes);
        sql::update_judgements(&mut tx, changed.iter().map(|turned| (turned.stored.seen.id, &turned.judged))).await?;
        changes.apply(&mut tx, now).await?;
        tx.commit().await?;
    }
    again.turned =
        turned.into_iter().map(|((kind, from, to), hits)| TurnedCount { kind, from: from.text(), to: to.text(), hits }).collect();
    Ok(again)
}

/// The next hits: id, delivery and time.
async fn block(tx: &mut Tx, scope: Scope<'_>, after: i64) -> Result<Vec<(i64, i64, Time)>, DbError> {
    let of_campaign = scope.campaign.map_or("", |_| "AND h.run_id IN (SELECT r.id FROM run r WHERE r.campaign = $4)");
    let sql = format!(
        "SELECT h.id, h.delivery_id, h.at FROM hit h
         WHERE h.id > $1 AND h.at >= $2 AND h.times = 1 AND h.delivery_id <> 0 {of_campaign}
         ORDER BY h.id LIMIT $3"
    );
    let mut args = args![after, scope.since.unwrap_or_default(), BLOCK];
    args.extend(scope.campaign.map(Into::into));
    let rows = tx.fetch_all(&sql, args).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).collect()
}
