//! Which of this machine's GPUs models can run on, decided once at start; and where each model
//! goes. Nothing falls to the CPU in silence: it is refused, or the reason is kept to be told.

mod found;

use retort_models::Runtime;

pub use self::found::{Gpu, NoGpu, found};
use crate::{
    config::{Config, DeviceChoice, Gpus},
    fleet::StartError,
    provision::{self, CUDA_DOWNLOAD, Fetch, Progress, RuntimeLibrary},
};

/// Where a model runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// On the processor.
    Cpu,
    /// On these GPUs, a copy on each. Never empty.
    Gpus(Vec<usize>),
}

/// What models can run on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Those that can be used; empty when everything runs on the processor.
    gpus: Vec<Gpu>,
    /// Where models run that do not say.
    default: DeviceChoice,
    /// Bytes of each GPU that models may take.
    memory_limit: Option<u64>,
    /// Why there is no GPU to be used, where somebody may wonder.
    why_cpu: Option<String>,
}

/// ONNX Runtime, and what models can run on with it.
pub struct Provided {
    /// Where the library came from.
    pub library: RuntimeLibrary,
    /// The library, loaded.
    pub runtime: Runtime,
    /// What models can run on.
    pub devices: Devices,
}

/// Who is asked what GPUs there are.
pub type Find<'a> = &'a dyn Fn() -> Result<Vec<Gpu>, NoGpu>;

/// Finds and loads the ONNX Runtime that the configuration needs, fetching it where that is
/// allowed. One for GPUs is fetched only when a GPU was asked for and is there.
///
/// # Errors
/// When a GPU was asked for and cannot be used, and when there is no library to be had.
pub fn provide(
    config: &Config,
    find: Find<'_>,
    progress: &Progress,
) -> Result<Provided, StartError> {
    let plan = plan(config, find)?;
    let wanted = match plan {
        Plan::Cpu { why } => return on_cpu(config, why, progress),
        Plan::Gpu(wanted) => wanted,
    };
    let provision = &config.provision;
    let library = match (
        provision::cuda_runtime(provision, wanted.fetch(), progress),
        &wanted.by,
    ) {
        (Ok(Some(library)), _) => library,
        (Ok(None), _) => {
            let why = format!(
                "{} is not used, as libraries for it are not here; `--device cuda` fetches them \
                 ({CUDA_DOWNLOAD})",
                wanted.gpus[0]
            );
            return on_cpu(config, Some(why), progress);
        }
        (Err(error), None) => return Err(error.into()),
        (Err(error), Some(by)) => {
            let error = StartError::from(error);
            return Err(StartError {
                message: format!("{by} asks for a GPU: {}", error.message),
                hint: Some(or_cpu(error.hint)),
            });
        }
    };
    match (load_for_gpus(&library), &wanted.by) {
        (Ok(runtime), _) => Ok(Provided {
            library,
            runtime,
            devices: Devices {
                gpus: wanted.gpus,
                why_cpu: None,
                ..Devices::of(config)
            },
        }),
        (Err(error), Some(by)) => Err(StartError {
            message: format!("{by} asks for a GPU: {}", error.message),
            hint: Some(or_cpu(error.hint)),
        }),
        (Err(error), None) => on_cpu(config, Some(error.message), progress),
    }
}

/// What is to be tried.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Everything runs on the processor.
    Cpu { why: Option<String> },
    /// These GPUs, as far as there are libraries for them.
    Gpu(Wanted),
}

#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    gpus: Vec<Gpu>,
    /// Who insists on a GPU, in words; `None` when the processor would do, too.
    by: Option<String>,
}

impl Wanted {
    fn fetch(&self) -> Fetch {
        match self.by {
            Some(_) => Fetch::Missing,
            None => Fetch::Nothing,
        }
    }
}

/// Decides what is to be tried, before anything is fetched or loaded.
///
/// # Errors
/// When a GPU was asked for that is not there.
fn plan(config: &Config, find: Find<'_>) -> Result<Plan, StartError> {
    let of_models = config.models.iter();
    let own = of_models.filter_map(|model| Some((model.device.as_ref()?, Some(&model.name))));
    let all: Vec<_> = std::iter::once((&config.device, None)).chain(own).collect();
    let by = all.iter().find(|(choice, _)| choice.wants_gpu());
    let by = by.map(|(choice, model)| match model {
        Some(model) => format!("`device` = `{choice}` of model `{model}`"),
        None => format!("`device` = `{choice}`"),
    });
    if by.is_none() && !all.iter().any(|(choice, _)| **choice == DeviceChoice::Auto) {
        return Ok(Plan::Cpu { why: None });
    }
    let gpus = match (find(), &by) {
        (Ok(gpus), _) => gpus,
        (Err(none), None) => {
            let why = Some(none.why);
            return Ok(Plan::Cpu { why });
        }
        (Err(none), Some(by)) => {
            return Err(StartError {
                message: format!("{by} asks for a GPU, and {}", none.why),
                hint: Some(or_cpu(Some(none.hint))),
            });
        }
    };
    let devices = Devices {
        gpus,
        ..Devices::of(config)
    };
    for (choice, _) in &all {
        devices.place(Some(choice))?;
    }
    let gpus = devices.gpus;
    Ok(Plan::Gpu(Wanted { gpus, by }))
}

