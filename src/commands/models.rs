//! `modelstream models`

mod steer;

pub(super) use steer::show as show_decision;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cli::{self, Models};
use crate::config;
use crate::kafka::{self, Connection};
use crate::model::signature::{CategoryRule, FeatureKind};
use crate::model::{Manifest, Refusal};
use crate::registry::decide::Wish;
use crate::registry::fleet::{Fleet, Report};
use crate::registry::follow::{FetchError, fetch_artifact, read_state};
use crate::registry::reports::read_fleet;
use crate::registry::state::{Entry, Steering};
use crate::registry::stored::StoredArtifact;
use crate::registry::{self, State, Topics};
use crate::serve::lag::unix_millis;

use super::publish::read_artifact;
use super::{Error, print};

/// What `models list` shows of a version.
const COLUMNS: [&str; 11] =
    ["model", "version", "state", "algorithm", "score", "bytes", "published", "by", "signed", "digest", "refused by"];

/// Runs one of the verbs of `models`.
///
/// # Errors
/// When the model log cannot be read, or a version is not there or is refused.
pub fn run(common: &cli::Common, models: &Models) -> Result<(), Error> {
    let (connection, topics) = (config::connection(common)?, config::topics(common)?);
    let log = (&connection, &topics);
    match models {
        Models::List { model } => list(common, &connection, &topics, model.as_deref()),
        Models::Show { model } => show(common, &find(&connection, &topics, model)?),
        Models::Pull { model, out } => {
            let manifest = find(&connection, &topics, model)?;
            pull(common, &connection, &topics, &manifest, out.as_deref())
        }
        Models::Verify { model } => verify(common, &connection, &topics, model),
        Models::Alias(alias) => steer::alias(common, log, alias),
        Models::Pin { model, version, deciding } => {
            steer::make(common, log, model, &Wish::Pin(*version), &deciding.why, &deciding.signing)
        }
        Models::Unpin { model, deciding } => {
            steer::make(common, log, model, &Wish::Unpin, &deciding.why, &deciding.signing)
        }
        Models::Rollback { model, alias, deciding } => {
            steer::make(common, log, model, &Wish::RollBack(alias.clone()), &deciding.why, &deciding.signing)
        }
        Models::Revoke { model, version, why, signing } => {
            steer::make(common, log, model, &Wish::Revoke(*version), why, signing)
        }
        Models::History { model } => steer::history(common, log, model),
        Models::Prune { model, keep, dry_run, deciding } => {
            steer::remove_old(common, log, model, *keep, *dry_run, deciding)
        }
    }
}

pub(super) fn find(connection: &Connection, topics: &Topics, model: &str) -> Result<Manifest, Error> {
    let selector = config::selector(model)?;
    Ok(read_state(connection, topics)?.find(&selector)?.clone())
}

fn list(common: &cli::Common, connection: &Connection, topics: &Topics, only: Option<&str>) -> Result<(), Error> {
    let state = read_state(connection, topics)?;
    let mut table = print::table(&COLUMNS);
    let fleet = reported(connection, topics);
    for (name, versions) in state.models().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let steering = state.steering(name);
        for (version, entry) in versions {
            let refusals = fleet.refusals(topics, name, *version, unix_millis());
            if common.json {
                let mut summary = summary(&state, &steering, name, *version, entry);
                summary["refused_by"] = refusals.iter().map(refusal).collect();
                print::json(&summary)?;
            } else {
                let mut row = row(&state, &steering, name, *version, entry);
                row.resize(COLUMNS.len() - 1, String::new());
                row.push(refused_by(&refusals));
                table.add_row(row);
            }
        }
    }
    if common.json { Ok(()) } else { print::line(&table.trim_fmt()) }
}

/// What holds for a version beside what its manifest says: refused, revoked, pinned, the aliases that name it.
fn marks(steering: &Steering, version: u64, entry: &Entry) -> Vec<String> {
    let mut marks = Vec::new();
    if let Entry::Refused(refusal) = entry {
        marks.push(format!("refused: {}", refusal.reason()));
    }
    if steering.revoked.contains_key(&version) {
        marks.push("revoked".to_owned());
    }
    if steering.pin == Some(version) {
        marks.push("pinned".to_owned());
    }
    marks.extend(steering.aliases_of(version).map(|alias| format!("@{alias}")));
    marks
}

fn row(state: &State, steering: &Steering, name: &str, version: u64, entry: &Entry) -> Vec<String> {
    let mut row = vec![name.to_owned(), version.to_string(), marks(steering, version, entry).join(", ")];
    if let Entry::Manifest(manifest) = entry {
        let signed = state.signed_by(name, version).map(ToString::to_string).unwrap_or_default();
        row.extend([
            print::printable(&manifest.algorithm),
            score(manifest),
            manifest.artifact_bytes.to_string(),
            time(manifest.published_at_ms),
            print::printable(&manifest.published_by),
            signed,
            manifest.digest.to_string()[..12].to_owned(),
        ]);
    }
    row
}

