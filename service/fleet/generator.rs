//! Models that generate: how they are told from encoders, and how they are made to run.

use std::{path::Path, sync::Arc};

use retort_models::{
    DecoderInfo, DecoderModel, DecoderOptions, Generate, GenerationDefaults, Runtime, SequenceStep,
    Tokenizer, estimate::DecoderLoad,
};

use super::{StartError, member::Member};
use crate::engine::{Polite, generate::MAX_SEQUENCES, request::Task};

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
    let entry = member.entry();
    match member.spec().task {
        Some(task) => task == Task::Generate,
        None => entry.task.is_none() && entry.known.is_none() && DecoderModel::is_meant(dir),
    }
}

/// What is going to be loaded, for its estimate.
pub fn load_of(member: &Member, threads: usize) -> DecoderLoad {
    DecoderLoad {
        max_context: member.entry().max_tokens,
        sequences: MAX_SEQUENCES,
        threads,
        ..DecoderLoad::default()
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
    runtime: &Runtime,
    threads: usize,
) -> Result<LoadedGenerator, StartError> {
    let options = DecoderOptions {
        max_context: member.entry().max_tokens,
        ..DecoderOptions::new(runtime.clone())
    };
    let model = DecoderModel::load(dir, &options).map_err(|error| StartError {
        message: format!("model `{}` cannot be loaded: {error}", member.entry().name),
        hint: None,
    })?;
    let mut generator = Polite::make(|| model.generator(threads))??;
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
