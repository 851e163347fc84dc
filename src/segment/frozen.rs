//! Lists of people as a rule picked them at one moment: `frozen('list')` in rules.

use std::collections::BTreeSet;

use super::compile::compile_for_blocks;
use super::history::BLOCK;
use super::history_sql as sql;
use super::rule::{Leaf, Node, Rule};
use crate::clock::{DAY, Time};
use crate::config::diagnostics::did_you_mean;
use crate::db::{Connection, Db, DbError};
use crate::entropy::Entropy;

/// Rows deleted in one transaction.
const DELETED_AT_ONCE: i64 = 20_000;
/// Begins the name of a list that is being written: no rule can name it.
const UNFINISHED: char = '\u{1f}';
/// After so long, a list that was not finished was given up.
const GIVEN_UP_MS: i64 = DAY;

/// A frozen list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenList {
    pub(super) id: i64,
    /// Its name.
    pub name: String,
    /// The rule that picked them, in words.
    pub rule: String,
    /// As of when.
    pub at: Time,
    /// How many they were. Whoever was erased since is missing in it.
    pub size: i64,
}

/// Writes down whom the rule picks as of `now`. Nobody sees the list before it is complete; `None` where there is
/// one of this name.
pub async fn freeze(db: &Db, entropy: &Entropy, name: &str, rule: &Rule, now: Time) -> Result<Option<FrozenList>, DbError> {
    let known = sql::lists(&mut db.clone()).await?;
    for left in known.iter().filter(|list| list.name.starts_with(UNFINISHED) && now.since(list.at) > GIVEN_UP_MS) {
        sql::drop_list(db, left.id, DELETED_AT_ONCE).await?;
    }
    if known.iter().any(|list| list.name == name) {
        return Ok(None);
    }
    let (id, text) = (entropy.id(now), rule.to_string());
    sql::new_list(db, id, &format!("{UNFINISHED}{id}"), &text, now).await?;
    let condition = compile_for_blocks(rule, db.dialect(), now, 4);
    let (mut size, mut after) = (0, i64::MIN);
    while after != i64::MAX {
        let mut tx = db.begin().await?;
        let until = sql::end_of_block(&mut tx, after, BLOCK).await?;
        size += sql::add_to_list(&mut tx, id, after, until, &condition).await? as i64;
        tx.commit().await?;
        after = until;
    }
    match sql::finish_list(db, id, name, size).await {
        Ok(()) => Ok(Some(FrozenList { id, name: name.to_owned(), rule: text, at: now, size })),
        // Somebody else was faster.
        Err(DbError::Unique(_)) => sql::drop_list(db, id, DELETED_AT_ONCE).await.map(|()| None),
        Err(error) => Err(error),
    }
}

/// All that are complete, the oldest first.
pub async fn lists(db: &mut impl Connection) -> Result<Vec<FrozenList>, DbError> {
    Ok(sql::lists(db).await?.into_iter().filter(|list| !list.name.starts_with(UNFINISHED)).collect())
}

/// Drops a list; answers whether there was one.
pub async fn thaw(db: &Db, name: &str) -> Result<bool, DbError> {
    let Some(list) = lists(&mut db.clone()).await?.into_iter().find(|list| list.name == name) else { return Ok(false) };
    sql::drop_list(db, list.id, DELETED_AT_ONCE).await?;
    Ok(true)
}

/// The lists that a rule speaks of.
pub fn used(rule: &Rule) -> BTreeSet<&str> {
    fn collect<'r>(node: &'r Node, into: &mut BTreeSet<&'r str>) {
        match node {
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().for_each(|node| collect(node, into)),
            Node::Leaf { leaf: Leaf::Frozen(list), .. } => {
                into.insert(list);
            }
            Node::Leaf { .. } => {}
        }
    }
    let mut found = BTreeSet::new();
    collect(rule.root(), &mut found);
    found
}

/// What is wrong with the lists of a rule: files are checked without a database, so a list that is not there shows
/// only where the rule is used. `None` where all are there.
pub async fn missing(db: &mut impl Connection, rule: &Rule) -> Result<Option<String>, DbError> {
    let used = used(rule);
    if used.is_empty() {
        return Ok(None);
    }
    let known: Vec<String> = lists(db).await?.into_iter().map(|list| list.name).collect();
    Ok(used.into_iter().find(|name| !known.iter().any(|list| list == name)).map(|name| {
        let next = match did_you_mean(name, known.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("make it with `optin segment freeze RULE --as {name}`"),
        };
        format!("there is no frozen list `{name}`\nhint: {next}")
    }))
}
