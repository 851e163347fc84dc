//! Statements of the tables `hit`, `agent` and `unsubscribe`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::judge::{Client, Judgement, MANY_MORE_RECIPIENTS, MANY_RECIPIENTS, Seen, Taken, Verdict};
use super::judge_sequence::{MANY, MANY_MORE};
use super::ops::Counts;
use super::{Hit, Kind};
use crate::args;
use crate::clock::Time;
use crate::db::{ColumnData, Connection, DbError, Row, Rows, Tx};
use crate::delivery::provider::domain_of;

/// Hits read beside those of a group, or of a block, for each statement: more of one mail within two minutes
/// is an attack, and says nothing about anybody.
const BESIDE: i64 = 20_000;

/// A delivery as tracking needs it.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub run_id: i64,
    pub contact_id: i64,
    /// The person, after merges; nobody where they were erased.
    pub person: Option<i64>,
    /// Of the person's address.
    pub domain: String,
    pub provider: String,
    pub taken: Taken,
}

/// One row of `hit`, ready to be written.
#[derive(Debug, Clone)]
pub(super) struct HitRow {
    pub hit: Hit,
    pub run_id: i64,
    pub contact_id: i64,
    pub judged: Judgement,
}

/// A hit written earlier.
#[derive(Debug, Clone)]
pub(super) struct StoredHit {
    pub seen: Seen,
    pub delivery_id: i64,
    pub judged: Judgement,
}

/// The deliveries among `ids` that exist.
pub(super) async fn deliveries(tx: &mut Tx, ids: Vec<i64>) -> Result<HashMap<i64, Delivery>, DbError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = tx
        .bulk_fetch(
            "SELECT d.id, d.run_id, d.contact_id, COALESCE(c.merged_into, c.id), c.email_key, d.provider, d.state, d.changed_at
             FROM {rows} JOIN delivery d ON d.id = v.id LEFT JOIN contact c ON c.id = d.contact_id",
            Vec::new(),
            Rows::new().i64("id", ids),
        )
        .await?;
    found.iter().map(|row| Ok((row.get(0)?, read_delivery(row)?))).collect()
}

fn read_delivery(row: &Row) -> Result<Delivery, DbError> {
    let (email, state): (Option<String>, String) = (row.get(4)?, row.get(6)?);
    let taken = match state.as_str() {
        "sent" => Taken::At(row.get(7)?),
        // The outcome is not folded yet.
        "claimed" => Taken::JustNow,
        _ => Taken::Unknown,
    };
    Ok(Delivery {
        run_id: row.get(1)?,
        contact_id: row.get(2)?,
        person: row.get(3)?,
        domain: email.as_deref().map(domain_of).unwrap_or_default().to_owned(),
        provider: row.get(5)?,
        taken,
    })
}

/// The runs among `ids` that exist.
pub(super) async fn runs(tx: &mut Tx, ids: Vec<i64>) -> Result<HashSet<i64>, DbError> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let found = tx.bulk_fetch("SELECT r.id FROM {rows} JOIN run r ON r.id = v.id", Vec::new(), Rows::new().i64("id", ids)).await?;
    found.iter().map(|row| row.get(0)).collect()
}

