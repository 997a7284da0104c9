//! What the network does between a serving process and its broker: answers that never come, requests that come late, a line that
//! is slow, stands still or breaks. A proxy does it; a checker reads past the proxy.

use std::time::{Duration, Instant};

use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};

use crate::checker::{Checker, Offsets, Subject};
use crate::driver::belongs;
use crate::faults::Watched;
use crate::flow::{Flow, GOOD};
use crate::harness::{Cluster, DEADLINE, OwnBroker, ProxiedBroker, Serving, wait_until};
use crate::proxy::{Afterwards, ApiKey, Fault, Proxy, What, When};

const PARTITIONS: i32 = 4;
/// Records of each partition; the second half is sent when the faults are there.
const RECORDS: u64 = 5_000;
/// How long everything may take to come to rest afterwards.
const REST_TIMEOUT: Duration = Duration::from_secs(120);

/// Writes the records from one number to another to each partition.
fn fill(cluster: &Cluster, input: &str, from: u64, to: u64) {
    let producer = Producer::idempotent(&cluster.connection).expect("valid settings");
    for offset in from..to {
        for partition in 0..PARTITIONS {
            let id = format!("{partition}-{offset}");
            let make = || Outgoing {
                topic: input,
                partition: Some(partition),
                key: Some(id.as_bytes()),
                value: Some(if offset % 50 == 7 { b"not JSON" } else { GOOD }),
                timestamp_ms: None,
                headers: Headers::with_capacity(1).with("id", id.as_bytes()),
            };
            producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
        }
    }
    assert!(producer.flush(DEADLINE) && producer.take_failure().is_none());
}

/// Serves through the proxy, disturbs, and checks that each record has exactly one output and that `faults` were met.
fn exactly_once(test: &str, more: &[&str], faults: u64, disturb: impl FnOnce(&Proxy, &Serving)) {
    let Some(ProxiedBroker { proxy, cluster, direct, broker: _broker }) = OwnBroker::start_proxied(test) else {
        return;
    };
    let flow = Flow::new(&direct, PARTITIONS);
    direct.publish_iris("iris", "7");
    let group = direct.name("group");
    let subject = Subject::of(&direct, &flow, &group);
    let checker = Checker::start(subject, belongs);
    let arguments = ["--group", &group, "--lanes", "2", "--batch-records", "100", "--commit-interval", "20ms"];
    let mut serving = cluster.serve(&flow.arguments(&[&arguments[..], more].concat()));
    serving.wait_until_ready();
    fill(&direct, &flow.input, 0, RECORDS / 2);
    disturb(&proxy, &serving);
    fill(&direct, &flow.input, RECORDS / 2, RECORDS);
    let report = checker.finish(&Offsets::dense(&[RECORDS; PARTITIONS as usize]), REST_TIMEOUT);
    assert!(report.is_exactly_once(), "{report:#?}");
    assert_eq!(report.expected, RECORDS * PARTITIONS as u64);
    assert_eq!(proxy.applied(), faults, "what was planned has happened");
    proxy.heal();
    assert_eq!(serving.stop(), Some(0), "{:#?}", serving.drain_log());
}

/// Does something to the next requests of a kind, or to their answers.
fn spoil(api: ApiKey, what: What, times: u32) -> impl FnOnce(&Proxy, &Serving) {
    move |proxy, _| proxy.fault(Fault { api, what, when: When::Next(times) })
}

/// Whether the transaction was committed is open: the broker's committed offsets say where to go on.
#[test]
fn an_answer_to_the_commit_is_lost() {
    let lost = What::DropResponse(Afterwards::Close);
    exactly_once("net-end-lost", &[], 3, spoil(ApiKey::EndTxn, lost, 3));
}

/// The commit itself comes late, when the lane may have given it up already (KIP-890's window).
#[test]
fn a_commit_comes_late() {
    let late = What::DelayRequest(Duration::from_secs(12));
    exactly_once("net-end-late", &[], 1, spoil(ApiKey::EndTxn, late, 1));
}

#[test]
fn the_connection_breaks_in_the_middle_of_a_commit() {
    exactly_once("net-end-cut", &[], 3, spoil(ApiKey::EndTxn, What::CutConnectionBeforeResponse, 3));
}

#[test]
fn an_answer_to_the_offsets_is_lost() {
    let lost = What::DropResponse(Afterwards::Close);
    exactly_once("net-offsets-lost", &[], 3, spoil(ApiKey::TxnOffsetCommit, lost, 3));
}

/// Nothing tells the producer that the answer is lost but its own timeout.
#[test]
fn an_answer_to_the_outputs_never_comes() {
    let lost = What::DropResponse(Afterwards::Silence);
    exactly_once("net-produce-lost", &[], 2, spoil(ApiKey::Produce, lost, 2));
}

