//! Real checkpoints through real sessions.

mod given;
mod golden;
mod stories;

use super::*;
use crate::decoder::blocks::BlockPool;
use crate::decoder::generate::SequenceStep;

/// A text that is continued greedily.
#[derive(Debug, Clone)]
pub(super) struct Running {
    /// The tokens so far, the prompt's first.
    pub(super) ids: Vec<u32>,
    pub(super) blocks: Vec<u32>,
    /// How many of the tokens are in the blocks.
    pub(super) done: usize,
}

impl Running {
    pub(super) fn new(prompt: &[u32]) -> Self {
        Self {
            ids: prompt.to_vec(),
            blocks: Vec::new(),
            done: 0,
        }
    }
}

pub(super) fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        assert!(logit.is_finite());
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Continues all texts together until each has so many tokens; prompts are run in pieces of at
/// most `chunk` tokens.
pub(super) fn continue_greedily(
    generator: &mut dyn Generate,
    pool: &mut BlockPool,
    (texts, chunk): (&mut [Running], usize),
    tokens: usize,
) {
    loop {
        let unfinished = |text: &Running| text.ids.len() < tokens;
        let active: Vec<usize> = (0..texts.len())
            .filter(|&at| unfinished(&texts[at]))
            .collect();
        if active.is_empty() {
            return;
        }
        for &at in &active {
            let text = &mut texts[at];
            let end = text.ids.len().min(text.done + chunk);
            let missing = pool.blocks_for(end).saturating_sub(text.blocks.len());
            text.blocks.extend(pool.allocate(missing).unwrap());
        }
        let steps: Vec<SequenceStep<'_>> = active
            .iter()
            .map(|&at| {
                let text = &texts[at];
                let end = text.ids.len().min(text.done + chunk);
                SequenceStep {
                    input_ids: &text.ids[text.done..end],
                    past: text.done,
                    blocks: &text.blocks,
                    wants_logits: end == text.ids.len(),
                }
            })
            .collect();
        let logits = generator.step(&steps).unwrap();
        let mut row = 0;
        for at in active {
            let text = &mut texts[at];
            text.done = text.ids.len().min(text.done + chunk);
            if text.done == text.ids.len() {
                text.ids.push(likeliest(logits.row(row)));
                row += 1;
            }
        }
        assert_eq!(row, logits.rows());
    }
}
