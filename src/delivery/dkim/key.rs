//! Private keys: reading them from files, making them, and what the world must know of them.

use std::path::Path;

use aws_lc_rs::digest::Digest;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

/// A key file is a few kilobytes; more is something else.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Bytes of an Ed25519 seed (RFC 8032 section 5.1.5).
const SEED_BYTES: usize = 32;
/// Longest string inside one TXT record (RFC 1035 section 3.3.14).
const TXT_STRING_BYTES: usize = 255;
/// Columns of base64 in a PEM file (RFC 7468 section 2).
const PEM_COLUMNS: usize = 64;

/// The two ways to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyType {
    /// `rsa-sha256`: what every receiver verifies (RFC 8301 section 3.1).
    Rsa,
    /// `ed25519-sha256` (RFC 8463): beside RSA, never instead.
    Ed25519,
}

impl KeyType {
    /// As `k=` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyType::Rsa => "rsa",
            KeyType::Ed25519 => "ed25519",
        }
    }

    /// As `a=` names it.
    pub(super) fn algorithm(self) -> &'static str {
        match self {
            KeyType::Rsa => "rsa-sha256",
            KeyType::Ed25519 => "ed25519-sha256",
        }
    }
}

/// A private key that can sign.
pub struct PrivateKey(Pair);

enum Pair {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind().as_str())
    }
}

/// Why a file gave no key: what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError {
    /// What is wrong, to be read after the file's name.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// The library failed where only a lack of memory or of system randomness can make it fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library failed; is the system out of memory?")]
pub struct CryptoFailed;

impl From<aws_lc_rs::error::Unspecified> for CryptoFailed {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        CryptoFailed
    }
}

fn error(message: impl Into<String>, hint: impl Into<String>) -> KeyError {
    KeyError { message: message.into(), hint: hint.into() }
}

const MAKE_ONE: &str = "`optin dkim new DOMAIN --selector NAME` makes a key and shows what to publish";

