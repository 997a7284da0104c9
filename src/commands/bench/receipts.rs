//! What comes out: each record once, and how long after it was due.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::kafka::consumer::Record;
use crate::kafka::reader::{LogReader, Read, Start};
use crate::kafka::{self, Connection};
use crate::shutdown::Stop;

use super::super::Error;

/// How long one wait for a record lasts: the longest that the end is not seen.
const POLL: Duration = Duration::from_millis(50);
/// The longest latency that is told apart, in microseconds: an hour.
const MICROS_MAX: u64 = 3_600_000_000;
/// Digits that a histogram keeps of each value.
const DIGITS: u8 = 3;
/// What the key of a record begins with that only asks whether the process answers.
pub const PROBE: &str = "probe-";

/// An empty histogram of microseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MICROS_MAX, DIGITS).expect("the bounds are in order and the digits at most five")
}

/// Milliseconds at some quantiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of a hundred.
    pub p99: f64,
    /// 999 of a thousand.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

impl Percentiles {
    /// Of a histogram of microseconds; `None` of an empty one.
    pub fn of(histogram: &Histogram<u64>) -> Option<Percentiles> {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e3,
            mean: histogram.mean() / 1e3,
        })
    }
}

/// When each record is due.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// The first one.
    pub start: Instant,
    /// Records a second.
    pub rate: u32,
    /// How many come before those that are measured.
    pub warm_up: u64,
}

impl Schedule {
    /// When record `index` is due.
    pub fn due(&self, index: u64) -> Instant {
        self.start + Duration::from_secs_f64(index as f64 / f64::from(self.rate))
    }
}

/// What came out.
#[derive(Debug)]
pub struct Tally {
    /// A bit for each record.
    seen: Vec<u64>,
    records: u64,
    /// Different records that came out.
    pub distinct: u64,
    /// Outputs beyond the first of their record.
    pub duplicated: u64,
    /// Microseconds from when a record was due until it was read.
    pub latency: Histogram<u64>,
    /// When the last record came that was not a duplicate.
    pub last: Option<Instant>,
    /// When the first prediction of each version came; only where versions are followed.
    pub versions: BTreeMap<u64, Instant>,
}

impl Tally {
    /// Nothing of `records` yet.
    pub fn new(records: u64) -> Tally {
        let seen = vec![0; usize::try_from(records.div_ceil(64)).unwrap_or(usize::MAX)];
        let (latency, versions) = (histogram(), BTreeMap::new());
        Tally { seen, records, distinct: 0, duplicated: 0, latency, last: None, versions }
    }

    /// Takes in the output of record `index`; whether it is its first.
    fn take(&mut self, index: u64) -> bool {
        if index >= self.records {
            return false;
        }
        let (word, bit) = (&mut self.seen[(index / 64) as usize], 1 << (index % 64));
        let first = *word & bit == 0;
        *word |= bit;
        self.distinct += u64::from(first);
        self.duplicated += u64::from(!first);
        first
    }
}

#[derive(Default)]
struct Shared {
    stop: Stop,
    arrived: AtomicU64,
    probes: AtomicU64,
    schedule: OnceLock<Schedule>,
}

/// A thread that reads the output while records flow.
pub struct Receipts {
    shared: Arc<Shared>,
    /// Taken when it is waited for.
    thread: Option<JoinHandle<Result<Tally, kafka::Error>>>,
}

impl Drop for Receipts {
    /// Whatever ended the run, nobody reads a topic that is deleted.
    fn drop(&mut self) {
        self.shared.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Receipts {
    /// Starts to read.
    ///
    /// # Errors
    /// When a setting is not valid.
    pub fn start(
        connection: &Connection,
        topic: &str,
        partitions: i32,
        records: u64,
        versions: bool,
    ) -> Result<Receipts, Error> {
        let reader = LogReader::open(connection, topic, &beginnings(partitions))?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || follow(&reader, &of_thread, Tally::new(records), versions));
        Ok(Receipts { shared, thread: Some(thread) })
    }

    /// From when on records are due; once.
    pub fn expect(&self, schedule: Schedule) {
        let _ = self.shared.schedule.set(schedule);
    }

    /// Probes that came back.
    pub fn probes(&self) -> u64 {
        self.shared.probes.load(Ordering::Relaxed)
    }

    /// Different records that came out.
    pub fn arrived(&self) -> u64 {
        self.shared.arrived.load(Ordering::Relaxed)
    }

    /// Whether nobody reads any more.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When the topic could not be read.
    pub fn finish(mut self) -> Result<Tally, Error> {
        self.shared.stop.set();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(tally)) => Ok(tally?),
            Some(Err(_)) | None => Err(Error::Data("the benchmark's reader ended by a panic".to_owned())),
        }
    }
}

