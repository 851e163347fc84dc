//! Which networks touch mails of many people within seconds: `network_touch`, some rows for each network that
//! clicks, for an hour. A scanner of many mailboxes is found by it, also by several nodes together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::judge_sequence::{MANY, MANY_MORE};
use crate::args;
use crate::clock::{HOUR, SECOND, Time};
use crate::db::{DbError, Rows, Tx};

/// Clicks are gathered by so long; a click looks at its own slot and its two neighbours.
const SLOT_MS: i64 = 5 * SECOND;
/// Slots are kept for so long: a group may come late, not an hour.
const KEPT_MS: i64 = HOUR;

/// Slot and network.
type Place = (i64, String);

/// Which deliveries a network touched, in one slot.
#[derive(Debug, Default)]
pub(super) struct Networks {
    touched: HashMap<Place, BTreeSet<i64>>,
}

fn slot(at: Time) -> i64 {
    at.millis().div_euclid(SLOT_MS)
}

impl Networks {
    /// Takes clicks: delivery, network and time. Answers what is known now, and the deliveries whose clicks
    /// look different for it.
    pub(super) async fn touch(tx: &mut Tx, clicks: &[(i64, &str, Time)]) -> Result<(Networks, BTreeSet<i64>), DbError> {
        if clicks.is_empty() {
            return Ok((Networks::default(), BTreeSet::new()));
        }
        let mut networks = Networks::read(tx, clicks).await?;
        let newest = clicks.iter().map(|click| slot(click.2)).max().unwrap_or_default();
        let begun = !networks.touched.keys().any(|place| place.0 >= newest);
        let places: BTreeSet<Place> = clicks.iter().map(|(_, network, at)| (slot(*at), (*network).to_owned())).collect();
        let before: Vec<usize> = places.iter().map(|place| networks.around(place.0, &place.1).len()).collect();
        let mut grown = BTreeSet::new();
        for (delivery_id, network, at) in clicks {
            let place = (slot(*at), (*network).to_owned());
            let known = networks.touched.entry(place.clone()).or_default();
            // More say no more.
            if known.len() < MANY_MORE && known.insert(*delivery_id) {
                grown.insert(place);
            }
        }
        let mut changed = BTreeSet::new();
        for (place, before) in places.iter().zip(before) {
            let around = networks.around(place.0, &place.1);
            if [MANY, MANY_MORE].iter().any(|many| before < *many && around.len() >= *many) {
                changed.extend(around);
            }
        }
        networks.write(tx, &grown).await?;
        if begun {
            let kept = newest - KEPT_MS / SLOT_MS;
            tx.execute("DELETE FROM network_touch WHERE slot < $1", args![kept]).await?;
        }
        Ok((networks, changed))
    }

    /// How many people's mails `network` touched about `at`, as far as it was looked up; [`MANY_MORE`] at most.
    pub(super) fn recipients(&self, network: &str, at: Time) -> usize {
        self.around(slot(at), network).len()
    }

    fn around(&self, slot: i64, network: &str) -> BTreeSet<i64> {
        let places = (slot - 1..=slot + 1).filter_map(|slot| self.touched.get(&(slot, network.to_owned())));
        places.flatten().copied().take(MANY_MORE * 3).collect()
    }

    /// Clicks of a block, without a look at the table.
    pub(super) fn of_block<'a>(clicks: impl Iterator<Item = (i64, &'a str, Time)>) -> Networks {
        let mut networks = Networks::default();
        for (delivery_id, network, at) in clicks {
            let known = networks.touched.entry((slot(at), network.to_owned())).or_default();
            if known.len() < MANY_MORE {
                known.insert(delivery_id);
            }
        }
        networks
    }

    async fn read(tx: &mut Tx, clicks: &[(i64, &str, Time)]) -> Result<Networks, DbError> {
        let around = |at: Time| slot(at) - 1..=slot(at) + 1;
        let places: BTreeSet<(i64, &str)> = clicks.iter().flat_map(|click| around(click.2).map(|slot| (slot, click.1))).collect();
        let found = tx
            .bulk_fetch(
                "SELECT t.slot, t.network, t.deliveries FROM {rows} JOIN network_touch t ON t.slot = v.slot AND t.network = v.network",
                Vec::new(),
                Rows::new().i64("slot", places.iter().map(|place| place.0)).text("network", places.iter().map(|place| place.1)),
            )
            .await?;
        let mut networks = Networks::default();
        for row in found {
            let deliveries: String = row.get(2)?;
            networks.touched.insert((row.get(0)?, row.get(1)?), deliveries.split(' ').filter_map(|id| id.parse().ok()).collect());
        }
        Ok(networks)
    }

    async fn write(&self, tx: &mut Tx, grown: &BTreeSet<Place>) -> Result<(), DbError> {
        let rows: BTreeMap<&Place, String> = grown
            .iter()
            .filter_map(|place| {
                let ids: Vec<String> = self.touched.get(place)?.iter().map(i64::to_string).collect();
                Some((place, ids.join(" ")))
            })
            .collect();
        tx.bulk(
            "INSERT INTO network_touch (slot, network, deliveries)
             SELECT v.slot, v.network, v.deliveries FROM {rows} WHERE TRUE ORDER BY v.slot, v.network
             ON CONFLICT (slot, network) DO UPDATE SET deliveries = excluded.deliveries",
            Vec::new(),
            Rows::new()
                .i64("slot", rows.keys().map(|place| place.0))
                .text("network", rows.keys().map(|place| place.1.as_str()))
                .text("deliveries", rows.values().map(String::as_str)),
        )
        .await?;
        Ok(())
    }
}
