//! What a datum claims, checked before memory is taken for it.
//!
//! apache-avro takes the memory for a string before it knows that the bytes are there, and a list's items are many times larger
//! in memory than in a datum. So a datum is walked once beforehand: every length must be there, and the items are counted.

use std::collections::HashMap;

use apache_avro::Schema;

use crate::model::Refusal;

/// The most items of all lists and maps of a datum together: room for the widest signature with the 64 golden rows and more
/// that a trainer writes; with their strings about half a gigabyte of memory. Large arrays are `bytes`, and no items.
pub(in crate::model) const ITEMS_MAX: u64 = 1 << 23;

/// A schema as the walk needs it. Ours have no recursion.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// So many bytes.
    Fixed(usize),
    /// A variable-length integer: a number, or the index of a symbol.
    Integer,
    /// A length and its bytes.
    Bytes,
    /// The items of an array, or of a map, where each has a key before it.
    Items {
        item: Box<Shape>,
        keyed: bool,
    },
    Union(Vec<Shape>),
    Record(Vec<Shape>),
}

impl Shape {
    /// The shape of one of our schemas.
    pub(super) fn of(schema: &Schema) -> Shape {
        compile(schema, &mut HashMap::new()).expect("our schemas hold nothing else, which a test proves")
    }

    /// Walks over the datum that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when it has more than [`ITEMS_MAX`] items, [`Refusal::Undecodable`] when it claims what is not there.
    pub(super) fn check(&self, bytes: &[u8], what: &'static str) -> Result<(), Refusal> {
        let mut walk = Walk { rest: bytes, items: 0 };
        walk.over(self).map_err(|fault| match fault {
            Fault::Claim => Refusal::Undecodable(format!("the {what} claims more bytes than it has")),
            Fault::Integer => Refusal::Undecodable(format!("the {what} has an integer or index that cannot be")),
            Fault::Items(actual) => Refusal::TooLarge { what: "the number of list items", actual, limit: ITEMS_MAX },
        })?;
        match walk.rest.len() {
            0 => Ok(()),
            rest => Err(Refusal::Undecodable(format!("{rest} bytes stand behind the {what}"))),
        }
    }
}

fn compile(schema: &Schema, named: &mut HashMap<String, Shape>) -> Option<Shape> {
    let shape = match schema {
        Schema::Null => Shape::Fixed(0),
        Schema::Boolean => Shape::Fixed(1),
        Schema::Float => Shape::Fixed(4),
        Schema::Double => Shape::Fixed(8),
        Schema::Int | Schema::Long | Schema::Enum(_) => Shape::Integer,
        Schema::Bytes | Schema::String => Shape::Bytes,
        Schema::Array(array) => Shape::Items { item: Box::new(compile(&array.items, named)?), keyed: false },
        Schema::Map(map) => Shape::Items { item: Box::new(compile(&map.types, named)?), keyed: true },
        Schema::Union(union) => {
            Shape::Union(union.variants().iter().map(|branch| compile(branch, named)).collect::<Option<_>>()?)
        }
        Schema::Record(record) => {
            Shape::Record(record.fields.iter().map(|field| compile(&field.schema, named)).collect::<Option<_>>()?)
        }
        Schema::Ref { name } => named.get(&name.fullname(None))?.clone(),
        _ => return None,
    };
    if let Some(name) = schema.name() {
        named.insert(name.fullname(None), shape.clone());
    }
    Some(shape)
}

/// Why a walk ends early.
enum Fault {
    Claim,
    Integer,
    Items(u64),
}

struct Walk<'b> {
    rest: &'b [u8],
    items: u64,
}

impl Walk<'_> {
    fn over(&mut self, shape: &Shape) -> Result<(), Fault> {
        match shape {
            Shape::Fixed(size) => self.skip(*size),
            Shape::Integer => self.integer().map(drop),
            Shape::Bytes => self.bytes(),
            Shape::Items { item, keyed } => self.items(item, *keyed),
            Shape::Record(fields) => fields.iter().try_for_each(|field| self.over(field)),
            Shape::Union(branches) => {
                let branch = usize::try_from(self.integer()?).ok().and_then(|index| branches.get(index));
                self.over(branch.ok_or(Fault::Integer)?)
            }
        }
    }

    /// Blocks of a count and its items, or of a negative count, a size in bytes and the items; a count of 0 ends.
    fn items(&mut self, item: &Shape, keyed: bool) -> Result<(), Fault> {
        loop {
            let count = self.integer()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                self.integer()?;
            }
            self.items = self.items.saturating_add(count.unsigned_abs());
            if self.items > ITEMS_MAX {
                return Err(Fault::Items(self.items));
            }
            for _ in 0..count.unsigned_abs() {
                if keyed {
                    self.bytes()?;
                }
                self.over(item)?;
            }
        }
    }

    fn bytes(&mut self) -> Result<(), Fault> {
        let length = usize::try_from(self.integer()?).map_err(|_| Fault::Integer)?;
        self.skip(length)
    }

    fn skip(&mut self, count: usize) -> Result<(), Fault> {
        self.rest = self.rest.get(count..).ok_or(Fault::Claim)?;
        Ok(())
    }

    /// A zigzag variable-length integer: seven bits a byte, the least first; at most ten bytes.
    fn integer(&mut self) -> Result<i64, Fault> {
        let mut zigzag = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Fault::Claim)?;
            self.rest = rest;
            zigzag |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        Err(Fault::Integer)
    }
}
