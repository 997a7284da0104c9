//! Avro records of a pinned schema, bare and in Confluent's frame, held against apache-avro's reading of the same bytes.

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use modelstream::pipeline::{AvroFraming, InputFormat, ServedModel};

use super::records::{self, Field, Scored};

/// Everything but arrays, maps and recursion, with which apache-avro's reader takes memory by what is claimed.
const PLAIN: &str = r#"{"type": "record", "name": "Plain", "fields": [
    {"name": "id", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "x", "type": ["null", "double", "int", "bytes"]},
    {"name": "inner", "type": {"type": "record", "name": "Inner", "fields": [
        {"name": "a", "type": "int"}, {"name": "b", "type": ["null", "string"]},
        {"name": "c", "type": {"type": "fixed", "name": "Two", "size": 2}}]}},
    {"name": "grade", "type": ["boolean", "float", "string", "long"]},
    {"name": "flag", "type": "boolean"},
    {"name": "y", "type": ["float", "null"]},
    {"name": "colour", "type": [{"type": "enum", "name": "Colour", "symbols": ["blue", "green", "red"]}, "null"]},
    {"name": "blob", "type": "bytes"}]}"#;

/// Recursion, arrays and maps, and what takes no bytes in a datum.
const NESTED: &str = r#"{"type": "record", "name": "Nested", "fields": [
    {"name": "next", "type": ["null", "Nested"]},
    {"name": "nulls", "type": {"type": "array", "items": "null"}},
    {"name": "empty", "type": {"type": "array", "items": {"type": "record", "name": "Empty", "fields": []}}},
    {"name": "maps", "type": {"type": "map", "values": {"type": "array", "items": ["null", "Nested"]}}},
    {"name": "x", "type": "int"},
    {"name": "grade", "type": "string"}]}"#;

/// Two fields of no bytes, then x = 1, and the grade "1".
const NESTED_GOOD: &[u8] = &[0, 0, 0, 0, 2, 2, b'1'];

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse_str(PLAIN).expect("a schema"));

struct Models {
    reader: GenericDatumReader<'static>,
    plain: ServedModel,
    framed: ServedModel,
    nested: ServedModel,
    good: Vec<u8>,
}

static MODELS: LazyLock<Models> = LazyLock::new(|| {
    let input = |schema, framing| InputFormat::avro(schema, framing).expect("a schema of records");
    Models {
        reader: GenericDatumReader::builder(&SCHEMA).build().expect("a schema that resolves"),
        plain: records::regression(&input(PLAIN, AvroFraming::None)),
        framed: records::classification(&input(PLAIN, AvroFraming::Confluent)),
        nested: records::regression(&input(NESTED, AvroFraming::None)),
        // id, x = an int of 1, inner, grade = "1", flag, no y, no colour, no bytes.
        good: vec![0, 4, 2, 0, 0, 0, 0, 4, 2, b'1', 0, 2, 2, 0],
    }
});

pub fn check(record: &[u8]) {
    let models = &*MODELS;
    let plain = records::score(&models.plain, record, &models.good);
    check_by_reader(record, &plain);
    records::score(&models.nested, record, NESTED_GOOD);
    let frame = |bytes: &[u8]| [&[0, 0, 0, 0, 7], bytes].concat();
    let framed = records::score(&models.framed, &frame(record), &frame(&models.good));
    if let Scored::Prediction(_) = plain {
        assert!(matches!(framed, Scored::Prediction(_)), "{framed:?}");
    }
    records::score(&models.framed, record, &frame(&models.good));
}

fn check_by_reader(record: &[u8], outcome: &Scored) {
    let mut rest = record;
    let value = MODELS.reader.read_value(&mut rest).ok().filter(|_| rest.is_empty());
    // apache-avro drops the bits beyond 64 of an integer's last byte.
    if matches!(outcome, Scored::DeadLetter(_, message) if message == "an integer is longer than 64 bits") {
        return;
    }
    records::compare(outcome, value.as_ref().and_then(fields).and_then(records::expected), record);
}

fn fields(record: &Value) -> Option<[Field; 4]> {
    let Value::Record(fields) = record else { return None };
    let named = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| field(value));
    Some([named("x")?, named("y")?, named("grade")?, named("colour")?])
}

fn field(value: &Value) -> Field {
    match value {
        Value::Union(_, value) => field(value),
        Value::Null => Field::Missing,
        Value::Boolean(truth) => Field::Truth(*truth),
        Value::Int(number) => Field::Integer((*number).into()),
        Value::Long(number) => Field::Integer((*number).into()),
        Value::Float(number) => Field::Float((*number).into()),
        Value::Double(number) => Field::Float(*number),
        Value::String(text) | Value::Enum(_, text) => Field::Word(text.clone()),
        _ => Field::Composite,
    }
}
