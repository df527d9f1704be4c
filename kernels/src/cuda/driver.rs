//! The driver's library: whether it is there, and its calls with their errors made readable.

use super::CudaError;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::fmt;

/// Whether this process can use a device: the driver's library is there and sees one.
pub fn is_present() -> bool {
    device_count().is_ok_and(|count| count > 0)
}

/// The newest version of CUDA that the driver serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverVersion {
    /// The first number: 13 in 13.0.
    pub major: u32,
    /// The second number: 0 in 13.0.
    pub minor: u32,
}

impl DriverVersion {
    /// The driver gives the version as one number: 13000 is 13.0.
    fn of_number(number: u32) -> Self {
        Self {
            major: number / 1000,
            minor: number % 1000 / 10,
        }
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the driver serves at most; it serves older ones of the same major version, too.
///
/// # Errors
/// `CudaError::NoDriver` when there is none.
pub fn driver_version() -> Result<DriverVersion, CudaError> {
    require_library()?;
    let mut number = 0;
    // SAFETY: the driver writes one number to the address.
    let status = unsafe { sys::cuDriverGetVersion(&mut number) };
    status.result().map_err(failed("cuDriverGetVersion"))?;
    Ok(DriverVersion::of_number(number.unsigned_abs()))
}

/// How many devices this process sees; the environment may hide some (`CUDA_VISIBLE_DEVICES`).
pub(super) fn device_count() -> Result<usize, CudaError> {
    init()?;
    match result::device::get_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(error) => Err(failed("cuDeviceGetCount")(error)),
    }
}

/// What must precede all other calls; more than once does no harm. That no device is there is no
/// error of it.
fn init() -> Result<(), CudaError> {
    require_library()?;
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Err(CudaError::NoDevice {
            ordinal: 0,
            devices: 0,
        }),
        Err(DriverError(sys::CUresult::CUDA_ERROR_STUB_LIBRARY)) => Err(CudaError::NoDriver {
            message: "the driver's library found first is the stub that programs are linked \
                      with; take its folder off the library path"
                .to_owned(),
        }),
        done => done.map_err(failed("cuInit")),
    }
}

/// `cudarc` ends the process's thread at the first call when the library is missing.
fn require_library() -> Result<(), CudaError> {
    // SAFETY: this loads a library of the system's, which any program with CUDA does at its start.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(CudaError::NoDriver {
        message: "its library, `libcuda.so.1`, cannot be loaded; install NVIDIA's driver, and in \
                  a container pass the devices through"
            .to_owned(),
    })
}

/// Makes an error of the driver readable: the name of the call, the code and its meaning.
pub(super) fn failed(call: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| {
        let words = error
            .error_string()
            .map(|words| words.to_string_lossy().into_owned());
        let words = words.unwrap_or_else(|_| format!("{:?}", error.0));
        CudaError::of_call(call, error.0 as u32, &words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let version = DriverVersion::of_number(12080);
        assert_eq!(version.to_string(), "12.8");
        assert!(version < DriverVersion::of_number(13000));
    }

    #[test]
    fn a_machine_without_a_driver_is_told_so() {
        if is_present() {
            assert!(driver_version().unwrap().major >= 11);
            return;
        }
        match device_count() {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert!(
                matches!(
                    error,
                    CudaError::NoDriver { .. } | CudaError::NoDevice { .. }
                ),
                "{error}"
            ),
        }
    }
}
