//! `modelstream serve`

use std::sync::Arc;

use crate::cli;
use crate::config;
use crate::serve::Server;
use crate::shutdown::{self, Stop};
use crate::telemetry::Metrics;

use super::Error;

/// The threads that HTTP and signals need.
const RUNTIME_THREADS: usize = 1;

/// Serves until a signal, then drains.
///
/// # Errors
/// What serving cannot go on with.
pub fn run(common: &cli::Common, serve: &cli::Serve) -> Result<(), Error> {
    let settings = config::serve(common, serve)?;
    let runtime = runtime()?;
    let stop = Stop::new();
    shutdown::on_signals(runtime.handle(), stop.clone())
        .map_err(|source| Error::Io { doing: "catching signals".to_owned(), source })?;
    let server = Server::start(settings, Arc::new(Metrics::new()), runtime.handle(), stop)?;
    let result = server.run();
    runtime.shutdown_background();
    Ok(result?)
}

/// The runtime for what waits.
///
/// # Errors
/// When the system refuses a thread.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(|source| Error::Io { doing: "starting the HTTP threads".to_owned(), source })
}
