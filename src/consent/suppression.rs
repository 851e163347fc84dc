//! Suppression: addresses that get nothing, whatever their standing.
//!
//! Five kinds of entry mean the same: a known address; a domain (`tea.example` is that domain alone,
//! `*.tea.example` also every domain below it); an MD5, SHA-1 or SHA-256 hash of the address as compared, for
//! lists that are passed on without addresses (CAN-SPAM, 15 USC 7704(a)(4)); and the keyed digest of an address
//! whose owner was erased. Whether an address is suppressed is answered by [`look_up`] alone. Keyed digests do
//! not stand in that answer: [`recall`] turns one into a suppressed address as soon as a contact with that
//! address is made again.
//!
//! An entry that expires is deleted by [`expire`], which runs twice a second on the node that keeps the house
//! and before every run; nothing looks at the clock when an address is looked up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Digest, Sha256};

use super::suppression_sql as sql;
use crate::clock::Time;
use crate::contact::import::suppression_entry;
use crate::db::{Connection, Db, DbError, Tx};
use crate::entropy::Entropy;
use crate::token::Keys;

pub use super::suppression_sql::Entry;
pub use crate::contact::import::SuppressionKind as Kind;

/// Why entries are there, as we write it ourselves; a file may say it in other words.
pub mod reason {
    /// Nothing arrives there.
    pub const BOUNCE: &str = "bounce";
    /// Reported a mail as spam.
    pub const COMPLAINT: &str = "complaint";
    /// The person asked for it.
    pub const REQUEST: &str = "request";
    /// From a list that says no more.
    pub const IMPORT: &str = "import";
    /// The person was erased.
    pub const ERASED: &str = "erased";
    /// An operator.
    pub const MANUAL: &str = "manual";
    /// An address of an office, not of a person: `abuse@`, `postmaster@`.
    pub const ROLE: &str = "role";

    /// All of them.
    pub const ALL: [&str; 7] = [BOUNCE, COMPLAINT, REQUEST, IMPORT, ERASED, MANUAL, ROLE];
}

/// An entry about to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// What `value` is.
    pub kind: Kind,
    /// An address as compared, a domain, or a hash in lower-case hex: as [`suppression_entry`] writes it.
    pub value: String,
    /// Why.
    pub reason: String,
    /// Until when; `None`: for good.
    pub expires_at: Option<Time>,
}

/// The keys under which erased addresses are remembered: of the secret and of the retired ones.
#[derive(Clone)]
pub struct Digests(Vec<[u8; 32]>);

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digests({})", self.0.len())
    }
}

impl Digests {
    /// From the instance's secrets.
    pub fn new(keys: &Keys) -> Self {
        Digests(keys.derive_all("suppressed addresses"))
    }

    /// The digest of an address (as compared) under the current secret: HMAC-SHA-256 in hex. Whoever has not
    /// the secret can neither read the address out of it nor try addresses on it.
    pub fn of(&self, email_key: &str) -> String {
        digest(&self.0[0], email_key)
    }

    /// The digests under all secrets, the current one first.
    fn all<'a>(&'a self, email_key: &'a str) -> impl Iterator<Item = String> + 'a {
        self.0.iter().map(move |key| digest(key, email_key))
    }
}

fn digest(key: &[u8; 32], email_key: &str) -> String {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any key length works");
    mac.update(email_key.as_bytes());
    super::ledger::hex(&mac.finalize().into_bytes())
}

/// The hash of an address as a list of that kind holds it; `None` for kinds that are no hash.
pub fn hash(kind: Kind, email_key: &str) -> Option<String> {
    let bytes = email_key.as_bytes();
    match kind {
        Kind::Md5 => Some(super::ledger::hex(&Md5::digest(bytes))),
        Kind::Sha1 => {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
            Some(super::ledger::hex(digest.as_ref()))
        }
        Kind::Sha256 => Some(super::ledger::hex(&Sha256::digest(bytes))),
        Kind::Address | Kind::Domain | Kind::Keyed => None,
    }
}

