//! Statements over `segment_size`, `segment_name`, `segment_member`, `segment_change`, `frozen_list` and
//! `frozen_member`.

use super::compile::Sql;
use super::frozen::FrozenList;
use super::history::{Change, Look};
use crate::args;
use crate::clock::Time;
use crate::db::{Args, Connection, Db, DbError, Rows, Tx};

/// What a look at a block found.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) picked: i64,
    pub(super) joined: Vec<i64>,
    pub(super) departed: Vec<i64>,
}

/// When a segment was last looked at, and at what.
pub(super) async fn last_look(db: &mut impl Connection, name: &str) -> Result<Option<(Time, String)>, DbError> {
    let rows = db.rows("SELECT at, rule FROM segment_size WHERE segment = $1 ORDER BY at DESC LIMIT 1", args![name]).await?;
    rows.first().map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
}

pub(super) async fn looks(db: &mut impl Connection, name: &str, limit: u32) -> Result<Vec<Look>, DbError> {
    let sql = "SELECT at, size, joined, departed FROM segment_size WHERE segment = $1 ORDER BY at DESC LIMIT $2";
    let rows = db.rows(sql, args![name, limit]).await?;
    rows.iter().map(|row| Ok(Look { at: row.get(0)?, size: row.get(1)?, joined: row.get(2)?, departed: row.get(3)? })).collect()
}

pub(super) async fn record_look(db: &Db, name: &str, look: &Look, mark: &str) -> Result<(), DbError> {
    db.execute(
        "INSERT INTO segment_size (segment, at, size, joined, departed, rule) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (segment, at) DO UPDATE
         SET size = excluded.size, joined = excluded.joined, departed = excluded.departed, rule = excluded.rule",
        args![name, look.at, look.size, look.joined, look.departed, mark],
    )
    .await?;
    Ok(())
}

/// The number of a segment whose members are kept, and whether it is a new one.
pub(super) async fn segment_id(db: &Db, name: &str, new_id: i64) -> Result<(i64, bool), DbError> {
    let mut tx = db.begin().await?;
    let written =
        tx.execute("INSERT INTO segment_name (id, name) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", args![new_id, name]).await?;
    let id = tx.fetch_one("SELECT id FROM segment_name WHERE name = $1", args![name]).await?.get(0)?;
    tx.commit().await?;
    Ok((id, written > 0))
}

pub(super) async fn known_id(db: &mut impl Connection, name: &str) -> Result<Option<i64>, DbError> {
    let rows = db.rows("SELECT id FROM segment_name WHERE name = $1", args![name]).await?;
    rows.first().map(|row| row.get(0)).transpose()
}

pub(super) async fn known_names(db: &mut impl Connection) -> Result<Vec<String>, DbError> {
    db.rows("SELECT name FROM segment_name ORDER BY id", args![]).await?.iter().map(|row| row.get(0)).collect()
}

pub(super) async fn lock(tx: &mut Tx, segment_id: i64) -> Result<(), DbError> {
    let sql = format!("SELECT id FROM segment_name WHERE id = $1 {}", tx.dialect().for_update());
    tx.fetch_all(&sql, args![segment_id]).await?;
    Ok(())
}

/// The last id of the block of contacts behind `after`; the largest id that there can be for the last block, so
/// that members whose contact is gone fall into one.
pub(super) async fn end_of_block(tx: &mut Tx, after: i64, block: i64) -> Result<i64, DbError> {
    let row =
        tx.fetch_optional("SELECT c.id FROM contact c WHERE c.id > $1 ORDER BY c.id LIMIT 1 OFFSET $2", args![after, block - 1]).await?;
    row.map_or(Ok(i64::MAX), |row| row.get(0))
}

