//! By what a person is known: addresses, customer numbers, telephone numbers, devices. What stands in
//! `contact` itself (address, customer number, telephone number) counts before what stands in `identity`, and
//! whoever was merged into somebody is that somebody.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::Address;
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Row, Rows, Tx};
use crate::text::mask_email;

/// Characters of a customer number: as many as an import takes.
const MAX_EXTERNAL_ID: usize = 500;
/// Characters of a device's id: ours have 26.
const MAX_DEVICE: usize = 100;
/// Digits of a telephone number: E.164 (section 6.2.1) allows 15, and nothing shorter than four leads to a person.
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 4..=15;
/// Merges that lead from one contact to the one it ends at: more was made by no person.
pub const MAX_CHAIN: usize = 50;

/// What kind of thing a person is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An address.
    Email,
    /// The number another system knows them by.
    ExternalId,
    /// A telephone number.
    Phone,
    /// A browser that said who it belongs to.
    Device,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Email, Kind::ExternalId, Kind::Phone, Kind::Device];

    /// As stored, shown and written.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Email => "email",
            Kind::ExternalId => "external_id",
            Kind::Phone => "phone",
            Kind::Device => "device",
        }
    }

    /// Reads a stored or written kind.
    pub fn from_stored(text: &str) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The form in which values of this kind are compared.
    ///
    /// # Errors
    /// What is wrong with the value, for people.
    pub fn normal(self, value: &str) -> Result<String, String> {
        match self {
            Kind::Email => Address::parse(value).map(|address| address.key().to_owned()).map_err(|error| error.to_string()),
            Kind::Phone => normal_phone(value),
            Kind::ExternalId => line(value, MAX_EXTERNAL_ID, "a customer number"),
            Kind::Device => line(value, MAX_DEVICE, "a device"),
        }
    }

    /// A value as it may stand in a log line or a message about somebody else.
    pub fn masked(self, value: &str) -> String {
        match self {
            Kind::Email => mask_email(value),
            Kind::ExternalId => value.to_owned(),
            Kind::Phone | Kind::Device => {
                let shown: String = value.chars().take(4).collect();
                format!("{shown}***")
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

fn line(value: &str, limit: usize, what: &str) -> Result<String, String> {
    let value = value.trim();
    if value.is_empty() || value.chars().any(char::is_control) || value.chars().count() > limit {
        return Err(format!("{what} is one line of 1 to {limit} characters"));
    }
    Ok(value.to_owned())
}

/// E.164 where the country is known (`+886912345678`); else the digits as they are dialled in some country.
/// What stands in brackets as `(0)` is not dialled behind a country code; `00` is how most of the world dials `+`.
fn normal_phone(value: &str) -> Result<String, String> {
    let wrong = || {
        let (least, most) = (PHONE_DIGITS.start(), PHONE_DIGITS.end());
        format!("a telephone number has {least} to {most} digits, best with its country: `+886 912 345 678`")
    };
    let value = value.trim();
    let value = value.strip_prefix("tel:").unwrap_or(value);
    let is_international = value.starts_with(['+', '＋']) || value.starts_with("00");
    let value = if is_international { value.replace("(0)", "") } else { value.to_owned() };
    let mut digits = String::with_capacity(value.len());
    for (at, c) in value.chars().enumerate() {
        match c {
            '0'..='9' => digits.push(c),
            // Full-width digits, as input methods for Chinese write them.
            '０'..='９' => digits.extend(char::from_digit(c as u32 - '０' as u32, 10)),
            '+' | '＋' if at == 0 => {}
            '-' | '.' | '/' | '(' | ')' | '\u{2010}'..='\u{2015}' | '－' | '（' | '）' => {}
            c if c.is_whitespace() => {}
            _ => return Err(wrong()),
        }
    }
    if is_international {
        digits = digits.strip_prefix("00").unwrap_or(&digits).to_owned();
    }
    if !PHONE_DIGITS.contains(&digits.len()) {
        return Err(wrong());
    }
    Ok(if is_international { format!("+{digits}") } else { digits })
}

/// `contact.phone` without what people write between digits. It only narrows down: [`normal_phone`] decides.
/// An index holds this expression.
pub(super) const PHONE_TEXT: &str =
    "REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(c.phone, ' ', ''), '-', ''), '(', ''), ')', ''), '.', ''), '/', '')";

/// What [`PHONE_TEXT`] may hold for a number in its normal form.
fn phone_spellings(value: &str) -> Vec<String> {
    let Some(digits) = value.strip_prefix('+') else { return vec![value.to_owned()] };
    // `+49 (0) 30 ..`: country codes have one to three digits.
    let with_zero = (1..=3).map(|at| format!("{}0{}", &digits[..at], &digits[at..]));
    std::iter::once(digits.to_owned()).chain(with_zero).flat_map(|digits| [format!("+{digits}"), format!("00{digits}")]).collect()
}

/// Whom an identity leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// Nobody we know.
    Unknown,
    /// One person.
    Person(Person),
    /// Several persons: these contacts have it. Nobody may pick one of them silently.
    Ambiguous(Vec<i64>),
}

/// A person as somebody named them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// Who it is now, merges followed: what rows count for.
    pub contact_id: i64,
    /// The contact that has the identity itself: what rows go back to when a merge is undone.
    pub known_as: i64,
}

/// A contact that has an identity.
#[derive(Clone, Copy)]
struct Holder {
    contact_id: i64,
    merged_into: Option<i64>,
    /// The identity stands in the contact itself.
    is_own: bool,
}

/// Who is meant by these identities, in their order: one statement a kind, and one more for each step of merges.
/// A value that has no normal form is of nobody. Nobody is merged until this transaction ends.
pub async fn resolve_many(tx: &mut Tx, asked: &[(Kind, &str)]) -> Result<Vec<Resolved>, DbError> {
    super::merge::hold_off(tx).await?;
    let mut wanted: BTreeMap<Kind, BTreeMap<String, Vec<usize>>> = BTreeMap::new();
    for (index, (kind, value)) in asked.iter().enumerate() {
        if let Ok(normal) = kind.normal(value) {
            wanted.entry(*kind).or_default().entry(normal).or_default().push(index);
        }
    }
    let mut holders: Vec<(usize, Holder)> = Vec::new();
    let mut values: Vec<&Vec<usize>> = Vec::new();
    for (kind, of_kind) in &wanted {
        let first = values.len();
        values.extend(of_kind.values());
        holders.extend(holders_of(tx, *kind, of_kind.keys(), first).await?);
    }
    let merged = holders.iter().filter_map(|(_, holder)| holder.merged_into).collect();
    let ends = ends_of(tx, merged).await?;
    let mut by_value: BTreeMap<usize, Vec<Holder>> = BTreeMap::new();
    for (value, holder) in holders {
        by_value.entry(value).or_default().push(holder);
    }
    let mut out = vec![Resolved::Unknown; asked.len()];
    for (value, holders) in by_value {
        let resolved = choose(holders, &ends);
        for index in values[value] {
            out[*index] = resolved.clone();
        }
    }
    Ok(out)
}

/// Who is meant by one identity.
pub async fn find(tx: &mut Tx, kind: Kind, value: &str) -> Result<Resolved, DbError> {
    Ok(resolve_many(tx, &[(kind, value)]).await?.pop().unwrap_or(Resolved::Unknown))
}

/// What contacts have as their own outweighs what others had once; of the contacts of one person, the one that was
/// merged furthest away is meant, for the others may have the value from it.
fn choose(mut holders: Vec<Holder>, ends: &HashMap<i64, (i64, usize)>) -> Resolved {
    if holders.iter().any(|holder| holder.is_own) {
        holders.retain(|holder| holder.is_own);
    }
    let end = |holder: &Holder| match holder.merged_into {
        None => (holder.contact_id, 0),
        Some(next) => ends.get(&next).map_or((next, 1), |(end, steps)| (*end, steps + 1)),
    };
    let persons: BTreeSet<i64> = holders.iter().map(|holder| end(holder).0).collect();
    match (persons.len(), holders.iter().max_by_key(|holder| (end(holder).1, std::cmp::Reverse(holder.contact_id)))) {
        (1, Some(named)) => Resolved::Person(Person { contact_id: end(named).0, known_as: named.contact_id }),
        (0, _) | (_, None) => Resolved::Unknown,
        _ => Resolved::Ambiguous(holders.iter().map(|holder| holder.contact_id).collect::<BTreeSet<_>>().into_iter().collect()),
    }
}

async fn holders_of(tx: &mut Tx, kind: Kind, values: impl Iterator<Item = &String>, first: usize) -> Result<Vec<(usize, Holder)>, DbError> {
    // With what the partial indexes are about.
    let own = match kind {
        Kind::Email => Some(("c.email_key", "c.email_key")),
        Kind::ExternalId => Some(("c.external_id", "c.external_id")),
        Kind::Phone => Some((PHONE_TEXT, "c.phone")),
        Kind::Device => None,
    };
    let values: Vec<&String> = values.collect();
    let mut asked: Vec<(i64, String)> = Vec::with_capacity(values.len());
    for (number, value) in values.iter().enumerate() {
        let spellings = if kind == Kind::Phone { phone_spellings(value) } else { vec![(*value).clone()] };
        asked.extend(spellings.into_iter().map(|spelling| (number as i64, spelling)));
    }
    // The cross joins keep SQLite from scanning the contacts and probing the input.
    let own = own.map_or_else(String::new, |(compared, column)| {
        format!(
            "SELECT a.n, c.id, c.merged_into, TRUE, c.phone
             FROM asked a CROSS JOIN contact c
             WHERE {compared} = a.k AND {column} IS NOT NULL
             UNION ALL
             "
        )
    });
    let sql = format!(
        "WITH asked AS (SELECT v.n AS n, v.k AS k FROM {{rows}})
         {own}SELECT a.n, c.id, c.merged_into, FALSE, NULL
         FROM asked a CROSS JOIN identity i JOIN contact c ON c.id = i.contact_id
         WHERE i.kind = $1 AND i.value = a.k"
    );
    let (numbers, keys): (Vec<i64>, Vec<String>) = asked.into_iter().unzip();
    let found = tx.bulk_fetch(&sql, args![kind.as_str()], Rows::new().i64("n", numbers).text("k", keys)).await?;
    let mut holders = Vec::with_capacity(found.len());
    for row in &found {
        let number = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
        let is_own: bool = row.get(3)?;
        let Some(value) = values.get(number) else { continue };
        if kind == Kind::Phone && is_own {
            let as_given: Option<String> = row.get(4)?;
            if as_given.and_then(|text| normal_phone(&text).ok()).as_ref() != Some(value) {
                continue;
            }
        }
        holders.push((first + number, Holder { contact_id: row.get(1)?, merged_into: row.get(2)?, is_own }));
    }
    Ok(holders)
}

/// Where merges lead from each of these contacts: the last one, and how many steps away it is. Whoever was merged into
/// nobody leads to themselves; unknown contacts are left out.
async fn ends_of(tx: &mut Tx, contacts: BTreeSet<i64>) -> Result<HashMap<i64, (i64, usize)>, DbError> {
    let mut next: HashMap<i64, Option<i64>> = HashMap::new();
    let mut open = contacts.clone();
    for _ in 0..=MAX_CHAIN {
        if open.is_empty() {
            break;
        }
        let rows = tx
            .bulk_fetch(
                "SELECT c.id, c.merged_into FROM {rows} CROSS JOIN contact c WHERE c.id = v.id",
                Vec::new(),
                Rows::new().i64("id", open.iter().copied()),
            )
            .await?;
        open = BTreeSet::new();
        for row in &rows {
            let into: Option<i64> = row.get(1)?;
            next.insert(row.get(0)?, into);
            open.extend(into.filter(|into| !next.contains_key(into)));
        }
        open.retain(|contact_id| !next.contains_key(contact_id));
    }
    let mut ends = HashMap::with_capacity(contacts.len());
    for start in contacts.into_iter().filter(|start| next.contains_key(start)) {
        let (mut at, mut steps) = (start, 0);
        while let Some(Some(into)) = next.get(&at).filter(|_| steps < MAX_CHAIN) {
            (at, steps) = (*into, steps + 1);
        }
        ends.insert(start, (at, steps));
    }
    Ok(ends)
}

/// Who each of these contacts is now, merges followed; unknown ones are left out.
pub async fn persons(tx: &mut Tx, contacts: &[i64]) -> Result<HashMap<i64, i64>, DbError> {
    let ends = ends_of(tx, contacts.iter().copied().collect()).await?;
    Ok(ends.into_iter().map(|(contact_id, (end, _))| (contact_id, end)).collect())
}

/// Who an identity is of, where it is of several: `customer number \`7\` is of 2 contacts: m***@a.example, ..`, and what
/// to do about it.
pub async fn describe_ambiguity(db: &mut impl Connection, kind: Kind, value: &str, contacts: &[i64]) -> Result<String, DbError> {
    let known = super::sql::by_ids(db, &super::Schema::default(), &contacts[..contacts.len().min(5)]).await?;
    let mut names: Vec<String> = known.iter().map(|contact| mask_email(&contact.email)).collect();
    names.sort();
    if contacts.len() > names.len() {
        names.push("..".to_owned());
    }
    Ok(format!(
        "{kind} `{}` is of {} contacts: {}\nhint: `optin contact duplicates` shows them; merge them (`optin contact merge`), or correct one of them (`optin contact change`)",
        kind.masked(value),
        contacts.len(),
        names.join(", ")
    ))
}

/// A further identity of a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its kind.
    pub kind: Kind,
    /// Its value, in normal form.
    pub value: String,
    /// Whose it is.
    pub contact_id: i64,
    /// Where it came from, in an operator's words or `import`, `api`, `beacon`.
    pub source: String,
    /// Since when it is known.
    pub since: Time,
}

