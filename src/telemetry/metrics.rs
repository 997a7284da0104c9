//! Every metric, declared once.
//!
//! Prefix `modelstream_`, base units, `_total` for counters, closed labels only. Lanes hold the series that they touch for
//! each record, so no label is looked up on the hot path.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// Beyond this many classes a prediction counts as class `other`: a series for each would fill Prometheus.
pub const CLASS_LABELS_MAX: usize = 100;

/// Upper bounds in seconds from 10 microseconds to 30 seconds.
const SECONDS: [f64; 17] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0, 5.0,
    30.0,
];
/// Upper bounds in records of a batch.
const RECORDS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 2_000.0, 10_000.0];

/// Replayed records of this process: they are told where an output gets its headers, which holds no series.
static REPLAYED: AtomicU64 = AtomicU64::new(0);

/// A record that `dead-letters replay` had sent again has its output.
pub fn replayed_record() {
    REPLAYED.fetch_add(1, Ordering::Relaxed);
}

/// A step of a lane's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes to a block of features.
    Decode,
    /// The model.
    Predict,
    /// Predictions to bytes.
    Encode,
    /// Into the producer.
    Produce,
    /// Waiting for deliveries and sending the offsets.
    Commit,
}

impl Stage {
    const ALL: [(Stage, &'static str); 5] = [
        (Stage::Decode, "decode"),
        (Stage::Predict, "predict"),
        (Stage::Encode, "encode"),
        (Stage::Produce, "produce"),
        (Stage::Commit, "commit"),
    ];
}

/// A metric as the documentation has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documented {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: Vec<String>,
    /// What it says.
    pub help: String,
}

/// Everything that a process measures.
pub struct Metrics {
    registry: Registry,
    documented: Vec<Documented>,
    flow: Flow,
    group: Group,
    models: Models,
    client: Client,
    memory_bound: Gauge,
    log_lines_dropped: IntCounter,
    active_info: Mutex<Option<[String; 4]>>,
}

/// The way of the records.
struct Flow {
    records: IntCounterVec,
    predictions: IntCounterVec,
    dead_letters: IntCounterVec,
    replayed_records: IntCounter,
    batch_records: Histogram,
    stage_seconds: HistogramVec,
    end_to_end_seconds: Histogram,
}

impl Flow {
    fn declare(d: &mut Declare) -> Flow {
        let predictions = "Predictions by model, version and class; the class of a regression is empty.";
        let replayed = "Records that were dead letters before, replayed, and now have an output.";
        let end_to_end = "Seconds from a record's timestamp to the commit of its offset.";
        Flow {
            records: d.counters("records_total", "Records that were read from the input topic.", &["topic"]),
            predictions: d.counters("predictions_total", predictions, &["model", "version", "class"]),
            dead_letters: d.counters("dead_letters_total", "Records that could not be scored, by reason.", &["reason"]),
            replayed_records: d.counter("replayed_records_total", replayed),
            batch_records: d.histogram("batch_records", "Records that a lane scored together.", &RECORDS),
            stage_seconds: d.histograms("stage_seconds", "Seconds of a batch's steps in a lane.", &["stage"], &SECONDS),
            end_to_end_seconds: d.histogram("end_to_end_seconds", end_to_end, &SECONDS),
        }
    }
}

/// The consumer group: how far it is, and what it commits.
struct Group {
    lag_records: IntGaugeVec,
    lag_seconds: GaugeVec,
    commits: IntCounterVec,
    transactions: IntCounterVec,
    rebalances: IntCounterVec,
    lane_restarts: IntCounter,
    assigned_partitions: IntGaugeVec,
}

