//! `optin import contacts|orders|events|suppressions FILE`

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use serde_json::json;

use super::out::{Failure, Outcome, counted};
use super::{Context, known_topic};
use crate::clock::Time;
use crate::consent;
use crate::consent::ops::{self as consents, Declared, DeclaredConsent};
use crate::consent::suppression::{self, Digests};
use crate::consent::welcome;
use crate::contact::import::{AfterBatch, Import as ContactImport, ImportOptions, ImportedRow};
use crate::db::{DbError, Tx};

/// Brings in contacts, orders, events or suppressions from a file.
#[derive(Debug, clap::Args)]
pub struct Import {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Contacts from a CSV file: any delimiter, UTF-8, UTF-16, GB18030 or Big5.
    #[command(after_help = "Columns whose header equals a field or an attribute map by themselves; `--map`\n\
        names others. An empty cell leaves what is there. Rows for one address are merged,\n\
        the later cell winning. A withdrawal or suppression is never overridden.\n\n\
        Examples:\n  optin import contacts list.csv --dry-run --rejects rejects.csv\n  \
        optin import contacts list.csv --map 'Ort=city' --map 'Vorname=first_name'\n  \
        optin import contacts list.csv --topic tea-letter --consent confirmed \\\n      \
        --source 'shop checkout 2026'\n  \
        optin import contacts buyers.csv --topic tea-letter --consent confirmed \\\n      \
        --basis implied --until 2028-05-01 --source 'purchases of May 2026'")]
    Contacts(Contacts),
    /// Orders from a CSV file: lines with one `order_id` are one order, wherever they stand in the file.
    #[command(after_help = super::import_behaviour::ORDERS_HELP)]
    Orders(super::import_behaviour::Orders),
    /// Events from lines of JSON, of the kinds that events.toml declares.
    #[command(after_help = super::import_behaviour::EVENTS_HELP)]
    Events(super::import_behaviour::Events),
    /// Addresses, domains and hashes that get nothing: one a line, or CSV with a column of them.
    #[command(after_help = super::suppression::IMPORT_HELP)]
    Suppressions(super::suppression::ImportSuppressions),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Consent {
    /// They agreed to these topics; `--source` says where.
    Confirmed,
    /// They asked: each is sent the question, and nothing else before the answer.
    Pending,
    /// Only their data is brought in.
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Basis {
    /// A declaration of theirs (GDPR 6(1)(a)).
    Consent,
    /// An address got in a sale, for own similar products (ePrivacy 13(2)).
    SoftOptIn,
    /// Implied consent (CASL s.10); `--until` says when it ends.
    Implied,
    /// Needed for a contract with them (GDPR 6(1)(b)).
    Contract,
    /// Weighed interests (GDPR 6(1)(f)).
    LegitimateInterest,
}

#[derive(Debug, clap::Args)]
struct Contacts {
    /// The file; `-` for standard input.
    file: PathBuf,
    /// A topic of topics.toml; may be given more than once.
    #[arg(long)]
    topic: Vec<String>,
    /// What they agreed to; without it, only their data is brought in.
    #[arg(long, value_enum)]
    consent: Option<Consent>,
    /// Where the consent came from; kept with every ledger entry.
    #[arg(long, required_if_eq_any([("consent", "confirmed"), ("consent", "pending")]))]
    source: Option<String>,
    /// On what ground they are mailed.
    #[arg(long, value_enum, default_value = "consent")]
    basis: Basis,
    /// When an implied consent ends by itself, such as two years after a purchase (CASL s.10): a date, or a time
    /// with its zone.
    #[arg(long, value_name = "DATE", value_parser = date)]
    until: Option<Time>,
    /// Greet everybody in the file who is subscribed then, once (the topic's `welcome`).
    #[arg(long)]
    welcome: bool,
    /// `Column=field`, for headers that are not a field's name.
    #[arg(long, value_name = "COLUMN=FIELD")]
    map: Vec<String>,
    /// Read and check everything, write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Rows that were not taken go here, with line, column and reason.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// The encoding, where it should not be detected.
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
}

impl Import {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        match self.what {
            What::Contacts(command) => command.run(context).await,
            What::Orders(command) => command.run(context).await,
            What::Events(command) => command.run(context).await,
            What::Suppressions(command) => command.run(context).await,
        }
    }
}

/// Ledger entries for each batch, in the batch's own transaction.
struct Grants {
    welcome: bool,
    digests: Digests,
    topics: Vec<(i64, String)>,
    declared: Declared,
    now: Time,
}

impl AfterBatch for Grants {
    async fn suppressed(&mut self, tx: &mut Tx, keys: &[Arc<str>]) -> Result<Vec<usize>, DbError> {
        suppression::screen(tx, &self.digests, keys, self.now).await
    }

