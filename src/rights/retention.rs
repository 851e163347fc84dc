//! What is forgotten by itself, by the rules of `[retention]` (table `retention_run`).
//!
//! A rule finds what it is about with one query, in blocks; a dry run counts what that query finds, a run
//! removes it, so both tell the same number. Each block is one transaction: a run that is cut off has done
//! what it did, and the next one goes on.

use super::erase::{self, Erasure};
use super::register;
use super::request::LINK_MS;
use crate::args;
use crate::behaviour;
use crate::clock::{DAY, Time};
use crate::config::Retention;
use crate::consent;
use crate::contact::{self, Schema};
use crate::db::{Connection, Db, DbError, Tx};
use crate::delivery;
use crate::entropy::Entropy;
use crate::text::mask_email;
use crate::token::Keys;
use crate::tracking::forget::{self as hits, Old};

/// Hits and messages of one transaction: it holds up other writers for some milliseconds.
const BLOCK: i64 = 1_000;
/// People erased in one transaction: each touches a dozen tables.
const PEOPLE: i64 = 20;
/// Examples named for each rule.
const EXAMPLES: usize = 3;
/// Between two runs by schedule.
pub const EVERY_MS: i64 = DAY;

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Addresses and agents of clients, in hits.
    HitClients,
    /// The same in the ledger.
    LedgerClients,
    /// Opens and clicks.
    Hits,
    /// Opens and clicks, each by itself.
    HitDetails,
    /// The data of messages.
    MessageData,
    /// What people did outside mail, but for orders.
    Events,
    /// People who never confirmed.
    Unconfirmed,
    /// People of whom nothing was heard.
    Inactive,
}

impl Rule {
    /// In the order in which they run: people last, so that what is counted before is not gone with them.
    pub const ALL: [Rule; 8] = [
        Rule::HitClients,
        Rule::LedgerClients,
        Rule::Hits,
        Rule::HitDetails,
        Rule::MessageData,
        Rule::Events,
        Rule::Unconfirmed,
        Rule::Inactive,
    ];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::HitClients => "hit_clients",
            Rule::LedgerClients => "ledger_clients",
            Rule::Hits => "hits",
            Rule::HitDetails => "hit_details",
            Rule::MessageData => "message_data",
            Rule::Events => "events",
            Rule::Unconfirmed => "unconfirmed",
            Rule::Inactive => "inactive",
        }
    }

    /// The setting behind it.
    pub fn setting(self) -> &'static str {
        match self {
            Rule::HitClients | Rule::LedgerClients => "client_days",
            Rule::Hits => "hit_days",
            Rule::HitDetails => "compact_days",
            Rule::MessageData => "message_days",
            Rule::Events => "event_days",
            Rule::Unconfirmed => "unconfirmed_days",
            Rule::Inactive => "inactive_months",
        }
    }

    /// What it removes is older than this; nothing where the rule is off.
    pub fn before(self, kept: &Retention, now: Time) -> Option<Time> {
        let days = match self {
            Rule::HitClients | Rule::LedgerClients => kept.client_days,
            Rule::Hits => kept.hit_days,
            Rule::HitDetails => kept.compact_days,
            Rule::MessageData => kept.message_days,
            Rule::Events => kept.event_days,
            Rule::Unconfirmed => kept.unconfirmed_days,
            Rule::Inactive => {
                let months = i32::try_from(kept.inactive_months).ok().filter(|months| *months > 0)?;
                let then = now.timestamp().to_zoned(jiff::tz::TimeZone::UTC).checked_sub(jiff::Span::new().months(months)).ok()?;
                return Some(Time::from(then.timestamp()));
            }
        };
        (days > 0).then(|| now.plus(-i64::from(days) * DAY))
    }
}

/// Why somebody would be taken for inactive who is not: their hits are gone before.
pub fn contradiction(kept: &Retention) -> Option<String> {
    (kept.inactive_months > 0 && kept.hit_days > 0 && kept.hit_days < hit_days_needed(kept)).then(|| {
        format!(
            "`inactive_months = {}` looks at opens and clicks that `hit_days = {}` has removed by then: people who read every mail would be erased",
            kept.inactive_months, kept.hit_days
        )
    })
}

