//! A rule as the condition of an SQL statement.
//!
//! The past may be asked set by set or contact by contact. A set, `c.id IN (SELECT h.contact_id FROM hit h
//! ..)`, is computed once for the whole audience and costs what is in it. Contact by contact, `EXISTS (..
//! h.contact_id = c.id ..)` is a step into an index that holds all that is asked for; contacts are read in the
//! order of that index, so a million steps cost less than a second, whatever the past holds.
//!
//! SQLite gets the set where it is small (see [`soundings`]) and the steps where it is not: putting two million
//! people into a set costs it more than asking a million. PostgreSQL weighs both by its statistics where it may
//! join: it gets `IN` where the condition stands alone or under `AND`, `NOT EXISTS` for its opposite. Under `OR`
//! it cannot join; `IN` falls back to searching the whole set for every contact as soon as the set no longer
//! fits `work_mem` (measured on 200,000 contacts and 75,000 clicks: more than 20 s). There it gets `EXISTS`, for
//! which PostgreSQL weighs a hash of the set against a step into the index for each contact (0.1 s, or 0.5 s
//! without the memory).
//!
//! A set is computed once a statement. Where an audience is read in many small blocks instead,
//! [`compile_for_blocks`] asks by contact on both engines.

use super::ast::Op;
use super::random;
use super::rule::{Engagement, Field, Home, Leaf, Node, Rule, Value};
use crate::clock::Time;
use crate::config::AttributeType;
use crate::contact::LIST_MARK;
use crate::db::{Args, Dialect};

mod behaviour;
mod calendar;
mod history;
mod standing;

pub(super) use calendar::{ago, day, days_from};
pub(super) use history::{asks_totals, is_past};
pub(super) use standing::stages_that;

/// Rows up to which a set is worth computing on SQLite: 700,000 orders are added up in 0.4 s. More of them, and a
/// million steps into an index are faster.
pub const SMALL_SET: i64 = 800_000;
/// Conditions on the past whose size is looked at; those behind are taken for small ones.
const MAX_SOUNDINGS: usize = 64;
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
/// and `AND`. For the others take [`Rule::negated`], not SQL's `NOT`. Contacts that were merged into another are
/// picked by neither. Statements over all contacts ask `ops::condition` instead, which knows how large the
/// past is.
pub fn compile(rule: &Rule, dialect: Dialect, now: Time, first_param: usize) -> Sql {
    compile_knowing(rule, dialect, now, first_param, &[])
}

/// Like [`compile`], knowing which of [`soundings`] came out large.
pub fn compile_knowing(rule: &Rule, dialect: Dialect, now: Time, first_param: usize, large: &[bool]) -> Sql {
    Compiler::new(dialect, now, first_param, true, large).sql(rule)
}

/// Like [`compile`], for statements that look at few contacts each (a page of an audience, one
/// person): the past is asked contact by contact through its index, never as a whole.
pub fn compile_for_blocks(rule: &Rule, dialect: Dialect, now: Time, first_param: usize) -> Sql {
    Compiler::new(dialect, now, first_param, false, &[]).sql(rule)
}

/// Statements that count, up to one more than [`SMALL_SET`], what each condition on the past has to look at:
/// in the order in which [`compile_knowing`] wants to hear of it.
pub fn soundings(rule: &Rule, dialect: Dialect, now: Time) -> Vec<Sql> {
    let mut leaves = Vec::new();
    past_leaves(&rule.root, &mut leaves);
    leaves.truncate(MAX_SOUNDINGS);
    leaves
        .into_iter()
        .map(|leaf| {
            let mut compiler = Compiler::new(dialect, now, 1, true, &[]);
            let past = compiler.past(leaf, true);
            let rows = past.map_or_else(|| "SELECT 1 WHERE FALSE".to_owned(), |past| past.range());
            Sql { text: format!("SELECT COUNT(*) FROM ({rows} LIMIT {}) v", SMALL_SET + 1), args: compiler.args }
        })
        .collect()
}

fn past_leaves<'r>(node: &'r Node, into: &mut Vec<&'r Leaf>) {
    match node {
        Node::All(nodes) | Node::Any(nodes) => nodes.iter().for_each(|node| past_leaves(node, into)),
        Node::Leaf { leaf, .. } if is_past(leaf) => into.push(leaf),
        Node::Leaf { .. } => {}
    }
}

