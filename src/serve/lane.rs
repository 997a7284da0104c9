//! THE loop. One OS thread owns one consumer, and what its outputs are delivered with.
//!
//! A turn: take what is there, read the active model once, decode into one block, predict, encode, send, and commit when due.
//! When the producer is full, what was fetched waits and the loop goes on polling, so the group keeps the lane. A lane that serves
//! several models does so for the records of each (`lane/models.rs`).
//!
//! After a failure the lane is adrift: what it would read next is not what comes after the committed offsets. It stays a member
//! of the group, and takes no record, until its producer may send again and every partition is back at its committed
//! offset. Our memory never says what was committed.

mod gap;
mod models;
mod rebalance;
mod router;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kafka::consumer::{BatchLimits, Event, Fetched, GroupConsumer};
use crate::kafka::fault::Remedy;
use crate::kafka::{self, Connection, Statistics};
use crate::shutdown::Stop;
use crate::telemetry::{LaneMetrics, Stage};

use super::active::Active;
use super::batch::Batch;
use super::crash::{self, Point};
use super::delivery::{Committed, Delivery};
use super::lag::{self, Lag};
use super::output::Outputs;
use super::pulse::{Activity, Gate, LanePulse};
use super::settings::LaneSettings;
use gap::Skips;
use models::Models;
use rebalance::Waiting;

/// The longest wait for a record: the lane's heartbeat and a stop are never later than this.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// How often a lane that starts looks whether there is a model.
const START_WAIT: Duration = Duration::from_millis(10);
/// The input counts as idle when nothing came for this long; then what is finished is committed at once.
const IDLE_AFTER: Duration = Duration::from_millis(3);
/// How long a full producer is left alone.
const FULL_WAIT: Duration = Duration::from_millis(5);
/// While the transaction before is being delivered nothing can be sent, and whoever has scored already sends sooner: so more records
/// than usual are scored together, up to so many times as many.
const BATCHES_AHEAD: usize = 20;
/// But only as many as this takes, which is about as long as the delivery does.
const SCORE_AHEAD: Duration = Duration::from_millis(20);
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
    models: Models,
    metrics: LaneMetrics,
    pulse: Arc<LanePulse>,
    gate: Arc<Gate>,
    delivery: Delivery,
    outputs: Outputs,
    /// The partitions that the lane has, with the offset to start at where it is known.
    assigned: BTreeMap<i32, Option<i64>>,
    waiting: Waiting,
    lag: Lag,
    skips: Skips,
    /// No record is taken.
    holding: bool,
    /// The last batch was full: more records wait.
    behind: bool,
    /// How long a record of the last batch took to score.
    score_time: Duration,
    /// What would be read next is not what comes after the committed offsets; since when.
    adrift: Option<Instant>,
    /// When a failure to recover was told last.
    told: Option<Instant>,
}

impl Lane {
    /// Prepares lane `index` of the process, which serves the models of `actives`: one at least, only one without a route.
    ///
    /// # Errors
    /// When a Kafka setting is not valid.
    pub fn new(
        connection: &Connection,
        index: usize,
        settings: Arc<LaneSettings>,
        actives: Vec<Arc<Active>>,
        metrics: LaneMetrics,
        pulse: Arc<LanePulse>,
        gate: Arc<Gate>,
    ) -> Result<Lane, kafka::Error> {
        Ok(Lane {
            index,
            delivery: Delivery::new(connection, settings.promise(index), settings.commit)?,
            outputs: Outputs::new(&settings),
            models: Models::new(actives, Arc::clone(&settings), &metrics),
            settings,
            metrics,
            pulse,
            gate,
            assigned: BTreeMap::new(),
            waiting: Waiting::default(),
            lag: Lag::default(),
            skips: Skips::default(),
            holding: false,
            behind: false,
            score_time: SCORE_AHEAD,
            adrift: None,
            told: None,
        })
    }

