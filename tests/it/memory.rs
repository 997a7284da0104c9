//! A large artifact is held once. The declared memory bound holds while everything that it sums up is as full as it gets: a backlog waits in the input, and
//! the broker takes outputs so slowly that they pile up. The peak is the kernel's (VmHWM), of the real process.

use std::time::{Duration, Instant};

use modelstream::kafka::Connection;
use modelstream::kafka::admin::Admin;
use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};

use crate::checker::{Checker, Offsets, Subject};
use crate::flow::{Flow, GOOD};
use crate::harness::{Cluster, DEADLINE, OwnBroker, ProxiedBroker, peak_memory_of, real_kafka, wait_until};
use crate::model_log::artifact_with;
use crate::proxy::{ApiKey, Fault, What, When};

/// How long the broker takes for each request with outputs: a lane's commits still end before their transaction does.
const SLOW: Duration = Duration::from_millis(250);
/// How long outputs pile up.
const STALL: Duration = Duration::from_secs(5);
/// The largest record that these topics take.
const RECORD_BYTES_MAX: &str = "message.max.bytes=20000000";
/// How long everything may take to come to rest afterwards.
const REST_TIMEOUT: Duration = Duration::from_secs(120);

/// How many times its size an artifact may take, beside what a small one does. A forest of narrow nodes is no larger
/// than its artifact; the rest is what the allocator has yet to use again, 150 MB of a large one.
const ARTIFACT_SHARE_MAX: f64 = 1.5;

