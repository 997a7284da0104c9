//! THE loop. One OS thread owns one consumer, and what its outputs are delivered with.
//!
//! A turn: take what is there, read the active model once, decode into one block, predict, encode, send, and commit when due.
//! When the producer is full, what was fetched waits and the loop goes on polling, so the group keeps the lane.
//!
//! After a failure the lane is adrift: what it would read next is not what comes after the committed offsets. It stays a member
//! of the group, and takes no record, until its producer may send again and every partition is back at its committed
//! offset. Our memory never says what was committed.

mod rebalance;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kafka::consumer::{BatchLimits, Event, Fetched, GroupConsumer, Record};
use crate::kafka::fault::Remedy;
use crate::kafka::producer::Sent;
use crate::kafka::{self, Connection, Statistics};
use crate::pipeline::{Outcome, Scorer, ServedModel};
use crate::shutdown::Stop;
use crate::telemetry::{LaneMetrics, Stage};

use super::active::Active;
use super::batch::Batch;
use super::breaker::Breaker;
use super::crash::{self, Point};
use super::delivery::{Committed, Delivery};
use super::lag::{self, Lag};
use super::memory;
use super::output::Outputs;
use super::pulse::{Activity, Gate, LanePulse};
use super::settings::LaneSettings;

/// The longest wait for a record: the lane's heartbeat and a stop are never later than this.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// The input counts as idle when nothing came for this long; then what is finished is committed at once.
const IDLE_AFTER: Duration = Duration::from_millis(3);
/// How long a full producer is left alone.
const FULL_WAIT: Duration = Duration::from_millis(5);
/// How long each attempt to recover waits for the broker, before the lane looks at its consumer again.
const RECOVER_WAIT: Duration = Duration::from_secs(1);
/// How often a lasting failure is told again.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// How long a draining lane waits for the broker's next word.
const DRAIN_WAIT: Duration = Duration::from_millis(100);
/// The longest that it waits for one answer, while the group may wait for the lane.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);
/// How long a lane waits before it joins anew, so that a lasting failure does not spin.
const REJOIN_WAIT: Duration = Duration::from_secs(1);
/// The bytes of a batch, before the record that fills it: enough to be busy, few beside the fetch queue.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One lane. [`Lane::run`] is its thread.
pub struct Lane {
    index: usize,
    settings: Arc<LaneSettings>,
    active: Arc<Active>,
    metrics: LaneMetrics,
    pulse: Arc<LanePulse>,
    gate: Arc<Gate>,
    delivery: Delivery,
    scorer: Scorer,
    outputs: Outputs,
    breaker: Breaker,
    /// The partitions that the lane has, with the offset to start at where it is known.
    assigned: BTreeMap<i32, Option<i64>>,
    lag: Lag,
    /// No record is taken.
    holding: bool,
    /// What would be read next is not what comes after the committed offsets; since when.
    adrift: Option<Instant>,
    /// When a failure to recover was told last.
    told: Option<Instant>,
    version: u64,
}