/// The entries other than its address that suppress an address, of the kinds that there are.
fn rules_for(email_key: &str, kinds: &[Kind]) -> Vec<(Kind, String)> {
    let mut out = Vec::new();
    for kind in kinds {
        match kind {
            Kind::Domain => {
                let domain = email_key.rsplit_once('@').map_or("", |(_, domain)| domain);
                out.push((Kind::Domain, domain.to_owned()));
                let mut rest = Some(domain);
                while let Some(parent) = rest {
                    out.push((Kind::Domain, format!("*.{parent}")));
                    rest = parent.split_once('.').map(|(_, parent)| parent);
                }
            }
            kind => out.extend(hash(*kind, email_key).map(|hash| (*kind, hash))),
        }
    }
    out
}

/// Which of these addresses (as compared) are suppressed, each with the entry that says so: the address's own
/// before one of its domain, and that before a hash. Where there are no domains and no hashes, which one look at
/// the index tells, nothing is computed.
pub async fn look_up<K: AsRef<str> + Sync>(tx: &mut Tx, email_keys: &[K]) -> Result<HashMap<String, Entry>, DbError> {
    let mut found = HashMap::new();
    for entry in sql::addresses(tx, email_keys).await? {
        found.insert(entry.value.clone(), entry);
    }
    by_rules(tx, email_keys, &mut found).await?;
    Ok(found)
}

/// The same for addresses whose own entry was looked up already (joined to something else).
pub async fn look_up_rules<K: AsRef<str> + Sync>(tx: &mut Tx, email_keys: &[K]) -> Result<HashMap<String, Entry>, DbError> {
    let mut found = HashMap::new();
    by_rules(tx, email_keys, &mut found).await?;
    Ok(found)
}

async fn by_rules<K: AsRef<str> + Sync>(tx: &mut Tx, email_keys: &[K], found: &mut HashMap<String, Entry>) -> Result<(), DbError> {
    if email_keys.is_empty() {
        return Ok(());
    }
    let kinds = sql::kinds(tx).await?;
    if kinds.is_empty() {
        return Ok(());
    }
    let mut asked: BTreeMap<(Kind, String), Vec<usize>> = BTreeMap::new();
    for (at, key) in email_keys.iter().enumerate().filter(|(_, key)| !found.contains_key(key.as_ref())) {
        for rule in rules_for(key.as_ref(), &kinds) {
            asked.entry(rule).or_default().push(at);
        }
    }
    let mut entries = sql::rules(tx, asked.keys()).await?;
    entries.sort_by(|a, b| (a.kind, &a.value).cmp(&(b.kind, &b.value)));
    for entry in entries {
        for at in asked.remove(&(entry.kind, entry.value.clone())).unwrap_or_default() {
            found.entry(email_keys[at].as_ref().to_owned()).or_insert_with(|| entry.clone());
        }
    }
    Ok(())
}

/// Whether there is any domain or hash, so that [`look_up`] says more than the table of addresses.
pub async fn any_rules(db: &mut impl Connection) -> Result<bool, DbError> {
    Ok(!sql::kinds(db).await?.is_empty())
}

/// Adds entries; one that is there stays as it is, unless the new one holds longer. Answers how many were new or
/// hold longer now. Whoever they concern gets nothing from here on, also from sends under way.
pub async fn add(tx: &mut Tx, entries: Vec<NewEntry>, source: &str, now: Time) -> Result<u64, DbError> {
    // One of each: the longest. A statement may not touch a row twice.
    let mut unique: BTreeMap<(Kind, String), NewEntry> = BTreeMap::new();
    for entry in entries {
        let key = (entry.kind, entry.value.clone());
        let longer = |old: &NewEntry| old.expires_at.is_some_and(|old| entry.expires_at.is_none_or(|new| new > old));
        if unique.get(&key).is_none_or(longer) {
            unique.insert(key, entry);
        }
    }
    let (addresses, rules): (Vec<NewEntry>, Vec<NewEntry>) = unique.into_values().partition(|entry| entry.kind == Kind::Address);
    let added = sql::add_addresses(tx, addresses, source, now).await? + sql::add_rules(tx, rules, source, now).await?;
    if added > 0 {
        super::sql::move_epoch(tx).await?;
    }
    Ok(added)
}

