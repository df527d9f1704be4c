//! The real potion-base-4m-int8, where it is at hand: its vectors against its own `model.onnx`,
//! and the scores that were published or computed for it.

#[path = "../../../../tests/support/ranking.rs"]
mod ranking;

use ort::value::TensorRef;

use self::ranking::ndcg_at_10;
use super::*;

/// Values that are not a number would be lost in a sort.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].partial_cmp(&values[b]).expect("numbers"));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for ties in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = first as f64 + (ties.len() - 1) as f64 / 2.0;
        ties.iter().for_each(|&index| ranks[index] = rank);
        first += ties.len();
    }
    ranks
}

fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let centred = |values: &[f64]| -> Vec<f64> {
        let ranks = ranks(values);
        let mean = ranks.iter().sum::<f64>() / ranks.len() as f64;
        ranks.iter().map(|rank| rank - mean).collect()
    };
    let (a, b) = (centred(a), centred(b));
    let dot = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| x * y).sum() };
    dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
}

/// Gold scores and the texts of both sides.
fn sts(file: &Path) -> (Vec<f64>, [Vec<String>; 2]) {
    let (mut scores, mut texts) = (Vec::new(), [Vec::new(), Vec::new()]);
    for line in fs::read_to_string(file).unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[score, _, first, second] = &fields[..] else {
            panic!("`{line}` has not four fields");
        };
        scores.push(score.parse().unwrap());
        texts[0].push(first.to_owned());
        texts[1].push(second.to_owned());
    }
    assert!(scores.len() > 300);
    (scores, texts)
}

#[test]
fn similarities_agree_with_people_as_much_as_expected() {
    let (Some(model), Some(data)) = (shared("models/potion-base-4m-int8"), shared("eval")) else {
        return;
    };
    let model = load(&model).unwrap();
    let expectations = fs::read(data.join("expectations.json")).unwrap();
    let expectations: Value = serde_json::from_slice(&expectations).unwrap();
    for (file, name) in [
        ("test.en.tsv", "sts-clean-test-en"),
        ("dev.en.tsv", "sts-clean-dev-en"),
        ("test.zh.tsv", "sts-clean-test-zh"),
    ] {
        let (scores, texts) = sts(&data.join("sts-clean").join(file));
        let [first, second] = texts.map(|texts| model.vectors(&texts));
        let pairs = first.iter().zip(&second);
        let cosines: Vec<f64> = pairs.map(|(a, b)| dot(a, b)).collect();
        let found = spearman(&cosines, &scores);
        let expected = expectations["datasets"][name]["potion_here"]
            .as_f64()
            .unwrap();
        println!("{name}: {found:.4}, expected {expected:.4}");
        assert!((found - expected).abs() <= 0.002, "{name}: {found:.4}");
    }
}

/// The texts of a JSON Lines file with their ids; a title goes before its text.
fn texts(file: &Path) -> (Vec<String>, Vec<String>) {
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        let text = value["text"].as_str().unwrap();
        let text = match value["title"].as_str() {
            Some(title) => format!("{title} {text}"),
            None => text.to_owned(),
        };
        (value["_id"].as_str().unwrap().to_owned(), text)
    };
    fs::read_to_string(file).unwrap().lines().map(line).unzip()
}

/// `dot` in a form that is quick without optimisation too: there are 200 million products.
fn quick_dot(a: &[f32], b: &[f32]) -> f64 {
    let (mut sum, mut index) = (0.0, 0);
    while index < a.len() {
        sum += f64::from(a[index]) * f64::from(b[index]);
        index += 1;
    }
    sum
}

#[test]
fn retrieval_on_scifact_is_as_good_as_expected() {
    let (Some(model), Some(data)) = (
        shared("models/potion-base-4m-int8"),
        shared("eval/scifact/corpus.jsonl"),
    ) else {
        return;
    };
    let model = load(&model).unwrap();
    let (ids, documents) = texts(&data);
    let (queries, wanted) = texts(&data.with_file_name("queries.jsonl"));
    let numbers: HashMap<&str, usize> = ids.iter().map(String::as_str).zip(0..).collect();
    let mut judged: HashMap<String, HashMap<usize, f64>> = HashMap::new();
    let qrels = fs::read_to_string(data.with_file_name("qrels.tsv")).unwrap();
    for line in qrels.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let gains = judged.entry(fields[0].to_owned()).or_default();
        gains.insert(numbers[fields[1]], fields[2].parse().unwrap());
    }
    let documents = model.vectors(&documents);
    let asked = model.vectors(&wanted);
    let mut scores = Vec::new();
    for (id, query) in queries.iter().zip(&asked) {
        if let Some(gains) = judged.get(id) {
            let similarities: Vec<f64> = documents
                .iter()
                .map(|text| quick_dot(query, text))
                .collect();
            scores.push(ndcg_at_10(&similarities, gains));
        }
    }
    assert_eq!(scores.len(), 300);
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    println!("scifact: nDCG@10 {mean:.4}, expected 0.4598");
    assert!((mean - 0.4598).abs() <= 0.003, "{mean:.4}");
}

#[test]
fn vectors_are_those_of_its_onnx_file() {
    let (Some(dir), Some(data)) = (
        shared("models/potion-base-4m-int8"),
        shared("eval/sts-clean/test.en.tsv"),
    ) else {
        return;
    };
    let Some(runtime) = crate::given::tests::runtime() else {
        return;
    };
    let mut model = load(&dir).unwrap();
    assert_eq!(model.size.dtype, "int8");
    assert_eq!((model.size.vocabulary, model.size.dimensions), (29528, 128));
    assert_eq!(model.max_tokens, 1_000_000);
    for text in ["a", ".", "A a. a"] {
        let error = model.tokens(text).unwrap_err().to_string();
        assert!(error.contains("vectors are zero"), "`{text}`: {error}");
    }
    assert!(model.tokens("a cat.").is_ok());
    let graph = fs::read(dir.join("model.onnx")).unwrap();
    let mut builder = crate::session::builder(&runtime, 1).unwrap();
    let mut session = builder.commit_from_memory(&graph).unwrap();
    let (_, [texts, _]) = sts(&data);
    for text in &texts {
        let encoding = model.tokens(text).unwrap();
        let ids: Vec<i64> = encoding.input_ids.iter().map(|&id| id.into()).collect();
        let mask = vec![1i64; ids.len()];
        let shape = [1, ids.len()];
        let inputs = ort::inputs![
            "input_ids" => TensorRef::from_array_view((shape, &ids[..])).unwrap(),
            "attention_mask" => TensorRef::from_array_view((shape, &mask[..])).unwrap(),
        ];
        let outputs = session.run(inputs).unwrap();
        let (_, expected) = outputs["sentence_embedding"]
            .try_extract_tensor::<f32>()
            .unwrap();
        let found = unit(&model.run(&[encoding])[0]);
        let cosine = dot(&found, &unit(expected));
        assert!(cosine >= 0.99999, "`{text}`: cosine {cosine}");
    }
}
