use std::path::Path;

use serde_json::json;

use super::*;

const SETTINGS: RotarySettings = RotarySettings {
    theta: Theta {
        keys: &["rope_theta"],
        default: 10_000.0,
    },
    local_theta: None,
    fraction: Some("rotary_emb_fraction"),
    stretched_beyond: None,
};

fn read(values: Value) -> Result<Rotary> {
    let config = Config::new(Path::new("config.json"), values)?;
    Rotary::read(&SETTINGS, &config, 16, Reach::Full)
}

fn check(values: &Value, frequencies: [f32; 8], factor: f32) {
    let found = read(values.clone()).unwrap();
    assert!((found.factor - factor).abs() < 1e-6, "{values}: {found:?}");
    for (found, expected) in found.frequencies.iter().zip(frequencies) {
        let off = (found - expected).abs() / expected;
        assert!(off < 4e-7, "{values}: {found} is not {expected}");
    }
}

/// What `ROPE_INIT_FUNCTIONS` of transformers 5.23 give for heads of 16 values, and the formulas
/// of `NTKScalingRotaryEmbedding` in PyTorch.
#[test]
fn stretched_frequencies_are_those_of_the_reference() {
    let linear = [
        0.25,
        0.079_056_94,
        0.025,
        0.007_905_695,
        0.0025,
        0.000_790_569_5,
        0.000_25,
        7.905_695e-5,
    ];
    check(
        &json!({"rope_scaling": {"type": "linear", "factor": 4.0}}),
        linear,
        1.0,
    );
    let plain = linear.map(|frequency| frequency * 4.0);
    check(
        &json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
        plain,
        1.0,
    );
    let llama = json!({"rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    }});
    let expected = [
        1.0,
        0.316_227_77,
        0.1,
        0.018_496_677,
        0.00125,
        0.000_395_284_73,
        0.000_125,
        3.952_847_2e-5,
    ];
    check(&llama, expected, 1.0);
    let yarn = json!({"rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512,
    }});
    let expected = [
        1.0,
        0.256_935_06,
        0.0625,
        0.013_834_965,
        0.0025,
        0.000_790_569_5,
        0.000_25,
        7.905_695e-5,
    ];
    check(&yarn, expected, 1.138_629_4);
    let yarn = json!({"rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512,
        "beta_fast": 8.0, "beta_slow": 2.0, "mscale": 1.0, "mscale_all_dim": 0.5,
        "truncate": false,
    }});
    let expected = [
        1.0,
        0.316_227_77,
        0.1,
        0.012_241_319,
        0.0025,
        0.000_790_569_5,
        0.000_25,
        7.905_695e-5,
    ];
    check(&yarn, expected, 1.064_821_6);
    let ntk = json!({"rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": 8.0}});
    let expected = [
        0.771_105_4,
        0.172_424_4,
        0.038_555_27,
        0.008_621_22,
        0.001_927_763_5,
        0.000_431_061_02,
        9.638_818e-5,
        2.155_305_3e-5,
    ];
    check(&ntk, expected, 1.0);
    let mixed = json!({
        "rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": 8.0, "mixed_b": 0.9},
    });
    let expected = [
        0.726_140_6,
        0.159_597_74,
        0.035_578_165,
        0.008_001_287,
        0.001_810_889_6,
        0.000_411_879_82,
        9.405_92e-5,
        2.155_305_3e-5,
    ];
    check(&mixed, expected, 1.0);
}

#[test]
fn part_of_a_head_may_turn() {
    let half = read(json!({"rotary_emb_fraction": 0.5})).unwrap();
    assert_eq!(half.turned(), 8);
    let nested = json!({"rope_parameters": {
        "full_attention": {"rope_type": "default", "partial_rotary_factor": 0.25},
        "sliding_attention": {"rope_type": "default"},
    }});
    assert_eq!(read(nested).unwrap().turned(), 4);
}

#[test]
fn dynamic_stretching_only_limits_the_length() {
    let dynamic = json!({"rope_scaling": {
        "type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 2048,
    }});
    let found = read(dynamic).unwrap();
    assert_eq!(found.max_tokens, Some(2048));
    assert_eq!(found.frequencies, read(json!({})).unwrap().frequencies);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for parameters in [
        json!({"type": "su", "factor": 2.0}),
        json!({"type": 3}),
        json!({"type": "linear"}),
        json!({"type": "linear", "factor": 0}),
        json!({"type": "linear", "factor": "4"}),
        json!({"type": "yarn", "factor": 4.0}),
        json!({"type": "linear", "factor": 4.0, "surprise": 1}),
        json!({"type": "default", "rope_theta": -5.0}),
        json!({"type": "default", "partial_rotary_factor": 1.5}),
        json!("linear"),
    ] {
        let found = read(json!({"rope_scaling": parameters.clone()}));
        assert!(found.is_err(), "{parameters}: {found:?}");
    }
}
