//! How many requests forms take, and what a client has to show when many come: the rows of `form_bucket`.
//!
//! Each limit is a bucket by GCRA (ITU-T I.371, annex A; see `delivery/limit.rs`), read and debited in one
//! transaction, so that it holds for all nodes together. A request falls under three: that of the client (an
//! IPv4 address, an IPv6 /64), that of the email address, that of all together. What one of them refuses
//! debits none, so whoever floods one address or comes from one client uses up nothing of the others.
//!
//! The limit of all is divided: most of it is for everybody, a part only for those who solved a challenge, a
//! small part for those who waited for lack of a script. While many bots ask, people still come through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::args;
use crate::clock::{HOUR, SECOND, Time};
use crate::config::{Challenge, FormLimits, Rate};
use crate::db::{Connection, Db, DbError, Dialect, Row, Rows, Tx};
use crate::token::Keys;

/// Shares of the limit of all, in hundredths: for everybody, after a solved challenge, after waiting.
const EVERYBODY: u64 = 80;
const SOLVED: u64 = 15;
const WAITED: u64 = 5;
/// A limit of all lets this part of its time through at once: a link in a large mail brings many in a minute.
const BURST_PART: u64 = 10;
/// From this part of a limit on, `auto` asks for a challenge: one half.
const BUSY_PART: i64 = 2;
/// How long a challenge may be solved: as long as somebody takes to fill in a form.
pub const CHALLENGE_MS: i64 = 2 * HOUR;
/// How long somebody without a script waits instead: as long as a slow phone would compute.
pub const WAIT_MS: i64 = 15 * SECOND;

/// Microseconds of a millisecond.
const MILLI_US: i64 = 1_000;

/// What a client showed beside its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    None,
    /// The solution of the challenge of this name: good once.
    Solved(String),
    /// It waited until the time of the ticket of this name: good once.
    Waited(String),
}

/// Who asks for what.
#[derive(Debug, Clone)]
pub struct Asker<'a> {
    /// The client's IP address.
    pub client: Option<&'a str>,
    /// The email address it is about, as compared.
    pub address_key: &'a str,
    /// What it showed.
    pub proof: Proof,
}

/// Which limit holds somebody back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// That of the client.
    Client,
    /// That of the email address.
    Address,
    /// That of all together.
    All,
}

/// Whether a request may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It may, and is debited.
    Admitted,
    /// Only with a proof; nothing was debited.
    Prove,
    /// Not now; nothing was debited.
    TooMany {
        /// By which limit.
        which: Which,
        /// When it may, in seconds from now, at least 1.
        retry_seconds: i64,
    },
}

/// A limit with its name.
struct Bucket {
    name: String,
    rate: Rate,
    /// Requests at once.
    burst: u64,
}

impl Bucket {
    /// Microseconds of one request at the rate, rounded up.
    fn cost(&self) -> i64 {
        let micros = u128::from(self.rate.per_seconds) * 1_000_000;
        i64::try_from(micros.div_ceil(u128::from(self.rate.mails.max(1)))).unwrap_or(i64::MAX)
    }

    /// How far requests may run ahead of the rate, in microseconds.
    fn room(&self) -> i64 {
        self.cost().saturating_mul(i64::try_from(self.burst).unwrap_or(i64::MAX))
    }

    /// Seconds until one more fits; 0: now.
    fn wait_seconds(&self, spent_until: i64, now_us: i64) -> i64 {
        let over = spent_until.max(now_us).saturating_add(self.cost()).saturating_sub(now_us.saturating_add(self.room()));
        if over <= 0 { 0 } else { over.saturating_add(999_999) / 1_000_000 }
    }

    /// Whether so much of it is used that requests are no longer as usual.
    fn is_busy(&self, spent_until: i64, now_us: i64) -> bool {
        spent_until.saturating_sub(now_us) >= self.room() / BUSY_PART
    }
}

/// The limits of an instance under the names of its keys.
pub struct Limits<'a> {
    limits: &'a FormLimits,
    key: [u8; 32],
}

