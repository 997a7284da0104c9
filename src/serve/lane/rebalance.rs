//! A lane takes partitions and gives them back.

use std::time::{Duration, Instant};

use crate::kafka;
use crate::kafka::consumer::GroupConsumer;
use crate::kafka::fault::Remedy;
use crate::serve::batch::Batch;
use crate::serve::crash::{self, Point};
use crate::serve::pulse::Activity;

use super::{FULL_WAIT, Lane};

/// How long a lane that takes partitions waits for their committed offsets; the group waits for it meanwhile.
const ASSIGN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a lane finishes what it has, before it gives partitions back or goes back to the committed offsets; the group may
/// wait for it meanwhile.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

impl Lane {
    /// Takes partitions, each at its committed offset; where that is not told in time, the lane goes back to those of all its
    /// partitions.
    pub(super) fn take(
        &mut self,
        consumer: &GroupConsumer,
        partitions: &[i32],
        batch: &mut Batch<'_>,
    ) -> Result<(), kafka::Error> {
        crash::at(Point::Assign)?;
        let starts = consumer.assign(partitions, ASSIGN_TIMEOUT);
        self.assigned.extend(partitions.iter().map(|partition| (*partition, None)));
        self.rebalanced("assign", partitions);
        match starts {
            Ok(starts) => self.assigned.extend(starts.into_iter().map(|(partition, start)| (partition, Some(start)))),
            Err(failure) if matches!(failure.remedy(), Remedy::Stop | Remedy::Rejoin) => return Err(failure),
            Err(failure) => {
                tracing::warn!(%failure, "the partitions wait for their committed offsets");
                return self.leave(consumer, batch);
            }
        }
        Ok(())
    }

    /// Finishes and commits what it can before the partitions go, unless they are lost already.
    pub(super) fn give_back(
        &mut self,
        consumer: &GroupConsumer,
        partitions: &[i32],
        lost: bool,
        batch: &mut Batch<'_>,
    ) -> Result<(), kafka::Error> {
        let settled = crash::at(Point::Revoke).and_then(|()| match lost {
            true => self.give_up(batch),
            false => self.settle(consumer, batch),
        });
        self.delivery.forget(partitions);
        self.assigned.retain(|partition, _| !partitions.contains(partition));
        self.lag.forget(partitions);
        consumer.unassign(partitions)?;
        self.metrics.forget_partitions(partitions);
        self.rebalanced(if lost { "lost" } else { "revoke" }, partitions);
        settled
    }

    /// Finishes and commits what was fetched.
    pub(super) fn settle(&mut self, consumer: &GroupConsumer, batch: &mut Batch<'_>) -> Result<(), kafka::Error> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            self.send(batch)?;
            if batch.is_sent() {
                return self.delivery.settle(consumer, deadline);
            }
            if Instant::now() >= deadline {
                return batch.abandon();
            }
            std::thread::sleep(FULL_WAIT);
        }
    }

    /// Partitions are gone already: what is open for them must not be committed.
    fn give_up(&self, batch: &Batch<'_>) -> Result<(), kafka::Error> {
        if self.delivery.is_open() {
            let (doing, cause) = ("working on".to_owned(), "partitions were lost to another member".to_owned());
            return Err(kafka::Error::Abortable { doing, cause });
        }
        batch.abandon()
    }

    fn rebalanced(&self, kind: &'static str, partitions: &[i32]) {
        tracing::info!(kind, ?partitions, assigned = self.assigned.len(), "rebalance");
        self.metrics.rebalanced(kind, self.assigned.len());
        self.pulse.has_partitions(self.assigned.len());
        if self.pulse.activity() == Activity::Starting {
            self.pulse.does(Activity::Flowing);
        }
    }
}
