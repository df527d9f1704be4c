//! The descriptions of the routes of Cohere, Ollama and Infinity.

use utoipa::openapi::{Content, RefOr, ResponseBuilder, ResponsesBuilder, Schema, path::Operation};

use super::{JSON, add, answers, describe, posted, reference};
use crate::api::{cohere as co, infinity as inf, ollama as ol};

/// The types that the descriptions refer to.
pub fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    add::<co::CohereEmbedBody>(schemas);
    add::<co::CohereEmbedAnswer<'_>>(schemas);
    add::<co::CohereDetokenizeBody>(schemas);
    add::<co::CohereDetokenizeAnswer>(schemas);
    add::<ol::OllamaEmbedBody>(schemas);
    add::<ol::OllamaEmbedAnswer<'_>>(schemas);
    add::<ol::OllamaEmbeddingsBody>(schemas);
    add::<ol::OllamaEmbeddingsAnswer>(schemas);
    add::<ol::OllamaModels>(schemas);
    add::<ol::OllamaProcesses>(schemas);
    add::<ol::OllamaShowBody>(schemas);
    add::<ol::OllamaShow>(schemas);
    add::<ol::OllamaPullBody>(schemas);
    add::<ol::OllamaStatus>(schemas);
    add::<ol::OllamaVersion>(schemas);
    add::<inf::InfinityLabels<'_>>(schemas);
    add::<inf::InfinityModels>(schemas);
}

/// The description of Cohere's embedding routes.
pub fn cohere_embed() -> Operation {
    let answer = answers::<co::CohereEmbedAnswer<'_>>("One vector per text, of each type");
    posted::<co::CohereEmbedBody>("Texts to vectors (Cohere)", answer)
}

/// The description of Cohere's `/v1/detokenize`.
pub fn cohere_detokenize() -> Operation {
    let answer = answers::<co::CohereDetokenizeAnswer>("The text");
    posted::<co::CohereDetokenizeBody>("Tokens to a text (Cohere)", answer)
}

/// The description of Ollama's `/api/embed`.
pub fn ollama_embed() -> Operation {
    let answer = answers::<ol::OllamaEmbedAnswer<'_>>("One vector per text");
    posted::<ol::OllamaEmbedBody>("Texts to vectors (Ollama)", answer)
}

/// The description of Ollama's `/api/embeddings`.
pub fn ollama_embeddings() -> Operation {
    let answer = answers::<ol::OllamaEmbeddingsAnswer>("One vector");
    posted::<ol::OllamaEmbeddingsBody>("A text to a vector (Ollama, old)", answer)
}

/// The description of Ollama's `/api/tags`.
pub fn ollama_tags() -> Operation {
    let answer = answers::<ol::OllamaModels>("Every model that has loaded");
    describe("What is served (Ollama)", answer)
}

/// The description of Ollama's `/api/ps`.
pub fn ollama_ps() -> Operation {
    let answer = answers::<ol::OllamaProcesses>("Every model that is in memory");
    describe("What is loaded (Ollama)", answer)
}

/// The description of Ollama's `/api/show`.
pub fn ollama_show() -> Operation {
    posted::<ol::OllamaShowBody>(
        "One model (Ollama)",
        answers::<ol::OllamaShow>("Its record"),
    )
}

/// The description of Ollama's `/api/pull`.
pub fn ollama_pull() -> Operation {
    let status = || Content::new(Some(reference::<ol::OllamaStatus>()));
    let served = ResponseBuilder::new()
        .description("It is served; a line of JSON unless `stream` is false")
        .content(JSON, status())
        .content("application/x-ndjson", status());
    let answer = ResponsesBuilder::new().response("200", served);
    posted::<ol::OllamaPullBody>("Whether a model is served (Ollama)", answer)
}

/// The description of Ollama's `/api/version`.
pub fn ollama_version() -> Operation {
    let answer = answers::<ol::OllamaVersion>("The version of Ollama that is spoken");
    describe("Versions (Ollama)", answer)
}

/// The description of Infinity's `/classify`.
pub fn infinity_classify() -> Operation {
    let answer = answers::<inf::InfinityLabels<'_>>("All labels of each input");
    posted::<crate::api::classify::ClassifyBody>("Texts to labels (Infinity)", answer)
}

/// The description of Infinity's list of models.
pub fn infinity_models() -> Operation {
    let answer = answers::<inf::InfinityModels>("Every model that has loaded");
    describe("What is served (Infinity)", answer)
}
