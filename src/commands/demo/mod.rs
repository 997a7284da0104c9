//! `modelstream demo`: the whole way in half a minute.
//!
//! The parts are the real ones: the trainer, the model log, a serving process with two lanes, a producer, a reader. The
//! broker is embedded unless `--brokers` names a cluster.

mod traffic;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::cli;
use crate::config;
use crate::kafka::Connection;
use crate::kafka::admin::{Admin, Cleanup, TopicSpec};
use crate::kafka::consumer::OffsetReset;
use crate::kafka::embedded::EmbeddedBroker;
use crate::pipeline::{InputFormat, OutputFormat};
use crate::registry::fleet::REPORT_INTERVAL;
use crate::registry::publish::{Request, Source, publish};
use crate::registry::{Author, Pick, Selector, Topics, Trust};
use crate::serve::LaneSettings;
use crate::serve::delivery::CommitLimits;
use crate::serve::{ReportSettings, Server, Settings};
use crate::shutdown::Stop;
use crate::telemetry::Metrics;

use super::{Error, print};
use traffic::{Producing, Tally, Watching};

const MODEL: &str = "iris";
const IRIS: &str = include_str!("../../../tests/data/iris.csv");
const TARGET: &str = "species";
/// Partitions of input and output: two for each lane.
const PARTITIONS: i32 = 4;
const LANES: usize = 2;
const COMMIT: CommitLimits =
    CommitLimits { interval: Duration::from_millis(100), records: 50_000, bytes: 32 * 1024 * 1024 };
/// How long the first model may take to be served: an embedded broker's group needs seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the last predictions may take after the last record.
const FINISH_TIMEOUT: Duration = Duration::from_secs(30);
/// A row of the demo's forests takes microseconds; a machine that is busy makes no version bad.
const ROW_BUDGET: Duration = Duration::from_secs(1);
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const VIEW_INTERVAL: Duration = Duration::from_millis(200);

/// The demo's topics.
#[derive(Debug, Clone)]
struct Names {
    input: String,
    output: String,
    dead_letters: String,
    log: Topics,
    group: String,
}

impl Names {
    /// Plain names on the embedded broker, which is empty; names of its own for each run on a real cluster.
    fn new(real: bool) -> Names {
        let prefix = match real {
            true => format!("modelstream-demo-{}.", unix_seconds()),
            false => String::new(),
        };
        let name = |name: &str| format!("{prefix}{name}");
        let (models, artifacts) = (name("modelstream.models"), name("modelstream.artifacts"));
        let log = Topics { models, artifacts, status: name("modelstream.status"), trust: Trust::default() };
        Names {
            input: name("iris.features"),
            output: name("iris.predictions"),
            dead_letters: name("iris.features.dead-letters"),
            log,
            group: name("modelstream.iris"),
        }
    }

    fn specs(&self) -> Vec<TopicSpec> {
        let topic = |name: &String, partitions, cleanup| TopicSpec { name: name.clone(), partitions, cleanup };
        vec![
            topic(&self.log.models, 1, Cleanup::Compact),
            topic(&self.log.artifacts, 1, Cleanup::Compact),
            topic(&self.log.status, 1, Cleanup::Recent),
            topic(&self.input, PARTITIONS, Cleanup::Delete),
            topic(&self.output, PARTITIONS, Cleanup::Delete),
            topic(&self.dead_letters, PARTITIONS, Cleanup::Keep),
        ]
    }
}

/// What the demo ends with.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Records that were sent.
    pub records: u64,
    /// Different records that have a prediction.
    pub predictions: u64,
    /// Different records that became dead letters.
    pub dead_letters: u64,
    /// Records without either.
    pub lost: u64,
    /// Predictions and dead letters beyond the first of their record.
    pub duplicated: u64,
    /// What each version did.
    pub versions: Vec<VersionSummary>,
    /// Seconds from the second publish to its first prediction.
    pub swap_seconds: Option<f64>,
}

