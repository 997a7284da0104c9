//! The transactional calls of a [`Producer`], each bounded in time whatever librdkafka does.
//!
//! A call that asks a coordinator can block past its own timeout, for as long as that coordinator is away (librdkafka #5456;
//! seen here with the only broker killed). So it is made on a thread of its own. A call that does not end is abandoned with its
//! producer: the lane makes a new one with the same transactional id, which fences whatever the old one may still send, and
//! the thread frees the old one once the call ends.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rdkafka::producer::Producer as _;
use rdkafka_sys as sys;

use super::polled::Polled;
use super::{FULL_RETRY, Producer};
use crate::kafka::Error;
use crate::kafka::consumer::GroupConsumer;
use crate::kafka::fault::{self, Call, Kind, Symptom, Verdict};

/// How long after their own timeouts calls are waited for before they are abandoned.
const CALL_GRACE: Duration = Duration::from_secs(2);
/// How long the records of a transaction that is to be aborted may take to be delivered.
const ABORT_DELIVERY_WAIT: Duration = Duration::from_secs(1);

impl Producer {
    /// Waits until the cluster has fenced the former owner of the transactional id and ended its transaction. May be called
    /// again when it was not done in time. It keeps its own timeout, so it needs no thread; and it must not be abandoned:
    /// sent late, it would fence the successor.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when it is not done in time; [`Error::NoTransactions`]; when the cluster refuses.
    pub fn take_over(&self, wait: Duration) -> Result<(), Error> {
        let outcome = repeat(self.client(), Call::TakeOver, wait, |client, timeout| {
            // SAFETY: the client lives as long as the producer.
            unsafe { sys::rd_kafka_init_transactions(client, timeout) }
        });
        conclude(&self.brokers, Call::TakeOver, outcome)
    }

    /// Begins a transaction; asks nobody.
    ///
    /// # Errors
    /// When one is open already, or the producer is of no use any more: see [`Producer::abort_transaction`].
    pub fn begin_transaction(&self) -> Result<(), Error> {
        if self.miscounts.get() {
            let cause = "one was aborted that was not delivered".to_owned();
            return Err(Error::Other { doing: Call::Begin.doing().to_owned(), cause, fatal: false });
        }
        let outcome = repeat(self.client(), Call::Begin, self.transaction_timeout, |client, _| {
            // SAFETY: the client lives as long as the producer.
            unsafe { sys::rd_kafka_begin_transaction(client) }
        });
        conclude(&self.brokers, Call::Begin, outcome)
    }

