//! Use cases: counting and listing whom a rule picks, and loading one person for judging in memory.

use super::compile::{SMALL_SET, Sql, compile_knowing, soundings};
use super::evaluate::Person;
use super::rule::Rule;
use super::{Catalog, load};
use crate::clock::Time;
use crate::contact::{self, Contact, Schema};
use crate::db::{Db, DbError, Dialect, Value};

/// The rule as a condition over all contacts (`contact c`), with parameters numbered from `first_param`: compiled
/// for the past as large as it is now.
pub async fn condition(db: &Db, rule: &Rule, now: Time, first_param: usize) -> Result<Sql, DbError> {
    let large = large(db, rule, now).await?;
    Ok(compile_knowing(rule, db.dialect(), now, first_param, &large))
}

/// Which conditions on the past look at much. PostgreSQL knows by its statistics.
pub(super) async fn large(db: &Db, rule: &Rule, now: Time) -> Result<Vec<bool>, DbError> {
    let mut large = Vec::new();
    if db.dialect() == Dialect::Sqlite {
        for sounding in soundings(rule, db.dialect(), now) {
            let rows: i64 = db.fetch_one(&sounding.text, sounding.args).await?.get(0)?;
            large.push(rows > SMALL_SET);
        }
    }
    Ok(large)
}

/// How many contacts the rule picks at the moment `now`.
pub async fn count(db: &Db, rule: &Rule, now: Time) -> Result<i64, DbError> {
    let condition = condition(db, rule, now, 1).await?;
    let sql = format!("SELECT COUNT(*) FROM contact c WHERE {}", condition.text);
    db.fetch_one(&sql, condition.args).await?.get(0)
}

/// The first `limit` contacts that the rule picks, by id.
pub async fn members(db: &Db, schema: &Schema, rule: &Rule, now: Time, limit: u32) -> Result<Vec<Contact>, DbError> {
    let mut condition = condition(db, rule, now, 1).await?;
    condition.args.push(Value::from(limit));
    let sql = format!(
        "SELECT {} FROM contact c WHERE {} ORDER BY c.id LIMIT ${}",
        contact::sql::columns(schema),
        condition.text,
        condition.args.len()
    );
    db.fetch_all(&sql, condition.args).await?.iter().map(|row| contact::sql::read(schema, row, 0)).collect()
}

/// A contact with everything rules ask about, all of one moment of the database; `None` where there
/// is no such contact. Of what there are very many rows the newest ones are read.
pub async fn person(db: &Db, catalog: &Catalog, contact_id: i64) -> Result<Option<Person>, DbError> {
    load::person(db, catalog, contact_id).await
}
