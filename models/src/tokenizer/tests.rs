mod damaged;

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The tokenizer of a golden checkpoint.
pub(super) fn of_golden(checkpoint: &str) -> Tokenizer {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    Tokenizer::load(&root.join(checkpoint)).unwrap()
}

/// A tokenizer whose file carries truncation and padding to 128.
pub(super) fn tiny() -> Tokenizer {
    of_golden("bert-tiny-mean")
}

pub(super) fn cut(max_tokens: usize, side: TruncationSide) -> Truncation {
    Truncation { max_tokens, side }
}

pub(super) const WHOLE: Truncation = Truncation {
    max_tokens: usize::MAX,
    side: TruncationSide::Refuse,
};

/// Files that are here where this project is developed, and are not ours to pass on.
pub(super) fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(path);
    if path.exists() {
        return Some(path);
    }
    println!("stepping aside: `{}` is not here", path.display());
    None
}

/// A tokenizer, where it is here, and what `tests/golden/make_pairs.py` wrote about it.
pub(super) fn golden_pairs(name: &str) -> Option<(Tokenizer, Value)> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let tiny = golden.join("checkpoints").join(name);
    let dir = if tiny.exists() {
        tiny
    } else {
        shared(&format!("tokenizers/{name}"))?
    };
    let file = golden.join("pairs").join(format!("{name}.json"));
    Some((Tokenizer::load(&dir).unwrap(), json::read(&file).unwrap()))
}

pub(super) const GOLDEN_PAIRS: [&str; 9] = [
    "bert-tiny-mean",
    "bert-tiny-prefixed",
    "roberta-tiny-mean",
    "xlmr-tiny-cls",
    "bert-base-uncased",
    "bert-base-chinese",
    "roberta-base",
    "xlm-roberta",
    "qwen2.5",
];

pub(super) fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn truncation_and_padding_of_the_file_are_overridden() {
    let tokenizer = tiny();
    let long = "tree ".repeat(400);
    assert!(tokenizer.encode(&long, WHOLE).unwrap().input_ids.len() >= 402);
    let short = tokenizer.encode("", WHOLE).unwrap();
    assert_eq!(short.input_ids.len(), tokenizer.special_tokens());
    assert_eq!((short.input_ids.len(), short.tokens_cut), (2, 0));
}

#[test]
fn a_limit_below_the_special_tokens_is_an_error() {
    let tokenizer = tiny();
    for side in [
        TruncationSide::End,
        TruncationSide::Start,
        TruncationSide::Refuse,
    ] {
        assert!(tokenizer.encode("word", cut(1, side)).is_err());
        assert!(tokenizer.encode("", cut(2, side)).is_ok());
    }
}

#[test]
fn ids_of_the_caller_are_taken_as_they_are() {
    let tokenizer = tiny();
    let ids = [7, 8, 9, 10];
    let encode = |max, side| tokenizer.encode_ids(&ids, cut(max, side));
    assert_eq!(encode(9, TruncationSide::Refuse).unwrap().input_ids, ids);
    let end = encode(3, TruncationSide::End).unwrap();
    assert_eq!((end.input_ids, end.tokens_cut), (vec![7, 8, 9], 1));
    assert_eq!(
        encode(3, TruncationSide::Start).unwrap().input_ids,
        [8, 9, 10]
    );
    let refused = encode(3, TruncationSide::Refuse);
    assert!(matches!(
        refused,
        Err(Error::InputTooLong {
            tokens: 4,
            limit: 3
        })
    ));
    assert!(tokenizer.encode_ids(&[], WHOLE).is_err());
    let outside = tokenizer.vocab_size() as u32;
    let error = tokenizer
        .encode_ids(&[3, outside], WHOLE)
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("`{outside}`")), "{error}");
}

