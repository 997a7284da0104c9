//! How finished records are promised: what is sent, and when their offsets are committed.
//!
//! The lane's loop knows only this: send, commit when due, settle before partitions are given back, abort or renew after a
//! failure.
//!
//! - `at-least-once`: offsets are committed after the broker acknowledged every output.
//! - `exactly-once`: outputs and offsets are one Kafka transaction, begun with its first output. Whatever goes wrong before its
//!   commit, it is aborted and its input read again from the committed offsets; where not even the outcome is known, the
//!   producer is made anew with the same id, which settles what was open.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::kafka::consumer::{BatchLimits, GroupConsumer, Record};
use crate::kafka::fault::Remedy;
use crate::kafka::producer::{Outgoing, Producer, Sent, UNTAGGED};
use crate::kafka::settings::TRANSACTION_TIMEOUT;
use crate::kafka::{self, Connection};

use super::crash::{self, Point};

/// How long a due commit waits for deliveries before the lane looks at its consumer again.
const FLUSH_SLICE: Duration = Duration::from_millis(50);
/// A transaction that failed after this long failed because it was slow: it is tried again with less.
const SLOW_TRANSACTION: Duration = TRANSACTION_TIMEOUT.checked_div(2).expect("not by zero");
/// The most often that failures halve what is attempted at once: 2¹⁰ of the usual limits is little enough for any line.
const HALVINGS_MAX: u32 = 10;
/// After this many commits in a row twice as much is attempted again.
const COMMITS_TO_DOUBLE: u32 = 4;

/// What holds when something dies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promise {
    /// Each record has an output; what was delivered and not committed has two.
    AtLeastOnce,
    /// Each record has exactly one output that a read_committed reader sees.
    ExactlyOnce {
        /// No other living producer has it; a later one with it ends what this one left open.
        transactional_id: String,
    },
}

impl Promise {
    fn producer(&self, connection: &Connection) -> Result<Producer, kafka::Error> {
        match self {
            Promise::AtLeastOnce => Producer::idempotent(connection),
            Promise::ExactlyOnce { transactional_id } => {
                Producer::transactional_later(connection, transactional_id, TRANSACTION_TIMEOUT)
            }
        }
    }
}

/// What makes a commit due, whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitLimits {
    /// The time since the last one.
    pub interval: Duration,
    /// Finished records.
    pub records: u64,
    /// Bytes of their outputs.
    pub bytes: u64,
}

/// How much is attempted at once: the limits, halved each time that a slow broker could not end a transaction in time.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    halvings: u32,
    commits: u32,
}

impl Pace {
    fn too_slow(&mut self) {
        *self = Pace { halvings: (self.halvings + 1).min(HALVINGS_MAX), commits: 0 };
    }

    fn committed(&mut self) {
        self.commits += 1;
        if self.commits >= COMMITS_TO_DOUBLE {
            *self = Pace { halvings: self.halvings.saturating_sub(1), commits: 0 };
        }
    }
}

/// A lane's outputs and the input offsets that they finish.
pub struct Delivery {
    connection: Connection,
    promise: Promise,
    producer: Producer,
    /// The producer may send: it has taken its transactional id over, where it has one.
    ready: bool,
    /// A transaction was begun then and not ended.
    opened: Option<Instant>,
    limits: CommitLimits,
    pace: Pace,
    progress: BTreeMap<i32, Progress>,
    /// Whether `progress` holds more than the broker was asked to commit.
    uncommitted: bool,
    /// Records finished since the last commit.
    records: u64,
    /// Bytes sent since the last commit.
    bytes: u64,
    /// Commits that the broker was asked for and has not answered.
    unanswered: u32,
    /// Of the records finished since the last commit: at most as many as the producer holds and one batch.
    timestamps: Vec<u64>,
    last_commit: Instant,
}

/// How far a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The offset of the next record to read; all before it were sent.
    pub next_offset: i64,
    /// The timestamp of the record before it, in milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
}

/// How a commit went.
#[derive(Debug, PartialEq, Eq)]
pub enum Commit {
    /// The offsets are on their way; everything that they cover was delivered.
    Done,
    /// Deliveries are still outstanding; try again.
    NotYet,
}

