//! text-embeddings-inference's routes, at the root and under `/tei/{model}`, where clients that
//! know of one model only see exactly one. `/rerank` and `/v1/embeddings` are those of all
//! dialects. What the fields mean: §4 of the API contract.

mod answer;
mod bodies;
mod info;

use axum::{extract::State, response::Response};
use retort_models::{Head, Heads, MultiVector};

use self::{
    answer::{Account, SimpleToken},
    bodies::truncation,
};
pub use self::{
    answer::{
        DecodeAnswer, EmbedAllAnswer, EmbedAnswer, EmbedSparseAnswer, Predictions,
        SimilarityAnswer, TokenizeAnswer,
    },
    bodies::{DecodeBody, EmbedBody, PredictBody, SimilarityBody, TokenizeBody, special_tokens},
    info::{Info, health, info},
};
use super::{
    AppState,
    addressed::Addressed,
    extract::JsonBody,
    observe::RequestLog,
    openai::{Input, Item},
    rerank::scale,
};
use crate::{
    engine::request::{
        ClassifyInput, ClassifyRequest, Conditioning, DetokenizeRequest, EmbedInput, EmbedRequest,
        EmbedResponse, Normalize, PromptWish, Timings, TokenizeRequest, Usage,
    },
    error::{Error, Result},
};

/// `POST /embed`.
pub async fn embed(
    State(state): State<AppState>,
    log: RequestLog,
    model: Addressed,
    JsonBody(body): JsonBody<EmbedBody>,
) -> Result<Response> {
    let request = body.request(model, Heads::DENSE)?;
    let (response, account) = embedded(&state, &log, request).await?;
    let vectors = response.embeddings.iter();
    let vectors = vectors.map(|embedding| &embedding.vector[..]).collect();
    Ok(account.respond(&EmbedAnswer(vectors)))
}

/// `POST /embed_all`: the vectors of all tokens, of models whose token vectors are made for use.
pub async fn embed_all(
    State(state): State<AppState>,
    log: RequestLog,
    model: Addressed,
    JsonBody(body): JsonBody<EmbedBody>,
) -> Result<Response> {
    let request = body.request(model, Head::MultiVector.into())?;
    let (response, account) = embedded(&state, &log, request).await?;
    let rows = response.embeddings.iter().map(|embedding| {
        let vectors = embedding.multi_vector.iter();
        vectors.flat_map(MultiVector::rows).collect()
    });
    Ok(account.respond(&EmbedAllAnswer(rows.collect())))
}

/// `POST /embed_sparse`.
pub async fn embed_sparse(
    State(state): State<AppState>,
    log: RequestLog,
    model: Addressed,
    JsonBody(body): JsonBody<EmbedBody>,
) -> Result<Response> {
    let request = body.request(model, Head::Sparse.into())?;
    let (response, account) = embedded(&state, &log, request).await?;
    let entries = response.embeddings.iter().map(Vec::from).collect();
    Ok(account.respond(&EmbedSparseAnswer(entries)))
}

/// `POST /similarity`.
pub async fn similarity(
    State(state): State<AppState>,
    log: RequestLog,
    model: Addressed,
    JsonBody(body): JsonBody<SimilarityBody>,
) -> Result<Response> {
    let request = body.request(model)?;
    let (response, account) = embedded(&state, &log, request).await?;
    Ok(account.respond(&SimilarityAnswer(response.products())))
}

/// `POST /predict`.
pub async fn predict(
    State(state): State<AppState>,
    log: RequestLog,
    model: Addressed,
    JsonBody(body): JsonBody<PredictBody>,
) -> Result<Response> {
    let single = body.inputs.single && body.parameters.is_none();
    let request = body.request(model)?;
    check_batch(&state, request.inputs.len())?;
    log.asked(request.inputs.len());
    let characters = request.inputs.iter().map(|input| match input {
        ClassifyInput::Text(text) => text.chars().count(),
        ClassifyInput::Pair(a, b) => a.chars().count() + b.chars().count(),
    });
    let characters = characters.sum();
    let response = state.engine_for(&log).classify(request).await?;
    log.answered(&response.model, response.usage, response.timings);
    let account = Account {
        characters,
        device: device(&state, &response.model),
        usage: response.usage,
        timings: response.timings,
        started: log.started(),
    };
    let results = response.results.iter();
    let mut all: Vec<_> = results
        .map(|result| Predictions::new(result, &response))
        .collect();
    match all.pop() {
        Some(only) if single => Ok(account.respond(&only)),
        last => {
            all.extend(last);
            Ok(account.respond(&all))
        }
    }
}

/// `POST /tokenize`, when the body has `inputs`.
pub async fn tokenize(
    State(state): State<AppState>,
    log: RequestLog,
    model: Addressed,
    JsonBody(body): JsonBody<TokenizeBody>,
) -> Result<Response> {
    let texts = body.inputs.into_texts();
    check_batch(&state, texts.len())?;
    log.asked(texts.len());
    let characters = texts.iter().map(|text| text.chars().count()).sum();
    let response = state.engine.tokenize(TokenizeRequest {
        model: model.or(body.model)?,
        texts,
        special_tokens: special_tokens(body.add_special_tokens.unwrap_or(true)),
        prompt: body.prompt_name.map(PromptWish::Named),
    });
    let response = response.await?;
    let prompt_tokens = response.texts.iter().map(Vec::len).sum();
    let account = untimed(&state, &log, &response.model, (characters, prompt_tokens));
    let texts = response.texts.iter();
    let texts = texts.map(|tokens| tokens.iter().map(SimpleToken::from).collect());
    Ok(account.respond(&TokenizeAnswer(texts.collect())))
}

