//! `optin contact export|erase|change`: a person's data, its erasure, its correction.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use super::out::{Failure, Outcome, counted, refused};
use super::{Context, contact_by_email, parse_address};
use crate::contact::Contact;
use crate::contact::care::FieldChange;
use crate::instance::Instance;
use crate::rights::erase::{self, Erasure};
use crate::rights::rectify::{self, Correction, NotRectified};
use crate::rights::register::{self, NewRequest};
use crate::rights::{Kind, State, access, page, subject};

/// How the ledger and the register call what an operator does.
const SOURCE: &str = "cli";

/// A copy of everything about one person.
#[derive(Debug, clap::Args)]
#[command(after_help = "The archive holds `data.json` (docs/privacy.md lists its keys) and `index.html`, in the person's\n\
    language. The register notes that a copy was made. With `--json` and no `--out`, the data itself is\n\
    the document.\n\n\
    Examples:\n  optin contact export mei@tea.example --out mei.zip\n  optin contact export mei@tea.example --json")]
pub(super) struct Export {
    /// The address.
    email: String,
    /// The archive to write; an existing file is not overwritten.
    #[arg(long, value_name = "FILE.zip")]
    out: Option<PathBuf>,
}

/// Erasing one person from every table.
#[derive(Debug, clap::Args)]
#[command(after_help = "The ledger keeps its entries without anything personal, and still verifies. Numbers of runs\n\
    stay as they are. Who left, objected or was suppressed stays suppressed by a keyed digest;\n\
    `--keep-out` does so for anybody.\n\n\
    Examples:\n  optin contact erase mei@tea.example --dry-run\n  optin contact erase mei@tea.example --yes --source 'letter of 3 May'")]
pub(super) struct Erase {
    /// The address.
    email: String,
    /// How the demand came, for the register. It stays, so it must not name the person.
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// Do it: nothing brings the data back.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Keep the address out also where the person never left.
    #[arg(long)]
    keep_out: bool,
}

/// Correcting one person's data.
#[derive(Debug, clap::Args)]
#[command(after_help = "The ledger notes which fields changed; what somebody agreed to or refused stays theirs under a new\n\
    address, and a suppressed address does not become mailable by another name.\n\n\
    Examples:\n  optin contact change mei@tea.example --set first_name=Mei --set city=Tainan\n  \
    optin contact change mei@tea.example --email mei@leaf.example --source 'by telephone'\n  \
    optin contact change mei@tea.example --set phone=      # empties it")]
pub(super) struct Change {
    /// The address.
    email: String,
    /// A field or attribute and its value; an empty value empties it. May be repeated.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    fields: Vec<String>,
    /// The new address.
    #[arg(long = "email", value_name = "NEW")]
    new_email: Option<String>,
    /// How the demand came: part of the proof, which an erasure erases.
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
}

impl Export {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let out = match (&self.out, context.out.json) {
            (Some(file), _) => Some(file.clone()),
            (None, true) => None,
            (None, false) => Some(PathBuf::from(page::FILE)),
        };
        let instance = context.instance().await?;
        let contact = contact_by_email(&instance, &self.email).await?;
        let now = context.clock.now();
        // Everything as of one moment.
        let mut tx = instance.db.begin_read().await?;
        let data = access::collect(&mut tx, &instance.config, &instance.keys, &contact, now).await?;
        tx.rollback().await?;
        let Some(file) = out else {
            note(&instance, &contact, now).await?;
            return context.out.document(&data);
        };
        let lang = instance.languages.negotiate(None, contact.locale.as_deref(), None);
        let bytes = page::archive(&instance.config, &contact, lang, &data).map_err(anyhow::Error::msg)?;
        write_new(&file, &bytes)?;
        note(&instance, &contact, now).await?;
        if context.out.json {
            return context.out.document(&json!({ "email": contact.email, "file": file, "bytes": bytes.len() }));
        }
        context.out.data(format!("{} ({} bytes) holds everything about {}", file.display(), bytes.len(), contact.email));
        Ok(())
    }
}

/// Notes in the register that a copy was made: it answers an open demand, or is one.
async fn note(instance: &Instance, contact: &Contact, now: crate::clock::Time) -> Result<(), Failure> {
    let subject = subject(&instance.keys, &contact.email_key);
    let mut tx = instance.db.begin().await?;
    let known = register::of_subject(&mut tx, contact.id, &subject).await?;
    let mut answered = false;
    for request in known.iter().filter(|request| request.state == State::Open && matches!(request.kind, Kind::Access | Kind::Portability)) {
        answered |= register::close(&mut tx, request.id, State::Done, None, now).await?;
    }
    if !answered {
        let done = NewRequest {
            id: instance.entropy.id(now),
            kind: Kind::Access,
            contact_id: Some(contact.id),
            subject,
            state: State::Done,
            source: SOURCE,
            asked_at: now,
            days: instance.config.rights.days,
            note: None,
        };
        register::add(&mut tx, &done, now).await?;
    }
    Ok(tx.commit().await?)
}

