//! ONNX Runtime built for CUDA, and the libraries of NVIDIA's that it loads: where a person has
//! put them, else the cache, the active Python environment or the system's CUDA, else the user's
//! pip. It finds files; whether there is a GPU is asked elsewhere, before anything is fetched.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{
    cache,
    config::{CudaPlaces, ProvisionConfig},
    error::ProvisionError,
    pip::{Tags, Wheel},
    progress::Progress,
    runtime::{self, MEMBERS, RUNTIME_VERSION, RuntimeLibrary, RuntimeOrigin},
    wheels::{Part, Set},
};

/// The release of CUDA whose libraries are fetched: the oldest of its major version, so that every
/// driver for that version will do.
pub const CUDA_VERSION: &str = "13.0";

/// The oldest driver that CUDA 13 runs on.
pub const DRIVER_VERSION_MIN: u32 = 580;

/// What fetching everything takes, in words for people.
pub const CUDA_DOWNLOAD: &str = "about 0.8 GB to fetch, 1.1 GB on disk";

/// The library that makes an ONNX Runtime one for CUDA; it lies beside the main one.
const PROVIDER: &str = "libonnxruntime_providers_cuda.so";

/// What the provider loads, in an order in which each finds what it needs itself.
const NEEDED: &[&str] = &[
    "libcudart.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
];

/// What those load on occasion.
const USEFUL: &[&str] = &["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"];

/// Libraries of NVIDIA's, to be loaded in this order before ONNX Runtime looks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaLibraries {
    /// The files.
    pub files: Vec<PathBuf>,
    /// How they were found.
    pub origin: CudaOrigin,
}

/// How NVIDIA's libraries were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaOrigin {
    /// In the folder of a configured ONNX Runtime.
    Beside,
    /// In `CUDA_HOME`, `CUDA_PATH` or `LD_LIBRARY_PATH`.
    Named,
    /// Fetched by an earlier start.
    Cache,
    /// In packages of the active Python environment.
    Environment,
    /// In one of the places where systems keep CUDA.
    System,
    /// In several of these, as none has all.
    Several,
    /// Fetched just now.
    Pip,
}

impl fmt::Display for CudaOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Beside => "beside ONNX Runtime",
            Self::Named => "named by the environment",
            Self::Cache => "cache",
            Self::Environment => "active Python environment",
            Self::System => "system",
            Self::Several => "several places",
            Self::Pip => "fetched through pip",
        })
    }
}

/// Whether what is not on this machine may be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// Somebody has asked for a GPU.
    Missing,
    /// Nobody has: what is not here stays away.
    Nothing,
}

/// Finds ONNX Runtime for CUDA and what it loads; `None` when it is not here and may not be
/// fetched for want of somebody who asked.
///
/// # Errors
/// When a configured library is none for CUDA, on a platform without a pinned build, without a
/// network permission or pip, and when what pip brings is not the pinned files.
pub fn cuda_runtime(
    config: &ProvisionConfig,
    fetch: Fetch,
    progress: &Progress,
) -> Result<Option<RuntimeLibrary>, ProvisionError> {
    let Some(library) = library(config, fetch, progress)? else {
        return Ok(None);
    };
    let libraries = match here(config, &library) {
        Some(libraries) => libraries,
        None if fetch == Fetch::Nothing => return Ok(None),
        None => {
            let set = libraries_set(config)?;
            set.provide(config, progress)?;
            fetched(&set.folder, CudaOrigin::Pip)
        }
    };
    Ok(Some(RuntimeLibrary {
        cuda: Some(libraries),
        ..library
    }))
}

fn library(
    config: &ProvisionConfig,
    fetch: Fetch,
    progress: &Progress,
) -> Result<Option<RuntimeLibrary>, ProvisionError> {
    if let Some(path) = &config.runtime_path {
        let library = runtime::configured(path)?;
        if has_provider(&library.path) {
            return Ok(Some(library));
        }
        if fetch == Fetch::Nothing {
            return Ok(None);
        }
        return Err(ProvisionError::new(format!(
            "the configured ONNX Runtime `{}` was built without CUDA: there is no `{PROVIDER}` \
             beside it",
            library.path.display()
        ))
        .with_hint(
            "set it (or ORT_DYLIB_PATH) to the library of onnxruntime-gpu, or leave it unset to \
             have that fetched",
        ));
    }
    let found = |path, origin| RuntimeLibrary {
        path,
        version: Some(RUNTIME_VERSION.to_owned()),
        origin,
        cuda: None,
    };
    let name = LIBRARY.files[0];
    if let Ok(set) = library_set(config)
        && cache::installed(&set.folder).is_some()
    {
        return Ok(Some(found(set.folder.join(name), RuntimeOrigin::Cache)));
    }
    // Only the release that this program is tested with is taken from where it happens to be.
    let packages = site_packages(&config.cuda.environments);
    let mut of_python = packages
        .iter()
        .map(|folder| folder.join(MEMBERS).join(name));
    if let Some(path) = of_python.find(|path| path.is_file() && has_provider(path)) {
        return Ok(Some(found(path, RuntimeOrigin::Environment)));
    }
    if fetch == Fetch::Nothing {
        return Ok(None);
    }
    let set = library_set(config)?;
    let arrival = set.provide(config, progress)?;
    Ok(Some(found(set.folder.join(name), arrival.into())))
}

