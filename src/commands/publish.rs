//! `modelstream publish`

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Serialize;

use crate::cli;
use crate::config;
use crate::model::artifact::{ARTIFACT_BYTES_MAX, Digested};
use crate::model::{Artifact, Digest};
use crate::registry::publish::{Published, Request, Source, publish};

use super::{Error, print};

/// What a publish prints.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    version: u64,
    digest: String,
    bytes: u64,
    already_there: bool,
}

impl Report {
    /// What to say of `published`.
    pub fn new(published: &Published) -> Report {
        let manifest = &published.manifest;
        Report {
            model: manifest.model.clone(),
            version: manifest.version,
            digest: manifest.digest.to_string(),
            bytes: manifest.artifact_bytes,
            already_there: published.already_there,
        }
    }

    /// One line for a person.
    pub fn text(&self) -> String {
        let what = if self.already_there { "already published" } else { "published" };
        format!("{what} {} version {}, digest {}, {} bytes", self.model, self.version, self.digest, self.bytes)
    }
}

/// Publishes a model file.
///
/// # Errors
/// When the file cannot be read or published.
pub fn run(common: &cli::Common, publish: &cli::Publish) -> Result<(), Error> {
    let size = check_size(&publish.file)?;
    let request = Request {
        model: &publish.model,
        version: publish.as_version,
        source: Source::File(&publish.file),
        note: publish.note.clone(),
    };
    let published = publish_with_bar(common, &publish.signing, &request, size)?;
    let report = Report::new(&published);
    if common.json { print::json(&report) } else { print::line(&report.text()) }
}

/// Publishes with a progress bar over the artifact's `bytes`.
///
/// # Errors
/// When it cannot be published.
pub fn publish_with_bar(
    common: &cli::Common,
    signing: &cli::Signing,
    request: &Request<'_>,
    bytes: u64,
) -> Result<Published, Error> {
    let author = config::author(signing, who())?;
    let bar = print::progress(Some(bytes), "bytes");
    let published = publish(&config::connection(common)?, &config::topics(common)?, &author, request, |sent| {
        bar.inc(sent as u64);
    });
    bar.finish_and_clear();
    Ok(published?)
}

/// Reads what a model file says, with its digest; nothing of it is verified yet.
///
/// # Errors
/// When it cannot be read, is too large, or is no artifact; then `what` is refused.
pub fn read_artifact(path: &Path, what: &str) -> Result<(Digest, Artifact), Error> {
    check_size(path)?;
    let file = File::open(path).map_err(|source| Error::Io { doing: format!("reading {}", path.display()), source })?;
    let mut source = Digested::new(BufReader::new(file));
    let artifact = Artifact::read(&mut source).map_err(|refusal| Error::Refused { what: what.to_owned(), refusal })?;
    Ok((source.finish().1, artifact))
}

/// Reads a model file's bytes, unless it is larger than an artifact may be.
///
/// # Errors
/// When it cannot be read or is too large.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    check_size(path)?;
    std::fs::read(path).map_err(|source| Error::Io { doing: format!("reading {}", path.display()), source })
}

/// The size of a model file, in bytes.
fn check_size(path: &Path) -> Result<u64, Error> {
    let failed = |source| Error::Io { doing: format!("reading {}", path.display()), source };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > ARTIFACT_BYTES_MAX as u64 {
        let limit = ARTIFACT_BYTES_MAX;
        return Err(Error::Data(format!("{} has {size} bytes, a model has at most {limit}", path.display())));
    }
    Ok(size)
}

/// `user@host`, as far as the environment tells.
pub(super) fn who() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".to_owned());
    let host = config::host();
    format!("{user}@{}", if host.is_empty() { "unknown" } else { &host })
}
