//! `modelstream`: parse, start logging, run one verb, turn its error into an exit code.

use std::process::ExitCode;

use modelstream::cli;
use modelstream::commands;
use modelstream::telemetry::logging;

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
    eprintln!("modelstream: {error}");
    ExitCode::from(error.exit_code())
}