fn has_provider(library: &Path) -> bool {
    // A link in the configured folder may lead to where the real files are.
    let real = fs::canonicalize(library);
    let real = real.as_deref().unwrap_or(library);
    [library, real]
        .iter()
        .any(|path| path.with_file_name(PROVIDER).is_file())
}

/// The libraries of NVIDIA's where they are looked for, all from one place if one has them all.
fn here(config: &ProvisionConfig, library: &RuntimeLibrary) -> Option<CudaLibraries> {
    let CudaPlaces {
        homes,
        loader,
        environments,
        system,
    } = &config.cuda;
    let beside = library.path.parent().map(Path::to_path_buf);
    let named = homes.iter().flat_map(|home| below_home(home));
    let named = named.chain(loader.iter().cloned()).collect();
    let cached = libraries_set(config).ok();
    let cached = cached.filter(|set| cache::installed(&set.folder).is_some());
    let cached = cached.map(|set| set.folder).into_iter().collect();
    let places: [(CudaOrigin, Vec<PathBuf>); 5] = [
        (CudaOrigin::Beside, beside.into_iter().collect()),
        (CudaOrigin::Named, named),
        (CudaOrigin::Cache, cached),
        (CudaOrigin::Environment, of_environments(environments)),
        (CudaOrigin::System, of_system(system)),
    ];
    let of_one = |(origin, folders): &(_, Vec<PathBuf>)| complete(*origin, folders);
    places
        .iter()
        .find_map(of_one)
        .or_else(|| of_several(&places))
}

/// Every library from the nearest place that has it, as Python packages often leave one out; but
/// the two of cuBLAS, which know each other's insides, from one folder.
fn of_several(places: &[(CudaOrigin, Vec<PathBuf>)]) -> Option<CudaLibraries> {
    let mut folders: Vec<PathBuf> = places.iter().flat_map(|(_, all)| all.clone()).collect();
    let pair = ["libcublas.so.13", "libcublasLt.so.13"];
    let has_both = |folder: &PathBuf| pair.iter().all(|name| folder.join(name).is_file());
    let both = folders.iter().position(has_both)?;
    folders[..=both].rotate_right(1);
    complete(CudaOrigin::Several, &folders)
}

/// The libraries of one place, when all that are needed are there.
fn complete(origin: CudaOrigin, folders: &[PathBuf]) -> Option<CudaLibraries> {
    let find = |name: &&str| {
        let mut files = folders.iter().map(|folder| folder.join(name));
        files.find(|file| file.is_file())
    };
    let needed: Option<Vec<PathBuf>> = NEEDED.iter().map(find).collect();
    let useful = USEFUL.iter().filter_map(find);
    Some(CudaLibraries {
        files: needed?.into_iter().chain(useful).collect(),
        origin,
    })
}

fn fetched(folder: &Path, origin: CudaOrigin) -> CudaLibraries {
    let names = NEEDED.iter().chain(USEFUL);
    CudaLibraries {
        files: names.map(|name| folder.join(name)).collect(),
        origin,
    }
}

fn below_home(home: &Path) -> Vec<PathBuf> {
    [
        "lib64",
        "targets/x86_64-linux/lib",
        "targets/sbsa-linux/lib",
        "lib",
    ]
    .map(|folder| home.join(folder))
    .to_vec()
}

/// Where packages of a Python environment have their files.
fn site_packages(environments: &[PathBuf]) -> Vec<PathBuf> {
    let pythons = environments.iter().flat_map(|e| folders_in(&e.join("lib")));
    let is_python = |folder: &PathBuf| name_of(folder).starts_with("python3");
    pythons
        .filter(is_python)
        .map(|python| python.join("site-packages"))
        .collect()
}

