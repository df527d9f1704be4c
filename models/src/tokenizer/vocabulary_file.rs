//! What old checkpoints leave to code: bare vocabularies without a `tokenizer.json`, and the
//! settings in `tokenizer_config.json` that override what a `tokenizer.json` of BERT says.

use std::path::Path;

use serde_json::Value;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::{byte_level, guarded};
use crate::checkpoint::json;
use crate::error::{Error, Result};

/// Files of SentencePiece, which transformers turns into a `tokenizer.json` by code of its own.
const SENTENCEPIECE: [&str; 4] = [
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "spm.model",
];

/// Builds a tokenizer from its vocabulary, as transformers does when it finds no `tokenizer.json`.
pub(super) fn load(dir: &Path, settings: &Value) -> Result<Tokenizer> {
    let exists = |name: &&str| dir.join(name).exists();
    if exists(&"vocab.txt") {
        return guarded_load(&dir.join("vocab.txt"), || word_piece(dir, settings));
    }
    if exists(&"vocab.json") && exists(&"merges.txt") {
        return guarded_load(&dir.join("vocab.json"), || byte_level::load(dir, settings));
    }
    let found = match SENTENCEPIECE.iter().find(|name| exists(name)) {
        Some(name) => format!("has `{name}` only, which is not read here"),
        None => {
            "has neither `tokenizer.json` nor `vocab.txt` nor `vocab.json` with `merges.txt`".into()
        }
    };
    Err(Error::checkpoint(
        dir,
        format!(
            "{found}; save the tokenizer once with \
             `AutoTokenizer.from_pretrained(…).save_pretrained(…)`, which writes `tokenizer.json`"
        ),
    ))
}

/// As `guarded`, for what has errors of this crate.
fn guarded_load(path: &Path, load: impl FnOnce() -> Result<Tokenizer>) -> Result<Tokenizer> {
    guarded(|| Ok(load())).map_err(|error| Error::checkpoint(path, error.to_string()))?
}

/// The WordPiece tokenizer of Devlin et al. 2018, `BertTokenizerFast` in transformers.
fn word_piece(dir: &Path, settings: &Value) -> Result<Tokenizer> {
    let path = dir.join("vocab.txt");
    let malformed = |message: String| Error::checkpoint(&path, message);
    let vocabulary = WordPiece::read_bytes(&json::read_bytes(&path)?)
        .map_err(|error| malformed(format!("not a vocabulary: {error}")))?;
    let special = |key: &str, default: &str| {
        let token = token_text(&settings[key]).unwrap_or(default).to_owned();
        match vocabulary.get(&token) {
            Some(&id) => Ok((token, id)),
            None => Err(malformed(format!("has no `{token}` token"))),
        }
    };
    let classify = special("cls_token", "[CLS]")?;
    let separate = special("sep_token", "[SEP]")?;
    let unknown = special("unk_token", "[UNK]")?;
    let others = ["pad_token", "mask_token"]
        .into_iter()
        .zip(["[PAD]", "[MASK]"])
        .filter_map(|(key, default)| special(key, default).ok());
    let specials: Vec<AddedToken> = [&classify, &separate, &unknown]
        .into_iter()
        .cloned()
        .chain(others)
        .map(|(token, _)| AddedToken::from(token, true))
        .collect();
    let model = WordPiece::builder()
        .vocab(vocabulary)
        .unk_token(unknown.0)
        .build();
    let mut tokenizer = Tokenizer::new(model.map_err(|error| malformed(error.to_string()))?);
    tokenizer
        .with_normalizer(Some(BertNormalizer::default()))
        .and_then(|tokenizer| {
            tokenizer
                .with_pre_tokenizer(Some(BertPreTokenizer))
                .with_post_processor(Some(BertProcessing::new(separate, classify)))
                .with_decoder(Some(WordPieceDecoder::default()))
                .add_special_tokens(specials)
        })
        .map_err(|error| malformed(error.to_string()))?;
    Ok(tokenizer)
}

/// Lets `tokenizer_config.json` have the last word about lower case, accents and Chinese
/// characters, as transformers does for BERT tokenizers; published files do disagree.
pub(super) fn apply_settings(
    tokenizer: &mut Tokenizer,
    settings: &Value,
) -> tokenizers::Result<()> {
    let class = settings["tokenizer_class"]
        .as_str()
        .unwrap_or("BertTokenizer");
    let Some(NormalizerWrapper::BertNormalizer(published)) = tokenizer.get_normalizer() else {
        return Ok(());
    };
    if !matches!(class, "BertTokenizer" | "BertTokenizerFast") {
        return Ok(());
    }
    let mut normalizer = *published;
    let stated = |key: &str| settings[key].as_bool();
    normalizer.lowercase = stated("do_lower_case").unwrap_or(normalizer.lowercase);
    normalizer.strip_accents = stated("strip_accents").or(normalizer.strip_accents);
    normalizer.handle_chinese_chars =
        stated("tokenize_chinese_chars").unwrap_or(normalizer.handle_chinese_chars);
    tokenizer.with_normalizer(Some(normalizer)).map(|_| ())
}

/// A special token is written as a string or as an object with its `content`.
pub(super) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
