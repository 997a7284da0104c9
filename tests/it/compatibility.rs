//! What any former version wrote is read for ever; what a newer one wrote is refused, and the last good version serves on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use modelstream::model::artifact::FORMAT;
use modelstream::model::linear::Link;
use modelstream::model::manifest;
use modelstream::model::signature::{CategoryRule, Encoding, FeatureKind};
use modelstream::model::tree_ensemble::Aggregation;
use modelstream::model::{Artifact, Digest, Manifest, Predictor};
use modelstream::registry::follow;
use modelstream::registry::state::Entry;
use serde_json::{Value, json};

use crate::harness::{data, real_kafka, root, skip, succeeded, tool, wait_until};
use crate::model_log::{fetch, send_raw, send_version, serving_iris};

/// How far a number may be from what was predicted then, relative above 1: the mathematical functions of another machine may round otherwise.
const TOLERANCE: f64 = 1e-12;
/// Marker and fingerprint of Avro's single-object encoding.
const FRAME_BYTES: usize = 10;

/// A file of `tests/data/formats` with what was said about it.
struct Kept {
    file: PathBuf,
    said: Value,
}

impl Kept {
    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.file).expect("readable")
    }

    fn artifact(&self) -> Artifact {
        Artifact::decode(&self.bytes()).unwrap_or_else(|refusal| panic!("{}: {refusal}", self.file.display()))
    }

    /// Its rows as a file of JSON lines in `dir`.
    fn rows(&self, dir: &Path) -> PathBuf {
        let file = dir.join("rows.jsonl");
        let rows = self.said["rows"].as_array().expect("a list");
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        std::fs::write(&file, lines.join("\n")).expect("writable");
        file
    }

    /// Compares a prediction a line, with its digest, with what was predicted then.
    fn assert_predicted(&self, lines: &str) {
        let expected = self.said["predictions"].as_array().expect("a list");
        assert_eq!(lines.lines().count(), expected.len(), "{}", self.file.display());
        for (row, (line, expected)) in lines.lines().zip(expected).enumerate() {
            let actual: Value = serde_json::from_str(line).expect("JSON");
            let fields = expected.as_object().expect("an object");
            let same = fields.iter().all(|(name, expected)| is_same(expected, &actual[name]));
            assert!(same, "{}, row {row}: expected {expected}, got {actual}", self.file.display());
            assert_eq!(actual["digest"], self.said["digest"]);
        }
    }
}

/// Everything of one kind that is kept, of every format; never nothing.
fn kept(extension: &str) -> Vec<Kept> {
    let folders = std::fs::read_dir(data("formats")).expect("readable").map(|entry| entry.expect("readable").path());
    let mut kept: Vec<Kept> = folders
        .filter(|folder| folder.is_dir())
        .flat_map(|folder| std::fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path()))
        .filter(|file| file.extension().is_some_and(|found| found == extension))
        .map(|file| {
            let said = file.with_extension(if extension == "model" { "json" } else { "manifest.json" });
            let said = std::fs::read_to_string(said).expect("what was said about it");
            Kept { file, said: serde_json::from_str(&said).expect("JSON") }
        })
        .collect();
    kept.sort_by(|one, other| one.file.cmp(&other.file));
    assert!(!kept.is_empty(), "something is kept");
    kept
}

/// Words are the same, numbers within [`TOLERANCE`].
fn is_same(expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::Number(expected), Value::Number(actual)) => {
            let number = |number: &serde_json::Number| number.as_f64().expect("a number");
            let (expected, actual) = (number(expected), number(actual));
            (expected - actual).abs() <= TOLERANCE * expected.abs().max(1.0)
        }
        (Value::Object(expected), Value::Object(actual)) => {
            let same =
                |(name, expected): (&String, &Value)| actual.get(name).is_some_and(|actual| is_same(expected, actual));
            expected.len() == actual.len() && expected.iter().all(same)
        }
        _ => expected == actual,
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn artifacts_of_every_format_predict_what_they_predicted_then() {
    let dir = tempfile::tempdir().expect("a directory");
    for kept in kept("model") {
        assert_eq!(Digest::of(&kept.bytes()).to_string(), kept.said["digest"], "{} was changed", kept.file.display());
        kept.artifact().into_model().expect("it passes every check");
        let rows = kept.rows(dir.path());
        kept.assert_predicted(&succeeded(&["predict", text(&rows), "--artifact", text(&kept.file)]));
    }
}

