//! A finished `.onnx` file, such as optimum or a model's authors export: its inputs and outputs
//! are found by name and shape. It runs padded by nature, so sequences of one length go together
//! and nothing is ever padded.

pub(crate) mod decoder;
mod encoder;
mod external;
mod interface;
mod outputs;
mod recognise;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::Mmap;
use retort_kernels::Pooling;

use crate::architectures::{Adapters, PositionIds};
use crate::batch::{Batch, Encoding};
use crate::checkpoint::weights::{Weights, git_lfs_pointer};
use crate::encoder::on_device::{OnDevice, SharedEncoder};
use crate::encoder::{BatchBounds, Encode};
use crate::error::{Error, Result};
use crate::graph::heads::{output, over_token_vectors};
use crate::heads::Heads;
use crate::heads::late_interaction::LateInteraction;
use crate::heads::outputs::{PackedOutputs, SparseOutput};
use crate::heads::plan::HeadPlan;
use crate::provider::device::Device;
use crate::runtime::Runtime;
use crate::session::{LoadedSession, SharedGraph, with_data_folder};
use encoder::{GivenEncoder, Grouping};
use interface::{Extra, Inputs};
use outputs::{GivenOutputs, Used};

/// Where a checkpoint keeps a finished graph.
const FILES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];
/// Beyond about this many tokens a larger run is no faster on CPU, and only takes more memory.
pub(crate) const TOKENS_PER_RUN: usize = 512;
/// The same on a GPU, which wants many sequences at once and is given them padded to one length.
const TOKENS_PER_GPU_RUN: usize = 1 << 14;

/// An `.onnx` file that can be opened any number of times.
pub(crate) struct GivenModel {
    runtime: Runtime,
    device: Device,
    file: PathBuf,
    model: ModelBytes,
    // Where tensors outside the file are, with links resolved.
    data_folder: Option<PathBuf>,
    bytes: u64,
    // Some graphs give a sequence another vector when it has company; see `external`.
    one_by_one: bool,
    family: Family,
    bounds: Option<BatchBounds>,
    outputs: Option<Arc<Outputs>>,
    // The session that looked the graph over; the first encoder of one thread takes it.
    probe: Mutex<Option<LoadedSession>>,
    // The one encoder of all threads on a GPU.
    on_gpu: Mutex<Option<SharedEncoder<GivenEncoder>>>,
}

/// What config.json tells of a graph that does not tell itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Family {
    /// How positions are numbered.
    pub(crate) positions: Option<PositionIds>,
    /// The names of the task adapters, in the order of their numbers.
    pub(crate) adapters: Vec<String>,
}

impl Family {
    /// What a family says of positions, and the task adapters that config.json lists.
    pub(crate) fn new(positions: Option<PositionIds>, adapters: Option<&Adapters>) -> Self {
        let names = adapters.map(|adapters| adapters.names.clone());
        Self {
            positions,
            adapters: names.unwrap_or_default(),
        }
    }
}

/// What the checkpoint around a graph wants of it.
pub(crate) struct Meaning<'a> {
    /// The heads that the checkpoint has.
    pub(crate) plan: HeadPlan,
    /// The weights of those that may not be in the graph.
    pub(crate) weights: &'a Weights,
    /// How the operator wants token vectors pooled.
    pub(crate) pooling: Option<Pooling>,
    /// Tokens that get no lexical weight.
    pub(crate) left_out: HashSet<u32>,
    /// How queries and documents are told apart, where the checkpoint says so.
    pub(crate) late_interaction: Option<LateInteraction>,
}

/// What a first run showed.
#[derive(Debug, Clone)]
pub(crate) struct Probed {
    pub(crate) heads: Heads,
    /// Lengths of the vectors of a text and of a token; 0 when there are none.
    pub(crate) dimensions: usize,
    pub(crate) token_dimensions: usize,
    /// How many logits a text gets.
    pub(crate) labels: usize,
    /// How token vectors are pooled here; `None` when the graph did it.
    pub(crate) pooling: Option<Pooling>,
    /// Element type of the output, such as `float32`.
    pub(crate) dtype: String,
    /// Whether every run is one of a task adapter.
    pub(crate) takes_adapter: bool,
}

/// Where the heads come from: outputs of the graph, and a small graph of ours behind it for what
/// the checkpoint has and the graph lacks.
struct Outputs {
    given: GivenOutputs,
    behind: Option<Behind>,
}

/// Heads over the token vectors of a given graph.
struct Behind {
    token_vectors: Used,
    graph: SharedGraph,
    outputs: PackedOutputs,
}

