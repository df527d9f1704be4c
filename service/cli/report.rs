//! What is told once the service answers: which ONNX Runtime, which models, which device really
//! runs, and a request to try. Pure: facts in, text out.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use retort_models::{EncoderInfo, Head};

use crate::devices::numbers_of;
use crate::engine::request::{ModelInfo, ModelKind, ModelState};
use crate::serve::Core;

/// Everything the report says.
pub struct Report {
    /// The ONNX Runtime.
    pub runtime: RuntimeFacts,
    /// Every model, failed ones included.
    pub models: Vec<ModelInfo>,
    /// The processor's own name.
    pub processor: String,
    /// Threads for inference.
    pub threads: usize,
    /// Why no GPU is used, where the choice was left to the program.
    pub why_cpu: Option<String>,
    /// The configuration file, if one was read.
    pub config: Option<PathBuf>,
    /// How many keys are accepted.
    pub keys: usize,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Which ONNX Runtime runs.
pub struct RuntimeFacts {
    /// Its version, asked of the loaded library.
    pub version: String,
    /// How it was found.
    pub origin: String,
    /// The library.
    pub path: PathBuf,
    /// How the libraries of CUDA were found, where they were loaded.
    pub cuda: Option<String>,
}

impl RuntimeFacts {
    /// The facts of the library that was loaded.
    pub fn of(core: &Core) -> Self {
        Self {
            version: core.runtime.version(),
            origin: core.library.origin.to_string(),
            path: core.library.path.clone(),
            cuda: core
                .library
                .cuda
                .as_ref()
                .map(|cuda| cuda.origin.to_string()),
        }
    }
}

/// The report, with a blank line before and after.
pub fn report(facts: &Report) -> String {
    let mut text = format!("\nRetort {}\n\n", env!("CARGO_PKG_VERSION"));
    let mut block = Block(&mut text);
    let RuntimeFacts {
        version,
        origin,
        path,
        cuda,
    } = &facts.runtime;
    let cuda = cuda
        .as_ref()
        .map(|origin| format!("libraries of CUDA 13 ({origin})"));
    let mut runtime = vec![
        format!("ONNX Runtime {version} ({origin})"),
        path.display().to_string(),
    ];
    runtime.extend(cuda);
    block.rows("runtime", &runtime);
    for model in &facts.models {
        block.rows("model", &model_lines(model));
    }
    block.rows("device", &devices(facts));
    if let Some(config) = &facts.config {
        block.rows("config", &[config.display().to_string()]);
    }
    let keys = match facts.keys {
        0 => "none needed".to_owned(),
        1 => "1 accepted".to_owned(),
        many => format!("{many} accepted"),
    };
    block.rows("keys", &[keys]);
    block.rows("address", &[base_url(facts.address)]);
    if let Some(curl) = curl(facts) {
        let _ = write!(text, "\nTry it:\n\n{curl}\n");
    }
    text.push('\n');
    text
}

/// The address at which this machine reaches the service, also when it listens on all of them.
pub fn base_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// Lines that begin with a label, which is not repeated.
struct Block<'a>(&'a mut String);

impl Block<'_> {
    fn rows(&mut self, label: &str, lines: &[String]) {
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            let _ = writeln!(self.0, "  {label:<9}{line}");
        }
    }
}

fn model_lines(model: &ModelInfo) -> Vec<String> {
    let id = model
        .aliases
        .iter()
        .find(|alias| alias.contains('/'))
        .unwrap_or(&model.name);
    match &model.state {
        ModelState::Failed(reason) => {
            // A reason may list what was tried, one line each.
            let mut lines = reason.lines().map(str::to_owned);
            let first = lines.next().unwrap_or_default();
            return std::iter::once(format!("{} did not load: {first}", model.name))
                .chain(lines)
                .collect();
        }
        ModelState::Loading => return vec![format!("{} is loading", model.name)],
        ModelState::Ready => {}
    }
    let revision = model
        .revision
        .as_deref()
        .map(|r| format!(", revision {}", short(r)));
    let source = format!("{id}, {}{}", model.origin, revision.unwrap_or_default());
    let Some(info) = &model.encoder else {
        return vec![model.name.clone(), source];
    };
    let pooling = info
        .pooling
        .map(|pooling| format!(", {} pooling", pooling.name()));
    let parameters = match info.parameters {
        0 => String::new(),
        count => format!(", {} parameters", rounded(count)),
    };
    let shape = format!(
        "{}, {}, at most {} tokens{}{parameters}",
        info.architecture,
        gives(info),
        info.max_tokens,
        pooling.unwrap_or_default(),
    );
    let types = format!(
        "{} weights, computed in {}{}{}",
        info.checkpoint_dtype,
        info.dtype,
        on_gpu(info),
        fidelity(info)
    );
    let mut lines = vec![model.name.clone(), source, shape, types];
    lines.extend(reading(info));
    lines
}

/// Where a model runs that is not on the processor.
fn on_gpu(info: &EncoderInfo) -> String {
    match is_on_gpu(info) {
        true => format!(" on {}", info.device),
        false => String::new(),
    }
}

fn is_on_gpu(info: &EncoderInfo) -> bool {
    !numbers_of(&info.device).is_empty()
}

