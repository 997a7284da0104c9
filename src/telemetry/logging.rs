//! Logs on stderr, as text or JSON. A stderr that blocks never blocks a lane: lines are dropped and counted instead.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// The lines that may wait for stderr.
const QUEUED_LINES: usize = 10_000;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// How logs look and how much is logged.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// JSON lines instead of text.
    pub json: bool,
    /// -1 errors only, 0 what an operator wants, 1 more, 2 everything.
    pub verbosity: i8,
}

/// Starts logging. `RUST_LOG` overrides the verbosity. The guard writes what waits when it is dropped.
pub fn start(settings: Settings) -> WorkerGuard {
    let default = match settings.verbosity {
        ..0 => "error",
        0 => "info,librdkafka=warn",
        1 => "debug,librdkafka=info",
        2.. => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES).finish(std::io::stderr());
    DROPPED.get_or_init(|| writer.error_counter());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second start, in a test, keeps the first subscriber.
    let _ = if settings.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
    guard
}

/// Log lines that were dropped since the start.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}