#[test]
fn ids_turn_back_into_text() {
    let tokenizer = tiny();
    let ids = tokenizer.encode("a tree", WHOLE).unwrap().input_ids;
    let first = tokenizer.id_to_token(ids[0]).unwrap();
    assert!(
        tokenizer
            .decode(&ids, SpecialTokens::Keep)
            .unwrap()
            .starts_with(&first)
    );
    assert!(
        !tokenizer
            .decode(&ids, SpecialTokens::Skip)
            .unwrap()
            .contains(&first)
    );
    assert_eq!(tokenizer.id_to_token(u32::MAX), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn cutting_keeps_the_special_tokens_and_counts_the_rest(
        text in "[a-z ,.é世]{0,120}", max in 2_usize..60,
    ) {
        let tokenizer = tiny();
        let whole = tokenizer.encode(&text, WHOLE).unwrap().input_ids;
        let inner = &whole[1..whole.len() - 1];
        for side in [TruncationSide::End, TruncationSide::Start] {
            let encoding = tokenizer.encode(&text, cut(max, side)).unwrap();
            let ids = &encoding.input_ids;
            prop_assert_eq!(ids.len(), whole.len().min(max));
            prop_assert_eq!(ids.len() + encoding.tokens_cut, whole.len());
            prop_assert_eq!(encoding.token_type_ids.len(), ids.len());
            prop_assert_eq!((ids[0], ids[ids.len() - 1]), (whole[0], whole[whole.len() - 1]));
            let kept = &ids[1..ids.len() - 1];
            match side {
                TruncationSide::Start => prop_assert!(inner.ends_with(kept)),
                _ => prop_assert!(inner.starts_with(kept)),
            }
        }
        let refused = tokenizer.encode(&text, cut(max, TruncationSide::Refuse));
        prop_assert_eq!(refused.is_ok(), whole.len() <= max);
    }
}

#[test]
fn published_tokenizations_are_reproduced() {
    let Some(path) = shared("tokenizers/golden.json") else {
        return;
    };
    let golden = json::read(&path).unwrap();
    let mut checked = 0;
    for name in [
        "bert-base-uncased",
        "bert-base-chinese",
        "roberta-base",
        "xlm-roberta",
        "qwen2.5",
    ] {
        let tokenizer = Tokenizer::load(&path.with_file_name(name)).unwrap();
        let around = tokenizer.special_tokens() / 2;
        let cases = golden["cases"].as_array().unwrap().iter();
        for case in cases.filter(|case| case["tokenizer"] == name) {
            let text = case["text"].as_str().unwrap();
            let found = match case["text_pair"].as_str() {
                Some(second) => {
                    let truncation = pair::PairTruncation::new(999, TruncationSide::Refuse);
                    let form = tokenizer.pair_form().unwrap();
                    let query = tokenizer.prepare_query(&form, text, truncation).unwrap();
                    let pair = tokenizer.encode_pair(&query, second).unwrap();
                    let types: Vec<u32> = pair.token_type_ids.iter().map(|&t| t.into()).collect();
                    assert_eq!(types, ids(&case["type_ids"]), "{name}: {text:?}");
                    pair.input_ids
                }
                None => tokenizer.encode(text, WHOLE).unwrap().input_ids,
            };
            let special = match case["add_special_tokens"] {
                Value::Bool(true) => 0,
                _ => around,
            };
            let found = &found[special..found.len() - special];
            assert_eq!(found, ids(&case["ids"]), "{name}: {text:?}");
            checked += 1;
        }
    }
    assert_eq!(checked, golden["cases"].as_array().unwrap().len());
}

/// Checks that a text in pieces of about `wanted` bytes gets the tokens of the whole, however cut.
fn check_pieces(tokenizer: &Tokenizer, text: &str, wanted: usize) {
    let small = PieceSize {
        wanted,
        most: 1 << 20,
    };
    let large = PieceSize {
        wanted: 1 << 30,
        most: 1 << 30,
    };
    for side in [TruncationSide::End, TruncationSide::Start] {
        for max_tokens in [2, 17, 300, 1 << 20] {
            let truncation = cut(max_tokens, side);
            let expected = tokenizer
                .encode_in_pieces(&Prompt::default(), text, truncation, large)
                .unwrap();
            let found = tokenizer
                .encode_in_pieces(&Prompt::default(), text, truncation, small)
                .unwrap();
            assert_eq!(
                found, expected,
                "{side:?}, {max_tokens} tokens, pieces of {wanted}"
            );
        }
    }
}

#[test]
fn a_text_in_pieces_gets_the_tokens_of_the_whole() {
    let text =
        "The harbour's lights, 3 of 12, were out.  Nobody (not one) saw\n\tit; 这座桥 is é old "
            .repeat(20);
    for wanted in [1, 13, 64, 500] {
        check_pieces(&tiny(), &text, wanted);
    }
    let Some(path) = shared("tokenizers/golden.json") else {
        return;
    };
    let golden = json::read(&path).unwrap();
    for name in [
        "bert-base-uncased",
        "bert-base-chinese",
        "roberta-base",
        "xlm-roberta",
        "qwen2.5",
    ] {
        let tokenizer = Tokenizer::load(&path.with_file_name(name)).unwrap();
        let cases = golden["cases"].as_array().unwrap().iter();
        let texts: Vec<&str> = cases
            .filter(|case| case["tokenizer"] == name)
            .filter_map(|case| case["text"].as_str())
            .collect();
        for wanted in [1, 64, 500] {
            check_pieces(&tokenizer, &texts.join(" and "), wanted);
            check_pieces(&tokenizer, &text, wanted);
        }
    }
}

/// A tokenizer of Llama's kind, which puts a space before every text itself.
fn llama_like() -> Tokenizer {
    let letters = "abcdefghijklmnopqrstuvwxyz,.▁".chars();
    let vocab: Vec<(String, f64)> = [("<unk>", -20.0), ("▁the", -2.0), ("▁tr", -3.0)]
        .into_iter()
        .map(|(piece, score)| (piece.to_owned(), score))
        .chain(letters.map(|letter| (letter.to_string(), -5.0)))
        .collect();
    let file = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab},
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

#[test]
fn a_tokenizer_that_begins_texts_with_a_space_gets_no_second_one() {
    let tokenizer = llama_like();
    assert_eq!(tokenizer.joint, Joint::Implied);
    let text = "the tree,  of the. trees in the trial ".repeat(9);
    for wanted in [1, 13, 64] {
        check_pieces(&tokenizer, &text, wanted);
    }
    let none = Prompt::default();
    let joined = tokenizer.encode_joined(&none, &["the tree", "of trees"], WHOLE);
    let whole = tokenizer.encode("the tree of trees", WHOLE).unwrap();
    assert_eq!(joined.unwrap().input_ids, whole.input_ids);
    assert_eq!(tiny().joint, Joint::Kept);
}

#[test]
fn a_bare_vocabulary_tokenizes_like_the_full_file() {
    let golden = shared("tokenizers/golden.json");
    let Some(full) = shared("tokenizers/bert-base-uncased") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for file in ["vocab.txt", "tokenizer_config.json"] {
        std::fs::copy(full.join(file), dir.path().join(file)).unwrap();
    }
    let (bare, full) = (
        Tokenizer::load(dir.path()).unwrap(),
        Tokenizer::load(&full).unwrap(),
    );
    assert_eq!(
        (bare.vocab_size(), bare.special_tokens()),
        (full.vocab_size(), 2)
    );
    let golden = json::read(&golden.unwrap()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, WHOLE).unwrap().input_ids;
        assert_eq!(ids(&bare), ids(&full), "{text:?}");
    }
}

