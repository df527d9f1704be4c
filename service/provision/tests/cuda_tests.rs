//! Where ONNX Runtime for CUDA and NVIDIA's libraries are looked for, and when they are fetched.

use std::path::{Path, PathBuf};

use super::{
    super::{
        CudaOrigin, CudaPlaces, Fetch, Progress, ProvisionConfig, RuntimeLibrary, RuntimeOrigin,
        cuda_runtime,
    },
    Recording, Tripwire, config, offline, write,
};

const NEEDED: [&str; 4] = [
    "libcudart.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
];

fn put(folder: &Path, names: &[&str]) {
    names
        .iter()
        .for_each(|name| write(&folder.join(name), name));
}

fn put_runtime(folder: &Path) {
    let names = [
        "libonnxruntime.so.1.31.1",
        "libonnxruntime_providers_shared.so",
        "libonnxruntime_providers_cuda.so",
    ];
    put(folder, &names);
}

/// A configuration with a runtime for CUDA in `ort` and these places for the rest.
fn with(root: &Path, cuda: CudaPlaces) -> ProvisionConfig {
    let folder = root.join("ort");
    put_runtime(&folder);
    ProvisionConfig {
        runtime_path: Some(folder),
        cuda,
        ..offline(root, &Tripwire::new().endpoint())
    }
}

fn found(config: &ProvisionConfig) -> Option<RuntimeLibrary> {
    cuda_runtime(config, Fetch::Nothing, &Progress::silent()).unwrap()
}

fn places(root: &Path) -> CudaPlaces {
    CudaPlaces {
        homes: vec![root.join("home")],
        loader: vec![root.join("loader")],
        environments: vec![root.join("venv")],
        system: vec![root.join("local")],
    }
}

#[test]
fn the_libraries_of_one_place_are_taken_whole_and_the_nearest_place_first() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let config = with(root, places(root));
    assert_eq!(found(&config), None, "there are none");
    let steps = [
        (root.join("local/cuda-13.0/lib64"), CudaOrigin::System),
        (
            root.join("venv/lib/python3.12/site-packages/nvidia/cu13/lib"),
            CudaOrigin::Environment,
        ),
        (root.join("loader"), CudaOrigin::Named),
        (
            root.join("home/targets/x86_64-linux/lib"),
            CudaOrigin::Named,
        ),
        (root.join("ort"), CudaOrigin::Beside),
    ];
    for (folder, origin) in steps {
        put(&folder, &NEEDED[..3]);
        let before = found(&config).and_then(|library| library.cuda);
        assert!(before.is_none_or(|cuda| cuda.origin != origin || cuda.files[0] != folder));
        put(&folder, &NEEDED);
        let cuda = found(&config).and_then(|library| library.cuda).unwrap();
        let expected: Vec<PathBuf> = NEEDED.iter().map(|name| folder.join(name)).collect();
        assert_eq!((cuda.files, cuda.origin), (expected, origin));
    }
}

#[test]
fn what_the_needed_libraries_load_themselves_comes_after_them() {
    let root = tempfile::tempdir().unwrap();
    let config = with(root.path(), CudaPlaces::default());
    put(&root.path().join("ort"), &NEEDED);
    put(&root.path().join("ort"), &["libnvrtc.so.13"]);
    let files = found(&config)
        .and_then(|library| library.cuda)
        .unwrap()
        .files;
    assert_eq!(files.len(), 5);
    assert!(files[4].ends_with("libnvrtc.so.13"));
}

/// PyTorch's packages have no cuRAND any more.
#[test]
fn what_one_place_lacks_comes_from_another_but_cublas_is_of_one_make() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let config = with(root, places(root));
    let venv = root.join("venv/lib/python3.12/site-packages/nvidia/cu13/lib");
    put(&venv, &NEEDED[..3]);
    assert_eq!(found(&config), None);
    put(
        &root.join("loader"),
        &["libcublas.so.13", "libcurand.so.10"],
    );
    let cuda = found(&config).and_then(|library| library.cuda).unwrap();
    assert_eq!(cuda.origin, CudaOrigin::Several);
    let folders: Vec<&Path> = cuda.files.iter().filter_map(|file| file.parent()).collect();
    let loader = root.join("loader");
    assert_eq!(folders, [&venv, &venv, &venv, &loader]);
}

