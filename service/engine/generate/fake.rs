//! A generator without a model behind the one seam: what it says is scripted, or follows from the
//! whole text before, which it reads back from the blocks it was given. A block that was mixed up
//! changes what it says.

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use retort_models::{
    DecoderInfo, DecoderWeights, Generate, GenerationDefaults, GeneratorInfo, GraphSource,
    Rounding, SequenceStep, SpecialTokens, StepLogits, Tokenizer,
};

use super::Parts;
use crate::{
    engine::{Engine, request::ModelInfo},
    telemetry::Telemetry,
};

/// `<|im_end|>` of the fake's tokenizer.
pub const END: u32 = 417;
/// A prompt with this token fails; no fake says it.
pub const POISON: u32 = 400;
/// A prompt with this token panics; no fake says it.
pub const PANIC: u32 = 401;

/// A prompt with this token ends the thread that computes it; no fake says it.
pub const BOMB: u32 = 402;

/// Panics where a panic that was caught is thrown away.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("asked to panic where nobody catches it");
    }
}

/// What a fake says.
#[derive(Debug, Clone)]
pub enum Rule {
    /// These tokens, one after another, then [`END`].
    Says(Vec<u32>),
    /// Whatever a hash of the whole text before says.
    Hashes,
}

/// One part of a step, as the fake saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The first token of the sequence, which tells it from others.
    pub first: u32,
    /// Tokens that were in the cache.
    pub past: usize,
    /// Tokens that were computed.
    pub tokens: usize,
}

/// The generator.
pub struct Fake {
    info: GeneratorInfo,
    rule: Rule,
    /// The token in each place of each block.
    stored: Vec<Option<u32>>,
    /// One message a step is needed to let it go on; `None` never waits.
    gate: Option<Receiver<()>>,
    seen: Sender<Vec<Seen>>,
}

/// How a fake is made.
#[derive(Debug, Clone)]
pub struct Shape {
    /// What it says.
    pub rule: Rule,
    /// Blocks of its cache, of four tokens each.
    pub kv_blocks: usize,
    /// The most tokens of a sequence.
    pub max_context: usize,
    /// Whether steps wait for a message.
    pub gate: Gate,
}

/// Whether steps wait for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// They do not.
    Open,
    /// They do.
    Shut,
}

/// What a test holds of a fake.
pub struct Hands {
    /// Lets one step go on.
    pub gate: Sender<()>,
    /// The steps that were begun.
    pub seen: Receiver<Vec<Seen>>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            rule: Rule::Hashes,
            kv_blocks: 256,
            max_context: 512,
            gate: Gate::Open,
        }
    }
}

/// The tokenizer of the fake: byte-level, with control tokens.
pub fn tokenizer() -> Arc<Tokenizer> {
    let checkpoint = "tests/golden/checkpoints/qwen3-tiny-lasttoken";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(checkpoint);
    Arc::new(Tokenizer::load(&path).unwrap())
}

/// The token ids of a text without control tokens.
pub fn ids(text: &str) -> Vec<u32> {
    let tokens = tokenizer().tokens(text, SpecialTokens::Skip).unwrap();
    tokens.into_iter().map(|token| token.id).collect()
}

/// What a pipeline needs, and what a test holds.
pub fn parts(name: &str, shape: Shape) -> (Parts, Hands) {
    let tokenizer = tokenizer();
    let info = GeneratorInfo {
        vocab_size: tokenizer.vocab_size(),
        max_context: shape.max_context,
        kv_blocks: shape.kv_blocks,
        kv_block_tokens: 4,
        max_step_tokens: 64,
    };
    let (gate, shut) = channel();
    let (sender, seen) = channel();
    let fake = Fake {
        info,
        rule: shape.rule,
        stored: vec![None; info.kv_blocks * info.kv_block_tokens],
        gate: (shape.gate == Gate::Shut).then_some(shut),
        seen: sender,
    };
    let parts = Parts {
        name: name.into(),
        info: decoder_info(&info),
        defaults: GenerationDefaults::default(),
        tokenizer,
        chat_template: None,
        generator: Box::new(fake),
        telemetry: Telemetry::new(),
    };
    (parts, Hands { gate, seen })
}

/// Registers and opens a model that says a text whatever it is asked.
pub fn serve_saying(engine: &Engine, name: &str, text: &str) {
    let shape = Shape {
        rule: Rule::Says(ids(text)),
        kv_blocks: 4096,
        max_context: 4096,
        gate: Gate::Open,
    };
    engine.register(ModelInfo::loading(name, vec![])).unwrap();
    engine.serve_generator(parts(name, shape).0).unwrap();
}

