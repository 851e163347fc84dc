//! How far a log of hits has been read: the row of `hit_log` that is written with the hits themselves.

use crate::args;
use crate::clock::Time;
use crate::db::{Connection as _, Db, DbError, Tx};

/// The stretch of a log that a group of hits came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark<'a> {
    /// The log.
    pub log: &'a str,
    /// Where the group begins, in bytes from the start of the log; 0 for the first one.
    pub from: i64,
    /// Where the next one begins.
    pub to: i64,
    /// When its last hit came.
    pub at: Time,
}

impl Mark<'_> {
    /// Moves the position on, in the transaction that writes the hits. False where it stands elsewhere: the
    /// group is written already, or somebody else reads this log. Then nothing of it may be written.
    pub(super) async fn advance(&self, tx: &mut Tx) -> Result<bool, DbError> {
        let moved = tx
            .execute(
                "UPDATE hit_log SET position = $3, at = $4 WHERE name = $1 AND position = $2",
                args![self.log, self.from, self.to, self.at],
            )
            .await?;
        if moved > 0 || self.from > 0 {
            return Ok(moved > 0);
        }
        let begun = tx
            .execute(
                "INSERT INTO hit_log (name, position, at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
                args![self.log, self.to, self.at],
            )
            .await?;
        Ok(begun > 0)
    }
}

/// Where the reading of a log goes on: 0 where nothing of it is written.
pub(super) async fn of_log(db: &mut Db, log: &str) -> Result<i64, DbError> {
    let rows = db.rows("SELECT position FROM hit_log WHERE name = $1", args![log]).await?;
    rows.first().map_or(Ok(0), |row| row.get(0))
}

/// Forgets a log that is gone.
pub(super) async fn forget(db: &Db, log: &str) -> Result<(), DbError> {
    db.execute("DELETE FROM hit_log WHERE name = $1", args![log]).await.map(|_| ())
}

/// A number that tells this database from others, so that nobody reads the logs of another one: `proposed`
/// where it has none yet. It is the position of the log without a name.
pub(super) async fn database_number(db: &Db, proposed: i64, now: Time) -> Result<i64, DbError> {
    db.execute("INSERT INTO hit_log (name, position, at) VALUES ('', $1, $2) ON CONFLICT (name) DO NOTHING", args![proposed, now]).await?;
    of_log(&mut db.clone(), "").await
}
