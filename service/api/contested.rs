//! Paths that several peers claim: who is speaking, told by the path and by what the body has.
//! Every such decision is here, and a handler asks once. The first line that fits decides.
//!
//! | path | the body has | speaks |
//! |---|---|---|
//! | `/rerank`, `/v1/rerank`, aliases | `texts`, no `documents` | text-embeddings-inference |
//! | `/rerank`, `/reranking` | `raw_scores`, or the model `default/not-specified` | Infinity |
//! | `/classify` | `raw_scores`, or the model `default/not-specified` | Infinity |
//! | `/v2/rerank` | anything else | Cohere |
//! | `/api/rerank` | anything else | Ollama's clients |
//! | `/infinity/…` | anything | Infinity |
//! | all of them | anything else | the union that the other peers' clients read |
//! | `/tokenize`, `/v1/tokenize` | `inputs` | text-embeddings-inference |
//! | | `prompt` or `messages` | vLLM |
//! | | `content` | llama.cpp |
//! | | `text` | Cohere |
//! | `/detokenize` | anything | vLLM, llama.cpp and Cohere, in one answer |
//! | `/v1/detokenize` | anything | Cohere, in that answer with its `meta` |
//! | `/`, `/invocations` | fields of a ranking, `inputs`, `input`, fields of a score | [`invoke`] |

mod body;
mod speaker;

pub use self::{
    body::{invoke, tokenize},
    speaker::{Door, Marks, Speaker, UNNAMED_MODEL, classify, infinitys, rerank},
};
