//! All that rules ask about somebody, as the database had it at one moment.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Time;
use crate::consent::Standing;
use crate::contact::{AttributeValue, Contact};
use crate::segment::rule::HitKind;

/// A contact with all that rules ask about.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Who.
    pub contact: Contact,
    /// Merged into another contact: in no segment.
    pub merged: bool,
    /// Where they stand, by the topic's key, and since when.
    pub standings: BTreeMap<String, (Standing, Time)>,
    /// Mails of campaigns that left or came back, oldest first.
    pub mails: Vec<MailFact>,
    /// What came back from them, oldest first.
    pub hits: Vec<HitFact>,
    /// The same added up by mail and link.
    pub totals: Vec<TotalFact>,
    /// Orders that are not void, oldest first.
    pub orders: Vec<OrderFact>,
    /// Lines of orders that were not given back.
    pub lines: Vec<LineFact>,
    /// All orders added up; `None` where there was none.
    pub order_total: Option<OrderTotal>,
    /// Events by their kind's name, oldest first.
    pub events: BTreeMap<String, Vec<EventFact>>,
    /// How they respond, by the topic's key; `None`: to all.
    pub engagement: BTreeMap<Option<String>, EngagementFact>,
    /// Scores that are set, by the column of the table `score`.
    pub scores: BTreeMap<String, AttributeValue>,
    /// Frozen lists they are in.
    pub frozen: BTreeSet<String>,
}

impl Person {
    /// Somebody of whom nothing but this is known.
    pub fn new(contact: Contact) -> Self {
        Person {
            contact,
            merged: false,
            standings: BTreeMap::new(),
            mails: Vec::new(),
            hits: Vec::new(),
            totals: Vec::new(),
            orders: Vec::new(),
            lines: Vec::new(),
            order_total: None,
            events: BTreeMap::new(),
            engagement: BTreeMap::new(),
            scores: BTreeMap::new(),
            frozen: BTreeSet::new(),
        }
    }
}

/// A mail that left or came back.
#[derive(Debug, Clone, PartialEq)]
pub struct MailFact {
    /// The run's campaign; `None` where the run is gone.
    pub campaign: Option<String>,
    /// The run's topic.
    pub topic: Option<String>,
    /// When it left or came back.
    pub at: Time,
    /// Refused for good; else it was taken.
    pub bounced: bool,
}

/// An open or a click.
#[derive(Debug, Clone, PartialEq)]
pub struct HitFact {
    /// Which of both.
    pub kind: HitKind,
    /// The run's campaign; `None` where the run is gone.
    pub campaign: Option<String>,
    /// The run's topic.
    pub topic: Option<String>,
    /// The address behind the link clicked.
    pub url: Option<String>,
    /// When; the last time of several.
    pub at: Time,
    /// Judged to come from a human.
    pub human: bool,
    /// How often: more than once where older hits were put together.
    pub times: i64,
}

/// Hits of one mail on one link, or of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct TotalFact {
    /// -1: opens; -2: clicks on any link; else a link.
    pub link: i64,
    /// The run's campaign; `None` where the run is gone.
    pub campaign: Option<String>,
    /// The run's topic.
    pub topic: Option<String>,
    /// The address behind the link.
    pub url: Option<String>,
    /// Hits of humans.
    pub human: i64,
    /// All hits.
    pub any: i64,
    /// The last one of a human.
    pub last_at: Option<Time>,
}

/// An order.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderFact {
    /// When.
    pub at: Time,
    /// In ten-thousandths of a unit, less what was given back.
    pub amount: i64,
}

/// A line of an order.
#[derive(Debug, Clone, PartialEq)]
pub struct LineFact {
    /// Its order.
    pub order: i64,
    /// When.
    pub at: Time,
    /// The id of its product or, where it has none, its name.
    pub product: Option<String>,
    /// The product's category.
    pub category: Option<String>,
    /// In ten-thousandths of a unit.
    pub amount: i64,
}

/// All orders added up.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderTotal {
    /// How many.
    pub orders: i64,
    /// In ten-thousandths of a unit.
    pub amount: i64,
    /// The first one.
    pub first_at: Time,
    /// The last one.
    pub last_at: Time,
}

/// Something they did.
#[derive(Debug, Clone, PartialEq)]
pub struct EventFact {
    /// When.
    pub at: Time,
    /// Properties that are set, by their column.
    pub properties: BTreeMap<String, AttributeValue>,
}

/// A row of the table `engagement`.
#[derive(Debug, Clone, PartialEq)]
pub struct EngagementFact {
    /// The decayed weight as stored.
    pub weight: f64,
    /// The last open of a human.
    pub last_open_at: Option<Time>,
    /// The last click of a human.
    pub last_click_at: Option<Time>,
    /// Hour of the day.
    pub best_hour: Option<i64>,
    /// Day of the week, 1 for Monday.
    pub best_weekday: Option<i64>,
}
