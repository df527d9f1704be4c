//! The one core under all dialects. It knows requests and models, no wire format.

pub mod encode;
mod fault;
pub mod generate;
mod generating;
mod in_flight;
pub mod lane;
mod limits;
mod probe;
mod registry;
pub mod request;
mod served;
mod sessions;
mod usage;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

pub(crate) use self::limits::worker_threads;
use self::{
    encode::{
        Cache, Device, DeviceLimits, GpuSchedules, Host, Parts, Pipeline, PipelineLimits,
        TokenizerPool,
    },
    in_flight::InFlight,
    lane::Caller,
    registry::{Found, Registry},
    request::{
        Backlog, ClassifyRequest, ClassifyResponse, DetokenizeRequest, DetokenizeResponse,
        EmbedRequest, EmbedResponse, ModelInfo, Pairs, PiecesRequest, PiecesResponse,
        RerankRequest, RerankResponse, ScoreRequest, ScoreResponse, Task, TokenizeRequest,
        TokenizeResponse,
    },
    served::Served,
    usage::Lease,
};
pub use self::{
    fault::Faults,
    generating::{Generator, polite},
    limits::EngineLimits,
    probe::Probe,
    registry::{Claim, ModelUse},
    usage::{Alarm, Clock, Expiry, Retired, Usage},
};
pub use crate::keep_alive::KeepAlive;
use crate::{
    error::{Error, Result},
    telemetry::Telemetry,
    unix_time,
};

/// The handle that all handlers hold; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    /// For whom the verbs of this handle work.
    caller: Caller,
}

struct Shared {
    registry: Registry,
    limits: EngineLimits,
    host: Host,
    telemetry: Telemetry,
    draining: AtomicBool,
    in_flight: Arc<AtomicUsize>,
    wake: OnceLock<Wake>,
}

/// Begins to load a model again that was unloaded; told its served name. Must not block.
pub type Wake = Box<dyn Fn(&str) + Send + Sync>;

impl Engine {
    /// An engine that serves nothing yet.
    ///
    /// # Errors
    /// When the operating system refuses threads.
    pub fn new(limits: EngineLimits, telemetry: Telemetry) -> Result<Self> {
        Self::with_clock(limits, telemetry, Clock::system())
    }

