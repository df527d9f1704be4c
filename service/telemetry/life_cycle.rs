//! What is counted and logged when models come and go.

use std::{fmt::Display, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use super::{ModelLabel, Names, Telemetry};

/// How a load ended that brought nothing.
#[derive(Clone, Copy)]
pub enum LoadOutcome<'a> {
    /// It could not be done; why.
    Failed(&'a dyn Display),
    /// Nobody wanted it any more.
    Cancelled,
}

const LOADED: &str = "loaded";
const FAILED: &str = "failed";
const CANCELLED: &str = "cancelled";
const OUTCOMES: [&str; 3] = [LOADED, FAILED, CANCELLED];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LoadLabels {
    model: String,
    outcome: &'static str,
}

/// The counters of this file.
#[derive(Debug)]
pub struct Metrics {
    loaded: Gauge,
    loads: Family<LoadLabels, Counter>,
    unloads: Family<ModelLabel, Counter>,
    load_duration: Family<ModelLabel, Histogram>,
    memory: Family<ModelLabel, Gauge>,
}

impl Metrics {
    pub(super) fn new(all: &mut Names) -> Self {
        Self {
            loaded: all.add("models_loaded", "Models in memory", Gauge::default()),
            loads: all.add(
                "model_loads",
                "Attempts to load a model, by outcome",
                Family::default(),
            ),
            unloads: all.add(
                "model_unloads",
                "Times a model left memory",
                Family::default(),
            ),
            load_duration: all.add(
                "model_load_duration_seconds",
                "Time from the launch of a model to its first answer, fetching included",
                Family::new_with_constructor(durations),
            ),
            memory: all.add(
                "model_memory_bytes",
                "Memory that a loaded model takes, by its estimate or else by its weights",
                Family::default(),
            ),
        }
    }
}

impl Metrics {
    /// Drops what is counted of a model.
    pub(super) fn remove(&self, model: &ModelLabel) {
        for outcome in OUTCOMES {
            self.loads.remove(&LoadLabels {
                model: model.model.clone(),
                outcome,
            });
        }
        self.unloads.remove(model);
        self.load_duration.remove(model);
        self.memory.remove(model);
    }
}

/// 10 ms to 5 hours, quadrupling.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 4.0, 11))
}

impl Telemetry {
    /// A model answers.
    pub fn model_loaded(&self, model: &str, took: Duration, memory_bytes: Option<u64>) {
        let metrics = &self.0.life_cycle;
        let label = ModelLabel::of(model);
        let seconds = took.as_secs_f64();
        metrics.load_duration.get_or_create(&label).observe(seconds);
        if let Some(bytes) = memory_bytes {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            metrics.memory.get_or_create(&label).set(bytes);
        }
        self.load_counted(model, LOADED);
        let seconds = took.as_secs_f32();
        tracing::info!(model, seconds, memory_bytes, "model loaded");
    }

    /// A load brought nothing.
    pub fn load_ended(&self, model: &str, after: Duration, outcome: LoadOutcome<'_>) {
        let seconds = after.as_secs_f32();
        match outcome {
            LoadOutcome::Failed(error) => {
                self.load_counted(model, FAILED);
                tracing::error!(model, seconds, %error, "model not loaded");
            }
            LoadOutcome::Cancelled => {
                self.load_counted(model, CANCELLED);
                tracing::info!(model, seconds, "launch cancelled");
            }
        }
    }

    /// A model holds no memory any more.
    pub fn model_unloaded(&self, model: &str, reason: &str) {
        let metrics = &self.0.life_cycle;
        metrics.memory.remove(&ModelLabel::of(model));
        metrics.unloads.get_or_create(&ModelLabel::of(model)).inc();
        tracing::info!(model, reason, "model unloaded");
    }

    /// So many models are in memory now.
    pub fn models_loaded(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.0.life_cycle.loaded.set(count);
    }

    fn load_counted(&self, model: &str, outcome: &'static str) {
        self.0.seen.model(model);
        let labels = LoadLabels {
            model: model.to_owned(),
            outcome,
        };
        self.0.life_cycle.loads.get_or_create(&labels).inc();
    }
}
