//! What one lane counts. It holds the series that it touches for each record, so no label is looked up on the hot path.

use std::collections::HashMap;
use std::time::Duration;

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGaugeVec};

use super::{CLASS_LABELS_MAX, Metrics, Stage};

/// The handles of one lane, each resolved once.
pub struct LaneMetrics {
    topic: String,
    records: IntCounter,
    skipped_records: IntCounter,
    predictions: IntCounterVec,
    dead_letters: IntCounterVec,
    by_reason: HashMap<&'static str, IntCounter>,
    batch_records: Histogram,
    stages: Vec<Histogram>,
    end_to_end: Histogram,
    lag_records: IntGaugeVec,
    lag_seconds: GaugeVec,
    commits_ok: IntCounter,
    commits_failed: IntCounter,
    committed: IntCounter,
    aborted: IntCounter,
    rebalances: IntCounterVec,
    restarts: IntCounter,
    assigned: prometheus::IntGauge,
    swap_stall: Histogram,
    sent_bytes: IntCounter,
    received_bytes: IntCounter,
    /// What librdkafka had counted when it was looked at last: sent, received.
    seen_bytes: (u64, u64),
    round_trip: Gauge,
    invalid_statistics: IntCounter,
}

impl LaneMetrics {
    pub(super) fn new(metrics: &Metrics, index: usize, topic: &str) -> LaneMetrics {
        let lane = index.to_string();
        let stage = |name: &str| metrics.flow.stage_seconds.with_label_values(&[name]);
        LaneMetrics {
            topic: topic.to_owned(),
            records: metrics.flow.records.with_label_values(&[topic]),
            skipped_records: metrics.flow.skipped_records.with_label_values(&[topic]),
            predictions: metrics.flow.predictions.clone(),
            dead_letters: metrics.flow.dead_letters.clone(),
            by_reason: HashMap::new(),
            batch_records: metrics.flow.batch_records.clone(),
            stages: Stage::ALL.iter().map(|(_, name)| stage(name)).collect(),
            end_to_end: metrics.flow.end_to_end_seconds.clone(),
            lag_records: metrics.group.lag_records.clone(),
            lag_seconds: metrics.group.lag_seconds.clone(),
            commits_ok: metrics.group.commits.with_label_values(&["ok"]),
            commits_failed: metrics.group.commits.with_label_values(&["failed"]),
            committed: metrics.group.transactions.with_label_values(&["committed"]),
            aborted: metrics.group.transactions.with_label_values(&["aborted"]),
            rebalances: metrics.group.rebalances.clone(),
            restarts: metrics.group.lane_restarts.clone(),
            assigned: metrics.group.assigned_partitions.with_label_values(&[&lane]),
            swap_stall: metrics.models.swap_stall_seconds.clone(),
            sent_bytes: metrics.client.sent_bytes.with_label_values(&[&lane]),
            received_bytes: metrics.client.received_bytes.with_label_values(&[&lane]),
            seen_bytes: (0, 0),
            round_trip: metrics.client.round_trip_seconds.clone(),
            invalid_statistics: metrics.client.invalid_statistics.clone(),
        }
    }

    /// The handles of a model that the lane serves; of no version yet.
    pub fn model(&self) -> ModelMetrics {
        let (predictions, swap_stall) = (self.predictions.clone(), self.swap_stall.clone());
        ModelMetrics { predictions, by_class: Vec::new(), swap_stall }
    }

    /// A dead letter was handed to the producer.
    pub fn dead_letter(&mut self, reason: &'static str) {
        let series = &self.dead_letters;
        self.by_reason.entry(reason).or_insert_with(|| series.with_label_values(&[reason])).inc();
    }

    /// A batch was scored.
    pub fn batch(&self, records: usize) {
        self.records.inc_by(records as u64);
        self.batch_records.observe(records as f64);
    }

    /// So many records will never be read.
    pub fn skipped(&self, records: u64) {
        self.skipped_records.inc_by(records);
    }