/// What adding an identity did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is new.
    Added,
    /// The contact, or one that was merged into the same person, had it.
    Already,
    /// Somebody else has it: this contact.
    Taken(i64),
}

/// Gives a contact a further identity; `value` is in normal form.
pub async fn add(tx: &mut Tx, contact_id: i64, kind: Kind, value: &str, source: &str, now: Time) -> Result<Added, DbError> {
    let held = match find(tx, kind, value).await? {
        Resolved::Unknown => None,
        Resolved::Person(person) => Some(person.known_as),
        Resolved::Ambiguous(contacts) => match contacts.contains(&contact_id) {
            true => Some(contact_id),
            false => contacts.first().copied(),
        },
    };
    if let Some(other) = held {
        let persons = persons(tx, &[contact_id, other]).await?;
        let same = other == contact_id || persons.get(&contact_id) == persons.get(&other);
        return Ok(if same { Added::Already } else { Added::Taken(other) });
    }
    tx.execute(
        "INSERT INTO identity (kind, value, contact_id, source, since) VALUES ($1, $2, $3, $4, $5)",
        args![kind.as_str(), value, contact_id, source, now],
    )
    .await?;
    Ok(Added::Added)
}

/// Takes a further identity from a contact; false where it had none such. What stands in the contact itself is
/// changed there.
pub async fn remove(tx: &mut Tx, contact_id: i64, kind: Kind, value: &str) -> Result<bool, DbError> {
    let sql = "DELETE FROM identity WHERE kind = $1 AND value = $2 AND contact_id = $3";
    Ok(tx.execute(sql, args![kind.as_str(), value, contact_id]).await? == 1)
}