    /// Starts to commit the transaction on a thread of its own, with the offsets as part of it: they are committed when it is,
    /// for the member that `consumer` is now. A member of a former generation is refused, so a lane that lost its partitions
    /// cannot commit. `between` is called between the two calls that this takes.
    ///
    /// What [`Running::wait`] tells: [`Error::Abortable`] when the group does not take the offsets, or the transaction cannot be
    /// committed; [`Error::Fenced`] when a twin took over; any other error leaves open whether it was committed.
    ///
    /// # Errors
    /// [`Error::Abortable`] when the consumer is no member of its group; when there is no thread.
    pub fn start_commit(
        &self,
        consumer: &GroupConsumer,
        next: impl Iterator<Item = (i32, i64)>,
        between: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<Running, Error> {
        let offsets = consumer.offsets(next)?;
        let metadata = consumer.group_metadata();
        if !metadata.is_of_a_member() {
            let cause = "this consumer is no member of the group at the moment".to_owned();
            return Err(Error::Abortable { doing: Call::AddOffsets.doing().to_owned(), cause });
        }
        self.start(Call::Commit, 2, move |calls| {
            calls.make(Call::AddOffsets, |client, timeout| {
                // SAFETY: client, list and metadata live as long as the call, which copies what it needs.
                unsafe { sys::rd_kafka_send_offsets_to_transaction(client, offsets.ptr(), metadata.as_ptr(), timeout) }
            })?;
            between()?;
            calls.commit()
        })
    }

    /// Delivers what was sent and commits the transaction.
    ///
    /// # Errors
    /// [`Error::Abortable`] when it cannot be committed; any other error leaves open whether it was.
    pub fn commit_transaction(&self) -> Result<(), Error> {
        self.start(Call::Commit, 1, Calls::commit)?.outcome()
    }

    /// Checks that everything that was sent is delivered, which takes a moment at most. If not, an abort makes the producer useless.
    ///
    /// # Errors
    /// The first delivery that failed; or when some take longer.
    pub fn check_delivered(&self) -> Result<(), Error> {
        let delivered = self.flush(ABORT_DELIVERY_WAIT);
        match self.take_failure() {
            Some(failure) => Err(failure),
            None if delivered => Ok(()),
            None => {
                let doing = "delivering the records of a transaction that is aborted".to_owned();
                Err(Error::TimedOut { doing, seconds: ABORT_DELIVERY_WAIT.as_secs() })
            }
        }
    }

    /// Aborts the transaction. Where not all of its records are delivered, no other can be begun: librdkafka forgets those, and
    /// gives their sequence numbers to the next ones (`rd_kafka_toppar_purge_queues`). If the broker had written them and only its
    /// answer was lost, it takes the next ones for repetitions, acknowledges them and writes nothing. A new producer of the same
    /// id counts anew, in an epoch of its own.
    ///
    /// # Errors
    /// When even that is not possible; the broker aborts it after the transaction's timeout.
    pub fn abort_transaction(&self) -> Result<(), Error> {
        if self.check_delivered().is_err() {
            self.miscounts.set(true);
        }
        let abort = |calls: &Calls| {
            calls.make(Call::Abort, |client, timeout| {
                // SAFETY: the client lives as long as the call; its thread polls the reports, as the call demands.
                unsafe { sys::rd_kafka_abort_transaction(client, timeout) }
            })
        };
        self.start(Call::Abort, 1, abort)?.outcome()
    }

    /// Makes `count` calls on a thread of their own, which holds the producer as long as they need it.
    fn start(
        &self,
        call: Call,
        count: u32,
        make: impl FnOnce(&Calls) -> Result<(), Error> + Send + 'static,
    ) -> Result<Running, Error> {
        let patience = self.transaction_timeout;
        let calls = Calls { producer: self.inner.clone(), brokers: self.brokers.clone(), patience };
        let (answer, answered) = sync_channel(1);
        let thread = std::thread::Builder::new().name("transaction".to_owned()).spawn(move || {
            let outcome = make(&calls);
            // Nobody listens any more to calls that were abandoned; nor may the producer outlive the answer to those that were not.
            drop(calls);
            let _ = answer.send(Ended { outcome, at: Instant::now() });
        });
        let doing = call.doing();
        if let Err(error) = thread {
            return Err(Error::Other {
                doing: doing.to_owned(),
                cause: format!("no thread for it: {error}"),
                fatal: false,
            });
        }
        let started = Instant::now();
        Ok(Running { doing, answered, started, deadline: started + patience * count + CALL_GRACE })
    }
}

/// Transactional calls that a thread of their own is making.
pub struct Running {
    doing: &'static str,
    answered: Receiver<Ended>,
    started: Instant,
    deadline: Instant,
}

/// How they ended.
pub struct Ended {
    /// The result.
    pub outcome: Result<(), Error>,
    /// When.
    pub at: Instant,
}

impl Running {
    /// When they were started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// When they are given up.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits for the end, but not longer than until `until`. Calls that do not end by their deadline have ended with
    /// [`Error::TimedOut`]: then their producer is to be given up too.
    pub fn wait(&self, until: Instant) -> Option<Ended> {
        let left = until.min(self.deadline).saturating_duration_since(Instant::now());
        let outcome = match self.answered.recv_timeout(left) {
            Ok(ended) => return Some(ended),
            Err(RecvTimeoutError::Timeout) if Instant::now() < self.deadline => return None,
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(
                    self.doing,
                    "librdkafka does not answer within its own timeout; the producer is abandoned"
                );
                let seconds = self.started.elapsed().as_secs();
                Err(Error::TimedOut { doing: self.doing.to_owned(), seconds })
            }
            Err(RecvTimeoutError::Disconnected) => {
                let cause = "its thread panicked".to_owned();
                Err(Error::Other { doing: self.doing.to_owned(), cause, fatal: false })
            }
        };
        Some(Ended { outcome, at: Instant::now() })
    }

