//! The operators of a graph for ONNX Runtime's CUDA execution provider: the names, attributes and
//! shapes of [`operator`](crate::operator), over tensors that stay on the device.
//!
//! Each of them has one variant for 32-bit numbers and one for 16-bit ones; results are of 32 bits.
//! `HalfUnitRows` is `UnitRows` of 16-bit rows with 16-bit results, half as much to send to the
//! host. What `CuSeqlens` refuses a kernel cannot refuse: it stays inside the tensors, and a
//! sequence without tokens becomes NaN. Launches go to the session's stream and wait for nothing.

use super::calls::{LexicalCall, Matrix, MaxSimCall, Number, PoolCall, Sequences, UnitRowsCall};
use super::{CudaDevice, Launch, Machine, Memory};
use crate::operator::token_vectors::{dimensions, left_out, output_at};
use crate::operator::{DOMAIN, infer_pooled, input, pooling, refuse};
use crate::{KernelError, Pooling};
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::{DynTensorValueType, TensorElementType, ValueRef, ValueRefMut};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// The operators for sessions on a device, for `SessionBuilder::with_operators`; in place of
/// [`operator_domain`](crate::operator::operator_domain), not beside it. ONNX Runtime must be
/// loaded.
pub fn cuda_operator_domain(device: &CudaDevice) -> ort::Result<OperatorDomain> {
    operator_domain_on(&(Arc::new(device.clone()) as Arc<dyn Machine>))
}

/// The same for any machine.
pub fn operator_domain_on(machine: &Arc<dyn Machine>) -> ort::Result<OperatorDomain> {
    let on = |number| On {
        machine: Arc::clone(machine),
        number,
    };
    let mut domain = OperatorDomain::new(DOMAIN)?;
    for number in [Number::F16, Number::F32] {
        domain = domain
            .add(PoolingOperator(on(number)))?
            .add(UnitRowsOperator {
                on: on(number),
                out: Number::F32,
            })?
            .add(LexicalOperator(on(number)))?
            .add(MaxSimOperator(on(number)))?;
    }
    domain.add(UnitRowsOperator {
        on: on(Number::F16),
        out: Number::F16,
    })
}

const INT: TensorElementType = TensorElementType::Int32;

fn element(number: Number) -> TensorElementType {
    match number {
        Number::F16 => TensorElementType::Float16,
        Number::F32 => TensorElementType::Float32,
    }
}

/// Where a variant of an operator runs, and the numbers it takes.
#[derive(Clone)]
struct On {
    machine: Arc<dyn Machine>,
    number: Number,
}

/// A tensor where the machine has it.
struct Placed {
    address: u64,
    shape: Vec<usize>,
}

impl On {
    fn provider(&self) -> Option<&str> {
        self.machine.provider()
    }

    fn element(&self) -> TensorElementType {
        element(self.number)
    }

    /// An input, which must be where kernels reach it: a wrong address would cost the device.
    fn placed(&self, context: &ComputeContext, at: usize, name: &str) -> ort::Result<Placed> {
        self.place(input(context, at, name)?, name)
    }

    fn place(&self, value: ValueRef<'_>, name: &str) -> ort::Result<Placed> {
        let tensor = value.downcast::<DynTensorValueType>()?;
        let place = tensor.memory_info().allocation_device();
        if !self.machine.reaches(&place) {
            return Err(refuse(format!(
                "`{name}` is in memory `{}`, which kernels of the device do not reach",
                place.as_str()
            )));
        }
        Ok(Placed {
            address: tensor.data_ptr() as u64,
            shape: tensor.shape().iter().map(|&size| size as usize).collect(),
        })
    }

    /// An input that must be a matrix of the variant's numbers.
    fn matrix(&self, context: &ComputeContext, name: &str) -> ort::Result<Matrix> {
        let tensor = self.placed(context, 0, name)?;
        let [rows, columns] = tensor.shape[..] else {
            let found = tensor.shape.len();
            return Err(refuse(format!(
                "`{name}` has `{found}` dimensions; it must be a matrix"
            )));
        };
        Ok(Matrix {
            address: tensor.address,
            rows,
            columns,
            number: self.number,
        })
    }

    fn sequences(&self, context: &ComputeContext, at: usize) -> ort::Result<Sequences> {
        let tensor = self.placed(context, at, "cu_seqlens")?;
        let entries: usize = tensor.shape.iter().product();
        let Some(count) = entries.checked_sub(1) else {
            return Err(KernelError::CuSeqlensEmpty.into());
        };
        Ok(Sequences {
            address: tensor.address,
            count,
        })
    }

    /// Puts a launch on the stream of the session that runs the node.
    fn launch(&self, context: &ComputeContext, launch: Option<Launch>) -> ort::Result<()> {
        let Some(launch) = launch else { return Ok(()) };
        let stream = match self.provider() {
            Some(_) => context.stream()?.map_or(ptr::null_mut(), NonNull::as_ptr),
            None => ptr::null_mut(),
        };
        // SAFETY: the addresses are those of the node's tensors, whose shapes the call was made
        // of; ONNX Runtime keeps them until what this stream has so far is done.
        unsafe { self.machine.launch(stream.cast(), &launch) }?;
        Ok(())
    }
}

/// Where an output is.
fn address_of(value: ValueRefMut<'_>) -> ort::Result<u64> {
    let tensor = value.downcast::<DynTensorValueType>()?;
    Ok(tensor.data_ptr() as u64)
}

/// Describes `PackedPooling`.
struct PoolingOperator(On);

struct PoolingKernel {
    on: On,
    pooling: Pooling,
}

impl Operator for PoolingOperator {
    type Kernel<'attr> = PoolingKernel;

