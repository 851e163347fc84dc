//! Statements of `delivery`, `worker` and `handover`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::state::{Outcome, State};
use crate::args;
use crate::clock::Time;
use crate::consent::Tracking;
use crate::db::{Connection, Db, DbError, Dialect, Rows, Tx, Value};

/// A claimed delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedRow {
    /// The delivery.
    pub id: i64,
    /// The person.
    pub contact_id: i64,
    /// This attempt, from 1.
    pub attempt: i64,
}

/// Writes deliveries: id, contact and mailbox provider of each.
pub(super) async fn enqueue(
    tx: &mut Tx,
    run_id: i64,
    deliveries: &[(i64, i64, Arc<str>)],
    due_at: Time,
    now: Time,
) -> Result<u64, DbError> {
    tx.bulk(
        "INSERT INTO delivery (id, run_id, contact_id, provider, state, due_at, attempts, changed_at)
         SELECT v.id, $1, v.contact_id, v.provider, 'due', $2, 0, $3 FROM {rows} WHERE TRUE
         ON CONFLICT (run_id, contact_id) DO NOTHING",
        args![run_id, due_at, now],
        Rows::new()
            .i64("id", deliveries.iter().map(|row| row.0))
            .i64("contact_id", deliveries.iter().map(|row| row.1))
            .shared("provider", deliveries.iter().map(|row| row.2.clone())),
    )
    .await
}

/// The mailbox providers of which a run has mails that are due or deferred, with the earliest time of
/// each. Jumps from one to the next in the index: it costs a step a provider, not a row a mail.
pub(super) async fn due_groups(db: &mut impl Connection, run_id: i64) -> Result<Vec<(String, Time)>, DbError> {
    let rows = db
        .rows(
            "WITH RECURSIVE step (provider) AS (
               SELECT MIN(provider) FROM delivery WHERE run_id = $1 AND state IN ('due', 'deferred')
               UNION ALL
               SELECT (
                 SELECT MIN(d.provider) FROM delivery d
                 WHERE d.run_id = $1 AND d.state IN ('due', 'deferred') AND d.provider > step.provider
               )
               FROM step
               WHERE step.provider IS NOT NULL
             )
             SELECT step.provider, (
               SELECT MIN(d.due_at) FROM delivery d
               WHERE d.run_id = $1 AND d.state IN ('due', 'deferred') AND d.provider = step.provider
             )
             FROM step
             WHERE step.provider IS NOT NULL
             ORDER BY step.provider",
            args![run_id],
        )
        .await?;
    let mut groups = Vec::with_capacity(rows.len());
    for row in rows {
        // Claimed by another node between the two looks.
        if let Some(due_at) = row.get::<Option<Time>>(1)? {
            groups.push((row.get(0)?, due_at));
        }
    }
    Ok(groups)
}

pub(super) async fn claim(
    tx: &mut Tx,
    run_id: i64,
    worker: i64,
    provider: &str,
    limit: i64,
    now: Time,
) -> Result<Vec<ClaimedRow>, DbError> {
    // Picked first and once: PostgreSQL may run a subquery under `IN` again for every row, and would
    // then claim more than the limit.
    let sql = format!(
        "WITH picked AS (
           SELECT id FROM delivery
           WHERE run_id = $3 AND provider = $5 AND state IN ('due', 'deferred') AND due_at <= $2
           ORDER BY due_at, id
           LIMIT $4
           {}
         )
         UPDATE delivery SET state = 'claimed', worker = $1, attempts = delivery.attempts + 1, changed_at = $2
         FROM picked
         WHERE delivery.id = picked.id
         RETURNING delivery.id, delivery.contact_id, delivery.attempts",
        tx.dialect().skip_locked()
    );
    let rows = tx.fetch_all(&sql, args![worker, now, run_id, limit, provider]).await?;
    rows.iter().map(|row| Ok(ClaimedRow { id: row.get(0)?, contact_id: row.get(1)?, attempt: row.get(2)? })).collect()
}

