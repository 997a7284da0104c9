//! Topics and their sizes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::fault::{self, Kind};
use super::settings::{Connection, REQUEST_TIMEOUT};
use super::{Error, context};

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Its number of partitions.
    pub partitions: i32,
    /// What is kept of it.
    pub cleanup: Cleanup,
}

/// What a topic keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// The newest record of each key (`cleanup.policy=compact`).
    Compact,
    /// What is young enough, as the cluster is set.
    Delete,
    /// Everything (`retention.ms=-1`), for records that keep the time of long ago.
    Keep,
    /// The newest record of each key, for an hour, by the broker's clock: for what is written again and again. Compaction alone
    /// would keep what was written once for ever, and begins only when a segment is full.
    Recent,
}

impl Cleanup {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Cleanup::Compact => "compact",
            Cleanup::Delete => "delete",
            Cleanup::Keep => "keep",
            Cleanup::Recent => "recent",
        }
    }
}

/// How a topic lies in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its partitions.
    pub partitions: i32,
    /// The cluster's brokers.
    pub brokers: usize,
}

/// The replicas that [`Admin::create`] gives a topic where the user does not say: what exactly-once needs to survive a broker.
pub const REPLICATION_WANTED: i32 = 3;

/// Events of a client that nobody polls: at most so many are looked at when a request failed.
const EVENTS_MAX: usize = 100;

