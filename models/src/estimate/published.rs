//! A rough estimate for a model whose files are not here, from its entry in the catalogue. Layers
//! are taken to be BERT's; what the vocabulary is follows from the family and the languages.

use retort_kernels::Isa;

use super::{ARENA_SLACK, Basis, Estimate, Load, NODE_BYTES, tables, vocabulary};
use crate::catalog::{Entry, Family};
use crate::checkpoint::weights::F32_BYTES;
use crate::dtype::{Arithmetic, Dtype};

/// Numbers per token in the buffers of a layer, in widths: five of the width itself and two of
/// the feed-forward layer, which is four times as wide.
const WIDTHS_PER_TOKEN: usize = 13;
/// Nodes of a layer, and about how many weights a layer has in squares of the width.
const NODES_PER_LAYER: u64 = 12;
const SQUARES_PER_LAYER: u64 = 12;

/// A vocabulary and how it is cut into pieces.
struct Vocabulary {
    rows: u64,
    kind: &'static str,
}

pub(super) fn estimate(entry: &Entry, load: &Load) -> Option<Estimate> {
    let per_number = F32_BYTES as u64;
    let file = entry.size_bytes();
    let known = vocabulary_of(entry);
    let numbers = entry.parameters.or_else(|| {
        let bytes = file?;
        let wide = bytes / per_number;
        // Too few for the table alone: the file has numbers of half the size.
        let too_few = wide < known.rows * width_of(entry, wide) as u64;
        Some(if too_few { 2 * wide } else { wide })
    })?;
    let weights = file.unwrap_or(numbers * per_number);
    let tokenizer = known.rows * vocabulary::piece_bytes(known.kind);
    let values = numbers * per_number;
    if matches!(
        entry.family,
        Some(Family::Model2vec | Family::StaticEmbedding)
    ) {
        let parts = Estimate {
            weights,
            weights_mapped: weights,
            embeddings: weights,
            weights_touched: weights,
            tokenizer,
            threads: 0,
            ..Estimate::empty(Basis::Catalogue, load)
        };
        return Some(parts.summed(weights));
    }
    let width = width_of(entry, numbers);
    let table = (known.rows * width as u64 * per_number).min(values);
    let matrices = values - table;
    let layers = matrices / per_number / (SQUARES_PER_LAYER * (width * width) as u64).max(1);
    // The matrices in the order and type in which they are multiplied.
    let packed = match load.dtype.tried() {
        Dtype::Fp32 => matrices,
        Dtype::Fp16 | Dtype::Bf16 => matrices / 2,
        Dtype::Int8 => matrices / 4,
    };
    // Checkpoints of half the size are widened, which leaves nothing mapped.
    let is_narrow = weights * 3 < values * 2;
    // Those that are packed from the file are not.
    let how = Arithmetic::of(load.dtype.tried(), Isa::detect());
    let widened = match how.linears {
        Some(_) => table,
        None => values,
    };
    let longest = load.max_tokens.unwrap_or(entry.max_tokens);
    let tokens = load.max_batch_tokens.max(longest);
    let activations = (tokens * width * WIDTHS_PER_TOKEN * F32_BYTES) as u64;
    let lookups = tokens * load.session_threads.len();
    let parts = Estimate {
        batch_tokens: tokens,
        weights,
        weights_mapped: if is_narrow { 0 } else { values },
        weights_owned: if is_narrow { widened } else { 0 },
        packed,
        embeddings: table,
        weights_touched: if is_narrow {
            0
        } else {
            tables::touched(table, lookups)
        },
        tokenizer,
        session: layers * NODES_PER_LAYER * NODE_BYTES,
        activations_per_session: activations,
        arena_per_session: (activations as f64 * ARENA_SLACK) as u64,
        ..Estimate::empty(Basis::Catalogue, load)
    };
    let while_loading = if is_narrow {
        (values + weights).saturating_sub(widened + packed)
    } else {
        matrices
    };
    Some(parts.summed(while_loading))
}

/// The width of a token vector. A reranker has no vectors of its own; its width follows from its
/// size, as those of MiniLM and of BERT's and XLM-RoBERTa's two sizes do.
fn width_of(entry: &Entry, numbers: u64) -> usize {
    entry.dimensions.unwrap_or(match numbers {
        ..60_000_000 => 384,
        60_000_000..300_000_000 => 768,
        300_000_000.. => 1024,
    })
}

/// The published vocabularies of the families.
fn vocabulary_of(entry: &Entry) -> Vocabulary {
    let english = entry.languages.iter().all(|language| language == "en");
    let (rows, kind) = match entry.family {
        Some(Family::XlmRoberta | Family::JinaXlmRoberta) if english => (50_265, "BPE"),
        Some(Family::XlmRoberta | Family::JinaXlmRoberta) => (250_002, "Unigram"),
        Some(Family::Gte) if !english => (250_048, "Unigram"),
        Some(Family::ModernBert) => (50_368, "BPE"),
        Some(Family::Qwen3) => (151_669, "BPE"),
        Some(Family::MiniCpm) => (122_760, "BPE"),
        Some(Family::JinaBert) if !english => (61_056, "BPE"),
        // An entry without a family is somebody's own, and most are of this kind.
        Some(
            Family::Bert
            | Family::JinaBert
            | Family::Gte
            | Family::NomicBert
            | Family::DistilBert
            | Family::Mpnet
            | Family::Model2vec
            | Family::StaticEmbedding,
        )
        | None => (30_528, "WordPiece"),
    };
    Vocabulary { rows, kind }
}
