//! What llama.cpp's server has beside the routes that all dialects share: `/embedding`, its form of
//! `/tokenize`, `/apply-template`, `/props` and `/slots`. What the fields mean: §6 of the API
//! contract.

mod normalize;
mod properties;
mod template;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use retort_models::{Heads, Token};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::normalize::normalized;
pub use self::{
    properties::{Properties, Slot, props, slots},
    template::{AppliedTemplate, apply_template},
};
use super::{
    AppState,
    answer::Headers,
    extract::{JsonBody, WireBody},
    fields::{self, WholeNumber},
    observe::RequestLog,
    openai::{Input, Item, input_schema},
    tei::special_tokens,
};
use crate::{
    engine::request::{EmbedInput, EmbedRequest, Normalize, TokenizeRequest},
    error::{Error, Result},
};

/// The body of `/embedding`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `content`")]
#[schema(as = LlamaEmbeddingBody)]
pub struct EmbeddingBody {
    /// A served name; llama.cpp itself has one model.
    model: Option<String>,
    /// A text, a list of token ids of the model's own vocabulary, or a list of these.
    #[schema(schema_with = input_schema)]
    content: Option<Input>,
    /// Another name of `content`.
    #[schema(schema_with = input_schema)]
    input: Option<Input>,
    /// -1 leaves a vector as it was pooled, 0 divides it by its largest component and multiplies
    /// by 32760, 1 is the taxicab norm, 2 (default) the Euclidean one, larger ones their p-norm.
    #[schema(value_type = Option<i64>)]
    embd_normalize: Option<WholeNumber>,
}

impl WireBody for EmbeddingBody {
    const FIELDS: &'static [&'static str] = &["model", "content", "input", "embd_normalize"];
}

/// One element of the answer of `/embedding`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LlamaEmbeddingDatum)]
pub struct EmbeddingDatum {
    /// The place of the input within this request.
    index: usize,
    /// One vector, in a list.
    embedding: [Vec<f32>; 1],
}

/// The answer of `/embedding`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LlamaEmbeddingAnswer)]
pub struct EmbeddingAnswer(Vec<EmbeddingDatum>);

/// `POST /embedding`.
pub async fn embedding(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<EmbeddingBody>,
) -> Result<Response> {
    let kind = match body.embd_normalize {
        None => 2,
        Some(WholeNumber(kind)) => i32::try_from(kind)
            .ok()
            .filter(|kind| (-1..=1024).contains(kind))
            .ok_or_else(|| {
                let message = format!("`embd_normalize` is `{kind}`; it must be -1 to 1024");
                Error::invalid("embd_normalize", message)
            })?,
    };
    let request = body.request(kind)?;
    log.asked(request.inputs.len());
    state.announce(&log, request.model.as_deref());
    let response = state.engine_for(&log).embed(request).await?;
    log.answered(&response.model, response.usage, response.timings);
    let headers = Headers::new(response.usage, response.timings, log.started());
    let vectors = response.embeddings.into_iter().map(|e| e.vector);
    let datum = |(index, vector)| EmbeddingDatum {
        index,
        embedding: [normalized(vector, kind)],
    };
    let data = vectors.enumerate().map(datum).collect();
    Ok(headers.respond_json(&EmbeddingAnswer(data)))
}

impl EmbeddingBody {
    fn request(self, kind: i32) -> Result<EmbedRequest> {
        let input = self.content.or(self.input);
        let input = input.ok_or_else(|| Error::missing("content"))?;
        let items = input.into_items();
        if items.is_empty() {
            return Err(Error::Empty("content"));
        }
        let input = |item| match item {
            Item::Text(text) => EmbedInput::Text(text),
            Item::Ids(ids) => EmbedInput::ModelIds(ids),
        };
        Ok(EmbedRequest {
            model: fields::named_model(self.model)?,
            inputs: items.into_iter().map(input).collect(),
            heads: Heads::DENSE,
            // The usual norm is the engine's own, which refuses vectors without a direction.
            normalize: if kind == 2 {
                Normalize::Yes
            } else {
                Normalize::No
            },
            ..EmbedRequest::default()
        })
    }
}

/// The body of `/tokenize`, when it has `content`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `content`")]
#[schema(as = LlamaTokenizeBody)]
pub struct TokenizeBody {
    /// A served name; llama.cpp itself has one model.
    model: Option<String>,
    /// A text.
    content: String,
    /// Whether special tokens are put around it; they are not unless told so.
    add_special: Option<bool>,
    /// Whether the tokens are also told as text.
    with_pieces: Option<bool>,
}

impl WireBody for TokenizeBody {
    const FIELDS: &'static [&'static str] = &["model", "content", "add_special", "with_pieces"];
}

/// The answer of `/tokenize`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LlamaTokenizeAnswer)]
pub struct TokenizeAnswer {
    /// Token ids, or objects with `id` and `piece`.
    #[schema(value_type = Vec<u32>)]
    tokens: Vec<Told>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Told {
    Id(u32),
    WithPiece { id: u32, piece: String },
}

/// `POST /tokenize`, when the body has `content`.
pub async fn tokenize(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<TokenizeBody>,
) -> Result<Response> {
    log.asked(1);
    let model = fields::named_model(body.model)?;
    state.announce(&log, model.as_deref());
    let response = state.engine.tokenize(TokenizeRequest {
        model,
        texts: vec![body.content],
        special_tokens: special_tokens(body.add_special.unwrap_or(false)),
        prompt: None,
    });
    let mut response = response.await?;
    log.about(&response.model);
    let tokens = response.texts.pop().unwrap_or_default().into_iter();
    let told = |token: Token| match body.with_pieces {
        Some(true) => Told::WithPiece {
            id: token.id,
            piece: piece(token),
        },
        Some(false) | None => Told::Id(token.id),
    };
    let tokens = tokens.map(told).collect();
    Ok(Json(TokenizeAnswer { tokens }).into_response())
}

/// The text of a token, with a space where its vocabulary marks the beginning of a word.
/// SentencePiece writes texts with that mark; byte-level vocabularies write bytes as letters, so
/// there the characters themselves are taken.
fn piece(token: Token) -> String {
    match token.source {
        None => token.piece,
        Some(_) if token.piece.contains('▁') => token.piece.replace('▁', " "),
        Some(source) if token.piece.starts_with('Ġ') && !source.text.starts_with(' ') => {
            format!(" {}", source.text)
        }
        Some(source) => source.text,
    }
}

#[cfg(test)]
mod tests {
    use retort_models::Source;

    use super::*;

    #[test]
    fn pieces_are_text_whatever_the_vocabulary() {
        for (written, text, expected) in [
            ("river", "river", "river"),
            ("##er", "er", "er"),
            ("▁the", "the", " the"),
            // Its characters are those of the token after it.
            ("▁", "t", " "),
            ("Ġthe", "the", " the"),
            ("Ġ", " ", " "),
            ("Ã¤", "ä", "ä"),
        ] {
            let source = Source {
                text: text.to_owned(),
                span: (0, 1),
            };
            let token = Token {
                id: 7,
                piece: written.to_owned(),
                source: Some(source),
            };
            assert_eq!(piece(token), expected, "{written}");
        }
    }
}
