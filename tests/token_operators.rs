//! The operators that follow the token vectors, inside a real ONNX Runtime: those of the processor,
//! and those of a device with its kernels run by the processor.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;

use half::f16;
use ort::memory::AllocationDevice;
use ort::operator::OperatorDomain;
use ort::session::Session;
use ort::session::builder::AutoDevicePolicy;
use ort::value::TensorRef;
use retort_kernels::cuda::{
    CudaDevice, CudaError, Fault, Launch, Machine, Memory, cuda_operator_domain, is_present,
    operator_domain_on,
};
use retort_kernels::lexical::{PackedTokens, lexical_weights};
use retort_kernels::max_sim::{PackedVectors, max_sim};
use retort_kernels::normalize::unit_rows;
use retort_kernels::operator::operator_domain;
use retort_kernels::pooling::pool_plain;
use retort_kernels::{PackedHidden, Pooling};

use crate::support;

#[path = "../kernels/tests/host/mod.rs"]
mod host;

const F32_GRAPH: &[u8] = include_bytes!("golden/operators/token_ops_f32.onnx");
const F16_GRAPH: &[u8] = include_bytes!("golden/operators/token_ops_f16.onnx");

const CU_SEQLENS: [i32; 4] = [0, 4, 5, 9];
const WIDTH: usize = 24;
const DIMENSIONS: usize = 5;
const IDS: [i64; 9] = [0, 9, 9, 2, 7, 0, 9, 4, 4];
const LEFT_OUT: [i64; 2] = [0, 2];
const PAIRS: [[i32; 2]; 3] = [[0, 2], [1, 0], [2, 2]];
const KEPT: [bool; 9] = [true, false, true, true, true, false, true, true, true];

/// What goes into both graphs; the numbers are such as 16 bits hold.
struct Inputs {
    hidden: Vec<f32>,
    weights: Vec<f32>,
}

/// The third token is all zeros, so that one fault must be told.
fn inputs() -> Inputs {
    let number = |at: usize| f16::from_f32((at * 7919 % 2003) as f32 / 1001.0 - 1.0).to_f32();
    let mut hidden: Vec<f32> = (0..IDS.len() * WIDTH).map(number).collect();
    hidden[2 * WIDTH..3 * WIDTH].fill(0.0);
    let weights = (0..IDS.len()).map(|at| number(at * 31 + 5)).collect();
    Inputs { hidden, weights }
}

/// What each output must be, from the functions themselves.
fn expected() -> BTreeMap<&'static str, Vec<f32>> {
    let Inputs { hidden, weights } = inputs();
    let tokens = IDS.len();
    let pooled = |pooling| {
        let packed = PackedHidden {
            hidden: &hidden,
            hidden_size: WIDTH,
            cu_seqlens: &CU_SEQLENS,
        };
        let mut out = vec![0.0; 3 * WIDTH];
        pool_plain(pooling, &packed, &mut out).unwrap();
        out
    };
    let scaled = |rows: &[f32], dimensions| {
        let count = rows.len() / WIDTH;
        let (mut out, mut faults) = (vec![0.0; count * dimensions], vec![0; count]);
        unit_rows(rows, [WIDTH, dimensions], &mut out, &mut faults).unwrap();
        (out, faults.iter().map(|&fault| fault as f32).collect())
    };
    let scores = |vectors: &[f32], kept| {
        let packed = PackedVectors {
            vectors,
            size: WIDTH,
            cu_seqlens: &CU_SEQLENS,
            kept,
        };
        let mut out = vec![0.0; PAIRS.len()];
        max_sim(&packed, &PAIRS, &mut out).unwrap();
        out
    };
    let packed = PackedTokens {
        ids: &IDS,
        cu_seqlens: &CU_SEQLENS,
        left_out: &LEFT_OUT,
    };
    let mut lexical = vec![0.0; tokens];
    lexical_weights(&weights, &packed, &mut lexical).unwrap();
    let mean = pooled(Pooling::Mean);
    let (unit, faults) = scaled(&hidden, WIDTH);
    let (cut, cut_faults) = scaled(&mean, DIMENSIONS);
    BTreeMap::from([
        ("max", pooled(Pooling::Max)),
        ("mean", mean),
        ("scores", scores(&hidden, None)),
        ("unit_scores", scores(&unit, Some(&KEPT))),
        ("lexical", lexical),
        ("unit", unit),
        ("faults", faults),
        ("cut", cut),
        ("cut_faults", cut_faults),
    ])
}

/// There are operators only once ONNX Runtime is loaded.
fn session(
    graph: &[u8],
    operators: impl FnOnce() -> ort::Result<OperatorDomain>,
) -> ort::Result<Session> {
    Session::builder(support::runtime().environment())?
        .with_auto_device(AutoDevicePolicy::PreferCPU)?
        .with_intra_threads(1)?
        .with_operators(operators()?)?
        .commit_from_memory(graph)
}

/// Runs a graph whose hidden states and weights are these, and returns all its outputs.
fn run<T>(session: &mut Session, hidden: &[T], weights: &[T]) -> BTreeMap<String, Vec<f32>>
where
    T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    let outputs = session
        .run(ort::inputs![
            "hidden" => TensorRef::from_array_view(([IDS.len(), WIDTH], hidden)).unwrap(),
            "weights" => TensorRef::from_array_view(([IDS.len(), 1], weights)).unwrap(),
            "input_ids" => TensorRef::from_array_view(([IDS.len()], &IDS[..])).unwrap(),
            "cu_seqlens" => TensorRef::from_array_view(([4], &CU_SEQLENS[..])).unwrap(),
            "pairs" => TensorRef::from_array_view(([3, 2], PAIRS.as_flattened())).unwrap(),
            "kept" => TensorRef::from_array_view(([IDS.len()], &KEPT[..])).unwrap(),
        ])
        .unwrap();
    let names: Vec<String> = outputs.keys().map(str::to_owned).collect();
    let values = |name: &str| -> Vec<f32> {
        let value = &outputs[name];
        if let Ok((_, values)) = value.try_extract_tensor::<f32>() {
            return values.to_vec();
        }
        if let Ok((_, values)) = value.try_extract_tensor::<i32>() {
            return values.iter().map(|&value| value as f32).collect();
        }
        let (_, values) = value.try_extract_tensor::<f16>().unwrap();
        values.iter().map(|value| value.to_f32()).collect()
    };
    names
        .into_iter()
        .map(|name| {
            let values = values(&name);
            (name, values)
        })
        .collect()
}

