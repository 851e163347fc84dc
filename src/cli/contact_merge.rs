//! `optin contact merge|unmerge|merges|duplicates|identity`: who is who.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::out::{Failure, Outcome, counted, refused, shown, table};
use super::{Context, contact_by_email};
use crate::behaviour::merge::{self, NotMerged};
use crate::consent::merge::Carried;
use crate::consent::tracking::TrackingRules;
use crate::contact::identity::{self, Added, Kind};
use crate::contact::merge::{self as contacts, Merge as Merged};
use crate::contact::{self, Contact, duplicates};
use crate::instance::Instance;

/// Merges shown at once.
const SHOWN: i64 = 100;

/// Making two contacts one person.
#[derive(Debug, clap::Args)]
#[command(after_help = "GONE keeps its address, its mails and its entries in the ledger, and gets no more mail. What\n\
    it ordered and did counts for KEEP, whose empty fields are filled from it. Its consent is of its\n\
    own address and is not carried over; what it withdrew holds for KEEP, too (docs/identities.md).\n\n\
    Examples:\n  optin contact merge mei@leaf.example mei@tea.example --source 'she wrote us' --dry-run\n  \
    optin contact merge mei@leaf.example mei@tea.example --source 'she wrote us'")]
pub(super) struct Merge {
    /// The address of the contact that stays.
    keep: String,
    /// The address of the contact that is the same person.
    gone: String,
    /// How you know.
    #[arg(long, value_name = "TEXT")]
    source: String,
    /// Only say what would happen.
    #[arg(long)]
    dry_run: bool,
}

/// Undoing a merge.
#[derive(Debug, clap::Args)]
#[command(after_help = "Permission that was lost by the merge stays lost.\n\n\
    Examples:\n  optin contact unmerge mei@tea.example\n  optin contact unmerge 123456789012345678")]
pub(super) struct Unmerge {
    /// The number of the merge, or the address of the contact that was gone.
    merge: String,
}

/// Which contacts were merged.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  optin contact merges\n  optin contact merges mei@leaf.example --json")]
pub(super) struct Merges {
    /// Only those of this address.
    email: Option<String>,
}

/// Contacts that are likely one person.
#[derive(Debug, clap::Args)]
#[command(after_help = "Nothing is merged by itself: people of one household share a telephone.\n\n\
    Examples:\n  optin contact duplicates\n  optin contact duplicates --limit 20 --json")]
pub(super) struct Duplicates {
    /// Groups of each reason, at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
}

/// By what else a contact is known.
#[derive(Debug, clap::Args)]
pub(super) struct IdentityCommand {
    #[command(subcommand)]
    action: IdentityAction,
}

#[derive(Debug, clap::Subcommand)]
enum IdentityAction {
    /// Show the identities of a contact.
    #[command(
        after_help = "Examples:\n  optin contact identity list mei@tea.example\n  optin contact identity list mei@tea.example --json"
    )]
    List {
        /// The address.
        email: String,
    },
    /// Give a contact a further identity: orders and events that name it are theirs.
    #[command(after_help = "Examples:\n  optin contact identity add mei@tea.example external_id C-1007 --source 'old shop'\n  \
        optin contact identity add mei@tea.example email mei@work.example --source 'by telephone'\n  \
        optin contact identity add mei@tea.example phone '+886 912 345 678' --source 'by telephone'")]
    Add {
        /// The address.
        email: String,
        /// external_id, phone, email or device.
        #[arg(value_parser = kind)]
        kind: Kind,
        /// Its value.
        value: String,
        /// How you know.
        #[arg(long, value_name = "TEXT")]
        source: String,
    },
    /// Take a further identity away.
    #[command(after_help = "Examples:\n  optin contact identity remove mei@tea.example external_id C-1007")]
    Remove {
        /// The address.
        email: String,
        /// external_id, phone, email or device.
        #[arg(value_parser = kind)]
        kind: Kind,
        /// Its value.
        value: String,
    },
}

fn kind(text: &str) -> Result<Kind, String> {
    let names = Kind::ALL.map(Kind::as_str).join(", ");
    Kind::from_stored(text).ok_or_else(|| format!("kinds are {names}"))
}

