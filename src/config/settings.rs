//! `optin.toml`: the settings of the instance.

use std::collections::BTreeMap;

use super::check::{self, Complaint};
use super::permission::{self, Permission};
use super::reader::{Document, Overrides, Raw, Report, Section, Value};
use super::response::{self, Response};
use super::{AttributeType, Delivery, DkimKey, InDoubt, Limit, Located, Log, ProviderSettings, Relay, Sender, Site, limits, relays};

/// Declared attributes: each is a column, SQLite allows 2,000 and a row should fit a page.
const MAX_ATTRIBUTES: usize = 200;
/// Hours until a refused mail is given up: ten days.
pub(super) const MAX_RETRY_HOURS: u32 = 240;
/// Seconds between two tries: one day.
const MAX_RETRY_SECONDS: u32 = 86_400;
/// Steps of the retry schedule.
const MAX_RETRY_STEPS: usize = 20;
/// Seconds until silence counts as death: below 5 a slow disk would, above 600 a crash stops a send
/// for longer than a person would.
const LEASE_SECONDS: std::ops::RangeInclusive<u32> = 5..=600;
/// The default waits: soon enough for most greylists, then ever more slowly (RFC 5321 4.5.4.1).
const RETRY_SECONDS: [u32; 6] = [30, 300, 900, 3_600, 7_200, 14_400];

/// What `optin.toml` says; `None` where a required value is missing or wrong.
pub(super) struct Settings {
    pub(super) site: Option<Site>,
    pub(super) database_url: Located<String>,
    pub(super) relays: Vec<Relay>,
    pub(super) limits: Limit,
    pub(super) providers: BTreeMap<String, ProviderSettings>,
    pub(super) dkim: Vec<DkimKey>,
    pub(super) sender: Option<Sender>,
    pub(super) delivery: Delivery,
    pub(super) log: Log,
    pub(super) secret: Option<Located<String>>,
    pub(super) retired_secrets: Vec<String>,
    pub(super) permission: Permission,
    pub(super) response: Response,
    pub(super) attributes: BTreeMap<String, AttributeType>,
    /// Nothing is wrong with the attributes: a name that is not among them is a mistake.
    pub(super) attributes_whole: bool,
}

