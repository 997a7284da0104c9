//! The ground floor: what can be scored, and how a block of rows is scored.
//!
//! Pure: no I/O, no clock, no logging; depends on nothing of ours.

pub mod artifact;
mod avro;
mod columns;
pub mod control;
pub mod linear;
pub mod manifest;
pub mod naive_bayes;
mod pieces;
pub mod signature;
pub mod tree_ensemble;
pub mod verify;

pub use artifact::{Artifact, Digest};
pub(crate) use avro::hex;
pub use control::Control;
pub use linear::Linear;
pub use manifest::Manifest;
pub use naive_bayes::NaiveBayes;
pub use pieces::Pieces;
pub use signature::Signature;
pub use tree_ensemble::TreeEnsemble;
pub use verify::Refusal;

/// Everything that this binary can score. A closed list: an artifact names one of these or is refused.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Predictor {
    /// Decision trees that vote, or whose leaves are averaged or summed.
    TreeEnsemble(TreeEnsemble),
    /// A weighted sum of the columns, as it is or through a logistic or softmax link.
    Linear(Linear),
    /// Gaussian naive Bayes.
    NaiveBayes(NaiveBayes),
}

impl Predictor {
    /// The name that logs, model cards and manifests use.
    pub fn kind(&self) -> &'static str {
        match self {
            Predictor::TreeEnsemble(_) => "tree-ensemble",
            Predictor::Linear(_) => "linear",
            Predictor::NaiveBayes(_) => "naive-bayes",
        }
    }
}

/// A model whose structure was verified, ready to score.
///
/// The only way to have one is [`Model::new`], so whoever holds a `Model` may rely on what [`verify::structure`] checks.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    signature: Signature,
    kernel: Kernel,
}

/// A predictor, compiled into what scores blocks of rows quickest.
#[derive(Debug, Clone, PartialEq)]
enum Kernel {
    TreeEnsemble(tree_ensemble::kernel::Kernel),
    Linear(Linear),
    NaiveBayes(naive_bayes::Kernel),
}

impl Model {
    /// Puts a signature and a predictor together, and compiles the predictor, which takes about as long as decoding it.
    ///
    /// # Errors
    /// The [`Refusal`] of [`verify::structure`] when the two do not agree or the structure is not sound.
    pub fn new(signature: Signature, predictor: Predictor) -> Result<Model, Refusal> {
        verify::structure(&signature, &predictor)?;
        let kernel = match predictor {
            Predictor::TreeEnsemble(trees) => {
                Kernel::TreeEnsemble(tree_ensemble::kernel::Kernel::new(trees, signature.outputs()))
            }
            Predictor::Linear(linear) => Kernel::Linear(linear),
            Predictor::NaiveBayes(bayes) => Kernel::NaiveBayes(naive_bayes::Kernel::new(bayes)),
        };
        Ok(Model { signature, kernel })
    }

    /// What the model expects and what it returns.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Scores each row of `block`; `predictions` holds exactly one prediction a row afterwards, in the rows' order.
    ///
    /// # Panics
    /// When the block's width is not [`Signature::columns`]: the caller built the block for another model.
    pub fn predict(&self, block: &Block, predictions: &mut Predictions) {
        assert_eq!(block.columns(), self.signature.columns(), "the block was built for another model");
        predictions.reset(self.signature.outputs());
        let mut scratch = std::mem::take(&mut predictions.scratch);
        match &self.kernel {
            Kernel::TreeEnsemble(trees) => trees.predict(block, &mut scratch, predictions),
            Kernel::Linear(linear) => linear.predict(block, &mut scratch, predictions),
            Kernel::NaiveBayes(bayes) => bayes.predict(block, &mut scratch, predictions),
        }
        predictions.scratch = scratch;
        debug_assert_eq!(predictions.len(), block.rows());
    }
}

/// Rows of encoded features, row after row: what a predictor reads.
///
/// Values are `f32` by contract: the trainer rounds features to `f32` before fitting, the server before scoring,
/// so both see the same number. Every value is finite.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    columns: usize,
    values: Vec<f32>,
}

impl Block {
    /// An empty block of rows with `columns` values each.
    pub fn new(columns: usize) -> Block {
        Block { columns, values: Vec::new() }
    }

    /// Empties the block and sets its width; the memory stays for the next batch.
    pub fn reset(&mut self, columns: usize) {
        self.columns = columns;
        self.values.clear();
    }

    /// Appends a row of zeros and returns it to be filled.
    pub fn push_row(&mut self) -> &mut [f32] {
        let start = self.values.len();
        self.values.resize(start + self.columns, 0.0);
        &mut self.values[start..]
    }

    /// Takes the last row back, when what should have filled it turned out bad.
    pub fn pop_row(&mut self) {
        self.values.truncate(self.values.len().saturating_sub(self.columns));
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }

    /// The number of values of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Row `index`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.columns.max(1))
    }
}

/// What a model said about the rows of a block.
///
/// Classification: a probability for each class and the index of the predicted class. Regression: one value.
#[derive(Debug, Clone, Default)]
pub struct Predictions {
    outputs: usize,
    values: Vec<f64>,
    classes: Vec<u32>,
    scratch: Scratch,
}

/// What the kernels write while they score; the memory stays for the next block.
#[derive(Debug, Clone, Default)]
struct Scratch {
    /// Of a forest: the rows that pass the trees, transposed.
    tile: Vec<u32>,
    /// Of a forest that votes: for each class the votes of each row.
    votes: Vec<[u32; tree_ensemble::kernel::WALKS]>,
    /// Of a forest that does not: the sum of each row.
    sums: Vec<[f64; tree_ensemble::kernel::WALKS]>,
    /// Of the others: for each score the sum of each row.
    totals: Vec<[f64; columns::ROWS]>,
    /// Of the others: the scores of a row.
    scores: Vec<f64>,
}

impl Predictions {
    fn reset(&mut self, outputs: usize) {
        self.outputs = outputs;
        self.values.clear();
        self.classes.clear();
    }

    /// Appends a row's value (regression).
    fn push_value(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Appends a row's probabilities and its class (classification).
    fn push_class(&mut self, class: usize, probabilities: &[f64]) {
        self.values.extend_from_slice(probabilities);
        self.classes.push(class as u32);
    }

    /// The number of rows that were scored.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.outputs).unwrap_or(0)
    }

    /// Whether no row was scored.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The predicted class of `row` as an index into the signature's classes; `None` for a regression.
    pub fn class(&self, row: usize) -> Option<usize> {
        self.classes.get(row).map(|class| *class as usize)
    }

    /// The probabilities of `row` in the signature's class order, or the one value of a regression.
    pub fn outputs(&self, row: usize) -> &[f64] {
        &self.values[row * self.outputs..(row + 1) * self.outputs]
    }
}

/// The index of the largest score; the first of equals, as smartcore and scikit-learn decide ties.
fn argmax(scores: &[f64]) -> usize {
    let mut best = 0;
    for (index, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = index;
        }
    }
    best
}

/// Turns log-scores into probabilities in place: `exp(s - max) / sum`, which does not overflow.
fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - max).exp();
        sum += *score;
    }
    for score in scores.iter_mut() {
        *score /= sum;
    }
}
