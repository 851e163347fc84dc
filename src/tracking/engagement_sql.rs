//! Statements of `engagement`, `engagement_due`, `engagement_prior` and `engagement_rule`.

use std::collections::{BTreeMap, HashMap};

use super::engagement::{Engagement, Habit, Response};
use crate::args;
use crate::clock::Time;
use crate::db::{ColumnData, Connection, DbError, Rows, Tx};

/// Contacts that were found to be one with another, looked through at most that deep: a merge of a merge is
/// rare, and a ring must not hold anybody up.
const MERGES_DEEP: usize = 16;

/// Takes people who are to be computed again out of the list, at most `limit`. Another node leaves them alone
/// until this transaction ends; who responds meanwhile waits for it and is put on the list anew.
pub(super) async fn take_due(tx: &mut Tx, limit: i64) -> Result<Vec<i64>, DbError> {
    let sql = format!("SELECT contact_id FROM engagement_due ORDER BY contact_id LIMIT $1 {}", tx.dialect().skip_locked());
    let rows = tx.fetch_all(&sql, args![limit]).await?;
    let people = rows.iter().map(|row| row.get(0)).collect::<Result<Vec<i64>, DbError>>()?;
    if !people.is_empty() {
        let sql = "DELETE FROM engagement_due WHERE contact_id IN (SELECT v.id FROM {rows})";
        tx.bulk(sql, Vec::new(), Rows::new().i64("id", people.iter().copied())).await?;
    }
    Ok(people)
}

/// Whether anybody is to be computed again.
pub(super) async fn any_due(db: &mut impl Connection) -> Result<bool, DbError> {
    Ok(!db.rows("SELECT contact_id FROM engagement_due ORDER BY contact_id LIMIT 1", Vec::new()).await?.is_empty())
}

/// Puts people on the list. Written over an entry that is there, not beside it: so whoever is just computing this
/// person again without our rows comes after us, or we after them.
pub(super) async fn put_due(tx: &mut Tx, people: &[i64], now: Time) -> Result<(), DbError> {
    tx.bulk(
        "INSERT INTO engagement_due (contact_id, since) SELECT v.id, $1 FROM {rows} WHERE TRUE ORDER BY v.id
         ON CONFLICT (contact_id) DO UPDATE SET since = excluded.since",
        args![now],
        Rows::new().i64("id", people.iter().copied()),
    )
    .await
    .map(drop)
}

/// Puts everybody on the list who ever responded, over entries that are there as [`put_due`] does.
pub(super) async fn put_all_due(tx: &mut Tx, now: Time) -> Result<u64, DbError> {
    tx.execute(
        "INSERT INTO engagement_due (contact_id, since)
         SELECT DISTINCT contact_id, CAST($1 AS BIGINT) FROM hit_total WHERE contact_id <> 0 AND human > 0 ORDER BY contact_id
         ON CONFLICT (contact_id) DO UPDATE SET since = excluded.since",
        args![now],
    )
    .await
}

/// A contact as the computation needs it.
pub(super) struct Someone {
    pub id: i64,
    pub timezone: Option<String>,
    pub merged_into: Option<i64>,
    /// They refused that anything is concluded about them (GDPR art. 21).
    pub refuses: bool,
}

/// Those of `ids` that exist.
pub(super) async fn someone(tx: &mut Tx, ids: &[i64]) -> Result<Vec<Someone>, DbError> {
    let found = tx
        .bulk_fetch(
            "SELECT c.id, c.timezone, c.merged_into, x.profiling
             FROM {rows} JOIN contact c ON c.id = v.id LEFT JOIN consent_choice x ON x.contact_id = c.id",
            Vec::new(),
            Rows::new().i64("id", ids.iter().copied()),
        )
        .await?;
    found
        .iter()
        .map(|row| {
            let profiling: Option<String> = row.get(3)?;
            let refuses = profiling.as_deref() == Some("refused");
            Ok(Someone { id: row.get(0)?, timezone: row.get(1)?, merged_into: row.get(2)?, refuses })
        })
        .collect()
}

