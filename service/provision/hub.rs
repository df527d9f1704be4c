//! The Hugging Face hub: its cache layout, its listing and its addresses.
//!
//! Downloads land in the hub's own cache (`blobs`, `snapshots`, `refs` under
//! `models--owner--name`), so other tools find them and theirs are found here. hf-hub names the
//! folders; its downloader is not used, as it neither checks hashes nor limits the connect time.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hf_hub::Repo;
use serde::Deserialize;
use ureq::http::HeaderMap;

use super::{
    cache::{self, Manifest, safe_relative, write_atomically},
    config::{ModelSource, ProvisionConfig},
    digest::Digest,
    download::{self, Download},
    error::SourceError,
    files::{self, Completeness},
    http::{Client, Request, encode_path, encode_segment},
    model::{Cached, ModelFiles, ModelOrigin, ModelRequest},
    progress::Progress,
    published,
    secret::Secret,
};

const DEFAULT_REVISION: &str = "main";

/// The model in the hub's cache, whoever put it there.
pub(super) fn cached(config: &ProvisionConfig, request: &ModelRequest<'_>) -> Option<Cached> {
    let repository = Repository::new(config, request);
    let commit = repository.cached_commit()?;
    let snapshot = repository.snapshot(&commit);
    let listed = Manifest::read(&repository.manifest(&commit))
        .is_some_and(|manifest| manifest.holds_for(&snapshot));
    let origin = ModelOrigin::Cache(ModelSource::HuggingFace);
    let found = ModelFiles {
        dir: snapshot.clone(),
        origin,
        revision: Some(commit.clone()),
    };
    if listed {
        return Some(Cached::Complete(found));
    }
    match files::completeness(&snapshot, request.weights) {
        Completeness::Complete => Some(Cached::Complete(found)),
        // The hub's tools remember which optional files they asked for in vain.
        Completeness::Unknown if repository.absent(&commit, "modules.json") => {
            Some(Cached::Complete(found))
        }
        Completeness::Unknown => Some(Cached::Unlisted(found)),
        Completeness::Missing => None,
    }
}

/// Lists the repository and fetches what is not in the hub's cache yet.
pub(super) fn fetch(
    config: &ProvisionConfig,
    request: &ModelRequest<'_>,
    progress: &Progress,
) -> Result<ModelFiles, SourceError> {
    let repository = Repository::new(config, request);
    let hub = Hub {
        config,
        client: Client::new(config.timeouts),
        token: token(config),
    };
    let listing = hub.list(&repository)?;
    let names: Vec<_> = listing
        .siblings
        .iter()
        .map(|file| file.rfilename.as_str())
        .collect();
    let selected = files::select(&names, request.weights)?;
    let mut wanted: Vec<_> = listing
        .siblings
        .iter()
        .filter(|file| selected.contains(&&*file.rfilename))
        .collect();
    // Small files first: what is wrong with a repository then shows before its weights arrive.
    wanted.sort_by_key(|file| file.size);
    for file in &wanted {
        hub.provide(&repository, &listing.sha, file, progress)?;
    }

    let snapshot = repository.snapshot(&listing.sha);
    published::check(request, &snapshot, progress)?;
    let mut manifest = Manifest {
        source: config.hugging_face.endpoint.clone(),
        revision: listing.sha.clone(),
        files: Default::default(),
    };
    for file in wanted {
        let path = snapshot.join(&file.rfilename);
        let metadata = fs::metadata(&path).map_err(|e| SourceError::io("read", &path, &e))?;
        manifest
            .files
            .insert(file.rfilename.clone(), metadata.len());
    }
    repository.remember(&listing.sha, &manifest)?;
    Ok(ModelFiles {
        dir: snapshot,
        origin: ModelOrigin::Fetched(ModelSource::HuggingFace),
        revision: Some(listing.sha),
    })
}

/// Where the hub's cache keeps a model.
pub(super) fn folder(config: &ProvisionConfig, id: &str) -> PathBuf {
    config.hugging_face.cache_dir.join(folder_name(id))
}

fn folder_name(id: &str) -> String {
    Repo::model(id.to_owned()).folder_name()
}

/// The paths of one model at one revision in the hub's cache.
struct Repository<'a> {
    id: &'a str,
    revision: &'a str,
    folder: PathBuf,
    locks: PathBuf,
    /// Folder of our own record of what a snapshot must hold.
    manifests: PathBuf,
    weights: &'static str,
}

impl<'a> Repository<'a> {
    fn new(config: &ProvisionConfig, request: &ModelRequest<'a>) -> Self {
        let name = folder_name(request.id);
        let cache = &config.hugging_face.cache_dir;
        Self {
            id: request.id,
            revision: request.revision.unwrap_or(DEFAULT_REVISION),
            folder: cache.join(&name),
            locks: cache.join(".locks").join(&name),
            manifests: config
                .cache_dir
                .join("models")
                .join("huggingface")
                .join(&name),
            weights: request.weights.name(),
        }
    }