/// The further identities of a contact, oldest first.
pub async fn of_contact(db: &mut impl Connection, contact_id: i64) -> Result<Vec<Identity>, DbError> {
    let collation = db.engine().binary_collation();
    let sql = format!(
        "SELECT kind, value, contact_id, source, since FROM identity WHERE contact_id = $1 ORDER BY since, kind{collation}, value{collation}"
    );
    db.rows(&sql, args![contact_id]).await?.iter().filter_map(|row| read(row).transpose()).collect()
}

fn read(row: &Row) -> Result<Option<Identity>, DbError> {
    let Some(kind) = Kind::from_stored(&row.get::<String>(0)?) else { return Ok(None) };
    Ok(Some(Identity { kind, value: row.get(1)?, contact_id: row.get(2)?, source: row.get(3)?, since: row.get(4)? }))
}

/// Customer numbers that contacts had until now, `(contact, number)` each, become identities of theirs: what another
/// system still sends under the old number finds them. What is somebody's already stays theirs.
pub async fn keep_former_numbers(tx: &mut Tx, former: &[(i64, String)], source: &str, now: Time) -> Result<(), DbError> {
    let (contacts, values): (Vec<i64>, Vec<String>) = former.iter().cloned().unzip();
    tx.bulk(
        "INSERT INTO identity (kind, value, contact_id, source, since)
         SELECT $1, v.value, v.contact_id, $2, CAST($3 AS BIGINT) FROM {rows} WHERE TRUE
         ON CONFLICT (kind, value) DO NOTHING",
        args![Kind::ExternalId.as_str(), source, now],
        Rows::new().i64("contact_id", contacts).text("value", values),
    )
    .await?;
    Ok(())
}

