//! Which limits apply to a mail, and what they say to people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::sql::{self, Buckets};
use super::{Today, cap, now_us, over_on, start_of};
use crate::clock::{DAY, Time};
use crate::config::{Config, Limit, Rate, WarmUp};
use crate::db::{DbError, Tx};

/// Every limit of the configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    pub(super) zone: TimeZone,
    pub(super) all: Limit,
    pub(super) relays: BTreeMap<String, (Limit, Option<WarmUp>)>,
    pub(super) providers: BTreeMap<String, Limit>,
}

/// Mails that somebody would like to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish<'a> {
    /// The run and what its campaign allows itself; `None` for transactional messages.
    pub run: Option<(i64, Limit)>,
    /// The mailbox provider.
    pub provider: &'a str,
    /// The relay that would carry them.
    pub relay: &'a str,
    /// What the provider asked this relay for, beyond the configuration.
    pub asked: Option<Rate>,
}

/// One limit that applies to a wish, with the name of its bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// `all`, `relay:NAME`, `provider:NAME`, `relay:NAME/provider:NAME`, `campaign:RUN`.
    pub name: String,
    /// What it allows today.
    pub limit: Limit,
    /// The relay it speaks of.
    pub relay: Option<String>,
    /// The provider it speaks of.
    pub provider: Option<String>,
    /// The day's number is a warm-up's; the date is when the plan is over.
    pub warm_up: Option<WarmUp>,
}

/// Claims that went back unsent.
#[derive(Debug, Clone, Copy)]
pub struct Returned<'a> {
    /// What they were claimed for.
    pub wish: Wish<'a>,
    /// How many.
    pub mails: u64,
    /// The `now` of the claim.
    pub claimed_at: Time,
}

/// A limit that holds mails back at the moment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Wait {
    /// The bucket's name, see [`Scope::name`].
    pub scope: String,
    /// The provider it speaks of.
    pub provider: Option<String>,
    /// The relay it speaks of.
    pub relay: Option<String>,
    /// `rate`, `day` or `warm-up`.
    pub reason: &'static str,
    /// When mails go on.
    pub until: Time,
    /// Where the reason is a rate: which.
    pub rate: Option<Rate>,
    /// Where the reason is a day's number: which.
    pub per_day: Option<u64>,
    /// [`Wait::until`] as people read it, in the zone of the instance.
    until_local: String,
}

impl Limits {
    /// What the configuration says. Fails when its zone is unknown, which its check has ruled out.
    pub fn new(config: &Config) -> Result<Self, String> {
        let zone = TimeZone::get(&config.delivery.timezone.value).map_err(|error| error.to_string())?;
        let relays = config.relays.iter().map(|relay| (relay.name.clone(), (relay.limit, relay.warm_up.clone()))).collect();
        let providers = config.providers.iter().map(|(name, provider)| (name.clone(), provider.limit)).collect();
        Ok(Limits { zone, all: config.limits, relays, providers })
    }

    /// The day in which `now` lies.
    pub fn today(&self, now: Time) -> Today {
        Today::new(now, &self.zone)
    }

    /// The limits that apply to a wish, none where nothing is limited. A mail is debited from all of
    /// them.
    pub fn scopes(&self, wish: &Wish<'_>, today: &Today) -> Vec<Scope> {
        let mut scopes = Vec::new();
        let mut add = |name: String, limit: Limit, relay: Option<&str>, provider: Option<&str>, warm_up: Option<&WarmUp>| {
            if !limit.is_none() {
                let (relay, provider) = (relay.map(str::to_owned), provider.map(str::to_owned));
                scopes.push(Scope { name, limit, relay, provider, warm_up: warm_up.cloned() });
            }
        };
        add("all".to_owned(), self.all, None, None, None);
        let (relay, provider) = (wish.relay, wish.provider);
        let (of_relay, warm_up) = self.relays.get(relay).map_or((Limit::default(), None), |(limit, plan)| (*limit, plan.as_ref()));
        add(format!("relay:{relay}"), of_relay, Some(relay), None, None);
        if let Some(limit) = self.providers.get(provider) {
            add(format!("provider:{provider}"), *limit, None, Some(provider), None);
        }
        let per_day = warm_up.and_then(|plan| cap(plan, today.date));
        let both = Limit { rate: wish.asked, per_day };
        add(format!("relay:{relay}/provider:{provider}"), both, Some(relay), Some(provider), warm_up.filter(|_| per_day.is_some()));
        if let Some((run, limit)) = wish.run {
            add(format!("campaign:{run}"), limit, None, None, None);
        }
        scopes
    }

