//! The integration tests: one binary, a file for each promise.

mod allocations;
mod bench;
mod checked;
mod checker;
mod cli;
mod clock;
mod compatibility;
mod dead_letters;
mod demo;
mod deploy;
#[expect(dead_code, reason = "tests/soak reads the rest of an outcome")]
mod driver;
mod exactly_once;
mod faults;
mod faults_broker;
mod faults_client;
mod faults_data;
mod faults_model_log;
mod fleet;
mod flow;
mod formats;
mod harness;
mod hostile;
mod memory;
mod model_log;
mod monitoring;
mod network;
mod proxy;
mod records;
mod serving;
mod several;
mod steering;
mod through_proxy;
mod tidy;
mod tls;
mod training;
