//! Once per campaign: everything that does not depend on the recipient.

use minijinja::{Environment, Value};

use super::context::{Root, Shared};
use super::environment::{self, HTML, PREHEADER, SUBJECT, TEXT};
use super::frame::Says;
use super::lawful::FrameSettings;
use super::links::{self, Inserts, LinkRules, Rewritten};
use super::parameters::{self, Parameters};
use super::problem::{ContentProblem, Part, RenderError};
use super::template::Kind;
use super::vault::{Piece, Target, Vault};
use super::{Lane, Link, LinkMaker, Mail, Recipient, check, frame, markdown, markup, plain_text, render};
use crate::campaign::Definition;
use crate::clock::Time;
use crate::config::BodyKind;
use crate::config::diagnostics::did_you_mean;
use crate::contact::{Contact, Schema};

/// Bytes of one part of a campaign as written.
const MAX_SOURCE_BYTES: usize = 1024 * 1024;
/// Bytes of one part of one finished mail. Gmail shows 102,400; ten times that is a mistake.
pub(super) const MAX_MAIL_BYTES: usize = 1024 * 1024;
/// Bytes of a finished subject or preheader.
pub(super) const MAX_LINE_BYTES: usize = 2_000;

/// A campaign's content, ready to be written for any number of people.
#[derive(Debug)]
pub struct Prepared {
    environment: Environment<'static>,
    shared: Shared,
    links: Vec<Link>,
    parameters: Parameters,
    has_preheader: bool,
}

/// Prepares a campaign's content, or answers everything that is wrong with it.
pub fn prepare(definition: &Definition, schema: &Schema, frame: &FrameSettings) -> Result<Prepared, Vec<ContentProblem>> {
    prepare_for(Lane::Campaigns, definition, schema, frame)
}

/// Prepares the content of one of the two lanes.
pub(super) fn prepare_for(
    lane: Lane,
    definition: &Definition,
    schema: &Schema,
    frame: &FrameSettings,
) -> Result<Prepared, Vec<ContentProblem>> {
    prepare_normalised(lane, &normalised(definition), schema, frame).map_err(|problems| on_disk(definition, problems))
}

fn prepare_normalised(
    lane: Lane,
    definition: &Definition,
    schema: &Schema,
    settings: &FrameSettings,
) -> Result<Prepared, Vec<ContentProblem>> {
    let mut environment = environment::sandbox();
    if lane != Lane::Campaigns {
        // What a caller may leave out of `data` is false in `{% if %}`; printing it is still a mistake.
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::SemiStrict);
    }
    let mut problems = check_sources(lane, definition, schema, &environment);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut vault = vault_for(definition);
    let document = document(lane, definition, &mut vault, &mut problems);
    let (Some(document), true) = (document, problems.is_empty()) else { return Err(problems) };
    markup::check_depth(Part::Body, &document.html).map_err(|problem| vec![problem])?;
    let inlined = inline_css(&document.html).map_err(|problem| vec![problem])?;
    let (has_preheader, inserts) = inserts(lane, definition, &document, &mut vault);
    let rules = LinkRules {
        track: definition.track_clicks,
        parameters: !definition.link_parameters.parameters.is_empty(),
        named: definition.body_kind == BodyKind::Mjml,
        site: settings.site_url(),
        body: &definition.body,
    };
    let Rewritten { html, links } = links::rewrite(&inlined, &inserts, rules, &mut vault)?;
    let parameters = Parameters::new(definition, &links, &environment)?;
    let links = if definition.track_clicks { links } else { Vec::new() };
    let problems = check_result(definition, &html, &vault);
    if !problems.is_empty() {
        return Err(problems);
    }
    let text = plain_text::from_html(&html, &vault);
    let preheader = definition.preheader.clone().unwrap_or_default();
    let templates = [
        (SUBJECT, Part::Subject, definition.subject.clone()),
        (PREHEADER, Part::Preheader, preheader),
        (HTML, Part::Body, vault.restore(&html, Target::Html)),
        (TEXT, Part::Body, vault.restore(&text, Target::Text)),
    ];
    for (name, part, source) in templates {
        environment.add_template_owned(name, source).map_err(|error| vec![torn_apart(part, &error)])?;
    }
    Ok(Prepared { environment, shared: Shared::new(definition, schema, settings), links, parameters, has_preheader })
}