/// `POST /decode`.
pub async fn decode(
    State(state): State<AppState>,
    log: RequestLog,
    model: Addressed,
    JsonBody(body): JsonBody<DecodeBody>,
) -> Result<Response> {
    let ids = body.ids.into_items().into_iter().map(|item| match item {
        Item::Ids(ids) => Ok(ids),
        Item::Text(_) => Err(Error::invalid(
            "ids",
            "`ids` is a list of token ids, or a list of such lists; it has a text",
        )),
    });
    let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
    if ids.is_empty() {
        return Err(Error::Empty("ids"));
    }
    check_batch(&state, ids.len())?;
    log.asked(ids.len());
    let prompt_tokens = ids.iter().map(Vec::len).sum();
    let response = state.engine.detokenize(DetokenizeRequest {
        model: model.or(body.model)?,
        ids,
        special_tokens: special_tokens(!body.skip_special_tokens.unwrap_or(true)),
    });
    let response = response.await?;
    let characters = response.texts.iter().map(|text| text.chars().count()).sum();
    let account = untimed(&state, &log, &response.model, (characters, prompt_tokens));
    Ok(account.respond(&DecodeAnswer(response.texts)))
}

async fn embedded(
    state: &AppState,
    log: &RequestLog,
    request: EmbedRequest,
) -> Result<(EmbedResponse, Account)> {
    check_batch(state, request.inputs.len())?;
    log.asked(request.inputs.len());
    state.announce(log, request.model.as_deref());
    let characters = request.inputs.iter().map(|input| match input {
        EmbedInput::Text(text) => text.chars().count(),
        EmbedInput::Cl100kIds(ids) | EmbedInput::ModelIds(ids) => ids.len(),
    });
    let characters = characters.sum();
    let response = state.engine_for(log).embed(request).await?;
    log.answered(&response.model, response.usage, response.timings);
    let account = Account {
        characters,
        device: device(state, &response.model),
        usage: response.usage,
        timings: response.timings,
        started: log.started(),
    };
    Ok((response, account))
}

/// The account of work that the tokenizer does alone.
fn untimed(
    state: &AppState,
    log: &RequestLog,
    model: &str,
    (characters, prompt_tokens): (usize, usize),
) -> Account {
    let usage = Usage {
        prompt_tokens,
        ..Usage::default()
    };
    let timings = Timings {
        tokenize: log.started().elapsed(),
        ..Timings::default()
    };
    log.answered(model, usage, timings);
    Account {
        characters,
        device: device(state, model),
        usage,
        timings,
        started: log.started(),
    }
}

fn device(state: &AppState, model: &str) -> String {
    let info = state.engine.model(model).ok();
    let encoder = info.and_then(|info| info.encoder);
    encoder.map_or_else(String::new, |encoder| encoder.device)
}

/// The limit that `/info` tells as `max_client_batch_size`, in the words of its users' clients.
fn check_batch(state: &AppState, size: usize) -> Result<()> {
    let most = state.settings.max_inputs_per_request;
    match size {
        0 => Err(Error::Empty("inputs")),
        size if size > most => Err(Error::invalid(
            "inputs",
            format!("batch size {size} > maximum allowed batch size {most}"),
        )),
        _ => Ok(()),
    }
}

fn conditioning(prompt_name: Option<String>) -> Conditioning {
    Conditioning {
        prompt: prompt_name.map(PromptWish::Named),
        ..Conditioning::default()
    }
}

fn inputs(input: Input) -> Vec<EmbedInput> {
    let items = input.into_items().into_iter();
    items
        .map(|item| match item {
            Item::Text(text) => EmbedInput::Text(text),
            Item::Ids(ids) => EmbedInput::ModelIds(ids),
        })
        .collect()
}

impl EmbedBody {
    fn request(self, model: Addressed, heads: Heads) -> Result<EmbedRequest> {
        // Only dense vectors can be shortened; elsewhere TEI does not know the field.
        let dimensions = self.dimensions.filter(|_| heads == Heads::DENSE);
        let dimensions = dimensions.map(|number| number.at_least(1, "dimensions"));
        Ok(EmbedRequest {
            model: model.or(self.model)?,
            inputs: inputs(self.inputs),
            heads,
            conditioning: conditioning(self.prompt_name),
            truncate: truncation(self.truncate, self.truncation_direction)?,
            dimensions: dimensions.transpose()?,
            normalize: match self.normalize {
                Some(false) => Normalize::No,
                Some(true) | None => Normalize::Yes,
            },
            ..EmbedRequest::default()
        })
    }
}

impl SimilarityBody {
    fn request(self, model: Addressed) -> Result<EmbedRequest> {
        let parameters = self.parameters.unwrap_or_default();
        if self.inputs.sentences.is_empty() {
            return Err(Error::Empty("inputs.sentences"));
        }
        let source = std::iter::once(self.inputs.source_sentence);
        let texts = source.chain(self.inputs.sentences);
        Ok(EmbedRequest {
            model: model.or(self.model)?,
            inputs: texts.map(EmbedInput::Text).collect(),
            heads: Heads::DENSE,
            conditioning: conditioning(parameters.prompt_name),
            truncate: truncation(parameters.truncate, parameters.truncation_direction)?,
            ..EmbedRequest::default()
        })
    }
}

impl PredictBody {
    fn request(self, model: Addressed) -> Result<ClassifyRequest> {
        Ok(ClassifyRequest {
            model: model.or(self.model)?,
            inputs: self.inputs.inputs,
            scale: scale(self.raw_scores, None),
            truncate: truncation(self.truncate, self.truncation_direction)?,
        })
    }
}
