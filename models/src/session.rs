//! A graph becomes ONNX Runtime sessions. All sessions of a model share one copy of its weights:
//! the mapped file, and what ONNX Runtime packs from it for its matrix products.

mod initializers;

use std::borrow::Cow;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::memory::Allocator;
use ort::session::builder::{
    AutoDevicePolicy, GraphOptimizationLevel, PrepackedWeights, SessionBuilder,
};
use ort::session::{RunOptions, Session, SessionInputValue, SessionOutputs};
use ort::value::{PrimitiveTensorElementType, Shape, Tensor as OwnedTensor, TensorRef};
use retort_kernels::KvPool;
use retort_kernels::linear::LinearStore;
use retort_kernels::operator::{operator_domain, with_kv_pool};

use crate::error::Result;
use crate::graph::BuiltGraph;
use crate::packing;
use crate::provider::device::{Device, Gpu};
use crate::provider::trim;
use crate::quantize::store::{RoundedStore, Rounding};
use crate::runtime::Runtime;
use initializers::Initializers;

/// A graph that this crate built, ready to be opened any number of times.
pub(crate) struct SharedGraph {
    runtime: Runtime,
    device: Device,
    model: Vec<u8>,
    data_folder: PathBuf,
    initializers: Arc<Initializers>,
    // What kernels of this project multiply with.
    linears: Arc<LinearStore>,
    // Without this container every session packs a copy of its own.
    prepacked: PrepackedWeights,
}

/// Whether ONNX Runtime may make copies of matrices, in an order that it multiplies faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prepacking {
    Shared,
    None,
}

/// A session and the weights it reads. Dropping it drops the session first: see `Initializers`.
pub(crate) struct LoadedSession {
    // Where inputs are put for a GPU.
    pinned: Option<Allocator>,
    session: Session,
    // Run options that give back spare memory; `None` never does: fresh memory costs a GPU far more
    // than a processor.
    releasing: Option<RunOptions>,
    // `None` where the session has copied them.
    _initializers: Option<Arc<Initializers>>,
    _left_behind: Option<LeftBehind>,
}

/// What a session leaves in the arena of a GPU, for others to take or not. Dropped after it.
struct LeftBehind(Arc<Gpu>);

impl Drop for LeftBehind {
    fn drop(&mut self) {
        self.0.trim();
    }
}

impl SharedGraph {
    /// Wraps the weights of a graph as ONNX Runtime values; those of 32 bits stay where they are.
    /// Layers that kernels of this project compute are packed for them.
    pub(crate) fn new(runtime: &Runtime, graph: BuiltGraph) -> Result<Self> {
        Self::on(&Device::Cpu, runtime, graph)
    }

    /// The same for sessions on a device, which must be what the graph was built for.
    pub(crate) fn on(device: &Device, runtime: &Runtime, graph: BuiltGraph) -> Result<Self> {
        Self::made((device, runtime), graph, None).map(|(graph, _)| graph)
    }

    /// The same on the processor with a place for rounded matrices; where they are then.
    pub(crate) fn rounded_in(
        runtime: &Runtime,
        graph: BuiltGraph,
        store: Option<&RoundedStore>,
    ) -> Result<(Self, Rounding)> {
        Self::made((&Device::Cpu, runtime), graph, store)
    }

    fn made(
        (device, runtime): (&Device, &Runtime),
        graph: BuiltGraph,
        store: Option<&RoundedStore>,
    ) -> Result<(Self, Rounding)> {
        let linears = Arc::new(packing::pack(&graph.packed)?);
        let mut initializers = Initializers::new(graph.weights)?;
        initializers.add_tables(graph.tables)?;
        initializers.add_halves(graph.halves)?;
        let rounding = initializers.add_rounded(&graph.quantized, store)?;
        let initializers = Arc::new(initializers);
        let shared = Self {
            runtime: runtime.clone(),
            device: device.clone(),
            model: graph.model,
            data_folder: graph.data_folder,
            initializers,
            linears,
            prepacked: PrepackedWeights::new(),
        };
        Ok((shared, rounding))
    }

