//! The integration tests: one binary, a file for each promise.

mod cli;
mod demo;
mod deploy;
mod exactly_once;
mod flow;
mod formats;
mod harness;
mod model_log;
mod monitoring;
mod records;
mod serving;
mod tidy;
mod training;
