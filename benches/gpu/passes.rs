//! Forward passes without a service around them: tokens per second at each length and on a natural
//! mix, packed and padded, for one output and for all, and how long reranking takes.

use std::{sync::Arc, time::Instant};

use retort_models::{Batch, Encode, Encoding, Head, Heads};
use serde_json::Value;

use super::{
    options::{Machine, Options},
    row,
};
use crate::measure::{Outcome, median};

/// Runs before anything counts: memory is allocated, kernels are chosen.
const WARM_UPS: usize = 3;

/// What is measured with.
struct Bench {
    encoder: Box<dyn Encode>,
    heads: Heads,
    vocabulary: usize,
    batch_tokens: usize,
    seconds: f64,
}

/// Measures the model of `--model` for `--seconds` each, in batches of `--batch-tokens`.
pub fn run(options: &Options) -> Outcome<Vec<Value>> {
    let machine = Machine::new(options)?;
    let model = machine.load(options.path("model")?, machine.half())?;
    let info = model.info();
    let label = options.or("label", "packed".to_owned())?;
    let mut bench = Bench {
        encoder: model.encoder(1)?,
        heads: info.heads,
        vocabulary: info.vocab_size,
        batch_tokens: options.or("batch-tokens", 16_384)?,
        seconds: options.or("seconds", 1.5)?,
    };
    let longest = info.max_tokens.min(options.or("longest", 8192)?);
    let what = options.or("what", "all".to_owned())?;
    let mut rows = vec![];
    if info.heads.contains(Head::Score) {
        rows.push(bench.rerank(&label, longest)?);
        return Ok(rows);
    }
    if what == "all" {
        for length in [32, 128, 512, 2048, 8192]
            .into_iter()
            .filter(|&l| l <= longest)
        {
            let lengths = vec![length; (bench.batch_tokens / length).max(1)];
            let rate = bench.rate(&[lengths], Heads::DENSE)?;
            rows.push(row(format!("{label} {length} tokens"), rate, "tokens/s"));
            if bench.heads != Heads::DENSE && length == 512 {
                let lengths = vec![length; (bench.batch_tokens / length).max(1)];
                let all = bench.rate(&[lengths], bench.heads)?;
                rows.push(row(
                    format!("{label} 512 tokens, all outputs"),
                    all,
                    "tokens/s",
                ));
                rows.push(row("cost of all outputs over dense alone", rate / all, "×"));
                if info.compares {
                    rows.extend(bench.late_interaction(&label, length)?);
                }
            }
        }
    }
    let mix = clamped(options, longest)?;
    let packed = bench.rate(&bench.batches(&mix), Heads::DENSE)?;
    rows.push(row(format!("{label} natural mix"), packed, "tokens/s"));
    if what == "all" {
        let padded = bench.padded(&mix)?;
        let name = "padded to the longest of a batch, the same graph, natural mix";
        rows.push(row(name, padded, "tokens/s"));
        rows.push(row("packed over padded, natural mix", packed / padded, "×"));
    }
    Ok(rows)
}

fn clamped(options: &Options, longest: usize) -> Outcome<Vec<usize>> {
    let mix = options.mix()?.into_iter();
    Ok(mix.map(|length| length.min(longest)).collect())
}

impl Bench {
    /// Texts in the order in which they came, as many together as fit.
    fn batches(&self, lengths: &[usize]) -> Vec<Vec<usize>> {
        let mut batches: Vec<Vec<usize>> = vec![vec![]];
        let mut tokens = 0;
        for &length in lengths {
            if tokens + length > self.batch_tokens && tokens > 0 {
                batches.push(vec![]);
                tokens = 0;
            }
            tokens += length;
            if let Some(last) = batches.last_mut() {
                last.push(length);
            }
        }
        batches
    }

    /// Real tokens per second when every text is as long as the longest of its batch.
    fn padded(&mut self, lengths: &[usize]) -> Outcome<f64> {
        let longest = lengths.iter().copied().max().unwrap_or(1);
        let texts = (self.batch_tokens / longest).max(1);
        let real: usize = lengths.iter().sum();
        let batches: Vec<Vec<usize>> = lengths
            .chunks(texts.max(32))
            .map(|batch| vec![batch.iter().copied().max().unwrap_or(1); batch.len()])
            .collect();
        let all: usize = batches.iter().flatten().sum();
        Ok(self.rate(&batches, Heads::DENSE)? * real as f64 / all as f64)
    }

    /// Tokens per second over whole rounds of these batches.
    fn rate(&mut self, lengths: &[Vec<usize>], heads: Heads) -> Outcome<f64> {
        let batches: Vec<Batch> = lengths
            .iter()
            .map(|batch| self.batch(batch, heads))
            .collect();
        for batch in batches.iter().take(WARM_UPS) {
            self.encoder.encode(batch)?;
        }
        let (mut tokens, started) = (0, Instant::now());
        while started.elapsed().as_secs_f64() < self.seconds {
            for batch in &batches {
                self.encoder.encode(batch)?;
                tokens += batch.tokens();
            }
        }
        Ok(tokens as f64 / started.elapsed().as_secs_f64())
    }

    /// Milliseconds for 50 pairs of 512 tokens, in the middle.
    fn rerank(&mut self, label: &str, longest: usize) -> Outcome<Value> {
        let length = longest.min(512);
        let batch = self.batch(&[length; 50], Heads::SCORE);
        let name = format!("{label} reranks 50 documents of {length} tokens, p50");
        Ok(row(name, self.middle(&batch)?, "ms"))
    }

    /// The same with all outputs of an embedding model, token vectors being compared where they
    /// are, and with dense vectors alone.
    fn late_interaction(&mut self, label: &str, length: usize) -> Outcome<[Value; 2]> {
        let dense = self.batch(&[length; 50], Heads::DENSE);
        let mut beside = self.batch(&[length; 50], self.heads);
        let query = Arc::new(Encoding {
            input_ids: (4..20).collect(),
            token_type_ids: vec![0; 16],
            ..Encoding::default()
        });
        beside.queries = vec![Some(query); 50];
        let (dense, beside) = (self.middle(&dense)?, self.middle(&beside)?);
        let name = format!("{label} compares 50 documents of {length} tokens, all outputs, p50");
        Ok([
            row(name, beside, "ms"),
            row("cost of comparing over dense alone", beside / dense, "×"),
        ])
    }

    /// Milliseconds for a batch, in the middle.
    fn middle(&mut self, batch: &Batch) -> Outcome<f64> {
        for _ in 0..WARM_UPS {
            self.encoder.encode(batch)?;
        }
        let mut times = Vec::new();
        let started = Instant::now();
        while started.elapsed().as_secs_f64() < self.seconds || times.is_empty() {
            let begun = Instant::now();
            self.encoder.encode(batch)?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(median(&times))
    }

    fn batch(&self, lengths: &[usize], heads: Heads) -> Batch {
        let mut batch = Batch::wanting(heads);
        let ordinary = (self.vocabulary - 5).max(1);
        for (text, &length) in lengths.iter().enumerate() {
            let id = |place: usize| (4 + (place * 29 + text * 31) % ordinary) as u32;
            batch.push(&Encoding {
                input_ids: (0..length).map(id).collect(),
                token_type_ids: vec![0; length],
                ..Encoding::default()
            });
        }
        batch
    }
}
