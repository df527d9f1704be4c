use proptest::prelude::*;

use super::super::pair::PairTruncation;
use super::super::tests::{GOLDEN_PAIRS, WHOLE, cut, golden_pairs, tiny};
use super::*;

const TEXT: &str = "The harbour's lights, 3 of 12, were out.  Nobody (not one) saw\n\tit; \
    这座桥是很旧的 ﷺ 🦀🦀👩‍👩‍👧 ok é old, и дождь идёт над городом! ";

/// A text's tokens without the special ones.
fn bare(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u32> {
    let before = tokenizer.single.before_first();
    let after = tokenizer.special_tokens() - before;
    ids[before..ids.len() - after].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn parts_cover_everything_and_overlap_as_told(
        seams in prop::collection::vec(0..4_u8, 0..120),
        capacity in 1_usize..20,
        overlap in 0_usize..10,
    ) {
        let seams: Vec<Seam> = seams
            .into_iter()
            .map(|seam| [Seam::InCharacter, Seam::InWord, Seam::Word, Seam::InWord][seam as usize])
            .collect();
        let parts = ranges(&seams, capacity, overlap);
        prop_assert_eq!(parts.is_err(), overlap > capacity / 2);
        let Ok(parts) = parts else { return Ok(()) };
        prop_assert_eq!(parts[0].start, 0);
        prop_assert_eq!(parts[parts.len() - 1].end, seams.len());
        prop_assert!(parts.len() <= 1 + 4 * seams.len() / capacity);
        for part in &parts {
            prop_assert!(part.len() <= capacity);
            prop_assert!(!part.is_empty() || seams.is_empty());
        }
        for pair in parts.windows(2) {
            let (one, next) = (&pair[0], &pair[1]);
            prop_assert!(one.start < next.start && next.start <= one.end && one.end < next.end);
            prop_assert!(one.end - next.start <= overlap);
            // A character is only cut where one alone is longer than a part.
            for place in [one.end, next.start] {
                let within = &seams[one.start + 1..=(one.start + capacity)];
                let long = within.iter().all(|seam| *seam == Seam::InCharacter);
                prop_assert!(seams[place] != Seam::InCharacter || long);
            }
        }
    }
}

#[test]
fn chunks_of_published_tokenizers_put_together_are_the_whole() {
    for name in GOLDEN_PAIRS {
        let Some((tokenizer, _)) = golden_pairs(name) else {
            continue;
        };
        let text = TEXT.repeat(6);
        let whole = bare(
            &tokenizer,
            &tokenizer.encode(&text, WHOLE).unwrap().input_ids,
        );
        let encode = |overlap| {
            let chunking = Chunking {
                max_tokens: 40,
                overlap,
            };
            tokenizer
                .encode_chunks(&Prompt::default(), &text, chunking)
                .unwrap()
        };
        let chunks = encode(0);
        let parts: Vec<u32> = chunks
            .iter()
            .flat_map(|chunk| bare(&tokenizer, &chunk.input_ids))
            .collect();
        assert_eq!(parts, whole, "{name}");
        assert!(chunks.iter().all(|chunk| chunk.input_ids.len() <= 40));
        // No chunk has half a character, which would be decoded to `�`.
        for chunk in chunks.iter().chain(&encode(12)) {
            let text = tokenizer.decode(&chunk.input_ids, super::super::SpecialTokens::Skip);
            let text = text.unwrap();
            assert!(!text.contains('\u{fffd}'), "{name}: {text:?}");
        }
    }
}

#[test]
fn a_chunk_ends_before_a_word_and_has_the_prompt() {
    let tokenizer = tiny();
    let prompt = tokenizer.prepare_prompt("query: ").unwrap();
    let text = "searching the river and the mountain for the quickest answer";
    let chunking = Chunking {
        max_tokens: 10,
        overlap: 2,
    };
    let chunks = tokenizer.encode_chunks(&prompt, text, chunking).unwrap();
    assert!(chunks.len() > 2);
    let begin = tokenizer
        .encode_prompted(&prompt, "", WHOLE)
        .unwrap()
        .input_ids;
    for chunk in &chunks {
        assert!(chunk.input_ids.starts_with(&begin[..3]) && chunk.input_ids.ends_with(&begin[3..]));
        assert_eq!((chunk.prompt_tokens, chunk.tokens_cut), (3, 0));
        let first = tokenizer.id_to_token(chunk.input_ids[3]).unwrap();
        assert!(!first.starts_with("##"), "{first}");
    }
    let greedy = Chunking {
        max_tokens: 10,
        overlap: 4,
    };
    let error = tokenizer.encode_chunks(&prompt, text, greedy).unwrap_err();
    assert!(error.to_string().contains("overlap of `4`"), "{error}");
    let empty = tokenizer.encode_chunks(&prompt, "", chunking).unwrap();
    assert_eq!(empty[0].input_ids, begin);
}

#[test]
fn chunks_of_a_document_each_have_the_query() {
    let tokenizer = tiny();
    let form = tokenizer.pair_form().unwrap();
    let truncation = PairTruncation::new(16, TruncationSide::Refuse);
    let query = tokenizer
        .prepare_query(&form, "the old rain", truncation)
        .unwrap();
    let document = "rain river mountain library ".repeat(9);
    let whole = tokenizer.encode(&document, WHOLE).unwrap().input_ids;
    let chunks = tokenizer.encode_pair_chunks(&query, &document, 0).unwrap();
    let begin = tokenizer.encode("the old rain", WHOLE).unwrap().input_ids;
    let mut parts = Vec::new();
    for chunk in &chunks {
        let ids = &chunk.input_ids;
        assert!(ids.len() <= 16 && ids.starts_with(&begin));
        assert_eq!(chunk.token_type_ids.len(), ids.len());
        parts.extend_from_slice(&ids[begin.len()..ids.len() - 1]);
    }
    assert_eq!(parts, whole[1..whole.len() - 1]);
    let short = tokenizer.encode_pair_chunks(&query, "rain", 0).unwrap();
    assert_eq!(short, [tokenizer.encode_pair(&query, "rain").unwrap()]);
    let long = tokenizer
        .prepare_query(&form, &document, truncation)
        .unwrap();
    assert!(tokenizer.encode_pair_chunks(&long, &document, 0).is_err());
}

#[test]
fn texts_joined_are_read_as_one_and_pooled_apart() {
    let texts = ["Nobody saw it", "the river rain", "and light 12"];
    for name in GOLDEN_PAIRS {
        let Some((tokenizer, _)) = golden_pairs(name) else {
            continue;
        };
        let prompt = tokenizer.prepare_prompt("query: ").unwrap();
        let joined = tokenizer.encode_joined(&prompt, &texts, WHOLE).unwrap();
        let whole = tokenizer
            .encode_prompted(&prompt, &texts.join(" "), WHOLE)
            .unwrap();
        assert_eq!(joined.input_ids, whole.input_ids, "{name}");
        assert_eq!(joined.prompt_tokens, whole.prompt_tokens);
        assert_eq!(joined.segments.len(), 3);
        assert_eq!(joined.segments[2] as usize, whole.input_ids.len());
        // The second segment is the second text.
        let [first, second] = [0, 1].map(|at| joined.segments[at] as usize);
        let segment = &joined.input_ids[first..second];
        let decoded = tokenizer
            .decode(segment, super::super::SpecialTokens::Keep)
            .unwrap();
        assert_eq!(decoded.trim(), texts[1], "{name}");
    }
}

#[test]
fn a_segment_always_has_a_token() {
    let tokenizer = tiny();
    let encode =
        |texts: &[&str], truncation| tokenizer.encode_joined(&Prompt::default(), texts, truncation);
    let texts = ["rain river", "the", "rain light"];
    let whole = encode(&texts, WHOLE).unwrap();
    assert_eq!(
        (&whole.segments[..], whole.input_ids.len()),
        (&[3, 4, 7][..], 7)
    );
    let end = encode(&texts, cut(6, TruncationSide::End)).unwrap();
    assert_eq!((&end.segments[..], end.tokens_cut), (&[3, 4, 6][..], 1));
    let start = encode(&texts, cut(6, TruncationSide::Start)).unwrap();
    assert_eq!((&start.segments[..], start.tokens_cut), (&[2, 3, 6][..], 1));
    for side in [TruncationSide::End, TruncationSide::Start] {
        let error = encode(&texts, cut(5, side)).unwrap_err();
        assert!(
            matches!(
                error,
                Error::InputTooLong {
                    tokens: 7,
                    limit: 5
                }
            ),
            "{error}"
        );
    }
    assert!(encode(&texts, cut(6, TruncationSide::Refuse)).is_err());
    assert!(
        encode(&["rain", ""], WHOLE)
            .unwrap_err()
            .to_string()
            .contains("input `1`")
    );
    assert!(encode(&[], WHOLE).is_err());
}
