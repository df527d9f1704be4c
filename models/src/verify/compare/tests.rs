use super::*;
use crate::heads::MultiVector;

/// A reference with these parts, as its file would have it.
fn reference(inputs: &str, expected: &str, tolerance: &str) -> Reference {
    let text = format!(
        r#"{{"model": "m", "inputs": {inputs}, "expected": {expected}, "tolerance": {tolerance},
            "source": "a test"}}"#
    );
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

const TEXT: &str = r#"{"texts": ["a"]}"#;
const TEXTS: &str = r#"{"texts": ["a", "b"]}"#;
const GRID: &str = r#"{"queries": ["a"], "documents": ["b", "c"]}"#;
const PAIRS: &str = r#"{"pairs": [["a", "b"], ["a", "c"]]}"#;

fn token(id: u32) -> Option<String> {
    ["zero", "one", "two", "two"]
        .get(id as usize)
        .map(|&text| text.to_owned())
}

/// How near outputs are; whether that passes.
fn compared(reference: &Reference, outputs: &[Output]) -> Result<bool, String> {
    let outputs: Vec<&Output> = outputs.iter().collect();
    let comparison = compare(reference, &outputs, &token)?;
    Ok(comparison.difference.outcome() == super::super::Outcome::Passed)
}

fn dense(vectors: &[&[f32]]) -> Vec<Output> {
    let output = |vector: &&[f32]| Output::of_dense(vector.to_vec());
    vectors.iter().map(output).collect()
}

fn sparse(ids: &[u32], weights: &[f32]) -> Output {
    Output {
        sparse: Some(SparseVector {
            ids: ids.to_vec(),
            weights: weights.to_vec(),
        }),
        ..Output::default()
    }
}

fn tokens(rows: &[[f32; 2]]) -> Output {
    Output {
        multi_vector: Some(MultiVector {
            width: 2,
            values: rows.concat(),
        }),
        ..Output::default()
    }
}

fn scores(logits: &[f32]) -> Output {
    Output {
        scores: Some(logits.to_vec()),
        ..Output::default()
    }
}

/// The outputs pass; with any one number changed, or made none, they do not.
fn check(reference: &Reference, outputs: &[Output]) {
    assert_eq!(compared(reference, outputs), Ok(true), "{reference:?}");
    let mut flipped = 0;
    for index in 0..outputs.len() {
        for number in 0..count(&outputs[index]) {
            for wrong in [f32::NAN, f32::INFINITY, 0.37] {
                let mut outputs = outputs.to_vec();
                *number_of(&mut outputs[index], number) = wrong;
                let result = compared(reference, &outputs);
                assert_ne!(
                    result,
                    Ok(true),
                    "{index}, {number}, {wrong}: {reference:?}"
                );
                flipped += 1;
            }
        }
        let mut fewer = outputs.to_vec();
        fewer.remove(index);
        assert_ne!(compared(reference, &fewer), Ok(true), "{reference:?}");
        let mut without = outputs.to_vec();
        without[index] = Output::default();
        assert!(compared(reference, &without).is_err(), "{reference:?}");
    }
    assert!(flipped > 0);
}

fn count(output: &Output) -> usize {
    output.dense.as_ref().map_or(0, Vec::len)
        + output.sparse.as_ref().map_or(0, |s| s.weights.len())
        + output.multi_vector.as_ref().map_or(0, |m| m.values.len())
        + output.scores.as_ref().map_or(0, Vec::len)
}

fn number_of(output: &mut Output, index: usize) -> &mut f32 {
    let dense = output.dense.iter_mut().flatten();
    let sparse = output.sparse.iter_mut().flat_map(|s| &mut s.weights);
    let tokens = output.multi_vector.iter_mut().flat_map(|m| &mut m.values);
    let scores = output.scores.iter_mut().flatten();
    let mut numbers = dense.chain(sparse).chain(tokens).chain(scores);
    numbers.nth(index).expect("a number of that index")
}

const ABSOLUTE: &str = r#"{"absolute": 0.001}"#;

