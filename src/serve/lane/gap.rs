//! A lane goes on where records were deleted that it had not read (`--offset-reset earliest`, `latest`).

use std::collections::BTreeMap;

use crate::kafka;
use crate::kafka::consumer::{GroupConsumer, Skip};
use crate::serve::batch::Batch;

use super::Lane;

/// The last skip of each partition, from where to where.
#[derive(Debug, Default)]
pub(super) struct Skips(BTreeMap<i32, (i64, i64)>);

impl Skips {
    /// How many offsets a skip passes over that no former one did; none at all if it is the former one. It is found again when
    /// its end could not be committed.
    fn count(&mut self, partition: i32, from: i64, to: i64) -> Option<u64> {
        let start = match self.0.insert(partition, (from, to)) {
            Some(former) if former == (from, to) => return None,
            Some((former, counted)) if former == from => counted,
            _ => from,
        };
        Some(u64::try_from(to - start).unwrap_or(0))
    }
}

impl Lane {
    /// What was read before the gap is finished and committed, so that it is no part of it. On its way back the lane finds where
    /// to go on.
    pub(super) fn offset_gone(
        &mut self,
        consumer: &GroupConsumer,
        partition: i32,
        offset: i64,
        batch: &mut Batch<'_>,
    ) -> Result<(), kafka::Error> {
        // Told before the partition was moved: many can be, when all partitions of a lane have gaps.
        let outdated = match self.assigned.get(&partition) {
            Some(start) => start.is_some_and(|start| (0..start).contains(&offset)),
            None => true,
        };
        if outdated || self.adrift.is_some() {
            return Ok(());
        }
        let topic = &self.settings.input;
        tracing::warn!(topic, partition, offset, "the record that is to be read next no longer exists");
        self.leave(consumer, batch)
    }

    /// A partition is about to go on elsewhere than at its committed offset.
    pub(super) fn skipped(&mut self, skip: &Skip) {
        let Skip { partition, from, to, ref why } = *skip;
        // It would be committed again with what the other partitions finish.
        self.delivery.forget(&[partition]);
        if let Some(records) = self.skips.count(partition, from, to) {
            let (topic, policy) = (&self.settings.input, self.settings.offset_reset);
            tracing::warn!(
                topic,
                partition,
                from,
                to,
                records,
                why,
                ?policy,
                "records are skipped: --offset-reset says where to go on"
            );
            self.metrics.skipped(records);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_is_counted_once() {
        let mut skips = Skips::default();
        assert_eq!(skips.count(0, 100, 150), Some(50));
        assert_eq!(skips.count(0, 100, 150), None, "it could not be committed, and is tried again");
        assert_eq!(skips.count(0, 100, 160), Some(10), "more was deleted meanwhile");
        assert_eq!(skips.count(1, 100, 150), Some(50), "another partition");
        assert_eq!(skips.count(0, 200, 300), Some(100), "another gap");
        assert_eq!(skips.count(0, 500, 0), Some(0), "a topic that was made anew");
    }
}
