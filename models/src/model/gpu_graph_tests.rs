//! Graphs for a GPU, run on the processor: every node is ONNX Runtime's own, but for the one that
//! it has no kernel for, which `operators` computes by its definition. What comes out is held
//! against the graph for processors, whose outputs other tests hold against the reference
//! implementations.

mod operators;

use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;

use retort_kernels::max_sim::{PackedVectors, max_sim};
use serde_json::Value;

use super::fidelity::compare;
use super::parts::Parts;
use super::*;
use crate::batch::{Batch, Encoding};
use crate::dtype::Fidelity;
use crate::given::tests::runtime;
use crate::heads::{Head, MultiVector, Output};
use crate::provider::CudaOptions;

/// A checkpoint, run by graphs of both kinds.
struct Subject {
    name: String,
    path: PathBuf,
    parts: Parts,
    interface: Arc<PackedInterface>,
    info: EncoderInfo,
    runtime: Runtime,
}

fn checkpoints() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

impl Subject {
    /// `None` for what is no encoder.
    fn open(path: &Path, runtime: &Runtime) -> Self {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let options = LoadOptions {
            task: name.contains("reranker").then_some(Task::Rerank),
            ..LoadOptions::new(runtime.clone())
        };
        let parts = Parts::read(path, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let reference = parts.graph(Arithmetic::REFERENCE).unwrap();
        Self {
            name,
            path: path.to_owned(),
            interface: Arc::new(parts.interface(&reference).unwrap()),
            info: parts.info(&reference, &options).unwrap(),
            parts,
            runtime: runtime.clone(),
        }
    }

    fn on_processor(&self, batch: &Batch) -> Vec<Output> {
        let graph = self.parts.graph(Arithmetic::REFERENCE).unwrap();
        let graph = SharedGraph::new(&self.runtime, graph).unwrap();
        let session = graph.passing_session(1).unwrap();
        self.run(session, batch)
    }

    fn as_on_gpu(&self, dtype: Dtype, batch: &Batch) -> Vec<Output> {
        let arithmetic = Arithmetic::on(
            &Provider::Cuda(CudaOptions::default()),
            dtype,
            Isa::detect(),
        );
        let graph = self.parts.graph(arithmetic).unwrap();
        let graph = SharedGraph::new(&self.runtime, graph).unwrap();
        let session = graph.into_emulated_session(operators::domains().unwrap());
        let session = session.unwrap_or_else(|error| panic!("{} in {dtype:?}: {error}", self.name));
        self.run(session, batch)
    }

    fn run(&self, session: crate::session::LoadedSession, batch: &Batch) -> Vec<Output> {
        let mut encoder = PackedEncoder::new(session, Arc::clone(&self.interface));
        // A batch of another shape first, so that nothing of it may be left.
        encoder.encode(&batch.sequence(1)).unwrap();
        encoder.encode(batch).unwrap()
    }

    /// Checks the scores of some documents against the vectors of all; how many they are.
    fn check_comparison(&self, dtype: Dtype, off: f32) -> usize {
        let stored = stored_inputs(&self.path, &self.info);
        let vectors = self.as_on_gpu(dtype, &stored);
        let vectors: Vec<&MultiVector> = vectors
            .iter()
            .map(|output| output.multi_vector.as_ref().unwrap())
            .collect();
        let sequence = |index: usize| {
            let ids = stored.sequence(index).input_ids;
            Arc::new(Encoding {
                token_type_ids: vec![0; ids.len()],
                input_ids: ids.iter().map(|&id| id as u32).collect(),
                ..Encoding::default()
            })
        };
        let last = stored.sequences() - 1;
        let queries_at = [0, last];
        let queries = queries_at.map(sequence);
        let mut batch = Batch::wanting(Heads::NONE);
        // Every third is a document of the first query, every third one of the last, and of the
        // others the vectors are wanted or nothing but what comes for all.
        let wanted = Heads::from(Head::MultiVector);
        for index in 0..=last {
            let query = queries.get(index % 3);
            let wanted = if index % 6 == 5 { Heads::NONE } else { wanted };
            batch.push_wanting(&sequence(index), wanted, query);
        }
        let found = self.as_on_gpu(dtype, &batch);
        assert_eq!(found.len(), batch.sequences());
        for (index, output) in found.iter().enumerate() {
            let own = vectors[index];
            let Some(query) = queries_at.get(index % 3) else {
                let wanted = (index % 6 != 5).then_some(own);
                let found = output.multi_vector.as_ref();
                assert_eq!(
                    found.map(|v| v.rows().len()),
                    wanted.map(|v| v.rows().len())
                );
                continue;
            };
            assert_eq!(output.multi_vector, None);
            let expected = score(vectors[*query], own);
            let found = output.late_interaction.unwrap();
            assert!((found - expected).abs() <= off, "{found} for {expected}");
        }
        found.iter().filter_map(|one| one.late_interaction).count()
    }

    /// Sequences of random tokens, types and adapters.
    fn batch(&self) -> Batch {
        let mut state = 0x2545_f491_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below.max(1)
        };
        let mut batch = Batch::wanting(self.info.heads);
        let types = self.interface.bounds.token_types.unwrap_or(1);
        let adapters = self.interface.adapters.len();
        for length in [1, 7, 16, 33, 40, 3] {
            let length = length.min(self.info.max_tokens);
            batch.push(&Encoding {
                input_ids: (0..length)
                    .map(|_| random(self.info.vocab_size) as u32)
                    .collect(),
                token_type_ids: (0..length).map(|_| random(types) as u8).collect(),
                adapter: random(adapters + 1)
                    .checked_sub(1)
                    .map(|adapter| adapter as u8),
                ..Encoding::default()
            });
        }
        batch
    }
}

