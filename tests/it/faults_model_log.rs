//! What may befall the model log: publishers that die, a thousand versions at once, compaction, a model that is too slow.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use modelstream::model::Manifest;
use modelstream::registry::follow;
use modelstream::registry::record::version_key;
use modelstream::registry::state::Entry;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::driver::Random;
use crate::harness::{Cluster, DEADLINE, Serving, real_kafka, succeeded, wait_until};
use crate::model_log::artifact_with;

fn serve(cluster: &Cluster, model: &str, more: &[&str]) -> Serving {
    let input = cluster.topic(&format!("in-{}", more.len()), 1);
    let output = cluster.topic(&format!("out-{}", more.len()), 1);
    cluster.topic(&format!("in-{}.dead-letters", more.len()), 1);
    cluster.serve(&[&["--model", model, "--input", &input, "--output", &output], more].concat())
}

fn wait_for_version(serving: &Serving, version: u64) {
    wait_until(&format!("version {version} is served"), || {
        serving.total("modelstream_model_version") == version as f64
    });
}

fn newest(cluster: &Cluster, model: &str) -> Manifest {
    let state = follow::read_state(&cluster.connection, &cluster.log).expect("readable");
    let versions = state.versions(model).expect("published");
    let Some((_, Entry::Manifest(manifest))) = versions.last_key_value() else { panic!("it is refused") };
    manifest.as_ref().clone()
}

/// Killed after its first chunks and in the middle; then a publisher that lives.
#[test]
fn a_publisher_that_is_killed_at_any_chunk_is_seen_by_nobody() {
    let Some(cluster) = real_kafka("log-killed") else { return };
    let write = |trees: usize| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        // Noise does not compress: many chunks.
        let mut random = Random::new(trees as u64);
        let noise = artifact_with(trees, 17, |_| random.below(1 << 24) as f64);
        file.write_all(&noise.encode().expect("below the limit")).expect("room");
        file
    };
    let small = write(1);
    let publish = |file: &tempfile::NamedTempFile| {
        let path = file.path().to_str().expect("text").to_owned();
        let arguments: Vec<String> =
            cluster.arguments(&["publish", &path, "--model", "m"]).into_iter().map(str::to_owned).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_modelstream"));
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    assert!(publish(&small).status().expect("it runs").success());
    let serving = serve(&cluster, "m", &[]);
    wait_for_version(&serving, 1);
    // What is written and not committed counts too.
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &cluster.brokers).set("isolation.level", "read_uncommitted");
    let onlooker: BaseConsumer = config.create().expect("valid settings");
    let end = || onlooker.fetch_watermarks(&cluster.log.artifacts, 0, DEADLINE).expect("a broker").1;
    let mut torn = 0;
    for (number, chunks) in [(0, 1), (1, 2), (2, 4)] {
        let large = write(20 + number);
        let (before, former) = (end(), newest(&cluster, "m").version);
        let mut publisher = publish(&large).spawn().expect("it runs");
        let deadline = Instant::now() + DEADLINE;
        while end() < before + chunks {
            assert!(Instant::now() < deadline, "{chunks} chunks are written");
            std::thread::sleep(Duration::from_millis(1));
        }
        publisher.kill().expect("our child");
        publisher.wait().expect("our child");
        // Whoever looks on a busy machine may come too late: then the version is there, and whole.
        let version = newest(&cluster, "m").version;
        torn += u32::from(version == former);
        succeeded(&cluster.arguments(&["models", "verify", &format!("m:{version}")]));
    }
    assert!(torn > 0, "a publisher was killed in the middle");
    let former = newest(&cluster, "m").version;
    wait_for_version(&serving, former);
    assert!(publish(&write(23)).status().expect("it runs").success());
    wait_for_version(&serving, former + 1);
    assert_eq!(serving.total("modelstream_model_refusals_total"), 0.0);
}

