//! Avro records of a schema that is known beforehand, read straight into a row.
//!
//! apache-avro reads the schema; the datum is walked here, by a compiled form of that schema. So a datum takes no memory
//! whatever lengths it claims, and no datum of a recursive schema can exhaust the stack, which nothing could catch.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, RecordSchema, UuidSchema};

use crate::model::Refusal;
use crate::model::signature::{Feature, FeatureKind};
use crate::pipeline::features::{Cell, FeaturePlan, Row, may_be_missing};
use crate::pipeline::record::{DeadLetter, Reason};

/// How deep values may nest: far beyond what people write, far below what a thread's stack holds.
const DEPTH_MAX: usize = 64;
/// The length of Confluent's frame: a zero byte and the schema's id as four bytes.
const CONFLUENT_FRAME_BYTES: usize = 5;

/// What stands in front of an Avro datum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AvroFraming {
    /// Nothing.
    None,
    /// Confluent's five bytes: 0 and the id of the schema in a registry. The id is skipped, not looked up.
    Confluent,
}

/// A text that is no schema of records.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Not an Avro schema at all.
    #[error("not an Avro schema: {0}")]
    Unreadable(Box<apache_avro::Error>),
    /// A schema of something else.
    #[error("the schema's top level is not a record: features are a record's fields")]
    NoRecord,
}

pub(super) fn parse(text: &str) -> Result<Schema, SchemaError> {
    match Schema::parse_str(text).map_err(|error| SchemaError::Unreadable(Box::new(error)))? {
        schema @ Schema::Record(_) => Ok(schema),
        _ => Err(SchemaError::NoRecord),
    }
}

/// A position in [`AvroPlan::types`].
type TypeId = usize;

/// A schema as the walk needs it.
#[derive(Debug, Clone)]
enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Vec<String>),
    Array(TypeId),
    Map(TypeId),
    Union(Vec<TypeId>),
    Record(Vec<TypeId>),
}

/// A record schema compiled for the features of one version.
#[derive(Debug)]
pub(in crate::pipeline) struct AvroPlan {
    framing: AvroFraming,
    types: Vec<Type>,
    /// The fields of a record in the datum's order, with the feature that each carries, if any.
    fields: Vec<(TypeId, Option<usize>)>,
}

impl AvroPlan {
    /// # Errors
    /// [`Refusal::Signature`] when the schema lacks a feature that has no rule for missing values, or its type never fits.
    pub(super) fn new(schema: &Schema, framing: AvroFraming, features: &FeaturePlan) -> Result<AvroPlan, Refusal> {
        let (record, types, fields) = compile(schema).map_err(Refusal::Signature)?;
        let mut fields: Vec<(TypeId, Option<usize>)> = fields.into_iter().map(|field| (field, None)).collect();
        for (index, feature) in features.features().iter().enumerate() {
            match record.lookup.get(&feature.name) {
                Some(field) if fits(&types, fields[*field].0, &feature.kind) => fields[*field].1 = Some(index),
                Some(_) => return Err(Refusal::Signature(misfit(feature))),
                None if may_be_missing(feature) => {}
                None => {
                    return Err(Refusal::Signature(format!(
                        "the model needs a field: {}",
                        no_field(&feature.name, record)
                    )));
                }
            }
        }
        Ok(AvroPlan { framing, types, fields })
    }

    /// Reads one datum, which takes the whole of `payload`.
    pub(super) fn decode(&self, payload: &[u8], row: &mut Row<'_>) -> Result<(), DeadLetter> {
        let mut walk = Walk { types: &self.types, rest: unframed(self.framing, payload)? };
        for (kind, feature) in &self.fields {
            match feature {
                Some(feature) => row.put(*feature, walk.cell(*kind)?)?,
                None => walk.skip(*kind, 0)?,
            }
        }
        if walk.rest.is_empty() {
            return Ok(());
        }
        Err(undecodable(format!("{} bytes are left after the record", walk.rest.len())))
    }
}