/// Claims messages that are due: each with its message's id and its mailbox provider. `patient`: those that
/// let others go first.
pub(super) async fn claim_messages(
    tx: &mut Tx,
    worker: i64,
    patient: bool,
    limit: i64,
    now: Time,
) -> Result<Vec<(ClaimedRow, i64, String)>, DbError> {
    let sql = format!(
        "WITH picked AS (
           SELECT id FROM delivery
           WHERE transactional AND patient = $4 AND state IN ('due', 'deferred') AND due_at <= $2
           ORDER BY due_at, id
           LIMIT $3
           {}
         )
         UPDATE delivery SET state = 'claimed', worker = $1, attempts = delivery.attempts + 1, changed_at = $2
         FROM picked
         WHERE delivery.id = picked.id
         RETURNING delivery.id, delivery.contact_id, delivery.attempts, delivery.run_id, delivery.provider",
        tx.dialect().skip_locked()
    );
    let rows = tx.fetch_all(&sql, args![worker, now, limit, patient]).await?;
    rows.iter()
        .map(|row| {
            let claimed = ClaimedRow { id: row.get(0)?, contact_id: row.get(1)?, attempt: row.get(2)? };
            Ok((claimed, row.get(3)?, row.get(4)?))
        })
        .collect()
}

/// How many messages are due, counted up to `limit`; `patient`: of those that let others go first.
pub(super) async fn messages_due(db: &mut impl Connection, patient: bool, limit: i64, now: Time) -> Result<i64, DbError> {
    let rows = db
        .rows(
            "SELECT COUNT(*) FROM (
               SELECT id FROM delivery
               WHERE transactional AND patient = $3 AND state IN ('due', 'deferred') AND due_at <= $1
               ORDER BY due_at, id
               LIMIT $2
             ) AS few",
            args![now, limit, patient],
        )
        .await?;
    rows.first().map_or(Ok(0), |row| row.get(0))
}

/// What became of mails that were found in doubt when their worker lost its place: the worker knew.
/// Only for the attempt it made, and only while nobody else has decided.
pub(super) async fn testify(tx: &mut Tx, outcomes: &[Outcome]) -> Result<u64, DbError> {
    let known: Vec<&Outcome> =
        outcomes.iter().filter(|outcome| matches!(outcome.state, State::Sent | State::Bounced | State::Failed)).collect();
    if known.is_empty() {
        return Ok(0);
    }
    // First, as everywhere: who counts, and who settles doubt by hand, holds the mark before the rows.
    let ids = Rows::new().i64("id", known.iter().map(|outcome| outcome.delivery_id));
    let runs = tx.bulk_fetch("SELECT d.run_id FROM {rows} JOIN delivery d ON d.id = v.id", Vec::new(), ids).await?;
    super::counts::changed(tx, runs.iter().map(|row| row.get(0)).collect::<Result<Vec<i64>, DbError>>()?).await?;
    tx.bulk(
        "UPDATE delivery SET state = v.state, reason = v.reason, changed_at = v.at,
           reply = CASE WHEN EXISTS (SELECT 1 FROM contact c WHERE c.id = delivery.contact_id) THEN v.reply END
         FROM {rows}
         WHERE delivery.id = v.id AND delivery.state = 'in_doubt' AND delivery.attempts = v.attempt",
        Vec::new(),
        Rows::new()
            .i64("id", known.iter().map(|outcome| outcome.delivery_id))
            .i64("attempt", known.iter().map(|outcome| outcome.attempt))
            .text("state", known.iter().map(|outcome| outcome.state.as_str()))
            .opt_text("reason", known.iter().map(|outcome| outcome.reason.clone()).collect())
            .opt_text("reply", known.iter().map(|outcome| outcome.reply.clone()).collect())
            .i64("at", known.iter().map(|outcome| outcome.at.millis())),
    )
    .await
}

/// Writes outcomes of deliveries that `worker` has claimed, for the attempt that it claimed: an
/// outcome written twice (the first commit's answer was lost) must not end a later attempt. What the relay
/// said may name the recipient: it is not kept of somebody who was erased meanwhile.
pub(super) async fn apply_outcomes(tx: &mut Tx, worker: i64, outcomes: &[Outcome]) -> Result<u64, DbError> {
    tx.allow_nested_loops(false).await?;
    let written = tx
        .bulk(
            "UPDATE delivery SET state = v.state, due_at = v.due_at, reason = v.reason, changed_at = v.at, worker = NULL,
           reply = CASE WHEN EXISTS (SELECT 1 FROM contact c WHERE c.id = delivery.contact_id) THEN v.reply END
         FROM {rows}
         WHERE delivery.id = v.id AND delivery.worker = $1 AND delivery.state = 'claimed' AND delivery.attempts = v.attempt",
            args![worker],
            Rows::new()
                .i64("id", outcomes.iter().map(|outcome| outcome.delivery_id))
                .i64("attempt", outcomes.iter().map(|outcome| outcome.attempt))
                .text("state", outcomes.iter().map(|outcome| outcome.state.as_str()))
                .i64("due_at", outcomes.iter().map(|outcome| outcome.due_at.millis()))
                .opt_text("reason", outcomes.iter().map(|outcome| outcome.reason.clone()).collect())
                .opt_text("reply", outcomes.iter().map(|outcome| outcome.reply.clone()).collect())
                .i64("at", outcomes.iter().map(|outcome| outcome.at.millis())),
        )
        .await?;
    tx.allow_nested_loops(true).await?;
    Ok(written)
}

