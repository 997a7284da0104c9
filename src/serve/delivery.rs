//! How finished records are promised: what is sent, and when their offsets are committed.
//!
//! The lane's loop knows only this: send, commit when due, settle before partitions are given back, abort or start over after
//! a failure.
//!
//! - `at-least-once`: offsets are committed after the broker acknowledged every output.
//! - `exactly-once`: outputs and offsets are one Kafka transaction, begun with its first output. Whatever goes wrong before its
//!   commit, it is aborted and its input read again from the committed offsets; where not even the outcome is known, the
//!   producer is made anew with the same id, which settles what was open.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::kafka::consumer::{GroupConsumer, Record};
use crate::kafka::producer::{Outgoing, Producer, Sent, UNTAGGED};
use crate::kafka::settings::TRANSACTION_TIMEOUT;
use crate::kafka::{self, Connection};

/// How long a due commit waits for deliveries before the lane looks at its consumer again.
const FLUSH_SLICE: Duration = Duration::from_millis(50);

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
                Producer::transactional(connection, transactional_id, TRANSACTION_TIMEOUT)
            }
        }
    }
}

/// A lane's outputs and the input offsets that they finish.
pub struct Delivery {
    connection: Connection,
    promise: Promise,
    /// A transaction was begun and not ended.
    open: bool,
    producer: Producer,
    interval: Duration,
    progress: BTreeMap<i32, Progress>,
    /// Whether `progress` holds more than the broker was asked to commit.
    uncommitted: bool,
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
    /// Prepares to deliver as promised; for transactions it waits until the broker has ended a former owner's.
    ///
    /// # Errors
    /// When a setting is not valid, or the cluster does not take the transactional id.
    pub fn new(connection: &Connection, promise: Promise, interval: Duration) -> Result<Delivery, kafka::Error> {
        Ok(Delivery {
            connection: connection.clone(),
            producer: promise.producer(connection)?,
            promise,
            open: false,
            interval,
            progress: BTreeMap::new(),
            uncommitted: false,
            unanswered: 0,
            timestamps: Vec::new(),
            last_commit: Instant::now(),
        })
    }

    /// Hands an output to the producer, without waiting.
    ///
    /// # Errors
    /// When the producer is of no use any more.
    pub fn send(&mut self, outgoing: Outgoing<'_>) -> Result<Sent, kafka::Error> {
        if !self.open && self.is_transactional() {
            self.producer.begin_transaction()?;
            self.open = true;
        }
        self.producer.send(outgoing, UNTAGGED)
    }

    /// Whether outputs and offsets are committed together.
    pub fn is_transactional(&self) -> bool {
        matches!(self.promise, Promise::ExactlyOnce { .. })
    }

    /// Whether a transaction is open.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// `record` has its output.
    pub fn finished(&mut self, record: &Record<'_>) {
        let timestamp_ms = record.timestamp_ms();
        self.progress.insert(record.partition(), Progress { next_offset: record.offset() + 1, timestamp_ms });
        self.timestamps.extend(timestamp_ms.and_then(|timestamp| u64::try_from(timestamp).ok()));
        self.uncommitted = true;
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
        self.interval.saturating_sub(self.last_commit.elapsed())
    }

    /// Commits what is finished once it is delivered; does not wait long for either.
    ///
    /// # Errors
    /// When a delivery failed: nothing more can be committed, [`Delivery::start_over`].
    pub fn commit(&mut self, consumer: &GroupConsumer) -> Result<Commit, kafka::Error> {
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
        consumer.commit(self.offsets())?;
        self.unanswered += 1;
        self.committed();
        Ok(Commit::Done)
    }

    /// Delivers and commits everything that is finished, waiting for the broker until `deadline`.
    ///
    /// # Errors
    /// When it is not delivered in time, a delivery failed, or the broker refuses the offsets.
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
        if self.open {
            self.producer.send_offsets(consumer, self.offsets())?;
            self.producer.commit_transaction()?;
            self.open = false;
        }
        self.committed();
        Ok(())
    }

    /// Aborts the open transaction and forgets what it had finished: its input is to be read again.
    ///
    /// # Errors
    /// When even that is not possible: [`Delivery::start_over`].
    pub fn abort(&mut self) -> Result<(), kafka::Error> {
        if self.open {
            self.producer.abort_transaction()?;
            self.open = false;
        }
        // Failures of records that are aborted are no news.
        let _ = self.producer.take_failure();
        self.progress.clear();
        self.timestamps.clear();
        self.committed();
        Ok(())
    }

    /// Forgets partitions that are another member's now.
    pub fn forget(&mut self, partitions: &[i32]) {
        self.progress.retain(|partition, _| !partitions.contains(partition));
        self.uncommitted &= !self.progress.is_empty();
    }

    /// After a failure: a new producer, nothing finished. The consumer goes back to the committed offsets.
    ///
    /// # Errors
    /// When no producer can be made.
    pub fn start_over(&mut self) -> Result<(), kafka::Error> {
        self.producer = self.promise.producer(&self.connection)?;
        self.open = false;
        self.progress.clear();
        self.timestamps.clear();
        self.unanswered = 0;
        self.committed();
        Ok(())
    }

    fn offsets(&self) -> impl Iterator<Item = (i32, i64)> {
        self.progress.iter().map(|(partition, progress)| (*partition, progress.next_offset))
    }

    fn committed(&mut self) {
        self.uncommitted = false;
        self.last_commit = Instant::now();
    }
}
