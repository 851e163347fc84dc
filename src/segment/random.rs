//! A stable draw: which millionth of all contacts somebody belongs to.
//!
//! The number must come out alike in Rust, SQLite and PostgreSQL from whole numbers of 63 bits, so
//! it uses nothing but `+`, `*`, `%` and `/`: the id modulo a prime is put into a polynomial of the
//! fourth degree modulo that prime, whose five coefficients are taken from the SHA-256 of the seed.
//! Such a family is five-wise independent (Carter and Wegman), so neighbouring ids and two seeds
//! have nothing to do with each other; a mere factor (or several in a row) keeps the order of ids
//! that were made together visible. The prime is below 2^31, so a product stays below 2^62 and no
//! engine overflows.
//!
//! Shares of one seed are nested: who is in `random(10%)` is also in `random(20%)`.

use sha2::{Digest, Sha256};

/// Number of buckets; a share of 10% is the buckets below 100,000.
pub const BUCKETS: i64 = 1_000_000;

/// The modulus: 2^31 - 1, a prime.
const PRIME: i64 = 2_147_483_647;

/// The bucket of a contact in the draw named by `seed`, from 0 to [`BUCKETS`] - 1.
pub fn bucket(contact_id: i64, seed: &str) -> i64 {
    let [first, rest @ ..] = coefficients(seed);
    let id = contact_id % PRIME;
    let mixed = rest.iter().fold(first, |sum, coefficient| (sum * id + coefficient) % PRIME);
    mixed * BUCKETS / PRIME
}

/// [`bucket`] as an SQL expression over a column.
pub(super) fn bucket_sql(column: &str, seed: &str) -> String {
    let [first, rest @ ..] = coefficients(seed);
    let mixed =
        rest.iter().fold(first.to_string(), |sum, coefficient| format!("(({sum} * ({column} % {PRIME}) + {coefficient}) % {PRIME})"));
    format!("({mixed} * {BUCKETS} / {PRIME})")
}

/// From the highest power down; the highest one is not zero.
fn coefficients(seed: &str) -> [i64; 5] {
    let digest = Sha256::digest(seed.as_bytes());
    let word = |index: usize| {
        let bytes = [digest[index * 4], digest[index * 4 + 1], digest[index * 4 + 2], digest[index * 4 + 3]];
        i64::from(u32::from_le_bytes(bytes))
    };
    [1 + word(0) % (PRIME - 1), word(1) % PRIME, word(2) % PRIME, word(3) % PRIME, word(4) % PRIME]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::entropy::Entropy;

    const PEOPLE: usize = 20_000;

    /// Ids as the application makes them: many within a millisecond, spread over some days, and
    /// plain counting.
    fn populations() -> Vec<Vec<i64>> {
        let entropy = Entropy::seeded(3);
        let start = Time::from_millis(1_790_000_000_000);
        let bulk = entropy.ids(start, PEOPLE).collect();
        let spread = (0..PEOPLE as i64).map(|index| entropy.id(start.plus(10_000 + index * 7_919))).collect();
        vec![bulk, spread, (1..=PEOPLE as i64).collect()]
    }

    #[test]
    fn the_modulus_is_a_prime_whose_products_fit() {
        assert!((2..=46_341).all(|divisor| PRIME % divisor != 0));
        assert!((PRIME - 1).checked_mul(PRIME - 1).and_then(|product| product.checked_add(PRIME)).is_some());
        assert!((PRIME - 1).checked_mul(BUCKETS).is_some());
    }

    #[test]
    fn a_share_is_about_that_share_of_any_population() {
        for ids in populations() {
            for seed in ["", "spring", "a", "b"] {
                for percent in [1, 10, 50] {
                    let picked = ids.iter().filter(|id| bucket(**id, seed) < percent * BUCKETS / 100).count() as f64;
                    let expected = PEOPLE as f64 * percent as f64 / 100.0;
                    let deviation = (expected * (1.0 - percent as f64 / 100.0)).sqrt();
                    assert!((picked - expected).abs() < 5.0 * deviation, "{percent}% of seed `{seed}`: {picked} of {expected}");
                }
            }
        }
    }

    #[test]
    fn draws_of_two_seeds_are_independent() {
        for ids in populations() {
            for (one, other) in [("", "a"), ("a", "b"), ("spring", "autumn"), ("1", "2")] {
                let both = ids.iter().filter(|id| bucket(**id, one) < BUCKETS / 5 && bucket(**id, other) < BUCKETS / 5).count() as f64;
                let expected = PEOPLE as f64 / 25.0;
                assert!((both - expected).abs() < 5.0 * expected.sqrt(), "`{one}` and `{other}`: {both} of {expected}");
            }
        }
    }

    #[test]
    fn neighbours_are_drawn_independently() {
        for ids in populations() {
            let inside: Vec<bool> = ids.iter().map(|id| bucket(*id, "") < BUCKETS / 5).collect();
            for lag in [1, 2, 3, 10, 1_024] {
                let both = inside.iter().zip(&inside[lag..]).filter(|(a, b)| **a && **b).count() as f64;
                let expected = PEOPLE as f64 / 25.0;
                assert!((both - expected).abs() < 6.0 * expected.sqrt(), "lag {lag}: {both} of {expected}");
            }
        }
    }
}