impl PrivateKey {
    /// Reads a file: PEM (PKCS#8 or PKCS#1), or the bare base64 seed of an Ed25519 key as dkimpy's
    /// `dknewkey` writes it.
    ///
    /// # Errors
    /// No such file, no private key in it, a kind of key that DKIM does not know, or an RSA key under
    /// 2048 bits (RFC 8301 section 3.2; Gmail and Yahoo want as much).
    pub fn read(file: &Path) -> Result<PrivateKey, KeyError> {
        let unreadable = |problem: std::io::Error| match problem.kind() {
            std::io::ErrorKind::NotFound => error("there is no such file", MAKE_ONE),
            _ => error(format!("the file cannot be read: {problem}"), "check that this user may read it"),
        };
        let metadata = std::fs::metadata(file).map_err(unreadable)?;
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(error("this is no key file", MAKE_ONE));
        }
        PrivateKey::parse(&std::fs::read(file).map_err(unreadable)?)
    }

    /// Like [`PrivateKey::read`], from what the file holds.
    ///
    /// # Errors
    /// As there.
    pub fn parse(text: &[u8]) -> Result<PrivateKey, KeyError> {
        if let Some(seed) = BASE64.decode(text.trim_ascii()).ok().filter(|seed| seed.len() == SEED_BYTES)
            && let Ok(pair) = Ed25519KeyPair::from_seed_unchecked(&seed)
        {
            return Ok(PrivateKey(Pair::Ed25519(pair)));
        }
        let shown = String::from_utf8_lossy(text);
        if shown.contains("ENCRYPTED") {
            let hint = "take its password off: `openssl pkey -in FILE -out NEW`, and let nobody else read the new file";
            return Err(error("this key is locked with a password", hint));
        }
        if shown.contains("BEGIN PUBLIC KEY") || shown.contains("BEGIN RSA PUBLIC KEY") {
            return Err(error("this is the public half of a key", "name the file with the private half; it stays with you"));
        }
        let rsa = |found: Result<RsaKeyPair, aws_lc_rs::error::KeyRejected>| match found {
            Ok(pair) => Ok(PrivateKey(Pair::Rsa(pair))),
            Err(rejected) if rejected.to_string() == "TooSmall" => {
                Err(error("this RSA key has less than 2048 bits, and mailbox providers refuse such keys", MAKE_ONE))
            }
            Err(rejected) => Err(error(format!("this is no RSA and no Ed25519 key that works ({rejected})"), MAKE_ONE)),
        };
        match PrivateKeyDer::from_pem_slice(text) {
            Ok(PrivateKeyDer::Pkcs8(der)) => match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()) {
                Ok(pair) => Ok(PrivateKey(Pair::Ed25519(pair))),
                Err(_) => rsa(RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())),
            },
            Ok(PrivateKeyDer::Pkcs1(der)) => rsa(RsaKeyPair::from_der(der.secret_pkcs1_der())),
            Ok(_) => Err(error("DKIM knows RSA and Ed25519 keys only, and this is another kind", MAKE_ONE)),
            Err(_) => Err(error(
                "there is no private key in this file",
                format!("a key file starts with `-----BEGIN PRIVATE KEY-----`; {MAKE_ONE}"),
            )),
        }
    }

    /// Makes a key; RSA of 2048 bits, the most that DNS answers and signing speed bear well.
    ///
    /// Its chance comes from the cryptographic library, which asks the system, and not from
    /// [`crate::entropy`]: a key must not come out the same again because somebody set a seed for a
    /// rehearsal.
    ///
    /// # Errors
    /// See [`CryptoFailed`].
    pub fn generate(kind: KeyType) -> Result<PrivateKey, CryptoFailed> {
        Ok(PrivateKey(match kind {
            KeyType::Rsa => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048)?),
            KeyType::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate()?),
        }))
    }

    /// The private key as a file holds it: PKCS#8 in PEM.
    ///
    /// # Errors
    /// See [`CryptoFailed`].
    pub fn to_pem(&self) -> Result<String, CryptoFailed> {
        let der: Pkcs8V1Der<'_> = match &self.0 {
            Pair::Rsa(pair) => pair.as_der()?,
            Pair::Ed25519(pair) => pair.as_der()?,
        };
        let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
        for line in BASE64.encode(der.as_ref()).as_bytes().chunks(PEM_COLUMNS) {
            pem.extend(line.iter().map(|byte| char::from(*byte)));
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Ok(pem)
    }

    /// Its kind.
    pub fn kind(&self) -> KeyType {
        match &self.0 {
            Pair::Rsa(_) => KeyType::Rsa,
            Pair::Ed25519(_) => KeyType::Ed25519,
        }
    }

    /// What the TXT record of the key says (RFC 6376 section 3.6.1; RFC 8463 section 4.2).
    ///
    /// # Errors
    /// See [`CryptoFailed`].
    pub fn record(&self) -> Result<String, CryptoFailed> {
        let public = match &self.0 {
            Pair::Rsa(pair) => {
                let der: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
                BASE64.encode(der.as_ref())
            }
            Pair::Ed25519(pair) => BASE64.encode(pair.public_key().as_ref()),
        };
        Ok(format!("v=DKIM1; k={}; p={public}", self.kind().as_str()))
    }

    /// The signature of a SHA-256 hash. RFC 8463 section 3: Ed25519 signs the hash, not the text.
    pub(super) fn sign(&self, hash: &Digest) -> Result<Vec<u8>, CryptoFailed> {
        match &self.0 {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(&RSA_PKCS1_SHA256, hash, &mut signature)?;
                Ok(signature)
            }
            Pair::Ed25519(pair) => Ok(pair.try_sign(hash.as_ref())?.as_ref().to_vec()),
        }
    }
}

/// A record's text as the strings of a zone file, each short enough for one of a TXT record.
pub fn txt_strings(record: &str) -> Vec<&str> {
    let mut strings = Vec::new();
    let mut rest = record;
    while rest.len() > TXT_STRING_BYTES {
        // A record is ASCII: every byte is a place to cut.
        let (string, after) = rest.split_at(TXT_STRING_BYTES);
        strings.push(string);
        rest = after;
    }
    strings.push(rest);
    strings
}
