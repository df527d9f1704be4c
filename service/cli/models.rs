//! `retort models`: the models of the catalogue and the configured ones, and whether their files
//! are on this machine. Looks at caches only; nothing is fetched or loaded.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use retort_models::Head;
use retort_models::catalog::{Entry, Family, Task};
use serde::Serialize;

use super::flags::{Files, Flags};
use super::table::{bytes, bytes_under, render, table};
use super::{Context, Failure, print};
use crate::config::{Config, ModelEntry, Purpose};
use crate::provision::{self, ModelRequest, Network, Progress, ProvisionConfig, Weights};

/// Flags of `retort models`.
#[derive(Args)]
pub struct ModelsArgs {
    /// List only models of this task
    #[arg(long, value_name = "TASK", value_parser = task_parser())]
    task: Option<Task>,
    /// List only models that are configured or on this machine, and where their files are
    #[arg(long)]
    local: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<Files>,
}

fn task_parser() -> impl TypedValueParser<Value = Task> {
    PossibleValuesParser::new(Task::ALL.map(Task::name)).map(|name| {
        let is_named = |task: &Task| task.name() == name;
        // The parser before lets only these names through.
        Task::ALL.into_iter().find(is_named).unwrap_or(Task::Embed)
    })
}

/// Lists the models.
pub fn run(args: ModelsArgs, context: &Context) -> Result<ExitCode, Failure> {
    let config = context.load(Purpose::Local, args.flags)?.config;
    let mut listed = list(&config);
    if args.task.is_some() {
        listed.retain(|model| model.task == args.task);
    }
    if args.local {
        listed.retain(|model| model.configured || model.cached);
    }
    let text = match (args.json, args.local) {
        (true, _) => format!("{}\n", serde_json::json!({ "models": listed })),
        (false, true) => draw_local(&listed),
        (false, false) => draw(&listed),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A model and its files. What only the catalogue knows is null for other models.
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
struct Listed {
    name: String,
    id: String,
    aliases: Vec<String>,
    configured: bool,
    task: Option<Task>,
    family: Option<Family>,
    dimensions: Option<usize>,
    max_tokens: Option<usize>,
    languages: Vec<String>,
    heads: Vec<Head>,
    licence: Option<String>,
    /// The published size of the weights.
    weights_bytes: Option<u64>,
    cached: bool,
    /// How the files were found; null when they are not here.
    origin: Option<String>,
    revision: Option<String>,
    /// The size of the files that are here.
    bytes: Option<u64>,
    path: Option<PathBuf>,
}

/// The configured models in their order, then the others of the catalogue by name.
fn list(config: &Config) -> Vec<Listed> {
    // Provisioning that may not fetch is a look-up.
    let network = Network::Forbidden {
        by: "retort models".into(),
    };
    let provision = ProvisionConfig {
        network,
        ..config.provision.clone()
    };
    let configured = config
        .models
        .iter()
        .map(|model| look_up(&provision, of_configured(model), model.published()));
    let is_configured = |entry: &Entry| {
        let known = config.models.iter().filter_map(|m| m.known.as_ref());
        known.into_iter().any(|known| known.name == entry.name)
    };
    let mut others: Vec<&Entry> = config
        .catalog
        .entries()
        .iter()
        .filter(|entry| !is_configured(entry))
        .collect();
    others.sort_by_key(|entry| entry.name.to_lowercase());
    let others = others
        .into_iter()
        .map(|entry| look_up(&provision, of_entry(entry), Some(entry)));
    configured.chain(others).collect()
}

fn of_entry(entry: &Entry) -> Listed {
    Listed {
        name: entry.name.clone(),
        id: entry.huggingface.id.clone(),
        aliases: entry.aliases.clone(),
        task: Some(entry.task),
        family: entry.family,
        dimensions: entry.dimensions,
        max_tokens: Some(entry.max_tokens),
        languages: entry.languages.clone(),
        heads: entry.heads.clone(),
        licence: entry.licence.clone(),
        weights_bytes: entry.size_bytes(),
        ..Listed::default()
    }
}

fn of_configured(model: &ModelEntry) -> Listed {
    Listed {
        name: model.name.clone(),
        id: model.location.id(),
        aliases: model.aliases.clone(),
        configured: true,
        // What is looked for; what is found replaces it.
        revision: model.revision.clone(),
        ..model.known.as_ref().map(of_entry).unwrap_or_default()
    }
}

/// Adds whether the files are here, and where.
fn look_up(provision: &ProvisionConfig, listed: Listed, entry: Option<&Entry>) -> Listed {
    let request = ModelRequest {
        id: &listed.id,
        revision: listed.revision.as_deref(),
        weights: Weights::Checkpoint,
        entry,
    };
    let files = provision::model(provision, &request, &Progress::silent()).ok();
    Listed {
        cached: files.is_some(),
        origin: files.as_ref().map(|files| files.origin.to_string()),
        revision: files.as_ref().and_then(|files| files.revision.clone()),
        bytes: files.as_ref().map(|files| bytes_under(&files.dir)),
        path: files.map(|files| files.dir),
        ..listed
    }
}

fn draw(listed: &[Listed]) -> String {
    let mut rows = table(&[
        "name",
        "task",
        "family",
        "dimensions",
        "max tokens",
        "languages",
        "heads",
        "size",
        "on disk",
    ]);
    let number = |number: Option<usize>| number.map(|n| n.to_string()).unwrap_or_default();
    for model in listed {
        let heads: Vec<&str> = model.heads.iter().map(|head| head.name()).collect();
        rows.add_row([
            model.name.clone(),
            model.task.map(Task::name).unwrap_or_default().into(),
            model.family.map(Family::name).unwrap_or_default().into(),
            number(model.dimensions),
            number(model.max_tokens),
            model.languages.join(", "),
            heads.join(", "),
            size(model),
            model.origin.clone().unwrap_or_else(|| "no".into()),
        ]);
    }
    render(&rows)
}

/// The size on disk, or about what a download would be.
fn size(model: &Listed) -> String {
    let published = || model.weights_bytes.map(|size| format!("~{}", bytes(size)));
    let here = model.bytes.map(bytes);
    here.or_else(published).unwrap_or_default()
}

fn draw_local(listed: &[Listed]) -> String {
    let mut rows = table(&["name", "model", "on this machine", "size", "where"]);
    for model in listed {
        rows.add_row([
            model.name.clone(),
            model.id.clone(),
            model
                .origin
                .clone()
                .unwrap_or_else(|| "no; `retort pull` fetches it".into()),
            model.bytes.map(bytes).unwrap_or_default(),
            model
                .path
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
        ]);
    }
    render(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Inputs, Typed, setting};

    /// What is configured by naming these models, with caches in a folder.
    fn config(models: &[&str], cache: &std::path::Path) -> Config {
        let typed = |key: &str, values: Vec<String>| Typed {
            setting: setting(key).expect("a known key"),
            values,
        };
        let cache = cache.display().to_string();
        let inputs = Inputs {
            purpose: Purpose::Local,
            flags: vec![
                typed("model", models.iter().map(ToString::to_string).collect()),
                typed("models.cache_dir", vec![cache.clone()]),
            ],
            file: None,
            environment: [("HF_HOME", &*cache), ("MODELSCOPE_CACHE", &*cache)]
                .into_iter()
                .collect(),
            directory: PathBuf::from("/nonexistent"),
        };
        let loaded = config::load(&inputs).unwrap_or_else(|error| panic!("{error}"));
        loaded.config
    }

    #[test]
    fn configured_models_come_first_and_the_catalogue_follows() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let config = config(
            &["m3=BAAI/bge-m3", "acme/own", "jina-reranker-v2"],
            cache.path(),
        );
        let listed = list(&config);
        let names: Vec<&str> = listed.iter().map(|model| &*model.name).collect();
        assert_eq!(names[..3], ["m3", "own", "jina-reranker-v2"]);
        assert_eq!(listed.len(), config.catalog.entries().len() + 1);
        assert!(!names.contains(&"bge-m3"), "it is listed as configured");
        assert_eq!(listed[0].dimensions, Some(1024));
        assert_eq!((listed[1].task, listed[1].configured), (None, true));
        assert_eq!(listed[2].id, "jinaai/jina-reranker-v2-base-multilingual");
        assert!(listed.iter().all(|model| !model.cached));
    }

    #[test]
    fn files_of_another_revision_than_the_catalogues_count_as_here() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let folder = cache.path().join("hub/models--BAAI--bge-m3");
        let snapshot = folder.join("snapshots").join(commit);
        let files = [
            (folder.join("refs/main"), commit),
            (snapshot.join("config.json"), "{}"),
            (snapshot.join("modules.json"), "[]"),
            (snapshot.join("tokenizer.json"), "{}"),
            (snapshot.join("model.safetensors"), "weights"),
        ];
        for (path, text) in files {
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        let listed = list(&config(&["bge-m3"], cache.path()));
        assert_eq!(listed[0].revision.as_deref(), Some(commit));
        assert_eq!(listed.iter().filter(|model| model.cached).count(), 1);
        assert!(draw(&listed[..1]).contains("cache (Hugging Face)"));
        let local = draw_local(&listed[..1]);
        assert!(local.contains("bge-m3"), "{local}");
    }

    #[test]
    fn a_row_says_what_the_model_is() {
        let catalog = retort_models::Catalog::compiled().expect("a sound catalogue");
        let entry = catalog.find("bge-m3").expect("a known model");
        let text = draw(&[of_entry(entry)]);
        for part in [
            "bge-m3",
            "embed",
            "xlm-roberta",
            "1024",
            "8192",
            "zh",
            "sparse",
            "~2.3 GB",
        ] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
        assert!(text.trim_end().ends_with("no"), "{text}");
    }

    #[test]
    fn a_model_that_is_not_here_says_how_to_get_it() {
        let listed = Listed {
            name: "bge-m3".into(),
            ..Listed::default()
        };
        assert!(draw_local(&[listed]).contains("no; `retort pull` fetches it"));
    }
}
