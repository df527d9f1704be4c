//! The ONNX Runtime shared library: a given path, the cache, or the user's pip, in this order.
//! It finds the file; loading it is the business of whoever runs models.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{
    cache,
    config::{Network, ProvisionConfig},
    error::{Attempt, ProvisionError, SourceError},
    pip::{self, PipError, Tags, Wheel},
    progress::Progress,
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
}

/// How the ONNX Runtime library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeOrigin {
    /// The configured path or `ORT_DYLIB_PATH`.
    Configured,
    /// Fetched by an earlier start.
    Cache,
    /// Fetched just now.
    Pip,
}

impl fmt::Display for RuntimeOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Configured => "configured path",
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
    let folder = folder(config, build);
    let library = |origin| RuntimeLibrary {
        path: folder.join(build.library),
        version: Some(RUNTIME_VERSION.to_owned()),
        origin,
    };
    if cache::installed(&folder).is_some() {
        return Ok(library(RuntimeOrigin::Cache));
    }
    if let Network::Forbidden { by } = &config.network {
        return Err(not_found(&format!("`{by}` forbids fetching it"))
            .with_attempts(vec![Attempt {
                source: format!("cache `{}`", folder.display()),
                reason: "not there".to_owned(),
            }])
            .with_hint(format!("start once without `{by}`, or {}", by_hand(build))));
    }
    let source = format!("{} {}", build.wheel.package, build.wheel.version);
    let mut no_pip = None;
    let installed = cache::install(&folder, &source, RUNTIME_VERSION, |staging| {
        fetch(config, build, staging, progress).map_err(|error| match error {
            PipError::Failed(error) => error,
            PipError::Missing(attempts) => {
                no_pip = Some(attempts);
                SourceError::new("no pip")
            }
        })
    });
    match (installed, no_pip) {
        (Ok(()), _) => Ok(library(RuntimeOrigin::Pip)),
        (Err(_), Some(attempts)) => Err(not_found("there is no pip to fetch it with")
            .with_attempts(attempts)
            .with_hint(format!(
                "install Python 3 with pip and start again, or {}",
                by_hand(build)
            ))),
        (Err(error), None) => {
            let hint = error.hint.unwrap_or_default();
            let separator = if hint.is_empty() { "" } else { "; or " };
            Err(not_found("fetching it failed")
                .with_attempts(vec![Attempt {
                    source,
                    reason: error.reason,
                }])
                .with_hint(format!("{hint}{separator}{}", by_hand(build))))
        }
    }
}

/// Where the runtime of this platform is or would be cached.
pub(super) fn cached_folder(config: &ProvisionConfig) -> PathBuf {
    config.cache_dir.join("runtime")
}

/// One platform's pinned wheel and the files of it that are used.
struct Build {
    os: &'static str,
    arch: &'static str,
    /// The library to load; the members beside it are found by it at run time.
    library: &'static str,
    companions: &'static [&'static str],
    wheel: Wheel,
}

const MEMBERS: &str = "onnxruntime/capi/";

const fn wheel(platform: &'static str, sha256: &'static str) -> Wheel {
    Wheel {
        package: "onnxruntime",
        version: RUNTIME_VERSION,
        tags: Tags::CPython313 { platform },
        sha256,
    }
}

const BUILDS: &[Build] = &[
    Build {
        os: "linux",
        arch: "x86_64",
        library: "libonnxruntime.so.1.31.1",
        companions: &["libonnxruntime_providers_shared.so"],
        wheel: wheel(
            "manylinux_2_28_x86_64",
            "74a6a52994616c4d18b33db1e13c226333a70a6ba07480a5cab9c2a50dff1430",
        ),
    },
    Build {
        os: "linux",
        arch: "aarch64",
        library: "libonnxruntime.so.1.31.1",
        companions: &["libonnxruntime_providers_shared.so"],
        wheel: wheel(
            "manylinux_2_28_aarch64",
            "dcaedc50333876f3829ab966b242147f0e548229e29c36fe44622ecf748c25ee",
        ),
    },
    Build {
        os: "macos",
        arch: "aarch64",
        library: "libonnxruntime.1.31.1.dylib",
        companions: &[],
        wheel: wheel(
            "macosx_14_0_arm64",
            "e4ad067d36e2220218e085d7223283b2ee1bc73d887e811fd14d21cf901a11ee",
        ),
    },
    Build {
        os: "windows",
        arch: "x86_64",
        library: "onnxruntime.dll",
        companions: &["onnxruntime_providers_shared.dll"],
        wheel: wheel(
            "win_amd64",
            "0558f29d5f6ac09957390c9c5495931485ee8ae7f0ce781ccee86a0ae5c2348b",
        ),
    },
];

fn folder(config: &ProvisionConfig, build: &Build) -> PathBuf {
    let name = format!("onnxruntime-{RUNTIME_VERSION}-{}-{}", build.os, build.arch);
    cached_folder(config).join(name)
}

fn fetch(
    config: &ProvisionConfig,
    build: &Build,
    into: &Path,
    progress: &Progress,
) -> Result<(), PipError> {
    let failed = |error: std::io::Error| PipError::Failed(SourceError::io("use", into, &error));
    let download = tempfile::tempdir_in(into.parent().unwrap_or(into)).map_err(failed)?;
    let wheel = pip::download(config, &build.wheel, download.path(), progress)?;
    let wanted = |name: &str| name == build.library || build.companions.contains(&name);
    pip::unpack(&wheel, into, |member| {
        let name = member.strip_prefix(MEMBERS)?;
        wanted(name).then(|| name.to_owned())
    })
    .map_err(PipError::Failed)?;
    if into.join(build.library).is_file() {
        Ok(())
    } else {
        let reason = format!("the wheel holds no `{MEMBERS}{}`", build.library);
        Err(PipError::Failed(SourceError::new(reason)))
    }
}

fn configured(path: &Path) -> Result<RuntimeLibrary, ProvisionError> {
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

fn not_found(why: &str) -> ProvisionError {
    ProvisionError::new(format!(
        "ONNX Runtime {RUNTIME_VERSION} is not here, and {why}"
    ))
}

fn by_hand(build: &Build) -> String {
    format!(
        "unpack `{MEMBERS}{}` from the wheel of `{}=={RUNTIME_VERSION}` for this platform and set \
         ORT_DYLIB_PATH to that file",
        build.library, build.wheel.package
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
