//! A chat without its wire form, and how it begins: the template is rendered, what the answer must
//! look like is settled, and the first token awaited.

use std::{collections::BTreeMap, sync::Arc};

use retort_models::SpecialTokens;

use super::{
    calls::CallForm,
    constraint::{self, Format, ToolChoice},
    messages::{ArgumentsAs, DeveloperAs, Message},
    reader::{Reading, Thoughts},
};
use crate::{
    api::generation::Wishes,
    engine::{
        Engine,
        generate::{
            GenerateStream,
            reasoning::Begins as Thinking,
            template::{ChatTemplate, Conversation, Ending, Value},
        },
        request::{Begins, Constraint, GenerateRequest, PromptField, PromptInput, PromptPiece},
    },
    error::{Error, Result},
};

/// Prompts above this many bytes are rendered on a thread that may block.
const BIG_PROMPT_BYTES: usize = 64 << 10;

/// A chat.
#[derive(Debug, Default)]
pub struct ChatAsk {
    /// The model, by any of its names.
    pub model: Option<String>,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Where the caller has them.
    pub field: PromptField,
    /// Functions that the model may call.
    pub tools: Vec<Value>,
    /// Whether it does.
    pub tool_choice: ToolChoice,
    /// The form of its answer.
    pub format: Format,
    /// Whether it thinks first, where it can be told.
    pub thinking: Option<bool>,
    /// Tells log probabilities, with so many likelier tokens.
    pub logprobs: Option<usize>,
    /// Further variables of the template.
    pub variables: BTreeMap<String, Value>,
    /// What is done with what it thinks.
    pub thoughts: Thoughts,
    /// How the prompt ends.
    pub ending: Ending,
    /// How tokens are chosen.
    pub wishes: Wishes,
}

/// A chat whose answer is on its way.
pub struct Chatting {
    /// The served name of the model.
    pub model: String,
    /// The answers as they come.
    pub stream: GenerateStream,
    /// How they are to be read.
    pub reading: Reading,
    /// How many there are.
    pub choices: usize,
}

/// A prompt and how its answers are read.
struct Rendered {
    pieces: Vec<PromptPiece>,
    reading: Reading,
    constraint: Option<Constraint>,
}

impl ChatAsk {
    /// Begins; there is a first token when this returns.
    ///
    /// # Errors
    /// What is wrong with the request, or why it cannot be served now.
    pub async fn start(mut self, engine: &Engine) -> Result<Chatting> {
        let generator = engine.generator(self.model.as_deref()).await?;
        let model = generator.name().to_owned();
        let template = generator.template()?;
        let special_tokens = template.tags();
        let (logprobs, field) = (self.logprobs, self.field);
        let wishes = std::mem::take(&mut self.wishes);
        let rendered = self.rendered(template).await?;
        let mut request = GenerateRequest::new(PromptInput::Text {
            pieces: rendered.pieces,
            // Templates write the first token themselves.
            special_tokens: SpecialTokens::Skip,
        });
        wishes.apply(&mut request)?;
        request.field = field;
        request.logprobs = logprobs;
        request.special_tokens = special_tokens;
        request.constraint = rendered.constraint;
        let choices = request.n;
        Ok(Chatting {
            model,
            stream: generator.generate(request).await?,
            reading: rendered.reading,
            choices,
        })
    }

    /// The prompt that the model would be asked to go on with, and the model's served name.
    ///
    /// # Errors
    /// What is wrong with the request, or why it cannot be served now.
    pub async fn prompt(self, engine: &Engine) -> Result<(String, String)> {
        let generator = engine.generator(self.model.as_deref()).await?;
        let rendered = self.rendered(generator.template()?).await?;
        let pieces = rendered.pieces.into_iter().map(|piece| piece.text);
        Ok((pieces.collect(), generator.name().to_owned()))
    }

    /// Renders, where it may take its time.
    async fn rendered(self, template: Arc<ChatTemplate>) -> Result<Rendered> {
        if self.bytes() <= BIG_PROMPT_BYTES {
            return self.render(&template);
        }
        tokio::task::spawn_blocking(move || self.render(&template))
            .await
            .map_err(|error| Error::Internal(format!("rendering a chat: {error}")))?
    }

    fn bytes(&self) -> usize {
        self.messages.iter().map(Message::bytes).sum()
    }

    fn render(mut self, template: &ChatTemplate) -> Result<Rendered> {
        let names = constraint::names(&self.tools)?;
        let calls = self.call_form(template)?;
        let grammar = match calls {
            Some(form) => constraint::must_call(&self.tool_choice, &self.tools, form)?,
            None => None,
        };
        let grammar = grammar.or_else(|| self.format.grammar());
        // A model that can be told not to think is: its answer then begins with its form.
        let thinking = self.thinking.or(grammar.is_some().then_some(false));
        if let Some(thinking) = thinking {
            for name in ["enable_thinking", "thinking"] {
                let variable = self.variables.entry(name.to_owned());
                variable.or_insert_with(|| thinking.into());
            }
        }
        let pieces = self.pieces(template, calls)?;
        let prompt: String = pieces.iter().map(|piece| &piece.text[..]).collect();
        let begins = Thinking::after(&prompt);
        let constraint = grammar.map(|grammar| Constraint {
            grammar,
            begins: match begins {
                Thinking::Thinking => Begins::After("</think>".into()),
                Thinking::Freely => Begins::AtOnce,
            },
        });
        let reading = Reading {
            thoughts: self.thoughts,
            begins,
            calls,
            names,
        };
        Ok(Rendered {
            pieces,
            reading,
            constraint,
        })
    }

    /// How the model writes calls, where it may make some.
    fn call_form(&self, template: &ChatTemplate) -> Result<Option<CallForm>> {
        if self.tools.is_empty() {
            return match self.tool_choice {
                ToolChoice::Auto | ToolChoice::Never => Ok(None),
                ToolChoice::Required | ToolChoice::Named(_) => Err(Error::invalid(
                    "tool_choice",
                    "`tool_choice` wants a call, but `tools` is empty",
                )),
            };
        }
        if self.tool_choice == ToolChoice::Never {
            return Ok(None);
        }
        if template.mentions("<tool_call>") {
            Ok(Some(CallForm::Tagged))
        } else if template.knows_functions() {
            Ok(Some(CallForm::Bare))
        } else {
            Err(Error::invalid(
                "tools",
                "the model's chat template knows of no functions; leave `tools` out, or take a \
                 model that was trained to call them",
            ))
        }
    }

    fn pieces(
        &mut self,
        template: &ChatTemplate,
        calls: Option<CallForm>,
    ) -> Result<Vec<PromptPiece>> {
        let developer = if template.mentions("developer") {
            DeveloperAs::Developer
        } else {
            DeveloperAs::System
        };
        let mut conversation = Conversation {
            messages: Vec::new(),
            tools: calls.map(|_| std::mem::take(&mut self.tools)),
            ending: self.ending,
            variables: std::mem::take(&mut self.variables),
        };
        let mut render = |arguments| {
            let values = self.messages.iter().map(|m| m.value(developer, arguments));
            conversation.messages = values.collect::<Result<_>>()?;
            template.render(&conversation)
        };
        let rendered = render(ArgumentsAs::Objects);
        if rendered.is_err() && self.messages.iter().any(Message::has_calls) {
            // Nothing else tells which form a template wants; the first complaint is the better.
            return render(ArgumentsAs::Texts).or(rendered);
        }
        rendered
    }
}