impl Delivery {
    /// Prepares to deliver as promised; [`Delivery::prepare`] comes before the first output.
    ///
    /// # Errors
    /// When a setting is not valid.
    pub fn new(connection: &Connection, promise: Promise, limits: CommitLimits) -> Result<Delivery, kafka::Error> {
        Ok(Delivery {
            connection: connection.clone(),
            producer: promise.producer(connection)?,
            promise,
            ready: false,
            opened: None,
            limits,
            pace: Pace::default(),
            progress: BTreeMap::new(),
            uncommitted: false,
            records: 0,
            bytes: 0,
            unanswered: 0,
            timestamps: Vec::new(),
            last_commit: Instant::now(),
        })
    }

    /// Waits up to `wait` until outputs may be sent: with transactions, until the broker has ended what a former owner of the
    /// transactional id left open.
    ///
    /// # Errors
    /// When it is not done in time, which calls for patience; or what does not pass.
    pub fn prepare(&mut self, wait: Duration) -> Result<(), kafka::Error> {
        if !self.ready && self.is_transactional() {
            match self.producer.take_over(wait) {
                Err(failure @ kafka::Error::Other { .. }) if failure.remedy() == Remedy::Renew => {
                    self.renew()?;
                    return Err(failure);
                }
                other => other?,
            }
        }
        self.ready = true;
        Ok(())
    }

    /// Hands an output to the producer, without waiting.
    ///
    /// # Errors
    /// When the transaction cannot be committed any more, or the producer is of no use.
    pub fn send(&mut self, outgoing: Outgoing<'_>) -> Result<Sent, kafka::Error> {
        if self.opened.is_none() && self.is_transactional() {
            self.producer.begin_transaction()?;
            self.opened = Some(Instant::now());
            crash::at(Point::AfterBegin)?;
        }
        let bytes = outgoing.len() as u64;
        let sent = self.producer.send(outgoing, UNTAGGED).map_err(|failure| self.doubt(failure))?;
        if sent == Sent::Accepted {
            self.bytes += bytes;
        }
        Ok(sent)
    }

    /// Whether outputs and offsets are committed together.
    pub fn is_transactional(&self) -> bool {
        matches!(self.promise, Promise::ExactlyOnce { .. })
    }

    /// Whether a transaction is open.
    pub fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// `record` has its output.
    pub fn finished(&mut self, record: &Record<'_>) {
        let timestamp_ms = record.timestamp_ms();
        self.progress.insert(record.partition(), Progress { next_offset: record.offset() + 1, timestamp_ms });
        self.timestamps.extend(timestamp_ms.and_then(|timestamp| u64::try_from(timestamp).ok()));
        self.uncommitted = true;
        self.records += 1;
    }

    /// How far `partition` is, where one of its records was finished.
    pub fn progress(&self, partition: i32) -> Option<Progress> {
        self.progress.get(&partition).copied()
    }

    /// The timestamps of the records that were finished since the last call, in milliseconds since the Unix epoch.
    pub fn drain_timestamps(&mut self) -> impl Iterator<Item = u64> {
        self.timestamps.drain(..)
    }

    /// Whether something waits to be committed.
    pub fn is_uncommitted(&self) -> bool {
        self.uncommitted
    }

    /// Whether everything that is finished is committed, and the broker has said so.
    pub fn is_settled(&self) -> bool {
        !self.uncommitted && self.unanswered == 0
    }

