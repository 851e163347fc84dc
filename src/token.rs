//! Signed tokens: what stands in a link. A token says what it is for and whom it is about in a few
//! bytes, and carries its own proof, so that nothing is looked up before it is trusted.
//!
//! Layout, base64url without padding: purpose (1 byte), key id (1), fields (LEB128 varints), MAC
//! (12 bytes of HMAC-SHA-256 over all bytes before it and the bound text, RFC 2104). The key of a
//! purpose is derived from the secret, so a token of one purpose never verifies as another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Bytes of the truncated MAC: 96 bits, the shortest length RFC 2104 (section 5) and
/// NIST SP 800-107 are at ease with for a verifier that answers slowly.
const MAC_BYTES: usize = 12;
/// Longest token we look at: nothing we make comes near it.
const MAX_TOKEN_CHARS: usize = 200;
/// Most numbers a token carries: a person, an expiry and ten topics; with nine bytes each they fit into
/// [`MAX_TOKEN_CHARS`].
pub const MAX_FIELDS: usize = 12;

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// The image that records an open. Fields: delivery.
    Open = 1,
    /// A tracked link. Fields: delivery, link position; bound to the target address.
    Click = 2,
    /// The mail as a web page. Fields: delivery.
    View = 3,
    /// Unsubscribe by the List-Unsubscribe header (people do not see this address).
    /// Fields: contact, topic, delivery.
    UnsubscribeHeader = 4,
    /// Unsubscribe by the link in the body. Fields: contact, topic, delivery.
    UnsubscribeBody = 5,
    /// The preference centre. Fields: contact, topic, delivery.
    Preferences = 6,
    /// Double opt-in. Fields: contact, topic, expiry in milliseconds; further topics of the same mail.
    Confirm = 7,
    /// Unsubscribe by mail to the address in the header. Fields: contact, topic, delivery.
    UnsubscribeMail = 8,
    /// The image of a mail to somebody who is counted, but not known by it. Fields: run.
    AnonymousOpen = 9,
    /// A tracked link of such a mail. Fields: run, link position; bound to the target address.
    AnonymousClick = 10,
    /// The preference centre with the person's profile: goes only into a fresh mail to the address itself.
    /// Fields: contact, expiry in milliseconds.
    Profile = 11,
    /// A demand for one's data or its erasure, in a mail to the address itself. Fields: contact, request,
    /// expiry in milliseconds.
    Rights = 12,
    /// The challenge of a form. Fields: expiry in milliseconds, a random number; bound to the form.
    FormChallenge = 13,
    /// A form may be sent without a solution from a moment on. Fields: that moment in milliseconds, a random
    /// number; bound to the form and the address.
    FormWait = 14,
    /// The link of a mail that no person sees. Fields: delivery.
    Trap = 15,
    /// A visit to a page by a tracked link. Fields: delivery, expiry in milliseconds.
    Visit = 16,
}

impl Purpose {
    fn from_byte(byte: u8) -> Option<Self> {
        use Purpose::*;
        [
            Open,
            Click,
            View,
            UnsubscribeHeader,
            UnsubscribeBody,
            Preferences,
            Confirm,
            UnsubscribeMail,
            AnonymousOpen,
            AnonymousClick,
            Profile,
            Rights,
            FormChallenge,
            FormWait,
            Trap,
            Visit,
        ]
        .into_iter()
        .find(|purpose| *purpose as u8 == byte)
    }
}

/// Why a token was not accepted. All forgeries look alike from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not base64url, too long, too short, or fields that do not parse.
    #[error("the link is damaged or incomplete")]
    Malformed,
    /// The MAC does not fit: altered, made for something else, or signed with an unknown secret.
    #[error("the link was altered or is not ours")]
    Forged,
}

/// The keys that sign and verify. The first secret signs; retired ones still verify, so that links
/// in old mails keep working.
#[derive(Clone)]
pub struct Keys {
    secrets: Vec<Secret>,
}

#[derive(Clone)]
struct Secret {
    id: u8,
    key: [u8; 32],
    /// Begun with the key: half the work of a short text.
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.secrets.len())
    }
}

impl Keys {
    /// `secret` is any text of high entropy; `retired` are earlier ones.
    pub fn new(secret: &str, retired: &[String]) -> Self {
        let secrets = std::iter::once(secret)
            .chain(retired.iter().map(String::as_str))
            .map(|text| {
                let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
                Secret { id: digest[0], key: digest, mac: begun(&digest) }
            })
            .collect();
        Keys { secrets }
    }