    /// Joins the group once each model has a version and the producer may send, and turns until `stop`; then drains.
    ///
    /// # Errors
    /// What does not pass: a twin, rights, a topic that is gone, an offset that was deleted; also a drain that was not finished.
    pub fn run(mut self, connection: &Connection, stop: &Stop) -> Result<(), kafka::Error> {
        // The producers first: they ask the broker while the model log is read.
        while !(self.is_prepared()? && self.models.are_set()) {
            self.pulse.turn();
            self.pulse.progress(Instant::now());
            if stop.wait(START_WAIT) {
                return Ok(());
            }
        }
        let mut member = self.settings.member(self.index);
        loop {
            let LaneSettings { group, input, offset_reset, .. } = self.settings.as_ref();
            let consumer = GroupConsumer::join(connection, group, member.as_deref(), input, *offset_reset)?;
            match self.turn_until(&consumer, stop) {
                Ok(()) => return self.drain(&consumer),
                Err(failure) if failure.remedy() == Remedy::Rejoin => {
                    tracing::warn!(error = %failure, "the lane joins the group anew");
                    self.metrics.restarted();
                    self.pulse.does(Activity::Starting);
                    drop(consumer);
                    self.assigned.clear();
                    self.waiting = Waiting::default();
                    self.lag = Lag::default();
                    self.holding = false;
                    self.delivery.renew()?;
                    self.drift();
                    // Under its static name it would get the partitions that it had, without a rebalance: one that it was just
                    // giving back, and that nobody else was given yet, would be nobody's from then on.
                    member = None;
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
            let (open, without_model) = (self.models.is_open(Instant::now()), !self.models.are_set());
            self.holding = open || without_model || self.adrift.is_some() || !batch.is_sent();
            self.pulse.does(match self.adrift {
                Some(_) => Activity::Recovering,
                None if !self.waiting.is_empty() => Activity::Recovering,
                None if self.pulse.activity() == Activity::Starting => Activity::Starting,
                None if without_model => Activity::WaitingForModel,
                None if open => Activity::CircuitOpen,
                None => Activity::Flowing,
            });
        }
        Ok(())
    }

    fn turn<'c>(&mut self, consumer: &'c GroupConsumer, batch: &mut Batch<'c>) -> Result<(), kafka::Error> {
        self.delivery.check_commit(consumer)?;
        self.observe_commits();
        self.start_waiting(consumer)?;
        let fetched = if self.holding {
            consumer.serve(FULL_WAIT)
        } else {
            batch.clear();
            let (usual, commit) = (self.settings.batch_records, self.settings.commit.records);
            let wanted = match self.delivery.is_former_under_way() {
                true => records_ahead(usual, commit, self.score_time),
                false => usual,
            };
            let limits = BatchLimits { records: self.models.batch_records(wanted), bytes: BATCH_BYTES_MAX };
            consumer.fetch(&mut batch.records, self.delivery.batch_limits(limits), self.wait())
        };
        let idle = matches!(fetched, Fetched::Nothing) && batch.is_sent();
        match fetched {
            Fetched::Records => {
                self.behind = batch.records.len() >= self.models.batch_records(self.settings.batch_records);
                self.score(consumer, batch)?;
            }
            Fetched::Event(event) => self.answer(consumer, event, batch)?,
            Fetched::Nothing => {}
        }
        self.send(batch)?;
        if idle || self.delivery.due_in(self.behind).is_zero() {
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
                match self.delivery.abort() {
                    Ok(()) => {}
                    // Of a topic that is gone the next producer would have to find out anew, time and again.
                    Err(failure) if failure.remedy() == Remedy::Stop => return Err(failure),
                    Err(failure) => {
                        tracing::warn!(%failure, "making the producer anew");
                        self.delivery.renew()?;
                    }
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

    /// From now on the lane is adrift; nothing that it had begun is left.
    fn drift(&mut self) {
        debug_assert!(!self.delivery.is_open(), "what is read again must not be committed too");
        self.adrift.get_or_insert_with(Instant::now);
        self.told = None;
    }

    /// The lane has to go back to the committed offsets though nothing failed: what was fetched is finished and committed first.
    fn leave(&mut self, consumer: &GroupConsumer, batch: &mut Batch<'_>) -> Result<(), kafka::Error> {
        self.settle(consumer, batch)?;
        self.drift();
        Ok(())
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
        // Those that wait need not be waited for.
        let partitions: Vec<i32> =
            self.assigned.keys().copied().filter(|partition| !self.waiting.contains(*partition)).collect();
        if self.go_back(consumer, &partitions, RECOVER_WAIT)? {
            self.adrift = None;
            tracing::info!(after_ms = since.elapsed().as_millis(), ?partitions, "back at the committed offsets");
        }
        Ok(())
    }

    /// Whether `partitions` are at their committed offsets, after an attempt to move them there.
    fn go_back(&mut self, consumer: &GroupConsumer, partitions: &[i32], wait: Duration) -> Result<bool, kafka::Error> {
        match consumer.rewind(partitions, wait, |skip| self.skipped(&skip)) {
            Ok(starts) => self.start_at(starts),
            Err(failure) => return self.tell(failure).map(|()| false),
        }
        Ok(true)
    }

    fn start_at(&mut self, starts: Vec<(i32, i64)>) {
        self.assigned.extend(starts.into_iter().map(|(partition, start)| (partition, Some(start))));
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
            (false, true) => IDLE_AFTER.min(self.delivery.due_in(self.behind)),
            (false, false) => IDLE_WAIT,
        }
    }

    /// Scores the batch, the records of each model as one block.
    fn score(&mut self, consumer: &GroupConsumer, batch: &mut Batch<'_>) -> Result<(), kafka::Error> {
        crash::at(Point::AfterPoll)?;
        let timer = Instant::now();
        self.models.sort(&batch.records);
        for index in 0..self.models.len() {
            if self.models.records_of(index, batch) == 0 {
                continue;
            }
            let active = self.models.load(index);
            let Some(model) = active.as_deref() else { return self.put_back(consumer, batch) };
            if !self.models.has_taken_up(index, model) {
                if self.delivery.is_open() {
                    // One version of a model a transaction.
                    self.commit(consumer)?;
                }
                crash::at(Point::Swap)?;
                self.models.take_up(index, model);
            }
            self.models.score(index, model, batch, &self.metrics)?;
        }
        self.score_time = timer.elapsed() / u32::try_from(batch.records.len()).unwrap_or(u32::MAX).max(1);
        self.metrics.batch(batch.records.len());
        Ok(())
    }

    /// A model lost its version while the batch was fetched: it is read again when there is one.
    fn put_back(&mut self, consumer: &GroupConsumer, batch: &mut Batch<'_>) -> Result<(), kafka::Error> {
        batch.clear();
        self.leave(consumer, batch)
    }

    /// Sends the outcomes that are not sent yet, until all are or the producer is full.
    fn send(&mut self, batch: &mut Batch<'_>) -> Result<(), kafka::Error> {
        if batch.is_sent() {
            return Ok(());
        }
        self.models.send(batch, &self.outputs, &mut self.delivery, &mut self.metrics)?;
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
            Event::OffsetGone { partition, offset } => self.offset_gone(consumer, partition, offset, batch),
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
        // Neither a broker that is away nor a pause is a stall.
        let excused = !statistics.connected || self.pulse.activity().is_pause();
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
            match committed.map_err(|failure| self.answer_failure(failure)) {
                Ok(()) | Err(Ok(())) => {}
                // Its place in the group is lost, and there is no more time to join anew: as after an abort, what was not
                // committed is read again by whoever has the partitions then.
                Err(Err(failure)) if failure.remedy() == Remedy::Rejoin => {
                    tracing::warn!(%failure, "the lane ends without its last commit; its records are read again");
                    if let Err(failure) = self.delivery.abort() {
                        tracing::warn!(%failure, "the broker aborts what is open, or the next process does");
                    }
                    return Ok(());
                }
                Err(Err(failure)) => return Err(failure),
            }
        }
        self.observe_commits();
        tracing::info!("drained: everything finished is delivered and committed");
        Ok(())
    }
}

/// How many records are scored together while nothing can be sent, where `usual` ones are otherwise, `commit` make a commit due and
/// each takes `score_time`.
fn records_ahead(usual: usize, commit: u64, score_time: Duration) -> usize {
    let in_time = SCORE_AHEAD.as_nanos() / score_time.as_nanos().max(1);
    let most = usize::try_from(commit).unwrap_or(usize::MAX).min(BATCHES_AHEAD * usual);
    usize::try_from(in_time).unwrap_or(usize::MAX).min(most).max(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_model_scores_more_ahead_and_a_slow_one_does_not() {
        let (fast, slow) = (Duration::from_nanos(1_000), Duration::from_millis(5));
        assert_eq!(records_ahead(2_000, 250_000, fast), 20_000);
        assert_eq!(records_ahead(2_000, 250_000, Duration::ZERO), 2_000 * BATCHES_AHEAD);
        assert_eq!(records_ahead(2_000, 250_000, slow), 2_000, "no fewer than usual");
        assert_eq!(records_ahead(50, 100, fast), 100, "a transaction has no more than it may");
    }
}
