//! `Linear` and `GatedLinear`: layers whose weights are in the session's store, not in the graph.

use super::{SessionPool, input, matrix, output, refuse};
use crate::{Epilogue, Execution, GatedLinear, Isa, LinearActivation, LinearStore, PackedLinear};
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::{Shape, SymbolicDimensions, TensorElementType, ValueType};
use std::sync::Arc;

/// Describes `Linear`.
pub(super) struct LinearOperator(pub(super) Arc<LinearStore>);

pub(super) struct LinearKernel {
    linear: Arc<PackedLinear>,
    activation: Option<LinearActivation>,
    // The instructions are those of the packed weight; this one only completes an `Execution`.
    isa: Isa,
}

impl Operator for LinearOperator {
    type Kernel<'attr> = LinearKernel;

    fn name(&self) -> &str {
        "Linear"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::optional(TensorElementType::Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<LinearKernel> {
        Ok(LinearKernel {
            linear: layer(&self.0, kernel, ["Linear", "key"])?,
            activation: activation(kernel)?,
            isa: Isa::detect(),
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        set_width(context, &self.0, "key")
    }
}

impl Kernel for LinearKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let x = input(context, 0, "x")?;
        let ([rows, _], x) = rows_of(matrix(&x, "x")?, &self.linear)?;
        let residual = context.input(1)?;
        let shape = [rows, self.linear.out_features()];
        let residual = match &residual {
            Some(residual) => match matrix(residual, "residual")? {
                (found, values) if found == shape => Some(values),
                (found, _) => {
                    return Err(refuse(format!(
                        "`residual` is `{found:?}`; it must have the shape of the output, \
                         `{shape:?}`"
                    )));
                }
            },
            None => None,
        };
        let epilogue = Epilogue {
            activation: self.activation,
            residual,
        };
        let mut out = output(context, shape)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let execution = Execution {
            isa: self.isa,
            parallel: &SessionPool(context),
        };
        Ok(self.linear.apply(x, epilogue, execution, out)?)
    }
}

/// Describes `GatedLinear`.
pub(super) struct GatedLinearOperator(pub(super) Arc<LinearStore>);

pub(super) struct GatedLinearKernel {
    gate: Arc<PackedLinear>,
    up: Arc<PackedLinear>,
    activation: LinearActivation,
    isa: Isa,
}

impl GatedLinearKernel {
    fn gated(&self) -> GatedLinear<'_> {
        GatedLinear {
            gate: &self.gate,
            up: &self.up,
            activation: self.activation,
        }
    }
}

impl Operator for GatedLinearOperator {
    type Kernel<'attr> = GatedLinearKernel;

    fn name(&self) -> &str {
        "GatedLinear"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        kernel: &KernelContext<'attr>,
    ) -> ort::Result<GatedLinearKernel> {
        let Some(activation) = activation(kernel)? else {
            return Err(refuse(
                "`GatedLinear` needs the attribute `activation`, such as `silu`",
            ));
        };
        let kernel = GatedLinearKernel {
            gate: layer(&self.0, kernel, ["GatedLinear", "gate"])?,
            up: layer(&self.0, kernel, ["GatedLinear", "up"])?,
            activation,
            isa: Isa::detect(),
        };
        kernel.gated().check()?;
        Ok(kernel)
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        set_width(context, &self.0, "gate")
    }
}

impl Kernel for GatedLinearKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let x = input(context, 0, "x")?;
        let ([rows, _], x) = rows_of(matrix(&x, "x")?, &self.gate)?;
        let mut out = output(context, [rows, self.gate.out_features()])?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let execution = Execution {
            isa: self.isa,
            parallel: &SessionPool(context),
        };
        Ok(self.gated().apply(x, execution, out)?)
    }
}

/// The layer that an attribute of an operator names.
fn layer(
    linears: &LinearStore,
    kernel: &KernelContext<'_>,
    [operator, attribute]: [&str; 2],
) -> ort::Result<Arc<PackedLinear>> {
    let Some(key) = kernel.get::<String>(attribute) else {
        return Err(refuse(format!(
            "`{operator}` needs the attribute `{attribute}`, the name of a weight"
        )));
    };
    match linears.get(&key) {
        Some(linear) => Ok(linear.clone()),
        None => Err(refuse(format!(
            "`{operator}` names the weight `{key}`, which is not among the `{}` packed ones",
            linears.len()
        ))),
    }
}

/// The activation a node names, if it does.
fn activation(kernel: &KernelContext<'_>) -> ort::Result<Option<LinearActivation>> {
    match kernel.get::<String>("activation") {
        Some(name) if !name.is_empty() => Ok(Some(name.parse()?)),
        _ => Ok(None),
    }
}

/// Rows whose width is that of the layer's inputs.
fn rows_of<'v>(
    ([rows, width], values): ([usize; 2], &'v [f32]),
    linear: &PackedLinear,
) -> ort::Result<([usize; 2], &'v [f32])> {
    let expected = linear.in_features();
    if width != expected {
        return Err(refuse(format!(
            "`x` is `[{rows}, {width}]`; the weight takes rows of `{expected}` values"
        )));
    }
    Ok(([rows, width], values))
}

/// Tells ONNX Runtime how wide the output is: as many columns as the named weight has outputs.
fn set_width(
    context: &mut ShapeInferenceContext,
    linears: &LinearStore,
    attribute: &str,
) -> ort::Result<()> {
    let linear = context.attr::<String>(attribute).ok();
    let Some(linear) = linear.and_then(|key| linears.get(&key)) else {
        return Ok(());
    };
    let Some(ValueType::Tensor {
        ty,
        shape,
        dimension_symbols,
    }) = context.inputs().into_iter().next()
    else {
        return Ok(());
    };
    let [rows, _] = shape[..] else { return Ok(()) };
    let symbol = dimension_symbols.first().cloned().unwrap_or_default();
    context.set_output(
        0,
        &ValueType::Tensor {
            ty,
            shape: Shape::new([rows, linear.out_features() as i64]),
            dimension_symbols: SymbolicDimensions::new([symbol, String::new()]),
        },
    )
}
