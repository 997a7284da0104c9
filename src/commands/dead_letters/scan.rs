//! Reads the dead letters of a selection, as the topic stands at the start: what is appended meanwhile is not looked at.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::DeadLetterSelection;
use crate::kafka::admin::Admin;
use crate::kafka::reader::{LogReader, Read, Start};
use crate::kafka::settings::REQUEST_TIMEOUT;
use crate::kafka::{self, Connection};

use super::super::Error;
use super::letter::Letter;

/// How long one wait for a record lasts: a replay's open transaction is looked at as often.
const POLL: Duration = Duration::from_millis(100);

/// A pass over a dead-letter topic.
pub struct Scan<'s> {
    selection: &'s DeadLetterSelection,
    reader: LogReader,
    /// Where each partition that is not read to its end ended at the start.
    ends: BTreeMap<i32, i64>,
    /// The offset behind the last record of each partition that was looked at.
    next: BTreeMap<i32, i64>,
    /// When the broker said something last.
    heard: Instant,
    /// Records that are no dead letters of ours.
    pub foreign: u64,
    /// Dead letters that came from another topic than the one that is meant.
    pub elsewhere: u64,
}

/// What a [`Scan::step`] brought.
pub enum Step<'r> {
    /// A dead letter that is meant.
    Letter(Box<Letter<'r>>),
    /// Something that is not.
    Other,
    /// Nothing yet.
    Waiting,
    /// All is read.
    Finished,
}

impl<'s> Scan<'s> {
    /// Starts to read.
    ///
    /// # Errors
    /// When topic or partition is not there, or no broker answers.
    pub fn open(connection: &Connection, selection: &'s DeadLetterSelection) -> Result<Scan<'s>, Error> {
        let topic = &selection.topic;
        let admin = Admin::new(connection)?;
        let doing = || format!("reading the dead letters of {topic}");
        let partitions = admin.partitions(topic)?.ok_or_else(|| kafka::Error::NoTopic { doing: doing() })?;
        let named = selection.partition.iter().chain(selection.from_of.keys()).find(|named| **named >= partitions);
        if let Some(named) = named {
            return Err(Error::Data(format!(
                "{topic} has no partition {named}: it has {partitions}, counted from 0; check --partition and --from"
            )));
        }
        let (mut starts, mut ends, mut next) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for partition in (0..partitions).filter(|partition| selection.partition.is_none_or(|only| only == *partition)) {
            let (low, high) = admin.watermarks(topic, partition)?;
            let first = selection.first_offset(partition).max(low);
            let end = selection.to.map_or(high, |last| high.min(last.saturating_add(1)));
            next.insert(partition, first);
            if first < end {
                starts.push((partition, if first > low { Start::Offset(first) } else { Start::Beginning }));
                ends.insert(partition, end);
            }
        }
        let reader = LogReader::open(connection, topic, &starts)?;
        Ok(Scan { selection, reader, ends, next, heard: Instant::now(), foreign: 0, elsewhere: 0 })
    }

    /// Looks at the next record, waiting a little.
    ///
    /// # Errors
    /// When it cannot be read, or nothing is heard for [`REQUEST_TIMEOUT`].
    pub fn step(&mut self) -> Result<Step<'_>, Error> {
        if self.ends.is_empty() {
            return Ok(Step::Finished);
        }
        match self.reader.next(POLL) {
            Ok(Read::Record(record)) => {
                self.heard = Instant::now();
                let (partition, behind) = (record.partition(), record.offset() + 1);
                let Some(end) = self.ends.get(&partition).copied() else { return Ok(Step::Other) };
                if behind >= end {
                    self.ends.remove(&partition);
                }
                if behind > end {
                    return Ok(Step::Other);
                }
                self.next.insert(partition, behind);
                let Some(letter) = Letter::read(record) else {
                    self.foreign += 1;
                    return Ok(Step::Other);
                };
                if self.selection.input.is_some() && self.selection.input != letter.facts.source_topic {
                    self.elsewhere += 1;
                    return Ok(Step::Other);
                }
                Ok(if letter.facts.is_meant_by(self.selection) { Step::Letter(Box::new(letter)) } else { Step::Other })
            }
            // Less than was there: the rest belongs to a transaction that is open, or was aborted.
            Ok(Read::End(partition)) => {
                self.heard = Instant::now();
                self.ends.remove(&partition);
                Ok(Step::Other)
            }
            // librdkafka connects again by itself.
            Ok(Read::Nothing) | Err(kafka::Error::Unreachable { .. }) if self.heard.elapsed() < REQUEST_TIMEOUT => {
                Ok(Step::Waiting)
            }
            Ok(Read::Nothing) => {
                let doing = format!("reading {}: the broker says nothing more", self.selection.topic);
                Err(kafka::Error::TimedOut { doing, seconds: REQUEST_TIMEOUT.as_secs() }.into())
            }
            Err(kafka::Error::OffsetGone { topic, .. }) => {
                Err(Error::Data(format!("records of {topic} were deleted while they were read; run it again")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Where each partition is to be read on from.
    pub fn next(&self) -> &BTreeMap<i32, i64> {
        &self.next
    }
}
