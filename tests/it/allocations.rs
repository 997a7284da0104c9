//! Once its buffers have grown, a lane takes no memory for a record: neither to score it nor to send it. What librdkafka takes
//! for each is not counted here, and stands in ARCHITECTURE.md.

use modelstream::kafka::Connection;
use modelstream::kafka::producer::{Headers, Outgoing, Producer, Sent, UNTAGGED};
use modelstream::model::signature::{Feature, FeatureKind, Target};
use modelstream::model::tree_ensemble::{Aggregation, Node};
use modelstream::model::{Digest, Model, Predictor, Signature, TreeEnsemble};
use modelstream::pipeline::{AvroFraming, InputFormat, Outcome, OutputFormat, Scorer, ServedModel};

use crate::hostile::fuzz::allocations::within;

const BATCH: usize = 256;

/// A tree of one split over one column.
fn served(input: &InputFormat, output: OutputFormat) -> ServedModel {
    let feature = Feature { name: "length".into(), kind: FeatureKind::Numeric { fill: None } };
    let target = Target { name: "kind".into(), classes: vec!["short".into(), "long".into()] };
    let mut ensemble = TreeEnsemble::new(Aggregation::Vote);
    let split = Node::Split { column: 0, threshold: 1.0, left: 1, right: 2 };
    ensemble.push_tree(&[split, Node::Class(0), Node::Class(1)]);
    let model = Model::new(Signature { features: vec![feature], target }, Predictor::TreeEnsemble(ensemble));
    ServedModel::new("flowers", 1, model.expect("sound"), Digest::of(b""), input, &output).expect("a model that fits")
}

#[test]
fn a_scorer_whose_buffers_have_grown_takes_no_memory() {
    let schema = r#"{"type": "record", "name": "Flower", "fields": [{"name": "length", "type": "double"}]}"#;
    let avro = InputFormat::avro(schema, AvroFraming::None).expect("a schema of records");
    let json = InputFormat::Json { field: None };
    let (object, array, datum) = (&br#"{"length":1.5}"#[..], &b"[1.5]"[..], &1.5_f64.to_le_bytes()[..]);
    for (input, record) in [(&json, object), (&json, array), (&avro, datum)] {
        for output in [OutputFormat::Json { probabilities: true }, OutputFormat::Avro { probabilities: true }] {
            let (served, mut scorer) = (served(input, output), Scorer::new());
            let mut predictions = || {
                let outcomes = scorer.score(&served, std::iter::repeat_n(Some(record), BATCH));
                outcomes.filter(|outcome| matches!(outcome, Outcome::Prediction { .. })).count()
            };
            assert_eq!(predictions(), BATCH, "the first batch makes room");
            assert_eq!(within(0, predictions), BATCH);
        }
    }
}

#[test]
fn a_producer_takes_no_memory_beside_librdkafkas() {
    let connection = Connection::new("127.0.0.1:1", &[]).expect("no properties");
    let producer = Producer::idempotent(&connection).expect("valid settings");
    let send = || {
        let headers = Headers::with_capacity(2).with("modelstream-model", b"flowers").with("modelstream-version", b"1");
        let outgoing = Outgoing {
            topic: "predictions",
            partition: None,
            key: Some(b"key"),
            value: Some(b"{}"),
            timestamp_ms: Some(1),
            headers,
        };
        producer.send(outgoing, UNTAGGED).expect("usable")
    };
    assert_eq!(send(), Sent::Accepted, "the first record makes the topic known");
    within(0, || (0..BATCH).for_each(|_| assert_eq!(send(), Sent::Accepted)));
}
