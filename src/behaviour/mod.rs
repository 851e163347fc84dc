//! What they did outside mail: orders, visits, events of a shop's own.

pub mod stage;
pub mod merge;

use std::collections::BTreeMap;

use crate::config::{AttributeType, EventType};
use crate::contact::Schema;

/// Parts of a unit of currency in which amounts are counted: four digits, so that a rate may apply to cents
/// and sums stay exact.
pub const PARTS: i64 = 10_000;

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

    /// The table that holds its events.
    pub fn table(&self) -> String {
        format!("did_{}", self.name)
    }

    /// The column of a property, typed as attributes of contacts are.
    pub fn column(&self, property: &str) -> Option<String> {
        self.properties.get(property).map(|kind| Schema::column(property, *kind))
    }
}