/// Who of a block (`after` < id <= `until`) the rule picks and is no member, and the other way round.
pub(super) async fn difference(tx: &mut Tx, segment_id: i64, after: i64, until: i64, condition: &Sql) -> Result<Difference, DbError> {
    let sql = format!(
        "WITH picked AS MATERIALIZED (SELECT c.id FROM contact c WHERE c.id > $2 AND c.id <= $3 AND {}),
           kept AS MATERIALIZED (SELECT m.contact_id AS id FROM segment_member m WHERE m.segment_id = $1 AND m.contact_id > $2 AND m.contact_id <= $3)
         SELECT CAST(0 AS BIGINT), COUNT(*) FROM picked
         UNION ALL SELECT CAST(1 AS BIGINT), j.id FROM (SELECT id FROM picked EXCEPT SELECT id FROM kept) j
         UNION ALL SELECT CAST(2 AS BIGINT), d.id FROM (SELECT id FROM kept EXCEPT SELECT id FROM picked) d",
        condition.text
    );
    let mut args: Args = args![segment_id, after, until];
    args.extend(condition.args.iter().cloned());
    let mut found = Difference::default();
    for row in tx.fetch_all(&sql, args).await? {
        match row.get::<i64>(0)? {
            0 => found.picked = row.get(1)?,
            1 => found.joined.push(row.get(1)?),
            _ => found.departed.push(row.get(1)?),
        }
    }
    found.joined.sort_unstable();
    found.departed.sort_unstable();
    Ok(found)
}

pub(super) async fn write(tx: &mut Tx, segment_id: i64, difference: &Difference, told: bool, now: Time) -> Result<(), DbError> {
    let rows = |ids: &[i64]| Rows::new().i64("id", ids.iter().copied());
    if !difference.joined.is_empty() {
        // Joined with the contacts: whoever was erased in this moment stays away.
        tx.bulk(
            "INSERT INTO segment_member (segment_id, contact_id, since) SELECT CAST($1 AS BIGINT), c.id, CAST($2 AS BIGINT)
             FROM {rows} JOIN contact c ON c.id = v.id WHERE TRUE ON CONFLICT (segment_id, contact_id) DO NOTHING",
            args![segment_id, now],
            rows(&difference.joined),
        )
        .await?;
    }
    if !difference.departed.is_empty() {
        tx.bulk(
            "DELETE FROM segment_member WHERE segment_id = $1 AND contact_id IN (SELECT v.id FROM {rows})",
            args![segment_id],
            rows(&difference.departed),
        )
        .await?;
    }
    if told {
        for (joined, ids) in [(true, &difference.joined), (false, &difference.departed)] {
            if !ids.is_empty() {
                tx.bulk(
                    "INSERT INTO segment_change (segment_id, at, contact_id, joined) SELECT CAST($1 AS BIGINT), CAST($2 AS BIGINT), c.id, CAST($3 AS BOOLEAN)
                     FROM {rows} JOIN contact c ON c.id = v.id WHERE TRUE
                     ON CONFLICT (segment_id, at, contact_id) DO UPDATE SET joined = excluded.joined",
                    args![segment_id, now, joined],
                    rows(ids),
                )
                .await?;
            }
        }
    }
    Ok(())
}

/// How many came and went after `after` and until `until`.
pub(super) async fn changes_since(db: &mut impl Connection, segment_id: i64, after: Time, until: Time) -> Result<(i64, i64), DbError> {
    let sql = "SELECT COALESCE(SUM(CASE WHEN joined THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN joined THEN 0 ELSE 1 END), 0)
               FROM segment_change WHERE segment_id = $1 AND at > $2 AND at <= $3";
    let rows = db.rows(sql, args![segment_id, after, until]).await?;
    rows.first().map_or(Ok((0, 0)), |row| Ok((row.get(0)?, row.get(1)?)))
}

pub(super) async fn changes(db: &mut impl Connection, segment_id: i64, since: Time, limit: u32) -> Result<Vec<Change>, DbError> {
    let sql = "SELECT g.at, g.contact_id, c.email, g.joined FROM segment_change g JOIN contact c ON c.id = g.contact_id
               WHERE g.segment_id = $1 AND g.at >= $2 ORDER BY g.at DESC, g.contact_id DESC LIMIT $3";
    let rows = db.rows(sql, args![segment_id, since, limit]).await?;
    rows.iter().map(|row| Ok(Change { at: row.get(0)?, contact_id: row.get(1)?, email: row.get(2)?, joined: row.get(3)? })).collect()
}

