//! Several models in one process: each record is scored by the one that it is for, exactly once and in its place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modelstream::kafka;
use modelstream::kafka::consumer::OffsetReset;
use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use modelstream::model::{Artifact, Digest};
use modelstream::pipeline::{InputFormat, OutputFormat, Route, ServedModel};
use modelstream::serve::LaneSettings;
use modelstream::serve::active::Active;
use modelstream::serve::delivery::CommitLimits;
use modelstream::serve::lane::Lane;
use modelstream::serve::pulse::{Activity, Gate, LanePulse};
use modelstream::shutdown::Stop;
use modelstream::telemetry::Metrics;

use crate::faults::SHORT_SESSION;
use crate::flow::{Flow, GOOD, assert_order_is_kept, outputs_by_source};
use crate::harness::{Cluster, DEADLINE, Received, Serving, data, real_kafka, succeeded, wait_until};

/// A record of the penguins data.
const PENGUIN: &str = r#"{"island":"Torgersen","bill_length_mm":39.1,"bill_depth_mm":18.7,"flipper_length_mm":181.0,"body_mass_g":3750.0,"sex":"male","year":2007}"#;

/// The model that record `index` is for, its value, and whether it can be scored.
fn record(index: usize) -> (&'static str, String, bool) {
    let iris = || String::from_utf8(GOOD.to_vec()).expect("text");
    match index % 10 {
        0..=4 => ("iris", iris(), true),
        5..=7 => ("penguins", PENGUIN.to_owned(), true),
        // An iris is no penguin.
        8 => ("penguins", iris(), false),
        _ => ("oak", iris(), false),
    }
}

fn publish_penguins(cluster: &Cluster) {
    let penguins = data("penguins.csv");
    let line = ["train", penguins.to_str().expect("text"), "--target", "species", "--n-estimators", "10"];
    succeeded(&cluster.arguments(&[&line[..], &["--publish", "--model", "penguins"]].concat()));
}

/// Sends records `range`, each with its model in the header `to` and in the field `to`. Its key begins with the model's name.
fn send(cluster: &Cluster, input: &str, range: std::ops::Range<usize>) {
    send_by(&Producer::idempotent(&cluster.connection).expect("valid settings"), input, range);
}

fn send_by(producer: &Producer, input: &str, range: std::ops::Range<usize>) {
    for index in range {
        let (model, value, _) = record(index);
        let (key, value) = (format!("{model}-{index}"), value.replacen('{', &format!("{{\"to\":\"{model}\","), 1));
        let make = || Outgoing {
            topic: input,
            partition: None,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            timestamp_ms: None,
            headers: Headers::with_capacity(1).with("to", model.as_bytes()),
        };
        producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
    }
    assert!(producer.flush(DEADLINE) && producer.take_failure().is_none());
}

/// The model that an output's record was for.
fn wanted(output: &Received) -> &str {
    let key = std::str::from_utf8(output.key.as_deref().expect("a key")).expect("text");
    key.split('-').next().expect("a name")
}

fn versions<'r>(predictions: &'r [Received], model: &str) -> BTreeSet<&'r str> {
    let of_model = predictions.iter().filter(|output| output.header("modelstream-model") == Some(model));
    of_model.filter_map(|output| output.header("modelstream-version")).collect()
}

fn assert_each_by_its_model(predictions: &[Received]) {
    for output in predictions {
        assert_eq!(output.header("modelstream-model"), Some(wanted(output)));
        assert_eq!(output.json()["model"], wanted(output));
        assert_eq!(output.json()["version"].to_string(), output.header("modelstream-version").expect("a version"));
    }
}

fn status(serving: &Serving) -> serde_json::Value {
    serde_json::from_str(&serving.get("/status").1).expect("JSON")
}

#[test]
fn a_header_says_which_model_a_record_is_for() {
    each_record_is_scored_by_its_model("several-header", "header:to");
}

#[test]
fn a_field_says_which_model_a_record_is_for() {
    each_record_is_scored_by_its_model("several-field", "field:to");
}

