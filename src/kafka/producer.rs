//! A polled producer, with flush and commit that do not wait longer than they must; its transactions are in `producer/transaction.rs`.
//!
//! rdkafka's own `flush` and `commit_transaction` take 100 ms each whenever something is in flight, because they poll in
//! steps that last their whole time. Here a thread polls the delivery reports (`producer/polled.rs`), and `rd_kafka_flush`
//! and `rd_kafka_commit_transaction` are called directly: about 12 ms a commit.

mod headers;
mod polled;
mod topics;
mod transaction;

pub use headers::Headers;
pub use transaction::{Ended, Running};

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::null;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{Producer as _, ProducerContext};
use rdkafka::util::IntoOpaque;
use rdkafka_sys as sys;

use super::memory::SENT_RECORD_BYTES;
use super::settings::{Connection, PRODUCE_QUEUE_KIB, number};
use super::{Error, context};
use polled::Polled;
use topics::Topics;

/// How long a producer that is full is left alone before it is tried again.
const FULL_RETRY: Duration = Duration::from_millis(2);

/// Of a record, what librdkafka is told in any case: topic, flags, key, value, ticket.
const ALWAYS_GIVEN: usize = 5;

/// A record to send.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition; `None` lets the key decide, as Java's clients do.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch; `None` is now.
    pub timestamp_ms: Option<i64>,
    /// The headers.
    pub headers: Headers,
}

impl Outgoing<'_> {
    /// The bytes of key and value.
    pub fn len(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len)
    }

    /// Whether it has neither key nor value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What became of a [`Producer::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The producer has it and will deliver it or report a failure.
    Accepted,
    /// The producer's queue is full: back-pressure, not an error. Try again later.
    Full,
    /// The record is larger than `message.max.bytes`: it can never be sent.
    TooLarge,
}

/// Where a tagged record ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// The tag that it was sent with.
    pub tag: u32,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// What a record is sent with when nobody asks where it ended up.
pub const UNTAGGED: u32 = 0;

/// What a record takes along until its delivery is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticket {
    tag: u32,
    generation: Generation,
    /// The memory that the record takes meanwhile; at most [`TICKET_BYTES_MAX`].
    bytes: u32,
}

/// Records that were sent before a [`Producer::seal`], or after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Generation {
    #[default]
    Even,
    Odd,
}

impl Generation {
    fn next(self) -> Generation {
        match self {
            Generation::Even => Generation::Odd,
            Generation::Odd => Generation::Even,
        }
    }
}

const _: () = assert!(usize::BITS >= u64::BITS, "a ticket travels in the place of a pointer");
/// A ticket's upper half has the generation in its last bit, before it the bytes.
const TICKET_BYTES_MAX: u32 = u32::MAX >> 1;

impl IntoOpaque for Ticket {
    fn into_ptr(self) -> *mut c_void {
        let upper = (self.bytes as usize) << 1 | self.generation as usize;
        std::ptr::without_provenance_mut(upper << u32::BITS | self.tag as usize)
    }

    unsafe fn from_ptr(pointer: *mut c_void) -> Ticket {
        let (both, upper) = (pointer.addr(), (pointer.addr() >> u32::BITS) as u32);
        let generation = if upper & 1 == 0 { Generation::Even } else { Generation::Odd };
        Ticket { tag: both as u32, generation, bytes: upper >> 1 }
    }
}

#[derive(Default)]
struct ProduceContext {
    brokers: String,
    /// By generation, the memory of all records that were delivered or failed so far; wraps around.
    ended_bytes: [AtomicUsize; 2],
    /// The first delivery that failed since anyone asked.
    failure: Mutex<Option<Error>>,
    delivered: Mutex<Vec<Delivered>>,
}

impl ClientContext for ProduceContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        context::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        context::error(&error, reason);
    }
}

impl ProducerContext for ProduceContext {
    type DeliveryOpaque = Ticket;

    fn delivery(&self, result: &DeliveryResult<'_>, Ticket { tag, generation, bytes }: Ticket) {
        match result {
            Ok(_) if tag == UNTAGGED => {}
            Ok(message) => {
                let delivered = Delivered { tag, partition: message.partition(), offset: message.offset() };
                self.delivered.lock().unwrap_or_else(PoisonError::into_inner).push(delivered);
            }
            Err((error, message)) => {
                let doing = format!("delivering a record to {}", message.topic());
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert_with(|| Error::new(doing, &self.brokers, error));
            }
        }
        // Last: whoever sees that all have ended sees the failure too.
        self.ended_bytes[generation as usize].fetch_add(bytes as usize, Ordering::Release);
    }
}

