//! A finished `.onnx` file that continues texts: it takes the keys and values of earlier tokens and
//! gives them back with the new ones, as optimum and transformers.js export it
//! (`past_key_values.0.key`) or onnxruntime-genai does for GPT-2 (`past_0`). One sequence per run.

use std::path::Path;

use ort::session::SessionInputValue;
use ort::value::{DynValue, Tensor, TensorElementType};

use super::outputs::extract;
use super::{Family, GivenModel};
use crate::decoder::generate::{Generate, GeneratorInfo, SequenceStep, StepLogits};
use crate::error::{Error, Result};
use crate::runtime::Runtime;
use crate::session::LoadedSession;

/// A graph that continues texts, ready to be opened any number of times.
pub(crate) struct GivenDecoder {
    model: GivenModel,
    layout: Layout,
}

/// What a graph takes and gives.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    inputs: Vec<Input>,
    /// Layers, each with keys and values.
    pub(crate) layers: usize,
    /// Heads of keys and values.
    pub(crate) kv_heads: usize,
    /// Values per head.
    pub(crate) head_size: usize,
    /// Columns of the logits.
    pub(crate) columns: usize,
    // Keys and values of a layer are one tensor.
    is_stacked: bool,
    is_half: bool,
}

/// An input, in the order of the graph.
#[derive(Debug, Clone)]
struct Input {
    name: String,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Integers(Integers, TensorElementType),
    // The layer; its keys (0), its values (1).
    Past(usize, usize),
    // Both, of this layer.
    Stacked(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Integers {
    Ids,
    Mask,
    Positions,
}

impl GivenDecoder {
    /// Reads the file and sees what it takes.
    ///
    /// # Errors
    /// `Error::Checkpoint` names an input that is unknown or what is missing.
    pub(crate) fn open(file: &Path, runtime: &Runtime) -> Result<Self> {
        let model = GivenModel::open(file, runtime, Family::default())?;
        let session = model.session(1)?;
        let layout = Layout::find(&session).map_err(|error| model.named(error))?;
        Ok(Self { model, layout })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Size of the file and of the files it refers to.
    pub(crate) fn bytes(&self) -> u64 {
        self.model.bytes()
    }

    /// Makes a generator with keys and values of its own.
    pub(crate) fn generator(
        &self,
        threads: usize,
        bounds: GeneratorInfo,
    ) -> Result<Box<dyn Generate>> {
        Ok(Box::new(GivenGenerator {
            session: self.model.session(threads)?,
            pool: Pool::new(&self.layout, bounds),
            layout: self.layout.clone(),
            bounds,
        }))
    }
}

impl Layout {
    fn find(session: &LoadedSession) -> Result<Self> {
        let mut inputs = Vec::new();
        let (mut layers, mut heads, mut is_half) = (0, None, false);
        for input in session.inputs() {
            let name = input.name();
            let refuse = |what: &str| Error::Unsupported(format!("input `{name}` {what}"));
            let role = role(name).ok_or_else(|| refuse("is none of a known decoder's"))?;
            let element = input.dtype().tensor_type();
            let shape = input.dtype().tensor_shape().map(|shape| shape.to_vec());
            let role = match (role, element) {
                (Role::Integers(meaning, _), Some(element)) => match element {
                    TensorElementType::Int32 | TensorElementType::Int64 => {
                        Role::Integers(meaning, element)
                    }
                    _ => return Err(refuse("is no tensor of integers")),
                },
                (past, element) => {
                    is_half = match element {
                        Some(TensorElementType::Float32) => false,
                        Some(TensorElementType::Float16) => true,
                        _ => return Err(refuse("is no tensor of 32- or 16-bit numbers")),
                    };
                    let shape = shape.unwrap_or_default();
                    // The last axes are heads, tokens and the values of a head.
                    let sizes = shape.iter().rev().step_by(2).take(2).copied();
                    match sizes.map(usize::try_from).collect::<Vec<_>>()[..] {
                        [Ok(size), Ok(count)] if size > 0 && count > 0 => {
                            heads = Some([count, size]);
                        }
                        _ => return Err(refuse("does not say how many heads there are")),
                    }
                    let (Role::Past(layer, _) | Role::Stacked(layer)) = past else {
                        return Err(refuse("is none of a known decoder's"));
                    };
                    layers = layers.max(layer + 1);
                    past
                }
            };
            inputs.push(Input {
                name: name.to_owned(),
                role,
            });
        }
        let Some([kv_heads, head_size]) = heads else {
            return Err(Error::Unsupported(
                "takes no keys and values of earlier tokens; export the graph with its cache"
                    .to_owned(),
            ));
        };
        let is_stacked = inputs
            .iter()
            .any(|input| matches!(input.role, Role::Stacked(_)));
        let found = Self {
            columns: logit_columns(session)?,
            inputs,
            layers,
            kv_heads,
            head_size,
            is_stacked,
            is_half,
        };
        found.check(session)?;
        Ok(found)
    }

    /// Memory that the keys and values of one token take here.
    pub(crate) fn kv_bytes_per_token(&self) -> u64 {
        (2 * self.layers * self.kv_heads * self.head_size * size_of::<f32>()) as u64
    }

    /// Type of the keys and values, and most often of everything else.
    pub(crate) fn dtype(&self) -> &'static str {
        if self.is_half { "float16" } else { "float32" }
    }

    /// What is taken must be given back.
    fn check(&self, session: &LoadedSession) -> Result<()> {
        let missing = (0..self.layers).flat_map(|layer| {
            let parts = if self.is_stacked { 1 } else { 2 };
            (0..parts).map(move |part| self.present(layer, part))
        });
        let mut missing =
            missing.filter(|name| session.outputs().iter().all(|output| output.name() != name));
        match missing.next() {
            None => Ok(()),
            Some(name) => Err(Error::Unsupported(format!("has no output `{name}`"))),
        }
    }

    /// The output with the keys (0) and the values (1) of a layer.
    fn present(&self, layer: usize, part: usize) -> String {
        match (self.is_stacked, part) {
            (true, _) => format!("present_{layer}"),
            (false, 0) => format!("present.{layer}.key"),
            (false, _) => format!("present.{layer}.value"),
        }
    }
}

fn role(name: &str) -> Option<Role> {
    let integers = |meaning| Some(Role::Integers(meaning, TensorElementType::Int64));
    match name {
        "input_ids" => return integers(Integers::Ids),
        "attention_mask" => return integers(Integers::Mask),
        "position_ids" => return integers(Integers::Positions),
        _ => {}
    }
    // No model has more layers than a thousand.
    let layer = |text: &str| text.parse::<usize>().ok().filter(|&layer| layer < 1000);
    if let Some(number) = name.strip_prefix("past_key_values.") {
        let (number, part) = number.split_once('.')?;
        let part = ["key", "value"].iter().position(|known| *known == part)?;
        return Some(Role::Past(layer(number)?, part));
    }
    Some(Role::Stacked(layer(name.strip_prefix("past_")?)?))
}

fn logit_columns(session: &LoadedSession) -> Result<usize> {
    let logits = session
        .outputs()
        .iter()
        .find(|output| output.name() == "logits");
    let shape = logits.and_then(|output| output.dtype().tensor_shape());
    let columns = shape.and_then(|shape| shape.last().copied());
    match columns.map(usize::try_from) {
        Some(Ok(columns)) if columns > 0 => Ok(columns),
        _ => Err(Error::Unsupported(
            "has no output `logits` of known width".to_owned(),
        )),
    }
}

/// Keys and values in blocks, so that sequences share them as those of a built graph do.
struct Pool {
    // `[layers * 2]` of `[blocks, heads, block tokens, head size]`
    parts: Vec<Vec<f32>>,
    heads: usize,
    head_size: usize,
    block_tokens: usize,
}

impl Pool {
    fn new(layout: &Layout, bounds: GeneratorInfo) -> Self {
        let block = layout.kv_heads * layout.head_size * bounds.kv_block_tokens;
        Self {
            parts: vec![vec![0.0; bounds.kv_blocks * block]; layout.layers * 2],
            heads: layout.kv_heads,
            head_size: layout.head_size,
            block_tokens: bounds.kv_block_tokens,
        }
    }

    /// Where the values of one head of one token are.
    fn place(&self, blocks: &[u32], head: usize, token: usize) -> usize {
        let block = blocks[token / self.block_tokens] as usize;
        let slot = token % self.block_tokens;
        ((block * self.heads + head) * self.block_tokens + slot) * self.head_size
    }

    /// Appends the first tokens of a sequence. // [heads, tokens, head size]
    fn gather(&self, part: usize, (blocks, tokens): (&[u32], usize), out: &mut Vec<f32>) {
        for head in 0..self.heads {
            for token in 0..tokens {
                let at = self.place(blocks, head, token);
                out.extend_from_slice(&self.parts[part][at..at + self.head_size]);
            }
        }
    }

    /// Keeps the tokens from `first` on of what a run gave. // [heads, tokens, head size]
    fn scatter(&mut self, part: usize, (blocks, first): (&[u32], usize), values: &[f32]) {
        let tokens = values.len() / (self.heads * self.head_size);
        for head in 0..self.heads {
            for token in first..tokens {
                let from = (head * tokens + token) * self.head_size;
                let at = self.place(blocks, head, token);
                self.parts[part][at..at + self.head_size]
                    .copy_from_slice(&values[from..from + self.head_size]);
            }
        }
    }
}

struct GivenGenerator {
    session: LoadedSession,
    layout: Layout,
    pool: Pool,
    bounds: GeneratorInfo,
}

impl Generate for GivenGenerator {
    fn info(&self) -> GeneratorInfo {
        self.bounds
    }

    fn step(&mut self, steps: &[SequenceStep<'_>]) -> Result<StepLogits> {
        self.bounds.check(steps, self.layout.columns)?;
        let mut logits = Vec::new();
        for step in steps {
            self.run(step, &mut logits)?;
        }
        let vocab_size = self.bounds.vocab_size;
        Ok(StepLogits::new(logits, self.layout.columns, vocab_size))
    }
}

impl GivenGenerator {
    /// Runs one sequence and appends its logits where they are wanted.
    fn run(&mut self, step: &SequenceStep<'_>, logits: &mut Vec<f32>) -> Result<()> {
        let mut inputs = Vec::with_capacity(self.layout.inputs.len());
        for input in &self.layout.inputs {
            let value = self.value(input.role, step)?;
            inputs.push((input.name.as_str().into(), SessionInputValue::from(value)));
        }
        let results = self.session.run(inputs)?;
        let malformed = |name: &str| Error::Runtime(format!("the graph gave no good `{name}`"));
        let tokens = step.past + step.input_ids.len();
        let part_values = self.layout.kv_heads * self.layout.head_size * tokens;
        for layer in 0..self.layout.layers {
            for part in 0..2 {
                let name = self.layout.present(layer, part);
                let value = results.get(&name).ok_or_else(|| malformed(&name))?;
                let (_, values) = extract(value)?;
                let first = if self.layout.is_stacked {
                    part * part_values
                } else {
                    0
                };
                let values = values.get(first..first + part_values);
                let values = values.ok_or_else(|| malformed(&name))?;
                let place = (step.blocks, step.past);
                self.pool.scatter(layer * 2 + part, place, values);
            }
        }
        if step.wants_logits {
            let value = results.get("logits").ok_or_else(|| malformed("logits"))?;
            let (_, values) = extract(value)?;
            let last = values.len().checked_sub(self.layout.columns);
            let last = last.ok_or_else(|| malformed("logits"))?;
            logits.extend_from_slice(&values[last..]);
        }
        Ok(())
    }

    fn value(&self, role: Role, step: &SequenceStep<'_>) -> Result<DynValue> {
        let end = step.past + step.input_ids.len();
        let (heads, size) = (self.layout.kv_heads as i64, self.layout.head_size as i64);
        let past = (step.blocks, step.past);
        let mut values = Vec::new();
        let shape = match role {
            Role::Integers(meaning, element) => {
                let numbers: Vec<i64> = match meaning {
                    Integers::Ids => step.input_ids.iter().map(|&id| i64::from(id)).collect(),
                    Integers::Mask => vec![1; end],
                    Integers::Positions => (step.past as i64..end as i64).collect(),
                };
                let shape = vec![1, numbers.len() as i64];
                if element == TensorElementType::Int32 {
                    let numbers: Vec<i32> = numbers.iter().map(|&n| n as i32).collect();
                    return Ok(Tensor::from_array((shape, numbers))?.into_dyn());
                }
                return Ok(Tensor::from_array((shape, numbers))?.into_dyn());
            }
            Role::Past(layer, part) => {
                self.pool.gather(layer * 2 + part, past, &mut values);
                vec![1, heads, step.past as i64, size]
            }
            Role::Stacked(layer) => {
                self.pool.gather(layer * 2, past, &mut values);
                self.pool.gather(layer * 2 + 1, past, &mut values);
                vec![2, 1, heads, step.past as i64, size]
            }
        };
        if self.layout.is_half {
            let halves: Vec<half::f16> = values.iter().map(|&v| half::f16::from_f32(v)).collect();
            return Ok(Tensor::from_array((shape, halves))?.into_dyn());
        }
        Ok(Tensor::from_array((shape, values))?.into_dyn())
    }
}
