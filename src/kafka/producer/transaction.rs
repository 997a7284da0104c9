//! The transactional calls of a [`Producer`], each bounded in time whatever librdkafka does.
//!
//! A call that asks a coordinator can block past its own timeout, for as long as that coordinator is away (librdkafka #5456;
//! seen here with the only broker killed). So it is made on a thread of its own. A call that does not end is abandoned with its
//! producer: the lane makes a new one with the same transactional id, which fences whatever the old one may still send, and
//! the thread frees the old one once the call ends.

use std::ffi::CStr;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rdkafka::producer::Producer as _;
use rdkafka_sys as sys;

use super::{FULL_RETRY, Producer};
use crate::kafka::Error;
use crate::kafka::consumer::GroupConsumer;
use crate::kafka::fault::{self, Call, Kind, Symptom, Verdict};

/// How long after its own timeout a call is waited for before it is abandoned.
const CALL_GRACE: Duration = Duration::from_secs(2);

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
        self.conclude(Call::TakeOver, outcome)
    }

    /// Begins a transaction; asks nobody.
    ///
    /// # Errors
    /// When one is open already, or the producer is of no use any more.
    pub fn begin_transaction(&self) -> Result<(), Error> {
        let outcome = repeat(self.client(), Call::Begin, self.transaction_timeout, |client, _| {
            // SAFETY: the client lives as long as the producer.
            unsafe { sys::rd_kafka_begin_transaction(client) }
        });
        self.conclude(Call::Begin, outcome)
    }

    /// Makes the offsets part of the transaction: they are committed when it is, for the member that `consumer` is now. A
    /// member of a former generation is refused, so a lane that lost its partitions cannot commit.
    ///
    /// # Errors
    /// [`Error::Abortable`] when the group does not take them; [`Error::Fenced`] when a twin took over.
    pub fn send_offsets(&self, consumer: &GroupConsumer, next: impl Iterator<Item = (i32, i64)>) -> Result<(), Error> {
        let offsets = consumer.offsets(next)?;
        let metadata = consumer.group_metadata();
        if !metadata.is_of_a_member() {
            let cause = "this consumer is no member of the group at the moment".to_owned();
            return Err(Error::Abortable { doing: Call::AddOffsets.doing().to_owned(), cause });
        }
        self.transaction(Call::AddOffsets, move |client, timeout| {
            // SAFETY: client, list and metadata live as long as the call, which copies what it needs.
            unsafe { sys::rd_kafka_send_offsets_to_transaction(client, offsets.ptr(), metadata.as_ptr(), timeout) }
        })
    }

    /// Delivers what was sent and commits the transaction.
    ///
    /// # Errors
    /// [`Error::Abortable`] when it cannot be committed; any other error leaves open whether it was.
    pub fn commit_transaction(&self) -> Result<(), Error> {
        self.transaction(Call::Commit, |client, timeout| {
            // SAFETY: the client lives as long as the producer; its thread polls the reports, as the call demands.
            unsafe { sys::rd_kafka_commit_transaction(client, timeout) }
        })
    }

    /// Aborts the transaction.
    ///
    /// # Errors
    /// When even that is not possible; the broker aborts it after the transaction's timeout.
    pub fn abort_transaction(&self) -> Result<(), Error> {
        self.transaction(Call::Abort, |client, timeout| {
            // SAFETY: as for the commit.
            unsafe { sys::rd_kafka_abort_transaction(client, timeout) }
        })
    }

    /// Makes a call on a thread of its own, which holds the producer as long as the call needs it.
    fn transaction(
        &self,
        call: Call,
        attempt: impl Fn(*mut sys::rd_kafka_t, i32) -> *mut sys::rd_kafka_error_t + Send + 'static,
    ) -> Result<(), Error> {
        let (producer, patience) = (self.inner.clone(), self.transaction_timeout);
        let (answer, answered) = sync_channel(1);
        let thread = std::thread::Builder::new().name("transaction".to_owned()).spawn(move || {
            let outcome = repeat(producer.client().native_ptr(), call, patience, attempt);
            // Nobody listens any more to a call that was abandoned; nor may the producer outlive the answer to one that was not.
            drop(producer);
            let _ = answer.send(outcome);
        });
        let doing = call.doing().to_owned();
        if let Err(error) = thread {
            return Err(Error::Other { doing, cause: format!("no thread for it: {error}"), fatal: false });
        }
        match answered.recv_timeout(patience + CALL_GRACE) {
            Ok(outcome) => self.conclude(call, outcome),
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(doing, "librdkafka does not answer within its own timeout; the producer is abandoned");
                Err(Error::TimedOut { doing, seconds: (patience + CALL_GRACE).as_secs() })
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::Other { doing, cause: "its thread panicked".to_owned(), fatal: false })
            }
        }
    }

    fn conclude(&self, call: Call, outcome: Result<(), (Verdict, CallError)>) -> Result<(), Error> {
        let Err((verdict, error)) = outcome else { return Ok(()) };
        let (doing, code, cause) = (call.doing().to_owned(), error.symptom.code, error.text);
        Err(match verdict {
            Verdict::Abortable => Error::Abortable { doing, cause },
            Verdict::Refused if fault::kind(code) == Kind::Unsupported => Error::NoTransactions { cause },
            Verdict::Refused | Verdict::Retry => Error::of_code(doing, &self.brokers, code, cause),
            Verdict::Unsettled if fault::kind(code) == Kind::Unreachable => {
                Error::of_code(doing, &self.brokers, code, cause)
            }
            Verdict::Unsettled => Error::Other { doing, cause, fatal: false },
        })
    }
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
