//! `optin consent history`: all that the ledger says about a person, as a document that a lawyer can read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::super::out::Outcome;
use super::super::{Context, contact_by_email};
use crate::clock::Time;
use crate::consent::checkpoint::Signer;
use crate::consent::ledger::{self, Verification};
use crate::consent::{self, ALL_TOPICS, Event, KeptWording, Standing, TopicState};
use crate::contact::Contact;
use crate::db::{DbError, Tx};
use crate::instance::Instance;
use crate::text::i18n::{Words, fill};

/// What is known about a person's consent, read in one moment.
struct Record {
    contact: Contact,
    made_at: Time,
    entries: Vec<Entry>,
    states: Vec<TopicState>,
    chain: Verification,
    key: String,
}

/// An entry with what it names.
struct Entry {
    event: Event,
    wording: Option<KeptWording>,
    evidence: Map<String, Value>,
    origin: Map<String, Value>,
}

pub(super) async fn run(context: &Context, email: &str, lang: Option<&str>) -> Outcome {
    let instance = context.instance().await?;
    let language = match lang {
        Some(tag) => instance.languages.find(tag).ok_or_else(|| {
            let known: Vec<&str> = instance.languages.all().map(crate::text::i18n::Lang::tag).collect();
            anyhow::anyhow!("there is no language `{tag}` here\nhint: one of {}, or a file `languages/{tag}.toml`", known.join(", "))
        })?,
        None => instance.languages.english(),
    };
    let contact = contact_by_email(&instance, email).await?;
    let signer = Signer::new(&instance.keys);
    let mut tx = instance.db.begin_read().await?;
    tx.may_wait().await?;
    let record = read(&mut tx, contact, &signer, context.clock.now()).await?;
    tx.rollback().await?;
    if context.out.json {
        return context.out.document(&document(&record));
    }
    context.out.data(text(&record, &instance, language.words()).trim_end());
    Ok(())
}

async fn read(tx: &mut Tx, contact: Contact, signer: &Signer, now: Time) -> Result<Record, DbError> {
    let mut wordings: BTreeMap<String, Option<KeptWording>> = BTreeMap::new();
    let mut entries = Vec::new();
    for event in consent::ops::history(tx, contact.id).await? {
        let wording = match &event.wording_hash {
            Some(hash) => match wordings.get(hash) {
                Some(known) => known.clone(),
                None => {
                    let found = consent::ops::wording(tx, hash).await?;
                    wordings.insert(hash.clone(), found.clone());
                    found
                }
            },
            None => None,
        };
        entries.push(Entry { evidence: fields(event.evidence.as_deref()), origin: fields(event.origin.as_deref()), wording, event });
    }
    let states = consent::ops::states(tx, contact.id).await?;
    let chain = ledger::verify(tx, &[], signer.known()).await?;
    Ok(Record { contact, made_at: now, entries, states, chain, key: signer.known()[0].clone() })
}

/// What a proof says, without the salt, which says nothing.
fn fields(proof: Option<&str>) -> Map<String, Value> {
    let mut fields: Map<String, Value> = proof.and_then(|proof| serde_json::from_str(proof).ok()).unwrap_or_default();
    fields.remove("salt");
    fields
}

impl Entry {
    /// How it came in: an operator's own words where there are some.
    fn source(&self) -> String {
        match (self.evidence.get("source").and_then(Value::as_str), self.event.source_line) {
            (Some(words), _) => words.to_owned(),
            (None, Some(line)) => format!("{}, line {line}", self.event.source),
            (None, None) => self.event.source.clone(),
        }
    }
}

fn document(record: &Record) -> Value {
    let events: Vec<Value> = record
        .entries
        .iter()
        .map(|entry| {
            let event = &entry.event;
            json!({
                "at": event.at.to_string(),
                "topic": if event.topic.is_empty() { "*" } else { &event.topic },
                "action": event.action,
                "source": entry.source(),
                "wording": entry.wording.as_ref().map(|wording| &wording.text),
                "proof": {
                    "entry": event.seq,
                    "version": event.version,
                    "hash": ledger::hex(&event.hash),
                    "evidence": (!entry.evidence.is_empty()).then_some(&entry.evidence),
                    "evidence_digest": event.evidence_digest,
                    "origin_digest": event.origin_digest,
                    "wording_hash": event.wording_hash,
                },
                "way": event.source,
                "line": event.source_line,
                "channel": event.channel,
                "purpose": event.purpose,
                "basis": event.basis,
                "frequency": event.frequency,
                "until": event.until.map(|until| until.to_string()),
                "detail": event.detail,
                "client": (!entry.origin.is_empty()).then_some(&entry.origin),
                "shown": entry.wording.as_ref().map(|wording| json!({
                    "locale": wording.locale,
                    "kind": wording.kind,
                    "version": wording.version,
                    "first_shown_at": wording.first_shown_at.map(|at| at.to_string()),
                })),
            })
        })
        .collect();
    let standings: Vec<Value> = record
        .states
        .iter()
        .map(|state| {
            json!({
                "topic": if state.topic_id == ALL_TOPICS { "*" } else { &state.topic },
                "standing": state.state.standing,
                "since": state.since.to_string(),
                "frequency": state.state.frequency,
                "until": state.state.until.map(|until| until.to_string()),
                "ends": state.state.ends.map(|ends| ends.to_string()),
            })
        })
        .collect();
    json!({
        "email": record.contact.email,
        "contact": record.contact.id,
        "made_at": record.made_at.to_string(),
        "events": events,
        "standings": standings,
        "chain": record.chain,
        "public_key": record.key,
    })
}

