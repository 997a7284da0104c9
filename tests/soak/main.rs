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
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use driver::{Plan, Random};
use table::Row;

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
    let mut rows = settings.state.as_deref().map(table::read).unwrap_or_default();
    println!("{}", table::HEAD);
    rows.iter().for_each(|row| println!("{row}"));
    for seed in settings.seeds.clone() {
        if rows.iter().any(|row| row.seed == seed) {
            continue;
        }
        let outcome = driver::run(&format!("soak-{seed}"), &plan(seed, &settings))
            .expect("a soak without a broker proves nothing");
        let row = Row::of(&outcome);
        println!("{row}");
        if !outcome.report.is_exactly_once() {
            println!("{:#?}", outcome.report);
        }
        if let Some(state) = &settings.state {
            table::append(state, &row);
        }
        rows.push(row);
    }
    println!("{}", table::total(&rows));
    if rows.iter().all(Row::is_exactly_once) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