impl Lane {
    /// Prepares lane `index` of the process.
    ///
    /// # Errors
    /// When a Kafka setting is not valid.
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
            index,
            delivery: Delivery::new(connection, settings.promise(index), settings.commit)?,
            scorer: Scorer::new(),
            outputs: Outputs::new(&settings),
            breaker: Breaker::new(settings.dead_letter_share_max),
            settings,
            active,
            metrics,
            pulse,
            gate,
            assigned: BTreeMap::new(),
            lag: Lag::default(),
            holding: false,
            adrift: None,
            told: None,
            version: 0,
        })
    }

    /// Joins the group once there is a model and the producer may send, and turns until `stop`; then drains.
    ///
    /// # Errors
    /// What does not pass: a twin, rights, a topic that is gone, an offset that was deleted; also a drain that was not finished.
    pub fn run(mut self, connection: &Connection, stop: &Stop) -> Result<(), kafka::Error> {
        while !(self.active.is_set() && self.is_prepared()?) {
            self.pulse.turn();
            self.pulse.progress(Instant::now());
            if stop.wait(IDLE_WAIT) {
                return Ok(());
            }
        }
        loop {
            let LaneSettings { group, input, offset_reset, .. } = self.settings.as_ref();
            let member = self.settings.member(self.index);
            let consumer = GroupConsumer::join(connection, group, member.as_deref(), input, *offset_reset)?;
            match self.turn_until(&consumer, stop) {
                Ok(()) => return self.drain(&consumer),
                Err(failure) if failure.remedy() == Remedy::Rejoin => {
                    tracing::warn!(error = %failure, "the lane joins the group anew");
                    self.metrics.restarted();
                    self.pulse.does(Activity::Starting);
                    drop(consumer);
                    self.assigned.clear();
                    self.lag = Lag::default();
                    self.holding = false;
                    self.delivery.renew()?;
                    self.drift();
                    stop.wait(REJOIN_WAIT);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn turn_until(&mut self, consumer: &GroupConsumer, stop: &Stop) -> Result<(), kafka::Error> {
        let mut batch = Batch::default();
        while !stop.is_set() {
            self.pulse.turn();
            let turned = match self.adrift {
                Some(since) => self.recover(consumer, since),
                None => self.turn(consumer, &mut batch),
            };
            if let Err(failure) = turned {
                self.answer_failure(failure)?;
                batch.clear();
            }
            let open = self.breaker.is_open(Instant::now());
            self.holding = open || self.adrift.is_some() || !batch.is_sent();
            self.pulse.does(match (self.adrift, open) {
                (Some(_), _) => Activity::Recovering,
                (None, true) => Activity::CircuitOpen,
                (None, false) if self.pulse.activity() == Activity::Starting => Activity::Starting,
                (None, false) => Activity::Flowing,
            });
        }
        Ok(())
    }

    fn turn<'c>(&mut self, consumer: &'c GroupConsumer, batch: &mut Batch<'c>) -> Result<(), kafka::Error> {
        self.delivery.check_commit(consumer)?;
        self.observe_commits();
        let fetched = if self.holding {
            consumer.serve(FULL_WAIT)
        } else {
            batch.clear();
            let records = self.breaker.records_max(self.active.batch_records(self.settings.batch_records));
            let usual = BatchLimits { records, bytes: BATCH_BYTES_MAX };
            consumer.fetch(&mut batch.records, self.delivery.batch_limits(usual), self.wait())
        };
        let idle = matches!(fetched, Fetched::Nothing) && batch.is_sent();
        match fetched {
            Fetched::Records => self.score(consumer, batch)?,
            Fetched::Event(event) => self.answer(consumer, event, batch)?,
            Fetched::Nothing => {}
        }
        self.send(batch)?;
        if idle || self.delivery.due_in().is_zero() {
            self.commit(consumer)?;
        }
        Ok(())
    }

    /// Does what the remedy for a failure is; the failure itself when there is none but to end or to join anew.
    fn answer_failure(&mut self, failure: kafka::Error) -> Result<(), kafka::Error> {
        match failure.remedy() {
            Remedy::Stop | Remedy::Rejoin => return Err(failure),
            Remedy::Abort => {
                tracing::warn!(%failure, "aborting the transaction; its records are read again");
                self.metrics.transaction_ended(false);
                if let Err(failure) = self.delivery.abort() {
                    tracing::warn!(%failure, "making the producer anew");
                    self.delivery.renew()?;
                }
            }
            Remedy::Renew => {
                tracing::warn!(%failure, "making the producer anew; what was not committed is read again");
                self.metrics.restarted();
                self.delivery.renew()?;
            }
        }
        self.drift();
        Ok(())
    }

    fn drift(&mut self) {
        self.adrift.get_or_insert_with(Instant::now);
        self.told = None;
    }

    /// One attempt to get back to work: the producer may send, and every partition is at its committed offset. Events come
    /// first: the group must not wait for a lane that waits for the broker.
    fn recover(&mut self, consumer: &GroupConsumer, since: Instant) -> Result<(), kafka::Error> {
        if let Fetched::Event(event) = consumer.serve(FULL_WAIT) {
            return self.answer(consumer, event, &mut Batch::default());
        }
        if !self.is_prepared()? {
            return Ok(());
        }
        crash::at(Point::Rewind)?;
        let partitions: Vec<i32> = self.assigned.keys().copied().collect();
        match consumer.rewind(&partitions, RECOVER_WAIT) {
            Ok(starts) => self.assigned.extend(starts.into_iter().map(|(partition, start)| (partition, Some(start)))),
            Err(failure) => return self.tell(failure),
        }
        self.adrift = None;
        tracing::info!(after_ms = since.elapsed().as_millis(), ?partitions, "back at the committed offsets");
        Ok(())
    }

    /// Whether the producer may send.
    fn is_prepared(&mut self) -> Result<bool, kafka::Error> {
        match self.delivery.prepare(RECOVER_WAIT) {
            Ok(()) => Ok(true),
            Err(failure) => self.tell(failure).map(|()| false),
        }
    }

    /// Tells a failure that calls for patience, not too often; the failure itself when it does not pass.
    fn tell(&mut self, failure: kafka::Error) -> Result<(), kafka::Error> {
        if failure.remedy() == Remedy::Stop {
            return Err(failure);
        }
        if self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            tracing::warn!(%failure, "waiting for the broker");
            self.told = Some(Instant::now());
        }
        Ok(())
    }

    /// How long to wait for the next record: not beyond the next commit, and less while an idle input could commit early.
    fn wait(&self) -> Duration {
        match (self.delivery.is_committing(), self.delivery.is_uncommitted()) {
            (true, _) => IDLE_AFTER,
            (false, true) => IDLE_AFTER.min(self.delivery.due_in()),
            (false, false) => IDLE_WAIT,
        }
    }

    /// Decode, predict, encode, each timed; the outcomes stay in the scorer until the next batch.
    fn score(&mut self, consumer: &GroupConsumer, batch: &Batch<'_>) -> Result<(), kafka::Error> {
        crash::at(Point::AfterPoll)?;
        let active = Arc::clone(&self.active);
        let active = active.load();
        let model = active.as_ref().expect("a lane joins when there is a model, and a model is only ever replaced");
        if self.version != model.version {
            if self.delivery.is_open() {
                // One version a transaction.
                self.commit(consumer)?;
            }
            crash::at(Point::Swap)?;
            self.take_up(model);
            if memory::batch_records(batch.records.len(), model.scored_bytes_max()) < batch.records.len() {
                let (doing, cause) = ("scoring".to_owned(), "the new version takes smaller batches".to_owned());
                return Err(kafka::Error::Abortable { doing, cause });
            }
        }
        if catch_unwind(AssertUnwindSafe(|| self.steps(model, batch))).is_err() {
            tracing::error!(model = model.name, version = model.version, "scoring panicked; looking for the record");
            self.scorer.isolate(model, batch.records.iter().map(Record::payload));
        }
        self.metrics.batch(batch.records.len());
        Ok(())
    }

    fn steps(&mut self, model: &ServedModel, batch: &Batch<'_>) {
        let timer = Instant::now();
        self.scorer.decode(model, batch.records.iter().map(Record::payload));
        let decoded = Instant::now();
        // As a panic this is the model's; there is nothing to abort yet.
        let _ = crash::at(Point::Predict);
        self.scorer.predict(model);
        let predicted = Instant::now();
        self.scorer.encode(model);
        self.metrics.stage(Stage::Decode, decoded - timer);
        self.metrics.stage(Stage::Predict, predicted - decoded);
        self.metrics.stage(Stage::Encode, predicted.elapsed());
    }

    fn take_up(&mut self, model: &ServedModel) {
        let timer = Instant::now();
        self.version = model.version;
        self.outputs.speak_for(model);
        self.breaker.model_changed();
        self.metrics.take_up(&model.name, model.version, &model.model.signature().target.classes, timer.elapsed());
    }

    /// Sends the outcomes that are not sent yet, until all are or the producer is full.
    fn send(&mut self, batch: &mut Batch<'_>) -> Result<(), kafka::Error> {
        if batch.is_sent() {
            return Ok(());
        }
        let (timer, before, mut dead_letters) = (Instant::now(), batch.sent, 0);
        for (record, outcome) in batch.records.iter().zip(self.scorer.outcomes()).skip(before) {
            if batch.sent == batch.records.len() / 2 {
                crash::at(Point::MidProduce)?;
            }
            if self.outputs.send(&mut self.delivery, record, &outcome)? == Sent::Full {
                break;
            }
            match outcome {
                Outcome::Prediction { class, .. } => self.metrics.prediction(class),
                Outcome::DeadLetter(dead) => {
                    dead_letters += 1;
                    self.metrics.dead_letter(dead.reason().as_str());
                }
            }
            batch.sent += 1;
        }
        self.delivery.finished(&batch.records[before..batch.sent]);
        self.metrics.flush_predictions();
        let sent = batch.sent - before;
        if sent > 0 {
            self.metrics.stage(Stage::Produce, timer.elapsed());
            if self.breaker.count(sent as u64, dead_letters, Instant::now()) {
                tracing::error!(
                    share_max = self.settings.dead_letter_share_max,
                    dead_letters = self.settings.dead_letters,
                    "too many records cannot be scored: the flow stops and a few are tried from time to time; look at the dead letters, then mend the records, publish another model, or raise --dead-letter-share-max",
                );
            }
        }
        if batch.is_sent() { crash::at(Point::AfterProduce) } else { Ok(()) }
    }

    /// Commits what is finished, if anything is.
    fn commit(&mut self, consumer: &GroupConsumer) -> Result<(), kafka::Error> {
        if self.delivery.is_uncommitted() {
            self.delivery.commit(consumer)?;
        }
        self.observe_commits();
        Ok(())
    }

    /// Counts commits, and the seconds from the timestamps of their records to them.
    fn observe_commits(&mut self) {
        for Committed { at, took, timestamps } in self.delivery.take_committed() {
            self.metrics.stage(Stage::Commit, took);
            if self.delivery.is_transactional() {
                self.metrics.transaction_ended(true);
            }
            let then = lag::unix_millis().saturating_sub(at.elapsed().as_millis() as u64);
            let seconds = |timestamp| then.saturating_sub(timestamp) as f64 / 1e3;
            self.metrics.end_to_end(timestamps.into_iter().map(seconds));
        }
    }

    fn answer(&mut self, consumer: &GroupConsumer, event: Event, batch: &mut Batch<'_>) -> Result<(), kafka::Error> {
        match event {
            Event::Assigned(partitions) => self.take(consumer, &partitions),
            Event::Revoked { partitions, lost } => self.give_back(consumer, &partitions, lost, batch),
            Event::Committed(result) => {
                self.metrics.commit_ended(result.is_ok());
                self.delivery.commit_ended(result.is_ok());
                if let Err(error) = result {
                    tracing::warn!(%error, "a commit failed; it is tried again");
                }
                Ok(())
            }
            Event::Statistics(statistics) => {
                self.report(statistics.as_ref(), batch.is_sent());
                Ok(())
            }
            Event::Failed(error) if matches!(error.remedy(), Remedy::Stop | Remedy::Rejoin) => Err(error),
            // librdkafka goes on by itself, and has logged it; an outage brings thousands of these.
            Event::Failed(error) => {
                tracing::debug!(%error, "the consumer reports an error and goes on");
                Ok(())
            }
        }
    }

    fn report(&mut self, statistics: Option<&Statistics>, sent: bool) {
        let Some(statistics) = statistics else { return self.metrics.invalid_statistics() };
        self.pulse.is_connected_now(statistics.connected);
        // Neither a broker that is away nor an open circuit is a stall.
        let excused = !statistics.connected || self.pulse.activity() == Activity::CircuitOpen;
        let assigned = self.assigned.iter().map(|(partition, start)| (*partition, *start));
        let moved = self.lag.report(statistics, assigned, &self.delivery, sent, excused, &self.metrics);
        self.pulse.progress(moved);
        let Statistics { sent_bytes, received_bytes, round_trip_seconds, .. } = *statistics;
        self.metrics.client(sent_bytes, received_bytes, round_trip_seconds);
    }

    /// Delivers what was sent, waits for the broker's word that its offsets are committed, for the end of a rebalance that is
    /// under way, and for the process's other lanes: a member that leaves in the middle of a rebalance, which a sibling's
    /// leaving is the start of, is waited for until its session times out. No record is taken; events are answered on.
    fn drain(&mut self, consumer: &GroupConsumer) -> Result<(), kafka::Error> {
        let deadline = Instant::now() + self.settings.drain_timeout;
        let (mut arrived, mut patience) = (false, DRAIN_WAIT);
        loop {
            self.pulse.turn();
            self.pulse.progress(Instant::now());
            let settled = self.delivery.is_settled() && consumer.is_between_rebalances(patience);
            // The next answer may be given more time: a broker far away is slower than the first guess.
            patience = (patience * 2).min(DRAIN_PATIENCE);
            if settled && !arrived {
                arrived = true;
                self.gate.arrive();
            }
            // Not asked again whether it is settled: a sibling that has left already began a rebalance.
            if arrived && self.gate.is_open() {
                break;
            }
            if Instant::now() >= deadline {
                let doing = "draining: the broker does not confirm the last commit".to_owned();
                return Err(kafka::Error::TimedOut { doing, seconds: self.settings.drain_timeout.as_secs() });
            }
            let fetched = consumer.serve(if self.delivery.is_committing() { FULL_WAIT } else { DRAIN_WAIT });
            let turned = match fetched {
                Fetched::Event(event) => self.answer(consumer, event, &mut Batch::default()),
                Fetched::Records | Fetched::Nothing => Ok(()),
            };
            let committed =
                turned.and_then(|()| self.commit(consumer)).and_then(|()| self.delivery.check_commit(consumer));
            self.observe_commits();
            if let Err(failure) = committed {
                self.answer_failure(failure)?;
            }
        }
        self.observe_commits();
        tracing::info!("drained: everything finished is delivered and committed");
        Ok(())
    }
}
