//! Questions to what was computed of people and of their orders, and what becomes of it when one is erased.

use std::collections::BTreeMap;

use super::{attribution_sql, engagement_sql};
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Tx};

pub use super::engagement_refresh::{BLOCK, KnownRuns, Rules, any_due, begin_day, follow_rules, refresh, touch};

/// How a person responds to a topic.
#[derive(Debug, Clone, PartialEq)]
pub struct OfTopic {
    /// Its id; 0: all topics.
    pub topic_id: i64,
    /// Its key; `None`: all topics.
    pub topic: Option<String>,
    /// Opens and clicks.
    pub sum: super::engagement::Engagement,
    /// Best hour of the day and weekday (1: Monday), in the person's zone.
    pub best: Option<(i64, i64)>,
}

/// A person's responses, all topics first.
pub async fn of_contact(db: &mut impl Connection, contact_id: i64) -> Result<Vec<OfTopic>, DbError> {
    let rows = engagement_sql::of_contact(db, contact_id).await?;
    Ok(rows.into_iter().map(|(topic_id, topic, sum, best)| OfTopic { topic_id, topic, sum, best }).collect())
}

/// A person's last order, if any.
pub async fn last_order(db: &mut impl Connection, contact_id: i64) -> Result<Option<Time>, DbError> {
    let rows = db.rows("SELECT last_at FROM order_total WHERE contact_id = $1 AND orders > 0", args![contact_id]).await?;
    rows.first().map(|row| row.get(0)).transpose()
}

/// Orders that came of mails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revenue {
    /// How many, in parts of [`super::attribution::WHOLE`].
    pub shares: i64,
    /// Their worth, in parts of a unit (see [`crate::behaviour::PARTS`]).
    pub amount: i64,
}

impl Revenue {
    /// Adds another one.
    pub fn add(&mut self, more: Revenue) {
        self.shares += more.shares;
        self.amount += more.amount;
    }

    /// How many orders, as a number for people.
    pub fn orders(self) -> f64 {
        self.shares as f64 / super::attribution::WHOLE as f64
    }

    /// Their worth in units of the currency.
    pub fn units(self) -> f64 {
        self.amount as f64 / crate::behaviour::PARTS as f64
    }
}

/// What came of a run, by link; `since`: of orders from that moment on only, which counts rows.
pub async fn revenue(db: &mut impl Connection, run_id: i64, since: Option<Time>) -> Result<BTreeMap<i64, Revenue>, DbError> {
    let rows = match since {
        None => attribution_sql::totals(db, run_id).await?,
        Some(since) => attribution_sql::totals_since(db, run_id, since).await?,
    };
    Ok(rows.into_iter().map(|(link, shares, amount)| (link, Revenue { shares, amount })).collect())
}

/// Forgets a person: how they respond goes, what came of their orders counts on under the numbers that their mails
/// have now (`numbers`: delivery and number).
pub async fn forget_contact(tx: &mut Tx, contact_id: i64, numbers: &[(i64, i64)]) -> Result<(), DbError> {
    // First, so that who computes this person just now comes before us.
    tx.execute("DELETE FROM engagement_due WHERE contact_id = $1", args![contact_id]).await?;
    super::engagement_refresh::forget(tx, contact_id).await?;
    attribution_sql::forget(tx, contact_id, numbers).await
}
