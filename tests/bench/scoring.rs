//! What each step of scoring a record costs. `cargo bench --bench scoring`; with `-- --test` each runs once.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use modelstream::model::linear::Link;
use modelstream::model::signature::{Feature, FeatureKind, Target};
use modelstream::model::tree_ensemble::{Aggregation, Node};
use modelstream::model::{Block, Digest, Linear, Model, NaiveBayes, Predictions, Predictor, Signature, TreeEnsemble};
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

/// The shape of the trees of a forest. Fitted trees are not full: some branches end early.
#[derive(Clone, Copy)]
struct Shape {
    trees: usize,
    splits: usize,
    depth: u32,
    /// How often the branch that was split last is split again: near 1 a tree is a chain with twigs.
    straight: f64,
    features: usize,
}

/// As scikit-learn fits 100 trees of depth 8: 41,000 nodes and more.
const FOREST: Shape = Shape { trees: 100, splits: 210, depth: 8, straight: 0.0, features: 28 };
/// As scikit-learn fits 500 trees of depth 12: 786,000 nodes.
const LARGE_FOREST: Shape = Shape { trees: 500, splits: 785, depth: 12, straight: 0.0, features: 28 };
/// A few branches as deep as trees get, most of them short.
const DEEP_FOREST: Shape = Shape { trees: 100, splits: 210, depth: 60, straight: 0.9, features: 28 };

/// A tree of random splits over uniform thresholds, then votes for one of three classes.
fn tree(shape: Shape, numbers: &mut Numbers) -> Vec<Node> {
    let mut nodes = vec![None];
    let mut open = vec![(0, 0)];
    for _ in 0..shape.splits {
        let last = open.len().saturating_sub(1 + (numbers.next() * 2.0) as usize);
        let any = (numbers.next() * open.len() as f64) as usize;
        let place = if numbers.next() < shape.straight { last } else { any };
        if open.is_empty() {
            break;
        }
        let (node, level) = open.swap_remove(place);
        let left = nodes.len();
        let column = (numbers.next() * shape.features as f64) as u16;
        nodes[node] = Some(Node::Split { column, threshold: numbers.next(), left, right: left + 1 });
        nodes.extend([None, None]);
        if level + 1 < shape.depth {
            open.extend([(left, level + 1), (left + 1, level + 1)]);
        }
    }
    nodes.into_iter().map(|node| node.unwrap_or_else(|| Node::Class((numbers.next() * 3.0) as u32))).collect()
}

fn signature(features: usize) -> Signature {
    let feature = |name| Feature { name, kind: FeatureKind::Numeric { fill: None } };
    let classes = ["setosa", "versicolor", "virginica"].map(String::from).to_vec();
    Signature {
        features: names(features).into_iter().map(feature).collect(),
        target: Target { name: "species".into(), classes },
    }
}

fn forest(shape: Shape) -> Model {
    let mut numbers = Numbers(7);
    let mut ensemble = TreeEnsemble::new(Aggregation::Vote);
    for _ in 0..shape.trees {
        ensemble.push_tree(&tree(shape, &mut numbers));
    }
    Model::new(signature(shape.features), Predictor::TreeEnsemble(ensemble)).expect("a sound forest")
}

fn linear(features: usize) -> Model {
    let mut numbers = Numbers(17);
    let coefficients = (0..3 * features).map(|_| numbers.next() - 0.5).collect();
    let linear = Linear { link: Link::Softmax, coefficients, intercepts: vec![0.0; 3] };
    Model::new(signature(features), Predictor::Linear(linear)).expect("a sound model")
}

fn naive_bayes(features: usize) -> Model {
    let mut numbers = Numbers(19);
    let means = (0..3 * features).map(|_| numbers.next()).collect();
    let variances = (0..3 * features).map(|_| numbers.next() + 0.1).collect();
    let bayes = NaiveBayes { log_priors: vec![-1.0; 3], means, variances };
    Model::new(signature(features), Predictor::NaiveBayes(bayes)).expect("a sound model")
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
        let served = served(
            forest(Shape { trees: 1, splits: 1, depth: 1, straight: 0.0, features }),
            OutputFormat::Json { probabilities: true },
        );
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
    let mut group = criterion.benchmark_group("predict");
    for (name, model, most_rows) in [
        ("100 trees of depth 8", forest(FOREST), 8_000),
        ("500 trees of depth 12", forest(LARGE_FOREST), 8_000),
        ("100 trees of depth 60", forest(DEEP_FOREST), BATCH),
        ("linear, 3 classes", linear(28), BATCH),
        ("naive Bayes, 3 classes", naive_bayes(28), BATCH),
    ] {
        for rows in [1, BATCH, 8_000].into_iter().filter(|rows| *rows <= most_rows) {
            let (mut numbers, mut block) = (Numbers(13), Block::new(28));
            for _ in 0..rows {
                block.push_row().fill_with(|| numbers.next() as f32);
            }
            let mut predictions = Predictions::default();
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_function(format!("{name}, {rows} rows"), |bencher| {
                bencher.iter(|| model.predict(black_box(&block), &mut predictions));
            });
        }
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(BATCH as u64));
    let records = objects(IRIS.len());
    let iris = Shape { trees: 10, splits: 7, depth: 3, straight: 0.0, features: IRIS.len() };
    for (name, output) in [
        ("json", OutputFormat::Json { probabilities: true }),
        ("json without probabilities", OutputFormat::Json { probabilities: false }),
        ("avro", OutputFormat::Avro { probabilities: true }),
    ] {
        let served = served(forest(iris), output);
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
    let served = served(forest(FOREST), OutputFormat::Json { probabilities: true });
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