/// Remembers addresses (as compared) of people who are erased, as digests, and deletes what names them: their
/// own entry, and hashes of their address, whose reason goes on with the digest.
pub async fn remember_erased<K: AsRef<str> + Sync>(
    tx: &mut Tx,
    digests: &Digests,
    email_keys: &[K],
    source: &str,
    now: Time,
) -> Result<(), DbError> {
    let mut entries = Vec::with_capacity(email_keys.len());
    let mut named = Vec::new();
    let own: HashMap<String, Entry> = sql::addresses(tx, email_keys).await?.into_iter().map(|entry| (entry.value.clone(), entry)).collect();
    for key in email_keys {
        let reason = own.get(key.as_ref()).map_or(reason::ERASED, |entry| entry.reason.as_str());
        entries.push(NewEntry { kind: Kind::Keyed, value: digests.of(key.as_ref()), reason: reason.to_owned(), expires_at: None });
        named.push((Kind::Address, key.as_ref().to_owned()));
        named.extend(HASHES.iter().filter_map(|kind| hash(*kind, key.as_ref()).map(|hash| (*kind, hash))));
    }
    sql::add_rules(tx, entries, source, now).await?;
    sql::delete(tx, &named).await?;
    super::sql::move_epoch(tx).await
}

const HASHES: [Kind; 3] = [Kind::Md5, Kind::Sha1, Kind::Sha256];

/// Suppresses those of these addresses (as compared) whose owners were erased before: to be called wherever a
/// contact is made. Answers them. Where nobody was ever erased, which one look at the index tells, nothing is
/// computed.
pub async fn recall<K: AsRef<str> + Sync>(tx: &mut Tx, digests: &Digests, email_keys: &[K], now: Time) -> Result<Vec<String>, DbError> {
    if email_keys.is_empty() || !sql::any_keyed(tx).await? {
        return Ok(Vec::new());
    }
    let mut asked: BTreeMap<(Kind, String), &str> = BTreeMap::new();
    for key in email_keys {
        asked.extend(digests.all(key.as_ref()).map(|digest| ((Kind::Keyed, digest), key.as_ref())));
    }
    let found = sql::rules(tx, asked.keys()).await?;
    let mut recalled = Vec::with_capacity(found.len());
    let mut by_source: BTreeMap<String, Vec<NewEntry>> = BTreeMap::new();
    for entry in found {
        let Some(key) = asked.get(&(Kind::Keyed, entry.value.clone())) else { continue };
        let new = NewEntry { kind: Kind::Address, value: (*key).to_owned(), reason: entry.reason, expires_at: None };
        by_source.entry(entry.source).or_default().push(new);
        recalled.push((*key).to_owned());
    }
    for (source, entries) in by_source {
        add(tx, entries, &source, now).await?;
    }
    Ok(recalled)
}

/// Whether an address (as compared) is of somebody who was erased.
pub async fn were_erased(tx: &mut Tx, digests: &Digests, email_key: &str) -> Result<bool, DbError> {
    let asked: Vec<(Kind, String)> = digests.all(email_key).map(|digest| (Kind::Keyed, digest)).collect();
    Ok(!sql::rules(tx, asked.iter()).await?.is_empty())
}

/// Takes an entry away and keeps in a register that it was there: when, why, who took it away and on whose
/// word (`source`). Of an address the register holds the digest, so that it outlives an erasure; what is
/// remembered of the address from an erasure goes too, or it would come back. Answers what was taken away.
///
/// Other entries may still suppress an address: that of its domain, a hash.
pub async fn remove(
    tx: &mut Tx,
    digests: &Digests,
    entropy: &Entropy,
    (kind, value): (Kind, &str),
    source: &str,
    now: Time,
) -> Result<Vec<Entry>, DbError> {
    let mut asked = vec![(kind, value.to_owned())];
    if kind == Kind::Address {
        asked.extend(digests.all(value).map(|digest| (Kind::Keyed, digest)));
    }
    let removed = sql::delete(tx, &asked).await?;
    let subject = if kind == Kind::Address { digests.of(value) } else { value.to_owned() };
    for entry in &removed {
        sql::note_removal(tx, entropy.id(now), entry, &subject, source, now).await?;
    }
    Ok(removed)
}

/// Something that was taken away: when, its kind and reason, and who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// When.
    pub at: Time,
    /// What it was.
    pub kind: Kind,
    /// Why it had been there.
    pub reason: String,
    /// Since when.
    pub since: Time,
    /// On whose word it was taken away.
    pub source: String,
}