/// The contacts these are one with, and those in turn: each with the one of `ids` whom it is one with.
pub(super) async fn family(tx: &mut Tx, ids: &[i64]) -> Result<HashMap<i64, i64>, DbError> {
    let mut kept_of: HashMap<i64, i64> = ids.iter().map(|id| (*id, *id)).collect();
    let mut latest: Vec<i64> = ids.to_vec();
    for _ in 0..MERGES_DEEP {
        let found = tx
            .bulk_fetch(
                "SELECT c.id, v.id FROM {rows} JOIN contact c ON c.merged_into = v.id",
                Vec::new(),
                Rows::new().i64("id", latest.iter().copied()),
            )
            .await?;
        latest.clear();
        for row in &found {
            let (id, into): (i64, i64) = (row.get(0)?, row.get(1)?);
            let kept = kept_of.get(&into).copied().unwrap_or(into);
            if kept_of.insert(id, kept).is_none() {
                latest.push(id);
            }
        }
        if latest.is_empty() {
            break;
        }
    }
    Ok(kept_of)
}

/// What these contacts responded to, by contact.
pub(super) async fn responses(tx: &mut Tx, contacts: &[i64]) -> Result<Vec<(i64, Response)>, DbError> {
    let found = tx
        .bulk_fetch(
            "SELECT h.contact_id, h.delivery_id, h.link, h.run_id, h.human, h.first_at, h.last_at
             FROM {rows} JOIN hit_total h ON h.contact_id = v.id
             WHERE h.human > 0 AND h.link >= -1 AND h.first_at IS NOT NULL AND h.last_at IS NOT NULL",
            Vec::new(),
            Rows::new().i64("id", contacts.iter().copied()),
        )
        .await?;
    found
        .iter()
        .map(|row| {
            let response = Response {
                delivery_id: row.get(1)?,
                link: row.get(2)?,
                run_id: row.get(3)?,
                human: row.get(4)?,
                first_at: row.get(5)?,
                last_at: row.get(6)?,
            };
            Ok((row.get(0)?, response))
        })
        .collect()
}

/// A row of `engagement`.
pub(super) struct EngagementRow {
    pub topic_id: i64,
    pub contact_id: i64,
    pub sum: Engagement,
    pub best: Option<(i64, i64)>,
}

/// Takes the rows of these contacts away; answers topic and habit of each.
pub(super) async fn take(tx: &mut Tx, contacts: &[i64]) -> Result<Vec<(i64, Habit)>, DbError> {
    let gone = tx
        .bulk_fetch(
            "DELETE FROM engagement WHERE contact_id IN (SELECT v.id FROM {rows}) RETURNING topic_id, hours",
            Vec::new(),
            Rows::new().i64("id", contacts.iter().copied()),
        )
        .await?;
    gone.iter().map(|row| Ok((row.get(0)?, Habit::from_stored(&row.get::<String>(1)?)))).collect()
}

pub(super) async fn insert(tx: &mut Tx, rows: &[EngagementRow]) -> Result<(), DbError> {
    let columns = Rows::new()
        .i64("topic_id", rows.iter().map(|row| row.topic_id))
        .i64("contact_id", rows.iter().map(|row| row.contact_id))
        .i64("opens", rows.iter().map(|row| row.sum.opens))
        .i64("clicks", rows.iter().map(|row| row.sum.clicks))
        .opt_i64("last_open_at", rows.iter().map(|row| row.sum.last_open_at.map(Time::millis)).collect())
        .opt_i64("last_click_at", rows.iter().map(|row| row.sum.last_click_at.map(Time::millis)).collect())
        .column("weight", ColumnData::F64(rows.iter().map(|row| Some(row.sum.weight)).collect()))
        .text("hours", rows.iter().map(|row| row.sum.habit.to_text()))
        .opt_i64("best_hour", rows.iter().map(|row| row.best.map(|best| best.0)).collect())
        .opt_i64("best_weekday", rows.iter().map(|row| row.best.map(|best| best.1)).collect());
    tx.bulk(
        "INSERT INTO engagement
           (topic_id, contact_id, opens, clicks, last_open_at, last_click_at, weight, hours, best_hour, best_weekday)
         SELECT v.topic_id, v.contact_id, v.opens, v.clicks, v.last_open_at, v.last_click_at, v.weight, v.hours, v.best_hour,
           v.best_weekday
         FROM {rows}",
        Vec::new(),
        columns,
    )
    .await
    .map(drop)
}

