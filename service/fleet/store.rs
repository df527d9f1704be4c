//! The file that says which launched models and registrations return after a restart: JSON with a
//! version, replaced as a whole so that a process that is killed leaves the old one or the new one.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use retort_models::{DtypeChoice, catalog::Entry};
use serde::{Deserialize, Serialize};

use super::LaunchSpec;
use crate::{config::Generation, engine::request::Task};

/// The form of the file that this program writes, and the only one it reads.
const VERSION: u32 = 1;

/// The file, and what it holds.
pub struct Store {
    path: PathBuf,
    registrations: Vec<Entry>,
}

/// What returns.
#[derive(Debug, Default)]
pub struct Saved {
    /// Models, in the order in which they were launched.
    pub models: Vec<LaunchSpec>,
    /// Registrations of the user.
    pub registrations: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    #[serde(default)]
    models: Vec<Model>,
    #[serde(default)]
    registrations: Vec<Entry>,
}

/// A launch as it is written. Keys that another version knows are passed over.
#[derive(Serialize, Deserialize)]
struct Model {
    uid: String,
    reference: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(default = "one")]
    replicas: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_tokens: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pooling: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(default = "auto")]
    dtype: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kv_cache_bytes: Option<u64>,
    keep_alive: String,
}

fn one() -> usize {
    1
}

fn auto() -> String {
    DtypeChoice::Auto.to_string()
}

impl Store {
    /// A file that need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            registrations: Vec::new(),
        }
    }

    /// What returns; nothing when there is no file. A file that cannot be understood is moved
    /// aside for a person to look at.
    pub fn read(&mut self) -> Saved {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Saved::default(),
            Err(error) => return self.damaged(&error.to_string()),
        };
        let saved = serde_json::from_str::<File>(&text)
            .map_err(|error| error.to_string())
            .and_then(|file| match file.version {
                VERSION => Ok(file),
                other => Err(format!(
                    "its version is {other}; {VERSION} is understood here"
                )),
            })
            .and_then(|file| {
                let models: Result<Vec<_>, _> = file.models.into_iter().map(Model::spec).collect();
                Ok(Saved {
                    models: models?,
                    registrations: file.registrations,
                })
            });
        match saved {
            Ok(saved) => {
                self.registrations.clone_from(&saved.registrations);
                saved
            }
            Err(error) => self.damaged(&error),
        }
    }

    /// Replaces the models; a failure is told in the log, as the models run all the same.
    pub fn write_models(&self, models: &[LaunchSpec]) {
        let file = File {
            version: VERSION,
            models: models.iter().map(Model::of).collect(),
            registrations: self.registrations.clone(),
        };
        let path = self.path.display();
        match write(&self.path, &file) {
            Ok(()) => tracing::debug!(%path, models = file.models.len(), "noted what returns"),
            Err(error) => tracing::error!(
                %path, %error, "cannot note which models return after a restart"
            ),
        }
    }

    /// Replaces the registrations; they are written with the models.
    pub fn set_registrations(&mut self, registrations: Vec<Entry>) {
        self.registrations = registrations;
    }

    /// The registrations that return.
    pub fn registrations(&self) -> &[Entry] {
        &self.registrations
    }

    fn damaged(&self, error: &str) -> Saved {
        let aside = self.path.with_extension("damaged");
        let moved = fs::rename(&self.path, &aside);
        tracing::warn!(
            path = %self.path.display(),
            moved_to = moved.is_ok().then(|| aside.display().to_string()),
            error,
            "the list of models that return after a restart cannot be read; none returns"
        );
        Saved::default()
    }
}

fn write(path: &Path, file: &File) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut next = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut next, file)?;
    next.write_all(b"\n")?;
    next.as_file().sync_all()?;
    next.persist(path)?;
    // The new name is on the disk only once its folder is; not every system can be asked for it.
    #[cfg(unix)]
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

