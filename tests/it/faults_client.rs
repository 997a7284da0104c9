//! What happens to the process: it is too slow for its group, it meets its twin, it is told to stop, nobody reads what it says.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use crate::faults::{SHORT_SESSION, Watched, hidden};
use crate::harness::{Serving, real_kafka, wait_until};

/// Fault 7. While a lane is at something else, its group takes its partitions away, and the transaction that it had open is worth
/// nothing.
#[test]
fn a_lane_that_does_not_poll_in_time_commits_nothing() {
    let Some(cluster) = real_kafka("fault-poll") else { return };
    let watched = Watched::new(&cluster, 2);
    let often = [&["--batch-records", "50", "-X", "max.poll.interval.ms=6000"][..], &SHORT_SESSION].concat();
    let named = |name: &'static str| watched.arguments(&[&often[..], &["--instance", name]].concat());
    let mut slow = cluster.serve_disturbed("mid-produce=nap@20", &named("slow"));
    slow.wait_until_ready();
    watched.fill(0..2, 0..3_000);
    let mut other = cluster.serve(&named("other"));
    wait_until("it notices that its partitions are lost", || {
        slow.metric("modelstream_rebalances_total")["{kind=\"lost\"}"] > 0.0
    });
    wait_until("it is a member again", || slow.total("modelstream_assigned_partitions") > 0.0);
    let report = watched.assert_exactly_once();
    assert!(report.aborted > 0, "a transaction was open: {report:#?}");
    for serving in [&mut slow, &mut other] {
        assert_eq!(serving.stop(), Some(0));
    }
}

/// Fault 6. Only the group can tell here: without transactions no transactional id is shared.
#[test]
fn of_two_static_members_with_one_name_the_older_ends() {
    let Some(cluster) = real_kafka("fault-static-twin") else { return };
    let watched = Watched::new(&cluster, 2);
    let name = ["--static-membership", "--instance", "twin", "--delivery", "at-least-once"];
    let mut older = cluster.serve(&watched.arguments(&name));
    wait_until("it has its share", || older.total("modelstream_assigned_partitions") == 2.0);
    watched.fill(0..2, 0..500);
    let mut younger = cluster.serve(&watched.arguments(&name));
    let said = older.wait_for_log("took over");
    assert!(said.contains("--instance"), "what to do is said: {said}");
    assert_eq!(older.wait(), Some(6));
    watched.fill(0..2, 500..1_000);
    let report = watched.report();
    assert!(report.is_at_least_once(), "{report:#?}");
    assert_eq!(younger.stop(), Some(0));
}

/// Fault 9. Each transaction stays open until the end here, and the end commits what was done.
#[test]
fn a_process_that_is_told_to_stop_leaves_no_transaction_open() {
    let Some(cluster) = real_kafka("fault-stop") else { return };
    let watched = Watched::new(&cluster, 4);
    let open = ["--lanes", "2", "--batch-records", "50", "--commit-interval", "30s"];
    let mut serving = cluster.serve(&watched.arguments(&open));
    // A commit in the middle of a rebalance is refused, and done again.
    wait_until("each lane has its share", || {
        serving.metric("modelstream_assigned_partitions").values().eq([&2.0, &2.0])
    });
    watched.fill(0..4, 0..10_000);
    wait_until("it works", || serving.total("modelstream_predictions_total") > 500.0);
    assert_eq!(serving.stop(), Some(0), "a drain under load ends well");
    for topic in [&watched.flow.output, &watched.flow.dead_letters] {
        assert_eq!(hidden(&cluster, topic, 4), 0, "nothing of {topic} is hidden from readers");
    }
    let mut successor = cluster.serve(&watched.arguments(&["--lanes", "2"]));
    let report = watched.assert_exactly_once();
    assert_eq!(report.aborted, 0, "nothing was done for nothing");
    assert_eq!(successor.stop(), Some(0));
}

