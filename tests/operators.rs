//! The custom operators inside a real ONNX Runtime.

use ort::session::Session;
use ort::value::TensorRef;
use retort_kernels::attention::attention_plain;
use retort_kernels::operator::operator_domain;
use retort_kernels::pooling::pool_plain;
use retort_kernels::{Bias, Mask, PackedAttention, PackedHidden, Pooling, Precision, Strided};
use std::sync::Arc;

use crate::support;

/// `PackedAttention` (2 heads, scale 0.25), `Add` of the query, `PackedPooling` (`mean`).
const GRAPH: &[u8] = include_bytes!("golden/operators/packed_ops.onnx");

/// A session of a graph on so many threads.
fn session(graph: &[u8], threads: usize) -> ort::Result<Session> {
    let runtime = support::runtime();
    Session::builder(runtime.environment())?
        .with_intra_threads(threads)?
        .with_operators(operator_domain(Arc::default())?)?
        .commit_from_memory(graph)
}

/// Values between -1 and 1 that repeat late.
fn values(count: usize, salt: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7919 + salt * 104_729) % 2003) as f32 / 1001.0 - 1.0)
        .collect()
}

/// Runs the graph on `[tokens, width]` inputs: the attention output and the pooled one.
fn run(
    session: &mut Session,
    inputs: [(&[f32], [usize; 2]); 3],
    cu_seqlens: &[i32],
) -> ort::Result<(Vec<f32>, Vec<f32>)> {
    let [query, key, value] = inputs.map(|(data, shape)| TensorRef::from_array_view((shape, data)));
    let outputs = session.run(ort::inputs![
        "query" => query?,
        "key" => key?,
        "value" => value?,
        "cu_seqlens" => TensorRef::from_array_view(([cu_seqlens.len()], cu_seqlens))?,
    ])?;
    let extract = |name: &str| {
        outputs[name]
            .try_extract_tensor::<f32>()
            .map(|(_, v)| v.to_vec())
    };
    Ok((extract("attended")?, extract("pooled")?))
}

#[test]
fn the_graph_computes_the_definition_on_any_number_of_threads() {
    let (tokens, width) = (700, 64);
    let cu_seqlens = [0, 3, 300, 301, 700];
    let [query, key, value] = [1, 2, 3].map(|salt| values(tokens * width, salt));
    let args = PackedAttention {
        query: Strided::contiguous(&query, width),
        key: Strided::contiguous(&key, width),
        value: Strided::contiguous(&value, width),
        cu_seqlens: &cu_seqlens,
        num_heads: 2,
        kv_num_heads: 2,
        head_size: width / 2,
        scale: 0.25,
        mask: Mask::default(),
        bias: Bias::default(),
        precision: Precision::Fp32,
    };
    let mut attended = vec![0.0; tokens * width];
    attention_plain(&args, &mut attended).unwrap();
    let hidden: Vec<f32> = query.iter().zip(&attended).map(|(a, b)| a + b).collect();
    let mut pooled = vec![0.0; 4 * width];
    let packed = PackedHidden {
        hidden: &hidden,
        hidden_size: width,
        cu_seqlens: &cu_seqlens,
    };
    pool_plain(Pooling::Mean, &packed, &mut pooled).unwrap();

    let mut first = None;
    for threads in [1, 2, 4] {
        let session = session(GRAPH, threads);
        let inputs = [&query, &key, &value].map(|data| (&data[..], [tokens, width]));
        let found = run(&mut session.unwrap(), inputs, &cu_seqlens).unwrap();
        // The values are at most 1, so the absolute tolerance is relative to them.
        for (found, expected) in [(&found.0, &attended), (&found.1, &pooled)] {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 2e-6, "{found} {expected}");
            }
        }
        assert_eq!(
            first.get_or_insert(found.clone()),
            &found,
            "{threads} threads"
        );
    }
}

#[test]
fn bad_inputs_are_errors_of_the_run() {
    let session = session(GRAPH, 1);
    let mut session = session.unwrap();
    let data = values(4 * 6, 1);
    let mut check = |key: [usize; 2], width: usize, cu_seqlens: &[i32], expected: &str| {
        let rows = |shape: [usize; 2]| (&data[..shape[0] * shape[1]], shape);
        let inputs = [rows([4, width]), rows(key), rows([4, width])];
        let error = run(&mut session, inputs, cu_seqlens)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(
        [3, 6],
        6,
        &[0, 4],
        "`key` is `[3, 6]` but `query` is `[4, 6]`",
    );
    check(
        [4, 5],
        5,
        &[0, 4],
        "rows of `5` values cannot be split into `2` heads",
    );
    check(
        [4, 6],
        6,
        &[0, 3],
        "`cu_seqlens` ends at `3` but there are `4` tokens",
    );
    check([4, 6], 6, &[0, 5, 4], "`cu_seqlens` must never decrease");
    check([4, 6], 6, &[], "`cu_seqlens` is empty");
    check([4, 6], 6, &[0, 4, 4], "sequence `1` has no tokens");
    check([4, 0], 0, &[0, 4], "rows of `0` values");
    // The session is as good as before.
    let good = (&data[..], [4, 6]);
    assert!(run(&mut session, [good; 3], &[0, 4]).is_ok());
}

#[test]
fn an_empty_batch_gives_empty_outputs() {
    let session = session(GRAPH, 2);
    let empty: (&[f32], _) = (&[], [0, 6]);
    let found = run(&mut session.unwrap(), [empty; 3], &[0]).unwrap();
    assert_eq!(found, (vec![], vec![]));
}

/// Replaces bytes of the graph by as many others, which keeps the protobuf valid.
fn edited(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut graph = GRAPH.to_vec();
    let at = graph
        .windows(from.len())
        .position(|bytes| bytes == from)
        .expect("to be in the graph");
    graph[at..at + from.len()].copy_from_slice(to);
    graph
}

#[test]
fn bad_attributes_stop_the_session_from_being_built() {
    for (from, to, expected) in [
        ("mean", "mode", "unknown pooling `mode`"),
        ("pooling\"", "poolinx\"", "needs the attribute `pooling`"),
        ("num_heads", "num_headz", "needs the attribute `num_heads`"),
    ] {
        let (from, to) = (from.trim_end_matches('"'), to.trim_end_matches('"'));
        let session = session(&edited(from.as_bytes(), to.as_bytes()), 1);
        let error = session.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
