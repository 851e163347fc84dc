//! What stands between a form and a machine: where a request comes from, the challenge, the wait.

use axum::http::HeaderMap;

use super::sent::Sent;
use crate::clock::{SECOND, Time};
use crate::consent::requests::{Asker, CHALLENGE_MS, Proof, WAIT_MS, solves};
use crate::instance::Instance;
use crate::token::Purpose;

/// How long somebody waits who has no script.
pub(super) const WAIT_SECONDS: i64 = WAIT_MS / SECOND;

/// A challenge as a page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub token: String,
    pub bits: u32,
}

/// A ticket whose time has not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Early {
    pub ticket: String,
    pub seconds: i64,
}

/// Makes and reads the signed parts of one form.
#[derive(Clone, Copy)]
pub(super) struct Gate<'a> {
    pub instance: &'a Instance,
    pub form: &'a str,
}

impl Gate<'_> {
    fn nonce(self) -> i64 {
        (self.instance.entropy.u64() >> 1).cast_signed()
    }

    /// A challenge of its own for each page.
    pub fn challenge(self, now: Time) -> Challenge {
        let expires = now.plus(CHALLENGE_MS).millis();
        let token = self.instance.keys.sign_bound(Purpose::FormChallenge, &[expires, self.nonce()], self.form);
        Challenge { token, bits: self.instance.config.form_limits.challenge_bits }
    }

    /// A ticket for an address, good once from a moment on.
    pub fn wait(self, address_key: &str, now: Time) -> String {
        let from = now.plus(WAIT_MS).millis();
        self.instance.keys.sign_bound(Purpose::FormWait, &[from, self.nonce()], &self.bound(address_key))
    }

    fn bound(self, address_key: &str) -> String {
        format!("{} {address_key}", self.form)
    }

    /// What a form brought along. A ticket that came early is answered apart: it stays good.
    pub fn proof(self, sent: &Sent, address_key: &str, now: Time) -> (Proof, Option<Early>) {
        let keys = &self.instance.keys;
        if let Ok([expires, _]) = keys.verify_bound(Purpose::FormChallenge, &sent.challenge, self.form).as_deref()
            && now < Time::from_millis(*expires)
            && sent.solution.len() <= 20
            && solves(&sent.challenge, &sent.solution, self.instance.config.form_limits.challenge_bits)
        {
            return (Proof::Solved(sent.challenge.clone()), None);
        }
        if let Ok([from, _]) = keys.verify_bound(Purpose::FormWait, &sent.wait, &self.bound(address_key)).as_deref() {
            let from = Time::from_millis(*from);
            if now < from {
                let seconds = (from.since(now) + SECOND - 1) / SECOND;
                return (Proof::None, Some(Early { ticket: sent.wait.clone(), seconds }));
            }
            if now < from.plus(CHALLENGE_MS) {
                return (Proof::Waited(sent.wait.clone()), None);
            }
        }
        (Proof::None, None)
    }

    pub fn asker<'k>(self, client: Option<&'k str>, address_key: &'k str, proof: Proof) -> Asker<'k> {
        Asker { client, address_key, proof }
    }
}

/// Whether a browser says that another site sent the form, and that site is not listed. A browser that says
/// nothing is old, or no browser: every current one names the origin of a form of another site (Fetch, 3.2),
/// or that it has none.
pub(super) fn is_foreign(headers: &HeaderMap, site: &str, listed: &[String]) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let origin_of = |address: &str| url::Url::parse(address).ok().map(|url| url.origin().ascii_serialization());
    let origin = text("origin");
    if origin.is_some_and(|origin| listed.iter().any(|site| origin_of(site).as_deref() == Some(origin))) {
        return false;
    }
    match text("sec-fetch-site") {
        Some("same-origin" | "none") => false,
        Some(_) => true,
        None => origin.is_some_and(|origin| origin_of(site).as_deref() != Some(origin)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_of_another_site_is_told_from_ours() {
        let listed = ["https://tea.example".to_owned()];
        let foreign = |pairs: &[(&'static str, &str)]| {
            let headers = pairs.iter().map(|(name, value)| ((*name).parse().expect("a name"), value.parse().expect("a value"))).collect();
            is_foreign(&headers, "https://news.tea.example", &listed)
        };
        assert!(!foreign(&[]));
        assert!(!foreign(&[("origin", "https://news.tea.example")]));
        assert!(!foreign(&[("origin", "null"), ("sec-fetch-site", "same-origin")]));
        assert!(!foreign(&[("origin", "https://tea.example"), ("sec-fetch-site", "same-site")]));
        assert!(foreign(&[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]));
        assert!(foreign(&[("origin", "https://evil.example")]));
        assert!(foreign(&[("origin", "null")]));
        assert!(foreign(&[("origin", "https://tea.example.evil.example")]));
        assert!(foreign(&[("origin", "http://tea.example")]));
    }
}
