//! Records in batches, by the calls that librdkafka has for it.
//!
//! rdkafka takes one message at a time and makes an event object of each. `rd_kafka_consume_batch_queue` takes many with one
//! call. A consumer's own queue also carries what its callbacks are told, rebalances above all, and rdkafka's `poll` must see
//! it. So the queue of each partition that is read is forwarded to a queue for records only, and batches are taken there; the
//! consumer's own queue is polled beside it. What was fetched before a seek or an unassignment is outdated by the version that
//! librdkafka gives each of them, and dropped when it is taken.

use std::ffi::CString;
use std::ptr::{NonNull, null, null_mut};
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::error::KafkaError;
use rdkafka_sys as sys;

use super::bell::Bell;
use super::record::{NoRecord, Record};

/// The most records that are taken by one call; so many may come beyond the bytes that a batch may have.
const SLICE_RECORDS: usize = 64;

/// How long a reader that starts waits for the topic's leaders.
const LEADERS_WAIT: Duration = Duration::from_secs(1);

/// How much a batch may hold.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Records.
    pub records: usize,
    /// Bytes of keys and payloads; the records that were taken together with the one that fills it may exceed it.
    pub bytes: usize,
}

/// The queue that all partitions of one topic are read from, beside a consumer's own. Goes before its consumer does.
///
/// A member of a group is given its partitions, and they are forwarded here. Who is no member starts them itself, and asks no
/// coordinator of a group.
pub(super) struct RecordQueue {
    client: *mut sys::rd_kafka_t,
    topic: CString,
    records: *mut sys::rd_kafka_queue_t,
    own: *mut sys::rd_kafka_queue_t,
    /// The partitions that were started here.
    started: Option<Started>,
    /// On the heap, because librdkafka keeps its address.
    bell: Box<Bell>,
}

/// Partitions that are read without a group.
struct Started {
    topic: NonNull<sys::rd_kafka_topic_t>,
    partitions: Vec<i32>,
}

