//! What a `[[model]]` table may say of a model.

use retort_models::DecoderWeights;

use super::*;

#[test]
fn a_model_may_be_told_its_task_and_its_layer() {
    let load = |settings: &str| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("retort.toml");
        let text = format!("[[model]]\nid = \"acme/judge\"\n{settings}\n");
        std::fs::write(&file, text).expect("a written file");
        let mut inputs = inputs();
        inputs.file = Some(file);
        load(&inputs)
    };
    let told = load("task = \"Rerank\"\ncutoff_layer = 28").unwrap_or_else(|e| panic!("{e}"));
    let [model] = &told.config.models[..] else {
        panic!("one model");
    };
    let task = Some(retort_models::Task::Rerank);
    assert_eq!((model.task, model.cutoff_layer), (task, Some(28)));
    let silent = load("").unwrap_or_else(|error| panic!("{error}"));
    let model = &silent.config.models[0];
    assert_eq!((model.task, model.cutoff_layer), (None, None));
    let error = error_of(load("task = \"classify\""));
    assert!(error.message.contains("`classify` of model `acme/judge`"));
    assert_eq!(
        error.hint.as_deref(),
        Some("known are `embed`, `rerank` and `generate`")
    );
    let told = load("task = \"generate\"").unwrap_or_else(|e| panic!("{e}"));
    let model = &told.config.models[0];
    assert_eq!((model.task, model.generates), (None, true));
    for (wrong, told) in [
        (
            "cutoff_layer = -1",
            "`cutoff_layer` = `-1` of model `acme/judge` is not within 0 to 1024",
        ),
        ("max_tokens = -1", "`max_tokens` = `-1`"),
    ] {
        let message = error_of(load(wrong)).message;
        assert!(message.contains(told), "{message}");
    }
}

