//! What a form sent, read without trust.

use url::form_urlencoded;

use super::super::fields::Typed;

/// Most pairs looked at: the largest honest form stays far below.
const MAX_PAIRS: usize = 500;

/// A form as sent. Pairs that are not ours are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub email: String,
    /// Topics ticked, as sent.
    pub topics: Vec<String>,
    pub typed: Typed,
    /// The hash of the words that stood beside the button.
    pub wording: String,
    pub challenge: String,
    pub solution: String,
    pub wait: String,
    /// The field that people do not see was filled in.
    pub trapped: bool,
}

impl Sent {
    pub fn of(body: &[u8]) -> Sent {
        let pairs: Vec<(String, String)> =
            form_urlencoded::parse(body).take(MAX_PAIRS).map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        let mut sent = Sent { typed: Typed::of_form(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))), ..Sent::default() };
        for (name, value) in pairs {
            match name.as_str() {
                "email" => sent.email = value,
                "topic" => sent.topics.push(value),
                "wording" => sent.wording = value,
                "challenge" => sent.challenge = value,
                "solution" => sent.solution = value,
                "wait" => sent.wait = value,
                "website" => sent.trapped |= !value.trim().is_empty(),
                _ => {}
            }
        }
        sent
    }

    /// Names and values that a page in between carries on: what a person entered and saw.
    pub fn carried(&self) -> Vec<(String, String)> {
        let mut out = vec![("email".to_owned(), self.email.clone()), ("wording".to_owned(), self.wording.clone())];
        out.extend(self.topics.iter().map(|topic| ("topic".to_owned(), topic.clone())));
        out.extend(self.typed.pairs().map(|(name, value)| (name, value.to_owned())));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_in_between_loses_nothing() {
        let sent = Sent::of(b"email=mei%40tea.example&topic=a&topic=b&f.city=Taipei&f.likes=x&f.likes=y&wording=77&other=1&website=+");
        assert_eq!((sent.trapped, sent.topics.len()), (false, 2));
        let body: Vec<String> = sent.carried().iter().map(|(name, value)| format!("{name}={}", value.replace('@', "%40"))).collect();
        assert_eq!(Sent::of(body.join("&").as_bytes()), sent);
        assert!(Sent::of(b"website=http%3A%2F%2Fspam.example").trapped);
    }
}
