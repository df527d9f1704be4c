//! `retort estimate`: how much memory models will take, from their small files or, where those are
//! not here, from the catalogue. Nothing is fetched or loaded.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use retort_models::Estimate;
use retort_models::estimate::{Basis, DecoderEstimate};
use serde::Serialize;

use super::flags::{Flags, Local};
use super::table::{render, table};
use super::{Context, Failure, print};
use crate::config::{Config, ModelEntry, Purpose, Typed, setting};
use crate::memory::{load_of, load_to_generate, mib};
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
    memory: Memory,
}

/// Its parts, by what kind of model it is.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Memory {
    Encoder(Estimate),
    Generator(DecoderEstimate),
}

impl Memory {
    /// The most that it adds to a process.
    fn serving(&self) -> u64 {
        match self {
            Self::Encoder(estimate) => estimate.serving,
            Self::Generator(estimate) => estimate.serving,
        }
    }
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
    let limits = engine_limits(config);
    let load = load_of(&limits, entry, entry.replicas);
    let found = |path: Option<PathBuf>, memory| Estimated {
        name: entry.name.clone(),
        id: id.clone(),
        path,
        memory,
    };
    let refused = |error: retort_models::Error| {
        Failure::new(format!("model `{}` cannot be loaded: {error}", entry.name))
    };
    let missing = match provision::model(&provision, &request, &Progress::silent()) {
        Ok(files) => {
            let memory = if entry.is_generator(&files.dir) {
                let load = load_to_generate(&limits, entry);
                Estimate::of_decoder(&files.dir, &load).map(Memory::Generator)
            } else {
                let known = entry.known.as_ref();
                Estimate::of_files(&files.dir, &load, known).map(Memory::Encoder)
            };
            return Ok(found(Some(files.dir), memory.map_err(refused)?));
        }
        Err(missing) => missing,
    };
    let known = entry.known.as_ref();
    match known.and_then(|known| Estimate::of_entry(known, &load)) {
        Some(estimate) => Ok(found(None, Memory::Encoder(estimate))),
        None => Err(missing.into()),
    }
}

fn draw(estimated: &[Estimated]) -> String {
    let texts: Vec<String> = estimated.iter().map(draw_one).collect();
    let text = texts.join("\n");
    if estimated.len() < 2 {
        return text;
    }
    let process = Estimate::PROCESS_TOTAL;
    let serving: u64 = estimated.iter().map(|model| model.memory.serving()).sum();
    format!(
        "{text}\nAll {} models in one process, when all are busy: {}\n",
        estimated.len(),
        mib(process + serving)
    )
}

/// A part, its bytes, and a remark.
type Row = (&'static str, u64, String);

fn draw_one(model: &Estimated) -> String {
    let rows = match &model.memory {
        Memory::Encoder(estimate) => rows(estimate),
        Memory::Generator(estimate) => rows_to_generate(estimate),
    };
    let mut drawn = table(&["part", "memory", ""]);
    for (part, bytes, note) in rows {
        drawn.add_row([part.to_owned(), mib(bytes), note]);
    }
    format!("{} ({})\n{}", model.name, model.id, render(&drawn))
}

fn rows_to_generate(estimate: &DecoderEstimate) -> Vec<Row> {
    let per_token = mib(estimate.kv_bytes_per_token);
    let context = estimate.max_context;
    let one = format!("{per_token} a token; one conversation of {context} tokens");
    vec![
        ("weights in the files", estimate.weights, String::new()),
        ("mapped weights", estimate.weights_mapped, String::new()),
        (
            "converted weights",
            estimate.weights_kept,
            "and ONNX Runtime's copies".into(),
        ),
        ("tokenizer", estimate.tokenizer, String::new()),
        ("keys and values", estimate.kv_context, one),
        (
            "keys and values",
            estimate.kv_cache,
            "all conversations together (`--kv-cache-mib`)".into(),
        ),
        (
            "activations",
            estimate.activations,
            "of the largest step".into(),
        ),
        (
            "process",
            Estimate::PROCESS_TOTAL,
            "whatever it serves".into(),
        ),
        ("TOTAL", estimate.total, "when the cache is full".into()),
    ]
}

fn rows(estimate: &Estimate) -> Vec<Row> {
    let sessions = estimate.sessions as u64;
    let each = |what: u64| format!("{sessions} sessions, {} each", mib(what));
    let buffers = format!(
        "{}, for {} tokens at once",
        each(estimate.arena_per_session),
        estimate.batch_tokens
    );
    let droppable = mib(estimate.serving - estimate.private);
    vec![
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
    ]
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

    fn encoder(model: &Estimated) -> &Estimate {
        match &model.memory {
            Memory::Encoder(estimate) => estimate,
            Memory::Generator(estimate) => panic!("{estimate:?}"),
        }
    }

    #[test]
    fn a_model_that_generates_has_a_cache_and_fewer_bits_take_less() {
        let root = env!("CARGO_MANIFEST_DIR");
        let path = format!("{root}/tests/golden/generators/qwen3-tiny-generate");
        let of = |weights: &str, cache: &str| {
            let flags = [
                ("generation.weights", weights),
                ("generation.kv_cache_mib", cache),
            ];
            of(&[&path], &flags).remove(0)
        };
        let serving = |weights, cache| of(weights, cache).memory.serving();
        assert!(serving("int4", "8") < serving("fp32", "8"));
        assert!(serving("fp32", "8") < serving("fp32", "9"));
        let text = draw(&[of("fp32", "8")]);
        for part in ["128 tokens", "8.0 MiB", "all conversations", "TOTAL"] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
    }

    #[test]
    fn files_that_are_here_go_before_the_catalogue() {
        let models = of(
            &[&tiny(), "bge-m3"],
            &[("cpu.threads", "4"), ("cpu.workers", "2")],
        );
        assert_eq!(encoder(&models[0]).basis, Basis::Checkpoint);
        assert_eq!(models[0].path, Some(tiny().into()));
        assert_eq!(encoder(&models[0]).sessions, 3);
        assert_eq!(
            (encoder(&models[1]).basis, models[1].path.as_ref()),
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
        let total = |flags: &[(&str, &str)]| of(&["bge-m3"], flags)[0].memory.serving();
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
