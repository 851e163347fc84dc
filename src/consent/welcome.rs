//! Who is to be welcomed to a topic: found by reading the ledger on from where the last look ended, and kept
//! for good, so that nobody is welcomed twice, also after leaving and coming back.

use std::collections::BTreeSet;

use super::{Standing, sql};
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Rows, Tx};

/// The name of this reader of the ledger.
const READER: &str = "welcome";
/// Entries of one look: bounds a transaction, not what is read in the end.
const BLOCK: i64 = 5_000;

/// Whether the ledger has entries that were not looked at. Writes nothing.
pub async fn is_behind(db: &mut impl Connection) -> Result<bool, DbError> {
    let sql = "SELECT h.seq FROM consent_head h JOIN consent_reader r ON r.name = $1 WHERE h.id = 1 AND h.seq > r.seq";
    Ok(!db.rows(sql, args![READER]).await?.is_empty())
}

/// Reads on: notes everybody who agreed to one of `topics` since, by form, confirmation, the API or a command.
/// Whoever came with an import (their entry has a line of a file) did nothing just now, and is not greeted.
pub async fn collect(tx: &mut Tx, topics: &BTreeSet<i64>, now: Time) -> Result<(), DbError> {
    let sql = format!("SELECT seq FROM consent_reader WHERE name = $1 {}", tx.dialect().for_update());
    let from: i64 = tx.fetch_one(&sql, args![READER]).await?.get(0)?;
    let to = sql::head(tx).await?.0.min(from + BLOCK);
    let rows = tx
        .fetch_all(
            "SELECT contact_id, topic_id FROM consent_event
             WHERE seq > $1 AND seq <= $2 AND action IN ('granted', 'confirmed') AND source_line IS NULL
             ORDER BY seq",
            args![from, to],
        )
        .await?;
    let mut found: BTreeSet<(i64, i64)> = BTreeSet::new();
    for row in rows {
        let (contact_id, topic_id): (i64, i64) = (row.get(0)?, row.get(1)?);
        if topics.contains(&topic_id) {
            found.insert((topic_id, contact_id));
        }
    }
    note(tx, &found.into_iter().collect::<Vec<_>>(), now).await?;
    tx.execute_one("UPDATE consent_reader SET seq = $1 WHERE name = $2", args![to, READER]).await
}

/// Notes people who are to be welcomed because an operator says so; whoever was welcomed before is not again.
pub async fn ask(tx: &mut Tx, topic_id: i64, contacts: &[i64], now: Time) -> Result<(), DbError> {
    note(tx, &contacts.iter().map(|contact_id| (topic_id, *contact_id)).collect::<Vec<_>>(), now).await
}

async fn note(tx: &mut Tx, pairs: &[(i64, i64)], now: Time) -> Result<(), DbError> {
    if pairs.is_empty() {
        return Ok(());
    }
    tx.bulk(
        "INSERT INTO welcome (topic_id, contact_id, asked_at)
         SELECT v.topic_id, v.contact_id, CAST($1 AS BIGINT) FROM {rows} WHERE TRUE
         ON CONFLICT (topic_id, contact_id) DO NOTHING",
        args![now],
        Rows::new().i64("topic_id", pairs.iter().map(|pair| pair.0)).i64("contact_id", pairs.iter().map(|pair| pair.1)),
    )
    .await?;
    Ok(())
}

/// Whether anybody waits for the welcome to a topic. Writes nothing.
pub async fn any_waiting(db: &mut impl Connection, topic_id: i64) -> Result<bool, DbError> {
    let sql = "SELECT contact_id FROM welcome WHERE topic_id = $1 AND message_id IS NULL ORDER BY asked_at LIMIT 1";
    Ok(!db.rows(sql, args![topic_id]).await?.is_empty())
}

/// The people to welcome now, who asked first before others. Whoever has left meanwhile, or gets nothing, is
/// forgotten: they are welcomed when they come back.
pub async fn waiting(tx: &mut Tx, topic_id: i64, limit: i64) -> Result<Vec<i64>, DbError> {
    let sql = format!(
        "SELECT contact_id FROM welcome WHERE topic_id = $1 AND message_id IS NULL ORDER BY asked_at, contact_id LIMIT $2 {}",
        tx.dialect().for_update()
    );
    let rows = tx.fetch_all(&sql, args![topic_id, limit]).await?;
    let people: Vec<i64> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
    let facts = sql::permission_facts(tx, topic_id, &people).await?;
    let may = |contact_id: i64| {
        let mut facts = facts.iter().filter(|fact| fact.contact_id == contact_id);
        facts.any(|fact| fact.known && fact.standing == Standing::Subscribed && fact.suppressed.is_none())
    };
    let (welcome, gone): (Vec<i64>, Vec<i64>) = people.into_iter().partition(|contact_id| may(*contact_id));
    for contact_id in gone {
        tx.execute("DELETE FROM welcome WHERE topic_id = $1 AND contact_id = $2", args![topic_id, contact_id]).await?;
    }
    Ok(welcome)
}

/// The welcome was written: there is no other.
pub async fn welcomed(tx: &mut Tx, topic_id: i64, contact_id: i64, message_id: i64) -> Result<(), DbError> {
    let sql = "UPDATE welcome SET message_id = $1 WHERE topic_id = $2 AND contact_id = $3";
    tx.execute_one(sql, args![message_id, topic_id, contact_id]).await
}
