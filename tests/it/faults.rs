//! What the tests of faults have in common: a flow whose results a checker reads, and what an administrator can do to a cluster.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::checker::{Checker, Offsets, Report, Source, Subject};
use crate::driver::belongs;
use crate::flow::{Flow, GOOD};
use crate::harness::{Cluster, DEADLINE, wait_until};

/// The shortest session that brokers allow by default, so that a killed member is out soon.
pub const SHORT_SESSION: [&str; 2] = ["-X", "session.timeout.ms=6000"];
/// Changes of topics are seen within this time, not within half a minute.
pub const FRESH_METADATA: [&str; 2] = ["-X", "topic.metadata.refresh.interval.ms=500"];
/// How long everything may take to come to rest after a fault.
const REST_TIMEOUT: Duration = Duration::from_secs(120);
/// One record in so many cannot be scored.
const BAD_EVERY: u64 = 50;
/// Which of them it is.
const BAD: u64 = 7;

/// A flow of records that know where they are, and what is known of them.
pub struct Watched<'c> {
    pub cluster: &'c Cluster,
    pub flow: Flow,
    pub group: String,
    sent: RefCell<Offsets>,
    checker: Option<Checker>,
}

impl<'c> Watched<'c> {
    /// Topics of a flow, and a model that scores it. Somebody reads the results from now on.
    pub fn new(cluster: &'c Cluster, partitions: i32) -> Watched<'c> {
        let mut watched = Watched::unwatched(cluster, partitions);
        watched.watch(belongs);
        watched
    }

    /// As [`Watched::new`]; the results are read when [`Watched::watch`] says so, or at the end.
    pub fn unwatched(cluster: &'c Cluster, partitions: i32) -> Watched<'c> {
        cluster.publish_iris("iris", "7");
        let flow = Flow::new(cluster, partitions);
        Watched { cluster, flow, group: cluster.name("group"), sent: RefCell::default(), checker: None }
    }

    /// Reads the results from now on; `belongs` says whether a result has what belongs to its record.
    pub fn watch(&mut self, belongs: impl Fn(Source, &BorrowedMessage<'_>) -> bool + Send + 'static) {
        let subject = Subject::of(self.cluster, &self.flow, &self.group);
        self.checker = Some(Checker::start(subject, belongs));
    }

    /// The arguments of `serve`, with `more` behind them.
    pub fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.flow.arguments(&[&["--group", &self.group][..], more].concat())
    }

    /// Writes the records at `offsets` of each partition, of which one in fifty cannot be scored.
    pub fn fill(&self, partitions: Range<i32>, offsets: Range<u64>) {
        self.fill_with(partitions, offsets, |offset| {
            Some(if offset % BAD_EVERY == BAD { &b"not JSON"[..] } else { GOOD })
        });
    }

    /// As [`Watched::fill`], with records of any value.
    pub fn fill_with<'v>(&self, partitions: Range<i32>, offsets: Range<u64>, value: impl Fn(u64) -> Option<&'v [u8]>) {
        let producer = Producer::idempotent(&self.cluster.connection).expect("valid settings");
        for offset in offsets {
            for partition in partitions.clone() {
                self.send(&producer, partition, offset as i64, value(offset));
            }
        }
        assert!(producer.flush(DEADLINE) && producer.take_failure().is_none());
    }

    /// Hands a record to a producer of the test's; `offset` is where it will be.
    pub fn send(&self, producer: &Producer, partition: i32, offset: i64, value: Option<&[u8]>) {
        let id = format!("{partition}-{offset}");
        let make = || Outgoing {
            topic: &self.flow.input,
            partition: Some(partition),
            key: Some(id.as_bytes()),
            value,
            timestamp_ms: None,
            headers: Headers::with_capacity(1).with("id", id.as_bytes()),
        };
        producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
        self.sent.borrow_mut().insert(partition, offset);
    }

    /// Records of the input that are none any more.
    pub fn forget(&self, forgotten: &Offsets) {
        let left = self.sent.borrow().without(forgotten);
        *self.sent.borrow_mut() = left;
    }

    /// Waits until all is done, and says what came of it.
    pub fn report(mut self) -> Report {
        if self.checker.is_none() {
            self.watch(belongs);
        }
        self.checker.take().expect("it was started").finish(&self.sent.borrow(), REST_TIMEOUT)
    }

    /// As [`Watched::report`], which must say that each record has exactly one result.
    pub fn assert_exactly_once(self) -> Report {
        let sent = self.sent.borrow().count();
        let report = self.report();
        assert!(report.is_exactly_once(), "{report:#?}");
        assert_eq!(report.expected, sent);
        report
    }
}

/// How many offsets of a topic are hidden from read_committed readers at this moment: those from the first open transaction on.
pub fn hidden(cluster: &Cluster, topic: &str, partitions: i32) -> i64 {
    let reader = |isolation: &str| {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &cluster.brokers).set("isolation.level", isolation).set("group.id", "hidden");
        config.create::<BaseConsumer>().expect("valid settings")
    };
    let (all, committed) = (reader("read_uncommitted"), reader("read_committed"));
    let end =
        |reader: &BaseConsumer, partition| reader.fetch_watermarks(topic, partition, DEADLINE).expect("a broker").1;
    (0..partitions).map(|partition| end(&all, partition) - end(&committed, partition)).sum()
}

