//! A lane's member of the consumer group. Where its partitions start and go on is in `consumer/position.rs`.
//!
//! Callbacks do nothing but queue an [`Event`]; the lane answers it in its own loop. That is allowed because librdkafka waits
//! with a rebalance until the application calls (un)assign, wherever it does so (`rd_kafka_rebalance_op_incr`), and holds
//! the assigned partitions meanwhile.

mod position;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use rdkafka_sys as sys;

use super::Error;
use super::context::{self, Statistics};
use super::fault::{self, Kind};
use super::queue::RecordQueue;
use super::record::NoRecord;
use super::settings::Connection;

pub use super::queue::BatchLimits;
pub use super::record::Record;
pub use position::{OffsetReset, Skip};

/// How often librdkafka's own thread is woken. It waits by the wall clock: where that is put back by an hour while it waits, it
/// sends no heartbeat for an hour, and the group does without this member.
const WAKE_INTERVAL: Duration = Duration::from_secs(1);

/// Something that happened to a member of the group.
#[derive(Debug)]
pub enum Event {
    /// These partitions are to be taken with [`GroupConsumer::assign`].
    Assigned(Vec<i32>),
    /// These partitions are to be given back with [`GroupConsumer::unassign`].
    Revoked {
        /// The partitions.
        partitions: Vec<i32>,
        /// They belong to another member already: what was not committed is not ours to commit.
        lost: bool,
    },
    /// An asynchronous commit ended.
    Committed(Result<(), Error>),
    /// librdkafka's statistics; `None` when they could not be read.
    Statistics(Option<Statistics>),
    /// The broker has no record any more at the offset that a partition was to go on from, and the policy says where to go on
    /// instead: the partition stands still until [`GroupConsumer::rewind`].
    OffsetGone {
        /// The partition.
        partition: i32,
        /// The offset; less than nothing where it is not told.
        offset: i64,
    },
    /// The consumer reports an error.
    Failed(Error),
}

/// What a [`GroupConsumer::fetch`] brought.
#[derive(Debug)]
pub enum Fetched {
    /// The batch holds at least one record.
    Records,
    /// Something happened; the batch is empty.
    Event(Event),
    /// Nothing came within the time.
    Nothing,
}

/// librdkafka's word for a member of a generation of a group.
pub(super) struct GroupMetadata(*mut sys::rd_kafka_consumer_group_metadata_t);

// SAFETY: the object is plain memory that nothing else refers to.
unsafe impl Send for GroupMetadata {}

impl GroupMetadata {
    /// Whether it speaks of a member at all. After a session timeout librdkafka has neither a member id nor a generation until
    /// it has joined again, and a broker takes offsets without them from anyone, as it must from clients before KIP-447: a
    /// zombie that sent them would not be fenced.
    pub(super) fn is_of_a_member(&self) -> bool {
        if self.0.is_null() {
            return false;
        }
        // SAFETY: the object is ours and alive; the member id is a string that lives as long as it does.
        unsafe {
            let member = sys::rd_kafka_consumer_group_metadata_member_id(self.0);
            sys::rd_kafka_consumer_group_metadata_generation_id(self.0) >= 0 && !member.is_null() && *member != 0
        }
    }

    pub(super) fn as_ptr(&self) -> *const sys::rd_kafka_consumer_group_metadata_t {
        self.0
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: the object is ours and not used any more; null, of a consumer without a group, is not passed on.
        if !self.0.is_null() {
            unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0) }
        }
    }
}

struct GroupContext {
    topic: String,
    brokers: String,
    events: Mutex<VecDeque<Event>>,
    /// Nobody answers events any more: rebalances are answered on the spot, or closing would wait for ever.
    closing: AtomicBool,
    /// When a connection to a broker failed last.
    disconnected: Mutex<Option<Instant>>,
}

impl GroupContext {
    /// The lane's thread alone touches the queue, inside `poll` and after it; a poisoned lock holds nothing half done.
    fn events(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        context::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code().is_some_and(|code| fault::kind(code) == Kind::Unreachable) {
            *self.disconnected.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        context::error(&error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.events().push_back(Event::Statistics(context::parse_statistics(json, &self.topic)));
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Relaxed) {
            answer_at_close(consumer, error, partitions);
            return;
        }
        let partitions = partitions.elements().iter().map(|element| element.partition()).collect();
        let event = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Event::Assigned(partitions),
            _ => Event::Revoked { partitions, lost: consumer.assignment_lost() },
        };
        self.events().push_back(event);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        let result = match result {
            // There was nothing to commit.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => return,
            other => other.map_err(|error| Error::new("committing offsets", &self.brokers, &error)),
        };
        self.events().push_back(Event::Committed(result));
    }
}

