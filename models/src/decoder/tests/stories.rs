//! stories260K of llama2.c, converted to a checkpoint here, continues as its authors published.
//! Needs `../shared/data`, which is not part of the project; says so and steps aside without it.

#[path = "../../../../tests/support/stories.rs"]
mod convert;

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

use super::*;
use crate::checkpoint::json as files;
use crate::given::tests::runtime;
use crate::graph::weight_only::Bits;
use crate::quantize::tests::rounded;
use crate::tokenizer::{SpecialTokens, Truncation, TruncationSide};

const BOS: u32 = 1;
/// The published text has so many tokens after the first.
const STEPS: usize = 200;

pub(super) fn shared(path: &str) -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let path = data.join(path);
    if !path.exists() {
        println!("stepping aside: no `{}`", path.display());
        return None;
    }
    Some(path)
}

/// The checkpoint, and the text that its authors published.
struct Stories {
    dir: tempfile::TempDir,
    runtime: Runtime,
    text: String,
}

impl Stories {
    fn open() -> Option<Self> {
        let runtime = runtime()?;
        let weights = shared("models/stories260K/stories260K.bin")?;
        let pieces = shared("models/stories260K/tok512.bin")?;
        let outputs = files::read(&shared("reference-outputs.json")?).unwrap();
        let is_ours = |output: &&Value| output["model"] == "karpathy/tinyllamas stories260K";
        let text = outputs.as_array().unwrap().iter().find(is_ours).unwrap()["values"].clone();
        let dir = tempfile::tempdir().unwrap();
        convert::write_checkpoint(&weights, &pieces, dir.path());
        Some(Self {
            dir,
            runtime,
            text: text.as_str().unwrap().to_owned(),
        })
    }

    fn model(&self, weights: DecoderWeights) -> DecoderModel {
        let options = DecoderOptions {
            kv_cache_bytes: Some(8 << 20),
            weights,
            ..DecoderOptions::new(self.runtime.clone())
        };
        DecoderModel::load(self.dir.path(), &options).unwrap()
    }
}

fn pool(model: &DecoderModel) -> BlockPool {
    BlockPool::new(model.info().kv_blocks, model.info().kv_block_tokens)
}

/// The text that a model makes of a prompt when nothing else is run.
fn alone(model: &DecoderModel, prompt: &[u32]) -> Running {
    let mut texts = [Running::new(prompt)];
    let (mut generator, mut pool) = (model.generator(1).unwrap(), pool(model));
    continue_greedily(&mut *generator, &mut pool, (&mut texts, 512), STEPS + 1);
    texts[0].clone()
}

fn decoded(model: &DecoderModel, ids: &[u32]) -> String {
    model.tokenizer().decode(ids, SpecialTokens::Skip).unwrap()
}

#[test]
fn the_published_story_is_told() {
    let Some(stories) = Stories::open() else {
        return;
    };
    let model = stories.model(DecoderWeights::Fp32);
    let info = model.info();
    assert_eq!((info.vocab_size, info.max_context), (512, 512));
    assert_eq!(
        (&info.eos_token_ids[..], info.bos_token_id),
        (&[2][..], Some(BOS))
    );
    assert_eq!((info.layers, info.kv_heads, info.head_size), (5, 4, 8));
    // The tables of angles in llama2.c's file are no parameters.
    assert_eq!(info.parameters, 260_032);
    let told = alone(&model, &[BOS]);
    assert_eq!(decoded(&model, &told.ids), stories.text);
    // The same by single tokens, on two threads.
    let mut texts = [Running::new(&told.ids[..60])];
    let (mut generator, mut pool) = (model.generator(2).unwrap(), pool(&model));
    continue_greedily(&mut *generator, &mut pool, (&mut texts, 1), STEPS + 1);
    assert_eq!(texts[0].ids, told.ids);
}

#[test]
fn eight_stories_at_once_are_what_each_is_alone() {
    let Some(stories) = Stories::open() else {
        return;
    };
    let truncation = Truncation {
        max_tokens: 64,
        side: TruncationSide::Refuse,
    };
    for weights in DecoderWeights::ALL {
        let model = stories.model(weights);
        let mut prompts = vec![vec![BOS]];
        for text in [
            "Once upon a time",
            "Lily and her dog",
            "The sun was",
            "One day, a big red ball rolled down the hill and into the lake",
            "Tom",
            "\"I want to play,\" said the cat. The bird",
            "It was a cold day. Mom made a",
        ] {
            let encoding = model.tokenizer().encode(text, truncation).unwrap();
            prompts.push(encoding.input_ids);
        }
        assert!(prompts.iter().all(|ids| ids[0] == BOS && !ids.contains(&0)));
        let expected: Vec<Running> = prompts.iter().map(|ids| alone(&model, ids)).collect();
        for chunk in [512, 3] {
            let mut texts: Vec<Running> = prompts.iter().map(|ids| Running::new(ids)).collect();
            let (mut generator, mut pool) = (model.generator(2).unwrap(), pool(&model));
            continue_greedily(&mut *generator, &mut pool, (&mut texts, chunk), STEPS + 1);
            for (text, expected) in texts.iter().zip(&expected) {
                let told = decoded(&model, &expected.ids);
                assert_eq!(text.ids, expected.ids, "{weights}: {told}");
            }
        }
        if weights == DecoderWeights::Fp32 {
            assert_eq!(decoded(&model, &expected[0].ids), stories.text);
        }
    }
}