/// Changes before `before` go, the oldest first, a block a transaction.
pub(super) async fn forget_changes(db: &Db, segment_id: i64, before: Time, block: i64) -> Result<(), DbError> {
    loop {
        let gone = db
            .execute(
                "DELETE FROM segment_change WHERE segment_id = $1 AND (at, contact_id) IN (
                   SELECT g.at, g.contact_id FROM segment_change g WHERE g.segment_id = $1 AND g.at < $2 ORDER BY g.at, g.contact_id LIMIT $3)",
                args![segment_id, before, block],
            )
            .await?;
        if gone < block as u64 {
            return Ok(());
        }
    }
}

/// A segment's members and changes go, then its number.
pub(super) async fn forget_segment(db: &Db, segment_id: i64, block: i64) -> Result<(), DbError> {
    forget_changes(db, segment_id, Time::from_millis(i64::MAX), block).await?;
    drop_members(db, "segment_member", "segment_id", segment_id, block).await?;
    db.execute("DELETE FROM segment_name WHERE id = $1", args![segment_id]).await?;
    Ok(())
}

/// Rows of a table of members, a block a transaction.
async fn drop_members(db: &Db, table: &str, column: &str, id: i64, block: i64) -> Result<(), DbError> {
    let sql = format!(
        "DELETE FROM {table} WHERE {column} = $1 AND contact_id IN (
           SELECT m.contact_id FROM {table} m WHERE m.{column} = $1 ORDER BY m.contact_id LIMIT $2)"
    );
    while db.execute(&sql, args![id, block]).await? >= block as u64 {}
    Ok(())
}

pub(super) async fn forget_contact(tx: &mut Tx, contact_id: i64) -> Result<(), DbError> {
    for table in ["segment_member", "segment_change", "frozen_member"] {
        tx.execute(&format!("DELETE FROM {table} WHERE contact_id = $1"), args![contact_id]).await?;
    }
    Ok(())
}

// Frozen lists ------------------------------------------------------------------------------------

pub(super) async fn new_list(db: &Db, id: i64, name: &str, rule: &str, now: Time) -> Result<(), DbError> {
    db.execute("INSERT INTO frozen_list (id, name, rule, at, size) VALUES ($1, $2, $3, $4, 0)", args![id, name, rule, now]).await?;
    Ok(())
}

/// Adds a block of whom the rule picks; answers how many.
pub(super) async fn add_to_list(tx: &mut Tx, list_id: i64, after: i64, until: i64, condition: &Sql) -> Result<u64, DbError> {
    let sql = format!(
        "INSERT INTO frozen_member (list_id, contact_id) SELECT CAST($1 AS BIGINT), c.id FROM contact c
         WHERE c.id > $2 AND c.id <= $3 AND {} ORDER BY c.id",
        condition.text
    );
    let mut args: Args = args![list_id, after, until];
    args.extend(condition.args.iter().cloned());
    tx.execute(&sql, args).await
}

/// The list is complete and has its name from now on.
pub(super) async fn finish_list(db: &Db, id: i64, name: &str, size: i64) -> Result<(), DbError> {
    let mut tx = db.begin().await?;
    tx.execute_one("UPDATE frozen_list SET name = $2, size = $3 WHERE id = $1", args![id, name, size]).await?;
    tx.commit().await
}

pub(super) async fn lists(db: &mut impl Connection) -> Result<Vec<FrozenList>, DbError> {
    let rows = db.rows("SELECT id, name, rule, at, size FROM frozen_list ORDER BY id", args![]).await?;
    rows.iter()
        .map(|row| Ok(FrozenList { id: row.get(0)?, name: row.get(1)?, rule: row.get(2)?, at: row.get(3)?, size: row.get(4)? }))
        .collect()
}

/// The list goes first, so that no rule finds half of it.
pub(super) async fn drop_list(db: &Db, id: i64, block: i64) -> Result<(), DbError> {
    db.execute("DELETE FROM frozen_list WHERE id = $1", args![id]).await?;
    drop_members(db, "frozen_member", "list_id", id, block).await
}
