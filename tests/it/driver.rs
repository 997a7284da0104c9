//! Runs real serving processes against real Kafka while records flow, disturbs them by a plan that a seed decides, and has the
//! checker read along. The same seed gives the same faults at the same share of the flow.
//!
//! Used by the tests here, and by `tests/soak`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::checker::{Checker, Offsets, Report, Source, Subject};
use crate::flow::{Flow, GOOD};
use crate::harness::{Cluster, DEADLINE, OwnBroker, Serving, real_kafka};

/// How long after the last record everything may take to come to rest.
const REST_TIMEOUT: Duration = Duration::from_secs(180);
/// How often the plan is looked at.
const TICK: Duration = Duration::from_millis(20);
/// Faults begin when this share of the records was sent, so that each meets a flow.
const QUIET_START: f64 = 0.15;
/// Every so many records one cannot be scored.
const BAD_EVERY: u64 = 50;

/// What is run, and how often what happens to it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides the order and the times of the faults, and what they meet.
    pub seed: u64,
    /// Brokers: one that all tests share, or three of this run's own.
    pub three_nodes: bool,
    /// Serving processes.
    pub members: usize,
    /// Lanes of each.
    pub lanes: usize,
    /// Partitions of input and output.
    pub partitions: i32,
    /// Records of the input.
    pub records: u64,
    /// Records a second.
    pub rate: u64,
    /// SIGKILLs of serving processes.
    pub kills: u32,
    /// SIGTERMs, each followed by a start.
    pub restarts: u32,
    /// SIGSTOPs, for a second, longer than the session, or longer than the transaction.
    pub pauses: u32,
    /// Versions published while records flow.
    pub versions: u32,
    /// SIGKILLs of a broker, where there are three.
    pub broker_kills: u32,
    /// One in so many transactions is aborted on purpose; 0 for none.
    pub abort_every: u32,
    /// Whether lanes are static members of the group.
    pub static_membership: bool,
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Restart,
    Pause,
    Publish,
    KillBroker,
}

/// What came of a plan.
#[derive(Debug)]
pub struct Outcome {
    pub plan: Plan,
    pub report: Report,
    /// SIGKILLs of serving processes that met a living one.
    pub kills: u32,
    /// All faults, those included.
    pub faults: u32,
    /// Processes that ended by themselves because another had taken over their name or they stood still too long: exit code 6.
    pub fenced: u32,
    /// From each kill until new records of every partition had their result.
    pub recoveries: Vec<Duration>,
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index as u64 + 1) as usize);
        }
    }
}

/// A serving process and what is to become of it.
struct Member {
    name: String,
    crash_points: String,
    serving: Option<Serving>,
    /// When a dead one is started.
    start_at: Option<Instant>,
    /// When one that stands still goes on.
    go_on_at: Option<Instant>,
}

impl Member {
    fn is_up(&self) -> bool {
        self.serving.is_some() && self.go_on_at.is_none()
    }
}

/// Kills that not every partition has recovered from.
#[derive(Default)]
struct Recoveries {
    pending: Vec<(Instant, i64, BTreeSet<i32>)>,
    done: Vec<Duration>,
}

