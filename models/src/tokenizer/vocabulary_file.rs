//! What old BERT checkpoints leave to code: a bare `vocab.txt`, and the settings in
//! `tokenizer_config.json` that override what a `tokenizer.json` says.

use std::path::Path;

use serde_json::Value;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::checkpoint::json;
use crate::error::{Error, Result};

/// Builds the tokenizer of Devlin et al. 2018 from its vocabulary, as transformers'
/// `BertTokenizerFast` does when it finds no `tokenizer.json`.
pub(super) fn load(dir: &Path, settings: &Value) -> Result<Tokenizer> {
    let path = dir.join("vocab.txt");
    if !path.exists() {
        return Err(Error::checkpoint(
            dir,
            "has neither `tokenizer.json` nor `vocab.txt`; save the tokenizer once with \
             `AutoTokenizer.from_pretrained(…).save_pretrained(…)`",
        ));
    }
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
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
