//! Exactly once: whatever dies, each record has one output that a read_committed reader sees.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use modelstream::kafka::admin::Admin;
use modelstream::kafka::producer::Producer;
use rdkafka::producer::Producer as _;

use crate::checked::open_offsets;
use crate::checker::Subject;
use crate::driver::{self, Plan};
use crate::faults::{FRESH_METADATA, SHORT_SESSION, Watched, add_partitions};
use crate::flow::{Flow, GOOD, assert_order_is_kept, outputs_by_source};
use crate::harness::{Cluster, DEADLINE, OwnBroker, ProxiedBroker, Received, Serving, real_kafka, wait_until};

/// Sends `count` records, of which every fiftieth cannot be scored.
fn send(cluster: &Cluster, flow: &Flow, count: usize) {
    let keys: Vec<String> = (0..count).map(|index| index.to_string()).collect();
    let value = |index: usize| if index % 50 == 7 { &b"bad"[..] } else { GOOD };
    cluster.send(&flow.input, keys.iter().enumerate().map(|(index, key)| (Some(key.as_bytes()), Some(value(index)))));
}

/// Waits for the outputs of `count` records and checks that each has exactly one; the predictions.
fn assert_exactly_once(cluster: &Cluster, flow: &Flow, count: usize) -> Vec<Received> {
    let dead = (0..count).filter(|index| index % 50 == 7).count();
    let predictions = cluster.read(&flow.output, count - dead);
    assert_order_is_kept(&predictions);
    let outputs = [&predictions[..], &cluster.read(&flow.dead_letters, dead)].concat();
    assert_eq!((outputs.len(), outputs_by_source(&outputs).len()), (count, count));
    predictions
}

/// A step of the loop, and what kills the process there.
const STEPS: [(&str, &str); 13] = [
    ("assign", "assign=kill@1"),
    ("after-poll", "after-poll=kill@4"),
    ("swap", "swap=kill@1"),
    ("predict", "predict=kill@4"),
    ("after-begin", "after-begin=kill@2"),
    ("mid-produce", "mid-produce=kill@4"),
    ("after-produce", "after-produce=kill@4"),
    ("before-offsets", "before-offsets=kill@2"),
    ("before-commit", "before-commit=kill@2"),
    ("during-commit", "before-commit=kill-soon@2"),
    ("after-commit", "after-commit=kill@2"),
    ("revoke", "revoke=kill@1"),
    ("rewind", "before-offsets=abort@2,rewind=kill@1"),
];

#[test]
fn a_kill_at_any_step_of_the_loop_loses_and_doubles_nothing() {
    let Some(_) = real_kafka("once-steps") else { return };
    std::thread::scope(|scope| {
        for steps in STEPS.chunks(STEPS.len().div_ceil(STEPS_AT_ONCE)) {
            scope.spawn(|| steps.iter().for_each(|(step, crash_points)| kill_at(step, crash_points)));
        }
    });
}

/// As many processes at once as a small machine can bear.
const STEPS_AT_ONCE: usize = 4;

fn kill_at(step: &str, crash_points: &str) {
    const RECORDS: usize = 3_000;
    let Some(cluster) = real_kafka(&format!("once-{step}")) else { return };
    let flow = Flow::new(&cluster, 2);
    cluster.publish_iris("iris", "7");
    // Many transactions, however fast the records are scored.
    let more = [&["--batch-records", "50", "--commit-records", "200"][..], &SHORT_SESSION].concat();
    let named = |name: &'static str| flow.arguments(&[&more[..], &["--instance", name]].concat());
    let mut victim = cluster.serve_disturbed(crash_points, &named("victim"));
    send(&cluster, &flow, RECORDS);
    // A rebalance is what the revoking step waits for.
    let mut other = (step == "revoke").then(|| cluster.serve(&named("other")));
    assert_eq!(victim.wait(), None, "{step}: ended by a signal");
    let mut successor = cluster.serve(&named("victim"));
    assert_exactly_once(&cluster, &flow, RECORDS);
    for serving in other.iter_mut().chain([&mut successor]) {
        assert_eq!(serving.stop(), Some(0), "{step}");
    }
}