/// A record schema compiled to read the word of one field.
#[derive(Debug, Clone)]
pub(super) struct AvroField {
    framing: AvroFraming,
    types: Vec<Type>,
    /// The fields that stand before it.
    before: Vec<TypeId>,
    field: TypeId,
}

impl AvroField {
    /// # Errors
    /// When the schema has no such field, or never a word there.
    pub(super) fn new(schema: &Schema, framing: AvroFraming, name: &str) -> Result<AvroField, String> {
        let (record, types, mut fields) = compile(schema)?;
        let index = *record.lookup.get(name).ok_or_else(|| no_field(name, record))?;
        let field = fields[index];
        if !may_be_word(&types, field) {
            return Err(format!("the field {name:?} of the input's Avro schema never is a word (string or enum)"));
        }
        fields.truncate(index);
        Ok(AvroField { framing, types, before: fields, field })
    }

    /// The word; `None` where the field holds none. What stands behind it is not read.
    pub(super) fn read<'p>(&'p self, payload: &'p [u8]) -> Result<Option<&'p str>, DeadLetter> {
        let mut walk = Walk { types: &self.types, rest: unframed(self.framing, payload)? };
        self.before.iter().try_for_each(|field| walk.skip(*field, 0))?;
        match walk.cell(self.field)? {
            Cell::Text(word) => Ok(Some(word)),
            _ => Ok(None),
        }
    }
}

fn may_be_word(types: &[Type], kind: TypeId) -> bool {
    match &types[kind] {
        Type::String | Type::Enum(_) => true,
        Type::Union(branches) => branches.iter().any(|branch| may_be_word(types, *branch)),
        _ => false,
    }
}

fn unframed(framing: AvroFraming, payload: &[u8]) -> Result<&[u8], DeadLetter> {
    match framing {
        AvroFraming::None => Ok(payload),
        AvroFraming::Confluent if payload[0] == 0 && payload.len() >= CONFLUENT_FRAME_BYTES => {
            Ok(&payload[CONFLUENT_FRAME_BYTES..])
        }
        AvroFraming::Confluent => {
            let message = "the record does not begin with Confluent's frame: 0 and four bytes of a schema id";
            Err(DeadLetter::new(Reason::UnknownSchema, message))
        }
    }
}

/// A record schema, its types, and the types of its fields in the datum's order.
fn compile(schema: &Schema) -> Result<(&RecordSchema, Vec<Type>, Vec<TypeId>), String> {
    let Schema::Record(record) = schema else {
        return Err("the input's Avro schema is not a record".to_owned());
    };
    let mut compiler = Compiler { types: Vec::new(), named: HashMap::new() };
    let top = compiler.compile(schema)?;
    let fields = match &compiler.types[top] {
        Type::Record(fields) => fields.clone(),
        _ => Vec::new(),
    };
    Ok((record, compiler.types, fields))
}

fn no_field(name: &str, record: &RecordSchema) -> String {
    let names: Vec<&str> = record.fields.iter().map(|field| field.name.as_str()).collect();
    format!("the input's Avro schema has no field {name:?}; it has: {}", names.join(", "))
}

fn misfit(feature: &Feature) -> String {
    let wanted = match feature.kind {
        FeatureKind::Numeric { .. } => "a number (int, long, float, double)",
        FeatureKind::Categorical { .. } => "a word (string, enum, boolean or a number)",
    };
    format!("the field {:?} of the input's Avro schema never is {wanted}, which the model needs", feature.name)
}

/// Whether a field's type, or one branch of its union, can be what the feature needs.
fn fits(types: &[Type], kind: TypeId, feature: &FeatureKind) -> bool {
    match &types[kind] {
        Type::Int | Type::Long | Type::Float | Type::Double => true,
        Type::String | Type::Enum(_) | Type::Boolean => matches!(feature, FeatureKind::Categorical { .. }),
        Type::Union(branches) => branches.iter().any(|branch| fits(types, *branch, feature)),
        Type::Null | Type::Bytes | Type::Fixed(_) | Type::Array(_) | Type::Map(_) | Type::Record(_) => false,
    }
}

