//! `modelstream bench` on real Kafka, with small numbers.

use std::process::Command;

use modelstream::kafka::admin::Admin;
use modelstream::kafka::reader::{LogReader, Read, Start};

use crate::harness::{Cluster, DEADLINE, data, failed_with, real_kafka, root, skip, succeeded, tool};

fn bench(cluster: &Cluster, arguments: &[&str]) -> serde_json::Value {
    let prefix = cluster.name("bench");
    let line = [&["bench", "--prefix", &prefix, "--json"][..], arguments].concat();
    let printed = succeeded(&cluster.arguments(&line));
    let document: serde_json::Value = serde_json::from_str(&printed).expect("one document");
    let topics = Admin::new(&cluster.connection).and_then(|admin| admin.topics()).expect("a broker");
    assert!(!topics.keys().any(|topic| topic.starts_with(&prefix)), "its topics are gone: {topics:?}");
    assert_eq!((&document["lost"], &document["duplicated"]), (&0.into(), &0.into()), "{document}");
    assert_eq!(document["outputs"], document["records"], "{document}");
    document
}

fn assert_positive(document: &serde_json::Value, fields: &[&str]) {
    for field in fields {
        assert!(
            document.pointer(field).and_then(|value| value.as_f64()).is_some_and(|value| value > 0.0),
            "{field}: {document}"
        );
    }
}

#[test]
fn at_a_rate_it_measures_latency_and_swaps() {
    let Some(cluster) = real_kafka("bench-rate") else { return };
    let line = ["--rate", "1000", "--seconds", "8", "--warmup", "500ms", "--swap-every", "500ms", "--lanes", "2"];
    let document = bench(&cluster, &line);
    assert_eq!((&document["mode"], &document["records"]), (&"open-loop".into(), &8_000.into()));
    let latency = ["/latency_ms/p50", "/latency_ms/p90", "/latency_ms/p99", "/latency_ms/p99.9", "/latency_ms/max"];
    assert_positive(&document, &latency);
    assert_positive(&document, &["/send_delay_ms/p99", "/start_seconds", "/records_per_second", "/swap_seconds/0"]);
    assert_positive(&document, &["/cpu_seconds_per_million", "/peak_memory_bytes", "/memory_bound_bytes"]);
}

#[test]
fn without_a_rate_it_measures_how_fast_records_are_drained_that_fit_a_model_of_the_log() {
    let Some(cluster) = real_kafka("bench-drain") else { return };
    let penguins = data("penguins.csv");
    let train = ["train", penguins.to_str().expect("text"), "--target", "species", "--algorithm", "decision-tree"];
    succeeded(&cluster.arguments(&[&train[..], &["--publish", "--model", "penguins"]].concat()));
    let line = ["--records", "20000", "--model", "penguins:1", "--format", "avro", "--delivery", "at-least-once"];
    let document = bench(&cluster, &line);
    assert_eq!((&document["mode"], &document["model"]), (&"drain".into(), &"penguins:1".into()));
    assert_eq!((&document["format"], &document["delivery"]), (&"avro".into(), &"at-least-once".into()));
    assert_positive(&document, &["/records_per_second", "/seconds", "/start_seconds", "/peak_memory_bytes"]);
}

#[test]
fn the_raw_pass_through_is_measured_on_the_same_topics() {
    let Some(cluster) = real_kafka("bench-raw") else { return };
    let drained = bench(&cluster, &["--raw", "--records", "20000"]);
    assert_eq!((&drained["subject"], &drained["model"]), (&"pass-through".into(), &serde_json::Value::Null));
    let open = bench(&cluster, &["--raw", "--rate", "2000", "--records", "2000"]);
    assert_positive(&open, &["/latency_ms/p50", "/records_per_second"]);
}

#[test]
fn the_pass_through_with_headers_writes_what_a_prediction_has() {
    let Some(cluster) = real_kafka("bench-headers") else { return };
    let names = |more: &[&str]| {
        let prefix = cluster.name(&format!("kept-{}", more.len()));
        let line = ["bench", "--records", "100", "--partitions", "1", "--prefix", &prefix, "--keep-topics"];
        succeeded(&cluster.arguments(&[&line[..], more].concat()));
        let topics = Admin::new(&cluster.connection).and_then(|admin| admin.topics()).expect("a broker");
        let is_output = |topic: &&String| topic.starts_with(&prefix) && topic.ends_with(".output");
        let output = topics.keys().find(is_output).expect("it is kept");
        let reader = LogReader::open(&cluster.connection, output, &[(0, Start::Beginning)]).expect("valid settings");
        let Read::Record(record) = reader.next(DEADLINE).expect("readable") else { panic!("{output} is empty") };
        record.headers().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let copied = names(&["--raw", "--headers"]);
    assert_eq!(copied, names(&[]));
    assert_eq!(copied.len(), 6);
}

#[test]
fn a_program_that_loses_records_or_ends_too_soon_is_exit_code_8() {
    let Some(cluster) = real_kafka("bench-command") else { return };
    let run = |command: &str| {
        let line = ["bench", "--records", "100", "--time-limit", "3s", "--command", command];
        failed_with(8, &cluster.arguments(&line))
    };
    let said = run("sleep 60");
    assert!(said.contains("100 of 100"), "{said}");
    let said = run("echo $BENCH_INPUT >&2; exit 3");
    assert!(said.contains("too soon") && said.contains("modelstream-bench-"), "{said}");
}

#[test]
fn settings_that_make_no_sense_are_exit_code_3() {
    let said = failed_with(3, &["bench", "--raw", "--lanes", "2"]);
    assert!(said.contains("--raw"), "{said}");
}

/// How soon a fleet follows: whether it is measured, not how soon.
#[test]
fn how_soon_a_fleet_follows_is_measured() {
    if real_kafka("bench-fleet").is_none() {
        return;
    }
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("how_soon_a_fleet_follows_is_measured", "it needs python3");
    }
    let mut fleet = Command::new(root().join("tests/bench/fleet"));
    fleet.args(["--publishes", "2", "--replicas", "2", "--versions", "4", "--starts", "1"]);
    fleet.args(["--binary", env!("CARGO_BIN_EXE_modelstream")]);
    let table = tool(&mut fleet);
    for row in ["publish's end to the last replica | 2 |", "process start to ready, 4 versions in the log | 1 |"] {
        assert!(table.contains(row), "{row}: {table}");
    }
}

/// The comparison with the peers, without the peers: whether everything runs, not how fast.
#[test]
fn the_comparison_runs_through_and_writes_its_tables() {
    let Some(cluster) = real_kafka("bench-compare") else { return };
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("the_comparison_runs_through_and_writes_its_tables", "it needs python3");
    }
    let out = tempfile::tempdir().expect("a directory");
    let mut compare = Command::new(root().join("tests/bench/compare"));
    compare.args(["--quick", "--no-peers", "--binary", env!("CARGO_BIN_EXE_modelstream")]);
    compare.args(["--brokers", &cluster.brokers, "--out"]).arg(out.path());
    let output = compare.output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("NO PEERS"), "{stderr}");
    let report = std::fs::read_to_string(out.path().join("results.md")).expect("a report");
    for heading in ["Throughput", "Latency", "What exactly-once costs", "Swapping", "Start", "Size"] {
        assert!(report.contains(&format!("## {heading}")), "{heading}: {report}");
    }
    let results = std::fs::read_to_string(out.path().join("results.json")).expect("results");
    let results: serde_json::Value = serde_json::from_str(&results).expect("JSON");
    assert_positive(&results, &["/results/1/raw pass-through (rdkafka)/0/records_per_second"]);
}
