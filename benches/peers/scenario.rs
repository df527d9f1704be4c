//! What is asked of every candidate.

use serde_json::{Value, json};

use crate::{measure::Outcome, subject::Subject, texts::Texts};

const SEED: u64 = 51;

/// One comparison.
pub struct Scenario {
    /// Shown above its table.
    pub name: &'static str,
    /// The checkpoint, a name of `models.py`.
    pub model: &'static str,
    /// What decides it: tokens in a second, or the wait for one answer.
    pub measure: Measure,
    /// Its calls, always the same.
    pub task: fn(&Subject) -> Outcome<Task>,
    /// What the project wants of it.
    pub aims: &'static [Aim],
}

/// What the service wants to reach in one of its types.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    /// To be so many times as good as the best peer of a precision.
    Times {
        /// The service's type.
        dtype: &'static str,
        /// The peers' precision.
        peers: &'static str,
        /// How many times.
        at_least: f64,
    },
    /// A median latency.
    Latency {
        /// The service's type.
        dtype: &'static str,
        /// In milliseconds.
        at_most: f64,
    },
}

const fn times(dtype: &'static str, peers: &'static str, at_least: f64) -> Aim {
    Aim::Times {
        dtype,
        peers,
        at_least,
    }
}

const fn latency(dtype: &'static str, at_most: f64) -> Aim {
    Aim::Latency { dtype, at_most }
}

/// What a scenario is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// More is better.
    TokensPerSecond,
    /// The median latency; less is better.
    Latency,
}

/// Calls that are made once each, so many at a time.
pub struct Task {
    /// As `worker.py` reads them.
    pub calls: Vec<Value>,
    /// How many are under way at once.
    pub clients: usize,
    /// Tokens of all calls, special tokens included, by MiniLM's tokenizer, which all models share.
    pub tokens: f64,
}

/// In the order in which they run; those of one model stand together.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "one short query at a time",
        model: "minilm",
        measure: Measure::Latency,
        task: |subject| queries(subject, 1, 100),
        aims: &[latency("fp32", 2.5), latency("int8", 1.5)],
    },
    Scenario {
        name: "16 clients, short queries",
        model: "minilm",
        measure: Measure::TokensPerSecond,
        task: |subject| queries(subject, 16, 256),
        aims: &[],
    },
    Scenario {
        name: "64 clients, short queries",
        model: "minilm",
        measure: Measure::TokensPerSecond,
        task: |subject| queries(subject, 64, 512),
        aims: &[],
    },
    Scenario {
        name: "bulk: 32 mixed texts a call",
        model: "minilm",
        measure: Measure::TokensPerSecond,
        task: bulk,
        aims: &[
            times("fp32", "fp32", 2.0),
            times("bf16", "fp32", 4.0),
            times("int8", "fp32", 6.0),
            times("int8", "int8", 2.5),
        ],
    },
    Scenario {
        name: "rerank: 1 query, 100 documents",
        model: "cross-encoder",
        measure: Measure::TokensPerSecond,
        task: rerank,
        aims: &[],
    },
    Scenario {
        name: "BERT-base, 8 texts of 128 tokens",
        model: "base",
        measure: Measure::TokensPerSecond,
        task: |subject| equal(subject, 8, 128),
        aims: &[],
    },
    Scenario {
        name: "BERT-base, 2 texts of 510 tokens",
        model: "base",
        measure: Measure::TokensPerSecond,
        task: |subject| equal(subject, 2, 510),
        aims: &[],
    },
    Scenario {
        name: "BERT-large, 4 texts of 128 tokens",
        model: "large",
        measure: Measure::TokensPerSecond,
        task: |subject| equal(subject, 4, 128),
        aims: &[],
    },
    Scenario {
        name: "BERT-large, 1 text of 510 tokens",
        model: "large",
        measure: Measure::TokensPerSecond,
        task: |subject| equal(subject, 1, 510),
        aims: &[],
    },
];

/// The checkpoints of all scenarios, each once.
pub fn models() -> Vec<&'static str> {
    let mut models: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.model).collect();
    models.dedup();
    models
}

/// Queries of 4 to 16 words.
fn queries(subject: &Subject, clients: usize, calls: usize) -> Outcome<Task> {
    let mut source = Texts::new(SEED);
    let texts: Vec<String> = (0..calls).map(|at| source.words(4 + at * 5 % 13)).collect();
    task(subject, texts.chunks(1), clients)
}

/// Texts of 20 to 256 tokens, half of them Chinese, in no order.
fn bulk(subject: &Subject) -> Outcome<Task> {
    let mut source = Texts::new(SEED);
    let texts: Vec<String> = (0..96)
        .map(|at| match at % 2 {
            0 => source.words(18 + at * 37 % 150),
            _ => source.chinese(18 + at * 53 % 230),
        })
        .collect();
    task(subject, texts.chunks(32), 1)
}

fn equal(subject: &Subject, texts: usize, tokens: usize) -> Outcome<Task> {
    let mut source = Texts::new(SEED);
    let texts: Outcome<Vec<String>> = (0..texts)
        .map(|_| source.exactly(tokens, subject))
        .collect();
    let texts = texts?;
    task(subject, texts.chunks(texts.len()), 1)
}

fn rerank(subject: &Subject) -> Outcome<Task> {
    let mut source = Texts::new(SEED);
    let query = source.words(9);
    let documents: Vec<String> = (0..100).map(|at| source.words(30 + at * 29 % 90)).collect();
    let mut tokens = 0;
    for document in &documents {
        // `[CLS] query [SEP] document [SEP]` has one special token fewer than two texts.
        tokens += subject.tokens(&query)? + subject.tokens(document)? - 1;
    }
    Ok(Task {
        calls: vec![json!({ "query": query, "documents": documents })],
        clients: 1,
        tokens: tokens as f64,
    })
}

fn task<'t>(
    subject: &Subject,
    calls: impl Iterator<Item = &'t [String]>,
    clients: usize,
) -> Outcome<Task> {
    let calls: Vec<&[String]> = calls.collect();
    let mut tokens = 0;
    for text in calls.iter().copied().flatten() {
        tokens += subject.tokens(text)?;
    }
    Ok(Task {
        calls: calls.into_iter().map(|texts| json!(texts)).collect(),
        clients,
        tokens: tokens as f64,
    })
}