/// Sends records; a thread of its own polls the delivery reports.
pub struct Producer {
    /// Before `inner`, because they go first.
    topics: Topics,
    inner: Arc<Polled>,
    brokers: String,
    /// The most memory of records that wait.
    queue_bytes_max: usize,
    /// By generation, the memory of all records that were sent so far; wraps around.
    sent_bytes: [Cell<usize>; 2],
    /// How much of it had ended when that was looked at last. The thread that polls counts it up for each record: looking for
    /// each would make both wait for one another.
    seen_ended_bytes: [Cell<usize>; 2],
    generation: Cell<Generation>,
    /// How long a transactional call is repeated; nothing for a producer without transactions.
    transaction_timeout: Duration,
    /// Whether sequence numbers may be given twice.
    miscounts: Cell<bool>,
}

impl Producer {
    /// An idempotent producer.
    ///
    /// # Errors
    /// When a setting is not valid.
    pub fn idempotent(connection: &Connection) -> Result<Producer, Error> {
        Producer::create(connection, &connection.producer())
    }

    /// A transactional producer that owns its id: see [`Producer::take_over`], for which it waits as long as a transaction may
    /// take.
    ///
    /// # Errors
    /// When a setting is not valid, no broker answers in time, or the cluster refuses.
    pub fn transactional(
        connection: &Connection,
        transactional_id: &str,
        timeout: Duration,
    ) -> Result<Producer, Error> {
        let producer = Producer::transactional_later(connection, transactional_id, timeout)?;
        producer.take_over(timeout)?;
        Ok(producer)
    }

    /// A transactional producer that has yet to take its id over. The broker aborts a transaction that stays open longer than
    /// `timeout`.
    ///
    /// # Errors
    /// When a setting is not valid.
    pub fn transactional_later(
        connection: &Connection,
        transactional_id: &str,
        timeout: Duration,
    ) -> Result<Producer, Error> {
        let mut producer = Producer::create(connection, &connection.transactional_producer(transactional_id, timeout))?;
        producer.transaction_timeout = timeout;
        Ok(producer)
    }

    fn create(connection: &Connection, config: &ClientConfig) -> Result<Producer, Error> {
        let context = ProduceContext { brokers: connection.brokers().to_owned(), ..ProduceContext::default() };
        let inner = Arc::new(Polled::create(config, context)?);
        let queue_kib = number(config, "queue.buffering.max.kbytes").unwrap_or(u64::from(PRODUCE_QUEUE_KIB));
        Ok(Producer {
            topics: Topics::default(),
            inner,
            brokers: connection.brokers().to_owned(),
            queue_bytes_max: usize::try_from(queue_kib.saturating_mul(1024)).unwrap_or(usize::MAX),
            sent_bytes: Default::default(),
            seen_ended_bytes: Default::default(),
            generation: Cell::default(),
            transaction_timeout: Duration::ZERO,
            miscounts: Cell::default(),
        })
    }

    /// Hands a record to the producer without waiting. A `tag` other than [`UNTAGGED`] is reported by
    /// [`Producer::take_delivered`].
    ///
    /// # Errors
    /// When the producer is of no use any more, or the topic is unknown.
    pub fn send(&self, outgoing: Outgoing<'_>, tag: u32) -> Result<Sent, Error> {
        let bytes = u32::try_from(SENT_RECORD_BYTES + outgoing.len() + outgoing.headers.bytes()).unwrap_or(u32::MAX);
        let bytes = bytes.min(TICKET_BYTES_MAX);
        if !self.has_room_for(bytes as usize) {
            return Ok(Sent::Full);
        }
        let (topic, generation) = (outgoing.topic, self.generation.get());
        let sent = self.enqueue(outgoing, Ticket { tag, generation, bytes });
        if sent.is_ok() {
            let sent_bytes = &self.sent_bytes[generation as usize];
            sent_bytes.set(sent_bytes.get().wrapping_add(bytes as usize));
        }
        match sent {
            Ok(()) => Ok(Sent::Accepted),
            Err(RDKafkaErrorCode::QueueFull) => Ok(Sent::Full),
            Err(RDKafkaErrorCode::MessageSizeTooLarge) => Ok(Sent::TooLarge),
            Err(code) => {
                Err(self.send_error(format!("sending a record to {topic}"), &KafkaError::MessageProduction(code)))
            }
        }
    }

    /// Whether `bytes` fit beside what waits. One record is always taken, however large.
    fn has_room_for(&self, bytes: usize) -> bool {
        let fits = || {
            let queued = self.outstanding_bytes(Generation::Even) + self.outstanding_bytes(Generation::Odd);
            queued == 0 || queued + bytes <= self.queue_bytes_max
        };
        fits() || {
            self.look_at_deliveries();
            fits()
        }
    }