/// What a checkpoint would say about the fake model.
fn decoder_info(bounds: &GeneratorInfo) -> DecoderInfo {
    DecoderInfo {
        architecture: "fake".into(),
        vocab_size: bounds.vocab_size,
        max_context: bounds.max_context,
        eos_token_ids: vec![END],
        bos_token_id: None,
        layers: 1,
        kv_heads: 1,
        head_size: 1,
        parameters: 0,
        weights_bytes: 0,
        kv_bytes_per_token: 4,
        kv_blocks: bounds.kv_blocks,
        kv_block_tokens: bounds.kv_block_tokens,
        max_step_tokens: bounds.max_step_tokens,
        checkpoint_dtype: "float32".into(),
        weights: DecoderWeights::default(),
        rounding: Rounding::Nothing,
        device: "cpu".into(),
        source: GraphSource::Built,
        isa: "portable",
    }
}

impl Generate for Fake {
    fn info(&self) -> GeneratorInfo {
        self.info
    }

    fn step(&mut self, steps: &[SequenceStep<'_>]) -> retort_models::Result<StepLogits> {
        let tokens: usize = steps.iter().map(|step| step.input_ids.len()).sum();
        assert!(tokens <= self.info.max_step_tokens, "{tokens} tokens");
        for step in steps {
            for (at, &id) in (step.past..).zip(step.input_ids) {
                let place = self.place(step.blocks, at);
                self.stored[place] = Some(id);
            }
        }
        let seen = |step: &SequenceStep<'_>| Seen {
            first: self.stored[self.place(step.blocks, 0)].expect("it was written"),
            past: step.past,
            tokens: step.input_ids.len(),
        };
        self.seen.send(steps.iter().map(seen).collect()).ok();
        if let Some(gate) = &self.gate {
            // A test that is over lets everything go.
            gate.recv().ok();
        }
        // Tables have columns that mean nothing, and those are the likeliest here.
        let columns = self.info.vocab_size + 7;
        let mut values = Vec::new();
        for step in steps {
            if step.input_ids.contains(&POISON) {
                return Err(retort_models::Error::Runtime("poisoned".into()));
            }
            assert!(!step.input_ids.contains(&PANIC), "asked to panic");
            if step.input_ids.contains(&BOMB) {
                std::panic::panic_any(Bomb);
            }
            if step.wants_logits {
                let text = self.text(step);
                let mut row = self.logits(&text);
                row.resize(columns, 100.0);
                values.extend(row);
            }
        }
        Ok(StepLogits::new(values, columns, self.info.vocab_size))
    }
}

impl Fake {
    fn place(&self, blocks: &[u32], at: usize) -> usize {
        let block = blocks[at / self.info.kv_block_tokens] as usize;
        block * self.info.kv_block_tokens + at % self.info.kv_block_tokens
    }

    /// All tokens of a sequence, as its blocks have them.
    fn text(&self, step: &SequenceStep<'_>) -> Vec<u32> {
        let places = 0..step.past + step.input_ids.len();
        let token = |at| self.stored[self.place(step.blocks, at)].expect("it was written");
        places.map(token).collect()
    }

    fn logits(&self, text: &[u32]) -> Vec<f32> {
        match &self.rule {
            Rule::Says(script) => {
                // As much of the script as the text ends with has been said.
                let said = (0..=script.len()).rev();
                let said = said.into_iter().find(|&n| text.ends_with(&script[..n]));
                let next = script.get(said.unwrap_or(0)).copied().unwrap_or(END);
                let mut logits = vec![0.0; self.info.vocab_size];
                logits[next as usize] = 30.0;
                logits
            }
            Rule::Hashes => {
                let hash = text.iter().fold(17u64, |hash, &id| {
                    (hash ^ u64::from(id))
                        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                        .rotate_left(29)
                });
                let logit = |id: u64| {
                    let bits = (hash ^ id.wrapping_mul(0xD6E8_FEB8_6659_FD93))
                        .wrapping_mul(0xBF58_476D_1CE4_E5B9);
                    (bits >> 40) as f32 / (1u32 << 24) as f32 * 6.0
                };
                let mut logits: Vec<f32> = (0..self.info.vocab_size as u64).map(logit).collect();
                // It never ends, so that tests decide how long answers are.
                for id in [END, POISON, PANIC, BOMB] {
                    logits[id as usize] = -30.0;
                }
                logits
            }
        }
    }
}
