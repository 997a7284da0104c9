//! Who may write the model log: a record is signed, and checked before anything in it is read.
//!
//! A signature is Ed25519 (RFC 8032) over the topic, the record's key and its value, so that it holds for no other topic, model,
//! version, digest or place in the order of decisions. It travels in a header of the record:
//! `modelstream-signature: ed25519:<key id>:<signature>`, both in hexadecimal digits. Keys are PEM files, as `openssl genpkey
//! -algorithm ed25519` writes them too.

use std::fmt;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePublicKey as _, KeypairBytes};
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};

use crate::model::{Digest, Refusal, hex};

use super::record::LogRecord;

/// The header with a record's signature.
pub const SIGNATURE_HEADER: &str = "modelstream-signature";
/// What a signature begins with.
const SCHEME: &str = "ed25519";
/// Stands before what is signed, so that no signature for something else is taken for one of these.
const CONTEXT: &[u8] = b"modelstream model log, format 1";

/// What cannot be used as a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text holds no such key.
    #[error("this is no Ed25519 {0} key in PEM form; `modelstream keys generate` makes a pair")]
    Pem(&'static str),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// What a public key is called: the first 16 hexadecimal digits of the SHA-256 of its 32 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(String);

impl KeyId {
    /// The hexadecimal digits of an id.
    const DIGITS: usize = 16;

    fn of(key: &VerifyingKey) -> KeyId {
        KeyId(Digest::of(key.as_bytes()).to_string()[..KeyId::DIGITS].to_owned())
    }

    /// Reads the hexadecimal digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<KeyId> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (digits && text.len() == KeyId::DIGITS).then(|| KeyId(text.to_owned()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that records are signed with. It is never shown: `Debug` tells its id.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

impl SigningKey {
    /// A new key, from the system's random numbers.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> Result<SigningKey, KeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| KeyError::Random(error.to_string()))?;
        Ok(SigningKey(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// Reads a PKCS #8 PEM text (`-----BEGIN PRIVATE KEY-----`).
    ///
    /// # Errors
    /// When it holds no Ed25519 key.
    pub fn from_pem(text: &str) -> Result<SigningKey, KeyError> {
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(text);
        key.map(SigningKey).map_err(|_| KeyError::Pem("private"))
    }

    /// The key as PKCS #8 PEM text, in the form without the public half, which OpenSSL reads.
    ///
    /// # Errors
    /// When it cannot be written, which does not happen to a key.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        use ed25519_dalek::pkcs8::EncodePrivateKey as _;
        let bytes = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        bytes.to_pkcs8_pem(LineEnding::LF).map(|text| text.to_string()).map_err(|_| KeyError::Pem("private"))
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The value of the signature's header for a record of `topic`; no value is a tombstone.
    pub(super) fn sign(&self, topic: &str, key: &str, value: Option<&[u8]>) -> String {
        let signature = self.0.sign(&signed_bytes(topic, key.as_bytes(), value));
        format!("{SCHEME}:{}:{}", self.public().id(), hex(&signature.to_bytes()))
    }
}

/// A key that signatures are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo PEM text (`-----BEGIN PUBLIC KEY-----`).
    ///
    /// # Errors
    /// When it holds no Ed25519 key.
    pub fn from_pem(text: &str) -> Result<PublicKey, KeyError> {
        VerifyingKey::from_public_key_pem(text).map(PublicKey).map_err(|_| KeyError::Pem("public"))
    }

    /// The key as SubjectPublicKeyInfo PEM text.
    ///
    /// # Errors
    /// When it cannot be written, which does not happen to a key.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        self.0.to_public_key_pem(LineEnding::LF).map_err(|_| KeyError::Pem("public"))
    }

    /// What it is called.
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.0)
    }
}

/// The keys that records must be signed with; with none, every record is taken as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust(Vec<PublicKey>);

impl Trust {
    /// Trusts `keys`, any one of them.
    pub fn new(keys: Vec<PublicKey>) -> Trust {
        Trust(keys)
    }

    /// Whether signatures are asked for.
    pub fn is_required(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.0.contains(key)
    }

