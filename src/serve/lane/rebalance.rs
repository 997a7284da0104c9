//! A lane takes partitions and gives them back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::kafka;
use crate::kafka::consumer::GroupConsumer;
use crate::kafka::fault::Remedy;
use crate::serve::batch::Batch;
use crate::serve::crash::{self, Point};
use crate::serve::pulse::Activity;

use super::{FULL_WAIT, Lane};

/// How long a lane that takes partitions stands still for their committed offsets, which brokers tell at once, unless they are
/// looking for a coordinator or a transaction hides them.
const ASSIGN_TIMEOUT: Duration = Duration::from_secs(1);
/// How often partitions that wait for their committed offsets are tried again.
const WAITING_RETRY: Duration = Duration::from_secs(2);
/// How long the lane stands still at the first try; each takes twice as long as the one before, for a broker far away, up to
/// [`WAITING_PATIENCE_MAX`]: the lane's other partitions flow in between.
const WAITING_PATIENCE: Duration = Duration::from_millis(125);
const WAITING_PATIENCE_MAX: Duration = Duration::from_millis(500);
/// How long a lane finishes what it has, before it gives partitions back or goes back to the committed offsets; the group may
/// wait for it meanwhile.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Partitions that were taken and stand still: they wait for their committed offsets, which are hidden while a transaction is open
/// that they are part of, as that of a member that died is until its timeout.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    partitions: BTreeSet<i32>,
    /// When they were tried last, and how long.
    tried: Option<Instant>,
    patience: Duration,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    pub(super) fn contains(&self, partition: i32) -> bool {
        self.partitions.contains(&partition)
    }

    /// How long to try, if it is time to.
    fn begin_try(&mut self, now: Instant) -> Option<Duration> {
        let is_early = self.tried.is_some_and(|tried| now - tried < WAITING_RETRY);
        if self.is_empty() || is_early {
            return None;
        }
        self.tried = Some(now);
        self.patience = (self.patience * 2).clamp(WAITING_PATIENCE, WAITING_PATIENCE_MAX);
        Some(self.patience)
    }
}

impl Lane {
    /// Takes partitions, each at its committed offset; those for which that is not told in time wait for it.
    pub(super) fn take(&mut self, consumer: &GroupConsumer, partitions: &[i32]) -> Result<(), kafka::Error> {
        crash::at(Point::Assign)?;
        let starts = consumer.assign(partitions, ASSIGN_TIMEOUT);
        self.assigned.extend(partitions.iter().map(|partition| (*partition, None)));
        self.rebalanced("assign", partitions);
        match starts {
            Ok(starts) => self.start_at(starts),
            Err(failure) if matches!(failure.remedy(), Remedy::Stop | Remedy::Rejoin) => return Err(failure),
            Err(failure) => {
                tracing::warn!(%failure, ?partitions, "the partitions wait for their committed offsets");
                self.waiting.partitions.extend(partitions);
                self.told = None;
            }
        }
        Ok(())
    }

    /// Starts the partitions that wait, where their committed offsets are told by now.
    pub(super) fn start_waiting(&mut self, consumer: &GroupConsumer) -> Result<(), kafka::Error> {
        let Some(patience) = self.waiting.begin_try(Instant::now()) else { return Ok(()) };
        let partitions: Vec<i32> = self.waiting.partitions.iter().copied().collect();
        if self.go_back(consumer, &partitions, patience)? {
            self.waiting = Waiting::default();
            tracing::info!(?partitions, "the partitions are at their committed offsets");
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
        self.waiting.partitions.retain(|partition| !partitions.contains(partition));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_wait_are_tried_seldom_and_with_more_patience() {
        let (start, mut waiting) = (Instant::now(), Waiting::default());
        assert_eq!(waiting.begin_try(start), None, "none waits");
        waiting.partitions.insert(3);
        assert_eq!(waiting.begin_try(start), Some(WAITING_PATIENCE));
        assert_eq!(waiting.begin_try(start + WAITING_RETRY / 2), None);
        assert_eq!(waiting.begin_try(start + WAITING_RETRY), Some(2 * WAITING_PATIENCE));
        let last = (2..20).map(|tries| waiting.begin_try(start + tries * WAITING_RETRY)).last();
        assert_eq!(last, Some(Some(WAITING_PATIENCE_MAX)));
    }
}
