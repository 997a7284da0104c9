//! Each record becomes one prediction or one dead letter, whatever comes and goes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use modelstream::kafka::reader::{LogReader, Read, Start};

use crate::flow::{Flow, GOOD, assert_order_is_kept, outputs_by_source};
use crate::harness::{DEADLINE, OwnBroker, data, modelstream, real_kafka, wait_until};

#[test]
fn a_record_keeps_its_key_time_and_headers_and_says_where_it_comes_from() {
    let Some(cluster) = real_kafka("serving-headers") else { return };
    let flow = Flow::new(&cluster, 1);
    let published = cluster.publish_iris("iris", "7");
    let producer = Producer::idempotent(&cluster.connection).expect("valid settings");
    let make = || Outgoing {
        topic: &flow.input,
        partition: None,
        key: Some(b"key \xff"),
        value: Some(GOOD),
        timestamp_ms: Some(1_700_000_000_123),
        headers: Headers::with_capacity(2).with("traceparent", b"00-ab-cd-01").with("modelstream-version", b"forged"),
    };
    producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
    assert!(producer.flush(DEADLINE));
    let mut serving = cluster.serve(&flow.arguments(&[]));
    let outputs = cluster.read(&flow.output, 1);
    assert_eq!(serving.stop(), Some(0));

    let output = &outputs[0];
    assert_eq!(output.key.as_deref(), Some(&b"key \xff"[..]));
    assert_eq!(output.timestamp_ms, Some(1_700_000_000_123));
    assert_eq!(output.header("traceparent"), Some("00-ab-cd-01"));
    assert_eq!(output.header("modelstream-model"), Some("iris"));
    assert_eq!(output.header("modelstream-version"), Some("1"));
    assert_eq!(output.header("modelstream-source-topic"), Some(flow.input.as_str()));
    assert_eq!(output.source(), (0, 0));
    let digest = published["digest"].as_str().expect("a digest");
    assert_eq!(output.header("modelstream-digest"), Some(digest));
    assert_eq!(output.json()["prediction"], "setosa");
    assert_eq!(output.json()["digest"], digest);
}