/// The shortest `hit_days` with which `inactive_months` sees every sign of life.
pub fn hit_days_needed(kept: &Retention) -> u32 {
    // Months have 31 days at most.
    kept.inactive_months * 31
}

/// What a rule found, or removed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Found {
    /// The rule.
    pub rule: Rule,
    /// The setting behind it.
    pub setting: &'static str,
    /// What is older than this goes.
    pub before: String,
    /// How many rows, or people.
    pub count: u64,
    /// Whose, masked.
    pub examples: Vec<String>,
}

/// What a run works with.
#[derive(Debug, Clone, Copy)]
pub struct Housekeeping<'a> {
    /// The database.
    pub db: &'a Db,
    /// Which columns contacts have.
    pub schema: &'a Schema,
    /// For digests.
    pub keys: &'a Keys,
    /// For numbers.
    pub entropy: &'a Entropy,
    /// The settings.
    pub kept: &'a Retention,
}

/// Applies every rule that is on, or only looks. Rules that are off are not in the answer.
pub async fn run(with: &Housekeeping<'_>, dry: bool, now: Time) -> Result<Vec<Found>, DbError> {
    let mut out = Vec::new();
    let mut people = false;
    for rule in Rule::ALL {
        let Some(before) = rule.before(with.kept, now) else { continue };
        if rule == Rule::Inactive && contradiction(with.kept).is_some() {
            tracing::warn!("people are not erased for inactivity: hits are kept for less time than that");
            continue;
        }
        let (count, contacts) = if dry { look(with, rule, before, now).await? } else { apply(with, rule, before, now).await? };
        out.push(Found { rule, setting: rule.setting(), before: before.to_string(), count, examples: contacts });
        people |= matches!(rule, Rule::Unconfirmed | Rule::Inactive) && count > 0;
    }
    if !dry {
        let mut tx = with.db.begin().await?;
        register::lapse(&mut tx, now.plus(-LINK_MS), now).await?;
        for found in &out {
            note(&mut tx, found.rule, found.count, now).await?;
        }
        tx.commit().await?;
        if people {
            erase::settle(with.db).await;
        }
    }
    Ok(out)
}

/// When rules last ran; nothing where none ever did.
pub async fn last_run(db: &mut impl Connection) -> Result<Option<Time>, DbError> {
    db.rows("SELECT MAX(at) FROM retention_run", args![]).await?.first().map_or(Ok(None), |row| row.get(0))
}

async fn note(tx: &mut Tx, rule: Rule, removed: u64, now: Time) -> Result<(), DbError> {
    tx.execute(
        "INSERT INTO retention_run (rule, at, removed) VALUES ($1, $2, $3)
         ON CONFLICT (rule) DO UPDATE SET at = excluded.at, removed = excluded.removed",
        args![rule.as_str(), now, i64::try_from(removed).unwrap_or(i64::MAX)],
    )
    .await?;
    Ok(())
}

/// A block of what a rule is about: id (of the row, or the person) and contact.
async fn block(
    db: &mut impl Connection,
    rule: Rule,
    after: i64,
    before: Time,
    kept: &Retention,
    now: Time,
) -> Result<Vec<(i64, i64)>, DbError> {
    match rule {
        Rule::HitClients => hits::old_hits(db, Old::WithClient, after, before, BLOCK).await,
        Rule::Hits => hits::old_hits(db, Old::All, after, before, BLOCK).await,
        // What goes by age is counted there.
        Rule::HitDetails => hits::superseded(db, after, Rule::Hits.before(kept, now), before, BLOCK).await,
        Rule::MessageData => delivery::forget::full_messages(db, after, before, BLOCK).await,
        Rule::LedgerClients | Rule::Events => Ok(Vec::new()),
        Rule::Unconfirmed => people(db, UNCONFIRMED, args![after, before]).await,
        Rule::Inactive => {
            // Whoever goes as unconfirmed is counted there.
            let unconfirmed = Rule::Unconfirmed.before(kept, now).unwrap_or(Time::from_millis(0));
            // `$2` is this rule's moment, `$3` the other's.
            let mut rule = INACTIVE.replace("UNCONFIRMED_RULE", &UNCONFIRMED.replace("$2", "$3"));
            for table in behaviour::sql::event_tables(db).await? {
                rule.push_str(&format!(" AND NOT EXISTS (SELECT 1 FROM {table} v WHERE v.contact_id = c.id AND v.at >= $2)"));
            }
            people(db, &rule, args![after, before, unconfirmed]).await
        }
    }
}

