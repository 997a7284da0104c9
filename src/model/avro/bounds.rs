//! What a datum claims, checked before memory is taken for it.
//!
//! apache-avro takes the memory for a string before it knows that the bytes are there, and a list's items are many times larger
//! in memory than in a datum. So a datum is walked once beforehand: every length must be there, and the items are counted.

use std::collections::HashMap;
use std::io::BufRead;

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

    /// Walks over the datum that `source` holds and nothing else.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when it has more than [`ITEMS_MAX`] items, [`Refusal::Undecodable`] when it claims what is not there.
    pub(super) fn check(&self, source: impl BufRead, what: &'static str) -> Result<(), Refusal> {
        let mut walk = Walk { source, items: 0 };
        let walked = walk.over(self).and_then(|()| Ok(walk.rest()?.is_empty()));
        let ended = walked.map_err(|fault| match fault {
            Fault::Source(error) => Refusal::Undecodable(format!("the {what}: {error}")),
            Fault::Claim => Refusal::Undecodable(format!("the {what} claims more bytes than it has")),
            Fault::Integer => Refusal::Undecodable(format!("the {what} has an integer or index that cannot be")),
            Fault::Items(actual) => Refusal::TooLarge { what: "the number of list items", actual, limit: ITEMS_MAX },
        })?;
        if ended { Ok(()) } else { Err(Refusal::Undecodable(format!("bytes stand behind the {what}"))) }
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
    Source(std::io::Error),
    Claim,
    Integer,
    Items(u64),
}

struct Walk<R> {
    source: R,
    items: u64,
}

impl<R: BufRead> Walk<R> {
    /// What is there without another wait; nothing at the end.
    fn rest(&mut self) -> Result<&[u8], Fault> {
        self.source.fill_buf().map_err(Fault::Source)
    }

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

    fn skip(&mut self, mut count: usize) -> Result<(), Fault> {
        while count > 0 {
            let there = self.rest()?.len();
            if there == 0 {
                return Err(Fault::Claim);
            }
            let skipped = there.min(count);
            self.source.consume(skipped);
            count -= skipped;
        }
        Ok(())
    }

    /// A zigzag variable-length integer: seven bits a byte, the least first; at most ten bytes.
    fn integer(&mut self) -> Result<i64, Fault> {
        let mut zigzag = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.rest()?.first().ok_or(Fault::Claim)?;
            self.source.consume(1);
            zigzag |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        Err(Fault::Integer)
    }
}