    fn cached_commit(&self) -> Option<String> {
        if is_commit(self.revision) {
            return Some(self.revision.to_owned());
        }
        let commit = fs::read_to_string(self.reference()).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    fn reference(&self) -> PathBuf {
        self.folder.join("refs").join(self.revision)
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.folder.join("blobs").join(name)
    }

    fn manifest(&self, commit: &str) -> PathBuf {
        self.manifests
            .join(format!("{commit}-{}.json", self.weights))
    }

    fn absent(&self, commit: &str, name: &str) -> bool {
        self.folder
            .join(".no_exist")
            .join(commit)
            .join(name)
            .exists()
    }

    /// Records which commit the revision is and which files belong to it.
    fn remember(&self, commit: &str, manifest: &Manifest) -> Result<(), SourceError> {
        if !is_commit(self.revision) {
            let reference = self.reference();
            write_atomically(&reference, commit.as_bytes())
                .map_err(|error| SourceError::io("write", &reference, &error))?;
        }
        let path = self.manifest(commit);
        manifest
            .write(&path)
            .map_err(|error| SourceError::io("write", &path, &error))
    }

    /// The file by which tools that want the same blob hold each other off.
    fn lock(&self, blob: &str) -> PathBuf {
        self.locks.join(format!("{blob}.lock"))
    }
}

/// A commit and its files, as `/api/models/{id}/revision/{revision}?blobs=true` answers.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

/// One file of a listing.
#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<LargeFile>,
}

/// What a listing says of a file that is kept in large-file storage.
#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
    size: Option<u64>,
}

/// What names a file's content and how long it is.
struct Metadata {
    /// Name of the blob: the hub's hash of the content.
    etag: String,
    bytes: Option<u64>,
}

struct Hub<'a> {
    config: &'a ProvisionConfig,
    client: Client,
    token: Option<Secret>,
}

impl Hub<'_> {
    fn list(&self, repository: &Repository<'_>) -> Result<Listing, SourceError> {
        let url = format!(
            "{}/api/models/{}/revision/{}?blobs=true",
            self.config.hugging_face.endpoint,
            repository.id,
            encode_segment(repository.revision)
        );
        let reply = self.client.get(&self.request(&url))?;
        if reply.status != 200 {
            return Err(self.refusal(reply.status, &reply.headers));
        }
        let listing: Listing = reply.json()?;
        // The commit becomes the name of a folder.
        if is_commit(&listing.sha) {
            Ok(listing)
        } else {
            Err(SourceError::new(format!(
                "`{}` is not a commit",
                listing.sha
            )))
        }
    }

    /// Makes one file of the snapshot present.
    fn provide(
        &self,
        repository: &Repository<'_>,
        commit: &str,
        file: &Sibling,
        progress: &Progress,
    ) -> Result<(), SourceError> {
        let name = &file.rfilename;
        let pointer = repository.snapshot(commit).join(name);
        let bytes = fs::metadata(&pointer).ok().map(|metadata| metadata.len());
        if bytes.is_some() && (file.size.is_none() || bytes == file.size) {
            return Ok(());
        }
        let url = format!(
            "{}/{}/resolve/{commit}/{}",
            self.config.hugging_face.endpoint,
            repository.id,
            encode_path(name)
        );
        let Metadata { etag, bytes } = self.metadata(file, &url)?;
        let blob = repository.blob(&etag);
        let lock = cache::lock(&repository.lock(&etag), repository.id, progress)?;
        if !blob.is_file() {
            let wanted = Download {
                label: name,
                url: &url,
                token: self.token.as_ref(),
                bytes,
                digest: Digest::of_object_id(&etag, bytes),
                explain: explain(self.token.is_some()),
            };
            let part = repository.blob(&format!("{etag}.incomplete"));
            download::download(&self.client, &wanted, &part, &blob, progress)?;
        }
        drop(lock);
        point_at(&pointer, &repository.snapshot(commit), &blob, name)
            .map_err(|error| SourceError::io("link", &pointer, &error))
    }

    /// The listing's word for large files; for the others the listing has no hash, but the
    /// file's own headers do.
    fn metadata(&self, file: &Sibling, url: &str) -> Result<Metadata, SourceError> {
        let lfs = file.lfs.as_ref();
        if let Some(sha256) = lfs
            .and_then(|lfs| lfs.sha256.as_deref())
            .and_then(blob_name)
        {
            let bytes = lfs.and_then(|lfs| lfs.size).or(file.size);
            return Ok(Metadata {
                etag: sha256,
                bytes,
            });
        }
        let reply = self.client.head(&self.request(url))?;
        if !matches!(reply.status, 200..=399) {
            return Err(self.refusal(reply.status, &reply.headers));
        }
        let etag = reply
            .header("x-linked-etag")
            .or_else(|| reply.header("etag"));
        let etag = etag.and_then(blob_name).ok_or_else(|| {
            SourceError::new(format!(
                "the endpoint sends no ETag for `{}`",
                file.rfilename
            ))
        })?;
        let linked = reply
            .header("x-linked-size")
            .and_then(|size| size.parse().ok());
        let own = || reply.content_length().filter(|_| reply.status == 200);
        Ok(Metadata {
            etag,
            bytes: file.size.or(linked).or_else(own),
        })
    }

    fn request<'a>(&'a self, url: &'a str) -> Request<'a> {
        Request {
            url,
            token: self.token.as_ref(),
            from: 0,
        }
    }

    fn refusal(&self, status: u16, headers: &HeaderMap) -> SourceError {
        explain(self.token.is_some())(status, headers)
    }
}

