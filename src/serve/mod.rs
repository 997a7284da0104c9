//! The serving process: start the parts, say what is ready, stop and drain.
//!
//! - [`lane`]: the loop
//! - [`delivery`]: what is promised, and when offsets are committed
//! - [`breaker`]: stops the flow when too many records cannot be scored
//! - [`lag`]: how far each partition is behind, and whether it moves
//! - [`settings`]: what all this is told
//! - [`memory`]: the most memory that it takes
//! - [`pulse`]: what others may know of a lane while it runs
//! - `report`: tells them, on the status topic
//! - [`crash`]: where tests may kill it
//! - [`output`]: predictions and dead letters with their headers
//! - [`model_watch`]: follows the model log for one model; verifies; swaps
//! - [`active`]: the slot with a model's active version

pub mod active;
mod batch;
pub mod breaker;
mod cache;
pub mod crash;
pub mod delivery;
pub mod lag;
pub mod lane;
pub mod memory;
pub mod model_watch;
pub mod output;
pub mod pulse;
mod report;
pub mod settings;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::kafka::admin::{Admin, Extent};
use crate::kafka::memory::ClientLimits;
use crate::kafka::{self, Connection};
use crate::model::Refusal;
use crate::pipeline::Reason;
use crate::registry::Selector;
use crate::registry::fleet::Report;
use crate::shutdown::Stop;
use crate::telemetry::Metrics;
use crate::telemetry::http::{self, Probes};

use active::Active;
use lane::Lane;
use memory::{Bound, Limits};
use model_watch::{Demands, ModelStatus, ModelWatch};
use pulse::{Activity, Gate, LanePulse};
use report::{Reporting, Sources};
pub use settings::{LaneSettings, ReportSettings, Settings};

/// A lane that has not turned for this long counts as dead: `/live` says so.
pub const LANE_SILENCE_MAX: Duration = Duration::from_secs(60);
/// A lane that has not turned for this long waits for the broker in some call: `/ready` says so.
pub const LANE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a broker that does not answer at the start is left alone.
const BROKER_RETRY: Duration = Duration::from_secs(1);
/// How often the serving process looks at its lanes.
const SUPERVISION: Duration = Duration::from_millis(50);
/// How much longer than its drain timeout a lane may take to say that it ran out of it.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// What a serving process cannot go on with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// The HTTP address.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A topic that serving needs.
    #[error("the topic {0} does not exist; `modelstream topics init` creates it")]
    NoTopic(String),
    /// A lane ended by a panic.
    #[error("lane {0} ended by a panic; unfinished records are done again after a restart")]
    Panicked(usize),
    /// The drain took too long.
    #[error("the drain did not end within {seconds} s ({lanes}); unfinished records are done again after a restart")]
    DrainTimeout {
        /// The deadline.
        seconds: u64,
        /// What each lane that has not ended was at.
        lanes: String,
    },
    /// The watchdog.
    #[error(
        "lane {lane} made no progress on a partition for {seconds} s although records wait; ending the process, so that another goes on from the committed offsets"
    )]
    Stalled {
        /// The lane.
        lane: usize,
        /// For how long.
        seconds: u64,
    },
    /// The system refuses a thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A running serving process.
pub struct Server {
    address: SocketAddr,
    lanes: Vec<JoinHandle<Result<(), kafka::Error>>>,
    watches: Vec<JoinHandle<()>>,
    pulses: Vec<Arc<LanePulse>>,
    reporting: Reporting,
    stop: Stop,
    stall_timeout: Duration,
    drain_timeout: Duration,
}