#[test]
fn everything_that_format_1_can_say_is_kept() {
    let mut found = BTreeSet::new();
    let in_format_1 = |kept: &Kept| kept.file.parent().is_some_and(|folder| folder.ends_with("formats/1"));
    for artifact in kept("model").iter().filter(|kept| in_format_1(kept)).map(Kept::artifact) {
        found.insert(match &artifact.predictor {
            Predictor::TreeEnsemble(trees) => match trees.aggregation {
                Aggregation::Vote => "vote",
                Aggregation::Mean => "mean",
                Aggregation::Sum { .. } => "sum",
            },
            Predictor::Linear(linear) => match linear.link {
                Link::Identity => "identity",
                Link::Logistic => "logistic",
                Link::Softmax => "softmax",
            },
            Predictor::NaiveBayes(_) => "naive-bayes",
        });
        for feature in &artifact.signature.features {
            found.extend(match &feature.kind {
                FeatureKind::Numeric { fill: Some(_) } => ["filled", "", ""],
                FeatureKind::Numeric { fill: None } => ["never missing", "", ""],
                FeatureKind::Categorical { encoding, missing, unknown, .. } => [
                    if *encoding == Encoding::OneHot { "one-hot" } else { "ordinal" },
                    if *missing == CategoryRule::Refuse { "missing refused" } else { "missing allowed" },
                    if *unknown == CategoryRule::Refuse { "unknown refused" } else { "unknown allowed" },
                ],
            });
        }
    }
    let predictors = ["vote", "mean", "sum", "identity", "logistic", "softmax", "naive-bayes"];
    let rules = ["filled", "never missing", "one-hot", "ordinal"];
    let words = ["missing refused", "missing allowed", "unknown refused", "unknown allowed"];
    let all = predictors.iter().chain(&rules).chain(&words).copied();
    let absent: Vec<&str> = all.filter(|name| !found.contains(name)).collect();
    assert!(absent.is_empty(), "{absent:?}");
}

/// The manifest and the chunk as a former `publish` wrote them, in a model log of today.
#[test]
fn what_a_former_version_published_is_found_and_scores() {
    for published in kept("manifest") {
        let Some(cluster) = real_kafka("compatibility-log") else { return };
        let file = published.file.with_extension("model");
        let model = kept("model").into_iter().find(|model| model.file == file).expect("its artifact is kept, too");
        let chunks = published.said["chunks"].as_array().expect("a list");
        assert_eq!(
            chunks.len(),
            1,
            "a small artifact is one chunk, which stands where the manifest says: at the start"
        );
        send_raw(&cluster, &cluster.log.artifacts, chunks[0].as_str().expect("a key"), Some(&model.bytes()));
        let key = published.said["key"].as_str().expect("a key");
        send_raw(&cluster, &cluster.log.models, key, Some(&published.bytes()));
        let manifest = Manifest::decode(&published.bytes()).expect("of a known format");
        assert_eq!(key, format!("version/{}/{}", manifest.model, manifest.version));
        assert_eq!((manifest.published_by.as_str(), manifest.note.as_str()), ("ada@example", "kept"));
        let dir = tempfile::tempdir().expect("a directory");
        let rows = model.rows(dir.path());
        let line = ["predict", text(&rows), "--model", &manifest.model];
        model.assert_predicted(&succeeded(&cluster.arguments(&line)));
    }
}

/// A schema of `schemas/` as it is now and in every released version, the first one first.
struct History {
    name: &'static str,
    present: String,
    released: Vec<String>,
}

