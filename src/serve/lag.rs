//! How far each partition is behind, and whether it moves: read from librdkafka's statistics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::kafka::{PartitionStatistics, Statistics};
use crate::telemetry::LaneMetrics;

use super::delivery::Delivery;

/// What was seen of the partitions of a lane.
#[derive(Debug, Default)]
pub struct Lag {
    /// Where each was, and since when.
    seen: BTreeMap<i32, (i64, Instant)>,
}

impl Lag {
    /// Reports the lag of each partition: in records what a read_committed reader could still read, in seconds the age of the
    /// record that was finished last, while there are any more. Returns since when each partition has moved or had nothing to
    /// do; where the lane is `excused`, none needs to move. `sent` tells whether all that the lane was handed out has its output.
    pub fn report(
        &mut self,
        statistics: &Statistics,
        assigned: impl Iterator<Item = (i32, Option<i64>)>,
        delivery: &Delivery,
        sent: bool,
        excused: bool,
        metrics: &LaneMetrics,
    ) -> Instant {
        let now = Instant::now();
        let known = |partition: &PartitionStatistics| (partition.partition, *partition);
        let known: BTreeMap<i32, PartitionStatistics> = statistics.partitions.iter().map(known).collect();
        let mut moved = now;
        for (partition, start) in assigned {
            let Some(known) = known.get(&partition) else { continue };
            let progress = delivery.progress(partition);
            let Some(next) = progress.map(|progress| progress.next_offset).or(start) else { continue };
            let records = if known.drained && sent { 0 } else { (known.end_offset - next).max(0) };
            moved = moved.min(self.moved(partition, next, records == 0 || excused, now));
            let now_ms = i64::try_from(unix_millis()).unwrap_or(i64::MAX);
            let behind_ms = match progress {
                _ if records == 0 => Some(0),
                Some(progress) => Some((now_ms - progress.timestamp_ms.unwrap_or(now_ms)).max(0)),
                // Just taken or rewound: how old the record before is was seen by nobody here.
                None => None,
            };
            metrics.lag(partition, records, behind_ms.map(|millis| millis as f64 / 1e3));
        }
        moved
    }

    fn moved(&mut self, partition: i32, next: i64, excused: bool, now: Instant) -> Instant {
        let seen = self.seen.entry(partition).or_insert((next, now));
        if seen.0 != next || excused {
            *seen = (next, now);
        }
        seen.1
    }

    /// Forgets partitions that are another member's now.
    pub fn forget(&mut self, partitions: &[i32]) {
        self.seen.retain(|partition, _| !partitions.contains(partition));
    }
}

/// Milliseconds since the Unix epoch.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_stands_still_is_seen_among_those_that_move() {
        let (start, mut lag) = (Instant::now(), Lag::default());
        let later = start + Duration::from_secs(60);
        assert_eq!(lag.moved(0, 10, false, start), start);
        assert_eq!(lag.moved(1, 10, false, start), start);
        assert_eq!(lag.moved(0, 11, false, later), later, "it moved");
        assert_eq!(lag.moved(1, 10, false, later), start, "it did not");
        assert_eq!(lag.moved(1, 10, true, later), later, "it has nothing to do");
        lag.forget(&[1]);
        assert_eq!(lag.moved(1, 10, false, later), later, "it is new");
    }
}
