//! What others may know of a lane while it runs: whether it turns, what it has, what keeps it from work.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Where the lanes of a process wait for each other before they leave the group, all at once.
#[derive(Debug)]
pub struct Gate(AtomicUsize);

impl Gate {
    /// A gate for `lanes` lanes.
    pub fn new(lanes: usize) -> Gate {
        Gate(AtomicUsize::new(lanes))
    }

    /// One lane is ready to leave, or will never come.
    pub fn arrive(&self) {
        // More arrivals than lanes leave the gate open.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |missing| missing.checked_sub(1));
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// What a lane does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// It has not joined the group yet: no model, or no broker.
    Starting,
    /// Records flow when there are any.
    Flowing,
    /// Something failed; it waits for the broker and goes on from the committed offsets.
    Recovering,
    /// Too many records cannot be scored; it reads nothing for a while.
    CircuitOpen,
    /// A model that it serves has no version any more; it reads nothing until there is one.
    WaitingForModel,
}

impl Activity {
    const ALL: [Activity; 5] =
        [Activity::Starting, Activity::Flowing, Activity::Recovering, Activity::CircuitOpen, Activity::WaitingForModel];

    /// As `/status` and the status topic have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Activity::Starting => "starting",
            Activity::Flowing => "flowing",
            Activity::Recovering => "recovering",
            Activity::CircuitOpen => "circuit-open",
            Activity::WaitingForModel => "waiting-for-model",
        }
    }

    /// Whether the lane stands still on purpose, which is no stall.
    pub(super) fn is_pause(self) -> bool {
        matches!(self, Activity::CircuitOpen | Activity::WaitingForModel)
    }
}

/// A lane's signs of life. The lane writes, others read.
#[derive(Debug)]
pub struct LanePulse {
    /// When the pulse was made: the clock of the turns never jumps.
    made: Instant,
    /// Milliseconds from then to the last turn.
    turned_ms: AtomicU64,
    /// Milliseconds from then to when each partition had moved since, or had nothing to do.
    progressed_ms: AtomicU64,
    /// Assigned partitions.
    partitions: AtomicUsize,
    /// [`Activity`]
    activity: AtomicU8,
    /// Whether the lane's consumer is connected to a broker, as far as librdkafka's statistics say.
    connected: AtomicBool,
}

impl Default for LanePulse {
    fn default() -> LanePulse {
        LanePulse {
            made: Instant::now(),
            turned_ms: AtomicU64::new(0),
            progressed_ms: AtomicU64::new(0),
            partitions: AtomicUsize::new(0),
            activity: AtomicU8::new(Activity::Starting as u8),
            connected: AtomicBool::new(true),
        }
    }
}

impl LanePulse {
    pub(super) fn turn(&self) {
        self.turned_ms.store(self.millis(), Ordering::Relaxed);
    }

    /// Since `moment` each partition has moved or has nothing to do.
    pub(super) fn progress(&self, moment: Instant) {
        let millis = moment.saturating_duration_since(self.made).as_millis();
        self.progressed_ms.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn has_partitions(&self, partitions: usize) {
        self.partitions.store(partitions, Ordering::Relaxed);
    }

    pub(super) fn does(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::Relaxed);
    }

    pub(super) fn is_connected_now(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn since(&self, moment: &AtomicU64) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(moment.load(Ordering::Relaxed)))
    }

    /// How long ago the loop turned last.
    pub fn age(&self) -> Duration {
        self.since(&self.turned_ms)
    }

    /// How long a partition has not moved although records wait.
    pub fn stalled_for(&self) -> Duration {
        self.since(&self.progressed_ms)
    }

    /// The number of partitions that the lane has.
    pub fn partitions(&self) -> usize {
        self.partitions.load(Ordering::Relaxed)
    }

    /// Whether a broker is there.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// What the lane does.
    pub fn activity(&self) -> Activity {
        Activity::ALL[usize::from(self.activity.load(Ordering::Relaxed))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_activity_is_read_as_it_was_written() {
        let pulse = LanePulse::default();
        for activity in Activity::ALL {
            pulse.does(activity);
            assert_eq!(pulse.activity(), activity);
        }
    }

    #[test]
    fn the_gate_opens_with_the_last_lane() {
        let gate = Gate::new(2);
        gate.arrive();
        assert!(!gate.is_open());
        gate.arrive();
        gate.arrive();
        assert!(gate.is_open());
    }
}
