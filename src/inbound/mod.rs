//! What came back by mail. So far: mails to the address in List-Unsubscribe (RFC 2369 section 3.2).

use mail_parser::MessageParser;

use crate::consent::{self, Action, NewEvent};
use crate::db::{Db, DbError};
use crate::entropy::Entropy;
use crate::token::{Keys, Purpose};
use crate::tracking;
use crate::{clock::Time, consent::ops::Withdrawal};

/// Larger mails are not looked at: a request to unsubscribe is a few lines.
pub const MAX_MAIL_BYTES: usize = 10 * 1024 * 1024;
/// What the List-Unsubscribe address puts before the token.
const WORD: &str = "unsubscribe";
/// How a withdrawal by mail is named in the ledger and the report.
const WAY: &str = "mail";

/// What a mail was, and what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// A request to unsubscribe, carried out before this answer; false where nothing was left to
    /// withdraw.
    Unsubscribe(Withdrawal),
    /// Something else: nothing was done.
    Other,
}

/// Reads one mail. Whoever holds the token of a mail may unsubscribe its recipient, from any
/// address, with any subject around the token; a mail without a valid token changes nothing.
pub async fn deliver(db: &Db, keys: &Keys, entropy: &Entropy, mail: &[u8], now: Time) -> Result<Delivered, DbError> {
    let Some((contact_id, topic_id, delivery_id)) = find_request(keys, mail) else { return Ok(Delivered::Other) };
    let mut tx = db.begin().await?;
    let event = NewEvent {
        evidence: Some(consent::ops::evidence(entropy, serde_json::json!({ "delivery": delivery_id }))),
        ..NewEvent::new(contact_id, topic_id, Action::Withdrawn, WAY)
    };
    let withdrawal = consent::ops::withdraw(&mut tx, &event, now).await?;
    if withdrawal.changed {
        tracking::ops::note_unsubscribe(&mut tx, delivery_id, contact_id, now, WAY).await?;
    }
    tx.commit().await?;
    Ok(Delivered::Unsubscribe(withdrawal))
}

/// Contact, topic and delivery of the token in the subject or the text, if there is a genuine one.
fn find_request(keys: &Keys, mail: &[u8]) -> Option<(i64, i64, i64)> {
    let message = MessageParser::default().parse(mail)?;
    let text = message.body_text(0);
    [message.subject().unwrap_or_default(), text.as_deref().unwrap_or_default()].into_iter().find_map(|text| {
        let lower = text.to_ascii_lowercase();
        lower.match_indices(WORD).find_map(|(at, _)| {
            let token = text[at + WORD.len()..].split_whitespace().next()?;
            match keys.verify(Purpose::UnsubscribeMail, token).ok()?[..] {
                [contact_id, topic_id, delivery_id] => Some((contact_id, topic_id, delivery_id)),
                _ => None,
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_in_odd_mails_and_only_a_genuine_one_counts() {
        let keys = Keys::new("a secret of this test", &[]);
        let token = keys.sign(Purpose::UnsubscribeMail, &[1, 2, 3]);
        let mail = |subject: &str, body: &str| format!("From: a@b.example\r\nSubject: {subject}\r\n\r\n{body}\r\n");
        for mail in [
            mail(&format!("unsubscribe {token}"), ""),
            mail(&format!("Re: AW: Unsubscribe {token} please"), "thanks"),
            mail("stop", &format!("> unsubscribe {token}")),
        ] {
            assert_eq!(find_request(&keys, mail.as_bytes()), Some((1, 2, 3)), "{mail}");
        }
        let page = keys.sign(Purpose::UnsubscribeBody, &[1, 2, 3]);
        for mail in
            [mail("unsubscribe", ""), mail(&format!("unsubscribe {page}"), ""), mail(&format!("unsubscribe {token}x"), ""), String::new()]
        {
            assert_eq!(find_request(&keys, mail.as_bytes()), None, "{mail}");
        }
    }
}