impl Group {
    fn declare(d: &mut Declare) -> Group {
        let lag_seconds = "Age of the record of a partition that was finished last; 0 when none is waiting.";
        let partition = ["topic", "partition"];
        let group = Group {
            lag_records: d.gauges("lag_records", "Records of a partition that are not finished yet.", &partition),
            lag_seconds: d.float_gauges("lag_seconds", lag_seconds, &partition),
            commits: d.counters("commits_total", "Offset commits by result: ok, failed.", &["result"]),
            transactions: d.counters("transactions_total", "Transactions by result: committed, aborted.", &["result"]),
            rebalances: d.counters("rebalances_total", "Rebalances by kind: assign, revoke, lost.", &["kind"]),
            lane_restarts: d.counter("lane_restarts_total", "Times that a lane started over after a failure."),
            assigned_partitions: d.gauges("assigned_partitions", "Partitions that a lane has.", &["lane"]),
        };
        expect_series(&group.commits, &["ok", "failed"]);
        expect_series(&group.transactions, &["committed", "aborted"]);
        expect_series(&group.rebalances, &["assign", "revoke", "lost"]);
        group
    }
}

/// The way of the models.
struct Models {
    info: IntGaugeVec,
    version: IntGaugeVec,
    loads: IntCounterVec,
    refusals: IntCounterVec,
    load_seconds: Histogram,
    swap_stall_seconds: Histogram,
    converged: IntGaugeVec,
    reports: IntCounterVec,
}

impl Models {
    fn declare(d: &mut Declare) -> Models {
        let load_seconds = "Seconds to fetch, verify and compile a version.";
        let swap_stall = "Seconds that a lane spent on taking up a new version.";
        let converged = "Whether the active version is the one that is wanted: 1, or 0.";
        let reports = "Reports of this process on the status topic, by result: ok, failed.";
        let info = ["model", "version", "digest", "algorithm"];
        let models = Models {
            info: d.gauges("model_info", "The active version; always 1.", &info),
            version: d.gauges("model_version", "The active version's number.", &["model"]),
            loads: d.counters("model_loads_total", "Versions that were loaded, by result: ok, refused.", &["result"]),
            refusals: d.counters("model_refusals_total", "Versions that were refused, by reason.", &["reason"]),
            load_seconds: d.histogram("model_load_seconds", load_seconds, &SECONDS),
            swap_stall_seconds: d.histogram("swap_stall_seconds", swap_stall, &SECONDS),
            converged: d.gauges("model_converged", converged, &["model"]),
            reports: d.counters("status_reports_total", reports, &["result"]),
        };
        expect_series(&models.loads, &["ok", "refused"]);
        expect_series(&models.reports, &["ok", "failed"]);
        models
    }
}

/// What librdkafka says of the lanes' consumers.
struct Client {
    sent_bytes: IntCounterVec,
    received_bytes: IntCounterVec,
    round_trip_seconds: Gauge,
    invalid_statistics: IntCounter,
}

impl Client {
    fn declare(d: &mut Declare) -> Client {
        let sent = "Bytes that a lane's consumer sent to brokers (librdkafka).";
        let received = "Bytes that a lane's consumer received from brokers (librdkafka).";
        let round_trip = "Mean round trip to the slowest broker in the last second (librdkafka).";
        let invalid = "Statistics of librdkafka that could not be read.";
        Client {
            sent_bytes: d.counters("kafka_sent_bytes_total", sent, &["lane"]),
            received_bytes: d.counters("kafka_received_bytes_total", received, &["lane"]),
            round_trip_seconds: d.gauge("kafka_round_trip_seconds", round_trip),
            invalid_statistics: d.counter("kafka_invalid_statistics_total", invalid),
        }
    }
}

/// Makes series exist from the start, so that a rate over them is never empty.
fn expect_series(counters: &IntCounterVec, values: &[&str]) {
    values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
}

