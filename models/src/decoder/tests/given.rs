//! A finished graph that continues texts: the tiny GPT-2 of onnxruntime-genai's tests. Needs
//! `../shared/data`, which is not part of the project; says so and steps aside without it.

use serde_json::{Value, json};

use super::stories::shared;
use super::*;
use crate::checkpoint::json as files;
use crate::given::decoder::GivenDecoder;
use crate::given::tests::runtime;

const NAME: &str = "hf-internal-testing/tiny-random-gpt2 (fp32 ONNX)";

/// Whole texts, and how many tokens of each are given: all but what was generated.
fn published() -> Option<(PathBuf, Vec<Vec<u32>>)> {
    let file = shared("models/tiny-random-gpt2-fp32/past.onnx")?;
    let outputs = files::read(&shared("reference-outputs.json")?).unwrap();
    let mut outputs = outputs.as_array().unwrap().iter();
    let values = outputs.find(|output| output["model"] == NAME).unwrap()["values"].clone();
    let ids = |list: &Value| -> Vec<u32> {
        let list = list.as_array().unwrap().iter();
        list.map(|id| id.as_u64().unwrap() as u32).collect()
    };
    Some((file, values.as_array().unwrap().iter().map(ids).collect()))
}

#[test]
fn the_published_ids_follow() {
    let (Some(runtime), Some((file, expected))) = (runtime(), published()) else {
        return;
    };
    let given = GivenDecoder::open(&file, &runtime).unwrap();
    let layout = given.layout();
    assert_eq!(
        (layout.layers, layout.kv_heads, layout.head_size),
        (5, 4, 8)
    );
    let bounds = GeneratorInfo {
        vocab_size: 1000,
        max_context: 512,
        kv_blocks: 40,
        kv_block_tokens: 4,
        max_step_tokens: 512,
    };
    for chunk in [512, 3, 1] {
        let mut generator = given.generator(1, bounds).unwrap();
        let mut pool = BlockPool::new(bounds.kv_blocks, bounds.kv_block_tokens);
        let mut texts: Vec<Running> = expected.iter().map(|ids| Running::new(&ids[..4])).collect();
        continue_greedily(&mut *generator, &mut pool, (&mut texts, chunk), 10);
        for (text, expected) in texts.iter().zip(&expected) {
            assert_eq!(&text.ids, expected);
        }
        // A known beginning is shared, as with a built graph.
        let [text, _] = &texts[..] else { panic!() };
        pool.remember_prefix([0; 32], &text.ids[..text.done], &text.blocks);
        let mut again = Running::new(&text.ids[..9]);
        (again.blocks, again.done) = pool.find_prefix([0; 32], &again.ids);
        assert_eq!(again.done, 8);
        let mut again = [again];
        continue_greedily(&mut *generator, &mut pool, (&mut again, chunk), 10);
        assert_eq!(again[0].ids, expected[0]);
    }
}

#[test]
fn a_folder_with_a_finished_graph_is_a_model() {
    let (Some(runtime), Some((file, expected))) = (runtime(), published()) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::copy(&file, at("past.onnx")).unwrap();
    let beside = file.with_file_name("genai_config.json");
    std::fs::copy(beside, at("genai_config.json")).unwrap();
    let config = json!({"model_type": "gpt2", "n_positions": 512, "eos_token_id": 98});
    std::fs::write(at("config.json"), config.to_string()).unwrap();
    let tokenizer = golden::folder("qwen3-tiny-generate").join("tokenizer.json");
    std::fs::copy(tokenizer, at("tokenizer.json")).unwrap();
    let options = DecoderOptions::new(runtime);
    let model = DecoderModel::load(dir.path(), &options).unwrap();
    let info = model.info();
    assert_eq!((&*info.architecture, info.max_context), ("gpt2", 512));
    assert_eq!((info.vocab_size, &info.eos_token_ids[..]), (420, &[98][..]));
    assert_eq!(info.source, GraphSource::Given(at("past.onnx")));
    assert_eq!(info.kv_bytes_per_token, 2 * 5 * 4 * 8 * 4);
    let mut generator = model.generator(1).unwrap();
    let step = SequenceStep {
        input_ids: &expected[0][..4],
        past: 0,
        blocks: &[7],
        wants_logits: true,
    };
    let logits = generator.step(&[step]).unwrap();
    assert_eq!(likeliest(logits.row(0)), expected[0][4]);
    let weights = DecoderWeights::Int4;
    let error = DecoderModel::load(dir.path(), &DecoderOptions { weights, ..options });
    let error = error.err().unwrap().to_string();
    assert!(error.contains("leave `int4` out"), "{error}");
}
