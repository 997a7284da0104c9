//! A datum of one of our schemas, read from bytes that nobody vouches for.
//!
//! apache-avro takes the memory for a string or an array before it knows that the bytes are there, and holds an array
//! twice while it hands it over. Here memory is taken for what was read, and large arrays come in portions
//! ([`PORTION_BYTES`]), so that they grow in their last place.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, ErrorKind, Read as _};

use apache_avro::Schema;
use serde::de::value::{BytesDeserializer, StrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer as _, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::model::Refusal;

/// The most items of all lists and maps of a datum together: room for the widest signature with the 64 golden rows and
/// more that a trainer writes; with their strings about half a gigabyte of memory. Large arrays are `bytes`, and no
/// items.
const ITEMS_MAX: u64 = 1 << 23;
/// How much of an array of numbers is handed over at once; a multiple of each number's width.
const PORTION_BYTES: usize = 8 * 1024;

/// A schema as reading needs it. Ours have no recursion.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Null,
    /// A variable-length integer, of 32 bits or 64.
    Integer,
    Float,
    Double,
    /// An array of numbers.
    Bytes,
    String,
    /// One of these words.
    Enum(Vec<String>),
    Array(Box<Shape>),
    /// By strings.
    Map(Box<Shape>),
    Union(Vec<Shape>),
    /// Fields by name.
    Record(Vec<(String, Shape)>),
}

impl Shape {
    /// The shape of one of our schemas.
    pub(super) fn of(schema: &Schema) -> Shape {
        compile(schema, &mut HashMap::new()).expect("our schemas hold nothing else, which a test proves")
    }

    /// Reads the datum that `source` holds and nothing else.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when it has more than [`ITEMS_MAX`] items, [`Refusal::Undecodable`] when it claims what is
    /// not there, is no datum of this shape, or the source cannot be read.
    pub(super) fn read<T: DeserializeOwned>(&self, source: impl BufRead, what: &'static str) -> Result<T, Refusal> {
        let mut datum = Datum { source, items: 0 };
        let value = T::deserialize(Value { shape: self, datum: &mut datum });
        let value = value.and_then(|value| if datum.rest()?.is_empty() { Ok(value) } else { Err(Fault::Behind) });
        value.map_err(|fault| match fault {
            Fault::Items(actual) => Refusal::TooLarge { what: "the number of list items", actual, limit: ITEMS_MAX },
            fault => Refusal::Undecodable(format!("the {what}: {fault}")),
        })
    }
}

fn compile(schema: &Schema, named: &mut HashMap<String, Shape>) -> Option<Shape> {
    let shape = match schema {
        Schema::Null => Shape::Null,
        Schema::Float => Shape::Float,
        Schema::Double => Shape::Double,
        Schema::Int | Schema::Long => Shape::Integer,
        Schema::Bytes => Shape::Bytes,
        Schema::String => Shape::String,
        Schema::Enum(words) => Shape::Enum(words.symbols.clone()),
        Schema::Array(array) => Shape::Array(Box::new(compile(&array.items, named)?)),
        Schema::Map(map) => Shape::Map(Box::new(compile(&map.types, named)?)),
        Schema::Union(union) => {
            Shape::Union(union.variants().iter().map(|branch| compile(branch, named)).collect::<Option<_>>()?)
        }
        Schema::Record(record) => {
            let field =
                |field: &apache_avro::schema::RecordField| Some((field.name.clone(), compile(&field.schema, named)?));
            Shape::Record(record.fields.iter().map(field).collect::<Option<_>>()?)
        }
        Schema::Ref { name } => named.get(&name.fullname(None))?.clone(),
        _ => return None,
    };
    if let Some(name) = schema.name() {
        named.insert(name.fullname(None), shape.clone());
    }
    Some(shape)
}

/// Why a datum is not read to its end.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Source(#[from] std::io::Error),
    #[error("it claims more bytes than it has")]
    Claim,
    #[error("it has a number or an index that cannot be")]
    Number,
    #[error("it has {0} list items")]
    Items(u64),
    #[error("bytes stand behind it")]
    Behind,
    /// It does not make the value that it should.
    #[error("{0}")]
    Value(String),
}

impl serde::de::Error for Fault {
    fn custom<M: fmt::Display>(message: M) -> Fault {
        Fault::Value(message.to_string())
    }
}

/// What is left of a datum.
struct Datum<R> {
    source: R,
    /// Of all lists and maps so far.
    items: u64,
}

impl<R: BufRead> Datum<R> {
    /// What is there without another wait; nothing at the end.
    fn rest(&mut self) -> Result<&[u8], Fault> {
        Ok(self.source.fill_buf()?)
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), Fault> {
        self.source.read_exact(into).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Fault::Claim,
            _ => Fault::Source(error),
        })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A zigzag variable-length integer: seven bits a byte, the least first; at most ten bytes.
    fn integer(&mut self) -> Result<i64, Fault> {
        let mut zigzag = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            zigzag |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        Err(Fault::Number)
    }

    fn length(&mut self) -> Result<u64, Fault> {
        u64::try_from(self.integer()?).map_err(|_| Fault::Number)
    }

    fn string(&mut self) -> Result<String, Fault> {
        let length = self.length()?;
        let mut bytes = Vec::new();
        self.source.by_ref().take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(Fault::Claim);
        }
        String::from_utf8(bytes).map_err(Fault::custom)
    }

    /// Which of `all` an index names.
    fn choice<'a, T>(&mut self, all: &'a [T]) -> Result<(u32, &'a T), Fault> {
        let index = u32::try_from(self.integer()?).map_err(|_| Fault::Number)?;
        Ok((index, all.get(index as usize).ok_or(Fault::Number)?))
    }
}