/// When people responded, by topic, as it was when the day began.
pub(super) async fn priors(tx: &mut Tx) -> Result<BTreeMap<i64, Habit>, DbError> {
    let mut places: BTreeMap<i64, [i64; Habit::PLACES]> = BTreeMap::new();
    for row in tx.fetch_all("SELECT topic_id, place, prior FROM engagement_prior", Vec::new()).await? {
        let place: i64 = row.get(1)?;
        let of_topic = places.entry(row.get(0)?).or_insert([0; Habit::PLACES]);
        if let Some(slot) = usize::try_from(place).ok().and_then(|place| of_topic.get_mut(place)) {
            *slot = row.get(2)?;
        }
    }
    Ok(places.into_iter().map(|(topic, places)| (topic, Habit::from_places(&places))).collect())
}

/// What changed in the sums by topic and place (hours first). `day` is the one from which on they are no prior yet.
pub(super) async fn add_to_priors(tx: &mut Tx, changes: &BTreeMap<(i64, usize), i64>, day: i64) -> Result<(), DbError> {
    let changes: Vec<(i64, i64, i64)> = changes
        .iter()
        .filter(|(_, change)| **change != 0)
        .filter_map(|((topic, place), change)| Some((*topic, i64::try_from(*place).ok()?, *change)))
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    tx.bulk(
        "INSERT INTO engagement_prior (topic_id, place, weight, prior, day)
         SELECT v.topic_id, v.place, v.change, 0, $1 FROM {rows} WHERE TRUE ORDER BY v.topic_id, v.place
         ON CONFLICT (topic_id, place) DO UPDATE SET weight = engagement_prior.weight + excluded.weight",
        args![day],
        Rows::new()
            .i64("topic_id", changes.iter().map(|change| change.0))
            .i64("place", changes.iter().map(|change| change.1))
            .i64("change", changes.iter().map(|change| change.2)),
    )
    .await
    .map(drop)
}

/// Makes the sums of today's beginning the prior of the day.
pub(super) async fn freeze_priors(tx: &mut Tx, day: i64) -> Result<u64, DbError> {
    tx.execute("UPDATE engagement_prior SET prior = weight, day = $1 WHERE day < $1", args![day]).await
}

/// By which settings all rows were computed.
pub(super) async fn rule(db: &mut impl Connection) -> Result<Option<String>, DbError> {
    let rows = db.rows("SELECT rule FROM engagement_rule WHERE id = 1", Vec::new()).await?;
    rows.first().map(|row| row.get(0)).transpose()
}

pub(super) async fn set_rule(tx: &mut Tx, rule: &str) -> Result<(), DbError> {
    let sql = "INSERT INTO engagement_rule (id, rule) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET rule = excluded.rule";
    tx.execute(sql, args![rule]).await.map(drop)
}

/// A row of `engagement` as shown: topic, its key (`None`: all topics), the sums, best hour and weekday.
pub(super) type Shown = (i64, Option<String>, Engagement, Option<(i64, i64)>);

/// A person's rows, all topics first.
pub(super) async fn of_contact(db: &mut impl Connection, contact_id: i64) -> Result<Vec<Shown>, DbError> {
    let rows = db
        .rows(
            "SELECT e.topic_id, t.name, e.opens, e.clicks, e.last_open_at, e.last_click_at, e.weight, e.hours, e.best_hour, e.best_weekday
             FROM engagement e LEFT JOIN topic t ON t.id = e.topic_id
             WHERE e.contact_id = $1
             ORDER BY e.topic_id",
            args![contact_id],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let sum = Engagement {
                opens: row.get(2)?,
                clicks: row.get(3)?,
                last_open_at: row.get(4)?,
                last_click_at: row.get(5)?,
                weight: row.get(6)?,
                habit: Habit::from_stored(&row.get::<String>(7)?),
            };
            let best: Option<i64> = row.get(8)?;
            Ok((row.get(0)?, row.get(1)?, sum, best.zip(row.get(9)?)))
        })
        .collect()
}