    /// The names of all buckets that these wishes need: what [`super::load`] takes.
    pub fn names(&self, wishes: &[Wish<'_>], now: Time) -> BTreeSet<String> {
        let today = self.today(now);
        wishes.iter().flat_map(|wish| self.scopes(wish, &today)).map(|scope| scope.name).collect()
    }

    /// How many mails of a wish may leave now; [`u64::MAX`] where nothing is limited.
    pub fn allowed(&self, buckets: &Buckets, wish: &Wish<'_>, now: Time) -> u64 {
        let today = self.today(now);
        let scopes = self.scopes(wish, &today);
        scopes.iter().map(|scope| buckets.get(&scope.name).available(&scope.limit, now, &today)).min().unwrap_or(u64::MAX)
    }

    /// The most mails of a wish that rates let leave at one moment; [`u64::MAX`] without any. More need
    /// not wait claimed: a relay that was slow would get them all at once, beyond the rate.
    pub fn most_at_once(&self, wish: &Wish<'_>, now: Time) -> u64 {
        let scopes = self.scopes(wish, &self.today(now));
        scopes.iter().filter_map(|scope| scope.limit.rate.map(super::burst)).min().unwrap_or(u64::MAX)
    }

    /// Debits as many mails of a wish as may leave, `wanted` at most, from all its limits together.
    /// Answers how many. The buckets must have been loaded for this wish.
    pub fn take(&self, buckets: &mut Buckets, wish: &Wish<'_>, wanted: u64, now: Time) -> u64 {
        let today = self.today(now);
        let granted = wanted.min(self.allowed(buckets, wish, now));
        if granted > 0 {
            for scope in self.scopes(wish, &today) {
                buckets.change(&scope.name, |bucket| bucket.take(&scope.limit, granted, now, &today));
            }
        }
        granted
    }

    /// Credits mails that were taken at this `now` and are not sent after all.
    pub fn credit(&self, buckets: &mut Buckets, wish: &Wish<'_>, mails: u64, now: Time) {
        let today = self.today(now);
        for scope in self.scopes(wish, &today) {
            buckets.change(&scope.name, |bucket| bucket.give_back(&scope.limit, mails, now, &today));
        }
    }

    /// Debits mails that leave whatever the limits say: others wait the longer.
    pub fn debit(&self, buckets: &mut Buckets, wish: &Wish<'_>, mails: u64, now: Time) {
        let today = self.today(now);
        for scope in self.scopes(wish, &today) {
            buckets.change(&scope.name, |bucket| bucket.take(&scope.limit, mails, now, &today));
        }
    }

    /// When so many mails of a wish (of a burst at most) may leave, as far as it is known now. For a
    /// worker that has nothing else to do: asking earlier is in vain.
    pub fn next_at(&self, buckets: &Buckets, wish: &Wish<'_>, mails: u64, now: Time) -> Time {
        let today = self.today(now);
        let scopes = self.scopes(wish, &today);
        scopes.iter().map(|scope| buckets.get(&scope.name).next_at(&scope.limit, mails, now, &today)).max().unwrap_or(now)
    }

    /// Credits claims that went back unsent, in the transaction that returns them. Without limits it
    /// does nothing.
    pub async fn give_back(&self, tx: &mut Tx, returned: &[Returned<'_>]) -> Result<(), DbError> {
        let names = returned.iter().flat_map(|back| self.names(&[back.wish], back.claimed_at)).collect();
        let mut buckets = sql::load(tx, &names).await?;
        for back in returned {
            let claimed_on = self.today(back.claimed_at);
            for scope in self.scopes(&back.wish, &claimed_on) {
                buckets.change(&scope.name, |bucket| bucket.give_back(&scope.limit, back.mails, back.claimed_at, &claimed_on));
            }
        }
        sql::store(tx, &mut buckets).await
    }

    /// What holds these wishes back, for people; each limit once. A rate is named while it is being
    /// used up, a day once it is.
    pub fn waits(&self, buckets: &Buckets, wishes: &[Wish<'_>], now: Time) -> Vec<Wait> {
        let today = self.today(now);
        let mut waits: BTreeMap<String, Wait> = BTreeMap::new();
        for scope in wishes.iter().flat_map(|wish| self.scopes(wish, &today)) {
            let bucket = buckets.get(&scope.name);
            let spent = scope.limit.per_day.filter(|per_day| *per_day <= bucket.used_on(&today));
            let busy = scope.limit.rate.filter(|_| bucket.spent_until > now_us(now));
            let (reason, until) = match (spent, busy, &scope.warm_up) {
                (Some(_), _, Some(plan)) if today.date < plan.start => ("warm-up", start_of(plan.start, &self.zone)),
                (Some(_), _, Some(_)) => ("warm-up", today.ends_at),
                (Some(_), _, None) => ("day", today.ends_at),
                (None, Some(_), _) => ("rate", bucket.next_at(&scope.limit, 1, now, &today)),
                (None, None, _) => continue,
            };
            let wait = Wait {
                until_local: self.shown(until, now),
                provider: scope.provider,
                relay: scope.relay,
                reason,
                until,
                rate: busy.filter(|_| spent.is_none()),
                per_day: spent,
                scope: scope.name.clone(),
            };
            waits.insert(scope.name, wait);
        }
        waits.into_values().collect()
    }

    /// The day on which a relay's warm-up is over; `None` without one.
    pub fn warm_until(&self, relay: &str) -> Option<Date> {
        self.relays.get(relay)?.1.as_ref().and_then(over_on)
    }

    /// `00:00 UTC`; with its date where that is not clear.
    fn shown(&self, time: Time, now: Time) -> String {
        let format = if time.since(now) > DAY { "%Y-%m-%d %H:%M" } else { "%H:%M" };
        let zone = self.zone.iana_name().unwrap_or("UTC");
        format!("{} {zone}", self.zone.to_datetime(time.timestamp()).strftime(format))
    }
}

/// `gmail at 20/min`; `all mail: 50,000 a day reached, goes on at 00:00 UTC`
impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match (&self.provider, &self.relay) {
            (Some(provider), Some(relay)) => format!("{provider} through {relay}"),
            (Some(provider), None) => provider.clone(),
            (None, Some(relay)) => format!("relay {relay}"),
            (None, None) if self.scope == "all" => "all mail".to_owned(),
            (None, None) => "this campaign".to_owned(),
        };
        let until = &self.until_local;
        match (self.rate, self.per_day, self.reason) {
            (Some(rate), _, _) => write!(f, "{who} at {rate}"),
            (None, Some(0), "warm-up") => write!(f, "{who}: its warm-up begins at {until}"),
            (None, Some(per_day), "warm-up") => write!(f, "{who}: {} a day of its warm-up reached, goes on at {until}", thousands(per_day)),
            (None, per_day, _) => write!(f, "{who}: {} a day reached, goes on at {until}", thousands(per_day.unwrap_or(0))),
        }
    }
}

/// `50,000`
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join(",")
}