/// What was taken away about an address or another entry, oldest first.
pub async fn removals(db: &mut impl Connection, digests: &Digests, kind: Kind, value: &str) -> Result<Vec<Removal>, DbError> {
    let subjects: Vec<String> = if kind == Kind::Address { digests.all(value).collect() } else { vec![value.to_owned()] };
    sql::removals(db, &subjects).await
}

/// Drops the words with which entries of an erased address were taken off the list: operators name people.
pub async fn forget_removals(tx: &mut Tx, digests: &Digests, email_key: &str) -> Result<(), DbError> {
    sql::clear_removals(tx, &digests.all(email_key).collect::<Vec<_>>()).await
}

/// Deletes entries whose time is over; answers how many. Costs two looks at an index where there are none.
pub async fn expire(db: &Db, now: Time) -> Result<u64, DbError> {
    if !sql::any_expired(&mut db.clone(), now).await? {
        return Ok(0);
    }
    let mut tx = db.begin().await?;
    let expired = expire_due(&mut tx, now).await?;
    tx.commit().await?;
    Ok(expired)
}

/// The same inside a transaction.
pub async fn expire_due(tx: &mut Tx, now: Time) -> Result<u64, DbError> {
    sql::delete_expired(tx, now).await
}

/// How many entries there are of each kind and reason.
pub async fn counts(db: &mut impl Connection) -> Result<Vec<(Kind, String, i64)>, DbError> {
    sql::counts(db).await
}

/// The entries of a kind after `after` (a value; empty: from the start), at most `limit`, in the order of the
/// database's index; of one reason where it is named.
pub async fn entries(db: &mut impl Connection, kind: Kind, after: &str, reason: Option<&str>, limit: i64) -> Result<Vec<Entry>, DbError> {
    sql::entries(db, kind, after, reason, limit).await
}

/// The entries with one of these values, whatever their kind.
pub async fn named(tx: &mut Tx, text: &str) -> Result<Vec<Entry>, DbError> {
    let Ok((kind, value)) = suppression_entry(text, None) else { return Ok(Vec::new()) };
    match kind {
        Kind::Address => sql::addresses(tx, &[value]).await,
        kind => sql::rules(tx, [(kind, value)].iter()).await,
    }
}

/// Which of an import's addresses are suppressed, by their place in `keys`; those of erased people are from here on.
pub async fn screen(tx: &mut Tx, digests: &Digests, keys: &[Arc<str>], now: Time) -> Result<Vec<usize>, DbError> {
    recall(tx, digests, keys, now).await?;
    if !sql::any_addresses(tx).await? && !any_rules(tx).await? {
        return Ok(Vec::new());
    }
    let found = look_up(tx, keys).await?;
    Ok((0..keys.len()).filter(|at| found.contains_key(&*keys[*at])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_everybody_makes() {
        // printf a@b.example | md5sum, sha1sum, sha256sum
        let hash = |kind| hash(kind, "a@b.example").expect("a hash");
        assert_eq!(hash(Kind::Md5), "d3ce9fe2208376bd39cf85fbcc2a90c7");
        assert_eq!(hash(Kind::Sha1), "894741fd17a1c947e869490b15afe8ad678a0cef");
        assert_eq!(hash(Kind::Sha256), "ebb18a030bf15174f5714e24d63af1a81355c951ea7389bd2a9bd18e3d0c2477");
    }

    #[test]
    fn a_domain_is_asked_for_itself_and_below_each_of_its_parents() {
        let rules: Vec<String> = rules_for("a@x.tea.example", &[Kind::Domain]).into_iter().map(|(_, value)| value).collect();
        assert_eq!(rules, ["x.tea.example", "*.x.tea.example", "*.tea.example", "*.example"]);
    }

    #[test]
    fn a_digest_says_nothing_without_the_secret_and_is_found_under_a_retired_one() {
        let old = Digests::new(&Keys::new("old", &[]));
        let new = Digests::new(&Keys::new("new", &["old".to_owned()]));
        let digest = old.of("a@b.example");
        assert_eq!(digest.len(), 64);
        assert_ne!(digest, new.of("a@b.example"));
        assert!(new.all("a@b.example").any(|found| found == digest));
    }
}
