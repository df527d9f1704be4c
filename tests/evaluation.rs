//! Published scores, reproduced through the service: the numbers that people choose models by.
//! Needs `../shared/data`, which is not part of the project; says so and steps aside without it.

use std::{collections::HashMap, fs, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{ranking::ndcg_at_10, server::Server};

/// nDCG@10 that MTEB publishes for all-MiniLM-L6-v2 on SciFact, and how far off we may be.
const SCIFACT_PUBLISHED: f64 = 0.64508;
const SCIFACT_TOLERANCE: f64 = 0.003;

fn scifact() -> Option<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/eval/scifact");
    if dir.is_dir() {
        return Some(dir);
    }
    println!("stepping aside: `{}` is not here", dir.display());
    None
}

/// Ids and texts of a JSON-lines file; a document's text is its title and its text.
fn read(path: &PathBuf) -> (Vec<String>, Vec<String>) {
    let text = |row: &Value| match row["title"].as_str() {
        Some(title) => format!("{title} {}", row["text"].as_str().unwrap()),
        None => row["text"].as_str().unwrap().to_owned(),
    };
    let lines = fs::read_to_string(path).unwrap();
    let rows = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| (row["_id"].as_str().unwrap().to_owned(), text(&row)))
        .unzip()
}

/// Query → its judged documents.
fn judgements(path: &PathBuf) -> HashMap<String, HashMap<String, f64>> {
    let mut judged: HashMap<String, HashMap<String, f64>> = HashMap::new();
    for line in fs::read_to_string(path).unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let score = fields[2].parse().unwrap();
        judged
            .entry(fields[0].into())
            .or_default()
            .insert(fields[1].into(), score);
    }
    judged
}

fn embed(texts: &[String]) -> Vec<Vec<f64>> {
    let client = Server::shared().client();
    let request = |texts: &[String]| {
        let body = json!({"model": "minilm", "input": texts});
        let answer = client.post("/v1/embeddings", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.vectors()
    };
    texts.chunks(512).flat_map(request).collect()
}

#[test]
fn minilm_reaches_its_published_score_on_scifact() {
    let Some(dir) = scifact() else { return };
    let (documents, texts) = read(&dir.join("corpus.jsonl"));
    let (queries, questions) = read(&dir.join("queries.jsonl"));
    let judged = judgements(&dir.join("qrels.tsv"));
    let vectors = embed(&texts);
    let mut scores = Vec::new();
    for (query, question) in queries.iter().zip(embed(&questions)) {
        let Some(judged) = judged.get(query) else {
            continue;
        };
        let similarity = |document: &Vec<f64>| -> f64 {
            document.iter().zip(&question).map(|(a, b)| a * b).sum()
        };
        let similarities: Vec<f64> = vectors.iter().map(similarity).collect();
        let place = |(place, id): (usize, &String)| Some((place, *judged.get(id)?));
        let gains = documents.iter().enumerate().filter_map(place).collect();
        scores.push(ndcg_at_10(&similarities, &gains));
    }
    assert_eq!(scores.len(), 300, "queries with a judgement");
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    println!("SciFact, all-MiniLM-L6-v2: nDCG@10 {mean:.5}, published {SCIFACT_PUBLISHED}");
    assert!(
        (mean - SCIFACT_PUBLISHED).abs() <= SCIFACT_TOLERANCE,
        "nDCG@10 is {mean}"
    );
}
