//! Served model name → pipeline. The only state of the service that changes while it serves.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::{
    KeepAlive,
    request::{ModelInfo, ModelState, Task},
    served::Served,
    usage::{Alarm, Clock, Lease, Purpose, Retired, Usage},
};
use crate::error::{Error, Result};

/// All models, in the order in which they were registered.
#[derive(Default)]
pub struct Registry {
    entries: RwLock<Vec<Entry>>,
    clock: Clock,
    alarm: Arc<Alarm>,
}

struct Entry {
    info: ModelInfo,
    keep_alive: KeepAlive,
    /// What a request wished for while the model was not loaded.
    wish: Option<KeepAlive>,
    serving: Serving,
    /// Why it could not be loaded again, until it can.
    trouble: Option<String>,
    /// Moves whenever `serving` does.
    changed: watch::Sender<()>,
}

/// What is behind a name.
enum Serving {
    /// Nothing yet, or nothing any more; the state of the record says why.
    Nothing,
    /// A pipeline.
    Awake(Served, Arc<Usage>),
    /// Nothing until somebody asks.
    Asleep,
    /// Nothing, but somebody has asked.
    Waking,
}

/// What [`Registry::find`] finds.
pub enum Found {
    /// The model, ready to be used.
    Awake(Lease),
    /// A model that has to be loaded again first.
    Asleep(Waiting),
}

/// What a caller needs in order to wait for a model that is not loaded.
pub struct Waiting {
    /// The served name.
    pub name: String,
    /// Moves when there is news.
    pub changed: watch::Receiver<()>,
    /// Whether nobody has asked for it to be loaded yet.
    pub asleep: bool,
    /// Why the last attempt failed.
    pub trouble: Option<String>,
}

/// The use of a model, as its keeper sees it.
pub struct ModelUse {
    /// The served name.
    pub name: String,
    /// Its use; `None` while it is not loaded.
    pub usage: Option<Arc<Usage>>,
}

/// Who may have a name that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Every name and alias has to be free: two models of a configuration must not collide.
    Strict,
    /// Only the name has to differ from other names; aliases that are taken are given up.
    Launch,
}

impl Registry {
    /// An empty registry with a clock of its own.
    pub fn with_clock(clock: Clock) -> Self {
        Self {
            clock,
            ..Self::default()
        }
    }

    /// What rings when a model may have become idle.
    pub fn alarm(&self) -> Arc<Alarm> {
        self.alarm.clone()
    }

