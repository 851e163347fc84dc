//! Regions and their countries (`data/regions.toml`).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// The shipped table, checked by the tests below.
const SHIPPED: &str = include_str!("../../data/regions.toml");

static TABLE: LazyLock<BTreeMap<String, Region>> =
    LazyLock::new(|| toml::from_str(SHIPPED).expect("data/regions.toml is part of this program and tested"));

/// A region.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// For people.
    pub description: String,
    /// Two letters of ISO 3166 each.
    pub countries: Vec<String>,
}

/// Every region, by name.
pub fn all() -> impl Iterator<Item = (&'static str, &'static Region)> {
    TABLE.iter().map(|(name, region)| (name.as_str(), region))
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.keys().map(String::as_str)
}

/// The countries of a region, as written in rules.
pub(super) fn countries(region: &str) -> Option<&'static [String]> {
    TABLE.get(region).map(|region| region.countries.as_slice())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn of(region: &str) -> BTreeSet<&'static str> {
        countries(region).expect("a region").iter().map(String::as_str).collect()
    }

    #[test]
    fn every_country_is_two_letters_in_order_and_stands_once() {
        for (name, region) in all() {
            assert!(region.countries.iter().all(|code| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())), "{name}");
            assert!(region.countries.windows(2).all(|pair| pair[0] < pair[1]), "{name} is not in order");
            assert!(!region.description.is_empty());
        }
    }

    #[test]
    fn continents_share_no_country_and_have_all_but_antarctica() {
        let continents = ["Africa", "Americas", "Asia", "Europe", "Oceania"];
        let total: usize = continents.iter().map(|name| of(name).len()).sum();
        let together: BTreeSet<&str> = continents.iter().flat_map(|name| of(name)).collect();
        assert_eq!(total, together.len());
        // 249 codes of ISO 3166-1, Kosovo, without Antarctica.
        assert_eq!(together.len(), 249);
        for (name, region) in all() {
            assert!(region.countries.iter().all(|code| together.contains(code.as_str())), "{name}");
        }
    }

    #[test]
    fn bodies_have_as_many_members_as_they_say() {
        for (name, count) in [("EU", 27), ("EEA", 30), ("EFTA", 4), ("Eurozone", 21), ("ASEAN", 11), ("GCC", 6)] {
            assert_eq!(of(name).len(), count, "{name}");
        }
        assert!(of("Eurozone").is_subset(&of("EU")) && of("EU").is_subset(&of("EEA")));
        let americas: BTreeSet<&str> = of("Northern America").union(&of("Latin America")).copied().collect();
        assert_eq!(americas, of("Americas"));
    }
}