impl Outputs {
    fn heads(&self) -> Heads {
        let behind = self.behind.as_ref();
        self.given.heads() | behind.map_or(Heads::NONE, |behind| behind.outputs.heads)
    }
}

enum ModelBytes {
    Mapped(Mmap),
    Rewritten(Vec<u8>),
}

/// Finds the `.onnx` file that `path` means, and the checkpoint directory around it. `None` when
/// `path` is a directory whose weights a graph can be built for, or has no such file.
pub(crate) fn find(path: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    if path.is_dir() {
        if Weights::are_in(path) {
            return Ok(None);
        }
        return Ok(beside(path).map(|file| (file, path.to_owned())));
    }
    if path.extension().is_none_or(|extension| extension != "onnx") {
        return Err(Error::checkpoint(
            path,
            "is neither a directory nor an `.onnx` file",
        ));
    }
    let around = path
        .ancestors()
        .skip(1)
        .take(2)
        .find(|dir| dir.join("config.json").exists());
    match around {
        Some(dir) => Ok(Some((path.to_owned(), dir.to_owned()))),
        None => Err(Error::checkpoint(
            path,
            "has no `config.json` beside it or one level above",
        )),
    }
}

/// The finished graph in a checkpoint directory, whatever else is there.
pub(crate) fn beside(dir: &Path) -> Option<PathBuf> {
    FILES
        .iter()
        .map(|name| dir.join(name))
        .find(|file| file.exists())
}

/// Maps a file and finds the tensors that it keeps elsewhere.
fn read(file: &Path) -> Result<(Mmap, external::Survey)> {
    let unreadable = |error: std::io::Error| Error::checkpoint(file, error.to_string());
    let opened = File::open(file).map_err(unreadable)?;
    // SAFETY: the map is private and read-only; see `Weights` on who may touch the file.
    let map = unsafe { Mmap::map(&opened) }.map_err(unreadable)?;
    if let Some(pointer) = git_lfs_pointer(&map) {
        return Err(Error::checkpoint(file, pointer));
    }
    let survey = external::survey(file, &map)?;
    Ok((map, survey))
}

impl GivenModel {
    /// Reads the file and finds the tensors that it keeps elsewhere.
    pub(crate) fn open(file: &Path, runtime: &Runtime, family: Family) -> Result<Self> {
        let (map, survey) = read(file)?;
        let bytes = map.len() as u64 + survey.data_bytes;
        let model = match survey.rewritten {
            Some(rewritten) => ModelBytes::Rewritten(rewritten),
            None => ModelBytes::Mapped(map),
        };
        Ok(Self {
            runtime: runtime.clone(),
            device: Device::Cpu,
            file: file.to_owned(),
            model,
            data_folder: survey.data_folder,
            bytes,
            one_by_one: survey.scales_by_batch,
            family,
            bounds: None,
            outputs: None,
            probe: Mutex::new(None),
            on_gpu: Mutex::new(None),
        })
    }

    /// The same, computed on a device.
    pub(crate) fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// Size of a file and of the files it refers to, without opening a session.
    ///
    /// # Errors
    /// `Error::Checkpoint` when it cannot be read or is no ONNX model.
    pub(crate) fn size(file: &Path) -> Result<u64> {
        let (map, survey) = read(file)?;
        Ok(map.len() as u64 + survey.data_bytes)
    }

