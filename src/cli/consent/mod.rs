//! `optin consent grant|withdraw|history|verify|rebuild|checkpoint|export`; what people choose instead of leaving
//! is in `cli/choices.rs`.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::out::{Failure, Outcome};
use super::{Context, contact_by_email, known_topic, parse_address, refused};
use crate::behaviour::merge;
use crate::consent::checkpoint::{self, Checkpoint, Signer};
use crate::consent::ledger::export as ledger_export;
use crate::consent::{self, Action as Event, NewEvent, Standing};
use crate::instance::Instance;

mod history;

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
    /// Every entry of the ledger about one contact, with its proof: a document to show.
    #[command(after_help = "The whole chain is checked along with it.\n\n\
        Examples:\n  optin consent history mei@tea.example\n  \
        optin consent history mei@tea.example --lang zh-Hant > mei.txt\n  optin consent history mei@tea.example --json")]
    History {
        /// The address.
        email: String,
        /// The language of the document: en, zh-Hans, zh-Hant, or one of the instance's own.
        #[arg(long, value_name = "TAG")]
        lang: Option<String>,
    },
    /// Check the whole ledger: chain, proofs, wordings, checkpoints, and standings against it.
    Verify(Verify),
    /// Fold the ledger anew and put right what differs from it: standings, frequencies, pauses, choices.
    #[command(after_help = "What the ledger says holds. Run `optin consent verify` first: a ledger that was tampered with\n\
        is no ground to rebuild on.\n\n\
        Examples:\n  optin consent rebuild --dry-run\n  optin consent rebuild")]
    Rebuild {
        /// Name the people whose rows differ, write nothing. Exit code 1 where there are any.
        #[arg(long)]
        dry_run: bool,
    },
    /// Sign the head of the ledger, for somebody else to keep.
    #[command(after_help = "Whoever keeps a checkpoint can show later that every entry up to it is as it was.\n\n\
        Examples:\n  optin consent checkpoint\n  optin consent checkpoint --out ledger-2026-12.json")]
    Checkpoint {
        /// Write it into this file.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Write the whole chain without anything personal, so that an outsider can verify it.
    #[command(after_help = "One JSON object a line: entries with digests in place of proofs, the wordings they name, a signed\n\
        checkpoint at the end. `docs/ledger.md` says how to verify it.\n\n\
        Example:\n  optin consent export ledger.jsonl")]
    Export {
        /// The file to write; `-` for standard output.
        file: PathBuf,
    },
    #[command(flatten)]
    Choose(super::choices::Choose),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 where an entry, proof, origin or wording was edited, deleted, inserted or moved, where a\n\
    checkpoint does not fit, or where standings differ from the ledger; the first entries are named.\n\n\
    Examples:\n  optin consent verify\n  optin consent verify --checkpoint ledger-2026-12.json\n  \
    optin consent verify --checkpoint old.json --public-key 8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c")]
struct Verify {
    /// Checkpoints kept elsewhere, to hold the chain against.
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// A public key (hex) that these checkpoints may be signed with, beside those of this instance's secrets.
    #[arg(long, value_name = "HEX")]
    public_key: Vec<String>,
}

impl ConsentCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        match self.action {
            Action::Grant { email, topic, source, confirmed } => grant(context, &email, &topic, source, confirmed).await,
            Action::Withdraw { email, topic, source } => withdraw(context, &email, topic.as_deref(), source).await,
            Action::History { email, lang } => history::run(context, &email, lang.as_deref()).await,
            Action::Verify(command) => command.run(context).await,
            Action::Choose(choose) => choose.run(context).await,
            Action::Rebuild { dry_run } => rebuild(context, dry_run).await,
            Action::Checkpoint { out } => checkpoint(context, out.as_deref()).await,
            Action::Export { file } => export(context, &file).await,
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
    if confirmed {
        // As if its owner had confirmed by mail: an address that was merged into somebody is by itself again.
        let rules = consent::tracking::TrackingRules::new(&instance.config.consent);
        merge::release(&mut tx, &rules, contact_id, &[topic_id], now).await?;
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
pub(super) fn by_hand(instance: &Instance, contact_id: i64, topic_id: i64, action: Event, email: &str, source: &str) -> NewEvent {
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

impl Verify {
    async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        let signer = Signer::new(&instance.keys);
        let mut keys = signer.known().to_vec();
        keys.extend(self.public_key.iter().map(|key| key.trim().to_lowercase()));
        let mut given = Vec::new();
        for file in &self.checkpoint {
            let checkpoint = read_checkpoint(file)?;
            if let Err(problem) = checkpoint.verify(&keys) {
                return refused(format!(
                    "`{}` proves nothing: {problem}\nhint: a checkpoint of another secret needs `--public-key`, or that secret among `retired_secrets`",
                    file.display()
                ));
            }
            given.push(checkpoint);
        }
        let mut tx = instance.db.begin_read().await?;
        tx.may_wait().await?;
        let found = consent::ledger::verify(&mut tx, &given, &keys).await?;
        let folded = consent::ledger::rebuild(&mut tx, false).await?;
        tx.rollback().await?;
        let whole = found.valid && folded.differing == 0;
        if context.out.json {
            let mut document = serde_json::to_value(&found)?;
            document["standings"] = json!(folded);
            context.out.document(&document)?;
        } else {
            for finding in found.findings.iter().take(20) {
                context.out.data(format!("entry {}: {}", finding.entry, finding.problem));
            }
            if found.valid {
                context.out.data(format!("The ledger is whole: entries {}, head {}", found.events, found.head));
                context.out.data(format!("Checkpoints that it fits: {}", found.checkpoints));
            }
            if folded.differing == 0 {
                context.out.data(format!("Standings and choices are what it says: {}", counted_people(folded.people)));
            }
        }
        if whole {
            return Ok(());
        }
        if found.valid {
            return refused(differs(&folded));
        }
        let (place, problem) = (found.first_broken.unwrap_or(0), found.problem.unwrap_or_default());
        refused(format!(
            "the ledger was tampered with at entry {place}: {problem} ({} in all)\n\
             hint: compare with a backup from before; nothing was changed by this check",
            super::out::counted(found.found as u64, "finding")
        ))
    }
}

fn counted_people(people: u64) -> String {
    if people == 1 { "1 person".to_owned() } else { format!("{people} people") }
}

fn differs(folded: &consent::ledger::Rebuilt) -> String {
    let ids: Vec<String> = folded.contacts.iter().take(10).map(i64::to_string).collect();
    let more = if folded.differing as usize > ids.len() { ", .." } else { "" };
    format!(
        "standings or choices of {} differ from the ledger: contacts {}{more}\nhint: `optin consent rebuild` makes them what the ledger says",
        counted_people(folded.differing),
        ids.join(", ")
    )
}

async fn rebuild(context: &Context, dry_run: bool) -> Outcome {
    let instance = context.instance().await?;
    let mut tx = if dry_run { instance.db.begin_read().await? } else { instance.db.begin().await? };
    tx.may_wait().await?;
    let folded = consent::ledger::rebuild(&mut tx, !dry_run).await?;
    if dry_run {
        tx.rollback().await?;
    } else {
        tx.commit().await?;
    }
    if context.out.json {
        let mut document = serde_json::to_value(&folded)?;
        document["dry_run"] = json!(dry_run);
        context.out.document(&document)?;
    } else if folded.differing == 0 {
        context.out.data(format!("{}: all as the ledger says", counted_people(folded.people)));
    } else if !dry_run {
        context.out.data(format!(
            "{} put right: contacts {:?}{}",
            super::out::counted(folded.rows, "row"),
            folded.contacts,
            if folded.differing as usize > folded.contacts.len() { ", .." } else { "" }
        ));
    }
    if dry_run && folded.differing > 0 { refused(differs(&folded)) } else { Ok(()) }
}

fn read_checkpoint(file: &Path) -> Result<Checkpoint, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| anyhow::anyhow!("cannot read `{}`: {error}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::Failed(anyhow::anyhow!(
            "`{}` is no checkpoint: {error}\nhint: give a file that `optin consent checkpoint --out` wrote",
            file.display()
        ))
    })
}

