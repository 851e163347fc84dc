//! `campaigns/*.toml` and the bodies beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::check::{self, Complaint};
use super::diagnostics::did_you_mean;
use super::load::{Topics, files_in, read_text, stem};
use super::reader::{Document, Report, Section, Value, list};
use super::settings::{MAX_RETRY_HOURS, checked, number_if, pass, required};
use super::{BodyKind, Campaign, CampaignDelivery, Located, Place, Schedule, Sender, SourceText, When, limits};

/// Campaign files of one instance: all are read and checked at start.
const MAX_CAMPAIGNS: usize = 10_000;
/// Layouts compiled into the binary.
pub(super) const BUILT_IN_LAYOUTS: &[&str] = &["newsletter", "promotion", "plain"];

/// Reads every campaign; those with a mistake are left out and reported.
pub(super) fn read(dir: &Path, topics: &Topics, layouts: &BTreeMap<String, SourceText>, report: &mut Report) -> BTreeMap<String, Campaign> {
    let mut campaigns = BTreeMap::new();
    let files = files_in(&dir.join("campaigns"), report).into_iter().filter(|file| file.extension().is_some_and(|e| e == "toml"));
    for (at, file) in files.enumerate() {
        if at == MAX_CAMPAIGNS {
            report.file(
                &file,
                format!("more than {MAX_CAMPAIGNS} campaigns"),
                "move old ones out of `campaigns/`: their runs stay in the database",
            );
            break;
        }
        let name = stem(&file);
        if let Err((message, hint)) = check::name("campaign", &name) {
            report.file(&file, message, hint);
        }
        let Some(text) = read_text(&file, report) else { continue };
        let document = Document::parse(&file, &text, report);
        let campaign = Reader { dir, file: &file, topics, layouts }.campaign(name, document.root(), report);
        campaigns.extend(campaign.map(|campaign| (campaign.name.clone(), campaign)));
    }
    campaigns
}

/// Names of the campaigns whose files are there.
pub(super) fn names(dir: &Path, report: &mut Report) -> BTreeSet<String> {
    let files = files_in(&dir.join("campaigns"), report).into_iter().filter(|file| file.extension().is_some_and(|e| e == "toml"));
    files.map(|file| stem(&file)).collect()
}

/// What a file that names a body is read with: a campaign's, or a message template's.
pub(super) struct Reader<'a> {
    pub(super) dir: &'a Path,
    pub(super) file: &'a Path,
    pub(super) topics: &'a Topics,
    pub(super) layouts: &'a BTreeMap<String, SourceText>,
}

