//! Dead letters as a tool: listed, shown and replayed, byte for byte, and none for ever.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};

use crate::faults::topic_property;
use crate::harness::{Cluster, DEADLINE, Received, failed_with, modelstream, real_kafka, succeeded, wait_until};

const GOOD: &[u8] = br#"{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#;
const NESTED: &[u8] = br#"{"flower":{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}}"#;

struct Flow<'c> {
    cluster: &'c Cluster,
    input: String,
    output: String,
    dead_letters: String,
}

/// A record to send.
struct Record<'r> {
    key: Option<&'r [u8]>,
    value: Option<&'r [u8]>,
    timestamp_ms: Option<i64>,
    headers: &'r [(&'r str, &'r [u8])],
}

impl Default for Record<'_> {
    fn default() -> Self {
        Record { key: Some(b"k"), value: Some(GOOD), timestamp_ms: None, headers: &[] }
    }
}

impl<'c> Flow<'c> {
    fn new(cluster: &'c Cluster, partitions: i32) -> Flow<'c> {
        cluster.publish_iris("iris", "7");
        let (input, output) = (cluster.topic("in", partitions), cluster.topic("out", partitions));
        Flow { cluster, input, output, dead_letters: cluster.topic("in.dead-letters", partitions) }
    }

    fn send(&self, topic: &str, records: &[Record<'_>]) {
        let producer = Producer::idempotent(&self.cluster.connection).expect("valid settings");
        for record in records {
            let headers = |headers: Headers, (name, value): &(&str, &[u8])| headers.with(name, value);
            let make = || Outgoing {
                topic,
                partition: None,
                key: record.key,
                value: record.value,
                timestamp_ms: record.timestamp_ms,
                headers: record.headers.iter().fold(Headers::default(), headers),
            };
            producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
        }
        assert!(producer.flush(DEADLINE), "the records are delivered in time");
        assert!(producer.take_failure().is_none());
    }

    /// Serves until so many dead letters and predictions are there; all dead letters, and how many records had been replayed.
    fn serve(&self, dead: usize, predictions: usize, more: &[&str]) -> (Vec<Received>, f64) {
        let arguments = [&["--model", "iris", "--input", &self.input, "--output", &self.output], more].concat();
        let mut serving = self.cluster.serve(&arguments);
        let letters = self.cluster.read(&self.dead_letters, dead);
        assert_eq!((letters.len(), self.cluster.read(&self.output, predictions).len()), (dead, predictions));
        let replayed = serving.total("modelstream_replayed_records_total");
        assert_eq!(serving.stop(), Some(0));
        (letters, replayed)
    }

    fn line<'a>(&'a self, verb: &[&'a str]) -> Vec<&'a str> {
        let line = [&["dead-letters"], verb, &["--input", &self.input]].concat();
        self.cluster.arguments(&line)
    }

    /// What `list --json` prints with these filters.
    fn list(&self, filters: &[&str]) -> Vec<Value> {
        let printed = succeeded(&self.line(&[&["list", "--json"], filters].concat()));
        printed.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
    }

    /// What `replay --json` prints.
    fn replay(&self, more: &[&str]) -> Value {
        serde_json::from_str(&succeeded(&self.line(&[&["replay", "--json"], more].concat()))).expect("JSON")
    }

    /// Writes a dead letter that no server wrote.
    fn forge(&self, headers: &[(&str, &[u8])]) {
        self.send(&self.dead_letters, &[Record { headers, ..Record::default() }]);
    }
}

fn position(letter: &Received) -> String {
    format!("{}:{}", letter.partition, letter.offset)
}

#[test]
fn dead_letters_are_listed_by_what_is_asked_and_shown_as_they_are() {
    let Some(cluster) = real_kafka("letters-list") else { return };
    let flow = Flow::new(&cluster, 2);
    let bad: [(&[u8], &[u8], &str); 4] = [
        (b"a", b"{\"x\":\xff", "undecodable"),
        (b"b \xfe", b"{}", "missing_feature"),
        (b"c", b"\x1b[2J\r\n", "undecodable"),
        (b"d", b"[1,2]", "wrong_shape"),
    ];
    let record = |(key, value, _): &(&'static [u8], &'static [u8], &str)| Record {
        key: Some(key),
        value: Some(value),
        timestamp_ms: Some(1_700_000_000_123),
        headers: &[("traceparent", b"00-ab"), ("binary", b"\x00\xff")],
    };
    flow.send(&flow.input, &bad.each_ref().map(record));
    let (letters, replayed) = flow.serve(bad.len(), 0, &[]);
    assert_eq!(replayed, 0.0);
    for (key, value, reason) in bad {
        let letter = letters.iter().find(|letter| letter.key.as_deref() == Some(key)).expect("its dead letter");
        assert_eq!((letter.value.as_deref(), letter.timestamp_ms), (Some(value), Some(1_700_000_000_123)));
        assert_eq!(
            (letter.header("modelstream-reason"), letter.header("modelstream-attempt")),
            (Some(reason), Some("1"))
        );
        assert_eq!(letter.header("modelstream-first-failed-at"), letter.header("modelstream-failed-at"));
        let users: Vec<(&str, &[u8])> =
            letter.headers.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        assert!(users.ends_with(&[("traceparent", b"00-ab"), ("binary", b"\x00\xff")]), "{users:?}");

        let [shown] = &flow.list(&[
            "--partition",
            &letter.partition.to_string(),
            "--from",
            &position(letter),
            "--to",
            &letter.offset.to_string(),
        ])[..] else {
            panic!("one letter at {}", position(letter))
        };
        let expected = json!({"partition": letter.partition, "offset": letter.offset, "reason": reason, "attempt": 1,
            "model": "iris", "version": 1, "source_topic": flow.input, "source_partition": letter.source().0,
            "source_offset": letter.source().1, "timestamp": 1_700_000_000_123_i64, "value_bytes": value.len(), "stub": false});
        for (field, value) in expected.as_object().expect("an object") {
            assert_eq!(&shown[field], value, "{field} of {shown}");
        }
        let at = position(letter);
        let written = modelstream(&flow.line(&["show", &at, "--value-only"]));
        assert_eq!((written.status.code(), &written.stdout[..]), (Some(0), value), "byte for byte");
        let document: Value = serde_json::from_str(&succeeded(&flow.line(&["show", &at, "--json"]))).expect("JSON");
        let named = |name: &str| {
            let headers = document["headers"].as_array().expect("headers");
            headers.iter().find(|header| header["name"] == name).map(|header| header["value"].clone())
        };
        assert_eq!(named("binary"), Some(json!({"hex": "00ff"})));
        assert_eq!(named("modelstream-reason"), Some(json!({"text": reason})));
        let text = succeeded(&flow.line(&["show", &at]));
        assert!(text.contains("binary = 00ff") && text.contains("timestamp: 1700000000123"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains('\r'), "a terminal obeys nothing: {text:?}");
    }

    assert_eq!(flow.list(&[]).len(), 4);
    assert_eq!(flow.list(&["--reason", "undecodable"]).len(), 2);
    assert_eq!(flow.list(&["--reason", "undecodable,wrong_shape"]).len(), 3);
    assert_eq!(flow.list(&["--reason", "oversize"]).len(), 0);
    assert_eq!((flow.list(&["--since", "10m"]).len(), flow.list(&["--until", "10m"]).len()), (4, 0));
    assert_eq!((flow.list(&["--since", "2999-01-01T00:00:00Z"]).len(), flow.list(&["--limit", "3"]).len()), (0, 3));
    let table = modelstream(&flow.line(&["list", "--limit", "3"]));
    let (rows, summary) = (String::from_utf8_lossy(&table.stdout), String::from_utf8_lossy(&table.stderr));
    assert_eq!(rows.lines().count(), 4, "a header and three: {rows}");
    assert!(
        summary.contains("missing_feature 1, undecodable 2, wrong_shape 1") && summary.contains("last 3"),
        "{summary}"
    );

    let said = failed_with(1, &flow.line(&["show", "0:4711"]));
    assert!(said.contains("no dead letter at 0:4711"), "{said}");
    let said = failed_with(1, &flow.line(&["list", "--partition", "2"]));
    assert!(said.contains("no partition 2"), "{said}");
    let said = failed_with(1, &cluster.arguments(&["dead-letters", "list", "--topic", "no-such-topic"]));
    assert!(said.contains("no-such-topic") && said.contains("does not exist"), "{said}");
}

#[test]
fn a_time_limit_does_not_take_the_dead_letters_of_old_records() {
    let Some(cluster) = real_kafka("letters-kept") else { return };
    let (input, output) = (cluster.name("in"), cluster.name("out"));
    succeeded(&cluster.arguments(&["topics", "init", "--input", &input, "--output", &output]));
    let retention = |topic: &str| topic_property(&cluster, topic, "retention.ms");
    assert_eq!(retention(&format!("{input}.dead-letters")).as_deref(), Some("-1"));
    assert_eq!((retention(&input), retention(&output)), (None, None), "theirs is the cluster's");
}

#[test]
fn a_record_that_fails_again_counts_its_attempts_until_it_is_left() {
    let Some(cluster) = real_kafka("letters-attempts") else { return };
    let flow = Flow::new(&cluster, 1);
    let bad = || Record {
        value: Some(b"bad"),
        headers: &[("user", b"kept")],
        timestamp_ms: Some(1_700_000_000_000),
        ..Record::default()
    };
    flow.send(
        &flow.input,
        &[bad(), Record { headers: &[("modelstream-attempt", b"garbage \xff")], ..bad() }, Record::default()],
    );
    let (first, _) = flow.serve(2, 1, &[]);
    assert!(first.iter().all(|letter| letter.header("modelstream-attempt") == Some("1")), "garbage is no attempt");

    let dry = flow.replay(&["--dry-run"]);
    assert_eq!(
        (&dry["replayed"], &dry["dry_run"], &dry["by_reason"]),
        (&json!(2), &json!(true), &json!({"undecodable": 2}))
    );
    assert_eq!(cluster.read(&flow.input, 3).len(), 3, "a dry run sends nothing");

    let one = flow.replay(&["--limit", "1"]);
    assert_eq!((&one["replayed"], &one["next"]), (&json!(1), &json!("0:1")));
    let rest = flow.replay(&["--from", one["next"].as_str().expect("text"), "--rate", "100"]);
    assert_eq!(rest["replayed"], 1);
    let input = cluster.read(&flow.input, 5);
    assert_eq!(input.len(), 5, "the rest, and nothing twice");
    for again in &input[3..] {
        assert_eq!((again.key.as_deref(), again.value.as_deref()), (Some(&b"k"[..]), Some(&b"bad"[..])));
        assert_eq!(again.timestamp_ms, Some(1_700_000_000_000));
        let names: Vec<&str> = again.headers.iter().map(|(name, _)| name.as_str()).collect();
        let marks = ["modelstream-attempt", "modelstream-first-failed-at"];
        assert!(names == [&["user"][..], &marks].concat() || names == marks, "{names:?}");
    }

    let (second, replayed) = flow.serve(4, 1, &[]);
    assert_eq!(replayed, 2.0, "replayed records are counted");
    for (before, after) in first.iter().zip(&second[2..]) {
        assert_eq!(after.header("modelstream-attempt"), Some("2"));
        assert_eq!(after.header("modelstream-first-failed-at"), before.header("modelstream-first-failed-at"));
        assert!(after.header("modelstream-failed-at") > before.header("modelstream-failed-at"));
    }
    // Not by counting: the marker of a transaction takes an offset too.
    assert_eq!(flow.replay(&["--from", &position(&second[2])])["replayed"], 2);
    let (third, _) = flow.serve(6, 1, &[]);
    assert!(third[4..].iter().all(|letter| letter.header("modelstream-attempt") == Some("3")));
    let third = position(&third[4]);
    let refused = flow.replay(&["--from", &third]);
    assert_eq!((&refused["replayed"], &refused["left_by_attempts"]), (&json!(0), &json!(2)), "nothing loops for ever");
    let said = succeeded(&flow.line(&["replay", "--from", &third, "--max-attempts", "4"]));
    assert!(said.contains("2 of") && said.contains("--from 0:"), "{said}");
}

#[test]
fn what_is_accepted_after_a_change_is_predicted_once_replayed() {
    let Some(cluster) = real_kafka("letters-fixed") else { return };
    let flow = Flow::new(&cluster, 3);
    let keys: Vec<String> = (0..30).map(|index| index.to_string()).collect();
    let nested = |key: &'static [(&str, &[u8])], index: usize| Record {
        key: (!index.is_multiple_of(3)).then_some(keys[index].as_bytes()),
        value: Some(NESTED),
        timestamp_ms: Some(1_700_000_000_000 + index as i64),
        headers: key,
    };
    let records: Vec<Record<'_>> = (0..30).map(|index| nested(&[("traceparent", b"00-ab")], index)).collect();
    flow.send(&flow.input, &records);
    let (letters, _) = flow.serve(30, 0, &[]);
    let done = flow.replay(&[]);
    assert_eq!((&done["replayed"], &done["by_reason"]), (&json!(30), &json!({"missing_feature": 30})));
    let mut serving = cluster.serve(&[
        "--model",
        "iris",
        "--input",
        &flow.input,
        "--output",
        &flow.output,
        "--features-field",
        "flower",
    ]);
    let predictions = cluster.read(&flow.output, 30);
    assert_eq!(serving.stop(), Some(0));
    assert_eq!((predictions.len(), cluster.read(&flow.dead_letters, 30).len()), (30, 30));
    for letter in &letters {
        let same = |prediction: &&Received| prediction.timestamp_ms == letter.timestamp_ms;
        let prediction = predictions.iter().find(same).expect("its prediction");
        assert_eq!(prediction.key, letter.key);
        assert_eq!(prediction.source().0, letter.source().0, "it went back to its partition, also without a key");
        assert_eq!(prediction.header("traceparent"), Some("00-ab"));
        assert_eq!((prediction.header("modelstream-attempt"), prediction.header("modelstream-reason")), (None, None));
    }
}

/// Just below the size limit, so that the dead letter's headers are what does not fit any more.
#[test]
fn what_is_too_large_to_copy_is_a_stub_that_is_named_and_not_replayed() {
    let Some(cluster) = real_kafka("letters-stub") else { return };
    let flow = Flow::new(&cluster, 1);
    let large = vec![b'x'; 999_700];
    let records = [
        Record { value: Some(&large), headers: &[("user", b"kept")], ..Record::default() },
        Record { key: Some(&large), value: Some(b"bad"), ..Record::default() },
        Record { value: Some(b"bad"), ..Record::default() },
    ];
    flow.send(&flow.input, &records);
    let (letters, _) = flow.serve(3, 0, &[]);
    let of = |letter: &Received| (letter.key.clone(), letter.value.clone(), letter.header("user").is_some());
    assert_eq!(of(&letters[0]), (Some(b"k".to_vec()), None, true));
    assert_eq!(of(&letters[1]), (None, None, false), "even the key is too large: its coordinates are left");
    assert!(letters[..2].iter().all(|letter| letter.header("modelstream-truncated") == Some("true")));
    assert_eq!((letters[0].source(), letters[1].source()), ((0, 0), (0, 1)));

    let done = flow.replay(&[]);
    assert_eq!((&done["replayed"], &done["left_stubs"]), (&json!(1), &json!(2)));
    let (first, second) = (position(&letters[0]), position(&letters[1]));
    let named = [format!("{first} ({} 0:0)", flow.input), format!("{second} ({} 0:1)", flow.input)];
    assert_eq!(done["stubs"], json!(named));
    let said = succeeded(&flow.line(&["show", &first]));
    assert!(said.contains(&format!("it is at {} 0:0", flow.input)), "{said}");
    let said = failed_with(1, &flow.line(&["show", &second, "--value-only"]));
    assert!(said.contains("stub") && said.contains(&format!("{} 0:1", flow.input)), "{said}");
    let stubs: Vec<Value> = flow.list(&["--to", &letters[1].offset.to_string()]);
    assert!(stubs.len() == 2 && stubs.iter().all(|letter| letter["stub"] == true), "{stubs:?}");
}

#[test]
fn the_headers_of_connect_and_spring_are_what_their_tools_read() {
    let Some(cluster) = real_kafka("letters-conventions") else { return };
    let flow = Flow::new(&cluster, 1);
    let users: &[(&str, &[u8])] = &[("kafka_dlt-original-topic", b"the user's own"), ("user", b"kept")];
    let bad =
        || Record { value: Some(b"{}"), timestamp_ms: Some(1_700_000_000_123), headers: users, ..Record::default() };
    flow.send(&flow.input, &[bad()]);
    flow.serve(1, 0, &["--dead-letter-headers", "connect", "--group", "g"]);
    flow.send(&flow.input, &[bad()]);
    let (letters, _) = flow.serve(2, 0, &["--dead-letter-headers", "spring", "--group", "g"]);
    let message = letters[0].header("modelstream-message").expect("a message").as_bytes();
    let input = flow.input.as_bytes();
    let connect: [(&str, &[u8]); 9] = [
        ("__connect.errors.topic", input),
        ("__connect.errors.partition", b"0"),
        ("__connect.errors.offset", b"0"),
        ("__connect.errors.connector.name", b"g"),
        ("__connect.errors.task.id", b"0"),
        ("__connect.errors.stage", b"TRANSFORMATION"),
        ("__connect.errors.class.name", b"modelstream.serve"),
        ("__connect.errors.exception.class.name", b"modelstream.missing_feature"),
        ("__connect.errors.exception.message", message),
    ];
    let spring: [(&str, &[u8]); 7] = [
        ("kafka_dlt-exception-fqcn", b"modelstream.missing_feature"),
        ("kafka_dlt-exception-message", message),
        ("kafka_dlt-original-topic", input),
        ("kafka_dlt-original-partition", &[0; 4]),
        ("kafka_dlt-original-offset", &[0, 0, 0, 0, 0, 0, 0, 1]),
        ("kafka_dlt-original-timestamp", &[0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x7b]),
        ("kafka_dlt-original-consumer-group", b"g"),
    ];
    for (letter, convention) in letters.iter().zip([&connect[..], &spring[..]]) {
        let headers: Vec<(&str, &[u8])> =
            letter.headers.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        assert!(headers.ends_with(convention), "behind the user's, so that the last of a name is ours: {headers:?}");
        assert!(users.iter().all(|header| headers.contains(header)), "{headers:?}");
        assert_eq!(letter.header("modelstream-reason"), Some("missing_feature"), "ours are always there");
    }

    assert_eq!(flow.replay(&[])["replayed"], 2);
    for again in &cluster.read(&flow.input, 4)[2..] {
        let headers: Vec<(&str, &[u8])> =
            again.headers.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        assert_eq!(headers[..2], *users, "the user's headers are as they were");
        assert_eq!(headers.len(), 4, "{headers:?}");
    }
}

#[test]
fn a_dead_letter_cannot_send_a_replay_where_no_record_belongs() {
    let Some(cluster) = real_kafka("letters-forged") else { return };
    let flow = Flow::new(&cluster, 1);
    let reason: (&str, &[u8]) = ("modelstream-reason", b"undecodable");
    let topics = [&cluster.log.models, &cluster.log.artifacts, &flow.dead_letters];
    for topic in topics {
        flow.forge(&[reason, ("modelstream-source-topic", topic.as_bytes())]);
    }
    flow.forge(&[reason, ("modelstream-source-topic", b"__consumer_offsets")]);
    flow.forge(&[reason]);
    flow.forge(&[("someone", b"else's")]);
    flow.forge(&[reason, ("modelstream-source-topic", flow.input.as_bytes()), ("modelstream-attempt", b"-1")]);
    let topic = ["--topic", &flow.dead_letters];
    let line = [&["dead-letters", "replay", "--json"], &topic[..]].concat();
    let done: Value = serde_json::from_str(&succeeded(&cluster.arguments(&line))).expect("JSON");
    assert_eq!(
        (&done["replayed"], &done["left_without_topic"], &done["left_by_attempts"]),
        (&json!(0), &json!(5), &json!(1))
    );
    assert_eq!(cluster.read(&flow.input, 0).len(), 0);

    let listed = modelstream(&flow.line(&["list"]));
    let said = String::from_utf8_lossy(&listed.stderr);
    assert!(
        said.contains("5 dead letters did not come from") && said.contains("1 records are no dead letters"),
        "{said}"
    );
    let said = failed_with(3, &flow.line(&["replay", "--to-topic", &cluster.log.models]));
    assert!(said.contains("--to-topic"), "{said}");
    let said = failed_with(1, &flow.line(&["replay", "--to-topic", "no-such-topic"]));
    assert!(said.contains("no-such-topic"), "{said}");
    let other = cluster.topic("other", 1);
    let line = [&line[..], &["--to-topic", &other]].concat();
    let done: Value = serde_json::from_str(&succeeded(&cluster.arguments(&line))).expect("JSON");
    assert_eq!((&done["replayed"], cluster.read(&other, 5).len()), (&json!(5), 5));
}

#[test]
fn of_two_replays_at_once_the_younger_goes_on() {
    let Some(cluster) = real_kafka("letters-twins") else { return };
    let flow = Flow::new(&cluster, 1);
    let reason: (&str, &[u8]) = ("modelstream-reason", b"undecodable");
    let headers = [reason, ("modelstream-source-topic", flow.input.as_bytes())];
    let letters: Vec<Record<'_>> = (0..40).map(|_| Record { headers: &headers, ..Record::default() }).collect();
    flow.send(&flow.dead_letters, &letters);
    let mut older = Command::new(env!("CARGO_BIN_EXE_modelstream"))
        .args(flow.line(&["replay", "--rate", "1"]))
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    wait_until("the older one has replayed", || !cluster.read(&flow.input, 0).is_empty());
    assert_eq!(flow.replay(&[])["replayed"], 40);
    let status = older.wait().expect("our child");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut older.stderr.take().expect("piped"), &mut said).expect("text");
    assert_eq!(status.code(), Some(6), "{said}");
    assert!(said.contains("were replayed before it failed; --from 0:"), "{said}");
}

#[test]
fn a_replay_that_is_killed_goes_on_where_it_said() {
    let Some(cluster) = real_kafka("letters-killed") else { return };
    const LETTERS: usize = 30_000;
    let flow = Flow::new(&cluster, 2);
    let headers: [(&str, &[u8]); 2] =
        [("modelstream-reason", b"undecodable"), ("modelstream-source-topic", flow.input.as_bytes())];
    let keys: Vec<String> = (0..LETTERS).map(|index| index.to_string()).collect();
    let letter = |key| Record { key: Some(str::as_bytes(key)), headers: &headers, ..Record::default() };
    flow.send(&flow.dead_letters, &keys.iter().map(|key| letter(key)).collect::<Vec<_>>());
    let mut killed = Command::new(env!("CARGO_BIN_EXE_modelstream"))
        .args(flow.line(&["replay", "--log-format", "json", "--rate", "3000"]))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(killed.stderr.take().expect("piped")).lines();
    let line = lines.next().expect("a chunk").expect("text");
    killed.kill().expect("our child");
    killed.wait().expect("our child");
    let last = lines.map_while(Result::ok).filter(|line| line.ends_with('}')).last().unwrap_or(line);
    let said: Value = serde_json::from_str(&last).expect("a JSON log line");
    let next = said["next"].as_str().expect("where it goes on");
    let rest = flow.replay(&["--from", next])["replayed"].as_u64().expect("a number");
    assert!(rest > 0 && rest < LETTERS as u64, "it neither was at its end nor begins again: {rest}");
    let replayed = cluster.read(&flow.input, LETTERS);
    let different: BTreeSet<Option<Vec<u8>>> = replayed.into_iter().map(|record| record.key).collect();
    assert_eq!(different.len(), LETTERS, "none is left out");
}
