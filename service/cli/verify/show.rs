//! What `retort verify` found, as tables for people and as JSON. Pure: facts in, text out.

use std::path::PathBuf;

use comfy_table::{Cell, Color};
use retort_models::verify::{Check, Difference, Measure, Outcome, Verification};
use serde_json::{Value, json};

use crate::cli::table::{render, table};

/// A model and what came of comparing it.
pub struct Verified {
    /// The name it would be served under.
    pub name: String,
    /// The entry of the catalogue whose numbers it was compared with.
    pub published_as: Option<String>,
    /// How its files were found.
    pub origin: String,
    /// Commit, branch or package version, when there is one.
    pub revision: Option<String>,
    /// Where its files are.
    pub path: PathBuf,
    /// The checks.
    pub found: Verification,
}

/// Whether results are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// For `anstream`, which takes colours out again where they cannot be seen.
    Colored,
    /// For tests.
    #[cfg(test)]
    Plain,
}

/// One document over all models.
pub fn json(verified: &[Verified], onnxruntime: &str) -> String {
    let models: Vec<Value> = verified.iter().map(model_json).collect();
    let document = json!({
        "retort": env!("CARGO_PKG_VERSION"),
        "onnxruntime": onnxruntime,
        "passed": verified.iter().all(|model| model.found.is_proven()),
        "models": models,
    });
    format!("{document}\n")
}

fn model_json(model: &Verified) -> Value {
    let found = &model.found;
    let references = found.references.iter().map(|c| check_json("reference", c));
    let properties = found.properties.iter().map(|c| check_json("property", c));
    let checks: Vec<Value> = references.chain(properties).collect();
    json!({
        "name": model.name,
        "published_as": model.published_as,
        "origin": model.origin,
        "revision": model.revision,
        "path": model.path,
        "passed": found.is_proven(),
        "references_compared": found.compared(),
        "references_skipped": found.references.len() - found.compared(),
        "failed": found.failures().count(),
        "checks": checks,
    })
}

/// A difference that is no number is null.
fn check_json(kind: &str, check: &Check) -> Value {
    let reason = match &check.outcome {
        Outcome::Skipped(reason) => Some(reason),
        Outcome::Passed | Outcome::Failed => None,
    };
    json!({
        "kind": kind,
        "what": check.what,
        "expected": check.expected,
        "got": check.got,
        "difference": check.difference.map(|d| d.largest),
        "tolerance": check.difference.map(|d| d.limit),
        "measure": check.difference.map(|d| d.measure.to_string()),
        "result": result(check),
        "reason": reason,
        "source": check.source,
    })
}

/// A table and a summary for each model.
pub fn tables(verified: &[Verified], drawn: Drawn) -> String {
    let texts: Vec<String> = verified
        .iter()
        .map(|model| {
            let heading = heading(model);
            let table = draw(&model.found, drawn);
            format!("{heading}\n\n{table}\n{}\n", summary(model))
        })
        .collect();
    texts.join("\n")
}

fn heading(model: &Verified) -> String {
    let revision = match &model.revision {
        Some(revision) => format!(", revision {revision}"),
        None => String::new(),
    };
    let path = model.path.display();
    format!("{}: {}{revision}, {path}", model.name, model.origin)
}

fn draw(found: &Verification, drawn: Drawn) -> String {
    let mut rows = table(&[
        "reference",
        "expected",
        "got",
        "difference",
        "tolerance",
        "result",
        "source",
    ]);
    if drawn == Drawn::Colored {
        rows.enforce_styling();
    }
    for check in found.checks() {
        let color = match check.outcome {
            Outcome::Passed => Color::Green,
            Outcome::Failed => Color::Red,
            Outcome::Skipped(_) => Color::Yellow,
        };
        let cell = Cell::new(result(check));
        let (difference, tolerance) = match &check.difference {
            Some(Difference {
                largest,
                limit,
                measure,
            }) => (format!("{largest:.1e}"), limit_text(*limit, *measure)),
            None => (String::new(), String::new()),
        };
        let got = match &check.outcome {
            Outcome::Skipped(reason) => reason,
            Outcome::Passed | Outcome::Failed => &check.got,
        };
        rows.add_row([
            Cell::new(&check.what),
            Cell::new(&check.expected),
            Cell::new(got),
            Cell::new(difference),
            Cell::new(tolerance),
            if drawn == Drawn::Colored {
                cell.fg(color)
            } else {
                cell
            },
            Cell::new(check.source.as_deref().map(short).unwrap_or_default()),
        ]);
    }
    render(&rows)
}