fn beginnings(partitions: i32) -> Vec<(i32, Start)> {
    (0..partitions).map(|partition| (partition, Start::Beginning)).collect()
}

fn follow(reader: &LogReader, shared: &Shared, mut tally: Tally, versions: bool) -> Result<Tally, kafka::Error> {
    while !shared.stop.is_set() {
        let record = match reader.next(POLL) {
            Ok(Read::Record(record)) => record,
            // librdkafka connects again by itself; what that takes is part of what is measured.
            Ok(Read::End(_) | Read::Nothing) | Err(kafka::Error::Unreachable { .. }) => continue,
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let Some(index) = index_of(&record) else {
            shared.probes.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        if tally.take(index) {
            tally.last = Some(now);
            shared.arrived.store(tally.distinct, Ordering::Relaxed);
            if let Some(schedule) = shared.schedule.get().filter(|schedule| index >= schedule.warm_up) {
                let late = now.saturating_duration_since(schedule.due(index));
                tally.latency.saturating_record(u64::try_from(late.as_micros()).unwrap_or(u64::MAX).max(1));
            }
        }
        if versions && let Some(version) = version_of(&record) {
            tally.versions.entry(version).or_insert(now);
        }
    }
    Ok(tally)
}

/// Reads what is there, up to the end of every partition, and counts records by their keys.
///
/// # Errors
/// When the topic could not be read within `limit`.
pub fn count(
    connection: &Connection,
    topic: &str,
    partitions: i32,
    records: u64,
    limit: Duration,
    progress: impl Fn(u64),
) -> Result<Tally, Error> {
    let reader = LogReader::open(connection, topic, &beginnings(partitions))?;
    let mut tally = Tally::new(records);
    let deadline = Instant::now() + limit;
    let mut ended = vec![false; usize::try_from(partitions).unwrap_or_default()];
    while !ended.iter().all(|ended| *ended) {
        match reader.next(POLL) {
            Ok(Read::Record(record)) => {
                if let Some(index) = index_of(&record) {
                    tally.take(index);
                    progress(tally.distinct);
                }
            }
            Ok(Read::End(partition)) => {
                if let Some(ended) = usize::try_from(partition).ok().and_then(|index| ended.get_mut(index)) {
                    *ended = true;
                }
            }
            Ok(Read::Nothing) | Err(kafka::Error::Unreachable { .. }) if Instant::now() < deadline => {}
            Ok(Read::Nothing) => {
                let doing = format!("reading {topic} to its end");
                return Err(kafka::Error::TimedOut { doing, seconds: limit.as_secs() }.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(tally)
}

/// The number in the key; `None` for a probe.
fn index_of(record: &Record<'_>) -> Option<u64> {
    std::str::from_utf8(record.key()?).ok()?.parse().ok()
}

fn version_of(record: &Record<'_>) -> Option<u64> {
    let (_, value) = record.headers().find(|(name, _)| *name == "modelstream-version")?;
    std::str::from_utf8(value?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_counts_once_and_what_was_never_sent_does_not_count() {
        let mut tally = Tally::new(65);
        let first: Vec<bool> = [0, 64, 64, 65, 0].map(|index| tally.take(index)).into();
        assert_eq!(first, [true, true, false, false, false]);
        assert_eq!((tally.distinct, tally.duplicated), (2, 2));
    }

    #[test]
    fn a_record_is_due_by_its_number() {
        let schedule = Schedule { start: Instant::now(), rate: 200, warm_up: 0 };
        assert_eq!(schedule.due(300) - schedule.start, Duration::from_millis(1_500));
    }

    #[test]
    fn percentiles_are_milliseconds() {
        let mut histogram = histogram();
        assert_eq!(Percentiles::of(&histogram), None);
        (1..=1_000).for_each(|micros| histogram.saturating_record(micros * 1_000));
        let percentiles = Percentiles::of(&histogram).expect("not empty");
        assert!((percentiles.p50 - 500.0).abs() < 1.0 && (percentiles.p999 - 999.0).abs() < 1.0, "{percentiles:?}");
    }
}