fn run_f32(session: &mut Session) -> BTreeMap<String, Vec<f32>> {
    let Inputs { hidden, weights } = inputs();
    run(session, &hidden, &weights)
}

fn run_f16(session: &mut Session) -> BTreeMap<String, Vec<f32>> {
    let halves = |values: Vec<f32>| -> Vec<f16> { values.into_iter().map(f16::from_f32).collect() };
    let Inputs { hidden, weights } = inputs();
    run(session, &halves(hidden), &halves(weights))
}

fn assert_expected(found: &BTreeMap<String, Vec<f32>>) {
    for (name, expected) in expected() {
        // Values are at most some units; a sum in single precision may be off by its last digits.
        assert_close(name, &found[name], &expected, 2e-6);
    }
}

fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(expected) {
        let close = (found - expected).abs() <= tolerance;
        assert!(close, "{name}: {found} instead of {expected}");
    }
}

#[test]
fn on_the_processor() {
    let mut session = session(F32_GRAPH, || operator_domain(Arc::default())).unwrap();
    let found = run_f32(&mut session);
    assert_expected(&found);
    assert_eq!(
        found["faults"],
        [0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    );
}

#[test]
fn on_a_device_that_the_processor_plays() {
    let Some(host) = host::host() else { return };
    let machine: Arc<dyn Machine> = host;
    let domain = || operator_domain_on(&machine);
    assert_expected(&run_f32(&mut session(F32_GRAPH, domain).unwrap()));
    let found = run_f16(&mut session(F16_GRAPH, domain).unwrap());
    assert_expected(&found);
    assert_eq!(found["half_faults"], found["faults"]);
    // Half of the distance between numbers of 16 bits below 1.
    assert_close("half_unit", &found["half_unit"], &found["unit"], 2.5e-4);
}

#[test]
fn on_a_device() {
    if !is_present() {
        eprintln!("skipped: no NVIDIA device");
        return;
    }
    let device = CudaDevice::open(0).unwrap();
    let provider = ort::ep::CUDA::default().build().error_on_failure();
    let build = |graph: &[u8]| {
        Session::builder(support::runtime().environment())?
            .with_execution_providers([provider.clone()])?
            .with_operators(cuda_operator_domain(&device)?)?
            .commit_from_memory(graph)
    };
    match build(F16_GRAPH) {
        Ok(mut session) => assert_expected(&run_f16(&mut session)),
        Err(error) => eprintln!("skipped: ONNX Runtime has no CUDA here: {error}"),
    }
}

/// A machine of another provider, on which every launch fails as a lost device does.
struct Lost {
    provider: Option<&'static str>,
}

impl Machine for Lost {
    unsafe fn launch(&self, _: *mut c_void, _: &Launch) -> Result<(), CudaError> {
        Err(CudaError::Sticky {
            code: 700,
            message: "CUDA failure 700 in `cuLaunchKernel`: an illegal memory access".to_owned(),
        })
    }

    fn upload(&self, _: &[u8]) -> Result<Box<dyn Memory>, CudaError> {
        Err(CudaError::OutOfMemory {
            message: "CUDA failure 2 in `cuMemAlloc`: out of memory".to_owned(),
        })
    }

    fn stream(&self) -> *mut c_void {
        std::ptr::null_mut()
    }

    fn provider(&self) -> Option<&'static str> {
        self.provider
    }

    fn reaches(&self, _: &AllocationDevice<'_>) -> bool {
        true
    }
}

#[test]
fn a_session_without_the_device_does_not_get_its_operators() {
    let machine: Arc<dyn Machine> = Arc::new(Lost {
        provider: Some("CUDAExecutionProvider"),
    });
    // What ONNX Runtime says depends on what it tries in place of the missing provider.
    let built = session(F16_GRAPH, || operator_domain_on(&machine));
    assert!(
        built.is_err(),
        "the operators ran where their memory is not"
    );
}

#[test]
fn faults_of_a_device_are_known_behind_onnx_runtime() {
    let machine: Arc<dyn Machine> = Arc::new(Lost { provider: None });
    // The tokens that are left out cannot be uploaded.
    let error = session(F16_GRAPH, || operator_domain_on(&machine)).unwrap_err();
    let fault = CudaError::classify(&error.to_string());
    assert_eq!(fault, Some(Fault::OutOfMemory), "{error}");

    let graph = include_bytes!("golden/operators/packed_pooling_f16.onnx");
    let mut session = session(graph, || operator_domain_on(&machine)).unwrap();
    let hidden = [f16::ONE; 4];
    let error = session.run(ort::inputs![
        "hidden" => TensorRef::from_array_view(([2, 2], &hidden[..])).unwrap(),
        "cu_seqlens" => TensorRef::from_array_view(([2], &[0i32, 2][..])).unwrap(),
    ]);
    let error = error.map(|_| ()).unwrap_err();
    let fault = CudaError::classify(&error.to_string());
    assert_eq!(fault, Some(Fault::Sticky), "{error}");
}
