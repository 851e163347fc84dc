//! What becomes of hits when a person is erased, or their time is over.

use std::collections::{BTreeMap, BTreeSet};

use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Rows, Tx};

/// Makes a person's hits, sums of hits and withdrawals nobody's: each takes the number that its delivery has now
/// (`numbers`: delivery and number), so that the counts of a run stay as they are; address and agent go, and engagement with them.
pub async fn forget_contact(tx: &mut Tx, contact_id: i64, numbers: &[(i64, i64)]) -> Result<(), DbError> {
    let rows = || Rows::new().i64("id", numbers.iter().map(|pair| pair.0)).i64("number", numbers.iter().map(|pair| pair.1));
    let agents =
        tx.fetch_all("SELECT DISTINCT agent_id FROM hit WHERE contact_id = $1 AND agent_id IS NOT NULL", args![contact_id]).await?;
    let agents = agents.iter().map(|row| row.get(0)).collect::<Result<Vec<i64>, _>>()?;
    tx.bulk(
        "UPDATE hit SET contact_id = v.number, ip = NULL, agent = NULL, agent_id = NULL, traits = NULL FROM {rows} WHERE hit.contact_id = $1 AND hit.delivery_id = v.id",
        args![contact_id],
        rows(),
    )
    .await?;
    tx.bulk("UPDATE hit_total SET contact_id = v.number FROM {rows} WHERE hit_total.delivery_id = v.id", args![], rows()).await?;
    tx.bulk("UPDATE unsubscribe SET contact_id = v.number FROM {rows} WHERE unsubscribe.delivery_id = v.id", args![], rows()).await?;
    // Of deliveries that are gone.
    tx.execute(
        "UPDATE hit SET contact_id = 0, ip = NULL, agent = NULL, agent_id = NULL, traits = NULL WHERE contact_id = $1",
        args![contact_id],
    )
    .await?;
    for table in ["unsubscribe", "hit_total"] {
        tx.execute(&format!("UPDATE {table} SET contact_id = 0 WHERE contact_id = $1"), args![contact_id]).await?;
    }
    drop_agents(tx, agents).await?;
    super::engagement_ops::forget_contact(tx, contact_id, numbers).await
}

/// Removes those of these agents that no hit has any more: a rare one tells whose it was.
async fn drop_agents(tx: &mut Tx, agents: Vec<i64>) -> Result<(), DbError> {
    tx.bulk(
        "DELETE FROM agent WHERE id IN (SELECT v.id FROM {rows}) AND NOT EXISTS (SELECT 1 FROM hit h WHERE h.agent_id = agent.id)",
        args![],
        Rows::new().i64("id", agents),
    )
    .await
    .map(|_| ())
}

/// The agents of these hits.
async fn agents_of(tx: &mut Tx, ids: &[i64]) -> Result<Vec<i64>, DbError> {
    let found = tx
        .bulk_fetch(
            "SELECT DISTINCT h.agent_id FROM {rows} JOIN hit h ON h.id = v.id WHERE h.agent_id IS NOT NULL",
            args![],
            Rows::new().i64("id", ids.iter().copied()),
        )
        .await?;
    let agents = found.iter().map(|row| row.get(0)).collect::<Result<BTreeSet<i64>, _>>()?;
    Ok(agents.into_iter().collect())
}

/// Which hits a rule of retention is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// Those that still say from where they came.
    WithClient,
    /// All.
    All,
}

