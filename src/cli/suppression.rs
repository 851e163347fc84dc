//! `optin suppression list|add|remove|check|export`, and `optin import suppressions`

use std::io::Write;
use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::import::{create, open};
use super::out::{Failure, Outcome, counted, shown, table};
use super::{Context, refused};
use crate::clock::{DAY, Time};
use crate::consent::suppression::{self, Entry, Kind, NewEntry, reason};
use crate::contact::Date;
use crate::contact::import::{SuppressionReader, suppression_entry};
use crate::instance::Instance;

/// Entries of one transaction of an import, some 8 MB: hashes lie anywhere in the index, so each transaction writes most
/// of its pages anew.
const BATCH: usize = 50_000;
/// Entries read at a time for an export: memory stays flat.
const PAGE: i64 = 5_000;
/// Rejected lines that are shown; `--rejects` writes all.
const SHOWN_REJECTS: u64 = 10;

/// Examples of `import suppressions`.
pub(super) const IMPORT_HELP: &str = "Each line tells by itself what it is: an address, a domain (`tea.example`; with every domain below \
    it: `*.tea.example`), or an MD5, SHA-1 or SHA-256 hash in hex of an address in lower case. Entries that are there stay as \
    they are, unless the new one holds longer.\n\n\
    Examples:\n  optin import suppressions bounced.csv --source 'old system'\n  \
    optin import suppressions partner.txt --kind md5 --source 'partner list, May' --expires 365";

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum KindArgument {
    /// An address.
    Address,
    /// A domain; `*.` before it covers the domains below it too.
    Domain,
    /// MD5 of an address in lower case, in hex.
    Md5,
    /// SHA-1 of it.
    Sha1,
    /// SHA-256 of it.
    Sha256,
}

impl KindArgument {
    fn kind(self) -> Kind {
        match self {
            KindArgument::Address => Kind::Address,
            KindArgument::Domain => Kind::Domain,
            KindArgument::Md5 => Kind::Md5,
            KindArgument::Sha1 => Kind::Sha1,
            KindArgument::Sha256 => Kind::Sha256,
        }
    }
}

/// A hash that hides addresses in an export.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum HashArgument {
    /// For receivers that still ask for it.
    Md5,
    /// The same.
    Sha1,
    /// The best of them.
    Sha256,
}

