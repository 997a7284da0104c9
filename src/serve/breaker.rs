//! The circuit breaker: when too large a share of the records cannot be scored, the flow stops instead of draining the topic
//! into the dead letters. A producer with a new schema is the usual cause, and a person has to look.
//!
//! Closed, it counts. Open, the lane reads nothing for [`COOL_DOWN`]. Then it tries [`PROBE_RECORDS`]: are they good, the
//! circuit closes, otherwise it is open again. A new version of the model is tried at once. Pure: the caller has the clock.

use std::time::{Duration, Instant};

/// The time over which the share is taken: it holds this at least and twice this at most.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Fewer records in a window say nothing about a share.
pub const RECORDS_MIN: u64 = 100;
/// How long an open circuit rests before it tries again.
pub const COOL_DOWN: Duration = Duration::from_secs(10);
/// How many records a circuit tries that was open: few enough to lie in the dead letters for nothing.
pub const PROBE_RECORDS: usize = 100;

/// Records of a window.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    records: u64,
    dead: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    Probing,
}

/// The breaker of one lane.
#[derive(Debug)]
pub struct Breaker {
    /// The largest share of dead letters that is let pass; 1 lets all pass.
    share_max: f64,
    state: State,
    window_start: Option<Instant>,
    former: Count,
    current: Count,
}

impl Breaker {
    /// A closed breaker that opens when more than `share_max` of the records are dead letters.
    pub fn new(share_max: f64) -> Breaker {
        let (former, current) = (Count::default(), Count::default());
        Breaker { share_max, state: State::Closed, window_start: None, former, current }
    }

    /// Whether nothing is to be read at `now`.
    pub fn is_open(&mut self, now: Instant) -> bool {
        match self.state {
            State::Open { until } if now < until => true,
            State::Open { .. } => {
                self.probe();
                false
            }
            State::Closed | State::Probing => false,
        }
    }

    /// A new version was activated: what failed may be good now.
    pub fn model_changed(&mut self) {
        if self.state != State::Closed {
            self.probe();
        }
    }

    /// The most records to read at once.
    pub fn records_max(&self, usual: usize) -> usize {
        if self.state == State::Probing { usual.min(PROBE_RECORDS) } else { usual }
    }

    /// Counts a batch; whether the circuit opens by it.
    pub fn count(&mut self, records: u64, dead: u64, now: Instant) -> bool {
        let start = *self.window_start.get_or_insert(now);
        let age = now.saturating_duration_since(start);
        if age >= WINDOW {
            let current = std::mem::take(&mut self.current);
            self.former = if age < WINDOW * 2 { current } else { Count::default() };
            self.window_start = Some(now);
        }
        self.current.records += records;
        self.current.dead += dead;
        let sum =
            Count { records: self.former.records + self.current.records, dead: self.former.dead + self.current.dead };
        let bad = sum.dead as f64 > self.share_max * sum.records as f64;
        match self.state {
            State::Closed if bad && sum.records >= RECORDS_MIN => self.open(now),
            State::Probing if bad => self.open(now),
            State::Probing if sum.records >= PROBE_RECORDS as u64 => {
                self.state = State::Closed;
                false
            }
            State::Closed | State::Probing | State::Open { .. } => false,
        }
    }

    fn open(&mut self, now: Instant) -> bool {
        self.state = State::Open { until: now + COOL_DOWN };
        true
    }

    fn probe(&mut self) {
        *self = Breaker { state: State::Probing, ..Breaker::new(self.share_max) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_above_the_share_and_not_for_a_few() {
        let now = Instant::now();
        let mut breaker = Breaker::new(0.5);
        assert!(!breaker.count(RECORDS_MIN - 1, RECORDS_MIN - 1, now), "too few to tell");
        assert!(!breaker.count(RECORDS_MIN, 0, now), "half is let pass");
        assert!(!breaker.is_open(now));
        assert!(breaker.count(1_000, 1_000, now));
        assert!(breaker.is_open(now));
    }

    #[test]
    fn what_is_long_past_does_not_count() {
        let now = Instant::now();
        let mut breaker = Breaker::new(0.5);
        breaker.count(1_000, 0, now);
        assert!(!breaker.count(900, 900, now + WINDOW), "the former window still counts");
        assert!(breaker.count(100, 100, now + WINDOW * 2), "then only the last two do");
    }

    #[test]
    fn it_tries_a_few_and_closes_or_opens_again() {
        let now = Instant::now();
        let mut breaker = Breaker::new(0.5);
        assert!(breaker.count(1_000, 1_000, now));
        assert!(breaker.is_open(now + COOL_DOWN - Duration::from_millis(1)));
        let later = now + COOL_DOWN;
        assert!(!breaker.is_open(later));
        assert_eq!(breaker.records_max(2_000), PROBE_RECORDS);
        assert!(breaker.count(3, 3, later), "any bad probe opens it");
        let later = later + COOL_DOWN;
        assert!(!breaker.is_open(later) && !breaker.count(PROBE_RECORDS as u64, 0, later));
        assert_eq!(breaker.records_max(2_000), 2_000);
    }

    #[test]
    fn a_new_version_is_tried_at_once_and_a_share_of_one_never_opens() {
        let now = Instant::now();
        let mut breaker = Breaker::new(0.5);
        assert!(breaker.count(1_000, 1_000, now));
        breaker.model_changed();
        assert!(!breaker.is_open(now));
        let mut never = Breaker::new(1.0);
        assert!(!never.count(1_000_000, 1_000_000, now));
    }
}
