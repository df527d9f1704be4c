//! `retort cal-model-mem`: the GPU memory of a chat model by the rule of Xinference's command of
//! that name, whose source is `RahulSChand/gpu_poor`. Arithmetic on the numbers of a compiled-in
//! table; nothing is fetched. Models of embeddings and scores have `retort estimate`.

mod chat_models;
mod formats;

use std::process::ExitCode;

use clap::Args;

use self::chat_models::{CHAT_MODELS, ChatConfig};
use self::formats::Weights;
use super::flags::{Files, Flags};
use super::{Context, Failure, print};
use crate::config::Purpose;

const MIB: f64 = 1024.0 * 1024.0;

/// What a process with CUDA takes whatever the model, in MiB.
const OVERHEAD: f64 = 650.0;

/// Flags of `retort cal-model-mem`, those of `xinference cal-model-mem`.
#[derive(Args)]
pub struct CalModelMemArgs {
    /// Parameters in billions, such as 7, 1.8 or 1_8
    #[arg(long, short = 's', value_name = "SIZE")]
    size_in_billions: String,
    /// Quantization: Int4, Int8 and others; for ggufv2 q4_0, q4_K_M and others
    #[arg(long, short = 'q', value_name = "NAME")]
    quantization: Option<String>,
    /// Format of the files: pytorch, gptq, awq, ggufv2 and others
    #[arg(long, short = 'f', value_name = "NAME")]
    model_format: String,
    /// Tokens of prompt and answer together
    #[arg(
        long,
        short = 'c',
        value_name = "TOKENS",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    context_length: u32,
    /// A chat model by Xinference's name; without one, a usual model of that size
    #[arg(long, short = 'n', value_name = "NAME")]
    model_name: Option<String>,
    /// Bits of a number in the key/value cache: 8, 16 or 32
    #[arg(long, value_name = "BITS", default_value_t = 16)]
    kv_cache_dtype: u32,
}

