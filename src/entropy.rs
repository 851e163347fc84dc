//! The only source of randomness, and the ids made from it. A seed reproduces everything.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::clock::Time;

/// Ids count milliseconds from 2024-01-01 UTC, so that 41 bits last until 2093.
const ID_EPOCH_MS: i64 = 1_704_067_200_000;
/// Bits below the milliseconds: 12 that name the process, 10 that count within a millisecond.
const NODE_BITS: u32 = 12;
const COUNT_BITS: u32 = 10;

/// Random bytes and numbers; cheap to clone, all clones share one stream.
#[derive(Clone)]
pub struct Entropy(Arc<Mutex<State>>);

struct State {
    rng: ChaCha12Rng,
    node: i64,
    /// Milliseconds and count of the last id, as one number.
    last: i64,
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy")
    }
}

impl Entropy {
    /// Seeded from the operating system.
    pub fn system() -> Self {
        let mut seed = [0; 32];
        #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system for randomness")]
        getrandom::fill(&mut seed).expect("the operating system has a random source");
        Self::from_seed_bytes(seed)
    }

    /// Reproducible: the same seed gives the same stream.
    pub fn seeded(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self::from_seed_bytes(bytes)
    }

    fn from_seed_bytes(seed: [u8; 32]) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let node = (rng.next_u32() & ((1 << NODE_BITS) - 1)) as i64;
        Entropy(Arc::new(Mutex::new(State { rng, node, last: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `buffer` with random bytes.
    pub fn fill(&self, buffer: &mut [u8]) {
        self.state().rng.fill_bytes(buffer);
    }

    /// A random number.
    pub fn u64(&self) -> u64 {
        self.state().rng.next_u64()
    }

    /// A random number below `limit` (at least 1). The bias is below 2^-32 for limits under 2^32.
    pub fn below(&self, limit: u64) -> u64 {
        ((u128::from(self.u64()) * u128::from(limit.max(1))) >> 64) as u64
    }

    /// True with probability `share` (0 to 1).
    pub fn chance(&self, share: f64) -> bool {
        (self.u64() >> 11) as f64 / (1_u64 << 53) as f64 >= 1.0 - share
    }

    /// A new id: 63 bits, positive, growing with time within a process; ids of several processes
    /// interleave by time and differ in their node bits (a random number of each process).
    pub fn id(&self, now: Time) -> i64 {
        self.ids(now, 1).start
    }

    /// `count` new ids, ascending (not always consecutive across calls).
    pub fn ids(&self, now: Time, count: usize) -> IdRange {
        let mut state = self.state();
        let clock = (now.millis() - ID_EPOCH_MS).max(0) << COUNT_BITS;
        // When a millisecond is used up, the count runs into the next one: bulk work borrows from
        // the near future rather than wait.
        let start = clock.max(state.last + 1);
        state.last = start + count.max(1) as i64 - 1;
        IdRange { next: start, end: start + count as i64, node: state.node, start: compose(start, state.node) }
    }
}

fn compose(slot: i64, node: i64) -> i64 {
    let count = slot & ((1 << COUNT_BITS) - 1);
    let millis = slot >> COUNT_BITS;
    (millis << (NODE_BITS + COUNT_BITS)) | (count << NODE_BITS) | node
}

/// The smallest id that was made at `at` or later, by whatever process.
pub fn first_id(at: Time) -> i64 {
    (at.millis() - ID_EPOCH_MS).max(0) << (NODE_BITS + COUNT_BITS)
}

/// Ids of one [`Entropy::ids`] call.
#[derive(Debug, Clone)]
pub struct IdRange {
    start: i64,
    next: i64,
    end: i64,
    node: i64,
}

impl Iterator for IdRange {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        (self.next < self.end).then(|| {
            let id = compose(self.next, self.node);
            self.next += 1;
            id
        })
    }
}

/// The moment an id was made (to the millisecond; bulk work may run ahead of it).
pub fn id_time(id: i64) -> Time {
    Time::from_millis((id >> (NODE_BITS + COUNT_BITS)) + ID_EPOCH_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_and_never_repeat_even_when_the_clock_goes_back() {
        let entropy = Entropy::seeded(7);
        let now = Time::from_millis(1_764_579_600_000);
        let mut last = 0;
        for step in 0..100_000_i64 {
            let id = entropy.id(now.plus(if step % 3 == 0 { -50 } else { 0 }));
            assert!(id > last);
            last = id;
        }
    }

    #[test]
    fn a_seed_reproduces_the_stream() {
        let (a, b) = (Entropy::seeded(1), Entropy::seeded(1));
        assert_eq!((a.u64(), a.below(10), a.id(Time::from_millis(0))), (b.u64(), b.below(10), b.id(Time::from_millis(0))));
    }

    #[test]
    fn an_id_tells_its_time() {
        let now = Time::from_millis(1_764_579_600_123);
        assert_eq!(id_time(Entropy::seeded(2).id(now)), now);
    }
}
