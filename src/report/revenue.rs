//! Orders and their worth over all campaigns: by campaign, link or segment. From stored sums; only what happened
//! since a moment is added up from the rows of those orders.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use crate::args;
use crate::campaign;
use crate::clock::Time;
use crate::db::{Connection, DbError};
use crate::delivery::{self, State};
use crate::tracking::engagement_ops::Revenue;

/// Rows of a table: more campaigns, links or segments are put together in none.
const MAX_ROWS: usize = 1_000;

/// What a table of revenue is broken down by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Campaigns.
    Campaign,
    /// Links of campaigns.
    Link,
    /// Audiences of campaigns, as written in their files.
    Segment,
}

/// A table of revenue.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct RevenueTable {
    /// The currency of all amounts.
    pub currency: String,
    /// Only orders and runs from then on.
    pub since: Option<String>,
    /// Best first.
    pub rows: Vec<RevenueRow>,
    /// All of them, those beyond the table's end too.
    pub total: RevenueRow,
}

/// One row of it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct RevenueRow {
    /// The campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// The link's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Where it leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The audience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Runs.
    pub runs: i64,
    /// Mails taken by the relay.
    pub sent: i64,
    /// People who clicked, counted for each run.
    pub clicked: i64,
    /// Orders that came of it.
    #[serde(serialize_with = "plain_number")]
    pub conversions: f64,
    /// Their worth.
    #[serde(serialize_with = "plain_number")]
    pub revenue: f64,
}

/// A number as JSON has it: without a fraction where it has none.
pub(crate) fn plain_number<S: serde::Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
    if number.fract() == 0.0 && number.abs() < 9e15 { to.serialize_i64(*number as i64) } else { to.serialize_f64(*number) }
}

/// The name of an audience: `segment('x')` is called `x`, everybody who is subscribed has none.
pub fn segment_name(audience: Option<&str>) -> String {
    let Some(audience) = audience.map(str::trim) else { return "everybody".to_owned() };
    let inner = audience.strip_prefix("segment('").and_then(|rest| rest.strip_suffix("')"));
    inner.filter(|name| !name.contains('\'')).unwrap_or(audience).to_owned()
}

#[derive(Default)]
struct Sum {
    row: RevenueRow,
    revenue: Revenue,
}

/// All runs (`since`: those scheduled from then on), broken down.
pub async fn revenue_table(db: &mut impl Connection, currency: &str, by: By, since: Option<Time>) -> Result<RevenueTable, DbError> {
    let runs = runs(db).await?;
    let audiences = if by == By::Segment { audiences(db, &runs).await? } else { HashMap::new() };
    let mut sums: BTreeMap<(String, i64, String), Sum> = BTreeMap::new();
    let mut total = Sum::default();
    let mut revenues = revenue_of_all(db, since).await?;
    let (sent, clicked) = (sent(db, &runs, since).await?, clicked(db).await?);
    for run in &runs {
        let links = revenues.remove(&run.id).unwrap_or_default();
        let counted = since.is_none_or(|since| run.scheduled_at >= since);
        if !counted && links.is_empty() {
            continue;
        }
        let one = |link: Option<i64>| RevenueRow {
            runs: i64::from(counted),
            sent: if counted { sent.get(&run.id).copied().unwrap_or_default() } else { 0 },
            clicked: if counted { clicked.get(&(run.id, link.unwrap_or(-2))).copied().unwrap_or_default() } else { 0 },
            ..RevenueRow::default()
        };
        let mut of_run = Revenue::default();
        links.iter().for_each(|link| of_run.add(link.1));
        add(&mut total, one(None), of_run);
        match by {
            By::Campaign => add(sums.entry((run.campaign.clone(), 0, String::new())).or_default(), one(None), of_run),
            By::Segment => {
                let audience = audiences.get(&run.definition_hash).cloned().unwrap_or_default();
                add(sums.entry((audience, 0, String::new())).or_default(), one(None), of_run);
            }
            By::Link => {
                for (link, revenue) in links {
                    let key = (run.campaign.clone(), link, run.definition_hash.clone());
                    add(sums.entry(key).or_default(), one(Some(link)), revenue);
                }
            }
        }
    }
    let mut rows = Vec::with_capacity(sums.len());
    let names = if by == By::Link { link_names(db).await? } else { HashMap::new() };
    for ((name, link, hash), sum) in sums {
        let mut row = finished(sum);
        match by {
            By::Campaign => row.campaign = Some(name),
            By::Segment => row.segment = Some(name),
            By::Link => {
                let known = names.get(&(hash, link)).cloned();
                row.campaign = Some(name);
                (row.url, row.link) = known.map_or((None, None), |(url, name)| (Some(url), Some(name)));
            }
        }
        rows.push(row);
    }
    rows.sort_by(|one, other| other.revenue.total_cmp(&one.revenue).then(other.conversions.total_cmp(&one.conversions)));
    rows.truncate(MAX_ROWS);
    let total = finished(total);
    Ok(RevenueTable { currency: currency.to_owned(), since: since.map(|since| since.to_string()), rows, total })
}

fn add(sum: &mut Sum, row: RevenueRow, revenue: Revenue) {
    sum.row.runs += row.runs;
    sum.row.sent += row.sent;
    sum.row.clicked += row.clicked;
    sum.revenue.add(revenue);
}