/// The token that was given, or the one `hf auth login` stored.
fn token(config: &ProvisionConfig) -> Option<Secret> {
    let stored = || {
        let token = fs::read_to_string(config.hugging_face.token_file.as_ref()?).ok()?;
        Some(Secret::new(token.trim())).filter(|token| !token.expose().is_empty())
    };
    config.hugging_face.token.clone().or_else(stored)
}

/// The words for a status, which depend on whether a token was sent along.
fn explain(with_token: bool) -> fn(u16, &HeaderMap) -> SourceError {
    if with_token {
        |status, headers| refusal(status, headers, "the token in HF_TOKEN was not accepted")
    } else {
        |status, headers| refusal(status, headers, "no token was sent")
    }
}

fn refusal(status: u16, headers: &HeaderMap, about_token: &str) -> SourceError {
    const LICENCE: &str = "accept the licence on the model's page on the hub, and set HF_TOKEN to \
                           a token of the account that accepted it";
    let code = headers
        .get("x-error-code")
        .and_then(|code| code.to_str().ok())
        .unwrap_or_default();
    match (status, code) {
        (_, "GatedRepo") | (403, _) => SourceError::new(format!(
            "access to this model is restricted, and {about_token}"
        ))
        .with_hint(LICENCE),
        // Without a valid token the hub does not tell a private model from one that is not there.
        (401, _) => SourceError::new(format!(
            "no such model, or it is private or gated, and {about_token}"
        ))
        .with_hint(format!("check the name; for a gated model {LICENCE}")),
        (404, "RevisionNotFound") => SourceError::new("no such revision"),
        (404, "EntryNotFound") => SourceError::new("a file of the listing is not there"),
        (404, _) => SourceError::new("no such model"),
        (429, _) => SourceError::new("too many requests (status 429)")
            .with_hint("wait some minutes, or set HF_TOKEN: accounts have a higher limit"),
        _ => SourceError::new(format!("the server answered with status {status}")),
    }
}

/// An ETag or object id as a file name, without quotes and the mark of a weak one.
fn blob_name(etag: &str) -> Option<String> {
    let name = etag.trim().trim_start_matches("W/").trim_matches('"');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (!name.is_empty() && name.len() <= 128 && name.bytes().all(allowed)).then(|| name.to_owned())
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Makes `pointer`, which is `name` in the folder `snapshot`, lead to `blob`. The link is made
/// aside and renamed: another process that reads the snapshot never finds a file missing.
fn point_at(pointer: &Path, snapshot: &Path, blob: &Path, name: &str) -> io::Result<()> {
    let parent = pointer.parent().unwrap_or(snapshot);
    fs::create_dir_all(parent)?;
    // Relative, so that the cache can be moved or mounted elsewhere: out of the subfolders of the
    // name, out of the snapshot and of `snapshots`.
    let levels = safe_relative(name).map_or(0, |path| path.components().count() - 1) + 2;
    let mut target: PathBuf = std::iter::repeat_n("..", levels).collect();
    target.push("blobs");
    target.push(blob.file_name().unwrap_or_default());
    let aside = tempfile::Builder::new()
        .prefix(".link-")
        .tempdir_in(parent)?;
    let made = aside.path().join("link");
    link(&target, blob, &made)?;
    fs::rename(&made, pointer)
}

#[cfg(unix)]
fn link(target: &Path, _blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

/// Links need a privilege on Windows, so the hub's tools keep a second name or a copy there.
#[cfg(not(unix))]
fn link(_target: &Path, blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::hard_link(blob, pointer).or_else(|_| fs::copy(blob, pointer).map(drop))
}