fn answer_at_close<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    error: RDKafkaRespErr,
    partitions: &TopicPartitionList,
) {
    let assigning = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
    let answered = match (consumer.rebalance_protocol(), assigning) {
        (RebalanceProtocol::Cooperative, true) => consumer.incremental_assign(partitions),
        (RebalanceProtocol::Cooperative, false) => consumer.incremental_unassign(partitions),
        (_, true) => consumer.assign(partitions),
        (_, false) => consumer.unassign(),
    };
    if let Err(error) = answered {
        tracing::debug!(%error, "a rebalance at close was not answered");
    }
}

/// A member of a consumer group on one topic. Polled by one thread. Dropping it leaves the group.
pub struct GroupConsumer {
    /// Before `inner`, because it goes first.
    queue: RecordQueue,
    inner: BaseConsumer<GroupContext>,
    topic: String,
    brokers: String,
    reset: OffsetReset,
    /// Whether it keeps its place in the group when it ends, for whoever has its name next.
    is_static: bool,
    /// When librdkafka's own thread was woken last.
    woken: Cell<Instant>,
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        let context = self.inner.context();
        context.closing.store(true, Ordering::Relaxed);
        let waiting: Vec<Event> = context.events().drain(..).collect();
        for event in waiting {
            let (error, partitions) = match event {
                Event::Assigned(partitions) => (RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS, partitions),
                Event::Revoked { partitions, .. } => (RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS, partitions),
                Event::Committed(_) | Event::Statistics(_) | Event::OffsetGone { .. } | Event::Failed(_) => continue,
            };
            answer_at_close(&self.inner, error, &self.list(&partitions));
        }
        // librdkafka 2.12 does not leave the group at close where it has no partition, and the group then waits for this member
        // until its session ends. It leaves when the topic is given up. A static member is not to leave.
        if !self.is_static && self.inner.assignment().is_ok_and(|list| list.count() == 0) {
            self.inner.unsubscribe();
        }
    }
}

impl GroupConsumer {
    /// Joins `group` on `topic`, as the static member `member` where it is named; the first [`Event::Assigned`] tells what it
    /// was given.
    ///
    /// # Errors
    /// When a setting is not valid. A broker that is away is no error here: librdkafka keeps trying.
    pub fn join(
        connection: &Connection,
        group: &str,
        member: Option<&str>,
        topic: &str,
        reset: OffsetReset,
    ) -> Result<Self, Error> {
        let context = GroupContext {
            topic: topic.to_owned(),
            brokers: connection.brokers().to_owned(),
            events: Mutex::new(VecDeque::new()),
            closing: AtomicBool::new(false),
            disconnected: Mutex::new(None),
        };
        // The policy is ours to carry out: librdkafka's reset tells nobody what it skips.
        let config = connection.group_consumer(group, member, "error");
        let failed = |error: &KafkaError| Error::new(format!("joining group {group}"), connection.brokers(), error);
        let inner = BaseConsumer::from_config_and_context(&config, context).map_err(|error| failed(&error))?;
        inner.subscribe(&[topic]).map_err(|error| failed(&error))?;
        // SAFETY: the client is a consumer's; as the first field, the queue goes before it.
        let queue = unsafe { RecordQueue::new(inner.client().native_ptr(), topic) };
        let (topic, brokers) = (topic.to_owned(), connection.brokers().to_owned());
        Ok(GroupConsumer {
            queue,
            inner,
            topic,
            brokers,
            reset,
            is_static: member.is_some(),
            woken: Cell::new(Instant::now()),
        })
    }

