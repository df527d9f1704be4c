//! The sources of the kernels, compiled by a C++ compiler and run by the processor.

use libloading::{Library, Symbol};
use ort::memory::AllocationDevice;
use retort_kernels::cuda::{CudaError, Launch, Machine, Memory};
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Runs launches at once, one at a time: the library has one set of threads.
pub struct Host {
    library: Mutex<Library>,
}

type HostLaunch =
    unsafe extern "C" fn(*const c_char, *const u32, u32, *mut *mut c_void) -> *const c_char;

/// The sources for this processor; `None`, said in one line, where they cannot be compiled.
pub fn host() -> Option<Arc<Host>> {
    static HOST: OnceLock<Option<Arc<Host>>> = OnceLock::new();
    HOST.get_or_init(build).clone()
}

fn build() -> Option<Arc<Host>> {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: the kernels are compiled for the processor only on Linux");
        return None;
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let find = |dir: &Path| Some(dir.join("kernels/cuda")).filter(|dir| dir.is_dir());
    let sources = sources.filter_map(find).next().unwrap();
    let name = concat!("libhost_kernels_of_", env!("CARGO_PKG_NAME"), ".so");
    let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let compiled = Command::new("g++")
        .args(["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Werror"])
        .args(["-Wno-unknown-pragmas", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(sources.join("host.cpp"))
        .output();
    let Ok(output) = compiled else {
        eprintln!("skipped: no g++ to compile the kernels for this processor with");
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    // SAFETY: the library was just made of this project's own sources and does nothing on loading.
    let library = unsafe { Library::new(&library) }.unwrap();
    let library = Mutex::new(library);
    Some(Arc::new(Host { library }))
}

impl Machine for Host {
    unsafe fn launch(&self, _: *mut c_void, launch: &Launch) -> Result<(), CudaError> {
        let kernel = launch.kernel();
        let name = std::ffi::CString::new(kernel.name()).unwrap();
        let mut arguments = launch.arguments();
        let library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the signature is that of `host.cpp`, which reads as many arguments as the
        // kernel of this name has; their memory is as the caller promises.
        let complaint = unsafe {
            let run: Symbol<'_, HostLaunch> = library.get(b"host_launch").unwrap();
            let grid = launch.grid();
            run(
                name.as_ptr(),
                grid.as_ptr(),
                kernel.threads(),
                arguments.as_mut_ptr(),
            )
        };
        if complaint.is_null() {
            return Ok(());
        }
        // SAFETY: complaints are constants of the library, which is never unloaded.
        let message = unsafe { CStr::from_ptr(complaint) };
        Err(CudaError::Other {
            code: 1,
            message: format!("`{}`: {}", kernel.name(), message.to_string_lossy()),
        })
    }

    fn upload(&self, bytes: &[u8]) -> Result<Box<dyn Memory>, CudaError> {
        let mut packs = vec![[0u8; 16]; bytes.len() / 16 + 2];
        // What is aligned less than a pack begins inside the first one.
        let skip = packs.as_ptr().align_offset(16).min(15);
        packs.as_flattened_mut()[skip..skip + bytes.len()].copy_from_slice(bytes);
        Ok(Box::new(HostMemory { packs, skip }))
    }

    fn stream(&self) -> *mut c_void {
        std::ptr::null_mut()
    }

    fn provider(&self) -> Option<&'static str> {
        None
    }

    fn reaches(&self, place: &AllocationDevice<'_>) -> bool {
        *place == AllocationDevice::CPU
    }
}

struct HostMemory {
    packs: Vec<[u8; 16]>,
    skip: usize,
}

impl Memory for HostMemory {
    fn address(&self) -> u64 {
        self.packs.as_flattened()[self.skip..].as_ptr() as u64
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: the memory is there; kernels wrote through its address, which the compiler
        // does not see, so it is read likewise.
        unsafe {
            let from = self.address() as *const u8;
            from.copy_to(bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }
}
