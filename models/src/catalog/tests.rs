use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn compiled() -> Catalog {
    Catalog::compiled().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_file_parses_and_is_named_after_its_model() {
    let catalog = compiled();
    assert_eq!(catalog.entries().len(), files::ALL_ENTRIES.len());
    for (entry, (file, _)) in catalog.entries().iter().zip(files::ALL_ENTRIES) {
        assert_eq!(format!("{}.toml", entry.name), *file);
    }
    assert!(catalog.entries().len() > 90);
}

#[test]
fn a_name_or_a_hub_id_leads_to_one_model() {
    let catalog = compiled();
    let mut owners = BTreeMap::new();
    for entry in catalog.entries() {
        for name in entry.names().chain(entry.hub_ids()) {
            if let Some(other) = owners.insert(name.to_lowercase(), &entry.name) {
                panic!("`{name}` belongs to `{other}` and to `{}`", entry.name);
            }
        }
    }
}

/// What the people who asked for this service run today.
#[test]
fn the_models_that_were_asked_for_are_there() {
    let catalog = compiled();
    for (name, id) in [
        ("bge-m3", "BAAI/bge-m3"),
        (
            "jina-embeddings-v2-base-zh",
            "jinaai/jina-embeddings-v2-base-zh",
        ),
        ("jina-embeddings-v3", "jinaai/jina-embeddings-v3"),
        (
            "jina-reranker-v2",
            "jinaai/jina-reranker-v2-base-multilingual",
        ),
        ("bge-reranker-large", "BAAI/bge-reranker-large"),
        ("bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3"),
        (
            "bge-reranker-v2-minicpm-layerwise",
            "BAAI/bge-reranker-v2-minicpm-layerwise",
        ),
        ("mxbai-embed-large", "mixedbread-ai/mxbai-embed-large-v1"),
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        (
            "ms-marco-MiniLM-L-6-v2",
            "cross-encoder/ms-marco-MiniLM-L6-v2",
        ),
        ("potion-base-8M", "minishlab/potion-base-8M"),
    ] {
        assert_eq!(catalog.find(name).unwrap().huggingface.id, id);
        let upper = name.to_uppercase();
        assert_eq!(catalog.find(&upper).unwrap().huggingface.id, id);
        assert_eq!(catalog.find(id), catalog.find(name));
    }
}

#[test]
fn what_is_used_to_fetch_is_well_formed() {
    for entry in compiled().entries() {
        for id in entry.hub_ids() {
            assert_eq!(id.matches('/').count(), 1, "{id}");
        }
        // A branch would move under a name that is meant to stay what it was.
        if let Some(revision) = &entry.huggingface.revision {
            let is_hex = revision.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_hex && revision.len() == 40, "{}", entry.name);
        }
    }
}

#[test]
fn names_are_written_as_they_are_read() {
    for family in Family::ALL {
        let json = serde_json::to_value(family).unwrap();
        assert_eq!(json, family.name());
    }
    for task in Task::ALL {
        assert_eq!(serde_json::to_value(task).unwrap(), task.name());
    }
    for head in crate::heads::Head::ALL {
        assert_eq!(serde_json::to_value(head).unwrap(), head.name());
    }
    let entry = &compiled().entries[0];
    let text = toml::to_string(entry).unwrap();
    assert_eq!(
        &Entry::parse(Path::new("again.toml"), &text).unwrap(),
        entry
    );
}

#[test]
fn every_architecture_is_a_family_of_the_catalogue() {
    let families: BTreeSet<&str> = Family::ALL.iter().map(|family| family.name()).collect();
    for architecture in crate::architectures::ARCHITECTURES {
        assert!(
            families.contains(architecture.name),
            "{}",
            architecture.name
        );
    }
}

