//! One model of the configuration: where it is, what it is called, what overrides its checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use retort_models::catalog::{Catalog, Entry};
use retort_models::{DecoderModel, DtypeChoice, LoadOptions, Pooling, Runtime, Task};

use super::{DeviceChoice, Error, Generation};
use crate::keep_alive::KeepAlive;

const NAME_CHARS_MAX: usize = 100;

/// Beyond this many replicas of one model, sessions only wait for each other.
pub const REPLICAS_MAX: usize = 64;

/// A model to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// The name it is served under.
    pub name: String,
    /// Other names it answers to: the configured ones and, unless another model has them too, the
    /// id and what the catalogue calls it.
    pub aliases: Vec<String>,
    /// Where its files are.
    pub location: ModelLocation,
    /// Branch, tag or commit; `None` means the source's default.
    pub revision: Option<String>,
    /// The longest input in tokens; `None` means what the checkpoint states.
    pub max_tokens: Option<usize>,
    /// How token vectors become one; `None` means what the checkpoint states.
    pub pooling: Option<Pooling>,
    /// What it is for; `None` means what the checkpoint or the catalogue states.
    pub task: Option<Task>,
    /// Whether it is said to continue texts; otherwise its files tell.
    pub generates: bool,
    /// How it is kept if it does.
    pub generation: Generation,
    /// The layer whose scores are taken; `None` means what the catalogue states, else the last.
    pub cutoff_layer: Option<usize>,
    /// Where it runs; `None` means where all models do.
    pub device: Option<DeviceChoice>,
    /// What it is computed in.
    pub dtype: DtypeChoice,
    /// Whether that is taken however far its outputs are from the right ones.
    pub force_dtype: bool,
    /// Whether the service stops when it cannot be loaded.
    pub required: bool,
    /// What the catalogue says of it, if it is in there.
    pub known: Option<Entry>,
    /// Whether it was asked for by its name in the catalogue, and not by an id.
    pub by_name: bool,
    /// How long it stays in memory without requests; `None` means what all models do.
    pub keep_alive: Option<KeepAlive>,
    /// How many times the usual number of sessions it gets.
    pub replicas: usize,
}

impl ModelEntry {
    /// The entry that says what to fetch. An id means that very repository on every hub; only a
    /// name leaves it to the catalogue.
    pub fn published(&self) -> Option<&Entry> {
        let known = self.known.as_ref().filter(|_| self.by_name);
        known.filter(|entry| entry.directory.is_none())
    }

    /// What the operator decided about it; the checkpoint and the catalogue fill up the rest.
    pub fn load_options(&self, runtime: Runtime) -> LoadOptions {
        LoadOptions {
            max_tokens: self.max_tokens,
            pooling: self.pooling,
            task: self.task,
            cutoff_layer: self.cutoff_layer,
            dtype: self.dtype,
            force_dtype: self.force_dtype,
            ..LoadOptions::new(runtime)
        }
    }

    /// Whether these files are loaded as a model that continues texts: because that was said, or
    /// because that is what they are for and nobody has said that they embed or rerank.
    pub fn is_generator(&self, dir: &Path) -> bool {
        let is_open = self.task.is_none() && self.known.is_none();
        self.generates || is_open && DecoderModel::is_meant(dir)
    }

    /// The names that need no configuration: the id, and what the catalogue calls it.
    pub fn implied(&self) -> Vec<String> {
        let id = self.location.id();
        let known = self.known.iter().flat_map(|entry| {
            // Who writes an id is served under its last part; further names would be a surprise.
            let aliases = usize::from(self.by_name) * entry.aliases.len();
            entry.names().take(1 + aliases).map(String::from)
        });
        let mut implied: Vec<String> = std::iter::once(id).chain(known).collect();
        implied.retain(|name| *name != self.name && !self.aliases.contains(name));
        implied
    }
}

/// Where a model's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelLocation {
    /// `organisation/name` on a hub.
    Hub(String),
    /// A directory of this machine.
    Directory(PathBuf),
}

impl ModelLocation {
    /// As it was written.
    pub fn id(&self) -> String {
        match self {
            Self::Hub(id) => id.clone(),
            Self::Directory(path) => path.display().to_string(),
        }
    }
}

/// Whether a model is given as a directory: told by how it is written, not by what exists, so
/// that a configuration means the same on every machine.
pub fn is_directory(id: &str) -> bool {
    let drive = id.as_bytes().get(1) == Some(&b':');
    [".", "/", "~"].iter().any(|start| id.starts_with(start)) || id.contains('\\') || drive
}

/// The name under which a model is served unless another is given: the last part of its id.
/// Clients put names into paths, and some refuse a `/`.
pub fn served_name(id: &str) -> &str {
    let id = id.trim_end_matches(['/', '\\']);
    id.rsplit(['/', '\\']).next().unwrap_or(id)
}

/// Where a model is that is called by a name of the catalogue, or by its place. A directory in the
/// user's own entry goes before every hub.
///
/// # Errors
/// As [`location`].
pub fn location_of(
    named: Option<&Entry>,
    reference: &str,
    home: Option<PathBuf>,
) -> Result<ModelLocation, Error> {
    match named.map(|entry| (&entry.directory, &entry.huggingface.id)) {
        Some((Some(directory), _)) => Ok(ModelLocation::Directory(directory.clone())),
        Some((None, id)) => location(id, home),
        None => location(reference, home),
    }
}