    fn name(&self) -> &str {
        "PackedPooling"
    }

    fn execution_provider_type(&self) -> Option<&str> {
        self.0.provider()
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [self.0.element(), INT].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(element(Number::F32))]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<PoolingKernel> {
        Ok(PoolingKernel {
            on: self.0.clone(),
            pooling: pooling(kernel)?,
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        infer_pooled(context)
    }
}

impl Kernel for PoolingKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let hidden = self.on.matrix(context, "hidden")?;
        let sequences = self.on.sequences(context, 1)?;
        let out = output_at(context, 0, &[sequences.count, hidden.columns])?;
        let call = PoolCall {
            pooling: self.pooling,
            hidden,
            sequences,
            out: address_of(out)?,
        };
        self.on.launch(context, call.launch()?)
    }
}

/// Describes `UnitRows`, and with 16-bit results `HalfUnitRows`.
struct UnitRowsOperator {
    on: On,
    out: Number,
}

struct UnitRowsKernel {
    on: On,
    out: Number,
    dimensions: Option<usize>,
}

impl Operator for UnitRowsOperator {
    type Kernel<'attr> = UnitRowsKernel;

    fn name(&self) -> &str {
        match self.out {
            Number::F16 => "HalfUnitRows",
            Number::F32 => "UnitRows",
        }
    }

    fn execution_provider_type(&self) -> Option<&str> {
        self.on.provider()
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(self.on.element())]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [element(self.out), INT].map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<UnitRowsKernel> {
        Ok(UnitRowsKernel {
            on: self.on.clone(),
            out: self.out,
            dimensions: dimensions(kernel)?,
        })
    }
}

impl Kernel for UnitRowsKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let rows = self.on.matrix(context, "rows")?;
        let dimensions = self.dimensions.unwrap_or(rows.columns);
        let out = output_at(context, 0, &[rows.rows, dimensions])?;
        let faults = output_at(context, 1, &[rows.rows])?;
        let call = UnitRowsCall {
            rows,
            dimensions,
            out_number: self.out,
            out: address_of(out)?,
            faults: address_of(faults)?,
        };
        self.on.launch(context, call.launch()?)
    }
}

/// Describes `LexicalWeights`.
struct LexicalOperator(On);

struct LexicalKernel {
    on: On,
    // 32-bit whole numbers, and how many.
    left_out: Option<(Box<dyn Memory>, usize)>,
}

impl Operator for LexicalOperator {
    type Kernel<'attr> = LexicalKernel;

    fn name(&self) -> &str {
        "LexicalWeights"
    }

    fn execution_provider_type(&self) -> Option<&str> {
        self.0.provider()
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [self.0.element(), TensorElementType::Int64, INT].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(element(Number::F32))]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<LexicalKernel> {
        // No vocabulary has tokens beyond 32 bits.
        let ids = left_out(kernel).into_iter();
        let ids: Vec<i32> = ids.filter_map(|id| i32::try_from(id).ok()).collect();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_ne_bytes()).collect();
        let left_out = match ids.len() {
            0 => None,
            count => Some((self.0.machine.upload(&bytes)?, count)),
        };
        Ok(LexicalKernel {
            on: self.0.clone(),
            left_out,
        })
    }
}

impl Kernel for LexicalKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let weights = self.on.matrix(context, "weights")?;
        let ids = self.on.placed(context, 1, "input_ids")?;
        if ids.shape != [weights.rows] {
            return Err(refuse(format!(
                "`input_ids` is `{:?}` but there are weights of `{}` tokens",
                ids.shape, weights.rows
            )));
        }
        let left_out = self.left_out.as_ref();
        let out = output_at(context, 0, &[weights.rows, 1])?;
        let call = LexicalCall {
            weights,
            ids: ids.address,
            sequences: self.on.sequences(context, 2)?,
            left_out: left_out.map_or((0, 0), |(ids, count)| (ids.address(), *count)),
            out: address_of(out)?,
        };
        self.on.launch(context, call.launch()?)
    }
}

/// Describes `MaxSim`.
struct MaxSimOperator(On);

struct MaxSimKernel(On);

impl Operator for MaxSimOperator {
    type Kernel<'attr> = MaxSimKernel;

    fn name(&self) -> &str {
        "MaxSim"
    }

    fn execution_provider_type(&self) -> Option<&str> {
        self.0.provider()
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(self.0.element()),
            OperatorInput::required(INT),
            OperatorInput::required(INT),
            OperatorInput::optional(TensorElementType::Bool),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(element(Number::F32))]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<MaxSimKernel> {
        Ok(MaxSimKernel(self.0.clone()))
    }
}

impl Kernel for MaxSimKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let on = &self.0;
        let vectors = on.matrix(context, "vectors")?;
        let pairs = on.placed(context, 2, "pairs")?;
        let &[count, 2] = &pairs.shape[..] else {
            return Err(refuse("`pairs` must be `[pairs, 2]`"));
        };
        let kept = match context.input(3)? {
            Some(kept) => Some(on.place(kept, "kept")?),
            None => None,
        };
        if let Some(kept) = kept.as_ref().filter(|kept| kept.shape != [vectors.rows]) {
            return Err(refuse(format!(
                "`kept` is `{:?}` but there are `{}` tokens",
                kept.shape, vectors.rows
            )));
        }
        let out = output_at(context, 0, &[count])?;
        let call = MaxSimCall {
            vectors,
            sequences: on.sequences(context, 1)?,
            kept: kept.map_or(0, |kept| kept.address),
            pairs: (pairs.address, count),
            out: address_of(out)?,
        };
        on.launch(context, call.launch()?)
    }
}
