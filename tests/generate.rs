//! Models that generate, from their checkpoints to streams: what transformers continues greedily
//! is what comes, alone, in company, and with a beginning that is known.

use retort::{
    engine::{
        generate::GenerateStream,
        request::{
            EmbedInput, EmbedRequest, EndOfText, FinishReason, GenerateRequest, PromptInput,
            Sampling,
        },
    },
    provision::Progress,
    serve::Core,
};
use serde_json::{Value, json};

use crate::support::{config, golden, numbers::read_json, runtime, server::Server};

const CHECKPOINTS: [&str; 4] = [
    "llama-tiny-generate",
    "mistral-tiny-generate",
    "qwen2-tiny-generate",
    "qwen3-tiny-generate",
];

fn core(checkpoint: &str) -> Core {
    runtime();
    let path = golden(&format!("generators/{checkpoint}"));
    let model = format!("tiny={}", path.display());
    let config = config(&[("model", &model)]);
    let core = Core::new(&config, &Progress::silent()).unwrap_or_else(|e| panic!("{e}"));
    core.load().unwrap_or_else(|e| panic!("{e}"));
    core
}

/// Of the one model.
async fn generate(core: &Core, request: GenerateRequest) -> GenerateStream {
    let generator = core.engine.generator(None).await.unwrap();
    generator.generate(request).await.unwrap()
}

fn tokio() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// What transformers continues, prompt by prompt.
fn cases(checkpoint: &str) -> Vec<(Vec<u32>, Vec<u32>)> {
    let path = golden(&format!("generators/{checkpoint}/golden.json"));
    let ids = |ids: &Value| -> Vec<u32> {
        let ids = ids.as_array().unwrap().iter();
        ids.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
            .collect()
    };
    let golden = read_json(&path);
    let cases = golden["cases"].as_array().unwrap().iter();
    cases
        .map(|case| (ids(&case["prompt"]), ids(&case["continued"])))
        .collect()
}

fn greedy(prompt: &[u32], tokens: usize) -> GenerateRequest {
    GenerateRequest {
        max_tokens: Some(tokens),
        end_of_text: EndOfText::Ignored,
        sampling: Sampling {
            temperature: Some(0.0),
            repetition_penalty: Some(1.0),
            ..Sampling::default()
        },
        ..GenerateRequest::new(PromptInput::Ids(prompt.to_vec()))
    }
}

#[test]
fn it_continues_as_transformers_alone_and_in_company() {
    for checkpoint in CHECKPOINTS {
        let core = core(checkpoint);
        let cases = cases(checkpoint);
        tokio().block_on(async {
            for (prompt, expected) in &cases {
                let request = greedy(prompt, expected.len());
                let stream = generate(&core, request).await;
                let generated = stream.collect().await.unwrap();
                assert_eq!(&generated.choices[0].tokens, expected, "{checkpoint}");
                assert_eq!(generated.choices[0].finish.reason, FinishReason::Length);
            }
            // Again, all at once: now every prompt is known as far as its blocks are whole.
            let mut streams = Vec::new();
            for (prompt, expected) in &cases {
                let request = greedy(prompt, expected.len());
                streams.push(generate(&core, request).await);
            }
            let mut cached = 0;
            for (stream, (_, expected)) in streams.into_iter().zip(&cases) {
                let generated = stream.collect().await.unwrap();
                assert_eq!(&generated.choices[0].tokens, expected, "{checkpoint}");
                cached += generated.usage.cached_tokens;
            }
            let long = cases.iter().any(|(prompt, _)| prompt.len() > 32);
            assert!(cached > 0 || !long, "{checkpoint}: nothing was known");
        });
    }
}

#[test]
fn a_seed_gives_one_text() {
    let core = core("qwen2-tiny-generate");
    tokio().block_on(async {
        let mut answers = Vec::new();
        for seed in [7, 7, 8] {
            let request = GenerateRequest {
                sampling: Sampling {
                    seed: Some(seed),
                    ..Sampling::default()
                },
                n: 2,
                ..greedy(&[5, 6, 7], 16)
            };
            let stream = generate(&core, request).await;
            answers.push(stream.collect().await.unwrap().choices);
        }
        assert_eq!(answers[0], answers[1]);
        assert_ne!(answers[0], answers[2]);
        assert_ne!(answers[0][0].tokens, answers[0][1].tokens);
    });
}

/// A template that says what it is for in few tokens: the model has room for 128.
const TEMPLATE: &str = "{% if tools %}<FORM>{% endif %}\
                        {% for m in messages %}{{ m.content }}{% endfor %}";

/// Random weights would write anything; what they may write is calls of this function.
#[test]
fn a_call_that_must_come_comes_as_its_schema_says() {
    for form in ["<tool_call>", ""] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = golden("generators/llama-tiny-generate");
        for file in std::fs::read_dir(checkpoint).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        let template = TEMPLATE.replace("<FORM>", form);
        std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        let model = format!("tiny={}", folder.path().display());
        let server = Server::start(&[("model", &model)]);
        let days = json!({"type": "integer", "minimum": 1, "maximum": 9});
        let parameters = json!({
            "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": days},
            "required": ["city", "days"], "additionalProperties": false,
        });
        let function = json!({"name": "w", "parameters": parameters});
        for seed in 0..4 {
            let body = json!({
                "model": "tiny", "messages": [{"role": "user", "content": "a"}], "seed": seed,
                "temperature": 1.0, "tools": [{"type": "function", "function": function}],
                "tool_choice": "required",
            });
            let answer = server.client().post("/v1/chat/completions", &body);
            assert_eq!(answer.status, 200, "{}", answer.body);
            let answer: Value = serde_json::from_str(&answer.body).unwrap();
            let choice = &answer["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
            let call = &choice["message"]["tool_calls"][0]["function"];
            assert_eq!(call["name"], "w", "{answer}");
            let arguments = call["arguments"].as_str().unwrap();
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            let city = arguments["city"].as_str().unwrap();
            assert!(["Rome", "Oslo"].contains(&city), "{answer}");
            assert!(
                (1..=9).contains(&arguments["days"].as_i64().unwrap()),
                "{answer}"
            );
            assert_eq!(arguments.as_object().unwrap().len(), 2, "{answer}");
        }
    }
}

#[test]
fn a_model_that_generates_is_listed_as_such_and_refuses_the_rest() {
    let core = core("llama-tiny-generate");
    let info = core.engine.model("tiny").unwrap();
    let generator = info.generator.unwrap();
    assert_eq!(generator.architecture, "llama");
    let request = EmbedRequest {
        model: Some("tiny".into()),
        inputs: vec![EmbedInput::Text("x".into())],
        ..EmbedRequest::default()
    };
    let error = tokio().block_on(core.engine.embed(request)).unwrap_err();
    assert_eq!(error.status().as_u16(), 400, "{error}");
}
