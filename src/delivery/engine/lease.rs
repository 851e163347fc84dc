//! Until when this process may believe that its place is its own.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The part of a lease that is kept as a margin: between the look and the last byte of a mail some
/// time passes, and clocks of two machines run apart.
const MARGIN: i64 = 6;

/// The lease as this process knows it, on a clock that nobody sets. It starts when the renewal was
/// asked for, not when it was answered.
#[derive(Debug)]
pub struct LeaseClock {
    base: Instant,
    lease_ms: i64,
    until_ms: AtomicI64,
}

impl LeaseClock {
    /// A lease of `lease_ms` that was just granted.
    pub fn new(lease_ms: i64) -> LeaseClock {
        LeaseClock { base: Instant::now(), lease_ms, until_ms: AtomicI64::new(lease_ms) }
    }

    /// Its length in milliseconds.
    pub fn length_ms(&self) -> i64 {
        self.lease_ms
    }

    /// The moment to note before a renewal is asked for.
    pub fn mark(&self) -> i64 {
        self.base.elapsed().as_millis() as i64
    }

    /// The renewal asked for at `mark` was granted.
    pub fn renewed(&self, mark: i64) {
        self.until_ms.fetch_max(mark + self.lease_ms, Ordering::AcqRel);
    }

    fn left(&self) -> i64 {
        self.until_ms.load(Ordering::Acquire) - self.mark()
    }

    /// Whether nobody can have taken our place, with a margin.
    pub fn holds(&self) -> bool {
        self.left() > self.lease_ms / MARGIN
    }

    /// Whether it should be renewed with the next write.
    pub fn is_stale(&self) -> bool {
        self.left() < self.lease_ms / 2
    }

    /// How often it is renewed while nothing happens.
    pub fn renew_every(&self) -> Duration {
        Duration::from_millis((self.lease_ms / MARGIN).clamp(500, 5_000) as u64)
    }
}
