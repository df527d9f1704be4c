//! The kernels as ONNX Runtime custom operators of the domain `retort`.
//!
//! - `PackedAttention(query, key, value, cu_seqlens, distance_bias?) -> [T, num_heads * d]`:
//!   `query` `[T, num_heads * d]`, `key` and `value` `[T, kv_num_heads * d]` floats, `[B + 1]`
//!   int32, and `[num_heads, 2 * D + 1]` floats whose column `D + clamp(j - i, -D, D)` is added
//!   to the score of query `i` and key `j`. Attributes: `num_heads`; `kv_num_heads`, by default
//!   the same; `scale`, by default `1 / sqrt(d)`; `causal`, `0` or `1`; `window`, the tokens seen
//!   to either side, by default `-1`: all; `alibi_slopes`, one float per head; `precision`, by
//!   default `fp32`, a name of [`Precision`].
//! - `PackedPooling(hidden, cu_seqlens) -> [B, H]`: `[T, H]` floats and `[B + 1]` int32;
//!   attribute `pooling`, a name of [`Pooling`].
//! - `Linear(x, residual?) -> [T, out]`: `[T, in]` and `[T, out]` floats. The weight and its bias
//!   are no inputs but what the session's [`LinearStore`] has under the attribute `key`;
//!   `activation`, by default none, is a name of [`LinearActivation`](crate::LinearActivation).
//! - `GatedLinear(x) -> [T, out]`: the activation of the layer `gate` times the layer `up`, both
//!   names in the store; attributes `gate`, `up` and `activation`.
//!
//! - `UnitRows(rows) -> [n, dimensions], [n]`: `[n, width]` floats, cut to their first values and
//!   made unit length, and an int32 for each: 0, or what is wrong with the row
//!   ([`RowFault::code`](crate::RowFault::code)), which is then only cut. Attribute `dimensions`,
//!   by default `0`: all.
//! - `LexicalWeights(weights, input_ids, cu_seqlens) -> [T, 1]`: the largest weight of each token
//!   of a sequence, at its first place ([`lexical_weights`](crate::lexical::lexical_weights));
//!   `[T, 1]` floats, `[T]` int64, `[B + 1]` int32. Attribute `left_out`, tokens without a weight.
//! - `MaxSim(vectors, cu_seqlens, pairs, kept?) -> [P]`: late interaction of pairs of sequences
//!   ([`max_sim`](crate::max_sim::max_sim)); `[T, size]` floats, `[B + 1]` int32, `[P, 2]` int32,
//!   `[T]` bool.
//! - `CachedAttention(query, key, value, cu_seqlens, past_lens, block_tables)`: the same shape for
//!   the new tokens of sequences whose earlier ones are in a [`KvPool`](crate::KvPool); `[B]` and
//!   `[B, N]` int32. Attributes: `layer`, `num_heads`; `kv_num_heads`, which must be the pool's;
//!   `scale`, by default `1 / sqrt(d)`. Only in graphs whose session brings a pool.
//!
//! Bad attributes stop the session from being built, bad shapes stop the run; both say why.

mod cached_attention;
mod linear;
pub(crate) mod token_vectors;

use crate::attention::attention;
use crate::pooling::pool;
use crate::{
    Bias, Direction, Execution, Isa, KernelError, KvPool, LinearStore, Mask, PackedAttention,
    PackedHidden, Parallel, Pooling, Precision, Sequential, Strided,
};
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::{Shape, SymbolicDimensions, TensorElementType, ValueRef, ValueType};
use std::sync::Arc;

/// Domain of the operators in a graph.
pub const DOMAIN: &str = "retort";

/// The operators, for `SessionBuilder::with_operators`. ONNX Runtime must be loaded. `linears` has
/// the weights that the graph names; all sessions of a model share it.
pub fn operator_domain(linears: Arc<LinearStore>) -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(AttentionOperator)?
        .add(PoolingOperator)?
        .add(linear::LinearOperator(linears.clone()))?
        .add(linear::GatedLinearOperator(linears))?
        .add(token_vectors::UnitRowsOperator)?
        .add(token_vectors::LexicalOperator)?
        .add(token_vectors::MaxSimOperator)
}

