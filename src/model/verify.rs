//! What a model must prove before it scores a record: structure and golden rows.

use std::collections::HashSet;
use std::ops::Range;

use super::artifact::{GoldenRow, GoldenValue, within};
use super::linear::Link;
use super::signature::{CLASSES_MAX, COLUMNS_MAX, Feature, FeatureFault, FeatureKind, Value};
use super::tree_ensemble::{Aggregation, LEAF};
use super::{Block, Linear, Model, NaiveBayes, Predictions, Predictor, Signature, TreeEnsemble, argmax};

/// Why a version is not served. The reason is a closed set: the same word is the metric label and the log field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More bytes, chunks, features, classes, trees or nodes than the limits allow.
    #[error("{what} is {actual}, the limit is {limit}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        actual: u64,
        /// How many may be.
        limit: u64,
    },
    /// A chunk is absent, doubled, out of order, or of another artifact.
    #[error("the artifact's chunks are not complete: {0}")]
    Chunks(String),
    /// The bytes are not those that the manifest promises.
    #[error("the digest is {actual}, the manifest says {expected}")]
    Digest {
        /// Of the bytes that were read.
        actual: String,
        /// Of the manifest.
        expected: String,
    },
    /// The bytes are no artifact or no manifest.
    #[error("not readable: {0}")]
    Undecodable(String),
    /// A pickle, a joblib file, an ONNX model: known, and not read.
    #[error("{0}")]
    ForeignFormat(String),
    /// Written in a format that this binary does not know.
    #[error("the {what} has the unknown format {fingerprint}: it needs {needs}; upgrade this one")]
    NewerFormat {
        /// What was read: `artifact`, `manifest`.
        what: &'static str,
        /// The schema's fingerprint, or the format number.
        fingerprint: String,
        /// The modelstream that reads it, as far as its writer said so.
        needs: String,
    },
    /// Nobody signed it whom this process trusts.
    #[error("it is not trusted: {0}")]
    Untrusted(String),
    /// Indices, children, dimensions or numbers that cannot be.
    #[error("the structure is not sound: {0}")]
    Structure(String),
    /// The features differ from those that the input is decoded with.
    #[error("the signature does not fit: {0}")]
    Signature(String),
    /// A golden row came out otherwise than the trainer said.
    #[error("golden row {row}: expected {expected}, got {actual}")]
    Golden {
        /// The row's index.
        row: usize,
        /// What the trainer computed.
        expected: String,
        /// What came out.
        actual: String,
    },
    /// Too few golden rows to prove anything.
    #[error("it has {actual} golden rows, at least {GOLDEN_ROWS_MIN} prove a model; train it with this modelstream")]
    FewGoldenRows {
        /// How many there are.
        actual: usize,
    },
    /// Scoring takes too long.
    #[error("a golden row takes {actual_us} us, at most {limit_us} us are allowed (--row-budget)")]
    TooSlow {
        /// Microseconds a golden row.
        actual_us: u64,
        /// How many may be.
        limit_us: u64,
    },
}

impl Refusal {
    /// A [`Refusal::NewerFormat`] whose writer did not say what it needs.
    pub(super) fn newer(what: &'static str, fingerprint: String) -> Refusal {
        Refusal::NewerFormat {
            what,
            fingerprint,
            needs: format!("a newer modelstream than {}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// The same, of something whose writer said that it needs at least this version of modelstream.
    #[must_use]
    pub fn needing(self, version: &str) -> Refusal {
        match self {
            Refusal::NewerFormat { what, fingerprint, .. } => {
                Refusal::NewerFormat { what, fingerprint, needs: format!("modelstream {version} or newer") }
            }
            other => other,
        }
    }

    /// The closed word for this refusal.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::TooLarge { .. } => "too_large",
            Refusal::Chunks(_) => "chunks",
            Refusal::Digest { .. } => "digest",
            Refusal::Undecodable(_) => "undecodable",
            Refusal::ForeignFormat(_) => "foreign_format",
            Refusal::NewerFormat { .. } => "newer_format",
            Refusal::Structure(_) => "structure",
            Refusal::Signature(_) => "signature",
            Refusal::Golden { .. } | Refusal::FewGoldenRows { .. } => "golden",
            Refusal::TooSlow { .. } => "too_slow",
            Refusal::Untrusted(_) => "untrusted",
        }
    }

    /// Every word that [`Refusal::reason`] returns, so that each metric series exists from the start.
    pub const REASONS: [&'static str; 11] = [
        "too_large",
        "chunks",
        "digest",
        "undecodable",
        "foreign_format",
        "newer_format",
        "structure",
        "signature",
        "golden",
        "too_slow",
        "untrusted",
    ];
}

/// The most bytes of a feature's, a class's or a category's name: it stands in every record or prediction.
pub const NAME_BYTES_MAX: usize = 1_024;
/// The most trees of an ensemble.
pub const TREES_MAX: usize = 100_000;
/// The most levels of splits of a tree, and so the most nodes of it that a row visits. Fitted trees have dozens; a chain of a
/// million splits would make one row as slow as a thousand.
pub const DEPTH_MAX: usize = 4_096;
/// How far an output may be from the trainer's: absolute for probabilities, relative for values above 1. Fitting and loading
/// may add up the same `f64` terms in another order.
pub const GOLDEN_TOLERANCE: f64 = 1e-6;
/// The fewest golden rows that prove a model.
pub const GOLDEN_ROWS_MIN: usize = 8;
/// How many golden rows are scored together: a small artifact may have many of them and one-hot columns by the thousand.
const GOLDEN_BLOCK_ROWS: usize = 16;

fn unsound<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Structure(why.into()))
}

