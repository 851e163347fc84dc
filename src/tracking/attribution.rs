//! Which mails an order came of. Pure: clicks by people and an order in, shares out.
//!
//! - A **touch** is a human click on a link of a campaign's mail, not after the order and not longer before it
//!   than `within_days` of that campaign. Clicks that nobody in particular made touch nobody.
//! - Touches may be of campaigns that share in different ways. The one clicked last decides how the whole order
//!   is shared, so that its shares always sum up to one order.
//! - `last_click` and `first_click` give it to the link of the last and the first touch; of touches in the same
//!   millisecond, the later mail (by id), then the later link, is the last one. `linear` shares alike among the
//!   mails, and each mail's share alike among its links that were touched.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::{DAY, Time};
use crate::config::{Attribution, AttributionModel};

/// One order, in the parts in which shares are counted.
pub const WHOLE: i64 = 1_000_000;

/// A human click on a link of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touch {
    /// When.
    pub at: Time,
    /// The mail.
    pub delivery_id: i64,
    /// The link's position.
    pub link: i64,
    /// The run.
    pub run_id: i64,
}

/// A link's part of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The mail.
    pub delivery_id: i64,
    /// The link's position.
    pub link: i64,
    /// The run.
    pub run_id: i64,
    /// Of [`WHOLE`].
    pub share: i64,
}

/// How far before an order a click counts, in milliseconds.
pub fn window(rule: Attribution) -> i64 {
    i64::from(rule.within_days) * DAY
}

/// Shares an order among the touches before it. Empty, or parts that sum up to [`WHOLE`], by mail and link.
pub fn share(order_at: Time, touches: &[Touch], rule_of: &impl Fn(i64) -> Attribution) -> Vec<Part> {
    let counts = |touch: &&Touch| touch.at <= order_at && order_at.since(touch.at) <= window(rule_of(touch.run_id));
    let mut counted: Vec<&Touch> = touches.iter().filter(counts).collect();
    counted.sort_unstable();
    let (Some(first), Some(last)) = (counted.first(), counted.last()) else { return Vec::new() };
    let whole = |touch: &Touch| vec![Part { delivery_id: touch.delivery_id, link: touch.link, run_id: touch.run_id, share: WHOLE }];
    match rule_of(last.run_id).model {
        AttributionModel::LastClick => whole(last),
        AttributionModel::FirstClick => whole(first),
        AttributionModel::Linear => alike(&counted),
    }
}

fn alike(touches: &[&Touch]) -> Vec<Part> {
    let mut mails: BTreeMap<(i64, i64), BTreeSet<i64>> = BTreeMap::new();
    for touch in touches {
        mails.entry((touch.delivery_id, touch.run_id)).or_default().insert(touch.link);
    }
    let mut parts = Vec::new();
    for (((delivery_id, run_id), links), of_mail) in mails.iter().zip(evenly(WHOLE, mails.len())) {
        for (link, share) in links.iter().zip(evenly(of_mail, links.len())) {
            parts.push(Part { delivery_id: *delivery_id, link: *link, run_id: *run_id, share });
        }
    }
    parts
}

/// `whole` in so many parts; the first ones are larger by one where it does not divide.
fn evenly(whole: i64, parts: usize) -> impl Iterator<Item = i64> {
    let count = i64::try_from(parts).unwrap_or(i64::MAX).max(1);
    (0..parts).map(move |at| whole / count + i64::from(at < usize::try_from(whole % count).unwrap_or_default()))
}

