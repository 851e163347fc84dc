//! Contacts that are likely one person, with the reason. Nothing merges by itself: who shares a number may share a
//! household.

use super::LIST_MARK;
use super::identity::{Kind, PHONE_TEXT};
use crate::args;
use crate::db::{Connection, DbError, Dialect};

/// Contacts of one group that are read: a number that thousands share is of nobody.
const MAX_CONTACTS: usize = 20;

/// Why contacts may be one person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The same customer number.
    ExternalId,
    /// The number or address of one is a further identity of the other.
    Identity,
    /// The same telephone number.
    Phone,
    /// Addresses that are one mailbox at Gmail, which ignores dots and what follows a plus sign.
    Gmail,
}

impl Reason {
    /// The most certain first.
    pub const ALL: [Reason; 4] = [Reason::ExternalId, Reason::Identity, Reason::Gmail, Reason::Phone];

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Reason::ExternalId => "same customer number",
            Reason::Identity => "identity of another",
            Reason::Phone => "same telephone number",
            Reason::Gmail => "one Gmail mailbox",
        }
    }
}

/// Contacts that may be one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Why.
    pub reason: Reason,
    /// What they share.
    pub value: String,
    /// Ids and addresses, oldest first; the first 20 of them.
    pub contacts: Vec<(i64, String)>,
    /// How many there are.
    pub count: i64,
}

/// Groups of contacts that are likely one person, at most `limit` of each reason, the largest first. Whoever was
/// merged into somebody is that somebody.
pub async fn find(db: &mut impl Connection, limit: i64) -> Result<Vec<Group>, DbError> {
    let mut groups = Vec::new();
    for reason in Reason::ALL {
        let sql = statement(reason, db.engine());
        for row in db.rows(&sql, args![limit]).await? {
            let value: String = row.get(0)?;
            let mut contacts = Vec::new();
            for text in row.get::<String>(1)?.split(LIST_MARK) {
                if let Some((id, email)) = text.split_once(' ').and_then(|(id, email)| Some((id.parse().ok()?, email.to_owned()))) {
                    contacts.push((id, email));
                }
            }
            contacts.sort_unstable();
            groups.push(Group { reason, value, contacts, count: row.get(2)? });
        }
    }
    Ok(groups)
}

/// What is shared, who shares it (`id address`, [`LIST_MARK`] between), how many they are.
fn statement(reason: Reason, dialect: Dialect) -> String {
    let binary = dialect.binary_collation();
    let (gather, find) = match dialect {
        Dialect::Sqlite => ("GROUP_CONCAT", "INSTR"),
        Dialect::Postgres => ("STRING_AGG", "STRPOS"),
    };
    let grouped = |value: &str, which: &str| {
        format!(
            "SELECT g.value, {gather}(CAST(g.id AS TEXT) || ' ' || g.email, '{LIST_MARK}'), MAX(g.size)
             FROM (
               SELECT {value} AS value, c.id, c.email, COUNT(*) OVER (PARTITION BY {value}) AS size,
                 ROW_NUMBER() OVER (PARTITION BY {value} ORDER BY c.id) AS place
               FROM contact c
               WHERE c.merged_into IS NULL AND {which}
             ) AS g
             WHERE g.size > 1 AND g.place <= {MAX_CONTACTS}
             GROUP BY g.value
             ORDER BY MAX(g.size) DESC, g.value{binary}
             LIMIT $1"
        )
    };
    match reason {
        Reason::ExternalId => grouped("c.external_id", "c.external_id IS NOT NULL"),
        Reason::Phone => {
            // `00` is how most of the world dials `+`.
            let value = format!("CASE WHEN {PHONE_TEXT} LIKE '00%' THEN '+' || SUBSTR({PHONE_TEXT}, 3) ELSE {PHONE_TEXT} END");
            grouped(&value, &format!("c.phone IS NOT NULL AND LENGTH({PHONE_TEXT}) > 5"))
        }
        Reason::Gmail => {
            let local = format!("SUBSTR(c.email_key, 1, {find}(c.email_key, '@') - 1)");
            let mailbox = format!("REPLACE(SUBSTR({local}, 1, {find}({local} || '+', '+') - 1), '.', '') || '@gmail.com'");
            grouped(&mailbox, "(c.email_key LIKE '%@gmail.com' OR c.email_key LIKE '%@googlemail.com')")
        }
        Reason::Identity => {
            let (email, number) = (Kind::Email.as_str(), Kind::ExternalId.as_str());
            let shared = |column: &str, kind: &str| {
                format!(
                    "SELECT i.value AS value, a.id AS id, a.email AS email, b.id AS other_id, b.email AS other
                     FROM identity i
                     JOIN contact a ON a.id = i.contact_id
                     JOIN contact b ON b.{column} = i.value AND b.{column} IS NOT NULL
                     WHERE i.kind = '{kind}' AND a.id <> b.id AND a.merged_into IS NULL AND b.merged_into IS NULL"
                )
            };
            format!(
                "SELECT g.value,
                   CAST(g.id AS TEXT) || ' ' || g.email || '{LIST_MARK}' || CAST(g.other_id AS TEXT) || ' ' || g.other,
                   CAST(2 AS BIGINT)
                 FROM ({} UNION ALL {}) AS g
                 ORDER BY g.value{binary}, g.other_id
                 LIMIT $1",
                shared("email_key", email),
                shared("external_id", number)
            )
        }
    }
}
