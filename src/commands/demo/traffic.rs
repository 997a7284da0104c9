//! The demo's producer, and the reader that counts what came out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::kafka::consumer::Record;
use crate::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use crate::kafka::reader::{LogReader, Read, Start};
use crate::kafka::settings::REQUEST_TIMEOUT;
use crate::kafka::{self, Connection};
use crate::shutdown::Stop;

use super::super::Error;
use super::super::rows;
use super::{IRIS, Names, PARTITIONS, TARGET};

/// The header in which the known label travels to the output, where it is compared.
const LABEL_HEADER: &str = "demo-label";
const POLL: Duration = Duration::from_millis(100);

/// Sends iris records at a steady rate until it is told to finish.
pub struct Producing {
    stop: Stop,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), Error>>,
}

impl Producing {
    pub fn start(connection: &Connection, names: &Names, rate: u32) -> Result<Producing, Error> {
        let producer = Producer::idempotent(connection)?;
        let rows = labelled_rows()?;
        let (stop, sent) = (Stop::new(), Arc::new(AtomicU64::new(0)));
        let (topic, thread_stop, thread_sent) = (names.input.clone(), stop.clone(), Arc::clone(&sent));
        let thread = std::thread::spawn(move || produce(&producer, &topic, &rows, rate, &thread_stop, &thread_sent));
        Ok(Producing { stop, sent, thread })
    }

    /// Records sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops, waits for the deliveries and returns the number of records.
    pub fn finish(self) -> Result<u64, Error> {
        self.stop.set();
        match self.thread.join() {
            Ok(result) => result.map(|()| self.sent.load(Ordering::Relaxed)),
            Err(_) => Err(Error::Data("the demo's producer ended by a panic".to_owned())),
        }
    }
}

/// Each row's JSON without its label, and the label.
fn labelled_rows() -> Result<Vec<(Vec<u8>, String)>, Error> {
    let columns = rows::Columns { drop: vec![TARGET.to_owned()], key: Some(TARGET.to_owned()) };
    let mut labelled = Vec::new();
    rows::csv_rows("iris.csv".as_ref(), Box::new(IRIS.as_bytes()), &columns, |row| {
        labelled.push((row.json.clone(), row.key.clone().unwrap_or_default()));
        Ok(true)
    })?;
    Ok(labelled)
}

fn produce(
    producer: &Producer,
    topic: &str,
    rows: &[(Vec<u8>, String)],
    rate: u32,
    stop: &Stop,
    sent: &AtomicU64,
) -> Result<(), Error> {
    let started = Instant::now();
    for (index, (json, label)) in rows.iter().cycle().enumerate() {
        let due = started + Duration::from_secs_f64(index as f64 / f64::from(rate));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.is_set() {
            break;
        }
        let key = index.to_string();
        let make = || Outgoing {
            topic,
            partition: None,
            key: Some(key.as_bytes()),
            value: Some(json),
            timestamp_ms: None,
            headers: Headers::with_capacity(1).with(LABEL_HEADER, label.as_bytes()),
        };
        producer.send_waiting(make, UNTAGGED, Instant::now() + REQUEST_TIMEOUT)?;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    let delivered = producer.flush(REQUEST_TIMEOUT);
    match producer.take_failure() {
        Some(failure) => Err(failure.into()),
        None if delivered => Ok(()),
        None => {
            let (doing, seconds) = ("delivering the demo's records".to_owned(), REQUEST_TIMEOUT.as_secs());
            Err(kafka::Error::TimedOut { doing, seconds }.into())
        }
    }
}

/// What came out so far.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Different records with a prediction.
    pub predictions: u64,
    /// Different records that became dead letters.
    pub dead_letters: u64,
    /// Outputs beyond the first of their record.
    pub duplicated: u64,
    /// By version.
    pub versions: BTreeMap<u64, VersionTally>,
}

/// What one version did so far.
#[derive(Debug, Clone)]
pub struct VersionTally {
    pub predictions: u64,
    pub correct: u64,
    pub first_seen: SystemTime,
}

impl Tally {
    /// Different records that have an output.
    pub fn finished(&self) -> u64 {
        self.predictions + self.dead_letters
    }
}

