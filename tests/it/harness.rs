//! Starts the real things and knows the domain's verbs.
//!
//! Tests of delivery, groups, transactions and large messages run against real Apache Kafka: one broker for the whole run,
//! started by `ops/kafka/broker`, or the cluster that `MODELSTREAM_TEST_BROKERS` names. Each test has its own topics and group.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use modelstream::kafka::Connection;
use modelstream::kafka::admin::{Admin, Cleanup, TopicSpec};
use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use modelstream::kafka::reader::{LogReader, Read, Start};
use modelstream::registry::{Topics, Trust};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::proxy::Proxy;

/// How long anything in a test may take before it has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How many lines of a log a failure shows.
const LAST_LINES: usize = 12;

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of `tests/data`.
pub fn data(name: &str) -> PathBuf {
    root().join("tests/data").join(name)
}

/// Runs `modelstream` with these arguments to its end.
pub fn modelstream(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_modelstream")).args(arguments).output().expect("the binary runs")
}

/// As [`modelstream`]; what it printed on stdout, after checking that it ended well.
pub fn succeeded(arguments: &[&str]) -> String {
    let output = modelstream(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "modelstream {arguments:?} ended with {}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// As [`succeeded`]; the most memory that the process had at any time, in bytes, as far as it was looked at in time.
pub fn peak_memory_of(arguments: &[&str]) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_modelstream"))
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut peak = 0;
    let status = loop {
        // Of a process that has ended there is none.
        peak = peak_memory(child.id()).unwrap_or(peak);
        match child.try_wait().expect("our child") {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    assert!(status.success(), "modelstream {arguments:?} ended with {status}");
    peak
}

/// The most memory that a process had at any time, in bytes.
fn peak_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))?;
    Some(kib.parse::<u64>().ok()? * 1024)
}

/// As [`modelstream`]; what it printed on stderr, after checking that it ended with `code`.
pub fn failed_with(code: i32, arguments: &[&str]) -> String {
    let output = modelstream(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "modelstream {arguments:?}: {stderr}");
    stderr
}

/// The bootstrap address of a real broker, or why there is none.
fn bootstrap() -> &'static Result<String, String> {
    static BROKERS: OnceLock<Result<String, String>> = OnceLock::new();
    BROKERS.get_or_init(|| {
        if let Ok(brokers) = std::env::var("MODELSTREAM_TEST_BROKERS") {
            return Ok(brokers);
        }
        let pid = std::process::id().to_string();
        let dir = std::env::temp_dir().join(format!("modelstream-test-{pid}"));
        let started = Command::new(root().join("ops/kafka/broker"))
            .args(["start", "--port", "0", "--while-pid", &pid, "--dir"])
            .arg(dir)
            .output()
            .map_err(|error| error.to_string())?;
        match started.status.success() {
            true => Ok(String::from_utf8_lossy(&started.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&started.stderr).trim().to_owned()),
        }
    })
}

/// A real cluster with names that no other test has; `None` where there is none, which is said loudly, and is a failure
/// where `MODELSTREAM_TEST_REQUIRE` is set.
pub fn real_kafka(test: &str) -> Option<Cluster> {
    match bootstrap() {
        Ok(brokers) => Some(Cluster::new(brokers, test)),
        Err(why) => {
            skip(test, &format!("it needs a real broker: {why}"));
            None
        }
    }
}

/// Says loudly that a test does not run; a failure where `MODELSTREAM_TEST_REQUIRE` is set.
pub fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}");
    assert!(std::env::var_os("MODELSTREAM_TEST_REQUIRE").is_none(), "{line}");
    // Past the capture of a test's output: a skip is not silent.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A broker of one test's own, for what would disturb the others: it can be stopped and started again.
pub struct OwnBroker {
    dir: tempfile::TempDir,
    port: String,
}

impl OwnBroker {
    /// Starts it; `None` as for [`real_kafka`], and where the tests run against a given cluster.
    pub fn start(test: &str) -> Option<(OwnBroker, Cluster)> {
        OwnBroker::start_with(test, &[])
    }

    /// As [`OwnBroker::start`], with `settings` of the broker, each as `KEY=VALUE`.
    pub fn start_with(test: &str, settings: &[&str]) -> Option<(OwnBroker, Cluster)> {
        real_kafka(test)?;
        let dir = tempfile::tempdir().expect("a directory");
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        let address = OwnBroker::run_first(dir.path(), &settings);
        let port = address.rsplit(':').next().expect("a port").to_owned();
        Some((OwnBroker { dir, port }, Cluster::new(&address, test)))
    }