fn administer<T>(cluster: &Cluster, call: impl AsyncFnOnce(AdminClient<DefaultClientContext>, AdminOptions) -> T) -> T {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &cluster.brokers);
    let options = AdminOptions::new().operation_timeout(Some(DEADLINE)).request_timeout(Some(DEADLINE));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(call(config.create().expect("valid settings"), options))
}

pub fn delete_topic(cluster: &Cluster, topic: &str) {
    let deleted = administer(cluster, async |admin, options| admin.delete_topics(&[topic], &options).await);
    assert_eq!(deleted, Ok(vec![Ok(topic.to_owned())]));
    let admin = modelstream::kafka::admin::Admin::new(&cluster.connection).expect("valid settings");
    wait_until("the topic is gone", || admin.partitions(topic).is_ok_and(|partitions| partitions.is_none()));
}

pub fn add_partitions(cluster: &Cluster, topic: &str, count: usize) {
    let more = [NewPartitions::new(topic, count)];
    let added = administer(cluster, async |admin, options| admin.create_partitions(&more, &options).await);
    assert_eq!(added, Ok(vec![Ok(topic.to_owned())]));
    let admin = modelstream::kafka::admin::Admin::new(&cluster.connection).expect("valid settings");
    wait_until("the partitions are there", || admin.partitions(topic).is_ok_and(|now| now == Some(count as i32)));
}

/// What retention does: all records of a partition before `offset` are gone.
pub fn delete_records(cluster: &Cluster, topic: &str, partition: i32, offset: i64) {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("a valid offset");
    let deleted = administer(cluster, async |admin, options| admin.delete_records(&offsets, &options).await);
    let deleted = deleted.expect("a broker");
    assert!(deleted.elements().iter().all(|element| element.error().is_ok()), "{deleted:?}");
}

/// Where a group would go on.
pub fn committed_offset(cluster: &Cluster, group: &str, topic: &str, partition: i32) -> i64 {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &cluster.brokers).set("group.id", group);
    let reader: BaseConsumer = config.create().expect("valid settings");
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    let committed = reader.committed_offsets(list, DEADLINE).expect("a broker");
    match committed.elements()[0].offset() {
        Offset::Offset(offset) => offset,
        other => panic!("nothing is committed: {other:?}"),
    }
}

/// Sets properties of a topic; all others are the defaults afterwards.
pub fn configure_topic(cluster: &Cluster, topic: &str, properties: &[(&str, &str)]) {
    let config = AlterConfig::new(ResourceSpecifier::Topic(topic));
    let config = properties.iter().fold(config, |config, (key, value)| config.set(key, value));
    let altered = administer(cluster, async |admin, options| admin.alter_configs([&config], &options).await);
    assert!(altered.as_ref().is_ok_and(|altered| altered.iter().all(Result::is_ok)), "{altered:?}");
}

/// A property that was given to this very topic.
pub fn topic_property(cluster: &Cluster, topic: &str, name: &str) -> Option<String> {
    let topic = [ResourceSpecifier::Topic(topic)];
    let described = administer(cluster, async |admin, options| admin.describe_configs(&topic, &options).await);
    let described = described.expect("a broker").pop().expect("one topic").expect("it exists");
    let own =
        described.entries.into_iter().find(|entry| entry.name == name && entry.source == ConfigSource::DynamicTopic);
    own.and_then(|entry| entry.value)
}

/// A request that librdkafka has no call for, in its version without tagged fields; the answer's bytes.
pub fn request(cluster: &Cluster, api_key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut bytes = [api_key.to_be_bytes(), version.to_be_bytes()].concat();
    bytes.extend(7_i32.to_be_bytes());
    bytes.extend(string("faults"));
    bytes.extend(body);
    let mut stream = TcpStream::connect(&cluster.brokers).expect("a broker");
    stream.write_all(&(bytes.len() as u32).to_be_bytes()).expect("it reads");
    stream.write_all(&bytes).expect("it reads");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("an answer");
    answer
}

/// A string as Kafka's protocol has it.
pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}