/// The condition of one leaf alone, as it stands in a statement over all contacts.
pub(super) fn compile_leaf(leaf: &Leaf, negated: bool, dialect: Dialect, now: Time, large: bool) -> Sql {
    let mut compiler = Compiler::new(dialect, now, 1, true, std::slice::from_ref(&large));
    let text = compiler.leaf(leaf, negated, true);
    Sql { text, args: compiler.args }
}

struct Compiler<'l> {
    dialect: Dialect,
    now: Time,
    first_param: usize,
    /// Whether the past may be asked set by set.
    sets: bool,
    /// Which conditions on the past look at much.
    large: &'l [bool],
    /// Conditions on the past so far.
    asked: usize,
    /// Draws (share in millionths and seed) that hold wherever this place of the rule matters.
    drawn: Vec<(u32, String)>,
    args: Args,
}

impl<'l> Compiler<'l> {
    fn new(dialect: Dialect, now: Time, first_param: usize, sets: bool, large: &'l [bool]) -> Self {
        Compiler { dialect, now, first_param, sets, large, asked: 0, drawn: Vec::new(), args: Args::new() }
    }

    fn sql(mut self, rule: &Rule) -> Sql {
        let condition = self.node(&rule.root, true);
        Sql { text: format!("(c.merged_into IS NULL AND {condition})"), args: self.args }
    }

    fn bind(&mut self, value: impl Into<crate::db::Value>) -> String {
        self.args.push(value.into());
        format!("${}", self.first_param + self.args.len() - 1)
    }

    /// `alone`: nothing but `AND` stands between this and `WHERE`.
    fn node(&mut self, node: &Node, alone: bool) -> String {
        match node {
            Node::All(nodes) => {
                let outside = self.drawn.len();
                self.drawn.extend(nodes.iter().filter_map(small_draw));
                let parts = self.cheapest_first(nodes, alone);
                self.drawn.truncate(outside);
                joined(parts, " AND ", "TRUE")
            }
            Node::Any(nodes) => {
                let alone = alone && nodes.len() == 1;
                joined(self.cheapest_first(nodes, alone), " OR ", "FALSE")
            }
            Node::Leaf { leaf, negated, .. } => self.leaf(leaf, *negated, alone),
        }
    }

    /// The databases ask in the order in which conditions are written and stop as soon as the answer is clear;
    /// where some need a look at other tables, they do not weigh that.
    fn cheapest_first(&mut self, nodes: &[Node], alone: bool) -> Vec<String> {
        let mut parts: Vec<(u8, String)> = nodes.iter().map(|node| (cost(node), self.node(node, alone))).collect();
        parts.sort_by_key(|(cost, _)| *cost);
        parts.into_iter().map(|(_, text)| text).collect()
    }

    fn leaf(&mut self, leaf: &Leaf, negated: bool, alone: bool) -> String {
        let not = if negated { "NOT " } else { "" };
        match leaf {
            Leaf::Compare(field, ..) | Leaf::OneOf(field, _) | Leaf::Contains(field, _) | Leaf::Recurs { field, .. } => {
                let condition = self.on_field(leaf);
                match (field.home, negated) {
                    (Home::Score, _) => format!("{not}{}", scored(&condition)),
                    (_, true) => format!("NOT COALESCE({condition}, FALSE)"),
                    (_, false) => condition,
                }
            }
            // Never NULL, so it needs no COALESCE, which would hide it from the planner.
            Leaf::IsSet(field) if field.home == Home::Score => format!("{not}{}", scored(&self.is_set(field, false))),
            Leaf::IsSet(field) => self.is_set(field, negated),
            Leaf::Subscribed(topic) => format!("{not}{}", self.subscribed(topic)),
            Leaf::Standing { topic, standing, since, within } => {
                format!("{not}{}", self.standing(topic, *standing, since, *within))
            }
            Leaf::Engagement { topic, what, op, value, settings } => {
                let condition = self.engagement(topic.as_deref(), *what, *op, value, settings, alone);
                format!("{not}{condition}")
            }
            Leaf::Frozen(list) => format!("{not}{}", self.frozen(list)),
            Leaf::Mail { .. } | Leaf::Hit { .. } | Leaf::Did { .. } | Leaf::Ordered { .. } => {
                format!("{not}{}", self.on_the_past(leaf, alone && !negated))
            }
            Leaf::Random { millionths, seed } => format!("{not}({} < {millionths})", random::bucket_sql("c.id", seed)),
        }
    }

