//! Headers of a record to send.

use std::ptr::{NonNull, null};

use rdkafka_sys as sys;

use crate::kafka::memory::SENT_HEADER_BYTES;
use crate::kafka::record::Record;

/// Headers of a record to send, and the memory that they take.
///
/// librdkafka's own list, which a record takes along: rdkafka's would copy each name to put a zero byte behind it.
#[derive(Debug, Default)]
pub struct Headers {
    list: Option<NonNull<sys::rd_kafka_headers_t>>,
    bytes: usize,
}

impl Headers {
    /// No headers, with room for `capacity`.
    pub fn with_capacity(capacity: usize) -> Headers {
        // SAFETY: a plain constructor.
        Headers { list: NonNull::new(unsafe { sys::rd_kafka_headers_new(capacity) }), bytes: 0 }
    }

    /// Appends one.
    #[must_use]
    pub fn with(mut self, name: impl AsRef<[u8]>, value: &[u8]) -> Headers {
        self.push(name.as_ref(), Some(value));
        self
    }

    /// Appends all headers of `record`, in order, except those whose name starts with `except`.
    #[must_use]
    pub fn with_those_of(mut self, record: &Record<'_>, except: &str) -> Headers {
        for (name, value) in record.raw_headers().filter(|(name, _)| !name.starts_with(except.as_bytes())) {
            self.push(name, value);
        }
        self
    }

    fn push(&mut self, name: &[u8], value: Option<&[u8]>) {
        if self.list.is_none() {
            *self = Headers::with_capacity(1);
        }
        let Some(list) = self.list else { return };
        let (start, len) = value.map_or((null(), 0), |value| (value.as_ptr(), value.len()));
        // SAFETY: the list is ours; name and value are copied, as many bytes as their lengths say. No slice is longer than
        // `isize::MAX`. It fails only for a list that must not be changed, which is one of a message.
        unsafe {
            sys::rd_kafka_header_add(
                list.as_ptr(),
                name.as_ptr().cast(),
                name.len() as isize,
                start.cast(),
                len as isize,
            );
        }
        self.bytes += SENT_HEADER_BYTES + name.len() + len;
    }

    /// The memory that they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The list, where there is one; still ours.
    pub(super) fn list(&self) -> Option<NonNull<sys::rd_kafka_headers_t>> {
        self.list
    }

    /// The list is a record's now.
    pub(super) fn sent(mut self) {
        self.list = None;
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        if let Some(list) = self.list {
            // SAFETY: the list is ours and not used any more.
            unsafe { sys::rd_kafka_headers_destroy(list.as_ptr()) }
        }
    }
}
