//! Runs the graph of a decoder that this crate built: packed tokens of all sequences, keys and
//! values in a pool of blocks.

use ort::value::TensorRef;

use super::generate::{Generate, GeneratorInfo, SequenceStep, StepLogits};
use crate::error::{Error, Result};
use crate::graph::decoder::name;
use crate::session::LoadedSession;

/// The generator of a built graph.
pub(super) struct PackedGenerator {
    session: LoadedSession,
    bounds: GeneratorInfo,
    embeddings: usize,
    inputs: Inputs,
}

/// What a run is given; kept between runs so that a step allocates nothing for it.
#[derive(Default)]
struct Inputs {
    input_ids: Vec<i64>,    // `[tokens]`
    position_ids: Vec<i64>, // `[tokens]`
    cu_seqlens: Vec<i32>,   // `[sequences + 1]`
    past_lens: Vec<i32>,    // `[sequences]`
    block_tables: Vec<i32>, // `[sequences, columns]`
    logit_rows: Vec<i64>,   // `[rows]`
    columns: usize,
}

impl Inputs {
    /// Fills in steps that are checked.
    fn fill(&mut self, steps: &[SequenceStep<'_>], block_tokens: usize) {
        let blocks =
            |step: &SequenceStep<'_>| (step.past + step.input_ids.len()).div_ceil(block_tokens);
        self.columns = steps.iter().map(blocks).max().unwrap_or(0);
        self.input_ids.clear();
        self.position_ids.clear();
        self.cu_seqlens.clear();
        self.cu_seqlens.push(0);
        self.past_lens.clear();
        self.block_tables.clear();
        self.logit_rows.clear();
        for (sequence, step) in steps.iter().enumerate() {
            self.input_ids
                .extend(step.input_ids.iter().map(|&id| i64::from(id)));
            let end = step.past + step.input_ids.len();
            self.position_ids.extend(step.past as i64..end as i64);
            let tokens = self.input_ids.len();
            self.cu_seqlens.push(tokens as i32);
            self.past_lens.push(step.past as i32);
            let held = step.blocks[..blocks(step)]
                .iter()
                .map(|&block| block as i32);
            self.block_tables.extend(held);
            self.block_tables.resize((sequence + 1) * self.columns, -1);
            if step.wants_logits {
                self.logit_rows.push(tokens as i64 - 1);
            }
        }
    }
}

impl PackedGenerator {
    pub(super) fn new(session: LoadedSession, bounds: GeneratorInfo, embeddings: usize) -> Self {
        Self {
            session,
            bounds,
            embeddings,
            inputs: Inputs::default(),
        }
    }
}

impl Generate for PackedGenerator {
    fn info(&self) -> GeneratorInfo {
        self.bounds
    }

    fn step(&mut self, steps: &[SequenceStep<'_>]) -> Result<StepLogits> {
        if steps.is_empty() {
            return Ok(StepLogits::default());
        }
        self.bounds.check(steps, self.embeddings)?;
        self.inputs.fill(steps, self.bounds.kv_block_tokens);
        let inputs = &mut self.inputs;
        let wanted = inputs.logit_rows.len();
        // ONNX Runtime's products take no empty matrix.
        if wanted == 0 {
            inputs.logit_rows.push(0);
        }
        let (tokens, sequences) = ([inputs.input_ids.len()], [steps.len()]);
        let tables = [steps.len(), inputs.columns];
        let given = ort::inputs![
            "input_ids" => TensorRef::from_array_view((tokens, &inputs.input_ids[..]))?,
            "position_ids" => TensorRef::from_array_view((tokens, &inputs.position_ids[..]))?,
            "cu_seqlens" => TensorRef::from_array_view(
                ([steps.len() + 1], &inputs.cu_seqlens[..])
            )?,
            name::PAST_LENS => TensorRef::from_array_view((sequences, &inputs.past_lens[..]))?,
            name::BLOCK_TABLES => TensorRef::from_array_view((tables, &inputs.block_tables[..]))?,
            name::LOGIT_ROWS => TensorRef::from_array_view(
                ([inputs.logit_rows.len()], &inputs.logit_rows[..])
            )?,
        ];
        let results = self.session.run(given)?;
        let logits = results
            .get(name::LOGITS)
            .ok_or_else(|| Error::Runtime("the graph gave no logits".to_owned()))?;
        let (shape, values) = logits.try_extract_tensor::<f32>()?;
        let columns = shape.last().map_or(0, |&columns| columns as usize);
        let values = values[..wanted * columns].to_vec();
        Ok(StepLogits::new(values, columns, self.bounds.vocab_size))
    }
}