fn histories() -> Vec<History> {
    let read = |file: String| std::fs::read_to_string(root().join("schemas").join(file));
    let history = |name| History {
        name,
        present: read(format!("{name}.avsc")).expect("readable"),
        released: (1..).map_while(|version| read(format!("history/{name}-{version}.avsc")).ok()).collect(),
    };
    let histories = Vec::from(["artifact", "manifest", "prediction"].map(history));
    let released: usize = histories.iter().map(|history| history.released.len()).sum();
    let files = std::fs::read_dir(root().join("schemas/history")).expect("readable").count();
    assert_eq!(released, files, "each file of schemas/history is NAME-VERSION.avsc, and no version is left out");
    assert!(histories.iter().all(|history| !history.released.is_empty()));
    histories
}

fn schema(text: &str) -> Schema {
    Schema::parse_str(text).expect("a valid schema")
}

fn fingerprint(schema: &Schema) -> String {
    schema.fingerprint::<Rabin>().bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether all that was written with `former` can be read with `present`, by Avro's rules.
fn reads(former: &str, present: &str) -> Result<(), String> {
    match SchemaCompatibility::can_read(&schema(former), &schema(present)) {
        Ok(Compatibility::Full) => Ok(()),
        Ok(Compatibility::Partial) => Err("not all that was written can be read".to_owned()),
        Err(error) => Err(format!("{error:?}")),
    }
}

#[test]
fn the_schemas_read_what_every_released_version_of_them_wrote() {
    for History { name, present, released } in histories() {
        for (version, former) in (1..).zip(&released) {
            reads(former, &present).unwrap_or_else(|why| panic!("{name}.avsc cannot read {name}-{version}: {why}"));
        }
    }
}

/// The field of this name among those of a record.
fn field<'f>(fields: &'f mut [Value], name: &str) -> &'f mut Value {
    fields.iter_mut().find(|field| field["name"] == name).expect("a field of this name")
}

#[test]
fn a_change_that_avros_rules_do_not_allow_is_noticed() {
    type Change = fn(&mut Vec<Value>);
    let changes: [(&str, bool, Change); 7] = [
        ("artifact", true, |fields| fields.push(json!({"name": "more", "type": "string", "default": ""}))),
        ("manifest", true, |fields| fields.reverse()),
        ("artifact", false, |fields| fields.push(json!({"name": "more", "type": "string"}))),
        ("manifest", false, |fields| field(fields, "model")["name"] = json!("name")),
        ("manifest", false, |fields| field(fields, "version")["type"] = json!("string")),
        ("artifact", false, |fields| drop(field(fields, "predictor")["type"].as_array_mut().map(Vec::pop))),
        ("artifact", false, |fields| {
            let link = &mut field(fields, "predictor")["type"][1]["fields"][0]["type"];
            drop(link["symbols"].as_array_mut().map(Vec::pop));
        }),
    ];
    let histories = histories();
    for (number, (name, allowed, change)) in changes.into_iter().enumerate() {
        let history = histories.iter().find(|history| history.name == name).expect("a schema");
        let mut schema: Value = serde_json::from_str(&history.present).expect("JSON");
        change(schema["fields"].as_array_mut().expect("a list"));
        let read = reads(&history.present, &schema.to_string());
        assert_eq!(read.is_ok(), allowed, "change {number}, to {name}: {read:?}");
    }
}

/// What is kept, resolved by apache-avro from the schema of its time to that of today.
#[test]
fn what_is_kept_resolves_to_the_schemas_of_today() {
    for History { name, present, released } in histories() {
        let extension = match name {
            "artifact" => "model",
            "manifest" => "manifest",
            // Predictions are read by others: see below.
            _ => continue,
        };
        let (present, released) = (schema(&present), released.iter().map(|text| schema(text)));
        let released: Vec<Schema> = released.collect();
        for kept in kept(extension) {
            let bytes = kept.bytes();
            let (frame, mut datum) = bytes.split_at(FRAME_BYTES);
            let writer = released.iter().find(|writer| writer.fingerprint::<Rabin>().bytes == frame[2..]);
            let writer = writer.unwrap_or_else(|| panic!("{} is of no released schema", kept.file.display()));
            let reader = GenericDatumReader::builder(writer).reader_schema(&present).build().expect("two schemas");
            let value =
                reader.read_value(&mut datum).unwrap_or_else(|error| panic!("{}: {error}", kept.file.display()));
            assert!(value.validate(&present) && datum.is_empty(), "{}", kept.file.display());
        }
    }
}