fn limit_text(limit: f32, measure: Measure) -> String {
    match measure {
        Measure::Absolute => format!("{limit:.1e}"),
        Measure::Relative => format!("{limit:.1e} relative"),
        Measure::Cosine => format!("{limit:.1e} of cosine"),
    }
}

fn result(check: &Check) -> &'static str {
    match check.outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::Skipped(_) => "skipped",
    }
}

/// A source as it fits into a table: without the host, the commit as git shortens it.
fn short(source: &str) -> String {
    const COMMIT_CHARS: usize = 7;
    let source = source.strip_prefix("https://").unwrap_or(source);
    let source = source.strip_prefix("github.com/").unwrap_or(source);
    let word = |word: &str| match word.strip_prefix('@') {
        Some(commit) if commit.len() > COMMIT_CHARS && commit.is_ascii() => {
            format!("@{}", &commit[..COMMIT_CHARS])
        }
        _ => word.to_owned(),
    };
    let words: Vec<String> = source.split(' ').map(word).collect();
    words.join(" ")
}

fn summary(model: &Verified) -> String {
    let Verified {
        name,
        published_as,
        found,
        ..
    } = model;
    let (compared, published) = (found.compared(), found.references.len());
    let failed = found.failures().count();
    let skipped = match published - compared {
        0 => String::new(),
        skipped => format!("; {skipped} could not be compared"),
    };
    if failed > 0 {
        let checks = compared + found.properties.len();
        return format!("{name}: {failed} of {checks} checks FAILED{skipped}");
    }
    if compared > 0 {
        return format!(
            "{name}: all {compared} published outputs that were compared are right{skipped}"
        );
    }
    let why = match published_as {
        Some(known) if published == 0 => format!("none are known for `{known}`"),
        Some(_) => format!("none of the {published} that are known can be compared"),
        None => "it is not in the catalogue; `--as NAME` takes it for a model that is".to_owned(),
    };
    format!("{name}: NOT PROVEN, no published outputs were compared: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outcome: Outcome, largest: f32) -> Check {
        Check {
            what: "dense, 1 text".into(),
            expected: "0.10000".into(),
            got: "0.20000".into(),
            difference: Some(Difference {
                largest,
                limit: 0.001,
                measure: Measure::Absolute,
            }),
            outcome,
            source: Some("https://github.com/a/b @0123456789abcdef tests/x.py".into()),
        }
    }

    fn verified(references: Vec<Check>) -> Verified {
        Verified {
            name: "m".into(),
            published_as: Some("bge-m3".into()),
            origin: "local folder".into(),
            revision: None,
            path: "/models/m".into(),
            found: Verification {
                references,
                properties: Vec::new(),
            },
        }
    }

    #[test]
    fn a_row_has_both_numbers_and_who_published_them() {
        let text = tables(&[verified(vec![check(Outcome::Failed, 0.1)])], Drawn::Plain);
        for part in [
            "0.10000",
            "0.20000",
            "1.0e-1",
            "1.0e-3",
            "FAILED",
            "a/b @0123456 tests/x.py",
            "m: 1 of 1 checks FAILED",
        ] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
    }

    #[test]
    fn the_summary_claims_no_more_than_was_compared() {
        let skipped = || check(Outcome::Skipped("no such head".into()), 0.0);
        let passed = verified(vec![check(Outcome::Passed, 0.0), skipped()]);
        let text = summary(&passed);
        assert!(text.contains("all 1 published"), "{text}");
        assert!(text.contains("1 could not be compared"), "{text}");
        let nothing = summary(&verified(vec![skipped()]));
        assert!(nothing.contains("NOT PROVEN"), "{nothing}");
        let unknown = Verified {
            published_as: None,
            ..verified(Vec::new())
        };
        assert!(summary(&unknown).contains("--as NAME"));
    }

    #[test]
    fn json_says_the_same() {
        let text = json(
            &[verified(vec![check(Outcome::Failed, f32::NAN)])],
            "1.31.1",
        );
        let found: Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(found["passed"], false);
        let check = &found["models"][0]["checks"][0];
        assert_eq!(check["difference"], Value::Null);
        assert_eq!(check["result"], "FAILED");
        assert_eq!(check["kind"], "reference");
    }
}
