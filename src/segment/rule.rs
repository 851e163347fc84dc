//! A rule that can be used: names resolved, types checked, segments put in, and every `not` moved
//! down to the conditions (so that no third truth value can ever be negated).

use std::fmt;

use super::ast::{Op, Period};
use crate::config::AttributeType;
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
    /// Subscribed to this topic.
    Subscribed(String),
    /// So many mails were sent to them.
    Sent {
        /// Which ones.
        source: Source,
        /// At least so many; from 1.
        at_least: u32,
    },
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