/// One process is killed in the middle of a batch, its successor takes up a version of one of the models.
fn each_record_is_scored_by_its_model(test: &str, route: &str) {
    let Some(cluster) = real_kafka(test) else { return };
    const RECORDS: usize = 6_000;
    let flow = Flow::new(&cluster, 3);
    cluster.publish_iris("iris", "7");
    let models = ["--model", "iris", "--model", "penguins:1", "--route", route, "--instance", "a", "--lanes", "2"];
    let flow_of = ["--input", &flow.input, "--output", &flow.output, "--batch-records", "50"];
    let arguments = [&models[..], &flow_of, &["--commit-records", "50"], &SHORT_SESSION].concat();
    send(&cluster, &flow.input, 0..RECORDS / 2);
    let mut victim = cluster.serve_disturbed("mid-produce=kill@20", &arguments);
    wait_until("one of two models is there", || victim.total("modelstream_model_info") == 1.0);
    let (code, why) = victim.get("/ready");
    assert_eq!((code, why.contains("no version of penguins:1")), (503, true), "{why}");
    assert_eq!(victim.total("modelstream_predictions_total"), 0.0, "while one is missing nothing is scored");
    publish_penguins(&cluster);
    assert_eq!(victim.wait(), None, "ended by a signal");

    let mut successor = cluster.serve(&arguments);
    successor.wait_until_ready();
    cluster.publish_iris("iris", "8");
    wait_until("the new version is served", || {
        successor.metric("modelstream_model_version").get("{model=\"iris\"}") == Some(&2.0)
    });
    send(&cluster, &flow.input, RECORDS / 2..RECORDS);
    let scored = (0..RECORDS).filter(|index| record(*index).2).count();
    let predictions = cluster.read(&flow.output, scored);
    let dead = cluster.read(&flow.dead_letters, RECORDS - scored);

    assert_each_by_its_model(&predictions);
    assert_eq!(versions(&predictions, "iris"), BTreeSet::from(["1", "2"]));
    assert_eq!(versions(&predictions, "penguins"), BTreeSet::from(["1"]));
    for letter in &dead {
        let (reason, model) = match wanted(letter) {
            "oak" => ("unknown_model", None),
            other => ("missing_feature", Some(other)),
        };
        assert_eq!((letter.header("modelstream-reason"), letter.header("modelstream-model")), (Some(reason), model));
    }
    assert_order_is_kept(&predictions);
    assert_order_is_kept(&dead);
    let outputs = [&predictions[..], &dead].concat();
    assert_eq!((outputs.len(), outputs_by_source(&outputs).len()), (RECORDS, RECORDS));

    let status = status(&successor);
    let served: Vec<(&str, u64)> = status["models"].as_array().expect("a list").iter().map(served_version).collect();
    assert_eq!(served, [("iris", 2), ("penguins:1", 1)]);
    assert_eq!(status["inputs"][0]["models"], serde_json::json!(["iris", "penguins"]));
    let counted = |model: &str| {
        let series = successor.metric("modelstream_predictions_total").into_iter();
        series.filter(|(labels, _)| labels.contains(&format!("model=\"{model}\""))).map(|(_, value)| value).sum::<f64>()
    };
    assert!(counted("iris") > 0.0 && counted("penguins") > 0.0);
    assert_eq!(successor.total("modelstream_model_info"), 2.0);
    assert_eq!(successor.stop(), Some(0));
}

fn served_version(model: &serde_json::Value) -> (&str, u64) {
    (model["selector"].as_str().expect("text"), model["version"].as_u64().expect("a version"))
}

