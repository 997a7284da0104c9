//! Every metric, declared once.
//!
//! Prefix `modelstream_`, base units, `_total` for counters, closed labels only. What a lane counts is in `metrics/lane.rs`.

mod lane;

pub use lane::{LaneMetrics, ModelMetrics};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// By model, the labels of its active version's series.
    active_info: Mutex<BTreeMap<String, [String; 4]>>,
}

/// The way of the records.
struct Flow {
    records: IntCounterVec,
    skipped_records: IntCounterVec,
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
        let skipped =
            "Records that were never read: deleted before, or passed over with --offset-reset; counted in offsets.";
        let end_to_end = "Seconds from a record's timestamp to the commit of its offset.";
        Flow {
            records: d.counters("records_total", "Records that were read from the input topic.", &["topic"]),
            skipped_records: d.counters("skipped_records_total", skipped, &["topic"]),
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
            active_info: Mutex::default(),
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

    /// A version became the active one of its model; the series of the former goes away.
    pub fn model_activated(&self, model: &str, version: u64, digest: &str, algorithm: &str) {
        let labels = [model, &version.to_string(), digest, algorithm].map(str::to_owned);
        let former = self.active_info().insert(model.to_owned(), labels.clone());
        self.forget_info(former);
        self.models.info.with_label_values(&labels).set(1);
        self.models.version.with_label_values(&[model]).set(i64::try_from(version).unwrap_or(i64::MAX));
    }

    /// A model has no active version any more; its series go away.
    pub fn model_deactivated(&self, model: &str) {
        let former = self.active_info().remove(model);
        self.forget_info(former);
        // It may never have had one.
        let _ = self.models.version.remove_label_values(&[model]);
    }

    fn active_info(&self) -> MutexGuard<'_, BTreeMap<String, [String; 4]>> {
        self.active_info.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_info(&self, former: Option<[String; 4]>) {
        if let Some(former) = former {
            // It may be gone already; then there is nothing to remove.
            let _ = self.models.info.remove_label_values(&former);
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn classes_beyond_the_cap_are_counted_as_other() {
        let metrics = Metrics::new();
        let mut model = metrics.lane(0, "in").model();
        let classes: Vec<String> = (0..150).map(|class| class.to_string()).collect();
        model.take_up("m", 3, &classes, Duration::ZERO);
        model.prediction(Some(7));
        model.prediction(Some(120));
        model.prediction(Some(149));
        model.flush();
        let text = metrics.render();
        assert!(text.contains("modelstream_predictions_total{class=\"7\",model=\"m\",version=\"3\"} 1"), "{text}");
        assert!(text.contains("modelstream_predictions_total{class=\"other\",model=\"m\",version=\"3\"} 2"), "{text}");
    }

    #[test]
    fn the_info_of_the_former_version_goes_away() {
        let metrics = Metrics::new();
        metrics.model_activated("m", 1, "aa", "ridge");
        metrics.model_activated("m", 2, "bb", "ridge");
        metrics.model_activated("n", 1, "cc", "ridge");
        let text = metrics.render();
        assert!(!text.contains("digest=\"aa\"") && text.contains("digest=\"bb\""), "{text}");
        assert!(text.contains("digest=\"cc\""), "another model's stays: {text}");
        metrics.model_deactivated("m");
        let text = metrics.render();
        assert!(!text.contains("model=\"m\"") && text.contains("model=\"n\""), "{text}");
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
