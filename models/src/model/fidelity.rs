//! In what a built graph is computed: what the operator asked for, once its outputs were held
//! against those in 32-bit floating point on sentences that are built in.

use std::sync::Arc;
use std::thread;

use retort_kernels::Isa;

use super::parts::Parts;
use super::{EncoderInfo, LoadOptions};
use crate::batch::{Batch, Encoding};
use crate::dtype::{Arithmetic, Dtype, DtypeChoice, Fidelity, Measured};
use crate::encoder::on_device::{OnDevice, SharedEncoder};
use crate::encoder::{Encode, PackedEncoder, PackedInterface};
use crate::error::{Error, Result};
use crate::graph::BuiltGraph;
use crate::heads::{Head, Heads, Output, SparseVector};
use crate::memory::release_unused_memory;
use crate::provider::device::Device;
use crate::session::{LoadedSession, SharedGraph};
use crate::tokenizer::{Truncation, TruncationSide};

/// The lowest cosine at which `auto` computes in bfloat16.
const AUTO_COSINE_MIN: f32 = 0.9999;
/// The largest difference of logits at which it does. A score in between moves by 0.01 at most.
const AUTO_LOGIT_MAX: f32 = 0.05;
/// The lowest cosine at which a type that was asked for is taken without force. With MiniLM, 8-bit
/// products of every kind whose lowest cosine was 0.98 or more found what 32 bits find (recall@10
/// within 0.005); those in 4 bits, at 0.95 and less, no longer did.
const COSINE_FLOOR: f32 = 0.98;
/// The same for logits: a score in between moves by an eighth.
const LOGIT_CEILING: f32 = 0.5;

/// Short and long, plain and technical, in two scripts.
const SENTENCES: [&str; 8] = [
    "weather tomorrow",
    "How do I reset my password?",
    "苹果公司昨天发布了新手机。",
    "Bone marrow transplantation lowers the relapse rate in acute myeloid leukaemia (p < 0.01).",
    "fn main() { println!(\"{}\", vec![1, 2, 3].iter().sum::<i32>()); }",
    "中华人民共和国的首都是北京，它有三千多年的建城史，人口超过两千万，是政治和文化的中心。",
    "The committee met on Tuesday to discuss the budget for the coming year, but could not agree \
     on how much should be spent on roads, schools and the new hospital; the vote was put off \
     until the auditors have looked at last year's accounts.",
    "Retrieval models turn a text into numbers so that texts which mean the same are near one \
     another. What was indexed yesterday must be found today, so the numbers may not depend on \
     the machine, on the other texts of a request, or on how fast somebody wanted them.",
];
/// What the first half of a pair asks.
const QUERY: &str = "how are the numbers of a text computed?";

/// What is needed to open a graph in one type or another.
pub(super) struct Opening<'a> {
    pub(super) device: &'a Device,
    pub(super) options: &'a LoadOptions,
    pub(super) parts: &'a Parts,
    pub(super) info: &'a EncoderInfo,
    pub(super) interface: &'a Arc<PackedInterface>,
}

/// Where a graph runs, and what encoders are made of there.
pub(super) enum Runs {
    /// Each thread opens sessions of its own over shared weights.
    OnProcessor(SharedGraph),
    /// There is one for all; the weights are on the device and nowhere else.
    OnGpu(SharedEncoder<PackedEncoder>),
}

/// A graph in the type that it is computed in.
pub(super) struct OpenedGraph {
    pub(super) runs: Runs,
    pub(super) dtype: Dtype,
    pub(super) fidelity: Fidelity,
    /// The same as the reference implementations compute it, where `graph` does otherwise: names
    /// and places, no numbers.
    pub(super) reference: Option<BuiltGraph>,
}

