//! Byte-level BPE from `vocab.json` and `merges.txt`: the tokenizers of RoBERTa (Liu et al. 2019)
//! and Qwen2, as transformers builds them when it finds no `tokenizer.json`.

use std::path::Path;

use serde_json::Value;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::vocabulary_file::token_text;
use crate::checkpoint::json;
use crate::error::{Error, Result};

/// How Qwen2 cuts a text into words.
const QWEN2_WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Builds the tokenizer of the class that `tokenizer_config.json` names.
pub(super) fn load(dir: &Path, settings: &Value) -> Result<Tokenizer> {
    let path = dir.join("vocab.json");
    let vocabulary: Vocab = serde_json::from_value(json::read(&path)?)
        .map_err(|error| Error::checkpoint(&path, format!("not a vocabulary: {error}")))?;
    let merges = read_merges(&dir.join("merges.txt"))?;
    let class = settings["tokenizer_class"].as_str().unwrap_or_default();
    let is_roberta = vocabulary.contains_key("<s>") && vocabulary.contains_key("</s>");
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.clone(), merges)
        .build()
        .map_err(|error| Error::checkpoint(&path, error.to_string()))?;
    let tokenizer = Tokenizer::new(model);
    match class.trim_end_matches("Fast") {
        "RobertaTokenizer" => roberta(tokenizer, &vocabulary, settings),
        "" if is_roberta => roberta(tokenizer, &vocabulary, settings),
        "Qwen2Tokenizer" => qwen2(tokenizer, dir, settings),
        other => Err(format!(
            "its tokenizer class is `{other}`, and of that only `tokenizer.json` is read; save it \
             once with `AutoTokenizer.from_pretrained(…).save_pretrained(…)`"
        )
        .into()),
    }
    .map_err(|error| Error::checkpoint(&path, error.to_string()))
}

fn roberta(
    mut tokenizer: Tokenizer,
    vocabulary: &Vocab,
    settings: &Value,
) -> tokenizers::Result<Tokenizer> {
    let name = |key: &str, default: &str| token_text(&settings[key]).unwrap_or(default).to_owned();
    let special = |key: &str, default: &str| {
        let token = name(key, default);
        match vocabulary.get(&token) {
            Some(&id) => Ok((token, id)),
            None => Err(format!("has no `{token}` token")),
        }
    };
    let begin = special("cls_token", "<s>")?;
    let end = special("sep_token", "</s>")?;
    let space = settings["add_prefix_space"].as_bool() == Some(true);
    let plain = ["bos_token", "eos_token", "unk_token", "pad_token"]
        .into_iter()
        .zip(["<s>", "</s>", "<unk>", "<pad>"])
        .map(|(key, default)| AddedToken::from(name(key, default), true));
    // It takes the space before it with it.
    let mask = AddedToken::from(name("mask_token", "<mask>"), true).lstrip(true);
    let frame = [&begin.0, &end.0].map(|token| AddedToken::from(token.clone(), true));
    let specials: Vec<AddedToken> = plain.chain(frame).chain([mask]).collect();
    tokenizer
        .with_pre_tokenizer(Some(ByteLevel::new(space, true, true)))
        .with_post_processor(Some(
            RobertaProcessing::new(end, begin).add_prefix_space(space),
        ))
        .with_decoder(Some(ByteLevelDecoder::default()))
        .add_special_tokens(specials)?;
    Ok(tokenizer)
}

fn qwen2(mut tokenizer: Tokenizer, dir: &Path, settings: &Value) -> tokenizers::Result<Tokenizer> {
    let pattern = SplitPattern::Regex(QWEN2_WORDS.to_owned());
    let words = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, false, false);
    let steps: Vec<PreTokenizerWrapper> = vec![words.into(), bytes.into()];
    tokenizer
        .with_normalizer(Some(NFC))?
        .with_pre_tokenizer(Some(Sequence::new(steps)))
        .with_post_processor(Some(bytes))
        .with_decoder(Some(ByteLevelDecoder::default()));
    // The vocabulary has no special tokens; they are numbered in one of two files.
    let mut added: Vec<(u64, AddedToken)> = Vec::new();
    if let Value::Object(entries) = &settings["added_tokens_decoder"] {
        for (id, token) in entries {
            added.push((id.parse()?, serde_json::from_value(token.clone())?));
        }
    } else if let Value::Object(entries) = json::read_optional(&dir.join("added_tokens.json"))? {
        for (token, id) in entries {
            let id = id.as_u64().ok_or("`added_tokens.json` has no numbers")?;
            added.push((id, AddedToken::from(token, true)));
        }
    }
    added.sort_by_key(|(id, _)| *id);
    // They are appended, so the file must go on where the vocabulary ends.
    for (id, token) in added {
        let name = token.content.clone();
        tokenizer.add_tokens([token])?;
        if tokenizer.token_to_id(&name).map(u64::from) != Some(id) {
            return Err(format!("the added token `{name}` cannot have the number `{id}`").into());
        }
    }
    Ok(tokenizer)
}

/// Reads `merges.txt`: after a line with the version, one pair a line.
fn read_merges(path: &Path) -> Result<Merges> {
    let malformed = |message: String| Error::checkpoint(path, message);
    let bytes = json::read_bytes(path)?;
    let text = String::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    let is_version = |index: usize, line: &str| index == 0 && line.starts_with("#version");
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(index, line)| !(line.is_empty() || is_version(*index, line)));
    let pair = |(index, line): (usize, &str)| match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => Err(malformed(format!("line `{}` is not a pair", index + 1))),
    };
    lines.map(pair).collect()
}
