//! THE loop. One OS thread owns one consumer and one producer.
//!
//! A turn: take what is there, read the active model once, decode into one block, predict, encode, send, and commit when due.
//! When the producer is full, the partitions are paused and the loop goes on polling, so the group keeps the lane.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::kafka::consumer::{BatchLimits, Event, Fetched, GroupConsumer, OffsetReset, Record};
use crate::kafka::producer::Sent;
use crate::kafka::{self, Connection, Statistics};
use crate::pipeline::{Outcome, Scorer};
use crate::shutdown::Stop;
use crate::telemetry::{LaneMetrics, Stage};

use super::active::Active;
use super::delivery::{Commit, Delivery, Promise};
use super::output::Outputs;

/// The longest wait for a record: the lane's heartbeat and a stop are never later than this.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// The input counts as idle when nothing came for this long; then what is finished is committed at once.
const IDLE_AFTER: Duration = Duration::from_millis(3);
/// How long a lane that gives partitions back finishes what it has; the group waits for it meanwhile.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a full producer is left alone.
const FULL_WAIT: Duration = Duration::from_millis(5);
/// How long a draining lane waits for the broker's next word.
const DRAIN_WAIT: Duration = Duration::from_millis(100);
/// How long a lane waits after a failure before it starts over, so that a lasting one does not spin.
const RESTART_WAIT: Duration = Duration::from_secs(1);
/// The bytes of a batch: enough to be busy, few beside the fetch queue.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What all lanes of a process share.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// The topic with the records.
    pub input: String,
    /// The topic for the predictions.
    pub output: String,
    /// The topic for records that cannot be scored.
    pub dead_letters: String,
    /// The consumer group.
    pub group: String,
    /// Where a partition starts whose committed offset does not exist.
    pub offset_reset: OffsetReset,
    /// The most records of a batch.
    pub batch_records: usize,
    /// What is promised when something dies.
    pub exactly_once: bool,
    /// What tells this process from the others of its group, for transactional ids.
    pub instance: String,
    /// How often offsets are committed.
    pub commit_interval: Duration,
    /// How long a stopping lane finishes what it has.
    pub drain_timeout: Duration,
}

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

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

impl LaneSettings {
    fn promise(&self, lane: usize) -> Promise {
        match self.exactly_once {
            true => Promise::ExactlyOnce {
                transactional_id: format!("modelstream.{}.{}.{lane}", self.group, self.instance),
            },
            false => Promise::AtLeastOnce,
        }
    }
}

/// What others may know of a lane while it runs.
#[derive(Debug)]
pub struct LanePulse {
    /// When the pulse was made: the clock of the turns never jumps.
    made: Instant,
    /// Milliseconds from then to the last turn.
    turned_ms: AtomicU64,
    /// Assigned partitions.
    partitions: AtomicUsize,
    /// Whether the group has given the lane its share.
    joined: AtomicBool,
    /// Whether the lane's consumer is connected to a broker, as far as librdkafka's statistics say.
    connected: AtomicBool,
}

impl Default for LanePulse {
    fn default() -> LanePulse {
        LanePulse {
            made: Instant::now(),
            turned_ms: AtomicU64::new(0),
            partitions: AtomicUsize::new(0),
            joined: AtomicBool::new(false),
            connected: AtomicBool::new(true),
        }
    }
}

impl LanePulse {
    fn turn(&self) {
        self.turned_ms.store(self.millis(), Ordering::Relaxed);
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long ago the loop turned last.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(self.turned_ms.load(Ordering::Relaxed)))
    }

    /// The number of partitions that the lane has.
    pub fn partitions(&self) -> usize {
        self.partitions.load(Ordering::Relaxed)
    }

    /// Whether a broker is there.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Whether the group has given the lane its share, which may be none.
    pub fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }
}

