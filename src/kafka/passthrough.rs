//! The raw pass-through: what comes out of one topic goes into another as it is. No decoding, no model, no headers.
//!
//! It is the yardstick of `modelstream bench`: what the plain use of rdkafka costs, one message at a time, with the settings
//! that a lane has. It is written as a careful engineer writes it: a polled producer in the same thread, offsets committed
//! once what was read before them is delivered.
//!
//! With [`Labels`] the copies say where they come from, as predictions do; nothing else differs.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};

use super::reader::ReadContext;
use super::settings::{Connection, REQUEST_TIMEOUT};
use super::{Error, context, fault};

/// How often offsets are committed: as often as a lane does by default.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// How long one wait for a record lasts: the longest that a stop is not seen.
const POLL: Duration = Duration::from_millis(50);
/// How long a producer that is full is polled before it is tried again.
const FULL_RETRY: Duration = Duration::from_millis(2);
/// How long a stop waits at a time for what is still under way.
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// Delivery reports are taken, and the time is looked at, once for so many records.
const RECORDS_BETWEEN_POLLS: u64 = 128;

/// Which of two generations a record was sent in: the one that is being filled, or the one before, whose offsets are
/// committed as soon as all of it is delivered.
type Generation = usize;

#[derive(Default)]
struct Deliveries {
    outstanding: [AtomicU64; 2],
    /// The first delivery that failed.
    failure: Mutex<Option<KafkaError>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        context::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        context::error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Generation;

    fn delivery(&self, result: &DeliveryResult<'_>, generation: Generation) {
        self.outstanding[generation].fetch_sub(1, Ordering::Relaxed);
        if let Err((error, _)) = result {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| error.clone());
        }
    }
}

/// The headers that copies have.
pub struct Labels {
    /// Name and value of those that are the same in all.
    pub constant: Vec<(&'static str, String)>,
    /// The name of the one with the record's partition.
    pub partition: &'static str,
    /// The name of the one with its offset.
    pub offset: &'static str,
}

impl Labels {
    fn of(&self, message: &BorrowedMessage<'_>) -> OwnedHeaders {
        let (mut partition, mut offset) = (itoa::Buffer::new(), itoa::Buffer::new());
        let own =
            [(self.partition, partition.format(message.partition())), (self.offset, offset.format(message.offset()))];
        let constant = self.constant.iter().map(|(name, value)| (*name, value.as_str()));
        let headers = OwnedHeaders::new_with_capacity(self.constant.len() + own.len());
        constant.chain(own).fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
    }
}

/// Copies one topic to another as a member of a consumer group.
pub struct PassThrough {
    consumer: BaseConsumer<ReadContext>,
    producer: BaseProducer<Deliveries>,
    progress: RefCell<Progress>,
    input: String,
    output: String,
    labels: Option<Labels>,
    brokers: String,
}

#[derive(Default)]
struct Progress {
    /// By partition, the offset behind the last record that was sent.
    next: Vec<Option<i64>>,
    generation: Generation,
    /// The offsets of the generation before, until they are committed.
    sealed: Option<Vec<Option<i64>>>,
}

impl PassThrough {
    /// Joins `group` on `input`; a group without offsets starts at the earliest record.
    ///
    /// # Errors
    /// When a setting is not valid. A broker that is away is no error here: librdkafka keeps trying.
    pub fn new(
        connection: &Connection,
        group: &str,
        input: &str,
        output: &str,
        labels: Option<Labels>,
    ) -> Result<PassThrough, Error> {
        let failed = |error: &KafkaError| Error::new("starting the pass-through", connection.brokers(), error);
        let config = connection.group_consumer(group, None, "earliest");
        let consumer = BaseConsumer::from_config_and_context(&config, ReadContext).map_err(|error| failed(&error))?;
        consumer.subscribe(&[input]).map_err(|error| failed(&error))?;
        let producer = BaseProducer::from_config_and_context(&connection.producer(), Deliveries::default())
            .map_err(|error| failed(&error))?;
        let brokers = connection.brokers().to_owned();
        let progress = RefCell::default();
        let (input, output) = (input.to_owned(), output.to_owned());
        Ok(PassThrough { consumer, producer, progress, input, output, labels, brokers })
    }

