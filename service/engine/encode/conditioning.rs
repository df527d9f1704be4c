//! What a request says about its texts → the prompt before them and the adapter they run with.

use retort_models::{EncoderInfo, PromptChoice};

use crate::{
    engine::request::{Conditioning, PromptWish},
    error::{Error, Result},
};

/// Names that mean the same, as checkpoints and callers have them. The first of a family is the
/// most usual.
const FAMILIES: &[&[&str]] = &[
    &[
        "query",
        "search_query",
        "retrieval.query",
        "retrieval_query",
    ],
    &[
        "passage",
        "document",
        "search_document",
        "retrieval.passage",
        "retrieval_document",
        "retrieval",
    ],
    &["classification"],
    &["clustering", "separation"],
    &["text-matching", "similarity", "semantic_similarity", "sts"],
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
}

/// What the texts of a request get of a model.
///
/// # Errors
/// When a task or a prompt is named that the model does not have.
pub fn conditions(info: &EncoderInfo, wish: &Conditioning) -> Result<Conditions> {
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
    })
}

fn adapter(task: Option<usize>) -> Option<u8> {
    task.and_then(|number| u8::try_from(number).ok())
}

/// The number of the task, for a model that has tasks. A task must be one of them; a hint may be.
fn task(info: &EncoderInfo, wish: &Conditioning) -> Result<Option<usize>> {
    if info.tasks.is_empty() {
        return Ok(None);
    }
    let tasks: Vec<&str> = info.tasks.iter().map(String::as_str).collect();
    let number = |name: &str| {
        let known = known_name(name, &tasks)?;
        info.tasks.iter().position(|task| task == known)
    };
    match (&wish.task, &wish.input_type) {
        (Some(name), _) => number(name).map(Some).ok_or_else(|| {
            let known: Vec<String> = info.tasks.iter().map(|task| format!("`{task}`")).collect();
            Error::invalid(
                "task",
                format!(
                    "the model has no task `{name}`; it has: {}",
                    known.join(", ")
                ),
            )
        }),
        (None, Some(hint)) => Ok(number(hint)),
        (None, None) => Ok(None),
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
}
