//! `messages/*.toml`: templates of transactional messages, and the bodies beside them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::campaigns::{Reader, sender};
use super::check::{self, Complaint};
use super::diagnostics::did_you_mean;
use super::load::{Topics, files_in, read_text, stem};
use super::reader::{Document, Report, Section, Value, list};
use super::settings::{checked, required};
use super::{BodyKind, Located, Sender, SourceText};

/// Template files of one instance: all are read and checked at start.
const MAX_TEMPLATES: usize = 1_000;
/// Hours a message may wait for its delivery: ten days, as long as anybody tries.
pub const MAX_EXPIRES_HOURS: u32 = 240;
/// The layout of messages that is compiled into the binary.
pub(super) const BUILT_IN_LAYOUT: &str = "transactional";

/// One file of `messages/`.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageTemplate {
    /// The file's name without `.toml`.
    pub name: String,
    /// The template's file, as shown to people.
    pub file: PathBuf,
    /// Template.
    pub subject: Located<String>,
    /// Template; the grey line beside the subject.
    pub preheader: Option<Located<String>>,
    /// Layout name.
    pub layout: Located<String>,
    /// The body's text.
    pub body_source: SourceText,
    /// How to read the body.
    pub body_kind: BodyKind,
    /// `[sender]` of the template where it overrides the instance's.
    pub sender: Option<Sender>,
    /// Hours after which the message is worth nothing and is not sent any more.
    pub expires_hours: Option<u32>,
}

/// Reads every template; those with a mistake are left out and reported.
pub(super) fn read(
    dir: &Path,
    topics: &Topics,
    layouts: &BTreeMap<String, SourceText>,
    report: &mut Report,
) -> BTreeMap<String, MessageTemplate> {
    let mut templates = BTreeMap::new();
    let files = files_in(&dir.join("messages"), report).into_iter().filter(|file| file.extension().is_some_and(|e| e == "toml"));
    for (at, file) in files.enumerate() {
        if at == MAX_TEMPLATES {
            report.file(&file, format!("more than {MAX_TEMPLATES} message templates"), "remove those that nothing sends any more");
            break;
        }
        let name = stem(&file);
        if let Err((message, hint)) = check::name("message template", &name) {
            report.file(&file, message, hint);
        }
        let Some(text) = read_text(&file, report) else { continue };
        let document = Document::parse(&file, &text, report);
        let reader = Reader { dir, file: &file, topics, layouts };
        let template = template(&reader, name, document.root(), report);
        templates.extend(template.map(|template| (template.name.clone(), template)));
    }
    templates
}

fn template(reader: &Reader<'_>, name: String, mut root: Section<'_>, report: &mut Report) -> Option<MessageTemplate> {
    let subject = required(&mut root, "subject", None, check::line, "write `subject = \"..\"`", report);
    let preheader = checked(&mut root, "preheader", None, check::line, report);
    let layout = checked(&mut root, "layout", None, |text| known_layout(reader, text), report);
    let body_hint = "name a file beside this one: `body = \"order-confirmation.md\"`";
    let body = required(&mut root, "body", None, |_| Ok(()), body_hint, report);
    let body_text = body.as_ref().and_then(|body| reader.body(body, report));
    let expires_hours = root.raw("expires_hours", None).and_then(|raw| raw.number(1..=MAX_EXPIRES_HOURS, report));
    let sender = sender(root.section("sender", report), report);
    root.finish(report);
    let (body_source, body_kind) = body_text?;
    Some(MessageTemplate {
        name,
        file: reader.file.to_owned(),
        subject: subject?.located(),
        preheader: preheader.map(Value::located),
        layout: layout.map_or_else(|| Located::default_value(BUILT_IN_LAYOUT.to_owned()), Value::located),
        body_source,
        body_kind,
        sender,
        expires_hours,
    })
}

fn known_layout(reader: &Reader<'_>, text: &str) -> Result<(), Complaint> {
    let known = || std::iter::once(BUILT_IN_LAYOUT).chain(reader.layouts.keys().map(String::as_str));
    if known().any(|layout| layout == text) {
        return Ok(());
    }
    let hint = match did_you_mean(text, known()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("for messages there are {}; yours would be the file `layouts/{text}.html`", list(known().take(10))),
    };
    Err((format!("there is no layout `{text}` for messages"), hint))
}
