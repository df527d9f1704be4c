//! The descriptions of the routes of text-embeddings-inference, vLLM and llama.cpp.

use utoipa::openapi::{RefOr, path::Operation, schema::Schema};

use super::{
    ArrayBuilder, JSON, ResponseBuilder, ResponsesBuilder, add, answered_list, answers, answers_as,
    answers_either, describe, posted, reference,
};
use crate::api::{llama_cpp, tei, vllm};

/// Adds the bodies and answers of these routes.
pub fn add_all(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    let all = [
        add::<tei::EmbedBody>,
        add::<tei::PredictBody>,
        add::<tei::SimilarityBody>,
        add::<tei::TokenizeBody>,
        add::<tei::DecodeBody>,
        add::<tei::EmbedAnswer<'_>>,
        add::<tei::EmbedAllAnswer<'_>>,
        add::<tei::EmbedSparseAnswer>,
        add::<tei::Predictions<'_>>,
        add::<tei::SimilarityAnswer>,
        add::<tei::TokenizeAnswer<'_>>,
        add::<tei::DecodeAnswer>,
        add::<tei::Info>,
        add::<vllm::PoolingBody>,
        add::<vllm::PoolingAnswer<'_>>,
        add::<vllm::DetokenizeBody>,
        add::<vllm::DetokenizeAnswer>,
        add::<vllm::Load>,
        add::<llama_cpp::EmbeddingBody>,
        add::<llama_cpp::EmbeddingAnswer>,
        add::<llama_cpp::Properties>,
        add::<llama_cpp::Slot>,
    ];
    for add in all {
        add(schemas);
    }
}

/// The description of `/embed`.
pub fn tei_embed() -> Operation {
    posted::<tei::EmbedBody>(
        "Texts to vectors (text-embeddings-inference)",
        answers::<tei::EmbedAnswer<'_>>("One vector per input"),
    )
}

/// The description of `/embed_all`.
pub fn tei_embed_all() -> Operation {
    posted::<tei::EmbedBody>(
        "Texts to one vector per token (text-embeddings-inference)",
        answers::<tei::EmbedAllAnswer<'_>>("A list of vectors per input"),
    )
}

/// The description of `/embed_sparse`.
pub fn tei_embed_sparse() -> Operation {
    posted::<tei::EmbedBody>(
        "Texts to sparse vectors (text-embeddings-inference)",
        answers::<tei::EmbedSparseAnswer>("The entries of each input that are not zero"),
    )
}

/// The description of `/similarity`.
pub fn tei_similarity() -> Operation {
    posted::<tei::SimilarityBody>(
        "Cosines of one text with others (text-embeddings-inference)",
        answers::<tei::SimilarityAnswer>("One cosine per sentence"),
    )
}

/// The description of `/predict`.
pub fn tei_predict() -> Operation {
    posted::<tei::PredictBody>(
        "Texts to labels (text-embeddings-inference)",
        answers_either(
            reference::<tei::Predictions<'_>>(),
            ArrayBuilder::new()
                .items(reference::<tei::Predictions<'_>>())
                .build(),
            "All labels of one input, or a list of these for a list",
        ),
    )
}

/// The description of `/decode`.
pub fn tei_decode() -> Operation {
    posted::<tei::DecodeBody>(
        "Token ids to texts (text-embeddings-inference)",
        answers::<tei::DecodeAnswer>("One text per list of ids"),
    )
}

/// The description of `/tei/{model}/tokenize`.
pub fn tei_tokenize() -> Operation {
    posted::<tei::TokenizeBody>(
        "Texts to tokens (text-embeddings-inference)",
        answers::<tei::TokenizeAnswer<'_>>("The tokens of each text"),
    )
}

/// The description of `/info`.
pub fn tei_info() -> Operation {
    describe(
        "One model, as text-embeddings-inference tells it",
        answers::<tei::Info>("The model that the address names, or the first"),
    )
}

/// The description of the probes of one model.
pub fn tei_health() -> Operation {
    let empty = ResponseBuilder::new().description("It answers");
    let responses = ResponsesBuilder::new().response("200", empty);
    describe("Whether one model is ready", responses)
}

/// The description of the one route of hosted endpoints.
pub fn invoke() -> Operation {
    let mut operation = posted::<tei::EmbedBody>(
        "Whatever the fields of the body say",
        answers_as(JSON, "The answer of the route that has these fields"),
    );
    operation.description = Some(
        "`inputs`: what the model is for, as text-embeddings-inference has it; `query` with \
         `texts` or `documents`: a ranking; `input`: OpenAI's embeddings; `text_1`: scores."
            .into(),
    );
    operation
}

/// The description of `/tokenize`.
pub fn tokenize() -> Operation {
    let mut operation = posted::<tei::TokenizeBody>(
        "Texts to tokens",
        answers_as(JSON, "In the form of the dialect whose fields the body has"),
    );
    operation.description = Some(
        "`inputs`: text-embeddings-inference's form; `prompt`: vLLM's; `content`: llama.cpp's; \
         `text`: Cohere's."
            .into(),
    );
    operation
}

/// The description of `/detokenize`.
pub fn detokenize() -> Operation {
    posted::<vllm::DetokenizeBody>(
        "Token ids to text",
        answers::<vllm::DetokenizeAnswer>("The same text under three names"),
    )
}

/// The description of `/pooling`.
pub fn pooling() -> Operation {
    posted::<vllm::PoolingBody>(
        "Whatever a model gives of a text (vLLM)",
        answers::<vllm::PoolingAnswer<'_>>("One per input"),
    )
}

/// The description of `/load`.
pub fn load() -> Operation {
    describe(
        "How much there is to do (vLLM)",
        answers::<vllm::Load>("Requests that are inside"),
    )
}

/// The description of `/embedding`.
pub fn llama_embedding() -> Operation {
    posted::<llama_cpp::EmbeddingBody>(
        "Texts to vectors (llama.cpp)",
        answers::<llama_cpp::EmbeddingAnswer>("One vector per input, each in a list"),
    )
}

/// The description of `/props`.
pub fn llama_props() -> Operation {
    describe(
        "One model, as llama.cpp tells it",
        answers::<llama_cpp::Properties>("The model of `?model=`, or the first"),
    )
}

/// The description of `/slots`.
pub fn llama_slots() -> Operation {
    answered_list::<llama_cpp::Slot>("Places for batches, one per worker (llama.cpp)")
}
