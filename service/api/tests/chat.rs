//! Chats and completions over the wire, with a generator that says what a test wants.

mod functions;

use serde_json::json;

use super::*;
use crate::engine::generate::fake::{self, Gate, POISON, Rule, Shape, ids};

/// A template of the common form that knows of functions and of thinking.
const CHATML: &str = "\
{% if tools %}<|im_start|>system\n<tool_call>{{ tools | tojson }}<|im_end|>\n{% endif %}\
{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>\n{% endif %}\
{% endif %}";

/// A server with the embedding model `fake` and a model `chat` that says this.
pub fn saying(text: &str) -> Server {
    speaking(Rule::Says(ids(text)), Some(CHATML))
}

/// Adds a model `chat` that says this.
pub fn add(server: &Server, text: &str) {
    serve(server, Rule::Says(ids(text)), Some(CHATML));
}

/// A server with the embedding model `fake` and a model `chat` of this template.
pub fn speaking(rule: Rule, template: Option<&str>) -> Server {
    let server = Server::new();
    serve(&server, rule, template);
    server
}

fn serve(server: &Server, rule: Rule, template: Option<&str>) {
    let shape = Shape {
        rule,
        kv_blocks: 1024,
        max_context: 512,
        gate: Gate::Open,
    };
    let (mut parts, hands) = fake::parts("chat", shape);
    // Nobody looks at the steps.
    drop(hands);
    parts.chat_template = template.map(Into::into);
    let loading = ModelInfo::loading("chat", vec!["org/chat".into()]);
    server.engine.register(loading).unwrap();
    server.engine.serve_generator(parts).unwrap();
    server.fleet.adopt("chat");
}

pub fn hello() -> Value {
    json!({
        "model": "chat", "temperature": 0, "messages": [{"role": "user", "content": "hi"}],
    })
}

fn with(more: &Value) -> Value {
    let mut body = hello();
    let fields = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body
}

/// The data of all events of a stream but the last, which must be `[DONE]`.
pub fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.header("content-type"),
        "text/event-stream; charset=utf-8"
    );
    let text = answer.text();
    let mut data: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(data.pop(), Some("data: [DONE]"), "{text}");
    let event = |event: &str| {
        let json = event.strip_prefix("data: ").expect("only data");
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
    };
    data.into_iter().map(event).collect()
}

/// What a stream says, put together.
fn told(events: &[Value], field: &str) -> String {
    let deltas = events.iter().map(|event| &event["choices"][0]["delta"]);
    deltas.filter_map(|delta| delta[field].as_str()).collect()
}

#[tokio::test]
async fn a_chat_is_answered() {
    let server = saying("Hello Ada, ü.");
    for path in [
        "/v1/chat/completions",
        "/chat/completions/",
        "/v1/v1/chat/completions",
    ] {
        let answer = server.ok(path, &hello()).await;
        assert_eq!(answer["object"], "chat.completion");
        assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
        assert_eq!(answer["model"], "chat");
        assert_eq!(
            answer["choices"],
            json!([{
                "index": 0, "message": {"role": "assistant", "content": "Hello Ada, ü."},
                "logprobs": null, "finish_reason": "stop",
            }])
        );
        let usage = &answer["usage"];
        let count = |name: &str| usage[name].as_u64().unwrap();
        assert!(count("prompt_tokens") > 4 && count("completion_tokens") > 4);
        assert_eq!(
            count("total_tokens"),
            count("prompt_tokens") + count("completion_tokens")
        );
    }
    // Without a name it is the model that can do it; an alias is told as it was asked.
    let mut body = hello();
    body["model"] = Value::Null;
    assert_eq!(
        server.ok("/v1/chat/completions", &body).await["model"],
        "chat"
    );
    body["model"] = "org/chat".into();
    assert_eq!(
        server.ok("/v1/chat/completions", &body).await["model"],
        "org/chat"
    );
    let short = with(&json!({"max_tokens": 2}));
    let answer = server.ok("/v1/chat/completions", &short).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    let two = server
        .ok("/v1/chat/completions", &with(&json!({"n": 2})))
        .await;
    assert_eq!(two["choices"].as_array().unwrap().len(), 2);
    assert_eq!(two["choices"][1]["index"], 1);
}

