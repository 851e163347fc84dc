//! How a database goes about a rule, in plain words: which index serves a condition, or that a table is read
//! whole.

use std::collections::BTreeMap;

use super::compile::{Sql, compile_leaf, is_past};
use super::ops;
use super::rule::{Leaf, Node, Rule};
use crate::clock::Time;
use crate::db::{Args, Db, DbError, Dialect};

/// What a rule is compiled to, and how the database goes about it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The statement that counts.
    pub sql: String,
    /// Values of its parameters.
    pub args: Args,
    /// The database's own plan of it, a line a step.
    pub steps: Vec<String>,
    /// The same for each condition by itself, in words.
    pub conditions: Vec<Served>,
}

/// How a condition is served.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Served {
    /// The condition in canonical form, with its `not`.
    pub text: String,
    /// The segment it was written in, where that is not the rule itself.
    pub segment: Option<String>,
    /// Which indexes serve it (`hit_total_last of hit_total`), in the order of the plan.
    pub indexes: Vec<String>,
    /// Tables that are read whole for it. Of `contact` that is one pass for all conditions together.
    pub whole: Vec<String>,
}

/// Conditions that are looked at each by itself; a rule of thousands names its plan as a whole.
const MAX_CONDITIONS: usize = 100;

/// Asks the database, which carries nothing out.
pub async fn plan(db: &Db, rule: &Rule, now: Time) -> Result<Plan, DbError> {
    let large = ops::large(db, rule, now).await?;
    let condition = super::compile_knowing(rule, db.dialect(), now, 1, &large);
    let sql = counting(&condition);
    let steps = steps(db, &sql, condition.args.clone()).await?;
    let mut leaves = Vec::new();
    collect(&rule.root, &mut leaves);
    let mut large = large.into_iter();
    let mut conditions = Vec::new();
    for (leaf, negated, text, segment) in leaves.into_iter().take(MAX_CONDITIONS) {
        let large = is_past(leaf) && large.next().unwrap_or(false);
        let alone = compile_leaf(leaf, negated, db.dialect(), now, large);
        let sql = counting(&alone);
        let found = steps_in_words(db.dialect(), &self::steps(db, &sql, alone.args).await?, &sql);
        let text = if negated { format!("not {text}") } else { text.to_owned() };
        conditions.push(Served { text, segment: segment.map(str::to_owned), indexes: found.indexes, whole: found.whole });
    }
    Ok(Plan { sql, args: condition.args, steps, conditions })
}

fn counting(condition: &Sql) -> String {
    format!("SELECT COUNT(*) FROM contact c WHERE {}", condition.text)
}

fn collect<'r>(node: &'r Node, into: &mut Vec<(&'r Leaf, bool, &'r str, Option<&'r str>)>) {
    match node {
        Node::All(nodes) | Node::Any(nodes) => nodes.iter().for_each(|node| collect(node, into)),
        Node::Leaf { leaf, negated, text, within } => into.push((leaf, *negated, text, within.as_deref())),
    }
}

async fn steps(db: &Db, sql: &str, args: Args) -> Result<Vec<String>, DbError> {
    match db.dialect() {
        // id, parent, a number, the step.
        Dialect::Sqlite => {
            let rows = db.fetch_all(&format!("EXPLAIN QUERY PLAN {sql}"), args).await?;
            let mut depths = BTreeMap::from([(0, 0)]);
            rows.iter()
                .map(|row| {
                    let (id, parent): (i64, i64) = (row.get(0)?, row.get(1)?);
                    let depth = depths.get(&parent).copied().unwrap_or(0);
                    depths.insert(id, depth + 1);
                    Ok(format!("{}{}", "  ".repeat(depth), row.get::<String>(3)?))
                })
                .collect()
        }
        Dialect::Postgres => db.fetch_all(&format!("EXPLAIN {sql}"), args).await?.iter().map(|row| row.get(0)).collect(),
    }
}

#[derive(Debug, Default, PartialEq)]
struct Found {
    indexes: Vec<String>,
    whole: Vec<String>,
}

