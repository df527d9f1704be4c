mod adapters;
mod bge_m3;
mod colbert;
mod padded;

use std::fs;

use prost::Message;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::*;
use crate::graph::onnx::ModelProto;
use crate::graph::{Dim, ElementType, Graph, Node};
use crate::heads::Head;
use crate::heads::plan::DensePlan;

/// A folder with weights of eight rows (row `n` is `[n, -n]`), and a model that looks rows up in
/// them: `[sequences, length]` → `last_hidden_state` `[sequences, length, 2]`.
fn lookup(inputs: &[(&str, ElementType)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0_u8..8)
        .flat_map(|n| [f32::from(n), -f32::from(n)])
        .flat_map(f32::to_le_bytes)
        .collect();
    let view = TensorView::new(Dtype::F32, vec![8, 2], &data).unwrap();
    let file = serialize([("table", view)], None).unwrap();
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    let mut graph = Graph::new("lookup", &weights);
    let shape = [Dim::Named("sequences"), Dim::Named("length")];
    let taken: Vec<_> = inputs
        .iter()
        .map(|(name, element)| graph.input(name, *element, &shape))
        .collect();
    let table = graph.weight("table", &[8, 2]).unwrap();
    let rows = [shape[0], shape[1], Dim::Fixed(2)];
    let node = Node {
        operator: "Gather",
        domain: "",
        inputs: &[&table, &taken[0]],
        attributes: &[],
    };
    let found = graph.node(node, &rows);
    graph.output("last_hidden_state", &found);
    let path = dir.path().join("model.onnx");
    fs::write(&path, graph.finish().model).unwrap();
    (dir, path)
}

const IDS: (&str, ElementType) = ("input_ids", ElementType::I64);

/// ONNX Runtime where it is at hand: named by `ORT_DYLIB_PATH`, else in the service's cache, which
/// the service's own tests fill.
pub(crate) fn runtime() -> Option<Runtime> {
    let library = std::env::var_os("ORT_DYLIB_PATH")
        .map(PathBuf::from)
        .or_else(cached_library);
    if library.is_none() {
        println!("stepping aside: no ONNX Runtime in the cache, and ORT_DYLIB_PATH is not set");
    }
    Some(Runtime::load(&library?).unwrap())
}

fn cached_library() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("RETORT_CACHE_DIR")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("retort")))
        .or_else(|| Some(variable("HOME")?.join(".cache/retort")))?;
    let entries = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries(cache.join("runtime")).flat_map(|version| entries(version.path()));
    files.map(|file| file.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains("onnxruntime.") && !name.contains("providers")
    })
}

/// What a checkpoint means that says no more than how to pool.
fn meaning(weights: &Weights, pooling: Option<Pooling>) -> Meaning<'_> {
    let dense = pooling.map(|pooling| DensePlan {
        pooling,
        layers: Vec::new(),
    });
    Meaning {
        plan: HeadPlan {
            dense,
            ..HeadPlan::default()
        },
        weights,
        pooling: None,
        left_out: HashSet::new(),
        late_interaction: None,
    }
}

fn encoder(file: &Path, pooling: Option<Pooling>) -> Option<Result<Box<dyn Encode>>> {
    let runtime = runtime()?;
    let open = || {
        let family = Family {
            positions: None,
            adapters: ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec(),
        };
        let weights = Weights::none(file.parent().unwrap());
        let mut given = GivenModel::open(file, &runtime, family)?;
        given.probe(meaning(&weights, pooling))?;
        let bounds = BatchBounds {
            vocab_size: 8,
            token_types: None,
            max_positions: 100,
        };
        given.bounded(bounds).encoder(1)
    };
    Some(open())
}

