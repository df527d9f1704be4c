use retort_models::{EncoderInfo, GraphSource, Heads, Pooling, Prompts};

use super::*;

fn minilm() -> ModelInfo {
    ModelInfo {
        name: "all-MiniLM-L6-v2".into(),
        aliases: vec!["sentence-transformers/all-MiniLM-L6-v2".into()],
        state: ModelState::Ready,
        origin: "cache (Hugging Face)".into(),
        revision: Some("c9745ed1d9f207416be6d2e6f8de32d1f16199bf".into()),
        generator: None,
        chats: crate::engine::request::Chats::default(),
        encoder: Some(EncoderInfo {
            architecture: "bert".into(),
            heads: Heads::DENSE,
            token_dimensions: 0,
            labels: 0,
            compares: false,
            label_names: Vec::new(),
            dimensions: 384,
            max_tokens: 256,
            pooling: Some(Pooling::Mean),
            vocab_size: 30_522,
            parameters: 22_713_216,
            weights_bytes: 90_852_864,
            checkpoint_dtype: "float32".into(),
            dtype: "float32".into(),
            fidelity: retort_models::Fidelity::default(),
            provider: retort_models::Provider::Cpu,
            device: "cpu".into(),
            device_name: None,
            source: GraphSource::Built,
            matryoshka: retort_models::Matryoshka::default(),
            prompts: Prompts::default(),
            tasks: Vec::new(),
            pair_template: None,
            instruction: None,
            cutoff_layer: None,
            isa: "avx2",
        }),
        created: 0,
        required: true,
    }
}

fn facts(models: Vec<ModelInfo>) -> Report {
    Report {
        runtime: RuntimeFacts {
            version: "1.31.1".into(),
            origin: "cache".into(),
            path: "/home/ada/.cache/retort/libonnxruntime.so".into(),
            cuda: None,
        },
        models,
        processor: "Analytical Engine".into(),
        threads: 2,
        why_cpu: None,
        config: None,
        keys: 0,
        address: ([127, 0, 0, 1], 9997).into(),
    }
}

#[test]
fn the_report_of_a_first_start() {
    let expected = format!(
        r#"
Retort {}

  runtime  ONNX Runtime 1.31.1 (cache)
           /home/ada/.cache/retort/libonnxruntime.so
  model    all-MiniLM-L6-v2
           sentence-transformers/all-MiniLM-L6-v2, cache (Hugging Face), revision c9745ed1d9f2
           bert, 384 dimensions, at most 256 tokens, mean pooling, 22.7 million parameters
           float32 weights, computed in float32
  device   cpu (Analytical Engine), avx2 kernels, 2 threads
  keys     none needed
  address  http://127.0.0.1:9997

Try it:

  curl http://127.0.0.1:9997/v1/embeddings \
    -H 'Content-Type: application/json' -d '{}'

"#,
        env!("CARGO_PKG_VERSION"),
        r#"{"model": "all-MiniLM-L6-v2", "input": "Hello, world"}"#
    );
    assert_eq!(report(&facts(vec![minilm()])), expected);
}

#[test]
fn a_model_that_did_not_load_says_why_and_is_not_offered() {
    let mut failed = minilm();
    failed.state = ModelState::Failed("no source has it\n  Hugging Face: 404".into());
    failed.encoder = None;
    let text = report(&facts(vec![failed]));
    assert!(
        text.contains("  model    all-MiniLM-L6-v2 did not load: no source has it\n"),
        "{text}"
    );
    assert!(text.contains("             Hugging Face: 404\n"), "{text}");
    assert!(!text.contains("curl"), "{text}");
}

#[test]
fn a_key_is_named_and_not_shown_and_an_open_address_can_be_reached() {
    let mut guarded = facts(vec![minilm()]);
    guarded.keys = 2;
    guarded.address = ([0, 0, 0, 0], 80).into();
    let text = report(&guarded);
    assert!(text.contains("http://127.0.0.1:80/v1/embeddings"), "{text}");
    assert!(
        text.contains(r#"-H "Authorization: Bearer $RETORT_API_KEY""#),
        "{text}"
    );
    assert!(text.contains("2 accepted"), "{text}");
}

#[test]
fn an_ipv6_address_is_written_as_in_urls() {
    let local = (Ipv6Addr::LOCALHOST, 9997).into();
    assert_eq!(base_url(local), "http://[::1]:9997");
    assert_eq!(
        base_url((Ipv6Addr::UNSPECIFIED, 1).into()),
        "http://[::1]:1"
    );
}

#[test]
fn the_request_survives_the_shell() {
    let mut odd = minilm();
    odd.name = "it's".into();
    assert!(report(&facts(vec![odd])).contains(r#""model": "it'\''s""#));
}

#[test]
fn a_reranker_is_told_what_it_is_and_tried_as_one() {
    let mut model = minilm();
    let info = model.encoder.as_mut().unwrap();
    (info.heads, info.labels, info.dimensions) = (Heads::SCORE, 1, 0);
    info.pooling = None;
    let text = report(&facts(vec![model]));
    assert!(
        text.contains("bert, reranker with 1 label, at most 256 tokens"),
        "{text}"
    );
    assert!(
        text.contains("/v1/rerank ") && text.contains(r#""documents""#),
        "{text}"
    );
}

#[test]
fn all_kinds_of_vectors_are_told() {
    let mut model = minilm();
    let info = model.encoder.as_mut().unwrap();
    info.heads = [Head::Dense, Head::Sparse, Head::MultiVector]
        .into_iter()
        .collect();
    info.token_dimensions = 128;
    let text = report(&facts(vec![model]));
    let expected = "bert, 384 dimensions, sparse vectors, vectors of 128 per token, at most";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn what_is_unusual_about_reading_is_told() {
    let mut model = minilm();
    let info = model.encoder.as_mut().unwrap();
    info.tasks = vec!["retrieval.query".into(), "separation".into()];
    info.cutoff_layer = Some(28);
    let text = report(&facts(vec![model]));
    let expected = "\n           scores of layer 28, tasks retrieval.query, separation\n";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn gpus_are_named_and_their_absence_is_explained() {
    let mut on_gpus = minilm();
    let info = on_gpus.encoder.as_mut().unwrap();
    info.device = "cuda:0,1".into();
    info.device_name = Some("NVIDIA H200".into());
    info.dtype = "float16".into();
    let mut both = facts(vec![on_gpus, minilm()]);
    both.runtime.cuda = Some("cache".into());
    let text = report(&both);
    for expected in [
        "\n           libraries of CUDA 13 (cache)\n",
        "float32 weights, computed in float16 on cuda:0,1\n",
        "\n  device   cuda:0,1 (NVIDIA H200)\n           cpu (Analytical Engine), avx2 kernels, 2",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let mut fallen = facts(vec![minilm()]);
    fallen.why_cpu = Some("there is no NVIDIA driver".into());
    let text = report(&fallen);
    let expected = "2 threads\n           no GPU: there is no NVIDIA driver\n";
    assert!(text.contains(expected), "{text}");
}