#[test]
fn raw_vectors() {
    let expected =
        r#"{"kind": "dense", "scale": "raw", "part": "all", "values": [[3, 4], [1, 2]]}"#;
    let reference = reference(TEXTS, expected, ABSOLUTE);
    check(&reference, &dense(&[&[3.0005, 4.0], &[1.0, 2.0]]));
    let scaled = dense(&[&[0.6, 0.8], &[1.0, 2.0]]);
    assert_eq!(compared(&reference, &scaled), Ok(false));
}

#[test]
fn unit_vectors_are_cut_before_they_are_scaled() {
    let expected = r#"{"kind": "dense", "scale": "unit", "part": "all", "dimensions": 2,
                       "values": [[0.6, 0.8]]}"#;
    let cut = reference(TEXT, expected, ABSOLUTE);
    assert_eq!(compared(&cut, &dense(&[&[3.0, 4.0, 50.0]])), Ok(true));
    check(&cut, &dense(&[&[3.0, 4.0]]));
    assert!(
        compared(&cut, &dense(&[&[3.0]])).is_err(),
        "too short to cut"
    );
    assert!(compared(&cut, &dense(&[&[0.0, 0.0]])).is_err(), "no length");
}

#[test]
fn parts_of_vectors_are_those_parts() {
    let part = |part: &str| {
        let expected =
            format!(r#"{{"kind": "dense", "scale": "raw", "part": "{part}", "values": [[1, 2]]}}"#);
        reference(TEXT, &expected, ABSOLUTE)
    };
    let passes = |name: &str, vector: &[f32]| compared(&part(name), &dense(&[vector]));
    assert_eq!(passes("first", &[1.0, 2.0, 9.0]), Ok(true));
    assert_eq!(passes("ends", &[1.0, 9.0, 2.0]), Ok(true));
    assert_eq!(passes("first", &[1.0, 9.0, 2.0]), Ok(false));
    assert_eq!(passes("ends", &[1.0, 2.0, 9.0]), Ok(false));
    let error = passes("all", &[1.0, 2.0, 9.0]).unwrap_err();
    assert_eq!(error, "a vector of `3` numbers where `2` were published");
    assert!(passes("first", &[1.0]).is_err());
}

#[test]
fn sums_are_of_vectors_of_length_1() {
    let expected = r#"{"kind": "dense-sum", "values": [1.4]}"#;
    let reference = reference(TEXT, expected, ABSOLUTE);
    check(&reference, &dense(&[&[30.0, 40.0]]));
    assert_eq!(compared(&reference, &dense(&[&[1.4, 0.0]])), Ok(false));
}

#[test]
fn cosines_have_queries_as_rows() {
    let expected = r#"{"kind": "similarity", "values": [[1, 0.6]]}"#;
    let reference = reference(GRID, expected, ABSOLUTE);
    let outputs = dense(&[&[2.0, 0.001], &[4.0, 0.001], &[3.0, 4.0]]);
    assert_eq!(compared(&reference, &outputs), Ok(true));
    let exchanged = dense(&[&[2.0, 0.001], &[3.0, 4.0], &[4.0, 0.001]]);
    assert_eq!(compared(&reference, &exchanged), Ok(false));
    let opposite = dense(&[&[-2.0, 0.001], &[4.0, 0.001], &[3.0, 4.0]]);
    assert_eq!(compared(&reference, &opposite), Ok(false));
    let broken = dense(&[&[2.0, f32::NAN], &[4.0, 0.001], &[3.0, 4.0]]);
    assert_ne!(compared(&reference, &broken), Ok(true));
    assert!(compared(&reference, &outputs[..2]).is_err());
}

#[test]
fn a_weight_too_many_or_too_few_is_a_difference() {
    let expected = r#"{"kind": "sparse", "part": "all", "values": [[[1, 0.5], [2, 0.25]]]}"#;
    let all = reference(TEXT, expected, ABSOLUTE);
    check(&all, &[sparse(&[1, 2], &[0.5, 0.25])]);
    for wrong in [
        sparse(&[1], &[0.5]),
        sparse(&[1, 2, 3], &[0.5, 0.25, 0.1]),
        sparse(&[1, 3], &[0.5, 0.25]),
    ] {
        assert_eq!(compared(&all, &[wrong]), Ok(false));
    }
    let first = reference(TEXT, &expected.replace("all", "first"), ABSOLUTE);
    check(&first, &[sparse(&[1, 2], &[0.5, 0.25])]);
    let more = sparse(&[1, 2, 3], &[0.5, 0.25, 0.1]);
    assert_eq!(compared(&first, &[more]), Ok(true));
    let before = sparse(&[0, 1, 2], &[0.1, 0.5, 0.25]);
    assert_eq!(compared(&first, &[before]), Ok(false));
}

#[test]
fn weights_by_token_are_found_by_its_text() {
    let expected = r#"{"kind": "sparse-by-token", "values": [{"one": 0.5, "two": 0.25}]}"#;
    let reference = reference(TEXT, expected, ABSOLUTE);
    check(&reference, &[sparse(&[1, 3], &[0.5, 0.25])]);
    let both = sparse(&[1, 2, 3], &[0.5, 0.2, 0.25]);
    assert_eq!(compared(&reference, &[both]), Ok(true));
    let surplus = sparse(&[0, 1, 2], &[0.1, 0.5, 0.25]);
    assert_eq!(compared(&reference, &[surplus]), Ok(false));
    let unknown = sparse(&[1, 2, 9], &[0.5, 0.25, 0.1]);
    assert!(compared(&reference, &[unknown]).is_err());
}

#[test]
fn lexical_matches_count_shared_tokens() {
    let expected = r#"{"kind": "lexical", "values": [[0.56, 0.1]]}"#;
    let reference = reference(GRID, expected, ABSOLUTE);
    let outputs = [
        sparse(&[1, 2], &[0.5, 0.2]),
        sparse(&[1, 2, 7], &[1.0, 0.3, 9.0]),
        sparse(&[0, 2], &[9.0, 0.5]),
    ];
    assert_eq!(compared(&reference, &outputs), Ok(true));
    for (output, weight) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)] {
        let mut wrong = outputs.clone();
        *number_of(&mut wrong[output], weight) += 0.1;
        assert_eq!(
            compared(&reference, &wrong),
            Ok(false),
            "{output}, {weight}"
        );
    }
    assert!(compared(&reference, &outputs[1..]).is_err());
}

