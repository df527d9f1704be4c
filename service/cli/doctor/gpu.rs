//! GPUs: which there are, whether models can run on them, and what is in the way.

use std::path::{Path, PathBuf};
use std::process::Command;

use retort_models::Runtime;

use super::Finding;
use super::runtime::first_line;
use crate::config::{Config, DeviceChoice, Environment};
use crate::devices::{Gpu, NoGpu, found};
use crate::provision::{
    self, CUDA_DOWNLOAD, Fetch, Network, Progress, ProvisionConfig, RuntimeLibrary,
};

const CHECK: &str = "gpu";

/// The GPUs, and the libraries that they need.
pub fn examine(config: &Config, environment: &Environment) -> Vec<Finding> {
    let query = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
    let told = first_line(Command::new("nvidia-smi").args(query));
    let driver = driver(environment).map(|path| path.display().to_string());
    let gpus = found();
    let libraries = match &gpus {
        Ok(_) => libraries(config),
        Err(_) => Libraries::Absent,
    };
    let facts = Facts {
        gpus: &gpus,
        driver: told.or(driver),
        libraries,
    };
    judge(&config.device, &facts)
}

/// ONNX Runtime for GPUs, when it is here and GPUs are to be used; nothing is fetched.
pub fn library(config: &Config) -> Option<RuntimeLibrary> {
    if config.device == DeviceChoice::Cpu || found().is_err() {
        return None;
    }
    let provision = without_network(&config.provision);
    let found = provision::cuda_runtime(&provision, Fetch::Nothing, &Progress::silent());
    found.ok().flatten()
}

/// Where things are looked for, and nothing else is done.
pub fn without_network(config: &ProvisionConfig) -> ProvisionConfig {
    ProvisionConfig {
        network: Network::Forbidden {
            by: "retort doctor".into(),
        },
        ..config.clone()
    }
}

/// What was found.
struct Facts<'a> {
    gpus: &'a Result<Vec<Gpu>, NoGpu>,
    /// What is known of the driver.
    driver: Option<String>,
    libraries: Libraries,
}

/// How it stands with the libraries for GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Libraries {
    /// They are here and can be loaded; where they are.
    Good(String),
    /// They are here and cannot be loaded.
    Broken(String),
    /// They are not here.
    Absent,
}

fn libraries(config: &Config) -> Libraries {
    let Some(library) = library(config) else {
        return Libraries::Absent;
    };
    let Some(cuda) = &library.cuda else {
        return Libraries::Absent;
    };
    let folder = cuda.files.first().and_then(|file| file.parent());
    let folder = folder.unwrap_or(Path::new("")).display();
    match Runtime::preload(&cuda.files) {
        Ok(()) => Libraries::Good(format!("{folder} ({})", cuda.origin)),
        Err(error) => Libraries::Broken(error.to_string()),
    }
}

fn judge(device: &DeviceChoice, facts: &Facts<'_>) -> Vec<Finding> {
    let gpus = match facts.gpus {
        Ok(gpus) => gpus,
        Err(none) => return vec![absent(device, none, facts.driver.as_deref())],
    };
    let names: Vec<String> = gpus.iter().map(ToString::to_string).collect();
    let driver = facts.driver.as_ref();
    let driver = driver.map(|driver| format!("; driver: {driver}"));
    let named = format!("{}{}", names.join(", "), driver.unwrap_or_default());
    if *device == DeviceChoice::Cpu {
        return vec![Finding::good(
            CHECK,
            format!("{named}; not used, as `device` is `cpu`"),
        )];
    }
    let first = Finding::good(CHECK, named);
    const CUDA: &str = "cuda libraries";
    let second = match (&facts.libraries, device) {
        (Libraries::Good(place), _) => Finding::good(CUDA, place.clone()),
        (Libraries::Broken(error), _) => Finding::failure(
            CUDA,
            format!("cannot be loaded: {error}"),
            "remove the folder that they are in to have them fetched again",
        ),
        (Libraries::Absent, DeviceChoice::Cuda(_)) => Finding::warning(
            CUDA,
            format!("not here yet; fetched at the first start ({CUDA_DOWNLOAD})"),
            "fetch them now with `retort pull --cuda`",
        ),
        (Libraries::Absent, _) => Finding::warning(
            CUDA,
            "not here, so `auto` is the CPU",
            format!("have them fetched with `--device cuda` ({CUDA_DOWNLOAD})"),
        ),
    };
    vec![first, second]
}

fn absent(device: &DeviceChoice, none: &NoGpu, driver: Option<&str>) -> Finding {
    let driver = driver.map(|driver| format!(" (driver: {driver})"));
    let why = format!("{}{}", none.why, driver.unwrap_or_default());
    if device.wants_gpu() {
        let finding = format!("{why}, and `device` is `{device}`: the service will not start");
        return Finding::failure(CHECK, finding, none.hint.clone());
    }
    Finding::good(CHECK, format!("none: {why}; the CPU will be used"))
}

/// The driver's library, where loaders look for it; WSL keeps it in a place of its own.
fn driver(environment: &Environment) -> Option<PathBuf> {
    const PLACES: [&str; 5] = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/wsl/lib",
    ];
    let named = environment
        .get("LD_LIBRARY_PATH")
        .unwrap_or_default()
        .split(':');
    let places = named.filter(|place| !place.is_empty()).chain(PLACES);
    places
        .map(|place| Path::new(place).join("libcuda.so.1"))
        .find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_driver_is_found_where_loaders_look() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let library = directory.path().join("libcuda.so.1");
        std::fs::write(&library, "").expect("a file");
        let path = format!("/nonexistent:{}", directory.path().display());
        let environment = [("LD_LIBRARY_PATH", path)].into_iter().collect();
        assert_eq!(driver(&environment), Some(library));
    }

    fn of(device: &str, gpus: &Result<Vec<Gpu>, NoGpu>, libraries: Libraries) -> Vec<Finding> {
        let device = device.parse().expect("a device");
        let facts = Facts {
            gpus,
            driver: Some("580.65.06".into()),
            libraries,
        };
        judge(&device, &facts)
    }

    #[test]
    fn a_missing_gpu_matters_only_to_who_asked_for_one() {
        let none = Err(NoGpu {
            why: "there is no NVIDIA driver".into(),
            hint: "install it".into(),
        });
        let asked = &of("cuda", &none, Libraries::Absent)[0];
        assert_eq!(asked.status, Status::Failure);
        assert_eq!(asked.remedy.as_deref(), Some("install it"));
        for device in ["auto", "cpu"] {
            let finding = &of(device, &none, Libraries::Absent)[0];
            assert_eq!(finding.status, Status::Good);
            assert!(finding.finding.contains("no NVIDIA driver"));
        }
    }

    #[test]
    fn a_gpu_is_named_and_what_keeps_it_idle_too() {
        let gpus = Ok(vec![Gpu {
            ordinal: 0,
            name: "NVIDIA H200".into(),
            memory_bytes: 150_000_000_000,
            compute_capability: (9, 0),
        }]);
        let idle = of("cpu", &gpus, Libraries::Absent);
        assert!(idle[0].finding.contains("H200") && idle[0].finding.contains("not used"));
        let auto = of("auto", &gpus, Libraries::Absent);
        assert_eq!(auto[1].status, Status::Warning);
        assert!(auto[1].finding.contains("`auto` is the CPU"));
        let good = of("auto", &gpus, Libraries::Good("/cache".into()));
        assert!(good.iter().all(|finding| finding.status == Status::Good));
        let broken = of("cuda", &gpus, Libraries::Broken("too old".into()));
        assert_eq!(broken[1].status, Status::Failure);
    }
}
