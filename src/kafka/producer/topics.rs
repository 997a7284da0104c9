//! librdkafka's handles of the topics that a producer sends to, so that no record looks one up by its name.

use std::cell::RefCell;
use std::ffi::CString;
use std::ptr::{NonNull, null_mut};

use rdkafka_sys as sys;

/// A handle. Goes before its producer does.
struct Topic {
    name: String,
    handle: NonNull<sys::rd_kafka_topic_t>,
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the handle is counted by librdkafka, and our count is given back.
        unsafe { sys::rd_kafka_topic_destroy(self.handle.as_ptr()) }
    }
}

/// The topics that were sent to so far: a lane has two, and so a list is searched.
#[derive(Default)]
pub(super) struct Topics(RefCell<Vec<Topic>>);

// SAFETY: librdkafka's handles may be used from any thread.
unsafe impl Send for Topics {}

impl Topics {
    /// The handle of topic `name`; `None` for a name that no topic can have.
    ///
    /// # Safety
    /// `client` is always the same producer, and lives longer than `self`.
    pub(super) unsafe fn handle(
        &self,
        client: *mut sys::rd_kafka_t,
        name: &str,
    ) -> Option<NonNull<sys::rd_kafka_topic_t>> {
        let mut topics = self.0.borrow_mut();
        if let Some(topic) = topics.iter().find(|topic| topic.name == name) {
            return Some(topic.handle);
        }
        let c_name = CString::new(name).ok()?;
        // SAFETY: the client is alive, the name is copied, and a topic without settings of its own has the client's.
        let handle = NonNull::new(unsafe { sys::rd_kafka_topic_new(client, c_name.as_ptr(), null_mut()) })?;
        topics.push(Topic { name: name.to_owned(), handle });
        Some(handle)
    }
}
