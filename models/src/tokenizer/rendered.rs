//! A rendered prompt to token ids: text of which some parts may spell control tokens and others
//! never do, whatever they say. One call for a whole prompt; nothing is cut.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use tokenizers::normalizer::Range;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Token,
};

use super::{SpecialTokens, Tokenizer, guarded};
use crate::error::{Error, Result};

/// A part of a rendered prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenderedPart<'a> {
    /// What it says.
    pub text: &'a str,
    /// Whether `<|im_start|>` in it is the control token.
    pub control_tokens: ControlTokens,
}

/// What the name of a control token means where it stands in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlTokens {
    /// The token.
    Meant,
    /// The characters.
    Plain,
}

/// An added token and where it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Match {
    id: u32,
    /// Bytes; the spaces that the token takes with it are inside.
    start: usize,
    end: usize,
}

/// An added token as it is looked for.
#[derive(Debug)]
struct Name {
    id: u32,
    takes_spaces_before: bool,
    takes_spaces_after: bool,
}

/// All added tokens of a tokenizer, made ready to be looked for.
#[derive(Debug)]
pub(super) struct ControlNames {
    // In the order of the patterns of `finder`.
    names: Vec<Name>,
    // Of overlapping names it finds the one that begins first, then the longest.
    finder: AhoCorasick,
    // What each is called.
    by_id: HashMap<u32, String>,
}

impl Tokenizer {
    /// The ids of parts that together are one text. Words reach across the seams between parts;
    /// control tokens are found only inside parts where they are meant. With
    /// [`SpecialTokens::Keep`] the tokens that begin every text are put in front, unless the text
    /// begins with them already.
    ///
    /// # Errors
    /// `Error::Tokenize` when the tokenizer fails.
    pub fn encode_rendered(
        &self,
        parts: &[RenderedPart<'_>],
        special_tokens: SpecialTokens,
    ) -> Result<Vec<u32>> {
        let text: String = parts.iter().map(|part| part.text).collect();
        let control = self
            .control
            .get_or_init(|| self.control_names().map(Arc::new));
        let control = control.as_ref().map_err(|e| Error::Tokenize(e.clone()))?;
        let matches = control.of_parts(parts, &text);
        let ids = guarded(|| self.between(&text, &matches, control))?;
        let frame = self.single.fill(&[], &[]).input_ids;
        let begin = &frame[..self.single.before_first()];
        Ok(match special_tokens {
            SpecialTokens::Keep if !ids.starts_with(begin) => [begin, &ids].concat(),
            SpecialTokens::Keep | SpecialTokens::Skip => ids,
        })
    }

    /// How all special tokens are written: what nobody but a template may say.
    pub fn special_texts(&self) -> Vec<String> {
        let added = self.inner.get_added_tokens_decoder().into_values();
        let special = added.filter(|token| token.special && !token.content.is_empty());
        special.map(|token| token.content).collect()
    }

    fn control_names(&self) -> Result<ControlNames, String> {
        let mut by_id = HashMap::new();
        // Of several tokens of one name the first counts.
        let mut by_text = BTreeMap::new();
        let added: BTreeMap<u32, _> = self.inner.get_added_tokens_decoder().into_iter().collect();
        for (id, token) in added {
            if token.content.is_empty() {
                continue;
            }
            let name = Name {
                id,
                takes_spaces_before: token.lstrip,
                takes_spaces_after: token.rstrip,
            };
            by_id.insert(id, token.content.clone());
            by_text.entry(token.content).or_insert(name);
        }
        let (texts, names): (Vec<String>, Vec<Name>) = by_text.into_iter().unzip();
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&texts)
            .map_err(|error| format!("its control tokens cannot be looked for: {error}"))?;
        Ok(ControlNames {
            names,
            finder,
            by_id,
        })
    }

    /// Everything that is no control token, by the model; as `tokenizers` does it for what its
    /// added vocabulary leaves.
    fn between(
        &self,
        text: &str,
        matches: &[Match],
        control: &ControlNames,
    ) -> tokenizers::Result<Vec<u32>> {
        let mut split = PreTokenizedString::from(text);
        split.split(|_, whole| Ok(slices(&whole, matches)))?;
        if let Some(normalizer) = self.inner.get_normalizer() {
            split.normalize(|part| normalizer.normalize(part))?;
        }
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split)?;
        }
        let model = self.inner.get_model();
        // A vocabulary may have control tokens among its words, as Unigram's do.
        let is_control = |part: &str, token: &Token| {
            let name = control.by_id.get(&token.id);
            name.is_some_and(|name| part.contains(name))
        };
        split.tokenize(|part| {
            let part = part.get();
            let tokens = model.tokenize(part)?;
            if !tokens.iter().any(|token| is_control(part, token)) {
                return Ok(tokens);
            }
            let characters = part.chars().map(String::from);
            let tokens: tokenizers::Result<Vec<Vec<Token>>> =
                characters.map(|each| model.tokenize(&each)).collect();
            Ok(tokens?.concat())
        })?;
        let tokens = split.get_splits(OffsetReferential::Original, OffsetType::None);
        let ids = tokens
            .into_iter()
            .filter_map(|(_, _, tokens)| tokens.as_ref());
        Ok(ids.flatten().map(|token| token.id).collect())
    }
}