    async fn batch(&mut self, tx: &mut Tx, rows: &[ImportedRow]) -> Result<(), DbError> {
        let rows: Vec<(i64, u64, bool)> = rows.iter().map(|row| (row.contact_id, row.line, row.added)).collect();
        consents::record_import(tx, &rows, &self.topics, &self.declared, self.now).await?;
        if self.welcome {
            let people: Vec<i64> = rows.iter().map(|(contact_id, _, _)| *contact_id).collect();
            for (topic_id, _) in &self.topics {
                welcome::ask(tx, *topic_id, &people, self.now).await?;
            }
        }
        Ok(())
    }
}

impl Contacts {
    /// The basis, where it goes together with `--consent` and `--until`.
    fn declared_basis(&self, consent: Consent, now: Time) -> Result<consent::Basis, Failure> {
        let wrong = |message: &str| Err(Failure::Failed(anyhow::anyhow!("{message}")));
        match (self.basis, self.until) {
            (Basis::Implied, None) => {
                return wrong(
                    "an implied consent ends: say when\nhint: `--until 2028-05-01`, two years after a purchase or six months after a question",
                );
            }
            (Basis::Implied, Some(until)) if until <= now => {
                return wrong("this implied consent has ended already\nhint: leave these people out, or ask them for their consent");
            }
            (Basis::Implied, Some(_)) if !matches!(consent, Consent::Confirmed) => {
                return wrong("an implied consent is there or not\nhint: use `--consent confirmed` with `--basis implied`");
            }
            (Basis::Implied, Some(_)) | (_, None) => {}
            (_, Some(_)) => return wrong("only an implied consent ends by itself\nhint: leave out `--until`, or add `--basis implied`"),
        }
        Ok(match self.basis {
            Basis::Consent => consent::Basis::Consent,
            Basis::SoftOptIn => consent::Basis::SoftOptIn,
            Basis::Implied => consent::Basis::Implied,
            Basis::Contract => consent::Basis::Contract,
            Basis::LegitimateInterest => consent::Basis::LegitimateInterest,
        })
    }

