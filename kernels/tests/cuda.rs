//! The kernels for NVIDIA devices: their text is what their sources compile to, the sources compute
//! what the functions for the processor define, and so does a device where there is one.

mod host;

use retort_kernels::cuda::check::{CheckError, check_kernels};
use retort_kernels::cuda::{
    CudaDevice, CudaError, Kernel, Machine, PinnedBuffer, devices, is_present, measure_kernels,
};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every kernel must have been compared, and none may have been far off.
fn assert_all_checked(machine: &dyn Machine, rounds: usize) {
    let deviations = check_kernels(machine, 7, rounds).unwrap_or_else(|error| panic!("{error}"));
    let checked: HashSet<Kernel> = deviations.iter().map(|d| d.kernel).collect();
    assert_eq!(checked, HashSet::from(Kernel::ALL));
    for deviation in deviations {
        assert!(deviation.values > 50, "{deviation:?}");
        assert!(deviation.largest <= deviation.tolerance, "{deviation:?}");
    }
}

#[test]
fn the_sources_compute_the_definitions() {
    if let Some(host) = host::host() {
        assert_all_checked(&*host, 24);
    }
}

#[test]
fn a_wrong_kernel_is_found() {
    let Some(host) = host::host() else { return };
    // Another kernel of the same arguments in place of the one that was asked for.
    struct Swapped<'h>(&'h host::Host);
    impl Machine for Swapped<'_> {
        unsafe fn launch(
            &self,
            stream: *mut std::ffi::c_void,
            launch: &retort_kernels::cuda::Launch,
        ) -> Result<(), CudaError> {
            if launch.kernel() == Kernel::LexicalF32 {
                return Ok(());
            }
            // SAFETY: as the caller promises.
            unsafe { self.0.launch(stream, launch) }
        }
        fn upload(&self, bytes: &[u8]) -> Result<Box<dyn retort_kernels::cuda::Memory>, CudaError> {
            self.0.upload(bytes)
        }
        fn stream(&self) -> *mut std::ffi::c_void {
            self.0.stream()
        }
        fn provider(&self) -> Option<&'static str> {
            None
        }
        fn reaches(&self, place: &ort::memory::AllocationDevice<'_>) -> bool {
            self.0.reaches(place)
        }
    }
    let error = check_kernels(&Swapped(&host), 7, 1).unwrap_err();
    assert!(
        matches!(&error, CheckError::Wrong { kernel, .. } if *kernel == Kernel::LexicalF32),
        "{error}"
    );
}

#[test]
fn a_device_computes_the_definitions() {
    let Some(device) = device() else { return };
    assert_all_checked(&device, 200);
    device.health().unwrap();
    for timing in measure_kernels(&device).unwrap() {
        let (micros, name) = (timing.seconds * 1e6, timing.kernel.name());
        let rate = timing.bytes as f64 / timing.seconds / 1e9;
        let sequences = timing.sequences;
        eprintln!("{name} in {sequences} sequences: {micros:.1} us, {rate:.0} GB/s");
    }
}

#[test]
fn devices_tell_what_they_are() {
    let Some(device) = device() else { return };
    let all = devices().unwrap();
    assert_eq!(all[0], *device.info());
    let memory = device.memory().unwrap();
    assert!(memory.free <= memory.total && memory.total > 1 << 30);
    assert!(!device.stream().is_null());
    assert!(matches!(
        CudaDevice::open(all.len()),
        Err(CudaError::NoDevice { .. })
    ));
    let mut pinned = PinnedBuffer::<f32>::new(&device, 1000).unwrap();
    assert!(pinned.as_slice().iter().all(|&value| value == 0.0));
    pinned.as_mut_slice()[999] = 1.5;
    assert_eq!(pinned.as_slice()[999], 1.5);
}

/// The first device; `None`, said in one line, where there is none.
fn device() -> Option<CudaDevice> {
    if !is_present() {
        eprintln!("skipped: no NVIDIA device");
        return None;
    }
    Some(CudaDevice::open(0).unwrap())
}

/// The compiler that the committed text was made with.
const COMPILER: &str = "nvidia-cuda-nvrtc-cu12==12.0.140";

#[test]
fn the_text_is_what_the_sources_compile_to() {
    let Some(python) = compiler() else { return };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ptx");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).unwrap();
    let compiled = Command::new(python)
        .arg(sources.join("compile.py"))
        .arg(&out)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");
    let names = |dir: &Path| -> HashSet<String> {
        let names = fs::read_dir(dir).unwrap();
        let names = names.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".ptx")).collect()
    };
    assert_eq!(names(&out), names(&sources));
    for name in names(&out) {
        let fresh = fs::read_to_string(out.join(&name)).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(sources.join(&name), &fresh).unwrap();
        }
        let committed = fs::read_to_string(sources.join(&name)).unwrap();
        assert!(
            fresh == committed,
            "`{name}` is not what its source compiles to; `UPDATE_GOLDEN=1 cargo test` renews it"
        );
    }
}

/// A Python with NVIDIA's compiler; `None`, said in one line, where it is not to be had.
fn compiler() -> Option<PathBuf> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        eprintln!("skipped: the compiler of the kernels' text is for Linux on x86-64");
        return None;
    }
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("nvrtc");
    let python = dir.join("bin/python");
    let complete = dir.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|text| text == COMPILER) {
        return Some(python);
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&dir);
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", COMPILER]);
    for command in [&mut venv, &mut pip] {
        let done = command.output();
        if !done.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: NVIDIA's compiler cannot be installed with Python's pip");
            return None;
        }
    }
    fs::write(&complete, COMPILER).unwrap();
    Some(python)
}
