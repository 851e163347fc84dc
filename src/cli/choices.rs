//! `optin consent pause|resume|frequency|tracking|profiling`: what people choose instead of leaving, written down
//! by an operator whom they asked.

use clap::ValueEnum;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::consent::by_hand;
use super::out::{Failure, Outcome};
use super::{Context, contact_by_email, known_topic};
use crate::clock::{DAY, Time};
use crate::consent::{self, ALL_TOPICS, Action, Frequency, Tracking};
use crate::contact::Contact;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Choose {
    /// No mail until a date, at once, also from sends under way.
    #[command(after_help = "The day is one where the person lives; a pause goes on until it is ended where there is none.\n\n\
        Examples:\n  optin consent pause mei@tea.example --topic tea-letter --until 2027-01-15 --source 'by telephone'\n  \
        optin consent pause mei@tea.example --days 30 --source 'asked in the shop'")]
    Pause {
        /// The address.
        email: String,
        /// A topic of topics.toml; without it, everything that the person receives.
        #[arg(long)]
        topic: Option<String>,
        /// The day on which mails come again.
        #[arg(long, value_name = "YYYY-MM-DD", conflicts_with = "days")]
        until: Option<String>,
        /// So many days from now.
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..=3_660))]
        days: Option<i64>,
        /// How the person asked for it.
        #[arg(long)]
        source: String,
    },
    /// End a pause.
    #[command(after_help = "Example:\n  optin consent resume mei@tea.example --topic tea-letter --source 'by telephone'")]
    Resume {
        /// The address.
        email: String,
        /// A topic of topics.toml; without it, everything that is paused.
        #[arg(long)]
        topic: Option<String>,
        /// How the person asked for it.
        #[arg(long)]
        source: String,
    },
    /// How often mails come: every one, or collected into one a day, week or month.
    #[command(after_help = "Examples:\n  optin consent frequency mei@tea.example weekly --topic tea-letter --source 'by telephone'\n  \
        optin consent frequency mei@tea.example every --source 'by telephone'")]
    Frequency {
        /// The address.
        email: String,
        /// How often.
        often: Often,
        /// A topic of topics.toml; without it, everything that the person receives.
        #[arg(long)]
        topic: Option<String>,
        /// How the person asked for it.
        #[arg(long)]
        source: String,
    },
    /// How opens and clicks are recorded: in full, only counted, or not at all. Mails already sent follow.
    #[command(after_help = "Examples:\n  optin consent tracking mei@tea.example none --source 'by telephone'\n  \
        # as the instance says for everybody again:\n  optin consent tracking mei@tea.example default --source 'by telephone'")]
    Tracking {
        /// The address.
        email: String,
        /// How.
        tracking: TrackingChoice,
        /// How the person asked for it.
        #[arg(long)]
        source: String,
    },
    /// Whether anything may be concluded about a person from what they read and buy (GDPR art. 21).
    #[command(after_help = "Examples:\n  optin consent profiling mei@tea.example refused --source 'letter, 3 May'\n  \
        optin consent profiling mei@tea.example allowed --source 'by telephone'")]
    Profiling {
        /// The address.
        email: String,
        /// Whether.
        profiling: Profiling,
        /// How the person asked for it.
        #[arg(long)]
        source: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Often {
    /// Every mail as it comes.
    Every,
    /// One a day.
    Daily,
    /// One a week.
    Weekly,
    /// One a month.
    Monthly,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum TrackingChoice {
    /// With the person.
    Full,
    /// Counted, without a trace of whose they are.
    Anonymous,
    /// No image, plain links.
    None,
    /// As the instance says.
    Default,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Profiling {
    /// It may not.
    Refused,
    /// It may.
    Allowed,
}

impl Choose {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let (email, topic, source) = match &self {
            Choose::Pause { email, topic, source, .. }
            | Choose::Resume { email, topic, source }
            | Choose::Frequency { email, topic, source, .. } => (email.clone(), topic.clone(), source.clone()),
            Choose::Tracking { email, source, .. } | Choose::Profiling { email, source, .. } => (email.clone(), None, source.clone()),
        };
        let instance = context.instance().await?;
        if let Some(topic) = &topic {
            known_topic(&instance, topic)?;
        }
        let contact = contact_by_email(&instance, &email).await?;
        let now = context.clock.now();
        let mut tx = instance.db.begin().await?;
        let topic_id = match &topic {
            Some(topic) => consent::ops::topic_id(&mut tx, topic, &instance.entropy, now).await?,
            None => ALL_TOPICS,
        };
        let event = by_hand(&instance, contact.id, topic_id, Action::Changed, &email, &source);
        let (changed, what) = match &self {
            Choose::Pause { until, days, .. } => {
                let until = pause_end(until.as_deref(), *days, &contact, now)?;
                let said = until.map_or_else(|| "paused".to_owned(), |until| format!("paused until {until}"));
                (consent::ops::pause(&mut tx, &event, until, now).await?, said)
            }
            Choose::Resume { .. } => (consent::ops::resume(&mut tx, &event, now).await?, "no longer paused".to_owned()),
            Choose::Frequency { often, .. } => {
                let (frequency, said) = match often {
                    Often::Every => (None, "every mail"),
                    Often::Daily => (Some(Frequency::Daily), "one mail a day"),
                    Often::Weekly => (Some(Frequency::Weekly), "one mail a week"),
                    Often::Monthly => (Some(Frequency::Monthly), "one mail a month"),
                };
                (consent::ops::set_frequency(&mut tx, &event, frequency, now).await?, said.to_owned())
            }
            Choose::Tracking { tracking, .. } => {
                let (tracking, said) = match tracking {
                    TrackingChoice::Full => (Some(Tracking::Full), "tracking: full"),
                    TrackingChoice::Anonymous => (Some(Tracking::Anonymous), "tracking: anonymous"),
                    TrackingChoice::None => (Some(Tracking::None), "tracking: none"),
                    TrackingChoice::Default => (None, "tracking: as the instance says"),
                };
                (consent::ops::set_tracking(&mut tx, &event, tracking, now).await?, said.to_owned())
            }
            Choose::Profiling { profiling, .. } => {
                let refused = matches!(profiling, Profiling::Refused);
                let said = if refused { "profiling: refused" } else { "profiling: allowed" };
                (consent::ops::set_profiling(&mut tx, &event, refused, now).await?, said.to_owned())
            }
        };
        tx.commit().await?;
        let states = consent::ops::states(&mut instance.db.clone(), contact.id).await?;
        answer(context, &contact, changed, &what, topic.as_deref(), &states)
    }
}

fn answer(context: &Context, contact: &Contact, changed: bool, what: &str, topic: Option<&str>, states: &[consent::TopicState]) -> Outcome {
    if context.out.json {
        let topics: Vec<Value> = states
            .iter()
            .filter(|state| state.topic_id != ALL_TOPICS && topic.is_none_or(|topic| topic == state.topic))
            .map(|state| {
                let until = state.state.until.map(|until| until.to_string());
                json!({ "topic": state.topic, "standing": state.state.standing, "frequency": state.state.frequency, "until": until })
            })
            .collect();
        return context.out.document(&json!({ "email": contact.email, "changed": changed, "topics": topics }));
    }
    let of = topic.map(|topic| format!(" ({topic})")).unwrap_or_default();
    if changed {
        context.out.data(format!("{}{of}: {what}", contact.email));
    } else {
        context.out.data(format!("{}{of}: nothing was changed (it stood so before, or there is no subscription)", contact.email));
    }
    Ok(())
}

/// When a pause ends; nothing for one that somebody ends.
fn pause_end(until: Option<&str>, days: Option<i64>, contact: &Contact, now: Time) -> Result<Option<Time>, Failure> {
    let Some(text) = until else { return Ok(days.map(|days| now.plus(days * DAY))) };
    let wrong = |what: &str| Failure::Failed(anyhow::anyhow!("`{text}` {what}\nhint: write a day after today, such as `2027-01-15`"));
    let day: jiff::civil::Date = text.parse().map_err(|_| wrong("is no day"))?;
    let zone = contact.timezone.as_deref().and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC);
    let until = Time::from(day.to_zoned(zone).map_err(|_| wrong("is no day"))?.timestamp());
    if until <= now {
        return Err(wrong("has begun"));
    }
    Ok(Some(until))
}
