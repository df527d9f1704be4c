//! What an environment means.

use std::{collections::HashMap, path::PathBuf};

use super::super::{ModelSource, Network, ProvisionConfig, ProvisionError, Secret};

fn from(env: &[(&str, &str)]) -> Result<ProvisionConfig, ProvisionError> {
    let env: HashMap<_, _> = [("HOME", "/home/user")]
        .iter()
        .chain(env)
        .copied()
        .collect();
    ProvisionConfig::from_env(|name| env.get(name).map(|value| (*value).to_owned()))
}

#[test]
fn defaults_are_those_of_the_hubs_own_tools() {
    let config = from(&[("HF_TOKEN", "")]).unwrap();
    assert_eq!(config.hugging_face.endpoint, "https://huggingface.co");
    let hub = PathBuf::from("/home/user/.cache/huggingface/hub");
    assert_eq!(config.hugging_face.cache_dir, hub);
    assert!(config.hugging_face.token.is_none());
    let stored = PathBuf::from("/home/user/.cache/huggingface/token");
    assert_eq!(config.hugging_face.token_file, Some(stored));
    assert_eq!(config.cache_dir, PathBuf::from("/home/user/.cache/retort"));
    assert_eq!(config.network, Network::Allowed);
    assert_eq!(config.model_sources, ModelSource::ALL);
    assert_eq!(config.pip[0], ["python3", "-m", "pip"]);
}

#[test]
fn the_hubs_variables_are_honoured() {
    let config = from(&[
        ("HF_ENDPOINT", "http://mirror.example/"),
        ("HF_HOME", "/data/hf"),
        ("HF_TOKEN", " hf_secret\n"),
        ("ORT_DYLIB_PATH", "/opt/libonnxruntime.so"),
        ("RETORT_CACHE_DIR", "/data/retort"),
        ("MODELSCOPE_DOMAIN", "scope.example"),
    ])
    .unwrap();
    assert_eq!(config.hugging_face.endpoint, "http://mirror.example");
    assert_eq!(config.hugging_face.cache_dir, PathBuf::from("/data/hf/hub"));
    assert_eq!(config.hugging_face.token, Some(Secret::new("hf_secret")));
    assert_eq!(
        config.runtime_path,
        Some(PathBuf::from("/opt/libonnxruntime.so"))
    );
    assert_eq!(config.cache_dir, PathBuf::from("/data/retort"));
    assert_eq!(config.modelscope.endpoint, "https://scope.example");
    let own = from(&[("HF_HOME", "/data/hf"), ("HF_HUB_CACHE", "/data/models")]).unwrap();
    assert_eq!(own.hugging_face.cache_dir, PathBuf::from("/data/models"));
    let implicit = [
        ("HF_TOKEN", "hf_secret"),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
    ];
    let hugging_face = from(&implicit).unwrap().hugging_face;
    assert_eq!((hugging_face.token, hugging_face.token_file), (None, None));
}

#[test]
fn offline_variables_forbid_the_network_and_are_named() {
    for (name, value) in [
        ("HF_HUB_OFFLINE", "1"),
        ("HF_HUB_OFFLINE", "yes"),
        ("RETORT_OFFLINE", "true"),
    ] {
        let by = format!("{name}={value}");
        assert_eq!(
            from(&[(name, value)]).unwrap().network,
            Network::Forbidden { by }
        );
    }
    assert_eq!(
        from(&[("HF_HUB_OFFLINE", "0")]).unwrap().network,
        Network::Allowed
    );
}

#[test]
fn one_source_goes_first_and_a_list_is_exact() {
    use ModelSource::{HuggingFace, ModelScope, PyPi};
    let sources = |env: &[(&str, &str)]| from(env).unwrap().model_sources;
    let first = [ModelScope, HuggingFace, PyPi];
    assert_eq!(sources(&[("RETORT_MODEL_SRC", "modelscope")]), first);
    assert_eq!(sources(&[("XINFERENCE_MODEL_SRC", "modelscope")]), first);
    let both = [
        ("RETORT_MODEL_SRC", "pypi, hf"),
        ("XINFERENCE_MODEL_SRC", "modelscope"),
    ];
    assert_eq!(sources(&both), [PyPi, HuggingFace]);
    let error = from(&[("RETORT_MODEL_SRC", "nowhere")]).unwrap_err();
    assert_eq!(error.to_string(), "there is no model source `nowhere`");
}

#[test]
fn a_secret_is_never_shown() {
    let config = from(&[("HF_TOKEN", "hf_secret")]).unwrap();
    let shown = format!("{config:?} {}", config.hugging_face.token.as_ref().unwrap());
    assert!(!shown.contains("hf_secret"), "{shown}");
    assert!(shown.contains("***"));
}
