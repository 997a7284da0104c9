//! `modelstream keys`

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::models::show_decision;
use super::publish::who;
use super::{Error, print};
use crate::cli::{self, Keys};
use crate::config::{self, ConfigError};
use crate::registry::decide::revoke_key;
use crate::registry::trust::SigningKey;

/// Who may read a private key: its owner.
const PRIVATE: u32 = 0o600;
/// Who may read a public key: everybody.
const PUBLIC: u32 = 0o644;

/// Runs one of the verbs of `keys`.
///
/// # Errors
/// When a file is there already or cannot be read or written, or the model log cannot be written.
pub fn run(common: &cli::Common, keys: &Keys) -> Result<(), Error> {
    match keys {
        Keys::Generate { out } => generate(common, out),
        Keys::Show { file } => {
            let private = config::private_key(file).map(|key| key.public());
            let id = private.or_else(|_| config::public_key(file))?.id().to_string();
            if common.json { print::json(&json!({"key": id})) } else { print::line(&id) }
        }
        Keys::Revoke { file, deciding } => {
            let author = config::author(&deciding.signing, who())?;
            let (connection, topics) = (config::connection(common)?, config::topics(common)?);
            let key = config::public_key(file)?.id();
            show_decision(common, &revoke_key(&connection, &topics, &author, &key, &deciding.why)?)
        }
    }
}

fn generate(common: &cli::Common, out: &Path) -> Result<(), Error> {
    let key_error = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Config(ConfigError::Key { path, source })
    };
    let (private, public) = (with_end(out, "key"), with_end(out, "pub"));
    let key = SigningKey::generate().map_err(key_error(&private))?;
    write_new(&private, &key.to_pem().map_err(key_error(&private))?, PRIVATE)?;
    write_new(&public, &key.public().to_pem().map_err(key_error(&public))?, PUBLIC)?;
    let id = key.public().id().to_string();
    if common.json {
        return print::json(&json!({"key": id, "private": private, "public": public}));
    }
    print::line(&format!(
        "key {id}\n{}: keep it secret; publish with --signing-key\n{}: give it to those who serve, with --trusted-key",
        private.display(),
        public.display()
    ))
}

/// Behind the whole name: one with a dot keeps what comes after it.
fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}

/// Writes a file that is not there yet: a key that is overwritten is lost.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| Error::Io { doing: format!("writing {}", path.display()), source })
}
