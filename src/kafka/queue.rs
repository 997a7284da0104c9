//! Records in batches, by the calls that librdkafka has for it.
//!
//! rdkafka takes one message at a time and makes an event object of each. `rd_kafka_consume_batch_queue` takes many with one
//! call. A consumer's own queue also carries what its callbacks are told, rebalances above all, and rdkafka's `poll` must see
//! it. So the queue of each partition that is read is forwarded to a queue for records only, and batches are taken there; the
//! consumer's own queue is polled beside it. What was fetched before a seek or an unassignment is outdated by the version that
//! librdkafka gives each of them, and dropped when it is taken.

use std::ffi::{CString, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rdkafka_sys as sys;

use super::record::{NoRecord, Record};

/// The most records that are taken by one call; so many may come beyond the bytes that a batch may have.
const SLICE_RECORDS: usize = 64;

/// How much a batch may hold.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Records.
    pub records: usize,
    /// Bytes of keys and payloads; the records that were taken together with the one that fills it may exceed it.
    pub bytes: usize,
}

/// The queue that all partitions of one topic are read from, beside a consumer's own. Goes before its consumer does.
pub(super) struct RecordQueue {
    client: *mut sys::rd_kafka_t,
    topic: CString,
    records: *mut sys::rd_kafka_queue_t,
    own: *mut sys::rd_kafka_queue_t,
    /// On the heap, because librdkafka keeps its address.
    bell: Box<Bell>,
}

// SAFETY: librdkafka's queues may be used from any thread.
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
        let opaque = (&raw const *bell).cast_mut().cast::<c_void>();
        // SAFETY: the client is alive; the bell lives until its address is taken back, when this is dropped.
        unsafe {
            let records = sys::rd_kafka_queue_new(client);
            let own = sys::rd_kafka_queue_get_consumer(client);
            sys::rd_kafka_queue_cb_event_enable(records, Some(ring), opaque);
            sys::rd_kafka_queue_cb_event_enable(own, Some(ring), opaque);
            RecordQueue { client, topic, records, own, bell }
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
        *self.bell.rung() = false;
    }

    /// Waits until one of the queues has something; whether it has at `deadline`.
    pub(super) fn wait_until(&self, deadline: Instant) -> bool {
        let mut rung = self.bell.rung();
        while !*rung {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            rung = self.bell.changed.wait_timeout(rung, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for RecordQueue {
    fn drop(&mut self) {
        // SAFETY: both queues are ours until here. A callback is made with its queue locked, so none is under way once it is
        // taken back. What partitions are still forwarded here is dropped by librdkafka.
        unsafe {
            for queue in [self.records, self.own] {
                sys::rd_kafka_queue_cb_event_enable(queue, None, null_mut());
                sys::rd_kafka_queue_destroy(queue);
            }
        }
    }
}

/// Rings when a queue that was empty gets something.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn rung(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// # Safety
/// `bell` is the address of a [`Bell`] that is alive.
unsafe extern "C" fn ring(_: *mut sys::rd_kafka_t, bell: *mut c_void) {
    // SAFETY: the caller's promise.
    let bell = unsafe { &*bell.cast::<Bell>() };
    *bell.rung() = true;
    bell.changed.notify_one();
}
