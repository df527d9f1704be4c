//! Texts to vectors: `Engine::embed` for one model.

use std::time::Instant;

use retort_models::{Chunking, Encoding, GraphSource, Head, Heads, Pooling, TruncationSide};

use super::{
    Ask, Pipeline,
    conditioning::Conditions,
    finish::{Combine, Part, combine},
    job::{Finish, Input, Values},
    tokenize::{self, TextPlan},
};
use crate::{
    engine::{
        lane::{Caller, Work},
        request::{
            Chunk, ChunkPooling, Context, EmbedInput, EmbedRequest, EmbedResponse, Embedding,
            LongInput, Normalize, Task, Timings, Usage, unsupported, vector_heads,
        },
    },
    error::{Error, Place, Result},
};

/// What a request means for this model.
struct Plan<'a> {
    heads: Heads,
    conditions: Conditions,
    finish: Finish,
    chunk: Option<Chunk>,
    caller: &'a Caller,
}

impl Pipeline {
    /// Vectors for all inputs of a request, in order.
    ///
    /// # Errors
    /// The first input that is not valid; [`Error::Overloaded`] when the queue has no room;
    /// [`Error::BadOutput`] when the model's answer to an input is not a vector.
    pub async fn embed(&self, request: EmbedRequest, caller: &Caller) -> Result<EmbedResponse> {
        let plan = self.plan(&request, caller)?;
        self.room_for(request.inputs.len())?;
        let texts = self.text_plan(&request, &plan)?;
        match request.context {
            Context::Apart => self.embed_apart(request.inputs, plan, texts).await,
            Context::Joined => self.embed_joined(request.inputs, plan, texts).await,
        }
    }

    async fn embed_apart(
        &self,
        inputs: Vec<EmbedInput>,
        plan: Plan<'_>,
        texts: TextPlan,
    ) -> Result<EmbedResponse> {
        let started = Instant::now();
        let texts = self.pool.texts(texts, inputs, Place::Input).await?;
        let mut timings = self.tokenized(started, texts.iter().flatten());
        let mut embeddings: Vec<Embedding> = texts.iter().map(|text| account(text)).collect();
        let lengths: Vec<Vec<usize>> = texts
            .iter()
            .map(|chunks| chunks.iter().map(|chunk| chunk.input_ids.len()).collect())
            .collect();
        // Vectors of chunks are cut and normalised only after they have become one.
        let finish = match plan.chunk {
            Some(_) => Finish {
                dimensions: None,
                normalize: Normalize::No,
            },
            None => plan.finish,
        };
        let inputs = Input::all(texts.into_iter().flatten().collect(), plan.heads);
        let ask = Ask {
            finish,
            ..plan.ask()
        };
        let mut replies = self.submit(inputs, ask, &mut timings)?.into_iter();
        for (index, (embedding, lengths)) in embeddings.iter_mut().zip(lengths).enumerate() {
            let place = Place::Input(index);
            let mut parts = Vec::with_capacity(lengths.len());
            for (tokens, reply) in lengths.into_iter().zip(replies.by_ref()) {
                let done = super::answer(place, reply).await?;
                super::note(&mut timings, &done);
                let values = done.values;
                parts.push(Part { values, tokens });
            }
            let values = match plan.chunk {
                Some(chunk) => self.combined(parts, chunk, plan.finish, place)?,
                None => parts.pop().map(|part| part.values).unwrap_or_default(),
            };
            fill(embedding, values);
        }
        Ok(self.response(embeddings, plan.heads, timings))
    }

