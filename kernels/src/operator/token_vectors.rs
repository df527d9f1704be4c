//! `UnitRows`, `LexicalWeights` and `MaxSim` on the processor: the definitions of what a device
//! computes, for graphs that are made for one.

use super::{input, matrix, refuse};
use crate::lexical::{PackedTokens, lexical_weights};
use crate::max_sim::{PackedVectors, max_sim};
use crate::normalize::unit_rows;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::{TensorElementType, ValueRefMut};

const FLOAT: TensorElementType = TensorElementType::Float32;
const INT: TensorElementType = TensorElementType::Int32;

/// How many values `UnitRows` keeps of each row; `None` means all.
pub(crate) fn dimensions(kernel: &KernelContext<'_>) -> ort::Result<Option<usize>> {
    match kernel.get::<i64>("dimensions") {
        None | Some(0) => Ok(None),
        Some(found) => match usize::try_from(found) {
            Ok(dimensions) => Ok(Some(dimensions)),
            Err(_) => Err(refuse(format!(
                "`dimensions` is `{found}`; it must be a number of values, or `0` for all of them"
            ))),
        },
    }
}

/// The tokens that get no weight from `LexicalWeights`.
pub(crate) fn left_out(kernel: &KernelContext<'_>) -> Vec<i64> {
    kernel.get::<Vec<i64>>("left_out").unwrap_or_default()
}

/// An output of any shape.
pub(crate) fn output_at<'c>(
    context: &'c ComputeContext,
    at: usize,
    shape: &[usize],
) -> ort::Result<ValueRefMut<'c>> {
    let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    let value = context.output(at, shape)?;
    value.ok_or_else(|| refuse("the output is missing"))
}

/// Describes `UnitRows`.
pub(super) struct UnitRowsOperator;

pub(super) struct UnitRowsKernel(Option<usize>);

impl Operator for UnitRowsOperator {
    type Kernel<'attr> = UnitRowsKernel;

    fn name(&self) -> &str {
        "UnitRows"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(FLOAT)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [
            OperatorOutput::required(FLOAT),
            OperatorOutput::required(INT),
        ]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<UnitRowsKernel> {
        dimensions(kernel).map(UnitRowsKernel)
    }
}

impl Kernel for UnitRowsKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let rows = input(context, 0, "rows")?;
        let ([count, width], rows) = matrix(&rows, "rows")?;
        let dimensions = self.0.unwrap_or(width);
        let mut out = output_at(context, 0, &[count, dimensions])?;
        let mut faults = output_at(context, 1, &[count])?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let (_, faults) = faults.try_extract_tensor_mut::<i32>()?;
        Ok(unit_rows(rows, [width, dimensions], out, faults)?)
    }
}

/// Describes `LexicalWeights`.
pub(super) struct LexicalOperator;

pub(super) struct LexicalKernel(Vec<i64>);

impl Operator for LexicalOperator {
    type Kernel<'attr> = LexicalKernel;

    fn name(&self) -> &str {
        "LexicalWeights"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOAT, TensorElementType::Int64, INT].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(FLOAT)]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<LexicalKernel> {
        Ok(LexicalKernel(left_out(kernel)))
    }
}

impl Kernel for LexicalKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let weights = input(context, 0, "weights")?;
        let ids = input(context, 1, "input_ids")?;
        let cu_seqlens = input(context, 2, "cu_seqlens")?;
        let ([tokens, _], weights) = matrix(&weights, "weights")?;
        let packed = PackedTokens {
            ids: ids.try_extract_tensor::<i64>()?.1,
            cu_seqlens: cu_seqlens.try_extract_tensor::<i32>()?.1,
            left_out: &self.0,
        };
        let mut out = output_at(context, 0, &[tokens, 1])?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        Ok(lexical_weights(weights, &packed, out)?)
    }
}

/// Describes `MaxSim`.
pub(super) struct MaxSimOperator;

pub(super) struct MaxSimKernel;

impl Operator for MaxSimOperator {
    type Kernel<'attr> = MaxSimKernel;

    fn name(&self) -> &str {
        "MaxSim"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(FLOAT),
            OperatorInput::required(INT),
            OperatorInput::required(INT),
            OperatorInput::optional(TensorElementType::Bool),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(FLOAT)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<MaxSimKernel> {
        Ok(MaxSimKernel)
    }
}

impl Kernel for MaxSimKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let vectors = input(context, 0, "vectors")?;
        let cu_seqlens = input(context, 1, "cu_seqlens")?;
        let pairs = input(context, 2, "pairs")?;
        let kept = context.input(3)?;
        let ([_, size], vectors) = matrix(&vectors, "vectors")?;
        let kept = kept.as_ref().map(|kept| kept.try_extract_tensor::<bool>());
        let packed = PackedVectors {
            vectors,
            size,
            cu_seqlens: cu_seqlens.try_extract_tensor::<i32>()?.1,
            kept: kept.transpose()?.map(|(_, kept)| kept),
        };
        let (_, pairs) = pairs.try_extract_tensor::<i32>()?;
        let (pairs, rest) = pairs.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(refuse("`pairs` must be `[pairs, 2]`"));
        }
        let mut out = output_at(context, 0, &[pairs.len()])?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        Ok(max_sim(&packed, pairs, out)?)
    }
}
