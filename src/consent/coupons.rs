//! Codes to give away: each once, and one of a pool to a person.

use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Rows, Tx};

/// A pool in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Codes.
    pub total: i64,
    /// Those that somebody has.
    pub given: i64,
}

impl Pool {
    /// Codes that nobody has.
    pub fn left(&self) -> i64 {
        self.total - self.given
    }
}

/// A code that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The pool.
    pub pool: String,
    /// The code.
    pub code: String,
    /// Whose it is, unless they were erased.
    pub email: Option<String>,
    /// Since when.
    pub at: Time,
}

/// Adds codes to a pool; those it has stay as they are. Answers how many were new.
pub async fn import(tx: &mut Tx, pool: &str, codes: Vec<String>) -> Result<u64, DbError> {
    tx.bulk(
        "INSERT INTO coupon (pool, code) SELECT CAST($1 AS TEXT), v.code FROM {rows} WHERE TRUE ON CONFLICT (pool, code) DO NOTHING",
        args![pool],
        Rows::new().text("code", codes),
    )
    .await
}

/// The code of a person: the one they have, else a free one, which is theirs from now on. `None`: the pool is
/// empty.
pub async fn give(tx: &mut Tx, pool: &str, contact_id: i64, now: Time) -> Result<Option<String>, DbError> {
    // Two nodes that welcome one person take turns; SQLite has one writer anyway.
    let sql = format!("SELECT id FROM contact WHERE id = $1 {}", tx.dialect().for_update());
    tx.fetch_optional(&sql, args![contact_id]).await?;
    if let Some(row) = tx.fetch_optional("SELECT code FROM coupon WHERE pool = $1 AND contact_id = $2", args![pool, contact_id]).await? {
        return Ok(Some(row.get(0)?));
    }
    // Picked first and once; another node that picks at the same time takes the next one.
    let sql = format!(
        "WITH picked AS (
           SELECT pool, code FROM coupon WHERE pool = $1 AND contact_id IS NULL ORDER BY code LIMIT 1 {}
         )
         UPDATE coupon SET contact_id = $2, given_at = $3
         FROM picked
         WHERE coupon.pool = picked.pool AND coupon.code = picked.code
         RETURNING coupon.code",
        tx.dialect().skip_locked()
    );
    tx.fetch_optional(&sql, args![pool, contact_id, now]).await?.map(|row| row.get(0)).transpose()
}

/// Whether a pool has a code left.
pub async fn any_left(db: &mut impl Connection, pool: &str) -> Result<bool, DbError> {
    let sql = "SELECT code FROM coupon WHERE pool = $1 AND contact_id IS NULL ORDER BY code LIMIT 1";
    Ok(!db.rows(sql, args![pool]).await?.is_empty())
}

/// All pools, by name.
pub async fn pools(db: &mut impl Connection) -> Result<Vec<Pool>, DbError> {
    let rows = db.rows("SELECT pool, COUNT(*), COUNT(contact_id) FROM coupon GROUP BY pool ORDER BY pool", Vec::new()).await?;
    rows.iter().map(|row| Ok(Pool { name: row.get(0)?, total: row.get(1)?, given: row.get(2)? })).collect()
}

const GIVEN: &str = "SELECT k.pool, k.code, c.email, k.given_at FROM coupon k LEFT JOIN contact c ON c.id = k.contact_id";

/// The codes of a pool that were given last.
pub async fn latest(db: &mut impl Connection, pool: &str, limit: i64) -> Result<Vec<Given>, DbError> {
    let sql = format!("{GIVEN} WHERE k.pool = $1 AND k.given_at IS NOT NULL ORDER BY k.given_at DESC, k.code LIMIT $2");
    read(db.rows(&sql, args![pool, limit]).await?)
}

/// The codes a person has.
pub async fn of_contact(db: &mut impl Connection, contact_id: i64) -> Result<Vec<Given>, DbError> {
    let sql = format!("{GIVEN} WHERE k.contact_id = $1 ORDER BY k.pool");
    read(db.rows(&sql, args![contact_id]).await?)
}

fn read(rows: Vec<crate::db::Row>) -> Result<Vec<Given>, DbError> {
    rows.iter().map(|row| Ok(Given { pool: row.get(0)?, code: row.get(1)?, email: row.get(2)?, at: row.get(3)? })).collect()
}
