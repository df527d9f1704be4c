//! Folders that appear whole or not at all, and checks on what is in them.
//! Knows names, sizes and manifests; fetches nothing.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{error::SourceError, progress::Progress};

const MANIFEST_FILE: &str = "retort-manifest.json";
const STAGING_PREFIX: &str = ".incoming-";
/// Far longer than any download through pip takes.
const STAGING_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const LFS_POINTER_START: &[u8] = b"version https://git-lfs.github.com/spec/v1";
/// The specification says that a pointer file is smaller than this many bytes.
const LFS_POINTER_BYTES_MAX: u64 = 1024;

/// What was put into a folder, so that a later start can tell in a few `stat` calls that it is
/// still all there. Contents were verified when they were fetched and are not read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Where the files came from, for people.
    pub source: String,
    /// The version or commit they belong to.
    pub revision: String,
    /// Relative path with `/`, and size in bytes.
    pub files: BTreeMap<String, u64>,
}

impl Manifest {
    /// Lists every file now under `folder`.
    pub fn of(folder: &Path, source: &str, revision: &str) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for file in files_under(folder)? {
            let name = file.strip_prefix(folder).unwrap_or(&file);
            let name = name.to_string_lossy().replace('\\', "/");
            files.insert(name, fs::metadata(&file)?.len());
        }
        Ok(Self {
            source: source.to_owned(),
            revision: revision.to_owned(),
            files,
        })
    }

    /// The manifest at `path`, or none when it is missing or unreadable.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes the manifest to `path` in one step, creating the folders above it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_atomically(path, &serde_json::to_vec_pretty(self)?)
    }

    /// Whether every listed file is under `folder` with its size.
    pub fn holds_for(&self, folder: &Path) -> bool {
        !self.files.is_empty()
            && self.files.iter().all(|(name, bytes)| {
                fs::metadata(folder.join(name)).is_ok_and(|file| file.len() == *bytes)
            })
    }
}

/// The manifest of a folder that [`install`] made, when the folder is still whole.
pub(super) fn installed(folder: &Path) -> Option<Manifest> {
    Manifest::read(&folder.join(MANIFEST_FILE)).filter(|manifest| manifest.holds_for(folder))
}

/// Fills a new folder beside `target` and renames it there, with a manifest.
///
/// A second process doing the same at the same time is no harm: the first to finish wins, and
/// the other uses what it finds. A target that is no longer whole is replaced.
pub(super) fn install(
    target: &Path,
    source: &str,
    revision: &str,
    fill: impl FnOnce(&Path) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| SourceError::io("create", parent, &error))?;
    sweep(parent);
    // In the same folder, because a rename is atomic only within one file system.
    let staging = tempfile::Builder::new()
        .prefix(STAGING_PREFIX)
        .tempdir_in(parent)
        .map_err(|error| SourceError::io("create a folder in", parent, &error))?;
    let folder = staging.path().join("content");
    fs::create_dir(&folder).map_err(|error| SourceError::io("create", &folder, &error))?;
    fill(&folder)?;
    publish(&folder, target, source, revision)
}

/// Lists what is in `folder` in a manifest and renames the folder to `target`.
pub(super) fn publish(
    folder: &Path,
    target: &Path,
    source: &str,
    revision: &str,
) -> Result<(), SourceError> {
    Manifest::of(folder, source, revision)
        .and_then(|manifest| manifest.write(&folder.join(MANIFEST_FILE)))
        .map_err(|error| SourceError::io("list", folder, &error))?;
    if fs::rename(folder, target).is_ok() || installed(target).is_some() {
        return Ok(());
    }
    // Something that is not whole is in the way.
    let parent = target.parent().unwrap_or(Path::new("."));
    let aside = tempfile::Builder::new()
        .prefix(STAGING_PREFIX)
        .tempdir_in(parent);
    if let Ok(aside) = &aside {
        let _ = fs::rename(target, aside.path().join("content"));
    }
    match fs::rename(folder, target) {
        Err(error) if installed(target).is_none() => {
            Err(SourceError::io("move new files to", target, &error))
        }
        _ => Ok(()),
    }
}

