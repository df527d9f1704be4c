//! What is done to the numbers of a forward pass before they leave: picked, checked, cut and
//! normalised; and the parts of a long text become one.

use retort_kernels::{
    RowFault,
    normalize::{faulty_rows, l2_normalize},
};
use retort_models::{Head, Heads, MultiVector, Output, Pooling, SparseVector};

use super::job::{Finish, Values};
use crate::engine::request::{ChunkPooling, Normalize};

/// Picks what somebody asked for out of what a batch gave, and refuses numbers that are none.
/// `segments` are those of the encoding, whose vectors are dense and one behind the other.
pub fn finish(
    output: Output,
    heads: Heads,
    segments: usize,
    how: Finish,
) -> Result<Values, RowFault> {
    let wanted = |head| heads.contains(head);
    let mut values = Values::default();
    if let Some(dense) = output.dense.filter(|_| wanted(Head::Dense)) {
        let width = dense.len() / segments.max(1);
        values.dense = dense
            .chunks(width.max(1))
            .map(|vector| finish_vector(vector.to_vec(), how))
            .collect::<Result<_, _>>()?;
    }
    values.sparse = output.sparse.filter(|_| wanted(Head::Sparse));
    if let Some(sparse) = &values.sparse {
        all_finite(&sparse.weights)?;
    }
    values.multi_vector = output.multi_vector.filter(|_| wanted(Head::MultiVector));
    if let Some(vectors) = &values.multi_vector {
        all_finite(&vectors.values)?;
    }
    values.late_interaction = output
        .late_interaction
        .filter(|_| wanted(Head::MultiVector));
    all_finite(values.late_interaction.as_slice())?;
    values.scores = output.scores.filter(|_| wanted(Head::Score));
    if let Some(scores) = &values.scores {
        all_finite(scores)?;
    }
    Ok(values)
}

/// The parts of one text as one: its vectors pooled, the largest weight of each vocabulary entry
/// (as BGE-M3 takes it within one text), all token vectors.
pub fn combine(mut parts: Vec<Part>, how: Combine) -> Result<Values, RowFault> {
    if parts.len() < 2 {
        let mut values = parts.pop().map(|part| part.values).unwrap_or_default();
        for vector in &mut values.dense {
            *vector = finish_vector(std::mem::take(vector), how.finish)?;
        }
        return Ok(values);
    }
    let mut values = Values::default();
    if parts.iter().all(|part| !part.values.dense.is_empty()) {
        let vectors: Vec<(Vec<f32>, usize)> = parts
            .iter_mut()
            .map(|part| (part.values.dense.swap_remove(0), part.tokens))
            .collect();
        let vector = pooled(vectors, how)?;
        values.dense = vec![finish_vector(vector, how.finish)?];
    }
    for part in parts {
        if let Some(sparse) = part.values.sparse {
            let known = values.sparse.take().unwrap_or_default();
            values.sparse = Some(largest(&known, &sparse));
        }
        if let Some(more) = part.values.multi_vector {
            let vectors = values.multi_vector.get_or_insert_with(|| MultiVector {
                width: more.width,
                values: Vec::new(),
            });
            vectors.values.extend(more.values);
        }
    }
    Ok(values)
}

/// One chunk of a text: its vector as it was pooled.
pub struct Part {
    /// What was found, its vector neither cut nor normalised.
    pub values: Values,
    /// How many tokens it has.
    pub tokens: usize,
}

/// How parts become one.
#[derive(Debug, Clone, Copy)]
pub struct Combine {
    /// The way that was asked for.
    pub pooling: ChunkPooling,
    /// How the model itself pools.
    pub model: Option<Pooling>,
    /// What is done to the one vector.
    pub finish: Finish,
}

/// The vectors of chunks as one.
fn pooled(mut vectors: Vec<(Vec<f32>, usize)>, how: Combine) -> Result<Vec<f32>, RowFault> {
    let largest_of_all = match how.pooling {
        ChunkPooling::Mean => false,
        ChunkPooling::Max => true,
        ChunkPooling::Late => how.model == Some(Pooling::Max),
    };
    let late = how.pooling == ChunkPooling::Late;
    if !late {
        for (vector, tokens) in &mut vectors {
            l2_normalize(vector)?;
            *tokens = 1;
        }
    }
    let total: usize = vectors.iter().map(|(_, tokens)| tokens).sum();
    let mut vectors = vectors.into_iter().map(|(vector, tokens)| {
        let share = tokens as f32 / total.max(1) as f32;
        (vector, share)
    });
    let Some((mut one, share)) = vectors.next() else {
        return Ok(Vec::new());
    };
    if largest_of_all {
        for (vector, _) in vectors {
            one.iter_mut().zip(vector).for_each(|(a, b)| *a = a.max(b));
        }
    } else {
        one.iter_mut().for_each(|a| *a *= share);
        for (vector, share) in vectors {
            one.iter_mut()
                .zip(vector)
                .for_each(|(a, b)| *a += b * share);
        }
    }
    Ok(one)
}