/// What the serving processes report; nothing where they do not, which `status` explains.
fn reported(connection: &Connection, topics: &Topics) -> Fleet {
    match read_fleet(connection, topics) {
        Ok(fleet) => fleet,
        Err(registry::Error::Kafka(kafka::Error::NoTopic { .. })) => Fleet::default(),
        Err(error) => {
            print::say(&format!("who refused a version is not known: {error}"));
            Fleet::default()
        }
    }
}

fn refusal((report, why): &(&Report, &str)) -> Value {
    json!({"instance": report.instance, "group": report.group, "why": why})
}

/// `a, b (digest: …)`; nothing where nobody refused it.
fn refused_by(refusals: &[(&Report, &str)]) -> String {
    let mut by_why: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (report, why) in refusals {
        by_why.entry(why).or_default().push(&report.instance);
    }
    let texts = by_why.iter().map(|(why, who)| format!("{} ({})", print::cut(&who.join(", ")), print::cut(why)));
    texts.collect::<Vec<String>>().join("; ")
}

fn summary(state: &State, steering: &Steering, name: &str, version: u64, entry: &Entry) -> Value {
    let mut summary = match entry {
        Entry::Manifest(manifest) => card(manifest),
        Entry::Refused(refusal) => {
            json!({"model": name, "version": version, "refused": refusal.reason(), "why": refusal.to_string()})
        }
    };
    summary["aliases"] = steering.aliases_of(version).collect();
    summary["pinned"] = (steering.pin == Some(version)).into();
    summary["revoked"] = steering.revoked.get(&version).map(String::as_str).into();
    summary["signed_by"] = state.signed_by(name, version).map(ToString::to_string).into();
    summary
}

/// The one number that says most: accuracy of a classification, R² of a regression.
fn score(manifest: &Manifest) -> String {
    let metric = |name: &str| manifest.evaluation.metrics.get(name).map(|value| format!("{name} {value:.4}"));
    metric("accuracy").or_else(|| metric("r2")).unwrap_or_else(|| "not evaluated".to_owned())
}

/// A time of the model log, in milliseconds since the Unix epoch.
fn time(millis: i64) -> String {
    let millis = u64::try_from(millis).unwrap_or(0);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

/// The model card as JSON.
fn card(manifest: &Manifest) -> Value {
    let features = manifest.signature.features.iter().map(|feature| match &feature.kind {
        FeatureKind::Numeric { fill } => json!({"name": feature.name, "type": "numeric", "missing": fill}),
        FeatureKind::Categorical { categories, missing, unknown, .. } => json!({
            "name": feature.name, "type": "categorical", "categories": categories,
            "missing": rule(*missing), "unknown": rule(*unknown),
        }),
    });
    let features: Vec<Value> = features.collect();
    json!({
        "model": manifest.model,
        "version": manifest.version,
        "digest": manifest.digest.to_string(),
        "bytes": manifest.artifact_bytes,
        "algorithm": manifest.algorithm,
        "hyper_parameters": manifest.hyper_parameters,
        "target": manifest.signature.target.name,
        "classes": manifest.signature.target.classes,
        "features": features,
        "train_rows": manifest.evaluation.train_rows,
        "test_rows": manifest.evaluation.test_rows,
        "metrics": manifest.evaluation.metrics,
        "confusion_matrix": manifest.evaluation.confusion_matrix,
        "published_at": time(manifest.published_at_ms),
        "published_by": manifest.published_by,
        "note": manifest.note,
        "sequence": manifest.sequence,
        "stored_bytes": manifest.stored_bytes(),
    })
}

fn rule(rule: CategoryRule) -> &'static str {
    match rule {
        CategoryRule::Refuse => "refused",
        CategoryRule::NoCategory => "no category",
    }
}

fn show(common: &cli::Common, manifest: &Manifest) -> Result<(), Error> {
    if common.json {
        return print::json(&card(manifest));
    }
    let parameters: Vec<String> =
        manifest.hyper_parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut text = format!("{} version {}\n\n", manifest.model, manifest.version);
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            text += &format!("  {name:<12} {value}\n");
        }
    };
    field("algorithm", &format!("{} ({})", manifest.algorithm, parameters.join(", ")));
    field("digest", &manifest.digest.to_string());
    let (bytes, stored, chunks) = (manifest.artifact_bytes, manifest.stored_bytes(), manifest.chunks.count);
    field("size", &format!("{bytes} bytes, stored as {stored} in {chunks} chunks"));
    field("published", &format!("{} by {}", time(manifest.published_at_ms), print::printable(&manifest.published_by)));
    field("note", &print::printable(&manifest.note));
    field("predicts", &format!("{} {}", manifest.signature.target.name, manifest.signature.target.classes.join(", ")));
    let evaluation = &manifest.evaluation;
    field("rows", &format!("{} to fit, {} to evaluate", evaluation.train_rows, evaluation.test_rows));
    for (name, value) in &evaluation.metrics {
        field(name, &format!("{value:.4}"));
    }
    text += &features_table(manifest);
    text += &confusion_table(manifest);
    print::line(text.trim_end())
}

