//! `/openapi.json`, built from the route table, and a page that shows it. The page is Swagger UI,
//! compiled in, so that it works on a machine without a way out.

mod dialects;
pub mod generating;
pub mod peers;

use std::sync::Arc;

use axum::{
    Json,
    extract::{OriginalUri, Path, rejection::PathRejection},
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, header};
use utoipa::{
    ToSchema,
    openapi::{
        Components, ComponentsBuilder, Content, HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder,
        PathItem, PathsBuilder, Ref, RefOr, Required, Response as Described, ResponseBuilder,
        ResponsesBuilder,
        path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type},
        security::{
            ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
        },
    },
};

pub use self::dialects::*;
use super::{
    ROUTES, Route,
    access::Access,
    classify::{ClassifyAnswer, ClassifyBody},
    errors::{ErrorBody, NumberedError, OllamaError, TeiError},
    health::{Alive, Health, Readiness, Version},
    infinity::InfinityLabels,
    models::{ModelList, ModelRecord},
    openai::{EmbeddingsAnswer, EmbeddingsBody},
    rerank::{RerankAnswer, RerankBody, TeiRank},
    score::{ScoreAnswer, ScoreBody},
    xinference,
};
use crate::error::{Error, Result};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// `GET /openapi.json`.
pub async fn openapi_json() -> Json<OpenApi> {
    Json(description())
}

/// `GET /docs`. The page names its files relative to itself, so its address ends with a slash;
/// the redirect is relative, too, and so survives a proxy that adds a prefix.
pub async fn page(OriginalUri(uri): OriginalUri) -> Result<Response> {
    if uri.path().ends_with('/') {
        asset("index.html")
    } else {
        Ok(Redirect::to("docs/").into_response())
    }
}

/// `GET /docs/{file}`: the parts of the page.
pub async fn file(file: Result<Path<String>, PathRejection>) -> Result<Response> {
    let Path(file) = file.map_err(|error| Error::InvalidRequest {
        message: format!("the path of the file: {}", error.body_text()),
        param: None,
    })?;
    asset(&file)
}

fn asset(name: &str) -> Result<Response> {
    // `none` keeps the page from asking a validator on the internet about this server.
    let config = utoipa_swagger_ui::Config::from("../openapi.json").validator_url("none");
    let file = utoipa_swagger_ui::serve(name, Arc::new(config))
        .map_err(|error| Error::Internal(format!("the page `{name}`: {error}")))?
        .ok_or_else(|| Error::RouteNotFound {
            method: "GET".into(),
            path: format!("/docs/{}", super::extract::shorten(name, 200)),
        })?;
    let headers = [(header::CONTENT_TYPE, file.content_type)];
    Ok((headers, file.bytes.into_owned()).into_response())
}

fn description() -> OpenApi {
    let mut paths = PathsBuilder::new();
    for route in ROUTES {
        for path in route.paths {
            paths = paths.path(
                documented(path),
                PathItem::new(verb(route), operation(route, path)),
            );
        }
    }
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Retort")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some("Texts in; vectors, scores and answers out.")),
        )
        .paths(paths)
        .components(Some(components()))
        .build()
}

fn verb(route: &Route) -> HttpMethod {
    match route.method {
        Method::POST => HttpMethod::Post,
        Method::DELETE => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

/// What the table knows is added to what the row's own description says.
fn operation(route: &Route, path: &str) -> Operation {
    let mut operation = (route.describe)();
    operation.tags = Some(vec![route.task.to_owned()]);
    if path != route.paths[0] {
        operation.description = Some(format!("The same as `{}`.", documented(route.paths[0])));
    }
    operation
        .responses
        .responses
        .insert("default".into(), RefOr::T(failure(route)));
    operation.security = match route.access {
        Access::Open => None,
        Access::Metrics | Access::Inference | Access::Admin => {
            let none: [&str; 0] = [];
            Some(
                ["bearer", "key"]
                    .map(|name| SecurityRequirement::new(name, none))
                    .into(),
            )
        }
    };
    let parameters: Vec<_> = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let parameter = ParameterBuilder::new()
                .name(name.trim_start_matches('*'))
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
            RefOr::T(parameter.build())
        })
        .collect();
    operation.parameters = (!parameters.is_empty()).then_some(parameters);
    operation
}

