//! Published outputs of known models, to hold a running one against: the numbers of model cards
//! and of other runtimes' tests, each with its source and how near one must come.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use super::{CatalogError, files};

/// What a model gave for some inputs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The name of the model's entry.
    pub model: String,
    /// What it was given, without the prompt.
    pub inputs: Inputs,
    /// What was put before each text or, where there are queries and documents, each query.
    pub prompt: Option<String>,
    /// The task whose adapter was on, for models that have some.
    pub adapter: Option<String>,
    /// What came back.
    pub expected: Expected,
    /// How near is right.
    pub tolerance: Tolerance,
    /// Who published it.
    pub source: String,
    /// What else is known about how the numbers were made.
    pub note: Option<String>,
}

/// What a model was given.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Inputs {
    /// Texts on their own.
    Texts {
        /// In the order of the expected values.
        texts: Vec<String>,
    },
    /// A query and a document each.
    Pairs {
        /// In the order of the expected values.
        pairs: Vec<(String, String)>,
    },
    /// Every query against every document.
    Grid {
        /// The rows of the expected values.
        queries: Vec<String>,
        /// The columns of the expected values.
        documents: Vec<String>,
    },
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Expected {
    /// Pooled vectors.
    Dense {
        /// Whether they were scaled to length 1.
        scale: Scale,
        /// Which of their numbers are given.
        part: Part,
        /// The length they were cut to before they were scaled; absent: they were not.
        dimensions: Option<usize>,
        /// `[texts, numbers]`
        values: Vec<Vec<f32>>,
    },
    /// The sum of the numbers of each vector of length 1. `[texts]`
    DenseSum {
        /// `[texts]`
        values: Vec<f32>,
    },
    /// Cosines of dense vectors.
    Similarity {
        /// `[queries, documents]`
        values: Vec<Vec<f32>>,
    },
    /// Weights by token id.
    Sparse {
        /// `All`: no other token has a weight; `First`: the lowest ids only.
        part: Part,
        /// Ids, ascending, and weights, per text.
        values: Vec<Vec<(u32, f32)>>,
    },
    /// Weights by the text of the token; no other token has one.
    SparseByToken {
        /// One map per text.
        values: Vec<BTreeMap<String, f32>>,
    },
    /// Sums of the products of the weights that both texts have.
    Lexical {
        /// `[queries, documents]`
        values: Vec<Vec<f32>>,
    },
    /// Means, over the query's tokens, of the largest dot product with a document's token.
    LateInteraction {
        /// `[queries, documents]`
        values: Vec<Vec<f32>>,
    },
    /// Scores of a reranker; some inputs may have none.
    Scores {
        /// What was done to the logit.
        activation: Activation,
        /// The layer that the score was read from, for models with a head per layer.
        layer: Option<usize>,
        /// The index of a pair or text, ascending, and its score.
        values: Vec<(usize, f32)>,
    },
}

/// Whether vectors were scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// To length 1.
    Unit,
    /// As pooling left them.
    Raw,
}

/// Which numbers of an output are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Every one.
    All,
    /// The first ones.
    First,
    /// As many first ones as last ones.
    Ends,
}

/// What was done to a logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Nothing.
    None,
    /// The logistic function.
    Sigmoid,
}

/// How near is right.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tolerance {
    /// The largest difference of two numbers.
    Absolute(f32),
    /// The largest difference as a share of the expected number.
    Relative(f32),
    /// The least cosine of two vectors.
    Cosine(f32),
}

/// What is known of the outputs of the model of this name; nothing for most models.
///
/// # Errors
/// Never in a program whose tests passed: each file is read there.
pub fn references_for(name: &str) -> Result<Vec<Reference>, CatalogError> {
    let belongs = |file: &str| {
        file.strip_suffix(".json")
            .is_some_and(|model| model.eq_ignore_ascii_case(name))
    };
    let found = files::ALL_REFERENCES.iter().find(|(file, _)| belongs(file));
    found.map_or_else(|| Ok(Vec::new()), |(file, text)| parse(file, text))
}

