//! How a person responds to a topic, and to all of them: how much and how lately (a score that decays), and at
//! what hour and on which weekday.
//!
//! What counts is a **response**: a mail that a person opened, or a link of a mail that a person followed. It is
//! read from `hit_total` alone, which keeps for each of them how often, when first and when last. So a mail that
//! is opened ten times weighs as one, and nothing changes when raw hits are put together or deleted: no weight
//! falls but by time. Hits by machines, and opens that nobody can tell, never count.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use crate::behaviour::decay::growth;
pub use crate::behaviour::decay::score;
use crate::clock::Time;

/// What an opened mail weighs.
pub const OPEN_WEIGHT: i64 = 1;
/// What a followed link weighs: it took a decision, and no image proxy stands between.
pub const CLICK_WEIGHT: i64 = 3;
/// Hours of a day.
pub const HOURS: usize = 24;
/// Days of a week.
pub const WEEKDAYS: usize = 7;

/// How many responses by somebody it takes until their own habit counts as much as everybody's, for hours:
/// half a dozen links followed, which is when an hour begins to be a habit.
const HOUR_CONCENTRATION: f64 = 18.0;
/// The same for weekdays: there are fewer of them, so fewer responses tell one.
const WEEKDAY_CONCENTRATION: f64 = 9.0;
/// How much has to be known of the people of a topic until they count as much as all people.
const TOPIC_CONCENTRATION: f64 = 100.0;

/// One row of `hit_total` of a person, with human hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// The mail.
    pub delivery_id: i64,
    /// Its opens (-1) or one of its links.
    pub link: i64,
    /// The run.
    pub run_id: i64,
    /// How often.
    pub human: i64,
    /// When first.
    pub first_at: Time,
    /// When last.
    pub last_at: Time,
}

impl Response {
    /// Whether a link was followed.
    pub fn is_click(&self) -> bool {
        self.link >= 0
    }

    fn weighs(&self) -> i64 {
        if self.is_click() { CLICK_WEIGHT } else { OPEN_WEIGHT }
    }
}

/// Responses by hour of the day and weekday, each with what it weighs.
///
/// Stored as 24 numbers from midnight, `;`, and seven from Monday: `0,0,..,3;3,0,..`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Habit {
    /// By hour.
    pub hours: [i64; HOURS],
    /// By weekday, Monday first.
    pub weekdays: [i64; WEEKDAYS],
}

impl Habit {
    /// Places of both, hours first.
    pub const PLACES: usize = HOURS + WEEKDAYS;

    /// Adds a response at its local time.
    fn add(&mut self, at: Time, weight: i64, zone: &TimeZone) {
        let local = at.timestamp().to_zoned(zone.clone());
        let hour = usize::try_from(local.hour()).unwrap_or_default();
        let weekday = usize::try_from(local.weekday().to_monday_zero_offset()).unwrap_or_default();
        self.hours[hour.min(HOURS - 1)] += weight;
        self.weekdays[weekday.min(WEEKDAYS - 1)] += weight;
    }

    /// All numbers, hours first.
    pub fn places(&self) -> impl Iterator<Item = i64> + '_ {
        self.hours.iter().chain(&self.weekdays).copied()
    }

    /// From all numbers, hours first.
    pub fn from_places(places: &[i64]) -> Habit {
        let mut habit = Habit::default();
        for (slot, count) in habit.hours.iter_mut().chain(&mut habit.weekdays).zip(places) {
            *slot = *count;
        }
        habit
    }

    /// As stored.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for (at, count) in self.places().enumerate() {
            let before = match at {
                0 => "",
                HOURS => ";",
                _ => ",",
            };
            let _ = write!(out, "{before}{count}");
        }
        out
    }

    /// Reads what was stored.
    pub fn from_stored(text: &str) -> Habit {
        let places: Vec<i64> = text.split([',', ';']).map(|count| count.parse().unwrap_or_default()).collect();
        Habit::from_places(&places)
    }
}

