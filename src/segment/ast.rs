//! A rule as written: what the parser makes and the checker reads. `Display` gives its canonical
//! form, which parses back to the same rule.

use std::fmt;
use std::ops::Range;

/// A condition and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// What it says.
    pub kind: ExprKind,
    /// Bytes in the source.
    pub span: Range<usize>,
}

/// See [`Expr`].
#[derive(Debug, Clone, PartialEq)]
pub enum ExprKind {
    /// All of these.
    And(Vec<Expr>),
    /// One of these at least.
    Or(Vec<Expr>),
    /// The opposite.
    Not(Box<Expr>),
    /// A field alone: `vip`.
    Field(Name),
    /// `age >= 30`
    Compare(Name, Op, Literal),
    /// `city in ('Taipei', 'Tainan')`
    In(Name, Vec<Literal>),
    /// `interests contains 'oolong'`
    Contains(Name, Literal),
    /// `birthday is set`
    IsSet(Name),
    /// `birthday in next 7 days`, `birthday is today`
    Recurs(Name, Stretch),
    /// `opened(within: 30d)`
    Call(Name, Vec<Argument>),
    /// Something that could not be read; its problem is already reported.
    Unreadable,
}

/// Days around today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stretch {
    /// `is today`
    Today,
    /// `in next 7 days`: today and the six after.
    Next(Period),
    /// `in last 7 days`: today and the six before.
    Last(Period),
}

/// A name and where it stands. Dots belong to it: `rfm.recency`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// As written.
    pub text: String,
    /// Bytes in the source.
    pub span: Range<usize>,
}

/// What stands between the parentheses of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    /// `'tea-letter'`
    Plain(Literal),
    /// `within: 30d`
    Named(Name, Literal),
    /// `where: page = '/oolong'`
    Where(Name, Box<Expr>),
    /// `sum >= 100`
    Condition(Name, Op, Literal),
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Literal {
    /// The value.
    pub kind: LiteralKind,
    /// Bytes in the source.
    pub span: Range<usize>,
}

/// See [`Literal`].
#[derive(Debug, Clone, PartialEq)]
pub enum LiteralKind {
    /// `'Taipei'`
    Text(String),
    /// `30`, `-1.5`
    Number(f64),
    /// `true`, `false`
    Boolean(bool),
    /// `30d`
    Duration(Period),
    /// `10%`, in millionths.
    Percent(u32),
    /// `today`, `today - 30d`; the amount of the period carries the sign.
    Today(Period),
    /// `region('EU')`: its countries, in a list.
    Region(String),
    /// Something that could not be read; its problem is already reported.
    Unreadable,
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
}

impl Op {
    /// As written in the language.
    pub fn symbol(self) -> &'static str {
        match self {
            Op::Equal => "=",
            Op::NotEqual => "!=",
            Op::Less => "<",
            Op::AtMost => "<=",
            Op::More => ">",
            Op::AtLeast => ">=",
        }
    }

    /// The operator that means the same with the sides exchanged.
    pub fn flipped(self) -> Op {
        match self {
            Op::Equal => Op::Equal,
            Op::NotEqual => Op::NotEqual,
            Op::Less => Op::More,
            Op::AtMost => Op::AtLeast,
            Op::More => Op::Less,
            Op::AtLeast => Op::AtMost,
        }
    }

    /// Whether a pair with this ordering (left to right) passes.
    pub fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Op::Equal => ordering.is_eq(),
            Op::NotEqual => ordering.is_ne(),
            Op::Less => ordering.is_lt(),
            Op::AtMost => ordering.is_le(),
            Op::More => ordering.is_gt(),
            Op::AtLeast => ordering.is_ge(),
        }
    }
}

/// A length of time in calendar units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// How many of the unit.
    pub amount: i64,
    /// The unit.
    pub unit: Unit,
}

/// See [`Period`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `h`: 60 minutes.
    Hour,
    /// `d`: 24 hours, or one calendar day where dates are compared.
    Day,
    /// `w`: 7 days.
    Week,
    /// `mo`: one calendar month (from the 31st to the last day of a shorter month).
    Month,
    /// `y`: one calendar year (from 29 February to the 28th).
    Year,
}

impl Unit {
    /// As written in the language.
    pub fn symbol(self) -> &'static str {
        match self {
            Unit::Hour => "h",
            Unit::Day => "d",
            Unit::Week => "w",
            Unit::Month => "mo",
            Unit::Year => "y",
        }
    }
}

