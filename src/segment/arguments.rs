//! The checker's part for what stands between the parentheses of a call, read by the table in
//! [`super::reference`].

use super::MAX_AT_LEAST;
use super::ast::{Argument, Expr, Literal, LiteralKind, Name, Op, Period, quote};
use super::check::{Checker, suggest};
use super::fields::literal_name;
use super::reference::{Call, Function, Kind, Parameter};
use crate::config::diagnostics::did_you_mean;

/// What people write for what a call has under another name.
const ALIASES: &[(&str, &[&str])] = &[
    ("within", &["since", "last", "days", "period", "window", "in", "ago", "for", "during", "past"]),
    ("at_least", &["times", "count", "min", "minimum", "atleast", "number", "more", "frequency"]),
    ("campaign", &["mail", "run", "name", "message"]),
    ("topic", &["list", "newsletter", "subscription"]),
    ("link", &["url", "href", "address"]),
    ("any", &["machines", "machine", "bots", "bot", "all"]),
    ("where", &["with", "filter", "properties", "property", "when"]),
    ("product", &["item", "sku", "article", "product_id"]),
    ("category", &["kind", "group"]),
    ("count", &["orders", "number"]),
    ("sum", &["total", "amount", "revenue", "value", "spent"]),
    ("average", &["avg", "mean", "aov"]),
    ("seed", &["name", "salt", "draw"]),
    ("since", &["from", "date", "at"]),
];

/// What was given to a call.
#[derive(Default)]
pub(super) struct Given<'e> {
    /// What stands first, without a name: a text.
    pub first: Option<String>,
    /// The same: a share, in millionths.
    pub share: Option<u32>,
    pub campaign: Option<String>,
    pub topic: Option<String>,
    pub link: Option<String>,
    pub product: Option<String>,
    pub category: Option<String>,
    pub seed: Option<String>,
    pub within: Option<Period>,
    pub at_least: Option<u32>,
    pub any: bool,
    pub filter: Option<&'e Expr>,
    pub compared: Vec<Compared<'e>>,
}

/// `sum >= 100`
pub(super) struct Compared<'e> {
    pub parameter: &'static Parameter,
    pub op: Op,
    pub literal: &'e Literal,
}