impl Prepared {
    /// The tracked links, in the order of the HTML part.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Writes the mail of one person. An error concerns this person only.
    pub fn render(&self, recipient: &Recipient<'_>) -> Result<Mail, RenderError> {
        self.write(self.shared.root(recipient), recipient.links, |subject| self.shared.labelled(subject, recipient.contact))
    }

    /// Writes a message, which has `data`, and links of its own only where people subscribed to it.
    pub(super) fn render_message(
        &self,
        contact: &Contact,
        data: Value,
        links: Option<&dyn LinkMaker>,
        now: Time,
    ) -> Result<Mail, RenderError> {
        self.write(self.shared.message_root(contact, data, links, now), links.unwrap_or(&NoLinks), |subject| subject)
    }

    fn write(&self, mut root: Root, links: &dyn LinkMaker, label: impl Fn(String) -> String) -> Result<Mail, RenderError> {
        let evaluate = |name: &str, part: Part, limit: usize, root: &Root| {
            let rendered = self
                .environment
                .get_template(name)
                .and_then(|template| template.render(Value::from_object(root.clone())))
                .map_err(|error| RenderError { part, message: explain(&error) })?;
            too_long(part, rendered.len(), limit)?;
            Ok(rendered)
        };
        let subject = label(render::one_line(&evaluate(SUBJECT, Part::Subject, MAX_LINE_BYTES, &root)?));
        let preheader = match self.has_preheader {
            true => render::one_line(&evaluate(PREHEADER, Part::Preheader, MAX_LINE_BYTES, &root)?),
            false => String::new(),
        };
        root.subject = Value::from(subject.as_str());
        root.preheader = Value::from(preheader.as_str());
        let in_body = |message: String| RenderError { part: Part::Body, message };
        let html = render::finish_html(&evaluate(HTML, Part::Body, MAX_MAIL_BYTES, &root)?, links, &self.parameters).map_err(in_body)?;
        let text = render::finish_text(&evaluate(TEXT, Part::Body, MAX_MAIL_BYTES, &root)?, links, &self.parameters).map_err(in_body)?;
        too_long(Part::Body, html.len().max(text.len()), MAX_MAIL_BYTES)?;
        Ok(Mail { subject, preheader, html, text })
    }
}

/// What a message has in place of personal links: none.
pub(super) struct NoLinks;

impl LinkMaker for NoLinks {
    fn unsubscribe(&self) -> String {
        String::new()
    }

    fn preferences(&self) -> String {
        String::new()
    }

    fn view(&self) -> String {
        String::new()
    }

    fn open_pixel(&self) -> Option<String> {
        None
    }

    fn track(&self, _: i64, url: &str) -> String {
        url.to_owned()
    }
}

fn too_long(part: Part, bytes: usize, limit: usize) -> Result<(), RenderError> {
    if bytes <= limit {
        return Ok(());
    }
    Err(RenderError { part, message: format!("it is {bytes} bytes long, and at most {limit} can be sent; shorten it") })
}

