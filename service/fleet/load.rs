//! From a model's entry to encoders that run: the slow part of a launch, in two steps with the
//! memory check between them. Blocks; knows nothing of names, other models or requests.

use std::{path::Path, sync::Arc};

use retort_models::{
    CudaOptions, Encode, EncoderInfo, EncoderModel, Error, Estimate, LateInteraction, LoadOptions,
    Measured, Provider, Runtime, Tokenizer,
};

use super::{
    Stage, StartError,
    first_load::{self, Opened},
    found::{FoundFiles, Stamps},
    generator::{self, LoadedGenerator},
    member::Member,
    warm::Warming,
};
use crate::{
    config::{Config, ModelEntry, Verify},
    devices::{Devices, Placement},
    engine::{Engine, EngineLimits, Faults, encode::WorkerKind},
    memory::{self, MemoryBudget},
    provision::{self, ModelFiles, ModelRequest, Progress, Weights},
};

/// A model that runs and is not served yet.
pub enum Loaded {
    /// It makes vectors or scores.
    Encoder(Box<LoadedEncoder>),
    /// It continues texts.
    Generator(Box<LoadedGenerator>),
}

/// A model that makes vectors or scores, and is not served yet.
pub struct LoadedEncoder {
    /// What the checkpoint says.
    pub info: EncoderInfo,
    /// Shared by all requests.
    pub tokenizer: Arc<Tokenizer>,
    /// The markers of a late-interaction model.
    pub late_interaction: Option<LateInteraction>,
    /// The sessions.
    pub encoders: Vec<(WorkerKind, Box<dyn Encode>)>,
    /// What was measured while it was loaded.
    pub measured: Option<Measured>,
}

/// What can be done about a GPU without room.
const GPU_IS_FULL: &str =
    "free memory of the GPU, raise `--gpu-memory-limit-mib`, or set the model's `device` to `cpu`";

/// Why a model was not opened.
#[derive(Debug)]
pub enum Unopened {
    /// A GPU has no room for it beside what is there.
    GpuFull {
        /// Its number.
        gpu: usize,
        /// What is said if nothing can be done about it.
        error: StartError,
    },
    /// Something that is not changed by trying again.
    Failed(StartError),
}

impl From<StartError> for Unopened {
    fn from(error: StartError) -> Self {
        Self::Failed(error)
    }
}

impl From<Unopened> for StartError {
    fn from(error: Unopened) -> Self {
        match error {
            Unopened::GpuFull { error, .. } | Unopened::Failed(error) => error,
        }
    }
}

impl Loaded {
    /// What need not be measured when the same files are loaded again.
    pub fn measured(&self) -> Option<Measured> {
        match self {
            Self::Encoder(loaded) => loaded.measured.clone(),
            Self::Generator(_) => None,
        }
    }
}

/// Loads checkpoints from the configured sources.
pub struct CheckpointLoader {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// ONNX Runtime.
    pub runtime: Runtime,
    /// How the machine is used.
    pub limits: EngineLimits,
    /// What models can run on.
    pub devices: Arc<Devices>,
    /// Where faults are told that no model survives.
    pub faults: Faults,
    /// What models may take of memory.
    pub budget: MemoryBudget,
    /// Where downloads are drawn.
    pub progress: Progress,
}

impl CheckpointLoader {
    /// Finds the files of a model, or fetches them.
    ///
    /// # Errors
    /// When they cannot be had.
    pub fn fetch(&self, entry: &ModelEntry, progress: &Progress) -> Result<ModelFiles, StartError> {
        let id = entry.location.id();
        let request = ModelRequest {
            id: &id,
            revision: entry.revision.as_deref(),
            weights: Weights::Checkpoint,
            entry: entry.published(),
        };
        Ok(provision::model(
            &self.config.provision,
            &request,
            progress,
        )?)
    }