/// The larger weight of each entry. Both are ascending by id.
fn largest(a: &SparseVector, b: &SparseVector) -> SparseVector {
    let mut all: std::collections::BTreeMap<u32, f32> = std::collections::BTreeMap::new();
    for sparse in [a, b] {
        for (&id, &weight) in sparse.ids.iter().zip(&sparse.weights) {
            let known = all.entry(id).or_insert(weight);
            *known = known.max(weight);
        }
    }
    let (ids, weights) = all.into_iter().unzip();
    SparseVector { ids, weights }
}

fn all_finite(numbers: &[f32]) -> Result<(), RowFault> {
    if numbers.iter().all(|number| number.is_finite()) {
        Ok(())
    } else {
        Err(RowFault::NonFinite)
    }
}

/// Cuts and normalises a pooled vector; refuses one that is not finite or has no direction.
pub fn finish_vector(mut vector: Vec<f32>, how: Finish) -> Result<Vec<f32>, RowFault> {
    if let Some(dimensions) = how.dimensions {
        vector.truncate(dimensions);
    }
    match how.normalize {
        Normalize::Yes => l2_normalize(&mut vector)?,
        Normalize::No => {
            let row = vector.len();
            faulty_rows(&vector, row)
                .pop()
                .map_or(Ok(()), |(_, fault)| Err(fault))?;
        }
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: Finish = Finish {
        dimensions: None,
        normalize: Normalize::No,
    };

    fn part(vector: &[f32], tokens: usize) -> Part {
        let values = Values {
            dense: vec![vector.to_vec()],
            ..Values::default()
        };
        Part { values, tokens }
    }

    fn one(parts: Vec<Part>, pooling: ChunkPooling, model: Pooling) -> Vec<f32> {
        let how = Combine {
            pooling,
            model: Some(model),
            finish: RAW,
        };
        combine(parts, how).unwrap().dense.remove(0)
    }

    #[test]
    fn chunks_are_pooled_as_asked() {
        let parts = || vec![part(&[3.0, 4.0], 2), part(&[0.0, -2.0], 6)];
        let (mean, max, late) = (ChunkPooling::Mean, ChunkPooling::Max, ChunkPooling::Late);
        let near = |found: Vec<f32>, expected: [f32; 2]| {
            let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(
                off.fold(0.0, f32::max) < 1e-6,
                "{found:?}, not {expected:?}"
            );
        };
        near(one(parts(), mean, Pooling::Cls), [0.3, -0.1]);
        near(one(parts(), max, Pooling::Cls), [0.6, 0.8]);
        near(one(parts(), late, Pooling::Mean), [0.75, -0.5]);
        near(one(parts(), late, Pooling::Max), [3.0, 4.0]);
        // One chunk is the text itself.
        near(
            one(vec![part(&[3.0, 4.0], 2)], mean, Pooling::Cls),
            [3.0, 4.0],
        );
    }

    #[test]
    fn chunks_that_cancel_out_have_no_vector() {
        let how = Combine {
            pooling: ChunkPooling::Mean,
            model: None,
            finish: RAW,
        };
        assert!(combine(vec![part(&[1.0], 1), part(&[-2.0], 1)], how).is_err());
    }

    #[test]
    fn sparse_weights_and_token_vectors_are_joined() {
        let part = |ids: &[u32], weights: &[f32]| Part {
            values: Values {
                sparse: Some(SparseVector {
                    ids: ids.to_vec(),
                    weights: weights.to_vec(),
                }),
                multi_vector: Some(MultiVector {
                    width: 1,
                    values: weights.to_vec(),
                }),
                ..Values::default()
            },
            tokens: 1,
        };
        let how = Combine {
            pooling: ChunkPooling::Mean,
            model: None,
            finish: RAW,
        };
        let parts = vec![part(&[2, 5], &[0.5, 0.25]), part(&[1, 5], &[0.125, 0.75])];
        let values = combine(parts, how).unwrap();
        let sparse = values.sparse.unwrap();
        assert_eq!(
            (sparse.ids, sparse.weights),
            (vec![1, 2, 5], vec![0.125, 0.5, 0.75])
        );
        assert_eq!(
            values.multi_vector.unwrap().values,
            [0.5, 0.25, 0.125, 0.75]
        );
    }
}
