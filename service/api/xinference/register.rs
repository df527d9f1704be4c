//! A client's own model, in any of Xinference's forms → an entry of the catalogue. Records of the
//! API have a hub in each spec; its catalogue files have them nested under `model_src`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use retort_models::{
    Head,
    catalog::{Entry, Repository, Task as CatalogTask},
};
use serde::Deserialize;
use serde_json::Value;

use super::ModelType;
use crate::{
    api::extract::shorten,
    error::{Error, Result},
};

/// The longest input of a model that does not say, as Xinference assumes it.
const MAX_TOKENS_DEFAULT: usize = 512;

/// A model as its owner describes it. What is not known here is ignored.
#[derive(Debug, Deserialize)]
pub struct CustomModel {
    model_name: Option<String>,
    dimensions: Option<usize>,
    max_tokens: Option<usize>,
    language: Option<Vec<String>>,
    model_specs: Option<Vec<CustomSpec>>,
    // The first form of the record had the keys of its one spec beside the others.
    model_id: Option<String>,
    model_uri: Option<String>,
    model_revision: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct CustomSpec {
    model_format: Option<String>,
    model_hub: Option<String>,
    model_id: Option<String>,
    model_uri: Option<String>,
    model_revision: Option<String>,
    model_src: Option<BTreeMap<String, CustomSource>>,
}

#[derive(Debug, Default, Deserialize)]
struct CustomSource {
    model_id: Option<String>,
    model_uri: Option<String>,
    model_revision: Option<String>,
}

impl CustomModel {
    /// Reads the record, which clients send as JSON in a text.
    ///
    /// # Errors
    /// When it is missing, no JSON, or a key has the wrong type.
    pub fn read(model: Option<Value>) -> Result<Self> {
        let wrong = |error: serde_json::Error| {
            let message = format!("`model` is no record: {}", shorten(&error.to_string(), 300));
            Error::invalid("model", message)
        };
        match model {
            None => Err(Error::invalid("model", "`model` is missing")),
            Some(Value::String(text)) => serde_json::from_str(&text).map_err(wrong),
            Some(object) => serde_json::from_value(object).map_err(wrong),
        }
    }

    /// The entry of the catalogue.
    ///
    /// # Errors
    /// When a key is missing or what it says cannot be.
    pub fn entry(self, model_type: ModelType) -> Result<Entry> {
        let (task, heads) = match model_type {
            ModelType::Embedding => (CatalogTask::Embed, vec![Head::Dense]),
            ModelType::Rerank => (CatalogTask::Rerank, vec![Head::Score]),
            ModelType::Llm | ModelType::Other(_) => {
                let message = format!("models of the type `{}` are not served", model_type.name());
                return Err(Error::invalid("model_type", message));
            }
        };
        let sources = self.sources()?;
        let name = self.model_name.unwrap_or_default();
        let huggingface = sources.huggingface.or(sources.modelscope.clone());
        let entry = Entry {
            aliases: Vec::new(),
            task,
            family: None,
            heads,
            // Some records of rerankers have the key; it says nothing there.
            dimensions: self.dimensions.filter(|_| task == CatalogTask::Embed),
            max_tokens: self.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT),
            languages: self
                .language
                .filter(|codes| !codes.is_empty())
                .unwrap_or_else(|| vec!["multilingual".into()]),
            pooling: None,
            normalize: None,
            matryoshka: retort_models::Matryoshka::default(),
            cutoff_layer: None,
            parameters: None,
            weights_bytes: None,
            memory_mib: None,
            licence: None,
            huggingface: huggingface.unwrap_or_else(|| Repository {
                // It is published nowhere; the directory goes before this id.
                id: format!("local/{name}"),
                revision: None,
                copies: Vec::new(),
            }),
            modelscope: sources.modelscope,
            directory: sources.directory,
            prompts: BTreeMap::new(),
            sha256: BTreeMap::new(),
            name,
        };
        match entry.wrong() {
            None => Ok(entry),
            Some(wrong) => Err(Error::invalid("model", format!("the record: {wrong}"))),
        }
    }

    fn sources(&self) -> Result<Sources> {
        let own = CustomSpec {
            model_id: self.model_id.clone(),
            model_uri: self.model_uri.clone(),
            model_revision: self.model_revision.clone(),
            ..CustomSpec::default()
        };
        let mut sources = Sources::default();
        let mut formats = Vec::new();
        for spec in self.model_specs.iter().flatten().chain([&own]) {
            match spec.model_format.as_deref() {
                None | Some("pytorch" | "onnx" | "safetensors") => {}
                Some(format) => {
                    formats.push(shorten(format, 40));
                    continue;
                }
            }
            let hub = spec.model_hub.as_deref().unwrap_or("huggingface");
            let source = CustomSource {
                model_id: spec.model_id.clone(),
                model_uri: spec.model_uri.clone(),
                model_revision: spec.model_revision.clone(),
            };
            sources.add(hub, &source)?;
            for (hub, source) in spec.model_src.iter().flatten() {
                sources.add(hub, source)?;
            }
        }
        if !sources.is_empty() {
            return Ok(sources);
        }
        let message = match formats.first() {
            Some(format) => format!(
                "the record has only files in the format `{format}`; `pytorch` or `onnx` is needed"
            ),
            None => "the record does not say where the files are; give `model_id` or `model_uri` \
                     in `model_specs`"
                .to_owned(),
        };
        Err(Error::invalid("model", message))
    }
}