#[test]
fn another_major_version_is_not_taken() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let config = with(root, places(root));
    put(&root.join("local/cuda-12.8/lib64"), &NEEDED);
    assert_eq!(found(&config), None);
}

#[test]
fn the_package_of_an_active_environment_is_used() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let packages = root.join("venv/lib/python3.13/site-packages");
    put(&packages.join("nvidia/cu13/lib"), &NEEDED);
    let config = ProvisionConfig {
        cuda: places(root),
        ..offline(root, &Tripwire::new().endpoint())
    };
    assert_eq!(found(&config), None);
    put_runtime(&packages.join("onnxruntime/capi"));
    let library = found(&config).unwrap();
    assert_eq!(library.origin, RuntimeOrigin::Environment);
    assert_eq!(library.cuda.unwrap().origin, CudaOrigin::Environment);
}

#[test]
fn a_configured_library_without_cuda_is_refused_when_a_gpu_was_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let plain = root.path().join("plain/libonnxruntime.so.1.31.1");
    write(&plain, "library");
    let config = ProvisionConfig {
        runtime_path: Some(plain),
        ..config(root.path(), &Tripwire::new().endpoint())
    };
    assert_eq!(found(&config), None);
    let error = cuda_runtime(&config, Fetch::Missing, &Progress::silent()).unwrap_err();
    assert!(error.to_string().contains("built without CUDA"), "{error}");
    assert!(error.hint().unwrap().contains("onnxruntime-gpu"));
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn nothing_is_fetched_unless_somebody_asked_and_the_network_is_allowed() {
    let root = tempfile::tempdir().unwrap();
    let asked = root.path().join("asked");
    let script = format!("echo \"$@\" >> '{}'; exit 1", asked.display());
    let pip = root.path().join("pip.sh");
    write(&pip, script);
    let pip = vec![vec!["sh".to_owned(), pip.display().to_string()]];
    let endpoint = Tripwire::new().endpoint();
    let allowed = ProvisionConfig {
        pip: pip.clone(),
        ..config(root.path(), &endpoint)
    };
    assert_eq!(found(&allowed), None);
    let forbidden = ProvisionConfig {
        pip,
        ..offline(root.path(), &endpoint)
    };
    let error = cuda_runtime(&forbidden, Fetch::Missing, &Progress::silent()).unwrap_err();
    assert!(error.hint().unwrap().contains("--offline"), "{error:?}");
    assert!(!asked.exists());

    let recording = Recording::default();
    let error = cuda_runtime(&allowed, Fetch::Missing, &recording.progress()).unwrap_err();
    let first = error.to_string();
    assert!(
        first.starts_with("ONNX Runtime 1.31.1 for CUDA is not here"),
        "{first}"
    );
    assert_eq!(
        recording.lines(),
        ["fetching onnxruntime-gpu 1.31.1 through pip"]
    );
    let asked = std::fs::read_to_string(asked).unwrap();
    assert!(asked.contains("onnxruntime-gpu==1.31.1"), "{asked}");
}

/// What is fetched is what the image has: one list of hashes must not drift from the other.
#[test]
fn the_pins_are_those_of_the_image() {
    let image = include_str!("../../../deploy/docker/onnxruntime-cuda.txt");
    let code = include_str!("../cuda.rs");
    let mut hashes = 0;
    for line in image.lines() {
        if let Some(hash) = line.trim().strip_prefix("--hash=sha256:") {
            hashes += 1;
            assert!(code.contains(hash), "{hash}");
        } else if let Some((package, version)) = line.trim_end_matches([' ', '\\']).split_once("==")
        {
            assert!(code.contains(&format!("\"{package}\"")), "{package}");
            let is_runtime = package == "onnxruntime-gpu";
            assert!(
                is_runtime || code.contains(&format!("\"{version}\"")),
                "{version}"
            );
        }
    }
    assert_eq!(hashes, 5);
}