impl Merge {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        if self.source.trim().is_empty() {
            return Err(Failure::Failed(anyhow::anyhow!("`--source` is empty\nhint: say how you know that both are one person")));
        }
        let instance = context.instance().await?;
        let now = context.clock.now();
        let id = instance.entropy.id(now);
        let rules = TrackingRules::new(&instance.config.consent);
        let mut tx = instance.db.begin().await?;
        // Nobody is merged, and no order comes in, between the look and the merge.
        merge::hold(&mut tx).await?;
        let kept = contact_by_email(&instance, &self.keep).await?;
        let gone = contact_by_email(&instance, &self.gone).await?;
        let done = match merge::merge(&mut tx, &instance.schema, &rules, id, &kept, &gone, self.source.trim(), now).await {
            Ok(done) => done,
            Err(NotMerged::Db(error)) => return Err(error.into()),
            Err(other) => {
                tx.rollback().await?;
                return refused(other.to_string());
            }
        };
        if self.dry_run {
            tx.rollback().await?;
        } else {
            tx.commit().await?;
        }
        if context.out.json {
            return context.out.document(&json!({
                "merge": if self.dry_run { Value::Null } else { json!(done.id.to_string()) },
                "dry_run": self.dry_run,
                "kept": kept.email,
                "gone": gone.email,
                "taken": done.taken,
                "moved": done.moved,
                "withdrawn": carried(&done.carried),
            }));
        }
        let verb = if self.dry_run { "would become one person with" } else { "is one person with" };
        context.out.data(format!("{} {verb} {}, and gets no more mail", gone.email, kept.email));
        if !done.taken.is_empty() {
            context.out.data(format!("{} takes over: {}", kept.email, done.taken.join(", ")));
        }
        let moved = [counted(done.moved.orders, "order"), counted(done.moved.events, "event")].join(" and ");
        context.out.data(format!("{moved} count for {}", kept.email));
        for line in lost(&kept, &done.carried) {
            context.out.data(line);
        }
        if !self.dry_run {
            context.out.say(format!("`optin contact unmerge {}` undoes it.", done.id));
        }
        Ok(())
    }
}

/// What was lost, as JSON.
fn carried(carried: &Carried) -> Value {
    json!(carried)
}

/// What was lost, in sentences.
fn lost(contact: &Contact, carried: &Carried) -> Vec<String> {
    let email = &contact.email;
    let mut lines = Vec::new();
    match (carried.everything, carried.topics.as_slice()) {
        (true, _) => lines.push(format!("{email} gets nothing any more: the person left everything by the other address")),
        (false, []) => {}
        (false, topics) => lines.push(format!("{email} gets no more {}: the person left by the other address", topics.join(", "))),
    }
    if let Some(tracking) = carried.tracking {
        lines.push(format!("opens and clicks of {email} are recorded as the person chose elsewhere: {}", tracking.as_str()));
    }
    if carried.profiling_refused {
        lines.push(format!("nothing may be concluded about {email}: the person refused it"));
    }
    lines
}

impl Unmerge {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        let merge = self.find(&instance).await?;
        let now = context.clock.now();
        let rules = TrackingRules::new(&instance.config.consent);
        let mut tx = instance.db.begin().await?;
        merge::hold(&mut tx).await?;
        let Some(merge) = contacts::by_id(&mut tx, merge.id).await?.filter(|merge| merge.undone_at.is_none()) else {
            tx.rollback().await?;
            return refused("that merge was undone meanwhile");
        };
        let people = contact::sql::by_ids(&mut tx, &instance.schema, &[merge.gone_id, merge.kept_id]).await?;
        let of = |id: i64| people.iter().find(|contact| contact.id == id);
        let (Some(gone), Some(kept)) = (of(merge.gone_id), of(merge.kept_id)) else {
            tx.rollback().await?;
            return refused("one of the two contacts was erased: there is nothing to take apart");
        };
        let done = merge::unmerge(&mut tx, &rules, &merge, &[], now).await?;
        tx.commit().await?;
        if context.out.json {
            return context.out.document(&json!({
                "merge": merge.id.to_string(),
                "kept": kept.email,
                "gone": gone.email,
                "emptied": done.emptied.iter().map(|column| field_of(&instance, column)).collect::<Vec<_>>(),
                "moved": done.moved,
                "withdrawn": carried(&done.carried),
            }));
        }
        context.out.data(format!("{} is by itself again", gone.email));
        let moved = [counted(done.moved.orders, "order"), counted(done.moved.events, "event")].join(" and ");
        context.out.data(format!("{moved} went back to it"));
        if !done.emptied.is_empty() {
            let fields: Vec<String> = done.emptied.iter().map(|column| field_of(&instance, column)).collect();
            context.out.data(format!("{}: empty again: {}", kept.email, fields.join(", ")));
        }
        for line in lost(gone, &done.carried) {
            context.out.data(line);
        }
        context.out.say(format!("What {} lost by the merge stays lost: only a confirmation brings it back.", kept.email));
        Ok(())
    }

    async fn find(&self, instance: &Instance) -> Result<Merged, Failure> {
        let db = &mut instance.db.clone();
        if let Ok(id) = self.merge.parse::<i64>() {
            return match contacts::by_id(db, id).await? {
                Some(merge) if merge.undone_at.is_none() => Ok(merge),
                Some(_) => refused(format!("merge {id} was undone already")),
                None => refused(format!("there is no merge {id}\nhint: `optin contact merges` shows them")),
            };
        }
        let contact = contact_by_email(instance, &self.merge).await?;
        match contacts::of_gone(db, contact.id).await? {
            Some(merge) => Ok(merge),
            None => refused(format!(
                "`{}` was merged into nobody\nhint: name the address that is gone, or the number of the merge: `optin contact merges {0}`",
                self.merge
            )),
        }
    }
}

