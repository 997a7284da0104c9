//! The fleet in view: who serves what is wanted, who does not and why, with two processes on real Kafka.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::flow::Flow;
use crate::harness::{Cluster, Serving, failed_with, modelstream, real_kafka, succeeded, wait_until};

/// How often the replicas of these tests report.
const INTERVAL: &str = "500ms";

/// A replica of the test's group that serves `model`.
fn replica(cluster: &Cluster, flow: &Flow, instance: &str, model: &str) -> Serving {
    let group = cluster.name("group");
    let flow = ["--model", model, "--input", &flow.input, "--output", &flow.output, "--group", &group];
    // A killed member is waited for until its session ends.
    let more = ["--instance", instance, "--report-interval", INTERVAL, "-X", "session.timeout.ms=6000"];
    cluster.serve(&[&flow[..], &more].concat())
}

/// The exit code of `status --json`, and its document.
fn status(cluster: &Cluster, more: &[&str]) -> (Option<i32>, Value) {
    let line = [&["status", "--json"][..], more].concat();
    let output = modelstream(&cluster.arguments(&line));
    let document = serde_json::from_slice(&output.stdout);
    (output.status.code(), document.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

/// Instance, version and state of each replica.
fn states(document: &Value) -> Vec<(&str, Option<u64>, &str)> {
    let replicas = document["replicas"].as_array().expect("replicas").iter();
    replicas
        .map(|replica| {
            let (instance, state) = (replica["instance"].as_str(), replica["state"].as_str());
            (instance.expect("text"), replica["version"].as_u64(), state.expect("text"))
        })
        .collect()
}

#[test]
fn a_fleet_converges_on_what_is_published_and_says_so() {
    let Some(cluster) = real_kafka("fleet-converges") else { return };
    let flow = Flow::new(&cluster, 2);
    cluster.publish_iris("iris", "7");
    let mut fleet = [replica(&cluster, &flow, "a", "iris"), replica(&cluster, &flow, "b", "iris:1")];
    fleet.iter().for_each(Serving::wait_until_ready);
    let (code, document) = status(&cluster, &["--wait", "30s", "--replicas", "2"]);
    assert_eq!((code, &document["converged"]), (Some(0), &Value::Bool(true)), "{document}");
    assert_eq!(states(&document), [("a", Some(1), "converged"), ("b", Some(1), "converged")]);
    let (first, lanes) = (&document["replicas"][0], &document["replicas"][0]["lanes"]);
    assert_eq!(first["group"], cluster.name("group").as_str());
    assert_eq!(first["selector"], "iris");
    assert_eq!(first["input"], flow.input.as_str());
    assert_eq!(lanes.as_array().map(Vec::len), Some(1), "{lanes}");
    wait_until("both lanes have a partition and say so", || {
        let (_, document) = status(&cluster, &[]);
        let partitions = |replica: usize| document["replicas"][replica]["lanes"][0]["partitions"].clone();
        partitions(0) == 1 && partitions(1) == 1
    });

    cluster.publish_iris("iris", "8");
    let (code, document) = status(&cluster, &["--wait", "30s"]);
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(states(&document), [("a", Some(2), "converged"), ("b", Some(1), "converged")]);
    let (code, document) = status(&cluster, &["--model", "iris:1"]);
    assert_eq!((code, states(&document)), (Some(0), vec![("b", Some(1), "converged")]));

    let table = succeeded(&cluster.arguments(&["status"]));
    assert_eq!(table.lines().count(), 3, "{table}");
    for replica in &fleet {
        assert_eq!(replica.metric("modelstream_model_converged")["{model=\"iris\"}"], 1.0);
        assert_eq!(replica.metric("modelstream_status_reports_total")["{result=\"failed\"}"], 0.0);
    }
    let told: Value = serde_json::from_str(&fleet[0].get("/status").1).expect("JSON");
    assert_eq!((&told["instance"], &told["models"][0]["wanted"]), (&Value::from("a"), &Value::from(2)));
    assert!(
        told["started_at"].as_str().is_some_and(|time| time < told["models"][0]["since"].as_str().expect("a time"))
    );
    fleet.iter_mut().for_each(|replica| assert_eq!(replica.stop(), Some(0)));
}

#[test]
fn a_refused_version_is_named_by_replica_and_reason() {
    let Some(cluster) = real_kafka("fleet-refuses") else { return };
    let flow = Flow::new(&cluster, 2);
    cluster.publish_iris("iris", "7");
    let mut fleet = [replica(&cluster, &flow, "a", "iris"), replica(&cluster, &flow, "b", "iris:1")];
    fleet.iter().for_each(Serving::wait_until_ready);
    cluster.send(&cluster.log.models, [(Some(&b"version/iris/2"[..]), Some(&b"no manifest"[..]))]);
    let refused = [("a", Some(1), "refused"), ("b", Some(1), "converged")];
    wait_until("the refusal is reported", || states(&status(&cluster, &[]).1) == refused);

    let (code, document) = status(&cluster, &[]);
    assert_eq!((code, &document["converged"]), (Some(8), &Value::Bool(false)));
    assert_eq!(states(&document), refused);
    let why = document["replicas"][0]["why"].as_str().expect("a reason");
    assert!(why.starts_with("undecodable: "), "{why}");
    let said = failed_with(8, &cluster.arguments(&["status"]));
    assert!(said.contains("1 of 2") && said.contains("a (refused)"), "{said}");
    assert_eq!(status(&cluster, &["--model", "iris:1"]).0, Some(0), "who stays at version 1 has not refused it");

    let listed = succeeded(&cluster.arguments(&["models", "list"]));
    let line = listed.lines().find(|line| line.contains("refused: undecodable")).expect("version 2");
    assert!(line.contains("a (undecodable: "), "{listed}");
    let listed = succeeded(&cluster.arguments(&["models", "list", "--json"]));
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(listed[0]["refused_by"], Value::Array(Vec::new()));
    assert_eq!(listed[1]["refused_by"][0]["instance"], "a");

    let told: Value = serde_json::from_str(&fleet[0].get("/status").1).expect("JSON");
    assert_eq!(told["models"][0]["last_refusal"]["version"], 2);
    assert_eq!(fleet[0].metric("modelstream_model_converged")["{model=\"iris\"}"], 0.0);
    assert_eq!(fleet[1].metric("modelstream_model_converged")["{model=\"iris\"}"], 1.0);
    fleet.iter_mut().for_each(|replica| assert_eq!(replica.stop(), Some(0)));
}

#[test]
fn a_killed_replica_is_silent_and_a_stopped_one_is_not_there() {
    let Some(cluster) = real_kafka("fleet-ends") else { return };
    let flow = Flow::new(&cluster, 2);
    cluster.publish_iris("iris", "7");
    let mut fleet = ["a", "b", "c"].map(|instance| replica(&cluster, &flow, instance, "iris"));
    fleet.iter().for_each(Serving::wait_until_ready);
    let (code, document) = status(&cluster, &["--wait", "30s", "--replicas", "3"]);
    assert_eq!((code, states(&document).len()), (Some(0), 3));

    assert_eq!(fleet[1].stop(), Some(0));
    let (code, document) = status(&cluster, &[]);
    assert_eq!((code, states(&document)), (Some(0), vec![("a", Some(1), "converged"), ("c", Some(1), "converged")]));

    fleet[2].signal("KILL");
    wait_until("the killed one is silent", || states(&status(&cluster, &[]).1)[1] == ("c", Some(1), "silent"));
    let said = failed_with(8, &cluster.arguments(&["status"]));
    assert!(said.contains("c (silent)"), "{said}");
    let (_, document) = status(&cluster, &[]);
    let why = document["replicas"][1]["why"].as_str().expect("a reason");
    assert!(why.starts_with("no report for ") && why.ends_with("one is due every 0.5 s"), "{why}");

    let mut again = replica(&cluster, &flow, "c", "iris");
    assert_eq!(status(&cluster, &["--wait", "30s"]).0, Some(0), "its successor reports under its name");
    assert_eq!(status(&cluster, &["--replicas", "2"]).0, Some(0));
    let said = failed_with(8, &cluster.arguments(&["status", "--replicas", "3"]));
    assert!(said.contains("not converged: 2 of 3 replicas report"), "{said}");
    assert_eq!((again.stop(), fleet[0].stop()), (Some(0), Some(0)));
    let (code, document) = status(&cluster, &[]);
    assert_eq!((code, states(&document)), (Some(8), Vec::new()), "nobody is left");
}

#[test]
fn a_wait_ends_with_the_fleet_or_at_its_deadline() {
    let Some(cluster) = real_kafka("fleet-waits") else { return };
    let flow = Flow::new(&cluster, 1);
    let timed = |more: &[&str]| {
        let start = Instant::now();
        (status(&cluster, more).0, start.elapsed())
    };
    let group = cluster.name("group");
    let said = failed_with(8, &cluster.arguments(&["status", "--group", &group]));
    assert!(said.contains(&format!("no replica of group {group} reports on")), "{said}");
    let mut serving = replica(&cluster, &flow, "a", "iris");
    wait_until("it reports that it waits", || states(&status(&cluster, &[]).1) == [("a", None, "no-version")]);
    let (code, took) = timed(&["--wait", "3s"]);
    assert_eq!(code, Some(8), "there is no version");
    assert!((Duration::from_secs(3)..Duration::from_secs(8)).contains(&took), "{took:?}");

    let (code, took) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| timed(&["--wait", "60s"]));
        cluster.publish_iris("iris", "7");
        waiting.join().expect("no panic")
    });
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(30), "it ends with the fleet, not with the time: {took:?}");
    let (code, took) = timed(&["--wait", "60s"]);
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "there was nothing to wait for: {took:?}");
    assert_eq!(serving.stop(), Some(0));
    let said = failed_with(3, &cluster.arguments(&["status", "--wait", "9999d"]));
    assert!(said.contains("--wait"), "{said}");
}