/// Adds `CachedAttention`, which keeps keys and values in `pool`. A pool belongs to one session.
pub fn with_kv_pool(domain: OperatorDomain, pool: Arc<KvPool>) -> ort::Result<OperatorDomain> {
    domain.add(cached_attention::CachedAttentionOperator(pool))
}

/// Describes `PackedAttention`.
struct AttentionOperator;

struct AttentionKernel {
    num_heads: usize,
    kv_num_heads: usize,
    scale: Option<f32>,
    mask: Mask,
    alibi_slopes: Option<Vec<f32>>, // [num_heads]
    precision: Precision,
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
            OperatorInput::optional(TensorElementType::Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<AttentionKernel> {
        let Some(num_heads) = count(kernel, "num_heads")? else {
            return Err(refuse(
                "`PackedAttention` needs the attribute `num_heads`, at least `1`",
            ));
        };
        let kv_num_heads = count(kernel, "kv_num_heads")?.unwrap_or(num_heads);
        if !num_heads.is_multiple_of(kv_num_heads) {
            return Err(KernelError::KvHeads {
                kv_num_heads,
                num_heads,
            }
            .into());
        }
        let scale = kernel.get::<f32>("scale");
        if let Some(found) = scale.filter(|scale| !scale.is_finite()) {
            return Err(KernelError::Scale { found }.into());
        }
        let alibi_slopes = kernel.get::<Vec<f32>>("alibi_slopes");
        let bias = Bias {
            alibi_slopes: alibi_slopes.as_deref(),
            distances: None,
        };
        bias.check(num_heads)?;
        Ok(AttentionKernel {
            num_heads,
            kv_num_heads,
            scale,
            mask: mask(kernel)?,
            alibi_slopes,
            precision: precision(kernel)?,
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

/// An attribute that counts something, `None` when the node does not have it.
fn count(kernel: &KernelContext<'_>, name: &'static str) -> ort::Result<Option<usize>> {
    let Some(found) = kernel.get::<i64>(name) else {
        return Ok(None);
    };
    match usize::try_from(found) {
        Ok(count) if count > 0 => Ok(Some(count)),
        _ => Err(refuse(format!(
            "`{name}` is `{found}`; it must be at least `1`"
        ))),
    }
}

/// The mask that `causal` and `window` describe.
fn mask(kernel: &KernelContext<'_>) -> ort::Result<Mask> {
    let direction = match kernel.get::<i64>("causal") {
        None | Some(0) => Direction::Bidirectional,
        Some(1) => Direction::Causal,
        Some(found) => {
            return Err(refuse(format!(
                "`causal` is `{found}`; it must be `0` or `1`"
            )));
        }
    };
    let window = match kernel.get::<i64>("window") {
        None | Some(-1) => None,
        Some(found) => Some(usize::try_from(found).map_err(|_| {
            refuse(format!(
                "`window` is `{found}`; it must be a number of tokens, or `-1` for all of them"
            ))
        })?),
    };
    Ok(Mask { direction, window })
}

/// The attribute `precision`.
fn precision(kernel: &KernelContext<'_>) -> ort::Result<Precision> {
    let Some(name) = kernel.get::<String>("precision") else {
        return Ok(Precision::default());
    };
    let known = Precision::ALL.map(Precision::name).join("`, `");
    Precision::named(&name)
        .ok_or_else(|| refuse(format!("unknown precision `{name}`; use one of `{known}`")))
}

impl Kernel for AttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = [(0, "query"), (1, "key"), (2, "value"), (3, "cu_seqlens")];
        let [query, key, value, cu_seqlens] = inputs.map(|(at, name)| input(context, at, name));
        let (query, key, value, cu_seqlens) = (query?, key?, value?, cu_seqlens?);
        let distances = context.input(4)?;
        let (query_shape, query) = matrix(&query, "query")?;
        let (key_shape, key) = matrix(&key, "key")?;
        let (value_shape, value) = matrix(&value, "value")?;
        let head_size = self.head_size(query_shape, [key_shape, value_shape])?;
        let distances = match &distances {
            Some(table) => Some(self.distances(matrix(table, "distance_bias")?)?),
            None => None,
        };
        let args = PackedAttention {
            query: Strided::contiguous(query, query_shape[1]),
            key: Strided::contiguous(key, key_shape[1]),
            value: Strided::contiguous(value, value_shape[1]),
            cu_seqlens: cu_seqlens.try_extract_tensor::<i32>()?.1,
            num_heads: self.num_heads,
            kv_num_heads: self.kv_num_heads,
            head_size,
            scale: self.scale.unwrap_or(1.0 / (head_size as f32).sqrt()),
            mask: self.mask,
            bias: Bias {
                alibi_slopes: self.alibi_slopes.as_deref(),
                distances,
            },
            precision: self.precision,
        };
        let mut out = output(context, query_shape)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let execution = Execution {
            isa: self.isa,
            parallel: &SessionPool(context),
        };
        Ok(attention(&args, execution, out)?)
    }
}

impl AttentionKernel {
    /// Values per head, once the shapes of queries, keys and values go together.
    fn head_size(&self, query: [usize; 2], [key, value]: [[usize; 2]; 2]) -> ort::Result<usize> {
        let [tokens, width] = query;
        if !width.is_multiple_of(self.num_heads) || width == 0 {
            return Err(refuse(format!(
                "rows of `{width}` values cannot be split into `{}` heads; \
                 the width must be a multiple of `num_heads`",
                self.num_heads
            )));
        }
        let head_size = width / self.num_heads;
        let kv_width = self.kv_num_heads * head_size;
        for (name, [rows, columns]) in [("key", key), ("value", value)] {
            if [rows, columns] != [tokens, kv_width] {
                let (num_heads, kv_num_heads) = (self.num_heads, self.kv_num_heads);
                return Err(refuse(format!(
                    "`{name}` is `[{rows}, {columns}]` but `query` is `[{tokens}, {width}]`; \
                     with `num_heads` `{num_heads}` and `kv_num_heads` `{kv_num_heads}` \
                     it must be `[{tokens}, {kv_width}]`"
                )));
            }
        }
        Ok(head_size)
    }

    /// The values of `distance_bias`, whose shape must fit the heads.
    fn distances<'v>(
        &self,
        ([rows, columns], values): ([usize; 2], &'v [f32]),
    ) -> ort::Result<&'v [f32]> {
        if rows != self.num_heads || columns.is_multiple_of(2) {
            let num_heads = self.num_heads;
            return Err(refuse(format!(
                "`distance_bias` is `[{rows}, {columns}]`; with `{num_heads}` heads it must be \
                 `[{num_heads}, 2 * D + 1]`, an odd number of distances per head"
            )));
        }
        Ok(values)
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
        Ok(PoolingKernel {
            pooling: pooling(kernel)?,
            isa: Isa::detect(),
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        infer_pooled(context)
    }
}

/// The attribute `pooling`.
pub(crate) fn pooling(kernel: &KernelContext<'_>) -> ort::Result<Pooling> {
    let Some(name) = kernel.get::<String>("pooling") else {
        return Err(refuse(
            "`PackedPooling` needs the attribute `pooling`, such as `mean`",
        ));
    };
    Ok(name.parse::<Pooling>()?)
}

/// Pooled vectors are as wide as hidden states, and of 32 bits whatever those are.
pub(crate) fn infer_pooled(context: &mut ShapeInferenceContext) -> ort::Result<()> {
    let Some(ValueType::Tensor { shape, .. }) = context.inputs().into_iter().next() else {
        return Ok(());
    };
    let [_, size] = shape[..] else { return Ok(()) };
    let shape = Shape::new([-1, size]);
    let dimension_symbols = SymbolicDimensions::new(["batch".to_owned(), String::new()]);
    context.set_output(
        0,
        &ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape,
            dimension_symbols,
        },
    )
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
            return Err(KernelError::CuSeqlensEmpty.into());
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
        Ok(pool(self.pooling, &packed, execution, out)?)
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

pub(crate) fn refuse(message: impl Into<String>) -> ort::Error {
    ort::Error::new_with_code(ort::ErrorCode::InvalidArgument, message)
}

impl From<KernelError> for ort::Error {
    fn from(error: KernelError) -> Self {
        refuse(error.to_string())
    }
}

pub(crate) fn input<'c>(
    context: &'c ComputeContext,
    at: usize,
    name: &str,
) -> ort::Result<ValueRef<'c>> {
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
            "`{name}` has `{found}` dimensions; it must be a matrix"
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
