//! `retort estimate`: how much memory models will take, from their small files or, where those are
//! not here, from the catalogue. Nothing is fetched or loaded.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use retort_models::Estimate;
use retort_models::estimate::Basis;
use serde::Serialize;

use super::flags::{Flags, Local};
use super::table::{render, table};
use super::{Context, Failure, print};
use crate::config::{Config, ModelEntry, Purpose, Typed, setting};
use crate::memory::{load_of, mib};
use crate::provision::{self, ModelRequest, Network, Progress, ProvisionConfig, Weights};
use crate::serve::engine_limits;

/// Flags of `retort estimate`.
#[derive(Args)]
pub struct EstimateArgs {
    /// Which models, as `name`, `id[@revision]` or directory; the configured ones when none is
    /// named
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Longest input, in tokens, instead of what the model or the configuration says
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<Local>,
}

/// Prints the parts and the sum for each model.
pub fn run(mut args: EstimateArgs, context: &Context) -> Result<ExitCode, Failure> {
    if !args.models.is_empty() {
        let typed = setting("model").map(|setting| Typed {
            setting,
            values: args.models,
        });
        args.flags.typed.extend(typed);
    }
    let mut config = context.load(Purpose::Local, args.flags)?.config;
    if let Some(tokens) = args.max_tokens {
        for model in &mut config.models {
            model.max_tokens = Some(tokens as usize);
        }
    }
    let estimated: Result<Vec<Estimated>, Failure> = config
        .models
        .iter()
        .map(|entry| estimate(&config, entry))
        .collect();
    let estimated = estimated?;
    let text = if args.json {
        format!("{}\n", serde_json::json!({ "models": estimated }))
    } else {
        draw(&estimated)
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A model and its memory.
#[derive(Debug, Serialize)]
struct Estimated {
    name: String,
    id: String,
    /// Where its files are; null when they are not here.
    path: Option<PathBuf>,
    #[serde(flatten)]
    estimate: Estimate,
}

fn estimate(config: &Config, entry: &ModelEntry) -> Result<Estimated, Failure> {
    let id = entry.location.id();
    let request = ModelRequest {
        id: &id,
        revision: entry.revision.as_deref(),
        weights: Weights::Checkpoint,
        entry: entry.published(),
    };
    // Provisioning that may not fetch is a look-up.
    let network = Network::Forbidden {
        by: "retort estimate".into(),
    };
    let provision = ProvisionConfig {
        network,
        ..config.provision.clone()
    };
    let load = load_of(&engine_limits(config), entry, entry.replicas);
    let found = |path: Option<PathBuf>, estimate| Estimated {
        name: entry.name.clone(),
        id: id.clone(),
        path,
        estimate,
    };
    let missing = match provision::model(&provision, &request, &Progress::silent()) {
        Ok(files) => {
            let estimate = Estimate::of_files(&files.dir, &load, entry.known.as_ref());
            let estimate = estimate.map_err(|error| {
                Failure::new(format!("model `{}` cannot be loaded: {error}", entry.name))
            })?;
            return Ok(found(Some(files.dir), estimate));
        }
        Err(missing) => missing,
    };
    let known = entry.known.as_ref();
    match known.and_then(|known| Estimate::of_entry(known, &load)) {
        Some(estimate) => Ok(found(None, estimate)),
        None => Err(missing.into()),
    }
}

fn draw(estimated: &[Estimated]) -> String {
    let texts: Vec<String> = estimated.iter().map(draw_one).collect();
    let text = texts.join("\n");
    let [first, _, ..] = estimated else {
        return text;
    };
    let process = first.estimate.process;
    let serving: u64 = estimated.iter().map(|model| model.estimate.serving).sum();
    format!(
        "{text}\nAll {} models in one process, when all are busy: {}\n",
        estimated.len(),
        mib(process + serving)
    )
}

fn draw_one(model: &Estimated) -> String {
    let estimate = &model.estimate;
    let sessions = estimate.sessions as u64;
    let each = |what: u64| format!("{sessions} sessions, {} each", mib(what));
    let buffers = format!(
        "{}, for {} tokens at once",
        each(estimate.arena_per_session),
        estimate.batch_tokens
    );
    let droppable = mib(estimate.serving - estimate.private);
    let rows = [
        (
            "weights in the files",
            estimate.weights,
            basis(estimate.basis).to_owned(),
        ),
        (
            "mapped weights",
            estimate.weights_mapped,
            of_embeddings(estimate),
        ),
        ("converted weights", estimate.weights_owned, String::new()),
        (
            "packed copies",
            estimate.packed,
            "made by ONNX Runtime".into(),
        ),
        ("tokenizer", estimate.tokenizer, String::new()),
        (
            "sessions",
            sessions * estimate.session,
            each(estimate.session),
        ),
        (
            "activations",
            sessions * estimate.arena_per_session,
            buffers,
        ),
        ("threads", estimate.threads, String::new()),
        ("process", estimate.process, "whatever it serves".into()),
        (
            "while loading",
            estimate.process + estimate.loading,
            String::new(),
        ),
        (
            "when all sessions are busy",
            estimate.process + estimate.serving,
            format!("{droppable} of it pages of files, dropped when memory is short"),
        ),
        ("TOTAL", estimate.total, "the larger of the two".into()),
    ];
    let mut drawn = table(&["part", "memory", ""]);
    for (part, bytes, note) in rows {
        drawn.add_row([part.to_owned(), mib(bytes), note]);
    }
    format!("{} ({})\n{}", model.name, model.id, render(&drawn))
}

fn basis(basis: Basis) -> &'static str {
    match basis {
        Basis::Checkpoint => "",
        Basis::OnnxFile => "a given graph: a rough upper bound",
        Basis::StaticTable => "a table of token vectors",
        Basis::Catalogue => "not here: a rough estimate from the catalogue",
    }
}

fn of_embeddings(estimate: &Estimate) -> String {
    match estimate.embeddings {
        0 => String::new(),
        embeddings => format!("{} of them embeddings", mib(embeddings)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Environment, Inputs};

    fn config(models: &[&str], flags: &[(&str, &str)]) -> Config {
        let typed = |key: &str, values: Vec<String>| Typed {
            setting: setting(key).expect("a known key"),
            values,
        };
        let mut all = vec![typed(
            "model",
            models.iter().map(ToString::to_string).collect(),
        )];
        all.extend(
            flags
                .iter()
                .map(|(key, value)| typed(key, vec![value.to_string()])),
        );
        let inputs = Inputs {
            purpose: Purpose::Local,
            flags: all,
            file: None,
            environment: [
                ("HF_HOME", "/nonexistent"),
                ("RETORT_CACHE_DIR", "/nonexistent"),
            ]
            .into_iter()
            .collect::<Environment>(),
            directory: PathBuf::from("/nonexistent"),
        };
        config::load(&inputs)
            .unwrap_or_else(|error| panic!("{error}"))
            .config
    }

    fn of(models: &[&str], flags: &[(&str, &str)]) -> Vec<Estimated> {
        let config = config(models, flags);
        let estimate = |entry| estimate(&config, entry).unwrap_or_else(|e| panic!("{}", e.message));
        config.models.iter().map(estimate).collect()
    }

    fn tiny() -> String {
        format!(
            "{}/tests/golden/checkpoints/bert-tiny-mean",
            env!("CARGO_MANIFEST_DIR")
        )
    }

    #[test]
    fn files_that_are_here_go_before_the_catalogue() {
        let models = of(
            &[&tiny(), "bge-m3"],
            &[("cpu.threads", "4"), ("cpu.workers", "2")],
        );
        assert_eq!(models[0].estimate.basis, Basis::Checkpoint);
        assert_eq!(models[0].path, Some(tiny().into()));
        assert_eq!(models[0].estimate.sessions, 3);
        assert_eq!(
            (models[1].estimate.basis, models[1].path.as_ref()),
            (Basis::Catalogue, None)
        );
        let text = draw(&models);
        for part in [
            "bert-tiny-mean (",
            "3 sessions",
            "TOTAL",
            "rough estimate",
            "All 2 models",
        ] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
    }

    #[test]
    fn fewer_tokens_and_workers_take_less() {
        let total = |flags: &[(&str, &str)]| of(&["bge-m3"], flags)[0].estimate.serving;
        let batch = ("limits.max_batch_tokens", "65536");
        let four = total(&[("cpu.threads", "4"), batch]);
        assert!(total(&[("cpu.threads", "4"), ("cpu.workers", "1"), batch]) < four);
        assert!(total(&[("cpu.threads", "4")]) < four);
    }

    #[test]
    fn a_model_that_nobody_knows_is_an_error() {
        let config = config(&["nobody/nothing"], &[]);
        let error = estimate(&config, &config.models[0]).expect_err("no such model");
        assert!(
            error.message.contains("nobody/nothing"),
            "{}",
            error.message
        );
    }
}
