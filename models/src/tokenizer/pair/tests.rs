use super::super::template::{
    BGE_DECODER_RERANKER, PairTemplate, Part, QWEN3_RERANKER, TemplateLimit,
};
use super::super::tests::{GOLDEN_PAIRS, golden_pairs, ids, tiny};
use super::*;

const SIDES: [TruncationSide; 2] = [TruncationSide::End, TruncationSide::Start];

fn encode(tokenizer: &Tokenizer, texts: (&str, &str), truncation: PairTruncation) -> Encoding {
    let form = tokenizer.pair_form().unwrap();
    let query = tokenizer.prepare_query(&form, texts.0, truncation).unwrap();
    tokenizer.encode_pair(&query, texts.1).unwrap()
}

#[test]
fn pairs_are_those_of_the_reference() {
    for name in GOLDEN_PAIRS {
        let Some((tokenizer, golden)) = golden_pairs(name) else {
            continue;
        };
        for case in golden["pairs"].as_array().unwrap() {
            let limit = case["max_length"].as_u64().unwrap_or(1 << 20) as usize;
            let side = match case["side"].as_str() {
                Some("left") => TruncationSide::Start,
                _ => TruncationSide::End,
            };
            let truncation = PairTruncation {
                query_max_tokens: limit,
                ..PairTruncation::new(limit, side)
            };
            let texts = ["query", "document"].map(|key| case[key].as_str().unwrap());
            let found = encode(&tokenizer, (texts[0], texts[1]), truncation);
            assert_eq!(found.input_ids, ids(&case["input_ids"]), "{name}: {case}");
            let types: Vec<u32> = found.token_type_ids.iter().map(|&t| t.into()).collect();
            assert_eq!(types, ids(&case["token_type_ids"]), "{name}: {case}");
        }
    }
}

#[test]
fn templates_are_filled_as_the_references_do() {
    if let Some((tokenizer, golden)) = golden_pairs("qwen2.5") {
        check_template(&tokenizer, &QWEN3_RERANKER, &golden["qwen3"]);
    }
    if let Some((tokenizer, golden)) = golden_pairs("xlm-roberta") {
        check_template(&tokenizer, &BGE_DECODER_RERANKER, &golden["bge"]);
    }
}

fn check_template(tokenizer: &Tokenizer, template: &PairTemplate, cases: &serde_json::Value) {
    for case in cases.as_array().unwrap() {
        let limit = case["max_length"].as_u64().unwrap() as usize;
        let instruction = case["instruction"].as_str();
        let form = tokenizer.template_form(template, instruction).unwrap();
        let truncation = form.truncation((Some(limit), usize::MAX), TruncationSide::End);
        let uncounted = case["uncounted"].as_u64().unwrap_or(0) as usize;
        assert_eq!(truncation.max_tokens, limit + uncounted);
        let [query, document] = ["query", "document"].map(|key| case[key].as_str().unwrap());
        let query = tokenizer.prepare_query(&form, query, truncation).unwrap();
        let found = tokenizer.encode_pair(&query, document).unwrap();
        assert_eq!(found.input_ids, ids(&case["input_ids"]), "{case}");
        assert!(found.token_type_ids.iter().all(|&kind| kind == 0));
        assert_eq!(found.token_type_ids.len(), found.input_ids.len());
    }
}

#[test]
fn the_document_gives_way_and_then_the_query_beyond_its_share() {
    let tokenizer = tiny();
    let (short, long) = ("river ".repeat(4), "rain ".repeat(40));
    let [river, rain] = ["river", "rain"].map(|word| {
        let whole = tokenizer.prepare_prompt(word).unwrap();
        whole.ids
    });
    let count = |ids: &[u32], word: &[u32]| ids.iter().filter(|id| word.contains(id)).count();
    assert_eq!(rain.len(), 1);
    for side in SIDES {
        let truncation = PairTruncation::new(20, side);
        assert_eq!(truncation.query_max_tokens, 15);
        let found = encode(&tokenizer, (&short, &long), truncation);
        let of_query = 4 * river.len();
        assert_eq!(count(&found.input_ids, &rain), 17 - of_query, "{side:?}");
        assert_eq!(found.tokens_cut, 40 + of_query - 17);
        assert_eq!(found.input_ids.len(), 20);
        // The query keeps its share.
        let found = encode(&tokenizer, (&long, &long), truncation);
        let first_end = found.token_type_ids.iter().position(|&kind| kind == 1);
        assert_eq!((first_end, found.input_ids.len()), (Some(17), 20));
        // And more than that when the document leaves room.
        let found = encode(&tokenizer, (&long, ""), truncation);
        assert_eq!(count(&found.input_ids, &rain), 17);
        assert_eq!(found.tokens_cut, 23);
        let found = encode(&tokenizer, (&long, "a"), truncation);
        assert_eq!(count(&found.input_ids, &rain), 16);
        // However small the limit, a document keeps a token before the query does.
        let found = encode(&tokenizer, (&long, &long), PairTruncation::new(4, side));
        assert_eq!(found.token_type_ids, [0, 0, 1, 1]);
    }
}

