//! `optin consent grant|withdraw|history|verify`

use serde_json::json;

use super::out::{Failure, Outcome, shown, table};
use super::{Context, contact_by_email, known_topic, parse_address, refused};
use crate::consent::{self, Action as Event, NewEvent, Standing};
use crate::instance::Instance;

/// Who agreed to what, and the proof.
#[derive(Debug, clap::Args)]
pub struct ConsentCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Record a consent that you hold the proof of.
    #[command(after_help = "Examples:\n  optin consent grant mei@tea.example --topic tea-letter --source 'paper form 17'\n\n  \
        # also after a withdrawal, because she asked for it again:\n  \
        optin consent grant mei@tea.example --topic tea-letter --source 'letter, 3 May' --confirmed")]
    Grant {
        /// The address; a new contact is made for a new one.
        email: String,
        /// A topic of topics.toml.
        #[arg(long)]
        topic: String,
        /// Where the consent came from.
        #[arg(long)]
        source: String,
        /// The person confirmed it freshly: the only way back after a withdrawal.
        #[arg(long)]
        confirmed: bool,
    },
    /// Withdraw a contact from a topic, at once, also from sends under way.
    #[command(after_help = "Examples:\n  optin consent withdraw mei@tea.example --topic tea-letter --source 'by telephone'\n  \
        optin consent withdraw mei@tea.example --source 'wants no mail at all'")]
    Withdraw {
        /// The address.
        email: String,
        /// A topic of topics.toml; without it, everything.
        #[arg(long)]
        topic: Option<String>,
        /// How the person asked for it.
        #[arg(long)]
        source: String,
    },
    /// Every entry of the ledger about one contact.
    #[command(after_help = "Examples:\n  optin consent history mei@tea.example\n  optin consent history mei@tea.example --json")]
    History {
        /// The address.
        email: String,
    },
    /// Check the whole chain of the ledger.
    #[command(after_help = "Exit code 1 where an entry was edited, deleted, inserted or moved; the first one is named.\n\n\
        Example:\n  optin consent verify")]
    Verify,
}

impl ConsentCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        match self.action {
            Action::Grant { email, topic, source, confirmed } => grant(context, &email, &topic, source, confirmed).await,
            Action::Withdraw { email, topic, source } => withdraw(context, &email, topic.as_deref(), source).await,
            Action::History { email } => history(context, &email).await,
            Action::Verify => verify(context).await,
        }
    }
}

async fn grant(context: &Context, email: &str, topic: &str, source: String, confirmed: bool) -> Outcome {
    let instance = context.instance().await?;
    known_topic(&instance, topic)?;
    let address = parse_address(email)?;
    let now = context.clock.now();
    let mut tx = instance.db.begin().await?;
    let contact_id =
        consent::ops::make_known(&mut tx, &instance.schema, &instance.entropy, &instance.digests(), now, &address, &[]).await?.id;
    let topic_id = consent::ops::topic_id(&mut tx, topic, &instance.entropy, now).await?;
    let action = if confirmed { Event::Confirmed } else { Event::Granted };
    let event = NewEvent {
        basis: Some(consent::Basis::Consent),
        purpose: instance.config.topics.get(topic).map(|topic| topic.purpose.clone()),
        ..by_hand(&instance, contact_id, topic_id, action, email, &source)
    };
    let change = consent::ledger::append(&mut tx, &[event], now).await?.remove(0);
    if change.after != Standing::Subscribed {
        tx.rollback().await?;
        return refused(format!(
            "`{email}` withdrew from `{topic}`: a grant does not bring anybody back; nothing was written\n\
             hint: with a fresh confirmation by the person in hand, add `--confirmed`"
        ));
    }
    tx.commit().await?;
    answer(context, email, topic, change.after)
}

