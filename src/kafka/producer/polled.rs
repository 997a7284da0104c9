//! A producer of rdkafka's whose delivery reports a thread handles as they come.
//!
//! rdkafka's own `ThreadedProducer` polls for 100 ms at a time: it spins through the last millisecond of each, and whoever drops it
//! waits for the rest.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka_sys as sys;

use super::ProduceContext;
use crate::kafka::Error;
use crate::kafka::bell::Bell;

/// A producer and the thread that polls it, which ends with it.
pub(super) struct Polled {
    shared: Arc<Shared>,
    /// Taken when it is waited for.
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    producer: BaseProducer<ProduceContext>,
    /// What `producer` polls.
    queue: *mut sys::rd_kafka_queue_t,
    bell: Bell,
    stop: AtomicBool,
}

// SAFETY: librdkafka's queues may be used from any thread; all else is.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Polled {
    /// Makes the producer and starts the thread.
    ///
    /// # Errors
    /// When a setting is not valid; when there is no thread.
    pub(super) fn create(config: &ClientConfig, context: ProduceContext) -> Result<Polled, Error> {
        let doing = "creating a producer";
        let brokers = context.brokers.clone();
        let producer = BaseProducer::from_config_and_context(config, context)
            .map_err(|error| Error::new(doing, &brokers, &error))?;
        // SAFETY: the client is alive.
        let queue = unsafe { sys::rd_kafka_queue_get_main(producer.client().native_ptr()) };
        let shared = Arc::new(Shared { producer, queue, bell: Bell::default(), stop: AtomicBool::new(false) });
        // SAFETY: the bell is on the heap, and taken off before it goes.
        unsafe { shared.bell.hang(queue) };
        // What came before the bell hung has rung none.
        shared.bell.ring();
        let thread = std::thread::Builder::new().name("reports".to_owned()).spawn({
            let shared = shared.clone();
            move || shared.poll()
        });
        let thread = thread.map_err(|error| Error::Other {
            doing: doing.to_owned(),
            cause: format!("no thread for its delivery reports: {error}"),
            fatal: false,
        })?;
        Ok(Polled { shared, thread: Some(thread) })
    }
}

impl Deref for Polled {
    type Target = BaseProducer<ProduceContext>;

    fn deref(&self) -> &Self::Target {
        &self.shared.producer
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the thread that polls delivery reports panicked");
        }
    }
}

impl Shared {
    /// Handles whatever comes until it is to stop.
    fn poll(&self) {
        while !self.stop.load(Ordering::Acquire) {
            self.bell.wait();
            // SAFETY: the queue is alive as long as this is.
            while unsafe { sys::rd_kafka_queue_length(self.queue) } > 0 {
                self.producer.poll(Duration::ZERO);
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the queue is counted by librdkafka, and our count is given back, before its client goes.
        unsafe {
            Bell::unhang(self.queue);
            sys::rd_kafka_queue_destroy(self.queue);
        }
    }
}