    fn outcome(self) -> Result<(), Error> {
        loop {
            if let Some(ended) = self.wait(self.deadline) {
                return ended.outcome;
            }
        }
    }
}

/// What a thread needs to make transactional calls.
struct Calls {
    producer: Arc<Polled>,
    brokers: String,
    patience: Duration,
}

impl Calls {
    fn make(
        &self,
        call: Call,
        attempt: impl Fn(*mut sys::rd_kafka_t, i32) -> *mut sys::rd_kafka_error_t,
    ) -> Result<(), Error> {
        let outcome = repeat(self.producer.client().native_ptr(), call, self.patience, attempt);
        conclude(&self.brokers, call, outcome)
    }

    fn commit(&self) -> Result<(), Error> {
        self.make(Call::Commit, |client, timeout| {
            // SAFETY: the client lives as long as the call; its thread polls the reports, as the call demands.
            unsafe { sys::rd_kafka_commit_transaction(client, timeout) }
        })
    }
}

fn conclude(brokers: &str, call: Call, outcome: Result<(), (Verdict, CallError)>) -> Result<(), Error> {
    let Err((verdict, error)) = outcome else { return Ok(()) };
    let (doing, code, cause) = (call.doing().to_owned(), error.symptom.code, error.text);
    Err(match verdict {
        Verdict::Abortable => Error::Abortable { doing, cause },
        Verdict::Refused if fault::kind(code) == Kind::Unsupported => Error::NoTransactions { cause },
        Verdict::Refused | Verdict::Retry => Error::of_code(doing, brokers, code, cause),
        Verdict::Unsettled if fault::kind(code) == Kind::Unreachable => Error::of_code(doing, brokers, code, cause),
        Verdict::Unsettled => Error::Other { doing, cause, fatal: false },
    })
}

/// Makes a call, and repeats it as long as that is the verdict, until `patience` ends.
fn repeat(
    client: *mut sys::rd_kafka_t,
    call: Call,
    patience: Duration,
    attempt: impl Fn(*mut sys::rd_kafka_t, i32) -> *mut sys::rd_kafka_error_t,
) -> Result<(), (Verdict, CallError)> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        let Some(error) = CallError::take(attempt(client, millis)) else { return Ok(()) };
        match fault::judge(call, error.symptom, Instant::now() < deadline) {
            Verdict::Retry => std::thread::sleep(FULL_RETRY),
            verdict => return Err((verdict, error)),
        }
    }
}

/// A transactional call's error, read out of librdkafka's object.
struct CallError {
    symptom: Symptom,
    text: String,
}

impl CallError {
    /// Reads and frees the error object; null is success.
    fn take(error: *mut sys::rd_kafka_error_t) -> Option<CallError> {
        if error.is_null() {
            return None;
        }
        // SAFETY: the object is ours until it is destroyed below, and its text lives as long as it does.
        unsafe {
            let symptom = Symptom {
                code: sys::rd_kafka_error_code(error).into(),
                retriable: sys::rd_kafka_error_is_retriable(error) != 0,
                abortable: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            };
            let text = CStr::from_ptr(sys::rd_kafka_error_string(error)).to_string_lossy().into_owned();
            sys::rd_kafka_error_destroy(error);
            Some(CallError { symptom, text })
        }
    }
}