/// A column's field as declared.
fn field_of(instance: &Instance, column: &str) -> String {
    let declared = instance.schema.attributes().find(|(name, kind)| contact::Schema::column(name, *kind) == column);
    declared.map_or_else(|| column.to_owned(), |(name, _)| name.to_owned())
}

impl Merges {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        let contact_id = match &self.email {
            Some(email) => Some(contact_by_email(&instance, email).await?.id),
            None => None,
        };
        let db = &mut instance.db.clone();
        let merges = contacts::list(db, contact_id, SHOWN).await?;
        let mut ids: Vec<i64> = merges.iter().flat_map(|merge| [merge.kept_id, merge.gone_id]).collect();
        ids.sort_unstable();
        ids.dedup();
        let emails: HashMap<i64, String> = contact::sql::by_ids(db, &contact::Schema::default(), &ids)
            .await?
            .into_iter()
            .map(|contact| (contact.id, contact.email))
            .collect();
        let email = |id: i64| emails.get(&id);
        if context.out.json {
            let merges: Vec<Value> = merges
                .iter()
                .map(|merge| {
                    json!({
                        "merge": merge.id.to_string(),
                        "at": merge.at.to_string(),
                        "kept": email(merge.kept_id),
                        "gone": email(merge.gone_id),
                        "source": merge.source,
                        "taken": merge.taken.iter().map(|(column, _)| field_of(&instance, column)).collect::<Vec<_>>(),
                        "undone_at": merge.undone_at.map(|at| at.to_string()),
                    })
                })
                .collect();
            return context.out.document(&json!({ "merges": merges }));
        }
        let erased = || "(erased)".to_owned();
        let rows = merges.iter().map(|merge| {
            vec![
                merge.id.to_string(),
                shown(&merge.at.to_string()),
                email(merge.kept_id).cloned().unwrap_or_else(erased),
                email(merge.gone_id).cloned().unwrap_or_else(erased),
                merge.source.clone(),
                merge.undone_at.map_or_else(String::new, |at| shown(&at.to_string())),
            ]
        });
        context.out.data(table(&["merge", "when (UTC)", "kept", "gone", "source", "undone (UTC)"], rows.collect()));
        Ok(())
    }
}

impl Duplicates {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        let groups = duplicates::find(&mut instance.db.clone(), i64::from(self.limit)).await?;
        if context.out.json {
            let groups: Vec<Value> = groups
                .iter()
                .map(|group| {
                    let contacts: Vec<&str> = group.contacts.iter().map(|(_, email)| email.as_str()).collect();
                    json!({ "reason": group.reason, "value": group.value, "contacts": contacts, "count": group.count })
                })
                .collect();
            return context.out.document(&json!({ "duplicates": groups }));
        }
        let rows = groups.iter().map(|group| {
            let mut contacts: Vec<String> = group.contacts.iter().map(|(_, email)| email.clone()).collect();
            if group.count > contacts.len() as i64 {
                contacts.push(format!("and {} more", group.count - contacts.len() as i64));
            }
            vec![group.reason.words().to_owned(), group.value.clone(), contacts.join(", ")]
        });
        context.out.data(table(&["why", "what", "contacts"], rows.collect()));
        if groups.is_empty() {
            context.out.say("No contacts share a number or a mailbox.");
        } else {
            context.out.say("`optin contact merge KEEP GONE --source TEXT --dry-run` shows what a merge would do.");
        }
        Ok(())
    }
}