/// Removes what starts that were killed long ago left behind.
fn sweep(folder: &Path) {
    let is_stale = |entry: &fs::DirEntry| {
        let is_staging = entry
            .file_name()
            .to_string_lossy()
            .starts_with(STAGING_PREFIX);
        let modified = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok();
        let age = modified.and_then(|modified| modified.elapsed().ok());
        is_staging && age.is_some_and(|age| age > STAGING_AGE_MAX)
    };
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    for entry in entries.filter(is_stale) {
        // What cannot be removed now is removed by a later start.
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Writes a file so that a reader sees the old content or the new, never a part.
pub(super) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    io::Write::write_all(&mut file, content)?;
    file.persist(path)?;
    Ok(())
}

/// Holds off other processes that want to fetch `what`, until the returned file is dropped.
pub(super) fn lock(path: &Path, what: &str, progress: &Progress) -> Result<fs::File, SourceError> {
    let failed = |error: io::Error| SourceError::io("lock", path, &error);
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    let file = fs::File::create(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            progress.note(&format!("{what}: another process is fetching it, waiting"));
        }
        // Some network file systems have no locks; a hash check then still guards the result.
        Err(fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            return Ok(file);
        }
        Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
    }
    // The wait ends with the other process: the system releases the locks of a dead one.
    file.lock().map_err(failed)?;
    Ok(file)
}

/// A path named by a server or an archive, when it stays inside the folder it is joined to.
pub(super) fn safe_relative(name: &str) -> Option<PathBuf> {
    // A backslash or a colon would be a separator or a drive on Windows.
    if name.is_empty() || name.contains(['\\', ':', '\0']) {
        return None;
    }
    let path = Path::new(name);
    let inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let plain = name.split('/').all(|part| !part.is_empty() && part != ".");
    (inside && plain).then(|| path.to_path_buf())
}

/// Whether the file is only a git-LFS pointer to the content that should be there.
pub(super) fn is_lfs_pointer(path: &Path) -> bool {
    let small = fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() < LFS_POINTER_BYTES_MAX);
    let mut start = [0; LFS_POINTER_START.len()];
    small
        && fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok())
        && start == LFS_POINTER_START
}

/// Refuses a model folder in which git-LFS pointers stand in for files.
pub(super) fn refuse_lfs_pointers(folder: &Path) -> Result<(), SourceError> {
    let files = files_under(folder).map_err(|error| SourceError::io("read", folder, &error))?;
    match files.into_iter().find(|file| is_lfs_pointer(file)) {
        None => Ok(()),
        Some(pointer) => Err(SourceError::new(format!(
            "`{}` is a git-LFS pointer, not the file itself",
            pointer.display()
        ))
        .with_hint(
            "run `git lfs install` and `git lfs pull` in the repository the folder was cloned \
             from, or delete the folder and let the service fetch the model",
        )),
    }
}

/// Total size of what is under `path`, links counted as what they point at.
pub(super) fn bytes_under(path: &Path) -> u64 {
    let files = files_under(path).unwrap_or_default();
    files
        .iter()
        .filter_map(|file| fs::metadata(file).ok())
        .map(|file| file.len())
        .sum()
}

/// Files in `folder` and in its subfolders; model repositories are two or three levels deep.
fn files_under(folder: &Path) -> io::Result<Vec<PathBuf>> {
    const LEVELS_MAX: usize = 5;
    let mut files = Vec::new();
    let mut level = vec![folder.to_path_buf()];
    for _ in 0..LEVELS_MAX {
        let mut below = Vec::new();
        for folder in level {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                let is_git = path.file_name().is_some_and(|name| name == ".git");
                if path.is_file() {
                    files.push(path);
                } else if path.is_dir() && !is_git {
                    below.push(path);
                }
            }
        }
        level = below;
    }
    files.sort();
    Ok(files)
}
