//! What `retort estimate` says is what the service then takes, and a budget is kept. The sizes that
//! take minutes are measured by `cargo bench -- memory`.

use retort_models::{Batch, EncoderModel, Encoding, LoadOptions};
use serde_json::{Value, json};

use crate::support::{
    golden, minilm, runtime,
    server::{Program, run},
};

/// One session, so that every batch runs on it.
const FLAGS: [&str; 4] = ["--threads", "1", "--max-batch-tokens", "512"];

fn offline() -> [(&'static str, String); 2] {
    let library = runtime().library().display().to_string();
    [("RETORT_OFFLINE", "1".into()), ("ORT_DYLIB_PATH", library)]
}

fn with_flags<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    arguments.iter().chain(&FLAGS).copied().collect()
}

fn command(arguments: &[&str]) -> (i32, String, String) {
    let variables = offline();
    let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
    run(&with_flags(arguments), &variables, "")
}

/// The estimate for a model, as JSON.
fn estimate(model: &str) -> Value {
    let (status, output, errors) = command(&["estimate", "--json", model]);
    assert_eq!(status, 0, "{errors}");
    let mut answer: Value = serde_json::from_str(&output).unwrap();
    answer["models"][0].take()
}

/// A line of a process's status, in bytes.
#[cfg(target_os = "linux")]
fn status(process: u32, field: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes = value.unwrap().trim().strip_suffix(" kB").unwrap();
    kibibytes.parse::<f64>().unwrap() * 1024.0
}

#[cfg(target_os = "linux")]
#[test]
fn the_service_takes_what_was_estimated() {
    let tiny = format!("m={}", golden("checkpoints/bert-tiny-mean").display());
    let minilm = format!("m={}", minilm().display());
    for model in [tiny, minilm] {
        let estimate = estimate(&model);
        let variables = offline();
        let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
        // Other tests may have the processor for a while.
        let patience = ["--request-timeout-s", "3600"];
        let arguments = with_flags(&["serve", "--model", &model, patience[0], patience[1]]);
        let program = Program::serve(&arguments, &variables);
        // Words of all parts of the vocabulary, in texts as long as the model takes.
        let word = |place: usize| format!("w{} ", place * 7919 % 10_007);
        let text = |first: usize| (first..first + 600).map(word).collect::<String>();
        let texts: Vec<String> = (0..3).map(|index| text(index * 600)).collect();
        let answer = program
            .client()
            .post("/v1/embeddings", &json!({"input": texts}));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let peak = status(program.id(), "VmHWM");
        let total = estimate["total"].as_f64().unwrap();
        // The code of an unoptimised program takes more pages than what is estimated for.
        let most = 1.15 * total + f64::from(16 << 20);
        assert!(
            (0.85 * total..most).contains(&peak),
            "{estimate} became {peak}"
        );
    }
}

/// A run of many tokens gives its memory back afterwards, which must not touch its results.
#[test]
fn a_large_run_gives_the_vectors_of_small_ones() {
    let options = LoadOptions::new(runtime());
    let model = EncoderModel::load(&minilm(), &options).unwrap();
    let mut encoder = model.encoder(1).unwrap();
    let encoding = |text: u32| Encoding {
        input_ids: (0..256)
            .map(|place| 999 + (text * 256 + place) * 7 % 20_000)
            .collect(),
        token_type_ids: vec![0; 256],
        ..Encoding::default()
    };
    let mut large = Batch::default();
    (0..8).for_each(|text| large.push(&encoding(text)));
    let together = encoder.encode(&large).unwrap();
    for (text, output) in together.iter().enumerate() {
        let alone = encoder.encode(&large.sequence(text)).unwrap().remove(0);
        let pairs = output
            .dense
            .iter()
            .flatten()
            .zip(alone.dense.iter().flatten());
        let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-5, "text {text} is off by {off:e}");
    }
    assert_eq!(encoder.encode(&large).unwrap(), together);
}

#[test]
fn a_model_over_the_budget_is_refused_with_the_numbers() {
    let minilm = format!("minilm={}", minilm().display());
    let total = estimate(&minilm)["total"].as_u64().unwrap() >> 20;
    let check = |budget: u64| {
        let budget = budget.to_string();
        command(&["check", "--model", &minilm, "--memory-budget-mib", &budget])
    };
    let (status, _, errors) = check(total / 2);
    assert_eq!(status, 1);
    for part in [
        "`minilm` does not fit",
        "MiB",
        "--memory-budget-mib",
        "retort estimate",
    ] {
        assert!(errors.contains(part), "`{part}` is not in:\n{errors}");
    }
    let (status, output, errors) = check(total + 1);
    assert_eq!(status, 0, "{output}{errors}");
}

#[test]
fn an_estimate_is_a_table_for_people() {
    let tiny = format!("tiny={}", golden("checkpoints/bert-tiny-mean").display());
    let (status, output, errors) = command(&["estimate", &tiny]);
    assert_eq!(status, 0, "{errors}");
    for part in [
        "packed copies",
        "tokenizer",
        "activations",
        "512 tokens",
        "TOTAL",
    ] {
        assert!(output.contains(part), "`{part}` is not in:\n{output}");
    }
}