/// How many links each of these runs has.
pub(super) async fn links_of_runs(tx: &mut Tx, ids: Vec<i64>) -> Result<HashMap<i64, i64>, DbError> {
    let found = tx
        .bulk_fetch(
            "SELECT v.id, COUNT(*) FROM {rows} JOIN run_link l ON l.run_id = v.id GROUP BY v.id",
            Vec::new(),
            Rows::new().i64("id", ids),
        )
        .await?;
    found.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// What is known of a receiving domain.
#[derive(Debug, Clone, Default)]
pub(super) struct Domain {
    /// Clicks by machines, and by people.
    pub clicks: (i64, i64),
    /// The host that takes its mail, where it was looked up.
    pub mx: Option<String>,
}

/// What is known of these domains.
pub(super) async fn domains(tx: &mut Tx, names: Vec<String>) -> Result<HashMap<String, Domain>, DbError> {
    let found = tx
        .bulk_fetch(
            "SELECT v.domain, h.machine, h.human, p.mx
             FROM {rows} LEFT JOIN domain_hits h ON h.domain = v.domain LEFT JOIN domain_provider p ON p.domain = v.domain",
            Vec::new(),
            Rows::new().text("domain", names),
        )
        .await?;
    let number = |row: &Row, at| row.get::<Option<i64>>(at).map(Option::unwrap_or_default);
    found.iter().map(|row| Ok((row.get(0)?, Domain { clicks: (number(row, 1)?, number(row, 2)?), mx: row.get(3)? }))).collect()
}

/// Opens, and all hits, of these deliveries so far.
pub(super) async fn totals(tx: &mut Tx, ids: Vec<i64>) -> Result<HashMap<i64, (i64, i64)>, DbError> {
    let found = tx
        .bulk_fetch(
            "SELECT t.delivery_id, t.link, t.human + t.machine + t.unknowable
             FROM {rows} JOIN hit_total t ON t.delivery_id = v.id AND t.link < 0",
            Vec::new(),
            Rows::new().i64("id", ids),
        )
        .await?;
    let mut out: HashMap<i64, (i64, i64)> = HashMap::new();
    for row in found {
        let (link, hits): (i64, i64) = (row.get(1)?, row.get(2)?);
        let total = out.entry(row.get(0)?).or_default();
        total.0 += if link == super::rollup::OPENS { hits } else { 0 };
        total.1 += hits;
    }
    Ok(out)
}

/// Hits of these deliveries within a time each: delivery, from, to. Hits that were put together are left out.
pub(super) async fn hits_within(tx: &mut Tx, spans: &BTreeMap<i64, (Time, Time)>) -> Result<Vec<StoredHit>, DbError> {
    if spans.is_empty() {
        return Ok(Vec::new());
    }
    let found = tx
        .bulk_fetch(
            "SELECT h.id, h.delivery_id, h.kind, h.link, h.at, h.looked, h.ip, COALESCE(a.text, h.agent), h.traits, h.signals, h.verdict, h.score
             FROM {rows} JOIN hit h ON h.delivery_id = v.id AND h.at >= v.first_at AND h.at <= v.last_at
             LEFT JOIN agent a ON a.id = h.agent_id
             WHERE h.times = 1
             LIMIT $1",
            args![BESIDE],
            Rows::new()
                .i64("id", spans.keys().copied())
                .i64("first_at", spans.values().map(|span| span.0.millis()))
                .i64("last_at", spans.values().map(|span| span.1.millis())),
        )
        .await?;
    found.iter().map(read_stored).collect()
}

fn read_stored(row: &Row) -> Result<StoredHit, DbError> {
    let kind = Kind::from_stored(&row.get::<String>(2)?);
    let (ip, agent, traits): (Option<String>, Option<String>, Option<String>) = (row.get(6)?, row.get(7)?, row.get(8)?);
    let (signals, looked): (String, bool) = (row.get(9)?, row.get(5)?);
    let forgotten = ip.is_none() && agent.is_none();
    let client =
        if forgotten { Client::remembered(&signals) } else { Client::of(kind, ip.as_deref(), agent.as_deref(), looked, traits.as_deref()) };
    let said = |name: &str| signals.split(',').any(|signal| signal.split(':').next() == Some(name));
    // The networks of then are forgotten soon; what was said of them stays.
    let recipients = match () {
        () if said(MANY_MORE_RECIPIENTS.name) => MANY_MORE,
        () if said(MANY_RECIPIENTS.name) => MANY,
        () => 0,
    };
    let header_trap = traits.as_deref().is_some_and(super::traits::is_header_trap);
    let seen = Seen { id: row.get(0)?, kind, link: row.get(3)?, at: row.get(4)?, looked, header_trap, client, recipients };
    let verdict = Verdict::from_stored(&row.get::<String>(10)?);
    Ok(StoredHit { seen, delivery_id: row.get(1)?, judged: Judgement { verdict, score: row.get::<f64>(11)? as i64, signals } })
}

/// The ids of these agents; each that is new gets the id that is proposed for it.
pub(super) async fn agents(tx: &mut Tx, proposed: &BTreeMap<&str, i64>) -> Result<HashMap<String, i64>, DbError> {
    let mut known = HashMap::with_capacity(proposed.len());
    for attempt in 0..2 {
        let missing: BTreeMap<&str, i64> =
            proposed.iter().filter(|(text, _)| !known.contains_key(**text)).map(|(text, id)| (*text, *id)).collect();
        if missing.is_empty() {
            break;
        }
        let found = tx
            .bulk_fetch(
                "SELECT a.text, a.id FROM {rows} JOIN agent a ON a.text = v.text",
                Vec::new(),
                Rows::new().text("text", missing.keys().copied()),
            )
            .await?;
        for row in found {
            known.insert(row.get(0)?, row.get(1)?);
        }
        let new: Vec<(&str, i64)> = missing.into_iter().filter(|(text, _)| !known.contains_key(*text)).collect();
        if new.is_empty() || attempt == 1 {
            break;
        }
        let rows = Rows::new().i64("id", new.iter().map(|agent| agent.1)).text("text", new.iter().map(|agent| agent.0));
        let written = tx
            .bulk(
                "INSERT INTO agent (id, text) SELECT v.id, v.text FROM {rows} WHERE TRUE ORDER BY v.text ON CONFLICT (text) DO NOTHING",
                Vec::new(),
                rows,
            )
            .await?;
        if written == new.len() as u64 {
            known.extend(new.into_iter().map(|(text, id)| (text.to_owned(), id)));
        }
    }
    Ok(known)
}

/// Writes hits.
pub(super) async fn insert(tx: &mut Tx, hits: &[HitRow], agents: &HashMap<String, i64>) -> Result<u64, DbError> {
    let agent = |row: &HitRow| row.hit.agent.as_ref().and_then(|agent| agents.get(agent)).copied();
    let rows = Rows::new()
        .i64("id", hits.iter().map(|row| row.hit.id))
        .i64("at", hits.iter().map(|row| row.hit.at.millis()))
        .text("kind", hits.iter().map(|row| row.hit.kind.text()))
        .i64("delivery_id", hits.iter().map(|row| row.hit.delivery_id))
        .i64("run_id", hits.iter().map(|row| row.run_id))
        .i64("contact_id", hits.iter().map(|row| row.contact_id))
        .opt_i64("link", hits.iter().map(|row| row.hit.link).collect())
        .text("verdict", hits.iter().map(|row| row.judged.verdict.text()))
        .column("score", ColumnData::F64(hits.iter().map(|row| Some(row.judged.score as f64)).collect()))
        .text("signals", hits.iter().map(|row| row.judged.signals.as_str()))
        .opt_text("ip", hits.iter().map(|row| row.hit.ip.clone()).collect())
        .opt_i64("agent_id", hits.iter().map(agent).collect())
        .column("looked", ColumnData::Bool(hits.iter().map(|row| Some(row.hit.looked)).collect()))
        .opt_text("traits", hits.iter().map(|row| row.hit.traits.clone()).collect());
    tx.bulk(
        "INSERT INTO hit (id, at, kind, delivery_id, run_id, contact_id, link, verdict, score, signals, ip, agent_id, looked, traits)
         SELECT v.id, v.at, v.kind, v.delivery_id, v.run_id, v.contact_id, v.link, v.verdict, v.score, v.signals, v.ip, v.agent_id, v.looked,
                v.traits
         FROM {rows}",
        Vec::new(),
        rows,
    )
    .await
}

/// Hits that are judged otherwise now.
pub(super) async fn update_judgements<'a>(tx: &mut Tx, hits: impl Iterator<Item = (i64, &'a Judgement)> + Clone) -> Result<u64, DbError> {
    let rows = Rows::new()
        .i64("id", hits.clone().map(|hit| hit.0))
        .text("verdict", hits.clone().map(|hit| hit.1.verdict.text()))
        .column("score", ColumnData::F64(hits.clone().map(|hit| Some(hit.1.score as f64)).collect()))
        .text("signals", hits.map(|hit| hit.1.signals.as_str()));
    tx.bulk("UPDATE hit SET verdict = v.verdict, score = v.score, signals = v.signals FROM {rows} WHERE hit.id = v.id", Vec::new(), rows)
        .await
}