impl Model {
    fn of(spec: &LaunchSpec) -> Self {
        Self {
            uid: spec.uid.clone().unwrap_or_default(),
            reference: spec.reference.clone(),
            revision: spec.revision.clone(),
            task: spec.task.map(|task| task.name().into()),
            replicas: spec.replicas,
            max_tokens: spec.max_tokens,
            pooling: spec.pooling.map(|pooling| pooling.to_string()),
            device: spec.device.as_ref().map(ToString::to_string),
            dtype: spec.dtype.to_string(),
            weights: Some(spec.generation.weights.to_string()),
            kv_cache_bytes: Some(spec.generation.kv_cache_bytes),
            keep_alive: spec.keep_alive.to_string(),
        }
    }

    fn spec(self) -> Result<LaunchSpec, String> {
        let task = |name: &str| Task::ALL.into_iter().find(|task| task.name() == name);
        let pooling = |name: String| {
            name.parse()
                .map_err(|_| format!("there is no pooling `{name}`"))
        };
        let wrong = |error: retort_models::Error| error.to_string();
        let standard = Generation::default();
        let weights = self.weights.map(|name| name.parse().map_err(wrong));
        let device = |name: String| {
            let read = name.parse();
            read.map_err(|rule| format!("the device `{name}` {rule}"))
        };
        Ok(LaunchSpec {
            uid: Some(self.uid),
            task: self.task.as_deref().and_then(task),
            replicas: self.replicas,
            max_tokens: self.max_tokens,
            pooling: self.pooling.map(pooling).transpose()?,
            device: self.device.map(device).transpose()?,
            dtype: self.dtype.parse().map_err(wrong)?,
            generation: Generation {
                weights: weights.transpose()?.unwrap_or(standard.weights),
                kv_cache_bytes: self.kv_cache_bytes.unwrap_or(standard.kv_cache_bytes),
            },
            keep_alive: self.keep_alive.parse()?,
            persist: true,
            revision: self.revision,
            ..LaunchSpec::of(self.reference)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use retort_models::{DecoderWeights, Pooling};

    use super::*;
    use crate::engine::KeepAlive;

    fn spec() -> LaunchSpec {
        LaunchSpec {
            uid: Some("m3".into()),
            task: Some(Task::Embed),
            replicas: 2,
            max_tokens: Some(512),
            pooling: Some(Pooling::Cls),
            device: Some(crate::config::DeviceChoice::Cpu),
            dtype: DtypeChoice::Int8,
            generation: Generation {
                weights: DecoderWeights::Int4,
                kv_cache_bytes: 5 << 20,
            },
            keep_alive: KeepAlive::For(Duration::from_secs(90)),
            persist: true,
            revision: Some("v1".into()),
            ..LaunchSpec::of("BAAI/bge-m3")
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/state.json");
        Store::new(path.clone()).write_models(&[spec()]);
        assert_eq!(Store::new(path.clone()).read().models, [spec()]);
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "only the file itself");
    }

    #[test]
    fn a_file_that_is_not_there_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let saved = Store::new(folder.path().join("state.json")).read();
        assert!(saved.models.is_empty() && saved.registrations.is_empty());
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_holds_nothing() {
        let wrong_keep_alive = r#"{"version": 1, "models": [
            {"uid": "a", "reference": "b", "keep_alive": "soon"}]}"#;
        let cut = r#"{"version": 1, "models": [{"uid""#;
        for text in ["", cut, "[]", r#"{"version": 2}"#, wrong_keep_alive] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.json");
            fs::write(&path, text).unwrap();
            let saved = Store::new(path.clone()).read();
            assert!(saved.models.is_empty(), "{text}");
            assert!(!path.exists(), "{text}");
            let aside = fs::read_to_string(folder.path().join("state.damaged"));
            assert_eq!(aside.unwrap(), text);
        }
    }

    #[test]
    fn keys_of_a_later_program_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let text = r#"{"version": 1, "models": [
            {"uid": "a", "reference": "b", "keep_alive": "-1", "colour": "red"}], "more": 1}"#;
        fs::write(&path, text).unwrap();
        let models = Store::new(path).read().models;
        assert_eq!(models[0].reference, "b");
        assert_eq!((models[0].replicas, models[0].persist), (1, true));
    }
}
