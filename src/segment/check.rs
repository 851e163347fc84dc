//! Holds an expression against what is declared and makes a [`Rule`] of it. Every mistake is told,
//! with its place and what to write instead.

use std::ops::Range;

use unicode_normalization::UnicodeNormalization;

use super::arguments;
use super::ast::{Argument, Expr, ExprKind, Literal, LiteralKind, Name, Op, Period, Unit};
use super::parse::parse_all;
use super::rule::{Field, Leaf, Moment, Node, Rule, Value};
use super::{Catalog, MAX_DEPTH, MAX_ERRORS, MAX_SIZE, SegmentError};
use crate::config::AttributeType;
use crate::config::diagnostics::did_you_mean;
use crate::contact::{BUILT_IN_FIELDS, Date};

/// What a call counts towards [`MAX_SIZE`]: each one is a sub-query with up to four values.
const HISTORY_SIZE: usize = 8;
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
    /// Conditions and values so far.
    size: usize,
}

impl<'a> Checker<'a> {
    fn new(catalog: &'a Catalog) -> Self {
        Checker { catalog, errors: Vec::new(), stack: Vec::new(), size: 0 }
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
    fn node(&mut self, expr: &Expr, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            self.error(&expr.span, format!("this rule is nested more than {MAX_DEPTH} deep"), "simplify it, or the segments it uses");
            return None;
        }
        if !self.grow(1, &expr.span) {
            return None;
        }
        let leaf = match &expr.kind {
            ExprKind::And(terms) => return self.nodes(terms, depth).map(Node::All),
            ExprKind::Or(terms) => return self.nodes(terms, depth).map(Node::Any),
            ExprKind::Not(inner) => return self.node(inner, depth + 1).map(Node::negated),
            ExprKind::Unreadable => return None,
            ExprKind::Field(name) => self.flag(name),
            ExprKind::Compare(name, op, value) => self.compare(name, *op, value),
            ExprKind::In(name, values) => self.one_of(name, values),
            ExprKind::Contains(name, value) => self.contains(name, value),
            ExprKind::IsSet(name) => self.field(name).map(Leaf::IsSet),
            ExprKind::Call(name, arguments) if name.text == "segment" => {
                let segment = self.only_text(name, arguments, "a segment's name: `segment('regulars')`")?;
                let place = if let [Argument::Plain(literal)] = arguments.as_slice() { &literal.span } else { &expr.span };
                return self.segment(&segment, place, depth);
            }
            ExprKind::Call(name, arguments) => {
                if !self.grow(HISTORY_SIZE - 1, &expr.span) {
                    return None;
                }
                self.call(name, arguments)
            }
        };
        Some(Node::Leaf { leaf: leaf?, negated: false, text: expr.to_string(), within: self.stack.last().cloned() })
    }

    fn nodes(&mut self, terms: &[Expr], depth: usize) -> Option<Vec<Node>> {
        let nodes: Vec<Option<Node>> = terms.iter().map(|term| self.node(term, depth + 1)).collect();
        nodes.into_iter().collect()
    }

    fn grow(&mut self, count: usize, span: &Range<usize>) -> bool {
        let fitted = self.size <= MAX_SIZE;
        self.size += count;
        if fitted && self.size > MAX_SIZE {
            let message = format!("this rule has more than {MAX_SIZE} conditions and values, with those of its segments");
            self.error(span, message, "mark the people with an attribute (by an import) and ask for that");
        }
        self.size <= MAX_SIZE
    }

    // Segments ---------------------------------------------------------------------------------