    /// As [`OwnBroker::start`], with three nodes: each record has three replicas, of which two must have it.
    pub fn start_three(test: &str) -> Option<(OwnBroker, Cluster)> {
        real_kafka(test)?;
        let dir = tempfile::tempdir().expect("a directory");
        let addresses = OwnBroker::run_first(dir.path(), &["--nodes", "3"]);
        Some((OwnBroker { dir, port: "0".to_owned() }, Cluster::replicated(&addresses, test, 3)))
    }

    /// SIGKILL for a node, counted from 1; [`OwnBroker::start_again`] brings it back.
    pub fn kill_node(&self, node: u32) {
        OwnBroker::run(self.dir.path(), &["kill", "--node", &node.to_string()]);
    }

    /// As [`OwnBroker::start`], with a proxy between it and its clients.
    pub fn start_proxied(test: &str) -> Option<ProxiedBroker> {
        OwnBroker::start_proxied_with(test, &[])
    }

    /// As [`OwnBroker::start_proxied`], with `settings` of the broker, each as `KEY=VALUE`.
    pub fn start_proxied_with(test: &str, settings: &[&str]) -> Option<ProxiedBroker> {
        let listener = Proxy::listener();
        let advertised = listener.local_addr().expect("it listens").port();
        let (broker, direct, behind) = OwnBroker::start_behind(test, advertised, settings)?;
        let proxy = Proxy::start(listener, behind);
        let cluster = direct.through(&proxy.address().to_string());
        Some(ProxiedBroker { proxy, cluster, direct, broker })
    }

    /// As [`OwnBroker::start_with`], with a second listener at the address that comes last, which tells its clients to connect
    /// to the port `advertised`.
    pub fn start_behind(test: &str, advertised: u16, settings: &[&str]) -> Option<(OwnBroker, Cluster, SocketAddr)> {
        real_kafka(test)?;
        let dir = tempfile::tempdir().expect("a directory");
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        let advertised = advertised.to_string();
        let address = OwnBroker::run_first(dir.path(), &[&["--proxied-port", &advertised], &settings[..]].concat());
        let port = address.rsplit(':').next().expect("a port").to_owned();
        let behind = std::fs::read_to_string(dir.path().join("proxied")).expect("the broker's second port");
        let behind = format!("127.0.0.1:{}", behind.trim()).parse().expect("an address");
        Some((OwnBroker { dir, port }, Cluster::new(&address, test), behind))
    }

    /// SIGKILL: nothing is flushed, nobody is told.
    pub fn kill(&self) {
        OwnBroker::run(self.dir.path(), &["kill"]);
    }

    pub fn start_again(&self) {
        OwnBroker::run(self.dir.path(), &["start", "--port", &self.port]);
    }

    /// Its first start: it does not outlive the tests, however they end.
    fn run_first(dir: &Path, arguments: &[&str]) -> String {
        let pid = std::process::id().to_string();
        OwnBroker::run(dir, &[&["start", "--port", "0", "--while-pid", &pid], arguments].concat())
    }

    fn run(dir: &Path, arguments: &[&str]) -> String {
        let script = root().join("ops/kafka/broker");
        tool(Command::new(script).args(arguments).arg("--dir").arg(dir)).trim().to_owned()
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let script = root().join("ops/kafka/broker");
        let _ = Command::new(script).args(["stop", "--dir"]).arg(self.dir.path()).output();
    }
}

/// A broker of one test's own and the proxy before it.
pub struct ProxiedBroker {
    pub proxy: Proxy,
    /// The cluster as its clients see it, through the proxy.
    pub cluster: Cluster,
    /// The same, past the proxy.
    pub direct: Cluster,
    pub broker: OwnBroker,
}

/// A cluster as one test sees it.
pub struct Cluster {
    pub brokers: String,
    pub connection: Connection,
    pub log: Topics,
    prefix: String,
    replication: i32,
}

/// A record that was read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp_ms: Option<i64>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| std::str::from_utf8(value).expect("text"))
    }

    /// Where the record came from: partition and offset of the input.
    pub fn source(&self) -> (i32, i64) {
        let number = |name: &str| self.header(name).expect("a provenance header").parse::<i64>().expect("a number");
        (number("modelstream-source-partition") as i32, number("modelstream-source-offset"))
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().expect("a value")).expect("JSON")
    }
}

impl Cluster {
    fn new(brokers: &str, test: &str) -> Cluster {
        Cluster::replicated(brokers, test, 1)
    }

    fn replicated(brokers: &str, test: &str, replication: i32) -> Cluster {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{test}-{}-{number}", std::process::id());
        let connection = Connection::new(brokers, &[]).expect("no properties");
        let name = |name: &str| format!("{prefix}.{name}");
        let (models, artifacts, status) = (name("models"), name("artifacts"), name("status"));
        let log = Topics { models, artifacts, status, trust: Trust::default() };
        let cluster = Cluster { brokers: brokers.to_owned(), connection, log, prefix, replication };
        let one = |name: &String, cleanup| TopicSpec { name: name.clone(), partitions: 1, cleanup };
        let (models, artifacts) = (&cluster.log.models, &cluster.log.artifacts);
        let status = one(&cluster.log.status, Cleanup::Recent);
        cluster.create(&[one(models, Cleanup::Compact), one(artifacts, Cleanup::Compact), status]);
        cluster
    }

