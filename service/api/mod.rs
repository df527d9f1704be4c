//! The HTTP edge: wire formats ⇄ engine types, and no logic beyond that.
//!
//! [`ROUTES`] is the whole surface. The router, the decision who may call what, the labels of
//! logs and metrics and the OpenAPI description all follow from it.

pub mod access;
mod addressed;
mod answer;
mod caller;
mod chat;
mod classify;
mod cohere;
mod completions;
mod contested;
mod docs;
mod errors;
mod extract;
mod fields;
mod generation;
mod health;
mod infinity;
mod llama_cpp;
mod models;
mod observe;
mod ollama;
pub mod openai;
mod origins;
mod path;
pub mod rate;
pub mod rerank;
mod score;
pub mod settings;
mod tei;
mod texts;
pub mod upstream;
mod vllm;
mod xinference;

#[cfg(test)]
mod tests;

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state, map_request},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use http::Method;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::path::Operation;

use self::{
    access::Access::{Admin, Inference, Metrics, Open},
    addressed::Addressed,
    docs::{generating, peers},
    errors::{COHERE, Dialect, INFINITY, LLAMA_CPP, NATIVE, OLLAMA, OPENAI, TEI, VLLM, XINFERENCE},
    extract::RawBody,
    observe::RequestLog,
    rate::{Meter, RateLimits},
    xinference::{
        cache, cluster, docs as described, engines, instances, launch, pieces, registrations,
    },
};
pub use self::{
    access::{Access, ApiKeys},
    settings::{ApiSettings, PagesMay, RateSettings, TokenIds},
};
use crate::{
    engine::Engine,
    error::{Error, Result},
    fleet::Fleet,
    lifetime::Lifetime,
    telemetry::Telemetry,
};

/// What all handlers share.
#[derive(Clone)]
pub struct AppState {
    /// The core.
    pub engine: Engine,
    /// The models that come and go.
    pub fleet: Fleet,
    /// When the server began, and the way to end it.
    pub lifetime: Arc<Lifetime>,
    /// Limits and choices of the edge.
    pub settings: Arc<ApiSettings>,
    /// Where requests are counted.
    pub telemetry: Telemetry,
}

impl AppState {
    /// The engine, working for whoever has sent this request.
    fn engine_for(&self, log: &RequestLog) -> Engine {
        self.engine.working_for(log.caller())
    }

    /// Names the model of a request before the work starts, so that the log has it even when
    /// nothing comes of it.
    fn announce(&self, log: &RequestLog, model: Option<&str>) {
        if let Some(name) = model
            && let Ok(info) = self.engine.model(name)
        {
            log.about(&info.name);
        }
    }

    /// The answer of the server elsewhere that has the model of this body. None where a model of
    /// that name is served here, or where the address names one, which a body that goes on as it
    /// came would not tell.
    ///
    /// # Errors
    /// As [`upstream::Upstream::pass`].
    async fn elsewhere(
        &self,
        path: &'static str,
        raw: &RawBody,
        addressed: &Addressed,
        log: &RequestLog,
    ) -> Result<Option<Response>> {
        let Addressed(None) = addressed else {
            return Ok(None);
        };
        let is_here = |name: &str| {
            let found = self.engine.model(name);
            found.is_ok_and(|model| model.name == name)
        };
        let upstream = self.settings.upstreams.of(&raw.0)?;
        let Some(upstream) = upstream.filter(|upstream| !is_here(upstream.model())) else {
            return Ok(None);
        };
        log.about(upstream.model());
        let patience = self.settings.request_timeout;
        let answer = upstream.pass(path, raw.0.clone(), patience).await?;
        Ok(Some(answer))
    }
}

/// One row of the route table.
#[derive(Debug)]
pub struct Route {
    /// GET rows answer HEAD as well.
    pub method: Method,
    /// The path and its aliases, as axum writes them.
    pub paths: &'static [&'static str],
    /// What callers must show.
    pub access: Access,
    /// Who draws the errors.
    pub dialect: &'static Dialect,
    /// What is asked, for logs and metrics.
    pub task: &'static str,
    handler: fn() -> MethodRouter<AppState>,
    describe: fn() -> Operation,
}

macro_rules! routes {
    ($($verb:ident $access:ident $dialect:ident $task:literal $handler:path, $describe:path:
       $($path:literal)+;)+) => {
        &[$(Route {
            method: routes!(@method $verb),
            paths: &[$($path),+],
            access: $access,
            dialect: &$dialect,
            task: $task,
            handler: || $verb($handler),
            describe: $describe,
        }),+]
    };
    (@method get) => { Method::GET };
    (@method post) => { Method::POST };
    (@method delete) => { Method::DELETE };
}

