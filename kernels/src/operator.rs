//! The kernels as ONNX Runtime custom operators of the domain `retort`.
//!
//! - `PackedAttention(query, key, value, cu_seqlens) -> [T, H]`: three `[T, H]` floats and
//!   `[B + 1]` int32; attributes `num_heads` and `scale`, by default `1 / sqrt(head_size)`.
//! - `PackedPooling(hidden, cu_seqlens) -> [B, H]`: `[T, H]` floats and `[B + 1]` int32;
//!   attribute `pooling`, a name of [`Pooling`].
//!
//! Bad attributes stop the session from being built, bad shapes stop the run; both say why.

use crate::attention::attention;
use crate::pooling::pool;
use crate::{
    Execution, Isa, KernelError, PackedAttention, PackedHidden, Parallel, Pooling, Sequential,
    Strided,
};
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::{Shape, SymbolicDimensions, TensorElementType, ValueRef, ValueType};

/// Domain of the operators in a graph.
pub const DOMAIN: &str = "retort";

/// The operators, for `SessionBuilder::with_operators`. ONNX Runtime must be loaded.
pub fn operator_domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(AttentionOperator)?
        .add(PoolingOperator)
}

/// Describes `PackedAttention`. Without a `scale` it is `1 / sqrt(head_size)`.
struct AttentionOperator;

struct AttentionKernel {
    num_heads: usize,
    scale: Option<f32>,
    isa: Isa,
}

impl Operator for AttentionOperator {
    type Kernel<'attr> = AttentionKernel;

