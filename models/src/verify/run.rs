//! The inputs of a verification through an encoder: each alone, each again among the others, and
//! some twice. A run that fails is a result like any other.

use super::plan::Input;
use super::properties::Probes;
use crate::batch::Batch;
use crate::encoder::Encode;
use crate::heads::{Heads, Output};

/// Tokens of one batch in which inputs are run together: enough for dozens of short texts.
const TOGETHER_TOKENS_MAX: usize = 2048;

/// What came out, per input.
pub(super) struct Runs {
    /// Of each input on its own. `[inputs]`
    pub alone: Vec<Result<Output, String>>,
    /// Of each input in a batch with others. `[inputs]`
    pub together: Vec<Result<Output, String>>,
    /// Of the probes on their own, once more. `[probes]`
    pub again: Vec<Result<Output, String>>,
}

impl Runs {
    /// Runs everything; `progress` is told how far it is.
    pub fn of(
        encoder: &mut dyn Encode,
        inputs: &[Input],
        probes: &Probes,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Self {
        let all = together(inputs);
        let total = inputs.len() + probes.inputs.len() + all.len();
        let mut done = 0;
        let mut run = |batch: &Batch| {
            let outputs = run(encoder, batch);
            done += 1;
            progress(done, total);
            outputs
        };
        let mut alone = |input: &Input| {
            let mut batch = Batch::wanting(input.heads);
            batch.push(&input.encoding);
            run(&batch).pop().unwrap_or_else(|| Err(too_few(0, 1)))
        };
        let first: Vec<_> = inputs.iter().map(&mut alone).collect();
        let again = probes.inputs.iter().map(|&index| alone(&inputs[index]));
        let again: Vec<_> = again.collect();
        Self {
            alone: first,
            together: all.iter().flat_map(run).collect(),
            again,
        }
    }
}

/// All inputs in as few batches as they fit into, every batch wanting all that any input wants.
fn together(inputs: &[Input]) -> Vec<Batch> {
    let heads = inputs.iter().fold(Heads::NONE, |all, i| all | i.heads);
    let mut batch = Batch::wanting(heads);
    inputs.iter().for_each(|input| batch.push(&input.encoding));
    batch.parts(TOGETHER_TOKENS_MAX)
}

/// One result per sequence, whatever happens.
fn run(encoder: &mut dyn Encode, batch: &Batch) -> Vec<Result<Output, String>> {
    let sequences = batch.sequences();
    match encoder.encode(batch) {
        Ok(outputs) if outputs.len() == sequences => outputs.into_iter().map(Ok).collect(),
        Ok(outputs) => vec![Err(too_few(outputs.len(), sequences)); sequences],
        Err(error) => vec![Err(error.to_string()); sequences],
    }
}

fn too_few(outputs: usize, sequences: usize) -> String {
    format!("`{outputs}` outputs for `{sequences}` inputs")
}
