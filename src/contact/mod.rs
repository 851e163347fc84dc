//! Who: contacts, their addresses and their declared attributes.

use std::collections::BTreeMap;

use crate::config::AttributeType;

pub mod address;
pub mod care;
pub mod csv;
pub mod duplicates;
pub mod encoding;
pub mod field;
pub mod identity;
pub mod import;
pub mod merge;
pub mod ops;
pub mod sql;

pub use address::{Address, AddressError};

/// Separates the values of a list inside its text column; also stands before the first and after
/// the last one, so that `contains` is a search for `\u{1f}value\u{1f}`. Removed from input.
pub const LIST_MARK: char = '\u{1f}';

/// Fields every contact has, beside the declared attributes.
pub const BUILT_IN_FIELDS: &[&str] = &["email", "first_name", "last_name", "locale", "timezone", "phone", "external_id"];

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeValue {
    /// Text.
    Text(String),
    /// A finite number.
    Number(f64),
    /// Yes or no.
    Boolean(bool),
    /// A calendar date.
    Date(Date),
    /// Several texts.
    List(Vec<String>),
}

impl AttributeValue {
    /// The type it is of.
    pub fn kind(&self) -> AttributeType {
        match self {
            AttributeValue::Text(_) => AttributeType::Text,
            AttributeValue::Number(_) => AttributeType::Number,
            AttributeValue::Boolean(_) => AttributeType::Boolean,
            AttributeValue::Date(_) => AttributeType::Date,
            AttributeValue::List(_) => AttributeType::List,
        }
    }
}

/// A calendar date, stored as the number `yyyymmdd` (so that it sorts, and month and day can be
/// read without a calendar).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(i64);

impl Date {
    /// From `yyyymmdd` as stored; `None` when that is no date.
    pub fn from_number(number: i64) -> Option<Self> {
        let (year, month, day) = (number / 10_000, number / 100 % 100, number % 100);
        jiff::civil::Date::new(i16::try_from(year).ok()?, month as i8, day as i8).ok().map(Date::from)
    }

    /// As stored: `yyyymmdd`.
    pub fn number(self) -> i64 {
        self.0
    }

    /// Parses `2026-12-01`, also with a time behind it, or `2026/12/01`.
    pub fn parse(text: &str) -> Option<Self> {
        let day = text.trim().split(['T', ' ']).next()?.replace('/', "-");
        day.parse::<jiff::civil::Date>().ok().filter(|date| date.year() > 0).map(Date::from)
    }

    /// For calendar arithmetic.
    pub fn civil(self) -> jiff::civil::Date {
        jiff::civil::date((self.0 / 10_000) as i16, (self.0 / 100 % 100) as i8, (self.0 % 100) as i8)
    }
}

impl From<jiff::civil::Date> for Date {
    fn from(date: jiff::civil::Date) -> Self {
        Date(i64::from(date.year()) * 10_000 + i64::from(date.month()) * 100 + i64::from(date.day()))
    }
}

/// ISO 8601: `2026-12-01`.
impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
    }
}

/// The declared attributes and the columns that hold them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schema {
    attributes: BTreeMap<String, AttributeType>,
}

impl Schema {
    /// From the configuration (names are checked there: `[a-z][a-z0-9_]*`, at most 50 characters).
    pub fn new(attributes: &BTreeMap<String, AttributeType>) -> Self {
        Schema { attributes: attributes.clone() }
    }

    /// Name and type of each declared attribute, by name.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, AttributeType)> {
        self.attributes.iter().map(|(name, kind)| (name.as_str(), *kind))
    }

    /// The type of a declared attribute.
    pub fn attribute(&self, name: &str) -> Option<AttributeType> {
        self.attributes.get(name).copied()
    }

    /// The column of a declared attribute: its type's letter, then its name. A changed type is a
    /// new column, so that no value is ever read as something it was not.
    pub fn column(name: &str, kind: AttributeType) -> String {
        let letter = match kind {
            AttributeType::Text => 't',
            AttributeType::Number => 'n',
            AttributeType::Boolean => 'b',
            AttributeType::Date => 'd',
            AttributeType::List => 'l',
        };
        format!("{letter}_{name}")
    }
}

/// A contact with its attributes.
#[derive(Debug, Clone, PartialEq)]
pub struct Contact {
    /// Our id.
    pub id: i64,
    /// The address as given (case kept).
    pub email: String,
    /// The address as compared: lower case, NFC, domain in A-labels.
    pub email_key: String,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// Language tag such as `zh-Hant-TW`.
    pub locale: Option<String>,
    /// IANA zone.
    pub timezone: Option<String>,
    /// Telephone number as given.
    pub phone: Option<String>,
    /// The number another system knows this person by.
    pub external_id: Option<String>,
    /// Declared attributes that are set.
    pub attributes: BTreeMap<String, AttributeValue>,
}
