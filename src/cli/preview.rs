//! `optin preview` and `optin test`

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;

use super::out::{Failure, Outcome};
use super::{Context, contact_by_email, known_campaign, parse_address};
use crate::campaign::Definition;
use crate::consent::tracking::TrackingRules;
use crate::consent::{self, Tracking};
use crate::contact::Contact;
use crate::content::{self, Mail, Recipient};
use crate::delivery::links::DeliveryLinks;
use crate::delivery::message::Envelope;
use crate::delivery::smtp::Session;
use crate::instance::Instance;

/// Stand in links of previews and tests: nobody has these ids, so nothing is counted, and a click on
/// "unsubscribe" in a test mail does not withdraw the customer it was written for.
const NO_DELIVERY: i64 = 0;
const NO_RUN: i64 = 0;
const NOBODY: i64 = 0;
/// Before the subject of a test mail.
const TEST_MARK: &str = "[TEST]";

/// How a preview is printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// The message as it would go over the wire.
    Eml,
    /// The HTML part.
    Html,
    /// The text part.
    Text,
}

/// Prints a campaign's mail exactly as one person would get it. Nothing is sent or counted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Nothing is sent and nothing counted; its links lead nowhere in particular.\n\n\
        Examples:\n  optin preview weekly --to mei@tea.example --format text\n  \
        optin preview weekly --to mei@tea.example --format html --output mail.html")]
pub struct Preview {
    /// The campaign.
    campaign: String,
    /// The contact it is written for.
    #[arg(long, value_name = "EMAIL")]
    to: String,
    /// What to print.
    #[arg(long, value_enum, default_value = "eml")]
    format: Format,
    /// Write to this file instead of standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Preview {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        let contact = contact_by_email(&instance, &self.to).await?;
        let written = write(context, &instance, &self.campaign, &contact).await?;
        let wire = parse_address(&contact.email)?.wire().to_owned();
        let eml = written.bytes(&instance, &wire, None, context)?;
        if context.out.json {
            return context.out.document(&json!({
                "campaign": self.campaign,
                "to": contact.email,
                "subject": written.mail.subject,
                "preheader": written.mail.preheader,
                "html": written.mail.html,
                "text": written.mail.text,
                "eml": String::from_utf8_lossy(&eml),
            }));
        }
        let bytes = match self.format {
            Format::Eml => [eml.as_slice(), b"\r\n"].concat(),
            Format::Html => written.mail.html.into_bytes(),
            Format::Text => written.mail.text.into_bytes(),
        };
        match self.output {
            Some(file) => std::fs::write(&file, bytes).map_err(|error| anyhow::anyhow!("cannot write `{}`: {error}", file.display()))?,
            None => context.out.raw(&bytes),
        }
        Ok(())
    }
}

/// Sends one mail, marked as a test, to an address of yours. It counts nowhere.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  optin test weekly --to me@tea.example --as mei@customer.example")]
pub struct Test {
    /// The campaign.
    campaign: String,
    /// Where the test mail goes.
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// The contact it is written for.
    #[arg(long = "as", value_name = "EMAIL")]
    written_for: String,
}

impl Test {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        let contact = contact_by_email(&instance, &self.written_for).await?;
        let written = write(context, &instance, &self.campaign, &contact).await?;
        let to = parse_address(&self.to)?.wire().to_owned();
        let message = written.bytes(&instance, &to, Some(TEST_MARK), context)?;
        let relays = instance.relays_for(written.envelope.return_path()).map_err(anyhow::Error::msg)?;
        let failed = |failure: crate::delivery::smtp::Failure| Failure::Refused(format!("the test mail was not sent: {failure}"));
        let mut session = Session::open_first(&relays, &instance.host()).await.map_err(failed)?;
        session.envelope(written.envelope.return_path(), &to).await.map_err(failed)?;
        let reply = session.body(&message).await.map_err(failed)?;
        session.quit().await;
        if context.out.json {
            return context
                .out
                .document(&json!({ "campaign": self.campaign, "to": self.to, "as": contact.email, "reply": reply.to_string() }));
        }
        context.out.data(format!("Sent to {}: {reply}", self.to));
        Ok(())
    }
}

/// A campaign's mail for one person.
struct Written {
    definition: Definition,
    envelope: Envelope,
    mail: Mail,
    topic_id: i64,
    tracking: Tracking,
}

impl Written {
    fn bytes(&self, instance: &Instance, wire: &str, mark: Option<&str>, context: &Context) -> Result<Vec<u8>, Failure> {
        let links = links(instance, self.topic_id, self.definition.track_opens, self.tracking);
        let now = context.clock.now();
        let mut message = self.envelope.message(&self.definition, wire, &self.mail, &links, mark, now);
        instance.signers.sign(self.envelope.domain(), &mut message, now)?;
        Ok(message)
    }
}

fn links(instance: &Instance, topic_id: i64, track_opens: bool, tracking: Tracking) -> DeliveryLinks<'_> {
    DeliveryLinks {
        keys: &instance.keys,
        site: &instance.config.site.url.value,
        delivery_id: NO_DELIVERY,
        run_id: NO_RUN,
        contact_id: NOBODY,
        topic_id,
        track_opens,
        tracking,
    }
}

async fn write(context: &Context, instance: &Instance, campaign: &str, contact: &Contact) -> Result<Written, Failure> {
    known_campaign(instance, campaign)?;
    let definition = Definition::new(&instance.config, &instance.config.campaigns[campaign]);
    let prepared = content::prepare(&definition, &instance.schema, &instance.frame)
        .map_err(|problems| anyhow::anyhow!(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    let now = context.clock.now();
    let topic_id = consent::ops::ensure_topic(&instance.db, &definition.topic, &instance.entropy, now).await?;
    let mut tx = instance.db.begin_read().await?;
    let grounds = consent::grounds(&mut tx, topic_id, &[contact.id]).await?.remove(&contact.id);
    tx.rollback().await?;
    let chosen = consent::ops::choices(&mut instance.db.clone(), contact.id).await?.tracking;
    let tracking = TrackingRules::new(&instance.config.consent).of(chosen, contact).0;
    let links = links(instance, topic_id, definition.track_opens, tracking);
    let mail = prepared
        .render(&Recipient { contact, links: &links, grounds: grounds.as_ref(), now })
        .map_err(|error| Failure::Refused(format!("{} would not get this mail: {error}", contact.email)))?;
    Ok(Written { envelope: Envelope::new(&definition), definition, mail, topic_id, tracking })
}