    /// All inputs in one sequence, each pooled over its own tokens.
    async fn embed_joined(
        &self,
        inputs: Vec<EmbedInput>,
        plan: Plan<'_>,
        texts: TextPlan,
    ) -> Result<EmbedResponse> {
        let started = Instant::now();
        let cut_first = texts.truncation.side == TruncationSide::Start;
        let encoding = self.pool.joined(texts, inputs).await?;
        let mut timings = self.tokenized(started, [&encoding]);
        let mut start = 0;
        let mut embeddings: Vec<Embedding> = encoding
            .segments
            .iter()
            .map(|&end| {
                let tokens = end as usize - start;
                start = end as usize;
                Embedding {
                    tokens,
                    chunks: 1,
                    ..Embedding::default()
                }
            })
            .collect();
        let parted = if cut_first {
            embeddings.first_mut()
        } else {
            embeddings.last_mut()
        };
        if let Some(parted) = parted {
            parted.tokens_cut = encoding.tokens_cut;
        }
        let inputs = vec![Input::new(encoding, plan.heads)];
        let replies = self.submit(inputs, plan.ask(), &mut timings)?;
        for reply in replies {
            let done = super::answer(Place::Input(0), reply).await?;
            super::note(&mut timings, &done);
            for (embedding, vector) in embeddings.iter_mut().zip(done.values.dense) {
                embedding.vector = vector;
            }
        }
        Ok(self.response(embeddings, plan.heads, timings))
    }

    fn response(
        &self,
        embeddings: Vec<Embedding>,
        heads: Heads,
        timings: Timings,
    ) -> EmbedResponse {
        let mut usage = Usage::default();
        for embedding in &embeddings {
            usage.add(embedding.tokens, embedding.tokens_cut);
        }
        EmbedResponse {
            model: self.name.to_string(),
            heads,
            embeddings,
            usage,
            timings,
        }
    }

    fn combined(
        &self,
        parts: Vec<Part>,
        chunk: Chunk,
        finish: Finish,
        place: Place,
    ) -> Result<Values> {
        let how = Combine {
            pooling: chunk.pooling,
            model: self.info.pooling,
            finish,
        };
        combine(parts, how).map_err(|fault| {
            self.telemetry.bad_output(&self.name);
            Error::BadOutput {
                place,
                fault: fault.to_string(),
            }
        })
    }

