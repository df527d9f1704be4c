//! The engine's verb for text that continues a prompt.

use std::sync::Arc;

use retort_models::{DecoderInfo, Tokenizer};

use super::{
    Engine,
    encode::priority,
    generate::{
        GenerateStream, MAX_PREFILL_TOKENS, MAX_SEQUENCES, Parts, Pipeline, PipelineLimits,
        template::ChatTemplate,
    },
    in_flight::InFlight,
    request::{GenerateRequest, Task},
    served::Served,
    usage::Lease,
};
use crate::{
    error::{Error, Result},
    unix_time,
};

/// A loaded model that generates. It is not unloaded while this lives, so that a prompt is
/// rendered by the template of the model that continues it.
pub struct Generator {
    lease: Lease<Arc<Pipeline>>,
    engine: Engine,
}

impl Engine {
    /// Opens a registered model on a generator that exists already.
    ///
    /// # Errors
    /// As [`Pipeline::start`].
    pub fn serve_generator(&self, parts: Parts) -> Result<()> {
        let name = parts.name.clone();
        let limits = PipelineLimits {
            max_queue_tokens: self.shared.limits.max_queue_tokens,
            max_sequences: MAX_SEQUENCES,
            max_prefill_tokens: MAX_PREFILL_TOKENS,
        };
        let pipeline = Pipeline::start(parts, limits)?;
        let now = unix_time::now().as_secs();
        let served = Served::Generator(Arc::new(pipeline));
        self.shared.registry.ready(&name, served, now);
        Ok(())
    }

    /// A model that generates, loaded again first if it sleeps; without a name the first there is.
    ///
    /// # Errors
    /// See [`Error`]: why it cannot be served now.
    pub async fn generator(&self, model: Option<&str>) -> Result<Generator> {
        self.admit("prompt", 1)?;
        self.in_time(async {
            let lease = self.lease(model, Task::Generate).await?;
            let lease = lease.narrow(Served::into_generator);
            Ok(Generator {
                lease: lease
                    .ok_or_else(|| Error::Internal("what was found is no generator".into()))?,
                engine: self.clone(),
            })
        })
        .await
    }
}

impl Generator {
    /// The served name.
    pub fn name(&self) -> &str {
        self.lease.name()
    }

    /// What the checkpoint says about the model.
    pub fn info(&self) -> &DecoderInfo {
        self.lease.info()
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.lease.tokenizer()
    }

    /// How the model turns messages into a prompt.
    ///
    /// # Errors
    /// When the checkpoint has none, or one that cannot be read.
    pub fn template(&self) -> Result<Arc<ChatTemplate>> {
        self.lease.template()
    }

    /// Text that continues a prompt, piece by piece. It is there when the first piece is, so all
    /// that can go wrong before is told here. Dropping it, or this future, ends the generation.
    ///
    /// # Errors
    /// See [`Error`]: what is wrong with the request, or why it cannot be served now.
    pub async fn generate(self, request: GenerateRequest) -> Result<GenerateStream> {
        let mut streams = self.generate_all(vec![request]).await?;
        let only = streams.pop();
        only.ok_or_else(|| Error::Internal("a prompt has no stream".into()))
    }

    /// As [`Generator::generate`] for several prompts at once, of which all are taken or none. They
    /// are there when the first piece of the first prompt's answers is; what goes wrong with
    /// another is told by its stream.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub async fn generate_all(
        self,
        mut requests: Vec<GenerateRequest>,
    ) -> Result<Vec<GenerateStream>> {
        let engine = self.engine;
        for request in &mut requests {
            request.deadline = request.deadline.or(engine.caller.deadline);
        }
        let counted = Arc::new(InFlight::new(&engine.shared.in_flight));
        let (lease, tenant) = (self.lease, engine.caller.tenant);
        lease.check(&requests)?;
        // A prompt may be long, and tokenizing it is arithmetic.
        let submit = move || {
            let streams = lease.submit_all(&requests, tenant)?;
            // The streams outlive the pipeline where that is unloaded under them.
            let inside = Arc::new(lease.let_go());
            let guarded = streams.into_iter().map(|s| s.guarded(inside.clone()));
            Ok::<Vec<_>, Error>(guarded.collect())
        };
        let begun = async {
            let streams = tokio::task::spawn_blocking(submit).await;
            let streams = streams.map_err(|error| Error::Internal(error.to_string()))??;
            let counts = streams.into_iter().map(|s| s.guarded(counted.clone()));
            let mut streams: Vec<GenerateStream> = counts.collect();
            if let Some(first) = streams.first_mut() {
                first.begin().await?;
            }
            Ok(streams)
        };
        let after = engine.shared.limits.request_timeout;
        tokio::time::timeout(after, begun)
            .await
            .map_err(|_| Error::Timeout { after })?
    }
}

/// Makes a session of a model that generates. Its threads have the priority of the one that makes
/// it: the low one of the workers that each own a part of the cores, because what generates gives
/// way to whoever answers queries.
///
/// # Errors
/// When making it panics.
pub fn polite<T: Send>(session: impl FnOnce() -> T + Send) -> Result<T> {
    let lowered = || {
        priority::lower();
        session()
    };
    let made = std::thread::scope(|scope| scope.spawn(lowered).join());
    made.map_err(|_| Error::Internal("making a session panicked".into()))
}

#[cfg(test)]
mod tests;