    /// A key of 32 bytes for another use inside the same instance, such as seeds and digests.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        derived(&self.secrets[0].key, label)
    }

    /// The same of every secret, the current one first: to find again what was made under a retired one.
    pub fn derive_all(&self, label: &str) -> Vec<[u8; 32]> {
        self.secrets.iter().map(|secret| derived(&secret.key, label)).collect()
    }

    /// Signs `fields` (not negative) for `purpose`, without bound text.
    pub fn sign(&self, purpose: Purpose, fields: &[i64]) -> String {
        self.sign_bound(purpose, fields, "")
    }

    /// Signs `fields` together with `bound`, a text that travels outside the token.
    pub fn sign_bound(&self, purpose: Purpose, fields: &[i64], bound: &str) -> String {
        let secret = &self.secrets[0];
        let mut bytes = vec![purpose as u8, secret.id];
        for field in fields {
            write_varint(&mut bytes, u64::try_from(*field).expect("ids and times are not negative"));
        }
        let mac = compute_mac(secret, purpose, &bytes, bound);
        bytes.extend_from_slice(&mac[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Checks a token and answers its fields.
    pub fn verify(&self, purpose: Purpose, token: &str) -> Result<Vec<i64>, TokenError> {
        self.verify_bound(purpose, token, "")
    }

    /// Checks a token together with the text it was bound to.
    pub fn verify_bound(&self, purpose: Purpose, token: &str, bound: &str) -> Result<Vec<i64>, TokenError> {
        if token.len() > MAX_TOKEN_CHARS {
            return Err(TokenError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError::Malformed)?;
        if bytes.len() < 2 + MAC_BYTES {
            return Err(TokenError::Malformed);
        }
        let (message, mac) = bytes.split_at(bytes.len() - MAC_BYTES);
        if Purpose::from_byte(message[0]) != Some(purpose) {
            return Err(TokenError::Forged);
        }
        let genuine = self
            .secrets
            .iter()
            .filter(|secret| secret.id == message[1])
            .any(|secret| constant_time_equal(&compute_mac(secret, purpose, message, bound)[..MAC_BYTES], mac));
        if !genuine {
            return Err(TokenError::Forged);
        }
        read_varints(&message[2..]).ok_or(TokenError::Malformed)
    }
}

fn begun(key: &[u8; 32]) -> Hmac<Sha256> {
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any key length works")
}

fn derived(key: &[u8; 32], label: &str) -> [u8; 32] {
    let mut mac = begun(key);
    mac.update(b"derive:");
    mac.update(label.as_bytes());
    mac.finalize().into_bytes().into()
}

fn compute_mac(secret: &Secret, purpose: Purpose, message: &[u8], bound: &str) -> [u8; 32] {
    let mut mac = secret.mac.clone();
    mac.update(&[purpose as u8, message.len() as u8]);
    mac.update(message);
    mac.update(bound.as_bytes());
    mac.finalize().into_bytes().into()
}

fn constant_time_equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varints(mut bytes: &[u8]) -> Option<Vec<i64>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let mut value: u64 = 0;
        let mut shift = 0;
        loop {
            let (byte, rest) = bytes.split_first()?;
            bytes = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
        out.push(i64::try_from(value).ok()?);
        if out.len() > MAX_FIELDS {
            return None;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_serves_only_its_purpose() {
        let keys = Keys::new("secret", &[]);
        let token = keys.sign(Purpose::View, &[42]);
        assert_eq!(keys.verify(Purpose::View, &token), Ok(vec![42]));
        assert_eq!(keys.verify(Purpose::Open, &token), Err(TokenError::Forged));
    }

    #[test]
    fn a_retired_secret_still_verifies_and_a_foreign_one_does_not() {
        let token = Keys::new("old", &[]).sign(Purpose::View, &[1]);
        assert_eq!(Keys::new("new", &["old".to_owned()]).verify(Purpose::View, &token), Ok(vec![1]));
        assert_eq!(Keys::new("new", &[]).verify(Purpose::View, &token), Err(TokenError::Forged));
    }

    proptest! {
        #[test]
        fn every_token_verifies_and_no_changed_byte_does(
            fields in proptest::collection::vec(0..i64::MAX, 0..4), bound in ".{0,40}", at in any::<prop::sample::Index>(), flip in 1_u8..
        ) {
            let keys = Keys::new("secret", &[]);
            let token = keys.sign_bound(Purpose::Click, &fields, &bound);
            prop_assert_eq!(keys.verify_bound(Purpose::Click, &token, &bound), Ok(fields));
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64url");
            let index = at.index(bytes.len());
            bytes[index] ^= flip;
            prop_assert!(keys.verify_bound(Purpose::Click, &URL_SAFE_NO_PAD.encode(bytes), &bound).is_err());
            prop_assert!(keys.verify_bound(Purpose::Click, &token[..token.len() - 1], &bound).is_err());
            let other = bound + "x";
            prop_assert!(keys.verify_bound(Purpose::Click, &token, &other).is_err());
        }

        #[test]
        fn any_text_is_refused_without_a_panic(text in ".{0,300}") {
            prop_assert!(Keys::new("secret", &[]).verify(Purpose::View, &text).is_err());
        }
    }
}
