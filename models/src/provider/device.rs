//! A provider that is open. All sessions on a GPU share its stream, one arena for its memory, which
//! is only safe on one stream, and the knowledge whether it still works.

use std::ffi::{CStr, CString};
use std::fmt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ort::AsPointer;
use ort::ep::{self, ArenaExtendStrategy, ExecutionProvider, ExecutionProviderDispatch};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::operator::OperatorDomain;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use retort_kernels::cuda::{CudaDevice, cuda_operator_domain};

use super::fault::Health;
use super::placement;
use super::trim::Trimmer;
use super::{CudaOptions, Provider};
use crate::error::{Error, Result};
use crate::model::EncoderInfo;
use crate::runtime::Runtime;
use crate::session;

/// `kSameAsRequested`: an arena that doubles at every step would take the whole memory in a few.
const EXTEND_AS_REQUESTED: usize = 1;

/// Where sessions are made.
#[derive(Debug, Clone)]
pub(crate) enum Device {
    /// On the processor.
    Cpu,
    /// On a GPU.
    Cuda(Arc<Gpu>),
}

/// A GPU that is in use.
pub(crate) struct Gpu {
    device: CudaDevice,
    options: CudaOptions,
    pub(crate) health: Health,
    // Opened before the first model is.
    trimmer: Option<Trimmer>,
    trims: AtomicU64,
}

impl Device {
    /// Opens what the operator chose. A device is opened once in a process.
    ///
    /// # Errors
    /// `Error::Device` when there is no such device, `Error::Unsupported` when ONNX Runtime cannot
    /// use it, or it is in use already with another limit.
    pub(crate) fn open(runtime: &Runtime, provider: &Provider) -> Result<Self> {
        match provider {
            Provider::Cpu => Ok(Self::Cpu),
            Provider::Cuda(options) => {
                let open = || Gpu::open(runtime, options);
                Ok(Self::Cuda(runtime.gpu(options, open)?))
            }
        }
    }

    /// The GPU, if it is one.
    pub(crate) fn gpu(&self) -> Option<&Arc<Gpu>> {
        match self {
            Self::Cpu => None,
            Self::Cuda(gpu) => Some(gpu),
        }
    }

    /// The options that all sessions on it have; those on a GPU compute nothing on `threads`.
    pub(crate) fn builder(&self, runtime: &Runtime, threads: usize) -> Result<SessionBuilder> {
        match self {
            Self::Cpu => session::builder(runtime, threads),
            Self::Cuda(gpu) => gpu.builder(runtime),
        }
    }

    /// The facts of a model with where it is computed.
    pub(crate) fn described(&self, info: EncoderInfo) -> EncoderInfo {
        let Self::Cuda(gpu) = self else {
            return info;
        };
        let provider = Provider::Cuda(gpu.options.clone());
        EncoderInfo {
            device: provider.to_string(),
            device_name: Some(gpu.device.info().name.clone()),
            provider,
            ..info
        }
    }
}

impl Gpu {
    fn open(runtime: &Runtime, options: &CudaOptions) -> Result<Self> {
        if !runtime.providers().contains(&ep::CUDA::NAME) {
            return Err(Error::Unsupported(format!(
                "`{}` is a build of ONNX Runtime for processors only; name one that was built for \
                 CUDA, or set the device to `cpu`",
                runtime.library().display()
            )));
        }
        let mut gpu = Self {
            device: CudaDevice::open(options.ordinal)?,
            options: options.clone(),
            health: Health::default(),
            trimmer: None,
            trims: AtomicU64::new(0),
        };
        // Loads the library of the provider, and says which of those that it needs is missing.
        gpu.with_provider(session::builder(runtime, 1)?)
            .map_err(|error| unusable(&error, runtime.library()))?;
        gpu.share_arena(runtime)?;
        let trimmer = Trimmer::open(gpu.builder(runtime)?, &gpu.arena())?;
        // Where memory cannot be given back that is to be known now, and not when it is gone.
        trimmer.trim()?;
        gpu.trimmer = Some(trimmer);
        Ok(gpu)
    }

    /// Whether it was opened for the same options.
    ///
    /// # Errors
    /// `Error::Unsupported` when it is the same device with another limit.
    pub(crate) fn is(&self, options: &CudaOptions) -> Result<bool> {
        if self.options.ordinal != options.ordinal || self.options == *options {
            return Ok(self.options.ordinal == options.ordinal);
        }
        let limit = |options: &CudaOptions| {
            let bytes = options.memory_limit;
            bytes.map_or("none".to_owned(), |bytes| format!("{bytes} bytes"))
        };
        Err(Error::Unsupported(format!(
            "the GPU `{}` is in use with a memory limit of `{}`, which cannot become `{}`; give \
             all its models one limit",
            options.ordinal,
            limit(&self.options),
            limit(options)
        )))
    }

    /// Its number as ONNX Runtime takes it.
    fn id(&self) -> i32 {
        self.options.ordinal as i32
    }