/// What each share of an order of `amount` is worth. Sums up to the amount: what rounding leaves goes to the
/// largest remainders, of two alike to the earlier one.
pub fn worth(amount: i64, shares: &[i64]) -> Vec<i64> {
    let exact = |share: i64| i128::from(amount) * i128::from(share);
    let mut parts: Vec<i64> =
        shares.iter().map(|share| i64::try_from(exact(*share).div_euclid(i128::from(WHOLE))).unwrap_or_default()).collect();
    let mut by_remainder: Vec<usize> = (0..shares.len()).collect();
    by_remainder.sort_by_key(|at| (std::cmp::Reverse(exact(shares[*at]).rem_euclid(i128::from(WHOLE))), *at));
    let left = usize::try_from(amount - parts.iter().sum::<i64>()).unwrap_or_default();
    for at in by_remainder.into_iter().take(left) {
        parts[at] += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAYS: Attribution = Attribution { model: AttributionModel::LastClick, within_days: 7 };

    fn touch(day: i64, delivery_id: i64, link: i64) -> Touch {
        Touch { at: Time::from_millis(day * DAY), delivery_id, link, run_id: delivery_id / 10 }
    }

    fn shares(model: AttributionModel, touches: &[Touch]) -> Vec<(i64, i64, i64)> {
        let rule = |_: i64| Attribution { model, ..DAYS };
        let parts = share(Time::from_millis(10 * DAY), touches, &rule);
        parts.into_iter().map(|part| (part.delivery_id, part.link, part.share)).collect()
    }

    #[test]
    fn each_model_gives_the_order_to_whom_it_says() {
        use AttributionModel::{FirstClick, LastClick, Linear};
        // Too old, the first that counts, twice the same, after the order.
        let touches = [touch(2, 10, 0), touch(3, 11, 4), touch(9, 12, 1), touch(5, 12, 2), touch(9, 12, 1), touch(11, 13, 0)];
        assert_eq!(shares(LastClick, &touches), [(12, 1, WHOLE)]);
        assert_eq!(shares(FirstClick, &touches), [(11, 4, WHOLE)]);
        assert_eq!(shares(Linear, &touches), [(11, 4, 500_000), (12, 1, 250_000), (12, 2, 250_000)]);
        assert_eq!(shares(Linear, &touches[..1]), []);
        // At the edges, and in the same millisecond.
        let ties = [touch(3, 21, 0), touch(3, 20, 9), touch(10, 31, 0), touch(10, 30, 9), touch(10, 31, 2)];
        assert_eq!(shares(FirstClick, &ties), [(20, 9, WHOLE)]);
        assert_eq!(shares(LastClick, &ties), [(31, 2, WHOLE)]);
        assert_eq!(shares(Linear, &[touch(9, 1, 0), touch(9, 2, 0), touch(9, 3, 0)]), [(1, 0, 333_334), (2, 0, 333_333), (3, 0, 333_333)]);
    }

    #[test]
    fn the_campaign_clicked_last_decides_and_each_has_its_own_window() {
        let rule = |run_id: i64| match run_id {
            1 => Attribution { model: AttributionModel::Linear, within_days: 1 },
            _ => Attribution { model: AttributionModel::FirstClick, within_days: 9 },
        };
        let at = |touches: &[Touch]| {
            let parts = share(Time::from_millis(10 * DAY), touches, &rule);
            parts.iter().map(|part| (part.delivery_id, part.share)).collect::<Vec<_>>()
        };
        assert_eq!(at(&[touch(2, 20, 0), touch(5, 11, 0), touch(10, 10, 0)]), [(10, 500_000), (20, 500_000)]);
        assert_eq!(at(&[touch(2, 20, 0), touch(8, 21, 0), touch(5, 11, 0)]), [(20, WHOLE)]);
    }

    proptest! {
        #[test]
        fn shares_sum_up_to_an_order_and_amounts_to_its_worth(
            clicks in proptest::collection::vec((0_i64..14, 1_i64..40, 0_i64..5), 0..30),
            amount in 0_i64..4_000_000_000_000,
        ) {
            let touches: Vec<Touch> = clicks.into_iter().map(|(day, mail, link)| touch(day, mail, link)).collect();
            let models = [AttributionModel::LastClick, AttributionModel::FirstClick, AttributionModel::Linear];
            let rule = |run_id: i64| Attribution { model: models[usize::try_from(run_id % 3).unwrap_or_default()], within_days: 5 };
            let parts = share(Time::from_millis(10 * DAY), &touches, &rule);
            let any = touches.iter().any(|touch| (5..=10).contains(&(touch.at.millis() / DAY)));
            prop_assert_eq!(parts.iter().map(|part| part.share).sum::<i64>(), if any { WHOLE } else { 0 });
            let shares: Vec<i64> = parts.iter().map(|part| part.share).collect();
            let worths = worth(amount, &shares);
            prop_assert_eq!(worths.iter().sum::<i64>(), if any { amount } else { 0 });
            for (share, worth) in shares.iter().zip(&worths) {
                let exact = amount as f64 * *share as f64 / WHOLE as f64;
                prop_assert!((*worth as f64 - exact).abs() <= 1.0);
            }
            // The same clicks in another order.
            let turned: Vec<Touch> = touches.iter().rev().copied().collect();
            prop_assert_eq!(share(Time::from_millis(10 * DAY), &turned, &rule), parts);
        }
    }
}
