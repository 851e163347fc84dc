//! Who was in a segment when: sizes over time, members, and who came and went since the last look.
//!
//! A look goes through all contacts in blocks, each in a transaction of its own: it asks which of the block the
//! rule picks at the look's one `now`, takes the difference to the members that are stored, and writes only
//! that. So a look that was cut off leaves nothing to undo, and the next one goes on from what is there.
//!
//! The first look at a rule, and the first one after it changed, starts anew: its members are stored, and nobody
//! has joined or left, since nobody did anything.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::compile::compile_for_blocks;
use super::history_sql as sql;
use super::rule::Rule;
use crate::clock::{DAY, Time};
use crate::db::{Connection, Db, DbError, Tx};
use crate::entropy::Entropy;

/// Contacts of one transaction: some 50 ms, for which others wait to write on SQLite.
pub(super) const BLOCK: i64 = 10_000;
/// Rows deleted in one transaction.
const DELETED_AT_ONCE: i64 = 20_000;
/// How long it is kept who joined and left. Sizes are kept for good: a row a day.
pub const CHANGES_KEPT_MS: i64 = 400 * DAY;
/// How often the house looks.
pub const EVERY_MS: i64 = DAY;

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Look {
    /// When.
    pub at: Time,
    /// How many the rule picked.
    pub size: i64,
    /// How many came since the look before.
    pub joined: i64,
    /// How many went since then.
    pub departed: i64,
}

/// Somebody who came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The look that saw it.
    pub at: Time,
    /// Who.
    pub contact_id: i64,
    /// The address, as shown.
    pub email: String,
    /// Came; else went.
    pub joined: bool,
}

/// A segment to look at.
#[derive(Debug, Clone, Copy)]
pub struct Looked<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its rule.
    pub rule: &'a Rule,
    /// Whether its members are kept (`history` in segments.toml), or its size alone.
    pub members: bool,
}

impl Looked<'_> {
    /// What a size is the size of: another rule, or another way to look, is another one.
    fn mark(&self) -> String {
        let digest = Sha256::digest(self.rule.to_string().as_bytes());
        let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        if self.members { hex } else { format!("{hex} size") }
    }
}

/// Whether it is time to look at a segment: a day after the last look, or at once where the rule is a new one.
pub async fn is_due(db: &Db, looked: Looked<'_>, now: Time) -> Result<bool, DbError> {
    let last = sql::last_look(&mut db.clone(), looked.name).await?;
    Ok(last.is_none_or(|(at, mark)| mark != looked.mark() || now.since(at) >= EVERY_MS))
}

/// Looks at a segment as of `now` and remembers what is found.
pub async fn look(db: &Db, entropy: &Entropy, looked: Looked<'_>, now: Time) -> Result<Look, DbError> {
    let mark = looked.mark();
    let last = sql::last_look(&mut db.clone(), looked.name).await?;
    let found = if looked.members {
        let (segment_id, is_new) = sql::segment_id(db, looked.name, entropy.id(now)).await?;
        let before = last.filter(|(_, known)| *known == mark && !is_new).map(|(at, _)| at);
        let size = blocks(db, segment_id, looked.rule, before.is_some(), now).await?;
        let (joined, departed) = match before {
            // Also what a look that was cut off has written.
            Some(before) => sql::changes_since(&mut db.clone(), segment_id, before, now).await?,
            None => (0, 0),
        };
        sql::forget_changes(db, segment_id, now.plus(-CHANGES_KEPT_MS), DELETED_AT_ONCE).await?;
        Look { at: now, size, joined, departed }
    } else {
        forget(db, looked.name).await?;
        Look { at: now, size: super::ops::count(db, looked.rule, now).await?, joined: 0, departed: 0 }
    };
    sql::record_look(db, looked.name, &found, &mark).await?;
    Ok(found)
}

/// Goes through all contacts; answers how many the rule picks. `told`: who comes and goes is written down.
async fn blocks(db: &Db, segment_id: i64, rule: &Rule, told: bool, now: Time) -> Result<i64, DbError> {
    let condition = compile_for_blocks(rule, db.dialect(), now, 4);
    let (mut size, mut after) = (0, i64::MIN);
    loop {
        let mut tx = db.begin().await?;
        // One look at a time: another process finds its difference after this one's is written.
        sql::lock(&mut tx, segment_id).await?;
        let until = sql::end_of_block(&mut tx, after, BLOCK).await?;
        let difference = sql::difference(&mut tx, segment_id, after, until, &condition).await?;
        size += difference.picked;
        sql::write(&mut tx, segment_id, &difference, told, now).await?;
        tx.commit().await?;
        if until == i64::MAX {
            return Ok(size);
        }
        after = until;
    }
}

/// Drops what is kept of the members of a segment. Its sizes stay.
pub async fn forget(db: &Db, name: &str) -> Result<(), DbError> {
    let Some(segment_id) = sql::known_id(&mut db.clone(), name).await? else { return Ok(()) };
    sql::forget_segment(db, segment_id, DELETED_AT_ONCE).await
}

/// Drops what is kept of the members of segments that are not among `names`.
pub async fn forget_others(db: &Db, names: &BTreeSet<&str>) -> Result<(), DbError> {
    for name in sql::known_names(&mut db.clone()).await? {
        if !names.contains(name.as_str()) {
            forget(db, &name).await?;
        }
    }
    Ok(())
}

/// The latest looks at a segment, the oldest of them first.
pub async fn looks(db: &mut impl Connection, name: &str, limit: u32) -> Result<Vec<Look>, DbError> {
    let mut looks = sql::looks(db, name, limit).await?;
    looks.reverse();
    Ok(looks)
}

/// Who came and went after `since`, the newest first, at most `limit`.
pub async fn changes(db: &mut impl Connection, name: &str, since: Time, limit: u32) -> Result<Vec<Change>, DbError> {
    match sql::known_id(db, name).await? {
        Some(segment_id) => sql::changes(db, segment_id, since, limit).await,
        None => Ok(Vec::new()),
    }
}

/// Takes an erased person out of segments and frozen lists. Sizes stay.
pub async fn forget_contact(tx: &mut Tx, contact_id: i64) -> Result<(), DbError> {
    sql::forget_contact(tx, contact_id).await
}
