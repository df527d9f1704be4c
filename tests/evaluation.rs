//! Published scores, reproduced through the service: the numbers that people choose models by.
//! Needs `../shared/data`, which is not part of the project; says so and steps aside without it.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::support::{minilm, ranking::ndcg_at_10, server::Server};

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

fn embed(server: &Server, texts: &[String]) -> Vec<Vec<f64>> {
    let client = server.client();
    let request = |texts: &[String]| {
        let body = json!({"model": "minilm", "input": texts});
        let answer = client.post("/v1/embeddings", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.vectors()
    };
    // Few enough for the request's time limit on a machine that other tests keep busy.
    texts.chunks(128).flat_map(request).collect()
}

#[test]
fn minilm_reaches_its_published_score_on_scifact() {
    let Some(dir) = scifact() else { return };
    let mean = score(Server::shared(), &Set::read(&dir));
    println!("SciFact, all-MiniLM-L6-v2: nDCG@10 {mean:.5}, published {SCIFACT_PUBLISHED}");
    assert!(
        (mean - SCIFACT_PUBLISHED).abs() <= SCIFACT_TOLERANCE,
        "nDCG@10 is {mean}"
    );
}

/// The judged documents and every eighth of the others, so that it does not take minutes: what is
/// compared are scores on the same documents.
#[test]
fn narrow_types_find_what_32_bits_find() {
    let Some(dir) = scifact() else { return };
    let set = Set::read(&dir).sample(8);
    let minilm = format!("minilm={}", minilm().display());
    let exact = score(Server::shared(), &set);
    for (dtype, tolerance) in [("bf16", 0.002), ("int8", 0.005)] {
        let server = Server::start(&[("model", &minilm), ("dtype", dtype)]);
        let found = score(&server, &set);
        println!("SciFact, a sample: nDCG@10 {found:.5} in {dtype}, {exact:.5} in fp32");
        assert!(
            (found - exact).abs() <= tolerance,
            "{dtype}: {found}, not {exact}"
        );
    }
}

/// What is searched, and for what.
struct Set {
    documents: Vec<String>,
    texts: Vec<String>,
    queries: Vec<String>,
    questions: Vec<String>,
    judged: HashMap<String, HashMap<String, f64>>,
}

impl Set {
    fn read(dir: &Path) -> Self {
        let (documents, texts) = read(&dir.join("corpus.jsonl"));
        let (queries, questions) = read(&dir.join("queries.jsonl"));
        Self {
            documents,
            texts,
            queries,
            questions,
            judged: judgements(&dir.join("qrels.tsv")),
        }
    }

    fn sample(mut self, every: usize) -> Self {
        let judged: HashSet<&String> = self.judged.values().flat_map(HashMap::keys).collect();
        let all = self.documents.into_iter().zip(self.texts).enumerate();
        let kept = all.filter(|(at, (id, _))| at.is_multiple_of(every) || judged.contains(id));
        (self.documents, self.texts) = kept.map(|(_, document)| document).unzip();
        self
    }
}

/// The mean nDCG@10 of a server's `minilm`.
fn score(server: &Server, set: &Set) -> f64 {
    let documents = &set.documents;
    let vectors = embed(server, &set.texts);
    let mut scores = Vec::new();
    for (query, question) in set.queries.iter().zip(embed(server, &set.questions)) {
        let Some(judged) = set.judged.get(query) else {
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
    scores.iter().sum::<f64>() / scores.len() as f64
}
