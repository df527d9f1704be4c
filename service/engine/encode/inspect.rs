//! Texts to tokens and back, for people and for callers who count: the tokenizer alone, no forward
//! pass.

use super::{Pipeline, conditioning};
use crate::{
    engine::request::{
        Conditioning, DetokenizeRequest, DetokenizeResponse, PiecesRequest, PiecesResponse,
        TokenizeRequest, TokenizeResponse,
    },
    error::{Error, Result},
};

/// The most bytes of text, or ids, of one request. A token with its description takes a hundred
/// times the byte that it may stand for.
const MAX_ITEMS: usize = 4 << 20;

impl Pipeline {
    /// The tokens of all texts of a request, in order.
    ///
    /// # Errors
    /// When the texts are too much, the prompt is unknown or the tokenizer fails.
    pub async fn tokens(&self, request: TokenizeRequest) -> Result<TokenizeResponse> {
        check(request.texts.iter().map(String::len).sum(), "bytes")?;
        let wish = Conditioning {
            prompt: request.prompt,
            ..Conditioning::default()
        };
        // A caller who names no prompt wants the tokens of the text as it is.
        let prompt = match &wish.prompt {
            Some(_) => conditioning::conditions(&self.info, &wish)?.prompt,
            None => String::new(),
        };
        let tokenizer = self.tokenizer.clone();
        let special_tokens = request.special_tokens;
        let texts = request.texts;
        let tokens = move || -> Result<_, retort_models::Error> {
            let prompted = |text: &String| match prompt.as_str() {
                "" => tokenizer.tokens(text, special_tokens),
                prompt => tokenizer.tokens(&[prompt, text].concat(), special_tokens),
            };
            texts.iter().map(prompted).collect()
        };
        let tokens = self.pool.compute(tokens).await?;
        Ok(TokenizeResponse {
            model: self.name.to_string(),
            max_tokens: self.info.max_tokens,
            texts: tokens.map_err(|error| Error::invalid("input", error.to_string()))?,
        })
    }

    /// The texts that lists of token ids stand for, in order.
    ///
    /// # Errors
    /// When an id is outside the vocabulary.
    pub async fn detokenize(&self, request: DetokenizeRequest) -> Result<DetokenizeResponse> {
        let DetokenizeRequest {
            ids,
            special_tokens,
            ..
        } = request;
        check(ids.iter().map(Vec::len).sum(), "tokens")?;
        let known = self.tokenizer.vocab_size();
        if let Some(&id) = ids.iter().flatten().find(|&&id| id as usize >= known) {
            return Err(self.unknown_id("tokens", id));
        }
        let tokenizer = self.tokenizer.clone();
        let texts = move || -> Result<_, retort_models::Error> {
            let text = |ids: &Vec<u32>| tokenizer.decode(ids, special_tokens);
            ids.iter().map(text).collect::<Result<Vec<String>, _>>()
        };
        let texts = self.pool.compute(texts).await?;
        Ok(DetokenizeResponse {
            model: self.name.to_string(),
            texts: texts.map_err(|error| Error::invalid("tokens", error.to_string()))?,
        })
    }

    /// The tokens that ids stand for, in lists as the ids are.
    ///
    /// # Errors
    /// When an id stands for none.
    pub fn pieces(&self, request: &PiecesRequest) -> Result<PiecesResponse> {
        check(request.ids.iter().map(Vec::len).sum(), "token ids")?;
        let piece = |&id: &u32| {
            let piece = self.tokenizer.id_to_token(id);
            piece.ok_or_else(|| self.unknown_id("input", id))
        };
        let pieces = request.ids.iter();
        let pieces: Result<_> = pieces.map(|ids| ids.iter().map(piece).collect()).collect();
        Ok(PiecesResponse {
            model: self.name.to_string(),
            pieces: pieces?,
        })
    }

    fn unknown_id(&self, field: &'static str, id: u32) -> Error {
        let known = self.tokenizer.vocab_size();
        let message = format!("token id `{id}` is outside the vocabulary of `{known}` tokens");
        Error::invalid(field, message)
    }
}

fn check(items: usize, what: &str) -> Result<()> {
    if items <= MAX_ITEMS {
        return Ok(());
    }
    Err(Error::InvalidRequest {
        message: format!(
            "the request has {items} {what}, more than the limit of {MAX_ITEMS}; send several"
        ),
        param: None,
    })
}