/// Turns a schema into a flat list of types, in which a name is a position: so recursive schemas need no special care.
struct Compiler {
    types: Vec<Type>,
    named: HashMap<String, TypeId>,
}

impl Compiler {
    fn compile(&mut self, schema: &Schema) -> Result<TypeId, String> {
        if let Schema::Ref { name } = schema {
            let full = name.fullname(None);
            return self
                .named
                .get(&full)
                .copied()
                .ok_or(format!("the input's Avro schema names an unknown type {full}"));
        }
        let id = self.types.len();
        self.types.push(Type::Null);
        if let Some(name) = schema.name() {
            self.named.insert(name.fullname(None), id);
        }
        self.types[id] = self.compiled(schema)?;
        Ok(id)
    }

    fn compiled(&mut self, schema: &Schema) -> Result<Type, String> {
        Ok(match schema {
            Schema::Null => Type::Null,
            Schema::Boolean => Type::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Type::Int,
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Type::Long,
            Schema::Float => Type::Float,
            Schema::Double => Type::Double,
            Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => Type::Bytes,
            Schema::String | Schema::Uuid(UuidSchema::String) => Type::String,
            Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                Type::Fixed(fixed.size)
            }
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Type::Bytes,
                InnerDecimalSchema::Fixed(fixed) => Type::Fixed(fixed.size),
            },
            Schema::Enum(symbols) => Type::Enum(symbols.symbols.clone()),
            Schema::Array(array) => Type::Array(self.compile(&array.items)?),
            Schema::Map(map) => Type::Map(self.compile(&map.types)?),
            Schema::Union(union) => {
                let branches = union.variants().iter().map(|branch| self.compile(branch));
                Type::Union(branches.collect::<Result<_, _>>()?)
            }
            Schema::Record(record) => {
                let fields = record.fields.iter().map(|field| self.compile(&field.schema));
                Type::Record(fields.collect::<Result<_, _>>()?)
            }
            Schema::Ref { name } => return Err(format!("the input's Avro schema has a misplaced reference to {name}")),
        })
    }
}

fn undecodable(message: impl Into<String>) -> DeadLetter {
    DeadLetter::new(Reason::Undecodable, message)
}

/// The bytes of a datum that are still to be read.
struct Walk<'t, 'p> {
    types: &'t [Type],
    rest: &'p [u8],
}

