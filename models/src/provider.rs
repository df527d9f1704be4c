//! Where models are computed: on the processor, or on a GPU through CUDA. What is public here is
//! only what an operator chooses; `device` opens it.

pub(crate) mod device;
pub(crate) mod fault;
mod placement;
pub(crate) mod trim;

use std::fmt;

/// Where a model is computed. Nothing falls back: a model that was asked for on a GPU runs there
/// or is not loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Provider {
    /// On the processor.
    #[default]
    Cpu,
    /// On an NVIDIA GPU.
    Cuda(CudaOptions),
}

/// Which GPU, and how much of it. The first model on a device decides for all others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CudaOptions {
    /// Its number, counted from 0 among the devices that `CUDA_VISIBLE_DEVICES` leaves.
    pub ordinal: usize,
    /// The most memory in bytes that the weights and buffers of all models on it may take
    /// together; `None` for what there is.
    pub memory_limit: Option<u64>,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(options) => write!(f, "cuda:{}", options.ordinal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_short_name() {
        assert_eq!(Provider::default().to_string(), "cpu");
        let second = CudaOptions {
            ordinal: 1,
            memory_limit: None,
        };
        assert_eq!(Provider::Cuda(second).to_string(), "cuda:1");
    }
    #[test]
    fn a_build_for_processors_is_no_build_for_gpus() {
        let Some(runtime) = crate::given::tests::runtime() else {
            return;
        };
        if runtime.providers().len() > 1 {
            println!("stepping aside: this ONNX Runtime was built for GPUs");
            return;
        }
        let provider = Provider::Cuda(CudaOptions::default());
        let error = device::Device::open(&runtime, &provider).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("for processors only") && error.contains("`cpu`"),
            "{error}"
        );
    }
}
