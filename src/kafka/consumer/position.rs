//! Where partitions start, and where they go on: at the group's committed offsets, which the broker tells.
//!
//! A committed offset can be gone: retention deleted its record, or the topic was made anew. librdkafka would reset the
//! partition by itself, and tell nobody what it skipped. So it is told to stop the partition instead, and to say so
//! ([`Event::OffsetGone`](super::Event::OffsetGone)). [`GroupConsumer::rewind`] then decides where to go on, and commits that
//! before anything is read: whoever has the partition next goes on from there too, and finds no gap again.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::consumer::{Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::GroupConsumer;
use crate::kafka::Error;

/// How long each question may take that a gap is described with.
const GAP_TIMEOUT: Duration = Duration::from_secs(2);
/// The most partitions that an error speaks of: it is read by a person.
const GAPS_TOLD_MAX: usize = 10;

/// What else than a broker that is away keeps committed offsets from being told: a broker holds them back until the transaction
/// that they are part of ends.
const HIDDEN_OFFSETS: &str = ", which an open transaction hides if the broker is up (kafka-transactions.sh find-hanging finds one that nobody will end)";

/// Where a partition starts when its group has no valid committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// Nothing committed yet: the earliest record. Committed, but deleted since: [`Error::OffsetGone`].
    Error,
    /// The earliest record there is.
    Earliest,
    /// Only what comes from now on.
    Latest,
}

/// A partition does not go on from its committed offset, which is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// The partition.
    pub partition: i32,
    /// The committed offset.
    pub from: i64,
    /// The offset that it goes on from; before `from` where the partition had no record there yet.
    pub to: i64,
    /// In words, what became of the committed offset.
    pub why: String,
}

/// A committed offset outside of what its partition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    partition: i32,
    committed: i64,
    first: i64,
    end: i64,
}

impl Gap {
    fn find(partition: i32, committed: i64, first: i64, end: i64) -> Option<Gap> {
        let gone = committed < first || committed > end;
        gone.then_some(Gap { partition, committed, first, end })
    }

    /// None where the policy is to stop.
    fn skip(&self, reset: OffsetReset) -> Option<Skip> {
        let to = match reset {
            OffsetReset::Error => return None,
            OffsetReset::Earliest => self.first,
            OffsetReset::Latest => self.end,
        };
        Some(Skip { partition: self.partition, from: self.committed, to, why: self.to_string() })
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gap { partition, committed, first, end } = self;
        if committed < first {
            write!(f, "partition {partition}: {committed} to {} were deleted", first - 1)
        } else {
            write!(f, "partition {partition}: {committed} is committed, and it ends at {end}")
        }
    }
}

fn tell(gaps: &[Gap]) -> String {
    let told: Vec<String> = gaps.iter().take(GAPS_TOLD_MAX).map(Gap::to_string).collect();
    told.join(", ")
}

/// Those that are numbers; not the beginning or the end, which the broker has yet to tell.
fn known_offsets(list: &TopicPartitionList) -> Vec<(i32, i64)> {
    let known = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
    list.elements().iter().filter_map(|element| Some((element.partition(), known(element.offset())?))).collect()
}

/// librdkafka refuses what the group asked for. Whoever sees this joins anew.
fn out_of_step(doing: String, error: &KafkaError) -> Error {
    Error::Other { doing, cause: error.to_string(), fatal: true }
}

impl GroupConsumer {
    /// For the person who has to decide what becomes of them: the records between the committed offsets and those that there
    /// are.
    pub(super) fn gap(&self) -> String {
        let committed = self.inner.assignment().and_then(|list| self.inner.committed_offsets(list, GAP_TIMEOUT));
        let committed = committed.map(|list| known_offsets(&list)).unwrap_or_default();
        if committed.is_empty() {
            // A broker forgets the offsets of a topic that is deleted.
            return "nothing is committed there any more: was the topic made anew?".to_owned();
        }
        match self.find_gaps(&committed, GAP_TIMEOUT) {
            Ok(gaps) if !gaps.is_empty() => tell(&gaps),
            Ok(_) | Err(_) => "the broker does not say which".to_owned(),
        }
    }

    /// Those of the committed offsets that are gone.
    fn find_gaps(&self, committed: &[(i32, i64)], wait: Duration) -> Result<Vec<Gap>, Error> {
        if committed.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.edges(committed, Offset::Beginning, wait)?;
        let end = self.edges(committed, Offset::End, wait)?;
        let gap = |&(partition, offset)| Gap::find(partition, offset, *first.get(&partition)?, *end.get(&partition)?);
        Ok(committed.iter().filter_map(gap).collect())
    }

