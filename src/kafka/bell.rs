//! Wakes a thread when a queue of librdkafka, being empty, gets something.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rdkafka_sys as sys;

/// Rings when a queue that was empty gets something; stays rung until it is reset.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    /// From now on `queue` rings it.
    ///
    /// # Safety
    /// The bell stays where it is, and alive, until [`Bell::unhang`].
    pub(super) unsafe fn hang(&self, queue: *mut sys::rd_kafka_queue_t) {
        let bell = (&raw const *self).cast_mut().cast::<c_void>();
        // SAFETY: the caller's promise.
        unsafe { sys::rd_kafka_queue_cb_event_enable(queue, Some(ring), bell) }
    }

    /// `queue` rings no bell any more. It is locked while it rings, so it does not do so now either.
    ///
    /// # Safety
    /// `queue` is alive.
    pub(super) unsafe fn unhang(queue: *mut sys::rd_kafka_queue_t) {
        // SAFETY: the caller's promise.
        unsafe { sys::rd_kafka_queue_cb_event_enable(queue, None, null_mut()) }
    }

    /// Rings it.
    pub(super) fn ring(&self) {
        *self.rung() = true;
        self.changed.notify_one();
    }

    /// Whoever waits from now on waits for what comes from now on. To be called before the queues are looked at.
    pub(super) fn reset(&self) {
        *self.rung() = false;
    }

    /// Waits until it rings; whether it has at `deadline`.
    pub(super) fn wait_until(&self, deadline: Instant) -> bool {
        let mut rung = self.rung();
        while !*rung {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            rung = self.changed.wait_timeout(rung, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits until it rings, and resets it.
    pub(super) fn wait(&self) {
        let mut rung = self.rung();
        while !*rung {
            rung = self.changed.wait(rung).unwrap_or_else(PoisonError::into_inner);
        }
        *rung = false;
    }

    fn rung(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// # Safety
/// `bell` is the address of a [`Bell`] that is alive.
unsafe extern "C" fn ring(_: *mut sys::rd_kafka_t, bell: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { &*bell.cast::<Bell>() }.ring();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_rung_until_it_is_reset_or_waited_for() {
        let bell = Bell::default();
        let past = Instant::now();
        assert!(!bell.wait_until(past));
        bell.ring();
        assert!(bell.wait_until(past) && bell.wait_until(past));
        bell.reset();
        assert!(!bell.wait_until(past));
        bell.ring();
        bell.wait();
        assert!(!bell.wait_until(past), "waiting has reset it");
    }

    #[test]
    fn it_wakes_who_waits() {
        let bell = Bell::default();
        std::thread::scope(|scope| {
            scope.spawn(|| bell.ring());
            bell.wait();
        });
    }
}