/// Writes a file that only its owner reads; one that is there stays as it is.
fn write_new(file: &std::path::Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(file).and_then(|mut open| open.write_all(bytes));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::Refused(format!("`{}` is there already and was not overwritten\nhint: name another file with `--out`", file.display()))
        }
        _ => Failure::Failed(anyhow::anyhow!("cannot write `{}`: {error}", file.display())),
    })
}

impl Erase {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        let contact = contact_by_email(&instance, &self.email).await?;
        if let Some(named) = self.source.as_deref().and_then(|source| names(&contact, source)) {
            return refused(format!(
                "`--source` names the person (`{named}`), and it stays in the register: nothing was erased\nhint: say only how the demand came, such as `letter of 3 May`"
            ));
        }
        if !self.yes && !self.dry_run {
            return refused(format!(
                "erasing cannot be undone: nothing was erased\nhint: look first with `optin contact erase {0} --dry-run`, keep a copy with `optin contact export {0}`, then add `--yes`",
                self.email
            ));
        }
        let now = context.clock.now();
        let erasure = Erasure {
            source: SOURCE,
            note: self.source.as_deref(),
            keep_out: self.keep_out,
            demanded: true,
            days: instance.config.rights.days,
        };
        let mut tx = instance.db.begin().await?;
        let erased = erase::erase(&mut tx, &instance.keys, &instance.entropy, &contact, &erasure, now).await?;
        if self.dry_run {
            tx.rollback().await?;
        } else {
            tx.commit().await?;
            erase::settle(&instance.db).await;
        }
        if context.out.json {
            return context.out.document(&json!({
                "contact": contact.id.to_string(),
                "erased": !self.dry_run,
                "dry_run": self.dry_run,
                "suppressed": erased.suppressed,
                "deliveries": erased.deliveries,
            }));
        }
        let verb = if self.dry_run { "would be erased" } else { "is erased" };
        context.out.data(format!("contact {} {verb}; {} keep counting, for nobody", contact.id, counted(erased.deliveries as i64, "mail")));
        context.out.data(match &erased.suppressed {
            Some(reason) => format!("the address stays suppressed ({reason}) by a digest that only this instance can make"),
            None => "nothing keeps the address out: an import may bring it in again (`--keep-out` prevents that)".to_owned(),
        });
        if !self.dry_run {
            context.out.say("Backups and files that were imported or exported still hold the data: see docs/privacy.md.");
        }
        Ok(())
    }
}

/// What of a person stands in an operator's words. Names of one letter stand everywhere.
fn names<'a>(contact: &'a Contact, text: &str) -> Option<&'a str> {
    let text = text.to_lowercase();
    let words =
        [Some(&contact.email), Some(&contact.email_key), contact.first_name.as_ref(), contact.last_name.as_ref(), contact.phone.as_ref()];
    let long_enough = |word: &&String| word.len() > 1;
    words.into_iter().flatten().filter(long_enough).find(|word| text.contains(&word.to_lowercase())).map(String::as_str)
}

impl Change {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        if self.fields.is_empty() && self.new_email.is_none() {
            return Err(Failure::Failed(anyhow::anyhow!("nothing to change\nhint: `--set field=value`, `--email NEW`")));
        }
        let instance = context.instance().await?;
        let mut fields = Vec::new();
        for text in &self.fields {
            fields.push(FieldChange::parse(&instance.schema, text).map_err(|problem| Failure::Failed(anyhow::Error::msg(problem)))?);
        }
        let email = self.new_email.as_deref().map(parse_address).transpose()?;
        let contact = contact_by_email(&instance, &self.email).await?;
        let correction = Correction { fields: &fields, email: email.as_ref(), source: SOURCE, words: self.source.as_deref() };
        let now = context.clock.now();
        let mut tx = instance.db.begin().await?;
        let done = rectify::rectify(&mut tx, &instance.schema, &instance.entropy, &instance.digests(), &contact, &correction, now).await;
        let done = match done {
            Ok(done) => done,
            Err(taken @ NotRectified::Taken(_)) => {
                tx.rollback().await?;
                return refused(taken.to_string());
            }
            Err(NotRectified::Db(error)) => return Err(error.into()),
        };
        tx.commit().await?;
        let shown = email.as_ref().map_or(contact.email.as_str(), |email| email.as_str());
        if context.out.json {
            return context.out.document(&json!({ "email": shown, "changed": done.fields, "suppressed": done.suppressed }));
        }
        context.out.data(format!("{shown}: changed {}", done.fields.join(", ")));
        if let Some(reason) = done.suppressed {
            context.out.data(format!("the new address is suppressed ({reason}): it gets nothing"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_words_must_not_name_the_person() {
        let contact = Contact {
            id: 1,
            email: "Mei@Tea.example".to_owned(),
            email_key: "mei@tea.example".to_owned(),
            first_name: Some("Mei-Ling".to_owned()),
            last_name: Some("W".to_owned()),
            locale: None,
            timezone: None,
            phone: None,
            external_id: None,
            attributes: Default::default(),
        };
        assert_eq!(names(&contact, "letter of mei-ling, 3 May"), Some("Mei-Ling"));
        assert_eq!(names(&contact, "mail from MEI@TEA.EXAMPLE"), Some("Mei@Tea.example"));
        assert_eq!(names(&contact, "a letter, with W in it"), None);
    }
}