/// Prints the parts and their sum.
pub fn run(args: &CalModelMemArgs, context: &Context) -> Result<ExitCode, Failure> {
    let size = size(&args.size_in_billions)?;
    if ![8, 16, 32].contains(&args.kv_cache_dtype) {
        let bits = args.kv_cache_dtype;
        return Err(Failure::usage(format!(
            "`--kv-cache-dtype` = `{bits}` is none of 8, 16 and 32"
        )));
    }
    let weights = Weights::read(&args.model_format, args.quantization.as_deref())?;
    let config = match &args.model_name {
        None => ChatConfig::usual(size),
        Some(name) => match chat_models::find(name, size) {
            Some(config) => *config,
            None => return Err(unknown(name, size, context)),
        },
    };
    let need = Need {
        size,
        config,
        weights,
        context: args.context_length,
        kv_bytes: args.kv_cache_dtype / 8,
    };
    print(&draw(args, &need))?;
    for note in notes(&need) {
        anstream::eprintln!("note: {note}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What the memory follows from.
struct Need {
    /// Billions of parameters.
    size: f64,
    config: ChatConfig,
    weights: Weights,
    context: u32,
    /// Bytes of a number in the cache.
    kv_bytes: u32,
}

/// The parts, in MiB.
#[derive(Debug, Clone, Copy)]
struct Memory {
    model: f64,
    kv_cache: f64,
    overhead: f64,
    active: f64,
}

impl Need {
    fn memory(&self) -> Memory {
        let context = f64::from(self.context);
        let hidden = f64::from(self.config.hidden);
        let cache = context * f64::from(self.kv_bytes) * hidden * f64::from(self.config.layers);
        // Xinference takes the number of key/value heads where the configuration has one.
        let heads = f64::from(self.config.kv_heads);
        let active = context * hidden * 10.0 + context * context * heads * 2.0;
        let (sides, overhead) = match self.weights {
            Weights::Gguf(_) => (1.0, OVERHEAD + context * 0.1),
            Weights::Bits(_) => (2.0, OVERHEAD),
        };
        Memory {
            model: self.weights.mebibytes(self.size, &self.config),
            kv_cache: cache * sides / MIB,
            overhead,
            active: active / MIB,
        }
    }

    /// What keys and values of all heads that there are take, in MiB.
    fn grouped_cache(&self) -> f64 {
        let config = &self.config;
        let width = f64::from(config.kv_heads) * f64::from(config.head_dim);
        let per_token = 2.0 * f64::from(self.kv_bytes) * width * f64::from(config.layers);
        f64::from(self.context) * per_token / MIB
    }
}

/// The lines of Xinference's command.
fn draw(args: &CalModelMemArgs, need: &Need) -> String {
    let Memory {
        model,
        kv_cache,
        overhead,
        active,
    } = need.memory();
    let total = (model + kv_cache + overhead + active).ceil();
    format!(
        "model_name: {}\n\
         kv_cache_dtype: {}\n\
         model size: {:.1} B\n\
         quant: {}\n\
         context: {}\n\
         gpu mem usage:\n  \
           model mem: {} MB\n  \
           kv_cache: {} MB\n  \
           overhead: {} MB\n  \
           active: {} MB\n  \
           total: {total} MB ({} GB)\n",
        args.model_name.as_deref().unwrap_or("None"),
        args.kv_cache_dtype,
        need.size,
        args.quantization.as_deref().unwrap_or("None"),
        args.context_length,
        model.ceil(),
        kv_cache.ceil(),
        overhead.ceil(),
        active.ceil(),
        (total / 1024.0).ceil(),
    )
}

/// What the rule leaves out and a reader of its numbers should know.
fn notes(need: &Need) -> Vec<String> {
    let config = &need.config;
    let mut notes = Vec::new();
    if config.kv_heads < config.heads {
        notes.push(format!(
            "kv_cache is counted as if each of the {} heads had keys and values of its own; with \
             {} such heads an engine stores {} MB",
            config.heads,
            config.kv_heads,
            need.grouped_cache().ceil()
        ));
    }
    if need.weights == Weights::Bits(16) && need.size >= 1.0 {
        notes.push("without `-q` the weights are counted with 16 bits, whatever the format".into());
    }
    notes
}

/// Billions of parameters; Xinference writes 1.8 as `1_8`.
fn size(text: &str) -> Result<f64, Failure> {
    let size = text.trim().replace('_', ".").parse::<f64>().ok();
    size.filter(|&size| size.is_finite() && size > 0.0 && size < 1e5)
        .ok_or_else(|| {
            Failure::usage(format!(
                "`--size-in-billions` = `{text}` is no number of parameters"
            ))
            .with_hint("write 7, 1.8 or 1_8")
        })
}

/// Why a name is of no use here, and what is.
fn unknown(name: &str, size: f64, context: &Context) -> Failure {
    if let Some(family) = chat_models::family(name) {
        let sizes: Vec<String> = family.sizes.iter().map(|c| c.size.to_string()).collect();
        return Failure::new(format!("`{name}` is not known with {size} B parameters"))
            .with_hint(format!("known are {}", sizes.join(", ")));
    }
    let loaded = context.load(Purpose::Local, Flags::<Files>::none());
    let entry = loaded.ok().and_then(|loaded| {
        let entry = loaded.config.catalog.find(name).ok();
        entry.map(|entry| entry.name.clone())
    });
    if let Some(entry) = entry {
        return Failure::new(format!(
            "`{entry}` is no chat model, and its memory follows another rule"
        ))
        .with_hint(format!("`retort estimate {entry}` says what it takes here"));
    }
    let known: Vec<&str> = CHAT_MODELS.iter().map(|family| family.name).collect();
    Failure::new(format!("there is no chat model `{name}` in the table")).with_hint(format!(
        "known are {}; without `--model-name` a usual model of that size is taken",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn args(line: &str) -> CalModelMemArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: CalModelMemArgs,
        }
        let words = std::iter::once("retort").chain(line.split(' '));
        <Line as clap::Parser>::parse_from(words).args
    }

    fn need(args: &CalModelMemArgs) -> Need {
        let size = size(&args.size_in_billions).expect("a size");
        let config = match &args.model_name {
            Some(name) => *chat_models::find(name, size).expect("a known model"),
            None => ChatConfig::usual(size),
        };
        let weights = Weights::read(&args.model_format, args.quantization.as_deref());
        Need {
            size,
            config,
            weights: weights.expect("a format"),
            context: args.context_length,
            kv_bytes: args.kv_cache_dtype / 8,
        }
    }

    fn drawn(line: &str) -> String {
        let args = args(line);
        draw(&args, &need(&args))
    }

    /// The example of Xinference's documentation.
    #[test]
    fn the_familiar_example_gives_the_familiar_lines() {
        assert_eq!(
            drawn("-s 7 -q Int4 -f gptq -c 16384 -n qwen1.5-chat"),
            "model_name: qwen1.5-chat\nkv_cache_dtype: 16\nmodel size: 7.0 B\nquant: Int4\n\
             context: 16384\ngpu mem usage:\n  model mem: 4139 MB\n  kv_cache: 8192 MB\n  \
             overhead: 650 MB\n  active: 17024 MB\n  total: 30005 MB (30 GB)\n"
        );
    }

    #[test]
    fn without_a_quantization_16_bits_are_counted() {
        let text = drawn("-s 7 -f gptq -c 8192 -n qwen1.5-chat");
        for line in [
            "quant: None",
            "  model mem: 13352 MB",
            "  kv_cache: 4096 MB",
            "  active: 4416 MB",
            "  total: 22514 MB (22 GB)",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn other_formats_and_no_name_have_rules_of_their_own() {
        let text = drawn("-s 7 -q q4_K_M -f ggufv2 -c 4096 -n llama-2-chat");
        assert!(text.contains("overhead: 1060 MB"), "{text}");
        assert!(text.contains("kv_cache: 1024 MB"), "{text}");
        let eight = drawn("-s 1_8 -f pytorch -c 1024 --kv-cache-dtype 8");
        assert!(eight.contains("model_name: None\nkv_cache_dtype: 8\nmodel size: 1.8 B"));
    }

    #[test]
    fn shared_heads_are_told_with_the_memory_that_they_really_take() {
        let shared = need(&args("-s 7 -q Int8 -f gptq -c 8192 -n qwen2.5-instruct"));
        // 2 · 8192 tokens · 28 layers · 4 heads · 128 numbers · 2 bytes
        assert!((shared.grouped_cache() - 448.0).abs() < 1e-9);
        assert!(notes(&shared)[0].contains("stores 448 MB"));
        let own = need(&args("-s 7 -q Int8 -f gptq -c 8192 -n qwen1.5-chat"));
        assert!(notes(&own).is_empty());
    }

    #[test]
    fn what_is_not_known_is_answered_with_what_is() {
        let context = Context {
            environment: Environment::default(),
            directory: "/nonexistent".into(),
        };
        let hint = |name, size| unknown(name, size, &context).hint.unwrap_or_default();
        assert!(hint("GOT-OCR2_0", 7.0).contains("qwen1.5-chat"));
        assert!(hint("bge-m3", 0.5).contains("retort estimate bge-m3"));
        assert!(hint("qwen1.5-chat", 8.0).contains("0.5, 1.8, 4, 7"));
        for wrong in ["", "0", "-7", "seven", "inf"] {
            assert_eq!(size(wrong).expect_err("no size").exit_code, 2);
        }
    }
}