/// Reads the whole file; what is wrong goes into `report`.
pub(super) fn read(document: &Document<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Settings {
    let mut root = document.root();
    // First: other settings name attributes.
    let before = report.list.len();
    let attributes = attributes(root.section("attributes", report), overrides, report);
    let attributes_whole = report.list.len() == before && !document.broken;
    let settings = Settings {
        site: site(root.section("site", report), overrides, report),
        database_url: database(root.section("database", report), overrides, report),
        relays: relays::read(root.section("smtp", report), root.sections("relay", report), overrides, report),
        limits: limits::limits(root.section("limits", report), overrides, report),
        providers: limits::providers(root.section("provider", report), overrides, report),
        dkim: relays::dkim(root.sections("dkim", report), report),
        sender: sender(root.section("sender", report), overrides, report),
        delivery: delivery(root.section("delivery", report), overrides, report),
        log: log(root.section("log", report), overrides, report),
        secret: checked(&mut root, "secret", Some(overrides), check::secret, report).map(Value::located),
        retired_secrets: retired_secrets(&mut root, overrides, report),
        permission: permission::read(&mut root, &attributes, overrides, report),
        response: response::read(&mut root, overrides, report),
        attributes,
        attributes_whole,
    };
    root.finish(report);
    settings
}

/// A text that passes `check`; `None` when it is missing or (reported) wrong.
pub(super) fn checked<T>(
    section: &mut Section<'_>,
    key: &str,
    overrides: Option<&mut Overrides<'_>>,
    check: impl FnOnce(&str) -> Result<T, Complaint>,
    report: &mut Report,
) -> Option<Value<String>> {
    let value = section.raw(key, overrides)?.text(report)?;
    pass(check(&value.value), &value, report)?;
    Some(value)
}

/// Reports a complaint about a value.
pub(super) fn pass<T>(result: Result<T, Complaint>, value: &Value<String>, report: &mut Report) -> Option<T> {
    result.map_err(|(message, hint)| report.value(&value.origin, message, hint)).ok()
}

/// Like [`checked`], but a missing key is reported, with `hint`.
pub(super) fn required<T>(
    section: &mut Section<'_>,
    key: &str,
    overrides: Option<&mut Overrides<'_>>,
    check: impl FnOnce(&str) -> Result<T, Complaint>,
    hint: &str,
    report: &mut Report,
) -> Option<Value<String>> {
    let Some(raw) = section.raw(key, overrides) else {
        section.missing(key, hint, report);
        return None;
    };
    let value = raw.text(report)?;
    pass(check(&value.value), &value, report)?;
    Some(value)
}

fn site(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Option<Site> {
    let hint = "say where recipients reach you: `[site]`, then `url = \"https://news.tea.example\"`";
    let url = required(&mut section, "url", Some(overrides), check::site_url, hint, report).map(Value::located);
    let listen = choice(&mut section, "listen", overrides, check::listen, std::net::SocketAddr::from(([127, 0, 0, 1], 8080)), report);
    let accent = checked(&mut section, "accent", Some(overrides), check::colour, report).and_then(|accent| accent.value.parse().ok());
    section.finish(report);
    let url = url.map(|url| Located { value: url.value.trim_end_matches('/').to_owned(), place: url.place })?;
    Some(Site { url, listen, accent })
}

fn database(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Located<String> {
    let url = checked(&mut section, "url", Some(overrides), check::database_url, report);
    section.finish(report);
    url.map_or_else(|| Located::default_value("sqlite://optin.db".to_owned()), Value::located)
}

fn sender(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Option<Sender> {
    let name_hint = "recipients see it: `[sender]`, then `name = \"Tea House\"`";
    let name = required(&mut section, "name", Some(overrides), check::line, name_hint, report);
    let email_hint = "mails come from it: `email = \"letters@tea.example\"`";
    let email = required(&mut section, "email", Some(overrides), check::email, email_hint, report);
    let reply_to = checked(&mut section, "reply_to", Some(overrides), check::email, report);
    let postal_hint = "the law in many countries wants it in every mail: `postal_address = \"1 Leaf Street, Taipei\"`";
    let postal_address = required(&mut section, "postal_address", Some(overrides), check::lines, postal_hint, report);
    section.finish(report);
    Some(Sender {
        name: name?.value,
        email: email?.value,
        reply_to: reply_to.map(|reply_to| reply_to.value),
        postal_address: postal_address?.value,
    })
}

fn delivery(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Delivery {
    let in_doubt = |text: &str| check::one_of(text, &[("hold", InDoubt::Hold), ("resend", InDoubt::Resend)]);
    let timezone = checked(&mut section, "timezone", Some(overrides), check::timezone, report);
    let resolver = checked(&mut section, "resolver", Some(overrides), check::name_server, report);
    let delivery = Delivery {
        in_doubt: choice(&mut section, "in_doubt", overrides, in_doubt, InDoubt::Hold, report),
        retry_hours: number(&mut section, "retry_hours", overrides, 1..=MAX_RETRY_HOURS, 72, report),
        retry_seconds: retry_seconds(&mut section, overrides, report).unwrap_or_else(|| RETRY_SECONDS.to_vec()),
        lease_seconds: number(&mut section, "lease_seconds", overrides, LEASE_SECONDS, 30, report),
        mx_lookups: boolean(&mut section, "mx_lookups", overrides, true, report),
        resolver: resolver.and_then(|value| value.value.parse().ok()),
        timezone: timezone.map_or_else(|| Located::default_value("UTC".to_owned()), Value::located),
    };
    section.finish(report);
    delivery
}

fn retry_seconds(section: &mut Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Option<Vec<u32>> {
    let raw = section.raw("retry_seconds", Some(overrides))?;
    let members = raw.members(report)?;
    if members.is_empty() || members.len() > MAX_RETRY_STEPS {
        let message = format!("`retry_seconds` has {} waits", members.len());
        report.value(&raw.origin(), message, format!("write 1 to {MAX_RETRY_STEPS} waits, such as `[300, 900, 3600]`"));
        return None;
    }
    // All of them first, so that every wrong one is reported.
    let waits: Vec<Option<u32>> = members.iter().map(|member| member.number(1..=MAX_RETRY_SECONDS, report)).collect();
    waits.into_iter().collect()
}

fn log(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Log {
    let level = checked(&mut section, "level", Some(overrides), check::log_level, report);
    let format = |text: &str| check::one_of(text, &[("text", false), ("json", true)]);
    let json = choice(&mut section, "format", overrides, format, false, report);
    section.finish(report);
    Log { level: level.map_or_else(|| "info".to_owned(), |level| level.value), json }
}

fn retired_secrets(root: &mut Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Vec<String> {
    let Some(raw) = root.raw("retired_secrets", Some(overrides)) else { return Vec::new() };
    let members = raw.members(report).unwrap_or_default();
    let texts = members.iter().filter_map(|member| member.text(report));
    texts.collect::<Vec<_>>().into_iter().filter_map(|text| pass(check::secret(&text.value), &text, report).map(|()| text.value)).collect()
}

fn attributes(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> BTreeMap<String, AttributeType> {
    use AttributeType::{Boolean, Date, List, Number, Text};
    let types = [("text", Text), ("number", Number), ("boolean", Boolean), ("date", Date), ("list", List)];
    let keys = section.keys();
    if let Some((_, place)) = keys.get(MAX_ATTRIBUTES) {
        let hint = "each one is a column of the database: remove those no segment and no mail needs";
        report.at(&place.file, place.span.clone(), format!("more than {MAX_ATTRIBUTES} attributes"), hint);
    }
    let mut attributes = BTreeMap::new();
    for (name, place) in keys {
        if let Err((message, hint)) = check::attribute_name(&name) {
            report.at(&place.file, place.span, message, hint);
            let _ = section.raw(&name, None);
            continue;
        }
        let Some(raw) = section.raw(&name, Some(overrides)) else { continue };
        let kind = raw.text(report).and_then(|text| pass(check::one_of(&text.value, &types), &text, report));
        attributes.extend(kind.map(|kind| (name, kind)));
    }
    section.finish(report);
    attributes
}

fn choice<T>(
    section: &mut Section<'_>,
    key: &str,
    overrides: &mut Overrides<'_>,
    check: impl FnOnce(&str) -> Result<T, Complaint>,
    default: T,
    report: &mut Report,
) -> T {
    let text = section.raw(key, Some(overrides)).and_then(|raw: Raw<'_>| raw.text(report));
    text.and_then(|text| pass(check(&text.value), &text, report)).unwrap_or(default)
}

pub(super) fn number(
    section: &mut Section<'_>,
    key: &str,
    overrides: &mut Overrides<'_>,
    range: std::ops::RangeInclusive<u32>,
    default: u32,
    report: &mut Report,
) -> u32 {
    number_if(section, key, Some(overrides), range, report).unwrap_or(default)
}

/// A number that has no default.
pub(super) fn number_if(
    section: &mut Section<'_>,
    key: &str,
    overrides: Option<&mut Overrides<'_>>,
    range: std::ops::RangeInclusive<u32>,
    report: &mut Report,
) -> Option<u32> {
    section.raw(key, overrides).and_then(|raw| raw.number(range, report))
}

pub(super) fn boolean(section: &mut Section<'_>, key: &str, overrides: &mut Overrides<'_>, default: bool, report: &mut Report) -> bool {
    section.raw(key, Some(overrides)).and_then(|raw| raw.boolean(report)).unwrap_or(default)
}

/// A list of texts that is not empty, each as `check` answers it; `None` when it is missing or
/// (reported) wrong.
pub(super) fn texts<T>(
    section: &mut Section<'_>,
    key: &str,
    overrides: Option<&mut Overrides<'_>>,
    check: impl Fn(&str) -> Result<T, Complaint>,
    report: &mut Report,
) -> Option<Vec<T>> {
    let raw = section.raw(key, overrides)?;
    let members = raw.members(report)?;
    if members.is_empty() {
        report.value(&raw.origin(), "this list is empty", "remove the line, or write what belongs into it");
        return None;
    }
    // Every member is looked at, so that every mistake is reported.
    let found: Vec<Option<T>> =
        members.iter().map(|member| member.text(report).and_then(|text| pass(check(&text.value), &text, report))).collect();
    found.into_iter().collect()
}
