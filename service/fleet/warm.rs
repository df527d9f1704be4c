//! The first forward passes of a model, before anybody waits for one.

use std::time::Instant;

use retort_models::{Batch, Encode, EncoderInfo, Encoding, Tokenizer, Truncation, TruncationSide};

use crate::engine::encode::WorkerKind;

/// Tokens of each text in the batch of as many texts as there can be.
const SHORT: usize = 16;

/// What is warmed up.
pub struct Warming<'a> {
    /// The name of the model.
    pub name: &'a str,
    /// What it is.
    pub info: &'a EncoderInfo,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The most tokens of a batch on a GPU.
    pub max_gpu_batch_tokens: usize,
}

impl Warming<'_> {
    /// Runs a word through a session, and through one of a GPU the largest batches that there will
    /// be: their memory is had now, or it is known that it is not. What smaller ones need is in it,
    /// so that nothing grows later.
    ///
    /// # Errors
    /// When it does not run a word.
    pub fn run(&self, kind: WorkerKind, encoder: &mut dyn Encode) -> retort_models::Result<()> {
        let truncation = Truncation {
            max_tokens: self.info.max_tokens,
            side: TruncationSide::End,
        };
        let mut word = self.tokenizer.encode("ready", truncation)?;
        // Any task is as good as another.
        word.adapter = self.info.needs_task().then_some(0);
        encoder.encode(&self.batch(&word, 1))?;
        match kind {
            WorkerKind::Gpu(_) => self.largest(&word, encoder),
            WorkerKind::Share | WorkerKind::AllCores => Ok(()),
        }
    }

    fn largest(&self, word: &Encoding, encoder: &mut dyn Encode) -> retort_models::Result<()> {
        let model = self.name;
        for tokens in [self.info.max_tokens, SHORT.min(self.info.max_tokens)] {
            let sequences = (self.max_gpu_batch_tokens / tokens).max(1);
            let batch = self.batch(&repeated(word, tokens), sequences);
            let started = Instant::now();
            match encoder.encode(&batch) {
                Ok(_) => {
                    let took_ms = started.elapsed().as_millis();
                    tracing::debug!(model, sequences, tokens, took_ms, "a batch of the largest");
                }
                Err(error @ retort_models::Error::OutOfMemory { .. }) => tracing::warn!(
                    model,
                    sequences,
                    tokens,
                    %error,
                    "the GPU has no room for batches as large as are allowed: smaller ones run, \
                     and inputs that do not fit by themselves will be refused; lower \
                     `--max-batch-tokens` or the model's `max_tokens`"
                ),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn batch(&self, encoding: &Encoding, sequences: usize) -> Batch {
        let mut batch = Batch::wanting(self.info.heads);
        (0..sequences).for_each(|_| batch.push(encoding));
        batch
    }
}

/// A text of so many tokens.
fn repeated(word: &Encoding, tokens: usize) -> Encoding {
    let ids = word.input_ids.iter().copied().cycle().take(tokens);
    let types = word.token_type_ids.iter().copied().cycle().take(tokens);
    Encoding {
        input_ids: ids.collect(),
        token_type_ids: types.collect(),
        adapter: word.adapter,
        ..Encoding::default()
    }
}

#[cfg(test)]
mod tests {
    use retort_models::{Error, GraphSource, Output};

    use super::*;
    use crate::engine::encode::tests::fake_info;

    /// Remembers what it ran; what is beyond a limit fails.
    struct Fake {
        most: usize,
        runs: Vec<Batch>,
    }

    impl Encode for Fake {
        fn encode(&mut self, batch: &Batch) -> retort_models::Result<Vec<Output>> {
            let (sequences, tokens) = (batch.sequences(), batch.tokens());
            self.runs.push(batch.clone());
            match tokens > self.most {
                true => Err(Error::OutOfMemory {
                    sequences,
                    tokens,
                    message: "no room".to_owned(),
                }),
                false => Ok(vec![Output::default(); sequences]),
            }
        }
    }

    fn runs(kind: WorkerKind, most: usize, change: fn(&mut EncoderInfo)) -> Vec<Batch> {
        let checkpoint = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/checkpoints/bert-tiny-mean"
        );
        let tokenizer = Tokenizer::load(checkpoint.as_ref()).unwrap();
        let mut info = EncoderInfo {
            max_tokens: 100,
            ..fake_info(tokenizer.vocab_size())
        };
        change(&mut info);
        let warming = Warming {
            name: "fake",
            info: &info,
            tokenizer: &tokenizer,
            max_gpu_batch_tokens: 320,
        };
        let mut fake = Fake {
            most,
            runs: Vec::new(),
        };
        warming.run(kind, &mut fake).unwrap();
        fake.runs
    }

    #[test]
    fn a_gpu_runs_the_largest_batches_at_once_whether_they_fit_or_not() {
        let sizes = |kind, most| {
            let runs = runs(kind, most, |_| ()).into_iter().skip(1);
            let sizes = runs.map(|batch| (batch.sequences(), batch.tokens()));
            sizes.collect::<Vec<_>>()
        };
        assert_eq!(sizes(WorkerKind::Gpu(0), 1_000), [(3, 300), (20, 320)]);
        assert_eq!(sizes(WorkerKind::Gpu(0), 310), [(3, 300), (20, 320)]);
        assert!(sizes(WorkerKind::Share, 1_000).is_empty());
    }

    #[test]
    fn a_given_graph_with_tasks_is_run_with_one() {
        let with_tasks = |info: &mut EncoderInfo| {
            info.tasks = vec!["text-matching".to_owned()];
            info.source = GraphSource::Given("model.onnx".into());
        };
        for batch in runs(WorkerKind::Gpu(0), 1_000, with_tasks) {
            assert!(batch.adapters.iter().all(|adapter| *adapter == Some(0)));
        }
        let built = |info: &mut EncoderInfo| info.tasks = vec!["text-matching".to_owned()];
        for batch in runs(WorkerKind::Share, 1_000, built) {
            assert_eq!(batch.adapters, [None]);
        }
    }
}