#[test]
fn a_process_that_cannot_report_serves_all_the_same() {
    let Some(cluster) = real_kafka("fleet-absent") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let absent = cluster.name("absent");
    let log = ["--models-topic", &cluster.log.models, "--artifacts-topic", &cluster.log.artifacts];
    let log = [&log[..], &["--status-topic", &absent, "--brokers", &cluster.brokers]].concat();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--report-interval", INTERVAL];
    let mut serving = Serving::start(&[&serve[..], &log, &flow.arguments(&[])].concat(), "");
    let said = serving.wait_for_log("this process does not report");
    assert!(said.contains(&absent), "{said}");
    serving.wait_until_ready();
    let failed = || serving.metric("modelstream_status_reports_total")["{result=\"failed\"}"];
    wait_until("each report that fails is counted", || failed() > 2.0);
    assert_eq!(serving.metric("modelstream_model_converged")["{model=\"iris\"}"], 1.0);
    assert_eq!(serving.stop(), Some(0));
    let times = serving.drain_log().iter().filter(|line| line.contains("this process does not report")).count();
    assert_eq!(times, 1, "it is said once");

    let said = failed_with(1, &[&["status"][..], &log].concat());
    assert!(said.contains(&absent) && said.contains("topics init"), "{said}");
    let listed = succeeded(&[&["models", "list"][..], &log].concat());
    assert!(listed.contains("random-forest"), "{listed}");
}