#[test]
fn a_checkpoint_without_any_tokenizer_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("`tokenizer.json`") && error.contains("`vocab.txt`"),
        "{error}"
    );
    std::fs::write(dir.path().join("sentencepiece.bpe.model"), "").unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("has `sentencepiece.bpe.model` only"),
        "{error}"
    );
    assert!(error.contains("save_pretrained"), "{error}");
    std::fs::write(dir.path().join("vocab.txt"), "one\ntwo\n").unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("[CLS]"), "{error}");
    std::fs::write(dir.path().join("tokenizer.json"), "{\"model\": 3}").unwrap();
    assert!(Tokenizer::load(dir.path()).is_err());
}

#[test]
fn the_settings_beside_a_tokenizer_have_the_last_word() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\nWord\n";
    std::fs::write(dir.path().join("vocab.txt"), vocabulary).unwrap();
    let ids = |settings: &str| {
        std::fs::write(dir.path().join("tokenizer_config.json"), settings).unwrap();
        Tokenizer::load(dir.path())
            .unwrap()
            .encode("Word", WHOLE)
            .unwrap()
            .input_ids
    };
    assert_eq!(ids("{}"), [2, 5, 3]);
    assert_eq!(ids("{\"do_lower_case\": false}"), [2, 6, 3]);
    assert_eq!(
        ids("{\"do_lower_case\": true, \"cls_token\": {\"content\": \"[MASK]\"}}"),
        [4, 5, 3]
    );
    // sentence-transformers has a switch of its own.
    std::fs::write(
        dir.path().join("sentence_bert_config.json"),
        "{\"do_lower_case\": true}",
    )
    .unwrap();
    assert_eq!(ids("{\"do_lower_case\": false}"), [2, 5, 3]);
}