    /// Makes a name visible, in state [`ModelState::Loading`].
    ///
    /// # Errors
    /// When the name or an alias is taken.
    pub fn register(&self, mut info: ModelInfo, claim: Claim) -> Result<()> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let is_taken = |name: &String| match claim {
            Claim::Strict => entries.iter().any(|e| e.answers_to(name)),
            Claim::Launch => entries.iter().any(|e| e.info.name == *name),
        };
        let names = || std::iter::once(&info.name).chain(&info.aliases);
        let mut claimed = match claim {
            Claim::Strict => names().take(usize::MAX),
            Claim::Launch => names().take(1),
        };
        if let Some(taken) = claimed.find(|name| is_taken(name)) {
            return Err(Error::invalid(
                "model",
                format!("Model is already in the model list, uid: {taken}"),
            ));
        }
        info.aliases
            .retain(|alias| !entries.iter().any(|e| e.answers_to(alias)));
        entries.push(Entry {
            info,
            keep_alive: KeepAlive::Forever,
            wish: None,
            serving: Serving::Nothing,
            trouble: None,
            changed: watch::channel(()).0,
        });
        Ok(())
    }

    /// Opens a registered model for requests.
    pub fn ready(&self, name: &str, pipeline: Served, created: u64) {
        self.update(name, |entry| {
            pipeline.describe(&mut entry.info);
            entry.info.state = ModelState::Ready;
            entry.info.created = created;
            let usage = Usage::new(entry.keep_alive, self.clock.clone(), self.alarm.clone());
            if let Some(wish) = entry.wish.take() {
                usage.wish(wish);
            }
            entry.trouble = None;
            entry.now(Serving::Awake(pipeline, Arc::new(usage)));
        });
        self.alarm.ring();
    }

    /// Tells where the files of a registered model came from.
    pub fn found(&self, name: &str, origin: String, revision: Option<String>) {
        self.update(name, |entry| {
            entry.info.origin = origin;
            entry.info.revision = revision;
        });
    }

    /// Records why a registered model did not load. One that was asleep stays so: the next
    /// request tries again.
    pub fn failed(&self, name: &str, reason: String) {
        self.update(name, |entry| match entry.serving {
            Serving::Asleep | Serving::Waking => {
                entry.trouble = Some(reason);
                entry.now(Serving::Asleep);
            }
            Serving::Nothing | Serving::Awake(..) => {
                entry.info.state = ModelState::Failed(reason);
                entry.changed.send_replace(());
            }
        });
    }

    /// Sets how long a model stays without requests, from its next load on.
    pub fn keep_alive(&self, name: &str, keep_alive: KeepAlive) {
        self.update(name, |entry| entry.keep_alive = keep_alive);
    }

    /// A request wishes how long a model stays, until it is unloaded.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn wish(&self, name: &str, keep_alive: KeepAlive) -> Result<()> {
        // The name may be an alias; the entry is found by its own.
        let name = self.get(name)?.name;
        self.update(&name, |entry| match &entry.serving {
            Serving::Awake(_, usage) => usage.wish(keep_alive),
            Serving::Nothing | Serving::Asleep | Serving::Waking => entry.wish = Some(keep_alive),
        });
        Ok(())
    }

    /// Whether the caller is the one who has to load a sleeping model again.
    pub fn start_waking(&self, name: &str) -> bool {
        let mut first = false;
        self.update(name, |entry| {
            if matches!(entry.serving, Serving::Asleep) {
                entry.serving = Serving::Waking;
                first = true;
            }
        });
        first
    }

    /// Takes an idle model out of memory and keeps its name; `None` when it is used or not loaded.
    pub fn put_to_sleep(&self, name: &str) -> Option<Retired> {
        let mut retired = None;
        self.update(name, |entry| {
            // Under this lock nobody can get a lease.
            if matches!(&entry.serving, Serving::Awake(_, usage) if usage.inside() == 0)
                && let Serving::Awake(pipeline, usage) = entry.now(Serving::Asleep)
            {
                retired = Some(Retired::new(pipeline, usage));
            }
        });
        retired
    }

    /// Takes a model's pipeline away while another is made for it; requests wait.
    pub fn put_aside(&self, name: &str) -> Option<Retired> {
        let mut retired = None;
        self.update(name, |entry| {
            if matches!(entry.serving, Serving::Awake(..))
                && let Serving::Awake(pipeline, usage) = entry.now(Serving::Waking)
            {
                retired = Some(Retired::new(pipeline, usage));
            }
        });
        retired
    }

    /// Forgets a model; those inside may finish.
    pub fn remove(&self, name: &str) -> Option<Retired> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|e| e.info.name == name)?;
        let mut entry = entries.remove(at);
        drop(entries);
        match entry.now(Serving::Nothing) {
            Serving::Awake(pipeline, usage) => Some(Retired::new(pipeline, usage)),
            Serving::Nothing | Serving::Asleep | Serving::Waking => None,
        }
    }

    /// The use of every model, in order.
    pub fn uses(&self) -> Vec<ModelUse> {
        let of = |entry: &Entry| ModelUse {
            name: entry.info.name.clone(),
            usage: match &entry.serving {
                Serving::Awake(_, usage) => Some(usage.clone()),
                Serving::Nothing | Serving::Asleep | Serving::Waking => None,
            },
        };
        self.read(|entries| entries.iter().map(of).collect())
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

    /// The model `name`, or, when there is none, the first that is made for the task, else the
    /// first that can do it.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], [`Error::NotReady`] while it loads for the first time or when it
    /// has failed, and [`Error::UnsupportedTask`] from a model that is asleep, which need not be
    /// loaded to say so.
    pub fn find(&self, name: Option<&str>, task: Task) -> Result<Found> {
        self.read(|entries| {
            let entry = match name {
                Some(name) => find(entries, name),
                None => first_for(entries, task),
            };
            let entry = entry.ok_or_else(|| not_found(entries, name.unwrap_or_default()))?;
            match &entry.serving {
                Serving::Awake(pipeline, usage) => {
                    // Encoders refuse other tasks themselves.
                    if entry.info.generator.is_some() || task == Task::Generate {
                        entry.info.check(task)?;
                    }
                    Ok(Found::Awake(Lease::new(pipeline, usage, Purpose::Request)))
                }
                Serving::Nothing => Err(Error::NotReady(entry.why_not())),
                Serving::Asleep | Serving::Waking => {
                    entry.info.check(task)?;
                    Ok(Found::Asleep(entry.waiting()))
                }
            }
        })
    }

    /// The model of this served name with a lease on its pipeline, if it has one, and whether it
    /// sleeps.
    pub fn pipeline(&self, name: &str) -> Option<(ModelInfo, Option<Lease>, bool)> {
        let of = |entry: &Entry| match &entry.serving {
            Serving::Awake(pipeline, usage) => {
                let lease = Lease::new(pipeline, usage, Purpose::Probe);
                (entry.info.clone(), Some(lease), false)
            }
            Serving::Nothing => (entry.info.clone(), None, false),
            Serving::Asleep | Serving::Waking => (entry.info.clone(), None, true),
        };
        self.read(|entries| entries.iter().find(|e| e.info.name == name).map(of))
    }

    fn read<T>(&self, look: impl FnOnce(&[Entry]) -> T) -> T {
        look(&self.entries.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn update(&self, name: &str, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.iter_mut().find(|e| e.info.name == name) {
            change(entry);
        }
    }
}

impl Entry {
    /// Puts something else behind the name and tells those who wait.
    fn now(&mut self, serving: Serving) -> Serving {
        let before = std::mem::replace(&mut self.serving, serving);
        self.changed.send_replace(());
        before
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            name: self.info.name.clone(),
            changed: self.changed.subscribe(),
            asleep: matches!(self.serving, Serving::Asleep),
            trouble: self.trouble.clone(),
        }
    }

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
            .register(
                info("bge-m3", &["BAAI/bge-m3", "text-embedding-3-small"]),
                Claim::Strict,
            )
            .unwrap();
        registry
            .register(info("minilm", &[]), Claim::Strict)
            .unwrap();
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
        let error = registry().find(Some("bge-m4"), Task::Embed).err().unwrap();
        assert_eq!(error.status(), 404);
        assert!(error.to_string().contains("bge-m3, minilm"), "{error}");
    }

    #[test]
    fn a_model_without_a_pipeline_is_not_ready() {
        let registry = registry();
        assert_eq!(
            registry.find(None, Task::Embed).err().unwrap().status(),
            503
        );
        registry.failed("minilm", "no such file".into());
        let error = registry.find(Some("minilm"), Task::Embed).err().unwrap();
        assert!(error.to_string().contains("no such file"), "{error}");
    }

    #[test]
    fn a_taken_name_is_refused() {
        let error = registry()
            .register(info("x", &["BAAI/bge-m3"]), Claim::Strict)
            .unwrap_err();
        assert!(
            error.to_string().contains("already in the model list"),
            "{error}"
        );
    }
}
