//! A rule as the condition of an SQL statement.
//!
//! History is asked set by set: `c.id IN (SELECT h.contact_id FROM hit h ..)` is computed once for
//! the whole audience, on SQLite wherever it stands. PostgreSQL turns it into a join only where it
//! stands alone or under `AND`; under `OR` and `NOT` it falls back to searching the whole set for
//! every contact as soon as the set no longer fits `work_mem` (measured on 200,000 contacts and
//! 75,000 clicks: more than 20 s). There it gets `EXISTS`, for which PostgreSQL weighs a hash of the set
//! against a step into the index for each contact (0.1 s, or 0.5 s without the memory).
//!
//! A set is computed once a statement. Where an audience is read in many small blocks instead,
//! [`compile_for_blocks`] asks by contact on both engines.

use super::ast::{Op, Period, Unit};
use super::random;
use super::rule::{Field, HitKind, Leaf, Moment, Node, Rule, Source, Value};
use crate::clock::{DAY, HOUR, Time};
use crate::config::AttributeType;
use crate::contact::{Date, LIST_MARK};
use crate::db::{Args, Dialect};

/// An SQL condition and what to bind.
#[derive(Debug, Clone, PartialEq)]
pub struct Sql {
    /// The condition, over the alias `c` of the table `contact`.
    pub text: String,
    /// Values of its parameters, in the order of their numbers.
    pub args: Args,
}

/// The rule as a condition over `contact c`, with parameters numbered from `first_param`.
///
/// It is TRUE for those whom the rule picks; for others FALSE or NULL, so it belongs under `WHERE`
/// and `AND`. For the others take [`Rule::negated`], not SQL's `NOT`.
pub fn compile(rule: &Rule, dialect: Dialect, now: Time, first_param: usize) -> Sql {
    Compiler { dialect, now, first_param, sets: true, args: Args::new() }.sql(rule)
}

/// Like [`compile`], for statements that look at few contacts each (a page of an audience, one
/// person): history is asked contact by contact through its index, never as a whole.
pub fn compile_for_blocks(rule: &Rule, dialect: Dialect, now: Time, first_param: usize) -> Sql {
    Compiler { dialect, now, first_param, sets: false, args: Args::new() }.sql(rule)
}

struct Compiler {
    dialect: Dialect,
    now: Time,
    first_param: usize,
    /// Whether history may be asked set by set.
    sets: bool,
    args: Args,
}

impl Compiler {
    fn sql(mut self, rule: &Rule) -> Sql {
        let text = self.node(&rule.root, true);
        Sql { text, args: self.args }
    }

    fn bind(&mut self, value: impl Into<crate::db::Value>) -> String {
        self.args.push(value.into());
        format!("${}", self.first_param + self.args.len() - 1)
    }

    /// `alone`: nothing but `AND` stands between this and `WHERE`.
    fn node(&mut self, node: &Node, alone: bool) -> String {
        match node {
            Node::All(nodes) => {
                let parts = nodes.iter().map(|node| self.node(node, alone)).collect();
                joined(parts, " AND ", "TRUE")
            }
            Node::Any(nodes) => {
                let alone = alone && nodes.len() == 1;
                let parts = nodes.iter().map(|node| self.node(node, alone)).collect();
                joined(parts, " OR ", "FALSE")
            }
            Node::Leaf { leaf, negated, .. } => self.leaf(leaf, *negated, alone),
        }
    }

    fn leaf(&mut self, leaf: &Leaf, negated: bool, alone: bool) -> String {
        let not = if negated { "NOT " } else { "" };
        let condition = match leaf {
            Leaf::Compare(field, op, value) => self.compare(field, *op, value),
            Leaf::OneOf(field, values) => {
                let marks: Vec<String> = values.iter().map(|value| self.value(value)).collect();
                format!("c.{} IN ({})", field.column, marks.join(", "))
            }
            Leaf::Contains(field, text) => self.contains(field, text),
            // The rest is never NULL and needs no COALESCE, which would hide it from the planner.
            Leaf::IsSet(field) => return self.is_set(field, negated),
            Leaf::Subscribed(topic) => return format!("{not}{}", self.subscribed(topic)),
            Leaf::Mail { source, at_least, .. } => {
                let (tables, filter) = self.sent(source);
                return format!("{not}{}", self.history(&tables, "d", &filter, *at_least, alone && !negated));
            }
            Leaf::Hit { kind, source, link, any, at_least } => {
                let (tables, filter) = self.hits(*kind, source, link.as_deref(), *any);
                return format!("{not}{}", self.history(&tables, "h", &filter, *at_least, alone && !negated));
            }
            Leaf::Recurs { .. }
            | Leaf::Standing { .. }
            | Leaf::Did { .. }
            | Leaf::Ordered { .. }
            | Leaf::Engagement { .. }
            | Leaf::Frozen(_) => return "FALSE".to_owned(),
            Leaf::Random { millionths, seed } => {
                return format!("{not}({} < {millionths})", random::bucket_sql("c.id", seed));
            }
        };
        if negated { format!("NOT COALESCE({condition}, FALSE)") } else { condition }
    }

