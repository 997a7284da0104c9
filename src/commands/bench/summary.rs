//! What a run ends with, as a document and as a table.

use serde::Serialize;

use super::super::{Error, print};
use super::receipts::Percentiles;

/// What a run ends with.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// `serve`, `pass-through` or the command.
    pub subject: String,
    /// `open-loop` or `drain`.
    pub mode: &'static str,
    /// The model and version, where one serves.
    pub model: Option<String>,
    /// What is promised, where one serves.
    pub delivery: Option<String>,
    /// How often is committed, where one serves.
    pub commit_interval_ms: Option<f64>,
    /// Lanes, where one serves.
    pub lanes: Option<u16>,
    /// Partitions of input and output.
    pub partitions: i32,
    /// `json` or `avro`.
    pub format: &'static str,
    /// The mean size of a record's value.
    pub record_bytes: usize,
    /// Records a second that were wanted.
    pub rate: Option<u32>,
    /// Records that were sent.
    pub records: u64,
    /// Different records that came out.
    pub outputs: u64,
    /// Records that came out as dead letters.
    pub dead_letters: u64,
    /// Records that did not come out.
    pub lost: u64,
    /// Outputs beyond the first of their record.
    pub duplicated: u64,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Measured,
    /// The topics, where they were kept.
    pub topics: Vec<String>,
}

/// What was measured, the warm-up left out.
#[derive(Debug, Default, Serialize)]
pub struct Measured {
    /// From the start of the process to its first output.
    pub start_seconds: Option<f64>,
    /// How long was measured.
    pub seconds: f64,
    /// Records that came out in that time, by the second.
    pub records_per_second: f64,
    /// From when a record was due until it was read.
    pub latency_ms: Option<Percentiles>,
    /// How much later than due records were sent: what of the latency is the benchmark's own fault.
    pub send_delay_ms: Option<Percentiles>,
    /// CPU time of the process.
    pub cpu_seconds_per_million: Option<f64>,
    /// The most memory that the process had.
    pub peak_memory_bytes: Option<u64>,
    /// The most memory that it said it would have.
    pub memory_bound_bytes: Option<u64>,
    /// From the publishing of each version until it, or a newer one, predicted first.
    pub swap_seconds: Vec<f64>,
}

impl Summary {
    /// Prints it.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn print(&self, json: bool) -> Result<(), Error> {
        if json {
            return print::json(self);
        }
        let mut table = print::table(&["measured", &self.subject]);
        for (name, value) in self.rows() {
            table.add_row([name.to_owned(), value]);
        }
        print::line(&table.trim_fmt())
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let Summary { records, partitions, format, record_bytes, measured, .. } = self;
        let load = match self.rate {
            Some(rate) => format!("{records} at {rate}/s"),
            None => format!("{records}, all there at the start"),
        };
        let mut rows = vec![("records", format!("{load}, {format} of {record_bytes} bytes, {partitions} partitions"))];
        if let (Some(model), Some(delivery), Some(interval), Some(lanes)) =
            (&self.model, &self.delivery, self.commit_interval_ms, self.lanes)
        {
            rows.push(("model", model.clone()));
            rows.push(("delivery", format!("{delivery}, commits every {interval} ms, lanes: {lanes}")));
        }
        rows.push((
            "throughput",
            format!("{:.0} records/s for {:.1} s", measured.records_per_second, measured.seconds),
        ));
        for (name, percentiles) in [("latency", &measured.latency_ms), ("sent late by", &measured.send_delay_ms)] {
            if let Some(Percentiles { p50, p90, p99, p999, max, .. }) = percentiles {
                let text = format!("p50 {p50:.1}, p90 {p90:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.1} ms");
                rows.push((name, text));
            }
        }
        if let Some(seconds) = measured.start_seconds {
            rows.push(("first output", format!("{seconds:.2} s after the process started")));
        }
        if let Some(seconds) = measured.cpu_seconds_per_million {
            rows.push(("CPU", format!("{seconds:.2} s a million records")));
        }
        if let Some(peak) = measured.peak_memory_bytes {
            let bound = measured.memory_bound_bytes.map_or_else(String::new, |bound| format!(" of {} MiB", mib(bound)));
            rows.push(("peak memory", format!("{} MiB{bound}", mib(peak))));
        }
        if let (Some(worst), count) =
            (measured.swap_seconds.iter().copied().reduce(f64::max), measured.swap_seconds.len())
        {
            let mean = measured.swap_seconds.iter().sum::<f64>() / count as f64;
            rows.push(("swaps", format!("{count}, predicting after {mean:.2} s (mean), {worst:.2} s (worst)")));
        }
        let Summary { outputs, dead_letters, lost, duplicated, .. } = self;
        rows.push((
            "came out",
            format!("{outputs} of {records}, {dead_letters} dead letters, {lost} lost, {duplicated} doubled"),
        ));
        if !self.topics.is_empty() {
            rows.push(("topics", self.topics.join(", ")));
        }
        rows
    }

    /// Checks what is promised.
    ///
    /// # Errors
    /// When a record was lost; or one was doubled although it may not be.
    pub fn check(&self) -> Result<(), Error> {
        let Summary { records, lost, duplicated, dead_letters, .. } = self;
        if *lost > 0 {
            return Err(Error::CheckFailed(format!("{lost} of {records} records did not come out in time")));
        }
        if *dead_letters > 0 {
            let rule = format!("{dead_letters} of {records} records became dead letters, although they fit the model");
            return Err(Error::CheckFailed(rule));
        }
        if self.delivery.as_deref() == Some("exactly-once") && *duplicated > 0 {
            return Err(Error::CheckFailed(format!("{duplicated} records came out more than once")));
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1024 * 1024)
}