impl Server {
    /// Starts the parts: HTTP on `runtime`, the model watches, the reports and the lanes on threads of their own.
    ///
    /// # Errors
    /// When a topic is not there, the address is taken, or a Kafka setting is not valid.
    pub fn start(
        settings: Settings,
        metrics: Arc<Metrics>,
        runtime: &tokio::runtime::Handle,
        stop: Stop,
    ) -> Result<Server, Error> {
        metrics.expect_reasons(&Reason::ALL.map(Reason::as_str), &Refusal::REASONS);
        let actives: Vec<Arc<Active>> =
            settings.models.iter().map(|selector| Arc::new(Active::new(selector.clone()))).collect();
        let watch = |active: &Arc<Active>| {
            ModelWatch::new(
                settings.connection.clone(),
                settings.topics.clone(),
                Demands {
                    input: settings.input_format.clone(),
                    output: settings.output_format,
                    row_budget: settings.row_budget,
                },
                settings.cache.clone(),
                Arc::clone(active),
                Arc::clone(&metrics),
            )
        };
        let watches: Vec<ModelWatch> = actives.iter().map(watch).collect();
        let pulses: Vec<Arc<LanePulse>> = (0..settings.all_lanes()).map(|_| Arc::default()).collect();
        let statuses: Vec<Arc<Mutex<ModelStatus>>> = watches.iter().map(ModelWatch::status).collect();
        let identity = report::identity(&settings);
        let probes = probes(&settings, &identity, &actives, statuses.clone(), &pulses, &stop);
        let address = runtime
            .block_on(http::serve(settings.listen, Arc::clone(&metrics), probes))
            .map_err(|source| Error::Listen { address: settings.listen, source })?;
        // Before anything waits for a broker.
        tracing::info!("metrics on http://{address}/metrics");
        let extents: Result<Vec<[Extent; 3]>, Error> =
            settings.inputs.iter().map(|lane| require_topics(&settings.connection, lane, &stop)).collect();
        let bound = memory_bound(&settings, &extents?);
        metrics.memory_bound(bound.total);
        announce(&settings, address, bound);
        let stall_timeout = settings.stall_timeout;
        let drain_timeout = settings.inputs.iter().map(|lane| lane.drain_timeout).max().unwrap_or_default();
        let sources = Sources { identity, models: statuses, pulses: pulses.clone(), stop: stop.clone() };
        let reporting = Reporting::start(&settings, sources, Arc::clone(&metrics))?;
        let lanes = start_lanes(settings, &actives, &metrics, &pulses, &stop)?;
        let watches = start_watches(watches, &stop)?;
        Ok(Server { address, lanes, watches, pulses, reporting, stop, stall_timeout, drain_timeout })
    }

    /// Where HTTP is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the process is told to stop or a lane cannot go on, then drains within the drain timeout. It is also the
    /// watchdog: librdkafka's transactional calls can block past their timeout (librdkafka #5456), and nothing but the end of the
    /// process helps against a lane that hangs.
    ///
    /// # Errors
    /// The first lane's error, that a lane stalled, or that the drain took too long.
    pub fn run(self) -> Result<(), Error> {
        while !self.stop.wait(SUPERVISION) {
            if self.lanes.iter().any(JoinHandle::is_finished) {
                self.stop.set();
            }
            self.check_progress()?;
        }
        let deadline = Instant::now() + self.drain_timeout + DRAIN_GRACE;
        while !(self.lanes.iter().all(JoinHandle::is_finished) && self.watches.iter().all(JoinHandle::is_finished)) {
            if Instant::now() >= deadline {
                return Err(Error::DrainTimeout { seconds: self.drain_timeout.as_secs(), lanes: self.unfinished() });
            }
            std::thread::sleep(SUPERVISION);
        }
        let mut result = Ok(());
        for (index, lane) in self.lanes.into_iter().enumerate() {
            let ended = lane.join().map_err(|_| Error::Panicked(index)).and_then(|ended| Ok(ended?));
            if let Err(error) = ended {
                tracing::error!(lane = index, %error, "a lane ended");
                result = result.and(Err(error));
            }
        }
        if result.is_ok() {
            self.reporting.farewell();
        }
        result
    }

    fn unfinished(&self) -> String {
        let running = self.pulses.iter().zip(&self.lanes).enumerate().filter(|(_, (_, lane))| !lane.is_finished());
        let lanes = running.map(|(index, (pulse, _))| {
            let (activity, silent) = (pulse.activity(), pulse.age().as_secs());
            format!("lane {index} is {activity:?} and turned {silent} s ago")
        });
        lanes.collect::<Vec<String>>().join(", ")
    }

    fn check_progress(&self) -> Result<(), Error> {
        // A lane that has ended is no lane that hangs; its own error tells more.
        let running = self.pulses.iter().zip(&self.lanes).enumerate().filter(|(_, (_, lane))| !lane.is_finished());
        for (lane, (pulse, _)) in running {
            let silent = pulse.age().max(pulse.stalled_for());
            if silent > self.stall_timeout {
                return Err(Error::Stalled { lane, seconds: silent.as_secs() });
            }
        }
        Ok(())
    }
}

