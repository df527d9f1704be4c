//! `retort rerank`: documents in the order of what they say about a query, through the same engine
//! as the service but without a socket.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::embed::input::{InputFormat, Source, Texts};
use super::flags::{Flags, Local};
use super::local::LocalModel;
use super::{Context, Failure, print, table};
use crate::engine::request::{RerankRequest, RerankResponse, Scale, ScoreOptions};

/// Flags of `retort rerank`.
#[derive(Args)]
pub struct RerankArgs {
    /// What is asked
    #[arg(value_name = "QUERY")]
    query: String,
    /// What may answer it; without any, and without --file, stdin is read
    #[arg(value_name = "DOCUMENT", conflicts_with = "from")]
    documents: Vec<String>,
    /// Read documents from a file, one a line; `-` is stdin
    #[arg(long = "file", value_name = "FILE", id = "from")]
    file: Option<PathBuf>,
    /// What the file holds [default: jsonl for *.jsonl and *.ndjson, else lines]
    #[arg(long, value_name = "FORMAT")]
    input_format: Option<InputFormat>,
    /// Show only the best N
    #[arg(long, value_name = "N")]
    top_n: Option<usize>,
    /// What the model is told to judge by
    #[arg(long, value_name = "TEXT")]
    instruction: Option<String>,
    /// Scores as the model gives them, not brought to 0 to 1
    #[arg(long)]
    raw_scores: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<Local>,
}

/// The answer as JSON, in the words of `/v1/rerank`.
#[derive(Serialize)]
struct Document<'a> {
    model: &'a str,
    results: Vec<Ranked<'a>>,
}

#[derive(Serialize)]
struct Ranked<'a> {
    index: usize,
    relevance_score: f32,
    document: &'a str,
}

/// Scores all documents and prints them, the best first.
pub fn run(args: RerankArgs, context: &Context) -> Result<ExitCode, Failure> {
    let documents: Vec<String> =
        Texts::open(source(&args)?, args.input_format)?.collect::<Result<_, _>>()?;
    if documents.is_empty() {
        return Err(nothing());
    }
    let model = LocalModel::load(context, args.flags)?;
    let request = RerankRequest {
        model: None,
        query: args.query,
        documents: documents.clone().into(),
        top_n: args.top_n,
        options: ScoreOptions {
            scale: if args.raw_scores {
                Scale::Raw
            } else {
                Scale::Unit
            },
            instruction: args.instruction,
            ..ScoreOptions::default()
        },
    };
    let response = model.runtime.block_on(model.engine.rerank(request))?;
    let text = if args.json {
        json(&response, &documents)?
    } else {
        ranking(&response, &documents)
    };
    print(&text)?;
    let cut = response.scored.usage.cut_inputs;
    if cut > 0 {
        anstream::eprintln!("warning: {cut} documents were longer than fits and were cut");
    }
    Ok(ExitCode::SUCCESS)
}

fn source(args: &RerankArgs) -> Result<Source, Failure> {
    match &args.file {
        Some(path) if path.as_os_str() == "-" => Ok(Source::Stdin),
        Some(path) => Ok(Source::File(path.clone())),
        None if !args.documents.is_empty() => Ok(Source::Given(args.documents.clone())),
        None if std::io::stdin().is_terminal() => Err(nothing()),
        None => Ok(Source::Stdin),
    }
}

fn nothing() -> Failure {
    Failure::usage("there is no document to rank")
        .with_hint("give documents after the query, or a file with `--file FILE`, or pipe them in")
}

/// A table for people; a document is one line, whatever is in it.
fn ranking(response: &RerankResponse, documents: &[String]) -> String {
    let mut table = table::table(&["rank", "score", "document"]);
    for (rank, found) in response.results.iter().enumerate() {
        let words: Vec<&str> = documents[found.index].split_whitespace().collect();
        table.add_row([
            (rank + 1).to_string(),
            format!("{:.4}", found.score),
            words.join(" "),
        ]);
    }
    table::render(&table)
}

fn json(response: &RerankResponse, documents: &[String]) -> Result<String, Failure> {
    let ranked = response.results.iter().map(|found| Ranked {
        index: found.index,
        relevance_score: found.score,
        document: &documents[found.index],
    });
    let document = Document {
        model: &response.scored.model,
        results: ranked.collect(),
    };
    let text = serde_json::to_string_pretty(&document).map_err(std::io::Error::from)?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::{PairScore, ScoreResponse, Timings, Usage};

    fn response() -> RerankResponse {
        let score = |score| PairScore {
            score,
            raw: score,
            ..PairScore::default()
        };
        let scored = ScoreResponse {
            model: "judge".into(),
            scores: vec![score(0.25), score(0.75)],
            usage: Usage::default(),
            timings: Timings::default(),
        };
        RerankResponse::new(scored, None)
    }

    #[test]
    fn the_best_document_is_first_and_each_is_one_line() {
        let documents = ["a\n  boat".to_owned(), "rain".to_owned()];
        let text = ranking(&response(), &documents);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], ["RANK", "SCORE", "DOCUMENT"]);
        assert_eq!(lines[1], ["1", "0.7500", "rain"]);
        assert_eq!(lines[2], ["2", "0.2500", "a", "boat"]);
    }

    #[test]
    fn json_has_the_words_of_the_service() {
        let documents = ["a".to_owned(), "b".to_owned()];
        let text = json(&response(), &documents).expect("JSON");
        let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let expected = serde_json::json!({"model": "judge", "results": [
            {"index": 1, "relevance_score": 0.75, "document": "b"},
            {"index": 0, "relevance_score": 0.25, "document": "a"}]});
        assert_eq!(found, expected);
    }
}
