//! DKIM signatures (RFC 6376): which key signs for a From domain, and the `DKIM-Signature` fields.
//!
//! Signing is ours and not a library's: lettre's signer makes signatures that do not verify (header
//! form `simple`, `Content-Type` of a multipart message) and recurses once per byte of a header, and
//! mail-auth brings a second cryptographic library. What is left to do beside hashing and the key's
//! arithmetic, which aws-lc-rs does, is the canonical form.

mod canonical;
mod key;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

pub use key::{CryptoFailed, KeyError, KeyType, PrivateKey, txt_strings};

use crate::clock::{SECOND, Time};
use crate::config::DkimKey;

/// Longest line we write, without CRLF (RFC 5322 section 2.1.1).
const LINE: usize = 76;
/// Keys of one domain at a time: two kinds, two selectors of each while keys are changed, and as much
/// again. Every signature is a header field of some 400 bytes in every mail.
const MAX_KEYS_PER_DOMAIN: usize = 8;

/// Longest selector: with `._domainkey.` and a domain it must fit a name of the DNS, 253 bytes.
const MAX_SELECTOR_BYTES: usize = 64;

/// The header fields under the signature, and whether each is named once more than it occurs, so that
/// nobody can add another one on the way (RFC 6376 sections 5.4.1 and 8.15; RFC 8058 section 4 for the
/// two of unsubscribing).
const SIGNED: &[(&str, bool)] = &[
    ("from", true),
    ("subject", true),
    ("to", true),
    ("date", true),
    ("reply-to", true),
    ("cc", true),
    ("message-id", true),
    ("mime-version", false),
    ("content-type", false),
    ("content-transfer-encoding", false),
    ("list-id", false),
    ("list-unsubscribe", true),
    ("list-unsubscribe-post", true),
    ("feedback-id", false),
];

/// One key of a domain.
#[derive(Debug)]
pub struct Signer {
    /// `s=`, in ASCII.
    pub selector: String,
    /// Where the key was read.
    pub key_file: PathBuf,
    /// Signs.
    pub key: PrivateKey,
}

/// All declared keys.
#[derive(Debug, Default)]
pub struct Signers {
    /// By domain (`d=`, ASCII, lower case); RSA keys first, each kind in the order of declaration.
    domains: BTreeMap<String, Vec<Signer>>,
}

/// What is wrong with a declared key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyProblem {
    /// Which of the declared keys.
    pub index: usize,
    /// What of it.
    pub part: KeyPart,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// A setting of a declared key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPart {
    /// `domain`
    Domain,
    /// `key_file`
    File,
}

/// Where a declared key's file is: relative to the folder of `optin.toml`.
pub fn key_path(dir: &Path, key: &DkimKey) -> PathBuf {
    dir.join(&key.key_file.value)
}

/// Whether a file can be read by users who neither own it nor are of its group.
pub fn everybody_may_read(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

/// A domain as DNS and `d=` write it (RFC 6376 section 3.5), or `None`.
pub fn ascii_domain(domain: &str) -> Option<String> {
    let ascii = idna::domain_to_ascii_strict(domain).ok()?;
    ascii.contains('.').then_some(ascii)
}

/// Whether this can be a selector: labels of a domain name (RFC 6376 section 3.1).
pub fn is_selector(selector: &str) -> bool {
    let label = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) && (1..=63).contains(&label.len())
    };
    selector.len() <= MAX_SELECTOR_BYTES && selector.split('.').all(label)
}