/// When people respond: shares by hour and by weekday, each summing up to 1. None is zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    hours: [f64; HOURS],
    weekdays: [f64; WEEKDAYS],
}

impl Prior {
    /// Of all people: what they did, and one response for each place, so that nothing is impossible.
    pub fn of_all(habit: &Habit) -> Prior {
        let even = Prior { hours: [1.0 / HOURS as f64; HOURS], weekdays: [1.0 / WEEKDAYS as f64; WEEKDAYS] };
        Prior {
            hours: posterior(&habit.hours, &even.hours, HOURS as f64),
            weekdays: posterior(&habit.weekdays, &even.weekdays, WEEKDAYS as f64),
        }
    }

    /// Of the people of a topic, drawn towards all people while little is known.
    pub fn of_topic(self, habit: &Habit) -> Prior {
        Prior {
            hours: posterior(&habit.hours, &self.hours, TOPIC_CONCENTRATION),
            weekdays: posterior(&habit.weekdays, &self.weekdays, TOPIC_CONCENTRATION),
        }
    }

    /// The hour and the weekday (1: Monday) at which somebody of this habit most probably responds: the highest
    /// posterior mean, the earlier one of two alike. `None` of who never responded.
    pub fn best(&self, habit: &Habit) -> Option<(i64, i64)> {
        if habit.hours.iter().sum::<i64>() == 0 {
            return None;
        }
        let hour = highest(&posterior(&habit.hours, &self.hours, HOUR_CONCENTRATION));
        let weekday = highest(&posterior(&habit.weekdays, &self.weekdays, WEEKDAY_CONCENTRATION));
        Some((hour, weekday + 1))
    }
}

/// The mean of the Dirichlet posterior: `counts` were seen, `shares` expected, with the weight of
/// `concentration` responses.
fn posterior<const N: usize>(counts: &[i64; N], shares: &[f64; N], concentration: f64) -> [f64; N] {
    let seen: i64 = counts.iter().sum();
    std::array::from_fn(|at| (counts[at] as f64 + concentration * shares[at]) / (seen as f64 + concentration))
}

fn highest(shares: &[f64]) -> i64 {
    let mut best = 0;
    for (at, share) in shares.iter().enumerate() {
        if *share > shares[best] {
            best = at;
        }
    }
    i64::try_from(best).unwrap_or_default()
}

/// A row of `engagement`, without its best hour and weekday.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Engagement {
    /// Opens by the person.
    pub opens: i64,
    /// Links followed by the person.
    pub clicks: i64,
    /// The last of those opens.
    pub last_open_at: Option<Time>,
    /// The last of those clicks.
    pub last_click_at: Option<Time>,
    /// See [`score`].
    pub weight: f64,
    /// When the person responds: the first time to each mail and link, which is when the mail reached them.
    pub habit: Habit,
}

impl Engagement {
    /// What happened, and nothing concluded from it: of somebody who refused profiling.
    pub fn without_conclusions(self) -> Engagement {
        Engagement { weight: 0.0, habit: Habit::default(), ..self }
    }