    /// A condition on a field; NULL where it has no value.
    fn on_field(&mut self, leaf: &Leaf) -> String {
        match leaf {
            Leaf::Compare(field, op, value) => self.compare(field, *op, value),
            Leaf::OneOf(field, values) => {
                let marks: Vec<String> = values.iter().map(|value| self.value(value)).collect();
                format!("{} IN ({})", column(field), marks.join(", "))
            }
            Leaf::Contains(field, text) => self.contains(field, text),
            Leaf::Recurs { field, from, until } => self.recurs(&column(field), *from, *until),
            _ => "FALSE".to_owned(),
        }
    }

    fn compare(&mut self, field: &Field, op: Op, value: &Value) -> String {
        let ordered = !matches!(op, Op::Equal | Op::NotEqual);
        // Columns of attributes are in byte order already; equality is by bytes in every collation
        // that is not declared otherwise, and naming one would keep an index from being used.
        let own_order = field.kind == AttributeType::Text && (field.built_in || field.home == Home::Score);
        let collation = if ordered && own_order { self.dialect.binary_collation() } else { "" };
        let symbol = if op == Op::NotEqual { "<>" } else { op.symbol() };
        format!("{}{collation} {symbol} {}", column(field), self.value(value))
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
            Dialect::Sqlite => format!("instr({}, {mark}) > 0", column(field)),
            Dialect::Postgres => format!("strpos({}, {mark}) > 0", column(field)),
        }
    }

    fn is_set(&mut self, field: &Field, negated: bool) -> String {
        let column = column(field);
        match (field.kind, negated) {
            (AttributeType::Text, false) => format!("({column} IS NOT NULL AND {column} <> '')"),
            (AttributeType::Text, true) => format!("({column} IS NULL OR {column} = '')"),
            // A list without values is stored as its marks alone.
            (AttributeType::List, false) => format!("COALESCE(replace({column}, {}, ''), '') <> ''", self.bind(LIST_MARK.to_string())),
            (AttributeType::List, true) => format!("COALESCE(replace({column}, {}, ''), '') = ''", self.bind(LIST_MARK.to_string())),
            (_, false) => format!("{column} IS NOT NULL"),
            (_, true) => format!("{column} IS NULL"),
        }
    }
}

/// A draw that leaves few: what stands beside it is asked of them only.
fn small_draw(node: &Node) -> Option<(u32, String)> {
    /// Half of all: asking each row whether its contact is drawn costs about what it saves.
    const SMALL_SHARE: u32 = 500_000;
    match node {
        Node::Leaf { leaf: Leaf::Random { millionths, seed }, negated: false, .. } if *millionths <= SMALL_SHARE => {
            Some((*millionths, seed.clone()))
        }
        _ => None,
    }
}

/// The column of a field with the alias of its table.
fn column(field: &Field) -> String {
    let alias = match field.home {
        Home::Contact => "c",
        Home::Score => "x",
        Home::Event => "e",
    };
    format!("{alias}.{}", field.column)
}

/// What asking costs for a contact, as a rank: a look at its own row, a step into another table, steps into its past,
/// several such.
fn cost(node: &Node) -> u8 {
    match node {
        Node::All(nodes) | Node::Any(nodes) => nodes.iter().map(cost).max().unwrap_or(0),
        Node::Leaf { leaf, .. } => match leaf {
            Leaf::Compare(field, ..)
            | Leaf::OneOf(field, _)
            | Leaf::Contains(field, _)
            | Leaf::Recurs { field, .. }
            | Leaf::IsSet(field) => {
                if field.home == Home::Score {
                    2
                } else {
                    0
                }
            }
            Leaf::Random { .. } => 1,
            Leaf::Subscribed(_) | Leaf::Standing { .. } | Leaf::Frozen(_) => 2,
            Leaf::Engagement { what: Engagement::Stage, .. } => 4,
            Leaf::Engagement { .. } => 2,
            Leaf::Mail { .. } | Leaf::Hit { .. } | Leaf::Did { .. } | Leaf::Ordered { .. } => 3,
        },
    }
}

/// Scores have a table of their own, with a row for whoever has any.
fn scored(condition: &str) -> String {
    format!("EXISTS (SELECT 1 FROM score x WHERE x.contact_id = c.id AND {condition})")
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