/// Notes a withdrawal that came through a mail; the first one of a delivery stays.
pub(super) async fn insert_unsubscribe(tx: &mut Tx, delivery_id: i64, contact_id: i64, at: Time, way: &str) -> Result<u64, DbError> {
    tx.execute(
        "INSERT INTO unsubscribe (delivery_id, run_id, contact_id, at, way)
         SELECT d.id, d.run_id, d.contact_id, $3, $4
         FROM delivery d
         WHERE d.id = $1 AND d.contact_id = $2
         ON CONFLICT (delivery_id) DO NOTHING",
        args![delivery_id, contact_id, at, way],
    )
    .await
}

/// What came back of a run, by link (and as in [`super::rollup`] opens, and all links together).
pub(super) async fn run_totals(db: &mut impl Connection, run_id: i64) -> Result<BTreeMap<i64, Counts>, DbError> {
    let rows =
        db.rows("SELECT link, human, machine, unknowable, people, anonymous FROM run_total WHERE run_id = $1", args![run_id]).await?;
    let read = |row: &Row| -> Result<Counts, DbError> {
        Ok(Counts { human: row.get(1)?, machine: row.get(2)?, unknowable: row.get(3)?, unique: row.get(4)?, anonymous: row.get(5)? })
    };
    rows.iter().map(|row| Ok((row.get(0)?, read(row)?))).collect()
}

/// Position, address and name of every link of a run, in order.
pub(super) async fn links(db: &mut impl Connection, run_id: i64) -> Result<Vec<(i64, String, String)>, DbError> {
    let rows = db.rows("SELECT position, url, name FROM run_link WHERE run_id = $1 ORDER BY position", args![run_id]).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).collect()
}

/// Withdrawals that came through mails of a run.
pub(super) async fn count_unsubscribes(db: &mut impl Connection, run_id: i64) -> Result<i64, DbError> {
    let rows = db.rows("SELECT COUNT(*) FROM unsubscribe WHERE run_id = $1", args![run_id]).await?;
    rows.first().map_or(Ok(0), |row| row.get(0))
}
