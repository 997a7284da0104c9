//! How finished records are promised: what is sent, and when their offsets are committed.
//!
//! The lane's loop knows only this: send, commit when due, settle before partitions are given back, abort or renew after a
//! failure.
//!
//! - `at-least-once`: offsets are committed after the broker acknowledged every output that they speak of; the lane goes on
//!   meanwhile.
//! - `exactly-once`: outputs and offsets are one Kafka transaction, begun with its first output. Whatever goes wrong before its
//!   commit, it is aborted and its input read again from the committed offsets; where not even the outcome is known, the
//!   producer is made anew with the same id, which settles what was open.
//!
//! Two producers take turns in it: while one transaction is being committed, the lane fills the next one. The promise stays that
//! of one producer, because a transaction begins only when all outputs of the one before are delivered, so that the order of a
//! partition's records holds; because it commits only after that one did; and because both are aborted when that one cannot be
//! committed.

mod turn;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::kafka::consumer::{BatchLimits, GroupConsumer, Record};
use crate::kafka::fault::Remedy;
use crate::kafka::producer::{Outgoing, Running, Sent, UNTAGGED};
use crate::kafka::{self, Connection};

use super::crash::{self, Point};
use turn::Turn;

/// How long the outputs of the transaction before are waited for until the lane looks at its consumer again.
const FLUSH_SLICE: Duration = Duration::from_millis(50);
/// The most often that failures halve what is attempted at once: 2¹⁰ of the usual limits is little enough for any line.
const HALVINGS_MAX: u32 = 10;
/// So many intervals may a transaction take while records wait for the lane. What makes those late is that they wait, and a commit
/// costs the same whatever is in it: so fewer of them let the lane catch up sooner.
const INTERVALS_BEHIND: u32 = 4;
/// The longest that an interval becomes by this.
const INTERVAL_BEHIND_MAX: Duration = Duration::from_secs(1);
/// After this many commits in a row twice as much is attempted again.
const COMMITS_TO_DOUBLE: u32 = 4;

/// What holds when something dies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promise {
    /// Each record has an output; what was delivered and not committed has two.
    AtLeastOnce,
    /// Each record has exactly one output that a read_committed reader sees.
    ExactlyOnce {
        /// Of the producers that take turns. No other living producer has one of them; a later one with it ends what this one
        /// left open.
        transactional_ids: [String; 2],
    },
}

/// What makes a commit due, whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitLimits {
    /// The time since the last one; that of a transaction may become four times as long, up to a second, while records wait.
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
    /// Whose turn it is to send.
    turn: Turn,
    /// Whose turn it was, and will be next; none without transactions.
    other: Option<Turn>,
    /// The commit that is being made.
    committing: Option<Committing>,
    /// Commits, until somebody asks: at most a few, because the lane asks in each turn.
    committed: Vec<Committed>,
    limits: CommitLimits,
    pace: Pace,
    progress: BTreeMap<i32, Progress>,
    /// Whether `progress` holds more than the broker was asked to commit.
    uncommitted: bool,
    /// Records finished since the last commit.
    records: u64,
    /// Bytes sent since the last commit.
    bytes: u64,
    /// Commits of offsets alone that the broker was asked for and has not answered.
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

/// A commit that is being made.
struct Committing {
    way: Way,
    started: Instant,
    timestamps: Vec<u64>,
}

enum Way {
    /// The other producer's transaction is being committed.
    Transaction(Running),
    /// These offsets are to be sent once the outputs before the producer's seal are delivered.
    Offsets(BTreeMap<i32, i64>),
}

/// A commit of finished records.
#[derive(Debug)]
pub struct Committed {
    /// When it ended; of offsets alone, when it was sent.
    pub at: Instant,
    /// How long it took since it was due.
    pub took: Duration,
    /// Of its records, in milliseconds since the Unix epoch.
    pub timestamps: Vec<u64>,
}

