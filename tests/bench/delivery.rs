//! What exactly-once costs where records always wait: records a second and client CPU of one serving process on real Kafka, by delivery and commit
//! interval; and how long a lone record on an idle topic takes to be visible to a read_committed reader.
//!
//! ```text
//! cargo bench --bench delivery
//! ```
//!
//! The broker runs on the same machine, and on the same cores; with a core for each of them:
//!
//! ```text
//! export MODELSTREAM_TEST_BROKERS=$(ops/kafka/broker start --dir target/broker --port 0)
//! taskset -acp 0 "$(cat target/broker/pid)"
//! taskset -c 1 cargo bench --bench delivery
//! ```
//!
//! Every round runs each row once, every other round in the other direction, so that rows are
//! compared with their neighbours and what changes on the machine meets all; a row is the minimum, median and maximum of its rounds.
//! Thousands of transactions come first and are not counted: until the broker's Java has compiled what they run through, it competes
//! for the cores, and that is no price of a transaction. As a test (`cargo test --bench delivery`) it runs once, small.

#[path = "../it/flow.rs"]
#[expect(dead_code, reason = "the tests of tests/it use the rest")]
mod flow;
#[path = "../it/harness.rs"]
#[expect(dead_code, reason = "the tests of tests/it use the rest")]
mod harness;
#[path = "../it/proxy.rs"]
#[expect(dead_code, reason = "the tests of tests/it use the rest")]
mod proxy;

use std::time::{Duration, Instant};

use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use modelstream::kafka::reader::{LogReader, Read, Start};

use flow::{Flow, GOOD};
use harness::{Cluster, DEADLINE, Serving, real_kafka, wait_until};

const PARTITIONS: i32 = 4;
/// Delivery and commit interval of each row; the others are compared with the first.
const ROWS: [(&str, &str); 7] = [
    ("at-least-once", "100ms"),
    ("exactly-once", "1s"),
    ("exactly-once", "250ms"),
    ("exactly-once", "100ms"),
    ("exactly-once", "50ms"),
    ("exactly-once", "25ms"),
    ("exactly-once", "10ms"),
];
/// Of the runs that warm the broker up: for as many transactions as there can be.
const SHORTEST_INTERVAL: &str = "1ms";
/// What a process does before this share of the records is not measured: joining the group, the first fetches.
const WARM_UP: f64 = 0.1;
/// Between two lone records: longer than any commit interval's echo.
const PAUSE: Duration = Duration::from_millis(150);

struct Size {
    records: usize,
    rounds: usize,
    /// Runs before those that count.
    warm_ups: usize,
    lone: usize,
}

/// What one process did.
#[derive(Clone, Copy)]
struct Measured {
    records_per_second: f64,
    cpu_micros_per_record: f64,
    /// None without transactions.
    records_per_transaction: Option<f64>,
}

fn main() {
    let full = std::env::args().any(|argument| argument == "--bench");
    let size = match full {
        true => Size { records: 2_000_000, rounds: 9, warm_ups: 8, lone: 200 },
        false => Size { records: 20_000, rounds: 1, warm_ups: 0, lone: 5 },
    };
    let Some(cluster) = real_kafka("bench-delivery") else { return };
    let flow = Flow::new(&cluster, PARTITIONS);
    cluster.publish_iris("iris", "7");
    let records = std::iter::repeat_n((None, Some(GOOD)), size.records);
    cluster.send(&flow.input, records);

    let mut rows: Vec<Vec<Measured>> = vec![Vec::new(); ROWS.len()];
    for run in 0..size.warm_ups {
        measure(&cluster, &flow, &size, &format!("warm-up-{run}"), "exactly-once", SHORTEST_INTERVAL);
    }
    for round in 0..size.rounds {
        let mut order: Vec<usize> = (0..ROWS.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (delivery, interval) = ROWS[index];
            rows[index].push(measure(&cluster, &flow, &size, &format!("{round}-{index}"), delivery, interval));
        }
    }
    print_rows(&size, &rows);
    print_lone(&lone_records(&cluster, size.lone));
}

fn measure(cluster: &Cluster, flow: &Flow, size: &Size, name: &str, delivery: &str, interval: &str) -> Measured {
    let (output, group) = (cluster.topic(&format!("out-{name}"), PARTITIONS), cluster.name(&format!("group-{name}")));
    let (input, dead_letters) = (flow.input.as_str(), flow.dead_letters.as_str());
    let topics = ["--model", "iris", "--input", input, "--output", &output, "--dead-letters", dead_letters];
    let more = ["--group", &group, "--delivery", delivery, "--commit-interval", interval];
    let mut serving = cluster.serve(&[&topics[..], &more].concat());
    let total = size.records as f64;
    let start = when(&serving, WARM_UP * total);
    let end = when(&serving, total);
    let transactions = serving.total("modelstream_transactions_total");
    assert_eq!(serving.stop(), Some(0), "everything is delivered and committed");
    let (records, seconds) = (end.records - start.records, (end.at - start.at).as_secs_f64());
    Measured {
        records_per_second: records / seconds,
        cpu_micros_per_record: (end.cpu_seconds - start.cpu_seconds) * 1e6 / records,
        records_per_transaction: (transactions > 0.0).then_some(total / transactions),
    }
}

