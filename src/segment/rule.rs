//! A rule that can be used: names resolved, types checked, segments put in, and every `not` moved
//! down to the conditions (so that no third truth value can ever be negated).

use std::fmt;

use super::ast::{Op, Period};
use crate::behaviour::EventSchema;
use crate::config::{AttributeType, EngagementSettings};
use crate::consent::Standing;
use crate::contact::Date;

/// A checked rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub(super) root: Node,
}

/// Part of a [`Rule`].
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// All of these; of none: everyone.
    All(Vec<Node>),
    /// One of these at least; of none: nobody.
    Any(Vec<Node>),
    /// One condition or its opposite.
    Leaf {
        /// The condition.
        leaf: Leaf,
        /// Whether its opposite is meant.
        negated: bool,
        /// As written, in canonical form, without the `not`.
        text: String,
        /// The segment it was written in, where that is not the rule itself.
        within: Option<String>,
    },
}

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Leaf {
    /// The field has a value and it compares like this.
    Compare(Field, Op, Value),
    /// The field's value is one of these.
    OneOf(Field, Vec<Value>),
    /// The text has this part, or the list this value.
    Contains(Field, String),
    /// There is a value.
    IsSet(Field),
    /// The date, or an anniversary of it, falls on one of some days: `from` and `until` count from today, both
    /// included. Who was born on 29 February has their day on the 28th of other years.
    Recurs {
        /// A date.
        field: Field,
        /// First day, counted from today.
        from: i32,
        /// Last day, counted from today.
        until: i32,
    },
    /// Subscribed to this topic.
    Subscribed(String),
    /// Stands so with a topic, and since when.
    Standing {
        /// The topic's key.
        topic: String,
        /// Which standing.
        standing: Standing,
        /// Days that the beginning of it compares with.
        since: Vec<(Op, Moment)>,
        /// It began not longer ago than this.
        within: Option<Period>,
    },
    /// So many mails went so.
    Mail {
        /// What became of them.
        what: Mailed,
        /// Which ones.
        source: Source,
        /// At least so many; from 1.
        at_least: u32,
    },
    /// So many events of a kind.
    Did {
        /// The kind and its table.
        event: EventSchema,
        /// What their properties must be (fields of [`Home::Event`]).
        filter: Option<Box<Node>>,
        /// Not longer ago than this.
        within: Option<Period>,
        /// At least so many; from 1.
        at_least: u32,
    },
    /// Orders that are not void.
    Ordered {
        /// Not longer ago than this.
        within: Option<Period>,
        /// Only lines of this product (its id or, where no id is known by it, its name).
        product: Option<String>,
        /// Only lines of this category.
        category: Option<String>,
        /// At least so many orders; from 1.
        at_least: u32,
        /// What they come to together.
        together: Vec<Together>,
    },
    /// How they respond to mails; does not hold for whoever never got any.
    Engagement {
        /// On this topic; `None`: on all together.
        topic: Option<String>,
        /// What is asked.
        what: Engagement,
        /// How it compares.
        op: Op,
        /// With what: a text for [`Engagement::Stage`], a day for the `Last..`, else a number.
        value: Value,
        /// Half-life of the score, days of the stages.
        settings: EngagementSettings,
    },
    /// In a list that was frozen (table `frozen_list`).
    Frozen(String),
    /// So many opens or clicks came from them.
    Hit {
        /// Open or click.
        kind: HitKind,
        /// Of which mails.
        source: Source,
        /// The address clicked, as written in the content.
        link: Option<String>,
        /// Count machines too.
        any: bool,
        /// At least so many; from 1.
        at_least: u32,
    },
    /// Picked by [`super::random::bucket`].
    Random {
        /// Share of all contacts, in millionths.
        millionths: u32,
        /// Names the draw.
        seed: String,
    },
}

/// A condition on matching orders taken together.
#[derive(Debug, Clone, PartialEq)]
pub enum Together {
    /// Number of orders.
    Count(Op, i64),
    /// Sum of amounts, in ten-thousandths of a unit of the instance's currency. With a product or a category,
    /// that of the matching lines.
    Sum(Op, i64),
    /// Sum divided by number, compared without rounding: `sum op value * count`.
    Average(Op, i64),
    /// The calendar day (UTC) of the first one.
    First(Op, Moment),
    /// The calendar day (UTC) of the last one.
    Last(Op, Moment),
}

