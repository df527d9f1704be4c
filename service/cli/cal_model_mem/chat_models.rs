//! The shapes of chat models, as their `config.json` states them, under the names that Xinference
//! has for them. Mixtures of experts are left out: the rule counts no experts.

/// The models of one name.
#[derive(Debug)]
pub struct Family {
    /// As Xinference writes it.
    pub name: &'static str,
    /// From small to large.
    pub sizes: &'static [ChatConfig],
}

/// The shape of a chat model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChatConfig {
    /// Billions of parameters, as the name of the model says.
    pub size: f64,
    /// Transformer layers.
    pub layers: u32,
    /// Width of the hidden state.
    pub hidden: u32,
    /// Attention heads.
    pub heads: u32,
    /// Heads with keys and values of their own.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Width of the feed-forward layer.
    pub intermediate: u32,
    /// Tokens of the vocabulary.
    pub vocab: u32,
}

/// Attention: heads, heads with keys and values, width.
#[derive(Clone, Copy)]
struct Heads(u32, u32, u32);

const fn shape(size: f64, [layers, hidden, intermediate, vocab]: [u32; 4], h: Heads) -> ChatConfig {
    ChatConfig {
        size,
        layers,
        hidden,
        heads: h.0,
        kv_heads: h.1,
        head_dim: h.2,
        intermediate,
        vocab,
    }
}

/// Every known name.
pub const CHAT_MODELS: &[Family] = &[
    Family {
        name: "qwen1.5-chat",
        sizes: &[
            shape(0.5, [24, 1024, 2816, 151_936], Heads(16, 16, 64)),
            shape(1.8, [24, 2048, 5504, 151_936], Heads(16, 16, 128)),
            shape(4.0, [40, 2560, 6912, 151_936], Heads(20, 20, 128)),
            shape(7.0, [32, 4096, 11_008, 151_936], Heads(32, 32, 128)),
            shape(14.0, [40, 5120, 13_696, 152_064], Heads(40, 40, 128)),
            shape(32.0, [64, 5120, 27_392, 152_064], Heads(40, 8, 128)),
            shape(72.0, [80, 8192, 24_576, 152_064], Heads(64, 64, 128)),
            shape(110.0, [80, 8192, 49_152, 152_064], Heads(64, 8, 128)),
        ],
    },
    Family {
        name: "qwen2-instruct",
        sizes: &[QWEN2_0_5, QWEN2_1_5, QWEN2_7, QWEN2_72],
    },
    Family {
        name: "qwen2.5-instruct",
        sizes: QWEN2_5,
    },
    Family {
        name: "qwen2.5-coder-instruct",
        sizes: &[
            QWEN2_0_5, QWEN2_1_5, QWEN2_5_3, QWEN2_7, QWEN2_5_14, QWEN2_5_32,
        ],
    },
    Family {
        name: "qwen3",
        sizes: &[
            shape(0.6, [28, 1024, 3072, 151_936], Heads(16, 8, 128)),
            shape(1.7, [28, 2048, 6144, 151_936], Heads(16, 8, 128)),
            shape(4.0, [36, 2560, 9728, 151_936], Heads(32, 8, 128)),
            shape(8.0, [36, 4096, 12_288, 151_936], Heads(32, 8, 128)),
            shape(14.0, [40, 5120, 17_408, 151_936], Heads(40, 8, 128)),
            shape(32.0, [64, 5120, 25_600, 151_936], Heads(64, 8, 128)),
        ],
    },
    Family {
        name: "QwQ-32B",
        sizes: &[QWEN2_5_32],
    },
    Family {
        name: "llama-2-chat",
        sizes: &[
            shape(7.0, [32, 4096, 11_008, 32_000], Heads(32, 32, 128)),
            shape(13.0, [40, 5120, 13_824, 32_000], Heads(40, 40, 128)),
            shape(70.0, [80, 8192, 28_672, 32_000], Heads(64, 8, 128)),
        ],
    },
    Family {
        name: "llama-3-instruct",
        sizes: &[LLAMA_3_8, LLAMA_3_70],
    },
    Family {
        name: "llama-3.1-instruct",
        sizes: &[
            LLAMA_3_8,
            LLAMA_3_70,
            shape(405.0, [126, 16_384, 53_248, 128_256], Heads(128, 8, 128)),
        ],
    },
    Family {
        name: "llama-3.3-instruct",
        sizes: &[LLAMA_3_70],
    },
    Family {
        name: "deepseek-r1-distill-qwen",
        sizes: &[QWEN2_1_5, QWEN2_7, QWEN2_5_14, QWEN2_5_32],
    },
    Family {
        name: "deepseek-r1-distill-llama",
        sizes: &[LLAMA_3_8, LLAMA_3_70],
    },
    Family {
        name: "mistral-instruct-v0.3",
        sizes: &[shape(7.0, [32, 4096, 14_336, 32_768], Heads(32, 8, 128))],
    },
    Family {
        name: "Yi-1.5-chat",
        sizes: &[
            shape(6.0, [32, 4096, 11_008, 64_000], Heads(32, 4, 128)),
            shape(9.0, [48, 4096, 11_008, 64_000], Heads(32, 4, 128)),
            shape(34.0, [60, 7168, 20_480, 64_000], Heads(56, 8, 128)),
        ],
    },
    Family {
        name: "gemma-2-it",
        sizes: &[
            shape(2.0, [26, 2304, 9216, 256_000], Heads(8, 4, 256)),
            shape(9.0, [42, 3584, 14_336, 256_000], Heads(16, 8, 256)),
            shape(27.0, [46, 4608, 36_864, 256_000], Heads(32, 16, 128)),
        ],
    },
];

