//! API tokens: random, shown once, kept as a digest. Whoever has the database cannot use them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::args;
use crate::clock::Time;
use crate::db::{Connection, Db, DbError};
use crate::entropy::Entropy;

/// What a token may do.
pub const SCOPES: &[&str] = &[MESSAGES, SUBSCRIPTIONS, CONTACTS, CONSENT, EVENTS];
/// Sending transactional messages and asking how they fare.
pub const MESSAGES: &str = "messages";
/// Asking for subscriptions and withdrawing them.
pub const SUBSCRIPTIONS: &str = "subscriptions";
/// Reading and changing contacts.
pub const CONTACTS: &str = "contacts";
/// Recording consent that the person confirmed elsewhere: it brings back who withdrew.
pub const CONSENT: &str = "consent";
/// Recording events, orders and refunds.
pub const EVENTS: &str = "events";
/// Random bytes of a token: 256 bits cannot be guessed, so no slow hash is needed to keep them.
const TOKEN_BYTES: usize = 32;
/// Begins every token, so that people and secret scanners recognise one.
const PREFIX: &str = "optin_";
/// Longest header value looked up; ours have 49 characters.
const MAX_TOKEN_CHARS: usize = 128;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The token's name: a successor of the same name is the same client.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
}

/// A token as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: i64,
    /// Who uses it.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it stopped working.
    pub revoked_at: Option<Time>,
}

/// Makes a token. Answers its id and the token itself, which is kept nowhere.
pub async fn create(db: &Db, name: &str, scopes: &[String], entropy: &Entropy, now: Time) -> Result<(i64, String), DbError> {
    let mut bytes = [0; TOKEN_BYTES];
    entropy.fill(&mut bytes);
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let id = entropy.id(now);
    db.execute(
        "INSERT INTO api_token (id, name, digest, scopes, created_at) VALUES ($1, $2, $3, $4, $5)",
        args![id, name, digest(&token), scopes.join(","), now],
    )
    .await?;
    Ok((id, token))
}

/// All tokens, newest first.
pub async fn list(db: &mut impl Connection) -> Result<Vec<Listed>, DbError> {
    let rows = db.rows("SELECT id, name, scopes, created_at, revoked_at FROM api_token ORDER BY id DESC", Vec::new()).await?;
    rows.iter()
        .map(|row| {
            let (id, name, scopes) = (row.get(0)?, row.get(1)?, split(&row.get::<String>(2)?));
            Ok(Listed { id, name, scopes, created_at: row.get(3)?, revoked_at: row.get(4)? })
        })
        .collect()
}

/// Ends a token; false where there is none that works.
pub async fn revoke(db: &Db, id: i64, now: Time) -> Result<bool, DbError> {
    Ok(db.execute("UPDATE api_token SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL", args![id, now]).await? == 1)
}

/// Whose token this is. Looked up by its digest: how long that takes says nothing about any token,
/// because nobody can choose a digest.
pub(super) async fn find(db: &mut impl Connection, token: &str) -> Result<Option<Client>, DbError> {
    if !token.starts_with(PREFIX) || token.len() > MAX_TOKEN_CHARS {
        return Ok(None);
    }
    let rows = db.rows("SELECT name, scopes FROM api_token WHERE digest = $1 AND revoked_at IS NULL", args![digest(token)]).await?;
    rows.first().map(|row| Ok(Client { name: row.get(0)?, scopes: split(&row.get::<String>(1)?) })).transpose()
}

fn digest(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn split(scopes: &str) -> Vec<String> {
    scopes.split(',').map(str::to_owned).collect()
}