/// The token ids of the cases that a checkpoint's outputs are stored of.
fn stored_inputs(path: &Path, info: &EncoderInfo) -> Batch {
    let golden = std::fs::read(path.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let mut batch = Batch::wanting(info.heads);
    for case in golden["cases"].as_array().into_iter().flatten() {
        for part in [case, &case["document"], &case["query"]] {
            let whole = |key: &str| {
                let list = part[key].as_array().into_iter().flatten();
                list.filter_map(Value::as_u64).collect::<Vec<_>>()
            };
            let input_ids: Vec<u32> = whole("input_ids").iter().map(|&id| id as u32).collect();
            let mut types = whole("token_type_ids");
            types.resize(input_ids.len(), 0);
            if !input_ids.is_empty() {
                batch.push(&Encoding {
                    input_ids,
                    token_type_ids: types.iter().map(|&kind| kind as u8).collect(),
                    ..Encoding::default()
                });
            }
        }
    }
    assert!(batch.sequences() > 0, "{}", path.display());
    batch
}

/// The definition, of two texts by themselves.
fn score(query: &MultiVector, document: &MultiVector) -> f32 {
    let (size, rows) = (query.width, query.rows().len() as i32);
    let all = [&query.values[..], &document.values].concat();
    let packed = PackedVectors {
        vectors: &all,
        size,
        cu_seqlens: &[0, rows, rows + document.rows().len() as i32],
        kept: None,
    };
    let mut score = [0.0];
    max_sim(&packed, &[[0, 1]], &mut score).unwrap();
    score[0]
}

/// All numbers of an output, and whether there are any.
fn numbers(output: &Output) -> Vec<f32> {
    let mut numbers = Vec::new();
    numbers.extend(output.dense.iter().flatten());
    numbers.extend(output.scores.iter().flatten());
    numbers.extend(
        output
            .multi_vector
            .iter()
            .flat_map(|vectors| &vectors.values),
    );
    if let Some(sparse) = &output.sparse {
        numbers.extend(sparse.ids.iter().map(|&id| id as f32));
        numbers.extend(&sparse.weights);
    }
    numbers
}

#[test]
fn graphs_for_a_gpu_compute_what_those_for_processors_do() {
    let Some(runtime) = runtime() else { return };
    let mut worst = (0.0_f32, String::new());
    for path in checkpoints() {
        let subject = Subject::open(&path, &runtime);
        let batch = subject.batch();
        let expected = subject.on_processor(&batch);
        let found = subject.as_on_gpu(Dtype::Fp32, &batch);
        assert_eq!(found.len(), batch.sequences());
        let expected: Vec<Vec<f32>> = expected.iter().map(numbers).collect();
        let largest = expected
            .iter()
            .flatten()
            .fold(f32::MIN_POSITIVE, |m, n| m.max(n.abs()));
        for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let found = numbers(found);
            assert!(!expected.is_empty());
            assert_eq!(expected.len(), found.len(), "{}, {index}", subject.name);
            let apart = expected
                .iter()
                .zip(&found)
                .map(|(a, b)| (a - b).abs() / largest);
            let apart = apart.fold(0.0, |m: f32, d| if d <= m { m } else { d });
            // As far apart as two orders of the same sums in 32 bits may be.
            assert!(
                apart <= 3e-5,
                "{}, sequence {index}: off by {apart}",
                subject.name
            );
            if apart > worst.0 {
                worst = (apart, subject.name.clone());
            }
        }
    }
    println!("off by {:.1e} at most, in {}", worst.0, worst.1);
}