#[test]
fn late_interaction_takes_the_best_match_of_each_token_of_the_query() {
    let expected = r#"{"kind": "late-interaction", "values": [[0.9, 0.5]]}"#;
    let reference = reference(GRID, expected, ABSOLUTE);
    let query = tokens(&[[1.0, 0.0], [0.0, 1.0]]);
    let near = tokens(&[[1.0, 0.1], [0.6, 0.8], [0.0, 0.0]]);
    let far = tokens(&[[0.5, 0.5]]);
    let outputs = [query.clone(), near.clone(), far.clone()];
    assert_eq!(compared(&reference, &outputs), Ok(true));
    let exchanged = [query.clone(), far.clone(), near.clone()];
    assert_eq!(compared(&reference, &exchanged), Ok(false));
    for (output, number) in [(0, 0), (0, 3), (1, 0), (1, 3), (2, 0)] {
        for wrong in [f32::NAN, 0.3] {
            let mut outputs = outputs.clone();
            *number_of(&mut outputs[output], number) = wrong;
            assert_ne!(
                compared(&reference, &outputs),
                Ok(true),
                "{output}, {number}"
            );
        }
    }
    let empty = [query, near, tokens(&[])];
    assert!(compared(&reference, &empty).is_err());
}

#[test]
fn scores_are_logits_or_probabilities() {
    let raw = r#"{"kind": "scores", "activation": "none", "values": [[0, 0], [1, 2]]}"#;
    check(
        &reference(PAIRS, raw, ABSOLUTE),
        &[scores(&[0.0]), scores(&[2.0])],
    );
    let sigmoid = r#"{"kind": "scores", "activation": "sigmoid", "values": [[1, 0.880797]]}"#;
    let sigmoid = reference(PAIRS, sigmoid, ABSOLUTE);
    let outputs = [scores(&[9.0]), scores(&[2.0])];
    assert_eq!(
        compared(&sigmoid, &outputs),
        Ok(true),
        "the first has no published score"
    );
    for wrong in [scores(&[0.880_797]), scores(&[2.1]), scores(&[f32::NAN])] {
        let outputs = [scores(&[9.0]), wrong];
        assert_eq!(compared(&sigmoid, &outputs), Ok(false));
    }
    let labels = [scores(&[9.0]), scores(&[2.0, 2.0])];
    let error = compared(&sigmoid, &labels).unwrap_err();
    assert_eq!(error, "`2` scores where one was published");
    assert!(compared(&sigmoid, &outputs[..1]).is_err());
}