fn features_table(manifest: &Manifest) -> String {
    let mut table = print::table(&["feature", "type", "missing"]);
    for feature in &manifest.signature.features {
        let (kind, missing) = match &feature.kind {
            FeatureKind::Numeric { fill } => {
                ("numeric".to_owned(), fill.map_or("refused".to_owned(), |fill| format!("becomes {fill}")))
            }
            FeatureKind::Categorical { categories, missing, .. } => {
                (format!("one of {}", categories.join(", ")), rule(*missing).to_owned())
            }
        };
        table.add_row([feature.name.clone(), kind, missing]);
    }
    format!("\n{}\n", table.trim_fmt())
}

fn confusion_table(manifest: &Manifest) -> String {
    if manifest.evaluation.confusion_matrix.is_empty() {
        return String::new();
    }
    let classes = &manifest.signature.target.classes;
    let mut header = vec!["true \\ predicted"];
    header.extend(classes.iter().map(String::as_str));
    let mut table = print::table(&header);
    for (class, row) in classes.iter().zip(&manifest.evaluation.confusion_matrix) {
        let counts = row.iter().map(u64::to_string);
        table.add_row(std::iter::once(class.clone()).chain(counts));
    }
    format!("\n{}\n", table.trim_fmt())
}

/// Fetches an artifact, with a progress bar.
///
/// # Errors
/// When it is not there as its manifest says, or Kafka fails.
pub(super) fn fetch(connection: &Connection, topics: &Topics, manifest: &Manifest) -> Result<StoredArtifact, Error> {
    let bar = print::progress(Some(manifest.stored_bytes()), "bytes");
    let fetched = fetch_artifact(connection, topics, manifest, |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    fetched.map_err(|error| match error {
        FetchError::Kafka(error) => error.into(),
        FetchError::Refused(refusal) => refused(manifest)(refusal),
    })
}

/// As [`fetch`], the artifact's bytes.
///
/// # Errors
/// As [`fetch`].
pub(super) fn fetch_bytes(connection: &Connection, topics: &Topics, manifest: &Manifest) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let written = fetch(connection, topics, manifest)?.write_to(&mut bytes).map_err(refused(manifest))?;
    written.map_err(|source| Error::Io { doing: "decompressing the artifact".to_owned(), source })?;
    Ok(bytes)
}

fn refused(manifest: &Manifest) -> impl Fn(Refusal) -> Error + use<> {
    let (model, version) = (manifest.model.clone(), manifest.version);
    move |refusal| registry::Error::Refused { model: model.clone(), version, refusal }.into()
}

fn pull(
    common: &cli::Common,
    connection: &Connection,
    topics: &Topics,
    manifest: &Manifest,
    out: Option<&Path>,
) -> Result<(), Error> {
    let default = format!("{}-{}.model", manifest.model, manifest.version);
    let path = out.unwrap_or(Path::new(&default));
    let stored = fetch(connection, topics, manifest)?;
    let failed = |source| Error::Io { doing: format!("writing {}", path.display()), source };
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    stored.write_to(&mut file).map_err(refused(manifest))?.and_then(|()| file.flush()).map_err(failed)?;
    let bytes = manifest.artifact_bytes;
    if common.json {
        return print::json(&json!({"file": path, "bytes": bytes, "digest": manifest.digest.to_string()}));
    }
    print::line(&format!("{}: {bytes} bytes, digest {}", path.display(), manifest.digest))
}

/// What a server does before it serves a version, told.
fn verify(common: &cli::Common, connection: &Connection, topics: &Topics, model: &str) -> Result<(), Error> {
    let path = Path::new(model);
    let refused = |refusal| Error::Refused { what: model.to_owned(), refusal };
    let (digest, artifact) = if path.is_file() {
        read_artifact(path, model)?
    } else {
        let manifest = find(connection, topics, model)?;
        (manifest.digest, fetch(connection, topics, &manifest)?.into_artifact().map_err(refused)?)
    };
    let unproven = artifact.compile().map_err(refused)?;
    let golden_rows = unproven.golden_rows();
    unproven.prove().map_err(refused)?;
    if common.json {
        let digest = digest.to_string();
        return print::json(&json!({"model": model, "digest": digest, "golden_rows": golden_rows, "verified": true}));
    }
    print::line(&format!("{model} passes: digest {digest}, structure, {golden_rows} golden rows reproduced"))
}
