//! `modelstream topics init`

use serde_json::json;

use crate::cli;
use crate::config;
use crate::kafka::admin::{Admin, Cleanup, REPLICATION_WANTED, TopicSpec};

use super::{Error, print};

/// Creates what is missing.
///
/// # Errors
/// When no broker answers, or it refuses.
pub fn run(common: &cli::Common, init: &cli::TopicsInit) -> Result<(), Error> {
    let admin = Admin::new(&config::connection(common)?)?;
    let existing = admin.topics()?;
    let wanted = wanted(common, init);
    let missing: Vec<TopicSpec> = wanted.iter().filter(|topic| !existing.contains_key(&topic.name)).cloned().collect();
    let replication = match init.replication {
        Some(replication) => replication,
        None => admin.brokers()?.clamp(1, REPLICATION_WANTED),
    };
    if !init.dry_run && !missing.is_empty() {
        admin.create(&missing, replication)?;
    }
    let state = |topic: &TopicSpec| match (existing.get(&topic.name), init.dry_run) {
        (Some(partitions), _) => format!("exists with {partitions} partitions"),
        (None, true) => "would be created".to_owned(),
        (None, false) => "created".to_owned(),
    };
    if common.json {
        return wanted.iter().try_for_each(|topic| {
            print::json(&json!({
                "topic": topic.name, "partitions": topic.partitions, "replication": replication,
                "cleanup": topic.cleanup.as_str(), "state": state(topic),
            }))
        });
    }
    let mut table = print::table(&["topic", "partitions", "replicas", "cleanup", "state"]);
    for topic in &wanted {
        let (partitions, replicas) = (topic.partitions.to_string(), replication.to_string());
        table.add_row([topic.name.clone(), partitions, replicas, topic.cleanup.as_str().to_owned(), state(topic)]);
    }
    print::line(&table.trim_fmt())
}

/// The model log and its fleet's topic, and the topics of a serving process where they are named.
fn wanted(common: &cli::Common, init: &cli::TopicsInit) -> Vec<TopicSpec> {
    let log = |name: &String| TopicSpec { name: name.clone(), partitions: 1, cleanup: Cleanup::Compact };
    let topic = |name: String, cleanup| TopicSpec { name, partitions: init.partitions, cleanup };
    let dead_letters =
        init.input.as_ref().map(|input| init.dead_letters.clone().unwrap_or_else(|| config::dead_letters_of(input)));
    let status = TopicSpec { cleanup: Cleanup::Recent, ..log(&common.status_topic) };
    let mut wanted = vec![log(&common.models_topic), log(&common.artifacts_topic), status];
    wanted.extend(
        [init.input.clone(), init.output.clone()].into_iter().flatten().map(|name| topic(name, Cleanup::Delete)),
    );
    // A dead letter keeps its record's time: with a time limit, one of an old record would be gone at once.
    wanted.extend(dead_letters.map(|name| topic(name, Cleanup::Keep)));
    wanted
}