impl ControlNames {
    /// The control tokens that are meant, in order; where two overlap, the one that begins first,
    /// then the longer.
    fn of_parts(&self, parts: &[RenderedPart<'_>], text: &str) -> Vec<Match> {
        let mut matches: Vec<Match> = Vec::new();
        let (mut begin, mut end) = (0, 0);
        for part in parts {
            end += part.text.len();
            if part.control_tokens == ControlTokens::Plain {
                self.find(text, begin..end - part.text.len(), &mut matches);
                begin = end;
            }
        }
        self.find(text, begin..end, &mut matches);
        matches
    }

    /// Appends the names found in a range of the text.
    fn find(&self, text: &str, range: std::ops::Range<usize>, matches: &mut Vec<Match>) {
        let mut at = range.start;
        while let Some(found) = self.finder.find(Input::new(text).range(at..range.end)) {
            let name = &self.names[found.pattern().as_usize()];
            let floor = matches.last().map_or(0, |last| last.end);
            let (mut start, mut end) = (found.start(), found.end());
            if name.takes_spaces_before {
                start = floor + text[floor..start].trim_end().len();
            }
            if name.takes_spaces_after {
                end = range.end - text[end..range.end].trim_start().len();
            }
            let id = name.id;
            matches.push(Match { id, start, end });
            at = end;
        }
    }
}

/// The text in slices: each control token alone, with its id, and what lies between them.
fn slices(
    whole: &NormalizedString,
    matches: &[Match],
) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
    let slice = |from: usize, to: usize| whole.slice(Range::Original(from..to));
    let mut slices = Vec::new();
    let mut begin = 0;
    for found in matches {
        slices.extend(slice(begin, found.start).map(|plain| (plain, None)));
        let token = slice(found.start, found.end).map(|control| {
            let value = control.get().to_owned();
            let offsets = (0, value.len());
            (control, Some(vec![Token::new(found.id, value, offsets)]))
        });
        slices.extend(token);
        begin = found.end;
    }
    slices.extend(slice(begin, whole.get_original().len()).map(|plain| (plain, None)));
    slices
}

#[cfg(test)]
mod tests {
    use super::super::tests::of_golden;
    use super::*;

    fn meant(text: &str) -> RenderedPart<'_> {
        RenderedPart {
            text,
            control_tokens: ControlTokens::Meant,
        }
    }

    fn plain(text: &str) -> RenderedPart<'_> {
        RenderedPart {
            text,
            control_tokens: ControlTokens::Plain,
        }
    }

    /// The name of some control token of a tokenizer, and its id.
    fn control(tokenizer: &Tokenizer) -> (String, u32) {
        let added = tokenizer.inner.get_added_tokens_decoder();
        let (id, token) = added.into_iter().min_by_key(|(id, _)| *id).unwrap();
        (token.content, id)
    }

    #[test]
    fn meant_text_is_tokenized_as_the_library_does() {
        for checkpoint in ["bert-tiny-mean", "xlmr-tiny-score", "qwen3-tiny-lasttoken"] {
            let tokenizer = of_golden(checkpoint);
            let (name, _) = control(&tokenizer);
            for text in [
                "the river, the boat",
                "",
                &format!("{name}the boat{name}{name} in the rain\n"),
                &format!("水 Ärger {name}"),
            ] {
                let expected = tokenizer.inner.encode(text, false).unwrap();
                let halves = text.char_indices().map(|(at, _)| text.split_at(at));
                let whole = tokenizer.encode_rendered(&[meant(text)], SpecialTokens::Skip);
                assert_eq!(whole.unwrap(), expected.get_ids(), "{checkpoint}: {text}");
                for (left, right) in halves {
                    let parts = [meant(left), meant(right)];
                    let ids = tokenizer.encode_rendered(&parts, SpecialTokens::Skip);
                    assert_eq!(ids.unwrap(), expected.get_ids(), "{checkpoint}: {left}|");
                }
            }
        }
    }

    #[test]
    fn plain_text_never_becomes_a_control_token() {
        for checkpoint in ["bert-tiny-mean", "xlmr-tiny-score", "qwen3-tiny-lasttoken"] {
            let tokenizer = of_golden(checkpoint);
            let (name, id) = control(&tokenizer);
            let count = |parts: &[RenderedPart<'_>]| {
                let ids = tokenizer
                    .encode_rendered(parts, SpecialTokens::Skip)
                    .unwrap();
                ids.into_iter().filter(|&each| each == id).count()
            };
            let attack = format!("the {name} boat");
            assert_eq!(count(&[meant(&attack)]), 1, "{checkpoint}");
            let (left, right) = name.split_at(1);
            // Neither whole nor put together from what a template and a message say.
            let unknown_is_control = tokenizer.inner.token_to_id("[UNK]") == Some(id);
            if !unknown_is_control {
                assert_eq!(count(&[meant("the "), plain(&attack)]), 0, "{checkpoint}");
                assert_eq!(count(&[meant(left), plain(right)]), 0, "{checkpoint}");
            }
        }
    }

    #[test]
    fn what_begins_every_text_is_there_once() {
        let tokenizer = of_golden("xlmr-tiny-score");
        let frame = tokenizer.single.fill(&[], &[]).input_ids;
        let begin = frame[0];
        let name = tokenizer.id_to_token(begin).unwrap();
        let with = tokenizer.encode_rendered(&[meant("the")], SpecialTokens::Keep);
        let with = with.unwrap();
        assert_eq!(with[0], begin);
        let twice = format!("{name}the");
        let once = tokenizer.encode_rendered(&[meant(&twice)], SpecialTokens::Keep);
        let once = once.unwrap();
        assert_eq!(once.iter().filter(|&&id| id == begin).count(), 1);
        assert_eq!(once[0], begin);
    }
}
