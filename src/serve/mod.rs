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
//! - [`model_watch`]: follows the model log; verifies; swaps
//! - [`active`]: the slot with the active model

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

use crate::kafka;
use crate::kafka::admin::{Admin, Extent};
use crate::kafka::memory::ClientLimits;
use crate::model::Refusal;
use crate::pipeline::Reason;
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
    watch: JoinHandle<()>,
    pulses: Vec<Arc<LanePulse>>,
    reporting: Reporting,
    stop: Stop,
    stall_timeout: Duration,
    drain_timeout: Duration,
}

impl Server {
    /// Starts the parts: HTTP on `runtime`, the model watch, the reports and the lanes on threads of their own.
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
        let active = Arc::new(Active::new());
        let watch = ModelWatch::new(
            settings.connection.clone(),
            settings.topics.clone(),
            settings.selector.clone(),
            Demands {
                input: settings.input_format.clone(),
                output: settings.output_format,
                row_budget: settings.row_budget,
            },
            settings.cache.clone(),
            Arc::clone(&active),
            Arc::clone(&metrics),
        );
        let pulses: Vec<Arc<LanePulse>> = (0..settings.lanes).map(|_| Arc::default()).collect();
        let identity = report::identity(&settings);
        let probes = probes(&settings, &identity, &active, watch.status(), &pulses, &stop);
        let address = runtime
            .block_on(http::serve(settings.listen, Arc::clone(&metrics), probes))
            .map_err(|source| Error::Listen { address: settings.listen, source })?;
        // Before anything waits for a broker.
        tracing::info!("metrics on http://{address}/metrics");
        let bound = memory_bound(&settings, require_topics(&settings, &stop)?);
        metrics.memory_bound(bound.total);
        announce(&settings, address, bound);
        let (drain_timeout, stall_timeout) = (settings.lane.drain_timeout, settings.stall_timeout);
        let models = vec![watch.status()];
        let sources = Sources { identity, models, pulses: pulses.clone(), stop: stop.clone() };
        let reporting = Reporting::start(&settings, sources, Arc::clone(&metrics))?;
        let (watch, lanes) = start_threads(settings, watch, &active, &metrics, &pulses, &stop)?;
        Ok(Server { address, lanes, watch, pulses, reporting, stop, stall_timeout, drain_timeout })
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
        while !(self.lanes.iter().all(JoinHandle::is_finished) && self.watch.is_finished()) {
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
fn require_topics(settings: &Settings, stop: &Stop) -> Result<[Extent; 3], Error> {
    let admin = Admin::new(&settings.connection)?;
    let topics = [&settings.lane.input, &settings.lane.output, &settings.lane.dead_letters];
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

type Threads = (JoinHandle<()>, Vec<JoinHandle<Result<(), kafka::Error>>>);

fn start_threads(
    settings: Settings,
    watch: ModelWatch,
    active: &Arc<Active>,
    metrics: &Arc<Metrics>,
    pulses: &[Arc<LanePulse>],
    stop: &Stop,
) -> Result<Threads, Error> {
    let shared = Arc::new(settings.lane);
    let gate = Arc::new(Gate::new(pulses.len()));
    let mut lanes = Vec::with_capacity(pulses.len());
    for (index, pulse) in pulses.iter().enumerate() {
        let (connection, metrics) = (settings.connection.clone(), metrics.lane(index, &shared.input));
        let (shared, active, pulse) = (Arc::clone(&shared), Arc::clone(active), Arc::clone(pulse));
        let (stop, gate) = (stop.clone(), Arc::clone(&gate));
        lanes.push(spawn(format!("lane-{index}"), move || {
            let lane = Lane::new(&connection, index, shared, active, metrics, pulse, Arc::clone(&gate));
            let ended = lane.and_then(|lane| lane.run(&connection, &stop));
            // However it ended, the others need not wait for it.
            gate.arrive();
            ended
        })?);
    }
    let stop = stop.clone();
    Ok((spawn("model-watch".to_owned(), move || watch.run(&stop))?, lanes))
}

fn spawn<T: Send + 'static>(name: String, run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, Error> {
    std::thread::Builder::new().name(name).spawn(run).map_err(Error::Thread)
}

/// As the cluster is now: brokers that are added later may add to it.
fn memory_bound(settings: &Settings, [input, output, dead_letters]: [Extent; 3]) -> Bound {
    let partitions = [input, output, dead_letters].map(|extent| u64::from(extent.partitions.unsigned_abs()));
    Bound::of(&Limits {
        lanes: settings.lanes as u64,
        clients: ClientLimits::of(&settings.connection),
        // A broker that leads no partition is not asked.
        brokers: (input.brokers as u64).min(partitions[0]),
        partitions: partitions.iter().sum(),
    })
}

/// The sum of the limits and its parts, so that an operator can compare it with the container's.
fn announce(settings: &Settings, address: SocketAddr, bound: Bound) {
    let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
    tracing::info!(
        model = %settings.selector,
        input = settings.lane.input,
        output = settings.lane.output,
        dead_letters = settings.lane.dead_letters,
        group = settings.lane.group,
        lanes = settings.lanes,
        memory_bound_mib = mib(bound.total),
        memory_base_mib = mib(bound.base),
        memory_lane_mib = mib(bound.lane),
        "serving; metrics on http://{address}/metrics; the memory bound is base + lanes × lane, without the models",
    );
}

/// What `/status` answers.
#[derive(Serialize)]
struct Status {
    version: &'static str,
    instance: String,
    started_at: String,
    input: String,
    output: String,
    dead_letters: String,
    group: String,
    model: ModelStatus,
    lanes: Vec<LaneStatus>,
    stopping: bool,
}

#[derive(Serialize)]
struct LaneStatus {
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
    }
}

fn probes(
    settings: &Settings,
    identity: &Report,
    active: &Arc<Active>,
    model: Arc<Mutex<ModelStatus>>,
    pulses: &[Arc<LanePulse>],
    stop: &Stop,
) -> Probes {
    let (live_pulses, ready_pulses, status_pulses) = (pulses.to_vec(), pulses.to_vec(), pulses.to_vec());
    let (ready_active, ready_stop, status_stop) = (Arc::clone(active), stop.clone(), stop.clone());
    let (selector, lane) = (settings.selector.clone(), settings.lane.clone());
    let started_at = identity.started_at.clone();
    Probes {
        live: Box::new(move || match live_pulses.iter().position(|pulse| pulse.age() > LANE_SILENCE_MAX) {
            Some(index) => Err(format!("lane {index} has not turned for {} s", live_pulses[index].age().as_secs())),
            None => Ok(()),
        }),
        ready: Box::new(move || {
            if ready_stop.is_set() {
                return Err("stopping".to_owned());
            }
            if !ready_active.is_set() {
                return Err(format!("no version of {selector} is active yet"));
            }
            ready_pulses.iter().enumerate().try_for_each(|(index, pulse)| lane_is_ready(index, pulse))
        }),
        status: Box::new(move || {
            let lanes = status_pulses.iter().map(|pulse| LaneStatus {
                partitions: pulse.partitions(),
                activity: pulse.activity().as_str(),
                last_turn_ms_ago: pulse.age().as_millis(),
            });
            let status = Status {
                version: env!("CARGO_PKG_VERSION"),
                instance: lane.instance.clone(),
                started_at: started_at.clone(),
                input: lane.input.clone(),
                output: lane.output.clone(),
                dead_letters: lane.dead_letters.clone(),
                group: lane.group.clone(),
                model: model.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                lanes: lanes.collect(),
                stopping: status_stop.is_set(),
            };
            serde_json::to_value(status).unwrap_or_default()
        }),
    }
}
