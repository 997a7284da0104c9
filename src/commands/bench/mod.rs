//! `modelstream bench`: an open-loop load generator and a reader, for any cluster.
//!
//! What is measured is a process of its own, so that its CPU time and memory are known: `serve`, the raw pass-through, or
//! another program. Records carry their number as their key, so latency and losses need nothing else of what is measured.
//!
//! - `records`: records that fit a model
//! - `load`: sends them
//! - `process`: what is measured
//! - `receipts`: what comes out
//! - `summary`: what is printed

mod load;
mod process;
mod receipts;
mod records;
mod summary;

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cli;
use crate::config::bench::{Bench, Load, ModelSource, Subject};
use crate::config::{self};
use crate::kafka::Connection;
use crate::kafka::admin::{Admin, Cleanup, REPLICATION_WANTED, TopicSpec};
use crate::kafka::producer::Producer;
use crate::model::Artifact;
use crate::registry::publish::{Request, Source, publish};
use crate::registry::{Author, Topics, Trust};
use crate::shutdown::{self, Stop};

use super::publish::read_bytes;
use super::{Error, models, print};
use load::Sender;
use process::{Process, Usage};
use receipts::{Percentiles, Receipts, Schedule, Tally};
use records::Ring;
use summary::{Measured, Summary};

/// The name of a model that the run publishes itself.
const MODEL: &str = "bench";
const IRIS: &[u8] = include_bytes!("../../../tests/data/iris.csv");
const TARGET: &str = "species";
/// How long the sender of an open loop waits for more records to send together: short, because it counts as latency.
const OPEN_LINGER: &str = "linger.ms=1";
/// The same where only throughput counts.
const FILL_LINGER: &str = "linger.ms=20";
/// From the decision that records flow until the first is due.
const LEAD: Duration = Duration::from_millis(100);
/// How often the output is looked at until the first record is there: a start is measured this exactly.
const FIRST_POLL: Duration = Duration::from_millis(5);
/// How often the output's end is asked for while it is drained: each is a request to the broker that does the work.
const DRAIN_POLL: Duration = Duration::from_millis(50);
/// The share of the records that is not measured when they are drained: joining the group, the first fetches.
const DRAIN_WARM_UP: f64 = 0.1;
/// Beyond it the load itself is what is measured.
const LATE_MS: f64 = 10.0;
/// How long doubled records are waited for behind the last one.
const AFTERMATH: Duration = Duration::from_millis(500);

/// The topics and the group of one run.
#[derive(Debug)]
pub struct Names {
    input: String,
    output: String,
    dead_letters: String,
    group: String,
    log: Topics,
    /// Whether the model log is of this run alone.
    own_log: bool,
}

impl Names {
    fn new(settings: &Bench, log: Topics) -> Names {
        let own_log = !matches!(settings.model, ModelSource::Log(_));
        // The only use of a hasher's random keys: a name that no other run has.
        let run = RandomState::new().hash_one(std::process::id()) as u32;
        let name = |name: &str| format!("{}-{run:08x}.{name}", settings.prefix);
        let log = match own_log {
            true => Topics {
                models: name("models"),
                artifacts: name("artifacts"),
                status: name("status"),
                trust: Trust::default(),
            },
            // The fleet of the user's model log has nothing to do with the run.
            false => Topics { status: name("status"), ..log },
        };
        let (input, output, dead_letters) = (name("input"), name("output"), name("input.dead-letters"));
        Names { input, output, dead_letters, group: name("group"), log, own_log }
    }

    fn specs(&self, settings: &Bench) -> Vec<TopicSpec> {
        let topic = |name: &String, partitions, cleanup| TopicSpec { name: name.clone(), partitions, cleanup };
        let mut specs: Vec<TopicSpec> = [&self.input, &self.output, &self.dead_letters]
            .map(|name| topic(name, settings.partitions, Cleanup::Delete))
            .into();
        specs.push(topic(&self.log.status, 1, Cleanup::Recent));
        if self.own_log {
            specs.extend([&self.log.models, &self.log.artifacts].map(|name| topic(name, 1, Cleanup::Compact)));
        }
        specs
    }
}

