//! The calls of the language and their arguments: `subscribed`, `sent`, `opened`, `clicked`, `random`.

use super::MAX_AT_LEAST;
use super::ast::{Argument, Literal, LiteralKind, Name, Op, Period};
use super::check::{Checker, literal_name, suggest};
use super::rule::{HitKind, Leaf, Source};
use crate::config::diagnostics::did_you_mean;

/// Every call there is.
pub(super) const FUNCTIONS: &[&str] = &["segment", "subscribed", "sent", "opened", "clicked", "random"];
/// Calls that need data of later versions.
const LATER: &[&str] = &["did", "ordered"];

/// A call as it may be written.
pub(super) fn example(function: &str) -> &'static str {
    match function {
        "segment" => "segment('regulars')",
        "subscribed" => "subscribed('newsletter')",
        "sent" => "sent(within: 7d)",
        "opened" => "opened(within: 30d)",
        "clicked" => "clicked(within: 30d)",
        _ => "random(10%)",
    }
}

/// What was given to `sent`, `opened` or `clicked`.
#[derive(Default)]
struct Given {
    source: Source,
    link: Option<String>,
    any: bool,
    at_least: Option<u32>,
}

impl Checker<'_> {
    /// Every call but `segment`.
    pub(super) fn call(&mut self, name: &Name, arguments: &[Argument]) -> Option<Leaf> {
        let history = ["campaign", "topic", "within", "at_least", "any", "link"];
        match name.text.as_str() {
            "subscribed" => self.subscribed(name, arguments),
            "random" => self.random(name, arguments),
            "sent" => {
                let given = self.given(name, arguments, &history[..4])?;
                Some(Leaf::Mail { what: super::rule::Mailed::Sent, source: given.source, at_least: given.at_least.unwrap_or(1) })
            }
            "opened" => self.given(name, arguments, &history[..5]).map(|given| hit(HitKind::Open, given)),
            "clicked" => self.given(name, arguments, &history).map(|given| hit(HitKind::Click, given)),
            _ => self.unknown_call(name),
        }
    }

    fn unknown_call(&mut self, name: &Name) -> Option<Leaf> {
        let lower = name.text.to_lowercase();
        if LATER.contains(&lower.as_str()) {
            let message = format!("`{name}(..)` comes with behaviour data (orders and events), which is not available yet");
            self.error(&name.span, message, "leave it out; attributes, subscriptions, sent, opened and clicked can be used");
            return None;
        }
        let hint = match did_you_mean(&lower, FUNCTIONS.iter().copied()) {
            Some(meant) => format!("did you mean `{}`?", example(meant)),
            None if self.catalog.segments.contains_key(&name.text) => format!("a segment is used by `segment('{name}')`"),
            None => format!("there are `{}`", FUNCTIONS.join("(..)`, `") + "(..)"),
        };
        self.error(&name.span, format!("nothing is called `{name}(..)`"), hint);
        None
    }

    fn subscribed(&mut self, name: &Name, arguments: &[Argument]) -> Option<Leaf> {
        if let [Argument::Named(argument, Literal { kind: LiteralKind::Text(topic), .. })] = arguments
            && argument.text == "topic"
        {
            let hint = format!("write `subscribed({})`", super::ast::quote(topic));
            self.error(&argument.span, "`subscribed` takes its topic without a name", hint);
            return None;
        }
        let topic = self.only_text(name, arguments, "a topic: `subscribed('newsletter')`")?;
        let [Argument::Plain(literal)] = arguments else { return None };
        self.known_topic(literal, &topic).then_some(Leaf::Subscribed(topic))
    }

    fn random(&mut self, name: &Name, arguments: &[Argument]) -> Option<Leaf> {
        let wanted = "a share: `random(10%)`, or with a name for the draw: `random(10%, seed: 'spring')`";
        let (mut share, mut seed, mut readable) = (None, None, true);
        for argument in arguments {
            match argument {
                Argument::Plain(Literal { kind: LiteralKind::Percent(millionths), .. }) if share.is_none() => share = Some(*millionths),
                Argument::Plain(Literal { kind: LiteralKind::Number(number), span }) => {
                    let percent = if (0.0..1.0).contains(number) { (number * 1_000_000.0).round() / 10_000.0 } else { *number };
                    self.error(span, "a share needs its percent sign", format!("write `random({percent}%)`"));
                    readable = false;
                }
                Argument::Named(argument, Literal { kind: LiteralKind::Text(text), .. }) if argument.text == "seed" && seed.is_none() => {
                    seed = Some(text.clone());
                }
                Argument::Plain(Literal { kind: LiteralKind::Unreadable, .. }) => readable = false,
                _ => {
                    self.error(&name.span, format!("`random` does not take `{argument}`"), format!("write {wanted}"));
                    readable = false;
                }
            }
        }
        if share.is_none() && readable {
            self.error(&name.span, "`random` needs a share", format!("write {wanted}"));
        }
        share.filter(|_| readable).map(|millionths| Leaf::Random { millionths, seed: seed.unwrap_or_default() })
    }

    /// The named arguments of a call about mails. `None` where one is wrong.
    fn given(&mut self, name: &Name, arguments: &[Argument], allowed: &[&str]) -> Option<Given> {
        let before = self.errors.len();
        let mut given = Given::default();
        let mut seen: Vec<&str> = Vec::new();
        let mut readable = true;
        for argument in arguments {
            let Some((key, literal)) = self.named(name, argument, allowed) else {
                readable = false;
                continue;
            };
            if seen.contains(&key.text.as_str()) {
                self.error(
                    &key.span,
                    format!("`{key}:` is given twice"),
                    "keep one of them; for two campaigns join two conditions with `or`",
                );
                continue;
            }
            seen.push(&key.text);
            readable &= self.take(&mut given, key, literal).is_some();
        }
        (readable && self.errors.len() == before).then_some(given)
    }

    /// An argument with a name that this call has.
    fn named<'e>(&mut self, call: &Name, argument: &'e Argument, allowed: &[&str]) -> Option<(&'e Name, &'e Literal)> {
        match argument {
            Argument::Named(key, literal) if allowed.contains(&key.text.as_str()) => Some((key, literal)),
            Argument::Named(key, _) => {
                let names: Vec<String> = allowed.iter().map(|name| format!("{name}:")).collect();
                let hint = match did_you_mean(&key.text, allowed.iter().copied()) {
                    Some(meant) => format!("did you mean `{meant}:`?"),
                    None if key.text == "link" => "only `clicked` knows links".to_owned(),
                    None if key.text == "where" => "only `did` takes `where:`".to_owned(),
                    None => format!("it takes `{}`", names.join("`, `")),
                };
                self.error(&key.span, format!("`{call}` has no `{key}:`"), hint);
                None
            }
            Argument::Plain(Literal { kind: LiteralKind::Unreadable, .. }) => None,
            Argument::Plain(literal) => {
                let key = match literal.kind {
                    LiteralKind::Text(ref text) if text.contains("://") => "link",
                    LiteralKind::Duration(_) => "within",
                    LiteralKind::Number(_) => "at_least",
                    LiteralKind::Boolean(_) => "any",
                    _ => "campaign",
                };
                self.error(&literal.span, format!("`{call}` takes values by name"), format!("write `{call}({key}: {literal})`"));
                None
            }
            Argument::Condition(key, op, literal) => {
                let span = key.span.start..literal.span.end;
                let hint = match op {
                    Op::Equal | Op::AtLeast if allowed.contains(&key.text.as_str()) => format!("write `{key}: {literal}`"),
                    _ => format!("it takes `{}:`", allowed.join(":`, `")),
                };
                self.error(&span, format!("`{call}` takes values by name, not conditions"), hint);
                None
            }
            Argument::Where(key, _) => {
                self.error(&key.span, format!("`{call}` has no `where:`"), format!("it takes `{}:`", allowed.join(":`, `")));
                None
            }
        }
    }

    /// Reads one argument's value. `None` where it does not fit.
    fn take(&mut self, given: &mut Given, key: &Name, literal: &Literal) -> Option<()> {
        if literal.kind == LiteralKind::Unreadable {
            return None;
        }
        match (key.text.as_str(), &literal.kind) {
            ("campaign", LiteralKind::Text(name)) => {
                if !self.catalog.campaigns.contains(name) {
                    let hint = suggest(name, self.catalog.campaigns.iter(), "campaigns", "a campaign is a file in `campaigns/`");
                    self.error(&literal.span, format!("no campaign is called `{name}`"), hint);
                }
                given.source.campaign = Some(name.clone());
            }
            ("topic", LiteralKind::Text(name)) => {
                self.known_topic(literal, name);
                given.source.topic = Some(name.clone());
            }
            ("link", LiteralKind::Text(url)) if !url.is_empty() => given.link = Some(url.clone()),
            ("within", LiteralKind::Duration(period)) => given.source.within = Some(self.lookback(literal, *period)?),
            ("at_least", LiteralKind::Number(number)) => given.at_least = Some(self.times(literal, *number)?),
            ("any", LiteralKind::Boolean(flag)) => given.any = *flag,
            (name, kind) => {
                let (wanted, hint) = match (name, kind) {
                    ("within", LiteralKind::Number(number)) => ("a duration", format!("write a unit behind it: `within: {number}d`")),
                    ("within", LiteralKind::Today(_)) => ("a duration", "write how long ago at most: `within: 30d`".to_owned()),
                    ("within", _) => ("a duration", "write `within: 30d`, `12h`, `2w`, `6mo` or `1y`".to_owned()),
                    ("at_least", _) => ("a number", "write `at_least: 2`".to_owned()),
                    ("any", _) => ("yes or no", "write `any: true` to count opens and clicks by machines too".to_owned()),
                    ("link", _) => ("a text", "write the address as in the mail: `link: 'https://..'`".to_owned()),
                    _ => ("a text", format!("write `{name}: '..'`")),
                };
                let found = if matches!(kind, LiteralKind::Text(text) if text.is_empty()) { "empty" } else { literal_name(kind) };
                self.error(&literal.span, format!("`{name}:` is {wanted}, `{literal}` is {found}"), hint);
                return None;
            }
        }
        Some(())
    }

    fn lookback(&mut self, literal: &Literal, period: Period) -> Option<Period> {
        if period.amount == 0 {
            self.error(&literal.span, "nothing happens within no time", "write at least `1h`");
            return None;
        }
        Some(period)
    }

    fn times(&mut self, literal: &Literal, number: f64) -> Option<u32> {
        if number.fract() != 0.0 || !(1.0..=f64::from(MAX_AT_LEAST)).contains(&number) {
            let hint = if number == 0.0 { "for those without any write `not` before the call" } else { "write `at_least: 2`" };
            self.error(&literal.span, format!("`at_least:` is a whole number from 1 to {MAX_AT_LEAST}"), hint);
            return None;
        }
        Some(number as u32)
    }

    fn known_topic(&mut self, literal: &Literal, topic: &str) -> bool {
        let known = self.catalog.topics.contains(topic);
        if !known {
            let hint = suggest(topic, self.catalog.topics.iter(), "topics", "topics stand in `topics.toml`");
            self.error(&literal.span, format!("no topic is called `{topic}`"), hint);
        }
        known
    }
}

fn hit(kind: HitKind, given: Given) -> Leaf {
    Leaf::Hit { kind, source: given.source, link: given.link, any: given.any, at_least: given.at_least.unwrap_or(1) }
}
