//! `modelstream models`

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cli::{self, Models};
use crate::config;
use crate::kafka::{self, Connection};
use crate::model::signature::{CategoryRule, FeatureKind};
use crate::model::{Artifact, Digest, Manifest};
use crate::registry::fleet::{Fleet, Report};
use crate::registry::follow::{FetchError, fetch_artifact, read_state};
use crate::registry::reports::read_fleet;
use crate::registry::state::Entry;
use crate::registry::{self, Topics};
use crate::serve::lag::unix_millis;

use super::publish::read_artifact;
use super::{Error, print};

/// Runs one of the verbs of `models`.
///
/// # Errors
/// When the model log cannot be read, or a version is not there or is refused.
pub fn run(common: &cli::Common, models: &Models) -> Result<(), Error> {
    let (connection, topics) = (config::connection(common)?, config::topics(common));
    match models {
        Models::List { model } => list(common, &connection, &topics, model.as_deref()),
        Models::Show { model } => show(common, &find(&connection, &topics, model)?),
        Models::Pull { model, out } => {
            let manifest = find(&connection, &topics, model)?;
            pull(common, &connection, &topics, &manifest, out.as_deref())
        }
        Models::Verify { model } => verify(common, &connection, &topics, model),
    }
}

pub(super) fn find(connection: &Connection, topics: &Topics, model: &str) -> Result<Manifest, Error> {
    let selector = config::selector(model)?;
    Ok(read_state(connection, topics)?.find(&selector)?.clone())
}

fn list(common: &cli::Common, connection: &Connection, topics: &Topics, only: Option<&str>) -> Result<(), Error> {
    let state = read_state(connection, topics)?;
    let wanted = state.models().filter(|(name, _)| only.is_none_or(|only| only == *name));
    let versions: Vec<(&str, u64, &Entry)> = wanted
        .flat_map(|(name, versions)| versions.iter().map(move |(version, entry)| (name, *version, entry)))
        .collect();
    let fleet = reported(connection, topics);
    let refusals = |name: &str, version| fleet.refusals(topics, name, version, unix_millis());
    if common.json {
        return versions.iter().try_for_each(|(name, version, entry)| {
            let mut summary = summary(name, *version, entry);
            summary["refused_by"] = refusals(name, *version).iter().map(refusal).collect();
            print::json(&summary)
        });
    }
    let columns = ["model", "version", "algorithm", "score", "bytes", "published", "by", "digest", "refused by"];
    let mut table = print::table(&columns);
    for (name, version, entry) in versions {
        let refused_by = refused_by(&refusals(name, version));
        match entry {
            Entry::Manifest(manifest) => table.add_row([
                name.to_owned(),
                version.to_string(),
                manifest.algorithm.clone(),
                score(manifest),
                manifest.artifact_bytes.to_string(),
                published_at(manifest),
                manifest.published_by.clone(),
                manifest.digest.to_string()[..12].to_owned(),
                refused_by,
            ]),
            Entry::Refused(refusal) => {
                let mut row = vec![name.to_owned(), version.to_string(), format!("refused: {}", refusal.reason())];
                row.resize(columns.len() - 1, String::new());
                row.push(refused_by);
                table.add_row(row)
            }
        };
    }
    print::line(&table.trim_fmt())
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

fn summary(name: &str, version: u64, entry: &Entry) -> Value {
    match entry {
        Entry::Manifest(manifest) => card(manifest),
        Entry::Refused(refusal) => {
            json!({"model": name, "version": version, "refused": refusal.reason(), "why": refusal.to_string()})
        }
    }
}

/// The one number that says most: accuracy of a classification, R² of a regression.
fn score(manifest: &Manifest) -> String {
    let metric = |name: &str| manifest.evaluation.metrics.get(name).map(|value| format!("{name} {value:.4}"));
    metric("accuracy").or_else(|| metric("r2")).unwrap_or_else(|| "not evaluated".to_owned())
}

fn published_at(manifest: &Manifest) -> String {
    let millis = u64::try_from(manifest.published_at_ms).unwrap_or(0);
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
        "published_at": published_at(manifest),
        "published_by": manifest.published_by,
        "note": manifest.note,
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
    field("size", &format!("{} bytes in {} chunks", manifest.artifact_bytes, manifest.chunks.count));
    field("published", &format!("{} by {}", published_at(manifest), manifest.published_by));
    field("note", &manifest.note);
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

pub(super) fn fetch(connection: &Connection, topics: &Topics, manifest: &Manifest) -> Result<Vec<u8>, Error> {
    fetch_artifact(connection, topics, manifest).map_err(|error| match error {
        FetchError::Kafka(error) => error.into(),
        FetchError::Refused(refusal) => {
            let (model, version) = (manifest.model.clone(), manifest.version);
            registry::Error::Refused { model, version, refusal }.into()
        }
    })
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
    let bytes = fetch(connection, topics, manifest)?;
    std::fs::write(path, &bytes)
        .map_err(|source| Error::Io { doing: format!("writing {}", path.display()), source })?;
    if common.json {
        return print::json(&json!({"file": path, "bytes": bytes.len(), "digest": manifest.digest.to_string()}));
    }
    print::line(&format!("{}: {} bytes, digest {}", path.display(), bytes.len(), manifest.digest))
}

/// What a server does before it serves a version, told.
fn verify(common: &cli::Common, connection: &Connection, topics: &Topics, model: &str) -> Result<(), Error> {
    let path = Path::new(model);
    let bytes = if path.is_file() {
        read_artifact(path)?
    } else {
        fetch(connection, topics, &find(connection, topics, model)?)?
    };
    let digest = Digest::of(&bytes);
    let refused = |refusal| Error::Refused { what: model.to_owned(), refusal };
    let artifact = Artifact::decode(&bytes).map_err(refused)?;
    let golden_rows = artifact.golden_rows.len();
    artifact.into_model().map_err(refused)?;
    if common.json {
        let digest = digest.to_string();
        return print::json(&json!({"model": model, "digest": digest, "golden_rows": golden_rows, "verified": true}));
    }
    print::line(&format!("{model} passes: digest {digest}, structure, {golden_rows} golden rows reproduced"))
}
