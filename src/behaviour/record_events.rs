//! Events of one kind into their table: new ones in one statement, known ones compared and changed where they differ.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{EventSchema, NewEvent, Person, Verdict, sql};
use crate::args;
use crate::clock::Time;
use crate::config::AttributeType;
use crate::contact::import::{Cell, Kind, cells};
use crate::db::{DbError, Row, Rows, Tx};
use crate::entropy::Entropy;

/// An event with its place in what was sent, and its person (nobody where it is retracted).
pub(super) struct Placed {
    pub place: usize,
    pub person: Person,
    pub event: NewEvent,
}

/// Records events of one kind. What became of each goes to its place in `verdicts`.
pub(super) async fn record(
    tx: &mut Tx,
    schema: &EventSchema,
    entropy: &Entropy,
    mut events: Vec<Placed>,
    verdicts: &mut [Verdict],
    now: Time,
) -> Result<(), DbError> {
    one_a_key(&mut events, verdicts);
    let (gone, mut there): (Vec<Placed>, Vec<Placed>) = events.into_iter().partition(|placed| placed.event.retracted);
    retract(tx, schema, &gone, verdicts, now).await?;
    drop_retracted(tx, schema, &mut there, verdicts).await?;
    if there.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = entropy.ids(now, there.len()).collect();
    let all: Vec<usize> = (0..there.len()).collect();
    let added = tx.bulk(&sql::insert_events(schema), args![now], input(schema, &there, &ids, &all)).await?;
    for placed in &there {
        verdicts[placed.place] = Verdict::Added;
    }
    if added == there.len() as u64 {
        return Ok(());
    }
    let mut ids = ids;
    let changed = compare(tx, schema, &there, &mut ids, verdicts).await?;
    if !changed.is_empty() {
        let touched = tx.bulk(&sql::update_events(schema), args![now], input(schema, &there, &ids, &changed)).await?;
        if touched != changed.len() as u64 {
            return Err(DbError::Unexpected(format!("expected to change {} events, changed {touched}", changed.len())));
        }
    }
    Ok(())
}

/// Orders by key (neighbours in the index are written together, and two writers never wait for each other), and keeps of
/// several with one key the one that holds.
fn one_a_key(events: &mut Vec<Placed>, verdicts: &mut [Verdict]) {
    events.sort_by(|left, right| left.event.key.cmp(&right.event.key).then(left.place.cmp(&right.place)));
    let mut kept: Vec<Placed> = Vec::with_capacity(events.len());
    for placed in events.drain(..) {
        match kept.last_mut() {
            Some(last) if last.event.key == placed.event.key => {
                if placed.event.revision >= last.event.revision {
                    verdicts[last.place] = Verdict::Unchanged;
                    *last = placed;
                } else {
                    verdicts[placed.place] = Verdict::Unchanged;
                }
            }
            _ => kept.push(placed),
        }
    }
    *events = kept;
}

/// The events at the places `which` as input of a statement.
fn input(schema: &EventSchema, events: &[Placed], ids: &[i64], which: &[usize]) -> Rows {
    let each = || which.iter().map(|index| &events[*index]);
    let mut rows = Rows::new()
        .i64("id", which.iter().map(|index| ids[*index]))
        .shared("k", each().map(|placed| placed.event.key.clone()))
        .i64("c", each().map(|placed| placed.person.contact_id))
        .i64("w", each().map(|placed| placed.person.known_as))
        .i64("t", each().map(|placed| placed.event.at.millis()))
        .i64("r", each().map(|placed| placed.event.revision));
    for (property, kind) in schema.properties.values().enumerate() {
        let mut column = cells::empty_column(Kind::Attribute(*kind));
        for placed in each() {
            cells::push(&mut column, placed.event.values.get(property).cloned().flatten());
        }
        rows = rows.column(format!("p{property}"), column);
    }
    rows
}

fn keys(events: &[Placed]) -> Rows {
    Rows::new().i64("n", 0..events.len() as i64).shared("k", events.iter().map(|placed| placed.event.key.clone()))
}

/// Compares with what is there; answers the places of those that differ, whose ids become those of their rows.
async fn compare(
    tx: &mut Tx,
    schema: &EventSchema,
    events: &[Placed],
    ids: &mut [i64],
    verdicts: &mut [Verdict],
) -> Result<Vec<usize>, DbError> {
    let mut changed = Vec::new();
    for row in tx.bulk_fetch(&sql::look_up_events(schema), Vec::new(), keys(events)).await? {
        let index = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
        let Some(placed) = events.get(index) else { continue };
        let id: i64 = row.get(1)?;
        if ids[index] == id {
            continue;
        }
        let revision: i64 = row.get(5)?;
        let person = Person { contact_id: row.get(2)?, known_as: row.get(3)? };
        let alike = person == placed.person && row.get::<Time>(4)? == placed.event.at && same_values(schema, &placed.event, &row)?;
        let verdict = &mut verdicts[placed.place];
        *verdict = if alike || revision > placed.event.revision { Verdict::Unchanged } else { Verdict::Updated };
        if *verdict == Verdict::Updated || (alike && placed.event.revision > revision) {
            ids[index] = id;
            changed.push(index);
        }
    }
    Ok(changed)
}

