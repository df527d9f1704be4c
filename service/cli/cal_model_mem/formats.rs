//! How many bytes the weights of a chat model take in each format of files.

use super::MIB;
use super::chat_models::ChatConfig;
use crate::cli::Failure;

/// Formats other than `ggufv2`, which all store so many bits per parameter.
const FORMATS: [&str; 9] = [
    "pytorch",
    "gptq",
    "awq",
    "bnb",
    "fp8",
    "fp4",
    "mlx",
    "ggmlv3",
    "safetensors",
];

/// Quantizations of those, with their bits.
const BITS: [(&str, u32); 8] = [
    ("int4", 4),
    ("int8", 8),
    ("4-bit", 4),
    ("8-bit", 8),
    ("fp4", 4),
    ("fp8", 8),
    ("mxfp4", 4),
    ("nvfp4", 4),
];

/// llama.cpp's quantizations: bytes of a block of 64 parameters, for most weights and for those
/// that are kept finer (the values' and the last projections).
const BLOCKS: [(&str, f64, f64); 13] = [
    ("q4_0", 36.0, 36.0),
    ("q4_1", 40.0, 40.0),
    ("q5_0", 44.0, 44.0),
    ("q5_1", 48.0, 48.0),
    ("q8_0", 68.0, 68.0),
    ("q8_1", 80.0, 80.0),
    ("q2_K", 22.0, 26.0),
    ("q3_K_M", 26.0, 46.0),
    ("q3_K_L", 26.0, 38.0),
    ("q4_K_S", 38.0, 46.0),
    ("q4_K_M", 38.0, 54.0),
    ("q5_K_M", 46.0, 54.0),
    ("q6_K", 54.0, 54.0),
];

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weights {
    /// So many bits per parameter.
    Bits(u32),
    /// Blocks of llama.cpp's.
    Gguf(Blocks),
}

/// Bytes of a block of 64 parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blocks {
    usual: f64,
    finer: f64,
    /// Which weights are the finer ones.
    finer_are: Finer,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Finer {
    ValuesAndDown,
    AllButAttention,
}

impl Weights {
    /// What `--model-format` and `--quantization` mean together.
    ///
    /// # Errors
    /// When one of them is unknown, or `ggufv2` has no quantization.
    pub fn read(format: &str, quantization: Option<&str>) -> Result<Self, Failure> {
        let given = quantization.filter(|q| !q.is_empty() && !q.eq_ignore_ascii_case("none"));
        if format.eq_ignore_ascii_case("ggufv2") {
            return Self::gguf(given.unwrap_or_default());
        }
        if !FORMATS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(format))
        {
            return Err(
                Failure::usage(format!("there is no rule for the format `{format}`"))
                    .with_hint(format!("known are {}, ggufv2", FORMATS.join(", "))),
            );
        }
        let Some(name) = given else {
            return Ok(Self::Bits(16));
        };
        let known = BITS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map(|&(_, bits)| Self::Bits(bits)).ok_or_else(|| {
            let known: Vec<&str> = BITS.iter().map(|(name, _)| *name).collect();
            Failure::usage(format!("there is no quantization `{name}` of `{format}`"))
                .with_hint(format!("known are {}", known.join(", ")))
        })
    }

    fn gguf(name: &str) -> Result<Self, Failure> {
        let known = BLOCKS
            .iter()
            .find(|(known, ..)| known.eq_ignore_ascii_case(name));
        let &(name, usual, finer) = known.ok_or_else(|| {
            let known: Vec<&str> = BLOCKS.iter().map(|(name, ..)| *name).collect();
            Failure::usage(format!("`ggufv2` has no quantization `{name}`"))
                .with_hint(format!("give one with `-q`: {}", known.join(", ")))
        })?;
        Ok(Self::Gguf(Blocks {
            usual,
            finer,
            finer_are: match name {
                "q2_K" => Finer::AllButAttention,
                _ => Finer::ValuesAndDown,
            },
        }))
    }

    /// The weights of a model of so many billions of parameters.
    pub fn mebibytes(self, billions: f64, config: &ChatConfig) -> f64 {
        match self {
            Self::Bits(bits) => {
                let halves = billions * 1e9 * 2.0 / MIB;
                // Scales and what is not quantized.
                let extra = if bits < 16 { 0.06 * halves } else { 0.0 };
                halves * f64::from(bits) / 16.0 + extra
            }
            Self::Gguf(blocks) => blocks.mebibytes(config),
        }
    }
}

impl Blocks {
    fn mebibytes(self, config: &ChatConfig) -> f64 {
        let [hidden, inter, layers, vocab] = [
            config.hidden,
            config.intermediate,
            config.layers,
            config.vocab,
        ]
        .map(f64::from);
        let embeddings = 2.0 * vocab * hidden;
        let square = layers * hidden * hidden;
        let all = embeddings + 4.0 * square + 3.0 * layers * inter * hidden;
        let finer = match self.finer_are {
            Finer::ValuesAndDown => square + layers * hidden * inter,
            Finer::AllButAttention => all - 2.0 * square + embeddings,
        };
        ((all - finer) * self.usual + finer * self.finer) / (64.0 * MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_or_a_quantization_nobody_knows_is_answered_with_those_that_are() {
        for (format, quantization, known) in [
            ("onnx", None, "ggufv2"),
            ("gptq", Some("int3"), "int4"),
            ("ggufv2", None, "q4_K_M"),
            ("ggufv2", Some("int4"), "q4_K_M"),
        ] {
            let failure = Weights::read(format, quantization).expect_err("unknown");
            assert_eq!(failure.exit_code, 2);
            assert!(
                failure.hint.is_some_and(|hint| hint.contains(known)),
                "{format}"
            );
        }
        assert_eq!(Weights::read("GPTQ", Some("INT4")), Ok(Weights::Bits(4)));
        assert_eq!(Weights::read("awq", Some("none")), Ok(Weights::Bits(16)));
    }

    #[test]
    fn finer_blocks_take_more() {
        let config = ChatConfig::usual(7.0);
        let of = |name| {
            let weights = Weights::read("ggufv2", Some(name)).expect("a quantization");
            weights.mebibytes(7.0, &config)
        };
        let order = ["q2_K", "q3_K_M", "q4_K_M", "q5_K_M", "q6_K", "q8_0"];
        assert!(order.map(of).is_sorted());
        // 34 bytes for 32 parameters.
        let parameters = of("q8_0") * MIB / 34.0 * 32.0;
        assert!((parameters / 7e9 - 1.0).abs() < 0.02, "{parameters}");
    }
}
