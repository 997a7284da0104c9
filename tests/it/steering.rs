//! Who may write the model log, and who decides what is served: signatures, aliases, pins, rollbacks, revocations, removal, and
//! the copy on disk. Two serving processes, real Kafka.

use std::path::Path;

use modelstream::model::Manifest;
use modelstream::registry::chunks::Assembler;
use modelstream::registry::record::{LogRecord, version_key};
use modelstream::registry::state::Entry;
use modelstream::registry::trust::SIGNATURE_HEADER;
use modelstream::registry::{State, Topics, Trust, follow};
use serde_json::Value;

use crate::harness::{Cluster, Serving, failed_with, real_kafka, succeeded, wait_until};

/// Two processes that serve `selector`, each with its own output.
fn replicas(cluster: &Cluster, selector: &str, more: &[&str]) -> [Serving; 2] {
    let input = cluster.topic(&format!("in-{}", selector.replace('@', ".")), 2);
    let output = format!("{input}.out");
    let dead_letters = format!("{input}.dead-letters");
    for topic in [&output, &dead_letters] {
        cluster.create(&[modelstream::kafka::admin::TopicSpec {
            name: topic.clone(),
            partitions: 2,
            cleanup: modelstream::kafka::admin::Cleanup::Delete,
        }]);
    }
    let arguments = ["--model", selector, "--input", &input, "--output", &output];
    [(); 2].map(|()| cluster.serve(&[&arguments[..], more].concat()))
}

fn serve_version(replicas: &[Serving], version: u64) {
    let serves = |serving: &Serving| serving.total("modelstream_model_version") == version as f64;
    wait_until(&format!("every replica serves version {version}"), || replicas.iter().all(serves));
}

fn models(cluster: &Cluster, words: &[&str]) -> String {
    succeeded(&cluster.arguments(&[&["models"], words].concat()))
}

fn documents(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn aliases_rollbacks_pins_and_revocations_steer_every_replica() {
    let Some(cluster) = real_kafka("steer") else { return };
    for seed in ["1", "2", "3"] {
        cluster.publish_iris("iris", seed);
    }
    models(&cluster, &["alias", "set", "iris", "champion", "1", "--why", "the first"]);
    let followers = replicas(&cluster, "iris@champion", &[]);
    let newest = replicas(&cluster, "iris", &[]);
    serve_version(&followers, 1);
    serve_version(&newest, 3);
    models(&cluster, &["alias", "set", "iris", "champion", "3"]);
    serve_version(&followers, 3);
    models(&cluster, &["rollback", "iris", "--why", "it was better"]);
    serve_version(&followers, 1);
    let nothing_before = failed_with(1, &cluster.arguments(&["models", "rollback", "iris", "--alias", "other"]));
    assert!(nothing_before.contains("no alias other"), "{nothing_before}");

    models(&cluster, &["pin", "iris", "2"]);
    serve_version(&newest, 2);
    // What nobody may serve is given up at once, by whoever serves it.
    models(&cluster, &["revoke", "iris", "1", "--why", "it leaks"]);
    serve_version(&followers, 3);
    models(&cluster, &["revoke", "iris", "2", "--why", "it leaks too"]);
    wait_until("a pinned version that is revoked is not served, nor a newer one", || {
        newest.iter().all(|serving| serving.get("/ready").0 == 503)
    });
    let again = failed_with(1, &cluster.arguments(&["models", "alias", "set", "iris", "champion", "2"]));
    assert!(again.contains("revoked: it leaks too"), "{again}");
    models(&cluster, &["unpin", "iris"]);
    serve_version(&newest, 3);

    let history = documents(&models(&cluster, &["history", "iris", "--json"]));
    let what: Vec<&str> = history.iter().map(|event| event["what"].as_str().expect("words")).collect();
    assert_eq!(
        what,
        [
            "version 1 is published",
            "version 2 is published",
            "version 3 is published",
            "@champion is version 1",
            "@champion is version 3",
            "@champion is rolled back to version 1",
            "pinned to version 2",
            "version 1 is revoked",
            "version 2 is revoked",
            "not pinned any more",
        ]
    );
    let sequence: Vec<u64> = history.iter().map(|event| event["sequence"].as_u64().expect("a number")).collect();
    assert_eq!(sequence, (1..=10).collect::<Vec<u64>>());
    assert_eq!(history[5]["why"], "it was better");
    assert!(history.iter().all(|event| event["by"].as_str().is_some_and(|by| by.contains('@'))));
    let listed = models(&cluster, &["list"]);
    assert!(listed.contains("revoked") && listed.contains("@champion"), "{listed}");
}

/// Of writers at once none is overlooked: each decision has a place of its own, and who lost was told so.
#[test]
fn of_those_who_decide_at_once_each_wins_or_is_told() {
    let Some(cluster) = real_kafka("steer-race") else { return };
    cluster.publish_iris("iris", "1");
    cluster.publish_iris("iris", "2");
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let deciders: Vec<_> = (0..4)
            .map(|number| {
                let cluster = &cluster;
                scope.spawn(move || {
                    let alias = format!("a{number}");
                    let line = ["models", "alias", "set", "iris", &alias, "1"];
                    let output = crate::harness::modelstream(&cluster.arguments(&line));
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    let code = output.status.code();
                    assert!(
                        code == Some(0) || code == Some(6) && said.contains("somebody else wrote"),
                        "{code:?} {said}"
                    );
                    code == Some(0)
                })
            })
            .collect();
        deciders.into_iter().map(|decider| decider.join().expect("no panic")).collect()
    });
    let state = follow::read_state(&cluster.connection, &cluster.log).expect("readable");
    let won = outcomes.iter().filter(|won| **won).count();
    assert!(won > 0 && state.steering("iris").aliases.len() == won, "{outcomes:?}: {:?}", state.steering("iris"));
}

