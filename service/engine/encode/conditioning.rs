//! What a request says about its texts → the prompt or the marker before them and the adapter they
//! run with.

use retort_models::{EncoderInfo, Head, Heads, LateInteraction, PromptChoice, Side};

use super::Pipeline;
use crate::{
    engine::request::{Conditioning, PromptWish},
    error::{Error, Result},
};

/// Names that mean the same, as checkpoints and callers have them. The first of a family is the
/// most usual.
const FAMILIES: &[&[&str]] = &[
    QUERIES,
    DOCUMENTS,
    &["classification"],
    &["clustering", "separation"],
    &["text-matching", "similarity", "semantic_similarity", "sts"],
];

/// Names of the texts that ask.
const QUERIES: &[&str] = &[
    "query",
    "search_query",
    "retrieval.query",
    "retrieval_query",
];

/// Names of the texts that answer.
const DOCUMENTS: &[&str] = &[
    "passage",
    "document",
    "search_document",
    "retrieval.passage",
    "retrieval_document",
    "retrieval",
];

/// What decoder embedders want before an instruction (Qwen3-Embedding, e5-mistral).
const INSTRUCT: &str = "Instruct: ";

/// What all texts of a request get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// What goes before each text.
    pub prompt: String,
    /// The number of the adapter that they run with.
    pub adapter: Option<u8>,
    /// The marker that goes before each text instead of a prompt, and how long a text may then be.
    pub side: Option<Side>,
}

impl Conditions {
    /// The most tokens of a text that may have so many anyhow.
    pub fn limit(&self, max_tokens: usize) -> usize {
        let own = self.side.as_ref().and_then(|side| side.max_tokens);
        own.map_or(max_tokens, |own| own.min(max_tokens))
    }
}

impl Pipeline {
    /// What the texts of a request for these heads get.
    ///
    /// # Errors
    /// When a task or a prompt is named that the model does not have.
    pub(super) fn conditions(&self, heads: Heads, wish: &Conditioning) -> Result<Conditions> {
        let marks = self.late_interaction.as_ref();
        match marks.filter(|_| heads.contains(Head::MultiVector)) {
            Some(marks) => Ok(Conditions {
                side: Some(side(marks, wish)?.clone()),
                ..Conditions::default()
            }),
            None => conditions(&self.info, wish),
        }
    }
}

/// The side of a late-interaction model that texts are of: documents, unless they are called
/// queries.
fn side<'m>(marks: &'m LateInteraction, wish: &Conditioning) -> Result<&'m Side> {
    let named = match &wish.prompt {
        None => None,
        Some(PromptWish::Named(name)) => match name.as_str() {
            known if QUERIES.contains(&known) || DOCUMENTS.contains(&known) => Some(name),
            _ => {
                return Err(Error::invalid(
                    "prompt_name",
                    format!("the model has no prompt `{name}`; it has: `query`, `document`"),
                ));
            }
        },
        Some(PromptWish::Text(text) | PromptWish::Instruction(text)) if text.is_empty() => None,
        Some(PromptWish::Text(_) | PromptWish::Instruction(_)) => {
            return Err(Error::invalid(
                "prompt",
                "the model marks its texts as queries or documents and takes no other prompt or \
                 instruction; send `input_type` as `query` or `document`",
            ));
        }
    };
    let name = named.or(wish.input_type.as_ref()).or(wish.task.as_ref());
    let is_query = name.is_some_and(|name| QUERIES.contains(&name.as_str()));
    Ok(if is_query {
        &marks.query
    } else {
        &marks.document
    })
}