/// 100,000 records through two processes, each of which is killed three times, while one transaction in three is aborted, new
/// versions come, and others stand still or are restarted. A read_committed reader looks on all along.
#[test]
fn nothing_is_lost_or_doubled_whatever_dies() {
    let plan = Plan {
        seed: 7,
        three_nodes: false,
        members: 2,
        lanes: 2,
        partitions: 6,
        records: 100_000,
        rate: 4_000,
        kills: 6,
        restarts: 2,
        pauses: 1,
        versions: 2,
        broker_kills: 0,
        abort_every: 3,
        static_membership: false,
    };
    let Some(outcome) = driver::run("once-chaos", &plan) else { return };
    println!("{outcome:#?}");
    assert!(outcome.report.is_exactly_once(), "{:#?}", outcome.report);
    assert_eq!(outcome.report.expected, plan.records);
    assert!(outcome.kills >= 6 && outcome.report.aborted > 0, "{outcome:#?}");
}

/// Three nodes, of which one after the other dies, leaders and coordinators with it.
#[test]
fn brokers_may_die_too() {
    let plan = Plan {
        seed: 11,
        three_nodes: true,
        members: 2,
        lanes: 1,
        partitions: 6,
        records: 40_000,
        rate: 800,
        kills: 1,
        restarts: 0,
        pauses: 0,
        versions: 1,
        broker_kills: 3,
        abort_every: 0,
        static_membership: true,
    };
    let Some(outcome) = driver::run("once-brokers", &plan) else { return };
    println!("{outcome:#?}");
    assert!(outcome.report.is_exactly_once(), "{:#?}", outcome.report);
}

/// One process aborts every third transaction, the other at every fifth batch. There are few: while the transaction before is under
/// way, one has many times its records.
#[test]
fn aborted_transactions_leave_no_trace_for_readers() {
    let Some(cluster) = real_kafka("once-abort") else { return };
    const RECORDS: usize = 20_000;
    let flow = Flow::new(&cluster, 4);
    cluster.publish_iris("iris", "7");
    let arguments = flow.arguments(&["--lanes", "2", "--batch-records", "100", "--commit-interval", "10ms"]);
    let (mut first, mut second) = (
        cluster.serve_disturbed("before-commit=abort/3", &arguments),
        cluster.serve_disturbed("after-produce=abort/5", &arguments),
    );
    first.wait_until_ready();
    second.wait_until_ready();
    send(&cluster, &flow, RECORDS);
    assert_exactly_once(&cluster, &flow, RECORDS);
    for serving in [&mut first, &mut second] {
        let aborted = serving.metric("modelstream_transactions_total")["{result=\"aborted\"}"];
        assert!(aborted > 0.0, "some were aborted");
        assert_eq!(serving.stop(), Some(0));
    }
}

/// Two producers take turns, and each learns of new partitions when it likes.
#[test]
fn partitions_that_the_output_gets_meanwhile_are_written_in_order() {
    let Some(cluster) = real_kafka("once-grown") else { return };
    const RECORDS: usize = 100_000;
    const MORE: usize = 1_000;
    let flow = Flow::new(&cluster, 4);
    cluster.publish_iris("iris", "7");
    let mut serving = cluster.serve(&flow.arguments(&[&FRESH_METADATA[..], &["--commit-interval", "5ms"]].concat()));
    serving.wait_until_ready();
    std::thread::scope(|scope| {
        scope.spawn(|| send(&cluster, &flow, RECORDS));
        for partitions in [6, 8] {
            let so_far = serving.total("modelstream_predictions_total");
            wait_until("records flow", || serving.total("modelstream_predictions_total") > so_far);
            add_partitions(&cluster, &flow.output, partitions);
        }
    });
    let (sent, admin) = (Cell::new(RECORDS), Admin::new(&cluster.connection).expect("valid settings"));
    wait_until("the last partition is known", || {
        send(&cluster, &flow, MORE);
        sent.set(sent.get() + MORE);
        admin.watermarks(&flow.output, 7).expect("a broker").1 > 0
    });
    let outputs = assert_exactly_once(&cluster, &flow, sent.get());
    let partitions: BTreeSet<i32> = outputs.iter().map(|output| output.partition).collect();
    assert_eq!(partitions, (0..8).collect());
    assert_eq!(serving.stop(), Some(0));
}

/// A process that stands still longer than its session, and one that stands still longer than its transaction may take: when it
/// wakes up, others have its partitions, and what it had open is worth nothing.
#[test]
fn a_zombie_commits_nothing() {
    std::thread::scope(|scope| {
        for pause in [Duration::from_secs(8), Duration::from_secs(14)] {
            scope.spawn(move || zombie(pause));
        }
    });
}

