//! The chain: appending to it ([`append`], [`append_alike`]), its rule ([`chain`]), and checking it
//! ([`verify`]).

use std::collections::{BTreeMap, HashMap};

use super::state::{ChoiceRow, Row as StateRow};
use super::{ALL_TOPICS, Action, Basis, EMAIL, NewEvent, Standing, fold_choices, sql, standing_sql, step};
use crate::args;
use crate::clock::Time;
use crate::db::{ColumnData, DbError, Rows, Tx};

mod chain;
mod verify;

pub use chain::{VERSION, evidence_digest, hex};
pub use verify::{Verification, verify};

use chain::{Later, Said};

/// What an append did to somebody's standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The contact.
    pub contact_id: i64,
    /// The topic.
    pub topic_id: i64,
    /// Before.
    pub before: Standing,
    /// After.
    pub after: Standing,
}

/// Appends events in order and moves standings and choices with them, in the caller's transaction. Answers one
/// [`Change`] an event.
pub async fn append(tx: &mut Tx, events: &[NewEvent], now: Time) -> Result<Vec<Change>, DbError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let topics = sql::topics(tx).await?;
    let (mut seq, mut hash) = sql::lock_head(tx).await?;
    let mut folded = Folded::read(tx, events).await?;
    let mut changes = Vec::with_capacity(events.len());
    let mut block = EventBlock::with_capacity(events.len());
    for event in events {
        seq += 1;
        let topic = topics.get(&event.topic_id).map_or("", String::as_str);
        let digests = [event.evidence.as_deref().map(evidence_digest), event.origin.as_deref().map(evidence_digest)];
        let said = Said::new(event, topic, [digests[0].as_deref(), digests[1].as_deref()]);
        hash = chain::link(VERSION, &hash, seq, now, &said).unwrap_or_default();
        block.push(seq, event, digests, hash.clone());
        changes.push(folded.apply(event, seq, now));
    }
    block.insert(tx, now).await?;
    let loses = folded.loses;
    folded.write(tx).await?;
    sql::move_head(tx, seq, hash).await?;
    // A withdrawal also takes an open question back, where no standing changes.
    if loses || events.iter().any(|event| matches!(event.action, Action::Withdrawn | Action::Objected | Action::Erased)) {
        sql::move_epoch(tx).await?;
    }
    Ok(changes)
}

/// What is materialised of those whom events are about, and what becomes of it.
struct Folded {
    rows: HashMap<(i64, i64), StateRow>,
    choices: HashMap<i64, ChoiceRow>,
    changed_rows: BTreeMap<(i64, i64), StateRow>,
    changed_choices: BTreeMap<i64, ChoiceRow>,
    /// Somebody may no longer get what they got before.
    loses: bool,
}

impl Folded {
    async fn read(tx: &mut Tx, events: &[NewEvent]) -> Result<Self, DbError> {
        let mut pairs: Vec<(i64, i64)> =
            events.iter().flat_map(|event| [(event.topic_id, event.contact_id), (ALL_TOPICS, event.contact_id)]).collect();
        pairs.sort_unstable();
        pairs.dedup();
        let mut about_choices: Vec<i64> =
            events.iter().filter(|event| event.topic_id == ALL_TOPICS).map(|event| event.contact_id).collect();
        about_choices.sort_unstable();
        about_choices.dedup();
        let choices = if about_choices.is_empty() { HashMap::new() } else { standing_sql::choices(tx, &about_choices).await? };
        let rows = standing_sql::rows(tx, &pairs).await?;
        Ok(Folded { rows, choices, changed_rows: BTreeMap::new(), changed_choices: BTreeMap::new(), loses: false })
    }

    fn apply(&mut self, event: &NewEvent, seq: i64, now: Time) -> Change {
        let (fact, key) = (event.fact(), (event.topic_id, event.contact_id));
        let everything = self.rows.get(&(ALL_TOPICS, event.contact_id)).map_or(Standing::None, |row| row.state.standing);
        let row = self.rows.get(&key).copied().unwrap_or(StateRow::NONE);
        let (before, after) = (row.state, step(row.state, everything, &fact));
        if after != before {
            let changed = row.become_state(after, seq, now);
            self.rows.insert(key, changed);
            self.changed_rows.insert(key, changed);
        }
        let mails = |state: &super::State| state.standing == Standing::Subscribed;
        self.loses |= mails(&before) && (!mails(&after) || (before.frequency.is_none() && after.frequency.is_some()));
        if event.topic_id == ALL_TOPICS {
            let before = self.choices.get(&event.contact_id).copied().unwrap_or(ChoiceRow::NONE);
            let after = before.become_choices(fold_choices(before.choices, &fact), seq, now);
            if after != before {
                self.choices.insert(event.contact_id, after);
                self.changed_choices.insert(event.contact_id, after);
            }
        }
        Change { contact_id: event.contact_id, topic_id: event.topic_id, before: before.standing, after: after.standing }
    }

