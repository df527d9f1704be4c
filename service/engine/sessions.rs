//! The sessions that a loaded model gets: on the processor as the limits say, on GPUs one each.

use retort_models::{Encode, EncoderModel};

use super::{
    Engine, EngineLimits,
    encode::{WorkerKind, priority},
    worker_threads,
};
use crate::error::{Error, Result};

impl Engine {
    /// The sessions of a model, `replicas` times the usual number.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the graph.
    pub fn encoders(
        limits: &EngineLimits,
        model: &EncoderModel,
        replicas: usize,
    ) -> Result<Vec<(WorkerKind, Box<dyn Encode>)>> {
        let encoder = |(kind, threads)| {
            let encoder = model
                .encoder(threads)
                .map_err(|error| Error::Internal(error.to_string()))?;
            Ok((kind, encoder))
        };
        let (shares, all_cores): (Vec<_>, Vec<_>) = worker_threads(limits, replicas)
            .into_iter()
            .partition(|(kind, _)| *kind == WorkerKind::Share);
        let quick: Result<Vec<_>> = all_cores.into_iter().map(encoder).collect();
        // Threads that a session starts have the priority of the one that makes it.
        let polite = move || {
            priority::lower();
            shares.into_iter().map(encoder).collect::<Result<Vec<_>>>()
        };
        let made = std::thread::scope(|scope| scope.spawn(polite).join());
        let mut encoders =
            made.map_err(|_| Error::Internal("making a session panicked".into()))??;
        encoders.extend(quick?);
        Ok(encoders)
    }

    /// The sessions of a model on GPUs, one on each: the packed batch is all the parallelism that
    /// a GPU needs. `models` are copies of one model, each with the number of its GPU.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the graph.
    pub fn gpu_encoders(
        models: &[(usize, EncoderModel)],
    ) -> Result<Vec<(WorkerKind, Box<dyn Encode>)>> {
        let encoder = |(gpu, model): &(usize, EncoderModel)| {
            let encoder = model
                .encoder(1)
                .map_err(|error| Error::Internal(error.to_string()))?;
            Ok((WorkerKind::Gpu(*gpu), encoder))
        };
        models.iter().map(encoder).collect()
    }
}
