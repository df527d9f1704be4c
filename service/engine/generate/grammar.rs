//! Answers of a required form: which tokens it allows next. The work is done by llguidance; here
//! is what it is told about a vocabulary, and from where on a form is required.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{
    Matcher, ParserFactory,
    toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie},
};
use retort_models::Spelling;

use crate::{
    engine::request::{Begins, Constraint, Grammar},
    error::{Error, Result},
};

/// White space between the parts of JSON: a space, or a new line and its indentation. Small models
/// that may write any amount of it sometimes write nothing else.
const GAP: &str = r#""x-guidance":{"whitespace_pattern":" |\\n {0,24}"}"#;

/// A JSON schema whose answers have [`GAP`]s; one that says otherwise itself stays as it is.
pub fn with_short_gaps(schema: &str) -> String {
    // `true` and what is no schema have nowhere to say it.
    let Some(rest) = schema.trim_start().strip_prefix('{') else {
        return schema.to_owned();
    };
    let comma = if rest.trim_start().starts_with('}') {
        ""
    } else {
        ","
    };
    // Of two equal keys the last counts.
    format!("{{{GAP}{comma}{rest}")
}

/// What forms of answers are matched against: the vocabulary of one model.
pub struct Grammars {
    factory: ParserFactory,
    spelling: Arc<Spelling>,
    ends: Arc<[u32]>,
}

impl Grammars {
    /// Sorts a vocabulary. `ends` are the tokens that end an answer.
    ///
    /// # Errors
    /// When no token ends an answer.
    pub fn new(spelling: Arc<Spelling>, ends: Arc<[u32]>) -> Result<Self> {
        let Some(&end) = ends.first() else {
            return Err(Error::NotImplemented(
                "the model has no token that ends an answer, so no form can be required of one"
                    .into(),
            ));
        };
        let internal = |error| Error::Internal(format!("llguidance: {error}"));
        let ids = 0..u32::try_from(spelling.vocab_size()).unwrap_or(u32::MAX);
        let words: Vec<Vec<u8>> = ids
            .map(|id| match spelling.is_special(id) {
                // No text ever matches a control token.
                true => [&[TokTrie::SPECIAL_TOKEN_MARKER], spelling.bytes(id)].concat(),
                false => spelling.bytes(id).to_vec(),
            })
            .collect();
        let size = u32::try_from(words.len()).unwrap_or(u32::MAX);
        let trie = TokTrie::from(&TokRxInfo::new(size, end), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(internal)?;
        factory.quiet();
        Ok(Self {
            factory,
            spelling,
            ends,
        })
    }

    /// Reads a form.
    ///
    /// # Errors
    /// When it is malformed or too large, or uses what llguidance does not know.
    pub fn read(&self, constraint: &Constraint) -> Result<Form> {
        let (tag, text) = match &constraint.grammar {
            Grammar::JsonObject => ("json_schema", with_short_gaps(r#"{"type":"object"}"#)),
            Grammar::JsonSchema(schema) => ("json_schema", with_short_gaps(schema)),
            Grammar::Regex(regex) => ("regex", regex.clone()),
            Grammar::Lark(grammar) => ("lark", grammar.clone()),
        };
        let refused = |error: String| {
            Error::invalid(
                "response_format",
                format!("the required form of the answer cannot be used: {error}"),
            )
        };
        let parser = TopLevelGrammar::from_tagged_str(tag, &text)
            .and_then(|grammar| self.factory.create_parser(grammar));
        let matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(refused(error));
        }
        let begins = match &constraint.begins {
            Begins::AtOnce => None,
            Begins::After(text) => Some(text.clone().into_bytes()),
        };
        Ok(Form {
            matcher,
            waits_for: begins.filter(|text| !text.is_empty()),
            written: Vec::new(),
            spelling: self.spelling.clone(),
            ends: self.ends.clone(),
        })
    }
}

/// The form of one answer, as far as it is written.
pub struct Form {
    matcher: Matcher,
    /// The text after which the form is required; `None` once it is.
    waits_for: Option<Vec<u8>>,
    /// The end of what was written while it waits.
    written: Vec<u8>,
    spelling: Arc<Spelling>,
    ends: Arc<[u32]>,
}

/// Whether an answer of a required form may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It may.
    Open,
    /// The form is complete and nothing can follow.
    Complete,
}

impl Form {
    /// For another answer to the same request.
    pub fn another(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            waits_for: self.waits_for.clone(),
            written: self.written.clone(),
            spelling: self.spelling.clone(),
            ends: self.ends.clone(),
        }
    }

