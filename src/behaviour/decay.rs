//! How what somebody did weighs less with time, without anybody touching it.
//!
//! This is forward decay: G. Cormode, V. Shkapenyuk, D. Srivastava, B. Xu, "Forward Decay: A Practical Time Decay
//! Model for Streaming Systems", ICDE 2009. What is stored is a sum of weights that grow with their time since a
//! landmark; a question divides by the growth up to now. `tracking` adds the weights, `segment` compares them.

use crate::clock::{DAY, Time};

/// The moment from which weights are counted: 2020-01-01T00:00Z. Any moment would do; before the first mail the
/// numbers stay above one.
pub const LANDMARK: Time = Time::from_millis(1_577_836_800_000);

/// What one response at this time weighs, counted from [`LANDMARK`]: twice as much for each half-life it is later.
pub fn growth(at: Time, half_life_days: u32) -> f64 {
    (at.since(LANDMARK) as f64 / (f64::from(half_life_days) * DAY as f64)).exp2()
}

/// The score of a stored weight now: what the responses weigh, each halved for every half-life it is old.
pub fn score(weight: f64, half_life_days: u32, now: Time) -> f64 {
    weight / growth(now, half_life_days)
}

/// The stored weight that has this score now.
pub fn weight_of(score: f64, half_life_days: u32, now: Time) -> f64 {
    // Without this, nothing times infinity were no number.
    if score == 0.0 { 0.0 } else { score * growth(now, half_life_days) }
}
