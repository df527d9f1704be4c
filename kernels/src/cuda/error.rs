//! What goes wrong on a device, and which of it a process can go on after.

use std::error::Error;
use std::fmt;

/// Codes after which every further call of the process fails, as the driver's documentation says
/// of them: the context is lost, and only a new process gets another one.
const STICKY_CODES: &[u32] = &[
    4,   // CUDA_ERROR_DEINITIALIZED
    214, // CUDA_ERROR_ECC_UNCORRECTABLE
    220, // CUDA_ERROR_NVLINK_UNCORRECTABLE
    226, // CUDA_ERROR_CONTAINED
    700, // CUDA_ERROR_ILLEGAL_ADDRESS
    702, // CUDA_ERROR_LAUNCH_TIMEOUT
    709, // CUDA_ERROR_CONTEXT_IS_DESTROYED
    710, // CUDA_ERROR_ASSERT
    714, // CUDA_ERROR_HARDWARE_STACK_ERROR
    715, // CUDA_ERROR_ILLEGAL_INSTRUCTION
    716, // CUDA_ERROR_MISALIGNED_ADDRESS
    717, // CUDA_ERROR_INVALID_ADDRESS_SPACE
    718, // CUDA_ERROR_INVALID_PC
    719, // CUDA_ERROR_LAUNCH_FAILED
    721, // CUDA_ERROR_TENSOR_MEMORY_LEAK
    999, // CUDA_ERROR_UNKNOWN
];

const OUT_OF_MEMORY_CODE: u32 = 2;

/// How the same is said in words, in small letters, by the runtime library, by cuBLAS and cuDNN.
const STICKY_WORDS: &[&str] = &[
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "device-side assert triggered",
    "unspecified launch failure",
    "misaligned address",
    "the launch timed out and was terminated",
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "hardware stack error",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "context is destroyed",
    "cublas_status_execution_failed",
    "cudnn_status_execution_failed",
];

/// The same for memory; the last two are what ONNX Runtime's arena says before it asks the driver.
const MEMORY_WORDS: &[&str] = &[
    "out of memory",
    "cudaerrormemoryallocation",
    "cuda_error_out_of_memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "failed to allocate memory for requested buffer",
    "smaller than requested bytes",
];

/// What precedes a code in messages: of ONNX Runtime, and of this module.
const CODE_MARK: &str = "cuda failure ";

/// Why something cannot be done on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaError {
    /// There is no usable NVIDIA driver.
    NoDriver {
        /// What is wrong with it.
        message: String,
    },
    /// There is no device of this number.
    NoDevice {
        /// The number, counted from 0 among those this process sees.
        ordinal: usize,
        /// How many it sees.
        devices: usize,
    },
    /// The memory of the device, or page-locked memory of the host, does not suffice.
    OutOfMemory {
        /// What was asked for, and of whom.
        message: String,
    },
    /// The device is lost to this process: all further calls fail as well.
    Sticky {
        /// The driver's code.
        code: u32,
        /// Which call failed, and how.
        message: String,
    },
    /// Anything else the driver refuses.
    Other {
        /// The driver's code.
        code: u32,
        /// Which call failed, and how.
        message: String,
    },
}

/// What a fault means for the work that hit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Less at a time may fit.
    OutOfMemory,
    /// Nothing will work any more in this process.
    Sticky,
}

impl CudaError {
    /// The error of a failed call of the driver.
    pub(super) fn of_call(call: &str, code: u32, words: &str) -> Self {
        let message = format!("CUDA failure {code} in `{call}`: {words}");
        match Fault::of_code(code) {
            Some(Fault::OutOfMemory) => Self::OutOfMemory { message },
            Some(Fault::Sticky) => Self::Sticky { code, message },
            None => Self::Other { code, message },
        }
    }

    /// What the text of an error means that came through ONNX Runtime; `None` when it tells of
    /// neither. A text that tells of both means the worse.
    pub fn classify(text: &str) -> Option<Fault> {
        let text = text.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
        let faults: Vec<Fault> = codes(&text).filter_map(Fault::of_code).collect();
        if faults.contains(&Fault::Sticky) || says(STICKY_WORDS) {
            Some(Fault::Sticky)
        } else if faults.contains(&Fault::OutOfMemory) || says(MEMORY_WORDS) {
            Some(Fault::OutOfMemory)
        } else {
            None
        }
    }

    /// Whether the device is lost to this process.
    pub fn is_sticky(&self) -> bool {
        matches!(self, Self::Sticky { .. })
    }