/// What one version did.
#[derive(Debug, Serialize)]
pub struct VersionSummary {
    /// The version.
    pub version: u64,
    /// Its predictions.
    pub predictions: u64,
    /// The share of them that are the known label.
    pub accuracy: f64,
}

/// Runs the demo.
///
/// # Errors
/// When a part fails, or a record was lost (exit code 8).
pub fn run(common: &cli::Common, demo: &cli::Demo) -> Result<(), Error> {
    let names = Names::new(common.brokers.is_some());
    let (connection, embedded) = cluster(common, &names)?;
    say_how_to_look(&names, &connection, embedded.is_some());
    print::say(&publish_version(&connection, &names, "decision-tree", Some(1))?);

    let runtime = super::serve::runtime()?;
    let stop = Stop::new();
    crate::shutdown::on_signals(runtime.handle(), stop.clone())
        .map_err(|source| Error::Io { doing: "catching signals".to_owned(), source })?;
    let metrics = Arc::new(Metrics::new());
    let settings = settings(&connection, &names, config::address(&demo.listen)?, embedded.is_none());
    let server_stop = Stop::new();
    let server = Server::start(settings, metrics, runtime.handle(), server_stop.clone())?;
    print::say(&format!("serving with {LANES} lanes; look at http://{}/", server.address()));
    let serving = std::thread::spawn(move || server.run());

    let flow = flow(&connection, &names, demo, &stop);
    server_stop.set();
    let served = serving.join().unwrap_or(Err(crate::serve::Error::Panicked(0)));
    runtime.shutdown_background();
    let summary = flow?;
    served?;
    conclude(common, &summary)
}

fn cluster(common: &cli::Common, names: &Names) -> Result<(Connection, Option<EmbeddedBroker>), Error> {
    if common.brokers.is_some() {
        let connection = config::connection(common)?;
        let admin = Admin::new(&connection)?;
        admin.create(&names.specs(), admin.brokers()?.clamp(1, crate::kafka::admin::REPLICATION_WANTED))?;
        return Ok((connection, None));
    }
    let embedded = EmbeddedBroker::start()?;
    for topic in names.specs() {
        embedded.create_topic(&topic.name, topic.partitions)?;
    }
    let connection = embedded.connection(&common.properties).map_err(config::ConfigError::from)?;
    Ok((connection, Some(embedded)))
}

fn say_how_to_look(names: &Names, connection: &Connection, embedded: bool) {
    let broker = connection.brokers();
    if embedded {
        print::say(&format!(
            "an embedded broker listens on {broker}: it lives in memory and forgets; a real cluster: --brokers"
        ));
    }
    print::say(&format!("look from another terminal: kcat -C -b {broker} -t {} -o end", names.output));
}

/// Trains on the iris data and publishes; what to say about it.
fn publish_version(
    connection: &Connection,
    names: &Names,
    algorithm: &str,
    max_depth: Option<u16>,
) -> Result<String, Error> {
    let (bytes, accuracy) = super::train::fit_csv(IRIS.as_bytes(), TARGET, algorithm, max_depth)?;
    let author = Author { name: "modelstream demo".to_owned(), key: None };
    let request = Request { model: MODEL, version: None, source: Source::Bytes(&bytes), note: String::new() };
    let published = publish(connection, &names.log, &author, &request, |_| {})?;
    let version = published.manifest.version;
    Ok(format!("published {MODEL} version {version}: {algorithm}, accuracy {accuracy:.3} on unseen rows"))
}

