//! Avro framing and the array forms that artifact and manifest share.
//!
//! Bytes are framed by Avro's single-object encoding: `C3 01`, the CRC-64-AVRO fingerprint of the schema's parsing canonical
//! form in little-endian order, the datum (Avro specification 1.12, "Single-object encoding"). Only data of our own schemas is
//! ever decoded: a writer's schema from elsewhere could ask for any amount of memory.

mod datum;

use std::io::{BufRead, Read as _};

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Refusal;
use datum::Shape;

/// What single-object encoding starts with.
const MARKER: [u8; 2] = [0xC3, 0x01];
/// Marker and fingerprint.
const HEADER_BYTES: usize = 10;

/// A schema of ours, those that it replaced, and their frames.
pub(super) struct Format {
    /// The newest first: what is written is written with it.
    schemas: Vec<Framed>,
    /// What is framed: `artifact`, `manifest`.
    what: &'static str,
}

struct Framed {
    schema: Schema,
    shape: Shape,
    header: [u8; HEADER_BYTES],
}

impl Framed {
    fn new(schema: &str) -> Framed {
        let schema = Schema::parse_str(schema).expect("our schemas are valid, which a test proves");
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&MARKER);
        header[2..].copy_from_slice(&schema.fingerprint::<Rabin>().bytes);
        Framed { shape: Shape::of(&schema), schema, header }
    }
}

impl Format {
    /// Parses one of the schemas under `schemas/`.
    pub(super) fn new(schema: &str, what: &'static str) -> Format {
        Format { schemas: vec![Framed::new(schema)], what }
    }

    /// As [`Format::new`], for a schema that replaced others. A datum is read with the schema that it was written with; what a
    /// former one does not have, serde's defaults fill in.
    pub(super) fn with_former(schema: &str, former: &[&str], what: &'static str) -> Format {
        let schemas = std::iter::once(&schema).chain(former).map(|schema| Framed::new(schema)).collect();
        Format { schemas, what }
    }

    /// The frame and the datum.
    ///
    /// # Errors
    /// [`Refusal::Undecodable`] when the value does not fit the schema.
    pub(super) fn encode(&self, value: &impl Serialize) -> Result<Vec<u8>, Refusal> {
        let broken = |error: apache_avro::Error| Refusal::Undecodable(format!("the {}: {error}", self.what));
        let newest = &self.schemas[0];
        let mut bytes = newest.header.to_vec();
        let writer = GenericDatumWriter::builder(&newest.schema).build().map_err(broken)?;
        writer.write_ser(&mut bytes, value).map_err(broken)?;
        Ok(bytes)
    }

    /// Reads a framed datum from a source that holds nothing else. Memory is taken for what was read, never for what is
    /// claimed.
    ///
    /// # Errors
    /// [`Refusal::ForeignFormat`] for formats of others that we know by name, [`Refusal::NewerFormat`] for the frame of a
    /// schema that this binary does not have, [`Refusal::TooLarge`] for too many list items, [`Refusal::Undecodable`] for
    /// everything else, a source that cannot be read included.
    pub(super) fn read<T: DeserializeOwned>(&self, mut source: impl BufRead) -> Result<T, Refusal> {
        self.framed(&mut source)?.shape.read(source, self.what)
    }

