//! How decoders judge a query and a document: what they read, and what of their last token is the
//! score.

use crate::tokenizer::template::PairTemplate;

/// The rerankers of a family of decoders.
#[derive(Debug)]
pub struct Reranker {
    /// How they want a query and a document written, those too that were converted to a classifier
    /// with one label.
    pub template: &'static PairTemplate,
    /// The Python class that a checkpoint names when its score is made as follows.
    pub class: &'static str,
    /// How a score is made of the last token.
    pub score: LastTokenScore,
}

/// How a score is made of the vector of the last token.
#[derive(Debug, Clone, Copy)]
pub enum LastTokenScore {
    /// By the word that the language model would write next.
    Answer(Answer),
    /// By a linear layer with one row, of which there is one after each of the later layers.
    LayerHeads(LayerHeads),
}

/// The two words that a language model chooses from: the logit of the first less that of the second
/// is the logit of the probability that a softmax over both gives the first.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// The word for a document that answers the query, one token.
    pub yes: &'static str,
    /// The word for one that does not, one token.
    pub no: &'static str,
    /// `[vocabulary, hidden]`, where it is not the table of word embeddings.
    pub output_embeddings: &'static str,
    /// What the chat template of a checkpoint says if it writes pairs as the family does.
    pub chat_template_mark: &'static str,
}

/// Heads after layers, so that a score may be had from the first layers alone. The names are of
/// tensors, `[1, hidden]`.
#[derive(Debug, Clone, Copy)]
pub struct LayerHeads {
    /// The setting for the number of layers before the first head.
    pub start: &'static str,
    /// The setting that tells whether each layer has a head of its own. Absent, it has.
    pub each: &'static str,
    /// The head of a layer; `{}` is its number among the heads.
    pub own: &'static str,
    /// The one that all layers share otherwise.
    pub shared: &'static str,
}