fn steps_in_words(dialect: Dialect, steps: &[String], sql: &str) -> Found {
    let tables = aliases(sql);
    let mut found = Found::default();
    for step in steps {
        let words: Vec<&str> = step.split([' ', '(']).filter(|word| !word.is_empty() && *word != "->").collect();
        let (index, table) = match dialect {
            Dialect::Sqlite => sqlite_step(&words, &tables),
            Dialect::Postgres => postgres_step(&words),
        };
        let (list, name) = match (index, table) {
            (Some(index), Some(table)) => (&mut found.indexes, format!("{index} of {table}")),
            (Some(index), None) => (&mut found.indexes, index),
            (None, Some(table)) => (&mut found.whole, table),
            (None, None) => continue,
        };
        if !list.contains(&name) {
            list.push(name);
        }
    }
    found
}

/// `SEARCH h USING COVERING INDEX hit_total_last (link=? ..`, `SCAN c`: an index, and of which table.
fn sqlite_step(words: &[&str], tables: &BTreeMap<String, String>) -> (Option<String>, Option<String>) {
    let table = words.get(1).map(|alias| tables.get(*alias).cloned().unwrap_or_else(|| (*alias).to_owned()));
    let table = table.filter(|table| !matches!(table.as_str(), "SUBQUERY" | "CONSTANT" | "v" | "g"));
    match (words.first(), words.iter().position(|word| *word == "INDEX")) {
        (Some(&"SEARCH"), Some(at)) => (words.get(at + 1).map(|index| (*index).to_owned()), table),
        (Some(&"SEARCH"), None) => (Some("primary key".to_owned()), table),
        // In the order of an index or not: all of it.
        (Some(&"SCAN"), _) => (None, table),
        _ => (None, None),
    }
}

/// `Index Only Scan using hit_total_last on hit_total h ..`, `Bitmap Index Scan on run_link_pkey ..`, `Seq Scan on
/// contact c ..`.
fn postgres_step(words: &[&str]) -> (Option<String>, Option<String>) {
    let after = |word: &str| words.iter().position(|held| *held == word).and_then(|at| words.get(at + 1)).map(|held| (*held).to_owned());
    let scan = words.iter().position(|word| *word == "Scan").and_then(|at| words[..at].split_last());
    match scan {
        Some((&"Seq", _)) => (None, after("on")),
        Some((&"Index", before)) if before.last() == Some(&"Bitmap") => (after("on"), None),
        Some((&"Index" | &"Only" | &"Backward", _)) => (after("using"), after("on")),
        _ => (None, None),
    }
}

/// Tables of a statement by the aliases that stand for them.
fn aliases(sql: &str) -> BTreeMap<String, String> {
    let words: Vec<&str> = sql.split([' ', '(', ')', ',']).filter(|word| !word.is_empty()).collect();
    let named = words.windows(3).filter(|three| matches!(three[0], "FROM" | "JOIN"));
    named.map(|three| (three[2].to_owned(), three[1].to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(dialect: Dialect, steps: &[&str], sql: &str) -> Found {
        steps_in_words(dialect, &steps.iter().map(|step| (*step).to_owned()).collect::<Vec<_>>(), sql)
    }

    #[test]
    fn plans_of_both_databases_are_read() {
        let sql = "SELECT COUNT(*) FROM contact c WHERE c.id IN (SELECT h.contact_id FROM hit_total h WHERE h.link = -1)";
        let steps =
            ["SEARCH c USING INTEGER PRIMARY KEY (rowid=?)", "LIST SUBQUERY 1", "SEARCH h USING COVERING INDEX hit_total_last (link=?)"];
        let served = found(Dialect::Sqlite, &steps, sql);
        assert_eq!(served.indexes, ["primary key of contact", "hit_total_last of hit_total"]);
        assert_eq!(served.whole, [""; 0]);
        assert_eq!(found(Dialect::Sqlite, &["SCAN c"], sql).whole, ["contact"]);

        let steps = [
            "Aggregate  (cost=1.00..2.00 rows=1 width=8)",
            "  ->  Parallel Seq Scan on contact c  (cost=0.00..1.00 rows=1 width=8)",
            "  ->  Index Only Scan using hit_total_last on hit_total h  (cost=0.00..1.00 rows=1 width=8)",
            "        Index Cond: (link = '-1'::integer)",
            "  ->  Bitmap Index Scan on run_link_pkey  (cost=0.00..1.00 rows=1 width=0)",
        ];
        let served = found(Dialect::Postgres, &steps, sql);
        assert_eq!(served.indexes, ["hit_total_last of hit_total", "run_link_pkey"]);
        assert_eq!(served.whole, ["contact"]);
    }
}
