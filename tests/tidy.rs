//! The rules of the house as tests: layering, sizes, leftovers. A rule nobody runs is a wish.

use std::{
    fs,
    path::{Path, PathBuf},
};

const MAX_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_COLUMNS: usize = 100;
const MAX_ARGUMENTS: usize = 5;

struct Source {
    path: String,
    /// The file without its `mod tests { … }`, which by custom is at the end.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["service", "models", "kernels", "benches", "tests"] {
        collect(&root.join(folder), &mut files);
    }
    assert!(
        files.len() > 40,
        "the walk found only {} files",
        files.len()
    );
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let code = text
            .split("\n#[cfg(test)]\nmod tests {")
            .next()
            .unwrap()
            .to_owned();
        let path = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/");
        Source { path, code }
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

fn check(rule: &str, broken: impl Fn(&Source) -> Vec<String>) {
    let found: Vec<String> = sources()
        .iter()
        .flat_map(|s| {
            broken(s)
                .into_iter()
                .map(|what| format!("{}: {what}", s.path))
        })
        .collect();
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// Tests may be long tables, and may be told by the environment to rewrite their goldens.
fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("tests.rs")
}

/// Which modules of `service/` a module may name, besides itself, `error` and `telemetry`.
const LAYERS: &[(&str, &[&str])] = &[
    ("service/api/", &["engine", "config", "fleet"]),
    ("service/fleet", &["engine", "config", "provision"]),
    ("service/engine/", &[]),
    ("service/provision/", &[]),
    ("service/config", &["provision"]),
    ("service/telemetry", &[]),
    ("service/error", &[]),
];

#[test]
fn imports_go_one_way() {
    const MODULES: [&str; 7] = [
        "api",
        "cli",
        "config",
        "engine",
        "fleet",
        "provision",
        "serve",
    ];
    check("a module imports what stands above it", |source| {
        let Some((own, allowed)) = LAYERS.iter().find(|(own, _)| source.path.starts_with(own))
        else {
            return Vec::new();
        };
        let own = own.trim_start_matches("service/").trim_end_matches('/');
        MODULES
            .into_iter()
            .filter(|m| *m != own && !allowed.contains(m))
            .filter(|m| {
                let direct = format!("crate::{m}");
                let grouped = format!("    {m}::");
                source.code.contains(&direct)
                    || source.code.contains("use crate::{\n") && source.code.contains(&grouped)
            })
            .map(|m| format!("imports `{m}`"))
            .collect()
    });
}

#[test]
fn encode_does_not_know_its_siblings_and_models_knows_no_http() {
    check("a lower layer knows a higher one's business", |source| {
        let forbidden: &[&str] = if source.path.starts_with("models/src") {
            &["tokio", "axum", "http::", "hyper"]
        } else if source.path.starts_with("kernels/src") {
            &["tokio", "axum", "serde", "retort_models"]
        } else if source.path.starts_with("service/engine") {
            &["axum", "serde_json", "StatusCode"]
        } else {
            &[]
        };
        let uses = |word: &&&str| {
            source
                .code
                .lines()
                .any(|l| !l.trim_start().starts_with("//") && l.contains(**word))
        };
        forbidden
            .iter()
            .filter(uses)
            .map(|word| format!("names `{word}`"))
            .collect()
    });
}

#[test]
fn status_codes_and_the_environment_have_one_home() {
    check("something is done outside its one place", |source| {
        let mut broken = Vec::new();
        let service = source.path.starts_with("service/") && !is_test(&source.path);
        if service && !source.path.starts_with("service/config") {
            for word in ["env::var(", "env::vars(", "env::var_os("] {
                if source.code.contains(word) {
                    broken.push(format!("reads the environment with `{word}…)`"));
                }
            }
        }
        if has_unsafe(&source.code)
            && !source.path.starts_with("kernels/")
            && !source.path.starts_with("models/src/")
            // Before there are threads, and nowhere later, the environment may be changed.
            && source.path != "service/main.rs"
        {
            broken.push("has `unsafe` code".into());
        }
        broken
    });
}