/// One paragraph after the other, each a heading and lines `name: value`.
struct Paper(String);

impl Paper {
    fn heading(&mut self, text: &str) {
        let _ = write!(self.0, "\n{text}\n");
    }

    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        // What a person or a client wrote may hold anything: one line stays one line.
        let value: String = value.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = writeln!(self.0, "   {name}: {value}");
    }

    fn quote(&mut self, text: &str) {
        for line in text.lines() {
            let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let _ = writeln!(self.0, "   | {line}");
        }
    }
}

fn text(record: &Record, instance: &Instance, words: &Words) -> String {
    let sender = &instance.config.sender;
    let mut paper = Paper(format!("{}\n\n", words.proof_title));
    paper.line(words.proof_person, &record.contact.email);
    paper.line(words.proof_contact, record.contact.id);
    paper.line(words.proof_keeper, format_args!("{} <{}>, {}", sender.name, sender.email, instance.config.site.url.value));
    paper.line(words.proof_made, record.made_at);
    let _ = writeln!(paper.0, "   {}", words.proof_times);
    if record.entries.is_empty() {
        paper.heading(words.proof_none);
    }
    let name = |topic: &str| match instance.config.topics.get(topic) {
        _ if topic.is_empty() => words.proof_everything.to_owned(),
        Some(known) => format!("{} ({topic})", known.name),
        None => topic.to_owned(),
    };
    for (number, entry) in (1..).zip(&record.entries) {
        paper.heading(&format!("{number}. {}  {}", entry.event.at, action(&entry.event.action, words)));
        one(&mut paper, entry, &name(&entry.event.topic), words);
    }
    if !record.states.is_empty() {
        paper.heading(words.proof_now);
    }
    for state in &record.states {
        let mut said = fill(words.proof_since, &[("standing", standing(state.state.standing, words)), ("time", &state.since.to_string())]);
        let mut more = |text: String| {
            let _ = write!(said, "; {text}");
        };
        state.state.frequency.into_iter().for_each(|frequency| more(format!("{}: {}", words.proof_frequency, frequency.as_str())));
        state.state.until.into_iter().for_each(|until| more(fill(words.proof_paused_until, &[("time", &until.to_string())])));
        state.state.ends.into_iter().for_each(|ends| more(fill(words.proof_ends, &[("time", &ends.to_string())])));
        paper.line(&name(&state.topic), said);
    }
    closing(&mut paper, record, words);
    paper.0
}