fn zombie(pause: Duration) {
    const RECORDS: usize = 20_000;
    let Some(cluster) = real_kafka(&format!("once-zombie-{}", pause.as_secs())) else { return };
    let flow = Flow::new(&cluster, 2);
    cluster.publish_iris("iris", "7");
    let more = [&["--batch-records", "50"][..], &SHORT_SESSION].concat();
    let named = |name: &'static str| flow.arguments(&[&more[..], &["--instance", name]].concat());
    // It stops itself with a transaction open.
    let mut zombie = cluster.serve_disturbed("mid-produce=stop@20", &named("zombie"));
    send(&cluster, &flow, RECORDS);
    wait_until("it stands still", || zombie.is_stopped());
    let mut other = cluster.serve(&named("other"));
    std::thread::sleep(pause);
    zombie.signal("CONT");
    assert_exactly_once(&cluster, &flow, RECORDS);
    // Fenced because its transaction took too long, or back at work.
    let code = if zombie.has_ended() { zombie.wait() } else { zombie.stop() };
    assert!(code == Some(0) || code == Some(6), "{code:?}");
    assert_eq!(other.stop(), Some(0));
}

/// Somebody's transaction hides the committed offsets while members come: partitions that were taken without knowing where they
/// start are read once it ends.
#[test]
fn partitions_that_wait_for_their_committed_offsets_are_read_in_the_end() {
    let Some(cluster) = real_kafka("once-hidden") else { return };
    const RECORDS: usize = 2_000;
    let flow = Flow::new(&cluster, 2);
    cluster.publish_iris("iris", "7");
    send(&cluster, &flow, RECORDS);
    let subject = Subject::of(&cluster, &flow, &cluster.name("group"));
    let hiding = open_offsets(&cluster, &subject, 0..1);
    let named = |name: &'static str| flow.arguments(&["--group", &subject.group, "--instance", name]);
    let mut first = cluster.serve(&named("first"));
    first.wait_for_log("the partitions wait for their committed offsets");
    let mut second = cluster.serve(&named("second"));
    second.wait_for_log("rebalance");
    first.wait_for_log("waiting for the broker");
    hiding.abort_transaction(DEADLINE).expect("aborted");
    assert_exactly_once(&cluster, &flow, RECORDS);
    for serving in [&mut first, &mut second] {
        assert_eq!(serving.stop(), Some(0));
    }
}

/// Somebody's transaction hides the committed offsets when a process is stopped: what it has done is committed, and it need not
/// know theirs.
#[test]
fn a_drain_does_not_wait_for_the_transaction_of_another() {
    let Some(cluster) = real_kafka("once-drain") else { return };
    const RECORDS: usize = 500;
    let flow = Flow::new(&cluster, 2);
    cluster.publish_iris("iris", "7");
    let subject = Subject::of(&cluster, &flow, &cluster.name("group"));
    let mut serving = cluster.serve(&flow.arguments(&["--group", &subject.group, "--drain-timeout", "8s"]));
    serving.wait_until_ready();
    let hiding = open_offsets(&cluster, &subject, 0..2);
    send(&cluster, &flow, RECORDS);
    assert_exactly_once(&cluster, &flow, RECORDS);
    assert_eq!(serving.stop(), Some(0));
    hiding.abort_transaction(DEADLINE).expect("aborted");
}

/// A member dies, and its partitions' committed offsets are hidden when another gets them, which has a transaction open: that is
/// committed once, and the partitions that it had flow on.
#[test]
fn a_member_goes_on_while_partitions_wait_for_their_committed_offsets() {
    let Some(cluster) = real_kafka("once-open") else { return };
    const PARTITIONS: i32 = 8;
    let watched = Watched::new(&cluster, PARTITIONS);
    let subject = Subject::of(&cluster, &watched.flow, &watched.group);
    // Four lanes, each with a transaction that is open most of the time.
    let more = [&["--lanes", "4", "--commit-interval", "1s"][..], &SHORT_SESSION].concat();
    let named = |name: &'static str| watched.arguments(&[&more[..], &["--instance", name]].concat());
    let (mut first, second) = (cluster.serve(&named("first")), cluster.serve(&named("second")));
    let producer = Producer::idempotent(&cluster.connection).expect("valid settings");
    let (deadline, offset) = (Instant::now() + DEADLINE, Cell::new(0));
    let flow = || {
        (0..PARTITIONS).for_each(|partition| watched.send(&producer, partition, offset.get(), Some(GOOD)));
        offset.set(offset.get() + 1);
        assert!(Instant::now() < deadline, "it goes on in time");
        // Not so long that the input is idle, and what is open committed.
        std::thread::sleep(Duration::from_millis(1));
    };
    let of = |serving: &Serving| -> Vec<i32> {
        let lags = serving.metric("modelstream_lag_records");
        (0..PARTITIONS)
            .filter(|partition| lags.keys().any(|labels| labels.contains(&format!("\"{partition}\""))))
            .collect()
    };
    while (of(&first).len(), of(&second).len()) != (4, 4) {
        flow();
    }
    let hiding = open_offsets(&cluster, &subject, of(&second));
    second.signal("KILL");
    while !first.drain_log().iter().any(|line| line.contains("the partitions wait for their committed offsets")) {
        flow();
    }
    // Those that it had flow on.
    let so_far = first.total("modelstream_predictions_total");
    while first.total("modelstream_predictions_total") < so_far + 10_000.0 {
        flow();
    }
    hiding.abort_transaction(DEADLINE).expect("aborted");
    assert!(producer.flush(DEADLINE));
    let mut second = cluster.serve(&named("second"));
    watched.assert_exactly_once();
    for serving in [&mut first, &mut second] {
        assert_eq!(serving.stop(), Some(0));
    }
}