/// How near the outputs are to those in 32-bit floating point, where it was measured.
fn fidelity(info: &EncoderInfo) -> String {
    let fidelity = &info.fidelity;
    let cosine = fidelity.cosine.map(|c| format!(", cosine {c:.5} to fp32"));
    let logits = fidelity.logit_difference;
    let logits = logits.map(|apart| format!(", logits within {apart:.4} of fp32"));
    [cosine, logits].into_iter().flatten().collect()
}

/// How a model reads its inputs and where its scores come from, if not in the usual way.
fn reading(info: &EncoderInfo) -> Option<String> {
    let layer = info
        .cutoff_layer
        .map(|layer| format!("scores of layer {layer}"));
    let template = info
        .pair_template
        .map(|_| match info.default_instruction() {
            Some(instruction) => format!("pairs in its template, told: {instruction}"),
            None => "pairs in its template".to_owned(),
        });
    let tasks = Some(info.tasks.join(", ")).filter(|tasks| !tasks.is_empty());
    let tasks = tasks.map(|tasks| format!("tasks {tasks}"));
    let all: Vec<String> = [layer, tasks, template].into_iter().flatten().collect();
    Some(all.join(", ")).filter(|line| !line.is_empty())
}

/// What a model gives: the length of its vectors, its other vectors, its labels.
fn gives(info: &EncoderInfo) -> String {
    let mut all = Vec::new();
    for head in info.heads.iter() {
        all.push(match head {
            Head::Dense => format!("{} dimensions", info.dimensions),
            Head::Sparse => "sparse vectors".to_owned(),
            Head::MultiVector => format!("vectors of {} per token", info.token_dimensions),
            Head::Score if info.labels == 1 => "reranker with 1 label".to_owned(),
            Head::Score => format!("classifier with {} labels", info.labels),
        });
    }
    all.join(", ")
}

/// Every device that a model runs on, and why that is no GPU.
fn devices(facts: &Report) -> Vec<String> {
    let running = facts.models.iter().filter_map(|m| m.encoder.as_ref());
    let (on_gpus, on_cpu): (Vec<&EncoderInfo>, Vec<_>) = running.partition(|info| is_on_gpu(info));
    let named = on_gpus.iter().map(|info| match &info.device_name {
        Some(name) => format!("{} ({name})", info.device),
        None => info.device.clone(),
    });
    let mut lines: Vec<String> = named.collect();
    lines.sort_unstable();
    lines.dedup();
    if !on_cpu.is_empty() {
        lines.push(processor(facts, &on_cpu));
    }
    if lines.is_empty() {
        lines.push("none, as no model is loaded".into());
    }
    lines.extend(facts.why_cpu.as_ref().map(|why| format!("no GPU: {why}")));
    lines
}

fn processor(facts: &Report, models: &[&EncoderInfo]) -> String {
    let device = models.first().map_or("cpu", |info| &info.device);
    // A model without matrix products needs none of the fast kernels, so models may differ.
    let mut sets: Vec<&str> = models.iter().map(|info| info.isa).collect();
    sets.sort_unstable();
    sets.dedup();
    let isa = match sets[..] {
        [] => String::new(),
        _ => format!(", {} kernels", sets.join(" and ")),
    };
    let threads = match facts.threads {
        1 => "1 thread".to_owned(),
        many => format!("{many} threads"),
    };
    let processor = Some(&facts.processor).filter(|name| !name.is_empty());
    let processor = processor
        .map(|name| format!(" ({name})"))
        .unwrap_or_default();
    format!("{device}{processor}{isa}, {threads}")
}

/// One request that can be copied into a shell. It names the key's variable, never the key.
fn curl(facts: &Report) -> Option<String> {
    let ready = facts
        .models
        .iter()
        .find(|model| model.state == ModelState::Ready)?;
    let name = serde_json::Value::from(ready.name.as_str());
    let (path, body) = match ready.kind() {
        Some(ModelKind::Reranker) => (
            "rerank",
            format!(r#"{{"model": {name}, "query": "Hello", "documents": ["Hello, world"]}}"#),
        ),
        Some(ModelKind::Classifier) => (
            "classify",
            format!(r#"{{"model": {name}, "input": "Hello, world"}}"#),
        ),
        Some(ModelKind::Generator) => (
            "completions",
            format!(r#"{{"model": {name}, "prompt": "Hello", "max_tokens": 16}}"#),
        ),
        Some(ModelKind::Embedding) | None => (
            "embeddings",
            format!(r#"{{"model": {name}, "input": "Hello, world"}}"#),
        ),
    };
    let url = base_url(facts.address);
    let key = match facts.keys {
        0 => "",
        _ => " -H \"Authorization: Bearer $RETORT_API_KEY\"",
    };
    // Inside single quotes a shell takes everything literally but the quote itself.
    let body = body.replace('\'', r"'\''");
    Some(format!(
        "  curl {url}/v1/{path}{key} \\\n    -H 'Content-Type: application/json' -d '{body}'"
    ))
}

/// A commit is told by its first letters; a tag or a version is shown in full.
fn short(revision: &str) -> &str {
    let is_commit = revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit());
    if is_commit { &revision[..12] } else { revision }
}

fn rounded(count: u64) -> String {
    let count = count as f64;
    match count {
        c if c >= 1e9 => format!("{:.1} billion", c / 1e9),
        c if c >= 1e6 => format!("{:.1} million", c / 1e6),
        c => format!("{c}"),
    }
}

#[cfg(test)]
mod tests;
