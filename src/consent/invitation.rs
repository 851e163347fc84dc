//! The one mail that goes out without consent: the question whether somebody wants any (double
//! opt-in), and its one reminder. It carries no advertising. Whoever asks, an address that does not answer
//! gets one question a day at most, about all that was asked for; only a request that is the last word in the
//! ledger gives the permit ([`super::Permit::take_for_question`]).

use super::Action;
use crate::args;
use crate::clock::{DAY, Time};
use crate::db::{Connection, DbError, Rows, Tx};

/// One confirmation mail to an address within this time, whoever asks: nobody can be flooded through a form.
pub const WINDOW_MS: i64 = DAY;
/// Topics of one mail and its link (see [`crate::token::MAX_FIELDS`]); more go into another one.
pub const MAX_TOPICS: usize = crate::token::MAX_FIELDS - 2;
/// In `tries`: its mail was refused for good, and there is no other until somebody asks again.
const GIVEN_UP: i64 = 12;

/// The last word about a person and topic: what says nothing about being subscribed is passed over.
const LAST_WORD: &str = "(SELECT e.action FROM consent_event e
                          WHERE e.contact_id = q.contact_id AND e.topic_id IN (q.topic_id, 0)
                            AND e.action NOT IN ('refreshed', 'paused', 'resumed', 'changed', 'expired')
                          ORDER BY e.seq DESC
                          LIMIT 1)";

/// What somebody is to be asked, in one mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Whom.
    pub contact_id: i64,
    /// About which topics.
    pub topics: Vec<i64>,
    /// The language in which they asked, where that is known.
    pub locale: Option<String>,
    /// The mail that asked already; none where this is the first.
    pub message_id: Option<i64>,
}