/// Whoever was merged into somebody goes with them.
async fn people(db: &mut impl Connection, rule: &str, args: crate::db::Args) -> Result<Vec<(i64, i64)>, DbError> {
    let sql = format!("SELECT c.id FROM contact c WHERE c.id > $1 AND c.merged_into IS NULL AND {rule} ORDER BY c.id LIMIT {PEOPLE}");
    db.rows(&sql, args).await?.iter().map(|row| Ok((row.get(0)?, row.get(0)?))).collect()
}

/// Asked for something before `$2`, confirmed nothing, and is known for nothing else: no other standing, no
/// message of anybody's shop, no number in another system, no order, and nobody who was merged into them: those would
/// go with them, whatever they had agreed to.
const UNCONFIRMED: &str = "c.created_at < $2 AND c.external_id IS NULL
   AND EXISTS (SELECT 1 FROM topic t JOIN subscription s ON s.topic_id = t.id AND s.contact_id = c.id WHERE s.standing = 'pending')
   AND NOT EXISTS (
     SELECT 1 FROM (SELECT id FROM topic UNION SELECT 0) AS t JOIN subscription s ON s.topic_id = t.id AND s.contact_id = c.id
     WHERE s.standing <> 'pending'
   )
   AND NOT EXISTS (SELECT 1 FROM consent_event e WHERE e.contact_id = c.id AND (e.at >= $2 OR e.action IN ('granted', 'confirmed')))
   AND NOT EXISTS (SELECT 1 FROM message m WHERE m.contact_id = c.id AND m.kind = 'transactional')
   AND NOT EXISTS (SELECT 1 FROM order_total o WHERE o.contact_id = c.id)
   AND NOT EXISTS (SELECT 1 FROM contact m WHERE m.merged_into = c.id)";

/// Known since before `$2`, and no sign of life since: no click and no open by a human, no entry of the
/// ledger, no message, no merge, no order, no event, nor any of those by a contact that was merged into them (whose
/// mails, entries and messages stay under its name). Who is unconfirmed (before `$3`) is another rule's.
const INACTIVE: &str = "c.created_at < $2
   AND NOT EXISTS (SELECT 1 FROM hit h WHERE h.contact_id = c.id AND h.kind = 'click' AND h.at >= $2 AND h.verdict = 'human')
   AND NOT EXISTS (SELECT 1 FROM hit h WHERE h.contact_id = c.id AND h.kind = 'open' AND h.at >= $2 AND h.verdict = 'human')
   AND NOT EXISTS (SELECT 1 FROM consent_event e WHERE e.contact_id = c.id AND e.at >= $2)
   AND NOT EXISTS (SELECT 1 FROM message m WHERE m.contact_id = c.id AND m.created_at >= $2)
   AND NOT EXISTS (SELECT 1 FROM contact_merge g WHERE g.kept_id = c.id AND g.at >= $2)
   AND NOT EXISTS (SELECT 1 FROM order_total o WHERE o.contact_id = c.id AND o.last_at >= $2)
   AND NOT EXISTS (
     WITH RECURSIVE other (id) AS (
       SELECT m.id FROM contact m WHERE m.merged_into = c.id
       UNION SELECT m.id FROM other p JOIN contact m ON m.merged_into = p.id
     )
     SELECT 1 FROM other p
     WHERE EXISTS (SELECT 1 FROM hit h WHERE h.contact_id = p.id AND h.kind IN ('click', 'open') AND h.at >= $2 AND h.verdict = 'human')
       OR EXISTS (SELECT 1 FROM consent_event e WHERE e.contact_id = p.id AND e.at >= $2)
       OR EXISTS (SELECT 1 FROM message m WHERE m.contact_id = p.id AND m.created_at >= $2)
   )
   AND NOT (UNCONFIRMED_RULE)";