/// Refuses when a condition does not hold.
fn require(condition: bool, why: impl FnOnce() -> String) -> Result<(), Refusal> {
    if condition { Ok(()) } else { unsound(why()) }
}

/// Checks that a predictor can be walked safely and agrees with its signature.
///
/// # Errors
/// [`Refusal::Structure`] or [`Refusal::TooLarge`] for the first thing that is not sound.
pub fn structure(signature: &Signature, predictor: &Predictor) -> Result<(), Refusal> {
    check_signature(signature)?;
    let (columns, classes) = (signature.columns(), signature.target.classes.len());
    match predictor {
        Predictor::TreeEnsemble(trees) => check_trees(trees, columns, classes),
        Predictor::Linear(linear) => check_linear(linear, columns, classes),
        Predictor::NaiveBayes(bayes) => check_bayes(bayes, columns, classes),
    }
}

fn check_signature(signature: &Signature) -> Result<(), Refusal> {
    let classes = &signature.target.classes;
    within("the number of features", signature.features.len(), COLUMNS_MAX)?;
    within("the number of columns", signature.columns(), COLUMNS_MAX)?;
    within("the number of classes", classes.len(), CLASSES_MAX)?;
    require(signature.columns() > 0, || "it has no features".to_owned())?;
    require(classes.len() != 1, || "a classification has one class only".to_owned())?;
    require(signature.names_are_unique(), || "a name stands twice".to_owned())?;
    for name in signature.features.iter().map(|feature| &feature.name).chain(classes) {
        check_name(name)?;
    }
    signature.features.iter().try_for_each(check_feature)
}

fn check_name(name: &str) -> Result<(), Refusal> {
    within("the length of a name in bytes", name.len(), NAME_BYTES_MAX)?;
    require(!name.is_empty(), || "a name is empty".to_owned())
}

fn check_feature(feature: &Feature) -> Result<(), Refusal> {
    let name = &feature.name;
    match &feature.kind {
        FeatureKind::Numeric { fill } => {
            require(fill.is_none_or(f32::is_finite), || format!("the fill value of {name} is not finite"))
        }
        FeatureKind::Categorical { categories, .. } => {
            let unique: HashSet<&String> = categories.iter().collect();
            require(!categories.is_empty(), || format!("{name} has no categories"))?;
            require(unique.len() == categories.len(), || format!("a category of {name} stands twice"))?;
            categories
                .iter()
                .try_for_each(|category| within("the length of a category in bytes", category.len(), NAME_BYTES_MAX))
        }
    }
}