    /// The same topics by another way.
    pub fn through(&self, brokers: &str) -> Cluster {
        let connection = Connection::new(brokers, &[]).expect("no properties");
        let (log, prefix) = (self.log.clone(), self.prefix.clone());
        Cluster { brokers: brokers.to_owned(), connection, log, prefix, replication: self.replication }
    }

    /// The test's own name for `name`.
    pub fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The arguments of every verb that name this cluster, its model log and its fleet.
    pub fn arguments<'a>(&'a self, verb: &[&'a str]) -> Vec<&'a str> {
        let Topics { models, artifacts, status, trust: _ } = &self.log;
        let log = ["--models-topic", models, "--artifacts-topic", artifacts, "--status-topic", status];
        let common = [&["--brokers", self.brokers.as_str()][..], &log].concat();
        verb.iter().copied().chain(common).collect()
    }

    pub fn create(&self, topics: &[TopicSpec]) {
        let admin = Admin::new(&self.connection).expect("valid settings");
        admin.create(topics, self.replication).expect("topics can be created");
    }

    /// Creates a topic; its name.
    pub fn topic(&self, name: &str, partitions: i32) -> String {
        let name = self.name(name);
        self.create(&[TopicSpec { name: name.clone(), partitions, cleanup: Cleanup::Delete }]);
        name
    }

    /// How many members the broker counts in a group.
    pub fn members(&self, group: &str) -> usize {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("valid settings");
        let list = consumer.fetch_group_list(Some(group), DEADLINE).expect("the broker answers");
        list.groups().iter().map(|group| group.members().len()).sum()
    }

    /// Sends records and waits for their delivery.
    pub fn send<'a>(&self, topic: &str, records: impl IntoIterator<Item = (Option<&'a [u8]>, Option<&'a [u8]>)>) {
        let producer = Producer::idempotent(&self.connection).expect("valid settings");
        for (key, value) in records {
            let make =
                || Outgoing { topic, partition: None, key, value, timestamp_ms: None, headers: Headers::default() };
            producer.send_waiting(make, UNTAGGED, Instant::now() + DEADLINE).expect("room");
        }
        assert!(producer.flush(DEADLINE), "the records are delivered in time");
        assert!(producer.take_failure().is_none());
    }

    /// Reads a topic from its beginning until `count` records came, and the ends of all partitions were reached.
    pub fn read(&self, topic: &str, count: usize) -> Vec<Received> {
        let partitions = Admin::new(&self.connection).and_then(|admin| admin.partitions(topic));
        let partitions = partitions.expect("a broker").expect("the topic exists");
        let starts: Vec<(i32, Start)> = (0..partitions).map(|partition| (partition, Start::Beginning)).collect();
        let reader = LogReader::open(&self.connection, topic, &starts).expect("valid settings");
        let (mut received, mut ended) = (Vec::new(), vec![false; partitions as usize]);
        let deadline = Instant::now() + DEADLINE;
        while received.len() < count || !ended.iter().all(|ended| *ended) {
            assert!(Instant::now() < deadline, "{topic}: {} of {count} records came in time", received.len());
            match reader.next(Duration::from_millis(100)).expect("readable") {
                Read::End(partition) => ended[partition as usize] = true,
                Read::Nothing => {}
                Read::Record(record) => {
                    ended[record.partition() as usize] = false;
                    let headers =
                        record.headers().map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec()));
                    received.push(Received {
                        partition: record.partition(),
                        offset: record.offset(),
                        key: record.key().map(<[u8]>::to_vec),
                        value: record.payload().map(<[u8]>::to_vec),
                        timestamp_ms: record.timestamp_ms(),
                        headers: headers.collect(),
                    });
                }
            }
        }
        received
    }

    /// Starts `modelstream serve` as a process of its own; the metrics port is free.
    pub fn serve(&self, arguments: &[&str]) -> Serving {
        self.serve_disturbed("", arguments)
    }

    /// As [`Cluster::serve`], with crash points (`src/serve/crash.rs`).
    pub fn serve_disturbed(&self, crash_points: &str, arguments: &[&str]) -> Serving {
        self.serve_in(&[(CRASH_POINTS, crash_points)], arguments)
    }

    /// As [`Cluster::serve`], with variables of the environment.
    pub fn serve_in(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Serving {
        let mut all = self.arguments(&["serve"]);
        all.extend(["--listen", "127.0.0.1:0", "--log-format", "json"]);
        all.extend(arguments);
        Serving::start_in(environment, &all)
    }

    /// As [`Cluster::serve_disturbed`], with so much to say that a stderr which nobody reads is full soon.
    pub fn serve_unread(&self, crash_points: &str, arguments: &[&str]) -> Serving {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let address = format!("127.0.0.1:{port}");
        let all = [&self.arguments(&["serve", "-vv", "--listen", &address])[..], arguments].concat();
        let child = Serving::spawn(&[(CRASH_POINTS, crash_points)], &all);
        // Nobody sends: nothing is read.
        let (_, lines) = channel();
        let serving = Serving { child, lines, log: Vec::new(), address };
        wait_until("it listens", || TcpStream::connect(&serving.address).is_ok());
        serving
    }

    /// Trains on the iris data and publishes as `model`; what `--json` printed.
    pub fn publish_iris(&self, model: &str, seed: &str) -> serde_json::Value {
        let iris = data("iris.csv");
        let iris = iris.to_str().expect("text");
        let line = ["train", iris, "--target", "species", "--seed", seed, "--n-estimators", "10"];
        let line = [&line[..], &["--publish", "--model", model, "--json"]].concat();
        serde_json::from_str(&succeeded(&self.arguments(&line))).expect("JSON")
    }
}