/// Brings a counter to what was counted elsewhere.
fn catch_up(counter: &IntCounter, counted: u64) {
    counter.inc_by(counted.saturating_sub(counter.get()));
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// All metrics, with every series whose labels are known from the start.
    pub fn new() -> Metrics {
        let mut d = Declare { registry: Registry::new(), documented: Vec::new() };
        let build = d.gauges("build_info", "The running modelstream; always 1.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let (flow, group) = (Flow::declare(&mut d), Group::declare(&mut d));
        let (models, client) = (Models::declare(&mut d), Client::declare(&mut d));
        let memory_bound = "The most bytes of memory that the process takes without the models: the sum of its limits.";
        let memory_bound = d.gauge("memory_bound_bytes", memory_bound);
        let dropped = d.counter("log_lines_dropped_total", "Log lines that stderr did not take in time.");
        #[cfg(target_os = "linux")]
        d.add_process_metrics();
        d.documented.sort_by(|a, b| a.name.cmp(&b.name));
        Metrics {
            registry: d.registry,
            documented: d.documented,
            flow,
            group,
            models,
            client,
            memory_bound,
            log_lines_dropped: dropped,
            active_info: Mutex::new(None),
        }
    }

    /// Makes the series of closed labels exist from the start.
    pub fn expect_reasons(&self, dead_letters: &[&str], refusals: &[&str]) {
        expect_series(&self.flow.dead_letters, dead_letters);
        expect_series(&self.models.refusals, refusals);
    }

    /// Every metric, in alphabetical order.
    pub fn documented(&self) -> &[Documented] {
        &self.documented
    }

    /// All series in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        catch_up(&self.log_lines_dropped, super::logging::dropped_lines());
        catch_up(&self.flow.replayed_records, REPLAYED.load(Ordering::Relaxed));
        let mut text = Vec::new();
        // Writing to memory fails only for a metric without a name, which `Declare` does not make.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    /// The sum of the limits.
    pub fn memory_bound(&self, bytes: u64) {
        self.memory_bound.set(bytes as f64);
    }

    /// The handles of lane `index` on `topic`.
    pub fn lane(&self, index: usize, topic: &str) -> LaneMetrics {
        LaneMetrics::new(self, index, topic)
    }

    /// A version passed every check after `seconds`.
    pub fn model_loaded(&self, seconds: f64) {
        self.models.loads.with_label_values(&["ok"]).inc();
        self.models.load_seconds.observe(seconds);
    }

    /// A version was refused.
    pub fn model_refused(&self, reason: &str) {
        self.models.loads.with_label_values(&["refused"]).inc();
        self.models.refusals.with_label_values(&[reason]).inc();
    }

    /// Whether the active version of a model is the wanted one.
    pub fn model_converged(&self, model: &str, converged: bool) {
        self.models.converged.with_label_values(&[model]).set(i64::from(converged));
    }

    /// A report was delivered, or was not.
    pub fn report_ended(&self, ok: bool) {
        self.models.reports.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
    }

    /// A version became the active one; the series of the former goes away.
    pub fn model_activated(&self, model: &str, version: u64, digest: &str, algorithm: &str) {
        let labels = [model, &version.to_string(), digest, algorithm].map(str::to_owned);
        let mut active = self.active_info.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = active.take() {
            // It may be gone already; then there is nothing to remove.
            let _ = self.models.info.remove_label_values(&former);
        }
        self.models.info.with_label_values(&labels).set(1);
        self.models.version.with_label_values(&[model]).set(i64::try_from(version).unwrap_or(i64::MAX));
        *active = Some(labels);
    }
}

/// Declares metrics and remembers them for the documentation.
struct Declare {
    registry: Registry,
    documented: Vec<Documented>,
}

impl Declare {
    fn add<C: Collector + Clone + 'static>(&mut self, metric: prometheus::Result<C>, kind: &'static str) -> C {
        let metric = metric.expect("the name and labels of a declaration are valid");
        for desc in metric.desc() {
            self.documented.push(document(desc, kind));
        }
        self.registry.register(Box::new(metric.clone())).expect("each metric is declared once");
        metric
    }

    #[cfg(target_os = "linux")]
    fn add_process_metrics(&mut self) {
        let process = prometheus::process_collector::ProcessCollector::for_self();
        self.documented.extend(process.desc().into_iter().map(document_process));
        self.registry.register(Box::new(process)).expect("the process metrics are registered once");
    }

    fn counter(&mut self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(opts(name, help)), "counter")
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(opts(name, help), labels), "counter")
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::with_opts(opts(name, help)), "gauge")
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(opts(name, help), labels), "gauge")
    }

    fn float_gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(opts(name, help), labels), "gauge")
    }

    fn histogram(&mut self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(buckets_of(name, help, buckets)), "histogram")
    }

    fn histograms(&mut self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.add(HistogramVec::new(buckets_of(name, help, buckets), labels), "histogram")
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("modelstream_{name}"), help)
}

