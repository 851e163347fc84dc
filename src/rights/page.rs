//! The readable half of an export: one page without anything from elsewhere, in the person's language.

use askama::Template;
use serde_json::Value;

use super::archive;
use crate::config::Config;
use crate::contact::Contact;
use crate::text::i18n::{Lang, colon, fill};

/// Name of the archive, and of what is in it.
pub const FILE: &str = "personal-data.zip";

#[derive(Template)]
#[template(path = "rights/export.html")]
struct Page {
    lang: &'static str,
    title: String,
    intro: String,
    times: &'static str,
    none: &'static str,
    sections: Vec<Section>,
}

/// Facts, or a table.
struct Section {
    heading: &'static str,
    facts: Vec<(&'static str, Vec<String>)>,
    columns: Vec<&'static str>,
    rows: Vec<Vec<(&'static str, String)>>,
}

/// The archive of an export: `data.json` (made by [`super::access::collect`]) and `index.html`.
///
/// # Errors
/// What stood in the way, for a log.
pub fn archive(config: &Config, contact: &Contact, lang: Lang, data: &Value) -> Result<Vec<u8>, String> {
    let page = page(config, contact, lang, data).render().map_err(|error| error.to_string())?;
    let json = serde_json::to_string_pretty(data).map_err(|error| error.to_string())? + "\n";
    archive::zip(&[("index.html", page.as_bytes()), ("data.json", json.as_bytes())])
        .ok_or_else(|| "the data is larger than 4 GiB".to_owned())
}

fn page(config: &Config, contact: &Contact, lang: Lang, data: &Value) -> Page {
    let words = lang.words();
    let date = shown(data["format"]["made_at"].as_str().unwrap_or_default());
    let table = |heading, key: &str, columns: &[(&'static str, &str)]| table(heading, &data[key], columns);
    let how = [(words.rights_c_at, "at"), (words.rights_c_source, "way"), (words.rights_c_campaign, "campaign")];
    let why = [
        (words.rights_c_at, "at"),
        (words.rights_c_topic, "topic"),
        (words.rights_c_reason, "reason"),
        (words.rights_c_comment, "comment"),
    ];
    let (how, why) = (table(words.rights_h_left, "unsubscribes", &how), table(words.rights_h_why, "reasons_for_leaving", &why));
    let mut sections = vec![
        about(config, lang),
        fields(config, lang, &data["person"]),
        table(
            words.rights_h_topics,
            "topics",
            &[
                (words.rights_c_topic, "topic"),
                (words.rights_c_status, "standing"),
                (words.rights_c_since, "since"),
                (words.rights_c_frequency, "frequency"),
            ],
        ),
        table(
            words.rights_h_choices,
            "choices",
            &[(words.rights_c_tracking, "tracking"), (words.rights_c_profiling, "profiling"), (words.rights_c_since, "changed_at")],
        ),
        table(
            words.rights_h_history,
            "consent_history",
            &[
                (words.rights_c_at, "at"),
                (words.rights_c_topic, "topic"),
                (words.rights_c_action, "action"),
                (words.rights_c_source, "source"),
                (words.rights_c_wording, "wording"),
                (words.rights_c_proof, "proof"),
            ],
        ),
        table(
            words.rights_h_mails,
            "mails",
            &[
                (words.rights_c_at, "at"),
                (words.rights_c_campaign, "campaign"),
                (words.rights_c_subject, "subject"),
                (words.rights_c_status, "state"),
                (words.rights_c_reason, "reason"),
            ],
        ),
        table(
            words.rights_h_hits,
            "opens_and_clicks",
            &[
                (words.rights_c_at, "at"),
                (words.rights_c_kind, "kind"),
                (words.rights_c_link, "link"),
                (words.rights_c_verdict, "verdict"),
                (words.rights_c_ip, "ip"),
                (words.rights_c_agent, "agent"),
            ],
        ),
        how,
        why,
    ];
    sections.extend([
        table(
            words.rights_h_messages,
            "messages",
            &[
                (words.rights_c_at, "created_at"),
                (words.rights_c_kind, "kind"),
                (words.rights_c_subject, "subject"),
                (words.rights_c_status, "state"),
                (words.rights_c_data, "data"),
            ],
        ),
        table(
            words.rights_h_suppression,
            "suppression",
            &[(words.rights_c_at, "at"), (words.rights_c_reason, "reason"), (words.rights_c_source, "source")],
        ),
        table(
            words.rights_h_orders,
            "orders",
            &[
                (words.rights_c_at, "at"),
                (words.rights_c_order, "order_id"),
                (words.rights_c_amount, "amount"),
                (words.rights_c_data, "lines"),
            ],
        ),
        table(
            words.rights_h_events,
            "events",
            &[(words.rights_c_at, "at"), (words.rights_c_kind, "type"), (words.rights_c_data, "properties")],
        ),
        table(
            words.rights_h_coupons,
            "coupons",
            &[(words.rights_c_at, "given_at"), (words.rights_c_pool, "pool"), (words.rights_c_code, "code")],
        ),
        table(
            words.rights_h_requests,
            "requests",
            &[
                (words.rights_c_at, "asked_at"),
                (words.rights_c_kind, "kind"),
                (words.rights_c_status, "state"),
                (words.rights_c_due, "due_at"),
            ],
        ),
        table(words.rights_h_scores, "scores", &[]),
    ]);
    Page {
        lang: lang.tag(),
        title: fill(words.rights_doc_title, &[("sender", &config.sender.name)]),
        intro: fill(words.rights_doc_intro, &[("address", &contact.email), ("date", &date)]),
        times: words.rights_doc_times,
        none: words.rights_doc_none,
        sections,
    }
}

fn table(heading: &'static str, rows: &Value, columns: &[(&'static str, &str)]) -> Section {
    let rows = rows.as_array().into_iter().flatten();
    let rows = rows.filter(|_| !columns.is_empty()).map(|row| columns.iter().map(|(name, key)| (*name, cell(&row[*key]))).collect());
    Section { heading, facts: Vec::new(), columns: columns.iter().map(|(name, _)| *name).collect(), rows: rows.collect() }
}

/// A value as a person reads it.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => shown(text),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        // The salt of a proof tells nobody anything.
        Value::Object(object) => {
            let known = object.iter().filter(|(key, _)| *key != "salt");
            known.map(|(key, value)| format!("{key}: {}", cell(value))).collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}

/// Times to the second; all other text as it is.
fn shown(text: &str) -> String {
    match crate::clock::Time::parse(text) {
        Ok(_) if text.len() >= 19 && text.ends_with('Z') => text[..19].replace('T', " "),
        _ => text.to_owned(),
    }
}

/// Fields as their labels call them, where `profile.toml` has one.
fn fields(config: &Config, lang: Lang, person: &Value) -> Section {
    let words = lang.words();
    let label = |name: &String| {
        let known = config.profile.iter().find(|field| field.name == *name && !field.label.is_empty());
        known.map_or_else(|| name.clone(), |field| field.label.in_language(lang.tag()).to_owned())
    };
    let columns = [words.rights_c_field, words.rights_c_value];
    let of = |key: &str| person[key].as_object().into_iter().flatten();
    let rows = of("fields").chain(of("attributes")).map(|(name, value)| vec![(columns[0], label(name)), (columns[1], cell(value))]);
    Section { heading: words.rights_h_fields, facts: Vec::new(), rows: rows.collect(), columns: columns.to_vec() }
}

fn about(config: &Config, lang: Lang) -> Section {
    let words = lang.words();
    let sender = &config.sender;
    let purposes = config.topics.values().map(|topic| {
        let description = topic.description_in(lang.tag());
        let dash = if description.is_empty() { "" } else { colon(lang.tag()) };
        format!("{}{dash}{description} ({})", topic.name_in(lang.tag()), topic.purpose)
    });
    let mut servers: Vec<String> =
        config.relays.iter().filter_map(|relay| url::Url::parse(&relay.url.value).ok()?.host_str().map(str::to_owned)).collect();
    servers.sort_unstable();
    servers.dedup();
    let kept = &config.retention;
    let days = |what: &str, days: u32| (days > 0).then(|| fill(words.rights_d_days, &[("what", what), ("days", &days.to_string())]));
    let months = (kept.inactive_months > 0)
        .then(|| fill(words.rights_d_months, &[("what", words.rights_d_kept_inactive), ("months", &kept.inactive_months.to_string())]));
    let periods = [
        days(words.rights_d_kept_client, kept.client_days),
        days(words.rights_d_kept_hits, kept.hit_days),
        days(words.rights_d_kept_messages, kept.message_days),
        days(words.rights_d_kept_events, kept.event_days),
        days(words.rights_d_kept_unconfirmed, kept.unconfirmed_days),
        months,
        Some(words.rights_d_kept_else.to_owned()),
    ];
    let facts = vec![
        (words.rights_d_controller, vec![format!("{}\n{}\n{}", sender.name, sender.postal_address, sender.email)]),
        (words.rights_d_purposes, purposes.collect()),
        (words.rights_d_sources, vec![words.rights_d_sources_text.to_owned()]),
        (words.rights_d_recipients, vec![fill(words.rights_d_recipients_text, &[("servers", &servers.join(", "))])]),
        (words.rights_d_kept, periods.into_iter().flatten().collect()),
        (words.rights_d_logic, vec![words.rights_d_logic_text.to_owned()]),
        (words.rights_d_rights, vec![fill(words.rights_d_rights_text, &[("email", &sender.email)])]),
    ];
    Section { heading: words.rights_h_about, facts, columns: Vec::new(), rows: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_read_like_a_person_wrote_them() {
        assert_eq!(cell(&json!("2026-12-01T09:00:00.123Z")), "2026-12-01 09:00:00");
        assert_eq!(cell(&json!({ "salt": "ab", "delivery": 7, "x": ["a", "b"] })), "delivery: 7; x: a, b");
        assert_eq!(cell(&json!("Zoë")), "Zoë");
    }
}
