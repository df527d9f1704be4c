//! From what was asked to a model and its name: which entry of the catalogue is meant, under
//! which name it is served, and whether it is there already.

use std::sync::Arc;

use retort_models::{Catalog, Task as FileTask};

use super::{LaunchSpec, Stage, member::Member};
use crate::{
    config::{ModelEntry, ModelLocation, check_name, location_of, served_name},
    engine::{KeepAlive, request::Task},
    error::{Error, Result},
};

/// Characters after a default name that is taken, as Xinference has it.
const SUFFIX_CHARS: usize = 8;

/// What a language model is for, where its files leave that open and the catalogue does not know
/// it; of every other model the files tell.
fn for_files(task: Task) -> Option<FileTask> {
    match task {
        Task::Embed => Some(FileTask::Embed),
        Task::Rerank => Some(FileTask::Rerank),
        Task::Classify | Task::Generate => None,
    }
}

/// A model that failed keeps what was configured for it, where the new launch says nothing else.
fn tried_again(before: &ModelEntry, now: ModelEntry) -> ModelEntry {
    ModelEntry {
        revision: now.revision.or_else(|| before.revision.clone()),
        max_tokens: now.max_tokens.or(before.max_tokens),
        pooling: now.pooling.or(before.pooling),
        device: now.device.or_else(|| before.device.clone()),
        dtype: now.dtype,
        generates: now.generates,
        generation: now.generation,
        ..before.clone()
    }
}

/// What names may mean and which are taken.
pub struct Names<'a> {
    /// The models that are known by name.
    pub catalog: &'a Catalog,
    /// The models that are served.
    pub present: &'a [Arc<Member>],
}

/// What is to be done.
pub enum Resolved {
    /// Nothing: this is the model.
    Already(Arc<Member>),
    /// This has to be loaded.
    New(Box<ModelEntry>),
}

/// Decides what is meant.
///
/// # Errors
/// [`Error::AlreadyServed`] when the wished name is another model's, [`Error::InvalidRequest`]
/// when the reference or the name cannot be.
pub fn resolve(spec: &LaunchSpec, names: &Names<'_>) -> Result<Resolved> {
    let named = names.catalog.by_name(&spec.reference);
    let known = named.or_else(|| names.catalog.by_hub_id(&spec.reference));
    let location =
        location_of(named, &spec.reference, None).map_err(|error| wrong("model_name", &error))?;
    let name = wished_uid(spec, names.catalog);
    check_name(&name).map_err(|error| wrong("model_uid", &error))?;
    let mut entry = ModelEntry {
        name,
        aliases: Vec::new(),
        location,
        revision: spec.revision.clone(),
        max_tokens: spec.max_tokens,
        pooling: spec.pooling,
        task: known.map_or_else(|| spec.task.and_then(for_files), |_| None),
        generates: spec.task == Some(Task::Generate),
        generation: spec.generation,
        cutoff_layer: None,
        device: spec.device.clone(),
        dtype: spec.dtype,
        force_dtype: false,
        required: spec.required,
        known: known.cloned(),
        by_name: named.is_some(),
        keep_alive: Some(spec.keep_alive),
        replicas: spec.replicas,
    };
    entry.aliases = entry.implied();
    let holder = names.present.iter().find(|m| m.uid() == entry.name);
    match holder {
        Some(member) if member.stage() == Stage::Failed && is_same(member, &entry) => {
            entry = tried_again(member.entry(), entry);
        }
        Some(member) if member.stage() == Stage::Failed => {}
        Some(member) if is_same(member, &entry) => {
            return Ok(Resolved::Already(member.clone()));
        }
        Some(member) if spec.uid.is_some() => {
            return Err(Error::AlreadyServed {
                uid: entry.name,
                reference: member.entry().location.id(),
                wanted: spec.reference.clone(),
            });
        }
        Some(_) => {
            let random = uuid::Uuid::new_v4().simple().to_string();
            entry.name = format!("{}-{}", entry.name, &random[..SUFFIX_CHARS]);
        }
        None => {}
    }
    Ok(Resolved::New(Box::new(entry)))
}

/// The name that a launch asks for, which may be taken.
pub fn wished_uid(spec: &LaunchSpec, catalog: &Catalog) -> String {
    match (&spec.uid, catalog.by_name(&spec.reference)) {
        (Some(uid), _) => uid.clone(),
        (None, Some(entry)) => entry.name.clone(),
        (None, None) => default_uid(&spec.reference),
    }
}

/// How a configured model would have been launched.
pub fn spec_of(entry: &ModelEntry, keep_alive: KeepAlive) -> LaunchSpec {
    LaunchSpec {
        uid: Some(entry.name.clone()),
        reference: entry.location.id(),
        task: entry.generates.then_some(Task::Generate),
        replicas: entry.replicas,
        max_tokens: entry.max_tokens,
        pooling: entry.pooling,
        device: entry.device.clone(),
        dtype: entry.dtype,
        generation: entry.generation,
        keep_alive: entry.keep_alive.unwrap_or(keep_alive),
        // The configuration is what brings it back.
        persist: false,
        required: entry.required,
        revision: entry.revision.clone(),
        ignored: Vec::new(),
    }
}

/// The same files, as far as that can be told from how they are asked for.
fn is_same(member: &Member, wanted: &ModelEntry) -> bool {
    let there = member.entry();
    let same_place = match (&there.location, &wanted.location) {
        (ModelLocation::Hub(a), ModelLocation::Hub(b)) => a.eq_ignore_ascii_case(b),
        (ModelLocation::Directory(a), ModelLocation::Directory(b)) => a == b,
        (ModelLocation::Hub(_), _) | (ModelLocation::Directory(_), _) => false,
    };
    same_place && (wanted.revision.is_none() || wanted.revision == there.revision)
}

/// The last part of the reference; clients put it into paths, so that what means something there
/// is replaced.
fn default_uid(reference: &str) -> String {
    let last = served_name(reference);
    let safe = |c: char| {
        if "?#%".contains(c) || c.is_control() {
            '-'
        } else {
            c
        }
    };
    last.chars().map(safe).collect()
}

fn wrong(field: &'static str, error: &crate::config::Error) -> Error {
    let hint = error.hint.as_ref().map(|hint| format!("; {hint}"));
    Error::invalid(field, format!("{error}{}", hint.unwrap_or_default()))
}