/// What went wrong, in the form of the dialect; the body decides about that on contested paths.
fn failure(route: &Route) -> Described {
    let contested = ["rerank", "classify", "tokenize", "invoke"].contains(&route.task);
    let schema: RefOr<Schema> = if contested {
        let forms = ["ErrorBody", "TeiError", "OllamaError", "NumberedError"];
        let all = forms.into_iter().fold(AnyOfBuilder::new(), |all, form| {
            all.item(Ref::from_schema_name(form))
        });
        Schema::AnyOf(all.build()).into()
    } else {
        Ref::from_schema_name(route.dialect.schema).into()
    };
    ResponseBuilder::new()
        .description("What went wrong")
        .content(JSON, Content::new(Some(schema)))
        .build()
}

/// A path as OpenAPI writes it: `{*model}` is `{model}` there.
fn documented(path: &str) -> String {
    path.replace("{*", "{")
}

fn components() -> Components {
    let mut schemas = Vec::new();
    add::<EmbeddingsBody>(&mut schemas);
    add::<EmbeddingsAnswer<'_>>(&mut schemas);
    add::<RerankBody>(&mut schemas);
    add::<RerankAnswer<'_>>(&mut schemas);
    add::<ScoreBody>(&mut schemas);
    add::<ScoreAnswer<'_>>(&mut schemas);
    add::<ClassifyBody>(&mut schemas);
    add::<ClassifyAnswer<'_>>(&mut schemas);
    add::<ModelList>(&mut schemas);
    add::<Health>(&mut schemas);
    add::<Alive>(&mut schemas);
    add::<Readiness>(&mut schemas);
    add::<Version>(&mut schemas);
    add::<ErrorBody<'_>>(&mut schemas);
    add::<TeiError<'_>>(&mut schemas);
    add::<OllamaError<'_>>(&mut schemas);
    add::<NumberedError<'_>>(&mut schemas);
    add::<TeiRank<'_>>(&mut schemas);
    add_all(&mut schemas);
    generating::schemas(&mut schemas);
    peers::schemas(&mut schemas);
    xinference::docs::add_schemas(&mut schemas);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let key = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
    ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .security_scheme("key", SecurityScheme::ApiKey(key))
        .build()
}

/// Adds a type and all that it refers to.
pub fn add<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

/// The description of the embedding routes.
pub fn embeddings() -> Operation {
    posted::<EmbeddingsBody>(
        "Texts to vectors",
        answers::<EmbeddingsAnswer<'_>>("One vector per input"),
    )
}

