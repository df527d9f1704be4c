//! Models of the size that people run, with random weights: time to load, memory, tokens per
//! second, at short and at the longest inputs. Every case has a process of its own, because the
//! most memory that a process ever held cannot be taken back.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use retort_models::{Batch, EncoderModel, Encoding, Heads, LoadOptions, Pooling, Runtime};
use serde_json::{Value, json};

use crate::{
    measure::{Outcome, Table, Targets, processor},
    subject::Subject,
};

/// Says that this process is one case; the model, the length and the library follow.
pub const CASE: &str = "--full-size-case";
const LENGTHS: [usize; 2] = [512, 8192];
const GIBIBYTE: f64 = (1 << 30) as f64;

/// What a checkpoint is for.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Embedder,
    /// An embedder with bge-m3's further heads.
    ThreeHeads,
    Reranker,
}

/// The sizes of an XLM-RoBERTa.
#[derive(Clone, Copy)]
pub struct Shape {
    kind: Kind,
    layers: usize,
    hidden: usize,
    heads: usize,
    vocabulary: usize,
    positions: usize,
}

/// XLM-RoBERTa large with 8,192 positions and three heads, as bge-m3 is.
pub const LARGE: Shape = Shape {
    kind: Kind::ThreeHeads,
    layers: 24,
    hidden: 1024,
    heads: 16,
    vocabulary: 250_002,
    positions: 8194,
};
/// The layers and the vocabulary of BERT's base model.
pub const BASE: Shape = Shape {
    kind: Kind::Embedder,
    layers: 12,
    hidden: 768,
    heads: 12,
    vocabulary: 30_522,
    positions: 8194,
};
const RERANKER: Shape = Shape {
    kind: Kind::Reranker,
    ..LARGE
};
const MODELS: [(&str, Shape); 2] = [("bge-m3", LARGE), ("bge-reranker-v2-m3", RERANKER)];

/// Makes the checkpoints that are missing and runs every case.
pub fn run(subject: &Subject, _: &mut Targets) -> Outcome {
    let mut table = Table::new(
        "### Full size, random weights, one text at a time on all cores".to_owned(),
        &[
            "model",
            "tokens",
            "weights, GiB",
            "load, s",
            "peak, GiB",
            "peak / weights",
            "seconds a text",
            "tokens/s",
        ],
    );
    for (name, shape) in MODELS {
        let folder = checkpoint(name, shape)?;
        for length in LENGTHS {
            let case = child(&folder, length, subject.runtime.library())?;
            let number = |key: &str| case[key].as_f64().unwrap_or(f64::NAN);
            let (weights, peak) = (number("weights"), number("peak"));
            table.row(
                name,
                [
                    length.to_string(),
                    format!("{:.2}", weights / GIBIBYTE),
                    format!("{:.1}", number("load")),
                    format!("{:.2}", peak / GIBIBYTE),
                    format!("{:.2}", peak / weights),
                    format!("{:.1}", number("text")),
                    format!("{:.0}", length as f64 / number("text")),
                ],
            );
        }
    }
    table.print();
    Ok(())
}

