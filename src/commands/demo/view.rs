//! What the demo shows while it runs: lines that are drawn anew on a terminal, one line now and then elsewhere.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::print;
use super::traffic::Tally;

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The demo's view on stderr.
pub struct View {
    bar: Option<ProgressBar>,
    /// When the last line was printed, and how much was finished then.
    last: Cell<(Instant, u64)>,
    rate: Cell<f64>,
}

impl View {
    pub fn new() -> View {
        let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new_spinner().with_style(style));
        View { bar, last: Cell::new((Instant::now(), 0)), rate: Cell::new(0.0) }
    }

    /// Nothing came out yet.
    pub fn waiting(&self, sent: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{sent} records sent; waiting until the lanes have their partitions"));
        }
    }

    pub fn show(&self, tally: &Tally, sent: u64, elapsed: Duration, length: Duration) {
        let (last, finished) = self.last.get();
        let interval = if self.bar.is_some() { Duration::from_secs(1) } else { LINE_INTERVAL };
        let due = last.elapsed() >= interval;
        if due {
            self.rate.set((tally.finished().saturating_sub(finished)) as f64 / last.elapsed().as_secs_f64());
            self.last.set((Instant::now(), tally.finished()));
        }
        let text = self.text(tally, sent, elapsed, length);
        match &self.bar {
            Some(bar) => bar.set_message(text.join("\n")),
            None if due => print::say(&text.join(" | ")),
            None => {}
        }
    }

    fn text(&self, tally: &Tally, sent: u64, elapsed: Duration, length: Duration) -> Vec<String> {
        let active = tally.versions.keys().next_back().map_or("none".to_owned(), u64::to_string);
        let mut lines = vec![
            format!("{} s of {} s", elapsed.as_secs().min(length.as_secs()), length.as_secs()),
            format!("records {sent}, predictions {}, dead letters {}", tally.predictions, tally.dead_letters),
            format!("{:.0} predictions/s, active version {active}", self.rate.get()),
        ];
        lines.extend(tally.versions.iter().map(|(version, counted)| {
            let accuracy = counted.correct as f64 / counted.predictions.max(1) as f64;
            format!("version {version}: accuracy {accuracy:.3} over {} predictions", counted.predictions)
        }));
        lines
    }

    /// Says something above the lines that are drawn anew.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => print::say(text),
        }
    }

    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
