//! A model's numbers against the published ones before it serves: once for each set of files, and
//! remembered in the cache directory. A model that fails is not opened for requests.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    time::{Instant, UNIX_EPOCH},
};

use retort_models::{
    EncoderInfo, EncoderModel, Fidelity, Runtime,
    catalog::Entry,
    verify::{Published, Verification, verify_weights},
};
use sha2::{Digest, Sha256};

use super::{StartError, found::Stamps};
use crate::config::{Config, ModelEntry, Verify};

/// Folder of the cache directory in which passes are remembered.
const FOLDER: &str = "verified";
/// Files up to this size are hashed; of larger ones, the weights, size and time must do.
const HASHED_BYTES_MAX: u64 = 1 << 20;

/// Compares a model with what is published of it, where something is.
///
/// # Errors
/// When a number is not what was published; the message names the first one.
pub(super) fn check(
    runtime: &Runtime,
    config: &Config,
    entry: &ModelEntry,
    opened: &Opened<'_>,
) -> Result<(), StartError> {
    let Some(known) = entry
        .known
        .as_ref()
        .filter(|_| config.verify != Verify::Off)
    else {
        return Ok(());
    };
    let published = Published::of(&config.catalog, known)?;
    if published.references.is_empty() || computes_otherwise(entry, known) {
        return Ok(());
    }
    let record = record(runtime, config, entry, opened, &published);
    let model = &*entry.name;
    if config.verify == Verify::FirstLoad && record.as_ref().is_ok_and(|path| path.exists()) {
        tracing::debug!(model, "its numbers were checked before");
        return Ok(());
    }
    let started = Instant::now();
    // Published numbers were computed in 32 bits; they tell whether the weights are right. How far
    // another type is from that was measured when the model was loaded.
    let found = verify_weights(opened.model, &published, config.cpu.threads, &mut |_, _| ())?;
    if let Some(reason) = failure(&found) {
        return Err(StartError {
            message: format!(
                "model `{model}` does not give the published numbers of `{}`: {reason}",
                known.name
            ),
            hint: Some(format!(
                "`retort verify {}` shows every number; its files may be damaged or not the \
                 model's own. `--verify off` serves it as it is",
                entry.location.id()
            )),
        });
    }
    let references = found.compared();
    if references == 0 {
        tracing::warn!(
            model,
            "none of its published numbers can be compared in this build"
        );
        return Ok(());
    }
    let seconds = started.elapsed().as_secs_f32();
    tracing::info!(model, references, seconds, "it gives the published numbers");
    if let Err(error) = record.and_then(|path| remember(&path, model)) {
        // Then the next start checks again.
        tracing::debug!(model, %error, "the check cannot be remembered");
    }
    Ok(())
}

/// A model and where its files are.
pub(super) struct Opened<'a> {
    /// Loaded, not yet open for requests.
    pub model: &'a EncoderModel,
    /// Its files.
    pub dir: &'a Path,
}

/// The numbers were published for one pooling and one layer; an operator who wants another one gets
/// others.
fn computes_otherwise(entry: &ModelEntry, known: &Entry) -> bool {
    let pooling = entry.pooling.is_some() && entry.pooling != known.pooling;
    pooling || (entry.cutoff_layer.is_some() && entry.cutoff_layer != known.cutoff_layer)
}

/// The first failure and how many there are.
fn failure(found: &Verification) -> Option<String> {
    let mut failures = found.failures();
    let first = failures.next()?.to_string();
    Some(match failures.count() {
        0 => first,
        more => format!("{first}; and `{more}` more"),
    })
}

/// The file that is there when these very files passed on this very program.
fn record(
    runtime: &Runtime,
    config: &Config,
    entry: &ModelEntry,
    opened: &Opened<'_>,
    published: &Published,
) -> io::Result<PathBuf> {
    let mut hasher = Sha256::new();
    let facts = format!(
        "{}\n{}\n{}\n{:?}\n{:?}\n{:?}\n",
        entry.name,
        env!("CARGO_PKG_VERSION"),
        runtime.version(),
        entry.max_tokens,
        as_published(opened.model.info()),
        published,
    );
    hasher.update(facts);
    for file in Stamps::of(opened.dir)?.iter() {
        let modified = file.modified.duration_since(UNIX_EPOCH);
        let name = file.path.strip_prefix(opened.dir).unwrap_or(&file.path);
        hasher.update(format!("{name:?} {} {modified:?}\n", file.bytes));
        if file.bytes <= HASHED_BYTES_MAX {
            hasher.update(fs::read(&file.path)?);
        }
    }
    let name: String = hasher
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(config.provision.cache_dir.join(FOLDER).join(name))
}

/// The facts that the numbers depend on: not the type that requests are computed in.
fn as_published(info: &EncoderInfo) -> EncoderInfo {
    EncoderInfo {
        dtype: String::new(),
        isa: "",
        fidelity: Fidelity::default(),
        ..info.clone()
    }
}

/// Written beside and renamed, so that a process that is killed leaves no pass behind.
fn remember(path: &Path, model: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{model}")?;
    file.persist(path)?;
    Ok(())
}