/// Counts what a rule is about.
async fn look(with: &Housekeeping<'_>, rule: Rule, before: Time, now: Time) -> Result<(u64, Vec<String>), DbError> {
    let db = &mut with.db.clone();
    if rule == Rule::LedgerClients {
        return Ok((consent::forget::count_origins(db, before).await?.unsigned_abs(), Vec::new()));
    }
    if rule == Rule::Events {
        return Ok((behaviour::ops::count_old_events(db, before).await?, Vec::new()));
    }
    let (mut after, mut count, mut contacts) = (0, 0, Vec::new());
    loop {
        let found = block(db, rule, after, before, with.kept, now).await?;
        let Some(last) = found.last() else { break };
        after = last.0;
        count += found.len() as u64;
        remember(&mut contacts, &found);
    }
    Ok((count, masked(with, &contacts).await?))
}

/// Removes what a rule is about.
async fn apply(with: &Housekeeping<'_>, rule: Rule, before: Time, now: Time) -> Result<(u64, Vec<String>), DbError> {
    if rule == Rule::LedgerClients {
        let mut tx = with.db.begin().await?;
        let expired = consent::ops::expire_origins(&mut tx, before, now).await?;
        tx.commit().await?;
        return Ok((expired, Vec::new()));
    }
    if rule == Rule::Events {
        return Ok((behaviour::ops::drop_old_events(with.db, before, BLOCK).await?, Vec::new()));
    }
    let (mut after, mut count, mut examples) = (0, 0, Vec::new());
    loop {
        let mut tx = with.db.begin().await?;
        let found = block(&mut tx, rule, after, before, with.kept, now).await?;
        let Some(last) = found.last() else {
            tx.rollback().await?;
            return Ok((count, examples));
        };
        after = last.0;
        if examples.len() < EXAMPLES {
            let mut contacts = Vec::new();
            remember(&mut contacts, &found);
            examples.extend(masked(with, &contacts).await?);
            examples.sort_unstable();
            examples.dedup();
            examples.truncate(EXAMPLES);
        }
        count += remove(with, &mut tx, rule, &found, now).await?;
        tx.commit().await?;
    }
}

async fn remove(with: &Housekeeping<'_>, tx: &mut Tx, rule: Rule, found: &[(i64, i64)], now: Time) -> Result<u64, DbError> {
    let ids: Vec<i64> = found.iter().map(|row| row.0).collect();
    match rule {
        Rule::HitClients => hits::drop_old(tx, Old::WithClient, &ids).await,
        Rule::Hits => hits::drop_old(tx, Old::All, &ids).await,
        Rule::HitDetails => hits::compact(tx, &ids, rule.before(with.kept, now).unwrap_or_default()).await,
        Rule::MessageData => delivery::forget::empty(tx, &ids).await,
        Rule::LedgerClients | Rule::Events => Ok(0),
        Rule::Unconfirmed | Rule::Inactive => {
            let source = format!("retention {}", rule.as_str());
            let erasure = Erasure { source: &source, note: None, keep_out: false, demanded: false, days: 0 };
            let contacts = contact::sql::by_ids(tx, with.schema, &ids).await?;
            for contact in &contacts {
                erase::erase(tx, with.keys, with.entropy, contact, &erasure, now).await?;
            }
            Ok(contacts.len() as u64)
        }
    }
}

/// The first few different people of a block.
fn remember(contacts: &mut Vec<i64>, found: &[(i64, i64)]) {
    for (_, contact_id) in found {
        if contacts.len() < EXAMPLES && !contacts.contains(contact_id) {
            contacts.push(*contact_id);
        }
    }
}

async fn masked(with: &Housekeeping<'_>, contacts: &[i64]) -> Result<Vec<String>, DbError> {
    let found = contact::sql::by_ids(&mut with.db.clone(), with.schema, contacts).await?;
    Ok(found.iter().map(|contact| mask_email(&contact.email)).collect())
}