    async fn run(self, context: &Context) -> Outcome {
        // Said aloud, `--consent none` may stand beside a topic; forgotten, it is a mistake.
        let consent = self.consent.unwrap_or(Consent::None);
        if self.topic.is_empty() && !matches!(consent, Consent::None) {
            return Err(Failure::Failed(anyhow::anyhow!("consent to what?\nhint: name a topic with `--topic`, or use `--consent none`")));
        }
        if !self.topic.is_empty() && self.consent.is_none() {
            return Err(Failure::Failed(anyhow::anyhow!(
                "`--topic` without `--consent` would subscribe nobody\nhint: add `--consent confirmed --source \"where they agreed\"`, or leave out `--topic`"
            )));
        }
        if self.welcome && !matches!(consent, Consent::Confirmed) {
            return Err(Failure::Failed(anyhow::anyhow!(
                "`--welcome` without `--consent confirmed` would greet nobody\nhint: whoever confirms is greeted without it"
            )));
        }
        let instance = context.instance().await?;
        let now = context.clock.now();
        let basis = self.declared_basis(consent, now)?;
        let mut topics = Vec::new();
        for topic in &self.topic {
            known_topic(&instance, topic)?;
            if self.welcome && instance.config.topics.get(topic).is_none_or(|topic| topic.welcome.is_none()) {
                return Err(Failure::Failed(anyhow::anyhow!(
                    "the topic `{topic}` has no welcome\nhint: `welcome = \"TEMPLATE\"` in topics.toml names a file of `messages/`"
                )));
            }
            if self.dry_run {
                continue;
            }
            let purpose = instance.config.topics.get(topic).map_or_else(String::new, |topic| topic.purpose.clone());
            topics.push((consents::ensure_topic(&instance.db, topic, &instance.entropy, now).await?, purpose));
        }
        let map = self.map.iter().map(|pair| split_map(pair)).collect::<Result<_, _>>()?;
        let options = ImportOptions { map, dry_run: self.dry_run, encoding: self.encoding.clone() };
        let (source, bytes) = open(&self.file)?;
        let bar = context.out.bar(bytes, "import");
        let mut grants = Grants {
            topics,
            declared: Declared {
                consent: match consent {
                    Consent::Confirmed => DeclaredConsent::Confirmed,
                    Consent::Pending => DeclaredConsent::Pending,
                    Consent::None => DeclaredConsent::None,
                },
                source: self.source.clone().unwrap_or_default(),
                basis,
                until: self.until,
            },
            welcome: self.welcome,
            digests: instance.digests(),
            now,
        };
        let import = ContactImport { db: &instance.db, schema: &instance.schema, entropy: &instance.entropy, now, options: &options };
        let rejects = self.rejects.as_deref().map(create).transpose()?;
        let outcome = import
            .run(source, rejects, &mut grants, &mut |progress| {
                bar.set_position(progress.bytes);
                bar.set_message(format!("{} rows", progress.rows));
            })
            .await;
        bar.finish_and_clear();
        let outcome = outcome?;
        let counts = outcome.counts;
        let ignored: Vec<&String> = outcome.mapping.ignored.iter().map(|(header, _)| header).collect();
        for (header, why) in &outcome.mapping.ignored {
            context.out.say(format!("column `{header}` is left out: {why}"));
        }
        for reject in outcome.rejects.iter().take(10) {
            context.out.say(reject.to_string());
        }
        if counts.rejected > 10 && self.rejects.is_none() {
            context.out.say(format!("and {} more; `--rejects FILE` writes them all", counts.rejected - 10));
        }
        if context.out.json {
            let mut document = serde_json::to_value(counts)?;
            if let Some(object) = document.as_object_mut() {
                object.insert("ignored_columns".to_owned(), json!(ignored));
                object.insert("encoding".to_owned(), json!(outcome.encoding));
                object.insert("dry_run".to_owned(), json!(self.dry_run));
            }
            return context.out.document(&document);
        }
        let dry = if self.dry_run { " (dry run: nothing was written)" } else { "" };
        context.out.data(format!(
            "{} read: {} added, {} updated, {} unchanged, {} rejected; {} suppressed{dry}",
            counted(counts.read, "row"),
            counts.added,
            counts.updated,
            counts.unchanged,
            counts.rejected,
            counts.suppressed
        ));
        Ok(())
    }
}

/// A date (its first moment in UTC) or a time with its zone.
fn date(text: &str) -> Result<Time, String> {
    if let Ok(date) = text.trim().parse::<jiff::civil::Date>()
        && !text.contains(':')
    {
        return date.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp().into()).map_err(|error| error.to_string());
    }
    Time::parse(text).map_err(|_| format!("`{text}` is no date; write `2028-05-01` or `2028-05-01T00:00:00+08:00`"))
}

pub(super) fn split_map(pair: &str) -> Result<(String, String), Failure> {
    pair.split_once('=')
        .map(|(column, field)| (column.trim().to_owned(), field.trim().to_owned()))
        .ok_or_else(|| Failure::Failed(anyhow::anyhow!("`--map {pair}` names no field\nhint: write `--map \"Column=field\"`")))
}

/// The file and its size in bytes (0 when it cannot be told).
pub(super) fn open(file: &Path) -> Result<(Box<dyn Read + Send>, u64), Failure> {
    if file == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), 0));
    }
    let opened = File::open(file).map_err(|error| anyhow::anyhow!("cannot open `{}`: {error}", file.display()))?;
    let metadata = opened.metadata()?;
    if metadata.is_dir() {
        return Err(Failure::Failed(anyhow::anyhow!("`{}` is a folder", file.display())));
    }
    Ok((Box::new(opened), metadata.len()))
}

pub(super) fn create(file: &Path) -> Result<Box<dyn Write + Send>, Failure> {
    let file = File::create(file).map_err(|error| anyhow::anyhow!("cannot write `{}`: {error}", file.display()))?;
    Ok(Box::new(std::io::BufWriter::new(file)))
}
