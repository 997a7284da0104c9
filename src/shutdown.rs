//! Signals become one stop token; the drain has a deadline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The exit code after a second signal: what shells report for a process that SIGINT ended.
pub const EXIT_SECOND_SIGNAL: i32 = 130;

/// Says that the process is to stop. Clones say the same.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    set: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    /// A token that is not set.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Sets it; there is no way back.
    pub fn set(&self) {
        let _guard = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.set.store(true, Ordering::Release);
        self.0.changed.notify_all();
    }

    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    /// Waits until it is set, at most `wait`; whether it is.
    pub fn wait(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut guard = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_set() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            guard = self.0.changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Sets `stop` at the first SIGTERM or SIGINT; the second ends the process at once with [`EXIT_SECOND_SIGNAL`].
///
/// # Errors
/// When the signals cannot be caught.
pub fn on_signals(runtime: &tokio::runtime::Handle, stop: Stop) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let _inside = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    runtime.spawn(async move {
        for count in 1.. {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if count > 1 {
                tracing::warn!(
                    signal = name,
                    "second signal: exiting at once, unfinished batches are done again later"
                );
                std::process::exit(EXIT_SECOND_SIGNAL);
            }
            tracing::info!(signal = name, "stopping: finishing what was read; a second signal exits at once");
            stop.set();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_says_the_same_and_a_wait_ends() {
        let stop = Stop::new();
        assert!(!stop.wait(Duration::from_millis(1)));
        stop.clone().set();
        assert!(stop.is_set() && stop.wait(Duration::from_secs(60)));
    }
}
