//! What the tests of delivery have in common: records in, outputs counted by the record that they came from.

use std::collections::BTreeMap;

use crate::harness::{Cluster, Received};

/// A record of the iris data.
pub const GOOD: &[u8] = br#"{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#;

/// Input, output and dead letters of a test.
pub struct Flow {
    pub input: String,
    pub output: String,
    pub dead_letters: String,
}

impl Flow {
    pub fn new(cluster: &Cluster, partitions: i32) -> Flow {
        let (input, output) = (cluster.topic("in", partitions), cluster.topic("out", partitions));
        Flow { input, output, dead_letters: cluster.topic("in.dead-letters", partitions) }
    }

    /// The arguments of `serve`, with `more` behind them.
    pub fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let flow = ["--model", "iris", "--input", &self.input, "--output", &self.output];
        flow.iter().chain(more).copied().collect()
    }
}

/// How often each record of the input has an output.
pub fn outputs_by_source(outputs: &[Received]) -> BTreeMap<(i32, i64), u32> {
    let mut counts = BTreeMap::new();
    for output in outputs {
        *counts.entry(output.source()).or_insert(0) += 1;
    }
    counts
}

/// Of each input partition the outputs are in the input's order, where a partition of the output is looked at alone;
/// what a crash doubled may go back, but never skips ahead.
pub fn assert_order_is_kept(outputs: &[Received]) {
    let mut last: BTreeMap<(i32, i32), i64> = BTreeMap::new();
    for output in outputs {
        let (partition, offset) = output.source();
        let before = last.insert((output.partition, partition), offset);
        assert!(before.is_none_or(|before| before < offset), "{offset} of partition {partition} came after {before:?}");
    }
}