    /// Who signed a record of `topic`; `None` where nobody asks.
    ///
    /// # Errors
    /// [`Refusal::Untrusted`] when it is not signed, not with a trusted key, or the signature is not for this record.
    pub(super) fn check(&self, topic: &str, record: &LogRecord<'_>) -> Result<Option<KeyId>, Refusal> {
        if !self.is_required() {
            return Ok(None);
        }
        let untrusted = |why: String| Refusal::Untrusted(why);
        let Some(header) = record.signature else { return Err(untrusted("it is not signed".to_owned())) };
        let Some((id, signature)) = std::str::from_utf8(header).ok().and_then(parse_header) else {
            return Err(untrusted("its signature cannot be read".to_owned()));
        };
        let Some(PublicKey(key)) = self.0.iter().find(|key| key.id() == id) else {
            return Err(untrusted(format!("it is signed with key {id}, which is not one of the trusted ones")));
        };
        match key.verify_strict(&signed_bytes(topic, record.key, record.value), &signature) {
            Ok(()) => Ok(Some(id)),
            Err(_) => Err(untrusted(format!("its signature with key {id} is not for this record of this topic"))),
        }
    }
}

fn parse_header(header: &str) -> Option<(KeyId, Signature)> {
    let (id, signature) = header.strip_prefix(SCHEME)?.strip_prefix(':')?.split_once(':')?;
    Some((KeyId::parse(id)?, Signature::from_bytes(&unhex(signature)?)))
}

/// What is signed: each part behind its length, so that no two records give the same bytes.
fn signed_bytes(topic: &str, key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [CONTEXT, topic.as_bytes(), key, if value.is_some() { b"record" } else { b"tombstone" }] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(value.unwrap_or_default());
    bytes
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed<'r>(signature: &'r str, key: &'r str, value: Option<&'r [u8]>) -> LogRecord<'r> {
        LogRecord { key: key.as_bytes(), value, signature: Some(signature.as_bytes()), needs: None }
    }

    #[test]
    fn a_signature_holds_for_its_record_and_no_other() {
        let key = SigningKey::generate().expect("random numbers");
        let trust = Trust::new(vec![SigningKey::generate().expect("random numbers").public(), key.public()]);
        let header = key.sign("models", "version/iris/1", Some(b"value"));
        let record = signed(&header, "version/iris/1", Some(b"value"));
        assert_eq!(trust.check("models", &record), Ok(Some(key.public().id())));
        let refused = |topic: &str, record: LogRecord<'_>| trust.check(topic, &record).is_err();
        assert!(refused("others", record));
        assert!(refused("models", signed(&header, "version/iris/2", Some(b"value"))));
        assert!(refused("models", signed(&header, "version/iris/1", Some(b"valuE"))));
        assert!(refused("models", signed(&header, "version/iris/1", Some(b""))));
        assert!(refused("models", signed(&header, "version/iris/1", None)));
        assert!(refused("models", LogRecord { signature: None, ..record }));
    }

    #[test]
    fn no_bit_of_a_signature_may_differ() {
        let key = SigningKey::generate().expect("random numbers");
        let trust = Trust::new(vec![key.public()]);
        let header = key.sign("models", "k", Some(b"v"));
        for index in 0..header.len() {
            for bit in 0..8 {
                let mut flipped = header.clone().into_bytes();
                flipped[index] ^= 1 << bit;
                // The case of a hexadecimal digit says nothing.
                let same = flipped.eq_ignore_ascii_case(header.as_bytes());
                let record = LogRecord { key: b"k", value: Some(b"v"), signature: Some(&flipped), needs: None };
                assert!(same || trust.check("models", &record).is_err(), "byte {index}, bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_signed_with_another_key_is_refused_and_without_keys_nobody_asks() {
        let (key, other) = (SigningKey::generate().expect("random"), SigningKey::generate().expect("random"));
        let header = other.sign("models", "k", Some(b"v"));
        let refusal = Trust::new(vec![key.public()]).check("models", &signed(&header, "k", Some(b"v")));
        let refusal = refusal.expect_err("another key");
        assert!(refusal.to_string().contains(&other.public().id().to_string()), "{refusal}");
        assert_eq!(Trust::default().check("models", &signed("junk", "k", None)), Ok(None));
    }

    #[test]
    fn keys_survive_their_files_and_the_private_one_is_not_shown() {
        let key = SigningKey::generate().expect("random numbers");
        let again = SigningKey::from_pem(&key.to_pem().expect("a key")).expect("ours");
        assert_eq!(again.public(), key.public());
        let public = PublicKey::from_pem(&key.public().to_pem().expect("a key")).expect("ours");
        assert_eq!(public.id(), key.public().id());
        assert!(SigningKey::from_pem(&public.to_pem().expect("a key")).is_err());
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", public.id()));
    }
}
