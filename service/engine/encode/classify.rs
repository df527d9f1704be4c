//! Texts and pairs to labels, with the logits that a reranker has one of.

use std::time::Instant;

use retort_models::{Encoding, Heads, PairForm, PairTruncation, Truncation};

use super::{
    Ask, Pipeline,
    job::{Finish, Input},
    similarity, tokenize,
};
use crate::{
    engine::{
        lane::{Caller, Work},
        request::{
            Classified, ClassifyInput, ClassifyRequest, ClassifyResponse, Normalize, Scale, Task,
            Usage, label_name,
        },
    },
    error::{Error, Place, Result},
};

const NO_VECTOR: Finish = Finish {
    dimensions: None,
    normalize: Normalize::No,
};

impl Pipeline {
    /// Scores of all labels for all inputs of a request, in order.
    ///
    /// # Errors
    /// [`Error::UnsupportedTask`] for a model without labels; otherwise as [`Pipeline::embed`].
    pub async fn classify(
        &self,
        request: ClassifyRequest,
        caller: &Caller,
    ) -> Result<ClassifyResponse> {
        Task::Classify.check(&self.name, &self.info)?;
        self.room_for(request.inputs.len())?;
        let truncation = tokenize::truncation(request.truncate, self.info.max_tokens)?;
        let has_pairs = request
            .inputs
            .iter()
            .any(|input| matches!(input, ClassifyInput::Pair(..)));
        let form = if has_pairs {
            let form = self.tokenizer.pair_form();
            Some(form.map_err(|error| Error::invalid("input", error.to_string()))?)
        } else {
            None
        };
        let plan = tokenize::LabelPlan {
            tokenizer: self.tokenizer.clone(),
            form,
            truncation,
        };
        let started = Instant::now();
        let encodings = self.pool.labelled(plan, request.inputs).await?;
        let mut timings = self.tokenized(started, &encodings);
        let mut results: Vec<Classified> = encodings.iter().map(account).collect();
        let ask = Ask {
            finish: NO_VECTOR,
            work: Work::Texts,
            caller,
        };
        let inputs = Input::all(encodings, Heads::SCORE);
        let replies = self.submit(inputs, ask, &mut timings)?;
        let mut usage = Usage::default();
        for (index, (result, reply)) in results.iter_mut().zip(replies).enumerate() {
            let done = super::answer(Place::Input(index), reply).await?;
            super::note(&mut timings, &done);
            usage.add(result.tokens, result.tokens_cut);
            let logits = done.values.scores.unwrap_or_default();
            result.scores = match (request.scale, &logits[..]) {
                (Scale::Raw, _) => logits,
                (Scale::Unit, [logit]) => vec![similarity::sigmoid(*logit)],
                (Scale::Unit, logits) => similarity::softmax(logits),
            };
        }
        Ok(ClassifyResponse {
            model: self.name.to_string(),
            labels: self.labels(),
            results,
            usage,
            timings,
        })
    }

    fn labels(&self) -> Vec<String> {
        let names = &self.info.label_names;
        let name = |index| label_name(names, index).into_owned();
        (0..self.info.labels).map(name).collect()
    }
}

/// Encodes one input.
///
/// # Errors
/// When it is too long or not valid.
pub fn encode(
    tokenizer: &retort_models::Tokenizer,
    form: Option<&PairForm>,
    input: &ClassifyInput,
    truncation: Truncation,
) -> Result<Encoding, retort_models::Error> {
    match (input, form) {
        (ClassifyInput::Pair(first, second), Some(form)) => {
            let limits = PairTruncation::new(truncation.max_tokens, truncation.side);
            let first = tokenizer.prepare_query(form, first, limits)?;
            tokenizer.encode_pair(&first, second)
        }
        (ClassifyInput::Pair(first, _) | ClassifyInput::Text(first), _) => {
            tokenizer.encode(first, truncation)
        }
    }
}

fn account(encoding: &Encoding) -> Classified {
    Classified {
        tokens: encoding.input_ids.len(),
        tokens_cut: encoding.tokens_cut,
        scores: Vec::new(),
    }
}
