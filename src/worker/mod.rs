//! The loop: bounded activities that may run twice, woken by time. Each reads what the stage before
//! it committed, so any of them can stop anywhere and be run again.

mod audience;
mod digests;
mod house;
mod lease;
mod ledger;
mod process;
mod questions;
mod responses;
mod retention;
mod runs;
mod schedules;
mod segments;
mod send;
mod sender;
mod station;
mod welcomes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::campaign::ops::CommandError;
use crate::clock::Time;
use crate::contact::Contact;
use crate::db::DbError;
use crate::instance::Instance;

pub use process::{name as process_name, runs as process_runs};
pub use runs::{prepare_context, render_again, start_run};
pub use send::{Scope, Standing, Worker};

use runs::definition_of;

/// How often the loop looks for work: a pause or a cancellation is noticed within that time.
const TICK: Duration = Duration::from_millis(250);

/// Why a run does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something is wrong that a person must mend; says what.
    #[error("{0}")]
    Refused(String),
    /// The run cannot take this command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Runs everything that is not a page until `stop` turns true: recovery, schedules, runs, messages.
pub async fn work(instance: Arc<Instance>, mut stop: watch::Receiver<bool>) -> Result<(), RunError> {
    let worker = Worker::start(instance.clone(), Scope::All, stop.clone()).await?;
    let housekeeping = tokio::spawn(house::keep(instance.clone(), worker.place(), stop.clone()));
    let mut said = false;
    while !*stop.borrow() {
        match worker.step().await {
            Ok(()) => said = false,
            Err(error) if !said => {
                said = true;
                tracing::warn!(error = &error as &dyn std::error::Error, "this round failed; the next one tries again");
            }
            Err(_) => {}
        }
        rest(&mut stop).await;
    }
    if let Err(error) = housekeeping.await {
        tracing::error!(%error, "the schedules ended early");
    }
    worker.stop().await
}

/// Does something now and then while this node keeps the house (`holds`), until the process stops. Work that is
/// cut off or fails is left to the next time; `failed` says so in the log.
async fn while_keeping_house<W, E>(
    [first, every]: [Duration; 2],
    holds: &AtomicBool,
    stop: &mut watch::Receiver<bool>,
    failed: &'static str,
    work: impl Fn() -> W,
) where
    W: Future<Output = Result<(), E>>,
    E: std::error::Error + 'static,
{
    let rounds = async {
        tokio::time::sleep(first).await;
        loop {
            if holds.load(Ordering::Acquire)
                && let Err(error) = work().await
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "{failed}; the next round tries again");
            }
            tokio::time::sleep(every).await;
        }
    };
    tokio::select! {
        () = rounds => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Until the next look, or until somebody says stop.
async fn rest(stop: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(TICK) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// A moment's day where the person lives (UTC where that is not known), as ISO 8601.
fn local_day(person: &Contact, at: Time) -> String {
    let zone = person.timezone.as_deref().and_then(|name| jiff::tz::TimeZone::get(name).ok()).unwrap_or(jiff::tz::TimeZone::UTC);
    at.timestamp().to_zoned(zone).date().to_string()
}
