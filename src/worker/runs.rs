//! Making runs, and making them readable again.

use std::sync::Arc;

use super::RunError;
use crate::campaign::ops::{self as runs, NewRun};
use crate::campaign::{Definition, Run};
use crate::clock::Time;
use crate::consent;
use crate::contact;
use crate::content::{self, Recipient};
use crate::delivery::engine::RunContext;
use crate::delivery::links::DeliveryLinks;
use crate::delivery::message::Envelope;
use crate::instance::Instance;

/// The frozen campaign of a run.
pub(super) fn definition_of(run: &Run) -> Result<Definition, RunError> {
    serde_json::from_str(&run.definition)
        .map_err(|error| RunError::Refused(format!("the definition stored with run {} cannot be read: {error}", run.id)))
}

/// A stored run, ready to be rendered.
pub fn prepare_context(instance: &Instance, run: &Run) -> Result<RunContext, RunError> {
    let definition = definition_of(run)?;
    let content = content::prepare(&definition, &instance.schema, &instance.frame)
        .map_err(|problems| RunError::Refused(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    Ok(RunContext { run: run.clone(), envelope: Envelope::new(&definition), definition, content: Arc::new(content) })
}

/// What `send` asks for: goes on with an unfinished run, repeats a finished one only when told so.
pub async fn start_run(instance: &Instance, campaign: &str, again: bool, at: Option<Time>) -> Result<(Run, bool), RunError> {
    let config_campaign = instance.campaign(campaign).map_err(RunError::Refused)?;
    let now = instance.clock.now();
    let definition = Definition::new(&instance.config, config_campaign);
    let mut links = None;
    for _ in 0..10 {
        // What is known and the next firing come from one look: whoever was faster since has taken
        // that firing, and we look again.
        let (known, firing) = runs::manual_run(&mut instance.db.clone(), campaign, again).await?;
        match known {
            Some(run) if !run.state.is_final() && at.is_some() => {
                return Err(RunError::Refused(format!(
                    "{campaign} has a run that is {} already, due {}: a second one would mail everybody twice\n\
                     hint: `optin run cancel {}` first",
                    run.state.as_str(),
                    run.scheduled_at,
                    run.id
                )));
            }
            Some(run) if !run.state.is_final() => return Ok((run, false)),
            Some(run) if !again => return Ok((run, false)),
            _ => {}
        }
        if links.is_none() {
            links = Some(links_of(&definition, instance)?);
        }
        let mut tx = instance.db.begin().await?;
        let topic_id = consent::ops::topic_id(&mut tx, &definition.topic, &instance.entropy, now).await?;
        let links = links.as_deref().unwrap_or_default();
        let new = NewRun { definition: &definition, topic_id, firing: &firing, scheduled_at: at.unwrap_or(now), links };
        let made = runs::create_run(&mut tx, new, &instance.entropy, now).await?;
        tx.commit().await?;
        if let Some(run) = made {
            return Ok((run, true));
        }
    }
    Err(RunError::Refused("somebody else starts this campaign at the same moment; try again".to_owned()))
}

/// Renders the mail of a delivery again, for the page that shows it; its links are tracked as the person
/// may be tracked now.
pub fn render_again(
    instance: &Instance,
    context: &RunContext,
    contact: &contact::Contact,
    grounds: Option<&consent::Grounds>,
    tracking: consent::Tracking,
    delivery_id: i64,
    now: Time,
) -> Result<content::Mail, content::RenderError> {
    let links = DeliveryLinks {
        keys: &instance.keys,
        site: &instance.config.site.url.value,
        delivery_id,
        run_id: context.run.id,
        contact_id: contact.id,
        topic_id: context.run.topic_id,
        track_opens: false,
        tracking,
    };
    context.content.render(&Recipient { contact, links: &links, grounds, now })
}

/// The links of a campaign, numbered as in its content: position, address, name.
pub(super) fn links_of(definition: &Definition, instance: &Instance) -> Result<Vec<(i64, String, String)>, RunError> {
    let prepared = content::prepare(definition, &instance.schema, &instance.frame)
        .map_err(|problems| RunError::Refused(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    Ok(prepared.links().iter().map(|link| (link.position, link.url.clone(), link.name.clone())).collect())
}