/// Who gets nothing, whatever they subscribed to.
#[derive(Debug, clap::Args)]
pub struct SuppressionCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// How many entries there are, and the first of them.
    #[command(after_help = "Examples:\n  optin suppression list\n  optin suppression list --kind domain --json\n  \
        optin suppression list --reason complaint --limit 500")]
    List {
        /// Only entries of this kind.
        #[arg(long, value_enum)]
        kind: Option<KindArgument>,
        /// Only entries with this reason.
        #[arg(long)]
        reason: Option<String>,
        /// So many entries of each kind at most.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Suppress an address, a domain or a hash, at once, also in sends under way.
    #[command(after_help = "Examples:\n  optin suppression add joe@customer.example --reason request --source 'letter, 3 May'\n  \
        optin suppression add '*.rival.example' --source legal --expires 2027-12-31\n  optin suppression add full@customer.example --reason bounce --expires 30")]
    Add(Add),
    /// Take an entry away; who said so is kept.
    #[command(after_help = "Nobody is subscribed by it: a withdrawal or a complaint still stands in the ledger. What was taken away, \
        when and on whose word is kept in a register, which `suppression check` shows.\n\n\
        Example:\n  optin suppression remove joe@customer.example --source 'called, reported it by mistake'")]
    Remove {
        /// An address, domain or hash.
        entry: String,
        /// On whose word.
        #[arg(long)]
        source: String,
    },
    /// Whether an address gets nothing, which entry says so, and what was taken away before.
    #[command(after_help = "Exit code 1 where it is suppressed.\n\nExample:\n  optin suppression check joe@customer.example")]
    Check {
        /// The address.
        email: String,
    },
    /// All entries as CSV; with `--hash`, without addresses.
    #[command(
        after_help = "Addresses of people who opted out must not be passed on (CAN-SPAM, 15 USC 7704(a)(4)): give others hashes only. \
        Erased people stand in no export.\n\n\
        Examples:\n  optin suppression export --output suppressed.csv\n  optin suppression export --hash sha256 --output for-partner.csv"
    )]
    Export {
        /// Write hashes instead of addresses. Domains stay; hashes of another kind cannot be turned and are left out.
        #[arg(long, value_enum)]
        hash: Option<HashArgument>,
        /// Write to this file instead of standard output.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// An address, a domain (`tea.example`, `*.tea.example`), or a hash.
    entry: String,
    /// What it is, where that should not be told from it.
    #[arg(long, value_enum)]
    kind: Option<KindArgument>,
    /// Why: bounce, complaint, request, manual, role, or other words.
    #[arg(long, default_value = reason::MANUAL)]
    reason: String,
    /// Until when: a date, or a number of days; without it, for good.
    #[arg(long, value_name = "DATE|DAYS")]
    expires: Option<String>,
    /// On whose word.
    #[arg(long, default_value = "cli")]
    source: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportSuppressions {
    /// The file; `-` for standard input.
    file: PathBuf,
    /// What every line is, where that should not be told line by line.
    #[arg(long, value_enum)]
    kind: Option<KindArgument>,
    /// Why, where a line does not say it.
    #[arg(long, default_value = reason::IMPORT)]
    reason: String,
    /// Until when: a date, or a number of days; without it, for good.
    #[arg(long, value_name = "DATE|DAYS")]
    expires: Option<String>,
    /// Where the list came from.
    #[arg(long, default_value = "import")]
    source: String,
    /// Read and check everything, write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Rows that were not taken go here, with line, column and reason.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
}

impl SuppressionCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        match self.action {
            Action::List { kind, reason, limit } => list(context, kind, reason.as_deref(), limit).await,
            Action::Add(add) => add.run(context).await,
            Action::Remove { entry, source } => remove(context, &entry, &source).await,
            Action::Check { email } => check(context, &email).await,
            Action::Export { hash, output } => export(context, hash, output).await,
        }
    }
}

/// An entry in a JSON document.
pub(super) fn shown_entry(entry: &Entry) -> Value {
    json!({
        "kind": entry.kind,
        "value": entry.value,
        "reason": entry.reason,
        "source": entry.source,
        "at": entry.at.to_string(),
        "expires_at": entry.expires_at.map(|at| at.to_string()),
    })
}

/// An entry that suppresses somebody, in a sentence.
pub(super) fn sentence(entry: &Entry) -> String {
    let by = match entry.kind {
        Kind::Address => String::new(),
        kind => format!(" by the {kind} `{}`", entry.value),
    };
    let until = entry.expires_at.map_or_else(String::new, |at| format!(", until {} UTC", shown(&at.to_string())));
    format!("suppressed{by} since {} UTC: {} ({}){until}", shown(&entry.at.to_string()), entry.reason, entry.source)
}

fn expiry(text: Option<&str>, now: Time) -> Result<Option<Time>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let days = text.trim_end_matches('d').parse::<i64>().ok().filter(|days| (1..=36_500).contains(days));
    let date = || Time::parse(&format!("{}T00:00:00Z", Date::parse(text)?)).ok();
    let until = days.map(|days| now.plus(days * DAY)).or_else(date);
    match until {
        Some(until) if until > now => Ok(Some(until)),
        Some(_) => {
            Err(Failure::Failed(anyhow::anyhow!("`--expires {text}` is over\nhint: write a date that is to come, or a number of days")))
        }
        None => Err(Failure::Failed(anyhow::anyhow!(
            "`--expires {text}` is neither a date nor a number of days\nhint: write `--expires 2027-12-31` or `--expires 90`"
        ))),
    }
}