fn explain(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Windows line ends and control characters mean nothing in any of the sources; two of them are
/// ours (`render`).
fn normalised(definition: &Definition) -> Definition {
    let clean = |text: &str| text.chars().filter(|c| !c.is_ascii_control() || *c == '\n' || *c == '\t').collect::<String>();
    let mut definition = definition.clone();
    definition.subject = clean(&definition.subject);
    definition.preheader = definition.preheader.as_deref().map(clean);
    definition.layout_text = definition.layout_text.as_deref().map(clean);
    definition.body = clean(&definition.body);
    definition
}

/// Moves the places of problems from the normalised sources to those on disk.
fn on_disk(definition: &Definition, mut problems: Vec<ContentProblem>) -> Vec<ContentProblem> {
    for problem in &mut problems {
        let source = match problem.part {
            Part::Subject => Some(&definition.subject),
            Part::Preheader => definition.preheader.as_ref(),
            Part::Body => Some(&definition.body),
            Part::Layout => definition.layout_text.as_ref(),
            // Read as it stands in its file.
            Part::Parameter(_) => None,
        };
        let (Some(source), Some(span)) = (source, &mut problem.span) else { continue };
        let moved = |offset: usize| {
            let kept = source.char_indices().filter(|(_, c)| !c.is_ascii_control() || *c == '\n' || *c == '\t');
            let mut length = 0;
            for (at, character) in kept {
                if length >= offset {
                    return at;
                }
                length += character.len_utf8();
            }
            source.len()
        };
        *span = moved(span.start)..moved(span.end).max(moved(span.start));
    }
    problems
}

fn check_sources(lane: Lane, definition: &Definition, schema: &Schema, environment: &Environment<'_>) -> Vec<ContentProblem> {
    let mut problems = Vec::new();
    let parts = [
        (Part::Subject, Some(definition.subject.as_str())),
        (Part::Preheader, definition.preheader.as_deref()),
        (Part::Body, Some(definition.body.as_str())),
        (Part::Layout, definition.layout_text.as_deref()),
    ];
    for (part, source) in parts {
        let Some(source) = source else { continue };
        if source.len() > MAX_SOURCE_BYTES {
            let message = format!("the {part} is {} bytes long, and at most {MAX_SOURCE_BYTES} are read", source.len());
            problems.push(ContentProblem::new(part, None, message, "put images on a web server and link to them"));
        } else {
            problems.extend(check::check(lane, part, source, schema, environment));
        }
    }
    problems.extend(parameters::problems(definition, environment));
    match &definition.layout_text {
        None if !lane.layouts().contains(&definition.layout.as_str()) => {
            let built_in = lane.layouts().iter().map(|layout| format!("`{layout}`")).collect::<Vec<_>>().join(", ");
            let hint = match did_you_mean(&definition.layout, lane.layouts().iter().copied()) {
                Some(similar) => format!("did you mean `{similar}`?"),
                None => format!("built in for {lane}: {built_in}; put your own under `layouts/`"),
            };
            problems.push(ContentProblem::new(Part::Layout, None, format!("there is no layout `{}`", definition.layout), hint));
        }
        _ => {}
    }
    problems
}

fn vault_for(definition: &Definition) -> Vault {
    Vault::new(&[
        &definition.body,
        definition.layout_text.as_deref().unwrap_or_default(),
        &definition.sender.postal_address,
        &definition.topic_name,
    ])
}

/// A whole HTML document with kept tags.
struct Document {
    html: String,
    frame: DocumentFrame,
}

/// Where a document has its frame from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DocumentFrame {
    /// From a layout of ours.
    Built,
    /// A body that is a whole document gets ours around its content.
    Around,
    /// A layout of the marketer's own: we add what it lacks.
    Own,
}

fn document(lane: Lane, definition: &Definition, vault: &mut Vault, problems: &mut Vec<ContentProblem>) -> Option<Document> {
    let source = &definition.body;
    let body = match definition.body_kind {
        BodyKind::Markdown => markdown::to_html(source, vault),
        BodyKind::Html => markup::protect(Part::Body, source, vault, problems),
        BodyKind::Mjml => {
            let protected = markup::protect(Part::Body, source, vault, problems);
            problems.extend(markup::unknown_mjml(source));
            if let Err(problem) = markup::check_depth(Part::Body, source) {
                problems.push(problem);
                return None;
            }
            match markup::mjml_to_html(&protected, source, vault) {
                Ok(html) => html,
                Err(problem) => {
                    problems.push(problem);
                    return None;
                }
            }
        }
    };
    match &definition.layout_text {
        Some(layout) => own_layout(layout, &body, vault, problems),
        None if definition.body_kind != BodyKind::Markdown && markup::is_document(&body) => {
            Some(Document { html: body, frame: DocumentFrame::Around })
        }
        None => {
            let document = frame::layout(&definition.layout, &body, lane == Lane::Welcomes, vault);
            document.map(|html| Document { html, frame: DocumentFrame::Built })
        }
    }
}