fn settings(connection: &Connection, names: &Names, listen: std::net::SocketAddr, real: bool) -> Settings {
    let lane = LaneSettings {
        input: names.input.clone(),
        models: vec![MODEL.to_owned()],
        route: None,
        output: names.output.clone(),
        dead_letters: names.dead_letters.clone(),
        dead_letter_headers: None,
        group: names.group.clone(),
        offset_reset: OffsetReset::Error,
        batch_records: 2_000,
        // The embedded broker keeps transactions but does not hide what they abort.
        exactly_once: real,
        instance: "demo".to_owned(),
        static_membership: false,
        commit: COMMIT,
        dead_letter_share_max: 1.0,
        drain_timeout: Duration::from_secs(10),
    };
    Settings {
        connection: connection.clone(),
        topics: names.log.clone(),
        models: vec![Selector { model: MODEL.to_owned(), pick: Pick::Newest }],
        row_budget: ROW_BUDGET,
        cache: None,
        lanes: LANES,
        inputs: vec![lane],
        input_format: InputFormat::Json { field: None },
        output_format: OutputFormat::Json { probabilities: true },
        listen,
        stall_timeout: STALL_TIMEOUT,
        report: ReportSettings { host: config::host(), interval: REPORT_INTERVAL },
    }
}

/// Records flow; half-way a better version is published; the flow ends and everything is counted.
fn flow(connection: &Connection, names: &Names, demo: &cli::Demo, stop: &Stop) -> Result<Summary, Error> {
    let watching = Watching::start(connection, names)?;
    let producing = Producing::start(connection, names, demo.rate)?;
    let view = view::View::new();
    let first = Instant::now();
    while watching.tally().finished() == 0 && first.elapsed() < START_TIMEOUT && !stop.wait(VIEW_INTERVAL) {
        view.waiting(producing.sent());
    }
    let started = Instant::now();
    let length = Duration::from_secs(demo.seconds);
    let mut second_published = None;
    while started.elapsed() < length && !stop.wait(VIEW_INTERVAL) {
        if second_published.is_none() && started.elapsed() > length / 2 {
            view.say(&publish_version(connection, names, "random-forest", None)?);
            second_published = Some(SystemTime::now());
        }
        view.show(&watching.tally(), producing.sent(), started.elapsed(), length);
    }
    let records = producing.finish()?;
    let deadline = Instant::now() + FINISH_TIMEOUT;
    while watching.tally().finished() < records && Instant::now() < deadline {
        view.show(&watching.tally(), records, started.elapsed(), length);
        std::thread::sleep(VIEW_INTERVAL);
    }
    view.end();
    Ok(summary(&watching.finish()?, records, second_published))
}

fn summary(tally: &Tally, records: u64, second_published: Option<SystemTime>) -> Summary {
    let versions = tally.versions.iter().map(|(version, counted)| VersionSummary {
        version: *version,
        predictions: counted.predictions,
        accuracy: counted.correct as f64 / counted.predictions.max(1) as f64,
    });
    let second_seen = tally.versions.values().nth(1).map(|counted| counted.first_seen);
    // It may be seen before its publisher has heard that it is published.
    let since = |(published, seen): (SystemTime, SystemTime)| seen.duration_since(published).unwrap_or_default();
    let swap = second_published.zip(second_seen).map(since);
    Summary {
        records,
        predictions: tally.predictions,
        dead_letters: tally.dead_letters,
        lost: records.saturating_sub(tally.finished()),
        duplicated: tally.duplicated,
        versions: versions.collect(),
        swap_seconds: swap.map(|swap| swap.as_secs_f64()),
    }
}

fn conclude(common: &cli::Common, summary: &Summary) -> Result<(), Error> {
    if common.json {
        print::json(summary)?;
    } else {
        let Summary { records, predictions, dead_letters, lost, duplicated, .. } = summary;
        print::line(&format!(
            "{records} records: {predictions} predictions, {dead_letters} dead letters, {lost} lost, {duplicated} duplicated"
        ))?;
        for VersionSummary { version, predictions, accuracy } in &summary.versions {
            print::line(&format!("version {version}: {predictions} predictions, accuracy {accuracy:.3}"))?;
        }
    }
    if let (Some(seconds), false) = (summary.swap_seconds, common.json) {
        print::line(&format!("the second version's first prediction came {seconds:.2} s after it was published"))?;
    }
    match summary.lost {
        0 if summary.records > 0 => Ok(()),
        0 => Err(Error::CheckFailed("no record was sent".to_owned())),
        lost => Err(Error::CheckFailed(format!("{lost} records have neither a prediction nor a dead letter"))),
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
