//! Given graphs of late-interaction models: markers, and punctuation without vectors.

use super::*;
use crate::tokenizer::{Truncation, TruncationSide};
use crate::{EncoderModel, LoadOptions};

/// The folder of a graph that gives each token its number as a vector under the name `output`,
/// with the small files of a ColBERT checkpoint beside it.
fn graph(output: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let of = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints/colbert-tiny");
    for file in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "artifact.metadata",
    ] {
        fs::copy(of.join(file), dir.path().join(file)).unwrap();
    }
    let weights = Weights::none(dir.path());
    let mut graph = Graph::new("numbers", &weights);
    let shape = [Dim::Named("sequences"), Dim::Named("length")];
    let ids = graph.input("input_ids", ElementType::I64, &shape);
    let table: Vec<f32> = (0..172).flat_map(|id| [1.0, id as f32]).collect();
    let table = graph.numbers(&table, &[172, 2]);
    let node = Node {
        operator: "Gather",
        domain: "",
        inputs: &[&table, &ids],
        attributes: &[],
    };
    let rows = graph.node(node, &[shape[0], shape[1], Dim::Fixed(2)]);
    graph.output(output, &rows);
    let path = dir.path().join("model.onnx");
    fs::write(&path, graph.finish().model).unwrap();
    (dir, path)
}

#[test]
fn a_given_graph_knows_its_markers() {
    let Some(runtime) = runtime() else { return };
    let options = LoadOptions::new(runtime);
    for output in ["contextual", "colbert_vecs"] {
        let (dir, path) = graph(output);
        let model = EncoderModel::load(&path, &options).unwrap();
        let marks = model.late_interaction().expect("markers").clone();
        let truncation = Truncation {
            max_tokens: 64,
            side: TruncationSide::End,
        };
        let mut batch = Batch::wanting(model.info().heads);
        let mut ids = Vec::new();
        for side in [&marks.query, &marks.document] {
            let text = "a, b. c!";
            let encoding = model
                .tokenizer()
                .encode_prompted(&side.prompt, text, truncation);
            let encoding = encoding.unwrap();
            ids.push(encoding.input_ids.clone());
            batch.push(&encoding);
        }
        assert_ne!(ids[0], ids[1], "both sides have the same marker");
        let found = model.encoder(1).unwrap().encode(&batch).unwrap();
        let tokens = |index: usize| {
            let vectors = found[index].multi_vector.as_ref().unwrap();
            let numbers = vectors.values.chunks_exact(2);
            let ids = numbers.map(|vector| (vector[1] / vector[0]).round() as u32);
            ids.collect::<Vec<u32>>()
        };
        assert_eq!(tokens(0), ids[0], "a query keeps its punctuation");
        let mark = |id: &u32| {
            [",", ".", "!"]
                .map(|m| model.tokenizer().token_id(m))
                .contains(&Some(*id))
        };
        let expected: Vec<u32> = ids[1].iter().copied().filter(|id| !mark(id)).collect();
        assert_eq!(expected.len() + 3, ids[1].len());
        assert_eq!(tokens(1), expected);

        // Without the file, the vectors would be others, and nobody would know.
        fs::remove_file(dir.path().join("artifact.metadata")).unwrap();
        let unmarked = |config: &str| {
            let file = dir.path().join("config.json");
            let old = fs::read_to_string(&file).unwrap();
            fs::write(file, old.replace("HF_ColBERT", config)).unwrap();
            EncoderModel::load(&path, &options)
                .err()
                .map(|error| error.to_string())
        };
        let error = unmarked("HF_ColBERT").unwrap();
        assert!(error.contains("`artifact.metadata`"), "{error}");
        // The name of the output says it, too; that of others does not.
        let error = unmarked("BertModel");
        assert_eq!(error.is_some(), output == "contextual", "{error:?}");
    }
}