impl<'a> Limits<'a> {
    /// Names are digests under a key of the instance: the table tells nobody who asked.
    pub fn new(limits: &'a FormLimits, keys: &Keys) -> Self {
        Limits { limits, key: keys.derive("form buckets") }
    }

    fn digest(&self, kind: &str, text: &str) -> String {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key).expect("any key length works");
        mac.update(text.as_bytes());
        // 128 bits: two clients never meet.
        format!("{kind}:{}", super::ledger::hex(&mac.finalize().into_bytes()[..16]))
    }

    /// Clients whose address is not known share one bucket.
    fn client(&self, client: Option<&str>) -> Bucket {
        let network = match client.and_then(|text| text.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical()) {
            // One household or server has a /64 and can take any address in it.
            Some(IpAddr::V6(ip)) => ip.segments()[..4].iter().map(|part| format!("{part:04x}")).collect(),
            Some(IpAddr::V4(ip)) => ip.to_string(),
            None => String::new(),
        };
        Bucket { name: self.digest("client", &network), rate: self.limits.per_client, burst: u64::from(self.limits.burst) }
    }

    fn address(&self, address_key: &str) -> Bucket {
        let rate = self.limits.per_address;
        Bucket { name: self.digest("address", address_key), rate, burst: rate.mails.min(u64::from(self.limits.burst)) }
    }

    fn part_of_all(&self, name: &str, hundredths: u64) -> Bucket {
        let all = self.limits.all;
        let rate = Rate { mails: all.mails.saturating_mul(hundredths), per_seconds: all.per_seconds.saturating_mul(100) };
        let burst = (all.mails / BURST_PART).max(u64::from(self.limits.burst)).saturating_mul(hundredths) / 100;
        Bucket { name: name.to_owned(), rate, burst: burst.max(1) }
    }

    /// Whether a form shown to this client should bring its challenge along. Writes nothing.
    pub async fn wants_proof(&self, db: &Db, client: Option<&str>, now: Time) -> Result<bool, DbError> {
        match self.limits.challenge {
            Challenge::Off => Ok(false),
            Challenge::Always => Ok(true),
            Challenge::Auto => {
                let (client, all) = (self.client(client), self.part_of_all("all", EVERYBODY));
                let rows = db
                    .clone()
                    .rows("SELECT name, spent_until FROM form_bucket WHERE name IN ($1, $2) ORDER BY name", args![&client.name, &all.name])
                    .await?;
                let spent = spent(&rows)?;
                Ok(self.is_busy(&spent, &client, &all, now))
            }
        }
    }

    fn is_busy(&self, spent: &BTreeMap<String, i64>, client: &Bucket, all: &Bucket, now: Time) -> bool {
        let busy = |bucket: &Bucket| bucket.is_busy(spent.get(&bucket.name).copied().unwrap_or(0), now_us(now));
        busy(client) || busy(all)
    }

    /// Lets a request of a form in, or says what it lacks, in a transaction of its own: whatever becomes of
    /// the request, it counts.
    pub async fn admit(&self, db: &Db, asker: &Asker<'_>, now: Time) -> Result<Admission, DbError> {
        let (client, address) = (self.client(asker.client), self.address(asker.address_key));
        let [all, solved, waited] =
            [("all", EVERYBODY), ("solved", SOLVED), ("waited", WAITED)].map(|(name, share)| self.part_of_all(name, share));
        let ticket = match &asker.proof {
            Proof::None => None,
            Proof::Solved(name) | Proof::Waited(name) => Some(self.digest("used", name)),
        };
        let mut names: BTreeSet<String> = [&client, &address, &all, &solved, &waited].iter().map(|bucket| bucket.name.clone()).collect();
        names.extend(ticket.clone());
        let mut tx = db.begin().await?;
        let spent = load(&mut tx, &names).await?;
        let at = |bucket: &Bucket| spent.get(&bucket.name).copied().unwrap_or(0);
        let wait = |bucket: &Bucket| bucket.wait_seconds(at(bucket), now_us(now));
        for (bucket, which) in [(&address, Which::Address), (&client, Which::Client)] {
            let retry_seconds = wait(bucket);
            if retry_seconds > 0 {
                return Ok(Admission::TooMany { which, retry_seconds });
            }
        }
        let fresh = ticket.as_ref().is_some_and(|name| spent.get(name).is_none_or(|until| *until == 0));
        let needed = match self.limits.challenge {
            Challenge::Off => false,
            Challenge::Always => true,
            Challenge::Auto => self.is_busy(&spent, &client, &all, now),
        };
        let open: &[&Bucket] = match (&asker.proof, fresh) {
            (Proof::Solved(_), true) => &[&all, &solved],
            (Proof::Waited(_), true) if needed => &[&waited],
            _ if needed => return Ok(Admission::Prove),
            _ => &[&all],
        };
        let Some(part) = open.iter().find(|bucket| wait(bucket) == 0) else {
            let retry_seconds = open.iter().map(|bucket| wait(bucket)).min().unwrap_or(1);
            // When everybody's share is gone, a challenge opens another one.
            let closed = asker.proof == Proof::None && self.limits.challenge != Challenge::Off;
            return Ok(if closed { Admission::Prove } else { Admission::TooMany { which: Which::All, retry_seconds } });
        };
        let mut changed: Vec<(String, i64)> = [&client, &address, part]
            .iter()
            .map(|bucket| (bucket.name.clone(), at(bucket).max(now_us(now)).saturating_add(bucket.cost())))
            .collect();
        changed.extend(ticket.filter(|_| fresh).map(|name| (name, now_us(now.plus(CHALLENGE_MS)))));
        store(&mut tx, changed, now).await?;
        tx.commit().await?;
        Ok(Admission::Admitted)
    }

    /// The same for a program with a token, in its transaction: how much it may ask is its owner's affair, but
    /// nobody is flooded through it, neither one address nor by one client (where it says which).
    pub async fn admit_program(&self, tx: &mut Tx, client: Option<&str>, address_key: &str, now: Time) -> Result<Admission, DbError> {
        let mut buckets = vec![(self.address(address_key), Which::Address)];
        if client.is_some() {
            buckets.push((self.client(client), Which::Client));
        }
        let spent = load(tx, &buckets.iter().map(|(bucket, _)| bucket.name.clone()).collect()).await?;
        let at = |bucket: &Bucket| spent.get(&bucket.name).copied().unwrap_or(0);
        for (bucket, which) in &buckets {
            let retry_seconds = bucket.wait_seconds(at(bucket), now_us(now));
            if retry_seconds > 0 {
                return Ok(Admission::TooMany { which: *which, retry_seconds });
            }
        }
        let changed =
            buckets.iter().map(|(bucket, _)| (bucket.name.clone(), at(bucket).max(now_us(now)).saturating_add(bucket.cost()))).collect();
        store(tx, changed, now).await?;
        Ok(Admission::Admitted)
    }
}