    fn name(&self) -> &str {
        "PackedAttention"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let float = || OperatorInput::required(TensorElementType::Float32);
        [
            float(),
            float(),
            float(),
            OperatorInput::required(TensorElementType::Int32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<AttentionKernel> {
        let num_heads = kernel
            .get::<i64>("num_heads")
            .and_then(|n| usize::try_from(n).ok());
        let Some(num_heads) = num_heads.filter(|&n| n > 0) else {
            return Err(refuse(
                "`PackedAttention` needs the attribute `num_heads`, at least `1`",
            ));
        };
        let scale = kernel.get::<f32>("scale");
        if let Some(found) = scale.filter(|scale| !scale.is_finite()) {
            return Err(refuse(KernelError::Scale { found }.to_string()));
        }
        Ok(AttentionKernel {
            num_heads,
            scale,
            isa: Isa::detect(),
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        match context.inputs().first() {
            Some(query) if rank(query) == Some(2) => context.set_output(0, query),
            _ => Ok(()),
        }
    }
}

impl Kernel for AttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = [(0, "query"), (1, "key"), (2, "value"), (3, "cu_seqlens")];
        let [query, key, value, cu_seqlens] = inputs.map(|(at, name)| input(context, at, name));
        let (query, key, value, cu_seqlens) = (query?, key?, value?, cu_seqlens?);
        let ([tokens, width], query) = matrix(&query, "query")?;
        let (key_shape, key) = matrix(&key, "key")?;
        let (value_shape, value) = matrix(&value, "value")?;
        for (name, shape) in [("key", key_shape), ("value", value_shape)] {
            if shape != [tokens, width] {
                let [rows, columns] = shape;
                return Err(refuse(format!(
                    "`{name}` is `[{rows}, {columns}]` but `query` is `[{tokens}, {width}]`; \
                     they must have the same shape"
                )));
            }
        }
        if !width.is_multiple_of(self.num_heads) || width == 0 {
            return Err(refuse(format!(
                "rows of `{width}` values cannot be split into `{}` heads; \
                 the width must be a multiple of `num_heads`",
                self.num_heads
            )));
        }
        let head_size = width / self.num_heads;
        let args = PackedAttention {
            query: Strided::contiguous(query, width),
            key: Strided::contiguous(key, width),
            value: Strided::contiguous(value, width),
            cu_seqlens: cu_seqlens.try_extract_tensor::<i32>()?.1,
            num_heads: self.num_heads,
            head_size,
            scale: self.scale.unwrap_or(1.0 / (head_size as f32).sqrt()),
        };
        let mut out = output(context, [tokens, width])?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let execution = Execution {
            isa: self.isa,
            parallel: &SessionPool(context),
        };
        attention(&args, execution, out).map_err(|error| refuse(error.to_string()))
    }
}

/// Describes `PackedPooling`.
struct PoolingOperator;

struct PoolingKernel {
    pooling: Pooling,
    isa: Isa,
}

impl Operator for PoolingOperator {
    type Kernel<'attr> = PoolingKernel;

    fn name(&self) -> &str {
        "PackedPooling"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::required(TensorElementType::Int32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<PoolingKernel> {
        let Some(name) = kernel.get::<String>("pooling") else {
            return Err(refuse(
                "`PackedPooling` needs the attribute `pooling`, such as `mean`",
            ));
        };
        let pooling = name
            .parse()
            .map_err(|error: KernelError| refuse(error.to_string()))?;
        Ok(PoolingKernel {
            pooling,
            isa: Isa::detect(),
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let Some(ValueType::Tensor { ty, shape, .. }) = context.inputs().into_iter().next() else {
            return Ok(());
        };
        let [_, size] = shape[..] else { return Ok(()) };
        let shape = Shape::new([-1, size]);
        let dimension_symbols = SymbolicDimensions::new(["batch".to_owned(), String::new()]);
        context.set_output(
            0,
            &ValueType::Tensor {
                ty,
                shape,
                dimension_symbols,
            },
        )
    }
}

impl Kernel for PoolingKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (hidden, cu_seqlens) = (
            input(context, 0, "hidden")?,
            input(context, 1, "cu_seqlens")?,
        );
        let ([_, hidden_size], hidden) = matrix(&hidden, "hidden")?;
        let (_, cu_seqlens) = cu_seqlens.try_extract_tensor::<i32>()?;
        let Some(batch) = cu_seqlens.len().checked_sub(1) else {
            return Err(refuse(KernelError::CuSeqlensEmpty.to_string()));
        };
        let mut out = output(context, [batch, hidden_size])?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let packed = PackedHidden {
            hidden,
            hidden_size,
            cu_seqlens,
        };
        let execution = Execution {
            isa: self.isa,
            parallel: &SessionPool(context),
        };
        pool(self.pooling, &packed, execution, out).map_err(|error| refuse(error.to_string()))
    }
}

/// The intra-op threads of the session that runs the operator.
struct SessionPool<'a>(&'a ComputeContext);

impl Parallel for SessionPool<'_> {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        // One task needs no other thread. With 0 batches ONNX Runtime hands out the tasks one by
        // one, so that a thread which got short ones takes more of them.
        match tasks {
            0 => Ok(()),
            1 => Sequential.run(tasks, task),
            _ => self
                .0
                .par_for(tasks, 0, task)
                .map_err(|error| KernelError::Parallel {
                    message: error.message().to_owned(),
                }),
        }
    }
}

fn refuse(message: impl Into<String>) -> ort::Error {
    ort::Error::new_with_code(ort::ErrorCode::InvalidArgument, message)
}

fn input<'c>(context: &'c ComputeContext, at: usize, name: &str) -> ort::Result<ValueRef<'c>> {
    context
        .input(at)?
        .ok_or_else(|| refuse(format!("the input `{name}` is missing")))
}

fn output<'c>(
    context: &'c ComputeContext,
    shape: [usize; 2],
) -> ort::Result<ort::value::ValueRefMut<'c>> {
    let value = context.output(0, shape.map(|size| size as i64))?;
    value.ok_or_else(|| refuse("the output is missing"))
}

/// The shape and values of an input that must be a matrix.
fn matrix<'v>(value: &'v ValueRef<'_>, name: &str) -> ort::Result<([usize; 2], &'v [f32])> {
    let (shape, values) = value.try_extract_tensor::<f32>()?;
    let &[rows, columns] = &shape[..] else {
        let found = shape.len();
        return Err(refuse(format!(
            "`{name}` has `{found}` dimensions; it must be `[T, H]`"
        )));
    };
    Ok(([rows as usize, columns as usize], values))
}

fn rank(value: &ValueType) -> Option<usize> {
    match value {
        ValueType::Tensor { shape, .. } => Some(shape.len()),
        _ => None,
    }
}