/// Measures, prints, and checks that each record came out.
///
/// # Errors
/// When a part fails, or a record was lost or doubled (exit code 8).
pub fn run(common: &cli::Common, bench: &cli::Bench) -> Result<(), Error> {
    let settings = config::bench::bench(bench)?;
    let connection = config::connection(common)?;
    let names = Names::new(&settings, config::topics(common)?);
    let runtime = super::serve::runtime()?;
    let stop = Stop::new();
    shutdown::on_signals(runtime.handle(), stop.clone())
        .map_err(|source| Error::Io { doing: "catching signals".to_owned(), source })?;
    let admin = Admin::new(&connection)?;
    let specs = names.specs(&settings);
    let replication = match settings.replication {
        Some(replication) => replication,
        None => admin.brokers()?.clamp(1, REPLICATION_WANTED),
    };
    let topics: Vec<String> = specs.iter().map(|topic| topic.name.clone()).collect();
    let measured = admin
        .create(&specs, replication)
        .map_err(Error::from)
        .and_then(|()| Run::new(common, &settings, &connection, &names, &admin, &stop)?.measure());
    if !settings.keep_topics {
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        if let Err(error) = admin.delete(&topics, &[&names.group]) {
            tracing::warn!(%error, "topics of this run are left: they begin with {}", names.input);
        }
    }
    runtime.shutdown_background();
    let mut summary = measured?;
    summary.topics = if settings.keep_topics { topics } else { Vec::new() };
    summary.print(common.json)?;
    if let Some(delay) = summary.measured.send_delay_ms.filter(|delay| delay.p99 > LATE_MS) {
        let text =
            "of the records were sent late themselves: this machine cannot keep the rate, and that counts as latency";
        print::say(&format!("one in a hundred {text} (p99 {:.0} ms)", delay.p99));
    }
    summary.check()
}

/// What one run needs.
struct Run<'a> {
    common: &'a cli::Common,
    settings: &'a Bench,
    connection: &'a Connection,
    names: &'a Names,
    admin: &'a Admin,
    stop: &'a Stop,
    /// The artifact, where the run publishes it.
    bytes: Vec<u8>,
    /// What `serve --model` is told.
    selector: String,
    ring: Ring,
    schema: Option<SchemaFile>,
}

/// A schema file for `serve`, which is gone when this is dropped.
struct SchemaFile(PathBuf);

impl SchemaFile {
    fn write(name: &str, schema: &str) -> Result<SchemaFile, Error> {
        let path = std::env::temp_dir().join(format!("{name}.avsc"));
        std::fs::write(&path, schema)
            .map_err(|source| Error::Io { doing: format!("writing {}", path.display()), source })?;
        Ok(SchemaFile(path))
    }
}