/// The whole HTTP surface. A row cannot be written without its access.
#[rustfmt::skip]
pub static ROUTES: &[Route] = routes! {
    post Inference OPENAI "embed"   openai::embeddings, docs::embeddings:
        "/v1/embeddings" "/embeddings";
    post Inference OPENAI "embed"   openai::model_embeddings, docs::embeddings:
        "/v1/engines/{model}/embeddings"
        "/tei/{model}/v1/embeddings" "/tei/{model}/embeddings";
    post Inference OPENAI "rerank"  rerank::rerank, docs::rerank: "/v1/rerank" "/v1/reranking";
    post Inference OPENAI "rerank"  rerank::rerank_bare, docs::rerank: "/rerank" "/reranking";
    post Inference COHERE "rerank"  rerank::rerank_v2, docs::rerank: "/v2/rerank";
    post Inference TEI    "rerank"  rerank::model_rerank, docs::rerank: "/tei/{model}/rerank";
    post Inference OLLAMA "rerank"  rerank::rerank_plain, docs::rerank: "/api/rerank";
    post Inference INFINITY "rerank" rerank::rerank_infinity, docs::rerank: "/infinity/rerank";
    post Inference OPENAI "score"   score::score, docs::score: "/v1/score" "/score";
    post Inference OPENAI "classify" classify::classify, docs::classify: "/v1/classify";
    post Inference OPENAI "classify" classify::classify_bare, docs::classify: "/classify";
    post Inference INFINITY "classify" classify::classify_infinity, peers::infinity_classify:
        "/infinity/classify";
    post Inference OPENAI "tokenize" contested::tokenize, docs::tokenize:
        "/tokenize" "/v1/tokenize";
    post Inference OPENAI "decode"  vllm::detokenize, docs::detokenize: "/detokenize";
    post Inference COHERE "decode"  cohere::detokenize, peers::cohere_detokenize:
        "/v1/detokenize";
    post Inference COHERE "embed"   cohere::embed, peers::cohere_embed: "/v1/embed";
    post Inference COHERE "embed"   cohere::embed_v2, peers::cohere_embed: "/v2/embed";
    post Inference TEI    "embed"   tei::embed, docs::tei_embed: "/embed" "/tei/{model}/embed";
    post Inference TEI    "embed"   tei::embed_all, docs::tei_embed_all:
        "/embed_all" "/tei/{model}/embed_all";
    post Inference TEI    "embed"   tei::embed_sparse, docs::tei_embed_sparse:
        "/embed_sparse" "/tei/{model}/embed_sparse";
    post Inference TEI    "similarity" tei::similarity, docs::tei_similarity:
        "/similarity" "/tei/{model}/similarity";
    post Inference TEI    "classify" tei::predict, docs::tei_predict:
        "/predict" "/tei/{model}/predict";
    post Inference TEI    "decode"  tei::decode, docs::tei_decode: "/decode" "/tei/{model}/decode";
    post Inference TEI    "tokenize" tei::tokenize, docs::tei_tokenize: "/tei/{model}/tokenize";
    post Inference OPENAI "chat"    chat::completions, generating::chat:
        "/v1/chat/completions" "/chat/completions" "/tei/{model}/v1/chat/completions";
    post Inference OPENAI "complete" completions::completions, generating::completions:
        "/v1/completions" "/completions";
    post Inference OLLAMA "chat"    ollama::chat, generating::ollama_chat: "/api/chat";
    post Inference OLLAMA "complete" ollama::generate, generating::ollama_generate:
        "/api/generate";
    get  Inference TEI    "models"  tei::info, docs::tei_info: "/info" "/tei/{model}/info";
    get  Open      TEI    "probe"   tei::health, docs::tei_health:
        "/tei/{model}/health" "/tei/{model}/ping" "/tei/{model}";
    post Inference TEI    "invoke"  contested::invoke, docs::invoke:
        "/" "/invocations" "/tei/{model}" "/tei/{model}/invocations";
    post Inference VLLM   "embed"   vllm::pooling, docs::pooling: "/pooling";
    get  Inference VLLM   "about"   vllm::load, docs::load: "/load";
    post Open      NATIVE "probe"   health::health, docs::health: "/ping";
    post Inference LLAMA_CPP "embed" llama_cpp::embedding, docs::llama_embedding: "/embedding";
    post Inference LLAMA_CPP "template" llama_cpp::apply_template, generating::apply_template:
        "/apply-template";
    get  Inference LLAMA_CPP "about" llama_cpp::props, docs::llama_props: "/props";
    get  Inference LLAMA_CPP "about" llama_cpp::slots, docs::llama_slots: "/slots";
    post Inference OLLAMA "embed"   ollama::embed, peers::ollama_embed: "/api/embed";
    post Inference OLLAMA "embed"   ollama::embeddings, peers::ollama_embeddings:
        "/api/embeddings";
    get  Inference OLLAMA "models"  ollama::tags, peers::ollama_tags: "/api/tags";
    get  Inference OLLAMA "models"  ollama::ps, peers::ollama_ps: "/api/ps";
    post Inference OLLAMA "models"  ollama::show, peers::ollama_show: "/api/show";
    post Inference OLLAMA "models"  ollama::pull, peers::ollama_pull: "/api/pull";
    get  Open      OLLAMA "about"   ollama::version, peers::ollama_version: "/api/version";
    post Inference INFINITY "embed" openai::embeddings, docs::embeddings: "/infinity/embeddings";
    get  Inference INFINITY "models" infinity::models, peers::infinity_models: "/infinity/models";
    get  Open      INFINITY "probe" health::health, docs::health: "/infinity/health";
    get  Inference OPENAI "models"  models::list, docs::models: "/v1/models" "/models";
    get  Inference OPENAI "models"  models::one, docs::model:
        "/v1/models/{model}" "/models/{model}";
    get  Inference OPENAI "models"  models::hub_id, docs::model:
        "/v1/models/{owner}/{name}" "/models/{owner}/{name}";
    post   Admin     XINFERENCE "launch"  launch::launch, described::launch: "/v1/models";
    delete Admin     XINFERENCE "launch"  instances::terminate, described::terminate:
        "/v1/models/{model}";
    delete Admin     XINFERENCE "launch"  instances::terminate_hub_id, described::terminate:
        "/v1/models/{owner}/{name}";
    get    Inference XINFERENCE "models"  instances::instances, described::instances:
        "/v1/models/instances";
    get    Inference XINFERENCE "models"  instances::progress, described::progress:
        "/v1/models/{model}/progress";
    post   Admin     XINFERENCE "launch"  instances::cancel, described::cancel:
        "/v1/models/{model}/cancel";
    get    Inference XINFERENCE "models"  instances::replicas, described::replicas:
        "/v1/models/{model}/replicas";
    post   Admin     XINFERENCE "launch"  instances::add_replicas, described::add_replicas:
        "/v1/models/{model}/replicas";
    delete Admin     XINFERENCE "launch"  instances::end_replica, described::end_replica:
        "/v1/models/{model}/replicas/{replica}";
    get    Inference XINFERENCE "models"  instances::events, described::events:
        "/v1/models/{model}/events";
    post   Inference XINFERENCE "models"  instances::abort, described::abort:
        "/v1/models/{model}/requests/{request}/abort";
    post   Inference XINFERENCE "decode"  pieces::convert, described::pieces:
        "/v1/convert_ids_to_tokens";
    get    Inference XINFERENCE "catalog" registrations::list, described::registrations:
        "/v1/model_registrations/{type}";
    get    Inference XINFERENCE "catalog" registrations::one, described::registration:
        "/v1/model_registrations/{type}/{name}";
    post   Admin     XINFERENCE "catalog" registrations::register, described::register:
        "/v1/model_registrations/{type}";
    delete Admin     XINFERENCE "catalog" registrations::unregister, described::unregister:
        "/v1/model_registrations/{type}/{name}";
    get    Inference XINFERENCE "catalog" registrations::versions, described::versions:
        "/v1/models/{type}/{name}/versions";
    get    Inference XINFERENCE "catalog" engines::of_model, described::engines:
        "/v1/engines/{name}";
    get    Inference XINFERENCE "catalog" engines::of_typed_model, described::engines:
        "/v1/engines/{type}/{name}";
    get    Admin     XINFERENCE "cache"   cache::list, described::cached: "/v1/cache/models";
    get    Admin     XINFERENCE "cache"   cache::files, described::cached_files:
        "/v1/cache/models/files";
    delete Admin     XINFERENCE "cache"   cache::remove, described::remove_cached:
        "/v1/cache/models";
    get    Open      XINFERENCE "cluster" cluster::auth, described::auth: "/v1/cluster/auth";
    post   Open      XINFERENCE "cluster" cluster::token, described::token: "/token";
    get    Open      XINFERENCE "cluster" cluster::status, described::status: "/status";
    get    Open      XINFERENCE "cluster" cluster::address, described::address: "/v1/address";
    get    Admin     XINFERENCE "cluster" cluster::info, described::info: "/v1/cluster/info";
    get    Inference XINFERENCE "cluster" cluster::version, described::version:
        "/v1/cluster/version";
    get    Inference XINFERENCE "cluster" cluster::devices, described::devices:
        "/v1/cluster/devices";
    get    Open      XINFERENCE "cluster" cluster::ui_config, described::ui_config:
        "/v1/cluster/ui_config";
    get    Admin     XINFERENCE "cluster" cluster::workers, described::workers: "/v1/workers";
    get    Admin     XINFERENCE "cluster" cluster::supervisor, described::supervisor:
        "/v1/supervisor";
    delete Admin     XINFERENCE "cluster" cluster::stop, described::stop: "/v1/clusters";
    get    Open      XINFERENCE "models"  cluster::prompts, described::prompts:
        "/v1/models/prompts";
    get    Open      XINFERENCE "models"  cluster::families, described::families:
        "/v1/models/families";
    get    Open      XINFERENCE "models"  cluster::vllm_supported, described::vllm_supported:
        "/v1/models/vllm-supported";
    get  Open      NATIVE "probe"   health::health, docs::health: "/health" "/healthz" "/ping";
    get  Open      NATIVE "probe"   health::livez, docs::livez: "/livez";
    get  Open      NATIVE "probe"   health::readyz, docs::readyz: "/readyz" "/ready";
    get  Metrics   NATIVE "metrics" health::metrics, docs::metrics: "/metrics";
    get  Open      NATIVE "about"   health::version, docs::version: "/version";
    get  Open      NATIVE "about"   health::root, docs::root: "/";
    get  Open      NATIVE "docs"    docs::openapi_json, docs::openapi:
        "/openapi.json" "/api-doc/openapi.json";
    get  Open      NATIVE "docs"    docs::page, docs::page_doc: "/docs";
    get  Open      NATIVE "docs"    docs::file, docs::file_doc: "/docs/{*file}";
};

