//! What is told of a model that runs, where the catalogue or its launch know it before its files
//! do, and the records of the catalogue as Xinference writes them.

use retort_models::catalog::{Entry, Family, Repository};
use serde::Serialize;
use utoipa::ToSchema;

use super::ModelType;
use crate::{
    engine::request::{Chats, ModelKind, Task},
    fleet::FleetModel,
};

/// The name that the catalogue or its launch has for a model; its uid is another thing.
pub fn model_name(model: &FleetModel) -> &str {
    match &model.known {
        Some(entry) => &entry.name,
        None => &model.info.name,
    }
}

/// Whether vectors or scores are to be expected: by what was launched, else by what it is.
pub fn model_type(model: &FleetModel) -> Option<ModelType> {
    let asked = model.spec.task.map(|task| match task {
        Task::Embed => ModelType::Embedding,
        // Xinference has no such type; its clients only need one that is not a vector's.
        Task::Rerank | Task::Classify => ModelType::Rerank,
        Task::Generate => ModelType::Llm,
    });
    let kind = model.info.kind().map(|kind| match kind {
        ModelKind::Embedding => ModelType::Embedding,
        ModelKind::Reranker | ModelKind::Classifier => ModelType::Rerank,
        ModelKind::Generator => ModelType::Llm,
    });
    let known = model.known.as_ref().map(|entry| ModelType::of(entry.task));
    asked.or(kind).or(known)
}

/// What Xinference's clients may ask of it.
pub fn abilities(model: &FleetModel) -> &'static [&'static str] {
    match (model.info.kind(), model_type(model)) {
        (Some(ModelKind::Classifier), _) => &["classify"],
        (Some(ModelKind::Generator), _) => match model.info.chats {
            Chats::No => &["generate"],
            Chats::Plainly => &["generate", "chat"],
            Chats::WithTools => &["generate", "chat", "tools"],
        },
        (_, Some(ModelType::Embedding)) => &["embed"],
        (_, Some(ModelType::Rerank)) => &["rerank"],
        (_, Some(ModelType::Llm | ModelType::Other(_)) | None) => &[],
    }
}

/// An entry of the catalogue in Xinference's form.
#[derive(Debug, Serialize, ToSchema)]
pub struct CatalogRecord {
    /// The form of the record.
    version: u32,
    model_name: String,
    /// `normal`, or `LLM-based` for a decoder; rerankers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    /// Length of a vector; embedding models only.
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
    /// The most tokens of one input, special tokens included.
    max_tokens: usize,
    language: Vec<String>,
    /// Where its files are published, one for each hub.
    model_specs: Vec<ModelSpec>,
    #[serde(flatten)]
    details: Option<CatalogDetails>,
}

/// What is told besides to who asks for details.
#[derive(Debug, Serialize, ToSchema)]
pub struct CatalogDetails {
    model_type: &'static str,
    model_ability: [&'static str; 1],
    is_builtin: bool,
    download_hubs: Vec<&'static str>,
}

/// The files of a model on a hub.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelSpec {
    model_format: &'static str,
    model_hub: &'static str,
    model_id: Option<String>,
    /// The directory that has the files, when no hub does.
    model_uri: Option<String>,
    model_revision: Option<String>,
    quantization: &'static str,
    /// Whether its files are on this machine; told with the details.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_status: Option<bool>,
}

impl CatalogRecord {
    /// The record of an entry.
    pub fn new(entry: &Entry) -> Self {
        let rerank = ModelType::of(entry.task) == ModelType::Rerank;
        let is_decoder = entry.family.is_some_and(Family::is_decoder);
        Self {
            version: 2,
            model_name: entry.name.clone(),
            r#type: rerank.then_some(if is_decoder { "LLM-based" } else { "normal" }),
            dimensions: entry.dimensions,
            max_tokens: entry.max_tokens,
            language: entry.languages.clone(),
            model_specs: specs(entry),
            details: None,
        }
    }