    fn plan<'a>(&self, request: &EmbedRequest, caller: &'a Caller) -> Result<Plan<'a>> {
        let heads = self.wanted_heads(request.heads)?;
        let chunk = match request.long {
            LongInput::Cut => None,
            LongInput::Chunk(chunk) => Some(chunk),
        };
        if request.context == Context::Joined {
            self.check_joined(heads, chunk)?;
        }
        if chunk.is_some_and(|chunk| chunk.pooling == ChunkPooling::Late) {
            self.pools_over_all_tokens("chunk", &[Pooling::Mean, Pooling::Max])?;
        }
        Ok(Plan {
            heads,
            conditions: self.conditions(heads, &request.conditioning)?,
            finish: Finish {
                dimensions: self.dimensions(request.dimensions, heads)?,
                normalize: request.normalize,
            },
            chunk,
            caller,
        })
    }

    fn text_plan(&self, request: &EmbedRequest, plan: &Plan<'_>) -> Result<TextPlan> {
        let most = plan.conditions.limit(self.info.max_tokens);
        let truncation = tokenize::truncation(request.truncate, most)?;
        let chunking = plan.chunk.map(|chunk| {
            let most = chunk.max_tokens.unwrap_or(truncation.max_tokens);
            let max_tokens = most.min(truncation.max_tokens);
            let overlap = match (chunk.overlap, chunk.pooling) {
                // Tokens in two chunks would count twice.
                (None, ChunkPooling::Late) => 0,
                (asked, _) => tokenize::overlap(asked, max_tokens),
            };
            Chunking {
                max_tokens,
                overlap,
            }
        });
        Ok(TextPlan {
            tokenizer: self.tokenizer.clone(),
            conditions: plan.conditions.clone(),
            truncation,
            chunking,
            max_chunks: None,
        })
    }

    /// The heads that a request means.
    fn wanted_heads(&self, wanted: Heads) -> Result<Heads> {
        Task::Embed.check(&self.name, &self.info)?;
        let own = vector_heads(&self.info);
        match wanted.without(own).iter().next() {
            Some(head) => {
                let what = format!("give {head} vectors");
                Err(unsupported(&self.name, &self.info, &what))
            }
            None if !wanted.is_empty() => Ok(wanted),
            None if own.contains(Head::Dense) => Ok(Heads::DENSE),
            None => Ok(own),
        }
    }

    fn check_joined(&self, heads: Heads, chunk: Option<Chunk>) -> Result<()> {
        if heads != Heads::DENSE || chunk.is_some() {
            return Err(Error::invalid(
                "late_chunking",
                "`late_chunking` gives dense vectors of texts that are read together; leave out \
                 other outputs and `chunk`",
            ));
        }
        if self.info.source != GraphSource::Built {
            let name = &self.name;
            return Err(Error::invalid(
                "late_chunking",
                format!("model `{name}` runs a given graph, which pools whole texts"),
            ));
        }
        let over_all = [Pooling::Mean, Pooling::Max, Pooling::MeanSqrtLen];
        self.pools_over_all_tokens("late_chunking", &over_all)
    }

    /// Refuses a model whose vector is that of one token, which a part of a text need not have.
    fn pools_over_all_tokens(&self, field: &'static str, fit: &[Pooling]) -> Result<()> {
        if self
            .info
            .pooling
            .is_some_and(|pooling| fit.contains(&pooling))
        {
            return Ok(());
        }
        let own = self.info.pooling.map_or("in its own way", Pooling::name);
        let fit: Vec<&str> = fit.iter().map(|pooling| pooling.name()).collect();
        Err(Error::invalid(
            field,
            format!(
                "late pooling is for models that pool by {}; `{}` pools by {own}",
                fit.join(" or "),
                self.name
            ),
        ))
    }

    /// Refuses lengths that vectors were not trained to be cut to.
    fn dimensions(&self, wanted: Option<usize>, heads: Heads) -> Result<Option<usize>> {
        let own = self.info.dimensions;
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        let refuse = |why: String| Err(Error::invalid("dimensions", why));
        if !heads.contains(Head::Dense) {
            return refuse(format!(
                "`dimensions` is {wanted}, but only dense vectors can be shortened"
            ));
        }
        if wanted == 0 || wanted > own {
            return refuse(format!(
                "`dimensions` is {wanted}; model `{}` has 1 to {own}",
                self.name
            ));
        }
        let trained = &self.info.matryoshka;
        if wanted == own || trained.allows(wanted) || self.untrained_dimensions.allowed() {
            return Ok(Some(wanted));
        }
        let lengths = if trained.is_empty() {
            own.to_string()
        } else {
            format!("{own}, and {trained}")
        };
        refuse(format!(
            "`dimensions` is {wanted}, a length that model `{}` was not trained for; it has {} \
             (`allow_untrained_dimensions` permits others)",
            self.name, lengths
        ))
    }
}

impl Plan<'_> {
    /// What is done for all inputs.
    fn ask(&self) -> Ask<'_> {
        Ask {
            finish: self.finish,
            work: Work::Texts,
            caller: self.caller,
        }
    }
}

/// What is known of a text before it is run.
fn account(chunks: &[Encoding]) -> Embedding {
    Embedding {
        tokens: chunks.iter().map(|chunk| chunk.input_ids.len()).sum(),
        tokens_cut: chunks
            .iter()
            .map(|chunk| chunk.tokens_cut)
            .max()
            .unwrap_or(0),
        chunks: chunks.len(),
        ..Embedding::default()
    }
}

fn fill(embedding: &mut Embedding, mut values: Values) {
    embedding.vector = values.dense.pop().unwrap_or_default();
    embedding.sparse = values.sparse;
    embedding.multi_vector = values.multi_vector;
}