    fn compare(&mut self, field: &Field, op: Op, value: &Value) -> String {
        let ordered = !matches!(op, Op::Equal | Op::NotEqual);
        // Columns of attributes are in byte order already; equality is by bytes in every collation
        // that is not declared otherwise, and naming one would keep an index from being used.
        let collation = if ordered && field.built_in { self.dialect.binary_collation() } else { "" };
        let symbol = if op == Op::NotEqual { "<>" } else { op.symbol() };
        format!("c.{}{collation} {symbol} {}", field.column, self.value(value))
    }

    fn value(&mut self, value: &Value) -> String {
        match value {
            Value::Text(text) => self.bind(text),
            Value::Number(number) => self.bind(*number),
            Value::Boolean(flag) => if *flag { "TRUE" } else { "FALSE" }.to_owned(),
            Value::Date(moment) => {
                let day = day(*moment, self.now).number();
                self.bind(day)
            }
        }
    }

    fn contains(&mut self, field: &Field, text: &str) -> String {
        // Neither LIKE (case differs between the engines, `%` needs escaping) nor a pattern:
        // a plain search for bytes.
        let searched = match field.kind {
            AttributeType::List => format!("{LIST_MARK}{text}{LIST_MARK}"),
            _ => text.to_owned(),
        };
        let mark = self.bind(searched);
        match self.dialect {
            Dialect::Sqlite => format!("instr(c.{}, {mark}) > 0", field.column),
            Dialect::Postgres => format!("strpos(c.{}, {mark}) > 0", field.column),
        }
    }

    fn is_set(&mut self, field: &Field, negated: bool) -> String {
        let column = &field.column;
        match (field.kind, negated) {
            (AttributeType::Text, false) => format!("(c.{column} IS NOT NULL AND c.{column} <> '')"),
            (AttributeType::Text, true) => format!("(c.{column} IS NULL OR c.{column} = '')"),
            // A list without values is stored as its marks alone.
            (AttributeType::List, false) => format!("COALESCE(replace(c.{column}, {}, ''), '') <> ''", self.bind(LIST_MARK.to_string())),
            (AttributeType::List, true) => format!("COALESCE(replace(c.{column}, {}, ''), '') = ''", self.bind(LIST_MARK.to_string())),
            (_, false) => format!("c.{column} IS NOT NULL"),
            (_, true) => format!("c.{column} IS NULL"),
        }
    }

    fn subscribed(&mut self, topic: &str) -> String {
        let topic = self.bind(topic);
        format!(
            "EXISTS (SELECT 1 FROM subscription s \
             WHERE s.topic_id = (SELECT t.id FROM topic t WHERE t.name = {topic}) \
             AND s.contact_id = c.id AND s.standing = 'subscribed')"
        )
    }

    fn sent(&mut self, source: &Source) -> (String, String) {
        let mut tables = "delivery d".to_owned();
        let mut filter = "d.state = 'sent'".to_owned();
        if let Some(since) = self.since(source) {
            filter.push_str(&format!(" AND d.changed_at >= {since}"));
        }
        self.of_run(source, "d", &mut tables, &mut filter);
        (tables, filter)
    }

    fn hits(&mut self, kind: HitKind, source: &Source, link: Option<&str>, any: bool) -> (String, String) {
        let mut tables = "hit h".to_owned();
        let mut filter = format!("h.kind = '{}'", kind.as_str());
        if let Some(since) = self.since(source) {
            filter.push_str(&format!(" AND h.at >= {since}"));
        }
        if !any {
            filter.push_str(" AND h.verdict = 'human'");
        }
        self.of_run(source, "h", &mut tables, &mut filter);
        if let Some(link) = link {
            tables.push_str(" JOIN run_link l ON l.run_id = h.run_id AND l.position = h.link");
            filter.push_str(&format!(" AND l.url = {}", self.bind(link)));
        }
        (tables, filter)
    }

