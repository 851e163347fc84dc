//! When the next digest of a topic goes to whom: the rows of `digest`, which follow what people chose.

use jiff::ToSpan as _;

use super::{Frequency, Standing};
use crate::args;
use crate::clock::{DAY, Time};
use crate::db::{Connection, DbError, Dialect, Tx};

/// Choices taken over in one look: bounds a transaction.
const BLOCK: i64 = 500;

/// A digest that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Of which topic.
    pub topic_id: i64,
    /// For whom.
    pub contact_id: i64,
    /// How often they want it.
    pub frequency: Frequency,
    /// It collects what was held back from this moment on.
    pub since: Time,
    /// It was due then.
    pub due_at: Time,
    /// Where the person lives.
    zone: Option<String>,
    /// They may be mailed now; else the collection goes on.
    pub subscribed: bool,
}

/// When the next one is due: a day, a week, or a month of the calendar later, in the person's zone, else in
/// `zone`.
pub fn next(frequency: Frequency, from: Time, own_zone: Option<&str>, zone: &str) -> Time {
    let find = |name: &str| jiff::tz::TimeZone::get(name).ok();
    let zone = own_zone.and_then(find).or_else(|| find(zone)).unwrap_or(jiff::tz::TimeZone::UTC);
    match frequency {
        Frequency::Daily => from.plus(DAY),
        Frequency::Weekly => from.plus(7 * DAY),
        Frequency::Monthly => {
            let local = from.timestamp().to_zoned(zone);
            local.checked_add(1.month()).map_or(from.plus(31 * DAY), |later| Time::from(later.timestamp()))
        }
    }
}

/// Takes over what people chose since: whoever chose a frequency gets their first digest that long after their
/// choice; whoever wants each mail again, or none, gets no more: what was collected for them is not sent, since a
/// last digest is not what they asked for.
pub async fn follow_choices(tx: &mut Tx, zone: &str, now: Time) -> Result<(), DbError> {
    tx.execute(
        "DELETE FROM digest
         WHERE NOT EXISTS (
           SELECT 1 FROM subscription s
           WHERE s.topic_id = digest.topic_id AND s.contact_id = digest.contact_id AND s.frequency IS NOT NULL
             AND s.standing <> 'unsubscribed'
         )",
        Vec::new(),
    )
    .await?;
    let rows = tx
        .fetch_all(
            "SELECT s.topic_id, s.contact_id, s.frequency, c.timezone,
               (SELECT MAX(e.at) FROM consent_event e
                WHERE e.contact_id = s.contact_id AND e.topic_id = s.topic_id AND e.frequency IS NOT NULL)
             FROM subscription s
             JOIN contact c ON c.id = s.contact_id
             LEFT JOIN digest g ON g.topic_id = s.topic_id AND g.contact_id = s.contact_id
             WHERE s.frequency IS NOT NULL AND s.standing <> 'unsubscribed' AND (g.frequency IS NULL OR g.frequency <> s.frequency)
             ORDER BY s.topic_id, s.contact_id
             LIMIT $1",
            args![BLOCK],
        )
        .await?;
    for row in rows {
        let (topic_id, contact_id, text): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (own_zone, chosen_at): (Option<String>, Option<Time>) = (row.get(3)?, row.get(4)?);
        let Some(frequency) = Frequency::from_stored(&text) else { continue };
        let since = chosen_at.unwrap_or(now);
        let next_at = next(frequency, since, own_zone.as_deref(), zone);
        tx.execute(
            "INSERT INTO digest (topic_id, contact_id, frequency, since, next_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (topic_id, contact_id) DO UPDATE SET frequency = excluded.frequency, next_at = excluded.next_at",
            args![topic_id, contact_id, frequency.as_str(), since, next_at],
        )
        .await?;
    }
    Ok(())
}

/// Whether any digest is due. Writes nothing.
pub async fn any_due(db: &mut impl Connection, now: Time) -> Result<bool, DbError> {
    Ok(!db.rows("SELECT topic_id FROM digest WHERE next_at <= $1 ORDER BY next_at LIMIT 1", args![now]).await?.is_empty())
}

/// The digests that are due, at most `limit`; nobody else takes them before this transaction ends.
pub async fn due(tx: &mut Tx, limit: i64, now: Time) -> Result<Vec<Due>, DbError> {
    let lock = if tx.dialect() == Dialect::Postgres { "FOR UPDATE OF g" } else { "" };
    let sql = format!(
        "SELECT g.topic_id, g.contact_id, g.frequency, g.since, g.next_at, c.timezone, s.standing
         FROM digest g
         LEFT JOIN contact c ON c.id = g.contact_id
         LEFT JOIN subscription s ON s.topic_id = g.topic_id AND s.contact_id = g.contact_id
         WHERE g.next_at <= $1
         ORDER BY g.next_at, g.contact_id, g.topic_id
         LIMIT $2
         {lock}"
    );
    let rows = tx.fetch_all(&sql, args![now, limit]).await?;
    rows.iter()
        .map(|row| {
            let text: String = row.get(2)?;
            Ok(Due {
                topic_id: row.get(0)?,
                contact_id: row.get(1)?,
                frequency: Frequency::from_stored(&text)
                    .ok_or_else(|| DbError::Unexpected(format!("a digest has the unknown frequency `{text}`")))?,
                since: row.get(3)?,
                due_at: row.get(4)?,
                zone: row.get(5)?,
                subscribed: Standing::from_stored(row.get::<Option<String>>(6)?.as_deref()) == Standing::Subscribed,
            })
        })
        .collect()
}

/// A digest's time has passed: the next one collects from now on, or (`sent` is false: nothing may be sent at the
/// moment) also what this one had.
pub async fn passed(tx: &mut Tx, due: &Due, sent: bool, zone: &str, now: Time) -> Result<(), DbError> {
    let mut next_at = due.due_at;
    while next_at <= now {
        next_at = next(due.frequency, next_at, due.zone.as_deref(), zone);
    }
    let since = if sent { now } else { due.since };
    let sql = "UPDATE digest SET since = $1, next_at = $2 WHERE topic_id = $3 AND contact_id = $4";
    tx.execute_one(sql, args![since, next_at, due.topic_id, due.contact_id]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_one_of_the_calendar_where_the_person_lives() {
        let at = |text: &str| Time::parse(text).expect("a time");
        let next = |from: &str, zone: Option<&str>| next(Frequency::Monthly, at(from), zone, "Asia/Taipei");
        assert_eq!(next("2027-01-31T01:00:00Z", None), at("2027-02-28T01:00:00Z"));
        // 23:30 on the 28th in New York, half past four on the first in London.
        assert_eq!(next("2027-03-01T04:30:00Z", Some("America/New_York")), at("2027-03-29T03:30:00Z"));
        assert_eq!(next("2027-03-01T04:30:00Z", Some("Nowhere/Land")), at("2027-04-01T04:30:00Z"));
        assert_eq!(super::next(Frequency::Daily, at("2027-01-31T01:00:00Z"), None, "UTC"), at("2027-02-01T01:00:00Z"));
        assert_eq!(super::next(Frequency::Weekly, at("2027-01-31T01:00:00Z"), None, "UTC"), at("2027-02-07T01:00:00Z"));
    }
}
