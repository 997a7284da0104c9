//! A record of the models topic, and what its key says.

use crate::kafka::consumer::Record;

use super::selector::is_model_name;
use super::trust::{KeyId, SIGNATURE_HEADER};

/// The header that says which modelstream a record needs at least.
pub const NEEDS_HEADER: &str = "modelstream-needs";
/// The longest version text of that header that is shown.
const NEEDS_BYTES_MAX: usize = 32;
/// The largest version or sequence: both are Avro's `long`, and one more is still a number.
pub const NUMBER_MAX: u64 = i64::MAX as u64;

/// A record of the models topic as it is on the topic: nothing of it was checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogRecord<'r> {
    /// The key.
    pub key: &'r [u8],
    /// The value; none is a tombstone.
    pub value: Option<&'r [u8]>,
    /// The value of [`SIGNATURE_HEADER`].
    pub signature: Option<&'r [u8]>,
    /// The value of [`NEEDS_HEADER`].
    pub needs: Option<&'r [u8]>,
}

impl<'r> LogRecord<'r> {
    /// A record that was read from Kafka.
    pub fn of(record: &'r Record<'_>) -> LogRecord<'r> {
        let header = |name: &str| record.headers().find(|(found, _)| *found == name).and_then(|(_, value)| value);
        LogRecord {
            key: record.key().unwrap_or_default(),
            value: record.payload(),
            signature: header(SIGNATURE_HEADER),
            needs: header(NEEDS_HEADER),
        }
    }

    /// The version of modelstream that it needs, where it says so: nobody vouches for it.
    pub(super) fn needs(&self) -> Option<&'r str> {
        let text = std::str::from_utf8(self.needs?).ok()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+'));
        (plain && (1..=NEEDS_BYTES_MAX).contains(&text.len())).then_some(text)
    }
}

/// What a key of the models topic speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A version's manifest.
    Version(String, u64),
    /// A decision about a model, by its sequence.
    Control(String, u64),
    /// The revocation of a signing key.
    Revocation(KeyId),
}

impl Key {
    /// Reads a key; `None` for those of another binary.
    pub(super) fn parse(key: &[u8]) -> Option<Key> {
        let key = std::str::from_utf8(key).ok()?;
        if let Some(id) = key.strip_prefix("key/") {
            return KeyId::parse(id).map(Key::Revocation);
        }
        if let Some(rest) = key.strip_prefix("version/") {
            return numbered(rest).map(|(model, version)| Key::Version(model, version));
        }
        numbered(key.strip_prefix("control/")?).map(|(model, sequence)| Key::Control(model, sequence))
    }
}

/// The key of a version's manifest.
pub fn version_key(model: &str, version: u64) -> String {
    format!("version/{model}/{version}")
}

/// The key of a decision about a model.
pub fn control_key(model: &str, sequence: u64) -> String {
    format!("control/{model}/{sequence}")
}

/// The key of a signing key's revocation.
pub fn revocation_key(id: &KeyId) -> String {
    format!("key/{id}")
}

fn numbered(text: &str) -> Option<(String, u64)> {
    let (model, number) = text.rsplit_once('/')?;
    // One key for each number: no sign, no leading zeros.
    if number.starts_with(['0', '+']) {
        return None;
    }
    let number = number.parse().ok().filter(|number| *number <= NUMBER_MAX)?;
    is_model_name(model).then(|| (model.to_owned(), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_has_one_key() {
        assert_eq!(Key::parse(b"version/iris/7"), Some(Key::Version("iris".into(), 7)));
        assert_eq!(Key::parse(b"control/iris/7"), Some(Key::Control("iris".into(), 7)));
        for key in [
            &b"alias/iris/champion"[..],
            b"version/iris",
            b"version/iris/x",
            b"version/a b/1",
            b"\xff",
            b"version/iris/0",
            b"version/iris/01",
            b"control/iris/+1",
            b"key/zz",
        ] {
            assert_eq!(Key::parse(key), None, "{key:?}");
        }
    }
}
