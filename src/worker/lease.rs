//! Tasks that one node does for all: schedules, recovery, confirmation mails.
//!
//! A lease with a fencing token, as Gray and Cheriton (1989) and Lamport's epochs have it: whoever
//! takes it over gets a larger token, and each transaction of the task proves that its token is the
//! newest one. A holder that slept can do no harm when it wakes.

use crate::args;
use crate::clock::Time;
use crate::db::{Db, DbError, Dialect, Tx};

/// A lease that this node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    token: i64,
}

/// Takes or keeps the lease `name` for the worker `holder` until `now + lease_ms`. `None` while another
/// one holds it. A worker whose place was settled holds nothing any more: after a kill, schedules go on
/// with the restart and not only when the lease is over.
pub async fn take(db: &Db, name: &str, holder: i64, lease_ms: i64, now: Time) -> Result<Option<Held>, DbError> {
    let mut tx = db.begin().await?;
    let row = tx
        .fetch_optional(
            "INSERT INTO lease (name, holder, token, lease_until) VALUES ($1, $2, 1, $3)
             ON CONFLICT (name) DO UPDATE
             SET holder = excluded.holder, lease_until = excluded.lease_until,
               token = CASE WHEN lease.holder = excluded.holder THEN lease.token ELSE lease.token + 1 END
             WHERE lease.holder = excluded.holder OR lease.lease_until < $4
               OR NOT EXISTS (SELECT 1 FROM worker WHERE worker.id = lease.holder)
             RETURNING token",
            args![name, holder, now.plus(lease_ms), now],
        )
        .await?;
    tx.commit().await?;
    row.map(|row| Ok(Held { token: row.get(0)? })).transpose()
}

/// Gives the lease up, so that another node need not wait for its end.
pub async fn give_up(db: &Db, name: &str, holder: i64) -> Result<(), DbError> {
    db.execute("UPDATE lease SET lease_until = 0 WHERE name = $1 AND holder = $2", args![name, holder]).await?;
    Ok(())
}

impl Held {
    /// Whether nobody has taken the lease over since; nobody does before this transaction ends.
    pub async fn is_newest(&self, tx: &mut Tx, name: &str) -> Result<bool, DbError> {
        let sql = match tx.dialect() {
            Dialect::Sqlite => "SELECT token FROM lease WHERE name = $1",
            Dialect::Postgres => "SELECT token FROM lease WHERE name = $1 FOR SHARE",
        };
        let newest: Option<i64> = tx.fetch_optional(sql, args![name]).await?.map(|row| row.get(0)).transpose()?;
        Ok(newest == Some(self.token))
    }
}