fn on_cpu(
    config: &Config,
    why_cpu: Option<String>,
    progress: &Progress,
) -> Result<Provided, StartError> {
    let library = provision::runtime(&config.provision, progress)?;
    Ok(Provided {
        runtime: Runtime::load(&library.path)?,
        library,
        devices: Devices {
            why_cpu,
            ..Devices::of(config)
        },
    })
}

/// Loads what the provider for GPUs looks for, then ONNX Runtime itself.
fn load_for_gpus(library: &RuntimeLibrary) -> Result<Runtime, StartError> {
    let failed = |error: retort_models::Error| StartError {
        message: format!("a library for GPUs cannot be loaded: {error}"),
        hint: Some("remove the folder that it is in to have it fetched again".into()),
    };
    if let Some(cuda) = &library.cuda {
        Runtime::preload(&cuda.files).map_err(failed)?;
    }
    let runtime = Runtime::load(&library.path)?;
    if runtime.providers().iter().any(|name| name.contains("CUDA")) {
        return Ok(runtime);
    }
    Err(StartError {
        message: format!("`{}` was built without CUDA", library.path.display()),
        hint: Some("use the library of onnxruntime-gpu".into()),
    })
}

/// Advice, and the way out that is always there.
fn or_cpu(hint: Option<String>) -> String {
    const CPU: &str = "run on the CPU with `--device cpu`";
    match hint {
        Some(hint) if hint.contains("--device cpu") => hint,
        Some(hint) => format!("{hint}; or {CPU}"),
        None => CPU.into(),
    }
}

impl Devices {
    /// What is configured, without any GPU.
    fn of(config: &Config) -> Self {
        Self {
            gpus: Vec::new(),
            default: config.device.clone(),
            memory_limit: config.gpu.memory_limit_bytes,
            why_cpu: None,
        }
    }

    /// So many GPUs that are not there.
    #[cfg(test)]
    pub fn with_gpus(count: usize) -> Self {
        let gpu = |ordinal| Gpu {
            ordinal,
            name: "NVIDIA Test".into(),
            memory_bytes: 80_000_000_000,
            compute_capability: (9, 0),
        };
        Self {
            gpus: (0..count).map(gpu).collect(),
            ..Self::default()
        }
    }

    /// The GPUs that can be used.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// Bytes of each GPU that models may take; `None`: all that there is.
    pub fn memory_limit(&self) -> Option<u64> {
        self.memory_limit
    }

    /// Why no GPU is used, where there was a choice.
    pub fn why_cpu(&self) -> Option<&str> {
        self.why_cpu.as_deref()
    }

    /// Where a model runs that asks for this, or for nothing.
    ///
    /// # Errors
    /// When it asks for a GPU that cannot be used.
    pub fn place(&self, choice: Option<&DeviceChoice>) -> Result<Placement, StartError> {
        let choice = choice.unwrap_or(&self.default);
        let count = self.gpus.len();
        let gpus = match choice {
            DeviceChoice::Cpu => return Ok(Placement::Cpu),
            DeviceChoice::Auto if count == 0 => return Ok(Placement::Cpu),
            DeviceChoice::Auto => vec![0],
            DeviceChoice::Cuda(_) if count == 0 => return Err(self.none(choice)),
            DeviceChoice::Cuda(Gpus::First) => vec![0],
            // However many are asked for, one too many is enough to say no.
            DeviceChoice::Cuda(Gpus::Count(wanted)) => (0..(*wanted).min(count + 1)).collect(),
            DeviceChoice::Cuda(Gpus::All) => (0..count).collect(),
            DeviceChoice::Cuda(Gpus::These(numbers)) => numbers.clone(),
        };
        let beyond = gpus.iter().find(|&&number| number >= count);
        let Some(beyond) = beyond else {
            return Ok(Placement::Gpus(gpus));
        };
        let there: Vec<String> = self.gpus.iter().map(ToString::to_string).collect();
        Err(StartError {
            message: format!(
                "`{choice}` asks for GPU `{beyond}`, and this server can use {count}: {}",
                there.join(", ")
            ),
            hint: Some(
                "numbers start with 0 and count the GPUs that `CUDA_VISIBLE_DEVICES` leaves".into(),
            ),
        })
    }

    fn none(&self, choice: &DeviceChoice) -> StartError {
        let why = match &self.why_cpu {
            Some(why) => format!(": {why}"),
            None => ", as it was started with `--device cpu`".to_owned(),
        };
        StartError {
            message: format!("`{choice}` asks for a GPU, and this server uses none{why}"),
            hint: Some("start the server with `--device cuda`".into()),
        }
    }
}

/// The numbers of the GPUs that a model runs on, of what is told of it; none on a processor.
pub fn numbers_of(device: &str) -> Vec<usize> {
    let numbers = device.strip_prefix("cuda:").unwrap_or_default();
    numbers
        .split(',')
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests;