/// The description of the rerank routes.
pub fn rerank() -> Operation {
    posted::<RerankBody>(
        "Documents in the order of what they say about a query",
        answers_either(
            reference::<RerankAnswer<'_>>(),
            ArrayBuilder::new()
                .items(reference::<TeiRank<'_>>())
                .build(),
            "The best first; a bare list for text-embeddings-inference's fields",
        ),
    )
}

/// The description of the routes that score pairs.
pub fn score() -> Operation {
    posted::<ScoreBody>(
        "Pairs of texts to scores",
        answers::<ScoreAnswer<'_>>("One score per pair"),
    )
}

/// The description of the routes that give labels.
pub fn classify() -> Operation {
    posted::<ClassifyBody>(
        "Texts to labels",
        answers_either(
            reference::<ClassifyAnswer<'_>>(),
            reference::<InfinityLabels<'_>>(),
            "All labels of each input; in Infinity's form for its clients",
        ),
    )
}

/// A route that answers with an object.
pub fn answered<T: ToSchema>(summary: &str) -> Operation {
    describe(summary, answers::<T>("What was asked for"))
}

/// A route that answers with a list.
pub fn answered_list<T: ToSchema>(summary: &str) -> Operation {
    let list = ArrayBuilder::new().items(T::schema()).build();
    describe(summary, answers_with(JSON, list.into(), "A list"))
}

/// A route that answers with null.
pub fn answered_null(summary: &str) -> Operation {
    let null = ObjectBuilder::new().schema_type(Type::Null).build();
    describe(summary, answers_with(JSON, null.into(), "Done"))
}

/// A route that answers with a JSON value without a shape.
pub fn answered_text(summary: &str) -> Operation {
    describe(summary, answers_as(JSON, "What was asked for"))
}

/// The same operation with a body.
pub fn posting<T: ToSchema>(mut operation: Operation) -> Operation {
    let body = RequestBodyBuilder::new()
        .content(JSON, Content::new(Some(reference::<T>())))
        .required(Some(Required::True));
    operation.request_body = Some(RefOr::T(body.build()));
    operation
}

fn posted<T: ToSchema>(summary: &str, responses: ResponsesBuilder) -> Operation {
    posting::<T>(describe(summary, responses))
}

/// The description of the list of models.
pub fn models() -> Operation {
    describe("What is served", answers::<ModelList>("Every model"))
}

/// The description of one model's record.
pub fn model() -> Operation {
    describe(
        "One model",
        answers::<ModelRecord>("The model of that name, alias or hub id"),
    )
}

/// The description of `/health`.
pub fn health() -> Operation {
    describe("Whether any model is ready", answers::<Health>("One is"))
}

/// The description of `/livez`.
pub fn livez() -> Operation {
    describe("Whether the process lives", answers::<Alive>("It does"))
}

/// The description of `/readyz`.
pub fn readyz() -> Operation {
    let not_ready = ResponseBuilder::new()
        .description("A model is not ready")
        .content(JSON, Content::new(Some(reference::<Readiness>())));
    let responses = answers::<Readiness>("All are").response("503", not_ready);
    describe("A forward pass on every model", responses)
}

/// The description of `/version`.
pub fn version() -> Operation {
    describe(
        "Versions",
        answers::<Version>("Of this program and of ONNX Runtime"),
    )
}

/// The description of `/metrics`.
pub fn metrics() -> Operation {
    describe("Metrics", answers_as(TEXT, "For Prometheus"))
}

/// The description of `/`.
pub fn root() -> Operation {
    describe("Where to find the rest", answers_as(TEXT, "A short text"))
}

/// The description of `/openapi.json`.
pub fn openapi() -> Operation {
    describe("This description", answers_as(JSON, "OpenAPI 3.1"))
}

/// The description of `/docs`.
pub fn page_doc() -> Operation {
    describe(
        "This description, to read and try out",
        answers_as("text/html", "A page"),
    )
}

/// The description of the files of `/docs`.
pub fn file_doc() -> Operation {
    describe(
        "A part of the page",
        answers_as("application/octet-stream", "A file"),
    )
}

fn describe(summary: &str, responses: ResponsesBuilder) -> Operation {
    OperationBuilder::new()
        .summary(Some(summary))
        .responses(responses.build())
        .build()
}

fn answers<T: ToSchema>(description: &str) -> ResponsesBuilder {
    let content = Content::new(Some(reference::<T>()));
    let response = ResponseBuilder::new()
        .description(description)
        .content(JSON, content);
    ResponsesBuilder::new().response("200", response)
}

/// One of two forms.
fn answers_either(
    one: impl Into<RefOr<Schema>>,
    other: impl Into<RefOr<Schema>>,
    description: &str,
) -> ResponsesBuilder {
    let either = AnyOfBuilder::new().item(one).item(other).build();
    answers_with(JSON, Schema::AnyOf(either), description)
}

/// A text, or any JSON.
fn answers_as(content_type: &str, description: &str) -> ResponsesBuilder {
    let kind = match content_type {
        JSON => SchemaType::AnyValue,
        _ => Type::String.into(),
    };
    let any = ObjectBuilder::new().schema_type(kind).build();
    answers_with(content_type, any.into(), description)
}

fn answers_with(content_type: &str, schema: Schema, description: &str) -> ResponsesBuilder {
    let response = ResponseBuilder::new()
        .description(description)
        .content(content_type, Content::new(Some(schema)));
    ResponsesBuilder::new().response("200", response)
}

fn reference<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}
