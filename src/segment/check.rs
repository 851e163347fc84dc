//! Holds an expression against what is declared and makes a [`Rule`] of it. Every mistake is told,
//! with its place and what to write instead.

use std::ops::Range;

use super::ast::{Expr, ExprKind};
use super::parse::parse_all;
use super::rule::{Leaf, Node, Rule};
use super::{Catalog, MAX_DEPTH, MAX_ERRORS, MAX_SIZE, SegmentError};
use crate::behaviour::EventSchema;
use crate::config::diagnostics::did_you_mean;

/// What a question to another table than that of contacts counts towards [`MAX_SIZE`]: each one is a
/// sub-query with several values.
pub(super) const HISTORY_SIZE: usize = 8;
/// Names shown when nothing resembles what was written.
const NAMES_SHOWN: usize = 8;

/// Checks names and types and puts segments in. All mistakes at once, in the order of the source.
pub fn check(expr: &Expr, catalog: &Catalog) -> Result<Rule, Vec<SegmentError>> {
    let mut checker = Checker::new(catalog);
    let root = checker.node(expr, 0);
    checker.finish(root)
}

/// Reads and checks a rule: of a campaign's `audience`, of `segments.toml` or of the command line.
///
/// A text that is nothing but the name of a segment means that segment, also where an attribute has
/// the same name; inside a longer rule a segment is always `segment('name')`.
pub fn rule(source: &str, catalog: &Catalog) -> Result<Rule, Vec<SegmentError>> {
    let mut checker = Checker::new(catalog);
    let root = checker.source(source, 0);
    checker.finish(root)
}

pub(super) struct Checker<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) errors: Vec<SegmentError>,
    /// Segments around this place, outermost first.
    stack: Vec<String>,
    /// The event whose properties are spoken of: between the parentheses of a `where:`.
    pub(super) event: Option<EventSchema>,
    /// Conditions and values so far.
    size: usize,
}

impl<'a> Checker<'a> {
    fn new(catalog: &'a Catalog) -> Self {
        Checker { catalog, errors: Vec::new(), stack: Vec::new(), event: None, size: 0 }
    }

    fn finish(mut self, root: Option<Node>) -> Result<Rule, Vec<SegmentError>> {
        match root {
            Some(root) if self.errors.is_empty() => Ok(Rule { root }),
            _ => {
                self.errors.sort_by_key(|error| (error.span.start, error.span.end));
                self.errors.dedup();
                self.errors.truncate(MAX_ERRORS);
                Err(self.errors)
            }
        }
    }

    pub(super) fn error(&mut self, span: &Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(SegmentError::new(span.clone(), message, hint));
    }

    /// A whole text: a bare segment name or an expression.
    fn source(&mut self, source: &str, depth: usize) -> Option<Node> {
        let name = source.trim();
        // A segment `vip` whose rule is the attribute `vip` is no circle.
        let own_attribute = self.stack.last().is_some_and(|around| around == name) && self.field_named(name).is_some();
        if self.catalog.segments.contains_key(name) && !own_attribute {
            let start = source.len() - source.trim_start().len();
            return self.segment(name, &(start..start + name.len()), depth);
        }
        let (expr, errors) = parse_all(source);
        if !errors.is_empty() && !name.is_empty() && is_dashed_name(name) {
            let hint = suggest(name, self.catalog.segments.keys(), "segments", "add it to `segments.toml`");
            self.error(&(0..source.len()), format!("no segment is called `{name}`"), hint);
            return None;
        }
        self.errors.extend(errors);
        self.node(&expr, depth)
    }