impl Checker<'_> {
    /// Reads the arguments of a call; tells every mistake. What could be read is answered also where some is
    /// wrong (then there are errors).
    pub(super) fn given<'e>(&mut self, call: &Name, function: &'static Function, arguments: &'e [Argument]) -> Given<'e> {
        let mut given = Given::default();
        let mut seen: Vec<&str> = Vec::new();
        let (mut started, mut readable) = (false, true);
        for argument in arguments {
            match argument {
                Argument::Plain(Literal { kind: LiteralKind::Unreadable, .. }) => (started, readable) = (true, false),
                Argument::Plain(literal) if function.first.is_some() && !started => {
                    started = true;
                    self.first(&mut given, call, function, literal);
                }
                Argument::Plain(literal) => self.nameless(call, function, literal),
                Argument::Named(key, literal) => match function.named(&key.text) {
                    Some(parameter) if seen.contains(&parameter.name) => {
                        let hint = "keep one of them; for two join two conditions with `or`";
                        self.error(&key.span, format!("`{key}:` is given twice"), hint);
                    }
                    Some(parameter) => {
                        seen.push(parameter.name);
                        self.take(&mut given, parameter, literal);
                    }
                    None => {
                        started |= self.named_otherwise(call, function, key, literal);
                    }
                },
                Argument::Where(key, condition) if function.named("where").is_some() => {
                    if given.filter.is_some() {
                        self.error(&key.span, "`where:` is given twice", "join the conditions with `and`");
                    }
                    given.filter = Some(condition);
                }
                Argument::Where(key, _) => {
                    let hint = format!("only `did` takes `where:`; {}", takes(function));
                    self.error(&key.span, format!("`{call}` has no `where:`"), hint);
                }
                Argument::Condition(key, op, literal) => match function.compared(&key.text) {
                    Some(parameter) => given.compared.push(Compared { parameter, op: *op, literal }),
                    None => self.compared_otherwise(call, function, key, *op, literal),
                },
            }
        }
        if let Some(first) = function.first.as_ref().filter(|_| !started && readable) {
            let what = if function.call == Call::Segment { "the name of a segment".to_owned() } else { with_article(first.name) };
            self.error(&call.span, format!("`{call}` needs {what}"), format!("write `{}`", self.example(function)));
        }
        given
    }

    /// What stands first, without a name.
    fn first(&mut self, given: &mut Given<'_>, call: &Name, function: &'static Function, literal: &Literal) {
        let Some(first) = &function.first else { return };
        match (&literal.kind, first.kind) {
            (LiteralKind::Percent(millionths), Kind::Share) => given.share = Some(*millionths),
            (LiteralKind::Number(number), Kind::Share) => {
                let percent = if (0.0..1.0).contains(number) { (number * 1_000_000.0).round() / 10_000.0 } else { *number };
                let percent = if (0.0..=100.0).contains(&percent) { percent } else { 10.0 };
                self.error(&literal.span, "a share needs its percent sign", format!("write `random({percent}%)`"));
            }
            (LiteralKind::Text(text), Kind::Topic) => {
                self.known_topic(literal, text);
                given.first = Some(text.clone());
            }
            // Whether there is such a segment or event is looked at where it is used.
            (LiteralKind::Text(text), Kind::Segment | Kind::Event) => given.first = Some(text.clone()),
            (LiteralKind::Text(text), Kind::Text) if !text.is_empty() => given.first = Some(text.clone()),
            (kind, _) => {
                let found = if matches!(kind, LiteralKind::Text(text) if text.is_empty()) { "empty" } else { literal_name(kind) };
                let message = format!("`{call}` takes {} first, `{literal}` is {found}", with_article(first.name));
                self.error(&literal.span, message, format!("write `{}`", self.example(function)));
            }
        }
    }

    /// A value without a name where one is needed.
    fn nameless(&mut self, call: &Name, function: &'static Function, literal: &Literal) {
        let fits = |parameter: &&Parameter| match (&literal.kind, parameter.kind) {
            (LiteralKind::Text(text), Kind::Topic) => self.catalog.topics.contains(text) && !self.catalog.campaigns.contains(text),
            (LiteralKind::Text(text), Kind::Text) => parameter.name != "link" || text.contains("://"),
            (LiteralKind::Text(text), Kind::Campaign) => !text.contains("://"),
            (LiteralKind::Duration(_), Kind::Duration)
            | (LiteralKind::Number(_), Kind::Times)
            | (LiteralKind::Boolean(_), Kind::Boolean) => true,
            _ => false,
        };
        let better = function.named.iter().filter(fits).find(|parameter| parameter.kind == Kind::Topic);
        let meant = better.or_else(|| function.named.iter().find(fits));
        let hint = match (meant, &function.first) {
            (Some(parameter), None) => format!("write `{call}({}: {literal})`", parameter.name),
            (Some(parameter), Some(_)) => format!("write `{}: {literal}`", parameter.name),
            (None, Some(_)) if function.named.is_empty() && function.compared.is_empty() => format!("write `{}`", self.example(function)),
            (None, _) => takes(function),
        };
        let message = match &function.first {
            Some(first) => format!("`{call}` takes one {}, and other values by name", first.name),
            None => format!("`{call}` takes values by name"),
        };
        self.error(&literal.span, message, hint);
    }

    /// `sum: 100`, `topic: 'x'` where it stands without a name, or a name that the call does not have. Answers
    /// whether it was what stands first.
    fn named_otherwise(&mut self, call: &Name, function: &'static Function, key: &Name, literal: &Literal) -> bool {
        if let Some(first) = function.first.as_ref().filter(|first| first.name == key.text) {
            let hint = match literal.kind {
                LiteralKind::Text(_) | LiteralKind::Percent(_) => format!("write `{call}({literal})`"),
                _ => format!("write `{}`", self.example(function)),
            };
            self.error(&key.span, format!("`{call}` takes its {} without a name", first.name), hint);
            return true;
        }
        if let Some(parameter) = function.compared(&key.text) {
            let span = key.span.start..literal.span.end;
            let hint = format!("write `{}`", comparison(parameter, literal, function));
            self.error(&span, format!("`{key}` is compared"), hint);
            return false;
        }
        let hint = unknown_hint(function, &key.text);
        self.error(&key.span, format!("`{call}` has no `{key}:`"), hint);
        false
    }

    /// `campaign = 'x'`, or a comparison that the call does not have.
    fn compared_otherwise(&mut self, call: &Name, function: &'static Function, key: &Name, op: Op, literal: &Literal) {
        let span = key.span.start..literal.span.end;
        if function.named(&key.text).is_none() {
            let hint = unknown_hint(function, &key.text);
            let what = if function.compared.is_empty() { " to compare" } else { "" };
            return self.error(&key.span, format!("`{call}` has no `{key}`{what}"), hint);
        }
        let given = matches!(op, Op::Equal) || (matches!(op, Op::AtLeast) && key.text == "at_least");
        let hint = match (key.text.as_str(), op) {
            ("where", _) => "write `where: page = '/oolong'`, with a colon".to_owned(),
            _ if given => format!("write `{key}: {literal}`"),
            ("within", Op::Less | Op::AtMost) => format!("write `within: {literal}`"),
            ("at_least", Op::More) => match literal.kind {
                LiteralKind::Number(number) => format!("write `at_least: {}`", number.floor() + 1.0),
                _ => "write `at_least: 2`".to_owned(),
            },
            ("at_least", Op::Less | Op::AtMost) => format!("for less than so many write `not {call}(..)` with `at_least:`"),
            _ => takes(function),
        };
        self.error(&span, format!("`{key}:` is given, not compared"), hint);
    }

    /// Reads the value of an argument with a name.
    fn take(&mut self, given: &mut Given<'_>, parameter: &'static Parameter, literal: &Literal) {
        let name = parameter.name;
        match (parameter.kind, &literal.kind) {
            (_, LiteralKind::Unreadable) => {}
            (Kind::Campaign, LiteralKind::Text(campaign)) => {
                if !self.catalog.campaigns.contains(campaign) {
                    let hint = suggest(campaign, self.catalog.campaigns.iter(), "campaigns", "a campaign is a file in `campaigns/`");
                    self.error(&literal.span, format!("no campaign is called `{campaign}`"), hint);
                }
                given.campaign = Some(campaign.clone());
            }
            (Kind::Topic, LiteralKind::Text(topic)) => {
                self.known_topic(literal, topic);
                given.topic = Some(topic.clone());
            }
            (Kind::Text, LiteralKind::Text(text)) if !text.is_empty() || name == "seed" => {
                let place = match name {
                    "link" => &mut given.link,
                    "product" => &mut given.product,
                    "category" => &mut given.category,
                    _ => &mut given.seed,
                };
                *place = Some(text.clone());
            }
            (Kind::Duration, LiteralKind::Duration(period)) if period.amount == 0 => {
                self.error(&literal.span, "nothing happens within no time", "write at least `1h`");
            }
            (Kind::Duration, LiteralKind::Duration(period)) => given.within = Some(*period),
            (Kind::Times, LiteralKind::Number(number)) => given.at_least = self.times(literal, *number),
            (Kind::Boolean, LiteralKind::Boolean(flag)) => given.any = *flag,
            (_, kind) => {
                let (wanted, hint) = wanted(parameter, kind);
                let found = if matches!(kind, LiteralKind::Text(text) if text.is_empty()) { "empty" } else { literal_name(kind) };
                self.error(&literal.span, format!("`{name}:` is {wanted}, `{literal}` is {found}"), hint);
            }
        }
    }

    fn times(&mut self, literal: &Literal, number: f64) -> Option<u32> {
        if number.fract() != 0.0 || !(1.0..=f64::from(MAX_AT_LEAST)).contains(&number) {
            let hint = if number == 0.0 { "for those without any write `not` before the call" } else { "write `at_least: 2`" };
            self.error(&literal.span, format!("`at_least:` is a whole number from 1 to {MAX_AT_LEAST}"), hint);
            return None;
        }
        Some(number as u32)
    }

    pub(super) fn known_topic(&mut self, literal: &Literal, topic: &str) -> bool {
        let known = self.catalog.topics.contains(topic);
        if !known {
            let hint = suggest(topic, self.catalog.topics.iter(), "topics", "topics stand in `topics.toml`");
            self.error(&literal.span, format!("no topic is called `{topic}`"), hint);
        }
        known
    }

    /// A call as it may be written here: with names that are declared.
    pub(super) fn example(&self, function: &Function) -> String {
        let mut example = function.example.to_owned();
        let mut put = |written: &str, known: bool, first: Option<&String>| {
            if let Some(first) = first.filter(|_| !known) {
                example = example.replace(&quote(written), &quote(first));
            }
        };
        put("newsletter", self.catalog.topics.contains("newsletter"), self.catalog.topics.first());
        put("weekly", self.catalog.campaigns.contains("weekly"), self.catalog.campaigns.first());
        put("regulars", self.catalog.segments.contains_key("regulars"), self.catalog.segments.keys().next());
        let visit = self.catalog.events.get("visit").is_some_and(|event| event.properties.contains_key("page"));
        match self.catalog.events.keys().next().filter(|_| function.call == Call::Did && !visit) {
            Some(event) => format!("did({}, within: 14d)", quote(event)),
            None => example,
        }
    }
}

