//! A graph becomes ONNX Runtime sessions. All sessions of a model share one copy of its weights:
//! the mapped file, and what ONNX Runtime packs from it for its matrix products.

use std::borrow::Cow;
use std::ffi::c_void;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use ort::AsPointer;
use ort::memory::{Allocator, MemoryInfo};
use ort::session::builder::{
    AutoDevicePolicy, GraphOptimizationLevel, PrepackedWeights, SessionBuilder,
};
use ort::session::{RunOptions, Session, SessionInputValue, SessionOutputs};
use ort::value::{
    DynValue, PrimitiveTensorElementType, Shape, Tensor as OwnedTensor, TensorElementType,
    TensorRef,
};
use retort_kernels::KvPool;
use retort_kernels::linear::LinearStore;
use retort_kernels::operator::{operator_domain, with_kv_pool};

use crate::checkpoint::halves::F16Values;
use crate::checkpoint::weights::{F32Values, Tensor};
use crate::error::{Error, Result};
use crate::graph::BuiltGraph;
use crate::graph::weight_only::QuantizedWeight;
use crate::packing;
use crate::provider::device::{Device, Gpu};
use crate::quantize::quantize;
use crate::quantize::store::{Part, RoundedStore, Rounding};
use crate::runtime::Runtime;

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
    is_on_gpu: bool,
    // Run options that give back spare memory; `None` never does.
    releasing: Option<RunOptions>,
    _initializers: Option<Arc<Initializers>>,
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

    /// Opens a session on the device of the graph, to which it copies all weights.
    ///
    /// # Errors
    /// `Error::Unsupported` when the device cannot run all of it.
    pub(crate) fn session_on(&self, gpu: &Gpu) -> Result<LoadedSession> {
        let builder = self.device.builder(&self.runtime, 1)?;
        let mut builder =
            with_data_folder(builder, &self.data_folder)?.with_operators(gpu.operators()?)?;
        for (name, value) in &self.initializers.values {
            // Those that are shared among sessions would have to lie on the device already.
            builder = builder.with_external_initializer(name, Arc::clone(value))?;
        }
        let session = gpu.commit(&mut builder, &self.model)?;
        self.initializers.release_pages();
        LoadedSession::new(session, &self.device, Some(Arc::clone(&self.initializers)))
    }

    /// A session on the processor of a graph for a GPU: `operators` has what the processor lacks.
    #[cfg(test)]
    pub(crate) fn emulated_session(
        &self,
        operators: Vec<ort::operator::OperatorDomain>,
    ) -> Result<LoadedSession> {
        let mut builder = with_data_folder(builder(&self.runtime, 1)?, &self.data_folder)?;
        for domain in operators {
            builder = builder.with_operators(domain)?;
        }
        for (name, value) in &self.initializers.values {
            builder = builder.with_external_initializer(name, Arc::clone(value))?;
        }
        let session = builder.commit_from_memory(&self.model)?;
        LoadedSession::new(session, &Device::Cpu, Some(Arc::clone(&self.initializers)))
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
        let arena = gpu.map_or_else(|| "cpu:0".to_owned(), |gpu| gpu.arena());
        let mut releasing = RunOptions::new()?;
        releasing.set("memory.enable_memory_arena_shrinkage", arena)?;
        Ok(Self {
            pinned: gpu.and_then(|gpu| gpu.pinned(&session)),
            session,
            is_on_gpu: gpu.is_some(),
            releasing: Some(releasing),
            _initializers: initializers,
        })
    }

    /// Takes a session that owns its weights.
    pub(crate) fn owning(session: Session) -> Self {
        Self {
            pinned: None,
            session,
            is_on_gpu: false,
            releasing: None,
            _initializers: None,
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

    /// Whether it computes on a GPU.
    pub(crate) fn is_on_gpu(&self) -> bool {
        self.is_on_gpu
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

/// Weights as ONNX Runtime values that point into memory owned by this struct.
///
/// The values must not outlive `tensors`. They never leave this module: sessions get them only
/// in `SharedGraph::session`, and `LoadedSession` keeps this struct alive until after its session
/// is gone (fields drop in the order they are declared, here as there).
struct Initializers {
    values: Vec<(String, Arc<DynValue>)>,
    tensors: Vec<F32Values>,
    halves: Vec<F16Values>,
}

impl Initializers {
    fn new(weights: Vec<(String, Tensor)>) -> Result<Self> {
        let mut initializers = Self {
            values: Vec::new(),
            tensors: Vec::new(),
            halves: Vec::new(),
        };
        for (name, tensor) in weights {
            let shape: Vec<i64> = tensor.shape().iter().map(|&length| length as i64).collect();
            let values = tensor.to_f32()?;
            // SAFETY: the numbers lie in a mapped file or on the heap, so they stay where they
            // are when `values` moves into `tensors`, and `Initializers` keeps them long enough.
            let value = unsafe {
                let numbers = values.as_slice();
                let bytes = (numbers.as_ptr().cast(), size_of_val(numbers));
                borrowed_value(bytes, &shape, TensorElementType::Float32)
            }?;
            initializers.values.push((name, Arc::new(value)));
            initializers.tensors.push(values);
        }
        Ok(initializers)
    }

    /// Adds tables that stay in the file in the type that they have there.
    fn add_tables(&mut self, tables: Vec<(String, Tensor)>) -> Result<()> {
        for (name, tensor) in tables {
            let shape: Vec<i64> = tensor.shape().iter().map(|&length| length as i64).collect();
            let element_type = match &*tensor.dtype() {
                "float16" => TensorElementType::Float16,
                _ => TensorElementType::Bfloat16,
            };
            let bytes = (tensor.data().as_ptr(), tensor.data().len());
            // SAFETY: the bytes lie in a mapped file that the tensor, which is kept, keeps.
            let value = unsafe { borrowed_value(bytes, &shape, element_type) }?;
            self.values.push((name, Arc::new(value)));
            self.tensors.push(F32Values::Mapped(tensor));
        }
        Ok(())
    }

    /// Adds matrices in few bits: as they lie in the store, or in memory where that cannot keep
    /// them.
    fn add_rounded(
        &mut self,
        weights: &[QuantizedWeight],
        store: Option<&RoundedStore>,
    ) -> Result<Rounding> {
        if weights.is_empty() {
            return Ok(Rounding::Nothing);
        }
        let stored = match store.map(|store| store.rounded(weights)) {
            Some(Ok(stored)) => stored,
            kept => {
                let reason = match kept {
                    Some(Err(error)) => error.to_string(),
                    Some(Ok(_)) | None => "no folder was given for them".to_owned(),
                };
                self.round(weights)?;
                return Ok(Rounding::InMemory(reason));
            }
        };
        let (files, rounding) = stored;
        for weight in weights {
            for (part, element_type) in [
                (Part::Numbers, TensorElementType::Uint8),
                (Part::Scales, TensorElementType::Float32),
            ] {
                let (name, _, shape) = part.of(weight);
                let missing = || Error::Runtime(format!("`{name}` is not where it was kept"));
                let tensor = files.get(name).ok_or_else(missing)?.clone();
                let shape: Vec<i64> = shape.into_iter().map(|length| length as i64).collect();
                let bytes = (tensor.data().as_ptr(), tensor.data().len());
                // SAFETY: the bytes lie in a mapped file that the tensor, which is kept, keeps; the
                // store has made sure of their type and number.
                let value = unsafe { borrowed_value(bytes, &shape, element_type) }?;
                self.values.push((name.to_owned(), Arc::new(value)));
                self.tensors.push(F32Values::Mapped(tensor));
            }
        }
        Ok(rounding)
    }

    /// Rounds in memory.
    fn round(&mut self, weights: &[QuantizedWeight]) -> Result<()> {
        for weight in weights {
            let (numbers, scales) = quantize(&weight.tensor, weight.bits)?;
            let (_, _, shape) = Part::Numbers.of(weight);
            let numbers = OwnedTensor::from_array((shape, numbers))?;
            let scales = OwnedTensor::from_array((weight.shape(), scales))?;
            let values = &mut self.values;
            values.push((weight.numbers.clone(), Arc::new(numbers.into_dyn())));
            values.push((weight.scales.clone(), Arc::new(scales.into_dyn())));
            weight.tensor.release_pages();
        }
        Ok(())
    }

    /// Adds tensors in 16-bit floating point.
    fn add_halves(&mut self, halves: Vec<(String, Tensor)>) -> Result<()> {
        for (name, tensor) in halves {
            let shape: Vec<i64> = tensor.shape().iter().map(|&length| length as i64).collect();
            let values = tensor.to_f16()?;
            // SAFETY: the numbers lie on the heap or in a mapped file, and are kept.
            let value = unsafe {
                let numbers = values.as_slice();
                let bytes = (numbers.as_ptr().cast(), size_of_val(numbers));
                borrowed_value(bytes, &shape, TensorElementType::Float16)
            }?;
            self.values.push((name, Arc::new(value)));
            self.halves.push(values);
        }
        Ok(())
    }

    /// Once a session is open ONNX Runtime has its own packed copy of the large matrices; the
    /// originals need not stay in memory. What is still used, such as rows of the embeddings,
    /// comes back from the file cache when it is touched.
    fn release_pages(&self) {
        for tensor in &self.tensors {
            if let F32Values::Mapped(tensor) = tensor {
                tensor.release_pages();
            }
        }
        for values in &self.halves {
            values.release_pages();
        }
    }
}

impl Drop for Initializers {
    fn drop(&mut self) {
        self.release_pages();
    }
}

/// An ONNX Runtime value over numbers that it does not own. (`ort` has safe constructors for
/// owned and for borrowed values, but sessions accept only owned ones.)
///
/// # Safety
/// The bytes must hold as many numbers as the shape says, and stay where they are, unchanged, until
/// the value and every session that was given it are dropped.
unsafe fn borrowed_value(
    (bytes, length): (*const u8, usize),
    shape: &[i64],
    element_type: TensorElementType,
) -> Result<DynValue> {
    let info = MemoryInfo::default();
    let mut value = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call; the data holds as many numbers as the length
    // in bytes says. ONNX Runtime takes a mutable pointer for every tensor but writes only to the
    // outputs of nodes, and an initializer is none.
    let status = unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            info.ptr(),
            bytes.cast_mut().cast::<c_void>(),
            length,
            shape.as_ptr(),
            shape.len(),
            element_type.into(),
            &mut value,
        )
    };
    // SAFETY: the status comes from the call above and is consumed once.
    unsafe { ort::Error::result_from_status(status) }?;
    let value = NonNull::new(value)
        .ok_or_else(|| Error::Runtime("created no tensor for a weight".to_owned()))?;
    // SAFETY: the pointer is a fresh tensor that nobody else owns. It has no allocator of its own
    // because its data is borrowed; the default one is only kept alive beside it.
    Ok(unsafe { DynValue::from_ptr(value, Some(&Allocator::default())) })
}
