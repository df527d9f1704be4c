//! The models that are known by name: what they are called, where they are published and what
//! their files may leave unsaid. A model needs no entry to be served from its own files.

mod complete;
mod entry;
mod kinds;
pub mod reference;
mod rules;

use std::fmt;
use std::path::{Path, PathBuf};

pub use entry::{Entry, Repository};
pub use kinds::{Family, Task};

use self::reference::Reference;

mod files {
    include!(concat!(env!("OUT_DIR"), "/catalog.rs"));
    pub(super) const ALL_ENTRIES: &[(&str, &str)] = ENTRIES;
    pub(super) const ALL_REFERENCES: &[(&str, &str)] = REFERENCES;
}

/// The most names that are suggested for one that is not there.
const SUGGESTIONS_MAX: usize = 3;

/// Entries by name, alias and hub id. A user's entry goes before a compiled one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The user's entries, then the compiled ones; the first that answers to a name has it.
    entries: Vec<Entry>,
    /// The user's folder, which may have references too.
    folder: Option<PathBuf>,
}

impl Catalog {
    /// The entries that are part of the program, the files of `catalog/`.
    ///
    /// # Errors
    /// Never in a program whose tests passed: each file is read there.
    pub fn compiled() -> Result<Self, CatalogError> {
        let read = |(file, text): &(&str, &str)| Entry::parse(Path::new(file), text);
        let entries: Result<Vec<Entry>, CatalogError> =
            files::ALL_ENTRIES.iter().map(read).collect();
        Ok(Self {
            entries: entries?,
            folder: None,
        })
    }

    /// The same catalogue with the `*.toml` files of a folder before it. A file that has the name
    /// of a compiled entry replaces it.
    ///
    /// # Errors
    /// When the folder or a file cannot be read, a file is malformed, or two files of the folder
    /// claim the same name; the error names the file and what is wrong in it.
    pub fn with_folder(self, folder: &Path) -> Result<Self, CatalogError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| CatalogError::file(&path, &format!("{error}"))
        };
        let mut paths = std::fs::read_dir(folder)
            .and_then(|files| {
                files
                    .map(|file| file.map(|file| file.path()))
                    .collect::<std::io::Result<Vec<PathBuf>>>()
            })
            .map_err(unreadable(folder))?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
        paths.sort();
        let mut own = Self {
            folder: Some(folder.to_owned()),
            ..Self::default()
        };
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
            let entry = Entry::parse(&path, &text)?;
            if let Some((name, other)) = own.clash(&entry) {
                let message = format!("`{name}` is already claimed by the entry `{other}`");
                return Err(CatalogError::file(&path, &message));
            }
            own.entries.push(entry);
        }
        let replaced = |entry: &Entry| own.named(&entry.name).is_some();
        let kept: Vec<Entry> = self
            .entries
            .into_iter()
            .filter(|entry| !replaced(entry))
            .collect();
        own.entries.extend(kept);
        Ok(own)
    }

    /// The same catalogue with one more entry before all others.
    ///
    /// # Errors
    /// When a name, alias or hub id of it is taken.
    pub fn with_entry(mut self, entry: Entry) -> Result<Self, CatalogError> {
        if let Some((name, other)) = self.clash(&entry) {
            let message = format!("`{name}` is already claimed by the entry `{other}`");
            return Err(CatalogError::file(Path::new(&entry.name), &message));
        }
        self.entries.insert(0, entry);
        Ok(self)
    }

    /// The same catalogue without the entry of this very name.
    pub fn without_entry(mut self, name: &str) -> Self {
        self.entries
            .retain(|entry| !entry.name.eq_ignore_ascii_case(name));
        self
    }

    /// Every entry: the user's by file name, then the compiled ones by file name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of a name or an alias, whatever its case.
    pub fn by_name(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.answers_to(name))
    }

    /// The entry of a hub's `owner/name`, whatever its case: the model's own repository or one
    /// that carries a copy.
    pub fn by_hub_id(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is_published_as(id))
    }

    /// The entry of a name, an alias or a hub id.
    ///
    /// # Errors
    /// When there is none; the error suggests names that are near.
    pub fn find(&self, name: &str) -> Result<&Entry, CatalogError> {
        self.by_name(name)
            .or_else(|| self.by_hub_id(name))
            .ok_or_else(|| CatalogError::Unknown {
                name: name.to_owned(),
                near: self.near(name).into_iter().map(String::from).collect(),
            })
    }

    /// What is known of the outputs of the model of this name: the file `reference/NAME.json` of
    /// the user's folder, else the compiled one; nothing for most models.
    ///
    /// # Errors
    /// When the user's file cannot be read or is malformed; the error names it.
    pub fn references(&self, name: &str) -> Result<Vec<Reference>, CatalogError> {
        match &self.folder {
            Some(folder) => reference::references_beside(folder, name),
            None => reference::references_for(name),
        }
    }

    /// The names that are most like this one, best first; none when none is alike.
    pub fn near(&self, name: &str) -> Vec<&str> {
        let wanted = name.to_lowercase();
        let last = wanted.rsplit('/').next().unwrap_or_default();
        let mut ranked: Vec<(usize, &str)> = self
            .entries
            .iter()
            .flat_map(|entry| entry.names().map(move |name| (name, entry)))
            .filter_map(|(name, entry)| Some((likeness(last, name)?, &*entry.name)))
            .collect();
        ranked.sort_unstable();
        let mut near: Vec<&str> = Vec::new();
        for (_, name) in ranked {
            if !near.contains(&name) && near.len() < SUGGESTIONS_MAX {
                near.push(name);
            }
        }
        near
    }

    fn named(&self, name: &str) -> Option<&Entry> {
        let is_named = |entry: &&Entry| entry.name.eq_ignore_ascii_case(name);
        self.entries.iter().find(is_named)
    }

    /// A name, alias or hub id of `entry` that is taken, and the name of the entry that has it.
    fn clash<'a>(&'a self, entry: &'a Entry) -> Option<(&'a str, &'a str)> {
        let by_name = entry
            .names()
            .find_map(|name| Some((name, self.by_name(name)?)));
        let by_id = || {
            entry
                .hub_ids()
                .find_map(|id| Some((id, self.by_hub_id(id)?)))
        };
        by_name
            .or_else(by_id)
            .map(|(name, other)| (name, &*other.name))
    }
}

