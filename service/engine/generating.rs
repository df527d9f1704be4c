//! The engine's verb for text that continues a prompt.

use std::sync::{Arc, atomic::Ordering};

use retort_models::{DecoderInfo, Tokenizer};

use super::{
    Engine, Shared,
    encode::priority,
    generate::{
        GenerateStream, MAX_PREFILL_TOKENS, MAX_SEQUENCES, Parts, Pipeline, PipelineLimits, Turns,
        template::ChatTemplate,
    },
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

    /// Text that continues a prompt, piece by piece. It is there when the first piece is, so all
    /// that can go wrong before is told here. Dropping it, or this future, ends the generation.
    ///
    /// # Errors
    /// See [`Error`]: what is wrong with the request, or why it cannot be served now.
    pub async fn generate(&self, request: GenerateRequest) -> Result<GenerateStream> {
        let generator = self.generator(request.model.as_deref()).await?;
        generator.generate(request).await
    }

    /// A model that generates, loaded again first if it sleeps.
    ///
    /// # Errors
    /// As [`Engine::generate`].
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

    /// The most tokens of a prompt and its answer: the model's, or what its cache holds.
    pub fn max_context(&self) -> usize {
        self.lease.max_context()
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.lease.tokenizer()
    }

    /// How the model turns messages into a prompt, as its checkpoint has it.
    pub fn chat_template(&self) -> Option<&Arc<str>> {
        self.lease.chat_template()
    }

    /// The same, compiled.
    ///
    /// # Errors
    /// When the checkpoint has none, or one that cannot be read.
    pub fn template(&self) -> Result<Arc<ChatTemplate>> {
        self.lease.template()
    }

    /// Continues a prompt; the `model` of the request is not looked at. See [`Engine::generate`].
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub async fn generate(self, mut request: GenerateRequest) -> Result<GenerateStream> {
        let engine = self.engine;
        request.deadline = request.deadline.or(engine.caller.deadline);
        let counted = Counted::new(&engine);
        let (lease, tenant) = (self.lease, engine.caller.tenant);
        lease.check(&request)?;
        // A prompt may be long, and tokenizing it is arithmetic.
        let submit = move || {
            let stream = lease.submit(&request, tenant)?;
            // The stream outlives the pipeline where that is unloaded under it.
            Ok(stream.guarded(lease.let_go()))
        };
        let first = async {
            let stream = tokio::task::spawn_blocking(submit).await;
            let stream = stream.map_err(|error| Error::Internal(error.to_string()))??;
            stream.guarded(counted).begun().await
        };
        let after = engine.shared.limits.request_timeout;
        tokio::time::timeout(after, first)
            .await
            .map_err(|_| Error::Timeout { after })?
    }
}

/// What generates gives way to whoever answers queries: its threads have the low priority of the
/// workers that each own a part of the cores.
#[derive(Debug, Default)]
pub struct Polite {
    lowered: bool,
}

impl Turns for Polite {
    fn begin(&mut self, _tokens: usize) {
        if !self.lowered {
            priority::lower();
            self.lowered = true;
        }
    }

    fn end(&mut self) {}
}

impl Polite {
    /// Makes a session, whose threads have the priority of the one that makes it.
    ///
    /// # Errors
    /// When making it panics.
    pub fn make<T: Send>(session: impl FnOnce() -> T + Send) -> Result<T> {
        let polite = || {
            priority::lower();
            session()
        };
        let made = std::thread::scope(|scope| scope.spawn(polite).join());
        made.map_err(|_| Error::Internal("making a session panicked".into()))
    }
}

/// Counts a generation for as long as it is read.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(engine: &Engine) -> Self {
        engine.shared.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(engine.shared.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