/// Gives claims back as they were: nothing was handed over.
pub(super) async fn return_claims(tx: &mut Tx, worker: i64, ids: Option<&[i64]>, now: Time) -> Result<u64, DbError> {
    match ids {
        Some(ids) => {
            tx.bulk(
                "UPDATE delivery SET state = 'due', worker = NULL, attempts = delivery.attempts - 1, changed_at = $2
                 FROM {rows}
                 WHERE delivery.id = v.id AND delivery.worker = $1 AND delivery.state = 'claimed'",
                args![worker, now],
                Rows::new().i64("id", ids.iter().copied()),
            )
            .await
        }
        None => {
            tx.execute(
                "UPDATE delivery SET state = 'due', worker = NULL, attempts = attempts - 1, changed_at = $2
                 WHERE worker = $1 AND state = 'claimed'",
                args![worker, now],
            )
            .await
        }
    }
}

/// Gives claims back that are not to be tried before a later moment: id, and when.
pub(super) async fn postpone(tx: &mut Tx, worker: i64, later: &[(i64, Time)], now: Time) -> Result<u64, DbError> {
    if later.is_empty() {
        return Ok(0);
    }
    tx.bulk(
        "UPDATE delivery SET state = 'deferred', reason = 'slow_down', worker = NULL, attempts = delivery.attempts - 1, due_at = v.due_at, changed_at = $2
         FROM {rows}
         WHERE delivery.id = v.id AND delivery.worker = $1 AND delivery.state = 'claimed'",
        args![worker, now],
        Rows::new().i64("id", later.iter().map(|row| row.0)).i64("due_at", later.iter().map(|row| row.1.millis())),
    )
    .await
}

/// Notes how the people of these deliveries are tracked, where that is not in full.
pub(super) async fn note_tracking(tx: &mut Tx, noted: &[(i64, Tracking)]) -> Result<(), DbError> {
    if noted.is_empty() {
        return Ok(());
    }
    let less = |tracking: Tracking| (tracking != Tracking::Full).then(|| tracking.as_str().to_owned());
    let rows = Rows::new().i64("id", noted.iter().map(|row| row.0)).opt_text("tracking", noted.iter().map(|row| less(row.1)).collect());
    tx.bulk("UPDATE delivery SET tracking = v.tracking FROM {rows} WHERE delivery.id = v.id", Vec::new(), rows).await?;
    Ok(())
}

