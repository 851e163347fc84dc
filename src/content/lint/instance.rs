//! Rules that look at what all campaigns share.

use super::{Found, InstanceRule, InstanceView, Rule, Severity, languages_of, listed, missing_languages};
use crate::config::{Place, Site};
use crate::content::check::uses;

const fn rule(id: &'static str, severity: Severity, find: fn(&InstanceView<'_>) -> Vec<Found>) -> InstanceRule {
    Rule { id, severity, find }
}

/// All of them, in the order of their findings.
pub const RULES: &[InstanceRule] = &[
    rule("site-https", Severity::Warning, site_https),
    rule("site-local", Severity::Warning, site_local),
    rule("form-language", Severity::Error, form_language),
    rule("welcome-language", Severity::Warning, welcome_language),
    rule("profile-label", Severity::Warning, profile_label),
];

fn site_https(view: &InstanceView<'_>) -> Vec<Found> {
    in_the_open(&view.config.site).into_iter().collect()
}

/// A public site without https.
pub fn in_the_open(site: &Site) -> Option<Found> {
    let url = &site.url;
    if url.value.starts_with("https://") || is_local(&url.value) {
        return None;
    }
    let hint = "one-click unsubscribe needs https (RFC 8058, 3.1), and so do Gmail and Yahoo: put a proxy with a certificate before it";
    Some(Found::new(format!("`{}` is not https", url.value), hint, url.place.clone()))
}

/// Whether an address leads to this machine or the network around it.
fn is_local(url: &str) -> bool {
    let parsed = url::Url::parse(url).ok();
    match parsed.as_ref().and_then(url::Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost" || !name.contains('.'),
        Some(url::Host::Ipv4(address)) => address.is_loopback() || address.is_private() || address.is_link_local(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => true,
    }
}

fn site_local(view: &InstanceView<'_>) -> Vec<Found> {
    let url = &view.config.site.url;
    if !is_local(&url.value) {
        return Vec::new();
    }
    let message = format!("nobody outside reaches `{}`: unsubscribe links of mails sent like this lead nowhere", url.value);
    vec![Found::new(message, "set `[site] url` to the public address before the first mail to people", url.place.clone())]
}

fn form_language(view: &InstanceView<'_>) -> Vec<Found> {
    let read = languages_of(view.people, view.languages);
    let mut found = Vec::new();
    for form in view.config.forms.values() {
        for (key, text) in [("title", &form.title), ("text", &form.text), ("wording", &form.wording)] {
            let mut missing = missing_languages(text, &read);
            if missing.is_empty() && !text.is_empty() {
                // Translated for some of the form's languages, and not for others.
                let others = [&form.title, &form.text, &form.wording].into_iter().flat_map(|text| text.by_language.keys());
                missing = others.filter(|tag| !text.by_language.contains_key(*tag)).cloned().collect();
                missing.sort();
                missing.dedup();
            }
            if missing.is_empty() {
                continue;
            }
            let message = format!("the {key} of the form `{}` is not translated for {}", form.name, listed(&missing));
            let tag = &missing[0];
            let hint = match key {
                "wording" => {
                    format!("people must understand what they agree to (GDPR 4(11)): `[{}.{tag}]` with `wording = \"..\"`", form.name)
                }
                _ => format!("below `[{}]` write `[{}.{tag}]` with `{key} = \"..\"`", form.name, form.name),
            };
            found.push(Found::new(message, hint, form.place.clone()));
        }
    }
    found
}

fn welcome_language(view: &InstanceView<'_>) -> Vec<Found> {
    let read = languages_of(view.people, view.languages);
    let mut found = Vec::new();
    for (key, topic) in view.config.topics.iter().filter(|_| read.len() > 1) {
        let Some(welcome) = &topic.welcome else { continue };
        let Some(template) = view.config.messages.get(&welcome.value) else { continue };
        if uses(&template.body_source.text, "contact", "locale") {
            continue;
        }
        let tags: Vec<String> = read.keys().map(|tag| (*tag).to_owned()).collect();
        let message = format!("the welcome to `{key}` says the same to people who read {}", listed(&tags));
        let place = Some(Place { file: template.body_source.file.clone(), span: 0..0 });
        found.push(Found::new(message, "write it in each language, under `{% if contact.locale .. %}`", place));
    }
    found
}

fn profile_label(view: &InstanceView<'_>) -> Vec<Found> {
    let read = languages_of(view.people, view.languages);
    let mut found = Vec::new();
    for field in &view.config.profile {
        let named = field.label.text != field.name.replace('_', " ") || !field.label.by_language.is_empty();
        if !named {
            let message = format!("people are asked for `{}` by its technical name", field.name);
            found.push(Found::new(message, "give it a `label`", field.place.clone()));
        }
        let missing = missing_languages(&field.label, &read);
        if named && !missing.is_empty() {
            let message = format!("the label of `{}` is not translated for {}", field.name, listed(&missing));
            found.push(Found::new(
                message,
                format!("below `[{}]` write `[{}.{}]`", field.name, field.name, missing[0]),
                field.place.clone(),
            ));
        }
        let bare: Vec<&str> = field
            .choices
            .iter()
            .filter(|(value, label)| label.text == *value && label.by_language.is_empty() && (value.contains('_') || read.len() > 1))
            .map(|(value, _)| value.as_str())
            .collect();
        if let Some(first) = bare.first() {
            let list = bare.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
            let message = format!("the choices {list} of `{}` have no label", field.name);
            found.push(Found::new(message, format!("write `[{}.choice.{first}]` with `label = \"..\"`", field.name), field.place.clone()));
        }
    }
    found
}