impl Recoveries {
    fn seen(&mut self, partition: i32, timestamp_ms: i64) {
        for (_, killed_ms, missing) in &mut self.pending {
            if timestamp_ms > *killed_ms {
                missing.remove(&partition);
            }
        }
        let Recoveries { pending, done } = self;
        pending.retain(|(killed, _, missing)| {
            if missing.is_empty() {
                done.push(killed.elapsed());
            }
            !missing.is_empty()
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries the plan out; `None` where there is no real broker.
pub fn run(test: &str, plan: &Plan) -> Option<Outcome> {
    let (own, cluster) = match plan.three_nodes {
        true => OwnBroker::start_three(test).map(|(own, cluster)| (Some(own), cluster))?,
        false => (None, real_kafka(test)?),
    };
    Some(Run::new(plan.clone(), cluster, own.map(Arc::new)).finish())
}

struct Run {
    plan: Plan,
    cluster: Cluster,
    own: Option<Arc<OwnBroker>>,
    flow: Flow,
    group: String,
    random: Random,
    members: Vec<Member>,
    recoveries: Arc<Mutex<Recoveries>>,
    broker_back: Option<JoinHandle<()>>,
    kills: u32,
    faults: u32,
    fenced: u32,
    versions: u32,
}

impl Run {
    fn new(plan: Plan, cluster: Cluster, own: Option<Arc<OwnBroker>>) -> Run {
        let flow = Flow::new(&cluster, plan.partitions);
        let group = cluster.name("group");
        cluster.publish_iris("iris", "1");
        let members = (0..plan.members).map(|index| Member {
            name: format!("m{index}"),
            crash_points: match plan.abort_every {
                0 => String::new(),
                every => format!("before-commit=abort/{every}"),
            },
            serving: None,
            start_at: Some(Instant::now()),
            go_on_at: None,
        });
        Run {
            random: Random::new(plan.seed),
            members: members.collect(),
            plan,
            cluster,
            own,
            flow,
            group,
            recoveries: Arc::default(),
            broker_back: None,
            kills: 0,
            faults: 0,
            fenced: 0,
            versions: 1,
        }
    }

    fn finish(mut self) -> Outcome {
        let checker = self.check();
        self.start_due();
        self.members.iter().filter_map(|member| member.serving.as_ref()).for_each(Serving::wait_until_ready);
        let (sent, counts) = (Arc::new(AtomicU64::new(0)), self.produce());
        let producing = counts(Arc::clone(&sent));
        for (at, action) in self.schedule() {
            while sent.load(Ordering::Relaxed) < at && !producing.is_finished() {
                self.tick();
            }
            self.act(action);
        }
        while !producing.is_finished() {
            self.tick();
        }
        let input = Offsets::dense(&producing.join().expect("the producer ends well"));
        self.rest();
        let report = checker.finish(&input, REST_TIMEOUT);
        for member in &mut self.members {
            let serving = member.serving.as_mut().expect("all run");
            assert_eq!(serving.stop(), Some(0), "{} drains", member.name);
        }
        let recoveries = std::mem::take(&mut lock(&self.recoveries).done);
        let Run { plan, kills, faults, fenced, .. } = self;
        Outcome { plan, report, kills, faults, fenced, recoveries }
    }

    /// At which record what happens.
    fn schedule(&mut self) -> Vec<(u64, Action)> {
        let Plan { kills, restarts, pauses, versions, broker_kills, records, .. } = self.plan;
        let times = |action: Action, count: u32| std::iter::repeat_n(action, count as usize);
        let mut actions: Vec<Action> = times(Action::Kill, kills)
            .chain(times(Action::Restart, restarts))
            .chain(times(Action::Pause, pauses))
            .chain(times(Action::Publish, versions))
            .chain(times(Action::KillBroker, broker_kills))
            .collect();
        self.random.shuffle(&mut actions);
        let start = (records as f64 * QUIET_START) as u64;
        let share = (records - start) / (actions.len() as u64 + 1);
        let at = |index: usize, random: &mut Random| start + share * index as u64 + random.below(share);
        actions.into_iter().enumerate().map(|(index, action)| (at(index, &mut self.random), action)).collect()
    }

    fn act(&mut self, action: Action) {
        self.faults += 1;
        match action {
            Action::Publish => {
                self.versions += 1;
                self.cluster.publish_iris("iris", &self.versions.to_string());
            }
            Action::KillBroker => self.kill_broker(),
            Action::Kill => {
                // Each in turn, so that all are killed about as often; one that is down is waited for.
                let index = self.kills as usize % self.members.len();
                self.wait_for(index);
                let partitions = (0..self.plan.partitions).collect();
                lock(&self.recoveries).pending.push((Instant::now(), unix_millis(), partitions));
                self.kills += 1;
                let mut serving = self.members[index].serving.take().expect("it is up");
                serving.signal("KILL");
                serving.wait();
                let rest = Duration::from_millis(self.random.below(3_000));
                self.members[index].start_at = Some(Instant::now() + rest);
            }
            Action::Restart => {
                let Some(index) = self.choose() else { return };
                let mut serving = self.members[index].serving.take().expect("it is up");
                let code = serving.stop();
                let name = &self.members[index].name;
                assert!(
                    code == Some(0) || self.own.is_some() && code == Some(4),
                    "the drain of {name} ends well, not with {code:?}: {:#?}",
                    serving.last_words()
                );
                self.members[index].start_at = Some(Instant::now());
            }
            Action::Pause => {
                let Some(index) = self.choose() else { return };
                // A moment, longer than the session, longer than the transaction and the session.
                let seconds = [1, 8, 14][self.random.below(3) as usize];
                self.members[index].serving.as_ref().expect("it is up").signal("STOP");
                self.members[index].go_on_at = Some(Instant::now() + Duration::from_secs(seconds));
            }
        }
    }

    /// Waits until a member is up, so that all of a plan's kills happen.
    fn wait_for(&mut self, index: usize) {
        let deadline = Instant::now() + DEADLINE;
        while !self.members[index].is_up() {
            assert!(Instant::now() < deadline, "{} is not up again", self.members[index].name);
            self.tick();
        }
    }

    /// A member that is up; none where all are down.
    fn choose(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.members.len()).filter(|index| self.members[*index].is_up()).collect();
        let chosen = self.random.below(up.len() as u64) as usize;
        up.get(chosen).copied()
    }

    /// One node at a time: with two of three gone nothing can be promised but to wait.
    fn kill_broker(&mut self) {
        if let Some(back) = self.broker_back.take() {
            back.join().expect("the broker came back");
        }
        let own = Arc::clone(self.own.as_ref().expect("three nodes"));
        let (node, down) = (1 + self.random.below(3) as u32, Duration::from_millis(self.random.below(4_000)));
        own.kill_node(node);
        self.broker_back = Some(std::thread::spawn(move || {
            std::thread::sleep(down);
            own.start_again();
        }));
    }

    fn tick(&mut self) {
        std::thread::sleep(TICK);
        let now = Instant::now();
        for member in &mut self.members {
            if member.go_on_at.is_some_and(|at| at <= now) {
                member.go_on_at = None;
                member.serving.as_ref().expect("it stands still").signal("CONT");
            }
            if let Some(serving) = &mut member.serving
                && serving.has_ended()
            {
                let code = serving.wait();
                assert_eq!(code, Some(6), "{} ended by itself: {:#?}", member.name, serving.drain_log());
                println!("{} was fenced: {:?}", member.name, serving.drain_log().last());
                self.fenced += 1;
                member.serving = None;
                member.start_at = Some(now);
            }
        }
        self.start_due();
    }

    fn start_due(&mut self) {
        let lanes = self.plan.lanes.to_string();
        for member in &mut self.members {
            if member.start_at.is_none_or(|at| at > Instant::now()) {
                continue;
            }
            member.start_at = None;
            let more = ["--lanes", &lanes, "--instance", &member.name, "--group", &self.group];
            let fixed: &[&str] = if self.plan.static_membership { &["--static-membership"] } else { &[] };
            let more = [&more[..], &["-X", "session.timeout.ms=6000", "--stall-timeout", "60s"], fixed].concat();
            let arguments = self.flow.arguments(&more);
            member.serving = Some(self.cluster.serve_disturbed(&member.crash_points, &arguments));
        }
    }

    /// No more faults: everybody is up and the brokers are back.
    fn rest(&mut self) {
        if let Some(back) = self.broker_back.take() {
            back.join().expect("the broker came back");
        }
        let deadline = Instant::now() + DEADLINE;
        // One that stood still may yet find that it was fenced.
        let at_work = |member: &Member| member.is_up() && member.serving.as_ref().is_some_and(Serving::is_ready);
        while !self.members.iter().all(at_work) {
            assert!(Instant::now() < deadline, "not everybody is ready");
            self.tick();
        }
    }

    fn check(&self) -> Checker {
        let subject = Subject::of(&self.cluster, &self.flow, &self.group);
        let recoveries = Arc::clone(&self.recoveries);
        Checker::start(subject, move |source, message| {
            if let Some(timestamp) = message.timestamp().to_millis() {
                lock(&recoveries).seen(source.0, timestamp);
            }
            belongs(source, message)
        })
    }

    /// What starts the producer; its thread returns the records of each partition.
    fn produce(&self) -> impl FnOnce(Arc<AtomicU64>) -> JoinHandle<Vec<u64>> + use<> {
        let (connection, topic) = (self.cluster.connection.clone(), self.flow.input.clone());
        let Plan { records, rate, partitions, .. } = self.plan;
        move |sent| {
            std::thread::spawn(move || {
                let producer = Producer::idempotent(&connection).expect("valid settings");
                let (began, mut counts) = (Instant::now(), BTreeMap::new());
                for number in 0..records {
                    let due = began + Duration::from_secs_f64(number as f64 / rate as f64);
                    let early = due.saturating_duration_since(Instant::now());
                    if early > Duration::from_millis(1) {
                        std::thread::sleep(early);
                    }
                    let partition = (number % partitions as u64) as i32;
                    let offset: &mut u64 = counts.entry(partition).or_insert(0);
                    let id = format!("{partition}-{offset}");
                    let make = || Outgoing {
                        topic: &topic,
                        partition: Some(partition),
                        key: Some(id.as_bytes()),
                        value: Some(if number % BAD_EVERY == 7 { b"not JSON" } else { GOOD }),
                        timestamp_ms: None,
                        headers: Headers::with_capacity(1).with("id", id.as_bytes()),
                    };
                    producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
                    *offset += 1;
                    sent.store(number + 1, Ordering::Relaxed);
                }
                assert!(producer.flush(DEADLINE), "the records are delivered in time");
                assert!(producer.take_failure().is_none(), "every record is delivered");
                counts.into_values().collect()
            })
        }
    }
}

/// A record's id says where in the input it is; its result must have it as key and header.
pub fn belongs((partition, offset): Source, message: &BorrowedMessage<'_>) -> bool {
    let id = message.headers().and_then(|headers| headers.iter().find(|header| header.key == "id")?.value);
    id == Some(format!("{partition}-{offset}").as_bytes()) && message.key() == id
}

fn unix_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}
