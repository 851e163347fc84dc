//! Sending a confirmation mail: one message, one [`Invitation`].

use super::dkim::Signers;
use super::mime::{Header, alternative, date};
use super::smtp::{Failure, Reply, Session};
use crate::clock::Time;
use crate::config::Sender;
use crate::consent::invitation::Invitation;
use crate::contact::Address;
use crate::content::Mail;

/// Hands a confirmation mail over. Marked as automatic (RFC 3834 section 5.1), so that nobody's
/// holiday notice answers it.
///
/// # Errors
/// What the relay said, or how the session broke.
pub async fn send(
    session: &mut Session,
    invitation: &Invitation,
    to: &Address,
    sender: &Sender,
    signers: &Signers,
    mail: &Mail,
    now: Time,
) -> Result<Reply, Failure> {
    let domain = sender.email.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let id = format!("<c{:x}.{:x}.{:x}.optin@{domain}>", invitation.contact_id(), invitation.topic_id(), invitation.expires().millis());
    let mut headers = vec![
        Header::structured("Date", date(now)),
        Header::mailbox("From", &sender.name, &sender.email),
        Header::mailbox("To", "", to.wire()),
        Header::text("Subject", &mail.subject),
        Header::structured("Message-ID", id),
        Header::structured("Auto-Submitted", "auto-generated".to_owned()),
    ];
    if let Some(reply_to) = &sender.reply_to {
        headers.push(Header::mailbox("Reply-To", "", reply_to));
    }
    let mut message = alternative(&headers, invitation.contact_id() as u64, &mail.text, &mail.html);
    if let Err(problem) = signers.sign(domain, &mut message, now) {
        // The library has no memory left, at worst: the question is worth more than its signature.
        tracing::error!(contact = invitation.contact_id(), %problem, "a confirmation mail leaves unsigned");
    }
    session.envelope(&sender.email, to.wire()).await?;
    session.body(&message).await
}
