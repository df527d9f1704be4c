//! Paths where the dialects' bodies have nothing in common: each is read by the handler of the one
//! whose fields it has.

use axum::{extract::State, response::Response};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    api::{
        AppState,
        addressed::Addressed,
        cohere,
        errors::{COHERE, Dialect, LLAMA_CPP, OPENAI, TEI, VLLM},
        extract::{self, JsonBody, WireBody},
        llama_cpp,
        observe::RequestLog,
        openai, rerank, score, tei, vllm,
    },
    engine::request::{ModelKind, Task},
    error::{Error, Result},
};

/// A body whose dialect is not known yet.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct AnyBody(Map<String, Value>);

impl WireBody for AnyBody {
    const FIELDS: &'static [&'static str] = &[];
}

impl AnyBody {
    /// Whether a field is there; null means not given.
    fn has(&self, field: &str) -> bool {
        self.0.get(field).is_some_and(|value| !value.is_null())
    }

    /// The same body as one dialect reads it, about the model that the address names.
    fn read<T: WireBody>(mut self, addressed: Addressed) -> Result<JsonBody<T>> {
        if let Addressed(Some(model)) = addressed {
            self.0.insert("model".into(), model.into());
        }
        extract::reread(Value::Object(self.0)).map(JsonBody)
    }

    fn model(&self) -> Option<String> {
        self.0.get("model")?.as_str().map(str::to_owned)
    }
}

/// One form of a contested path: whoever sends these fields means this dialect.
struct Row<F> {
    /// All of them; `a.b` is a field of the object `a`.
    fields: &'static [&'static str],
    dialect: &'static Dialect,
    form: F,
}

#[derive(Debug, Clone, Copy)]
enum Tokenize {
    Tei,
    Vllm,
    LlamaCpp,
    Cohere,
}

/// `POST /tokenize` and `/v1/tokenize`. The first row that fits decides.
#[rustfmt::skip]
const TOKENIZE: &[Row<Tokenize>] = &[
    Row { fields: &["inputs"], dialect: &TEI, form: Tokenize::Tei },
    Row { fields: &["prompt"], dialect: &VLLM, form: Tokenize::Vllm },
    Row { fields: &["messages"], dialect: &VLLM, form: Tokenize::Vllm },
    Row { fields: &["content"], dialect: &LLAMA_CPP, form: Tokenize::LlamaCpp },
    Row { fields: &["text"], dialect: &COHERE, form: Tokenize::Cohere },
];

#[derive(Debug, Clone, Copy)]
enum Invoke {
    Rerank,
    TeiSimilarity,
    TeiMain,
    Embeddings,
    Score,
}

/// `POST /` and `/invocations`, the one route of hosted endpoints. The first row that fits decides.
#[rustfmt::skip]
const INVOKE: &[Row<Invoke>] = &[
    Row { fields: &["query", "texts"], dialect: &TEI, form: Invoke::Rerank },
    Row { fields: &["query", "documents"], dialect: &OPENAI, form: Invoke::Rerank },
    Row { fields: &["inputs.source_sentence"], dialect: &TEI, form: Invoke::TeiSimilarity },
    Row { fields: &["inputs"], dialect: &TEI, form: Invoke::TeiMain },
    Row { fields: &["input"], dialect: &OPENAI, form: Invoke::Embeddings },
    Row { fields: &["text_1"], dialect: &OPENAI, form: Invoke::Score },
    Row { fields: &["queries"], dialect: &OPENAI, form: Invoke::Score },
    Row { fields: &["data_1"], dialect: &OPENAI, form: Invoke::Score },
];

/// Who is meant by a body. From here on errors are drawn as that dialect draws them.
fn decide<F: Copy>(body: &AnyBody, table: &[Row<F>], log: &RequestLog) -> Result<F> {
    let has = |field: &&str| match field.split_once('.') {
        Some((object, key)) => body.0.get(object).is_some_and(|o| o.get(key).is_some()),
        None => body.has(field),
    };
    if let Some(row) = table.iter().find(|row| row.fields.iter().all(has)) {
        log.speaks(row.dialect);
        return Ok(row.form);
    }
    let rows = table
        .iter()
        .map(|row| format!("`{}`", row.fields.join("` with `")));
    let rows: Vec<String> = rows.collect();
    Err(Error::InvalidRequest {
        message: format!(
            "the fields of the body tell what is asked, and it has none of: {}",
            rows.join(", ")
        ),
        param: None,
    })
}

/// `POST /tokenize` and `/v1/tokenize`.
pub async fn tokenize(
    state: State<AppState>,
    log: RequestLog,
    model: Addressed,
    JsonBody(body): JsonBody<AnyBody>,
) -> Result<Response> {
    match decide(&body, TOKENIZE, &log)? {
        Tokenize::Tei => tei::tokenize(state, log, Addressed::default(), body.read(model)?).await,
        Tokenize::Vllm => vllm::tokenize(state, log, body.read(model)?).await,
        Tokenize::LlamaCpp => llama_cpp::tokenize(state, log, body.read(model)?).await,
        Tokenize::Cohere => cohere::tokenize(state, log, body.read(model)?).await,
    }
}

/// `POST /` and `/invocations`.
pub async fn invoke(
    state: State<AppState>,
    log: RequestLog,
    headers: HeaderMap,
    model: Addressed,
    JsonBody(body): JsonBody<AnyBody>,
) -> Result<Response> {
    let none = Addressed::default();
    match decide(&body, INVOKE, &log)? {
        Invoke::Rerank => rerank::rerank(state, log, headers, body.read(model)?).await,
        Invoke::TeiSimilarity => tei::similarity(state, log, none, body.read(model)?).await,
        Invoke::Embeddings => openai::embeddings(state, log, headers, body.read(model)?).await,
        Invoke::Score => score::score(state, log, headers, body.read(model)?).await,
        Invoke::TeiMain => {
            let name = model.clone().or(body.model())?;
            let info = state.engine.choose(name.as_deref(), Task::Embed)?;
            match info.kind() {
                Some(ModelKind::Classifier) => {
                    tei::predict(state, log, none, body.read(model)?).await
                }
                // A reranker is no embedding model, and the answer says so.
                _ => tei::embed(state, log, none, body.read(model)?).await,
            }
        }
    }
}