fn generate_key(directory: &Path, name: &str) -> (String, String) {
    let out = directory.join(name);
    succeeded(&["keys", "generate", "--out", out.to_str().expect("text")]);
    let file = |end: &str| out.with_extension(end).to_str().expect("text").to_owned();
    (file("key"), file("pub"))
}

#[test]
fn only_what_a_trusted_key_signed_is_served() {
    let Some(cluster) = real_kafka("trust") else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let (key, public) = generate_key(directory.path(), "team");
    let (other, other_public) = generate_key(directory.path(), "other");
    let iris = crate::harness::data("iris.csv");
    let iris = iris.to_str().expect("text");
    let train = |seed: &str, more: &[&str]| {
        let line = ["train", iris, "--target", "species", "--seed", seed, "--n-estimators", "5", "--publish"];
        succeeded(&cluster.arguments(&[&line[..], &["--model", "iris"], more].concat()))
    };
    train("1", &["--signing-key", &key]);
    let mut serving = replicas(&cluster, "iris", &["--trusted-key", &public, "--trusted-key", &other_public]);
    serve_version(&serving, 1);

    train("2", &[]);
    let (stranger, _) = generate_key(directory.path(), "stranger");
    train("3", &["--signing-key", &stranger]);
    let untrusted = |serving: &Serving| {
        serving.metric("modelstream_model_refusals_total").get("{reason=\"untrusted\"}").copied().unwrap_or_default()
    };
    wait_until("both are refused", || serving.iter().all(|serving| untrusted(serving) == 2.0));
    // Decisions are believed as little: neither a stranger's, nor one that is sent again in another place.
    models(&cluster, &["revoke", "iris", "1", "--why", "mischief", "--signing-key", &stranger]);
    replay(&cluster, &version_key("iris", 1), &version_key("iris", 9));
    wait_until("those too", || serving.iter().all(|serving| untrusted(serving) == 4.0));
    serve_version(&serving, 1);
    let status: Value = serde_json::from_str(&serving[0].get("/status").1).expect("JSON");
    assert!(status["models"][0]["refused"]["2"].as_str().is_some_and(|why| why.contains("not signed")), "{status}");
    let believed = failed_with(
        1,
        &cluster.arguments(&["models", "unpin", "iris", "--trusted-key", &public, "--signing-key", &stranger]),
    );
    assert!(believed.contains("not what this model log trusts"), "{believed}");

    // The key is changed: what the new one signs is served, then the old one is revoked, and with it what it signed.
    train("4", &["--signing-key", &other]);
    serve_version(&serving, 10);
    let revoke = ["keys", "revoke", &public, "--why", "it was lost", "--signing-key", &other];
    succeeded(&cluster.arguments(&revoke));
    train("5", &["--signing-key", &key]);
    wait_until("the revoked key's version is refused", || serving.iter().all(|serving| untrusted(serving) >= 5.0));
    serve_version(&serving, 10);
    let listed = models(&cluster, &["list", "--trusted-key", &public, "--trusted-key", &other_public, "--json"]);
    let refused: Vec<u64> = documents(&listed)
        .iter()
        .filter(|version| version["refused"] == "untrusted")
        .filter_map(|version| version["version"].as_u64())
        .collect();
    assert_eq!(refused, [1, 2, 3, 9, 11]);
    for serving in &mut serving {
        assert_eq!(serving.stop(), Some(0));
    }
}