struct Moment {
    at: Instant,
    records: f64,
    cpu_seconds: f64,
}

/// Waits until so many predictions were made.
fn when(serving: &Serving, records: f64) -> Moment {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let predictions = serving.total("modelstream_predictions_total");
        if predictions >= records {
            return Moment { at: Instant::now(), records: predictions, cpu_seconds: cpu_seconds(serving) };
        }
        assert!(Instant::now() < deadline, "{predictions} of {records} records in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Seconds of CPU that the process used so far; its metrics count whole ones only.
fn cpu_seconds(serving: &Serving) -> f64 {
    // Linux tells these in hundredths of a second, whatever the kernel's own tick is.
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks = |index: usize| serving.stat()[index].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// Sends records one by one to an idle topic; how long each took to be visible to a read_committed reader.
fn lone_records(cluster: &Cluster, count: usize) -> Vec<Duration> {
    let input = cluster.topic("lone.in", 1);
    let output = cluster.topic("lone.out", 1);
    let dead_letters = cluster.topic("lone.in.dead-letters", 1);
    let topics = ["--model", "iris", "--input", &input, "--output", &output, "--dead-letters", &dead_letters];
    let mut serving = cluster.serve(&topics);
    serving.wait_until_ready();
    let producer = Producer::idempotent(&cluster.connection).expect("valid settings");
    let reader = LogReader::open(&cluster.connection, &output, &[(0, Start::Beginning)]).expect("valid settings");
    let mut visible = Vec::new();
    for _ in 0..count {
        std::thread::sleep(PAUSE);
        let sent = Instant::now();
        let make = || Outgoing {
            topic: &input,
            partition: Some(0),
            key: None,
            value: Some(GOOD),
            timestamp_ms: None,
            headers: Headers::default(),
        };
        producer.send_waiting(make, UNTAGGED, sent + DEADLINE).expect("room");
        while !matches!(reader.next(DEADLINE).expect("readable"), Read::Record(_)) {
            assert!(sent.elapsed() < DEADLINE, "a lone record is answered");
        }
        visible.push(sent.elapsed());
    }
    wait_until("nothing is left", || serving.total("modelstream_lag_records") == 0.0);
    assert_eq!(serving.stop(), Some(0));
    visible.sort_unstable();
    visible
}

/// Minimum, median and maximum.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn print_rows(size: &Size, rows: &[Vec<Measured>]) {
    println!("{} records, {PARTITIONS} partitions, one lane, {} rounds", size.records, size.rounds);
    println!(
        "| delivery | commit interval | records/s (min, median, max) | beside at-least-once | client CPU, µs a record | records a transaction |"
    );
    println!("|---|---|---|---|---|---|");
    for ((delivery, interval), measured) in ROWS.iter().zip(rows) {
        let [min, median, max] = spread(measured.iter().map(|row| row.records_per_second).collect());
        // Round by round, so that what slows the whole machine slows both.
        let ratios = measured.iter().zip(&rows[0]).map(|(row, base)| row.records_per_second / base.records_per_second);
        let [_, ratio, _] = spread(ratios.collect());
        let [_, cpu, _] = spread(measured.iter().map(|row| row.cpu_micros_per_record).collect());
        let transactions: Vec<f64> = measured.iter().filter_map(|row| row.records_per_transaction).collect();
        let transaction = match transactions.is_empty() {
            true => String::new(),
            false => format!("{:.0}", spread(transactions)[1]),
        };
        let thousands = |value: f64| format!("{:.0}k", value / 1e3);
        let (min, median, max) = (thousands(min), thousands(median), thousands(max));
        println!("| {delivery} | {interval} | {min}, {median}, {max} | {ratio:.2} x | {cpu:.2} | {transaction} |");
    }
}

fn print_lone(sorted: &[Duration]) {
    let at = |quantile: f64| sorted[((sorted.len() - 1) as f64 * quantile).round() as usize].as_secs_f64() * 1e3;
    println!(
        "a lone record on an idle topic, exactly-once, is visible to a read_committed reader after {:.1} ms (median), {:.1} ms (p99), {:.1} ms (max) of {}",
        at(0.5),
        at(0.99),
        at(1.0),
        sorted.len()
    );
}
