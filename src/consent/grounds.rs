//! On what ground somebody is mailed: when and where they subscribed, as every mail tells them.

use std::collections::HashMap;

use super::Action;
use crate::args;
use crate::clock::Time;
use crate::db::{DbError, Rows, Tx};

/// Since when and by what somebody is subscribed to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grounds {
    /// When they subscribed; with double opt-in, when they confirmed.
    pub since: Time,
    /// Where they asked for it: the source of the ledger's entry.
    pub source: String,
    /// They confirmed it by a link in a mail.
    pub double: bool,
}

/// The grounds of these people on a topic; whoever has none is left out. One look-up for all whose standing rests
/// on a grant (an import, a single opt-in), a second one for the others.
pub async fn grounds(tx: &mut Tx, topic_id: i64, contacts: &[i64]) -> Result<HashMap<i64, Grounds>, DbError> {
    let mut found = HashMap::with_capacity(contacts.len());
    let rows = tx
        .bulk_fetch(
            "SELECT s.contact_id, e.at, e.source
             FROM {rows} CROSS JOIN subscription s CROSS JOIN consent_event e
             WHERE s.topic_id = $1 AND s.contact_id = v.contact_id AND e.seq = s.last_seq AND e.action = 'granted'",
            args![topic_id],
            Rows::new().i64("contact_id", contacts.iter().copied()),
        )
        .await?;
    for row in &rows {
        found.insert(row.get(0)?, Grounds { since: row.get(1)?, source: row.get(2)?, double: false });
    }
    let others: Vec<i64> = contacts.iter().copied().filter(|id| !found.contains_key(id)).collect();
    if others.is_empty() {
        return Ok(found);
    }
    let rows = tx
        .bulk_fetch(
            "SELECT e.contact_id, e.action, e.at, e.source
             FROM {rows} CROSS JOIN consent_event e
             WHERE e.contact_id = v.contact_id AND e.topic_id = $1 AND e.action IN ('requested', 'granted', 'confirmed')
             ORDER BY e.seq",
            args![topic_id],
            Rows::new().i64("contact_id", others),
        )
        .await?;
    let mut asked: HashMap<i64, String> = HashMap::new();
    for row in &rows {
        let (contact_id, action, since, source): (i64, String, Time, String) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        match Action::from_stored(&action) {
            Some(Action::Requested) => drop(asked.insert(contact_id, source)),
            Some(Action::Confirmed) => {
                let source = asked.get(&contact_id).cloned().unwrap_or(source);
                found.insert(contact_id, Grounds { since, source, double: true });
            }
            _ => drop(found.insert(contact_id, Grounds { since, source, double: false })),
        }
    }
    Ok(found)
}