/// The service as axum runs it.
pub fn router(state: AppState) -> Router {
    let settings = state.settings.clone();
    let telemetry = state.telemetry.clone();
    layered(table(state), &settings, telemetry)
}

/// Puts around the routes what every request goes through.
fn layered(routes: Router, settings: &ApiSettings, telemetry: Telemetry) -> Router {
    // A layer of a router runs after routing, so what changes the path wraps a router of its own.
    let edge = Router::new()
        .fallback_service(routes)
        .layer(map_request(path::normalize));
    origins::layered(edge, settings)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(telemetry, observe::observe))
}

fn table(state: AppState) -> Router {
    let mut router = Router::new();
    let settings = &state.settings;
    let rates = RateLimits::new(&settings.rate, settings.keys.inference_keys()).map(Arc::new);
    for route in ROUTES {
        let guard = Guard {
            route,
            settings: settings.clone(),
            rates: rates.clone().filter(|_| route.is_limited()),
        };
        let gate = from_fn_with_state(guard, gate);
        let methods = (route.handler)().route_layer(gate);
        for path in route.paths {
            router = router.route(path, methods.clone());
        }
    }
    router
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(state)
}

/// What stands before the handler of one row.
#[derive(Clone)]
struct Guard {
    route: &'static Route,
    settings: Arc<ApiSettings>,
    /// None where nothing is limited.
    rates: Option<Arc<RateLimits>>,
}