/// Whether there is an `unsafe` block outside strings and comments, as rustfmt lays them out.
fn has_unsafe(code: &str) -> bool {
    code.lines().any(opens_unsafe)
}

fn opens_unsafe(line: &str) -> bool {
    let line = line.trim_start();
    let code = line.split("//").next().unwrap_or(line);
    (code.contains("unsafe {") || code.starts_with("unsafe impl")) && !code.contains('"')
}

#[test]
fn unsafe_code_says_why_it_is_sound() {
    check(
        "an `unsafe` block without a `SAFETY:` comment above it",
        |source| {
            let lines: Vec<&str> = source.code.lines().collect();
            let explained = |at: usize| {
                lines[at.saturating_sub(8)..=at]
                    .iter()
                    .any(|l| l.contains("SAFETY"))
            };
            (0..lines.len())
                .filter(|&at| opens_unsafe(lines[at]) && !explained(at))
                .map(|at| format!("line {}", at + 1))
                .collect()
        },
    );
}

#[test]
fn files_functions_and_lines_stay_small() {
    check("something has grown too large", |source| {
        let mut broken = Vec::new();
        let lines = source.code.lines().count();
        if lines > MAX_LINES {
            broken.push(format!(
                "{lines} lines without tests, {MAX_LINES} is the limit"
            ));
        }
        broken.extend(
            source
                .code
                .lines()
                .enumerate()
                .filter(|(_, line)| line.chars().count() > MAX_COLUMNS)
                .map(|(at, _)| format!("line {} is over {MAX_COLUMNS} columns", at + 1)),
        );
        if !is_test(&source.path) {
            broken.extend(long_functions(&source.code));
        }
        broken
    });
}

/// Functions over the limits, judged by rustfmt's layout: a function ends at the first `}` that
/// stands in the column where its first line starts.
fn long_functions(code: &str) -> Vec<String> {
    let lines: Vec<&str> = code.lines().collect();
    let mut broken = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        let is_function = [
            "fn ",
            "pub fn ",
            "async fn ",
            "pub async fn ",
            "pub(crate) fn ",
        ]
        .iter()
        .any(|start| text.starts_with(start));
        if !is_function {
            continue;
        }
        let indent = &line[..line.len() - text.len()];
        let end = format!("{indent}}}");
        let body = lines[at..].iter().position(|l| **l == end).unwrap_or(0);
        let name = text.split('(').next().unwrap_or(text);
        if body > MAX_FUNCTION_LINES {
            broken.push(format!(
                "`{name}` has {body} lines, {MAX_FUNCTION_LINES} is the limit"
            ));
        }
        // rustfmt puts each argument on a line of its own once they do not fit on one.
        let header: Vec<&&str> = lines[at + 1..]
            .iter()
            .take_while(|l| !l.trim_start().starts_with(')'))
            .collect();
        if text.ends_with('(') && header.len() > MAX_ARGUMENTS {
            broken.push(format!("`{name}` takes {} arguments", header.len()));
        }
    }
    broken
}

#[test]
fn nothing_is_left_over() {
    // Spelled in two halves so that this list does not find itself.
    let leftovers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("db", "g!("),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ign", "ore"),
        concat!("thread::sl", "eep"),
    ];
    check("a leftover", |source| {
        // Backing off between attempts, and watching a child process: the only waits by the clock.
        let waits = ["provision/download", "provision/pip", "cli/doctor/runtime"]
            .iter()
            .any(|file| source.path.contains(file));
        leftovers
            .iter()
            .filter(|word| source.code.contains(**word) && !(waits && word.contains("sleep")))
            .map(|word| format!("contains `{word}`"))
            .collect()
    });
}

#[test]
fn every_module_says_what_it_is_for() {
    check("a file without a `//!` header", |source| {
        let documented = source.code.starts_with("//!") || is_test(&source.path);
        if documented {
            Vec::new()
        } else {
            vec!["starts without one".into()]
        }
    });
}
