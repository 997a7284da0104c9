//! modelstream scores the records of a Kafka topic with machine-learned models that arrive on Kafka too.
//!
//! Two ways lead through this crate; everything else supports them.
//!
//! ```text
//! record  kafka/consumer -> serve/lane -> pipeline/{decode -> features -> (model) -> encode} -> kafka/producer -> commit
//! model   train/{dataset -> estimator -> evaluate} -> model/artifact -> registry/publish ~~ Kafka ~~ registry/follow
//!         -> model/verify -> serve/active -> the next batch of every lane
//! ```
//!
//! The modules stand in reading order: each uses only those below it in this list's reverse, and no two use each other
//! (`tests/it/tidy.rs` keeps it so). `model` is the ground floor and depends on nothing of ours.

pub mod model;

pub mod pipeline;

pub mod train;

pub mod kafka;

pub mod registry;

pub mod telemetry;

pub mod serve;

pub mod shutdown;

pub mod config;

pub mod cli;

pub mod commands;