/// A frame with the fingerprint of a released schema is not taken for one of the future.
#[test]
fn every_released_schema_is_known_by_its_fingerprint_and_documented() {
    let readme = std::fs::read_to_string(root().join("schemas/README.md")).expect("the documentation");
    for History { name, released, .. } in histories() {
        for (version, schema) in (1..).zip(released.iter().map(|text| schema(text))) {
            let fingerprint = fingerprint(&schema);
            let line = format!("| `history/{name}-{version}.avsc` | `{fingerprint}` |");
            assert!(readme.contains(&line), "schemas/README.md lacks: {line}");
            let frame = [&[0xC3, 0x01], schema.fingerprint::<Rabin>().bytes.as_slice()].concat();
            let refusal = match name {
                "artifact" => Artifact::decode(&frame).expect_err("nothing behind the frame"),
                "manifest" => Manifest::decode(&frame).expect_err("nothing behind the frame"),
                _ => continue,
            };
            assert_eq!(refusal.reason(), "undecodable", "{name}-{version}: {refusal}");
        }
    }
}

/// A prediction is a plain datum: nothing tells its readers which schema wrote it, so it stays the one that they have.
#[test]
fn the_schema_of_predictions_does_not_change() {
    for History { name, present, released } in histories() {
        if name == "prediction" {
            assert_eq!(released.len(), 1);
            assert_eq!(schema(&present).canonical_form(), schema(&released[0]).canonical_form());
        }
    }
}

#[test]
fn what_a_newer_version_wrote_says_what_it_needs() {
    let newer = |refusal: modelstream::model::Refusal| {
        assert_eq!(refusal.reason(), "newer_format");
        let said = refusal.to_string();
        let needs = format!("needs a newer modelstream than {}", env!("CARGO_PKG_VERSION"));
        assert!(said.contains(&needs) && said.contains("upgrade"), "{said}");
        said
    };
    let artifact = &kept("model")[0];
    let manifest = &kept("manifest")[0];
    let other_schema = |mut bytes: Vec<u8>| {
        bytes[FRAME_BYTES - 1] ^= 1;
        bytes
    };
    let refused = Artifact::decode(&other_schema(artifact.bytes())).expect_err("an unknown schema");
    assert!(newer(refused).starts_with("the artifact"));
    let refused = Manifest::decode(&other_schema(manifest.bytes())).expect_err("an unknown schema");
    assert!(newer(refused).starts_with("the manifest"));
    let artifact = Artifact { format: FORMAT + 1, ..artifact.artifact() };
    newer(Artifact::decode(&artifact.encode().expect("small")).expect_err("a newer number"));
    let manifest = Manifest { format: manifest::FORMAT + 1, ..Manifest::decode(&manifest.bytes()).expect("known") };
    newer(Manifest::decode(&manifest.encode().expect("small")).expect_err("a newer number"));
}