    /// Copies until `stopping` says so, then delivers and commits what was read; the number of records.
    ///
    /// # Errors
    /// What the consumer or the producer cannot go on with.
    pub fn run(&self, stopping: impl Fn() -> bool) -> Result<u64, Error> {
        let mut records = 0;
        let mut commit_due = Instant::now() + COMMIT_INTERVAL;
        while !stopping() {
            let idle = match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    self.send(&message)?;
                    records += 1;
                    false
                }
                Some(Err(error)) => {
                    self.judge(error)?;
                    true
                }
                None => true,
            };
            if idle || records % RECORDS_BETWEEN_POLLS == 0 {
                self.producer.poll(Duration::ZERO);
                if Instant::now() >= commit_due {
                    self.commit_delivered()?;
                    commit_due = Instant::now() + COMMIT_INTERVAL;
                }
            }
        }
        self.drain()?;
        Ok(records)
    }

    fn send(&self, message: &BorrowedMessage<'_>) -> Result<(), Error> {
        let mut progress = self.progress.borrow_mut();
        let generation = progress.generation;
        let mut record: BaseRecord<'_, [u8], [u8], Generation> = BaseRecord {
            topic: &self.output,
            partition: None,
            payload: message.payload(),
            key: message.key(),
            timestamp: message.timestamp().to_millis(),
            headers: self.labels.as_ref().map(|labels| labels.of(message)),
            delivery_opaque: generation,
        };
        // Before it is sent: what was delivered is taken off.
        self.producer.context().outstanding[generation].fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < deadline =>
                {
                    record = back;
                    self.producer.poll(FULL_RETRY);
                }
                Err((error, _)) => return Err(self.error(format!("sending a record to {}", self.output), &error)),
            }
        }
        let partition = usize::try_from(message.partition()).unwrap_or_default();
        if progress.next.len() <= partition {
            progress.next.resize(partition + 1, None);
        }
        progress.next[partition] = Some(message.offset() + 1);
        Ok(())
    }

    /// Commits the former generation where it is delivered, and then begins the next one.
    fn commit_delivered(&self) -> Result<(), Error> {
        if let Some(failure) = self.producer.context().failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(self.error(format!("delivering a record to {}", self.output), &failure));
        }
        let mut progress = self.progress.borrow_mut();
        let former = 1 - progress.generation;
        if self.producer.context().outstanding[former].load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        if let Some(sealed) = progress.sealed.take() {
            self.commit(&sealed, CommitMode::Async)?;
        }
        progress.sealed = Some(progress.next.clone());
        progress.generation = former;
        Ok(())
    }

    fn commit(&self, next: &[Option<i64>], mode: CommitMode) -> Result<(), Error> {
        let failed = |error: &KafkaError| self.error(format!("committing offsets of {}", self.input), error);
        // What was given to another member is that member's to commit.
        let mine = self.consumer.assignment().map_err(|error| failed(&error))?;
        let mut offsets = TopicPartitionList::new();
        for element in mine.elements() {
            let partition = element.partition();
            let next = usize::try_from(partition).ok().and_then(|index| *next.get(index)?);
            if let Some(next) = next {
                let added = offsets.add_partition_offset(&self.input, partition, Offset::Offset(next));
                added.map_err(|error| failed(&error))?;
            }
        }
        if offsets.count() == 0 {
            return Ok(());
        }
        self.consumer.commit(&offsets, mode).map_err(|error| failed(&error))
    }

    fn drain(&self) -> Result<(), Error> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() >= deadline {
                let doing = format!("delivering the last {} records", self.producer.in_flight_count());
                return Err(Error::TimedOut { doing, seconds: REQUEST_TIMEOUT.as_secs() });
            }
            self.producer.poll(DRAIN_POLL);
        }
        // Twice: the former generation, and the one that was being filled.
        self.commit_delivered()?;
        self.commit_delivered()?;
        let next = self.progress.borrow().next.clone();
        self.commit(&next, CommitMode::Sync)
    }

    /// A connection that is lost for a moment is librdkafka's to mend; the rest ends the copy.
    fn judge(&self, error: KafkaError) -> Result<(), Error> {
        match error.rdkafka_error_code() {
            Some(code) if fault::kind(code) == fault::Kind::Unreachable => {
                tracing::warn!(%error, "reading {}", self.input);
                Ok(())
            }
            _ => Err(self.error(format!("reading {}", self.input), &error)),
        }
    }

    fn error(&self, doing: String, error: &KafkaError) -> Error {
        Error::new(doing, &self.brokers, error)
    }
}
