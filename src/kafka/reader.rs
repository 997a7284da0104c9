//! Reads the partitions of a topic to the end and on, without a group and committed records only.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;

use super::queue::{BatchLimits, RecordQueue};
use super::record::Record;
use super::settings::Connection;
use super::{Error, context, fault};

/// Where a partition is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The earliest record.
    Beginning,
    /// Only what comes from now on.
    End,
    /// This offset, or the next one that there is.
    Offset(i64),
}

/// What a [`LogReader::next`] brought.
pub enum Read<'r> {
    /// A record.
    Record(Record<'r>),
    /// All records of this partition that were there have been read; more may come.
    End(i32),
    /// Nothing within the time.
    Nothing,
}

/// What is taken at once.
const ONE: BatchLimits = BatchLimits { records: 1, bytes: usize::MAX };

/// Of a consumer that nobody asks about its group: logs and errors are told, statistics are not read.
pub(super) struct ReadContext;

impl ClientContext for ReadContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        context::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        context::error(&error, reason);
    }

    fn stats_raw(&self, _json: &[u8]) {}
}

impl ConsumerContext for ReadContext {}

/// Reads partitions of one topic.
pub struct LogReader {
    /// Before `inner`, because it goes first.
    queue: RecordQueue,
    inner: BaseConsumer<ReadContext>,
    topic: String,
    brokers: String,
}

impl LogReader {
    /// Starts to read `starts` of `topic`.
    ///
    /// # Errors
    /// When a setting is not valid. A broker that is away is no error here: librdkafka keeps trying.
    pub fn open(connection: &Connection, topic: &str, starts: &[(i32, Start)]) -> Result<LogReader, Error> {
        let failed = |error: &KafkaError| Error::new(format!("reading {topic}"), connection.brokers(), error);
        let inner =
            BaseConsumer::from_config_and_context(&connection.reader(), ReadContext).map_err(|error| failed(&error))?;
        // SAFETY: the client is a consumer's; as the first field, the queue goes before it.
        let mut queue = unsafe { RecordQueue::new(inner.client().native_ptr(), topic) };
        let starts = starts.iter().map(|(partition, start)| match start {
            Start::Beginning => (*partition, Offset::Beginning),
            Start::End => (*partition, Offset::End),
            Start::Offset(offset) => (*partition, Offset::Offset(*offset)),
        });
        queue.start(&starts.collect::<Vec<_>>()).map_err(|error| failed(&error))?;
        Ok(LogReader { queue, inner, topic: topic.to_owned(), brokers: connection.brokers().to_owned() })
    }

    /// The next record or end, waiting at most `wait`.
    ///
    /// # Errors
    /// What the consumer reports; [`Error::Unreachable`] is worth another call.
    pub fn next(&self, wait: Duration) -> Result<Read<'_>, Error> {
        let deadline = Instant::now() + wait;
        loop {
            self.queue.watch();
            if let Some(Err(error)) = self.inner.poll(Duration::ZERO) {
                return Err(self.failure(&error));
            }
            let (mut records, mut end) = (Vec::new(), None);
            self.queue.take(&mut records, ONE, |no_record| end = Some(no_record));
            match (records.pop(), end) {
                (Some(record), _) => return Ok(Read::Record(record)),
                (None, Some(end)) if end.is_end_of_partition() => return Ok(Read::End(end.partition)),
                (None, Some(other)) => return Err(self.failure(&other.error)),
                (None, None) if self.queue.has_events() => {}
                (None, None) if self.queue.wait_until(deadline) => {}
                (None, None) => return Ok(Read::Nothing),
            }
        }
    }

    fn failure(&self, error: &KafkaError) -> Error {
        if fault::is_offset_gone(error) {
            let gap = "records were deleted before they were read".to_owned();
            return Error::OffsetGone { topic: self.topic.clone(), gap };
        }
        Error::new(format!("reading {}", self.topic), &self.brokers, error)
    }
}