/// Two inputs whose lanes share a group, an instance and the output.
#[test]
fn the_input_says_which_model_a_record_is_for() {
    let Some(cluster) = real_kafka("several-topic") else { return };
    const RECORDS: usize = 4_000;
    let (iris, penguins) = (Flow::new(&cluster, 2), cluster.topic("penguins-in", 2));
    let penguins_dead = cluster.topic("penguins-in.dead-letters", 2);
    cluster.publish_iris("iris", "7");
    publish_penguins(&cluster);
    let (iris_in, penguins_in) = (format!("{}=iris", iris.input), format!("{penguins}=penguins"));
    let group = cluster.name("group");
    let models = ["--model", "iris,penguins", "--route", "topic", "--input", &iris_in, "--input", &penguins_in];
    let more = ["--output", &iris.output, "--group", &group, "--instance", "a", "--batch-records", "50"];
    let arguments = [&models[..], &more, &["--commit-records", "50", "--static-membership"], &SHORT_SESSION].concat();
    let keys: Vec<String> = (0..RECORDS).map(|index| format!("iris-{index}")).collect();
    cluster.send(&iris.input, keys.iter().map(|key| (Some(key.as_bytes()), Some(GOOD))));
    let others: Vec<String> = (0..RECORDS).map(|index| format!("penguins-{index}")).collect();
    let value = |index: usize| if index % 10 == 9 { GOOD } else { PENGUIN.as_bytes() };
    cluster.send(&penguins, others.iter().enumerate().map(|(index, key)| (Some(key.as_bytes()), Some(value(index)))));

    let mut victim = cluster.serve_disturbed("mid-produce=kill@20", &arguments);
    assert_eq!(victim.wait(), None, "ended by a signal");
    let mut successor = cluster.serve(&arguments);
    let predictions = cluster.read(&iris.output, 2 * RECORDS - RECORDS / 10);
    let dead = cluster.read(&penguins_dead, RECORDS / 10);
    assert_each_by_its_model(&predictions);
    for (topic, model, outputs) in [(&iris.input, "iris", &[][..]), (&penguins, "penguins", &dead[..])] {
        let of_model = predictions.iter().filter(|output| wanted(output) == model).cloned();
        let of_model: Vec<Received> = of_model.collect();
        assert_order_is_kept(&of_model);
        let outputs = [&of_model[..], outputs].concat();
        assert_eq!((outputs.len(), outputs_by_source(&outputs).len()), (RECORDS, RECORDS), "{model}");
        assert!(outputs.iter().all(|output| output.header("modelstream-source-topic") == Some(topic)));
    }
    let status = status(&successor);
    let of_lane = |lane: usize| status["lanes"][lane]["input"].as_str().expect("text");
    assert_eq!([of_lane(0), of_lane(1)], [iris.input.as_str(), penguins.as_str()]);
    wait_until("each input's lag is told", || {
        let lag = successor.metric("modelstream_lag_records");
        lag.len() == 4 && lag.values().all(|records| *records == 0.0)
    });
    assert_eq!(successor.stop(), Some(0));
}

/// A producer that names models which nobody serves: the flow stops before it drains the topic.
#[test]
fn a_flow_of_records_for_unknown_models_stops() {
    let Some(cluster) = real_kafka("several-breaker") else { return };
    const RECORDS: usize = 5_000;
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let arguments = flow.arguments(&["--route", "header:to", "--batch-records", "100"]);
    let mut serving = cluster.serve(&arguments);
    serving.wait_until_ready();
    cluster.send(&flow.input, (0..RECORDS).map(|_| (None, Some(GOOD))));
    wait_until("it is not ready", || serving.get("/ready").0 == 503);
    assert!(serving.get("/ready").1.contains("cannot be scored"), "{}", serving.get("/ready").1);
    let dead = serving.metric("modelstream_dead_letters_total")["{reason=\"unknown_model\"}"];
    assert!((100.0..2_000.0).contains(&dead), "{dead} of {RECORDS} were let pass");
    serving.wait_for_log("no model that is served here");
    assert_eq!(serving.stop(), Some(0));
}

#[test]
fn a_lane_waits_while_a_model_has_no_version_and_goes_on_exactly_once() {
    waits_and_goes_on("several-empty-once", true);
}

#[test]
fn a_lane_waits_while_a_model_has_no_version_and_goes_on_without_transactions() {
    waits_and_goes_on("several-empty", false);
}