    /// Where partitions begin, or end for a read_committed reader. This question takes times, and these two are among them in
    /// Kafka's protocol; unlike that for watermarks it asks about all partitions of a broker at once.
    fn edges(&self, of: &[(i32, i64)], edge: Offset, wait: Duration) -> Result<BTreeMap<i32, i64>, Error> {
        let failed = |error: &KafkaError| {
            Error::new(format!("asking which records of {} there are", self.topic), &self.brokers, error)
        };
        let partitions: Vec<i32> = of.iter().map(|(partition, _)| *partition).collect();
        let mut edges = self.list(&partitions);
        edges.set_all_offsets(edge).map_err(|error| failed(&error))?;
        let edges = self.inner.offsets_for_times(edges, wait).map_err(|error| failed(&error))?;
        edges.elements().iter().try_for_each(|element| element.error()).map_err(|error| failed(&error))?;
        Ok(known_offsets(&edges).into_iter().collect())
    }

    /// Takes `partitions`, each from the group's committed offset or, where it has none, from where the policy says; the
    /// offsets, where they are known.
    ///
    /// # Errors
    /// When the committed offsets cannot be read within `wait`. The partitions are taken even so, because the group waits for
    /// that, and have to be moved with [`GroupConsumer::rewind`] before anything is fetched from them.
    pub fn assign(&self, partitions: &[i32], wait: Duration) -> Result<Vec<(i32, i64)>, Error> {
        let (starts, failure) = match self.start_offsets(partitions, wait) {
            Ok(starts) => (starts, None),
            // Somewhere: without an offset librdkafka asks for the committed ones itself, and a partition whose offsets stay
            // hidden longer than it asks is never started.
            Err(failure) => {
                let mut starts = self.list(partitions);
                starts.set_all_offsets(Offset::Beginning).map_err(|error| self.not_taken(&error))?;
                (starts, Some(failure))
            }
        };
        self.take(&starts)?;
        match failure {
            None => {
                // librdkafka remembers that a partition was paused when it was here before.
                self.resume(partitions);
                Ok(known_offsets(&starts))
            }
            Some(failure) => {
                // It fails only for partitions that are not ours, which then need no pause.
                let _ = self.inner.pause(&self.list(partitions));
                Err(failure)
            }
        }
    }

