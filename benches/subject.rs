//! What is measured: the model, found as the service finds it, its arithmetic, and the bare session
//! that the service is compared with.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use retort::provision::{self, ModelRequest, Progress, ProvisionConfig, Weights};
use retort_models::{
    Batch, DtypeChoice, Encode, EncoderModel, LoadOptions, Runtime, Truncation, TruncationSide,
};

use crate::measure::{Outcome, processor};

/// The model that is measured; the service's default.
pub const MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// The model, loaded in this process.
pub struct Subject {
    /// The library that runs it.
    pub runtime: Runtime,
    /// The loaded checkpoint, in the type that the service takes by itself.
    pub model: EncoderModel,
    /// The checkpoint's folder.
    pub dir: PathBuf,
    /// The sizes that its arithmetic follows from.
    pub sizes: Sizes,
}

/// What of a BERT's `config.json` decides how much it computes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Values per token.
    pub hidden: usize,
    /// Values per token inside the feed-forward part.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
}

impl Sizes {
    /// Floating-point operations of one text of so many tokens: two for each weight of the linear
    /// layers and token, and four for each pair of tokens and value of a head's queries. What
    /// norms, softmax and GELU take is not counted.
    pub fn operations(self, tokens: usize) -> f64 {
        let (hidden, intermediate) = (self.hidden as f64, self.intermediate as f64);
        let weights = 4.0 * hidden * hidden + 2.0 * hidden * intermediate;
        let tokens = tokens as f64;
        self.layers as f64 * (2.0 * weights * tokens + 4.0 * hidden * tokens * tokens)
    }
}

impl Subject {
    /// Finds library and model, fetching what is missing, and loads them.
    pub fn open() -> Outcome<Self> {
        let config = ProvisionConfig::from_env(|name| std::env::var(name).ok())?;
        let progress = Progress::stderr();
        let library = provision::runtime(&config, &progress)?;
        let request = ModelRequest {
            id: MODEL,
            revision: None,
            weights: Weights::Checkpoint,
            entry: None,
        };
        let dir = provision::model(&config, &request, &progress)?.dir;
        let runtime = Runtime::load(&library.path)?;
        let model = load(&runtime, &dir, DtypeChoice::Auto)?;
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.join("config.json"))?)?;
        let size = |key: &str| {
            let size = config[key]
                .as_u64()
                .ok_or_else(|| format!("config.json has no `{key}`"));
            size.map(|size| size as usize)
        };
        let sizes = Sizes {
            hidden: size("hidden_size")?,
            intermediate: size("intermediate_size")?,
            layers: size("num_hidden_layers")?,
        };
        Ok(Self {
            runtime,
            model,
            dir,
            sizes,
        })
    }

    /// The same checkpoint in another type.
    pub fn computed_in(&self, dtype: DtypeChoice) -> Outcome<EncoderModel> {
        load(&self.runtime, &self.dir, dtype)
    }

    /// The longest texts that the model takes, cut at the end.
    pub fn truncation(&self) -> Truncation {
        Truncation {
            max_tokens: self.model.info().max_tokens,
            side: TruncationSide::End,
        }
    }

    /// Tokens of a text, special tokens included, however many the model takes.
    pub fn tokens(&self, text: &str) -> Outcome<usize> {
        let whole = Truncation {
            max_tokens: usize::MAX,
            side: TruncationSide::End,
        };
        Ok(self.model.tokenizer().encode(text, whole)?.input_ids.len())
    }

    /// Packs texts in order into batches of at most `max_batch_tokens`, as the service does.
    pub fn batches(&self, texts: &[String], max_batch_tokens: usize) -> Outcome<Vec<Batch>> {
        let mut batches = vec![Batch::default()];
        for text in texts {
            let encoding = self.model.tokenizer().encode(text, self.truncation())?;
            let last = batches.last().map_or(0, Batch::tokens);
            if last > 0 && last + encoding.input_ids.len() > max_batch_tokens {
                batches.push(Batch::default());
            }
            if let Some(batch) = batches.last_mut() {
                batch.push(&encoding);
            }
        }
        Ok(batches)
    }
}

fn load(runtime: &Runtime, dir: &Path, dtype: DtypeChoice) -> Outcome<EncoderModel> {
    let options = LoadOptions {
        dtype,
        ..LoadOptions::new(runtime.clone())
    };
    Ok(EncoderModel::load(dir, &options)?)
}

/// Sessions with nothing around them, one core each, as the service's workers have them.
pub struct Bare {
    encoders: Vec<Box<dyn Encode>>,
}

impl Bare {
    /// One session a core.
    pub fn new(subject: &Subject) -> Outcome<Self> {
        Self::of(&subject.model)
    }

    /// One session a core of a model.
    pub fn of(model: &EncoderModel) -> Outcome<Self> {
        let encoders: Result<_, _> = (0..processor::cores()).map(|_| model.encoder(1)).collect();
        Ok(Self {
            encoders: encoders?,
        })
    }

    /// Runs all batches once, each on whichever core is free, and returns the seconds it took.
    pub fn run(&mut self, batches: &[Batch]) -> Outcome<f64> {
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            let work = |encoder: &mut Box<dyn Encode>| -> Result<(), retort_models::Error> {
                while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    encoder.encode(batch)?;
                }
                Ok(())
            };
            let threads: Vec<_> = self
                .encoders
                .iter_mut()
                .map(|encoder| scope.spawn(move || work(encoder)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| match thread.join() {
                    Ok(result) => result.map_err(|error| error.to_string()),
                    Err(_) => Err("a thread of the bare session panicked".to_owned()),
                })
        })?;
        Ok(started.elapsed().as_secs_f64())
    }
}