impl<'t: 'c, 'p: 'c, 'c> Walk<'t, 'p> {
    /// Reads the value of a feature's field.
    fn cell(&mut self, kind: TypeId) -> Result<Cell<'c>, DeadLetter> {
        let types = self.types;
        Ok(match &types[kind] {
            Type::Null => Cell::Null,
            Type::Boolean => Cell::Boolean(self.boolean()?),
            Type::Int => Cell::Integer(self.int()?.into()),
            Type::Long => Cell::Integer(self.long()?.into()),
            Type::Float => Cell::Float(f32::from_le_bytes(self.array()?).into()),
            Type::Double => Cell::Float(f64::from_le_bytes(self.array()?)),
            Type::String => Cell::Text(self.text()?),
            Type::Enum(symbols) => Cell::Text(&symbols[self.index(symbols.len())?]),
            Type::Union(branches) => {
                let branch = branches[self.index(branches.len())?];
                return self.cell(branch);
            }
            Type::Bytes | Type::Fixed(_) | Type::Array(_) | Type::Map(_) | Type::Record(_) => {
                self.skip(kind, 0)?;
                Cell::Composite
            }
        })
    }

    /// Reads over a value that nobody asked for; it must be whole all the same.
    fn skip(&mut self, kind: TypeId, depth: usize) -> Result<(), DeadLetter> {
        if depth > DEPTH_MAX {
            return Err(undecodable(format!("values nest deeper than {DEPTH_MAX} levels")));
        }
        let types = self.types;
        match &types[kind] {
            Type::Null => {}
            Type::Boolean => drop(self.boolean()?),
            Type::Int => drop(self.int()?),
            Type::Long => drop(self.long()?),
            Type::Float => drop(self.take(4)?),
            Type::Double => drop(self.take(8)?),
            Type::Bytes => drop(self.bytes()?),
            Type::String => drop(self.text()?),
            Type::Fixed(size) => drop(self.take(*size)?),
            Type::Enum(symbols) => drop(self.index(symbols.len())?),
            Type::Union(branches) => {
                let branch = branches[self.index(branches.len())?];
                self.skip(branch, depth + 1)?;
            }
            Type::Record(fields) => fields.iter().try_for_each(|field| self.skip(*field, depth + 1))?,
            Type::Array(items) => self.skip_blocks(|walk| walk.skip(*items, depth + 1))?,
            Type::Map(values) => self.skip_blocks(|walk| {
                walk.text()?;
                walk.skip(*values, depth + 1)
            })?,
        }
        Ok(())
    }

    /// Reads over the blocks of an array or a map. A block is a count and its items, or a negative count, a size in bytes
    /// and its items; a count of 0 ends.
    fn skip_blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), DeadLetter>) -> Result<(), DeadLetter> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                let size = self.long()?;
                let size = usize::try_from(size).map_err(|_| undecodable(format!("a block of {size} bytes")))?;
                self.take(size)?;
                continue;
            }
            for _ in 0..count {
                let before = self.rest.len();
                item(self)?;
                // An item of no bytes (null) is one by its type: the others of the block are too, and a datum of a few
                // bytes may claim 2^62 of them.
                if self.rest.len() == before {
                    break;
                }
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'p [u8], DeadLetter> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| undecodable(format!("the record ends where {count} more bytes are expected")))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DeadLetter> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn boolean(&mut self) -> Result<bool, DeadLetter> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(undecodable(format!("the byte {other} is no boolean"))),
        }
    }

    /// A zigzag variable-length integer: seven bits a byte, the least first; at most ten bytes.
    fn long(&mut self) -> Result<i64, DeadLetter> {
        let mut zigzag = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            zigzag |= bits << shift;
            if byte < 0x80 {
                return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        Err(undecodable("an integer is longer than 64 bits"))
    }

    fn int(&mut self) -> Result<i32, DeadLetter> {
        let number = self.long()?;
        i32::try_from(number).map_err(|_| undecodable(format!("the int {number} is longer than 32 bits")))
    }

    fn index(&mut self, length: usize) -> Result<usize, DeadLetter> {
        let index = self.long()?;
        let found = usize::try_from(index).ok().filter(|index| *index < length);
        found.ok_or_else(|| undecodable(format!("{index} is no branch or symbol: the schema has {length}")))
    }

    fn bytes(&mut self) -> Result<&'p [u8], DeadLetter> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| undecodable(format!("a length of {length}")))?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'p str, DeadLetter> {
        std::str::from_utf8(self.bytes()?).map_err(|_| undecodable("a string is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::types::{Record, Value};
    use apache_avro::writer::datum::GenericDatumWriter;
    use proptest::prelude::*;

    use super::*;
    use crate::model::Signature;
    use crate::pipeline::ServedModel;
    use crate::pipeline::decode::InputFormat;
    use crate::pipeline::testing::{JSON_OUT, category, decimal, number, served, signature, value};

    const MIXED: &str = r#"{"type": "record", "name": "In", "namespace": "a.b", "fields": [
        {"name": "first", "type": {"type": "enum", "name": "Letter", "symbols": ["A", "B"]}},
        {"name": "tags", "type": {"type": "array", "items": {"type": "map", "values": ["null", "Letter"]}}},
        {"name": "x", "type": ["null", "double", "int"]},
        {"name": "nested", "type": ["null", {"type": "record", "name": "N", "fields": [
            {"name": "next", "type": ["null", "N"]}, {"name": "id", "type": {"type": "fixed", "name": "F", "size": 2}}]}]},
        {"name": "y", "type": "float"},
        {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "letter", "type": ["Letter", "null"]},
        {"name": "flag", "type": "boolean"}]}"#;

    fn format(text: &str) -> InputFormat {
        InputFormat::avro(text, AvroFraming::None).expect("a schema of records")
    }

    fn mixed(framing: AvroFraming) -> ServedModel {
        let features = vec![number("x", Some(5.0)), number("y", None), category("letter", &["B", "A"])];
        served(decimal(features), &InputFormat::avro(MIXED, framing).expect("a schema"), JSON_OUT)
    }

    fn written(schema: &Schema, value: impl Into<Value>) -> Vec<u8> {
        let writer = GenericDatumWriter::builder(schema).build().expect("a schema that resolves");
        writer.write_value_to_vec(value).expect("a value of the schema")
    }

    fn datum(x: Value, y: f32, letter: Value) -> Vec<u8> {
        let schema = parse(MIXED).expect("a schema");
        let mut record = Record::new(&schema).expect("a record schema");
        let tags = [("k".to_string(), Value::Union(1, Box::new(Value::Enum(1, "B".into()))))];
        let inner = |next| Value::Record(vec![("next".into(), next), ("id".into(), Value::Fixed(2, vec![7, 7]))]);
        let nested = inner(Value::Union(1, Box::new(inner(Value::Union(0, Box::new(Value::Null))))));
        record.put("first", Value::Enum(0, "A".into()));
        record.put("tags", Value::Array(vec![Value::Map(tags.into()), Value::Map(Default::default())]));
        record.put("x", x);
        record.put("nested", Value::Union(1, Box::new(nested)));
        record.put("y", Value::Float(y));
        record.put("when", Value::TimestampMillis(1));
        record.put("letter", letter);
        record.put("flag", Value::Boolean(true));
        written(&schema, record)
    }

    fn branch(index: u32, value: Value) -> Value {
        Value::Union(index, Box::new(value))
    }

    #[test]
    fn what_apache_avro_writes_is_read_by_field_name() {
        let served = mixed(AvroFraming::None);
        let b = || branch(0, Value::Enum(1, "B".into()));
        assert_eq!(value(&served, &datum(branch(1, Value::Double(1.5)), 2.0, b())), Ok(121.5));
        assert_eq!(value(&served, &datum(branch(2, Value::Int(-3)), 2.0, b())), Ok(117.0));
        assert_eq!(value(&served, &datum(branch(0, Value::Null), 2.0, b())), Ok(125.0));
        let a = branch(0, Value::Enum(0, "A".into()));
        assert_eq!(value(&served, &datum(branch(2, Value::Int(0)), 2.0, a)), Ok(1020.0));
        let none = branch(1, Value::Null);
        assert_eq!(value(&served, &datum(branch(2, Value::Int(0)), 2.0, none)), Err(Reason::MissingFeature));
        assert_eq!(value(&served, &datum(branch(1, Value::Double(1e39)), 2.0, b())), Err(Reason::NonFinite));
        assert_eq!(value(&served, &datum(branch(2, Value::Int(0)), f32::NAN, b())), Err(Reason::NonFinite));
    }

    #[test]
    fn a_datum_is_neither_too_short_nor_too_long() {
        let served = mixed(AvroFraming::None);
        let whole = datum(branch(2, Value::Int(1)), 2.0, branch(0, Value::Enum(1, "B".into())));
        for length in 1..whole.len() {
            assert_eq!(value(&served, &whole[..length]), Err(Reason::Undecodable), "{length} bytes");
        }
        assert_eq!(value(&served, &[&whole[..], &[0]].concat()), Err(Reason::Undecodable));
    }

    #[test]
    fn confluents_frame_is_asked_for_and_skipped() {
        let served = mixed(AvroFraming::Confluent);
        let bare = datum(branch(2, Value::Int(1)), 2.0, branch(0, Value::Enum(1, "B".into())));
        assert_eq!(value(&served, &[&[0, 1, 2, 3, 4], &bare[..]].concat()), Ok(121.0));
        assert_eq!(value(&served, &[&[1, 1, 2, 3, 4], &bare[..]].concat()), Err(Reason::UnknownSchema));
        assert_eq!(value(&served, &[0, 1, 2]), Err(Reason::UnknownSchema));
        assert_eq!(value(&served, &[0, 1, 2, 3, 4]), Err(Reason::Undecodable));
    }

    fn refused(schema: &str, features: Vec<Feature>) -> String {
        let signature: Signature = signature(features);
        let InputFormat::Avro { schema, framing } = format(schema) else { panic!("Avro") };
        let error = AvroPlan::new(&schema, framing, &FeaturePlan::new(&signature)).expect_err("does not fit");
        error.to_string()
    }

    #[test]
    fn a_schema_that_never_fits_is_refused_before_a_record_comes() {
        let schema = r#"{"type": "record", "name": "In", "fields": [
            {"name": "a", "type": "string"}, {"name": "b", "type": ["null", "bytes"]}]}"#;
        let text = refused(schema, vec![number("c", None)]);
        assert!(text.contains(r#"no field "c""#) && text.contains("it has: a, b"), "{text}");
        assert!(refused(schema, vec![number("a", None)]).contains(r#""a""#));
        assert!(refused(schema, vec![category("b", &["x"])]).contains(r#""b""#));
        served(decimal(vec![number("c", Some(1.0)), category("a", &["x"])]), &format(schema), JSON_OUT);
        assert!(matches!(InputFormat::avro(r#""int""#, AvroFraming::None), Err(SchemaError::NoRecord)));
        assert!(matches!(InputFormat::avro("{", AvroFraming::None), Err(SchemaError::Unreadable(_))));
    }

    #[test]
    fn hostile_lengths_and_depths_cost_nothing() {
        let schema = r#"{"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]},
            {"name": "nulls", "type": {"type": "array", "items": "null"}}, {"name": "text", "type": "string"},
            {"name": "x", "type": "int"}]}"#;
        let served = served(decimal(vec![number("x", None)]), &format(schema), JSON_OUT);
        let huge = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(value(&served, &vec![2; 1_000_000]), Err(Reason::Undecodable));
        assert_eq!(value(&served, &[&[0], &huge[..], &[0, 0, 6]].concat()), Ok(3.0));
        assert_eq!(value(&served, &[&[0, 0], &huge[..], &[6]].concat()), Err(Reason::Undecodable));
        assert_eq!(value(&served, &[0, 0, 1]), Err(Reason::Undecodable), "a length of -1");
        assert_eq!(value(&served, &[&[0, 0, 0][..], &[0xff; 11]].concat()), Err(Reason::Undecodable));
        assert_eq!(value(&served, &[0, 0, 2, 0xff, 6]), Err(Reason::Undecodable), "not UTF-8");
        assert_eq!(value(&served, &[4]), Err(Reason::Undecodable), "a third branch");
        let beyond = [0x80, 0x80, 0x80, 0x80, 0x10];
        assert_eq!(value(&served, &[&[0, 0, 0][..], &beyond].concat()), Err(Reason::Undecodable), "an int of 2^31");
    }

    proptest! {
        #[test]
        fn any_bytes_have_one_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = value(&mixed(AvroFraming::None), &bytes);
        }

        #[test]
        fn integers_are_those_of_apache_avro(long in any::<i64>()) {
            let schema = Schema::parse_str(r#"{"type": "record", "name": "R", "fields": [{"name": "x", "type": "long"}]}"#)
                .expect("a schema");
            let bytes = written(&schema, Value::Record(vec![("x".into(), Value::Long(long))]));
            let mut walk = Walk { types: &[], rest: &bytes };
            prop_assert_eq!(walk.long(), Ok(long));
        }
    }
}
