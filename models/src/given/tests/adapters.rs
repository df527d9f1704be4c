//! Graphs that take the number of a task adapter.

use super::*;
use crate::graph::Attribute;

/// As `lookup`, with the number of the task adapter added to every number, and the outputs that
/// jina-embeddings-v3 has: token vectors, and something per sequence that is no embedding.
fn with_adapter(shape: &[Dim]) -> (tempfile::TempDir, PathBuf) {
    let (dir, path) = lookup(&[IDS]);
    let weights = Weights::open(dir.path()).unwrap();
    let mut graph = Graph::new("adapters", &weights);
    let ids = [Dim::Named("sequences"), Dim::Named("length")];
    let input = graph.input("input_ids", ElementType::I64, &ids);
    let adapter = graph.input("task_id", ElementType::I64, shape);
    let table = graph.weight("table", &[8, 2]).unwrap();
    let zero = graph.scalar(0.0);
    let rows = [ids[0], ids[1], Dim::Fixed(2)];
    let mut node = |operator, inputs: &[&_], attributes: &[_]| {
        let node = Node {
            operator,
            domain: "",
            inputs,
            attributes,
        };
        graph.node(node, &rows)
    };
    let found = node("Gather", &[&table, &input], &[]);
    let number = node("Cast", &[&adapter], &[("to", Attribute::Int(1))]);
    let sum = node("Add", &[&found, &number], &[]);
    let first = node("Cast", &[&zero], &[("to", Attribute::Int(7))]);
    let other = node("Gather", &[&found, &first], &[("axis", Attribute::Int(1))]);
    graph.output("text_embeds", &sum);
    graph.output("13049", &other);
    fs::write(&path, graph.finish().model).unwrap();
    (dir, path)
}

#[test]
fn sequences_of_one_task_adapter_run_together() {
    for shape in [&[][..], &[Dim::Fixed(1)]] {
        let (_dir, path) = with_adapter(shape);
        let Some(encoder) = encoder(&path, Some(Pooling::Cls)) else {
            return;
        };
        let mut encoder = encoder.unwrap();
        let mut batch = Batch::default();
        let encoding = |id: u32, adapter| Encoding {
            input_ids: vec![id, 1],
            token_type_ids: vec![0; 2],
            adapter,
            ..Default::default()
        };
        for (id, adapter) in [(3, 2), (4, 0), (5, 2), (6, 4), (7, 0)] {
            batch.push(&encoding(id, Some(adapter)));
        }
        let outputs = encoder.encode(&batch).unwrap();
        let firsts: Vec<f32> = outputs
            .iter()
            .map(|o| o.dense.as_ref().unwrap()[0])
            .collect();
        assert_eq!(firsts, [5.0, 4.0, 7.0, 10.0, 7.0]);
        for (adapter, word) in [(None, "name a task"), (Some(5), "`4` is `e`")] {
            let mut batch = Batch::default();
            batch.push(&encoding(1, Some(1)));
            batch.push(&encoding(1, adapter));
            let error = encoder.encode(&batch).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
    let (_dir, path) = with_adapter(&[Dim::Fixed(2)]);
    let Some(encoder) = encoder(&path, Some(Pooling::Cls)) else {
        return;
    };
    let error = encoder.err().unwrap().to_string();
    assert!(error.contains("`task_id` has shape"), "{error}");
}

/// The names of the adapters are config.json's; without them a task could not be named.
#[test]
fn a_graph_that_takes_a_task_tells_its_tasks() {
    let Some(runtime) = runtime() else { return };
    let (dir, path) = with_adapter(&[]);
    let of =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints/jina-v3-tiny-mean");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(of.join(file), dir.path().join(file)).unwrap();
    }
    let config = fs::read_to_string(of.join("config.json")).unwrap();
    let options = crate::LoadOptions {
        pooling: Some(Pooling::Cls),
        ..crate::LoadOptions::new(runtime)
    };
    let load = |config: &str| {
        fs::write(dir.path().join("config.json"), config).unwrap();
        crate::EncoderModel::load(&path, &options)
    };
    let model = load(&config).unwrap();
    let info = model.info();
    assert!(info.needs_task());
    assert_eq!((info.tasks.len(), &*info.tasks[0]), (5, "retrieval.query"));
    assert!(info.prompts.named.contains_key("retrieval.query"));
    let unnamed = config.replace("lora_adaptations", "lora_forgotten");
    let error = load(&unnamed).err().unwrap().to_string();
    assert!(error.contains("`lora_adaptations`"), "{error}");
}