const QWEN2_0_5: ChatConfig = shape(0.5, [24, 896, 4864, 151_936], Heads(14, 2, 64));
const QWEN2_1_5: ChatConfig = shape(1.5, [28, 1536, 8960, 151_936], Heads(12, 2, 128));
const QWEN2_7: ChatConfig = shape(7.0, [28, 3584, 18_944, 152_064], Heads(28, 4, 128));
const QWEN2_72: ChatConfig = shape(72.0, [80, 8192, 29_568, 152_064], Heads(64, 8, 128));
const QWEN2_5_3: ChatConfig = shape(3.0, [36, 2048, 11_008, 151_936], Heads(16, 2, 128));
const QWEN2_5_14: ChatConfig = shape(14.0, [48, 5120, 13_824, 152_064], Heads(40, 8, 128));
const QWEN2_5_32: ChatConfig = shape(32.0, [64, 5120, 27_648, 152_064], Heads(40, 8, 128));
const LLAMA_3_8: ChatConfig = shape(8.0, [32, 4096, 14_336, 128_256], Heads(32, 8, 128));
const LLAMA_3_70: ChatConfig = shape(70.0, [80, 8192, 28_672, 128_256], Heads(64, 8, 128));

const QWEN2_5: &[ChatConfig] = &[
    QWEN2_0_5, QWEN2_1_5, QWEN2_5_3, QWEN2_7, QWEN2_5_14, QWEN2_5_32, QWEN2_72,
];

/// The models of a name, whatever its case.
pub fn family(name: &str) -> Option<&'static Family> {
    let is_meant = |family: &&Family| family.name.eq_ignore_ascii_case(name);
    CHAT_MODELS.iter().find(is_meant)
}

/// The model of a name and a size.
pub fn find(name: &str, size: f64) -> Option<&'static ChatConfig> {
    let mut sizes = family(name)?.sizes.iter();
    sizes.find(|config| (config.size - size).abs() < 1e-6)
}

impl ChatConfig {
    /// A model of this size as Llama's first were: as wide as its parameters allow when each layer
    /// has four square projections and a feed-forward layer of four times the width.
    pub fn usual(size: f64) -> Self {
        const VOCAB: u32 = 32_000;
        let (heads, layers) = match size {
            ..5.0 => (32, 24),
            5.0..10.0 => (32, 32),
            10.0..24.0 => (40, 40),
            24.0..55.0 => (60, 48),
            _ => (64, 80),
        };
        // 16 · layers · width² + 2 · vocabulary · width = parameters
        let (a, b) = (16.0 * f64::from(layers), 2.0 * f64::from(VOCAB));
        let width = ((b * b + 4.0 * a * size * 1e9).sqrt() - b) / (2.0 * a);
        let hidden = width.ceil() as u32;
        shape(
            size,
            [layers, hidden, 4 * hidden, VOCAB],
            Heads(heads, heads, hidden.div_ceil(heads)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters in billions, which a wrong number in a row would move.
    fn parameters(config: &ChatConfig) -> f64 {
        let [layers, hidden, inter, vocab] = [
            config.layers,
            config.hidden,
            config.intermediate,
            config.vocab,
        ]
        .map(f64::from);
        let query = f64::from(config.heads * config.head_dim);
        let keys = f64::from(config.kv_heads * config.head_dim);
        let layer = 2.0 * hidden * query + 2.0 * hidden * keys + 3.0 * hidden * inter;
        // Small models write with the table that they read with.
        let tables = if config.size < 5.0 { 1.0 } else { 2.0 };
        (layers * layer + tables * vocab * hidden) / 1e9
    }

    #[test]
    fn every_row_has_about_the_parameters_that_its_name_says() {
        for family in CHAT_MODELS {
            for config in family.sizes {
                let found = parameters(config);
                // Names round generously: `gemma-2` of 2 B has 2.6, Qwen's 7 B has 7.6.
                let ratio = found / config.size;
                assert!(
                    (0.8..1.32).contains(&ratio),
                    "{} {config:?}: {found}",
                    family.name
                );
                assert!(config.kv_heads <= config.heads && config.heads % config.kv_heads == 0);
            }
            assert!(
                family.sizes.is_sorted_by(|a, b| a.size < b.size),
                "{}",
                family.name
            );
        }
    }

    #[test]
    fn a_usual_model_has_the_parameters_that_were_asked_for() {
        for size in [0.5, 7.0, 13.0, 34.0, 70.0] {
            let found = parameters(&ChatConfig {
                // The rule counts two matrices of four times the width, as three of 8/3.
                intermediate: 0,
                ..ChatConfig::usual(size)
            });
            assert!(found < size, "{size}: {found}");
            let config = ChatConfig::usual(size);
            let [layers, hidden] = [config.layers, config.hidden].map(f64::from);
            let counted = 16.0 * layers * hidden * hidden + 64_000.0 * hidden;
            assert!(
                (counted / 1e9 / size - 1.0).abs() < 0.01,
                "{size}: {counted}"
            );
        }
    }
}