#[test]
fn a_model_that_generates_is_kept_as_it_says_or_else_as_all_are() {
    let text = "[generation]\nweights = \"INT8\"\nkv_cache_mib = 64\n[[model]]\nid = \"a/b\"\n\
                [[model]]\nid = \"a/c\"\nweights = \"int4\"\nkv_cache_mib = 7";
    let loaded = with_file(text, inputs()).unwrap_or_else(|error| panic!("{error}"));
    let chosen = loaded.config.models.iter().map(|model| model.generation);
    let kept = |weights, mib: u64| Generation {
        weights,
        kv_cache_bytes: mib << 20,
    };
    let expected = [
        kept(DecoderWeights::Int8, 64),
        kept(DecoderWeights::Int4, 7),
    ];
    assert_eq!(chosen.collect::<Vec<_>>(), expected);
    assert_eq!(loaded.config.fleet.generation, expected[0]);
    let standard = load(&inputs()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(standard.config.fleet.generation, Generation::default());
    for (text, told) in [
        ("[generation]\nweights = \"int2\"", "`weights` = `int2`"),
        ("[generation]\nkv_cache_mib = 0", "`kv_cache_mib` = `0`"),
        (
            "[[model]]\nid = \"a/b\"\nkv_cache_mib = -1",
            "of model `a/b`",
        ),
    ] {
        let message = error_of(with_file(text, inputs())).message;
        assert!(message.contains(told), "{message}");
    }
}

#[test]
fn a_model_is_computed_in_what_it_says_or_else_in_what_all_are() {
    let text = "[models]\ndtype = \"bf16\"\n[[model]]\nid = \"a/b\"\n[[model]]\nid = \"a/c\"\n\
                dtype = \"int8\"\nforce_dtype = true";
    let loaded = with_file(text, inputs()).unwrap_or_else(|error| panic!("{error}"));
    let models = loaded.config.models.iter();
    let chosen: Vec<_> = models
        .map(|model| (model.dtype, model.force_dtype))
        .collect();
    let expected = [(DtypeChoice::Bf16, false), (DtypeChoice::Int8, true)];
    assert_eq!(chosen, expected);
    assert_eq!(loaded.config.fleet.dtype, DtypeChoice::Bf16);
    let loaded = load(&inputs()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.config.models[0].dtype, DtypeChoice::Auto);
    for text in [
        "[models]\ndtype = \"fp8\"",
        "[[model]]\nid = \"a/b\"\ndtype = \"fp8\"",
    ] {
        let error = error_of(with_file(text, inputs()));
        assert!(
            error.message.contains("`fp8`") && error.message.contains("`bf16`"),
            "{error}"
        );
    }
}

#[test]
fn a_model_runs_where_it_says_or_else_where_all_do() {
    let text = "[runtime]\ndevice = \"cuda:0,1\"\n[gpu]\nmemory_limit_mib = 2048\n\
                [[model]]\nid = \"a/b\"\n[[model]]\nid = \"a/c\"\ndevice = \"cpu\"";
    let config = with_file(text, inputs())
        .unwrap_or_else(|error| panic!("{error}"))
        .config;
    assert_eq!(config.device, DeviceChoice::Cuda(Gpus::These(vec![0, 1])));
    assert_eq!(config.gpu.memory_limit_bytes, Some(2 << 30));
    let chosen: Vec<_> = config.models.iter().map(|m| m.device.clone()).collect();
    assert_eq!(chosen, [None, Some(DeviceChoice::Cpu)]);
    let config = load(&inputs())
        .unwrap_or_else(|error| panic!("{error}"))
        .config;
    assert_eq!(config.device, DeviceChoice::Auto);
    assert_eq!(config.gpu.memory_limit_bytes, None);
    for text in [
        "[runtime]\ndevice = \"rocm\"",
        "[[model]]\nid = \"a/b\"\ndevice = \"rocm\"",
    ] {
        let error = error_of(with_file(text, inputs()));
        assert!(
            error.message.contains("`rocm`") && error.message.contains("`cuda:0,1`"),
            "{error}"
        );
    }
}

#[test]
fn servers_elsewhere_are_tables() {
    let load = |tables: &str| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("retort.toml");
        std::fs::write(&file, tables).expect("a written file");
        let mut inputs = inputs();
        inputs.file = Some(file);
        load(&inputs)
    };
    let told = load(
        "[[upstream]]\nurl = \"http://10.0.0.5:8000/v1/\"\nmodels = [\"a\", \"b\"]\n\
         api_key = \"k\"\n[[upstream]]\nurl = \"https://example.org/x\"\nmodels = [\"c\"]\n",
    );
    let told = told
        .unwrap_or_else(|error| panic!("{error}"))
        .config
        .upstreams;
    assert_eq!(
        (&told[0].url[..], told[0].models.len()),
        ("http://10.0.0.5:8000", 2)
    );
    assert_eq!(told[0].api_key.as_ref().map(Secret::expose), Some("k"));
    assert_eq!(
        (&told[1].url[..], told[1].api_key.is_none()),
        ("https://example.org/x", true)
    );
    assert!(load("").is_ok_and(|loaded| loaded.config.upstreams.is_empty()));
    for (wrong, sentence) in [
        (
            "[[upstream]]\nurl = \"ftp://x\"\nmodels = [\"a\"]",
            "`ftp://x`",
        ),
        ("[[upstream]]\nurl = \"http://x\"\nmodels = []", "`models`"),
        (
            "[[upstream]]\nurl = \"http://x\"\nmodels = [\"a\", \"a\"]",
            "`a`",
        ),
        ("[[upstream]]\nurl = \"http://x\"", "missing field `models`"),
        (
            "[[upstream]]\nurl = \"http://x\"\nmodel = [\"a\"]",
            "unknown field `model`",
        ),
        (
            "[[upstream]]\nurl = \"http://x\"\nmodels = [\"a\"]\napi_key = \"two words\"",
            "`api_key`",
        ),
        ("upstream = 5", "line 1"),
    ] {
        let error = error_of(load(wrong)).message;
        assert!(error.contains(sentence), "{wrong}: {error}");
    }
}
