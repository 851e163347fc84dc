//! What a person may demand of us (GDPR art. 15 to 21, PIPL art. 44 to 47, Taiwan's PDPA art. 3): a copy of
//! everything, its correction, its erasure; the register of what was demanded and until when it must be
//! answered; and what is forgotten by itself.
//!
//! Each table has its owner: erasing goes through the rooms (`forget_contact` of `delivery`, `tracking`,
//! `consent`; `contact::care`). Reading for the copy joins all of them.

pub mod access;
pub mod archive;
pub mod erase;
pub mod page;
pub mod rectify;
pub mod register;
pub mod request;
pub mod retention;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::token::Keys;

/// What is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A copy of the data with purposes, sources and recipients (GDPR 15).
    Access,
    /// Deletion (GDPR 17).
    Erasure,
    /// Correction (GDPR 16).
    Rectification,
    /// No direct marketing, no profiling (GDPR 21).
    Objection,
    /// The data in a form that machines read (GDPR 20).
    Portability,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Access, Kind::Erasure, Kind::Rectification, Kind::Objection, Kind::Portability];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Access => "access",
            Kind::Erasure => "erasure",
            Kind::Rectification => "rectification",
            Kind::Objection => "objection",
            Kind::Portability => "portability",
        }
    }

    /// Reads a stored kind.
    pub fn from_stored(text: &str) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Where a demand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Asked for on a page; nobody knows yet whether by the owner of the address. Nothing is due.
    Asked,
    /// It is the person's, and waits for an answer.
    Open,
    /// Carried out.
    Done,
    /// Refused, with a note.
    Refused,
    /// The link in the mail was not used in time.
    Lapsed,
}

impl State {
    /// All of them.
    pub const ALL: [State; 5] = [State::Asked, State::Open, State::Done, State::Refused, State::Lapsed];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Asked => "asked",
            State::Open => "open",
            State::Done => "done",
            State::Refused => "refused",
            State::Lapsed => "lapsed",
        }
    }

    /// Reads a stored state.
    pub fn from_stored(text: &str) -> Option<Self> {
        State::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// The digest under which the register knows an address. It stays when the person is erased, and tells
/// nothing without the secret of the instance.
pub fn subject(keys: &Keys, email_key: &str) -> String {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&keys.derive("rights subject")).expect("any key length works");
    mac.update(email_key.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether scores may be computed for somebody whose `consent_choice.profiling` is this (GDPR 21(2),
/// PIPL 24): everybody who did not refuse. Whatever computes scores asks here.
pub fn may_profile(choice: Option<&str>) -> bool {
    choice != Some("refused")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_again_by_its_digest_and_only_with_the_secret() {
        let keys = Keys::new("a secret", &[]);
        assert_eq!(subject(&keys, "mei@tea.example"), subject(&keys, "mei@tea.example"));
        assert_ne!(subject(&keys, "mei@tea.example"), subject(&keys, "mai@tea.example"));
        assert_ne!(subject(&keys, "mei@tea.example"), subject(&Keys::new("another", &[]), "mei@tea.example"));
    }

    #[test]
    fn whoever_refuses_is_not_profiled() {
        assert!(may_profile(None) && may_profile(Some("allowed")) && !may_profile(Some("refused")));
    }
}
