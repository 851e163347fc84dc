//! Rules that look at one campaign.

use super::{CampaignRule, CampaignView, Found, Rule, Sample, Severity, languages_of, listed, missing_languages};
use crate::config::{Localised, Place};
use crate::content::Mail;
use crate::content::check::uses;
use crate::content::environment::escape;
use crate::content::lawful::labels_itself;

const fn rule(id: &'static str, severity: Severity, find: fn(&CampaignView<'_>) -> Vec<Found>) -> CampaignRule {
    Rule { id, severity, find }
}

/// All of them, in the order of their findings.
pub const RULES: &[CampaignRule] = &[
    rule("render", Severity::Error, render),
    rule("unsubscribe-html", Severity::Error, unsubscribe_html),
    rule("unsubscribe-text", Severity::Error, unsubscribe_text),
    rule("list-unsubscribe", Severity::Error, list_unsubscribe),
    rule("postal-address", Severity::Error, postal_address),
    rule("sender-identity", Severity::Error, sender_identity),
    rule("no-reply", Severity::Warning, no_reply),
    rule("subject-reply", Severity::Error, subject_reply),
    rule("subject-empty", Severity::Error, subject_empty),
    rule("ad-label", Severity::Warning, ad_label),
    rule("ad-country", Severity::Warning, ad_country),
    rule("language-missing", Severity::Error, language_missing),
    rule("topic-language", Severity::Error, topic_language),
    rule("content-language", Severity::Warning, content_language),
    rule("double-opt-in", Severity::Warning, double_opt_in),
];

/// Starts of subjects that pretend a conversation (15 USC 7704(a)(2) forbids subjects that mislead).
const REPLIES: &[&str] = &["re", "aw", "fw", "fwd", "wg", "tr", "sv", "回复", "回覆", "答复", "答覆", "转发", "轉寄", "轉發"];
/// Addresses that nobody reads.
const NO_REPLY: &[&str] = &["noreply", "no-reply", "donotreply", "do-not-reply", "no_reply"];
/// Longest field body that every server takes on one line (RFC 5322, 2.1.1); a list of addresses is folded between
/// them only.
const MAX_HEADER_LINE: usize = 998;

/// The samples that could be written.
fn mails<'a>(view: &'a CampaignView<'_>) -> impl Iterator<Item = (&'a Sample, &'a Mail)> {
    view.samples.iter().filter_map(|sample| Some((sample, sample.mail.as_ref().ok()?)))
}

/// How a reader is named.
fn reader(sample: &Sample) -> String {
    if sample.locale.is_empty() { "somebody without a locale".to_owned() } else { format!("somebody who reads `{}`", sample.locale) }
}

fn layout_place(view: &CampaignView<'_>) -> Option<Place> {
    match view.config.layouts.get(&view.campaign.layout.value) {
        Some(layout) => Some(Place { file: layout.file.clone(), span: 0..0 }),
        None => Some(Place { file: view.campaign.body_source.file.clone(), span: 0..0 }),
    }
}

/// One finding for the first reader whose mail lacks something.
fn lacking(view: &CampaignView<'_>, lacks: impl Fn(&Sample, &Mail) -> bool, what: &str, hint: &str) -> Vec<Found> {
    let found = mails(view).find(|(sample, mail)| lacks(sample, mail));
    found.into_iter().map(|(sample, _)| Found::new(format!("the mail to {} {what}", reader(sample)), hint, layout_place(view))).collect()
}

fn render(view: &CampaignView<'_>) -> Vec<Found> {
    let failed = view.samples.iter().filter_map(|sample| Some((sample, sample.mail.as_ref().err()?)));
    let place = Some(Place { file: view.campaign.body_source.file.clone(), span: 0..0 });
    failed
        .map(|(sample, why)| {
            let hint = "give the field a `default(..)`, or ask for it with `{% if %}`";
            Found::new(format!("the mail to {} cannot be written: {why}", reader(sample)), hint, place.clone())
        })
        .collect()
}

fn unsubscribe_html(view: &CampaignView<'_>) -> Vec<Found> {
    let lacks = |sample: &Sample, mail: &Mail| !mail.html.contains(&escape(&sample.unsubscribe));
    lacking(view, lacks, "has no unsubscribe link in its HTML part", "write `<a href=\"{{ links.unsubscribe }}\">Unsubscribe</a>`")
}