/// Deletes the further identities of a contact, all of them or those of one kind. Answers how many there were.
pub async fn forget(tx: &mut Tx, contact_id: i64, kind: Option<Kind>) -> Result<u64, DbError> {
    match kind {
        Some(kind) => tx.execute("DELETE FROM identity WHERE contact_id = $1 AND kind = $2", args![contact_id, kind.as_str()]).await,
        None => tx.execute("DELETE FROM identity WHERE contact_id = $1", args![contact_id]).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn telephone_numbers_are_compared_as_they_are_dialled_from_abroad() {
        for (given, normal) in [
            ("+886 912-345-678", Some("+886912345678")),
            ("00886 912 345 678", Some("+886912345678")),
            ("tel:+886-912-345-678", Some("+886912345678")),
            ("＋８８６ ９１２ ３４５ ６７８", Some("+886912345678")),
            ("+49 (0) 30 1234567", Some("+49301234567")),
            ("(02) 2345.6789", Some("0223456789")),
            ("0912345678", Some("0912345678")),
            ("+1", None),
            ("+1234567890123456", None),
            ("call me", None),
            ("12+34567", None),
            ("", None),
        ] {
            assert_eq!(Kind::Phone.normal(given).ok().as_deref(), normal, "{given}");
        }
    }

    #[test]
    fn numbers_of_other_systems_stay_as_they_are() {
        assert_eq!(Kind::ExternalId.normal(" 00A7 ").as_deref(), Ok("00A7"));
        assert!(Kind::ExternalId.normal("  ").is_err());
        assert!(Kind::ExternalId.normal("a\nb").is_err());
        assert_eq!(Kind::Email.normal("Mei@TEA.example").as_deref(), Ok("mei@tea.example"));
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own(kind in proptest::sample::select(Kind::ALL.to_vec()), text in "[+0-9 ()a-z@./-]{0,20}") {
            if let Ok(normal) = kind.normal(&text) {
                prop_assert_eq!(kind.normal(&normal), Ok(normal));
            }
        }

        #[test]
        fn a_number_is_among_its_spellings(digits in "[1-9][0-9]{6,13}", zero in any::<bool>(), abroad in any::<bool>()) {
            let written = match (abroad, zero) {
                (true, true) => format!("+{} (0) {}", &digits[..2], &digits[2..]),
                (true, false) => format!("00{} (0) / {}", &digits[..3], &digits[3..]),
                (false, _) => format!("({}) {}", &digits[..2], &digits[2..]),
            };
            let stripped: String = written.chars().filter(|c| !" -().".contains(*c) && *c != '/').collect();
            let normal = Kind::Phone.normal(&written).expect("a number");
            prop_assert!(phone_spellings(&normal).contains(&stripped));
        }
    }
}
