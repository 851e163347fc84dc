//! Statements of `suppression`, `suppression_rule` and `suppression_removal`.

use super::suppression::{Kind, NewEntry, Removal};
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Row, Rows, Tx, Value};

/// Somebody, or some part of the world, that gets nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What `value` is.
    pub kind: Kind,
    /// An address as compared, a domain, or a hash.
    pub value: String,
    /// Why.
    pub reason: String,
    /// Where the entry came from.
    pub source: String,
    /// Since when.
    pub at: Time,
    /// Until when; `None`: for good.
    pub expires_at: Option<Time>,
}

fn read(row: &Row) -> Result<Entry, DbError> {
    let kind: String = row.get(0)?;
    Ok(Entry {
        kind: kind_of(&kind)?,
        value: row.get(1)?,
        reason: row.get(2)?,
        source: row.get(3)?,
        at: row.get(4)?,
        expires_at: row.get(5)?,
    })
}

fn kind_of(text: &str) -> Result<Kind, DbError> {
    Kind::from_stored(text).ok_or_else(|| DbError::Unexpected(format!("a suppression is of the unknown kind `{text}`")))
}

/// The entries of these addresses themselves.
pub(super) async fn addresses<K: AsRef<str> + Sync>(tx: &mut Tx, keys: &[K]) -> Result<Vec<Entry>, DbError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    // The cross join keeps SQLite from scanning the table and probing the input.
    let rows = tx
        .bulk_fetch(
            "SELECT 'address', x.email_key, x.reason, x.source, x.at, x.expires_at
             FROM {rows} CROSS JOIN suppression x WHERE x.email_key = v.email_key",
            Vec::new(),
            Rows::new().text("email_key", keys.iter().map(AsRef::as_ref)),
        )
        .await?;
    rows.iter().map(read).collect()
}

/// Whether any address is suppressed by itself. Most instances have few, many have none.
pub(super) async fn any_addresses(tx: &mut Tx) -> Result<bool, DbError> {
    Ok(tx.fetch_optional("SELECT 1 FROM suppression LIMIT 1", Vec::new()).await?.is_some())
}

/// Which kinds of rules other than keyed digests there are: a probe of the index for each. (`EXISTS` would let
/// PostgreSQL scan the table for a kind that its statistics take for frequent.)
pub(super) async fn kinds(db: &mut impl Connection) -> Result<Vec<Kind>, DbError> {
    const LOOK: &str = "SELECT
        (SELECT kind FROM suppression_rule WHERE kind = 'domain' ORDER BY value LIMIT 1),
        (SELECT kind FROM suppression_rule WHERE kind = 'md5' ORDER BY value LIMIT 1),
        (SELECT kind FROM suppression_rule WHERE kind = 'sha1' ORDER BY value LIMIT 1),
        (SELECT kind FROM suppression_rule WHERE kind = 'sha256' ORDER BY value LIMIT 1)";
    let rows = db.rows(LOOK, Vec::new()).await?;
    let mut kinds = Vec::new();
    for row in &rows {
        for column in 0..4 {
            if let Some(kind) = row.get::<Option<String>>(column)? {
                kinds.push(kind_of(&kind)?);
            }
        }
    }
    Ok(kinds)
}

/// Whether anybody was erased.
pub(super) async fn any_keyed(tx: &mut Tx) -> Result<bool, DbError> {
    let row = tx.fetch_optional("SELECT kind FROM suppression_rule WHERE kind = 'keyed' ORDER BY value LIMIT 1", Vec::new()).await?;
    Ok(row.is_some())
}

