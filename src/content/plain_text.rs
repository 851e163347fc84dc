//! The text part, written from the finished HTML once per campaign.
//!
//! Written here and not by a library: loops and conditions of the template must stay at their places
//! between table rows and list items, and a library that builds a tree moves them out.

use std::cell::RefCell;
use std::rc::Rc;

use lol_html::html_content::{Element, TextType};
use lol_html::{RewriteStrSettings, doc_comments, doc_text, element, rewrite_str};

use super::links::decode;
use super::template::Kind;
use super::vault::{Piece, Vault};

/// Elements that begin and end a line; `true` for those with an empty line around them.
fn block(name: &str) -> Option<bool> {
    match name {
        "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "ul" | "ol" | "blockquote" | "pre" | "table" | "dl" | "hr" => Some(true),
        "div" | "tr" | "li" | "section" | "article" | "header" | "footer" | "center" | "address" | "dt" | "dd" | "figure" | "caption"
        | "figcaption" | "main" | "nav" => Some(false),
        _ => None,
    }
}

#[derive(Debug)]
enum List {
    Bullets,
    Numbers(usize),
}

struct Writer<'a> {
    vault: &'a Vault,
    out: String,
    /// Line ends to write before the next text.
    line_ends: usize,
    /// A blank to write before the next text.
    blank: bool,
    /// Begins every line: quotes and the indent of lists.
    prefix: Vec<&'static str>,
    lists: Vec<List>,
    /// Whether each open table holds data, and the cells seen in its row.
    tables: Vec<(bool, usize)>,
    preformatted: usize,
    hidden: usize,
    /// Address and start of the open links.
    links: Vec<(String, usize)>,
}

/// One step through a document.
enum Step {
    Start(Start),
    End { name: String, hides: bool },
    Text(String),
}

/// What the writer needs to know of an element.
struct Start {
    name: String,
    hides: bool,
    has_content: bool,
    /// A table that only arranges.
    layout: bool,
    class: String,
    href: String,
    alt: String,
}

/// Writes a finished document as text; the tags of the template stay kept.
pub(super) fn from_html(html: &str, vault: &Vault) -> String {
    let mut writer = Writer {
        vault,
        out: String::new(),
        line_ends: 0,
        blank: false,
        prefix: Vec::new(),
        lists: Vec::new(),
        tables: Vec::new(),
        preformatted: 0,
        hidden: 0,
        links: Vec::new(),
    };
    for step in steps(html, vault) {
        match step {
            Step::Start(start) => writer.start(&start),
            Step::End { name, hides } => writer.end(&name, hides),
            Step::Text(text) => writer.text(&text),
        }
    }
    writer.out
}

fn steps(html: &str, vault: &Vault) -> Vec<Step> {
    let steps = Rc::new(RefCell::new(Vec::new()));
    let (starts, texts, comments) = (steps.clone(), steps.clone(), steps.clone());
    let elements = element!("*", move |el| {
        let start = Start::of(el);
        let (name, hides) = (start.name.clone(), start.hides);
        starts.borrow_mut().push(Step::Start(start));
        if let Some(handlers) = el.end_tag_handlers() {
            let ends = starts.clone();
            handlers.push(Box::new(move |_| {
                ends.borrow_mut().push(Step::End { name, hides });
                Ok(())
            }));
        }
        Ok(())
    });
    let texts = doc_text!(move |chunk| {
        if chunk.text_type() == TextType::Data {
            texts.borrow_mut().push(Step::Text(decode(chunk.as_str())));
        }
        Ok(())
    });
    let comments = doc_comments!(move |comment| {
        let text = comment.text();
        if matches!(vault.pieces(&text).as_slice(), [Piece::Tag { .. }]) {
            comments.borrow_mut().push(Step::Text(text));
        }
        Ok(())
    });
    let settings = RewriteStrSettings::new()
        .append_element_content_handler(elements)
        .append_document_content_handler(texts)
        .append_document_content_handler(comments);
    // The same document has just been read by the link rewriter; nothing new can be wrong with it.
    let _ = rewrite_str(html, settings);
    steps.take()
}

impl Start {
    fn of(el: &Element<'_, '_>) -> Self {
        let name = el.tag_name();
        let text = |attribute: &str| decode(&el.get_attribute(attribute).unwrap_or_default());
        Start {
            hides: hides(&name, el),
            has_content: el.can_have_content(),
            layout: name == "table" && text("role") == "presentation",
            class: text("class"),
            href: text("href"),
            alt: text("alt"),
            name,
        }
    }
}

/// What nobody sees in the HTML part is not read in the text part either.
fn hides(name: &str, el: &Element<'_, '_>) -> bool {
    let style = el.get_attribute("style").unwrap_or_default().replace(' ', "").to_ascii_lowercase();
    matches!(name, "head" | "script" | "style" | "title" | "template") || style.contains("display:none") || el.has_attribute("hidden")
}