/// One lane. [`Lane::run`] is its thread.
pub struct Lane {
    settings: Arc<LaneSettings>,
    active: Arc<Active>,
    metrics: LaneMetrics,
    pulse: Arc<LanePulse>,
    gate: Arc<Gate>,
    delivery: Delivery,
    scorer: Scorer,
    outputs: Outputs,
    assigned: BTreeSet<i32>,
    /// The producer is full: partitions are paused until the batch is sent.
    holding: bool,
    version: u64,
}

impl Lane {
    /// Prepares lane `index` of the process; with transactions it waits for the broker.
    ///
    /// # Errors
    /// When a Kafka setting is not valid, or the cluster does not take the transactional id.
    pub fn new(
        connection: &Connection,
        index: usize,
        settings: Arc<LaneSettings>,
        active: Arc<Active>,
        metrics: LaneMetrics,
        pulse: Arc<LanePulse>,
        gate: Arc<Gate>,
    ) -> Result<Lane, kafka::Error> {
        Ok(Lane {
            delivery: Delivery::new(connection, settings.promise(index), settings.commit_interval)?,
            scorer: Scorer::new(),
            outputs: Outputs::new(&settings),
            settings,
            active,
            metrics,
            pulse,
            gate,
            assigned: BTreeSet::new(),
            holding: false,
            version: 0,
        })
    }

    /// Joins the group once there is a model, and turns until `stop`; then drains. After a failure that may pass, everything
    /// is made anew: a new member of the group, a new producer, and the broker's committed offsets say where to go on.
    ///
    /// # Errors
    /// What does not pass: rights, a topic that is gone, an offset that was deleted; also a drain that was not finished.
    pub fn run(mut self, connection: &Connection, stop: &Stop) -> Result<(), kafka::Error> {
        while !self.active.is_set() {
            self.pulse.turn();
            if stop.wait(IDLE_WAIT) {
                return Ok(());
            }
        }
        loop {
            let LaneSettings { group, input, offset_reset, .. } = self.settings.as_ref();
            let consumer = GroupConsumer::join(connection, group, input, *offset_reset)?;
            match self.turn_until(&consumer, stop) {
                Ok(()) => return self.drain(&consumer),
                Err(failure) if is_final(&failure) => return Err(failure),
                Err(failure) => {
                    tracing::warn!(error = %failure, "the lane starts over from the committed offsets");
                    self.metrics.restarted();
                    self.pulse.joined.store(false, Ordering::Relaxed);
                    drop(consumer);
                    self.assigned.clear();
                    self.holding = false;
                    until_final(stop, || self.delivery.start_over())?;
                    stop.wait(RESTART_WAIT);
                }
            }
        }
    }

    fn turn_until(&mut self, consumer: &GroupConsumer, stop: &Stop) -> Result<(), kafka::Error> {
        let limits = BatchLimits { records: self.settings.batch_records, bytes: BATCH_BYTES_MAX };
        let mut batch: Vec<Record<'_>> = Vec::with_capacity(limits.records);
        let mut sent = 0;
        while !stop.is_set() {
            self.pulse.turn();
            let fetched = if self.holding {
                consumer.serve(FULL_WAIT)
            } else {
                batch.clear();
                sent = 0;
                consumer.fetch(&mut batch, limits, self.wait())
            };
            let idle = matches!(fetched, Fetched::Nothing) && !self.holding;
            let turned = match fetched {
                Fetched::Records => self.score(consumer, &batch),
                Fetched::Event(event) => self.answer(consumer, event, &batch, &mut sent),
                Fetched::Nothing => Ok(()),
            };
            let turned =
                turned.and_then(|()| self.send(&batch, &mut sent)).and_then(|()| self.commit_if_due(consumer, idle));
            match turned {
                Ok(()) => {}
                Err(kafka::Error::Abortable { doing, cause }) => {
                    tracing::warn!(doing, cause, "aborting the transaction; its records are read again");
                    self.abort(consumer)?;
                    sent = batch.len();
                }
                Err(failure) => return Err(failure),
            }
            self.hold(consumer, sent < batch.len());
        }
        Ok(())
    }

