//! Confirmation mails that were asked for.

use std::sync::Arc;

use super::RunError;
use crate::consent::invitation::{self, Invitation};
use crate::contact::{self, Address};
use crate::content::confirmation;
use crate::delivery::question;
use crate::delivery::smtp::Session;
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
    let relay = instance.relay().map_err(RunError::Refused)?;
    let mut session = match Session::open(&relay, &instance.host()).await {
        Ok(session) => session,
        Err(failure) => {
            tracing::warn!(problem = %failure, waiting = due.len(), "confirmation mails wait for the relay");
            return Ok(());
        }
    };
    let topics = crate::consent::ops::topics(&mut instance.db.clone()).await?;
    let sender = &instance.config.sender;
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
                tracing::warn!(contact = person.id, problem = %failure, "a confirmation mail was not taken; it is tried again");
                if matches!(failure, crate::delivery::smtp::Failure::Broken { .. }) {
                    return Ok(());
                }
            }
        }
    }
    session.quit().await;
    Ok(())
}