#[test]
fn shares_of_nothing_are_infinite() {
    let relative = r#"{"relative": 0.01}"#;
    let expected = r#"{"kind": "sparse", "part": "all", "values": [[[1, 100]]]}"#;
    let reference = reference(TEXT, expected, relative);
    assert_eq!(compared(&reference, &[sparse(&[1], &[100.9])]), Ok(true));
    assert_eq!(compared(&reference, &[sparse(&[1], &[101.1])]), Ok(false));
    let surplus = sparse(&[1, 2], &[100.0, 1e-6]);
    assert_eq!(compared(&reference, &[surplus]), Ok(false));
}

#[test]
fn cosines_are_for_vectors_only() {
    let cosine = r#"{"cosine": 0.999}"#;
    let expected =
        r#"{"kind": "dense", "scale": "raw", "part": "all", "values": [[3, 4], [4, 3]]}"#;
    let vectors = reference(TEXTS, expected, cosine);
    check(&vectors, &dense(&[&[30.0, 40.0], &[4.1, 3.0]]));
    assert_eq!(
        compared(&vectors, &dense(&[&[3.0, 4.0], &[3.0, 4.0]])),
        Ok(false)
    );
    assert_eq!(
        compared(&vectors, &dense(&[&[3.0, 4.0], &[0.0, 0.0]])),
        Ok(false)
    );
    // The cosine of two numbers of one sign is 1, whatever they are.
    let scored = r#"{"kind": "scores", "activation": "none", "values": [[0, 1], [1, 2]]}"#;
    let scored = reference(PAIRS, scored, cosine);
    assert!(compared(&scored, &[scores(&[7.0]), scores(&[9.0])]).is_err());
    let similar = r#"{"kind": "similarity", "values": [[0.5, 0.5]]}"#;
    let similar = reference(GRID, similar, cosine);
    assert!(compared(&similar, &dense(&[&[1.0], &[1.0], &[1.0]])).is_err());
}

#[test]
fn a_reference_without_numbers_proves_nothing() {
    for (inputs, expected) in [
        (r#"{"texts": []}"#, r#"{"kind": "dense-sum", "values": []}"#),
        (
            PAIRS,
            r#"{"kind": "scores", "activation": "none", "values": []}"#,
        ),
    ] {
        let reference = reference(inputs, expected, ABSOLUTE);
        let error = compared(&reference, &[]).unwrap_err();
        assert_eq!(error, "the reference has no numbers");
    }
}

#[test]
fn the_numbers_that_are_shown_are_the_worst() {
    let expected = r#"{"kind": "dense", "scale": "raw", "part": "all",
                       "values": [[1, 2, 3, 4], [5, 6, 7, 8]]}"#;
    let reference = reference(TEXTS, expected, ABSOLUTE);
    let outputs = dense(&[&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.5, 7.25, 8.0]]);
    let outputs: Vec<&Output> = outputs.iter().collect();
    let found = compare(&reference, &outputs, &token).unwrap();
    assert_eq!(found.expected, "6.00000 7.00000 8.00000");
    assert_eq!(found.got, "6.50000 7.25000 8.00000");
    assert!((found.difference.largest - 0.5).abs() < 1e-6);
}