    /// What the kernels of this project run on for its layers, for people; `None` where they
    /// compute none of them.
    pub(crate) fn kernel(&self) -> Option<&'static str> {
        self.linears.values().next().map(|linear| linear.path())
    }

    /// Opens a session that computes on `threads` threads, the caller's included.
    pub(crate) fn session(&self, threads: usize) -> Result<LoadedSession> {
        self.open(threads, Prepacking::Shared, None)
    }

    /// The same for a graph with `CachedAttention`, whose keys and values are in `pool`.
    pub(crate) fn session_over(&self, threads: usize, pool: KvPool) -> Result<LoadedSession> {
        self.open(threads, Prepacking::Shared, Some(Arc::new(pool)))
    }

    /// The same for a few runs: it is opened in no time and keeps no copy of the weights, for which
    /// it computes a little slower.
    pub(crate) fn passing_session(&self, threads: usize) -> Result<LoadedSession> {
        self.open(threads, Prepacking::None, None)
    }

    /// Opens the one session on the device of the graph, to which it copies all weights. What they
    /// were copied from goes with the graph.
    ///
    /// # Errors
    /// `Error::Unsupported` when the device cannot run all of it.
    pub(crate) fn into_session_on(self, gpu: &Gpu) -> Result<LoadedSession> {
        let builder = self.device.builder(&self.runtime, 1)?;
        let builder = builder.with_operators(gpu.operators()?)?;
        let mut builder = self.with_copied_weights(builder)?;
        let session = gpu.commit(&mut builder, &self.model)?;
        LoadedSession::new(session, &self.device, None)
    }

    /// A session on the processor of a graph for a GPU: `operators` has what the processor lacks.
    /// The weights are overwritten as soon as it is open.
    #[cfg(test)]
    pub(crate) fn into_emulated_session(
        mut self,
        operators: Vec<ort::operator::OperatorDomain>,
    ) -> Result<LoadedSession> {
        let mut builder = builder(&self.runtime, 1)?;
        for domain in operators {
            builder = builder.with_operators(domain)?;
        }
        let session = self
            .with_copied_weights(builder)?
            .commit_from_memory(&self.model)?;
        let initializers = Arc::get_mut(&mut self.initializers).expect("only the graph has them");
        initializers.overwrite();
        LoadedSession::new(session, &Device::Cpu, None)
    }

    /// Gives a session weights of its own: those that are shared would have to lie on the device
    /// already. ONNX Runtime copies external initializers, and wants theirs no longer once the
    /// session is there (`AddExternalInitializers` in its C API).
    fn with_copied_weights(&self, builder: SessionBuilder) -> Result<SessionBuilder> {
        let mut builder = with_data_folder(builder, &self.data_folder)?;
        for (name, value) in &self.initializers.values {
            builder = builder.with_external_initializer(name, Arc::clone(value))?;
        }
        Ok(builder)
    }

    fn open(
        &self,
        threads: usize,
        prepacking: Prepacking,
        pool: Option<Arc<KvPool>>,
    ) -> Result<LoadedSession> {
        let mut operators = operator_domain(Arc::clone(&self.linears))?;
        if let Some(pool) = pool {
            operators = with_kv_pool(operators, pool)?;
        }
        let builder = with_data_folder(builder(&self.runtime, threads)?, &self.data_folder)?
            .with_operators(operators)?;
        let mut builder = match prepacking {
            Prepacking::Shared => builder.with_prepacked_weights(&self.prepacked)?,
            Prepacking::None => builder.with_config_entry("session.disable_prepacking", "1")?,
        };
        for (name, value) in &self.initializers.values {
            builder = builder.with_initializer(name, Arc::clone(value))?;
        }
        let session = builder.commit_from_memory(&self.model)?;
        self.initializers.release_pages();
        LoadedSession::new(session, &self.device, Some(Arc::clone(&self.initializers)))
    }
}

impl LoadedSession {
    fn new(
        session: Session,
        device: &Device,
        initializers: Option<Arc<Initializers>>,
    ) -> Result<Self> {
        let gpu = device.gpu();
        let releasing = match gpu {
            Some(_) => None,
            None => Some(trim::options("cpu:0")?),
        };
        Ok(Self {
            pinned: gpu.and_then(|gpu| gpu.pinned(&session)),
            session,
            releasing,
            _initializers: initializers,
            _left_behind: gpu.map(|gpu| LeftBehind(Arc::clone(gpu))),
        })
    }

