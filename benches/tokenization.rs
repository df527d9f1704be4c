//! How fast texts become token ids, and what share of an embedding that is.

use std::path::Path;

use retort_models::{Tokenizer, Truncation, TruncationSide};

use crate::{
    measure::{Outcome, Ratio, Side, Table, Targets, interleave, median, processor, seconds},
    subject::Subject,
    texts::Texts,
};

const ROUNDS: usize = 7;
const TEXTS: usize = 512;
const SEED: u64 = 7;
/// Nothing is cut, so that all tokens are counted.
const UNCUT: Truncation = Truncation {
    max_tokens: usize::MAX,
    side: TruncationSide::End,
};
/// Data that the project shares beside its sources; not everybody has it.
const XLM_ROBERTA: &str = "../shared/data/tokenizers/xlm-roberta";

/// Measures the tokenizer of the model, and XLM-RoBERTa's when it is there.
pub fn run(subject: &Subject, _targets: &mut Targets) -> Outcome {
    let texts = Texts::new(SEED).mix(TEXTS);
    let cores = processor::cores();
    let mut table = Table::new(
        format!("### Tokenization of {TEXTS} texts of 8 to 128 words"),
        &[
            "tokenizer",
            "tokens/s, 1 thread",
            &format!("{cores} threads"),
            "speed-up",
            "µs per text",
        ],
    );
    speed(
        "MiniLM (WordPiece)",
        subject.model.tokenizer(),
        &texts,
        &mut table,
    )?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(XLM_ROBERTA);
    if folder.is_dir() {
        speed(
            "XLM-RoBERTa (Unigram)",
            &Tokenizer::load(&folder)?,
            &texts,
            &mut table,
        )?;
        table.print();
    } else {
        table.print();
        println!("\nXLM-RoBERTa's tokenizer is left out: `{XLM_ROBERTA}` is not there");
    }
    share(subject, &texts)
}

fn speed(name: &str, tokenizer: &Tokenizer, texts: &[String], table: &mut Table) -> Outcome {
    let tokens = encode_all(tokenizer, texts)? as f64;
    let cores = processor::cores();
    let sides: [Side<'_>; 2] = [
        Box::new(|| Ok(tokens / seconds(|| encode_all(tokenizer, texts).map(drop))?)),
        Box::new(|| Ok(tokens / seconds(|| encode_on(cores, tokenizer, texts))?)),
    ];
    let [one, all] = interleave(ROUNDS, sides)?;
    table.row(
        name,
        [
            format!("{:.0}", median(&one)),
            format!("{:.0}", median(&all)),
            format!("{:.2}×", Ratio::of(&all, &one).median),
            format!("{:.1}", 1e6 * tokens / median(&one) / texts.len() as f64),
        ],
    );
    Ok(())
}

fn encode_all(tokenizer: &Tokenizer, texts: &[String]) -> Outcome<usize> {
    let mut tokens = 0;
    for text in texts {
        tokens += tokenizer.encode(text, UNCUT)?.input_ids.len();
    }
    Ok(tokens)
}

fn encode_on(threads: usize, tokenizer: &Tokenizer, texts: &[String]) -> Outcome {
    std::thread::scope(|scope| {
        let parts = texts.chunks(texts.len().div_ceil(threads));
        let encode = |part| encode_all(tokenizer, part).map_err(|error| error.to_string());
        let threads: Vec<_> = parts
            .map(|part| scope.spawn(move || encode(part)))
            .collect();
        for thread in threads {
            thread
                .join()
                .map_err(|_| "a tokenizing thread panicked")??;
        }
        Ok(())
    })
}

/// Tokenization beside the forward pass of the same texts, each on one core.
fn share(subject: &Subject, texts: &[String]) -> Outcome {
    let mut encoder = subject.model.encoder(1)?;
    let mut table = Table::new(
        "### Tokenization beside the forward pass, MiniLM, one core",
        &["texts", "tokenize, s", "forward pass, s", "share of both"],
    );
    let short: Vec<String> = {
        let mut source = Texts::new(SEED);
        (0..TEXTS / 4).map(|_| source.words(8)).collect()
    };
    let mixed = &texts[..TEXTS / 8];
    for (name, texts) in [("8 words", &short[..]), ("8 to 128 words", mixed)] {
        let batches = subject.batches(texts, 256)?;
        let tokenizer = subject.model.tokenizer();
        let sides: [Side<'_>; 2] = [
            Box::new(|| seconds(|| encode_all(tokenizer, texts).map(drop))),
            Box::new(|| {
                seconds(|| {
                    batches
                        .iter()
                        .try_for_each(|batch| Ok(encoder.encode(batch).map(drop)?))
                })
            }),
        ];
        let [tokenize, forward] = interleave(ROUNDS, sides)?;
        let both: Vec<f64> = tokenize.iter().zip(&forward).map(|(t, f)| t + f).collect();
        table.row(
            format!("{} of {name}", texts.len()),
            [
                format!("{:.4}", median(&tokenize)),
                format!("{:.3}", median(&forward)),
                format!("{:.1} %", 100.0 * Ratio::of(&tokenize, &both).median),
            ],
        );
    }
    table.print();
    Ok(())
}