/// Puts the body where the marketer's layout says `{{ content }}`.
fn own_layout(layout: &str, body: &str, vault: &mut Vault, problems: &mut Vec<ContentProblem>) -> Option<Document> {
    let first = vault.len();
    let protected = markup::protect(Part::Layout, layout, vault, problems);
    let is_content = |index: &usize| {
        let source: String = vault.item(*index).source.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
        vault.item(*index).kind == Kind::Expression && source == "{{content}}"
    };
    let places: Vec<usize> = (first..vault.len()).filter(is_content).collect();
    let [place] = places.as_slice() else {
        let message = format!("the layout holds `{{{{ content }}}}` {} times", places.len());
        problems.push(ContentProblem::new(Part::Layout, None, message, "write `{{ content }}` once, where the body belongs"));
        return None;
    };
    let (styles, inside) = if markup::is_document(body) { markup::split_document(body)? } else { (String::new(), body.to_owned()) };
    let word = vault.word(*place);
    let mut html = String::with_capacity(protected.len() + inside.len());
    for piece in vault.pieces(&protected) {
        match piece {
            Piece::Text(text) => html.push_str(text),
            Piece::Tag { index, .. } if index == *place => html.push_str(&word),
            Piece::Tag { index, .. } => html.push_str(&vault.word(index)),
        }
    }
    let comment = format!("<!--{word}-->");
    let html = if html.contains(&comment) { html.replacen(&comment, &inside, 1) } else { html.replacen(&word, &inside, 1) };
    let html = if styles.is_empty() { html } else { insert_styles(&html, &styles) };
    Some(Document { html, frame: DocumentFrame::Own })
}

fn insert_styles(html: &str, styles: &str) -> String {
    let at = html.to_ascii_lowercase().find("</head").unwrap_or(0);
    format!("{}{styles}{}", &html[..at], &html[at..])
}

/// Mail programs ignore style sheets in places; rules for certain screens stay.
fn inline_css(html: &str) -> Result<String, ContentProblem> {
    let inliner = css_inline::CSSInliner::options()
        .load_remote_stylesheets(false)
        .keep_link_tags(true)
        .keep_at_rules(true)
        .resolve_css_variables(true)
        .build();
    inliner.inline(html).map_err(|error| {
        ContentProblem::new(Part::Body, None, format!("the styles cannot be read: {error}"), "correct the `<style>` elements")
    })
}

fn inserts(lane: Lane, definition: &Definition, document: &Document, vault: &mut Vault) -> (bool, Inserts) {
    let has_preheader = definition.preheader.as_deref().is_some_and(|text| !text.trim().is_empty());
    let layout_shows_it = definition.layout_text.as_deref().is_some_and(|layout| check::uses_root(layout, "preheader"));
    let mut start = if has_preheader && !layout_shows_it { frame::preheader(vault) } else { String::new() };
    let mut end = String::new();
    match (document.frame, lane) {
        (DocumentFrame::Around, Lane::Campaigns) => {
            let (strip, footer) = frame::around_document(vault);
            start.push_str(&strip);
            end.push_str(&footer);
        }
        (DocumentFrame::Around, Lane::Messages) => end.push_str(&frame::after_message(false, vault)),
        // A layout of one's own knows nothing of leaving: the same template may be a plain message.
        (DocumentFrame::Around | DocumentFrame::Own, Lane::Welcomes) => end.push_str(&frame::after_message(true, vault)),
        (DocumentFrame::Own, Lane::Campaigns) => {
            let missing = missing_in(definition, &document.html, vault);
            if !missing.is_nothing() {
                end.push_str(&frame::what_is_missing(missing, vault));
            }
        }
        (DocumentFrame::Own, Lane::Messages) | (DocumentFrame::Built, _) => {}
    }
    if definition.honeypot {
        start.insert_str(0, &links::trap(vault));
    }
    if definition.track_opens {
        end.push_str(&links::pixel(vault));
    }
    (has_preheader, Inserts { start, end, lang: vault.keep_expression("frame.lang") })
}

