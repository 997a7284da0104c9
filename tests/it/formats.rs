//! Artifact and manifest: what is written is read again to the bit, and nothing else is read.

use std::collections::BTreeMap;

use modelstream::model::artifact::{Evaluation, FORMAT, GoldenRow, GoldenValue};
use modelstream::model::control::{self, Decision};
use modelstream::model::linear::Link;
use modelstream::model::manifest::{self, Chunks};
use modelstream::model::signature::{CategoryRule, Encoding, Feature, FeatureKind, Signature, Target};
use modelstream::model::tree_ensemble::{Aggregation, Node};
use modelstream::model::verify::GOLDEN_ROWS_MIN;
use modelstream::model::{
    Artifact, Block, Control, Digest, Linear, Manifest, NaiveBayes, Predictions, Predictor, Refusal, TreeEnsemble,
};
use modelstream::registry::chunks::Assembler;
use proptest::prelude::*;

fn signature(classes: &[&str]) -> Signature {
    let number = Feature { name: "größe".into(), kind: FeatureKind::Numeric { fill: Some(-0.0) } };
    let kind = FeatureKind::Categorical {
        categories: vec!["blue".into(), "red".into()],
        encoding: Encoding::Ordinal,
        missing: CategoryRule::NoCategory,
        unknown: CategoryRule::Refuse,
    };
    let colour = Feature { name: "colour".into(), kind };
    let classes = classes.iter().map(|class| class.to_string()).collect();
    Signature { features: vec![number, colour], target: Target { name: "y".into(), classes } }
}

fn artifact(signature: Signature, predictor: Predictor, outputs: Vec<f64>) -> Artifact {
    let inputs = vec![GoldenValue::Missing, GoldenValue::Category("red".into())];
    Artifact {
        format: FORMAT,
        algorithm: "random-forest".into(),
        hyper_parameters: BTreeMap::from([("seed".into(), "7".into()), ("n_estimators".into(), "1".into())]),
        signature,
        predictor,
        evaluation: Evaluation {
            train_rows: 120,
            test_rows: 30,
            metrics: BTreeMap::from([("accuracy".into(), 0.9), ("f1".into(), 0.8)]),
            confusion_matrix: vec![vec![1, 2], vec![3, 4]],
        },
        golden_rows: vec![GoldenRow { inputs, outputs }; GOLDEN_ROWS_MIN],
    }
}

fn forest() -> Artifact {
    let mut trees = TreeEnsemble::new(Aggregation::Vote);
    trees.push_tree(&[Node::Split { column: 1, threshold: 0.5, left: 1, right: 2 }, Node::Class(0), Node::Class(1)]);
    artifact(signature(&["a", "b"]), Predictor::TreeEnsemble(trees), vec![0.0, 1.0])
}

fn control() -> Control {
    let (model, decision) = ("iris".into(), Decision::Revoked { version: 6 });
    let (decided_by, why) = ("someone@host".into(), "it says rain".into());
    Control { format: control::FORMAT, model, sequence: 9, decision, decided_at_ms: 1, decided_by, why }
}

fn manifest() -> Manifest {
    let artifact = forest();
    Manifest {
        format: manifest::FORMAT,
        model: "iris".into(),
        version: 3,
        digest: Digest::of(b"x"),
        artifact_bytes: 1_000_000,
        chunks: Chunks { partition: 0, first_offset: 7, last_offset: 8, count: 2 },
        algorithm: artifact.algorithm,
        hyper_parameters: artifact.hyper_parameters,
        signature: artifact.signature,
        evaluation: artifact.evaluation,
        published_at_ms: 1_764_000_000_000,
        published_by: "ada@example".into(),
        note: String::new(),
        sequence: 4,
        stored: None,
    }
}

/// The reason word of a refusal.
fn refused(bytes: &[u8]) -> &'static str {
    Artifact::decode(bytes).expect_err("not an artifact").reason()
}

#[test]
fn an_artifact_is_read_as_it_was_written() {
    let original = forest();
    let bytes = original.encode().expect("small");
    assert_eq!(Artifact::decode(&bytes).expect("ours"), original);
    assert_eq!(bytes, forest().encode().expect("small"), "the same artifact, the same bytes");
    assert!(original.into_model().is_ok());
}