#[test]
fn what_cannot_be_scored_is_a_dead_letter_with_its_bytes_and_its_reason() {
    let Some(cluster) = real_kafka("serving-dead-letters") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let deep = [vec![b'['; 5_000], vec![b']'; 5_000]].concat();
    let bad: Vec<(Option<&[u8]>, &str)> = vec![
        (None, "null_value"),
        (Some(b""), "undecodable"),
        (Some(b"\xff\xfe\x00"), "undecodable"),
        (Some(b"{\"sepal_length\":5.1"), "undecodable"),
        (Some(b"{\"sepal_length\":5.1}"), "missing_feature"),
        (Some(br#"{"sepal_length":"5.1","sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#), "wrong_type"),
        (Some(br#"{"sepal_length":1e300,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#), "non_finite"),
        (Some(b"[5.1,3.5]"), "wrong_shape"),
        (Some(&deep), "wrong_type"),
    ];
    let records = bad.iter().flat_map(|(value, _)| [(Some(&b"k"[..]), *value), (Some(&b"k"[..]), Some(GOOD))]);
    cluster.send(&flow.input, records);
    let mut serving = cluster.serve(&flow.arguments(&[]));
    let predictions = cluster.read(&flow.output, bad.len());
    let dead = cluster.read(&flow.dead_letters, bad.len());
    wait_until("the metrics count the dead letters", || {
        serving.total("modelstream_dead_letters_total") == bad.len() as f64
    });
    assert_eq!(serving.stop(), Some(0));

    assert_eq!((predictions.len(), dead.len()), (bad.len(), bad.len()));
    for (index, (letter, (value, reason))) in dead.iter().zip(&bad).enumerate() {
        assert_eq!(letter.header("modelstream-reason"), Some(*reason), "record {index}");
        assert!(letter.value.as_deref() == *value, "the bytes of record {index} are kept");
        assert_eq!(letter.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(letter.source(), (0, 2 * index as i64));
        assert!(letter.header("modelstream-message").is_some_and(|message| !message.is_empty()));
    }
}

/// Kafka's protocol wants text there, and no broker looks.
#[test]
fn a_header_whose_name_is_no_text_passes_through() {
    const NAME: &[u8] = b"\xff\xfe";
    let Some(cluster) = real_kafka("serving-header") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let producer = Producer::idempotent(&cluster.connection).expect("valid settings");
    let make = || Outgoing {
        topic: &flow.input,
        partition: None,
        key: None,
        value: Some(GOOD),
        timestamp_ms: None,
        headers: Headers::default().with(NAME, b"v").with("text", b"w"),
    };
    producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
    assert!(producer.flush(DEADLINE));
    let mut serving = cluster.serve(&flow.arguments(&[]));
    let reader = LogReader::open(&cluster.connection, &flow.output, &[(0, Start::Beginning)]).expect("valid settings");
    let deadline = Instant::now() + DEADLINE;
    let headers: Vec<(Vec<u8>, Option<Vec<u8>>)> = loop {
        assert!(Instant::now() < deadline, "no prediction came in time");
        if let Read::Record(record) = reader.next(Duration::from_millis(100)).expect("readable") {
            let owned = |(name, value): (&[u8], Option<&[u8]>)| (name.to_vec(), value.map(<[u8]>::to_vec));
            break record.raw_headers().map(owned).collect();
        }
    };
    let users = [(NAME.to_vec(), Some(b"v".to_vec())), (b"text".to_vec(), Some(b"w".to_vec()))];
    assert!(headers.ends_with(&users), "{headers:?}");
    assert_eq!(serving.stop(), Some(0));
}

#[test]
fn a_record_too_large_to_copy_becomes_a_stub_with_its_coordinates() {
    let Some(cluster) = real_kafka("serving-oversize") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    // Compressed by the producer, it passes the broker's limit; as a dead letter it is too large for librdkafka's.
    let large = vec![b'x'; 10_000_000];
    let generous = modelstream::kafka::Connection::new(&cluster.brokers, &["message.max.bytes=20000000".to_owned()]);
    let producer = Producer::idempotent(&generous.expect("valid")).expect("valid settings");
    for value in [GOOD, &large, GOOD] {
        let make = || Outgoing {
            topic: &flow.input,
            partition: None,
            key: Some(b"k"),
            value: Some(value),
            timestamp_ms: None,
            headers: Headers::default(),
        };
        producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
    }
    assert!(producer.flush(DEADLINE));
    assert!(producer.take_failure().is_none(), "10 MB of one letter compress to little");
    let mut serving = cluster.serve(&flow.arguments(&[]));
    let dead = cluster.read(&flow.dead_letters, 1);
    assert_eq!(cluster.read(&flow.output, 2).len(), 2);
    assert_eq!(serving.stop(), Some(0));
    assert_eq!(dead[0].value, None);
    assert_eq!(dead[0].header("modelstream-truncated"), Some("true"));
    assert_eq!(dead[0].source(), (0, 1));
}

#[test]
fn without_a_model_it_waits_and_says_so_then_serves() {
    let Some(cluster) = real_kafka("serving-waits") else { return };
    let flow = Flow::new(&cluster, 2);
    cluster.send(&flow.input, [(None, Some(GOOD))]);
    let mut serving = cluster.serve(&flow.arguments(&[]));
    serving.wait_for_log("waiting for a model");
    let (code, why) = serving.get("/ready");
    assert_eq!((code, why.contains("no version of iris")), (503, true), "{why}");
    assert_eq!(serving.get("/live").0, 200);
    cluster.publish_iris("iris", "7");
    assert_eq!(cluster.read(&flow.output, 1).len(), 1);
    serving.wait_until_ready();
    assert_eq!(serving.stop(), Some(0));
}

#[test]
fn avro_in_and_avro_out() {
    let Some(cluster) = real_kafka("serving-avro") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let schema = data("iris.avsc");
    let (schema, iris) = (schema.to_str().expect("text"), data("iris.csv"));
    let line = ["produce", iris.to_str().expect("text"), "--topic", &flow.input, "--drop", "species"];
    let line = [&line[..], &["--format", "avro", "--schema", schema]].concat();
    crate::harness::succeeded(&cluster.arguments(&line));
    let formats = ["--input-format", "avro", "--input-schema", schema, "--output-format", "avro"];
    let mut serving = cluster.serve(&flow.arguments(&formats));
    let outputs = cluster.read(&flow.output, 150);
    assert_eq!(serving.stop(), Some(0));

    let schema = apache_avro::Schema::parse_str(modelstream::pipeline::encode::PREDICTION_SCHEMA).expect("our schema");
    let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().expect("our schema");
    let value = reader.read_value(&mut outputs[0].value.as_deref().expect("a value")).expect("a prediction");
    let apache_avro::types::Value::Record(fields) = value else { panic!("a record") };
    let apache_avro::types::Value::Union(0, prediction) = &fields[0].1 else { panic!("a class: {fields:?}") };
    assert_eq!(**prediction, apache_avro::types::Value::String("setosa".to_owned()));
}

/// 40,000 records through 8 partitions; two processes with two lanes each, one is told to stop and one is added half-way, and
/// a better version comes in between. Without a crash every record has exactly one output.
#[test]
fn processes_come_and_go_and_a_version_arrives_while_records_flow() {
    come_and_go("serving-flow", "at-least-once");
}

#[test]
fn processes_come_and_go_exactly_once() {
    come_and_go("serving-flow-once", "exactly-once");
}

fn come_and_go(test: &str, delivery: &str) {
    let Some(cluster) = real_kafka(test) else { return };
    const RECORDS: usize = 40_000;
    let flow = Flow::new(&cluster, 8);
    cluster.publish_iris("iris", "7");
    let lanes = flow.arguments(&["--lanes", "2", "--batch-records", "200", "--delivery", delivery]);
    let (mut first, second) = (cluster.serve(&lanes), cluster.serve(&lanes));
    first.wait_until_ready();
    second.wait_until_ready();
    let keys: Vec<String> = (0..RECORDS).map(|index| index.to_string()).collect();
    let records = |range: std::ops::Range<usize>| {
        keys[range].iter().enumerate().map(|(index, key)| {
            let value: &[u8] = if index % 100 == 99 { b"not JSON" } else { GOOD };
            (Some(key.as_bytes()), Some(value))
        })
    };
    cluster.send(&flow.input, records(0..RECORDS / 2));
    assert_eq!(first.stop(), Some(0), "a drain ends well");
    let third = cluster.serve(&lanes);
    cluster.publish_iris("iris", "8");
    wait_until("the new version is served", || second.metric("modelstream_model_version").values().eq([&2.0]));
    cluster.send(&flow.input, records(RECORDS / 2..RECORDS));
    let dead = cluster.read(&flow.dead_letters, RECORDS / 100);
    let predictions = cluster.read(&flow.output, RECORDS - RECORDS / 100);

    let outputs = [predictions.clone(), dead].concat();
    let counts = outputs_by_source(&outputs);
    assert_eq!(counts.len(), RECORDS, "no record is lost");
    assert_eq!(outputs.len(), RECORDS, "no record is doubled without a crash");
    assert_order_is_kept(&predictions);
    let versions: BTreeSet<&str> =
        predictions.iter().filter_map(|output| output.header("modelstream-version")).collect();
    assert_eq!(versions, BTreeSet::from(["1", "2"]));
    for output in &predictions {
        assert_eq!(output.header("modelstream-version"), Some(output.json()["version"].to_string().as_str()));
    }
    for mut serving in [second, third] {
        assert_eq!(serving.stop(), Some(0));
    }
}

/// Else the group waits for each of its lanes until their sessions end, and so does whoever joins next.
#[test]
fn a_process_that_has_no_partition_leaves_its_group_when_it_ends() {
    let Some(cluster) = real_kafka("serving-spare") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let group = cluster.name("group");
    let lanes = flow.arguments(&["--group", &group, "--lanes", "2"]);
    let mut serving = cluster.serve(&lanes);
    serving.wait_until_ready();
    let mut spare = cluster.serve(&lanes);
    wait_until("both of its lanes have joined", || cluster.members(&group) == 4);
    assert_eq!(spare.stop(), Some(0));
    assert_eq!(cluster.members(&group), 2, "nobody waits for the two that ended");
    assert_eq!(serving.stop(), Some(0));
    assert_eq!(cluster.members(&group), 0);
}

/// At least once: SIGKILL may double records, and loses none.
#[test]
fn a_killed_process_loses_nothing() {
    let Some(cluster) = real_kafka("serving-kill") else { return };
    const RECORDS: usize = 30_000;
    let flow = Flow::new(&cluster, 4);
    cluster.publish_iris("iris", "7");
    let keys: Vec<String> = (0..RECORDS).map(|index| index.to_string()).collect();
    cluster.send(&flow.input, keys.iter().map(|key| (Some(key.as_bytes()), Some(GOOD))));
    let more = ["--lanes", "2", "--batch-records", "100", "-X", "session.timeout.ms=6000"];
    let arguments = flow.arguments(&[&more[..], &["--delivery", "at-least-once"]].concat());
    for _ in 0..3 {
        let serving = cluster.serve(&arguments);
        let before = serving.total("modelstream_predictions_total");
        wait_until("it works", || serving.total("modelstream_predictions_total") > before);
        serving.signal("KILL");
    }
    let mut last = cluster.serve(&arguments);
    wait_until("every record has its prediction", || {
        outputs_by_source(&cluster.read(&flow.output, RECORDS)).len() == RECORDS
    });
    assert_eq!(last.stop(), Some(0));
}

/// Not ready, but alive, while the broker is away; everything is finished once it is back. Without transactions: a broker that is
/// alone and killed between the two steps of a commit may never make the second (`ops/RELIABILITY.md`). With them, brokers die in
/// `exactly_once::brokers_may_die_too`, and lines in `network`.
#[test]
fn a_broker_that_goes_away_and_comes_back_loses_nothing() {
    let Some((broker, cluster)) = OwnBroker::start("serving-outage") else { return };
    let flow = Flow::new(&cluster, 4);
    cluster.publish_iris("iris", "7");
    let keys: Vec<String> = (0..20_000).map(|index| index.to_string()).collect();
    cluster.send(&flow.input, keys.iter().map(|key| (Some(key.as_bytes()), Some(GOOD))));
    // A member whose join the broker's death cut off is waited for until its session ends.
    let more = ["--delivery", "at-least-once", "--batch-records", "50", "-X", "session.timeout.ms=6000"];
    let mut serving = cluster.serve(&flow.arguments(&[&["--lanes", "2"][..], &more].concat()));
    wait_until("it works", || serving.total("modelstream_predictions_total") > 0.0);
    broker.kill();
    wait_until("it is not ready", || serving.get("/ready").0 == 503);
    assert_eq!(serving.get("/live").0, 200);
    broker.start_again();
    wait_until("it is ready again", || serving.get("/ready").0 == 200);
    wait_until("every record has its prediction", || {
        outputs_by_source(&cluster.read(&flow.output, keys.len())).len() == keys.len()
    });
    assert_eq!(serving.stop(), Some(0));
}

#[test]
fn a_topic_that_is_not_there_is_named() {
    let Some(cluster) = real_kafka("serving-no-topic") else { return };
    let input = cluster.topic("in", 1);
    let output = cluster.name("typo");
    let line = ["serve", "--model", "iris", "--input", &input, "--output", &output];
    let ended = modelstream(&cluster.arguments(&line));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains(&output) && said.contains("topics init"), "{said}");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let Some(cluster) = real_kafka("serving-signals") else { return };
    let flow = Flow::new(&cluster, 1);
    let mut serving = cluster.serve(&flow.arguments(&[]));
    // A stopped process receives both when it goes on, one after the other.
    serving.signal("TERM");
    std::thread::sleep(Duration::from_millis(5));
    serving.signal("INT");
    let code = serving.wait();
    assert!(code == Some(130) || code == Some(0), "{code:?}");
}
