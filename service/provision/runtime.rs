//! The ONNX Runtime shared library: a given path, the cache, or the user's pip, in this order.
//! It finds the file; loading it is the business of whoever runs models.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{
    config::ProvisionConfig,
    cuda::CudaLibraries,
    error::ProvisionError,
    pip::{Tags, Wheel},
    progress::Progress,
    wheels::{Arrival, Part, Set},
};

/// The ONNX Runtime release that is fetched, and that the service is tested with.
pub const RUNTIME_VERSION: &str = "1.31.1";

/// An ONNX Runtime library on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeLibrary {
    /// The shared library to load.
    pub path: PathBuf,
    /// Its release, where the file or the cache says so.
    pub version: Option<String>,
    /// How it was found.
    pub origin: RuntimeOrigin,
    /// What it loads besides, for a build that is to run on a GPU.
    pub cuda: Option<CudaLibraries>,
}

/// How the ONNX Runtime library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeOrigin {
    /// The configured path or `ORT_DYLIB_PATH`.
    Configured,
    /// A package of the active Python environment.
    Environment,
    /// Fetched by an earlier start.
    Cache,
    /// Fetched just now.
    Pip,
}

impl From<Arrival> for RuntimeOrigin {
    fn from(arrival: Arrival) -> Self {
        match arrival {
            Arrival::Cached => Self::Cache,
            Arrival::Fetched => Self::Pip,
        }
    }
}

impl fmt::Display for RuntimeOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Configured => "configured path",
            Self::Environment => "active Python environment",
            Self::Cache => "cache",
            Self::Pip => "fetched through pip",
        })
    }
}

/// Finds ONNX Runtime, fetching it through the user's pip when it is nowhere yet.
///
/// Fails when a configured path has no library, on a platform without a pinned build, without a
/// network permission or pip, and when what pip brings is not the pinned file.
pub fn runtime(
    config: &ProvisionConfig,
    progress: &Progress,
) -> Result<RuntimeLibrary, ProvisionError> {
    if let Some(path) = &config.runtime_path {
        return configured(path);
    }
    let build = BUILDS
        .iter()
        .find(|build| build.os == std::env::consts::OS && build.arch == std::env::consts::ARCH)
        .ok_or_else(unsupported_platform)?;
    let set = set(config, build);
    let arrival = set.provide(config, progress)?;
    Ok(RuntimeLibrary {
        path: set.folder.join(build.library()),
        version: Some(RUNTIME_VERSION.to_owned()),
        origin: arrival.into(),
        cuda: None,
    })
}

/// Where the runtime of this platform is or would be cached.
pub(super) fn cached_folder(config: &ProvisionConfig) -> PathBuf {
    config.cache_dir.join("runtime")
}

/// One platform's pinned wheel and the files of it that are used.
struct Build {
    os: &'static str,
    arch: &'static str,
    /// The library to load comes first; the files beside it are found by it at run time.
    part: Part,
}

impl Build {
    fn library(&self) -> &'static str {
        self.part.files[0]
    }
}

/// Where the libraries are in a wheel of ONNX Runtime.
pub(super) const MEMBERS: &str = "onnxruntime/capi/";

const fn part(
    platform: &'static str,
    sha256: &'static str,
    files: &'static [&'static str],
) -> Part {
    Part {
        wheel: Wheel {
            package: "onnxruntime",
            version: RUNTIME_VERSION,
            tags: Tags::CPython313 { platform },
            sha256,
        },
        folder: MEMBERS,
        files,
    }
}

