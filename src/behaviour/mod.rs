//! What they did outside mail: orders, visits, events of a shop's own.
//!
//! Each kind of events has a table of its own (`did_NAME`, see [`EventSchema`]). Whatever comes, comes through
//! [`ops::record`]: repeated, late, corrected, out of order, it leaves the same rows.

pub mod import;
pub mod money;
pub mod ops;
pub mod orders;
pub mod people;
pub mod person;
pub mod read;
mod record_events;
mod record_orders;
pub mod schema;
pub mod sql;

pub mod decay;
pub mod merge;
pub mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::{DAY, Time};
use crate::config::{AttributeType, EventType};
use crate::contact::import::Cell;
use crate::contact::{Address, Schema};

pub use people::{Person, resolve};

/// Parts of a unit of currency in which amounts are counted: four digits, so that a rate may apply to cents
/// and sums stay exact.
pub const PARTS: i64 = 10_000;
/// Longest id of an event, order, refund or product, in characters. PostgreSQL cannot index texts beyond some 2,700
/// bytes.
pub const MAX_KEY_CHARACTERS: usize = 200;
/// Longest text of a property or of a product's name, in characters.
pub const MAX_TEXT_CHARACTERS: usize = 2_000;
/// Longest name of a product: it stands in an index, of which PostgreSQL takes 2,704 bytes an entry.
pub const MAX_PRODUCT_CHARACTERS: usize = 500;
/// Most lines of one order: they are in memory together.
pub const MAX_ORDER_LINES: usize = 10_000;
/// How far in the future something may be said to have happened, in milliseconds: clocks differ, zones are mistaken.
pub const MAX_AHEAD_MS: i64 = DAY;
/// Kinds of events that are orders, whatever `events.toml` declares.
pub const ORDER: &str = "order";
/// An event that gives an order, or part of it, back.
pub const REFUND: &str = "refund";

/// What is declared about one kind of event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventSchema {
    /// Its name.
    pub name: String,
    /// Properties, typed.
    pub properties: BTreeMap<String, AttributeType>,
}

impl EventSchema {
    /// From `events.toml`.
    pub fn new(name: &str, event: &EventType) -> Self {
        EventSchema { name: name.to_owned(), properties: event.properties.clone() }
    }

    /// All that an instance declares, by name.
    pub fn all(events: &BTreeMap<String, EventType>) -> BTreeMap<String, EventSchema> {
        events.iter().map(|(name, event)| (name.clone(), EventSchema::new(name, event))).collect()
    }

    /// The table that holds its events.
    pub fn table(&self) -> String {
        format!("did_{}", self.name)
    }

    /// The column of a property, typed as attributes of contacts are.
    pub fn column(&self, property: &str) -> Option<String> {
        self.properties.get(property).map(|kind| Schema::column(property, *kind))
    }

    /// The columns of all properties, by name of the property.
    pub fn columns(&self) -> Vec<String> {
        self.properties.iter().map(|(name, kind)| Schema::column(name, *kind)).collect()
    }
}

/// Whom something is about, as its sender names them. Where both are given, the address counts first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// An address.
    pub address: Option<Address>,
    /// The number in the sender's system.
    pub external_id: Option<Arc<str>>,
}

impl Who {
    /// Nobody is named.
    pub fn is_empty(&self) -> bool {
        self.address.is_none() && self.external_id.is_none()
    }
}

/// Something that somebody did, or that happened to an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// An event of a declared kind.
    Event {
        /// The kind.
        kind: String,
        /// What of it.
        event: NewEvent,
    },
    /// An order as a whole.
    Order(NewOrder),
    /// Something of an order is given back.
    Refund(NewRefund),
}

impl Item {
    /// Whom it is about.
    pub fn who(&self) -> &Who {
        match self {
            Item::Event { event, .. } => &event.who,
            Item::Order(order) => &order.who,
            Item::Refund(refund) => &refund.who,
        }
    }
}

/// An event as its sender has it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The sender's id, one of its kind.
    pub key: Arc<str>,
    /// Whose.
    pub who: Who,
    /// When it happened.
    pub at: Time,
    /// Of two statements about an event the higher one holds, of two alike the later one.
    pub revision: i64,
    /// It did not happen after all.
    pub retracted: bool,
    /// One for each property of its kind, by name.
    pub values: Vec<Option<Cell>>,
}

/// An order as its sender has it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewOrder {
    /// The sender's id.
    pub key: Arc<str>,
    /// Whose.
    pub who: Who,
    /// When it was placed.
    pub at: Time,
    /// ISO 4217.
    pub currency: Arc<str>,
    /// What a unit of that is worth in the instance's currency.
    pub rate: f64,
    /// As of an event.
    pub revision: i64,
    /// At least one that was bought.
    pub lines: Vec<NewLine>,
}

/// A line of an order, in its currency.
#[derive(Debug, Clone, PartialEq)]
pub struct NewLine {
    /// The sender's id of the product.
    pub product_id: Option<Arc<str>>,
    /// Its name.
    pub product: Option<Arc<str>>,
    /// Its category.
    pub category: Option<Arc<str>>,
    /// How many; negative for a return.
    pub quantity: f64,
    /// What was paid for all of them, in [`PARTS`]; negative for a return.
    pub paid: i64,
    /// What of that was given back.
    pub given_back: GivenBack,
}

impl NewLine {
    /// It gives something back that was bought.
    pub fn is_return(&self) -> bool {
        self.paid < 0 || self.quantity < 0.0
    }
}

/// How much of a line was refunded, as the line itself says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenBack {
    /// Nothing.
    Nothing,
    /// So much, in [`PARTS`].
    Part(i64),
    /// The whole line.
    All,
}

/// A refund that comes by itself, perhaps before its order.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRefund {
    /// The sender's id.
    pub key: Arc<str>,
    /// The order's id.
    pub order: Arc<str>,
    /// Who is said to get it; the order decides.
    pub who: Who,
    /// When.
    pub at: Time,
    /// Only of this product.
    pub product_id: Option<Arc<str>>,
    /// The same by its name.
    pub product: Option<Arc<str>>,
    /// How much, in [`PARTS`]; `None`: all of it.
    pub amount: Option<i64>,
    /// ISO 4217; empty for that of the order.
    pub currency: Arc<str>,
    /// What a unit of that is worth in the instance's currency.
    pub rate: f64,
    /// As of an event.
    pub revision: i64,
}

/// What became of something that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is new.
    Added,
    /// It was known otherwise.
    Updated,
    /// It was known, or something newer is.
    Unchanged,
    /// It was not taken.
    Rejected {
        /// The field to blame; empty for all of it.
        field: &'static str,
        /// Why.
        reason: String,
    },
}
