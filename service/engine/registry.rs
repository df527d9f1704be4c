//! Served model name → pipeline. The only state of the service that changes while it serves.

use std::sync::{Arc, PoisonError, RwLock};

use super::{
    encode::Pipeline,
    request::{ModelInfo, ModelState, Task},
};
use crate::error::{Error, Result};

/// All models, in the order in which they were registered.
#[derive(Default)]
pub struct Registry(RwLock<Vec<Entry>>);

struct Entry {
    info: ModelInfo,
    pipeline: Option<Arc<Pipeline>>,
}

impl Registry {
    /// Makes a name visible, in state [`ModelState::Loading`].
    ///
    /// # Errors
    /// When the name or an alias is taken.
    pub fn register(&self, info: ModelInfo) -> Result<()> {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let names = || std::iter::once(&info.name).chain(&info.aliases);
        if let Some(taken) = names().find(|name| entries.iter().any(|e| e.answers_to(name))) {
            return Err(Error::invalid(
                "model",
                format!("Model is already in the model list, uid: {taken}"),
            ));
        }
        entries.push(Entry {
            info,
            pipeline: None,
        });
        Ok(())
    }

    /// Opens a registered model for requests.
    pub fn ready(&self, name: &str, pipeline: Arc<Pipeline>, created: u64) {
        self.update(name, |entry| {
            entry.info.encoder = Some(pipeline.info().clone());
            entry.info.state = ModelState::Ready;
            entry.info.created = created;
            entry.pipeline = Some(pipeline);
        });
    }

    /// Tells where the files of a registered model came from.
    pub fn found(&self, name: &str, origin: String, revision: Option<String>) {
        self.update(name, |entry| {
            entry.info.origin = origin;
            entry.info.revision = revision;
        });
    }

    /// Records why a registered model did not load.
    pub fn failed(&self, name: &str, reason: String) {
        self.update(name, |entry| entry.info.state = ModelState::Failed(reason));
    }

    /// Every model, in order.
    pub fn list(&self) -> Vec<ModelInfo> {
        self.read(|entries| entries.iter().map(|e| e.info.clone()).collect())
    }

    /// The record of one model, by name or alias.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn get(&self, name: &str) -> Result<ModelInfo> {
        self.read(|entries| {
            let entry = find(entries, name).ok_or_else(|| not_found(entries, name))?;
            Ok(entry.info.clone())
        })
    }

    /// The record of the model that [`Registry::pipeline`] would choose, ready or not.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn choose(&self, name: Option<&str>, task: Task) -> Result<ModelInfo> {
        self.read(|entries| {
            let entry = match name {
                Some(name) => find(entries, name),
                None => first_for(entries, task),
            };
            let entry = entry.ok_or_else(|| not_found(entries, name.unwrap_or_default()))?;
            Ok(entry.info.clone())
        })
    }

    /// The pipeline of the model `name`, or, when there is none, of the first that is made for
    /// the task, else of the first that can do it.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], or [`Error::NotReady`] while it loads or when it has failed.
    pub fn pipeline(&self, name: Option<&str>, task: Task) -> Result<Arc<Pipeline>> {
        self.read(|entries| {
            let entry = match name {
                Some(name) => find(entries, name),
                None => first_for(entries, task),
            };
            let entry = entry.ok_or_else(|| not_found(entries, name.unwrap_or_default()))?;
            entry
                .pipeline
                .clone()
                .ok_or_else(|| Error::NotReady(entry.why_not()))
        })
    }

    /// All pipelines that run.
    pub fn pipelines(&self) -> Vec<(ModelInfo, Option<Arc<Pipeline>>)> {
        self.read(|entries| {
            entries
                .iter()
                .map(|e| (e.info.clone(), e.pipeline.clone()))
                .collect()
        })
    }

    fn read<T>(&self, look: impl FnOnce(&[Entry]) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn update(&self, name: &str, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.iter_mut().find(|e| e.info.name == name) {
            change(entry);
        }
    }
}

impl Entry {
    fn answers_to(&self, name: &str) -> bool {
        self.info.name == name || self.info.aliases.iter().any(|alias| alias == name)
    }

    fn why_not(&self) -> String {
        match &self.info.state {
            ModelState::Failed(reason) => {
                format!("model `{}` did not load: {reason}", self.info.name)
            }
            ModelState::Loading | ModelState::Ready => {
                format!("model `{}` is still loading", self.info.name)
            }
        }
    }
}

/// By name, then by alias, then without Ollama's `:latest`.
fn find<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Entry> {
    let exact = |name: &str| {
        entries
            .iter()
            .find(|e| e.info.name == name)
            .or_else(|| entries.iter().find(|e| e.answers_to(name)))
    };
    exact(name).or_else(|| exact(name.strip_suffix(":latest")?))
}

/// What a model is for is known once it is loaded. One that still loads is waited for rather than
/// passed over, so that who answers does not depend on the moment.
fn first_for(entries: &[Entry], task: Task) -> Option<&Entry> {
    let is_best = |entry: &&Entry| match entry.info.state {
        ModelState::Failed(_) => false,
        ModelState::Loading => true,
        ModelState::Ready => entry.info.kind() == Some(task.best_kind()),
    };
    let can = |entry: &&Entry| entry.info.encoder.as_ref().is_some_and(|e| task.fits(e));
    let mut all = entries.iter();
    let best = all.find(is_best);
    best.or_else(|| entries.iter().find(can))
        .or_else(|| entries.first())
}

fn not_found(entries: &[Entry], name: &str) -> Error {
    let names: Vec<_> = entries.iter().map(|e| e.info.name.as_str()).collect();
    Error::ModelNotFound {
        model: name.to_owned(),
        served: names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        let registry = Registry::default();
        registry
            .register(info("bge-m3", &["BAAI/bge-m3", "text-embedding-3-small"]))
            .unwrap();
        registry.register(info("minilm", &[])).unwrap();
        registry
    }

    fn info(name: &str, aliases: &[&str]) -> ModelInfo {
        ModelInfo::loading(name, aliases.iter().map(|&a| a.into()).collect())
    }

    #[test]
    fn a_model_answers_to_its_name_its_aliases_and_latest() {
        let registry = registry();
        for name in [
            "bge-m3",
            "BAAI/bge-m3",
            "text-embedding-3-small",
            "bge-m3:latest",
        ] {
            assert_eq!(registry.get(name).unwrap().name, "bge-m3", "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_not_found_and_never_another_model() {
        let error = registry()
            .pipeline(Some("bge-m4"), Task::Embed)
            .err()
            .unwrap();
        assert_eq!(error.status(), 404);
        assert!(error.to_string().contains("bge-m3, minilm"), "{error}");
    }

    #[test]
    fn a_model_without_a_pipeline_is_not_ready() {
        let registry = registry();
        assert_eq!(
            registry.pipeline(None, Task::Embed).err().unwrap().status(),
            503
        );
        registry.failed("minilm", "no such file".into());
        let error = registry
            .pipeline(Some("minilm"), Task::Embed)
            .err()
            .unwrap();
        assert!(error.to_string().contains("no such file"), "{error}");
    }

    #[test]
    fn a_taken_name_is_refused() {
        let error = registry()
            .register(info("x", &["BAAI/bge-m3"]))
            .unwrap_err();
        assert!(
            error.to_string().contains("already in the model list"),
            "{error}"
        );
    }
}