    /// Reads files as the configuration and the catalogue say; `measured` is what an earlier load
    /// of the same files found.
    ///
    /// # Errors
    /// When they are no model that this program runs.
    pub fn read(
        &self,
        dir: &Path,
        entry: &ModelEntry,
        measured: Option<Measured>,
    ) -> Result<EncoderModel, StartError> {
        let placement = self.devices.place(entry.device.as_ref())?;
        let gpu = match &placement {
            Placement::Cpu => None,
            Placement::Gpus(gpus) => gpus.first().copied(),
        };
        Ok(self.read_on(dir, entry, gpu, measured)?)
    }

    /// The same for one GPU, or for the processor.
    fn read_on(
        &self,
        dir: &Path,
        entry: &ModelEntry,
        gpu: Option<usize>,
        measured: Option<Measured>,
    ) -> Result<EncoderModel, Unopened> {
        let provider = gpu.map_or(Provider::Cpu, |ordinal| {
            Provider::Cuda(CudaOptions {
                ordinal,
                memory_limit: self.devices.memory_limit(),
            })
        });
        let options = LoadOptions {
            provider,
            measured,
            ..entry.load_options(self.runtime.clone())
        };
        let options = match &entry.known {
            Some(known) => known.complete(dir, options),
            None => Ok(options),
        };
        let model = options
            .and_then(|options| EncoderModel::load(dir, &options))
            .map_err(|error| self.unopened(&entry.name, gpu, &error))?;
        tell_dtype(&entry.name, model.info());
        Ok(model)
    }

    /// What an error means for a model that was to be opened.
    fn unopened(&self, model: &str, gpu: Option<usize>, error: &Error) -> Unopened {
        if let Error::Device { poisoned: true, .. } = error {
            self.faults.report(&error.to_string());
        }
        let message = format!("model `{model}` cannot be loaded: {error}");
        match (gpu, error) {
            (Some(gpu), Error::NoRoom(_) | Error::OutOfMemory { .. }) => Unopened::GpuFull {
                gpu,
                error: StartError {
                    message,
                    hint: Some(GPU_IS_FULL.into()),
                },
            },
            _ => Unopened::Failed(StartError {
                message,
                hint: None,
            }),
        }
    }
}

/// Says what a model is computed in, where that was measured.
fn tell_dtype(model: &str, info: &EncoderInfo) {
    let dtype = &info.dtype;
    let fidelity = &info.fidelity;
    let (cosine, logit_difference) = (fidelity.cosine, fidelity.logit_difference);
    if let Some(reason) = &fidelity.fallback {
        tracing::info!(model, dtype, reason, "computed in 32-bit floating point");
    } else if cosine.is_some() || logit_difference.is_some() {
        tracing::info!(
            model,
            dtype,
            cosine,
            logit_difference,
            "compared with 32-bit floating point"
        );
    }
}

/// Makes models run. Tests put a fake behind it.
pub trait Load: Send + Sync {
    /// Finds the files of a model, or fetches them.
    ///
    /// # Errors
    /// When they cannot be had.
    fn find(&self, member: &Arc<Member>) -> Result<FoundFiles, StartError>;

    /// Makes the sessions of a model whose files were found and for which there is room.
    ///
    /// # Errors
    /// When the files are no model that this program runs, ONNX Runtime refuses it, or a GPU is
    /// full.
    fn open(&self, member: &Member, found: &FoundFiles) -> Result<Loaded, Unopened>;
}

impl Load for CheckpointLoader {
    fn find(&self, member: &Arc<Member>) -> Result<FoundFiles, StartError> {
        let entry = member.entry();
        let files = self.fetch(entry, &self.progress.watched(member.clone()))?;
        // Before anything is read, so that what changes meanwhile is seen later.
        let stamps = Stamps::of(&files.dir).ok();
        let load = memory::load_of(&self.limits, entry, member.spec().replicas);
        // Files that cannot be estimated are explained by the attempt to load them. What is on a
        // GPU takes of its memory, which has a limit of its own.
        let on_cpu = self.devices.place(entry.device.as_ref())? == Placement::Cpu;
        let need = if generator::is_wanted(member, &files.dir) {
            let load = memory::load_to_generate(&self.limits, entry);
            let estimate = Estimate::of_decoder(&files.dir, &load).ok();
            estimate.and_then(|estimate| self.budget.need_to_generate(&estimate))
        } else {
            let estimate = Estimate::of_files(&files.dir, &load, entry.known.as_ref()).ok();
            let estimate = estimate.filter(|_| on_cpu);
            estimate.and_then(|estimate| self.budget.need(&estimate))
        };
        Ok(FoundFiles {
            dir: files.dir,
            origin: files.origin.to_string(),
            revision: files.revision,
            need,
            stamps,
            served: false,
            measured: None,
        })
    }

