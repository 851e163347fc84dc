//! The checker's part for fields: attributes and what every contact has, scores, properties of events, and the
//! values they are compared with.

use unicode_normalization::UnicodeNormalization;

use super::ast::{Expr, ExprKind, Literal, LiteralKind, Name, Op, Period, Stretch, Unit, quote};
use super::check::{Checker, HISTORY_SIZE, suggest};
use super::reference::{self, SCORES};
use super::regions;
use super::rule::{Field, Home, Leaf, Moment, Node, Value};
use crate::config::AttributeType;
use crate::config::diagnostics::did_you_mean;
use crate::contact::{BUILT_IN_FIELDS, Date, Schema};

/// Longest stretch of days around today: a year has no more.
pub(super) const MAX_STRETCH_DAYS: i64 = 366;

impl Checker<'_> {
    /// A condition that starts with a name.
    pub(super) fn on_field(&mut self, expr: &Expr, name: &Name) -> Option<Node> {
        if self.event.is_none()
            && let Some(response) = name.text.strip_prefix("engagement.")
        {
            return self.on_response(expr, name, response);
        }
        let field = self.field(name)?;
        if field.home == Home::Score && !self.grow(HISTORY_SIZE - 1, &expr.span) {
            return None;
        }
        let leaf = match &expr.kind {
            ExprKind::Field(_) => self.flag(field, name),
            ExprKind::Compare(_, op, value) => self.compare(field, name, *op, value),
            ExprKind::In(_, values) => self.one_of(field, name, values),
            ExprKind::Contains(_, value) => self.contains(field, name, value),
            ExprKind::Recurs(_, stretch) => self.recurs(field, name, *stretch, expr),
            _ => Some(Leaf::IsSet(field)),
        };
        Some(self.leaf(leaf?, expr.to_string()))
    }

    pub(super) fn field_named(&self, name: &str) -> Option<Field> {
        let field = |column: String, kind, built_in, home| Field { name: name.to_owned(), column, kind, built_in, home };
        if let Some(event) = &self.event {
            let kind = *event.properties.get(name)?;
            return event.column(name).map(|column| field(column, kind, false, Home::Event));
        }
        if BUILT_IN_FIELDS.contains(&name) {
            let column = if name == "email" { "email_key" } else { name };
            return Some(field(column.to_owned(), AttributeType::Text, true, Home::Contact));
        }
        // An attribute that was declared before there was a score of its name stays what it was.
        if let Some(kind) = self.catalog.schema.attribute(name) {
            return Some(field(Schema::column(name, kind), kind, false, Home::Contact));
        }
        let score = SCORES.iter().find(|score| score.name == name)?;
        Some(field(name.replace('.', "_"), score.kind, false, Home::Score))
    }

    fn field(&mut self, name: &Name) -> Option<Field> {
        let found = self.field_named(&name.text);
        if found.is_none() {
            match self.event.clone() {
                Some(event) => {
                    let (message, hint) = self.unknown_property(&event.name, event.properties.keys(), &name.text);
                    self.error(&name.span, message, hint);
                }
                None => self.unknown_field(name),
            }
        }
        found
    }

    fn unknown_property<'n>(&self, event: &str, properties: impl Iterator<Item = &'n String> + Clone, name: &str) -> (String, String) {
        let message = format!("`{event}` has no property `{name}`");
        let of_person = BUILT_IN_FIELDS.contains(&name) || self.catalog.schema.attribute(name).is_some();
        if of_person && did_you_mean(name, properties.clone().map(String::as_str)).is_none() {
            let hint = format!("it is the person's: ask for it outside, as in `did({}) and {name} is set`", quote(event));
            return (message, hint);
        }
        let otherwise = format!("declare it under `[{event}.properties]` in `events.toml`");
        (message, suggest(name, properties, "properties", &otherwise))
    }

    fn unknown_field(&mut self, name: &Name) {
        let text = name.text.as_str();
        let lower = text.to_lowercase();
        if let Some(function) = reference::function(&lower) {
            let hint = match function.call {
                reference::Call::Engagement => {
                    "write `engagement.stage = 'dormant'`, or for one topic ".to_owned() + &self.example(function)
                }
                _ => format!("write `{}`", self.example(function)),
            };
            return self.error(&name.span, format!("`{text}` needs parentheses"), hint);
        }
        let message = format!("no attribute is called `{text}`");
        if self.catalog.segments.contains_key(text) {
            let hint = format!("the segment of that name is `segment({})`", quote(text));
            return self.error(&name.span, message, hint);
        }
        if let Some((before, last)) = text.rsplit_once('.')
            && ["contact", "attribute", "attributes", "person", "profile", "user", "field", "c"].contains(&before.to_lowercase().as_str())
            && self.field_named(last).is_some()
        {
            return self.error(&name.span, message, format!("write `{last}`"));
        }
        let names: Vec<String> =
            self.catalog.schema.attributes().map(|(name, _)| name).chain(BUILT_IN_FIELDS.iter().copied()).map(str::to_owned).collect();
        let scores = SCORES.iter().map(|score| score.name);
        let segments = self.catalog.segments.keys().map(String::as_str);
        let hint = if did_you_mean(text, names.iter().map(String::as_str)).is_some() {
            suggest(text, names.iter(), "attributes", "")
        } else if let Some(score) = did_you_mean(text, scores.clone()) {
            format!("did you mean `{score}`?")
        } else if let Some(segment) = did_you_mean(text, segments) {
            format!("did you mean `segment({})`?", quote(segment))
        } else if text.contains('.') {
            format!(
                "names with a dot are `{}` and `engagement.stage`",
                scores.filter(|name| name.contains('.')).collect::<Vec<_>>().join("`, `")
            )
        } else {
            suggest(text, names.iter(), "attributes", "declare it under `[attributes]` in `optin.toml`")
        };
        self.error(&name.span, message, hint);
    }

    fn flag(&mut self, field: Field, name: &Name) -> Option<Leaf> {
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

    fn compare(&mut self, field: Field, name: &Name, op: Op, literal: &Literal) -> Option<Leaf> {
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
        if let LiteralKind::Region(_) = literal.kind {
            let not = if op == Op::NotEqual { "not " } else { "" };
            self.error(&literal.span, format!("`{literal}` is many countries"), format!("write `{name} {not}in {literal}`"));
            return None;
        }
        let value = self.value(&field, literal)?;
        Some(Leaf::Compare(field, op, value))
    }

    fn one_of(&mut self, field: Field, name: &Name, literals: &[Literal]) -> Option<Leaf> {
        if matches!(field.kind, AttributeType::List | AttributeType::Boolean) {
            let hint = match (field.kind, literals.first()) {
                (AttributeType::List, Some(Literal { kind: LiteralKind::Region(_), .. })) => {
                    format!("a list holds whole values: write `{name} contains '..'`")
                }
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
        let mut values = Vec::new();
        let mut readable = true;
        for literal in literals {
            let found = match &literal.kind {
                LiteralKind::Region(region) => self.countries(&field, literal, region),
                _ => self.value(&field, literal).map(|value| vec![value]),
            };
            readable &= found.is_some();
            values.extend(found.unwrap_or_default());
        }
        // An empty list was reported by the parser.
        (readable && !values.is_empty()).then_some(Leaf::OneOf(field, values))
    }

    /// The countries of a region.
    fn countries(&mut self, field: &Field, literal: &Literal, region: &str) -> Option<Vec<Value>> {
        if field.kind != AttributeType::Text || (field.built_in && field.name == "email") {
            let hint = match &self.catalog.country {
                Some(country) => format!("write `{country} in {literal}`"),
                None => "ask it of a text attribute that holds countries as two letters (ISO 3166)".to_owned(),
            };
            self.error(&literal.span, format!("`{}` is no country", field.name), hint);
            return None;
        }
        let Some(countries) = regions::countries(region) else {
            let hint = match did_you_mean(region, regions::names()) {
                Some(meant) => format!("did you mean `region({})`?", quote(meant)),
                None => format!("regions are `{}`", regions::names().collect::<Vec<_>>().join("`, `")),
            };
            self.error(&literal.span, format!("no region is called `{region}`"), hint);
            return None;
        };
        self.grow(countries.len(), &literal.span).then(|| countries.iter().map(|country| Value::Text(country.clone())).collect())
    }

    fn contains(&mut self, field: Field, name: &Name, literal: &Literal) -> Option<Leaf> {
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
            LiteralKind::Region(_) => {
                self.error(
                    &literal.span,
                    format!("`{literal}` is many countries"),
                    format!("write `country in {literal}`, for an attribute that is a text"),
                );
                return None;
            }
            _ => {
                self.error(&literal.span, format!("expected a text, found `{literal}`"), format!("write `{name} contains '{literal}'`"));
                return None;
            }
        };
        let text = if field.built_in && field.name == "email" { address_part(text) } else { text.clone() };
        Some(Leaf::Contains(field, text))
    }

    /// A day or an anniversary of it, around today.
    fn recurs(&mut self, field: Field, name: &Name, stretch: Stretch, expr: &Expr) -> Option<Leaf> {
        if field.kind != AttributeType::Date {
            let hint = match field.kind {
                AttributeType::Number => format!("write `{name} >= 1 and {name} <= 7`"),
                _ => format!("days around today are for dates; write `{name} is set`, or declare it as `date`"),
            };
            self.error(&name.span, format!("`{name}` is {}, not a date", kind_name(field.kind)), hint);
            return None;
        }
        let days = |period: Period| period.amount * if period.unit == Unit::Week { 7 } else { 1 };
        let (from, until) = match stretch {
            Stretch::Today => (0, 0),
            Stretch::Next(period) => (0, days(period) - 1),
            Stretch::Last(period) => (1 - days(period), 0),
        };
        let count = until - from + 1;
        if !(1..=MAX_STRETCH_DAYS).contains(&count) {
            let word = if matches!(stretch, Stretch::Last(_)) { "last" } else { "next" };
            let most = if count < 1 { 7 } else { MAX_STRETCH_DAYS };
            let span = name.span.end..expr.span.end;
            let message = format!("a stretch of days is from 1 to {MAX_STRETCH_DAYS}: anniversaries come back each year");
            let hint = format!("write `in {word} {most} days`; without anniversaries compare: `{name} >= today - 500d`");
            self.error(&span, message, hint);
            return None;
        }
        if self.event.is_some() {
            let hint = match stretch {
                Stretch::Today => format!("write `{name} = today`"),
                Stretch::Next(_) => format!("write `{name} >= today and {name} < today + {count}d`"),
                Stretch::Last(_) => format!("write `{name} > today - {count}d and {name} <= today`"),
            };
            self.error(&expr.span, "anniversaries are for people's dates, not for those of events", hint);
            return None;
        }
        if !self.grow(HISTORY_SIZE - 1, &expr.span) {
            return None;
        }
        // Both are within a year.
        Some(Leaf::Recurs { field, from: from as i32, until: until as i32 })
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
            (AttributeType::Date, _) => return self.day(name, literal).map(Value::Date),
            (AttributeType::Text, _) => format!("write a text: `'{literal}'`"),
            (AttributeType::Number, LiteralKind::Text(text)) if text.trim().parse::<f64>().is_ok_and(f64::is_finite) => {
                format!("write the number without quotes: `{}`", text.trim())
            }
            (AttributeType::Number, _) => "write a number: `30` or `1.5`".to_owned(),
            (AttributeType::Boolean, LiteralKind::Text(text)) if ["true", "yes", "1"].contains(&text.to_lowercase().as_str()) => {
                format!("write `{name}`")
            }
            (AttributeType::Boolean, _) => format!("write `{name}` or `not {name}`"),
            (AttributeType::List, _) => format!("write `{name} contains '..'`"),
        };
        self.error(&literal.span, format!("`{name}` is {}, `{literal}` is {}", kind_name(field.kind), literal_name(&literal.kind)), hint);
        None
    }

    /// The literal as a day of the calendar; `name` is what it is compared with.
    pub(super) fn day(&mut self, name: &str, literal: &Literal) -> Option<Moment> {
        let hint = match &literal.kind {
            LiteralKind::Unreadable => return None,
            LiteralKind::Text(text) => return self.date(literal, text),
            LiteralKind::Today(period) => return self.today(literal, *period),
            LiteralKind::Duration(Period { amount, unit: Unit::Hour }) => format!("write a day: `today - {}d`", (amount / 24).max(1)),
            LiteralKind::Duration(period) => format!("write a day: `today - {period}`"),
            _ => "write a day: `'2026-12-01'` or `today - 30d`".to_owned(),
        };
        self.error(&literal.span, format!("`{name}` is a date, `{literal}` is {}", literal_name(&literal.kind)), hint);
        None
    }

    fn date(&mut self, literal: &Literal, text: &str) -> Option<Moment> {
        let parsed = Date::parse(text);
        if let Some(date) = parsed.filter(|date| date.to_string() == text) {
            return Some(Moment::Fixed(date));
        }
        let hint = match (parsed, text.to_lowercase().as_str()) {
            (_, "today") => "write `today` without quotes".to_owned(),
            (Some(date), _) => format!("write `'{date}'`"),
            (None, _) => "write year, month and day: `'2026-12-01'`".to_owned(),
        };
        self.error(&literal.span, format!("`{literal}` is no date"), hint);
        None
    }

    fn today(&mut self, literal: &Literal, period: Period) -> Option<Moment> {
        if period.unit == Unit::Hour {
            let days = (period.amount.abs() / 24).max(1);
            let sign = if period.amount < 0 { '-' } else { '+' };
            self.error(&literal.span, "a date has no hours", format!("write whole days: `today {sign} {days}d`"));
            return None;
        }
        Some(Moment::Today(period))
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
        LiteralKind::Region(_) => "a region",
        LiteralKind::Unreadable => "unreadable",
    }
}
