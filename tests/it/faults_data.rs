//! What the records themselves do: none of them costs another its result.

use std::collections::BTreeSet;

use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::checker::Offsets;
use crate::faults::{Watched, delete_topic};
use crate::flow::GOOD;
use crate::harness::{real_kafka, wait_until};

/// Every tenth record is one of these; `None` is a record without a value.
fn poison() -> Vec<(Option<Vec<u8>>, &'static str)> {
    let deep = [vec![b'['; 5_000], vec![b']'; 5_000]].concat();
    let some = |bytes: &[u8]| Some(bytes.to_vec());
    vec![
        (None, "null_value"),
        (some(b""), "undecodable"),
        (some(&GOOD[..GOOD.len() / 2]), "undecodable"),
        (some(b"\x00\x00\x00\x00\x07\xff\xfe\x80"), "undecodable"),
        (some(br#"{"sepal_length":NaN,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#), "undecodable"),
        (
            some(br#"{"sepal_length":5.1,"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#),
            "undecodable",
        ),
        (some(br#"{"sepal_length":1e300,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#), "non_finite"),
        (some(br#"{"sepal_length":5.1}"#), "missing_feature"),
        (some(br#"{"sepal_length":"5.1","sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#), "wrong_type"),
        (some(b"[5.1,3.5]"), "wrong_shape"),
        (Some(deep), "wrong_type"),
    ]
}

/// Which of them stands at an offset.
fn poison_at(offset: i64, kinds: usize) -> Option<usize> {
    (offset % 10 == 3).then_some(offset as usize / 10 % kinds)
}

fn header<'m>(message: &'m BorrowedMessage<'_>, name: &str) -> Option<&'m [u8]> {
    message.headers().and_then(|headers| headers.iter().find(|header| header.key == name)?.value)
}

/// Fault 41, and 62: each key is another, and no series is made of one.
#[test]
fn poison_of_every_kind_costs_no_other_record_its_result() {
    let Some(cluster) = real_kafka("fault-poison") else { return };
    const PARTITIONS: u64 = 4;
    const RECORDS: u64 = 5_500;
    let mut watched = Watched::unwatched(&cluster, PARTITIONS as i32);
    let kinds = poison();
    watched.watch(move |(partition, offset), message| {
        let right = match poison_at(offset, kinds.len()) {
            None => message.payload().is_some_and(|value| value.starts_with(br#"{"prediction":"setosa""#)),
            Some(kind) => {
                let (value, reason) = &kinds[kind];
                message.payload() == value.as_deref()
                    && header(message, "modelstream-reason") == Some(reason.as_bytes())
            }
        };
        right && message.key() == Some(format!("{partition}-{offset}").as_bytes())
    });
    let kinds = poison();
    let lanes = ["--lanes", "2", "--batch-records", "100", "--commit-records", "500"];
    let mut serving = cluster.serve_disturbed("before-commit=abort/7", &watched.arguments(&lanes));
    wait_until("each lane has its share", || {
        serving.metric("modelstream_assigned_partitions").values().eq([&2.0, &2.0])
    });
    let series = || -> BTreeSet<String> {
        let page = serving.get("/metrics").1;
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').expect("a series and a value").0.to_owned()).collect()
    };
    let value = |offset: u64| match poison_at(offset as i64, kinds.len()) {
        None => Some(GOOD),
        Some(kind) => kinds[kind].0.as_deref(),
    };
    watched.fill_with(0..PARTITIONS as i32, 0..RECORDS / 2, value);
    wait_until("it works", || serving.total("modelstream_predictions_total") > 0.0);
    // Also of a partition that was done before the transaction that was aborted last.
    // The seconds are known only once a record of the partition is finished, the records before that.
    wait_until("both lanes have told their lag", || {
        serving.metric("modelstream_lag_seconds").len() == PARTITIONS as usize
    });
    let before = series();
    watched.fill_with(0..PARTITIONS as i32, RECORDS / 2..RECORDS, value);
    let report = watched.assert_exactly_once();
    assert!(report.aborted > 0);
    let after = series();
    let others = after.symmetric_difference(&before).collect::<Vec<_>>();
    assert_eq!(others, [""; 0], "ten thousand keys are no labels");
    let reasons = serving.metric("modelstream_dead_letters_total");
    for (_, reason) in poison() {
        assert!(reasons[&format!("{{reason=\"{reason}\"}}")] > 0.0, "{reason}: {reasons:?}");
    }
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 43. Where dead letters cannot go, the records stay where they are.
#[test]
fn without_its_dead_letter_topic_the_process_ends_and_nothing_is_lost() {
    std::thread::scope(|scope| {
        for used_before in [false, true] {
            scope.spawn(move || without_dead_letters(used_before));
        }
    });
}

/// What the producer knows of a topic that it has used is another thing than what it knows of one that it has not.
fn without_dead_letters(used_before: bool) {
    let Some(cluster) = real_kafka(&format!("fault-no-letters-{used_before}")) else { return };
    let watched = Watched::unwatched(&cluster, 2);
    let mut serving = cluster.serve(&watched.arguments(&["--batch-records", "50", "--instance", "a"]));
    watched.fill_with(0..2, 0..100, |_| Some(GOOD));
    assert_eq!(cluster.read(&watched.flow.output, 200).len(), 200);
    if used_before {
        watched.fill_with(0..2, 100..101, |_| Some(b"bad"));
        assert_eq!(cluster.read(&watched.flow.dead_letters, 2).len(), 2);
        // They go with the topic.
        watched.forget(&Offsets::at([(0, 100), (1, 100)]));
    }
    delete_topic(&cluster, &watched.flow.dead_letters);
    watched.fill(0..2, if used_before { 101..500 } else { 100..500 });
    let said = serving.wait_for_log("the topic does not exist");
    assert!(said.contains(&watched.flow.dead_letters), "{said}");
    assert_eq!(serving.wait(), Some(1));
    cluster.topic("in.dead-letters", 2);
    let mut successor = cluster.serve(&watched.arguments(&["--instance", "a"]));
    watched.assert_exactly_once();
    assert_eq!(successor.stop(), Some(0));
}

/// Fault 46. The limit is the client's: the record's key is too long to be copied, and its stub says where it is.
#[test]
fn a_prediction_that_is_too_large_is_a_stub_among_predictions() {
    let Some(cluster) = real_kafka("fault-large") else { return };
    let watched = Watched::unwatched(&cluster, 1);
    let key = vec![b'k'; 3_000];
    let records = (0..400).map(|number| (Some(if number % 100 == 42 { &key[..] } else { b"k" }), Some(GOOD)));
    cluster.send(&watched.flow.input, records);
    let small = ["--batch-records", "50", "-X", "message.max.bytes=2000"];
    let mut serving = cluster.serve(&watched.arguments(&small));
    assert_eq!(cluster.read(&watched.flow.output, 396).len(), 396);
    let stubs = cluster.read(&watched.flow.dead_letters, 4);
    let sources: Vec<(i32, i64)> = stubs.iter().map(crate::harness::Received::source).collect();
    assert_eq!(sources, [(0, 42), (0, 142), (0, 242), (0, 342)]);
    for stub in &stubs {
        assert_eq!(stub.header("modelstream-reason"), Some("output_oversize"));
        assert_eq!((stub.header("modelstream-truncated"), &stub.key, &stub.value), (Some("true"), &None, &None));
    }
    assert_eq!(serving.stop(), Some(0));
}