fn same_values(schema: &EventSchema, event: &NewEvent, row: &Row) -> Result<bool, DbError> {
    for (index, (kind, value)) in schema.properties.values().zip(&event.values).enumerate() {
        let at = index + 6;
        let same = match (kind, value) {
            (AttributeType::Number, value) => row.get::<Option<f64>>(at)?.map(Cell::Number) == *value,
            (AttributeType::Boolean, value) => row.get::<Option<bool>>(at)?.map(Cell::Boolean) == *value,
            (AttributeType::Date, value) => row.get::<Option<i64>>(at)?.map(Cell::Date) == *value,
            (AttributeType::Text | AttributeType::List, value) => {
                row.get::<Option<String>>(at)?.map(|text| Cell::Text(text.into())) == *value
            }
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The key under which a retraction is remembered.
fn retracted_key(schema: &EventSchema, event: &NewEvent) -> Arc<str> {
    let digest = Sha256::digest(format!("{}\n{}", schema.name, event.key));
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// Removes events, and remembers that they are not to come.
async fn retract(tx: &mut Tx, schema: &EventSchema, gone: &[Placed], verdicts: &mut [Verdict], now: Time) -> Result<(), DbError> {
    if gone.is_empty() {
        return Ok(());
    }
    let look_up = format!("SELECT v.n, e.id, e.revision FROM {{rows}} CROSS JOIN {} e WHERE e.event_key = v.k", schema.table());
    let mut ids = Vec::new();
    let mut newer: Vec<usize> = Vec::new();
    for row in tx.bulk_fetch(&look_up, Vec::new(), keys(gone)).await? {
        let index = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
        let Some(placed) = gone.get(index) else { continue };
        if row.get::<i64>(2)? > placed.event.revision {
            newer.push(index);
        } else {
            ids.push(row.get::<i64>(1)?);
            verdicts[placed.place] = Verdict::Updated;
        }
    }
    tx.bulk(&format!("DELETE FROM {} WHERE id IN (SELECT v.id FROM {{rows}})", schema.table()), Vec::new(), Rows::new().i64("id", ids))
        .await?;
    let remembered: Vec<&Placed> = gone.iter().enumerate().filter(|(index, _)| !newer.contains(index)).map(|(_, placed)| placed).collect();
    let rows = Rows::new()
        .shared("k", remembered.iter().map(|placed| retracted_key(schema, &placed.event)))
        .i64("r", remembered.iter().map(|placed| placed.event.revision));
    tx.bulk(
        "INSERT INTO event_retracted (key, revision, at) SELECT v.k, v.r, CAST($1 AS BIGINT) FROM {rows} WHERE TRUE \
         ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, at = excluded.at WHERE excluded.revision > event_retracted.revision",
        args![now],
        rows,
    )
    .await?;
    Ok(())
}

/// Leaves out what was retracted; a higher revision brings an event back.
async fn drop_retracted(tx: &mut Tx, schema: &EventSchema, there: &mut Vec<Placed>, verdicts: &mut [Verdict]) -> Result<(), DbError> {
    if there.is_empty() || tx.fetch_optional("SELECT 1 FROM event_retracted LIMIT 1", Vec::new()).await?.is_none() {
        return Ok(());
    }
    let digests: Vec<Arc<str>> = there.iter().map(|placed| retracted_key(schema, &placed.event)).collect();
    let rows = Rows::new().i64("n", 0..there.len() as i64).shared("k", digests.iter().cloned());
    let found =
        tx.bulk_fetch("SELECT v.n, r.revision FROM {rows} CROSS JOIN event_retracted r WHERE r.key = v.k", Vec::new(), rows).await?;
    let retracted: HashMap<usize, i64> = found
        .iter()
        .map(|row| Ok((usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX), row.get(1)?)))
        .collect::<Result<_, DbError>>()?;
    let mut back: BTreeMap<usize, Arc<str>> = BTreeMap::new();
    let mut index = 0;
    there.retain(|placed| {
        let revision = retracted.get(&index).copied();
        let stays = revision.is_none_or(|revision| placed.event.revision > revision);
        if !stays {
            verdicts[placed.place] = Verdict::Unchanged;
        } else if revision.is_some() {
            back.insert(index, digests[index].clone());
        }
        index += 1;
        stays
    });
    tx.bulk("DELETE FROM event_retracted WHERE key IN (SELECT v.k FROM {rows})", Vec::new(), Rows::new().shared("k", back.into_values()))
        .await?;
    Ok(())
}
