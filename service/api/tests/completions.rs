//! Texts to be gone on with, and chats as Ollama's clients have them.

use serde_json::json;

use super::{
    chat::{events, saying, speaking},
    *,
};
use crate::engine::generate::fake::{Rule, ids};

#[tokio::test]
async fn texts_are_gone_on_with() {
    let server = saying("Hello");
    let body = json!({
        "model": "chat", "prompt": ["one ", "two "], "echo": true, "n": 2, "temperature": 0,
    });
    let answer = server.ok("/v1/completions", &body).await;
    assert_eq!(answer["object"], "text_completion");
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<_> = choices
        .iter()
        .map(|c| c["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["one Hello", "one Hello", "two Hello", "two Hello"]);
    let mut streamed = body;
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({"include_usage": true});
    let all = events(&server.post("/completions", streamed.to_string()).await);
    for (index, expected) in texts.iter().enumerate() {
        let of = all.iter().filter(|e| e["choices"][0]["index"] == index);
        let text: String = of
            .map(|e| e["choices"][0]["text"].as_str().unwrap())
            .collect();
        assert_eq!(text, **expected);
    }
    assert_eq!(all.last().unwrap()["usage"], answer["usage"]);
    let ids = json!({"model": "chat", "prompt": [5, 6, 7], "max_tokens": 1});
    let answer = server.ok("/v1/completions", &ids).await;
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    for (status, more) in [
        (400, json!({"prompt": []})),
        (400, json!({"prompt": [999_999]})),
        (400, json!({"logprobs": -1})),
        (404, json!({"model": "other"})),
        (400, json!({"model": "fake"})),
    ] {
        let mut body = json!({"model": "chat", "prompt": "a"});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        server
            .post("/v1/completions", body.to_string())
            .await
            .error(status);
    }
}

#[tokio::test]
async fn a_prompt_that_fills_the_context_is_told_by_its_field() {
    let server = saying("Hello");
    let long = "the rain ".repeat(600);
    let prompt = json!({"model": "chat", "prompt": ["short", long]});
    let messages = json!({"model": "chat", "messages": [{"role": "user", "content": long}]});
    for (path, body, field) in [
        ("/v1/completions", prompt, "prompt"),
        ("/v1/chat/completions", messages, "messages"),
    ] {
        let answer = server.post(path, body.to_string()).await;
        answer.error(400);
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "context_length_exceeded");
        assert_eq!(error["param"], field);
    }
}

#[tokio::test]
async fn the_ids_of_a_prompt_are_read_only_to_be_echoed() {
    let server = saying("Hello");
    let mut body = json!({"model": "chat", "prompt": [[5, 6], [7]], "temperature": 0});
    let text = |answer: &Value, index: usize| {
        answer["choices"][index]["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let answer = server.ok("/v1/completions", &body).await;
    assert_eq!(text(&answer, 1), "Hello");
    body["echo"] = true.into();
    let echoed = server.ok("/v1/completions", &body).await;
    assert!(text(&echoed, 0).ends_with("Hello") && text(&echoed, 0).len() > "Hello".len());
    assert_eq!(echoed["usage"], answer["usage"]);
}

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let text = answer.text();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[tokio::test]
async fn ollamas_clients_chat() {
    let server = saying("<think>hm</think>Hello");
    let mut body = json!({
        "model": "chat:latest", "messages": [{"role": "user", "content": "hi"}],
        "options": {"temperature": 0, "num_predict": -1, "num_ctx": 2048},
    });
    let all = lines(&server.post("/api/chat", body.to_string()).await);
    let (last, steps) = all.split_last().unwrap();
    let content = steps
        .iter()
        .map(|line| line["message"]["content"].as_str().unwrap());
    assert_eq!(content.collect::<String>(), "Hello");
    let thoughts = steps
        .iter()
        .filter_map(|line| line["message"]["thinking"].as_str());
    assert_eq!(thoughts.collect::<String>(), "hm");
    assert!(
        steps
            .iter()
            .all(|line| line["done"] == false && line["model"] == "chat:latest")
    );
    assert_eq!(last["done"], true);
    assert_eq!(last["done_reason"], "stop");
    assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    assert!(last["eval_count"].as_u64().unwrap() > 2 && last["total_duration"].is_u64());
    assert!(last["prompt_eval_count"].as_u64().unwrap() > 2);
    body["stream"] = false.into();
    let whole = server.ok("/api/chat", &body).await;
    assert_eq!(whole["message"]["content"], "Hello");
    assert_eq!(whole["done"], true);

    let mut body = json!({"model": "chat", "prompt": "hi", "options": {"temperature": 0}});
    let all = lines(&server.post("/api/generate", body.to_string()).await);
    let text = all.iter().map(|line| line["response"].as_str().unwrap());
    assert_eq!(text.collect::<String>(), "Hello");
    assert!(all.last().unwrap()["context"].is_array());
    body["stream"] = false.into();
    body["system"] = "be brief".into();
    let templated = server.ok("/api/generate", &body).await;
    assert_eq!(templated["thinking"], "hm");
    body["raw"] = true.into();
    let raw = server.ok("/api/generate", &body).await;
    assert_eq!(raw["response"], "<think>hm</think>Hello");
    let count = |answer: &Value| answer["prompt_eval_count"].as_u64().unwrap();
    assert!(count(&raw) < count(&templated));
}

#[tokio::test]
async fn what_ollamas_clients_ask_in_vain_is_told() {
    let server = saying("Hello");
    let body = |more: &Value| {
        let mut body = json!({"model": "chat", "prompt": "hi", "stream": false});
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        body
    };
    let empty = body(&json!({"images": [], "suffix": ""}));
    server.ok("/api/generate", &empty).await;
    for (more, sentence) in [
        (
            json!({"images": ["iVBORw0KGgo="]}),
            "`images` has 1 of them",
        ),
        (json!({"suffix": "}"}), "`suffix` is not supported"),
    ] {
        let answer = server.post("/api/generate", body(&more).to_string()).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        let error = answer.json();
        let told = error["error"].as_str().unwrap();
        assert!(told.starts_with(sentence), "{told}");
    }
}

#[tokio::test]
async fn nothing_said_to_ollama_loads_or_unloads() {
    for (path, key) in [("/api/chat", "message"), ("/api/generate", "response")] {
        let server = saying("x");
        let body = json!({"model": "chat", "keep_alive": "5m"});
        server.ok(path, &body).await;
        let kept = server.fleet.model("chat").unwrap().keep_alive;
        let five = Duration::from_secs(300);
        assert_eq!(kept, crate::keep_alive::KeepAlive::For(five));
        let answer = server.ok(path, &json!({"model": "chat"})).await;
        assert_eq!(answer["done_reason"], "load");
        assert!(answer.get(key).is_some() && answer["done"] == true);
        let body = json!({"model": "chat", "keep_alive": 0});
        let answer = server.ok(path, &body).await;
        assert_eq!(answer["done_reason"], "unload");
        let missing = server.post(path, r#"{"model":"x"}"#).await;
        assert_eq!(missing.status, 404, "{}", missing.text());
        let sentence = missing.json()["error"].as_str().unwrap().to_owned();
        assert!(sentence.starts_with("model 'x' not found"), "{sentence}");
    }
}

#[tokio::test]
async fn a_model_that_generates_is_listed_as_such() {
    let server = saying("x");
    let record = server.get("/v1/models/chat").await.json();
    for (key, value) in [
        ("model_type", json!("LLM")),
        ("model_ability", json!(["generate", "chat", "tools"])),
        ("tasks", json!(["generate"])),
        ("max_model_len", json!(512)),
        ("context_length", json!(512)),
        ("model_family", json!("fake")),
        ("dimensions", json!(null)),
    ] {
        assert_eq!(record[key], value, "{key}");
    }
    for path in ["/api/tags", "/api/ps"] {
        let models = server.get(path).await.json();
        let models = models["models"].as_array().unwrap();
        let found = models.iter().find(|model| model["name"] == "chat:latest");
        assert_eq!(found.unwrap()["details"]["family"], "fake", "{path}");
    }
    let show = server.ok("/api/show", &json!({"model": "chat"})).await;
    assert_eq!(show["capabilities"], json!(["completion", "tools"]));
    assert_eq!(show["model_info"]["fake.context_length"], 512);
    // It has no vectors, not even of nothing.
    let none = server
        .post("/api/embed", r#"{"model":"chat","input":[]}"#)
        .await;
    assert_eq!(none.status, 400, "{}", none.text());
}

#[tokio::test]
async fn a_model_is_said_to_do_what_its_template_lets_it_do() {
    let plain = "{% for m in messages %}{{ m.content }}{% endfor %}";
    for (template, abilities) in [
        (None, json!(["generate"])),
        (Some(plain), json!(["generate", "chat"])),
    ] {
        let server = speaking(Rule::Says(ids("x")), template);
        let record = server.get("/v1/models/chat").await.json();
        assert_eq!(record["model_ability"], abilities);
        let show = server.ok("/api/show", &json!({"model": "chat"})).await;
        assert_eq!(show["capabilities"], json!(["completion"]));
    }
}
