//! What is counted while models write.

use std::time::Duration;

use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};

use super::{ModelLabel, Names, Telemetry};

/// Where prompts wait, beside the lanes of the encoders.
pub const LANE: &str = "chat";

/// The counters of this file.
#[derive(Debug)]
pub struct Metrics {
    first_token: Family<ModelLabel, Histogram>,
    generated: Family<ModelLabel, Counter>,
    preempted: Family<ModelLabel, Counter>,
    cache_used: Family<ModelLabel, Gauge>,
    cache_total: Family<ModelLabel, Gauge>,
}

impl Metrics {
    pub(super) fn new(all: &mut Names) -> Self {
        Self {
            first_token: all.add(
                "time_to_first_token_seconds",
                "Time from the arrival of a prompt to the first token of its answer",
                Family::new_with_constructor(durations),
            ),
            generated: all.add(
                "generated_tokens",
                "Tokens that were generated",
                Family::default(),
            ),
            preempted: all.add(
                "preempted_sequences",
                "Times an answer had to give up its cache and was computed again",
                Family::default(),
            ),
            cache_used: all.add(
                "cache_blocks_used",
                "Blocks of keys and values that answers hold",
                Family::default(),
            ),
            cache_total: all.add(
                "cache_blocks",
                "Blocks of keys and values that there are",
                Family::default(),
            ),
        }
    }
}

impl Metrics {
    /// Drops the series of a model that is gone.
    pub(super) fn remove(&self, model: &ModelLabel) {
        self.first_token.remove(model);
        self.generated.remove(model);
        self.preempted.remove(model);
        self.cache_used.remove(model);
        self.cache_total.remove(model);
    }
}

/// 5 ms to about 3 minutes, doubling.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 16))
}

impl Telemetry {
    /// The first token of an answer came so long after its prompt.
    pub fn first_token(&self, model: &str, after: Duration) {
        let first = &self.0.generate.first_token;
        first
            .get_or_create(&ModelLabel::of(model))
            .observe(after.as_secs_f64());
    }

    /// A token was generated.
    pub fn token_generated(&self, model: &str) {
        let generated = &self.0.generate.generated;
        generated.get_or_create(&ModelLabel::of(model)).inc();
    }

    /// Answers had to give up their cache.
    pub fn sequences_preempted(&self, model: &str, sequences: usize) {
        let preempted = &self.0.generate.preempted;
        preempted
            .get_or_create(&ModelLabel::of(model))
            .inc_by(sequences as u64);
        tracing::debug!(model, sequences, "answers wait: the cache is full");
    }

    /// So many blocks of all are held now.
    pub fn cache_blocks(&self, model: &str, used: usize, total: usize) {
        let label = ModelLabel::of(model);
        let count = |blocks: usize| i64::try_from(blocks).unwrap_or(i64::MAX);
        let metrics = &self.0.generate;
        metrics.cache_used.get_or_create(&label).set(count(used));
        metrics.cache_total.get_or_create(&label).set(count(total));
    }
}
