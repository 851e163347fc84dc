//! Sending a confirmation mail: one message, one [`Invitation`].

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
    let message = alternative(&headers, invitation.contact_id() as u64, &mail.text, &mail.html);
    session.envelope(&sender.email, to.wire()).await?;
    session.body(&message).await
}
