//! Two contacts found to be one person, and what was one person's taken apart again: contacts, permission, and
//! what they did, in one transaction.
//!
//! Rows of behaviour say whom their sender named (`known_as`) and whom they count for (`contact_id`): the contact
//! to which merges lead from there. So a merge moves what counts for the one that is gone, and undoing it, in
//! whatever order, moves back what is known as it, or as somebody who leads to it.

use std::collections::BTreeSet;

use super::record_orders;
use super::sql::event_tables;
use crate::args;
use crate::clock::Time;
use crate::consent::merge::{Carried, carry, carry_back};
use crate::consent::tracking::TrackingRules;
use crate::contact::identity::{self, MAX_CHAIN};
use crate::contact::merge::{self as contacts, Merge};
use crate::contact::{self, Contact, Schema};
use crate::db::{DbError, Rows, Tx};
use crate::text::mask_email;

/// What a merge did.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// Its number.
    pub id: i64,
    /// Fields that the kept contact took over.
    pub taken: Vec<String>,
    /// Rows that count for it now.
    pub moved: Moved,
    /// What the kept contact lost.
    pub carried: Carried,
}

/// What undoing a merge did.
#[derive(Debug, Clone, PartialEq)]
pub struct Unmerged {
    /// Columns of the kept contact that are empty again.
    pub emptied: Vec<String>,
    /// Rows that went back.
    pub moved: Moved,
    /// What the contact that is by itself again lost.
    pub carried: Carried,
}

/// Rows that count for somebody else now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// Orders.
    pub orders: u64,
    /// Events of all kinds.
    pub events: u64,
}

/// Why two contacts cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum NotMerged {
    /// One of them twice.
    #[error("both are one contact: there is nothing to merge")]
    Same,
    /// One of them leads somewhere already.
    #[error("{contact} was merged into {into} before\nhint: merge with {into}, or undo that first: `optin contact unmerge {id}`")]
    Already {
        /// Whose merge it is, masked.
        contact: String,
        /// Into whom, masked.
        into: String,
        /// The number of the merge that is in the way.
        id: i64,
    },
    /// A chain that nothing can follow.
    #[error(
        "more than {MAX_CHAIN} merges would follow each other\nhint: undo some (`optin contact merges`), and merge each contact into the last one"
    )]
    TooLong,
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Waits until nobody records orders or events, and keeps them waiting until this transaction ends. Taken before any
/// other lock, where a merge or its end is to come.
pub async fn hold(tx: &mut Tx) -> Result<(), DbError> {
    record_orders::alone(tx).await?;
    contacts::hold_all(tx).await
}

/// Merges `gone` into `kept`. Everything or nothing happens when the caller commits.
#[expect(clippy::too_many_arguments, reason = "who, into whom, by what rules, when and why: a struct would only name them again")]
pub async fn merge(
    tx: &mut Tx,
    schema: &Schema,
    rules: &TrackingRules,
    id: i64,
    kept: &Contact,
    gone: &Contact,
    source: &str,
    now: Time,
) -> Result<Merged, NotMerged> {
    if kept.id == gone.id {
        return Err(NotMerged::Same);
    }
    hold(tx).await?;
    for contact in [kept, gone] {
        if let Some(open) = contacts::of_gone(tx, contact.id).await? {
            let into = contact::sql::by_ids(tx, &Schema::default(), &[open.kept_id]).await?.pop();
            let into = into.map_or_else(|| "a contact".to_owned(), |into| mask_email(&into.email));
            return Err(NotMerged::Already { contact: mask_email(&contact.email), into, id: open.id });
        }
    }
    let (known_as, steps) = contacts::below(tx, gone.id).await?;
    if steps + 1 >= MAX_CHAIN as i64 {
        return Err(NotMerged::TooLong);
    }
    let taken = contacts::fields_to_take(schema, kept, gone);
    if !contacts::write(tx, id, kept.id, gone.id, &taken, source, now).await? {
        return Err(NotMerged::Db(DbError::Unexpected("the contact was merged meanwhile".to_owned())));
    }
    let carried = carry(tx, rules, gone, kept.id, &format!("merge {id}"), now).await?;
    let moved = move_rows(tx, gone.id, kept.id, &known_as, now).await?;
    Ok(Merged { id, taken: taken.into_iter().map(|field| field.name).collect(), moved, carried })
}

/// Undoes a merge: the contact that was gone is by itself again, with what is known as it. Permission that was lost
/// stays lost, and what the person took back meanwhile holds for both.
pub async fn unmerge(tx: &mut Tx, rules: &TrackingRules, merge: &Merge, confirmed: &[i64], now: Time) -> Result<Unmerged, DbError> {
    hold(tx).await?;
    let counts_for = identity::persons(tx, &[merge.gone_id]).await?.remove(&merge.gone_id).unwrap_or(merge.kept_id);
    let (known_as, _) = contacts::below(tx, merge.gone_id).await?;
    let emptied = contacts::undo(tx, merge, now).await?;
    let pair = (counts_for, merge.gone_id);
    let carried = carry_back(tx, rules, pair, merge.at, confirmed, &format!("unmerge {}", merge.id), now).await?;
    let moved = move_rows(tx, counts_for, merge.gone_id, &known_as, now).await?;
    Ok(Unmerged { emptied, moved, carried })
}

/// Undoes the merge of a contact, where there is one: its owner confirmed topics (`confirmed`) by its own address, or it
/// is to be erased by itself.
pub async fn release(
    tx: &mut Tx,
    rules: &TrackingRules,
    contact_id: i64,
    confirmed: &[i64],
    now: Time,
) -> Result<Option<Unmerged>, DbError> {
    match contacts::of_gone(tx, contact_id).await? {
        Some(merge) => Ok(Some(unmerge(tx, rules, &merge, confirmed, now).await?)),
        None => Ok(None),
    }
}

/// Lets what counts for `from` and was sent as one of `known_as` count for `to`, and adds both up again.
pub async fn move_rows(tx: &mut Tx, from: i64, to: i64, known_as: &[i64], now: Time) -> Result<Moved, DbError> {
    let named = || Rows::new().i64("known_as", known_as.iter().copied());
    let sql = |table: &str| {
        format!("UPDATE {table} SET contact_id = $1 FROM {{rows}} WHERE {table}.known_as = v.known_as AND {table}.contact_id = $2")
    };
    let mut moved = Moved { orders: tx.bulk(&sql("orders"), args![to, from], named()).await?, events: 0 };
    // Lines and refunds follow their orders; a refund whose order has not come waits where it is.
    let lines = "UPDATE order_line SET contact_id = $1
                 FROM orders o
                 WHERE o.id = order_line.order_id AND o.contact_id = $1 AND order_line.contact_id = $2";
    let refunds = "UPDATE order_refund SET contact_id = $1
                   FROM orders o
                   WHERE o.order_key = order_refund.order_key AND o.contact_id = $1 AND order_refund.contact_id = $2";
    for sql in [lines, refunds] {
        tx.execute(sql, args![to, from]).await?;
    }
    for table in event_tables(tx).await? {
        moved.events += tx.bulk(&sql(&table), args![to, from], named()).await?;
    }
    record_orders::add_up(tx, &BTreeSet::from([from, to]), now).await?;
    Ok(moved)
}