/// Whether anything waits to be written, reminded of or settled: a look that writes nothing.
pub async fn any_due(db: &mut impl Connection, now: Time) -> Result<bool, DbError> {
    let rows = db
        .rows(
            "SELECT 1 AS work
             WHERE EXISTS (SELECT 1 FROM confirmation WHERE sent_at IS NULL AND message_id IS NULL AND tries < 12 AND due_at <= $1)
               OR EXISTS (SELECT 1 FROM confirmation WHERE sent_at IS NULL AND message_id IS NOT NULL AND tries < 12)
               OR EXISTS (SELECT 1 FROM confirmation WHERE remind_at IS NOT NULL AND reminded_at IS NULL AND remind_at <= $1)",
            args![now],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// The questions that are due, of at most `limit` people, each with all that this person asked for, also what they
/// asked for since `now` was read: it would be a second mail. A request
/// that was answered or withdrawn meanwhile, and a suppressed address, get none: their rows go.
pub async fn due(tx: &mut Tx, limit: i64, now: Time) -> Result<Vec<Question>, DbError> {
    let sql = format!(
        "SELECT q.contact_id, q.topic_id, q.locale, CAST(NULL AS BIGINT), {LAST_WORD}
         FROM confirmation q
         WHERE q.contact_id IN (
             SELECT contact_id FROM confirmation
             WHERE sent_at IS NULL AND message_id IS NULL AND tries < 12 AND due_at <= $1
             ORDER BY due_at, contact_id
             LIMIT $2
           )
           AND q.sent_at IS NULL AND q.message_id IS NULL AND q.tries < 12
         ORDER BY q.contact_id, q.asked_at, q.topic_id
         {}",
        tx.dialect().for_update()
    );
    let (questions, closed) = gather(tx, &sql, args![now, limit]).await?;
    for (contact_id, topic_id) in closed {
        tx.execute("DELETE FROM confirmation WHERE topic_id = $1 AND contact_id = $2", args![topic_id, contact_id]).await?;
    }
    Ok(questions)
}

/// The reminders that are due: each about what is still open of one mail. Nobody is reminded of what they
/// answered or withdrew.
pub async fn reminders(tx: &mut Tx, limit: i64, now: Time) -> Result<Vec<Question>, DbError> {
    let sql = format!(
        "SELECT q.contact_id, q.topic_id, q.locale, q.message_id, {LAST_WORD}
         FROM confirmation q
         WHERE q.contact_id IN (
             SELECT contact_id FROM confirmation
             WHERE remind_at IS NOT NULL AND reminded_at IS NULL AND remind_at <= $1
             ORDER BY remind_at, contact_id
             LIMIT $2
           )
           AND q.remind_at IS NOT NULL AND q.reminded_at IS NULL AND q.remind_at <= $1
         ORDER BY q.contact_id, q.message_id, q.topic_id
         {}",
        tx.dialect().for_update()
    );
    let (questions, closed) = gather(tx, &sql, args![now, limit]).await?;
    for (contact_id, topic_id) in closed {
        let sql = "UPDATE confirmation SET reminded_at = $1 WHERE topic_id = $2 AND contact_id = $3";
        tx.execute_one(sql, args![now, topic_id, contact_id]).await?;
    }
    Ok(questions)
}

type Closed = Vec<(i64, i64)>;

/// Rows of requests as questions, and those (contact, topic) that are not open any more.
async fn gather(tx: &mut Tx, sql: &str, args: Vec<crate::db::Value>) -> Result<(Vec<Question>, Closed), DbError> {
    let (mut questions, mut closed): (Vec<Question>, Closed) = (Vec::new(), Vec::new());
    let rows = tx.fetch_all(sql, args).await?;
    let mut people: Vec<i64> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
    people.dedup();
    let facts = super::sql::permission_facts(tx, super::ALL_TOPICS, &people).await?;
    let reachable = |contact_id: i64| facts.iter().any(|fact| fact.contact_id == contact_id && fact.known && fact.suppressed.is_none());
    for row in rows {
        let (contact_id, topic_id, message_id): (i64, i64, Option<i64>) = (row.get(0)?, row.get(1)?, row.get(3)?);
        if !reachable(contact_id) || row.get::<Option<String>>(4)?.as_deref() != Some(Action::Requested.as_str()) {
            closed.push((contact_id, topic_id));
            continue;
        }
        match questions.last_mut() {
            Some(last) if last.contact_id == contact_id && last.message_id == message_id && last.topics.len() < MAX_TOPICS => {
                last.topics.push(topic_id);
            }
            _ => questions.push(Question { contact_id, topics: vec![topic_id], locale: row.get(2)?, message_id }),
        }
    }
    Ok((questions, closed))
}

/// The mail of a question was written: it leaves with this transaction.
pub async fn asked(tx: &mut Tx, question: &Question, message_id: i64, now: Time) -> Result<(), DbError> {
    let reminds = question.message_id.is_some();
    let set = if reminds { "reminder_id = $1, reminded_at = $2" } else { "message_id = $1, due_at = $2" };
    for topic_id in &question.topics {
        let sql = format!("UPDATE confirmation SET {set} WHERE topic_id = $3 AND contact_id = $4");
        tx.execute_one(&sql, args![message_id, now, *topic_id, question.contact_id]).await?;
    }
    Ok(())
}

/// Takes over what became of the mails: when each was sent, and when it is reminded of (`remind_after_ms` later;
/// nothing: never). One that was refused for good is not tried again.
pub async fn settle(tx: &mut Tx, remind_after_ms: Option<i64>) -> Result<(), DbError> {
    tx.execute(
        "UPDATE confirmation SET sent_at = d.changed_at, remind_at = d.changed_at + CAST($1 AS BIGINT)
         FROM message m
         JOIN delivery d ON d.id = m.delivery_id
         WHERE m.id = confirmation.message_id AND d.state = 'sent'
           AND confirmation.sent_at IS NULL AND confirmation.message_id IS NOT NULL AND confirmation.tries < 12",
        args![remind_after_ms],
    )
    .await?;
    tx.execute(
        "UPDATE confirmation SET tries = $1
         FROM message m
         JOIN delivery d ON d.id = m.delivery_id
         WHERE m.id = confirmation.message_id AND d.state IN ('bounced', 'failed', 'skipped')
           AND confirmation.sent_at IS NULL AND confirmation.message_id IS NOT NULL AND confirmation.tries < 12",
        args![GIVEN_UP],
    )
    .await?;
    Ok(())
}

/// Whether a mail that asks still has something to ask: the last word about one of its topics is a request.
pub(super) async fn is_open(tx: &mut Tx, message_id: i64, contact_id: i64) -> Result<bool, DbError> {
    let sql = format!(
        "SELECT q.topic_id FROM confirmation q
         WHERE q.contact_id = $2 AND (q.message_id = $1 OR q.reminder_id = $1) AND {LAST_WORD} = 'requested'
         ORDER BY q.topic_id
         LIMIT 1"
    );
    Ok(tx.fetch_optional(&sql, args![message_id, contact_id]).await?.is_some())
}

/// The topics about which somebody is being asked: a withdrawal ends these, too, where their standing is
/// `unsubscribed` already.
pub(super) async fn open_topics(tx: &mut Tx, contact_id: i64) -> Result<Vec<i64>, DbError> {
    let sql = format!("SELECT q.topic_id FROM confirmation q WHERE q.contact_id = $1 AND {LAST_WORD} = 'requested' ORDER BY q.topic_id");
    tx.fetch_all(&sql, args![contact_id]).await?.iter().map(|row| row.get(0)).collect()
}

/// Notes that a confirmation mail is wanted; false when one about this topic went out within the window, or is
/// on its way already. While a question about something else is unanswered, and after one that was answered or
/// taken back, it waits for the window's end.
pub(super) async fn ask(tx: &mut Tx, contact_id: i64, topic_id: i64, locale: Option<&str>, now: Time) -> Result<bool, DbError> {
    let rows = tx
        .fetch_all(
            "SELECT q.topic_id, q.due_at, q.sent_at, q.message_id, q.tries, s.standing, q.asked_at
             FROM confirmation q
             LEFT JOIN subscription s ON s.topic_id = q.topic_id AND s.contact_id = q.contact_id
             WHERE q.contact_id = $1
             ORDER BY q.topic_id",
            args![contact_id],
        )
        .await?;
    let mut due_at = now;
    for row in rows {
        let same = row.get::<i64>(0)? == topic_id;
        let (sent_at, message_id, tries): (Option<Time>, Option<i64>, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
        if sent_at.is_none() && message_id.is_none() && tries < GIVEN_UP {
            if same {
                return Ok(false);
            }
            // They leave together.
            due_at = due_at.max(row.get(1)?);
            continue;
        }
        let over_at = sent_at.unwrap_or(row.get(1)?).plus(WINDOW_MS);
        if same && over_at > now {
            // Whose question was answered, or who left since, gets another one, though not at once.
            if super::sql::closed_since(tx, contact_id, topic_id, row.get(6)?).await?.is_empty() {
                return Ok(false);
            }
            due_at = due_at.max(over_at);
        }
        // Whoever answered is there, and is not flooded by a further question.
        if row.get::<Option<String>>(5)?.as_deref() != Some("subscribed") {
            due_at = due_at.max(over_at);
        }
    }
    tx.execute_one(
        "INSERT INTO confirmation (topic_id, contact_id, asked_at, due_at, tries, locale) VALUES ($1, $2, $3, $4, 0, $5)
         ON CONFLICT (topic_id, contact_id) DO UPDATE
         SET asked_at = excluded.asked_at, due_at = excluded.due_at, tries = 0, locale = excluded.locale, sent_at = NULL,
           message_id = NULL, reminder_id = NULL, remind_at = NULL, reminded_at = NULL",
        args![topic_id, contact_id, now, due_at, locale],
    )
    .await?;
    Ok(true)
}

/// The same for many people whose requests come with an import; who is being asked already is not asked again.
pub(super) async fn ask_many(tx: &mut Tx, topic_id: i64, contacts: &[i64], now: Time) -> Result<(), DbError> {
    if contacts.is_empty() {
        return Ok(());
    }
    tx.bulk(
        "INSERT INTO confirmation (topic_id, contact_id, asked_at, due_at, tries)
         SELECT CAST($1 AS BIGINT), v.contact_id, CAST($2 AS BIGINT), CAST($2 AS BIGINT), 0 FROM {rows} WHERE TRUE
         ON CONFLICT (topic_id, contact_id) DO NOTHING",
        args![topic_id, now],
        Rows::new().i64("contact_id", contacts.iter().copied()),
    )
    .await?;
    Ok(())
}