/// How far two names are apart; `None` when nobody would take one for the other. What begins a
/// name is nearer than any slip of the keys.
fn likeness(wanted: &str, name: &str) -> Option<usize> {
    const PREFIX_CHARS_MIN: usize = 3;
    let name = name.to_lowercase();
    if wanted.len() >= PREFIX_CHARS_MIN && name.starts_with(wanted) {
        return Some(0);
    }
    let slips = strsim::damerau_levenshtein(wanted, &name);
    (slips <= 1 + wanted.chars().count() / 5).then_some(slips)
}

/// What is wrong with a catalogue, or with a name that was looked up in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// A file cannot be read or says something that cannot be.
    #[error("catalogue file `{}`: {message}", path.display())]
    File {
        /// The file, or the folder of files.
        path: PathBuf,
        /// The key and what is wrong with it.
        message: String,
    },
    /// No entry answers to a name.
    #[error("the catalogue has no model `{name}`{}", Suggestions(near))]
    Unknown {
        /// The name as it was written.
        name: String,
        /// Names of entries that are like it, best first.
        near: Vec<String>,
    },
}

impl CatalogError {
    pub(crate) fn file(path: &Path, message: &str) -> Self {
        Self::File {
            path: path.to_owned(),
            message: message.trim_end().to_owned(),
        }
    }
}

/// `; did you mean …?`, or nothing.
struct Suggestions<'a>(&'a [String]);

impl fmt::Display for Suggestions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let before = if index == 0 { "; did you mean" } else { " or" };
            write!(f, "{before} `{name}`")?;
        }
        f.write_str(if self.0.is_empty() { "" } else { "?" })
    }
}

#[cfg(test)]
mod tests;