/// Version 2's manifest has the frame of a schema that is not there yet, version 3's a newer number; version 4's artifact has either.
#[test]
fn a_version_from_the_future_is_refused_by_name_and_the_last_good_one_serves() {
    let Some(cluster) = real_kafka("compatibility-newer") else { return };
    cluster.publish_iris("iris", "7");
    let (mut serving, _) = serving_iris(&cluster);
    let state = follow::read_state(&cluster.connection, &cluster.log).expect("readable");
    let Some(Entry::Manifest(good)) = state.versions("iris").and_then(|versions| versions.get(&1)) else { panic!() };
    let bytes = fetch(&cluster, good);
    let refusals = || {
        let refusals = serving.metric("modelstream_model_refusals_total");
        refusals.get("{reason=\"newer_format\"}").copied().unwrap_or_default()
    };

    let mut unknown = good.encode().expect("small");
    unknown[FRAME_BYTES - 1] ^= 1;
    send_raw(&cluster, &cluster.log.models, "version/iris/2", Some(&unknown));
    wait_until("the manifest of an unknown schema is refused", || refusals() == 1.0);
    let newer = Manifest { format: manifest::FORMAT + 1, version: 3, ..good.as_ref().clone() };
    send_raw(&cluster, &cluster.log.models, "version/iris/3", Some(&newer.encode().expect("small")));
    wait_until("the manifest of a newer format is refused", || refusals() == 2.0);
    let newer = Artifact { format: FORMAT + 1, ..Artifact::decode(&bytes).expect("ours") };
    let newer = newer.encode().expect("small");
    send_version(&cluster, good, 4, Digest::of(&newer), &newer);
    wait_until("the artifact of a newer format is refused", || refusals() == 3.0);
    let mut unknown = bytes.clone();
    unknown[FRAME_BYTES - 1] ^= 1;
    send_version(&cluster, good, 5, Digest::of(&unknown), &unknown);
    wait_until("the artifact of an unknown schema is refused", || refusals() == 4.0);

    assert_eq!(serving.get("/ready").0, 200);
    let status: Value = serde_json::from_str(&serving.get("/status").1).expect("JSON");
    assert_eq!(status["models"][0]["version"], 1);
    for version in ["2", "3", "4", "5"] {
        let why = status["models"][0]["refused"][version].as_str().unwrap_or_default();
        assert!(why.starts_with("newer_format: ") && why.contains("needs a newer modelstream"), "{version}: {status}");
    }
    assert_eq!(serving.stop(), Some(0));
    let listed = succeeded(&cluster.arguments(&["models", "list", "--json"]));
    assert_eq!(listed.matches("needs a newer modelstream").count(), 2, "{listed}");
}

/// A Python with fastavro, as the benchmarks pin it, made once under the target folder; the error says what is missing.
fn python() -> Result<PathBuf, String> {
    let pinned = std::fs::read_to_string(root().join("tests/bench/peers/requirements.txt")).expect("readable");
    let fastavro = pinned.lines().find(|line| line.starts_with("fastavro==")).expect("pinned");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reader-venv");
    let (python, ready) = (folder.join("bin/python"), folder.join(fastavro));
    if !ready.exists() {
        let run = |command: &mut Command| match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => Err(format!("{command:?}: {error}")),
        };
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", fastavro]))?;
        std::fs::write(ready, "").map_err(|error| error.to_string())?;
    }
    Ok(python)
}

/// `tests/reader/read_model.py` knows what `schemas/README.md` says and nothing else of ours.
#[test]
fn a_reader_in_another_language_predicts_the_same() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip("a_reader_in_another_language_predicts_the_same", &format!("it needs Python: {why}")),
    };
    let reader = || {
        let mut command = Command::new(&python);
        command.arg(root().join("tests/reader/read_model.py"));
        command
    };
    let dir = tempfile::tempdir().expect("a directory");
    for kept in kept("model") {
        let rows = kept.rows(dir.path());
        let mut line = reader();
        line.arg(&kept.file).arg(&rows);
        let manifest = kept.file.with_extension("manifest");
        if manifest.exists() {
            line.arg("--manifest").arg(&manifest);
        }
        kept.assert_predicted(&tool(&mut line));
    }
    let published = &kept("manifest")[0];
    let (file, mut bytes) = (dir.path().join("flipped.model"), kept("model")[0].bytes());
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&file, bytes).expect("writable");
    let refused = reader().arg(&file).arg(&file).arg("--manifest").arg(&published.file).output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("refused: the manifest names"), "{said}");
}