#[test]
fn an_unknown_name_suggests_what_is_near() {
    let catalog = compiled();
    let near = |name: &str| catalog.near(name).first().copied();
    assert_eq!(near("bge-m4"), Some("bge-m3"));
    assert_eq!(near("jina-embeding-v3"), Some("jina-embeddings-v3"));
    assert_eq!(near("BAAI/bge-reranker-v2-m4"), Some("bge-reranker-v2-m3"));
    assert_eq!(near("multilingual-e5-l"), Some("multilingual-e5-large"));
    assert_eq!(near("gpt2"), None);
    let error = catalog.find("bge-m4").unwrap_err().to_string();
    assert!(
        error.contains("`bge-m4`") && error.contains("did you mean `bge-m3`"),
        "{error}"
    );
    let error = catalog.find("gpt2").unwrap_err().to_string();
    assert_eq!(error, "the catalogue has no model `gpt2`");
}

const MINE: &str = r#"
name = "mine"
task = "embed"
family = "bert"
heads = ["dense"]
dimensions = 8
max_tokens = 16
languages = ["en"]

[huggingface]
id = "me/mine"
"#;

fn error_of(text: &str) -> String {
    Entry::parse(Path::new("mine.toml"), text)
        .expect_err("a malformed file")
        .to_string()
}

#[test]
fn a_malformed_file_is_an_error_that_names_file_and_key() {
    assert!(Entry::parse(Path::new("mine.toml"), MINE).is_ok());
    for (from, to, key) in [
        ("dimensions", "dimension", "dimension"),
        ("dimensions = 8", "dimensions = \"8\"", "dimensions"),
        ("dimensions = 8", "", "dimensions"),
        ("max_tokens = 16", "", "max_tokens"),
        ("max_tokens = 16", "max_tokens = 0", "max_tokens"),
        ("\"bert\"", "\"bart\"", "family"),
        ("[\"dense\"]", "[]", "heads"),
        ("[\"dense\"]", "[\"score\"]", "heads"),
        ("[\"dense\"]", "[\"dense\", \"dense\"]", "heads"),
        ("[\"en\"]", "[]", "languages"),
        ("\"embed\"", "\"rerank\"", "dimensions"),
        ("\"mine\"", "\"me/mine\"", "me/mine"),
        ("\"me/mine\"", "\"mine\"", "huggingface"),
        ("\"me/mine\"", "\"../mine\"", "huggingface"),
        (
            "dimensions = 8",
            "dimensions = 8\npooling = \"middle\"",
            "pooling",
        ),
        (
            "dimensions = 8",
            "dimensions = 8\nmatryoshka = [4, 8]",
            "matryoshka",
        ),
        (
            "dimensions = 8",
            "dimensions = 8\nmatryoshka = { min = 4, max = 16 }",
            "matryoshka",
        ),
        (
            "dimensions = 8",
            "dimensions = 8\nmatryoshka = { min = 0, max = 8 }",
            "matryoshka",
        ),
        (
            "dimensions = 8",
            "dimensions = 8\naliases = [\"Mine\"]",
            "aliases",
        ),
        ("id =", "revison = \"main\"\nid =", "revison"),
        ("id =", "revision = \"../x\"\nid =", "revision"),
    ] {
        assert!(MINE.contains(from), "{from}");
        let error = error_of(&MINE.replacen(from, to, 1));
        assert!(
            error.contains("`mine.toml`") && error.contains(key),
            "{from} -> {to}: {error}"
        );
    }
    let error = error_of(&format!("{MINE}[sha256]\n\"a.bin\" = \"12\""));
    assert!(
        error.contains("sha256") && error.contains("a.bin"),
        "{error}"
    );
}

#[test]
fn a_users_file_goes_before_a_compiled_one() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
    write("mine.toml", MINE);
    write("m3.toml", &MINE.replace("mine", "BGE-M3"));
    write("notes.txt", "not read");
    let aliased = MINE.replace("me/mine", "me/other");
    let aliased = aliased.replacen(
        "\"mine\"",
        "\"other\"\naliases = [\"bge-reranker-base\"]",
        1,
    );
    write("other.toml", &aliased);

    let before = compiled().entries().len();
    let catalog = compiled().with_folder(folder.path()).unwrap();
    assert_eq!(catalog.entries().len(), before + 2, "one replaces");
    assert_eq!(catalog.by_name("mine").unwrap().huggingface.id, "me/mine");
    assert_eq!(
        catalog.by_name("bge-m3").unwrap().huggingface.id,
        "me/BGE-M3"
    );
    assert_eq!(catalog.by_hub_id("BAAI/bge-m3"), None);
    assert_eq!(catalog.by_name("bge-reranker-base").unwrap().name, "other");
    let hub = catalog.by_hub_id("BAAI/bge-reranker-base").unwrap();
    assert_eq!(hub.name, "bge-reranker-base");
}

