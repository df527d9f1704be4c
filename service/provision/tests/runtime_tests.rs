//! Where ONNX Runtime is looked for.

use super::{
    super::{Progress, ProvisionConfig, RUNTIME_VERSION, RuntimeOrigin, cache, runtime},
    Tripwire, config, offline, write,
};

#[test]
fn a_configured_path_comes_first() {
    let root = tempfile::tempdir().unwrap();
    let library = root.path().join("libonnxruntime.so.1.30.2");
    write(&library, "library");
    let config = config(root.path(), &Tripwire::new().endpoint());
    for path in [library.clone(), root.path().to_path_buf()] {
        let config = ProvisionConfig {
            runtime_path: Some(path),
            ..config.clone()
        };
        let found = runtime(&config, &Progress::silent()).unwrap();
        assert_eq!(found.path, library);
        assert_eq!(found.version.as_deref(), Some("1.30.2"));
        assert_eq!(found.origin, RuntimeOrigin::Configured);
    }
}

#[test]
fn a_configured_path_without_a_library_is_an_error_that_names_it() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("nowhere.so");
    let config = config(root.path(), &Tripwire::new().endpoint());
    for path in [missing, root.path().to_path_buf()] {
        let config = ProvisionConfig {
            runtime_path: Some(path.clone()),
            ..config.clone()
        };
        let error = runtime(&config, &Progress::silent()).unwrap_err();
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("ORT_DYLIB_PATH"));
    }
}

#[test]
fn the_cache_comes_second_and_must_be_whole() {
    let root = tempfile::tempdir().unwrap();
    let wire = Tripwire::new();
    let config = offline(root.path(), &wire.endpoint());
    let error = runtime(&config, &Progress::silent()).unwrap_err();
    let place = error.attempts()[0].source.clone();
    let folder = place.trim_start_matches("cache `").trim_end_matches('`');
    assert!(
        folder.contains(&format!("onnxruntime-{RUNTIME_VERSION}")),
        "{place}"
    );
    cache::install(folder.as_ref(), "test", RUNTIME_VERSION, |staging| {
        write(&staging.join("library"), "library");
        Ok(())
    })
    .unwrap();
    let found = runtime(&config, &Progress::silent()).unwrap();
    assert_eq!(found.origin, RuntimeOrigin::Cache);
    assert_eq!(found.version.as_deref(), Some(RUNTIME_VERSION));

    write(&std::path::Path::new(folder).join("library"), "cut");
    assert!(runtime(&config, &Progress::silent()).is_err());
    wire.assert_untouched();
}

#[test]
fn without_pip_there_is_one_error_that_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let config = config(root.path(), &Tripwire::new().endpoint());
    let error = runtime(&config, &Progress::silent()).unwrap_err();
    let expected =
        format!("ONNX Runtime {RUNTIME_VERSION} is not here, and there is no pip to fetch it with");
    assert_eq!(error.to_string().lines().next(), Some(&*expected));
    assert_eq!(error.attempts()[0].reason, "not installed");
    let hint = error.hint().unwrap();
    assert!(hint.contains("install Python 3 with pip"), "{hint}");
    assert!(hint.contains("ORT_DYLIB_PATH"), "{hint}");
}
