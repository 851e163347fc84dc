//! `optin segment explain`: what a rule is compiled to and how it is served, or what it says of one person.

use std::time::Instant;

use serde_json::{Value as Json, json};

use super::super::out::table;
use super::super::{Context, contact_by_email, out};
use super::{Outcome, checked};
use crate::clock::Time;
use crate::db::Value;
use crate::instance::Instance;
use crate::segment::{self, Clause, Rule, Served};

/// How a rule is carried out, or why it picks somebody or not.
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// A segment's name or an expression.
    rule: String,
    /// Of this person: each condition, whether it holds, and what is known about it.
    #[arg(long)]
    email: Option<String>,
}

impl Explain {
    pub(super) async fn run(self, context: &Context, now: Time) -> Outcome {
        let instance = context.instance().await?;
        let rule = checked(context, &instance, &self.rule).await?;
        match &self.email {
            Some(email) => of_person(context, &instance, &rule, email, now).await,
            None => of_all(context, &instance, &rule, now).await,
        }
    }
}

async fn of_all(context: &Context, instance: &Instance, rule: &Rule, now: Time) -> Outcome {
    let plan = segment::plan(&instance.db, rule, now).await?;
    let started = Instant::now();
    let count = segment::ops::count(&instance.db, rule, now).await?;
    let seconds = started.elapsed().as_secs_f64();
    if context.out.json {
        return context.out.document(&json!({
            "rule": rule.to_string(),
            "count": count,
            "seconds": seconds,
            "sql": plan.sql,
            "values": plan.args.iter().map(value).collect::<Vec<_>>(),
            "plan": plan.steps,
            "conditions": plan.conditions,
        }));
    }
    let out = context.out;
    out.data(format!("{rule}\n\nPicks {} in {seconds:.3} s.\n", out::counted(count, "contact")));
    let rows = plan.conditions.iter().map(|served| vec![served.text.clone(), in_words(served)]).collect();
    out.data(table(&["condition", "by itself served by"], rows));
    out.data(format!("\nSQL:\n  {}", plan.sql));
    for (index, held) in plan.args.iter().enumerate() {
        out.data(format!("  ${} = {}", index + 1, value(held)));
    }
    out.data(format!("\nPlan of the database:\n  {}", plan.steps.join("\n  ")));
    Ok(())
}

/// `index hit_total_last of hit_total; reads all of contact`
fn in_words(served: &Served) -> String {
    let mut words = Vec::new();
    if !served.indexes.is_empty() {
        words.push(format!("index {}", served.indexes.join(", ")));
    }
    if !served.whole.is_empty() {
        words.push(format!("reads all of {}", served.whole.join(", ")));
    }
    if words.is_empty() { "nothing is read".to_owned() } else { words.join("; ") }
}

fn value(value: &Value) -> Json {
    match value {
        Value::I64(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::Bool(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Bytes(value) => json!(value.as_ref().map(Vec::len)),
    }
}

async fn of_person(context: &Context, instance: &Instance, rule: &Rule, email: &str, now: Time) -> Outcome {
    let contact = contact_by_email(instance, email).await?;
    let person = segment::ops::person(&instance.db, &instance.catalog, contact.id).await?;
    let person = person.ok_or_else(|| anyhow::anyhow!("`{email}` was there a moment ago and is gone"))?;
    let picked = segment::evaluate(rule, &person, now);
    let clauses = segment::explain(rule, &person, now);
    if context.out.json {
        return context.out.document(&json!({
            "rule": rule.to_string(),
            "email": contact.email,
            "picked": picked,
            "merged": person.merged,
            "conditions": clauses,
        }));
    }
    let out = context.out;
    let verdict = match (picked, person.merged) {
        (true, _) => "is in it",
        (false, true) => "is not in it: merged into another contact, and so in no segment",
        (false, false) => "is not in it",
    };
    out.data(format!("{rule}\n\n{} {verdict}.\n", contact.email));
    let row = |clause: &Clause| {
        let text = match &clause.segment {
            Some(segment) => format!("{} (of {segment})", clause.text),
            None => clause.text.clone(),
        };
        vec![if clause.held { "holds" } else { "fails" }.to_owned(), text, clause.facts.clone()]
    };
    out.data(table(&["", "condition", "what is known"], clauses.iter().map(row).collect()));
    Ok(())
}