/// Those of these rules that there are.
pub(super) async fn rules<'a>(tx: &mut Tx, asked: impl Iterator<Item = &'a (Kind, String)> + Clone) -> Result<Vec<Entry>, DbError> {
    let rows = tx
        .bulk_fetch(
            "SELECT x.kind, x.value, x.reason, x.source, x.at, x.expires_at
             FROM {rows} CROSS JOIN suppression_rule x WHERE x.kind = v.kind AND x.value = v.value",
            Vec::new(),
            Rows::new().text("kind", asked.clone().map(|(kind, _)| kind.as_str())).text("value", asked.map(|(_, value)| value.as_str())),
        )
        .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn add_addresses(tx: &mut Tx, entries: Vec<NewEntry>, source: &str, at: Time) -> Result<u64, DbError> {
    tx.bulk(
        "INSERT INTO suppression (email_key, reason, source, at, expires_at)
         SELECT v.value, v.reason, CAST($1 AS TEXT), CAST($2 AS BIGINT), v.expires_at FROM {rows} WHERE TRUE
         ON CONFLICT (email_key) DO UPDATE SET reason = excluded.reason, source = excluded.source, expires_at = excluded.expires_at
         WHERE suppression.expires_at IS NOT NULL
           AND (excluded.expires_at IS NULL OR excluded.expires_at > suppression.expires_at)",
        args![source, at],
        columns(&entries),
    )
    .await
}

pub(super) async fn add_rules(tx: &mut Tx, entries: Vec<NewEntry>, source: &str, at: Time) -> Result<u64, DbError> {
    tx.bulk(
        "INSERT INTO suppression_rule (kind, value, reason, source, at, expires_at)
         SELECT v.kind, v.value, v.reason, CAST($1 AS TEXT), CAST($2 AS BIGINT), v.expires_at FROM {rows} WHERE TRUE
         ON CONFLICT (kind, value) DO UPDATE SET reason = excluded.reason, source = excluded.source, expires_at = excluded.expires_at
         WHERE suppression_rule.expires_at IS NOT NULL
           AND (excluded.expires_at IS NULL OR excluded.expires_at > suppression_rule.expires_at)",
        args![source, at],
        columns(&entries).text("kind", entries.iter().map(|entry| entry.kind.as_str())),
    )
    .await
}

fn columns(entries: &[NewEntry]) -> Rows {
    Rows::new()
        .text("value", entries.iter().map(|entry| entry.value.as_str()))
        .text("reason", entries.iter().map(|entry| entry.reason.as_str()))
        .opt_i64("expires_at", entries.iter().map(|entry| entry.expires_at.map(Time::millis)).collect())
}

/// Deletes these and answers those that were there.
pub(super) async fn delete(tx: &mut Tx, asked: &[(Kind, String)]) -> Result<Vec<Entry>, DbError> {
    let mut removed = Vec::new();
    for (kind, value) in asked {
        let rows = match kind {
            Kind::Address => {
                let sql = "DELETE FROM suppression WHERE email_key = $1 RETURNING 'address', email_key, reason, source, at, expires_at";
                tx.fetch_all(sql, args![value]).await?
            }
            kind => {
                let sql =
                    "DELETE FROM suppression_rule WHERE kind = $1 AND value = $2 RETURNING kind, value, reason, source, at, expires_at";
                tx.fetch_all(sql, args![kind.as_str(), value]).await?
            }
        };
        for row in &rows {
            removed.push(read(row)?);
        }
    }
    Ok(removed)
}

pub(super) async fn note_removal(tx: &mut Tx, id: i64, entry: &Entry, subject: &str, source: &str, at: Time) -> Result<(), DbError> {
    tx.execute_one(
        "INSERT INTO suppression_removal (id, at, kind, subject, reason, since, source) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        args![id, at, entry.kind.as_str(), subject, &entry.reason, entry.at, source],
    )
    .await
}

pub(super) async fn removals(db: &mut impl Connection, subjects: &[String]) -> Result<Vec<Removal>, DbError> {
    let marks: Vec<String> = (1..=subjects.len()).map(|at| format!("${at}")).collect();
    let sql =
        format!("SELECT at, kind, reason, since, source FROM suppression_removal WHERE subject IN ({}) ORDER BY id", marks.join(", "));
    let rows = db.rows(&sql, subjects.iter().map(Value::from).collect()).await?;
    rows.iter()
        .map(|row| {
            let kind: String = row.get(1)?;
            Ok(Removal { at: row.get(0)?, kind: kind_of(&kind)?, reason: row.get(2)?, since: row.get(3)?, source: row.get(4)? })
        })
        .collect()
}

pub(super) async fn clear_removals(tx: &mut Tx, subjects: &[String]) -> Result<(), DbError> {
    for subject in subjects {
        tx.execute("UPDATE suppression_removal SET source = '' WHERE subject = $1", args![subject]).await?;
    }
    Ok(())
}

pub(super) async fn any_expired(db: &mut impl Connection, now: Time) -> Result<bool, DbError> {
    let rows = db
        .rows(
            "SELECT (SELECT expires_at FROM suppression WHERE expires_at <= $1 ORDER BY expires_at LIMIT 1),
               (SELECT expires_at FROM suppression_rule WHERE expires_at <= $1 ORDER BY expires_at LIMIT 1)",
            args![now],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(false) };
    Ok(row.get::<Option<i64>>(0)?.is_some() || row.get::<Option<i64>>(1)?.is_some())
}

pub(super) async fn delete_expired(tx: &mut Tx, now: Time) -> Result<u64, DbError> {
    let addresses = tx.execute("DELETE FROM suppression WHERE expires_at <= $1", args![now]).await?;
    Ok(addresses + tx.execute("DELETE FROM suppression_rule WHERE expires_at <= $1", args![now]).await?)
}

pub(super) async fn counts(db: &mut impl Connection) -> Result<Vec<(Kind, String, i64)>, DbError> {
    let rows = db
        .rows(
            "SELECT 'address', reason, COUNT(*) FROM suppression GROUP BY reason
             UNION ALL SELECT kind, reason, COUNT(*) FROM suppression_rule GROUP BY kind, reason",
            Vec::new(),
        )
        .await?;
    let mut counts = Vec::with_capacity(rows.len());
    for row in &rows {
        counts.push((kind_of(&row.get::<String>(0)?)?, row.get(1)?, row.get(2)?));
    }
    counts.sort();
    Ok(counts)
}

pub(super) async fn entries(
    db: &mut impl Connection,
    kind: Kind,
    after: &str,
    reason: Option<&str>,
    limit: i64,
) -> Result<Vec<Entry>, DbError> {
    let of_reason = if reason.is_some() { "AND reason = $4" } else { "" };
    let sql = match kind {
        Kind::Address => format!(
            "SELECT $1, email_key, reason, source, at, expires_at FROM suppression
             WHERE email_key > $2 {of_reason} ORDER BY email_key LIMIT $3"
        ),
        _ => format!(
            "SELECT kind, value, reason, source, at, expires_at FROM suppression_rule
             WHERE kind = $1 AND value > $2 {of_reason} ORDER BY value LIMIT $3"
        ),
    };
    let mut args = args![kind.as_str(), after, limit];
    args.extend(reason.map(Value::from));
    db.rows(&sql.replace("SELECT $1", "SELECT CAST($1 AS TEXT)"), args).await?.iter().map(read).collect()
}