    /// Size of the file and of the files it refers to.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Opens the graph, runs three tokens through it and sees what comes out.
    ///
    /// # Errors
    /// `Error::Checkpoint` when the graph cannot be run or gives nothing of use.
    pub(crate) fn probe(&mut self, meaning: Meaning<'_>) -> Result<Probed> {
        let Meaning { mut plan, .. } = meaning;
        let mut session = self.session(1)?;
        let inputs = Inputs::find(&session, self.family.positions).map_err(|e| self.named(e))?;
        self.one_by_one |= inputs.single_sequence;
        let mut batch = Batch::wanting(Heads::NONE);
        batch.push(&Encoding {
            input_ids: vec![0; 3],
            token_type_ids: vec![0; 3],
            ..Encoding::default()
        });
        let extra = Extra::new(&batch, self.family.positions.unwrap_or_default(), 3);
        let run = session.run(inputs.values(&batch, &extra)?)?;
        let mut given = recognise::choose(&run, [1, 3], &mut plan, meaning.pooling)
            .map_err(|error| self.named(error))?;
        drop(run);
        let marked = meaning.late_interaction;
        recognise::check_marks(&given, marked.as_ref()).map_err(|error| self.named(error))?;
        given.left_out = meaning.left_out.clone();
        given.late_interaction = marked.clone();
        let mut probed = Probed {
            heads: given.heads(),
            dimensions: given.dense.as_ref().map_or(0, |used| used.width),
            token_dimensions: given
                .multi_vector
                .as_ref()
                .map_or(0, |(used, _)| used.width),
            labels: given.scores.as_ref().map_or(0, |used| used.width),
            pooling: plan.dense.as_ref().map(|dense| dense.pooling),
            dtype: given
                .used()
                .map(|used| used.dtype.to_owned())
                .next()
                .unwrap_or_default(),
            takes_adapter: inputs.takes_adapter(),
        };
        let behind = match given.token_vectors.clone() {
            Some(token_vectors) => {
                let graph = over_token_vectors(&plan, meaning.weights, token_vectors.width)?;
                let width = |output: &str| graph.width(output).unwrap_or(0);
                probed.heads = probed.heads | plan.heads();
                probed.dimensions = probed.dimensions.max(width(output::DENSE));
                probed.token_dimensions = probed.token_dimensions.max(width(output::MULTI_VECTOR));
                Some(Behind {
                    token_vectors,
                    graph: SharedGraph::new(&self.runtime, graph)?,
                    outputs: PackedOutputs {
                        heads: plan.heads(),
                        sparse: plan.sparse.as_ref().map(|_| SparseOutput::Lexical {
                            left_out: meaning.left_out,
                        }),
                        skipped: plan.multi_vector.as_ref().map_or(0, |plan| plan.skipped),
                        late_interaction: marked,
                    },
                })
            }
            None => None,
        };
        self.outputs = Some(Arc::new(Outputs { given, behind }));
        *self.probe.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        Ok(probed)
    }

    /// Sets what batches must keep to.
    pub(crate) fn bounded(mut self, bounds: BatchBounds) -> Self {
        self.bounds = Some(bounds);
        self
    }

    /// Makes an encoder; on a GPU it is one for all threads. `probe` and `bounded` come first.
    pub(crate) fn encoder(&self, threads: usize) -> Result<Box<dyn Encode>> {
        let Some(gpu) = self.device.gpu() else {
            return Ok(Box::new(self.own_encoder(threads)?));
        };
        let mut on_gpu = self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoder) = &*on_gpu {
            return Ok(encoder.handle());
        }
        let encoder = OnDevice::new(self.own_encoder(1)?, Arc::clone(gpu) as _);
        Ok(on_gpu.insert(SharedEncoder::new(encoder)).handle())
    }

    fn own_encoder(&self, threads: usize) -> Result<GivenEncoder> {
        let (Some(bounds), Some(outputs)) = (self.bounds, self.outputs.clone()) else {
            return Err(Error::Runtime("the graph was not looked over".to_owned()));
        };
        let probe = if threads == 1 {
            self.probe
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        } else {
            None
        };
        let session = probe.map_or_else(|| self.session(threads), Ok)?;
        let behind = outputs.behind.as_ref();
        let behind = behind
            .map(|behind| behind.graph.session(threads))
            .transpose()?;
        let inputs = Inputs::find(&session, self.family.positions)?;
        let grouping = match (self.one_by_one, self.device.gpu()) {
            (true, _) => Grouping::Alone,
            (false, Some(_)) if inputs.takes_mask() => Grouping::Padded(TOKENS_PER_GPU_RUN),
            (false, Some(_)) => Grouping::Equal(TOKENS_PER_GPU_RUN),
            (false, None) => Grouping::Equal(TOKENS_PER_RUN),
        };
        Ok(GivenEncoder {
            inputs,
            session,
            behind,
            bounds,
            outputs,
            grouping,
            family: self.family.clone(),
        })
    }

    pub(crate) fn session(&self, threads: usize) -> Result<LoadedSession> {
        let mut builder = self.device.builder(&self.runtime, threads)?;
        if let Some(folder) = &self.data_folder {
            builder = with_data_folder(builder, folder)?;
        }
        let bytes = match &self.model {
            ModelBytes::Mapped(map) => &map[..],
            ModelBytes::Rewritten(bytes) => bytes,
        };
        LoadedSession::of_model(&self.device, builder, bytes).map_err(|error| self.named(error))
    }

    /// Puts the name of the file before a message about its contents.
    pub(crate) fn named(&self, error: Error) -> Error {
        match error {
            Error::Unsupported(message) | Error::Runtime(message) => {
                Error::checkpoint(&self.file, message)
            }
            other => other,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
