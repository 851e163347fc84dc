//! Signed heads of the chain: whoever keeps one can tell later that everything up to it is as it was.
//!
//! The chain alone shows nothing to somebody who fears that all of it was rewritten; a checkpoint that left the
//! house does. It is signed with Ed25519 (RFC 8032), the key is derived from the instance's secret.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::ledger::hex;
use super::sql;
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Row, Tx};
use crate::token::Keys;

/// First line of what is signed: a signature of ours under something else is none.
const LABEL: &str = "optin consent checkpoint 1";
/// What the key is derived for.
const KEY_LABEL: &str = "consent checkpoint ed25519";

/// A head of the chain with its signature.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Entries up to here.
    pub seq: i64,
    /// The link of the last of them, in hex.
    pub hash: String,
    /// When it was signed: RFC 3339 in UTC with milliseconds, as it stands in the signed text.
    pub at: String,
    /// Ed25519 public key, in hex.
    pub public_key: String,
    /// Signature, in hex.
    pub signature: String,
}

/// Signs checkpoints.
pub struct Signer {
    pair: Ed25519KeyPair,
    /// Public keys of the secret in use and of retired ones, in hex.
    known: Vec<String>,
}

impl Signer {
    /// With the keys of an instance.
    pub fn new(keys: &Keys) -> Self {
        let mut pairs: Vec<Ed25519KeyPair> = keys
            .derive_from_each(KEY_LABEL)
            .iter()
            .map(|seed| Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed"))
            .collect();
        let known = pairs.iter().map(|pair| hex(pair.public_key().as_ref())).collect();
        Signer { pair: pairs.swap_remove(0), known }
    }

    /// Public keys whose checkpoints are this instance's, in hex; the first one signs.
    pub fn known(&self) -> &[String] {
        &self.known
    }

    /// Signs a head.
    pub fn sign(&self, seq: i64, hash: &[u8], now: Time) -> Checkpoint {
        let mut checkpoint =
            Checkpoint { seq, hash: hex(hash), at: now.to_string(), public_key: self.known[0].clone(), signature: String::new() };
        checkpoint.signature = hex(self.pair.sign(checkpoint.text().as_bytes()).as_ref());
        checkpoint
    }
}

impl Checkpoint {
    /// What is signed.
    fn text(&self) -> String {
        format!("{LABEL}\n{}\n{}\n{}\n", self.seq, self.hash, self.at)
    }

    /// Whether one of `keys` (in hex) signed it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn verify(&self, keys: &[String]) -> Result<(), String> {
        if !keys.contains(&self.public_key) {
            return Err(format!("it is signed with the key {}, which is not known here", self.public_key));
        }
        let (Some(key), Some(signature)) = (from_hex(&self.public_key), from_hex(&self.signature)) else {
            return Err("its key or signature is no hex".to_owned());
        };
        UnparsedPublicKey::new(&ED25519, key)
            .verify(self.text().as_bytes(), &signature)
            .map_err(|_| "its signature does not fit: it was altered".to_owned())
    }

    /// The finding where the chain has something else.
    pub(super) fn differs(&self) -> String {
        format!("the chain does not have the entry that was signed on {}: everything up to it may have been rewritten", self.at)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    (text.len().is_multiple_of(2)).then(|| pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect::<Option<_>>())?
}

/// Signs the head as it is.
pub async fn of_head(db: &mut impl Connection, signer: &Signer, now: Time) -> Result<Checkpoint, DbError> {
    let (seq, hash) = sql::head(db).await?;
    Ok(signer.sign(seq, &hash, now))
}

/// Keeps a checkpoint beside the ledger; one for the same entry stays.
pub async fn keep(tx: &mut Tx, checkpoint: &Checkpoint, now: Time) -> Result<(), DbError> {
    tx.execute(
        "INSERT INTO consent_checkpoint (seq, at, signed_at, hash, public_key, signature) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (seq) DO NOTHING",
        args![checkpoint.seq, now, &checkpoint.at, &checkpoint.hash, &checkpoint.public_key, &checkpoint.signature],
    )
    .await?;
    Ok(())
}

/// The last one kept: its entry, and when.
pub async fn last(db: &mut impl Connection) -> Result<Option<(i64, Time)>, DbError> {
    let rows = db.rows("SELECT seq, at FROM consent_checkpoint ORDER BY seq DESC LIMIT 1", Vec::new()).await?;
    rows.first().map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
}

/// All that are kept, by entry.
pub(super) async fn stored(db: &mut impl Connection) -> Result<Vec<Checkpoint>, DbError> {
    let read = |row: &Row| {
        Ok(Checkpoint { seq: row.get(0)?, hash: row.get(1)?, at: row.get(2)?, public_key: row.get(3)?, signature: row.get(4)? })
    };
    let sql = "SELECT seq, hash, signed_at, public_key, signature FROM consent_checkpoint ORDER BY seq";
    db.rows(sql, Vec::new()).await?.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_holds_for_what_it_says_and_a_retired_secret_still_proves_it() {
        let old = Signer::new(&Keys::new("old", &[]));
        let checkpoint = old.sign(17, &[0xab; 32], Time::from_millis(1_767_225_600_000));
        let now = Signer::new(&Keys::new("new", &["old".to_owned()]));
        assert_eq!(checkpoint.verify(now.known()), Ok(()));
        assert!(checkpoint.verify(Signer::new(&Keys::new("new", &[])).known()).is_err());
        for altered in [
            Checkpoint { seq: 18, ..checkpoint.clone() },
            Checkpoint { hash: "ab".repeat(31) + "ac", ..checkpoint.clone() },
            Checkpoint { at: "2026-01-02T00:00:00.000Z".to_owned(), ..checkpoint.clone() },
            Checkpoint { public_key: now.known()[0].clone(), ..checkpoint.clone() },
            Checkpoint { signature: "zz".to_owned(), ..checkpoint.clone() },
        ] {
            assert!(altered.verify(now.known()).is_err(), "{altered:?}");
        }
    }
}