/// What of the frame a marketer's own layout does not say to everybody: under a condition, or within a comment, does
/// not count.
fn missing_in(definition: &Definition, html: &str, vault: &Vault) -> Says {
    let mut says = Says { why: false, notice: false, leave: false, sender: html.contains(definition.sender.postal_address.trim()) };
    let visible = without_comments(definition.layout_text.as_deref().unwrap_or_default());
    let mut depth = 0_usize;
    let mut before = "";
    for piece in vault.pieces(html) {
        match piece {
            Piece::Text(text) => before = text,
            Piece::Tag { index, .. } => {
                let item = vault.item(index);
                if item.kind == Kind::Block && item.group.is_some() {
                    let keyword = item.source.trim_start_matches(['{', '%', '-', '+']).trim_start();
                    match keyword {
                        keyword if keyword.starts_with("end") => depth = depth.saturating_sub(1),
                        keyword if keyword.starts_with("else") || keyword.starts_with("elif") => {}
                        _ => depth += 1,
                    }
                } else if depth == 0 && item.kind == Kind::Expression && visible.contains(&item.source) {
                    let uses = |object: &str, field: &str| check::uses(&item.source, object, field);
                    says.why |= uses("frame", "why");
                    says.notice |= uses("frame", "notice");
                    says.leave |= uses("links", "unsubscribe") && before.trim_end_matches(['"', '\'']).ends_with("href=");
                    says.sender |= uses("sender", "postal_address");
                }
                before = "";
            }
        }
    }
    Says { why: !says.why, notice: !says.notice, leave: !says.leave, sender: !says.sender }
}

/// HTML as people see it.
fn without_comments(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(open) = rest.find("<!--") {
        out.push_str(&rest[..open]);
        rest = rest[open..].find("-->").map_or("", |close| &rest[open + close + 3..]);
    }
    out.push_str(rest);
    out
}

/// What can only be seen in the finished HTML.
fn check_result(definition: &Definition, html: &str, vault: &Vault) -> Vec<ContentProblem> {
    let mut problems = Vec::new();
    let present: std::collections::BTreeSet<usize> = vault.indexes(html).into_iter().collect();
    for (part, source) in [(Part::Body, Some(&definition.body)), (Part::Layout, definition.layout_text.as_ref())] {
        let Some(source) = source else { continue };
        let lost = (0..vault.len())
            .filter(|index| !present.contains(index) && vault.item(*index).kind == Kind::Block)
            .find(|index| source.contains(&vault.item(*index).source));
        if let Some(index) = lost {
            let tag = &vault.item(index).source;
            let span = source.find(tag.as_str()).map(|at| at..at + tag.len());
            let hint = "put it between elements or into their text, not into a style sheet or a script";
            problems.push(ContentProblem::new(part, span, format!("`{tag}` stands where HTML has no place for it"), hint));
        }
    }
    problems
}

fn torn_apart(part: Part, error: &minijinja::Error) -> ContentProblem {
    let message = format!("the blocks of the template do not fit the elements around them ({})", explain(error));
    ContentProblem::new(part, None, message, "let `{% if %}` and `{% for %}` hold whole elements, from `<p>` to `</p>`")
}
