//! A record that was read, in librdkafka's memory.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{NonNull, null, null_mut};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka_sys as sys;

/// What Kafka writes where a record has no timestamp.
const NO_TIMESTAMP: i64 = -1;

/// One record of a topic, borrowed from librdkafka's memory: nothing of it is copied.
pub struct Record<'c> {
    /// Ours until it is destroyed; it speaks of a record, not of an error.
    message: NonNull<sys::rd_kafka_message_t>,
    consumer: PhantomData<&'c ()>,
}

/// A message that is no record.
#[derive(Debug)]
pub(super) struct NoRecord {
    /// Of which partition it speaks.
    pub(super) partition: i32,
    /// Which offset there; less than nothing where it speaks of none.
    pub(super) offset: i64,
    /// What it says.
    pub(super) error: KafkaError,
}

impl NoRecord {
    pub(super) fn is_end_of_partition(&self) -> bool {
        self.error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF)
    }
}

impl Record<'_> {
    /// Takes a message over.
    ///
    /// # Safety
    /// `message` is librdkafka's, nobody else destroys it, and its client lives as long as the record.
    pub(super) unsafe fn take(message: NonNull<sys::rd_kafka_message_t>) -> Result<Self, NoRecord> {
        let record = Record { message, consumer: PhantomData };
        match record.fields().err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(record),
            code => Err(NoRecord {
                partition: record.partition(),
                offset: record.offset(),
                error: KafkaError::MessageConsumption(code.into()),
            }),
        }
    }

    fn fields(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the message is ours, alive, and nobody writes to it.
        unsafe { self.message.as_ref() }
    }

    /// The key's bytes.
    pub fn key(&self) -> Option<&[u8]> {
        let fields = self.fields();
        // SAFETY: pointer and length belong together and live as long as the message.
        unsafe { bytes(fields.key, fields.key_len) }
    }

    /// The value's bytes; `None` is a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        let fields = self.fields();
        // SAFETY: as for the key.
        unsafe { bytes(fields.payload, fields.len) }
    }

    /// The partition that it came from.
    pub fn partition(&self) -> i32 {
        self.fields().partition
    }

    /// Its offset there.
    pub fn offset(&self) -> i64 {
        self.fields().offset
    }

    /// Its timestamp in milliseconds since the Unix epoch, where it has one.
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is ours and alive; `kind` is written before the call returns.
        let timestamp = unsafe { sys::rd_kafka_message_timestamp(self.message.as_ptr(), &raw mut kind) };
        let known = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (known && timestamp != NO_TIMESTAMP).then_some(timestamp)
    }

    /// Its headers in order, those whose names are text.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.raw_headers().filter_map(|(name, value)| Some((std::str::from_utf8(name).ok()?, value)))
    }

    /// All its headers in order. Kafka's clients write names that are text, but no broker insists on it.
    pub fn raw_headers(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut headers = null_mut();
        // SAFETY: the message is ours and alive, and keeps the headers that it hands out. Without any the call fails and leaves
        // null.
        unsafe { sys::rd_kafka_message_headers(self.message.as_ptr(), &raw mut headers) };
        let count = if headers.is_null() { 0 } else { usize::MAX };
        (0..count).map_while(move |index| {
            let (mut name, mut value, mut len): (*const c_char, *const c_void, usize) = (null(), null(), 0);
            // SAFETY: the headers are the message's and alive; beyond the last one the call fails and writes nothing.
            let code =
                unsafe { sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut len) };
            // SAFETY: a name ends with a zero byte, a value has its length; both live as long as the message.
            (code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR)
                .then(|| unsafe { (CStr::from_ptr(name).to_bytes(), bytes(value, len)) })
        })
    }

    /// The bytes of key and value.
    pub fn len(&self) -> usize {
        let fields = self.fields();
        fields.key_len + fields.len
    }

    /// Whether it has neither key nor value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        // SAFETY: the message is ours and not used any more.
        unsafe { sys::rd_kafka_message_destroy(self.message.as_ptr()) }
    }
}

/// # Safety
/// `start` is null or points to `len` bytes that live and do not change for `'a`.
unsafe fn bytes<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len) })
}