/// Documents beside their queries: the scores are those of the token vectors that the same graph
/// gives, and whoever wants something else gets just that.
#[test]
fn token_vectors_are_compared_with_their_queries() {
    let Some(runtime) = runtime() else { return };
    let mut compared = 0;
    for path in checkpoints() {
        let subject = Subject::open(&path, &runtime);
        if !subject.info.heads.contains(Head::MultiVector) {
            continue;
        }
        for (dtype, off) in [(Dtype::Fp32, 1e-5), (Dtype::Fp16, 1e-3)] {
            compared += subject.check_comparison(dtype, off);
        }
    }
    assert!(compared > 10, "{compared}");
}

/// In the middle as near as models of published size are at worst; at worst less so, because a few
/// numbers of random weights have nothing to level a rounding out: transformers itself, in 16 bits,
/// is off by a cosine of 0.9998 for `modernbert-tiny-cls`.
fn assert_near_enough(name: &str, expected: &[Output], found: &[Output]) {
    let apart = expected.iter().zip(found);
    let apart: Vec<Fidelity> = apart
        .map(|(expected, found)| compare(slice::from_ref(expected), slice::from_ref(found)))
        .collect();
    let mut cosines: Vec<f32> = apart.iter().filter_map(|one| one.cosine).collect();
    cosines.sort_by(f32::total_cmp);
    if let (Some(&worst), Some(&middle)) = (cosines.first(), cosines.get(cosines.len() / 2)) {
        println!("{name}: {worst}, {middle} in the middle");
        assert!(worst >= 0.999 && middle >= 0.9999, "{name}: {cosines:?}");
    }
    let logits = apart.iter().filter_map(|one| one.logit_difference);
    let logits: Vec<f32> = logits.collect();
    assert!(logits.iter().all(|&off| off <= 0.05), "{name}: {logits:?}");
    assert_eq!(found.len(), expected.len());
}

#[test]
fn sixteen_bits_are_near_thirty_two() {
    let Some(runtime) = runtime() else { return };
    for path in checkpoints() {
        let subject = Subject::open(&path, &runtime);
        let batch = stored_inputs(&path, &subject.info);
        let expected = subject.on_processor(&batch);
        let found = subject.as_on_gpu(Dtype::Fp16, &batch);
        assert_near_enough(&subject.name, &expected, &found);
    }
}

/// The processor's provider has every operator of these graphs but two, whose inputs and types it
/// checks all the same: nothing else may be wrong with a graph.
#[test]
fn onnx_runtime_finds_nothing_wrong_but_the_missing_kernels() {
    let Some(runtime) = runtime() else { return };
    for path in checkpoints() {
        let subject = Subject::open(&path, &runtime);
        for dtype in [Dtype::Fp32, Dtype::Fp16] {
            let provider = Provider::Cuda(CudaOptions::default());
            let arithmetic = Arithmetic::on(&provider, dtype, Isa::detect());
            let graph = subject.parts.graph(arithmetic).unwrap();
            let graph = SharedGraph::new(&runtime, graph).unwrap();
            let pooling = operators::poolings().unwrap();
            let error = graph
                .into_emulated_session(vec![pooling])
                .err()
                .unwrap()
                .to_string();
            assert!(
                error.contains("PackedMultiHeadAttention") && error.contains("find"),
                "{}: {error}",
                subject.name
            );
        }
    }
}

/// The same on a device, in both types, with everything that is only there.
#[test]
fn models_on_a_gpu_compute_what_they_do_on_a_processor() {
    let Some(runtime) = runtime() else { return };
    if !retort_kernels::cuda::is_present() || runtime.providers().len() < 2 {
        eprintln!("skipped: no NVIDIA device, or an ONNX Runtime that was not built for it");
        return;
    }
    for path in checkpoints() {
        let subject = Subject::open(&path, &runtime);
        let batch = stored_inputs(&path, &subject.info);
        let expected = subject.on_processor(&batch);
        for dtype in [DtypeChoice::Fp32, DtypeChoice::Fp16] {
            let options = LoadOptions {
                provider: Provider::Cuda(CudaOptions::default()),
                task: subject.name.contains("reranker").then_some(Task::Rerank),
                dtype,
                // What is measured at load is measured here, too.
                force_dtype: true,
                ..LoadOptions::new(runtime.clone())
            };
            let model = EncoderModel::load(&path, &options);
            let model = model.unwrap_or_else(|error| panic!("{} {dtype}: {error}", subject.name));
            assert_eq!(model.info().device, "cuda:0");
            let found = model.encoder(1).unwrap().encode(&batch).unwrap();
            assert_near_enough(&subject.name, &expected, &found);
            if dtype == DtypeChoice::Fp32 {
                let fidelity = compare(&expected, &found);
                let near = fidelity.cosine.is_none_or(|cosine| cosine >= 0.999_99);
                let close = fidelity.logit_difference.is_none_or(|off| off <= 0.001);
                assert!(near && close, "{}: {fidelity:?}", subject.name);
            }
        }
    }
}
