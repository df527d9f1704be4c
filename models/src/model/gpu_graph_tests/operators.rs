//! `PackedMultiHeadAttention` of `com.microsoft` by its definition, which pads, and `PackedPooling`
//! over 16 bits: the operators of a graph for a GPU that ONNX Runtime's processor lacks.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::value::{PrimitiveTensorElementType, TensorElementType, ValueRef};
use retort_kernels::max_sim::{PackedVectors, max_sim};
use retort_kernels::normalize::unit_rows;
use retort_kernels::operator::operator_domain;
use retort_kernels::pooling::pool_plain;
use retort_kernels::{PackedHidden, Pooling};

/// A number of either width.
pub(super) trait Number:
    PrimitiveTensorElementType + Copy + Debug + Into<f32> + Send + Sync + 'static
{
    const ELEMENT: TensorElementType;
    fn of(number: f32) -> Self;
}

impl Number for f32 {
    const ELEMENT: TensorElementType = TensorElementType::Float32;
    fn of(number: f32) -> Self {
        number
    }
}

impl Number for f16 {
    const ELEMENT: TensorElementType = TensorElementType::Float16;
    fn of(number: f32) -> Self {
        Self::from_f32(number)
    }
}

/// The operators of this project on a processor, and pooling over 16 bits.
pub(super) fn poolings() -> ort::Result<OperatorDomain> {
    operator_domain(Arc::default())?
        .add(HalfPooling)?
        .add(HalfUnitRows)?
        .add(HalfMaxSim)
}

/// All operators of a graph for a GPU that the processor lacks.
pub(super) fn domains() -> ort::Result<Vec<OperatorDomain>> {
    let attention = OperatorDomain::new("com.microsoft")?
        .add(Attention::<f32>(PhantomData))?
        .add(Attention::<f16>(PhantomData))?;
    Ok(vec![poolings()?, attention])
}

struct Attention<T>(PhantomData<T>);

struct AttentionKernel<T> {
    num_heads: usize,
    scale: f32,
    number: PhantomData<T>,
}

impl<T: Number> Operator for Attention<T> {
    type Kernel<'attr> = AttentionKernel<T>;

    fn name(&self) -> &str {
        "PackedMultiHeadAttention"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let whole = || OperatorInput::required(TensorElementType::Int32);
        [
            OperatorInput::required(T::ELEMENT),
            OperatorInput::optional(T::ELEMENT),
            OperatorInput::optional(T::ELEMENT),
            OperatorInput::optional(T::ELEMENT),
            whole(),
            whole(),
            OperatorInput::optional(T::ELEMENT),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(T::ELEMENT)]
    }

    fn create_kernel<'attr>(
        &self,
        kernel: &KernelContext<'attr>,
    ) -> ort::Result<Self::Kernel<'attr>> {
        Ok(AttentionKernel {
            num_heads: kernel.get::<i64>("num_heads").unwrap() as usize,
            scale: kernel.get::<f32>("scale").unwrap(),
            number: PhantomData,
        })
    }
}

/// Shape and numbers of an input that must be there.
fn numbers<T: Number>(value: &ValueRef<'_>) -> (Vec<usize>, Vec<f32>) {
    let (shape, numbers) = value.try_extract_tensor::<T>().unwrap();
    let numbers = numbers.iter().map(|&number| number.into()).collect();
    (
        shape.iter().map(|&length| length as usize).collect(),
        numbers,
    )
}

impl<T: Number> Kernel for AttentionKernel<T> {
    /// Queries, keys and values are scattered into padded tensors by `token_offset`, the first
    /// tokens of each row see each other, and the results are gathered again.
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let input = |at: usize| context.input(at).map(Option::unwrap);
        assert!(context.input(3)?.is_none(), "biases are in the products");
        let [(shape, query), (_, key), (_, value)] =
            [input(0)?, input(1)?, input(2)?].map(|value| numbers::<T>(&value));
        let [tokens, width] = shape[..] else {
            panic!("{shape:?}")
        };
        assert!(key.len() == query.len() && value.len() == query.len());
        let (token_offset, cu_seqlens) = (input(4)?, input(5)?);
        let (padded, token_offset) = token_offset.try_extract_tensor::<i32>()?;
        let [sequences, longest] = [0, 1].map(|axis| padded[axis] as usize);
        let cu_seqlens = cu_seqlens.try_extract_tensor::<i32>()?.1;
        assert_eq!(cu_seqlens.len(), sequences + 1);
        let bias = context.input(6)?.map(|bias| numbers::<T>(&bias));

