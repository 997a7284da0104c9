//! The checker on real Kafka: what is planted is found, and a killed process leaves nothing to find.

use std::time::{Duration, Instant};

use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::checker::{Checker, Offsets, Report, Source, Subject};
use crate::flow::Flow;
use crate::harness::{Cluster, DEADLINE, OwnBroker, ProxiedBroker, real_kafka, wait_until};
use crate::proxy::{Afterwards, ApiKey, Fault, What, When};

const GOOD: &[u8] = br#"{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#;
/// What stays open longer is not looked at here.
const SHORT: Duration = Duration::from_secs(2);
/// In this time what a lane has sent is on the broker, also where its producer has yet to ask for the topic.
const ARRIVES: Duration = Duration::from_secs(1);

/// A record's id says where in the input it is.
fn belongs((partition, offset): Source, message: &BorrowedMessage<'_>) -> bool {
    let id = message.headers().and_then(|headers| headers.iter().find(|header| header.key == "id")?.value);
    id == Some(format!("{partition}-{offset}").as_bytes()) && message.key() == id
}

fn subject(cluster: &Cluster, partitions: i32) -> Subject {
    Subject::of(cluster, &Flow::new(cluster, partitions), &cluster.name("group"))
}

fn send(producer: &Producer, topic: &str, partition: i32, id: &str, value: &[u8], headers: impl Fn() -> Headers) {
    let make = || Outgoing {
        topic,
        partition: Some(partition),
        key: Some(id.as_bytes()),
        value: Some(value),
        timestamp_ms: None,
        headers: headers().with("id", id.as_bytes()),
    };
    producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
}

/// Writes `count` records to each partition of the input, every 50th of them of no use.
fn fill(cluster: &Cluster, input: &str, counts: &[u64]) {
    let producer = Producer::idempotent(&cluster.connection).expect("valid settings");
    for (partition, count) in counts.iter().enumerate() {
        for offset in 0..*count {
            let value = if offset % 50 == 7 { &b"not JSON"[..] } else { GOOD };
            send(&producer, input, partition as i32, &format!("{partition}-{offset}"), value, Headers::default);
        }
    }
    assert!(producer.flush(DEADLINE));
    assert!(producer.take_failure().is_none());
}

#[test]
fn what_is_planted_is_found() {
    let Some(cluster) = real_kafka("checker-planted") else { return };
    let subject = subject(&cluster, 1);
    fill(&cluster, &subject.input, &[6]);
    let checker = Checker::start(subject.clone(), belongs);
    let producer =
        |id: &str| Producer::transactional(&cluster.connection, &cluster.name(id), DEADLINE).expect("a producer");
    let result = |producer: &Producer, topic: &str, offset: i64, id: &str| {
        let headers = || {
            let headers = Headers::default().with("modelstream-source-partition", b"0");
            headers.with("modelstream-source-offset", offset.to_string().as_bytes())
        };
        send(producer, topic, 0, id, b"", headers);
    };
    let (committing, open) = (producer("committing"), producer("open"));
    committing.begin_transaction().expect("a transaction");
    for (offset, id) in [(0, "0-0"), (1, "0-1"), (3, "0-3"), (2, "0-2"), (4, "0-5"), (99, "0-99")] {
        result(&committing, &subject.output, offset, id);
    }
    result(&committing, &subject.dead_letters, 1, "0-1");
    committing.commit_transaction().expect("committed");
    committing.begin_transaction().expect("a transaction");
    result(&committing, &subject.output, 5, "0-5");
    assert!(committing.flush(DEADLINE), "written before it is aborted");
    committing.abort_transaction().expect("aborted");
    open.begin_transaction().expect("a transaction");
    result(&open, &subject.dead_letters, 5, "0-5");
    assert!(open.flush(DEADLINE));
    let group = open_offsets(&cluster, &subject, 0..1);

    wait_until("the committed results are read", || checker.read() == 7);
    assert_eq!(checker.so_far().duplicate, 1);
    let report = checker.finish(&Offsets::dense(&[6]), SHORT);
    // The group's offsets share their partition with those of other groups, which are hidden too.
    assert!(report.unseen >= 2, "{report:#?}");
    let expected = Report {
        expected: 6,
        read: 7,
        // Of the aborted transaction, and of the open one.
        aborted: 2,
        lost: 1,
        duplicate: 1,
        phantom: 1,
        reordered: 1,
        torn: 1,
        unseen: report.unseen,
        uncommitted: 6,
        ..Report::default()
    };
    assert_eq!(Report { examples: Vec::new(), ..report.clone() }, expected, "{report:#?}");
    open.abort_transaction().expect("aborted");
    group.abort_transaction(DEADLINE).expect("aborted");
}