#[test]
fn of_a_thousand_versions_at_once_the_newest_is_served_and_none_comes_back() {
    const VERSIONS: u64 = 1_000;
    /// What a thousand manifests take, and what the allocator keeps.
    const GROWTH_MAX: u64 = 64 << 20;
    let Some(cluster) = real_kafka("log-thousand") else { return };
    cluster.publish_iris("iris", "1");
    let mut serving = serve(&cluster, "iris", &[]);
    wait_for_version(&serving, 1);
    let (first, before) = (newest(&cluster, "iris"), serving.peak_memory());
    let records: Vec<(String, Vec<u8>)> = (2..=VERSIONS)
        .map(|version| {
            let manifest = Manifest { version, sequence: version, ..first.clone() };
            (version_key("iris", version), manifest.encode().expect("small"))
        })
        .collect();
    let records = records.iter().map(|(key, value)| (Some(key.as_bytes()), Some(value.as_slice())));
    cluster.send(&cluster.log.models, records);
    wait_for_version(&serving, VERSIONS);
    let grown = serving.peak_memory() - before;
    assert!(grown < GROWTH_MAX, "{grown} bytes more");
    let other = serve(&cluster, "iris", &["--lanes", "2"]);
    other.wait_until_ready();
    assert_eq!(other.total("modelstream_model_version"), VERSIONS as f64, "the first that it serves is the newest");
    let served: Vec<u64> = serving
        .drain_log()
        .iter()
        .filter(|line| line.contains("serving a new version"))
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["version"].as_u64().expect("one"))
        .collect();
    assert!(served.is_sorted() && served.last() == Some(&VERSIONS), "{served:?}");
}

#[test]
fn a_version_that_takes_longer_than_its_budget_is_refused() {
    let Some(cluster) = real_kafka("log-slow") else { return };
    cluster.publish_iris("iris", "1");
    let mut serving = serve(&cluster, "iris", &["--row-budget", "1ns"]);
    let line = serving.wait_for_log("refusing a version");
    assert!(line.contains("too_slow") && line.contains("--row-budget"), "{line}");
    assert_eq!(serving.get("/ready").0, 503);
    assert_eq!(serving.stop(), Some(0));
}

/// Real compaction: what was replaced or removed is gone from the topics, and a new replica has all that it needs.
#[test]
fn a_compacted_model_log_is_enough_for_a_new_replica() {
    let Some(cluster) = real_kafka("log-compacted") else { return };
    for topic in [&cluster.log.models, &cluster.log.artifacts] {
        compact_soon(&cluster, topic);
    }
    for seed in ["1", "2", "3"] {
        cluster.publish_iris("iris", seed);
    }
    let line = ["models", "alias", "set", "iris", "champion", "2"];
    succeeded(&cluster.arguments(&line));
    succeeded(&cluster.arguments(&["models", "prune", "iris", "--keep", "1"]));
    let chunks = |manifest: &Manifest| format!("{}/{}/0", manifest.model, manifest.digest);
    let kept: Vec<String> = {
        let state = follow::read_state(&cluster.connection, &cluster.log).expect("readable");
        let versions = state.versions("iris").expect("two are left");
        assert_eq!(versions.keys().copied().collect::<Vec<u64>>(), [2, 3]);
        let manifests = versions.values().filter_map(|entry| match entry {
            Entry::Manifest(manifest) => Some(chunks(manifest)),
            Entry::Refused(_) => None,
        });
        manifests.collect()
    };
    // The segment that is written to is never compacted: another model's versions push the others out of it.
    let seed = Cell::new(10);
    wait_until("the removed chunk is gone", || {
        seed.set(seed.get() + 1);
        cluster.publish_iris("filler", &seed.get().to_string());
        let records = cluster.read(&cluster.log.artifacts, 1);
        let keys: Vec<String> = records
            .iter()
            .filter(|record| record.value.is_some())
            .filter_map(|record| String::from_utf8(record.key.clone()?).ok())
            .filter(|key| key.starts_with("iris/"))
            .collect();
        keys.iter().all(|key| kept.contains(key)) && keys.len() == kept.len()
    });
    for (selector, version) in [("iris", 3), ("iris@champion", 2)] {
        let serving = serve(&cluster, selector, if version == 3 { &[] } else { &["--lanes", "2"] });
        serving.wait_until_ready();
        assert_eq!(serving.total("modelstream_model_version"), f64::from(version));
    }
}

/// Lets the broker compact a topic as soon as it can.
fn compact_soon(cluster: &Cluster, topic: &str) {
    let client: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &cluster.brokers).create().expect("valid settings");
    // What is not named here goes back to the broker's default.
    let entries = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("max.compaction.lag.ms", "100"),
    ];
    let config = AlterConfig {
        specifier: ResourceSpecifier::Topic(topic),
        entries: entries.into_iter().collect::<std::collections::HashMap<_, _>>(),
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let altered = runtime.block_on(client.alter_configs([&config], &AdminOptions::new())).expect("a broker");
    let outcomes: BTreeMap<usize, bool> = altered.iter().map(Result::is_ok).enumerate().collect();
    assert_eq!(outcomes, BTreeMap::from([(0, true)]), "{altered:?}");
}
