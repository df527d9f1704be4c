//! The files of a model as a look-up found them, and whether they are still the same: a model that
//! wakes up is loaded from them without another look-up.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use retort_models::Measured;

/// Model directories are two or three levels deep.
const LEVELS_MAX: usize = 4;

/// The files of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundFiles {
    /// Where they are.
    pub dir: PathBuf,
    /// Where they came from, in words for people.
    pub origin: String,
    /// Their revision, when the source has one.
    pub revision: Option<String>,
    /// What the model will take of memory, when that can be told; otherwise it is not refused.
    pub need: Option<Need>,
    /// What they were when they were found; `None` when that cannot be told.
    pub stamps: Option<Stamps>,
    /// Whether a model that was loaded from them has served in this process, so that its numbers
    /// need no second check.
    pub served: bool,
    /// What that load measured of them, which the next one need not.
    pub measured: Option<Measured>,
}

/// What a model takes of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The most at once, in bytes: while it is loaded or while it serves.
    pub bytes: u64,
    /// Of what that is the sum, in words for people.
    pub parts: String,
}

impl FoundFiles {
    /// Whether the folder has the same files as when it was looked at.
    pub fn are_unchanged(&self) -> bool {
        let now = Stamps::of(&self.dir).ok();
        now.is_some() && now == self.stamps
    }
}

/// The size and the time of every file of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamps(Vec<Stamp>);

/// What tells one content of a file from another, short of reading it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was written last.
    pub modified: SystemTime,
}

impl Stamps {
    /// Looks at every file below a folder; links count as what they point at, as in the hub's
    /// cache.
    ///
    /// # Errors
    /// When the folder or a file cannot be looked at.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let mut stamps = Vec::new();
        list(folder, LEVELS_MAX, &mut stamps)?;
        stamps.sort();
        Ok(Self(stamps))
    }

    /// By path.
    pub fn iter(&self) -> impl Iterator<Item = &Stamp> {
        self.0.iter()
    }
}

fn list(folder: &Path, levels: usize, stamps: &mut Vec<Stamp>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_file() {
            let metadata = fs::metadata(&path)?;
            stamps.push(Stamp {
                path,
                bytes: metadata.len(),
                modified: metadata.modified()?,
            });
        } else if path.is_dir() && !is_hidden && levels > 1 {
            list(&path, levels - 1, stamps)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_size_or_time_or_file_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("1_Pooling/config.json");
        fs::create_dir(file.parent().unwrap()).unwrap();
        fs::write(&file, "{}").unwrap();
        let found = || FoundFiles {
            dir: folder.path().to_owned(),
            origin: "a test".into(),
            revision: None,
            need: None,
            stamps: Stamps::of(folder.path()).ok(),
            served: true,
            measured: None,
        };
        let first = found();
        assert!(first.are_unchanged());
        fs::write(&file, "{ }").unwrap();
        assert!(!first.are_unchanged(), "another size");
        let second = found();
        let opened = fs::File::options().write(true).open(&file).unwrap();
        opened.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(!second.are_unchanged(), "another time");
        let third = found();
        fs::write(folder.path().join("model.safetensors"), "").unwrap();
        assert!(!third.are_unchanged(), "another file");
        let gone = FoundFiles {
            dir: folder.path().join("gone"),
            stamps: None,
            ..third
        };
        assert!(!gone.are_unchanged(), "nothing is known of it");
    }
}