    /// Takes a session that owns its weights.
    pub(crate) fn owning(session: Session) -> Self {
        Self {
            pinned: None,
            session,
            releasing: None,
            _initializers: None,
            _left_behind: None,
        }
    }

    /// Opens a model that has its weights itself.
    ///
    /// # Errors
    /// `Error::Runtime` when ONNX Runtime refuses it, on a GPU those of `Gpu::commit`.
    pub(crate) fn of_model(
        device: &Device,
        mut builder: SessionBuilder,
        model: &[u8],
    ) -> Result<Self> {
        match device.gpu() {
            None => Ok(Self::owning(builder.commit_from_memory(model)?)),
            Some(gpu) => Self::new(gpu.commit(&mut builder, model)?, device, None),
        }
    }

    /// Numbers as an input, row by row: where they are, or for a GPU where it can reach them.
    pub(crate) fn input<'v, T>(
        &self,
        shape: &[usize],
        numbers: &'v [T],
    ) -> Result<SessionInputValue<'v>>
    where
        T: PrimitiveTensorElementType + Copy + Debug + 'static,
    {
        let Some(allocator) = &self.pinned else {
            return Ok(TensorRef::from_array_view((shape.to_vec(), numbers))?.into());
        };
        let shape = Shape::new(shape.iter().map(|&length| length as i64));
        let mut tensor = OwnedTensor::<T>::new(allocator, shape)?;
        tensor
            .try_extract_tensor_mut::<T>()?
            .1
            .copy_from_slice(numbers);
        Ok(tensor.into())
    }

    /// Whether a run is given something of this name.
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.inputs().iter().any(|input| input.name() == name)
    }

    /// Runs the graph once.
    pub(crate) fn run<'s, 'i, 'v: 'i>(
        &'s mut self,
        inputs: Vec<(Cow<'i, str>, SessionInputValue<'v>)>,
    ) -> Result<SessionOutputs<'s>> {
        Ok(self.session.run(inputs)?)
    }

    /// Runs the graph once and gives back the memory that the arena has to spare afterwards. Fresh
    /// pages cost time, so this is for runs that are much larger than usual.
    pub(crate) fn run_and_release<'s, 'i, 'v: 'i>(
        &'s mut self,
        inputs: Vec<(Cow<'i, str>, SessionInputValue<'v>)>,
    ) -> Result<SessionOutputs<'s>> {
        match &self.releasing {
            Some(options) => Ok(self.session.run_with_options(inputs, options)?),
            None => Ok(self.session.run(inputs)?),
        }
    }

    pub(crate) fn inputs(&self) -> &[ort::value::Outlet] {
        self.session.inputs()
    }

    pub(crate) fn outputs(&self) -> &[ort::value::Outlet] {
        self.session.outputs()
    }
}

/// The options that all sessions on CPU have.
pub(crate) fn builder(runtime: &Runtime, threads: usize) -> Result<SessionBuilder> {
    Ok(Session::builder(runtime.environment())?
        // The default policy of `ort` lets other devices in when a machine has them.
        .with_auto_device(AutoDevicePolicy::PreferCPU)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads.max(1))?
        .with_inter_threads(1)?
        // The layers of a short text take some 20 us each, and to wake a thread for every one of
        // them takes as long again; so the threads of a run spin between its layers. Between runs
        // they must not, or they take the cores away from the other sessions of this machine.
        .with_intra_op_spinning(threads > 1)?
        .with_config_entry("session.force_spinning_stop", "1")?
        // Every batch has another shape, and a pattern would be kept for each of them.
        .with_memory_pattern(false)?)
}

/// Says where tensors outside the model are. ONNX Runtime refuses links that lead out of this
/// directory, as those of the Hugging Face cache do; so it must be the one of the real files.
pub(crate) fn with_data_folder(builder: SessionBuilder, folder: &Path) -> Result<SessionBuilder> {
    let key = "session.model_external_initializers_file_folder_path";
    Ok(builder.with_config_entry(key, folder.to_string_lossy())?)
}
