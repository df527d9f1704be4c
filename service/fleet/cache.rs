//! The files of models on this machine: which there are, and taking them away.

use std::path::Path;

use super::{CachedModel, Fleet};
use crate::{
    error::{Error, Result},
    provision,
};

impl Fleet {
    /// The models whose files are on this machine. Blocks: folders are measured.
    pub fn cached(&self) -> Vec<CachedModel> {
        provision::cache_report(&self.0.provision)
            .into_iter()
            .filter(|entry| entry.what != "ONNX Runtime")
            .map(|entry| CachedModel {
                name: name_of(&entry.path),
                source: entry.what,
                path: entry.path,
                bytes: entry.bytes,
            })
            .collect()
    }

    /// Deletes the files of a model. Blocks.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when the path is none of [`Fleet::cached`] or a served model uses
    /// it, [`Error::Internal`] when the system refuses.
    pub fn remove_cached(&self, path: &Path) -> Result<()> {
        if !self.cached().iter().any(|model| model.path == path) {
            let message = format!("`{}` is no model in the cache", path.display());
            return Err(Error::invalid("model_version", message));
        }
        let is_user = |model: &super::FleetModel| {
            model
                .directory
                .as_ref()
                .is_some_and(|dir| dir.starts_with(path))
        };
        if let Some(user) = self.models().into_iter().find(is_user) {
            let name = user.info.name;
            let message = format!("the files are used by model `{name}`; terminate it first");
            return Err(Error::invalid("model_version", message));
        }
        std::fs::remove_dir_all(path)
            .map_err(|error| Error::Internal(format!("delete `{}`: {error}", path.display())))?;
        tracing::info!(path = %path.display(), "files of a model deleted");
        Ok(())
    }
}

/// The hub's cache writes `models--organisation--name`.
fn name_of(path: &Path) -> String {
    let last = path.file_name().unwrap_or_default().to_string_lossy();
    match last.strip_prefix("models--") {
        Some(id) => id.replacen("--", "/", 1),
        None => last.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_hub_are_named_by_their_id() {
        let check = |path: &str, name: &str| assert_eq!(name_of(Path::new(path)), name);
        check("/c/hub/models--BAAI--bge-m3", "BAAI/bge-m3");
        check("/c/hub/models--gpt2", "gpt2");
        check("/c/pypi/a-model-0.1.0", "a-model-0.1.0");
    }
}