    /// `None` where something is wrong (and told).
    pub(super) fn node(&mut self, expr: &Expr, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            self.error(&expr.span, format!("this rule is nested more than {MAX_DEPTH} deep"), "simplify it, or the segments it uses");
            return None;
        }
        if !self.grow(1, &expr.span) {
            return None;
        }
        match &expr.kind {
            ExprKind::And(terms) => self.nodes(terms, depth).map(Node::All),
            ExprKind::Or(terms) => self.nodes(terms, depth).map(Node::Any),
            ExprKind::Not(inner) => self.node(inner, depth + 1).map(Node::negated),
            ExprKind::Unreadable => None,
            ExprKind::Call(name, arguments) => self.call(expr, name, arguments, depth),
            ExprKind::Field(name)
            | ExprKind::Compare(name, ..)
            | ExprKind::In(name, _)
            | ExprKind::Contains(name, _)
            | ExprKind::IsSet(name)
            | ExprKind::Recurs(name, _) => self.on_field(expr, name),
        }
    }

    /// A condition as part of a rule; `text` is its canonical form.
    pub(super) fn leaf(&self, leaf: Leaf, text: String) -> Node {
        Node::Leaf { leaf, negated: false, text, within: self.stack.last().cloned() }
    }

    fn nodes(&mut self, terms: &[Expr], depth: usize) -> Option<Vec<Node>> {
        let nodes: Vec<Option<Node>> = terms.iter().map(|term| self.node(term, depth + 1)).collect();
        nodes.into_iter().collect()
    }

    pub(super) fn grow(&mut self, count: usize, span: &Range<usize>) -> bool {
        let fitted = self.size <= MAX_SIZE;
        self.size += count;
        if fitted && self.size > MAX_SIZE {
            let message = format!("this rule has more than {MAX_SIZE} conditions and values, with those of its segments");
            self.error(span, message, "mark the people with an attribute (by an import) and ask for that");
        }
        self.size <= MAX_SIZE
    }

    // Segments ---------------------------------------------------------------------------------

    pub(super) fn segment(&mut self, name: &str, span: &Range<usize>, depth: usize) -> Option<Node> {
        let Some(source) = self.catalog.segments.get(name) else {
            let hint = suggest(name, self.catalog.segments.keys(), "segments", "add it to `segments.toml`");
            self.error(span, format!("no segment is called `{name}`"), hint);
            return None;
        };
        if let Some(start) = self.stack.iter().position(|around| around == name) {
            let path: Vec<&str> = self.stack[start..].iter().map(String::as_str).chain([name]).collect();
            let message = format!("segments go in a circle: `{}`", path.join("` -> `"));
            self.error(span, message, "take one of these steps out");
            return None;
        }
        let outside = std::mem::take(&mut self.errors);
        self.stack.push(name.to_owned());
        let node = self.source(source, depth + 1);
        self.stack.pop();
        let inside = std::mem::replace(&mut self.errors, outside);
        if let Some(first) = inside.first() {
            // A circle or a size is a matter of the whole; anything else belongs to that segment.
            let whole = first.message.starts_with("segments go in a circle") || first.message.starts_with("this rule");
            let message = if whole { first.message.clone() } else { format!("segment `{name}` has a mistake: {}", first.message) };
            self.error(span, message, first.hint.clone());
            return None;
        }
        node
    }
}

/// A name that only a segment can have: the parser would read its `-` as a sign.
pub(super) fn is_dashed_name(text: &str) -> bool {
    text.contains('-') && text.starts_with(char::is_alphabetic) && text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

/// "did you mean", or what there is.
pub(super) fn suggest<'n>(word: &str, names: impl Iterator<Item = &'n String> + Clone, plural: &str, otherwise: &str) -> String {
    if let Some(meant) = did_you_mean(word, names.clone().map(String::as_str)) {
        return format!("did you mean `{meant}`?");
    }
    let shown: Vec<String> = names.clone().take(NAMES_SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.count().saturating_sub(shown.len());
    match (shown.len(), more) {
        (0, _) => format!("there are no {plural} yet; {otherwise}"),
        (_, 0) => format!("{plural} are {}; {otherwise}", shown.join(", ")),
        _ => format!("{plural} are {} and {more} more; {otherwise}", shown.join(", ")),
    }
}