fn unsubscribe_text(view: &CampaignView<'_>) -> Vec<Found> {
    let lacks = |sample: &Sample, mail: &Mail| !mail.text.contains(&sample.unsubscribe);
    lacking(view, lacks, "has no unsubscribe link in its text part", "let the link stand where people see it, not in a hidden element")
}

fn list_unsubscribe(view: &CampaignView<'_>) -> Vec<Found> {
    let sender = &view.definition.sender;
    let address = sender.reply_to.as_ref().unwrap_or(&sender.email);
    let place = view.campaign.topic.place.clone();
    if !address.is_ascii() {
        let message = format!("`{address}` cannot stand in the List-Unsubscribe header: a mailto address there is ASCII");
        return vec![Found::new(message, "set a `reply_to` with an ASCII address under `[sender]`", place)];
    }
    let longest = mails(view).map(|(sample, _)| sample.unsubscribe.len()).max().unwrap_or_default();
    if longest + "List-Unsubscribe: <>,".len() > MAX_HEADER_LINE {
        let message = format!("an unsubscribe link of {longest} bytes does not fit into the List-Unsubscribe header");
        return vec![Found::new(message, "shorten `[site] url`", view.config.site.url.place.clone())];
    }
    Vec::new()
}

/// Without what line breaks and tags do to a text.
fn bare(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

fn postal_address(view: &CampaignView<'_>) -> Vec<Found> {
    let wanted = view.definition.sender.postal_address.as_str();
    if !wanted.chars().any(char::is_numeric) && wanted.split_whitespace().count() < 2 && wanted.chars().count() < 6 {
        let message = format!("`{wanted}` is no postal address");
        return vec![Found::new(message, "write street, number, city and country into `[sender] postal_address`", layout_place(view))];
    }
    let (html, text) = (bare(&escape(wanted)), bare(wanted));
    let lacks = |_: &Sample, mail: &Mail| !bare(&mail.html).contains(&html) || !bare(&mail.text).contains(&text);
    lacking(view, lacks, "lacks the postal address", "write `{{ sender.postal_address }}` where people see it")
}

fn sender_identity(view: &CampaignView<'_>) -> Vec<Found> {
    let sender = &view.definition.sender;
    if sender.name.contains('@') {
        let message = format!("the sender's name is an address: `{}`", sender.name);
        return vec![Found::new(message, "say who writes: `[sender] name = \"Tea House\"`", layout_place(view))];
    }
    let lacks = |_: &Sample, mail: &Mail| !mail.html.contains(&escape(&sender.name)) || !mail.text.contains(&sender.name);
    lacking(view, lacks, "does not say who writes", "write `{{ sender.name }}` where people see it")
}

fn no_reply(view: &CampaignView<'_>) -> Vec<Found> {
    let sender = &view.definition.sender;
    let address = sender.reply_to.as_ref().unwrap_or(&sender.email);
    let local = address.split('@').next().unwrap_or_default().to_ascii_lowercase();
    if !NO_REPLY.contains(&local.as_str()) {
        return Vec::new();
    }
    let hint = "people must be able to answer (ePrivacy 13(4)), and some unsubscribe by answering: set a `reply_to` that is read";
    vec![Found::new(format!("answers to `{address}` reach nobody"), hint, layout_place(view))]
}

fn subject_reply(view: &CampaignView<'_>) -> Vec<Found> {
    let subjects = std::iter::once(&view.campaign.subject.value).chain(mails(view).map(|(_, mail)| &mail.subject));
    let pretends = |subject: &str| {
        let (start, rest) = subject.split_once([':', '：'])?;
        let start = start.trim().to_lowercase();
        (REPLIES.contains(&start.as_str()) && !rest.is_empty()).then_some(start)
    };
    let found = subjects.filter_map(|subject| pretends(subject)).next();
    found
        .map(|start| {
            let message = format!("the subject begins with `{start}:`, as if it went on with a conversation");
            Found::new(message, "say what the mail is about", view.campaign.subject.place.clone())
        })
        .into_iter()
        .collect()
}

fn subject_empty(view: &CampaignView<'_>) -> Vec<Found> {
    let found = mails(view).find(|(_, mail)| mail.subject.trim().is_empty());
    found
        .map(|(sample, _)| {
            let message = format!("the mail to {} has no subject", reader(sample));
            Found::new(message, "give fields in it a `default(..)`", view.campaign.subject.place.clone())
        })
        .into_iter()
        .collect()
}

fn ad_label(view: &CampaignView<'_>) -> Vec<Found> {
    let Some(label) = labels_itself(&view.campaign.subject.value) else { return Vec::new() };
    let place = view.campaign.subject.place.clone();
    let topic = &view.campaign.topic.value;
    vec![if view.definition.topic_frame.advertising {
        let message = format!("the subject says `{label}` to everybody; the topic `{topic}` puts it there for those whose law wants it");
        Found::new(message, "leave it out of the subject", place)
    } else {
        let message = format!("the subject says `{label}`, and the topic `{topic}` is not marked as advertising");
        Found::new(message, "set `advertising = true` for it in topics.toml, and leave the label out of the subject", place)
    }]
}

fn ad_country(view: &CampaignView<'_>) -> Vec<Found> {
    if !view.definition.topic_frame.advertising || view.config.consent.country_attribute.is_some() {
        return Vec::new();
    }
    let message = "people whose law wants advertising to be labelled are told by their locale alone".to_owned();
    let hint = "name the attribute that holds the country: `[consent] country_attribute = \"country\"`";
    let place = view.config.topics.get(&view.campaign.topic.value).and_then(|topic| topic.place.clone());
    vec![Found::new(message, hint, place)]
}

fn language_missing(view: &CampaignView<'_>) -> Vec<Found> {
    let lacked = view.audience.iter().filter(|(locale, _)| !locale.is_empty() && view.languages.find(locale).is_none());
    lacked
        .map(|(locale, people)| {
            let message = format!("{people} in the audience read `{locale}`, and the frame of their mails is English");
            let primary = locale.split(['-', '_']).next().unwrap_or(locale);
            Found::new(
                message,
                format!("translate the words of mails and pages in `languages/{primary}.toml`"),
                view.campaign.topic.place.clone(),
            )
        })
        .collect()
}

fn topic_language(view: &CampaignView<'_>) -> Vec<Found> {
    let Some(topic) = view.config.topics.get(&view.campaign.topic.value) else { return Vec::new() };
    let read = languages_of(view.audience, view.languages);
    let text = |what: &str, text: &Localised| {
        let missing = missing_languages(text, &read);
        (!missing.is_empty()).then(|| {
            let key = &view.campaign.topic.value;
            let message = format!("people who read {} get the same {what} of the topic `{key}`", listed(&missing));
            let tag = missing.last().cloned().unwrap_or_default();
            Found::new(
                message,
                format!("below `[{key}]` write `[{key}.{tag}]` with its own `{what}`, for all of them but one"),
                topic.place.clone(),
            )
        })
    };
    text("name", &topic.texts[0]).into_iter().chain(text("description", &topic.texts[1])).collect()
}

fn content_language(view: &CampaignView<'_>) -> Vec<Found> {
    let read = languages_of(view.audience, view.languages);
    let layout = view.definition.layout_text.as_deref().unwrap_or_default();
    if read.len() < 2 || [view.definition.body.as_str(), layout].iter().any(|source| uses(source, "contact", "locale")) {
        return Vec::new();
    }
    let tags: Vec<String> = read.keys().map(|tag| (*tag).to_owned()).collect();
    let message = format!("people who read {} get the same text", listed(&tags));
    let hint = "`{% if contact.locale | default('en') is startingwith('zh') %} .. {% else %} .. {% endif %}` lets each read their own";
    vec![Found::new(message, hint, Some(Place { file: view.campaign.body_source.file.clone(), span: 0..0 }))]
}

fn double_opt_in(view: &CampaignView<'_>) -> Vec<Found> {
    let key = &view.campaign.topic.value;
    let offered = view.config.forms.values().any(|form| form.topics.iter().any(|topic| topic.value == *key));
    let Some(topic) = view.config.topics.get(key).filter(|topic| !topic.double_opt_in && offered) else { return Vec::new() };
    let message = format!("anybody may subscribe anybody else to `{key}`: a form offers it, and it asks for no confirmation");
    vec![Found::new(message, "`opt_in = \"double\"` proves who asked; German courts want it", topic.place.clone())]
}