/// Reads output and dead letters and counts them by the record that they came from.
pub struct Watching {
    stop: Stop,
    tally: Arc<Mutex<Tally>>,
    thread: JoinHandle<Result<(), kafka::Error>>,
}

impl Watching {
    pub fn start(connection: &Connection, names: &Names) -> Result<Watching, Error> {
        let starts: Vec<(i32, Start)> = (0..PARTITIONS).map(|partition| (partition, Start::Beginning)).collect();
        let output = LogReader::open(connection, &names.output, &starts)?;
        let dead_letters = LogReader::open(connection, &names.dead_letters, &starts)?;
        let (stop, tally) = (Stop::new(), Arc::new(Mutex::new(Tally::default())));
        let (thread_stop, thread_tally) = (stop.clone(), Arc::clone(&tally));
        let thread = std::thread::spawn(move || watch(&output, &dead_letters, &thread_stop, &thread_tally));
        Ok(Watching { stop, tally, thread })
    }

    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn finish(self) -> Result<Tally, Error> {
        self.stop.set();
        match self.thread.join() {
            Ok(result) => result?,
            Err(_) => return Err(Error::Data("the demo's reader ended by a panic".to_owned())),
        }
        Ok(self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn watch(output: &LogReader, dead_letters: &LogReader, stop: &Stop, tally: &Mutex<Tally>) -> Result<(), kafka::Error> {
    let mut seen = vec![Vec::new(); PARTITIONS as usize];
    while !stop.is_set() {
        let predicted = take_in(output, POLL, &mut seen, tally, false)?;
        let dead = take_in(dead_letters, Duration::ZERO, &mut seen, tally, true)?;
        if !predicted && !dead {
            continue;
        }
        while !stop.is_set() && take_in(output, Duration::ZERO, &mut seen, tally, false)? {}
        while !stop.is_set() && take_in(dead_letters, Duration::ZERO, &mut seen, tally, true)? {}
    }
    Ok(())
}

/// Counts the next record of `reader`, if one comes in time.
fn take_in(
    reader: &LogReader,
    wait: Duration,
    seen: &mut [Vec<bool>],
    tally: &Mutex<Tally>,
    dead: bool,
) -> Result<bool, kafka::Error> {
    let Read::Record(record) = reader.next(wait)? else { return Ok(false) };
    let Some(coordinates) = coordinates(&record) else { return Ok(true) };
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    if !first_of(seen, coordinates) {
        tally.duplicated += 1;
    } else if dead {
        tally.dead_letters += 1;
    } else {
        tally.predictions += 1;
        count_version(&mut tally, &record);
    }
    Ok(true)
}

fn count_version(tally: &mut Tally, record: &Record<'_>) {
    let version = header(record, "modelstream-version").and_then(|text| text.parse().ok()).unwrap_or(0);
    let predicted: Option<serde_json::Value> = record.payload().and_then(|bytes| serde_json::from_slice(bytes).ok());
    let predicted = predicted.as_ref().and_then(|document| document["prediction"].as_str());
    let new = || VersionTally { predictions: 0, correct: 0, first_seen: SystemTime::now() };
    let counted = tally.versions.entry(version).or_insert_with(new);
    counted.predictions += 1;
    counted.correct += u64::from(predicted.is_some() && predicted == header(record, LABEL_HEADER));
}

fn coordinates(record: &Record<'_>) -> Option<(usize, usize)> {
    let number = |name| header(record, name).and_then(|text| text.parse().ok());
    Some((number("modelstream-source-partition")?, number("modelstream-source-offset")?))
}

fn header<'r>(record: &'r Record<'_>, wanted: &str) -> Option<&'r str> {
    record.headers().find(|(name, _)| *name == wanted).and_then(|(_, value)| std::str::from_utf8(value?).ok())
}

/// Marks a record as seen; whether it was not yet.
fn first_of(seen: &mut [Vec<bool>], (partition, offset): (usize, usize)) -> bool {
    let Some(offsets) = seen.get_mut(partition) else { return false };
    if offsets.len() <= offset {
        offsets.resize(offset + 1, false);
    }
    !std::mem::replace(&mut offsets[offset], true)
}
