//! The model log: atomic, immutable, any size; what is damaged is refused and the last good version serves.

use std::time::{Duration, Instant};

use modelstream::kafka;
use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use modelstream::model::artifact::{Evaluation, FORMAT, GoldenRow, GoldenValue};
use modelstream::model::signature::{Feature, FeatureKind, Signature, Target};
use modelstream::model::tree_ensemble::{Aggregation, Node};
use modelstream::model::verify::GOLDEN_ROWS_MIN;
use modelstream::model::{Artifact, Digest, Manifest, Predictor, TreeEnsemble};
use modelstream::registry::publish::{Published, Request, Source, publish};
use modelstream::registry::state::Entry;
use modelstream::registry::{Author, Error, follow};

use crate::harness::{Cluster, DEADLINE, Serving, failed_with, real_kafka, succeeded, wait_until};

/// A forest over one feature whose only golden property is its size: `trees` complete trees of depth `depth`.
pub fn artifact(trees: usize, depth: u32) -> Artifact {
    artifact_with(trees, depth, |index| index as f64)
}

/// The same, with the threshold that `threshold` says for a node; none is negative.
pub fn artifact_with(trees: usize, depth: u32, mut threshold: impl FnMut(usize) -> f64) -> Artifact {
    let feature = Feature { name: "x".into(), kind: FeatureKind::Numeric { fill: None } };
    let target = Target { name: "y".into(), classes: Vec::new() };
    let inner = (1_usize << depth) - 1;
    let mut node = |index: usize| match index < inner {
        true => Node::Split { column: 0, threshold: threshold(index), left: 2 * index + 1, right: 2 * index + 2 },
        false => Node::Value(index as f64),
    };
    let mut ensemble = TreeEnsemble::new(Aggregation::Mean);
    (0..trees).for_each(|_| ensemble.push_tree(&(0..2 * inner + 1).map(&mut node).collect::<Vec<Node>>()));
    Artifact {
        format: FORMAT,
        algorithm: "random-forest".into(),
        hyper_parameters: Default::default(),
        signature: Signature { features: vec![feature], target },
        predictor: Predictor::TreeEnsemble(ensemble),
        evaluation: Evaluation::default(),
        // Left of every threshold is the first leaf.
        golden_rows: vec![
            GoldenRow { inputs: vec![GoldenValue::Number(-1.0)], outputs: vec![inner as f64] };
            GOLDEN_ROWS_MIN
        ],
    }
}

fn publish_bytes(cluster: &Cluster, model: &str, version: Option<u64>, bytes: &[u8]) -> Result<Published, Error> {
    let request = Request { model, version, source: Source::Bytes(bytes), note: String::new() };
    let author = Author { name: "test@host".into(), key: None };
    publish(&cluster.connection, &cluster.log, &author, &request, |_| {})
}

pub fn fetch(cluster: &Cluster, manifest: &Manifest) -> Vec<u8> {
    let stored = follow::fetch_artifact(&cluster.connection, &cluster.log, manifest, |_| {}).expect("fetched");
    let mut bytes = Vec::new();
    stored.write_to(&mut bytes).expect("the promised bytes").expect("memory");
    bytes
}

#[test]
fn versions_count_up_and_never_change() {
    let Some(cluster) = real_kafka("log-versions") else { return };
    let (small, other) = (artifact(1, 1).encode().expect("small"), artifact(2, 1).encode().expect("small"));
    let version = |published: Result<Published, Error>| published.map(|published| published.manifest.version);
    assert_eq!(version(publish_bytes(&cluster, "m", None, &small)).expect("published"), 1);
    assert_eq!(version(publish_bytes(&cluster, "m", None, &other)).expect("published"), 2);
    assert_eq!(version(publish_bytes(&cluster, "n", None, &other)).expect("published"), 1);
    let again = publish_bytes(&cluster, "m", Some(1), &small).expect("a no-op");
    assert!(again.already_there);
    let taken = publish_bytes(&cluster, "m", Some(1), &other).expect_err("other bytes");
    assert!(matches!(taken, Error::VersionTaken { version: 1, next: 3, .. }), "{taken}");
    let state = follow::read_state(&cluster.connection, &cluster.log).expect("readable");
    assert_eq!(state.versions("m").map(|versions| versions.len()), Some(2));
}