#[test]
fn a_known_beginning_need_not_be_run_again() {
    let Some(stories) = Stories::open() else {
        return;
    };
    let model = stories.model(DecoderWeights::Fp32);
    let (mut generator, mut pool) = (model.generator(1).unwrap(), pool(&model));
    let mut texts = [Running::new(&[BOS])];
    continue_greedily(&mut *generator, &mut pool, (&mut texts, 512), STEPS + 1);
    let [told] = texts;
    pool.remember_prefix([0; 32], &told.ids[..told.done], &told.blocks);
    let mut again = Vec::new();
    for length in [150, 100] {
        let mut text = Running::new(&told.ids[..length]);
        (text.blocks, text.done) = pool.find_prefix([0; 32], &text.ids);
        assert_eq!(text.done, (length - 1) / 16 * 16);
        again.push(text);
    }
    // Another's tokens in the same places, so that what is found must not be written over.
    again.push(Running::new(&[&told.ids[..1], &told.ids[20..60]].concat()));
    continue_greedily(&mut *generator, &mut pool, (&mut again, 512), STEPS + 1);
    assert_eq!(again[0].ids, told.ids);
    assert_eq!(again[1].ids, told.ids);
    assert_ne!(again[2].ids, told.ids);
}

/// The same checkpoint with its matrices rounded, in 32 bits, and a table of its own for logits.
fn rounded_checkpoint(stories: &Stories, bits: Bits) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(stories.dir.path().join(name), dir.path().join(name)).unwrap();
    }
    let config = files::read(&dir.path().join("config.json")).unwrap();
    let mut config = config.as_object().unwrap().clone();
    config.insert("tie_word_embeddings".to_owned(), json!(false));
    std::fs::write(dir.path().join("config.json"), json!(config).to_string()).unwrap();
    let weights = Weights::open(stories.dir.path()).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for name in weights.names() {
        let tensor = weights.get(name).unwrap();
        let values = tensor.to_f32().unwrap();
        let shape = tensor.shape().to_vec();
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let kept = match (name, &shape[..]) {
            ("model.embed_tokens.weight", &[_, width]) => {
                let head = rounded(values.as_slice(), width, Bits::Eight);
                tensors.push(("lm_head.weight".to_owned(), shape.clone(), bytes(&head)));
                bytes(values.as_slice())
            }
            (_, &[_, width]) => bytes(&rounded(values.as_slice(), width, bits)),
            _ => bytes(values.as_slice()),
        };
        tensors.push((name.to_owned(), shape, kept));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.unwrap())
    });
    let file = serialize(views, None).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
    dir
}

#[test]
fn few_bits_are_the_rounded_numbers() {
    let Some(stories) = Stories::open() else {
        return;
    };
    let told = alone(&stories.model(DecoderWeights::Fp32), &[BOS]);
    for (weights, bits) in [
        (DecoderWeights::Int8, Bits::Eight),
        (DecoderWeights::Int4, Bits::Four),
    ] {
        let dir = rounded_checkpoint(&stories, bits);
        let options = DecoderOptions::new(stories.runtime.clone());
        let rounded = DecoderModel::load(dir.path(), &options).unwrap();
        let model = stories.model(weights);
        assert_eq!(model.info().parameters, 260_032);
        let mut generators = [&rounded, &model].map(|model| model.generator(1).unwrap());
        let blocks: Vec<u32> = (0..16).collect();
        let (mut worst, mut same) = (1.0_f32, 0);
        for past in 0..STEPS {
            let step = SequenceStep {
                input_ids: &told.ids[past..=past],
                past,
                blocks: &blocks,
                wants_logits: true,
            };
            let [a, b] = generators
                .each_mut()
                .map(|generator| generator.step(&[step]).unwrap());
            let (a, b) = (a.row(0), b.row(0));
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            worst = worst.min(dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
            same += usize::from(likeliest(a) == likeliest(b));
        }
        println!("{weights}: cosine at least {worst}, {same} of {STEPS} tokens the same");
        // What is left between them is that activations are rounded to 8 bits.
        assert!(
            worst >= 0.995 && same >= STEPS * 19 / 20,
            "{weights}: {worst}, {same}"
        );
    }
}

#[test]
fn steps_that_do_not_fit_are_refused() {
    let Some(stories) = Stories::open() else {
        return;
    };
    let model = stories.model(DecoderWeights::Fp32);
    let mut generator = model.generator(1).unwrap();
    assert_eq!(generator.info(), model.info().bounds());
    let good = SequenceStep {
        input_ids: &[1, 5],
        past: 15,
        blocks: &[0, 1],
        wants_logits: false,
    };
    let long = [5; 513];
    let many: Vec<u32> = (0..40).collect();
    let nowhere = [model.info().kv_blocks as u32];
    let cases = [
        (
            SequenceStep {
                input_ids: &[],
                ..good
            },
            "no tokens",
        ),
        (
            SequenceStep {
                input_ids: &[512],
                ..good
            },
            "`512` is outside",
        ),
        (
            SequenceStep {
                blocks: &[0],
                ..good
            },
            "blocks for `16`",
        ),
        (
            SequenceStep {
                past: 0,
                blocks: &nowhere,
                ..good
            },
            "holds block",
        ),
        (
            SequenceStep {
                past: usize::MAX,
                ..good
            },
            "limit of 512",
        ),
        (
            SequenceStep {
                past: 511,
                blocks: &many,
                ..good
            },
            "513 tokens, more than the limit of 512",
        ),
        (
            SequenceStep {
                input_ids: &long,
                blocks: &many,
                ..good
            },
            "a step of `513`",
        ),
    ];
    for (step, words) in cases {
        let error = generator.step(&[step]).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let error = generator.step(&[good, good]).unwrap_err().to_string();
    assert!(error.contains("would write to block `0`"), "{error}");
    assert_eq!(generator.step(&[good]).unwrap().rows(), 0);
    assert_eq!(generator.step(&[]).unwrap().rows(), 0);
}