/// Attempt numbers of deliveries that `worker` still holds as claimed.
pub(super) async fn claimed_by(tx: &mut Tx, worker: i64) -> Result<BTreeMap<i64, i64>, DbError> {
    let rows = tx.fetch_all("SELECT id, attempts FROM delivery WHERE worker = $1 AND state = 'claimed' ORDER BY id", args![worker]).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

pub(super) async fn insert_worker(tx: &mut Tx, id: i64, name: &str, now: Time, lease_until: Time) -> Result<(), DbError> {
    tx.execute_one("INSERT INTO worker (id, name, started_at, lease_until) VALUES ($1, $2, $3, $4)", args![id, name, now, lease_until])
        .await
}

/// Whether a worker still has its place, which nobody takes from it before this transaction ends.
pub(super) async fn holds_place(tx: &mut Tx, id: i64) -> Result<bool, DbError> {
    let sql = match tx.dialect() {
        Dialect::Sqlite => "SELECT id FROM worker WHERE id = $1",
        Dialect::Postgres => "SELECT id FROM worker WHERE id = $1 FOR SHARE",
    };
    Ok(tx.fetch_optional(sql, args![id]).await?.is_some())
}

/// Prolongs a lease; false when the worker was declared dead.
pub(super) async fn renew(tx: &mut Tx, id: i64, lease_until: Time) -> Result<bool, DbError> {
    Ok(tx.execute("UPDATE worker SET lease_until = $1 WHERE id = $2", args![lease_until, id]).await? == 1)
}

/// What a worker does now, as it says itself.
pub(super) async fn set_status(tx: &mut Tx, id: i64, status: &str) -> Result<(), DbError> {
    tx.execute("UPDATE worker SET status = $1 WHERE id = $2", args![status, id]).await?;
    Ok(())
}

/// What the workers whose lease holds say of themselves.
pub(super) async fn statuses(db: &mut impl Connection, now: Time) -> Result<Vec<(i64, String)>, DbError> {
    let rows = db.rows("SELECT id, status FROM worker WHERE lease_until >= $1 AND status IS NOT NULL ORDER BY id", args![now]).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// The workers whose lease holds, in the order in which they came.
pub(super) async fn living(db: &mut impl Connection, now: Time) -> Result<Vec<i64>, DbError> {
    let rows = db.rows("SELECT id FROM worker WHERE lease_until >= $1 ORDER BY id", args![now]).await?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// All workers: id, name, lease.
pub(super) async fn workers(db: &mut impl Connection) -> Result<Vec<(i64, String, Time)>, DbError> {
    let rows = db.rows("SELECT id, name, lease_until FROM worker ORDER BY id", Vec::new()).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).collect()
}

/// Takes a worker's place in the table away; false when somebody else did so first, or when its lease
/// was to be over at `over_at` and has been renewed. From this moment it can hand nothing over.
pub(super) async fn remove_worker(tx: &mut Tx, id: i64, over_at: Option<Time>) -> Result<bool, DbError> {
    let over_at = over_at.unwrap_or(Time::from_millis(i64::MAX));
    Ok(tx.execute("DELETE FROM worker WHERE id = $1 AND lease_until < $2", args![id, over_at]).await? == 1)
}

/// Writes one journal row, if the worker still has its lease.
pub(super) async fn journal(tx: &mut Tx, id: i64, worker: i64, entries: &str, now: Time) -> Result<bool, DbError> {
    let lock = match tx.dialect() {
        Dialect::Sqlite => "",
        // Whoever declares this worker dead waits for our commit, and then reads this row.
        Dialect::Postgres => "FOR SHARE",
    };
    let sql = format!("INSERT INTO handover (id, worker, at, entries) SELECT $1, id, $3, $4 FROM worker WHERE id = $2 {lock}");
    Ok(tx.execute(&sql, args![id, worker, now, entries]).await? == 1)
}

/// Writes one journal row, if the worker still has its place and nobody has lost permission since
/// `epoch`. One statement, durable when it returns.
pub(super) async fn journal_at_epoch(db: &Db, id: i64, worker: i64, epoch: i64, entries: &str, now: Time) -> Result<bool, DbError> {
    let sql = match db.dialect() {
        Dialect::Sqlite => {
            "INSERT INTO handover (id, worker, at, entries)
             SELECT $1, w.id, $3, $4 FROM worker w, consent_head h WHERE w.id = $2 AND h.id = 1 AND h.epoch = $5"
        }
        // Whoever declares this worker dead, or takes a permission away, waits for our commit.
        Dialect::Postgres => {
            "INSERT INTO handover (id, worker, at, entries)
             SELECT $1, w.id, $3, $4 FROM worker w, consent_head h WHERE w.id = $2 AND h.id = 1 AND h.epoch = $5
             FOR SHARE"
        }
    };
    Ok(db.execute(sql, args![id, worker, now, entries, epoch]).await? == 1)
}

pub(super) async fn journal_of(tx: &mut Tx, worker: i64) -> Result<Vec<String>, DbError> {
    tx.fetch_all("SELECT entries FROM handover WHERE worker = $1 ORDER BY id", args![worker]).await?.iter().map(|row| row.get(0)).collect()
}

pub(super) async fn drop_journal(tx: &mut Tx, worker: i64, up_to: i64) -> Result<u64, DbError> {
    tx.execute("DELETE FROM handover WHERE worker = $1 AND id <= $2", args![worker, up_to]).await
}

/// Workers that left a journal or claims, but no place in the table (a recovery that was cut short).
pub(super) async fn orphans(db: &mut impl Connection) -> Result<Vec<i64>, DbError> {
    let rows = db
        .rows(
            "SELECT h.worker AS id FROM handover h LEFT JOIN worker w ON w.id = h.worker WHERE w.id IS NULL
             UNION
             SELECT d.worker AS id FROM delivery d LEFT JOIN worker w ON w.id = d.worker WHERE d.state = 'claimed' AND w.id IS NULL
             ORDER BY id",
            Vec::new(),
        )
        .await?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// How many deliveries of a run are in which state, by mailbox provider.
pub async fn counts_by_provider(db: &mut impl Connection, run_id: i64) -> Result<Vec<(String, State, i64)>, DbError> {
    let rows = db
        .rows(
            "SELECT provider, state, COUNT(*) FROM delivery WHERE run_id = $1 GROUP BY provider, state ORDER BY provider, state",
            args![run_id],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let state: String = row.get(1)?;
            let known =
                State::from_stored(&state).ok_or_else(|| DbError::Unexpected(format!("a delivery is in the unknown state `{state}`")))?;
            Ok((row.get(0)?, known, row.get(2)?))
        })
        .collect()
}

/// The earliest moment at which a delivery of this run is due, if any is.
pub(super) async fn next_due(db: &mut impl Connection, run_id: i64) -> Result<Option<Time>, DbError> {
    let rows = db.rows("SELECT MIN(due_at) FROM delivery WHERE run_id = $1 AND state IN ('due', 'deferred')", args![run_id]).await?;
    rows.first().map_or(Ok(None), |row| row.get(0))
}

/// Whether a worker holds deliveries of this run.
pub(super) async fn any_claimed(db: &mut impl Connection, run_id: i64) -> Result<bool, DbError> {
    let rows = db
        .rows(
            "SELECT d.id FROM worker w JOIN delivery d ON d.worker = w.id AND d.state = 'claimed' WHERE d.run_id = $1 ORDER BY d.id LIMIT 1",
            args![run_id],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// Whether a run has deliveries that are due, deferred, or claimed by a worker. One statement, so that
/// none is overlooked that goes from one to the other meanwhile (a dead worker's claims fall due).
pub(super) async fn any_open(db: &mut impl Connection, run_id: i64) -> Result<bool, DbError> {
    let rows = db
        .rows(
            "SELECT 1 AS open
             WHERE EXISTS (SELECT 1 FROM delivery WHERE run_id = $1 AND state IN ('due', 'deferred'))
               OR EXISTS (
                 SELECT 1 FROM worker w JOIN delivery d ON d.worker = w.id AND d.state = 'claimed' WHERE d.run_id = $1
               )",
            args![run_id],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// Contacts of the next deliveries of a run, for a look before the first mail.
pub(super) async fn sample_contacts(db: &mut impl Connection, run_id: i64, limit: i64) -> Result<Vec<i64>, DbError> {
    let rows = db
        .rows(
            "SELECT contact_id FROM delivery WHERE run_id = $1 AND state IN ('due', 'deferred') ORDER BY provider, due_at, id LIMIT $2",
            args![run_id, limit],
        )
        .await?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// A run's deliveries in one state, for lists: delivery, address, reason, reply, when.
pub async fn in_state(
    db: &mut impl Connection,
    run_id: i64,
    state: State,
    limit: i64,
) -> Result<Vec<(i64, Option<String>, Option<String>, Option<String>, Time)>, DbError> {
    let rows = db
        .rows(
            "SELECT d.id, c.email, d.reason, d.reply, d.changed_at
             FROM delivery d
             LEFT JOIN contact c ON c.id = d.contact_id
             WHERE d.run_id = $1 AND d.state = $2
             ORDER BY d.id
             LIMIT $3",
            args![run_id, state.as_str(), limit],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))).collect()
}

/// Makes a run's doubtful deliveries due again, or settles them as sent.
pub(super) async fn settle_doubtful(tx: &mut Tx, run_id: i64, to: State, now: Time) -> Result<u64, DbError> {
    super::counts::changed(tx, [run_id]).await?;
    tx.execute(
        "UPDATE delivery SET state = $1, due_at = $2, reason = 'released', changed_at = $2 WHERE run_id = $3 AND state = 'in_doubt'",
        args![to.as_str(), now, run_id],
    )
    .await
}

/// What a link needs to know about its delivery: run, contact, topic of the run, state.
pub async fn about(db: &mut impl Connection, delivery_id: i64) -> Result<Option<(i64, i64)>, DbError> {
    let rows = db.rows("SELECT run_id, contact_id FROM delivery WHERE id = $1", vec![Value::from(delivery_id)]).await?;
    rows.first().map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
}

/// A person's latest deliveries: campaign, state, reason, reply, when.
pub async fn of_contact(
    db: &mut impl Connection,
    contact_id: i64,
    limit: i64,
) -> Result<Vec<(String, String, Option<String>, Option<String>, Time)>, DbError> {
    let rows = db
        .rows(
            "SELECT r.campaign, d.state, d.reason, d.reply, d.changed_at
             FROM delivery d
             JOIN run r ON r.id = d.run_id
             WHERE d.contact_id = $1
             ORDER BY d.id DESC
             LIMIT $2",
            args![contact_id, limit],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))).collect()
}
