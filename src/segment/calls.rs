//! The checker's part for calls: what each one asks.

use super::arguments::{Compared, Given};
use super::ast::{Argument, Expr, ExprKind, Literal, LiteralKind, Name, Op, quote};
use super::check::{Checker, HISTORY_SIZE, suggest};
use super::fields::literal_name;
use super::reference::{self, Call, FUNCTIONS, Function, Kind, Parameter};
use super::rule::{Engagement, Leaf, Moment, Node, Source, Together, Value};
use crate::behaviour::PARTS;
use crate::config::EngagementSettings;
use crate::config::diagnostics::did_you_mean;
use crate::consent::Standing;

/// Largest amount that sums are compared with, in units: in ten-thousandths, every whole number up to it is
/// exact as a double, in which rules are read.
const MAX_SUM: i64 = 100_000_000_000;
/// The same of averages, which are multiplied by a number of orders: that product fits 63 bits up to
/// 900,000 orders.
const MAX_AVERAGE: i64 = 1_000_000_000;
/// Largest number of orders to compare with.
const MAX_COUNT: i64 = 1_000_000;
/// Settings where no instance says others.
const USUAL: EngagementSettings = EngagementSettings { half_life_days: 30, cooling_days: 90, dormant_days: 180 };

impl Checker<'_> {
    /// A call; `None` where something is wrong (and told).
    pub(super) fn call(&mut self, expr: &Expr, name: &Name, arguments: &[Argument], depth: usize) -> Option<Node> {
        if let Some(event) = &self.event {
            let message = format!("`{name}(..)` cannot be asked of an event");
            let hint = format!("between `where:` stand properties; join calls outside: `did({}) and ..`", quote(&event.name));
            self.error(&name.span, message, hint);
            return None;
        }
        let Some(function) = reference::function(&name.text) else {
            self.unknown_call(name);
            return None;
        };
        if function.call == Call::Segment {
            let given = self.told_none(|checker| checker.given(name, function, arguments))?;
            let place = if let [Argument::Plain(literal)] = arguments { &literal.span } else { &expr.span };
            return self.segment(&given.first?, place, depth);
        }
        if !self.grow(HISTORY_SIZE - 1, &expr.span) {
            return None;
        }
        self.told_none(|checker| {
            let given = checker.given(name, function, arguments);
            match function.call {
                Call::Engagement => checker.engaged(name, function, given),
                call => {
                    let leaf = checker.asked(call, given, arguments, depth)?;
                    Some(checker.leaf(leaf, expr.to_string()))
                }
            }
        })?
    }

    /// What `read` answers, unless it told a mistake.
    fn told_none<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let told = self.errors.len();
        let answer = read(self);
        (self.errors.len() == told).then_some(answer)
    }

    fn asked(&mut self, call: Call, given: Given<'_>, arguments: &[Argument], depth: usize) -> Option<Leaf> {
        let source = Source { campaign: given.campaign.clone(), topic: given.topic.clone(), within: given.within };
        let at_least = given.at_least.unwrap_or(1);
        match call {
            Call::Standing(standing) => self.standing(standing, given),
            Call::Mail(what) => Some(Leaf::Mail { what, source, at_least }),
            Call::Hit(kind) => Some(Leaf::Hit { kind, source, link: given.link, any: given.any, at_least }),
            Call::Did => self.did(given, arguments, depth),
            Call::Ordered => {
                let together = given.compared.iter().map(|compared| self.together(compared)).collect::<Vec<_>>();
                let together = together.into_iter().collect::<Option<_>>()?;
                Some(Leaf::Ordered { within: given.within, product: given.product, category: given.category, at_least, together })
            }
            Call::Frozen => given.first.map(Leaf::Frozen),
            Call::Random => Some(Leaf::Random { millionths: given.share?, seed: given.seed.unwrap_or_default() }),
            Call::Segment | Call::Engagement => None,
        }
    }

    fn unknown_call(&mut self, name: &Name) {
        let lower = name.text.to_lowercase();
        let other = match lower.as_str() {
            "bought" | "purchased" | "purchase" | "order" | "orders" | "spent" => Some("ordered"),
            "event" | "visited" | "viewed" | "done" | "has" => Some("did"),
            "received" | "mailed" | "got" => Some("delivered"),
            "read" | "seen" => Some("opened"),
            "list" | "static" | "in_list" => Some("frozen"),
            "sample" | "rand" | "chance" => Some("random"),
            "consented" | "on_topic" | "optin" => Some("subscribed"),
            "left" | "optout" => Some("unsubscribed"),
            _ => None,
        };
        let meant = did_you_mean(&lower, FUNCTIONS.iter().map(|function| function.name)).or(other).and_then(reference::function);
        let all: Vec<&str> = FUNCTIONS.iter().map(|function| function.name).collect();
        let hint = match meant {
            Some(function) => format!("did you mean `{}`?", self.example(function)),
            None if self.catalog.segments.contains_key(&name.text) => format!("a segment is used by `segment('{name}')`"),
            None if lower == "region" => "write `country in region('EU')`, with an attribute of yours".to_owned(),
            None => format!("there are `{}(..)`", all.join("(..)`, `")),
        };
        self.error(&name.span, format!("nothing is called `{name}(..)`"), hint);
    }

    fn standing(&mut self, standing: Standing, given: Given<'_>) -> Option<Leaf> {
        let since: Vec<_> = given.compared.iter().map(|compared| Some((compared.op, self.day("since", compared.literal)?))).collect();
        let since: Vec<(Op, Moment)> = since.into_iter().collect::<Option<_>>()?;
        let topic = given.first?;
        if standing == Standing::Subscribed && since.is_empty() && given.within.is_none() {
            return Some(Leaf::Subscribed(topic));
        }
        Some(Leaf::Standing { topic, standing, since, within: given.within })
    }

    fn did(&mut self, given: Given<'_>, arguments: &[Argument], depth: usize) -> Option<Leaf> {
        let name = given.first?;
        let Some(event) = self.catalog.events.get(&name).cloned() else {
            let places = arguments.iter().filter_map(|argument| if let Argument::Plain(literal) = argument { Some(literal) } else { None });
            let span = places.map(|literal| literal.span.clone()).next().unwrap_or_default();
            let hint = suggest(&name, self.catalog.events.keys(), "events", "declare it in `events.toml`");
            self.error(&span, format!("no event is called `{name}`"), hint);
            return None;
        };
        let filter = match given.filter {
            None => None,
            Some(condition) => {
                self.event = Some(event.clone());
                let filter = self.node(condition, depth + 1);
                self.event = None;
                Some(Box::new(filter?))
            }
        };
        Some(Leaf::Did { event, filter, within: given.within, at_least: given.at_least.unwrap_or(1) })
    }

    // Orders -----------------------------------------------------------------------------------

    fn together(&mut self, compared: &Compared<'_>) -> Option<Together> {
        let Compared { parameter, op, literal } = *compared;
        let together = match (parameter.kind, parameter.name) {
            (Kind::Count, _) => Together::Count(op, self.orders(op, literal)?),
            (Kind::Amount, "sum") => Together::Sum(op, self.amount(parameter, literal, MAX_SUM)?),
            (Kind::Amount, _) => Together::Average(op, self.amount(parameter, literal, MAX_AVERAGE)?),
            (_, "first") => Together::First(op, self.day("first", literal)?),
            _ => Together::Last(op, self.day("last", literal)?),
        };
        Some(together)
    }

    /// A number of orders, which somebody with at least one of them can have.
    fn orders(&mut self, op: Op, literal: &Literal) -> Option<i64> {
        let LiteralKind::Number(number) = literal.kind else {
            if literal.kind != LiteralKind::Unreadable {
                let message = format!("`count` is a number, `{literal}` is {}", literal_name(&literal.kind));
                self.error(&literal.span, message, "write `count >= 2`");
            }
            return None;
        };
        if number.fract() != 0.0 || !(0.0..=MAX_COUNT as f64).contains(&number) {
            self.error(&literal.span, format!("`count` is a whole number from 0 to {MAX_COUNT}"), "write `count >= 2`");
            return None;
        }
        let none = (number == 0.0 && matches!(op, Op::Equal | Op::AtMost | Op::Less)) || (number == 1.0 && op == Op::Less);
        if none {
            self.error(&literal.span, "`ordered` speaks of those with an order at least", "for those without one write `not ordered()`");
            return None;
        }
        Some(number as i64)
    }

    /// Units of currency as ten-thousandths.
    fn amount(&mut self, parameter: &Parameter, literal: &Literal, most: i64) -> Option<i64> {
        let name = parameter.name;
        let hint = match &literal.kind {
            LiteralKind::Unreadable => return None,
            LiteralKind::Number(number) if (0.0..=most as f64).contains(number) => {
                // Both sides of the comparison are the double nearest to the same decimal, or they differ.
                let parts = (number * PARTS as f64).round();
                if parts / PARTS as f64 == *number {
                    return Some(parts as i64);
                }
                let hint = format!("write `{}`", parts / PARTS as f64);
                self.error(&literal.span, "an amount has at most four decimals", hint);
                return None;
            }
            LiteralKind::Number(_) => {
                let hint = format!("write `{}`", parameter.example);
                self.error(&literal.span, format!("`{name}` is compared with 0 to {most}"), hint);
                return None;
            }
            LiteralKind::Text(text) => {
                let digits: String = text.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
                let number = digits.parse::<f64>().is_ok_and(f64::is_finite);
                format!("write the number alone, in units of `[behaviour] currency`: `{}`", if number { digits.as_str() } else { "100" })
            }
            _ => format!("write `{}`", parameter.example),
        };
        self.error(&literal.span, format!("`{name}` is an amount, `{literal}` is {}", literal_name(&literal.kind)), hint);
        None
    }

    // Engagement -------------------------------------------------------------------------------

    /// `engagement('tea-letter', stage = 'cooling', score >= 2)`: all of them.
    fn engaged(&mut self, name: &Name, function: &Function, given: Given<'_>) -> Option<Node> {
        let topic = given.first?;
        if given.compared.is_empty() {
            self.error(&name.span, format!("`{name}` needs something to compare"), format!("write `{}`", self.example(function)));
            return None;
        }
        let mut nodes = Vec::new();
        for Compared { parameter, op, literal } in given.compared {
            let Kind::Response(what) = parameter.kind else { continue };
            let text = format!("{name}({}, {} {} {literal})", quote(&topic), parameter.name, op.symbol());
            let leaf = self.response(Some(topic.clone()), parameter.name, what, op, literal);
            nodes.push(leaf.map(|leaf| self.leaf(leaf, text)));
        }
        let mut nodes = nodes.into_iter().collect::<Option<Vec<_>>>()?;
        if nodes.len() == 1 { nodes.pop() } else { Some(Node::All(nodes)) }
    }

    /// `engagement.stage = 'dormant'`; `response` is what stands behind the dot.
    pub(super) fn on_response(&mut self, expr: &Expr, name: &Name, response: &str) -> Option<Node> {
        let Some(what) = reference::engagement(response) else {
            let names: Vec<String> = reference::responses().map(|parameter| format!("engagement.{}", parameter.name)).collect();
            let hint = match did_you_mean(&name.text, names.iter().map(String::as_str)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("there are `{}`", names.join("`, `")),
            };
            self.error(&name.span, format!("nothing is called `{name}`"), hint);
            return None;
        };
        if !self.grow(HISTORY_SIZE - 1, &expr.span) {
            return None;
        }
        let set = || {
            let (op, value) = match what {
                // Every stage is another than none.
                Engagement::Stage => (Op::NotEqual, Value::Text(String::new())),
                Engagement::Score | Engagement::BestHour | Engagement::BestWeekday => (Op::AtLeast, Value::Number(0.0)),
                Engagement::LastOpen | Engagement::LastClick => (Op::AtLeast, Value::Date(Moment::Fixed(FIRST_DAY.into()))),
            };
            Leaf::Engagement { topic: None, what, op, value, settings: self.settings() }
        };
        match &expr.kind {
            ExprKind::Compare(_, op, literal) => {
                let leaf = self.response(None, &name.text, what, *op, literal)?;
                Some(self.leaf(leaf, expr.to_string()))
            }
            ExprKind::IsSet(_) => Some(self.leaf(set(), expr.to_string())),
            ExprKind::In(_, literals) if what != Engagement::Score => self.response_in(name, what, literals),
            _ => {
                let example = reference::responses().find(|parameter| parameter.name == response).map_or("", |parameter| parameter.example);
                let hint = format!("write `engagement.{example}` or `{name} is set`");
                self.error(&expr.span, format!("`{name}` is compared with {}", kind_of(what)), hint);
                None
            }
        }
    }

    /// `engagement.best_hour in (9, 10)`: one of them.
    fn response_in(&mut self, name: &Name, what: Engagement, literals: &[Literal]) -> Option<Node> {
        let mut nodes = Vec::new();
        for literal in literals {
            if !self.grow(HISTORY_SIZE, &literal.span) {
                return None;
            }
            let leaf = self.response(None, &name.text, what, Op::Equal, literal);
            nodes.push(leaf.map(|leaf| self.leaf(leaf, format!("{name} = {literal}"))));
        }
        // An empty list was reported by the parser.
        nodes.into_iter().collect::<Option<Vec<_>>>().filter(|nodes| !nodes.is_empty()).map(Node::Any)
    }

    fn settings(&self) -> EngagementSettings {
        self.catalog.engagement.unwrap_or(USUAL)
    }

    fn response(&mut self, topic: Option<String>, name: &str, what: Engagement, op: Op, literal: &Literal) -> Option<Leaf> {
        let settings = self.settings();
        let value = match (what, &literal.kind) {
            (_, LiteralKind::Unreadable) => return None,
            (Engagement::LastOpen | Engagement::LastClick, _) => Value::Date(self.day(name, literal)?),
            (Engagement::Stage, LiteralKind::Text(stage)) => self.stage(name, op, literal, stage)?,
            (Engagement::Score, _) if matches!(op, Op::Equal | Op::NotEqual) => {
                let hint = format!("write `{name} >= {literal}`");
                self.error(&literal.span, "a score changes by the second: nobody's is a certain number", hint);
                return None;
            }
            (Engagement::Score, LiteralKind::Number(number)) if *number >= 0.0 => Value::Number(*number),
            (Engagement::BestHour, LiteralKind::Number(number)) if number.fract() == 0.0 && (0.0..24.0).contains(number) => {
                Value::Number(*number)
            }
            (Engagement::BestWeekday, LiteralKind::Number(number)) if number.fract() == 0.0 && (1.0..8.0).contains(number) => {
                Value::Number(*number)
            }
            _ => {
                let message = match &literal.kind {
                    LiteralKind::Number(_) => format!("`{name}` is {}, not {literal}", kind_of(what)),
                    kind => format!("`{name}` is {}, `{literal}` is {}", kind_of(what), literal_name(kind)),
                };
                self.error(&literal.span, message, response_hint(name, what, op, literal));
                return None;
            }
        };
        Some(Leaf::Engagement { topic, what, op, value, settings })
    }

    fn stage(&mut self, name: &str, op: Op, literal: &Literal, stage: &str) -> Option<Value> {
        if !matches!(op, Op::Equal | Op::NotEqual) {
            let hint = format!("write `{name} = {literal}` or `{name} != {literal}`");
            self.error(&literal.span, "stages have no order here", hint);
            return None;
        }
        if !reference::STAGES.contains(&stage) {
            let hint = match did_you_mean(stage, reference::STAGES.iter().copied()) {
                Some(meant) => format!("did you mean `'{meant}'`?"),
                None => format!("stages are `'{}'`", reference::STAGES.join("'`, `'")),
            };
            self.error(&literal.span, format!("no stage is called `{stage}`"), hint);
            return None;
        }
        Some(Value::Text(stage.to_owned()))
    }
}