/// Fault 11. The drain waits for a lane that hangs; the second signal does not.
#[test]
fn a_second_signal_during_the_drain_costs_nothing_but_time() {
    let Some(cluster) = real_kafka("fault-two-signals") else { return };
    let watched = Watched::new(&cluster, 2);
    let often = [&["--batch-records", "50", "--commit-records", "200", "--instance", "a"][..], &SHORT_SESSION].concat();
    let mut stuck = cluster.serve_disturbed("before-commit=hang@3", &watched.arguments(&often));
    watched.fill(0..2, 0..5_000);
    wait_until("two transactions were committed", || {
        stuck.metric("modelstream_transactions_total")["{result=\"committed\"}"] == 2.0
    });
    stuck.signal("TERM");
    stuck.wait_for_log("a second signal exits at once");
    assert!(!stuck.has_ended(), "the drain waits for the lane");
    stuck.signal("TERM");
    assert_eq!(stuck.wait(), Some(130));
    let mut successor = cluster.serve(&watched.arguments(&often));
    watched.assert_exactly_once();
    assert_eq!(successor.stop(), Some(0));
}

/// Fault 64. Lines are dropped and counted; records are not.
#[test]
fn a_stderr_that_nobody_reads_stops_no_lane() {
    let Some(cluster) = real_kafka("fault-stderr") else { return };
    let watched = Watched::new(&cluster, 2);
    let mut serving = cluster.serve_unread("", &watched.arguments(&["--lanes", "2"]));
    watched.fill(0..2, 0..10_000);
    watched.assert_exactly_once();
    assert!(serving.total("modelstream_log_lines_dropped_total") > 0.0, "so much was said that lines were dropped");
    assert_eq!(serving.stop(), Some(0));
}

/// Faults 13 and 64 at once: the watchdog's last words find no reader, and it ends the process all the same.
#[test]
fn a_stderr_that_nobody_reads_keeps_no_process_from_ending() {
    let Some(cluster) = real_kafka("fault-stderr-end") else { return };
    let watched = Watched::new(&cluster, 2);
    let patience = ["--stall-timeout", "15s", "--instance", "a", "--commit-records", "200", "--batch-records", "50"];
    let patience = [&patience[..], &SHORT_SESSION].concat();
    let mut hanging = cluster.serve_unread("before-commit=hang@3", &watched.arguments(&patience));
    watched.fill(0..2, 0..10_000);
    assert_eq!(hanging.wait(), Some(9));
    let mut successor = cluster.serve(&watched.arguments(&patience));
    watched.assert_exactly_once();
    assert_eq!(successor.stop(), Some(0));
}

/// Clients of the HTTP port that ask and never read the answer.
fn never_reading(serving: &Serving, count: usize) -> Vec<TcpStream> {
    let never = |_| {
        let mut stream = TcpStream::connect(&serving.address).expect("it listens");
        // Many requests at once: their answers are more than the sockets can hold.
        let requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(500);
        stream.write_all(requests.as_bytes()).expect("it takes them");
        stream
    };
    (0..count).map(never).collect()
}

/// Fault 61. A hundred scrapes a second, and clients that take no answer, beside the records.
#[test]
fn scrapes_do_not_disturb_the_records() {
    let Some(cluster) = real_kafka("fault-scrapes") else { return };
    const SCRAPES: u32 = 200;
    let watched = Watched::new(&cluster, 4);
    let mut serving = cluster.serve(&watched.arguments(&["--lanes", "2"]));
    serving.wait_until_ready();
    let never_read = never_reading(&serving, 4);
    std::thread::scope(|scope| {
        let records = scope.spawn(move || {
            watched.fill(0..4, 0..10_000);
            watched.assert_exactly_once()
        });
        let mut scraped = 0;
        while scraped < SCRAPES || !records.is_finished() {
            assert_eq!(serving.get("/metrics").0, 200);
            scraped += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        records.join().expect("each record has exactly one result");
    });
    assert_eq!(serving.get("/live").0, 200);
    drop(never_read);
    assert_eq!(serving.stop(), Some(0));
}