#[test]
fn a_users_folder_must_be_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let read = || {
        compiled()
            .with_folder(folder.path())
            .unwrap_err()
            .to_string()
    };
    std::fs::write(folder.path().join("a.toml"), MINE).unwrap();
    std::fs::write(folder.path().join("b.toml"), MINE).unwrap();
    let error = read();
    assert!(
        error.contains("b.toml") && error.contains("`mine`"),
        "{error}"
    );
    std::fs::write(folder.path().join("b.toml"), "name = ").unwrap();
    assert!(read().contains("b.toml"));
    let error = compiled()
        .with_folder(&folder.path().join("none"))
        .unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}

mod completing {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::matryoshka::Matryoshka;
    use crate::model::LoadOptions;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn only_what_the_files_do_not_say_is_filled_in() {
        let entry = Entry::parse(
            Path::new("mine.toml"),
            &MINE.replace("dimensions = 8", "dimensions = 8\npooling = \"cls\""),
        )
        .unwrap();
        let config = ("config.json", r#"{"model_type": "bert"}"#);
        let silent = folder(&[config]);
        let checkpoint = Checkpoint::open(silent.path()).unwrap();
        assert_eq!(
            entry.unsaid(&checkpoint),
            (Some(retort_kernels::Pooling::Cls), Some(16))
        );
        let telling = folder(&[
            config,
            ("1_Pooling/config.json", r#"{"pooling_mode": "mean"}"#),
            ("sentence_bert_config.json", r#"{"max_seq_length": 8}"#),
        ]);
        let checkpoint = Checkpoint::open(telling.path()).unwrap();
        assert_eq!(entry.unsaid(&checkpoint), (None, None));
    }

    #[test]
    fn an_entry_says_what_a_language_model_is_for() {
        let Some(runtime) = crate::given::tests::runtime() else {
            return;
        };
        let catalog = Catalog::compiled().unwrap();
        let entry = |name: &str| {
            let mut entries = catalog.entries.iter();
            entries.find(|entry| entry.answers_to(name)).unwrap()
        };
        let silent = folder(&[("config.json", "{}")]);
        let complete = |name: &str, dir: &Path| {
            let options = LoadOptions::new(runtime.clone());
            entry(name).complete(dir, options).unwrap()
        };
        let options = complete("Qwen3-Reranker-0.6B", silent.path());
        assert_eq!(
            (options.task, options.cutoff_layer),
            (Some(Task::Rerank), None)
        );
        let options = complete("bge-reranker-v2-minicpm-layerwise", silent.path());
        assert_eq!(options.cutoff_layer, Some(28));
        for (name, longest) in [
            ("Qwen3-Embedding-0.6B", 1024),
            ("Qwen3-Embedding-4B", 2560),
            ("Qwen3-Embedding-8B", 4096),
        ] {
            let options = complete(name, silent.path());
            assert_eq!(options.task, Some(Task::Embed));
            let lengths = options.matryoshka.unwrap();
            assert_eq!(
                lengths,
                Matryoshka::Range {
                    min: 32,
                    max: longest
                }
            );
        }
        // The operator's word goes first, and so does what config.json lists.
        let operator = LoadOptions {
            cutoff_layer: Some(12),
            ..LoadOptions::new(runtime.clone())
        };
        let layerwise = entry("bge-reranker-v2-minicpm-layerwise");
        let options = layerwise.complete(silent.path(), operator).unwrap();
        assert_eq!(options.cutoff_layer, Some(12));
        let listing = folder(&[("config.json", r#"{"matryoshka_dimensions": [64]}"#)]);
        assert_eq!(
            complete("Qwen3-Embedding-4B", listing.path()).matryoshka,
            None
        );
    }
}
