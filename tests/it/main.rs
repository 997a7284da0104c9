//! The integration tests: one binary, a file for each promise.

mod cli;
mod demo;
mod deploy;
mod formats;
mod harness;
mod model_log;
mod monitoring;
mod records;
mod serving;
mod tidy;
mod training;