/// Waits for a broker, as a process does that is started before its cluster, and looks the topics up: input, output, dead
/// letters.
fn require_topics(connection: &Connection, lane: &LaneSettings, stop: &Stop) -> Result<[Extent; 3], Error> {
    let admin = Admin::new(connection)?;
    let topics = [&lane.input, &lane.output, &lane.dead_letters];
    let mut extents = [Extent { partitions: 0, brokers: 0 }; 3];
    for (topic, found) in topics.into_iter().zip(&mut extents) {
        loop {
            match admin.extent(topic) {
                Ok(Some(extent)) => {
                    *found = extent;
                    break;
                }
                Ok(None) => return Err(Error::NoTopic(topic.clone())),
                Err(error @ kafka::Error::Unreachable { .. }) => {
                    tracing::warn!(%error, "trying again");
                    if stop.wait(BROKER_RETRY) {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(extents)
}

type LaneThread = JoinHandle<Result<(), kafka::Error>>;

/// The lanes of each input, one input after the other.
fn start_lanes(
    settings: Settings,
    actives: &[Arc<Active>],
    metrics: &Arc<Metrics>,
    pulses: &[Arc<LanePulse>],
    stop: &Stop,
) -> Result<Vec<LaneThread>, Error> {
    let gate = Arc::new(Gate::new(pulses.len()));
    let inputs: Vec<Arc<LaneSettings>> = settings.inputs.into_iter().map(Arc::new).collect();
    let inputs = inputs.iter().flat_map(|input| std::iter::repeat_n(input, settings.lanes));
    let mut lanes = Vec::with_capacity(pulses.len());
    for (index, (shared, pulse)) in inputs.zip(pulses).enumerate() {
        let served = actives.iter().filter(|active| shared.models.contains(&active.selector().model));
        let served: Vec<Arc<Active>> = served.cloned().collect();
        let (connection, metrics) = (settings.connection.clone(), metrics.lane(index, &shared.input));
        let (shared, pulse) = (Arc::clone(shared), Arc::clone(pulse));
        let (stop, gate) = (stop.clone(), Arc::clone(&gate));
        lanes.push(spawn(format!("lane-{index}"), move || {
            let lane = Lane::new(&connection, index, shared, served, metrics, pulse, Arc::clone(&gate));
            let ended = lane.and_then(|lane| lane.run(&connection, &stop));
            // However it ended, the others need not wait for it.
            gate.arrive();
            ended
        })?);
    }
    Ok(lanes)
}

fn start_watches(watches: Vec<ModelWatch>, stop: &Stop) -> Result<Vec<JoinHandle<()>>, Error> {
    let start = |watch: ModelWatch| {
        let stop = stop.clone();
        spawn("model-watch".to_owned(), move || watch.run(&stop))
    };
    watches.into_iter().map(start).collect()
}

fn spawn<T: Send + 'static>(name: String, run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, Error> {
    std::thread::Builder::new().name(name).spawn(run).map_err(Error::Thread)
}

/// As the cluster is now: brokers that are added later may add to it.
fn memory_bound(settings: &Settings, extents: &[[Extent; 3]]) -> Bound {
    let partitions = |extent: &Extent| u64::from(extent.partitions.unsigned_abs());
    // A broker that leads no partition is not asked.
    let brokers = |[input, ..]: &[Extent; 3]| (input.brokers as u64).min(partitions(input));
    Bound::of(&Limits {
        models: settings.models.len() as u64,
        lanes: settings.all_lanes() as u64,
        clients: ClientLimits::of(&settings.connection),
        commit_records: settings.inputs.iter().map(|input| input.commit.records).max().unwrap_or(0),
        brokers: extents.iter().map(brokers).max().unwrap_or(0),
        partitions: extents.iter().map(|topics| topics.iter().map(partitions).sum()).max().unwrap_or(0),
    })
}

/// The sum of the limits and its parts, so that an operator can compare it with the container's.
fn announce(settings: &Settings, address: SocketAddr, bound: Bound) {
    let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
    for LaneSettings { input, models, output, dead_letters, group, .. } in &settings.inputs {
        tracing::info!(model = models.join(","), input, output, dead_letters, group, lanes = settings.lanes, "serving");
    }
    let selectors: Vec<String> = settings.models.iter().map(Selector::to_string).collect();
    tracing::info!(
        models = selectors.join(","),
        lanes = settings.all_lanes(),
        memory_bound_mib = mib(bound.total),
        memory_base_mib = mib(bound.base),
        memory_lane_mib = mib(bound.lane),
        "metrics on http://{address}/metrics; the memory bound is base + lanes × lane, without the models",
    );
}

/// What `/status` answers.
#[derive(Serialize)]
struct Status {
    version: &'static str,
    instance: String,
    started_at: String,
    inputs: Vec<InputStatus>,
    models: Vec<ModelStatus>,
    lanes: Vec<LaneStatus>,
    stopping: bool,
}

/// An input topic and where its records go.
#[derive(Clone, Serialize)]
struct InputStatus {
    input: String,
    models: Vec<String>,
    output: String,
    dead_letters: String,
    group: String,
}

impl InputStatus {
    fn of(settings: &LaneSettings) -> InputStatus {
        let LaneSettings { input, models, output, dead_letters, group, .. } = settings.clone();
        InputStatus { input, models, output, dead_letters, group }
    }
}

#[derive(Serialize)]
struct LaneStatus {
    input: String,
    partitions: usize,
    activity: &'static str,
    last_turn_ms_ago: u128,
}

fn lane_is_ready(index: usize, pulse: &LanePulse) -> Result<(), String> {
    if !pulse.is_connected() {
        return Err(format!("lane {index} has no connection to a broker"));
    }
    let silent = pulse.age();
    if silent > LANE_PATIENCE {
        return Err(format!("lane {index} has waited for the broker for {} s", silent.as_secs()));
    }
    match pulse.activity() {
        Activity::Flowing => Ok(()),
        Activity::Starting => Err(format!("lane {index} has not joined the group yet")),
        Activity::Recovering => Err(format!("lane {index} waits for the broker to go on from the committed offsets")),
        Activity::CircuitOpen => Err(format!("lane {index} stopped: too many records cannot be scored")),
        Activity::WaitingForModel => Err(format!("lane {index} waits: a model that it serves has no version")),
    }
}

fn probes(
    settings: &Settings,
    identity: &Report,
    actives: &[Arc<Active>],
    models: Vec<Arc<Mutex<ModelStatus>>>,
    pulses: &[Arc<LanePulse>],
    stop: &Stop,
) -> Probes {
    let (live_pulses, ready_pulses, status_pulses) = (pulses.to_vec(), pulses.to_vec(), pulses.to_vec());
    let (ready_actives, ready_stop, status_stop) = (actives.to_vec(), stop.clone(), stop.clone());
    let inputs: Vec<InputStatus> = settings.inputs.iter().map(InputStatus::of).collect();
    let lanes_of_each = settings.lanes;
    let Report { instance, started_at, .. } = identity.clone();
    Probes {
        live: Box::new(move || match live_pulses.iter().position(|pulse| pulse.age() > LANE_SILENCE_MAX) {
            Some(index) => Err(format!("lane {index} has not turned for {} s", live_pulses[index].age().as_secs())),
            None => Ok(()),
        }),
        ready: Box::new(move || {
            if ready_stop.is_set() {
                return Err("stopping".to_owned());
            }
            if let Some(empty) = ready_actives.iter().find(|active| !active.is_set()) {
                return Err(format!("no version of {} is active", empty.selector()));
            }
            ready_pulses.iter().enumerate().try_for_each(|(index, pulse)| lane_is_ready(index, pulse))
        }),
        status: Box::new(move || {
            let inputs_of_lanes = inputs.iter().flat_map(|input| std::iter::repeat_n(input, lanes_of_each));
            let lanes = inputs_of_lanes.zip(&status_pulses).map(|(input, pulse)| LaneStatus {
                input: input.input.clone(),
                partitions: pulse.partitions(),
                activity: pulse.activity().as_str(),
                last_turn_ms_ago: pulse.age().as_millis(),
            });
            let model = |model: &Arc<Mutex<ModelStatus>>| model.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let status = Status {
                version: env!("CARGO_PKG_VERSION"),
                instance: instance.clone(),
                started_at: started_at.clone(),
                inputs: inputs.clone(),
                models: models.iter().map(model).collect(),
                lanes: lanes.collect(),
                stopping: status_stop.is_set(),
            };
            serde_json::to_value(status).unwrap_or_default()
        }),
    }
}
