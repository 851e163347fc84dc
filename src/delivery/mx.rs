//! Which provider is behind a domain that the table does not know: its MX tells.
//!
//! Companies' domains on Google Workspace or Exchange Online belong to groups that judge us over all of
//! them. Look-ups are a help and never a condition: few at a time, beside the sending, quiet when there
//! is no network. A wrong or missing answer costs a mail nothing; its domain counts as `other`.

mod dns;

use std::collections::HashMap;

use super::provider::{OTHER, Providers, domain_of};
use crate::args;
use crate::clock::{DAY, Time};
use crate::db::{Db, DbError, Rows};

pub use dns::{Answer, Resolver};

/// Look-ups of one call: at the time-out of each, with all under way at once, a call ends within seconds.
const LOOKUPS: usize = 50;
/// Contacts read by one call: a million are seen within a hundred calls, each a range of the primary key.
const CONTACTS: i64 = 10_000;
/// Domains counted at a time; beyond that those with one address are dropped (some 10 MB).
const MAX_COUNTED: usize = 100_000;
/// Domains kept in memory, the last looked up first (some 10 MB).
const MAX_LOADED: i64 = 100_000;
/// An answer, also that there is no MX, is asked for again after so long, in milliseconds.
const REFRESH_MS: i64 = 7 * DAY;

/// Goes through the contacts once, then follows the new ones; one for each process.
#[derive(Debug, Default)]
pub struct Learner {
    /// The last contact that was counted.
    after: i64,
    /// Addresses of each domain that waits for a look-up.
    waiting: HashMap<String, u32>,
}

/// What one call of [`Learner::learn`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Learned {
    /// Contacts read.
    pub contacts: usize,
    /// Domains that got an answer, no MX included.
    pub answered: usize,
    /// Domains whose look-up failed; they are tried again later.
    pub failed: usize,
}

impl Learned {
    /// Nothing was left to do: the next call can wait for minutes.
    pub fn is_idle(self) -> bool {
        self.contacts == 0 && self.answered == 0
    }
}

impl Learner {
    /// Counts the next contacts' domains, looks up those with most addresses and those whose answer is
    /// old, stores the answers and hands them to `providers`. Call it now and then beside the sending.
    pub async fn learn(&mut self, db: &Db, providers: &Providers, resolver: &Resolver, now: Time) -> Result<Learned, DbError> {
        let contacts = self.count(db, providers).await?;
        let mut domains = self.candidates(db, now).await?;
        let stale = db
            .fetch_all(
                "SELECT domain FROM domain_provider WHERE looked_at < $1 ORDER BY looked_at, domain LIMIT $2",
                args![now.plus(-REFRESH_MS), (LOOKUPS - domains.len()) as i64],
            )
            .await?;
        for row in stale {
            domains.push(row.get(0)?);
        }
        let answers = resolver.mail_exchangers(domains).await;
        let mut learned = Learned { contacts, ..Learned::default() };
        let mut rows: Vec<(String, String, String)> = Vec::new();
        for (domain, answer) in answers {
            let hosts = match answer {
                Answer::Hosts(hosts) => hosts,
                Answer::Nothing => Vec::new(),
                Answer::Failed => {
                    learned.failed += 1;
                    continue;
                }
            };
            learned.answered += 1;
            self.waiting.remove(&domain);
            let provider = hosts.iter().find_map(|host| providers.by_mx(host)).unwrap_or(OTHER).to_owned();
            rows.push((domain, provider, hosts.into_iter().next().unwrap_or_default()));
        }
        if learned.failed > 0 && learned.answered == 0 {
            tracing::debug!(failed = learned.failed, "no name server answers; domains stay with `other`");
        }
        store(db, &rows, now).await?;
        providers.remember(rows.into_iter().map(|(domain, provider, _)| (domain, provider)));
        Ok(learned)
    }

    async fn count(&mut self, db: &Db, providers: &Providers) -> Result<usize, DbError> {
        let rows = db.fetch_all("SELECT id, email FROM contact WHERE id > $1 ORDER BY id LIMIT $2", args![self.after, CONTACTS]).await?;
        for row in &rows {
            self.after = row.get(0)?;
            let email: String = row.get(1)?;
            let domain = domain_of(&email).to_lowercase();
            if !providers.knows(&domain) {
                *self.waiting.entry(domain).or_default() += 1;
            }
        }
        if self.waiting.len() > MAX_COUNTED {
            self.waiting.retain(|_, addresses| *addresses > 1);
        }
        Ok(rows.len())
    }

    /// The waiting domains with most addresses, without those that have a fresh answer.
    async fn candidates(&mut self, db: &Db, now: Time) -> Result<Vec<String>, DbError> {
        let mut by_count: Vec<(u32, &String)> = self.waiting.iter().map(|(domain, addresses)| (*addresses, domain)).collect();
        by_count.sort_unstable_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
        let asked: Vec<String> = by_count.into_iter().take(20 * LOOKUPS).map(|(_, domain)| domain.clone()).collect();
        let mut tx = db.begin_read().await?;
        let fresh = tx
            .bulk_fetch(
                "SELECT d.domain FROM {rows} JOIN domain_provider d ON d.domain = v.domain WHERE d.looked_at >= $1",
                args![now.plus(-REFRESH_MS)],
                Rows::new().text("domain", asked.iter().cloned()),
            )
            .await?;
        tx.rollback().await?;
        for row in fresh {
            let domain: String = row.get(0)?;
            self.waiting.remove(&domain);
        }
        Ok(asked.into_iter().filter(|domain| self.waiting.contains_key(domain)).take(LOOKUPS).collect())
    }
}

/// What was learned before: domain to provider, for [`Providers::remember`]. Bounded; the last looked up
/// come first.
pub async fn load(db: &Db) -> Result<HashMap<String, String>, DbError> {
    let rows = db
        .fetch_all(
            "SELECT domain, provider FROM domain_provider WHERE provider <> $1 ORDER BY looked_at DESC, domain LIMIT $2",
            args![OTHER, MAX_LOADED],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

async fn store(db: &Db, rows: &[(String, String, String)], now: Time) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut tx = db.begin().await?;
    tx.bulk(
        "INSERT INTO domain_provider (domain, provider, mx, looked_at)
         SELECT v.domain, v.provider, v.mx, $1 FROM {rows} WHERE TRUE
         ON CONFLICT (domain) DO UPDATE SET provider = excluded.provider, mx = excluded.mx, looked_at = excluded.looked_at",
        args![now],
        Rows::new()
            .text("domain", rows.iter().map(|row| row.0.clone()))
            .text("provider", rows.iter().map(|row| row.1.clone()))
            .text("mx", rows.iter().map(|row| row.2.clone())),
    )
    .await?;
    tx.commit().await
}
