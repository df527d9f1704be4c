//! `/v1/rerank` and its aliases, and `/v1/score`: every form of every field.

use serde_json::json;

use super::*;

const DOCUMENTS: [&str; 4] = ["the rain", "the river and the boat", "a boat", "the rain"];

fn body() -> Value {
    json!({"model": "judge", "query": "the river", "documents": DOCUMENTS})
}

fn with(mut body: Value, key: &str, value: Value) -> Value {
    body[key] = value;
    body
}

/// Place and score of each result.
fn ranking(answer: &Value) -> Vec<(u64, f64)> {
    let results = answer["results"].as_array().expect("results");
    let pair = |result: &Value| {
        let score = result["relevance_score"].as_f64().expect("a number");
        (result["index"].as_u64().expect("an index"), score)
    };
    results.iter().map(pair).collect()
}

#[tokio::test]
async fn what_xinferences_client_sends_gets_what_it_reads() {
    let server = Server::family();
    let mut sent = body();
    for null in ["top_n", "max_chunks_per_doc", "return_len"] {
        sent[null] = Value::Null;
    }
    sent["return_documents"] = true.into();
    sent["kwargs"] = "{}".into();
    let answer = server.ok("/v1/rerank", &sent).await;
    let found = ranking(&answer);
    let places: Vec<u64> = found.iter().map(|(place, _)| *place).collect();
    // Both copies of a text are there, in the order of the request.
    assert_eq!(places, [1, 0, 3, 2]);
    assert_eq!(found[1].1, found[2].1);
    assert!(found.iter().all(|(_, score)| (0.0..=1.0).contains(score)));
    assert_eq!(
        answer["results"][0]["document"],
        json!({"text": DOCUMENTS[1]})
    );
    assert_eq!(answer["model"], "judge");
    let nulls =
        json!({"api_version": null, "billed_units": null, "tokens": null, "warnings": null});
    assert_eq!(answer["meta"], nulls);
    assert!(answer["usage"]["total_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_score_does_not_depend_on_the_others() {
    let server = Server::family();
    let all = ranking(&server.ok("/v1/rerank", &body()).await);
    for (place, text) in DOCUMENTS.iter().enumerate() {
        let alone = with(body(), "documents", json!([text]));
        let alone = ranking(&server.ok("/v1/rerank", &alone).await)[0].1;
        let among = all
            .iter()
            .find(|(index, _)| *index == place as u64)
            .unwrap()
            .1;
        assert_eq!(alone, among, "{text}");
    }
}

#[tokio::test]
async fn every_path_and_every_form_of_document_ranks_alike() {
    let server = Server::family();
    let expected = ranking(&server.ok("/v1/rerank", &body()).await);
    for path in [
        "/rerank",
        "/v1/reranking",
        "/reranking",
        "/v2/rerank",
        "/api/rerank",
        "/v1/v1/rerank/",
    ] {
        assert_eq!(ranking(&server.ok(path, &body()).await), expected, "{path}");
    }
    let objects: Vec<Value> = DOCUMENTS.iter().map(|text| json!({"text": text})).collect();
    let parts = |text: &&str| json!({"content": [{"type": "text", "text": text}]});
    let parts: Vec<Value> = DOCUMENTS.iter().map(parts).collect();
    for documents in [json!(objects), json!(parts)] {
        let sent = with(body(), "documents", documents);
        assert_eq!(ranking(&server.ok("/v1/rerank", &sent).await), expected);
    }
    let sent = with(body(), "query", json!({"text": "the river"}));
    assert_eq!(ranking(&server.ok("/v1/rerank", &sent).await), expected);
    // Without a name, the reranker is meant although it is not the first model.
    let sent = with(body(), "model", Value::Null);
    let answer = server.ok("/v1/rerank", &sent).await;
    assert_eq!(
        (ranking(&answer), &answer["model"]),
        (expected, &json!("judge"))
    );
}

#[tokio::test]
async fn top_n_cuts_after_sorting() {
    let server = Server::family();
    for (top_n, count) in [
        (json!(1), 1),
        (json!(0), 4),
        (json!(99), 4),
        (json!(null), 4),
    ] {
        let answer = server.ok("/v1/rerank", &with(body(), "top_n", top_n)).await;
        let found = ranking(&answer);
        assert_eq!((found.len(), found[0].0), (count, 1));
    }
}

#[tokio::test]
async fn raw_scores_are_logits_and_scores_their_sigmoid() {
    let server = Server::family();
    let scores = ranking(&server.ok("/v1/rerank", &body()).await);
    for (key, value) in [
        ("raw_scores", json!(true)),
        ("use_activation", json!(false)),
        ("activation", json!(false)),
        ("kwargs", json!("{\"raw_scores\": true}")),
        ("kwargs", json!({"raw_scores": true})),
    ] {
        let raw = ranking(&server.ok("/v1/rerank", &with(body(), key, value)).await);
        for ((place, score), (raw_place, logit)) in scores.iter().zip(&raw) {
            assert_eq!(place, raw_place);
            assert!((score - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-6, "{key}");
        }
    }
}

#[tokio::test]
async fn documents_come_back_only_when_asked_for() {
    let server = Server::family();
    for silent in [json!(false), json!(null)] {
        let sent = with(body(), "return_documents", silent);
        let answer = server.ok("/v1/rerank", &sent).await;
        assert!(answer["results"][0].get("document").is_none());
    }
    let sent = with(body(), "return_documents", json!(true));
    let plain = server.ok("/api/rerank", &sent).await;
    assert_eq!(plain["results"][0]["document"], DOCUMENTS[1]);
}

#[tokio::test]
async fn tei_gets_a_bare_list_and_errors_of_its_own() {
    let server = Server::family();
    let sent = json!({"query": "the river", "texts": DOCUMENTS, "return_text": true});
    let answer = server.post("/rerank", sent.to_string()).await;
    let list = answer.json();
    assert_eq!(list.as_array().unwrap().len(), 4);
    assert_eq!(
        (&list[0]["index"], &list[0]["text"]),
        (&json!(1), &json!(DOCUMENTS[1]))
    );
    assert!(list[0]["score"].as_f64().unwrap() > list[3]["score"].as_f64().unwrap());
    let silent = json!({"query": "the river", "texts": DOCUMENTS, "raw_scores": true});
    let list = server.ok("/rerank", &silent).await;
    assert!(list[0].get("text").is_none() && list[3]["score"].as_f64().unwrap() < 0.0);
    assert!(
        server
            .metrics()
            .contains(r#"task="rerank",dialect="tei",model="judge""#)
    );
    let refused = server.post("/rerank", r#"{"query":"a","texts":[]}"#).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error_type"], "Empty");
    assert!(refused.json()["error"].is_string());
    let refused = server
        .post("/api/rerank", r#"{"query":"a","documents":[]}"#)
        .await;
    assert_eq!(refused.status, 400);
    assert!(refused.json()["error"].is_string());
}

#[tokio::test]
async fn wrong_bodies_are_refused_in_words() {
    let server = Server::family();
    for (key, value, word) in [
        ("query", json!(null), "`query` is missing"),
        (
            "query",
            json!(5),
            "expected a text or an object with `text`",
        ),
        ("documents", json!(null), "`documents` is missing"),
        ("documents", json!([]), "empty list"),
        ("documents", json!(7), "expected a list"),
        ("documents", json!([1, 2]), "documents[0]"),
        ("documents", json!(["a", null]), "documents[1]"),
        ("top_n", json!(-1), "at least 0"),
        ("kwargs", json!("{"), "kwargs"),
        ("truncation_direction", json!("up"), "`Right`"),
        ("weights", json!([1, 0, 0]), "several kinds of vectors"),
        ("max_tokens_per_doc", json!(0), "at least 1"),
    ] {
        let detail = server
            .post("/v1/rerank", with(body(), key, value).to_string())
            .await
            .error(400);
        assert!(detail.contains(word), "{key}: {detail}");
    }
    let unknown = with(body(), "model", json!("nobody"));
    server
        .post("/v1/rerank", unknown.to_string())
        .await
        .error(404);
}

#[tokio::test]
async fn a_model_is_asked_only_for_what_it_can() {
    let server = Server::family();
    let answer = server
        .post("/v1/embeddings", r#"{"model":"judge","input":"a"}"#)
        .await;
    let detail = answer.error(400);
    assert!(
        detail.contains("is a reranker and cannot embed; it can rerank"),
        "{detail}"
    );
    assert_eq!(answer.json()["error"]["code"], "unsupported_task");
    let detail = server
        .post(
            "/v1/rerank",
            with(body(), "model", json!("nli")).to_string(),
        )
        .await
        .error(400);
    assert!(
        detail.contains("cannot rerank; it can classify"),
        "{detail}"
    );
}

#[tokio::test]
async fn long_documents_are_cut_or_read_in_chunks() {
    let server = Server::family();
    // What matters is at the end of a long document.
    let long = format!("{}{}", "a boat and rain ".repeat(12), "the river");
    let sent = with(body(), "documents", json!([long]));
    let cut = server.post("/v1/rerank", sent.to_string()).await;
    assert!(
        cut.header("x-retort-truncated")
            .starts_with("1; tokens_cut=")
    );
    let cut = cut.json();
    assert!(cut["usage"]["details"][0]["tokens_cut"].as_u64().unwrap() > 0);
    let chunked = server
        .ok("/v1/rerank", &with(sent.clone(), "chunk", json!(true)))
        .await;
    let detail = &chunked["usage"]["details"][0];
    assert_eq!(detail["tokens_cut"], 0);
    assert!(detail["chunks"].as_u64().unwrap() > 1);
    assert!(ranking(&chunked)[0].1 > ranking(&cut)[0].1);
    let two = with(sent.clone(), "max_chunks_per_doc", json!(2));
    let two = server.ok("/v1/rerank", &two).await;
    assert_eq!(two["usage"]["details"][0]["chunks"], 2);
    assert!(two["usage"]["details"][0]["tokens_cut"].as_u64().unwrap() > 0);
    let start = with(sent.clone(), "truncation_direction", json!("Left"));
    assert!(ranking(&server.ok("/v1/rerank", &start).await)[0].1 > ranking(&cut)[0].1);
    let refused = with(sent, "truncate", json!("NONE"));
    let answer = server.post("/v1/rerank", refused.to_string()).await;
    assert!(answer.error(400).contains("document 0"));
    assert_eq!(answer.json()["error"]["param"], "documents");
    let few = with(body(), "max_tokens_per_doc", json!(2));
    let few = server.ok("/v1/rerank", &few).await;
    assert!(few["usage"]["details"][1]["tokens_cut"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn an_instruction_goes_before_the_query_of_a_plain_cross_encoder() {
    let server = Server::family();
    let told = with(body(), "instruction", json!("boat"));
    let told = ranking(&server.ok("/v1/rerank", &told).await);
    let plain = ranking(
        &server
            .ok(
                "/v1/rerank",
                &with(body(), "query", json!("boat the river")),
            )
            .await,
    );
    assert_eq!(told, plain);
}

#[tokio::test]
async fn the_account_of_documents_comes_when_asked_for() {
    let server = Server::family();
    let sent = with(
        with(body(), "usage_details", json!(true)),
        "return_len",
        json!(true),
    );
    let answer = server
        .ok("/v1/rerank", &with(sent, "top_n", json!(1)))
        .await;
    let usage = &answer["usage"];
    let details = usage["details"].as_array().unwrap();
    let sum: u64 = details.iter().map(|d| d["tokens"].as_u64().unwrap()).sum();
    assert_eq!((details.len(), &json!(sum)), (4, &usage["total_tokens"]));
    let tokens = json!({"input_tokens": sum, "output_tokens": sum});
    assert_eq!(answer["meta"]["tokens"], tokens);
}

/// The cosine of two vectors that `/v1/embeddings` gave.
fn cosine(a: &Value, b: &Value) -> f64 {
    let numbers = |v: &Value| -> Vec<f64> {
        let list = v.as_array().unwrap().iter();
        list.map(|x| x.as_f64().unwrap()).collect()
    };
    numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn an_embedding_model_ranks_by_the_cosine_of_its_prompted_vectors() {
    let server = Server::family();
    let embed = async |text: &str, input_type: &str| {
        let sent = json!({"model": "fake", "input": text, "input_type": input_type});
        server.ok("/v1/embeddings", &sent).await["data"][0]["embedding"].clone()
    };
    let query = embed("the river", "query").await;
    let sent = with(
        with(body(), "model", json!("fake")),
        "raw_scores",
        json!(true),
    );
    let raw = ranking(&server.ok("/v1/rerank", &sent).await);
    let unit = ranking(
        &server
            .ok("/v1/rerank", &with(sent, "raw_scores", json!(false)))
            .await,
    );
    for ((place, raw), (_, unit)) in raw.iter().zip(&unit) {
        let document = embed(DOCUMENTS[*place as usize], "passage").await;
        assert!((raw - cosine(&query, &document)).abs() < 1e-5);
        assert!((unit - raw.max(0.0)).abs() < 1e-6);
    }
}

#[tokio::test]
async fn three_kinds_of_vectors_are_weighed() {
    let server = Server::family();
    let score = async |weights: Value| {
        let sent = with(with(body(), "model", json!("m3")), "weights", weights);
        let mut found = ranking(&server.ok("/v1/rerank", &sent).await);
        found.sort_by_key(|(place, _)| *place);
        let scores: Vec<f64> = found.into_iter().map(|(_, score)| score).collect();
        scores
    };
    let dense = score(json!({"dense": 1})).await;
    let colbert = score(json!([0, 0, 2])).await;
    let mixed = score(json!({"dense": 0.5, "colbert": 0.5})).await;
    for ((dense, colbert), mixed) in dense.iter().zip(&colbert).zip(&mixed) {
        // Each part may be below 0 where the mix is not.
        if *dense > 0.0 {
            assert!((mixed - (dense + colbert) / 2.0).abs() < 1e-5);
        }
    }
    assert_ne!(score(Value::Null).await, mixed);
    for (weights, scale, word) in [
        (json!([0, 1, 0]), false, "raw_scores"),
        (json!([0, 0, 0]), true, "one of them more"),
        (json!([-1, 1, 1]), true, "at least 0"),
    ] {
        let sent = with(with(body(), "model", json!("m3")), "weights", weights);
        let sent = with(sent, "raw_scores", json!(scale)).to_string();
        let detail = server.post("/v1/rerank", sent).await.error(400);
        assert!(detail.contains(word), "{detail}");
    }
    let lexical = with(
        with(body(), "model", json!("m3")),
        "weights",
        json!([0, 1, 0]),
    );
    let lexical = server
        .ok("/v1/rerank", &with(lexical, "raw_scores", json!(true)))
        .await;
    assert_eq!(ranking(&lexical)[0].0, 1);
    let lacking = with(
        with(body(), "model", json!("fake")),
        "weights",
        json!({"sparse": 1}),
    );
    let detail = server
        .post("/v1/rerank", lacking.to_string())
        .await
        .error(400);
    assert!(detail.contains("gives no sparse vectors"), "{detail}");
}

#[tokio::test]
async fn pairs_are_scored_in_the_order_of_the_request() {
    let server = Server::family();
    let ranked = ranking(&server.ok("/v1/rerank", &body()).await);
    for (one, many) in [
        ("text_1", "text_2"),
        ("queries", "documents"),
        ("queries", "items"),
        ("data_1", "data_2"),
    ] {
        let sent = json!({"model": "judge", one: "the river", many: DOCUMENTS});
        let answer = server.ok("/v1/score", &sent).await;
        assert_eq!(
            (&answer["object"], &answer["usage"]["completion_tokens"]),
            (&json!("list"), &json!(0))
        );
        for (place, score) in &ranked {
            let datum = &answer["data"][*place as usize];
            assert_eq!(
                (&datum["index"], datum["score"].as_f64()),
                (&json!(place), Some(*score))
            );
            assert_eq!(datum["object"], "score");
        }
    }
    let pairs = json!({"text_1": ["the river", "a boat"], "text_2": ["a boat", "a boat"]});
    let data = server.ok("/score", &pairs).await["data"].clone();
    assert!(data[1]["score"].as_f64() > data[0]["score"].as_f64());
    let vectors = with(pairs.clone(), "model", json!("m3"));
    assert_eq!(
        server.ok("/score", &vectors).await["data"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    for wrong in [
        json!({"text_1": ["a", "b"], "text_2": ["a"]}),
        json!({"text_1": "a", "text_2": []}),
        json!({"text_1": "a"}),
    ] {
        server.post("/v1/score", wrong.to_string()).await.error(400);
    }
}

#[tokio::test]
async fn the_operator_may_have_documents_returned_unless_a_request_says() {
    let server = Server::family_with(ApiSettings {
        return_documents: true,
        ..ApiSettings::default()
    });
    let body = json!({"model": "judge", "query": "a", "documents": ["a"]});
    let document = |answer: &Value| answer["results"][0].get("document").cloned();
    for path in ["/v1/rerank", "/rerank"] {
        let answer = server.ok(path, &body).await;
        assert_eq!(document(&answer), Some(json!({"text": "a"})), "{path}");
    }
    let mut refused = body.clone();
    refused["return_documents"] = false.into();
    assert_eq!(document(&server.ok("/v1/rerank", &refused).await), None);
    let mut silent = body.clone();
    silent["return_documents"] = Value::Null;
    silent["kwargs"] = "{}".into();
    assert!(document(&server.ok("/v1/rerank", &silent).await).is_some());
    // These protocols say themselves what is returned.
    for path in ["/v2/rerank", "/api/rerank", "/infinity/rerank"] {
        assert_eq!(document(&server.ok(path, &body).await), None, "{path}");
    }
}
