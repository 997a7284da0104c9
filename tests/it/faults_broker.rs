//! What happens to the cluster: too few replicas, quotas, topics that change or go, rights that are withdrawn, brokers that are
//! not what was expected.

use std::io::Read as _;
use std::net::TcpListener;
use std::time::Duration;

use modelstream::kafka::producer::Producer;
use rdkafka::mocking::MockCluster;
use rdkafka::types::RDKafkaApiKey;

use crate::checker::Offsets;
use crate::faults::{
    FRESH_METADATA, SHORT_SESSION, Watched, add_partitions, committed_offset, configure_topic, delete_records,
    delete_topic, hidden, request, string,
};
use crate::flow::GOOD;
use crate::harness::{Cluster, DEADLINE, OwnBroker, Serving, data, failed_with, real_kafka, succeeded, wait_until};

/// Fault 27. The output demands three replicas in sync, and one of three nodes is gone.
#[test]
fn without_enough_replicas_records_wait() {
    let Some((broker, cluster)) = OwnBroker::start_three("fault-replicas") else { return };
    let watched = Watched::new(&cluster, 2);
    configure_topic(&cluster, &watched.flow.output, &[("min.insync.replicas", "3")]);
    let mut serving = cluster.serve(&watched.arguments(&["--batch-records", "50"]));
    serving.wait_until_ready();
    watched.fill(0..2, 0..500);
    wait_until("it works", || serving.total("modelstream_predictions_total") > 0.0);
    broker.kill_node(3);
    watched.fill(0..2, 500..1_000);
    wait_until("it is not ready", || serving.get("/ready").0 == 503);
    assert_eq!(serving.get("/live").0, 200, "a restart would not help");
    broker.start_again();
    watched.assert_exactly_once();
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 28. The broker lets this client write a tenth of what it has to: it holds its answers back.
#[test]
fn a_quota_slows_it_down_and_aborts_nothing() {
    let Some(cluster) = real_kafka("fault-quota") else { return };
    let watched = Watched::new(&cluster, 2);
    let client = cluster.name("client");
    let one = 1_i32.to_be_bytes();
    let (entity, rate) = ([string("client-id"), string(&client)].concat(), 20_000_f64.to_be_bytes());
    let entry = [&one[..], &entity, &one, &string("producer_byte_rate"), &rate, &[0]].concat();
    // AlterClientQuotas
    let answer = request(&cluster, 49, 0, &[&one[..], &entry, &[0]].concat());
    assert_eq!(answer[12..14], [0, 0], "the quota is set: {answer:?}");
    let client = format!("client.id={client}");
    let mut serving = cluster.serve(&watched.arguments(&["--batch-records", "100", "-X", &client]));
    watched.fill(0..2, 0..3_000);
    watched.assert_exactly_once();
    assert_eq!(serving.metric("modelstream_transactions_total")["{result=\"aborted\"}"], 0.0);
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 29, the harmless half.
#[test]
fn partitions_that_are_added_are_read_from_their_beginning() {
    let Some(cluster) = real_kafka("fault-added") else { return };
    let watched = Watched::new(&cluster, 2);
    let mut serving = cluster.serve(&watched.arguments(&FRESH_METADATA));
    watched.fill(0..2, 0..500);
    wait_until("it has two partitions", || serving.total("modelstream_assigned_partitions") == 2.0);
    add_partitions(&cluster, &watched.flow.input, 4);
    // Before it can have seen them: these records must not be taken for old ones.
    watched.fill(2..4, 0..500);
    watched.fill(0..2, 500..1_000);
    wait_until("it has four partitions", || serving.total("modelstream_assigned_partitions") == 4.0);
    watched.assert_exactly_once();
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 29, the other half. The offsets of the former topic say nothing about the new one: the process ends instead of guessing.
#[test]
fn a_topic_that_is_made_anew_ends_the_process() {
    let Some(cluster) = real_kafka("fault-anew") else { return };
    let watched = Watched::unwatched(&cluster, 1);
    let mut serving = cluster.serve(&watched.arguments(&FRESH_METADATA));
    watched.fill(0..1, 0..500);
    assert!(cluster.read(&watched.flow.output, 490).len() == 490);
    delete_topic(&cluster, &watched.flow.input);
    cluster.topic("in", 1);
    assert_eq!(serving.wait(), Some(1));
    let said = serving.drain_log().join("\n");
    // It may look while there is none.
    let why = said.contains("made anew") || said.contains("the topic does not exist");
    assert!(said.contains(&watched.flow.input) && why, "{said}");
}

/// Serves the first hundred records, then loses fifty of the next hundred before anybody reads them.
fn eaten<'c>(cluster: &'c Cluster) -> Watched<'c> {
    let watched = Watched::unwatched(cluster, 1);
    let mut serving = cluster.serve(&watched.arguments(&[]));
    watched.fill(0..1, 0..100);
    assert_eq!(cluster.read(&watched.flow.output, 98).len(), 98);
    assert_eq!(serving.stop(), Some(0));
    watched.fill(0..1, 100..200);
    delete_records(cluster, &watched.flow.input, 0, 150);
    watched.forget(&Offsets::at((100..150).map(|offset| (0, offset))));
    watched
}

/// Fault 30. The process says which records are lost, and leaves it to a person to go on.
#[test]
fn deleted_records_stop_it_and_the_gap_is_stated() {
    let Some(cluster) = real_kafka("fault-eaten") else { return };
    let watched = eaten(&cluster);
    let mut refusing = cluster.serve(&watched.arguments(&["--offset-reset", "error"]));
    let said = refusing.wait_for_log("no longer exists");
    assert!(
        said.contains("partition 0: 100 to 149 were deleted") && said.contains("--offset-reset earliest"),
        "{said}"
    );
    assert_eq!(refusing.wait(), Some(1));
    let mut going_on = cluster.serve(&watched.arguments(&["--offset-reset", "earliest"]));
    let report = watched.assert_exactly_once();
    assert_eq!(report.expected, 150);
    assert_eq!(going_on.stop(), Some(0));
}

const SKIPPED: &str = "modelstream_skipped_records_total";

fn offsets(partition: i32, range: std::ops::Range<i64>) -> Offsets {
    Offsets::at(range.map(|offset| (partition, offset)))
}

/// Fault 30, for who wants to go on: what is left is read, what is not is counted once.
#[test]
fn records_that_are_skipped_are_counted() {
    let Some(cluster) = real_kafka("fault-skipped") else { return };
    let watched = Watched::unwatched(&cluster, 4);
    let earliest = watched.arguments(&["--offset-reset", "earliest"]);
    let mut serving = cluster.serve(&earliest);
    watched.fill(0..4, 0..100);
    assert_eq!(cluster.read(&watched.flow.output, 4 * 98).len(), 4 * 98);
    assert_eq!(serving.metric(SKIPPED).len(), 1, "a rate over it has data from the start");
    assert_eq!(serving.stop(), Some(0));
    watched.fill(0..4, 100..200);
    // What is read already; some of what is not; all that there is, twice.
    for (partition, first) in [(0, 50), (1, 150), (2, 200), (3, 200)] {
        delete_records(&cluster, &watched.flow.input, partition, first);
    }
    [offsets(1, 100..150), offsets(2, 100..200), offsets(3, 100..200)].iter().for_each(|gone| watched.forget(gone));
    let mut serving = cluster.serve(&earliest);
    serving.wait_for_log("partition 1: 100 to 149 were deleted");
    wait_until("each gap is counted", || serving.total(SKIPPED) == 250.0);
    watched.fill(2..3, 200..300);
    wait_until("it works", || serving.total("modelstream_records_total") == 250.0);
    assert_eq!(serving.total(SKIPPED), 250.0);
    assert_eq!(serving.stop(), Some(0));
    // Partition 3 had nothing to commit but the skip.
    let mut serving = cluster.serve(&earliest);
    watched.fill(3..4, 200..300);
    wait_until("it works", || serving.total("modelstream_records_total") == 100.0);
    assert_eq!(serving.total(SKIPPED), 0.0);
    watched.assert_exactly_once();
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 30, with `latest`: what is left is passed over too, and counted.
#[test]
fn records_that_are_passed_over_are_counted() {
    let Some(cluster) = real_kafka("fault-passed-over") else { return };
    let watched = eaten(&cluster);
    let mut serving = cluster.serve(&watched.arguments(&["--offset-reset", "latest"]));
    wait_until("the gap is counted", || serving.total(SKIPPED) == 100.0);
    watched.forget(&offsets(0, 150..200));
    watched.fill(0..1, 200..300);
    watched.assert_exactly_once();
    assert_eq!(serving.total(SKIPPED), 100.0);
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 30, while the process runs: it stands still, and what it would read next is deleted.
#[test]
fn records_that_are_deleted_under_its_hands_are_counted() {
    let Some(cluster) = real_kafka("fault-under-hands") else { return };
    let watched = Watched::unwatched(&cluster, 1);
    let mut serving = cluster.serve(&watched.arguments(&["--offset-reset", "earliest"]));
    watched.fill(0..1, 0..100);
    assert_eq!(cluster.read(&watched.flow.output, 98).len(), 98);
    serving.signal("STOP");
    // What it had asked for is answered by then, with nothing.
    std::thread::sleep(Duration::from_secs(1));
    watched.fill(0..1, 100..200);
    delete_records(&cluster, &watched.flow.input, 0, 150);
    watched.forget(&offsets(0, 100..150));
    serving.signal("CONT");
    watched.assert_exactly_once();
    assert_eq!(serving.total(SKIPPED), 50.0);
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 30, after an abort: the committed offset that it goes back to is gone.
#[test]
fn after_an_abort_too_what_was_deleted_is_counted() {
    let Some(cluster) = real_kafka("fault-abort-eaten") else { return };
    let watched = Watched::unwatched(&cluster, 1);
    const RECORDS: i64 = 10_000;
    let often = ["--offset-reset", "earliest", "--batch-records", "50", "--commit-records", "100"];
    // It stops itself with a transaction open, which takes too long then.
    let mut serving = cluster.serve_disturbed("before-commit=stop@20", &watched.arguments(&often));
    watched.fill(0..1, 0..100);
    assert_eq!(cluster.read(&watched.flow.output, 98).len(), 98);
    watched.fill(0..1, 100..RECORDS as u64);
    wait_until("it stands still", || serving.is_stopped());
    assert!(hidden(&cluster, &watched.flow.output, 1) > 0);
    delete_records(&cluster, &watched.flow.input, 0, RECORDS);
    wait_until("the broker aborted it", || hidden(&cluster, &watched.flow.output, 1) == 0);
    let committed = committed_offset(&cluster, &watched.group, &watched.flow.input, 0);
    watched.forget(&offsets(0, committed..RECORDS));
    serving.signal("CONT");
    wait_until("the gap is counted", || serving.total(SKIPPED) == (RECORDS - committed) as f64);
    watched.fill(0..1, RECORDS as u64..RECORDS as u64 + 100);
    watched.assert_exactly_once();
    assert_eq!(serving.total(SKIPPED), (RECORDS - committed) as f64);
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 31. Aborted records are none; ends of transactions are offsets without a record, and no lag.
#[test]
fn an_input_of_transactions_is_read_as_its_readers_see_it() {
    let Some(cluster) = real_kafka("fault-transactions") else { return };
    let watched = Watched::new(&cluster, 1);
    let mut serving = cluster.serve(&watched.arguments(&["--batch-records", "20", "--commit-interval", "20ms"]));
    let producer =
        |id: &str| Producer::transactional(&cluster.connection, &cluster.name(id), DEADLINE).expect("a broker");
    let (one, two) = (producer("one"), producer("two"));
    let (mut next, mut aborted) = (0, Offsets::default());
    // Each of the two ends as it is told; one that ends alone leaves the other's records hidden.
    for round in 0..40 {
        let (first, second) = (round % 3 == 1, round % 4 == 2);
        one.begin_transaction().expect("a transaction");
        two.begin_transaction().expect("a transaction");
        for turn in 0..10 {
            let (producer, abort) = if turn % 2 == 0 { (&one, first) } else { (&two, second) };
            watched.send(producer, 0, next, Some(GOOD));
            // One after the other, so that their offsets are known.
            assert!(producer.flush(DEADLINE));
            if abort {
                aborted.insert(0, next);
            }
            next += 1;
        }
        for (producer, abort) in [(&two, second), (&one, first)] {
            let ended = if abort { producer.abort_transaction() } else { producer.commit_transaction() };
            ended.expect("ended");
            // Its mark takes an offset.
            next += 1;
        }
    }
    watched.forget(&aborted);
    assert!(aborted.count() > 100);
    watched.assert_exactly_once();
    wait_until("nothing lags, although the last offset is of no record", || {
        let lag = serving.metric("modelstream_lag_records");
        !lag.is_empty() && lag.values().all(|lag| *lag == 0.0)
    });
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 32. What compaction has left is scored; the gaps are no lag and no loss.
#[test]
fn a_compacted_input_has_gaps() {
    let settings = ["log.cleaner.backoff.ms=100", "log.retention.check.interval.ms=100"];
    let Some((_broker, cluster)) = OwnBroker::start_with("fault-compacted", &settings) else { return };
    const RECORDS: i64 = 2_000;
    let watched = Watched::unwatched(&cluster, 1);
    let compacting = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0"),
        ("segment.bytes", "1048576"),
        ("segment.ms", "500"),
    ];
    configure_topic(&cluster, &watched.flow.input, &compacting);
    // Half of the keys come twice: the first of each pair goes. The last record rolls the segment, so that it can be cleaned.
    let key = |offset: i64| if offset % 4 < 2 { format!("pair-{}", offset / 2) } else { format!("own-{offset}") };
    let keys: Vec<String> = (0..RECORDS).map(key).collect();
    cluster.send(&watched.flow.input, keys.iter().map(|key| (Some(key.as_bytes()), Some(GOOD))));
    std::thread::sleep(Duration::from_millis(600));
    cluster.send(&watched.flow.input, [(Some(&b"last"[..]), Some(GOOD))]);
    let left = || cluster.read(&watched.flow.input, 0);
    wait_until("it was compacted", || left().len() < RECORDS as usize);
    let left: Vec<(i32, i64)> = left().iter().map(|record| (record.partition, record.offset)).collect();
    let mut serving = cluster.serve(&watched.arguments(&["--batch-records", "50"]));
    let outputs = cluster.read(&watched.flow.output, left.len());
    let scored: Vec<(i32, i64)> = outputs.iter().map(crate::harness::Received::source).collect();
    assert_eq!(scored, left, "each record that is left has one output, in its order");
    wait_until("nothing lags", || {
        let lag = serving.metric("modelstream_lag_records");
        !lag.is_empty() && lag.values().all(|lag| *lag == 0.0)
    });
    assert_eq!(serving.stop(), Some(0));
}

/// Kafka's numbers for what an ACL is about.
const TOPIC: u8 = 2;
const GROUP: u8 = 3;
const TRANSACTIONAL_ID: u8 = 5;

/// Adds or removes the ACL that denies everybody everything with this resource. With it gone everything is allowed again.
fn deny(cluster: &Cluster, denied: bool, resource: u8, name: &str) {
    const LITERAL: u8 = 3;
    const ALL: u8 = 2;
    const DENY: u8 = 2;
    let one = 1_i32.to_be_bytes();
    let acl = [&[resource], &string(name)[..], &[LITERAL], &string("User:*"), &string("*"), &[ALL, DENY]].concat();
    // CreateAcls, DeleteAcls
    let answer = request(cluster, if denied { 30 } else { 31 }, 1, &[&one[..], &acl].concat());
    assert_eq!(answer[12..14], [0, 0], "{answer:?}");
}

/// Fault 33. Whatever it may not do any more, the process says so, ends with its own code, and has lost nothing.
#[test]
fn rights_that_are_withdrawn_end_the_process() {
    let settings = [
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found=true",
    ];
    let Some((_broker, cluster)) = OwnBroker::start_with("fault-rights", &settings) else { return };
    let watched = Watched::unwatched(&cluster, 2);
    let arguments = [&["--batch-records", "50", "--instance", "a"][..], &SHORT_SESSION].concat();
    let id = format!("modelstream.{}.a.0", watched.group);
    let resources =
        [(TOPIC, &watched.flow.input), (TOPIC, &watched.flow.output), (GROUP, &watched.group), (TRANSACTIONAL_ID, &id)];
    let mut next = 0;
    for (resource, name) in resources {
        let mut serving = cluster.serve(&watched.arguments(&arguments));
        let before = serving.total("modelstream_predictions_total");
        watched.fill(0..2, next..next + 300);
        wait_until("it works", || serving.total("modelstream_predictions_total") > before);
        deny(&cluster, true, resource, name);
        // The test itself may not write to the input then; without records there is nothing to be refused either.
        if name != &watched.flow.input {
            watched.fill(0..2, next + 300..next + 600);
            next += 300;
        }
        next += 300;
        let said = serving.wait_for_log("the cluster refuses it");
        assert!(said.contains("ACLs"), "{said}");
        assert_eq!(serving.wait(), Some(5), "{name}");
        deny(&cluster, false, resource, name);
    }
    let mut serving = cluster.serve(&watched.arguments(&arguments));
    watched.assert_exactly_once();
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 34. Who asks for TLS gets TLS or nothing: no byte goes out in the clear, however often it is tried.
#[test]
fn without_an_answer_in_tls_nothing_is_said_in_the_clear() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it listens").to_string();
    let (sender, first_bytes) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut start = [0; 3];
            if stream.read_exact(&mut start).is_ok() && sender.send(start).is_err() {
                return;
            }
        }
    });
    let said = failed_with(4, &["models", "list", "--brokers", &address, "-X", "security.protocol=ssl"]);
    assert!(said.contains(&address), "{said}");
    let attempts: Vec<[u8; 3]> = first_bytes.try_iter().collect();
    // A record of a TLS handshake.
    assert!(attempts.len() > 1 && attempts.iter().all(|start| start[..2] == [22, 3]), "{attempts:?}");
}

/// Fault 34. A password that is wrong is named as what it is, and one that is right is not told to anybody.
#[test]
fn a_wrong_password_is_refused() {
    let settings = [
        "sasl.enabled.mechanisms=PLAIN",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SASL_PLAINTEXT",
        "listener.name.proxied.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_me=\"right\";",
    ];
    let Some(broker) = OwnBroker::start_proxied_with("fault-password", &settings) else { return };
    let with = |password: &'static str| {
        let sasl = ["-X", "security.protocol=sasl_plaintext", "-X", "sasl.mechanism=PLAIN", "-X", "sasl.username=me"];
        let line = [&["models", "list"][..], &sasl, &["-X", password]].concat();
        broker.cluster.arguments(&line).into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    let (right, wrong) = (with("sasl.password=right"), with("sasl.password=wrong-one"));
    succeeded(&right.iter().map(String::as_str).collect::<Vec<&str>>());
    let said = failed_with(5, &wrong.iter().map(String::as_str).collect::<Vec<&str>>());
    assert!(said.contains("credentials") && !said.contains("wrong-one"), "{said}");
}

/// Fault 35. A broker from before transactions: exactly-once is refused, with what to do instead.
#[test]
fn a_broker_without_transactions_is_told_from_one_that_is_away() {
    let broker = MockCluster::new(1).expect("a port");
    let brokers = broker.bootstrap_servers();
    for (topic, partitions) in [("in", 1), ("out", 1), ("in.dead-letters", 1), ("models", 1), ("artifacts", 1)] {
        broker.create_topic(topic, partitions, 1).expect("a new topic");
    }
    let log = ["--brokers", &brokers, "--models-topic", "models", "--artifacts-topic", "artifacts"];
    let iris = data("iris.csv");
    let train = ["train", iris.to_str().expect("text"), "--target", "species", "--n-estimators", "10"];
    succeeded(&[&train[..], &["--publish", "--model", "iris"], &log].concat());
    for key in [RDKafkaApiKey::InitProducerId, RDKafkaApiKey::AddPartitionsToTxn, RDKafkaApiKey::TxnOffsetCommit] {
        broker.apiversion(key, None, None).expect("the broker runs");
    }
    let serve = ["serve", "--model", "iris", "--input", "in", "--output", "out", "--listen", "127.0.0.1:0"];
    let mut serving = Serving::start(&[&serve[..], &log].concat(), "");
    serving.wait_for_log("have no transactions");
    serving.wait_for_log("--delivery at-least-once");
    assert_eq!(serving.wait(), Some(1));
}