fn parse(text: &str, kind: Option<KindArgument>) -> Result<(Kind, String), Failure> {
    suppression_entry(text, kind.map(KindArgument::kind)).map_err(|problem| {
        Failure::Failed(anyhow::anyhow!(
            "`{text}` cannot be suppressed: {problem}\nhint: write an address, a domain such as `tea.example` or `*.tea.example`, or a hash in hex"
        ))
    })
}

async fn list(context: &Context, kind: Option<KindArgument>, reason: Option<&str>, limit: u32) -> Outcome {
    let instance = context.instance().await?;
    let db = &mut instance.db.clone();
    let wanted = kind.map(KindArgument::kind);
    let fits = |kind: &Kind, why: &str| wanted.is_none_or(|wanted| wanted == *kind) && reason.is_none_or(|reason| reason == why);
    let counts: Vec<_> = suppression::counts(db).await?.into_iter().filter(|(kind, why, _)| fits(kind, why)).collect();
    let mut entries = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Keyed && wanted.is_none_or(|wanted| wanted == *kind)) {
        entries.extend(suppression::entries(db, kind, "", reason, i64::from(limit)).await?);
    }
    if context.out.json {
        let counts: Vec<_> = counts.iter().map(|(kind, reason, count)| json!({ "kind": kind, "reason": reason, "count": count })).collect();
        return context.out.document(&json!({ "counts": counts, "suppressions": entries.iter().map(shown_entry).collect::<Vec<_>>() }));
    }
    if counts.is_empty() {
        context.out.data("Nobody is suppressed");
        return Ok(());
    }
    let total: i64 = counts.iter().map(|(_, _, count)| count).sum();
    let rows = counts.iter().map(|(kind, reason, count)| vec![kind_name(*kind), reason.clone(), count.to_string()]).collect();
    context.out.data(table(&["kind", "reason", "entries"], rows));
    let shown_at = |at: Time| shown(&at.to_string());
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            let until = entry.expires_at.map_or_else(|| "for good".to_owned(), shown_at);
            vec![kind_name(entry.kind), entry.value.clone(), entry.reason.clone(), entry.source.clone(), shown_at(entry.at), until]
        })
        .collect();
    let listed = rows.len() as i64;
    if listed > 0 {
        context.out.data(format!("\n{}", table(&["kind", "value", "reason", "source", "since (UTC)", "until (UTC)"], rows)));
    }
    if listed < total {
        context.out.say(format!("{listed} of {total} are shown; `optin suppression export` writes all that name somebody"));
    }
    Ok(())
}

fn kind_name(kind: Kind) -> String {
    if kind == Kind::Keyed { "erased person".to_owned() } else { kind.to_string() }
}

impl Add {
    async fn run(self, context: &Context) -> Outcome {
        let (kind, value) = parse(&self.entry, self.kind)?;
        let instance = context.instance().await?;
        let now = context.clock.now();
        let expires_at = expiry(self.expires.as_deref(), now)?;
        let entry = NewEntry { kind, value: value.clone(), reason: self.reason.clone(), expires_at };
        let mut tx = instance.db.begin().await?;
        let added = suppression::add(&mut tx, vec![entry], &self.source, now).await?;
        tx.commit().await?;
        if context.out.json {
            let until = expires_at.map(|at| at.to_string());
            return context.out.document(&json!({
                "kind": kind, "value": value, "reason": self.reason, "expires_at": until, "added": added == 1,
            }));
        }
        let what = if added == 1 { "is suppressed now" } else { "was suppressed already, at least as long" };
        context.out.data(format!("{kind} {value} {what}"));
        Ok(())
    }
}

