//! Whether every model computes, found out by having it compute.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{Engine, request::ModelState};
use crate::error::{Error, Result};

/// The outcome of a real forward pass on one model.
#[derive(Debug)]
pub struct Probe {
    /// The served name.
    pub model: String,
    /// The device that ran it.
    pub device: String,
    /// How long it took, `None` where the model sleeps; or why it failed.
    pub outcome: Result<Option<Duration>>,
}

impl Engine {
    /// A real forward pass on every loaded model at once, ahead of whatever waits. Models that
    /// are not required count once they are loaded; those that sleep are left asleep.
    pub async fn probe(&self) -> Vec<Probe> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let mut probes = JoinSet::new();
        for (place, info) in self.shared.registry.list().into_iter().enumerate() {
            let Some((info, pipeline, asleep)) = self.shared.registry.pipeline(&info.name) else {
                continue;
            };
            let encoder = info.encoder.as_ref().map(|e| &e.device);
            let generator = info.generator.as_ref().map(|g| &g.device);
            let device = encoder.or(generator).map_or("none", |device| device);
            let device = device.to_owned();
            let known = match (&pipeline, info.state) {
                (Some(_), _) => Ok(None),
                // It has answered before, and waking it for this would defeat its sleep.
                (None, _) if asleep => Ok(None),
                // What was launched beside the models that are required cannot take them away.
                (None, _) if !info.required => continue,
                (None, ModelState::Failed(reason)) => Err(Error::NotReady(reason)),
                (None, _) => Err(Error::NotReady("still loading".into())),
            };
            let model = info.name;
            // A lease counts as use, so each is held only for its own pass.
            probes.spawn(async move {
                let outcome = match pipeline {
                    Some(pipeline) => pipeline.probe(PATIENCE).await.map(Some),
                    None => known,
                };
                let probe = Probe {
                    model,
                    device,
                    outcome,
                };
                (place, probe)
            });
        }
        let mut probes = probes.join_all().await;
        probes.sort_unstable_by_key(|(place, _)| *place);
        probes.into_iter().map(|(_, probe)| probe).collect()
    }
}
