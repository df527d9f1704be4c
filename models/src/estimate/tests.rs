use std::path::PathBuf;

use super::*;
use crate::catalog::Catalog;

fn load(sessions: usize) -> Load {
    Load {
        max_batch_tokens: 256,
        session_threads: vec![1; sessions],
        max_tokens: None,
        pooling: None,
        task: None,
        cutoff_layer: None,
        dtype: DtypeChoice::Fp32,
    }
}

fn golden(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    root.join(name)
}

/// Whether kernels of this project multiply in 32 bits here.
fn is_ours() -> bool {
    let arithmetic = Arithmetic::of(Dtype::Fp32, Isa::detect());
    arithmetic != Arithmetic::REFERENCE
}

#[test]
fn a_checkpoint_is_the_sum_of_its_parts() {
    let estimate = Estimate::of_files(&golden("bert-tiny-mean"), &load(3), None).unwrap();
    let config = Config::read(&golden("bert-tiny-mean").join("config.json")).unwrap();
    let [hidden, inner, layers] = ["hidden_size", "intermediate_size", "num_hidden_layers"]
        .map(|key| config.count(key).unwrap());
    let matrices = layers * (4 * hidden * hidden + 2 * hidden * inner) * F32_BYTES;
    // What our own kernels add is packed along.
    let biases = layers * (5 * hidden + inner) * F32_BYTES;
    let packed = matrices + if is_ours() { biases } else { 0 };
    assert_eq!(estimate.packed, packed as u64, "the sizes are whole panels");
    // Nor does anybody else read them.
    let mapped = estimate.weights - if is_ours() { estimate.packed } else { 0 };
    assert_eq!(estimate.weights_mapped, mapped);
    assert_eq!(estimate.weights_owned, 0);
    // BERT's layers, whose feed-forward layer is wider: five buffers of one width and two of the
    // other, or one where its nonlinearity is part of the product; and the vectors themselves.
    assert_ne!(hidden, inner);
    let wide = if is_ours() { 1 } else { 2 };
    let widths = (5 * hidden + wide * inner) * estimate.batch_tokens;
    let vectors = 2 * hidden * estimate.batch_tokens.div_ceil(SHORT_TEXT_TOKENS);
    let expected = ((widths + vectors) * F32_BYTES) as u64;
    assert_eq!(estimate.activations_per_session, expected);
    assert_eq!(estimate.total, estimate.process + estimate.added());
    assert!(estimate.private < estimate.serving);
}

#[test]
fn narrow_weights_are_widened_into_memory() {
    let estimate = Estimate::of_files(&golden("bert-tiny-bf16-sharded"), &load(1), None).unwrap();
    match is_ours() {
        // Those of the layers are widened while they are packed.
        true => assert_eq!(
            estimate.weights_owned + estimate.packed,
            2 * estimate.weights
        ),
        false => assert_eq!(estimate.weights_owned, 2 * estimate.weights),
    }
    assert_eq!((estimate.weights_mapped, estimate.embeddings), (0, 0));
}

#[test]
fn sessions_and_tokens_cost_what_they_take() {
    let of = |sessions, max_batch_tokens| {
        let load = Load {
            max_batch_tokens,
            ..load(sessions)
        };
        Estimate::of_files(&golden("xlmr-tiny-cls"), &load, None).unwrap()
    };
    let (one, three) = (of(1, 4096), of(3, 4096));
    assert_eq!(one.arena_per_session, three.arena_per_session);
    assert_eq!(one.packed, three.packed, "packed once for all sessions");
    let more = three.private - one.private;
    assert_eq!(
        more,
        2 * (one.session + one.arena_per_session + THREAD_BYTES)
    );
    let double = of(1, 8192).activations_per_session;
    assert_eq!(double, 2 * one.activations_per_session);
}

#[test]
fn what_cannot_be_loaded_is_not_estimated() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("config.json"),
        r#"{"model_type": "strange"}"#,
    )
    .unwrap();
    let error = Estimate::of_files(dir.path(), &load(1), None).unwrap_err();
    assert!(error.to_string().contains("`strange`"), "{error}");
}

/// The published numbers of bge-m3 and all-MiniLM-L6-v2, against what their files give.
#[test]
fn the_catalogue_alone_gives_the_right_order() {
    let catalog = Catalog::compiled().unwrap();
    let mib = |name: &str| {
        let estimate = Estimate::of_entry(catalog.by_name(name).unwrap(), &load(1)).unwrap();
        assert_eq!(estimate.basis, Basis::Catalogue);
        estimate.total / MIB
    };
    assert!((2_000..3_500).contains(&mib("bge-m3")), "{}", mib("bge-m3"));
    let small = mib("all-minilm-l6-v2");
    assert!((100..200).contains(&small), "{small}");
    let silent = catalog.entries().iter().filter(|entry| {
        let estimate = Estimate::of_entry(entry, &load(1));
        estimate.is_none_or(|estimate| estimate.total <= estimate.process)
    });
    let silent: Vec<&str> = silent.map(|entry| &*entry.name).collect();
    let unsized_entries = catalog.entries().iter();
    let unsized_entries: Vec<&str> = unsized_entries
        .filter(|entry| entry.size_bytes().is_none() && entry.parameters.is_none())
        .map(|entry| &*entry.name)
        .collect();
    assert_eq!(silent, unsized_entries);
}

#[test]
fn rerankers_that_are_decoders_are_estimated_up_to_their_last_layer() {
    let reranker = golden("qwen3-tiny-reranker");
    assert!(Estimate::of_files(&reranker, &load(1), None).is_err());
    let told = Load {
        task: Some(Task::Rerank),
        ..load(1)
    };
    assert!(Estimate::of_files(&reranker, &told, None).unwrap().packed > 0);
    let packed = |layer| {
        let cut = Load {
            cutoff_layer: layer,
            ..load(1)
        };
        let path = golden("minicpm-layerwise-tiny");
        Estimate::of_files(&path, &cut, None).unwrap().packed
    };
    assert!(packed(Some(2)) < packed(Some(4)) && packed(Some(4)) < packed(None));
}

#[test]
fn narrow_layers_take_what_their_numbers_take() {
    let of = |dtype, name: &str| {
        let load = Load { dtype, ..load(1) };
        Estimate::of_files(&golden(name), &load, None).unwrap()
    };
    let [wide, half, quarter] = [DtypeChoice::Fp32, DtypeChoice::Bf16, DtypeChoice::Int8]
        .map(|dtype| of(dtype, "bert-tiny-mean"));
    assert!(half.packed < wide.packed * 6 / 10 && half.packed >= wide.packed / 2);
    assert!(quarter.packed < half.packed * 8 / 10 && quarter.packed >= wide.packed / 4);
    assert_eq!(
        (half.weights, quarter.weights),
        (wide.weights, wide.weights)
    );
    assert!(half.serving < wide.serving);
    // What is packed from the file is not widened, but comes and goes for the comparison.
    let name = "bert-tiny-bf16-sharded";
    let (wide, half) = (of(DtypeChoice::Fp32, name), of(DtypeChoice::Bf16, name));
    assert!(half.weights_owned < wide.weights_owned || is_ours());
    assert!(half.loading > half.weights_owned + half.packed + half.tokenizer);
}
