//! `modelstream`: parse, start logging, run one verb, turn its error into an exit code.

use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

use modelstream::cli;
use modelstream::commands;
use modelstream::telemetry::logging;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long a process that ends waits for a stderr that nobody reads.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return fail(&error.into()),
    };
    let json = cli.common.log_format == cli::LogFormat::Json;
    let _logging = logging::start(logging::Settings { json, verbosity: cli.verbosity() });
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &commands::Error) -> ExitCode {
    let text = format!("modelstream: {error}");
    let (said, heard) = channel();
    std::thread::spawn(move || {
        eprintln!("{text}");
        said.send(())
    });
    // Either it is said, or the end of the process, which the watchdog may have called for, is more important.
    let _ = heard.recv_timeout(LAST_WORDS);
    ExitCode::from(error.exit_code())
}
