//! A copy on disk of the last version that passed every check, for a process that starts while the model log cannot be read.
//!
//! Two files: `<selector>.<digest>.artifact` as the model log stores it, and `<selector>.manifest`, written in this order and
//! each under another name first, so that a process that dies in between leaves the former copy whole. What is read is checked
//! by its digest, as from the model log. Who can write to the directory decides what is served: give it to the service alone.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::model::manifest::MANIFEST_BYTES_MAX;
use crate::model::{Manifest, Refusal};
use crate::registry::Selector;
use crate::registry::stored::StoredArtifact;

/// What is read at once of a copy that is compared.
const COMPARED_BYTES: usize = 128 * 1024;

/// Where copies are kept, for one selector.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    selector: String,
}

/// Why there is no copy that can be served.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in the files is not what it should be.
    #[error("the copy in {path} is refused: {refusal}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        refusal: Refusal,
    },
}

impl Cache {
    /// The copy of what `selector` follows, in `directory`.
    pub fn new(directory: PathBuf, selector: &Selector) -> Cache {
        Cache { directory, selector: selector.to_string() }
    }

    /// Keeps a version, in the place of the former one. A copy that is there already is written again where it is damaged.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn keep(&self, manifest: &Manifest, stored: &StoredArtifact) -> Result<(), CacheError> {
        fs::create_dir_all(&self.directory).map_err(|source| io_error(&self.directory, source))?;
        let artifact = self.artifact_path(manifest);
        if !holds(&artifact, stored).unwrap_or(false) {
            replace(&artifact, |file| io::copy(&mut stored.stored(), file).map(drop))?;
        }
        let path = self.manifest_path();
        let bytes = manifest.encode().map_err(|refusal| CacheError::Refused { path: path.clone(), refusal })?;
        replace(&path, |file| file.write_all(&bytes))?;
        self.remove_all_but(&artifact)
    }

    /// The version that was kept last; none where none was.
    ///
    /// # Errors
    /// When a file cannot be read, or what is in it is not what it should be.
    pub fn last_good(&self) -> Result<Option<(Manifest, StoredArtifact)>, CacheError> {
        let path = self.manifest_path();
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes),
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => Err(source),
        }
        .map_err(|source| io_error(&path, source))?;
        let manifest = Manifest::decode(&bytes).map_err(|refusal| CacheError::Refused { path, refusal })?;
        let path = self.artifact_path(&manifest);
        let file = File::open(&path).map_err(|source| io_error(&path, source))?;
        let read = StoredArtifact::read(&manifest, BufReader::new(file)).map_err(|source| io_error(&path, source))?;
        let stored = read.map_err(|refusal| CacheError::Refused { path, refusal })?;
        Ok(Some((manifest, stored)))
    }

    fn manifest_path(&self) -> PathBuf {
        self.directory.join(format!("{}.manifest", self.selector))
    }

    fn artifact_path(&self, manifest: &Manifest) -> PathBuf {
        self.directory.join(format!("{}.{}.artifact", self.selector, manifest.digest))
    }

    /// Removes the artifacts of former versions.
    fn remove_all_but(&self, kept: &Path) -> Result<(), CacheError> {
        let failed = |source| io_error(&self.directory, source);
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let digest =
                name.strip_prefix(&format!("{}.", self.selector)).and_then(|rest| rest.strip_suffix(".artifact"));
            // Of another selector that begins with the same words the rest is no digest.
            let ours = digest.is_some_and(|digest| crate::model::Digest::parse(digest).is_some());
            if ours && path != kept {
                fs::remove_file(&path).map_err(|source| io_error(&path, source))?;
            }
        }
        Ok(())
    }
}

/// Whether a file has these bytes and no others.
fn holds(path: &Path, stored: &StoredArtifact) -> io::Result<bool> {
    let (mut kept, mut wanted) = (BufReader::with_capacity(COMPARED_BYTES, File::open(path)?), stored.stored());
    loop {
        let (there, expected) = (kept.fill_buf()?, wanted.fill_buf()?);
        let count = there.len().min(expected.len());
        if there[..count] != expected[..count] || count == 0 {
            return Ok(there.is_empty() && expected.is_empty());
        }
        kept.consume(count);
        wanted.consume(count);
    }
}

/// Writes a file whole or not at all.
fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), CacheError> {
    let unfinished = path.with_extension(format!("unfinished-{}", std::process::id()));
    let written = File::create(&unfinished).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&unfinished, path)).map_err(|source| io_error(path, source))
}

fn io_error(path: &Path, source: io::Error) -> CacheError {
    CacheError::Io { path: path.to_owned(), source }
}
