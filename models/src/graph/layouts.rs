//! Which of the ways in which a family's weights have been stored a checkpoint has.

use crate::architectures::{Architecture, Layout, Linear, Qkv};
use crate::checkpoint::Weights;

/// What stands before the names of a layer's tensors.
pub(super) fn layer_name(layout: &Layout, index: usize) -> String {
    layout.layer.replacen("{}", &index.to_string(), 1)
}

/// The layout whose first layer is found, and the prefix it is found under. Where none is, the
/// first layout under a prefix that has word embeddings, so that an error names a plain tensor.
pub(super) fn find_layout<'a>(
    architecture: &'a Architecture,
    weights: &Weights,
) -> (&'a Layout, &'static str) {
    let all = architecture.layouts.iter();
    let places = all.flat_map(|layout| layout.prefixes.iter().map(move |prefix| (layout, *prefix)));
    let found = places.clone().find(|(layout, prefix)| {
        let (Qkv::Fused(qkv) | Qkv::Separate([qkv, ..])) = layout.qkv;
        let layer = layer_name(layout, 0);
        let has = |linear: Linear| {
            let name = format!("{prefix}{layer}{}{}", linear.name, layout.weight);
            weights.get(&name).is_some()
        };
        has(qkv) && has(layout.attention_output) && has(layout.feed_forward.down())
    });
    let named = |(layout, prefix): &(&Layout, &str)| {
        let name = format!("{prefix}{}", layout.word_embeddings);
        weights.get(&name).is_some()
    };
    let found = found.or_else(|| places.clone().find(named));
    found.unwrap_or((
        &architecture.layouts[0],
        architecture.layouts[0].prefixes[0],
    ))
}