    fn outstanding_bytes(&self, generation: Generation) -> usize {
        let generation = generation as usize;
        self.sent_bytes[generation].get().wrapping_sub(self.seen_ended_bytes[generation].get())
    }

    fn look_at_deliveries(&self) {
        for (seen, ended) in self.seen_ended_bytes.iter().zip(&self.inner.context().ended_bytes) {
            seen.set(ended.load(Ordering::Acquire));
        }
    }

    /// Draws a line behind the records that were sent so far, of which [`Producer::is_sealed_delivered`] tells. Once for each
    /// time that it has said yes.
    pub fn seal(&self) {
        self.generation.set(self.generation.get().next());
    }

    /// Whether all records that were sent before the last [`Producer::seal`] were delivered or failed.
    pub fn is_sealed_delivered(&self) -> bool {
        self.look_at_deliveries();
        self.outstanding_bytes(self.generation.get().next()) == 0
    }

    /// Hands a record to librdkafka, which copies it. rdkafka's own call copies the name of the topic and looks it up, for each
    /// record.
    fn enqueue(&self, outgoing: Outgoing<'_>, ticket: Ticket) -> Result<(), RDKafkaErrorCode> {
        use sys::rd_kafka_vtype_t as vtype;
        // SAFETY: the client lives as long as `inner`, which goes after the topics.
        let topic = unsafe { self.topics.handle(self.client(), outgoing.topic) };
        let topic = topic.ok_or(RDKafkaErrorCode::InvalidTopic)?;
        let value = |vtype, u| sys::rd_kafka_vu_t { vtype, u };
        let of_bytes = |bytes: Option<&[u8]>| {
            let (start, size) = bytes.map_or((null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
            let mem = sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr: start.cast_mut().cast(), size };
            sys::rd_kafka_vu_s__bindgen_ty_1 { mem }
        };
        let mut arguments = [
            value(vtype::RD_KAFKA_VTYPE_RKT, sys::rd_kafka_vu_s__bindgen_ty_1 { rkt: topic.as_ptr() }),
            value(vtype::RD_KAFKA_VTYPE_MSGFLAGS, sys::rd_kafka_vu_s__bindgen_ty_1 { i: sys::RD_KAFKA_MSG_F_COPY }),
            value(vtype::RD_KAFKA_VTYPE_KEY, of_bytes(outgoing.key)),
            value(vtype::RD_KAFKA_VTYPE_VALUE, of_bytes(outgoing.value)),
            value(vtype::RD_KAFKA_VTYPE_OPAQUE, sys::rd_kafka_vu_s__bindgen_ty_1 { ptr: ticket.into_ptr() }),
            value(vtype::RD_KAFKA_VTYPE_END, sys::rd_kafka_vu_s__bindgen_ty_1 { i: 0 }),
            value(vtype::RD_KAFKA_VTYPE_END, sys::rd_kafka_vu_s__bindgen_ty_1 { i: 0 }),
            value(vtype::RD_KAFKA_VTYPE_END, sys::rd_kafka_vu_s__bindgen_ty_1 { i: 0 }),
        ];
        let mut count = ALWAYS_GIVEN;
        let mut give = |vtype, u| {
            arguments[count] = value(vtype, u);
            count += 1;
        };
        if let Some(partition) = outgoing.partition {
            give(vtype::RD_KAFKA_VTYPE_PARTITION, sys::rd_kafka_vu_s__bindgen_ty_1 { i32_: partition });
        }
        if let Some(timestamp) = outgoing.timestamp_ms {
            give(vtype::RD_KAFKA_VTYPE_TIMESTAMP, sys::rd_kafka_vu_s__bindgen_ty_1 { i64_: timestamp });
        }
        if let Some(list) = outgoing.headers.list() {
            give(vtype::RD_KAFKA_VTYPE_HEADERS, sys::rd_kafka_vu_s__bindgen_ty_1 { headers: list.as_ptr() });
        }
        // SAFETY: each argument has the member of the union that its type asks for; what they point to lives as long as the call,
        // which copies key and value and, where it succeeds, takes the headers over.
        let error = unsafe { sys::rd_kafka_produceva(self.client(), arguments.as_ptr(), count) };
        if error.is_null() {
            outgoing.headers.sent();
            return Ok(());
        }
        // SAFETY: the error is ours until it is destroyed, and not used afterwards.
        unsafe {
            let code = sys::rd_kafka_error_code(error);
            sys::rd_kafka_error_destroy(error);
            Err(code.into())
        }
    }

    fn client(&self) -> *mut sys::rd_kafka_t {
        self.inner.client().native_ptr()
    }

    fn send_error(&self, doing: String, error: &KafkaError) -> Error {
        match error.rdkafka_error_code() {
            // A delivery of this transaction failed, and librdkafka takes no more for it.
            Some(RDKafkaErrorCode::State) if self.is_transactional() => {
                Error::Abortable { doing, cause: error.to_string() }
            }
            Some(RDKafkaErrorCode::Fatal) => {
                self.fatal_error(&doing).unwrap_or_else(|| Error::new(doing, &self.brokers, error))
            }
            _ => Error::new(doing, &self.brokers, error),
        }
    }

    fn is_transactional(&self) -> bool {
        !self.transaction_timeout.is_zero()
    }

    /// As [`Producer::send`], waiting for room until `deadline`. `make` builds the record for each attempt.
    ///
    /// # Errors
    /// As [`Producer::send`]; also when there is no room in time, or the record is too large.
    pub fn send_waiting<'a>(&self, make: impl Fn() -> Outgoing<'a>, tag: u32, deadline: Instant) -> Result<(), Error> {
        loop {
            match self.send(make(), tag)? {
                Sent::Accepted => return Ok(()),
                Sent::TooLarge => {
                    return Err(Error::Other {
                        doing: format!("sending a record to {}", make().topic),
                        cause: "it is larger than message.max.bytes (-X message.max.bytes=… raises it)".to_owned(),
                        fatal: false,
                    });
                }
                Sent::Full if Instant::now() >= deadline => {
                    let doing = format!("sending records to {}", make().topic);
                    let cause = "its queue stays full".to_owned();
                    return Err(Error::Unreachable { doing, brokers: self.brokers.clone(), cause });
                }
                Sent::Full => std::thread::sleep(FULL_RETRY),
            }
        }
    }