/// Checks a tokenizer made of `vocab.json` and `merges.txt` by all goldens of the full one.
fn check_byte_level(name: &str, bare: &Path) {
    let bare = Tokenizer::load(bare).unwrap();
    let (full, pairs) = golden_pairs(name).unwrap();
    assert_eq!(bare.vocab_size(), full.vocab_size());
    let golden = json::read(&shared("tokenizers/golden.json").unwrap()).unwrap();
    let texts = golden["cases"].as_array().unwrap().iter();
    let texts = texts.filter_map(|case| case["text"].as_str());
    let of_pairs = pairs["pairs"].as_array().unwrap().iter();
    let of_pairs = of_pairs.filter_map(|case| case["document"].as_str());
    let written = ["a <mask> b<s></s>", "<|im_start|>x<|endoftext|> <think>"];
    for text in texts.chain(of_pairs).chain(written) {
        let encode = |tokenizer: &Tokenizer| tokenizer.encode(text, WHOLE).unwrap();
        assert_eq!(encode(&bare), encode(&full), "{name}: {text:?}");
        let ids = encode(&full).input_ids;
        let decode = |tokenizer: &Tokenizer| tokenizer.decode(&ids, SpecialTokens::Keep).unwrap();
        assert_eq!(decode(&bare), decode(&full));
    }
}

#[test]
fn a_bare_byte_level_vocabulary_tokenizes_like_the_full_file() {
    let Some(qwen) = shared("tokenizers/qwen2.5") else {
        return;
    };
    let copy = |files: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::copy(qwen.join(file), dir.path().join(file)).unwrap();
        }
        dir
    };
    let dir = copy(&["vocab.json", "merges.txt", "tokenizer_config.json"]);
    check_byte_level("qwen2.5", dir.path());
    let dir = copy(&["vocab.json", "merges.txt", "added_tokens.json"]);
    let config = dir.path().join("tokenizer_config.json");
    std::fs::write(&config, r#"{"tokenizer_class": "Qwen2Tokenizer"}"#).unwrap();
    check_byte_level("qwen2.5", dir.path());
    std::fs::write(&config, r#"{"tokenizer_class": "OtherTokenizer"}"#).unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("`OtherTokenizer`"), "{error}");

    let full = json::read(&shared("tokenizers/roberta-base/tokenizer.json").unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let merges = full["model"]["merges"].as_array().unwrap().iter();
    let merges: Vec<&str> = merges.map(|merge| merge.as_str().unwrap()).collect();
    let merges = ["#version: 0.2\n", &merges.join("\n"), "\n"].concat();
    std::fs::write(dir.path().join("merges.txt"), merges).unwrap();
    let vocabulary = full["model"]["vocab"].to_string();
    std::fs::write(dir.path().join("vocab.json"), vocabulary).unwrap();
    check_byte_level("roberta-base", dir.path());
}

#[test]
fn prompts_are_glued_and_counted_as_the_reference_does() {
    for name in GOLDEN_PAIRS {
        let Some((tokenizer, golden)) = golden_pairs(name) else {
            continue;
        };
        for case in golden["prompts"].as_array().unwrap() {
            let prompt = tokenizer.prepare_prompt(case["prompt"].as_str().unwrap());
            let text = case["text"].as_str().unwrap();
            let found = tokenizer
                .encode_prompted(&prompt.unwrap(), text, WHOLE)
                .unwrap();
            assert_eq!(found.input_ids, ids(&case["input_ids"]), "{name}: {case}");
            assert_eq!(
                found.prompt_tokens as u64, case["prompt_tokens"],
                "{name}: {case}"
            );
        }
    }
}

#[test]
fn a_prompt_is_never_cut() {
    let tokenizer = tiny();
    let prompt = tokenizer.prepare_prompt("query: ").unwrap();
    assert_eq!((prompt.text(), prompt.tokens()), ("query: ", 2));
    let whole = tokenizer
        .encode_prompted(&prompt, "a tree in the rain", WHOLE)
        .unwrap();
    let whole = whole.input_ids;
    let end = tokenizer.encode_prompted(&prompt, "a tree in the rain", cut(6, TruncationSide::End));
    let end = end.unwrap();
    assert_eq!(end.input_ids[..5], whole[..5]);
    let start = cut(6, TruncationSide::Start);
    let start = tokenizer
        .encode_prompted(&prompt, "a tree in the rain", start)
        .unwrap();
    assert_eq!(start.input_ids[..3], whole[..3]);
    assert_eq!(start.input_ids[3..], whole[whole.len() - 3..]);
    assert_eq!(
        (start.tokens_cut, start.prompt_tokens),
        (whole.len() - 6, 3)
    );
    let error = tokenizer.encode_prompted(&prompt, "", cut(3, TruncationSide::End));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("the prompt has `2` tokens"), "{error}");
}
