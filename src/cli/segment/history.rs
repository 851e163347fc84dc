//! `optin segment list|refresh|changes|freeze|lists|thaw`: sizes over time, who came and went, frozen lists.

use serde_json::{Value, json};

use super::{checked, one_line};
use crate::cli::Context;
use crate::cli::out::{Failure, Outcome, counted, refused, shown, table};
use crate::clock::{DAY, Time};
use crate::config::{check_name, diagnostics::did_you_mean};
use crate::instance::Instance;
use crate::segment::history::{self, Look, Looked};
use crate::segment::{self, frozen};

/// Sizes of one segment that `list` shows.
const SIZES_SHOWN: u32 = 7;
/// Days that `changes` looks back, where nobody says otherwise.
const CHANGES_DAYS: i64 = 7;

fn look_json(look: &Look) -> Value {
    json!({ "at": look.at.to_string(), "size": look.size, "joined": look.joined, "departed": look.departed })
}

/// Every segment with its size now and its sizes over time.
pub(super) async fn list(context: &Context, now: Time) -> Outcome {
    let instance = context.instance().await?;
    let (mut documents, mut rows) = (Vec::new(), Vec::new());
    for (name, segment) in &instance.config.segments {
        let rule = checked(context, &instance, &segment.rule.value).await?;
        let count = segment::ops::count(&instance.db, &rule, now).await?;
        let looks = history::looks(&mut instance.db.clone(), name, SIZES_SHOWN).await?;
        documents.push(json!({
            "segment": name, "count": count, "where": segment.rule.value, "description": segment.description,
            "sizes": looks.iter().map(look_json).collect::<Vec<_>>(),
        }));
        let (joined, departed) = looks.last().map_or_else(Default::default, |look| (look.joined.to_string(), look.departed.to_string()));
        let over_time: Vec<i64> = looks.iter().map(|look| look.size).collect();
        rows.push(vec![name.clone(), count.to_string(), joined, departed, sparkline(&over_time), one_line(&segment.rule.value)]);
    }
    if context.out.json {
        return context.out.document(&json!({ "segments": documents }));
    }
    context.out.data(table(&["segment", "contacts", "joined", "left", "days", "where"], rows));
    Ok(())
}

/// Sizes as bars, the largest one full.
fn sparkline(sizes: &[i64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = sizes.iter().copied().max().unwrap_or(0).max(1);
    sizes.iter().filter_map(|size| BARS.get((size.max(&0) * 7 / most) as usize)).collect()
}

/// A segment of segments.toml, or what was meant.
fn known<'a>(instance: &'a Instance, name: &str) -> Result<&'a crate::config::Segment, Failure> {
    instance.config.segments.get(name).ok_or_else(|| {
        let hint = match did_you_mean(name, instance.config.segments.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`optin segment list` shows all".to_owned(),
        };
        Failure::Failed(anyhow::anyhow!("there is no segment `{name}`\nhint: {hint}"))
    })
}

/// Looks at segments now.
pub(super) async fn refresh(context: &Context, names: &[String], now: Time) -> Outcome {
    let instance = context.instance().await?;
    let all: Vec<String> = if names.is_empty() { instance.config.segments.keys().cloned().collect() } else { names.to_vec() };
    let mut asked = Vec::new();
    for name in &all {
        let segment = known(&instance, name)?;
        asked.push((name, checked(context, &instance, &segment.rule.value).await?, segment.history));
    }
    let (mut documents, mut rows) = (Vec::new(), Vec::new());
    for (name, rule, members) in &asked {
        let found = history::look(&instance.db, &instance.entropy, Looked { name, rule, members: *members }, now).await?;
        let mut document = look_json(&found);
        document["segment"] = json!(name);
        documents.push(document);
        rows.push(vec![name.to_string(), found.size.to_string(), found.joined.to_string(), found.departed.to_string()]);
    }
    if context.out.json {
        return context.out.document(&json!({ "segments": documents }));
    }
    context.out.data(table(&["segment", "contacts", "joined", "left"], rows));
    Ok(())
}