#[test]
fn answers_to_fetches_are_lost() {
    let lost = What::DropResponse(Afterwards::Close);
    exactly_once("net-fetch-lost", &[], 5, spoil(ApiKey::Fetch, lost, 5));
}

/// The line stands still for longer than the session and the transaction: half-open, nobody is told.
#[test]
fn the_line_stands_still() {
    exactly_once("net-still", &["-X", "session.timeout.ms=6000"], 0, |proxy, serving| {
        proxy.pause();
        std::thread::sleep(Duration::from_secs(15));
        assert_eq!(serving.get("/live").0, 200, "a broker that is away is no reason to be restarted");
        proxy.heal();
    });
}

#[test]
fn every_connection_breaks_again_and_again() {
    exactly_once("net-cut", &[], 0, |proxy, serving| {
        for _ in 0..5 {
            proxy.cut();
            std::thread::sleep(Duration::from_millis(300));
            proxy.heal();
            std::thread::sleep(Duration::from_millis(700));
        }
        wait_until("it is ready again", || serving.is_ready());
    });
}

/// 200 ms to the broker and back, and 1 MB/s for everything.
#[test]
fn the_broker_is_far_away() {
    exactly_once("net-far", &[], 0, |proxy, _| {
        proxy.latency(Duration::from_millis(200));
        proxy.bandwidth(1_000_000);
    });
}

/// The broker has written records whose answers were lost, their transaction is aborted before they are sent again, and as many
/// others follow in the next one. To librdkafka the first were never sent, and it gives their sequence numbers to the others
/// (`rd_kafka_toppar_purge_queues`), which the broker then takes for repetitions: it says that it has written them.
#[test]
fn records_behind_an_abort_are_not_taken_for_those_that_were_aborted() {
    let Some(ProxiedBroker { proxy, cluster, direct, broker: _broker }) = OwnBroker::start_proxied("net-abort") else {
        return;
    };
    let topic = direct.topic("out", 1);
    let id = direct.name("id");
    let transactional = || Producer::transactional(&cluster.connection, &id, DEADLINE).expect("a producer");
    let send = |producer: &Producer, value: &'static [u8]| {
        producer.begin_transaction().expect("a transaction");
        for _ in 0..RECORDS_OF_A_BATCH {
            let make = || Outgoing {
                topic: &topic,
                partition: Some(0),
                key: None,
                value: Some(value),
                timestamp_ms: None,
                headers: Headers::default(),
            };
            producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
        }
    };
    let producer = transactional();
    let lost = What::DropResponse(Afterwards::Silence);
    proxy.fault(Fault { api: ApiKey::Produce, what: lost, when: When::Next(1) });
    send(&producer, b"aborted");
    wait_until("they are written, and nobody says so", || proxy.applied() == 1);
    proxy.cut();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(3));
            proxy.heal();
        });
        std::thread::sleep(Duration::from_secs(1));
        producer.abort_transaction().expect("aborted");
    });
    assert!(producer.begin_transaction().is_err(), "it would lose records");
    let producer = transactional();
    send(&producer, b"committed");
    producer.commit_transaction().expect("committed");
    let read = direct.read(&topic, 0);
    assert_eq!(read.len(), RECORDS_OF_A_BATCH, "what the producer says is delivered and committed is there");
    assert!(read.iter().all(|record| record.value.as_deref() == Some(b"committed")));
}

/// The same of a whole process: transactions are aborted while the answers to their outputs are lost, and the same outputs come
/// again, cut into the same batches.
#[test]
fn outputs_behind_an_abort_are_not_taken_for_those_that_were_aborted() {
    let Some(ProxiedBroker { proxy, cluster, direct, broker: _broker }) = OwnBroker::start_proxied("net-aborts") else {
        return;
    };
    let watched = Watched::new(&direct, 1);
    watched.fill(0..1, 0..4_000);
    let what = What::DropResponse(Afterwards::Close);
    proxy.fault(Fault { api: ApiKey::Produce, what, when: When::Chance { probability: 0.3, seed: 7 } });
    let arguments = watched.arguments(&["--batch-records", "50", "--commit-records", "50"]);
    let mut serving = cluster.serve_disturbed("before-commit=abort/3", &arguments);
    watched.assert_exactly_once();
    assert!(proxy.applied() > 10, "{}", proxy.applied());
    proxy.heal();
    assert_eq!(serving.stop(), Some(0), "{:#?}", serving.drain_log());
}

/// Few enough to be sent at once.
const RECORDS_OF_A_BATCH: usize = 3;
