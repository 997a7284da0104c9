//! The table that the soak prints, in Markdown as `ops/RELIABILITY.md` has it, and the state file: a row as JSON in each line.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checker::Report;
use crate::driver::Outcome;

pub const HEAD: &str = "\
| seed | brokers | processes | records | kills | faults | fenced | lost | duplicate | other | recovery, p50 | p99 | rework |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// What a seed did, and what came of it.
#[derive(Serialize, Deserialize)]
pub struct Row {
    pub seed: u64,
    brokers: u32,
    processes: usize,
    #[serde(flatten)]
    counts: Counts,
}

/// What is added up over the seeds.
#[derive(Default, Serialize, Deserialize)]
struct Counts {
    records: u64,
    kills: u32,
    faults: u32,
    fenced: u32,
    lost: u64,
    duplicate: u64,
    /// The checker's other words.
    other: u64,
    /// Results that were written for nothing.
    aborted: u64,
    /// How long each kill's recovery took, in seconds.
    recoveries: Vec<f64>,
}

impl Row {
    pub fn of(outcome: &Outcome) -> Row {
        let Report { expected, aborted, lost, duplicate, .. } = outcome.report;
        Row {
            seed: outcome.plan.seed,
            brokers: if outcome.plan.three_nodes { 3 } else { 1 },
            processes: outcome.plan.members,
            counts: Counts {
                records: expected,
                kills: outcome.kills,
                faults: outcome.faults,
                fenced: outcome.fenced,
                lost,
                duplicate,
                other: outcome.report.others(),
                aborted,
                recoveries: outcome.recoveries.iter().map(Duration::as_secs_f64).collect(),
            },
        }
    }

    pub fn is_exactly_once(&self) -> bool {
        let Counts { lost, duplicate, other, .. } = self.counts;
        lost == 0 && duplicate == 0 && other == 0
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { seed, brokers, processes, counts } = self;
        write!(f, "| {seed} | {brokers} | {processes} | {counts} |")
    }
}

impl Counts {
    /// The smallest recovery that a share `quantile` of all is no longer than (the nearest rank).
    fn recovery(&self, quantile: f64) -> f64 {
        let mut sorted = self.recoveries.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * quantile).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    fn add(mut self, other: &Counts) -> Counts {
        self.records += other.records;
        self.kills += other.kills;
        self.faults += other.faults;
        self.fenced += other.fenced;
        self.lost += other.lost;
        self.duplicate += other.duplicate;
        self.other += other.other;
        self.aborted += other.aborted;
        self.recoveries.extend(&other.recoveries);
        self
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { records, kills, faults, fenced, lost, duplicate, other, aborted, .. } = self;
        write!(f, "{} | {kills} | {faults} | {fenced} | {lost} | {duplicate} | {other} | ", in_thousands(*records))?;
        write!(f, "{:.1} s | {:.1} s | ", self.recovery(0.5), self.recovery(0.99))?;
        write!(f, "{:.3}", *aborted as f64 / (*records).max(1) as f64)
    }
}

/// The last row of the table.
pub fn total(rows: &[Row]) -> String {
    let counts = rows.iter().fold(Counts::default(), |sum, row| sum.add(&row.counts));
    format!("| **{} seeds** | | | {counts} |", rows.len())
}

fn in_thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

/// The rows of seeds that were run before; none where there is no such file.
pub fn read(state: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(state).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a row of a soak")).collect()
}

pub fn append(state: &Path, row: &Row) {
    let line = serde_json::to_string(row).expect("numbers");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(state);
    file.and_then(|mut file| writeln!(file, "{line}")).expect("the state can be written");
}