#[test]
fn tensors_in_linked_files_are_found() {
    let (dir, path) = lookup(&[IDS]);
    let blobs = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshot");
    fs::create_dir(&snapshot).unwrap();
    for (name, blob) in [("model.onnx", "a1"), ("model.safetensors", "b2")] {
        let blob = blobs.path().join(blob);
        fs::rename(path.with_file_name(name), &blob).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(&blob, snapshot.join(name)).unwrap();
        #[cfg(not(unix))]
        fs::copy(&blob, snapshot.join(name)).unwrap();
    }
    let path = snapshot.join("model.onnx");
    let model = fs::read(&path).unwrap();
    let survey = external::survey(&path, &model).unwrap();
    assert_eq!(
        survey.data_folder.unwrap(),
        blobs.path().canonicalize().unwrap()
    );
    assert!(!survey.scales_by_batch && survey.data_bytes > 64);
    let rewritten = ModelProto::decode(&survey.rewritten.unwrap()[..]).unwrap();
    let mut expected = ModelProto::decode(&model[..]).unwrap();
    let data = &mut expected.graph.as_mut().unwrap().initializer[0].external_data;
    data.iter_mut()
        .find(|entry| entry.key == "location")
        .unwrap()
        .value = "b2".to_owned();
    assert_eq!(rewritten, expected);

    let Some(encoder) = encoder(&path, Some(Pooling::Mean)) else {
        return;
    };
    let mut encoder = encoder.unwrap();
    let mut batch = Batch::default();
    for input_ids in [&[1, 3][..], &[5], &[7, 2]] {
        batch.push(&Encoding {
            input_ids: input_ids.to_vec(),
            token_type_ids: vec![0; input_ids.len()],
            ..Encoding::default()
        });
    }
    let vectors: Vec<Vec<f32>> = encoder
        .encode(&batch)
        .unwrap()
        .into_iter()
        .map(|output| output.dense.unwrap())
        .collect();
    assert_eq!(vectors, [[2.0, -2.0], [5.0, -5.0], [4.5, -4.5]]);
}

#[test]
fn data_outside_the_directory_is_refused() {
    let (_dir, path) = lookup(&[IDS]);
    let mut model = ModelProto::decode(&fs::read(&path).unwrap()[..]).unwrap();
    for (location, word) in [
        ("../model.safetensors", "inside"),
        ("/etc/hostname", "inside"),
        ("", "inside"),
        ("absent.bin", "does not exist"),
    ] {
        let data = &mut model.graph.as_mut().unwrap().initializer[0].external_data;
        data.iter_mut()
            .find(|entry| entry.key == "location")
            .unwrap()
            .value = location.to_owned();
        let error = external::survey(&path, &model.encode_to_vec())
            .unwrap_err()
            .to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn broken_models_are_errors() {
    let (_dir, path) = lookup(&[IDS]);
    let model = fs::read(&path).unwrap();
    // Cut anywhere, the file is either malformed or ends between two fields.
    for length in 0..model.len() {
        let _ = external::survey(&path, &model[..length]);
    }
    assert!(external::survey(&path, b"\x0f").is_err());
    assert!(external::survey(&path, b"\x3a\xff\xff\xff\xff\x0f").is_err());
}

#[test]
fn scales_over_the_whole_batch_are_noticed() {
    let node = |name: &str| {
        let node = crate::graph::onnx::NodeProto {
            op_type: name.to_owned(),
            ..Default::default()
        };
        let graph = crate::graph::onnx::GraphProto {
            node: vec![node],
            ..Default::default()
        };
        let model = ModelProto {
            graph: Some(graph),
            ..Default::default()
        };
        external::survey(Path::new("model.onnx"), &model.encode_to_vec()).unwrap()
    };
    assert!(node("DynamicQuantizeLinear").scales_by_batch);
    assert!(node("DynamicQuantizeMatMul").scales_by_batch);
    assert_eq!(node("QuantizeLinear"), external::Survey::default());
}

#[test]
fn inputs_and_outputs_that_cannot_be_used_are_named() {
    for (inputs, wanted, word) in [
        (
            vec![IDS, ("bbox", ElementType::I64)],
            Some(Pooling::Mean),
            "`bbox`",
        ),
        (
            vec![("ids", ElementType::I64)],
            Some(Pooling::Mean),
            "`ids`",
        ),
        (
            vec![IDS, ("attention_mask", ElementType::F32)],
            Some(Pooling::Mean),
            "`attention_mask`",
        ),
        (
            vec![IDS, ("position_ids", ElementType::I64)],
            Some(Pooling::Mean),
            "`position_ids`",
        ),
        (vec![IDS], None, "set the pooling"),
    ] {
        let (_dir, path) = lookup(&inputs);
        let Some(encoder) = encoder(&path, wanted) else {
            return;
        };
        let error = encoder.err().unwrap().to_string();
        assert!(
            error.contains(word) && error.contains("model.onnx"),
            "{error}"
        );
    }
    // Narrow integers are as good.
    let (_dir, path) = lookup(&[
        ("input_ids", ElementType::I32),
        ("attention_mask", ElementType::I32),
    ]);
    let Some(encoder) = encoder(&path, Some(Pooling::Cls)) else {
        return;
    };
    assert!(encoder.is_ok());
}

#[test]
fn positions_are_those_of_the_family() {
    // The first input is looked up, so the vectors are the positions.
    let (dir, _) = lookup(&[("position_ids", ElementType::I64), IDS]);
    let Some(runtime) = runtime() else {
        return;
    };
    let tokenizer = r#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": null, "model":
        {"type": "WordLevel", "vocab": {"<s>": 0, "<pad>": 1, "</s>": 2}, "unk_token": "<s>"}}"#;
    fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
    let options = crate::LoadOptions {
        pooling: Some(Pooling::LastToken),
        ..crate::LoadOptions::new(runtime)
    };
    let file = dir.path().join("model.onnx");
    for (model_type, limit, expected) in [("roberta", 6, 5.0), ("bert", 8, 4.0)] {
        let config = format!(
            r#"{{"model_type": "{model_type}", "pad_token_id": 1, "vocab_size": 8,
                "max_position_embeddings": 8}}"#
        );
        fs::write(dir.path().join("config.json"), config).unwrap();
        let model = crate::EncoderModel::load(&file, &options).unwrap();
        assert_eq!(model.info().max_tokens, limit);
        let mut encoder = model.encoder(1).unwrap();
        let encode = |encoder: &mut dyn Encode, ids: &[u32]| {
            let mut batch = Batch::default();
            batch.push(&Encoding {
                input_ids: ids.to_vec(),
                token_type_ids: vec![0; ids.len()],
                ..Default::default()
            });
            encoder.encode(&batch)
        };
        // RoBERTa does not count the padding token, BERT does.
        let outputs = encode(&mut *encoder, &[0, 3, 1, 4, 2]).unwrap();
        assert_eq!(
            outputs[0].dense.as_deref(),
            Some(&[expected, -expected][..])
        );
        assert!(encode(&mut *encoder, &vec![3; limit]).is_ok());
        let error = encode(&mut *encoder, &vec![3; limit + 1]).unwrap_err();
        assert!(matches!(error, Error::InputTooLong { .. }), "{error}");
    }
}