/// A transaction that stays open with the group's offsets of these partitions and nothing else.
pub fn open_offsets(cluster: &Cluster, subject: &Subject, partitions: impl IntoIterator<Item = i32>) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &cluster.brokers).set("group.id", &subject.group);
    let member: BaseConsumer = config.create().expect("valid settings");
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &cluster.brokers).set("transactional.id", cluster.name("offsets"));
    let producer: BaseProducer = config.create().expect("valid settings");
    let mut offsets = TopicPartitionList::new();
    for partition in partitions {
        offsets.add_partition_offset(&subject.input, partition, Offset::Offset(6)).expect("a valid offset");
    }
    let group = member.group_metadata().expect("a group");
    producer.init_transactions(DEADLINE).expect("a producer");
    producer.begin_transaction().expect("a transaction");
    producer.send_offsets_to_transaction(&offsets, &group, DEADLINE).expect("sent");
    producer
}

/// Exactly once, with a reader that looks on: SIGKILL meets an open transaction three times. A lane hangs until then, because it
/// would be through before a signal comes.
#[test]
fn a_killed_process_leaves_nothing_to_find() {
    let Some(cluster) = real_kafka("checker-kill") else { return };
    const COUNTS: [u64; 4] = [10_000; 4];
    let subject = subject(&cluster, 4);
    cluster.publish_iris("iris", "7");
    fill(&cluster, &subject.input, &COUNTS);
    let checker = Checker::start(subject.clone(), belongs);
    let flow = ["--model", "iris", "--input", &subject.input, "--output", &subject.output, "--group", &subject.group];
    let lanes = ["--lanes", "2", "--batch-records", "50", "--delivery", "exactly-once", "--instance", "a"];
    let arguments = [&flow[..], &lanes[..], &["-X", "session.timeout.ms=6000"]].concat();
    for _ in 0..3 {
        let arguments = [&arguments[..], &["--commit-interval", "30s"]].concat();
        let serving = cluster.serve_disturbed("after-produce=hang@40", &arguments);
        wait_until("it works", || serving.total("modelstream_predictions_total") > 500.0);
        std::thread::sleep(ARRIVES);
        serving.signal("KILL");
    }
    let mut last = cluster.serve(&arguments);
    let report = checker.finish(&Offsets::dense(&COUNTS), DEADLINE);
    assert!(report.is_exactly_once(), "{report:#?}");
    assert!(report.aborted > 0, "a transaction was open");
    assert_eq!(last.stop(), Some(0));
}

/// Exactly once: answers get lost to the lanes, of every kind that a transaction is made of; the broker has done what they asked.
#[test]
fn lost_answers_leave_nothing_to_find() {
    let Some(ProxiedBroker { proxy, cluster, direct, broker: _broker }) = OwnBroker::start_proxied("checker-answers")
    else {
        return;
    };
    // So many that the lanes are still at work when the last answer is lost.
    const COUNTS: [u64; 4] = [40_000; 4];
    const TIMES: u32 = 3;
    let subject = subject(&direct, 4);
    direct.publish_iris("iris", "7");
    fill(&direct, &subject.input, &COUNTS);
    let checker = Checker::start(subject.clone(), belongs);
    let kinds = [ApiKey::Produce, ApiKey::TxnOffsetCommit, ApiKey::EndTxn];
    for api in kinds {
        proxy.fault(Fault { api, what: What::DropResponse(Afterwards::Close), when: When::Next(TIMES) });
    }
    let flow = ["--model", "iris", "--input", &subject.input, "--output", &subject.output, "--group", &subject.group];
    let lanes = ["--lanes", "2", "--batch-records", "50", "--delivery", "exactly-once", "--instance", "a"];
    let mut serving = cluster.serve(&[&flow[..], &lanes[..], &["--commit-interval", "20ms"]].concat());
    let report = checker.finish(&Offsets::dense(&COUNTS), DEADLINE);
    assert!(report.is_exactly_once(), "{report:#?}");
    assert_eq!(proxy.applied(), u64::from(TIMES) * kinds.len() as u64);
    assert_eq!(serving.stop(), Some(0));
}