#[test]
fn a_manifest_is_read_as_it_was_written() {
    let original = manifest();
    assert_eq!(Manifest::decode(&original.encode().expect("small")).expect("ours"), original);
}

#[test]
fn a_manifest_with_numbers_that_cannot_be_is_refused() {
    let damages: [fn(&mut Manifest); 5] = [
        |manifest| manifest.version = 0,
        |manifest| manifest.chunks.count = 0,
        |manifest| manifest.chunks.count = 3,
        |manifest| manifest.chunks.last_offset = 6,
        |manifest| manifest.chunks = Chunks { partition: -1, ..manifest.chunks },
    ];
    for damage in damages {
        let mut manifest = manifest();
        damage(&mut manifest);
        let refusal = Manifest::decode(&manifest.encode().expect("small")).expect_err("cannot be");
        assert_eq!(refusal.reason(), "undecodable", "{:?}", manifest.chunks);
    }
}

#[test]
fn every_truncation_and_every_addition_is_refused() {
    let bytes = forest().encode().expect("small");
    for length in 0..bytes.len() {
        assert!(Artifact::decode(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
    assert_eq!(refused(&[bytes.as_slice(), &[0]].concat()), "undecodable");
}

/// A small sound artifact of each predictor.
fn one_of_each() -> Vec<Artifact> {
    let mut trees = TreeEnsemble::new(Aggregation::Sum { base: 0.25 });
    trees.push_tree(&[
        Node::Split { column: 0, threshold: 0.5, left: 1, right: 2 },
        Node::Value(1.5),
        Node::Value(-1.0),
    ]);
    let sum = artifact(signature(&[]), Predictor::TreeEnsemble(trees), vec![1.75]);
    let linear = Linear { link: Link::Logistic, coefficients: vec![1.0, 0.0], intercepts: vec![0.0] };
    let linear = artifact(signature(&["a", "b"]), Predictor::Linear(linear), vec![0.5, 0.5]);
    let numbers = vec![1.0; 4];
    let bayes = NaiveBayes { log_priors: vec![-0.5; 2], means: numbers.clone(), variances: numbers };
    let bayes = artifact(signature(&["a", "b"]), Predictor::NaiveBayes(bayes), vec![0.5, 0.5]);
    vec![forest(), sum, linear, bayes]
}

/// Each with one bit of `original` flipped.
fn flips(original: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..original.len() * 8).map(|bit| {
        let mut bytes = original.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    })
}

#[test]
fn every_flipped_bit_of_an_artifact_is_refused_by_the_digest() {
    for original in one_of_each() {
        let original = original.encode().expect("small");
        let promised = Manifest { digest: Digest::of(&original), artifact_bytes: original.len() as u64, ..manifest() };
        let chunks = Chunks { partition: 0, first_offset: 0, last_offset: 0, count: 1 };
        let promised = Manifest { chunks, ..promised };
        let key = promised.chunk_key(0);
        let assembled = |bytes: &[u8]| {
            let mut assembler = Assembler::new(&promised).expect("small");
            assembler.take(0, Some(key.as_bytes()), Some(bytes)).and_then(|()| assembler.finish()).map(drop)
        };
        assembled(&original).expect("the promised bytes");
        for bytes in flips(&original) {
            assert_eq!(assembled(&bytes).expect_err("other bytes").reason(), "digest");
        }
    }
}

/// Where somebody makes the digest anew, what is left of an artifact is refused, or scores.
#[test]
fn no_flipped_bit_panics() {
    for original in one_of_each() {
        assert!(original.clone().into_model().is_ok());
        let (mut refused, mut accepted) = (0, 0);
        for bytes in flips(&original.encode().expect("small")) {
            match Artifact::decode(&bytes).and_then(Artifact::into_model) {
                Err(_) => refused += 1,
                Ok(model) => {
                    let mut block = Block::new(model.signature().columns());
                    block.push_row().fill(0.75);
                    let mut predictions = Predictions::default();
                    model.predict(&block, &mut predictions);
                    assert_eq!(predictions.len(), 1);
                    accepted += 1;
                }
            }
        }
        // Bits of words, metrics and hyper-parameters leave a sound model; those of the frame and the structure do not.
        assert!(refused > 400 && accepted > 0, "{refused} refused, {accepted} accepted");
    }
    for bytes in flips(&manifest().encode().expect("small")) {
        let _ = Manifest::decode(&bytes);
    }
}

#[test]
fn formats_of_others_are_refused_by_name() {
    let foreign: [(&[u8], &str); 6] = [
        (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00", "pickle"),
        (b"PK\x03\x04\x14\x00\x00\x00\x08\x00\x00", "zip"),
        (b"\x89HDF\r\n\x1a\n\x00\x00\x00\x00", "HDF5"),
        (b"\x08\x08\x12\x07skl2onnx\x1a\x01", "ONNX"),
        (b"{\"learner\":{\"a\":1}}", "JSON"),
        (b"\x78\x9c\x00\x00\x00\x00\x00\x00\x00\x00\x00", "joblib"),
    ];
    for (bytes, name) in foreign {
        let refusal = Artifact::decode(bytes).expect_err("foreign");
        assert_eq!(refusal.reason(), "foreign_format", "{name}");
        assert!(refusal.to_string().contains(name) && refusal.to_string().contains("modelstream train"), "{refusal}");
    }
}

#[test]
fn a_decision_is_read_as_it_was_written_and_no_flipped_bit_panics() {
    let bytes = control().encode().expect("small");
    assert_eq!(Control::decode(&bytes).expect("ours"), control());
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1 << bit;
            assert_ne!(Control::decode(&flipped).ok(), Some(control()), "byte {index}, bit {bit}");
        }
    }
    let newer = Control { format: control::FORMAT + 1, ..control() };
    assert_eq!(Control::decode(&newer.encode().expect("small")).expect_err("newer").reason(), "newer_format");
}

#[test]
fn a_claimed_length_takes_no_memory() {
    // The format number, then an algorithm of 2^62 bytes.
    let header = forest().encode().expect("small")[..10].to_vec();
    for claim in [&[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F][..], &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]] {
        let bytes = [header.as_slice(), &[2], claim, b"abc"].concat();
        assert_eq!(refused(&bytes), "undecodable");
    }
}