/// What belongs there, and how it is written.
fn wanted(parameter: &Parameter, found: &LiteralKind) -> (&'static str, String) {
    let name = parameter.name;
    match (parameter.kind, found) {
        (Kind::Duration, LiteralKind::Number(number)) => ("a duration", format!("write a unit behind it: `{name}: {number}d`")),
        (Kind::Duration, LiteralKind::Today(_)) => ("a duration", format!("write how long ago at most: `{name}: 30d`")),
        (Kind::Duration, _) => ("a duration", format!("write `{name}: 30d`, `12h`, `2w`, `6mo` or `1y`")),
        (Kind::Times, LiteralKind::Text(text)) if text.parse::<u32>().is_ok_and(|count| count > 0) => {
            ("a number", format!("write it without quotes: `{name}: {text}`"))
        }
        (Kind::Times, _) => ("a number", format!("write `{name}: 2`")),
        (Kind::Boolean, _) => ("yes or no", format!("write `{name}: true` to count opens and clicks by machines too")),
        (_, LiteralKind::Number(number)) => ("a text", format!("write `{name}: '{number}'`")),
        _ if name == "link" => ("a text", "write the address as in the mail: `link: 'https://..'`".to_owned()),
        _ => ("a text", format!("write `{name}: {}`", parameter.example)),
    }
}

