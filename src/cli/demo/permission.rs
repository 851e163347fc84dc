//! Two visitors of the shop, by the pages and mails that everybody gets: subscribing, the welcome with its code,
//! one mail a week, erasure; and the ledger that remembers all of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::visitors::{Browser, links};
use crate::cli::Context;
use crate::cli::out::Failure;
use crate::consent::{self, checkpoint::Signer};
use crate::instance::Instance;
use crate::web::inbox::Inbox;
use crate::worker;

/// The form and the topic of the example instance, and the pool that its welcome gives codes from.
const FORM: &str = "/subscribe/tea";
const TOPIC: &str = "tea-letter";
const POOL: &str = "first-cup";
const CODES: [&str; 2] = ["LEAF-7K2M", "LEAF-9P4T"];
/// Who comes by. The addresses belong to nobody (RFC 2606).
const WEEKLY: &str = "olive@mail.example";
const ERASED: &str = "bo@mail.example";
/// A mail of this machine to itself is there within a second; something is wrong after so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks into the inbox.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What came of it.
#[derive(Debug, serde::Serialize)]
pub(super) struct Story {
    /// People who confirmed and were welcomed, each with a code.
    welcomed: usize,
    /// People who asked for one mail a week.
    weekly: usize,
    /// People who erased themselves.
    erased: usize,
    /// Entries of the ledger.
    entries: i64,
    /// Whether the ledger is whole, and where people stand is what it says.
    whole: bool,
}

/// Lets them come by while the worker keeps the house.
pub(super) async fn show(context: &Context, instance: &Arc<Instance>, inbox: &Inbox, address: SocketAddr) -> Result<Story, Failure> {
    let mut tx = instance.db.begin().await?;
    consent::coupons::import(&mut tx, POOL, CODES.map(str::to_owned).to_vec()).await?;
    tx.commit().await?;
    let (stop, stopped) = watch::channel(false);
    let working = tokio::spawn(worker::work(instance.clone(), stopped));
    let visited = visits(context, instance, inbox, address).await;
    let _ = stop.send(true);
    let worked = working.await;
    visited?;
    worked.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;

    let mut tx = instance.db.begin_read().await?;
    let found = consent::ledger::verify(&mut tx, &[], Signer::new(&instance.keys).known()).await?;
    let folded = consent::ledger::rebuild(&mut tx, false).await?;
    tx.rollback().await?;
    let whole = found.valid && folded.differing == 0;
    let verdict = if whole { "whole" } else { "broken" };
    context.out.say(format!("The ledger is {verdict}: {} entries, each chained to the one before.\n", found.events));
    Ok(Story { welcomed: 2, weekly: 1, erased: 1, entries: found.events, whole })
}

async fn visits(context: &Context, instance: &Arc<Instance>, inbox: &Inbox, address: SocketAddr) -> Result<(), Failure> {
    let mut browser = Browser::connect(address).await?;
    let (mut preferences, mut erasing) = (String::new(), String::new());
    for (visitor, settings) in [(WEEKLY, &mut preferences), (ERASED, &mut erasing)] {
        let form = browser.page(FORM).await?;
        let wording = form.split("name=\"wording\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        browser.post(FORM, &format!("email={}&topic={TOPIC}&wording={wording}", visitor.replace('@', "%40"))).await?;
        let question = link_for(inbox, visitor, "/s/").await?;
        browser.get(&question).await?;
        browser.post(&question, "confirm=1").await?;
        *settings = link_for(inbox, visitor, "/p/").await?;
    }
    let codes = consent::coupons::latest(&mut instance.db.clone(), POOL, CODES.len() as i64).await?;
    let codes: Vec<&str> = codes.iter().rev().map(|given| given.code.as_str()).collect();
    context
        .out
        .say(format!("Two visitors subscribed by the form and confirmed by mail; each welcome brought a code ({}).", codes.join(", ")));
    let topics = consent::ops::topics(&mut instance.db.clone()).await?;
    let topic = topics.into_iter().find(|(_, name)| name == TOPIC).map_or(0, |(id, _)| id);
    let choice = format!("shown={topic}&topic={topic}&was.often.{topic}=every&often.{topic}=weekly&save=1");
    browser.post(&preferences, &choice).await?;
    context.out.say("On her settings page, one asked for a single mail a week instead of leaving.");
    browser.post(&format!("{erasing}/data"), "action=erase").await?;
    let erase = link_for(inbox, ERASED, "/r/").await?;
    browser.get(&erase).await?;
    browser.post(&erase, "confirm=1").await?;
    context.out.say("The other erased himself, by a link that only his mailbox got: nothing here names him any more.");
    Ok(())
}

/// The path of a link in the newest mail to somebody that has one; waits for it.
async fn link_for(inbox: &Inbox, to: &str, prefix: &str) -> Result<String, Failure> {
    let look = async {
        loop {
            let mails = inbox.messages();
            let theirs = mails.iter().filter(|mail| mail.to.iter().any(|address| address == to));
            let found = theirs.max_by_key(|mail| mail.id).and_then(|mail| links(mail).into_iter().find(|path| path.starts_with(prefix)));
            match found {
                Some(path) => return path,
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, look).await;
    found.map_err(|_| Failure::Failed(anyhow::anyhow!("no mail with such a link came within {} seconds", PATIENCE.as_secs())))
}