    async fn write(self, tx: &mut Tx) -> Result<(), DbError> {
        let rows: Vec<(i64, i64, StateRow)> = self.changed_rows.into_iter().map(|((topic, contact), row)| (topic, contact, row)).collect();
        standing_sql::upsert(tx, &rows).await?;
        let choices: Vec<(i64, ChoiceRow)> = self.changed_choices.into_iter().collect();
        standing_sql::upsert_choices(tx, &choices).await
    }
}

/// Events that differ only in the person and the line of a file: those of an import.
#[derive(Debug, Clone)]
pub struct Alike {
    /// Which topic.
    pub topic_id: i64,
    /// What they say.
    pub action: Action,
    /// Where they came from.
    pub source: String,
    /// What the mails are for.
    pub purpose: Option<String>,
    /// The lawful basis.
    pub basis: Option<Basis>,
    /// When an implied consent ends.
    pub until: Option<Time>,
    /// What everybody's standing becomes.
    pub after: Standing,
}

impl Alike {
    /// The same for one person.
    pub fn event(&self, contact_id: i64, source_line: Option<i64>) -> NewEvent {
        NewEvent {
            source_line,
            purpose: self.purpose.clone(),
            basis: self.basis,
            until: self.until,
            ..NewEvent::new(contact_id, self.topic_id, self.action, &self.source)
        }
    }
}

/// Appends the same event for many people, `(contact id, line)` each, and sets their standing.
///
/// The bulk form of [`append`], for callers that know who changes: everybody stands once in `people`,
/// was not subscribed before, and the fold of their standing and the action is `alike.after`.
pub async fn append_alike(tx: &mut Tx, alike: &Alike, people: Vec<(i64, Option<i64>)>, now: Time) -> Result<(), DbError> {
    if people.is_empty() {
        return Ok(());
    }
    let topic = sql::topics(tx).await?.remove(&alike.topic_id).unwrap_or_default();
    let (seq, hash) = sql::lock_head(tx).await?;
    let (contacts, lines): (Vec<i64>, Vec<Option<i64>>) = people.into_iter().unzip();
    let links = {
        let (contacts, lines, alike) = (contacts.clone(), lines.clone(), alike.clone());
        // A chain is made one link after the other: some milliseconds, in which the database writes
        // the standings.
        tokio::task::spawn_blocking(move || links(hash, seq, now, &alike, &topic, &contacts, &lines))
    };
    let ends = alike.until.filter(|_| alike.after == Standing::Subscribed);
    standing_sql::set_standing(tx, alike.topic_id, (alike.after, ends), &contacts, seq + 1, now).await?;
    let links = links.await.map_err(|error| DbError::Unexpected(format!("the ledger's chain was not made: {error}")))?;
    let (last, head) = (seq + links.len() as i64, links.last().cloned().unwrap_or_default());
    tx.bulk(
        "INSERT INTO consent_event
           (seq, at, contact_id, topic_id, action, source, source_line, hash, version, channel, purpose, basis, until)
         SELECT v.seq, CAST($1 AS BIGINT), v.contact_id, CAST($2 AS BIGINT), CAST($3 AS TEXT), CAST($4 AS TEXT), v.source_line, v.hash,
           CAST($5 AS BIGINT), CAST($6 AS TEXT), CAST($7 AS TEXT), CAST($8 AS TEXT), CAST($9 AS BIGINT)
         FROM {rows}",
        args![
            now,
            alike.topic_id,
            alike.action.as_str(),
            &alike.source,
            VERSION,
            EMAIL,
            alike.purpose.clone(),
            alike.basis.map(Basis::as_str),
            alike.until
        ],
        Rows::new()
            .i64("seq", seq + 1..=last)
            .i64("contact_id", contacts)
            .opt_i64("source_line", lines)
            .column("hash", ColumnData::Bytes(links.into_iter().map(Some).collect())),
    )
    .await?;
    sql::move_head(tx, last, head).await
}