/// The slot of one model is emptied again and again while the lane looks for records. It does so for a tenth of a second; within that
/// time a producer that is connected gets records to it, which are fetched for a model that has no version any more: they are neither
/// sent nor lost, and nothing before them is done twice.
fn waits_and_goes_on(test: &str, exactly_once: bool) {
    let Some(cluster) = real_kafka(test) else { return };
    const ROUNDS: usize = 8;
    const RECORDS: usize = 50;
    let flow = Flow::new(&cluster, 1);
    let models = ["iris", "penguins"].map(train);
    let actives = models.each_ref().map(|model| Arc::new(Active::new(model.0.parse().expect("a selector"))));
    let version = |model: usize, version: u64| {
        let (name, bytes) = &models[model];
        let artifact = Artifact::decode(bytes).expect("our own").into_model().expect("our own");
        let (input, output) = (InputFormat::Json { field: None }, OutputFormat::Json { probabilities: false });
        Arc::new(ServedModel::new(*name, version, artifact, Digest::of(bytes), &input, &output).expect("it fits"))
    };
    assert!(actives[0].swap(version(0, 1)).is_none() && actives[1].swap(version(1, 1)).is_none());
    let lane = InProcess::start(&cluster, &flow, exactly_once, actives.to_vec());
    let producer = Producer::idempotent(&cluster.connection).expect("valid settings");
    for round in 0..ROUNDS {
        let (sent, scored) = (round * RECORDS, (0..(round + 1) * RECORDS).filter(|index| record(*index).2).count());
        wait_until("the lane waits for records", || lane.pulse.activity() == Activity::Flowing);
        let cleared = actives[1].clear().expect("it had a version");
        assert_eq!(cleared.version, 1 + round as u64);
        send_by(&producer, &flow.input, sent..sent + RECORDS);
        wait_until("the lane waits for a model", || lane.pulse.activity() == Activity::WaitingForModel);
        std::thread::sleep(Duration::from_millis(50));
        let before = cluster.read(&flow.output, 0).len();
        assert!(before < scored, "records of a model without a version, and those behind them, wait");
        assert!(lane.pulse.age() < Duration::from_secs(1), "it stays a member of the group");
        assert!(actives[1].swap(version(1, 2 + round as u64)).is_none());
        wait_until("what waited is scored", || cluster.read(&flow.output, 0).len() == scored);
    }
    lane.stop();
    let predictions = cluster.read(&flow.output, 0);
    assert_each_by_its_model(&predictions);
    assert_order_is_kept(&predictions);
    assert_eq!(versions(&predictions, "iris"), BTreeSet::from(["1"]));
    let taken_up: BTreeSet<String> = (2..2 + ROUNDS).map(|version| version.to_string()).collect();
    assert_eq!(versions(&predictions, "penguins"), taken_up.iter().map(String::as_str).collect());
    let outputs = [predictions, cluster.read(&flow.dead_letters, 0)].concat();
    assert_eq!((outputs.len(), outputs_by_source(&outputs).len()), (ROUNDS * RECORDS, ROUNDS * RECORDS));
}

/// Trains a small model on the data of its name; its name and bytes.
fn train(model: &'static str) -> (&'static str, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a directory");
    let (table, file) = (data(&format!("{model}.csv")), dir.path().join("a.model"));
    let line = ["train", table.to_str().expect("text"), "--target", "species", "--n-estimators", "10"];
    succeeded(&[&line[..], &["--out", file.to_str().expect("text")]].concat());
    (model, std::fs::read(file).expect("readable"))
}

/// A lane in this process, so that a test has its slots.
struct InProcess {
    pulse: Arc<LanePulse>,
    stop: Stop,
    thread: std::thread::JoinHandle<Result<(), kafka::Error>>,
}

impl InProcess {
    fn start(cluster: &Cluster, flow: &Flow, exactly_once: bool, actives: Vec<Arc<Active>>) -> InProcess {
        let settings = LaneSettings {
            input: flow.input.clone(),
            models: actives.iter().map(|active| active.selector().model.clone()).collect(),
            route: Some(Route::Header("to".to_owned())),
            output: flow.output.clone(),
            dead_letters: flow.dead_letters.clone(),
            dead_letter_headers: None,
            group: cluster.name("group"),
            offset_reset: OffsetReset::Error,
            batch_records: 20,
            exactly_once,
            instance: "test".to_owned(),
            static_membership: false,
            commit: CommitLimits { interval: Duration::from_millis(20), records: 1_000, bytes: 1_000_000 },
            dead_letter_share_max: 1.0,
            drain_timeout: Duration::from_secs(10),
        };
        let (pulse, stop) = (Arc::new(LanePulse::default()), Stop::new());
        let (of_lane, until) = (Arc::clone(&pulse), stop.clone());
        let connection = cluster.connection.clone();
        let thread = std::thread::spawn(move || {
            let metrics = Metrics::new().lane(0, &settings.input);
            let gate = Arc::new(Gate::new(1));
            Lane::new(&connection, 0, Arc::new(settings), actives, metrics, of_lane, gate)?.run(&connection, &until)
        });
        InProcess { pulse, stop, thread }
    }

    fn stop(self) {
        self.stop.set();
        self.thread.join().expect("no panic").expect("it drains");
    }
}