/// What the texts of a request get of a model.
///
/// # Errors
/// When a task or a prompt is named that the model does not have.
pub(super) fn conditions(info: &EncoderInfo, wish: &Conditioning) -> Result<Conditions> {
    let task = task(info, wish)?;
    let prompts = &info.prompts;
    let names: Vec<&str> = prompts.named.keys().map(String::as_str).collect();
    let named = |name: &str| known_name(name, &names);
    let by_hint = || {
        let task = task.map(|number| info.tasks[number].as_str());
        let hint = wish.input_type.as_deref();
        task.and_then(named).or_else(|| hint.and_then(named))
    };
    let choice = match &wish.prompt {
        Some(PromptWish::Named(name)) => Some(PromptChoice::Named(name)),
        Some(PromptWish::Text(text)) => Some(PromptChoice::Text(text)),
        Some(PromptWish::Instruction(instruction)) => {
            let prompt = instructed(info, instruction);
            return Ok(Conditions {
                prompt,
                adapter: adapter(task),
                side: None,
            });
        }
        None => by_hint().map(PromptChoice::Named),
    };
    let prompt = prompts
        .resolve(choice)
        .map_err(|error| Error::invalid("prompt_name", error.to_string()))?;
    Ok(Conditions {
        prompt: prompt.to_owned(),
        adapter: adapter(task),
        side: None,
    })
}

fn adapter(task: Option<usize>) -> Option<u8> {
    task.and_then(|number| u8::try_from(number).ok())
}

/// The number of the task, for a model that has tasks. A task must be one of them; a hint may be.
/// Without either there is none, so that the model runs as it was before its adapters were trained
/// (as sentence-transformers has it); a graph that cannot do that wants to be told.
fn task(info: &EncoderInfo, wish: &Conditioning) -> Result<Option<usize>> {
    if info.tasks.is_empty() {
        return Ok(None);
    }
    let tasks: Vec<&str> = info.tasks.iter().map(String::as_str).collect();
    let number = |name: &str| {
        let known = known_name(name, &tasks)?;
        info.tasks.iter().position(|task| task == known)
    };
    let refuse = |why: String| {
        let known: Vec<String> = tasks.iter().map(|task| format!("`{task}`")).collect();
        Error::invalid("task", format!("{why}; it has: {}", known.join(", ")))
    };
    if let Some(name) = &wish.task {
        let unknown = || refuse(format!("the model has no task `{name}`"));
        return number(name).map(Some).ok_or_else(unknown);
    }
    match wish.input_type.as_deref().and_then(number) {
        None if info.needs_task() => Err(refuse(
            "the model's graph always runs one of its tasks, so `task` must name it".into(),
        )),
        found => Ok(found),
    }
}

/// The name itself if it is known, else one that means the same.
fn known_name<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let find = |wanted: &str| known.iter().copied().find(|known| *known == wanted);
    let family = || FAMILIES.iter().find(|family| family.contains(&name));
    find(name).or_else(|| family()?.iter().find_map(|name| find(name)))
}

