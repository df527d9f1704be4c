//! Which series belong to which model, so that they go when it goes: a model leaves kilobytes of
//! them behind, and names may be new every time.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{ModelLabel, RequestLabels, Telemetry};

/// The models that have series, and what their requests were counted under.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashMap<String, HashSet<RequestLabels>>>);

impl Seen {
    /// A model has series.
    pub(super) fn model(&self, model: &str) {
        self.lock().entry(model.to_owned()).or_default();
    }

    /// Requests are counted under new labels.
    pub(super) fn requests(&self, labels: &RequestLabels) {
        let mut models = self.lock();
        let of_model = models.entry(labels.model.clone()).or_default();
        of_model.insert(labels.clone());
    }

    /// Takes out all models but those that stay.
    fn take_gone(&self, stays: impl Fn(&str) -> bool) -> HashMap<String, HashSet<RequestLabels>> {
        let mut models = self.lock();
        // What named no model belongs to nobody who could go.
        models
            .extract_if(|model, _| !model.is_empty() && !stays(model))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashSet<RequestLabels>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Telemetry {
    /// Drops the series of all models that are not `present`. A request that ends after its model
    /// went may bring one back; it goes with the next model.
    pub fn keep_models(&self, present: &HashSet<&str>) {
        let metrics = &self.0;
        for (model, requests) in metrics.seen.take_gone(|model| present.contains(model)) {
            for labels in &requests {
                metrics.requests.remove(labels);
                metrics.request_duration.remove(&labels.durations());
            }
            let label = ModelLabel::of(&model);
            metrics.tokenize_duration.remove(&label);
            metrics.request_tokens.remove(&label);
            metrics.batch_tokens.remove(&label);
            metrics.batch_sequences.remove(&label);
            metrics.inference_duration.remove(&label);
            metrics.tokens.remove(&label);
            metrics.truncated_inputs.remove(&label);
            metrics.bad_outputs.remove(&label);
            metrics.dropped_jobs.remove(&label);
            metrics.overloaded.remove(&label);
            metrics.lanes.remove(&label);
            metrics.life_cycle.remove(&label);
            metrics.generate.remove(&label);
        }
    }
}
