//! Xinference's management API: models come and go, the catalogue is read and added to, and the
//! pages about a cluster are those of one machine. Inference is on the routes of OpenAI.

pub mod cache;
pub mod cluster;
pub mod docs;
pub mod engines;
pub mod gpus;
pub mod instances;
pub mod launch;
pub mod pieces;
pub mod records;
pub mod register;
pub mod registrations;

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use retort_models::catalog::Task as CatalogTask;

use crate::{
    engine::request::Task,
    error::{Error, Result},
};

/// What a model is launched as and registered under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    /// Texts to vectors.
    Embedding,
    /// Query and documents to scores.
    Rerank,
    /// Chat and completion. Xinference writes it in capitals.
    Llm,
    /// A kind of Xinference's that is not served here: images, sound, video.
    Other(&'static str),
}

impl ModelType {
    const ALL: [Self; 8] = [
        Self::Embedding,
        Self::Rerank,
        Self::Llm,
        Self::Other("image"),
        Self::Other("audio"),
        Self::Other("video"),
        Self::Other("world"),
        Self::Other("flexible"),
    ];

    /// Reads it, whatever its case.
    ///
    /// # Errors
    /// When Xinference has no such type.
    pub fn read(name: &str) -> Result<Self> {
        let known = Self::ALL
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(name));
        known.ok_or_else(|| {
            let name = super::extract::shorten(name, 100);
            Error::invalid(
                "model_type",
                format!(
                    "there is no model type `{name}`; served are `embedding`, `rerank` and `LLM`"
                ),
            )
        })
    }

    /// As clients write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Rerank => "rerank",
            Self::Llm => "LLM",
            Self::Other(name) => name,
        }
    }

    /// The type of an entry of the catalogue.
    pub fn of(task: CatalogTask) -> Self {
        match task {
            CatalogTask::Embed => Self::Embedding,
            CatalogTask::Rerank => Self::Rerank,
        }
    }

    /// What models of the type are for, when they are served here.
    pub fn task(self) -> Option<Task> {
        match self {
            Self::Embedding => Some(Task::Embed),
            Self::Rerank => Some(Task::Rerank),
            Self::Llm => Some(Task::Generate),
            Self::Other(_) => None,
        }
    }

    /// Whether an entry of the catalogue is of this type.
    pub fn has(self, task: CatalogTask) -> bool {
        Self::of(task) == self
    }
}

/// The parts of a path, with an error that all clients read.
fn parts<T>(path: Result<Path<T>, PathRejection>) -> Result<T> {
    path.map(|Path(parts)| parts)
        .map_err(|error| Error::InvalidRequest {
            message: error.body_text(),
            param: None,
        })
}

/// The parameters behind the `?`, with an error that all clients read.
fn parameters<T>(query: Result<Query<T>, QueryRejection>) -> Result<T> {
    query
        .map(|Query(parameters)| parameters)
        .map_err(|error| Error::InvalidRequest {
            message: error.body_text(),
            param: None,
        })
}

/// A yes or no in an address, as Python and JavaScript write it; anything else is neither.
fn flag(text: Option<&str>) -> Option<bool> {
    match text?.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_read_in_any_case_and_written_as_xinference_does() {
        assert_eq!(ModelType::read("llm").unwrap().name(), "LLM");
        assert_eq!(ModelType::read("Embedding").unwrap(), ModelType::Embedding);
        assert_eq!(
            ModelType::read("rerank").unwrap().task(),
            Some(Task::Rerank)
        );
        assert_eq!(ModelType::read("image").unwrap().task(), None);
        assert!(ModelType::read("embeddings").is_err());
    }

    #[test]
    fn flags_are_pythons_and_javascripts() {
        assert_eq!(flag(Some("False")), Some(false));
        assert_eq!(flag(Some("true")), Some(true));
        assert_eq!(flag(Some("maybe")), None);
        assert_eq!(flag(None), None);
    }
}
