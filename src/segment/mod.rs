//! Which of them: the language that picks contacts.
//!
//! A rule is text. [`parse`] reads it ([`Expr`]), [`check`] holds it against what is declared
//! ([`Catalog`]) and answers a [`Rule`]: names resolved, segments put in, types known, every `not`
//! moved to the conditions. A rule is used in two ways that mean the same: [`compile`] makes the
//! condition of an SQL statement, [`evaluate`] judges one [`Person`] in memory. A property test holds
//! the two together on both databases.
//!
//! # The language
//!
//! ```text
//! city = 'Taipei'     age >= 30     vip     interests contains 'oolong'     city in ('Taipei', 'Tainan')
//! birthday is set     not vip       (a or b) and not c     city not in ('Taipei')     phone is not set
//! birthday < today - 18y            birthday in next 7 days                 country in region('EU')
//! subscribed('tea-letter', since < today - 1y)           sent(campaign: 'weekly', within: 7d)
//! opened(within: 30d)               clicked(campaign: 'weekly', link: 'https://..', within: 30d, at_least: 2)
//! did('visit', within: 14d, where: page = '/oolong')     ordered(within: 90d, sum >= 100)
//! engagement.stage = 'dormant'      engagement('tea-letter', score >= 2)    rfm.recency >= 4
//! segment('taipei-regulars')        frozen('spring-2026')                   random(10%, seed: 'spring')
//! ```
//!
//! The whole of it is in `docs/segments.md`, the calls and words in [`reference`]. What matters here:
//!
//! - **Joining.** `not` binds tighter than `and`, `and` tighter than `or`. Keywords may be written in
//!   either case; names may not.
//! - **Missing values.** A condition on a field without a value does not hold, whatever it asks:
//!   neither `city = 'Taipei'` nor `city != 'Taipei'`. Its opposite with `not` then holds:
//!   `not city = 'Taipei'` also picks people whose city is unknown. There is no third answer.
//! - **`is set`** holds where there is a value; an empty text and an empty list are none.
//! - **Texts** are compared byte by byte (code point by code point), case and all: `'a' > 'Z'`.
//!   `contains` on a text looks for a part of it. `email` is the exception: addresses are compared
//!   in their normal form (lower case, the domain in ASCII), on both sides.
//! - **Dates** are compared with `'2026-12-01'` or `today`, which is the calendar day of `now` in UTC.
//!   A day that a month does not have becomes its last one. `in next 7 days` and `in last 7 days` count
//!   today and mean anniversaries too, see [`Leaf::Recurs`].
//! - **History.** `within: 30d` means not earlier than `now` less that (months and years by the calendar),
//!   `at_least:` is 1 where it is left out. Opens and clicks are those judged human, with `any: true` all.
//!   `campaign:` and `topic:` are those of the run, `link:` is the address as written in the content.
//! - **`random(10%)`** picks the same contacts each time, see [`random`]; another `seed:` picks others.
//!
//! A whole rule that is nothing but the name of a segment (`weekly-buyers`) stands for that segment,
//! see [`rule`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::behaviour::EventSchema;
use crate::config::diagnostics::{Problems, Sources};
use crate::config::{Config, EngagementSettings};
use crate::contact::Schema;

mod arguments;
mod ast;
mod calls;
mod check;
mod compile;
mod evaluate;
mod fields;
mod format;
pub mod frozen;
pub mod history;
mod history_sql;
mod lexer;
mod load;
pub mod ops;
mod parse;
mod parse_fields;
mod parse_values;
mod plan;
pub mod random;
pub mod reference;
pub mod regions;
mod rule;
mod schema;

pub use ast::{Argument, Expr, ExprKind, Literal, LiteralKind, Name, Op, Period, Stretch, Unit};
pub use check::{check, rule};
pub use compile::{SMALL_SET, Sql, compile, compile_for_blocks, compile_knowing, soundings};
pub use evaluate::{
    Clause, EngagementFact, EventFact, HitFact, LineFact, MailFact, OrderFact, OrderTotal, Person, TotalFact, evaluate, explain,
};
pub use format::{LINE_WIDTH, format, formatted};
pub use parse::parse;
pub use plan::{Plan, Served, plan};
pub use rule::{Engagement, Field, HitKind, Home, Leaf, Mailed, Moment, Node, Rule, Source, Together, Value};
pub use schema::{Completion, completion};

/// Longest rule, in bytes: a few thousand customer numbers in a list fit.
pub const MAX_SOURCE_BYTES: usize = 256 * 1024;
/// Deepest nesting of one rule with its segments. SQLite refuses expressions deeper than 1,000,
/// and each of our levels may cost several of its own.
pub const MAX_DEPTH: usize = 50;
/// Conditions and values of one rule with its segments (a question to the past counts as eight). SQLite binds at most 32,766 values in a
/// statement; segments that use segments could otherwise grow without end.
pub const MAX_SIZE: usize = 5_000;
/// Mistakes told at once: nobody reads more, and a binary file is full of them.
pub const MAX_ERRORS: usize = 50;
/// Largest `at_least:`.
pub const MAX_AT_LEAST: u32 = 1_000_000;

/// A mistake in a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentError {
    /// Bytes in the source.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl SegmentError {
    fn new(span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        SegmentError { span, message: message.into(), hint: hint.into() }
    }
}

impl std::fmt::Display for SegmentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (hint: {})", self.message, self.hint)
    }
}

impl std::error::Error for SegmentError {}

/// Mistakes as a person reads them, with the rule and a caret; `title` stands where a file's path
/// would (a rule of the command line has none).
pub fn problems(title: &str, source: &str, errors: &[SegmentError]) -> Problems {
    let mut sources = Sources::default();
    sources.add(title, source);
    let list = errors.iter().map(|e| sources.problem_at(title.as_ref(), e.span.clone(), &e.message, &e.hint)).collect();
    Problems::new(list, sources)
}

/// What rules may speak of.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Declared attributes.
    pub schema: Schema,
    /// Topics, by key.
    pub topics: BTreeSet<String>,
    /// Campaigns, by name.
    pub campaigns: BTreeSet<String>,
    /// Segments: name to rule.
    pub segments: BTreeMap<String, String>,
    /// Declared events, by name.
    pub events: BTreeMap<String, EventSchema>,
    /// The attribute that says in which country somebody lives.
    pub country: Option<String>,
    /// When somebody is cooling and dormant.
    pub engagement: Option<EngagementSettings>,
}

impl Catalog {
    /// From the configuration.
    pub fn new(config: &Config) -> Self {
        Catalog {
            schema: Schema::new(&config.attributes),
            topics: config.topics.keys().cloned().collect(),
            campaigns: config.campaigns.keys().cloned().collect(),
            segments: config.segments.iter().map(|(name, segment)| (name.clone(), segment.rule.value.clone())).collect(),
            events: config.events.iter().map(|(name, event)| (name.clone(), EventSchema::new(name, event))).collect(),
            country: config.consent.country_attribute.as_ref().map(|attribute| attribute.value.clone()),
            engagement: Some(config.engagement),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_format;
#[cfg(test)]
mod tests_forms;