impl OpenedGraph {
    /// The facts of the model, with what it is computed in.
    pub(super) fn described(&self, info: EncoderInfo) -> EncoderInfo {
        let (isa, compares) = match &self.runs {
            Runs::OnProcessor(graph) => (graph.kernel().unwrap_or(info.isa), false),
            Runs::OnGpu(_) => (info.isa, info.heads.contains(Head::MultiVector)),
        };
        EncoderInfo {
            dtype: self.dtype.name().to_owned(),
            isa,
            fidelity: self.fidelity.clone(),
            compares,
            ..info
        }
    }

    /// What opening it again need not measure again.
    pub(super) fn measured(&self) -> Measured {
        Measured {
            dtype: self.dtype,
            fidelity: self.fidelity.clone(),
        }
    }
}

impl Opening<'_> {
    /// Opens what the operator asked for. `reference` is the graph as the reference implementations
    /// compute it.
    ///
    /// # Errors
    /// `Error::Unsupported` when the outputs are too far from the right ones.
    pub(super) fn open(&self, reference: BuiltGraph) -> Result<OpenedGraph> {
        if let Some(known) = &self.options.measured {
            return self.opened(known.dtype, reference, known.fidelity.clone());
        }
        let dtype = self.options.dtype.tried_on(&self.options.provider)?;
        if dtype == Dtype::Fp32 && self.device.gpu().is_none() {
            return self.opened(dtype, reference, Fidelity::default());
        }
        let probes = self.probes()?;
        // One after the other, so that the most that is in memory at once is one of them.
        let wide = SharedGraph::new(&self.options.runtime, reference.clone())?;
        let expected = self.run(wide.passing_session(cores())?, &probes)?;
        drop(wide);
        release_unused_memory();
        let runs = self.runs(self.parts.graph(self.arithmetic(dtype))?)?;
        let found = match &runs {
            Runs::OnGpu(encoder) => encoder.handle().encode(&probes)?,
            Runs::OnProcessor(graph) => self.run(graph.passing_session(cores())?, &probes)?,
        };
        let fidelity = compare(&expected, &found);
        let Some(reason) = self.objection(dtype, &fidelity) else {
            return Ok(OpenedGraph {
                runs,
                dtype,
                fidelity,
                reference: Some(reference),
            });
        };
        drop(runs);
        release_unused_memory();
        if self.options.dtype != DtypeChoice::Auto {
            return Err(Error::Unsupported(reason));
        }
        let fidelity = Fidelity {
            fallback: Some(reason),
            ..Fidelity::default()
        };
        let opened = self.opened(Dtype::Fp32, reference, fidelity)?;
        if let Runs::OnGpu(encoder) = &opened.runs {
            let found = encoder.handle().encode(&probes)?;
            if let Some(reason) = self.objection(Dtype::Fp32, &compare(&expected, &found)) {
                return Err(Error::Unsupported(reason));
            }
        }
        Ok(opened)
    }

    /// A graph in a type that needs no comparison any more.
    fn opened(
        &self,
        dtype: Dtype,
        reference: BuiltGraph,
        fidelity: Fidelity,
    ) -> Result<OpenedGraph> {
        let arithmetic = self.arithmetic(dtype);
        let (graph, reference) = match arithmetic == Arithmetic::REFERENCE {
            true => (reference, None),
            false => (self.parts.graph(arithmetic)?, Some(reference)),
        };
        Ok(OpenedGraph {
            runs: self.runs(graph)?,
            dtype,
            fidelity,
            reference,
        })
    }

    fn arithmetic(&self, dtype: Dtype) -> Arithmetic {
        Arithmetic::on(&self.options.provider, dtype, Isa::detect())
    }

    /// A graph where it is to run.
    fn runs(&self, graph: BuiltGraph) -> Result<Runs> {
        let graph = SharedGraph::on(self.device, &self.options.runtime, graph)?;
        let Some(gpu) = self.device.gpu() else {
            return Ok(Runs::OnProcessor(graph));
        };
        let session = graph.into_session_on(gpu)?;
        // What the weights were made from went with the graph.
        release_unused_memory();
        let encoder = PackedEncoder::new(session, Arc::clone(self.interface));
        let encoder = OnDevice::new(encoder, Arc::clone(gpu) as _);
        Ok(Runs::OnGpu(SharedEncoder::new(encoder)))
    }

    /// Why a type is not taken.
    fn objection(&self, dtype: Dtype, fidelity: &Fidelity) -> Option<String> {
        let chosen = self.options.dtype;
        let (cosine_min, logit_max) = match chosen {
            // A GPU that is far off even so does not compute as it should.
            DtypeChoice::Auto | DtypeChoice::Fp32 => (AUTO_COSINE_MIN, AUTO_LOGIT_MAX),
            _ if self.options.force_dtype => return None,
            _ => (COSINE_FLOOR, LOGIT_CEILING),
        };
        let dtype = dtype.short_name();
        let way_out = match chosen {
            DtypeChoice::Auto => "",
            DtypeChoice::Fp32 => "; the GPU or its libraries do not compute as they should",
            _ => "; take `auto` or `fp32`, or force it with `force_dtype = true`",
        };
        // What is not a number is no agreement either.
        let far = fidelity.cosine.filter(|c| c.is_nan() || *c < cosine_min);
        if let Some(cosine) = far {
            return Some(format!(
                "on the built-in sentences `{dtype}` gives vectors with a cosine of `{cosine:.6}` \
                 to those in `fp32`, less than `{cosine_min}`{way_out}"
            ));
        }
        let apart = fidelity.logit_difference;
        apart.filter(|a| a.is_nan() || *a > logit_max).map(|apart| {
            format!(
                "on the built-in sentences `{dtype}` gives logits that are `{apart:.4}` from those \
                 in `fp32`, more than `{logit_max}`{way_out}"
            )
        })
    }

    /// The built-in sentences as the model reads them, each once.
    fn probes(&self) -> Result<Batch> {
        let info = self.info;
        let texts = || -> Result<Vec<Encoding>> {
            let truncation = Truncation {
                max_tokens: info.max_tokens,
                side: TruncationSide::End,
            };
            let texts = SENTENCES.iter();
            texts
                .map(|text| self.parts.tokenizer.encode(text, truncation))
                .collect()
        };
        let pairs = || -> Result<Vec<Encoding>> {
            let form = info.pair_form(&self.parts.tokenizer, None)?;
            let truncation = info.pair_truncation(&form, None, TruncationSide::End);
            let query = self
                .parts
                .tokenizer
                .prepare_query(&form, QUERY, truncation)?;
            let texts = SENTENCES.iter();
            texts
                .map(|text| self.parts.tokenizer.encode_pair(&query, text))
                .collect()
        };
        // A classifier of single texts may have no form for two.
        let encodings = match info.heads == Heads::SCORE {
            true => pairs().or_else(|_| texts())?,
            false => texts()?,
        };
        let mut batch = Batch::wanting(info.heads);
        encodings.iter().for_each(|encoding| batch.push(encoding));
        Ok(batch)
    }

    fn run(&self, session: LoadedSession, probes: &Batch) -> Result<Vec<Output>> {
        PackedEncoder::new(session, Arc::clone(self.interface)).encode(probes)
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The lowest cosine and the largest difference of logits, of outputs in the same order.
pub(super) fn compare(expected: &[Output], found: &[Output]) -> Fidelity {
    let mut fidelity = Fidelity::default();
    for (expected, found) in expected.iter().zip(found) {
        let dense = expected.dense.as_deref().zip(found.dense.as_deref());
        let sparse = expected.sparse.as_ref().zip(found.sparse.as_ref());
        // All vectors of a text as one: those of a few filling words may stray, its meaning not.
        let tokens = expected.multi_vector.as_ref();
        let tokens = tokens.zip(found.multi_vector.as_ref());
        let cosines = [
            dense.map(|(a, b)| cosine(a, b)),
            sparse.map(|(a, b)| sparse_cosine(a, b)),
            tokens.map(|(a, b)| cosine(&a.values, &b.values)),
        ];
        for cosine in cosines.into_iter().flatten() {
            let lowest = fidelity.cosine.unwrap_or(cosine);
            fidelity.cosine = Some(worse(lowest, cosine, f32::min));
        }
        let scores = expected.scores.as_deref().zip(found.scores.as_deref());
        for (a, b) in scores.into_iter().flat_map(|(a, b)| a.iter().zip(b)) {
            let apart = (a - b).abs() / a.abs().max(1.0);
            let largest = fidelity.logit_difference.unwrap_or(apart);
            fidelity.logit_difference = Some(worse(largest, apart, f32::max));
        }
    }
    fidelity
}

/// `f32::min` and `f32::max` forget what is not a number.
fn worse(known: f32, found: f32, pick: fn(f32, f32) -> f32) -> f32 {
    match known.is_nan() || found.is_nan() {
        true => f32::NAN,
        false => pick(known, found),
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::NAN;
    }
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        let pairs = x.iter().zip(y);
        pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    ratio(dot(a, b), dot(a, a), dot(b, b))
}

fn sparse_cosine(a: &SparseVector, b: &SparseVector) -> f32 {
    let squares =
        |v: &SparseVector| -> f64 { v.weights.iter().map(|w| f64::from(*w).powi(2)).sum() };
    let common = a.ids.iter().zip(&a.weights).filter_map(|(id, weight)| {
        let place = b.ids.binary_search(id).ok()?;
        Some(f64::from(*weight) * f64::from(b.weights[place]))
    });
    ratio(common.sum(), squares(a), squares(b))
}

/// Two texts without any weight agree.
fn ratio(dot: f64, a: f64, b: f64) -> f32 {
    match a == 0.0 && b == 0.0 {
        true => 1.0,
        false => (dot / (a * b).sqrt()) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_output_counts_and_nan_is_the_worst() {
        let of = |vector: &[f32]| Output::of_dense(vector.to_vec());
        let expected = [of(&[1.0, 0.0]), of(&[1.0, 1.0])];
        let near = compare(&expected, &[of(&[2.0, 0.0]), of(&[1.0, 0.0])]);
        assert!((near.cosine.unwrap() - 0.5_f32.sqrt()).abs() < 1e-6);
        assert_eq!(near.logit_difference, None);
        for wrong in [
            [of(&[f32::NAN, 0.0]), of(&[1.0, 1.0])],
            [of(&[0.0; 2]), of(&[0.0; 2])],
        ] {
            assert!(compare(&expected, &wrong).cosine.unwrap().is_nan());
        }
    }

    #[test]
    fn logits_are_compared_as_numbers() {
        let of = |score: f32| Output {
            scores: Some(vec![score]),
            ..Output::default()
        };
        let found = compare(&[of(-10.0), of(0.1)], &[of(-10.5), of(0.13)]);
        assert!((found.logit_difference.unwrap() - 0.05).abs() < 1e-6);
        assert_eq!(found.cosine, None);
    }

    #[test]
    fn sparse_vectors_are_compared_by_entry() {
        let of = |ids: &[u32], weights: &[f32]| SparseVector {
            ids: ids.to_vec(),
            weights: weights.to_vec(),
        };
        let a = of(&[1, 5], &[3.0, 4.0]);
        assert!((sparse_cosine(&a, &of(&[5, 7], &[5.0, 0.0])) - 0.8).abs() < 1e-6);
        let none = of(&[], &[]);
        assert_eq!(sparse_cosine(&none, &none), 1.0);
        assert_eq!(
            sparse_cosine(&a, &none).to_bits() & 0x7fc0_0000,
            0x7fc0_0000
        );
    }
}