impl Delivery {
    /// Prepares to deliver as promised; [`Delivery::prepare`] comes before the first output.
    ///
    /// # Errors
    /// When a setting is not valid.
    pub fn new(connection: &Connection, promise: Promise, limits: CommitLimits) -> Result<Delivery, kafka::Error> {
        let (turn, other) = match promise {
            Promise::AtLeastOnce => (Turn::new(connection, None)?, None),
            Promise::ExactlyOnce { transactional_ids: [first, second] } => {
                (Turn::new(connection, Some(first))?, Some(Turn::new(connection, Some(second))?))
            }
        };
        Ok(Delivery {
            connection: connection.clone(),
            turn,
            other,
            committing: None,
            committed: Vec::new(),
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

    /// Waits up to `wait` until outputs may be sent: with transactions, until the broker has ended what former owners of the
    /// transactional ids left open.
    ///
    /// # Errors
    /// When it is not done in time, which calls for patience; or what does not pass.
    pub fn prepare(&mut self, wait: Duration) -> Result<(), kafka::Error> {
        self.turn.prepare(&self.connection, wait)?;
        self.other.as_mut().map_or(Ok(()), |other| other.prepare(&self.connection, wait))
    }

    /// Hands an output to the producer, without waiting longer than a moment for the outputs of the transaction before.
    ///
    /// # Errors
    /// When the transaction cannot be committed any more, or the producer is of no use.
    pub fn send(&mut self, outgoing: Outgoing<'_>) -> Result<Sent, kafka::Error> {
        if self.is_transactional() && !self.turn.is_open() {
            if !self.is_former_delivered() {
                return Ok(Sent::Full);
            }
            self.turn.begin()?;
            crash::at(Point::AfterBegin)?;
        }
        let bytes = outgoing.len() as u64;
        let sent = self.turn.producer.send(outgoing, UNTAGGED).map_err(|failure| self.turn.doubt(failure))?;
        if sent == Sent::Accepted {
            self.bytes += bytes;
        }
        Ok(sent)
    }

    /// Whether no output of the transaction before is still to be delivered.
    fn is_former_delivered(&self) -> bool {
        match (&self.committing, &self.other) {
            (Some(_), Some(other)) => other.producer.flush(FLUSH_SLICE),
            _ => true,
        }
    }

    /// Whether nothing can be sent at the moment, because outputs of the transaction before are still to be delivered.
    pub fn is_former_under_way(&self) -> bool {
        self.is_committing() && self.other.as_ref().is_some_and(|other| other.producer.in_flight() > 0)
    }

    /// Whether outputs and offsets are committed together.
    pub fn is_transactional(&self) -> bool {
        self.other.is_some()
    }

    /// Whether a transaction is open, or being committed.
    pub fn is_open(&self) -> bool {
        self.turn.is_open() || self.is_committing() && self.is_transactional()
    }

    /// Whether a commit is being made.
    pub fn is_committing(&self) -> bool {
        self.committing.is_some()
    }

    /// `records` have their outputs; those of a partition in its order.
    pub fn finished(&mut self, records: &[Record<'_>]) {
        for of_partition in records.chunk_by(|former, record| former.partition() == record.partition()) {
            let Some(last) = of_partition.last() else { continue };
            let progress = Progress { next_offset: last.offset() + 1, timestamp_ms: last.timestamp_ms() };
            self.progress.insert(last.partition(), progress);
        }
        let timestamps = records.iter().filter_map(|record| u64::try_from(record.timestamp_ms()?).ok());
        self.timestamps.extend(timestamps);
        self.uncommitted |= !records.is_empty();
        self.records += records.len() as u64;
    }

    /// How far `partition` is, where one of its records was finished.
    pub fn progress(&self, partition: i32) -> Option<Progress> {
        self.progress.get(&partition).copied()
    }

    /// The commits that were made since the last call.
    pub fn take_committed(&mut self) -> Vec<Committed> {
        std::mem::take(&mut self.committed)
    }

    /// Whether something waits to be committed.
    pub fn is_uncommitted(&self) -> bool {
        self.uncommitted
    }

    /// Whether everything that is finished is committed, and the broker has said so.
    pub fn is_settled(&self) -> bool {
        !self.uncommitted && self.unanswered == 0 && self.committing.is_none()
    }

    /// The broker answered a commit of offsets alone; what it refused is to be committed again.
    pub fn commit_ended(&mut self, committed: bool) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if !committed {
            self.uncommitted = !self.progress.is_empty();
        }
    }

    /// How long until a commit is due; `behind` says that more records wait for the lane.
    pub fn due_in(&self, behind: bool) -> Duration {
        let CommitLimits { interval, records, bytes } = self.limits;
        let halvings = self.pace.halvings;
        if self.records >= records >> halvings || self.bytes >= bytes >> halvings {
            return Duration::ZERO;
        }
        // Where the broker is slow, nothing more is attempted at once.
        let interval =
            if behind && self.is_transactional() && halvings == 0 { interval_behind(interval) } else { interval };
        interval.saturating_sub(self.last_commit.elapsed())
    }

    /// `usual` limits of a batch, smaller where the broker is slow.
    pub fn batch_limits(&self, usual: BatchLimits) -> BatchLimits {
        let BatchLimits { records, bytes } = usual;
        BatchLimits { records: (records >> self.pace.halvings).max(1), bytes: (bytes >> self.pace.halvings).max(1) }
    }

    /// Begins to commit what is finished, and does not wait for it. A transaction is committed by a thread of its own, once the
    /// one before is. Offsets alone are sent once the outputs that they speak of are delivered; until those of the last commit
    /// are, nothing is done.
    ///
    /// # Errors
    /// When the transaction cannot be committed any more: [`Delivery::abort`]. When a delivery failed, or nobody knows whether
    /// the transaction was committed: [`Delivery::renew`].
    pub fn commit(&mut self, consumer: &GroupConsumer) -> Result<(), kafka::Error> {
        crash::at(Point::BeforeOffsets)?;
        if self.is_transactional() {
            return self.commit_transaction(consumer);
        }
        if self.committing.is_none() {
            self.turn.producer.seal();
            self.begin_commit(Way::Offsets(self.offsets().collect()));
        }
        self.check_commit(consumer)
    }

    /// Goes on with the commit that is being made, if one is: the lane calls this in each turn.
    ///
    /// # Errors
    /// As [`Delivery::commit`].
    pub fn check_commit(&mut self, consumer: &GroupConsumer) -> Result<(), kafka::Error> {
        let Some(Committing { way: Way::Offsets(offsets), started, .. }) = &self.committing else {
            return self.conclude_transaction(Instant::now());
        };
        let (delivered, started) = (self.turn.producer.is_sealed_delivered(), *started);
        // Behind the question, so that no failure of what is delivered is overlooked.
        if let Some(failure) = self.turn.producer.take_failure() {
            return Err(failure);
        }
        if !delivered {
            return Ok(());
        }
        if !offsets.is_empty() {
            crash::at(Point::BeforeCommit)?;
            consumer.commit(offsets.iter().map(|(partition, offset)| (*partition, *offset)))?;
            self.unanswered += 1;
        }
        self.commit_made(started, Instant::now());
        Ok(())
    }

    /// Delivers and commits everything that is finished, waiting for the broker until `deadline`; a transaction has a deadline
    /// of its own.
    ///
    /// # Errors
    /// As [`Delivery::commit`]; also when it is not delivered in time, or the broker refuses the offsets.
    pub fn settle(&mut self, consumer: &GroupConsumer, deadline: Instant) -> Result<(), kafka::Error> {
        if self.is_transactional() {
            self.commit_transaction(consumer)?;
            return self.await_transaction();
        }
        if self.is_settled() {
            return Ok(());
        }
        let started = Instant::now();
        let left = deadline.saturating_duration_since(started);
        let delivered = self.turn.producer.flush(left);
        if let Some(failure) = self.turn.producer.take_failure() {
            return Err(failure);
        }
        if !delivered {
            let doing = "delivering the last outputs".to_owned();
            return Err(kafka::Error::TimedOut { doing, seconds: left.as_secs() });
        }
        consumer.commit_and_wait(self.offsets())?;
        self.begin_commit(Way::Offsets(BTreeMap::new()));
        self.commit_made(started, Instant::now());
        Ok(())
    }

    fn commit_transaction(&mut self, consumer: &GroupConsumer) -> Result<(), kafka::Error> {
        if !self.turn.is_open() {
            return Ok(());
        }
        self.await_transaction()?;
        let before_commit = || crash::at(Point::BeforeCommit);
        let running = self.turn.producer.start_commit(consumer, self.offsets(), before_commit)?;
        self.begin_commit(Way::Transaction(running));
        if let Some(other) = &mut self.other {
            std::mem::swap(&mut self.turn, other);
        }
        Ok(())
    }

    fn await_transaction(&mut self) -> Result<(), kafka::Error> {
        while let Some(Committing { way: Way::Transaction(running), .. }) = &self.committing {
            self.conclude_transaction(running.deadline())?;
        }
        Ok(())
    }

    fn conclude_transaction(&mut self, until: Instant) -> Result<(), kafka::Error> {
        let Some(Committing { way: Way::Transaction(running), started, .. }) = &self.committing else {
            return Ok(());
        };
        let (Some(ended), Some(other)) = (running.wait(until), &mut self.other) else { return Ok(()) };
        let started = *started;
        if let Err(failure) = ended.outcome {
            self.committing = None;
            return Err(other.doubt(failure));
        }
        other.committed();
        self.commit_made(started, ended.at);
        crash::at(Point::AfterCommit)
    }

    fn begin_commit(&mut self, way: Way) {
        let timestamps = match &mut self.committing {
            // What was being committed is part of this.
            Some(unfinished) => unfinished.timestamps.drain(..).chain(self.timestamps.drain(..)).collect(),
            None => std::mem::take(&mut self.timestamps),
        };
        self.committing = Some(Committing { way, started: Instant::now(), timestamps });
        self.begin_interval();
    }

    fn commit_made(&mut self, started: Instant, at: Instant) {
        let timestamps = self.committing.take().map(|committing| committing.timestamps).unwrap_or_default();
        self.committed.push(Committed { at, took: at - started, timestamps });
        self.pace.committed();
    }

    /// Aborts what is open and forgets what it had finished: its input is to be read again. A commit under way is waited for; when
    /// it fails, it is aborted too.
    ///
    /// # Errors
    /// When even that is not possible: [`Delivery::renew`].
    pub fn abort(&mut self) -> Result<(), kafka::Error> {
        match self.await_transaction() {
            Err(failure) if failure.remedy() != Remedy::Abort => return Err(failure),
            Ok(()) | Err(_) => {}
        }
        let slow = self.is_slow();
        for turn in self.other.iter_mut().chain([&mut self.turn]) {
            turn.abort()?;
        }
        if slow {
            self.pace.too_slow();
        }
        self.forget_all();
        Ok(())
    }

    /// Makes the producers anew, and forgets what the former had not committed. Their transactions end when the new ones are
    /// prepared; then the broker's committed offsets say what they had committed.
    ///
    /// # Errors
    /// When no producer can be made.
    pub fn renew(&mut self) -> Result<(), kafka::Error> {
        if self.is_slow() {
            self.pace.too_slow();
        }
        for turn in self.other.iter_mut().chain([&mut self.turn]) {
            turn.renew(&self.connection)?;
        }
        self.unanswered = 0;
        self.forget_all();
        Ok(())
    }

    /// Forgets partitions that are another member's now.
    pub fn forget(&mut self, partitions: &[i32]) {
        self.progress.retain(|partition, _| !partitions.contains(partition));
        if let Some(Committing { way: Way::Offsets(offsets), .. }) = &mut self.committing {
            offsets.retain(|partition, _| !partitions.contains(partition));
        }
        self.uncommitted &= !self.progress.is_empty();
    }

    fn is_slow(&self) -> bool {
        self.turn.is_slow() || self.other.as_ref().is_some_and(Turn::is_slow)
    }

    fn forget_all(&mut self) {
        self.committing = None;
        self.progress.clear();
        self.timestamps.clear();
        self.begin_interval();
    }

    fn offsets(&self) -> impl Iterator<Item = (i32, i64)> {
        self.progress.iter().map(|(partition, progress)| (*partition, progress.next_offset))
    }

    fn begin_interval(&mut self) {
        self.uncommitted = false;
        self.records = 0;
        self.bytes = 0;
        self.last_commit = Instant::now();
    }
}

fn interval_behind(interval: Duration) -> Duration {
    interval.max(INTERVAL_BEHIND_MAX.min(interval * INTERVALS_BEHIND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_records_wait_a_transaction_takes_longer_but_no_more_than_a_second() {
        let millis = Duration::from_millis;
        assert_eq!(interval_behind(millis(25)), millis(100));
        assert_eq!(interval_behind(millis(400)), INTERVAL_BEHIND_MAX);
        assert_eq!(interval_behind(millis(2_000)), millis(2_000), "never shorter than what was asked for");
    }

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