/// An instruction in the form of the checkpoint's own, where that is `Instruct: …`, a line break
/// and what follows; otherwise as it is.
fn instructed(info: &EncoderInfo, instruction: &str) -> String {
    let after = |prompt: &String| {
        let (_, after) = prompt.strip_prefix(INSTRUCT)?.split_once('\n')?;
        Some(format!("{INSTRUCT}{instruction}\n{after}"))
    };
    info.prompts
        .named
        .values()
        .find_map(after)
        .unwrap_or_else(|| instruction.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::fake_info;
    use super::*;

    fn model(prompts: &[(&str, &str)], tasks: &[&str]) -> EncoderInfo {
        let mut info = fake_info(100);
        let named = prompts.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
        info.prompts.named = named.collect();
        info.tasks = tasks.iter().map(|&task| task.to_owned()).collect();
        info
    }

    fn hint(input_type: &str) -> Conditioning {
        Conditioning {
            input_type: Some(input_type.into()),
            ..Conditioning::default()
        }
    }

    fn prompt(info: &EncoderInfo, wish: &Conditioning) -> String {
        conditions(info, wish).unwrap().prompt
    }

    #[test]
    fn hints_find_the_prompt_under_the_checkpoints_own_name() {
        let e5 = model(&[("query", "query: "), ("passage", "passage: ")], &[]);
        let nomic = model(&[("search_query", "search_query: ")], &[]);
        for name in ["query", "search_query", "retrieval.query"] {
            assert_eq!(prompt(&e5, &hint(name)), "query: ");
            assert_eq!(prompt(&nomic, &hint(name)), "search_query: ");
        }
        assert_eq!(prompt(&e5, &hint("document")), "passage: ");
        for nothing in ["document", "image", ""] {
            assert_eq!(prompt(&nomic, &hint(nothing)), "");
        }
    }

    #[test]
    fn a_prompt_that_is_asked_for_must_be_there() {
        let e5 = model(&[("query", "query: ")], &[]);
        let wish = |prompt| Conditioning {
            prompt: Some(prompt),
            ..hint("query")
        };
        assert_eq!(prompt(&e5, &wish(PromptWish::Text("x ".into()))), "x ");
        assert_eq!(prompt(&e5, &wish(PromptWish::Text(String::new()))), "");
        let error = conditions(&e5, &wish(PromptWish::Named("passage".into()))).unwrap_err();
        assert_eq!(error.param(), Some("prompt_name"));
        assert!(error.to_string().contains("`query`"), "{error}");
    }

    #[test]
    fn an_instruction_takes_the_form_of_the_checkpoint() {
        let qwen = model(&[("query", "Instruct: Given a query\nQuery:")], &[]);
        let wish = Conditioning {
            prompt: Some(PromptWish::Instruction("Find code".into())),
            ..Conditioning::default()
        };
        assert_eq!(prompt(&qwen, &wish), "Instruct: Find code\nQuery:");
        assert_eq!(prompt(&model(&[("query", "q: ")], &[]), &wish), "Find code");
    }

    #[test]
    fn a_task_is_one_of_the_models_and_brings_its_prompt() {
        let tasks = ["retrieval.query", "retrieval.passage", "text-matching"];
        let jina = model(&[("retrieval.passage", "Represent: ")], &tasks);
        let wish = |task: &str| Conditioning {
            task: Some(task.into()),
            ..Conditioning::default()
        };
        for (name, adapter, text) in [
            ("retrieval.query", 0, ""),
            ("query", 0, ""),
            ("passage", 1, "Represent: "),
            ("retrieval", 1, "Represent: "),
            ("text-matching", 2, ""),
        ] {
            let found = conditions(&jina, &wish(name)).unwrap();
            assert_eq!(
                (found.adapter, found.prompt.as_str()),
                (Some(adapter), text),
                "{name}"
            );
        }
        let error = conditions(&jina, &wish("poetry")).unwrap_err();
        assert!(error.to_string().contains("`text-matching`"), "{error}");
        assert_eq!(conditions(&jina, &hint("query")).unwrap().adapter, Some(0));
        assert_eq!(conditions(&jina, &hint("poetry")).unwrap().adapter, None);
        // Models without tasks do not mind.
        assert_eq!(
            conditions(&model(&[], &[]), &wish("poetry")).unwrap(),
            Conditions::default()
        );
    }
    #[test]
    fn a_graph_that_must_have_a_task_is_not_run_without() {
        let mut jina = model(&[], &["retrieval.query", "separation"]);
        assert_eq!(task(&jina, &Conditioning::default()).unwrap(), None);
        jina.source = retort_models::GraphSource::Given("model.onnx".into());
        for wish in [Conditioning::default(), hint("poetry")] {
            let error = conditions(&jina, &wish).unwrap_err();
            assert_eq!(
                (error.status().as_u16(), error.param()),
                (400, Some("task"))
            );
            let told = "must name it; it has: `retrieval.query`, `separation`";
            assert!(error.to_string().contains(told), "{error}");
        }
        assert_eq!(conditions(&jina, &hint("query")).unwrap().adapter, Some(0));
    }
}
