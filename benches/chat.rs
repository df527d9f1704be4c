//! Chat with a model of the size that people run beside retrieval: Qwen2.5-0.5B with random
//! weights. What prompts and answers cost, as a share of what the memory could deliver in the same
//! run; how long the first token takes over HTTP; and what chat costs embeddings beside it.

mod checkpoint;
mod service;

use std::{hint::black_box, path::Path, thread, time::Instant};

use retort_models::{
    BlockPool, DecoderModel, DecoderOptions, DecoderWeights, Generate, RoundedStore, SequenceStep,
};

use crate::{
    measure::{Outcome, Table, Targets, median, processor},
    subject::Subject,
};

/// Tokens of the prompt of a lone sequence, and of all prompts of several together.
const PROMPT_TOKENS: usize = 512;
/// Sequences at the same time.
const BATCHES: [usize; 2] = [1, 8];
/// Tokens that each writes.
const ANSWER_TOKENS: usize = 24;
const ROUNDS: usize = 3;
/// Larger than any cache of a processor.
const STREAMED_BYTES: usize = 1 << 30;
const WEIGHTS: [DecoderWeights; 2] = [DecoderWeights::Int8, DecoderWeights::Int4];

/// The model by itself in both kinds of weights, then the service.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let folder = checkpoint::folder()?;
    let mut table = Table::new(
        format!(
            "### Qwen2.5-0.5B's sizes, random weights, {} cores, prompts of {PROMPT_TOKENS} tokens \
             in all",
            processor::cores()
        ),
        &[
            "weights",
            "sequences",
            "prefill tokens/s",
            "decode tokens/s",
            "GiB read a step",
            "GiB/s",
            "of the memory's",
        ],
    );
    for weights in WEIGHTS {
        let model = load(&folder, weights, subject)?;
        for sequences in BATCHES {
            let mut bandwidth = Vec::new();
            let mut runs = Vec::new();
            for _ in 0..ROUNDS {
                // In turn, so that both meet the same machine.
                bandwidth.push(streamed_per_second());
                runs.push(measure(&model, sequences)?);
            }
            let of = |part: fn(&Run) -> f64| median(&runs.iter().map(part).collect::<Vec<_>>());
            let (prefill, decode) = (of(|run| run.prefill), of(|run| run.decode));
            let step = checkpoint::bytes_a_step(weights, sequences, PROMPT_TOKENS);
            let read = step * decode / sequences as f64;
            table.row(
                weights.name(),
                [
                    sequences.to_string(),
                    format!("{prefill:.0}"),
                    format!("{decode:.1}"),
                    format!("{:.2}", step / GIBIBYTE),
                    format!("{:.1}", read / GIBIBYTE),
                    format!("{:.0} %", 100.0 * read / median(&bandwidth)),
                ],
            );
        }
    }
    table.print();
    service::run(subject, &folder, targets)
}

const GIBIBYTE: f64 = (1 << 30) as f64;

fn load(folder: &Path, weights: DecoderWeights, subject: &Subject) -> Outcome<DecoderModel> {
    let options = DecoderOptions {
        weights,
        kv_cache_bytes: Some(256 << 20),
        rounded: Some(RoundedStore {
            dir: folder.with_file_name("rounded"),
            max_bytes: 4 << 30,
        }),
        ..DecoderOptions::new(subject.runtime.clone())
    };
    let started = Instant::now();
    let model = DecoderModel::load(folder, &options)?;
    println!(
        "{weights}: loaded in {:.1} s ({:?})",
        started.elapsed().as_secs_f64(),
        model.info().rounding
    );
    Ok(model)
}

/// What one run gave, in tokens a second over all sequences.
struct Run {
    prefill: f64,
    decode: f64,
}

/// Prompts in one step, then one token for each sequence a step.
fn measure(model: &DecoderModel, sequences: usize) -> Outcome<Run> {
    let mut generator = model.generator(processor::cores())?;
    let info = generator.info();
    let mut pool = BlockPool::new(info.kv_blocks, info.kv_block_tokens);
    let prompt = PROMPT_TOKENS / sequences;
    let blocks = pool.blocks_for(prompt + ANSWER_TOKENS + 1);
    let mut texts: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
    for sequence in 0..sequences as u32 {
        let ids = (0..prompt as u32).map(|at| 7 + (sequence * 977 + at * 31) % 150_000);
        let blocks = pool.allocate(blocks).ok_or("the cache is too small")?;
        texts.push((ids.collect(), blocks));
    }
    // The first step of a session makes buffers that all others find.
    step(&mut *generator, &mut texts.clone(), 0)?;
    let started = Instant::now();
    step(&mut *generator, &mut texts, 0)?;
    let prefill = PROMPT_TOKENS as f64 / started.elapsed().as_secs_f64();
    step(&mut *generator, &mut texts, prompt)?;
    let started = Instant::now();
    for past in prompt + 1..prompt + ANSWER_TOKENS {
        step(&mut *generator, &mut texts, past)?;
    }
    let tokens = (ANSWER_TOKENS - 1) * sequences;
    let decode = tokens as f64 / started.elapsed().as_secs_f64();
    Ok(Run { prefill, decode })
}

/// Runs what is behind `past` of every text, and appends the likeliest token to each.
fn step(generator: &mut dyn Generate, texts: &mut [(Vec<u32>, Vec<u32>)], past: usize) -> Outcome {
    let steps: Vec<SequenceStep<'_>> = texts
        .iter()
        .map(|(ids, blocks)| SequenceStep {
            input_ids: &ids[past..],
            past,
            blocks,
            wants_logits: true,
        })
        .collect();
    let logits = generator.step(&steps)?;
    for (row, (ids, _)) in texts.iter_mut().enumerate() {
        let row = logits.row(row).iter().enumerate();
        let likeliest = row.max_by(|(_, a), (_, b)| a.total_cmp(b));
        let (id, _) = likeliest.ok_or("no logits")?;
        ids.push(u32::try_from(id)?);
    }
    Ok(())
}

/// Bytes a second that all cores together read of a long array: what a lone answer is bounded by.
fn streamed_per_second() -> f64 {
    let array = vec![1_u64; STREAMED_BYTES / size_of::<u64>()];
    let share = array.len().div_ceil(processor::cores());
    let started = Instant::now();
    thread::scope(|scope| {
        for part in array.chunks(share) {
            scope.spawn(move || {
                let mut sums = [0_u64; 8];
                for eight in part.chunks_exact(8) {
                    for (sum, value) in sums.iter_mut().zip(eight) {
                        *sum = sum.wrapping_add(*value);
                    }
                }
                black_box(sums)
            });
        }
    });
    STREAMED_BYTES as f64 / started.elapsed().as_secs_f64()
}