/// The scoring of a batch panics: its records are tried one by one, and the lane lives.
#[test]
fn a_panic_while_scoring_costs_nothing_else() {
    let Some(cluster) = real_kafka("once-panic") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let mut serving = cluster.serve_disturbed("predict=panic@2", &flow.arguments(&["--batch-records", "50"]));
    send(&cluster, &flow, 1_000);
    assert_exactly_once(&cluster, &flow, 1_000);
    serving.wait_for_log("scoring panicked");
    assert_eq!(serving.stop(), Some(0));
}

/// A lane that hangs: the watchdog ends the process, and its successor finishes.
#[test]
fn the_watchdog_ends_a_process_whose_lane_hangs() {
    let Some(cluster) = real_kafka("once-watchdog") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let more = [&["--stall-timeout", "15s", "--instance", "a"][..], &SHORT_SESSION].concat();
    let mut hanging = cluster.serve_disturbed("before-offsets=hang@1", &flow.arguments(&more));
    send(&cluster, &flow, 1_000);
    assert_eq!(hanging.wait(), Some(9));
    let mut successor = cluster.serve(&flow.arguments(&more));
    assert_exactly_once(&cluster, &flow, 1_000);
    assert_eq!(successor.stop(), Some(0));
}

/// With the broker away a process ends within its drain timeout, and says that by its exit code. The broker is away by its
/// line: one that is killed between the two steps of a commit may never make the second (`ops/RELIABILITY.md`).
#[test]
fn a_process_that_cannot_drain_ends_all_the_same() {
    let Some(ProxiedBroker { proxy, cluster, direct, broker: _broker }) = OwnBroker::start_proxied("once-no-drain")
    else {
        return;
    };
    let flow = Flow::new(&direct, 2);
    direct.publish_iris("iris", "7");
    send(&direct, &flow, 20_000);
    let more = ["--lanes", "2", "--batch-records", "20", "--drain-timeout", "3s", "--instance", "a"];
    let arguments = flow.arguments(&[&more[..], &SHORT_SESSION].concat());
    let mut serving = cluster.serve(&arguments);
    wait_until("it works", || serving.total("modelstream_predictions_total") > 0.0);
    proxy.cut();
    let code = serving.stop();
    assert!(code == Some(4) || code == Some(1), "{code:?}: the broker is away, or a lane still waits for it");
    proxy.heal();
    let mut successor = cluster.serve(&arguments);
    assert_exactly_once(&direct, &flow, 20_000);
    assert_eq!(successor.stop(), Some(0));
}

/// Nothing but bad records: the circuit opens, the flow stops, readiness turns red; a version that can score them closes it.
#[test]
fn a_flow_of_bad_records_stops_before_it_drains_the_topic() {
    let Some(cluster) = real_kafka("once-breaker") else { return };
    const RECORDS: usize = 5_000;
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let mut serving = cluster.serve(&flow.arguments(&["--batch-records", "100"]));
    serving.wait_until_ready();
    cluster.send(&flow.input, (0..RECORDS).map(|_| (None, Some(&b"bad"[..]))));
    wait_until("it is not ready", || serving.get("/ready").0 == 503);
    assert!(serving.get("/ready").1.contains("cannot be scored"), "{}", serving.get("/ready").1);
    assert_eq!(serving.get("/live").0, 200);
    let dead = serving.total("modelstream_dead_letters_total");
    assert!((100.0..2_000.0).contains(&dead), "{dead} of {RECORDS} were let pass");
    assert_eq!(serving.stop(), Some(0));
    // What the circuit held back is read again, once somebody says that it is meant.
    let mut patient = cluster.serve(&flow.arguments(&["--dead-letter-share-max", "1"]));
    assert_eq!(cluster.read(&flow.dead_letters, RECORDS).len(), RECORDS);
    assert_eq!(patient.stop(), Some(0));
}

