//! Models that generate: how they are told from encoders, and how they are made to run.

use std::{path::Path, sync::Arc};

use retort_models::{
    DecoderInfo, DecoderModel, DecoderOptions, Generate, GenerationDefaults, RoundedStore,
    Rounding, SequenceStep, Tokenizer,
};

use super::{StartError, load::CheckpointLoader, member::Member};
use crate::engine::{polite, request::Task};

/// What the rounded matrices of all models may take on the disk.
const ROUNDED_BYTES_MAX: u64 = 16 << 30;

/// A model that generates and is not served yet.
pub struct LoadedGenerator {
    /// What the checkpoint says.
    pub info: DecoderInfo,
    /// How it chooses tokens unless told otherwise.
    pub defaults: GenerationDefaults,
    /// Shared by all requests.
    pub tokenizer: Arc<Tokenizer>,
    /// How it turns messages into a prompt.
    pub chat_template: Option<Arc<str>>,
    /// The one session.
    pub generator: Box<dyn Generate>,
}

/// Whether files are to be loaded as a model that generates: by what was launched, else by what
/// they are, unless somebody has said that they embed or rerank.
pub fn is_wanted(member: &Member, dir: &Path) -> bool {
    match member.spec().task {
        Some(task) => task == Task::Generate,
        None => member.entry().is_generator(dir),
    }
}

/// Loads a checkpoint and runs it once, so that the first request finds its memory there and a
/// session that cannot run is told now.
///
/// # Errors
/// When the files are no model that this program runs, or ONNX Runtime refuses it.
pub fn load(
    dir: &Path,
    member: &Member,
    loader: &CheckpointLoader,
) -> Result<LoadedGenerator, StartError> {
    let entry = member.entry();
    let options = DecoderOptions {
        max_context: entry.max_tokens,
        kv_cache_bytes: Some(entry.generation.kv_cache_bytes),
        weights: entry.generation.weights,
        rounded: Some(RoundedStore {
            dir: loader.config.provision.cache_dir.join("rounded"),
            max_bytes: ROUNDED_BYTES_MAX,
        }),
        ..DecoderOptions::new(loader.runtime.clone())
    };
    let model = DecoderModel::load(dir, &options).map_err(|error| StartError {
        message: format!("model `{}` cannot be loaded: {error}", entry.name),
        hint: None,
    })?;
    tell_rounding(&entry.name, &model.info().rounding);
    let mut generator = polite(|| model.generator(loader.limits.threads))??;
    let first = SequenceStep {
        input_ids: &[model.info().bos_token_id.unwrap_or(0)],
        past: 0,
        blocks: &[0],
        wants_logits: true,
    };
    generator.step(&[first])?;
    Ok(LoadedGenerator {
        info: model.info().clone(),
        defaults: model.generation_defaults().clone(),
        tokenizer: model.tokenizer().clone(),
        chat_template: model.chat_template().map(Into::into),
        generator,
    })
}

/// Says where rounded matrices are.
fn tell_rounding(model: &str, rounding: &Rounding) {
    match rounding {
        Rounding::Nothing => {}
        Rounding::Found => tracing::debug!(model, "the rounded weights of an earlier load"),
        Rounding::Made => tracing::info!(model, "weights were rounded and kept for the next load"),
        Rounding::InMemory(reason) => {
            tracing::warn!(
                model,
                reason,
                "rounded weights cannot be kept for the next load"
            );
        }
    }
}
