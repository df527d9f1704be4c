//! Sequences of several lengths in one run, as a GPU has them, against runs of one length each.

use super::*;
use crate::batch::Encoding;
use crate::heads::Output;

fn encoder_of(name: &str, pooling: Option<Pooling>) -> Option<GivenEncoder> {
    let runtime = runtime()?;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/onnx");
    let file = beside(&golden.join(name)).unwrap();
    let family = Family {
        positions: Some(PositionIds::default()),
        adapters: Vec::new(),
    };
    let weights = Weights::none(file.parent().unwrap());
    let mut given = GivenModel::open(&file, &runtime, family).unwrap();
    given.probe(meaning(&weights, pooling)).unwrap();
    let bounds = BatchBounds {
        vocab_size: 64,
        token_types: Some(2),
        max_positions: 64,
    };
    Some(given.bounded(bounds).own_encoder(1).unwrap())
}

#[test]
fn padding_changes_nothing() {
    let mut batch = Batch::default();
    for length in [3_u32, 20, 1, 20, 11] {
        batch.push(&Encoding {
            input_ids: (0..length).map(|at| (at * 7 + length) % 60 + 1).collect(),
            token_type_ids: (0..length).map(|at| u8::from(at > 4)).collect(),
            ..Encoding::default()
        });
    }
    for (name, pooling) in [
        ("bert-tiny-pooled", None),
        ("bert-tiny-hidden", Some(Pooling::Mean)),
        ("bert-tiny-hidden", Some(Pooling::LastToken)),
    ] {
        let Some(mut encoder) = encoder_of(name, pooling) else {
            return;
        };
        assert!(encoder.inputs.takes_mask());
        let expected = encoder.encode(&batch).unwrap();
        encoder.grouping = Grouping::Padded(1 << 14);
        assert_eq!(encoder.groups(&batch), [[1, 3, 4, 0, 2]], "all together");
        let found = encoder.encode(&batch).unwrap();
        encoder.grouping = Grouping::Padded(45);
        let split: Vec<usize> = encoder.groups(&batch).iter().map(Vec::len).collect();
        assert_eq!(split, [2, 3]);
        let also_found = encoder.encode(&batch).unwrap();
        let vector = |output: &Output| output.dense.clone().unwrap();
        for other in [found, also_found] {
            for (index, (expected, found)) in expected.iter().zip(&other).enumerate() {
                let (expected, found) = (vector(expected), vector(found));
                assert_eq!(expected.len(), found.len());
                for (a, b) in expected.iter().zip(&found) {
                    // A difference that is no number must not pass.
                    assert!((a - b).abs() <= 1e-5, "{name}, {index}: {a} {b}");
                }
            }
        }
    }
}