    fn segment(&mut self, name: &str, span: &Range<usize>, depth: usize) -> Option<Node> {
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

    // Fields -----------------------------------------------------------------------------------

    fn field_named(&self, name: &str) -> Option<Field> {
        if BUILT_IN_FIELDS.contains(&name) {
            let column = if name == "email" { "email_key" } else { name };
            return Some(Field {
                name: name.to_owned(),
                column: column.to_owned(),
                kind: AttributeType::Text,
                built_in: true,
                home: super::rule::Home::Contact,
            });
        }
        let kind = self.catalog.schema.attribute(name)?;
        Some(Field {
            name: name.to_owned(),
            column: crate::contact::Schema::column(name, kind),
            kind,
            built_in: false,
            home: super::rule::Home::Contact,
        })
    }

    fn field(&mut self, name: &Name) -> Option<Field> {
        let found = self.field_named(&name.text);
        if found.is_none() {
            self.unknown_field(name);
        }
        found
    }

    fn unknown_field(&mut self, name: &Name) {
        let text = name.text.as_str();
        let lower = text.to_lowercase();
        if lower == "lifecycle" || lower.starts_with("rfm.") || lower.starts_with("value.") {
            let hint = "leave it out; attributes, subscriptions, sent, opened and clicked can be used";
            return self.error(
                &name.span,
                format!("`{text}` comes with insight (scores computed from orders), which is not available yet"),
                hint,
            );
        }
        if arguments::FUNCTIONS.contains(&lower.as_str()) {
            let hint = format!("write `{}`", arguments::example(&lower));
            return self.error(&name.span, format!("`{text}` needs parentheses"), hint);
        }
        if self.catalog.segments.contains_key(text) {
            let hint = format!("the segment of that name is `segment({})`", super::ast::quote(text));
            return self.error(&name.span, format!("no attribute is called `{text}`"), hint);
        }
        let names: Vec<String> =
            self.catalog.schema.attributes().map(|(name, _)| name).chain(BUILT_IN_FIELDS.iter().copied()).map(str::to_owned).collect();
        let segment = did_you_mean(text, self.catalog.segments.keys().map(String::as_str));
        let hint = match segment.filter(|_| did_you_mean(text, names.iter().map(String::as_str)).is_none()) {
            Some(segment) => format!("did you mean `segment('{segment}')`?"),
            None => suggest(text, names.iter(), "attributes", "declare it under `[attributes]` in `optin.toml`"),
        };
        self.error(&name.span, format!("no attribute is called `{text}`"), hint);
    }

    fn flag(&mut self, name: &Name) -> Option<Leaf> {
        let field = self.field(name)?;
        if field.kind == AttributeType::Boolean {
            return Some(Leaf::Compare(field, Op::Equal, Value::Boolean(true)));
        }
        let example = match field.kind {
            AttributeType::List => format!("`{name} contains '..'` or `{name} is set`"),
            AttributeType::Date => format!("`{name} < today - 1y` or `{name} is set`"),
            AttributeType::Number => format!("`{name} >= 1` or `{name} is set`"),
            _ => format!("`{name} = '..'` or `{name} is set`"),
        };
        self.error(&name.span, format!("`{name}` is {}, not yes or no", kind_name(field.kind)), format!("write {example}"));
        None
    }

    fn compare(&mut self, name: &Name, op: Op, literal: &Literal) -> Option<Leaf> {
        let field = self.field(name)?;
        if field.kind == AttributeType::List {
            let hint = format!("write `{name} contains {literal}`");
            self.error(&name.span, format!("`{name}` is a list and cannot be compared with `{}`", op.symbol()), hint);
            return None;
        }
        if field.kind == AttributeType::Boolean && !matches!(op, Op::Equal | Op::NotEqual) {
            let span = name.span.start.min(literal.span.start)..name.span.end.max(literal.span.end);
            self.error(&span, format!("`{name}` is yes or no and has no order"), format!("write `{name}` or `not {name}`"));
            return None;
        }
        let value = self.value(&field, literal)?;
        Some(Leaf::Compare(field, op, value))
    }

    fn one_of(&mut self, name: &Name, literals: &[Literal]) -> Option<Leaf> {
        let field = self.field(name)?;
        if matches!(field.kind, AttributeType::List | AttributeType::Boolean) {
            let hint = match (field.kind, literals.first()) {
                (AttributeType::List, Some(first)) => format!("write `({name} contains {first} or ..)`"),
                _ => format!("write `{name}` or `not {name}`"),
            };
            self.error(&name.span, format!("`{name}` is {} and cannot be looked up with `in`", kind_name(field.kind)), hint);
            return None;
        }
        let span = literals.first().map_or(name.span.clone(), |first| first.span.clone());
        if !self.grow(literals.len(), &span) {
            return None;
        }
        let values: Vec<Option<Value>> = literals.iter().map(|literal| self.value(&field, literal)).collect();
        // An empty list was reported by the parser.
        values.into_iter().collect::<Option<Vec<_>>>().filter(|values| !values.is_empty()).map(|values| Leaf::OneOf(field, values))
    }

    fn contains(&mut self, name: &Name, literal: &Literal) -> Option<Leaf> {
        let field = self.field(name)?;
        if !matches!(field.kind, AttributeType::Text | AttributeType::List) {
            let hint = format!("`contains` is for texts and lists; write `{name} = ..`");
            self.error(&name.span, format!("`{name}` is {} and contains nothing", kind_name(field.kind)), hint);
            return None;
        }
        let text = match &literal.kind {
            LiteralKind::Text(text) if !text.is_empty() => text,
            LiteralKind::Text(_) => {
                self.error(&literal.span, "everything contains the empty text", format!("write `{name} is set`"));
                return None;
            }
            LiteralKind::Unreadable => return None,
            _ => {
                self.error(&literal.span, format!("expected a text, found `{literal}`"), format!("write `{name} contains '{literal}'`"));
                return None;
            }
        };
        let text = if field.built_in && field.name == "email" { address_part(text) } else { text.clone() };
        Some(Leaf::Contains(field, text))
    }

    /// The literal as a value of the field's type.
    fn value(&mut self, field: &Field, literal: &Literal) -> Option<Value> {
        let name = &field.name;
        let hint = match (field.kind, &literal.kind) {
            (_, LiteralKind::Unreadable) => return None,
            (AttributeType::Text, LiteralKind::Text(text)) if text.is_empty() => {
                let hint = format!("write `{name} is not set` (or `{name} is set`)");
                self.error(&literal.span, "the empty text is no value", hint);
                return None;
            }
            (AttributeType::Text, LiteralKind::Text(text)) if field.built_in && name == "email" => {
                return Some(Value::Text(address_part(text)));
            }
            (AttributeType::Text, LiteralKind::Text(text)) => return Some(Value::Text(text.clone())),
            (AttributeType::Number, LiteralKind::Number(number)) => return Some(Value::Number(*number)),
            (AttributeType::Boolean, LiteralKind::Boolean(flag)) => return Some(Value::Boolean(*flag)),
            (AttributeType::Date, LiteralKind::Text(text)) => return self.date(literal, text),
            (AttributeType::Date, LiteralKind::Today(period)) => return self.today(literal, *period),
            (AttributeType::Text, _) => format!("write a text: `'{literal}'`"),
            (AttributeType::Number, LiteralKind::Text(text)) if text.trim().parse::<f64>().is_ok_and(f64::is_finite) => {
                format!("write the number without quotes: `{}`", text.trim())
            }
            (AttributeType::Number, _) => "write a number: `30` or `1.5`".to_owned(),
            (AttributeType::Boolean, LiteralKind::Text(text)) if ["true", "yes", "1"].contains(&text.to_lowercase().as_str()) => {
                format!("write `{name}`")
            }
            (AttributeType::Boolean, _) => format!("write `{name}` or `not {name}`"),
            (AttributeType::Date, LiteralKind::Duration(period)) => format!("write a day: `today - {period}`"),
            (AttributeType::Date | AttributeType::List, _) => "write a day: `'2026-12-01'` or `today - 30d`".to_owned(),
        };
        self.error(&literal.span, format!("`{name}` is {}, `{literal}` is {}", kind_name(field.kind), literal_name(&literal.kind)), hint);
        None
    }

    fn date(&mut self, literal: &Literal, text: &str) -> Option<Value> {
        let parsed = Date::parse(text);
        if let Some(date) = parsed.filter(|date| date.to_string() == text) {
            return Some(Value::Date(Moment::Fixed(date)));
        }
        let hint = match (parsed, text.to_lowercase().as_str()) {
            (_, "today") => "write `today` without quotes".to_owned(),
            (Some(date), _) => format!("write `'{date}'`"),
            (None, _) => "write year, month and day: `'2026-12-01'`".to_owned(),
        };
        self.error(&literal.span, format!("`{literal}` is no date"), hint);
        None
    }

    fn today(&mut self, literal: &Literal, period: Period) -> Option<Value> {
        if period.unit == Unit::Hour {
            let days = (period.amount.abs() / 24).max(1);
            let sign = if period.amount < 0 { '-' } else { '+' };
            self.error(&literal.span, "a date has no hours", format!("write whole days: `today {sign} {days}d`"));
            return None;
        }
        Some(Value::Date(Moment::Today(period)))
    }

    // Shared with the calls --------------------------------------------------------------------

    /// The one text between the parentheses of `subscribed('..')` and `segment('..')`.
    pub(super) fn only_text(&mut self, name: &Name, arguments: &[Argument], wanted: &str) -> Option<String> {
        match arguments {
            [Argument::Plain(Literal { kind: LiteralKind::Text(text), .. })] => Some(text.clone()),
            [Argument::Plain(Literal { kind: LiteralKind::Unreadable, .. })] => None,
            _ => {
                self.error(&name.span, format!("`{name}` takes one text"), format!("write {wanted}"));
                None
            }
        }
    }
}

/// A name that only a segment can have: the parser would read its `-` as a sign.
fn is_dashed_name(text: &str) -> bool {
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

/// An address, or a part of one, as addresses are compared: lower case, NFC, the domain in ASCII.
fn address_part(text: &str) -> String {
    let lower: String = text.to_lowercase().nfc().collect();
    match lower.rsplit_once('@') {
        Some((local, domain)) if !domain.is_ascii() => match idna::domain_to_ascii(domain) {
            Ok(ascii) => format!("{local}@{ascii}"),
            Err(_) => lower,
        },
        _ => lower,
    }
}

/// A type in words.
fn kind_name(kind: AttributeType) -> &'static str {
    match kind {
        AttributeType::Text => "a text",
        AttributeType::Number => "a number",
        AttributeType::Boolean => "yes or no",
        AttributeType::Date => "a date",
        AttributeType::List => "a list",
    }
}

/// The type of a value in words.
pub(super) fn literal_name(kind: &LiteralKind) -> &'static str {
    match kind {
        LiteralKind::Text(_) => "a text",
        LiteralKind::Number(_) => "a number",
        LiteralKind::Boolean(_) => "yes or no",
        LiteralKind::Duration(_) => "a duration",
        LiteralKind::Percent(_) => "a share",
        LiteralKind::Today(_) => "a date",
        LiteralKind::Unreadable => "unreadable",
    }
}