    /// The broker answered a commit; what it refused is to be committed again.
    pub fn commit_ended(&mut self, committed: bool) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if !committed {
            self.uncommitted = !self.progress.is_empty();
        }
    }

    /// How long until a commit is due.
    pub fn due_in(&self) -> Duration {
        let CommitLimits { interval, records, bytes } = self.limits;
        let halvings = self.pace.halvings;
        if self.records >= records >> halvings || self.bytes >= bytes >> halvings {
            return Duration::ZERO;
        }
        interval.saturating_sub(self.last_commit.elapsed())
    }

    /// `usual` limits of a batch, smaller where the broker is slow.
    pub fn batch_limits(&self, usual: BatchLimits) -> BatchLimits {
        let BatchLimits { records, bytes } = usual;
        BatchLimits { records: (records >> self.pace.halvings).max(1), bytes: (bytes >> self.pace.halvings).max(1) }
    }

    /// Commits what is finished once it is delivered; does not wait long for either.
    ///
    /// # Errors
    /// When the transaction cannot be committed any more: [`Delivery::abort`]. When a delivery failed, or nobody knows whether
    /// the transaction was committed: [`Delivery::renew`].
    pub fn commit(&mut self, consumer: &GroupConsumer) -> Result<Commit, kafka::Error> {
        crash::at(Point::BeforeOffsets)?;
        if self.is_transactional() {
            return self.commit_transaction(consumer).map(|()| Commit::Done);
        }
        let delivered = self.producer.flush(FLUSH_SLICE);
        if let Some(failure) = self.producer.take_failure() {
            return Err(failure);
        }
        if !delivered {
            return Ok(Commit::NotYet);
        }
        crash::at(Point::BeforeCommit)?;
        consumer.commit(self.offsets())?;
        self.unanswered += 1;
        self.committed();
        Ok(Commit::Done)
    }

    /// Delivers and commits everything that is finished, waiting for the broker until `deadline`.
    ///
    /// # Errors
    /// As [`Delivery::commit`]; also when it is not delivered in time, or the broker refuses the offsets.
    pub fn settle(&mut self, consumer: &GroupConsumer, deadline: Instant) -> Result<(), kafka::Error> {
        if self.is_transactional() {
            return self.commit_transaction(consumer);
        }
        if self.is_settled() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let delivered = self.producer.flush(left);
        if let Some(failure) = self.producer.take_failure() {
            return Err(failure);
        }
        if !delivered {
            let doing = "delivering the last outputs".to_owned();
            return Err(kafka::Error::TimedOut { doing, seconds: left.as_secs() });
        }
        consumer.commit_and_wait(self.offsets())?;
        self.committed();
        Ok(())
    }

    fn commit_transaction(&mut self, consumer: &GroupConsumer) -> Result<(), kafka::Error> {
        if self.is_open() {
            self.producer.send_offsets(consumer, self.offsets()).map_err(|failure| self.doubt(failure))?;
            crash::at(Point::BeforeCommit)?;
            self.producer.commit_transaction().map_err(|failure| self.doubt(failure))?;
            self.opened = None;
        }
        self.committed();
        crash::at(Point::AfterCommit)
    }

    fn doubt(&self, failure: kafka::Error) -> kafka::Error {
        failure.unless_timed_out(self.opened.map(|opened| opened.elapsed()))
    }

    /// Aborts the open transaction and forgets what it had finished: its input is to be read again.
    ///
    /// # Errors
    /// When even that is not possible: [`Delivery::renew`].
    pub fn abort(&mut self) -> Result<(), kafka::Error> {
        if self.is_open() {
            self.producer.abort_transaction()?;
            self.opened = None;
        }
        // Failures of records that are aborted are no news.
        let _ = self.producer.take_failure();
        self.forget_all();
        Ok(())
    }

    /// Makes the producer anew, and forgets what the former had not committed. Its transaction ends when the new one is
    /// prepared; then the broker's committed offsets say what it had committed.
    ///
    /// # Errors
    /// When no producer can be made.
    pub fn renew(&mut self) -> Result<(), kafka::Error> {
        self.producer = self.promise.producer(&self.connection)?;
        self.ready = false;
        self.opened = None;
        self.unanswered = 0;
        self.forget_all();
        Ok(())
    }

    /// Forgets partitions that are another member's now.
    pub fn forget(&mut self, partitions: &[i32]) {
        self.progress.retain(|partition, _| !partitions.contains(partition));
        self.uncommitted &= !self.progress.is_empty();
    }

    fn forget_all(&mut self) {
        self.progress.clear();
        self.timestamps.clear();
        if self.is_transactional() && self.last_commit.elapsed() >= SLOW_TRANSACTION && self.uncommitted {
            self.pace.too_slow();
        }
        self.begin_interval();
    }

    fn offsets(&self) -> impl Iterator<Item = (i32, i64)> {
        self.progress.iter().map(|(partition, progress)| (*partition, progress.next_offset))
    }

    fn committed(&mut self) {
        self.begin_interval();
        self.pace.committed();
    }

    fn begin_interval(&mut self) {
        self.uncommitted = false;
        self.records = 0;
        self.bytes = 0;
        self.last_commit = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_broker_is_slow_less_is_attempted_and_more_again_after_commits() {
        let mut pace = Pace::default();
        for _ in 0..HALVINGS_MAX + 5 {
            pace.too_slow();
        }
        assert_eq!(pace.halvings, HALVINGS_MAX);
        for _ in 0..COMMITS_TO_DOUBLE * HALVINGS_MAX {
            pace.committed();
        }
        assert_eq!(pace.halvings, 0);
        pace.committed();
        assert_eq!(pace.halvings, 0);
    }
}