#[test]
fn publishers_at_once_never_share_a_version() {
    let Some(cluster) = real_kafka("log-race") else { return };
    let bytes = artifact(1, 1).encode().expect("small");
    let published = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..4).map(|_| scope.spawn(|| publish_bytes(&cluster, "m", None, &bytes))).collect();
        publishers.into_iter().map(|publisher| publisher.join().expect("no panic")).collect::<Vec<_>>()
    });
    let mut versions: Vec<u64> = published.iter().flatten().map(|published| published.manifest.version).collect();
    versions.sort_unstable();
    assert!(!versions.is_empty(), "the last one wins: {published:?}");
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
    let state = follow::read_state(&cluster.connection, &cluster.log).expect("readable");
    let known: Vec<u64> = state.versions("m").expect("published").keys().copied().collect();
    assert_eq!(known, versions, "who was told that it published did, and nobody else");
}

#[test]
fn a_torn_publish_is_seen_by_nobody() {
    let Some(cluster) = real_kafka("log-torn") else { return };
    let bytes = artifact(1, 1).encode().expect("small");
    let id = format!("modelstream.publish.{}.m", cluster.log.models);
    let torn = Producer::transactional(&cluster.connection, &id, Duration::from_secs(60)).expect("a broker");
    torn.begin_transaction().expect("none is open");
    for topic in [&cluster.log.artifacts, &cluster.log.models] {
        let make = || Outgoing {
            topic,
            partition: Some(0),
            key: Some(b"version/m/1"),
            value: Some(b"half of something"),
            timestamp_ms: None,
            headers: Headers::default(),
        };
        torn.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
    }
    assert!(torn.flush(DEADLINE));
    // The publisher is gone without a word; the next one takes over its id, and its transaction is aborted.
    std::mem::forget(torn);
    let published = publish_bytes(&cluster, "m", None, &bytes).expect("published");
    assert_eq!(published.manifest.version, 1);
    assert_eq!(fetch(&cluster, &published.manifest), bytes);
}

#[test]
fn a_model_of_50_mb_goes_through_a_broker_with_default_limits() {
    let Some(cluster) = real_kafka("log-large") else { return };
    let bytes = artifact(22, 17).encode().expect("below the limit");
    assert!(bytes.len() > 50_000_000, "{}", bytes.len());
    let published = publish_bytes(&cluster, "large", None, &bytes).expect("published");
    let stored = published.manifest.stored_bytes();
    assert_eq!(u64::from(published.manifest.chunks.count), stored.div_ceil(512 * 1024));
    let fetched = fetch(&cluster, &published.manifest);
    assert_eq!(Digest::of(&fetched), published.manifest.digest);
    let model = Artifact::decode(&fetched).and_then(Artifact::into_model).expect("sound");
    assert_eq!(model.signature().features.len(), 1);
}

#[test]
fn what_is_no_model_is_not_published() {
    let Some(cluster) = real_kafka("log-refused") else { return };
    let refused = publish_bytes(&cluster, "m", None, b"\x80\x04\x95 a pickle").expect_err("foreign");
    assert!(matches!(&refused, Error::Refused { refusal, .. } if refusal.reason() == "foreign_format"), "{refused}");
    let named = publish_bytes(&cluster, "a/b", None, &artifact(1, 1).encode().expect("small"));
    assert!(matches!(named, Err(Error::BadName(_))));
    let none = follow::read_state(&cluster.connection, &cluster.log).expect("readable");
    assert_eq!(none.models().count(), 0);
}

pub fn send_raw(cluster: &Cluster, topic: &str, key: &str, value: Option<&[u8]>) {
    cluster.send(topic, [(Some(key.as_bytes()), value)]);
}

pub fn serving_iris(cluster: &Cluster) -> (Serving, String) {
    let (input, output) = (cluster.topic("in", 1), cluster.topic("out", 1));
    cluster.topic("in.dead-letters", 1);
    let serving = cluster.serve(&["--model", "iris", "--input", &input, "--output", &output]);
    serving.wait_until_ready();
    (serving, output)
}

