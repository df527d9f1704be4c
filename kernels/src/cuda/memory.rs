//! Memory of a device, and memory of the host that devices read and write by themselves.

use super::driver::failed;
use super::{CudaDevice, CudaError, Memory};
use cudarc::driver::result;
use cudarc::driver::sys;
use std::ffi::c_void;
use std::ptr::NonNull;

/// Bytes on a device.
pub(super) struct DeviceBuffer {
    device: CudaDevice,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl DeviceBuffer {
    /// Reserves memory and fills it. No bytes at all are an address that nothing is read from.
    pub(super) fn new(device: &CudaDevice, bytes: &[u8]) -> Result<Self, CudaError> {
        device.bind()?;
        // SAFETY: the context of the device is current on this thread.
        let address = unsafe { result::malloc_sync(bytes.len().max(1)) };
        let address = address.map_err(failed("cuMemAlloc"))?;
        let buffer = Self {
            device: device.clone(),
            address,
            bytes: bytes.len(),
        };
        // SAFETY: the memory was just reserved for as many bytes.
        unsafe { result::memcpy_htod_sync(address, bytes) }.map_err(failed("cuMemcpyHtoD"))?;
        Ok(buffer)
    }
}

impl Memory for DeviceBuffer {
    fn address(&self) -> u64 {
        self.address
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), CudaError> {
        let length = bytes.len().min(self.bytes);
        // The stream does not wait for others, nor do copies wait for it.
        self.device.wait()?;
        // SAFETY: the buffer holds at least as many bytes, and the context is current: `wait`
        // made it so.
        unsafe { result::memcpy_dtoh_sync(&mut bytes[..length], self.address) }
            .map_err(failed("cuMemcpyDtoH"))
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: the address is that of `new`, and nobody uses it any more. On a lost device
            // it fails, and the memory goes with the process.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Numbers that page-locked memory may hold: plain ones, for which all zeros are a value.
pub trait PinnedValue: Copy + Send + Sync + private::Sealed {}

mod private {
    pub trait Sealed {}
}

macro_rules! pinned_values {
    ($($number:ty),*) => {$(
        impl private::Sealed for $number {}
        impl PinnedValue for $number {}
    )*};
}

pinned_values!(u8, u16, i32, i64, f32);

/// Page-locked memory of the host, which a device reads and writes while the processor does
/// something else. Copies between other memory and a device are made by the processor, in turn.
pub struct PinnedBuffer<T: PinnedValue> {
    device: CudaDevice,
    values: NonNull<T>,
    length: usize,
}

// SAFETY: the memory belongs to this value alone, and numbers may go from thread to thread.
unsafe impl<T: PinnedValue> Send for PinnedBuffer<T> {}
// SAFETY: as above; a shared reference only reads.
unsafe impl<T: PinnedValue> Sync for PinnedBuffer<T> {}

impl<T: PinnedValue> PinnedBuffer<T> {
    /// So many zeros. Reserving it takes as long as a small batch, so it is kept and used again.
    ///
    /// # Errors
    /// `CudaError::OutOfMemory` when the system does not lock as much; ordinary memory will do,
    /// only slower.
    pub fn new(device: &CudaDevice, length: usize) -> Result<Self, CudaError> {
        device.bind()?;
        let bytes = length.saturating_mul(size_of::<T>()).max(1);
        // For all contexts of the process, not just the one that is current.
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: the context of the device is current on this thread.
        let memory: *mut c_void =
            unsafe { result::malloc_host(bytes, flags) }.map_err(failed("cuMemHostAlloc"))?;
        let Some(values) = NonNull::new(memory.cast::<T>()) else {
            return Err(CudaError::OutOfMemory {
                message: format!("no page-locked memory of `{bytes}` bytes"),
            });
        };
        // SAFETY: the memory was just reserved for as many bytes, and whole pages are aligned.
        unsafe { values.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self {
            device: device.clone(),
            values,
            length,
        })
    }

    /// The values.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `new` reserved and filled `length` values, and they live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.values.as_ptr(), self.length) }
    }

    /// The values, to be changed. Not while a device still reads or writes them: whoever started
    /// that waits for its stream first.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed by the caller alone.
        unsafe { std::slice::from_raw_parts_mut(self.values.as_ptr(), self.length) }
    }
}

impl<T: PinnedValue> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: the address is that of `new`, and nobody uses it any more.
            let _ = unsafe { result::free_host(self.values.as_ptr().cast()) };
        }
    }
}