async fn withdraw(context: &Context, email: &str, topic: Option<&str>, source: String) -> Outcome {
    let instance = context.instance().await?;
    if let Some(topic) = topic {
        known_topic(&instance, topic)?;
    }
    let contact = contact_by_email(&instance, email).await?;
    let now = context.clock.now();
    let mut tx = instance.db.begin().await?;
    let topic_id = match topic {
        Some(topic) => consent::ops::topic_id(&mut tx, topic, &instance.entropy, now).await?,
        None => consent::ALL_TOPICS,
    };
    let event = by_hand(&instance, contact.id, topic_id, Event::Withdrawn, email, &source);
    consent::ops::withdraw(&mut tx, &event, now).await?;
    tx.commit().await?;
    answer(context, email, topic.unwrap_or("everything"), Standing::Unsubscribed)
}

/// An event that an operator writes down. Their words may name people, so they are part of the proof, which
/// can be erased.
fn by_hand(instance: &Instance, contact_id: i64, topic_id: i64, action: Event, email: &str, source: &str) -> NewEvent {
    let evidence = consent::ops::evidence(&instance.entropy, json!({ "address": email, "source": source }));
    NewEvent { evidence: Some(evidence), ..NewEvent::new(contact_id, topic_id, action, "cli") }
}

fn answer(context: &Context, email: &str, topic: &str, standing: Standing) -> Outcome {
    if context.out.json {
        return context.out.document(&json!({ "email": email, "topic": topic, "standing": standing }));
    }
    context.out.data(format!("{email} is {standing} ({topic})"));
    Ok(())
}

async fn history(context: &Context, email: &str) -> Outcome {
    let instance = context.instance().await?;
    let contact = contact_by_email(&instance, email).await?;
    let db = &mut instance.db.clone();
    let mut events = Vec::new();
    for event in consent::ops::history(db, contact.id).await? {
        let wording = match &event.wording_hash {
            Some(hash) => consent::ops::wording(db, hash).await?.map(|wording| wording.text),
            None => None,
        };
        let evidence: Option<serde_json::Value> = event.evidence.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let words = evidence.as_ref().and_then(|evidence| evidence["source"].as_str());
        let source = match (words, event.source_line) {
            (Some(words), _) => words.to_owned(),
            (None, Some(line)) => format!("{}, line {line}", event.source),
            (None, None) => event.source.clone(),
        };
        let topic = if event.topic.is_empty() { "*".to_owned() } else { event.topic.clone() };
        events.push(json!({
            "at": event.at.to_string(),
            "topic": topic,
            "action": event.action,
            "source": source,
            "wording": wording,
            "proof": { "entry": event.seq, "hash": consent::ledger::hex(&event.hash), "evidence": evidence },
        }));
    }
    if context.out.json {
        return context.out.document(&json!({ "email": contact.email, "events": events }));
    }
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows = events
        .iter()
        .map(|event| {
            let hash = text(&event["proof"]["hash"]);
            vec![
                shown(&text(&event["at"])),
                text(&event["topic"]),
                text(&event["action"]),
                text(&event["source"]),
                format!("{} {}", event["proof"]["entry"], &hash[..12.min(hash.len())]),
            ]
        })
        .collect();
    context.out.data(format!("Consent of {}, from the ledger (`*` is every topic)\n", contact.email));
    context.out.data(table(&["when (UTC)", "topic", "action", "source", "entry"], rows));
    Ok(())
}

async fn verify(context: &Context) -> Outcome {
    let instance = context.instance().await?;
    let mut tx = instance.db.begin_read().await?;
    let found = consent::ledger::verify(&mut tx).await?;
    tx.rollback().await?;
    if context.out.json {
        context.out.document(&found)?;
    } else if found.valid {
        context.out.data(format!("The ledger is whole: entries {}, head {}", found.events, found.head));
    }
    if found.valid {
        return Ok(());
    }
    let place = found.first_broken.unwrap_or(0);
    let problem = found.problem.unwrap_or_default();
    Err(Failure::Refused(format!(
        "the ledger was tampered with at entry {place}: {problem}\nhint: compare with a backup from before; nothing was changed by this check"
    )))
}