/// A damaged manifest, a missing chunk, a chunk with one bit flipped, answers that differ: each is refused with its reason,
/// and version 1 serves on.
#[test]
fn a_damaged_version_is_refused_and_the_last_good_one_serves() {
    let Some(cluster) = real_kafka("log-damaged") else { return };
    cluster.publish_iris("iris", "7");
    let (mut serving, _) = serving_iris(&cluster);
    let state = follow::read_state(&cluster.connection, &cluster.log).expect("readable");
    let Some(Entry::Manifest(good)) = state.versions("iris").and_then(|versions| versions.get(&1)) else { panic!() };
    let bytes = fetch(&cluster, good);
    let refusals = |reason: &str| {
        let label = format!("{{reason=\"{reason}\"}}");
        serving.metric("modelstream_model_refusals_total").get(&label).copied().unwrap_or_default()
    };

    send_raw(&cluster, &cluster.log.models, "version/iris/2", Some(b"no manifest"));
    wait_until("the damaged manifest is refused", || refusals("undecodable") == 1.0);

    let mut absent = good.as_ref().clone();
    absent.version = 3;
    absent.digest = Digest::of(b"never written");
    send_raw(&cluster, &cluster.log.models, "version/iris/3", Some(&absent.encode().expect("small")));
    wait_until("the version without chunks is refused", || refusals("chunks") == 1.0);

    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    send_version(&cluster, good, 4, good.digest, &flipped);
    wait_until("the flipped bit is refused", || refusals("digest") == 1.0);

    let mut wrong = Artifact::decode(&bytes).expect("ours");
    wrong.golden_rows[0].outputs.reverse();
    let wrong = wrong.encode().expect("small");
    send_version(&cluster, good, 5, Digest::of(&wrong), &wrong);
    wait_until("the wrong answers are refused", || refusals("golden") == 1.0);

    assert_eq!(serving.get("/ready").0, 200);
    let status: serde_json::Value = serde_json::from_str(&serving.get("/status").1).expect("JSON");
    assert_eq!(status["models"][0]["version"], 1);
    let refused: Vec<&String> = status["models"][0]["refused"].as_object().expect("a map").keys().collect();
    assert_eq!(refused, ["2", "3", "4", "5"]);
    cluster.publish_iris("iris", "8");
    wait_until("a good version is taken up", || serving.total("modelstream_model_version") == 6.0);
    assert_eq!(serving.stop(), Some(0));
    let listed = succeeded(&cluster.arguments(&["models", "list"]));
    assert!(listed.contains("refused: undecodable"), "{listed}");
}

/// Writes chunks and a manifest past every check of `publish`.
pub fn send_version(cluster: &Cluster, good: &Manifest, version: u64, digest: Digest, bytes: &[u8]) {
    let admin = kafka::admin::Admin::new(&cluster.connection).expect("valid settings");
    let (_, end) = admin.watermarks(&cluster.log.artifacts, 0).expect("a broker");
    let mut manifest = Manifest { stored: None, ..good.clone() };
    (manifest.version, manifest.digest, manifest.artifact_bytes) = (version, digest, bytes.len() as u64);
    send_raw(cluster, &cluster.log.artifacts, &manifest.chunk_key(0), Some(bytes));
    (manifest.chunks.first_offset, manifest.chunks.last_offset) = (end, end);
    let key = format!("version/iris/{version}");
    send_raw(cluster, &cluster.log.models, &key, Some(&manifest.encode().expect("small")));
}

#[test]
fn the_verbs_of_models_show_pull_and_verify() {
    let Some(cluster) = real_kafka("log-verbs") else { return };
    let published = cluster.publish_iris("iris", "7");
    let digest = published["digest"].as_str().expect("a digest");
    let card = succeeded(&cluster.arguments(&["models", "show", "iris"]));
    for expected in ["iris version 1", "random-forest", digest, "petal_width", "accuracy", "true \\ predicted"] {
        assert!(card.contains(expected), "{expected}: {card}");
    }
    let document = succeeded(&cluster.arguments(&["models", "show", "iris:1", "--json"]));
    let document: serde_json::Value = serde_json::from_str(&document).expect("one document");
    assert_eq!(document["features"][0]["name"], "sepal_length");
    assert_eq!(document["confusion_matrix"].as_array().map(Vec::len), Some(3));

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pulled.model");
    let file = file.to_str().expect("text");
    succeeded(&cluster.arguments(&["models", "pull", "iris", "--out", file]));
    assert_eq!(Digest::of(&std::fs::read(file).expect("written")).to_string(), digest);
    let verified = succeeded(&["models", "verify", file]);
    assert!(verified.contains("passes") && verified.contains("golden rows"), "{verified}");
    succeeded(&cluster.arguments(&["models", "verify", "iris:1"]));
    let again = succeeded(&cluster.arguments(&["publish", file, "--model", "iris", "--as-version", "1"]));
    assert!(again.contains("already published"), "{again}");

    std::fs::write(file, b"\x80\x04\x95 a pickle").expect("writable");
    let refused = failed_with(7, &["models", "verify", file]);
    assert!(refused.contains("pickle"), "{refused}");
    let missing = failed_with(1, &cluster.arguments(&["models", "show", "iris:9"]));
    assert!(missing.contains("there are: 1"), "{missing}");
}

#[test]
fn a_missing_model_log_is_named() {
    let Some(cluster) = real_kafka("log-absent") else { return };
    let line = ["models", "list", "--brokers", &cluster.brokers, "--models-topic", "no-such-topic"];
    let said = failed_with(1, &line);
    assert!(said.contains("no-such-topic") && said.contains("topics init"), "{said}");
}