fn finished(sum: Sum) -> RevenueRow {
    RevenueRow { conversions: sum.revenue.orders(), revenue: sum.revenue.units(), ..sum.row }
}

struct RunName {
    id: i64,
    campaign: String,
    scheduled_at: Time,
    definition_hash: String,
}

/// All runs, without what they sent: there may be many, and a definition holds a whole mail.
async fn runs(db: &mut impl Connection) -> Result<Vec<RunName>, DbError> {
    let sql = "SELECT id, campaign, scheduled_at, definition_hash FROM run WHERE state <> 'scheduled' ORDER BY id DESC LIMIT $1";
    let rows = db.rows(sql, args![super::MAX_RUNS]).await?;
    let read = |row: &crate::db::Row| {
        Ok(RunName { id: row.get(0)?, campaign: row.get(1)?, scheduled_at: row.get(2)?, definition_hash: row.get(3)? })
    };
    rows.iter().map(read).collect()
}

/// Of each definition, its audience.
async fn audiences(db: &mut impl Connection, runs: &[RunName]) -> Result<HashMap<String, String>, DbError> {
    let mut audiences = HashMap::new();
    for run in runs {
        if !audiences.contains_key(&run.definition_hash)
            && let Some(stored) = campaign::ops::run(db, run.id).await?
        {
            audiences.insert(run.definition_hash.clone(), audience_of(&stored.definition));
        }
    }
    Ok(audiences)
}

/// The name of the audience of a stored definition.
pub(super) fn audience_of(definition: &str) -> String {
    #[derive(serde::Deserialize)]
    struct OnlyAudience {
        audience: Option<String>,
    }
    let only: Option<OnlyAudience> = serde_json::from_str(definition).ok();
    segment_name(only.and_then(|only| only.audience).as_deref())
}

async fn revenue_of_all(db: &mut impl Connection, since: Option<Time>) -> Result<HashMap<i64, Vec<(i64, Revenue)>>, DbError> {
    let rows = match since {
        None => db.rows("SELECT run_id, link, shares, amount FROM revenue_total ORDER BY run_id, link", Vec::new()).await?,
        // PostgreSQL sums integers as decimals.
        Some(since) => {
            let sql = "SELECT run_id, link, CAST(SUM(share) AS BIGINT), CAST(SUM(amount) AS BIGINT)
                 FROM conversion WHERE at >= $1 GROUP BY run_id, link ORDER BY run_id, link";
            db.rows(sql, args![since]).await?
        }
    };
    let mut found: HashMap<i64, Vec<(i64, Revenue)>> = HashMap::new();
    for row in rows {
        found.entry(row.get(0)?).or_default().push((row.get(1)?, Revenue { shares: row.get(2)?, amount: row.get(3)? }));
    }
    Ok(found)
}

async fn sent(db: &mut impl Connection, runs: &[RunName], since: Option<Time>) -> Result<HashMap<i64, i64>, DbError> {
    let stored = "SELECT c.run_id, CAST(COALESCE(SUM(s.count), 0) AS BIGINT)
         FROM run_count c LEFT JOIN run_count s ON s.run_id = c.run_id AND s.state = 'sent'
         WHERE c.state = '' AND c.count = 1
         GROUP BY c.run_id";
    let rows = db.rows(stored, Vec::new()).await?;
    let mut sent: HashMap<i64, i64> = rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect::<Result<_, DbError>>()?;
    for run in runs.iter().filter(|run| since.is_none_or(|since| run.scheduled_at >= since)) {
        if let Entry::Vacant(unknown) = sent.entry(run.id) {
            let counts = delivery::ops::counts(db, run.id).await?;
            unknown.insert(counts.iter().filter(|row| row.0 == State::Sent).map(|row| row.2).sum());
        }
    }
    Ok(sent)
}

/// People who clicked, by run and link (-2: any).
async fn clicked(db: &mut impl Connection) -> Result<HashMap<(i64, i64), i64>, DbError> {
    let rows = db.rows("SELECT run_id, link, people FROM run_total WHERE link <> -1 AND people > 0", Vec::new()).await?;
    rows.iter().map(|row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?))).collect()
}

/// Address and name of links, by definition and position: those of whose runs anything came.
async fn link_names(db: &mut impl Connection) -> Result<HashMap<(String, i64), (String, String)>, DbError> {
    let sql = "SELECT r.definition_hash, l.position, MIN(l.url), MIN(l.name)
         FROM revenue_total t JOIN run r ON r.id = t.run_id JOIN run_link l ON l.run_id = t.run_id AND l.position = t.link
         GROUP BY r.definition_hash, l.position";
    let rows = db.rows(sql, Vec::new()).await?;
    rows.iter().map(|row| Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?)))).collect()
}

#[cfg(test)]
mod tests {
    use super::segment_name;

    #[test]
    fn an_audience_has_a_short_name_where_it_is_a_segment() {
        assert_eq!(segment_name(None), "everybody");
        assert_eq!(segment_name(Some("loyal")), "loyal");
        assert_eq!(segment_name(Some(" segment('loyal') ")), "loyal");
        let two = "segment('a') and not segment('b')";
        assert_eq!(segment_name(Some(two)), two);
    }
}