/// The links that follow `hash`, one a person.
fn links(mut hash: Vec<u8>, mut seq: i64, now: Time, alike: &Alike, topic: &str, contacts: &[i64], lines: &[Option<i64>]) -> Vec<Vec<u8>> {
    let mut links = Vec::with_capacity(contacts.len());
    let later = Later {
        until: alike.until,
        channel: Some(EMAIL),
        purpose: alike.purpose.as_deref(),
        basis: alike.basis.map(Basis::as_str),
        ..Later::default()
    };
    for (contact_id, line) in contacts.iter().zip(lines) {
        seq += 1;
        let said = Said {
            contact_id: *contact_id,
            source_line: *line,
            topic,
            action: alike.action.as_str(),
            source: &alike.source,
            wording_hash: None,
            evidence_digest: None,
            later,
        };
        hash = chain::link(VERSION, &hash, seq, now, &said).unwrap_or_default();
        links.push(hash.clone());
    }
    links
}

/// Columns of the events of one append.
struct EventBlock {
    seq: Vec<i64>,
    contact_id: Vec<i64>,
    topic_id: Vec<i64>,
    action: Vec<&'static str>,
    source: Vec<String>,
    source_line: Vec<Option<i64>>,
    until: Vec<Option<i64>>,
    hash: Vec<Option<Vec<u8>>>,
    /// Name and values of the columns of text that may be empty.
    texts: [(&'static str, Vec<Option<String>>); 9],
}

const TEXTS: [&str; 9] =
    ["purpose", "basis", "frequency", "detail", "wording_hash", "evidence", "evidence_digest", "origin", "origin_digest"];

impl EventBlock {
    fn with_capacity(count: usize) -> Self {
        EventBlock {
            seq: Vec::with_capacity(count),
            contact_id: Vec::with_capacity(count),
            topic_id: Vec::with_capacity(count),
            action: Vec::with_capacity(count),
            source: Vec::with_capacity(count),
            source_line: Vec::with_capacity(count),
            until: Vec::with_capacity(count),
            hash: Vec::with_capacity(count),
            texts: TEXTS.map(|name| (name, Vec::with_capacity(count))),
        }
    }

    fn push(&mut self, seq: i64, event: &NewEvent, [evidence_digest, origin_digest]: [Option<String>; 2], hash: Vec<u8>) {
        self.seq.push(seq);
        self.contact_id.push(event.contact_id);
        self.topic_id.push(event.topic_id);
        self.action.push(event.action.as_str());
        self.source.push(event.source.clone());
        self.source_line.push(event.source_line);
        self.until.push(event.until.map(Time::millis));
        self.hash.push(Some(hash));
        let texts = [
            event.purpose.clone(),
            event.basis.map(|basis| basis.as_str().to_owned()),
            event.frequency.map(|frequency| frequency.as_str().to_owned()),
            event.detail.clone(),
            event.wording_hash.clone(),
            event.evidence.clone(),
            evidence_digest,
            event.origin.clone(),
            origin_digest,
        ];
        for ((_, column), text) in self.texts.iter_mut().zip(texts) {
            column.push(text);
        }
    }

    async fn insert(self, tx: &mut Tx, now: Time) -> Result<(), DbError> {
        let mut columns = String::new();
        let mut values = String::new();
        let mut rows = Rows::new()
            .i64("seq", self.seq)
            .i64("contact_id", self.contact_id)
            .i64("topic_id", self.topic_id)
            .text("action", self.action)
            .text("source", self.source)
            .opt_i64("source_line", self.source_line)
            .opt_i64("until", self.until)
            .column("hash", ColumnData::Bytes(self.hash));
        // Most events have few of them: what nobody has is not bound.
        for (name, values_of) in self.texts {
            if values_of.iter().any(Option::is_some) {
                columns.push_str(", ");
                columns.push_str(name);
                values.push_str(", v.");
                values.push_str(name);
                rows = rows.opt_text(name, values_of);
            }
        }
        let sql = format!(
            "INSERT INTO consent_event
               (seq, at, contact_id, topic_id, action, source, source_line, until, hash, version, channel{columns})
             SELECT v.seq, CAST($1 AS BIGINT), v.contact_id, v.topic_id, v.action, v.source, v.source_line, v.until, v.hash,
               CAST($2 AS BIGINT), CAST($3 AS TEXT){values}
             FROM {{rows}}"
        );
        tx.bulk(&sql, args![now, VERSION, EMAIL], rows).await?;
        Ok(())
    }
}