fn check_trees(trees: &TreeEnsemble, columns: usize, classes: usize) -> Result<(), Refusal> {
    within("the number of trees", trees.trees(), TREES_MAX)?;
    require(trees.trees() > 0, || "it has no trees".to_owned())?;
    let nodes = trees.nodes();
    let agree = trees.thresholds.len() == nodes && trees.children.len() == nodes;
    require(agree, || "the node arrays differ in length".to_owned())?;
    let sizes: u64 = trees.tree_sizes.iter().map(|size| u64::from(*size)).sum();
    require(sizes == nodes as u64, || format!("the trees have {sizes} nodes, the arrays {nodes}"))?;
    match trees.aggregation {
        Aggregation::Vote => {
            require(classes > 0 && trees.leaf_values.is_empty(), || {
                "a vote needs classes and no leaf values".to_owned()
            })?;
        }
        Aggregation::Mean => require(classes == 0, || "a mean of leaves cannot give a class".to_owned())?,
        Aggregation::Sum { base } => {
            require(classes == 0, || "a sum of leaves cannot give a class".to_owned())?;
            require(base.is_finite(), || "the base of the sum is not finite".to_owned())?;
        }
    }
    require(trees.leaf_values.iter().all(|value| value.is_finite()), || "a leaf is not finite".to_owned())?;
    let leaves = if trees.aggregation == Aggregation::Vote { classes } else { trees.leaf_values.len() };
    let mut start = 0;
    for (tree, size) in trees.tree_sizes.iter().enumerate() {
        require(*size > 0, || format!("tree {tree} has no nodes"))?;
        check_tree(trees, start..start + *size as usize, columns, leaves)
            .map_err(|why| Refusal::Structure(format!("tree {tree}: {why}")))?;
        within("the depth of a tree", usize::from(trees.height(start..start + *size as usize)), DEPTH_MAX)?;
        start += *size as usize;
    }
    Ok(())
}

/// Children stand behind their parent, so that every walk ends.
fn check_tree(trees: &TreeEnsemble, range: Range<usize>, columns: usize, leaves: usize) -> Result<(), String> {
    let size = range.len();
    for (position, node) in range.enumerate() {
        let (feature, child) = (trees.features[node], trees.children[node] as usize);
        if feature == LEAF {
            if child >= leaves {
                return Err(format!("leaf {position} names value or class {child} of {leaves}"));
            }
        } else if usize::from(feature) >= columns {
            return Err(format!("node {position} names column {feature} of {columns}"));
        } else if child <= position || child + 1 >= size {
            return Err(format!("node {position} has the children {child} and {} in {size} nodes", child + 1));
        } else if !trees.thresholds[node].is_finite() {
            return Err(format!("the threshold of node {position} is not finite"));
        }
    }
    Ok(())
}

fn check_linear(linear: &Linear, columns: usize, classes: usize) -> Result<(), Refusal> {
    let scores = match (linear.link, classes) {
        (Link::Identity, 0) => 1,
        (Link::Logistic, 2) => 1,
        (Link::Softmax, 2..) => classes,
        (link, classes) => return unsound(format!("the link {link:?} does not go with {classes} classes")),
    };
    let (coefficients, intercepts) = (linear.coefficients.len(), linear.intercepts.len());
    require(intercepts == scores && coefficients == scores * columns, || {
        format!("{coefficients} coefficients and {intercepts} intercepts for {scores} scores of {columns} columns")
    })?;
    let finite = linear.coefficients.iter().chain(&linear.intercepts).all(|value| value.is_finite());
    require(finite, || "a coefficient is not finite".to_owned())
}

fn check_bayes(bayes: &NaiveBayes, columns: usize, classes: usize) -> Result<(), Refusal> {
    require(classes >= 2, || "naive Bayes needs classes".to_owned())?;
    let numbers = classes * columns;
    let agree = bayes.log_priors.len() == classes && bayes.means.len() == numbers && bayes.variances.len() == numbers;
    require(agree, || format!("the arrays do not have {classes} classes of {columns} columns"))?;
    let finite = bayes.log_priors.iter().chain(&bayes.means).all(|value| value.is_finite());
    require(finite, || "a prior or a mean is not finite".to_owned())?;
    let positive = bayes.variances.iter().all(|variance| variance.is_finite() && *variance > 0.0);
    require(positive, || "a variance is not a positive number".to_owned())
}

/// Scores the golden rows and compares with what the trainer computed: the class is one of the likeliest, and each output is within
/// [`GOLDEN_TOLERANCE`].
///
/// # Errors
/// [`Refusal::Golden`] for the first row that differs; [`Refusal::Structure`] when a row does not fit the signature.
pub fn golden_rows(model: &Model, rows: &[GoldenRow]) -> Result<(), Refusal> {
    let signature = model.signature();
    let mut block = Block::new(signature.columns());
    let mut predictions = Predictions::default();
    for (number, rows) in rows.chunks(GOLDEN_BLOCK_ROWS).enumerate() {
        block.reset(signature.columns());
        golden_block(model, number * GOLDEN_BLOCK_ROWS, rows, &mut block, &mut predictions)?;
    }
    Ok(())
}