impl Started {
    /// Waits a moment until librdkafka knows who leads the topic's partitions. A partition that is started earlier asks for its first
    /// offset half a second later. Without an answer it is no worse than that.
    fn await_leaders(&self, client: *mut sys::rd_kafka_t) {
        let mut metadata = null();
        let millis = LEADERS_WAIT.as_millis() as i32;
        // SAFETY: client and topic are alive; what is answered is ours, and freed.
        unsafe {
            sys::rd_kafka_metadata(client, 0, self.topic.as_ptr(), &raw mut metadata, millis);
            if !metadata.is_null() {
                sys::rd_kafka_metadata_destroy(metadata);
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: the partitions were started with this handle, which is counted by librdkafka, and our count is given back.
        unsafe {
            for partition in &self.partitions {
                sys::rd_kafka_consume_stop(self.topic.as_ptr(), *partition);
            }
            sys::rd_kafka_topic_destroy(self.topic.as_ptr());
        }
    }
}

// SAFETY: librdkafka's queues and topic handles may be used from any thread.
unsafe impl Send for RecordQueue {}

impl RecordQueue {
    /// Makes the queue for `topic`.
    ///
    /// # Safety
    /// `client` is a consumer, and lives longer than the queue.
    pub(super) unsafe fn new(client: *mut sys::rd_kafka_t, topic: &str) -> RecordQueue {
        // Kafka's names have no zero byte; one that has is nobody's topic, and the empty one is neither.
        let topic = CString::new(topic).unwrap_or_default();
        let bell = Box::new(Bell::default());
        // SAFETY: the client is alive; the bell, on the heap, lives until it is taken off, when this is dropped.
        unsafe {
            let records = sys::rd_kafka_queue_new(client);
            // A consumer without a group has no queue but the client's.
            let own = NonNull::new(sys::rd_kafka_queue_get_consumer(client));
            let own = own.map_or_else(|| sys::rd_kafka_queue_get_main(client), NonNull::as_ptr);
            bell.hang(records);
            bell.hang(own);
            RecordQueue { client, topic, records, own, started: None, bell }
        }
    }

    /// From the next assignment on, records of `partitions` come here; to be called before each.
    pub(super) fn forward(&self, partitions: impl IntoIterator<Item = i32>) {
        for partition in partitions {
            // SAFETY: the client is alive; both queues are counted by librdkafka, and our count is given back.
            unsafe {
                let queue = sys::rd_kafka_queue_get_partition(self.client, self.topic.as_ptr(), partition);
                if !queue.is_null() {
                    sys::rd_kafka_queue_forward(queue, self.records);
                    sys::rd_kafka_queue_destroy(queue);
                }
            }
        }
    }

    /// Reads partitions from these offsets on, without a group. To be called once.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub(super) fn start(&mut self, starts: &[(i32, Offset)]) -> Result<(), KafkaError> {
        // SAFETY: the client is alive, the name is copied, and a topic without settings of its own has the client's.
        let topic = NonNull::new(unsafe { sys::rd_kafka_topic_new(self.client, self.topic.as_ptr(), null_mut()) });
        let topic = topic.ok_or_else(last_error)?;
        let started = self.started.insert(Started { topic, partitions: Vec::new() });
        started.await_leaders(self.client);
        for (partition, offset) in starts {
            let offset = offset.to_raw().unwrap_or(sys::RD_KAFKA_OFFSET_INVALID.into());
            // SAFETY: client, topic and queue are alive.
            let code = unsafe { sys::rd_kafka_consume_start_queue(topic.as_ptr(), *partition, offset, self.records) };
            if code != 0 {
                return Err(last_error());
            }
            started.partitions.push(*partition);
        }
        Ok(())
    }

    /// Takes what is there, without waiting. What is no record is given to `other`, and ends the batch.
    pub(super) fn take<'q>(
        &'q self,
        records: &mut Vec<Record<'q>>,
        limits: BatchLimits,
        mut other: impl FnMut(NoRecord),
    ) {
        let mut bytes = 0;
        let mut slice = [null_mut(); SLICE_RECORDS];
        while records.len() < limits.records && bytes < limits.bytes {
            let wanted = SLICE_RECORDS.min(limits.records - records.len());
            // SAFETY: the slice has room for as many.
            let taken = unsafe { sys::rd_kafka_consume_batch_queue(self.records, 0, slice.as_mut_ptr(), wanted) };
            // Less than nothing is an error of a queue that is no consumer's.
            let taken = usize::try_from(taken).unwrap_or(0);
            let mut last = taken < wanted;
            for message in slice[..taken].iter().copied().filter_map(NonNull::new) {
                // SAFETY: the message was just given to us; the client lives longer than this queue, from which it is borrowed.
                match unsafe { Record::take(message) } {
                    Ok(record) => {
                        bytes += record.len();
                        records.push(record);
                    }
                    Err(no_record) => {
                        other(no_record);
                        last = true;
                    }
                }
            }
            if last {
                break;
            }
        }
    }

    /// Whether the consumer's own queue has something for `poll`.
    pub(super) fn has_events(&self) -> bool {
        // SAFETY: the queue is alive as long as this is.
        unsafe { sys::rd_kafka_queue_length(self.own) > 0 }
    }

    /// From now on [`RecordQueue::wait_until`] returns when one of the queues, being empty, gets something. To be called before
    /// both are looked at.
    pub(super) fn watch(&self) {
        self.bell.reset();
    }

    /// Waits until one of the queues has something; whether it has at `deadline`.
    pub(super) fn wait_until(&self, deadline: Instant) -> bool {
        self.bell.wait_until(deadline)
    }
}

impl Drop for RecordQueue {
    fn drop(&mut self) {
        // Before the queue that it was started on.
        self.started = None;
        // SAFETY: both queues are ours until here. What partitions are still forwarded here is dropped by librdkafka.
        unsafe {
            for queue in [self.records, self.own] {
                Bell::unhang(queue);
                sys::rd_kafka_queue_destroy(queue);
            }
        }
    }
}

/// Of the last call of this thread, where calls tell it that way.
fn last_error() -> KafkaError {
    // SAFETY: a plain getter.
    KafkaError::MessageConsumption(unsafe { sys::rd_kafka_last_error() }.into())
}
