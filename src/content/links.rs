//! The last pass over a campaign's HTML: links become tracked ones, addresses with fields in them
//! become safe ones, the preheader, the frame and the pixel are put in.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use lol_html::html_content::{ContentType, Element};
use lol_html::{RewriteStrSettings, element, rewrite_str, text};

use super::Link;
use super::environment::{URL_PART_FILTER, WHOLE_URL_FILTER};
use super::parameters::is_personal_page;
use super::problem::{ContentProblem, Part};
use super::render::{CHECKED, END, PAYLOAD, PIXEL, START, TRAP, UNTRACKED, web_address};
use super::template::{self, Kind};
use super::vault::{Piece, Vault, push_literal};

/// Links of one message that are tracked. A newsletter has 20 to 100; each costs a row per run and
/// a MAC per mail.
pub const MAX_LINKS: usize = 500;

/// What is put into the document.
pub(super) struct Inserts {
    /// After `<body>`.
    pub start: String,
    /// Before `</body>`.
    pub end: String,
    /// Value of `lang` where `<html>` has none.
    pub lang: String,
}

/// What is done about links.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkRules<'a> {
    /// They are tracked.
    pub track: bool,
    /// Links to websites get parameters.
    pub parameters: bool,
    /// The attribute `name` of a link is what its author calls it, as MJML has it for buttons.
    pub named: bool,
    /// Address of our own pages.
    pub site: &'a str,
    /// What the marketer wrote, for the places of problems.
    pub body: &'a str,
}

/// The rewritten document and its links to websites.
pub(super) struct Rewritten {
    pub html: String,
    pub links: Vec<Link>,
}

struct State<'a> {
    rules: LinkRules<'a>,
    vault: &'a mut Vault,
    links: Vec<Link>,
    /// Which of them have a name of their own.
    named: Vec<bool>,
    /// The link whose inside is being read, where that is its name.
    current: Option<usize>,
    problems: Vec<ContentProblem>,
}

/// Rewrites a document that the CSS inliner has put in order.
pub(super) fn rewrite(html: &str, inserts: &Inserts, rules: LinkRules<'_>, vault: &mut Vault) -> Result<Rewritten, Vec<ContentProblem>> {
    let state = State { rules, vault, links: Vec::new(), named: Vec::new(), current: None, problems: Vec::new() };
    let state = Rc::new(RefCell::new(state));
    let (for_all, for_links, for_images, for_texts) = (state.clone(), state.clone(), state.clone(), state.clone());
    let handlers = vec![
        element!("html", |el| {
            if el.get_attribute("lang").is_none_or(|lang| lang.is_empty()) {
                el.set_attribute("lang", &inserts.lang)?;
            }
            if el.get_attribute("dir").is_none_or(|dir| dir.is_empty()) {
                el.set_attribute("dir", "auto")?;
            }
            Ok(())
        }),
        // What MJML writes where its author named no language.
        element!("[lang=\"und\"]", |el| {
            el.set_attribute("lang", &inserts.lang)?;
            Ok(())
        }),
        // The CSS inliner puts styles before it, and it counts only within the first 1,024 bytes.
        element!("meta[charset]", |el| {
            el.remove();
            Ok(())
        }),
        element!("head", |el| {
            el.prepend("<meta charset=\"utf-8\">", ContentType::Html);
            Ok(())
        }),
        element!("body", |el| {
            el.prepend(&inserts.start, ContentType::Html);
            el.append(&inserts.end, ContentType::Html);
            Ok(())
        }),
        element!("script", |el| {
            el.remove();
            Ok(())
        }),
        element!("*", move |el| {
            remove_handlers(el);
            for_all.borrow_mut().problems_of_forms(el);
            Ok(())
        }),
        element!("a[href], area[href]", move |el| {
            for_links.borrow_mut().link(el);
            Ok(())
        }),
        element!("img[src], img[background], td[background], table[background], body[background], source[src]", move |el| {
            for_images.borrow_mut().image(el);
            Ok(())
        }),
        text!("a", move |chunk| {
            for_texts.borrow_mut().name(chunk.as_str());
            Ok(())
        }),
    ];
    let settings = handlers.into_iter().fold(RewriteStrSettings::new(), RewriteStrSettings::append_element_content_handler);
    let rewritten = rewrite_str(html, settings);
    let mut state = state.borrow_mut();
    let html = match rewritten {
        Ok(html) => html,
        Err(error) => {
            let hint = "simplify the markup of the body";
            state.problems.push(ContentProblem::new(Part::Body, None, format!("the HTML cannot be read: {error}"), hint));
            String::new()
        }
    };
    if rules.track && state.links.len() > MAX_LINKS {
        let message = format!("the mail has {} links, and at most {MAX_LINKS} can be tracked", state.links.len());
        state.problems.push(ContentProblem::new(Part::Body, None, message, "use fewer links, or switch `[tracking] clicks` off"));
    }
    if !state.problems.is_empty() {
        return Err(std::mem::take(&mut state.problems));
    }
    let (mut links, named) = (std::mem::take(&mut state.links), std::mem::take(&mut state.named));
    for link in &mut links {
        let name = state.vault.restore_for_people(&decode(&link.name));
        let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
        link.name = if name.is_empty() { link.url.clone() } else { name };
    }
    number_alike(&mut links, &named);
    Ok(Rewritten { html, links })
}

