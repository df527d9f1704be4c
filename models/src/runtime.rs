//! The ONNX Runtime library: found by path, loaded once, kept until the process ends.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::ep::{self, ExecutionProvider};

use crate::error::{Error, Result};
use crate::provider::CudaOptions;
use crate::provider::device::Gpu;

/// ONNX Runtime allows one environment per process, ever, and refuses a second one even after the
/// first was dropped; so this crate has to remember the one it made.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// The loaded ONNX Runtime library and its environment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    environment: ort::environment::Environment,
    library: PathBuf,
    // The GPUs in use. They stay open: their streams must outlive all sessions, and an arena cannot
    // change its limit.
    gpus: Mutex<Vec<Arc<Gpu>>>,
}

impl Runtime {
    /// Loads the shared library at `library`. A second call with the same path returns the same
    /// runtime; one with another path fails, because a process has one ONNX Runtime.
    pub fn load(library: &Path) -> Result<Self> {
        let library = library.canonicalize().map_err(|error| {
            Error::Runtime(format!(
                "cannot find the library `{}`: {error}",
                library.display()
            ))
        })?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = loaded.as_ref() {
            if runtime.library() == library {
                return Ok(runtime.clone());
            }
            return Err(Error::Runtime(format!(
                "`{}` cannot be loaded: this process already uses `{}`",
                library.display(),
                runtime.library().display()
            )));
        }
        let environment = ort::init_from(&library)
            .map_err(|error| Error::Runtime(format!("`{}`: {error}", library.display())))?
            .with_telemetry(false)
            .with_name("retort")
            .build()?;
        let runtime = Self(Arc::new(Inner {
            environment,
            library,
            gpus: Mutex::default(),
        }));
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// A GPU that is in use, or one that `open` opens.
    ///
    /// # Errors
    /// Those of `open`; `Error::Unsupported` when it is in use with other options.
    pub(crate) fn gpu(
        &self,
        options: &CudaOptions,
        open: impl FnOnce() -> Result<Gpu>,
    ) -> Result<Arc<Gpu>> {
        let mut gpus = self.0.gpus.lock().unwrap_or_else(PoisonError::into_inner);
        for gpu in &*gpus {
            if gpu.is(options)? {
                return Ok(Arc::clone(gpu));
            }
        }
        let gpu = Arc::new(open()?);
        gpus.push(Arc::clone(&gpu));
        Ok(gpu)
    }

    /// Loads libraries that execution providers will look for by name, and keeps them: with that
    /// they are found wherever they lie. An earlier one may be what a later one needs.
    ///
    /// # Errors
    /// When one is missing, or was built for another system; the message names it.
    pub fn preload(libraries: &[PathBuf]) -> Result<()> {
        libraries.iter().try_for_each(|library| {
            ort::util::preload_dylib(library)
                .map_err(|error| Error::Runtime(format!("`{}`: {error}", library.display())))
        })
    }

    /// The version of the library, such as `1.31.1`, or the commit it was built from where neither
    /// its file name nor its build says more.
    pub fn version(&self) -> String {
        let file = self
            .0
            .library
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        version_of(&file, ort::info())
    }

    /// The file that was loaded, symbolic links resolved.
    pub fn library(&self) -> &Path {
        &self.0.library
    }

    /// Which of the execution providers that Retort may use the library was built with. Being
    /// built in does not mean that the device or its driver is here.
    pub fn providers(&self) -> Vec<&'static str> {
        fn named<P: ExecutionProvider>() -> Option<&'static str> {
            P::is_available().unwrap_or(false).then_some(P::NAME)
        }
        [named::<ep::CPU>(), named::<ep::CUDA>()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The process-wide environment, for sessions that are not made by this crate (benchmarks).
    pub fn environment(&self) -> &ort::environment::Environment {
        &self.0.environment
    }
}

/// Releases are named `libonnxruntime.so.1.31.1`, built from a branch `rel-1.31.1` or from a bare
/// commit.
fn version_of(file: &str, info: &str) -> String {
    let field = |name: &str| Some(info.split(name).nth(1)?.split(',').next()?.trim());
    let is_version = |text: &&str| text.starts_with(|c: char| c.is_ascii_digit());
    let in_file = file
        .split_once(".so.")
        .map(|(_, version)| version)
        .filter(is_version);
    let in_branch = || {
        field("git-branch=")
            .map(|b| b.trim_start_matches("rel-"))
            .filter(is_version)
    };
    match in_file.or_else(in_branch) {
        Some(version) => version.to_owned(),
        None => format!("commit {}", field("git-commit-id=").unwrap_or("unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_where_there_is_one() {
        let info = "ORT Build Info: git-branch=HEAD, git-commit-id=6af1a93, build type=Release";
        assert_eq!(version_of("libonnxruntime.so.1.31.1", info), "1.31.1");
        assert_eq!(version_of("libonnxruntime.so", info), "commit 6af1a93");
        let info = "ORT Build Info: git-branch=rel-1.31.2, git-commit-id=0, build type=Release";
        assert_eq!(version_of("onnxruntime.dll", info), "1.31.2");
    }

    #[test]
    fn a_library_that_cannot_be_loaded_beforehand_is_named() {
        assert!(Runtime::preload(&[]).is_ok());
        let error = Runtime::preload(&["/nowhere/libcublas.so.13".into()]).unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/libcublas.so.13"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = Runtime::load(Path::new("/nowhere/libonnxruntime.so")).unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/libonnxruntime.so"),
            "{error}"
        );
    }
}