    /// Reads the frame's header and finds its schema.
    fn framed(&self, source: impl BufRead) -> Result<&Framed, Refusal> {
        let unreadable = |error: std::io::Error| Refusal::Undecodable(format!("the {}: {error}", self.what));
        let mut start = Vec::with_capacity(HEADER_BYTES);
        source.take(HEADER_BYTES as u64).read_to_end(&mut start).map_err(unreadable)?;
        if start.len() < HEADER_BYTES {
            return Err(Refusal::Undecodable(format!("{} bytes are too few for a {}", start.len(), self.what)));
        }
        if start[..2] != MARKER {
            let nothing_known = || Refusal::Undecodable(format!("this is no modelstream {}", self.what));
            return Err(foreign(&start).unwrap_or_else(nothing_known));
        }
        let known = self.schemas.iter().find(|framed| framed.header == start[..]);
        known.ok_or_else(|| Refusal::newer(self.what, hex(&start[2..])))
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Formats of others that users may try, by their first bytes, with the way out.
fn foreign(bytes: &[u8]) -> Option<Refusal> {
    let way = "fit the model with `modelstream train`, whose artifact holds parameters and never code";
    let name = match bytes {
        [0x80, 2..=5, ..] => "a Python pickle (joblib writes them too), which can run any code when it is loaded",
        [b'P', b'K', 3, 4, ..] => "a zip archive, as PyTorch, Keras and skops write them",
        [0x89, b'H', b'D', b'F', ..] => "an HDF5 file, as Keras writes them",
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => "a NumPy array",
        [b'{', ..] => "JSON, as XGBoost, LightGBM and smartcore write models",
        [0x08, 1..=20, 0x12 | 0x3A | 0x42, ..] => "an ONNX model",
        [0x78, 0x01 | 0x9C | 0xDA, ..] => "a compressed file, as joblib writes pickles",
        _ => return None,
    };
    Some(Refusal::ForeignFormat(format!("this is {name}; {way}")))
}

/// A `u64` as Avro's `long`.
pub(super) mod long {
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    pub(in crate::model) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(i64::try_from(*value).map_err(ser::Error::custom)?)
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        u64::try_from(i64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A matrix of `u64` as arrays of Avro's `long`.
pub(super) mod long_matrix {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

    pub(in crate::model) fn serialize<S: Serializer>(rows: &[Vec<u64>], serializer: S) -> Result<S::Ok, S::Error> {
        let row = |row: &Vec<u64>| row.iter().map(|value| i64::try_from(*value)).collect::<Result<Vec<i64>, _>>();
        rows.iter().map(row).collect::<Result<Vec<_>, _>>().map_err(ser::Error::custom)?.serialize(serializer)
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u64>>, D::Error> {
        let row = |row: Vec<i64>| row.into_iter().map(u64::try_from).collect::<Result<Vec<u64>, _>>();
        let rows = Vec::<Vec<i64>>::deserialize(deserializer)?;
        rows.into_iter().map(row).collect::<Result<_, _>>().map_err(de::Error::custom)
    }
}

/// Arrays of numbers as little-endian bytes, so that any reader maps them without a loop over Avro items. In memory
/// they are a `Vec` or [`Pieces`](super::Pieces).
macro_rules! bytes_of {
    ($module:ident, $number:ty) => {
        pub(super) mod $module {
            use std::fmt;
            use std::marker::PhantomData;

            use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};
            use serde::{Deserializer, Serializer};

            const WIDTH: usize = size_of::<$number>();

            pub(in crate::model) fn serialize<'n, C, S: Serializer>(
                numbers: &'n C,
                serializer: S,
            ) -> Result<S::Ok, S::Error>
            where
                &'n C: IntoIterator<Item = &'n $number>,
            {
                let bytes: Vec<u8> = numbers.into_iter().flat_map(|number| number.to_le_bytes()).collect();
                serializer.serialize_bytes(&bytes)
            }

            pub(in crate::model) fn deserialize<'de, C: Default + Extend<$number>, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<C, D::Error> {
                deserializer.deserialize_seq(Numbers(PhantomData))
            }

            /// All portions of the bytes.
            struct Numbers<C>(PhantomData<C>);

            impl<'de, C: Default + Extend<$number>> Visitor<'de> for Numbers<C> {
                type Value = C;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    write!(f, "a multiple of {WIDTH} bytes")
                }

                fn visit_seq<A: SeqAccess<'de>>(self, mut portions: A) -> Result<C, A::Error> {
                    let mut numbers = C::default();
                    while let Some(()) = portions.next_element_seed(Portion(&mut numbers))? {}
                    Ok(numbers)
                }
            }

            /// What the next portion is appended to.
            struct Portion<'c, C>(&'c mut C);

            impl<'de, C: Extend<$number>> DeserializeSeed<'de> for Portion<'_, C> {
                type Value = ();

                fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
                    deserializer.deserialize_bytes(self)
                }
            }

            impl<C: Extend<$number>> Visitor<'_> for Portion<'_, C> {
                type Value = ();

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    write!(f, "a multiple of {WIDTH} bytes")
                }

                fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<(), E> {
                    let (numbers, rest) = bytes.as_chunks::<WIDTH>();
                    if !rest.is_empty() {
                        return Err(E::invalid_length(bytes.len(), &self));
                    }
                    self.0.extend(numbers.iter().map(|number| <$number>::from_le_bytes(*number)));
                    Ok(())
                }
            }
        }
    };
}

bytes_of!(u16_bytes, u16);
bytes_of!(u32_bytes, u32);
bytes_of!(f32_bytes, f32);
bytes_of!(f64_bytes, f64);