/// Reads where a model is.
///
/// # Errors
/// When a hub id has characters that no hub allows.
pub fn location(id: &str, home: Option<PathBuf>) -> Result<ModelLocation, Error> {
    if is_directory(id) {
        let under_home = id
            .strip_prefix("~/")
            .zip(home)
            .map(|(rest, home)| home.join(rest));
        return Ok(ModelLocation::Directory(
            under_home.unwrap_or_else(|| id.into()),
        ));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let parts: Vec<&str> = id.split('/').collect();
    let part_fits =
        |part: &&str| !part.is_empty() && part.chars().all(fits) && !part.contains("..");
    if parts.len() <= 2 && parts.iter().all(part_fits) {
        return Ok(ModelLocation::Hub(id.into()));
    }
    Err(
        Error::new(format!("`{id}` is neither a hub id nor a directory")).with_hint(
            "write a hub id as `organisation/name`, and begin a directory with `/`, `./` or `~/`",
        ),
    )
}

/// Checks a name that clients will write into JSON and into paths.
///
/// # Errors
/// When it is empty, too long, or has characters that mean something in a URL.
pub fn check_name(name: &str) -> Result<(), Error> {
    let chars = name.chars().count();
    let wrong = if name.is_empty() {
        "is empty".to_owned()
    } else if chars > NAME_CHARS_MAX {
        format!("has {chars} characters, more than the limit of {NAME_CHARS_MAX}")
    } else if let Some(c) = name
        .chars()
        .find(|&c| "/?#%\\".contains(c) || c.is_control())
    {
        format!(
            "contains `{}`, which clients cannot put into a URL",
            c.escape_default()
        )
    } else {
        return Ok(());
    };
    Err(Error::new(format!("the served name `{name}` {wrong}"))
        .with_hint("give another with `name` in its `[[model]]`, or `--model name=id`"))
}

/// Makes every name lead to one model: two that claim the same are an error, and an implied name
/// that two models share, such as the id of both, is nobody's alias.
///
/// # Errors
/// When two models have a name or an alias in common.
pub fn settle_names(models: &mut [ModelEntry]) -> Result<(), Error> {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for model in models.iter() {
        let id = model.location.id();
        for name in std::iter::once(&model.name).chain(&model.aliases) {
            if let Some(other) = owners.insert(name.clone(), id.clone()) {
                return Err(Error::new(format!(
                    "the name `{name}` is claimed by `{other}` and by `{id}`"
                ))
                .with_hint(
                    "give one of them another with `name` in its `[[model]]`, or `--model name=id`",
                ));
            }
        }
    }
    let implied: Vec<Vec<String>> = models.iter().map(ModelEntry::implied).collect();
    let is_free = |name: &String| {
        let claims = implied.iter().filter(|names| names.contains(name)).count();
        claims == 1 && !owners.contains_key(name)
    };
    for (model, names) in models.iter_mut().zip(&implied) {
        model
            .aliases
            .extend(names.iter().filter(|name| is_free(name)).cloned());
    }
    Ok(())
}

/// Warnings about models that look like misspelt names of the catalogue: a hub is asked for them
/// all the same, as old models there have no organisation.
pub fn doubts(models: &[ModelEntry], catalog: &Catalog) -> Vec<String> {
    let doubt = |model: &ModelEntry| match &model.location {
        ModelLocation::Hub(id) if !id.contains('/') => catalog.near(id).first().map(|near| {
            format!(
                "the catalogue has no model `{id}`, so a hub is asked for one of that very name; \
                 did you mean `{near}`?"
            )
        }),
        _ => None,
    };
    models.iter().filter_map(doubt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, id: &str) -> ModelEntry {
        ModelEntry {
            name: name.into(),
            aliases: Vec::new(),
            location: location(id, None).expect("a valid id"),
            revision: None,
            max_tokens: None,
            pooling: None,
            task: None,
            generates: false,
            generation: Generation::default(),
            cutoff_layer: None,
            device: None,
            dtype: DtypeChoice::Auto,
            force_dtype: false,
            required: true,
            known: None,
            by_name: false,
            keep_alive: None,
            replicas: 1,
        }
    }

    #[test]
    fn the_served_name_is_the_last_part_of_the_id() {
        assert_eq!(served_name("BAAI/bge-m3"), "bge-m3");
        assert_eq!(served_name("gpt2"), "gpt2");
        assert_eq!(served_name("/models/e5/"), "e5");
        assert_eq!(served_name(r"C:\models\e5"), "e5");
    }

    #[test]
    fn an_id_is_a_hub_id_or_a_directory() {
        let hub = |id: &str| Ok(ModelLocation::Hub(id.into()));
        assert_eq!(location("BAAI/bge-m3", None), hub("BAAI/bge-m3"));
        let home = Some(PathBuf::from("/home/ada"));
        let directory = ModelLocation::Directory("/home/ada/e5".into());
        assert_eq!(location("~/e5", home), Ok(directory));
        for wrong in ["", "a/b/c", "a//b", "a b", "a/..", "https://hub/a"] {
            assert!(location(wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_must_fit_into_a_url() {
        assert_eq!(check_name("bge-m3"), Ok(()));
        assert_eq!(check_name(&"é".repeat(100)), Ok(()));
        for wrong in ["", "a/b", "a?b", "a#b", "a\nb", &"x".repeat(101)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn two_models_of_one_name_are_an_error_that_names_both() {
        let error = settle_names(&mut [entry("m3", "BAAI/bge-m3"), entry("m3", "x/m3")]);
        let message = error.expect_err("a clash").message;
        assert_eq!(
            message,
            "the name `m3` is claimed by `BAAI/bge-m3` and by `x/m3`"
        );
    }

    #[test]
    fn an_id_is_an_alias_unless_it_is_ambiguous() {
        let mut models = [entry("a", "x/m"), entry("b", "x/m"), entry("c", "x/n")];
        assert_eq!(settle_names(&mut models), Ok(()));
        assert_eq!(
            models.map(|model| model.aliases),
            [vec![], vec![], vec!["x/n".to_owned()]]
        );
    }
}