/// Sends a record of the models topic again, as it is, under another key.
fn replay(cluster: &Cluster, key: &str, as_key: &str) {
    use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
    let records = cluster.read(&cluster.log.models, 1);
    let record = records.iter().find(|record| record.key.as_deref() == Some(key.as_bytes())).expect("it is there");
    let producer = Producer::idempotent(&cluster.connection).expect("valid settings");
    let make = || Outgoing {
        topic: &cluster.log.models,
        partition: Some(0),
        key: Some(as_key.as_bytes()),
        value: record.value.as_deref(),
        timestamp_ms: None,
        headers: record
            .headers
            .iter()
            .fold(Headers::default(), |headers, (name, value)| headers.with(name.as_bytes(), value)),
    };
    let deadline = std::time::Instant::now() + crate::harness::DEADLINE;
    producer.send_waiting(make, UNTAGGED, deadline).expect("room");
    assert!(producer.flush(crate::harness::DEADLINE) && producer.take_failure().is_none());
}

/// Every bit of a signed manifest, and a thousand places of the chunks.
#[test]
fn no_flipped_bit_of_a_signed_version_is_served() {
    let Some(cluster) = real_kafka("flips") else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let (key, public) = generate_key(directory.path(), "team");
    let iris = crate::harness::data("iris.csv");
    let line = ["train", iris.to_str().expect("text"), "--target", "species", "--publish", "--model", "iris"];
    succeeded(&cluster.arguments(&[&line[..], &["--signing-key", &key]].concat()));
    let public = modelstream::config::public_key(Path::new(&public)).expect("a key");
    let log = Topics { trust: Trust::new(vec![public]), ..cluster.log.clone() };
    let records = cluster.read(&cluster.log.models, 1);
    let (record, value) = (&records[0], records[0].value.as_deref().expect("a manifest"));
    let signature = record.headers.iter().find(|(name, _)| name == SIGNATURE_HEADER).map(|(_, value)| value.as_slice());
    let serves = |value: &[u8]| -> Option<Manifest> {
        let mut state = State::new(&log);
        let key = record.key.as_deref().unwrap_or_default();
        state.apply(&LogRecord { key, value: Some(value), signature, needs: None });
        match state.versions("iris")?.get(&1)? {
            Entry::Manifest(manifest) => Some(manifest.as_ref().clone()),
            Entry::Refused(refusal) => {
                assert_eq!(refusal.reason(), "untrusted");
                None
            }
        }
    };
    let manifest = serves(value).expect("it is as it was signed");
    for index in 0..value.len() {
        for bit in 0..8 {
            let mut flipped = value.to_vec();
            flipped[index] ^= 1 << bit;
            assert_eq!(serves(&flipped), None, "byte {index}, bit {bit}");
        }
    }

    let chunks = cluster.read(&cluster.log.artifacts, manifest.chunks.count as usize);
    let assemble = |flip: Option<(usize, usize)>| {
        let mut assembler = Assembler::new(&manifest)?;
        for (number, chunk) in chunks.iter().enumerate() {
            let mut value = chunk.value.clone().expect("bytes");
            if let Some((_, place)) = flip.filter(|(flipped, _)| *flipped == number) {
                value[place / 8] ^= 1 << (place % 8);
            }
            assembler.take(chunk.offset, chunk.key.as_deref(), Some(&value))?;
        }
        assembler.finish()
    };
    assert!(assemble(None).is_ok());
    let mut random = crate::driver::Random::new(7);
    for _ in 0..1_000 {
        let chunk = random.below(chunks.len() as u64) as usize;
        let bits = chunks[chunk].value.as_ref().expect("bytes").len() * 8;
        let place = random.below(bits as u64) as usize;
        let refusal = assemble(Some((chunk, place))).map(drop).expect_err("other bytes");
        assert_eq!(refusal.reason(), "digest", "chunk {chunk}, bit {place}");
    }
}

