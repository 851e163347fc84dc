//! Who is meant: the one place that looks people up for orders and events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Who, sql};
use crate::db::{DbError, Rows, Tx};

/// A contact that was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// Whose it is, after merges.
    pub contact_id: i64,
    /// Who was named.
    pub known_as: i64,
}

/// Why nobody is known.
const NOBODY: &str = "nobody is known by this";

/// Looks up whom `who` names, in their order: by address, and where that is unknown or absent, by the number in the
/// sender's system. The rows found cannot be erased before this transaction ends.
///
/// A reason instead of a person says why there is none, without naming anybody.
pub async fn resolve(tx: &mut Tx, who: &[&Who]) -> Result<Vec<Result<Person, String>>, DbError> {
    let addresses: BTreeSet<&str> = who.iter().filter_map(|who| who.address.as_ref().map(|address| address.key())).collect();
    let by_address = look_up(tx, "email_key", &addresses).await?;
    let known = |who: &Who| who.address.as_ref().is_some_and(|address| by_address.contains_key(address.key()));
    let numbers: BTreeSet<&str> = who.iter().filter(|who| !known(who)).filter_map(|who| who.external_id.as_deref()).collect();
    let by_number = look_up(tx, "external_id", &numbers).await?;
    Ok(who
        .iter()
        .map(|who| {
            let found = match &who.address {
                Some(address) if by_address.contains_key(address.key()) => by_address.get(address.key()),
                _ => who.external_id.as_deref().and_then(|number| by_number.get(number)),
            };
            match found.map(Vec::as_slice) {
                Some([person]) => Ok(*person),
                Some(several) if several.iter().all(|person| person.contact_id == several[0].contact_id) => Ok(several[0]),
                Some(several) => Err(format!("{} contacts have this `external_id`: name the address", several.len())),
                None if who.is_empty() => Err("no person is named: `email` or `external_id`".to_owned()),
                None if who.address.is_some() => Err(format!("{NOBODY} `email`")),
                None => Err(format!("{NOBODY} `external_id`")),
            }
        })
        .collect())
}

/// The contacts by a value of one column. Several of one value are in the order of their ids.
async fn look_up<'a>(tx: &mut Tx, column: &str, values: &BTreeSet<&'a str>) -> Result<HashMap<&'a str, Vec<Person>>, DbError> {
    let values: Vec<&str> = values.iter().copied().collect();
    let mut found: BTreeMap<usize, Vec<Person>> = BTreeMap::new();
    if !values.is_empty() {
        let rows = Rows::new().i64("n", 0..values.len() as i64).shared("k", values.iter().map(|value| Arc::from(*value)));
        for row in tx.bulk_fetch(&sql::people_by(column, tx.dialect()), Vec::new(), rows).await? {
            let index = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
            let known_as: i64 = row.get(1)?;
            let person = Person { contact_id: row.get::<Option<i64>>(2)?.unwrap_or(known_as), known_as };
            found.entry(index).or_default().push(person);
        }
    }
    for people in found.values_mut() {
        people.sort_by_key(|person| person.known_as);
    }
    Ok(found.into_iter().filter_map(|(index, people)| Some((*values.get(index)?, people))).collect())
}