/// Who came and went.
pub(super) async fn changes(context: &Context, name: &str, since: Option<Time>, limit: u32, now: Time) -> Outcome {
    let instance = context.instance().await?;
    if !known(&instance, name)?.history {
        return refused(format!("`{name}` keeps its size only\nhint: take `history = false` out of it in segments.toml"));
    }
    let since = since.unwrap_or_else(|| now.plus(-CHANGES_DAYS * DAY));
    let changes = history::changes(&mut instance.db.clone(), name, since, limit).await?;
    if context.out.json {
        let list: Vec<Value> = changes
            .iter()
            .map(|change| json!({ "at": change.at.to_string(), "email": change.email, "change": if change.joined { "joined" } else { "left" } }))
            .collect();
        return context.out.document(&json!({ "segment": name, "since": since.to_string(), "changes": list }));
    }
    let rows = changes
        .into_iter()
        .map(|change| vec![shown(&change.at.to_string()), if change.joined { "joined" } else { "left" }.to_owned(), change.email])
        .collect();
    context.out.data(table(&["at", "", "contact"], rows));
    Ok(())
}

/// Writes down whom a rule picks now.
pub(super) async fn freeze(context: &Context, rule: &str, name: &str, now: Time) -> Outcome {
    check_name("frozen list", name).map_err(|(message, hint)| Failure::Failed(anyhow::anyhow!("{message}\nhint: {hint}")))?;
    let instance = context.instance().await?;
    let rule = checked(context, &instance, rule).await?;
    let Some(list) = frozen::freeze(&instance.db, &instance.entropy, name, &rule, now).await? else {
        return refused(format!(
            "there is a frozen list `{name}` already\nhint: take another name, or drop it with `optin segment thaw {name}`"
        ));
    };
    if context.out.json {
        return context.out.document(&list_json(&list));
    }
    context.out.data(format!("{} in `{name}`; rules and audiences ask for them with frozen('{name}')", counted(list.size, "contact")));
    Ok(())
}

fn list_json(list: &frozen::FrozenList) -> Value {
    json!({ "list": list.name, "at": list.at.to_string(), "size": list.size, "where": list.rule })
}

/// All frozen lists.
pub(super) async fn lists(context: &Context) -> Outcome {
    let instance = context.instance().await?;
    let lists = frozen::lists(&mut instance.db.clone()).await?;
    if context.out.json {
        return context.out.document(&json!({ "lists": lists.iter().map(list_json).collect::<Vec<_>>() }));
    }
    let rows = lists.into_iter().map(|list| vec![list.name, list.size.to_string(), shown(&list.at.to_string()), list.rule]).collect();
    context.out.data(table(&["list", "contacts", "at", "where"], rows));
    Ok(())
}

/// Drops a frozen list that nothing speaks of.
pub(super) async fn thaw(context: &Context, name: &str) -> Outcome {
    let instance = context.instance().await?;
    let users = users(&instance, name);
    if !users.is_empty() {
        return refused(format!("`{name}` is used by {}\nhint: take frozen('{name}') out of them first", users.join(", ")));
    }
    if !frozen::thaw(&instance.db, name).await? {
        return refused(format!("there is no frozen list `{name}`\nhint: `optin segment lists` shows all"));
    }
    if context.out.json {
        return context.out.document(&json!({ "list": name, "dropped": true }));
    }
    context.out.data(format!("`{name}` is gone"));
    Ok(())
}

/// The segments and campaigns whose rules speak of a list.
fn users(instance: &Instance, list: &str) -> Vec<String> {
    let config = &instance.config;
    let segments = config.segments.iter().map(|(name, segment)| (format!("segment `{name}`"), segment.rule.value.as_str()));
    let audiences = config
        .campaigns
        .iter()
        .filter_map(|(name, campaign)| Some((format!("campaign `{name}`"), campaign.audience.as_ref()?.value.as_str())));
    segments
        .chain(audiences)
        .filter(|(_, source)| segment::rule(source, &instance.catalog).is_ok_and(|rule| frozen::used(&rule).contains(list)))
        .map(|(what, _)| what)
        .collect()
}
