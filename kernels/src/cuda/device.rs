//! One device with what all its sessions share: the primary context, one stream, the kernels.

use super::driver::{device_count, failed};
use super::launch::Module;
use super::memory::DeviceBuffer;
use super::{CudaError, Kernel, Launch, Machine, Memory};
use cudarc::driver::result;
use cudarc::driver::sys;
use ort::memory::AllocationDevice;
use std::ffi::{CString, c_void};
use std::fmt::Write;
use std::sync::Arc;

/// What is known of a device before anything is done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number among those this process sees, counted from 0 (`CUDA_VISIBLE_DEVICES`).
    pub ordinal: usize,
    /// Its name as NVIDIA sells it, such as `NVIDIA H200`.
    pub name: String,
    /// What it can do, as major and minor number: `(9, 0)` for Hopper.
    pub compute_capability: (u32, u32),
    /// All its memory, in bytes.
    pub memory_bytes: u64,
    /// Which piece of hardware it is, written as `nvidia-smi -L` does: `GPU-…`.
    pub uuid: String,
}

/// The memory of a device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What no process uses.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// The devices that this process sees, in their order; none is no error.
///
/// # Errors
/// `CudaError::NoDriver` when there is no driver to ask.
pub fn devices() -> Result<Vec<DeviceInfo>, CudaError> {
    let count = match device_count() {
        Err(CudaError::NoDevice { .. }) => 0,
        found => found?,
    };
    (0..count).map(info).collect()
}

fn handle(ordinal: usize) -> Result<sys::CUdevice, CudaError> {
    let devices = device_count()?;
    let number = i32::try_from(ordinal)
        .ok()
        .filter(|_| ordinal < devices)
        .ok_or(CudaError::NoDevice { ordinal, devices })?;
    result::device::get(number).map_err(failed("cuDeviceGet"))
}

fn info(ordinal: usize) -> Result<DeviceInfo, CudaError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = handle(ordinal)?;
    let attribute = |which| {
        // SAFETY: the device comes from the driver.
        let value = unsafe { result::device::get_attribute(device, which) };
        value
            .map(i32::unsigned_abs)
            .map_err(failed("cuDeviceGetAttribute"))
    };
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) };
    let uuid = result::device::get_uuid(device).map_err(failed("cuDeviceGetUuid"))?;
    Ok(DeviceInfo {
        ordinal,
        name: result::device::get_name(device).map_err(failed("cuDeviceGetName"))?,
        compute_capability: (attribute(MAJOR)?, attribute(MINOR)?),
        memory_bytes: memory.map_err(failed("cuDeviceTotalMem"))? as u64,
        uuid: uuid_text(uuid.bytes.map(|byte| byte as u8)),
    })
}

/// As `nvidia-smi -L` writes it.
fn uuid_text(bytes: [u8; 16]) -> String {
    let mut text = "GPU".to_owned();
    for (at, byte) in bytes.iter().enumerate() {
        if [0, 4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A device that is used: its primary context, which ONNX Runtime uses as well, a stream of this
/// process and the kernels. Cheap to clone; everything goes back with the last clone, so one must
/// outlive every session on its stream.
#[derive(Clone)]
pub struct CudaDevice(Arc<Inner>);

struct Inner {
    info: DeviceInfo,
    device: sys::CUdevice,
    context: sys::CUcontext,
    // Null until it is made, as when `open` fails in between.
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    // In the order of `Kernel::ALL`.
    functions: Vec<sys::CUfunction>,
}

// SAFETY: the driver's handles may be used from any thread on which the context is current, and
// every use here makes it so first.
unsafe impl Send for Inner {}
// SAFETY: as above; the driver guards its own state.
unsafe impl Sync for Inner {}

impl CudaDevice {
    /// Opens a device: makes its primary context and a stream that waits for no other, and has the
    /// driver translate the kernels, which takes a moment when it does so for the first time.
    ///
    /// # Errors
    /// `CudaError::NoDriver` and `CudaError::NoDevice`; `CudaError::Other` when another process
    /// has the device for itself, or the driver or the device is older than the kernels' text.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        let info = info(ordinal)?;
        let device = handle(ordinal)?;
        // SAFETY: the device comes from the driver; `Inner` gives the context back.
        let context = unsafe { result::primary_ctx::retain(device) };
        let mut inner = Inner {
            info,
            device,
            context: context.map_err(failed("cuDevicePrimaryCtxRetain"))?,
            stream: std::ptr::null_mut(),
            modules: Vec::new(),
            functions: Vec::new(),
        };
        inner.bind()?;
        let kind = result::stream::StreamKind::NonBlocking;
        inner.stream = result::stream::create(kind).map_err(failed("cuStreamCreate"))?;
        inner.load()?;
        Ok(Self(Arc::new(inner)))
    }

    /// The stream that all work of this process on the device goes to, as the runtime library and
    /// ONNX Runtime know it (`cudaStream_t`). Valid as long as a clone of `self` lives.
    pub fn stream(&self) -> *mut c_void {
        self.0.stream.cast()
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// How much memory is free now, and how much there is.
    ///
    /// # Errors
    /// `CudaError::Sticky` when the device is lost.
    pub fn memory(&self) -> Result<DeviceMemory, CudaError> {
        self.bind()?;
        let (free, total) = result::mem_get_info().map_err(failed("cuMemGetInfo"))?;
        Ok(DeviceMemory {
            free: free as u64,
            total: total as u64,
        })
    }

    /// Whether the device still answers, without waiting for its work.
    ///
    /// # Errors
    /// `CudaError::Sticky` when it is lost.
    pub fn health(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the stream is this device's own.
        let status = unsafe { sys::cuStreamQuery(self.0.stream) };
        match status {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(()),
            status => status.result().map_err(failed("cuStreamQuery")),
        }
    }

    /// Waits until everything on the stream has run.
    ///
    /// # Errors
    /// `CudaError::Sticky` when something on it has lost the device.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: as in `health`.
        unsafe { result::stream::synchronize(self.0.stream) }.map_err(failed("cuStreamSynchronize"))
    }

    /// Makes the context the current one of this thread.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        self.0.bind()
    }
}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CudaDevice").field(&self.0.info).finish()
    }
}

