//! `POST /v1/chat/completions` as OpenAI defines it, with the fields that vLLM, llama.cpp,
//! Xinference and Dify add. What the fields mean: §2.3 of the API contract.

mod answer;
mod ask;
mod body;
pub mod calls;
mod constraint;
mod messages;
mod reader;
mod stream;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};

pub use self::{
    answer::ChatAnswer,
    ask::{ChatAsk, Chatting},
    body::{ChatBody, stop_schema},
    constraint::Format,
    messages::{Message, Role},
    reader::{Delta, Reader, Reading, Thoughts},
    stream::ChatChunk,
};
use self::{answer::Naming, stream::ChunkWriter};
use super::{
    AppState,
    addressed::Addressed,
    extract::RawBody,
    generation::{self, Streams},
    observe::RequestLog,
};
use crate::{
    engine::request::{Timings, Usage},
    error::Result,
};

/// `POST /v1/chat/completions`.
pub async fn completions(
    State(state): State<AppState>,
    log: RequestLog,
    addressed: Addressed,
    raw: RawBody,
) -> Result<Response> {
    let path = "/v1/chat/completions";
    if let Some(answer) = state.elsewhere(path, &raw, &addressed, &log).await? {
        return Ok(answer);
    }
    let body: ChatBody = raw.parsed().await?;
    let answering = body.answering();
    let ask = body.into_ask(addressed)?;
    log.asked(ask.messages.len());
    state.announce(&log, ask.model.as_deref());
    let asked = ask.model.clone();
    let chatting = ask.start(&state.engine_for(&log)).await?;
    account(&log, &chatting);
    let naming = Naming::new("chatcmpl", asked.unwrap_or_else(|| chatting.model.clone()));
    if answering.streams {
        let writer = ChunkWriter::new(naming, &chatting, answering);
        let streams = Streams::one(chatting.stream, &log);
        return Ok(generation::stream(streams, writer));
    }
    let generated = Streams::one(chatting.stream, &log).collect().await?;
    let answer = ChatAnswer::new(&generated, naming, &chatting.reading, answering);
    Ok(Json(answer).into_response())
}

/// Tells the log what is known when the first token is there.
pub fn account(log: &RequestLog, chatting: &Chatting) {
    let (usage, timings) = (chatting.stream.usage(), chatting.stream.timings());
    let usage = Usage {
        prompt_tokens: usage.prompt_tokens,
        ..Usage::default()
    };
    let timings = Timings {
        tokenize: timings.tokenize,
        queue: timings.queue,
        inference: timings.prefill,
        ..Timings::default()
    };
    log.answered(&chatting.model, usage, timings);
}