    fn since(&mut self, source: &Source) -> Option<String> {
        source.within.map(|period| self.bind(ago(self.now, period)))
    }

    fn of_run(&mut self, source: &Source, alias: &str, tables: &mut String, filter: &mut String) {
        if source.campaign.is_some() || source.topic.is_some() {
            tables.push_str(&format!(" JOIN run r ON r.id = {alias}.run_id"));
        }
        if let Some(campaign) = &source.campaign {
            filter.push_str(&format!(" AND r.campaign = {}", self.bind(campaign)));
        }
        if let Some(topic) = &source.topic {
            filter.push_str(&format!(" AND r.topic_id = (SELECT t.id FROM topic t WHERE t.name = {})", self.bind(topic)));
        }
    }

    /// Contacts with at least so many rows of `tables`, see the head of this file.
    fn history(&self, tables: &str, alias: &str, filter: &str, at_least: u32, alone: bool) -> String {
        let set = self.sets && (alone || self.dialect == Dialect::Sqlite);
        let counted = format!(
            "SELECT {alias}.contact_id FROM {tables} WHERE {filter} \
             GROUP BY {alias}.contact_id HAVING COUNT(*) >= {at_least}"
        );
        match (set, at_least, self.dialect) {
            (true, 1, _) => format!("c.id IN (SELECT {alias}.contact_id FROM {tables} WHERE {filter})"),
            (true, _, _) => format!("c.id IN ({counted})"),
            (false, 1, _) => format!("EXISTS (SELECT 1 FROM {tables} WHERE {alias}.contact_id = c.id AND {filter})"),
            // PostgreSQL takes the contact into the grouping where that is cheaper; SQLite does not.
            (false, _, Dialect::Postgres) => format!("EXISTS (SELECT 1 FROM ({counted}) g WHERE g.contact_id = c.id)"),
            (false, _, Dialect::Sqlite) => {
                format!("((SELECT COUNT(*) FROM {tables} WHERE {alias}.contact_id = c.id AND {filter}) >= {at_least})")
            }
        }
    }
}

/// Joins in halves: a chain of a thousand would be a thousand levels deep, more than SQLite takes.
fn joined(mut parts: Vec<String>, between: &str, of_none: &str) -> String {
    /// Parts of one chain.
    const CHAIN: usize = 8;
    match parts.len() {
        0 => of_none.to_owned(),
        1 => parts.remove(0),
        2..=CHAIN => format!("({})", parts.join(between)),
        count => {
            let right = parts.split_off(count / 2);
            format!("({}{between}{})", joined(parts, between, of_none), joined(right, between, of_none))
        }
    }
}

/// The day that is meant, in UTC; saturating at the ends of the calendar.
pub(super) fn day(moment: Moment, now: Time) -> Date {
    let period = match moment {
        Moment::Fixed(date) => return date,
        Moment::Today(period) => period,
    };
    let today = now.timestamp().to_zoned(jiff::tz::TimeZone::UTC).date();
    let end = if period.amount < 0 { jiff::civil::date(1, 1, 1) } else { jiff::civil::date(9999, 12, 31) };
    let moved = span(period).and_then(|span| today.checked_add(span).ok()).unwrap_or(end);
    Date::from(if moved.year() < 1 { end } else { moved })
}

/// The moment `period` before `now`.
pub(super) fn ago(now: Time, period: Period) -> Time {
    match period.unit {
        Unit::Hour => now.plus(-period.amount * HOUR),
        Unit::Day => now.plus(-period.amount * DAY),
        Unit::Week => now.plus(-period.amount * 7 * DAY),
        Unit::Month | Unit::Year => {
            let zoned = now.timestamp().to_zoned(jiff::tz::TimeZone::UTC);
            let moved = span(period).and_then(|span| zoned.checked_sub(span).ok());
            moved.map_or(Time::from_millis(i64::MIN), |moved| Time::from(moved.timestamp()))
        }
    }
}

fn span(period: Period) -> Option<jiff::Span> {
    let span = jiff::Span::new();
    match period.unit {
        Unit::Hour => span.try_hours(period.amount),
        Unit::Day => span.try_days(period.amount),
        Unit::Week => span.try_weeks(period.amount),
        Unit::Month => span.try_months(period.amount),
        Unit::Year => span.try_years(period.amount),
    }
    .ok()
}