/// A name that the call does not have: what may be meant, or what there is.
fn unknown_hint(function: &Function, name: &str) -> String {
    let names = function.named.iter().chain(function.compared).map(|parameter| parameter.name);
    let lower = name.to_lowercase();
    let alias = ALIASES.iter().find(|(meant, written)| written.contains(&lower.as_str()) && names.clone().any(|name| name == *meant));
    let meant = did_you_mean(&lower, names.clone()).or(alias.map(|(meant, _)| *meant));
    match meant {
        Some(meant) if function.named(meant).is_some() => format!("did you mean `{meant}:`?"),
        Some(meant) => match function.compared(meant) {
            Some(parameter) => format!("did you mean `{}`?", parameter.example),
            None => takes(function),
        },
        None if lower == "link" => format!("only `clicked` knows links; {}", takes(function)),
        None => takes(function),
    }
}

/// What there is between the parentheses.
fn takes(function: &Function) -> String {
    let list = |parameters: &[Parameter], colon: &str| {
        parameters.iter().map(|parameter| format!("`{}{colon}`", parameter.name)).collect::<Vec<_>>().join(", ")
    };
    match (function.named.is_empty(), function.compared.is_empty()) {
        (true, true) => format!("it takes nothing else: `{}`", function.example),
        (false, true) => format!("it takes {}", list(function.named, ":")),
        (true, false) => format!("it compares {}", list(function.compared, "")),
        (false, false) => format!("it takes {} and compares {}", list(function.named, ":"), list(function.compared, "")),
    }
}

/// How what was given by name is compared.
fn comparison(parameter: &Parameter, literal: &Literal, function: &Function) -> String {
    let name = parameter.name;
    match (parameter.kind, &literal.kind) {
        (Kind::Date, LiteralKind::Duration(period)) if function.named("within").is_some() && name == "since" => format!("within: {period}"),
        (Kind::Date, LiteralKind::Duration(period)) => format!("{name} >= today - {period}"),
        (Kind::Date, LiteralKind::Text(_) | LiteralKind::Today(_)) | (Kind::Amount | Kind::Count, LiteralKind::Number(_)) => {
            format!("{name} >= {literal}")
        }
        (Kind::Response(_), LiteralKind::Text(_) | LiteralKind::Number(_) | LiteralKind::Today(_)) => {
            let op = parameter.example.split(' ').nth(1).unwrap_or("=");
            format!("{name} {op} {literal}")
        }
        _ => parameter.example.to_owned(),
    }
}

pub(super) fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}