/// Whoever may write to the topic may write anything: it hides no replica, and commands no terminal.
#[test]
fn hostile_reports_hide_nobody() {
    let Some(cluster) = real_kafka("fleet-hostile") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let mut serving = replica(&cluster, &flow, "a", "iris");
    serving.wait_until_ready();
    assert_eq!(status(&cluster, &["--wait", "30s"]).0, Some(0));
    let group = cluster.name("group");
    let loud = format!("{group}/\x1b[2J");
    let hostile: [(&[u8], &[u8]); 4] =
        [(b"\xff/\xfe", b"{}"), (b"no replica", b"{}"), (loud.as_bytes(), b"\x1b[2J"), (b"other/b", b"{\"format\":2}")];
    cluster.send(&cluster.log.status, hostile.map(|(key, value)| (Some(key), Some(value))));
    let (code, document) = status(&cluster, &["--group", &group]);
    assert_eq!(code, Some(8), "who cannot be understood has not converged");
    assert_eq!(states(&document), [("\u{1b}[2J", None, "unreadable"), ("a", Some(1), "converged")]);
    let output = modelstream(&cluster.arguments(&["status"]));
    let said = [output.stdout, output.stderr].concat();
    assert!(!said.contains(&0x1b), "{}", String::from_utf8_lossy(&said));
    let text = String::from_utf8(said).expect("text");
    assert!(text.contains("\\u{1b}[2J") && text.contains("a newer modelstream"), "{text}");
    assert_eq!(serving.stop(), Some(0));
}

#[test]
fn a_report_is_one_readable_document_and_its_topic_keeps_the_last() {
    let Some(cluster) = real_kafka("fleet-report") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let mut serving = replica(&cluster, &flow, "a", "iris");
    serving.wait_until_ready();
    assert_eq!(status(&cluster, &["--wait", "30s"]).0, Some(0));
    assert_eq!(serving.stop(), Some(0));
    let records = cluster.read(&cluster.log.status, 3);
    let key = format!("{}/a", cluster.name("group"));
    assert!(records.iter().all(|record| record.key.as_deref() == Some(key.as_bytes())));
    let (last, reports) = records.split_last().expect("reports");
    assert_eq!(last.value, None, "a clean end takes the report back");
    let first = reports[0].json();
    assert_eq!((&first["format"], &first["models"][0]["state"]), (&Value::from(1), &Value::from("waiting")));
    let serving = reports.iter().map(|report| report.json()).find(|report| report["models"][0]["state"] == "serving");
    let serving = serving.expect("it served");
    for field in ["instance", "host", "group", "input", "output", "modelstream", "started_at", "reported_at"] {
        assert!(serving[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {serving}");
    }
    assert_eq!(serving["lanes"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&serving["models"][0]["version"], &serving["report_interval_ms"]),
        (&Value::from(1), &Value::from(500))
    );

    let topics = succeeded(&cluster.arguments(&["topics", "init", "--json"]));
    let topics: Vec<Value> = topics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let status = topics.iter().find(|topic| topic["topic"] == cluster.log.status.as_str()).expect("the status topic");
    assert_eq!((&status["partitions"], &status["cleanup"]), (&Value::from(1), &Value::from("recent")));
}