/// What became of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mailed {
    /// The relay took it, and it did not come back as undeliverable.
    Sent,
    /// The same: a mail that comes back stands as bounced.
    Delivered,
    /// Refused for good.
    Bounced,
}

/// What is asked about somebody's responses. Machines' and unknowable hits never count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engagement {
    /// `active`, `cooling` or `dormant`, by the days of `[engagement]` since the last sign of life: a human click
    /// or open or an order; where there is none, the beginning of the latest subscription that holds. On a topic:
    /// a human click or open of its mails, else the beginning of its subscription. Without any sign there is no stage.
    Stage,
    /// The decayed weight at `now`, from 0 up.
    Score,
    /// Hour of the day in the person's zone, 0 to 23.
    BestHour,
    /// Day of the week in the person's zone, 1 (Monday) to 7.
    BestWeekday,
    /// Calendar day (UTC) of the last human open.
    LastOpen,
    /// Calendar day (UTC) of the last human click.
    LastClick,
}

/// Which mails a condition speaks of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Source {
    /// Of this campaign.
    pub campaign: Option<String>,
    /// On this topic.
    pub topic: Option<String>,
    /// Not longer ago than this.
    pub within: Option<Period>,
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HitKind {
    /// The mail was looked at.
    Open,
    /// A link was followed.
    Click,
}

impl HitKind {
    /// As stored in `hit.kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            HitKind::Open => "open",
            HitKind::Click => "click",
        }
    }
}

/// A field of a contact.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// As written in rules.
    pub name: String,
    /// Column of the table `contact`.
    pub column: String,
    /// Its type.
    pub kind: AttributeType,
    /// One that every contact has (text), not a declared attribute.
    pub built_in: bool,
    /// Whose column it is.
    pub home: Home,
}

/// Where a field's column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In `contact`.
    Contact,
    /// In `score`; `column` is there.
    Score,
    /// In the table of an event.
    Event,
}

/// A value to compare with.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A finite number.
    Number(f64),
    /// Yes or no.
    Boolean(bool),
    /// A day.
    Date(Moment),
}

/// A day of the calendar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Moment {
    /// This one.
    Fixed(Date),
    /// Today (UTC), moved by a signed period.
    Today(Period),
}

impl Rule {
    /// The rule that picks everyone.
    pub fn everyone() -> Self {
        Rule { root: Node::All(Vec::new()) }
    }

    /// The rule that picks exactly those whom this one does not.
    pub fn negated(&self) -> Self {
        Rule { root: self.root.clone().negated() }
    }

    /// Those whom both rules pick.
    pub fn and(self, other: Rule) -> Self {
        Rule { root: Node::All(vec![self.root, other.root]) }
    }

    /// Its conditions and how they are joined.
    pub fn root(&self) -> &Node {
        &self.root
    }
}

impl Node {
    pub(super) fn negated(self) -> Node {
        match self {
            Node::All(nodes) => Node::Any(nodes.into_iter().map(Node::negated).collect()),
            Node::Any(nodes) => Node::All(nodes.into_iter().map(Node::negated).collect()),
            Node::Leaf { leaf, negated, text, within } => Node::Leaf { leaf, negated: !negated, text, within },
        }
    }
}

/// The whole rule with its segments put in, in words of the language where it has them.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_node(f, &self.root, false)
    }
}

fn write_node(f: &mut fmt::Formatter<'_>, node: &Node, inside_all: bool) -> fmt::Result {
    let (nodes, between, of_none) = match node {
        Node::All(nodes) => (nodes, " and ", "everyone"),
        Node::Any(nodes) => (nodes, " or ", "nobody"),
        Node::Leaf { text, negated: true, .. } => return write!(f, "not {text}"),
        Node::Leaf { text, .. } => return f.write_str(text),
    };
    if nodes.is_empty() {
        return f.write_str(of_none);
    }
    let grouped = inside_all && nodes.len() > 1 && matches!(node, Node::Any(_));
    if grouped {
        f.write_str("(")?;
    }
    for (index, inner) in nodes.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write_node(f, inner, matches!(node, Node::All(_)))?;
    }
    if grouped { f.write_str(")") } else { Ok(()) }
}
