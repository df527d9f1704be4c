//! Products of fp32 matrices in ONNX Runtime, which our own linear layers are compared with.

use std::fmt;

use ort::{
    editor::{Graph, Model, Node, ONNX_DOMAIN, Opset},
    memory::Allocator,
    operator::Attribute,
    session::{Session, builder::SessionBuilder},
    value::{Outlet, Shape, SymbolicDimensions, Tensor, TensorElementType, TensorRef, ValueType},
};
use retort_models::Runtime;

use crate::measure::Outcome;

/// A product of `[rows, inner]` and `[outer, inner]` transposed, as a linear layer computes it.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    rows: usize,
    inner: usize,
    outer: usize,
}

impl Product {
    /// A product for so many tokens, and so many values of each that go in and come out.
    pub fn new(rows: usize, inner: usize, outer: usize) -> Self {
        Self { rows, inner, outer }
    }

    /// Multiplications and additions.
    pub fn operations(self) -> f64 {
        2.0 * self.rows as f64 * self.inner as f64 * self.outer as f64
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, inner, outer } = self;
        write!(f, "[{rows}, {inner}] × [{inner}, {outer}]")
    }
}

/// One session that does nothing but one product, on threads of its own.
pub struct Gemm {
    product: Product,
    session: Session,
    left: Vec<f32>,
}

impl Gemm {
    /// Builds the session.
    pub fn new(runtime: &Runtime, product: Product, threads: usize) -> Outcome<Self> {
        Ok(Self {
            product,
            session: session(runtime, product, threads)?,
            left: numbers(product.rows * product.inner).collect(),
        })
    }

    /// Computes the product once.
    pub fn run(&mut self) -> Outcome {
        let shape = [self.product.rows, self.product.inner];
        let left = TensorRef::from_array_view((shape, &self.left[..]))?;
        self.session.run(ort::inputs!["x" => left])?;
        Ok(())
    }
}

/// A model of one `Gemm` whose weights are constants, which ONNX Runtime packs when it loads them.
fn session(runtime: &Runtime, product: Product, threads: usize) -> Outcome<Session> {
    let Product { rows, inner, outer } = product;
    let border = |name: &str, shape: [usize; 2]| {
        let shape = Shape::new(shape.map(|length| length as i64));
        let dimension_symbols = SymbolicDimensions::empty(2);
        let ty = TensorElementType::Float32;
        Outlet::new(
            name,
            ValueType::Tensor {
                ty,
                shape,
                dimension_symbols,
            },
        )
    };
    let mut weight = Tensor::<f32>::new(&Allocator::default(), [outer as i64, inner as i64])?;
    let (_, values) = weight.extract_tensor_mut();
    values
        .iter_mut()
        .zip(numbers(outer * inner))
        .for_each(|(value, number)| *value = number);

    let mut graph = Graph::new()?;
    graph.set_inputs([border("x", [rows, inner])])?;
    graph.set_outputs([border("y", [rows, outer])])?;
    graph.add_initializer("weight", weight, false)?;
    let transposed = Attribute::new("transB", 1_i64)?;
    graph.add_node(Node::new(
        "Gemm",
        ONNX_DOMAIN,
        "gemm",
        ["x", "weight"],
        ["y"],
        [transposed],
    )?)?;
    let mut model = Model::new([Opset::new(ONNX_DOMAIN, 20)?])?;
    model.set_graph(graph)?;
    let options = SessionBuilder::new(runtime.environment())?.with_intra_threads(threads)?;
    Ok(model.into_session(&options)?)
}

/// Numbers between -0.5 and 0.5, so that no product becomes denormal or infinite.
fn numbers(count: usize) -> impl Iterator<Item = f32> {
    (0..count).map(|at| (at.wrapping_mul(2_654_435_761) % 1009) as f32 / 1009.0 - 0.5)
}