impl Machine for CudaDevice {
    unsafe fn launch(&self, stream: *mut c_void, launch: &Launch) -> Result<(), CudaError> {
        let own = |kernel: &Kernel| *kernel == launch.kernel();
        let function = Kernel::ALL
            .iter()
            .position(own)
            .map(|at| self.0.functions[at]);
        let Some(function) = function else {
            return Err(no_kernel(launch.kernel()));
        };
        let [x, y, z] = launch.grid();
        let threads = (launch.kernel().threads(), 1, 1);
        let mut arguments = launch.arguments();
        self.bind()?;
        // SAFETY: the function is of a module that lives as long as `self`; the arguments are
        // those of its source, and their memory is as the caller promises.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                threads,
                0,
                stream.cast(),
                &mut arguments,
            )
        }
        .map_err(failed("cuLaunchKernel"))
    }

    fn upload(&self, bytes: &[u8]) -> Result<Box<dyn Memory>, CudaError> {
        Ok(Box::new(DeviceBuffer::new(self, bytes)?))
    }

    fn stream(&self) -> *mut c_void {
        Self::stream(self)
    }

    fn provider(&self) -> Option<&'static str> {
        Some("CUDAExecutionProvider")
    }

    fn reaches(&self, place: &AllocationDevice<'_>) -> bool {
        // Page-locked memory of the host it does reach.
        *place != AllocationDevice::CPU
    }
}

fn no_kernel(kernel: Kernel) -> CudaError {
    CudaError::of_call("cuModuleGetFunction", 500, kernel.name())
}

impl Inner {
    fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context is held until `self` is dropped.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("cuCtxSetCurrent"))
    }

    /// Has the driver translate the kernels and finds them.
    fn load(&mut self) -> Result<(), CudaError> {
        for module in Module::ALL {
            // SAFETY: the text ends with a zero, and the driver only reads it.
            let loaded = unsafe { result::module::load_data(module.ptx().as_ptr().cast()) };
            self.modules
                .push(loaded.map_err(failed("cuModuleLoadData"))?);
        }
        for kernel in Kernel::ALL {
            let module = Module::ALL.iter().position(|&m| m == kernel.module());
            let name = CString::new(kernel.name()).map_err(|_| no_kernel(kernel))?;
            let module = module.map(|at| self.modules[at]);
            let module = module.ok_or_else(|| no_kernel(kernel))?;
            // SAFETY: the module was just loaded and is not unloaded before `self` is dropped.
            let function = unsafe { result::module::get_function(module, name) };
            self.functions
                .push(function.map_err(failed("cuModuleGetFunction"))?);
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // On a lost device all of this fails, and the process is about to end.
        if self.bind().is_ok() {
            for &module in &self.modules {
                // SAFETY: loaded by `load`, and no clone of the device is left to launch from it.
                let _ = unsafe { result::module::unload(module) };
            }
            if !self.stream.is_null() {
                // SAFETY: made by `open`; the last session on it is gone.
                let _ = unsafe { result::stream::destroy(self.stream) };
            }
        }
        // SAFETY: retained once, by `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_written_as_nvidia_does() {
        let bytes = std::array::from_fn(|at| at as u8 * 17);
        let text = "GPU-00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(uuid_text(bytes), text);
    }

    #[test]
    fn a_device_that_is_not_there_is_refused() {
        let found = devices().map_or(0, |devices| devices.len());
        let error = CudaDevice::open(found + 7).unwrap_err();
        assert!(
            matches!(
                error,
                CudaError::NoDriver { .. } | CudaError::NoDevice { .. }
            ),
            "{error}"
        );
    }
}
