//! `optin contact show`, and the way to what else can be done about one person.

use serde_json::{Map, Value, json};

use super::contact_data::{Change, Erase, Export};
use super::out::{Outcome, counted, shown, table};
use super::{Context, contact_by_email};
use crate::behaviour::{self, money};
use crate::consent::{self, ALL_TOPICS, Frequency, TopicState};
use crate::contact::{Contact, field};
use crate::report;

/// Latest things shown about a contact.
const RECENT: i64 = 20;

/// What is known about one contact.
#[derive(Debug, clap::Args)]
pub struct ContactCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Fields, topics, suppression, orders and the latest mails, hits and events.
    #[command(after_help = "Examples:\n  optin contact show mei@tea.example\n  optin contact show mei@tea.example --json")]
    Show {
        /// The address.
        email: String,
    },
    /// Write everything about somebody into one archive, to read and for programs.
    Export(Export),
    /// Erase somebody from every table. Needs `--yes`.
    Erase(Erase),
    /// Correct somebody's fields or address.
    Change(Change),
}

impl ContactCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let email = match self.action {
            Action::Show { email } => email,
            Action::Export(command) => return command.run(context).await,
            Action::Erase(command) => return command.run(context).await,
            Action::Change(command) => return command.run(context).await,
        };
        let instance = context.instance().await?;
        let contact = contact_by_email(&instance, &email).await?;
        let db = &mut instance.db.clone();
        let mut states = consent::ops::states(db, contact.id).await?;
        states.retain(|known| known.topic_id != ALL_TOPICS);
        let choices = consent::ops::choices(db, contact.id).await?;
        let suppression = consent::ops::suppression(&instance.db, &contact.email_key).await?;
        let coupons = consent::coupons::of_contact(db, contact.id).await?;
        let orders = behaviour::person::total(db, contact.id).await?;
        let recent = report::recent(db, contact.id, RECENT).await?;
        let topics: Vec<_> = states.iter().map(topic_of).collect();
        if context.out.json {
            return context.out.document(&json!({
                "email": contact.email,
                "attributes": fields(&contact),
                "topics": topics,
                "tracking": choices.tracking.map(consent::Tracking::as_str),
                "profiling_refused": choices.profiling_refused,
                "suppressed": suppression.is_some(),
                "suppression": suppression.as_ref().map(super::suppression::shown_entry),
                "scores": {},
                "orders": orders.map(|total| json!({
                    "count": total.orders,
                    "amount": money::units(total.amount),
                    "currency": instance.config.behaviour.currency,
                    "first_at": total.first_at.to_string(),
                    "last_at": total.last_at.to_string(),
                })),
                "coupons": coupons
                    .iter()
                    .map(|given| json!({ "pool": given.pool, "code": given.code, "at": given.at.to_string() }))
                    .collect::<Vec<_>>(),
                "recent": recent,
            }));
        }
        context.out.data(&contact.email);
        let rows = fields(&contact).into_iter().map(|(name, value)| vec![name, plain(&value)]).collect();
        context.out.data(table(&["field", "value"], rows));
        context.out.data(format!("\n{}", topics_table(&states)));
        let tracking = choices.tracking.map(|tracking| format!("opens and clicks are recorded as they chose: {}", tracking.as_str()));
        let profiling = choices.profiling_refused.then(|| "nothing may be concluded about them from what they read".to_owned());
        for line in tracking.into_iter().chain(profiling) {
            context.out.data(format!("\n{line}"));
        }
        if let Some(entry) = suppression {
            context.out.data(format!("\n{}", super::suppression::sentence(&entry)));
        }
        if let Some(total) = orders {
            context.out.data(format!(
                "\n{}, {} {} together; the first on {}, the last on {} UTC",
                counted(total.orders, "order"),
                money::shown(total.amount),
                instance.config.behaviour.currency,
                shown(&total.first_at.to_string()),
                shown(&total.last_at.to_string())
            ));
        }
        for given in coupons {
            context.out.data(format!("\ncoupon {} of `{}`, given on {} UTC", given.code, given.pool, shown(&given.at.to_string())));
        }
        let rows = recent
            .into_iter()
            .map(|recent| vec![shown(&recent.at), recent.what, recent.campaign, recent.detail.unwrap_or_default()])
            .collect::<Vec<_>>();
        if !rows.is_empty() {
            context.out.data(format!("\n{}", table(&["when (UTC)", "what", "campaign", "detail"], rows)));
        }
        Ok(())
    }
}

fn topic_of(known: &TopicState) -> Value {
    json!({
        "topic": known.topic,
        "standing": known.state.standing,
        "since": known.since.to_string(),
        "frequency": known.state.frequency.map(Frequency::as_str),
        "until": known.state.until.or(known.state.ends).map(|until| until.to_string()),
    })
}

/// What somebody chose has a column where somebody chose it.
fn topics_table(states: &[TopicState]) -> String {
    let often = states.iter().any(|known| known.state.frequency.is_some());
    let ends = states.iter().any(|known| known.state.until.or(known.state.ends).is_some());
    let mut head = vec!["topic", "standing", "since (UTC)"];
    head.extend(ends.then_some("until (UTC)"));
    head.extend(often.then_some("how often"));
    let rows = states.iter().map(|known| {
        let mut row = vec![known.topic.clone(), known.state.standing.to_string(), shown(&known.since.to_string())];
        if ends {
            row.push(known.state.until.or(known.state.ends).map_or_else(String::new, |until| shown(&until.to_string())));
        }
        if often {
            row.push(known.state.frequency.map_or_else(|| "every mail".to_owned(), |often| often.as_str().to_owned()));
        }
        row
    });
    table(&head, rows.collect())
}

/// Built-in fields and attributes that are set, by name.
pub(super) fn fields(contact: &Contact) -> Map<String, Value> {
    field::all(contact)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}