    /// Whether less at a time may fit.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::OutOfMemory { .. })
    }
}

impl Fault {
    fn of_code(code: u32) -> Option<Self> {
        if code == OUT_OF_MEMORY_CODE {
            Some(Self::OutOfMemory)
        } else {
            STICKY_CODES.contains(&code).then_some(Self::Sticky)
        }
    }
}

/// The codes that a message in small letters gives.
fn codes(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.match_indices(CODE_MARK).filter_map(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        rest[..end].parse().ok()
    })
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver { message } => write!(f, "no NVIDIA driver: {message}"),
            Self::NoDevice {
                ordinal,
                devices: 0,
            } => write!(
                f,
                "there is no CUDA device `{ordinal}`: this process sees none at all"
            ),
            Self::NoDevice { ordinal, devices } => write!(
                f,
                "there is no CUDA device `{ordinal}`; this process sees `{devices}`, \
                 numbered from `0`"
            ),
            Self::OutOfMemory { message } => write!(f, "not enough memory: {message}"),
            Self::Sticky { message, .. } => write!(f, "the CUDA device is lost: {message}"),
            Self::Other { message, .. } => f.write_str(message),
        }
    }
}

impl Error for CudaError {}

impl From<CudaError> for ort::Error {
    fn from(error: CudaError) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_what_is_lost() {
        let error = CudaError::of_call("cuLaunchKernel", 700, "an illegal memory access");
        assert!(error.is_sticky() && !error.is_out_of_memory());
        assert!(
            error.to_string().contains("`cuLaunchKernel`") && error.to_string().contains("700")
        );
        let error = CudaError::of_call("cuMemAlloc", 2, "out of memory");
        assert!(error.is_out_of_memory() && !error.is_sticky());
        // Too many threads for the registers: the launch failed, nothing else.
        let error = CudaError::of_call("cuLaunchKernel", 701, "too many resources requested");
        assert!(!error.is_out_of_memory() && !error.is_sticky());
    }

    #[test]
    fn texts_of_onnx_runtime_are_understood() {
        let check = |text: &str, fault| assert_eq!(CudaError::classify(text), fault, "{text}");
        check(
            "Non-zero status code returned while running MatMul node. Name:'/MatMul' Status \
             Message: CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; \
             hostname=a ; file=/cuda_call.cc ; line=121 ; expr=cudaStreamSynchronize(stream); ",
            Some(Fault::Sticky),
        );
        check(
            "CUDA failure 719: unspecified launch failure ; GPU=0",
            Some(Fault::Sticky),
        );
        check(
            "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED",
            Some(Fault::Sticky),
        );
        check(
            "CUDA failure 226: words of a newer driver",
            Some(Fault::Sticky),
        );
        check(
            "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size); ",
            Some(Fault::OutOfMemory),
        );
        check(
            "/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) \
             Failed to allocate memory for requested buffer of size 1207959552",
            Some(Fault::OutOfMemory),
        );
        check(
            "BFCArena::Extend(size_t) Available memory of 7 is smaller than requested bytes of 8",
            Some(Fault::OutOfMemory),
        );
        check(
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
            Some(Fault::OutOfMemory),
        );
        // While memory was being asked for, something before it turned out to have failed.
        check(
            "CUDA failure 700 in `cuMemAlloc`: x; Failed to allocate memory for requested buffer",
            Some(Fault::Sticky),
        );
        check("CUDA failure 1: invalid argument ; GPU=0", None);
        check("CUDA failure 7000: no such code", None);
        check("Invalid rank for input: input_ids Got: 2 Expected: 1", None);
        check("", None);
    }

    #[test]
    fn own_errors_are_understood_after_their_way_through_onnx_runtime() {
        for (code, fault) in [
            (2, Some(Fault::OutOfMemory)),
            (716, Some(Fault::Sticky)),
            (1, None),
        ] {
            let error = CudaError::of_call("cuLaunchKernel", code, "words");
            let text = format!("Status Message: {error} (running the node `PackedPooling`)");
            assert_eq!(CudaError::classify(&text), fault, "{text}");
        }
    }

    #[test]
    fn missing_devices_are_named() {
        let text = |devices| {
            CudaError::NoDevice {
                ordinal: 3,
                devices,
            }
            .to_string()
        };
        assert!(text(2).contains("`3`") && text(2).contains("`2`"));
        assert!(text(0).contains("none at all"));
    }
}