#[derive(Default)]
struct AdminContext {
    /// What librdkafka said last about its connections: a request that failed says only that it did.
    last: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl ClientContext for AdminContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        context::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        context::error(&error, reason);
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // That all connections are down comes last and says nothing of why.
        if code != RDKafkaErrorCode::AllBrokersDown {
            *last = Some((code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for AdminContext {}

/// Asks and changes what the cluster has.
pub struct Admin {
    connection: Connection,
    /// Metadata and watermarks are asked through a consumer: the admin client has no call for them.
    client: BaseConsumer<AdminContext>,
}

impl Admin {
    /// Connects, lazily.
    ///
    /// # Errors
    /// When a setting is not valid.
    pub fn new(connection: &Connection) -> Result<Admin, Error> {
        let client = BaseConsumer::from_config_and_context(&connection.admin(), AdminContext::default())
            .map_err(|error| Error::new("connecting", connection.brokers(), &error))?;
        Ok(Admin { connection: connection.clone(), client })
    }

    /// The number of partitions of each topic that exists, by name.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn topics(&self) -> Result<BTreeMap<String, i32>, Error> {
        let metadata =
            self.client.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| self.error("listing topics", &error))?;
        let existing = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(existing.map(|topic| (topic.name().to_owned(), topic.partitions().len() as i32)).collect())
    }

    /// The number of partitions of `topic`; `None` when it does not exist.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn partitions(&self, topic: &str) -> Result<Option<i32>, Error> {
        Ok(self.extent(topic)?.map(|extent| extent.partitions))
    }

    /// The partitions of `topic` and the brokers of the cluster; `None` when it does not exist.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn extent(&self, topic: &str) -> Result<Option<Extent>, Error> {
        let metadata = self
            .client
            .fetch_metadata(Some(topic), REQUEST_TIMEOUT)
            .map_err(|error| self.error(&format!("looking up {topic}"), &error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.map(|topic| (topic.error(), topic.partitions().len() as i32)) {
            None | Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART), _)) | Some((None, 0)) => {
                Ok(None)
            }
            Some((None, partitions)) => Ok(Some(Extent { partitions, brokers: metadata.brokers().len() })),
            Some((Some(code), _)) => {
                Err(self.error(&format!("looking up {topic}"), &KafkaError::MetadataFetch(code.into())))
            }
        }
    }

    /// The number of brokers.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn brokers(&self) -> Result<i32, Error> {
        let metadata =
            self.client.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| self.error("listing brokers", &error))?;
        Ok(metadata.brokers().len() as i32)
    }

    /// The first offset of a partition and the one behind its last.
    ///
    /// # Errors
    /// When no broker answers or the partition does not exist.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), Error> {
        self.client
            .fetch_watermarks(topic, partition, REQUEST_TIMEOUT)
            .map_err(|error| self.error(&format!("looking up the offsets of {topic}"), &error))
    }

    /// Creates the topics; one that exists already is no error. Waits until the cluster knows them.
    ///
    /// # Errors
    /// When the cluster refuses one of them.
    pub fn create(&self, topics: &[TopicSpec], replication: i32) -> Result<(), Error> {
        let admin = AdminClient::from_config_and_context(&self.connection.admin(), AdminContext::default())
            .map_err(|error| self.error("connecting", &error))?;
        let new_topics: Vec<NewTopic<'_>> = topics.iter().map(|topic| new_topic(topic, replication)).collect();
        let options = AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT));
        let created = block_on(admin.create_topics(&new_topics, &options))
            .map_err(|error| self.error("creating topics", &error))?;
        for result in created {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    return Err(self.error(&format!("creating topic {name}"), &KafkaError::AdminOp(code)));
                }
            }
        }
        topics.iter().try_for_each(|topic| self.await_topic(&topic.name))
    }

    /// Deletes topics, and those of the groups that have no members; one that does not exist is no error.
    ///
    /// # Errors
    /// When the cluster refuses one of them.
    pub fn delete(&self, topics: &[&str], groups: &[&str]) -> Result<(), Error> {
        let admin = AdminClient::from_config_and_context(&self.connection.admin(), AdminContext::default())
            .map_err(|error| self.error("connecting", &error))?;
        let options = AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT));
        let deleted =
            block_on(admin.delete_topics(topics, &options)).map_err(|error| self.error("deleting topics", &error))?;
        let groups = match groups {
            [] => Vec::new(),
            _ => block_on(admin.delete_groups(groups, &AdminOptions::new()))
                .map_err(|error| self.error("deleting groups", &error))?,
        };
        for result in deleted.into_iter().chain(groups) {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::GroupIdNotFound)) => {}
                // The broker forgets its offsets by itself, once its members are gone.
                Err((_, RDKafkaErrorCode::NonEmptyGroup)) => {}
                Err((name, code)) => return Err(self.error(&format!("deleting {name}"), &KafkaError::AdminOp(code))),
            }
        }
        Ok(())
    }

    fn await_topic(&self, name: &str) -> Result<(), Error> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        while self.partitions(name)?.is_none() {
            if Instant::now() >= deadline {
                let doing = format!("waiting for the new topic {name}");
                return Err(Error::TimedOut { doing, seconds: REQUEST_TIMEOUT.as_secs() });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn error(&self, doing: &str, error: &KafkaError) -> Error {
        let failure = Error::new(doing, self.connection.brokers(), error);
        let Error::Unreachable { doing, brokers, cause } = failure else { return failure };
        // A broker that refuses the credentials or the certificate looks as if it were away.
        for _ in 0..EVENTS_MAX {
            let _ = self.client.poll(Duration::ZERO);
        }
        let last = self.client.context().last.lock().unwrap_or_else(PoisonError::into_inner).take();
        match last {
            Some((code, why)) if fault::kind(code) == Kind::NotAuthorised => Error::of_code(doing, &brokers, code, why),
            Some((_, why)) => Error::Unreachable { doing, brokers, cause: format!("{cause}: {why}") },
            None => Error::Unreachable { doing, brokers, cause },
        }
    }
}

fn new_topic(topic: &TopicSpec, replication: i32) -> NewTopic<'_> {
    let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(replication));
    match topic.cleanup {
        Cleanup::Compact => new.set("cleanup.policy", "compact"),
        Cleanup::Delete => new,
        Cleanup::Keep => new.set("retention.ms", "-1"),
        Cleanup::Recent => new
            .set("cleanup.policy", "compact,delete")
            .set("retention.ms", "3600000")
            .set("segment.ms", "600000")
            .set("message.timestamp.type", "LogAppendTime"),
    }
}

/// Waits for an admin call; librdkafka's own thread completes it, within its operation timeout.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};

    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
