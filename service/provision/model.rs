//! From a model's name to a folder with its files: a local folder, the caches, then the sources.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use retort_models::catalog::Entry;

use super::{
    cache,
    config::{ModelSource, Network, ProvisionConfig},
    error::{Attempt, ProvisionError, SourceError},
    files::Weights,
    hub, modelscope,
    progress::Progress,
    pypi_model,
};

/// The model that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct ModelRequest<'a> {
    /// A hub's `owner/name`, or the path of a folder.
    pub id: &'a str,
    /// Branch, tag or commit; the hub's default branch when none is given.
    pub revision: Option<&'a str>,
    /// Which kind of weights.
    pub weights: Weights,
    /// What the catalogue says of it, when the model was asked for by its name there.
    pub entry: Option<&'a Entry>,
}

impl ModelRequest<'_> {
    /// What to ask one source for. Hubs have the same model under different names, and a revision
    /// of one hub means nothing on another.
    fn at(&self, source: ModelSource) -> Self {
        let repository = self.entry.and_then(|entry| match source {
            ModelSource::HuggingFace => Some(&entry.huggingface),
            ModelSource::ModelScope => entry.modelscope.as_ref(),
            ModelSource::PyPi => None,
        });
        match repository {
            Some(repository) => Self {
                id: &repository.id,
                revision: self.revision.or(repository.revision.as_deref()),
                ..*self
            },
            None => *self,
        }
    }
}

/// A model's files on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The folder that holds `config.json` and what belongs to it.
    ///
    /// In the hub's cache its files are links into a neighbouring folder.
    pub dir: PathBuf,
    /// How it was found.
    pub origin: ModelOrigin,
    /// Commit, branch or package version, when the origin has one.
    pub revision: Option<String>,
}

/// How a model was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelOrigin {
    /// The path of a folder was given.
    LocalFolder,
    /// It was already in the cache of this source.
    Cache(ModelSource),
    /// It was fetched from this source just now.
    Fetched(ModelSource),
}

impl fmt::Display for ModelOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalFolder => formatter.write_str("local folder"),
            Self::Cache(source) => write!(formatter, "cache ({source})"),
            Self::Fetched(source) => write!(formatter, "fetched from {source}"),
        }
    }
}

/// What a source's cache knows about a model without asking anyone.
pub(super) enum Cached {
    /// Everything the model needs is there.
    Complete(ModelFiles),
    /// Another tool's download that has weights, but perhaps not every file of the repository.
    Unlisted(ModelFiles),
}

/// Finds a model's files, fetching them from the first source that has them.
///
/// Fails when a given folder holds no model, when the network is forbidden and no cache has the
/// model, and when every source failed; the error then names each with its reason.
pub fn model(
    config: &ProvisionConfig,
    request: &ModelRequest<'_>,
    progress: &Progress,
) -> Result<ModelFiles, ProvisionError> {
    if let Some(dir) = local_folder(request.id)? {
        cache::refuse_lfs_pointers(&dir).map_err(|error| whole(request, error))?;
        return Ok(ModelFiles {
            dir,
            origin: ModelOrigin::LocalFolder,
            revision: None,
        });
    }
    let id = pypi_model::canonical_id(request.id);
    let request = &ModelRequest { id, ..*request };
    check_names(request)?;

    let mut unlisted = Vec::new();
    for source in &config.model_sources {
        match cached(config, *source, request) {
            Some(Cached::Complete(found)) => {
                cache::refuse_lfs_pointers(&found.dir).map_err(|error| whole(request, error))?;
                return Ok(found);
            }
            Some(Cached::Unlisted(found)) => unlisted.push((*source, found)),
            None => {}
        }
    }
    if let Network::Forbidden { by } = &config.network {
        return match unlisted.into_iter().next() {
            Some((_, found)) => adopt(request, found, progress),
            None => Err(not_cached(config, request, by)),
        };
    }
    fetch_from_first(config, request, unlisted, progress)
}

fn fetch_from_first(
    config: &ProvisionConfig,
    request: &ModelRequest<'_>,
    mut unlisted: Vec<(ModelSource, ModelFiles)>,
    progress: &Progress,
) -> Result<ModelFiles, ProvisionError> {
    let (mut attempts, mut hints) = (Vec::new(), Vec::new());
    for source in &config.model_sources {
        if progress.is_cancelled() {
            break;
        }
        let place = place(config, *source);
        match fetch(config, *source, request, progress) {
            Ok(found) => return Ok(found),
            Err(error) => {
                progress.note(&format!("{}: {place}: {}", request.id, error.reason));
                attempts.push(Attempt {
                    source: place,
                    reason: error.reason,
                });
                hints.extend(error.hint);
            }
        }
        // Files that are already here beat a download of the same model from elsewhere.
        if let Some(at) = unlisted.iter().position(|(cached, _)| cached == source) {
            return adopt(request, unlisted.swap_remove(at).1, progress);
        }
    }
    hints.push("give the path of a folder with the model's files".to_owned());
    hints.dedup();
    Err(
        ProvisionError::new(format!("the model `{}` could not be fetched", request.id))
            .with_attempts(attempts)
            .with_hint(hints.join("; or ")),
    )
}