/// Changed at random, a small model either runs or is refused, by us or by ONNX Runtime.
#[test]
fn mutated_models_run_or_are_refused() {
    let (_dir, path) = lookup(&[IDS]);
    let model = fs::read(&path).unwrap();
    let mut state = 3_u64;
    let mut dice = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..ROUNDS {
        let mut model = model.clone();
        for _ in 0..=dice(2) {
            let at = dice(model.len());
            match dice(4) {
                0 => model[at] = dice(256) as u8,
                1 => model[at] ^= 1 << dice(8),
                2 => model.insert(at, [0, 1, 0x7f, 0xff][dice(4)]),
                _ => _ = model.remove(at),
            }
        }
        fs::write(&path, model).unwrap();
        let Some(encoder) = encoder(&path, Some(Pooling::Mean)) else {
            return;
        };
        let mut batch = Batch::default();
        batch.push(&Encoding {
            input_ids: vec![1, 3],
            token_type_ids: vec![0; 2],
            ..Default::default()
        });
        match encoder.and_then(|mut encoder| encoder.encode(&batch)) {
            Ok(_) => ran += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(ran > 0 && refused > 0, "{ran} ran, {refused} refused");
}

const ROUNDS: usize = 400;

/// A shape that needs more numbers than the data file has.
#[test]
fn a_tensor_larger_than_its_file_is_refused() {
    let (_dir, path) = lookup(&[IDS]);
    let model = ModelProto::decode(&fs::read(&path).unwrap()[..]).unwrap();
    for rows in [9, 1 << 20, 1 << 40, i64::MAX, -8] {
        for with_length in [false, true] {
            let mut model = model.clone();
            let table = &mut model.graph.as_mut().unwrap().initializer[0];
            table.dims = vec![rows, 2];
            table
                .external_data
                .retain(|entry| with_length || entry.key != "length");
            fs::write(&path, model.encode_to_vec()).unwrap();
            let Some(encoder) = encoder(&path, Some(Pooling::Mean)) else {
                return;
            };
            assert!(encoder.is_err(), "{rows} rows, length told: {with_length}");
        }
    }
}

#[test]
fn a_file_is_found_in_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(find(dir.path()).unwrap(), None);
    fs::create_dir(dir.path().join("onnx")).unwrap();
    let file = dir.path().join("onnx/model.onnx");
    fs::write(&file, "").unwrap();
    assert!(find(&file).is_err(), "no config.json is near");
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let expected = Some((file.clone(), dir.path().to_owned()));
    assert_eq!(find(dir.path()).unwrap(), expected);
    assert_eq!(find(&file).unwrap(), expected);
    // Weights that a graph can be built for go first, unless the file itself is named.
    for weights in ["model.safetensors", "pytorch_model.bin"] {
        let weights = dir.path().join(weights);
        fs::write(&weights, "").unwrap();
        assert_eq!(find(dir.path()).unwrap(), None);
        assert_eq!(find(&file).unwrap(), expected);
        fs::remove_file(weights).unwrap();
    }
    assert!(find(&dir.path().join("config.json")).is_err());
}