#[test]
fn lists_of_too_many_items_are_refused_by_their_count() {
    // The format number, no algorithm, then hyper-parameters: 2^23 + 1 of them, and blocks that add up to as many.
    let header = forest().encode().expect("small")[..10].to_vec();
    let one_more = [0x82, 0x80, 0x80, 0x08];
    assert_eq!(refused(&[header.as_slice(), &[2, 0], &one_more].concat()), "too_large");
    let negative = [0x81, 0x80, 0x80, 0x08, 0];
    assert_eq!(refused(&[header.as_slice(), &[2, 0], &negative].concat()), "too_large");
    assert_eq!(refused(&[header.as_slice(), &[2, 0, 2, 0, 0], &one_more].concat()), "too_large");
}

#[test]
fn a_model_that_answers_otherwise_is_refused() {
    let mut swapped = forest();
    swapped.signature.target.classes.reverse();
    swapped.golden_rows.iter_mut().for_each(|row| row.outputs.reverse());
    assert_eq!(swapped.into_model().expect_err("classes in another order").reason(), "golden");
    let mut permuted = forest();
    permuted.signature.features.reverse();
    assert_eq!(permuted.into_model().expect_err("features in another order").reason(), "structure");
    let mut off = forest();
    off.golden_rows[0].outputs[1] = 1.0 - 2e-6;
    assert!(matches!(off.into_model(), Err(Refusal::Golden { row: 0, .. })));
    let mut unproven = forest();
    unproven.golden_rows.truncate(GOLDEN_ROWS_MIN - 1);
    assert_eq!(unproven.into_model().expect_err("too few rows to prove it").reason(), "golden");
}

