//! One schedule for the models that run on the same GPUs. A model on several takes its batches from
//! one queue. Models whose lists of GPUs differ are scheduled apart, and where the lists overlap,
//! the card shares itself out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    batcher::{DeviceLimits, WorkerKind},
    device::Device,
};
use crate::engine::lane::PerLane;

/// The schedules of all GPUs. Cheap to clone.
#[derive(Clone)]
pub struct GpuSchedules(Arc<Inner>);

struct Inner {
    max_batch_tokens: usize,
    shares: PerLane<f64>,
    /// By the numbers of their GPUs.
    schedules: Mutex<BTreeMap<Vec<usize>, Device>>,
}

impl GpuSchedules {
    /// No schedule yet, for batches of at most so many tokens.
    pub fn new(max_batch_tokens: usize, shares: PerLane<f64>) -> Self {
        Self(Arc::new(Inner {
            max_batch_tokens,
            shares,
            schedules: Mutex::default(),
        }))
    }

    /// The schedule for workers of these kinds: that of the processor, unless they are on GPUs.
    pub fn of(&self, processor: &Device, workers: &[WorkerKind]) -> Device {
        let gpu = |kind: &WorkerKind| match kind {
            WorkerKind::Gpu(number) => Some(*number),
            WorkerKind::Share | WorkerKind::AllCores => None,
        };
        let mut gpus: Vec<usize> = workers.iter().filter_map(gpu).collect();
        gpus.sort_unstable();
        gpus.dedup();
        if gpus.is_empty() {
            return processor.clone();
        }
        let limits = DeviceLimits::of_gpus(self.0.max_batch_tokens, gpus.len());
        let schedules = self.0.schedules.lock();
        let mut schedules = schedules.unwrap_or_else(PoisonError::into_inner);
        let new = || processor.beside(limits, self.0.shares);
        schedules.entry(gpus).or_insert_with(new).clone()
    }
}