impl Signers {
    /// Reads the declared keys; their files are relative to `dir`. That domains and selectors are names
    /// and no two keys share both is `config`'s to check.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn load(keys: &[DkimKey], dir: &Path) -> Result<Signers, Vec<KeyProblem>> {
        let mut problems = Vec::new();
        let mut domains: BTreeMap<String, Vec<Signer>> = BTreeMap::new();
        // Of each domain: the key declared first, and whether all its files could be read.
        let mut seen: BTreeMap<String, (usize, bool)> = BTreeMap::new();
        for (index, declared) in keys.iter().enumerate() {
            let mut problem = |part, message: String, hint: &str| {
                problems.push(KeyProblem { index, part, message, hint: hint.to_owned() });
            };
            let domain = declared.domain.to_ascii_lowercase();
            let (_, whole) = seen.entry(domain.clone()).or_insert((index, true));
            let signers = domains.entry(domain.clone()).or_default();
            if signers.len() == MAX_KEYS_PER_DOMAIN {
                problem(
                    KeyPart::Domain,
                    format!("more than {MAX_KEYS_PER_DOMAIN} keys for `{domain}`"),
                    "every key adds a signature to every mail: remove those that are no longer needed",
                );
                continue;
            }
            let key_file = key_path(dir, declared);
            match PrivateKey::read(&key_file) {
                Ok(key) => signers.push(Signer { selector: declared.selector.value.clone(), key_file, key }),
                Err(KeyError { message, hint }) => {
                    problem(KeyPart::File, format!("`{}`: {message}", key_file.display()), &hint);
                    *whole = false;
                }
            }
        }
        for (domain, (index, whole)) in seen {
            let Some(signers) = domains.get_mut(&domain) else { continue };
            signers.sort_by_key(|signer| signer.key.kind());
            if whole && signers.first().is_some_and(|signer| signer.key.kind() != KeyType::Rsa) {
                problems.push(KeyProblem {
                    index,
                    part: KeyPart::Domain,
                    message: format!("`{domain}` has an Ed25519 key and no RSA key"),
                    // RFC 8463 section 3 and RFC 8301 section 3.1: only rsa-sha256 is understood everywhere.
                    hint: format!(
                        "many receivers verify RSA only, and would see no signature: make one beside it with `optin dkim new {domain} --selector NAME`"
                    ),
                });
            }
        }
        if problems.is_empty() { Ok(Signers { domains }) } else { Err(problems) }
    }

    /// Whether no key is declared, and mails leave unsigned.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Every domain with its keys, by name.
    pub fn domains(&self) -> impl Iterator<Item = (&str, &[Signer])> {
        self.domains.iter().map(|(domain, signers)| (domain.as_str(), signers.as_slice()))
    }

    /// The domain (`d=`) and keys that sign for a From domain: its own, else those of the nearest
    /// parent that has any. DMARC takes the parent's signature as the sender's (relaxed alignment, RFC
    /// 9989), as long as both belong to one organisation; that a public suffix has no key here is up to
    /// whoever declares keys.
    pub fn for_domain(&self, from_domain: &str) -> Option<(&str, &[Signer])> {
        let ascii;
        let mut domain = from_domain;
        if !self.domains.contains_key(domain) {
            ascii = ascii_domain(from_domain)?;
            domain = &ascii;
        }
        loop {
            if let Some((domain, signers)) = self.domains.get_key_value(domain) {
                return Some((domain, signers));
            }
            domain = domain.split_once('.')?.1;
        }
    }

    /// Puts one `DKIM-Signature` field for each key that signs for `from_domain` before the message,
    /// the RSA ones on top. The message is complete otherwise: header fields, an empty line, the body,
    /// lines ending in CRLF, with or without the CRLF at the very end (SMTP adds it before the final
    /// dot, and the signature covers it). Answers how many signatures there are now: 0 where no key
    /// signs for the domain.
    ///
    /// # Errors
    /// See [`CryptoFailed`]; the message is as it was.
    pub fn sign(&self, from_domain: &str, message: &mut Vec<u8>, now: Time) -> Result<usize, CryptoFailed> {
        let Some((domain, signers)) = self.for_domain(from_domain) else { return Ok(0) };
        let parts = canonical::parts(message);
        let body_hash = BASE64.encode(digest::digest(&digest::SHA256, &canonical::body(&message[parts.body..])));
        let (names, text) = signed_fields(message, &parts);
        let mut hashed_fields = digest::Context::new(&digest::SHA256);
        hashed_fields.update(&text);
        let mut top = Vec::with_capacity(signers.len() * 900);
        for signer in signers {
            let mut field = unsigned_field(signer, domain, &names, &body_hash, now);
            // The field itself comes last, without its signature and line end (section 3.7).
            let mut own = Vec::with_capacity(field.len());
            canonical::push_field(&mut own, field.as_bytes());
            let mut hash = hashed_fields.clone();
            hash.update(&own);
            push_signature(&mut field, &signer.key.sign(&hash.finish())?);
            top.extend_from_slice(field.as_bytes());
        }
        let length = message.len();
        message.resize(length + top.len(), 0);
        message.copy_within(..length, top.len());
        message[..top.len()].copy_from_slice(&top);
        Ok(signers.len())
    }
}

