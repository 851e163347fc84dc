//! `optin lint`

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Context;
use super::out::{Failure, Outcome, counted};
use crate::campaign::Definition;
use crate::campaign::ops::audience_locales;
use crate::config::Campaign;
use crate::consent;
use crate::contact::{self, Contact};
use crate::content::lint::{self, CampaignView, Finding, InstanceView, Sample, Severity};
use crate::content::{self, LinkMaker, Recipient};
use crate::delivery::links::DeliveryLinks;
use crate::instance::Instance;
use crate::segment;

/// Mails written for one campaign: one a locale, the most frequent first.
const MAX_SAMPLES: usize = 20;

/// Looks at campaigns before they are sent: what the law wants of them, and what their readers would miss.
#[derive(Debug, clap::Args)]
#[command(after_help = "It writes each campaign's mail for one person of every locale in its audience and looks at those. Exit code 1 \
    where there are errors; warnings alone are fine. Nothing is sent or counted.\n\n\
    Examples:\n  optin lint\n  optin lint weekly\n  optin lint weekly --json")]
pub struct Lint {
    /// The campaign; without it, all of them.
    campaign: Option<String>,
}

impl Lint {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        if let Some(name) = &self.campaign {
            super::known_campaign(&instance, name)?;
        }
        let people = contact::sql::locales(&mut instance.db.clone()).await?;
        let view = InstanceView { config: &instance.config, languages: &instance.languages, people: &people };
        let mut findings = lint::instance(&view);
        for campaign in instance.config.campaigns.values() {
            if self.campaign.as_ref().is_none_or(|name| *name == campaign.name) {
                findings.extend(look_at(context, &instance, campaign).await?);
            }
        }
        findings.sort_by_key(|finding| finding.severity);
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
        if context.out.json {
            let list: Vec<Value> = findings.iter().map(|finding| document(&instance, finding)).collect();
            context.out.document(&json!({ "findings": list }))?;
        } else {
            for finding in &findings {
                context.out.data(shown(&instance, finding));
            }
            let warnings = findings.len() - errors;
            context.out.data(format!("{}, {}", counted(errors as i64, "error"), counted(warnings as i64, "warning")));
        }
        if errors > 0 { Err(Failure::Refused(String::new())) } else { Ok(()) }
    }
}

async fn look_at(context: &Context, instance: &Instance, campaign: &Campaign) -> Result<Vec<Finding>, Failure> {
    let definition = Definition::new(&instance.config, campaign);
    let now = context.clock.now();
    let topic_id = consent::ops::ensure_topic(&instance.db, &definition.topic, &instance.entropy, now).await?;
    let rule = instance
        .audience(definition.audience.as_deref())
        .map_err(|errors| anyhow::anyhow!(errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; ")))?;
    let sql = segment::ops::condition(&instance.db, &rule, now, 2).await?;
    let found = audience_locales(&mut instance.db.clone(), topic_id, &sql).await?;
    let audience: Vec<(String, i64)> = found.iter().map(|(locale, people, _)| (locale.clone(), *people)).collect();
    let ids: Vec<i64> = found.iter().take(MAX_SAMPLES).map(|(_, _, id)| *id).collect();
    let mut readers = contact::sql::by_ids(&mut instance.db.clone(), &instance.schema, &ids).await?;
    let known = !readers.is_empty();
    if !known {
        // Nobody yet: somebody of whom nothing is known, in each language.
        readers = instance.languages.all().map(|lang| stranger(lang.tag())).collect();
    }
    let prepared = content::prepare(&definition, &instance.schema, &instance.frame)
        .map_err(|problems| anyhow::anyhow!(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    // Ids as large as they get, for links as long as they get.
    let links = DeliveryLinks {
        keys: &instance.keys,
        site: &instance.config.site.url.value,
        delivery_id: i64::MAX,
        contact_id: i64::MAX,
        topic_id,
        track_opens: definition.track_opens,
        run_id: i64::MAX,
        tracking: consent::Tracking::Full,
    };
    let samples: Vec<Sample> = readers
        .iter()
        .map(|reader| Sample {
            locale: reader.locale.clone().unwrap_or_default(),
            unsubscribe: links.unsubscribe(),
            mail: prepared.render(&Recipient { contact: reader, links: &links, grounds: None, now }).map_err(|error| error.message),
        })
        // What a stranger lacks need not be lacked by anybody.
        .filter(|sample| known || sample.mail.is_ok())
        .collect();
    Ok(lint::campaign(&CampaignView {
        config: &instance.config,
        campaign,
        definition: &definition,
        languages: &instance.languages,
        audience: &audience,
        samples: &samples,
    }))
}

fn stranger(locale: &str) -> Contact {
    Contact {
        id: 0,
        email: "somebody@example.com".to_owned(),
        email_key: "somebody@example.com".to_owned(),
        first_name: None,
        last_name: None,
        locale: Some(locale.to_owned()),
        timezone: None,
        phone: None,
        external_id: None,
        attributes: BTreeMap::new(),
    }
}

/// File, line and column of a finding, where they are known.
fn place(instance: &Instance, finding: &Finding) -> Option<(String, usize, usize)> {
    let problem = instance.config.sources.problem(finding.found.place.as_ref(), "", "");
    finding.found.place.as_ref().map(|_| (problem.file.display().to_string(), problem.line.max(1), problem.column.max(1)))
}

fn document(instance: &Instance, finding: &Finding) -> Value {
    let place = place(instance, finding);
    json!({
        "campaign": finding.campaign,
        "rule": finding.rule,
        "severity": finding.severity,
        "message": finding.found.message,
        "hint": finding.found.hint,
        "file": place.as_ref().map(|place| &place.0),
        "line": place.as_ref().map(|place| place.1),
        "column": place.as_ref().map(|place| place.2),
    })
}

fn shown(instance: &Instance, finding: &Finding) -> String {
    let place = place(instance, finding).map_or_else(String::new, |(file, line, column)| format!("{file}:{line}:{column}: "));
    let campaign = finding.campaign.as_ref().map_or_else(String::new, |campaign| format!("{campaign}: "));
    let Finding { severity, rule, found, .. } = finding;
    format!("{severity}[{rule}]: {place}{campaign}{}\n  hint: {}\n", found.message, found.hint)
}