#[tokio::test]
async fn a_template_is_applied_without_an_answer() {
    let server = saying("x");
    let answer = server.ok("/apply-template", &hello()).await;
    let prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(answer, json!({"prompt": prompt}));
    let closed = with(&json!({"add_generation_prompt": false}));
    let answer = server.ok("/apply-template", &closed).await;
    assert_eq!(answer["prompt"], "<|im_start|>user\nhi<|im_end|>\n");
    let none = speaking(Rule::Hashes, None);
    let refused = none.post("/apply-template", hello().to_string()).await;
    assert!(
        refused.text().contains("has no chat template"),
        "{}",
        refused.text()
    );
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn a_stream_is_exact_to_the_byte() {
    let server = saying("Hi ü");
    let body = with(&json!({"stream": true, "stream_options": {"include_usage": true}}));
    let answer = server.post("/v1/chat/completions", body.to_string()).await;
    assert_eq!(answer.header("cache-control"), "no-cache");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    let all = events(&answer);
    let (id, created) = (
        all[0]["id"].as_str().unwrap(),
        all[0]["created"].as_u64().unwrap(),
    );
    let chunk = |rest: &str| {
        format!(
            "data: {{\"id\":\"{id}\",\"object\":\"chat.completion.chunk\",\"created\":{created},\
             \"model\":\"chat\",{rest}}}\n\n"
        )
    };
    let choice = |delta: &str, finish: &str| {
        chunk(&format!(
            "\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\
             \"finish_reason\":{finish}}}]"
        ))
    };
    // Which letters come together is the tokenizer's business.
    let letters = all[1..all.len() - 2].iter().map(|event| {
        let text = &event["choices"][0]["delta"]["content"];
        choice(&format!("{{\"content\":{text}}}"), "null")
    });
    let letters: String = letters.collect();
    let usage = &all[all.len() - 1]["usage"];
    let counts = format!(
        "{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{},\
         \"prompt_tokens_details\":{{\"cached_tokens\":{}}}}}",
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage["total_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"]
    );
    let expected = choice("{\"role\":\"assistant\",\"content\":\"\"}", "null")
        + &letters
        + &choice("{}", "\"stop\"")
        + &chunk(&format!("\"choices\":[],\"usage\":{counts}"))
        + "data: [DONE]\n\n";
    assert_eq!(answer.text(), expected);
    assert_eq!(told(&all, "content"), "Hi ü");
    let body = with(&json!({"stream": true}));
    let plain = server.post("/v1/chat/completions", body.to_string()).await;
    assert!(
        events(&plain)
            .iter()
            .all(|event| event.get("usage").is_none())
    );
}

#[tokio::test]
async fn what_is_wrong_is_a_status_before_the_first_token() {
    let server = saying("x");
    for (status, sentence, more) in [
        (404, "Model not found", json!({"model": "other"})),
        (400, "cannot generate", json!({"model": "fake"})),
        (400, "`messages` is an empty list", json!({"messages": []})),
        (
            400,
            "`messages[0]",
            json!({"messages": [{"role": "king", "content": "hi"}]}),
        ),
        (400, "`messages", json!({"messages": "hi"})),
        (
            400,
            "text only",
            json!({"messages": [{"role": "user", "content":
            [{"type": "image_url", "image_url": {"url": "data:"}}]}]}),
        ),
        (400, "`max_tokens` is `0`", json!({"max_tokens": 0})),
        (400, "temperature", json!({"temperature": 3})),
        (400, "`n` is `0`", json!({"n": 0})),
        (
            400,
            "`top_logprobs`",
            json!({"logprobs": true, "top_logprobs": -1}),
        ),
        (
            400,
            "response_format",
            json!({"response_format": {"type": "yaml"}}),
        ),
        (400, "`tools[0]` has no name", json!({"tools": [{}]})),
        (400, "`tools` is empty", json!({"tool_choice": "required"})),
        (
            400,
            "chat_template_kwargs",
            json!({"chat_template_kwargs": 5}),
        ),
        (
            400,
            "maximum context length",
            json!({"messages":
            [{"role": "user", "content": "the rain ".repeat(2000)}]}),
        ),
        (501, "logit_bias", json!({"logit_bias": {"5": 1}})),
    ] {
        for stream in [false, true] {
            let mut body = with(&json!({"stream": stream}));
            body.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            let answer = server.post("/v1/chat/completions", body.to_string()).await;
            let told = answer.error(status);
            assert!(told.contains(sentence), "{body}: {told}");
        }
    }
    let long = json!({"messages": [{"role": "user", "content": "a ".repeat(1 << 19)}]});
    let answer = server
        .post("/v1/chat/completions", with(&long).to_string())
        .await;
    answer.error(400);
    assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
    let none = speaking(Rule::Says(ids("x")), None);
    let told = none
        .post("/v1/chat/completions", hello().to_string())
        .await
        .error(400);
    assert!(told.contains("chat template"), "{told}");
    // What clients send for nothing is nothing.
    let nulls = with(&json!({
        "max_tokens": null, "tools": null, "stop": null, "logit_bias": {}, "user": "me",
        "stream_options": null, "response_format": {"type": "text"}, "seed": -1, "top_k": -1,
        "thinking": {"type": "disabled"}, "parallel_tool_calls": true, "store": false,
        "chat_template_kwargs": "{\"a\": 1}", "reasoning_effort": "low",
    }));
    server.ok("/v1/chat/completions", &nulls).await;
}

#[tokio::test]
async fn what_breaks_off_a_stream_is_an_event() {
    let mut script = ids("Hello there");
    script.push(POISON);
    script.extend(ids("never"));
    let server = speaking(Rule::Says(script.clone()), Some(CHATML));
    let body = with(&json!({"stream": true}));
    let answer = server.post("/v1/chat/completions", body.to_string()).await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    let mut events: Vec<Value> = Vec::new();
    for event in text.split_terminator("\n\n") {
        events.push(serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap());
    }
    let error = events.pop().unwrap();
    assert!(error["error"]["message"].is_string(), "{text}");
    // The token that breaks it off is still told.
    assert!(
        told(&events, "content").starts_with("Hello there"),
        "{text}"
    );
    let lines = server.post("/api/chat", body.to_string()).await.text();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert!(last["error"].is_string(), "{lines}");
}

#[tokio::test]
async fn who_hangs_up_is_written_to_no_more() {
    let server = speaking(Rule::Hashes, Some(CHATML));
    let body = with(&json!({"stream": true, "ignore_eos": true}));
    let request = Request::post("/v1/chat/completions").body(Body::from(body.to_string()));
    let response = server.begin(request.unwrap()).await;
    let mut body = response.into_body();
    assert!(body.frame().await.is_some());
    assert_eq!(server.engine.in_flight(), 1);
    drop(body);
    assert_eq!(server.engine.in_flight(), 0);
}

#[tokio::test]
async fn thoughts_are_told_apart() {
    let server = saying("<think>\nhm, ü\n</think>\n\nYes.");
    let answer = server.ok("/v1/chat/completions", &hello()).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "Yes.");
    assert_eq!(message["reasoning_content"], "hm, ü");
    let body = with(&json!({"stream": true}));
    let answer = server.post("/v1/chat/completions", body.to_string()).await;
    let all = events(&answer);
    assert_eq!(told(&all, "content"), "Yes.");
    assert_eq!(told(&all, "reasoning_content"), "hm, ü");
    let body = with(&json!({"reasoning_format": "none"}));
    let answer = server.ok("/v1/chat/completions", &body).await;
    let text = &answer["choices"][0]["message"]["content"];
    assert_eq!(text, "<think>\nhm, ü\n</think>\n\nYes.");
    // The template begins to think, and says no more of it than that.
    let server = saying("hm\n</think>\n\nYes.");
    for more in [
        json!({"enable_thinking": true}),
        json!({"chat_template_kwargs": {"enable_thinking": true}}),
        json!({"chat_template_kwargs": "{\"enable_thinking\": true}"}),
    ] {
        let answer = server.ok("/v1/chat/completions", &with(&more)).await;
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["reasoning_content"], "hm", "{more}");
        assert_eq!(message["content"], "Yes.");
    }
}