    /// Of responses, which must always come in the same order for the same weight to the last bit.
    pub fn of<'a>(responses: impl IntoIterator<Item = &'a Response>, half_life_days: u32, zone: &TimeZone) -> Engagement {
        let mut sum = Engagement::default();
        for response in responses {
            let (count, last) =
                if response.is_click() { (&mut sum.clicks, &mut sum.last_click_at) } else { (&mut sum.opens, &mut sum.last_open_at) };
            *count += response.human;
            *last = (*last).max(Some(response.last_at));
            sum.weight += response.weighs() as f64 * growth(response.last_at, half_life_days);
            sum.habit.add(response.first_at, response.weighs(), zone);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::decay::weight_of;
    use crate::clock::DAY;

    fn at(text: &str) -> Time {
        Time::parse(text).expect("a time")
    }

    fn response(delivery_id: i64, link: i64, human: i64, first: &str, last: &str) -> Response {
        Response { delivery_id, link, run_id: 1, human, first_at: at(first), last_at: at(last) }
    }

    #[test]
    fn a_score_halves_with_every_half_life_and_nobody_is_touched() {
        let opened = response(1, -1, 4, "2026-03-01T08:00:00Z", "2026-03-02T08:00:00Z");
        let clicked = response(1, 0, 1, "2026-03-02T08:00:00Z", "2026-03-02T08:00:00Z");
        let sum = Engagement::of([&opened, &clicked], 30, &TimeZone::UTC);
        assert_eq!((sum.opens, sum.clicks), (4, 1));
        assert_eq!((sum.last_open_at, sum.last_click_at), (Some(opened.last_at), Some(clicked.last_at)));
        let close = |days: i64, expected: f64| {
            let now = at("2026-03-02T08:00:00Z").plus(days * DAY);
            let score = score(sum.weight, 30, now);
            assert!((score - expected).abs() < 1e-9, "{score} after {days} days");
            assert!((weight_of(score, 30, now) / sum.weight - 1.0).abs() < 1e-9);
        };
        close(0, 4.0);
        close(30, 2.0);
        close(60, 1.0);
        // The shortest half-life holds for as long as anybody sends mail.
        assert!(weight_of(1.0, 7, at("2038-01-01T00:00:00Z")).is_finite());
    }

    #[test]
    fn one_response_is_no_habit_and_many_are() {
        // Everybody reads at eight on Tuesdays.
        let mut all = Habit::default();
        (all.hours[8], all.weekdays[1]) = (900, 900);
        (all.hours[21], all.weekdays[5]) = (100, 100);
        let prior = Prior::of_all(&all);
        let of = |hour: usize, weekday: usize, weight: i64| {
            let mut habit = Habit::default();
            (habit.hours[hour], habit.weekdays[weekday]) = (weight, weight);
            prior.best(&habit)
        };
        assert_eq!(prior.best(&Habit::default()), None);
        assert_eq!(of(21, 5, 1), Some((8, 2)));
        assert_eq!(of(21, 5, 60), Some((21, 6)));
        // A topic that is read at another time, once enough of its people have shown it.
        let mut topic = Habit::default();
        (topic.hours[21], topic.weekdays[5]) = (4, 4);
        assert_eq!(prior.of_topic(&topic).best(&topic), Some((8, 2)));
        (topic.hours[21], topic.weekdays[5]) = (4_000, 4_000);
        let mut one = Habit::default();
        (one.hours[3], one.weekdays[0]) = (1, 1);
        assert_eq!(prior.of_topic(&topic).best(&one), Some((21, 6)));
        // Nothing known at all: what the person did, and the earlier of two alike.
        let mut two = Habit::default();
        (two.hours[5], two.hours[6], two.weekdays[6]) = (1, 1, 2);
        assert_eq!(Prior::of_all(&Habit::default()).best(&two), Some((5, 7)));
    }

    #[test]
    fn a_habit_is_of_the_place_where_somebody_lives_and_comes_back_as_stored() {
        let clicked = response(1, 2, 1, "2026-03-01T17:30:00Z", "2026-03-09T01:00:00Z");
        let zone = TimeZone::get("Asia/Taipei").expect("a zone");
        let habit = Engagement::of([&clicked], 30, &zone).habit;
        // Monday, half past one at night.
        assert_eq!((habit.hours[1], habit.weekdays[0]), (CLICK_WEIGHT, CLICK_WEIGHT));
        assert_eq!(habit.places().sum::<i64>(), 2 * CLICK_WEIGHT);
        let text = habit.to_text();
        assert_eq!(text, "0,3,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0;3,0,0,0,0,0,0");
        assert_eq!(Habit::from_stored(&text), habit);
    }
}