async fn remove(context: &Context, text: &str, source: &str) -> Outcome {
    let (kind, value) = parse(text, None)?;
    let instance = context.instance().await?;
    let mut tx = instance.db.begin().await?;
    let removed = suppression::remove(&mut tx, &instance.digests(), &instance.entropy, (kind, &value), source, context.clock.now()).await?;
    tx.commit().await?;
    let still = if kind == Kind::Address { crate::consent::ops::suppression(&instance.db, &value).await? } else { None };
    if removed.is_empty() && still.is_none() {
        return refused(format!("`{text}` is not on the suppression list\nhint: `optin suppression list` shows who is"));
    }
    if context.out.json {
        return context.out.document(&json!({
            "kind": kind,
            "value": value,
            "removed": removed.iter().map(shown_removed).collect::<Vec<_>>(),
            "still_suppressed_by": still.as_ref().map(shown_entry),
        }));
    }
    for entry in &removed {
        context.out.data(format!("taken away: {}", sentence(entry).replace("suppressed", kind_name(entry.kind).as_str())));
    }
    if let Some(entry) = still {
        context.out.data(format!("{value} still gets nothing: {}", sentence(&entry)));
    }
    Ok(())
}

/// What was taken away; of an erased person's digest not the digest.
fn shown_removed(entry: &Entry) -> Value {
    let mut shown = shown_entry(entry);
    if entry.kind == Kind::Keyed {
        shown["value"] = Value::Null;
    }
    shown
}

async fn check(context: &Context, email: &str) -> Outcome {
    let address = super::parse_address(email)?;
    let instance = context.instance().await?;
    let digests = instance.digests();
    let mut tx = instance.db.begin_read().await?;
    let found = suppression::look_up(&mut tx, &[address.key()]).await?.remove(address.key());
    let erased = suppression::were_erased(&mut tx, &digests, address.key()).await?;
    let removals = suppression::removals(&mut tx, &digests, Kind::Address, address.key()).await?;
    tx.rollback().await?;
    let suppressed = found.is_some() || erased;
    if context.out.json {
        let removed: Vec<_> = removals
            .iter()
            .map(|removal| {
                json!({
                    "at": removal.at.to_string(), "kind": removal.kind, "reason": removal.reason,
                    "since": removal.since.to_string(), "source": removal.source,
                })
            })
            .collect();
        context.out.document(&json!({
            "email": email, "suppressed": suppressed, "entry": found.as_ref().map(shown_entry), "erased": erased, "removed": removed,
        }))?;
    } else {
        match (&found, erased) {
            (Some(entry), _) => context.out.data(sentence(entry)),
            (None, true) => context.out.data("suppressed: somebody with this address was erased"),
            (None, false) => context.out.data("not suppressed"),
        }
        for removal in &removals {
            context.out.data(format!(
                "taken away on {} UTC: {} ({}, since {} UTC), on the word of: {}",
                shown(&removal.at.to_string()),
                kind_name(removal.kind),
                removal.reason,
                shown(&removal.since.to_string()),
                removal.source
            ));
        }
    }
    if suppressed { Err(Failure::Refused(String::new())) } else { Ok(()) }
}

async fn export(context: &Context, hash: Option<HashArgument>, output: Option<PathBuf>) -> Outcome {
    let instance = context.instance().await?;
    let hash = hash.map(|hash| match hash {
        HashArgument::Md5 => Kind::Md5,
        HashArgument::Sha1 => Kind::Sha1,
        HashArgument::Sha256 => Kind::Sha256,
    });
    let mut file = output.as_deref().map(create).transpose()?;
    let mut put = |line: String| -> Result<(), Failure> {
        match &mut file {
            Some(file) => file.write_all(line.as_bytes())?,
            // The document of `--json` has standard output for itself.
            None if context.out.json => {}
            None => context.out.raw(line.as_bytes()),
        }
        Ok(())
    };
    put("kind,value,reason,source,at,expires_at\n".to_owned())?;
    let (written, left_out) = export_entries(&instance, hash, &mut put).await?;
    if let Some(file) = &mut file {
        file.flush()?;
    }
    if context.out.json {
        let file = output.as_ref().map(|file| file.display().to_string());
        return context.out.document(&json!({ "written": written, "left_out": left_out, "file": file }));
    }
    let left = if left_out > 0 { format!("; {left_out} hashes of another kind are left out") } else { String::new() };
    context.out.say(format!("{} written{left}", counted(written, "entry").replace("entrys", "entries")));
    Ok(())
}