/// How tightly an expression binds, for placing parentheses.
pub(super) fn strength(kind: &ExprKind) -> u8 {
    match kind {
        ExprKind::Or(terms) if terms.len() > 1 => 0,
        ExprKind::And(terms) if terms.len() > 1 => 1,
        ExprKind::Not(_) => 2,
        _ => 3,
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Or(terms) => write_terms(f, terms, " or ", 1),
            ExprKind::And(terms) => write_terms(f, terms, " and ", 2),
            ExprKind::Not(inner) => match &inner.kind {
                ExprKind::IsSet(name) => write!(f, "{name} is not set"),
                ExprKind::In(name, values) => write!(f, "{name} not in {}", Choices(values)),
                ExprKind::Recurs(name, Stretch::Today) => write!(f, "{name} is not today"),
                ExprKind::Recurs(name, stretch) => write!(f, "{name} not {stretch}"),
                _ => {
                    f.write_str("not ")?;
                    write_term(f, inner, 2)
                }
            },
            ExprKind::Field(name) => write!(f, "{name}"),
            ExprKind::Compare(name, op, value) => write!(f, "{name} {} {value}", op.symbol()),
            ExprKind::In(name, values) => write!(f, "{name} in {}", Choices(values)),
            ExprKind::Recurs(name, stretch) => write!(f, "{name} {stretch}"),
            ExprKind::Contains(name, value) => write!(f, "{name} contains {value}"),
            ExprKind::IsSet(name) => write!(f, "{name} is set"),
            ExprKind::Call(name, arguments) => write!(f, "{name}({})", List(arguments)),
            ExprKind::Unreadable => f.write_str("?"),
        }
    }
}

fn write_terms(f: &mut fmt::Formatter<'_>, terms: &[Expr], between: &str, least: u8) -> fmt::Result {
    for (index, term) in terms.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write_term(f, term, least)?;
    }
    Ok(())
}

fn write_term(f: &mut fmt::Formatter<'_>, term: &Expr, least: u8) -> fmt::Result {
    if strength(&term.kind) < least { write!(f, "({term})") } else { write!(f, "{term}") }
}

/// Values to choose from; a region alone needs no parentheses around it.
struct Choices<'a>(&'a [Literal]);

impl fmt::Display for Choices<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [region @ Literal { kind: LiteralKind::Region(_), .. }] => write!(f, "{region}"),
            values => write!(f, "({})", List(values)),
        }
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, period) = match self {
            Stretch::Today => return f.write_str("is today"),
            Stretch::Next(period) => ("next", period),
            Stretch::Last(period) => ("last", period),
        };
        let unit = if period.unit == Unit::Week { "week" } else { "day" };
        write!(f, "in {word} {} {unit}{}", period.amount, if period.amount == 1 { "" } else { "s" })
    }
}

/// Values with commas between them.
struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Argument::Plain(value) => write!(f, "{value}"),
            Argument::Named(name, value) => write!(f, "{name}: {value}"),
            Argument::Where(name, condition) => write!(f, "{name}: {condition}"),
            Argument::Condition(name, op, value) => write!(f, "{name} {} {value}", op.symbol()),
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            LiteralKind::Text(text) => f.write_str(&quote(text)),
            LiteralKind::Number(number) => write!(f, "{number}"),
            LiteralKind::Boolean(flag) => write!(f, "{flag}"),
            LiteralKind::Duration(period) => write!(f, "{period}"),
            LiteralKind::Percent(millionths) => f.write_str(&percent(*millionths)),
            LiteralKind::Today(period) if period.amount == 0 => f.write_str("today"),
            LiteralKind::Today(period) => {
                let sign = if period.amount < 0 { '-' } else { '+' };
                write!(f, "today {sign} {}{}", period.amount.abs(), period.unit.symbol())
            }
            LiteralKind::Region(name) => write!(f, "region({})", quote(name)),
            LiteralKind::Unreadable => f.write_str("?"),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.amount, self.unit.symbol())
    }
}

/// A text in single quotes, those inside doubled.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Millionths as a percentage without needless digits.
pub(super) fn percent(millionths: u32) -> String {
    let (whole, rest) = (millionths / 10_000, millionths % 10_000);
    if rest == 0 { format!("{whole}%") } else { format!("{whole}.{}%", format!("{rest:04}").trim_end_matches('0')) }
}
