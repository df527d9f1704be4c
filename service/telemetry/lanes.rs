//! What is counted and logged about lanes, deadlines and work that did not have to be done.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use super::{ModelLabel, Names, Telemetry, seconds};

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LaneLabels {
    model: String,
    lane: &'static str,
}

impl LaneLabels {
    fn of(model: &str, lane: &'static str) -> Self {
        Self {
            model: model.to_owned(),
            lane,
        }
    }
}

/// The counters of this file.
#[derive(Debug)]
pub struct Metrics {
    queue_tokens: Family<LaneLabels, Gauge>,
    queue_duration: Family<LaneLabels, Histogram>,
    refused_by_deadline: Family<LaneLabels, Counter>,
    late_jobs: Family<ModelLabel, Counter>,
    coalesced_inputs: Family<ModelLabel, Counter>,
    cached_inputs: Family<ModelLabel, Counter>,
}

/// The values of the label `lane`.
const LANES: [&str; 2] = ["interactive", "bulk"];

impl Metrics {
    pub(super) fn new(all: &mut Names) -> Self {
        Self {
            queue_tokens: all.add(
                "queue_tokens",
                "Tokens that wait for a forward pass",
                Family::default(),
            ),
            queue_duration: all.add(
                "queue_duration_seconds",
                "The longest wait of any job of a batch",
                Family::new_with_constructor(seconds),
            ),
            refused_by_deadline: all.add(
                "refused_by_deadline",
                "Requests refused because they could not be done by their deadline",
                Family::default(),
            ),
            late_jobs: all.add(
                "late_jobs",
                "Inputs not run because their deadline had passed",
                Family::default(),
            ),
            coalesced_inputs: all.add(
                "coalesced_inputs",
                "Inputs that were run once together with an equal one",
                Family::default(),
            ),
            cached_inputs: all.add(
                "cached_inputs",
                "Inputs answered out of the cache",
                Family::default(),
            ),
        }
    }

    /// Drops the series of a model that is gone.
    pub(super) fn remove(&self, model: &ModelLabel) {
        for lane in LANES.into_iter().chain([super::generate::LANE]) {
            let labels = LaneLabels::of(&model.model, lane);
            self.queue_tokens.remove(&labels);
            self.queue_duration.remove(&labels);
            self.refused_by_deadline.remove(&labels);
        }
        self.late_jobs.remove(model);
        self.coalesced_inputs.remove(model);
        self.cached_inputs.remove(model);
    }

    /// A batch of a lane began; its first job had waited so many seconds.
    pub(super) fn waited(&self, model: &str, lane: &'static str, seconds: f64) {
        self.queue_duration
            .get_or_create(&LaneLabels::of(model, lane))
            .observe(seconds);
    }
}

impl Telemetry {
    /// Jobs entered or left a lane of the queue; `tokens` wait there now.
    pub fn queue_changed(&self, model: &str, lane: &'static str, tokens: usize) {
        let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
        let lanes = &self.0.lanes;
        lanes
            .queue_tokens
            .get_or_create(&LaneLabels::of(model, lane))
            .set(tokens);
    }

    /// A request was refused because it could not be done by its deadline.
    pub fn request_would_be_late(&self, model: &str, lane: &'static str) {
        let lanes = &self.0.lanes;
        lanes
            .refused_by_deadline
            .get_or_create(&LaneLabels::of(model, lane))
            .inc();
    }

    /// Jobs left the queue without being run: their deadline had passed.
    pub fn jobs_late(&self, model: &str, jobs: usize) {
        let lanes = &self.0.lanes;
        lanes
            .late_jobs
            .get_or_create(&ModelLabel::of(model))
            .inc_by(jobs as u64);
        tracing::debug!(model, jobs, "jobs dropped: their deadline has passed");
    }

    /// Inputs were run once together with equal ones.
    pub fn inputs_coalesced(&self, model: &str, inputs: usize) {
        let lanes = &self.0.lanes;
        lanes
            .coalesced_inputs
            .get_or_create(&ModelLabel::of(model))
            .inc_by(inputs as u64);
    }

    /// Inputs were answered out of the cache.
    pub fn inputs_cached(&self, model: &str, inputs: usize) {
        let lanes = &self.0.lanes;
        lanes
            .cached_inputs
            .get_or_create(&ModelLabel::of(model))
            .inc_by(inputs as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lane::Lane;

    #[test]
    fn every_lane_is_counted_under_a_name_that_is_dropped_again() {
        assert_eq!(Lane::ALL.map(Lane::name), LANES);
    }
}
