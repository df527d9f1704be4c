//! The descriptions of the routes that write text.

use utoipa::openapi::{Content, RefOr, ResponseBuilder, ResponsesBuilder, Schema, path::Operation};

use super::{JSON, ObjectBuilder, Type, add, answers, posted, reference};
use crate::api::{chat, completions, generation::EVENT_STREAM, llama_cpp, ollama as ol};

/// The types that the descriptions refer to.
pub fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    add::<chat::ChatBody>(schemas);
    add::<chat::ChatAnswer>(schemas);
    add::<chat::ChatChunk<'_>>(schemas);
    add::<completions::CompletionBody>(schemas);
    add::<completions::CompletionAnswer<'_>>(schemas);
    add::<ol::OllamaChatBody>(schemas);
    add::<ol::OllamaGenerateBody>(schemas);
    add::<ol::OllamaAnswer<'_>>(schemas);
    add::<llama_cpp::AppliedTemplate>(schemas);
}

/// The description of chats.
pub fn chat() -> Operation {
    let mut operation = posted::<chat::ChatBody>(
        "The next message of a conversation",
        events(Content::new(Some(reference::<chat::ChatAnswer>()))),
    );
    operation.description = Some(
        "With `stream`, events whose data is a `ChatChunk`; the last is `[DONE]`. What goes wrong \
         before the first token is a status, after it an event with `error`."
            .into(),
    );
    operation
}

/// The description of completions.
pub fn completions() -> Operation {
    posted::<completions::CompletionBody>(
        "A text to be gone on with",
        events(Content::new(Some(reference::<
            completions::CompletionAnswer<'_>,
        >()))),
    )
}

/// The description of llama.cpp's `/apply-template`.
pub fn apply_template() -> Operation {
    posted::<chat::ChatBody>(
        "What the messages of a chat become (llama.cpp)",
        answers::<llama_cpp::AppliedTemplate>("The prompt"),
    )
}

/// All at once, or events.
fn events(whole: Content) -> ResponsesBuilder {
    let events = ObjectBuilder::new().schema_type(Type::String).build();
    let response = ResponseBuilder::new()
        .description("The answer; while it is written where `stream` is true")
        .content(JSON, whole)
        .content(EVENT_STREAM, Content::new(Some(events)));
    ResponsesBuilder::new().response("200", response)
}

/// The description of Ollama's `/api/chat`.
pub fn ollama_chat() -> Operation {
    posted::<ol::OllamaChatBody>("The next message of a conversation (Ollama)", lines())
}

/// The description of Ollama's `/api/generate`.
pub fn ollama_generate() -> Operation {
    posted::<ol::OllamaGenerateBody>("An answer to a prompt (Ollama)", lines())
}

/// One object, or one on each line.
fn lines() -> ResponsesBuilder {
    let answer = || Content::new(Some(reference::<ol::OllamaAnswer<'_>>()));
    let response = ResponseBuilder::new()
        .description("The answer; a line of JSON for each step unless `stream` is false")
        .content(JSON, answer())
        .content("application/x-ndjson", answer());
    ResponsesBuilder::new().response("200", response)
}
