//! Who is meant: the one place that looks people up for orders and events.

use std::collections::{BTreeSet, HashMap};

use super::Who;
use crate::contact::care;
use crate::contact::identity::{self, Kind, Resolved};
use crate::db::{DbError, Tx};

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
/// sender's system; further identities count, and merges are followed ([`identity::resolve_many`]). The rows found cannot
/// be erased before this transaction ends, nor can anybody be merged.
///
/// A reason instead of a person says why there is none; where it names somebody, then masked.
pub async fn resolve(tx: &mut Tx, who: &[&Who]) -> Result<Vec<Result<Person, String>>, DbError> {
    let addresses: BTreeSet<&str> = who.iter().filter_map(|who| who.address.as_ref().map(|address| address.key())).collect();
    let by_address = look_up(tx, Kind::Email, &addresses).await?;
    let known = |who: &Who| who.address.as_ref().is_some_and(|address| by_address.contains_key(address.key()));
    let numbers: BTreeSet<&str> = who.iter().filter(|who| !known(who)).filter_map(|who| who.external_id.as_deref()).collect();
    let by_number = look_up(tx, Kind::ExternalId, &numbers).await?;
    Ok(who
        .iter()
        .map(|who| {
            let found = match &who.address {
                Some(address) if by_address.contains_key(address.key()) => by_address.get(address.key()),
                _ => who.external_id.as_deref().and_then(|number| by_number.get(number)),
            };
            match found {
                Some(found) => found.clone(),
                None if who.is_empty() => Err("no person is named: `email` or `external_id`".to_owned()),
                None if who.address.is_some() => Err(format!("{NOBODY} `email`")),
                None => Err(format!("{NOBODY} `external_id`")),
            }
        })
        .collect())
}

/// The person of each value, or why none can be told; unknown values are left out.
async fn look_up<'a>(tx: &mut Tx, kind: Kind, values: &BTreeSet<&'a str>) -> Result<HashMap<&'a str, Result<Person, String>>, DbError> {
    if values.is_empty() {
        return Ok(HashMap::new());
    }
    let asked: Vec<(Kind, &str)> = values.iter().map(|value| (kind, *value)).collect();
    let resolved = identity::resolve_many(tx, &asked).await?;
    let found = resolved.iter().filter_map(|resolved| match resolved {
        Resolved::Person(person) => Some(person.known_as),
        _ => None,
    });
    let held = care::hold_all(tx, found.collect()).await?;
    let mut out = HashMap::with_capacity(values.len());
    for (value, resolved) in values.iter().zip(resolved) {
        match resolved {
            Resolved::Person(identity::Person { contact_id, known_as }) if held.contains(&known_as) => {
                out.insert(*value, Ok(Person { contact_id, known_as }));
            }
            Resolved::Ambiguous(contacts) => {
                let text = identity::describe_ambiguity(tx, kind, value, &contacts).await?;
                out.insert(*value, Err(text.lines().next().unwrap_or_default().to_owned()));
            }
            Resolved::Person(_) | Resolved::Unknown => {}
        }
    }
    Ok(out)
}
