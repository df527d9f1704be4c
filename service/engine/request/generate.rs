//! What a model is asked to write, and what it answers, piece by piece.

use std::time::{Duration, Instant};

use retort_models::SpecialTokens;

/// A prompt to be continued.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// What is continued.
    pub prompt: PromptInput,
    /// Where the caller has it.
    pub field: PromptField,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Texts that end an answer and are no part of it.
    pub stop: Vec<String>,
    /// The most tokens of an answer; `None` means until it ends or the context is full.
    pub max_tokens: Option<usize>,
    /// How many answers.
    pub n: usize,
    /// Tells the log probability of each token and of so many likelier ones.
    pub logprobs: Option<usize>,
    /// What an answer must look like.
    pub constraint: Option<Constraint>,
    /// When the caller stops waiting; `None` bounds only the time to the first token.
    pub deadline: Option<Instant>,
    /// Whether the model may end its answer.
    pub end_of_text: EndOfText,
    /// Whether the names of control tokens are part of the text.
    pub special_tokens: SpecialTokens,
}

impl GenerateRequest {
    /// One answer, as the model's own defaults say.
    pub fn new(prompt: PromptInput) -> Self {
        Self {
            prompt,
            field: PromptField::default(),
            sampling: Sampling::default(),
            stop: Vec::new(),
            max_tokens: None,
            n: 1,
            logprobs: None,
            constraint: None,
            deadline: None,
            end_of_text: EndOfText::default(),
            special_tokens: SpecialTokens::Skip,
        }
    }
}

/// The field of a request that a prompt was made of, which errors name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PromptField {
    /// A prompt as it is.
    #[default]
    Prompt,
    /// Messages that a template makes one of.
    Messages,
}

impl PromptField {
    /// As it is called on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Messages => "messages",
        }
    }
}

/// What is continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptInput {
    /// Rendered text, in pieces that are glued before they are tokenized.
    Text {
        /// In order.
        pieces: Vec<PromptPiece>,
        /// Whether the tokens that begin every text are put in front, unless they are there
        /// already. A chat template writes its own.
        special_tokens: SpecialTokens,
    },
    /// The model's own token ids, as they are.
    Ids(Vec<u32>),
}

/// A piece of a rendered prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptPiece {
    /// What it says.
    pub text: String,
    /// Who says it.
    pub origin: Origin,
}

/// Who has written a piece of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The template, or whoever writes a whole prompt: the name of a control token is the token.
    Template,
    /// A user, a tool or a document: never a control token.
    Message,
}

/// How the next token is chosen. What is not given is as the checkpoint's `generation_config.json`
/// says, else it changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sampling {
    /// 0 to 2; 0 always takes the likeliest token.
    pub temperature: Option<f32>,
    /// Only the likeliest tokens that together have this probability; 0 to 1.
    pub top_p: Option<f32>,
    /// Only so many of the likeliest tokens; 0 means all.
    pub top_k: Option<usize>,
    /// Only tokens of at least this part of the likeliest one's probability; 0 to 1.
    pub min_p: Option<f32>,
    /// Taken from the logit of every token that the answer has already; -2 to 2.
    pub presence_penalty: Option<f32>,
    /// Taken from the logit for each time that the answer has the token; -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// Divides the positive and multiplies the negative logits of tokens that the prompt or the
    /// answer has; 0.01 to 100, and 1 changes nothing (Keskar et al. 2019).
    pub repetition_penalty: Option<f32>,
    /// The same seed gives the same text; `None` takes a fresh one.
    pub seed: Option<u64>,
}

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// Its form.
    pub grammar: Grammar,
    /// From where on.
    pub begins: Begins,
}

/// A form of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grammar {
    /// Some JSON object.
    JsonObject,
    /// JSON that this schema, itself JSON text, describes.
    JsonSchema(String),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// Text of this grammar in llguidance's dialect of Lark, where `%json { … }` stands for a
    /// schema.
    Lark(String),
}

/// Where a form is required.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Begins {
    /// From the first token.
    #[default]
    AtOnce,
    /// After this text, such as `</think>`, was written; anything may come before it.
    After(String),
}

/// Whether a model may end its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndOfText {
    /// It may.
    #[default]
    Honoured,
    /// The answer goes on to its most tokens: for benchmarks.
    Ignored,
}

/// A step of one answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerateEvent {
    /// Which of the answers.
    pub choice: usize,
    /// What is now certain: whole characters, no part of a stop text. May be empty.
    pub text: String,
    /// The tokens that are fully written with this. A token that ends an answer is none of them.
    pub tokens: Vec<u32>,
    /// One for each of `tokens` when they were asked for, else empty.
    pub logprobs: Vec<TokenLogprob>,
    /// How the answer ended; its last event has it, and no other.
    pub finish: Option<Finished>,
}

/// How likely a token was, and which were likelier.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The chosen token.
    pub token: TokenScore,
    /// The likeliest tokens, the first of all first.
    pub top: Vec<TokenScore>,
}

/// A token and its log probability under the model, before anything shapes it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenScore {
    /// Its number.
    pub id: u32,
    /// What it writes, with U+FFFD for what is no text by itself.
    pub text: String,
    /// The bytes that it writes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// The end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// Tokens that were generated for it, the one that ended it among them.
    pub completion_tokens: usize,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, a stop text came, or its form is complete.
    Stop,
    /// It has its most tokens, or the context is full.
    Length,
}

impl FinishReason {
    /// As OpenAI calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Token counts of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GenerateUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt whose keys and values were there from before.
    pub cached_tokens: usize,
    /// Tokens of all answers so far.
    pub completion_tokens: usize,
}

/// Where the time of a generation went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GenerateTimings {
    /// Text to token ids.
    pub tokenize: Duration,
    /// From then to the first step for it.
    pub queue: Duration,
    /// From then to the first token.
    pub prefill: Duration,
    /// From then to the last token so far.
    pub decode: Duration,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// What was written.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// One for each token, when they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// How it ended.
    pub finish: Finished,
}

/// All answers to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// As many as were asked for.
    pub choices: Vec<Choice>,
    /// Token counts.
    pub usage: GenerateUsage,
    /// Where the time went.
    pub timings: GenerateTimings,
}