impl Reader<'_> {
    fn campaign(&self, name: String, mut root: Section<'_>, report: &mut Report) -> Option<Campaign> {
        let topic_hint = "a mail needs a permission to ride on: `topic = \"tea-letter\"`";
        let topic = required(&mut root, "topic", None, |text| self.known_topic(text), topic_hint, report);
        let audience = checked(&mut root, "audience", None, check::lines, report);
        let subject = required(&mut root, "subject", None, check::line, "write `subject = \"..\"`", report);
        let preheader = checked(&mut root, "preheader", None, check::line, report);
        let layout = checked(&mut root, "layout", None, |text| self.known_layout(text), report);
        let body_hint = "name a file beside this one: `body = \"weekly.md\"`";
        let body = required(&mut root, "body", None, |_| Ok(()), body_hint, report);
        let body_text = body.as_ref().and_then(|body| self.body(body, report));
        let sender = sender(root.section("sender", report), report);
        let schedule = schedule(root.section("schedule", report), report);
        let (track_opens, track_clicks, utm, utm_hosts) = tracking(root.section("tracking", report), report);
        let delivery = delivery(root.section("delivery", report), report);
        let attribution = super::response::campaign_attribution(root.section("attribution", report), report);
        root.finish(report);
        let (body_source, body_kind) = body_text?;
        Some(Campaign {
            name,
            file: self.file.to_owned(),
            topic: topic?.located(),
            audience: audience.map(Value::located),
            subject: subject?.located(),
            preheader: preheader.map(Value::located),
            layout: layout.map_or_else(|| Located::default_value("newsletter".to_owned()), Value::located),
            body: body?.located(),
            body_source,
            body_kind,
            sender,
            schedule,
            track_opens,
            track_clicks,
            utm,
            utm_hosts,
            delivery,
            attribution,
        })
    }

    fn known_topic(&self, text: &str) -> Result<(), Complaint> {
        if self.topics.names.contains(text) || !self.topics.complete {
            return Ok(());
        }
        let names = || self.topics.names.iter().map(String::as_str);
        let hint = match did_you_mean(text, names()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if self.topics.names.is_empty() => format!("declare it in `topics.toml`: `[{text}]`"),
            None => format!("declared in `topics.toml`: {}", list(names().take(10))),
        };
        Err((format!("there is no topic `{text}`"), hint))
    }

    fn known_layout(&self, text: &str) -> Result<(), Complaint> {
        let known = || BUILT_IN_LAYOUTS.iter().copied().chain(self.layouts.keys().map(String::as_str));
        if known().any(|layout| layout == text) {
            return Ok(());
        }
        let hint = match did_you_mean(text, known()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("there are {}; yours would be the file `layouts/{text}.html`", list(known().take(10))),
        };
        Err((format!("there is no layout `{text}`"), hint))
    }

    /// The body's text and kind.
    pub(super) fn body(&self, body: &Value<String>, report: &mut Report) -> Option<(SourceText, BodyKind)> {
        let path = Path::new(&body.value);
        let kinds = [("md", BodyKind::Markdown), ("html", BodyKind::Html), ("mjml", BodyKind::Mjml)];
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        let Some((_, kind)) = kinds.iter().find(|(known, _)| *known == extension) else {
            report.value(&body.origin, format!("`{}` is not a body", body.value), "a body's name ends with `.md`, `.html` or `.mjml`");
            return None;
        };
        let plain = path.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir | Component::ParentDir));
        let file = self.file.parent().unwrap_or(self.dir).join(path);
        let outside = "keep a body beside the file that names it";
        if !plain {
            report.value(&body.origin, "a body's path is relative to the file that names it", outside);
            return None;
        }
        let Ok(real) = file.canonicalize() else {
            let hint = match did_you_mean(&body.value, self.neighbours().iter().map(String::as_str)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("create `{}`", file.display()),
            };
            report.value(&body.origin, format!("there is no file `{}`", body.value), hint);
            return None;
        };
        // Also through a link: what leaves in a mail must come from the folder that was reviewed.
        if !self.dir.canonicalize().is_ok_and(|dir| real.starts_with(dir)) {
            report.value(&body.origin, format!("`{}` lies outside the configuration's folder", body.value), outside);
            return None;
        }
        let text = read_text(&file, report)?;
        if text.trim().is_empty() {
            report.file(&file, "the body is empty", "write what the mail says");
            return None;
        }
        Some((SourceText { file, text }, *kind))
    }

    /// Names of the files beside it.
    fn neighbours(&self) -> Vec<String> {
        let entries = self.file.parent().and_then(|folder| std::fs::read_dir(folder).ok());
        entries.into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

pub(super) fn sender(mut section: Section<'_>, report: &mut Report) -> Option<Sender> {
    if !section.exists() {
        return None;
    }
    let hint = "an own `[sender]` is complete: name, email and postal_address";
    let name = required(&mut section, "name", None, check::line, hint, report);
    let email = required(&mut section, "email", None, check::email, hint, report);
    let reply_to = checked(&mut section, "reply_to", None, check::email, report);
    let postal_address = required(&mut section, "postal_address", None, check::lines, hint, report);
    section.finish(report);
    Some(Sender {
        name: name?.value,
        email: email?.value,
        reply_to: reply_to.map(|reply_to| reply_to.value),
        postal_address: postal_address?.value,
    })
}

fn schedule(mut section: Section<'_>, report: &mut Report) -> Option<Schedule> {
    if !section.exists() {
        return None;
    }
    let cron = checked(&mut section, "cron", None, check::line, report);
    let at = section.raw("at", None).and_then(|raw| raw.text_or_time(report));
    let at = at.and_then(|at| pass(check::local_time(&at.value), &at, report).map(|()| at));
    let timezone = checked(&mut section, "timezone", None, check::timezone, report);
    let (has_cron, has_at) = (section.has("cron"), section.has("at"));
    if has_cron == has_at {
        let message = if has_cron { "a schedule has `cron` or `at`, not both" } else { "a schedule needs `cron` or `at`" };
        let hint = "`cron = \"0 9 * * TUE\"` repeats, `at = \"2026-12-01T09:00\"` fires once; without `[schedule]` only `optin send` fires";
        if let Some(Place { file, span }) = section.place() {
            report.at(&file, span, message, hint);
        }
    }
    section.finish(report);
    let when = match (cron, at) {
        (Some(cron), None) => When::Cron(cron.located()),
        (None, Some(at)) => When::At(at.located()),
        _ => return None,
    };
    Some(Schedule { when, timezone: timezone.map_or_else(|| Located::default_value("UTC".to_owned()), Value::located) })
}

fn delivery(mut section: Section<'_>, report: &mut Report) -> CampaignDelivery {
    let delivery = CampaignDelivery {
        limit: limits::limit(&mut section, None, report),
        // Whether there is such a relay is known when all files are read.
        relay: checked(&mut section, "relay", None, check::line, report).map(Value::located),
        give_up_hours: number_if(&mut section, "give_up_hours", None, 1..=MAX_RETRY_HOURS, report),
    };
    section.finish(report);
    delivery
}

/// Parameters of a link that tell where a visitor came from.
const UTM: &[&str] = &["source", "medium", "campaign", "term", "content", "id"];

type Utm = BTreeMap<String, Located<String>>;

fn tracking(mut section: Section<'_>, report: &mut Report) -> (bool, bool, Utm, Vec<String>) {
    let opens = section.raw("opens", None).and_then(|raw| raw.boolean(report)).unwrap_or(true);
    let clicks = section.raw("clicks", None).and_then(|raw| raw.boolean(report)).unwrap_or(true);
    let mut table = section.section("utm", report);
    let utm = UTM.iter().filter_map(|name| {
        let value = checked(&mut table, name, None, check::line, report)?;
        Some((format!("utm_{name}"), value.located()))
    });
    let utm = utm.collect();
    table.finish(report);
    let utm_hosts = super::settings::texts(&mut section, "utm_hosts", None, check::domain, report).unwrap_or_default();
    section.finish(report);
    (opens, clicks, utm, utm_hosts)
}