/// A static member that is restarted within its session takes its partitions up again; nobody else notices.
#[test]
fn a_restart_of_a_static_member_is_no_rebalance() {
    let Some(cluster) = real_kafka("once-static") else { return };
    const RECORDS: usize = 4_000;
    let flow = Flow::new(&cluster, 4);
    cluster.publish_iris("iris", "7");
    let named = |name: &'static str| flow.arguments(&["--static-membership", "--instance", name]);
    let (mut first, mut second) = (cluster.serve(&named("a")), cluster.serve(&named("b")));
    let has_two = |serving: &crate::harness::Serving| serving.total("modelstream_assigned_partitions") == 2.0;
    wait_until("each has its share", || has_two(&first) && has_two(&second));
    send(&cluster, &flow, RECORDS);
    let rebalances = second.total("modelstream_rebalances_total");
    assert_eq!(first.stop(), Some(0));
    let mut first = cluster.serve(&named("a"));
    wait_until("it has its share again", || has_two(&first));
    assert_exactly_once(&cluster, &flow, RECORDS);
    assert_eq!(second.total("modelstream_rebalances_total"), rebalances);
    for serving in [&mut first, &mut second] {
        assert_eq!(serving.stop(), Some(0));
    }
}

/// A read_committed reader sees each record's output once, whatever was open when SIGKILL came.
#[test]
fn a_killed_process_doubles_nothing() {
    let Some(cluster) = real_kafka("once-kill") else { return };
    const RECORDS: usize = 60_000;
    let flow = Flow::new(&cluster, 4);
    cluster.publish_iris("iris", "7");
    let keys: Vec<String> = (0..RECORDS).map(|index| index.to_string()).collect();
    let value = |index: usize| if index % 50 == 7 { &b"bad"[..] } else { GOOD };
    let records = keys.iter().enumerate().map(|(index, key)| (Some(key.as_bytes()), Some(value(index))));
    cluster.send(&flow.input, records);
    let more = ["--lanes", "2", "--batch-records", "50", "-X", "session.timeout.ms=6000"];
    let more = [&more[..], &["--instance", "a", "--commit-interval", "30s"]].concat();
    // Every transaction is open when the process is killed: none is due for 30 s, and the input is never idle.
    for _ in 0..3 {
        let serving = cluster.serve(&flow.arguments(&more));
        wait_until("it works", || serving.total("modelstream_predictions_total") > 500.0);
        serving.signal("KILL");
    }
    let mut last = cluster.serve(&flow.arguments(&[&more[..6], &["--instance", "a"]].concat()));
    let predictions = cluster.read(&flow.output, RECORDS - RECORDS / 50);
    let dead = cluster.read(&flow.dead_letters, RECORDS / 50);
    assert_order_is_kept(&predictions);
    let outputs = [predictions, dead].concat();
    assert_eq!((outputs.len(), outputs_by_source(&outputs).len()), (RECORDS, RECORDS));
    assert!(last.total("modelstream_transactions_total") > 0.0);
    assert_eq!(last.stop(), Some(0));
}

/// Two processes with the same transactional ids: the older is fenced and ends with its own exit code, without a fight.
#[test]
fn a_twin_fences_the_older_process() {
    let Some(cluster) = real_kafka("once-twin") else { return };
    let flow = Flow::new(&cluster, 1);
    cluster.publish_iris("iris", "7");
    let arguments = flow.arguments(&["--instance", "twin"]);
    let mut older = cluster.serve(&arguments);
    older.wait_until_ready();
    cluster.send(&flow.input, [(None, Some(GOOD))]);
    assert_eq!(cluster.read(&flow.output, 1).len(), 1);
    let mut younger = cluster.serve(&arguments);
    younger.wait_for_log("serving a new version");
    // The partition stays with the older one, whose next transaction is refused.
    wait_until("the younger one took over", || {
        cluster.send(&flow.input, [(None, Some(GOOD))]);
        younger.metric("modelstream_assigned_partitions").values().sum::<f64>() == 1.0
    });
    assert_eq!(older.wait(), Some(6));
    assert_eq!(younger.stop(), Some(0));
}
