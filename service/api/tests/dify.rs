//! What Dify's plugins send, on record in `tests/golden/dify/<plugin>/`, and what each reads from
//! the answer: a pair's `reads` lists JSON pointers with what has to be there.

use std::fs;

use super::*;

/// The plugins whose calls are on record.
const PLUGINS: [&str; 9] = [
    "cohere",
    "gpustack",
    "huggingface_tei",
    "jina",
    "localai",
    "ollama",
    "openai_api_compatible",
    "siliconflow",
    "xinference",
];

#[tokio::test]
async fn every_plugin_finds_what_it_reads() {
    let server = Server::family();
    for plugin in PLUGINS {
        for (file, pair) in golden::check_all(&format!("dify/{plugin}"), &server).await {
            let body = &pair["response"]["body"];
            let reads = pair["reads"].as_object().expect("`reads`");
            assert!(!reads.is_empty(), "{}", file.display());
            for (pointer, expected) in reads {
                let found = body.pointer(pointer);
                let fits = fits(found, expected.as_str().expect("a word"));
                let file = file.display();
                assert!(fits, "{file}: `{pointer}` is {found:?}, not {expected}");
            }
        }
    }
}

/// Whether what was found is what a plugin needs.
fn fits(found: Option<&Value>, expected: &str) -> bool {
    let Some(found) = found else {
        // A null is not absent: some plugins test for the key and then look into it.
        return expected == "absent";
    };
    match expected {
        "text" => found.as_str().is_some_and(|text| !text.is_empty()),
        "yes or no" => found.is_boolean(),
        "object" => found.as_object().is_some_and(|fields| !fields.is_empty()),
        "count" => found.as_u64().is_some_and(|count| count > 0),
        "index" => found.is_u64(),
        "unit score" => found
            .as_f64()
            .is_some_and(|score| (0.0..=1.0).contains(&score)),
        "vector" => found.as_array().is_some_and(|numbers| {
            let norm: f64 = numbers
                .iter()
                .filter_map(Value::as_f64)
                .map(|x| x * x)
                .sum();
            // Dify divides by the norm. Numbers on record have four places.
            numbers.iter().all(Value::is_number) && (norm - 1.0).abs() < 1e-2
        }),
        "vectors" => found
            .as_array()
            .is_some_and(|rows| rows.iter().all(|row| fits(Some(row), "vector"))),
        "texts" => found
            .as_array()
            .is_some_and(|all| !all.is_empty() && all.iter().all(Value::is_string)),
        "counts" => found
            .as_array()
            .is_some_and(|all| !all.is_empty() && all.iter().all(Value::is_u64)),
        _ => false,
    }
}

#[test]
fn every_folder_is_replayed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dify");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, PLUGINS);
}

#[test]
fn the_words_of_the_records_can_fail() {
    let no = [
        ("/missing", "text"),
        ("/null", "absent"),
        ("/zero", "count"),
        ("/zero", "yes or no"),
        ("/null", "index"),
        ("/logit", "unit score"),
        ("/list", "vector"),
        ("/list", "texts"),
        ("/list", "object"),
        ("/zero", "no such word"),
    ];
    let body = serde_json::json!({"null": null, "zero": 0, "logit": 3.5, "list": [0.0, 0.1]});
    for (pointer, word) in no {
        assert!(!fits(body.pointer(pointer), word), "{pointer} {word}");
    }
    assert!(fits(None, "absent"));
}
