//! What was downloaded against the hashes that the catalogue has of it: a hub that answers for
//! itself proves only that the transfer went well.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    digest::{Digest, Hasher},
    error::SourceError,
    model::ModelRequest,
    progress::Progress,
};

/// Hashes the files of a folder that the catalogue knows. One that differs is taken out of the
/// folder, so that no later start takes the folder for a finished download.
///
/// # Errors
/// Names the file, its hash and the one that was expected.
pub(super) fn check(
    request: &ModelRequest<'_>,
    folder: &Path,
    progress: &Progress,
) -> Result<(), SourceError> {
    let here = |(name, _): &(&String, &String)| folder.join(name).is_file();
    for (name, sha256) in hashes(request).into_iter().flatten().filter(here) {
        let path = folder.join(name);
        let _task = progress.task(&format!("checking {name}"));
        let digest = Digest::Sha256(sha256.clone());
        let actual = Hasher::of_file(&digest, &path)
            .map_err(|error| SourceError::io("read", &path, &error))?;
        if actual != *sha256 {
            fs::remove_file(&path).map_err(|error| SourceError::io("remove", &path, &error))?;
            let reason = format!("sha256 of `{name}` is `{actual}`, the catalogue has `{sha256}`");
            return Err(SourceError::new(reason).with_hint(
                "the file was replaced or is damaged; to use it all the same, ask for the model by \
                 its `owner/name` instead of its name in the catalogue",
            ));
        }
    }
    Ok(())
}

/// The hashes that the catalogue has, unless somebody wants another revision than it describes.
fn hashes<'a>(request: &ModelRequest<'a>) -> Option<&'a BTreeMap<String, String>> {
    let entry = request.entry?;
    let described = [Some(&entry.huggingface), entry.modelscope.as_ref()];
    let is_described = described.into_iter().flatten().any(|repository| {
        let revision = repository.revision.as_deref();
        revision.is_some() && revision == request.revision
    });
    (request.revision.is_none() || is_described).then_some(&entry.sha256)
}
