//! Confirmation mails that were asked for.

use std::sync::Arc;

use super::RunError;
use crate::consent::invitation::{self, Invitation};
use crate::contact::{self, Address};
use crate::content::confirmation;
use crate::delivery::provider::OTHER;
use crate::delivery::question;
use crate::delivery::smtp::{Failure, Session};
use crate::delivery::verdict::{Verdict, read_reply};
use crate::instance::Instance;
use crate::token::Purpose;

/// Sends what is due. A relay that is down leaves them for the next try.
pub(super) async fn send_due(instance: &Arc<Instance>) -> Result<(), RunError> {
    let now = instance.clock.now();
    if !invitation::any_due(&mut instance.db.clone(), now).await? {
        return Ok(());
    }
    let mut tx = instance.db.begin().await?;
    let due = Invitation::take_due(&mut tx, now).await?;
    tx.commit().await?;
    if due.is_empty() {
        return Ok(());
    }
    let sender = &instance.config.sender;
    let relays = instance.relays_for(&sender.email).map_err(RunError::Refused)?;
    let mut session = match Session::open_first(&relays, &instance.host()).await {
        Ok(session) => session,
        Err(failure) => {
            tracing::warn!(problem = %failure, waiting = due.len(), "confirmation mails wait for the relay");
            return Ok(());
        }
    };
    let topics = crate::consent::ops::topics(&mut instance.db.clone()).await?;
    for invitation in due {
        let Some(person) = contact::sql::by_ids(&mut instance.db.clone(), &instance.schema, &[invitation.contact_id()]).await?.pop() else {
            continue;
        };
        let Ok(address) = Address::parse(&person.email) else { continue };
        let topic = topics.get(&invitation.topic_id()).map_or("", String::as_str);
        let name = instance.config.topics.get(topic).map_or(topic, |topic| topic.name.as_str());
        let token = instance.keys.sign(Purpose::Confirm, &[invitation.contact_id(), invitation.topic_id(), invitation.expires().millis()]);
        let link = format!("{}/s/{token}", instance.config.site.url.value);
        let mail = confirmation::write(person.locale.as_deref(), name, sender, &link);
        match question::send(&mut session, &invitation, &address, sender, &instance.signers, &mail, now).await {
            Ok(_) => {
                let mut tx = instance.db.begin().await?;
                invitation.sent(&mut tx, instance.clock.now()).await?;
                tx.commit().await?;
            }
            Err(failure) => {
                let forever = refused_for_good(&failure);
                let next = if forever { "nobody has this address, or takes no mail there" } else { "it is tried again" };
                tracing::warn!(contact = person.id, problem = %failure, next, "a confirmation mail was not taken");
                if forever {
                    let mut tx = instance.db.begin().await?;
                    invitation.refused(&mut tx).await?;
                    tx.commit().await?;
                }
                if failure.ends_session() {
                    return Ok(());
                }
            }
        }
    }
    session.quit().await;
    Ok(())
}

/// Whether another try would be answered alike.
fn refused_for_good(failure: &Failure) -> bool {
    match failure {
        Failure::Refused { stage, reply } => matches!(read_reply(reply.code, &reply.text, *stage, OTHER), Verdict::Bounce { .. }),
        Failure::NeedsSmtpUtf8 => true,
        Failure::Broken { .. } => false,
    }
}
