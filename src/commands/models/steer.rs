//! The verbs that decide about versions, and what was decided.

use serde_json::{Value, json};

use super::super::publish::who;
use super::super::{Error, print};
use super::time;
use crate::cli::{self, Alias};
use crate::config;
use crate::kafka::Connection;
use crate::model::Control;
use crate::model::control::Decision;
use crate::registry::decide::{Wish, decide};
use crate::registry::follow::read_state;
use crate::registry::prune::prune;
use crate::registry::state::Entry;
use crate::registry::{self, Topics};

/// Writes a decision, and shows it.
///
/// # Errors
/// When it cannot be made as things stand, or the model log cannot be read or written.
pub(super) fn make(
    common: &cli::Common,
    (connection, topics): (&Connection, &Topics),
    model: &str,
    wish: &Wish,
    why: &str,
    signing: &cli::Signing,
) -> Result<(), Error> {
    let author = config::author(signing, who())?;
    show(common, &decide(connection, topics, &author, model, wish, why)?)
}

/// Runs `models alias`.
///
/// # Errors
/// As [`make`].
pub(super) fn alias(common: &cli::Common, log: (&Connection, &Topics), alias: &Alias) -> Result<(), Error> {
    match alias {
        Alias::Set { model, alias, version, deciding } => {
            make(common, log, model, &Wish::SetAlias(alias.clone(), *version), &deciding.why, &deciding.signing)
        }
        Alias::Delete { model, alias, deciding } => {
            make(common, log, model, &Wish::DeleteAlias(alias.clone()), &deciding.why, &deciding.signing)
        }
        Alias::List { model } => list_aliases(common, log, model.as_deref()),
    }
}

/// Removes old versions, and shows what was removed, or would be.
///
/// # Errors
/// As [`make`].
pub(super) fn remove_old(
    common: &cli::Common,
    (connection, topics): (&Connection, &Topics),
    model: &str,
    keep: u32,
    dry_run: bool,
    deciding: &cli::Deciding,
) -> Result<(), Error> {
    let author = config::author(&deciding.signing, who())?;
    let plan = prune(connection, topics, &author, model, keep as usize, &deciding.why, dry_run)?;
    if common.json {
        let held = plan.held.iter().map(|(version, holder)| json!({"version": version, "held_by": holder}));
        let (removed, bytes, held) = (&plan.versions, plan.bytes(), held.collect::<Vec<Value>>());
        return print::json(&json!({
            "model": model, "removed": removed, "bytes": bytes, "held": held, "dry_run": dry_run,
        }));
    }
    let removed: Vec<String> = plan.versions.iter().map(u64::to_string).collect();
    let numbers = if removed.is_empty() { "nothing".to_owned() } else { removed.join(", ") };
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut text = format!("{model}: {verb} {numbers}; {} bytes of chunks", plan.bytes());
    for (version, holder) in &plan.held {
        text += &format!("\nversion {version} stays: {holder}");
    }
    print::line(&text)
}

/// What was just decided.
pub(in crate::commands) fn show(common: &cli::Common, control: &Control) -> Result<(), Error> {
    if common.json {
        return print::json(&document(control, None));
    }
    print::line(&format!("{}{}", prefix(control), words(&control.decision)))
}

fn prefix(control: &Control) -> String {
    match control.decision {
        Decision::KeyRevoked { .. } => String::new(),
        _ => format!("{}, decision {}: ", control.model, control.sequence),
    }
}

fn words(decision: &Decision) -> String {
    match decision {
        Decision::AliasSet { alias, version } => format!("@{alias} is version {version}"),
        Decision::AliasDeleted { alias } => format!("@{alias} is taken away"),
        Decision::RolledBack { alias, version } => format!("@{alias} is rolled back to version {version}"),
        Decision::Pinned { version } => format!("pinned to version {version}"),
        Decision::Unpinned => "not pinned any more".to_owned(),
        Decision::Revoked { version } => format!("version {version} is revoked"),
        Decision::Pruned { version } => format!("version {version} is removed"),
        Decision::KeyRevoked { key } => format!("key {key} is revoked"),
    }
}

fn document(control: &Control, signed_by: Option<String>) -> Value {
    json!({
        "model": control.model,
        "sequence": control.sequence,
        "what": words(&control.decision),
        "at": time(control.decided_at_ms),
        "by": control.decided_by,
        "why": control.why,
        "signed_by": signed_by,
    })
}

fn list_aliases(
    common: &cli::Common,
    (connection, topics): (&Connection, &Topics),
    only: Option<&str>,
) -> Result<(), Error> {
    let state = read_state(connection, topics)?;
    let mut table = print::table(&["model", "alias", "version", "before"]);
    for (name, _) in state.models().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let steering = state.steering(name);
        for alias in steering.aliases.keys() {
            let (version, former) = (steering.alias(alias), steering.former(alias));
            if common.json {
                print::json(&json!({"model": name, "alias": alias, "version": version, "before": former}))?;
            } else {
                let text = |version: Option<u64>| version.map(|version| version.to_string()).unwrap_or_default();
                table.add_row([name.to_owned(), alias.clone(), text(version), text(former)]);
            }
        }
    }
    if common.json { Ok(()) } else { print::line(&table.trim_fmt()) }
}

/// Publishes and decisions in the order in which they were made.
///
/// # Errors
/// When there are none, or the model log cannot be read.
pub(super) fn history(
    common: &cli::Common,
    (connection, topics): (&Connection, &Topics),
    model: &str,
) -> Result<(), Error> {
    let state = read_state(connection, topics)?;
    let mut events: Vec<Value> = state
        .decisions(model)
        .map(|(_, decided)| document(&decided.control, decided.signed_by.as_ref().map(ToString::to_string)))
        .collect();
    for (version, entry) in state.versions(model).into_iter().flatten() {
        let Entry::Manifest(manifest) = entry else { continue };
        events.push(json!({
            "model": model,
            "sequence": manifest.sequence,
            "what": format!("version {version} is published"),
            "at": time(manifest.published_at_ms),
            "by": manifest.published_by,
            "why": manifest.note,
            "signed_by": state.signed_by(model, *version).map(ToString::to_string),
        }));
    }
    if events.is_empty() {
        return Err(registry::Error::NotFound(format!("the model log says nothing of {model}")).into());
    }
    // Of the first format are manifests without a place in the order: the oldest.
    events.sort_by_key(|event| (event["sequence"].as_u64(), event["at"].as_str().map(str::to_owned)));
    if common.json {
        return events.iter().try_for_each(print::json);
    }
    let mut table = print::table(&["sequence", "at", "by", "what", "why", "signed"]);
    for event in &events {
        let text = |name: &str| print::printable(event[name].as_str().unwrap_or_default());
        table.add_row([
            event["sequence"].to_string(),
            text("at"),
            text("by"),
            text("what"),
            text("why"),
            text("signed_by"),
        ]);
    }
    print::line(&table.trim_fmt())
}