/// Where a model's files are; the first that is said of each kind counts.
#[derive(Debug, Default)]
struct Sources {
    huggingface: Option<Repository>,
    modelscope: Option<Repository>,
    directory: Option<PathBuf>,
}

impl Sources {
    fn is_empty(&self) -> bool {
        self.huggingface.is_none() && self.modelscope.is_none() && self.directory.is_none()
    }

    fn add(&mut self, hub: &str, source: &CustomSource) -> Result<()> {
        if let Some(uri) = source.model_uri.as_deref().filter(|uri| !uri.is_empty()) {
            self.directory.get_or_insert(directory(uri)?);
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(id) = given(&source.model_id) {
            let repository = Repository {
                id,
                revision: given(&source.model_revision),
                copies: Vec::new(),
            };
            match hub {
                "huggingface" => _ = self.huggingface.get_or_insert(repository),
                "modelscope" => _ = self.modelscope.get_or_insert(repository),
                // Other hubs are not asked; the model may be on one of these, too.
                _ => {}
            }
        }
        Ok(())
    }
}

/// `file:///models/mine` or a bare path.
fn directory(uri: &str) -> Result<PathBuf> {
    let path = uri.strip_prefix("file://").unwrap_or(uri);
    if Path::new(path).is_absolute() {
        return Ok(path.into());
    }
    let message = format!(
        "`model_uri` is `{}`; give a directory of the server's machine, such as \
         `file:///models/mine`",
        shorten(uri, 100)
    );
    Err(Error::invalid("model", message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(model_type: ModelType, record: &Value) -> Result<Entry> {
        CustomModel::read(Some(record.to_string().into()))?.entry(model_type)
    }

    fn refusal(model_type: ModelType, record: &Value) -> String {
        match entry(model_type, record) {
            Err(Error::InvalidRequest { message, .. }) => message,
            other => panic!("{record}: {other:?}"),
        }
    }

    #[test]
    fn a_record_of_the_api_becomes_an_entry() {
        let record = json!({
            "version": 2, "model_name": "mine", "dimensions": 32, "max_tokens": 128,
            "language": ["en", "zh"],
            "model_specs": [{"model_format": "pytorch", "model_id": null, "model_revision": null,
                             "model_uri": "file:///models/mine", "quantization": "none"}],
        });
        let entry = entry(ModelType::Embedding, &record).unwrap();
        assert_eq!(entry.name, "mine");
        assert_eq!(entry.directory.as_deref(), Some(Path::new("/models/mine")));
        assert_eq!((entry.dimensions, entry.max_tokens), (Some(32), 128));
        assert_eq!(entry.languages, ["en", "zh"]);
    }

    #[test]
    fn a_record_of_the_catalogue_files_becomes_an_entry() {
        let record = json!({
            "version": 2, "model_name": "mine", "type": "normal", "language": ["zh"],
            "model_specs": [
                {"model_format": "ggufv2", "model_src": {"huggingface": {"model_id": "x/gguf"}}},
                {"model_format": "pytorch", "model_src": {
                    "huggingface": {"model_id": "x/mine", "model_revision": "abc",
                                    "quantizations": ["none"]},
                    "modelscope": {"model_id": "X/mine"}}}],
        });
        let entry = entry(ModelType::Rerank, &record).unwrap();
        assert_eq!(entry.huggingface.id, "x/mine");
        assert_eq!(entry.huggingface.revision.as_deref(), Some("abc"));
        assert_eq!(entry.modelscope.unwrap().id, "X/mine");
        assert_eq!(entry.max_tokens, MAX_TOKENS_DEFAULT);
    }

    #[test]
    fn the_first_form_of_the_record_is_taken() {
        let record = json!({"model_name": "mine", "dimensions": 8, "max_tokens": 64,
                            "language": ["en"], "model_id": "x/mine"});
        assert_eq!(
            entry(ModelType::Embedding, &record).unwrap().huggingface.id,
            "x/mine"
        );
    }

    #[test]
    fn a_record_that_cannot_be_is_told_why() {
        let check = |record: Value, part: &str| {
            let message = refusal(ModelType::Embedding, &record);
            assert!(message.contains(part), "{message}");
        };
        check(json!({"model_name": "a", "dimensions": 8}), "`model_uri`");
        check(
            json!({"model_name": "a", "model_id": "x/a"}),
            "`dimensions`",
        );
        check(
            json!({"model_name": "a b", "dimensions": 8, "model_id": "x/a"}),
            "`a b`",
        );
        check(json!({"dimensions": 8, "model_id": "x/a"}), "name");
        check(
            json!({"model_name": "a", "dimensions": 8, "model_uri": "s3://x"}),
            "s3://x",
        );
        check(json!({"model_name": 7}), "string");
        check(
            json!({"model_name": "a", "dimensions": 8,
                   "model_specs": [{"model_format": "ggufv2", "model_id": "x/a"}]}),
            "ggufv2",
        );
        assert!(refusal(ModelType::Llm, &json!({})).contains("`LLM`"));
        let text = CustomModel::read(Some("{".into()));
        assert!(matches!(text, Err(Error::InvalidRequest { .. })));
    }
}