/// Before every other day that can be written.
const FIRST_DAY: jiff::civil::Date = jiff::civil::date(1, 1, 1);

fn kind_of(what: Engagement) -> &'static str {
    match what {
        Engagement::Stage => "`'active'`, `'cooling'` or `'dormant'`",
        Engagement::Score => "a number from 0 up",
        Engagement::BestHour => "a whole hour from 0 to 23",
        Engagement::BestWeekday => "a day of the week from 1 (Monday) to 7 (Sunday)",
        Engagement::LastOpen | Engagement::LastClick => "a date",
    }
}

fn response_hint(name: &str, what: Engagement, op: Op, literal: &Literal) -> String {
    const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let text = if let LiteralKind::Text(text) = &literal.kind { text.to_lowercase() } else { String::new() };
    let example = match what {
        Engagement::Stage => "'dormant'".to_owned(),
        Engagement::Score => "2".to_owned(),
        Engagement::BestWeekday => {
            let day = DAYS.iter().position(|day| text.len() >= 2 && day.starts_with(&text)).map_or(1, |day| day + 1);
            day.to_string()
        }
        _ => {
            let hour = text.split(':').next().and_then(|hour| hour.parse::<u32>().ok()).filter(|hour| *hour < 24);
            hour.unwrap_or(9).to_string()
        }
    };
    let op = if what == Engagement::Stage && !matches!(op, Op::Equal | Op::NotEqual) { Op::Equal } else { op };
    format!("write `{name} {} {example}`", op.symbol())
}