/// Stands before every handler: names the route for the log, and checks the key, the page that a
/// browser calls for, and how much the key has had.
async fn gate(
    State(guard): State<Guard>,
    log: RequestLog,
    request: Request,
    next: Next,
) -> Response {
    log.routed(guard.route);
    let settings = &guard.settings;
    let access = match guard.route.access {
        Metrics if settings.metrics_open => Open,
        access => access,
    };
    let headers = request.headers();
    let holder = settings.keys.allow(access, headers);
    let holder = holder.and_then(|holder| {
        origins::check(settings, access, headers)?;
        log.called_by(caller::read(headers, log.started())?);
        Ok(holder)
    });
    match (holder, &guard.rates) {
        (Err(error), _) => error.into_response(),
        (Ok(_), None) => next.run(request).await,
        (Ok(holder), Some(rates)) => {
            let mut response = match rates.enter(holder) {
                Err(error) => error.into_response(),
                Ok(None) => next.run(request).await,
                Ok(Some(ticket)) => {
                    let meter = Meter::new(rates.clone(), ticket);
                    log.metered(meter.clone());
                    let response = next.run(request).await;
                    // What is written may still be on its way.
                    meter.spend(log.tokens());
                    response
                }
            };
            rates.tell(holder, &mut response);
            response
        }
    }
}

impl Route {
    /// Whether the limits of a key count here: where the server works for its caller. What only
    /// looks is free, so that a client may watch a launch.
    fn is_limited(&self) -> bool {
        self.access == Inference && self.method == Method::POST
    }
}

async fn no_route(request: Request) -> Error {
    Error::RouteNotFound {
        method: request.method().to_string(),
        path: shown_path(&request),
    }
}

async fn wrong_method(request: Request) -> Error {
    Error::MethodNotAllowed {
        method: request.method().to_string(),
        path: shown_path(&request),
    }
}

/// The path for an error message, which need not repeat all of a very long one.
fn shown_path(request: &Request) -> String {
    extract::shorten(request.uri().path(), 200)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer hands the panic over"
)]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Error::Internal(format!("a handler panicked: {text}")).into_response()
}