/// What stands before a datum of `schema`.
fn frame(schema: &str) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(schema).expect("a schema");
    let fingerprint = schema.fingerprint::<apache_avro::rabin::Rabin>();
    [[0xC3, 0x01].as_slice(), &fingerprint.bytes].concat()
}

#[test]
fn a_manifest_of_the_first_format_is_read_and_one_of_a_newer_one_says_what_it_needs() {
    let mut first = manifest();
    (first.format, first.sequence, first.stored) = (1, 0, None);
    // The second format has two fields more, here a byte each: no place in the order, nothing said of how it is stored.
    let written = first.encode().expect("small");
    let (datum, more) = written[10..].split_at(written.len() - 12);
    assert_eq!(more, [0, 0]);
    let bytes = [frame(manifest::FORMER_SCHEMAS[0]).as_slice(), datum].concat();
    assert_eq!(Manifest::decode(&bytes).expect("the first format"), first);
    let newer = Manifest { format: manifest::FORMAT + 1, ..manifest() };
    let refusal = Manifest::decode(&newer.encode().expect("small")).expect_err("newer");
    assert_eq!(refusal.reason(), "newer_format");
    assert!(refusal.needing("0.9.0").to_string().contains("needs modelstream 0.9.0 or newer"));
}

#[test]
fn a_digest_is_64_lower_case_hexadecimal_digits() {
    let digest = Digest::of(b"abc");
    let text = digest.to_string();
    assert_eq!(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(Digest::parse(&text), Some(digest));
    assert_eq!(Digest::parse(&text.to_uppercase()), None);
    assert_eq!(Digest::parse(&text[1..]), None);
}

#[test]
fn signature_and_evaluation_are_the_same_in_both_schemas() {
    let field = |schema: &str, name: &str| {
        let schema: serde_json::Value = serde_json::from_str(schema).expect("JSON");
        let fields = schema["fields"].as_array().expect("a record").clone();
        fields.into_iter().find(|field| field["name"] == name).expect("the field")["type"].clone()
    };
    for name in ["signature", "evaluation", "hyper_parameters"] {
        let artifact = field(modelstream::model::artifact::SCHEMA, name);
        assert_eq!(artifact, field(modelstream::model::manifest::SCHEMA, name), "{name}");
    }
}

proptest! {
    #[test]
    fn numbers_survive_to_the_bit(
        coefficients in proptest::collection::vec(any::<f64>(), 0..40),
        intercepts in proptest::collection::vec(any::<f64>(), 0..4),
    ) {
        let linear = Linear { link: Link::Softmax, coefficients, intercepts };
        let original = artifact(signature(&[]), Predictor::Linear(linear), vec![0.0]);
        let bytes = original.encode().expect("small");
        // NaN differs from itself; its bytes do not.
        prop_assert_eq!(Artifact::decode(&bytes).expect("ours").encode().expect("small"), bytes);
    }

    #[test]
    fn bayes_survives(numbers in proptest::collection::vec(-1e300f64..1e300, 0..30)) {
        let bayes = NaiveBayes { log_priors: numbers.clone(), means: numbers.clone(), variances: numbers };
        let original = artifact(signature(&["a", "b"]), Predictor::NaiveBayes(bayes), vec![0.5, 0.5]);
        prop_assert_eq!(Artifact::decode(&original.encode().expect("small")).expect("ours"), original);
    }

    #[test]
    fn random_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Artifact::decode(&bytes).is_err());
        let framed = [&forest().encode().expect("small")[..10], &bytes].concat();
        let _ = Artifact::decode(&framed).and_then(Artifact::into_model);
    }
}

#[test]
fn the_fingerprints_in_the_documentation_are_those_of_the_schemas() {
    let readme = std::fs::read_to_string(crate::harness::root().join("schemas/README.md")).expect("the documentation");
    for (name, bytes) in
        [("artifact", forest().encode()), ("manifest", manifest().encode()), ("control", control().encode())]
    {
        let bytes = bytes.expect("small");
        let fingerprint: String = bytes[2..10].iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(readme.contains(&format!("| {name} | `{fingerprint}` |")), "{name} has {fingerprint}");
    }
}
