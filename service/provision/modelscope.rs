//! The ModelScope hub: its listing and its addresses.
//!
//! Downloads land in Retort's cache, one folder per model and revision; what ModelScope's own
//! tools downloaded before is found and used, but their folders are never written to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use ureq::http::HeaderMap;

use super::{
    cache,
    config::{ModelSource, ProvisionConfig},
    digest::Digest,
    download::{self, Download},
    error::SourceError,
    files::{self, Completeness},
    http::{Client, Request, encode_path, encode_segment},
    model::{Cached, ModelFiles, ModelOrigin, ModelRequest},
    progress::Progress,
    published,
};

const DEFAULT_REVISION: &str = "master";

/// The model in Retort's cache, or else in that of ModelScope's own tools.
pub(super) fn cached(config: &ProvisionConfig, request: &ModelRequest<'_>) -> Option<Cached> {
    let found = |dir| ModelFiles {
        dir,
        origin: ModelOrigin::Cache(ModelSource::ModelScope),
        revision: Some(revision(request).to_owned()),
    };
    let own = folder(config, request);
    if cache::installed(&own).is_some() {
        return Some(Cached::Complete(found(own)));
    }
    // Their folders do not say which revision they hold, so only the default one is looked for.
    if revision(request) != DEFAULT_REVISION {
        return None;
    }
    // ModelScope's tools write a dot in a name as three underscores.
    let name = request.id.replace('.', "___");
    let root = &config.modelscope.cache_dir;
    [root.join("models").join(&name), root.join(&name)]
        .into_iter()
        .find_map(|dir| match files::completeness(&dir, request.weights) {
            Completeness::Complete => Some(Cached::Complete(found(dir))),
            Completeness::Unknown => Some(Cached::Unlisted(found(dir))),
            Completeness::Missing => None,
        })
}

/// Lists the repository and fetches its files into Retort's cache.
pub(super) fn fetch(
    config: &ProvisionConfig,
    request: &ModelRequest<'_>,
    progress: &Progress,
) -> Result<ModelFiles, SourceError> {
    let hub = Hub {
        config,
        client: Client::new(config.timeouts),
        request,
    };
    let listed = hub.list()?;
    let names: Vec<_> = listed.iter().map(|file| file.path.as_str()).collect();
    let selected = files::select(&names, request.weights)?;
    let mut wanted: Vec<_> = listed
        .iter()
        .filter(|file| selected.contains(&&*file.path))
        .collect();
    // Small files first: what is wrong with a repository then shows before its weights arrive.
    wanted.sort_by_key(|file| file.bytes);

    let target = folder(config, request);
    let _lock = cache::lock(&beside(&target, "lock"), request.id, progress)?;
    if cache::installed(&target).is_none() {
        // Not a temporary folder: a download that broke off goes on in it at the next start.
        let staging = beside(&target, "incomplete");
        for file in wanted {
            hub.provide(file, &staging, progress)?;
        }
        published::check(request, &staging, progress)?;
        cache::publish(
            &staging,
            &target,
            &config.modelscope.endpoint,
            revision(request),
        )?;
    }
    Ok(ModelFiles {
        dir: target,
        origin: ModelOrigin::Fetched(ModelSource::ModelScope),
        revision: Some(revision(request).to_owned()),
    })
}

/// Where Retort's cache keeps the model.
pub(super) fn folder(config: &ProvisionConfig, request: &ModelRequest<'_>) -> PathBuf {
    let name = request.id.replace('/', "--");
    let version = format!(
        "{}-{}",
        revision(request).replace('/', "--"),
        request.weights.name()
    );
    cache_root(config).join(name).join(version)
}

/// Where models of this source are cached.
pub(super) fn cache_root(config: &ProvisionConfig) -> PathBuf {
    config.cache_dir.join("models").join("modelscope")
}

/// The revision under ModelScope's name for it.
fn revision<'a>(request: &ModelRequest<'a>) -> &'a str {
    match request.revision {
        None | Some("main") => DEFAULT_REVISION,
        Some(revision) => revision,
    }
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{name}.{suffix}"))
}

/// `/api/v1/models/{id}/repo/files` answers with this around the list.
#[derive(Deserialize)]
struct Listing {
    #[serde(rename = "Data")]
    data: Option<ListingData>,
}

#[derive(Deserialize)]
struct ListingData {
    #[serde(rename = "Files")]
    files: Option<Vec<ListedFile>>,
}

#[derive(Deserialize)]
struct ListedFile {
    #[serde(rename = "Path")]
    path: String,
    #[serde(rename = "Size")]
    bytes: Option<u64>,
    #[serde(rename = "Sha256")]
    sha256: Option<String>,
    /// `blob`, or `tree` for a folder.
    #[serde(rename = "Type", default)]
    kind: String,
}

struct Hub<'a> {
    config: &'a ProvisionConfig,
    client: Client,
    request: &'a ModelRequest<'a>,
}

impl Hub<'_> {
    fn list(&self) -> Result<Vec<ListedFile>, SourceError> {
        let url = format!(
            "{}/api/v1/models/{}/repo/files?Revision={}&Recursive=true",
            self.config.modelscope.endpoint,
            self.request.id,
            encode_segment(revision(self.request))
        );
        let reply = self.client.get(&Request {
            url: &url,
            token: None,
            from: 0,
        })?;
        if reply.status != 200 {
            return Err(refusal(reply.status, &reply.headers));
        }
        let files = reply.json::<Listing>()?.data.and_then(|data| data.files);
        let files = files.ok_or_else(|| SourceError::new("the listing has no files"))?;
        Ok(files
            .into_iter()
            .filter(|file| file.kind != "tree")
            .collect())
    }

    /// Makes one file present in `folder`.
    fn provide(
        &self,
        file: &ListedFile,
        folder: &Path,
        progress: &Progress,
    ) -> Result<(), SourceError> {
        let target = folder.join(&file.path);
        // It was moved there after its hash was checked, in this start or an earlier one.
        if target.is_file() {
            return Ok(());
        }
        let url = format!(
            "{}/models/{}/resolve/{}/{}",
            self.config.modelscope.endpoint,
            self.request.id,
            encode_segment(revision(self.request)),
            encode_path(&file.path)
        );
        let wanted = Download {
            label: &file.path,
            url: &url,
            token: None,
            bytes: file.bytes,
            digest: file
                .sha256
                .as_deref()
                .and_then(|id| Digest::of_object_id(id, None)),
            explain: refusal,
        };
        let parent = target.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|error| SourceError::io("create", parent, &error))?;
        let part = beside(&target, "part");
        download::download(&self.client, &wanted, &part, &target, progress)
    }
}

fn refusal(status: u16, _headers: &HeaderMap) -> SourceError {
    SourceError::new(match status {
        401 | 403 => "the model is private or restricted".to_owned(),
        404 => "no such model or revision".to_owned(),
        _ => format!("the server answered with status {status}"),
    })
}
