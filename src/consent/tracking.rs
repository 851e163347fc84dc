//! How somebody's opens and clicks are recorded: their own choice, else what holds for their country,
//! else what holds for the instance (ePrivacy 5(3); CNIL 2026-042).

use std::collections::{BTreeMap, HashMap};

use super::Tracking;
use crate::config::{self, TrackingDefault};
use crate::contact::{AttributeValue, Contact};
use crate::db::{DbError, Rows, Tx};

impl From<TrackingDefault> for Tracking {
    fn from(default: TrackingDefault) -> Tracking {
        match default {
            TrackingDefault::Full => Tracking::Full,
            TrackingDefault::Anonymous => Tracking::Anonymous,
            TrackingDefault::None => Tracking::None,
        }
    }
}

/// Why somebody is tracked as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// They chose it.
    Chosen,
    /// It holds for people of their country (two letters).
    Country(String),
    /// It holds for everybody who chose nothing.
    Instance,
}

/// What holds for people who chose nothing: `[consent]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackingRules {
    default: Tracking,
    by_country: BTreeMap<String, Tracking>,
    country_attribute: Option<String>,
}

impl Default for TrackingRules {
    fn default() -> Self {
        TrackingRules { default: Tracking::Full, by_country: BTreeMap::new(), country_attribute: None }
    }
}

impl TrackingRules {
    /// From the configuration.
    pub fn new(consent: &config::Consent) -> Self {
        TrackingRules {
            default: consent.tracking.into(),
            by_country: consent.tracking_by_country.iter().map(|(country, tracking)| (country.clone(), (*tracking).into())).collect(),
            country_attribute: consent.country_attribute.as_ref().map(|name| name.value.clone()),
        }
    }

    /// The choice of a person, else what holds for their country, else for the instance.
    pub fn decide(&self, choice: Option<Tracking>, country: Option<&str>) -> (Tracking, Why) {
        if let Some(choice) = choice {
            return (choice, Why::Chosen);
        }
        let country = country.map(|country| country.trim().to_ascii_uppercase()).unwrap_or_default();
        match self.by_country.get(&country) {
            Some(tracking) => (*tracking, Why::Country(country)),
            None => (self.default, Why::Instance),
        }
    }

    /// The same for a person whose attributes were read.
    pub fn of(&self, choice: Option<Tracking>, contact: &Contact) -> (Tracking, Why) {
        self.decide(choice, self.country(contact))
    }

    /// The country of a person, where it is known and matters.
    pub fn country<'a>(&self, contact: &'a Contact) -> Option<&'a str> {
        match contact.attributes.get(self.country_attribute.as_deref()?) {
            Some(AttributeValue::Text(country)) => Some(country),
            _ => None,
        }
    }

    /// The column of `contact` that holds a country, where one matters.
    fn country_column(&self) -> Option<String> {
        let name = self.country_attribute.as_deref().filter(|_| !self.by_country.is_empty())?;
        Some(crate::contact::Schema::column(name, config::AttributeType::Text))
    }
}

/// What these people chose; whoever chose nothing is left out. One look-up for all of them.
pub async fn choices(tx: &mut Tx, contacts: &[i64]) -> Result<HashMap<i64, Tracking>, DbError> {
    let rows = tx
        .bulk_fetch(
            "SELECT v.contact_id, c.tracking
             FROM {rows} JOIN consent_choice c ON c.contact_id = v.contact_id
             WHERE c.tracking IS NOT NULL",
            Vec::new(),
            Rows::new().i64("contact_id", contacts.iter().copied()),
        )
        .await?;
    let read = |text: String| Tracking::from_stored(&text);
    rows.iter().filter_map(|row| Some((row.get(0), read(row.get(1).ok()?)?))).map(|(id, tracking)| Ok((id?, tracking))).collect()
}

/// How these people are tracked now; whoever is gone is left out.
pub async fn effective(tx: &mut Tx, rules: &TrackingRules, contacts: &[i64]) -> Result<HashMap<i64, Tracking>, DbError> {
    let column = rules.country_column();
    let country = column.as_ref().map_or("NULL".to_owned(), |column| format!("c.{column}"));
    let rows = tx
        .bulk_fetch(
            &format!(
                "SELECT c.id, x.tracking, {country}
                 FROM {{rows}} JOIN contact c ON c.id = v.contact_id
                 LEFT JOIN consent_choice x ON x.contact_id = v.contact_id"
            ),
            Vec::new(),
            Rows::new().i64("contact_id", contacts.iter().copied()),
        )
        .await?;
    let mut out = HashMap::with_capacity(rows.len());
    for row in &rows {
        let chosen: Option<String> = row.get(1)?;
        let country: Option<String> = if column.is_some() { row.get(2)? } else { None };
        out.insert(row.get(0)?, rules.decide(chosen.as_deref().and_then(Tracking::from_stored), country.as_deref()).0);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_outweighs_the_country_and_that_the_instance() {
        let rules = TrackingRules {
            default: Tracking::Anonymous,
            by_country: [("FR".to_owned(), Tracking::None), ("TW".to_owned(), Tracking::Full)].into(),
            country_attribute: None,
        };
        assert_eq!(rules.decide(None, None), (Tracking::Anonymous, Why::Instance));
        assert_eq!(rules.decide(None, Some(" fr ")), (Tracking::None, Why::Country("FR".to_owned())));
        assert_eq!(rules.decide(None, Some("DE")), (Tracking::Anonymous, Why::Instance));
        assert_eq!(rules.decide(Some(Tracking::Full), Some("FR")), (Tracking::Full, Why::Chosen));
        assert_eq!(rules.decide(Some(Tracking::None), Some("TW")), (Tracking::None, Why::Chosen));
    }
}