    /// Waits until everything sent so far was delivered or failed, at most `wait`; whether it was.
    pub fn flush(&self, wait: Duration) -> bool {
        let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client lives as long as `self.inner`; the reports are polled by its thread, as the call demands.
        let error = unsafe { sys::rd_kafka_flush(self.client(), millis) };
        error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    /// Records that were sent and not delivered yet.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.inner.in_flight_count()).unwrap_or(0)
    }

    /// The first delivery that failed since the last call.
    pub fn take_failure(&self) -> Option<Error> {
        self.inner.context().failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Why the producer is of no use any more, if it is: fenced, for example.
    pub fn fatal_error(&self, doing: &str) -> Option<Error> {
        let (code, text) = self.inner.client().fatal_error()?;
        Some(Error::of_code(doing.to_owned(), &self.brokers, code, text))
    }

    /// Where the tagged records ended up that were delivered since the last call.
    pub fn take_delivered(&self) -> Vec<Delivered> {
        std::mem::take(&mut *self.inner.context().delivered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::memory::SENT_HEADER_BYTES;

    #[test]
    fn a_ticket_comes_back_as_it_went() {
        for ticket in [
            Ticket { tag: 0, generation: Generation::Even, bytes: 0 },
            Ticket { tag: 7, generation: Generation::Odd, bytes: TICKET_BYTES_MAX },
            Ticket { tag: u32::MAX, generation: Generation::Even, bytes: 448 },
        ] {
            // SAFETY: the pointer is one of a ticket.
            assert_eq!(unsafe { Ticket::from_ptr(ticket.into_ptr()) }, ticket);
        }
    }

    #[test]
    fn a_producer_without_a_broker_is_full_when_its_limit_is_reached_by_keys_and_headers_too() {
        let properties = ["queue.buffering.max.kbytes=100".to_owned()];
        let connection = Connection::new("127.0.0.1:1", &properties).expect("valid");
        let producer = Producer::idempotent(&connection).expect("valid settings");
        let send = |key: &[u8], header: &[u8]| {
            let headers = Headers::with_capacity(1).with("h", header);
            let outgoing =
                Outgoing { topic: "t", partition: None, key: Some(key), value: None, timestamp_ms: None, headers };
            producer.send(outgoing, UNTAGGED).expect("usable")
        };
        assert_eq!(send(&[0; 200_000], b""), Sent::Accepted, "one record is always taken");
        assert_eq!(send(b"", b""), Sent::Full);
        drop(producer);
        let producer = Producer::idempotent(&connection).expect("valid settings");
        let full = (0..1_000).position(|_| {
            let headers = Headers::with_capacity(1).with("h", &[0; 1_000]);
            let outgoing =
                Outgoing { topic: "t", partition: None, key: None, value: None, timestamp_ms: None, headers };
            producer.send(outgoing, UNTAGGED).expect("usable") == Sent::Full
        });
        assert_eq!(full, Some(100 * 1024 / (SENT_RECORD_BYTES + SENT_HEADER_BYTES + 1 + 1_000)));
    }
}