/// Which variable names the crash points (`src/serve/crash.rs`).
const CRASH_POINTS: &str = "MODELSTREAM_CRASH_POINTS";

/// A running `modelstream serve`.
pub struct Serving {
    child: Child,
    lines: Receiver<String>,
    pub log: Vec<String>,
    pub address: String,
}

impl Serving {
    fn spawn(environment: &[(&str, &str)], arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_modelstream"))
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs")
    }

    /// Starts `modelstream` with these arguments, of which the first is `serve`.
    pub fn start(arguments: &[&str], crash_points: &str) -> Serving {
        Serving::start_in(&[(CRASH_POINTS, crash_points)], arguments)
    }

    fn start_in(environment: &[(&str, &str)], arguments: &[&str]) -> Serving {
        let mut child = Serving::spawn(environment, arguments);
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut serving = Serving { child, lines, log: Vec::new(), address: String::new() };
        let line = serving.wait_for_log("metrics on http://");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
        serving.address = address.to_owned();
        serving
    }

    /// The next log line with this text.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no line with {text:?} came: {:#?}", self.log));
            self.log.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Status code and body of a GET.
    pub fn get(&self, path: &str) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut response = agent.get(format!("http://{}{path}", self.address)).call().expect("HTTP is served");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
    }

    /// Whether `/ready` says yes; no where nobody answers.
    pub fn is_ready(&self) -> bool {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent.get(format!("http://{}/ready", self.address)).call().is_ok_and(|response| response.status().is_success())
    }

    /// Waits until `/ready` says yes.
    pub fn wait_until_ready(&self) {
        wait_until("the process is ready", || self.get("/ready").0 == 200);
    }

    /// The values of a metric by their labels.
    pub fn metric(&self, name: &str) -> BTreeMap<String, f64> {
        let (_, text) = self.get("/metrics");
        let lines =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let parse = |line: &str| {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            (series[name.len()..].to_owned(), value.parse().expect("a number"))
        };
        lines.map(parse).collect()
    }

    /// The sum of a metric's series.
    pub fn total(&self, name: &str) -> f64 {
        self.metric(name).values().sum()
    }

    /// Whether a signal made it stand still.
    pub fn is_stopped(&self) -> bool {
        self.stat().first().is_some_and(|state| state == "T")
    }

    /// The fields of `/proc/PID/stat` from the state on: proc_pid_stat(5).
    pub fn stat(&self) -> Vec<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        status.rsplit(')').next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    /// The most memory that it had at any time, in bytes.
    pub fn peak_memory(&self) -> u64 {
        peak_memory(self.child.id()).expect("it runs")
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the process to end; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the process does not end: {:#?}", self.drain_log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, and the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait()
    }

    /// The last lines that it said: what a report that is cut still has room for.
    pub fn last_words(&mut self) -> &[String] {
        let log = self.drain_log();
        &log[log.len().saturating_sub(LAST_LINES)..]
    }

    /// Everything that it said so far.
    pub fn drain_log(&mut self) -> &[String] {
        self.log.extend(self.lines.try_iter());
        &self.log
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the serving process: {:#?}", self.drain_log());
        }
    }
}

/// Waits until something holds.
pub fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a tool; its output where it ended well, else a panic with what it said.
pub fn tool(command: &mut Command) -> String {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the tool runs");
    let mut stdout = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut stdout).expect("text");
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {stdout}{stderr}", output.status);
    stdout
}
