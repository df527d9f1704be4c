//! `CachedAttention`: attributes and inputs of the operator become arguments of the kernel.

use super::{SessionPool, count, input, matrix, output, rank, refuse};
use crate::attention::cached::{CachedAttention, cached_attention};
use crate::{Execution, Isa, KernelError, KvPool, Strided};
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::{TensorElementType, ValueRef};
use std::sync::Arc;

/// Describes `CachedAttention`.
pub(super) struct CachedAttentionOperator(pub(super) Arc<KvPool>);

pub(super) struct CachedAttentionKernel {
    pool: Arc<KvPool>,
    num_heads: usize,
    layer: usize,
    scale: f32,
    isa: Isa,
}

impl Operator for CachedAttentionOperator {
    type Kernel<'attr> = CachedAttentionKernel;

    fn name(&self) -> &str {
        "CachedAttention"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let (float, int) = (TensorElementType::Float32, TensorElementType::Int32);
        [float, float, float, int, int, int].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        kernel: &KernelContext<'attr>,
    ) -> ort::Result<CachedAttentionKernel> {
        let shape = self.0.shape();
        let Some(num_heads) = count(kernel, "num_heads")? else {
            return Err(refuse(
                "`CachedAttention` needs the attribute `num_heads`, at least `1`",
            ));
        };
        let kv_num_heads = count(kernel, "kv_num_heads")?.unwrap_or(num_heads);
        if kv_num_heads != shape.kv_num_heads {
            return Err(refuse(format!(
                "`kv_num_heads` is `{kv_num_heads}` but the pool of keys and values has `{}`",
                shape.kv_num_heads
            )));
        }
        if !num_heads.is_multiple_of(kv_num_heads) {
            return Err(KernelError::KvHeads {
                kv_num_heads,
                num_heads,
            }
            .into());
        }
        let layer = kernel.get::<i64>("layer").unwrap_or(-1);
        let Some(layer) = usize::try_from(layer).ok().filter(|&at| at < shape.layers) else {
            return Err(refuse(format!(
                "`layer` is `{layer}`; it must be given and less than the `{}` layers of the \
                 pool of keys and values",
                shape.layers
            )));
        };
        let scale = kernel.get::<f32>("scale");
        let scale = scale.unwrap_or(1.0 / (shape.head_size as f32).sqrt());
        if !scale.is_finite() {
            return Err(KernelError::Scale { found: scale }.into());
        }
        Ok(CachedAttentionKernel {
            pool: Arc::clone(&self.0),
            num_heads,
            layer,
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

impl Kernel for CachedAttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let integers = |value: &ValueRef<'_>| -> ort::Result<Vec<i32>> {
            Ok(value.try_extract_tensor::<i32>()?.1.to_vec())
        };
        let (query, key, value) = (
            input(context, 0, "query")?,
            input(context, 1, "key")?,
            input(context, 2, "value")?,
        );
        let cu_seqlens = integers(&input(context, 3, "cu_seqlens")?)?;
        let past_lens = integers(&input(context, 4, "past_lens")?)?;
        let block_tables = integers(&input(context, 5, "block_tables")?)?;
        let (query_shape, query) = matrix(&query, "query")?;
        let (key_shape, key) = matrix(&key, "key")?;
        let (value_shape, value) = matrix(&value, "value")?;
        let shape = self.pool.shape();
        let widths = [self.num_heads, shape.kv_num_heads, shape.kv_num_heads];
        let named = [
            ("query", query_shape),
            ("key", key_shape),
            ("value", value_shape),
        ];
        for ((name, [rows, columns]), heads) in named.into_iter().zip(widths) {
            let expected = [query_shape[0], heads * shape.head_size];
            if [rows, columns] != expected {
                return Err(refuse(format!(
                    "`{name}` is `[{rows}, {columns}]`; with `{heads}` heads of `{}` values it \
                     must be `{expected:?}`",
                    shape.head_size
                )));
            }
        }
        let args = CachedAttention {
            query: Strided::contiguous(query, query_shape[1]),
            key: Strided::contiguous(key, key_shape[1]),
            value: Strided::contiguous(value, value_shape[1]),
            cu_seqlens: &cu_seqlens,
            past_lens: &past_lens,
            block_tables: &block_tables,
            num_heads: self.num_heads,
            scale: self.scale,
            layer: self.layer,
        };
        let mut out = output(context, query_shape)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let execution = Execution {
            isa: self.isa,
            parallel: &SessionPool(context),
        };
        Ok(cached_attention(&args, &self.pool, execution, out)?)
    }
}
