//! What goes in: all at once, or each record when it is due.

use std::io::Write as _;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::kafka;
use crate::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use crate::kafka::settings::REQUEST_TIMEOUT;

use super::super::Error;
use super::receipts::{PROBE, Schedule, histogram};
use super::records::Ring;

/// How long the last records may take to be delivered.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// The shortest sleep between two records: a shorter one costs more than it is exact.
const SLEEP_MIN: Duration = Duration::from_micros(200);
/// Between two looks at what else happens.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);
/// Records between two looks at the clock, where nothing is due.
const RECORDS_BETWEEN_LOOKS: u64 = 1_024;

/// Sends the records of a ring under their numbers.
pub struct Sender<'a> {
    producer: Producer,
    topic: &'a str,
    ring: &'a Ring,
    key: Vec<u8>,
}

impl<'a> Sender<'a> {
    /// Sends to `topic`.
    pub fn new(producer: Producer, topic: &'a str, ring: &'a Ring) -> Sender<'a> {
        Sender { producer, topic, ring, key: Vec::new() }
    }

    /// One record for each partition, which only asks whether somebody answers.
    ///
    /// # Errors
    /// When it cannot be delivered.
    pub fn probe(&mut self, partitions: i32) -> Result<(), Error> {
        for partition in 0..partitions {
            self.key.clear();
            // Writing to memory does not fail.
            let _ = write!(self.key, "{PROBE}{partition}");
            self.send_key(Some(partition), 0)?;
        }
        self.flush()
    }

    /// As fast as it goes; `watch` is told now and then how many were sent.
    ///
    /// # Errors
    /// When a record cannot be delivered, or `watch` says so.
    pub fn fill(&mut self, records: u64, mut watch: impl FnMut(u64) -> Result<(), Error>) -> Result<(), Error> {
        for index in 0..records {
            self.send(index)?;
            if index % RECORDS_BETWEEN_LOOKS == 0 {
                self.check()?;
                watch(index)?;
            }
        }
        self.flush()
    }

    /// Each record when it is due, whatever comes out. Returns how much later than due records were sent, in microseconds.
    ///
    /// # Errors
    /// When a record cannot be delivered, or `watch` says so.
    pub fn flow(
        &mut self,
        schedule: Schedule,
        records: u64,
        mut watch: impl FnMut(u64) -> Result<(), Error>,
    ) -> Result<Histogram<u64>, Error> {
        let mut delays = histogram();
        let mut now = Instant::now();
        let mut watch_due = now;
        for index in 0..records {
            let due = schedule.due(index);
            if due > now {
                now = Instant::now();
                if due > now {
                    if now >= watch_due {
                        self.check()?;
                        watch(index)?;
                        watch_due = now + WATCH_INTERVAL;
                    }
                    std::thread::sleep((due.saturating_duration_since(Instant::now())).max(SLEEP_MIN));
                    now = Instant::now();
                }
            } else if index % RECORDS_BETWEEN_LOOKS == 0 {
                now = Instant::now();
                if now >= watch_due {
                    self.check()?;
                    watch(index)?;
                    watch_due = now + WATCH_INTERVAL;
                }
            }
            self.send(index)?;
            if index >= schedule.warm_up {
                let delay = now.saturating_duration_since(due).as_micros();
                delays.saturating_record(u64::try_from(delay).unwrap_or(u64::MAX).max(1));
            }
        }
        self.flush()?;
        Ok(delays)
    }

    fn send(&mut self, index: u64) -> Result<(), Error> {
        self.key.clear();
        let _ = write!(self.key, "{index}");
        self.send_key(None, index)
    }

    fn send_key(&self, partition: Option<i32>, index: u64) -> Result<(), Error> {
        let make = || Outgoing {
            topic: self.topic,
            partition,
            key: Some(&self.key),
            value: Some(self.ring.value(index)),
            timestamp_ms: None,
            headers: Headers::default(),
        };
        Ok(self.producer.send_waiting(make, UNTAGGED, Instant::now() + REQUEST_TIMEOUT)?)
    }

    fn check(&self) -> Result<(), Error> {
        self.producer.take_failure().map_or(Ok(()), |failure| Err(failure.into()))
    }

    fn flush(&self) -> Result<(), Error> {
        let delivered = self.producer.flush(FLUSH_TIMEOUT);
        self.check()?;
        if !delivered {
            let doing = format!("delivering the last {} records", self.producer.in_flight());
            return Err(kafka::Error::TimedOut { doing, seconds: FLUSH_TIMEOUT.as_secs() }.into());
        }
        Ok(())
    }
}