/// Scores the golden rows from `first` on, together.
fn golden_block(
    model: &Model,
    first: usize,
    rows: &[GoldenRow],
    block: &mut Block,
    predictions: &mut Predictions,
) -> Result<(), Refusal> {
    let signature = model.signature();
    for (index, row) in rows.iter().enumerate() {
        let number = first + index;
        let fits = row.inputs.len() == signature.features.len() && row.outputs.len() == signature.outputs();
        require(fits, || format!("golden row {number} does not fit the signature"))?;
        encode_golden(signature, row, block.push_row()).map_err(|fault| {
            Refusal::Structure(format!("golden row {number} is refused by the signature: {fault:?}"))
        })?;
    }
    model.predict(block, predictions);
    for (index, row) in rows.iter().enumerate() {
        let actual = predictions.outputs(index);
        let close = actual.iter().zip(&row.outputs).all(|(actual, expected)| is_close(*actual, *expected));
        // Scores that differ by less than a probability shows are a tie among the outputs: any of the largest may have won.
        let wins = |class: usize| row.outputs[class] >= row.outputs[argmax(&row.outputs)];
        let same_class = predictions.class(index).is_none_or(wins);
        if !close || !same_class {
            let (expected, actual) = (format!("{:?}", row.outputs), format!("{actual:?}"));
            return Err(Refusal::Golden { row: first + index, expected, actual });
        }
    }
    Ok(())
}

/// Turns a golden row's inputs into columns by the signature's rules.
///
/// # Errors
/// The fault of the first feature that refuses its value.
pub fn encode_golden(signature: &Signature, row: &GoldenRow, mut columns: &mut [f32]) -> Result<(), FeatureFault> {
    for (feature, input) in signature.features.iter().zip(&row.inputs) {
        let (own, rest) = columns.split_at_mut(feature.columns());
        let value = match input {
            GoldenValue::Missing => Value::Missing,
            GoldenValue::Number(number) => Value::Number(*number),
            GoldenValue::Category(word) => Value::Category(word),
        };
        feature.encode(value, own)?;
        columns = rest;
    }
    Ok(())
}