impl Drop for SchemaFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl<'a> Run<'a> {
    fn new(
        common: &'a cli::Common,
        settings: &'a Bench,
        connection: &'a Connection,
        names: &'a Names,
        admin: &'a Admin,
        stop: &'a Stop,
    ) -> Result<Run<'a>, Error> {
        let (bytes, selector) = match &settings.model {
            ModelSource::Log(selector) => {
                let manifest = models::find(connection, &names.log, &selector.to_string())?;
                (models::fetch_bytes(connection, &names.log, &manifest)?, selector.to_string())
            }
            ModelSource::File(path) => (read_bytes(path)?, MODEL.to_owned()),
            ModelSource::BuiltIn => (super::train::fit_csv(IRIS, TARGET, "random-forest", None)?.0, MODEL.to_owned()),
        };
        let artifact = Artifact::decode(&bytes)
            .map_err(|refusal| Error::Refused { what: "the model of the benchmark".to_owned(), refusal })?;
        let ring = Ring::new(&artifact, settings.avro)?;
        let schema = ring.schema.as_deref().map(|schema| SchemaFile::write(&names.input, schema)).transpose()?;
        let run = Run { common, settings, connection, names, admin, stop, bytes, selector, ring, schema };
        if names.own_log && matches!(settings.subject, Subject::Serve { .. }) {
            run.publish()?;
        }
        Ok(run)
    }

    fn publish(&self) -> Result<u64, Error> {
        let author = Author { name: "modelstream bench".to_owned(), key: None };
        let request = Request { model: MODEL, version: None, source: Source::Bytes(&self.bytes), note: String::new() };
        Ok(publish(self.connection, &self.names.log, &author, &request, |_| {})?.manifest.version)
    }

    fn measure(&self) -> Result<Summary, Error> {
        match self.settings.load {
            Load::Drain { records } => self.drain(records),
            Load::Open { rate, records, warm_up, swap_every } => self.open_loop(rate, records, warm_up, swap_every),
        }
    }

    fn start(&self) -> Result<Process, Error> {
        let schema = self.schema.as_ref().and_then(|file| file.0.to_str());
        Process::start(self.common, &self.settings.subject, self.names, &self.selector, schema)
    }

    fn sender(&self, linger: &str) -> Result<Sender<'_>, Error> {
        // The user's properties come last, so they win.
        let properties = [&[linger.to_owned()], self.common.properties.as_slice()].concat();
        let connection = Connection::new(self.common.brokers(), &properties).map_err(config::ConfigError::from)?;
        Ok(Sender::new(Producer::idempotent(&connection)?, &self.names.input, &self.ring))
    }

    /// # Errors
    /// After a signal.
    fn check_stop(&self) -> Result<(), Error> {
        match self.stop.is_set() {
            true => Err(Error::Data("stopped by a signal before the end".to_owned())),
            false => Ok(()),
        }
    }

    /// Fills the input, then measures how fast the process empties it.
    fn drain(&self, records: u64) -> Result<Summary, Error> {
        let bar = print::progress(Some(records), "records sent");
        let filled = self.sender(FILL_LINGER)?.fill(records, |sent| {
            bar.set_position(sent);
            self.check_stop()
        });
        bar.finish_and_clear();
        filled?;
        let process = self.start()?;
        let measured = self.watch_drain(records, &process)?;
        process.stop()?;
        let bar = print::progress(Some(records), "records checked");
        let (topic, partitions, limit) = (&self.names.output, self.settings.partitions, self.settings.time_limit);
        let tally = receipts::count(self.connection, topic, partitions, records, limit, |seen| bar.set_position(seen));
        bar.finish_and_clear();
        self.summary(records, &tally?, measured)
    }

    /// The end of the output topic tells how far the process is, and costs nobody anything; its records are read later.
    fn watch_drain(&self, records: u64, process: &Process) -> Result<Measured, Error> {
        let bar = print::progress(Some(records), "records");
        let deadline = process.started() + self.settings.time_limit;
        let warm_up = (records as f64 * DRAIN_WARM_UP) as u64;
        let mut measured = Measured::default();
        let mut from: Option<(Instant, u64, Option<Usage>)> = None;
        let (mut poll, mut before) = (FIRST_POLL, 0);
        loop {
            let (out, now) = (self.end_of(&self.names.output)?, Instant::now());
            if out > 0 && measured.start_seconds.is_none() {
                measured.start_seconds = Some((now - process.started()).as_secs_f64());
                poll = DRAIN_POLL;
            }
            // Records that become dead letters move nothing: looked at only where nothing moved.
            let stands = out < records && out == before && self.serves();
            before = out;
            let out = out + if stands { self.end_of(&self.names.dead_letters)? } else { 0 };
            if out >= warm_up && out > 0 && from.is_none() {
                // A process so fast that it was done between two looks is measured from its start.
                let whole = out >= records;
                let (since, so_far) = if whole { (process.started(), 0) } else { (now, out) };
                from = Some((since, so_far, if whole { Some(Usage::default()) } else { process.usage() }));
            }
            bar.set_position(out.min(records));
            let late = now >= deadline;
            if out >= records || late {
                let usage = process.usage();
                measured.peak_memory_bytes = usage.map(|usage| usage.peak_memory_bytes);
                measured.memory_bound_bytes = process.memory_bound_bytes();
                let (since, so_far, used) = from.unwrap_or((process.started(), 0, Some(Usage::default())));
                let done = out.min(records).saturating_sub(so_far);
                measured.seconds = (now - since).as_secs_f64();
                measured.records_per_second = done as f64 / measured.seconds;
                measured.cpu_seconds_per_million = cpu_per_million(used, usage, done);
                bar.finish_and_clear();
                return Ok(measured);
            }
            process.check()?;
            self.check_stop()?;
            std::thread::sleep(poll);
        }
    }

    /// Records, and a few marks of transactions, in a topic.
    fn end_of(&self, topic: &str) -> Result<u64, Error> {
        let mut end = 0;
        for partition in 0..self.settings.partitions {
            end += u64::try_from(self.admin.watermarks(topic, partition)?.1).unwrap_or_default();
        }
        Ok(end)
    }

    fn serves(&self) -> bool {
        matches!(self.settings.subject, Subject::Serve { .. })
    }

    /// Sends each record when it is due, and reads what comes out meanwhile.
    fn open_loop(&self, rate: u32, records: u64, warm_up: u64, swap: Option<Duration>) -> Result<Summary, Error> {
        let partitions = self.settings.partitions;
        let receipts = Receipts::start(self.connection, &self.names.output, partitions, records, swap.is_some())?;
        let mut sender = self.sender(OPEN_LINGER)?;
        sender.probe(partitions)?;
        let process = self.start()?;
        let mut measured = Measured::default();
        self.await_first(&process, &receipts, &mut measured)?;

        let schedule = Schedule { start: Instant::now() + LEAD, rate, warm_up };
        receipts.expect(schedule);
        let bar = print::progress(Some(records), "records");
        let ended = Stop::new();
        let (delays, before, swaps) = std::thread::scope(|scope| {
            let warmed_up = scope.spawn(|| {
                ended.wait(schedule.due(warm_up).saturating_duration_since(Instant::now()));
                process.usage()
            });
            let swapping = scope.spawn(|| swap.map_or(Ok(Vec::new()), |every| self.swap(every, &ended)));
            let delays = sender.flow(schedule, records, |_| {
                bar.set_position(receipts.arrived());
                process.check()?;
                self.check_stop()
            });
            ended.set();
            let panicked = || Error::Data("a thread of the benchmark ended by a panic".to_owned());
            let before = warmed_up.join().map_err(|_| panicked())?;
            let swaps = swapping.join().map_err(|_| panicked())??;
            Ok::<_, Error>((delays?, before, swaps))
        })?;
        self.await_rest(&process, &receipts, records, &bar)?;
        bar.finish_and_clear();
        let usage = process.usage();
        measured.memory_bound_bytes = process.memory_bound_bytes();
        process.stop()?;
        std::thread::sleep(AFTERMATH);
        let tally = receipts.finish()?;
        measured.peak_memory_bytes = usage.map(|usage| usage.peak_memory_bytes);
        measured.cpu_seconds_per_million = cpu_per_million(before, usage, records - warm_up);
        measured.latency_ms = Percentiles::of(&tally.latency);
        measured.send_delay_ms = Percentiles::of(&delays);
        let last = tally.last.unwrap_or(schedule.start);
        measured.seconds = last.saturating_duration_since(schedule.due(warm_up)).as_secs_f64();
        measured.records_per_second = tally.latency.len() as f64 / measured.seconds.max(f64::MIN_POSITIVE);
        measured.swap_seconds = swaps.iter().filter_map(|swap| seconds_to_predict(swap, &tally)).collect();
        self.summary(records, &tally, measured)
    }

    /// Waits until the process has answered on every partition.
    fn await_first(&self, process: &Process, receipts: &Receipts, measured: &mut Measured) -> Result<(), Error> {
        let wanted = u64::from(self.settings.partitions.unsigned_abs());
        let deadline = process.started() + self.settings.time_limit;
        while receipts.probes() < wanted {
            if receipts.probes() > 0 && measured.start_seconds.is_none() {
                measured.start_seconds = Some(process.started().elapsed().as_secs_f64());
            }
            process.check()?;
            self.check_stop()?;
            if Instant::now() >= deadline || receipts.has_ended() {
                let (probes, limit) = (receipts.probes(), self.settings.time_limit.as_secs());
                let text = format!("{probes} of {wanted} partitions were answered within {limit} s");
                return Err(Error::CheckFailed(format!("{text}; -v shows what the process says")));
            }
            std::thread::sleep(FIRST_POLL);
        }
        measured.start_seconds.get_or_insert(process.started().elapsed().as_secs_f64());
        Ok(())
    }

    fn await_rest(
        &self,
        process: &Process,
        receipts: &Receipts,
        records: u64,
        bar: &indicatif::ProgressBar,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + self.settings.time_limit;
        while receipts.arrived() < records && Instant::now() < deadline && !receipts.has_ended() {
            let dead_letters = if self.serves() { self.end_of(&self.names.dead_letters)? } else { 0 };
            if receipts.arrived() + dead_letters >= records {
                break;
            }
            bar.set_position(receipts.arrived());
            process.check()?;
            self.check_stop()?;
            std::thread::sleep(DRAIN_POLL);
        }
        Ok(())
    }

    /// Publishes a version now and then until records end; when each was there.
    fn swap(&self, every: Duration, ended: &Stop) -> Result<Vec<(u64, Instant)>, Error> {
        let mut published = Vec::new();
        while !ended.wait(every) {
            let version = self.publish()?;
            published.push((version, Instant::now()));
        }
        // The last one may have come too late to predict anything.
        Ok(published)
    }

    fn summary(&self, records: u64, tally: &Tally, measured: Measured) -> Result<Summary, Error> {
        let settings = self.settings;
        let mut dead_letters = 0;
        if tally.distinct < records && self.serves() {
            let (topic, partitions) = (&self.names.dead_letters, settings.partitions);
            dead_letters =
                receipts::count(self.connection, topic, partitions, records, settings.time_limit, |_| {})?.distinct;
        }
        let (subject, served) = match &settings.subject {
            Subject::Serve { delivery, commit_interval, lanes, .. } => {
                ("serve".to_owned(), Some((delivery.clone(), commit_interval.as_secs_f64() * 1e3, *lanes)))
            }
            Subject::PassThrough { headers: false } => ("pass-through".to_owned(), None),
            Subject::PassThrough { headers: true } => ("pass-through with headers".to_owned(), None),
            Subject::Command(command) => (command.clone(), None),
        };
        Ok(Summary {
            subject,
            mode: if matches!(settings.load, Load::Drain { .. }) { "drain" } else { "open-loop" },
            model: served.is_some().then(|| self.selector.clone()),
            delivery: served.as_ref().map(|(delivery, ..)| delivery.clone()),
            commit_interval_ms: served.as_ref().map(|(_, interval, _)| *interval),
            lanes: served.as_ref().map(|(.., lanes)| *lanes),
            partitions: settings.partitions,
            format: if settings.avro { "avro" } else { "json" },
            record_bytes: self.ring.mean_bytes(),
            rate: if let Load::Open { rate, .. } = settings.load { Some(rate) } else { None },
            records,
            outputs: tally.distinct,
            dead_letters,
            lost: records.saturating_sub(tally.distinct + dead_letters),
            duplicated: tally.duplicated,
            measured,
            topics: Vec::new(),
        })
    }
}

fn cpu_per_million(before: Option<Usage>, after: Option<Usage>, records: u64) -> Option<f64> {
    let seconds = after?.cpu_seconds - before?.cpu_seconds;
    (records > 0).then(|| seconds * 1e6 / records as f64)
}

/// From the publishing of a version until it, or a newer one, predicted first; `None` where the records ended before.
fn seconds_to_predict((version, published): &(u64, Instant), tally: &Tally) -> Option<f64> {
    let first = tally.versions.range(version..).map(|(_, first)| *first).min()?;
    Some(first.saturating_duration_since(*published).as_secs_f64())
}