fn one(paper: &mut Paper, entry: &Entry, topic: &str, words: &Words) {
    let event = &entry.event;
    paper.line(words.proof_topic, topic);
    match event.source_line {
        Some(line) => {
            let values = [("source", event.source.as_str()), ("line", &line.to_string())];
            paper.line(words.proof_how, fill(words.proof_import_line, &values));
        }
        None => paper.line(words.proof_how, &event.source),
    }
    let known = [
        ("source", words.proof_words),
        ("address", words.proof_address),
        ("delivery", words.proof_link_of),
        ("asked_at", words.proof_asked_at),
        ("mailed_at", words.proof_mailed_at),
        ("mail", words.proof_mail),
        ("token", words.proof_token),
    ];
    for (key, label) in known {
        if let Some(value) = entry.evidence.get(key) {
            paper.line(label, plain(value));
        }
    }
    for (key, value) in entry.evidence.iter().filter(|(key, _)| known.iter().all(|(name, _)| name != key)) {
        paper.line(words.proof_other, format_args!("{key} = {}", plain(value)));
    }
    let mut optional = |label: &str, value: Option<&str>| value.into_iter().for_each(|value| paper.line(label, value));
    optional(words.proof_purpose, event.purpose.as_deref());
    optional(words.proof_basis, event.basis.as_deref().map(|name| basis(name, words)));
    optional(words.proof_channel, event.channel.as_deref());
    optional(words.proof_frequency, event.frequency.as_deref());
    optional(words.proof_until, event.until.map(|until| until.to_string()).as_deref());
    optional(words.proof_detail, event.detail.as_deref());
    optional(words.proof_client, entry.origin.get("ip").map(plain).as_deref());
    optional(words.proof_agent, entry.origin.get("agent").map(plain).as_deref());
    if let (None, Some(digest)) = (&event.evidence, &event.evidence_digest) {
        let _ = writeln!(paper.0, "   {}", fill(words.proof_erased, &[("digest", digest)]));
    }
    if let (None, Some(digest)) = (&event.origin, &event.origin_digest) {
        let _ = writeln!(paper.0, "   {}", fill(words.proof_origin_gone, &[("digest", digest)]));
    }
    if let Some(hash) = &event.wording_hash {
        let about: Vec<&str> = match &entry.wording {
            Some(wording) => [&wording.kind, &wording.locale, &wording.version].into_iter().flatten().map(String::as_str).collect(),
            None => Vec::new(),
        };
        paper.line(words.proof_wording, [about.join(", "), hash.clone()].join(if about.is_empty() { "" } else { "; " }));
        paper.quote(entry.wording.as_ref().map_or(words.proof_wording_gone, |wording| &wording.text));
    }
    paper.line(words.proof_entry, event.seq);
    paper.line(words.proof_hash, ledger::hex(&event.hash));
}

fn closing(paper: &mut Paper, record: &Record, words: &Words) {
    let chain = &record.chain;
    paper.heading(words.proof_chain);
    let said = if chain.valid {
        fill(words.proof_chain_whole, &[("entries", &chain.events.to_string()), ("head", &chain.head)])
    } else {
        let (entry, problem) = (chain.first_broken.unwrap_or(0).to_string(), chain.problem.clone().unwrap_or_default());
        fill(words.proof_chain_broken, &[("found", &chain.found.to_string()), ("entry", &entry), ("problem", &problem)])
    };
    let _ = writeln!(paper.0, "   {said}");
    if chain.valid && chain.checkpoints > 0 {
        let _ = writeln!(paper.0, "   {}", fill(words.proof_checkpoints, &[("count", &chain.checkpoints.to_string())]));
    }
    paper.heading(words.proof_shows);
    let _ = writeln!(paper.0, "   {}", fill(words.proof_shows_text, &[("key", &record.key)]));
    paper.heading(words.proof_not_shows);
    let _ = writeln!(paper.0, "   {}", words.proof_not_shows_text);
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn action<'a>(stored: &'a str, words: &Words) -> &'a str {
    use consent::Action::{Changed, Confirmed, Erased, Expired, Granted, Objected, Paused, Refreshed, Requested, Resumed, Withdrawn};
    match consent::Action::from_stored(stored) {
        Some(Requested) => words.proof_action_requested,
        Some(Granted) => words.proof_action_granted,
        Some(Confirmed) => words.proof_action_confirmed,
        Some(Withdrawn) => words.proof_action_withdrawn,
        Some(Objected) => words.proof_action_objected,
        Some(Refreshed) => words.proof_action_refreshed,
        Some(Paused) => words.proof_action_paused,
        Some(Resumed) => words.proof_action_resumed,
        Some(Changed) => words.proof_action_changed,
        Some(Erased) => words.proof_action_erased,
        Some(Expired) => words.proof_action_expired,
        None => stored,
    }
}

fn basis<'a>(stored: &'a str, words: &Words) -> &'a str {
    match consent::Basis::from_stored(stored) {
        Some(consent::Basis::Consent) => words.proof_basis_consent,
        Some(consent::Basis::SoftOptIn) => words.proof_basis_soft_opt_in,
        Some(consent::Basis::Implied) => words.proof_basis_implied,
        Some(consent::Basis::Contract) => words.proof_basis_contract,
        Some(consent::Basis::LegitimateInterest) => words.proof_basis_legitimate_interest,
        None => stored,
    }
}

fn standing(standing: Standing, words: &Words) -> &'static str {
    match standing {
        Standing::None => words.proof_standing_none,
        Standing::Pending => words.proof_standing_pending,
        Standing::Subscribed => words.proof_standing_subscribed,
        Standing::Paused => words.proof_standing_paused,
        Standing::Unsubscribed => words.proof_standing_unsubscribed,
    }
}