async fn checkpoint(context: &Context, out: Option<&Path>) -> Outcome {
    let instance = context.instance().await?;
    let signed = checkpoint::of_head(&mut instance.db.clone(), &Signer::new(&instance.keys), context.clock.now()).await?;
    let text = serde_json::to_string_pretty(&signed)? + "\n";
    if let Some(file) = out {
        std::fs::write(file, &text).map_err(|error| anyhow::anyhow!("cannot write `{}`: {error}", file.display()))?;
    }
    if context.out.json || out.is_none() {
        return context.out.document(&serde_json::to_value(&signed)?);
    }
    context.out.say("Keep this file where whoever writes to the database cannot reach it: with a notary, a customer, in print.");
    Ok(())
}

async fn export(context: &Context, file: &Path) -> Outcome {
    let instance = context.instance().await?;
    let failed = |error: std::io::Error| anyhow::anyhow!("cannot write `{}`: {error}", file.display());
    let mut out: Box<dyn Write + Send> = if file == Path::new("-") {
        Box::new(std::io::BufWriter::new(std::io::stdout()))
    } else {
        Box::new(std::io::BufWriter::new(std::fs::File::create(file).map_err(failed)?))
    };
    let mut tx = instance.db.begin_read().await?;
    tx.may_wait().await?;
    writeln!(out, "{}", ledger_export::header(&mut tx).await?).map_err(failed)?;
    let mut seq = i64::MIN;
    let mut entries = 0;
    while let Some((last, lines)) = ledger_export::entries(&mut tx, seq).await? {
        seq = last;
        entries += lines.len() as u64;
        for line in lines {
            writeln!(out, "{line}").map_err(failed)?;
        }
    }
    let mut hash = String::new();
    while let Some((last, lines)) = ledger_export::wordings(&mut tx, &hash).await? {
        hash = last;
        for line in lines {
            writeln!(out, "{line}").map_err(failed)?;
        }
    }
    let signed = checkpoint::of_head(&mut tx, &Signer::new(&instance.keys), context.clock.now()).await?;
    tx.rollback().await?;
    writeln!(out, "{}", json!({ "checkpoint": signed })).map_err(failed)?;
    out.flush().map_err(failed)?;
    if file == Path::new("-") {
        return Ok(());
    }
    if context.out.json {
        return context.out.document(&json!({ "entries": entries, "file": file, "checkpoint": signed }));
    }
    context.out.data(format!(
        "{} written; `docs/ledger.md` says how to verify them",
        format_args!("{entries} {}", if entries == 1 { "entry" } else { "entries" })
    ));
    Ok(())
}