fn child(folder: &Path, length: usize, library: &Path) -> Outcome<Value> {
    println!("{}, {length} tokens …", folder.display());
    let output = Command::new(std::env::current_exe()?)
        .arg(CASE)
        .args([folder, Path::new(&length.to_string()), library])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The whole of a process that is one case: loads, runs, prints one line of JSON.
pub fn case(arguments: &[String]) -> Outcome {
    let [folder, length, library] = arguments else {
        return Err("a case needs a folder, a length and a library".into());
    };
    let length: usize = length.parse()?;
    let options = LoadOptions::new(Runtime::load(Path::new(library))?);
    let started = Instant::now();
    let model = EncoderModel::load(Path::new(folder), &options)?;
    let mut encoder = model.encoder(processor::cores())?;
    let load = started.elapsed().as_secs_f64();
    let encoding = Encoding {
        input_ids: (0..length as u32)
            .map(|place| 4 + place * 29 % 200_000)
            .collect(),
        token_type_ids: vec![0; length],
        ..Encoding::default()
    };
    let heads = model.info().heads;
    let mut batch = Batch::wanting(heads);
    batch.push(&encoding);
    // The first run of a short text touches what the next ones find ready.
    let runs = if length > 1000 { 1 } else { 4 };
    let mut fastest = f64::INFINITY;
    for _ in 0..runs {
        let started = Instant::now();
        let outputs = encoder.encode(&batch)?;
        fastest = fastest.min(started.elapsed().as_secs_f64());
        if heads == Heads::DENSE && outputs[0].dense.is_none() {
            return Err("no vector".into());
        }
    }
    let peak = processor::memory(std::process::id(), "VmHWM");
    println!(
        "{}",
        json!({
            "weights": model.info().weights_bytes,
            "load": load,
            "text": fastest,
            "peak": peak,
        })
    );
    Ok(())
}

/// A checkpoint folder with the real layout and random numbers, made once.
pub fn checkpoint(name: &str, shape: Shape) -> Outcome<PathBuf> {
    let class = match shape.kind {
        Kind::Embedder | Kind::ThreeHeads => "XLMRobertaModel",
        Kind::Reranker => "XLMRobertaForSequenceClassification",
    };
    let config = json!({
        "architectures": [class], "model_type": "xlm-roberta", "hidden_act": "gelu",
        "hidden_size": shape.hidden, "intermediate_size": 4 * shape.hidden,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "vocab_size": shape.vocabulary, "type_vocab_size": 1,
        "max_position_embeddings": shape.positions, "pad_token_id": 1, "layer_norm_eps": 1e-5,
    });
    let pooling = (shape.kind != Kind::Reranker).then_some(Pooling::Cls);
    let folder = folder(name, &config, pooling, &tensors(shape))?;
    if shape.kind == Kind::ThreeHeads {
        let heads = [("sparse_linear", 1), ("colbert_linear", shape.hidden)];
        for (head, width) in heads {
            let tensors = [
                ("weight".to_owned(), vec![width, shape.hidden]),
                ("bias".to_owned(), vec![width]),
            ];
            let path = folder.join(format!("{head}.safetensors"));
            if !path.exists() {
                write(&path, &tensors)?;
            }
        }
    }
    Ok(folder)
}

/// The folder of a checkpoint with these settings and random numbers, made once.
pub fn folder(
    name: &str,
    config: &Value,
    pooling: Option<Pooling>,
    tensors: &[(String, Vec<usize>)],
) -> Outcome<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/full-size")
        .join(name);
    let weights = folder.join("model.safetensors");
    if weights.exists() {
        return Ok(folder);
    }
    println!("making {} …", folder.display());
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("config.json"), config.to_string())?;
    // Token ids are given to the encoder as they are; the tokenizer only has to load.
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"<s>": 0, "<unk>": 1}, "unk_token": "<unk>"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    if let Some(pooling) = pooling {
        fs::create_dir_all(folder.join("1_Pooling"))?;
        let pooling = json!({"pooling_mode": pooling.name()});
        fs::write(folder.join("1_Pooling/config.json"), pooling.to_string())?;
    }
    write(&weights, tensors)?;
    Ok(folder)
}

/// Names and shapes of the tensors, as transformers saves them.
fn tensors(shape: Shape) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (shape.hidden, 4 * shape.hidden);
    let prefix = match shape.kind {
        Kind::Embedder | Kind::ThreeHeads => "",
        Kind::Reranker => "roberta.",
    };
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize]| tensors.push((name, shape.to_vec()));
    let table = |name: &str| format!("{prefix}embeddings.{name}_embeddings.weight");
    add(table("word"), &[shape.vocabulary, hidden]);
    add(table("position"), &[shape.positions, hidden]);
    add(table("token_type"), &[1, hidden]);
    let mut linear = |name: &str, shape: &[usize]| {
        add(format!("{name}.weight"), shape);
        add(format!("{name}.bias"), &shape[..1]);
    };
    linear(&format!("{prefix}embeddings.LayerNorm"), &[hidden]);
    for layer in 0..shape.layers {
        let mut part = |name: &str, shape: &[usize]| {
            linear(&format!("{prefix}encoder.layer.{layer}.{name}"), shape);
        };
        for name in ["query", "key", "value"] {
            part(&format!("attention.self.{name}"), &[hidden, hidden]);
        }
        part("attention.output.dense", &[hidden, hidden]);
        part("attention.output.LayerNorm", &[hidden]);
        part("intermediate.dense", &[inner, hidden]);
        part("output.dense", &[hidden, inner]);
        part("output.LayerNorm", &[hidden]);
    }
    if shape.kind == Kind::Reranker {
        linear("classifier.dense", &[hidden, hidden]);
        linear("classifier.out_proj", &[1, hidden]);
    }
    tensors
}

/// Writes a safetensors file of small random numbers; norms get ones.
fn write(path: &Path, tensors: &[(String, Vec<usize>)]) -> Outcome {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * size_of::<f32>();
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let unfinished = path.with_extension("part");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&unfinished)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for (name, shape) in tensors {
        let is_norm = name.ends_with(".weight") && shape.len() == 1;
        for _ in 0..shape.iter().product::<usize>() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let uniform = (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0;
            let number = if is_norm { 1.0 } else { uniform * 0.04 };
            file.write_all(&number.to_le_bytes())?;
        }
    }
    file.flush()?;
    fs::rename(unfinished, path)?;
    Ok(())
}