    fn limit(&self) -> Option<usize> {
        let limit = self.options.memory_limit?;
        Some(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    fn provider(&self) -> ExecutionProviderDispatch {
        let mut cuda = ep::CUDA::default()
            .with_device_id(self.id())
            .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
            // Sums of layer norms in 32 bits.
            .with_skip_layer_norm_strict_mode(true)
            // 32-bit products are asked for where 16 bits are not enough.
            .with_tf32(false);
        if let Some(limit) = self.limit() {
            cuda = cuda.with_memory_limit(limit);
        }
        // SAFETY: the stream lives as long as the device, which is never closed: see `Runtime`.
        let cuda = unsafe { cuda.with_compute_stream(self.device.stream().cast()) };
        cuda.build().error_on_failure()
    }

    fn with_provider(&self, builder: SessionBuilder) -> Result<SessionBuilder> {
        Ok(builder.with_execution_providers([self.provider()])?)
    }

    fn builder(&self, runtime: &Runtime) -> Result<SessionBuilder> {
        let builder = self.with_provider(session::builder(runtime, 1)?)?;
        placement::recorded(builder.with_env_allocators()?)
    }

    /// Has ONNX Runtime take the memory of all sessions on this device from one arena with one
    /// limit. There is no safe function of `ort` for it.
    fn share_arena(&self, runtime: &Runtime) -> Result<()> {
        let memory = MemoryInfo::new(
            AllocationDevice::CUDA,
            self.id(),
            AllocatorType::Arena,
            MemoryType::Default,
        )?;
        // A limit of 0 is none.
        let keys = [c"max_mem", c"arena_extend_strategy"].map(CStr::as_ptr);
        let values = [self.limit().unwrap_or(0), EXTEND_AS_REQUESTED];
        let name = CString::new(ep::CUDA::NAME).expect("the name has no zero");
        let api = ort::api();
        let mut config = ptr::null_mut();
        // SAFETY: keys and values are lists of the length that is given, and outlive the call.
        let status = unsafe {
            (api.CreateArenaCfgV2)(keys.as_ptr(), values.as_ptr(), keys.len(), &mut config)
        };
        // SAFETY: the status comes from the call above and is consumed once.
        unsafe { ort::Error::result_from_status(status) }?;
        // SAFETY: environment, memory and configuration are alive; no options are given.
        let status = unsafe {
            (api.CreateAndRegisterAllocatorV2)(
                runtime.environment().ptr().cast_mut(),
                name.as_ptr(),
                memory.ptr(),
                config,
                ptr::null(),
                ptr::null(),
                0,
            )
        };
        // SAFETY: the configuration was made above and is copied by whoever needs it.
        unsafe { (api.ReleaseArenaCfg)(config) };
        // SAFETY: the status comes from the call above and is consumed once.
        Ok(unsafe { ort::Error::result_from_status(status) }?)
    }

    /// The operators of this project that run on it.
    pub(crate) fn operators(&self) -> Result<OperatorDomain> {
        Ok(cuda_operator_domain(&self.device)?)
    }

    /// Opens a session on it.
    ///
    /// # Errors
    /// `Error::NoRoom` when its memory does not suffice, `Error::Unsupported` when heavy nodes
    /// would be elsewhere.
    pub(crate) fn commit(&self, builder: &mut SessionBuilder, model: &[u8]) -> Result<Session> {
        self.health.check()?;
        // Memory of batches must not become that of weights, which would keep the rest of it.
        self.trim();
        let opened = self.opened(builder, model);
        if opened.is_err() {
            // It had taken some, and nobody else may ask for a while.
            self.trim();
        }
        opened
    }

    fn opened(&self, builder: &mut SessionBuilder, model: &[u8]) -> Result<Session> {
        let session = builder.commit_from_memory(model);
        let session = session.map_err(|error| self.health.diagnosed_load(error.into()))?;
        placement::check(&placement::nodes(&session)?, ep::CUDA::NAME)?;
        Ok(session)
    }

    /// Gives back the memory that was kept for batches and models that are no more.
    pub(crate) fn trim(&self) {
        let Some(trimmer) = &self.trimmer else { return };
        if self.health.check().is_err() {
            return;
        }
        // It worked when the device was opened, so what is wrong is the device. The next run of a
        // model meets that as well, and somebody waits for it.
        let _ = trimmer.trim();
        self.trims.fetch_add(1, Ordering::Relaxed);
    }

    /// How often memory was given back.
    pub(crate) fn trims(&self) -> u64 {
        self.trims.load(Ordering::Relaxed)
    }

    /// Memory of the host that the device copies from without a detour; `None` where there is none.
    pub(crate) fn pinned(&self, session: &Session) -> Option<Allocator> {
        let memory = MemoryInfo::new(
            AllocationDevice::CUDA_PINNED,
            self.id(),
            AllocatorType::Device,
            MemoryType::CPUInput,
        );
        Allocator::new(session, memory.ok()?).ok()
    }

    /// What ONNX Runtime calls the arena of this device.
    fn arena(&self) -> String {
        format!("gpu:{}", self.options.ordinal)
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gpu = f.debug_struct("Gpu");
        gpu.field("options", &self.options);
        gpu.field("health", &self.health).finish_non_exhaustive()
    }
}

/// Why ONNX Runtime's provider cannot be used.
fn unusable(error: &Error, library: &Path) -> Error {
    Error::Unsupported(format!(
        "ONNX Runtime at `{}` cannot use the GPU: {error}; the libraries of CUDA that it names \
         must be where the system's loader finds them, or set the device to `cpu`",
        library.display()
    ))
}
