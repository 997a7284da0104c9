//! What each step of scoring a record costs. `cargo bench --bench scoring`; with `-- --test` each runs once.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use modelstream::model::signature::{Feature, FeatureKind, Target};
use modelstream::model::tree_ensemble::{Aggregation, Node};
use modelstream::model::{Block, Digest, Model, Predictions, Predictor, Signature, TreeEnsemble};
use modelstream::pipeline::{InputFormat, OutputFormat, Scorer, ServedModel};

const BATCH: usize = 256;
const IRIS: [&str; 4] = ["sepal_length", "sepal_width", "petal_length", "petal_width"];

/// Pseudo-random numbers in 0..1 that are the same on every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }
}

fn names(features: usize) -> Vec<String> {
    (0..features).map(|index| IRIS.get(index).map_or(format!("feature_{index}"), |name| name.to_string())).collect()
}

/// A full tree: `depth` levels of splits over uniform thresholds, then votes for one of three classes.
fn tree(depth: u32, features: usize, numbers: &mut Numbers) -> Vec<Node> {
    let splits = (1 << depth) - 1;
    let node = |index: usize| {
        if index >= splits {
            return Node::Class((numbers.next() * 3.0) as u32);
        }
        let column = (numbers.next() * features as f64) as u16;
        Node::Split { column, threshold: numbers.next(), left: 2 * index + 1, right: 2 * index + 2 }
    };
    (0..2 * splits + 1).map(node).collect()
}

fn forest(trees: usize, depth: u32, features: usize) -> Model {
    let mut numbers = Numbers(7);
    let mut ensemble = TreeEnsemble::new(Aggregation::Vote);
    for _ in 0..trees {
        ensemble.push_tree(&tree(depth, features, &mut numbers));
    }
    let feature = |name| Feature { name, kind: FeatureKind::Numeric { fill: None } };
    let classes = ["setosa", "versicolor", "virginica"].map(String::from).to_vec();
    let signature = Signature {
        features: names(features).into_iter().map(feature).collect(),
        target: Target { name: "species".into(), classes },
    };
    Model::new(signature, Predictor::TreeEnsemble(ensemble)).expect("a sound forest")
}

fn served(model: Model, output: OutputFormat) -> ServedModel {
    let input = InputFormat::Json { field: None };
    ServedModel::new("bench", 1, model, Digest::of(b""), &input, &output).expect("a model that fits")
}

/// Records with four decimals a number, as measurements have them.
fn objects(features: usize) -> Vec<Vec<u8>> {
    let (mut numbers, names) = (Numbers(11), names(features));
    let record = |_| {
        let mut text = String::from("{");
        for name in &names {
            let comma = if text.len() > 1 { "," } else { "" };
            write!(text, "{comma}\"{name}\":{:.4}", numbers.next()).expect("memory");
        }
        (text + "}").into_bytes()
    };
    (0..BATCH).map(record).collect()
}

fn arrays(features: usize) -> Vec<Vec<u8>> {
    let strip = |record: Vec<u8>| {
        let object: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
        let values: Vec<_> = names(features).iter().map(|name| object[name].clone()).collect();
        serde_json::Value::from(values).to_string().into_bytes()
    };
    objects(features).into_iter().map(strip).collect()
}

fn payloads(records: &[Vec<u8>]) -> impl Iterator<Item = Option<&[u8]>> {
    records.iter().map(|record| Some(record.as_slice()))
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(BATCH as u64));
    for features in [IRIS.len(), 28] {
        let served = served(forest(1, 1, features), OutputFormat::Json { probabilities: true });
        for (shape, records) in [("object", objects(features)), ("array", arrays(features))] {
            let mut scorer = Scorer::new();
            group.bench_function(format!("json {shape}, {features} features"), |bencher| {
                bencher.iter(|| {
                    scorer.decode(&served, payloads(&records));
                    assert_eq!(black_box(&scorer).rows(), BATCH);
                });
            });
        }
    }
    group.finish();
}

fn predict(criterion: &mut Criterion) {
    let model = forest(100, 8, 28);
    let mut group = criterion.benchmark_group("predict");
    for rows in [BATCH, 1] {
        let (mut numbers, mut block) = (Numbers(13), Block::new(28));
        for _ in 0..rows {
            block.push_row().fill_with(|| numbers.next() as f32);
        }
        let mut predictions = Predictions::default();
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(format!("forest of 100 trees of depth 8, {rows} rows"), |bencher| {
            bencher.iter(|| model.predict(black_box(&block), &mut predictions));
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(BATCH as u64));
    let records = objects(IRIS.len());
    for (name, output) in [
        ("json", OutputFormat::Json { probabilities: true }),
        ("json without probabilities", OutputFormat::Json { probabilities: false }),
        ("avro", OutputFormat::Avro { probabilities: true }),
    ] {
        let served = served(forest(10, 3, IRIS.len()), output);
        let predicted = || {
            let mut scorer = Scorer::new();
            scorer.decode(&served, payloads(&records));
            scorer.predict(&served);
            scorer
        };
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(predicted, |scorer| scorer.encode(&served), BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn whole(criterion: &mut Criterion) {
    let served = served(forest(100, 8, 28), OutputFormat::Json { probabilities: true });
    let (records, mut scorer) = (objects(28), Scorer::new());
    let mut group = criterion.benchmark_group("whole");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("json to json, forest of 100 trees of depth 8, 28 features", |bencher| {
        bencher.iter(|| scorer.score(&served, payloads(&records)).len());
    });
    group.finish();
}

criterion_group!(benches, decode, predict, encode, whole);
criterion_main!(benches);