    /// Waits up to `wait` for something, then takes what is there without waiting for more, up to `limits`.
    ///
    /// An event that comes while records are being taken is returned by the next call, so `batch` is always scored first.
    pub fn fetch<'c>(&'c self, batch: &mut Vec<Record<'c>>, limits: BatchLimits, wait: Duration) -> Fetched {
        self.wait(wait, || {
            self.queue.take(batch, limits, |no_record| self.queue_event(self.event(&no_record)));
            !batch.is_empty()
        })
    }

    /// As [`GroupConsumer::fetch`], for events only: what was fetched waits, and when the queue is full no more is.
    pub fn serve(&self, wait: Duration) -> Fetched {
        self.wait(wait, || false)
    }

    fn wait(&self, wait: Duration, mut take: impl FnMut() -> bool) -> Fetched {
        if let Some(event) = self.next_event() {
            return Fetched::Event(event);
        }
        let deadline = Instant::now() + wait;
        loop {
            self.queue.watch();
            self.poll();
            if take() {
                return Fetched::Records;
            }
            if let Some(event) = self.next_event() {
                return Fetched::Event(event);
            }
            if !self.queue.wait_until(deadline) {
                return Fetched::Nothing;
            }
        }
    }

    /// Lets librdkafka make the callbacks that wait, and tells the group that this member is alive.
    fn poll(&self) {
        if self.woken.get().elapsed() >= WAKE_INTERVAL {
            self.woken.set(Instant::now());
            // Any question that its thread answers.
            self.group_metadata();
        }
        loop {
            match self.inner.poll(Duration::ZERO) {
                // Whoever sees this joins anew, and the record is read again.
                Some(Ok(message)) => self.queue_event(Event::Failed(Error::Other {
                    doing: format!("reading {}", self.topic),
                    cause: format!("the record at {} came beside the queue for records", Message::offset(&message)),
                    fatal: true,
                })),
                Some(Err(error)) => self.queue_event(Event::Failed(self.failure(&error))),
                None => {}
            }
            if !self.queue.has_events() {
                return;
            }
        }
    }

    fn queue_event(&self, event: Event) {
        self.inner.context().events().push_back(event);
    }

    fn next_event(&self) -> Option<Event> {
        self.inner.context().events().pop_front()
    }

    fn event(&self, no_record: &NoRecord) -> Event {
        let NoRecord { partition, offset, ref error } = *no_record;
        match self.reset {
            OffsetReset::Earliest | OffsetReset::Latest if fault::is_offset_gone(error) => {
                Event::OffsetGone { partition, offset }
            }
            _ => Event::Failed(self.failure(error)),
        }
    }

    fn failure(&self, error: &KafkaError) -> Error {
        if fault::is_offset_gone(error) {
            return Error::OffsetGone { topic: self.topic.clone(), gap: self.gap() };
        }
        let disconnected = *self.inner.context().disconnected.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = Error::new(format!("reading {}", self.topic), &self.brokers, error);
        failure.unless_disconnected(disconnected.map(|when| when.elapsed()))
    }

    /// Which member of which generation of the group this consumer is now.
    pub(super) fn group_metadata(&self) -> GroupMetadata {
        // SAFETY: the client lives as long as the consumer; the object is ours, and freed when it is dropped.
        GroupMetadata(unsafe { sys::rd_kafka_consumer_group_metadata(self.inner.client().native_ptr()) })
    }

    /// Whether it has joined the group and no request to join is under way, as far as the broker answers within `wait`. A broker
    /// answers a connection's requests in order and holds the answer to a join back until all members have joined; so it answers
    /// this one only when there is none.
    pub fn is_between_rebalances(&self, wait: Duration) -> bool {
        // A real partition's offset could be hidden by a transaction, and then that is waited for.
        let nobodys = self.list(&[i32::MAX]);
        self.group_metadata().is_of_a_member() && self.inner.committed_offsets(nobodys, wait).is_ok()
    }

    /// Commits for each partition the offset of the next record to read; [`Event::Committed`] tells the outcome.
    ///
    /// rdkafka's asynchronous commit reports nothing, because librdkafka reports it to a callback that rdkafka's event
    /// interface does not set; `rd_kafka_commit_queue` puts the outcome on the queue that is polled.
    ///
    /// # Errors
    /// When the commit cannot even be queued.
    pub fn commit(&self, next: impl Iterator<Item = (i32, i64)>) -> Result<(), Error> {
        let offsets = self.offsets(next)?;
        let client = self.inner.client().native_ptr();
        // SAFETY: the client lives as long as the consumer, the list as long as the call, which copies it; the queue is
        // counted by librdkafka, and our count is given back.
        let code = unsafe {
            let queue = sys::rd_kafka_queue_get_consumer(client);
            let code = sys::rd_kafka_commit_queue(client, offsets.ptr(), queue, None, std::ptr::null_mut());
            sys::rd_kafka_queue_destroy(queue);
            code
        };
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            code => Err(self.commit_error(&KafkaError::ConsumerCommit(code.into()))),
        }
    }

    /// As [`GroupConsumer::commit`], and waits for the broker; for at most the session timeout when it is away.
    ///
    /// # Errors
    /// When the broker does not take the offsets: then the group is rebalancing, or the broker is away.
    pub fn commit_and_wait(&self, next: impl Iterator<Item = (i32, i64)>) -> Result<(), Error> {
        let offsets = self.offsets(next)?;
        self.inner.commit(&offsets, CommitMode::Sync).map_err(|error| self.commit_error(&error))
    }

    pub(super) fn offsets(&self, next: impl Iterator<Item = (i32, i64)>) -> Result<TopicPartitionList, Error> {
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in next {
            let added = offsets.add_partition_offset(&self.topic, partition, Offset::Offset(offset));
            added.map_err(|error| self.commit_error(&error))?;
        }
        Ok(offsets)
    }

    fn commit_error(&self, error: &KafkaError) -> Error {
        Error::new("committing offsets", &self.brokers, error)
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }
}