/// The topics of a case, with so many input partitions; they take large records.
fn topics(cluster: &Cluster, case: &str, partitions: i32) -> Flow {
    let name = |topic: &str| cluster.name(&format!("{case}.{topic}"));
    let flow = Flow { input: name("in"), output: name("out"), dead_letters: name("in.dead-letters") };
    let admin: AdminClient<_> =
        ClientConfig::new().set("bootstrap.servers", &cluster.brokers).create().expect("valid settings");
    let wanted = [(&flow.input, partitions), (&flow.output, 4), (&flow.dead_letters, 4)];
    let topics = wanted.map(|(name, partitions)| {
        NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("max.message.bytes", "20000000")
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let created = runtime.block_on(admin.create_topics(&topics, &AdminOptions::new())).expect("a broker");
    created.into_iter().for_each(|topic| drop(topic.expect("it is new")));
    let known = Admin::new(&cluster.connection).expect("valid settings");
    for (topic, partitions) in wanted {
        wait_until("the topic is there", || matches!(known.partitions(topic), Ok(Some(found)) if found == partitions));
    }
    flow
}

/// Writes `counts[p]` records to each partition `p`.
fn fill(cluster: &Cluster, input: &str, counts: &[u64], value: impl Fn(u64) -> Vec<u8>) {
    let generous = Connection::new(&cluster.brokers, &[RECORD_BYTES_MAX.to_owned()]).expect("valid");
    let producer = Producer::idempotent(&generous).expect("valid settings");
    for (partition, count) in counts.iter().enumerate() {
        for offset in 0..*count {
            let value = value(offset);
            let make = || Outgoing {
                topic: input,
                partition: Some(partition as i32),
                key: None,
                value: Some(&value),
                timestamp_ms: None,
                headers: Headers::default(),
            };
            producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
        }
    }
    assert!(producer.flush(DEADLINE) && producer.take_failure().is_none());
}

/// Serves a backlog while outputs hardly get through, then freely; checks the peak, and each record's one output.
fn holds(broker: &ProxiedBroker, case: &str, counts: &[u64], more: &[&str], value: impl Fn(u64) -> Vec<u8>) {
    let ProxiedBroker { proxy, cluster, direct, .. } = broker;
    let flow = topics(direct, case, counts.len() as i32);
    fill(direct, &flow.input, counts, value);
    let group = direct.name(case);
    let subject = Subject::of(direct, &flow, &group);
    proxy.fault(Fault {
        api: ApiKey::Produce,
        what: What::DelayRequest(SLOW),
        when: When::Chance { probability: 1.0, seed: 0 },
    });
    // What is sent before a commit is due fills the queues; no share of dead letters stops the flow.
    let arguments = ["--group", &group, "--dead-letter-share-max", "1", "--commit-interval", "5s"];
    let arguments = [&arguments[..], &["--commit-records", "1000000", "--commit-bytes", "1073741824"], more].concat();
    let mut serving = cluster.serve(&flow.arguments(&arguments));
    wait_until("records come", || serving.total("modelstream_records_total") > 0.0);
    std::thread::sleep(STALL);
    let (scored, stalled_peak) = (serving.total("modelstream_records_total"), serving.peak_memory());
    let checker = Checker::start(subject, |_, _| true);
    proxy.heal();
    let report = checker.finish(&Offsets::dense(counts), REST_TIMEOUT);
    let (peak, bound) = (serving.peak_memory(), serving.total("modelstream_memory_bound_bytes"));
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    eprintln!(
        "{case}: bound {:.0} MiB, peak {:.0} MiB, of it {:.0} MiB with stalled outputs, when {scored} of {} records were scored",
        mib(bound),
        mib(peak as f64),
        mib(stalled_peak as f64),
        counts.iter().sum::<u64>(),
    );
    assert!(report.is_exactly_once(), "{report:#?}");
    assert!(peak as f64 <= bound, "{peak} bytes are more than the bound of {bound}");
    assert_eq!(serving.stop(), Some(0), "{:#?}", serving.drain_log());
}

#[test]
fn the_declared_bound_holds_with_small_records_with_large_ones_and_with_a_thousand_partitions() {
    let Some(broker) = OwnBroker::start_proxied("memory") else { return };
    broker.direct.publish_iris("iris", "7");
    holds(&broker, "small", &[40_000; 4], &["--lanes", "2"], |_| GOOD.to_vec());
    holds(&broker, "wide", &[100; 1_000], &[], |_| b"[5,3,1,0]".to_vec());
    // Beyond four megabytes they are dead letters, here with all their bytes.
    holds(&broker, "large", &[12, 12], &["-X", RECORD_BYTES_MAX], |number| match number % 3 {
        // Nothing compresses it.
        0 => noise(10_000_000, number),
        1 => noise(900_000, number),
        // lz4 makes a 255th of it.
        _ => vec![b'x'; 10_000_000],
    });
}

/// Publishing, verifying and serving a large artifact need memory of about its size: neither its bytes nor its arrays are
/// held beside what scores. Its thresholds do not compress.
#[test]
fn an_artifact_is_held_once() {
    let Some(cluster) = real_kafka("memory-artifact") else { return };
    let mut words = noise_words(1);
    let mut threshold = |_| (words.next().expect("it is endless") >> 40) as f64;
    let directory = tempfile::tempdir().expect("a directory");
    let (input, output) = (cluster.topic("in", 1), cluster.topic("out", 1));
    cluster.topic("in.dead-letters", 1);
    let mut peaks = |model: &str, trees: usize, depth: u32| {
        let bytes = artifact_with(trees, depth, &mut threshold).encode().expect("below the limit");
        let file = directory.path().join(model);
        std::fs::write(&file, &bytes).expect("writable");
        let file = file.to_str().expect("text");
        let publish = peak_memory_of(&cluster.arguments(&["publish", file, "--model", model]));
        let verify_file = peak_memory_of(&["models", "verify", file]);
        let verify = peak_memory_of(&cluster.arguments(&["models", "verify", model]));
        let mut serving = cluster.serve(&["--model", model, "--input", &input, "--output", &output]);
        serving.wait_until_ready();
        let serve = serving.peak_memory();
        assert_eq!(serving.stop(), Some(0));
        let named = [("publish", publish), ("verify a file", verify_file), ("verify", verify), ("serve", serve)];
        (bytes.len() as f64, named)
    };
    let (small, base) = peaks("small", 1, 1);
    let (large, peaks) = peaks("large", 200, 15);
    for ((verb, base), (_, peak)) in base.into_iter().zip(peaks) {
        let share = (peak as f64 - base as f64) / (large - small);
        eprintln!("{verb}: {share:.2} of an artifact of {large} bytes, beside {base} bytes");
        assert!(share < ARTIFACT_SHARE_MAX, "{verb}: {peak} bytes");
    }
}

/// Bytes that nothing compresses.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    noise_words(seed).flat_map(u64::to_le_bytes).take(bytes).collect()
}

/// Numbers by splitmix64, without an end.
fn noise_words(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
    })
}
