//! Paths where the dialects' bodies are alike and the answers are not: in whose form to answer,
//! told by the path and by what the body has.

/// By which path a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Under `/v1`.
    Versioned,
    /// Under `/tei/{model}`.
    Tei,
    /// Without a version, where Infinity has its routes.
    Bare,
    /// Under `/v2`.
    Cohere,
    /// Under `/api`.
    Ollama,
    /// Under `/infinity`.
    Infinity,
}

/// In whose form an answer is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// All who read the same: `OpenAI`, Xinference, Jina, vLLM, `LocalAI`.
    Union,
    /// text-embeddings-inference.
    Tei,
    /// Infinity.
    Infinity,
    /// Cohere's second version.
    Cohere,
    /// The clients of Ollama.
    Ollama,
}

/// What of a body tells who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// text-embeddings-inference's list, and nobody else's.
    pub only_texts: bool,
    /// What Infinity's generated client always sends: `raw_scores`, or a model left open.
    pub infinitys: bool,
}

/// Infinity's way not to name a model.
pub const UNNAMED_MODEL: &str = "default/not-specified";

/// Who asks for a ranking.
pub fn rerank(door: Door, marks: Marks) -> Speaker {
    match door {
        Door::Infinity => Speaker::Infinity,
        _ if marks.only_texts => Speaker::Tei,
        Door::Bare if marks.infinitys => Speaker::Infinity,
        Door::Cohere => Speaker::Cohere,
        Door::Ollama => Speaker::Ollama,
        Door::Bare | Door::Tei | Door::Versioned => Speaker::Union,
    }
}

/// Who asks for labels.
pub fn classify(door: Door, marks: Marks) -> Speaker {
    match door {
        Door::Infinity => Speaker::Infinity,
        Door::Bare if marks.infinitys => Speaker::Infinity,
        Door::Bare | Door::Versioned | Door::Tei | Door::Cohere | Door::Ollama => Speaker::Union,
    }
}

/// The marks of Infinity.
pub fn infinitys(model: Option<&str>, raw_scores: Option<bool>) -> bool {
    raw_scores.is_some() || model == Some(UNNAMED_MODEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEI: Marks = Marks {
        only_texts: true,
        infinitys: false,
    };
    const INFINITY: Marks = Marks {
        only_texts: false,
        infinitys: true,
    };

    #[test]
    fn a_ranking_is_told_by_path_and_body() {
        let plain = Marks::default();
        for (door, marks, speaker) in [
            (Door::Versioned, plain, Speaker::Union),
            (Door::Versioned, TEI, Speaker::Tei),
            // Xinference's and our own callers may ask for raw scores, too.
            (Door::Versioned, INFINITY, Speaker::Union),
            (Door::Tei, plain, Speaker::Union),
            (Door::Tei, TEI, Speaker::Tei),
            (Door::Bare, plain, Speaker::Union),
            (Door::Bare, TEI, Speaker::Tei),
            (Door::Bare, INFINITY, Speaker::Infinity),
            (Door::Cohere, plain, Speaker::Cohere),
            (Door::Ollama, plain, Speaker::Ollama),
            (Door::Infinity, plain, Speaker::Infinity),
        ] {
            assert_eq!(rerank(door, marks), speaker, "{door:?} {marks:?}");
        }
    }

    #[test]
    fn labels_are_infinitys_at_its_own_path_or_with_its_marks() {
        for (door, marks, speaker) in [
            (Door::Versioned, INFINITY, Speaker::Union),
            (Door::Bare, Marks::default(), Speaker::Union),
            (Door::Bare, INFINITY, Speaker::Infinity),
            (Door::Infinity, Marks::default(), Speaker::Infinity),
        ] {
            assert_eq!(classify(door, marks), speaker, "{door:?} {marks:?}");
        }
        assert!(infinitys(Some(UNNAMED_MODEL), None) && infinitys(None, Some(false)));
        assert!(!infinitys(Some("bge"), None));
    }
}
