//! Weights of linear layers in the form that the kernels of this project multiply them in: packed
//! once, straight from the mapped checkpoint, and shared by all sessions of a model.

use std::sync::Arc;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use retort_kernels::Isa;
use retort_kernels::linear::{LinearStore, LinearWeight, PackedLinear};

use crate::checkpoint::weights::F32Values;
use crate::error::{Error, Result};
use crate::graph::linear::PackedLayer;

/// Packs all layers of a graph, as many at a time as there are cores. Pages of the file that were
/// read for it are given back.
///
/// # Errors
/// `Error::Unsupported` for weights of a type that is not a plain floating-point type.
pub(crate) fn pack(layers: &[PackedLayer]) -> Result<LinearStore> {
    let isa = Isa::detect();
    let packed = layers.par_iter().map(|layer| {
        let packed = pack_one(layer, isa)?;
        Ok((layer.weight.0.clone(), Arc::new(packed)))
    });
    packed.collect()
}

fn pack_one(layer: &PackedLayer, isa: Isa) -> Result<PackedLinear> {
    let (key, weight) = &layer.weight;
    let &[out_features, in_features] = weight.shape() else {
        let message = format!("the weight `{key}` is no matrix");
        return Err(Error::Unsupported(message));
    };
    let values = weight.stored_values()?;
    let bias = layer.bias.as_ref();
    let bias = bias.map(|(_, bias)| bias.to_f32()).transpose()?;
    let borrowed = LinearWeight {
        values: values.borrowed(),
        out_features,
        in_features,
        bias: bias.as_ref().map(F32Values::as_slice),
    };
    let packed = PackedLinear::pack(layer.kind, &borrowed, isa)?;
    weight.release_pages();
    Ok(packed)
}
