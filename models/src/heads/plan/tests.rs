use std::fs;

use safetensors::tensor::{Dtype, TensorView, serialize};

use super::*;
use crate::batch::{Batch, Encoding};
use crate::given::tests::runtime;
use crate::heads::Output;
use crate::runtime::Runtime;
use crate::{EncoderModel, LoadOptions};

/// A copy of a tiny checkpoint, to be changed.
fn copy(name: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    copy(&golden.join(name), dir.path());
    dir
}

fn load(dir: &Path, runtime: &Runtime, pooling: Option<Pooling>) -> Result<EncoderModel> {
    let options = LoadOptions {
        pooling,
        ..LoadOptions::new(runtime.clone())
    };
    EncoderModel::load(dir, &options)
}

/// All that a model gives for some tokens.
fn run(model: &EncoderModel, input_ids: &[u32]) -> Output {
    let mut batch = Batch::wanting(model.info().heads);
    batch.push(&Encoding {
        input_ids: input_ids.to_vec(),
        token_type_ids: vec![0; input_ids.len()],
        ..Encoding::default()
    });
    model.encoder(1).unwrap().encode(&batch).unwrap().remove(0)
}

const IDS: [u32; 6] = [0, 9, 70, 9, 8, 2];

/// Tensors of another file under other names and in another type. `narrow` gives the bytes.
fn rewrite(
    weights: &Weights,
    names: &[(&str, &str)],
    (dtype, narrow): (Dtype, fn(f32) -> Vec<u8>),
    to: &Path,
) {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = names
        .iter()
        .map(|(from, to)| {
            let tensor = weights.get(from).unwrap();
            let values = tensor.to_f32().unwrap();
            let bytes = values.as_slice().iter().flat_map(|&x| narrow(x)).collect();
            ((*to).to_owned(), tensor.shape().to_vec(), bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    fs::write(to, serialize(views, None).unwrap()).unwrap();
}

fn f16(x: f32) -> Vec<u8> {
    half::f16::from_f32(x).to_le_bytes().to_vec()
}

fn bf16(x: f32) -> Vec<u8> {
    half::bf16::from_f32(x).to_le_bytes().to_vec()
}

fn f32_of_f16(x: f32) -> Vec<u8> {
    half::f16::from_f32(x).to_f32().to_le_bytes().to_vec()
}

fn f32_of_bf16(x: f32) -> Vec<u8> {
    half::bf16::from_f32(x).to_f32().to_le_bytes().to_vec()
}

#[test]
fn heads_in_files_of_their_own_may_be_of_16_bits() {
    let Some(runtime) = runtime() else {
        return;
    };
    let dir = copy("bge-m3-tiny");
    let names = [("weight", "weight"), ("bias", "bias")];
    let plain = run(&load(dir.path(), &runtime, None).unwrap(), &IDS);
    let with = |form: (Dtype, fn(f32) -> Vec<u8>)| {
        for head in [SPARSE_LINEAR, COLBERT_LINEAR] {
            let mut weights = Weights::none(dir.path());
            let file = dir.path().join(format!("{head}.pt"));
            weights.include_file(&file, "").unwrap();
            let to = dir.path().join(format!("{head}.safetensors"));
            rewrite(&weights, &names, form, &to);
        }
        run(&load(dir.path(), &runtime, None).unwrap(), &IDS)
    };
    // Rounded numbers must give the same in whatever type they are stored, and not what the
    // numbers before the rounding give.
    let narrow = with((Dtype::F16, f16));
    assert_eq!(narrow, with((Dtype::F32, f32_of_f16)));
    assert_ne!(narrow.multi_vector, plain.multi_vector);
    assert_ne!(narrow.sparse, plain.sparse);
    assert_eq!(narrow.dense, plain.dense);
    let narrow = with((Dtype::BF16, bf16));
    assert_eq!(narrow, with((Dtype::F32, f32_of_bf16)));
    assert_ne!(narrow.multi_vector, plain.multi_vector);
}

/// How `CrossEncoder` of sentence-transformers 5 and later saves its models.
#[test]
fn a_cross_encoder_with_modules_is_a_classifier() {
    let Some(runtime) = runtime() else {
        return;
    };
    let dir = copy("bert-tiny-score3");
    let plain = run(&load(dir.path(), &runtime, None).unwrap(), &IDS);
    let modules = r#"[{"idx": 0, "name": "0", "path": "",
        "type": "sentence_transformers.base.modules.transformer.Transformer"}]"#;
    let task = r#"{"transformer_task": "sequence-classification", "module_output_name": "scores",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}}"#;
    fs::write(dir.path().join("modules.json"), modules).unwrap();
    fs::write(dir.path().join("sentence_bert_config.json"), task).unwrap();
    let model = load(dir.path(), &runtime, None).unwrap();
    assert_eq!(model.info().heads, Heads::SCORE);
    let names = ["contradiction", "entailment", "neutral"];
    assert_eq!(model.info().label_names, names);
    assert_eq!(run(&model, &IDS), plain);
    // Who insists on vectors gets them.
    let model = load(dir.path(), &runtime, Some(Pooling::Mean)).unwrap();
    assert_eq!(model.info().heads, Heads::DENSE);
    assert_eq!((model.info().labels, model.info().dimensions), (0, 32));
}

/// PyLate keeps the projection of token vectors in a module of its own.
#[test]
fn a_dense_module_without_pooling_projects_token_vectors() {
    let Some(runtime) = runtime() else {
        return;
    };
    let dir = copy("colbert-tiny");
    let model = load(dir.path(), &runtime, None).unwrap();
    assert_eq!(model.info().token_dimensions, 24);
    let plain = run(&model, &IDS);
    let weights = Weights::open(dir.path()).unwrap();
    let module = dir.path().join("1_Dense");
    fs::create_dir(&module).unwrap();
    let names = [("linear.weight", "linear.weight")];
    let plainly: fn(f32) -> Vec<u8> = |x| x.to_le_bytes().to_vec();
    let form = (Dtype::F32, plainly);
    rewrite(&weights, &names, form, &module.join("model.safetensors"));
    let config = r#"{"in_features": 32, "out_features": 24, "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity"}"#;
    fs::write(module.join("config.json"), config).unwrap();
    let modules = r#"[
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Dense", "type": "pylate.models.Dense.Dense"}]"#;
    fs::write(dir.path().join("modules.json"), modules).unwrap();
    let path = dir.path().join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    assert!(config.contains("HF_ColBERT"));
    fs::write(&path, config.replace("HF_ColBERT", "BertModel")).unwrap();
    let model = load(dir.path(), &runtime, None).unwrap();
    assert_eq!(model.info().heads, Head::MultiVector.into());
    assert_eq!(run(&model, &IDS), plain);
}

#[test]
fn a_dense_module_in_pytorchs_format_follows_the_pooling() {
    let Some(runtime) = runtime() else {
        return;
    };
    let dir = copy("bert-tiny-dense-identity");
    let prompts = dir.path().join("config_sentence_transformers.json");
    fs::remove_file(prompts).unwrap();
    let golden = fs::read(dir.path().join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let model = load(dir.path(), &runtime, None).unwrap();
    assert_eq!(model.info().dimensions, 48);
    for case in golden["cases"].as_array().unwrap() {
        let numbers = |key: &str| case[key].as_array().unwrap().iter();
        let ids: Vec<u32> = numbers("input_ids")
            .map(|id| id.as_u64().unwrap() as u32)
            .collect();
        let found = run(&model, &ids).dense.unwrap();
        let expected: Vec<f32> = numbers("pooled")
            .map(|number| number.as_f64().unwrap() as f32)
            .collect();
        let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let off = (found - expected).abs() / largest;
            assert!(off <= 1e-5, "{found} for {expected}");
        }
    }
    fs::remove_file(dir.path().join("2_Dense/pytorch_model.bin")).unwrap();
    let error = load(dir.path(), &runtime, None).err().unwrap().to_string();
    assert!(error.contains("2_Dense"), "{error}");
}

/// A graph of only the transformer gets the layer behind it; a graph with the finished vector has
/// it inside.
#[test]
fn a_dense_module_follows_the_token_vectors_of_a_given_graph() {
    let Some(runtime) = runtime() else {
        return;
    };
    let dir = copy("bge-m3-tiny");
    let path = dir.path().join("onnx/model.onnx");
    let token_vectors = load(&path, &runtime, Some(Pooling::Cls)).unwrap();
    let pooled = run(&token_vectors, &IDS).dense.unwrap();
    let finished = run(&load(&path, &runtime, None).unwrap(), &IDS);

    let mut weights = Weights::none(dir.path());
    let colbert = dir.path().join("colbert_linear.pt");
    weights.include_file(&colbert, "").unwrap();
    let module = dir.path().join("2_Dense");
    fs::create_dir(&module).unwrap();
    let names = [("weight", "linear.weight"), ("bias", "linear.bias")];
    let plainly: fn(f32) -> Vec<u8> = |x| x.to_le_bytes().to_vec();
    let to = module.join("model.safetensors");
    rewrite(&weights, &names, (Dtype::F32, plainly), &to);
    let config = r#"{"activation_function": "torch.nn.modules.activation.Tanh"}"#;
    fs::write(module.join("config.json"), config).unwrap();
    let modules = r#"[
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#;
    fs::write(dir.path().join("modules.json"), modules).unwrap();

    let found = run(&load(&path, &runtime, Some(Pooling::Cls)).unwrap(), &IDS);
    let values = |name: &str| weights.get(name).unwrap().to_f32().unwrap();
    let (weight, bias) = (values("weight"), values("bias"));
    let rows = weight.as_slice().chunks_exact(pooled.len());
    for ((row, bias), found) in rows.zip(bias.as_slice()).zip(found.dense.unwrap()) {
        let sum: f32 = row.iter().zip(&pooled).map(|(w, x)| w * x).sum();
        let expected = (sum + bias).tanh();
        assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
    }
    // The graph's own vector is finished, whether or not the weights of the layer are there.
    assert_eq!(run(&load(&path, &runtime, None).unwrap(), &IDS), finished);
    fs::remove_file(to).unwrap();
    assert_eq!(run(&load(&path, &runtime, None).unwrap(), &IDS), finished);
    let error = load(&path, &runtime, Some(Pooling::Cls)).err().unwrap();
    assert!(error.to_string().contains("2_Dense.linear"), "{error}");
}

#[test]
fn names_of_labels_that_do_not_fit_are_left_out() {
    let Some(runtime) = runtime() else {
        return;
    };
    let dir = copy("bert-tiny-score3");
    let path = dir.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["id2label"] = serde_json::json!({"0": "no", "1": "yes"});
    fs::write(&path, config.to_string()).unwrap();
    let model = load(dir.path(), &runtime, None).unwrap();
    assert_eq!(
        (model.info().labels, model.info().label_names.len()),
        (3, 0)
    );
    config["id2label"] = serde_json::json!({"0": "no", "1": 1, "2": "perhaps"});
    fs::write(&path, config.to_string()).unwrap();
    let error = load(dir.path(), &runtime, None).err().unwrap().to_string();
    assert!(error.contains("id2label"), "{error}");
}
