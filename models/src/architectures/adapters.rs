//! Low-rank task adapters (LoRA, Hu et al. 2021) that a checkpoint has beside its weights: what
//! config.json says of them, and which of them a request may name.

use serde_json::Value;

use crate::checkpoint::Config;
use crate::error::{Error, Result};

/// Where config.json speaks of adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterSettings {
    /// Their names, in the order in which their weights are stacked.
    pub names: &'static str,
    /// Rows of the first factor of each.
    pub rank: &'static str,
    /// The product of the factors is multiplied with this over the rank.
    pub alpha: &'static str,
    /// The text that each wants before inputs, by name.
    pub instructions: &'static str,
}

/// The adapters of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapters {
    /// What they are called; a request names one by its place in this list.
    pub names: Vec<String>,
    /// The text that each wants before inputs, by name; empty where it wants none.
    pub instructions: Vec<(String, String)>,
    /// Rows of the first factor of each.
    pub rank: usize,
    /// What the products of the factors are multiplied with.
    pub scale: f32,
}

impl Adapters {
    /// Reads the settings; `None` when they name no adapter.
    ///
    /// # Errors
    /// `Error::Checkpoint` when a name is no text, there are more than a request can name, or the
    /// numbers make no sense.
    pub(super) fn read(settings: &AdapterSettings, config: &Config) -> Result<Option<Self>> {
        let listed = config.get(settings.names).and_then(Value::as_array);
        let names: Vec<String> = config
            .texts(settings.names)
            .into_iter()
            .map(str::to_owned)
            .collect();
        if names.len() != listed.map_or(0, Vec::len) || names.len() > usize::from(u8::MAX) {
            return Err(config.error(settings.names, "is no list of at most `255` names"));
        }
        if names.is_empty() {
            return Ok(None);
        }
        let rank = config.count(settings.rank)?;
        let alpha = config.number(settings.alpha)?;
        if !alpha.is_finite() || rank > 1 << 16 {
            let message = format!("is `{alpha}` for a rank of `{rank}`");
            return Err(config.error(settings.alpha, &message));
        }
        let mut instructions = Vec::new();
        if let Some(Value::Object(texts)) = config.get(settings.instructions) {
            for (name, text) in texts {
                let text = text.as_str().ok_or_else(|| {
                    let message = format!("has no text for `{name}`");
                    config.error(settings.instructions, &message)
                })?;
                instructions.push((name.clone(), text.to_owned()));
            }
        }
        Ok(Some(Self {
            names,
            instructions,
            rank,
            scale: (alpha / rank as f64) as f32,
        }))
    }
}

/// Refuses a number that none of the adapters of these names has.
///
/// # Errors
/// `Error::Unsupported` lists the names.
pub(crate) fn check(names: &[String], wanted: &[Option<u8>]) -> Result<()> {
    let mut numbers = wanted.iter().copied().flatten();
    let Some(wrong) = numbers.find(|&number| usize::from(number) >= names.len()) else {
        return Ok(());
    };
    let listed = (0..)
        .zip(names)
        .map(|(number, name): (u8, _)| format!("`{number}` is `{name}`"));
    let listed: Vec<String> = listed.collect();
    Err(Error::Unsupported(if listed.is_empty() {
        format!("the model has no task adapters, so none of number `{wrong}`")
    } else {
        format!(
            "the model has no task adapter of number `{wrong}` ({})",
            listed.join(", ")
        )
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::jina_xlm_roberta::JINA_XLM_ROBERTA;
    use super::*;

    fn read(values: Value) -> Result<Option<Adapters>> {
        let config = Config::new(Path::new("config.json"), values)?;
        Adapters::read(&JINA_XLM_ROBERTA.adapters.unwrap(), &config)
    }

    #[test]
    fn adapters_are_read_or_refused() {
        let adapters = read(json!({
            "lora_adaptations": ["query", "passage"], "lora_rank": 4, "lora_alpha": 2,
            "task_instructions": {"query": "q: "},
        }));
        let adapters = adapters.unwrap().unwrap();
        assert_eq!(adapters.names, ["query", "passage"]);
        assert_eq!(adapters.instructions, [("query".into(), "q: ".into())]);
        assert_eq!((adapters.rank, adapters.scale), (4, 0.5));
        for none in [json!({}), json!({"lora_adaptations": []})] {
            assert_eq!(read(none).unwrap(), None);
        }
        for wrong in [
            json!({"lora_adaptations": [1], "lora_rank": 4, "lora_alpha": 1}),
            json!({"lora_adaptations": ["query"], "lora_alpha": 1}),
            json!({"lora_adaptations": ["query"], "lora_rank": 4}),
            json!({"lora_adaptations": vec!["query"; 256], "lora_rank": 4, "lora_alpha": 1}),
            json!({"lora_adaptations": ["query"], "lora_rank": 4, "lora_alpha": 1,
                   "task_instructions": {"query": 1}}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_number_lists_the_right_ones() {
        let names = ["query".to_owned(), "passage".to_owned()];
        assert!(check(&names, &[None, Some(0), Some(1)]).is_ok());
        let error = check(&names, &[Some(0), Some(2)]).unwrap_err().to_string();
        assert!(
            error.contains("number `2` (`0` is `query`, `1` is `passage`)"),
            "{error}"
        );
        let error = check(&[], &[Some(0)]).unwrap_err().to_string();
        assert!(error.contains("no task adapters"), "{error}");
    }
}