/// Links that their author calls alike are told apart by a number behind the name: `hero`, `hero 2`.
fn number_alike(links: &mut [Link], named: &[bool]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (link, _) in links.iter_mut().zip(named).filter(|(_, named)| **named) {
        let times = seen.entry(link.name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            link.name = format!("{} {times}", link.name);
        }
    }
}

/// Mail programs run no scripts, and a field inside one could not be escaped.
fn remove_handlers(el: &mut Element<'_, '_>) {
    let names: Vec<String> = el.attributes().iter().map(|attribute| attribute.name()).filter(|name| name.starts_with("on")).collect();
    for name in names {
        el.remove_attribute(&name);
    }
}

impl State<'_> {
    fn problems_of_forms(&mut self, el: &Element<'_, '_>) {
        if matches!(el.tag_name().as_str(), "iframe" | "object" | "embed") {
            let message = format!("`<{}>` cannot be used in a mail", el.tag_name());
            self.problems.push(ContentProblem::new(Part::Body, None, message, "mail programs do not show it; link to a page instead"));
        }
    }

    fn link(&mut self, el: &mut Element<'_, '_>) {
        let raw = el.get_attribute("href").unwrap_or_default();
        self.current = None;
        let given = self.given_name(el);
        let address = decode(raw.trim());
        if self.is_own_link(&address) || is_personal_page(self.rules.site, &address) {
            return;
        }
        let written = self.vault.restore_for_people(&address);
        let scheme = self.scheme(&address);
        let is_web = matches!(scheme.as_deref(), Some("http" | "https"));
        let has_fields = !self.vault.indexes(&address).is_empty();
        match scheme.as_deref() {
            Some("http" | "https") if !has_fields => {
                if let Err(message) = web_address(&address) {
                    self.problems.push(self.problem(&written, message, "write the whole address: `https://shop.example/page`"));
                    return;
                }
            }
            Some("http" | "https" | "mailto" | "tel" | "sms") => {}
            // Begins with a field: it is checked for each person.
            None if has_fields && self.vault.pieces(&address).first().is_some_and(|piece| matches!(piece, Piece::Tag { .. })) => {}
            // An anchor, or an address relative to nothing (an empty one is common in drafts).
            None => return,
            Some(other) => {
                let message = format!("the link `{}` begins with `{other}:`", shorten(&written));
                self.problems.push(self.problem(&written, message, "a link leads to http, https, mailto or tel"));
                return;
            }
        }
        if !is_web && scheme.is_some() {
            if has_fields {
                let template = self.address_template(&address);
                let word = self.vault.keep(Kind::Expression, template.clone(), template);
                let _ = el.set_attribute("href", &word);
            }
            return;
        }
        let number = self.links.len();
        self.current = given.is_none().then_some(number);
        self.named.push(given.is_some());
        self.links.push(Link { position: number as i64, url: written, name: given.unwrap_or_default() });
        if self.rules.track || self.rules.parameters || has_fields {
            let _ = el.set_attribute("href", &self.marked(&address, Some(number), has_fields));
        }
    }

    /// What its author calls a link: `data-name`, the title `name: ..` (Markdown has no other place for it), and in
    /// MJML `name`. It is for us, so it leaves with no mail.
    fn given_name(&self, el: &mut Element<'_, '_>) -> Option<String> {
        let mut name = el.get_attribute("data-name");
        el.remove_attribute("data-name");
        if self.rules.named {
            name = name.or_else(|| el.get_attribute("name"));
            el.remove_attribute("name");
        }
        let title = el.get_attribute("title").unwrap_or_default();
        if let Some(given) = title.trim_start().strip_prefix("name:") {
            name = name.or_else(|| Some(given.to_owned()));
            el.remove_attribute("title");
        }
        name.filter(|name| !name.trim().is_empty())
    }

    fn image(&mut self, el: &mut Element<'_, '_>) {
        for name in ["src", "background"] {
            let Some(raw) = el.get_attribute(name) else { continue };
            let address = decode(raw.trim());
            if !self.vault.indexes(&address).is_empty() {
                let _ = el.set_attribute(name, &self.marked(&address, None, true));
            }
        }
        if let Some(position) = self.current
            && let Some(alt) = el.get_attribute("alt")
        {
            self.links[position].name.push_str(&format!(" {alt}"));
        }
    }

    fn name(&mut self, chunk: &str) {
        if let Some(position) = self.current {
            self.links[position].name.push_str(chunk);
        }
    }

    /// `{{ links.unsubscribe }}` and its like lead to us and are never tracked.
    fn is_own_link(&self, address: &str) -> bool {
        match self.vault.pieces(address).as_slice() {
            [Piece::Tag { index, .. }] => {
                let source = &self.vault.item(*index).source;
                ["unsubscribe", "preferences", "view"].iter().any(|field| super::check::uses(source, "links", field))
            }
            _ => false,
        }
    }

    /// The scheme an address is written with, lower case.
    fn scheme(&self, address: &str) -> Option<String> {
        let pieces = self.vault.pieces(address);
        let Some(Piece::Text(start)) = pieces.first() else { return None };
        let start: String = start.chars().filter(|character| !character.is_control()).collect();
        let (scheme, _) = start.trim_start().split_once(':')?;
        let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        valid.then(|| scheme.to_ascii_lowercase())
    }

    /// Keeps the marks around an address and answers the word for them.
    fn marked(&mut self, address: &str, position: Option<usize>, has_fields: bool) -> String {
        let position = match position {
            Some(position) => {
                let checked = if has_fields { String::new() } else { CHECKED.to_string() };
                let untracked = if self.rules.track { String::new() } else { UNTRACKED.to_string() };
                format!("{checked}{untracked}{position}")
            }
            None => UNTRACKED.to_string(),
        };
        let template = format!("{START}{position}{PAYLOAD}{}{END}", self.address_template(address));
        self.vault.keep(Kind::Expression, template.clone(), template)
    }

    /// An address as a template: each field is percent-encoded for its place.
    fn address_template(&self, address: &str) -> String {
        let mut out = String::new();
        let mut begun = false;
        for piece in self.vault.pieces(address) {
            match piece {
                Piece::Text(text) => {
                    begun |= !text.trim().is_empty();
                    push_literal(&mut out, text);
                }
                Piece::Tag { index, .. } => {
                    let item = self.vault.item(index);
                    if item.kind != Kind::Expression {
                        out.push_str(&item.source);
                        continue;
                    }
                    let segment = template::Segment { kind: Kind::Expression, range: 0..item.source.len() };
                    let inner = item.source[segment.inner(&item.source)].trim();
                    let encoded = inner.trim_end_matches(['(', ')', ' ']).ends_with("urlencode");
                    match (begun, encoded) {
                        (true, true) => out.push_str(&format!("{{{{ {inner} }}}}")),
                        (true, false) => out.push_str(&format!("{{{{ ({inner}) | {URL_PART_FILTER} }}}}")),
                        (false, _) => out.push_str(&format!("{{{{ ({inner}) | {WHOLE_URL_FILTER} }}}}")),
                    }
                    begun = true;
                }
            }
        }
        out
    }

    fn problem(&self, written: &str, message: String, hint: &str) -> ContentProblem {
        let span = self.rules.body.find(written).map(|at| at..at + written.len());
        ContentProblem::new(Part::Body, span, message, hint)
    }
}

/// Keeps the place of the image that records an open, and answers its word.
pub(super) fn pixel(vault: &mut Vault) -> String {
    vault.keep(Kind::Raw, format!("{START}{PIXEL}{END}"), "")
}

/// Keeps the place of the link that no person sees, and answers its word.
pub(super) fn trap(vault: &mut Vault) -> String {
    vault.keep(Kind::Raw, format!("{START}{TRAP}{END}"), "")
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Undoes the escaping of an HTML serializer (WHATWG HTML, "escaping a string").
pub(super) fn decode(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    text.replace("&nbsp;", "\u{a0}")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}