    fn open(&self, member: &Member, found: &FoundFiles) -> Result<Loaded, Unopened> {
        let entry = member.entry();
        if generator::is_wanted(member, &found.dir) {
            refuse_gpu(entry)?;
            let loaded = generator::load(&found.dir, member, self)?;
            return Ok(Loaded::Generator(Box::new(loaded)));
        }
        let gpus = match self.devices.place(entry.device.as_ref())? {
            Placement::Cpu => Vec::new(),
            Placement::Gpus(gpus) => gpus,
        };
        let is_known = found.served && self.config.verify != Verify::Always;
        let measured = found.measured.clone().filter(|_| is_known);
        let model = self.read_on(&found.dir, entry, gpus.first().copied(), measured.clone())?;
        if !is_known {
            member.reach(Stage::Verifying);
            let opened = Opened {
                model: &model,
                dir: &found.dir,
            };
            first_load::check(&self.runtime, &self.config, entry, &opened)?;
        }
        // A table of token vectors, for one, is looked up by the processor wherever it is wanted.
        let on_gpus = model.info().provider != Provider::Cpu;
        let (info, tokenizer) = (model.info().clone(), model.tokenizer().clone());
        let late_interaction = model.late_interaction().cloned();
        let now_measured = model.measured();
        let (info, mut encoders) = if on_gpus {
            let mut copies = vec![(gpus[0], model)];
            for &gpu in &gpus[1..] {
                let copy = self.read_on(&found.dir, entry, Some(gpu), measured.clone())?;
                copies.push((gpu, copy));
            }
            (
                on_all(info, &gpus, &self.devices),
                Engine::gpu_encoders(&copies).map_err(StartError::from)?,
            )
        } else {
            let replicas = member.spec().replicas;
            let encoders = Engine::encoders(&self.limits, &model, replicas);
            (info, encoders.map_err(StartError::from)?)
        };
        member.reach(Stage::Warming);
        let warming = Warming {
            name: &entry.name,
            info: &info,
            tokenizer: &tokenizer,
            max_gpu_batch_tokens: self.limits.max_gpu_batch_tokens,
        };
        for (kind, encoder) in &mut encoders {
            let gpu = match *kind {
                WorkerKind::Gpu(number) => Some(number),
                WorkerKind::Share | WorkerKind::AllCores => None,
            };
            warming
                .run(*kind, &mut **encoder)
                .map_err(|error| self.unopened(&entry.name, gpu, &error))?;
        }
        Ok(Loaded::Encoder(Box::new(LoadedEncoder {
            info,
            tokenizer,
            late_interaction,
            encoders,
            measured: now_measured,
        })))
    }
}

/// Refuses a GPU for a model that runs on none.
fn refuse_gpu(entry: &ModelEntry) -> Result<(), StartError> {
    match &entry.device {
        Some(device) if device.wants_gpu() => Err(StartError {
            message: format!(
                "model `{}` generates, which runs on the CPU only, and `device` is `{device}`",
                entry.name
            ),
            hint: Some("leave its `device` out, or set it to `cpu`".into()),
        }),
        _ => Ok(()),
    }
}

/// What is told of a model that has a copy on each of these GPUs.
fn on_all(info: EncoderInfo, gpus: &[usize], devices: &Devices) -> EncoderInfo {
    let numbers: Vec<String> = gpus.iter().map(ToString::to_string).collect();
    let names = devices.gpus().iter().filter(|g| gpus.contains(&g.ordinal));
    let mut names: Vec<&str> = names.map(|gpu| &*gpu.name).collect();
    names.dedup();
    EncoderInfo {
        device: format!("cuda:{}", numbers.join(",")),
        device_name: Some(names.join(", ")),
        ..info
    }
}