fn cached(
    config: &ProvisionConfig,
    source: ModelSource,
    request: &ModelRequest<'_>,
) -> Option<Cached> {
    let look_up = |request: &ModelRequest<'_>| match source {
        ModelSource::HuggingFace => hub::cached(config, request),
        ModelSource::ModelScope => modelscope::cached(config, request),
        ModelSource::PyPi => pypi_model::cached(config, request).map(Cached::Complete),
    };
    // The catalogue names what to fetch. What another tool fetched of the same model does as well.
    look_up(&request.at(source)).or_else(|| look_up(request))
}

fn fetch(
    config: &ProvisionConfig,
    source: ModelSource,
    request: &ModelRequest<'_>,
    progress: &Progress,
) -> Result<ModelFiles, SourceError> {
    let request = &request.at(source);
    let found = match source {
        ModelSource::HuggingFace => hub::fetch(config, request, progress),
        ModelSource::ModelScope => modelscope::fetch(config, request, progress),
        ModelSource::PyPi => pypi_model::fetch(config, request, progress),
    }?;
    cache::refuse_lfs_pointers(&found.dir)?;
    Ok(found)
}

/// Uses what another tool left in a cache, saying that its completeness is not known.
fn adopt(
    request: &ModelRequest<'_>,
    found: ModelFiles,
    progress: &Progress,
) -> Result<ModelFiles, ProvisionError> {
    cache::refuse_lfs_pointers(&found.dir).map_err(|error| whole(request, error))?;
    progress.note(&format!(
        "{}: using the files in `{}`; without the network it is not known whether they are all",
        request.id,
        found.dir.display()
    ));
    Ok(found)
}

/// The folder that `id` names, when it is a path and not a hub's name.
fn local_folder(id: &str) -> Result<Option<PathBuf>, ProvisionError> {
    let path = Path::new(id);
    if path.is_dir() && holds_model(path) {
        return Ok(Some(path.to_path_buf()));
    }
    let looks_like_path = path.is_absolute()
        || path.is_file()
        || id.starts_with(['.', '~'])
        || id.contains('\\')
        || id.matches('/').count() > 1;
    if !looks_like_path {
        return Ok(None);
    }
    let what = match (path.is_dir(), path.exists()) {
        (true, _) => "holds neither a `config.json` nor an `.onnx` file",
        (_, true) => "is not a folder",
        _ => "does not exist",
    };
    Err(
        ProvisionError::new(format!("the model folder `{id}` {what}"))
            .with_hint("give a folder with the model's files, or a hub's `owner/name`"),
    )
}

fn holds_model(folder: &Path) -> bool {
    let has_onnx = |folder: &Path| {
        folder.read_dir().is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "onnx"))
            })
        })
    };
    folder.join("config.json").is_file() || has_onnx(folder) || has_onnx(&folder.join("onnx"))
}

/// Names become parts of paths and addresses, so only what a hub allows in them may pass.
fn check_names(request: &ModelRequest<'_>) -> Result<(), ProvisionError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed);
    if request.id.split('/').count() > 2 || !request.id.split('/').all(part) {
        return Err(
            ProvisionError::new(format!("`{}` is not the name of a model", request.id))
                .with_hint("give a hub's `owner/name` or the path of a folder"),
        );
    }
    match request.revision {
        Some(revision) if !revision.split('/').all(part) => Err(ProvisionError::new(format!(
            "`{revision}` is not a revision"
        ))
        .with_hint("give a branch, a tag or a commit")),
        _ => Ok(()),
    }
}

/// A source with its address, for people.
fn place(config: &ProvisionConfig, source: ModelSource) -> String {
    match source {
        ModelSource::HuggingFace => format!("{source} ({})", config.hugging_face.endpoint),
        ModelSource::ModelScope => format!("{source} ({})", config.modelscope.endpoint),
        ModelSource::PyPi => format!("{source} (pip)"),
    }
}

fn not_cached(config: &ProvisionConfig, request: &ModelRequest<'_>, by: &str) -> ProvisionError {
    let looked_in = |source: &ModelSource| {
        let place = match source {
            ModelSource::HuggingFace => hub::folder(config, request.id),
            ModelSource::ModelScope => modelscope::folder(config, &request.at(*source)),
            ModelSource::PyPi => pypi_model::cache_root(config),
        };
        let revision = request
            .revision
            .map_or(String::new(), |r| format!(" in revision `{r}`"));
        Attempt {
            source: format!("{source} cache `{}`", place.display()),
            reason: format!("no complete copy{revision}"),
        }
    };
    let message = format!(
        "the model `{}` is not here, and `{by}` forbids fetching it",
        request.id
    );
    ProvisionError::new(message)
        .with_attempts(config.model_sources.iter().map(looked_in).collect())
        .with_hint(format!(
            "start once without `{by}`, or give the path of a folder"
        ))
}

fn whole(request: &ModelRequest<'_>, error: SourceError) -> ProvisionError {
    let message = format!(
        "the model `{}` cannot be used: {}",
        request.id, error.reason
    );
    let whole = ProvisionError::new(message);
    match error.hint {
        Some(hint) => whole.with_hint(hint),
        None => whole,
    }
}