/// The same, where a user's folder of entries may have a file of its own for the model.
pub(super) fn references_beside(folder: &Path, name: &str) -> Result<Vec<Reference>, CatalogError> {
    let path = folder.join("reference").join(format!("{name}.json"));
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| CatalogError::file(&path, &error.to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => references_for(name),
        Err(error) => Err(CatalogError::file(&path, &error.to_string())),
    }
}

/// Reads one file of `catalog/reference/`.
fn parse(file: &str, text: &str) -> Result<Vec<Reference>, CatalogError> {
    serde_json::from_str(text)
        .map_err(|error| CatalogError::file(Path::new(file), &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::Catalog;
    use super::*;

    fn all() -> Vec<(&'static str, Reference)> {
        let read = |(file, text): &(&'static str, &str)| {
            let file = *file;
            let references = parse(file, text).unwrap_or_else(|error| panic!("{error}"));
            references
                .into_iter()
                .map(move |reference| (file, reference))
        };
        files::ALL_REFERENCES.iter().flat_map(read).collect()
    }

    #[test]
    fn every_reference_names_the_known_model_of_its_file() {
        let catalog = Catalog::compiled().unwrap();
        let all = all();
        assert!(all.len() > 100, "only {} references", all.len());
        for (file, reference) in all {
            let entry = catalog.find(&reference.model).unwrap();
            assert_eq!(entry.name, reference.model);
            assert_eq!(format!("{}.json", entry.name), file);
            assert!(!reference.source.is_empty(), "{file}");
        }
    }

    /// Counts that do not belong together would make a comparison that compares nothing.
    #[test]
    fn every_reference_has_a_value_for_each_input() {
        for (file, reference) in all() {
            let (rows, columns) = match &reference.inputs {
                Inputs::Texts { texts } => (texts.len(), 0),
                Inputs::Pairs { pairs } => (pairs.len(), 0),
                Inputs::Grid { queries, documents } => (queries.len(), documents.len()),
            };
            let grid = |values: &Vec<Vec<f32>>| {
                assert!(values.iter().all(|row| row.len() == columns), "{file}");
                values.len()
            };
            let given = match &reference.expected {
                Expected::Dense { values, .. } => {
                    assert!(values.iter().all(|vector| vector.len() >= 5), "{file}");
                    values.len()
                }
                Expected::DenseSum { values } => values.len(),
                Expected::Similarity { values }
                | Expected::Lexical { values }
                | Expected::LateInteraction { values } => grid(values),
                Expected::Sparse { values, .. } => values.len(),
                Expected::SparseByToken { values } => values.len(),
                Expected::Scores { values, .. } => {
                    assert!(!values.is_empty(), "{file}");
                    assert!(values.iter().all(|(index, _)| *index < rows), "{file}");
                    rows
                }
            };
            assert_eq!(given, rows, "{file}: {:?}", reference.inputs);
        }
    }

    #[test]
    fn whole_vectors_are_as_long_as_the_model_says() {
        let catalog = Catalog::compiled().unwrap();
        let mut whole = 0;
        for (_, reference) in all() {
            let Expected::Dense {
                part: Part::All,
                dimensions,
                values,
                ..
            } = &reference.expected
            else {
                continue;
            };
            let entry = catalog.find(&reference.model).unwrap();
            let length = dimensions.or(entry.dimensions).unwrap();
            assert!(values.iter().all(|v| v.len() == length), "{}", entry.name);
            whole += 1;
        }
        assert!(whole > 8, "only {whole} whole vectors");
    }

    #[test]
    fn a_model_without_references_has_none() {
        assert_eq!(references_for("no-such-model").unwrap(), Vec::new());
        assert!(references_for("BGE-M3").unwrap().len() > 5);
    }
}