    /// An engine for which idle time passes as `clock` tells.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn with_clock(limits: EngineLimits, telemetry: Telemetry, clock: Clock) -> Result<Self> {
        let shares = limits.scheduling.shares();
        let device = DeviceLimits::of_processor(limits.max_batch_tokens, limits.slots());
        let device = Device::new(device, shares);
        let host = Host {
            pool: TokenizerPool::new(limits.threads)?,
            gpus: GpuSchedules::new(limits.max_gpu_batch_tokens, shares),
            device,
            faults: Faults::default(),
            cache: Cache::new(limits.scheduling.cache_bytes),
        };
        let shared = Shared {
            registry: Registry::with_clock(clock),
            limits,
            host,
            telemetry,
            draining: AtomicBool::new(false),
            in_flight: Arc::default(),
            wake: OnceLock::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            caller: Caller::default(),
        })
    }

    /// The same engine, working for somebody.
    #[must_use]
    pub fn working_for(&self, caller: Caller) -> Self {
        Self {
            shared: self.shared.clone(),
            caller,
        }
    }

    /// Makes a model's name visible while it loads.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn register(&self, info: ModelInfo) -> Result<()> {
        self.claim(info, Claim::Strict)
    }

    /// Makes a model's name visible while it loads, with a say in what taken names mean.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn claim(&self, info: ModelInfo, claim: Claim) -> Result<()> {
        self.shared.registry.register(info, claim)
    }

    /// Tells where the files of a registered model came from.
    pub fn found(&self, name: &str, origin: String, revision: Option<String>) {
        self.shared.registry.found(name, origin, revision);
    }

    /// Records why a registered model did not load. A model that was asleep stays so, and who
    /// waits for it gets the reason.
    pub fn failed(&self, name: &str, reason: String) {
        self.shared.registry.failed(name, reason);
    }

    /// Opens a registered model on encoders that exist already: the seam where tests put a fake.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn serve_parts(&self, parts: Parts) -> Result<()> {
        let name = parts.name.clone();
        let limits = PipelineLimits {
            max_queue_tokens: self.shared.limits.max_queue_tokens,
            scheduling: self.shared.limits.scheduling,
            untrained_dimensions: self.shared.limits.untrained_dimensions,
        };
        let pipeline = Pipeline::start(parts, limits, self.shared.host.clone())?;
        let now = unix_time::now().as_secs();
        let served = Served::Encoder(Arc::new(pipeline));
        self.shared.registry.ready(&name, served, now);
        Ok(())
    }

    /// Vectors for texts.
    ///
    /// # Errors
    /// See [`Error`]: what is wrong with the request, or why it cannot be served now.
    pub async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        self.admit("input", request.inputs.len())?;
        self.in_time(async {
            let pipeline = self.awake(request.model.as_deref(), Task::Embed).await?;
            pipeline.embed(request, &self.caller).await
        })
        .await
    }

    /// Documents in the order of what they say about a query.
    ///
    /// # Errors
    /// As [`Engine::embed`].
    pub async fn rerank(&self, request: RerankRequest) -> Result<RerankResponse> {
        let top_n = request.top_n;
        let pairs = Pairs {
            queries: Arc::new([request.query]),
            documents: request.documents,
        };
        let scored = self.score(ScoreRequest {
            model: request.model,
            pairs,
            options: request.options,
        });
        Ok(RerankResponse::new(scored.await?, top_n))
    }

    /// A score for each pair, in the order of the request.
    ///
    /// # Errors
    /// As [`Engine::embed`].
    pub async fn score(&self, request: ScoreRequest) -> Result<ScoreResponse> {
        self.admit("documents", request.pairs.documents.len())?;
        let (queries, documents) = (request.pairs.queries.len(), request.pairs.documents.len());
        if queries != 1 && queries != documents {
            return Err(Error::invalid(
                "query",
                format!(
                    "{queries} queries do not go with {documents} documents; send one query, or \
                     one for each document"
                ),
            ));
        }
        self.in_time(async {
            let pipeline = self.awake(request.model.as_deref(), Task::Rerank).await?;
            pipeline.score(request, &self.caller).await
        })
        .await
    }

    /// Scores of all labels for texts and pairs.
    ///
    /// # Errors
    /// As [`Engine::embed`].
    pub async fn classify(&self, request: ClassifyRequest) -> Result<ClassifyResponse> {
        self.admit("input", request.inputs.len())?;
        self.in_time(async {
            let pipeline = self.awake(request.model.as_deref(), Task::Classify).await?;
            pipeline.classify(request, &self.caller).await
        })
        .await
    }

    /// The tokens of texts, without a forward pass. Without a name, the model is that of
    /// [`Engine::embed`].
    ///
    /// # Errors
    /// As [`Engine::embed`].
    pub async fn tokenize(&self, request: TokenizeRequest) -> Result<TokenizeResponse> {
        self.admit("input", request.texts.len())?;
        self.in_time(async {
            let pipeline = self.awake(request.model.as_deref(), Task::Embed).await?;
            pipeline.tokens(request).await
        })
        .await
    }

    /// The texts that token ids stand for.
    ///
    /// # Errors
    /// As [`Engine::embed`]; and when an id is outside the vocabulary.
    pub async fn detokenize(&self, request: DetokenizeRequest) -> Result<DetokenizeResponse> {
        self.admit("tokens", request.ids.len())?;
        self.in_time(async {
            let pipeline = self.awake(request.model.as_deref(), Task::Embed).await?;
            pipeline.detokenize(request).await
        })
        .await
    }

    /// The tokens that ids stand for.
    ///
    /// # Errors
    /// As [`Engine::detokenize`].
    pub async fn pieces(&self, request: PiecesRequest) -> Result<PiecesResponse> {
        self.admit("input", request.ids.len())?;
        self.in_time(async {
            let pipeline = self.awake(request.model.as_deref(), Task::Embed).await?;
            pipeline.pieces(&request)
        })
        .await
    }

    /// Has a model loaded again that sleeps, without anything for it to do.
    ///
    /// # Errors
    /// As [`Engine::embed`].
    pub async fn wake(&self, name: &str, task: Task) -> Result<()> {
        self.in_time(async { self.lease(Some(name), task).await.map(drop) })
            .await
    }

    /// Refuses what is too much, or comes too late, before anything is done for it.
    fn admit(&self, field: &'static str, inputs: usize) -> Result<()> {
        if let Some(reason) = self.faults().current() {
            return Err(Faults::error(&reason));
        }
        if self.is_draining() {
            return Err(Error::NotReady("the server is shutting down".into()));
        }
        let most = self.shared.limits.max_inputs_per_request;
        if inputs == 0 || inputs > most {
            return Err(Error::invalid(
                field,
                format!(
                    "`{field}` has {inputs} items; 1 to {most} are allowed \
                     (`max_inputs_per_request` sets the limit)"
                ),
            ));
        }
        Ok(())
    }

    /// The encoder that a request is for; see [`Engine::lease`].
    async fn awake(&self, name: Option<&str>, task: Task) -> Result<Lease<Arc<Pipeline>>> {
        let lease = self.lease(name, task).await?;
        lease
            .narrow(Served::into_encoder)
            .ok_or_else(|| Error::Internal("what was found is no encoder".into()))
    }

    /// The model that a request is for, loaded again first if it sleeps; the caller bounds the
    /// wait. Of any number of requests that wait for a model, the first has it loaded.
    async fn lease(&self, name: Option<&str>, task: Task) -> Result<Lease> {
        let mut waited = false;
        loop {
            let mut waiting = match self.shared.registry.find(name, task)? {
                Found::Awake(lease) => return Ok(lease),
                Found::Asleep(waiting) => waiting,
            };
            if let Some(reason) = waiting.trouble.filter(|_| waited && waiting.asleep) {
                let model = &waiting.name;
                return Err(Error::NotReady(format!(
                    "model `{model}` was unloaded and cannot be loaded again: {reason}"
                )));
            }
            if self.shared.registry.start_waking(&waiting.name) {
                match self.shared.wake.get() {
                    Some(wake) => wake(&waiting.name),
                    None => self
                        .shared
                        .registry
                        .failed(&waiting.name, "nobody loads models here".into()),
                }
            }
            // It ends with the model: then the next look says that there is none.
            let _ = waiting.changed.changed().await;
            waited = true;
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let _counted = InFlight::new(&self.shared.in_flight);
        let mut after = self.shared.limits.request_timeout;
        if let Some(deadline) = self.caller.deadline {
            after = after.min(deadline.saturating_duration_since(Instant::now()));
        }
        tokio::select! {
            biased;
            done = tokio::time::timeout(after, work) => done.map_err(|_| Error::Timeout { after })?,
            reason = self.faults().happened() => Err(Faults::error(&reason)),
        }
    }

    /// Where faults are told that no model survives.
    pub fn faults(&self) -> &Faults {
        &self.shared.host.faults
    }

    /// Every model, in order of registration.
    pub fn models(&self) -> Vec<ModelInfo> {
        self.shared.registry.list()
    }

    /// One model, by name or alias.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn model(&self, name: &str) -> Result<ModelInfo> {
        self.shared.registry.get(name)
    }

    /// The model of this name, or the one that a request without a name gets for a task.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn choose(&self, name: Option<&str>, task: Task) -> Result<ModelInfo> {
        self.shared.registry.choose(name, task)
    }

    /// The bounds that it was made with.
    pub fn limits(&self) -> EngineLimits {
        self.shared.limits
    }

    /// How many requests are being worked on or wait.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// What waits for a model; nothing when it is unknown or not loaded.
    pub fn backlog(&self, name: &str) -> Backlog {
        let Ok(wanted) = self.model(name) else {
            return Backlog::default();
        };
        let found = self.shared.registry.pipeline(&wanted.name);
        found
            .and_then(|(_, pipeline, _)| pipeline)
            .map_or_else(Backlog::default, |pipeline| pipeline.backlog())
    }

    /// Sets how long a model stays in memory without requests, from its next load on.
    pub fn set_keep_alive(&self, name: &str, keep_alive: KeepAlive) {
        self.shared.registry.keep_alive(name, keep_alive);
    }

    /// A request wishes how long its model stays; that holds until the model is unloaded.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn wish_keep_alive(&self, name: &str, keep_alive: KeepAlive) -> Result<()> {
        self.shared.registry.wish(name, keep_alive)
    }

    /// Takes an idle model out of memory and keeps its name; `None` when it is used or not loaded.
    pub fn put_to_sleep(&self, name: &str) -> Option<Retired> {
        self.shared.registry.put_to_sleep(name)
    }

    /// Takes a model's sessions away while others are made for it; requests wait.
    pub fn put_aside(&self, name: &str) -> Option<Retired> {
        self.shared.registry.put_aside(name)
    }

    /// Forgets a model; those inside may finish.
    pub fn remove(&self, name: &str) -> Option<Retired> {
        self.shared.registry.remove(name)
    }

    /// The use of every model, in order of registration.
    pub fn uses(&self) -> Vec<ModelUse> {
        self.shared.registry.uses()
    }

    /// What rings when a model may have become idle.
    pub fn alarm(&self) -> Arc<Alarm> {
        self.shared.registry.alarm()
    }

    /// Says who loads models again. The first who says so stays.
    pub fn on_wake(&self, wake: Wake) {
        // Only a second caller is refused, and there is one fleet.
        let _ = self.shared.wake.set(wake);
    }

    /// Where counts go.
    pub fn telemetry(&self) -> &Telemetry {
        &self.shared.telemetry
    }

    /// Refuses new requests; those inside are still answered.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Whether [`Engine::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }
}