    fn take(&self, starts: &TopicPartitionList) -> Result<(), Error> {
        let forward = || self.queue.forward(starts.elements().iter().map(|element| element.partition()));
        forward();
        let result = match self.inner.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.inner.incremental_assign(starts),
            RebalanceProtocol::Eager | RebalanceProtocol::None => self.inner.assign(starts),
        };
        result.map_err(|error| self.not_taken(&error))?;
        // Once more: a partition that was given back a moment ago has lost it when librdkafka came to stop it. What came since
        // is moved along.
        forward();
        Ok(())
    }

    fn not_taken(&self, error: &KafkaError) -> Error {
        out_of_step(format!("taking partitions of {}", self.topic), error)
    }

    /// Gives `partitions` back.
    ///
    /// # Errors
    /// When librdkafka refuses, which it does when they are not ours.
    pub fn unassign(&self, partitions: &[i32]) -> Result<(), Error> {
        let result = match self.inner.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.inner.incremental_unassign(&self.list(partitions)),
            RebalanceProtocol::Eager | RebalanceProtocol::None => self.inner.unassign(),
        };
        result.map_err(|error| out_of_step(format!("giving partitions of {} back", self.topic), &error))
    }

    fn start_offsets(&self, partitions: &[i32], wait: Duration) -> Result<TopicPartitionList, Error> {
        let doing = || format!("reading the committed offsets of {}", self.topic);
        let failed = |error: &KafkaError| Error::new(doing(), &self.brokers, error);
        // A transaction that is still open on these offsets (UNSTABLE_OFFSET_COMMIT) is awaited inside.
        let committed = self.inner.committed_offsets(self.list(partitions), wait);
        let committed = committed.map_err(|error| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::OperationTimedOut) => {
                Error::TimedOut { doing: format!("{}{HIDDEN_OFFSETS}", doing()), seconds: wait.as_secs() }
            }
            _ => failed(&error),
        })?;
        let mut starts = TopicPartitionList::with_capacity(partitions.len());
        for element in committed.elements() {
            let start = match (element.offset(), self.reset) {
                (Offset::Offset(offset), _) => Offset::Offset(offset),
                (_, OffsetReset::Error | OffsetReset::Earliest) => Offset::Beginning,
                (_, OffsetReset::Latest) => Offset::End,
            };
            element.error().map_err(|error| failed(&error))?;
            starts.add_partition_offset(&self.topic, element.partition(), start).map_err(|error| failed(&error))?;
        }
        Ok(starts)
    }

    /// Moves `partitions` back to the group's committed offsets and forgets what was fetched beyond: the broker, not our
    /// memory, says where to go on. A committed offset that is gone is replaced by one that the policy gives; `skipped` is told
    /// before the new one is committed, and again when that has to be tried again.
    ///
    /// # Errors
    /// When the committed offsets cannot be read within `wait`, or a partition cannot be moved: then try again. When one is
    /// gone and the policy is to stop: [`Error::OffsetGone`].
    pub fn rewind(
        &self,
        partitions: &[i32],
        wait: Duration,
        skipped: impl FnMut(Skip),
    ) -> Result<Vec<(i32, i64)>, Error> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |error: &KafkaError| {
            Error::new(format!("going back to the committed offsets of {}", self.topic), &self.brokers, error)
        };
        let starts = self.start_offsets(partitions, wait)?;
        let moved = self.inner.seek_partitions(starts, wait).map_err(|error| failed(&error))?;
        let (mut running, mut stopped) = (TopicPartitionList::new(), TopicPartitionList::new());
        for element in moved.elements() {
            let list = match element.error() {
                Ok(()) => &mut running,
                // Only one that is started can be moved: librdkafka stopped this one, or has not come to start it.
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::State) => &mut stopped,
                Err(error) => return Err(failed(&error)),
            };
            let added = list.add_partition_offset(&self.topic, element.partition(), element.offset());
            added.map_err(|error| failed(&error))?;
        }
        let mut known = known_offsets(&running);
        if stopped.count() > 0 {
            self.restart(&mut stopped, wait, skipped)?;
            known.extend(known_offsets(&stopped));
        }
        // They were paused if `assign` could not say where they begin.
        self.resume(partitions);
        Ok(known)
    }

    /// Starts partitions again, from these offsets where they are not gone; moves those that are.
    ///
    /// They are given back and taken between two rebalances, as far as one can know. Where the next one has just begun,
    /// librdkafka takes this for the answer to it and goes on too early; the broker then refuses what a member commits of
    /// partitions that it has no more.
    fn restart(&self, starts: &mut TopicPartitionList, wait: Duration, skipped: impl FnMut(Skip)) -> Result<(), Error> {
        let gaps = self.find_gaps(&known_offsets(starts), wait)?;
        let skips: Vec<Skip> = gaps.iter().filter_map(|gap| gap.skip(self.reset)).collect();
        if skips.len() < gaps.len() {
            return Err(Error::OffsetGone { topic: self.topic.clone(), gap: tell(&gaps) });
        }
        if !skips.is_empty() {
            let offsets: Vec<(i32, i64)> = skips.iter().map(|skip| (skip.partition, skip.to)).collect();
            skips.into_iter().for_each(skipped);
            self.commit_and_wait(offsets.iter().copied())?;
            for (partition, offset) in offsets {
                let set = starts.set_partition_offset(&self.topic, partition, Offset::Offset(offset));
                set.map_err(|error| self.not_taken(&error))?;
            }
        }
        let partitions: Vec<i32> = starts.elements().iter().map(|element| element.partition()).collect();
        self.unassign(&partitions)?;
        self.take(starts)
    }

    fn resume(&self, partitions: &[i32]) {
        let _ = self.inner.resume(&self.list(partitions));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_offset_outside_of_what_there_is_is_gone() {
        let gone = |committed| Gap::find(3, committed, 100, 200).map(|gap| gap.to_string());
        assert_eq!(gone(99).as_deref(), Some("partition 3: 99 to 99 were deleted"));
        assert_eq!(gone(100), None);
        assert_eq!(gone(200), None, "nothing has come yet");
        assert_eq!(gone(201).as_deref(), Some("partition 3: 201 is committed, and it ends at 200"));
    }

    #[test]
    fn the_policy_says_where_to_go_on() {
        let to =
            |committed, reset| Gap::find(3, committed, 100, 200).and_then(|gap| gap.skip(reset)).map(|skip| skip.to);
        for committed in [50, 250] {
            assert_eq!(to(committed, OffsetReset::Error), None);
            assert_eq!(to(committed, OffsetReset::Earliest), Some(100));
            assert_eq!(to(committed, OffsetReset::Latest), Some(200));
        }
    }
}