#[tokio::test]
async fn people_cannot_write_control_tokens() {
    let server = saying("x");
    let count = async |text: &str| {
        let body = with(&json!({"messages": [{"role": "user", "content": text}]}));
        let answer = server.ok("/v1/chat/completions", &body).await;
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let none = count("").await;
    assert!(count("<|im_end|>").await > none + 3);
    // Whoever writes all of a prompt may.
    let body = json!({"model": "chat", "prompt": "<|im_end|>", "max_tokens": 1});
    let answer = server.ok("/v1/completions", &body).await;
    assert_eq!(answer["usage"]["prompt_tokens"], 1);
}

#[tokio::test]
async fn log_probabilities_are_told() {
    let server = saying("Hello");
    let body = with(&json!({"logprobs": true, "top_logprobs": 2}));
    let answer = server.ok("/v1/chat/completions", &body).await;
    let content = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    let text: String = content
        .iter()
        .map(|t| t["token"].as_str().unwrap())
        .collect();
    assert_eq!(text, "Hello");
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);
    assert!(content[0]["logprob"].as_f64().unwrap() <= 0.0);
    assert!(content[0]["bytes"].is_array());
    let mut streamed = body;
    streamed["stream"] = true.into();
    let all = events(
        &server
            .post("/v1/chat/completions", streamed.to_string())
            .await,
    );
    let lists = all
        .iter()
        .filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array());
    let text: String = lists
        .flatten()
        .map(|t| t["token"].as_str().unwrap())
        .collect();
    assert_eq!(text, "Hello");
    let body = json!({"model": "chat", "prompt": "a", "logprobs": 1, "temperature": 0});
    let answer = server.ok("/v1/completions", &body).await;
    let lists = &answer["choices"][0]["logprobs"];
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(
            lists[name].as_array().unwrap().len(),
            content.len(),
            "{name}"
        );
    }
    assert_eq!(lists["text_offset"][0], 0);
}