fn buckets_of(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec())
}

fn document(desc: &Desc, kind: &'static str) -> Documented {
    let (name, help) = (desc.fq_name.clone(), desc.help.clone());
    Documented { name, kind, labels: desc.variable_labels.clone(), help }
}

#[cfg(target_os = "linux")]
fn document_process(desc: &Desc) -> Documented {
    document(desc, if desc.fq_name.ends_with("_total") { "counter" } else { "gauge" })
}

/// The handles of one lane. Each is resolved once: per lane, or per version for the predictions.
pub struct LaneMetrics {
    topic: String,
    records: IntCounter,
    predictions: IntCounterVec,
    /// Each with what is not yet added to it.
    by_class: Vec<(IntCounter, u64)>,
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
    fn new(metrics: &Metrics, index: usize, topic: &str) -> LaneMetrics {
        let lane = index.to_string();
        let stage = |name: &str| metrics.flow.stage_seconds.with_label_values(&[name]);
        LaneMetrics {
            topic: topic.to_owned(),
            records: metrics.flow.records.with_label_values(&[topic]),
            predictions: metrics.flow.predictions.clone(),
            by_class: Vec::new(),
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

    /// From now on predictions are those of this version; `stall` is what the lane spent on it.
    pub fn take_up(&mut self, model: &str, version: u64, classes: &[String], stall: Duration) {
        let version = version.to_string();
        self.flush_predictions();
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
    /// [`LaneMetrics::flush_predictions`]: lanes would wait for one another if each of their records counted.
    pub fn prediction(&mut self, class: Option<usize>) {
        let last = self.by_class.len().saturating_sub(1);
        if let Some((_, more)) = self.by_class.get_mut(class.unwrap_or(0).min(last)) {
            *more += 1;
        }
    }

    /// Shows the predictions that were counted.
    pub fn flush_predictions(&mut self) {
        for (series, more) in self.by_class.iter_mut().filter(|(_, more)| *more > 0) {
            series.inc_by(std::mem::take(more));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_beyond_the_cap_are_counted_as_other() {
        let metrics = Metrics::new();
        let mut lane = metrics.lane(0, "in");
        let classes: Vec<String> = (0..150).map(|class| class.to_string()).collect();
        lane.take_up("m", 3, &classes, Duration::ZERO);
        lane.prediction(Some(7));
        lane.prediction(Some(120));
        lane.prediction(Some(149));
        lane.flush_predictions();
        let text = metrics.render();
        assert!(text.contains("modelstream_predictions_total{class=\"7\",model=\"m\",version=\"3\"} 1"), "{text}");
        assert!(text.contains("modelstream_predictions_total{class=\"other\",model=\"m\",version=\"3\"} 2"), "{text}");
    }

    #[test]
    fn the_info_of_the_former_version_goes_away() {
        let metrics = Metrics::new();
        metrics.model_activated("m", 1, "aa", "ridge");
        metrics.model_activated("m", 2, "bb", "ridge");
        let text = metrics.render();
        assert!(!text.contains("version=\"1\"") && text.contains("digest=\"bb\""), "{text}");
    }

    #[test]
    fn a_partition_that_is_gone_reports_no_lag() {
        let metrics = Metrics::new();
        let lane = metrics.lane(0, "in");
        lane.lag(3, 17, Some(0.5));
        assert!(metrics.render().contains("modelstream_lag_records{partition=\"3\",topic=\"in\"} 17"));
        lane.forget_partitions(&[3, 4]);
        assert!(!metrics.render().contains("partition=\"3\""));
    }

    #[test]
    fn stages_are_in_the_order_of_their_handles() {
        for (index, (stage, _)) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, index);
        }
    }
}
