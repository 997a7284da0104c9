//! `modelstream status`

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli;
use crate::config;
use crate::kafka::{self, Connection};
use crate::registry::fleet::{Standing, Verdict, View, counting, have_converged, replicas};
use crate::registry::follow::{Follower, Turn, replay, require_topics};
use crate::registry::reports::FleetFollower;
use crate::registry::{self, Topics};
use crate::serve::lag::unix_millis;

use super::{Error, print};

/// How long one wait for news of the model log, and then of the fleet, lasts.
const POLL: Duration = Duration::from_millis(100);

/// Shows how each replica stands, once the fleet has converged or the wait is over.
///
/// # Errors
/// When the fleet has not converged (exit code 8), or the topics cannot be read.
pub fn run(common: &cli::Common, status: &cli::Status) -> Result<(), Error> {
    let (connection, topics) = (config::connection(common)?, config::topics(common)?);
    let settings = config::status(status)?;
    let deadline = Instant::now() + settings.wait;
    let mut watch = Watch::start(&connection, &topics)?;
    let mut told = String::new();
    loop {
        let (model, group) = (settings.model.as_deref(), settings.group.as_deref());
        let view = View { state: watch.log.state(), topics: &topics, group, model, now_ms: unix_millis() };
        let standings = watch.fleet.fleet().standings(&view);
        let is_cut = watch.fleet.fleet().is_cut();
        let converged = have_converged(&standings, settings.replicas) && !is_cut;
        let said = summary(&standings, &settings, &topics, is_cut);
        if converged || Instant::now() >= deadline {
            show(common, &standings, converged)?;
            if !converged {
                return Err(Error::CheckFailed(said));
            }
            print::say(&said);
            return Ok(());
        }
        if said != told {
            print::say(&format!("waiting: {said}"));
            told = said;
        }
        watch.turn()?;
    }
}

/// What is wanted, and what the fleet says.
struct Watch {
    log: Follower,
    fleet: FleetFollower,
}

impl Watch {
    /// Reads both topics to their ends.
    fn start(connection: &Connection, topics: &Topics) -> Result<Watch, Error> {
        require_topics(connection, topics)?;
        Ok(Watch { log: replay(connection, topics)?, fleet: FleetFollower::start(connection, topics)? })
    }

    /// Waits a moment for news and takes them in.
    fn turn(&mut self) -> Result<(), Error> {
        while matches!(tolerant(self.log.turn(Duration::ZERO))?, Some(Turn::Change(_))) {}
        tolerant(self.fleet.turn(POLL))?;
        Ok(())
    }
}

/// One broker of several, or all for a moment, are no reason to end: librdkafka connects again by itself.
fn tolerant<T>(result: Result<T, registry::Error>) -> Result<Option<T>, registry::Error> {
    match result {
        Err(registry::Error::Kafka(kafka::Error::Unreachable { .. })) => Ok(None),
        other => other.map(Some),
    }
}

fn show(common: &cli::Common, standings: &[Standing<'_>], converged: bool) -> Result<(), Error> {
    if common.json {
        let replicas: Vec<Value> = standings.iter().map(document).collect();
        return print::json(&json!({ "converged": converged, "replicas": replicas }));
    }
    if standings.is_empty() {
        return Ok(());
    }
    let mut table =
        print::table(&["replica", "group", "model", "version", "wanted", "state", "since", "reported", "why"]);
    for standing in standings {
        let (group, instance) = name(standing);
        let number = |version: Option<u64>| version.map_or_else(|| "-".to_owned(), |version| version.to_string());
        table.add_row([
            print::printable(instance),
            print::printable(group),
            print::printable(standing.model.map_or("-", |model| model.selector.as_str())),
            number(standing.model.and_then(|model| model.version)),
            number(standing.wanted),
            standing.verdict.as_str().to_owned(),
            print::printable(standing.model.and_then(|model| model.since.as_deref()).unwrap_or("-")),
            format!("{} s ago", standing.heard_ago.as_secs()),
            print::cut(&standing.why),
        ]);
    }
    print::line(&table.trim_fmt())
}

/// Group and instance. A report that cannot be read has them in its key alone, where a group may have a slash too.
fn name<'s>(standing: &Standing<'s>) -> (&'s str, &'s str) {
    match standing.report {
        Some(report) => (report.group.as_str(), report.instance.as_str()),
        None => standing.key.rsplit_once('/').unwrap_or(("", standing.key)),
    }
}

fn document(standing: &Standing<'_>) -> Value {
    let (group, instance) = name(standing);
    let (report, model) = (standing.report, standing.model);
    json!({
        "instance": instance,
        "group": group,
        "host": report.map(|report| &report.host),
        "input": report.map(|report| &report.input),
        "output": report.map(|report| &report.output),
        "modelstream": report.map(|report| &report.modelstream),
        "started_at": report.map(|report| &report.started_at),
        "stopping": report.map(|report| report.stopping),
        "lanes": report.map(|report| &report.lanes),
        "model": model.map(|model| model.model()),
        "selector": model.map(|model| &model.selector),
        "version": model.and_then(|model| model.version),
        "digest": model.and_then(|model| model.digest.as_ref()),
        "since": model.and_then(|model| model.since.as_ref()),
        "wanted": standing.wanted,
        "state": standing.verdict.as_str(),
        "why": standing.why,
        "reported_seconds_ago": standing.heard_ago.as_secs_f64(),
        "refused": model.map(|model| &model.refused),
    })
}

/// One line: how many have converged, and who has not.
fn summary(standings: &[Standing<'_>], settings: &config::Status, topics: &Topics, is_cut: bool) -> String {
    let (counting, replicas): (Vec<&Standing<'_>>, usize) = (counting(standings).collect(), replicas(standings));
    if is_cut {
        return format!("{} has more reports than are looked at: some replicas are missing here", topics.status);
    }
    if counting.is_empty() {
        let of = |what: &str, name: &Option<String>| name.as_ref().map(|name| format!(" of {what} {name}"));
        let (group, model) = (of("group", &settings.group), of("model", &settings.model));
        let chosen = format!("{}{}", group.unwrap_or_default(), model.unwrap_or_default());
        return format!("no replica{chosen} reports on {}: is a serving process running?", topics.status);
    }
    let lagging: Vec<String> = counting
        .iter()
        .filter(|standing| standing.verdict != Verdict::Converged)
        .map(|standing| format!("{} ({})", print::printable(name(standing).1), standing.verdict.as_str()))
        .collect();
    match lagging.as_slice() {
        [] if replicas < settings.replicas => {
            format!("not converged: {replicas} of {} replicas report", settings.replicas)
        }
        [] => format!("converged: {} of {} serve the version that is wanted", counting.len(), counting.len()),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            let converged = counting.len() - lagging.len();
            format!(
                "not converged: {converged} of {} serve the version that is wanted; not {first}{more}",
                counting.len()
            )
        }
    }
}