/// The names for `h=` and the canonical text of the fields they name. Where a field occurs several
/// times, names stand for the fields from the bottom up (RFC 6376 section 5.4.2).
fn signed_fields(message: &[u8], parts: &canonical::Parts) -> (Vec<&'static str>, Vec<u8>) {
    let mut names = Vec::with_capacity(SIGNED.len() * 2);
    let mut text = Vec::with_capacity(parts.body);
    for (name, once_more) in SIGNED {
        for field in parts.fields.iter().rev().map(|field| &message[field.clone()]).filter(|field| canonical::is_named(field, name)) {
            names.push(*name);
            canonical::push_field(&mut text, field);
            text.extend_from_slice(b"\r\n");
        }
        if *once_more {
            names.push(*name);
        }
    }
    (names, text)
}

/// The field with an empty `b=`. No `l=`: text could be added below the signature (section 8.2). No
/// `i=`: its default, the domain, says all we know.
fn unsigned_field(signer: &Signer, domain: &str, names: &[&str], body_hash: &str, now: Time) -> String {
    let mut field = Folded::new("DKIM-Signature: v=1;");
    field.push(" ", &format!("a={};", signer.key.kind().algorithm()));
    field.push(" ", "c=relaxed/relaxed;");
    field.push(" ", &format!("d={domain};"));
    field.push(" ", &format!("s={};", signer.selector));
    field.push(" ", &format!("t={};", now.millis().div_euclid(SECOND)));
    for (index, name) in names.iter().enumerate() {
        let end = if index + 1 == names.len() { ";" } else { ":" };
        match index {
            0 => field.push(" ", &format!("h={name}{end}")),
            _ => field.push("", &format!("{name}{end}")),
        }
    }
    field.push(" ", &format!("bh={body_hash};"));
    // Always on a line of its own: the lines of the signature are counted from there.
    field.text.push_str("\r\n b=");
    field.text
}

fn push_signature(field: &mut String, signature: &[u8]) {
    let encoded = BASE64.encode(signature);
    let mut rest = encoded.as_str();
    // The first line starts with ` b=`, the others with a blank.
    let mut room = LINE - 3;
    while rest.len() > room {
        let (line, after) = rest.split_at(room);
        field.push_str(line);
        field.push_str("\r\n ");
        rest = after;
        room = LINE - 1;
    }
    field.push_str(rest);
    field.push_str("\r\n");
}

/// A field that is folded before what no longer fits its line.
struct Folded {
    text: String,
    column: usize,
}

impl Folded {
    fn new(start: &str) -> Folded {
        let mut text = String::with_capacity(1024);
        text.push_str(start);
        Folded { text, column: start.len() }
    }

    /// Adds a piece, with `between` before it unless it starts a line.
    fn push(&mut self, between: &str, piece: &str) {
        if self.column + between.len() + piece.len() > LINE {
            self.text.push_str("\r\n ");
            self.column = 1;
        } else {
            self.text.push_str(between);
            self.column += between.len();
        }
        self.text.push_str(piece);
        self.column += piece.len();
    }
}

#[cfg(test)]
mod tests;