const BUILDS: &[Build] = &[
    Build {
        os: "linux",
        arch: "x86_64",
        part: part(
            "manylinux_2_28_x86_64",
            "74a6a52994616c4d18b33db1e13c226333a70a6ba07480a5cab9c2a50dff1430",
            &[
                "libonnxruntime.so.1.31.1",
                "libonnxruntime_providers_shared.so",
            ],
        ),
    },
    Build {
        os: "linux",
        arch: "aarch64",
        part: part(
            "manylinux_2_28_aarch64",
            "dcaedc50333876f3829ab966b242147f0e548229e29c36fe44622ecf748c25ee",
            &[
                "libonnxruntime.so.1.31.1",
                "libonnxruntime_providers_shared.so",
            ],
        ),
    },
    Build {
        os: "macos",
        arch: "aarch64",
        part: part(
            "macosx_14_0_arm64",
            "e4ad067d36e2220218e085d7223283b2ee1bc73d887e811fd14d21cf901a11ee",
            &["libonnxruntime.1.31.1.dylib"],
        ),
    },
    Build {
        os: "windows",
        arch: "x86_64",
        part: part(
            "win_amd64",
            "0558f29d5f6ac09957390c9c5495931485ee8ae7f0ce781ccee86a0ae5c2348b",
            &["onnxruntime.dll", "onnxruntime_providers_shared.dll"],
        ),
    },
];

fn set<'a>(config: &ProvisionConfig, build: &'a Build) -> Set<'a> {
    let name = format!("onnxruntime-{RUNTIME_VERSION}-{}-{}", build.os, build.arch);
    Set {
        name: format!("ONNX Runtime {RUNTIME_VERSION}"),
        version: RUNTIME_VERSION,
        folder: cached_folder(config).join(name),
        parts: std::slice::from_ref(&build.part),
        by_hand: by_hand(&build.part),
    }
}

/// The library that a person has named.
pub(super) fn configured(path: &Path) -> Result<RuntimeLibrary, ProvisionError> {
    let library = if path.is_dir() {
        library_in(path)
    } else {
        Some(path.to_path_buf())
    };
    match library.filter(|library| library.is_file()) {
        Some(path) => Ok(RuntimeLibrary {
            version: version_in_name(&path),
            path,
            origin: RuntimeOrigin::Configured,
            cuda: None,
        }),
        None => Err(ProvisionError::new(format!(
            "the configured ONNX Runtime `{}` has no library",
            path.display()
        ))
        .with_hint(
            "set it (or ORT_DYLIB_PATH) to an existing ONNX Runtime shared library, \
             or leave it unset to have the library fetched",
        )),
    }
}

/// The library in a folder, whatever its version; the longest name is the real file, not a link.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let names = [
        "libonnxruntime.so",
        "libonnxruntime.dylib",
        "onnxruntime.dll",
    ];
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        names.iter().any(|plain| name.starts_with(plain))
            || name.starts_with("libonnxruntime.") && name.ends_with(".dylib")
    };
    let entries = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()));
    entries
        .filter(is_library)
        .max_by_key(|path| path.as_os_str().len())
}

/// `1.31.1` out of `libonnxruntime.so.1.31.1` or `libonnxruntime.1.31.1.dylib`, links followed.
fn version_in_name(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok()?;
    let name = real
        .file_name()?
        .to_str()?
        .strip_prefix("libonnxruntime.")?;
    let name = name
        .strip_prefix("so.")
        .or_else(|| name.strip_suffix(".dylib"))?;
    let numeric = name.split('.').all(|part| part.parse::<u32>().is_ok());
    (numeric && name.contains('.')).then(|| name.to_owned())
}

/// How to do without fetching it.
pub(super) fn by_hand(part: &Part) -> String {
    format!(
        "unpack `{MEMBERS}{}` from the wheel of `{}=={RUNTIME_VERSION}` for this platform and set \
         ORT_DYLIB_PATH to that file",
        part.files[0], part.wheel.package
    )
}

fn unsupported_platform() -> ProvisionError {
    ProvisionError::new(format!(
        "no ONNX Runtime build is known for {} on {}",
        std::env::consts::OS,
        std::env::consts::ARCH
    ))
    .with_hint("set ORT_DYLIB_PATH to an ONNX Runtime shared library built for this platform")
}
