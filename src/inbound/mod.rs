//! What came back by mail. So far: requests to leave, by mail to the address in List-Unsubscribe (RFC 2369
//! section 3.2) and by a reply that says so in a word.

mod reply;

use mail_parser::MessageParser;

use reply::{Wish, Writer};

use crate::campaign;
use crate::consent::{self, ALL_TOPICS, Action, NewEvent};
use crate::contact::{self, Address, Schema};
use crate::db::{Db, DbError};
use crate::delivery;
use crate::entropy::Entropy;
use crate::token::{Keys, Purpose};
use crate::tracking;
use crate::{clock::Time, consent::ops::Withdrawal};

/// Larger mails are not looked at: a request to unsubscribe is a few lines.
pub const MAX_MAIL_BYTES: usize = 10 * 1024 * 1024;
/// Mails of one thread that are looked up.
const MAX_ANSWERED: usize = 20;
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
/// address, with any subject around the token; a reply to a mail of ours that says "unsubscribe" in a word of its
/// own does so for whom it was sent to. Any other mail changes nothing.
pub async fn deliver(db: &Db, keys: &Keys, entropy: &Entropy, mail: &[u8], now: Time) -> Result<Delivered, DbError> {
    let request = match find_request(keys, mail) {
        Some((contact_id, topic_id, delivery_id)) => Some(Request { contact_id, topic_id, delivery_id, by: "address" }),
        None => find_reply(db, keys, mail).await?,
    };
    let Some(Request { contact_id, topic_id, delivery_id, by }) = request else { return Ok(Delivered::Other) };
    let mut tx = db.begin().await?;
    let event = NewEvent {
        evidence: Some(consent::ops::evidence(entropy, serde_json::json!({ "delivery": delivery_id, "by": by }))),
        ..NewEvent::new(contact_id, topic_id, Action::Withdrawn, WAY)
    };
    let withdrawal = consent::ops::withdraw(&mut tx, &event, now).await?;
    if withdrawal.changed {
        tracking::ops::note_unsubscribe(&mut tx, delivery_id, contact_id, now, WAY).await?;
    }
    tx.commit().await?;
    Ok(Delivered::Unsubscribe(withdrawal))
}

/// Who wants to leave what.
struct Request {
    contact_id: i64,
    topic_id: i64,
    delivery_id: i64,
    /// How it was asked for.
    by: &'static str,
}

/// A reply that asks to leave, from whom it may come.
async fn find_reply(db: &Db, keys: &Keys, mail: &[u8]) -> Result<Option<Request>, DbError> {
    let Some(message) = MessageParser::default().parse(mail) else { return Ok(None) };
    let Some((wish, writer)) = reply::wish(&message).zip(reply::writer(keys, &message)) else { return Ok(None) };
    let found = match writer {
        Writer::Link(contact_id, topic_id, delivery_id) => Some((contact_id, topic_id, delivery_id)),
        Writer::Answers { deliveries, from } => answered(&mut db.clone(), deliveries, &from).await?,
    };
    Ok(found.map(|(contact_id, topic_id, delivery_id)| {
        let topic_id = if wish == Wish::All { ALL_TOPICS } else { topic_id };
        Request { contact_id, topic_id, delivery_id, by: "reply" }
    }))
}

/// Contact, topic and delivery of the first of these mails that went to the address `from`.
async fn answered(db: &mut Db, deliveries: Vec<i64>, from: &str) -> Result<Option<(i64, i64, i64)>, DbError> {
    let Ok(from) = Address::parse(from) else { return Ok(None) };
    for delivery_id in deliveries.into_iter().take(MAX_ANSWERED) {
        let Some((run_id, contact_id)) = delivery::ops::about(db, delivery_id).await? else { continue };
        let Some(contact) = contact::sql::by_ids(db, &Schema::default(), &[contact_id]).await?.pop() else { continue };
        if contact.email_key == from.key()
            && let Some(run) = campaign::ops::run(db, run_id).await?
        {
            return Ok(Some((contact_id, run.topic_id, delivery_id)));
        }
    }
    Ok(None)
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