    /// Ends the open transaction without a trace for readers, and goes back to the committed offsets.
    fn abort(&mut self, consumer: &GroupConsumer) -> Result<(), kafka::Error> {
        self.delivery.abort()?;
        self.metrics.transaction_ended(false);
        let partitions: Vec<i32> = self.assigned.iter().copied().collect();
        consumer.rewind(&partitions)
    }

    /// How long to wait for the next record: not beyond the next commit, and less while an idle input could commit early.
    fn wait(&self) -> Duration {
        if self.delivery.is_uncommitted() { IDLE_AFTER.min(self.delivery.due_in()) } else { IDLE_WAIT }
    }

    /// Decode, predict, encode, each timed; the outcomes stay in the scorer until the next batch.
    fn score(&mut self, consumer: &GroupConsumer, batch: &[Record<'_>]) -> Result<(), kafka::Error> {
        let active = Arc::clone(&self.active);
        let active = active.load();
        let model = active.as_ref().expect("a lane joins when there is a model, and a model is only ever replaced");
        if self.version != model.version && self.delivery.is_open() {
            // One version a transaction.
            self.commit(consumer)?;
        }
        let timer = Instant::now();
        if self.version != model.version {
            self.version = model.version;
            self.outputs.speak_for(model);
            let classes = &model.model.signature().target.classes;
            self.metrics.take_up(&model.name, model.version, classes, timer.elapsed());
        }
        self.scorer.decode(model, batch.iter().map(Record::payload));
        let decoded = Instant::now();
        self.scorer.predict(model);
        let predicted = Instant::now();
        self.scorer.encode(model);
        self.metrics.stage(Stage::Decode, decoded - timer);
        self.metrics.stage(Stage::Predict, predicted - decoded);
        self.metrics.stage(Stage::Encode, predicted.elapsed());
        self.metrics.batch(batch.len());
        Ok(())
    }

    /// Sends the outcomes from `sent` on, until all are sent or the producer is full.
    fn send(&mut self, batch: &[Record<'_>], sent: &mut usize) -> Result<(), kafka::Error> {
        let (timer, before) = (Instant::now(), *sent);
        for (record, outcome) in batch.iter().zip(self.scorer.outcomes()).skip(before) {
            if self.outputs.send(&mut self.delivery, record, &outcome)? == Sent::Full {
                break;
            }
            match outcome {
                Outcome::Prediction { class, .. } => self.metrics.prediction(class),
                Outcome::DeadLetter(dead) => self.metrics.dead_letter(dead.reason().as_str()),
            }
            self.delivery.finished(record);
            *sent += 1;
        }
        if *sent > before {
            self.metrics.stage(Stage::Produce, timer.elapsed());
        }
        Ok(())
    }

    fn commit_if_due(&mut self, consumer: &GroupConsumer, idle: bool) -> Result<(), kafka::Error> {
        if !self.delivery.is_uncommitted() || !(idle || self.delivery.due_in().is_zero()) {
            return Ok(());
        }
        self.commit(consumer)
    }

    fn commit(&mut self, consumer: &GroupConsumer) -> Result<(), kafka::Error> {
        let (timer, transactional) = (Instant::now(), self.delivery.is_open());
        if self.delivery.commit(consumer)? == Commit::Done {
            self.metrics.stage(Stage::Commit, timer.elapsed());
            self.observe_end_to_end();
            if transactional {
                self.metrics.transaction_ended(true);
            }
        }
        Ok(())
    }

    /// Seconds from each finished record's timestamp to now, when its commit was sent.
    fn observe_end_to_end(&mut self) {
        let now = unix_millis();
        for timestamp in self.delivery.drain_timestamps() {
            self.metrics.end_to_end(now.saturating_sub(timestamp) as f64 / 1e3);
        }
    }

    /// Pauses the partitions when the producer became full, and resumes them when it has room again.
    fn hold(&mut self, consumer: &GroupConsumer, full: bool) {
        if full == self.holding {
            return;
        }
        self.holding = full;
        let partitions: Vec<i32> = self.assigned.iter().copied().collect();
        if full {
            consumer.pause(&partitions);
        } else {
            consumer.resume(&partitions);
        }
    }

    fn answer(
        &mut self,
        consumer: &GroupConsumer,
        event: Event,
        batch: &[Record<'_>],
        sent: &mut usize,
    ) -> Result<(), kafka::Error> {
        match event {
            Event::Assigned(partitions) => self.take(consumer, &partitions),
            Event::Revoked { partitions, lost } => self.give_back(consumer, &partitions, lost, batch, sent),
            Event::Committed(result) => {
                self.metrics.commit_ended(result.is_ok());
                self.delivery.commit_ended(result.is_ok());
                if let Err(error) = result {
                    tracing::warn!(%error, "a commit failed; it is tried again");
                }
                Ok(())
            }
            Event::Statistics(statistics) => {
                self.report(statistics.as_ref());
                Ok(())
            }
            Event::Failed(error) if is_final(&error) || matches!(error, kafka::Error::Other { fatal: true, .. }) => {
                Err(error)
            }
            Event::Failed(error) => {
                tracing::warn!(%error, "the consumer reports an error and goes on");
                Ok(())
            }
        }
    }

    fn take(&mut self, consumer: &GroupConsumer, partitions: &[i32]) -> Result<(), kafka::Error> {
        consumer.assign(partitions)?;
        if self.holding {
            consumer.pause(partitions);
        }
        self.assigned.extend(partitions);
        self.rebalanced("assign", partitions);
        Ok(())
    }

    /// Finishes and commits what it can before the partitions go, unless they are lost already.
    fn give_back(
        &mut self,
        consumer: &GroupConsumer,
        partitions: &[i32],
        lost: bool,
        batch: &[Record<'_>],
        sent: &mut usize,
    ) -> Result<(), kafka::Error> {
        let settled = if lost { self.give_up(batch, *sent) } else { self.settle(consumer, batch, sent) };
        self.delivery.forget(partitions);
        self.assigned.retain(|partition| !partitions.contains(partition));
        consumer.unassign(partitions)?;
        self.metrics.forget_partitions(partitions);
        self.rebalanced(if lost { "lost" } else { "revoke" }, partitions);
        settled
    }

    fn settle(&mut self, consumer: &GroupConsumer, batch: &[Record<'_>], sent: &mut usize) -> Result<(), kafka::Error> {
        let deadline = Instant::now() + REVOKE_TIMEOUT;
        loop {
            self.send(batch, sent)?;
            if *sent == batch.len() {
                return self.delivery.settle(consumer, deadline);
            }
            if Instant::now() >= deadline {
                return self.abandon(batch, *sent);
            }
            std::thread::sleep(FULL_WAIT);
        }
    }

    /// Partitions are gone already: what is open for them must not be committed.
    fn give_up(&self, batch: &[Record<'_>], sent: usize) -> Result<(), kafka::Error> {
        if self.delivery.is_open() {
            let (doing, cause) = ("working on".to_owned(), "partitions were lost to another member".to_owned());
            return Err(kafka::Error::Abortable { doing, cause });
        }
        self.abandon(batch, sent)
    }

    /// An unsent rest of a batch cannot be finished any more: the lane starts over, and whoever has the partitions does it.
    fn abandon(&self, batch: &[Record<'_>], sent: usize) -> Result<(), kafka::Error> {
        match batch.len() - sent {
            0 => Ok(()),
            unsent => Err(kafka::Error::Other {
                doing: "giving partitions back".to_owned(),
                cause: format!("{unsent} records of the batch were not sent in time"),
                fatal: false,
            }),
        }
    }

    fn rebalanced(&self, kind: &'static str, partitions: &[i32]) {
        tracing::info!(kind, ?partitions, assigned = self.assigned.len(), "rebalance");
        self.metrics.rebalanced(kind, self.assigned.len());
        self.pulse.partitions.store(self.assigned.len(), Ordering::Relaxed);
        self.pulse.joined.store(true, Ordering::Relaxed);
    }

    /// Turns librdkafka's statistics into the lag of each partition: in records what a read_committed reader could still
    /// read, in seconds the age of the record that was finished last, while there are any more.
    fn report(&mut self, statistics: Option<&Statistics>) {
        let Some(statistics) = statistics else { return self.metrics.invalid_statistics() };
        self.pulse.connected.store(statistics.connected, Ordering::Relaxed);
        for (partition, end) in &statistics.end_offsets {
            if !self.assigned.contains(partition) {
                continue;
            }
            let Some(progress) = self.delivery.progress(*partition) else { continue };
            let records = (end - progress.next_offset).max(0);
            let now = i64::try_from(unix_millis()).unwrap_or(i64::MAX);
            let behind_ms = if records == 0 { 0 } else { (now - progress.timestamp_ms.unwrap_or(now)).max(0) };
            self.metrics.lag(*partition, records, behind_ms as f64 / 1e3);
        }
        let Statistics { sent_bytes, received_bytes, round_trip_seconds, .. } = *statistics;
        self.metrics.client(sent_bytes, received_bytes, round_trip_seconds);
    }

    /// Delivers what was sent, waits for the broker's word that its offsets are committed, for the end of a rebalance that is
    /// under way, and for the process's other lanes: a member that leaves in the middle of a rebalance, which a sibling's
    /// leaving is the start of, is waited for until its session times out. Partitions stay paused; events are answered on.
    fn drain(&mut self, consumer: &GroupConsumer) -> Result<(), kafka::Error> {
        let deadline = Instant::now() + self.settings.drain_timeout;
        self.hold(consumer, true);
        let mut arrived = false;
        loop {
            self.pulse.turn();
            if self.delivery.is_settled() && consumer.is_between_rebalances(DRAIN_WAIT) {
                if !arrived {
                    arrived = true;
                    self.gate.arrive();
                }
                if self.gate.is_open() {
                    break;
                }
            }
            if Instant::now() >= deadline {
                let doing = "draining: the broker does not confirm the last commit".to_owned();
                return Err(kafka::Error::TimedOut { doing, seconds: self.settings.drain_timeout.as_secs() });
            }
            if self.delivery.is_uncommitted() {
                match self.commit(consumer) {
                    Err(kafka::Error::Abortable { .. }) => self.delivery.abort()?,
                    other => other?,
                }
            }
            if let Fetched::Event(event) = consumer.serve(DRAIN_WAIT) {
                self.answer(consumer, event, &[], &mut 0)?;
            }
        }
        self.observe_end_to_end();
        tracing::info!("drained: everything finished is delivered and committed");
        Ok(())
    }
}

/// Tries until it works, fails with what does not pass, or `stop` is set.
pub(super) fn until_final<T>(
    stop: &Stop,
    mut attempt: impl FnMut() -> Result<T, kafka::Error>,
) -> Result<T, kafka::Error> {
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(failure) if is_final(&failure) => return Err(failure),
            Err(failure) => {
                tracing::warn!(error = %failure, "no producer yet; trying again");
                if stop.wait(RESTART_WAIT) {
                    return Err(failure);
                }
            }
        }
    }
}

/// Whether starting over would meet the same error.
fn is_final(error: &kafka::Error) -> bool {
    use kafka::Error as E;
    match error {
        E::Setting(_) | E::NotAuthorised { .. } | E::Fenced { .. } | E::NoTopic { .. } | E::OffsetGone { .. } => true,
        E::Unreachable { .. } | E::TimedOut { .. } | E::Abortable { .. } | E::Other { .. } => false,
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