impl Writer<'_> {
    fn start(&mut self, start: &Start) {
        let name = start.name.as_str();
        if start.hides && start.has_content {
            self.hidden += 1;
        }
        if self.hidden > 0 {
            return;
        }
        if let Some(empty_line) = block(name) {
            let nested_list = matches!(name, "ul" | "ol") && !self.lists.is_empty();
            let arranges = start.layout && start.class != "button";
            self.end_line(empty_line && !nested_list && !arranges);
        }
        match name {
            "br" => self.line_ends = (self.line_ends + 1).min(2),
            "hr" => {
                self.flush();
                self.out.push_str("--------");
                self.end_line(true);
            }
            "img" => self.text(&start.alt),
            "a" => {
                self.flush();
                self.links.push((start.href.clone(), self.out.len()));
            }
            "ul" => self.lists.push(List::Bullets),
            "ol" => self.lists.push(List::Numbers(0)),
            "li" => self.item(),
            "blockquote" => self.prefix.push("> "),
            "pre" => self.preformatted += 1,
            "table" => self.tables.push((!start.layout, 0)),
            "tr" => {
                if let Some(table) = self.tables.last_mut() {
                    table.1 = 0;
                }
            }
            "td" | "th" => self.cell(),
            _ => {}
        }
    }

    fn item(&mut self) {
        self.flush();
        match self.lists.last_mut() {
            Some(List::Numbers(number)) => {
                *number += 1;
                let mark = format!("{number}. ");
                self.out.push_str(&mark);
            }
            _ => self.out.push_str("- "),
        }
        self.prefix.push("  ");
    }

    fn cell(&mut self) {
        let Some((data, cells)) = self.tables.last_mut() else { return };
        *cells += 1;
        let (data, first) = (*data, *cells == 1);
        if !data {
            self.end_line(false);
        } else if !first {
            self.blank = false;
            self.out.push_str(" | ");
        }
    }

    fn end(&mut self, name: &str, hides: bool) {
        if hides {
            self.hidden = self.hidden.saturating_sub(1);
            return;
        }
        if self.hidden > 0 {
            return;
        }
        match name {
            "a" => self.end_link(),
            "ul" | "ol" => {
                self.lists.pop();
            }
            "li" => {
                self.prefix.pop();
            }
            "blockquote" => {
                self.prefix.pop();
            }
            "pre" => self.preformatted = self.preformatted.saturating_sub(1),
            "table" => {
                let data = self.tables.pop().is_some_and(|(data, _)| data);
                self.end_line(data);
                return;
            }
            _ => {}
        }
        if let Some(empty_line) = block(name) {
            let nested_list = matches!(name, "ul" | "ol") && !self.lists.is_empty();
            self.end_line(empty_line && !nested_list);
        }
    }

    /// `Read on (https://..)`; an address that is its own text stands alone.
    fn end_link(&mut self) {
        let Some((href, start)) = self.links.pop() else { return };
        let target = href.strip_prefix("mailto:").or_else(|| href.strip_prefix("tel:")).unwrap_or(&href);
        let text = self.out.get(start..).unwrap_or_default().trim().to_owned();
        if href.is_empty() || href.starts_with('#') || text == target {
            return;
        }
        if text.is_empty() {
            // A picture without words: its address alone would tell nobody anything.
            return;
        }
        self.out.push_str(" (");
        self.out.push_str(target);
        self.out.push(')');
    }

    fn text(&mut self, text: &str) {
        if self.hidden > 0 {
            return;
        }
        for piece in self.vault.pieces(text) {
            match piece {
                Piece::Tag { index, .. } if self.vault.item(index).kind == Kind::Block => self.block_tag(index),
                Piece::Tag { index, .. } => {
                    self.flush();
                    self.out.push_str(&self.vault.word(index));
                }
                Piece::Text(text) if self.preformatted > 0 => self.preformatted_text(text),
                Piece::Text(text) => self.words(text),
            }
        }
    }

    /// Blocks are written at once: the line ends before their content belong inside, so that
    /// nothing is left where the content is.
    fn block_tag(&mut self, index: usize) {
        let between_lines = !self.lists.is_empty() || self.tables.last().is_some_and(|(data, _)| *data);
        if between_lines && self.line_ends == 2 {
            self.out.push('\n');
            self.line_ends = 1;
        }
        self.out.push_str(&self.vault.word(index));
    }

    fn words(&mut self, text: &str) {
        for (number, word) in text.split(char::is_whitespace).enumerate() {
            if number > 0 {
                self.blank = true;
            }
            let word: String = word.chars().filter(|c| !matches!(c, '\u{200b}' | '\u{200c}' | '\u{34f}' | '\u{feff}' | '\u{ad}')).collect();
            if !word.is_empty() {
                self.flush();
                self.out.push_str(&word);
            }
        }
    }

    fn preformatted_text(&mut self, text: &str) {
        for (number, line) in text.split('\n').enumerate() {
            if number > 0 {
                self.line_ends = (self.line_ends + 1).min(2);
            }
            if !line.is_empty() {
                self.flush();
                self.out.push_str(line);
            }
        }
    }

    fn end_line(&mut self, empty_line: bool) {
        self.line_ends = self.line_ends.max(if empty_line { 2 } else { 1 });
        self.blank = false;
    }

    /// Writes what stands before the next text: line ends and the prefix, or a blank.
    fn flush(&mut self) {
        if self.line_ends > 0 {
            self.blank = false;
            for _ in 0..self.line_ends {
                self.out.push('\n');
            }
            self.line_ends = 0;
            for prefix in &self.prefix {
                self.out.push_str(prefix);
            }
        }
        self.flush_blank();
    }

    fn flush_blank(&mut self) {
        if std::mem::take(&mut self.blank) && self.line_ends == 0 && !self.out.ends_with([' ', '\n']) && !self.out.is_empty() {
            self.out.push(' ');
        }
    }
}