impl IdentityCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        match self.action {
            IdentityAction::List { email } => list(context, &instance, &email).await,
            IdentityAction::Add { email, kind, value, source } => add(context, &instance, &email, kind, &value, &source).await,
            IdentityAction::Remove { email, kind, value } => {
                let contact = contact_by_email(&instance, &email).await?;
                let normal = kind.normal(&value).map_err(|problem| Failure::Failed(anyhow::Error::msg(problem)))?;
                let mut tx = instance.db.begin().await?;
                if !identity::remove(&mut tx, contact.id, kind, &normal).await? {
                    tx.rollback().await?;
                    return refused(format!(
                        "`{email}` has no further identity {kind} `{normal}`\nhint: `optin contact identity list {email}` shows them; fields of the contact are changed with `optin contact change`"
                    ));
                }
                tx.commit().await?;
                if context.out.json {
                    return context.out.document(&json!({ "email": contact.email, "kind": kind, "value": normal, "removed": true }));
                }
                context.out.data(format!("{} is no longer known by {kind} {normal}", contact.email));
                Ok(())
            }
        }
    }
}

async fn add(context: &Context, instance: &Instance, email: &str, kind: Kind, value: &str, source: &str) -> Outcome {
    let contact = contact_by_email(instance, email).await?;
    let normal = kind.normal(value).map_err(|problem| Failure::Failed(anyhow::Error::msg(problem)))?;
    let mut tx = instance.db.begin().await?;
    let added = identity::add(&mut tx, contact.id, kind, &normal, source, context.clock.now()).await?;
    if let Added::Taken(other) = added {
        let other = contact::sql::by_ids(&mut tx, &contact::Schema::default(), &[other]).await?.pop();
        let other = other.map_or_else(String::new, |other| other.email);
        tx.rollback().await?;
        return refused(format!(
            "{kind} `{normal}` is of {other}\nhint: where both are one person, `optin contact merge {email} {other} --source TEXT`"
        ));
    }
    tx.commit().await?;
    if context.out.json {
        let document = json!({ "email": contact.email, "kind": kind, "value": normal, "added": added == Added::Added });
        return context.out.document(&document);
    }
    let word = if added == Added::Added { "is known by" } else { "was known by" };
    context.out.data(format!("{} {word} {kind} {normal}", contact.email));
    Ok(())
}

async fn list(context: &Context, instance: &Instance, email: &str) -> Outcome {
    let contact = contact_by_email(instance, email).await?;
    let identities = identities(instance, &contact).await?;
    if context.out.json {
        return context.out.document(&json!({ "email": contact.email, "identities": identities }));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let rows = identities
        .iter()
        .map(|one| vec![text(&one["kind"]), text(&one["value"]), text(&one["source"]), shown(&text(&one["since"])), text(&one["of"])]);
    context.out.data(table(&["kind", "value", "source", "since (UTC)", "by merge of"], rows.collect()));
    Ok(())
}

/// All by which a contact is known: its own fields, further identities, and those of whoever was merged into it.
pub(super) async fn identities(instance: &Instance, contact: &Contact) -> Result<Vec<Value>, Failure> {
    let db = &mut instance.db.clone();
    let (ids, _) = contacts::below(db, contact.id).await?;
    let mut people = contact::sql::by_ids(db, &contact::Schema::default(), &ids).await?;
    people.sort_by_key(|person| ids.iter().position(|id| *id == person.id));
    let mut out = Vec::new();
    for person in people {
        let of = (person.id != contact.id).then(|| person.email.clone());
        let own =
            [(Kind::Email, Some(&person.email)), (Kind::ExternalId, person.external_id.as_ref()), (Kind::Phone, person.phone.as_ref())];
        for (kind, value) in own {
            out.extend(value.map(|value| json!({ "kind": kind, "value": value, "source": "contact", "since": null, "of": of })));
        }
        for one in identity::of_contact(db, person.id).await? {
            out.push(json!({ "kind": one.kind, "value": one.value, "source": one.source, "since": one.since.to_string(), "of": of }));
        }
    }
    Ok(out)
}
