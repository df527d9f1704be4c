//! The kernels on NVIDIA devices, launched from PTX text that is compiled ahead: devices, memory of
//! theirs and of the host, errors, and operators for ONNX Runtime's CUDA execution provider.
//!
//! Everything is always compiled. The driver's library is looked for at run time, and without it
//! each call says so; no other library of CUDA is used here. The functions for the processor are
//! the definitions: [`check`] compares with them what a device computes.

pub mod calls;
pub mod check;

mod device;
mod driver;
mod error;
mod launch;
mod measure;
mod memory;
mod operators;

pub use device::{CudaDevice, DeviceInfo, DeviceMemory, devices};
pub use driver::{DriverVersion, driver_version, is_present};
pub use error::{CudaError, Fault};
pub use launch::{Kernel, Launch, Machine, Memory};
pub use measure::{Timing, measure_kernels};
pub use memory::{PinnedBuffer, PinnedValue};
pub use operators::{cuda_operator_domain, operator_domain_on};