#[test]
fn what_must_not_be_cut_or_does_not_fit_is_an_error() {
    let tokenizer = tiny();
    let form = tokenizer.pair_form().unwrap();
    let refuse = |limit| PairTruncation::new(limit, TruncationSide::Refuse);
    let query = tokenizer
        .prepare_query(&form, "the rain", refuse(6))
        .unwrap();
    assert_eq!(
        tokenizer.encode_pair(&query, "a").unwrap().input_ids.len(),
        6
    );
    let error = tokenizer.encode_pair(&query, "a stone").unwrap_err();
    let expected = matches!(
        error,
        Error::InputTooLong {
            tokens: 7,
            limit: 6
        }
    );
    assert!(expected, "{error}");
    let error = tokenizer.prepare_query(&form, "", refuse(2)).unwrap_err();
    assert!(error.to_string().contains("`3` that are around"), "{error}");
}

#[test]
fn a_template_keeps_its_labels() {
    const TEMPLATE: PairTemplate = PairTemplate {
        spans: &[
            &[Part::Token("[CLS]")],
            &[Part::Text("query: "), Part::Query, Part::Text(" end")],
            &[Part::Text("document: "), Part::Document],
            &[Part::Instruction],
        ],
        instruction: "search",
        limit: TemplateLimit::Whole,
    };
    let tokenizer = tiny();
    let ids = |text: &str| tokenizer.prepare_prompt(text).unwrap().ids;
    let form = tokenizer.template_form(&TEMPLATE, None).unwrap();
    let long = "rain ".repeat(40);
    for (side, kept) in [
        (TruncationSide::End, "a stone"),
        (TruncationSide::Start, "stone a"),
    ] {
        let labels = [
            ids("query: "),
            ids(" end"),
            ids("document: "),
            ids("search"),
        ];
        let fixed = 1 + labels.iter().map(Vec::len).sum::<usize>();
        let truncation = PairTruncation {
            query_max_tokens: 0,
            ..PairTruncation::new(fixed + 1, side)
        };
        let query = tokenizer.prepare_query(&form, &long, truncation).unwrap();
        let found = tokenizer.encode_pair(&query, kept).unwrap();
        let document = [labels[2].clone(), ids("a")].concat();
        let cls = [tokenizer.inner.token_to_id("[CLS]").unwrap()];
        let whole = [&cls[..], &labels[0], &labels[1], &document, &labels[3]];
        assert_eq!(found.input_ids, whole.concat(), "{side:?}");
        assert_eq!(found.tokens_cut, 41);
    }
    let missing = PairTemplate {
        spans: &[
            &[Part::Token("<nobody>")],
            &[Part::Query],
            &[Part::Document],
        ],
        instruction: "",
        limit: TemplateLimit::Whole,
    };
    let error = tokenizer.template_form(&missing, None).unwrap_err();
    assert!(error.to_string().contains("`<nobody>`"), "{error}");
    for spans in [
        &[&[Part::Query, Part::Document] as &[Part]] as &[&[Part]],
        &[&[Part::Query]],
        &[&[Part::Query], &[Part::Document, Part::Text("after")]],
    ] {
        let template = PairTemplate {
            spans,
            instruction: "",
            limit: TemplateLimit::Whole,
        };
        assert!(tokenizer.template_form(&template, None).is_err());
    }
}