/// `nvidia/cu13/lib` for CUDA 13, with a folder for each library before that; conda has its own.
fn of_environments(environments: &[PathBuf]) -> Vec<PathBuf> {
    let packages = site_packages(environments).into_iter();
    let nvidia = packages.flat_map(|packages| folders_in(&packages.join("nvidia")));
    let libs = nvidia.map(|folder| folder.join("lib"));
    libs.chain(environments.iter().map(|e| e.join("lib")))
        .collect()
}

/// Every `cuda` and `cuda-13.…` of the system, then its folders of libraries.
fn of_system(roots: &[PathBuf]) -> Vec<PathBuf> {
    let homes = roots.iter().flat_map(|root| folders_in(root));
    let is_cuda = |folder: &PathBuf| {
        let name = name_of(folder);
        name == "cuda" || name.starts_with("cuda-13")
    };
    let below = homes.filter(is_cuda).flat_map(|home| below_home(&home));
    below.chain(roots.iter().cloned()).collect()
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut folders: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

const LIBRARY: Part = Part {
    wheel: Wheel {
        package: "onnxruntime-gpu",
        version: RUNTIME_VERSION,
        tags: Tags::CPython313 {
            platform: "manylinux_2_28_x86_64",
        },
        sha256: "f659529e07c21ec6b6179fd1bfaf82ffb7c3dc9c0916e18f6f313f9a690891be",
    },
    folder: MEMBERS,
    files: &[
        "libonnxruntime.so.1.31.1",
        "libonnxruntime_providers_shared.so",
        PROVIDER,
    ],
};

const fn nvidia(
    package: &'static str,
    version: &'static str,
    platform: &'static str,
    sha256: &'static str,
    files: &'static [&'static str],
) -> Part {
    Part {
        wheel: Wheel {
            package,
            version,
            tags: Tags::AnyPython { platform },
            sha256,
        },
        folder: "nvidia/cu13/lib/",
        files,
    }
}

const LIBRARIES: &[Part] = &[
    nvidia(
        "nvidia-cuda-runtime",
        "13.0.96",
        "manylinux_2_17_x86_64",
        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        &["libcudart.so.13"],
    ),
    nvidia(
        "nvidia-curand",
        "10.4.0.35",
        "manylinux_2_27_x86_64",
        "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
        &["libcurand.so.10"],
    ),
    nvidia(
        "nvidia-cuda-nvrtc",
        "13.0.88",
        "manylinux_2_12_x86_64",
        "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
        &["libnvrtc.so.13", "libnvrtc-builtins.so.13.0"],
    ),
    nvidia(
        "nvidia-cublas",
        "13.1.0.3",
        "manylinux_2_27_x86_64",
        "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171",
        &["libcublas.so.13", "libcublasLt.so.13"],
    ),
];

fn library_set(config: &ProvisionConfig) -> Result<Set<'static>, ProvisionError> {
    check_platform()?;
    let name = format!("onnxruntime-gpu-{RUNTIME_VERSION}-linux-x86_64");
    const PARTS: &[Part] = &[LIBRARY];
    Ok(Set {
        name: format!("ONNX Runtime {RUNTIME_VERSION} for CUDA"),
        version: RUNTIME_VERSION,
        folder: runtime::cached_folder(config).join(name),
        parts: PARTS,
        by_hand: runtime::by_hand(&LIBRARY),
    })
}

fn libraries_set(config: &ProvisionConfig) -> Result<Set<'static>, ProvisionError> {
    check_platform()?;
    let name = format!("nvidia-cuda-{CUDA_VERSION}-linux-x86_64");
    Ok(Set {
        name: format!("what ONNX Runtime loads of CUDA {CUDA_VERSION}"),
        version: CUDA_VERSION,
        folder: runtime::cached_folder(config).join(name),
        parts: LIBRARIES,
        by_hand: "install NVIDIA's CUDA 13, or name where it is with CUDA_HOME or LD_LIBRARY_PATH"
            .to_owned(),
    })
}

/// # Errors
/// Where no wheel for CUDA is published.
fn check_platform() -> Result<(), ProvisionError> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if (os, arch) == ("linux", "x86_64") {
        return Ok(());
    }
    Err(ProvisionError::new(format!(
        "no ONNX Runtime build for CUDA is known for {os} on {arch}"
    ))
    .with_hint(
        "set ORT_DYLIB_PATH to an ONNX Runtime built for CUDA on this platform, or run on the CPU \
         with `--device cpu`",
    ))
}