    /// A step of a batch took this long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages[stage as usize].observe(took.as_secs_f64());
    }

    /// Records' offsets were committed this many seconds after their timestamps.
    pub fn end_to_end(&self, seconds: impl Iterator<Item = f64>) {
        let local = self.end_to_end.local();
        seconds.for_each(|seconds| local.observe(seconds));
        local.flush();
    }

    /// A commit ended.
    pub fn commit_ended(&self, ok: bool) {
        if ok { self.commits_ok.inc() } else { self.commits_failed.inc() }
    }

    /// A transaction ended.
    pub fn transaction_ended(&self, committed: bool) {
        if committed { self.committed.inc() } else { self.aborted.inc() }
    }

    /// The lane starts over.
    pub fn restarted(&self) {
        self.restarts.inc();
    }

    /// A rebalance ended; the lane has `assigned` partitions now.
    pub fn rebalanced(&self, kind: &str, assigned: usize) {
        self.rebalances.with_label_values(&[kind]).inc();
        self.assigned.set(i64::try_from(assigned).unwrap_or(i64::MAX));
    }

    /// How far a partition is behind; in seconds where that is known.
    pub fn lag(&self, partition: i32, records: i64, seconds: Option<f64>) {
        let labels = [self.topic.as_str(), &partition.to_string()];
        self.lag_records.with_label_values(&labels).set(records);
        if let Some(seconds) = seconds {
            self.lag_seconds.with_label_values(&labels).set(seconds);
        }
    }

    /// Partitions that another member has now: their lag is its to report.
    pub fn forget_partitions(&self, partitions: &[i32]) {
        for partition in partitions {
            let labels = [self.topic.as_str(), &partition.to_string()];
            // A partition of which nothing is known has no series yet.
            let _ = self.lag_records.remove_label_values(&labels);
            let _ = self.lag_seconds.remove_label_values(&labels);
        }
    }

    /// What librdkafka counted since its client's start, and its round trip.
    pub fn client(&mut self, sent_bytes: u64, received_bytes: u64, round_trip_seconds: f64) {
        // A new client counts from zero again.
        let more = |now: u64, seen: u64| now.checked_sub(seen).unwrap_or(now);
        self.sent_bytes.inc_by(more(sent_bytes, self.seen_bytes.0));
        self.received_bytes.inc_by(more(received_bytes, self.seen_bytes.1));
        self.seen_bytes = (sent_bytes, received_bytes);
        self.round_trip.set(round_trip_seconds);
    }

    /// Statistics could not be read.
    pub fn invalid_statistics(&self) {
        self.invalid_statistics.inc();
    }
}

/// The handles of one model in one lane, resolved once for each version.
pub struct ModelMetrics {
    predictions: IntCounterVec,
    /// Each with what is not yet added to it.
    by_class: Vec<(IntCounter, u64)>,
    swap_stall: Histogram,
}

impl ModelMetrics {
    /// From now on predictions are those of this version; `stall` is what the lane spent on it.
    pub fn take_up(&mut self, model: &str, version: u64, classes: &[String], stall: Duration) {
        let version = version.to_string();
        self.flush();
        let series = |class: &str| (self.predictions.with_label_values(&[model, &version, class]), 0);
        self.by_class = match classes.len() {
            0 => vec![series("")],
            _ => classes.iter().take(CLASS_LABELS_MAX).map(|class| series(class)).collect(),
        };
        if classes.len() > CLASS_LABELS_MAX {
            self.by_class.push(series("other"));
        }
        self.swap_stall.observe(stall.as_secs_f64());
    }

    /// A prediction was handed to the producer; its class as an index, none for a regression. It shows with
    /// [`ModelMetrics::flush`]: lanes would wait for one another if each of their records counted.
    pub fn prediction(&mut self, class: Option<usize>) {
        let last = self.by_class.len().saturating_sub(1);
        if let Some((_, more)) = self.by_class.get_mut(class.unwrap_or(0).min(last)) {
            *more += 1;
        }
    }

    /// Shows the predictions that were counted, and returns how many they were.
    pub fn flush(&mut self) -> u64 {
        let mut flushed = 0;
        for (series, more) in self.by_class.iter_mut().filter(|(_, more)| *more > 0) {
            flushed += *more;
            series.inc_by(std::mem::take(more));
        }
        flushed
    }
}
