//! Request/response pairs in `tests/golden/`, a folder for each dialect: what goes over the wire,
//! to be read and reviewed. `UPDATE_GOLDEN=1 cargo test` writes the responses anew.

use std::{fs, path::PathBuf};

use serde_json::json;

use super::*;

/// Headers that belong to an answer and do not depend on the clock.
const HEADERS: &[&str] = &["content-type", "retry-after", "x-retort-truncated"];

#[tokio::test]
async fn requests_get_the_responses_on_record() {
    check_all("openai", &Server::new()).await;
}

#[tokio::test]
async fn rerankings_are_those_on_record() {
    check_all("rerank", &Server::family()).await;
}

#[tokio::test]
async fn managing_models_is_as_on_record() {
    check_all("xinference", &Server::family()).await;
}

#[tokio::test]
async fn the_other_dialects_answer_as_on_record() {
    let server = Server::family();
    for dialect in [
        "tei",
        "vllm",
        "llama_cpp",
        "cohere",
        "infinity",
        "jina",
        "localai",
        "ollama",
    ] {
        check_all(dialect, &server).await;
    }
}

/// Compares all pairs of a folder with what the server answers now; the pairs with those answers.
pub async fn check_all(folder: &str, server: &Server) -> Vec<(PathBuf, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no pairs in `{}`", folder.display());
    let mut pairs = Vec::new();
    for file in files {
        let mut pair: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let response = response_to(&pair["request"], server).await;
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            pair["response"] = response;
            fs::write(&file, format!("{pair:#}\n")).unwrap();
        } else {
            assert_eq!(pair["response"], response, "{}", file.display());
        }
        pairs.push((file, pair));
    }
    pairs
}

async fn response_to(request: &Value, server: &Server) -> Value {
    let method = request["method"].as_str().unwrap();
    let mut sent = Request::builder()
        .method(method)
        .uri(request["path"].as_str().unwrap());
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        sent = sent.header(name, value.as_str().unwrap());
    }
    let body = request
        .get("body")
        .map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let answer = server.send(sent.body(body).unwrap()).await;
    let mut body = answer.json();
    settle(&mut body);
    // Versions of formats, deeper inside, stay.
    for key in ["version", "build_info"] {
        if body.get(key).is_some_and(Value::is_string) {
            body[key] = "of this program".into();
        }
    }
    round(&mut body);
    let headers: serde_json::Map<String, Value> = HEADERS
        .iter()
        .filter(|name| !answer.header(name).is_empty())
        .map(|name| ((*name).to_owned(), answer.header(name).into()))
        .collect();
    json!({"status": answer.status.as_u16(), "headers": headers, "body": body})
}

/// Replaces what differs from run to run by what it is.
fn settle(json: &mut Value) {
    match json {
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match key.as_str() {
                    "created"
                    | "created_ts"
                    | "instance_created_ts"
                    | "modified_at"
                    | "expires_at"
                    | "unix" => *value = "the time".into(),
                    "total_duration" => *value = "nanoseconds".into(),
                    "id" if is_made_up(value) => *value = "made up".into(),
                    _ => settle(value),
                }
            }
        }
        _ => {}
    }
}

/// Whether an id ends in the digits of a UUID.
fn is_made_up(id: &Value) -> bool {
    let digits = id.as_str().and_then(|id| id.rsplit('-').next());
    digits.is_some_and(|digits| digits.len() == 32)
}

/// Numbers to four places: machines may differ in the last digits of a norm.
fn round(json: &mut Value) {
    match json {
        Value::Array(items) => items.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        Value::Number(number) if number.is_f64() => {
            *json = number.as_f64().map(|x| (x * 1e4).round() / 1e4).into();
        }
        _ => {}
    }
}