fn now_us(now: Time) -> i64 {
    now.millis().saturating_mul(MILLI_US)
}

fn spent(rows: &[Row]) -> Result<BTreeMap<String, i64>, DbError> {
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// Reads buckets for a debit: until this transaction ends nobody else reads them so. PostgreSQL cannot lock a
/// row that is not there, so there they are written first, in the order of their names.
async fn load(tx: &mut Tx, names: &BTreeSet<String>) -> Result<BTreeMap<String, i64>, DbError> {
    let sql = match tx.dialect() {
        Dialect::Sqlite => "SELECT b.name, b.spent_until FROM {rows} JOIN form_bucket b ON b.name = v.name",
        Dialect::Postgres => {
            "INSERT INTO form_bucket (name, spent_until, taken_at)
             SELECT v.name, 0, 0 FROM {rows} WHERE TRUE
             ORDER BY v.name
             ON CONFLICT (name) DO UPDATE SET taken_at = form_bucket.taken_at
             RETURNING form_bucket.name, form_bucket.spent_until"
        }
    };
    spent(&tx.bulk_fetch(sql, args![], Rows::new().text("name", names.iter().cloned())).await?)
}

async fn store(tx: &mut Tx, changed: Vec<(String, i64)>, now: Time) -> Result<(), DbError> {
    let (names, spent): (Vec<String>, Vec<i64>) = changed.into_iter().unzip();
    tx.bulk(
        "INSERT INTO form_bucket (name, spent_until, taken_at)
         SELECT v.name, v.spent_until, CAST($1 AS BIGINT) FROM {rows} WHERE TRUE
         ON CONFLICT (name) DO UPDATE SET spent_until = excluded.spent_until, taken_at = excluded.taken_at",
        args![now],
        Rows::new().text("name", names).i64("spent_until", spent),
    )
    .await?;
    Ok(())
}

/// Drops buckets that are as good as new, and tickets whose time is over. Answers how many.
pub async fn forget(tx: &mut Tx, now: Time) -> Result<u64, DbError> {
    tx.execute("DELETE FROM form_bucket WHERE spent_until < $1", args![now_us(now)]).await
}

/// The proof of work: `SHA-256(challenge ":" solution)` begins with so many zero bits.
pub fn solves(challenge: &str, solution: &str, bits: u32) -> bool {
    use sha2::Digest as _;
    let digest = Sha256::digest(format!("{challenge}:{solution}").as_bytes());
    let mut zeros = 0;
    for byte in digest {
        zeros += byte.leading_zeros();
        if byte != 0 {
            break;
        }
    }
    zeros >= bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> FormLimits {
        let per_hour = |mails| Rate { mails, per_seconds: 3_600 };
        FormLimits {
            per_client: per_hour(20),
            per_address: per_hour(5),
            all: per_hour(1_000),
            burst: 10,
            challenge: Challenge::Auto,
            challenge_bits: 8,
        }
    }

    #[test]
    fn neighbours_in_one_network_are_one_client_and_names_tell_nothing() {
        let form_limits = limits();
        let limits = Limits::new(&form_limits, &Keys::new("secret", &[]));
        let name = |ip| limits.client(Some(ip)).name;
        assert_eq!(name("2001:db8:1:2::5"), name("2001:db8:1:2:ffff::1"));
        assert_ne!(name("2001:db8:1:2::5"), name("2001:db8:1:3::5"));
        assert_eq!(name("::ffff:192.0.2.7"), name("192.0.2.7"));
        assert_ne!(name("192.0.2.7"), name("192.0.2.8"));
        assert!(!name("192.0.2.7").contains("192") && !limits.address("mei@tea.example").name.contains("mei"));
        let other = Limits::new(&form_limits, &Keys::new("another", &[]));
        assert_ne!(name("192.0.2.7"), other.client(Some("192.0.2.7")).name);
    }

    #[test]
    fn the_shares_of_all_are_all() {
        assert_eq!(EVERYBODY + SOLVED + WAITED, 100);
    }

    #[test]
    fn a_solution_has_its_zero_bits() {
        let found = (0..100_000).map(|n: u32| n.to_string()).find(|solution| solves("challenge", solution, 10)).expect("one in 1,024");
        assert!(!solves("another", &found, 10) || !solves("third", &found, 10));
        assert!(!solves("challenge", "", 64));
    }

    proptest! {
        #[test]
        fn a_bucket_never_lets_more_through_than_its_rate_and_burst(
            gaps in proptest::collection::vec(0_i64..600_000_000, 1..200), mails in 1_u64..100, burst in 1_u64..20
        ) {
            let bucket = Bucket { name: String::new(), rate: Rate { mails, per_seconds: 3_600 }, burst };
            let (mut now, mut spent, mut let_through) = (0_i64, 0_i64, 0_i64);
            for gap in gaps {
                now += gap;
                if bucket.wait_seconds(spent, now) == 0 {
                    spent = spent.max(now) + bucket.cost();
                    let_through += 1;
                }
            }
            prop_assert!(let_through <= now / bucket.cost() + burst as i64);
        }
    }
}