    /// Excludes what the form does not allow next. `[vocab]`
    ///
    /// # Errors
    /// When the form has become too complex to go on.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        if self.waits_for.is_some() {
            return Ok(());
        }
        let allowed = self.matcher.compute_mask_or_eos().map_err(failed)?;
        // Several tokens may end an answer, and llguidance knows one.
        let may_end = self
            .ends
            .first()
            .is_some_and(|&end| allowed.is_allowed(end));
        for (id, logit) in (0u32..).zip(logits) {
            let is_end = || may_end && self.ends.contains(&id);
            let known = (id as usize) < allowed.len() && allowed.is_allowed(id);
            if !known && !is_end() {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes the token that was chosen, which is none that ends an answer.
    ///
    /// # Errors
    /// As [`Form::mask`].
    pub fn accept(&mut self, id: u32) -> Result<Progress> {
        if let Some(text) = &self.waits_for {
            self.written.extend_from_slice(self.spelling.bytes(id));
            let has_come = self.written.windows(text.len()).any(|part| part == text);
            let keep = self.written.len().saturating_sub(text.len());
            self.written.drain(..keep);
            if has_come {
                self.waits_for = None;
            }
            return Ok(Progress::Open);
        }
        self.matcher.consume_token(id).map_err(failed)?;
        Ok(match self.matcher.is_stopped() {
            true => Progress::Complete,
            false => Progress::Open,
        })
    }
}

// The signature that `map_err` wants.
#[allow(clippy::needless_pass_by_value)]
fn failed(error: impl ToString) -> Error {
    Error::Internal(format!(
        "the required form of the answer failed: {}",
        error.to_string()
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use retort_models::{SpecialTokens, Tokenizer};

    use super::*;

    struct Bench {
        tokenizer: Tokenizer,
        grammars: Grammars,
        end: u32,
    }

    fn bench() -> Bench {
        let checkpoint = "tests/golden/checkpoints/qwen3-tiny-lasttoken";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(checkpoint);
        let tokenizer = Tokenizer::load(&path).unwrap();
        let spelling = Arc::new(tokenizer.spelling().unwrap());
        let end = (0..).find(|&id| spelling.is_special(id)).unwrap();
        Bench {
            grammars: Grammars::new(spelling, [end].into()).unwrap(),
            tokenizer,
            end,
        }
    }

    impl Bench {
        fn form(&self, grammar: Grammar, begins: Begins) -> Form {
            self.grammars.read(&Constraint { grammar, begins }).unwrap()
        }

        fn allows(&self, form: &mut Form, id: u32) -> bool {
            let mut logits = vec![0.0; self.tokenizer.vocab_size()];
            form.mask(&mut logits).unwrap();
            logits[id as usize] == 0.0
        }

        /// How many bytes of a text a form takes, token by token, and whether it may end there.
        fn taken(&self, form: &mut Form, text: &str) -> (usize, bool) {
            let mut bytes = 0;
            for token in self.tokenizer.tokens(text, SpecialTokens::Skip).unwrap() {
                if !self.allows(form, token.id) {
                    return (bytes, false);
                }
                bytes += self.grammars.spelling.bytes(token.id).len();
                if form.accept(token.id).unwrap() == Progress::Complete {
                    return (bytes, true);
                }
            }
            (bytes, self.allows(form, self.end))
        }
    }

    #[test]
    fn a_schema_is_kept() {
        let bench = bench();
        let schema = r#"{"type": "object", "properties": {"age": {"type": "integer"}},
            "required": ["age"], "additionalProperties": false}"#;
        let form = || bench.form(Grammar::JsonSchema(schema.into()), Begins::AtOnce);
        let good = r#"{"age": 12}"#;
        assert_eq!(bench.taken(&mut form(), good), (good.len(), true));
        assert!(!bench.taken(&mut form(), r#"{"age": "x"}"#).1);
        assert!(!bench.taken(&mut form(), r#"{"age": 12"#).1);
        assert_eq!(bench.taken(&mut form(), "the boat").0, 0);
    }

    #[test]
    fn gaps_are_short() {
        let bench = bench();
        let form = || bench.form(Grammar::JsonSchema("{}".into()), Begins::AtOnce);
        for good in [
            "{\"a\": [1, 2]}",
            "{\n    \"a\": [\n        1\n    ]\n}",
            "[ 1 ]",
        ] {
            assert_eq!(
                bench.taken(&mut form(), good),
                (good.len(), true),
                "{good:?}"
            );
        }
        for long in ["[  1]", "[\n\n1]", "[\t1]"] {
            assert!(bench.taken(&mut form(), long).0 < 3, "{long:?}");
        }
        assert_eq!(with_short_gaps("true"), "true");
    }

    #[test]
    fn json_objects_regular_expressions_and_grammars_too() {
        let bench = bench();
        let mut form = bench.form(Grammar::JsonObject, Begins::AtOnce);
        let text = r#"{"a": [1, {"b": null}]}"#;
        assert_eq!(bench.taken(&mut form, text), (text.len(), true));
        let mut form = bench.form(Grammar::Regex("(yes|no)+".into()), Begins::AtOnce);
        assert_eq!(bench.taken(&mut form, "noyes"), (5, true));
        let lark = r#"start: "<call>" %json {"type": "integer"} "</call>""#;
        let mut form = bench.form(Grammar::Lark(lark.into()), Begins::AtOnce);
        assert_eq!(bench.taken(&mut form, "<call>42</call>"), (15, true));
    }

    #[test]
    fn anything_may_come_before_the_text_that_begins_a_form() {
        let bench = bench();
        let mut form = bench.form(
            Grammar::Regex("no".into()),
            Begins::After("</think>".into()),
        );
        let (bytes, _) = bench.taken(&mut form, "the boat? </think>");
        assert_eq!(bytes, 18);
        assert!(form.waits_for.is_none());
        assert!(!bench.allows(&mut form, bench.end));
        assert_eq!(bench.taken(&mut form, "no"), (2, true));
    }

    #[test]
    fn each_answer_has_its_own() {
        let bench = bench();
        let first = bench.form(Grammar::Regex("ab".into()), Begins::AtOnce);
        let mut second = first.another();
        assert_eq!(bench.taken(&mut second, "ab"), (2, true));
        let mut first = first;
        assert_eq!(bench.taken(&mut first, "ab"), (2, true));
    }

    #[test]
    fn a_form_that_makes_no_sense_is_the_callers_fault() {
        let bench = bench();
        for grammar in [
            Grammar::JsonSchema("{".into()),
            Grammar::JsonSchema(r#"{"type": "teapot"}"#.into()),
            Grammar::Regex("(".into()),
            Grammar::Lark("start: (".into()),
        ] {
            let constraint = Constraint {
                grammar,
                begins: Begins::AtOnce,
            };
            let error = bench.grammars.read(&constraint).err();
            let error = error.unwrap_or_else(|| panic!("{constraint:?} was taken"));
            assert_eq!(error.status(), 400, "{error}");
        }
    }
}