/// A value that comes next.
struct Value<'a, R> {
    shape: &'a Shape,
    datum: &'a mut Datum<R>,
}

impl<'de, R: BufRead> Deserializer<'de> for Value<'_, R> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value { shape, datum } = self;
        match shape {
            Shape::Null => visitor.visit_unit(),
            Shape::Integer => visitor.visit_i64(datum.integer()?),
            Shape::Float => visitor.visit_f32(f32::from_le_bytes(datum.array()?)),
            Shape::Double => visitor.visit_f64(f64::from_le_bytes(datum.array()?)),
            Shape::String => visitor.visit_string(datum.string()?),
            Shape::Enum(words) => visitor.visit_str(datum.choice(words)?.1),
            Shape::Bytes => visitor.visit_seq(Portions { left: datum.length()?, datum }),
            Shape::Array(item) => visitor.visit_seq(Items { item, left: 0, ended: false, datum }),
            Shape::Map(item) => visitor.visit_map(Items { item, left: 0, ended: false, datum }),
            Shape::Record(fields) => visitor.visit_map(Fields { fields: fields.iter(), shape: None, datum }),
            Shape::Union(branches) => {
                let (_, shape) = datum.choice(branches)?;
                Value { shape, datum }.deserialize_any(visitor)
            }
        }
    }

    /// A union's branch that is not null.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value { shape, datum } = self;
        let Shape::Union(branches) = shape else { return Err(Fault::custom("no union where one should be")) };
        match datum.choice(branches)? {
            (_, Shape::Null) => visitor.visit_none(),
            (_, shape) => visitor.visit_some(Value { shape, datum }),
        }
    }

    /// A union's branches are our variants in their order; so is a word by its name.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value { shape, datum } = self;
        match shape {
            Shape::Union(branches) => {
                let (index, shape) = datum.choice(branches)?;
                visitor.visit_enum(Branch { index, value: Value { shape, datum } })
            }
            Shape::Enum(words) => {
                let word: StrDeserializer<'_, Fault> = datum.choice(words)?.1.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            _ => Err(Fault::custom("no union and no word where one should be")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The bytes of an array of numbers: portions of [`PORTION_BYTES`], the last one of what is left.
struct Portions<'a, R> {
    left: u64,
    datum: &'a mut Datum<R>,
}

impl<'de, R: BufRead> SeqAccess<'de> for Portions<'_, R> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut portion = [0; PORTION_BYTES];
        let count = usize::try_from(self.left).map_or(PORTION_BYTES, |left| left.min(PORTION_BYTES));
        let portion = &mut portion[..count];
        self.datum.fill(portion)?;
        self.left -= count as u64;
        seed.deserialize(BytesDeserializer::new(portion)).map(Some)
    }
}

/// The items of an array or of a map: blocks of a count and its items, or of a negative count, a size in bytes and the
/// items; a count of 0 ends.
struct Items<'a, R> {
    item: &'a Shape,
    /// In the block.
    left: u64,
    ended: bool,
    datum: &'a mut Datum<R>,
}

impl<R: BufRead> Items<'_, R> {
    /// Whether there is another item.
    fn more(&mut self) -> Result<bool, Fault> {
        if self.left == 0 && !self.ended {
            let count = self.datum.integer()?;
            if count < 0 {
                self.datum.integer()?;
            }
            self.left = count.unsigned_abs();
            self.ended = count == 0;
            self.datum.items = self.datum.items.saturating_add(self.left);
            if self.datum.items > ITEMS_MAX {
                return Err(Fault::Items(self.datum.items));
            }
        }
        let more = self.left > 0;
        self.left = self.left.saturating_sub(1);
        Ok(more)
    }
}

impl<'de, R: BufRead> SeqAccess<'de> for Items<'_, R> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        if !self.more()? {
            return Ok(None);
        }
        seed.deserialize(Value { shape: self.item, datum: self.datum }).map(Some)
    }
}

impl<'de, R: BufRead> MapAccess<'de> for Items<'_, R> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        if !self.more()? {
            return Ok(None);
        }
        seed.deserialize(Value { shape: &Shape::String, datum: self.datum }).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(Value { shape: self.item, datum: self.datum })
    }
}

/// The fields of a record.
struct Fields<'a, R> {
    fields: std::slice::Iter<'a, (String, Shape)>,
    /// Of the field whose name was taken.
    shape: Option<&'a Shape>,
    datum: &'a mut Datum<R>,
}

impl<'de, R: BufRead> MapAccess<'de> for Fields<'_, R> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some((name, shape)) = self.fields.next() else { return Ok(None) };
        self.shape = Some(shape);
        let name: StrDeserializer<'_, Fault> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let shape = self.shape.take().ok_or_else(|| Fault::custom("a value before its name"))?;
        seed.deserialize(Value { shape, datum: self.datum })
    }
}

/// A union's branch, as one of our variants.
struct Branch<'a, R> {
    index: u32,
    value: Value<'a, R>,
}

impl<'de, 'a, R: BufRead> EnumAccess<'de> for Branch<'a, R> {
    type Error = Fault;
    type Variant = Value<'a, R>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Value<'a, R>), Fault> {
        let index: U32Deserializer<Fault> = self.index.into_deserializer();
        Ok((seed.deserialize(index)?, self.value))
    }
}

impl<'de, R: BufRead> VariantAccess<'de> for Value<'_, R> {
    type Error = Fault;

    /// Null, or a record without fields: no bytes.
    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }
}