async fn export_entries(
    instance: &Instance,
    hash: Option<Kind>,
    put: &mut impl FnMut(String) -> Result<(), Failure>,
) -> Result<(u64, u64), Failure> {
    let (mut written, mut left_out) = (0, 0);
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Keyed) {
        let mut after = String::new();
        loop {
            let page = suppression::entries(&mut instance.db.clone(), kind, &after, None, PAGE).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.value);
            let ended = page.len() < PAGE as usize;
            let mut lines = String::new();
            for entry in page {
                let (kind, value) = match hash {
                    Some(hash) if kind == Kind::Address => (hash, suppression::hash(hash, &entry.value).unwrap_or_default()),
                    Some(hash) if kind != Kind::Domain && kind != hash => {
                        left_out += 1;
                        continue;
                    }
                    _ => (kind, entry.value.clone()),
                };
                // Where an entry came from may name people: it goes with plain addresses only.
                let source = if hash.is_some() { "" } else { entry.source.as_str() };
                let until = entry.expires_at.map_or_else(String::new, |at| at.to_string());
                lines.push_str(&format!("{kind},{},{},{},{},{until}\n", cell(&value), cell(&entry.reason), cell(source), entry.at));
                written += 1;
            }
            put(lines)?;
            if ended {
                break;
            }
        }
    }
    Ok((written, left_out))
}

/// A cell of a CSV file. What a spreadsheet would take for a formula gets an apostrophe before it.
fn cell(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

impl ImportSuppressions {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        let now = context.clock.now();
        let expires_at = expiry(self.expires.as_deref(), now)?;
        let (source, _) = open(&self.file)?;
        let mut rejects = self.rejects.as_deref().map(create).transpose()?;
        let (mut read, mut added, mut rejected) = (0_u64, 0_u64, 0_u64);
        let mut batch: Vec<NewEntry> = Vec::new();
        let mut rows = SuppressionReader::open(source, self.kind.map(KindArgument::kind))?;
        loop {
            let next = rows.next_row()?;
            if let Some(row) = &next {
                read += 1;
                match row {
                    Ok(row) => batch.push(NewEntry {
                        kind: row.kind,
                        value: row.value.clone(),
                        reason: row.reason.clone().unwrap_or_else(|| self.reason.clone()),
                        expires_at,
                    }),
                    Err(reject) => {
                        rejected += 1;
                        if rejected <= SHOWN_REJECTS {
                            context.out.say(reject.to_string());
                        }
                        if let Some(file) = &mut rejects {
                            writeln!(file, "{},{},\"{}\"", reject.line, reject.column, reject.reason.replace('"', "\"\""))?;
                        }
                    }
                }
            }
            if batch.len() >= BATCH || (next.is_none() && !batch.is_empty()) {
                let mut tx = instance.db.begin().await?;
                added += suppression::add(&mut tx, std::mem::take(&mut batch), &self.source, now).await?;
                if self.dry_run {
                    tx.rollback().await?;
                } else {
                    tx.commit().await?;
                }
            }
            if next.is_none() {
                break;
            }
        }
        if let Some(file) = &mut rejects {
            file.flush()?;
        }
        let unchanged = read - added - rejected;
        if context.out.json {
            return context.out.document(&json!({
                "read": read, "added": added, "updated": 0, "unchanged": unchanged, "rejected": rejected, "suppressed": added,
                "dry_run": self.dry_run,
            }));
        }
        let dry = if self.dry_run { " (dry run: nothing was written)" } else { "" };
        context.out.data(format!("{} read: {added} suppressed, {unchanged} were already, {rejected} rejected{dry}", counted(read, "row")));
        Ok(())
    }
}
