//! The long proof of delivery: many seeds, each a run of `tests/it/driver.rs`, and a table.
//!
//! ```text
//! cargo test --release --test soak -- [--seeds 1-30] [--records 350000] [--rate 12000] [--state FILE]
//! ```
//!
//! A seed says everything: how many processes, lanes, partitions and brokers, what happens to them and when. With `--state` the
//! results go to a file, and seeds that are in it already are not run again: a soak can be cut into parts and taken up.

#[path = "../it/checker.rs"]
#[expect(dead_code, reason = "the tests of tests/it use the rest")]
mod checker;
#[path = "../it/driver.rs"]
mod driver;
#[path = "../it/flow.rs"]
#[expect(dead_code, reason = "the tests of tests/it use the rest")]
mod flow;
#[path = "../it/harness.rs"]
#[expect(dead_code, reason = "the tests of tests/it use the rest")]
mod harness;
#[path = "../it/proxy.rs"]
#[expect(dead_code, reason = "the tests of tests/it use the rest")]
mod proxy;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use driver::{Outcome, Plan, Random};

const USAGE: &str = "--seeds A-B|N, --records N, --rate N, --state FILE";

struct Settings {
    seeds: std::ops::RangeInclusive<u64>,
    records: u64,
    rate: u64,
    state: Option<PathBuf>,
}

fn main() -> ExitCode {
    let settings = match settings(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(wrong) => {
            eprintln!("soak: {wrong}; expected {USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut lines = former(&settings);
    let mut well = true;
    println!("{}", Outcome::HEAD);
    lines.iter().for_each(|line| println!("{line}"));
    for seed in settings.seeds.clone() {
        if lines.iter().any(|line| seed_of(line) == Some(seed)) {
            continue;
        }
        let outcome = driver::run(&format!("soak-{seed}"), &plan(seed, &settings))
            .expect("a soak without a broker proves nothing");
        let line = outcome.to_string();
        println!("{line}");
        if !outcome.report.is_exactly_once() {
            well = false;
            println!("{:#?}", outcome.report);
        }
        record(&settings, &line);
        lines.push(line);
    }
    println!("{}", sum(&lines));
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What seed `seed` does. One in three has three brokers, one in ten twelve processes.
fn plan(seed: u64, settings: &Settings) -> Plan {
    let mut random = Random::new(seed);
    let members = if seed.is_multiple_of(10) { 12 } else { 2 + random.below(4) as usize };
    let three_nodes = seed.is_multiple_of(3);
    Plan {
        seed,
        three_nodes,
        members,
        lanes: 1 + random.below(2) as usize,
        partitions: 6 + random.below(19) as i32,
        records: settings.records,
        // Three brokers on one machine write everything three times.
        rate: if three_nodes { settings.rate / 3 } else { settings.rate },
        kills: 7 + random.below(3) as u32,
        restarts: random.below(3) as u32,
        pauses: random.below(3) as u32,
        versions: random.below(3) as u32,
        broker_kills: if three_nodes { 1 + random.below(3) as u32 } else { 0 },
        abort_every: [0, 3, 10][random.below(3) as usize],
        static_membership: random.below(2) == 1,
    }
}

fn settings(mut arguments: impl Iterator<Item = String>) -> Result<Settings, String> {
    let mut settings = Settings { seeds: 1..=30, records: 350_000, rate: 12_000, state: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{name} {value}: not a number"));
        match name.as_str() {
            "--seeds" => {
                let (first, last) = value.split_once('-').unwrap_or((&value, &value));
                settings.seeds = number(first)?..=number(last)?;
            }
            "--records" => settings.records = number(&value)?,
            "--rate" => settings.rate = number(&value)?,
            "--state" => settings.state = Some(PathBuf::from(value)),
            _ => return Err(format!("{name} is unknown")),
        }
    }
    Ok(settings)
}

/// The lines of seeds that were run before.
fn former(settings: &Settings) -> Vec<String> {
    let Some(text) = settings.state.as_ref().and_then(|path| std::fs::read_to_string(path).ok()) else {
        return Vec::new();
    };
    text.lines().filter(|line| seed_of(line).is_some()).map(str::to_owned).collect()
}

fn record(settings: &Settings, line: &str) {
    let Some(path) = &settings.state else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| writeln!(file, "{line}")).expect("the state can be written");
}

fn seed_of(line: &str) -> Option<u64> {
    line.split_whitespace().next()?.parse().ok()
}

/// Records, kills, lost and duplicate ones of all lines, and the middle and the longest recovery of the middle ones.
fn sum(lines: &[String]) -> String {
    let column = |index: usize| {
        let values = lines.iter().filter_map(move |line| line.split_whitespace().nth(index)?.parse::<f64>().ok());
        values.collect::<Vec<f64>>()
    };
    let total = |index: usize| column(index).iter().sum::<f64>();
    let [records, kills, faults, lost, duplicate, others] = [3, 4, 5, 8, 9, 10].map(total);
    let mut recoveries = column(12);
    recoveries.sort_by(f64::total_cmp);
    let middle = recoveries.get(recoveries.len() / 2).copied().unwrap_or_default();
    let longest = Duration::from_secs_f64(column(14).into_iter().fold(0.0, f64::max));
    format!(
        "{} seeds: {records} records, {kills} kills, {faults} faults; {lost} lost, {duplicate} duplicate, {others} other violations; recovery: median of the medians {middle} s, longest {} s",
        lines.len(),
        longest.as_secs_f64(),
    )
}