        // Which token is at each place of the padded tensor.
        let mut at_place = vec![None; sequences * longest];
        for (token, &place) in token_offset[..tokens].iter().enumerate() {
            at_place[place as usize] = Some(token);
        }
        let (heads, head) = (self.num_heads, width / self.num_heads);
        let mut out = vec![T::of(0.0); tokens * width];
        for row in 0..sequences {
            let length = (cu_seqlens[row + 1] - cu_seqlens[row]) as usize;
            let token = |place: usize| at_place[row * longest + place].unwrap();
            let part = |of: usize, h: usize| of * width + h * head..of * width + (h + 1) * head;
            for (h, i) in (0..heads).flat_map(|h| (0..length).map(move |i| (h, i))) {
                let score = |j: usize| {
                    let pairs = query[part(token(i), h)].iter().zip(&key[part(token(j), h)]);
                    let dot: f32 = pairs.map(|(q, k)| q * k).sum();
                    dot * self.scale + added(bias.as_ref(), [row, h, i, j], longest)
                };
                let scores: Vec<f32> = (0..length).map(score).collect();
                let largest = scores.iter().copied().fold(f32::MIN, f32::max);
                let weights: Vec<f32> = scores.iter().map(|s| (s - largest).exp()).collect();
                let all: f32 = weights.iter().sum();
                for (column, out) in part(token(i), h).zip(&mut out[part(token(i), h)]) {
                    let column = column % width;
                    let sum = (0..length).map(|j| weights[j] * value[token(j) * width + column]);
                    *out = T::of(sum.sum::<f32>() / all);
                }
            }
        }
        let mut output = context.output(0, [tokens as i64, width as i64])?.unwrap();
        output
            .try_extract_tensor_mut::<T>()?
            .1
            .copy_from_slice(&out);
        Ok(())
    }
}

/// What a bias `[sequences or 1, heads or 1, longest, longest]` adds.
fn added(bias: Option<&(Vec<usize>, Vec<f32>)>, at: [usize; 4], longest: usize) -> f32 {
    let Some((shape, numbers)) = bias else {
        return 0.0;
    };
    assert_eq!(shape[2..], [longest, longest]);
    let place = shape.iter().zip(at).fold(0, |place, (&length, at)| {
        place * length + if length == 1 { 0 } else { at }
    });
    numbers[place]
}

struct HalfPooling;

struct HalfPoolingKernel(Pooling);

impl Operator for HalfPooling {
    type Kernel<'attr> = HalfPoolingKernel;

    fn name(&self) -> &str {
        "PackedPooling"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(TensorElementType::Float16),
            OperatorInput::required(TensorElementType::Int32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        kernel: &KernelContext<'attr>,
    ) -> ort::Result<HalfPoolingKernel> {
        let name = kernel.get::<String>("pooling").unwrap();
        Ok(HalfPoolingKernel(name.parse().unwrap()))
    }
}

impl Kernel for HalfPoolingKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (shape, hidden) = numbers::<f16>(&context.input(0)?.unwrap());
        let cu_seqlens = context.input(1)?.unwrap();
        let packed = PackedHidden {
            hidden: &hidden,
            hidden_size: shape[1],
            cu_seqlens: cu_seqlens.try_extract_tensor::<i32>()?.1,
        };
        let rows = packed.cu_seqlens.len() - 1;
        let mut out = context.output(0, [rows as i64, shape[1] as i64])?.unwrap();
        pool_plain(self.0, &packed, out.try_extract_tensor_mut::<f32>()?.1).unwrap();
        Ok(())
    }
}

struct HalfUnitRows;

struct HalfUnitRowsKernel;

impl Operator for HalfUnitRows {
    type Kernel<'attr> = HalfUnitRowsKernel;

    fn name(&self) -> &str {
        "HalfUnitRows"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float16)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [TensorElementType::Float16, TensorElementType::Int32].map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<HalfUnitRowsKernel> {
        Ok(HalfUnitRowsKernel)
    }
}

impl Kernel for HalfUnitRowsKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (shape, rows) = numbers::<f16>(&context.input(0)?.unwrap());
        let [count, width] = shape[..] else {
            panic!("{shape:?}")
        };
        let mut out = context.output(0, [count as i64, width as i64])?.unwrap();
        let mut faults = context.output(1, [count as i64])?.unwrap();
        let mut unit = vec![0.0; rows.len()];
        let faults = faults.try_extract_tensor_mut::<i32>()?.1;
        unit_rows(&rows, [width, width], &mut unit, faults).unwrap();
        let out = out.try_extract_tensor_mut::<f16>()?.1;
        out.convert_from_f32_slice(&unit);
        Ok(())
    }
}

struct HalfMaxSim;

struct HalfMaxSimKernel;

impl Operator for HalfMaxSim {
    type Kernel<'attr> = HalfMaxSimKernel;

    fn name(&self) -> &str {
        "MaxSim"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let whole = || OperatorInput::required(TensorElementType::Int32);
        [
            OperatorInput::required(TensorElementType::Float16),
            whole(),
            whole(),
            OperatorInput::optional(TensorElementType::Bool),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<HalfMaxSimKernel> {
        Ok(HalfMaxSimKernel)
    }
}

impl Kernel for HalfMaxSimKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (shape, vectors) = numbers::<f16>(&context.input(0)?.unwrap());
        let (offsets, pairs) = (context.input(1)?.unwrap(), context.input(2)?.unwrap());
        assert!(
            context.input(3)?.is_none(),
            "tokens without a vector are not there"
        );
        let packed = PackedVectors {
            vectors: &vectors,
            size: shape[1],
            cu_seqlens: offsets.try_extract_tensor::<i32>()?.1,
            kept: None,
        };
        let (pairs, _) = pairs.try_extract_tensor::<i32>()?.1.as_chunks::<2>();
        let mut out = context.output(0, [pairs.len() as i64])?.unwrap();
        max_sim(&packed, pairs, out.try_extract_tensor_mut::<f32>()?.1).unwrap();
        Ok(())
    }
}