#[test]
fn old_versions_are_removed_and_what_stays_is_whole() {
    let Some(cluster) = real_kafka("prune") else { return };
    // The third has the first one's bytes, which are stored once.
    for seed in ["1", "2", "1", "3"] {
        cluster.publish_iris("iris", seed);
    }
    cluster.publish_iris("other", "2");
    assert_eq!(cluster.read(&cluster.log.artifacts, 4).len(), 4, "three artifacts of iris and one of another model");
    models(&cluster, &["alias", "set", "iris", "champion", "2"]);
    let planned = models(&cluster, &["prune", "iris", "--keep", "2", "--dry-run", "--json"]);
    let removed = models(&cluster, &["prune", "iris", "--keep", "2", "--json"]);
    let (planned, removed) = (&documents(&planned)[0], &documents(&removed)[0]);
    assert_eq!(planned["removed"], serde_json::json!([1]));
    assert_eq!(removed["removed"], planned["removed"]);
    assert_eq!(removed["bytes"], 0, "version 3 has the same bytes");
    assert_eq!(removed["held"][0]["held_by"], "alias champion");
    models(&cluster, &["alias", "set", "iris", "champion", "4"]);
    let removed = documents(&models(&cluster, &["prune", "iris", "--keep", "1", "--json"])).remove(0);
    assert_eq!(removed["removed"], serde_json::json!([2, 3]));
    assert!(removed["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{removed}");

    let serving = replicas(&cluster, "iris", &[]);
    serve_version(&serving, 4);
    for version in ["iris:1", "iris:2", "iris:3"] {
        failed_with(1, &cluster.arguments(&["models", "pull", version]));
    }
    succeeded(&cluster.arguments(&["models", "verify", "iris:4"]));
    succeeded(&cluster.arguments(&["models", "verify", "other:1"]));
    assert_eq!(cluster.publish_iris("iris", "1")["published"]["version"], 5, "a number is never given again");
    serve_version(&serving, 5);
}

/// The model log cannot be read at start: the last good version serves from disk and says so; once it can be, all is as usual.
#[test]
fn without_the_model_log_the_copy_on_disk_serves_and_is_said_to_be_stale() {
    let Some(cluster) = real_kafka("cache") else { return };
    cluster.publish_iris("iris", "1");
    cluster.publish_iris("iris", "2");
    let directory = tempfile::tempdir().expect("a directory");
    let cache = directory.path().to_str().expect("text");
    let (input, output) = (cluster.topic("in", 1), cluster.topic("out", 1));
    cluster.topic("in.dead-letters", 1);
    let arguments = ["--model", "iris", "--input", &input, "--output", &output, "--cache", cache];
    let stale = |serving: &Serving| -> bool {
        let status: Value = serde_json::from_str(&serving.get("/status").1).expect("JSON");
        status["models"][0]["stale"].as_bool().expect("said")
    };
    let mut serving = cluster.serve(&arguments);
    serving.wait_until_ready();
    assert!(!stale(&serving));
    assert_eq!(serving.stop(), Some(0));

    let start_without_log = || {
        let line = ["serve", "--brokers", &cluster.brokers, "--models-topic", "no-such-topic"];
        Serving::start(&[&line[..], &["--listen", "127.0.0.1:0", "--log-format", "json"], &arguments].concat(), "")
    };
    let mut serving = start_without_log();
    serving.wait_until_ready();
    assert!(stale(&serving) && serving.total("modelstream_model_version") == 2.0);
    assert_eq!(serving.stop(), Some(0));

    // One bit of the copy: it is refused, and nothing is served.
    let files = std::fs::read_dir(directory.path()).expect("readable").map(|entry| entry.expect("readable").path());
    let artifact = files.filter(|path| path.extension().is_some_and(|end| end == "artifact")).collect::<Vec<_>>();
    let [artifact] = artifact.as_slice() else { panic!("one artifact is kept: {artifact:?}") };
    let whole = std::fs::read(artifact).expect("readable");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(artifact, &damaged).expect("writable");
    let mut serving = start_without_log();
    serving.wait_for_log("the copy on disk cannot be served");
    assert_eq!(serving.get("/ready").0, 503);
    assert_eq!(serving.stop(), Some(0));

    // With the model log it is made good, though the version is the same; so is one that is too short or too long.
    for damaged in [&damaged, &whole[..whole.len() - 1], &[&whole[..], &[0]].concat()] {
        std::fs::write(artifact, damaged).expect("writable");
        let mut serving = cluster.serve(&arguments);
        wait_until("the copy is whole again", || std::fs::read(artifact).expect("it stays") == whole);
        assert_eq!(serving.stop(), Some(0));
    }
    let mut serving = start_without_log();
    serving.wait_until_ready();
    assert_eq!(serving.stop(), Some(0));
}
