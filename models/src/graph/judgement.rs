//! The scores of rerankers that are decoders, all made of the last token of a sequence.

use retort_kernels::Pooling;

use super::blocks::Blocks;
use super::{Dim, Graph, Value};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::heads::judgement::{AnswerPlan, ScorePlan};

impl Blocks<'_> {
    /// The scores that a plan means: `[tokens, hidden]`, `[sequences + 1]` → `[sequences, labels]`
    pub(super) fn judgement(
        &mut self,
        plan: &ScorePlan,
        [hidden, cu_seqlens]: [&Value; 2],
        config: &Config,
    ) -> Result<Value> {
        let sequences = (cu_seqlens, Dim::Named("sequences"));
        let last =
            |graph: &mut Graph<'_>| graph.packed_pooling(hidden, sequences, Pooling::LastToken);
        match plan {
            ScorePlan::Answer(answer) => {
                let last = last(&mut self.graph)?;
                self.in_32_bits(|blocks| blocks.answer(answer, &last))
            }
            ScorePlan::LayerHead { weight, .. } => {
                let last = last(&mut self.graph)?;
                self.in_32_bits(|blocks| {
                    let shape = [1, blocks.sizes.hidden];
                    let weight = blocks.graph.weight(weight, &shape)?;
                    blocks.graph.linear(&last, &weight, None)
                })
            }
            ScorePlan::Classifier => self.scores([hidden, cu_seqlens], config),
        }
    }

    /// Only the rows of the answers are multiplied with, not those of the whole vocabulary.
    /// `[sequences, hidden]` → `[sequences, 1]`
    fn answer(&mut self, plan: &AnswerPlan, last: &Value) -> Result<Value> {
        let yes = self.output_embedding(plan, plan.tokens.yes)?;
        let yes = self.graph.linear(last, &yes, None)?;
        let Some(no) = plan.tokens.no else {
            return Ok(yes);
        };
        let no = self.output_embedding(plan, no)?;
        let no = self.graph.linear(last, &no, None)?;
        self.graph.subtract(&yes, &no)
    }

    /// `[1, hidden]`
    fn output_embedding(&mut self, plan: &AnswerPlan, id: u32) -> Result<Value> {
        let row = id as usize..id as usize + 1;
        match plan.output_embeddings {
            Some(name) => {
                let shape = self.graph.weight_shape(name)?;
                self.graph.weight_rows(name, &shape, row)
            }
            None => self.word_embedding_rows(row),
        }
    }
}