    /// The same with details; `cached` has the hub ids whose files are on this machine.
    pub fn detailed(entry: &Entry, is_builtin: bool, cached: &[String]) -> Self {
        let mut record = Self::new(entry);
        let here = |id: &String| cached.iter().any(|other| other.eq_ignore_ascii_case(id));
        for spec in &mut record.model_specs {
            let of_directory = spec.model_uri.is_some();
            spec.cache_status = Some(of_directory || spec.model_id.as_ref().is_some_and(here));
        }
        let model_type = ModelType::of(entry.task);
        record.details = Some(CatalogDetails {
            model_type: model_type.name(),
            model_ability: [entry.task.name()],
            is_builtin,
            download_hubs: record.model_specs.iter().map(|s| s.model_hub).collect(),
        });
        record
    }
}

fn specs(entry: &Entry) -> Vec<ModelSpec> {
    let spec = |model_hub, repository: &Repository| ModelSpec {
        model_format: "pytorch",
        model_hub,
        model_id: Some(repository.id.clone()),
        model_uri: None,
        model_revision: repository.revision.clone(),
        quantization: "none",
        cache_status: None,
    };
    if let Some(directory) = &entry.directory {
        let uri = format!("file://{}", directory.display());
        return vec![ModelSpec {
            model_id: None,
            model_uri: Some(uri),
            model_revision: None,
            ..spec("huggingface", &entry.huggingface)
        }];
    }
    let mut specs = vec![spec("huggingface", &entry.huggingface)];
    specs.extend(entry.modelscope.iter().map(|r| spec("modelscope", r)));
    specs
}

#[cfg(test)]
mod tests {
    use retort_models::catalog::Catalog;
    use serde_json::{Value, json};

    use super::*;

    fn entry(name: &str) -> Entry {
        Catalog::compiled().unwrap().by_name(name).unwrap().clone()
    }

    fn record(name: &str) -> Value {
        serde_json::to_value(CatalogRecord::new(&entry(name))).unwrap()
    }

    #[test]
    fn an_embedding_model_is_recorded_as_xinference_does() {
        let record = record("bge-m3");
        assert_eq!(record["dimensions"], 1024);
        assert_eq!(record["max_tokens"], 8192);
        assert!(record["language"].is_array());
        assert_eq!(record["model_specs"][0]["model_id"], "BAAI/bge-m3");
        assert_eq!(record["model_specs"][0]["model_uri"], Value::Null);
        assert!(record.get("type").is_none() && record.get("is_builtin").is_none());
    }

    #[test]
    fn a_reranker_has_a_type_and_no_dimensions() {
        let record = record("bge-reranker-v2-m3");
        assert_eq!(record["type"], "normal");
        assert!(record.get("dimensions").is_none());
    }

    #[test]
    fn the_numbers_are_those_of_the_contract() {
        for (name, dimensions, max_tokens) in [
            ("bge-m3", json!(1024), 8192),
            ("bge-small-zh-v1.5", json!(512), 512),
            ("bge-base-zh-v1.5", json!(768), 512),
            ("bge-large-zh-v1.5", json!(1024), 512),
            ("bge-small-en-v1.5", json!(384), 512),
            ("bge-base-en-v1.5", json!(768), 512),
            ("bge-large-en-v1.5", json!(1024), 512),
            ("jina-embeddings-v2-small-en", json!(512), 8192),
            ("jina-embeddings-v2-base-en", json!(768), 8192),
            ("jina-embeddings-v2-base-zh", json!(768), 8192),
            ("jina-embeddings-v3", json!(1024), 8192),
            ("bce-embedding-base_v1", json!(768), 512),
            ("bge-reranker-base", Value::Null, 512),
            ("bge-reranker-large", Value::Null, 512),
            ("bge-reranker-v2-m3", Value::Null, 8192),
            ("jina-reranker-v2", Value::Null, 1024),
            ("bce-reranker-base_v1", Value::Null, 512),
        ] {
            let record = record(name);
            assert_eq!(record["dimensions"], dimensions, "{name}");
            assert_eq!(record["max_tokens"], max_tokens, "{name}");
        }
    }

    #[test]
    fn details_tell_whether_the_files_are_here() {
        let detailed = |cached: &[String]| {
            let record = CatalogRecord::detailed(&entry("bge-m3"), true, cached);
            serde_json::to_value(record).unwrap()
        };
        let record = detailed(&["BAAI/bge-m3".into()]);
        assert_eq!(record["is_builtin"], true);
        assert_eq!(record["model_specs"][0]["cache_status"], true);
        assert_eq!(detailed(&[])["model_specs"][0]["cache_status"], false);
    }
}
