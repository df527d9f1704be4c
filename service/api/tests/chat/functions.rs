//! Functions that a model may call, in the newer form and the older.

use super::*;

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!({"name": "weather", "description": "now", "parameters": parameters})
}

#[tokio::test]
async fn functions_are_called() {
    let call = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n\
                </tool_call>";
    let server = saying(call);
    let tools = json!({"tools": [{"type": "function", "function": weather()}]});
    let answer = server.ok("/v1/chat/completions", &with(&tools)).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let told = &choice["message"]["tool_calls"][0];
    assert_eq!(told["type"], "function");
    assert!(told["id"].as_str().unwrap().starts_with("call_"));
    let expected = json!({"name": "weather", "arguments": "{\"city\": \"Rome\"}"});
    assert_eq!(told["function"], expected);

    let mut body = with(&tools);
    body["stream"] = true.into();
    let all = events(&server.post("/v1/chat/completions", body.to_string()).await);
    let deltas = all
        .iter()
        .map(|event| &event["choices"][0]["delta"]["tool_calls"][0]);
    let deltas: Vec<&Value> = deltas.filter(|delta| !delta.is_null()).collect();
    assert_eq!(deltas[0]["function"]["name"], "weather");
    assert!(deltas[0]["id"].is_string() && deltas[0]["index"] == 0);
    let arguments = deltas
        .iter()
        .filter_map(|d| d["function"]["arguments"].as_str());
    assert_eq!(arguments.collect::<String>(), "{\"city\": \"Rome\"}");
    assert_eq!(
        all.last().unwrap()["choices"][0]["finish_reason"],
        "tool_calls"
    );

    // OpenAI's older form, which Dify's plugin for LocalAI has.
    let body = with(&json!({"functions": [weather()], "function_call": "auto"}));
    let answer = server.ok("/v1/chat/completions", &body).await;
    assert_eq!(answer["choices"][0]["message"]["function_call"], expected);
    assert_eq!(answer["choices"][0]["finish_reason"], "function_call");

    // Who wants no call gets text, and who gave no functions does.
    let mut body = with(&tools);
    body["tool_choice"] = "none".into();
    for body in [body, hello()] {
        let answer = server.ok("/v1/chat/completions", &body).await;
        assert_eq!(answer["choices"][0]["message"]["content"], call);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
    let body = with(&json!({"stream": false, "tools": tools["tools"]}));
    let ollama = server.ok("/api/chat", &body).await;
    let expected = json!([{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]);
    assert_eq!(ollama["message"]["tool_calls"], expected);

    let rounds = json!({"messages": [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function",
            "function": {"name": "weather", "arguments": "{\"city\":\"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "sun"}]},
    ]});
    server.ok("/v1/chat/completions", &with(&rounds)).await;
    let plain = speaking(Rule::Says(ids("x")), Some("{{ messages[0].content }}"));
    let refused = plain
        .post("/v1/chat/completions", with(&tools).to_string())
        .await;
    assert!(refused.error(400).contains("knows of no functions"));
}

#[tokio::test]
async fn who_knows_only_functions_is_told_one_call() {
    let call = |city: &str| {
        format!(
            "<tool_call>\n{{\"name\": \"weather\", \"arguments\": {{\"city\": \"{city}\"}}}}\n\
             </tool_call>\n"
        )
    };
    let server = saying(&(call("Rome") + &call("Oslo")));
    let expected = json!({"name": "weather", "arguments": "{\"city\": \"Rome\"}"});
    let older = with(&json!({"functions": [weather()], "stream": true}));
    let all = events(&server.post("/v1/chat/completions", older.to_string()).await);
    let deltas = all.iter().map(|event| &event["choices"][0]["delta"]);
    let calls: Vec<&Value> = deltas
        .map(|delta| &delta["function_call"])
        .filter(|call| !call.is_null())
        .collect();
    assert_eq!(calls, [&expected]);
    let finish = &all.last().unwrap()["choices"][0]["finish_reason"];
    assert_eq!(finish, "function_call");
    // The line that ends the last call is no content.
    let tools = json!([{"type": "function", "function": weather()}]);
    let body = with(&json!({"tools": tools}));
    let answer = server.ok("/v1/chat/completions", &body).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], Value::Null);
    assert_eq!(message["tool_calls"].as_array().unwrap().len(), 2);
}
