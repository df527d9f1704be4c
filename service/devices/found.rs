//! The GPUs of this machine, as NVIDIA's driver tells them, and in words what is in the way.

use std::fmt;

use retort_kernels::cuda;

use crate::provision::DRIVER_VERSION_MIN;

/// The oldest GPUs that the kernels are made for: Ampere.
const COMPUTE_CAPABILITY_MIN: (u32, u32) = (8, 0);

/// What the driver has to serve: the version of CUDA that ONNX Runtime was built with.
const CUDA_MAJOR_MIN: u32 = 13;

/// A GPU that models can run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number among those that `CUDA_VISIBLE_DEVICES` leaves.
    pub ordinal: usize,
    /// Its name, as its maker writes it.
    pub name: String,
    /// All of its memory.
    pub memory_bytes: u64,
    /// What its processors can do.
    pub compute_capability: (u32, u32),
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = self.memory_bytes as f64 / 1e9;
        write!(f, "GPU {} ({}, {gb:.0} GB)", self.ordinal, self.name)
    }
}

/// Why there is no GPU that models can run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoGpu {
    /// As the end of a sentence.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

/// The GPUs that models can run on. Never empty.
///
/// # Errors
/// When there is none.
pub fn found() -> Result<Vec<Gpu>, NoGpu> {
    let version = cuda::driver_version().map_err(none)?;
    check_driver(version.major, &version)?;
    let devices = cuda::devices().map_err(none)?;
    let gpus = devices.into_iter().map(|device| Gpu {
        ordinal: device.ordinal,
        name: device.name,
        memory_bytes: device.memory_bytes,
        compute_capability: device.compute_capability,
    });
    usable(gpus.collect())
}

fn check_driver(major: u32, version: &dyn fmt::Display) -> Result<(), NoGpu> {
    if major >= CUDA_MAJOR_MIN {
        return Ok(());
    }
    Err(NoGpu {
        why: format!(
            "NVIDIA's driver serves CUDA {version} at most, and {CUDA_MAJOR_MIN}.0 is needed"
        ),
        hint: format!("install NVIDIA's driver {DRIVER_VERSION_MIN} or newer"),
    })
}

fn none(error: cuda::CudaError) -> NoGpu {
    match error {
        cuda::CudaError::NoDriver { .. } => NoGpu {
            why: "there is no NVIDIA driver".into(),
            hint: format!(
                "install NVIDIA's driver {DRIVER_VERSION_MIN} or newer; a container needs NVIDIA's \
                 container toolkit and `--gpus all`"
            ),
        },
        cuda::CudaError::NoDevice { .. } => no_device(),
        other => NoGpu {
            why: format!("NVIDIA's driver does not answer: {other}"),
            hint: "see what `nvidia-smi` says; a driver that was just updated needs a restart"
                .into(),
        },
    }
}

fn usable(gpus: Vec<Gpu>) -> Result<Vec<Gpu>, NoGpu> {
    let Some(old) = gpus
        .iter()
        .find(|gpu| gpu.compute_capability < COMPUTE_CAPABILITY_MIN)
    else {
        return match gpus.is_empty() {
            true => Err(no_device()),
            false => Ok(gpus),
        };
    };
    // Numbers are those of the driver, so one that cannot be used must not be left out unseen.
    let (major, minor) = old.compute_capability;
    let (least, _) = COMPUTE_CAPABILITY_MIN;
    Err(NoGpu {
        why: format!("{old} has compute capability {major}.{minor}, and {least}.0 is needed"),
        hint: "choose newer GPUs with `CUDA_VISIBLE_DEVICES`".into(),
    })
}

fn no_device() -> NoGpu {
    NoGpu {
        why: "NVIDIA's driver shows no GPU".into(),
        hint: "see what `nvidia-smi` lists, and whether `CUDA_VISIBLE_DEVICES` hides it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(ordinal: usize, compute_capability: (u32, u32)) -> Gpu {
        Gpu {
            ordinal,
            name: "NVIDIA Test".into(),
            memory_bytes: 80_000_000_000,
            compute_capability,
        }
    }

    #[test]
    fn an_old_driver_is_told_what_is_needed() {
        assert_eq!(check_driver(13, &"13.0"), Ok(()));
        let old = check_driver(12, &"12.8").unwrap_err();
        assert!(
            old.why.contains("12.8") && old.hint.contains("580"),
            "{old:?}"
        );
    }

    #[test]
    fn a_machine_without_a_driver_is_told_so() {
        match found() {
            Ok(gpus) => assert!(!gpus.is_empty()),
            Err(none) => assert!(!none.why.is_empty() && !none.hint.is_empty()),
        }
    }

    #[test]
    fn a_gpu_that_is_too_old_is_named() {
        assert_eq!(usable(vec![gpu(0, (9, 0))]).unwrap().len(), 1);
        let error = usable(vec![gpu(0, (9, 0)), gpu(1, (7, 5))]).unwrap_err();
        assert!(
            error.why.contains("GPU 1") && error.why.contains("7.5"),
            "{error:?}"
        );
        assert!(usable(vec![]).unwrap_err().why.contains("no GPU"));
    }
}
