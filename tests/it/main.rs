//! The integration tests: one binary, a file for each promise.

mod checked;
mod checker;
mod cli;
mod dead_letters;
mod demo;
mod deploy;
mod driver;
mod exactly_once;
mod faults;
mod faults_broker;
mod faults_client;
mod faults_data;
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
mod through_proxy;
mod tidy;
mod training;
