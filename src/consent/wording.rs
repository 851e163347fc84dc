//! What people read when they agreed: each wording is kept once, by its hash.

use sha2::{Digest, Sha256};

use super::ledger::hex;
use crate::clock::Time;

/// Domain separation, as in the chain.
const LABEL: &[u8] = b"optin consent wording 2";

/// A wording about to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wording<'a> {
    /// All that they read, as text.
    pub text: &'a str,
    /// Its language, a BCP 47 tag.
    pub locale: Option<&'a str>,
    /// Where it stood: `form`, `mail`, `page`.
    pub kind: Option<&'a str>,
    /// Which version of it, as its owner counts.
    pub version: Option<&'a str>,
}

/// A wording as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptWording {
    /// What entries of the ledger name it by.
    pub hash: String,
    /// All that they read.
    pub text: String,
    /// Its language.
    pub locale: Option<String>,
    /// Where it stood.
    pub kind: Option<String>,
    /// Which version.
    pub version: Option<String>,
    /// When it was first shown; not covered by the hash.
    pub first_shown_at: Option<Time>,
}

impl Wording<'_> {
    /// SHA-256 over text, locale, kind and version with their lengths, in hex: the same words in another form or
    /// language are another wording.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(LABEL);
        for field in [Some(self.text), self.locale, self.kind, self.version] {
            hasher.update(field.map_or(u64::MAX, |text| text.len() as u64).to_be_bytes());
            hasher.update(field.unwrap_or_default().as_bytes());
        }
        hex(&hasher.finalize())
    }
}

impl KeptWording {
    /// Whether it is what entries with its hash mean. The first releases hashed the text alone.
    pub(super) fn fits(&self) -> bool {
        let wording =
            Wording { text: &self.text, locale: self.locale.as_deref(), kind: self.kind.as_deref(), version: self.version.as_deref() };
        let first_rule = self.kind.is_none() && self.version.is_none() && self.first_shown_at.is_none();
        wording.hash() == self.hash || (first_rule && hex(&Sha256::digest(self.text.as_bytes())) == self.hash)
    }
}