/// Hits older than `before`, after the id `after`: id and contact, at most `limit`, by id.
pub async fn old_hits(db: &mut impl Connection, old: Old, after: i64, before: Time, limit: i64) -> Result<Vec<(i64, i64)>, DbError> {
    let which = match old {
        Old::WithClient => "AND (ip IS NOT NULL OR agent IS NOT NULL OR agent_id IS NOT NULL OR traits IS NOT NULL)",
        Old::All => "",
    };
    let sql = format!("SELECT id, contact_id FROM hit WHERE id > $1 AND at < $2 {which} ORDER BY id LIMIT $3");
    db.rows(&sql, args![after, before, limit]).await?.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// Takes addresses and agents out of hits, or deletes them.
pub async fn drop_old(tx: &mut Tx, old: Old, ids: &[i64]) -> Result<u64, DbError> {
    let sql = match old {
        Old::WithClient => "UPDATE hit SET ip = NULL, agent = NULL, agent_id = NULL, traits = NULL FROM {rows} WHERE hit.id = v.id",
        Old::All => "DELETE FROM hit WHERE id IN (SELECT v.id FROM {rows})",
    };
    let agents = agents_of(tx, ids).await?;
    let touched = tx.bulk(sql, args![], Rows::new().i64("id", ids.iter().copied())).await?;
    drop_agents(tx, agents).await?;
    Ok(touched)
}

/// Hits of one mail, kind, link and verdict, seen between `since` and `before`, become one: those that are not the
/// last of theirs, after the id `after`: id and contact, at most `limit`, by id. Hits of nobody in particular have
/// nothing to lose and are left out.
pub async fn superseded(
    db: &mut impl Connection,
    after: i64,
    since: Option<Time>,
    before: Time,
    limit: i64,
) -> Result<Vec<(i64, i64)>, DbError> {
    let sql = "SELECT h.id, h.contact_id FROM hit h
         WHERE h.id > $1 AND h.at >= $2 AND h.at < $3 AND h.delivery_id <> 0 AND EXISTS (
           SELECT 1 FROM hit k
           WHERE k.delivery_id = h.delivery_id AND k.at >= h.at AND k.at < $3 AND (k.at > h.at OR k.id > h.id)
             AND k.kind = h.kind AND k.verdict = h.verdict AND k.looked = h.looked AND COALESCE(k.link, -1) = COALESCE(h.link, -1)
         )
         ORDER BY h.id LIMIT $4";
    let rows = db.rows(sql, args![after, since.unwrap_or_default(), before, limit]).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// What hits have in common that become one: delivery, kind, link, verdict, and whether only the head was asked for.
type Alike = (i64, String, Option<i64>, String, bool);

/// Puts hits that [`superseded`] found together with the last one of theirs, which stays with the number of all
/// of them and without what it says of a client. Answers how many went. No sum changes.
pub async fn compact(tx: &mut Tx, ids: &[i64], before: Time) -> Result<u64, DbError> {
    let going: BTreeSet<i64> = ids.iter().copied().collect();
    let rows = tx
        .bulk_fetch(
            "SELECT DISTINCT h.delivery_id FROM {rows} JOIN hit h ON h.id = v.id",
            args![],
            Rows::new().i64("id", going.iter().copied()),
        )
        .await?;
    let deliveries = rows.iter().map(|row| row.get(0)).collect::<Result<BTreeSet<i64>, _>>()?;
    let rows = tx
        .bulk_fetch(
            "SELECT h.delivery_id, h.kind, h.link, h.verdict, h.looked, h.at, h.id, h.times
             FROM {rows} JOIN hit h ON h.delivery_id = v.delivery_id AND h.at < $1",
            args![before],
            Rows::new().i64("delivery_id", deliveries),
        )
        .await?;
    // The last one of each, and how many more it stands for.
    let mut last: BTreeMap<Alike, (Time, i64)> = BTreeMap::new();
    let mut more: BTreeMap<Alike, i64> = BTreeMap::new();
    for row in &rows {
        let alike: Alike = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        let (at, id, times): (Time, i64, i64) = (row.get(5)?, row.get(6)?, row.get(7)?);
        if going.contains(&id) {
            *more.entry(alike.clone()).or_default() += times;
        }
        let known = last.entry(alike).or_insert((at, id));
        *known = (*known).max((at, id));
    }
    let stay: Vec<i64> = more.keys().map(|alike| last.get(alike).map_or(0, |last| last.1)).collect();
    let agents = agents_of(tx, &[ids, stay.as_slice()].concat()).await?;
    let kept = Rows::new().i64("id", stay).i64("more", more.values().copied());
    tx.bulk(
        "UPDATE hit SET times = hit.times + v.more, ip = NULL, agent = NULL, agent_id = NULL, traits = NULL FROM {rows} WHERE hit.id = v.id",
        args![],
        kept,
    )
    .await?;
    let gone = tx.bulk("DELETE FROM hit WHERE id IN (SELECT v.id FROM {rows})", args![], Rows::new().i64("id", going)).await?;
    drop_agents(tx, agents).await?;
    Ok(gone)
}