/// Written so that NaN is never close.
fn is_close(actual: f64, expected: f64) -> bool {
    (actual - expected).abs() <= GOLDEN_TOLERANCE * expected.abs().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::super::signature::Target;
    use super::super::tree_ensemble::Node;
    use super::*;

    fn signature(features: usize, classes: &[&str]) -> Signature {
        let feature = |index: usize| Feature { name: format!("x{index}"), kind: FeatureKind::Numeric { fill: None } };
        let classes = classes.iter().map(|class| class.to_string()).collect();
        Signature { features: (0..features).map(feature).collect(), target: Target { name: "y".into(), classes } }
    }

    /// Left of 0.5 on column 0 is class 0, else class 1.
    fn stump() -> TreeEnsemble {
        let mut trees = TreeEnsemble::new(Aggregation::Vote);
        trees.push_tree(&[
            Node::Split { column: 0, threshold: 0.5, left: 1, right: 2 },
            Node::Class(0),
            Node::Class(1),
        ]);
        trees
    }

    fn why_not(signature: &Signature, predictor: Predictor) -> &'static str {
        structure(signature, &predictor).expect_err("not sound").reason()
    }

    #[test]
    fn a_sound_model_passes() {
        assert_eq!(structure(&signature(1, &["a", "b"]), &Predictor::TreeEnsemble(stump())), Ok(()));
    }

    #[test]
    fn hostile_trees_are_refused() {
        let two = signature(1, &["a", "b"]);
        type Damage = (&'static str, fn(&mut TreeEnsemble));
        let hostile: [Damage; 9] = [
            ("a cycle", |trees| trees.children[0] = 0),
            ("a child beyond the tree", |trees| trees.children[0] = 2),
            ("a child far beyond the tree", |trees| trees.children[0] = u32::MAX),
            ("a column beyond the signature", |trees| trees.features[0] = 1),
            ("a class beyond the signature", |trees| trees.children[2] = 2),
            ("a threshold that is no number", |trees| trees.thresholds[0] = f32::NAN),
            ("sizes that do not add up", |trees| trees.tree_sizes[0] = 2),
            ("a tree without nodes", |trees| trees.tree_sizes.insert(0, 0)),
            ("arrays of different lengths", |trees| trees.thresholds.push(0.5)),
        ];
        for (name, damage) in hostile {
            let mut trees = stump();
            damage(&mut trees);
            assert_eq!(why_not(&two, Predictor::TreeEnsemble(trees)), "structure", "{name}");
        }
    }

    #[test]
    fn a_tree_may_not_be_a_long_chain() {
        let chain = |splits: usize| {
            let node = |index: usize| match index % 2 == 1 || index == 2 * splits {
                true => Node::Class(0),
                false => Node::Split { column: 0, threshold: 0.5, left: index + 1, right: index + 2 },
            };
            let mut trees = TreeEnsemble::new(Aggregation::Vote);
            trees.push_tree(&(0..=2 * splits).map(node).collect::<Vec<_>>());
            Predictor::TreeEnsemble(trees)
        };
        assert_eq!(structure(&signature(1, &["a", "b"]), &chain(DEPTH_MAX)), Ok(()));
        assert_eq!(why_not(&signature(1, &["a", "b"]), chain(DEPTH_MAX + 1)), "too_large");
    }

    #[test]
    fn a_predictor_must_fit_its_signature() {
        let linear = |link| Linear { link, coefficients: vec![1.0], intercepts: vec![0.0] };
        assert_eq!(structure(&signature(1, &[]), &Predictor::Linear(linear(Link::Identity))), Ok(()));
        assert_eq!(why_not(&signature(1, &["a", "b"]), Predictor::Linear(linear(Link::Identity))), "structure");
        assert_eq!(why_not(&signature(2, &["a", "b"]), Predictor::Linear(linear(Link::Logistic))), "structure");
        assert_eq!(why_not(&signature(1, &["a", "b", "c"]), Predictor::Linear(linear(Link::Logistic))), "structure");
        let bayes = NaiveBayes { log_priors: vec![0.0; 2], means: vec![0.0; 2], variances: vec![1.0, 0.0] };
        assert_eq!(why_not(&signature(1, &["a", "b"]), Predictor::NaiveBayes(bayes)), "structure");
        assert_eq!(why_not(&signature(1, &[]), Predictor::TreeEnsemble(stump())), "structure");
    }

    #[test]
    fn a_signature_must_be_possible() {
        let trees = || Predictor::TreeEnsemble(stump());
        assert_eq!(why_not(&signature(1, &["a"]), trees()), "structure");
        assert_eq!(why_not(&signature(1, &["a", "a"]), trees()), "structure");
        assert_eq!(why_not(&signature(0, &["a", "b"]), trees()), "structure");
        let many: Vec<String> = (0..=CLASSES_MAX).map(|class| class.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(why_not(&signature(1, &many), trees()), "too_large");
    }

    fn golden(input: f64, outputs: &[f64]) -> GoldenRow {
        GoldenRow { inputs: vec![GoldenValue::Number(input)], outputs: outputs.to_vec() }
    }

    #[test]
    fn a_score_too_small_to_show_in_the_probabilities_is_a_tie() {
        let linear = Linear { link: Link::Logistic, coefficients: vec![1e-20], intercepts: vec![0.0] };
        let model = Model::new(signature(1, &["a", "b"]), Predictor::Linear(linear)).expect("sound");
        assert_eq!(golden_rows(&model, &[golden(1.0, &[0.5, 0.5]), golden(-1.0, &[0.5, 0.5])]), Ok(()));
    }

    #[test]
    fn golden_rows_beyond_one_block_are_counted_on() {
        let model = Model::new(signature(1, &["a", "b"]), Predictor::TreeEnsemble(stump())).expect("sound");
        let mut rows = vec![golden(0.0, &[1.0, 0.0]); 2 * GOLDEN_BLOCK_ROWS + 1];
        assert_eq!(golden_rows(&model, &rows), Ok(()));
        rows[2 * GOLDEN_BLOCK_ROWS].outputs.reverse();
        let wrong = golden_rows(&model, &rows);
        assert!(matches!(wrong, Err(Refusal::Golden { row, .. }) if row == 2 * GOLDEN_BLOCK_ROWS), "{wrong:?}");
    }

    #[test]
    fn golden_rows_must_come_out_the_same() {
        let model = Model::new(signature(1, &["a", "b"]), Predictor::TreeEnsemble(stump())).expect("sound");
        assert_eq!(golden_rows(&model, &[golden(0.0, &[1.0, 0.0]), golden(1.0, &[0.0, 1.0])]), Ok(()));
        let wrong = golden_rows(&model, &[golden(0.0, &[1.0, 0.0]), golden(1.0, &[1.0, 0.0])]);
        assert!(matches!(wrong, Err(Refusal::Golden { row: 1, .. })), "{wrong:?}");
        assert!(golden_rows(&model, &[golden(0.0, &[f64::NAN, 0.0])]).is_err());
        assert!(golden_rows(&model, &[golden(0.0, &[1.0])]).is_err());
        assert!(golden_rows(&model, &[golden(f64::NAN, &[1.0, 0.0])]).is_err());
    }
}
